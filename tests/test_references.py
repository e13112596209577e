"""The evaluation's numbers beside independent implementations and published examples, where the
definition is the same.

Tolerance 1e-8 unless said otherwise. Checked with statsmodels 0.15.0, arch 8.0.0, scikit-learn
1.9.1, scipy 1.17.1 and scoringrules 0.10.0.
"""

import numpy as np
import pytest
import scoringrules
import statsmodels.api as sm
import statsmodels.stats.diagnostic as sm_diagnostic
import statsmodels.tsa.stattools as sm_tsa
from arch.bootstrap import MCS
from arch.covariance.kernel import Bartlett
from scipy import stats
from sklearn.metrics import (
    brier_score_loss,
    mean_absolute_error,
    mean_pinball_loss,
    r2_score,
    roc_auc_score,
)
from statsmodels.stats.multitest import multipletests

from pipeline.evaluation.comparison import model_confidence_set, scaled_absolute_error
from pipeline.evaluation.metrics import direction_metrics, return_metrics
from pipeline.evaluation.probability import (
    brier_decomposition,
    calibration_slope,
    crps_from_quantiles,
    interval_scores,
    pinball_loss,
)
from pipeline.evaluation.significance import (
    diebold_mariano,
    holm,
    pesaran_timmermann,
    standard_error,
    wilson_interval,
)
from tests.test_comparison import predictions_of as predictions_of_models
from tests.test_probability import predictions_of

EXACT = {"rel": 1e-8, "abs": 1e-12}


@pytest.fixture
def rng():
    return np.random.default_rng(17)


def autocorrelated(rng, n):
    noise = rng.standard_normal(n + 1)
    return noise[1:] + 0.6 * noise[:-1] + 0.2


@pytest.mark.filterwarnings(
    "ignore:\\s*numba is not available"
)  # arch 7 runs its kernels uncompiled then
def test_the_standard_error_at_horizon_1_is_that_of_statsmodels_and_arch(rng):
    for n, lags in ((27, 3), (500, 8)):
        series = autocorrelated(rng, n)
        error, degrees_of_freedom = standard_error(series)
        fit = sm.OLS(series, np.ones(n)).fit(
            cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": True}, use_t=True
        )
        assert error == pytest.approx(fit.bse[0], **EXACT)
        assert degrees_of_freedom == n - 1
        long_run = float(np.squeeze(Bartlett(series, bandwidth=lags, force_int=True).cov.long_run))
        assert error == pytest.approx(np.sqrt(long_run / (n - 1)), **EXACT)


def test_the_standard_error_at_longer_horizons_is_that_of_a_regression_on_cosines(rng):
    # The coefficients of a regression on cosines, whose mean square is the estimator, by
    # statsmodels' least squares.
    series = autocorrelated(rng, 300)
    time = (np.arange(300) + 0.5) / 300
    cosines = np.sqrt(2) * np.cos(
        np.pi * np.outer(time, np.arange(1, 18))
    )  # 0.4 * 300^(2/3) = 17.9
    coefficients = sm.OLS(series, sm.add_constant(cosines)).fit().params[1:]
    error, degrees_of_freedom = standard_error(series, horizon=4)
    assert error == pytest.approx(np.sqrt(np.mean(coefficients**2)), **EXACT)
    assert degrees_of_freedom == 17


@pytest.mark.skipif(
    not hasattr(sm_tsa, "diebold_mariano_test"), reason="statsmodels has no such test before 0.15"
)
def test_diebold_mariano_is_that_of_statsmodels_with_the_same_lags(rng):
    baseline, model = np.abs(autocorrelated(rng, 300)) + 1.0, np.abs(autocorrelated(rng, 300)) + 1.0
    theirs = sm_tsa.diebold_mariano_test(
        np.zeros(300), baseline, model, criterion="mad", harvey_adj=True, horizon=1
    )
    ours = diebold_mariano(model, baseline, np.arange(300))
    assert ours.statistic == pytest.approx(theirs.statistic, **EXACT)
    assert ours.p_value == pytest.approx(theirs.pvalue, **EXACT)


