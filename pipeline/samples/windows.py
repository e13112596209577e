"""Samples: which windows of candles may be forecast, and views of them without copies."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.schema import missing_before, segment_starts, timeframe_ms, timestamps_ms
from pipeline.samples.indicators import VOLATILITY_SPAN, by_segment, ewma_volatility, log_returns

logger = logging.getLogger(__name__)

SAMPLE_FIELDS = tuple(
    "end symbol target_time base_price current_return log_return volatility".split()
)
"""The fields of `Samples` that hold an entry a sample."""


@dataclass(frozen=True)
class Stream:
    """A window a sample, of candles of one timeframe: what one input of a network sees."""

    rows: np.ndarray
    """(n_candles, n_features) float32"""
    end: np.ndarray
    """(n_samples,) int64; the last row of each window"""
    lookback: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of a window: candles, features."""
        return self.lookback, self.rows.shape[1]


@dataclass(frozen=True)
class Samples:
    """Every sample of every symbol, symbols one after another, each in time order."""

    symbols: tuple[str, ...]
    feature_cols: tuple[str, ...]
    """names of the columns of `rows`"""
    rows: np.ndarray
    """(n_candles, n_features) float32, symbol after symbol; a window is `lookback` rows of it"""
    row_ms: np.ndarray
    """(n_candles,) int64; open time of each row's candle"""
    end: np.ndarray
    """(n_samples,) int64; the row of candle t, the last one a sample sees"""
    symbol: np.ndarray
    """(n_samples,) int64; index into `symbols`"""
    target_time: np.ndarray
    """(n_samples,) datetime64[ms] UTC; close of candle t + horizon"""
    base_price: np.ndarray
    """(n_samples,) close of candle t, in quote currency"""
    current_return: np.ndarray
    """(n_samples,) log-return of candle t itself, what a forecast must not merely copy"""
    log_return: np.ndarray
    """(n_samples,) the target, ln(close[t + horizon] / close[t])"""
    volatility: np.ndarray
    """(n_samples,) causal EWMA volatility at t times sqrt(horizon), the scale of the target"""
    timeframe: str
    lookback: int
    horizon: int
    step_ms: int
    """length of a candle"""

    def __len__(self) -> int:
        return len(self.end)

    @property
    def time(self) -> np.ndarray:
        """(n_samples,) datetime64[ms] UTC; open of candle t."""
        return self.row_ms[self.end].astype("datetime64[ms]")

    @property
    def n_features(self) -> int:
        return self.rows.shape[1]

    @property
    def target_span(self) -> np.timedelta64:
        """How far a target reaches beyond candle t."""
        return np.timedelta64(self.horizon * self.step_ms, "ms")

    def take(self, kept: np.ndarray) -> Samples:
        """The samples that a boolean mask keeps."""
        return replace(self, **{name: getattr(self, name)[kept] for name in SAMPLE_FIELDS})

    def with_features(self, kept: np.ndarray) -> Samples:
        """The same samples with the features that a boolean mask keeps."""
        if kept.all():
            return self
        names = tuple(itertools.compress(self.feature_cols, kept))
        return replace(self, feature_cols=names, rows=self.rows[:, kept])

    def facts(self) -> dict[str, Any]:
        """What a forecast from the saved network must know of its samples, as plain data."""
        return {
            "feature_cols": list(self.feature_cols),
            "lookback": self.lookback,
            "horizon": self.horizon,
            "timeframe": self.timeframe,
            "symbols": list(self.symbols),
        }


def make_windows(
    features: Mapping[str, pd.DataFrame],
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    lookback: int,
    horizon: int,
    warmup: int,
) -> Samples:
    """Collect the samples of all symbols.

    A window or a target that spans a gap is no sample, nor is a window that holds a warm-up row.

    Args:
        features: Symbol -> (n, n_features) frame, a row for each of the symbol's candles.
        candles: Symbol -> n candles, same rows.
        timeframe: Length of a candle.
        lookback: Candles a window holds.
        horizon: Candles from t to the target.
        warmup: Rows dropped at the start and after every long gap.

    Raises:
        ValueError: A symbol has no sample, or its features are not one row per candle; a lookback
            or horizon below 1.
    """
    if lookback < 1 or horizon < 1:
        raise ValueError(
            f"lookback is {lookback} and horizon is {horizon}; each is at least 1 candle"
        )
    parts = []
    offset = 0  # rows of the symbols before
    for index, (symbol, frame) in enumerate(candles.items()):
        if len(features[symbol]) != len(frame):
            raise ValueError(
                f"{symbol}: {len(features[symbol])} rows of features for {len(frame)} candles; "
                "compute them from these candles and drop no rows"
            )
        part = _samples_of(symbol, frame, timeframe, lookback, horizon, warmup)
        part["symbol"] = np.full(len(part["end"]), index)
        part["end"] += offset
        parts.append(part)
        offset += len(frame)
    return Samples(
        symbols=tuple(candles),
        feature_cols=tuple(features[next(iter(candles))].columns),
        rows=np.concatenate([features[symbol].to_numpy(np.float32) for symbol in candles]),
        row_ms=np.concatenate([timestamps_ms(frame) for frame in candles.values()]),
        **{name: np.concatenate([part[name] for part in parts]) for name in SAMPLE_FIELDS},
        timeframe=timeframe,
        lookback=lookback,
        horizon=horizon,
        step_ms=timeframe_ms(timeframe),
    )


