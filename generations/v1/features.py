"""The 50 features of v1 for a candle of either timeframe.

All are causal and free of scale: a coin at 90,000 and one at 0.3 give the same numbers.
`FeatureEngineer` and `process_single_symbol` are the v1 document's own names, thin faces over
`compute_v1_features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import talib

from generations.v1.timeframes import OUTLIER_LIMIT, rows_closing_with
from pipeline.candles.schema import DAY_MS, read_candles, timeframe_ms, timestamps_ms
from pipeline.samples.indicators import (
    CANDLE_VALUES,
    VOLATILITY_WARMUP,
    NamedColumns,
    by_segment,
    demand_features,
    divide_or_zero,
    ewma_volatility,
    forgetting_candles,
    log_ratio,
    log_returns,
    rolling_z_score,
)
from pipeline.samples.scaling import scale_rows
from pipeline.samples.windows import usable_rows, window_view

RETURN_FEATURES = tuple(
    "log_return log_return_2 log_return_4 log_return_12 log_return_24 "
    "open_gap high_ratio low_ratio body close_location".split()
)
VOLATILITY_FEATURES = tuple(
    "volatility_7 volatility_14 volatility_28 volatility_48 ewma_volatility volatility_ratio "
    "volatility_trend atr atr_ratio price_range rolling_range_14 rolling_range_48 parkinson_14 "
    "bb_width bb_position".split()
)
TECHNICAL_FEATURES = tuple(
    "rsi_7 rsi_14 rsi_21 macd macd_signal macd_histogram momentum_10 momentum_20 roc_10 roc_20 "
    "stochastic_k stochastic_d cci_20 adx_14 di_gap ema_gap_48 volume_ratio volume_z volume_change "
    "signed_volume_20 money_flow_20 vwap_gap_24".split()
)
V1_VOLUME_FEATURES = (
    "volume_ratio",
    "volume_z",
    "volume_change",
    "signed_volume_20",
    "money_flow_20",
    "vwap_gap_24",
)
CALENDAR_FEATURES = ("day_sin", "day_cos", "weekend")

V1_FEATURES = (*RETURN_FEATURES, *VOLATILITY_FEATURES, *TECHNICAL_FEATURES, *CALENDAR_FEATURES)

V1_WARMUP = max(
    # The scale of the target and the EMA of 48, the longest: 474.
    VOLATILITY_WARMUP,
    # RSI 21: Wilder's smoothing.
    21 + forgetting_candles(20 / 21),
    # ADX smooths twice, hence the larger start.
    2 * 14 + forgetting_candles(13 / 14, headroom=50 * 21),
)
"""Candles of each timeframe at the start of a history (or after a long gap) that training drops."""

FIRST_SATURDAY = 2  # 1970-01-01 was a Thursday


def compute_v1_features(
    candles: pd.DataFrame, timeframe: str, feature_cols: Sequence[str] = V1_FEATURES
) -> pd.DataFrame:
    """The v1 features of one symbol's candles; row t looks at candles up to t only.

    Args:
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle; tells where the gaps are.
        feature_cols: Which features, in which order.

    Returns:
        (n, len(feature_cols)) float64 frame on the candles' index; NaN where an indicator has not
        enough history yet, and in those of volume where that is unknown (see `by_segment`).

    Raises:
        ValueError: An unknown feature is asked for.
    """
    demand_features(feature_cols, V1_FEATURES, "v1")
    rows = by_segment(
        _segment_features, candles, timeframe, CANDLE_VALUES, V1_FEATURES, V1_VOLUME_FEATURES
    )
    table = dict(zip(V1_FEATURES, rows))
    table |= _calendar_features(timestamps_ms(candles), timeframe_ms(timeframe))
    return pd.DataFrame({name: table[name] for name in feature_cols}, index=candles.index)


def _segment_features(*candles: np.ndarray) -> NamedColumns:
    """All features but the calendar's, of candles without a long gap."""
    # Prices near 1: TA-Lib takes a variance below 1e-14 for 0, and that of a coin at 1e-6 is less.
    *prices, volume = candles
    open_, high, low, close = (price / prices[3][0] for price in prices)
    returns = _return_features(open_, high, low, close)
    yield from returns.items()
    if len(close) > 1:  # TA-Lib refuses input of NaN alone
        location = returns["close_location"]
        yield from _volatility_features(high, low, close, returns["log_return"]).items()
        yield from _technical_features(high, low, close, volume, location).items()


