"""What a referee doubts that a first look at the forecasts does not show."""

import numpy as np
import pandas as pd
import pytest

from judge import Judgement, judge
from pipeline.forecasts.baselines import BASELINE_NAMES
from tests.test_judge import HOUR, frame_of, free, moves, names_of, says_of, walk


def turning(n: int = 3000, share: float = 0.12, seed: int = 0) -> pd.DataFrame:
    """Candles whose moves turn back by this share of the last one."""
    shock = 0.005 * np.random.default_rng(seed).standard_normal(n)
    for t in range(1, n):
        shock[t] -= share * shock[t - 1]
    close = 100 * np.exp(np.cumsum(shock))
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    times = walk(n)["timestamp"]
    return pd.DataFrame({"timestamp": times, **prices, "volume": 10.0})


@pytest.fixture(scope="module")
def market() -> pd.DataFrame:
    return turning()


@pytest.fixture(scope="module")
def rule(market) -> np.ndarray:
    """An honest forecast that BEATS naive."""
    return -0.1 * np.nan_to_num(moves(market))


def verdict_of(judged: Judgement) -> str:
    [verdict] = judged.verdicts.values()
    return verdict


def is_grave(judged: Judgement, name: str) -> bool:
    [metrics] = judged.metrics.values()
    return next(one["is_grave"] for one in metrics["suspicions"] if one["name"] == name)


def against_all(forecasts, candles, **options) -> Judgement:
    return judge(forecasts, {"BTC/USDT": candles}, **options)


# --- opponents


def test_naive_alone_is_no_opponent_that_makes_an_edge(market, rule):
    judged = free(frame_of(market, rule), market)
    assert judged.metrics["forecasts"]["test"]["verdict"] == "EDGE"
    assert verdict_of(judged) == "IN DOUBT"
    assert "not compared: drift, reversal, lad, ridge, xgboost" in says_of(judged, "naive_alone")
    assert "naive_alone" not in names_of(free(frame_of(market, 0.0), market))


def test_a_stray_early_row_does_not_drive_the_opponents_away(market, rule):
    made = frame_of(market, rule, rows=slice(2200, -5))
    stray = pd.concat([frame_of(market, rule, rows=slice(60, 61)), made])
    one = against_all(made, market).metrics["forecasts"]
    judged = against_all(stray, market)
    other = judged.metrics["forecasts"]
    assert list(other["test"]["models"]) == [*BASELINE_NAMES, "forecasts"]
    assert other["test"]["n"] == one["test"]["n"] == len(made)
    assert other["test"]["verdicts"] == one["test"]["verdicts"]
    assert "1 forecast of BTC/USDT until 2024-01-03 12:00" in " ".join(other["notes"])
    assert "incomplete" not in names_of(judged)


# --- units


@pytest.mark.parametrize("share", [-0.3, -0.1, 0.0, 0.1])
def test_the_verdict_is_the_same_of_prices_and_of_returns(market, share):
    returns = share * np.nan_to_num(moves(market))
    prices = market["close"] * np.exp(returns)
    of_returns = free(frame_of(market, returns), market)
    of_prices = free(frame_of(market, prices, "forecast_price"), market)
    assert verdict_of(of_prices) == verdict_of(of_returns)
    one, other = (of.metrics["forecasts"]["test"]["verdicts"][0] for of in (of_prices, of_returns))
    assert one["skill"] == pytest.approx(other["skill"], abs=1e-9)


def test_a_small_price_forecast_that_beats_naive_is_no_copy(market, rule):
    small = market["close"] * np.exp(0.3 * rule)  # half of them within 0.02 volatilities
    judged = free(frame_of(market, small, "forecast_price"), market)
    assert judged.metrics["forecasts"]["test"]["verdicts"][0]["verdict"] == "BEATS"
    assert "copies_last_price" not in names_of(judged)


def test_prices_stamped_with_their_target_are_asked_about(market, rule):
    made = frame_of(market, market["close"] * np.exp(rule / 2), "forecast_price")
    late = made.assign(timestamp=made["timestamp"] + HOUR)
    assert "(--stamped target)" in says_of(free(late, market), "copies_last_price")
    wild = market["close"] * np.exp(4 * rule)
    late = frame_of(market, wild, "forecast_price").assign(timestamp=late["timestamp"])
    says = says_of(free(late, market), "prices_lag")
    assert "(--stamped target), by which their error would be" in says


def test_a_decided_result_is_not_called_too_few(market):
    loud = 0.05 * np.random.default_rng(9).standard_normal(len(market))
    judged = free(frame_of(market, loud, rows=slice(100, 400)), market)
    assert judged.metrics["forecasts"]["test"]["verdicts"][0]["verdict"] == "LOSES"
    assert "too_few" not in names_of(judged)
    says = says_of(judged, "far_off")
    assert "times naive's" in says and "percent" in says and "--stamped target" in says
    assert not is_grave(judged, "far_off")


# --- times


@pytest.mark.parametrize("early", [1, 2, 5, 24])
def test_times_that_are_early_are_named_by_their_offset(market, rule, early):
    made = frame_of(market, rule, rows=slice(150, -30))
    judged = free(made.assign(timestamp=made["timestamp"] - early * HOUR), market)
    name = "knows_target" if early == 1 else "knows_beyond_target"
    says = says_of(judged, name)
    assert is_grave(judged, name) and "-1.00" in says
    assert f"too early by {early} candle" in says


@pytest.mark.parametrize("late", [1, 2, 5, 24])
def test_times_that_are_late_are_named_by_their_offset(market, rule, late):
    made = frame_of(market, rule, rows=slice(150, -30))
    judged = free(made.assign(timestamp=made["timestamp"] + late * HOUR), market)
    assert f"late by {late} candle" in says_of(judged, "times_late")
    assert not is_grave(judged, "times_late")


def test_honest_rules_of_the_last_moves_have_right_times(market, rule):
    past = pd.Series(np.nan_to_num(moves(market)))
    for made in (rule, -rule, 0.1 * past.rolling(10).mean().fillna(0), 0.1 * past.ewm(5).mean()):
        judged = free(frame_of(market, np.asarray(made)), market)
        doubts = {"times_late", "knows_target", "knows_beyond_target"}
        assert not doubts & set(names_of(judged))
