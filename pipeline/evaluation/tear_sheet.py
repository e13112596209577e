"""What traders look at: an account in the course of time, read off its equity curve.

A return of -0.1 is a loss of a tenth; times are UTC.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.backtest import YEAR_MS, drawdowns, sharpe_ratio
from pipeline.evaluation.comparison import calendar_names
from pipeline.evaluation.decay import rolling_windows
from pipeline.evaluation.significance import instants_needed, standard_error, student_quantile

ACCOUNTS = ("strategy", "buy_and_hold")
MOST_POINTS = 1000
N_BINS = 41
WIDEST = 0.995
"""Share of the strategy's returns, by size, that the bins reach to; the outermost hold the rest."""


def tear_sheet(equity: pd.DataFrame, span_ms: int) -> dict[str, Any]:
    """The account month by month, over rolling windows, and by the size of its returns.

    Args:
        equity: As `Backtest.equity`.
        span_ms: Length of an instant.
    """
    return {
        "equity": thinned(equity),
        "months": months(equity),
        "rolling_sharpe": rolling_sharpe(equity, span_ms),
        "returns": distribution(equity),
    }


def thinned(equity: pd.DataFrame) -> dict[str, list[Any]]:
    """The equity curve and its drawdown, at `MOST_POINTS` points or fewer.

    A point has the deepest drawdown since the point before, so that none is lost.
    """
    starts = np.arange(0, len(equity), -(-len(equity) // MOST_POINTS))
    columns: dict[str, list[Any]] = {"timestamp": _named(equity["timestamp"].iloc[starts])}
    for name in ACCOUNTS:
        columns[name] = equity[name].iloc[starts].tolist()
        # Stretches end with their point: those after the last one are its own.
        fall = np.roll(drawdowns(equity[name].to_numpy()), -1)
        fall[-1] = 0.0
        deepest = np.maximum.reduceat(fall, starts)
        columns[f"{name}_drawdown"] = [0.0, *deepest[:-1].tolist()]
    return columns


def months(equity: pd.DataFrame) -> list[dict[str, Any]]:
    """A row a calendar month: "month", and what each account earned in it.

    What ends at midnight belongs to the day that ends.
    """
    ends = equity["timestamp"].iloc[1:].to_numpy("datetime64[ms]") - np.timedelta64(1, "ms")
    last = equity.iloc[1:].groupby(calendar_names(ends, "month"))[list(ACCOUNTS)].last()
    with np.errstate(divide="ignore", invalid="ignore"):
        earned = last / last.shift(fill_value=1.0) - 1
    return [{"month": month, **row} for month, row in earned.to_dict("index").items()]


def rolling_sharpe(equity: pd.DataFrame, span_ms: int) -> dict[str, Any] | None:
    """The strategy's Sharpe ratio a year over the last days, with its 95 % interval.

    The interval is that of the mean return (`standard_error`), with the spread taken as known.

    Returns:
        "days" of a window; "timestamp" (its end), "value", "low", "high", a number a window, None
        where the returns do not vary. None where there are too few days.
    """
    returns = _returns(equity, "strategy")
    times = equity["timestamp"].iloc[1:].to_numpy("datetime64[ms]")
    days, windows = rolling_windows(times)
    if not windows:
        return None
    rows = [_sharpe_with_interval(returns[window], span_ms) for window in windows]
    ends = pd.Series(times[[window.stop - 1 for window in windows]])
    named = dict(zip(("value", "low", "high"), map(list, zip(*rows))))
    return {"days": days, "timestamp": _named(ends), **named}


def _sharpe_with_interval(
    returns: np.ndarray, span_ms: int
) -> tuple[float | None, float | None, float | None]:
    value = sharpe_ratio(returns, span_ms) if np.isfinite(returns).all() else None
    if value is None or len(returns) < instants_needed(1):
        return value, None, None
    error, degrees_of_freedom = standard_error(returns)
    spread = float(returns.std(ddof=1))
    half = student_quantile(degrees_of_freedom) * error / spread * float(np.sqrt(YEAR_MS / span_ms))
    return value, value - half, value + half


def distribution(equity: pd.DataFrame) -> dict[str, Any]:
    """How often which return came: a histogram of an instant's returns.

    Returns:
        "edges" (n + 1), of each account the n counts, and of the strategy "worst", "best" and
        "worst_twentieth", the return that one instant in twenty fell below.
    """
    returns = {name: _returns(equity, name) for name in ACCOUNTS}
    usable = {name: values[np.isfinite(values)] for name, values in returns.items()}
    ours = usable["strategy"]
    reach = float(np.quantile(np.abs(ours), WIDEST)) if len(ours) else 0.0
    reach = reach or 1e-4  # nothing was earned or lost
    edges = np.linspace(-reach, reach, N_BINS + 1)
    counts = {
        name: np.histogram(np.clip(values, -reach, reach), edges)[0].tolist()
        for name, values in usable.items()
    }
    extremes = dict.fromkeys(("worst", "worst_twentieth", "best"))
    if len(ours):
        extremes = dict(zip(extremes, np.quantile(ours, (0.0, 0.05, 1.0)).tolist()))
    return {"edges": edges.tolist(), **counts, **extremes}


@np.errstate(divide="ignore", invalid="ignore")  # after ruin there is nothing to earn on
def _returns(equity: pd.DataFrame, account: str) -> np.ndarray:
    """(n_instants,) simple returns; NaN after ruin."""
    capital = equity[account].to_numpy()
    return capital[1:] / capital[:-1] - 1


def _named(times: pd.Series) -> list[str]:
    return [f"{time:%Y-%m-%dT%H:%MZ}" for time in times]
