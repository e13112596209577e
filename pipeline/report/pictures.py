"""The page's pictures as inline SVG: text stays text, and the colours follow the page.

Figures are 4.4 inches wide, which is about what a phone shows; wide screens enlarge them.
"""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.forecasts.picture import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK, INK, MUTED = "#2b5c9e", "#1d2327", "#6b7480"
GOOD, BAD, LINE = "#1a7f5a", "#b3423a", "#d9dee4"
VARIABLES = {NETWORK: "accent", INK: "ink", MUTED: "muted", GOOD: "good", BAD: "bad", LINE: "line"}
"""Colour outside of a page -> the page's own."""
WIDTH = 4.4
LARGEST_VALUE = 1e9  # beyond it a curve tells nothing, and axes overflow


def forest_plot(
    rows: Sequence[tuple[str, float | None, float | None, float | None]],
    reference: float,
    unit: str,
    reach: float = 0.0,
) -> Figure:
    """A dot and its 95 % interval a row, from the top, beside a line of reference.

    Args:
        rows: (label, value, low, high) in percent; None where unknown.
        reference: Where the line stands.
        unit: Label of the axis.
        reach: How far to either side the axis goes at least, so that small differences look small.
    """
    figure, axes = _figure(0.75 + 0.24 * len(rows))
    axes.axvline(reference, color=INK, linewidth=1)
    for place, (_, value, low, high) in enumerate(rows):
        colour = MUTED
        if low is not None and high is not None:
            if low > reference:
                colour = GOOD
            elif high < reference:
                colour = BAD
            axes.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        if value is not None:
            axes.plot([value], [place], "o", color=colour, markersize=5)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.locator_params(axis="x", nbins=6)
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, reference - reach), max(right, reference + reach))
    axes.set_xlabel(unit)
    dress(axes, grid="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def reliability_plot(bins: Sequence[Mapping[str, float]]) -> Figure:
    """Share of right directions over the confidence, tenth by tenth, beside the diagonal.

    Args:
        bins: As `probability.reliability` gives them.
    """
    probability, share, n = (
        np.array([row[key] for row in bins]) for key in ("probability", "share", "n")
    )
    error = 1.96 * np.sqrt(share * (1 - share) / n)
    figure, axes = _figure(3.2)
    low, high = 100 * min(probability.min(), 0.5), 100 * max(probability.max(), 0.51)
    axes.plot([low, high], [low, high], color=INK, linewidth=1, label="calibrated")
    axes.errorbar(100 * probability, 100 * share, 100 * error, color=NETWORK, fmt="", ls="", lw=1.2)
    axes.plot(100 * probability, 100 * share, "o", color=NETWORK, markersize=5, label="measured")
    axes.set_xlabel("confidence, %")
    axes.set_ylabel("right directions, %")
    return _finish(figure)


def week_plot(rows: pd.DataFrame, network: str) -> Figure:
    """Actual and forecast log-returns over time, with the 80 % band where there is one.

    Args:
        rows: Predictions of one symbol, in time order.
        network: Name of the forecast column.
    """
    figure, axes = _figure(2.9)
    time = rows["timestamp"].dt.tz_localize(None)
    if {"q10", "q90"} <= set(rows):
        look = {"color": NETWORK, "alpha": 0.2, "linewidth": 0, "label": "80 % band"}
        axes.fill_between(time, 100 * rows["q10"], 100 * rows["q90"], **look)
    axes.plot(time, 100 * rows["actual_return"], color=INK, linewidth=0.7, label="actual")
    axes.plot(time, 100 * rows[network], color=NETWORK, linewidth=1.6, label="forecast")
    axes.set_ylabel("log-return, %")
    return _finish(figure, dates=True)


def training_plot(history: Mapping[str, Any]) -> Figure:
    """Loss of the training and validation part by epoch, and the epoch that was kept.

    Args:
        history: "loss", "val_loss" (a number an epoch, None where it was not finite) and
            "best_epoch" from 0.
    """
    figure, axes = _figure(2.6)
    epochs = np.arange(1, len(history["loss"]) + 1)
    loss, val_loss = (_bounded(history[name]) for name in ("loss", "val_loss"))
    mark = "." if len(epochs) < 3 else ""  # a single epoch makes no line
    axes.plot(epochs, loss, mark + "-", color=MUTED, label="training")
    axes.plot(epochs, val_loss, mark + "-", color=NETWORK, label="validation")
    best = history["best_epoch"]
    kept = f"kept: epoch {best + 1}"
    axes.plot([best + 1], [val_loss[best]], "o", color=NETWORK, markersize=6, label=kept)
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    return _finish(figure)


def equity_plot(equity: Mapping[str, Sequence[Any]]) -> Figure:
    """Capital over time, 1 at the start, beside buying and holding.

    Args:
        equity: "timestamp" (ISO 8601), "strategy" and "buy_and_hold", as `scoring.score_run` gives
            them.
    """
    figure, axes = _figure(2.3)
    time = _times(equity)
    axes.axhline(1, color=LINE, linewidth=1)
    held, followed = (_bounded(equity[name]) for name in ("buy_and_hold", "strategy"))
    axes.plot(time, held, color=MUTED, linewidth=1.2, label="buy and hold")
    axes.plot(time, followed, color=NETWORK, linewidth=1.6, label="strategy after fees")
    axes.set_ylabel("capital, times the start")
    return _finish(figure, dates=True)


def drawdown_plot(equity: Mapping[str, Sequence[Any]]) -> Figure:
    """How far each account is below its earlier peak, over time.

    Args:
        equity: As `tear_sheet.thinned` gives it.
    """
    figure, axes = _figure(2.3)
    time = _times(equity)
    held, followed = (
        -100 * _bounded(equity[f"{name}_drawdown"]) for name in ("buy_and_hold", "strategy")
    )
    axes.fill_between(time, followed, 0, color=NETWORK, alpha=0.2, linewidth=0)
    axes.plot(time, held, color=MUTED, linewidth=1.2, label="buy and hold")
    axes.plot(time, followed, color=NETWORK, linewidth=1.4, label="strategy after fees")
    axes.set_ylabel("below the peak, %")
    return _finish(figure, dates=True)


def rolling_plot(rolling: Mapping[str, Any], unit: str, factor: float = 1.0) -> Figure:
    """A number of the last days, over time, with its 95 % interval, beside 0.

    Args:
        rolling: As `decay.rolling_skill` gives it.
        unit: Label of the axis.
        factor: From the numbers to the unit.
    """
    figure, axes = _figure(2.3)
    time = _times(rolling)
    value, low, high = (factor * _bounded(rolling[name]) for name in ("value", "low", "high"))
    look = {"color": NETWORK, "alpha": 0.2, "linewidth": 0, "label": "95 % interval"}
    axes.fill_between(time, low, high, **look)
    axes.axhline(0, color=INK, linewidth=1)
    axes.plot(time, value, color=NETWORK, linewidth=1.6, label=f"last {rolling['days']} days")
    axes.set_ylabel(unit)
    return _finish(figure, dates=True)


def returns_plot(returns: Mapping[str, Any]) -> Figure:
    """How often each return came; what lies beyond the axis is in its outermost bins.

    Args:
        returns: As `tear_sheet.distribution` gives it.
    """
    figure, axes = _figure(2.3)
    edges = 100 * np.array(returns["edges"])
    middle = (edges[1:] + edges[:-1]) / 2
    axes.axvline(0, color=LINE, linewidth=1)
    axes.fill_between(
        middle, returns["strategy"], step="mid", color=NETWORK, alpha=0.2, linewidth=0
    )
    steps = {"drawstyle": "steps-mid"}
    axes.plot(middle, returns["buy_and_hold"], color=MUTED, label="buy and hold", lw=1.2, **steps)
    axes.plot(
        middle, returns["strategy"], color=NETWORK, label="strategy after fees", lw=1.6, **steps
    )
    axes.set_ylim(bottom=0)
    axes.set_xlabel("return, %")
    axes.set_ylabel("times")
    return _finish(figure)


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page.

    Args:
        figure: Any of the above.
        name: Unlike that of any other figure of the page, since ids inside are made from it.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # A style would rule the whole page.
    svg = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    # A hundredth of a point is finer than any screen.
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    view = re.search(r'viewBox="[^"]*"', svg)
    label = f'role="img" aria-label="{html.escape(name)}"'
    opening = f"<svg {view[0] if view else ''} {label}{_values_of(figure)}>"
    svg = opening + svg[svg.index(">") + 1 :]
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return re.sub(r"\n\s*", "\n", re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "sans-serif", svg))


