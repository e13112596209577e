"""The width of an interval, corrected by what came true of the last ones: a factor a candle.

The scale model is fitted once, and markets change. At each candle the factor is the conformal 80 %
quantile of |log-return| over the interval's half-width among the last completed candles of the
coin. It knows no network and nothing that comes later.

Gibbs and Candès (2021), Adaptive Conformal Inference Under Distribution Shift, NeurIPS 34, correct
the level step by step, so that the start of the history is never forgotten. A window forgets it.
docs/log.md compares both.
"""

from __future__ import annotations

import bisect
import math

import numpy as np
import pandas as pd

from pipeline.candles.schema import segment_starts

MEMORY = 450
"""Completed candles whose moves correct the width."""
LEVEL = 0.8
"""Of the interval q10 to q90."""
STRENGTH = 0.75
"""Power of the quantile at a horizon of 1, chosen on candles of 2021-10 to 2024-06 (docs/log.md).
Moves over h candles overlap, so at horizon h it is this over the square root of h."""
LARGEST_FACTOR = 2.0
"""Bound on the factor and on its inverse: after a halt of trading the last moves are 0."""
FEW = 64
"""Up to so many rows are computed one by one, which is faster then."""


def width_factors(
    half_width: np.ndarray,
    close: np.ndarray,
    times: np.ndarray,
    step_ms: int,
    horizon: int,
    memory: int,
    rows: np.ndarray,
) -> np.ndarray:
    """Factors on the intervals of one coin's forecasts.

    Args:
        half_width: (n,) half of each candle's 80 % interval, log-return; NaN where it has none.
        close: (n,) closes.
        times: (n,) opens, epoch ms.
        step_ms: Length of a candle.
        horizon: Candles that a forecast spans.
        memory: Completed candles that are looked at, since the last long gap; with fewer the factor
            is drawn towards 1, and of none it is 1.
        rows: (k,) the candles that are forecast from.

    Returns:
        (k,) factors.
    """
    if memory < 1 or len(close) <= horizon:
        return np.ones(len(rows))
    begun = np.arange(len(close) - horizon)
    is_whole = times[horizon:] - times[:-horizon] == horizon * step_ms
    begun = begun[is_whole & (half_width[:-horizon] > 0)]
    moves = np.abs(np.log(close[begun + horizon] / close[begun]))
    scores = moves / half_width[begun]

    n_known, quantile = np.zeros(len(rows), dtype=np.int64), np.ones(len(rows))
    # After a long gap everything starts afresh; a move across one is none.
    starts = segment_starts(times, step_ms)
    for start, end in zip(starts, [*starts[1:], len(times)]):
        own = (rows >= start) & (rows < end)
        first, last = np.searchsorted(begun, [start, end])
        # A move counts from the candle on whose close it ends.
        known = np.searchsorted(begun[first:last], rows[own] - horizon, side="right")
        n_known[own], quantile[own] = known, _last_quantiles(scores[first:last], memory, known)
    bounded = np.clip(quantile, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    share = np.minimum(n_known, memory) / memory
    return bounded ** (STRENGTH / math.sqrt(horizon) * share)


def _last_quantiles(scores: np.ndarray, memory: int, n_known: np.ndarray) -> np.ndarray:
    """The conformal quantile of the last `memory` of the first n scores, for each n; 1 of none."""
    if len(n_known) <= FEW:
        return np.array([_quantile(scores[max(n - memory, 0) : n]) for n in n_known.tolist()])
    found = np.ones(len(scores) + 1)
    if len(scores) >= memory:
        place = (rank(memory) - 1) / max(memory - 1, 1)
        rolling = pd.Series(scores).rolling(memory)
        found[1:] = rolling.quantile(place, interpolation="nearest").to_numpy()
    in_order: list[float] = []
    for n, score in enumerate(scores[: memory - 1].tolist(), start=1):
        bisect.insort(in_order, score)
        found[n] = in_order[rank(n) - 1]
    return found[n_known]


def _quantile(scores: np.ndarray) -> float:
    if len(scores) == 0:
        return 1.0
    place = rank(len(scores)) - 1
    return float(np.partition(scores, place)[place])


def rank(n: int) -> int:
    """Which of n scores in ascending order is their conformal quantile: the 0.8 (n + 1)-th.

    Example:
        >>> rank(9), rank(2)
        (8, 2)
    """
    return min(math.ceil(round(LEVEL * (n + 1), 9)), n)
