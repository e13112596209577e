"""What a network relies on: skill that is lost where a group of its inputs says nothing any more.

Permutation importance (Breiman 2001, Random Forests, Machine Learning 45(1), section 10), of the
served network, on candles that it has not seen. In each window the group's inputs are those of
another window of the same coin. Related features are exchanged together: exchanged alone, one
contradicts the others, and forecasts of such windows say little about it (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.comparison import scaled_absolute_error
from pipeline.evaluation.significance import mean_by_instant, ratio_half_width
from pipeline.forecasts.test_part import SavedNetwork, rows_of_test
from pipeline.samples.scaling import ScaledSamples
from pipeline.samples.windows import Samples, window_view

MOST_WINDOWS = 3000
"""Of a longer test part every second, third, … instant is taken, with all of its coins."""
REPEATS = 3
"""Exchanges of each group, whose losses are averaged"""


def permutation_importance(
    network: SavedNetwork,
    scaled: ScaledSamples,
    shrinkage: float,
    groups: Mapping[str, Sequence[str]],
    *,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Measure by how much each group of features improves the forecasts of the test part.

    Args:
        network: The saved network, of one input.
        scaled: Samples and split.
        shrinkage: Factor on its forecasts (`Calibration.shrinkage`).
        groups: Name -> features, of `scaled.samples.feature_cols`.
        seed: Of the exchanges.

    Returns:
        Plain data for JSON: "n" (windows looked at), "repeats", and "groups", the most important
        first: "group", "features", "skill_lost" with "low" and "high" (the rise of the verdict's
        loss as a share of naive's, with its 95 % interval over instants), and "moved" (mean change
        of the forecast over its mean size). None where a forecast is not finite.
    """
    chosen = _chosen(scaled)
    samples = scaled.samples.take(chosen)
    windows = window_view(scaled.rows, samples.lookback)[samples.end - samples.lookback + 1]
    apart = replace(samples, end=samples.lookback * np.arange(1, len(samples) + 1) - 1)

    def forecast(inputs: np.ndarray) -> np.ndarray:
        """(n,) served log-returns of (n, lookback, n_features) windows."""
        rows = inputs.reshape(-1, inputs.shape[2])
        outputs = network.outputs_of(replace(scaled, samples=apart, rows=rows))
        return shrinkage * outputs[:, 0]

    own = forecast(windows)
    if not np.isfinite(own).all():
        return None
    rng = np.random.default_rng(seed)
    orders = [_exchanged(samples.symbol, rng) for _ in range(REPEATS)]
    rows: list[dict[str, Any]] = []
    for name, features in groups.items():
        columns = np.flatnonzero(np.isin(samples.feature_cols, features))
        others = []
        for order in orders:
            inputs = windows.copy()
            inputs[:, :, columns] = windows[order][:, :, columns]
            others.append(forecast(inputs))
        cost = _cost(samples, own, np.stack(others))
        rows.append({"group": name, "features": list(features), **cost})
    rows.sort(key=lambda row: -row["skill_lost"])
    return {"n": len(samples), "repeats": REPEATS, "groups": rows}


def _chosen(scaled: ScaledSamples) -> np.ndarray:
    """Indices of `MOST_WINDOWS` test samples or fewer, in time order, instants evenly spread."""
    test = rows_of_test(scaled)
    instants = np.unique(scaled.samples.target_time[test])
    kept = instants[:: -(-len(test) // MOST_WINDOWS)]
    return test[np.isin(scaled.samples.target_time[test], kept)]


def _exchanged(symbol: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) for each sample another one of the same symbol; each is taken once."""
    order = np.arange(len(symbol))
    for code in np.unique(symbol):
        of_symbol = np.flatnonzero(symbol == code)
        order[of_symbol] = rng.permutation(of_symbol)
    return order


def _cost(samples: Samples, own: np.ndarray, others: np.ndarray) -> dict[str, float | None]:
    """What it costs to forecast otherwise: (n,) forecasts beside (repeats, n) of exchanged inputs.

    Where prices stand still, nothing is lost.
    """
    frame = pd.DataFrame({"actual_return": samples.log_return, "volatility": samples.volatility})
    loss, naive = (scaled_absolute_error(frame.assign(it=it), "it") for it in (own, 0.0))
    # Differences first: where nothing changes they are 0, without rounding.
    risen = [scaled_absolute_error(frame.assign(it=it), "it") - loss for it in others]
    lost, scale = (
        mean_by_instant(values, samples.target_time) for values in (np.mean(risen, axis=0), naive)
    )
    size = float(np.abs(own).mean())
    moved = float(np.abs(others - own).mean()) / size if size > 0 else None
    if not scale.any():
        return {"skill_lost": 0.0, "low": None, "high": None, "moved": moved}
    share = float(lost.mean() / scale.mean())
    half = ratio_half_width(lost, scale, share, samples.horizon)
    low, high = (None, None) if half is None else (share - half, share + half)
    return {"skill_lost": share, "low": low, "high": high, "moved": moved}
