"""The cheap forecasts are what they say, find what is planted, and never see the test part."""

from dataclasses import replace
from types import SimpleNamespace

import lightgbm
import numpy as np
import pytest
import xgboost  # noqa: F401  loaded here, so that `one_thread` reaches it
from sklearn.linear_model import QuantileRegressor
from statsmodels.regression.quantile_regression import QuantReg
from threadpoolctl import threadpool_limits

from pipeline.forecasts.baselines import (
    BASELINE_NAMES,
    LAGS,
    LIGHTGBM_SETTINGS,
    RIDGE_ALPHAS,
    fit_baselines,
    fit_lad,
    lagged_inputs,
    reversal_forecast,
)
from pipeline.forecasts.hand_made import SUMS, hand_made
from pipeline.forecasts.shrinkage import fit_shrinkage
from pipeline.samples.scaling import ScaledSamples, scale_on_train, to_log_return
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples

FEATURES = ("body", "log_return", "price_range", "volume_ratio")
NOW = np.datetime64("2024-01-01", "ms")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On so few rows threads cost more than they save."""
    with threadpool_limits(1):
        yield


def make_samples(n, seed=0, planted=0.0):
    """Two symbols of n candles each; every row from the 10th on is a sample.

    The volatility-scaled return is noise of unit variance plus `planted` times (body at t -
    log_return at t-2).
    """
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2 * n, len(FEATURES))).astype(np.float32)
    end = np.r_[10:n, n + 10 : 2 * n]
    volatility = rng.uniform(0.002, 0.02, len(end))
    signal = planted * (rows[end, 0] - rows[end - 2, 1]).astype(np.float64)
    row_ms = np.tile(NOW.astype(np.int64) + 3_600_000 * np.arange(n), 2)
    samples = Samples(
        symbols=("BTC/USDT", "ETH/USDT"),
        feature_cols=FEATURES,
        rows=rows,
        row_ms=row_ms,
        end=end,
        symbol=(end >= n).astype(np.int64),
        target_time=row_ms[end].astype("datetime64[ms]") + np.timedelta64(2, "h"),
        base_price=np.full(len(end), 100.0),
        current_return=np.zeros(len(end)),
        log_return=volatility * (signal + rng.standard_normal(len(end))),
        volatility=volatility,
        lookback=5,
        horizon=1,
        timeframe="1h",
        step_ms=3_600_000,
    )
    return samples, volatility * signal


def split_of(samples):
    """60, 20 and 20 % of each symbol."""
    share = (samples.end % (len(samples.rows) // 2)) / (len(samples.rows) // 2)
    parts = [
        np.flatnonzero(part) for part in (share < 0.6, (share >= 0.6) & (share < 0.8), share >= 0.8)
    ]
    return Split(*parts, *[NOW] * 4)


def fitted(samples, seed=1):
    scaled, scalers = scale_on_train(samples, split_of(samples))
    return scaled, fit_baselines(scaled, scalers.y, seed=seed)


@pytest.fixture(scope="module")
def noise():
    return fitted(make_samples(400)[0])


def test_the_baselines_forecast_every_sample(noise):
    scaled, baselines = noise
    assert tuple(baselines.forecasts) == BASELINE_NAMES
    assert all(
        forecast.shape == (len(scaled.samples),) for forecast in baselines.forecasts.values()
    )
    assert all(np.isfinite(forecast).all() for forecast in baselines.forecasts.values())


def test_naive_is_zero(noise):
    assert not noise[1].forecasts["naive"].any()


def test_reversal_is_the_median_share_of_the_last_move_that_came_back():
    # Three moves of 1, 1 and 4 volatilities (the last counts as 2) were followed by -0.1, -0.3 and
    # -0.4: the slopes are -0.1, -0.3 and -0.2, of weights 1, 1 and 2, so their median is -0.2.
    samples, _ = make_samples(200)
    train = split_of(samples).train
    move, following = np.zeros(len(samples)), np.zeros(len(samples))
    move[train[:3]], following[train[:3]] = [1.0, 1.0, 4.0], [-0.1, -0.3, -0.4]
    later = split_of(samples).test[0]
    move[later] = -3.0
    samples = replace(
        samples, current_return=move * samples.volatility, log_return=following * samples.volatility
    )
    _, baselines = fitted(samples)
    assert baselines.settings["reversal_share"] == pytest.approx(0.2)
    assert baselines.forecasts["reversal"][later] == pytest.approx(
        0.2 * 2.0 * samples.volatility[later]
    )


def test_reversal_of_several_candles_compares_the_last_move_with_the_volatility_of_one():
    four = reversal_forecast(np.array([0.01]), np.array([0.02]), 4, 0.1)
    assert four == pytest.approx(-0.1 * (0.01 / 0.01) * 0.02)


def test_lad_is_what_other_solvers_find():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((300, 5))
    target = inputs @ np.array([0.3, -0.2, 0.0, 0.1, 0.05]) + rng.standard_t(3, 300)
    weights = fit_lad(inputs, target)
    other = QuantileRegressor(quantile=0.5, alpha=0).fit(inputs, target)
    assert weights == pytest.approx([other.intercept_, *other.coef_], abs=1e-6)
    columns = np.column_stack([np.ones(300), inputs])
    third = QuantReg(target, columns).fit(q=0.5, p_tol=1e-12, max_iter=10_000)
    assert weights == pytest.approx(third.params, abs=1e-5)


def test_lad_is_not_moved_by_one_wild_target():
    inputs = np.arange(11.0)[:, None]
    target = 2 * inputs[:, 0] + 1
    target[3] = 1e6
    assert fit_lad(inputs, target) == pytest.approx([1.0, 2.0])


def test_lad_with_a_column_that_is_another_twice_still_fits():
    rng = np.random.default_rng(1)
    column = rng.standard_normal(50)
    weights = fit_lad(np.column_stack([column, column]), 3 * column)
    assert weights[1] + weights[2] == pytest.approx(3.0)


def test_drift_is_each_symbols_mean_return_in_training():
    samples, _ = make_samples(200)
    log_return = np.zeros(len(samples))
    train = split_of(samples).train
    log_return[train[samples.symbol[train] == 0][:3]] = [0.01, 0.02, 0.06]  # and 0 in the other 107
    log_return[train[samples.symbol[train] == 1]] = -0.004
    log_return[split_of(samples).val] = 0.5
    _, baselines = fitted(replace(samples, log_return=log_return))
    assert (samples.symbol[train] == 0).sum() == 110
    assert baselines.forecasts["drift"][samples.symbol == 0] == pytest.approx(0.09 / 110)
    assert baselines.forecasts["drift"][samples.symbol == 1] == pytest.approx(-0.004)


def test_drift_of_a_symbol_without_training_samples_is_zero():
    samples, _ = make_samples(200)
    split = split_of(samples)
    scaled, scalers = scale_on_train(
        samples, replace(split, train=split.train[samples.symbol[split.train] == 0])
    )
    drift = fit_baselines(scaled, scalers.y, seed=1).forecasts["drift"]
    assert not drift[samples.symbol == 1].any()
    assert drift[samples.symbol == 0].all()


def test_lagged_inputs_are_the_last_candle_and_three_features_of_the_four_before():
    samples, _ = make_samples(30)
    # Row r holds 4r, 4r + 1, 4r + 2, 4r + 3
    rows = np.arange(60 * 4, dtype=np.float32).reshape(60, 4)
    inputs = lagged_inputs(
        ScaledSamples(samples, split_of(samples), rows, np.zeros(len(samples), dtype=np.float32))
    )
    assert LAGS == 4
    assert inputs.shape == (40, 4 + 3 * 4)
    assert inputs[0].tolist() == [40, 41, 42, 43, 37, 38, 39, 33, 34, 35, 29, 30, 31, 25, 26, 27]
    assert inputs[20, :4].tolist() == [160, 161, 162, 163]  # ETH's row 10 is row 40 of the stack
    assert inputs.dtype == np.float32


def test_ridge_recovers_a_planted_linear_signal():
    samples, truth = make_samples(4000, seed=3, planted=0.3)
    scaled, baselines = fitted(samples)
    test = scaled.split.test
    for forecasts in (baselines.directions, baselines.forecasts):
        assert np.corrcoef(forecasts["ridge"][test], truth[test])[0, 1] > 0.98
        assert forecasts["ridge"][test] @ truth[test] / (
            truth[test] @ truth[test]
        ) == pytest.approx(1, abs=0.1)
    assert np.corrcoef(baselines.forecasts["xgboost"][test], truth[test])[0, 1] > 0.8


def test_validation_picks_the_ridge_that_fits_it_best():
    from sklearn.linear_model import Ridge

    for planted in (0.0, 0.5):
        scaled, baselines = fitted(make_samples(300, seed=5, planted=planted)[0])
        inputs, train, val = lagged_inputs(scaled), scaled.split.train, scaled.split.val
        losses = {}
        for alpha in RIDGE_ALPHAS:
            error = scaled.target[val] - Ridge(alpha=alpha).fit(
                inputs[train], scaled.target[train]
            ).predict(inputs[val])
            losses[alpha] = float(np.mean(np.abs(error.astype(np.float64))))  # the verdict's loss
        assert losses[baselines.settings["ridge_alpha"]] == pytest.approx(
            min(losses.values()), rel=1e-6
        )


def test_shrinkage_is_fitted_on_validation_and_directions_are_without_it(noise):
    scaled, baselines = noise
    samples, val = scaled.samples, scaled.split.val
    for name in ("ridge", "xgboost"):
        raw = (baselines.directions[name] / samples.volatility)[val]
        actual = (samples.log_return / samples.volatility)[val]
        factor = baselines.settings[f"{name}_shrinkage"]
        assert factor == fit_shrinkage(raw, actual)
        assert baselines.forecasts[name] == pytest.approx(
            factor * baselines.directions[name], rel=1e-12
        )


def test_the_test_part_never_shows_in_a_forecast(noise):
    scaled, baselines = noise
    samples, test = scaled.samples, scaled.split.test
    log_return, rows = samples.log_return.copy(), samples.rows.copy()
    log_return[test] = np.random.default_rng(9).normal(0.05, 0.5, len(test))
    # Candles change too, after the one in the middle of BTC's test part.
    last = samples.end[test[len(test) // 2]]
    rows[last + 1 : 400] *= 3.0
    _, other = fitted(replace(samples, log_return=log_return, rows=rows))
    assert other.settings == baselines.settings
    untouched = (samples.end <= last) | (samples.symbol == 1)
    for name in BASELINE_NAMES:
        assert np.array_equal(
            other.forecasts[name][untouched], baselines.forecasts[name][untouched]
        ), name


def test_the_targets_of_validation_choose_but_do_not_fit(noise):
    scaled, baselines = noise
    samples, val = scaled.samples, scaled.split.val
    log_return = samples.log_return.copy()
    log_return[val] *= -1.0
    _, other = fitted(replace(samples, log_return=log_return))
    assert np.array_equal(other.forecasts["drift"], baselines.forecasts["drift"])
    if other.settings["ridge_alpha"] == baselines.settings["ridge_alpha"]:
        assert np.array_equal(other.directions["ridge"], baselines.directions["ridge"])
    assert other.settings != baselines.settings


def test_the_same_seed_gives_the_same_forecasts_and_another_does_not(noise):
    scaled, baselines = noise
    _, again = fitted(scaled.samples)
    _, other = fitted(scaled.samples, seed=2)
    assert all(
        np.array_equal(again.forecasts[name], baselines.forecasts[name]) for name in BASELINE_NAMES
    )
    assert not np.array_equal(other.directions["xgboost"], baselines.directions["xgboost"])
    assert np.array_equal(other.directions["ridge"], baselines.directions["ridge"])


def test_refit_learns_the_validation_part_for_the_test_part_alone():
    from sklearn.linear_model import Ridge

    samples, truth = make_samples(1000, seed=3, planted=0.5)
    scaled, scalers = scale_on_train(samples, split_of(samples))
    once = fit_baselines(scaled, scalers.y, seed=1)
    twice = fit_baselines(scaled, scalers.y, seed=1, refit=True)
    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    assert twice.settings == once.settings  # shrinkage too is what the fit without validation says
    for name in ("ridge", "xgboost"):
        np.testing.assert_array_equal(twice.directions[name][val], once.directions[name][val])
        assert (twice.directions[name][test] != once.directions[name][test]).all()
    inputs, both = lagged_inputs(scaled), np.append(train, val)
    for index in (0, 1):
        mine = samples.symbol == index
        drift = samples.log_return[both[samples.symbol[both] == index]].mean()
        np.testing.assert_allclose(twice.forecasts["drift"][test[mine[test]]], drift)
    np.testing.assert_array_equal(twice.forecasts["drift"][val], once.forecasts["drift"][val])
    by_hand = Ridge(alpha=twice.settings["ridge_alpha"]).fit(
        inputs[both].astype(np.float64), scaled.target[both]
    )
    expected = to_log_return(by_hand.predict(inputs[test]), samples.volatility[test], scalers.y)
    np.testing.assert_allclose(twice.directions["ridge"][test], expected, rtol=1e-9)
    turned = samples.log_return.copy()
    turned[val] *= -1  # what validation says now contradicts training
    scaled, scalers = scale_on_train(replace(samples, log_return=turned), split_of(samples))
    against = fit_baselines(scaled, scalers.y, seed=1, refit=True).directions
    for name in ("ridge", "xgboost"):
        before, after = (
            np.corrcoef(d[name][test], truth[test])[0, 1] for d in (twice.directions, against)
        )
        assert after < before


def test_refit_never_sees_the_test_part():
    samples, _ = make_samples(400)
    test = split_of(samples).test
    changed = samples.log_return.copy()
    changed[test] *= 9.0
    before, after = (
        fit_baselines(scaled, scalers.y, seed=1, refit=True).directions
        for scaled, scalers in (
            scale_on_train(replace(samples, log_return=r), split_of(samples))
            for r in (samples.log_return, changed)
        )
    )
    for name in ("ridge", "xgboost"):
        np.testing.assert_array_equal(before[name], after[name])


# --- LightGBM, by option


def test_hand_made_features_are_lags_and_sums_of_the_rows_up_to_the_last_candle():
    generator = np.random.default_rng(3)
    names = ("scaled_return", "close_position", "hour_sin", "btc_return")
    rows = generator.normal(size=(400, len(names))).astype(np.float32)
    samples = SimpleNamespace(end=np.array([200, 399]), feature_cols=names, lookback=12)
    inputs = hand_made(SimpleNamespace(samples=samples, rows=rows), np.array([1]))
    assert inputs.shape == (1, 4 + 5 + 2 + 3 + 2 * len(SUMS))
    assert np.array_equal(inputs[0, :4], rows[399])
    assert np.array_equal(inputs[0, 4:9], rows[398:393:-1, 0])  # the five returns before
    sums = inputs[0, -2 * len(SUMS) :].reshape(len(SUMS), 2)
    for row, n in zip(sums, SUMS):
        assert row == pytest.approx(
            rows[400 - n :, [0, 3]].sum(axis=0) / np.sqrt(n), rel=1e-4, abs=1e-5
        )


def late_samples(planted=0.0):
    """Samples with the candles behind them that the longest sum takes."""
    samples, signal = make_samples(600, planted=planted)
    late = samples.end % 600 >= max(SUMS)
    return samples.take(late), signal[late]


def test_lightgbm_is_what_its_own_interface_makes_of_the_same_inputs():
    samples, _ = late_samples(planted=0.3)
    scaled, scalers = scale_on_train(samples, split_of(samples))
    found = fit_baselines(scaled, scalers.y, seed=3, further=("lightgbm",))
    train, val = scaled.split.train, scaled.split.val
    settings = LIGHTGBM_SETTINGS | {"min_child_samples": 20, "seed": 3}
    known = lightgbm.Dataset(hand_made(scaled, train), scaled.target[train])
    judged = lightgbm.Dataset(hand_made(scaled, val), scaled.target[val], reference=known)
    stop = [lightgbm.early_stopping(50, verbose=False)]
    booster = lightgbm.train(settings, known, 600, valid_sets=[judged], callbacks=stop)
    assert found.settings["lightgbm_rounds"] == booster.best_iteration
    output = booster.predict(hand_made(scaled, np.arange(len(samples))))
    # standardised units times the target's deviation times the candle's volatility
    by_hand = output * scalers.y.scale_[0] * samples.volatility
    assert found.directions["lightgbm"] == pytest.approx(by_hand, rel=1e-6)
    factor = found.settings["lightgbm_shrinkage"]
    assert found.forecasts["lightgbm"] == pytest.approx(factor * by_hand, rel=1e-6)
    assert 0 < factor <= 1 and booster.best_iteration > 1


def test_lightgbm_never_sees_what_came_true_in_the_test_part():
    samples, _ = late_samples(planted=0.3)
    split = split_of(samples)
    other = replace(samples, log_return=samples.log_return.copy())
    other.log_return[split.test] *= -3
    found = []
    for each in (samples, other):
        scaled, scalers = scale_on_train(each, split)
        fitted_now = fit_baselines(scaled, scalers.y, seed=3, refit=True, further=("lightgbm",))
        found.append(fitted_now.forecasts["lightgbm"])
    assert np.array_equal(*found)
