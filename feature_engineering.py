"""The causal features of v2, and what v1's document imports from here.

The pooled preset's are in `pipeline.samples.pooled_features`. `FeatureEngineer` and
`process_single_symbol` are v1's.
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
    CANDLE_VALUES,
    VOLATILITY_WARMUP,
    NamedColumns,
    by_segment,
    demand_features,
    divide_or_zero,
    forgetting_candles,
    log_ratio,
    log_returns,
    rolling_z_score,
)
from pipeline.samples.pooled_features import (
    POOLED_MARKET_FEATURES,
    TIME_FEATURES,
    choose_pooled_features,
    compute_pooled_features,
    compute_probe_features,
    preset_of,
)
from pipeline.samples.probe import Probe, probe

logger = logging.getLogger(__name__)

V2_CANDLE_FEATURES = tuple(
    "open_gap high_ratio low_ratio body volume_z log_return volatility_14 volatility_20 "
    "momentum_10 momentum_20 price_range rsi macd macd_signal volume_ratio atr".split()
)
"""Computed from every candle."""

V2_OPTIONAL_FEATURES = {"funding_rate": "funding_rate", "open_interest_change": "open_interest"}
"""Feature -> the column it needs; used only where that column is real, fresh and complete."""

V2_VOLUME_FEATURES = ("volume_z", "volume_ratio")

V2_FEATURES = (*V2_CANDLE_FEATURES, *V2_OPTIONAL_FEATURES)

FEATURE_GROUPS = {
    "last moves": ("open_gap", "body", "log_return", "scaled_return"),
    "highs and lows": ("high_ratio", "low_ratio", "price_range", "close_position", "range_size"),
    "momentum": ("momentum_10", "momentum_20", "rsi", "macd", "macd_signal"),
    "volatility": (
        *("volatility_14", "volatility_20", "atr"),
        *("volatility_ratio_12", "volatility_ratio_336"),
    ),
    "volume": ("volume_z", "volume_ratio", "volume_level"),
    "funding": ("funding_rate",),
    "open interest": ("open_interest_change",),
    "time of day": TIME_FEATURES,
    "Bitcoin and the market": POOLED_MARKET_FEATURES,
}
"""Related features of both presets, which say much the same."""

VOLUME_Z_WINDOW = 48

V2_WARMUP = max(
    VOLUME_Z_WINDOW,
    14 + forgetting_candles(13 / 14),  # RSI and ATR: Wilder's smoothing
    33 + forgetting_candles(25 / 27),  # MACD: its slow EMA of 26, first value in row 33
    VOLATILITY_WARMUP,  # the scale of the target, the longest: 474
)
"""Candles at the start of a history (or after a long gap) that training drops."""

MIN_COVERAGE = 0.99
"""Least share of the used candles, of every symbol, with a fresh value of an optional column."""


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
        enough history yet (fewer than 48 rows into a segment), where an optional column is absent
        or stale, and in those of volume where that is unknown (see `by_segment`).

    Raises:
        ValueError: An unknown feature is asked for.
    """
    demand_features(feature_cols, V2_FEATURES, "v2")
    table = by_segment(
        _candle_features, candles, timeframe, CANDLE_VALUES, V2_FEATURES, V2_VOLUME_FEATURES
    )
    for row, feature in enumerate(V2_OPTIONAL_FEATURES, start=len(V2_CANDLE_FEATURES)):
        table[row] = _optional_values(candles, feature)
    # The last row is a change, which does not reach across a long gap.
    table[-1, segment_starts(timestamps_ms(candles), timeframe_ms(timeframe))[1:]] = np.nan
    if tuple(feature_cols) != V2_FEATURES:
        table = table[[V2_FEATURES.index(name) for name in feature_cols]]
    return pd.DataFrame(table.T, index=candles.index, columns=list(feature_cols), copy=False)


def compute_market(
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    feature_cols: Sequence[str],
    preset: str | None = None,
) -> dict[str, pd.DataFrame]:
    """Symbol -> its features, v2's or the pooled preset's.

    Args:
        candles: Symbol -> its candles.
        timeframe: Length of a candle.
        feature_cols: Which features, in which order.
        preset: "guide" or "pooled"; None for the one that the features are of.
    """
    if (preset or preset_of(feature_cols)) == "pooled":
        return compute_pooled_features(candles, timeframe, feature_cols)
    return {
        symbol: compute_features(frame, timeframe, feature_cols)
        for symbol, frame in candles.items()
    }


