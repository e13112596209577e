"""Many series at once, within the limits, from the market that is meant: the real ccxt, the
loopback exchange."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from config import TRADING_PAIRS
from pipeline.candles.exchange import fetch_many
from pipeline.candles.exchange_client import LIMITS, Allowance, allowance, open_exchange
from pipeline.candles.job import ExchangeError, GeoBlockError, Job, QuoteError, UnknownSymbolError
from pipeline.candles.schema import find_gaps, timestamps_ms
from tests import fetching
from tests.exchange_faults import Fault, FaultList
from tests.exchange_market import DAY_MS, Market, synthetic_exchange
from tests.fetching import (
    BTC,
    ETH,
    HOUR_MS,
    MARKET,
    NOW_MS,
    VENUES,
    fetch,
    fetch_ohlcv,
    fetch_one,
    refuse_to_sleep,
    truth,
)

exchange, foreign_hosts, limited, nothing_leaves, server = fetching.FIXTURES


# --- many at once
# -------------------------------------------------------------------------------------------


def test_22_pairs_in_two_timeframes_come_complete_and_exact_and_never_over_the_limit(limited):
    market = synthetic_exchange(
        TRADING_PAIRS, ("15m", "1h"), 1001, end=pd.Timestamp(MARKET.ends_ms, unit="ms")
    )
    now_ms = market.ends_ms + 900_000
    limited.markets["binance"], limited.now_ms = market, now_ms
    jobs = [
        Job(symbol, timeframe, n_candles=1000)
        for symbol in TRADING_PAIRS
        for timeframe in ("1h", "15m")
    ]
    # A machine that stands still for some seconds is no reason for another request.
    found = fetch(limited, jobs, now_ms=now_ms, timeout_s=30, sleep=refuse_to_sleep)
    assert list(found) == jobs
    for job in jobs:
        assert_frame_equal(found[job], truth(job, market, now_ms))
    assert (limited.n_429, limited.n_requests["binance"]) == (0, 45)


def test_series_are_fetched_side_by_side(server):
    server.latency_s = 1.0  # so long that a busy machine starts all of them meanwhile
    jobs = [Job(symbol, "1h", n_candles=n) for symbol in (BTC, ETH) for n in range(10, 18)]
    found = fetch(server, jobs, timeout_s=30)  # a busy machine may stand still for some seconds
    assert all(len(frame) == job.n_candles for job, frame in found.items())
    came_s = [request.time_s for request in server.log if request.path.endswith("klines")]
    assert (
        max(came_s) - min(came_s) < server.latency_s
    )  # the last one before the first was answered


def test_one_series_that_fails_does_not_sink_the_others(server):
    server.faults = FaultList(Fault("html", on="symbol=ETHUSDT"))
    jobs = [
        Job("NOPE/USDT", "1h", n_candles=5),
        Job(ETH, "1h", n_candles=5),
        Job(BTC, "7h", n_candles=5),
    ]
    good = Job(BTC, "1h", n_candles=5)
    found = fetch(server, [*jobs, good])
    assert_frame_equal(found[good], truth(good))
    assert isinstance(found[jobs[0]], UnknownSymbolError)
    assert "candles of ETH/USDT came as no JSON" in str(found[jobs[1]])
    assert "binance has no timeframe '7h'" in str(found[jobs[2]])


def test_an_exchange_that_cannot_be_reached_fails_every_series_and_is_asked_once(server):
    server.blocked = {"binance"}
    jobs = [Job(symbol, "1h", n_candles=5) for symbol in (BTC, ETH)]
    assert all(
        isinstance(error, GeoBlockError)
        for error in fetch(server, jobs, sleep=refuse_to_sleep).values()
    )
    assert server.n_requests == {"binance": 1}


def test_no_jobs_are_no_requests(server):
    assert fetch(server, []) == {}
    assert server.log == []


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({}, "exactly one"),
        ({"n_candles": 5, "since_ms": 0}, "exactly one"),
        ({"n_candles": 0}, "at least 1"),
        ({"kind": "funding", "n_candles": 5}, "since_ms instead"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused_when_it_is_written(ask, message):
    with pytest.raises(ValueError, match=message):
        Job(**{"symbol": BTC, "kind": "1h", **ask})


def test_pages_are_reported_with_their_series(server):
    told = []
    jobs = [Job(symbol, "1h", since_ms=NOW_MS - 1200 * HOUR_MS) for symbol in (BTC, ETH)]
    fetch(server, jobs, on_page=lambda job, n_rows: told.append((job, n_rows)))
    assert sorted(told, key=str) == sorted(
        [(job, n_rows) for job in jobs for n_rows in (1000, 199)], key=str
    )


def test_a_notebook_may_fetch_although_its_thread_runs_a_loop_already(server):
    job = Job(BTC, "1h", n_candles=5)

    async def cell():
        return fetch_one(server, job)

    assert_frame_equal(asyncio.run(cell()), truth(job))


def test_every_connection_is_closed_after_success_failure_and_retries(server):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        server.faults = FaultList(Fault("reset"), Fault("truncated"), Fault("html", on="ETHUSDT"))
        fetch(server, [Job(symbol, "1h", n_candles=5) for symbol in (BTC, ETH)])
        with pytest.raises(UnknownSymbolError):
            fetch_ohlcv(
                open_exchange("binance", base_url=server.url),
                "NOPE/USDT",
                "1h",
                n_candles=5,
                now_ms=NOW_MS,
            )
        gc.collect()
    assert [str(warning.message) for warning in caught if warning.category is ResourceWarning] == []
    assert [thread.name for thread in threading.enumerate() if thread.name == "exchange"] == []


def test_one_client_serves_several_calls_and_loads_the_markets_once(server):
    client = open_exchange("binance", base_url=server.url)
    for symbol in (BTC, ETH):
        job = Job(symbol, "1h", n_candles=20)
        assert_frame_equal(
            fetch_ohlcv(client, symbol, "1h", n_candles=20, now_ms=NOW_MS), truth(job)
        )
    assert [request.path for request in server.log].count("/api/v3/exchangeInfo") == 1


INTERRUPTED = """
import sys, time
from pipeline.candles.exchange import fetch_many
from pipeline.candles.job import Job
print("ready", flush=True)
began = time.monotonic()
try:
    fetch_many("binance", [Job(f"{coin}/USDT", "1h", n_candles=5) for coin in ("BTC", "ETH")],
        base_url=sys.argv[1],
               now_ms=int(sys.argv[2]), timeout_s=60)
