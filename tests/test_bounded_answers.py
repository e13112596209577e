"""An answer that never ends, or unpacks to more than memory holds, is given up in one line."""

from __future__ import annotations

import gzip
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.candles import exchange_client, yahoo
from pipeline.candles.exchange import fetch_many
from pipeline.candles.job import ExchangeError, Job
from pipeline.candles.yahoo import fetch_yahoo_candles
from tests.fetching import foreign_hosts, nothing_leaves

FIXTURES = (foreign_hosts, nothing_leaves)

JOB = Job("BTC/USDT", "1h", n_candles=5)
BOMB = gzip.compress(bytes(2**26), compresslevel=1)
"""64 MiB of zeros in 0.3 MB"""
LIMIT = 2**20


class Hostile(ThreadingHTTPServer):
    """Sends the same bytes to whoever asks: once, or until the client goes."""

    daemon_threads = True

    def __init__(
        self,
        body: bytes,
        *,
        is_packed: bool = False,
        is_endless: bool = False,
        pause_s: float = 0.0,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pause_s = pause_s
        """before each byte, where it is not 0"""
        self.body, self.is_packed, self.is_endless = body, is_packed, is_endless
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.sent = 0
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))

    def __enter__(self) -> Hostile:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hostile

    def do_GET(self) -> None:
        self.send_response(200)
        if self.server.is_packed:
            self.send_header("Content-Encoding", "gzip")
        if not self.server.is_endless:
            self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        try:
            if self.server.pause_s:
                for number in range(len(self.server.body)):
                    self.wfile.write(self.server.body[number : number + 1])
                    time.sleep(self.server.pause_s)
                return
            self.wfile.write(self.server.body)
            while self.server.is_endless:
                self.wfile.write(self.server.body)
                self.server.sent += len(self.server.body)
        except OSError:  # the client has gone
            pass

    def log_message(self, *_: object) -> None:
        pass


def ask_exchange(server: Hostile, timeout_s: float = 20) -> None:
    found = fetch_many(
        "binance", [JOB], base_url=server.url, timeout_s=timeout_s, sleep=lambda seconds: None
    )[JOB]
    assert isinstance(found, Exception)
    raise found


def ask_yahoo(server: Hostile, timeout_s: float = 20) -> None:
    fetch_yahoo_candles(JOB, base_url=server.url, timeout_s=timeout_s, sleep=lambda seconds: None)


@pytest.fixture(params=["exchange", "yahoo"])
def ask(request, nothing_leaves, monkeypatch):
    if request.param == "yahoo":
        pytest.importorskip("yfinance")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for module in (exchange_client, yahoo):
        monkeypatch.setattr(module, "MAX_ANSWER_BYTES", LIMIT)
    return ask_exchange if request.param == "exchange" else ask_yahoo


def test_an_endless_answer_is_given_up_at_the_limit(ask):
    with (
        Hostile(b"[" + b"0," * 2**15, is_endless=True) as server,
        pytest.raises(ExchangeError, match=r"more than 1,048,576 bytes"),
    ):
        ask(server)
    assert server.sent < 64 * LIMIT  # what the sockets hold besides


def test_an_answer_that_unpacks_to_far_more_is_given_up_at_the_limit(ask):
    with (
        Hostile(BOMB, is_packed=True) as server,
        pytest.raises(ExchangeError, match=r"more than 1,048,576 bytes"),
    ):
        ask(server)


@pytest.mark.slow
def test_an_answer_that_trickles_is_given_up_by_its_whole_time_not_only_between_two_bytes(ask):
    """Each of four attempts has a second; the whole answer would take an hour and more."""
    began = time.monotonic()
    with (
        Hostile(b"[" + b" " * 2**16, pause_s=0.05) as server,
        pytest.raises(ExchangeError, match=r"(?i)time|no connection"),
    ):
        ask(server, timeout_s=1)
    assert time.monotonic() - began < 12


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"[" + b"[]," * 5_000_001 + b"[]]", "more than 5,000,000 values"),
        (b"[" * 100_000 + b"]" * 100_000, "deeply nested lists|breaks off"),  # orjson tells no more
    ],
    ids=["many", "deep"],
)
def test_an_answer_that_would_fill_memory_once_it_is_parsed_is_refused(
    body, match, nothing_leaves, monkeypatch
):
    with Hostile(body) as server, pytest.raises(ExchangeError, match=match):
        ask_exchange(server)
