"""The pooled preset's features: one coin's candle, and what Bitcoin and the market did in it.

All are free of the price's, the volume's and the volatility's scale, so that one network can learn
every coin. The market's four need other coins' candles; a forecast without those lacks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import talib

from pipeline.candles.schema import DAY_MS, timeframe_ms, timestamps_ms
from pipeline.samples.indicators import (
    VOLATILITY_SPAN,
    NamedColumns,
    by_segment,
    demand_features,
    divide_or_zero,
    ewma_volatility,
    log_ratio,
    log_returns,
)
from pipeline.samples.probe import probe_candles

SEGMENT_FEATURES = (
    "scaled_return",
    "close_position",
    "range_size",
    "volume_level",
    "volatility_ratio_12",
    "volatility_ratio_336",
)
POOLED_VOLUME_FEATURES = ("volume_level",)
TIME_FEATURES = ("hour_sin", "hour_cos", "half_day_sin", "half_day_cos")
POOLED_OWN_FEATURES = (*SEGMENT_FEATURES, *TIME_FEATURES)
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


def preset_of(feature_cols: Sequence[str]) -> str:
    """The preset that features are of, for bundles that do not name it.

    Example:
        >>> preset_of(["scaled_return", "hour_sin"]), preset_of(["open_gap", "rsi"])
        ('pooled', 'guide')
    """
    return "pooled" if set(feature_cols) <= set(POOLED_FEATURES) else "guide"


def compute_pooled_features(
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    feature_cols: Sequence[str] = POOLED_FEATURES,
) -> dict[str, pd.DataFrame]:
    """The pooled features of every symbol; row t looks at no symbol's candles after t.

    Args:
        candles: Symbol -> n candles in the schema of `pipeline.candles.schema`. The market's
            features are there where Bitcoin ("BTC/USDT") and at least `LEAST_COINS` symbols have
            the candle.
        timeframe: Length of a candle, such as "1h".
        feature_cols: Which features, in which order.

    Returns:
        Symbol -> (n, len(feature_cols)) float64 frame on its candles' index. NaN where there is not
        enough history yet, where the candles that a market feature needs are missing, and in
        `volume_level` where volume is unknown.
    """
    market = market_features(candles, timeframe)
    return {s: with_market(frame, market, timeframe, feature_cols) for s, frame in candles.items()}


def with_market(
    candles: pd.DataFrame,
    market: pd.DataFrame | None,
    timeframe: str,
    feature_cols: Sequence[str] = POOLED_FEATURES,
) -> pd.DataFrame:
    """The pooled features of one symbol, from its candles and `market_features`.

    Args:
        candles: n candles in the schema.
        market: What `market_features` returned; None leaves the market's four missing.
        timeframe: Length of a candle.
        feature_cols: Which features, in which order.

    Raises:
        ValueError: An unknown feature is asked for.
    """
    demand_features(feature_cols, POOLED_FEATURES, "the pooled preset")
    table = _own_features(candles, timeframe)
    if market is None:
        table |= dict.fromkeys(POOLED_MARKET_FEATURES, np.full(len(candles), np.nan))
    else:
        at_candle = market.reindex(timestamps_ms(candles))
        table |= {name: at_candle[name].to_numpy() for name in POOLED_MARKET_FEATURES}
    return pd.DataFrame(table, index=candles.index)[list(feature_cols)]


def compute_probe_features(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """The pooled features of a pair as Bitcoin's, beside two other made-up coins; for `probe`."""
    market = {"BTC/USDT": candles, "ETH/USDT": probe_candles(1), "SOL/USDT": probe_candles(2)}
    return compute_pooled_features(market, timeframe)["BTC/USDT"]


