"""Trials of candles: files that are odd, exchanges that lie, secrets in addresses."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

import data_fetcher
from pipeline import hub, privacy
from pipeline.bundle import hub_transfer
from pipeline.candles import exchange_client, formats
from pipeline.candles.exchange import fetch_many
from pipeline.candles.exchange_client import Allowance
from pipeline.candles.job import Job
from tests.exchange_answers import Answer
from tests.exchange_faults import FAULTS, Fault, FaultList
from tests.exchange_market import Market, Series, synthetic_exchange
from tests.exchange_server import ExchangeServer
from tests.hub_server import TOKEN, LoopbackHub, small_bundle
from tests.trials import BTC, EITHER, ETH, RIGHT, SECRET, Home, Trial, run, sparse, vouch

HOUR_MS = 3_600_000
MARKET = synthetic_exchange((BTC, ETH), ("1h",), 300)
NOW_MS = MARKET.ends_ms + HOUR_MS // 2
JOB = Job(BTC, "1h", since_ms=NOW_MS - 200 * HOUR_MS)


def trials(home: Home) -> list[Trial]:
    """All trials of this module."""
    home.patched.setattr(exchange_client, "allowance", lambda *_: Allowance(1e9, 1e9))
    server = home.enter_context(ExchangeServer(MARKET, now_ms=NOW_MS, hang_s=0.6, limits={}))
    return [*files_of_candles(home), *lying(home, server), *secrets(home, server)]


# Files


def files_of_candles(home: Home) -> list[Trial]:
    def read(suffix: str, make: Callable[[Path], object]) -> Callable[[], object]:
        def act() -> object:
            path = home.folder() / f"BTCUSDT_1h.{suffix}"
            make(path)
            return formats.read_file(path, "1h")

        return act

    def write(content: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(content)

    head = b"timestamp,open,high,low,close,volume\n"
    rows = b"".join(b"2024-01-01 %02d:00,1,2,1,2,3\n" % hour for hour in range(24))

    def in_groups(path: Path) -> None:
        table = pa.table({f"c{number}": [1.0] for number in range(200)})
        with parquet.ParquetWriter(path, table.schema) as out:
            for _ in range(501):
                out.write_table(table)

    pieces = home.folder() / "BTCUSDT_1h.parquet"
    in_groups(pieces)

    def cut_short(path: Path) -> None:
        home.market[BTC].to_parquet(path)
        os.truncate(path, 9000)

    def year(value: str) -> bytes:
        return head + value.encode() + b",1,2,1,2,3\n"

    kind = "bounds"
    return [
        Trial(
            kind,
            "candles of 6 GB without content",
            "bytes|line|rows",
            read("csv", lambda p: sparse(p, 6 * 2**30)),
        ),
        Trial(
            kind,
            "Parquet of 6 GB without content",
            "Parquet|read",
            read("parquet", lambda p: sparse(p, 6 * 2**30)),
        ),
        Trial(kind, "an empty CSV", ".", read("csv", Path.touch)),
        Trial(kind, "an empty Parquet file", ".", read("parquet", Path.touch)),
        Trial(kind, "a folder in place of a CSV", ".", read("csv", Path.mkdir)),
        Trial(kind, "a pipe in place of Parquet", "pipe", read("parquet", os.mkfifo)),
        Trial(
            kind,
            "a link to /dev/zero in place of a CSV",
            "device",
            read("csv", lambda p: p.symlink_to("/dev/zero")),
        ),
        Trial(kind, "a CSV that is a link to itself", ".", read("csv", lambda p: p.symlink_to(p))),
        Trial(kind, "100,200 pieces", "groups", lambda: formats.read_file(pieces, "1h")),
        Trial(kind, "a header alone", ".", read("csv", write(head))),
        Trial(kind, "a CSV of zeros", ".", read("csv", write(bytes(10**6)))),
        Trial(kind, "a CSV of bytes of no text", ".", read("csv", write(bytes(range(256)) * 100))),
        Trial(
            kind, "a quote that never ends", EITHER, read("csv", write(head + b'"' + rows * 4000))
        ),
        Trial(kind, "a date in the year 300000", ".", read("csv", write(year("300000-01-01")))),
        Trial(kind, "a date of 400 digits", ".", read("csv", write(year("9" * 400)))),
        Trial(kind, "a negative date", ".", read("csv", write(year("-99999999999999")))),
        Trial(
            kind,
            "a price with 400 digits",
            ".",
            read("csv", write(head + b"2024-01-01,1,%s,1,2,3\n" % (b"9" * 400))),
        ),
        Trial(
            kind,
            "a price in hexadecimal",
            ".",
            read("csv", write(head + b"2024-01-01,0x1p3,2,1,2,3\n")),
        ),
        Trial(
            kind,
            "columns of the same name",
            ".",
            read("csv", write(b"timestamp,open,open,low,close,volume\n" + rows)),
        ),
        Trial(
            kind,
            "letters that steer in a column's name",
            ".",
            read("csv", write(b"timestamp,\x1b[2J\xe2\x80\xae,high,low,close,volume\n" + rows)),
        ),
        Trial(kind, "a Parquet file cut short", ".", read("parquet", cut_short)),
    ]


# An exchange that lies


def lying(home: Home, server: ExchangeServer) -> list[Trial]:
    truth = MARKET.listings[BTC].candles["1h"]

    def ask(venue: str = "binance", job: Job = JOB) -> pd.DataFrame:
        found = fetch_many(
            venue,
            [job],
            base_url=server.url_of(venue),
            now_ms=NOW_MS,
            timeout_s=5,
            sleep=lambda _: None,
        )[job]
        if isinstance(found, Exception):
            raise found
        return found

    def clean() -> None:
        server.reset()
        server.markets = dict.fromkeys(server.markets, MARKET)
        server.__dict__.pop("reply", None)

    def believed(found: pd.DataFrame) -> pd.DataFrame:
        """What was taken is the truth, or lacks some of it."""
        expected = MARKET.candles(BTC, "1h", now_ms=NOW_MS, since_ms=JOB.since_ms)
        assert found.merge(expected).shape == found.shape
        return found

    def faulty(kind: str) -> Callable[[], object]:
        def act() -> object:
            clean()
            server.reset(FaultList(Fault(kind, on="klines", times=3)))
            return believed(ask())

        return act

    def holding(series: Series) -> Callable[[], object]:
        def act() -> object:
            clean()
            market = Market(MARKET.listings.values())
            market.listings[BTC] = replace(market.listings[BTC], candles={"1h": series})
            server.markets = dict.fromkeys(server.markets, market)
            return ask()

        return act

    def answering(
        raw: bytes, status: int = 200, on: str = "klines", **headers: str
    ) -> Callable[[], object]:
        def act() -> object:
            clean()
            reply = server.reply

            def spoilt(target: str) -> Answer:
                if on in target:
                    return Answer("candles", raw=raw, status=status, headers=dict(headers))
                return reply(target)

            server.__dict__["reply"] = spoilt
            try:
                return believed(ask())
            finally:
                clean()

        return act

    def rows(change: Callable[[list[Any]], list[Any]]) -> Callable[[], object]:
        first = int(JOB.since_ms or 0) // HOUR_MS * HOUR_MS + HOUR_MS
        told = []
        for number in range(150):
            time_ms = first + number * HOUR_MS
            row = truth.numbers[np.searchsorted(truth.times, time_ms)]
            told.append(
                [
                    time_ms,
                    *(repr(float(value)) for value in row),
                    time_ms + HOUR_MS - 1,
                    "1",
                    1,
                    "1",
                    "1",
                    "0",
                ]
            )
        return answering(json.dumps([change(list(row)) for row in told]).encode())

    def put(place: int, value: Any) -> Callable[[list[Any]], list[Any]]:
        def change(row: list[Any]) -> list[Any]:
            row[place] = value
            return row

        return change

    def swap(row: list[Any]) -> list[Any]:
        row[2], row[3] = row[3], row[2]
        return row

    flat = Series(truth.times, np.full_like(truth.numbers, 7.0))
    kind = "exchanges"
    error = b'{"code": -1, "msg": "%s"}'
    return [
        *(Trial(kind, f"the fault {name}", EITHER, faulty(name)) for name in sorted(FAULTS)[:14]),
        Trial(kind, "high and low swapped", ".", rows(swap)),
        Trial(kind, "times in seconds", EITHER, rows(lambda row: [row[0] // 1000, *row[1:]])),
        Trial(kind, "times in the year 300000", EITHER, rows(put(0, 9_400_000_000_000_000))),
        Trial(kind, "times that are texts", EITHER, rows(lambda row: [str(row[0]), *row[1:]])),
        Trial(kind, "times that are true", EITHER, rows(put(0, True))),
        Trial(kind, "prices 1e400", EITHER, rows(put(1, "1e400"))),
        Trial(kind, "prices NaN", EITHER, rows(put(4, "NaN"))),
        Trial(kind, "prices below 0", EITHER, rows(put(4, "-5"))),
        Trial(kind, "prices that are lists", EITHER, rows(put(4, [1]))),
        Trial(kind, "volumes below 0", EITHER, rows(put(5, "-5"))),
        Trial(kind, "rows without an end", EITHER, rows(lambda row: row[:3])),
        Trial(kind, "rows that are empty", EITHER, rows(lambda row: [])),
        Trial(kind, "one price for ever", EITHER, holding(flat)),
        Trial(kind, "no candle at all", EITHER, answering(b"[]")),
        Trial(kind, "null", EITHER, answering(b"null")),
        Trial(kind, "a number of 10^6 digits", EITHER, answering(b"[[" + b"9" * 10**6 + b"]]")),
        Trial(kind, "a lone surrogate", EITHER, answering(rb'[["\ud800"]]')),
        Trial(
            kind,
            "an error that steers the terminal",
            "x1b|failed",
            answering(error % b"\\u001b[2J\\u202e", 400),
        ),
        Trial(kind, "an error of a megabyte", ".", answering(error % (b"x" * 2**20), 400)),
        Trial(
            kind,
            "a redirect to another host",
            "redirect",
            answering(b"", 302, Location="http://10.9.9.9/x"),
        ),
        Trial(kind, "a redirect to itself", ".", answering(b"", 302, Location="/api/v3/klines")),
        Trial(
            kind, "a wait of 10^9 s", ".", answering(b"{}", 429, **{"Retry-After": "1000000000"})
        ),
        Trial(
            kind, "a wait that is no number", ".", answering(b"{}", 429, **{"Retry-After": "soon"})
        ),
        Trial(
            kind,
            "no packed text, though it says so",
            ".",
            answering(b"[]", 200, **{"Content-Encoding": "gzip"}),
        ),
        Trial(
            kind,
            "a packed text that breaks off",
            ".",
            answering(gzip.compress(b"[" * 10**6)[:50], 200, **{"Content-Encoding": "gzip"}),
        ),
        Trial(kind, "a length below 0", EITHER, answering(b"[]", 200, **{"Content-Length": "-5"})),
        Trial(kind, "a list of markets that is a text", ".", answering(b'"x"', on="exchangeInfo")),
        Trial(
            kind,
            "a list of markets of odd ones",
            ".",
            answering(b'{"symbols": [{"symbol": null}, 3]}', on="exchangeInfo"),
        ),
    ]


# Secrets


def secrets(home: Home, server: ExchangeServer) -> list[Trial]:
    def fetch(base_url: str) -> Callable[[], object]:
        return lambda: run(
            data_fetcher.main,
            "fetch",
            "--symbols",
            BTC,
            "--exchange",
            "binance",
            "--base-url",
            base_url,
            "--cache-dir",
            home.folder(),
            "--candles",
            5,
        )

    def by_proxy(name: str, address: str) -> Callable[[], object]:
        def act() -> object:
            with pytest.MonkeyPatch.context() as patched:
                patched.setenv(name, address)
                return fetch("https://127.0.0.1:9/")()

        return act

    @contextlib.contextmanager
    def loopback(endpoint: str | None = None, token: str = TOKEN) -> Iterator[LoopbackHub]:
        import huggingface_hub.constants

        with LoopbackHub() as hub_server, pytest.MonkeyPatch.context() as patched:
            thread = threading.Thread(target=hub_server.serve_forever, args=(0.02,))
            thread.start()
            patched.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(home.folder()))
            patched.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
            patched.setattr(hub_transfer.time, "sleep", lambda _: None)
            patched.setenv("HF_ENDPOINT", endpoint or hub_server.url)
            patched.setenv("HF_TOKEN", token)
            try:
                yield hub_server
            finally:
                hub_server.shutdown()
                thread.join()

    def of_hub(*words: object, **options: str) -> Callable[[], object]:
        def act() -> object:
            with loopback(**options):
                run(hub.main, *words)
            return None

        return act

    def published(change: Callable[[Path], object]) -> Callable[[], object]:
        """Push a bundle that names a folder of its maker's; nothing of it may arrive."""

        def act() -> object:
            folder = home.copy()
            change(folder)
            with loopback() as hub_server:
                run(hub.main, "push", folder, "user/repo")
                arrived = hub_server.repositories["user/repo"].files
            for name, content in arrived.items():
                assert b"/home/maker" not in content, name
            return None

        return act

    def report(folder: Path) -> None:
        path = folder / "report_v2.html"
        path.write_text(path.read_text() + "<p>/home/maker/candles/BTCUSDT_1h.csv</p>")
        vouch(folder)

    def log(folder: Path) -> None:
        path = folder / "training_log_v2.txt"
        path.write_text(path.read_text() + "from /home/maker/candles/BTCUSDT_1h.csv\n")

    def shown(text: str) -> Callable[[], object]:
        return lambda: privacy.without_secrets(text)

    small = small_bundle(home.folder() / "v2")
    kind = "secrets"
    closed = "127.0.0.1:9"
    words = (
        f"me:{SECRET}",
        f"me:{SECRET}%40x",
        f"me:{SECRET}@x",
        f"me:{SECRET}/x",
        f"me:{SECRET}#x",
        f"me:{SECRET}?x",
        f"{SECRET}",
        f":{SECRET}",
        f"me:ä{SECRET}",
        f"me:a b{SECRET}",
        f"me:{SECRET}:80",
    )
    return [
        *(
            Trial(kind, f"--base-url with {login}@", ".", fetch(f"http://{login}@{closed}/"))
            for login in words
        ),
        Trial(kind, "--base-url with a key", ".", fetch(f"http://{closed}/?apiKey={SECRET}")),
        Trial(
            kind,
            "a proxy with a password",
            ".",
            by_proxy("https_proxy", f"http://me:{SECRET}@{closed}"),
        ),
        Trial(
            kind,
            "a proxy with an odd password",
            ".",
            by_proxy("HTTPS_PROXY", f"http://me:{SECRET}@x#@{closed}"),
        ),
        Trial(
            kind,
            "a token that the Hub repeats",
            ".",
            of_hub("push", small, "user/repo", token="hf_MarkedTokenThatIsWrong"),
        ),
        Trial(kind, "a list of what is not there", ".", of_hub("list", "user/none")),
        Trial(kind, "a pull of what is not there", ".", of_hub("pull", "user/none", home.folder())),
        Trial(
            kind,
            "a Hub with a password, out of reach",
            ".",
            of_hub("list", "user/none", endpoint=f"http://me:{SECRET}@{closed}"),
        ),
        Trial(
            kind,
            "a Hub whose address is none",
            ".",
            of_hub("list", "user/none", endpoint=f"me:{SECRET}@x y"),
        ),
        Trial(
            kind,
            "a push of metadata that name a folder",
            EITHER,
            published(lambda f: vouch(f, config={"candles_dir": "/home/maker/candles"})),
        ),
        Trial(kind, "a push of a report that names a folder", EITHER, published(report)),
        Trial(kind, "a push of a log that names a folder", EITHER, published(log)),
        Trial(
            kind,
            "a push of a verdict that names a folder",
            EITHER,
            published(lambda f: vouch(f, verdict="/home/maker/x")),
        ),
        Trial(kind, "a header in an error", RIGHT, shown(f"Authorization: Bearer {SECRET}")),
        Trial(kind, "a key in a header's name", RIGHT, shown(f"X-MBX-APIKEY: {SECRET}")),
        Trial(kind, "a password in JSON", RIGHT, shown(f'{{"password": "{SECRET}"}}')),
    ]
