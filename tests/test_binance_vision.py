"""Binance's archive of zips, against a server on loopback that speaks its layout."""

import hashlib
import io
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import data_fetcher
from pipeline.candles import binance_vision, store
from pipeline.candles.binance_vision import fetch_archive_candles
from pipeline.candles.job import ExchangeError, Job, UnknownSymbolError
from pipeline.candles.schema import CANDLE_COLUMNS, timestamps_ms, utc_from_ms
from pipeline.candles.synthetic import synthetic_candles
from tests.test_formats import OHLCV

HOUR = 3_600_000
NOW = int(pd.Timestamp("2025-02-03 05:30", tz="UTC").timestamp() * 1000)
FIRST = int(pd.Timestamp("2024-11-10", tz="UTC").timestamp() * 1000)
N = (NOW - FIRST) // HOUR
HOURS = synthetic_candles(N, seed=8)[["timestamp", *OHLCV]].assign(
    timestamp=utc_from_ms(FIRST + HOUR * np.arange(N))
)
"""From a listing in November on; January's file is there, February's days are until yesterday"""


def zipped(rows: pd.DataFrame, name: str) -> bytes:
    """A file of the archive: no header, microseconds from 2025 on."""
    ms = timestamps_ms(rows)
    unit = np.where(ms >= 1_735_689_600_000, 1000, 1)
    table = pd.DataFrame({"t": ms * unit, **{c: rows[c].to_numpy() for c in OHLCV}})
    table = table.assign(e=(ms + HOUR) * unit - 1, q=table["volume"] * table["close"])
    table = table.assign(n=9, b=1.0, c=1.0, i=0)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.csv", table.to_csv(header=False, index=False))
    return content.getvalue()


def archive_of(rows: pd.DataFrame) -> dict[str, bytes]:
    """Path -> content of the whole months until January, and of February's days."""
    files = {}
    times = rows["timestamp"]
    for kind, form in (("monthly", "%Y-%m"), ("daily", "%Y-%m-%d")):
        for label, part in rows.groupby(times.dt.strftime(form)):
            is_whole = kind == "daily" or label < "2025-02"
            if is_whole and label < "2025-02-03":
                name = f"BTCUSDT-1h-{label}"
                path = f"/data/spot/{kind}/klines/BTCUSDT/1h/{name}.zip"
                content = zipped(part, name)
                files[path] = content
                noted = f"{hashlib.sha256(content).hexdigest()}  {name}.zip\n"
                files[f"{path}.CHECKSUM"] = noted.encode()
    return files


FILES = archive_of(HOURS)


class Archive(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = dict(FILES)
        self.faults: list = []
        """taken in turn: a status, "cut", or an address to redirect to"""
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Archive

    def do_GET(self):
        self.server.asked.append(self.path)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int) or (fault is None and self.path not in self.server.files):
            return self.send_error(fault or 404)
        if isinstance(fault, str) and fault.startswith("http"):
            self.send_response(302)
            self.send_header("Location", fault)
            return self.end_headers()
        content = self.server.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)

    def log_message(self, *_):
        pass


