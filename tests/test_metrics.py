import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.metrics import (
    check_predictions,
    direction_metrics,
    forecast_fault,
    lag_check,
    price_metrics,
    return_metrics,
)


def hand_made_predictions():
    """BTC 100 -> 110 (forecast 105) and 200 -> 190 (forecast 200); ETH 10 -> 11 (forecast 11)."""
    return pd.DataFrame(
        {
            "symbol": ["BTC/USDT", "ETH/USDT", "BTC/USDT"],
            "timestamp": pd.to_datetime(
                ["2024-01-01T00", "2024-01-01T00", "2024-01-01T01"], utc=True
            ),
            "base_price": [100.0, 10.0, 200.0],
            "actual_return": np.log([1.1, 1.1, 0.95]),
            "volatility": [0.01, 0.02, 0.01],
            "lstm": np.log([1.05, 1.1, 1.0]),
            "naive": [0.0, 0.0, 0.0],
        }
    )


def test_price_errors_agree_with_hand_arithmetic():
    metrics = price_metrics(hand_made_predictions(), "lstm")
    btc, eth = metrics["by_symbol"]["BTC/USDT"], metrics["by_symbol"]["ETH/USDT"]
    assert metrics["mape_percent"] == pytest.approx(100 * (5 / 110 + 10 / 190 + 0) / 3)
    assert btc["mape_percent"] == pytest.approx(100 * (5 / 110 + 10 / 190) / 2)
    assert btc["mae"] == pytest.approx((5 + 10) / 2)
    assert btc["rmse"] == pytest.approx(math.sqrt((25 + 100) / 2))
    assert btc["mase"] == pytest.approx(7.5 / 10)  # naive errs by 10 and 10
    assert eth == pytest.approx({"mape_percent": 0, "mae": 0, "rmse": 0, "mase": 0}, abs=1e-9)


def test_naive_has_a_mase_of_exactly_one():
    assert price_metrics(hand_made_predictions(), "naive")["by_symbol"]["BTC/USDT"]["mase"] == 1.0


def test_mase_is_undefined_where_no_price_moved():
    flat = hand_made_predictions().assign(actual_return=0.0)
    assert price_metrics(flat, "lstm")["by_symbol"]["BTC/USDT"]["mase"] is None


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(1e-4, 1e4), seed=st.integers(0, 1000))
def test_relative_price_errors_ignore_the_price_level_and_the_order_of_rows(factor, seed):
    plain = price_metrics(hand_made_predictions(), "lstm")
    scaled = hand_made_predictions().sample(frac=1, random_state=seed)
    scaled["base_price"] *= factor
    changed = price_metrics(scaled, "lstm")
    assert changed["mape_percent"] == pytest.approx(plain["mape_percent"])
    btc, plain_btc = changed["by_symbol"]["BTC/USDT"], plain["by_symbol"]["BTC/USDT"]
    assert btc["mase"] == pytest.approx(plain_btc["mase"])
    assert btc["mae"] == pytest.approx(factor * plain_btc["mae"])


def test_return_errors_agree_with_hand_arithmetic():
    metrics = return_metrics([0.03, -0.01, 0.0], [0.01, 0.0, 0.01])
    assert metrics["mae"] == pytest.approx(0.04 / 3)
    assert metrics["mae_percent"] == pytest.approx(4 / 3)
    assert metrics["rmse"] == pytest.approx(math.sqrt(0.0006 / 3))
    assert metrics["r2_vs_zero"] == pytest.approx(1 - 0.0006 / 0.0010)


def test_r2_is_against_zero_and_not_against_the_mean():
    actual = [0.02, 0.02, 0.02]
    assert return_metrics(actual, [0.0, 0.0, 0.0])["r2_vs_zero"] == 0.0
    assert return_metrics(actual, actual)["r2_vs_zero"] == 1.0  # against the mean it would be 0 / 0
    assert return_metrics(actual, [-0.02, -0.02, -0.02])["r2_vs_zero"] == pytest.approx(1 - 4)
    assert return_metrics([0.0, 0.0], [0.1, 0.1])["r2_vs_zero"] is None


