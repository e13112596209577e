"""Which candles become samples, and that none spans a gap or two symbols."""

import logging
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.candles.schema import timestamps_ms, utc_from_ms
from pipeline.samples.windows import make_windows, segmented_volatility, usable_rows, window_view

HOUR = 3_600_000


def make_candles(hours, close=None):
    """Candles at these hours since 1970; closes 100, 101, 103, 106, … unless given."""
    hours = np.asarray(hours, dtype=np.int64)
    close = (
        100.0 + np.cumsum(np.arange(len(hours)))
        if close is None
        else np.asarray(close, dtype=np.float64)
    )
    return pd.DataFrame({"timestamp": utc_from_ms(hours * HOUR), "close": close})


def numbered(candles, start=0):
    """Two features that tell the row: its number, and minus that."""
    row = start + np.arange(len(candles), dtype=np.float64)
    return pd.DataFrame({"row": row, "minus": -row})


def windows_of(candles, *, lookback=3, horizon=1, warmup=0):
    frames = candles if isinstance(candles, dict) else {"BTC/USDT": candles}
    features = {symbol: numbered(frame) for symbol, frame in frames.items()}
    return make_windows(features, frames, "1h", lookback, horizon, warmup)


# By hand. A sample needs a volatility, and that needs 48 returns: the first sample ends in row 48.


def test_samples_of_a_short_history_agree_with_hand_arithmetic():
    samples = windows_of(make_candles(range(52)))
    assert samples.end.tolist() == [48, 49, 50]  # row 51 has no next candle
    # Closes of rows 47 to 51: 100 + 47 * 48 / 2 = 1228, 1276, 1325, 1375, 1426.
    assert samples.base_price.tolist() == [1276, 1325, 1375]
    assert samples.log_return == pytest.approx(
        [math.log(1325 / 1276), math.log(1375 / 1325), math.log(1426 / 1375)]
    )
    assert samples.current_return[0] == pytest.approx(math.log(1276 / 1228))
    assert samples.current_return[1:] == pytest.approx(samples.log_return[:-1])
    # Open of candle t
    assert samples.time.astype("int64").tolist() == [48 * HOUR, 49 * HOUR, 50 * HOUR]
    # Close of candle t + 1
    assert samples.target_time.astype("int64").tolist() == [50 * HOUR, 51 * HOUR, 52 * HOUR]
    assert samples.target_time.dtype == "datetime64[ms]"
    assert (len(samples), samples.n_features, samples.symbol.tolist()) == (3, 2, [0, 0, 0])
    squares = [math.log(1.0 + i / (100 + i * (i - 1) / 2)) ** 2 for i in range(1, 49)]
    # An EMA starts from the mean
    assert samples.volatility[0] == pytest.approx(math.sqrt(sum(squares) / 48))


def test_a_longer_horizon_reaches_further_and_scales_the_volatility():
    one, two = (windows_of(make_candles(range(52)), horizon=horizon) for horizon in (1, 2))
    assert two.end.tolist() == [48, 49]
    assert two.log_return == pytest.approx([math.log(1375 / 1276), math.log(1426 / 1325)])
    assert two.target_time.astype("int64").tolist() == [51 * HOUR, 52 * HOUR]
    assert two.base_price.tolist() == [1276, 1325]
    assert two.volatility == pytest.approx(one.volatility[:2] * math.sqrt(2))
    assert two.current_return == pytest.approx(one.current_return[:2])


@pytest.mark.parametrize(
    ("warmup", "lookback", "first"),
    [(0, 3, 48), (2, 3, 48), (46, 3, 48), (47, 3, 49), (48, 3, 50), (48, 1, 48)],
)
def test_no_window_holds_a_row_of_the_warmup(warmup, lookback, first):
    # The window that ends in row e begins in row e - lookback + 1, which is at least `warmup`.
    assert windows_of(make_candles(range(60)), lookback=lookback, warmup=warmup).end.tolist() == [
        *range(first, 59)
    ]


def test_a_window_or_a_target_across_a_short_gap_is_no_sample():
    hours = [*range(55), *range(56, 62)]  # hour 55 is missing: rows 0..54, then 55..60
    samples = windows_of(make_candles(hours))
    # Row 54's target would be two hours ahead; rows 55 and 56 have the gap in their window of
    # three.
    assert samples.end.tolist() == [48, 49, 50, 51, 52, 53, 57, 58, 59]
    assert windows_of(make_candles(hours), horizon=2).end.tolist() == [48, 49, 50, 51, 52, 57, 58]


