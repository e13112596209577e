"""v9's 46 causal features: v2's 16 of the candle and its indicators, and 30 more.

All are free of the price's and the volume's scale, so a coin at 90,000 and one at 0.3 give the same
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import talib

from feature_engineering import V2_CANDLE_FEATURES, V2_VOLUME_FEATURES, V2_WARMUP, compute_features
from pipeline.candles.schema import DAY_MS, timeframe_ms, timestamps_ms
from pipeline.samples.indicators import (
    NamedColumns,
    by_segment,
    demand_features,
    divide_or_zero,
    ewma_volatility,
    log_ratio,
    log_returns,
)

V9_OWN_FEATURES = tuple(
    # trend
    "momentum_3 momentum_48 momentum_168 sma_20_gap sma_50_gap sma_200_gap macd_histogram adx "
    "plus_di minus_di aroon trix "
    # place within the recent range
    "bollinger_position bollinger_width channel_position stochastic_k stochastic_d cci rsi_7 "
    # volume and volatility
    "money_flow volume_trend volatility_ewma volatility_ratio_24 volatility_ratio_168 "
    "volatility_ratio_720 range_ratio_24 "
    # time of the candle's close
    "hour_sin hour_cos week_sin week_cos".split()
)

V9_VOLUME_FEATURES = (*V2_VOLUME_FEATURES, "money_flow", "volume_trend")

V9_FEATURES = (*V2_CANDLE_FEATURES, *V9_OWN_FEATURES)
"""The document's 46, in the order the networks see them."""

LONG_WINDOW = 720
"""candles; a month of hours, the longest window"""

V9_WARMUP = max(V2_WARMUP, LONG_WINDOW)
"""Candles at the start of a history (or after a long gap) that training drops."""

MIN_VOLATILITY = 1e-7
"""log-return; a price that stands still is taken to move this much, so that ratios are finite"""
SMALLEST_RATIO = 0.01
"""floor of a ratio of volatilities before its logarithm"""


def compute_v9_features(
    candles: pd.DataFrame, timeframe: str, feature_cols: Sequence[str] = V9_FEATURES
) -> pd.DataFrame:
    """The v9 features of one symbol's candles; row t looks at candles up to t only.

    Args:
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle, such as "1h"; tells where the gaps are.
        feature_cols: Which features, in which order.

    Returns:
        (n, len(feature_cols)) float64 frame on the candles' index. NaN where an indicator has not
        enough history yet, which is the case in the first 199 rows of a segment, and in those of
        volume where that is unknown (see `by_segment`); ratios of volatilities take what history
        there is.

    Raises:
        ValueError: An unknown feature is asked for.
    """
    demand_features(feature_cols, V9_FEATURES, "v9")
    columns = ("high", "low", "close", "volume")
    of_volume = V9_VOLUME_FEATURES[len(V2_VOLUME_FEATURES) :]
    rows = by_segment(_segment_features, candles, timeframe, columns, V9_OWN_FEATURES, of_volume)
    table = dict(zip(V9_OWN_FEATURES, rows))
    table |= _time_features(timestamps_ms(candles) + timeframe_ms(timeframe))
    shared = compute_features(candles, timeframe, V2_CANDLE_FEATURES)
    return pd.concat([shared, pd.DataFrame(table, index=candles.index)], axis=1)[list(feature_cols)]


def _segment_features(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray
) -> NamedColumns:
    """v9's own features but the time's, of candles without a long gap."""
    if len(close) < 2:  # TA-Lib refuses input of NaN alone
        return
    yield from _trend_features(high, low, close).items()
    yield from _position_features(high, low, close).items()
    yield from _volume_features(high, low, close, volume).items()
    yield from _volatility_features(high, low, close).items()