def test_direction_accuracy_counts_only_rows_with_a_call_and_a_move():
    actual = [0.01, -0.01, 0.02, -0.02, 0.0, 0.01]
    score = [0.5, 0.5, 0.1, -0.1, 0.3, 0.0]
    metrics = direction_metrics(actual, score)
    assert metrics["n_calls"] == 4
    assert metrics["direction_accuracy"] == 0.75
    # Wilson: centre (3 + z^2/2) / (4 + z^2), half width z sqrt(3 * 1/4 + z^2/4) / (4 + z^2)
    z = 1.959964
    centre, half = (3 + z**2 / 2) / (4 + z**2), z * math.sqrt(0.75 + z**2 / 4) / (4 + z**2)
    assert metrics["direction_accuracy_low"] == pytest.approx(centre - half, abs=1e-6)
    assert metrics["direction_accuracy_high"] == pytest.approx(centre + half, abs=1e-6)


def test_with_instants_the_interval_of_the_accuracy_takes_an_hour_as_the_unit():
    rng = np.random.default_rng(8)
    actual, score, hours = rng.standard_normal(400), rng.standard_normal(400), np.arange(400)
    score[::7] = 0.0  # no calls there

    def of_copies(k, **options):
        return direction_metrics(np.tile(actual, k), np.tile(score, k), **options)

    twice, often = (of_copies(k, instants=np.tile(hours, k)) for k in (2, 20))
    for key in (
        "direction_accuracy_low",
        "direction_accuracy_high",
        "pesaran_timmermann_statistic",
    ):
        assert often[key] == pytest.approx(twice[key]), key
        assert of_copies(20)[key] != pytest.approx(of_copies(2)[key], rel=0.01), (
            key
        )  # independent copies would count


def test_the_most_confident_tenth_is_taken_by_the_size_of_the_score():
    score = np.linspace(0.1, 2.0, 20) * np.tile([1, -1], 10)
    actual = -np.sign(score)
    actual[[18, 19]] = np.sign(score[[18, 19]])  # right only in the two largest of 20
    assert direction_metrics(actual, score)["top_tenth_accuracy"] == 1.0
    assert direction_metrics(actual, score)["direction_accuracy"] == 0.1
    assert direction_metrics(actual, score, confidence=-np.abs(score))["top_tenth_accuracy"] == 0.0


def test_calls_that_tie_at_the_edge_of_the_top_tenth_all_count():
    score = np.ones(20)
    actual = np.tile([1.0, -1.0], 10)
    assert direction_metrics(actual, score)["top_tenth_accuracy"] == 0.5
    assert direction_metrics(actual[::-1], score)["top_tenth_accuracy"] == 0.5


def test_fewer_than_ten_calls_have_no_tenth():
    assert direction_metrics(np.tile([1.0, -1.0], 4), np.arange(1, 9))["top_tenth_accuracy"] is None


def test_roc_auc_is_the_share_of_ordered_pairs():
    # Pairs (rise, fall) by score: 2 > 1, 2 < 3, 4 > 1, 4 > 3; the row that did not move counts
    # nowhere.
    assert direction_metrics([-1, 1, -1, 1, 0], [1, 2, 3, 4, 9])["roc_auc"] == 0.75


def test_brier_score_agrees_with_hand_arithmetic():
    metrics = direction_metrics([0.1, 0.2, -0.1, 0.0], [1, 1, 1, 1], p_up=[0.8, 0.3, 0.4, 0.9])
    assert metrics["brier"] == pytest.approx((0.2**2 + 0.7**2 + 0.4**2) / 3)
    assert direction_metrics([0.1, -0.2], [1, 1])["brier"] is None


def test_a_forecast_of_no_change_has_no_direction():
    metrics = direction_metrics([0.1, -0.1, 0.2], [0.0, 0.0, 0.0])
    assert metrics.pop("n_calls") == 0
    assert set(metrics.values()) == {None}


def test_always_up_has_an_accuracy_but_no_test_of_timing():
    metrics = direction_metrics([0.1, 0.1, -0.1, 0.1], np.ones(4))
    assert metrics["direction_accuracy"] == 0.75
    assert metrics["pesaran_timmermann_p_value"] is None
    assert metrics["roc_auc"] is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-6, 1e6))
def test_directions_mirror_and_ignore_scale_and_order(seed, scale):
    rng = np.random.default_rng(seed)
    actual, score = rng.standard_normal((2, 60))
    shuffled = rng.permutation(60)
    plain = direction_metrics(actual, score)
    assert direction_metrics(actual[shuffled], scale * score[shuffled]) == pytest.approx(plain)
    mirrored = direction_metrics(actual, -score)
    assert mirrored["direction_accuracy"] == pytest.approx(1 - plain["direction_accuracy"])
    assert mirrored["roc_auc"] == pytest.approx(1 - plain["roc_auc"])


