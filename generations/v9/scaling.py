"""v9's min-max scaled features: 0 and 1 are quantiles of the training part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.samples.scaling import ScaledSamples, Scaler, Scalers, rows_seen

MIN_MAX_TAILS = (0.001, 0.999)
"""Quantiles of a feature that become 0 and 1: single extreme candles would squeeze all others."""
MIN_MAX_BAND = (-1.0, 2.0)
"""Where min-max scaled values are cut off: one whole range beyond either end."""


def to_min_max(standardised: ScaledSamples, scalers: Scalers) -> tuple[ScaledSamples, Scalers]:
    """The same samples and target with min-max scaled features; see `scale_rows_min_max`.

    The scaler sees the training part's candles alone: 0 and 1 are their quantiles `MIN_MAX_TAILS`.

    Args:
        standardised: What `scale_on_train` returned, which drops features that never change.
        scalers: Those of `standardised`; the target keeps its own.
    """
    from sklearn.preprocessing import MinMaxScaler

    samples = standardised.samples
    train_rows = samples.rows[rows_seen(samples, standardised.split.train)].astype(np.float64)
    low, high = np.nanquantile(train_rows, MIN_MAX_TAILS, axis=0)
    x_scaler = MinMaxScaler().fit(np.clip(train_rows, low, high))
    rows = scale_rows_min_max(samples.rows, x_scaler)
    return replace(standardised, rows=rows), Scalers(X=x_scaler, y=scalers.y)


def scale_rows_min_max(rows: np.ndarray, scaler: Scaler) -> np.ndarray:
    """Min-max scale (n, n_features) float32 rows, in training and in serving.

    Values beyond `MIN_MAX_BAND` are cut off there, so that a move greater than any of the training
    part is a great move and not a number that the network has never met. A missing value becomes
    one half, the middle of the range.
    """
    scaled = np.clip(scaler.transform(rows.astype(np.float64)), *MIN_MAX_BAND).astype(np.float32)
    return np.nan_to_num(scaled, copy=False, nan=0.5)
