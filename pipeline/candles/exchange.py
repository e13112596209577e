"""Candles, funding and open interest from exchanges through ccxt: whole series, many at once.

Users write `BTC/USDT`; on futures exchanges the linear perpetual `BTC/USDT:USDT` is meant. Behind
this module are `exchange_client` (one client and one request) and `pages` (a whole series from
pages, checked).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles import pages
from pipeline.candles.exchange_client import (
    FOREIGN_ANSWER,
    LIMITS,
    Sleep,
    connected,
    open_exchange,
    request,
    run,
)
from pipeline.candles.job import (
    OPEN_INTEREST_TIMEFRAME,
    RENAMED,
    Answer,
    ExchangeError,
    GeoBlockError,
    Job,
    QuoteError,
    UnknownSymbolError,
    coin_of,
    did_you_mean,
    renamed_ms,
)
from pipeline.candles.schema import DAY_MS, PUBLISHED

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
"""Rows to ask for where ccxt does not know an exchange's limit; all that we know serve as many."""

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
"""(exchange, kind) -> days that a published series reaches back, if not to the listing."""

BASE_OPEN_INTEREST = ("bybit",)
"""Exchanges that give open interest in coins; others in USD (OKX: of all the coin's contracts)."""

CLOCK_TOLERANCE_MS = 60_000
"""A larger difference between this machine's clock and the exchange's is worth a notice, and then
both have to agree that a series' last candle has closed."""


@dataclass(frozen=True)
class _Present:
    """What the clocks say, ms since 1970 UTC."""

    now_ms: int
    """the exchange's clock: up to here candles are asked for"""
    closed_ms: int
    """the earlier one of the two clocks: what has closed by then has closed"""


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
) -> dict[Job, Answer]:
    """Fetch many series from one exchange at once, within its rate limit.

    The forming candle is dropped. What is missing, contradictory or hard to believe is asked for
    once more, and every repair is logged. A series that fails does not sink the others.

    Args:
        exchange_name: ccxt's id. Funding and open interest come from its futures.
        jobs: Series to fetch.
        base_url, timeout_s: See `open_exchange`.
        now_ms: The present in ms since 1970 UTC; by default the exchange's clock tells.
        accept_usd: Take BTC/USD for BTC/USDT where the exchange has no other, with a notice; else a
            QuoteError.
        on_page: Called, in another thread, after each page with the job and its number of rows.
        follow: Called, in that thread, with each job and its frame; may name the job that comes
            next in its place, so that a long series can be stored piece by piece.
        sleep: Waits the given seconds before a retry.

    Returns:
        Job -> frame (of those that follow each other the last one's), or the error that stopped it:
        an ExchangeError (out of reach, refuses, contradicts itself, sends what cannot be) or a
        ValueError (no such timeframe or market). A frame has `timestamp` (datetime64[ms, UTC]: open
        of a candle, instant of a settlement or observation), in time order, possibly empty, and as
        float64 the values of a candle, funding_rate (a fraction, for the interval that ends there)
        or open_interest (`attrs["unit"]`: USD, or the coin on `BASE_OPEN_INTEREST`). Gaps stay
        gaps. Its `attrs` name "exchange" and "market".

    Raises:
        ValueError: ccxt knows no exchange of that name.
    """
    clients = {}
    for is_published in sorted({job.is_published for job in jobs}):
        client = open_exchange(
            exchange_name, base_url=base_url, timeout_s=timeout_s, futures=is_published
        )
        client.sleep = sleep
        clients[is_published] = client
    if len(clients) == 2 and clients[False].id == clients[True].id and clients[False].is_futures:
        clients[True] = clients[False]
    errands = [_Errand(clients[job.is_published], job, accept_usd, on_page, follow) for job in jobs]
    return _fetch_at_once(errands, now_ms)


