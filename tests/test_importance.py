"""What a network relies on: networks whose inputs' worth is known by hand."""

from dataclasses import replace

import numpy as np
import pytest

from feature_engineering import FEATURE_GROUPS, V2_FEATURES, group_features
from pipeline.evaluation import importance
from pipeline.evaluation.importance import permutation_importance
from pipeline.samples.pooled_features import POOLED_FEATURES
from pipeline.samples.scaling import ScaledSamples
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples

LOOKBACK, N_CANDLES = 3, 600
GROUPS = {"known": ["a"], "twins": ["b", "c"]}


class LinearNetwork:
    """Forecasts a weighted sum of the last candle's features."""

    def __init__(self, *weights):
        self.weights = np.array(weights)

    def outputs_of(self, scaled):
        return (scaled.rows[scaled.samples.end] @ self.weights)[:, None]


@pytest.fixture
def scaled():
    """Two coins; the return is 0.01 (a + noise), and b, c are the same number."""
    rng = np.random.default_rng(0)
    a, b, noise = rng.standard_normal((3, 2 * N_CANDLES))
    end = np.arange(LOOKBACK - 1, N_CANDLES)
    end = np.concatenate([end, end + N_CANDLES])
    times = np.tile(np.arange(N_CANDLES), 2) * 3_600_000
    n = len(end)
    samples = Samples(
        symbols=("A/USDT", "B/USDT"),
        feature_cols=("a", "b", "c"),
        rows=np.column_stack([a, b, b]),
        row_ms=times,
        end=end,
        symbol=np.repeat([0, 1], n // 2),
        target_time=(times[end] + 7_200_000).astype("datetime64[ms]"),
        base_price=np.full(n, 100.0),
        current_return=np.zeros(n),
        log_return=0.01 * (a + noise)[end],
        volatility=np.full(n, 0.01),
        timeframe="1h",
        lookback=LOOKBACK,
        horizon=1,
        step_ms=3_600_000,
    )
    none = np.array([], dtype=int)
    split = Split(none, none, np.arange(n), *[np.datetime64(0, "ms")] * 4)
    return ScaledSamples(samples, split, samples.rows, samples.log_return)


def test_what_the_network_does_not_read_is_worth_nothing_and_the_rest_what_hand_says(scaled):
    found = permutation_importance(LinearNetwork(0.01, 0.0, 0.0), scaled, 1.0, GROUPS)
    known, twins = found["groups"]
    assert (known["group"], twins["group"], found["n"]) == ("known", "twins", 1196)
    # Errors of standard deviation 1 become ones of sqrt(3); naive's have sqrt(2).
    assert known["skill_lost"] == pytest.approx((np.sqrt(3) - 1) / np.sqrt(2), abs=0.05)
    assert known["low"] > 0.4 and known["high"] < 0.65
    assert known["moved"] == pytest.approx(np.sqrt(2), abs=0.1)
    assert (twins["skill_lost"], twins["low"], twins["high"], twins["moved"]) == (0, 0, 0, 0)


def test_twins_that_cancel_out_move_nothing_together(scaled):
    network = LinearNetwork(0.01, 0.01, -0.01)
    together = permutation_importance(network, scaled, 1.0, GROUPS)["groups"]
    assert together[-1]["moved"] == pytest.approx(0, abs=1e-9)
    alone = permutation_importance(network, scaled, 1.0, {"b": ["b"]})["groups"]
    assert alone[0]["skill_lost"] > 0.3


def test_a_forecast_that_was_shrunk_to_nothing_loses_nothing(scaled):
    [of, _] = permutation_importance(LinearNetwork(0.01, 0, 0), scaled, 0.0, GROUPS)["groups"]
    assert (of["skill_lost"], of["moved"]) == (0.0, None)


def test_forecasts_that_are_no_numbers_have_no_importance(scaled):
    assert permutation_importance(LinearNetwork(np.nan, 0, 0), scaled, 1.0, GROUPS) is None


def test_windows_are_exchanged_within_their_coin_and_each_is_taken_once():
    symbol = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    order = importance._exchanged(symbol, np.random.default_rng(1))
    assert sorted(order) == list(range(8)) and (symbol[order] == symbol).all()
    assert (order != np.arange(8)).any()


def test_of_a_long_test_part_some_instants_are_taken_with_all_their_coins(scaled, monkeypatch):
    monkeypatch.setattr(importance, "MOST_WINDOWS", 500)
    chosen = importance._chosen(scaled)
    times = scaled.samples.target_time[chosen]
    assert len(chosen) == 2 * 200  # every third of 598 instants
    assert set(np.diff(np.unique(times)).astype(int)) == {3 * 3_600_000}


def test_prices_that_stand_still_make_nothing_important(scaled):
    still = replace(scaled.samples, log_return=np.zeros(len(scaled.samples)))
    scaled = replace(scaled, samples=still)
    [of, _] = permutation_importance(LinearNetwork(0.01, 0, 0), scaled, 1.0, GROUPS)["groups"]
    assert (of["skill_lost"], of["low"]) == (0.0, None)


def test_every_feature_of_v2_is_in_one_group():
    grouped = [name for names in FEATURE_GROUPS.values() for name in names]
    assert sorted(grouped) == sorted({*V2_FEATURES, *POOLED_FEATURES})
    used = group_features(["rsi", "macd", "funding_rate"])
    assert used == {"momentum": ["rsi", "macd"], "funding": ["funding_rate"]}
