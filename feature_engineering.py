"""The causal feature set of each generation.

v2 (18): open_gap, high_ratio, low_ratio, body, volume_z, log_return, volatility_14, volatility_20,
momentum_10, momentum_20, price_range, rsi, macd, macd_signal, volume_ratio, atr, funding_rate,
open_interest_change.

v2's pooled preset (14): see `pipeline.samples.pooled_features`.

v1-final (14): open, high, low, close, volume, log_return, volatility_14, momentum_10, price_range,
rsi, macd, macd_signal, volume_ratio, atr. The first five are the raw candle, whose level that
generation forecasts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import talib

from generations.v1.features import FeatureEngineer as FeatureEngineer
from generations.v1.features import process_single_symbol as process_single_symbol
from pipeline.candles.schema import segment_starts, timeframe_ms, timestamps_ms
from pipeline.samples.indicators import (
    VOLATILITY_WARMUP,
    divide_or_zero,
    forgetting_candles,
    log_ratio,
    rolling_z_score,
)
from pipeline.samples.pooled_features import (
    choose_pooled_features,
    compute_pooled_features,
    is_pooled,
)

logger = logging.getLogger(__name__)

V2_CANDLE_FEATURES = (
    "open_gap",
    "high_ratio",
    "low_ratio",
    "body",
    "volume_z",
    "log_return",
    "volatility_14",
    "volatility_20",
    "momentum_10",
    "momentum_20",
    "price_range",
    "rsi",
    "macd",
    "macd_signal",
    "volume_ratio",
    "atr",
)
"""Computed from every candle."""

V2_OPTIONAL_FEATURES = {"funding_rate": "funding_rate", "open_interest_change": "open_interest"}
"""Feature -> the column it needs; used only where that column is real, fresh and complete (design:
real or absent)."""

V2_FEATURES = (*V2_CANDLE_FEATURES, *V2_OPTIONAL_FEATURES)

VOLUME_Z_WINDOW = 48

V2_WARMUP = max(
    VOLUME_Z_WINDOW,
    14 + forgetting_candles(13 / 14),  # RSI and ATR: Wilder's smoothing
    33 + forgetting_candles(25 / 27),  # MACD: its slow EMA of 26, first value in row 33
    VOLATILITY_WARMUP,  # the scale of the target, the longest: 474
)
"""Candles at the start of a history (or after a long gap) that training drops."""

CANDLE_VALUES = ("open", "high", "low", "close", "volume")

V1_FINAL_FEATURES = (
    *CANDLE_VALUES,
    "log_return",
    "volatility_14",
    "momentum_10",
    "price_range",
    "rsi",
    "macd",
    "macd_signal",
    "volume_ratio",
    "atr",
)
"""The training report's 14 indicators, in its order."""

V1_FINAL_WARMUP = V2_WARMUP
"""The indicators are v2's, and so is the volatility by which errors are scaled."""

MIN_COVERAGE = 0.99
"""Share of the used candles for which every symbol must have a fresh value of an optional
column."""


def compute_features(
    candles: pd.DataFrame, timeframe: str, feature_cols: Sequence[str] = V2_FEATURES
) -> pd.DataFrame:
    """The v2 features of one symbol's candles; row t looks at candles up to t only.

    Args:
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle, such as "1h"; tells where the gaps are.
        feature_cols: Which features, in which order.

    Returns:
        (n, len(feature_cols)) float64 frame on the candles' index. NaN where an indicator has not
        enough history yet (fewer than 48 rows into a segment) and where an optional column is
        absent or stale.

    Raises:
        ValueError: An unknown feature is asked for.
    """
    unknown = [name for name in feature_cols if name not in V2_FEATURES]
    if unknown:
        raise ValueError(f"unknown feature {unknown[0]!r}; v2 knows {', '.join(V2_FEATURES)}")
    table = np.full(
        (len(V2_FEATURES), len(candles)), np.nan
    )  # a row a feature: each is written in one stretch
    arrays = [np.ascontiguousarray(candles[name], dtype=np.float64) for name in CANDLE_VALUES]
    starts = segment_starts(timestamps_ms(candles), timeframe_ms(timeframe))
    for first, end in zip(starts, [*starts[1:], len(candles)]):
        _compute_candle_features([array[first:end] for array in arrays], table[:, first:end])
        _compute_optional_features(candles.iloc[first:end], table[:, first:end])
    frame = pd.DataFrame(table.T, index=candles.index, columns=list(V2_FEATURES), copy=False)
    return frame if tuple(feature_cols) == V2_FEATURES else frame[list(feature_cols)]