@dataclass(frozen=True)
class _Errand:
    """A job and all that it takes; see the arguments of `fetch_many`."""

    client: Any
    job: Job
    accept_usd: bool = True
    on_page: Callable[[Job, int], None] | None = None
    follow: Callable[[Job, pd.DataFrame], Job | None] | None = None
    present: _Present = _Present(0, 0)


def _fetch_at_once(errands: Sequence[_Errand], now_ms: int | None) -> dict[Job, Answer]:
    """Job -> frame or error, of all at once; `now_ms` None: the exchange's clock tells."""
    answers = {errand.job: _kind_error(errand.client, errand.job.kind) for errand in errands}
    errands = [errand for errand in errands if answers[errand.job] is None]
    clients = list(dict.fromkeys(errand.client for errand in errands))

    async def fetch_all() -> list[Answer]:
        places = asyncio.Semaphore(MAX_JOBS)
        async with connected(*clients):
            presents = {client: await _prepare(client, now_ms) for client in clients}
            tasks = [_fetch_all_pieces(one, presents[one.client], places) for one in errands]
            return await asyncio.gather(*tasks)

    if errands:
        answers |= zip((errand.job for errand in errands), run(fetch_all()))
    return answers


def timeframes_of(exchange_name: str) -> tuple[str, ...]:
    """Timeframes that an exchange has, as ccxt knows them; asks the network nothing."""
    return tuple(open_exchange(exchange_name).timeframes or ())


def _kind_error(client: Any, kind: str) -> ValueError | None:
    """The error of a series that the exchange does not have."""
    if kind in PUBLISHED:
        method = "fetchFundingRateHistory" if kind == "funding" else "fetchOpenInterestHistory"
        if client.has[method] and client.is_futures:
            return None
        futures = ", ".join(FUTURES_CHAIN)
        return ValueError(f"{client.id} has no {kind}; use one of {futures}, opened as futures")
    timeframes = client.timeframes or {}
    if kind in timeframes:
        return None
    known = ", ".join(timeframes) or "no candles at all"
    return ValueError(f"{client.id} has no timeframe {kind!r}; it has {known}")


async def _prepare(client: Any, now_ms: int | None) -> _Present | Exception:
    """Load the markets; the present, or the error that stops all."""
    try:
        markets = await request(client, "the list of markets", client.load_markets)
        if not markets:
            return ExchangeError(
                f"{client.id}: its list of markets is empty or unreadable; {FOREIGN_ANSWER}"
            )
        return await _present(client) if now_ms is None else _Present(now_ms, now_ms)
    except (ExchangeError, ValueError) as error:
        return error


async def _present(client: Any) -> _Present:
    """What the exchange's clock says, else this machine's."""
    ours = client.milliseconds()
    if not client.has["fetchTime"]:
        return _Present(ours, ours)
    try:
        theirs = int(await request(client, "the time", client.fetch_time, retry=False))
    except GeoBlockError:
        raise
    except (ExchangeError, TypeError) as error:
        text = "%s does not tell its time (%s); this machine's clock counts"
        logger.warning(text, client.id, error)
        return _Present(ours, ours)
    if abs(theirs - ours) <= CLOCK_TOLERANCE_MS:
        return _Present(theirs, theirs)
    logger.warning(
        "this machine's clock is %.0f min %s that of %s, which counts; set it",
        abs(theirs - ours) / 60_000,
        "behind" if theirs > ours else "ahead of",
        client.id,
    )
    return _Present(theirs, min(theirs, ours))


async def _fetch_all_pieces(
    errand: _Errand, present: _Present | Exception, places: asyncio.Semaphore
) -> Answer:
    """The last frame of a job and those that follow it, or the error that stopped them."""
    if isinstance(present, Exception):
        return present
    async with places:
        try:
            job: Job | None = errand.job
            while job is not None:
                frame = await _fetch(replace(errand, job=job, present=present))
                if errand.follow is None:
                    break
                # It may ask another exchange, for which this one's other series shall not wait.
                job = await asyncio.to_thread(errand.follow, job, frame)
            return frame
        except (ExchangeError, ValueError) as error:
            return error


