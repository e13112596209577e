import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.tools import add_constant

from pipeline.evaluation.significance import (
    accuracy_interval,
    diebold_mariano,
    holm,
    mean_by_instant,
    pesaran_timmermann,
    standard_error,
    sum_by_instant,
    wilson_interval,
)


def losses(n, seed, memory=0.5):
    """Two series of positive losses whose difference is autocorrelated."""
    rng = np.random.default_rng(seed)
    shocks = rng.standard_normal((n, 2))
    series = np.zeros((n, 2))
    for t in range(1, n):
        series[t] = memory * series[t - 1] + shocks[t]
    return np.abs(series[:, 0]) + 1.0, np.abs(series[:, 1]) + 1.1


def newey_west_by_hand(difference, lags):
    """The papers' formulas: Bartlett sum, Harvey-Leybourne-Newbold factor, Student t."""
    n = len(difference)
    mean = sum(difference) / n
    centred = [d - mean for d in difference]
    long_run = sum(c * c for c in centred) / n
    for k in range(1, lags + 1):
        autocovariance = sum(centred[t] * centred[t - k] for t in range(k, n)) / n
        long_run += 2 * (1 - k / (lags + 1)) * autocovariance
    statistic = math.sqrt((n - 1) / n) * mean / math.sqrt(long_run / n)
    return statistic, 2 * stats.t.cdf(-abs(statistic), n - 1)


def cosines_by_hand(difference, n_cosines):
    """Lazarus et al. (2018): the mean square of B cosine-weighted sums; Student t(B)."""
    n = len(difference)
    weighted = [
        math.sqrt(2 / n)
        * sum(d * math.cos(math.pi * j * (t + 0.5) / n) for t, d in enumerate(difference))
        for j in range(1, n_cosines + 1)
    ]
    long_run = sum(w * w for w in weighted) / n_cosines
    statistic = sum(difference) / n / math.sqrt(long_run / n)
    return statistic, 2 * stats.t.cdf(-abs(statistic), n_cosines)


@pytest.mark.parametrize("n, lags", [(10, 3), (64, 4), (65, 5), (200, 6)])
def test_diebold_mariano_at_horizon_1_agrees_with_the_formulas_written_out(n, lags):
    model, baseline = losses(n, seed=n)
    test = diebold_mariano(model, baseline, np.arange(n))
    statistic, p_value = newey_west_by_hand((baseline - model).tolist(), lags)
    assert test.statistic == pytest.approx(statistic, rel=1e-10)
    assert test.p_value == pytest.approx(p_value, rel=1e-10)
    assert test.n_instants == n
    assert test.mean_difference == pytest.approx(np.mean(baseline - model))


# 0.4 * 200^(2/3) = 13.7; 200 / 48 = 4.2 half-overlapping stretches of 24; never fewer than 2.
@pytest.mark.parametrize(
    "n, horizon, n_cosines", [(200, 2, 13), (200, 6, 13), (200, 24, 4), (200, 50, 2)]
)
def test_diebold_mariano_at_longer_horizons_agrees_with_the_formulas_written_out(
    n, horizon, n_cosines
):
    model, baseline = losses(n, seed=n)
    test = diebold_mariano(model, baseline, np.arange(n), horizon)
    statistic, p_value = cosines_by_hand((baseline - model).tolist(), n_cosines)
    assert test.statistic == pytest.approx(statistic, rel=1e-10)
    assert test.p_value == pytest.approx(p_value, rel=1e-10)


