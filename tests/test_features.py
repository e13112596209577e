"""Each v2 feature against hand arithmetic or the published recursion, and what all of them promise.

The recursions are those that TA-Lib documents: Wilder's smoothing starts from a simple mean of its
first 14 values, an EMA from a simple mean of its first `span` ones, and MACD's fast EMA starts in
the same row as its slow one.
"""

import logging
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from feature_engineering import (
    V2_CANDLE_FEATURES,
    V2_FEATURES,
    V2_WARMUP,
    choose_features,
    compute_features,
)
from pipeline.candles.schema import read_candles, utc_from_ms
from pipeline.candles.synthetic import synthetic_candles
from pipeline.samples import leakage
from pipeline.samples.indicators import ewma_volatility, forgetting_candles, log_returns
from pipeline.samples.windows import segmented_volatility

FIRST_ROW = {
    "open_gap": 1,
    "high_ratio": 0,
    "low_ratio": 0,
    "body": 0,
    "volume_z": 47,
    "log_return": 1,
    "volatility_14": 14,
    "volatility_20": 20,
    "momentum_10": 10,
    "momentum_20": 20,
    "price_range": 0,
    "rsi": 14,
    "macd": 33,
    "macd_signal": 33,
    "volume_ratio": 19,
    "atr": 14,
    "funding_rate": 0,
    "open_interest_change": 1,
}
"""Feature -> the first row of a history in which it is known."""

WARMUPS = {"rsi": 14 + 240, "atr": 14 + 240, "macd": 33 + 231, "macd_signal": 33 + 231}
"""Rows that the recursive features need to forget their start; others have a window."""


def make_candles(close, *, open_=None, high=None, low=None, volume=None, **optional):
    """Hourly candles from closes; what is not given follows the close."""
    close = np.asarray(close, dtype=np.float64)
    open_ = close if open_ is None else np.asarray(open_, dtype=np.float64)
    frame = {
        "timestamp": utc_from_ms(3_600_000 * np.arange(len(close))),
        "open": open_,
        "high": np.maximum(open_, close) if high is None else np.asarray(high, dtype=np.float64),
        "low": np.minimum(open_, close) if low is None else np.asarray(low, dtype=np.float64),
        "close": close,
        "volume": np.ones(len(close)) if volume is None else np.asarray(volume, dtype=np.float64),
    }
    return pd.DataFrame(
        frame | {name: np.asarray(values, dtype=np.float64) for name, values in optional.items()}
    )


def with_gaps():
    """886 candles; 1, 6, 7 and 100 are missing before rows 150, 299, 393 and 686."""
    candles = synthetic_candles(1000, seed=3)
    missing = {150, *range(300, 306), *range(400, 407), *range(700, 800)}
    return candles.drop(index=list(missing)).reset_index(drop=True)


def feature(candles, name):
    return compute_features(candles, "1h", [name])[name].to_numpy()


# Each feature by its definition


def test_features_of_one_candle_agree_with_hand_arithmetic():
    candles = make_candles(
        [105, 110],
        open_=[100, 106],
        high=[110, 120],
        low=[95, 100],
        funding_rate=[1e-4, -2e-4],
        open_interest=[200, 250],
    )
    row = compute_features(candles, "1h").iloc[1]
    assert row["open_gap"] == pytest.approx(math.log(106 / 105), rel=1e-12)
    assert row["high_ratio"] == pytest.approx(math.log(120 / 110), rel=1e-12)
    assert row["low_ratio"] == pytest.approx(math.log(100 / 110), rel=1e-12)
    assert row["body"] == pytest.approx(math.log(110 / 106), rel=1e-12)
    assert row["log_return"] == pytest.approx(math.log(110 / 105), rel=1e-12)
    assert row["price_range"] == pytest.approx(20 / 110, rel=1e-12)
    assert row["funding_rate"] == -2e-4
    assert row["open_interest_change"] == pytest.approx(math.log(250 / 200), rel=1e-12)


def test_volume_features_agree_with_hand_arithmetic():
    # 47 volumes of 1, then 49: mean of the 48 is 2, mean square (47 + 2401) / 48 = 51, population
    # variance 47.
    assert feature(make_candles(np.full(48, 5.0), volume=[1] * 47 + [49]), "volume_z")[
        -1
    ] == pytest.approx(47**0.5)
    # 19 volumes of 1, then 21: mean of the 20 is 2.
    assert feature(make_candles(np.full(20, 5.0), volume=[1] * 19 + [21]), "volume_ratio")[
        -1
    ] == pytest.approx(10.5)


