"""Scalers see each training candle once and nothing of validation or test."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from generations.v1_final.prices import price_to_log_return, scale_prices_on_train
from pipeline.samples.scaling import rows_seen, scale_on_train, scale_rows, to_log_return
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples

NOW = np.datetime64("2024-01-01", "ms")


def make_samples(rows, end, log_return, volatility=1.0, lookback=3):
    """Samples of one symbol that end in the given rows."""
    rows, end = np.asarray(rows, dtype=np.float32), np.asarray(end)
    n = len(end)
    row_ms = NOW.astype(np.int64) + 3_600_000 * np.arange(len(rows))
    return Samples(
        symbols=("BTC/USDT",),
        feature_cols=("first", "second")[: rows.shape[1]],
        rows=rows,
        row_ms=row_ms,
        end=end,
        symbol=np.zeros(n, dtype=np.int64),
        target_time=row_ms[end].astype("datetime64[ms]") + np.timedelta64(2, "h"),
        base_price=np.full(n, 100.0),
        current_return=np.zeros(n),
        log_return=np.asarray(log_return, dtype=np.float64),
        volatility=np.broadcast_to(np.float64(volatility), n).copy(),
        lookback=lookback,
        horizon=1,
        timeframe="1h",
        step_ms=3_600_000,
    )


def make_split(train, val, test):
    return Split(np.asarray(train), np.asarray(val), np.asarray(test), *[NOW] * 4)


def ten_candles():
    """Rows 0, 10, 20, 40, 80, …; training windows of three end in rows 2, 3, 5 and see 0 to 5."""
    rows = np.array(
        [
            [0, 1],
            [10, 1],
            [20, 1],
            [40, 4],
            [80, 1],
            [90, 4],
            [700, 9],
            [800, 9],
            [900, 9],
            [999, 9],
        ]
    )
    samples = make_samples(
        rows, [2, 3, 5, 7, 9], [0.01, -0.03, 0.02, 9.0, -9.0], [0.01, 0.01, 0.02, 0.01, 0.01]
    )
    return samples, make_split([0, 1, 2], [3], [4])


def test_the_scaler_sees_each_training_candle_once():
    samples, split = ten_candles()
    assert rows_seen(samples, split.train).tolist() == [True] * 6 + [False] * 4
    scaled, scalers = scale_on_train(samples, split)
    # Unique candles: (0 + 10 + 20 + 40 + 80 + 90) / 6 = 40 and (4 + 8) / 6 = 2. Over windows it
    # were 37.8.
    assert scalers.X.mean_ == pytest.approx([40, 2])
    assert scalers.X.var_ == pytest.approx(
        [(1600 + 900 + 400 + 0 + 1600 + 2500) / 6, (4 * 1 + 2 * 4) / 6]
    )
    assert scaled.rows.dtype == np.float32
    assert scaled.rows[:6].mean(axis=0) == pytest.approx([0, 0], abs=1e-6)
    assert scaled.rows[6, 1] == pytest.approx((9 - 2) / 2**0.5)


def test_a_row_between_training_windows_is_not_seen():
    samples = make_samples(np.arange(20)[:, None], [2, 9, 15], [1, -1, 2])
    seen = rows_seen(samples, np.array([0, 1]))
    assert np.flatnonzero(seen).tolist() == [0, 1, 2, 7, 8, 9]
    assert not rows_seen(samples, np.array([], dtype=np.int64)).any()


def test_the_target_is_the_volatility_scaled_return_of_unit_variance_in_training():
    samples, split = ten_candles()
    scaled, scalers = scale_on_train(samples, split)
    # Over volatility: 1, -3, 1; their mean is -1/3, their variance 11/3 - 1/9 = 32/9.
    assert scaled.target == pytest.approx(np.array([1, -3, 1, 900, -900]) / (32 / 9) ** 0.5)
    assert scaled.target.dtype == np.float32
    # No mean is taken off: 0 is the naive forecast
    assert scalers.y.transform(np.zeros((1, 1)))[0, 0] == 0


def test_to_log_return_inverts_the_scaling():
    rng = np.random.default_rng(1)
    log_return, volatility = rng.normal(0, 0.01, 50), rng.uniform(0.001, 0.02, 50)
    samples = make_samples(rng.normal(size=(60, 2)), np.arange(5, 55), log_return, volatility)
    scaled, scalers = scale_on_train(
        samples, make_split(np.arange(30), np.arange(30, 40), np.arange(40, 50))
    )
    assert to_log_return(scaled.target, volatility, scalers.y) == pytest.approx(
        log_return, rel=1e-6
    )
    assert (
        to_log_return(np.zeros(50, dtype=np.float32), volatility, scalers.y).tolist() == [0.0] * 50
    )


def test_nothing_of_validation_or_test_enters_the_scalers():
    samples, split = ten_candles()
    scaled, scalers = scale_on_train(samples, split)
    rows, log_return, volatility = (
        samples.rows.copy(),
        samples.log_return.copy(),
        samples.volatility.copy(),
    )
    rows[6:], log_return[3:], volatility[3:] = [[-5e5, np.nan]], 123.0, 7.0
    other, other_scalers = scale_on_train(
        replace(samples, rows=rows, log_return=log_return, volatility=volatility), split
    )
    for name in ("mean_", "var_", "scale_"):
        assert np.array_equal(getattr(scalers.X, name), getattr(other_scalers.X, name))
    assert np.array_equal(scalers.y.scale_, other_scalers.y.scale_)
    assert np.array_equal(scaled.rows[:6], other.rows[:6])
    assert np.array_equal(scaled.target[:3], other.target[:3])


def test_a_missing_value_becomes_zero_and_does_not_count():
    samples, split = ten_candles()
    rows = samples.rows.copy()
    rows[[1, 7], 0] = np.nan
    scaled, scalers = scale_on_train(replace(samples, rows=rows), split)
    assert scalers.X.mean_[0] == pytest.approx((0 + 20 + 40 + 80 + 90) / 5)
    assert scaled.rows[[1, 7], 0].tolist() == [0, 0]
    assert np.isfinite(scaled.rows).all()
    assert np.isnan(rows[1, 0]), "the raw rows stay as they are"


def test_serving_scales_rows_as_training_does():
    samples, split = ten_candles()
    scaled, scalers = scale_on_train(samples, split)
    for end in (3, 7, 10):  # whatever else is in the frame
        assert np.array_equal(scale_rows(samples.rows[:end], scalers.X), scaled.rows[:end])


NO_CHANGE = {
    "1": 1.0,
    "0.0001": 1e-4,
    "0": 0.0,
    "missing": np.nan,
    "0.1 but for its last bit": [0.1, np.nextafter(np.float32(0.1), np.float32(1))] * 3,
    "0 but for rounding": [0.0, 1e-16, -1e-16, 0.0, 3e-17, 1e-16],
    "3 where it is known": [np.nan, 3.0, 3.0, np.nan, 3.0, 3.0],
}


@pytest.mark.parametrize("name", NO_CHANGE)
def test_a_feature_that_never_changes_in_training_is_dropped_with_a_notice(name, caplog):
    caplog.set_level(logging.INFO, logger="pipeline")
    samples, split = ten_candles()
    rows = samples.rows.copy()
    rows[:6, 1] = NO_CHANGE[name]  # it changes later, which training cannot know
    scaled, scalers = scale_on_train(replace(samples, rows=rows), split)
    assert caplog.messages == ["second dropped: constant or missing throughout the training part"]
    assert scaled.samples.feature_cols == ("first",)
    assert scalers.X.mean_ == pytest.approx([40])
    assert np.array_equal(scaled.rows, scale_on_train(*ten_candles())[0].rows[:, :1])


@pytest.mark.parametrize("size", [1e-9, 1e-3, 1.0, 60_000.0])
def test_a_feature_that_changes_by_a_hundredth_of_a_percent_is_kept(size, caplog):
    caplog.set_level(logging.INFO, logger="pipeline")
    samples, split = ten_candles()
    rows = samples.rows.copy()
    rows[:6, 1] = size * np.array([1, 1.0001, 1, 1, 1.0001, 1])
    scaled, _ = scale_on_train(replace(samples, rows=rows), split)
    assert scaled.samples.feature_cols == ("first", "second")
    assert scaled.rows[:6, 1].std() == pytest.approx(1.0, abs=1e-3)
    assert not caplog.messages


def test_where_nothing_changes_in_training_there_is_nothing_to_learn_from():
    samples, split = ten_candles()
    rows = samples.rows.copy()
    rows[:6] = 1.0
    with pytest.raises(ValueError, match="no feature changes in the training part; are the"):
        scale_on_train(replace(samples, rows=rows), split)


# Prices, per symbol


def two_coins():
    """Five samples of coin A, five of coin B; a window is one row with one feature, the close."""
    base = np.array([100.0, 120, 110, 140, 180, 1.0, 2, 3, 2, 8])
    after = np.array([120.0, 110, 140, 180, 90, 2.0, 3, 2, 8, 1])
    samples = make_samples(base[:, None], np.arange(10), np.log(after / base), lookback=1)
    samples = replace(
        samples, symbols=("A/USDT", "B/USDT"), symbol=np.repeat([0, 1], 5), base_price=base
    )
    return samples, make_split([0, 5, 1, 6, 2, 7], [3, 8], [4, 9])


def test_prices_are_scaled_to_the_range_of_each_coin_s_training_targets():
    scaled, scalers = scale_prices_on_train(*two_coins())
    # A: targets 120, 110, 140 in training, so 0 is 110 and 1 is 140. B: 2, 3, 2, so 0 is 2 and 1 is
    # 3.
    assert scaled.target == pytest.approx(
        [1 / 3, 0, 1, 70 / 30, -20 / 30, 0, 1, 0, 6, -1], rel=1e-6, abs=1e-6
    )
    assert scaled.target.dtype == np.float32
    assert scalers.y["A/USDT"].inverse_transform([[0.5]])[0, 0] == pytest.approx(125.0)
    # A's closes in training are 100, 120, 110: mean 110, variance 200 / 3. B's are 1, 2, 3.
    assert scaled.rows[:5, 0] == pytest.approx(
        (np.array([100, 120, 110, 140, 180]) - 110) / (200 / 3) ** 0.5
    )
    assert scaled.rows[5:, 0] == pytest.approx((np.array([1, 2, 3, 2, 8]) - 2) / (2 / 3) ** 0.5)


def test_nothing_of_validation_or_test_enters_the_price_scalers():
    samples, split = two_coins()
    later = np.array([3, 4, 8, 9])
    log_return, rows = samples.log_return.copy(), samples.rows.copy()
    log_return[later], rows[later] = 3.0, 1e6
    (_, ours), (_, theirs) = (
        scale_prices_on_train(s, split)
        for s in (samples, replace(samples, log_return=log_return, rows=rows))
    )
    for symbol in samples.symbols:
        assert ours.y[symbol].data_min_ == theirs.y[symbol].data_min_
        assert ours.y[symbol].data_max_ == theirs.y[symbol].data_max_
        assert ours.X[symbol].mean_ == theirs.X[symbol].mean_


def test_what_never_changes_for_one_coin_is_dropped_for_all(caplog):
    caplog.set_level(logging.INFO, logger="pipeline")
    samples, split = two_coins()
    volume = np.array([5.0, 6, 7, 8, 9, 0, 0, 0, 3, 4])  # B's are known only later
    rows = np.column_stack([samples.rows[:, 0], volume]).astype(np.float32)
    both = replace(samples, rows=rows, feature_cols=("first", "volume"))
    scaled, scalers = scale_prices_on_train(both, split)
    assert caplog.messages == [
        "volume dropped: constant or missing throughout the training part of B/USDT"
    ]
    assert scaled.samples.feature_cols == ("first",)
    assert np.array_equal(scaled.rows, scale_prices_on_train(samples, split)[0].rows)
    assert [len(scalers.X[symbol].mean_) for symbol in samples.symbols] == [1, 1]


def test_a_coin_without_training_samples_is_named():
    samples, split = two_coins()
    with pytest.raises(
        ValueError, match="B/USDT: no sample in the training part; leave the symbol out"
    ):
        scale_prices_on_train(samples, replace(split, train=np.array([0, 1, 2])))


def test_a_scaled_price_becomes_the_log_return_from_the_base_price():
    samples, split = two_coins()
    scaled, scalers = scale_prices_on_train(samples, split)
    half = price_to_log_return(
        np.array([0.5], dtype=np.float32), np.array([100.0]), scalers.y["A/USDT"]
    )
    assert half == pytest.approx([np.log(1.25)])  # halfway from 110 to 140 is 125
    back = scalers.to_log_return(scaled.target[:, None], samples, np.arange(10))
    assert back[:, 0] == pytest.approx(samples.log_return, abs=1e-6)