async def _fetch(errand: _Errand) -> pd.DataFrame:
    """One series, from the market of its symbol, or from the two of a renamed coin."""
    client, job = errand.client, errand.job
    *older_market, market = _find_markets(client, job.symbol, accept_usd=errand.accept_usd)
    series = _paged_series(errand, market)
    first, last = _span(errand)
    rows = await _fetch_rows(series, job.n_candles, max(first, renamed_ms(market)), last)
    for older in older_market:
        boundary = int(rows[0, 0]) - series.stride_ms if len(rows) else last
        n_older = None if job.n_candles is None else job.n_candles - len(rows)
        before = await _fetch_rows(_paged_series(errand, older), n_older, first, boundary)
        if len(before) and len(rows):
            days = (rows[0, 0] - before[-1, 0] - job.step_ms) / DAY_MS
            text = "%s: %s goes on as %s; joined, %.2f days are missing between"
            logger.warning(text, client.id, older, market, days)
        rows = np.concatenate([before, rows])
    if client.markets[market].get("active") is False:
        if len(rows) == 0:
            raise UnknownSymbolError(
                f"{client.id} no longer trades {market} and has no {job.kind} of it in the span "
                "asked for; choose another exchange"
            )
        logger.warning("%s no longer trades %s", client.id, market)
    frame = pages.to_frame(series, rows)
    frame.attrs = {"exchange": client.id, "market": " + ".join([*older_market, market])}
    if job.kind == "open_interest":
        frame.attrs["unit"] = coin_of(market) if client.id in BASE_OPEN_INTEREST else "USD"
    return frame


def _find_markets(client: Any, symbol: str, *, accept_usd: bool) -> list[str]:
    """ccxt's symbol of the market that is meant; of a renamed coin both, the older first.

    On futures exchanges BTC/USDT means the perpetual BTC/USDT:USDT.

    Raises:
        UnknownSymbolError: There is no such market.
        QuoteError: There is one in USD, which is not accepted.
    """
    coin, _, quote = symbol.partition("/")
    names = next(([old, new] for old, (new, _) in RENAMED.items() if coin in (old, new)), [coin])
    quotes = (quote, "USD", "USD:USD") if quote in ("USDT", "USDT:USDT") else (quote,)
    for its_quote in quotes:
        listed = {name: _listed(client, f"{name}/{its_quote}") for name in names}
        found = [market for market in listed.values() if market]
        if not found:
            continue
        if its_quote != quote:
            if not accept_usd:
                raise QuoteError(
                    f"{client.id} quotes {coin} in USD alone ({found[-1]}); choose another exchange"
                )
            text = "%s has no %s; %s is taken for it"
            logger.warning(text, client.id, symbol, " and ".join(found))
        elif len(found) < len(names):
            absent = next(name for name, market in listed.items() if not market)
            logger.warning("%s has %s but no %s, its other name", client.id, found[0], absent)
        return found
    raise UnknownSymbolError(
        f"{client.id} has no market {symbol!r}; {did_you_mean(symbol, client.markets)}"
    )


def _listed(client: Any, pair: str) -> str:
    """ccxt's symbol of a pair, or "" where the exchange does not have it."""
    if pair in client.markets:
        return pair
    perpetual = f"{pair}:{pair.rpartition('/')[2]}"
    return perpetual if client.is_futures and perpetual in client.markets else ""


