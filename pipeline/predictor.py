"""What the predictors of all generations share: opening a bundle, judging the candles they are given, the picture."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline import artifacts, safe_pickle
from pipeline.candles import drop_forming, missing_before, read_candles, segment_starts, timeframe_ms, timestamps_ms
from pipeline.safe_pickle import ScalerRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SCALER_TYPES: dict[str, type] = {
    "X": ScalerRecord,
    "y": ScalerRecord,
    "feature_cols": list,
    "lookback": int,
    "horizon": int,
    "timeframe": str,
    "symbols": list,
    "calibration": dict,
    "model_sha256": str,
}
"""What every generation's scaler file holds."""


def open_scalers(model_path: Path, scaler_path: Path, metadata_name: str) -> dict[str, Any]:
    """Read a scaler file and make sure that it belongs to the model file beside it.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The scaler file is damaged, of another kind, or of another model; hashes do not hold.
    """
    for path, what in ((model_path, "model"), (scaler_path, "scaler")):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such {what} file; train a model or mend the path")
    artifacts.check_hashes([model_path, scaler_path], model_path.parent / metadata_name)
    scalers = safe_pickle.load(scaler_path)
    for key, kind in SCALER_TYPES.items():
        if key not in scalers:
            raise ValueError(f"{scaler_path}: key {key!r} is missing; is it the scaler file of another generation?")
        value = scalers[key]
        if type(value) is not kind or (isinstance(value, int) and value < 1):
            raise ValueError(
                f"{scaler_path}: {key!r} is {value!r}, not a usable {kind.__name__}; train the model again"
            )
    if artifacts.sha256_of(model_path) != scalers["model_sha256"]:
        raise ValueError(
            f"{scaler_path}: these scalers belong to another model than {model_path.name} (sha256 of the network "
            "differs); use the two files of one training run"
        )
    return scalers


def read_closed(df: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """A user's candles in the schema, without the one that is still forming, which exchanges return last."""
    candles = read_candles(df, timeframe)
    closed = drop_forming(candles, timeframe)
    if len(closed) < len(candles):
        warnings.warn(
            f"the candle of {candles['timestamp'].iloc[-1]:%Y-%m-%d %H:%M} has not closed yet and is left out",
            stacklevel=5,
        )
    return closed


def read_recent(df: pd.DataFrame, timeframe: str, *, lookback: int, required: int) -> pd.DataFrame:
    """Validate a user's candles for a forecast at their last closed row.

    Returns:
        The candles in the schema. Warns once if the indicators are still warming up.

    Raises:
        ValueError: Fewer than `lookback` candles, a gap among the last `lookback`, or unsound candles.
    """
    candles = read_closed(df, timeframe)
    if len(candles) < lookback:
        raise ValueError(
            f"{len(candles)} candles are too few: the model looks at the last {lookback}; pass at least {lookback}, "
            f"better {required} or more"
        )
    times = timestamps_ms(candles)
    step_ms = timeframe_ms(timeframe)
    missing = missing_before(times, step_ms)[len(times) - lookback + 1 :]
    if missing.any():
        row = len(candles) - lookback + 1 + int(np.argmax(missing > 0))
        raise ValueError(
            f"{int(missing.sum())} candle(s) missing among the last {lookback}, first right before "
            f"{candles['timestamp'].iloc[row]:%Y-%m-%d %H:%M}; fetch them, or wait until {lookback} candles have "
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


def format_price(price: float) -> str:
    """A price for people: cents from 1 upwards, six significant digits below.

    Example:
        >>> format_price(66449.384), format_price(0.1234567)
        ('66,449.38', '0.123457')
    """
    return f"{price:,.2f}" if price >= 1 else f"{price:.6g}"


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
    ahead = len(recent)
    axes.vlines(ahead, prediction["price_low"], prediction["price_high"], color="#2b5c9e", linewidth=7, alpha=0.35)
    axes.plot([ahead], [prediction["price"]], "D", color="#2b5c9e", markersize=6)
    axes.plot([ahead - 1, ahead], [prediction["last_price"], prediction["price"]], color="#2b5c9e", linestyle=":")
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
