"""The picture of a forecast.

Figures are made without pyplot: nothing is global, so they work in notebooks, bots and threads.
"""

from __future__ import annotations

import io
import textwrap
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.forecasts.prediction import Prediction, aged, format_price, money, signed, subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_AN_INCH = 100
"""on the screen; a notebook gets twice as many, for sharp displays"""
NARROW = 6.0
"""Inches below which there is no room for words beside the forecast."""
SHOWN = 72
"""candles of a picture"""
UP, DOWN, FORECAST, MISSED = "#1a7f5a", "#b3423a", "#2b5c9e", "#d9822b"
ROUND_MINUTES = (5, 15, 30, 60, 180, 360, 720, 1440, 2880, 7 * 1440, 14 * 1440, 28 * 1440)
"""Distances that ticks may have"""


def plot_forecast(
    candles: pd.DataFrame,
    prediction: Prediction,
    *,
    shown: int = SHOWN,
    title: str | None = None,
    size: tuple[float, float] = (10.0, 5.0),
    history: pd.DataFrame | None = None,
) -> Figure:
    """Picture of the last `shown` candles, their volume, the forecast and its 80 % band.

    Args:
        candles: Frame in the schema.
        prediction: As `predict` returns it.
        shown: Candles to show.
        title: Over the picture; by default of what the forecast is, and how old its candles are.
        size: Width and height in inches; narrow pictures leave out the volume and the numbers
            beside the forecast.
        history: Past forecasts, as `predict_history` returns them, to draw over the candles.
    """
    recent = candles.iloc[-shown:]
    is_wide = size[0] >= NARROW
    figure = new_figure(*size)
    has_volume = is_wide and bool((recent["volume"] > 0).any())
    ratios = [5, 1] if has_volume else [1]
    axes, *below = figure.subplots(
        len(ratios), squeeze=False, sharex=True, gridspec_kw={"height_ratios": ratios}
    )[:, 0]
    _draw_candles(axes, recent)
    for lower in below:
        lower.bar(np.arange(len(recent)), recent["volume"], width=0.7, color=_colours(recent))
        lower.set_ylabel("volume")
        lower.set_yticks([])
    told = None if history is None else _draw_history(axes, candles, history, shown)
    ahead = _draw_forecast(axes, recent, prediction, is_wide=is_wide)
    bottom = below[0] if below else axes
    bottom.set_xticks(*_ticks(recent["timestamp"], 6 if is_wide else 3))
    axes.set_xlim(-1, ahead + (max(len(recent) * 0.24, 6) if is_wide else 2))
    if title is None:
        title = "\n".join([headline(prediction), *([told] if told else [])])
    axes.set_title(title, loc="left", fontsize=11)
    quote = prediction["quote"]
    axes.set_ylabel(f"price, {quote}" if quote else "price")
    axes.yaxis.set_major_formatter(lambda price, _: format_price(price).removesuffix(".00"))
    axes.grid(axis="y", alpha=0.25)
    for drawn in (axes, *below):
        drawn.spines[["top", "right"]].set_visible(False)
    return figure


def _colours(recent: pd.DataFrame) -> np.ndarray:
    """(n,) a colour a candle: of a rise, or of a fall."""
    return np.where((recent["close"] >= recent["open"]).to_numpy(), UP, DOWN)


def _draw_candles(axes: Axes, recent: pd.DataFrame) -> None:
    x, colours = np.arange(len(recent)), _colours(recent)
    axes.vlines(x, recent["low"], recent["high"], color=colours, linewidth=0.9)
    bottom = recent[["open", "close"]].min(axis=1)
    axes.bar(x, (recent["close"] - recent["open"]).abs(), bottom=bottom, width=0.7, color=colours)


def _draw_history(
    axes: Axes, candles: pd.DataFrame, history: pd.DataFrame, shown: int
) -> str | None:
    """Draw past forecasts whose candle is shown; how many held, for the title."""
    place = pd.Series(np.arange(len(candles)), index=candles["timestamp"])
    start = place.reindex(history["last_timestamp"]).to_numpy()
    target = place.reindex(history["target_timestamp"]).to_numpy()
    first = max(len(candles) - shown, 0)
    known = np.isfinite(start) & np.isfinite(target) & (target >= first)
    if not known.any():
        return None
    past, close = history[known], candles["close"].to_numpy()
    start, target = (at[known].astype(int) for at in (start, target))
    base, actual = close[start], close[target]
    low, high = (base * np.exp(past[name].to_numpy()) for name in ("q10", "q90"))
    is_inside = (low <= actual) & (actual <= high)
    for held, colour in ((True, FORECAST), (False, MISSED)):
        which = is_inside == held
        x = target[which] - first
        axes.vlines(x, low[which], high[which], color=colour, linewidth=5, alpha=0.3, zorder=0)
    n, n_inside = len(actual), int(is_inside.sum())
    return (
        f"bands behind the candles: {n_inside} of the last {n} forecasts held their 80 % interval "
        "(blue; orange: missed)"
    )


def _draw_forecast(
    axes: Axes, recent: pd.DataFrame, prediction: Prediction, *, is_wide: bool
) -> int:
    """Draw the forecast and its band, with its numbers if there is room; its place on the axis."""
    last = recent["timestamp"].iloc[-1]
    step = (last - recent["timestamp"].iloc[0]) / max(len(recent) - 1, 1)
    ahead = len(recent) - 1 + round((prediction["timestamp"] - last) / step)
    start, price, quote = prediction["last_price"], prediction["price"], prediction["quote"]
    low, high = prediction["price_low"], prediction["price_high"]
    axes.vlines(ahead, low, high, color=FORECAST, linewidth=7, alpha=0.35)
    axes.plot([ahead], [price], "D", color=FORECAST, markersize=6)
    axes.plot([len(recent) - 1, ahead], [start, price], color=FORECAST, linestyle=":")
    if is_wide:
        told = (
            f"{money(price, quote)}\n{signed(prediction['return_percent'], 3)} %\n80 % interval:\n"
            f"{money(low, quote)}\nto {money(high, quote)}"
        )
        axes.annotate(
            told.replace("$", r"\$"),  # two dollar signs would enclose a formula
            (ahead, price),
            xytext=(12, 0),
            textcoords="offset points",
            va="center",
            color=FORECAST,
        )
    return ahead


def _ticks(times: pd.Series, most: int) -> tuple[np.ndarray, list[str]]:
    """Places and labels of at most so many round instants; of the first and last where none is."""
    milliseconds = times.to_numpy("datetime64[ms]").astype(np.int64)
    span_min = (milliseconds[-1] - milliseconds[0]) / 60_000
    for minutes in ROUND_MINUTES:
        if span_min / minutes < most:
            places = np.flatnonzero(milliseconds % (minutes * 60_000) == 0)
            if len(places):
                form = "%d %b" if minutes >= 1440 else "%d %b %H:%M"
                return places, [f"{times.iloc[place]:{form}}" for place in places]
    ends = np.unique([0, len(times) - 1])
    return ends, [f"{times.iloc[place]:%d %b %H:%M}" for place in ends]


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
