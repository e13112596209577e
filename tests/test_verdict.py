import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.losses import SQUARED_LOSS, deciding
from pipeline.evaluation.metrics import direction_metrics
from pipeline.evaluation.significance import diebold_mariano
from pipeline.evaluation.verdict import (
    compare_forecasts,
    evaluate_forecasts,
    run_verdict,
    suspicion_warnings,
)
from pipeline.forecasts.baselines import BASELINE_NAMES
from pipeline.report import sentences, tables

MODEL_KEYS = {
    "mape_percent",
    "mae",
    "rmse",
    "mae_percent",
    "r2",
    "r2_low",
    "r2_high",
    "n_calls",
    "direction_accuracy",
    "direction_accuracy_low",
    "direction_accuracy_high",
    "pesaran_timmermann_statistic",
    "pesaran_timmermann_p_value",
    "top_tenth_accuracy",
    "roc_auc",
    "brier",
    "correlation_with_current_return",
    "correlation_with_next_return",
    "by_symbol",
}
RESULT_KEYS = [
    "n",
    "n_instants",
    "models",
    "verdicts",
    "power",
    "verdict",
    "interval",
    "probability",
    "skill_by",
    "skill_over_time",
    "confidence_set",
    "warnings",
]


def make_predictions(n_hours=300, seed=0, known=0.0):
    """Two coins; the network knows a share `known` of each return, ridge and XGBoost nothing."""
    rng, others = np.random.default_rng(seed), np.random.default_rng(1000 + seed)
    hours = pd.date_range("2024-01-01", periods=n_hours, freq="h", tz="UTC").as_unit("ms")
    frames = []
    for symbol, volatility in (("BTC/USDT", 0.005), ("ETH/USDT", 0.01)):
        actual = volatility * rng.standard_normal(n_hours)
        frames.append(
            pd.DataFrame(
                {
                    "symbol": symbol,
                    "timestamp": hours,
                    "base_price": 100 * np.exp(np.concatenate([[0.0], np.cumsum(actual)[:-1]])),
                    "current_return": np.concatenate([[0.0], actual[:-1]]),
                    "actual_return": actual,
                    "volatility": volatility,
                    "naive": 0.0,
                    "drift": 1e-6,
                    "reversal": 0.01 * volatility * others.standard_normal(n_hours),
                    "lad": 0.02 * volatility * others.standard_normal(n_hours),
                    "ridge": 0.02 * volatility * rng.standard_normal(n_hours),
                    "xgboost": 0.2 * volatility * rng.standard_normal(n_hours),
                    "lstm": known * actual + 1e-3 * volatility * rng.standard_normal(n_hours),
                    "p_up": 0.5,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def with_quantiles(predictions):
    """The 80 % interval of a normal distribution around the network's forecast."""
    quantiles = {"q10": -1.2816, "q50": 0.0, "q90": 1.2816}
    columns = {
        name: predictions["lstm"] + z * predictions["volatility"] for name, z in quantiles.items()
    }
    return predictions.assign(**columns)


def comparison(baseline, verdict):
    return Comparison("lstm", baseline, "scaled_absolute_error", 0.0, 1.0, 1.0, 0.0, verdict)


def test_loss_and_skill_agree_with_hand_arithmetic():
    # BTC moves by +-2 volatilities each hour, ETH by +-3; the model foresees 1 of BTC and nothing
    # of ETH. Mean scaled loss: naive (2 + 3) / 2 = 2.5, model (1 + 3) / 2 = 2; squared: 6.5 and 5.
    # In one of the 40 samples the model foresees 1.5, as a difference without variance cannot be
    # tested.
    predictions = make_predictions(20)
    is_btc = predictions["symbol"] == "BTC/USDT"
    sign = np.where(predictions["timestamp"].dt.hour % 2 == 0, 1.0, -1.0)
    predictions["actual_return"] = sign * np.where(is_btc, 2.0, 3.0) * predictions["volatility"]
    predictions["lstm"] = sign * np.where(is_btc, 1.0, 0.0) * predictions["volatility"]
    predictions.loc[0, "lstm"] *= 1.5
    [against_naive] = compare_forecasts(predictions, "lstm", ["naive"])
    assert against_naive.loss == "scaled_absolute_error"
    assert against_naive.skill == pytest.approx(1 - (2 - 0.5 / 40) / 2.5)
    [squared] = compare_forecasts(predictions, "lstm", ["naive"], loss=SQUARED_LOSS)
    assert squared.loss == "scaled_squared_error"
    assert squared.skill == pytest.approx(1 - (5 - (1 - 0.25) / 40) / 6.5)
    assert against_naive.statistic > 0
    assert against_naive.verdict == "BEATS"


def test_a_forecast_that_knows_something_beats_and_its_mirror_loses():
    predictions = make_predictions(known=0.1)
    [forward] = compare_forecasts(predictions, "lstm", ["naive"])
    [backward] = compare_forecasts(predictions, "naive", ["lstm"])
    assert (forward.verdict, backward.verdict) == ("BEATS", "LOSES")
    assert forward.skill > 0 > backward.skill
    assert forward.statistic == pytest.approx(-backward.statistic)


def test_a_forecast_equal_to_its_baseline_ties_with_zero_skill():
    predictions = make_predictions().assign(lstm=0.0)
    [tie] = compare_forecasts(predictions, "lstm", ["naive"])
    assert (tie.statistic, tie.p_value, tie.verdict) == (0.0, 1.0, "TIES")
    assert tie.skill == 0.0


def test_skill_is_undefined_against_a_perfect_baseline():
    predictions = make_predictions()
    predictions["ridge"] = predictions["actual_return"]
    [hopeless] = compare_forecasts(predictions, "lstm", ["ridge"])
    assert (hopeless.skill, hopeless.verdict) == (None, "LOSES")


def test_holm_makes_a_verdict_harder_to_reach_with_more_comparisons():
    # A p-value just below the level decides alone; among five alike it is multiplied by five.
    predictions = make_predictions()
    for copy in "abcd":
        predictions[copy] = 0.0
    [alone] = compare_forecasts(predictions, "lstm", ["naive"])
    among = compare_forecasts(predictions, "lstm", ["naive", "a", "b", "c", "d"])
    assert alone.p_holm == alone.p_value
    assert [c.p_holm for c in among] == pytest.approx([min(1.0, 5 * alone.p_value)] * 5)
    assert [c.baseline for c in among] == ["naive", "a", "b", "c", "d"]
    level = 1.01 * alone.p_value
    assert compare_forecasts(predictions, "lstm", ["naive"], alpha=level)[0].verdict != "TIES"
    assert compare_forecasts(predictions, "lstm", ["naive", "a"], alpha=level)[0].verdict == "TIES"


def test_the_horizon_reaches_the_test_and_widens_its_window():
    predictions = make_predictions()
    loss = (predictions["actual_return"] - predictions["lstm"]).abs() / predictions["volatility"]
    loss_naive = predictions["actual_return"].abs() / predictions["volatility"]
    expected = diebold_mariano(loss, loss_naive, predictions["timestamp"], horizon=24)
    [compared] = compare_forecasts(predictions, "lstm", ["naive"], horizon=24)
    assert compared.statistic == pytest.approx(expected.statistic)
    assert compared.statistic != pytest.approx(
        compare_forecasts(predictions, "lstm", ["naive"])[0].statistic
    )
    evaluated, _ = evaluate_forecasts(predictions, baselines=["naive"], horizon=24)["verdicts"]
    assert evaluated["statistic"] == compared.statistic


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.2, 1.0))
def test_statistic_and_skill_have_one_sign_even_if_a_coin_misses_hours(seed, share):
    predictions = make_predictions(60, seed, known=0.02)
    is_kept = (predictions["symbol"] == "BTC/USDT") | (
        np.random.default_rng(seed).random(120) < share
    )
    for result in compare_forecasts(predictions[is_kept], "lstm", ["naive", "ridge"]):
        assert np.sign(result.skill) == np.sign(result.statistic)


def test_a_copy_of_all_rows_under_another_symbol_changes_no_verdict():
    predictions = make_predictions(known=0.05)
    doubled = pd.concat([predictions, predictions.assign(symbol=predictions["symbol"] + "-COPY")])
    for one, other in zip(
        compare_forecasts(predictions, "lstm", ["naive", "ridge"]),
        compare_forecasts(doubled, "lstm", ["naive", "ridge"]),
    ):
        assert other.statistic == pytest.approx(one.statistic)
        assert other.skill == pytest.approx(one.skill)


@pytest.mark.parametrize(
    "naive, ridge, expected",
    [
        ("BEATS", "TIES", "EDGE"),
        ("BEATS", "BEATS", "EDGE"),
        ("BEATS", "LOSES", "NO EDGE"),
        ("TIES", "BEATS", "NO EDGE"),
        ("LOSES", "BEATS", "NO EDGE"),
    ],
)
def test_an_edge_needs_to_beat_naive_and_to_lose_to_none(naive, ridge, expected):
    comparisons = [comparison("naive", naive), comparison("ridge", ridge)]
    assert run_verdict(comparisons, synthetic=False) == expected
    assert run_verdict(comparisons, synthetic=True) == "NO CLAIM (synthetic data)"


def test_a_run_without_naive_has_no_verdict():
    with pytest.raises(ValueError, match="no comparison with naive"):
        run_verdict([comparison("ridge", "BEATS")], synthetic=False)


def test_a_number_is_doubted_where_even_the_lower_end_of_its_interval_is_above_the_limit():
    warnings = suspicion_warnings(
        "lstm",
        direction_accuracy=(0.734, 0.71, 0.75),
        r2=(0.031, 0.0201, 0.04),
        mae_skill=(0.0512, 0.03, 0.07),
    )
    assert len(warnings) == 3
    numbers = ("73.40 %, and at least 71.00 %", "3.10 %, and at least 2.01 %", "5.12 %, and at")
    for warning, number, limit in zip(warnings, numbers, ("56 %", "2 %", "2 %"), strict=True):
        assert f"is {number}" in warning and f"confidence, above {limit}" in warning
        assert "look-ahead" in warning


def test_a_number_that_luck_may_have_lifted_is_not_doubted():
    none = (None, None, None)
    lucky = (0.57, 0.56, 0.60)  # 215 calls of a fair coin are right in 57 % one time in fifty
    assert suspicion_warnings("lstm", direction_accuracy=lucky, r2=none, mae_skill=none) == []
    few = (0.9, None, None)
    assert suspicion_warnings("lstm", direction_accuracy=few, r2=few, mae_skill=few) == []


def test_an_evaluation_is_plain_json_of_the_documented_shape():
    result = evaluate_forecasts(make_predictions(), directions={"lstm": np.ones(600)})
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result) == RESULT_KEYS
    assert (result["n"], result["n_instants"]) == (600, 300)
    assert list(result["models"]) == [*BASELINE_NAMES, "lstm"]
    for metrics in result["models"].values():
        assert set(metrics) == MODEL_KEYS
        assert list(metrics["by_symbol"]) == ["BTC/USDT", "ETH/USDT"]
    assert [(verdict["loss"], verdict["baseline"]) for verdict in result["verdicts"]] == [
        (f"scaled_{loss}_error", name)
        for loss in ("absolute", "squared")
        for name in BASELINE_NAMES
    ]
    fields = {"model", "baseline", "loss", "statistic", "p_value", "p_holm", "skill", "verdict"}
    assert all(set(verdict) == fields for verdict in result["verdicts"])
    assert result["models"]["naive"]["direction_accuracy"] is None
    assert result["models"]["naive"]["r2"] == 0.0
    assert result["models"]["lstm"]["brier"] == 0.25
    assert result["models"]["ridge"]["brier"] is None


