"""What a referee doubts that a first look at the forecasts does not show."""

import numpy as np
import pandas as pd
import pytest

from judge import Judgement, judge
from pipeline.forecasts.baselines import BASELINE_NAMES
from pipeline.forecasts.walk import ForecastLooksAheadError
from pipeline.forecasts.walk import walk as walk_forward
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
    assert "(--stamped target, or close)" in says_of(free(late, market), "copies_last_price")
    wild = market["close"] * np.exp(4 * rule)
    late = frame_of(market, wild, "forecast_price").assign(timestamp=late["timestamp"])
    says = says_of(free(late, market), "prices_lag")
    assert "(--stamped target, or close), by which their error would be" in says


def test_a_decided_result_is_not_called_too_few(market):
    loud = 0.05 * np.random.default_rng(9).standard_normal(len(market))
    judged = free(frame_of(market, loud, rows=slice(100, 400)), market, unit="return")
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


# --- selection


def tossed(market, column: str = "direction", share: float = 0.1):
    """Tosses of a coin or random returns, and which of the wrong ones are a share of all."""
    rng = np.random.default_rng(3)
    values = rng.choice((-1.0, 1.0), len(market))
    if column == "forecast_return":
        values = 2e-4 * rng.standard_normal(len(market))
    made = frame_of(market, values, column)
    ahead = np.append(moves(market)[1:], np.nan)[100:-5]
    wrong = np.flatnonzero(np.sign(ahead) != np.sign(made[column]))
    return made, rng.choice(wrong, int(share * len(made)), replace=False)


@pytest.mark.parametrize("column", ["direction", "forecast_return"])
@pytest.mark.parametrize("how", ["dropped", "no number", "zero"])
def test_an_edge_that_its_missing_forecasts_may_make_is_in_doubt(market, column, how):
    made, chosen = tossed(market, column)
    if how == "dropped":
        made = made.drop(index=chosen)
    else:
        made.loc[chosen, column] = np.nan if how == "no number" else 0.0
    judged = free(made, market)
    assert judged.metrics["forecasts"]["test"]["verdict"] == "EDGE"
    assert verdict_of(judged) == "IN DOUBT" and is_grave(judged, "edge_by_selection")
    says = says_of(judged, "edge_by_selection")
    what = {"dropped": "have no forecast", "no number": "are no numbers", "zero": "are zero"}
    assert says.startswith("10.0 %" if how != "zero" else "9.98 %") and what[how] in says
    if column == "direction":
        assert "counted as wrong they are right in 49.0 %" in says  # of tosses, 50 % but for luck


def test_an_edge_that_survives_its_missing_forecasts_says_by_how_much(market):
    ahead = np.append(moves(market)[1:], 0.0)
    noise = np.random.default_rng(1).standard_normal(len(market))
    skilled = np.sign(ahead + 0.03 * noise)
    made = frame_of(market, skilled, "direction")
    few = np.random.default_rng(2).choice(len(made), 30, replace=False)
    judged = free(made.drop(index=few), market)
    assert "edge_by_selection" not in names_of(judged)
    assert "survives" in says_of(judged, "incomplete")


def test_a_declared_rule_or_a_walk_leaves_out_what_it_likes():
    market = turning(6000, 0.13, seed=4)
    quiet = np.abs(np.nan_to_num(moves(market))) < 0.01
    made = frame_of(market, -0.1 * np.nan_to_num(moves(market)))
    kept = made[quiet[100:-5]]
    assert "edge_by_selection" in names_of(free(kept, market))
    judged = free(kept, market, rule="moves below 1 % alone")
    assert "edge_by_selection" not in names_of(judged)
    assert "by a rule that was declared (moves below 1 % alone)" in says_of(judged, "incomplete")

    def quiet_rule(candles):
        move = np.log(candles["close"]).diff()
        return (-0.1 * move).where(move.abs() < 0.01)

    walked = free(quiet_rule, market, since=market["timestamp"][1000])
    assert "edge_by_selection" not in names_of(walked)
    assert "was walked" in says_of(walked, "incomplete")


