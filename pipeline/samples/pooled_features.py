"""The features of v2's pooled preset: one coin's candle, and what Bitcoin and the market did in the
same candle.

Own (10): scaled_return, close_position, range_size, volume_level, volatility_ratio_12,
volatility_ratio_336, hour_sin, hour_cos, half_day_sin, half_day_cos.

Market (4): btc_return, btc_close_position, market_return, market_close_position.

All are free of the price's, the volume's and the volatility's scale, so that one network can learn
every coin. The market's four stand on other coins' candles, which a forecast may be asked for
without: they are missing then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import talib

from pipeline.candles.schema import segment_starts, timeframe_ms, timestamps_ms
from pipeline.samples.indicators import (
    VOLATILITY_SPAN,
    divide_or_zero,
    ewma_volatility,
    log_ratio,
    log_returns,
)

TIME_FEATURES = ("hour_sin", "hour_cos", "half_day_sin", "half_day_cos")
POOLED_OWN_FEATURES = (
    "scaled_return",
    "close_position",
    "range_size",
    "volume_level",
    "volatility_ratio_12",
    "volatility_ratio_336",
    *TIME_FEATURES,
)
POOLED_MARKET_FEATURES = (
    "btc_return",
    "btc_close_position",
    "market_return",
    "market_close_position",
)
POOLED_FEATURES = (*POOLED_OWN_FEATURES, *POOLED_MARKET_FEATURES)

BITCOIN = "BTC/USDT"
LEAST_COINS = 3
"""Coins whose mean counts as the market's"""
LONG_WINDOW = 336
"""candles; two weeks of hours, within v2's warm-up"""
RETURN_LIMIT = 5.0
"""volatilities beyond which a return counts no more"""
LOG_LIMIT = 4.0
"""of logarithms of ratios"""
DAY_MS = 86_400_000


def is_pooled(feature_cols: Sequence[str]) -> bool:
    """Whether these are features of the pooled preset, and not v2's own."""
    return set(feature_cols) <= set(POOLED_FEATURES)


def compute_pooled_features(
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    feature_cols: Sequence[str] = POOLED_FEATURES,
) -> dict[str, pd.DataFrame]:
    """The pooled features of every symbol; row t looks at candles up to t only, the other symbols'
    among them.

    Args:
        candles: Symbol -> n candles in the schema of `pipeline.candles.schema`. The market's
            features are there where Bitcoin ("BTC/USDT") and at least `LEAST_COINS` symbols have
            the candle.
        timeframe: Length of a candle, such as "1h".
        feature_cols: Which features, in which order.

    Returns:
        Symbol -> (n, len(feature_cols)) float64 frame on its candles' index. NaN where there is not
        enough history yet, and where the candles that a market feature needs are missing.
    """
    market = market_features(candles, timeframe)
    return {s: with_market(frame, market, timeframe, feature_cols) for s, frame in candles.items()}


def with_market(
    candles: pd.DataFrame,
    market: pd.DataFrame | None,
    timeframe: str,
    feature_cols: Sequence[str] = POOLED_FEATURES,
) -> pd.DataFrame:
    """The pooled features of one symbol, from its candles and `market_features`; None leaves the
    market's missing.

    Raises:
        ValueError: An unknown feature is asked for.
    """
    unknown = [name for name in feature_cols if name not in POOLED_FEATURES]
    if unknown:
        raise ValueError(
            f"unknown feature {unknown[0]!r}; the pooled preset knows {', '.join(POOLED_FEATURES)}"
        )
    table = _own_features(candles, timeframe) | dict.fromkeys(
        POOLED_MARKET_FEATURES, np.full(len(candles), np.nan)
    )
    if market is not None:
        at_candle = market.reindex(timestamps_ms(candles))
        table |= {name: at_candle[name].to_numpy() for name in POOLED_MARKET_FEATURES}
    return pd.DataFrame(table, index=candles.index)[list(feature_cols)]


