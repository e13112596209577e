"""A caller's recent candles and last price, fit for a forecast."""

from __future__ import annotations

import contextlib
import numbers
import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.candles import belief, formats
from pipeline.candles.schema import (
    drop_forming,
    missing_before,
    segment_starts,
    timeframe_ms,
    timestamps_ms,
)


def one_for_each(last_prices: Sequence[float | None] | None, n: int) -> list[float | None]:
    """A price, or None for the last close, for each of `n` frames of candles."""
    if last_prices is None:
        return [None] * n
    if not isinstance(last_prices, (Sequence, np.ndarray, pd.Series)):
        raise ValueError(
            f"last_prices is {last_prices!r}; pass a list with a price for each frame, or leave it "
            "out"
        )
    if len(last_prices) != n:
        raise ValueError(
            f"{n} frames of candles but {len(last_prices)} last prices; pass one for each, or none"
        )
    return list(last_prices)


def base_price(candles: pd.DataFrame, last_price: object) -> float:
    """The price that a forecast starts from: `last_price`, or the last close where that is None."""
    if last_price is None:
        return float(candles["close"].iloc[-1])
    is_number = isinstance(last_price, numbers.Real) and not isinstance(last_price, bool)
    is_price = False
    if is_number:
        # A float32 would be compared as such, in which 1e300 overflows; 10**400 is no float.
        with contextlib.suppress(OverflowError):
            is_price = 0 < float(last_price) < 1e300  # type: ignore[arg-type]
    if not is_price:
        raise ValueError(
            f"last_price is {last_price!r}; pass a positive price in quote currency, or leave it "
            "out"
        )
    return float(last_price)  # type: ignore[arg-type]


def read_closed(
    df: pd.DataFrame,
    timeframe: str,
    *,
    where: str = "candles",
    last: int | None = None,
    stacklevel: int = 3,
) -> pd.DataFrame:
    """A user's candles in the schema, with warnings of what is odd about them.

    Forming candles are left out. Candles that are hard to believe stay.

    Args:
        df: The user's frame.
        timeframe: Length of a candle.
        where: What to call the candles in errors and warnings.
        last: Number of newest candles that the forecast looks at; None for all.
        stacklevel: See `warnings.warn`.
    """

    def warn(text: str) -> None:
        warnings.warn(text, stacklevel=stacklevel + 1)

    mended: list[str] = []
    candles = formats.recognise(df, timeframe, where=where, tell=mended.append)
    for text in mended:
        warn(text)
    closed = drop_forming(candles, timeframe)
    n_forming = len(candles) - len(closed)
    if n_forming:
        first = candles["timestamp"].iloc[len(closed)]
        warn(
            f"{where}: {n_forming} candle(s) from {first:%Y-%m-%d %H:%M} on have not closed yet "
            "and are left out"
        )
    if not getattr(df, "attrs", {}).get(belief.TOLD):
        looked_at = closed if last is None else closed.iloc[-last:]
        odd = belief.find_doubtful(looked_at, timeframe)
        if len(odd):
            warn(
                f"{belief.describe(looked_at, odd, where)}; forecasts count such jumps as moves of "
                "the market; pass candles from behind them on, or mend them"
            )
    return closed


def read_recent(
    df: pd.DataFrame, timeframe: str, *, needed: int, required: int, where: str
) -> pd.DataFrame:
    """A user's candles in the schema, fit for a forecast from their last closed row.

    Args:
        df: The user's frame.
        timeframe: Length of a candle.
        needed: Candles without a gap that a forecast needs.
        required: Candles from which on the indicators have forgotten where the history starts;
            fewer give a warning.
        where: What to call the candles in errors.

    Raises:
        ValueError: Fewer than `needed` candles, a gap among the last `needed`, or unsound candles.
    """
    candles = read_closed(df, timeframe, where=where, last=max(needed, required), stacklevel=5)
    if len(candles) < needed:
        raise ValueError(
            f"{where}: {len(candles)} candles are too few: a forecast needs the last {needed}; "
            f"pass at least {needed}, better {required} or more"
        )
    times = timestamps_ms(candles)
    step_ms = timeframe_ms(timeframe)
    missing = missing_before(times, step_ms)[len(times) - needed + 1 :]
    if missing.any():
        row = len(candles) - needed + 1 + int(np.argmax(missing > 0))
        raise ValueError(
            f"{where}: {int(missing.sum())} candle(s) missing among the last {needed}, first right "
            f"before {candles['timestamp'].iloc[row]:%Y-%m-%d %H:%M}; fetch them, or wait until "
            f"{needed} candles have passed since the gap"
        )
    since_start = len(candles) - int(segment_starts(times, step_ms)[-1])
    if since_start < required:
        warnings.warn(
            f"only {since_start} candles without a long gap: the indicators are still warming up, "
            f"the forecast may differ from one on {required} candles or more",
            stacklevel=4,
        )
    return candles
