"""The real ccxt against a loopback server that speaks Binance's candle endpoints."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest

from pipeline.candles.exchange import EXCHANGE_CHAIN
from pipeline.candles.exchange_client import open_exchange
from pipeline.candles.job import ExchangeError
from tests.fetching import fetch_ohlcv

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
MARKET = {
    "symbol": "BTCUSDT",
    "baseAsset": "BTC",
    "quoteAsset": "USDT",
    "status": "TRADING",
    "filters": [],
}
SPOT = {**MARKET, "isSpotTradingAllowed": True, "permissions": ["SPOT"]}
PERPETUAL = {
    **MARKET,
    "contractType": "PERPETUAL",
    "marginAsset": "USDT",
    "deliveryDate": 4133404800000,
}
RESTRICTED = {"code": 0, "msg": "Service unavailable from a restricted location according to 'b.'"}

RATE_LIMITED = {"code": -1003, "msg": "Too much request weight used"}


def kline(hour: int, shift: float = 0.0) -> list:
    """Binance's row for the candle that opens `hour` hours after START; its prices name the
    hour."""
    prices = [f"{value + shift:.2f}" for value in (hour + 100, hour + 102, hour + 99, hour + 101)]
    open_time = START + hour * HOUR
    return [open_time, *prices, f"{hour + 0.5}", open_time + HOUR - 1, "0", 1, "0", "0", "0"]


class LoopbackBinance(ThreadingHTTPServer):
    """Serves `klines` from `startTime` on, at most `max_rows` a page, after the faults that are
    queued."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), LoopbackHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.klines = []
        self.max_rows = 1000
        self.answers_by_window = False  # True: the newest rows among `limit` hours, as KuCoin does
        self.reshape = lambda page: page
        self.faults = []  # (status, headers, body) of the next answers
        self.market_requests, self.kline_requests = [], []

    def page(self, query: dict) -> list:
        since, limit = int(query["startTime"]), int(query["limit"])
        rows = [row for row in self.klines if since <= row[0]][: min(limit, self.max_rows)]
        if self.answers_by_window:
            rows = [row for row in self.klines if since <= row[0] < since + limit * HOUR][
                -self.max_rows :
            ]
        return self.reshape(rows)


class LoopbackHandler(BaseHTTPRequestHandler):
    server: LoopbackBinance

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        is_klines = url.path.endswith("/klines")
        (self.server.kline_requests if is_klines else self.server.market_requests).append(
            (url.path, query)
        )
        if self.server.faults:
            return self.answer(*self.server.faults.pop(0))
        if is_klines:
            return self.answer(200, {}, json.dumps(self.server.page(query)))
        listed = {"/api/v3/exchangeInfo": SPOT, "/fapi/v1/exchangeInfo": PERPETUAL}.get(url.path)
        return self.answer(
            200 if listed else 404, {}, json.dumps({"symbols": [listed] if listed else []})
        )

    def answer(self, status: int, headers: dict, body: str):
        time.sleep(float(headers.get("X-Delay", 0)))
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with LoopbackBinance() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def binance(server):
    return open_exchange("binance", base_url=server.url, timeout_s=30)


def now_in(hour: int) -> int:
    """Half past: the candle that opens at `hour` is forming."""
    return START + hour * HOUR + HOUR // 2


