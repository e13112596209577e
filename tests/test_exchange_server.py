"""The loopback exchange: the real ccxt finds the truth on it, and its limits and faults are what
they say."""

import asyncio
import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import ccxt
import ccxt.async_support
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from pipeline.candles.exchange_client import open_exchange, replace_host
from pipeline.candles.schema import utc_from_ms
from pipeline.candles.store import write_candles
from tests.exchange_faults import Fault, FaultList
from tests.exchange_market import (
    DAY_MS,
    Listing,
    Market,
    Series,
    market_of,
    read_market,
    synthetic_exchange,
)
from tests.exchange_server import ExchangeServer
from tests.fetching import fetch_ohlcv

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
N_HOURS = 2700
NOW = START + (N_HOURS - 1) * HOUR + HOUR // 4  # the last candle has run for a quarter of its hour


def hourly(n: int = N_HOURS, price: float = 100.0, start: int = START) -> pd.DataFrame:
    """Candles whose prices name the hour: the candle of hour 7 opens at 107, closes at 109, between
    105 and 113."""
    open_ = price + np.arange(n)
    prices = {"open": open_, "high": open_ + 6, "low": open_ - 2, "close": open_ + 2}
    return pd.DataFrame(
        {"timestamp": utc_from_ms(start + HOUR * np.arange(n)), **prices, "volume": open_ / 8}
    )


def make_market() -> Market:
    market = market_of({"BTC/USDT": {"1h": hourly()}, "ETH/USDT": {"1h": hourly(price=5000.0)}})
    settled, observed = (
        START + 8 * HOUR * np.arange(N_HOURS // 8),
        START + HOUR * np.arange(N_HOURS),
    )
    funding = Series(settled, 1e-7 * np.arange(1.0, len(settled) + 1)[:, None])
    open_interest = Series(observed, 1e6 * np.arange(1.0, N_HOURS + 1)[:, None])
    listing = market.listings["BTC/USDT"].publishing("funding", funding)
    market.listings["BTC/USDT"] = listing.publishing("open_interest", open_interest)
    return market


@pytest.fixture
def server():
    with ExchangeServer(make_market(), now_ms=NOW, hang_s=0.5) as server:
        yield server


def ask(server: ExchangeServer, path: str, **query) -> tuple[int, http.client.HTTPMessage, Any]:
    """Status, headers and decoded body of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", f"{path}?{urlencode(query)}")
        response = connection.getresponse()
        body = response.read().decode()
    finally:
        connection.close()
    return response.status, response.headers, json.loads(body) if body[:1] in "[{" else body


def ask_klines(server: ExchangeServer, **query) -> list:
    return ask(server, "/api/v3/klines", **{"symbol": "BTCUSDT", "interval": "1h", **query})[2]


def ask_okx(server: ExchangeServer, name: str = "candles", **query) -> list:
    return ask(server, f"/api/v5/market/{name}", **{"instId": "BTC-USDT", "bar": "1H", **query})[2][
        "data"
    ]


def hours(rows: list) -> list[int]:
    return [(int(row[0]) - START) // HOUR for row in rows]


def open_plain(name: str, url: str) -> ccxt.Exchange:
    """ccxt's synchronous client, as anybody uses it."""
    kind = "linear" if name == "binanceusdm" else "spot"
    exchange = getattr(ccxt, name)({"options": {"fetchMarkets": {"types": [kind]}}})
    exchange.urls["api"] = replace_host(exchange.urls["api"], url)
    return exchange


def open_okx_swaps(url: str) -> ccxt.okx:
    exchange = ccxt.okx({"options": {"defaultType": "swap", "fetchMarkets": {"types": ["swap"]}}})
    exchange.urls["api"] = {"rest": url}
    return exchange


# --- through ccxt
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["binance", "binanceus", "binanceusdm", "okx"])
def test_ccxt_pages_through_the_candles_and_finds_the_truth(server, name):
    exchange = open_exchange(name, base_url=server.url_of(name))
    candles = fetch_ohlcv(exchange, "BTC/USDT", "1h", since_ms=START, now_ms=NOW)
    assert_frame_equal(candles, server.markets[name].candles("BTC/USDT", "1h", now_ms=NOW))
    assert len(candles) == N_HOURS - 1
    n_pages = sum("candles" in request.path or "klines" in request.path for request in server.log)
    assert n_pages == {"okx": 9}.get(name, 3)  # of 300 and 1000
    assert server.n_requests == {name: n_pages + 1}
    assert {request.status for request in server.log} == {200}


