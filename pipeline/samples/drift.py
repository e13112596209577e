"""Have the features moved away from what the network was trained on?

The population stability index (PSI) of a feature sums (a - e) ln(a / e) over ten bins between the
training part's deciles; e is the training part's share of a bin, a that of the later candles. Lewis
(1994), An Introduction to Credit Scoring, has the index; Siddiqi (2006), Credit Risk Scorecards,
the usual reading (0.1, 0.25).

That reading supposes many independent values. Neighbouring candles are alike: a month of an
unchanging market has PSIs of 0.2 in its volatilities (docs/log.md). So each PSI stands beside that
of training stretches equally long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.candles.schema import DAY_MS

DECILES = tuple(k / 10 for k in range(1, 10))
OUTER = (0.001, 0.999)
"""Quantiles between which a value is inside the training range; the extremes are accidents."""
SMALLEST_SHARE = 1e-4
"""floor of a bin's share, so that an empty bin has a logarithm"""
MOVED, SHIFTED = 0.1, 0.25
"""PSI from which a feature is said to have moved, and above which to have shifted"""
PIECES = (2, 5, 10, 20, 50, 100)
"""Numbers of stretches that the training part is cut into, to see how it differs from itself"""
SMALLEST_PIECE = 50
"""candles, on average"""


def feature_quantiles(
    rows: np.ndarray, time_ms: np.ndarray, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What later candles are compared with, for the metadata.

    Args:
        rows: (n_candles, n_features) unscaled features of the training part; NaN where a value is
            missing.
        time_ms: (n_candles,) their open times, epoch ms, in any order: symbols follow one another.
        names: (n_features,) names of the features.

    Returns:
        Name -> `low` and `high` (quantiles of 0.1 % and 99.9 %), `edges` (the deciles that differ,
        ascending), `shares` (of the bins between them: ten tenths, unless values repeat) and
        `usual` ([days, PSI] pairs: nine of ten training stretches so long differ no more from the
        whole). A feature without any value is left out.

    Example:
        >>> rows, hours = np.array([[1.0], [1.0], [1.0], [2.0]]), 3_600_000 * np.arange(4)
        >>> feature_quantiles(rows, hours, ["a"])["a"]
        {'low': 1.0, 'high': 2.0, 'edges': [1.0, 2.0], 'shares': [0.75, 0.25, 0.0], 'usual': []}
    """
    table = {}
    for column, name in enumerate(names):
        values = rows[:, column].astype(np.float64)
        present = np.isfinite(values)
        if not present.any():
            continue
        values = values[present]
        levels = (OUTER[0], *DECILES, OUTER[1])
        low, *deciles, high = np.quantile(values, levels, method="inverted_cdf").tolist()
        edges = sorted(set(deciles))
        bins = np.searchsorted(edges, values)  # a bin holds the edge that it reaches up to
        shares = np.bincount(bins, minlength=len(edges) + 1) / len(bins)
        table[name] = {
            "low": low,
            "high": high,
            "edges": edges,
            "shares": shares.tolist(),
            "usual": _usual(bins, time_ms[present], shares),
        }
    return table


def measure_drift(
    rows: np.ndarray,
    time_ms: np.ndarray,
    names: Sequence[str],
    quantiles: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Compare later candles with the training part, feature by feature.

    Args:
        rows: (n_candles, n_features) unscaled features, NaN where a value is missing; at least one.
        time_ms: (n_candles,) as in `feature_quantiles`.
        names: (n_features,) names of the features.
        quantiles: From `feature_quantiles`; features that are not in it are left out.

    Returns:
        A row a feature, the worst first: "feature", "psi", "usual" (PSI that training stretches of
        this length stay below, nine of ten; None if none were measured), "outside" (share of the
        values outside the training range of 0.1 % to 99.9 %), "missing" (share of the candles
        without a value), "reading" (stable, moved, shifted; missing where there is no value at all,
        and psi and outside are None).

    Raises:
        ValueError: The quantiles of a feature are none.
    """
    days = float(np.ptp(time_ms)) / DAY_MS
    found = []
    for column, name in enumerate(names):
        if name not in quantiles:
            continue
        before = quantiles[name]
        _demand_bins(name, before)
        values = rows[:, column].astype(np.float64)
        values = values[np.isfinite(values)]
        psi = outside = None
        if len(values):
            expected = np.array(before["shares"])
            bins = np.searchsorted(before["edges"], values)
            counts = np.bincount(bins, minlength=len(expected))
            psi = population_stability(expected, counts / len(values))
            outside = float(((values < before["low"]) | (values > before["high"])).mean())
        found.append(
            {
                "feature": name,
                "psi": psi,
                "usual": _at_length(before["usual"], days),
                "outside": outside,
                "missing": 1 - len(values) / len(rows),
                "reading": _reading(psi),
            }
        )
    return sorted(found, key=lambda row: np.inf if row["psi"] is None else row["psi"], reverse=True)


def population_stability(expected: np.ndarray, actual: np.ndarray) -> float:
    """The population stability index of two distributions over the same bins; 0 if they are equal.

    Args:
        expected: (n_bins,) shares before.
        actual: (n_bins,) shares now; both are floored at `SMALLEST_SHARE`.

    Example:
        >>> psi = population_stability(np.array([0.5, 0.5]), np.array([0.6, 0.4]))
        >>> round(psi, 4)  # 0.1 ln 1.2 - 0.1 ln 0.8
        0.0405
    """
    expected = np.maximum(expected, SMALLEST_SHARE)
    actual = np.maximum(actual, SMALLEST_SHARE)
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def _demand_bins(name: str, before: Mapping[str, Any]) -> None:
    """Refuse what `feature_quantiles` does not write; a file may be a stranger's."""
    edges, shares, usual = before["edges"], before["shares"], before["usual"]
    are_pairs = all(len(pair) == 2 and pair[0] > 0 for pair in usual)
    if edges != sorted(edges) or len(shares) != len(edges) + 1 or not are_pairs:
        raise ValueError(
            f"metadata, 'feature_quantiles', {name!r}: its edges, shares or usual values are not "
            "those of bins; copy the bundle again, or train it again"
        )


def _usual(bins: np.ndarray, time_ms: np.ndarray, shares: np.ndarray) -> list[list[float]]:
    """[days, PSI] pairs, the shortest first: nine of ten training stretches stay below."""
    start = int(time_ms.min())
    span_ms = int(np.ptp(time_ms)) + 1
    pairs = []
    for n_pieces in PIECES:
        if len(bins) < n_pieces * SMALLEST_PIECE:
            break
        piece = (time_ms - start) * n_pieces // span_ms
        cells = np.bincount(piece * len(shares) + bins, minlength=n_pieces * len(shares))
        counts = cells.reshape(n_pieces, -1)  # a row a stretch, a column a bin
        counts = counts[counts.sum(axis=1) > 0]
        psi = [population_stability(shares, row / row.sum()) for row in counts]
        limit = float(np.quantile(psi, 0.9, method="inverted_cdf"))
        pairs.append([span_ms / n_pieces / DAY_MS, limit])
    return pairs[::-1]


def _at_length(usual: Sequence[Sequence[float]], days: float) -> float | None:
    """The usual PSI of a stretch so long: between those measured, beyond them the nearest."""
    if not usual:
        return None
    lengths, psi = np.transpose(usual)
    return float(np.interp(np.log(max(days, lengths[0])), np.log(lengths), psi))


def _reading(psi: float | None) -> str:
    if psi is None:
        return "missing"
    if psi > SHIFTED:
        return "shifted"
    return "moved" if psi >= MOVED else "stable"
