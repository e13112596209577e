"""Funding rates and open interest, through the real ccxt."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from pipeline.candles.exchange_client import open_exchange
from pipeline.candles.job import Job
from pipeline.candles.schema import timestamps_ms
from tests import fetching
from tests.exchange_faults import Fault, FaultList
from tests.exchange_market import DAY_MS, Market, Series
from tests.fetching import BTC, HOUR_MS, MARKET, NOW_MS, fetch, fetch_one, fetch_with, truth

exchange, foreign_hosts, limited, nothing_leaves, server = fetching.FIXTURES


@pytest.mark.parametrize("venue", ["binanceusdm", "okx", "binance"])
def test_funding_comes_exact_with_candles_of_the_same_exchange(server, venue):
    funding, candles = (
        Job(BTC, "funding", since_ms=NOW_MS - 40 * DAY_MS),
        Job(BTC, "1h", n_candles=10),
    )
    found = fetch(server, [funding, candles], venue)
    assert_frame_equal(
        found[funding], MARKET.published(BTC, "funding", now_ms=NOW_MS, since_ms=funding.since_ms)
    )
    assert [str(dtype) for dtype in found[funding].dtypes] == ["datetime64[ms, UTC]", "float64"]
    assert_frame_equal(found[candles], truth(candles))
    assert found[funding].attrs["exchange"] == {"binance": "binanceusdm"}.get(venue, venue)


@pytest.mark.parametrize("hours", [1, 4])
@pytest.mark.parametrize("venue", ["binanceusdm", "okx"])
def test_other_settlement_intervals_are_kept_as_they_come(server, caplog, venue, hours):
    settled = np.arange(NOW_MS // DAY_MS * DAY_MS - 40 * DAY_MS, NOW_MS, hours * HOUR_MS)
    jitter = (
        np.arange(len(settled)) % 3
    )  # Binance stamps some settlements a millisecond or two late
    series = Series(settled + jitter, np.linspace(-0.001, 0.001, len(settled))[:, np.newaxis])
    market = Market(MARKET.listings.values())
    market.listings[BTC] = replace(market.listings[BTC], funding=series)
    server.markets = dict.fromkeys(server.markets, market)
    since_ms = int(settled[0])
    client = open_exchange(venue, base_url=server.url, futures=True)
    found = fetch_with(client, Job(BTC, "funding", since_ms), now_ms=NOW_MS)
    assert_frame_equal(found, market.published(BTC, "funding", now_ms=NOW_MS, since_ms=since_ms))
    assert caplog.text == ""


@pytest.mark.parametrize("venue", ["binanceusdm", "okx"])
def test_open_interest_is_not_asked_for_beyond_30_days_and_what_is_missing_is_said(
    server, caplog, venue
):
    client = open_exchange(venue, base_url=server.url, futures=True)
    found = fetch_with(client, Job(BTC, "open_interest", NOW_MS - 45 * DAY_MS), now_ms=NOW_MS)
    expected = MARKET.published(BTC, "open_interest", now_ms=NOW_MS, since_ms=NOW_MS - 30 * DAY_MS)
    assert_frame_equal(found, expected)
    assert found.attrs == {"exchange": venue, "market": "BTC/USDT:USDT", "unit": "USD"}
    assert (
        "open_interest of BTC/USDT is kept for 30 days; 15.0 days that were asked for are missing"
        in caplog.text
    )


@pytest.mark.parametrize("kind", ["funding", "open_interest"])
@pytest.mark.parametrize(
    "fault", ["missing_rows", "null_price", "nan_price", "conflicting_rows", "empty_page", "503"]
)
def test_published_values_are_mended_and_said_too(server, caplog, kind, fault):
    job = Job(BTC, kind, since_ms=NOW_MS - 25 * DAY_MS)
    server.faults = FaultList(
        Fault(fault, on="fundingRate" if kind == "funding" else "openInterestHist")
    )
    expected = MARKET.published(BTC, kind, now_ms=NOW_MS, since_ms=job.since_ms)
    assert_frame_equal(fetch_one(server, job, "binanceusdm"), expected)
    assert [one.kind for one in server.applied] == [fault]
    assert "again" in caplog.text


def test_a_rate_that_cannot_be_is_left_out_with_a_notice_that_names_it(server, caplog):
    market = Market(MARKET.listings.values())
    rates = market.listings[BTC].funding.numbers.copy()
    rates[100] = 7.5
    market.listings[BTC] = replace(
        market.listings[BTC], funding=Series(market.listings[BTC].funding.times, rates)
    )
    server.markets["binanceusdm"] = market
    job = Job(BTC, "funding", since_ms=NOW_MS - 50 * DAY_MS)
    found = fetch_one(server, job, "binanceusdm")
    expected = market.published(BTC, "funding", now_ms=NOW_MS, since_ms=job.since_ms)
    assert_frame_equal(found, expected[expected["funding_rate"] != 7.5].reset_index(drop=True))
    assert "funding: 1 row(s) with impossible values are left out as a gap" in caplog.text
    assert "(funding_rate = 7.5)" in caplog.text


def test_a_spot_client_says_where_funding_is_to_be_had(server):
    with pytest.raises(
        ValueError, match="binance has no funding; use one of binanceusdm, bybit, okx"
    ):
        fetch_with(open_exchange("binance", base_url=server.url), Job(BTC, "funding", 0))


# --- Bybit: newest first, at most 200 rows, open interest in coins
# --------------------------------------------


class BybitHandler(BaseHTTPRequestHandler):
    """Settlements every 4 hours, open interest every hour, from 50 days ago on; the values name the
    time."""

    def do_GET(self):
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if url.path == "/v5/market/instruments-info":
            market = {
                "symbol": "BTCUSDT",
                "contractType": "LinearPerpetual",
                "status": "Trading",
                "baseCoin": "BTC",
            }
            filters = {
                "lotSizeFilter": {"qtyStep": "0.001"},
                "priceFilter": {"tickSize": "0.1"},
                "leverageFilter": {},
            }
            rows = [
                {
                    **market,
                    **filters,
                    "quoteCoin": "USDT",
                    "settleCoin": "USDT",
                    "fundingInterval": 480,
                }
            ]
        else:
            is_funding = url.path == "/v5/market/funding/history"
            step = 4 * HOUR_MS if is_funding else HOUR_MS
            first, last = (int(query[name]) for name in ("startTime", "endTime"))
            times = [time for time in range(BYBIT_BEGINS, NOW_MS, step) if first <= time <= last]
            names = (
                ("fundingRateTimestamp", "fundingRate")
                if is_funding
                else ("timestamp", "openInterest")
            )
            rows = [
                {names[0]: str(time), names[1]: str(value_at(time)), "symbol": "BTCUSDT"}
                for time in times[: -int(query["limit"]) - 1 : -1]
            ]
        body = json.dumps(
            {"retCode": 0, "result": {"category": "linear", "symbol": "BTCUSDT", "list": rows}}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


BYBIT_BEGINS = NOW_MS // DAY_MS * DAY_MS - 50 * DAY_MS


def value_at(time: int) -> float:
    return (1 + (time - BYBIT_BEGINS) // HOUR_MS) / 10_000


@pytest.fixture
def bybit(nothing_leaves):
    with ThreadingHTTPServer(("127.0.0.1", 0), BybitHandler) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield open_exchange("bybit", base_url=f"http://127.0.0.1:{http.server_port}", futures=True)
        http.shutdown()


@pytest.mark.parametrize(
    ("kind", "column", "hours"),
    [("funding", "funding_rate", 4), ("open_interest", "open_interest", 1)],
)
def test_bybit_gives_the_newest_rows_of_a_window_and_still_nothing_is_missing(
    bybit, caplog, kind, column, hours
):
    found = fetch_with(bybit, Job(BTC, kind, BYBIT_BEGINS), now_ms=NOW_MS)
    times = np.arange(BYBIT_BEGINS, NOW_MS, hours * HOUR_MS)
    assert timestamps_ms(found).tolist() == times.tolist()
    assert found[column].tolist() == [value_at(time) for time in times]
    assert found.attrs.get("unit", "BTC") == "BTC"
    assert caplog.text == ""
