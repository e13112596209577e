"""CryptoPricePredictorV2: reloads what train_v2_production.py saves; and the command `python inference_v2.py`.

    from inference_v2 import CryptoPricePredictorV2
    predictor = CryptoPricePredictorV2(model_path="crypto_v2_final_model.h5", scaler_path="scalers_v2.pkl")
    predictor.predict(df)["price"]

Importing this module loads no TensorFlow, scikit-learn, XGBoost, arch or ccxt; opening a model loads Keras.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from config import ConfigV2, default_output_dir
from feature_engineering import V2_FEATURES, V2_OPTIONAL_FEATURES, V2_WARMUP, compute_features
from pipeline import progress, store
from pipeline.calibration import Calibration, apply_calibration
from pipeline.candles import timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.indicators import VOLATILITY_SPAN
from pipeline.intervals import QUANTILE_NAMES, IntervalModel, apply_intervals, scale_inputs
from pipeline.predictor import as_price, format_price, judge, open_scalers, plot_forecast, read_closed, read_recent
from pipeline.runtime import KerasNetwork
from pipeline.scaling import scale_rows, to_log_return
from pipeline.windows import segmented_volatility, usable_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("inference_v2")  # __name__ is __main__ where this is the command

PUBLICATION_S = 2.0
"""From a candle's close until exchanges serve it."""
RETRY_S = 10.0

MODEL_FILE = "crypto_v2_final_model.h5"
CHECKPOINT_FILE = "best_v2_model.h5"
SCALER_FILE = "scalers_v2.pkl"
METRICS_FILE = "metrics_v2.json"
PREDICTIONS_FILE = "predictions_v2.parquet"
REPORT_FILE = "report_v2.html"
LOG_FILE = "training_log_v2.txt"
METADATA_FILE = "metadata_v2.json"
BUNDLE_FILES = (MODEL_FILE, CHECKPOINT_FILE, SCALER_FILE, METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE, LOG_FILE)


