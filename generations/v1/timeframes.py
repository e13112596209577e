"""Two timeframes of one market, joined where their candles close at the same instant."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.schema import timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.samples.scaling import (
    ScaledSamples,
    Scalers,
    changing_features,
    fit_features,
    rows_seen,
    scale_rows,
    scale_target,
)
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples, Stream, usable_rows

logger = logging.getLogger(__name__)

HOUR, QUARTER = "1h", "15m"
OUTLIER_LIMIT = 5.0
"""Standard deviations at which features are clipped."""
ALL_SYMBOLS = "all"
"""The scaler of all symbols together among those of each."""


def rows_closing_with(
    open_ms: np.ndarray, fine_open_ms: np.ndarray, timeframe: str, fine_timeframe: str
) -> np.ndarray:
    """For each candle the row of the finer one that closes with it; -1 where there is none.

    What closes together was known together, so a window of the finer candles that ends with this
    row looks no further ahead than one of the coarser ones.

    Args:
        open_ms: (n,) open times of the coarser candles.
        fine_open_ms: (m,) open times of the finer candles, in order.
        timeframe: Length of a coarser candle.
        fine_timeframe: Length of a finer candle.

    Example:
        >>> hour, quarter = 3_600_000, 900_000
        >>> rows_closing_with(np.array([0, hour]), np.arange(6) * quarter, "1h", "15m")
        array([ 3, -1])
    """
    wanted = open_ms + timeframe_ms(timeframe) - timeframe_ms(fine_timeframe)
    row = np.searchsorted(fine_open_ms, wanted)
    found = row < len(fine_open_ms)
    found[found] = fine_open_ms[row[found]] == wanted[found]
    return np.where(found, row, -1)


def rows_of_windows(
    open_ms: np.ndarray,
    fine_open_ms: np.ndarray,
    timeframe: str,
    fine_timeframe: str,
    lookback: int,
    warmup: int,
) -> np.ndarray:
    """`rows_closing_with` where a window of `lookback` finer candles ends in that row; else -1.

    Args:
        open_ms: (n,) open times of the coarser candles.
        fine_open_ms: (m,) open times of the finer candles, in order.
        timeframe: Length of a coarser candle.
        fine_timeframe: Length of a finer candle.
        lookback: Finer candles that a window holds, without a gap.
        warmup: Finer candles dropped at the start and after every long gap.
    """
    row = rows_closing_with(open_ms, fine_open_ms, timeframe, fine_timeframe)
    is_end = usable_rows(fine_open_ms, timeframe_ms(fine_timeframe), lookback, warmup)
    is_end = np.append(is_end, False)  # row -1
    return np.where(is_end[row], row, -1)


def add_stream(
    samples: Samples,
    features: Mapping[str, pd.DataFrame],
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    warmup: int,
) -> tuple[Samples, Stream]:
    """Give each sample a second window, of finer candles that end when candle t ends.

    Args:
        samples: Samples of the coarser candles.
        features: Symbol -> (m, n_features) frame of the finer candles.
        candles: Symbol -> m finer candles, the symbols of `samples` in the same order.
        timeframe: Length of a finer candle.
        warmup: Finer candles dropped at the start and after every long gap.

    Returns:
        The samples that have such a window, and these windows.

    Raises:
        ValueError: A symbol's finer candles leave it no sample.
    """
    end = np.full(len(samples), -1)
    offset = 0
    for index, symbol in enumerate(samples.symbols):
        times = timestamps_ms(candles[symbol])
        own = np.flatnonzero(samples.symbol == index)
        open_ms = samples.row_ms[samples.end[own]]
        row = rows_of_windows(
            open_ms, times, samples.timeframe, timeframe, samples.lookback, warmup
        )
        end[own] = np.where(row >= 0, row + offset, -1)
        offset += len(times)

        n_lost = int((row < 0).sum())
        first, last = utc_from_ms(times[[0, -1]]).dt.strftime("%Y-%m-%d %H:%M")
        span = f"{timeframe} candles from {first} to {last}"
        if n_lost == len(own):
            raise ValueError(
                f"{symbol}: none of {len(own)} samples has {samples.lookback} {timeframe} candles "
                f"that end with it, a warm-up of {warmup} aside ({span}); fetch {timeframe} "
                "candles of that span, or leave the pair out"
            )
        if n_lost:
            lost = f"{n_lost} of {len(own)} samples dropped"
            logger.info("%s: %s, %s do not reach them without a gap", symbol, lost, span)
    rows = np.concatenate([features[symbol].to_numpy(np.float32) for symbol in samples.symbols])
    kept = end >= 0
    return samples.take(kept), Stream(rows, end[kept], samples.lookback)


def rows_by_symbol(n_rows: Mapping[str, int]) -> dict[str, slice]:
    """Symbol -> where its rows lie, symbols stacked one after another."""
    ends = np.cumsum(list(n_rows.values())).tolist()
    return {symbol: slice(end - n, end) for (symbol, n), end in zip(n_rows.items(), ends)}


def scale_by_symbol(
    stream: Stream, n_rows: Mapping[str, int], train: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """Z-score each symbol's rows by its own training rows, clipped to `OUTLIER_LIMIT`.

    Args:
        stream: Windows of all symbols, their rows stacked symbol after symbol.
        n_rows: Symbol -> number of its rows, in that order.
        train: Indices of the training samples.

    Returns:
        (n_candles, n_features) float32, and symbol -> StandardScaler; under `ALL_SYMBOLS` one of
        all training rows, for coins that training did not see.

    Raises:
        ValueError: A symbol has no training part.
    """
    seen = rows_seen(stream, train)
    scalers, scaled = {}, []
    for symbol, own in rows_by_symbol(n_rows).items():
        rows = stream.rows[own]
        scalers[symbol] = fit_features(rows[seen[own]], f"{symbol}: ")
        scaled.append(scale_rows(rows, scalers[symbol], OUTLIER_LIMIT))
    scalers[ALL_SYMBOLS] = fit_features(stream.rows[seen])
    return np.concatenate(scaled), scalers


def scale_streams(
    samples: Samples, fine: Stream, split: Split, features: Mapping[str, Mapping[str, pd.DataFrame]]
) -> tuple[ScaledSamples, Scalers]:
    """Z-score both timeframes coin by coin, and the target as v2 does, on the training part alone.

    A feature that never changes in a coin's training part, in either timeframe, is dropped for all.

    Args:
        samples: Samples with windows of the coarser candles.
        fine: Their windows of the finer candles.
        split: Split of these samples.
        features: Coarser timeframe, then finer one -> symbol -> features, in the order of the rows.

    Returns:
        The scaled samples of the features that are kept, and scalers of which `X` is timeframe ->
        symbol (and "all") -> StandardScaler.
    """
    coarse = Stream(samples.rows, samples.end, samples.lookback)
    streams = dict(zip(features, (coarse, fine)))
    n_rows = {
        timeframe: {symbol: len(frame) for symbol, frame in frames.items()}
        for timeframe, frames in features.items()
    }
    train_rows = {}
    for timeframe, stream in streams.items():
        seen = rows_seen(stream, split.train)
        for symbol, own in rows_by_symbol(n_rows[timeframe]).items():
            train_rows[f"{symbol} {timeframe}"] = stream.rows[own][seen[own]]
    kept = changing_features(train_rows, samples.feature_cols)
    samples = samples.with_features(kept)
    scaled = []
    x_scalers = {}
    for timeframe, stream in streams.items():
        changing = replace(stream, rows=stream.rows[:, kept])
        rows, scalers = scale_by_symbol(changing, n_rows[timeframe], split.train)
        scaled.append(replace(stream, rows=rows))
        x_scalers[timeframe] = scalers
    target, y_scaler = scale_target(samples, split)
    first, second = scaled
    whole = ScaledSamples(samples, split, first.rows, target, others=(second,))
    return whole, Scalers(X=x_scalers, y=y_scaler)