@pytest.mark.skipif(
    not hasattr(sm_diagnostic, "pesaran_timmermann"),
    reason="statsmodels has no such test before 0.15",
)
def test_pesaran_timmermann_is_that_of_statsmodels_but_for_its_term_of_order_two(rng):
    actual, predicted = rng.standard_normal((2, 150))
    theirs = sm_diagnostic.pesaran_timmermann(actual, predicted, alternative="larger")
    assert pesaran_timmermann(actual, predicted)[0] == pytest.approx(
        theirs.statistic * np.sqrt(150 / 149), **EXACT
    )


def test_pesaran_timmermann_by_instant_is_near_the_slope_with_errors_clustered_by_hour(rng):
    # Pesaran and Timmermann (2009): the regression of actual on predicted directions. Its error is
    # robust under the alternative and ours under none, so they agree near the null alone;
    # statsmodels' HAC of sums by time.
    hours = np.repeat(np.arange(400), 8)
    shared = np.repeat(rng.standard_normal(400), 8)
    actual, predicted = shared + rng.standard_normal(3200), np.repeat(rng.standard_normal(400), 8)
    up, called = (actual > 0).astype(float), (predicted > 0).astype(float)
    kwds = {"time": hours, "maxlags": 8}
    fit = sm.OLS(up, sm.add_constant(called)).fit(cov_type="hac-groupsum", cov_kwds=kwds)
    assert pesaran_timmermann(actual, predicted, hours)[0] == pytest.approx(
        fit.tvalues[1], rel=0.03
    )
    assert abs(pesaran_timmermann(actual, predicted)[0]) > 1.5 * abs(fit.tvalues[1])


def test_holm_agrees_with_its_definition_written_out():
    # Times 5, 4, 3, 2, 1: 0.05, 0.08, 0.09, 0.08, 0.05; none below the one before it.
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx(
        [0.05, 0.08, 0.09, 0.09, 0.09], **EXACT
    )


@pytest.mark.parametrize("successes, n", [(0, 20), (7, 20), (526, 1000), (15, 15)])
def test_wilson_is_that_of_scipy(successes, n):
    theirs = stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((theirs.low, theirs.high), **EXACT)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_pinball_is_that_of_scikit_learn_and_scoringrules(rng, level):
    actual, quantile = rng.standard_normal((2, 200))
    ours = pinball_loss(actual, quantile, level)
    assert ours.mean() == pytest.approx(mean_pinball_loss(actual, quantile, alpha=level), **EXACT)
    assert ours == pytest.approx(scoringrules.quantile_score(actual, quantile, level), **EXACT)


def test_crps_of_quantiles_is_that_of_scoringrules(rng):
    actual, quantiles = rng.standard_normal(100), np.sort(rng.standard_normal((100, 3)), axis=1)
    theirs = scoringrules.crps_quantile(actual, quantiles, np.array([0.1, 0.5, 0.9]))
    assert crps_from_quantiles(actual, quantiles, (0.1, 0.5, 0.9)) == pytest.approx(theirs, **EXACT)


def test_crps_of_dense_quantiles_is_near_that_of_closed_forms(rng):
    actual, levels = rng.standard_normal(20), (np.arange(4000) + 0.5) / 4000
    for law, theirs in (
        (stats.norm(0.1, 1.3), scoringrules.crps_normal(actual, 0.1, 1.3)),
        (stats.t(5, 0.1, 1.3), scoringrules.crps_t(actual, 5, 0.1, 1.3)),
    ):
        ours = crps_from_quantiles(actual, np.tile(law.ppf(levels), (20, 1)), levels)
        assert ours == pytest.approx(theirs, abs=3e-4)


