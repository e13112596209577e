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
VOLUME_SPAN = 48
"""candles, of which `MOST_UNKNOWN` without a known volume leave nothing to compare one with"""
MOST_UNKNOWN = 0.75
FLAT = 1e-6
"""spread over mean below which values differ by rounding alone"""


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
    of_volume: Sequence[str] = (),
) -> np.ndarray:
    """Apply a function to each stretch of one symbol's candles that holds no long gap.

    Where volume is unknown (`unknown_volume`) the function is given the last known one of the
    stretch, and NaN before the first.

    Args:
        function: Takes the columns of a stretch of m candles, (m,) float64 each; yields pairs of a
            name and (m,) values, for all `names` or for those that so few candles allow.
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle.
        columns: Columns of the candles that the function is given, in this order.
        names: Names that the function may yield.
        of_volume: Those of them that rest on volume: NaN where it is unknown, or was in most of the
            last `VOLUME_SPAN` candles.

    Returns:
        (len(names), n) float64, a row a name; NaN where the function gave no value.
    """
    arrays = {name: np.ascontiguousarray(candles[name], dtype=np.float64) for name in columns}
    unknown = np.zeros(len(candles), dtype=bool)
    if "volume" in columns:
        unknown = unknown_volume(candles)
    rows = {name: row for row, name in enumerate(names)}
    table = np.full((len(names), len(candles)), np.nan)
    starts = segment_starts(timestamps_ms(candles), timeframe_ms(timeframe))
    for first, end in zip(starts, [*starts[1:], len(candles)]):
        part = {name: array[first:end] for name, array in arrays.items()}
        lacks_volume = pd.Series(unknown[first:end])
        if lacks_volume.any():
            part["volume"] = pd.Series(part["volume"]).mask(lacks_volume).ffill().to_numpy()
        for name, values in function(*part.values()):
            table[rows[name], first:end] = values
        if lacks_volume.any():
            share = lacks_volume.rolling(VOLUME_SPAN, min_periods=1).mean()
            is_missing = lacks_volume | (share > MOST_UNKNOWN)
            for name in of_volume:
                table[rows[name], first:end][is_missing] = np.nan
    return table


def unknown_volume(candles: pd.DataFrame) -> np.ndarray:
    """(n,) bool: is the volume 0 though the price moved? Then somebody traded, and it is unknown.

    Yahoo's hourly candles have such volumes, and feeds that publish none at all.
    """
    volume, high, low = (candles[name].to_numpy() for name in ("volume", "high", "low"))
    return np.asarray((volume == 0) & (high > low))


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
    mean = talib.SMA(values, timeperiod=window)
    spread = talib.STDDEV(values, timeperiod=window)
    spread[spread <= FLAT * np.abs(mean)] = 0.0
    return divide_or_zero(values - mean, spread)


def divide_or_zero(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, and 0 where the denominator is 0; NaN stays NaN."""
    safe = np.where(denominator == 0.0, np.inf, denominator)
    return numerator / safe
