"""What the predictors of all generations share: opening a bundle, judging the candles they are given, the forecast."""

from __future__ import annotations

import abc
import numbers
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from pipeline import artifacts, safe_pickle
from pipeline.artifacts import BundleFiles
from pipeline.calibration import Calibration, apply_calibration
from pipeline.candles import (
    drop_forming,
    missing_before,
    read_candles,
    segment_starts,
    timeframe_ms,
    timestamps_ms,
    utc_from_ms,
)
from pipeline.indicators import VOLATILITY_SPAN
from pipeline.intervals import QUANTILE_NAMES, IntervalModel, apply_intervals, scale_inputs
from pipeline.runtime import KerasNetwork
from pipeline.scaler_records import ScalerRecord
from pipeline.scaling import scale_rows
from pipeline.windows import segmented_volatility, usable_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self


SCALER_TYPES: dict[str, type] = {
    "X": ScalerRecord,
    "y": ScalerRecord,
    "feature_cols": list,
    "lookback": int,
    "horizon": int,
    "timeframe": str,
    "symbols": list,
    "synthetic": bool,
    "calibration": dict,
    "intervals": dict,
    "model_sha256": str,
}
"""What a scaler file holds."""


class CandlePredictor(abc.ABC):
    """Forecasts the close `horizon` candles ahead from recent candles of one pair.

    A generation names its files and features, computes them, and turns what its network says into log-returns.
    """

    files: ClassVar[BundleFiles]
    known_features: ClassVar[tuple[str, ...]]
    warmup: ClassVar[int]
    """candles after which the features have forgotten where the history starts"""
    scaler_types: ClassVar[Mapping[str, type]] = SCALER_TYPES

    def __init__(self, model_path: str | Path, scaler_path: str | Path) -> None:
        """Open a trained model.

        Args:
            model_path: The .h5 file of the network, or of its best checkpoint.
            scaler_path: The scaler file of the same training run.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, holds anything but the admitted types, or belongs to another run.
        """
        model_path, scaler_path = Path(model_path), Path(scaler_path)
        scalers = open_scalers(model_path, scaler_path, self.files, self.scaler_types)
        self.feature_cols: list[str] = scalers["feature_cols"]
        self.lookback: int = scalers["lookback"]
        self.horizon: int = scalers["horizon"]
        self.timeframe: str = scalers["timeframe"]
        self.symbols: list[str] = scalers["symbols"]
        self.is_synthetic: bool = scalers["synthetic"]
        unknown = [name for name in self.feature_cols if name not in self.known_features]
        if unknown:
            raise ValueError(f"{scaler_path}: unknown feature {unknown[0]!r}; it was written by another version")
        self._x_scaler, self._y_scaler = scalers["X"], scalers["y"]
        self._calibration = Calibration.from_dict(scalers["calibration"])
        self._intervals = IntervalModel.from_dict(scalers["intervals"])
        self._step_ms = timeframe_ms(self.timeframe)
        self._network = KerasNetwork(model_path, input_shape=(self.lookback, len(self.feature_cols)))

    @classmethod
    def from_directory(cls, directory: str | Path, **options: Any) -> Self:
        """Open the bundle in a training run's output folder; options as for the class itself."""
        return cls(Path(directory) / cls.files.model, Path(directory) / cls.files.scalers, **options)

    @abc.abstractmethod
    def _features(self, candles: pd.DataFrame) -> pd.DataFrame:
        """(n, n_features) frame, as in training."""

    @abc.abstractmethod
    def _to_log_return(self, output: np.ndarray, base_price: np.ndarray, volatility: np.ndarray) -> np.ndarray:
        """What the network says of n windows, as log-returns from their base price."""

    @property
    def required_candles(self) -> int:
        """Candles from which on a forecast no longer depends on where the history starts."""
        return self.lookback + self.warmup

    @property
    def _needed(self) -> int:
        """Candles in a row without which there is no forecast: the window, and the volatility's first value."""
        return max(self.lookback, VOLATILITY_SPAN + 1)

    def predict(self, df: pd.DataFrame, last_price: float | None = None) -> dict[str, Any]:
        """Forecast from the last candle of `df`.

        Args:
            df: Recent closed candles of one pair, at least `lookback`, better `required_candles`: timestamp (open),
                open, high, low, close, volume; what else the model uses.
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
        close, volatility = candles["close"].to_numpy(), self._volatility(candles)
        forecast = self._forecast(self._scaled_rows(candles), t, close[t], volatility[t], self._inputs(candles)[t])
        columns = {"timestamp": candles["timestamp"].iloc[t].array}
        return pd.DataFrame(columns | {name: forecast[name] for name in ("predicted_return", *QUANTILE_NAMES, "p_up")})

    def plot(self, df: pd.DataFrame, last_price: float | None = None) -> Figure:
        """Picture of the recent candles, the forecast and its 80 % band; a notebook shows it, `savefig` keeps it."""
        prediction = self.predict(df, last_price)
        title = (
            f"close of the {self.timeframe} candle of {prediction['timestamp']:%Y-%m-%d %H:%M} UTC · "
            f"direction right with probability {prediction['confidence']:.1%}"
        )
        return plot_forecast(read_closed(df, self.timeframe), prediction, title=title)

    def _predict(self, dfs: Sequence[pd.DataFrame], prices: Sequence[float | None]) -> list[dict[str, Any]]:
        frames, rows, base, volatility, inputs = [], [], [], [], []
        for i, (df, price) in enumerate(zip(dfs, prices)):
            where = "candles" if len(dfs) == 1 else f"frame {i} of {len(dfs)}"
            candles = read_recent(df, self.timeframe, needed=self._needed, required=self.required_candles, where=where)
            frames.append(candles)
            rows.append(self._scaled_rows(candles)[-self.lookback :])
            base.append(float(candles["close"].iloc[-1]) if price is None else as_price(price))
            volatility.append(self._volatility(candles)[-1])
            inputs.append(self._inputs(candles)[-1])
        end = np.arange(1, len(frames) + 1) * self.lookback - 1
        forecast = self._forecast(np.concatenate(rows), end, np.array(base), np.array(volatility), np.array(inputs))
        return [
            self._as_prediction(candles, price, {name: float(values[i]) for name, values in forecast.items()})
            for i, (candles, price) in enumerate(zip(frames, base))
        ]

    def _scaled_rows(self, candles: pd.DataFrame) -> np.ndarray:
        """(n, n_features) float32, by the same steps as in training."""
        return scale_rows(self._features(candles).to_numpy(np.float32), self._x_scaler)

    def _volatility(self, candles: pd.DataFrame) -> np.ndarray:
        return segmented_volatility(candles["close"].to_numpy(), timestamps_ms(candles), self._step_ms, self.horizon)

    def _inputs(self, candles: pd.DataFrame) -> np.ndarray:
        return scale_inputs(candles, self.timeframe, self.horizon)

    def _forecast(
        self, rows: np.ndarray, end: np.ndarray, base_price: np.ndarray, volatility: np.ndarray, inputs: np.ndarray
    ) -> dict[str, np.ndarray]:
        raw = self._to_log_return(self._network.run(rows, end), base_price, volatility)
        served = apply_calibration(self._calibration, raw, volatility)
        return served | apply_intervals(self._intervals, inputs, volatility, served["predicted_return"])

    def _as_prediction(self, candles: pd.DataFrame, price: float, forecast: dict[str, float]) -> dict[str, Any]:
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


def open_scalers(
    model_path: Path, scaler_path: Path, names: BundleFiles, types: Mapping[str, type] = SCALER_TYPES
) -> dict[str, Any]:
    """Read a scaler file and make sure that it belongs to the model file beside it.

    Moves of the bundle that a kill interrupted are completed first.

    Args:
        model_path: The network's file.
        scaler_path: The scaler file.
        names: Of the bundle's files; the metadata beside the network need not be there.
        types: Keys that the scaler file must hold, and of which type.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The scaler file is damaged, of another kind, or of another model; hashes do not hold.
    """
    artifacts.finish_moves(model_path.parent, names.metadata, names.bundle)
    for path, what in ((model_path, "model"), (scaler_path, "scaler")):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such {what} file; train a model or mend the path")
    artifacts.check_hashes([model_path, scaler_path], model_path.parent / names.metadata)
    scalers = safe_pickle.load(scaler_path)
    for key, kind in types.items():
        if key not in scalers:
            raise ValueError(f"{scaler_path}: key {key!r} is missing; is it the scaler file of another generation?")
        value = scalers[key]
        usable = value >= 1 if kind is int and type(value) is int else type(value) is kind
        if not usable:
            raise ValueError(
                f"{scaler_path}: {key!r} is {value!r}, not a usable {kind.__name__}; train the model again"
            )
    if artifacts.sha256_of(model_path) != scalers["model_sha256"]:
        raise ValueError(
            f"{scaler_path}: these scalers belong to another model than {model_path.name} (sha256 of the network "
            "differs); use the two files of one training run"
        )
    if scalers["synthetic"]:
        warnings.warn(
            f"{model_path.name} was trained on synthetic candles: what it forecasts says nothing about real prices",
            stacklevel=3,
        )
    return scalers


def read_closed(df: pd.DataFrame, timeframe: str, *, where: str = "candles", stacklevel: int = 3) -> pd.DataFrame:
    """A user's candles in the schema, without what is still forming, which exchanges return last."""
    candles = read_candles(df, timeframe, where=where)
    closed = drop_forming(candles, timeframe)
    n_forming = len(candles) - len(closed)
    if n_forming:
        warnings.warn(
            f"{where}: {n_forming} candle(s) from {candles['timestamp'].iloc[len(closed)]:%Y-%m-%d %H:%M} on have not "
            "closed yet and are left out",
            stacklevel=stacklevel,
        )
    return closed