@pytest.mark.parametrize("window", [14, 20])
def test_volatility_is_the_population_deviation_of_the_last_log_returns(window):
    # log-returns +0.01, -0.01, …: mean 0, deviation 0.01
    close = 100 * np.exp(0.01 * (np.arange(60) % 2))
    assert feature(make_candles(close), f"volatility_{window}")[window:] == pytest.approx(0.01)
    candles = synthetic_candles(300, seed=5)
    log_return = np.log(candles["close"]).diff()
    expected = log_return.rolling(window).std(ddof=0)
    assert feature(candles, f"volatility_{window}") == pytest.approx(
        expected.to_numpy(), rel=1e-9, nan_ok=True
    )


@pytest.mark.parametrize("window", [10, 20])
def test_momentum_is_the_simple_return_over_its_window(window):
    close = 100.0 + np.arange(30)
    assert feature(make_candles(close), f"momentum_{window}")[window] == pytest.approx(
        window / 100, rel=1e-12
    )
    assert feature(make_candles(close), f"momentum_{window}")[-1] == pytest.approx(
        129 / (129 - window) - 1, rel=1e-12
    )


def test_rolling_volume_features_agree_with_pandas():
    candles = synthetic_candles(400, seed=6)
    rolling = candles["volume"].rolling(48)
    z_score = (candles["volume"] - rolling.mean()) / rolling.std(ddof=0)
    assert feature(candles, "volume_z") == pytest.approx(
        z_score.to_numpy(), rel=1e-9, abs=1e-9, nan_ok=True
    )
    ratio = candles["volume"] / candles["volume"].rolling(20).mean()
    assert feature(candles, "volume_ratio") == pytest.approx(
        ratio.to_numpy(), rel=1e-9, nan_ok=True
    )


def wilder(values, first, n=14):
    """A mean of n values, then 1/n of each new one.

    Wilder (1978), New Concepts in Technical Trading Systems.
    """
    smoothed = np.full(len(values), np.nan)
    smoothed[first + n - 1] = sum(values[first : first + n]) / n
    for t in range(first + n, len(values)):
        smoothed[t] = (smoothed[t - 1] * (n - 1) + values[t]) / n
    return smoothed


def ema(values, span, first):
    smoothed = np.full(len(values), np.nan)
    smoothed[first + span - 1] = sum(values[first : first + span]) / span
    for t in range(first + span, len(values)):
        smoothed[t] = smoothed[t - 1] + 2 / (span + 1) * (values[t] - smoothed[t - 1])
    return smoothed


def test_rsi_agrees_with_the_published_table():
    # StockCharts ChartSchool, "Relative Strength Index (RSI)", calculation table: closes and the
    # first six RSI values.
    close = [
        44.3389,
        44.0902,
        44.1497,
        43.6124,
        44.3278,
        44.8264,
        45.0955,
        45.4245,
        45.8433,
        46.0826,
        45.8931,
        46.0328,
        45.6140,
        46.2820,
        46.2820,
        46.0028,
        46.0328,
        46.4116,
        46.2222,
        45.6439,
    ]
    published = [70.53, 66.32, 66.55, 69.41, 66.36, 57.97]
    assert feature(make_candles(close), "rsi")[14:] == pytest.approx(published, abs=0.005)


def test_rsi_agrees_with_wilders_recursion():
    candles = synthetic_candles(400, seed=8)
    change = np.diff(candles["close"], prepend=np.nan)
    gain, loss = wilder(np.maximum(change, 0), 1), wilder(np.maximum(-change, 0), 1)
    assert feature(candles, "rsi") == pytest.approx(
        100 * gain / (gain + loss), rel=1e-9, nan_ok=True
    )


def test_atr_agrees_with_wilders_recursion_in_percent_of_the_close():
    candles = synthetic_candles(400, seed=9)
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    true_range = np.full(400, np.nan)
    for t in range(1, 400):
        true_range[t] = max(
            high[t] - low[t], abs(high[t] - close[t - 1]), abs(low[t] - close[t - 1])
        )
    assert feature(candles, "atr") == pytest.approx(
        100 * wilder(true_range, 1) / close, rel=1e-9, nan_ok=True
    )


def test_atr_counts_a_gap_between_candles():
    # Each candle spans 2 and opens 4 above the last close of 100, 106, …: high minus the previous
    # close is 6.
    close = 100.0 + 6 * np.arange(30)
    candles = make_candles(close, open_=close - 2, high=close, low=close - 2)
    assert feature(candles, "atr")[14:] == pytest.approx(100 * 6 / close[14:])


