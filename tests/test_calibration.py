"""Shrinkage and probability of a rise are right where the truth is planted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.forecasts.shrinkage import (
    Calibration,
    apply_calibration,
    fit_calibration,
    fit_direction_slope,
    fit_shrinkage,
)

NUMBERS = Calibration(0.5, 2.0)

vectors = st.lists(
    st.tuples(*[st.floats(-5, 5).map(lambda x: round(x, 3))] * 2), min_size=1, max_size=40
).map(lambda pairs: (np.array([f for f, _ in pairs]), np.array([a for _, a in pairs])))


def test_shrinkage_is_the_weighted_median_of_the_ratios_by_hand():
    # ratios 0.5, 0, 1/3 with weights 1, 2, 3: sorted 0 (2), 1/3 (2 + 3), 0.5; half of the weight is
    # 3
    assert fit_shrinkage(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.0, 1.0])) == pytest.approx(
        1 / 3
    )


def test_a_single_crash_does_not_decide_the_shrinkage():
    forecast, actual = np.ones(9), np.full(9, 0.5)
    actual[0] = -50.0
    assert fit_shrinkage(forecast, actual) == 0.5


@pytest.mark.parametrize(
    ("forecast", "actual", "expected"),
    [
        ([1, 2], [3, 6], 1.0),
        ([1, 2], [-1, -2], 0.0),
        ([0, 0], [1, -1], 0.0),
        ([1, -1], [1, 1], 0.0),
    ],
)
def test_shrinkage_stays_within_0_and_1(forecast, actual, expected):
    assert fit_shrinkage(np.array(forecast, dtype=float), np.array(actual, dtype=float)) == expected


@settings(max_examples=200, deadline=None)
@given(vectors)
def test_no_factor_within_0_and_1_fits_better(pair):
    forecast, actual = pair
    factor = fit_shrinkage(forecast, actual)
    assert 0 <= factor <= 1

    def loss(k):
        return np.sum(np.abs(actual - k * forecast))

    assert all(loss(factor) <= loss(other) + 1e-9 for other in np.linspace(0, 1, 21))


def planted(slope, n=100_000, seed=0):
    """Forecasts of deviation 0.05, and rises with the logistic probability of the slope."""
    rng = np.random.default_rng(seed)
    forecast = 0.05 * rng.standard_normal(n)
    rises = rng.random(n) < 1 / (1 + np.exp(-slope * forecast))
    return forecast, np.where(rises, 1.0, -1.0) * rng.exponential(size=n)


@pytest.mark.parametrize("slope", [1.0, 4.0])
def test_the_direction_slope_is_recovered(slope):
    # Its standard error is about 2 / (0.05 * sqrt(n)) = 0.13.
    assert fit_direction_slope(*planted(slope)) == pytest.approx(slope, abs=0.5)


def test_the_direction_slope_solves_its_equation():
    """The sum of (rose - p_up) * forecast is 0 at the slope of the greatest likelihood."""
    forecast, actual = planted(2.0, n=500)
    slope = fit_direction_slope(forecast, actual)
    p_up = 1 / (1 + np.exp(-slope * forecast))
    score = np.sum(((actual > 0) - p_up) * forecast)
    assert abs(score) < 1e-6 * np.sum(np.abs(forecast))


def test_a_link_of_the_wrong_sign_gives_no_slope_and_probability_one_half():
    forecast, actual = planted(-4.0)
    assert fit_direction_slope(forecast, actual) == 0.0
    calibration = fit_calibration(forecast, actual, np.ones_like(forecast))
    assert calibration.shrinkage == 0.0
    served = apply_calibration(calibration, forecast, np.ones_like(forecast))
    assert (served["p_up"] == 0.5).all()
    assert (served["predicted_return"] == 0).all()


@pytest.mark.parametrize(
    ("forecast", "actual"),
    [([0.2, 0.2, 0.2], [1, -1, 1]), ([0.1, -0.2, 0.3], [1, 2, 3]), ([0.1, -0.2, 0.3], [0, 0, 0])],
)
def test_without_two_sides_to_tell_apart_there_is_no_slope(forecast, actual):
    assert fit_direction_slope(np.array(forecast), np.array(actual, dtype=float)) == 0.0


def test_a_price_that_did_not_move_tells_nothing_of_direction():
    forecast, actual = planted(3.0, n=2000)
    still = np.zeros(500)
    with_still = fit_direction_slope(np.r_[forecast, forecast[:500]], np.r_[actual, still])
    assert with_still == pytest.approx(fit_direction_slope(forecast, actual), rel=1e-3)


def test_calibration_is_applied_by_hand_arithmetic():
    served = apply_calibration(NUMBERS, np.array([0.02, -0.01]), np.array([0.01, 0.005]))
    assert served["predicted_return"] == pytest.approx([0.01, -0.005])
    # The scaled forecasts are 2 and -2: p = 1 / (1 + exp(∓4)).
    assert served["p_up"] == pytest.approx([1 / (1 + math.exp(-4)), 1 / (1 + math.exp(4))])


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 0.2), st.floats(1e-5, 0.2), st.floats(0.1, 8.0))
def test_p_up_is_above_one_half_exactly_where_the_forecast_is_above_zero(size, volatility, slope):
    calibration = Calibration(0.0, slope)  # also where shrinkage leaves nothing of the forecast
    served = apply_calibration(calibration, np.array([size, 0.0, -size]), np.full(3, volatility))
    up, zero, down = served["p_up"]
    assert down < zero == 0.5 < up
    assert up + down == pytest.approx(1)


def test_a_dead_market_has_no_direction():
    served = apply_calibration(NUMBERS, np.zeros(2), np.array([0.0, 0.01]))
    assert served["p_up"].tolist() == [0.5, 0.5]
    assert served["predicted_return"][0] == 0


def test_a_forecast_beyond_all_bounds_is_certain_without_a_warning():
    served = apply_calibration(NUMBERS, np.array([1e3, -1e3]), np.array([1e-3, 1e-3]))
    assert served["p_up"] == pytest.approx([1, 0], abs=1e-12)


def test_calibration_survives_a_round_trip_through_plain_floats():
    numbers = NUMBERS.as_dict()
    assert all(type(value) is float for value in numbers.values())
    assert Calibration.from_dict(numbers) == NUMBERS
    assert Calibration.from_dict(numbers | {"shrinkage": 1, "more": "ignored"}).shrinkage == 1.0


@pytest.mark.parametrize("value", [None, "0.5", True, math.nan, math.inf, [0.5]])
def test_what_is_no_finite_number_is_named(value):
    with pytest.raises(
        ValueError, match="calibration number 'direction_slope' is .*, not a number from 0 to"
    ):
        Calibration.from_dict(NUMBERS.as_dict() | {"direction_slope": value})


def test_a_missing_number_is_named():
    with pytest.raises(ValueError, match="calibration number 'shrinkage' is None"):
        Calibration.from_dict({})


def test_calibration_fits_volatility_scaled_returns():
    # Wild and calm samples count alike: scaled, the forecasts are 1 and the actuals 1, 0, 0.5.
    forecast, actual = np.array([0.1, 0.001, 2.0]), np.array([0.1, 0.0, 1.0])
    volatility = np.array([0.1, 0.001, 2.0])
    calibration = fit_calibration(forecast, actual, volatility)
    assert calibration.shrinkage == pytest.approx(0.5)


def test_caution_goes_its_share_of_the_way_to_the_least_squares_factor_where_that_is_smaller():
    forecast, actual = np.array([1.0, 1.0, 1.0, -1.0]), np.array([0.8, 0.8, 0.8, 1.2])
    # absolute errors: ratios 0.8, 0.8, 0.8, -1.2, their median 0.8; squared errors: (2.4 - 1.2) / 4
    # = 0.3
    assert fit_shrinkage(forecast, actual) == 0.8
    assert fit_shrinkage(forecast, actual, 0.5) == pytest.approx(0.55)
    assert fit_shrinkage(forecast, actual, 1.0) == pytest.approx(0.3)
    opposite = np.array([0.8, 0.8, 0.8, -20.0])  # least squares: 22.4 / 4, larger
    assert fit_shrinkage(forecast, opposite, 0.5) == 0.8
    # Least squares: negative
    assert fit_shrinkage(forecast, np.array([0.8, 0.8, 0.8, 9.0]), 1.0) == 0.0
    assert fit_shrinkage(np.zeros(4), actual, 0.5) == 0.0
