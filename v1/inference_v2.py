"""The v2 guide writes `from v1.inference_v2 import CryptoPricePredictorV2`."""

from inference_v2 import CryptoPricePredictorV2

__all__ = ["CryptoPricePredictorV2"]
