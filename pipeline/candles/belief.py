"""Sound candles that are hard to believe: another unit, a wrong tick, a wick far from its candle;
and whole series that no market trades so: open and close swapped, prices that stand still.

Trading goes on where it stopped, so a candle opens near the close before. In 56 files of real
candles the two differ by 1.8 % at most, though a candle itself may move by a factor of 2. So a jump
between two candles tells a change of the unit from a crash, however deep that is: a crash happens
inside candles.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from pipeline.candles.schema import PRICE_COLUMNS, timeframe_ms, timestamps_ms

JUMP_FACTOR = 9.0
"""Ten, less what the market itself may have moved: a jump between two candles, or a wick."""

TICK_FACTOR = 1.8
"""Two, less as much: a jump that is taken back, or that nothing follows yet."""

BODY_FACTOR = 90.0
"""A move inside one candle whose neighbours are calm; where the open is the close before, a change
of the unit looks so."""

CALM_FACTOR = 2.0
"""The neighbours of a crash move by more than this inside a candle."""

NEIGHBOURS = 10
"""Candles within which a jump is taken back, and whose calm counts."""

ENOUGH_STEPS = 20
"""Steps from candle to candle that a judgement of the whole series takes."""

SWAPPED_FACTOR = 1.5
"""Opens lie so much farther from the close before than closes from the open before. In 56 files of
real candles they lie nearer, by half in any 20 candles; swapped they give twice this or more."""

FAR_SHARE = 0.2
"""Of the candles may open farther than half their range from the close before; of real ones 0.2 %
do."""

STILL_CANDLES = 20
"""Candles in a row with one and the same price though there is volume; no real file has two."""

COUNTED = "returns, scores and money count such jumps as moves of the market"
"""What it means for a model."""

REMEDY = "mend the candles, begin behind them (--candles, --since) or leave the pair out"
"""What to do where the candles come from a file or folder."""


TOLD = "doubts_told"
"""In a frame's attrs: the reader of its file or folder has warned of its doubtful candles."""


def find_doubtful(candles: pd.DataFrame, timeframe: str) -> np.ndarray:
    """Rows of candles in the schema that are hard to believe, (k,) in order; mostly none."""
    prices = [candles[name].to_numpy() for name in PRICE_COLUMNS]
    return np.flatnonzero(doubtful_rows(timestamps_ms(candles), timeframe_ms(timeframe), *prices))


def describe(candles: pd.DataFrame, rows: np.ndarray, where: str) -> str:
    """How many candles are hard to believe, and the first one; `rows` as of `find_doubtful`."""
    first = candles.iloc[rows[0]]
    values = ", ".join(f"{name} {first[name]:g}" for name in PRICE_COLUMNS)
    if rows[0] > 0:
        values += f", after a close of {candles['close'].iloc[rows[0] - 1]:g}"
    return (
        f"{where}: {len(rows)} candle(s) hard to believe, first at "
        f"{first['timestamp']:%Y-%m-%d %H:%M} ({values})"
    )


def doubts_of(candles: pd.DataFrame, timeframe: str, where: str) -> str:
    """All that is to be told of candles in the schema, and what to do; "" where nothing is odd."""
    told = [f"{where}: {oddity}" for oddity in oddities(candles, timeframe)]
    rows = find_doubtful(candles, timeframe)
    if len(rows):
        told.append(f"{describe(candles, rows, where)}; {COUNTED}; {REMEDY}")
    return "; ".join(told)


