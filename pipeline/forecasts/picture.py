"""The picture of a forecast.

Figures are made without pyplot: nothing is global, so they work in notebooks, bots and threads.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.forecasts.prediction import Prediction, aged, money, signed, subject

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_AN_INCH = 100
"""on the screen; a notebook gets twice as many, for sharp displays"""
NARROW = 6.0
"""Inches below which there is no room for words beside the forecast."""
UP, DOWN, FORECAST = "#1a7f5a", "#b3423a", "#2b5c9e"


def plot_forecast(
    candles: pd.DataFrame,
    prediction: Prediction,
    *,
    shown: int = 72,
    title: str | None = None,
    size: tuple[float, float] = (10.0, 4.5),
) -> Figure:
    """Picture of the last `shown` candles, the forecast and its 80 % band.

    Args:
        candles: Frame in the schema.
        prediction: As `predict` returns it.
        shown: Candles to show.
        title: Over the picture; by default of what the forecast is, and how old its candles are.
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
    start, price, quote = prediction["last_price"], prediction["price"], prediction["quote"]
    low, high = prediction["price_low"], prediction["price_high"]
    axes.vlines(ahead, low, high, color=FORECAST, linewidth=7, alpha=0.35)
    axes.plot([ahead], [price], "D", color=FORECAST, markersize=6)
    axes.plot([len(recent) - 1, ahead], [start, price], color=FORECAST, linestyle=":")
    is_wide = size[0] >= NARROW
    if is_wide:
        told = (
            f"{money(price, quote)}\n{signed(prediction['return_percent'], 3)} %\n"
            f"80 %: {money(low, quote)} – {money(high, quote)}"
        )
        axes.annotate(
            told.replace("$", r"\$"),  # two dollar signs would enclose a formula
            (ahead, price),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            color=FORECAST,
        )
    ticks = np.linspace(0, len(recent) - 1, min(6 if is_wide else 3, len(recent))).astype(int)
    axes.set_xticks(ticks, [f"{recent['timestamp'].iloc[i]:%d %b %H:%M}" for i in ticks])
    axes.set_xlim(-1, ahead + (max(len(recent) * 0.28, 6) if is_wide else 2))
    axes.set_title(headline(prediction) if title is None else title, loc="left", fontsize=11)
    axes.set_ylabel(f"price, {quote}" if quote else "price")
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def headline(prediction: Prediction) -> str:
    """Lines over the picture: of what the forecast is, for when, and how old its candles are."""
    lines = [
        subject(prediction),
        f"close of the candle of {prediction['target_timestamp']:%Y-%m-%d %H:%M} UTC · direction "
        f"right with probability {prediction['confidence']:.1%}",
    ]
    old = aged(prediction)
    # A sentence of its own line, broken where a picture ends.
    return "\n".join(lines if old is None else [*lines, *textwrap.wrap(f"! {old}", 110)])


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
