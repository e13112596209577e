"""Requests to the loopback exchange, the pages of rows that answer them, and how numbers are
written."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from pipeline.candles.schema import TIMEFRAME_MS
from tests.exchange_market import Listing, Series, empty_series

FOREVER_MS = 2**62


@dataclass(frozen=True)
class Request:
    venue: str
    """binance, binanceus, binanceusdm or okx"""
    path: str
    """without the venue's prefix"""
    query: dict[str, str]
    now_ms: int
    """the truth's present"""
    shown_ms: int
    """the present by the exchange's clock"""

    def number(self, name: str, default: int) -> int:
        return int(self.query.get(name) or default)


@dataclass
class Page:
    """Rows that an answer holds; faults change them before they are written down in the venue's
    dialect."""

    kind: str
    """candles, funding or open_interest"""
    request: Request
    listing: Listing
    step_ms: int
    """length of a candle"""
    series: Series
    """the truth that the rows are of"""
    first: int
    """position of the first row in the series"""
    rows: list[list[Any]]
    """[time in ms, *numbers] in time order; None is sent as null"""
    keeps_newest: bool
    """which rows remain where more match than one page holds"""
    forming_ms: int | None = None
    """open of the candle among them that has not closed yet"""
    marked_closed_ms: int | None = None
    """when that candle has closed, according to the answer"""
    before: list[list[Any]] | None = None
    """the rows that the series was answered with last time"""

    @property
    def key(self) -> str:
        """Names the series that the page is of."""
        return f"{self.kind} {self.request.venue} {self.listing.symbol} {self.step_ms}"


@dataclass
class Answer:
    kind: str
    """markets, time, candles, funding, open_interest or error"""
    body: Any = None
    page: Page | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """sent instead of page and body"""
    ending: str = ""
    """how the connection breaks: reset or hang (nothing is sent), truncated (half of the body
    is)"""


def text(number: float | None) -> str | None:
    """A number as exchanges send it: to the last bit, and without an exponent.

    Example:
        >>> text(0.1), text(1e-07), text(60000.0)
        ('0.1', '0.0000001', '60000.0')
    """
    shown = repr(number)
    if "e" not in shown and "n" not in shown:
        return shown
    return {"None": None, "nan": "NaN"}[shown] if "n" in shown else f"{Decimal(shown):f}"


def forming(row: list[float], share: float) -> list[float]:
    """A candle of which this share has passed: sound, with the same open, and other numbers than it
    will close with."""
    time, open_, high, low, close, volume = row
    so_far = open_ + (close - open_) * share
    top, bottom = max(open_, so_far), min(open_, so_far)
    return [
        time,
        open_,
        top + (high - top) * share,
        bottom + (low - bottom) * share,
        so_far,
        volume * share,
    ]


def candle_page(
    request: Request,
    listing: Listing,
    timeframe: str,
    span: tuple[int, int],
    limit: int,
    *,
    keeps_newest: bool,
    n_newest: int | None = None,
) -> Page:
    """Candles that open from `span[0]` to `span[1]`, both included, as far as they have begun.

    Args:
        request: Whose `now_ms` ends the history.
        listing: The pair.
        timeframe: Without candles of it the page is empty.
        span: Milliseconds since 1970 UTC.
        limit: Rows at most.
        keeps_newest: Which rows remain where more than `limit` match.
        n_newest: Nothing older than this many of the newest candles is known.
    """
    series, step_ms = listing.candles.get(timeframe, empty_series(5)), TIMEFRAME_MS[timeframe]
    n_begun = int(np.searchsorted(series.times, request.now_ms, side="right"))
    oldest = 0 if n_newest is None else max(0, n_begun - n_newest)
    page = _page(
        "candles", request, listing, step_ms, series, span, (oldest, n_begun), limit, keeps_newest
    )
    if (
        page.rows
        and page.first + len(page.rows) == n_begun
        and page.rows[-1][0] + step_ms > request.now_ms
    ):
        page.forming_ms = page.rows[-1][0]
        page.rows[-1] = forming(page.rows[-1], (request.now_ms - page.forming_ms) / step_ms)
    return page


def published_page(
    request: Request,
    listing: Listing,
    kind: str,
    span: tuple[int, int],
    limit: int,
    *,
    keeps_newest: bool,
    step_ms: int = 1,
) -> Page:
    """Funding or open interest from `span[0]` to `span[1]`, both included, as far as it is
    published.

    Of a `step_ms` longer than the series' own, the rows on that grid.
    """
    series: Series = getattr(listing, kind)
    on_grid = series.times % step_ms == 0
    series = Series(series.times[on_grid], series.numbers[on_grid])
    n_known = int(np.searchsorted(series.times, request.now_ms, side="right"))
    return _page(kind, request, listing, step_ms, series, span, (0, n_known), limit, keeps_newest)


def _page(
    kind: str,
    request: Request,
    listing: Listing,
    step_ms: int,
    series: Series,
    span: tuple[int, int],
    known: tuple[int, int],
    limit: int,
    keeps_newest: bool,
) -> Page:
    """The rows within `span` (times) and `known` (positions), cut to `limit` of them."""
    first = max(known[0], int(np.searchsorted(series.times, span[0])))
    last = max(first, min(known[1], int(np.searchsorted(series.times, span[1], side="right"))))
    if last - first > limit:
        first, last = (last - limit, last) if keeps_newest else (first, first + limit)
    return Page(
        kind, request, listing, step_ms, series, first, true_rows(series, first, last), keeps_newest
    )


def true_rows(series: Series, first: int, last: int) -> list[list[Any]]:
    """Rows [time, *numbers] of a series by position."""
    times, numbers = series.times[first:last].tolist(), series.numbers[first:last].tolist()
    return [[time, *row] for time, row in zip(times, numbers, strict=True)]