def _return_features(
    open_: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray
) -> dict[str, np.ndarray]:
    gap = np.full(len(close), np.nan)
    gap[1:] = log_ratio(open_[1:], close[:-1])
    return {
        "log_return": log_returns(close),
        **{f"log_return_{n}": log_returns(close, n) for n in (2, 4, 12, 24)},
        "open_gap": gap,
        "high_ratio": log_ratio(high, close),
        "low_ratio": log_ratio(low, close),
        "body": log_ratio(close, open_),
        # -1 at the low, 1 at the high
        "close_location": divide_or_zero(2 * close - high - low, high - low),
    }


def _volatility_features(
    high: np.ndarray, low: np.ndarray, close: np.ndarray, log_return: np.ndarray
) -> dict[str, np.ndarray]:
    deviation = {n: talib.STDDEV(log_return, timeperiod=n) for n in (7, 14, 28, 48)}
    atr = talib.ATR(high, low, close, timeperiod=14)
    upper, middle, lower = talib.BBANDS(close, timeperiod=20, nbdevup=2.0, nbdevdn=2.0)
    reach = {n: log_ratio(talib.MAX(high, n), talib.MIN(low, n)) for n in (14, 48)}
    squared_range = np.square(log_ratio(high, low))
    return {
        **{f"volatility_{n}": values for n, values in deviation.items()},
        "ewma_volatility": ewma_volatility(log_return),
        "volatility_ratio": divide_or_zero(deviation[14], _rolling_sum(deviation[14], 48) / 48),
        "volatility_trend": divide_or_zero(deviation[7], deviation[28]),
        "atr": atr / close,
        "atr_ratio": divide_or_zero(high - low, atr),
        "price_range": (high - low) / close,
        **{f"rolling_range_{n}": values for n, values in reach.items()},
        # Parkinson (1980): mean squared range / (4 ln 2) is a variance.
        "parkinson_14": np.sqrt(_rolling_sum(squared_range, 14) / (14 * 4 * np.log(2))),
        "bb_width": (upper - lower) / middle,
        "bb_position": divide_or_zero(close - lower, upper - lower),
    }


def _technical_features(
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    volume: np.ndarray,
    close_location: np.ndarray,
) -> dict[str, np.ndarray]:
    macd = talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9)
    stochastic = talib.STOCH(high, low, close, fastk_period=14, slowk_period=3, slowd_period=3)
    atr = talib.ATR(high, low, close, timeperiod=14)
    momentum = {n: talib.MOM(close, timeperiod=n) for n in (10, 20)}
    return {
        **{f"rsi_{n}": talib.RSI(close, timeperiod=n) for n in (7, 14, 21)},
        "macd": macd[0] / close,
        "macd_signal": macd[1] / close,
        "macd_histogram": macd[2] / close,
        # in true ranges
        **{f"momentum_{n}": divide_or_zero(values, atr) for n, values in momentum.items()},
        **{f"roc_{n}": talib.ROCP(close, timeperiod=n) for n in (10, 20)},
        "stochastic_k": stochastic[0],
        "stochastic_d": stochastic[1],
        "cci_20": talib.CCI(high, low, close, timeperiod=20),
        "adx_14": talib.ADX(high, low, close, timeperiod=14),
        "di_gap": talib.PLUS_DI(high, low, close, 14) - talib.MINUS_DI(high, low, close, 14),
        "ema_gap_48": close / talib.EMA(close, timeperiod=48) - 1,
        **_volume_features((high + low + close) / 3, close, volume, close_location),
    }


