"""v9's parts by hand arithmetic: features, min-max scale, volatility, direction, combination."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ConfigV9
from feature_engineering import V2_CANDLE_FEATURES, compute_features
from generations.v9.combination import Combination, apply_combination, fit_combination
from generations.v9.direction import DIRECTION_BASELINES, direction_samples, fit_direction_baselines
from generations.v9.features import V9_FEATURES, V9_OWN_FEATURES, V9_WARMUP, compute_v9_features
from generations.v9.model_scores import direction_scores, volatility_scores
from generations.v9.scaling import MIN_MAX_BAND, scale_rows_min_max, to_min_max
from generations.v9.volatility import (
    HarModel,
    TreeModel,
    VolatilitySamples,
    fit_har,
    fit_trees,
    har_inputs,
    realised_variance,
)
from pipeline.candles.schema import read_candles
from pipeline.candles.synthetic import synthetic_candles
from pipeline.forecasts.intervals import QUANTILE_NAMES
from pipeline.samples import leakage
from pipeline.samples.indicators import log_returns
from pipeline.samples.scaling import scale_on_train
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import make_windows


def make_candles(close, *, high=None, low=None, volume=None):
    close = np.asarray(close, dtype=float)
    return pd.DataFrame(
        {
            "timestamp": pd.date_range(
                "2024-01-01", periods=len(close), freq="h", tz="UTC"
            ).as_unit("ms"),
            "open": close,
            "high": close if high is None else high,
            "low": close if low is None else low,
            "close": close,
            "volume": np.ones(len(close)) if volume is None else np.asarray(volume, dtype=float),
        }
    )


def feature(candles, name):
    return compute_v9_features(candles, "1h", [name])[name].to_numpy()


# The features


def test_there_are_46_features_and_16_of_them_are_v2_s():
    candles = synthetic_candles(300, seed=1)
    features = compute_v9_features(candles, "1h")
    assert tuple(features) == V9_FEATURES and len(set(V9_FEATURES)) == 46
    pd.testing.assert_frame_equal(
        features[list(V2_CANDLE_FEATURES)], compute_features(candles, "1h", V2_CANDLE_FEATURES)
    )
    assert features.iloc[199:].notna().all(axis=None)


def test_trend_and_range_features_agree_with_hand_arithmetic():
    rising = make_candles(
        100.0 + np.arange(300), high=101.0 + np.arange(300), low=99.0 + np.arange(300)
    )
    assert feature(rising, "momentum_48")[-1] == pytest.approx(48 / 351)
    assert feature(rising, "sma_20_gap")[-1] == pytest.approx(math.log(399 / 389.5))
    # 20 closes one apart: population variance (20² - 1) / 12; the last one lies 9.5 above the mean.
    spread = math.sqrt(399 / 12)
    assert feature(rising, "bollinger_position")[-1] == pytest.approx(9.5 / (2 * spread))
    assert feature(rising, "bollinger_width")[-1] == pytest.approx(4 * spread / 389.5)
    # 48 candles: lowest low 351 - 0, highest high 400; the close of 399 is one below the top of 49.
    assert feature(rising, "channel_position")[-1] == pytest.approx((2 * 399 - 400 - 351) / 49)
    assert feature(rising, "aroon")[-1] == pytest.approx(100.0)
    assert feature(rising, "rsi_7")[-1] == pytest.approx(100.0)


def test_volume_and_volatility_features_agree_with_hand_arithmetic():
    n = 800
    close = 100 * np.exp(0.01 * (np.arange(n) % 2))  # every log-return is 0.01 in size
    volume = np.r_[np.ones(n - 24), np.full(24, 8.0)]
    candles = make_candles(close, high=close * math.exp(0.02), low=close, volume=volume)
    assert feature(candles, "volatility_ewma")[-1] == pytest.approx(0.01)
    for window in (24, 168, 720):
        assert feature(candles, f"volatility_ratio_{window}")[-1] == pytest.approx(0.0, abs=1e-9)
    assert feature(candles, "range_ratio_24")[-1] == pytest.approx(math.log(2.0))
    assert feature(candles, "volume_trend")[-1] == pytest.approx(
        math.log(8 / ((144 + 24 * 8) / 168))
    )
    assert feature(candles, "money_flow")[-1] == pytest.approx(
        -1.0
    )  # every close is its candle's low


def test_the_clock_features_are_those_of_the_candle_s_close():
    candles = make_candles(
        np.full(30, 5.0)
    )  # 2024-01-01 was a Monday; the candle of 05:00 closes at 06:00
    assert feature(candles, "hour_sin")[5] == pytest.approx(1.0)
    assert feature(candles, "hour_cos")[5] == pytest.approx(0.0, abs=1e-12)
    thursday = 3 * 24 + 24 * 7  # epoch weeks begin on Thursdays
    assert feature(make_candles(np.full(300, 5.0)), "week_cos")[thursday - 1] == pytest.approx(1.0)


@settings(max_examples=25, deadline=None)
@given(price=st.integers(-20, 20), volume=st.integers(-20, 20))
def test_features_do_not_depend_on_the_units_of_price_and_volume(price, volume):
    candles = synthetic_candles(260, seed=2)
    scaled = candles.copy()
    scaled[["open", "high", "low", "close"]] *= 2.0**price  # a power of two changes no digit
    scaled["volume"] *= 2.0**volume
    pd.testing.assert_frame_equal(
        compute_v9_features(scaled, "1h"), compute_v9_features(candles, "1h")
    )


def test_no_feature_sees_a_later_candle():
    candles = synthetic_candles(900, seed=3)
    candles = pd.concat(
        [candles.iloc[:300], candles.iloc[330:]], ignore_index=True
    )  # a gap of 30 candles
    cuts = tuple(
        (row + 1.5) / len(candles) for row in (1, 24, 48, 199, 298, 299, 301, 330, 500, 720, 860)
    )
    leakage.check(lambda frame: compute_v9_features(frame, "1h"), candles, cuts=cuts)
    leakage.check(lambda frame: har_inputs(frame, "1h", 24), candles, cuts=cuts)


def forgotten(candles, starts):
    whole = compute_v9_features(candles, "1h")
    worst = 0.0
    for start in starts:
        part = candles.iloc[start : start + 1200]
        difference = (compute_v9_features(part, "1h") - whole.loc[part.index]).abs() / whole.std()
        assert difference.iloc[V9_WARMUP:].notna().all(axis=None)
        worst = max(worst, difference.iloc[V9_WARMUP:].max(axis=None))
    return worst


def test_after_the_warmup_the_start_of_the_history_is_forgotten():
    assert V9_WARMUP == 720
    assert forgotten(synthetic_candles(3000, seed=4), (137, 500, 1234)) < 1e-6


def test_after_the_warmup_the_start_of_real_candles_is_forgotten(real_data):
    candles = read_candles(
        pd.read_parquet(real_data / "binanceusdm" / "BTCUSDT_1h.parquet"), "1h"
    ).iloc[:6000]
    assert forgotten(candles, (137, 500, 1234, 1696, 1700)) < 1e-6  # March 2020 is among them


@pytest.mark.parametrize("n", [0, 1, 2, 19, 20, 47, 48, 49, 199, 200])
def test_short_frames_give_what_can_be_known(n):
    candles = synthetic_candles(260, seed=5)
    short, whole = (compute_v9_features(candles.iloc[:end], "1h") for end in (n, 260))
    pd.testing.assert_frame_equal(short, whole.iloc[:n], check_exact=True)


def test_prices_that_stand_still_and_no_volume_leave_no_nan_and_no_infinity():
    candles = synthetic_candles(900, seed=6)
    candles.loc[300:, ["open", "high", "low", "close"]] = candles["close"][299]
    candles.loc[300:, "volume"] = 0.0
    assert np.isfinite(compute_v9_features(candles, "1h").iloc[199:]).all(axis=None)
    assert np.isfinite(
        compute_v9_features(make_candles(np.full(300, 7.3), volume=np.zeros(300)), "1h").iloc[199:]
    ).all(axis=None)


def test_an_unknown_feature_is_named():
    with pytest.raises(ValueError, match="unknown feature 'sentiment'; v9 knows open_gap, "):
        compute_v9_features(synthetic_candles(10), "1h", ["sentiment"])
    assert len(V9_OWN_FEATURES) == 30


# Scaling, and the samples the other tests share


@pytest.fixture(scope="module")
def market():
    return {"BTC/USDT": synthetic_candles(1700, seed=7)}


@pytest.fixture(scope="module")
def standardised(market):
    features = {symbol: compute_v9_features(candles, "1h") for symbol, candles in market.items()}
    samples = make_windows(features, market, "1h", 60, 1, V9_WARMUP)
    return scale_on_train(samples, split_samples(samples))


def test_min_max_scaling_knows_the_training_part_alone_and_ends_at_the_band(standardised):
    scaled, scalers = to_min_max(*standardised)
    samples = scaled.samples
    assert MIN_MAX_BAND == (-1.0, 2.0)
    first, last = samples.end[scaled.split.train].min() - 59, samples.end[scaled.split.train].max()
    train = samples.rows[first : last + 1].astype(np.float64)
    low, high = np.quantile(train, (0.001, 0.999), axis=0)
    assert scalers.X.data_min_ == pytest.approx(low)
    assert scalers.X.data_max_ == pytest.approx(high)
    expected = np.clip((train - low) / (high - low), -1, 2)
    assert scaled.rows[first : last + 1] == pytest.approx(expected, abs=1e-5)
    assert (scaled.target == standardised[0].target).all()
    wild = np.stack(
        [high + 10 * (high - low), low - 10 * (high - low), np.full(46, np.nan)]
    ).astype(np.float32)
    assert scale_rows_min_max(wild, scalers.X).tolist() == [[2.0] * 46, [-1.0] * 46, [0.5] * 46]


# Volatility


def ahead(market, horizon=24):
    features = {symbol: compute_v9_features(candles, "1h") for symbol, candles in market.items()}
    return make_windows(features, market, "1h", 60, horizon, V9_WARMUP)


def test_the_realised_variance_is_that_of_the_candles_after_t(market):
    samples = ahead(market)
    squares = np.square(log_returns(market["BTC/USDT"]["close"].to_numpy()))
    variance = realised_variance(market, samples)
    for sample in (0, 100, len(samples) - 1):
        t = samples.end[sample]
        assert variance[sample] == pytest.approx(squares[t + 1 : t + 25].sum(), rel=1e-9)
    still = {
        "BTC/USDT": make_candles(
            np.r_[market["BTC/USDT"]["close"].to_numpy()[:1600], np.full(100, 100.0)]
        )
    }
    assert realised_variance(still, ahead(still)).min() == 1e-9


def test_har_inputs_are_means_of_the_last_day_week_and_month():
    close = 100 * np.exp(np.cumsum(np.r_[0.0, np.full(800, 0.01), np.full(24, 0.03)]))
    day, week, month = har_inputs(make_candles(close), "1h", 24)[-1]
    assert day == pytest.approx(math.log(24 * 9e-4))
    assert week == pytest.approx(math.log(24 * (24 * 9e-4 + 144 * 1e-4) / 168))
    assert month == pytest.approx(math.log(24 * (24 * 9e-4 + 696 * 1e-4) / 720))


def test_the_har_model_finds_its_coefficients_and_is_unbiased():
    rng = np.random.default_rng(0)
    inputs = rng.normal(-8, 1, (20_000, 3))
    noise = rng.normal(0, 0.5, 20_000)
    variance = np.exp(-0.5 + inputs @ [0.5, 0.3, 0.1] + noise)
    model = fit_har(inputs, variance, np.arange(15_000))
    assert model.coefficients == pytest.approx([0.5, 0.3, 0.1], abs=0.02)
    # E[exp(noise)] = exp(0.5² / 2): what the logarithm's mean leaves out.
    assert model.intercept == pytest.approx(-0.5 + 0.125, abs=0.2)
    assert np.mean(variance[:15_000] / model.variance(inputs[:15_000])) == pytest.approx(
        1.0, rel=1e-9
    )
    assert HarModel.from_dict(model.as_dict()) == model
    for bad in (
        {},
        {"intercept": 1.0, "coefficients": [1.0]},
        {"intercept": math.nan, "coefficients": [0.0] * 3},
    ):
        with pytest.raises(ValueError, match="HAR model: .* train the model again"):
            HarModel.from_dict(bad)


def test_the_trees_learn_what_the_windows_say_and_come_back_from_their_file(tmp_path):
    rng = np.random.default_rng(1)
    rows = rng.uniform(size=(4000, 2)).astype(np.float32)
    candles = {"BTC/USDT": synthetic_candles(4000, seed=8)}
    samples = make_windows(
        {"BTC/USDT": pd.DataFrame(rows, columns=["a", "b"])}, candles, "1h", 5, 24, 60
    )
    split = split_samples(samples)
    ratio = np.exp(3 * rows[samples.end, 0]) * rng.exponential(size=len(samples))
    volatility = VolatilitySamples(samples, split, ratio, HarModel(0.0, [0.0] * 3), ratio)
    config = ConfigV9(trees=60, tree_depth=2, tree_learning_rate=0.3, seed=1)
    kept = fit_trees(rows, volatility, config, tmp_path / "trees.json")
    model = TreeModel(tmp_path / "trees.json", input_shape=(5, 2))
    forecast = model.run(rows, samples.end[split.test])
    assert 1 <= kept <= 60
    assert np.corrcoef(forecast, np.exp(3 * rows[samples.end[split.test], 0]))[0, 1] > 0.8
    some = split.test[[3, 77]]
    assert (model.run(rows, samples.end[some]) == forecast[[3, 77]]).all()
    with pytest.raises(ValueError, match="takes 10 inputs, the scaler file says 15; wrong file"):
        TreeModel(tmp_path / "trees.json", input_shape=(5, 3))
    (tmp_path / "broken.json").write_text('{"learner": ')
    with pytest.raises(ValueError, match="broken.json: no model of XGBoost that can be read"):
        TreeModel(tmp_path / "broken.json", input_shape=(5, 2))
    with pytest.raises(FileNotFoundError, match="there is no such model file"):
        TreeModel(tmp_path / "none.json", input_shape=(5, 2))


def test_volatility_scores_agree_with_hand_arithmetic():
    realised = np.array([0.02, 0.04, np.nan])
    predictions = pd.DataFrame(
        {
            "timestamp": pd.date_range("2024-01-01", periods=3, freq="h", tz="UTC"),
            "volatility_realised": realised,
            "volatility_forecast": [0.02, 0.02, 0.5],
            "volatility_ewma": [0.04, 0.04, 0.5],
            "volatility_har": [0.02, 0.04, 0.5],
        }
    )
    scores = volatility_scores(predictions, 24)
    assert scores["n"] == 2
    assert scores["mae"] == pytest.approx(0.01)
    assert scores["rmse"] == pytest.approx(math.sqrt(0.0002))
    assert (scores["mape"], scores["mape_percent"]) == (pytest.approx(0.25), pytest.approx(25.0))
    assert scores["r2"] == pytest.approx(1 - 0.0004 / 0.0002)
    assert scores["qlike"] == pytest.approx(
        (4 - math.log(4) - 1) / 2
    )  # variances: 4 times the forecast, and equal
    assert scores["baselines"]["ewma"]["qlike"] == pytest.approx((0.25 - math.log(0.25) - 1) / 2)
    assert scores["baselines"]["har"]["qlike"] == 0.0
    assert [entry["baseline"] for entry in scores["verdicts"]] == ["ewma", "har"]


# Direction and the combination


def test_candles_that_do_not_move_have_no_direction(standardised):
    scaled, _ = standardised
    log_return = scaled.samples.log_return.copy()
    log_return[scaled.split.train[:3]] = 0.0
    moved = direction_samples(
        replace(scaled, samples=replace(scaled.samples, log_return=log_return))
    )
    assert moved.split.train.tolist() == scaled.split.train[3:].tolist()
    assert (moved.target[moved.split.test] == (log_return[moved.split.test] > 0)).all()
    baselines = fit_direction_baselines(moved)
    assert tuple(baselines) == DIRECTION_BASELINES
    assert baselines["majority"][0] == pytest.approx((log_return[moved.split.train] > 0).mean())
    assert (baselines["last_move"] == (1 + np.sign(moved.samples.current_return)) / 2).all()
    assert ((baselines["logistic"] > 0) & (baselines["logistic"] < 1)).all()


def test_direction_scores_agree_with_hand_arithmetic():
    # Rises +, +, -, -, and a candle without a move that counts nowhere; called up, up, up, down.
    predictions = pd.DataFrame(
        {
            "timestamp": pd.date_range("2024-01-01", periods=5, freq="h", tz="UTC"),
            "actual_return": [0.1, 0.2, -0.1, -0.2, 0.0],
            "direction": [0.9, 0.6, 0.7, 0.2, 0.9],
            "direction_p_up": [0.6, 0.5, 0.5, 0.4, 0.9],
            "majority": 0.6,
            "last_move": [1.0, 0.5, 0.0, 0.0, 1.0],
            "logistic": [0.4, 0.4, 0.6, 0.6, 0.5],
        }
    )
    scores = direction_scores(predictions, 1)
    assert (scores["accuracy"], scores["n"]) == (0.75, 4)
    assert (scores["precision"], scores["recall"]) == (pytest.approx(2 / 3), 1.0)
    assert scores["f1"] == pytest.approx(0.8)
    assert scores["roc_auc"] == 0.75
    assert scores["brier"] == pytest.approx((0.16 + 0.25 + 0.25 + 0.16) / 4)
    assert scores["baselines"]["majority"]["accuracy"] == 0.5
    assert scores["baselines"]["last_move"]["accuracy"] == 1.0  # of three calls
    assert scores["baselines"]["logistic"]["f1"] is None  # right in none
    # Wrong directions: network 1 of 4, majority 2, last move half of one, logistic 4.
    assert [entry["skill"] for entry in scores["verdicts"]] == [0.5, pytest.approx(-1.0), 0.75]


def test_the_combination_takes_from_each_part_what_validation_confirms():
    rng = np.random.default_rng(2)
    n, volatility, ahead = 4000, np.full(4000, 0.01), np.full(4000, 0.02)
    signal = rng.normal(size=n) / 10
    actual = 0.01 * (signal + rng.laplace(size=n) / 5)
    knowing, blind = 1 / (1 + np.exp(-signal)), rng.uniform(0.4, 0.6, n)
    from_direction = fit_combination(knowing, np.zeros(n), volatility, ahead, actual)
    assert from_direction.direction_shrinkage > 0.9 and from_direction.price_weight < 0.1
    from_price = fit_combination(blind, 0.01 * signal, volatility, ahead, actual)
    assert from_price.direction_shrinkage < 0.1 and from_price.price_weight > 0.9
    assert from_price.combined_slope > 1 and from_price.direction_slope < 0.5
    served = apply_combination(from_price, blind, 0.01 * signal, volatility, ahead)
    assert (np.sign(served["combined"]) == np.sign(served["combined_p_up"] - 0.5)).all()
    inside = (actual > served["combined_q10"]) & (actual < served["combined_q90"])
    assert inside.mean() == pytest.approx(0.8, abs=0.01)
    wider = apply_combination(from_price, blind, 0.01 * signal, volatility, 2 * ahead)
    assert wider["combined_q90"] - wider["combined"] == pytest.approx(
        2 * (served["combined_q90"] - served["combined"])
    )


def test_a_combination_comes_back_from_plain_numbers_and_refuses_others():
    combination = Combination(
        0.1, 0.2, 0.3, 0.4, {name: float(i) for i, name in enumerate(QUANTILE_NAMES)}
    )
    assert Combination.from_dict(combination.as_dict()) == combination
    for change in (
        {"price_weight": math.nan},
        {"price_weight": True},
        {"quantiles": {"q10": 1.0}},
        {"quantiles": None},
    ):
        with pytest.raises(ValueError, match="ensemble: .* train (the models )?again"):
            Combination.from_dict({**combination.as_dict(), **change})