def test_noise_gets_no_edge_and_a_planted_signal_gets_an_edge():
    noise = [
        evaluate_forecasts(make_predictions(seed=s), confidence_set=False)["verdict"]
        for s in range(5)
    ]
    assert noise == ["NO EDGE"] * 5
    planted = make_predictions(known=0.01)
    assert evaluate_forecasts(planted)["verdict"] == "EDGE"
    assert evaluate_forecasts(planted, synthetic=True)["verdict"] == "NO CLAIM (synthetic data)"


def test_a_forecast_that_saw_the_future_is_doubted_whichever_model_made_it():
    leaked = make_predictions(known=0.5)
    leaked["xgboost"] = leaked["lstm"]
    warnings = evaluate_forecasts(leaked)["warnings"]
    assert [warning.split(":")[0] for warning in warnings] == ["lstm"] * 3 + ["xgboost"] * 3
    assert evaluate_forecasts(make_predictions(3000))["warnings"] == []


def test_a_rising_market_does_not_make_drift_suspicious():
    rising = make_predictions()
    rising["actual_return"] = rising["actual_return"].abs()
    warnings = evaluate_forecasts(rising)["warnings"]
    assert not any(warning.startswith(("drift", "naive")) for warning in warnings)


def test_directions_replace_a_forecast_that_was_shrunk_to_zero():
    predictions = make_predictions(known=0.2)
    unshrunk = predictions["lstm"].copy()
    predictions["lstm"] = 0.0
    erased = evaluate_forecasts(predictions)["models"]["lstm"]
    assert (erased["n_calls"], erased["direction_accuracy"]) == (0, None)
    kept = evaluate_forecasts(predictions, directions={"lstm": unshrunk})["models"]["lstm"]
    expected = direction_metrics(
        predictions["actual_return"],
        unshrunk / predictions["volatility"],
        p_up=predictions["p_up"],
        instants=predictions["timestamp"],
    )
    assert {key: kept[key] for key in expected} == pytest.approx(expected)
    assert kept["correlation_with_next_return"] > 0.9
    assert kept["mae"] == erased["mae"]


