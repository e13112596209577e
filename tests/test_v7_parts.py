"""The parts of v7: possible candles, the 13 inputs, one scale for all prices, the naive candle."""

import os

import numpy as np
import pytest
import talib

from config import SplitConfig
from generations.v7 import networks
from generations.v7.features import V7_FEATURES, V7_PRICES, V7_WARMUP, compute_ohlc_features
from generations.v7.ohlc import HEADS, naive_candles, scale_candles_on_train, to_prices
from pipeline.bundle import files
from pipeline.candles.synthetic import synthetic_candles
from pipeline.samples import leakage
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import make_windows

# The network


@pytest.fixture(scope="module")
def network():
    from models.bilstm_ohlc import build_bilstm_ohlc

    return build_bilstm_ohlc(60, 13)


def test_the_network_has_the_document_s_layers_and_357_348_parameters(network):
    def bilstm(n_in, units):
        return 2 * 4 * ((n_in + units) * units + units)

    dense = (64 * 64 + 64) + (64 * 32 + 32) + 4 * (32 + 1)
    assert bilstm(13, 128) + bilstm(256, 64) + bilstm(128, 32) + dense == 357_348
    assert network.count_params() == 357_348
    assert network.input_shape == (None, 60, 13)
    assert [layer.rate for layer in network.layers if type(layer).__name__ == "Dropout"] == [
        0.2
    ] * 3
    assert all(type(layer).__module__.startswith("keras.") for layer in network.layers)


def test_the_outputs_are_named_and_ordered_open_close_high_low(network):
    assert tuple(network.output_names) == HEADS == ("open", "close", "high", "low")
    assert [tuple(output.shape) for output in network.outputs] == [(None, 1)] * 4


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_weights_are_the_candle_is_possible_also_in_quote_currency(network, seed):
    rng = np.random.default_rng(seed)
    network.set_weights([rng.normal(0, 0.5, weight.shape) for weight in network.get_weights()])
    outputs = network.predict(rng.normal(size=(64, 60, 13)).astype(np.float32), verbose=0)
    from sklearn.preprocessing import MinMaxScaler

    scaler = MinMaxScaler().fit([[0.061], [0.734]])
    prices = to_prices(np.hstack(outputs), scaler)
    for open_, close, high, low in (np.hstack(outputs).T, prices.T):
        assert (low <= np.minimum(open_, close)).all() and (np.maximum(open_, close) <= high).all()
    assert prices.min() >= 0.01 * 0.061 * (1 - 1e-12)


# Features, scales, the naive candle


def test_the_13_inputs_are_the_document_s_in_its_order_by_talib():
    candles = synthetic_candles(200, seed=1)
    features = compute_ohlc_features(candles, "1h")
    assert tuple(features) == V7_FEATURES and len(V7_FEATURES) == 13
    assert list(V7_FEATURES[:5]) == ["close", "open", "high", "low", "volume"]
    close = candles["close"].to_numpy()
    last20 = close[131:151]
    upper, lower = last20.mean() + 2 * last20.std(), last20.mean() - 2 * last20.std()
    row = features.iloc[150]
    assert row["bb_upper"] == pytest.approx(upper, rel=1e-9)
    assert row["bb_lower"] == pytest.approx(lower, rel=1e-9)
    assert row["bb_width"] == pytest.approx((upper - lower) / last20.mean(), rel=1e-7)
    assert row["bb_position"] == pytest.approx((close[150] - lower) / (upper - lower), rel=1e-7)
    assert row["volatility"] == pytest.approx(np.diff(np.log(close))[130:150].std(), rel=1e-7)
    assert row["rsi"] == talib.RSI(close, 14)[150]
    assert row["close"] == close[150]
    leakage.check(lambda frame: compute_ohlc_features(frame, "1h"), candles)


def test_after_the_warm_up_the_inputs_no_longer_depend_on_where_the_history_starts():
    candles = synthetic_candles(V7_WARMUP + 400, seed=2)
    whole = compute_ohlc_features(candles, "1h")
    later = compute_ohlc_features(candles.iloc[200:], "1h")
    rows = slice(V7_WARMUP + 200, None)
    difference = (whole.iloc[rows] - later.loc[whole.index[rows]]).abs().max() / whole.iloc[
        V7_WARMUP:
    ].std()
    assert difference.max() < 1e-6