def _span(errand: _Errand) -> tuple[int, int]:
    """First and last instant at which rows may lie."""
    job, step_ms = errand.job, errand.job.step_ms
    now_ms = errand.present.now_ms
    end = now_ms if job.until_ms is None else min(now_ms, job.until_ms)
    first = max(0, job.since_ms or 0)
    oldest = _oldest(errand)
    if first < oldest:
        logger.warning(
            "%s: %s of %s is kept for %.0f days; %.1f days that were asked for are missing",
            errand.client.id,
            job.kind,
            job.symbol,
            (errand.present.now_ms - oldest) / DAY_MS,
            (oldest - first) / DAY_MS,
        )
        first = oldest
    if job.kind == "funding":
        return first, end
    first = -(-first // step_ms) * step_ms
    last = end // step_ms * step_ms
    return first, last if job.is_published else last - step_ms


def _oldest(errand: _Errand) -> int:
    """Instant before which the exchange has no such series, ms since 1970 UTC."""
    days = HISTORY_DAYS.get((errand.client.id, errand.job.kind))
    return 0 if days is None else errand.present.now_ms - days * DAY_MS


async def _fetch_rows(
    series: pages.PagedSeries, n_rows: int | None, first: int, last: int
) -> np.ndarray:
    if last < first or n_rows == 0:
        return series.empty
    closed_ms = series.closed_ms
    is_sure = series.job.is_published or last + series.step_ms <= closed_ms
    is_sure = is_sure or await _is_followed(series, last)
    if n_rows is None:
        rows = await pages.fetch_span(series, first, last)
    else:
        rows = await pages.fetch_newest(series, n_rows if is_sure else n_rows + 1, last)
    if is_sure or len(rows) == 0 or rows[-1, 0] + series.step_ms <= closed_ms:
        return rows if n_rows is None else rows[-n_rows:]
    text = (
        "%s: the candle of %s is left out: no later one is there, and by this machine's clock it "
        "has not closed; set the clock if it is wrong"
    )
    logger.warning(text, series.name, f"{pd.Timestamp(int(rows[-1, 0]), unit='ms'):%Y-%m-%d %H:%M}")
    return rows[:-1]


async def _is_followed(series: pages.PagedSeries, last: int) -> bool:
    """Whether the exchange has a later candle than this one, which so has closed."""
    rows = await series.ask(last, last + series.step_ms, 2)
    return any(row[0] is not None and row[0] > last for row in rows)


def _paged_series(errand: _Errand, market: str) -> pages.PagedSeries:
    """How to ask for the rows of a market."""
    client, job = errand.client, errand.job
    what = job.kind if job.is_published else "candles"
    page_rows = PAGE_ROWS.get((client.id, what))
    if page_rows is None and not job.is_published:
        page_rows = client.feature_value(market, "fetchOHLCV", "limit")

    async def ask(since: int, until: int, limit: int) -> list[list[Any]]:
        async def send() -> list[list[Any]]:
            if job.is_published:
                end = min(until, since + limit * job.step_ms - 1)
                return await _ask_published(client, market, job.kind, since, end, limit)
            return await client.fetch_ohlcv(market, job.kind, since, limit)

        asked = f"{what.replace('_', ' ')} of {market}"
        rows = await request(client, asked, send)
        if errand.on_page is not None:
            errand.on_page(job, len(rows))
        return rows

    oldest_ms = -(-_oldest(errand) // job.step_ms) * job.step_ms
    page_rows = page_rows or DEFAULT_PAGE_ROWS
    clocks = (errand.present.now_ms, errand.present.closed_ms)
    return pages.PagedSeries(client.id, market, job, page_rows, ask, *clocks, oldest_ms)


async def _ask_published(
    client: Any, market: str, kind: str, since: int, until: int, limit: int
) -> list[list[Any]]:
    """Rows [time, value] of one request."""
    # It names both ends, because some exchanges send the newest of what matches.
    if (client.id, kind) in LIMITS:
        await client.throttle(1, kind)
    if kind == "funding":
        bound = {"after": until + 1} if client.id == "okx" else {"until": until}
        found = await client.fetch_funding_rate_history(market, since, limit, bound)
        return [[row["timestamp"], row["fundingRate"]] for row in found]
    found = await client.fetch_open_interest_history(
        market, OPEN_INTEREST_TIMEFRAME, since, limit, {"until": until}
    )
    value = "openInterestAmount" if client.id in BASE_OPEN_INTEREST else "openInterestValue"
    return [[row["timestamp"], row[value]] for row in found]