def test_forecasts_at_every_24th_candle_miss_nothing(market, rule):
    judged = free(frame_of(market, rule, rows=slice(100, -30, 24)), market, horizon=24)
    assert not {"incomplete", "edge_by_selection", "selected_forecasts"} & set(names_of(judged))


# --- intervals and probabilities


def test_an_interval_that_knows_the_next_candle_is_named():
    candles = walk(2000, 5)
    ahead = np.append(moves(candles)[1:], 0.0)
    wide = 0.002 * np.random.default_rng(0).random((2, len(candles)))
    made = frame_of(candles, np.full(len(candles), 1e-6)).assign(
        q10=(np.minimum(ahead, 0) - wide[0])[100:-5], q90=(np.maximum(ahead, 0) + wide[1])[100:-5]
    )
    judged = free(made, candles)
    says = says_of(judged, "implausible_interval")
    assert is_grave(judged, "implausible_interval")
    assert "100.0 % of what came true" in says


@pytest.mark.parametrize("width", [0.5, 1.0, 2.0, 5.0, 20.0])
def test_an_honest_interval_of_any_width_is_not_doubted(width):
    candles = walk(2000, 5)
    volatility = pd.Series(moves(candles)).ewm(span=48).std().bfill().to_numpy()[100:-5]
    made = frame_of(candles, np.full(len(candles), 1e-6))
    made = made.assign(q10=-width * volatility, q90=width * volatility)
    assert "implausible_interval" not in names_of(free(made, candles, unit="return"))


def test_a_probability_that_knows_the_next_candle_is_named(market, rule):
    ahead = np.append(moves(market)[1:], 0.0)[100:-5]
    made = frame_of(market, rule).assign(p_up=np.where(ahead > 0, 0.9, 0.1))
    judged = free(made, market)
    assert "right in 100.0 %" in says_of(judged, "implausible_probability")
    assert is_grave(judged, "implausible_probability")


def test_a_probability_that_is_turned_around_is_named(market, rule):
    p_up = 0.5 + 0.1 * np.sign(rule)[100:-5]
    judged = free(frame_of(market, rule).assign(p_up=1 - p_up), market)
    assert "p_up" in says_of(judged, "contradicting_direction")
    assert "contradicting_direction" not in names_of(
        free(frame_of(market, rule).assign(p_up=p_up), market)
    )
    other = np.random.default_rng(0).uniform(0.4, 0.6, len(market))[100:-5]
    judged = free(frame_of(market, rule).assign(p_up=other), market)
    assert not {"contradicting_direction", "implausible_probability"} & set(names_of(judged))


# --- tries


def test_several_models_of_one_call_are_tries(market, rule):
    models = {name: frame_of(market, n * rule) for n, name in enumerate(("one", "two"), 1)}
    judged = free(models, market)
    [note] = [note for note in judged.metrics["one"]["notes"] if "--tried" in note]
    assert "2 models" in note
    [metrics] = free(models["one"], market).metrics.values()
    assert not [note for note in metrics["notes"] if "--tried" in note]


# --- the proof of a walk


def test_a_fast_model_is_proved_at_more_instants_and_says_what_may_be_missed(market):
    def fast(candles):
        return -0.1 * np.log(candles["close"]).diff()

    proof = walk_forward(fast, {"BTC/USDT": market}, "1h").proof
    n = int(proof.split()[2])
    assert 50 < n <= 500
    share = float(proof.split("fewer than ")[1].split()[0])
    assert (1 - share / 100) ** n == pytest.approx(0.05, abs=0.01)
    few = walk_forward(fast, {"BTC/USDT": market}, "1h", n_instants=12).proof
    assert "proved at 12 instants" in few and "fewer than 22 % of the rows may be missed" in few


def test_a_leak_of_a_twentieth_of_the_rows_is_found(market):
    def sometimes(candles):
        move = np.log(candles["close"]).diff()
        return move.where(np.arange(len(move)) % 20 > 0, move.shift(-1))

    with pytest.raises(ForecastLooksAheadError, match="1 candle later"):
        walk_forward(sometimes, {"BTC/USDT": market}, "1h")