def market_features(candles: Mapping[str, pd.DataFrame], timeframe: str) -> pd.DataFrame:
    """What Bitcoin and the market did in each candle.

    Args:
        candles: Symbol -> candles; see `compute_pooled_features`.
        timeframe: Length of a candle.

    Returns:
        Frame of `POOLED_MARKET_FEATURES`, indexed by open time (epoch ms) of every candle that any
        symbol has.
    """
    times = np.unique(np.concatenate([timestamps_ms(frame) for frame in candles.values()]))
    bitcoin = np.full((2, len(times)), np.nan)
    sums = np.zeros((2, len(times)))
    counts = np.zeros((2, len(times)))
    # Symbol after symbol: a row's sum has the same bits however many rows there are.
    for symbol in sorted(candles):
        own = _own_features(candles[symbol], timeframe)
        row = np.searchsorted(times, timestamps_ms(candles[symbol]))
        for line, name in enumerate(("scaled_return", "close_position")):
            known = np.isfinite(own[name])
            sums[line, row[known]] += own[name][known]
            counts[line, row[known]] += 1
            if symbol == BITCOIN:
                bitcoin[line, row] = own[name]
    values = np.vstack([bitcoin, sums / np.maximum(counts, 1)])
    # All four or none: a network that learns both cases need not learn what lies between.
    is_known = (counts >= LEAST_COINS).all(axis=0) & np.isfinite(bitcoin).all(axis=0)
    values[:, ~is_known] = np.nan
    return pd.DataFrame(values.T, index=times, columns=list(POOLED_MARKET_FEATURES))


def choose_pooled_features(candles: Mapping[str, pd.DataFrame], timeframe: str) -> tuple[str, ...]:
    """The pooled features that these candles can serve.

    The hours are left out where a day has fewer than 8 candles, the market's four where there is
    no Bitcoin or fewer than `LEAST_COINS` coins.
    """
    chosen: tuple[str, ...] = SEGMENT_FEATURES
    if 8 * timeframe_ms(timeframe) <= DAY_MS:
        chosen += TIME_FEATURES
    if BITCOIN in candles and len(candles) >= LEAST_COINS:
        chosen += POOLED_MARKET_FEATURES
    return chosen


def _own_features(candles: pd.DataFrame, timeframe: str) -> dict[str, np.ndarray]:
    """Name -> (n,) of `POOLED_OWN_FEATURES`, from one symbol's candles."""
    closes_ms = timestamps_ms(candles) + timeframe_ms(timeframe)
    angle = 2.0 * np.pi * (closes_ms % DAY_MS) / DAY_MS
    columns = ("high", "low", "close", "volume")
    table = by_segment(
        _segment_features, candles, timeframe, columns, SEGMENT_FEATURES, POOLED_VOLUME_FEATURES
    )
    return {
        **dict(zip(SEGMENT_FEATURES, table)),
        "hour_sin": np.sin(angle),
        "hour_cos": np.cos(angle),
        "half_day_sin": np.sin(2.0 * angle),
        "half_day_cos": np.cos(2.0 * angle),
    }


def _segment_features(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray
) -> NamedColumns:
    if len(close) <= VOLATILITY_SPAN:  # there is no volatility to scale by yet
        return
    log_return = log_returns(close)
    volatility = ewma_volatility(log_return)
    squares = np.square(log_return)
    usual_volume = talib.SMA(volume, timeperiod=VOLATILITY_SPAN)
    scaled_return = divide_or_zero(log_return, volatility)
    yield "scaled_return", np.clip(scaled_return, -RETURN_LIMIT, RETURN_LIMIT)
    # -1 at the low, 1 at the high
    yield "close_position", divide_or_zero(2.0 * close - high - low, high - low)
    yield "range_size", _log(divide_or_zero(log_ratio(high, low), volatility))
    yield "volume_level", _log(divide_or_zero(volume, usual_volume))
    yield "volatility_ratio_12", _log(divide_or_zero(_deviation(squares, 12), volatility))
    long_volatility = _deviation(squares, LONG_WINDOW)
    yield "volatility_ratio_336", _log(divide_or_zero(volatility, long_volatility))


def _deviation(squares: np.ndarray, window: int) -> np.ndarray:
    """Root mean square of the last `window` rows, or of what there is of them from 12 on."""
    mean = pd.Series(squares).rolling(window, min_periods=12).mean()
    return np.sqrt(mean.clip(lower=0.0).to_numpy())


def _log(ratio: np.ndarray) -> np.ndarray:
    """Natural logarithm within ±`LOG_LIMIT`; of 0 the lower limit."""
    return np.clip(np.log(np.maximum(ratio, np.exp(-LOG_LIMIT))), -LOG_LIMIT, LOG_LIMIT)
