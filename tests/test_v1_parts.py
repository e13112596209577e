"""The parts of v1: features, the join of two timeframes, losses, network, calibrated quantiles."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from config import ConfigV1
from feature_engineering import FeatureEngineer, process_single_symbol
from generations.v1.candles import resample_candles
from generations.v1.features import V1_FEATURES, V1_WARMUP, compute_v1_features
from generations.v1.timeframes import add_stream, rows_closing_with
from models import DualStreamLSTMModel, losses
from pipeline.bundle.network import KerasNetwork
from pipeline.candles.schema import timestamps_ms, utc_from_ms
from pipeline.candles.synthetic import synthetic_candles
from pipeline.forecasts.conformal import QuantileFactors, apply_quantiles, fit_quantiles
from pipeline.samples import leakage
from pipeline.samples.windows import Stream, make_windows
from pipeline.training.fit import save_plain_h5

QUARTER_MS, HOUR_MS = 900_000, 3_600_000
QUARTERS = synthetic_candles(2400, timeframe="15m", seed=5)


def test_there_are_50_features_known_from_the_62nd_candle_on():
    assert len(set(V1_FEATURES)) == 50
    features = compute_v1_features(QUARTERS, "15m")
    assert list(features) == list(V1_FEATURES)
    assert np.isfinite(features.iloc[61:].to_numpy()).all()
    with pytest.raises(ValueError, match="unknown feature 'magic'; v1 knows log_return"):
        compute_v1_features(QUARTERS, "15m", ["magic"])


def test_features_agree_with_hand_arithmetic():
    features, t = compute_v1_features(QUARTERS, "15m"), 1000
    open_, high, low, close, volume = (
        QUARTERS[n].to_numpy() for n in ("open", "high", "low", "close", "volume")
    )
    last_20, last_14, day = slice(t - 19, t + 1), slice(t - 13, t + 1), slice(t - 23, t + 1)
    location = (2 * close - high - low) / (high - low)
    returns = np.log(close[1:] / close[:-1])  # returns[i] is that of candle i + 1
    typical = (high + low + close) / 3
    expected = {
        "log_return_4": np.log(close[t] / close[t - 4]),
        "open_gap": np.log(open_[t] / close[t - 1]),
        "close_location": location[t],
        "volatility_28": returns[t - 28 : t].std(),
        "volatility_ratio": returns[t - 14 : t].std()
        / np.mean([returns[s - 14 : s].std() for s in range(t - 47, t + 1)]),
        "volatility_trend": returns[t - 7 : t].std() / returns[t - 28 : t].std(),
        "rolling_range_14": np.log(high[last_14].max() / low[last_14].min()),
        "parkinson_14": np.sqrt(
            np.mean(np.log(high[last_14] / low[last_14]) ** 2) / (4 * np.log(2))
        ),
        "bb_width": 4 * close[last_20].std() / close[last_20].mean(),
        "bb_position": 0.5 + (close[t] - close[last_20].mean()) / (4 * close[last_20].std()),
        "momentum_10": (close[t] - close[t - 10]) / (features["atr"][t] * close[t]),
        "roc_20": close[t] / close[t - 20] - 1,
        "volume_ratio": volume[t] / volume[last_20].mean(),
        "volume_change": np.log(volume[t] / volume[t - 1]),
        "signed_volume_20": (np.sign(returns[t - 20 : t]) * volume[last_20]).sum()
        / volume[last_20].sum(),
        "money_flow_20": (location * volume)[last_20].sum() / volume[last_20].sum(),
        "vwap_gap_24": close[t] * volume[day].sum() / (typical * volume)[day].sum() - 1,
    }
    for name, value in expected.items():
        assert features[name][t] == pytest.approx(value, rel=1e-9, abs=1e-13), name


def test_the_time_of_day_is_that_of_the_close_and_weekends_are_saturday_and_sunday():
    day = QUARTERS.assign(
        timestamp=utc_from_ms(np.arange(2400) * QUARTER_MS)
    )  # from Thursday, 1970-01-01
    features = compute_v1_features(day, "15m")
    assert features["day_sin"][23] == pytest.approx(1.0)  # the quarter from 05:45 closes at 06:00
    assert features["day_cos"][95] == pytest.approx(1.0)
    assert features["weekend"].iloc[: 7 * 96].to_numpy().nonzero()[0].tolist() == list(
        range(2 * 96, 4 * 96)
    )


def test_no_feature_sees_a_later_candle():
    leakage.check(lambda candles: compute_v1_features(candles, "15m"), QUARTERS.iloc[:700])


@settings(max_examples=10, deadline=None)
@given(price=st.floats(1e-8, 1e6), volume=st.floats(1e-3, 1e9))
def test_features_do_not_depend_on_the_units_of_price_and_volume(price, volume):
    few = QUARTERS.iloc[:300]
    scaled = few.assign(**{n: few[n] * price / 60_000 for n in ("open", "high", "low", "close")})
    scaled = scaled.assign(volume=few["volume"] * volume)
    ours, theirs = (compute_v1_features(candles, "15m") for candles in (few, scaled))
    assert ((ours - theirs).abs().max() <= 1e-6 * ours.std()).all()


def test_after_the_warm_up_the_start_of_the_history_is_forgotten():
    whole = compute_v1_features(QUARTERS, "15m")
    later = compute_v1_features(QUARTERS.iloc[37:], "15m").iloc[V1_WARMUP:]
    assert ((later - whole.loc[later.index]).abs().max() <= 1e-6 * whole.std()).all()


def test_features_start_afresh_after_a_long_gap():
    gapped = QUARTERS.drop(index=range(500, 507))
    alone = compute_v1_features(QUARTERS.iloc[507:], "15m")
    assert_frame_equal(compute_v1_features(gapped, "15m").loc[507:], alone)


def test_flat_prices_without_trade_leave_no_nan_behind():
    flat = QUARTERS.iloc[:600].copy()
    flat.loc[300:450, ["open", "high", "low", "close"]] = flat["close"][299]
    flat.loc[300:450, "volume"] = 0.0
    features = compute_v1_features(flat, "15m").iloc[61:]
    assert np.isfinite(features.to_numpy()).all()
    assert (
        features.loc[
            400, ["volume_ratio", "volume_change", "money_flow_20", "vwap_gap_24", "bb_width"]
        ]
        .eq(0)
        .all()
    )
    assert len(compute_v1_features(flat.iloc[:1], "15m")) == 1


def test_the_documents_steps_give_the_50_features():
    engineer = FeatureEngineer("15m")
    frame = engineer.add_technical_indicators(
        engineer.add_volatility_features(engineer.add_log_returns(QUARTERS))
    )
    assert_frame_equal(frame[list(V1_FEATURES)], compute_v1_features(QUARTERS, "15m"))
    processed = process_single_symbol(QUARTERS, "BTC/USDT", ConfigV1(), "15m")
    assert len(processed) == len(QUARTERS) - V1_WARMUP
    assert processed["timestamp"].iloc[0] == QUARTERS["timestamp"].iloc[V1_WARMUP]
    assert not processed.isna().any().any()
    with pytest.raises(
        ValueError, match="ETH/USDT: 400 candles are no more than the warm-up of 474"
    ):
        process_single_symbol(QUARTERS.iloc[:400], "ETH/USDT", timeframe="15m")


def test_normalizing_knows_the_training_rows_alone_and_clipping_follows():
    frame = process_single_symbol(QUARTERS, "BTC/USDT", timeframe="15m")
    engineer = FeatureEngineer("15m")
    scaled, scaler = engineer.normalize_features(frame, n_train=1000)
    assert scaled["rsi_14"].iloc[:1000].mean() == pytest.approx(0, abs=1e-6)
    assert scaled["rsi_14"].iloc[:1000].std(ddof=0) == pytest.approx(1, abs=1e-6)
    later = frame.assign(rsi_14=frame["rsi_14"].where(frame.index < 1000, 1e6))
    assert (engineer.normalize_features(later, n_train=1000)[1].mean_ == scaler.mean_).all()
    assert (
        engineer.handle_outliers(engineer.normalize_features(later, 1000)[0])["rsi_14"].max() == 5.0
    )


def test_an_isolated_hole_is_filled_forward_and_nothing_else():
    holes = pd.DataFrame({"rsi_14": [np.nan, 1.0, np.nan, 3.0, np.nan, np.nan, 6.0]})
    filled = FeatureEngineer().handle_missing_values(holes)["rsi_14"]
    np.testing.assert_array_equal(filled, [np.nan, 1.0, 1.0, 3.0, np.nan, np.nan, 6.0])


def test_sequences_of_both_timeframes_end_at_the_same_instant():
    hours = resample_candles(QUARTERS, "15m", "1h")
    engineer, fine = FeatureEngineer("1h"), FeatureEngineer("15m")
    x_1h, x_15m, y = engineer.create_dual_stream_sequences(
        engineer.add_log_returns(hours), fine.add_log_returns(QUARTERS), lookback=5
    )
    assert (
        x_1h.shape == x_15m.shape == (len(hours) - 29, 5, 10)
    )  # log_return_24 is known from row 24 on
    np.testing.assert_allclose(
        x_1h[:, -1, 0], x_15m[:, -4:, 0].sum(axis=1), atol=1e-6
    )  # four quarters are the hour
    assert y[0] == pytest.approx(np.log(hours["close"][29] / hours["close"][28]))
    x, target = engineer.create_sequences(engineer.add_log_returns(hours), lookback=5)
    assert np.array_equal(x, x_1h) and np.array_equal(target, y)


@settings(max_examples=50, deadline=None)
@given(
    hours=st.sets(st.integers(0, 60), min_size=1), quarters=st.sets(st.integers(0, 240), min_size=1)
)
def test_rows_that_are_joined_close_at_the_same_instant_and_none_is_missed(hours, quarters):
    opens = np.array(sorted(hours)) * HOUR_MS
    fine_opens = np.array(sorted(quarters)) * QUARTER_MS
    rows = rows_closing_with(opens, fine_opens, "1h", "15m")
    for open_ms, row in zip(opens, rows):
        closes = fine_opens + QUARTER_MS
        assert (closes[row] == open_ms + HOUR_MS) if row >= 0 else (open_ms + HOUR_MS not in closes)


def dual_samples(quarters, hours, lookback=4):
    features = {"X/USDT": compute_v1_features(hours, "1h")}
    samples = make_windows(features, {"X/USDT": hours}, "1h", lookback, 1, 60)
    fine = {"X/USDT": compute_v1_features(quarters, "15m")}
    return add_stream(samples, fine, {"X/USDT": quarters}, "15m", 61)


def test_a_samples_15m_window_ends_when_its_hour_ends(caplog):
    hours = resample_candles(QUARTERS, "15m", "1h")
    samples, fine = dual_samples(QUARTERS, hours)
    closes = samples.row_ms[samples.end] + HOUR_MS
    assert np.array_equal(timestamps_ms(QUARTERS)[fine.end] + QUARTER_MS, closes)
    with caplog.at_level(logging.INFO):
        fewer, _ = dual_samples(
            QUARTERS.drop(index=1602), hours
        )  # the quarter from 00:30 of hour 400
    lost = set(samples.end) - set(fewer.end)
    assert lost == {400}  # hour 401's four quarters are whole again
    assert "1 of 536 samples dropped, 15m candles from" in caplog.text


def test_a_15m_series_of_another_span_is_refused():
    hours = resample_candles(QUARTERS, "15m", "1h")
    with pytest.raises(
        ValueError, match=r"X/USDT: none of 536 samples has 4 15m candles .* of that span"
    ):
        dual_samples(QUARTERS.iloc[:200], hours)


def test_hours_are_made_of_whole_quarters_alone():
    hours = resample_candles(QUARTERS.iloc[1:].drop(index=9), "15m", "1h")
    assert hours["timestamp"].tolist() == QUARTERS["timestamp"][[4, *range(12, 2400, 4)]].tolist()
    four = QUARTERS.iloc[4:8]
    expected = [
        four["open"].iloc[0],
        four["high"].max(),
        four["low"].min(),
        four["close"].iloc[-1],
        four["volume"].sum(),
    ]
    assert hours.iloc[0, 1:].tolist() == pytest.approx(expected, rel=1e-15)


def test_the_pinball_loss_agrees_with_hand_arithmetic():
    loss = losses.pinball(
        np.array([[1.0], [0.0]], "float32"), np.array([[0, 0, 2], [1, 0, -1]], "float32")
    )
    # q10: 0.1 * 1, q50: 0.5 * 1, q90: 0.1 * 1; then 0.9 * 1, 0, 0.9 * 1
    np.testing.assert_allclose(np.asarray(loss), [0.7 / 3, 1.8 / 3], rtol=1e-6)


def test_moves_beyond_two_percent_weigh_five_times():
    target = np.array([[1.0, 0.019], [1.0, 0.021], [1.0, -0.03]], "float32")
    loss = losses.weighted_mse(target, np.array([[0.0], [0.0], [3.0]], "float32"))
    np.testing.assert_allclose(np.asarray(loss), [1.0, 5.0, 20.0], rtol=1e-6)


def test_the_network_has_the_documents_59795_parameters_and_starts_at_no_change():
    model = DualStreamLSTMModel(ConfigV1()).build(n_features=50)
    assert model.count_params() == 59_795
    assert [tuple(tensor.shape) for tensor in model.inputs] == [(None, 60, 50)] * 2
    windows = np.random.default_rng(1).normal(size=(2, 8, 60, 50)).astype("float32")
    quantiles = np.asarray(model.predict_on_batch(list(windows)))
    np.testing.assert_allclose(quantiles, np.tile([-1.15, 0.0, 1.15], (8, 1)), rtol=1e-5)
    single = DualStreamLSTMModel(ConfigV1(quantile_regression=False)).build(n_features=50)
    assert single.output_shape == (None, 1)


def test_quantiles_cannot_cross_whatever_the_weights():
    config = ConfigV1(
        lstm_units=(3, 2),
        conv_filters=(3, 2),
        conv_lstm_units=(3, 2),
        dense_units=(3, 2),
        lookback=5,
    )
    model = DualStreamLSTMModel(config).build(n_features=4)
    generator = np.random.default_rng(3)
    for spread in (0.1, 1.0, 3.0):
        model.set_weights(
            [generator.normal(scale=spread, size=w.shape) for w in model.get_weights()]
        )
        outputs = np.asarray(model.predict_on_batch(list(generator.normal(size=(2, 64, 5, 4)))))
        assert (np.diff(outputs) >= 0).all()


def test_calibrated_quantiles_hold_what_they_promise_and_cannot_cross():
    generator = np.random.default_rng(0)
    scale = np.exp(generator.normal(size=4000))
    actual = scale * generator.standard_t(5, 4000)
    quantiles = scale[:, None] * np.array(
        [-0.3, 0.1, 5.0]
    )  # far too narrow below, far too wide above
    median = quantiles[:, 1] * 0.5
    factors = fit_quantiles(quantiles[:2000], median[:2000], actual[:2000])
    served = apply_quantiles(factors, quantiles[2000:], median[2000:])
    assert np.mean(actual[2000:] < served["q10"]) == pytest.approx(0.1, abs=0.02)
    assert np.mean(actual[2000:] > served["q90"]) == pytest.approx(0.1, abs=0.02)
    assert (served["q10"] < served["q50"]).all() and (served["q50"] < served["q90"]).all()


def test_factors_of_quantiles_agree_with_hand_arithmetic():
    # 199 errors -99 … 99 on distances of 2 and 4: the 20th and 180th of them, -80 and 80, over
    # these
    quantiles = np.tile([-2.0, 0.0, 4.0], (199, 1))
    factors = fit_quantiles(quantiles, np.zeros(199), np.arange(-99.0, 100.0))
    assert (factors.below, factors.above) == (40.0, 20.0)
    assert QuantileFactors.from_dict(factors.as_dict()) == factors
    for wrong in ({"below": 1.0}, {"below": 0.0, "above": 1.0}, {"below": True, "above": 1.0}):
        with pytest.raises(
            ValueError, match="quantile factor .* not a number from 1e-30 to 1e.30; train the model"
        ):
            QuantileFactors.from_dict(wrong)


def test_a_sample_gets_the_same_bits_alone_in_few_and_in_many(tmp_path):
    config = ConfigV1(
        lstm_units=(6, 4),
        conv_filters=(6, 4),
        conv_lstm_units=(6, 4),
        dense_units=(6, 4),
        lookback=12,
    )
    model = DualStreamLSTMModel(config).build(n_features=5)
    generator = np.random.default_rng(2)
    model.set_weights([generator.normal(scale=0.5, size=w.shape) for w in model.get_weights()])
    save_plain_h5(model, tmp_path / "network.h5")
    network = KerasNetwork(tmp_path / "network.h5", input_shape=[(12, 5), (12, 5)])
    rows = generator.normal(size=(2, 600, 5)).astype(np.float32)
    ends = generator.integers(11, 600, size=(2, 300))

    def outputs(n):
        return network.run_streams([Stream(rows[i], ends[i, :n], 12) for i in range(2)])

    whole = outputs(300)
    for n in (1, 2, 3, 5, 16, 17, 256):
        assert np.array_equal(outputs(n), whole[:n])
    with pytest.raises(
        ValueError,
        match=r"takes windows of shape \(12, 5\), \(12, 5\), the scaler file says \(60, 5\)",
    ):
        KerasNetwork(tmp_path / "network.h5", input_shape=(60, 5))