def doubtful_rows(
    times: np.ndarray,
    step_ms: int,
    open_: np.ndarray,
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
) -> np.ndarray:
    """(n,) bool: hard to believe. A single one at an end counts too, though one side is unknown.

    Args:
        times: (n,) open times, ms, in order.
        step_ms: Length of a candle.
        open_: (n,) positive and finite, as are the others.
        high: (n,) at least open and close.
        low: (n,) at most open and close.
        close: (n,)
    """
    doubtful = (high > JUMP_FACTOR * np.maximum(open_, close)) | (
        low * JUMP_FACTOR < np.minimum(open_, close)
    )
    steps = _large_steps(times, step_ms, open_, close)
    last = 2 * len(times) - 3  # the step to the last open
    i = 0
    while i < len(steps):
        at, size = steps[i]
        if i + 1 < len(steps) and _is_taken_back(*steps[i], *steps[i + 1]):
            doubtful[(at + 1) // 2 : steps[i + 1][0] // 2 + 1] = True
            i += 2
            continue
        if at % 2 == 1 and (abs(size) > math.log(JUMP_FACTOR) or at in (1, last)):
            doubtful[0 if at == 1 < last else (at + 1) // 2] = True
        elif at % 2 == 0 and abs(size) > math.log(BODY_FACTOR):
            doubtful[at // 2] |= _has_calm_neighbours(at // 2, high, low)
        i += 1
    return doubtful


def _large_steps(
    times: np.ndarray, step_ms: int, open_: np.ndarray, close: np.ndarray
) -> list[tuple[int, float]]:
    """Places and sizes (logarithms) of large steps along open, close, next open, next close, …

    Step 2i is that of candle i itself, step 2i + 1 the one from its close to the next open.
    """
    within = close / open_
    between = open_[1:] / close[:-1]
    inside = np.flatnonzero((within > TICK_FACTOR) | (within * TICK_FACTOR < 1))
    is_large = (between > TICK_FACTOR) | (between * TICK_FACTOR < 1)
    # Across missing candles a price may have gone far.
    far = np.flatnonzero(is_large)
    is_near = np.diff(times)[far] == step_ms
    is_jump = (between[far] > JUMP_FACTOR) | (between[far] * JUMP_FACTOR < 1)
    far = far[is_near | is_jump]
    at = np.concatenate([2 * inside, 2 * far + 1])
    size = np.log(np.concatenate([within[inside], between[far]]))
    order = np.argsort(at)
    return list(zip(at[order].tolist(), size[order].tolist()))


def _is_taken_back(at: int, size: float, next_at: int, next_size: float) -> bool:
    """Whether two large steps lead away and back, in a way that trading does not."""
    smaller = min(abs(size), abs(next_size))
    is_back = abs(size + next_size) < smaller / 2
    is_soon = next_at - at <= 2 * NEIGHBOURS
    is_inside = at % 2 == 0 and next_at % 2 == 0  # of two candles, as a crash and a recovery are
    return is_back and is_soon and (not is_inside or smaller > math.log(JUMP_FACTOR))


def _has_calm_neighbours(row: int, high: np.ndarray, low: np.ndarray) -> bool:
    """Whether candles on both sides move little; where one side is unknown they do not."""
    before = slice(max(0, row - NEIGHBOURS), row)
    after = slice(row + 1, row + 1 + NEIGHBOURS)
    if row == 0 or row == len(high) - 1:
        return False
    return all((high[side] < CALM_FACTOR * low[side]).all() for side in (before, after))


def has_swapped(times: np.ndarray, step_ms: int, open_: np.ndarray, close: np.ndarray) -> bool:
    """Whether open and close are swapped throughout: each close is where the candle before opened.

    Args:
        times: (n,) open times, ms, in order.
        step_ms: Length of a candle.
        open_: (n,) positive and finite, as are the closes.
        close: (n,)
    """
    is_near = np.diff(times) == step_ms
    if is_near.sum() < ENOUGH_STEPS:
        return False
    usual = np.abs(open_[1:] - close[:-1])[is_near].sum()
    swapped = np.abs(open_[:-1] - close[1:])[is_near].sum()
    return bool(usual > SWAPPED_FACTOR * swapped)


def oddities(candles: pd.DataFrame, timeframe: str) -> list[str]:
    """What is odd about candles in the schema as a whole, a sentence each; mostly nothing."""
    open_, high, low, close = (candles[name].to_numpy() for name in PRICE_COLUMNS)
    times, step_ms = timestamps_ms(candles), timeframe_ms(timeframe)
    is_near = np.diff(times) == step_ms
    told = []
    if has_swapped(times, step_ms, open_, close):
        told.append("open and close look swapped: closes lie where the candle before opened")
    elif is_near.sum() >= ENOUGH_STEPS:
        is_far = np.abs(open_[1:] - close[:-1]) > (high - low)[1:] / 2
        is_far &= (high > low)[1:] & is_near
        if is_far.sum() > FAR_SHARE * is_near.sum():
            told.append(
                f"{is_far.sum()} of {len(times)} candles open far from the close before; are they "
                "of one market?"
            )
    traded = candles["volume"].to_numpy() > 0
    is_still = (high == low)[1:] & (high[1:] == low[:-1]) & traded[1:] & is_near
    n_still = _longest_run(is_still)
    if n_still >= STILL_CANDLES:
        told.append(
            f"one and the same price for {n_still + 1} candles in a row, though there is volume; "
            "check the source"
        )
    return told


def _longest_run(is_true: np.ndarray) -> int:
    """Length of the longest stretch of True.

    Example:
        >>> _longest_run(np.array([True, False, True, True]))
        2
    """
    ends = np.flatnonzero(~np.concatenate([[False], is_true, [False]]))
    return int(np.diff(ends).max() - 1)
