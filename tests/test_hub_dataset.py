"""The real huggingface_hub against a loopback server that speaks the Hub's file endpoint."""

import builtins
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
import pytest

from pipeline.candles.hub_dataset import CANDLES_REPO, fetch_dataset_candles
from pipeline.candles.job import ExchangeError, UnknownSymbolError
from pipeline.candles.schema import read_candles
from tests.fetching import foreign_hosts, nothing_leaves

pytest.importorskip("huggingface_hub")
FIXTURES = (foreign_hosts, nothing_leaves)

HOUR = 3_600_000
START = 1_767_225_600_000  # 2026-01-01 00:00 UTC
FILE = "klines_binance_us/BTCUSDT/BTCUSDT_1h_binance_us.csv"
PATH = f"/datasets/{CANDLES_REPO}/resolve/main/{FILE}"


def table(hours) -> pd.DataFrame:
    """As Binance's klines are usually saved: more columns than are needed, the times in ms."""
    rows = [(START + h * HOUR, h + 100.5, h + 102.0, h + 99.0, h + 101.5, h + 0.25) for h in hours]
    frame = pd.DataFrame(rows, columns=["open_time", "open", "high", "low", "close", "volume"])
    return frame.assign(close_time=frame["open_time"] + HOUR - 1, trades=7)


def truth(hours) -> pd.DataFrame:
    return read_candles(table(hours))


class LoopbackHub(ThreadingHTTPServer):
    """Serves `files` by path; a fault replaces the next answers to its method."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), LoopbackHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {PATH: table(range(50)).to_csv(index=False).encode()}
        self.error_code = "EntryNotFound"
        # (method, what): a status, "cut" in mid-file, "close" before a byte, "no headers"
        self.faults = []
        self.requests = []


class LoopbackHandler(BaseHTTPRequestHandler):
    server: LoopbackHub

    def do_HEAD(self):
        self.respond()

    def do_GET(self):
        self.respond()

    def respond(self):
        self.server.requests.append((self.command, self.path))
        fault = next((f for f in self.server.faults if f[0] == self.command), None)
        if fault is not None:
            self.server.faults.remove(fault)
        what = None if fault is None else fault[1]
        if what == "close":
            return self.connection.close()
        if isinstance(what, int):
            return self.answer(what, {}, b"")
        if self.path not in self.server.files:
            return self.answer(404, {"X-Error-Code": self.server.error_code}, b"")
        body = self.server.files[self.path]
        digest = hashlib.sha1(body).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": digest}
        return self.answer(200, {} if what == "no headers" else headers, body, cut=what == "cut")

    def answer(self, status, headers, body, cut=False):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = True

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
        "HF_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    with LoopbackHub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """Candles from the loopback Hub; the client's own waits take no time."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def fetch(symbol="BTC/USDT", timeframe="1h", **options):
        return fetch_dataset_candles(
            symbol, timeframe, **{"endpoint": server.url, "cache_dir": tmp_path} | options
        )

    return fetch


def test_the_datasets_file_comes_in_the_schema_without_its_last_row(fetch, server, caplog):
    frame = fetch()
    pd.testing.assert_frame_equal(frame, truth(range(49)))
    assert frame.attrs == {"exchange": "binanceus", "market": "BTC/USDT"}
    assert {path for _, path in server.requests} == {PATH}
    assert (
        f"BTCUSDT_1h_binance_us.csv of {CANDLES_REPO}: 49 candles, the last of 2026-01-03 00:00"
        in caplog.messages
    )


def test_a_file_that_has_not_changed_is_downloaded_once_and_a_new_one_again(fetch, server):
    fetch(), fetch()
    assert [method for method, _ in server.requests].count("GET") == 1
    server.files[PATH] = table(range(60)).to_csv(index=False).encode()
    pd.testing.assert_frame_equal(fetch(), truth(range(59)))


