"""What the loopback exchange answers, in the REST dialects of Binance spot, Binance USDT-M futures
and OKX v5.

The rules are those of the exchanges' API documentation (developers.binance.com: spot REST API,
USDS-margined futures; www.okx.com/docs-v5). Only what ccxt asks for without a key is there:
markets, time, candles, funding, open interest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.candles.schema import TIMEFRAME_MS
from tests.exchange_answers import (
    FOREVER_MS,
    Answer,
    Page,
    Request,
    candle_page,
    published_page,
    text,
)
from tests.exchange_market import DAY_MS, Listing, Market

BINANCE_SPOT_ROWS, BINANCE_FUTURES_ROWS, OKX_ROWS = 1000, 1500, 300

BINANCE_OPEN_INTEREST_DAYS = 30
START_SLACK_MS = 3_600_000
"""How much older a request for Binance's open interest may start; measured there, 30 days pass and
35 do not."""

OKX_FUNDING_DAYS = 90
OKX_OPEN_INTEREST_DAYS = {"5m": 2, "1H": 30, "1D": 180}
OKX_OPEN_INTEREST_ROWS = 1440
OKX_RECENT_CANDLES = 1440
"""As many of the newest candles does OKX's `market/candles` know; older ones are in
`market/history-candles`."""

OKX_BARS = {
    "1m": "1m",
    "3m": "3m",
    "5m": "5m",
    "15m": "15m",
    "30m": "30m",
    "1H": "1h",
    "2H": "2h",
    "4H": "4h",
    "6Hutc": "6h",
    "12Hutc": "12h",
    "1Dutc": "1d",
}

CONTRACTS_PER_COIN = 100
"""OKX counts a swap's volume in contracts, here of 0.01 coins each."""

PERPETUAL_QUOTES = ("USDT", "USDC")

LIMITS = {
    "binance": (6000, 60.0),
    "binanceus": (6000, 60.0),
    "binanceusdm": (2400, 60.0),
    "binanceusdm fundingRate": (500, 300.0),
    "binanceusdm openInterestHist": (1000, 300.0),
    "okx public/time": (10, 2.0),
    "okx public/instruments": (20, 2.0),
    "okx market/candles": (40, 2.0),
    "okx market/history-candles": (20, 2.0),
    "okx public/funding-rate-history": (10, 2.0),
    "okx rubik/stat/contracts/open-interest-volume": (5, 2.0),
}
"""What is counted -> (weight or requests allowed, in so many seconds)."""


def charge(request: Request) -> tuple[str, int]:
    """What a request counts towards, and how much."""
    name = request.path.rsplit("/", 1)[-1]
    if request.venue == "okx":
        return f"okx {request.path.removeprefix('/api/v5/')}", 1
    if name in ("fundingRate", "openInterestHist"):
        return f"binanceusdm {name}", 1
    if request.venue != "binanceusdm":
        return request.venue, {"exchangeInfo": 20, "klines": 2}.get(name, 1)
    limit = request.number("limit", 500)
    return (
        "binanceusdm",
        1 if name != "klines" or limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10,
    )


def answer(request: Request, market: Market) -> Answer:
    """The true answer to a request."""
    if request.path not in HANDLERS:
        return Answer("error", {"code": "404", "msg": "There is no such endpoint."}, status=404)
    return HANDLERS[request.path](request, market)


def dumped(answer: Answer) -> bytes:
    """An answer's body as the venue writes it."""
    body, page = answer.body, answer.page
    if page is not None:
        body = WRITERS["okx" if page.request.venue == "okx" else "binance", page.kind](page)
    return json.dumps(body, separators=(",", ":")).encode()


def rate_limited(venue: str, wait_s: float, *, is_ban: bool) -> Answer:
    """HTTP 429, or the ban 418."""
    headers = {"Retry-After": str(math.ceil(wait_s))}
    if venue == "okx":
        return Answer(
            "error",
            {"code": "50011", "msg": "Too Many Requests", "data": []},
            status=429,
            headers=headers,
        )
    said = (
        "Way too much request weight used; IP banned."
        if is_ban
        else "Too much request weight used."
    )
    return Answer(
        "error", {"code": -1003, "msg": said}, status=418 if is_ban else 429, headers=headers
    )