def _trend_features(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> dict[str, np.ndarray]:
    means = {n: talib.SMA(close, timeperiod=n) for n in (20, 50, 200)}
    _, _, histogram = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    return {
        **{f"momentum_{n}": talib.ROCP(close, timeperiod=n) for n in (3, 48, 168)},
        **{f"sma_{n}_gap": log_ratio(close, mean) for n, mean in means.items()},
        "macd_histogram": histogram / close,  # in units of the price, so that coins compare
        "adx": talib.ADX(high, low, close, timeperiod=14),  # this and the four below: percent
        "plus_di": talib.PLUS_DI(high, low, close, timeperiod=14),
        "minus_di": talib.MINUS_DI(high, low, close, timeperiod=14),
        "aroon": talib.AROONOSC(high, low, timeperiod=25),
        "trix": talib.TRIX(close, timeperiod=15),
    }


def _position_features(
    high: np.ndarray, low: np.ndarray, close: np.ndarray
) -> dict[str, np.ndarray]:
    mean, spread = np.full((2, len(close)), np.nan)
    if len(close) >= 20:
        # Bollinger (2001): the mean and the population deviation of 20 closes. Of the windows
        # themselves: TA-Lib's deviation of a price below 1e-5 is 0, because it takes a variance
        # below 1e-14 for rounding.
        windows = np.lib.stride_tricks.sliding_window_view(close, 20)
        mean[19:] = windows.mean(axis=1)
        spread[19:] = windows.std(axis=1)
    spread[spread < 1e-12 * close] = 0.0  # closes that do not move, but for rounding
    lowest = talib.MIN(low, timeperiod=48)
    highest = talib.MAX(high, timeperiod=48)
    slow_k, slow_d = talib.STOCH(high, low, close, fastk_period=14, slowk_period=3, slowd_period=3)
    return {
        "bollinger_position": divide_or_zero(close - mean, 2.0 * spread),
        "bollinger_width": 4.0 * spread / mean,
        # -1 to 1
        "channel_position": divide_or_zero(2.0 * close - highest - lowest, highest - lowest),
        "stochastic_k": slow_k,  # 0 to 100
        "stochastic_d": slow_d,
        "cci": talib.CCI(high, low, close, timeperiod=20),
        "rsi_7": talib.RSI(close, timeperiod=7),  # 0 to 100
    }


def _volume_features(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray
) -> dict[str, np.ndarray]:
    # -volume at the low, +volume at the high
    flow = divide_or_zero(2.0 * close - high - low, high - low) * volume
    traded = talib.SUM(volume, timeperiod=20)
    day, week = (pd.Series(volume).rolling(n, min_periods=24).mean().to_numpy() for n in (24, 168))
    return {
        # Chaikin's money flow; TA-Lib's MFI takes a sum of price times volume below 1 for none
        "money_flow": divide_or_zero(talib.SUM(flow, timeperiod=20), traded),
        "volume_trend": np.log(np.maximum(divide_or_zero(day, week), SMALLEST_RATIO)),
    }


def _volatility_features(
    high: np.ndarray, low: np.ndarray, close: np.ndarray
) -> dict[str, np.ndarray]:
    log_return = log_returns(close)
    ewma = ewma_volatility(log_return)
    squares = pd.Series(np.square(log_return))
    sizes = {"range_ratio_24": talib.SMA(log_ratio(high, low), timeperiod=24)}
    for n in (24, 168, LONG_WINDOW):
        mean_square = squares.rolling(n, min_periods=24).mean().clip(lower=0.0).to_numpy()
        sizes[f"volatility_ratio_{n}"] = np.sqrt(mean_square)
    scale = np.maximum(ewma, MIN_VOLATILITY)
    ratios = {
        name: np.log(np.maximum(size / scale, SMALLEST_RATIO)) for name, size in sizes.items()
    }
    return {"volatility_ewma": ewma, **ratios}


def _time_features(closes_ms: np.ndarray) -> dict[str, np.ndarray]:
    """Where in the day and in the week, both UTC, a candle closes."""
    features: dict[str, np.ndarray] = {}
    for name, length in (("hour", DAY_MS), ("week", 7 * DAY_MS)):
        angle = 2.0 * np.pi * (closes_ms % length) / length
        features |= {f"{name}_sin": np.sin(angle), f"{name}_cos": np.cos(angle)}
    return features
