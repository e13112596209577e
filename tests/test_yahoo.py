"""The real yfinance, unpatched, against a loopback server that speaks Yahoo's chart endpoint."""

import builtins
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest

from pipeline.candles import yahoo
from pipeline.candles.job import ExchangeError, Job, UnknownSymbolError
from pipeline.candles.schema import CANDLE_COLUMNS, read_candles, timestamps_ms
from pipeline.candles.yahoo import fetch_yahoo_candles
from tests.fetching import foreign_hosts, nothing_leaves

pytest.importorskip("yfinance")
FIXTURES = (foreign_hosts, nothing_leaves)

ROOT = Path(__file__).resolve().parents[1]
HOUR, DAY = 3_600_000, 86_400_000
START = 1_767_225_600_000  # 2026-01-01 00:00 UTC
FIVE = Job("BTC/USDT", "1h", n_candles=5)
NOW = START + 50 * HOUR + 60_000  # candle 49 has closed, candle 50 is a minute old
NAMES = ("open", "high", "low", "close", "volume")
UNKNOWN = (
    404,
    {"chart": {"result": None, "error": {"code": "Not Found", "description": "No data found"}}},
)
LIMITED = (429, "Too Many Requests")


def candle(number: int, step_ms: int = HOUR) -> list:
    """The candle that opens `number` steps after START; its prices name it."""
    return [
        START + number * step_ms,
        number + 100.5,
        number + 102.0,
        number + 99.0,
        number + 101.5,
        1000 + number,
    ]


