"""A loopback exchange that speaks the REST dialects of Binance spot, Binance USDT-M futures and OKX
v5.

The real ccxt talks to it: `pipeline.candles.exchange.open_exchange("binance",
base_url=server.url)`. By hand:

    python -m tests.exchange_server --port 8000 --candles-dir DIR
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from config import TRADING_PAIRS
from tests.exchange_answers import Answer, Request
from tests.exchange_dialects import LIMITS, answer, charge, dumped, rate_limited, restricted
from tests.exchange_faults import AppliedFault, FaultList, FaultSchedule, spoil
from tests.exchange_market import DAY_MS, Market, read_market, synthetic_exchange

VENUES = ("binance", "binanceus", "binanceusdm", "okx")
PATIENCE = 10
"""Requests over the limit that are answered 429 before the ban, in one window."""
BAN_S = 120.0


@dataclass(frozen=True)
class LoggedRequest:
    venue: str
    path: str
    query: dict[str, str]
    time_s: float
    """by time.monotonic(), when it came"""
    status: int
    """of the answer; 0 where none is sent"""


class Limiter:
    """Counts weight in fixed windows of the clock, as Binance and OKX do; 429 over a limit, 418 for
    who goes on."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.used: dict[
            str, tuple[int, int]
        ] = {}  # counter -> (number of the window, weight used in it)
        self.over: Counter[tuple[str, int]] = Counter()
        self.banned_until: dict[str, float] = {}  # venue -> instant

    def count(
        self, request: Request, limits: Mapping[str, tuple[int, float]]
    ) -> tuple[dict[str, str], Answer | None]:
        """Headers that tell the weight used, and the answer to a request over the limit."""
        counter, cost = charge(request)
        if counter not in limits:
            return {}, None
        most, window_s = limits[counter]
        now_s = self.clock()
        window = int(now_s // window_s)
        used = cost + (self.used[counter][1] if self.used.get(counter, (None,))[0] == window else 0)
        self.used[counter] = (window, used)
        headers = {"X-MBX-USED-WEIGHT-1M": str(used)} if counter in VENUES else {}
        if now_s < self.banned_until.get(request.venue, now_s):
            return headers, rate_limited(
                request.venue, self.banned_until[request.venue] - now_s, is_ban=True
            )
        if used <= most:
            return headers, None
        self.over[counter, window] += 1
        is_ban = self.over[counter, window] > PATIENCE and request.venue != "okx"
        if is_ban:
            self.banned_until[request.venue] = now_s + BAN_S
        return headers, rate_limited(
            request.venue, BAN_S if is_ban else (window + 1) * window_s - now_s, is_ban=is_ban
        )


class ExchangeServer:
    """Serves a market on loopback between `with` and its end, to any number of clients at once.

    What it is set to may be changed while it runs: now_ms, latency_s, hang_s, faults, limits,
    markets, blocked.

    Args:
        market: The truth of all venues, or of each: binance, binanceus, binanceusdm, okx.
        now_ms: The exchange's present in ms since 1970 UTC: candles that open later do not exist
            yet, the one that has not closed is served as it stands. None: this machine's clock.
        latency_s: Seconds that every answer takes.
        faults: `FaultList` or `FaultSchedule`.
        limits: Counter -> (allowed, seconds), as `tests.exchange_dialects.LIMITS`, the exchanges'
            own; {} for none.
        clock: Seconds by which the limits are counted.
        hang_s: Seconds for which the fault `hang` says nothing; should exceed the client's timeout.
        port: 0 for any that is free.

    Attributes:
        url: Base URL. Binance US is told from Binance by its prefix alone:
            `server.url_of("binanceus")`.
        log: Requests in the order they came; each is there before its answer is sent. `n_requests`:
            the count by venue.
        applied: Faults in the order they were applied.
        n_429, n_418: Answers of that kind that the limits, not the faults, called for.
        blocked: Venues that answer 451. `skew_ms`: what the exchange's clock is ahead of the
            truth's.
    """

    def __init__(
        self,
        market: Market | Mapping[str, Market],
        *,
        now_ms: int | None = None,
        latency_s: float = 0.0,
        faults: FaultList | FaultSchedule | None = None,
        limits: Mapping[str, tuple[int, float]] = LIMITS,
        clock: Callable[[], float] = time.time,
        hang_s: float = 5.0,
        port: int = 0,
    ) -> None:
        self.markets = dict.fromkeys(VENUES, market) if isinstance(market, Market) else dict(market)
        self.now_ms, self.latency_s, self.hang_s, self.limits, self.clock = (
            now_ms,
            latency_s,
            hang_s,
            limits,
            clock,
        )
        self.stopping, self._lock = threading.Event(), threading.Lock()
        self._http = _HTTPServer(("127.0.0.1", port), _Handler)
        self._http.exchange = self
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="loopback exchange"
        )
        self.port = self._http.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self.reset(faults)

    def reset(self, faults: FaultList | FaultSchedule | None = None) -> None:
        """Forget all requests, weights, bans and faults; the present, the latency and the market
        stay."""
        with self._lock:
            self.faults = FaultList() if faults is None else faults
            self.log: list[LoggedRequest] = []
            self.applied: list[AppliedFault] = []
            self.n_requests: Counter[str] = Counter()
            self.n_429 = self.n_418 = self.skew_ms = 0
            self.blocked: set[str] = set()
            self._last_rows: dict[str, list[list[Any]]] = {}
            self._limiter = Limiter(self.clock)

    def url_of(self, venue: str) -> str:
        """Base URL that means this venue."""
        return f"{self.url}/{venue}"

    def __enter__(self) -> ExchangeServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._http.close_connections()

    def present_ms(self) -> int:
        return int(time.time() * 1000) if self.now_ms is None else self.now_ms

    def reply(self, target: str) -> Answer:
        """The answer to a request as it will be sent, limits and faults included."""
        request = self._read(target)
        with self._lock:
            self.n_requests[request.venue] += 1
            headers, reply = self._limiter.count(request, self.limits)
            if reply is not None:
                self.n_418, self.n_429 = (
                    self.n_418 + (reply.status == 418),
                    self.n_429 + (reply.status == 429),
                )
            elif request.venue in self.blocked:
                reply = restricted(request.venue)
            else:
                reply = answer(request, self.markets.get(request.venue, Market()))
                self._spoil(request, reply, target)
            reply.headers |= headers
            status = 0 if reply.ending in ("reset", "hang") else reply.status
            self.log.append(
                LoggedRequest(request.venue, request.path, request.query, time.monotonic(), status)
            )
        return reply

    def _read(self, target: str) -> Request:
        url = urlsplit(target)
        first, _, rest = url.path.lstrip("/").partition("/")
        prefix, path = (first, f"/{rest}") if first in VENUES else ("", url.path)
        venue = prefix or "binance"
        if path.startswith(("/fapi/", "/futures/")):
            venue = "binanceusdm"
        elif path.startswith("/api/v5/"):
            venue = "okx"
        now_ms = self.present_ms()
        return Request(venue, path, dict(parse_qsl(url.query)), now_ms, now_ms + self.skew_ms)

    def _spoil(self, request: Request, reply: Answer, target: str) -> None:
        page = reply.page
        if page is not None:
            page.before = self._last_rows.get(page.key)
            self._last_rows[page.key] = [list(row) for row in page.rows]
        for fault, rng in self.faults.candidates(target):
            times = spoil(reply, request.venue, fault, rng, self)
            if times is not None:
                self.faults.spend(fault)
                self.applied.append(
                    AppliedFault(fault.kind, request.venue, target, reply.kind, times)
                )
                break