@pytest.mark.parametrize(("missing", "first_after"), [(6, 62), (7, 60 + 48)])
def test_only_a_long_gap_starts_the_warmup_afresh(missing, first_after):
    hours = [*range(60), *range(60 + missing, 120 + missing)]
    samples = windows_of(make_candles(hours))
    assert samples.end.tolist() == [*range(48, 59), *range(first_after, 119)]


def test_stacked_symbols_never_share_a_window():
    candles = {"BTC/USDT": make_candles(range(52)), "ETH/USDT": make_candles(range(10, 63))}
    features = {
        symbol: numbered(frame, start) for (symbol, frame), start in zip(candles.items(), (0, 1000))
    }
    samples = make_windows(features, candles, "1h", 3, 1, 0)
    assert samples.symbols == ("BTC/USDT", "ETH/USDT")
    assert samples.rows.dtype == np.float32
    assert samples.symbol.tolist() == [0, 0, 0, 1, 1, 1, 1]
    # ETH's row 48 is row 52 + 48 of the stack
    assert samples.end.tolist() == [48, 49, 50, 100, 101, 102, 103]
    windows = window_view(samples.rows, 3)[samples.end - 2]
    assert windows[2].tolist() == [[48, -48], [49, -49], [50, -50]]
    assert windows[3].tolist() == [[1046, -1046], [1047, -1047], [1048, -1048]]
    assert samples.time[3].astype("int64") == 58 * HOUR


def test_features_are_taken_by_symbol_and_not_by_order():
    candles = {"BTC/USDT": make_candles(range(52)), "ETH/USDT": make_candles(range(52))}
    features = {
        "ETH/USDT": numbered(candles["ETH/USDT"], 1000),
        "BTC/USDT": numbered(candles["BTC/USDT"]),
    }
    samples = make_windows(features, candles, "1h", 3, 1, 0)
    assert samples.rows[[0, 52], 0].tolist() == [0, 1000]


def test_samples_after_a_halt_are_dropped_until_half_of_48_candles_have_moved_again(caplog):
    caplog.set_level(logging.INFO, logger="pipeline.samples.windows")
    moving = np.exp(0.01 * (-1.0) ** np.arange(150))
    close = 100 * np.where((np.arange(150) >= 60) & (np.arange(150) < 100), moving[59], moving)
    ends = windows_of(make_candles(range(150), close)).end
    # rows 60 to 99 close where the one before did: the 25th of them in 48 rows is row 84
    assert 83 in ends and 84 not in ends
    # of the 48 rows up to 122 those from 75 to 99 are flat, 25 of them; up to 123 there are 24
    assert 122 not in ends and 123 in ends
    assert set(ends) >= {*range(48, 84), *range(123, 149)}
    assert "39 samples dropped" in caplog.text


@pytest.mark.parametrize(
    ("candles", "symbol"),
    [
        ({"BTC/USDT": make_candles(range(52)), "ETH/USDT": make_candles(range(49))}, "ETH/USDT"),
        ({"BTC/USDT": make_candles([0])}, "BTC/USDT"),
        ({"BTC/USDT": make_candles(range(52), np.full(52, 5.0))}, "BTC/USDT"),
    ],
)
def test_a_symbol_without_a_sample_is_named(candles, symbol):
    with pytest.raises(
        ValueError, match=f"{symbol}: no sample in .* candles; .*fetch more candles"
    ):
        windows_of(candles)


def test_a_horizon_beyond_the_history_is_no_sample():
    for horizon in (51, 52, 53, 1000):
        with pytest.raises(
            ValueError, match=f"no sample in 52 candles; .* horizon of {horizon} candles"
        ):
            windows_of(make_candles(range(52)), horizon=horizon)


@pytest.mark.parametrize(("lookback", "horizon"), [(0, 1), (3, 0), (3, -1)])
def test_a_lookback_or_horizon_below_one_is_refused(lookback, horizon):
    with pytest.raises(ValueError, match="at least 1"):
        windows_of(make_candles(range(60)), lookback=lookback, horizon=horizon)


def test_features_of_other_candles_are_refused():
    candles = make_candles(range(60))
    with pytest.raises(ValueError, match="BTC/USDT: 59 rows of features for 60 candles"):
        make_windows({"BTC/USDT": numbered(candles).iloc[1:]}, {"BTC/USDT": candles}, "1h", 3, 1, 0)


# The view


def test_a_window_view_is_right_and_copies_nothing():
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    view = window_view(rows, 3)
    assert view.shape == (8, 3, 4)
    assert all((view[i] == rows[i : i + 3]).all() for i in range(8))
    assert np.shares_memory(view, rows)
    assert not view.flags.writeable
    assert (window_view(rows, 10)[0] == rows).all()


# By brute force


