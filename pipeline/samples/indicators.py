"""Indicators on plain arrays, TA-Lib's where it has them; each row looks only backwards.

TA-Lib's recursive indicators start from a simple mean of their first values, so they depend on
where the history starts, ever less with every candle; `forgetting_candles` says how long that
takes. `by_segment` starts them afresh after every long gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
import talib

from pipeline.candles.schema import CANDLE_COLUMNS, segment_starts, timeframe_ms, timestamps_ms

CANDLE_VALUES = CANDLE_COLUMNS[1:]
"""A candle's columns of numbers: open, high, low, close, volume."""
NamedColumns = Iterable[tuple[str, np.ndarray]]
"""Pairs of a name and (n,) values; yielded one by one they need the memory of one."""
VOLATILITY_SPAN = 48
"""Span, in candles, of the EWMA volatility that scales targets, forecasts and errors."""


def forgetting_candles(decay: float, tolerance: float = 1e-6, headroom: float = 50.0) -> int:
    """Candles until a recursion x[t] = decay * x[t-1] + … has forgotten its start.

    Args:
        decay: Weight of the past per candle, in (0, 1): 13/14 for Wilder's 14, (s - 1)/(s + 1) for
            an EMA of span s.
        tolerance: Wanted error in standard deviations of the indicator.
        headroom: How many standard deviations off the start may be.

    Example:
        >>> forgetting_candles(13 / 14)
        240
    """
    return math.ceil(math.log(tolerance / headroom) / math.log(decay))


VOLATILITY_WARMUP = VOLATILITY_SPAN + forgetting_candles(
    (VOLATILITY_SPAN - 1) / (VOLATILITY_SPAN + 1)
)
"""Candles after which `ewma_volatility` no longer depends on where the history starts (474)."""


def by_segment(
    function: Callable[..., NamedColumns],
    candles: pd.DataFrame,
    timeframe: str,
    columns: Sequence[str],
    names: Sequence[str],
) -> np.ndarray:
    """Apply a function to each stretch of one symbol's candles that holds no long gap.

    Args:
        function: Takes the columns of a stretch of m candles, (m,) float64 each; yields pairs of a
            name and (m,) values, for all `names` or for those that so few candles allow.
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle.
        columns: Columns of the candles that the function is given, in this order.
        names: Names that the function may yield.

    Returns:
        (len(names), n) float64, a row a name; NaN where the function gave no value.
    """
    arrays = [np.ascontiguousarray(candles[name], dtype=np.float64) for name in columns]
    rows = {name: row for row, name in enumerate(names)}
    table = np.full((len(names), len(candles)), np.nan)
    starts = segment_starts(timestamps_ms(candles), timeframe_ms(timeframe))
    for first, end in zip(starts, [*starts[1:], len(candles)]):
        for name, values in function(*(array[first:end] for array in arrays)):
            table[rows[name], first:end] = values
    return table


def demand_features(feature_cols: Iterable[str], known: Sequence[str], owner: str) -> None:
    """Raise a ValueError on a feature that `owner`, such as "v2", does not know."""
    for name in feature_cols:
        if name not in known:
            raise ValueError(f"unknown feature {name!r}; {owner} knows {', '.join(known)}")


def log_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """ln(numerator / denominator), elementwise, float64."""
    ratio = numerator / denominator
    return np.log(ratio, out=ratio)


def log_returns(close: np.ndarray, periods: int = 1) -> np.ndarray:
    """ln(close[t] / close[t - periods]), (n,) float64; NaN in the first `periods` rows."""
    returns = np.full(len(close), np.nan)
    returns[periods:] = log_ratio(close[periods:], close[:-periods])
    return returns


def ewma_volatility(log_return: np.ndarray, span: int = VOLATILITY_SPAN) -> np.ndarray:
    """Root of the exponentially weighted mean of squared log-returns up to and with row t.

    RiskMetrics' volatility (J. P. Morgan, 1996): v[t] = d v[t-1] + (1 - d) r[t]^2 with the decay
    d = (span - 1)/(span + 1), started from the mean of the first `span` squares (TA-Lib's EMA).

    Args:
        log_return: (n,) float64, NaN in row 0.

    Returns:
        (n,) float64, in units of a log-return per candle; NaN before row `span`.
    """
    if len(log_return) <= span:
        return np.full(len(log_return), np.nan)
    return np.sqrt(talib.EMA(np.square(log_return), timeperiod=span))


def rolling_z_score(values: np.ndarray, window: int) -> np.ndarray:
    """(value - mean) / population deviation of the last `window` rows; 0 where they are flat."""
    deviation = values - talib.SMA(values, timeperiod=window)
    spread = talib.STDDEV(values, timeperiod=window)
    return divide_or_zero(deviation, spread)


def divide_or_zero(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, and 0 where the denominator is 0; NaN stays NaN."""
    safe = np.where(denominator == 0.0, np.inf, denominator)
    return numerator / safe