except KeyboardInterrupt:
    print("stopped", time.monotonic() - began, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_fetch_at_once_although_the_exchange_hangs(server):
    server.latency_s = 20
    command = [sys.executable, "-W", "error", "-c", INTERRUPTED, server.url, str(NOW_MS)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 20
        while server.n_requests["binance"] == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        output, errors = process.communicate(timeout=15)
        assert time.monotonic() - sent < 5
    assert (output.split()[0], errors) == ("stopped", "")
    server.stopping.set()  # lets the request that is still answered go
    server.stopping.clear()


# --- within the limits
# --------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.floats(0, 5), st.sampled_from([0.2, 0.4, 4.0, 5.0])), min_size=1, max_size=120
    ),
    st.floats(1, 30),
    st.floats(0, 60),
)
@settings(deadline=None, max_examples=60)
def test_an_allowance_never_gives_more_in_a_window_than_its_rate_and_its_burst(
    asks, per_second, burst
):
    clock = [0.0]
    allowance = Allowance(per_second, burst, clock=lambda: clock[0])
    sent = []
    for pause, cost in asks:
        clock[0] += pause
        sent.append((clock[0] + allowance.reserve(cost), cost))
    times, costs = np.array(sent).T
    for start in times:
        for end in times[times >= start]:
            within = costs[(times >= start) & (times <= end)].sum()
            assert (
                within <= burst + per_second * (end - start) + 5.0 + 1e-6
            )  # the last request may overdraw