def restricted(venue: str) -> Answer:
    """HTTP 451: the exchange does not serve this country."""
    said = "Service unavailable from a restricted location according to 'b. Eligibility'."
    return Answer("error", {"code": "0" if venue == "okx" else 0, "msg": said}, status=451)


# --- Binance
# ------------------------------------------------------------------------------------------------


def _binance_time(request: Request, market: Market) -> Answer:
    return Answer("time", {"serverTime": request.shown_ms})


def _binance_markets(request: Request, market: Market) -> Answer:
    listed = [listing for listing in market.listings.values() if listing.is_known(request.now_ms)]
    symbols = [
        _binance_market(listing, request) for listing in listed if _is_traded(request, listing)
    ]
    return Answer(
        "markets", {"timezone": "UTC", "serverTime": request.shown_ms, "symbols": symbols}
    )


def _is_traded(request: Request, listing: Listing) -> bool:
    """Futures are on the pairs in USDT and USDC; there are no coin-margined ones."""
    is_spot = request.path.startswith("/api/")
    return is_spot or (
        request.path.startswith("/fapi/") and listing.symbol.endswith(PERPETUAL_QUOTES)
    )


def _binance_market(listing: Listing, request: Request) -> dict[str, Any]:
    base, quote = listing.symbol.split("/")
    is_closed, is_spot = listing.is_closed(request.now_ms), request.venue != "binanceusdm"
    status = ("BREAK" if is_spot else "SETTLING") if is_closed else "TRADING"
    price = {
        "filterType": "PRICE_FILTER",
        "minPrice": "0.00000001",
        "maxPrice": "1000000",
        "tickSize": "0.00000001",
    }
    lot = {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001"}
    market = {
        "symbol": base + quote,
        "status": status,
        "baseAsset": base,
        "quoteAsset": quote,
        "filters": [price, lot],
    }
    if is_spot:
        return {**market, "isSpotTradingAllowed": not is_closed, "permissions": ["SPOT"]}
    dates = {"onboardDate": listing.begins_ms, "deliveryDate": 4_133_404_800_000}
    return {**market, "contractType": "PERPETUAL", "marginAsset": quote, **dates}


def _binance_listing(request: Request, market: Market) -> Listing | None:
    for listing in market.listings.values():
        if listing.symbol.replace("/", "") == request.query.get("symbol") and listing.is_known(
            request.now_ms
        ):
            return listing
    return None


def _binance_error(code: int, message: str) -> Answer:
    return Answer("error", {"code": code, "msg": message}, status=400)


def _binance_candles(request: Request, market: Market) -> Answer:
    listing, timeframe = _binance_listing(request, market), request.query.get("interval", "")
    if listing is None:
        return _binance_error(-1121, "Invalid symbol.")
    if timeframe not in TIMEFRAME_MS:
        return _binance_error(-1120, "Invalid interval.")
    most = BINANCE_FUTURES_ROWS if request.venue == "binanceusdm" else BINANCE_SPOT_ROWS
    span = (request.number("startTime", 0), request.number("endTime", FOREVER_MS))
    limit, is_newest = min(request.number("limit", 500), most), "startTime" not in request.query
    return Answer(
        "candles",
        page=candle_page(request, listing, timeframe, span, limit, keeps_newest=is_newest),
    )


def _binance_funding(request: Request, market: Market) -> Answer:
    listing = _binance_listing(request, market)
    if listing is None:
        return _binance_error(-1121, "Invalid symbol.")
    is_newest = not {"startTime", "endTime"} & set(request.query)
    limit = min(request.number("limit", 200 if is_newest else 100), 1000)
    span = (request.number("startTime", 0), request.number("endTime", FOREVER_MS))
    return Answer(
        "funding",
        page=published_page(request, listing, "funding", span, limit, keeps_newest=is_newest),
    )


def _binance_open_interest(request: Request, market: Market) -> Answer:
    """The newest rows up to `endTime`, whatever `startTime` is, and of the last 30 days alone."""
    listing, step_ms = (
        _binance_listing(request, market),
        TIMEFRAME_MS.get(request.query.get("period", ""), 0),
    )
    if listing is None:
        return _binance_error(-1121, "Invalid symbol.")
    if step_ms < TIMEFRAME_MS["5m"]:
        return _binance_error(-1120, "Invalid interval.")
    oldest = request.now_ms - BINANCE_OPEN_INTEREST_DAYS * DAY_MS
    start = request.number("startTime", oldest)
    if start < oldest - START_SLACK_MS:
        return _binance_error(-1130, "parameter 'startTime' is invalid.")
    span, limit = (
        (max(start, oldest), request.number("endTime", FOREVER_MS)),
        min(request.number("limit", 30), 500),
    )
    page = published_page(
        request, listing, "open_interest", span, limit, keeps_newest=True, step_ms=step_ms
    )
    return Answer("open_interest", page=page)


def _write_binance_candles(page: Page) -> list[list[Any]]:
    body = []
    for time, *numbers in page.rows:
        is_marked = time == page.forming_ms and page.marked_closed_ms is not None
        closes = page.marked_closed_ms if is_marked else time + page.step_ms - 1
        body.append([time, *map(text, numbers), closes, "0", 1, "0", "0", "0"])
    return body


def _write_binance_funding(page: Page) -> list[dict[str, Any]]:
    symbol = page.listing.symbol.replace("/", "")
    return [
        {"symbol": symbol, "fundingTime": time, "fundingRate": text(rate)}
        for time, rate in page.rows
    ]


def _write_binance_open_interest(page: Page) -> list[dict[str, Any]]:
    symbol, body = page.listing.symbol.replace("/", ""), []
    prices = page.listing.price_at(np.array([row[0] for row in page.rows], dtype=np.int64)).tolist()
    for (time, usd), price in zip(page.rows, prices, strict=True):
        coins = None if usd is None else usd / price
        numbers = {"sumOpenInterest": text(coins), "sumOpenInterestValue": text(usd)}
        body.append({"symbol": symbol, **numbers, "timestamp": time})
    return body


# --- OKX: newest first, `before` and `after` exclusive, errors as HTTP 200
# ----------------------------------


def _okx(data: list[Any]) -> dict[str, Any]:
    return {"code": "0", "msg": "", "data": data}


def _okx_error(code: str, message: str) -> Answer:
    return Answer("error", {"code": code, "msg": message, "data": []})


def _okx_time(request: Request, market: Market) -> Answer:
    return Answer("time", _okx([{"ts": str(request.shown_ms)}]))


def _okx_markets(request: Request, market: Market) -> Answer:
    kind, data = request.query.get("instType", ""), []
    for listing in market.listings.values():
        is_listed = kind == "SPOT" or (kind == "SWAP" and listing.symbol.endswith(PERPETUAL_QUOTES))
        if is_listed and listing.is_known(request.now_ms):
            data.append(_okx_market(listing, request.now_ms, kind))
    return Answer("markets", _okx(data))


def _okx_market(listing: Listing, now_ms: int, kind: str) -> dict[str, Any]:
    base, quote = listing.symbol.split("/")
    state = "suspend" if listing.is_closed(now_ms) else "live"
    market = {
        "instType": kind,
        "state": state,
        "listTime": str(listing.begins_ms),
        "lever": "10",
        "expTime": "",
    }
    market |= {"lotSz": "0.00000001", "minSz": "0.00001", "tickSz": "0.00000001"}
    if kind == "SPOT":
        return {**market, "instId": f"{base}-{quote}", "baseCcy": base, "quoteCcy": quote}
    contract = {
        "ctType": "linear",
        "ctVal": str(1 / CONTRACTS_PER_COIN),
        "ctValCcy": base,
        "settleCcy": quote,
    }
    return {
        **market,
        **contract,
        "instId": f"{base}-{quote}-SWAP",
        "baseCcy": "",
        "quoteCcy": "",
        "uly": f"{base}-{quote}",
    }


def _okx_listing(request: Request, market: Market) -> Listing | None:
    listing = market.listings.get(
        request.query.get("instId", "").removesuffix("-SWAP").replace("-", "/")
    )
    return listing if listing is not None and listing.is_known(request.now_ms) else None


def _okx_span(request: Request) -> tuple[int, int]:
    return request.number("before", -1) + 1, request.number("after", FOREVER_MS) - 1


def _okx_candles(request: Request, market: Market) -> Answer:
    listing, bar = _okx_listing(request, market), request.query.get("bar", "1m")
    if listing is None:
        return _okx_error("51001", "Instrument ID doesn't exist.")
    if bar not in OKX_BARS:
        return _okx_error("51000", "Parameter bar error.")
    newest = None if request.path.endswith("history-candles") else OKX_RECENT_CANDLES
    span, limit = _okx_span(request), min(request.number("limit", 100), OKX_ROWS)
    page = candle_page(
        request, listing, OKX_BARS[bar], span, limit, keeps_newest=True, n_newest=newest
    )
    return Answer("candles", page=page)


def _okx_funding(request: Request, market: Market) -> Answer:
    listing = _okx_listing(request, market)
    if listing is None or not request.query["instId"].endswith("-SWAP"):
        return _okx_error("51001", "Instrument ID doesn't exist.")
    start, end = _okx_span(request)
    span = (max(start, request.now_ms - OKX_FUNDING_DAYS * DAY_MS), end)
    limit = min(request.number("limit", 400), 400)
    return Answer(
        "funding", page=published_page(request, listing, "funding", span, limit, keeps_newest=True)
    )


def _okx_open_interest(request: Request, market: Market) -> Answer:
    """By coin, in USD, of all its contracts; here those of the pair in USDT."""
    listing, period = (
        market.listings.get(f"{request.query.get('ccy')}/USDT"),
        request.query.get("period", "5m"),
    )
    if (
        listing is None
        or not listing.is_known(request.now_ms)
        or period not in OKX_OPEN_INTEREST_DAYS
    ):
        return _okx_error("51000", "Parameter ccy or period error.")
    oldest = request.now_ms - OKX_OPEN_INTEREST_DAYS[period] * DAY_MS
    span = (max(oldest, request.number("begin", 0)), request.number("end", FOREVER_MS))
    limit, step_ms = OKX_OPEN_INTEREST_ROWS, TIMEFRAME_MS[period.lower()]
    page = published_page(
        request, listing, "open_interest", span, limit, keeps_newest=True, step_ms=step_ms
    )
    return Answer("open_interest", page=page)


def _write_okx_candles(page: Page) -> dict[str, Any]:
    data, is_swap = [], page.request.query["instId"].endswith("-SWAP")
    for time, *prices, volume in reversed(page.rows):
        contracts = None if volume is None else volume * CONTRACTS_PER_COIN
        volumes = (text(contracts), text(volume), "0") if is_swap else (text(volume), "0", "0")
        is_open = time == page.forming_ms and page.marked_closed_ms is None
        data.append([str(time), *map(text, prices), *volumes, "0" if is_open else "1"])
    return _okx(data)


def _write_okx_funding(page: Page) -> dict[str, Any]:
    name = page.listing.symbol.replace("/", "-") + "-SWAP"
    data = []
    for time, rate in reversed(page.rows):
        data.append(
            {
                "instId": name,
                "fundingTime": str(time),
                "fundingRate": text(rate),
                "realizedRate": text(rate),
            }
        )
    return _okx(data)


def _write_okx_open_interest(page: Page) -> dict[str, Any]:
    return _okx([[str(time), text(usd), "0"] for time, usd in reversed(page.rows)])


HANDLERS: Mapping[str, Callable[[Request, Market], Answer]] = {
    "/api/v3/time": _binance_time,
    "/api/v3/exchangeInfo": _binance_markets,
    "/api/v3/klines": _binance_candles,
    "/fapi/v1/time": _binance_time,
    "/fapi/v1/exchangeInfo": _binance_markets,
    "/fapi/v1/klines": _binance_candles,
    "/fapi/v1/markPriceKlines": _binance_candles,  # the mark price is the traded one here
    "/fapi/v1/fundingRate": _binance_funding,
    "/futures/data/openInterestHist": _binance_open_interest,
    "/dapi/v1/exchangeInfo": _binance_markets,
    "/api/v5/public/time": _okx_time,
    "/api/v5/public/instruments": _okx_markets,
    "/api/v5/market/candles": _okx_candles,
    "/api/v5/market/history-candles": _okx_candles,
    "/api/v5/public/funding-rate-history": _okx_funding,
    "/api/v5/rubik/stat/contracts/open-interest-volume": _okx_open_interest,
}

WRITERS: Mapping[tuple[str, str], Callable[[Page], Any]] = {
    ("binance", "candles"): _write_binance_candles,
    ("binance", "funding"): _write_binance_funding,
    ("binance", "open_interest"): _write_binance_open_interest,
    ("okx", "candles"): _write_okx_candles,
    ("okx", "funding"): _write_okx_funding,
    ("okx", "open_interest"): _write_okx_open_interest,
}