def test_macd_agrees_with_its_recursion_in_units_of_the_close():
    candles = synthetic_candles(400, seed=10)
    close = candles["close"].to_numpy()
    macd = ema(close, 12, first=14) - ema(close, 26, first=0)  # both averages start in row 25
    signal = ema(macd, 9, first=25)
    macd[:33] = np.nan  # TA-Lib shows the line from where its signal is known
    assert feature(candles, "macd") == pytest.approx(macd / close, rel=1e-6, abs=1e-12, nan_ok=True)
    assert feature(candles, "macd_signal") == pytest.approx(
        signal / close, rel=1e-6, abs=1e-12, nan_ok=True
    )


def test_ewma_volatility_agrees_with_its_recursion():
    log_return = log_returns(synthetic_candles(300, seed=11)["close"].to_numpy())
    expected = np.sqrt(ema(np.square(log_return), 48, first=1))
    assert ewma_volatility(log_return) == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert np.isnan(ewma_volatility(log_return)[:48]).all()
    assert np.isnan(ewma_volatility(log_return[:48])).all()  # 47 returns: not one average of 48
    assert ewma_volatility(np.r_[np.nan, np.full(60, -0.02)])[48:] == pytest.approx(0.02)


def test_log_returns_reach_back_over_periods():
    assert log_returns(np.array([1.0, 2.0, 8.0]), 2) == pytest.approx(
        [np.nan, np.nan, math.log(8)], nan_ok=True
    )


# What all of them promise


def test_a_feature_is_known_from_its_first_row_on():
    features = compute_features(synthetic_candles(200, seed=12), "1h")
    known = features.notna()
    assert {name: int(known[name].argmax()) for name in V2_FEATURES} == FIRST_ROW
    assert all(known[name].iloc[row:].all() for name, row in FIRST_ROW.items())


def test_features_come_in_the_order_asked_for_on_the_candles_index():
    candles = synthetic_candles(100, seed=13).set_index(pd.RangeIndex(50, 150))
    everything = compute_features(candles, "1h")
    assert tuple(everything.columns) == V2_FEATURES
    assert (everything.dtypes == np.float64).all()
    some = compute_features(candles, "1h", ["rsi", "body", "volume_z"])
    assert_frame_equal(some, everything[["rsi", "body", "volume_z"]], check_exact=True)
    assert some.index.equals(candles.index)


def test_an_unknown_feature_is_named():
    with pytest.raises(ValueError, match="unknown feature 'sentiment'; v2 knows open_gap, "):
        compute_features(synthetic_candles(10), "1h", ["rsi", "sentiment"])


def test_absent_and_stale_columns_are_nan_and_never_filled():
    candles = synthetic_candles(100, seed=14)
    bare = compute_features(candles.drop(columns=["funding_rate", "open_interest"]), "1h")
    assert bare[["funding_rate", "open_interest_change"]].isna().all(axis=None)
    candles.loc[40:42, ["funding_rate", "open_interest"]] = np.nan
    candles.loc[60, "open_interest"] = 0.0
    features = compute_features(candles, "1h")
    assert np.flatnonzero(features["funding_rate"].isna()).tolist() == [40, 41, 42]
    # A change needs both ends; an open interest of 0 is no observation.
    assert np.flatnonzero(features["open_interest_change"].isna()).tolist() == [
        0,
        40,
        41,
        42,
        43,
        60,
        61,
    ]
    assert_frame_equal(
        features[list(V2_CANDLE_FEATURES)], bare[list(V2_CANDLE_FEATURES)], check_exact=True
    )


@settings(max_examples=60, deadline=None)
@given(price=st.integers(-30, 30), volume=st.integers(-20, 20), open_interest=st.integers(-20, 20))
def test_features_do_not_depend_on_the_units_of_price_and_volume(price, volume, open_interest):
    candles = with_gaps().iloc[:450]
    scaled = candles.copy()
    scaled[["open", "high", "low", "close"]] *= 2.0**price  # a power of two changes no digit
    scaled["volume"] *= 2.0**volume
    scaled["open_interest"] *= 2.0**open_interest
    assert_frame_equal(
        compute_features(scaled, "1h"), compute_features(candles, "1h"), check_exact=True
    )


@pytest.mark.parametrize("name", V2_FEATURES)
def test_no_feature_sees_a_later_candle(name):
    candles = with_gaps()
    # A few rows into a history and into each segment, right before and after each gap, and far from
    # all of them.
    rows = (
        0,
        1,
        5,
        20,
        48,
        149,
        150,
        151,
        299,
        300,
        392,
        393,
        394,
        400,
        440,
        600,
        685,
        686,
        690,
        800,
        884,
    )
    cuts = tuple((row + 1.5) / len(candles) for row in rows)
    leakage.check(lambda c: compute_features(c, "1h", [name]), candles, cuts=cuts)