class LoopbackYahoo(ThreadingHTTPServer):
    """Serves `candles` from `period1` on, with the metadata that Yahoo sends of a coin."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), LoopbackHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.candles = [candle(number) for number in range(51)]
        self.zone = "UTC"
        # (status, body) of the next requests for candles; None breaks the connection
        self.answers = []
        self.requests = []  # (path, query) of every request
        self.known = True

    @property
    def chart_queries(self) -> list[dict]:
        """Of the requests for candles; yfinance first asks for one day to learn the zone."""
        return [query for path, query in self.requests if "/chart/" in path and "period1" in query]

    def chart(self, query: dict) -> dict:
        """Yahoo's answer: times in seconds, absent values null, trading that ends at 23:59."""
        since = int(query.get("period1", 0)) * 1000
        rows = [row for row in self.candles if row[0] >= since]
        days = sorted({row[0] // DAY for row in rows})
        zone = {"timezone": "UTC", "gmtoffset": 0}
        periods = [[{**zone, "start": day * 86400, "end": day * 86400 + 86340}] for day in days]
        meta = {
            "currency": "USD",
            "symbol": "BTC-USD",
            "instrumentType": "CRYPTOCURRENCY",
            "longName": "Bitcoin USD",
            "exchangeTimezoneName": self.zone,
            "timezone": "UTC",
            "gmtoffset": 0,
            "priceHint": 2,
            "validRanges": ["1d", "5d", "max"],
            "tradingPeriods": periods,
        }
        if query.get("includePrePost") in ("True", "true"):
            meta["tradingPeriods"] = {"pre": periods, "regular": periods, "post": periods}
        if not rows:
            return {
                "chart": {"result": [{"meta": meta, "indicators": {"quote": [{}]}}], "error": None}
            }
        columns = {name: [row[1 + i] for row in rows] for i, name in enumerate(NAMES)}
        indicators = {"quote": [columns], "adjclose": [{"adjclose": columns["close"]}]}
        times = [row[0] // 1000 for row in rows]
        return {
            "chart": {
                "result": [{"meta": meta, "timestamp": times, "indicators": indicators}],
                "error": None,
            }
        }


class LoopbackHandler(BaseHTTPRequestHandler):
    server: LoopbackYahoo

    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.requests.append((url.path, query))
        if "getcrumb" in url.path:
            return self.answer(200, "crumb")
        if "/v8/finance/chart/" not in url.path:
            return self.answer(404, "")
        if not self.server.known:
            return self.answer(*UNKNOWN)
        if self.server.answers and "period1" in query:
            answer = self.server.answers.pop(0)
            return self.connection.close() if answer is None else self.answer(*answer)
        return self.answer(200, self.server.chart(query))

    def answer(self, status: int, body, location: str = ""):
        sent = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(nothing_leaves, monkeypatch):
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    with LoopbackYahoo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server, symbol="BTC/USDT", timeframe="1h", **options):
    options = {"now_ms": NOW, "timeout_s": 5.0, "sleep": lambda seconds: None} | options
    asked = ("since_ms", "until_ms", "n_candles")
    job = Job(symbol, timeframe, **{name: options.pop(name) for name in asked if name in options})
    return fetch_yahoo_candles(job, base_url=server.url, **options)


def truth(numbers, step_ms=HOUR) -> pd.DataFrame:
    rows = [candle(number, step_ms) for number in numbers]
    return read_candles(pd.DataFrame(rows, columns=list(CANDLE_COLUMNS)))


def test_the_newest_closed_candles_come_in_the_schema_without_the_forming_one(server):
    frame = fetch(server, n_candles=20)
    pd.testing.assert_frame_equal(frame, truth(range(30, 50)))
    assert frame.attrs == {"exchange": "yahoo", "market": "BTC-USD"}


def test_a_span_holds_what_has_closed_by_its_end(server):
    frame = fetch(server, since_ms=START + 3 * HOUR - 1, until_ms=START + 10 * HOUR + 1)
    pd.testing.assert_frame_equal(frame, truth(range(3, 10)))


def test_a_span_that_ends_before_its_first_candle_is_empty_and_asks_nothing(server):
    frame = fetch(server, since_ms=START + 3 * HOUR, until_ms=START + 3 * HOUR + 1)
    assert list(frame.columns) == list(CANDLE_COLUMNS) and frame.empty
    assert server.requests == []


def test_a_span_before_the_first_candle_is_empty(server):
    server.candles = []
    assert fetch(server, since_ms=START).empty
    refusal = {
        "chart": {
            "result": None,
            "error": {"code": "Bad Request", "description": "Data doesn't exist for …"},
        }
    }
    server.answers = [(400, refusal)] * 9
    assert fetch(server, since_ms=START).empty


def test_the_log_says_that_the_quote_is_usd_and_what_yahoo_calls_the_coin(server, caplog):
    server.candles[45][5] = 0
    server.candles[46][5] = None
    fetch(server, n_candles=20)
    stands_in = "yahoo: BTC-USD (Bitcoin USD) stands in for BTC/USDT, the quote is USD, not USDT"
    assert f"{stands_in}; the volume is in USD and 0 in 2 of 20 candles" in caplog.messages
    caplog.clear()
    fetch(server, "BTC/USD", n_candles=20)
    assert "USDT" not in caplog.text


@pytest.mark.parametrize(
    ("symbol", "ticker"),
    [("UNI/USDT", "UNI7083-USD"), ("MATIC/USDT", "POL28321-USD"), ("SOL/USDT", "SOL-USD")],
)
def test_a_coin_is_asked_for_by_its_name_at_yahoo(server, symbol, ticker):
    assert fetch(server, symbol, n_candles=5).attrs["market"] == ticker
    assert {path for path, _ in server.requests if "/chart/" in path} == {
        f"/v8/finance/chart/{ticker}"
    }


def test_rows_without_values_are_left_out_with_a_notice_and_never_filled(server, caplog):
    for number in (40, 41):
        server.candles[number][1:] = [None] * 5
    frame = fetch(server, n_candles=10)
    pd.testing.assert_frame_equal(frame, truth([38, 39, *range(42, 50)]))
    assert "yahoo: 2 candles of BTC-USD came without values and are left out" in caplog.messages
    assert "1 gap(s) of 2 rows" in caplog.text


def test_a_forming_candle_at_the_present_time_is_dropped_and_a_repeated_row_counts_once(server):
    server.candles[50] = [NOW, 1.0, 1.0, 1.0, 1.0, 1]
    server.candles.insert(45, list(server.candles[45]))
    pd.testing.assert_frame_equal(fetch(server, n_candles=20), truth(range(30, 50)))


def test_a_high_below_the_close_is_asked_for_twice_and_then_raised_to_it(server, caplog):
    server.candles[45][2] = 146.4
    expected = truth(range(50))
    expected.loc[45, "high"] = expected.loc[45, "close"]
    pd.testing.assert_frame_equal(fetch(server, since_ms=START), expected)
    assert len(server.chart_queries) == 2
    assert "1 rows, asked for twice: low..high widened" in caplog.text


def test_a_high_below_the_close_that_does_not_come_again_is_mended(server):
    spoilt = server.chart({"includePrePost": "True"})
    spoilt["chart"]["result"][0]["indicators"]["quote"][0]["high"][45] = 146.4
    server.answers = [(200, spoilt)]
    pd.testing.assert_frame_equal(fetch(server, n_candles=20), truth(range(30, 50)))


def test_a_price_a_hundred_times_off_is_left_out_as_a_gap(server, caplog):
    server.candles[40][1:5] = [value * 100 for value in server.candles[40][1:5]]
    there = [*range(19, 40), *range(41, 50)]
    pd.testing.assert_frame_equal(fetch(server, n_candles=30), truth(there))
    assert "1 row(s) at an absurd price are left out as a gap, asked for twice" in caplog.text


def test_minutes_before_midnight_are_kept_though_yahoo_says_that_trading_ends_at_2359(server):
    minute = 60_000
    server.candles = [candle(number, minute) for number in range(1500)]
    frame = fetch(
        server, timeframe="1m", since_ms=START + 1430 * minute, now_ms=START + 1450 * minute
    )
    pd.testing.assert_frame_equal(frame, truth(range(1430, 1450), minute))


def test_half_hours_are_made_of_two_quarters_and_left_out_where_one_is_missing(server):
    quarter = HOUR // 4
    server.candles = [
        candle(number, quarter) for number in range(9)
    ]  # the last is half of a half hour
    server.candles[2][1:5] = [None] * 4
    frame = fetch(server, timeframe="30m", since_ms=START, now_ms=START + 9 * quarter)
    assert [row[1:] for row in frame.itertuples(index=False)] == [
        (100.5, 103.0, 99.0, 102.5, 2001.0),  # of 0 and 1: 2 and 3 are no half hour
        (104.5, 107.0, 103.0, 106.5, 2009.0),
        (106.5, 109.0, 105.0, 108.5, 2013.0),
    ]
    assert timestamps_ms(frame).tolist() == [START, START + HOUR, START + HOUR + HOUR // 2]


def test_days_are_those_of_utc_though_yahoo_names_londons_summer_time(server):
    server.zone = "Europe/London"
    summer = 181  # 2026-07-01
    server.candles = [candle(number, DAY) for number in range(summer + 1)]
    frame = fetch(server, timeframe="1d", n_candles=150, now_ms=START + summer * DAY + HOUR)
    pd.testing.assert_frame_equal(frame, truth(range(31, summer), DAY))


def test_days_of_another_zone_are_refused_and_hours_are_turned_into_utc(server):
    server.zone = "America/New_York"
    server.candles = [candle(number, DAY) for number in range(20)]
    with pytest.raises(ExchangeError, match="off the grid of times"):
        fetch(server, timeframe="1d", n_candles=5, now_ms=START + 20 * DAY)
    server.candles = [candle(number) for number in range(51)]
    pd.testing.assert_frame_equal(fetch(server, n_candles=20), truth(range(30, 50)))


def test_asking_for_more_than_yahoo_keeps_is_a_notice_and_asks_only_for_what_it_keeps(
    server, caplog
):
    frame = fetch(server, since_ms=NOW - 740 * DAY)
    pd.testing.assert_frame_equal(frame, truth(range(50)))
    assert (
        "yahoo: 1h candles of BTC/USDT go back 730 days; 10.0 days that were asked for are missing"
        in caplog.messages
    )
    assert min(int(query["period1"]) for query in server.chart_queries) * 1000 > NOW - 730 * DAY
    assert len(fetch(server, n_candles=100_000)) == 50
    assert min(int(query["period1"]) for query in server.chart_queries) * 1000 > NOW - 730 * DAY


def test_a_timeframe_that_yahoo_has_not_is_a_value_error_that_lists_those_it_has(server):
    with pytest.raises(
        ValueError, match="yahoo has no timeframe '4h'; it has 1m, 5m, 15m, 30m, 1h, 1d"
    ):
        fetch(server, timeframe="4h", n_candles=5)


@pytest.mark.parametrize("bounds", [{}, {"n_candles": 5, "since_ms": START}, {"n_candles": 0}])
def test_exactly_one_of_count_and_start_is_demanded(server, bounds):
    with pytest.raises(ValueError, match="n_candles is"):
        fetch(server, **bounds)


@pytest.mark.parametrize("symbol", ["ETH/BTC", "BTC/USDT:USDT", "BTC"])
def test_a_quote_other_than_usd_is_an_unknown_symbol(server, symbol):
    with pytest.raises(UnknownSymbolError, match="yahoo quotes coins in USD alone"):
        fetch(server, symbol, n_candles=5)
    assert server.requests == []


def test_an_unknown_coin_is_an_unknown_symbol_and_not_tried_again(server):
    server.known = False
    with pytest.raises(UnknownSymbolError, match=r"yahoo has no NOPE-USD \(No data found\)"):
        fetch(server, "NOPE/USDT", n_candles=5, sleep=lambda seconds: pytest.fail("waited"))
    server.known = True  # yfinance remembers answers
    assert len(fetch(server, "NOPE/USDT", n_candles=5)) == 5


FAULTS: dict[str, Any] = {
    "429": LIMITED,
    "503": (503, "<html>unavailable</html>"),
    "a page in place of data": (200, "<html>login</html>"),
    "maintenance": (200, "Will be right back"),
    "an answer cut off": (200, '{"chart":{"result":[{"meta":'),
    "an answer of another shape": (200, {"chart": {"result": [{"meta": {}}], "error": None}}),
    "no chart": (200, {"chart": {"result": [], "error": None}}),
    "a broken connection": None,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_that_passes_is_waited_out(server, fault):
    waits = []
    server.answers = [fault, fault]  # yfinance itself asks once more after a refusal
    pd.testing.assert_frame_equal(
        fetch(server, n_candles=20, sleep=waits.append), truth(range(30, 50))
    )
    assert waits in ([1.0], [1.0, 3.0])


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_that_stays_is_an_exchange_error_after_three_tries(server, fault):
    waits = []
    server.answers = [fault] * 9
    with pytest.raises(
        ExchangeError, match=r"yahoo: candles of BTC-USD failed after 3 attempt\(s\)"
    ):
        fetch(server, n_candles=20, sleep=waits.append)
    assert waits == [1.0, 3.0]


def test_a_refusal_with_a_reason_is_told_and_not_tried_again(server):
    refusal = {
        "chart": {
            "result": None,
            "error": {"code": "Unprocessable Entity", "description": "1h not available"},
        }
    }
    server.answers = [(422, refusal)] * 9
    with pytest.raises(
        ExchangeError, match=r"failed after 1 attempt\(s\): HTTP 422, 1h not available; check"
    ):
        fetch(server, n_candles=20)


def test_a_silent_server_is_given_up_within_the_time_limit(server, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(LoopbackHandler, "do_GET", lambda self: release.wait(20))
    with pytest.raises(ExchangeError, match=r"3 attempt\(s\): Timeout"):
        fetch(server, n_candles=20, timeout_s=0.05)
    release.set()


def test_no_listener_is_an_exchange_error_at_once(nothing_leaves):
    with pytest.raises(
        ExchangeError, match=r"candles of BTC-USD failed after 1 attempt\(s\): .*onnect"
    ):
        fetch_yahoo_candles(FIVE, now_ms=NOW, base_url="http://127.0.0.1:9")


def test_with_a_base_url_no_other_host_is_asked(server):
    session = yahoo._session(server.url, 5.0)
    session.get("https://query1.finance.yahoo.com/v1/test/getcrumb")
    assert server.requests[-1] == ("/v1/test/getcrumb", {})
    for url in ("https://example.com/", "https://evilyahoo.com/", "http://yahoo.com.example.com/"):
        with pytest.raises(OSError, match="none of Yahoo's hosts"):
            session.get(url)


def test_a_broken_cache_of_yfinance_below_the_home_directory_is_neither_read_nor_mended(
    server, tmp_path
):
    cache = tmp_path / "py-yfinance"
    cache.mkdir()
    for name in ("tkr-tz.db", "cookies.db"):
        (cache / name).write_bytes(b"no database" * 1000)
    code = f"""
from pipeline.candles.job import Job
from pipeline.candles.yahoo import fetch_yahoo_candles
job = Job("BTC/USDT", "1h", n_candles=20)
print(len(fetch_yahoo_candles(job, now_ms={NOW}, base_url="{server.url}")))
"""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    assert (
        subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment).strip()
        == b"20"
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "cookies.db",
        "py-yfinance",
        "tkr-tz.db",
    ]


def test_candles_without_volume_are_believed_after_asking_twice(server):
    for row in server.candles[::2]:
        row[5] = 0
    frame = fetch(server, since_ms=START)
    assert frame["volume"].tolist() == [
        0.0 if number % 2 == 0 else 1000.0 + number for number in range(50)
    ]
    assert len(server.chart_queries) == 2


def test_threads_do_not_disturb_each_other(server):
    with ThreadPoolExecutor(4) as pool:
        frames = list(
            pool.map(
                lambda symbol: fetch(server, symbol, n_candles=20), ["BTC/USDT", "ETH/USDT"] * 3
            )
        )
    assert [frame.attrs["market"] for frame in frames] == ["BTC-USD", "ETH-USD"] * 3


def test_a_missing_yfinance_is_an_exchange_error_that_names_the_remedy(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "yfinance":
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    yahoo._yfinance.cache_clear()
    with pytest.raises(ExchangeError, match="pip install yfinance"):
        fetch_yahoo_candles(FIVE, base_url="http://127.0.0.1:10")


def test_settings_of_yfinance_are_put_back(server):
    import yfinance

    server.answers = [LIMITED] * 9
    with pytest.raises(ExchangeError):
        fetch(server, n_candles=5)
    assert yfinance.config.debug.hide_exceptions is True


def test_real_candles_come_back_bit_for_bit(server, real_data):
    stored = read_candles(pd.read_parquet(next(real_data.rglob("BTCUSDT_1h.parquet"))), "1h").tail(
        1000
    )
    stored = stored.reset_index(drop=True).assign(volume=lambda frame: np.floor(frame["volume"]))
    times = timestamps_ms(stored)
    server.candles = [
        [int(t), *map(float, row)] for t, row in zip(times, stored[list(NAMES)].to_numpy())
    ]
    frame = fetch(server, n_candles=1000, now_ms=int(times[-1]) + HOUR)
    pd.testing.assert_frame_equal(frame, stored[list(CANDLE_COLUMNS)], check_exact=True)


def test_after_tensorflow_it_says_what_to_import_first_rather_than_fail_strangely(monkeypatch):
    yahoo._yfinance.cache_clear()
    yahoo._session.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    monkeypatch.delitem(sys.modules, "curl_cffi", raising=False)
    with pytest.raises(ExchangeError, match="their libcurls clash; import curl_cffi first"):
        fetch_yahoo_candles(FIVE)


@pytest.mark.parametrize("location", ["https://elsewhere.example/steal", "http://127.0.0.1:9/x"])
def test_a_redirect_to_another_host_is_refused(server, location):
    server.answers = [(302, "", location)] * 3
    host = urlsplit(location).hostname
    with pytest.raises(ExchangeError, match=f"{host} is none of Yahoo's hosts"):
        fetch_yahoo_candles(FIVE, now_ms=NOW, base_url=server.url, sleep=lambda seconds: None)


def test_a_redirect_to_another_of_yahoos_hosts_is_followed(server):
    query = "period1=0&interval=1h&includePrePost=True"
    location = f"https://query1.finance.yahoo.com/v8/finance/chart/BTC-USD?{query}"
    server.answers = [(302, "", location)]
    found = fetch_yahoo_candles(FIVE, now_ms=NOW, base_url=server.url, sleep=lambda seconds: None)
    assert len(found) == 5