def test_symbol_and_timeframe_name_the_file_and_another_dataset_may_be_given(fetch, server):
    path = "/datasets/me/mine/resolve/main/klines_binance_us/ETHUSDT/ETHUSDT_15m_binance_us.csv"
    quarters = table(range(9)).assign(open_time=[START + n * HOUR // 4 for n in range(9)])
    server.files = {path: quarters.to_csv(index=False).encode()}
    assert len(fetch("ETH/USDT", "15m", repo="me/mine")) == 8


@pytest.mark.parametrize("name", ["timestamp", "datetime"])
def test_times_may_have_another_name_and_be_iso_dates(fetch, server, name):
    frame = table(range(9)).rename(columns={"open_time": name})
    frame[name] = pd.to_datetime(frame[name], unit="ms").dt.strftime("%Y-%m-%d %H:%M:%S")
    server.files[PATH] = frame.to_csv(index=False).encode()
    pd.testing.assert_frame_equal(fetch(), truth(range(8)))


def test_gaps_stay_gaps(fetch, server):
    hours = [0, 1, 2, 7, 8, 9]
    server.files[PATH] = table(hours).to_csv(index=False).encode()
    pd.testing.assert_frame_equal(fetch(), truth(hours[:-1]))


UNSOUND = {
    "a web page": (
        b"<!doctype html><html><body>Sign in, please</body></html>\n",
        "column 'timestamp', 'open'",
    ),
    "an empty file": (b"", "not a readable csv file"),
    "no text": (bytes(range(256)) * 9, "not a readable csv file"),
    "times that run backwards": (
        table([0, 2, 1, 3]).to_csv(index=False).encode(),
        "times that run backwards",
    ),
    "a candle twice": (table([0, 1, 1, 2]).to_csv(index=False).encode(), "duplicate times"),
    "another timeframe": (
        table([0, 4, 8, 12]).to_csv(index=False).encode(),
        "no two of 4 candles are 1h apart",
    ),
    "a high below the low": (
        table(range(9)).assign(high=1.0).to_csv(index=False).encode(),
        "high below low",
    ),
    "one candle": (table([0]).to_csv(index=False).encode(), "it holds one candle"),
}


@pytest.mark.parametrize(("body", "message"), UNSOUND.values(), ids=UNSOUND.keys())
def test_an_unsound_file_is_a_value_error_that_names_it(fetch, server, body, message):
    server.files[PATH] = body
    with pytest.raises(ValueError, match=message) as caught:
        fetch()
    assert "BTCUSDT_1h_binance_us.csv" in str(caught.value)


def test_a_file_that_the_dataset_lacks_is_an_unknown_symbol_and_both_are_named(fetch):
    with pytest.raises(UnknownSymbolError) as caught:
        fetch("NOPE/USDT")
    assert CANDLES_REPO in str(caught.value)
    assert "klines_binance_us/NOPEUSDT/NOPEUSDT_1h_binance_us.csv" in str(caught.value)


def test_a_missing_dataset_is_an_unknown_symbol_and_both_are_named(fetch, server):
    server.files, server.error_code = {}, "RepoNotFound"
    with pytest.raises(
        UnknownSymbolError, match=f"the Hub has no public dataset me/gone for {FILE}"
    ):
        fetch(repo="me/gone")


def test_an_unknown_timeframe_and_a_malformed_dataset_are_value_errors(fetch, server):
    with pytest.raises(ValueError, match="unknown timeframe '7h'"):
        fetch(timeframe="7h")
    with pytest.raises(ValueError, match="repo is 'a/b/c'; name a dataset as user/name"):
        fetch(repo="a/b/c")
    assert server.requests == []


@pytest.mark.parametrize("fault", [500, 503, 401, 403, 429, "close", "no headers"])
def test_a_hub_that_refuses_is_an_exchange_error(fetch, server, fault):
    server.faults = [("HEAD", fault)] * 20
    with pytest.raises(
        ExchangeError, match=f"{CANDLES_REPO}: {FILE} cannot be fetched from the Hub"
    ):
        fetch()


@pytest.mark.parametrize("fault", [500, "close", "cut"])
def test_a_download_that_breaks_off_once_is_completed_or_refused_and_never_half_a_file(
    fetch, server, fault
):
    server.faults = [("GET", fault)]
    if fault == 500:
        with pytest.raises(ExchangeError, match="500"):
            fetch()
    pd.testing.assert_frame_equal(fetch(), truth(range(49)))


def test_a_download_that_keeps_breaking_off_is_an_exchange_error(fetch, server):
    server.faults = [("GET", "cut")] + [("GET", "close")] * 20
    with pytest.raises(ExchangeError, match="cannot be fetched from the Hub"):
        fetch()


def test_no_listener_is_an_exchange_error_without_a_wait(tmp_path, nothing_leaves, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"slept {seconds} s"))
    with pytest.raises(ExchangeError, match="cannot be fetched from the Hub"):
        fetch_dataset_candles("BTC/USDT", "1h", endpoint="http://127.0.0.1:9", cache_dir=tmp_path)


def test_a_missing_huggingface_hub_is_an_exchange_error_that_names_the_remedy(monkeypatch):
    real_import = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ExchangeError, match="pip install huggingface_hub"):
        fetch_dataset_candles("BTC/USDT", "1h")


def test_a_file_that_is_too_large_to_read_is_not_downloaded(fetch, server, monkeypatch):
    monkeypatch.setattr("pipeline.candles.hub_dataset.MAX_CSV_BYTES", 1000)
    with pytest.raises(ExchangeError, match=r"it has 3,\d{3} bytes, at most 1,000 are read"):
        fetch()
    assert [method for method, _ in server.requests] == ["HEAD"]
