"""Two timeframes of one market: joined where their candles close at the same instant, and made from
each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.schema import timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.samples.scaling import (
    ScaledSamples,
    Scalers,
    fit_features,
    rows_seen,
    scale_rows,
    scale_target,
)
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples, Stream, usable_rows

logger = logging.getLogger(__name__)

OUTLIER_LIMIT = 5.0
"""Standard deviations at which features are clipped."""
ALL_SYMBOLS = "all"
"""The scaler of all symbols together among those of each."""


def rows_closing_with(
    open_ms: np.ndarray, fine_open_ms: np.ndarray, timeframe: str, fine_timeframe: str
) -> np.ndarray:
    """For each candle the row of the finer one that closes at the same instant; -1 where there is
    none.

    What closes together was known together, so a window of the finer candles that ends with this
    row looks no further ahead than one of the coarser ones.

    Args:
        open_ms: (n,) open times of the coarser candles.
        fine_open_ms: (m,) open times of the finer candles, in order.
        timeframe: Of the coarser candles.
        fine_timeframe: Of the finer candles.

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


def add_stream(
    samples: Samples,
    features: Mapping[str, pd.DataFrame],
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    warmup: int,
) -> tuple[Samples, Stream]:
    """Give each sample a second window, of finer candles that end when candle t ends; samples
    without one are dropped.

    Args:
        samples: Of the coarser candles.
        features: Symbol -> (m, n_features) frame of the finer candles.
        candles: Symbol -> m finer candles, the symbols of `samples` in the same order.
        timeframe: Of the finer candles.
        warmup: Finer candles dropped at the start and after every long gap.

    Returns:
        The samples that are left, and their second windows.

    Raises:
        ValueError: A symbol's finer candles leave it no sample.
    """
    end, offset = np.full(len(samples), -1), 0
    for index, symbol in enumerate(samples.symbols):
        times = timestamps_ms(candles[symbol])
        own = np.flatnonzero(samples.symbol == index)
        row = rows_closing_with(
            samples.row_ms[samples.end[own]], times, samples.timeframe, timeframe
        )
        usable = np.append(
            usable_rows(times, timeframe_ms(timeframe), samples.lookback, warmup), False
        )  # row -1
        end[own] = np.where(usable[row], row + offset, -1)
        n_lost = int((~usable[row]).sum())
        span = (
            f"{timeframe} candles from "
            f"{utc_from_ms(times[[0, -1]]).dt.strftime('%Y-%m-%d %H:%M').str.cat(sep=' to ')}"
        )
        if n_lost == len(own):
            raise ValueError(
                f"{symbol}: none of {len(own)} samples has {samples.lookback} {timeframe} candles "
                f"that end with it, a warm-up of {warmup} aside ({span}); fetch {timeframe} "
                "candles of that span, or leave the pair out"
            )
        if n_lost:
            logger.info(
                "%s: %d of %d samples dropped, %s do not reach them without a gap",
                symbol,
                n_lost,
                len(own),
                span,
            )
        offset += len(times)
    rows = np.concatenate([features[symbol].to_numpy(np.float32) for symbol in samples.symbols])
    kept = end >= 0
    return samples.take(kept), Stream(rows, end[kept], samples.lookback)


def scale_by_symbol(
    stream: Stream, n_rows: Mapping[str, int], train: np.ndarray, feature_cols: Sequence[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Z-score each symbol's rows by its own training rows, clipped to `OUTLIER_LIMIT`.

    Args:
        stream: Windows of all symbols, their rows stacked symbol after symbol.
        n_rows: Symbol -> number of its rows, in that order.
        train: Indices of the training samples.
        feature_cols: Names of the columns.

    Returns:
        (n_candles, n_features) float32, and symbol -> StandardScaler; under `ALL_SYMBOLS` one of
        all training rows, for coins that training did not see.

    Raises:
        ValueError: A feature is constant throughout a symbol's training part, or it has none.
    """
    seen = rows_seen(stream, train)
    scalers, scaled, first = {}, [], 0
    for symbol, n in n_rows.items():
        rows, is_seen = stream.rows[first : first + n], seen[first : first + n]
        scalers[symbol] = fit_features(rows[is_seen], feature_cols, f"{symbol}: ")
        scaled.append(scale_rows(rows, scalers[symbol], OUTLIER_LIMIT))
        first += n
    scalers[ALL_SYMBOLS] = fit_features(stream.rows[seen], feature_cols)
    return np.concatenate(scaled), scalers


def scale_streams(
    samples: Samples, fine: Stream, split: Split, n_rows: Mapping[str, Mapping[str, int]]
) -> tuple[ScaledSamples, Scalers]:
    """Z-score each coin's features of each timeframe by its own training part, and scale the
    target.

    Args:
        samples: Samples of the coarser candles.
        fine: Their second windows.
        split: Of the samples.
        n_rows: Coarser timeframe, then finer one -> symbol -> number of its rows, in the order of
            the rows.

    Returns:
        The scaled samples, and scalers of which `X` is timeframe -> symbol (and "all") ->
        StandardScaler.
    """
    (timeframe, coarse_rows), (fine_timeframe, fine_rows) = n_rows.items()
    first = Stream(samples.rows, samples.end, samples.lookback)
    rows, scalers = scale_by_symbol(first, coarse_rows, split.train, samples.feature_cols)
    second_rows, second_scalers = scale_by_symbol(
        fine, fine_rows, split.train, samples.feature_cols
    )
    target, y_scaler = scale_target(samples, split)
    scaled = ScaledSamples(samples, split, rows, target, others=(replace(fine, rows=second_rows),))
    return scaled, Scalers(X={timeframe: scalers, fine_timeframe: second_scalers}, y=y_scaler)


def resample_candles(candles: pd.DataFrame, timeframe: str, coarser: str) -> pd.DataFrame:
    """Coarser candles from finer ones; only those of which every part is there.

    Example:
        >>> quarters = pd.DataFrame({
        ...     "timestamp": utc_from_ms(900_000 * np.arange(5)), "open": [1.0, 2, 3, 4, 5],
        ...     "high": [2.0, 9, 4, 5, 6], "low": [1.0, 2, 0.5, 4, 5], "close": [2.0, 3, 4, 5, 6],
        ...     "volume": 1.0})
        >>> resample_candles(quarters, "15m", "1h").iloc[:, 1:].values.tolist()
        [[1.0, 9.0, 0.5, 5.0, 4.0]]
    """
    step_ms = timeframe_ms(coarser)
    opens = timestamps_ms(candles) // step_ms * step_ms
    parts = candles.groupby(opens, sort=True)
    merged = parts.agg(
        open=("open", "first"),
        high=("high", "max"),
        low=("low", "min"),
        close=("close", "last"),
        volume=("volume", "sum"),
    )
    merged.insert(0, "timestamp", utc_from_ms(merged.index.to_numpy()).array)
    is_whole = parts.size().to_numpy() == step_ms // timeframe_ms(timeframe)
    return merged[is_whole].reset_index(drop=True)
