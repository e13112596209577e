"""Quantiles that a network forecasts itself, calibrated on the validation part.

Conformalized quantile regression: Romano, Patterson and Candès (2019), NeurIPS 32, with the errors
divided by the forecast's own width, as Sesia and Candès (2020), A comparison of some conformal
quantile regression methods, Stat 9(1). A factor on the distance from the median instead of a shift,
so that calibrated quantiles cannot cross either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.bundle.scaler_check import MAX_SIZE
from pipeline.forecasts.fitted import FittedNumbers
from pipeline.forecasts.intervals import conformal_quantiles

SMALLEST_FACTOR = 1e-3
"""No interval shrinks to nothing, whatever validation says."""


@dataclass(frozen=True)
class QuantileFactors(FittedNumbers):
    """Factors on the forecast distances of q10 and q90 from the median."""

    what: ClassVar[str] = "quantile factor"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "below": (1 / MAX_SIZE, MAX_SIZE),
        "above": (1 / MAX_SIZE, MAX_SIZE),
    }
    kind: ClassVar[str] = "quantiles"

    below: float
    above: float


def point_forecast(outputs: np.ndarray) -> np.ndarray:
    """(n,) of a network's (n, 1) forecasts or (n, 3) quantiles: the middle one."""
    return outputs[:, outputs.shape[1] // 2]


def fit_quantiles(
    quantiles: np.ndarray, forecast: np.ndarray, actual: np.ndarray
) -> QuantileFactors:
    """Fit the factors: a tenth of the validation part's moves lies below q10, a tenth above q90.

    Args:
        quantiles: (n, 3) the network's q10, q50, q90, log-returns.
        forecast: (n,) shrunk medians; the quantiles are taken from there.
        actual: (n,) log-returns that came true.
    """
    error = actual - forecast
    below = -conformal_quantiles(error / (quantiles[:, 1] - quantiles[:, 0]))["q10"]
    above = conformal_quantiles(error / (quantiles[:, 2] - quantiles[:, 1]))["q90"]
    return QuantileFactors(max(below, SMALLEST_FACTOR), max(above, SMALLEST_FACTOR))


def apply_quantiles(
    factors: QuantileFactors, quantiles: np.ndarray, forecast: np.ndarray
) -> dict[str, np.ndarray]:
    """Calibrated quantiles q10 < q50 < q90 of the log-return, (n,) each.

    Args:
        factors: Fitted numbers.
        quantiles: (n, 3) the network's q10, q50, q90, log-returns.
        forecast: (n,) shrunk medians, which q50 is.
    """
    return {
        "q10": forecast - factors.below * (quantiles[:, 1] - quantiles[:, 0]),
        "q50": forecast,
        "q90": forecast + factors.above * (quantiles[:, 2] - quantiles[:, 1]),
    }