def test_the_pinball_losses_of_an_interval_are_its_interval_score():
    # Gneiting and Raftery (2007): the interval score is 2 / alpha times the sum of the two pinball
    # losses.
    frame = predictions_of(200)
    scaled = {name: frame[name] / frame["volatility"] for name in ("actual_return", "q10", "q90")}
    theirs = scoringrules.interval_score(*(values.to_numpy() for values in scaled.values()), 0.2)
    pinball = interval_scores(frame)["pinball"]
    assert (pinball["q10"] + pinball["q90"]) * 2 / 0.2 == pytest.approx(theirs.mean(), **EXACT)


def test_brier_and_roc_auc_are_those_of_scikit_learn_and_scoringrules(rng):
    probability, actual = rng.random(300), rng.standard_normal(300)
    metrics = direction_metrics(actual, probability - 0.5, p_up=probability)
    rose = actual > 0
    assert metrics["brier"] == pytest.approx(brier_score_loss(rose, probability), **EXACT)
    assert metrics["brier"] == pytest.approx(
        scoringrules.brier_score(rose * 1.0, probability).mean(), **EXACT
    )
    assert brier_decomposition(probability, rose)["brier"] == pytest.approx(
        metrics["brier"], **EXACT
    )
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(rose, probability), **EXACT)


def test_return_errors_are_those_of_scikit_learn(rng):
    actual, forecast = rng.standard_normal((2, 300))
    metrics = return_metrics(actual, forecast)
    assert metrics["mae"] == pytest.approx(mean_absolute_error(actual, forecast), **EXACT)
    # Against zero: scikit-learn's R2 of the sample and its mirror image, whose mean is zero.
    mirrored = np.r_[actual, -actual], np.r_[forecast, -forecast]
    assert metrics["r2_vs_zero"] == pytest.approx(r2_score(*mirrored), **EXACT)


def test_holm_s_correction_is_that_of_statsmodels(rng):
    for n in (1, 2, 5, 22):
        p_values = rng.uniform(0, 0.2, n).round(2)  # some of them equal
        expected = multipletests(p_values, method="holm")[1]
        assert holm(p_values) == pytest.approx(expected, rel=1e-12)


def test_the_calibration_slope_is_statsmodels_and_its_interval_near_the_clustered_one():
    frame = predictions_of(3000)
    rose, log_odds = (
        (frame["actual_return"] > 0).astype(float),
        np.log(frame["p_up"] / (1 - frame["p_up"])),
    )
    hours = frame["timestamp"].factorize()[0]
    fit = sm.Logit(rose.to_numpy(), sm.add_constant(log_odds.to_numpy())).fit(
        disp=0, cov_type="cluster", cov_kwds={"groups": hours}
    )
    ours = calibration_slope(frame["p_up"], rose, frame["timestamp"])
    assert ours["slope"] == pytest.approx(fit.params[1], **EXACT)
    # Theirs takes hours as independent; ours looks at 15 lags as well, which adds noise and no
    # bias.
    low, high = fit.conf_int()[1]
    assert ours["slope_high"] - ours["slope_low"] == pytest.approx(high - low, rel=0.1)


def test_the_confidence_set_is_that_of_arch_on_losses_averaged_by_hour():
    predictions = predictions_of_models(300, good=0.1, bad=-0.1)
    models = ["naive", "good", "bad"]
    hourly = [
        scaled_absolute_error(predictions, name).reshape(2, 300).mean(axis=0) for name in models
    ]
    theirs = MCS(
        np.column_stack(hourly), size=0.05, reps=1000, block_size=7, seed=0
    )  # 300^(1/3) = 6.7
    theirs.compute()
    ours = model_confidence_set(predictions, models)
    expected = {models[i]: p for i, p in theirs.pvalues["Pvalue"].items()}
    assert ours["p_values"] == pytest.approx(expected, **EXACT)
    assert ours["models"] == [models[i] for i in theirs.included]