def test_features_restart_after_a_long_gap_and_run_on_across_a_short_one():
    candles = with_gaps()
    whole = compute_features(candles, "1h")
    for first, end in (
        (0, 393),
        (393, 686),
        (686, len(candles)),
    ):  # short gaps before rows 150 and 299 cut nothing
        alone = compute_features(candles.iloc[first:end], "1h")
        assert_frame_equal(whole.iloc[first:end], alone, check_exact=True)
    assert whole["rsi"].iloc[[150, 299]].notna().all()
    assert whole["log_return"].iloc[150] == math.log(candles["close"][150] / candles["close"][149])


def with_fat_tails(n, seed):
    """Candles of Student-t(3) returns, whose volatility drifts over a factor of about 5."""
    rng = np.random.default_rng(seed)
    volatility = 0.005 * np.exp(0.8 * np.sin(np.arange(n) / 300) + 0.2 * rng.standard_normal(n))
    close = 100 * np.exp(np.cumsum(volatility * rng.standard_t(3, n) / 3**0.5))
    open_ = np.r_[100, close[:-1]] * np.exp(0.05 * volatility * rng.standard_normal(n))
    high = np.maximum(open_, close) * np.exp(volatility * rng.exponential(size=n))
    low = np.minimum(open_, close) * np.exp(-volatility * rng.exponential(size=n))
    return make_candles(
        close, open_=open_, high=high, low=low, volume=np.exp(1.2 * rng.standard_t(6, n))
    )


def disagreement(candles, starts, length=1000):
    """Largest difference that the start of the history makes after a warm-up, per feature.

    Features in their standard deviations, each after its row of `WARMUPS` (else V2_WARMUP);
    volatility as a ratio.
    """
    whole = compute_features(candles, "1h", V2_CANDLE_FEATURES)
    deviations = whole.std()
    volatility = segmented_volatility(candles, "1h", 1)
    worst = dict.fromkeys([*V2_CANDLE_FEATURES, "volatility"], 0.0)
    for start in starts:
        part = candles.iloc[start : start + length]
        features = compute_features(part, "1h", V2_CANDLE_FEATURES)
        difference = (features - whole.loc[part.index]).abs() / deviations
        assert difference.iloc[V2_WARMUP:].notna().all(axis=None)
        for name in V2_CANDLE_FEATURES:
            worst[name] = max(
                worst[name], difference[name].iloc[WARMUPS.get(name, V2_WARMUP) :].max()
            )
        later = segmented_volatility(part, "1h", 1)
        ratio = later[V2_WARMUP:] / volatility[start : start + length][V2_WARMUP:]
        worst["volatility"] = max(worst["volatility"], np.abs(ratio - 1).max())
    return worst


def hard_starts(candles):
    """Rows at and shortly before the wildest candles: a start there misleads most."""
    log_return = np.abs(log_returns(candles["close"].to_numpy()))
    wildest = np.argsort(np.nan_to_num(log_return)[600:-1000])[-8:] + 600
    return sorted({int(row - before) for row in wildest for before in (0, 1, 13, 40)})


@pytest.mark.parametrize("seed", range(5))
def test_after_the_warmup_the_start_of_the_history_is_forgotten(seed):
    assert V2_WARMUP == 474
    for candles in (synthetic_candles(4000, seed=seed), with_fat_tails(4000, seed)):
        worst = disagreement(candles, [137, 500, 1234, *hard_starts(candles)])
        assert 1e-9 < max(worst.values()) < 1e-6, worst  # less would mean that nothing was compared


def test_after_the_warmup_the_start_of_real_candles_is_forgotten(real_data):
    candles = read_candles(
        pd.read_parquet(real_data / "binanceusdm" / "BTCUSDT_1h.parquet"), "1h"
    ).iloc[:12_000]
    # March 2020 is among them
    worst = disagreement(candles, [137, 500, 1234, *hard_starts(candles)])
    assert max(worst.values()) < 1e-6, worst


@pytest.mark.parametrize("decay", [0.5, 13 / 14, 25 / 27, 47 / 49])
def test_forgetting_candles_is_the_first_count_that_suffices(decay):
    n = forgetting_candles(decay, tolerance=1e-6, headroom=50.0)
    assert 50 * decay**n <= 1e-6 < 50 * decay ** (n - 1)


# Candles that are hard to bear; a warning is an error in this suite


@pytest.mark.parametrize("n", [0, 1, 2, 14, 15, 20, 33, 34, 47, 48, 49])
def test_short_frames_give_what_can_be_known(n):
    candles = synthetic_candles(60, seed=15)
    short = compute_features(candles.iloc[:n], "1h")
    assert_frame_equal(short, compute_features(candles, "1h").iloc[:n], check_exact=True)