def test_the_top_tenth_is_ranked_in_units_of_volatility():
    # BTC is called right, ETH wrong. By raw size the 0.2 * 0.01 of ETH would outrank the 0.3 *
    # 0.005 of BTC.
    predictions = make_predictions(100)
    is_btc = predictions["symbol"] == "BTC/USDT"
    right = np.sign(predictions["actual_return"])
    predictions["lstm"] = np.where(is_btc, 0.3, -0.2) * right * predictions["volatility"]
    assert evaluate_forecasts(predictions)["models"]["lstm"]["top_tenth_accuracy"] == 1.0


def test_the_lag_check_finds_a_network_that_copies_the_last_candle():
    predictions = make_predictions()
    copied = predictions.groupby("symbol")["actual_return"].shift()
    predictions["lstm"] = copied.fillna(0.0)
    checked = evaluate_forecasts(predictions)["models"]["lstm"]
    assert checked["correlation_with_current_return"] == pytest.approx(1)
    assert abs(checked["correlation_with_next_return"]) < 0.2


def test_the_order_of_rows_changes_no_number():
    predictions = make_predictions(known=0.05)
    shuffled = predictions.sample(frac=1, random_state=1)
    plain, changed = evaluate_forecasts(predictions), evaluate_forecasts(shuffled)
    for model, metrics in plain["models"].items():
        by_symbol, changed_by_symbol = (
            metrics.pop("by_symbol"),
            changed["models"][model].pop("by_symbol"),
        )
        assert changed["models"][model] == pytest.approx(metrics)
        for symbol, numbers in by_symbol.items():
            assert changed_by_symbol[symbol] == pytest.approx(numbers)