def _values_of(figure: Figure) -> str:
    """The attribute that holds the values of a picture's lines, which its page shows on hover.

    It is JSON: "x", where each value stands, and "y", where the axes begin and end, in
    ten-thousandths of the picture's width and height; "at", what stands there on the axis; "lines",
    name -> values. Lines of other places than the longest's are left out. Empty without lines.
    """
    [axes, *_] = figure.axes
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    if not lines:
        return ""
    points = {str(line.get_label()): np.asarray(line.get_xydata()) for line in lines}
    place = max(points.values(), key=len)[:, 0]
    to_figure = axes.transData + figure.transFigure.inverted()
    across = to_figure.transform(np.column_stack([place, np.zeros(len(place))]))[:, 0]
    low, high = axes.get_position().intervaly
    values = {
        "x": _ten_thousandths(across),
        "y": _ten_thousandths(np.array([1 - high, 1 - low])),
        "at": _labels(axes, place),
        "lines": {
            name: _short(of[:, 1]) for name, of in points.items() if np.array_equal(of[:, 0], place)
        },
    }
    written = html.escape(json.dumps(values, separators=(",", ":")), quote=False)
    return " data-values='" + written.replace("'", "&#39;") + "'"


def _ten_thousandths(shares: np.ndarray) -> list[int]:
    return [round(1e4 * share) for share in shares.tolist()]