def naive_volatility(close, hours):
    """Mean of a segment's first 48 squared log-returns, then an EMA of span 48; None before."""
    volatility, squares, mean = [], [], None
    for t in range(len(close)):
        if t == 0 or hours[t] - hours[t - 1] > 7:
            squares, mean = [], None
        else:
            squares.append(math.log(close[t] / close[t - 1]) ** 2)
            if len(squares) == 48:
                mean = sum(squares) / 48
            elif len(squares) > 48:
                mean = mean + 2 / 49 * (squares[-1] - mean)
        volatility.append(None if mean is None else math.sqrt(mean))
    return volatility


def naive_samples(hours, close, lookback, horizon, warmup):
    """(row of t, log-return, hour in which the target closes, volatility) of each sample."""
    position = {int(hour): row for row, hour in enumerate(hours)}
    volatility = naive_volatility(close, hours)
    segment_start, samples = 0, []
    for t, hour in enumerate(hours):
        if t > 0 and hour - hours[t - 1] > 7:
            segment_start = t
        window = [position.get(int(hour) - back) for back in range(lookback)]
        target = position.get(int(hour) + horizon)
        span = [position.get(int(hour) + ahead) for ahead in range(1, horizon + 1)]
        if None in window or None in span or volatility[t] is None or volatility[t] == 0:
            continue
        if all(row >= segment_start + warmup for row in window):
            samples.append(
                (t, math.log(close[target] / close[t]), int(hour) + horizon + 1, volatility[t])
            )
    return samples


gappy_hours = st.lists(st.tuples(st.integers(1, 250), st.integers(1, 9)), max_size=6).map(
    lambda gaps: [
        hour
        for hour in range(250)
        if not any(start <= hour < start + length for start, length in gaps)
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    hours=gappy_hours,
    lookback=st.integers(1, 12),
    horizon=st.integers(1, 12),
    warmup=st.integers(0, 70),
    seed=st.integers(0, 9),
)
def test_samples_are_those_of_a_naive_search(hours, lookback, horizon, warmup, seed):
    close = 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.01, len(hours))))
    expected = naive_samples(hours, close, lookback, horizon, warmup)
    candles = make_candles(hours, close)
    if not expected:
        with pytest.raises(ValueError, match="no sample"):
            windows_of(candles, lookback=lookback, horizon=horizon, warmup=warmup)
        return
    samples = windows_of(candles, lookback=lookback, horizon=horizon, warmup=warmup)
    ends, log_return, closes, volatility = zip(*expected)
    assert samples.end.tolist() == list(ends)
    assert samples.log_return == pytest.approx(log_return, rel=1e-12)
    assert (samples.target_time.astype("int64") // HOUR).tolist() == list(closes)
    assert samples.volatility == pytest.approx(np.array(volatility) * math.sqrt(horizon), rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(
    first=gappy_hours, second=gappy_hours, lookback=st.integers(2, 12), horizon=st.integers(1, 5)
)
def test_two_symbols_give_the_samples_of_each_alone(first, second, lookback, horizon):
    rng = np.random.default_rng(0)
    frames = {
        name: make_candles(hours, 100 * np.exp(np.cumsum(rng.normal(0, 0.01, len(hours)))))
        for name, hours in (
            ("BTC/USDT", [*first, *range(300, 400)]),
            ("ETH/USDT", [*second, *range(300, 400)]),
        )
    }
    both = windows_of(frames, lookback=lookback, horizon=horizon)
    for index, (symbol, frame) in enumerate(frames.items()):
        alone = windows_of({symbol: frame}, lookback=lookback, horizon=horizon)
        mine, offset = both.symbol == index, index * len(frames["BTC/USDT"])
        assert (both.end[mine] - offset).tolist() == alone.end.tolist()
        for name in (
            "target_time",
            "base_price",
            "current_return",
            "log_return",
            "volatility",
            "time",
        ):
            assert (getattr(both, name)[mine] == getattr(alone, name)).all(), name
        opens = both.row_ms[both.end[mine, None] - np.arange(lookback)]
        assert (np.diff(opens, axis=1) == -HOUR).all()


def test_usable_rows_and_volatility_start_afresh_together():
    candles = make_candles([*range(100), *range(200, 300)])
    times = timestamps_ms(candles)
    volatility = segmented_volatility(candles, "1h", 1)
    assert np.flatnonzero(np.isnan(volatility)).tolist() == [*range(48), *range(100, 148)]
    usable = usable_rows(times, HOUR, lookback=3, warmup=48)
    assert np.flatnonzero(usable).tolist() == [*range(50, 100), *range(150, 200)]
    alone = segmented_volatility(candles.iloc[100:], "1h", 1)
    assert np.array_equal(volatility[100:], alone, equal_nan=True)
