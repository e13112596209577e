"""Forecasts older than any that were judged are shrunk further, and told to be old."""

import copy

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline.candles.schema import DAY_MS
from pipeline.forecasts.aging import FALLING_DAYS, LEAST_FACTOR, age_factors
from pipeline.forecasts.prediction import forecast_lines, long_uncalibrated
from pipeline.forecasts.recalibration import Recalibration
from pipeline.forecasts.shrinkage import Calibration


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.floats(0, 1e4))
def test_the_factor_never_grows_with_age_and_stays_within_its_bounds(first, second, judged):
    young, old = sorted((first, second))
    factors = age_factors(np.array([young, old]), judged)
    assert LEAST_FACTOR <= factors[1] <= factors[0] <= 1
    assert (young > judged) or factors[0] == 1


@pytest.fixture
def predictor(tiny_bundle):
    return CryptoPricePredictorV2.from_directory(tiny_bundle)


def aged(predictor, days: float):
    """The same, as if it had been trained so many days earlier."""
    older = copy.copy(predictor)
    older.trained_until = predictor.trained_until - pd.Timedelta(days=days)
    older.cuts = {name: ms - int(days * DAY_MS) for name, ms in predictor.cuts.items()}
    return older


def test_the_test_part_is_forecast_as_it_was_judged(predictor, tiny_bundle, signal_market):
    saved = pd.read_parquet(tiny_bundle / FILES.predictions).query("symbol == 'BTC/USDT'")
    history = predictor.predict_history(signal_market["BTC/USDT"]).set_index("timestamp")
    served = history.loc[saved["timestamp"], "predicted_return"]
    np.testing.assert_array_equal(served, saved["lstm"])


def test_later_forecasts_shrink_in_a_straight_line(predictor, signal_market):
    candles = signal_market["BTC/USDT"]
    now = predictor.predict(candles)
    judged_days = (predictor.cuts["test_end"] - predictor.cuts["val_end"]) / DAY_MS
    older = aged(predictor, judged_days - now["age_days"] + FALLING_DAYS / 2)
    told = older.predict(candles)
    # By hand: half way from 1 to 0.7.
    assert told["return"] == pytest.approx(0.85 * now["return"], rel=1e-9)
    assert told["p_up"] == now["p_up"]
    shift = told["return"] - now["return"]
    assert told["return_low"] - now["return_low"] == pytest.approx(shift, abs=1e-12) or (
        told["return_low"] == now["return_low"]
    )
    assert aged(predictor, 5000).predict(candles)["return"] == pytest.approx(0.7 * now["return"])


def test_history_and_single_forecast_age_alike(predictor, signal_market):
    candles = signal_market["BTC/USDT"]
    older = aged(predictor, 150)
    history = older.predict_history(candles)
    for cut in (len(candles), len(candles) - 7):
        single = older.predict(candles.iloc[:cut])
        row = history[history["timestamp"] == candles["timestamp"].iloc[cut - 1]].iloc[0]
        assert single["return"] == row["predicted_return"]


def test_a_recalibration_takes_the_factor_s_place(predictor, signal_market):
    candles = signal_market["BTC/USDT"]
    older = aged(predictor, 5000)
    older.recalibration = Recalibration(Calibration(0.5, 0.1), 0, 10**12, 1000)
    history = older.as_judged().predict_history(candles)
    assert older.predict(candles)["return"] == pytest.approx(
        0.5 * history["raw_return"].iloc[-1], rel=1e-12
    )


def test_a_calibration_of_more_than_a_year_ago_is_warned_of(predictor, signal_market):
    candles = signal_market["BTC/USDT"]
    assert long_uncalibrated(predictor.predict(candles)) is None
    told = aged(predictor, 400).predict(candles)
    days = (told["last_timestamp"] - told["calibrated_until"]).days
    assert f"last fitted {days:,} days before these candles" in "\n".join(forecast_lines(told))
