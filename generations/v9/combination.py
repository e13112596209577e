"""v9's combined forecast, of direction and price; its interval is as wide as the volatility says.

In units of the candle's volatility, with every number fitted on the validation part:

    called    = direction_shrinkage * log-odds of the direction network
    combined  = called + price_weight * (price network's forecast - called)
    quantiles = combined + constants * forecast volatility of a candle
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from generations.v9.direction import log_odds
from pipeline.bundle.scaler_check import MAX_SIZE
from pipeline.forecasts.fitted import FittedNumbers
from pipeline.forecasts.intervals import check_quantiles, conformal_quantiles
from pipeline.forecasts.shrinkage import (
    Calibration,
    apply_calibration,
    fit_direction_slope,
    fit_shrinkage,
)

if TYPE_CHECKING:
    from typing_extensions import Self

SERVED_QUANTILES = ("q10", "q50", "q90")


@dataclass(frozen=True)
class Combination(FittedNumbers):
    """Numbers fitted on the validation part."""

    what: ClassVar[str] = "ensemble:"
    remedy: ClassVar[str] = "train the models again"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "direction_shrinkage": (0.0, 1.0),
        "direction_slope": (0.0, MAX_SIZE),
        "price_weight": (0.0, 1.0),
        "combined_slope": (0.0, MAX_SIZE),
    }

    direction_shrinkage: float
    """log-odds to volatilities, 0 to 1"""
    direction_slope: float
    """factor on the log-odds that makes them calibrated, at least 0"""
    price_weight: float
    """share of the price network in the combined forecast, 0 to 1"""
    combined_slope: float
    """log-odds of a rise per volatility of the combined forecast, at least 0"""
    quantiles: dict[str, float]
    """`QUANTILE_NAMES` -> quantile of residual / forecast volatility"""

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote; a ValueError names what is missing or out of its range."""
        combination = super().from_dict(numbers)
        check_quantiles(combination.quantiles, "ensemble:")
        return combination


def fit_combination(
    p_up: np.ndarray,
    price_return: np.ndarray,
    volatility: np.ndarray,
    forecast_volatility: np.ndarray,
    actual: np.ndarray,
) -> Combination:
    """Fit all numbers on the validation part; weights by least absolute deviations.

    Args:
        p_up: (n,) output of the direction network.
        price_return: (n,) shrunk forecasts of the price network, log-returns.
        volatility: (n,) EWMA volatility, as in `Samples`.
        forecast_volatility: (n,) the volatility model's, for one such return.
        actual: (n,) log-returns that came true.
    """
    scaled_actual = actual / volatility
    scaled_price = price_return / volatility
    odds = log_odds(p_up)
    shrinkage = fit_shrinkage(odds, scaled_actual)
    called = shrinkage * odds
    weight = fit_shrinkage(scaled_price - called, scaled_actual - called)
    combined = called + weight * (scaled_price - called)
    return Combination(
        direction_shrinkage=shrinkage,
        direction_slope=fit_direction_slope(odds, actual),
        price_weight=weight,
        combined_slope=fit_direction_slope(combined, scaled_actual),
        quantiles=conformal_quantiles((actual - combined * volatility) / forecast_volatility),
    )


def apply_combination(
    combination: Combination,
    p_up: np.ndarray,
    price_return: np.ndarray,
    volatility: np.ndarray,
    forecast_volatility: np.ndarray,
) -> dict[str, np.ndarray]:
    """The combined forecast; arguments as for `fit_combination`.

    Returns:
        (n,) each: direction_p_up (calibrated), combined (log-return), combined_p_up, combined_q10,
        combined_q50, combined_q90 (log-returns).
    """
    odds = log_odds(p_up)
    called = combination.direction_shrinkage * odds * volatility
    combined = called + combination.price_weight * (price_return - called)
    whole = Calibration(1.0, combination.combined_slope)
    quantiles = {
        f"combined_{name}": combined + combination.quantiles[name] * forecast_volatility
        for name in SERVED_QUANTILES
    }
    return {
        # 1 / (1 + e^-x) = 0.5 + 0.5 tanh(x / 2)
        "direction_p_up": 0.5 + 0.5 * np.tanh(0.5 * combination.direction_slope * odds),
        "combined": combined,
        "combined_p_up": apply_calibration(whole, combined, volatility)["p_up"],
        **quantiles,
    }
