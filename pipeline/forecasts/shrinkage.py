"""What a raw forecast is worth: shrinkage and the probability of a rise, fitted on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pipeline.bundle.scaler_check import MAX_SIZE
from pipeline.forecasts.fitted import FittedNumbers

SLOPE_TOLERANCE = 1e-10
"""Bound on the mean gradient where the direction's slope is taken; p_up is then exact to 1e-9."""


@dataclass(frozen=True)
class Calibration(FittedNumbers):
    """Numbers fitted on the validation part; all act on volatility-scaled returns."""

    what: ClassVar[str] = "calibration number"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "shrinkage": (0.0, 1.0),
        "direction_slope": (0.0, MAX_SIZE),
    }

    shrinkage: float
    """factor on the forecast, 0 to 1"""
    direction_slope: float
    """p_up = 1 / (1 + exp(-direction_slope * scaled forecast)), at least 0"""


def fit_calibration(
    forecast: np.ndarray,
    actual: np.ndarray,
    volatility: np.ndarray,
    *,
    is_shrunk: bool = True,
    caution: float = 0.0,
) -> Calibration:
    """Fit both on the validation part.

    Args:
        forecast: (n,) unshrunk log-return forecasts.
        actual: (n,) log-returns that came true.
        volatility: (n,) causal volatility of each sample.
        is_shrunk: False serves the forecasts as they are; the shrinkage is then 1.
        caution: See `fit_shrinkage`.
    """
    scaled_forecast = forecast / volatility
    scaled_actual = actual / volatility
    shrinkage = fit_shrinkage(scaled_forecast, scaled_actual, caution) if is_shrunk else 1.0
    return Calibration(shrinkage, fit_direction_slope(scaled_forecast, scaled_actual))


def fit_shrinkage(forecast: np.ndarray, actual: np.ndarray, caution: float = 0.0) -> float:
    """Factor on the forecast that makes the mean absolute error smallest, kept within [0, 1].

    Returns are noise to more than 99 %, so a network that has learnt any of the noise is
    overconfident; this takes back what validation does not confirm. The error is absolute because
    the verdict's is, and because single crashes decide a least-squares factor (docs/log.md has the
    comparison).

    Least absolute deviations through the origin: sum |a - k f| = sum |f| |a / f - k|, so the best k
    is the median of the ratios a / f weighted by |f| (Koenker and Bassett, 1978, at the median);
    the sum is convex in k, so clipping it is best within the bounds too.

    What is foreseeable fades, and large moves go against a forecast of the median. So the factor
    that is best for the absolute error of the validation part is too bold for the squared error,
    and for later candles. Half way between the factors that are best for either costs a sixth of
    the skill where nothing has changed (docs/log.md).

    Args:
        forecast: (n,) volatility-scaled forecasts.
        actual: (n,) volatility-scaled returns that came true.
        caution: Share of the way to the factor that makes the mean squared error smallest, where
            that is smaller.

    Example:
        >>> fit_shrinkage(np.array([1.0, -1.0, 2.0]), np.array([0.5, -0.5, 1.0]))
        0.5
    """
    used = forecast != 0
    if not used.any():
        return 0.0
    weight = np.abs(forecast[used])
    ratio = actual[used] / forecast[used]
    order = np.argsort(ratio)
    cumulated = np.cumsum(weight[order])
    middle = np.searchsorted(cumulated, 0.5 * cumulated[-1])
    factor = float(np.clip(ratio[order][middle], 0.0, 1.0)) + 0.0  # -0.0 becomes 0.0
    least_squares = max(float(np.sum(forecast * actual) / np.sum(np.square(forecast))), 0.0)
    return factor - caution * max(factor - least_squares, 0.0)


def fit_direction_slope(forecast: np.ndarray, actual: np.ndarray) -> float:
    """Slope of a logistic regression of "the price rises" on the scaled forecast, at least 0.

    It has no constant, so the probability and the sign of the forecast never contradict each
    other. 0 says that validation shows no link: every probability is then one half.
    """
    from sklearn.linear_model import LogisticRegression  # lazy: only training needs it

    moved = actual != 0
    rises = actual[moved] > 0
    spread = float(np.std(forecast))
    # All the same but for float32's rounding, as the output of a dead network is.
    is_flat = spread <= 1e-6 * float(np.abs(forecast).max())
    if is_flat or len(np.unique(rises)) < 2:
        return 0.0
    standardised = forecast[moved, None] / spread  # the tolerance supposes a size of 1
    exact = LogisticRegression(
        C=np.inf, fit_intercept=False, solver="newton-cholesky", tol=SLOPE_TOLERANCE
    )
    fitted = exact.fit(standardised, rises)
    return max(float(fitted.coef_[0, 0]) / spread, 0.0)


def apply_calibration(
    calibration: Calibration, forecast: np.ndarray, volatility: np.ndarray
) -> dict[str, np.ndarray]:
    """From unshrunk log-return forecasts to what is served.

    Args:
        calibration: Fitted numbers.
        forecast: (n,) unshrunk log-returns.
        volatility: (n,) causal volatility, same unit.

    Returns:
        `predicted_return` (log-return) and `p_up`, each (n,) float64.
    """
    scaled = np.divide(forecast, volatility, out=np.zeros_like(forecast), where=volatility > 0)
    # The logistic function 1 / (1 + exp(-x)) is (1 + tanh(x / 2)) / 2, which cannot overflow.
    p_up = 0.5 + 0.5 * np.tanh(0.5 * calibration.direction_slope * scaled)
    return {"predicted_return": calibration.shrinkage * forecast, "p_up": p_up}