def hours_of(candles: pd.DataFrame) -> list[int]:
    opened = candles["timestamp"].dt.tz_localize(None).to_numpy("datetime64[ms]").astype(np.int64)
    return ((opened - START) // HOUR).tolist()


def no_sleep(seconds: float) -> None:
    raise AssertionError(f"slept {seconds} s where no retry was due")


# --- what comes back
# ----------------------------------------------------------------------------------------


def test_2500_candles_come_back_complete_and_exact_over_three_pages(server, binance):
    server.klines = [kline(hour) for hour in range(3000)]
    sizes = []
    ask = {"n_candles": 2500, "now_ms": now_in(2999)}  # hour 2999 is forming
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", **ask, on_page=sizes.append)
    hours = np.arange(499, 2999)
    opened = pd.Series((START + hours * HOUR).astype("datetime64[ms]")).dt.tz_localize("UTC")
    prices = {
        "open": hours + 100.0,
        "high": hours + 102.0,
        "low": hours + 99.0,
        "close": hours + 101.0,
    }
    expected = pd.DataFrame({"timestamp": opened, **prices, "volume": hours + 0.5})
    pd.testing.assert_frame_equal(candles, expected)
    assert sizes == [1000, 1000, 500]
    assert [path for path, _ in server.market_requests] == ["/api/v3/exchangeInfo"]
    starts = [(int(query["startTime"]) - START) // HOUR for _, query in server.kline_requests]
    assert starts == [499, 1499, 2499]


@pytest.mark.parametrize(("offset_ms", "newest"), [(-1, 8), (0, 9), (1, 9)])
def test_a_candle_counts_from_the_instant_it_closes(server, binance, offset_ms, newest):
    server.klines = [kline(hour) for hour in range(11)]
    candles = fetch_ohlcv(
        binance, "BTC/USDT", "1h", n_candles=3, now_ms=START + 10 * HOUR + offset_ms
    )
    assert hours_of(candles) == [newest - 2, newest - 1, newest]


def test_the_clock_of_this_machine_is_the_default_present(server, binance):
    this_hour = (int(time.time() * 1000) - START) // HOUR
    server.klines = [kline(hour) for hour in range(this_hour - 5, this_hour + 3)]
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=2)
    later = (
        int(time.time() * 1000) - START
    ) // HOUR  # another hour, should one begin during the fetch
    assert hours_of(candles) in ([this_hour - 2, this_hour - 1], [later - 2, later - 1])


def test_until_ms_ends_the_candles_before_the_present_does(server, binance):
    server.klines = [kline(hour) for hour in range(100)]
    ask = {"now_ms": now_in(99), "until_ms": START + 50 * HOUR}
    assert hours_of(fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=3, **ask)) == [47, 48, 49]
    since_ms = START + 46 * HOUR + 1
    assert hours_of(fetch_ohlcv(binance, "BTC/USDT", "1h", since_ms=since_ms, **ask)) == [
        47,
        48,
        49,
    ]


def test_an_until_ms_in_the_future_does_not_let_the_forming_candle_in(server, binance):
    server.klines = [kline(hour) for hour in range(100)]
    ask = {"since_ms": START + 90 * HOUR, "now_ms": now_in(95), "until_ms": START + 99 * HOUR}
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", **ask)
    assert hours_of(candles) == [90, 91, 92, 93, 94]


def test_pages_shorter_than_asked_are_followed_by_more_pages(server, binance):
    server.klines = [kline(hour) for hour in range(200)]
    server.max_rows = 37
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=150, now_ms=now_in(200))
    assert hours_of(candles) == list(range(50, 200))
    assert len(server.kline_requests) == 5  # 4 x 37 + 2


def test_unsorted_rows_and_equal_duplicates_become_sorted_distinct_candles(server, binance):
    server.klines = [kline(hour) for hour in range(30)]
    server.reshape = lambda page: page[::-1] + page[:5]
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=30, now_ms=now_in(30))
    assert hours_of(candles) == list(range(30))


def test_rows_before_the_start_are_cut(server, binance):
    server.klines = [kline(hour) for hour in range(30)]
    server.reshape = lambda page: [kline(0), *page]
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", since_ms=START + 20 * HOUR, now_ms=now_in(30))
    assert hours_of(candles) == list(range(20, 30))


def test_two_values_for_one_candle_are_an_error_that_names_it(server, binance):
    server.klines = sorted([kline(hour) for hour in range(30)] + [kline(7, shift=0.01)])
    message = (
        "binance: 1 candle.* of BTC/USDT 1h came twice with different values, first 2024-01-01 "
        "07:00"
    )
    with pytest.raises(ExchangeError, match=message):
        fetch_ohlcv(binance, "BTC/USDT", "1h", since_ms=START, now_ms=now_in(30))


def test_a_young_listing_gives_what_there_is(server, binance):
    server.klines = [kline(hour) for hour in range(40, 100)]
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=2000, now_ms=now_in(99))
    assert hours_of(candles) == list(range(40, 99))