def test_volumes_of_okx_swaps_are_in_coins_though_it_counts_contracts(server):
    exchange = open_okx_swaps(server.url)
    rows = exchange.fetch_ohlcv("BTC/USDT:USDT", "1h", START, 2)
    assert rows == [
        [START, 100.0, 106.0, 98.0, 102.0, 12.5],
        [START + HOUR, 101.0, 107.0, 99.0, 103.0, 12.625],
    ]
    assert ask_okx(server, "history-candles", instId="BTC-USDT-SWAP", after=START + HOUR)[0][
        5:7
    ] == ["1250.0", "12.5"]


def test_ccxt_pages_forward_through_the_funding_of_binance(server):
    exchange = open_plain("binanceusdm", server.url)
    rates, since = [], START
    while page := exchange.fetch_funding_rate_history("BTC/USDT:USDT", since, 100):
        rates += [[rate["timestamp"], rate["fundingRate"]] for rate in page]
        since = rates[-1][0] + 1
    assert rates == [[START + 8 * HOUR * k, 1e-7 * (k + 1)] for k in range(N_HOURS // 8)]


def test_ccxt_pages_backward_through_three_months_of_funding_of_okx(server):
    exchange = open_okx_swaps(server.url)
    rates: list = []
    while page := exchange.fetch_funding_rate_history(
        "BTC/USDT:USDT", None, 100, {"after": rates[0][0]} if rates else {}
    ):
        rates = [[rate["timestamp"], rate["fundingRate"]] for rate in page] + rates
    truth = server.markets["okx"].published(
        "BTC/USDT", "funding", now_ms=NOW, since_ms=NOW - 90 * DAY_MS
    )
    assert [rate for _, rate in rates] == truth["funding_rate"].tolist()
    assert len(rates) == 337 - 68  # settlement 68 is the first after hour 2699.25 - 90 * 24


@pytest.mark.parametrize("name", ["binanceusdm", "okx"])
def test_ccxt_fetches_the_open_interest_of_the_last_days_in_usd(server, name):
    exchange = open_okx_swaps(server.url) if name == "okx" else open_plain(name, server.url)
    exchange.load_markets()
    since = START + (N_HOURS - 100) * HOUR
    rows = exchange.fetch_open_interest_history("BTC/USDT:USDT", "1h", since, 200, {"until": NOW})
    assert [row["openInterestValue"] for row in rows] == [
        1e6 * hour for hour in range(N_HOURS - 99, N_HOURS + 1)
    ]
    if name == "binanceusdm":  # which says it in coins too, at the price of that instant
        assert rows[0]["openInterestAmount"] == 1e6 * (N_HOURS - 99) / (100 + N_HOURS - 100)


def test_concurrent_fetches_of_asynchronous_ccxt_find_the_truth():
    market = synthetic_exchange(["BTC/USDT", "ETH/USDT", "SOL/USDT"], ["15m", "1h"], 700)
    now_ms = market.ends_ms + 1

    async def fetch(url: str) -> dict:
        # closed here, since releases of ccxt differ in what closes a session of their own
        async with aiohttp.ClientSession() as session:
            options = {"fetchMarkets": {"types": ["spot"]}}
            exchange = ccxt.async_support.binance({"session": session, "options": options})
            exchange.urls["api"] = {
                name: api.replace("https://api.binance.com", url)
                for name, api in exchange.urls["api"].items()
            }
            try:
                await exchange.load_markets()
                pairs = [
                    (symbol, timeframe)
                    for symbol in exchange.symbols
                    for timeframe in ("15m", "1h")
                ]
                fetches = [
                    exchange.fetch_ohlcv(symbol, timeframe, None, 700)
                    for symbol, timeframe in pairs
                ]
                return dict(zip(pairs, await asyncio.gather(*fetches), strict=True))
            finally:
                await exchange.close()

    with ExchangeServer(market, now_ms=now_ms) as server:
        fetched = asyncio.run(fetch(server.url))
    assert len(fetched) == 6
    for (symbol, timeframe), rows in fetched.items():
        truth = (
            market.candles(symbol, timeframe, now_ms=now_ms).drop(columns="timestamp").to_numpy()
        )
        assert np.array_equal(np.array(rows)[: len(truth), 1:], truth)


def test_a_symbol_that_the_exchange_does_not_have_is_said_so(server):
    assert ask(server, "/api/v3/klines", symbol="XYZUSDT", interval="1h")[::2] == (
        400,
        {"code": -1121, "msg": "Invalid symbol."},
    )
    assert ask(server, "/api/v5/market/candles", instId="XYZ-USDT", bar="1H")[2]["code"] == "51001"
    exchange = open_plain("binance", server.url)
    exchange.load_markets()
    exchange.markets["XYZ/USDT"] = {
        **exchange.markets["BTC/USDT"],
        "id": "XYZUSDT",
        "symbol": "XYZ/USDT",
    }
    with pytest.raises(ccxt.BadSymbol):
        exchange.fetch_ohlcv("XYZ/USDT", "1h")


# --- what a page holds
# --------------------------------------------------------------------------------------


def test_binance_answers_from_start_to_end_inclusive_or_with_the_newest():
    with ExchangeServer(market_of({"BTC/USDT": {"1h": hourly()}}), now_ms=NOW) as server:
        assert hours(ask_klines(server, startTime=START + 3 * HOUR, endTime=START + 6 * HOUR)) == [
            3,
            4,
            5,
            6,
        ]
        assert hours(ask_klines(server, startTime=START + 3 * HOUR + 1, limit=2)) == [4, 5]
        assert hours(ask_klines(server, endTime=START + 6 * HOUR, limit=2)) == [5, 6]
        assert hours(ask_klines(server)) == list(range(N_HOURS - 500, N_HOURS))
        assert len(ask_klines(server, limit=5000)) == 1000
        assert (
            len(ask(server, "/fapi/v1/klines", symbol="BTCUSDT", interval="1h", limit=5000)[2])
            == 1500
        )


def test_okx_answers_newest_first_strictly_between_before_and_after(server):
    assert hours(
        ask_okx(server, "history-candles", before=START + 3 * HOUR, after=START + 6 * HOUR)
    ) == [5, 4]
    assert hours(ask_okx(server, "history-candles", after=START + 6 * HOUR, limit=2)) == [5, 4]
    assert hours(ask_okx(server, before=START + 3 * HOUR, limit=2)) == [N_HOURS - 1, N_HOURS - 2]
    assert len(ask_okx(server, limit=5000)) == 300


def test_okx_keeps_the_newest_1440_candles_apart_from_older_ones(server):
    assert ask_okx(server, after=START + (N_HOURS - 1440) * HOUR) == []
    assert hours(ask_okx(server, after=START + (N_HOURS - 1438) * HOUR)) == [
        N_HOURS - 1439,
        N_HOURS - 1440,
    ]


def test_binance_refuses_open_interest_older_than_its_month(server):
    query = {"symbol": "BTCUSDT", "period": "1h", "startTime": NOW - 31 * DAY_MS}
    assert ask(server, "/futures/data/openInterestHist", **query)[::2] == (
        400,
        {"code": -1130, "msg": "parameter 'startTime' is invalid."},
    )
    query["startTime"], query["endTime"] = NOW - 30 * DAY_MS, NOW - 29 * DAY_MS
    rows = ask(server, "/futures/data/openInterestHist", **query, limit=500)[2]
    assert [row["timestamp"] for row in rows] == [
        START + HOUR * k for k in range(N_HOURS - 720, N_HOURS - 696)
    ]
    every_4_hours = ask(server, "/futures/data/openInterestHist", **{**query, "period": "4h"})[2]
    assert len(every_4_hours) == 6


def test_the_forming_candle_comes_last_as_it_stands_and_later_ones_do_not_exist(server):
    opened = 100.0 + N_HOURS - 1
    [row] = ask_klines(server, limit=1)
    # A quarter of the way from open to close (+2), and of the way from there to the extremes (+6
    # and -2).
    assert [float(value) for value in row[1:6]] == [
        opened,
        opened + 1.875,
        opened - 0.5,
        opened + 0.5,
        opened / 32,
    ]
    assert ask_okx(server, limit=2)[0][8] == "0"
    assert ask_okx(server, limit=2)[1][8] == "1"
    server.now_ms = START + 10 * HOUR - 1
    assert hours(ask_klines(server)) == list(range(10))
    server.now_ms = START + 10 * HOUR
    assert hours(ask_klines(server)) == list(range(11))
    closed, formed = ask_klines(server, limit=2)
    assert [float(value) for value in closed[1:6]] == [109.0, 115.0, 107.0, 111.0, 109 / 8]
    assert [float(value) for value in formed[1:6]] == [110.0, 110.0, 110.0, 110.0, 0.0]


def test_the_exchange_tells_the_time_of_its_truth(server):
    assert open_plain("binance", server.url).fetch_time() == NOW
    assert open_plain("binanceusdm", server.url).fetch_time() == NOW
    assert open_plain("okx", server.url).fetch_time() == NOW
    assert ask(server, "/api/v3/time")[1]["Date"] == "Mon, 22 Apr 2024 11:15:00 GMT"


def test_a_renamed_pair_stops_keeps_its_history_and_goes_on_under_its_new_name():
    market = market_of({"MATIC/USDT": {"1h": hourly()}})
    market.rename("MATIC/USDT", "POL/USDT", START + 10 * HOUR, START + 13 * HOUR)
    with ExchangeServer(market, now_ms=START + 12 * HOUR) as server:
        exchange = open_plain("binance", server.url)
        assert list(exchange.load_markets()) == ["MATIC/USDT"]
        assert not exchange.market("MATIC/USDT")["active"]
        server.now_ms = START + 15 * HOUR
        assert {
            symbol: market["active"]
            for symbol, market in exchange.load_markets(reload=True).items()
        } == {"MATIC/USDT": False, "POL/USDT": True}
        assert hours(ask_klines(server, symbol="MATICUSDT")) == list(range(10))
        assert hours(ask_klines(server, symbol="POLUSDT")) == [13, 14, 15]


def test_a_removed_pair_is_unknown_a_young_one_is_not_listed_yet_and_usd_has_no_perpetual():
    frames = {
        "GONE/USDT": hourly(100),
        "YOUNG/USDT": hourly(100, start=START + 50 * HOUR),
        "BTC/USD": hourly(100),
    }
    market = market_of({symbol: {"1h": frame} for symbol, frame in frames.items()})
    market.close("GONE/USDT", START + 20 * HOUR, is_removed=True)
    with ExchangeServer(market, now_ms=START + 19 * HOUR) as server:
        assert open_plain("binance", server.url).load_markets().keys() == {"GONE/USDT", "BTC/USD"}
        server.now_ms = START + 60 * HOUR
        assert open_plain("okx", server.url).load_markets().keys() == {"YOUNG/USDT", "BTC/USD"}
        assert open_plain("binanceusdm", server.url).load_markets().keys() == {"YOUNG/USDT:USDT"}
        assert ask_klines(server, symbol="GONEUSDT")["code"] == -1121
        assert hours(ask_klines(server, symbol="YOUNGUSDT", startTime=START)) == list(range(50, 61))


def test_a_year_of_minutes_is_served_from_anywhere():
    n, minute = 525_600, 60_000
    numbers = np.repeat(np.arange(1.0, n + 1)[:, None], 5, axis=1)
    listing = Listing("BTC/USDT", {"1m": Series(START + minute * np.arange(n), numbers)})
    with ExchangeServer(Market([listing]), now_ms=START + n * minute) as server:
        rows = ask_klines(server, interval="1m", startTime=START + 300_000 * minute, limit=1000)
    assert [float(row[4]) for row in rows] == list(range(300_001, 301_001))


# --- limits
# -------------------------------------------------------------------------------------------------


def test_6000_weight_in_a_minute_pass_and_the_next_request_waits_for_the_minute_to_end():
    clock = [120.0]
    with ExchangeServer(make_market(), now_ms=NOW, clock=lambda: clock[0]) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)

        def weigh(path: str) -> tuple[int, str | None, str | None]:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return (
                response.status,
                response.headers["X-MBX-USED-WEIGHT-1M"],
                response.headers["Retry-After"],
            )

        statuses = {weigh("/api/v3/exchangeInfo")[0] for _ in range(299)}  # 20 each
        assert (statuses, server.n_429) == ({200}, 0)
        for used in range(5982, 6002, 2):
            assert weigh("/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=1") == (
                200,
                str(used),
                None,
            )
        clock[0] += 45.5
        assert weigh("/api/v3/time") == (429, "6001", "15")
        clock[0] += 14.5
        assert weigh("/api/v3/time") == (200, "1", None)
        assert (server.n_429, server.n_418) == (1, 0)
        connection.close()


def test_who_goes_on_after_429_is_banned_for_two_minutes_and_ccxt_says_so():
    clock = [0.0]
    with ExchangeServer(
        make_market(), now_ms=NOW, limits={"binance": (20, 60.0)}, clock=lambda: clock[0]
    ) as server:
        exchange = open_plain("binance", server.url)
        exchange.load_markets()
        for _ in range(10):
            with pytest.raises(ccxt.DDoSProtection, match="429"):
                exchange.fetch_time()
        with pytest.raises(ccxt.DDoSProtection, match="418.*banned"):
            exchange.fetch_time()
        clock[0] = 119.5  # another minute, but the ban goes on
        assert ask(server, "/api/v3/time")[1]["Retry-After"] == "1"
        assert ask(server, "/fapi/v1/time")[0] == 200
        clock[0] = 120.0
        assert ask(server, "/api/v3/time")[0] == 200
    assert (server.n_429, server.n_418) == (10, 2)


def test_futures_weigh_candles_by_their_number_and_count_funding_and_open_interest_apart():
    with ExchangeServer(make_market(), now_ms=NOW, clock=lambda: 0.0) as server:
        used = []
        for limit in (99, 100, 499, 500, 1000, 1001):
            reply = ask(server, "/fapi/v1/klines", symbol="BTCUSDT", interval="1h", limit=limit)
            used.append(int(reply[1]["X-MBX-USED-WEIGHT-1M"]))
        assert np.diff([0, *used]).tolist() == [1, 2, 2, 5, 5, 10]
        server.limits = {
            **server.limits,
            "binanceusdm fundingRate": (2, 300.0),
            "binanceusdm openInterestHist": (1, 300.0),
        }
        assert [ask(server, "/fapi/v1/fundingRate", symbol="BTCUSDT")[0] for _ in range(3)] == [
            200,
            200,
            429,
        ]
        query = {"symbol": "BTCUSDT", "period": "1h"}
        assert ask(server, "/futures/data/openInterestHist", **query)[0] == 200


def test_okx_allows_20_pages_of_old_candles_in_two_seconds():
    with ExchangeServer(make_market(), now_ms=NOW, clock=lambda: 0.0) as server:
        path, query = (
            "/api/v5/market/history-candles",
            {"instId": "BTC-USDT", "bar": "1H", "limit": 1},
        )
        statuses = [ask(server, path, **query)[0] for _ in range(21)]
        assert statuses == [200] * 20 + [429]
        assert ask(server, "/api/v5/market/candles", **query)[0] == 200
        assert ask(server, path, **query)[2]["code"] == "50011"


# --- the server itself
# --------------------------------------------------------------------------------------


def test_twenty_clients_at_once_wait_no_longer_than_one():
    with (
        ExchangeServer(make_market(), now_ms=NOW, latency_s=0.5) as server,
        ThreadPoolExecutor(20) as pool,
    ):
        began = time.monotonic()
        replies = list(pool.map(lambda _: ask(server, "/api/v3/time")[0], range(20)))
        assert 0.5 <= time.monotonic() - began < 5.0  # one after another takes 10
    assert replies == [200] * 20
    assert server.n_requests == {"binance": len(server.log)}


def test_the_server_ends_at_once_with_its_threads_though_clients_wait_and_keep_connections():
    before = set(threading.enumerate())
    server = ExchangeServer(make_market(), now_ms=NOW, faults=FaultList(Fault("hang")), hang_s=60.0)
    with server:
        hanging = http.client.HTTPConnection("127.0.0.1", server.port)
        hanging.request("GET", "/api/v3/time")
        while not server.applied:
            time.sleep(0.005)
        kept = http.client.HTTPConnection("127.0.0.1", server.port)
        kept.request("GET", "/api/v3/time")
        assert kept.getresponse().read()
        began = time.monotonic()
    assert time.monotonic() - began < 10.0  # of the 60 that the answer hangs
    assert set(threading.enumerate()) == before
    hanging.close(), kept.close()
    with pytest.raises(ConnectionRefusedError):
        ask(server, "/api/v3/time")


def test_a_directory_of_candle_files_becomes_a_market_and_can_be_moved_in_time(tmp_path):
    write_candles(hourly(30), tmp_path, "BTC/USDT", "1h")
    write_candles(hourly(30, price=7.0), tmp_path, "ETH/USD", "1h")
    funding = pd.DataFrame(
        {"timestamp": utc_from_ms(START + 4 * HOUR * np.arange(5)), "funding_rate": 1e-4}
    )
    funding.to_parquet(tmp_path / "BTCUSDT_funding.parquet")
    market = read_market(tmp_path)
    assert set(market.listings) == {"BTC/USDT", "ETH/USD"}
    assert_frame_equal(
        market.candles("ETH/USD", "1h", now_ms=START + 30 * HOUR), hourly(30, price=7.0)
    )
    assert_frame_equal(market.published("BTC/USDT", "funding", now_ms=START + 16 * HOUR), funding)
    later = market.shifted(DAY_MS)
    assert_frame_equal(
        later.candles("BTC/USDT", "1h", now_ms=NOW), hourly(30, start=START + DAY_MS)
    )
    assert int(later.listings["BTC/USDT"].funding.times[0]) == START + DAY_MS
    with pytest.raises(ValueError, match="no candle files.*--candles-dir"):
        read_market(Path(write_candles(hourly(3), tmp_path / "x", "BTC/GBP", "1h")).parent)


def test_real_candles_with_their_gaps_come_through_ccxt_as_they_are_in_the_files(real_data):
    market = read_market(real_data / "binance")
    with ExchangeServer(
        market, now_ms=1_704_100_000_000
    ) as server:  # shortly after the gap of 2023-12-31 in 15m
        ask = {"since_ms": 1_703_900_000_000, "now_ms": server.now_ms}
        candles = fetch_ohlcv(
            open_exchange("binance", base_url=server.url), "BTC/USDT", "15m", **ask
        )
    assert_frame_equal(candles, market.candles("BTC/USDT", "15m", **ask))
    assert len(candles) < (ask["now_ms"] - ask["since_ms"]) // (HOUR // 4) - 40
