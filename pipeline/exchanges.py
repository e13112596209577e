"""Candles from exchanges through ccxt: opening one, paging forward in time, and errors that say what to do.

Users write `BTC/USDT`; on futures exchanges the linear perpetual `BTC/USDT:USDT` is meant. ccxt is imported
on first use, not with this module.
"""

from __future__ import annotations

import difflib
import functools
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.candles import CANDLE_COLUMNS, timeframe_ms, utc_from_ms

if TYPE_CHECKING:
    import ccxt

logger = logging.getLogger(__name__)

# Tried in this order by --source auto. Binance has the longest histories but answers HTTP 451 to addresses in
# the USA, Colab's among them; Binance US serves those. The others serve hourly candles of USDT pairs without
# a key, as far back as they are asked for (Kraken has only the newest 720, Gate the newest 10,000). Bybit
# comes last, because it too refuses the USA.
EXCHANGE_CHAIN: tuple[str, ...] = ("binance", "binanceus", "okx", "kucoin", "bybit")

RETRY_WAITS_S = (1.0, 2.0, 4.0)
RETRY_BUDGET_S = 30.0
"""No retry starts later than this after a request's first attempt."""

DEFAULT_PAGE_CANDLES = 200
"""Candles to ask for where ccxt does not know an exchange's limit; every exchange we know serves as many."""

MAX_EMPTY_PAGES = 100
"""Empty pages in a row after which a fetch gives up: 100,000 candles on Binance, 11 years of 1h."""

FOREIGN_ANSWER = "is there a proxy or a login page in between? Try again later or choose another exchange"


class ExchangeError(ConnectionError):
    """An exchange is out of reach, refuses, or answers nonsense; the message says which, and what to do."""


def open_exchange(name: str, *, base_url: str | None = None, timeout_s: float = 10.0) -> ccxt.Exchange:
    """Make ccxt's client of an exchange, rate-limited and without a key. Asks the network nothing yet.

    Args:
        name: ccxt's id, such as "binance" (spot) or "binanceusdm" (futures). Of one that has both, spot.
        base_url: Such as "http://127.0.0.1:8000"; replaces scheme and host of all endpoints (tests, mirrors).
        timeout_s: Seconds to wait for a connection and between two bytes of an answer.

    Raises:
        ValueError: ccxt knows no exchange of that name.
    """
    import ccxt

    if name not in ccxt.exchanges:
        hint = _did_you_mean(name, ccxt.exchanges)
        raise ValueError(f"ccxt {ccxt.__version__} knows no exchange {name!r}; {hint}")
    # The last answer is kept because ccxt turns an answer that is not JSON into "no candles".
    settings = {"enableRateLimit": True, "timeout": int(timeout_s * 1000), "enableLastJsonResponse": True}
    exchange = getattr(ccxt, name)(settings)
    _restrict_to_spot(exchange)
    if base_url is not None:
        exchange.urls["api"] = _replace_host(exchange.urls["api"], base_url.rstrip("/"))
    return exchange


