"""One client of an exchange and one request through it: polite, bounded in time, plain in errors.

A client is ccxt's own asynchronous class with some steps overridden (`_Watched`): what it may ask
is counted over all clients of the same host, refusals and broken answers can be told apart, and
rows arrive as the exchange sent them. ccxt is imported on first use, not with this module.

Many requests at once come from one event loop in a thread of its own (`run`), because the thread of
a notebook runs a loop already. Threads with a synchronous client each were measured and are as
fast, but only the loop can end a request at once: at its time limit, however slowly bytes still
come, and at Ctrl-C.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.candles.job import ExchangeError, GeoBlockError, UnknownSymbolError, did_you_mean
from pipeline.privacy import clean_error, without_secrets

if TYPE_CHECKING:
    import ccxt.async_support as ccxt

logger = logging.getLogger(__name__)
T = TypeVar("T")
Sleep = Callable[[float], None]

RETRY_WAITS_S = (1.0, 2.0, 4.0)
RETRY_BUDGET_S = 75.0
"""No retry starts later after a request's first attempt: Binance's minute, and some more."""

LIMITS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("binance", ""): (1200, 60),  # 6,000 weight a minute, of which ccxt counts 5 as 1
    ("binanceus", ""): (1200, 60),
    ("binanceusdm", ""): (2400, 60),
    ("binanceusdm", "funding"): (500, 300),
    ("binanceusdm", "open_interest"): (1000, 300),
}
"""(exchange, kind of series) -> (what may be asked in ccxt's costs, in so many seconds). Of those
that are not here we take ccxt's word, which is a rate without bursts."""

SHARE, BURST = 0.8, 0.1
"""Of a limit we use the first share as a steady rate and the second one at once: 0.9 together in
any window, even right after another process that has used the steady share."""

FUTURES_CLASS = {"binance": "binanceusdm"}
"""Exchanges whose futures have another class in ccxt."""

MAX_ANSWER_BYTES = 2**26
"""of one answer, unpacked; the longest are lists of markets, some 20 MB"""

MAX_ANSWER_VALUES = 5_000_000
"""in one answer of JSON; each takes 100 bytes and more of memory"""

CLOSING_S = 0.25
"""What ccxt grants encrypted connections to say goodbye."""

FOREIGN_ANSWER = (
    "is there a proxy or a login page in between? Try again later or choose another exchange"
)


class _Failure(Exception):
    """A request that failed, where ccxt's own error would not tell how."""

    def __init__(
        self, text: str, *, status: int = 0, wait_s: float = 0.0, may_pass: bool = False
    ) -> None:
        super().__init__(text)
        self.status = status
        """of HTTP; 0 without an answer, or with one that breaks off"""
        self.wait_s = wait_s
        """how long the exchange demands to be left alone"""
        self.may_pass = may_pass
        """whether a retry may help"""


class Allowance:
    """What may be asked now: a steady rate, and some more at once after a pause."""

    def __init__(
        self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_second = per_second
        self.burst = burst
        self._clock = clock
        self._left = burst
        self._counted_at = clock()
        self._lock = threading.Lock()

    def reserve(self, cost: float) -> float:
        """Count a request and return the seconds after which it may be sent.

        Example:
            >>> allowance = Allowance(per_second=2, burst=3, clock=lambda: 0.0)
            >>> [allowance.reserve(2) for _ in range(4)]
            [0.0, 0.0, 0.5, 1.5]
        """
        with self._lock:
            now = self._clock()
            self._left = min(self.burst, self._left + (now - self._counted_at) * self.per_second)
            self._counted_at = now
            wait_s = max(0.0, -self._left / self.per_second)
            self._left -= cost
            return wait_s

    def spend_burst(self) -> None:
        """After a 429: somebody else has used what we thought was ours."""
        with self._lock:
            self._left = min(self._left, 0.0)


@functools.cache
def allowance(exchange: str, kind: str, base_url: str | None, ccxt_rate: float) -> Allowance:
    """The one allowance of this process for an exchange, as the exchange itself counts.

    Args:
        exchange, kind: See `LIMITS`; kind is "" for what all requests count towards.
        base_url: Of the host, where it is not the exchange's own.
        ccxt_rate: Requests of cost 1 a second, by ccxt.
    """
    if (exchange, kind) not in LIMITS:
        return Allowance(SHARE * ccxt_rate, 0.0)
    most, seconds = LIMITS[exchange, kind]
    return Allowance(SHARE * most / seconds, BURST * most)


def open_exchange(
    name: str, *, base_url: str | None = None, timeout_s: float = 10.0, futures: bool = False
) -> ccxt.Exchange:
    """Make ccxt's asynchronous client of an exchange, without a key. Asks the network nothing yet.

    Args:
        name: ccxt's id, such as "binance" (spot) or "binanceusdm" (futures).
        base_url: Replaces scheme and host of all endpoints (tests, mirrors).
        timeout_s: Seconds that a request may take from the connection to the last byte.
        futures: Of an exchange that has both, take the perpetual futures rather than spot.

    Raises:
        ValueError: ccxt knows no exchange of that name.
    """
    import ccxt.async_support as ccxt

    if name not in ccxt.exchanges:
        hint = did_you_mean(name, ccxt.exchanges)
        raise ValueError(f"ccxt {ccxt.__version__} knows no exchange {name!r}; {hint}")
    name = FUTURES_CLASS.get(name, name) if futures else name
    exchange = _client_class(name)({"enableRateLimit": True, "timeout": int(timeout_s * 1000)})
    exchange.is_futures = futures or not exchange.has["spot"]
    if exchange.has["spot"]:
        _restrict_markets(exchange, futures)
    if base_url is not None:
        exchange.urls["api"] = replace_host(exchange.urls["api"], base_url.rstrip("/"))
    exchange.base_url = base_url
    return exchange


def _restrict_markets(exchange: Any, futures: bool) -> None:
    """Load the markets of one kind alone: fewer requests, no host that may refuse."""
    exchange.options["defaultType"] = "swap" if futures else "spot"
    fetch_markets = exchange.options.get("fetchMarkets")
    types = fetch_markets.get("types") if isinstance(fetch_markets, dict) else None
    if isinstance(types, list):
        wanted = ("linear", "swap") if futures else ("spot",)
        kept = [kind for kind in wanted if kind in types][:1]
        fetch_markets["types"] = kept or types


def replace_host(urls: Any, base_url: str) -> Any:
    """The same tree of URLs with another scheme and host; a ValueError where that is no address."""
    if not re.fullmatch(r"https?://[^\s/]\S*", base_url):  # not shown: it may hold a password
        raise ValueError("--base-url is no address; pass one such as http://localhost:8000")
    if isinstance(urls, dict):
        return {name: replace_host(url, base_url) for name, url in urls.items()}
    return re.sub(r"^\w+://[^/]+", lambda _: base_url, urls)


class _Watched:
    """The steps of ccxt's client that we override. State below belongs to one `connected` block."""

    id: str
    rateLimit: float
    """ms between requests of cost 1, by ccxt"""
    timeout: int
    """ms"""
    base_url: str | None
    is_futures: bool
    sleep: Sleep | None = None
    """waits the given seconds before a retry; by default the event loop does"""
    gate: asyncio.Event
    """closed while the exchange has demanded to be left alone"""
    connecting: set[Any]
    """tasks that have no connection yet"""

    async def throttle(self, cost: float | None = None, kind: str = "") -> None:
        """Wait until a request may be sent."""
        wait_s = self.allowance(kind).reserve(1.0 if cost is None else cost)
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        while not self.gate.is_set():
            await self.gate.wait()

    def allowance(self, kind: str = "") -> Allowance:
        return allowance(self.id, kind, self.base_url, 1000 / self.rateLimit)

    async def fetch(
        self, url: str, method: str = "GET", headers: Any = None, body: Any = None
    ) -> Any:
        """ccxt's request; tells a connection that cannot be made from one that breaks."""
        import aiohttp
        import ccxt

        host = without_secrets(url).split("/")[2]
        try:
            return await super().fetch(url, method, headers, body)  # type: ignore[misc]
        except ccxt.NetworkError as error:
            cause = error.__cause__
            reason = getattr(cause, "os_error", cause)
            if isinstance(error, ccxt.RequestTimeout) and asyncio.current_task() in self.connecting:
                limit = f"{self.timeout / 1000:g} s"
                raise _Failure(f"no connection to {host} within {limit}") from error
            if isinstance(reason, socket.gaierror):
                raise _Failure(f"cannot resolve the name of {host}: {reason.strerror}") from error
            is_reset = isinstance(reason, ConnectionResetError)
            if isinstance(cause, aiohttp.ClientConnectorError) and not is_reset:
                is_refused = isinstance(reason, ConnectionRefusedError)
                how = "is refused" if is_refused else f"fails: {reason}"
                raise _Failure(f"the connection to {host} {how}") from error
            raise
        finally:
            self.connecting.discard(asyncio.current_task())

    def on_rest_response(
        self, code: int, reason: str, url: str, method: str, headers: Any, body: str, *sent: Any
    ) -> str:
        """The body, unless the status says all."""
        # By class alone they cannot be told: ccxt raises ExchangeNotAvailable for 404, 451 and 503
        # alike on Binance, and its plain ExchangeError for all three on Bybit.
        is_refusal = code in (403, 408, 418, 429, 451) or code >= 500
        if is_refusal or (code >= 400 and body.lstrip()[:1] != "{"):
            demand = {name.lower(): value for name, value in headers.items()}.get("retry-after", "")
            wait_s = float(demand) if demand.isdigit() else 0.0
            # 418 is Binance's ban; it is over when it says so
            may_pass = code in (408, 429) or code >= 500 or (code == 418 and wait_s > 0)
            text = f"HTTP {code} {reason}: {body[:200]}"
            raise _Failure(text, status=code, wait_s=wait_s, may_pass=may_pass)
        return super().on_rest_response(code, reason, url, method, headers, body, *sent)  # type: ignore[misc]

    def parse_json(self, text: str) -> Any:
        """ccxt takes what is no JSON for an answer without rows."""
        if sum(map(text.count, ",[{")) > MAX_ANSWER_VALUES:
            raise _Failure(f"more than {MAX_ANSWER_VALUES:,} values", status=200)
        try:
            answer = super().parse_json(text)  # type: ignore[misc]
        except RecursionError as error:
            raise _Failure("deeply nested lists", status=200) from error
        if answer is not None:
            return answer
        text = text.lstrip()
        if text[:1] in ("[", "{", ""):
            raise _Failure("the answer breaks off", may_pass=True)
        raise _Failure(f"no JSON but {text[:60]!r}", status=200)

    def parse_ohlcvs(self, rows: Any, market: Any = None, *_: Any, **__: Any) -> list[list[Any]]:
        """Rows as they came: ccxt would sort and cut them, and hide what had been wrong."""
        if not isinstance(rows, list):
            raise TypeError(f"a list of candles is needed, not {str(rows)[:60]}")
        return [self.parse_ohlcv(row, market) for row in rows]  # type: ignore[attr-defined]

    def filter_by_symbol_since_limit(
        self, rows: list[Any], symbol: str | None = None, *_: Any, **__: Any
    ) -> list[Any]:
        """The same for published series."""
        return [row for row in rows if symbol is None or row["symbol"] == symbol]


@functools.cache
def _client_class(name: str) -> Any:
    import ccxt.async_support as ccxt

    return type(name, (_Watched, getattr(ccxt, name)), {})


@functools.cache
def _bounded_response() -> Any:
    """aiohttp's class of answers, which else reads as long as something comes."""
    import aiohttp

    class Bounded(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            """The body, unpacked as it comes."""
            parts, n_bytes = [], 0
            while self._body is None:
                part = await self.content.readany()
                parts.append(part)
                n_bytes += len(part)
                if n_bytes > MAX_ANSWER_BYTES:
                    self.close()
                    raise _Failure(f"more than {MAX_ANSWER_BYTES:,} bytes", status=200)
                if not part:
                    self._body = b"".join(parts)
            return await super().read()

    return Bounded


async def refuse_redirect(_session: Any, _context: Any, redirect: Any) -> None:
    """Raise before a request is sent to another host; aiohttp would follow it there."""
    here = redirect.response.url
    target = here.join(type(here)(redirect.response.headers.get("Location", "")))
    if target.origin() != here.origin():
        raise _Failure(f"a redirect from {here.host} to {target.origin()}", status=200)


@contextlib.asynccontextmanager
async def connected(*clients: Any) -> AsyncIterator[None]:
    """Connections for clients in the running event loop; at the end all are closed."""
    import aiohttp

    connecting: set[Any] = set()

    async def mark(*_: Any) -> None:
        connecting.add(asyncio.current_task())

    async def unmark(*_: Any) -> None:
        connecting.discard(asyncio.current_task())

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_start.append(mark)
    trace.on_connection_create_end.append(unmark)
    trace.on_request_redirect.append(refuse_redirect)
    # The system resolves names, as for every other program here; aiohttp would do it by itself.
    tls = ssl.create_default_context(cafile=clients[0].cafile)
    connector = aiohttp.TCPConnector(ssl=tls, resolver=aiohttp.ThreadedResolver())
    async with aiohttp.ClientSession(
        connector=connector, trace_configs=[trace], response_class=_bounded_response()
    ) as session:
        for client in clients:
            client.session = session
            client.asyncio_loop = asyncio.get_running_loop()
            client.connecting = connecting
            client.gate = asyncio.Event()
            client.gate.set()
        try:
            yield
        finally:
            for client in clients:
                client.session = client.asyncio_loop = None
    await asyncio.sleep(CLOSING_S if any(client.base_url is None for client in clients) else 0)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Result of a coroutine, in an event loop and a thread of its own; Ctrl-C ends it at once."""
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    handle: concurrent.futures.Future[tuple[Any, Any]] = concurrent.futures.Future()

    async def supervised() -> T:
        handle.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await main

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(supervised()))
        except BaseException as error:  # whatever it is, it belongs to the caller
            outcome.set_exception(error)

    thread = threading.Thread(target=work, name="exchange", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)  # with a limit, because Windows does not interrupt a join
    except BaseException:
        loop, task = handle.result(timeout=5)
        with contextlib.suppress(RuntimeError):  # it has ended meanwhile
            loop.call_soon_threadsafe(task.cancel)
        thread.join(timeout=5)
        raise
    return outcome.result()


async def request(
    client: Any, what: str, send: Callable[[], Awaitable[T]], *, retry: bool = True
) -> T:
    """Result of `send()`; what may pass is retried, everything else becomes an ExchangeError.

    Args:
        client: From `open_exchange`, in a `connected` block.
        what: What is asked for, such as "candles of BTC/USDT".
        send: Asks once.
        retry: Whether to try again at all.

    Raises:
        GeoBlockError: The exchange refuses this address.
        UnknownSymbolError: It does not know the market, although it has listed it.
        ExchangeError: All else, after at most 4 attempts and `RETRY_BUDGET_S`.
    """
    import ccxt

    began = time.monotonic()
    waits = (*RETRY_WAITS_S, None) if retry else (None,)
    for n_attempts, wait_s in enumerate(waits, start=1):  # noqa: B007 (used after the loop)
        try:
            return await send()
        except (ccxt.BaseError, _Failure) as error:
            failure: Exception = error
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            failure = error  # ccxt's own code, on an answer of another shape than it expects
        _raise_if_final(client, what, clean_error(failure))
        if wait_s is None or not _may_pass(failure):
            break
        wait_s = max(wait_s, getattr(failure, "wait_s", 0.0))
        if time.monotonic() - began + wait_s > RETRY_BUDGET_S:
            break
        text = "%s: %s failed (%s); again in %.0f s"
        logger.warning(text, client.id, what, _describe(failure), wait_s)
        if getattr(failure, "status", 0) in (418, 429):
            client.gate.clear()  # no other request of this client is sent either
            client.allowance().spend_burst()
        try:
            if client.sleep is None:
                await asyncio.sleep(wait_s)
            else:
                client.sleep(wait_s)
        finally:
            client.gate.set()
    raise ExchangeError(
        f"{client.id}: {what} failed after {n_attempts} attempt(s): {_describe(failure)}; check "
        "the network, try again later or choose another exchange"
    ) from failure


def _raise_if_final(client: Any, what: str, failure: Exception) -> None:
    """Raise where the kind of failure has an error of its own."""
    import ccxt

    # Binance: 451, Bybit: 403
    is_refusal = getattr(failure, "status", 0) in (403, 451)
    is_refusal |= isinstance(failure, ccxt.RestrictedLocation)
    if is_refusal or "restricted location" in str(failure):
        raise GeoBlockError(
            f"{client.id} refuses this machine's address, usually for its country "
            f"({_describe(failure)}); choose another exchange or run elsewhere"
        ) from failure
    if isinstance(failure, ccxt.BadSymbol):
        raise UnknownSymbolError(
            f"{client.id} lists the symbol but has no {what} ({_describe(failure)}); choose "
            "another exchange"
        ) from failure
    if getattr(failure, "status", 0) == 200:
        raise ExchangeError(f"{client.id}: {what} came as {failure}; {FOREIGN_ANSWER}") from failure


def _may_pass(failure: Exception) -> bool:
    """Whether a retry may help: after an overload or a broken connection, not without a network."""
    import aiohttp
    import ccxt

    if isinstance(failure, _Failure):
        return failure.may_pass
    # an answer that broke off is no NetworkError to ccxt
    is_broken = isinstance(failure.__cause__, aiohttp.ClientError)
    return is_broken or isinstance(failure, ccxt.NetworkError)


def _describe(failure: Exception) -> str:
    """One line of at most 300 characters."""
    text = str(failure)
    if not isinstance(failure, _Failure):
        text = f"{type(failure).__name__}: {text}"
        if failure.__cause__ is not None:
            text += f" ({type(failure.__cause__).__name__})"
    return without_secrets(" ".join(text.split()))[:300]
