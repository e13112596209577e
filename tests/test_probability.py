"""Quantiles and probabilities: scores by hand, and what they say where the truth is known."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from pipeline.evaluation.probability import (
    brier_decomposition,
    calibration_slope,
    compare_quantiles,
    crps_from_quantiles,
    interval_scores,
    pinball_loss,
    probability_scores,
    reliability,
)

SCORES = ("slope", "slope_low", "slope_high")


def predictions_of(n_hours=400, n_coins=3, seed=0, slope=1.0):
    """Coins with p_up that is calibrated at slope 1, and the true quantiles of a normal law."""
    rng = np.random.default_rng(seed)
    hours = pd.date_range("2024-01-01", periods=n_hours, freq="h", tz="UTC").as_unit("ms")
    log_odds = 0.5 * rng.standard_normal((n_coins, n_hours))
    rose = rng.random((n_coins, n_hours)) < 1 / (1 + np.exp(-slope * log_odds))
    volatility = np.array([0.005, 0.01, 0.02])[:n_coins, None] * np.ones(n_hours)
    size = np.abs(rng.standard_normal((n_coins, n_hours))) * volatility
    return pd.DataFrame(
        {
            "symbol": np.repeat(["BTC/USDT", "ETH/USDT", "SOL/USDT"][:n_coins], n_hours),
            "timestamp": np.tile(hours, n_coins),
            "actual_return": np.where(rose, size, -size).ravel(),
            "volatility": volatility.ravel(),
            "p_up": (1 / (1 + np.exp(-log_odds))).ravel(),
            **{
                name: z * volatility.ravel()
                for name, z in (("q10", -1.281552), ("q50", 0.0), ("q90", 1.281552))
            },
        }
    )


def test_pinball_loss_charges_each_side_by_its_level():
    assert pinball_loss([3.0, -1.0, 1.0], [1.0, 1.0, 1.0], 0.1) == pytest.approx(
        [0.1 * 2, 0.9 * 2, 0.0]
    )
    assert pinball_loss([3.0, -1.0], [1.0, 1.0], 0.5) == pytest.approx(
        [1.0, 1.0]
    )  # half of the absolute error


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), level=st.floats(0.02, 0.98))
def test_no_constant_has_less_pinball_loss_than_the_empirical_quantile(seed, level):
    actual = np.random.default_rng(seed).standard_normal(101)
    best = pinball_loss(
        actual, np.full(101, np.quantile(actual, level, method="inverted_cdf")), level
    ).mean()
    for other in actual[::10]:
        assert best <= pinball_loss(actual, np.full(101, other), level).mean() + 1e-12


def test_crps_of_quantiles_agrees_with_hand_arithmetic_and_with_dense_levels_the_closed_form():
    # Pinball 0.1 * 2, 0.5 * 1 and 0.1 * 1 at levels 0.1, 0.5, 0.9: twice their mean.
    assert crps_from_quantiles([2.0], [[0.0, 1.0, 3.0]], (0.1, 0.5, 0.9)) == pytest.approx(
        [2 * (0.2 + 0.5 + 0.1) / 3]
    )
    # CRPS of a standard normal at 0.7 (Gneiting and Raftery 2007): y (2 F - 1) + 2 f - 1 /
    # sqrt(pi).
    from scipy import stats

    closed = 0.7 * (2 * stats.norm.cdf(0.7) - 1) + 2 * stats.norm.pdf(0.7) - 1 / math.sqrt(math.pi)
    levels = (np.arange(2000) + 0.5) / 2000
    assert crps_from_quantiles([0.7], [stats.norm.ppf(levels)], levels)[0] == pytest.approx(
        closed, abs=1e-4
    )


def test_interval_scores_agree_with_hand_arithmetic():
    frame = pd.DataFrame(
        {
            "symbol": ["BTC/USDT", "ETH/USDT"] * 2,
            "timestamp": pd.to_datetime(["2024-01-01T00"] * 2 + ["2024-01-01T01"] * 2, utc=True),
            "actual_return": [0.0, 0.04, 0.03, -0.06],
            "volatility": [0.01, 0.02, 0.01, 0.02],
            "q10": -0.02,
            "q50": 0.0,
            "q90": 0.02,
        }
    )
    scores = interval_scores(frame)
    assert (scores["coverage"], scores["below"], scores["above"]) == (0.25, 0.25, 0.5)
    assert scores["by_symbol"] == {"BTC/USDT": 0.5, "ETH/USDT": 0.0}
    assert scores["width"] == pytest.approx((4 + 2 + 4 + 2) / 4)
    # In volatilities: actual 0, 2, 3, -3; q10 -2, -1, -2, -1; q90 2, 1, 2, 1.
    pinball = {
        "q10": (0.2 + 0.3 + 0.5 + 0.9 * 2) / 4,
        "q50": (0 + 1 + 1.5 + 1.5) / 4,
        "q90": (0.2 + 0.9 + 0.9 + 0.4) / 4,
    }
    assert scores["pinball"] == pytest.approx(pinball)
    assert scores["pinball_mean"] == pytest.approx(sum(pinball.values()) / 3)
    assert scores["crps"] == pytest.approx(2 * sum(pinball.values()) / 3)
    assert 0 <= scores["coverage_low"] < 0.25 < scores["coverage_high"] <= 1


def test_true_quantiles_cover_what_they_say_within_the_interval_of_the_coverage():
    scores = interval_scores(predictions_of(2000))
    assert scores["coverage_low"] < 0.8 < scores["coverage_high"]
    assert scores["coverage"] == pytest.approx(0.8, abs=0.02)
    assert all(share == pytest.approx(0.8, abs=0.03) for share in scores["by_symbol"].values())
    assert scores["coverage"] + scores["below"] + scores["above"] == pytest.approx(1)


def test_coverage_counts_below_within_and_above_by_hand():
    actual, q10, q90 = [-2.0, 0.0, 0.5, 3.0], [-1.0] * 4, [1.0] * 4
    frame = pd.DataFrame({"actual_return": actual, "q10": q10, "q50": 0.0, "q90": q90})
    scores = interval_scores(frame.assign(symbol="BTC/USDT", timestamp=range(4), volatility=1.0))
    shares = {"nominal": 0.8, "coverage": 0.5, "below": 0.25, "above": 0.25}
    assert {name: scores[name] for name in shares} == shares


def test_true_quantiles_beat_wider_and_narrower_ones_and_tie_with_themselves():
    predictions = predictions_of(2000)
    for name in ("q10", "q50", "q90"):
        predictions[f"wide_{name}"] = 1.3 * predictions[name]
        predictions[f"narrow_{name}"] = 0.7 * predictions[name]
        predictions[f"same_{name}"] = predictions[name]
    wide, narrow, same = compare_quantiles(predictions, "lstm", ("wide", "narrow", "same"))
    assert (wide["verdict"], narrow["verdict"], same["verdict"]) == ("BEATS", "BEATS", "TIES")
    assert (same["statistic"], same["skill"]) == (0.0, 0.0)
    assert wide["skill"] > 0 < narrow["skill"]
    assert wide["p_value"] <= wide["p_holm"]


def test_skill_of_quantiles_agrees_with_hand_arithmetic():
    predictions = predictions_of(30, n_coins=1)
    for name in ("q10", "q50", "q90"):
        predictions[f"zero_{name}"] = 0.0
    [compared] = compare_quantiles(predictions, "lstm", ("zero",))
    # Of three zeros: (0.1 + 0.5 + 0.9) / 3 of a rise, the mirror image of a fall: half of the
    # absolute return.
    ours = interval_scores(predictions)["pinball_mean"]
    theirs = (predictions["actual_return"].abs() / predictions["volatility"]).mean() / 2
    assert compared["skill"] == pytest.approx(1 - ours / theirs)


def test_reliability_counts_by_hand():
    # Ten bins of two: in each one sample came true, so the share is one half everywhere.
    probability = np.arange(20) / 20
    checked = reliability(probability, np.tile([1, 0], 10))
    assert [row["n"] for row in checked["bins"]] == [2] * 10
    assert [row["share"] for row in checked["bins"]] == [0.5] * 10
    assert checked["bins"][0]["probability"] == pytest.approx(0.025)
    middles = np.arange(10) / 10 + 0.025
    assert checked["mean_absolute_deviation"] == pytest.approx(np.abs(middles - 0.5).mean())


def test_equal_probabilities_share_a_bin_whatever_the_order_of_rows():
    probability, outcome = np.repeat([0.5, 0.6], [90, 10]), np.tile([1, 0], 50)
    checked = reliability(probability, outcome)
    assert [row["n"] for row in checked["bins"]] == [90, 10]
    order = np.random.default_rng(0).permutation(100)
    assert reliability(probability[order], outcome[order]) == checked
    assert reliability(np.full(5, 0.5), [1, 0, 1, 0, 1])["bins"] == [
        {"probability": 0.5, "share": 0.6, "n": 5}
    ]


def test_true_probabilities_are_reliable_and_exaggerated_ones_are_not():
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.3, 0.7, 40_000)
    outcome = rng.random(40_000) < truth
    assert (
        reliability(truth, outcome)["mean_absolute_deviation"] < 0.01
    )  # chance leaves about 0.006
    exaggerated = np.clip(0.5 + 2 * (truth - 0.5), 0, 1)
    assert reliability(exaggerated, outcome)["mean_absolute_deviation"] == pytest.approx(
        0.1, abs=0.01
    )


def test_a_brier_score_is_decomposed_by_hand():
    # At 0.4 half came true, at 0.9 all: recalibrated 0.5 and 1, Brier 0.125; the base rate 0.75 has
    # 0.1875.
    parts = brier_decomposition([0.4, 0.4, 0.9, 0.9], [0, 1, 1, 1])
    brier = (0.16 + 0.36 + 0.01 + 0.01) / 4
    assert parts == pytest.approx(
        {
            "brier": brier,
            "miscalibration": brier - 0.125,
            "discrimination": 0.0625,
            "uncertainty": 0.1875,
        }
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 80))
def test_the_parts_of_a_brier_score_are_never_negative_and_add_up(seed, n):
    rng = np.random.default_rng(seed)
    probability, outcome = rng.random(n).round(1), rng.random(n) < 0.5
    parts = brier_decomposition(probability, outcome)
    assert min(parts.values()) >= -1e-12
    total = parts["miscalibration"] - parts["discrimination"] + parts["uncertainty"]
    assert total == pytest.approx(parts["brier"])


def slope_of(frame, **options):
    return calibration_slope(
        frame["p_up"], frame["actual_return"] > 0, frame["timestamp"], **options
    )


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_the_calibration_slope_is_recovered_within_its_interval(slope):
    found = slope_of(predictions_of(3000, slope=slope))
    assert found["slope_low"] < slope < found["slope_high"]
    assert found["slope"] == pytest.approx(slope, abs=0.2)


def test_the_interval_of_the_slope_holds_for_coins_that_share_their_hour():
    # Three copies of one coin: an interval that counted rows would be too narrow by sqrt(3). 300
    # runs.
    held = 0
    for seed in range(300):
        single = predictions_of(150, n_coins=1, seed=seed)
        copied = slope_of(pd.concat([single] * 3))
        held += copied["slope_low"] <= 1 <= copied["slope_high"]
    assert 0.91 <= held / 300 <= 0.98


@pytest.mark.parametrize(
    "probability, outcome",
    [
        (np.full(40, 0.5), np.tile([0, 1], 20)),  # one probability
        (np.linspace(0.4, 0.6, 40), np.ones(40)),  # one outcome
        (np.linspace(0.4, 0.6, 40), np.arange(40) >= 20),  # separated perfectly
        (np.linspace(0.4, 0.6, 8), np.tile([0, 1], 4)),  # eight instants
    ],
)
def test_an_undefined_slope_is_none(probability, outcome):
    assert calibration_slope(probability, outcome, np.arange(len(outcome))) == dict.fromkeys(SCORES)


def test_certain_probabilities_have_a_finite_slope():
    rng = np.random.default_rng(3)
    probability = np.where(rng.random(200) < 0.5, 1.0, 0.0)
    outcome = np.where(rng.random(200) < 0.2, 1 - probability, probability)
    found = calibration_slope(probability, outcome, np.arange(200))
    assert 0 < found["slope"] < 0.2  # far too sure


def test_probability_scores_are_plain_json_and_leave_out_what_did_not_move():
    predictions = predictions_of()
    scores = probability_scores(predictions)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    still = predictions.assign(
        actual_return=0.0, timestamp=predictions["timestamp"] + pd.Timedelta(days=99)
    )
    assert probability_scores(pd.concat([predictions, still])) == scores
    assert probability_scores(still) is None


def test_confidence_is_the_probability_of_the_called_direction():
    predictions = predictions_of(4000)
    scores = probability_scores(predictions)
    bins = scores["confidence"]["bins"]
    assert min(row["probability"] for row in bins) >= 0.5
    assert scores["confidence"]["mean_absolute_deviation"] < 0.03
    assert sum(row["n"] for row in bins) == scores["n"] == 12_000
    undecided = probability_scores(predictions.assign(p_up=0.5))
    assert (undecided["confidence"], undecided["slope"], undecided["brier"]) == (None, None, 0.25)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: pinball_loss([1.0], [1.0], 1.0), "level is 1.0"),
        (lambda: pinball_loss([1.0], [np.nan], 0.5), "quantile has 1 NaN"),
        (lambda: crps_from_quantiles([1.0], [[1.0, 2.0]], (0.5,)), r"shape \(1, 2\) for 1 levels"),
        (
            lambda: compare_quantiles(predictions_of(), "lstm", ["garch"]),
            r"lack the columns \['garch_q10'",
        ),
        (lambda: interval_scores(predictions_of().assign(q90=np.nan)), "q90 has 1200 NaN"),
        (lambda: reliability([0.5, 0.6], [1]), "outcome has 1 values"),
        (lambda: calibration_slope([0.5, 0.6], [1, 0], [1]), "2 values but 1 instants"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("spread", [1e-16, 1e-15, 1e-9, 0.1])
def test_the_parts_of_the_brier_score_are_numbers_however_alike_the_probabilities_are(spread):
    generator = np.random.default_rng(0)
    probability = 0.5 + spread * generator.standard_normal(500)
    outcome = generator.random(500) < 0.5
    found = brier_decomposition(probability, outcome)
    parts = found["miscalibration"] - found["discrimination"] + found["uncertainty"]
    assert parts == pytest.approx(found["brier"], abs=1e-12)
    fitted = IsotonicRegression().fit(probability, outcome)
    if spread > 1e-12:  # where it can interpolate
        best = np.mean((fitted.predict(probability) - outcome) ** 2)
        assert found["miscalibration"] == pytest.approx(found["brier"] - best, abs=1e-9)