def _volume_features(
    typical_price: np.ndarray, close: np.ndarray, volume: np.ndarray, close_location: np.ndarray
) -> dict[str, np.ndarray]:
    direction = np.sign(np.diff(close, prepend=close[0]))
    traded = _rolling_sum(volume, 20)
    day_volume = _rolling_sum(volume, 24)
    day_value = _rolling_sum(typical_price * volume, 24)
    change = np.zeros(len(close))
    both = (volume[1:] > 0) & (volume[:-1] > 0)
    np.log(volume[1:] / np.where(both, volume[:-1], 1.0), out=change[1:], where=both)
    return {
        "volume_ratio": divide_or_zero(volume, traded / 20),
        "volume_z": rolling_z_score(volume, 48),
        "volume_change": change,
        "signed_volume_20": divide_or_zero(_rolling_sum(direction * volume, 20), traded),
        # Chaikin's
        "money_flow_20": divide_or_zero(_rolling_sum(close_location * volume, 20), traded),
        "vwap_gap_24": divide_or_zero(close * day_volume - day_value, day_value),
    }


def _calendar_features(times: np.ndarray, step_ms: int) -> dict[str, np.ndarray]:
    closes = times + step_ms
    angle = 2 * np.pi * (closes % DAY_MS) / DAY_MS
    day_of_week = (times // DAY_MS - FIRST_SATURDAY) % 7  # 0 is Saturday
    return {
        "day_sin": np.sin(angle),
        "day_cos": np.cos(angle),
        "weekend": (day_of_week < 2).astype(np.float64),
    }


def _rolling_sum(values: np.ndarray, window: int) -> np.ndarray:
    """(n,) sums of the last `window` rows, each afresh: a running sum drifts where trade stops."""
    sums = np.full(len(values), np.nan)
    if len(values) >= window:
        sums[window - 1 :] = np.lib.stride_tricks.sliding_window_view(values, window).sum(axis=1)
    return sums


class FeatureEngineer:
    """The v1 document's feature pipeline, a step a method; none changes the frame it is given."""

    def __init__(self, timeframe: str = "1h") -> None:
        """Features of candles of this length."""
        timeframe_ms(timeframe)
        self.timeframe = timeframe

    def add_log_returns(self, df: pd.DataFrame) -> pd.DataFrame:
        """Add `RETURN_FEATURES`: log-returns over 1 to 24 candles and the shape of the candle."""
        return self._add(df, RETURN_FEATURES)

    def add_volatility_features(self, df: pd.DataFrame) -> pd.DataFrame:
        """Add `VOLATILITY_FEATURES`: rolling and EWMA volatility, ATR, ranges, Bollinger bands."""
        return self._add(df, VOLATILITY_FEATURES)

    def add_technical_indicators(self, df: pd.DataFrame) -> pd.DataFrame:
        """Add `TECHNICAL_FEATURES`, volume among them, and `CALENDAR_FEATURES`."""
        return self._add(df, (*TECHNICAL_FEATURES, *CALENDAR_FEATURES))

    def handle_missing_values(self, df: pd.DataFrame) -> pd.DataFrame:
        """Fill isolated NaN from the row before; longer holes and the start stay NaN."""
        missing = df.isna()
        follows_missing = missing.shift(1, fill_value=True)
        precedes_missing = missing.shift(-1, fill_value=False)
        is_isolated = missing & ~follows_missing & ~precedes_missing
        return df.where(~is_isolated, df.ffill(limit=1))

    def normalize_features(self, df: pd.DataFrame, n_train: int) -> tuple[pd.DataFrame, Any]:
        """Z-score of one coin's features, fitted on its first `n_train` rows alone.

        Returns:
            The frame with its feature columns standardised, NaN as 0, and the fitted
            StandardScaler.
        """
        from sklearn.preprocessing import StandardScaler  # lazy: serving imports this module

        names = _features_in(df)
        scaler = StandardScaler().fit(df[names].iloc[:n_train].to_numpy(np.float64))
        scaled = scale_rows(df[names].to_numpy(np.float32), scaler).astype(np.float64)
        return df.assign(**dict(zip(names, scaled.T))), scaler

    def handle_outliers(self, df: pd.DataFrame) -> pd.DataFrame:
        """Clip standardised features to `OUTLIER_LIMIT` standard deviations."""
        names = _features_in(df)
        return df.assign(**df[names].clip(-OUTLIER_LIMIT, OUTLIER_LIMIT))

    def create_sequences(
        self, df: pd.DataFrame, lookback: int = 60
    ) -> tuple[np.ndarray, np.ndarray]:
        """Windows without a gap or NaN, and the log-return of the candle after each.

        Returns:
            (n, lookback, n_features) float32, and (n,) float64.
        """
        t = self._window_ends(df, lookback)
        return _windows(df, t, lookback), _next_log_returns(df, t)

    def create_dual_stream_sequences(
        self, df_1h: pd.DataFrame, df_15m: pd.DataFrame, lookback: int = 60
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Windows of both timeframes that end at the same instant, and the next hour's log-return.

        Returns:
            Two (n, lookback, n_features) float32 arrays, 1h and 15m, and (n,) float64.
        """
        fine = FeatureEngineer("15m")
        t = self._window_ends(df_1h, lookback)
        row = rows_closing_with(
            timestamps_ms(df_1h)[t], timestamps_ms(df_15m), self.timeframe, fine.timeframe
        )
        has_window = np.isin(row, fine._window_ends(df_15m, lookback, horizon=0))
        t, row = t[has_window], row[has_window]
        windows = _windows(df_1h, t, lookback), _windows(df_15m, row, lookback)
        return *windows, _next_log_returns(df_1h, t)

    def _add(self, df: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        return df.assign(**compute_v1_features(df, self.timeframe, names))

    def _window_ends(self, df: pd.DataFrame, lookback: int, horizon: int = 1) -> np.ndarray:
        """Rows that end a window of known features; with a horizon, another candle follows."""
        times = timestamps_ms(df)
        step_ms = timeframe_ms(self.timeframe)
        row = np.arange(len(df))
        unknown = df[_features_in(df)].isna().any(axis=1).to_numpy()
        last_unknown = np.maximum.accumulate(np.where(unknown, row, -1))
        usable = usable_rows(times, step_ms, lookback, warmup=0) & (row - last_unknown >= lookback)
        if horizon:
            usable = usable & np.append(np.diff(times) == step_ms, False)
        return np.flatnonzero(usable)


def _features_in(df: pd.DataFrame) -> list[str]:
    return [name for name in V1_FEATURES if name in df]


def _windows(df: pd.DataFrame, t: np.ndarray, lookback: int) -> np.ndarray:
    rows = df[_features_in(df)].to_numpy(np.float32)
    return window_view(rows, lookback)[t - lookback + 1]


def _next_log_returns(df: pd.DataFrame, t: np.ndarray) -> np.ndarray:
    return log_returns(df["close"].to_numpy())[t + 1]


def process_single_symbol(
    df: pd.DataFrame, symbol: str, config: Any = None, timeframe: str = "1h"
) -> pd.DataFrame:
    """Candles of one coin with the 50 features beside them; rows of the warm-up are dropped.

    They are not standardised: `normalize_features` needs to know where the training part ends.

    Args:
        df: Candles as users have them.
        symbol: What to call the coin in errors.
        config: The run's settings; nothing in them changes the features.
        timeframe: Length of a candle.

    Raises:
        ValueError: Unsound candles, or no more of them than the warm-up.
    """
    candles = read_candles(df, timeframe, where=symbol)
    if len(candles) <= V1_WARMUP:
        raise ValueError(
            f"{symbol}: {len(candles)} candles are no more than the warm-up of {V1_WARMUP}; fetch "
            "more candles"
        )
    engineer = FeatureEngineer(timeframe)
    candles = engineer.add_log_returns(candles)
    candles = engineer.add_volatility_features(candles)
    candles = engineer.add_technical_indicators(candles)
    candles = engineer.handle_missing_values(candles)
    since_start = usable_rows(timestamps_ms(candles), timeframe_ms(timeframe), 1, V1_WARMUP)
    return candles[since_start].reset_index(drop=True)