def rejections(horizon, n, n_runs, shift=0.0, seed=0):
    """Share of runs that reject at 5 % losses that overlap fully, equal but for `shift`."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_runs, n + horizon))
    total = np.cumsum(noise, axis=1)
    differences = (total[:, horizon:] - total[:, :-horizon]) / math.sqrt(horizon) + shift
    tests = [diebold_mariano(10 - d, np.full(n, 10.0), np.arange(n), horizon) for d in differences]
    return np.mean([test.p_value < 0.05 for test in tests])


@pytest.mark.parametrize("horizon", [1, 4, 24])
def test_overlapping_forecasts_do_not_inflate_the_size_of_the_test(horizon):
    # 1,000 runs at 5 %: a standard error of 0.7 points.
    assert 0.035 <= rejections(horizon, 300, 1000, seed=horizon) <= 0.07


def test_the_test_keeps_its_power_where_forecasts_overlap():
    # A shift that a test knowing the long-run deviation (sqrt(24)) would find in 80 % of the runs.
    assert rejections(24, 1000, 300, shift=2.8 * math.sqrt(24) / math.sqrt(1000)) > 0.7


def test_a_model_with_the_smaller_loss_has_a_positive_statistic():
    model, baseline = losses(100, seed=1)
    assert diebold_mariano(model, model + baseline, np.arange(100)).statistic > 0
    assert diebold_mariano(model + baseline, model, np.arange(100)).statistic < 0


def test_swapping_model_and_baseline_flips_the_sign_and_keeps_the_p_value():
    model, baseline = losses(100, seed=2)
    one, other = (
        diebold_mariano(model, baseline, np.arange(100)),
        diebold_mariano(baseline, model, np.arange(100)),
    )
    assert one.statistic == pytest.approx(-other.statistic)
    assert one.mean_difference == pytest.approx(-other.mean_difference)
    assert one.p_value == pytest.approx(other.p_value)


def test_a_second_symbol_with_the_same_losses_adds_no_evidence():
    model, baseline = losses(50, seed=4)
    once = diebold_mariano(model, baseline, np.arange(50))
    twice = diebold_mariano(np.tile(model, 2), np.tile(baseline, 2), np.tile(np.arange(50), 2))
    assert twice.statistic == pytest.approx(once.statistic)
    assert twice.p_value == pytest.approx(once.p_value)
    assert twice.n_instants == 50


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-6, 1e6))
def test_the_statistic_ignores_the_order_of_rows_and_the_unit_of_losses(seed, scale):
    model, baseline = losses(60, seed)
    hours = pd.date_range("2024-01-01", periods=20, freq="h", tz="UTC").repeat(3)
    shuffled = np.random.default_rng(seed).permutation(60)
    plain = diebold_mariano(model, baseline, hours)
    changed = diebold_mariano(scale * model[shuffled], scale * baseline[shuffled], hours[shuffled])
    assert changed.statistic == pytest.approx(plain.statistic, rel=1e-6)
    assert changed.n_instants == 20


def test_equal_losses_tie_even_if_rounding_differs():
    model, _ = losses(40, seed=5)
    equal = diebold_mariano(model, model.copy(), np.arange(40))
    assert (equal.statistic, equal.p_value, equal.mean_difference) == (0.0, 1.0, 0.0)
    rounded = diebold_mariano(model, model * (1 + 1e-15), np.arange(40))
    assert (rounded.statistic, rounded.p_value) == (0.0, 1.0)


def test_correlated_coins_do_not_inflate_the_size_of_the_test():
    # Both forecasts are equally good; the loss differences of five coins share a common part each
    # hour. 600 runs at 5 %: a binomial standard error of 0.9 points, so [0.02, 0.09] allows for
    # small samples.
    rng = np.random.default_rng(11)
    n_runs, n_hours, n_coins = 600, 150, 5
    hours = np.tile(np.arange(n_hours), n_coins)
    by_instant = by_row = 0
    for _ in range(n_runs):
        common = rng.standard_normal(n_hours)
        difference = (common + 0.5 * rng.standard_normal((n_coins, n_hours))).ravel()
        by_instant += (
            diebold_mariano(10 - difference, np.full(len(difference), 10.0), hours).p_value < 0.05
        )
        by_row += stats.ttest_1samp(difference, 0).pvalue < 0.05
    assert 0.02 <= by_instant / n_runs <= 0.09
    assert by_row / n_runs > 0.25  # what the averaging is for


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda model, baseline, hours: (model[:9], baseline[:9], hours[:9]),
            "only 9 instants .* needs 10",
        ),
        (lambda model, baseline, hours: (model, baseline, hours // 5), "only 8 instants"),
        (
            lambda model, baseline, hours: (model, baseline, hours, 11),
            "only 40 instants at a horizon of 11; .* needs 44",
        ),
        (lambda model, baseline, hours: (model, baseline, hours, 0), "horizon is 0"),
        (
            lambda model, baseline, hours: (np.where(hours == 7, np.nan, model), baseline, hours),
            "loss_model has 1 NaN",
        ),
        (
            lambda model, baseline, hours: (model, np.where(hours < 2, np.inf, baseline), hours),
            "loss_baseline has 2",
        ),
        (
            lambda model, baseline, hours: (model, baseline[1:], hours),
            "loss_baseline has 39 values",
        ),
        (lambda model, baseline, hours: (model, baseline, hours[1:]), "40 values but 39 instants"),
        (lambda model, baseline, hours: (model, model + 1, hours), "no variance"),
        (lambda model, baseline, hours: ([], [], []), r"shape \(0,\)"),
    ],
)
def test_losses_that_cannot_be_compared_are_refused(change, message):
    model, baseline = losses(40, seed=6)
    with pytest.raises(ValueError, match=message):
        diebold_mariano(*change(model, baseline, np.arange(40)))


def test_means_by_instant_come_in_time_order_and_refuse_a_missing_time():
    hours = pd.to_datetime(["2024-01-01T02", "2024-01-01T01", "2024-01-01T02"], utc=True)
    assert mean_by_instant(np.array([1.0, 5.0, 2.0]), hours).tolist() == [5.0, 1.5]
    with pytest.raises(ValueError, match="1 of 3 instants are missing"):
        mean_by_instant(np.ones(3), [hours[0], pd.NaT, hours[1]])


def test_sums_by_instant_come_in_time_order():
    assert sum_by_instant(np.array([1.0, 5.0, 2.0]), ["b", "a", "b"]).tolist() == [5.0, 3.0]


def test_a_series_that_never_varies_has_no_standard_error_to_speak_of():
    for horizon in (1, 4):
        error, _ = standard_error(np.full(50, 3.0), horizon)
        assert error == pytest.approx(0, abs=1e-12)


def two_by_two(up_up, up_down, down_up, down_down):
    """Actual and predicted directions from the counts of (actual, predicted)."""
    counts = [up_up, up_down, down_up, down_down]
    return np.repeat([1, 1, -1, -1], counts), np.repeat([1, -1, 1, -1], counts)


def test_pesaran_timmermann_agrees_with_hand_arithmetic():
    # 100 moves, 50 up; 60 calls up; 70 hits. Expected: 0.5 * 0.6 + 0.5 * 0.4 = 0.5, variance 0.25 /
    # 100. Variance of the expectation: 0 + 0.2^2 * 0.25 / 100 + 4 * 0.25 * 0.24 / 100^2 = 0.0001 +
    # 0.000024.
    statistic, p_value = pesaran_timmermann(*two_by_two(40, 10, 20, 30))
    assert statistic == pytest.approx((0.7 - 0.5) / math.sqrt(0.0025 - 0.000124))
    assert statistic == pytest.approx(4.1031, abs=1e-4)
    assert p_value == pytest.approx(stats.norm.sf(4.1031), rel=1e-3)


def test_pesaran_timmermann_is_one_sided():
    assert pesaran_timmermann(*two_by_two(40, 10, 20, 30))[1] < 0.001
    assert pesaran_timmermann(*two_by_two(10, 40, 30, 20))[1] > 0.999
    assert pesaran_timmermann(*two_by_two(25, 25, 25, 25)) == (0.0, 0.5)


@settings(max_examples=50, deadline=None)
@given(counts=st.tuples(*[st.integers(1, 400)] * 4))
def test_pesaran_timmermann_is_the_chi_square_of_its_table(counts):
    # Algebra: hit rate - expected = 2 cov, and the variance is 4 p(1-p) q(1-q) (n-1) / n^2.
    statistic, _ = pesaran_timmermann(*two_by_two(*counts))
    n = sum(counts)
    chi_square = stats.chi2_contingency(np.reshape(counts, (2, 2)), correction=False)[0]
    assert statistic**2 == pytest.approx(chi_square * n / (n - 1), rel=1e-9, abs=1e-12)


def test_pesaran_timmermann_agrees_with_a_regression_of_directions_in_a_large_sample():
    # Pesaran and Timmermann (2009), JASA 104(485): the slope of actual on predicted directions.
    actual, predicted = two_by_two(1330, 1170, 1240, 1260)
    slope = (
        OLS((actual > 0).astype(float), add_constant((predicted > 0).astype(float)))
        .fit()
        .tvalues[1]
    )
    assert pesaran_timmermann(actual, predicted)[0] == pytest.approx(slope, rel=0.002)


def coins_of_one_market(rng, n_hours, n_coins=22, correlation=0.5, horizon=1):
    """(n_hours, n_coins) returns over the horizon, and one call an hour for all coins."""
    shared, own = (
        rng.standard_normal((n_hours + horizon, 1)),
        rng.standard_normal((n_hours + horizon, n_coins)),
    )
    total = np.cumsum(math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own, axis=0)
    returns = total[horizon:] - total[:-horizon]
    return returns, np.repeat(rng.standard_normal((n_hours, 1)), n_coins, axis=1)


def test_intervals_and_tests_of_directions_hold_for_coins_that_move_together():
    # 500 runs: standard errors of 1 point at 95 % and at 5 %.
    rng, hours = np.random.default_rng(3), np.repeat(np.arange(200), 22)
    held = held_plain = rejected = rejected_classical = 0
    for _ in range(500):
        returns, calls = (values.ravel() for values in coins_of_one_market(rng, 200))
        hits = (returns > 0) == (calls > 0)
        low, high = accuracy_interval(hits, hours)
        held += low <= 0.5 <= high
        low, high = wilson_interval(int(hits.sum()), len(hits))
        held_plain += low <= 0.5 <= high
        rejected += pesaran_timmermann(returns, calls, hours)[1] < 0.05
        rejected_classical += pesaran_timmermann(returns, calls)[1] < 0.05
    assert 0.93 <= held / 500 <= 0.97
    assert 0.03 <= rejected / 500 <= 0.08
    assert held_plain / 500 < 0.6  # what the clustering is for
    assert rejected_classical / 500 > 0.2


def test_intervals_of_directions_hold_where_forecasts_overlap():
    rng, hours = np.random.default_rng(4), np.repeat(np.arange(300), 5)
    held = 0
    for _ in range(300):
        returns, _ = coins_of_one_market(rng, 300, n_coins=5, horizon=12)
        calls = np.convolve(rng.standard_normal(311), np.ones(12), "valid")[
            :, None
        ]  # as slow as the returns
        low, high = accuracy_interval(((returns > 0) == (calls > 0)).ravel(), hours, horizon=12)
        held += low <= 0.5 <= high
    assert 0.92 <= held / 300 <= 0.98


def test_for_one_coin_without_memory_the_interval_is_nearly_wilsons():
    hits = np.random.default_rng(5).random(2000) < 0.53
    clustered = accuracy_interval(hits, np.arange(2000))
    assert clustered == pytest.approx(wilson_interval(int(hits.sum()), 2000), abs=0.003)


def test_more_coins_with_the_same_hits_narrow_no_interval():
    hits = np.random.default_rng(6).random(300) < 0.5
    once, twice, often = (
        accuracy_interval(np.tile(hits, k), np.tile(np.arange(300), k)) for k in (1, 2, 20)
    )
    assert often == pytest.approx(twice)
    assert twice[1] - twice[0] > 0.85 * (
        once[1] - once[0]
    )  # one is never narrower than Wilson's, so it differs a bit


def test_where_no_error_can_be_told_an_instant_counts_as_one_trial():
    # Wilson for 5 of 5, hand arithmetic: low = 5 / (5 + z^2).
    assert accuracy_interval(np.ones(110), np.repeat(np.arange(5), 22)) == pytest.approx(
        (5 / 8.8415, 1.0), abs=1e-4
    )
    # All right in 120 overlapping forecasts of 24 candles: five stretches that share nothing.
    assert accuracy_interval(np.ones(120), np.arange(120), 24) == pytest.approx(
        (5 / 8.8415, 1.0), abs=1e-4
    )
    assert accuracy_interval([1, 0], [0, 0])[0] < 0.1  # one instant, half right


def test_pesaran_timmermann_by_instant_is_a_t_test_of_the_excess_hits():
    rng = np.random.default_rng(7)
    actual, predicted, hours = (
        rng.standard_normal(120),
        rng.standard_normal(120),
        np.repeat(np.arange(40), 3),
    )
    up, called = actual > 0, predicted > 0
    excess = 2 * (up - up.mean()) * (called - called.mean())
    # Their mean is the hit rate minus that of independent directions, the classical numerator.
    independent = up.mean() * called.mean() + (1 - up.mean()) * (1 - called.mean())
    assert excess.mean() == pytest.approx((up == called).mean() - independent)
    statistic, _ = newey_west_by_hand(excess.reshape(40, 3).sum(axis=1).tolist(), lags=4)
    assert pesaran_timmermann(actual, predicted, hours)[0] == pytest.approx(statistic)
    assert pesaran_timmermann(actual, predicted, hours)[1] == pytest.approx(
        stats.t.sf(statistic, 39)
    )


def test_pesaran_timmermann_stays_classical_where_each_sample_has_its_instant():
    actual, predicted = two_by_two(40, 10, 20, 30)
    assert pesaran_timmermann(actual, predicted, np.arange(100)) == pesaran_timmermann(
        actual, predicted
    )
    assert pesaran_timmermann(actual, predicted, np.arange(100), 24) != pesaran_timmermann(
        actual, predicted
    )
    assert (
        pesaran_timmermann(actual, predicted, np.arange(100), 30) is None
    )  # 120 instants are needed
    assert pesaran_timmermann(actual, predicted, np.arange(100) // 20) is None  # 5 instants


@pytest.mark.parametrize(
    "counts", [(5, 0, 5, 0), (0, 5, 0, 5), (5, 5, 0, 0), (0, 0, 5, 5), (1, 0, 0, 0)]
)
def test_pesaran_timmermann_is_undefined_for_a_single_class(counts):
    assert pesaran_timmermann(*two_by_two(*counts)) is None


@pytest.mark.parametrize(
    "successes, n, low, high",
    # Newcombe (1998), Statistics in Medicine 17, Table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_intervals_agree_with_newcombes_table(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("successes, n", [(0, 0), (5, 4), (-1, 4)])
def test_wilson_interval_refuses_what_is_no_proportion(successes, n):
    with pytest.raises(ValueError, match=f"{successes} of {n} trials"):
        wilson_interval(successes, n)


def test_holm_multiplies_by_the_tests_that_remain_and_never_decreases():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last is raised to
    # 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([0.03]) == pytest.approx([0.03])