def test_other_generations_may_name_their_own_network_and_baselines():
    predictions = (
        make_predictions(known=0.1).rename(columns={"lstm": "bilstm"}).drop(columns="p_up")
    )
    result = evaluate_forecasts(predictions, network="bilstm", baselines=("naive",), horizon=24)
    assert result["verdict"] == "EDGE"
    assert result["models"]["bilstm"]["brier"] is None


@pytest.mark.parametrize(
    "options, message",
    [
        ({"directions": {"gru": np.ones(600)}}, r"directions are given for \['gru'\]"),
        ({"directions": {"lstm": np.ones(599)}}, "directions of lstm has 599 values"),
        ({"directions": {"lstm": np.full(600, np.nan)}}, "directions of lstm has 600 NaN"),
        ({"baselines": ("ridge",)}, "needs naive among them"),
        ({"network": "gru"}, r"lack the columns \['gru'\]"),
    ],
)
def test_options_that_fit_no_column_or_row_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_forecasts(make_predictions(), **options)


@pytest.mark.parametrize("broken", [slice(None), [3, 400]])
def test_a_network_that_diverged_has_a_row_of_none_and_the_rest_stands(broken):
    predictions = with_quantiles(make_predictions())
    whole = evaluate_forecasts(predictions)
    predictions.loc[broken, ["lstm", "p_up", "q10", "q50", "q90"]] = np.nan
    result = evaluate_forecasts(predictions, directions={"lstm": predictions["lstm"]})
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert list(result) == RESULT_KEYS
    n_broken = 600 if isinstance(broken, slice) else 2
    [warning] = result["warnings"]
    assert warning.startswith(f"lstm: {n_broken} of 600 forecasts are NaN, infinite or beyond +-50")
    assert "BTC/USDT: nan" in warning
    assert {name: row for name, row in result["models"].items() if name != "lstm"} == {
        name: row for name, row in whole["models"].items() if name != "lstm"
    }
    row = dict(result["models"]["lstm"])
    assert set(row) == MODEL_KEYS
    assert row.pop("by_symbol")["BTC/USDT"] == {
        "mape_percent": None,
        "mae": None,
        "rmse": None,
        "mase": None,
    }
    assert set(row.values()) == {None}
    assert {(e["statistic"], e["skill"], e["verdict"]) for e in result["verdicts"]} == {
        (None, None, "LOSES")
    }
    assert result["verdict"] == "NO EDGE"
    assert (result["interval"], result["probability"], result["skill_by"]) == (None, None, None)
    assert set(result["confidence_set"]["p_values"]) == set(BASELINE_NAMES)
    assert (
        "the network LOSES to naive (an undefined skill, not tested)"
        in sentences.verdict_sentence(result)
    )
    assert "–" in tables.text_table(tables.score_rows(result))


