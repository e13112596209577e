"""Features for trees, made of the network's own: the last candles one by one, returns summed."""

from __future__ import annotations

import numpy as np

from pipeline.samples.scaling import ScaledSamples

LAGGED = {
    "log_return": 6,  # v2's
    "price_range": 3,
    "volume_ratio": 2,
    "scaled_return": 6,  # pooled
    "close_position": 3,
    "range_size": 3,
    "volume_level": 2,
    "btc_return": 4,
    "market_return": 4,
}
"""Feature -> candles, the last one included, that the hand-made features hold of it."""
SUMMED = ("log_return", "scaled_return", "btc_return", "market_return")
SUMS = (3, 6, 12, 24, 72, 168)
"""Candles over which returns are summed; fewer than the warm-up that every sample has behind it."""


def hand_made(scaled: ScaledSamples, part: np.ndarray) -> np.ndarray:
    """The features of the samples `part`.

    Returns:
        (n, k) float32: the last candle's, some of the candles before, and sums of returns over the
        square root of their number.
    """
    names, end, rows = scaled.samples.feature_cols, scaled.samples.end[part], scaled.rows
    columns = [rows[end]]
    for name, n in LAGGED.items():
        columns += [rows[end - lag][:, [names.index(name)]] for lag in range(1, n) if name in names]
    returns = [names.index(name) for name in SUMMED if name in names]
    total = np.cumsum(rows[:, returns], axis=0, dtype=np.float64)
    columns += [((total[end] - total[end - n]) / np.sqrt(n)).astype(np.float32) for n in SUMS]
    return np.hstack(columns)
