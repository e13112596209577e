"""An exchange that lies: another market's candles, swapped columns, a clock that is ahead. Nothing
of it is stored, or a word is said."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from config import SourceConfig
from data_fetcher import Fetch
from pipeline.candles import audit, belief, cross_check, fetch_cache, formats, store
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.job import ContradictionError, ExchangeError, Job
from pipeline.candles.schema import timestamps_ms, utc_from_ms
from tests import fetching
from tests.exchange_market import Market, Series
from tests.fetching import (
    BTC,
    ETH,
    HOUR_MS,
    LONG,
    MARKET,
    NOW_MS,
    VENUES,
    fetch_one,
    hold,
    truth,
    without,
)

exchange, foreign_hosts, limited, nothing_leaves, server = fetching.FIXTURES

DAY_MS = 24 * HOUR_MS
SINCE_MS = NOW_MS // HOUR_MS * HOUR_MS - 100 * HOUR_MS
OF_BTC = MARKET.listings[BTC].candles["1h"]
OF_ETH = MARKET.listings[ETH].candles["1h"]
PRICES = slice(0, 4)
SWAPPED = Series(OF_BTC.times, OF_BTC.numbers[:, [3, 1, 2, 0, 4]])


@pytest.fixture(autouse=True)
def this_machines_clock(monkeypatch):
    """Half past, as the exchange's, unless a test says else."""
    monkeypatch.setattr(fetch_cache, "time", SimpleNamespace(time=lambda: NOW_MS / 1000))
    monkeypatch.setattr("ccxt.Exchange.milliseconds", lambda *_: NOW_MS)


def changed(rows, columns, factor) -> Series:
    """BTC's candles, of which some rows and columns are multiplied."""
    numbers = OF_BTC.numbers.copy()
    numbers[rows, columns] *= factor
    return Series(OF_BTC.times, numbers)


def complete(server, directory, job, **options):
    return fetch_cache.complete(directory, "binance", [job], base_url=server.url, **options)[job]


# --- the clocks


@pytest.mark.parametrize("skew_ms", [35 * 60_000, DAY_MS, 400 * DAY_MS])
@pytest.mark.parametrize("venue", VENUES)
def test_an_exchange_whose_clock_is_ahead_gives_no_forming_candle(server, caplog, venue, skew_ms):
    server.skew_ms = skew_ms
    job = Job(BTC, "1h", n_candles=5)
    if skew_ms > 100 * DAY_MS:
        job = Job(BTC, "1h", since_ms=NOW_MS - 5 * HOUR_MS)
    found = fetch_one(server, job, venue, now_ms=None)
    assert_frame_equal(found, truth(job))
    assert "left out: no later one is there, and by this machine's clock it has not" in caplog.text


def test_an_exchange_whose_clock_is_ahead_has_no_forming_candle_stored(server, tmp_path):
    server.skew_ms = DAY_MS
    for since_ms in (NOW_MS - 300 * HOUR_MS, NOW_MS - 200 * HOUR_MS):
        complete(server, tmp_path, Job(BTC, "1h", since_ms=since_ms))
    kept = store.read_series(tmp_path, BTC, "1h")
    assert timestamps_ms(kept)[-1] + HOUR_MS <= NOW_MS


@pytest.mark.parametrize("days", [2, 20_000])
def test_where_this_machines_clock_is_behind_a_later_candle_shows_that_one_has_closed(
    server, caplog, monkeypatch, days
):
    monkeypatch.setattr("ccxt.Exchange.milliseconds", lambda *_: NOW_MS - days * DAY_MS)
    job = Job(BTC, "1h", n_candles=5)
    assert_frame_equal(fetch_one(server, job, now_ms=None), truth(job))
    assert "left out" not in caplog.text


# --- another series than the stored one


@pytest.mark.parametrize(
    "lie", [OF_ETH, changed(slice(None), PRICES, 1.02), SWAPPED], ids=["ETH", "2 %", "swapped"]
)
def test_candles_that_contradict_the_stored_ones_are_not_stored(server, tmp_path, lie):
    complete(server, tmp_path, Job(BTC, "1h", SINCE_MS, NOW_MS - 9 * HOUR_MS))
    kept = store.read_series(tmp_path, BTC, "1h")
    hold(server, lie)
    error = complete(server, tmp_path, Job(BTC, "1h", since_ms=SINCE_MS))
    assert isinstance(error, ExchangeError)
    assert "10 of 10 candles that BTCUSDT_1h.parquet holds have other prices there" in str(error)
    assert "nothing is stored" in str(error)
    assert_frame_equal(store.read_series(tmp_path, BTC, "1h"), kept)


