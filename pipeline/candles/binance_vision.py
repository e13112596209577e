"""Binance's public archive: a zip a month and a day of each series, with its checksum.

Years of 1m candles are some dozens of files in place of thousands of requests. The archive lags a
day behind, so what it gives is stored as of Binance, from where `update` goes on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from pipeline.candles.job import ExchangeError, Job, UnknownSymbolError
from pipeline.candles.recognise import Reading, read_rows
from pipeline.candles.schema import DAY_MS, read_candles, timestamps_ms, utc_from_ms
from pipeline.candles.text_tables import read_text
from pipeline.privacy import clean_error

ADDRESS = "https://data.binance.vision"

OLDEST_MS = 1_501_545_600_000
"""2017-08-01; Binance opened in July 2017, and the archive begins in August"""

MAX_ZIP_BYTES = 2**26
"""A month of 1m candles has 2 MB."""

MAX_CHECKSUM_BYTES = 1000

TIMEOUT_S = 30.0

TRIES = 3
"""of a file that breaks off or whose checksum does not hold"""

PAUSE_S = 1.0

DAILY_MONTHS = 2
"""Of so many newest months there may be files of days alone."""

KEPT_FILES = 4
"""Files in memory: a month of 1m candles is stored in pieces, and fetched once."""

Sleep = Callable[[float], None]


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows a redirect within the host that was asked; another one is not asked."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, url: str
    ) -> Any:
        here, there = urlsplit(req.full_url), urlsplit(url)
        if (here.scheme, here.netloc) != (there.scheme, there.netloc):
            fp.close()
            raise ExchangeError(
                f"binance-vision: a redirect from {here.netloc} to {there.scheme}://"
                f"{there.netloc}, which is not asked; check the network"
            )
        return super().redirect_request(req, fp, code, msg, headers, url)


def fetch_archive_candles(
    job: Job, *, base_url: str | None = None, now_ms: int | None = None, sleep: Sleep = time.sleep
) -> pd.DataFrame:
    """Fetch closed candles from the archive.

    Args:
        job: A series of candles; BTC/USDT is of spot, BTC/USDT:USDT of USDT-margined futures.
        base_url: Address in place of https://data.binance.vision (tests, mirrors).
        now_ms: The present in ms since 1970 UTC; by default this machine's clock tells.
        sleep: Waits the given seconds before a retry.

    Returns:
        Frame in the schema, possibly empty; what the archive lacks is a gap. Its `attrs` name
        "exchange" and "market".

    Raises:
        UnknownSymbolError: The archive has no file of the series in the span.
        ValueError: A file is unsound.
        ExchangeError: The archive is out of reach, redirects elsewhere, or a checksum does not
            hold.
    """
    now = int(time.time() * 1000) if now_ms is None else now_ms
    until_ms = min(job.until_ms or now, now)
    since_ms = job.since_ms
    if since_ms is None:
        n_candles = job.n_candles or 0
        # a day more, by which the archive lags
        since_ms = until_ms - n_candles * job.step_ms - 2 * DAY_MS
    market = job.symbol.partition(":")[0].replace("/", "")
    address = (base_url or ADDRESS).rstrip("/")
    if not address.startswith(("https://", "http://")):
        raise ValueError(f"--base-url is {address}; pass one such as {ADDRESS}")
    place = _Place(address, ":" in job.symbol, market, job.kind)
    first = np.datetime64(max(since_ms, OLDEST_MS), "ms")
    last = np.datetime64(max(until_ms - 1, OLDEST_MS), "ms")
    frames = list(_files(place, first, last, np.datetime64(now, "ms"), sleep))
    empty = pd.DataFrame(
        {"timestamp": utc_from_ms(np.empty(0, np.int64))}
        | {name: np.empty(0) for name in job.columns}
    )
    rows = pd.concat(frames, ignore_index=True) if frames else empty
    if frames:
        rows = rows.drop_duplicates().sort_values("timestamp", ignore_index=True)
        rows = read_candles(rows, job.kind, where=f"{market} of binance-vision", is_whole=False)
    elif job.since_ms is None:
        raise UnknownSymbolError(
            f"binance-vision has no {job.kind} files of {market} from "
            f"{np.datetime_as_string(first, 'D')} on; check the pair, or choose another source"
        )
    rows = job.cut(rows[timestamps_ms(rows) + job.step_ms <= now])
    rows.attrs = {"exchange": "binanceusdm" if ":" in job.symbol else "binance", "market": market}
    return rows


@dataclass(frozen=True)
class _Place:
    """Where the files of a series are."""

    address: str
    is_futures: bool
    market: str
    timeframe: str

    def url(self, period: np.datetime64) -> str:
        """Address of the file of a month or of a day."""
        kind = "monthly" if np.datetime_data(period)[0] == "M" else "daily"
        room = "futures/um" if self.is_futures else "spot"
        folder = f"data/{room}/{kind}/klines/{self.market}/{self.timeframe}"
        return f"{self.address}/{folder}/{self.market}-{self.timeframe}-{period}.zip"


def _files(
    place: _Place, first: np.datetime64, last: np.datetime64, now: np.datetime64, sleep: Sleep
) -> Iterator[pd.DataFrame]:
    """Candles of each month from `first` to `last`, or of its days where it has no file yet."""
    this_month = now.astype("datetime64[M]")
    months = np.arange(first.astype("datetime64[M]"), last.astype("datetime64[M]") + 1)
    for month in months:
        is_complete = month < this_month
        rows = _read_file(place, month, sleep) if is_complete else None
        if rows is not None:
            yield rows
        elif this_month - month < DAILY_MONTHS:
            begin = max(first.astype("datetime64[D]"), month.astype("datetime64[D]"))
            end = min(
                last.astype("datetime64[D]") + 1,
                (month + 1).astype("datetime64[D]"),
                now.astype("datetime64[D]"),  # today's has not closed
            )
            for day in np.arange(begin, end):
                of_day = _read_file(place, day, sleep)
                if of_day is not None:
                    yield of_day


def _read_file(place: _Place, period: np.datetime64, sleep: Sleep) -> pd.DataFrame | None:
    """Candles of one file; None where the archive has no such file, which it may have later."""
    with contextlib.suppress(_AbsentError):
        return _read_kept(place.url(period), place.timeframe, sleep)
    return None


class _AbsentError(Exception):
    """The archive has no such file."""


@functools.lru_cache(maxsize=KEPT_FILES)
def _read_kept(url: str, timeframe: str, sleep: Sleep) -> pd.DataFrame:
    name = url.rpartition("/")[2]
    content = _download(url, name, sleep)
    try:
        table = read_text(content)
        rows, _ = read_rows(table.columns, table, timeframe, None, None, Reading(name))
    except ValueError as error:
        raise ValueError(f"{name} of binance-vision: {error}") from error
    return rows


def _download(url: str, name: str, sleep: Sleep) -> bytes:
    """A file whose checksum holds."""
    for attempt in range(1, TRIES + 1):
        content = _ask(url, MAX_ZIP_BYTES, sleep)
        if content is None:
            raise _AbsentError
        noted = _ask(f"{url}.CHECKSUM", MAX_CHECKSUM_BYTES, sleep)
        if noted is None:
            raise ExchangeError(f"binance-vision: {name} has no checksum; try again later")
        told = noted.decode("ascii", "replace").split()
        if told and hashlib.sha256(content).hexdigest() == told[0].lower():
            return content
        if attempt < TRIES:
            sleep(PAUSE_S)
    raise ExchangeError(
        f"binance-vision: the checksum of {name} does not hold after {TRIES} downloads; try again "
        "later, or choose another source"
    )


def _ask(url: str, most: int, sleep: Sleep) -> bytes | None:
    """Content of a file; None where there is none."""
    opener = urllib.request.build_opener(_SameHost)
    for attempt in range(1, TRIES + 1):
        try:
            with opener.open(url, timeout=TIMEOUT_S) as answer:
                content: bytes = answer.read(most + 1)
                said = answer.headers.get("Content-Length")
                if len(content) > most:
                    raise ExchangeError(
                        f"binance-vision: {url.rpartition('/')[2]} has more than {most:,} bytes"
                    )
                if said is not None and said.isdigit() and int(said) != len(content):
                    raise OSError(f"{len(content)} of {said} bytes came")
                return content
        except ExchangeError:
            raise
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return None
            reason: Exception = error
            is_final = error.code < 500 and error.code != 429
        except (OSError, http.client.HTTPException) as error:
            reason, is_final = error, False
        if is_final or attempt == TRIES:
            raise ExchangeError(
                f"binance-vision: {url.rpartition('/')[2]} cannot be fetched "
                f"({str(clean_error(reason))[:200]}); check the network or choose another source"
            ) from reason
        sleep(PAUSE_S * attempt)
    raise AssertionError("unreachable")