def test_a_baseline_that_diverged_ties_untested_and_does_not_count_in_holms_correction():
    predictions = make_predictions(known=0.05)
    without = evaluate_forecasts(predictions, baselines=BASELINE_NAMES[:-1])
    predictions["xgboost"] = np.inf
    result = evaluate_forecasts(predictions)
    assert result["verdicts"][:5] == without["verdicts"][:5]
    untested = result["verdicts"][5]
    assert (untested["verdict"], untested["p_holm"], untested["skill"]) == ("TIES", None, None)
    assert (result["verdict"], result["models"]["xgboost"]["mae"]) == ("EDGE", None)
    assert result["warnings"][0].startswith("xgboost: 600 of 600")


@pytest.mark.parametrize("column", ["naive", "actual_return", "volatility", "p_up"])
def test_a_frame_that_is_broken_itself_is_still_refused(column):
    predictions = make_predictions()
    predictions.loc[[3, 400], column] = np.nan
    with pytest.raises(
        ValueError, match=rf"{column} of predictions: 2 of 600 .* 2024-01-01 03:00:00.* \(BTC/USDT"
    ):
        evaluate_forecasts(predictions)


def test_prices_that_stand_still_leave_a_report_without_numbers_that_are_none_of_theirs():
    predictions = with_quantiles(make_predictions(50)).assign(actual_return=0.0, base_price=100.0)
    result = evaluate_forecasts(predictions)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["models"]["lstm"]["r2"] is None
    assert result["models"]["lstm"]["direction_accuracy"] is None
    assert (result["verdict"], result["verdicts"][0]["skill"]) == ("NO EDGE", None)
    assert result["probability"] is None
    assert result["interval"]["coverage"] == 1.0


@pytest.mark.parametrize("n_hours, horizon", [(10, 1), (10, 24), (1, 1)])
def test_one_coin_and_a_handful_of_forecasts_make_a_whole_report(n_hours, horizon):
    predictions = with_quantiles(make_predictions(n_hours))
    predictions = predictions[predictions["symbol"] == "BTC/USDT"]
    result = evaluate_forecasts(predictions, horizon=horizon)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["n"] == n_hours
    is_testable = n_hours >= 10 and horizon == 1
    assert (result["verdicts"][0]["p_value"] is not None) == is_testable
    assert (result["skill_by"]["symbol"][0]["low"] is not None) == is_testable
    assert (result["confidence_set"] is not None) == is_testable
    assert result["verdict"] == "NO EDGE"