def test_a_span_without_candles_is_an_empty_frame_of_the_schema(server, binance):
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=10, now_ms=now_in(50))
    assert candles.empty
    assert [str(dtype) for dtype in candles.dtypes] == ["datetime64[ms, UTC]"] + ["float64"] * 5


def test_gaps_do_not_cost_candles_because_older_ones_take_their_place(server, binance):
    server.klines = [kline(hour) for hour in range(2000) if not 1900 <= hour < 1950]
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=100, now_ms=now_in(2000))
    assert hours_of(candles) == [*range(1850, 1900), *range(1950, 2000)]


def test_an_empty_page_inside_a_gap_does_not_end_the_fetch(server, binance):
    server.klines = [kline(hour) for hour in range(6000) if not 500 <= hour < 3700]
    server.answers_by_window = True
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", since_ms=START, now_ms=now_in(6000))
    assert hours_of(candles) == [*range(500), *range(3700, 6000)]
    starts = [(int(query["startTime"]) - START) // HOUR for _, query in server.kline_requests]
    walk, gap_again = [0, 500, 1500, 2500, 3500, 3500, 4500, 5500], [500, 1500, 2500, 3500]
    assert (
        starts == walk + gap_again
    )  # 3500 twice in the walk: what was missing at the start of its page


def test_a_window_that_is_cut_at_its_old_end_leaves_no_hole(server, binance):
    server.klines = [kline(hour) for hour in range(400) if not 120 <= hour < 130]
    server.answers_by_window, server.max_rows = True, 60
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", since_ms=START, now_ms=now_in(400))
    assert hours_of(candles) == [*range(120), *range(130, 400)]


def test_empty_pages_without_end_are_an_error_with_a_remedy(server, binance, monkeypatch):
    monkeypatch.setattr("pipeline.candles.pages.MAX_EMPTY_PAGES", 3)
    with pytest.raises(
        ExchangeError, match="binance: 3 pages in a row held no candles of BTC/USDT.*start"
    ):
        fetch_ohlcv(binance, "BTC/USDT", "1h", since_ms=0, now_ms=START)
    assert len(server.kline_requests) == 3


def test_futures_take_the_symbol_that_users_write(server):
    server.klines = [kline(hour) for hour in range(20)]
    futures = open_exchange("binanceusdm", base_url=server.url)
    for symbol in ("BTC/USDT", "BTC/USDT:USDT"):
        candles = fetch_ohlcv(futures, symbol, "1h", n_candles=5, now_ms=now_in(20))
        assert hours_of(candles) == [15, 16, 17, 18, 19]
    assert {path for path, _ in server.kline_requests} == {"/fapi/v1/klines"}


# --- wrong questions
# ----------------------------------------------------------------------------------------


def test_an_unknown_exchange_is_named_beside_close_matches():
    with pytest.raises(ValueError, match="'binanse'; did you mean .*binance"):
        open_exchange("binanse")


def test_an_unknown_symbol_is_named_beside_the_exchange_and_close_matches(binance):
    with pytest.raises(ValueError, match="binance has no market 'btc-usdt'; did you mean BTC/USDT"):
        fetch_ohlcv(binance, "btc-usdt", "1h", n_candles=10)


def test_an_exchange_with_spot_markets_does_not_pass_off_a_perpetual_as_spot(binance):
    binance.options["fetchMarkets"] = {"types": ["linear"]}
    with pytest.raises(ValueError, match="no market 'BTC/USDT'; did you mean BTC/USDT:USDT"):
        fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=10)


def test_an_unsupported_timeframe_lists_those_of_the_exchange(server, binance):
    with pytest.raises(ValueError, match="binance has no timeframe '7h'; it has .*1m.*1h.*1d"):
        fetch_ohlcv(binance, "BTC/USDT", "7h", n_candles=10)
    assert server.market_requests == []


@pytest.mark.parametrize("ask", [{}, {"n_candles": 5, "since_ms": START}, {"n_candles": 0}])
def test_a_fetch_takes_either_a_number_of_candles_or_a_start(binance, ask):
    with pytest.raises(ValueError, match="n_candles is .*(exactly one|at least 1)"):
        fetch_ohlcv(binance, "BTC/USDT", "1h", **ask)