class _HTTPServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    exchange: ExchangeServer

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connections: dict[threading.Thread, socket.socket] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        # The base class does not know its daemon threads, and kept-alive connections end only when
        # told.
        thread = threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True
        )
        self.connections = {one: other for one, other in self.connections.items() if one.is_alive()}
        thread.start()
        self.connections[thread] = request

    def close_connections(self) -> None:
        for thread, connection in self.connections.items():
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # the client has gone already
                pass
            thread.join(5)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # a client that went away is no news
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave in one piece
    server: _HTTPServer

    def do_GET(self) -> None:
        exchange = self.server.exchange
        reply = exchange.reply(self.path)
        exchange.stopping.wait(
            exchange.latency_s + (exchange.hang_s if reply.ending == "hang" else 0.0)
        )
        if reply.ending == "reset":
            self._reset()
        elif reply.ending == "hang":
            self.close_connection = True
        else:
            self._send(reply, exchange)

    def _send(self, reply: Answer, exchange: ExchangeServer) -> None:
        body = dumped(reply) if reply.raw is None else reply.raw
        kind = "application/json" if reply.raw is None else "text/html"
        date = formatdate((exchange.present_ms() + exchange.skew_ms) / 1000, usegmt=True)
        self.send_response_only(reply.status)
        headers = {
            "Date": date,
            "Content-Type": f"{kind};charset=UTF-8",
            "Content-Length": len(body),
            **reply.headers,
        }
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if reply.ending == "truncated":
            body, self.close_connection = body[: len(body) // 2], True
        self.wfile.write(body)
        self.wfile.flush()

    def _reset(self) -> None:
        """Close so that the client is told "connection reset by peer"."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, *_: Any) -> None:
        pass


def main(arguments: list[str] | None = None) -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.exchange_server", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument(
        "--candles-dir", type=Path, help="directory of candle files; without it synthetic candles"
    )
    parser.add_argument(
        "--keep-times", action="store_true", help="leave the candles in their own years"
    )
    parser.add_argument(
        "--future-days", type=int, default=7, help="days of the candles that lie ahead and unfold"
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds that every answer takes"
    )
    parser.add_argument("--faults", type=int, help="seed of random faults")
    parser.add_argument(
        "--fault-rate", type=float, default=0.1, help="share of answers with a fault"
    )
    options = parser.parse_args(arguments)
    if options.candles_dir is None:
        market = synthetic_exchange(TRADING_PAIRS, ("15m", "1h"), 4000)
    else:
        market = read_market(options.candles_dir)
    if not options.keep_times:
        # By whole days, so that candles and settlements stay on their grids.
        days = (int(time.time() * 1000) - market.ends_ms) // DAY_MS + options.future_days
        market = market.shifted(days * DAY_MS)
    faults = None if options.faults is None else FaultSchedule(options.faults, options.fault_rate)
    with ExchangeServer(
        market, latency_s=options.latency, faults=faults, port=options.port
    ) as server:
        symbol = next(iter(market.listings))
        print(f"{len(market.listings)} pairs as binance, binanceusdm, okx at {server.url}")
        print(f"and as binanceus at {server.url_of('binanceus')}; Ctrl-C ends it. For example:")
        ask = f"--symbols {symbol} --timeframes 1h --candles 1000 --base-url {server.url}"
        print(f"  python data_fetcher.py fetch {ask}", flush=True)
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # ignored where a script started it in the background
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(
                f"answered {dict(server.n_requests)}, faults "
                f"{Counter(fault.kind for fault in server.applied)}"
            )


if __name__ == "__main__":
    main()