@pytest.mark.parametrize(("exchange", "kind"), LIMITS)
def test_a_saturated_quarter_of_an_hour_never_exceeds_a_limit_in_any_window(exchange, kind):
    most, seconds = LIMITS[exchange, kind]
    template, clock, sent = allowance(exchange, kind, "nowhere", 20.0), [0.0], []
    tested = Allowance(template.per_second, template.burst, clock=lambda: clock[0])
    while clock[0] < 900:
        clock[0] += tested.reserve(1)
        sent.append(clock[0])
    first = np.searchsorted(sent, np.array(sent) - seconds, side="right")
    assert (np.arange(len(sent)) - first + 1).max() <= 0.91 * most
    assert len(sent) > 0.79 * most * 900 / seconds


def test_after_a_429_nobody_asks_until_the_time_is_over(server):
    server.faults = FaultList(Fault("429", on="symbol=BTCUSDT", wait_s=1))
    jobs = [
        Job(BTC, "1h", n_candles=5),
        *(Job(ETH, "1h", since_ms=NOW_MS - n * DAY_MS) for n in range(2, 50)),
    ]
    found = fetch(server, jobs, sleep=None)
    assert all(isinstance(frame, pd.DataFrame) for frame in found.values())
    refused_s = next(request.time_s for request in server.log if request.status == 429)
    later = [request.time_s - refused_s for request in server.log if request.time_s > refused_s]
    in_flight = [wait for wait in later if wait < 0.3]
    assert len(in_flight) <= 15  # of the 16 at work
    assert min(wait for wait in later if wait >= 0.3) > 0.95


def at_once(server) -> int:
    """Requests of cost 1 that would be sent without waiting; uses them up."""
    allowance, n_sent = open_exchange("binance", base_url=server.url_of("binance")).allowance(), 0
    while allowance.reserve(1) == 0:
        n_sent += 1
    return n_sent


def test_after_a_429_the_burst_is_gone_because_somebody_else_has_used_it(limited):
    began = time.monotonic()
    limited.faults = FaultList(Fault("429", on="klines"))
    fetch_one(limited, Job(BTC, "1h", n_candles=5))
    assert (
        at_once(limited) < 16 * (time.monotonic() - began) + 1
    )  # of 115; 16 come back in a second


def test_runs_and_clients_of_one_process_share_the_limit_of_the_host(limited):
    began = time.monotonic()
    for _ in range(10):
        fetch(limited, [Job(BTC, "1h", n_candles=5)])
    spent = 10 * (
        4 + 0.4
    )  # exchangeInfo costs 4, klines 0.4; of 1,200 a minute a tenth may be asked at once
    assert at_once(limited) < 120 - spent + 16 * (time.monotonic() - began) + 1


# --- which market
# -------------------------------------------------------------------------------------------


@pytest.fixture
def renamed(server):
    """MATIC until 2024-09-10 03:00, POL from 2024-09-13 10:00, as on Binance."""
    market = synthetic_exchange((BTC, "MATIC/USDT"), ("1h",), 2000, end="2024-10-20")
    stopped, began = (
        int(pd.Timestamp(day).timestamp() * 1000)
        for day in ("2024-09-10 03:00", "2024-09-13 10:00")
    )
    whole = market.candles("MATIC/USDT", "1h", now_ms=market.ends_ms)
    market.rename("MATIC/USDT", "POL/USDT", stopped, began)
    server.markets = dict.fromkeys(server.markets, market)
    server.now_ms = market.ends_ms
    times = timestamps_ms(whole)
    return server, whole[(times < stopped) | (times >= began)].reset_index(drop=True)


