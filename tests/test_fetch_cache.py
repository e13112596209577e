"""Stored series are completed through the real ccxt: both ends, gaps, kills between two pieces,
rewritten history."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from pipeline.candles import exchange_client, fetch_cache, sources, store
from pipeline.candles.job import ExchangeError, Job
from pipeline.candles.schema import timestamps_ms
from tests import fetching
from tests.exchange_faults import Fault, FaultList
from tests.exchange_market import Series
from tests.fetching import BTC, ETH, HOUR_MS, MARKET, NOW_MS, hold, truth, without

exchange, foreign_hosts, limited, nothing_leaves, server = fetching.FIXTURES


@pytest.fixture(autouse=True)
def present(monkeypatch):
    monkeypatch.setattr(fetch_cache, "time", SimpleNamespace(time=lambda: NOW_MS / 1000))


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(fetch_cache, "PIECE_ROWS", 100)


def complete(server, directory, *jobs, venue="binance"):
    done = fetch_cache.complete(directory, venue, jobs, base_url=server.url_of(venue))
    return done[jobs[0]] if len(jobs) == 1 else done


def stored(directory, symbol=BTC, kind="1h"):
    return store.read_series(directory, symbol, kind)


def hours_ago(hours: int) -> int:
    return (NOW_MS // HOUR_MS - hours) * HOUR_MS


def opens_asked_for(server) -> list[int]:
    """Hours before the present from which on candles were asked for, in order."""
    asked = [int(r.query["startTime"]) for r in server.log if r.path.endswith("klines")]
    return [(NOW_MS // HOUR_MS * HOUR_MS - ms) // HOUR_MS for ms in asked]


def test_a_series_that_is_not_stored_is_fetched_whole_in_pieces(server, tmp_path, small_pieces):
    done = complete(server, tmp_path, Job(BTC, "1h", since_ms=hours_ago(950)))
    assert done == fetch_cache.Completed(added=950)
    assert_frame_equal(stored(tmp_path), truth(Job(BTC, "1h", since_ms=hours_ago(950))))
    assert opens_asked_for(server) == [950 - 100 * piece for piece in range(10)]


def test_only_what_is_new_is_fetched_with_an_overlap_that_is_compared(server, tmp_path):
    complete(server, tmp_path, Job(BTC, "1h", hours_ago(500), hours_ago(20)))
    server.reset()
    done = complete(server, tmp_path, Job(BTC, "1h", hours_ago(500)))
    assert (done.added, done.checked, done.rewritten) == (20, fetch_cache.OVERLAP_ROWS, 0)
    assert opens_asked_for(server) == [30]
    assert_frame_equal(stored(tmp_path), truth(Job(BTC, "1h", since_ms=hours_ago(500))))


def test_the_older_end_grows_backward_so_that_a_kill_leaves_one_stretch(
    server, tmp_path, small_pieces, monkeypatch
):
    complete(server, tmp_path, Job(BTC, "1h", hours_ago(200)))
    writes, update_series = [], fetch_cache.update_series

    def killed_in_the_third_write(*args, **options):
        if len(writes) == 2:
            raise KeyboardInterrupt
        writes.append(args)
        return update_series(*args, **options)

    monkeypatch.setattr(fetch_cache, "update_series", killed_in_the_third_write)
    with pytest.raises(KeyboardInterrupt):
        complete(server, tmp_path, Job(BTC, "1h", hours_ago(900)))
    assert_frame_equal(stored(tmp_path), truth(Job(BTC, "1h", since_ms=hours_ago(300))))
    monkeypatch.setattr(fetch_cache, "update_series", update_series)
    assert complete(server, tmp_path, Job(BTC, "1h", hours_ago(900))).added == 600
    assert_frame_equal(stored(tmp_path), truth(Job(BTC, "1h", since_ms=hours_ago(900))))


def test_a_number_of_candles_counts_rows_however_many_are_missing_between(server, tmp_path):
    market = hold(server, without(slice(-150, -50)))
    wanted = Job(BTC, "1h", n_candles=200)
    assert complete(server, tmp_path, wanted).added == 200
    assert_frame_equal(fetch_cache.read(tmp_path, wanted), truth(wanted, market))
    assert complete(server, tmp_path, wanted).added == 0


def test_a_young_listing_gives_what_there_is(server, tmp_path, caplog):
    done = complete(server, tmp_path, Job(BTC, "1h", n_candles=5000))
    assert done.added == len(truth(Job(BTC, "1h", since_ms=0)))
    assert complete(server, tmp_path, Job(BTC, "1h", n_candles=5000)).added == 0


@pytest.mark.parametrize("since", [1000, 575], ids=["before", "inside"])
def test_what_is_off_the_grid_is_no_error_however_often_it_is_fetched(
    server, tmp_path, caplog, since
):
    series = MARKET.listings[BTC].candles["1h"]
    times = series.times.copy()
    late = slice(len(times) - 600, len(times) - 557)
    times[late] += 28 * 60_000 + 14_789
    hold(server, Series(times, series.numbers))
    job = Job(BTC, "1h", since_ms=hours_ago(since))
    first = complete(server, tmp_path, job)
    kept = stored(tmp_path)
    caplog.clear()
    again = complete(server, tmp_path, job)
    assert first.added == len(kept) > 500
    assert (again.added, again.rewritten) == (0, 0)
    assert_frame_equal(stored(tmp_path), kept)
    assert "other values" not in caplog.text


def test_widened_candles_are_stored_and_not_taken_for_rewritten_ones(server, tmp_path, caplog):
    series = MARKET.listings[BTC].candles["1h"]
    values = series.numbers.copy()
    values[:, 2] = np.maximum(values[:, 2], np.minimum(values[:, 0], values[:, 3]) * 1.001)
    values[:, 1] = np.maximum(values[:, 1], values[:, 2])
    hold(server, Series(series.times, values))
    older, newer = Job(BTC, "1h", hours_ago(300), hours_ago(20)), Job(BTC, "1h", hours_ago(300))
    complete(server, tmp_path, older)
    done = complete(server, tmp_path, newer)
    assert (done.added, done.checked, done.rewritten) == (20, 10, 0)
    kept = stored(tmp_path)
    assert (kept["low"] == kept[["open", "close"]].min(axis=1)).all()
    assert "other values" not in caplog.text


def test_rewritten_history_is_counted_and_warned_of(server, tmp_path, caplog):
    complete(server, tmp_path, Job(BTC, "1h", hours_ago(100)))
    series = MARKET.listings[BTC].candles["1h"]
    changed = series.numbers.copy()
    row = int(np.searchsorted(series.times, hours_ago(3)))
    changed[row, 4] += 1.0  # a volume
    hold(server, Series(series.times, changed))
    done = complete(server, tmp_path, Job(BTC, "1h", hours_ago(100)))
    assert (done.added, done.checked, done.rewritten) == (0, fetch_cache.OVERLAP_ROWS, 1)
    assert (
        "1 stored row(s) have other values in BTC/USDT 1h from binance; the new ones replace them"
        in caplog.text
    )


def test_one_series_that_fails_sinks_no_other_and_keeps_what_is_stored(
    server, tmp_path, monkeypatch
):
    monkeypatch.setattr(exchange_client, "RETRY_WAITS_S", ())
    complete(server, tmp_path, Job(ETH, "1h", hours_ago(450), hours_ago(250)))
    server.reset(FaultList(Fault("503", on="symbol=ETHUSDT")))
    jobs = [Job(symbol, "1h", hours_ago(450)) for symbol in (BTC, ETH)]
    answers = complete(server, tmp_path, *jobs)
    assert answers[jobs[0]].added == 450
    assert isinstance(answers[jobs[1]], ExchangeError)
    assert len(stored(tmp_path, ETH)) == 200
    server.reset()
    assert complete(server, tmp_path, jobs[1]).added == 250
    assert_frame_equal(stored(tmp_path, ETH), truth(Job(ETH, "1h", since_ms=hours_ago(450))))


def test_a_damaged_file_is_that_series_error_alone(server, tmp_path):
    (tmp_path / "BTCUSDT_1h.parquet").write_bytes(b"PAR1")
    jobs = [Job(symbol, "1h", hours_ago(50)) for symbol in (BTC, ETH)]
    answers = complete(server, tmp_path, *jobs)
    assert "not a readable parquet file" in str(answers[jobs[0]])
    assert answers[jobs[1]].added == 50


def test_nothing_at_all_is_an_error_that_names_symbol_and_venue(server, tmp_path):
    hold(server, without(slice(-101, None)))
    error = complete(server, tmp_path, Job(BTC, "1h", hours_ago(50)))
    assert (
        isinstance(error, ValueError)
        and "BTC/USDT: no 1h candles" in str(error)
        and "binance" in str(error)
    )
    assert not (tmp_path / "BTCUSDT_1h.parquet").exists()


def test_funding_lies_beside_spot_candles_and_notes_its_own_venue(server, tmp_path):
    complete(server, tmp_path, Job(BTC, "1h", hours_ago(400)), Job(BTC, "funding", hours_ago(400)))
    series = {one.kind: one.venue for one in store.list_series(tmp_path)}
    assert series == {"1h": "binance", "funding": "binanceusdm"}
    expected = MARKET.published(BTC, "funding", now_ms=NOW_MS, since_ms=hours_ago(400))
    assert_frame_equal(stored(tmp_path, kind="funding"), expected)


def test_a_clock_that_is_behind_keeps_nothing_from_being_fetched(server, tmp_path, monkeypatch):
    complete(server, tmp_path, Job(BTC, "1h", hours_ago(300), hours_ago(20)))
    monkeypatch.setattr(fetch_cache, "time", SimpleNamespace(time=lambda: hours_ago(40) / 1000))
    assert complete(server, tmp_path, Job(BTC, "1h", hours_ago(300))).added == 20


def test_an_update_asks_once_for_each_series(server, tmp_path):
    jobs = [Job(symbol, "1h", hours_ago(300)) for symbol in (BTC, ETH)]
    complete(server, tmp_path, *jobs)
    server.reset()
    complete(server, tmp_path, *(replace(job, since_ms=NOW_MS) for job in jobs))
    assert sum(request.path.endswith("klines") for request in server.log) == 2


def test_a_folder_gives_what_the_source_gives(server, tmp_path):
    job = Job(BTC, "1h", hours_ago(400), hours_ago(50))
    plain = fetch_cache.fetch_through(None, "binance", [job], base_url=server.url)[job]
    through = fetch_cache.fetch_through(tmp_path, "binance", [job], base_url=server.url)[job]
    assert_frame_equal(plain, through)
    longer = replace(job, since_ms=hours_ago(600), until_ms=None)
    fetch_cache.complete(tmp_path, "binance", [longer], base_url=server.url)
    assert_frame_equal(fetch_cache.read(tmp_path, job), plain)


def test_the_span_of_a_long_series_is_read_from_its_ends(tmp_path, monkeypatch):
    from tests.store_kills import make_series

    monkeypatch.setattr(store, "BLOCK_ROWS", 10)
    monkeypatch.setattr(store, "WHOLE_ROWS", 20)
    rows = make_series(65)
    for start in range(0, 65, 13):
        store.update_series(tmp_path, BTC, "1m", rows.iloc[start : start + 13], venue="binance")
    times = timestamps_ms(rows)
    assert store.find_span(tmp_path, BTC, "1m") == store.Span(int(times[0]), int(times[-1]), 65)
    assert store.find_span(tmp_path, ETH, "1m") is None


def test_sources_that_are_no_exchanges_are_fetched_in_pieces_too(
    tmp_path, monkeypatch, small_pieces, caplog
):
    caplog.set_level(logging.INFO)
    asked = []

    def fetch_yahoo_candles(job, *, base_url):
        asked.append(job)
        rows = truth(replace(job, until_ms=None))
        is_closed = timestamps_ms(rows) + HOUR_MS <= (job.until_ms or NOW_MS)
        return rows[is_closed].reset_index(drop=True)

    monkeypatch.setattr(sources.yahoo, "fetch_yahoo_candles", fetch_yahoo_candles)
    job = Job(BTC, "1h", hours_ago(250))
    assert fetch_cache.complete(tmp_path, "yahoo", [job])[job].added == 250
    assert len(asked) == 3
    assert store.list_series(tmp_path)[0].venue == "yahoo"
    funding = Job(BTC, "funding", hours_ago(250))
    assert "yahoo has no funding; use one of binanceusdm" in str(
        sources.fetch("yahoo", [funding])[funding]
    )


def test_a_source_that_is_out_of_reach_is_not_waited_for_once_a_symbol(monkeypatch):
    asked = []

    def out_of_reach(job, **_):
        asked.append(job.symbol)
        raise ExchangeError("yahoo: no answer in 10 s; check the network")

    monkeypatch.setattr(sources.yahoo, "fetch_yahoo_candles", out_of_reach)
    jobs = [Job(symbol, "1h", n_candles=5) for symbol in (BTC, ETH, "SOL/USDT", "XRP/USDT")]
    answers = sources.fetch("yahoo", jobs)
    assert asked == [BTC, ETH]
    assert all(isinstance(answers[job], ExchangeError) for job in jobs)