def market_features(candles: Mapping[str, pd.DataFrame], timeframe: str) -> pd.DataFrame:
    """What Bitcoin and the market did in each candle: a column each of `POOLED_MARKET_FEATURES`.

    Args:
        candles: Symbol -> candles; see `compute_pooled_features`.
        timeframe: Length of a candle.

    Returns:
        Frame indexed by open time, epoch ms, of every candle that any symbol has.
    """
    times = np.unique(np.concatenate([timestamps_ms(frame) for frame in candles.values()]))
    bitcoin, sums, counts = (
        np.full((2, len(times)), np.nan),
        np.zeros((2, len(times))),
        np.zeros((2, len(times))),
    )
    for symbol in sorted(
        candles
    ):  # one after another: a row's sum has the same bits however many rows there are
        table, row = (
            _own_features(candles[symbol], timeframe),
            np.searchsorted(times, timestamps_ms(candles[symbol])),
        )
        for line, name in enumerate(("scaled_return", "close_position")):
            known = np.isfinite(table[name])
            sums[line, row[known]] += table[name][known]
            counts[line, row[known]] += 1
            if symbol == BITCOIN:
                bitcoin[line, row] = table[name]
    values = np.vstack([bitcoin, sums / np.maximum(counts, 1)])
    is_known = (counts >= LEAST_COINS).all(axis=0) & np.isfinite(bitcoin).all(axis=0)
    values[:, ~is_known] = (
        np.nan
    )  # all four or none: a network that learns both need not learn what lies between
    return pd.DataFrame(values.T, index=times, columns=list(POOLED_MARKET_FEATURES))


def choose_pooled_features(candles: Mapping[str, pd.DataFrame], timeframe: str) -> tuple[str, ...]:
    """The features that these candles can serve: no hours in days of fewer than 8 candles, no
    market of few coins."""
    has_market = BITCOIN in candles and len(candles) >= LEAST_COINS
    has_hours = 8 * timeframe_ms(timeframe) <= DAY_MS
    left_out = {
        *(() if has_market else POOLED_MARKET_FEATURES),
        *(() if has_hours else TIME_FEATURES),
    }
    return tuple(name for name in POOLED_FEATURES if name not in left_out)


def _own_features(candles: pd.DataFrame, timeframe: str) -> dict[str, np.ndarray]:
    """Name -> (n,) of `POOLED_OWN_FEATURES`, from one symbol's candles."""
    times, step_ms = timestamps_ms(candles), timeframe_ms(timeframe)
    angle = 2.0 * np.pi * ((times + step_ms) % DAY_MS) / DAY_MS  # of the close
    table = {name: np.full(len(candles), np.nan) for name in POOLED_OWN_FEATURES}
    table |= {"hour_sin": np.sin(angle), "hour_cos": np.cos(angle)}
    table |= {"half_day_sin": np.sin(2.0 * angle), "half_day_cos": np.cos(2.0 * angle)}
    arrays = [
        np.ascontiguousarray(candles[name], dtype=np.float64)
        for name in ("high", "low", "close", "volume")
    ]
    starts = segment_starts(times, step_ms)
    for first, end in zip(starts, [*starts[1:], len(candles)]):
        if end - first > VOLATILITY_SPAN:  # before that there is no volatility to scale by
            for name, values in _segment_features(*(array[first:end] for array in arrays)).items():
                table[name][first:end] = values
    return table


def _segment_features(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray
) -> dict[str, np.ndarray]:
    """Name -> (n,), of candles without a long gap."""
    log_return = log_returns(close)
    volatility = ewma_volatility(log_return)
    squares = np.square(log_return)
    usual_volume = talib.SMA(volume, timeperiod=VOLATILITY_SPAN)
    return {
        "scaled_return": np.clip(
            divide_or_zero(log_return, volatility), -RETURN_LIMIT, RETURN_LIMIT
        ),
        "close_position": divide_or_zero(
            2.0 * close - high - low, high - low
        ),  # -1 at the low, 1 at the high
        "range_size": _log(divide_or_zero(log_ratio(high, low), volatility)),
        "volume_level": _log(divide_or_zero(volume, usual_volume)),
        "volatility_ratio_12": _log(divide_or_zero(_deviation(squares, 12), volatility)),
        "volatility_ratio_336": _log(divide_or_zero(volatility, _deviation(squares, LONG_WINDOW))),
    }


def _deviation(squares: np.ndarray, window: int) -> np.ndarray:
    """Root of the mean square of the last `window` rows, of what there is of them after the first
    12."""
    return np.sqrt(
        pd.Series(squares).rolling(window, min_periods=12).mean().clip(lower=0.0).to_numpy()
    )


def _log(ratio: np.ndarray) -> np.ndarray:
    """Natural logarithm within ±`LOG_LIMIT`; of 0 the lower limit."""
    return np.clip(np.log(np.maximum(ratio, np.exp(-LOG_LIMIT))), -LOG_LIMIT, LOG_LIMIT)