# --- faults
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [(451, {}, ""), (403, {}, "<html>"), (400, {}, json.dumps(RESTRICTED))]
)
@pytest.mark.parametrize("name", EXCHANGE_CHAIN)
def test_a_refused_address_is_said_and_not_retried(server, name, fault):
    server.faults = [fault]
    exchange = open_exchange(name, base_url=server.url)
    with pytest.raises(
        ExchangeError, match=f"{name} refuses this machine's address.*choose another"
    ):
        fetch_ohlcv(exchange, "BTC/USDT", "1h", n_candles=10, sleep=no_sleep)
    assert len(server.market_requests) == 1


def test_an_error_raised_while_an_earlier_one_is_handled_is_judged_by_itself(server, binance):
    server.klines = [kline(hour) for hour in range(20)]
    server.faults = [(451, {}, json.dumps(RESTRICTED)), (200, {}, json.dumps(RATE_LIMITED))]
    waits = []
    try:
        fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=5, now_ms=now_in(20))
    except ExchangeError:
        candles = fetch_ohlcv(
            binance, "BTC/USDT", "1h", n_candles=5, now_ms=now_in(20), sleep=waits.append
        )
    assert hours_of(candles) == [15, 16, 17, 18, 19]
    assert waits == [1]


def test_two_overloads_in_a_row_are_waited_out_before_and_between_pages(server, binance, caplog):
    server.klines = [kline(hour) for hour in range(1500)]
    server.faults = [(503, {}, "")] * 2
    waits = []

    def break_down(size: int) -> None:
        server.faults = [(503, {}, "")] * 2 if size == 1000 else []

    ask = {"n_candles": 1500, "now_ms": now_in(1500), "on_page": break_down}
    with caplog.at_level(logging.WARNING, "pipeline.candles.exchange_client"):
        candles = fetch_ohlcv(binance, "BTC/USDT", "1h", **ask, sleep=waits.append)
    assert hours_of(candles) == list(range(1500))
    assert waits == [1, 2, 1, 2]
    assert all(record.getMessage().startswith("binance: ") for record in caplog.records)
    assert len(caplog.records) == 4


def test_an_overload_that_stays_ends_in_an_error_after_four_attempts(server, binance):
    server.faults = [(503, {}, "")] * 10
    waits = []
    with pytest.raises(
        ExchangeError, match="binance: the list of .* failed after 4 attempt.*503.*try again"
    ):
        fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=10, sleep=waits.append)
    assert waits == [1, 2, 4]
    assert len(server.market_requests) == 4


def test_the_wait_that_a_rate_limit_demands_is_kept(server, binance):
    server.klines = [kline(hour) for hour in range(20)]
    server.faults = [(429, {"Retry-After": "7"}, json.dumps(RATE_LIMITED))]
    waits = []
    candles = fetch_ohlcv(
        binance, "BTC/USDT", "1h", n_candles=5, now_ms=now_in(20), sleep=waits.append
    )
    assert len(candles) == 5
    assert waits == [7]


@pytest.mark.parametrize(
    "fault", [(429, {"Retry-After": "120"}, ""), (418, {}, json.dumps(RATE_LIMITED))]
)
def test_a_demanded_wait_beyond_the_budget_and_a_ban_are_errors_at_once(server, binance, fault):
    server.faults = [fault]
    with pytest.raises(ExchangeError, match=f"after 1 attempt.*{fault[0]}"):
        fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=5, sleep=no_sleep)
    assert len(server.market_requests) == 1


def test_a_page_that_is_not_json_is_an_error_and_no_gap(server, binance):
    server.klines = [kline(hour) for hour in range(1500)]

    def put_portal_in_between(_: int) -> None:
        server.faults = [(200, {}, "<html>Please log in</html>")]

    ask = {"n_candles": 1500, "now_ms": now_in(1500), "on_page": put_portal_in_between}
    with pytest.raises(ExchangeError, match="candles of BTC/USDT came as no JSON"):
        fetch_ohlcv(binance, "BTC/USDT", "1h", **ask)
    assert len(server.kline_requests) == 2