class CryptoPricePredictorV2:
    """Forecasts the close `horizon` candles ahead from recent candles of one pair."""

    def __init__(self, model_path: str | Path, scaler_path: str | Path) -> None:
        """Open a trained model.

        Args:
            model_path: `crypto_v2_final_model.h5` (or `best_v2_model.h5`).
            scaler_path: `scalers_v2.pkl` of the same training run.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, holds anything but the admitted types, or belongs to another run.
        """
        model_path, scaler_path = Path(model_path), Path(scaler_path)
        scalers = open_scalers(model_path, scaler_path, METADATA_FILE, BUNDLE_FILES)
        self.feature_cols: list[str] = scalers["feature_cols"]
        self.lookback: int = scalers["lookback"]
        self.horizon: int = scalers["horizon"]
        self.timeframe: str = scalers["timeframe"]
        self.symbols: list[str] = scalers["symbols"]
        self.is_synthetic: bool = scalers["synthetic"]
        unknown = [name for name in self.feature_cols if name not in V2_FEATURES]
        if unknown:
            raise ValueError(f"{scaler_path}: unknown feature {unknown[0]!r}; it was written by another version")
        self._x_scaler, self._y_scaler = scalers["X"], scalers["y"]
        self._calibration = Calibration.from_dict(scalers["calibration"])
        self._intervals = IntervalModel.from_dict(scalers["intervals"])
        self._step_ms = timeframe_ms(self.timeframe)
        self._network = KerasNetwork(model_path, input_shape=(self.lookback, len(self.feature_cols)))

    @classmethod
    def from_directory(cls, directory: str | Path) -> CryptoPricePredictorV2:
        """Open the bundle in a training run's output folder."""
        return cls(Path(directory) / MODEL_FILE, Path(directory) / SCALER_FILE)

    @property
    def required_candles(self) -> int:
        """Candles from which on a forecast no longer depends on where the history starts."""
        return self.lookback + V2_WARMUP

    @property
    def _needed(self) -> int:
        """Candles in a row without which there is no forecast: the window, and the volatility's first value."""
        return max(self.lookback, VOLATILITY_SPAN + 1)

    def predict(self, df: pd.DataFrame, last_price: float | None = None) -> dict[str, Any]:
        """Forecast from the last candle of `df`.

        Args:
            df: Recent closed candles of one pair, at least `lookback`, better `required_candles`: timestamp (open),
                open, high, low, close, volume; funding_rate and open_interest if the model uses them.
            last_price: Price the forecast starts from, in quote currency; the last close by default.

        Returns:
            `price` (forecast close), `return` (log-return), `return_percent` (100 * (e^return - 1)), `price_change`,
            `last_price`, `confidence` (calibrated probability that the direction is right), `p_up`, `price_low` and
            `price_high` (80 % interval), `timestamp` (open of the forecast candle, UTC).

        Raises:
            ValueError: Too few candles, a gap among the last `lookback`, unsound candles, a price that is not positive.
        """
        return self._predict([df], [last_price])[0]

    def predict_batch(
        self, dfs: Sequence[pd.DataFrame], last_prices: Sequence[float | None] | None = None
    ) -> list[dict[str, Any]]:
        """Forecast from the last candle of each frame; the same dicts as `predict`, in the same order.

        Args:
            dfs: Frames of candles, of one or of several pairs.
            last_prices: A price for each frame; None for the last close.
        """
        if last_prices is not None and not isinstance(last_prices, (Sequence, np.ndarray, pd.Series)):
            raise ValueError(
                f"last_prices is {last_prices!r}; pass a list with a price for each frame, or leave it out"
            )
        prices = [None] * len(dfs) if last_prices is None else list(last_prices)
        if len(prices) != len(dfs):
            raise ValueError(f"{len(dfs)} frames of candles but {len(prices)} last prices; pass one for each, or none")
        return self._predict(dfs, prices) if len(dfs) else []

    def predict_history(self, df: pd.DataFrame) -> pd.DataFrame:
        """Forecast from every candle of `df` that can be: what `predict(df.iloc[:t + 1])` gives, bit for bit.

        Returns:
            One row per candle t whose last `lookback` candles hold no gap: `timestamp` (open of t, UTC),
            `predicted_return`, `q05`, `q10`, `q25`, `q50`, `q75`, `q90`, `q95` (log-returns over the horizon), `p_up`.
        """
        candles = read_closed(df, self.timeframe)
        t = np.flatnonzero(usable_rows(timestamps_ms(candles), self._step_ms, self._needed, warmup=0))
        if len(t) == 0:
            raise ValueError(
                f"none of {len(candles)} candles can be forecast from: it takes {self._needed} in a row without a gap"
            )
        forecast = self._forecast(self._scaled_rows(candles), t, self._volatility(candles)[t], self._inputs(candles)[t])
        columns = {"timestamp": candles["timestamp"].iloc[t].array}
        return pd.DataFrame(columns | {name: forecast[name] for name in ("predicted_return", *QUANTILE_NAMES, "p_up")})

    def fetch_live(self, symbol: str, *, exchange: str | None = None, base_url: str | None = None) -> pd.DataFrame:
        """Fetch the newest closed candles of a pair, as many as a forecast wants, with all the columns it uses.

        Args:
            symbol: Such as "BTC/USDT".
            exchange: ccxt id; the first exchange of the chain that answers by default.
            base_url: Where to reach the exchange instead of its own address.

        Raises:
            ConnectionError: No exchange can be reached.
            ValueError: No exchange has the pair.
        """
        from data_fetcher import fetch_candles  # lazy: only live forecasts need the exchanges

        columns = {V2_OPTIONAL_FEATURES[name] for name in self.feature_cols if name in V2_OPTIONAL_FEATURES}
        published = [kind for kind, column in store.PUBLISHED.items() if column in columns]
        market = fetch_candles(
            [symbol], self.timeframe, self.required_candles, source="exchange", exchange=exchange, base_url=base_url,
            published=published,
        )  # fmt: skip
        return next(iter(market.candles.values()))

    def predict_live(self, symbol: str, *, exchange: str | None = None, base_url: str | None = None) -> dict[str, Any]:
        """Forecast from the newest closed candle of a pair; arguments and errors of `fetch_live` and `predict`."""
        return self.predict(self.fetch_live(symbol, exchange=exchange, base_url=base_url))

    def plot(self, df: pd.DataFrame, last_price: float | None = None) -> Figure:
        """Picture of the recent candles, the forecast and its 80 % band; a notebook shows it, `savefig` keeps it."""
        prediction = self.predict(df, last_price)
        title = (
            f"close of the {self.timeframe} candle of {prediction['timestamp']:%Y-%m-%d %H:%M} UTC · "
            f"direction right with probability {prediction['confidence']:.1%}"
        )
        return plot_forecast(read_closed(df, self.timeframe), prediction, title=title)

    def _predict(self, dfs: Sequence[pd.DataFrame], prices: Sequence[float | None]) -> list[dict[str, Any]]:
        frames, rows, volatility, inputs = [], [], [], []
        for i, df in enumerate(dfs):
            where = "candles" if len(dfs) == 1 else f"frame {i} of {len(dfs)}"
            candles = read_recent(df, self.timeframe, needed=self._needed, required=self.required_candles, where=where)
            frames.append(candles)
            rows.append(self._scaled_rows(candles)[-self.lookback :])
            volatility.append(self._volatility(candles)[-1])
            inputs.append(self._inputs(candles)[-1])
        end = np.arange(1, len(frames) + 1) * self.lookback - 1
        forecast = self._forecast(np.concatenate(rows), end, np.array(volatility), np.array(inputs))
        return [
            self._as_prediction(candles, price, {name: float(values[i]) for name, values in forecast.items()})
            for i, (candles, price) in enumerate(zip(frames, prices))
        ]

    def _scaled_rows(self, candles: pd.DataFrame) -> np.ndarray:
        """(n, n_features) float32, by the same steps as in training."""
        features = compute_features(candles, self.timeframe, self.feature_cols)
        return scale_rows(features.to_numpy(np.float32), self._x_scaler)

    def _volatility(self, candles: pd.DataFrame) -> np.ndarray:
        return segmented_volatility(candles["close"].to_numpy(), timestamps_ms(candles), self._step_ms, self.horizon)

    def _inputs(self, candles: pd.DataFrame) -> np.ndarray:
        return scale_inputs(candles, self.timeframe, self.horizon)

    def _forecast(
        self, rows: np.ndarray, end: np.ndarray, volatility: np.ndarray, inputs: np.ndarray
    ) -> dict[str, np.ndarray]:
        raw = to_log_return(self._network.run(rows, end), volatility, self._y_scaler)
        served = apply_calibration(self._calibration, raw, volatility)
        return served | apply_intervals(self._intervals, inputs, volatility, served["predicted_return"])

    def _as_prediction(
        self, candles: pd.DataFrame, last_price: float | None, forecast: dict[str, float]
    ) -> dict[str, Any]:
        price = float(candles["close"].iloc[-1]) if last_price is None else as_price(last_price)
        log_return, p_up = forecast["predicted_return"], forecast["p_up"]
        opens = timestamps_ms(candles)[-1:] + self.horizon * self._step_ms
        return {
            "price": price * float(np.exp(log_return)),
            "return": log_return,
            "return_percent": 100.0 * float(np.expm1(log_return)),
            "price_change": price * float(np.expm1(log_return)),
            "last_price": price,
            "confidence": max(p_up, 1.0 - p_up),
            "p_up": p_up,
            "price_low": price * float(np.exp(forecast["q10"])),
            "price_high": price * float(np.exp(forecast["q90"])),
            "timestamp": utc_from_ms(opens).iloc[0],
        }