def test_an_exchange_may_mend_a_few_candles_and_all_a_little(server, tmp_path, caplog):
    complete(server, tmp_path, Job(BTC, "1h", SINCE_MS))
    lie = changed(slice(None), [1], 1.001)
    lie.numbers[-5:-2, 1] *= 1.5
    hold(server, lie)
    assert complete(server, tmp_path, Job(BTC, "1h", SINCE_MS)).rewritten == 10
    assert "10 stored row(s) have other values" in caplog.text


# --- impossible series


@pytest.mark.parametrize("venue", VENUES)
def test_open_and_close_that_are_swapped_are_an_error(server, venue):
    hold(server, SWAPPED)
    with pytest.raises(ExchangeError, match=f"{venue}: open and close of .*are swapped.*another"):
        fetch_one(server, LONG, venue)


@pytest.mark.parametrize("factor", [9.0, 1 / 9, 2.5])
@pytest.mark.parametrize("venue", VENUES)
def test_one_candle_that_jumps_and_returns_is_left_out_as_a_gap(server, caplog, venue, factor):
    hold(server, changed(710, PRICES, factor))
    expected = truth(LONG)
    expected = expected[timestamps_ms(expected) != OF_BTC.times[710]].reset_index(drop=True)
    assert_frame_equal(fetch_one(server, LONG, venue), expected)
    assert "1 row(s) at an absurd price are left out as a gap, asked for twice" in caplog.text


def test_a_crash_that_recovers_in_the_next_candle_is_kept(server):
    lie = changed(710, [2, 3], 0.3)
    lie.numbers[711, [0, 2]] = lie.numbers[710, [3, 2]]
    market = hold(server, lie)
    assert_frame_equal(fetch_one(server, LONG), truth(LONG, market))


def test_a_price_that_stands_still_though_there_is_volume_is_told(server, caplog):
    lie = changed(0, PRICES, 1.0)
    lie.numbers[700:, :4] = lie.numbers[699, 3]
    market = hold(server, lie)
    assert_frame_equal(fetch_one(server, LONG), truth(LONG, market))
    assert "one and the same price for 599 candles in a row, though there is vol" in caplog.text


def test_a_price_that_stands_still_without_volume_is_no_news(server, caplog):
    lie = changed(0, PRICES, 1.0)
    lie.numbers[700:, :4], lie.numbers[700:, 4] = lie.numbers[699, 3], 0.0
    hold(server, lie)
    fetch_one(server, LONG)
    assert caplog.text == ""


def hours(open_, close, volume=1.0) -> pd.DataFrame:
    open_, close = np.array(open_, dtype=float), np.array(close, dtype=float)
    columns = {"open": open_, "high": np.maximum(open_, close), "low": np.minimum(open_, close)}
    times = utc_from_ms(np.arange(len(open_)) * HOUR_MS)
    return pd.DataFrame({"timestamp": times, **columns, "close": close, "volume": volume})


UP_AND_DOWN = np.array([10, 11, 12, 13, 12, 11, 10, 9, 8, 9] * 3 + [10.0])


def test_what_is_odd_about_a_series_by_hand():
    opens, closes = UP_AND_DOWN[:-1], UP_AND_DOWN[1:]
    assert belief.oddities(hours(opens, closes), "1h") == []
    [told] = belief.oddities(hours(closes, opens), "1h")
    assert "open and close look swapped" in told
    [told] = belief.oddities(hours(opens + np.arange(30) % 3, closes + np.arange(30) % 3), "1h")
    assert "of 30 candles open far from the close before; are they of one market?" in told
    [told] = belief.oddities(hours([5] * 30, [5] * 30), "1h")
    assert "one and the same price for 30 candles in a row" in told
    assert belief.oddities(hours([5] * 30, [5] * 30, volume=0.0), "1h") == []
    assert belief.oddities(hours(closes[:20], opens[:20]), "1h") == []  # too few to tell


def test_a_folder_of_swapped_candles_is_told_of(tmp_path, caplog):
    store.write_candles(hours(UP_AND_DOWN[1:], UP_AND_DOWN[:-1]), tmp_path, BTC, "1h")
    fetch_candles([BTC], "1h", source=SourceConfig(candles_dir=tmp_path))
    assert caplog.text.count("BTC/USDT: open and close look swapped") == 1
    assert "open and close look swapped" in audit.audit(tmp_path)["doubts"].item()


# --- a second source


def binance_lies(server, series: Series) -> None:
    """Other candles of BTC at Binance alone."""
    market = Market(MARKET.listings.values())
    market.listings[BTC] = replace(market.listings[BTC], candles={"1h": series})
    server.markets = {**server.markets, "binance": market}


def fetch_command(server, directory, **options) -> Fetch:
    places = {"base_url": server.url, "cache_dir": directory, "cross_check": "okx"}
    return Fetch((BTC,), candles=300, **{**places, **options})