def fetch_ohlcv(
    exchange: ccxt.Exchange, symbol: str, timeframe: str, *, n_candles: int | None = None,
    since_ms: int | None = None, until_ms: int | None = None, now_ms: int | None = None,
    on_page: Callable[[int], None] | None = None, sleep: Callable[[float], None] = time.sleep,
) -> pd.DataFrame:  # fmt: skip
    """Fetch closed candles, paging forward in time; the forming candle is dropped.

    Args:
        exchange: From `open_exchange`.
        symbol: Such as "BTC/USDT"; futures exchanges also take "BTC/USDT:USDT".
        timeframe: Such as "1h".
        n_candles: Return the newest this many; fewer come back where the listing is younger.
        since_ms: Instead of `n_candles`: return all that open at or after this, ms since 1970 UTC.
        until_ms: Only candles that have closed by then, ms since 1970 UTC.
        now_ms: The present in ms since 1970 UTC; by default this machine's clock.
        on_page: Called after each page with the number of candles it brought.
        sleep: Waits the given seconds before a retry.

    Returns:
        Columns timestamp (open time, datetime64[ms, UTC]), open, high, low, close, volume (float64), in time
        order, without duplicates. Gaps stay gaps. Not otherwise validated, and possibly empty.

    Raises:
        ValueError: Unknown symbol or timeframe, or not exactly one of `n_candles` and `since_ms`.
        ExchangeError: The exchange is out of reach, refuses, or contradicts itself.
    """
    if (n_candles is None) == (since_ms is None):
        raise ValueError(f"n_candles is {n_candles} and since_ms is {since_ms}; give exactly one of them")
    if n_candles is not None and n_candles < 1:
        raise ValueError(f"n_candles is {n_candles}; ask for at least 1 candle")
    if timeframe not in (exchange.timeframes or {}):
        known = ", ".join(exchange.timeframes or {}) or "no candles at all"
        raise ValueError(f"{exchange.id} has no timeframe {timeframe!r}; it has {known}")
    market = _find_market(exchange, symbol, sleep)
    page_candles = exchange.feature_value(market, "fetchOHLCV", "limit") or DEFAULT_PAGE_CANDLES
    series = _Series(exchange, market, timeframe, timeframe_ms(timeframe), page_candles, on_page, sleep)
    now_ms = exchange.milliseconds() if now_ms is None else now_ms
    closed_by = now_ms if until_ms is None else min(now_ms, until_ms)
    last_open = (closed_by // series.step_ms - 1) * series.step_ms
    if n_candles is not None:
        candles = _to_frame(series, _fetch_newest(series, n_candles, last_open))
        return candles.tail(n_candles).reset_index(drop=True)
    first_open = max(0, -(-since_ms // series.step_ms) * series.step_ms)  # type: ignore[operator]
    return _to_frame(series, _fetch_span(series, first_open, last_open))


@dataclass(frozen=True)
class _Series:
    """The candles of one market, and how to ask for them."""

    exchange: ccxt.Exchange
    market: str
    timeframe: str
    step_ms: int
    page_candles: int
    on_page: Callable[[int], None] | None
    sleep: Callable[[float], None]


def _fetch_newest(series: _Series, n_candles: int, last_open: int) -> list[list[Any]]:
    """Rows of at least the newest `n_candles`, or of all there are; looks further back past gaps."""
    start = max(0, last_open - (n_candles - 1) * series.step_ms)
    rows = _fetch_span(series, start, last_open)
    while start > 0 and (missing := n_candles - len({row[0] for row in rows})) > 0:
        earlier = max(0, start - max(missing, series.page_candles) * series.step_ms)
        older = _fetch_span(series, earlier, start - series.step_ms)
        if not older:  # the listing began here, or a gap of more than a page
            break
        rows, start = older + rows, earlier
    return rows


def _fetch_span(series: _Series, start: int, last_open: int) -> list[list[Any]]:
    """Rows that open from `start` to `last_open`, both included, as the exchange sent them.

    Pages are asked for forward in time, each from behind the newest row there is, because an exchange may
    send fewer rows than asked. Some exchanges answer with a window of time: an empty page may lie inside a
    gap, so the next one is asked for behind it; and a window may be cut at its old end, so what is missing
    there is asked for once more.
    """
    rows: list[list[Any]] = []
    cursor, n_empty = start, 0
    while cursor <= last_open:
        limit = min(series.page_candles, (last_open - cursor) // series.step_ms + 1)
        page = [row for row in _fetch_page(series, cursor, limit) if row[0] >= cursor]
        fresh = [row for row in page if row[0] <= last_open]
        rows += fresh
        oldest = min((row[0] for row in fresh), default=cursor)
        if oldest > cursor:
            rows += _fetch_span(series, cursor, oldest - series.step_ms)
        n_empty = 0 if page else n_empty + 1
        if n_empty == MAX_EMPTY_PAGES:
            raise ExchangeError(
                f"{series.exchange.id}: {n_empty} pages in a row held no candles of {series.market}, up to "
                f"{pd.Timestamp(cursor, unit='ms')} UTC; start after its listing, or end before its delisting"
            )
        cursor = max(row[0] for row in page) + series.step_ms if page else cursor + limit * series.step_ms
    return rows


def _fetch_page(series: _Series, since: int, limit: int) -> list[list[Any]]:
    """Rows [open time in ms, open, high, low, close, volume] of one request."""
    exchange = series.exchange
    fetch = functools.partial(exchange.fetch_ohlcv, series.market, series.timeframe, since, limit)
    rows = _request(exchange, f"candles of {series.market}", fetch, series.sleep)
    if not rows and exchange.last_json_response is None:
        raise ExchangeError(f"{exchange.id}: answered for {series.market} with no JSON; {FOREIGN_ANSWER}")
    if series.on_page is not None:
        series.on_page(len(rows))
    return rows


def _to_frame(series: _Series, rows: list[list[Any]]) -> pd.DataFrame:
    """Sorted frame of distinct candles; raises where one timestamp has two sets of values."""
    columns: dict[str, Any] = {"timestamp": utc_from_ms(np.array([row[0] for row in rows], dtype=np.int64))}
    for position, name in enumerate(CANDLE_COLUMNS[1:], start=1):
        columns[name] = np.array([row[position] for row in rows], dtype=np.float64)  # None becomes NaN
    candles = pd.DataFrame(columns).drop_duplicates().sort_values("timestamp", ignore_index=True)
    twice = candles["timestamp"].duplicated()
    if twice.any():
        raise ExchangeError(
            f"{series.exchange.id}: {int(twice.sum())} candle(s) of {series.market} {series.timeframe} came "
            f"twice with different values, first {candles['timestamp'][twice].iloc[0]:%Y-%m-%d %H:%M}; "
            "try again later or choose another exchange"
        )
    return candles


def _find_market(exchange: ccxt.Exchange, symbol: str, sleep: Callable[[float], None]) -> str:
    """ccxt's symbol of the market that the user's symbol means here."""
    markets = _request(exchange, "the list of markets", exchange.load_markets, sleep)
    if not markets:
        raise ExchangeError(f"{exchange.id}: its list of markets is empty or unreadable; {FOREIGN_ANSWER}")
    if symbol in markets:
        return symbol
    perpetual = f"{symbol}:{symbol.rpartition('/')[2]}"
    if perpetual in markets and not exchange.has["spot"]:
        return perpetual
    raise ValueError(f"{exchange.id} has no market {symbol!r}; {_did_you_mean(symbol, list(markets))}")


def _request(exchange: ccxt.Exchange, what: str, send: Callable[[], Any], sleep: Callable[[float], None]) -> Any:
    """Result of `send()`; what may pass is retried, all else that ccxt raises becomes an ExchangeError."""
    import ccxt

    began = time.monotonic()
    for n_attempts, wait_s in enumerate((*RETRY_WAITS_S, None), start=1):  # noqa: B007 (used after the loop)
        try:
            return send()
        except ccxt.BaseError as error:
            failure: Exception = error
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            failure = error  # ccxt's own code, on an answer of another shape than it expects
        if _refuses_address(failure):
            raise ExchangeError(
                f"{exchange.id} refuses this machine's address, usually for its country "
                f"({_describe(failure)}); choose another exchange or run elsewhere"
            ) from failure
        if wait_s is None or not _may_pass(failure):
            break
        wait_s = max(wait_s, _retry_after_s(failure))
        if time.monotonic() - began + wait_s > RETRY_BUDGET_S:
            break
        logger.warning("%s: %s failed (%s); again in %.0f s", exchange.id, what, _describe(failure), wait_s)
        sleep(wait_s)
    raise ExchangeError(
        f"{exchange.id}: {what} failed after {n_attempts} attempt(s): {_describe(failure)}; "
        "check the network, try again later or choose another exchange"
    ) from failure


def _http_response(error: Exception) -> Any:
    """The HTTP answer of status 400 or more that made ccxt raise this error, or None."""
    # The class alone does not tell: ccxt raises ExchangeNotAvailable for 404, 451 and 503 alike on Binance,
    # and its plain ExchangeError for all three on Bybit.
    return getattr(error.__cause__ or error.__context__, "response", None)


def _refuses_address(error: Exception) -> bool:
    """Whether the exchange turns this address away: HTTP 451 (Binance), 403 (Bybit), or in words."""
    import ccxt

    response = _http_response(error)
    if response is not None and response.status_code in (403, 451):
        return True
    return isinstance(error, ccxt.RestrictedLocation) or "restricted location" in str(error)


def _may_pass(error: Exception) -> bool:
    """Whether a retry may help: after an overload or a broken connection, not without a network."""
    import ccxt
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    response = _http_response(error)
    if response is not None:
        return response.status_code in (408, 429) or response.status_code >= 500  # 418 is Binance's ban
    return isinstance(error, ccxt.NetworkError) and not isinstance(
        _socket_error(error),
        (NewConnectionError, ConnectTimeoutError),  # no such name, refused, or no answer
    )


def _retry_after_s(error: Exception) -> float:
    """Seconds the exchange demands to be left alone (Binance bans those who do not listen), else 0."""
    response = _http_response(error)
    demand = "" if response is None else response.headers.get("Retry-After", "")
    return float(demand) if demand.isdigit() else 0.0


def _socket_error(error: Exception) -> Exception | None:
    """What urllib3 gives as the reason why a connection could not be made, or None."""
    arguments = error.__cause__.args if error.__cause__ is not None else ()
    return getattr(arguments[0], "reason", None) if arguments else None


def _describe(error: Exception) -> str:
    """One line of at most 300 characters."""
    reason = _socket_error(error)  # urllib3 puts the connection before it: "HTTPSConnection(host=…): Failed to …"
    text = f"{type(error).__name__}: {error}" if reason is None else str(reason).split("): ", 1)[-1]
    return " ".join(text.split())[:300]


def _did_you_mean(word: str, known: list[str]) -> str:
    by_upper = {name.upper(): name for name in known}
    close = [by_upper[match] for match in difflib.get_close_matches(word.upper(), list(by_upper), 3)]
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"it has {len(known)}, such as {', '.join(known[:3])}"


def _restrict_to_spot(exchange: ccxt.Exchange) -> None:
    """Let an exchange with spot markets load those alone: fewer requests, no futures host that may refuse."""
    if not exchange.has["spot"]:
        return
    exchange.options["defaultType"] = "spot"
    fetch_markets = exchange.options.get("fetchMarkets")
    types = fetch_markets.get("types") if isinstance(fetch_markets, dict) else None
    if isinstance(types, list) and "spot" in types:
        fetch_markets["types"] = ["spot"]


def _replace_host(urls: Any, base_url: str) -> Any:
    """The same tree of URLs with another scheme and host."""
    if isinstance(urls, dict):
        return {name: _replace_host(url, base_url) for name, url in urls.items()}
    return re.sub(r"^\w+://[^/]+", lambda _: base_url, urls)
