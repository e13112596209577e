"""What a raw forecast is worth: shrinkage and the probability of a rise, both fitted on
validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """Numbers fitted on the validation part; all act on volatility-scaled returns."""

    shrinkage: float
    """factor on the forecast, 0 to 1"""
    direction_slope: float
    """p_up = 1 / (1 + exp(-direction_slope * scaled forecast)), at least 0"""

    def as_dict(self) -> dict[str, float]:
        """Plain floats, for the scaler file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, numbers: Mapping[str, float]) -> Calibration:
        """Read what `as_dict` wrote; a ValueError names what is missing or not finite."""
        values = {}
        for name in cls.__dataclass_fields__:
            value = numbers.get(name)
            if (
                isinstance(value, bool)
                or not isinstance(value, (int, float))
                or not np.isfinite(value)
            ):
                raise ValueError(
                    f"calibration number {name!r} is {value!r}, not a finite number; train the "
                    "model again"
                )
            values[name] = float(value)
        return cls(**values)


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
    scaled_forecast, scaled_actual = forecast / volatility, actual / volatility
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

    Caution: what is foreseeable fades, and large moves go against a forecast of the median, so the
        factor that is best
    for the absolute error of the validation part is too bold for the squared error, and later. Half
    way between the factors that are best for either costs a sixth of the skill where nothing has
    changed (docs/log.md).

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
    """Slope of a logistic regression of "the price rises" on the scaled forecast, without a
    constant, at least 0.

    Without a constant the probability and the sign of the forecast never contradict each other. 0
    says that validation shows no link: every probability is then one half.
    """
    from sklearn.linear_model import LogisticRegression  # lazy: only training needs it

    moved = actual != 0
    rises = actual[moved] > 0
    spread = float(np.std(forecast))
    same_everywhere = spread <= 1e-6 * float(
        np.abs(forecast).max()
    )  # in float32, as a dead network's output is
    if same_everywhere or len(np.unique(rises)) < 2:
        return 0.0
    standardised = (
        forecast[moved, None] / spread
    )  # so that the solver's tolerance means the same everywhere
    fitted = LogisticRegression(C=np.inf, fit_intercept=False).fit(standardised, rises)
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
    return {
        "predicted_return": calibration.shrinkage * forecast,
        "p_up": 0.5
        + 0.5
        * np.tanh(0.5 * calibration.direction_slope * scaled),  # the logistic, without overflow
    }
