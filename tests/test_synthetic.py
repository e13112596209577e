"""The synthetic market looks like one, is a martingale unless told otherwise, and is the same every
time.

Every run is seeded, so that nothing here is flaky; the bounds are derived so that another seed
passes too.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.candles import synthetic
from pipeline.candles.schema import timeframe_ms, timestamps_ms, validate_candles
from pipeline.candles.synthetic import synthetic_candles, synthetic_market

SYMBOLS = ("BTC/USDT", "ETH/USDT", "DOGE/USDT", "PEPE/USDT")  # the last has no entry in the table
SEEDS = (1, 2, 3, 4, 5)
COLUMNS = ["timestamp", "open", "high", "low", "close", "volume", "funding_rate", "open_interest"]


@pytest.fixture(scope="module")
def markets():
    return [synthetic_market(SYMBOLS, n_candles=20_000, seed=seed) for seed in SEEDS]


def log_returns(candles):
    return np.diff(np.log(candles["close"].to_numpy()))


def autocorrelation(values, lag):
    return np.corrcoef(values[:-lag], values[lag:])[0, 1]


def fair_coin_bound(n_tests):
    """Bound on |sum(c_t s_t)| / sqrt(sum(c_t^2)) for fair signs s_t and fixed c_t, over `n_tests`
    sums.

    Hoeffding (1963): P(it exceeds b) <= 2 exp(-b^2 / 2). This b makes a false alarm in any of the
        tests rarer
    than one in a million.
    """
    return math.sqrt(2.0 * math.log(2.0 * n_tests / 1e-6))


def self_normalised_sum(products):
    return abs(products.sum()) / math.sqrt((products**2).sum())


# What a frame is


@settings(max_examples=40, deadline=None)
@given(
    n_candles=st.integers(1, 300),
    timeframe=st.sampled_from(["1m", "15m", "1h", "4h", "8h", "12h", "1d"]),
    seed=st.integers(0, 2**64),
    signal_r2=st.floats(0.0, 0.99),
    symbol=st.sampled_from(SYMBOLS),
)
def test_every_frame_passes_the_validator_and_has_no_gaps(
    n_candles, timeframe, seed, signal_r2, symbol
):
    candles = synthetic_candles(
        n_candles, symbol=symbol, timeframe=timeframe, seed=seed, signal_r2=signal_r2
    )
    validate_candles(candles, timeframe)
    assert candles.columns.tolist() == COLUMNS
    assert candles.index.equals(pd.RangeIndex(n_candles))
    assert str(candles["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert (candles[COLUMNS[1:]].dtypes == np.float64).all()
    assert (np.diff(timestamps_ms(candles)) == timeframe_ms(timeframe)).all()
    assert np.isfinite(candles[COLUMNS[1:]].to_numpy()).all()
    assert (candles[["low", "volume", "open_interest"]] > 0).all(axis=None)
    assert (candles["low"] <= candles[["open", "close"]].min(axis=1)).all()
    assert (candles["high"] >= candles[["open", "close"]].max(axis=1)).all()


@pytest.mark.parametrize(
    ("timeframe", "end", "last_open"),
    [
        ("1h", "2024-06-01 12:30", "2024-06-01 11:00"),
        ("1h", "2024-06-01 12:00", "2024-06-01 11:00"),  # closing at `end` is early enough
        ("1h", "2024-06-01 11:59:59.999", "2024-06-01 10:00"),
        ("1h", "2024-06-01 14:30+02:00", "2024-06-01 11:00"),
        ("1h", pd.Timestamp("2024-06-01 12:30"), "2024-06-01 11:00"),
        ("15m", "2024-06-01 12:44", "2024-06-01 12:15"),
        ("1d", "2024-06-01 12:30", "2024-05-31 00:00"),
        ("8h", "1969-12-31 23:00", "1969-12-31 08:00"),
    ],
)
def test_last_candle_is_the_last_on_the_grid_that_closes_by_the_end(timeframe, end, last_open):
    candles = synthetic_candles(5, timeframe=timeframe, end=end)
    assert candles["timestamp"].iloc[-1] == pd.Timestamp(last_open, tz="UTC")


def test_opens_sit_on_the_previous_close_but_for_a_tiny_gap(markets):
    for candles in markets[0].values():
        gap = np.log(candles["open"].to_numpy()[1:] / candles["close"].to_numpy()[:-1])
        assert 0.4 < np.mean(np.abs(gap) < 1e-12) < 0.6
        assert 0 < gap.std() < 0.02 * log_returns(candles).std()


# How it moves


def test_levels_are_those_of_the_coins():
    market = synthetic_market(["BTC/USDT", "DOGE/USDT"], n_candles=50_000)
    assert market["BTC/USDT"]["open"].iloc[0] == pytest.approx(60_000)
    assert market["DOGE/USDT"]["open"].iloc[0] == pytest.approx(0.15)
    assert log_returns(market["BTC/USDT"]).std() == pytest.approx(0.005, rel=0.15)
    assert log_returns(market["DOGE/USDT"]).std() == pytest.approx(0.009, rel=0.15)
    turnover_at_start_price = 60_000 * market["BTC/USDT"]["volume"].mean()
    assert turnover_at_start_price == pytest.approx(500e6, rel=0.25)
    assert market["BTC/USDT"]["open_interest"].median() == pytest.approx(12 * 500e6, rel=0.25)


@pytest.mark.parametrize(
    ("timeframe", "n_candles"), [("5m", 200_000), ("15m", 100_000), ("4h", 20_000), ("1d", 10_000)]
)
def test_volatility_grows_with_the_square_root_of_the_timeframe(timeframe, n_candles):
    hours = timeframe_ms(timeframe) / 3_600_000
    candles = synthetic_candles(n_candles, timeframe=timeframe)
    assert log_returns(candles).std() == pytest.approx(0.005 * math.sqrt(hours), rel=0.25)


def test_returns_have_fat_tails(markets):
    for market in markets:
        for candles in market.values():
            assert pd.Series(log_returns(candles)).kurt() > 4


def test_volatility_clusters_and_the_clusters_fade(markets):
    for market in markets:
        absolute = np.abs(log_returns(market["BTC/USDT"]))
        assert 0.15 < autocorrelation(absolute, 1) < 0.4
        assert (
            0.04
            < autocorrelation(absolute, 48)
            < autocorrelation(absolute, 6)
            < autocorrelation(absolute, 1)
        )


def test_afternoons_are_busier_than_nights_and_workdays_than_weekends(markets):
    for market in markets:
        candles = market["BTC/USDT"].iloc[1:]
        movement = np.abs(log_returns(market["BTC/USDT"]))
        hour = candles["timestamp"].dt.hour.to_numpy()
        weekend = candles["timestamp"].dt.day_of_week.to_numpy() >= 5
        for activity in (movement, candles["volume"].to_numpy()):
            assert (
                activity[(hour >= 14) & (hour < 17)].mean()
                > 1.4 * activity[(hour >= 3) & (hour < 6)].mean()
            )
            assert activity[weekend].mean() < 0.8 * activity[~weekend].mean()


def test_coins_move_together(markets):
    for market in markets:
        returns = pd.DataFrame({symbol: log_returns(candles) for symbol, candles in market.items()})
        pairs = returns.corr().to_numpy()[np.triu_indices(len(SYMBOLS), 1)]
        assert ((pairs > 0.5) & (pairs < 0.8)).all()


def test_volume_follows_volatility_and_is_persistent(markets):
    for market in markets:
        for candles in market.values():
            volume = candles["volume"].to_numpy()
            assert np.corrcoef(np.abs(log_returns(candles)), volume[1:])[0, 1] > 0.4
            assert 0.6 < autocorrelation(np.log(volume), 1) < 0.95


def test_ranges_are_those_of_a_brownian_path():
    # Feller (1951): the mean range of a Brownian path is sqrt(8 / pi) standard deviations, its mean
    # absolute change sqrt(2 / pi). Parkinson (1980): its mean squared range is 4 ln 2 variances.
    candles = synthetic_candles(50_000)
    log_range = np.log(candles["high"] / candles["low"]).to_numpy()[1:]
    returns = log_returns(candles)
    assert log_range.mean() / np.abs(returns).mean() == pytest.approx(2.0, rel=0.03)
    assert (log_range**2).mean() / (returns**2).mean() == pytest.approx(4 * math.log(2), rel=0.1)


# Nothing can be forecast, unless it was planted


def test_returns_do_not_forecast_returns(markets):
    # Given all sizes, the products r[t] r[t + lag] of returns with fair signs have fair signs of
    # their own.
    lags = (1, 2, 3, 8, 24, 168)
    bound = fair_coin_bound(len(markets) * len(SYMBOLS) ** 2 * len(lags) * 2)
    for market in markets:
        for earlier in market.values():
            for later in market.values():
                for lag in lags:
                    products = log_returns(earlier)[:-lag] * log_returns(later)[lag:]
                    assert self_normalised_sum(products) < bound
                    assert self_normalised_sum(np.sign(products)) < bound


def known_at_close(candles):
    """Signals anyone can compute at the close of each candle but the first; (n - 1,) each."""
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    return {
        "funding": candles["funding_rate"].to_numpy()[1:] - 1e-4,
        "open interest": np.diff(candles["open_interest"].to_numpy()),
        "volume": np.diff(candles["volume"].to_numpy()),
        "place in the range": (close - (high + low) / 2)[1:],
        "gap": candles["open"].to_numpy()[1:] - close[:-1],
        "momentum": close[1:] - pd.Series(close).ewm(span=20).mean().to_numpy()[1:],
    }


def test_nothing_else_in_the_frame_forecasts_returns(markets):
    # The sign of the next return is a fair coin whatever was known before, so the products of signs
    # are too.
    bound = fair_coin_bound(len(markets) * len(SYMBOLS) * 6)
    for market in markets:
        for candles in market.values():
            next_sign = np.sign(log_returns(candles)[1:])
            for name, known in known_at_close(candles).items():
                assert self_normalised_sum(np.sign(known[:-1]) * next_sign) < bound, name


def test_the_same_checks_notice_a_planted_signal_of_two_percent():
    candles = synthetic_candles(50_000, seed=1, signal_r2=0.02)
    returns = log_returns(candles)
    products = returns[:-1] * returns[1:]
    bound = fair_coin_bound(1000)
    assert self_normalised_sum(products) > bound
    assert self_normalised_sum(np.sign(products)) > bound
    assert (
        self_normalised_sum(
            np.sign(known_at_close(candles)["momentum"][:-1]) * np.sign(returns[1:])
        )
        > bound
    )


@pytest.mark.parametrize("signal_r2", [0.0, 0.01, 0.05, 0.3])
def test_ideal_forecast_explains_the_planted_share_of_variance(signal_r2):
    # The standard error of an AR(1) coefficient phi is sqrt((1 - phi^2) / n), that of phi^2 is 2
    # phi times it, at most 1 / sqrt(n) = 0.0045: the bound is three times that.
    clock, phi = synthetic._clock("1h", 50_000, "2025-01-01"), math.sqrt(signal_r2)
    market, own = (
        synthetic._draw_factor(np.random.default_rng(seed), clock, phi) for seed in (1, 2)
    )
    loading = synthetic.MARKET_LOADING
    scaled = loading * market.shock + math.sqrt(1 - loading**2) * own.shock
    assert scaled.var() == pytest.approx(1.0, abs=0.05)
    unexplained = scaled[1:] - phi * scaled[:-1]
    assert 1.0 - (unexplained**2).mean() / (scaled[1:] ** 2).mean() == pytest.approx(
        signal_r2, abs=0.0135
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_signal_shows_in_past_candles(seed):
    returns = pd.Series(log_returns(synthetic_candles(50_000, seed=seed, signal_r2=0.05)))
    volatility = np.sqrt((returns**2).ewm(span=48).mean())
    now, following = (returns / volatility)[100:-1], (returns.shift(-1) / volatility)[100:-1]
    assert 0.6 * 0.05 < now.corr(following) ** 2 < 1.1 * 0.05
    assert now.corr(following) > 0  # momentum


def test_planting_a_signal_leaves_the_volatility_alone():
    plain, planted = (
        log_returns(synthetic_candles(50_000, signal_r2=share)) for share in (0.0, 0.3)
    )
    assert planted.std() == pytest.approx(plain.std(), rel=0.05)


# Funding and open interest


@pytest.mark.parametrize("timeframe", ["15m", "1h", "4h", "8h"])
def test_funding_changes_with_the_candles_that_open_at_a_settlement_and_holds_in_between(timeframe):
    # A candle that closes at 08:00 does not know the settlement of 08:00; the one that opens then
    # does.
    candles = synthetic_candles(2000, timeframe=timeframe)
    changed = candles["funding_rate"].diff().to_numpy()[1:] != 0
    at_settlement = timestamps_ms(candles)[1:] % (8 * 3_600_000) == 0
    assert (changed == at_settlement).all()


def test_settlements_stamped_at_the_close_are_not_yet_known():
    # An 8h candle knows the settlement at its open, which follows the candle before and not its
    # own.
    candles = synthetic_candles(20_000, timeframe="8h")
    change = np.diff(candles["funding_rate"].to_numpy())
    returns = log_returns(candles)
    assert np.corrcoef(change[1:], returns[:-1])[0, 1] > 0.2
    assert self_normalised_sum(np.sign(change) * np.sign(returns)) < fair_coin_bound(1)


def test_funding_is_around_a_hundredth_of_a_percent_and_persistent(markets):
    for market in markets:
        funding = market["ETH/USDT"]["funding_rate"].to_numpy()[::8]
        assert funding.mean() == pytest.approx(1e-4, abs=3e-5)
        assert funding.std() == pytest.approx(1e-4, rel=0.25)
        assert autocorrelation(funding, 1) == pytest.approx(0.82, abs=0.05)


def test_open_interest_is_that_of_the_open_and_reverts_slowly(markets):
    for market in markets:
        candles = market["BTC/USDT"]
        level = np.log(candles["open_interest"].to_numpy())
        returns = log_returns(candles)
        assert np.corrcoef(np.diff(level)[1:], returns[:-1])[0, 1] > 0.1
        assert self_normalised_sum(np.sign(np.diff(level)) * np.sign(returns)) < fair_coin_bound(
            len(markets)
        )
        assert autocorrelation(level, 24) > 0.9
        assert np.abs(level - np.median(level)).max() < 2.0


# The same arguments, the same candles


def test_same_arguments_give_the_same_bits():
    first, second = (synthetic_market(SYMBOLS, "15m", 500, seed=9, signal_r2=0.1) for _ in range(2))
    for symbol in SYMBOLS:
        pd.testing.assert_frame_equal(first[symbol], second[symbol], check_exact=True)


@pytest.mark.slow
def test_another_process_draws_the_same_candles():
    code = (
        "from pipeline.candles.synthetic import synthetic_candles\n"
        "print(synthetic_candles(50, symbol='PEPE/USDT').drop(columns='timestamp').sum().tolist())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = synthetic_candles(50, symbol="PEPE/USDT").drop(columns="timestamp").sum().tolist()
    assert other.stdout.strip() == str(ours)


def test_a_symbol_does_not_depend_on_the_others_or_their_order():
    together = synthetic_market(SYMBOLS, n_candles=300)
    assert list(together) == list(SYMBOLS)
    for symbol in SYMBOLS:
        alone = synthetic_candles(300, symbol=symbol)
        pd.testing.assert_frame_equal(together[symbol], alone, check_exact=True)
    backwards = synthetic_market(SYMBOLS[::-1], n_candles=300)
    pd.testing.assert_frame_equal(together["ETH/USDT"], backwards["ETH/USDT"], check_exact=True)


def test_seeds_symbols_and_timeframes_are_markets_of_their_own():
    base = synthetic_candles(2000, seed=1)
    others = [synthetic_candles(2000, seed=2), synthetic_candles(2000, seed=1, timeframe="15m")]
    for other in others:
        # Independent returns correlate by about 1 / sqrt(n) = 0.022; five times that, for the fat
        # tails.
        assert abs(np.corrcoef(log_returns(base), log_returns(other))[0, 1]) < 0.11
    unknown = [synthetic_candles(1, symbol=symbol) for symbol in ("PEPE/USDT", "SHIB/USDT")]
    assert unknown[0]["open"][0] != unknown[1]["open"][0]


# Errors


@pytest.mark.parametrize("n_candles", [0, -1])
def test_fewer_than_one_candle_is_refused(n_candles):
    with pytest.raises(ValueError, match=f"n_candles is {n_candles}"):
        synthetic_candles(n_candles)


@pytest.mark.parametrize("signal_r2", [-0.01, 1.0, float("nan")])
def test_a_share_of_variance_outside_zero_to_one_is_refused(signal_r2):
    with pytest.raises(ValueError, match="signal_r2 is"):
        synthetic_candles(10, signal_r2=signal_r2)


def test_no_symbols_a_bare_string_and_unknown_timeframes_are_refused():
    with pytest.raises(ValueError, match=r"symbols is \[\]; pass a list of at least one pair"):
        synthetic_market([])
    with pytest.raises(ValueError, match="symbols is 'BTC/USDT'; pass a list"):
        synthetic_market("BTC/USDT")
    with pytest.raises(ValueError, match="unknown timeframe '7m'"):
        synthetic_candles(10, timeframe="7m")
