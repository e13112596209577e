"""A bundle of train_v2_production.py, as a model that judge.py walks.

    python judge.py --candles-dir DIR --model integrations.ours:Bundle

It forecasts what `predict_history` does. A bundle of the pooled preset looks at other coins, too,
which a walk does not give it: judge that one's predictions_v2.parquet, or what
`python inference_v2.py evaluate --predictions FILE` writes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from config import default_output_dir
from inference_v2 import CryptoPricePredictorV2

COLUMNS = ("p_up", "q10", "q50", "q90")


class Bundle:
    """The bundle in a folder: that which CRYPTO_BUNDLE names, or the last run's."""

    def __init__(self, folder: str | Path | None = None) -> None:
        folder = folder or os.environ.get("CRYPTO_BUNDLE") or default_output_dir("v2")
        self.predictor = CryptoPricePredictorV2.from_directory(folder)

    def predict(self, candles: pd.DataFrame) -> pd.DataFrame:
        """A row for every candle that can be forecast from."""
        said = self.predictor.predict_history(candles)
        renamed = said.rename(columns={"predicted_return": "forecast_return"})
        return renamed[["timestamp", "forecast_return", *COLUMNS]]