@pytest.mark.parametrize("symbol", ["MATIC/USDT", "POL/USDT"])
@pytest.mark.parametrize("venue", VENUES)
def test_a_renamed_coin_is_one_series_with_its_gap_under_either_name(
    renamed, caplog, venue, symbol
):
    server, joined = renamed
    since_ms = int(timestamps_ms(joined)[100])
    found = fetch_one(server, Job(symbol, "1h", since_ms=since_ms), venue, now_ms=server.now_ms)
    assert_frame_equal(found, joined.iloc[100:].reset_index(drop=True))
    newest = fetch_one(server, Job(symbol, "1h", n_candles=1500), venue, now_ms=server.now_ms)
    assert_frame_equal(newest, joined.tail(1500).reset_index(drop=True))
    assert find_gaps(timestamps_ms(found), HOUR_MS)["missing"].tolist() == [
        79
    ]  # 3 days and 7 hours
    suffix = ":USDT" if venue == "binanceusdm" else ""
    assert found.attrs == {"exchange": venue, "market": f"MATIC/USDT{suffix} + POL/USDT{suffix}"}
    assert (
        f"MATIC/USDT{suffix} goes on as POL/USDT{suffix}; joined, 3.29 days are missing between"
        in caplog.text
    )


def test_of_a_renamed_coin_each_half_can_be_had_alone(renamed):
    server, joined = renamed
    times = timestamps_ms(joined)
    before = Job("POL/USDT", "1h", since_ms=int(times[5]), until_ms=int(times[50]))
    assert_frame_equal(
        fetch_one(server, before, now_ms=server.now_ms), joined.iloc[5:50].reset_index(drop=True)
    )
    after = Job("MATIC/USDT", "1h", n_candles=50)
    assert_frame_equal(
        fetch_one(server, after, now_ms=server.now_ms), joined.tail(50).reset_index(drop=True)
    )


def dollars(server) -> Market:
    """Let the exchange quote BTC in USD alone."""
    market = Market([replace(MARKET.listings[BTC], symbol="BTC/USD"), MARKET.listings[ETH]])
    server.markets = dict.fromkeys(server.markets, market)
    return market


def test_dollars_are_taken_for_tethers_with_a_notice_that_names_both(server, caplog):
    dollars(server)
    job = Job(BTC, "1h", n_candles=5)
    found = fetch_one(server, job, "binanceus")
    assert_frame_equal(found, truth(job))
    assert found.attrs["market"] == "BTC/USD"
    assert "binanceus has no BTC/USDT; BTC/USD is taken for it" in caplog.text


def test_dollars_are_an_error_of_their_own_where_they_are_not_wanted(server):
    dollars(server)
    with pytest.raises(
        QuoteError, match="binanceus quotes BTC in USD alone .BTC/USD.; choose another exchange"
    ):
        fetch_one(server, Job(BTC, "1h", n_candles=5), "binanceus", accept_usd=False)


def test_a_delisted_pair_gives_its_history_or_an_error_that_says_so(server, caplog):
    market = Market(MARKET.listings.values())
    stopped = int(MARKET.listings[BTC].candles["1h"].times[600])
    market.close(BTC, stopped)
    server.markets["binance"] = market
    job = Job(BTC, "1h", since_ms=NOW_MS - 1200 * HOUR_MS, until_ms=stopped)
    assert timestamps_ms(fetch_one(server, job))[-1] == stopped - HOUR_MS
    assert "binance no longer trades BTC/USDT" in caplog.text
    with pytest.raises(
        UnknownSymbolError, match="binance no longer trades BTC/USDT and has no 1h of it.*another"
    ):
        fetch_one(server, Job(BTC, "1h", since_ms=NOW_MS - 100 * HOUR_MS))


def test_a_removed_pair_is_unknown(server):
    market = Market(MARKET.listings.values())
    market.close(BTC, NOW_MS - HOUR_MS, is_removed=True)
    server.markets["binance"] = market
    with pytest.raises(
        UnknownSymbolError, match="binance has no market 'BTC/USDT'; did you mean ETH/USDT"
    ):
        fetch_one(server, Job(BTC, "1h", n_candles=5))


# --- proofs
# -------------------------------------------------------------------------------------------------


def test_the_guard_against_foreign_hosts_works(foreign_hosts):
    found = fetch_many("binance", [Job(BTC, "1h", n_candles=5)], sleep=refuse_to_sleep)
    assert isinstance(next(iter(found.values())), ExchangeError)
    assert foreign_hosts == ["api.binance.com"]