def test_constant_prices_and_no_volume_are_zeros_and_not_nan():
    features = compute_features(
        make_candles(np.full(100, 7.3), volume=np.zeros(100)), "1h", V2_CANDLE_FEATURES
    )
    assert features.iloc[48:].drop(columns="rsi").abs().max(axis=None) < 1e-12
    assert features["rsi"].iloc[48:].between(0, 100).all()
    assert (ewma_volatility(log_returns(np.full(100, 7.3)))[48:] == 0).all()


def test_trade_that_stops_leaves_no_nan_behind():
    candles = synthetic_candles(900, seed=16)
    candles.loc[300:, ["open", "high", "low", "close"]] = candles["close"][299]
    candles.loc[300:, "volume"] = 0.0
    features = compute_features(candles, "1h")
    assert np.isfinite(features.iloc[48:]).all(axis=None)
    still = features.iloc[-1][
        ["log_return", "volatility_14", "volatility_20", "volume_z", "volume_ratio"]
    ]
    assert np.abs(still).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    missing=st.lists(st.tuples(st.integers(1, 110), st.integers(1, 12)), max_size=4),
    power=st.sampled_from([1e-4, 1.0, 1e6]),
    n=st.integers(1, 120),
    seed=st.integers(0, 50),
)
def test_features_of_any_sound_candles_are_finite_once_known(missing, power, n, seed):
    candles = synthetic_candles(n, seed=seed)
    candles[["open", "high", "low", "close"]] *= power
    gone = {row for start, length in missing for row in range(start, start + length)}
    candles = candles[~candles.index.isin(gone)].reset_index(drop=True)
    values = compute_features(candles, "1h").to_numpy()
    assert values.shape == (len(candles), 18)
    assert not np.isinf(values).any()
    assert np.isfinite(values[:, 1:4]).all()


# Which optional features a run may use


def market(**columns):
    """Symbol -> 100 candles whose optional columns end with so many fresh values."""
    frames = {}
    for symbol, fresh in columns.items():
        frame = make_candles(np.full(100, 5.0))
        for name, count in fresh.items():
            frame[name] = np.where(np.arange(100) >= 100 - count, 1.0 + np.arange(100) ** 2, np.nan)
        frames[symbol] = frame
    return frames


def test_an_optional_feature_stays_at_exactly_99_percent_and_goes_below(caplog):
    caplog.set_level(logging.INFO, logger="feature_engineering")
    both = {"funding_rate": 99, "open_interest": 99}  # a change needs two values: 98 of them
    assert choose_features(market(BTC=both), 0) == (*V2_CANDLE_FEATURES, "funding_rate")
    assert caplog.messages == [
        "open_interest_change dropped: 1 of 1 symbols have a fresh open_interest at less than 99 % "
        "of the used candles (worst: BTC, at 98.0 %)"
    ]
    assert (
        choose_features(market(BTC={"funding_rate": 100, "open_interest": 100}), 0) == V2_FEATURES
    )


def test_a_column_that_one_symbol_lacks_is_dropped_for_all(caplog):
    caplog.set_level(logging.INFO, logger="feature_engineering")
    frames = market(BTC={"funding_rate": 100, "open_interest": 100}, ETH={"open_interest": 100})
    assert choose_features(frames, 0) == (*V2_CANDLE_FEATURES, "open_interest_change")
    assert (
        "funding_rate dropped: 1 of 2 symbols" in caplog.text
        and "worst: ETH, at 0.0 %" in caplog.text
    )


def test_a_column_that_is_never_positive_is_dropped(caplog):
    caplog.set_level(logging.INFO, logger="feature_engineering")
    frames = market(
        BTC={"funding_rate": 100, "open_interest": 100},
        ETH={"funding_rate": 100, "open_interest": 100},
    )
    frames["ETH"]["open_interest"] = 0.0
    assert choose_features(frames, 0) == (*V2_CANDLE_FEATURES, "funding_rate")
    assert "open_interest_change dropped: 1 of 2 symbols" in caplog.text


def test_only_the_used_candles_count():
    frames = market(BTC={"funding_rate": 50, "open_interest": 52})
    assert choose_features(frames, 50) == V2_FEATURES
    assert choose_features(frames, 51) == (*V2_CANDLE_FEATURES, "open_interest_change")
    assert choose_features(frames, 0) == V2_CANDLE_FEATURES  # 0 means all
    assert choose_features(frames, 1000) == V2_CANDLE_FEATURES
