"""Whether anyone's forecasts know candles that they could not, or are stamped late or early."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.evaluation.matching import Matched
from pipeline.evaluation.significance import is_constant
from pipeline.evaluation.suspicion import Suspicion
from pipeline.evaluation.verdict import SUSPICIOUS_R2
from pipeline.terminal import counted

COPY = 0.95
"""Correlation with the last move from which a forecast is that move"""
NEAR_COPY = 0.25
"""Correlation with the last move beyond which a forecast tells more of it than of any other"""
BEYOND = 0.05
"""Correlation with a candle behind the target beyond which a forecast knows that candle"""
HONEST = math.sqrt(SUSPICIOUS_R2)
"""Correlation with a candle of the target beyond which a forecast knows that candle"""
SCANNED = 26
"""candles before and behind a forecast in which times that are off are looked for: a day and two"""
STANDARD_ERRORS = 5.0
"""from which a correlation is no luck"""


def neighbours(
    predictions: pd.DataFrame, market: CandleSet, offsets: range
) -> Iterator[tuple[int, np.ndarray]]:
    """Offset k and (n,) log-returns of the candle k after the last that a forecast knew, or NaN."""
    step_ms = timeframe_ms(market.timeframe)
    opens_ms = timestamps_ms(predictions)
    codes, names = pd.factorize(predictions["symbol"])
    grids: list[np.ndarray] = []
    slot = np.zeros(len(predictions), dtype=np.int64)
    begin = max(map(abs, offsets))
    for code, name in enumerate(names):
        frame = market.candles[name]
        times, log_close = timestamps_ms(frame), np.log(frame["close"].to_numpy(np.float64))
        move = np.diff(log_close, prepend=np.nan)
        move[1:][np.diff(times) != step_ms] = np.nan
        place = (times - times[0]) // step_ms
        grid = np.full(place[-1] + 1 + 2 * begin, np.nan)  # nothing lies before and behind
        grid[begin + place] = move
        mine = codes == code
        behind = sum(len(one) for one in grids)
        slot[mine] = (opens_ms[mine] - times[0]) // step_ms + begin + behind
        grids.append(grid)
    moves = np.concatenate(grids)
    for k in offsets:
        yield k, moves[slot + k]


def correlations_of(
    matched: Matched, market: CandleSet, horizon: int
) -> dict[int, tuple[float, float]]:
    """Offset k -> correlation with the return of the candle k after the last one known, and its
    standard error.

    Both are divided by the volatility, and what lies beyond 10 volatilities counts as 10. Offsets
    are `SCANNED` candles and the horizon around; those without a correlation are left out. The
    error allows for volatility that comes again (White), and counts an instant once.
    """
    predictions = matched.predictions
    volatility = predictions["volatility"].to_numpy(np.float64)
    scaled = np.clip(matched.said.to_numpy(np.float64) / volatility, -10, 10)
    coins = len(predictions) / max(predictions["timestamp"].nunique(), 1)
    found = {}
    offsets = range(-SCANNED, horizon + SCANNED + 1)
    for k, moves in neighbours(predictions, market, offsets):
        move = np.clip(moves / volatility, -10, 10)
        known = np.isfinite(move) & np.isfinite(scaled)
        if known.sum() < 3 or is_constant(move[known]) or is_constant(scaled[known]):
            continue
        one, other = (values[known] - values[known].mean() for values in (scaled, move))
        size = np.sqrt((one**2).sum() * (other**2).sum())
        left = other - one * (one * other).sum() / (one**2).sum()
        error = np.sqrt(coins * ((one * left) ** 2).sum()) / size
        found[k] = float((one * other).sum() / size), float(max(error, known.sum() ** -0.5))
    return found


def find_leaks(
    matched: Matched, test: Mapping[str, Any], market: CandleSet, horizon: int
) -> Iterator[Suspicion]:
    """Candles that the forecasts know and could not, and times that are off.

    Args:
        matched: The forecasts and what came true.
        test: Their evaluation.
        market: The candles.
        horizon: Candles that a forecast spans.
    """
    found = correlations_of(matched, market, horizon)
    of = {k: value for k, (value, _) in found.items()}
    last, own = of.get(0, 0.0), of.get(1, 0.0)
    target = _out_of_bounds(found, range(1, horizon + 1), HONEST)
    far = _out_of_bounds(found, range(horizon + 1, horizon + SCANNED + 1), BEYOND)
    past = _out_of_bounds(found, range(-SCANNED, 0), NEAR_COPY)
    doubted = [text for text in test["warnings"] if "look-ahead" in text]
    if far and target and not doubted and abs(of[target[0]]) > 2 * abs(of[far[0]]):
        far = None  # what follows a target depends on it, where a market turns back

    # What they know.
    if far:
        k, limit = far
        when = f"{matched.predictions['timestamp'].iloc[0]:%Y-%m-%d %H:%M}"
        yield Suspicion(
            "knows_beyond_target",
            f"the forecasts know candles behind their target: they correlate {_with(k, of[k])} "
            f"(first forecast: {when}), where an honest one is within ±{limit:.2f}; were they "
            f"smoothed with a centred window, or are the times too early by {counted(k, 'candle')} "
            "or so (--stamped; a local --timezone)?",
        )
    if doubted:
        about = f"the forecasts know their target: {_after_model(doubted[0])}"
        if 1 in of:
            about += f"; they correlate {own:+.2f} with the candle that follows the last one known"
        yield Suspicion("implausible_skill", about)
    elif target and not far:
        k, limit = target
        yield Suspicion(
            "knows_target",
            f"the forecasts know their target: they correlate {_with(k, of[k])}, where an honest "
            f"one is within ±{limit:.2f}; are the times too early by {counted(k, 'candle')} "
            "(--stamped; a local --timezone), or is the sign turned?",
        )

    # What they only repeat.
    if far:
        return
    if past and abs(of[past[0]]) > 2 * max(abs(last), abs(own)):
        k, _ = past
        yield Suspicion(
            "times_late",
            f"the forecasts tell most of an older candle: they correlate {of[k]:+.2f} with the one "
            f"{-k} before the last that they knew, and {last:+.2f} with the last; are the times "
            f"late by {counted(-k, 'candle')} (--stamped; a local --timezone)?",
            is_grave=False,
        )
    elif NEAR_COPY < last < COPY and last > 2 * abs(own):
        yield Suspicion(
            "stamped_late",
            f"the forecasts tell more of the candle that they had already seen (correlation "
            f"{last:+.2f}) than of their target ({own:+.2f}): do they copy it, or are their times "
            "those of the candle that is forecast (--stamped target, or close)?",
            is_grave=False,
        )


def _out_of_bounds(
    found: Mapping[int, tuple[float, float]], offsets: range, honest: float
) -> tuple[int, float] | None:
    """Of these offsets the one that stands out most, and what would be honest there."""
    limits = {k: max(honest, STANDARD_ERRORS * found[k][1]) for k in offsets if k in found}
    beyond = [k for k, limit in limits.items() if abs(found[k][0]) > limit]
    k = max(beyond, key=lambda one: abs(found[one][0]), default=None)
    return None if k is None else (k, limits[k])


def _with(k: int, correlation: float) -> str:
    return (
        f"{correlation:+.2f} with the return of the candle {k} after the last one they say they "
        "knew"
    )


def _after_model(warning: str) -> str:
    return warning.partition(": ")[2]