def _labels(axes: Any, place: np.ndarray) -> list[str]:
    """What stands at places of an axis: times, or numbers with the axis' name."""
    from matplotlib.dates import ConciseDateFormatter, num2date

    if isinstance(axes.xaxis.get_major_formatter(), ConciseDateFormatter):
        return [f"{time:%Y-%m-%d %H:%M}" for time in num2date(place)]
    return [f"{axes.get_xlabel()}: {number:.3g}" for number in place]


def _short(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _times(table: Mapping[str, Sequence[Any]]) -> pd.DatetimeIndex:
    return pd.to_datetime(list(table["timestamp"])).tz_localize(None)


def _figure(height: float) -> tuple[Figure, Any]:
    figure = new_figure(WIDTH, height)
    return figure, figure.add_subplot()


def _bounded(values: Sequence[float | None]) -> np.ndarray:
    """(n,) floats; NaN, which is not drawn, for None and for what no axis can hold."""
    numbers = np.array(values, dtype=float)
    return np.where(np.abs(numbers) < LARGEST_VALUE, numbers, np.nan)


def _finish(figure: Figure, dates: bool = False) -> Figure:
    """Dress the only axes of a figure, with a legend above them, and dates along the bottom."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    [axes] = figure.axes
    dress(axes)
    if dates:
        # With at least 6 ticks it finds no interval for 61 to 71 hours, and warns.
        locator = AutoDateLocator(minticks=3, maxticks=7)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.legend(
        frameon=False,
        ncols=3,
        fontsize=9,
        labelcolor=INK,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0,
        handlelength=1.4,
        columnspacing=1.2,
    )
    return figure


def dress(axes: Any, grid: str = "y") -> None:
    """Give axes the page's colours, so that they follow it into the dark."""
    axes.grid(axis=grid, color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9)
    axes.xaxis.get_offset_text().set(color=MUTED, fontsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=MUTED, fontsize=9)