@dataclass(frozen=True)
class Predict:
    """Forecast the next candle from a file of recent candles."""

    candles: Path
    """Parquet or CSV file with timestamp, open, high, low, close, volume"""
    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py"""
    last_price: float | None = None
    """price the forecast starts from; default: the last close"""
    picture: Path | None = None
    """also save a picture of the recent candles, the forecast and its band, such as forecast.png"""

    def run(self) -> None:
        """Print the forecast as the guide shows it."""
        predictor = CryptoPricePredictorV2.from_directory(self.model_dir)
        _show(predictor, store.read_file(self.candles, predictor.timeframe), self.last_price, self.picture)


@dataclass(frozen=True)
class Live:
    """Fetch the newest candles of a pair from an exchange, and forecast the next one."""

    symbol: str = "BTC/USDT"
    """pair"""
    watch: bool = False
    """go on: a forecast at every candle close, until Ctrl-C"""
    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py; the model's timeframe counts"""
    picture: Path | None = None
    """also save a picture of the recent candles, the forecast and its band, such as forecast.png"""
    exchange: str | None = None
    """ccxt id of the exchange; default: binance, then the others that can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""

    def run(self) -> None:
        """Print the forecast; with `watch` another one at every close, after what came true of the one before."""
        predictor = CryptoPricePredictorV2.from_directory(self.model_dir)
        if not self.watch:
            candles = predictor.fetch_live(self.symbol, exchange=self.exchange, base_url=self.base_url)
            _show(predictor, candles, None, self.picture)
            return
        pending: list[dict[str, Any]] = []  # forecasts whose candle has not closed yet
        for candles in watch(predictor, self.symbol, exchange=self.exchange, base_url=self.base_url):
            pending = _show_outcomes(pending, candles)
            try:
                pending.append(_show(predictor, candles, None, self.picture))
            except ValueError as error:  # a gap, say, which later candles leave behind
                logger.warning("no forecast: %s", error)


@dataclass(frozen=True)
class Evaluate:
    """Score the model on candles that it has never seen, and say whether its features have drifted."""

    candles_dir: Path
    """folder of candles, such as BTCUSDT_1h.parquet or .csv, with some 534 before the first forecast"""
    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py"""
    symbols: tuple[str, ...] = ()
    """pairs; default: those the model was trained on"""
    since: str | None = None
    """only forecasts made at or after this instant, UTC; default: right after what the model has seen"""
    until: str | None = None
    """only candles that have closed by this instant, UTC"""
    fee_bps: float = ConfigV2.fee_bps
    """of the backtest: fee of a trade, in basis points a side"""
    output: Path | None = None
    """also write every number to this file, or as evaluation_v2.json into this folder"""
    predictions: Path | None = None
    """also write the forecasts to this Parquet file"""

    def run(self) -> None:
        """Print scores, drift and verdict."""
        from data_fetcher import fetch_candles, to_ms
        from pipeline.evaluation import unseen  # scikit-learn and statsmodels take their time

        predictor = CryptoPricePredictorV2.from_directory(self.model_dir)
        symbols, until_ms = self.symbols or predictor.symbols, to_ms(self.until, "--until")
        market = fetch_candles(symbols, predictor.timeframe, candles_dir=self.candles_dir, end_ms=until_ms)
        features = {s: compute_features(c, market.timeframe, predictor.feature_cols) for s, c in market.candles.items()}
        metadata = unseen.read_metadata(self.model_dir / METADATA_FILE)
        since_ms = to_ms(self.since, "--since")
        result, forecasts = unseen.score_unseen(predictor, market, features, metadata, since_ms, self.fee_bps)
        unseen.write(result, forecasts, self.output, self.predictions)
        print(unseen.as_text(result))


