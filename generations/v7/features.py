"""The 13 inputs of v7, in its document's order.

Prices and what is measured in them are raw: v7 forecasts price levels, so its inputs are levels
too.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import talib

from pipeline.samples.indicators import (
    VOLATILITY_WARMUP,
    NamedColumns,
    by_segment,
    divide_or_zero,
    forgetting_candles,
    log_returns,
)

V7_FEATURES = tuple(
    "close open high low volume atr bb_upper bb_lower bb_width rsi macd volatility "
    "bb_position".split()
)

V7_PRICES = ("close", "open", "high", "low", "bb_upper", "bb_lower")
"""Inputs that are prices, and so share one scale with the four prices that are forecast."""

V7_VOLUME_FEATURES = ("volume",)

V7_WARMUP = max(
    14 + forgetting_candles(13 / 14),  # RSI and ATR: Wilder's smoothing
    33 + forgetting_candles(25 / 27),  # MACD: its slow EMA of 26, first value in row 33
    VOLATILITY_WARMUP,  # the scale of errors, the longest: 474
)
"""Candles at the start of a history (or after a long gap) that training drops."""


def compute_ohlc_features(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """The v7 features of one symbol's candles; row t looks at candles up to t only.

    Bollinger Bands (Bollinger, 2001) are the mean of 20 closes plus and minus two population
    standard deviations; `bb_width` is their distance over the mean, `bb_position` is 0 at the lower
    and 1 at the upper band and leaves that range where the close does. ATR and RSI are Wilder's
    (1978), over 14 candles; MACD is EMA 12 - EMA 26 of the close; `volatility` is the standard
    deviation of 20 log-returns.

    Args:
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle, such as "1h"; tells where the gaps are.

    Returns:
        (n, 13) float64 frame on the candles' index, columns `V7_FEATURES`: prices, ATR and MACD in
        quote currency, volume in base currency, RSI 0 to 100, the others without a unit. NaN where
        an indicator has not enough history yet, and where volume is unknown (see `by_segment`).
    """
    table = by_segment(
        _segment_features, candles, timeframe, V7_FEATURES[:5], V7_FEATURES, V7_VOLUME_FEATURES
    )
    return pd.DataFrame(table.T, index=candles.index, columns=list(V7_FEATURES), copy=False)


def _segment_features(
    close: np.ndarray, open_: np.ndarray, high: np.ndarray, low: np.ndarray, volume: np.ndarray
) -> NamedColumns:
    """`V7_FEATURES` of candles without a long gap."""
    yield from zip(V7_FEATURES, (close, open_, high, low, volume))
    if len(close) < 2:  # TA-Lib refuses input of NaN alone
        return
    yield "atr", talib.ATR(high, low, close, timeperiod=14)
    upper, middle, lower = talib.BBANDS(close, timeperiod=20, nbdevup=2.0, nbdevdn=2.0)
    yield "bb_upper", upper
    yield "bb_lower", lower
    yield "bb_width", (upper - lower) / middle
    yield "rsi", talib.RSI(close, timeperiod=14)
    yield "macd", talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)[0]
    yield "volatility", talib.STDDEV(log_returns(close), timeperiod=20)
    # 0 / 0 where 20 closes are equal: the close is then in the middle of bands without width
    yield "bb_position", 0.5 + divide_or_zero(close - middle, upper - lower)