def _samples_of(
    symbol: str, candles: pd.DataFrame, timeframe: str, lookback: int, horizon: int, warmup: int
) -> dict[str, np.ndarray]:
    """Fields of one symbol's `Samples`, all but `symbol`; `end` counts the symbol's own rows."""
    close = candles["close"].to_numpy()
    times = timestamps_ms(candles)
    step_ms = timeframe_ms(timeframe)
    volatility = segmented_volatility(candles, timeframe, horizon)
    usable = usable_rows(times, step_ms, lookback, warmup)[: max(len(times) - horizon, 0)]
    t = np.flatnonzero(usable & (times[horizon:] - times[:-horizon] == horizon * step_ms))
    t = t[volatility[t] > 0]  # without a move in sight there is no scale to forecast on
    halted = _is_halted(close)[t]
    if halted.any():
        logger.info(
            "%s: %d samples dropped, after most closes of %d candles had not moved (a halt of "
            "trading)",
            symbol,
            halted.sum(),
            VOLATILITY_SPAN,
        )
    t = t[~halted]
    if len(t) == 0:
        raise ValueError(
            f"{symbol}: no sample in {len(candles)} candles; a warm-up of {warmup}, a lookback of "
            f"{lookback} and a horizon of {horizon} candles are needed, without a gap and with "
            "prices that move; fetch more candles (--candles), or leave the symbol out"
        )
    return {
        "end": t,
        "target_time": (times[t + horizon] + step_ms).astype("datetime64[ms]"),
        "base_price": close[t],
        "current_return": log_returns(close)[t],
        "log_return": np.log(close[t + horizon] / close[t]),
        "volatility": volatility[t],
    }


def _is_halted(close: np.ndarray) -> np.ndarray:
    """(n,) bool: have most of the last `VOLATILITY_SPAN` closes not moved?

    In a halt the EWMA volatility decays towards 0, and the first move after it, divided by that,
    would outweigh every other target: 300 flat candles of one coin made a target of 1,400 standard
    deviations.
    """
    n_flat = np.cumsum(np.diff(close, prepend=np.nan) == 0)  # up to and with each row
    n_before = np.zeros_like(n_flat)
    n_before[VOLATILITY_SPAN:] = n_flat[:-VOLATILITY_SPAN]
    return (n_flat - n_before) * 2 > VOLATILITY_SPAN


def usable_rows(times: np.ndarray, step_ms: int, lookback: int, warmup: int) -> np.ndarray:
    """(n,) bool: is the window that ends with this row without a gap, and past the warm-up?"""
    row = np.arange(len(times))
    starts = segment_starts(times, step_ms)
    since_start = row - starts[np.searchsorted(starts, row, side="right") - 1]
    after_gap = np.flatnonzero(missing_before(times, step_ms) > 0)
    last_gap = np.concatenate([[0], after_gap])[np.searchsorted(after_gap, row, side="right")]
    return (row - last_gap >= lookback - 1) & (since_start >= warmup + lookback - 1)


def segmented_volatility(candles: pd.DataFrame, timeframe: str, horizon: int) -> np.ndarray:
    """(n,) EWMA volatility over `horizon` candles: the scale of a target, trained and served.

    It starts afresh after every long gap; NaN before a segment's 48th return.
    """
    table = by_segment(
        lambda close: [("volatility", ewma_volatility(log_returns(close)))],
        candles,
        timeframe,
        columns=["close"],
        names=["volatility"],
    )
    return table[0] * np.sqrt(horizon)


def window_view(rows: np.ndarray, lookback: int) -> np.ndarray:
    """All windows of `rows` as a read-only view: (n - lookback + 1, lookback, n_features).

    Window i ends with row i + lookback - 1. Take only those whose end is in `Samples.end`: others
    may span two symbols.

    Example:
        >>> window_view(np.arange(6.0).reshape(3, 2), 2)[1]
        array([[2., 3.],
               [4., 5.]])
    """
    return np.lib.stride_tricks.sliding_window_view(rows, lookback, axis=0).transpose(0, 2, 1)