def test_candles_that_another_exchange_confirms_are_stored(server, tmp_path, caplog):
    fetch_command(server, tmp_path).run()
    assert len(store.read_series(tmp_path / "binance", BTC, "1h")) == 300
    assert caplog.text == ""
    asked = [request for request in server.log if "candles" in request.path]
    assert cross_check.SAMPLES <= len(asked) <= cross_check.SAMPLES + 2


@pytest.mark.parametrize("lie", [OF_ETH, changed(slice(None), PRICES, 1.011)])
def test_candles_that_another_exchange_contradicts_are_an_error_and_not_stored(
    server, tmp_path, lie
):
    binance_lies(server, lie)
    with pytest.raises(ContradictionError) as caught:
        fetch_command(server, tmp_path).run()
    first = truth(Job(BTC, "1h", n_candles=300)).iloc[0]
    ours = lie.numbers[np.searchsorted(lie.times, int(first["timestamp"].timestamp() * 1000)), 3]
    values = f"{first['timestamp']:%Y-%m-%d %H:%M} ({ours:.12g} and {first['close']:.12g})"
    assert "20 of 20 closes of binance and okx differ by more than 1 %" in str(caught.value)
    assert values in str(caught.value)
    assert not (tmp_path / "binance" / "BTCUSDT_1h.parquet").exists()


def test_a_quote_in_usd_and_one_hour_of_a_crash_are_no_contradiction(server, tmp_path, caplog):
    lie = changed(slice(None), PRICES, 1.009)
    lie.numbers[-2] *= [1.05, 1.05, 1.05, 1.05, 1]
    lie.numbers[-3, [1, 3]] = lie.numbers[-2, 0]
    binance_lies(server, lie)
    fetch_command(server, tmp_path).run()
    assert "1 of 20 closes of binance and okx differ by more than 1 %" in caplog.text


def test_what_the_other_exchange_lacks_is_a_warning(server, tmp_path, caplog):
    series = without(slice(-200, None))
    other = Market(MARKET.listings.values())
    other.listings[BTC] = replace(other.listings[BTC], candles={"1h": series})
    server.markets = {**server.markets, "okx": other}
    fetch_command(server, tmp_path).run()
    assert "okx has 7 of 20 sampled candles of binance to compare with" in caplog.text
    other.listings.pop(BTC)
    fetch_command(server, tmp_path / "b").run()
    assert "okx has 0 of 20 sampled candles of binance to compare with" in caplog.text


def test_an_exchange_that_cannot_be_asked_confirms_nothing(server, tmp_path):
    server.blocked = {"okx"}
    with pytest.raises(ExchangeError, match="okx refuses"):
        fetch_command(server, tmp_path, exchange="binance").run()
    with pytest.raises(ValueError, match="--cross-check binance is where the candles come from"):
        fetch_command(server, tmp_path, exchange="binance", cross_check="binance").run()
    assert not (tmp_path / "binance" / "BTCUSDT_1h.parquet").exists()


def test_a_training_run_compares_what_it_trains_on_wherever_it_comes_from(server, tmp_path):
    source = SourceConfig(base_url=server.url, cache_dir=None, cross_check="okx")
    kept = fetch_candles([BTC], "1h", 100, source).candles[BTC]
    assert_frame_equal(kept, truth(Job(BTC, "1h", n_candles=100)))
    wrong = kept.assign(**{name: kept[name] * 2 for name in ("open", "high", "low", "close")})
    store.write_candles(wrong, tmp_path, BTC, "1h")
    assert len(formats.read_directory(tmp_path, BTC, "1h")) == 100
    with pytest.raises(ContradictionError, match="20 of 20 closes"):
        fetch_candles([BTC], "1h", 100, replace(source, candles_dir=tmp_path))
    binance_lies(server, changed(slice(None), PRICES, 2.0))
    with pytest.raises(ContradictionError, match="20 of 20 closes"):
        fetch_candles([BTC], "1h", 100, source)


def test_candles_that_nobody_confirms_are_not_replaced_by_synthetic_ones(server):
    server.blocked = {"binance", "binanceus", "okx"}
    source = SourceConfig(base_url=server.url, cache_dir=None, cross_check="okx")
    with pytest.raises((ExchangeError, ValueError)):
        fetch_candles([BTC], "1h", 100, source)
    with pytest.raises(ValueError, match="--source synthetic has nothing to do with --cross"):
        fetch_candles([BTC], "1h", 100, replace(source, source="synthetic"))


def test_a_folder_and_an_exchange_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is read, --exchange okx not asked; leave one of the two"):
        fetch_candles([BTC], "1h", 5, SourceConfig(candles_dir=tmp_path, exchange="okx"))
