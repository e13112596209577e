"""Skill by symbol and month, the model confidence set, and how often a verdict is wrong."""

import numpy as np
import pandas as pd
import pytest
from arch.bootstrap import MCS
from threadpoolctl import threadpool_limits

from pipeline.evaluation.comparison import (
    LARGEST_BOOTSTRAP,
    model_confidence_set,
    scaled_absolute_error,
    skill_by,
)
from pipeline.evaluation.verdict import compare_forecasts
from tests import verdict_size


def predictions_of(n_hours, seed=0, **shares):
    """Two coins from 2024-01-15 on; each model knows its share of every return, and adds noise."""
    rng = np.random.default_rng(seed)
    hours = pd.date_range("2024-01-15", periods=n_hours, freq="h", tz="UTC").as_unit("ms")
    frames = []
    for symbol, volatility in (("ETH/USDT", 0.01), ("BTC/USDT", 0.005)):
        actual = volatility * rng.standard_normal(n_hours)
        models = {
            m: share * actual + 0.2 * volatility * rng.standard_normal(n_hours)
            for m, share in shares.items()
        }
        frames.append(
            pd.DataFrame(
                {
                    "symbol": symbol,
                    "timestamp": hours,
                    "base_price": 100.0,
                    "actual_return": actual,
                    "volatility": volatility,
                    "naive": 0.0,
                    **models,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def test_skill_by_symbol_agrees_with_hand_arithmetic():
    # BTC moves by 2 volatilities and 1.5 or 0.5 of it is foreseen; of ETH nothing.
    predictions = predictions_of(40, lstm=0.0)
    is_btc = predictions["symbol"] == "BTC/USDT"
    predictions["actual_return"] = 2 * predictions["volatility"]
    foreseen = np.where(is_btc, np.where(predictions["timestamp"].dt.hour % 2 == 0, 1.5, 0.5), 0.0)
    predictions["lstm"] = foreseen * predictions["volatility"]
    btc, eth = skill_by(predictions, "lstm", "naive")
    assert (btc["symbol"], eth["symbol"], btc["n"], eth["n"]) == ("BTC/USDT", "ETH/USDT", 40, 40)
    assert btc["skill"] == pytest.approx(0.5)
    assert btc["low"] < 0.5 < btc["high"]
    assert (eth["skill"], eth["low"], eth["high"]) == (0.0, 0.0, 0.0)


def test_skill_by_month_groups_by_calendar_month_in_utc():
    rows = skill_by(predictions_of(1000, lstm=0.1), "lstm", "naive", by="month")
    # From 15 January: 17 days, then 592 hours of February's 696.
    assert [(row["month"], row["n"]) for row in rows] == [
        ("2024-01", 2 * 17 * 24),
        ("2024-02", 2 * 592),
    ]


def test_the_interval_excludes_zero_exactly_where_diebold_mariano_rejects():
    # Not an identity: the interval also lets the baseline's mean loss vary; far from the border
    # they agree.
    for share, verdict in ((0.2, "BEATS"), (-0.2, "LOSES")):
        predictions = predictions_of(1500, lstm=share)
        one_coin = predictions[predictions["symbol"] == "BTC/USDT"]
        [row] = skill_by(one_coin, "lstm", "naive")
        [comparison] = compare_forecasts(one_coin, "lstm", ["naive"])
        assert comparison.verdict == verdict
        assert (row["low"] > 0) == (verdict == "BEATS")
        assert (row["high"] < 0) == (verdict == "LOSES")
        assert row["skill"] == pytest.approx(comparison.skill)


@pytest.mark.slow
def test_the_interval_of_skill_holds_the_truth_as_often_as_it_says():
    # The truth from 200,000 hours; 400 runs: a standard error of 1.1 points.
    truth = skill_by(predictions_of(200_000, lstm=0.1), "lstm", "naive")[0]["skill"]
    held = 0
    for seed in range(400):
        row = skill_by(predictions_of(150, seed + 1, lstm=0.1), "lstm", "naive")[0]
        held += row["low"] <= truth <= row["high"]
    assert 0.92 <= held / 400 <= 0.98


def test_too_few_instants_leave_a_skill_without_an_interval():
    rows = skill_by(predictions_of(9, lstm=0.1), "lstm", "naive")
    assert [(row["low"], row["high"]) for row in rows] == [(None, None)] * 2
    assert all(row["skill"] is not None for row in rows)
    still = predictions_of(30, lstm=0.1).assign(actual_return=0.0)
    assert skill_by(still, "lstm", "naive")[0] == {
        "symbol": "BTC/USDT",
        "skill": None,
        "low": None,
        "high": None,
        "n": 30,
    }


def test_the_confidence_set_holds_the_best_and_drops_what_is_clearly_worse():
    predictions = predictions_of(800, seed=1, best=0.3, good=0.3, bad=-0.5)
    found = model_confidence_set(predictions, ["naive", "bad", "best", "good"])
    assert found["models"] == ["best", "good"]
    assert found["p_values"]["bad"] < 0.05 < found["p_values"]["best"]
    assert max(found["p_values"].values()) == 1.0
    assert found == model_confidence_set(predictions, ["naive", "bad", "best", "good"])  # seeded


def test_equal_forecasts_share_a_p_value():
    predictions = predictions_of(300, lstm=0.0)
    predictions["drift"], predictions["copy"] = predictions["naive"], predictions["lstm"]
    found = model_confidence_set(predictions, ["naive", "lstm", "drift", "copy"])
    assert found["p_values"]["naive"] == found["p_values"]["drift"] == 1.0
    assert found["p_values"]["lstm"] == found["p_values"]["copy"] < 1.0
    assert model_confidence_set(predictions, ["naive", "drift"]) == {
        "models": ["naive", "drift"],
        "p_values": {"naive": 1.0, "drift": 1.0},
    }


def test_the_confidence_set_is_undefined_on_too_few_instants_or_a_constant_difference():
    assert model_confidence_set(predictions_of(9, lstm=0.1), ["naive", "lstm"]) is None
    still = predictions_of(50).assign(actual_return=0.0, drift=0.001, volatility=0.01)
    assert model_confidence_set(still, ["naive", "drift"]) is None


def test_a_long_test_part_is_averaged_before_the_bootstrap(monkeypatch):
    rows = []

    class Recorded(MCS):
        def __init__(self, losses, **options):
            rows.append((losses, options["block_size"]))
            super().__init__(losses, **options)

    monkeypatch.setattr("arch.bootstrap.MCS", Recorded)
    predictions = predictions_of(2 * LARGEST_BOOTSTRAP + 1, lstm=0.0)
    model_confidence_set(predictions, ["naive", "lstm"], repetitions=10)
    [(losses, block_size)] = rows
    assert losses.shape == (40_001 // 3, 2)  # three instants a row, and no more rows than the bound
    assert block_size == 12  # 40,001^(1/3) = 34.2 instants
    first = scaled_absolute_error(predictions, "lstm").reshape(2, -1).mean(axis=0)[:3].mean()
    assert losses[0, 1] == pytest.approx(first)


def test_the_verdict_is_rarely_wrong_on_martingales_and_finds_a_planted_signal():
    # python -m tests.verdict_size has the full experiment; at 2.5 % (BEATS, two-sided 5 %) three of
    # 10 are one in 600.
    with threadpool_limits(1):
        martingales = [verdict_size.run(seed, 2_500, 0.0) for seed in range(10)]
        planted = [verdict_size.run(seed, 25_540, 0.01) for seed in range(3)]
    assert verdict_size.shares(martingales, "BEATS")["alone"] <= 2 / 10
    found = verdict_size.shares(planted, "BEATS")
    assert found["alone"] == 1.0 and found["naive"] >= 2 / 3  # one of four comparisons
    assert planted[0].n > 19_000