def read_recent(df: pd.DataFrame, timeframe: str, *, needed: int, required: int, where: str) -> pd.DataFrame:
    """Validate a user's candles for a forecast at their last closed row.

    Args:
        df: The user's frame.
        timeframe: Length of a candle.
        needed: Candles without a gap that a forecast needs.
        required: Candles from which on the indicators have forgotten where the history starts.
        where: What to call the candles in errors.

    Returns:
        The candles in the schema. Warns once if the indicators are still warming up.

    Raises:
        ValueError: Fewer than `needed` candles, a gap among the last `needed`, or unsound candles.
    """
    candles = read_closed(df, timeframe, where=where, stacklevel=5)
    if len(candles) < needed:
        raise ValueError(
            f"{where}: {len(candles)} candles are too few: a forecast needs the last {needed}; pass at least {needed}, "
            f"better {required} or more"
        )
    times = timestamps_ms(candles)
    step_ms = timeframe_ms(timeframe)
    missing = missing_before(times, step_ms)[len(times) - needed + 1 :]
    if missing.any():
        row = len(candles) - needed + 1 + int(np.argmax(missing > 0))
        raise ValueError(
            f"{where}: {int(missing.sum())} candle(s) missing among the last {needed}, first right before "
            f"{candles['timestamp'].iloc[row]:%Y-%m-%d %H:%M}; fetch them, or wait until {needed} candles have "
            "passed since the gap"
        )
    since_start = len(candles) - int(segment_starts(times, step_ms)[-1])
    if since_start < required:
        warnings.warn(
            f"only {since_start} candles without a long gap: the indicators are still warming up, the forecast may "
            f"differ from one on {required} candles or more",
            stacklevel=4,
        )
    return candles


