"""What the predictors of all generations share: opening a bundle, judging the candles they are given, the picture."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Mapping, Sequence
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
    "synthetic": bool,
    "calibration": dict,
    "intervals": dict,
    "model_sha256": str,
}
"""What every generation's scaler file holds."""


def open_scalers(model_path: Path, scaler_path: Path, metadata_name: str, bundle: Sequence[str]) -> dict[str, Any]:
    """Read a scaler file and make sure that it belongs to the model file beside it.

    Moves of the bundle that a kill interrupted are completed first.

    Args:
        model_path: The network's file.
        scaler_path: The scaler file.
        metadata_name: Name of the metadata file beside the network; need not be there.
        bundle: Names of the bundle's files.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The scaler file is damaged, of another kind, or of another model; hashes do not hold.
    """
    artifacts.finish_moves(model_path.parent, metadata_name, bundle)
    for path, what in ((model_path, "model"), (scaler_path, "scaler")):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such {what} file; train a model or mend the path")
    artifacts.check_hashes([model_path, scaler_path], model_path.parent / metadata_name)
    scalers = safe_pickle.load(scaler_path)
    for key, kind in SCALER_TYPES.items():
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