@pytest.mark.parametrize("body", ["<html>Please log in</html>", "{}", "[[1]]"])
def test_an_answer_that_lists_no_markets_is_an_error(server, binance, body):
    server.faults = [(200, {}, body)]
    with pytest.raises(ExchangeError, match="binance: (its|the) list of markets"):
        fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=5, sleep=no_sleep)


@pytest.mark.parametrize(
    "header", [{"Content-Length": "100"}, {"X-Delay": "0.3"}], ids=["broken", "late"]
)
def test_answers_that_break_off_or_come_late_are_retried_within_bounds(server, header):
    server.faults = [(200, header, "{}")] * 10
    impatient = open_exchange("binance", base_url=server.url, timeout_s=0.1)
    waits = []
    with pytest.raises(ExchangeError, match="failed after 4 attempt"):
        fetch_ohlcv(impatient, "BTC/USDT", "1h", n_candles=5, sleep=waits.append)
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_is_not_followed(server, binance, status):
    with LoopbackBinance() as other:
        threading.Thread(target=other.serve_forever, args=(0.01,), daemon=True).start()
        server.faults = [(status, {"Location": f"{other.url}/api/v3/exchangeInfo"}, "")]
        with pytest.raises(
            ExchangeError, match=f"came as a redirect from 127.0.0.1 to {other.url}"
        ):
            fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=5, sleep=no_sleep)
        other.shutdown()
    assert other.market_requests == []


@pytest.mark.parametrize("location", ["http://[", "file:///etc/passwd", "//elsewhere.example/x"])
def test_a_redirect_to_nowhere_is_an_error(server, binance, location):
    server.faults = [(302, {"Location": location}, "")]
    with pytest.raises(ExchangeError, match="binance: the list of markets"):
        fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=5, sleep=no_sleep)


def test_a_redirect_on_the_same_host_is_followed(server, binance):
    server.klines = [kline(hour) for hour in range(30)]
    server.faults = [(302, {"Location": "/api/v3/exchangeInfo"}, "")]
    candles = fetch_ohlcv(binance, "BTC/USDT", "1h", n_candles=5, now_ms=now_in(30))
    assert hours_of(candles) == [25, 26, 27, 28, 29]


@pytest.mark.parametrize("name", EXCHANGE_CHAIN)
def test_a_refused_connection_is_not_retried(name):
    with socket.socket() as probe:  # a port that nothing listens on
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    exchange = open_exchange(name, base_url=f"http://127.0.0.1:{port}")
    began = time.monotonic()
    with pytest.raises(
        ExchangeError, match=f"{name}: the list of markets failed after 1 attempt.*refused"
    ):
        fetch_ohlcv(exchange, "BTC/USDT", "1h", n_candles=10, sleep=no_sleep)
    assert time.monotonic() - began < 10  # a request that waits in vain takes longer


@pytest.mark.parametrize("name", EXCHANGE_CHAIN)
def test_a_name_that_does_not_resolve_is_not_retried(name, monkeypatch):
    def fail_to_resolve(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail_to_resolve)
    with pytest.raises(
        ExchangeError, match=f"{name}: the list of markets failed after 1 attempt.*resolve"
    ):
        fetch_ohlcv(open_exchange(name), "BTC/USDT", "1h", n_candles=10, sleep=no_sleep)


def test_importing_the_module_imports_no_ccxt():
    code = "import sys, pipeline.candles.exchange; sys.exit('ccxt' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", EXCHANGE_CHAIN)
def test_the_chain_is_of_spot_exchanges_with_hourly_candles_that_load_spot_markets_alone(name):
    exchange = open_exchange(name)
    assert exchange.has["fetchOHLCV"]
    assert "1h" in exchange.timeframes
    assert exchange.options["defaultType"] == "spot"
    assert exchange.options["fetchMarkets"]["types"] == ["spot"]


@pytest.mark.parametrize(
    "address", ["no address", "http://me:a s3cret@host", "ftp://host", "", "//"]
)
def test_what_is_no_address_is_refused_and_not_shown(address):
    with pytest.raises(ValueError, match="--base-url is no address; pass one such as") as caught:
        open_exchange("binance", base_url=address)
    assert "s3cret" not in str(caught.value)