def test_the_lag_check_sees_a_forecast_that_copies_the_last_move():
    returns = np.random.default_rng(0).standard_normal(500)
    current, following = returns[:-1], returns[1:]
    checked = lag_check(0.1 * current, current, following)
    assert checked["correlation_with_current_return"] == pytest.approx(1)
    assert abs(checked["correlation_with_next_return"]) < 0.15
    assert checked["correlation_with_next_return"] == pytest.approx(
        np.corrcoef(current, following)[0, 1]
    )


def test_the_lag_check_skips_unknown_last_moves_and_gives_none_for_constants():
    checked = lag_check([1.0, 2.0, 3.0], [np.nan, 5.0, 4.0], [0.2, 0.2, 0.2])
    assert checked["correlation_with_current_return"] == pytest.approx(-1)
    assert checked["correlation_with_next_return"] is None
    nothing = {"correlation_with_current_return": None, "correlation_with_next_return": None}
    assert lag_check([0.0, 0.0], [1.0, 2.0], [1.0, 2.0]) == nothing
    assert lag_check([1.0, 2.0], [np.nan, np.nan], [0.0, 0.0]) == nothing


def test_a_fault_of_forecasts_is_told_in_a_sentence_and_a_missing_column_is_none():
    predictions = hand_made_predictions()
    assert forecast_fault(predictions, "lstm") is None
    assert forecast_fault(predictions, "gru") is None
    predictions.loc[1, "lstm"] = 60.0
    assert forecast_fault(predictions, "lstm").startswith(
        "lstm: 1 of 3 forecasts are NaN, infinite or beyond +-50, the first at 2024-01-01 "
        "00:00:00+00:00 (ETH/USDT: 60"
    )


def spoiled(**columns):
    predictions = hand_made_predictions()
    for name, value in columns.items():
        predictions.loc[predictions.index[1:], name] = value
    return predictions


@pytest.mark.parametrize(
    "predictions, message",
    [
        (hand_made_predictions().iloc[:0], "predictions are empty"),
        (
            hand_made_predictions().drop(columns=["volatility", "lstm"]),
            r"lack the columns \['volatility', 'lstm'\]",
        ),
        (
            spoiled(lstm=np.nan),
            r"lstm of predictions: 2 of 3 .* first at 2024-01-01 00:00:00\+00:00 \(ETH/USDT: nan",
        ),
        (spoiled(lstm=-np.inf), "lstm of predictions: 2 of 3 values are NaN, infinite or beyond"),
        (spoiled(lstm=800.0), "beyond \\+-50"),
        (spoiled(actual_return=np.nan), "actual_return of predictions: 2 of 3"),
        (spoiled(volatility=0.0), "volatility of predictions: 2 of 3 values are not positive"),
        (spoiled(volatility=np.nan), "volatility of predictions"),
        (spoiled(base_price=np.inf), "base_price of predictions"),
        (spoiled(timestamp=pd.NaT), "timestamp of predictions: 2 of 3 values are missing"),
        (
            hand_made_predictions().assign(p_up=[0.5, 1.5, 0.5]),
            "p_up of predictions: 1 of 3 values are not within",
        ),
        (
            pd.concat([hand_made_predictions()] * 2),
            "3 samples twice, for example BTC/USDT at 2024-01-01 00:00",
        ),
    ],
)
def test_unusable_predictions_are_refused_with_column_count_and_place(predictions, message):
    with pytest.raises(ValueError, match=message):
        check_predictions(predictions, ["lstm", "naive"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: return_metrics([0.1, 0.2], [0.1]), "forecast has 1 values, actual has 2"),
        (lambda: return_metrics([], []), r"actual has the shape \(0,\)"),
        (
            lambda: direction_metrics([0.1, np.nan], [1, 1]),
            "actual has 1 NaN or infinite values of 2, the first in row 1",
        ),
        (lambda: direction_metrics([0.1, 0.2], [1, 1], p_up=[0.5]), "p_up has 1 values"),
        (
            lambda: direction_metrics([0.1, 0.2], [1, 1], confidence=[0.5]),
            "confidence has 1 values",
        ),
        (lambda: lag_check([1.0, 2.0], [1.0], [1.0, 2.0]), r"current_return has the shape \(1,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