@pytest.fixture
def archive(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    binance_vision._read_kept.cache_clear()
    with Archive() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(archive, since: int = FIRST, until: int | None = None, **options) -> pd.DataFrame:
    job = Job("BTC/USDT", "1h", since, until)
    return fetch_archive_candles(
        job, base_url=archive.url, now_ms=NOW, sleep=lambda seconds: None, **options
    )


def test_months_and_days_are_joined_up_to_yesterday(archive):
    rows = fetch(archive)
    known = HOURS[HOURS["timestamp"] < "2025-02-03"]
    assert_frame_equal(rows[list(CANDLE_COLUMNS)], known, check_exact=True)
    assert set(rows["trades"]) == {9.0}
    assert rows.attrs == {"exchange": "binance", "market": "BTCUSDT"}
    zips = [path for path in archive.asked if path.endswith(".zip")]
    assert [path.rpartition("-1h-")[2] for path in zips] == [
        "2024-11.zip",
        "2024-12.zip",
        "2025-01.zip",
        "2025-02-01.zip",
        "2025-02-02.zip",
    ]


def test_a_span_is_cut_and_a_month_that_is_not_there_yet_comes_in_days(archive):
    for path in [path for path in archive.files if "monthly" in path and "2025-01" in path]:
        del archive.files[path]
    since = int(pd.Timestamp("2025-01-30 07:00", tz="UTC").timestamp() * 1000)
    rows = fetch(archive, since, since + 50 * HOUR)
    assert timestamps_ms(rows).tolist() == [since + HOUR * n for n in range(50)]


def test_months_before_the_listing_are_passed_over_and_another_pair_is_named(archive):
    assert len(fetch(archive, FIRST - 90 * 24 * HOUR)) == len(fetch(archive))
    assert len(fetch(archive, FIRST - 90 * 24 * HOUR, FIRST - 24 * HOUR)) == 0
    with pytest.raises(UnknownSymbolError, match="binance-vision has no 1h files of XYZUSDT"):
        fetch_archive_candles(Job("XYZ/USDT", "1h", n_candles=5), base_url=archive.url, now_ms=NOW)


def test_the_newest_so_many_are_those_until_yesterday(archive):
    job = Job("BTC/USDT", "1h", n_candles=24)
    rows = fetch_archive_candles(job, base_url=archive.url, now_ms=NOW)
    assert len(rows) == 24 and rows["timestamp"].iloc[-1] == pd.Timestamp("2025-02-02 23:00Z")


@pytest.mark.parametrize("fault", [500, 503, "cut"])
def test_what_breaks_off_is_asked_for_again(archive, fault):
    archive.faults = [fault, fault]
    assert len(fetch(archive)) == (HOURS["timestamp"] < "2025-02-03").sum()


def test_a_checksum_that_does_not_hold_is_an_error(archive):
    path = next(path for path in archive.files if path.endswith("2024-12.zip"))
    archive.files[path] = archive.files[path][:-1] + b"x"
    with pytest.raises(ExchangeError, match=r"checksum of BTCUSDT-1h-2024-12\.zip does not hold"):
        fetch(archive)
    del archive.files[f"{path}.CHECKSUM"]
    with pytest.raises(ExchangeError, match=r"BTCUSDT-1h-2024-12\.zip has no checksum"):
        fetch(archive)


def test_another_host_is_not_asked(archive):
    with Archive() as other:
        archive.faults = [f"{other.url}/x.zip"]
        with pytest.raises(ExchangeError, match="a redirect from 127.0.0.1:.*is not asked"):
            fetch(archive)
        assert other.asked == []
    archive.faults = [403]
    with pytest.raises(ExchangeError, match="cannot be fetched .*403"):
        fetch(archive)
    with pytest.raises(ValueError, match="--base-url is file:///etc; pass one such as https"):
        fetch_archive_candles(Job("BTC/USDT", "1h", FIRST), base_url="file:///etc")


def test_a_file_too_large_is_refused(archive, monkeypatch):
    monkeypatch.setattr(binance_vision, "MAX_ZIP_BYTES", 100)
    with pytest.raises(ExchangeError, match="has more than 100 bytes"):
        fetch(archive)


def test_the_command_stores_the_archive_and_goes_on_where_it_was_cut_off(
    archive, tmp_path, monkeypatch
):
    arguments = ["fetch", "--exchange", "binance-vision", "--base-url", archive.url]
    arguments += ["--symbols", "BTC/USDT", "--since", "2024-11-01", "--until", "2025-02-01"]
    monkeypatch.setattr(sys, "argv", ["x", *arguments, "--cache-dir", str(tmp_path)])
    monkeypatch.setattr("pipeline.candles.fetch_cache.PIECE_ROWS", 500)
    archive.faults = [None] * 4 + [403]
    monkeypatch.setattr(binance_vision, "PAUSE_S", 0.0)
    with pytest.raises((SystemExit, ExchangeError)):
        data_fetcher.main()
    n_before = len(store.read_series(tmp_path / "binance-vision", "BTC/USDT", "1h"))
    assert 0 < n_before < 1500
    data_fetcher.main()
    stored = store.read_series(tmp_path / "binance-vision", "BTC/USDT", "1h")
    known = HOURS[HOURS["timestamp"] < "2025-02-01"]
    assert_frame_equal(stored[list(CANDLE_COLUMNS)], known, check_exact=True)
    assert set(stored["trades"]) == {9.0}
    path = tmp_path / "binance-vision" / "BTCUSDT_1h.parquet"
    assert store.read_notes(path)["venue"] == "binance"
