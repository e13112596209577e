"""CryptoPricePredictorV7: reloads what generations/v7/train_v7_main.py saves, a network per coin
and timeframe.

    from generations.v7.inference import CryptoPricePredictorV7
    predictor = CryptoPricePredictorV7.from_directory("all_models/v7", symbol="BTC/USDT",
    timeframe="1h") candle = predictor.predict(df)
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

from generations.v7.features import V7_FEATURES, V7_WARMUP, compute_ohlc_features
from generations.v7.network_files import finish_job
from generations.v7.ohlc import CLOSE, HEADS, scale_and_fill, to_prices
from pipeline.bundle.files import PARTIAL
from pipeline.bundle.scaler_check import SCALER_TYPES, open_scalers
from pipeline.bundle.scalers import MinMaxRecord
from pipeline.candles import store
from pipeline.candles.schema import TIMEFRAME_MS
from pipeline.forecasts.picture import Prediction
from pipeline.forecasts.predictor import CandlePredictor
from pipeline.samples.windows import Stream

METADATA = "metadata_v7.json"
METRICS = "metrics_v7.json"
LOG = "training_log_v7.txt"
PREDICTIONS, REPORT = "predictions_v7_{}.parquet", "report_v7_{}.html"
"""A file for each timeframe."""

RUN_FILES = (
    METRICS,
    LOG,
    *(name.format(timeframe) for name in (PREDICTIONS, REPORT) for timeframe in TIMEFRAME_MS),
)
"""All that a run may leave beside the networks and its metadata."""

MODEL_SUFFIX, SCALER_SUFFIX = "_v7.h5", "_v7_scalers.pkl"


def job_name(symbol: str, timeframe: str) -> str:
    """What the files of a network are called by.

    Example:
        >>> job_name("BTC/USDT", "1h")
        'BTCUSDT_1h'
    """
    return store.file_name(symbol, timeframe, "")


def job_files(name: str) -> tuple[str, str]:
    """The two files of a network; the scaler file makes it complete."""
    return name + MODEL_SUFFIX, name + SCALER_SUFFIX


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
    warmup = V7_WARMUP
    scaler_types: ClassVar[Mapping[str, type]] = {
        **SCALER_TYPES,
        "X": MinMaxRecord,
        "y": MinMaxRecord,
        "fill": list,
        "record": dict,
    }
    history_columns = (*CandlePredictor.history_columns, *HEADS)

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
        folder, name = Path(directory), job_name(symbol, timeframe)
        finish_job(folder / PARTIAL / name, folder, job_files(name))
        model, scalers = (folder / file for file in job_files(name))
        if not model.is_file():
            at_hand = sorted(
                path.name.removesuffix(MODEL_SUFFIX) for path in folder.glob(f"*{MODEL_SUFFIX}")
            )
            raise FileNotFoundError(
                f"{model}: there is no network of {symbol} and {timeframe}; {folder} holds "
                f"{', '.join(at_hand) or 'none at all'}; train it with --symbols {symbol} "
                f"--timeframes {timeframe}"
            )
        return cls(model, scalers, **options)

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
        """Open one network of a folder on the Hub, by default `models_v7` of a dataset; see
        `CandlePredictor`."""
        from pipeline.bundle import hub_transfer  # lazy: few need the Hub

        place, names = (
            hub_transfer.Place(repo, is_dataset, folder),
            job_files(job_name(symbol, timeframe)),
        )
        directory = hub_transfer.download(
            place, METADATA, names, revision=revision, cache_dir=cache_dir
        )
        return cls(*(directory / name for name in names), **options)

    @property
    def symbol(self) -> str:
        """The pair whose prices the network knows."""
        return self.symbols[0]

    def _open(self, model_path: Path, scaler_path: Path) -> dict[str, Any]:
        scalers = open_scalers(model_path, scaler_path, None, self.scaler_types)
        fill = scalers["fill"]
        is_whole = len(scalers["symbols"]) == 1 and len(fill) == scalers["X"].min.size == len(
            V7_FEATURES
        )
        if not (
            is_whole
            and scalers["y"].min.size == 1
            and all(type(v) is float and np.isfinite(v) for v in fill)
        ):
            raise ValueError(
                f"{scaler_path}: its scalers are not those of one pair's 13 inputs; train the pair "
                "again"
            )
        self._fill: list[float] = fill
        return scalers

    def _features(self, candles: pd.DataFrame) -> pd.DataFrame:
        return compute_ohlc_features(candles, self.timeframe)[self.feature_cols]

    def _scaled_rows(self, candles: pd.DataFrame) -> np.ndarray:
        return scale_and_fill(
            self._features(candles).to_numpy(np.float32), self._x_scaler, self._fill
        )

    def _to_log_return(
        self, output: np.ndarray, base_price: np.ndarray, volatility: np.ndarray
    ) -> np.ndarray:
        return np.log(to_prices(output, self._y_scaler)[:, CLOSE] / base_price)

    def _forecast(
        self,
        rows: np.ndarray,
        end: np.ndarray,
        base_price: np.ndarray,
        volatility: np.ndarray,
        inputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        output = self._network.run_streams([Stream(rows, end, self.lookback)])
        served = self._serve(
            self._to_log_return(output, base_price, volatility)[:, None], volatility, inputs
        )
        return served | dict(zip(HEADS, to_prices(output, self._y_scaler).T))

    def _as_prediction(
        self, candles: pd.DataFrame, price: float, forecast: dict[str, float]
    ) -> CandlePrediction:
        return {
            **super()._as_prediction(candles, price, forecast),
            "open": forecast["open"],
            "high": forecast["high"],
            "low": forecast["low"],
            "close": forecast["close"],
            "price": forecast["close"],
        }
