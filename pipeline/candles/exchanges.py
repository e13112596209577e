"""Candles, funding and open interest from exchanges through ccxt: whole series, one or many at
once.

Users write `BTC/USDT`; on futures exchanges the linear perpetual `BTC/USDT:USDT` is meant. What is
behind this module: `clients` (one client and one request), `limits` (how often), `paging` (a whole
series from pages, checked).
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.candles import markets, pages
from pipeline.candles.clients import (
    FOREIGN_ANSWER,
    ExchangeError,
    GeoBlockError,
    Sleep,
    connected,
    open_exchange,
    request,
    run,
)
from pipeline.candles.limits import LIMITS
from pipeline.candles.markets import QuoteError, UnknownSymbolError
from pipeline.candles.schema import CANDLE_COLUMNS, timeframe_ms
from pipeline.candles.store import PUBLISHED

if TYPE_CHECKING:
    import ccxt.async_support as ccxt

__all__ = [
    "EXCHANGE_CHAIN",
    "FUTURES_CHAIN",
    "ExchangeError",
    "GeoBlockError",
    "Job",
    "QuoteError",
    "UnknownSymbolError",
    "fetch_funding",
    "fetch_many",
    "fetch_ohlcv",
    "fetch_open_interest",
    "open_exchange",
]

logger = logging.getLogger(__name__)

# Tried in this order by --source auto. Binance has the longest histories but answers HTTP 451 to
# addresses in the USA, Colab's among them; Binance US serves those. The others serve hourly candles
# of USDT pairs without a key, as far back as they are asked for (Kraken: the newest 720, Gate: the
# newest 10,000). Bybit is last: it refuses the USA too.
EXCHANGE_CHAIN: tuple[str, ...] = ("binance", "binanceus", "okx", "kucoin", "bybit")

FUTURES_CHAIN: tuple[str, ...] = ("binanceusdm", "bybit", "okx")
"""Have funding and open interest; in this order, for the same reasons."""

MAX_JOBS = 16
"""Series fetched at the same time, each over one connection."""

DEFAULT_PAGE_ROWS = 200
"""Rows to ask for where ccxt does not know an exchange's limit; every exchange we know serves as
many candles."""

PAGE_ROWS = {
    ("binanceusdm", "candles"): 1000,  # weigh no more than the 500 of which ccxt knows
    ("binanceusdm", "funding"): 1000,
    ("binanceusdm", "open_interest"): 500,
    ("okx", "funding"): 100,
    ("okx", "open_interest"): 720,
}

HISTORY_DAYS = {
    ("binanceusdm", "open_interest"): 30,
    ("okx", "open_interest"): 30,
    ("okx", "funding"): 90,
}
"""(exchange, kind) -> days for which a published series reaches back, where it does not from the
listing on."""

DAY_MS = 86_400_000
FUNDING_STEP_MS = 28_800_000
"""The usual interval between settlements; others are kept as they come."""

OPEN_INTEREST_TIMEFRAME = "1h"

BASE_OPEN_INTEREST = ("bybit",)
"""Exchanges that give open interest in coins; the others in USD (OKX: of all the coin's contracts
together)."""

CLOCK_TOLERANCE_MS = 60_000
"""A larger difference between this machine's clock and the exchange's is worth a notice."""


@dataclass(frozen=True)
class Job:
    """A series to fetch."""

    symbol: str
    """such as BTC/USDT; futures exchanges also take BTC/USDT:USDT"""
    kind: str
    """a timeframe such as 1h, funding or open_interest"""
    since_ms: int | None = None
    """all that open (or are published) at or after this, ms since 1970 UTC"""
    until_ms: int | None = None
    """only candles that have closed, values that were published by then; None for the present"""
    n_candles: int | None = None
    """instead of `since_ms`: the newest this many; fewer come back where the listing is younger"""

    def __post_init__(self) -> None:
        if (self.n_candles is None) == (self.since_ms is None):
            raise ValueError(
                f"n_candles is {self.n_candles} and since_ms is {self.since_ms}; give exactly one "
                "of them"
            )
        if self.n_candles is not None and self.n_candles < 1:
            raise ValueError(f"n_candles is {self.n_candles}; ask for at least 1 candle")
        if self.n_candles is not None and self.kind in PUBLISHED:
            raise ValueError(f"n_candles is {self.n_candles} for {self.kind}; say since_ms instead")


def fetch_many(
    exchange_name: str,
    jobs: Sequence[Job],
    *,
    base_url: str | None = None,
    timeout_s: float = 10.0,
    now_ms: int | None = None,
    accept_usd: bool = True,
    on_page: Callable[[Job, int], None] | None = None,
    follow: Callable[[Job, pd.DataFrame], Job | None] | None = None,
    sleep: Sleep | None = None,
) -> dict[Job, pd.DataFrame | ExchangeError | ValueError]:
    """Fetch many series from one exchange at once, within its rate limit; one that fails does not
    sink the others.

    Args:
        exchange_name: ccxt's id. Funding and open interest come from its futures ("binance": from
            binanceusdm).
        jobs: Series to fetch.
        base_url, timeout_s: See `open_exchange`.
        now_ms: The present in ms since 1970 UTC; by default the exchange's clock tells.
        accept_usd: Take BTC/USD for BTC/USDT where the exchange has no other, with a notice; else a
            QuoteError.
        on_page: Called after each page with the job and the number of rows it brought, in a thread
            of its own.
        follow: Called with each job and its frame, in the same thread; may name the job of the same
            symbol and kind that comes next in its place: a long series can then be stored piece by
            piece.
        sleep: Waits the given seconds before a retry.

    Returns:
        Job -> frame as of `fetch_ohlcv`, `fetch_funding` or `fetch_open_interest`, or the error
        that these would raise: an ExchangeError (GeoBlockError: no retry helps) or a ValueError
        (UnknownSymbolError, QuoteError). Where others follow a job, the last one's.

    Raises:
        ValueError: ccxt knows no exchange of that name.
    """
    clients: dict[bool, Any] = {}
    for job in jobs:
        is_published = job.kind in PUBLISHED
        if is_published not in clients:
            clients[is_published] = open_exchange(
                exchange_name, base_url=base_url, timeout_s=timeout_s, futures=is_published
            )
    if len(clients) == 2 and clients[False].id == clients[True].id and clients[False].is_futures:
        clients[True] = clients[False]

    async def fetch_all() -> dict[Job, Any]:
        places = asyncio.Semaphore(MAX_JOBS)

        async def fetch_one(job: Job) -> pd.DataFrame | ExchangeError | ValueError:
            client = clients[job.kind in PUBLISHED]
            present = presents[client]
            if isinstance(present, Exception):
                return present
            told = None if on_page is None else functools.partial(on_page, job)
            async with places:
                try:
                    next_job: Job | None = job
                    while next_job is not None:
                        frame = await _fetch(
                            _Errand(client, next_job, present, accept_usd, told, sleep)
                        )
                        next_job = None if follow is None else follow(next_job, frame)
                    return frame
                except (ExchangeError, ValueError) as error:
                    return error

        distinct = list(dict.fromkeys(clients.values()))
        async with connected(*distinct):
            presents = {client: await _try_prepare(client, now_ms, sleep) for client in distinct}
            return dict(zip(jobs, await asyncio.gather(*map(fetch_one, jobs))))

    return run(fetch_all()) if jobs else {}


def fetch_ohlcv(
    exchange: ccxt.Exchange,
    symbol: str,
    timeframe: str,
    *,
    n_candles: int | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    now_ms: int | None = None,
    on_page: Callable[[int], None] | None = None,
    sleep: Sleep | None = None,
) -> pd.DataFrame:
    """Fetch closed candles, paging forward in time; the forming candle is dropped.

    What is missing, contradictory or hard to believe is asked for once more, and every repair is
    logged.

    Args:
        exchange: From `open_exchange`.
        symbol: Such as "BTC/USDT"; futures exchanges also take "BTC/USDT:USDT".
        timeframe: Such as "1h".
        n_candles: Return the newest this many; fewer come back where the listing is younger.
        since_ms: Instead of `n_candles`: return all that open at or after this, ms since 1970 UTC.
        until_ms: Only candles that have closed by then, ms since 1970 UTC.
        now_ms: The present in ms since 1970 UTC; by default the exchange's clock tells.
        on_page: Called after each page with the number of candles it brought, in a thread of its
            own.
        sleep: Waits the given seconds before a retry.

    Returns:
        Columns timestamp (open time, datetime64[ms, UTC]), open, high, low, close, volume
        (float64), in time order, without duplicates, possibly empty. Gaps stay gaps. Its `attrs`
        name "exchange" and "market".

    Raises:
        ValueError: Unknown symbol or timeframe, or not exactly one of `n_candles` and `since_ms`.
        ExchangeError: The exchange is out of reach, refuses, contradicts itself, or sends what
            cannot be.
    """
    job = Job(symbol, timeframe, since_ms, until_ms, n_candles)
    return _fetch_alone(exchange, job, now_ms, on_page, sleep)


def fetch_funding(
    exchange: ccxt.Exchange,
    symbol: str,
    *,
    since_ms: int,
    until_ms: int | None = None,
    now_ms: int | None = None,
    on_page: Callable[[int], None] | None = None,
    sleep: Sleep | None = None,
) -> pd.DataFrame:
    """Fetch settled funding rates; arguments and errors are those of `fetch_ohlcv`.

    Returns:
        Columns timestamp (instant of settlement, datetime64[ms, UTC]) and funding_rate (float64, a
        fraction, for the interval that ends there, whatever its length), in time order.
    """
    return _fetch_alone(
        exchange, Job(symbol, "funding", since_ms, until_ms), now_ms, on_page, sleep
    )


def fetch_open_interest(
    exchange: ccxt.Exchange,
    symbol: str,
    *,
    since_ms: int,
    until_ms: int | None = None,
    now_ms: int | None = None,
    on_page: Callable[[int], None] | None = None,
    sleep: Sleep | None = None,
) -> pd.DataFrame:
    """Fetch hourly open interest, of the last 30 days on most exchanges; arguments and errors as of
    `fetch_ohlcv`.

    Returns:
        Columns timestamp (instant of observation, datetime64[ms, UTC]) and open_interest (float64,
        in `attrs["unit"]`: USD, or the coin on `BASE_OPEN_INTEREST`), in time order.
    """
    return _fetch_alone(
        exchange, Job(symbol, "open_interest", since_ms, until_ms), now_ms, on_page, sleep
    )


def _fetch_alone(
    client: Any,
    job: Job,
    now_ms: int | None,
    on_page: Callable[[int], None] | None,
    sleep: Sleep | None,
) -> pd.DataFrame:
    _check_kind(client, job.kind)

    async def fetch() -> pd.DataFrame:
        async with connected(client):
            present = await _prepare(client, now_ms, sleep)
            return await _fetch(_Errand(client, job, present, True, on_page, sleep))

    return run(fetch())


@dataclass(frozen=True)
class _Errand:
    """A job and all that it takes."""

    client: Any
    job: Job
    now_ms: int
    accept_usd: bool
    on_page: Callable[[int], None] | None
    sleep: Sleep | None

    @property
    def step_ms(self) -> int:
        if self.job.kind == "funding":
            return FUNDING_STEP_MS
        return timeframe_ms(
            OPEN_INTEREST_TIMEFRAME if self.job.kind in PUBLISHED else self.job.kind
        )


async def _prepare(client: Any, now_ms: int | None, sleep: Sleep | None) -> int:
    """Load the markets; the present in ms since 1970 UTC."""
    markets = await request(client, "the list of markets", client.load_markets, sleep)
    if not markets:
        raise ExchangeError(
            f"{client.id}: its list of markets is empty or unreadable; {FOREIGN_ANSWER}"
        )
    if now_ms is not None:
        return now_ms
    if not client.has["fetchTime"]:
        return client.milliseconds()
    ours = client.milliseconds()
    try:
        theirs = int(await request(client, "the time", client.fetch_time, sleep, retry=False))
    except GeoBlockError:
        raise
    except (ExchangeError, TypeError) as error:
        logger.warning(
            "%s does not tell its time (%s); this machine's clock counts", client.id, error
        )
        return ours
    if abs(theirs - ours) > CLOCK_TOLERANCE_MS:
        logger.warning(
            "this machine's clock is %.0f min %s that of %s, which counts; set it",
            abs(theirs - ours) / 60_000,
            "behind" if theirs > ours else "ahead of",
            client.id,
        )
    return theirs


async def _try_prepare(
    client: Any, now_ms: int | None, sleep: Sleep | None
) -> int | ExchangeError | ValueError:
    try:
        return await _prepare(client, now_ms, sleep)
    except (ExchangeError, ValueError) as error:
        return error


async def _fetch(errand: _Errand) -> pd.DataFrame:
    """One series, from the market of its symbol, or from the two of a renamed coin."""
    client, job = errand.client, errand.job
    _check_kind(client, job.kind)
    *older_market, market = markets.find(client, job.symbol, accept_usd=errand.accept_usd)
    source = _source(errand, market)
    first, last = _span(errand)
    rows = await _fetch_rows(source, job.n_candles, max(first, markets.renamed_ms(market)), last)
    for older in older_market:
        boundary = int(rows[0, 0]) - source.stride_ms if len(rows) else last
        n_older = None if job.n_candles is None else job.n_candles - len(rows)
        before = await _fetch_rows(_source(errand, older), n_older, first, boundary)
        if len(before) and len(rows):
            days = (rows[0, 0] - before[-1, 0] - errand.step_ms) / DAY_MS
            logger.warning(
                "%s: %s goes on as %s; joined, %.2f days are missing between",
                client.id,
                older,
                market,
                days,
            )
        rows = np.concatenate([before, rows])
    if client.markets[market].get("active") is False:
        if len(rows) == 0:
            raise UnknownSymbolError(
                f"{client.id} no longer trades {market} and has no {job.kind} of it in the span "
                "asked for; choose another exchange"
            )
        logger.warning("%s no longer trades %s", client.id, market)
    frame = pages.to_frame(source, rows)
    frame.attrs = {"exchange": client.id, "market": " + ".join([*older_market, market])}
    if job.kind == "open_interest":
        frame.attrs["unit"] = markets.coin_of(market) if client.id in BASE_OPEN_INTEREST else "USD"
    return frame


async def _fetch_rows(
    source: pages.Source, n_rows: int | None, first: int, last: int
) -> np.ndarray:
    if last < first or n_rows == 0:
        return np.empty((0, 1 + len(source.columns)))
    if n_rows is None:
        return await pages.fetch_span(source, first, last)
    return await pages.fetch_newest(source, n_rows, last)


def _span(errand: _Errand) -> tuple[int, int]:
    """First and last instant at which rows may lie."""
    client, job, step_ms = errand.client, errand.job, errand.step_ms
    end = errand.now_ms if job.until_ms is None else min(errand.now_ms, job.until_ms)
    first, oldest = max(0, job.since_ms or 0), _oldest(errand)
    if first < oldest:
        logger.warning(
            "%s: %s of %s is kept for %.0f days; %.1f days that were asked for are missing",
            client.id,
            job.kind,
            job.symbol,
            (errand.now_ms - oldest) / DAY_MS,
            (oldest - first) / DAY_MS,
        )
        first = oldest
    if job.kind == "funding":
        return first, end
    first = -(-first // step_ms) * step_ms
    return first, end // step_ms * step_ms if job.kind in PUBLISHED else (
        end // step_ms - 1
    ) * step_ms


def _oldest(errand: _Errand) -> int:
    """Instant before which the exchange has no such series, ms since 1970 UTC."""
    days = HISTORY_DAYS.get((errand.client.id, errand.job.kind))
    return 0 if days is None else errand.now_ms - days * DAY_MS


def _source(errand: _Errand, market: str) -> pages.Source:
    """How to ask for the rows of a market."""
    client, kind, sleep = errand.client, errand.job.kind, errand.sleep
    forming_ms = None
    if kind in PUBLISHED:
        columns: tuple[str, ...] = (PUBLISHED[kind],)
        known_rows = None
        what = f"{kind.replace('_', ' ')} of {market}"
    else:
        columns = CANDLE_COLUMNS[1:]
        known_rows = client.feature_value(market, "fetchOHLCV", "limit")
        what = f"candles of {market}"
        forming_ms = errand.now_ms // errand.step_ms * errand.step_ms

    async def fetch(since: int, until: int, limit: int) -> list[list[Any]]:
        if kind not in PUBLISHED:
            return await client.fetch_ohlcv(market, kind, since, limit)
        return await _fetch_published(
            client, market, kind, since, min(until, since + limit * errand.step_ms - 1), limit
        )

    async def ask(since: int, until: int, limit: int) -> list[list[Any]]:
        rows = await request(client, what, functools.partial(fetch, since, until, limit), sleep)
        if errand.on_page is not None:
            errand.on_page(len(rows))
        return rows

    group = kind if kind in PUBLISHED else "candles"
    page_rows = PAGE_ROWS.get((client.id, group)) or known_rows or DEFAULT_PAGE_ROWS
    oldest_ms = -(-_oldest(errand) // errand.step_ms) * errand.step_ms
    return pages.Source(
        client.id,
        f"{market} {kind}",
        columns,
        errand.step_ms,
        page_rows,
        ask,
        forming_ms,
        oldest_ms,
    )


async def _fetch_published(
    client: Any, market: str, kind: str, since: int, until: int, limit: int
) -> list[list[Any]]:
    """Rows [time, value] of one request; it names both ends, because some exchanges send the newest
    of what matches."""
    if (client.id, kind) in LIMITS:
        await client.throttle(1, kind)
    if kind == "funding":
        bound = {"after": until + 1} if client.id == "okx" else {"until": until}
        found = await client.fetch_funding_rate_history(market, since, limit, bound)
        return [[row["timestamp"], row["fundingRate"]] for row in found]
    timeframe = OPEN_INTEREST_TIMEFRAME
    found = await client.fetch_open_interest_history(
        market, timeframe, since, limit, {"until": until}
    )
    value = "openInterestAmount" if client.id in BASE_OPEN_INTEREST else "openInterestValue"
    return [[row["timestamp"], row[value]] for row in found]


def _check_kind(client: Any, kind: str) -> None:
    """Raise where the exchange has no such series."""
    if kind in PUBLISHED:
        method = "fetchFundingRateHistory" if kind == "funding" else "fetchOpenInterestHistory"
        if not client.has[method] or not client.is_futures:
            raise ValueError(
                f"{client.id} has no {kind}; use one of {', '.join(FUTURES_CHAIN)}, opened as "
                "futures"
            )
    elif kind not in (client.timeframes or {}):
        known = ", ".join(client.timeframes or {}) or "no candles at all"
        raise ValueError(f"{client.id} has no timeframe {kind!r}; it has {known}")