def compute_market(
    candles: Mapping[str, pd.DataFrame], timeframe: str, feature_cols: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """The features of every symbol's candles: v2's, by `compute_features`, or the pooled
    preset's."""
    if is_pooled(feature_cols):
        return compute_pooled_features(candles, timeframe, feature_cols)
    return {
        symbol: compute_features(frame, timeframe, feature_cols)
        for symbol, frame in candles.items()
    }


def choose_preset_features(
    preset: str, candles: Mapping[str, pd.DataFrame], timeframe: str, used_candles: int
) -> tuple[str, ...]:
    """The feature columns of a preset, guide or pooled, that these candles can serve; see
    `choose_features`."""
    if preset == "pooled":
        return choose_pooled_features(candles, timeframe)
    return choose_features(candles, used_candles)


def compute_level_features(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """The v1-final features of one symbol's candles; row t looks at candles up to t only.

    Args:
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle, such as "1h"; tells where the gaps are.

    Returns:
        (n, 14) float64 frame on the candles' index, columns `V1_FINAL_FEATURES`: prices in quote
        currency, volume in base currency, then v2's scale-free indicators, NaN where they have not
        enough history yet.
    """
    indicators = compute_features(candles, timeframe, V1_FINAL_FEATURES[len(CANDLE_VALUES) :])
    return pd.concat([candles[list(CANDLE_VALUES)].astype(np.float64), indicators], axis=1)


def choose_features(candles: Mapping[str, pd.DataFrame], used_candles: int) -> tuple[str, ...]:
    """Feature columns every symbol can serve; a notice is logged for each one dropped.

    An optional feature stays only if every symbol has a fresh value in at least `MIN_COVERAGE` of
    its last `used_candles` candles (0: all).
    """
    kept = list(V2_CANDLE_FEATURES)
    for feature, column in V2_OPTIONAL_FEATURES.items():
        used = {
            symbol: _optional_values(frame, feature).iloc[-used_candles:]
            for symbol, frame in candles.items()
        }
        coverage = {symbol: float(values.notna().mean()) for symbol, values in used.items()}
        short = {symbol: share for symbol, share in coverage.items() if share < MIN_COVERAGE}
        if short:
            worst = min(short, key=lambda symbol: short[symbol])
            logger.info(
                "%s dropped: %d of %d symbols lack a fresh %s for 99 %% of the used candles "
                "(worst: %s, %.1f %%)",
                feature,
                len(short),
                len(candles),
                column,
                worst,
                100 * short[worst],
            )
        elif all(values.nunique() == 1 for values in used.values()):
            logger.info("%s dropped: %s never changes in the used candles", feature, column)
        else:
            kept.append(feature)
    return tuple(kept)


def _compute_candle_features(candles: Sequence[np.ndarray], table: np.ndarray) -> None:
    """Fill the first 16 rows of `table`, (18, n), from open, high, low, close, volume without a
    long gap, (n,) each."""
    open_, high, low, close, volume = candles
    (
        open_gap,
        high_ratio,
        low_ratio,
        body,
        volume_z,
        log_return,
        volatility_14,
        volatility_20,
        momentum_10,
        momentum_20,
        price_range,
        rsi,
        macd,
        macd_signal,
        volume_ratio,
        atr,
    ) = table[: len(V2_CANDLE_FEATURES)]
    open_gap[1:] = log_ratio(open_[1:], close[:-1])
    high_ratio[:] = log_ratio(high, close)
    low_ratio[:] = log_ratio(low, close)
    body[:] = log_ratio(close, open_)
    log_return[1:] = log_ratio(close[1:], close[:-1])
    price_range[:] = (high - low) / close
    if len(close) < 2:  # TA-Lib refuses input of NaN alone
        return
    volume_z[:] = rolling_z_score(volume, VOLUME_Z_WINDOW)
    volume_ratio[:] = divide_or_zero(volume, talib.SMA(volume, timeperiod=20))
    volatility_14[:] = talib.STDDEV(log_return, timeperiod=14)
    volatility_20[:] = talib.STDDEV(log_return, timeperiod=20)
    momentum_10[:] = talib.ROCP(close, timeperiod=10)
    momentum_20[:] = talib.ROCP(close, timeperiod=20)
    rsi[:] = talib.RSI(close, timeperiod=14)  # 0 to 100
    macd_line, signal_line, _ = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    macd[:] = macd_line / close  # in units of the price, so that coins compare
    macd_signal[:] = signal_line / close
    atr[:] = talib.NATR(
        high, low, close, timeperiod=14
    )  # average true range in percent of the close


def _compute_optional_features(candles: pd.DataFrame, table: np.ndarray) -> None:
    """Fill the last two rows of `table` where the candles carry the columns."""
    for row, (feature, column) in enumerate(
        V2_OPTIONAL_FEATURES.items(), start=len(V2_CANDLE_FEATURES)
    ):
        if column in candles.columns:
            table[row] = _optional_values(candles, feature).to_numpy()


def _optional_values(candles: pd.DataFrame, feature: str) -> pd.Series:
    """Values of an optional feature; NaN where its column is absent, stale, or not yet known
    twice."""
    column = V2_OPTIONAL_FEATURES[feature]
    if column not in candles.columns:
        return pd.Series(np.nan, index=candles.index)
    if feature == "funding_rate":
        return candles[column]
    change = np.full(len(candles), np.nan)
    known = candles[column].where(candles[column] > 0).to_numpy()
    change[1:] = log_ratio(known[1:], known[:-1])
    return pd.Series(change, index=candles.index)