def test_a_quantile_baseline_that_lacks_a_coin_is_compared_on_the_others(caplog):
    predictions = with_quantiles(make_predictions())
    for name in ("q10", "q50", "q90"):
        predictions[f"wide_{name}"] = 2 * predictions[name]
        predictions[f"garch_{name}"] = np.where(predictions["symbol"] == "ETH/USDT", np.nan, 0.0)
        predictions[f"none_{name}"] = np.nan
    others = ("wide", "garch", "none")
    interval = evaluate_forecasts(predictions, quantile_baselines=others)["interval"]
    wide, garch = interval["comparisons"]
    assert (wide["loss"], wide["verdict"]) == ("scaled_pinball", "BEATS")
    bitcoin = predictions[predictions["symbol"] == "BTC/USDT"]
    [alone] = evaluate_forecasts(bitcoin, quantile_baselines=("garch",))["interval"]["comparisons"]
    assert (garch["skill"], garch["statistic"]) == (alone["skill"], alone["statistic"])
    assert "no comparison of quantiles with none" in caplog.text
    assert interval["nominal"] == 0.8


def test_a_test_part_too_short_to_test_says_so_and_the_rest_stands(caplog):
    result = evaluate_forecasts(make_predictions(6))
    assert "only 6 instants" in caplog.text
    assert {
        (e["statistic"], e["p_value"], e["p_holm"], e["verdict"]) for e in result["verdicts"]
    } == {(None, None, None, "TIES")}
    assert result["verdict"] == "NO EDGE"
    assert result["models"]["lstm"]["mae"] > 0


def test_a_comparison_needs_a_baseline():
    with pytest.raises(ValueError, match="no baselines"):
        compare_forecasts(make_predictions(), "lstm", [])


def test_the_squared_error_is_a_family_of_its_own_and_decides_nothing():
    # Nine of ten moves are foreseen a little, the tenth is missed by far: the median is shifted.
    predictions = make_predictions(400)
    actual = predictions["actual_return"]
    is_missed = np.arange(len(predictions)) % 10 == 0
    predictions["lstm"] = np.where(is_missed, -0.4 * actual, 0.1 * actual)
    result = evaluate_forecasts(predictions)
    absolute, squared = (
        {entry["baseline"]: entry for entry in result["verdicts"] if entry["loss"] == loss}
        for loss in ("scaled_absolute_error", SQUARED_LOSS)
    )
    assert (result["verdict"], absolute["naive"]["verdict"]) == ("EDGE", "BEATS")
    assert list(deciding(result["verdicts"])) == list(absolute.values())
    assert absolute["naive"]["skill"] == pytest.approx(0.9 * 0.1 - 0.1 * 0.4, abs=0.01)
    # (1 - 0.1)^2 of nine tenths and (1 + 0.4)^2 of one tenth, instead of 1
    assert squared["naive"]["skill"] == pytest.approx(1 - 0.9 * 0.81 - 0.1 * 1.96, abs=0.03)
    assert "In squared error, which does not decide" in sentences.squared_sentence(result)
    row = result["models"]["lstm"]
    assert row["r2_low"] < row["r2"] < row["r2_high"]


def test_a_run_says_how_large_a_skill_it_could_have_seen():
    # |actual| alternates between 1 and 3 volatilities and the forecast is 0.1 of it with a sign of
    # its own, so that the gain at each hour is +-0.1 and +-0.3: of mean 0 and mean square 0.05.
    n = 1000
    rng = np.random.default_rng(5)
    predictions = make_predictions(n)
    predictions = predictions[predictions["symbol"] == "BTC/USDT"].copy()
    size = np.where(np.arange(n) % 2 == 0, 1.0, 3.0) * predictions["volatility"]
    predictions["actual_return"] = size * rng.choice([-1.0, 1.0], n)
    predictions["lstm"] = 0.1 * predictions["actual_return"] * rng.choice([-1.0, 1.0], n)
    power = evaluate_forecasts(predictions, baselines=("naive", "drift"))["power"]
    assert (power["power"], power["level"], power["comparisons"]) == (0.8, 0.05, 2)
    # standard error of the mean gain / mean loss of 2, times z(1 - 0.05 / 4) + z(0.8)
    expected = np.sqrt(0.05 / n) / 2 * (2.2414 + 0.8416)
    assert power["skill_against_naive"] == pytest.approx(expected, rel=0.1)
    assert "of 100 such runs" in sentences.power_sentence({"power": power})


def test_a_network_that_forecasts_no_change_is_told_of_without_a_power():
    predictions = make_predictions(600).assign(lstm=0.0)
    told = sentences.power_sentence(evaluate_forecasts(predictions, baselines=("naive", "drift")))
    assert told.startswith("Power is unknown: the network forecasts no change")
