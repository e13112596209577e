"""What the tests of fetching share: a loopback exchange, a guard against every other host, short
ways to ask."""

from __future__ import annotations

import socket
from dataclasses import replace

import numpy as np
import pytest

from pipeline.candles import exchange as exchange_module
from pipeline.candles import exchange_client
from pipeline.candles.exchange import fetch_many
from pipeline.candles.exchange_client import Allowance
from pipeline.candles.job import Job
from tests.exchange_market import Market, Series, synthetic_exchange
from tests.exchange_server import ExchangeServer

HOUR_MS = 3_600_000
BTC, ETH = "BTC/USDT", "ETH/USDT"
MARKET = synthetic_exchange((BTC, ETH), ("1h",), 1300)
NOW_MS = MARKET.ends_ms + HOUR_MS // 2  # the last candle is forming
VENUES = ("binance", "binanceusdm", "okx")
LONG = Job(BTC, "1h", since_ms=NOW_MS - 1200 * HOUR_MS)


@pytest.fixture
def foreign_hosts(monkeypatch):
    """Every host but this machine that somebody asked for; the connection is refused."""
    asked = []

    def guarded(name):
        original = getattr(socket.socket, name)

        def connect(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6) and not address[0].startswith(
                "127."
            ):
                asked.append(address[0])
                raise ConnectionRefusedError(f"a test wants {address}")
            return original(self, address)

        return connect

    def resolve(host, *arguments, **options):
        if host in ("127.0.0.1", "localhost"):
            return original_resolve(host, *arguments, **options)
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    original_resolve = socket.getaddrinfo
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(name))
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return asked


@pytest.fixture
def nothing_leaves(foreign_hosts):
    """Fails a test that asks for another host than the configured base URL."""
    yield
    assert foreign_hosts == []


@pytest.fixture(scope="module")
def exchange():
    with ExchangeServer(MARKET, now_ms=NOW_MS, hang_s=0.6, limits={}) as server:
        yield server


@pytest.fixture
def server(exchange, nothing_leaves, monkeypatch):
    """An exchange of whose limits the clients know nothing, so that tests need not wait."""
    monkeypatch.setattr(exchange_client, "allowance", lambda *_: Allowance(1e9, 1e9))
    exchange.markets = dict.fromkeys(exchange.markets, MARKET)
    exchange.now_ms, exchange.latency_s = NOW_MS, 0.0
    exchange.reset()
    return exchange


@pytest.fixture
def limited(nothing_leaves):
    """An exchange that nobody has asked before."""
    with ExchangeServer(MARKET, now_ms=NOW_MS) as server:
        yield server


def fetch(server, jobs, venue="binance", **options):
    options = {"now_ms": NOW_MS, "timeout_s": 20, "sleep": lambda seconds: None} | options
    return fetch_many(venue, jobs, base_url=server.url_of(venue), **options)


def fetch_one(server, job, venue="binance", **options):
    found = fetch(server, [job], venue, **options)[job]
    if isinstance(found, Exception):
        raise found
    return found


def fetch_with(client, job, *, now_ms=None, on_page=None, sleep=None):
    """The series of a job from a client that is open already."""
    told = None if on_page is None else lambda _, n_rows: on_page(n_rows)
    client.sleep = sleep
    errand = exchange_module._Errand(client, job, on_page=told)
    found = exchange_module._fetch_at_once([errand], now_ms)[job]
    if isinstance(found, Exception):
        raise found
    return found


def fetch_ohlcv(client, symbol, timeframe, *, n_candles=None, since_ms=None, until_ms=None, **how):
    return fetch_with(client, Job(symbol, timeframe, since_ms, until_ms, n_candles), **how)


def truth(job, market=MARKET, now_ms=NOW_MS):
    candles = market.candles(job.symbol, job.kind, now_ms=now_ms, since_ms=job.since_ms)
    return candles.tail(job.n_candles or len(candles)).reset_index(drop=True)


def refuse_to_sleep(seconds):
    raise AssertionError(f"slept {seconds} s where no retry was due")


def hold(server, series: Series) -> Market:
    """Let the exchange hold other candles of BTC."""
    market = Market(MARKET.listings.values())
    market.listings[BTC] = replace(market.listings[BTC], candles={"1h": series})
    server.markets = dict.fromkeys(server.markets, market)
    return market


def without(rows: slice) -> Series:
    series = MARKET.listings[BTC].candles["1h"]
    return Series(np.delete(series.times, rows), np.delete(series.numbers, rows, axis=0))


FIXTURES = (exchange, foreign_hosts, limited, nothing_leaves, server)
"""For the test modules, which take them over by assignment."""