def as_price(last_price: object) -> float:
    """A price that a user passed; anything but a positive number is a ValueError."""
    is_number = isinstance(last_price, numbers.Real) and not isinstance(last_price, bool)
    if not (is_number and 0 < last_price < 1e300):  # type: ignore[operator]
        raise ValueError(f"last_price is {last_price!r}; pass a positive price in quote currency, or leave it out")
    return float(last_price)  # type: ignore[arg-type]


def format_price(price: float) -> str:
    """A price for people: cents from 1 upwards, six significant digits below.

    Example:
        >>> format_price(66449.384), format_price(0.1234567)
        ('66,449.38', '0.123457')
    """
    return f"{price:,.2f}" if price >= 1 else f"{price:.6g}"


def judge(prediction: Mapping[str, Any], actual: float) -> str:
    """Say in a line what came true of a forecast, as `predict` returns it, whose candle has closed at `actual`."""
    moved = actual - prediction["last_price"]
    direction = "no move" if moved == 0 else "right" if moved * prediction["price_change"] > 0 else "wrong"
    within = "inside" if prediction["price_low"] <= actual <= prediction["price_high"] else "outside"
    return f"Came true: ${format_price(actual)} (direction {direction}, {within} the 80 % interval)"


def plot_forecast(candles: pd.DataFrame, prediction: dict[str, Any], *, shown: int = 72, title: str = "") -> Figure:
    """Picture of the last `shown` candles, the forecast and its 80 % band.

    Args:
        candles: Frame in the schema.
        prediction: As `predict` returns it.
        shown: Candles to show.
        title: Over the picture.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global, works in notebooks, bots and threads

    recent = candles.iloc[-shown:]
    x = np.arange(len(recent))
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rises = (recent["close"] >= recent["open"]).to_numpy()
    colours = np.where(rises, "#1a7f5a", "#b3423a")
    axes.vlines(x, recent["low"], recent["high"], color=colours, linewidth=0.9)
    bottom = recent[["open", "close"]].min(axis=1)
    axes.bar(x, (recent["close"] - recent["open"]).abs(), bottom=bottom, width=0.7, color=colours)
    step = (recent["timestamp"].iloc[-1] - recent["timestamp"].iloc[0]) / max(len(recent) - 1, 1)
    ahead = len(recent) - 1 + round((prediction["timestamp"] - recent["timestamp"].iloc[-1]) / step)
    axes.vlines(ahead, prediction["price_low"], prediction["price_high"], color="#2b5c9e", linewidth=7, alpha=0.35)
    axes.plot([ahead], [prediction["price"]], "D", color="#2b5c9e", markersize=6)
    axes.plot([len(recent) - 1, ahead], [prediction["last_price"], prediction["price"]], color="#2b5c9e", linestyle=":")
    axes.annotate(
        f"{format_price(prediction['price'])}\n{prediction['return_percent']:+.3f} %\n"
        f"80 %: {format_price(prediction['price_low'])} – {format_price(prediction['price_high'])}",
        (ahead, prediction["price"]), xytext=(12, 0), textcoords="offset points", va="center", color="#2b5c9e",
    )  # fmt: skip
    ticks = np.linspace(0, len(recent) - 1, min(6, len(recent))).astype(int)
    axes.set_xticks(ticks, [f"{recent['timestamp'].iloc[i]:%d %b %H:%M}" for i in ticks])
    axes.set_xlim(-1, ahead + max(len(recent) * 0.28, 6))
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel("price")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
