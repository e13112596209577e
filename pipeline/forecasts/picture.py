"""A forecast as people see it: its numbers, its picture, and what came true of it.

Figures are made without pyplot: nothing is global, so they work in notebooks, bots and threads.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_AN_INCH = 100
"""on the screen; a notebook gets twice as many, for sharp displays"""
NARROW = 6.0
"""Inches below which there is no room for words beside the forecast."""
UP, DOWN, FORECAST = "#1a7f5a", "#b3423a", "#2b5c9e"

Prediction = TypedDict(
    "Prediction",
    {
        "price": float,  # forecast close, quote currency
        "return": float,  # log-return
        "return_low": float,  # its 10 % quantile
        "return_median": float,
        "return_high": float,  # its 90 % quantile
        "return_percent": float,  # 100 * (e^return - 1)
        "price_change": float,
        "last_price": float,  # what the forecast starts from
        "confidence": float,  # calibrated probability that the direction is right
        "p_up": float,  # calibrated probability of a rise
        "price_low": float,  # the 80 % interval
        "price_high": float,
        "timestamp": pd.Timestamp,  # open of the forecast candle, UTC
        "missing_inputs": list[str],  # features that the forecast had to do without
    },
)
"""What `predict` returns."""


def format_price(price: float) -> str:
    """A price for people: cents from 1 upwards, six significant digits below.

    Example:
        >>> format_price(66449.384), format_price(0.1234567)
        ('66,449.38', '0.123457')
    """
    return f"{price:,.2f}" if price >= 1 else f"{price:.6g}"


def judge(prediction: Prediction, actual: float) -> str:
    """Say in a line what came true of a forecast whose candle has closed at `actual`."""
    moved = actual - prediction["last_price"]
    if moved == 0:
        direction = "no move"
    else:
        direction = "right" if moved * prediction["price_change"] > 0 else "wrong"
    is_inside = prediction["price_low"] <= actual <= prediction["price_high"]
    within = "inside" if is_inside else "outside"
    return f"Came true: ${format_price(actual)} (direction {direction}, {within} the 80 % interval)"


def plot_forecast(
    candles: pd.DataFrame,
    prediction: Prediction,
    *,
    shown: int = 72,
    title: str = "",
    size: tuple[float, float] = (10.0, 4.5),
) -> Figure:
    """Picture of the last `shown` candles, the forecast and its 80 % band.

    Args:
        candles: Frame in the schema.
        prediction: As `predict` returns it.
        shown: Candles to show.
        title: Over the picture.
        size: Width and height in inches; narrow pictures leave out the numbers beside the forecast.
    """
    recent = candles.iloc[-shown:]
    x = np.arange(len(recent))
    figure = new_figure(*size)
    axes = figure.add_subplot()
    rises = (recent["close"] >= recent["open"]).to_numpy()
    colours = np.where(rises, UP, DOWN)
    axes.vlines(x, recent["low"], recent["high"], color=colours, linewidth=0.9)
    bottom = recent[["open", "close"]].min(axis=1)
    axes.bar(x, (recent["close"] - recent["open"]).abs(), bottom=bottom, width=0.7, color=colours)
    step = (recent["timestamp"].iloc[-1] - recent["timestamp"].iloc[0]) / max(len(recent) - 1, 1)
    ahead = len(recent) - 1 + round((prediction["timestamp"] - recent["timestamp"].iloc[-1]) / step)
    start, price = prediction["last_price"], prediction["price"]
    low, high = prediction["price_low"], prediction["price_high"]
    axes.vlines(ahead, low, high, color=FORECAST, linewidth=7, alpha=0.35)
    axes.plot([ahead], [price], "D", color=FORECAST, markersize=6)
    axes.plot([len(recent) - 1, ahead], [start, price], color=FORECAST, linestyle=":")
    is_wide = size[0] >= NARROW
    if is_wide:
        axes.annotate(
            f"{format_price(price)}\n{prediction['return_percent']:+.3f} %\n"
            f"80 %: {format_price(low)} – {format_price(high)}",
            (ahead, price),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            color=FORECAST,
        )
    ticks = np.linspace(0, len(recent) - 1, min(6 if is_wide else 3, len(recent))).astype(int)
    axes.set_xticks(ticks, [f"{recent['timestamp'].iloc[i]:%d %b %H:%M}" for i in ticks])
    axes.set_xlim(-1, ahead + (max(len(recent) * 0.28, 6) if is_wide else 2))
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylabel("price")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that a notebook shows when it is the last line of a cell.

    Args:
        width: In inches, as is the height.
    """
    from matplotlib.figure import Figure  # lazy: takes its time, and forecasts draw nothing

    class NotebookFigure(Figure):
        """IPython knows how to show a plain Figure only where somebody has imported pyplot."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=2 * DOTS_AN_INCH)
            wide, high = (round(DOTS_AN_INCH * inches) for inches in self.get_size_inches())
            return buffer.getvalue(), {"width": wide, "height": high}

    return NotebookFigure(figsize=(width, height), layout="constrained")