def group_features(feature_cols: Sequence[str]) -> dict[str, list[str]]:
    """Name of each group of `FEATURE_GROUPS` -> those of its features that are used.

    Example:
        >>> group_features(["rsi", "log_return", "body"])
        {'last moves': ['body', 'log_return'], 'momentum': ['rsi']}
    """
    groups = {
        group: [name for name in names if name in feature_cols]
        for group, names in FEATURE_GROUPS.items()
    }
    return {group: names for group, names in groups.items() if names}


def probe_preset(preset: str) -> Probe:
    """What this code makes of fixed candles, of the features of a preset."""
    return probe(compute_probe_features if preset == "pooled" else compute_features)


def choose_preset_features(
    preset: str, candles: Mapping[str, pd.DataFrame], timeframe: str, used_candles: int
) -> tuple[str, ...]:
    """The feature columns of a preset, guide or pooled, that these candles can serve."""
    if preset == "pooled":
        return choose_pooled_features(candles, timeframe)
    return choose_features(candles, used_candles)


def choose_features(candles: Mapping[str, pd.DataFrame], used_candles: int) -> tuple[str, ...]:
    """Feature columns every symbol can serve; a notice is logged for each one dropped.

    An optional feature stays only if every symbol has a fresh value in at least `MIN_COVERAGE` of
    its last `used_candles` candles (0: all).
    """
    kept = list(V2_CANDLE_FEATURES)
    for feature, column in V2_OPTIONAL_FEATURES.items():
        used = [_optional_values(frame, feature)[-used_candles:] for frame in candles.values()]
        coverage = [float((~np.isnan(values)).mean()) for values in used]
        n_short = sum(share < MIN_COVERAGE for share in coverage)
        if n_short:
            logger.info(
                "%s dropped: %d of %d symbols have a fresh %s at less than 99 %% of the used "
                "candles (worst: %s, at %.1f %%)",
                feature,
                n_short,
                len(candles),
                column,
                list(candles)[int(np.argmin(coverage))],
                100 * min(coverage),
            )
        else:
            kept.append(feature)
    return tuple(kept)


def _candle_features(
    open_: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray, volume: np.ndarray
) -> NamedColumns:
    """`V2_CANDLE_FEATURES` of candles without a long gap."""
    log_return = log_returns(close)
    open_gap = np.full(len(close), np.nan)
    open_gap[1:] = log_ratio(open_[1:], close[:-1])
    yield "open_gap", open_gap
    yield "high_ratio", log_ratio(high, close)
    yield "low_ratio", log_ratio(low, close)
    yield "body", log_ratio(close, open_)
    yield "log_return", log_return
    yield "price_range", (high - low) / close
    if len(close) < 2:  # TA-Lib refuses input of NaN alone
        return
    yield "volume_z", rolling_z_score(volume, VOLUME_Z_WINDOW)
    yield "volume_ratio", divide_or_zero(volume, talib.SMA(volume, timeperiod=20))
    yield "volatility_14", talib.STDDEV(log_return, timeperiod=14)
    yield "volatility_20", talib.STDDEV(log_return, timeperiod=20)
    yield "momentum_10", talib.ROCP(close, timeperiod=10)
    yield "momentum_20", talib.ROCP(close, timeperiod=20)
    yield "rsi", talib.RSI(close, timeperiod=14)  # 0 to 100
    macd, signal, _ = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    yield "macd", macd / close  # in units of the price, so that coins compare
    yield "macd_signal", signal / close
    yield "atr", talib.NATR(high, low, close, timeperiod=14)  # true range in percent of the close


def _optional_values(candles: pd.DataFrame, feature: str) -> np.ndarray:
    """(n,) of an optional feature; NaN where its column is absent or stale, or has no change."""
    column = V2_OPTIONAL_FEATURES[feature]
    if column not in candles:
        return np.full(len(candles), np.nan)
    values = candles[column].to_numpy(np.float64)
    if feature == "funding_rate":
        return values
    return log_returns(np.where(values > 0, values, np.nan))