def test_flat_closes_put_the_close_in_the_middle_of_its_bands():
    candles = synthetic_candles(60, seed=1)
    candles[["open", "high", "low", "close"]] = 5.0
    last = compute_ohlc_features(candles, "1h").iloc[-1]
    assert (last["bb_position"], last["bb_width"]) == (0.5, 0.0)


@pytest.fixture(scope="module")
def scaled():
    candles = synthetic_candles(560 + V7_WARMUP, seed=4)
    features = {"BTC/USDT": compute_ohlc_features(candles, "1h")}
    samples = make_windows(features, {"BTC/USDT": candles}, "1h", 60, 1, V7_WARMUP)
    split = split_samples(samples, SplitConfig(val_ratio=0.1))
    return candles, *scale_candles_on_train(samples, split, candles, V7_PRICES)


def test_all_prices_share_one_scale_fitted_on_the_training_part_alone(scaled):
    candles, prices, scalers = scaled
    samples, train = prices.samples, prices.split.train
    seen = candles.iloc[
        samples.end[train].min() - 59 : samples.end[train].max() + 2
    ]  # windows, and the last target
    low, high = seen["low"].min(), seen["high"].max()
    assert (
        candles["high"].max() > high or candles["low"].min() < low
    )  # else the test would show nothing
    for index, name in enumerate(V7_FEATURES):
        if name in V7_PRICES:
            assert (scalers.X.data_min_[index], scalers.X.data_max_[index]) == (low, high)
    assert (scalers.y.data_min_[0], scalers.y.data_max_[0]) == (low, high)
    t = samples.end[0]
    actual = candles[list(HEADS)].iloc[t + 1].to_numpy()
    assert prices.target[0] == pytest.approx((actual - low) / (high - low), rel=1e-5)
    assert prices.target[train].min() >= 0 and prices.target[train].max() <= 1


def test_the_naive_candle_opens_and_closes_at_the_last_close_and_reaches_as_far_as_usual(scaled):
    candles, prices, _ = scaled
    samples, split = prices.samples, prices.split
    naive = naive_candles(samples, split, candles)
    t = samples.end[split.train]
    high = np.median(candles["high"].to_numpy()[t + 1] / candles["close"].to_numpy()[t])
    assert naive[7, :2].tolist() == [samples.base_price[7]] * 2
    assert naive[7, 2] == pytest.approx(samples.base_price[7] * high)
    assert (naive[:, 3] < samples.base_price).all() and high > 1


def test_files_are_moved_only_when_the_last_one_is_there_and_a_cut_off_move_is_completed(tmp_path):
    work = tmp_path / ".partial" / "job"
    work.mkdir(parents=True)
    (tmp_path / "model").write_text("old")
    (work / "model").write_text("new")
    assert not networks.finish_network(work, tmp_path, ("model", "scalers"))
    assert (tmp_path / "model").read_text() == "old"
    (work / "scalers").write_text("new")
    os.replace(work / "model", tmp_path / "model")  # a kill between the two moves
    assert networks.finish_network(work, tmp_path, ("model", "scalers"))
    assert (tmp_path / "scalers").read_text() == "new"
    assert not networks.finish_network(work, tmp_path, ("model", "scalers"))


def test_a_work_folder_keeps_what_the_same_job_left_and_nothing_else(tmp_path):
    work = networks.work_folder(tmp_path, "job", {"candles": "a", "units": (1, 2)})
    (work / "state").write_text("epoch 3")
    assert (
        networks.work_folder(tmp_path, "job", {"candles": "a", "units": (1, 2)}) / "state"
    ).is_file()
    assert not (
        networks.work_folder(tmp_path, "job", {"candles": "b", "units": (1, 2)}) / "state"
    ).exists()
    (work / "state").write_text("epoch 3")
    (work / files.RUN_FILE).write_text("{half")
    assert not (
        networks.work_folder(tmp_path, "job", {"candles": "b", "units": (1, 2)}) / "state"
    ).exists()
