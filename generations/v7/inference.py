"""CryptoPricePredictorV7: reloads one network that generations/v7/train_v7_main.py saves.

    from generations.v7.inference import CryptoPricePredictorV7
    predictor = CryptoPricePredictorV7.from_directory(
        "all_models/v7", symbol="BTC/USDT", timeframe="1h"
    )
    candle = predictor.predict(df)
    candle["open"], candle["high"], candle["low"], candle["close"]

Importing this module loads no TensorFlow, scikit-learn, XGBoost, arch or ccxt; opening a model
loads Keras.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from generations.v7 import networks
from generations.v7.features import (
    V7_FEATURES,
    V7_VOLUME_FEATURES,
    V7_WARMUP,
    compute_ohlc_features,
)
from generations.v7.ohlc import HEADS, close_log_return, scale_and_fill, to_prices
from pipeline.bundle.files import PARTIAL
from pipeline.bundle.scaler_check import MAX_SIZE, SCALER_TYPES
from pipeline.bundle.scalers import MinMaxRecord
from pipeline.bundle.snapshot import Snapshot, read_snapshot
from pipeline.forecasts.prediction import Instrument, Prediction
from pipeline.forecasts.predictor import CandlePredictor
from pipeline.samples.probe import Probe, probe
from pipeline.samples.windows import Stream


class CandlePrediction(Prediction):
    """What `predict` returns: the four prices of the forecast candle as well."""

    open: float
    high: float
    low: float
    close: float


class CryptoPricePredictorV7(CandlePredictor):
    """Forecasts the next candle of one pair and timeframe; see `CandlePredictor` for the verbs.

    `predict` returns what v2's does and the candle's `open`, `high`, `low` and `close` in quote
    currency; `price` is the close. They are what the network says, not shrunk, and always make a
    possible candle. `predict_history` has the four prices too. The interval is that of the close's
    errors on the validation part.

    Args:
        model_path: Such as `BTCUSDT_1h_v7.h5`.
        scaler_path: `BTCUSDT_1h_v7_scalers.pkl` of the same network.
    """

    known_features = V7_FEATURES
    optional_inputs = frozenset(V7_VOLUME_FEATURES)
    warmup = V7_WARMUP
    scaler_types: ClassVar[Mapping[str, type]] = {
        **SCALER_TYPES,
        "X": MinMaxRecord,
        "y": MinMaxRecord,
        "fill": list,
        "record": dict,
    }
    history_columns = (*CandlePredictor.history_columns, *HEADS)
    prices = frozenset(HEADS)

    @classmethod
    def from_directory(
        cls,
        directory: str | Path,
        *,
        symbol: str = "BTC/USDT",
        timeframe: str = "1h",
        **options: Any,
    ) -> CryptoPricePredictorV7:
        """Open one of the networks in a training run's output folder.

        Args:
            directory: Output folder of generations/v7/train_v7_main.py.
            symbol: Pair the network was trained on.
            timeframe: Length of a candle it was trained on.
            options: As for the class itself.

        Raises:
            FileNotFoundError: There is no such network; what there is, is named.
        """
        folder = Path(directory)
        name = networks.network_name(symbol, timeframe)
        model, scalers = (folder / file for file in networks.network_files(name))
        try:
            return cls(model, scalers, **options)
        except FileNotFoundError as error:
            if model.exists():
                raise
            at_hand = ", ".join(networks.networks_in(folder)) or "none at all"
            raise FileNotFoundError(
                f"{model}: there is no network of {symbol} and {timeframe}; {folder} holds "
                f"{at_hand}; train it with --symbols {symbol} --timeframes {timeframe}"
            ) from error

    @classmethod
    def from_pretrained(
        cls,
        repo: str,
        revision: str | None = None,
        *,
        symbol: str = "BTC/USDT",
        timeframe: str = "1h",
        is_dataset: bool = True,
        folder: str = "models_v7",
        cache_dir: str | Path | None = None,
        **options: Any,
    ) -> CryptoPricePredictorV7:
        """Open one network on the Hub, by default of `models_v7` in a dataset repository.

        The arguments are those of `from_directory` and of `CandlePredictor.from_pretrained`.
        """
        from pipeline.bundle import hub_transfer  # lazy: few need the Hub

        place = hub_transfer.Place(repo, is_dataset, folder)
        names = networks.network_files(networks.network_name(symbol, timeframe))
        directory = hub_transfer.download(
            place, networks.METADATA, names, revision=revision, cache_dir=cache_dir
        )
        return cls(*(directory / name for name in names), **options)

    def _read(self, model_path: Path, scaler_path: Path) -> Snapshot:
        name = model_path.name.removesuffix(networks.MODEL_SUFFIX)
        return read_snapshot(model_path, scaler_path, aside=model_path.parent / PARTIAL / name)

    def _open(self, bundle: Snapshot) -> dict[str, Any]:
        scalers = super()._open(bundle)
        self._fill: list[float] = scalers["fill"]
        self.symbol = scalers["symbols"][0]
        n_inputs = len(scalers["feature_cols"])
        is_sound = (
            len(scalers["symbols"]) == 1
            and len(self._fill) == n_inputs
            and all(type(value) is float and abs(value) <= MAX_SIZE for value in self._fill)
        )
        if not is_sound:
            raise ValueError(
                f"{bundle.scaler_path}: its scalers are not those of one pair's {n_inputs} "
                "inputs; train the pair again"
            )
        return scalers

    def _probe(self) -> Probe:
        return probe(compute_ohlc_features)

    def _features(self, candles: pd.DataFrame) -> pd.DataFrame:
        return compute_ohlc_features(candles, self.timeframe)[self.feature_cols]

    def _scale(self, features: pd.DataFrame) -> np.ndarray:
        return scale_and_fill(features.to_numpy(np.float32), self._x_scaler, self._fill)

    def _to_log_return(
        self, output: np.ndarray, base_price: np.ndarray, volatility: np.ndarray
    ) -> np.ndarray:
        return close_log_return(output, base_price, self._y_scaler)

    def _forecast(
        self,
        rows: np.ndarray,
        end: np.ndarray,
        base_price: np.ndarray,
        volatility: np.ndarray,
        inputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        output = self._network.run_streams([Stream(rows, end, self.lookback)])
        # The floor of the prices would make a number of minus infinity.
        output = np.where(np.isfinite(output), output, np.float32(np.nan))
        log_return = self._to_log_return(output, base_price, volatility)
        served = self._serve(log_return[:, None], volatility, inputs)
        return served | dict(zip(HEADS, to_prices(output, self._y_scaler).T))

    def _as_prediction(
        self,
        candles: pd.DataFrame,
        price: float,
        forecast: dict[str, float],
        instrument: Instrument,
    ) -> CandlePrediction:
        return {
            **super()._as_prediction(candles, price, forecast, instrument),
            "open": forecast["open"],
            "high": forecast["high"],
            "low": forecast["low"],
            "close": forecast["close"],
            "price": forecast["close"],
        }