def watch(
    predictor: CryptoPricePredictorV2,
    symbol: str,
    *,
    exchange: str | None = None,
    base_url: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[pd.DataFrame]:
    """The newest candles of a pair at once, and again after every close.

    An exchange needs a moment to publish a candle that has closed, and may be out of reach for a while: then it is
    asked again, with a notice, as long as it takes. The first fetch raises instead.
    """
    step_ms = timeframe_ms(predictor.timeframe)
    candles = predictor.fetch_live(symbol, exchange=exchange, base_url=base_url)
    while True:
        yield candles
        last_ms = timestamps_ms(candles)[-1]
        wait_s = (last_ms + 2 * step_ms) / 1000 + PUBLICATION_S - time.time()
        while timestamps_ms(candles)[-1] == last_ms:
            sleep(max(wait_s, 0.0))
            wait_s = RETRY_S
            try:
                candles = predictor.fetch_live(symbol, exchange=exchange, base_url=base_url)
            except (ConnectionError, ValueError) as error:
                logger.warning("%s; asking again in %.0f s", error, RETRY_S)


def _show(
    predictor: CryptoPricePredictorV2, candles: pd.DataFrame, last_price: float | None, picture: Path | None
) -> dict[str, Any]:
    """Print the forecast from the last of these candles."""
    prediction = predictor.predict(candles, last_price)
    low, high = format_price(prediction["price_low"]), format_price(prediction["price_high"])
    print(f"Next price: ${format_price(prediction['price'])}")
    print(f"Expected return: {prediction['return_percent']:+.4f}%")
    print(f"Confidence: {prediction['confidence']:.1%}  (that the direction is right; 50 % is a coin flip)")
    print(f"80 % interval: ${low} to ${high}")
    candle = f"close of the {predictor.timeframe} candle of {prediction['timestamp']:%Y-%m-%d %H:%M} UTC"
    print(f"Forecast: {candle}, from ${format_price(prediction['last_price'])}", flush=True)
    if picture is not None:
        predictor.plot(candles, last_price).savefig(picture, dpi=120)
        print(f"Picture: {picture}", flush=True)
    return prediction


def _show_outcomes(pending: list[dict[str, Any]], candles: pd.DataFrame) -> list[dict[str, Any]]:
    """Print what came true of forecasts whose candle has closed; returns the others."""
    closes = dict(zip(candles["timestamp"], candles["close"]))
    for prediction in pending:
        actual = closes.get(prediction["timestamp"])
        if actual is not None:
            print(f"\n{judge(prediction, actual)}\n")
    return [prediction for prediction in pending if prediction["timestamp"] > candles["timestamp"].iloc[-1]]


def main() -> None:
    """Parse the subcommand and run it."""
    import tyro  # lazy: notebooks and bots that import the predictor need no command line

    commands: dict[str, Any] = {"predict": Predict, "live": Live, "evaluate": Evaluate}
    command = tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
    with progress.plain_warnings(), progress.notices():
        command.run()


if __name__ == "__main__":
    with progress.one_line_errors():
        main()
