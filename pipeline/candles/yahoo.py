"""Candles from Yahoo, a last resort: through `yfinance`, behind the checks that exchanges pass.

Yahoo quotes coins in USD, not USDT, averages over exchanges, states the volume in USD and often not
at all (0), and keeps intraday candles for a limited time. yfinance is imported on first use.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import numpy as np
import pandas as pd

from pipeline.candles import pages
from pipeline.candles.exchange_client import Sleep, replace_host, run
from pipeline.candles.job import (
    RENAMED,
    ExchangeError,
    Job,
    UnknownSymbolError,
    coin_of,
    renamed_ms,
)
from pipeline.candles.schema import CANDLE_COLUMNS, DAY_MS, read_candles
from pipeline.privacy import clean_error, without_secrets

logger = logging.getLogger(__name__)

KEPT_DAYS = {"1m": 7, "5m": 60, "15m": 60, "30m": 60, "1h": 730, "1d": None}
"""Timeframe -> days for which Yahoo keeps it; None: from the listing on."""

OLDEST_MS = 1_388_534_400_000
"""2014-01-01; Yahoo's oldest coin, Bitcoin, begins on 2014-09-17."""

# Yahoo leaves the plain ticker to the first coin that took it; its namesakes carry the number that
# CoinMarketCap gave them. Each of these is in use under that name in several public projects
# (POL-USD and SUI-USD are other coins).
NUMBERED = "APE18876 APT21794 ARB11841 GRT6719 IMX10603 PEPE24478 POL28321 STX4847 SUI20947".split()
NUMBERED += ["TAO22974", "UNI7083"]
TICKERS = {name.rstrip("0123456789"): f"{name}-USD" for name in NUMBERED}

SPARE_CANDLES = 100
"""Candles, beside a tenth, that may be missing from the newest n before fewer come back."""

RETRY_WAITS_S = (1.0, 3.0)

MAX_ANSWER_BYTES = 2**24
"""of one answer, unpacked; two years of 1h candles are 2 MB"""
MAX_REDIRECTS = 5
"""Followed from one of Yahoo's hosts to another for one request."""

NO_SUCH_SPAN = "Data doesn't exist"
"""How Yahoo's refusal of a span without candles begins."""

NO_NETWORK = (6, 7)
"""curl's codes of a name that cannot be resolved and of a connection that cannot be made."""

QUARTER_MS = 900_000

_ONE_AT_A_TIME = threading.Lock()
"""yfinance has one session and one set of settings for all threads."""


def fetch_yahoo_candles(
    job: Job,
    *,
    now_ms: int | None = None,
    base_url: str | None = None,
    timeout_s: float = 10.0,
    sleep: Sleep = time.sleep,
) -> pd.DataFrame:
    """Fetch closed candles from Yahoo; the forming candle is dropped.

    Rows without values are left out, never filled; what is contradictory or cannot be is asked for
    once more, then refused, as `pipeline.candles.pages` does. The log names what Yahoo calls the
    coin: check that it is the one you mean.

    Args:
        job: A series of candles; BTC/USDT means Yahoo's BTC-USD, and the quote is USDT or USD. Of a
            number fewer come back where Yahoo keeps no more, or lacks a tenth and 100.
        now_ms: The present in ms since 1970 UTC; by default this machine's clock tells.
        base_url: Such as "http://127.0.0.1:8000"; takes every request in place of Yahoo's hosts.
        timeout_s: Seconds that a request may take.
        sleep: Waits the given seconds before a retry.

    Returns:
        Frame in the schema of `pipeline.candles.schema`, possibly empty; the volume is in USD. Gaps
        stay gaps. Its `attrs` name "exchange" and "market".

    Raises:
        ValueError: A timeframe that Yahoo has not; UnknownSymbolError: no such coin or quote.
        ExchangeError: Yahoo is out of reach, refuses or answers nonsense, or yfinance is not
            installed.
    """
    if job.kind not in KEPT_DAYS:
        raise ValueError(f"yahoo has no timeframe {job.kind!r}; it has {', '.join(KEPT_DAYS)}")
    coin = _todays_coin(job.symbol)
    now = int(time.time() * 1000) if now_ms is None else now_ms
    step_ms = job.step_ms
    oldest, first, last = _span(job, coin, now)
    ticker = TICKERS.get(coin, f"{coin}-USD")
    chart = _Chart(ticker, job.kind, oldest, _session(base_url, timeout_s), sleep)
    page_rows = max(1, (now - oldest) // step_ms)
    series = pages.PagedSeries("yahoo", ticker, job, page_rows, chart.ask, now, now, oldest)
    rows = series.empty
    if first <= last:
        # One answer holds all that Yahoo keeps, so some more is asked for at once, in place of what
        # is missing.
        n_spare = 0 if job.n_candles is None else SPARE_CANDLES + job.n_candles // 10
        with _ONE_AT_A_TIME:
            rows = run(pages.fetch_span(series, max(oldest, first - n_spare * step_ms), last))
    if job.n_candles is not None:
        rows = rows[-job.n_candles :]
    frame = pages.to_frame(series, rows)
    if len(rows):
        chart.tell(job.symbol, rows)
        frame = read_candles(frame, job.kind, where=f"{ticker} from yahoo")
    frame.attrs = {"exchange": "yahoo", "market": ticker}
    return frame


def _todays_coin(symbol: str) -> str:
    """Today's name of the coin that is asked for."""
    coin = coin_of(symbol)
    if symbol not in (f"{coin}/USDT", f"{coin}/USD"):
        raise UnknownSymbolError(
            f"yahoo quotes coins in USD alone, not {symbol!r}; ask for {coin}/USDT or {coin}/USD"
        )
    return RENAMED.get(coin, (coin, 0))[0]


def _span(job: Job, coin: str, now: int) -> tuple[int, int, int]:
    """Oldest candle that Yahoo has of the coin; first and last candle to ask for.

    The log is told what is older than the oldest.
    """
    step_ms = job.step_ms
    days = KEPT_DAYS[job.kind]
    oldest = OLDEST_MS
    if days is not None:
        # and one more of distance, because time passes before it is asked
        oldest = (-(-(now - days * DAY_MS) // step_ms) + 1) * step_ms
    oldest = max(oldest, renamed_ms(coin))
    end = now if job.until_ms is None else min(now, job.until_ms)
    last = (end // step_ms - 1) * step_ms
    if job.n_candles is None:
        wanted = -(-(job.since_ms or 0) // step_ms) * step_ms
    else:
        wanted = last - (job.n_candles - 1) * step_ms
    if wanted < oldest and oldest > OLDEST_MS:
        logger.warning(
            "yahoo: %s candles of %s go back %.0f days; %.1f days that were asked for are missing",
            job.kind,
            job.symbol,
            (now - oldest) / DAY_MS,
            (oldest - wanted) / DAY_MS,
        )
    return oldest, max(wanted, oldest), last


@dataclass
class _Chart:
    """A coin's candles at Yahoo, and what was seen of them."""

    ticker: str
    timeframe: str
    oldest_ms: int
    session: Any
    sleep: Sleep
    coin: Any = None
    """yfinance's Ticker, once it has answered; another would ask for the zone again"""
    name: str = ""
    """what Yahoo calls the coin"""
    left_out: set[int] = field(default_factory=set)
    """times of rows without values"""

    async def ask(self, since: int, until: int, limit: int) -> list[list[float]]:
        """Rows from `since` to the present."""
        # With an end in the past, yfinance would repeat its first answer.
        since = max(since, self.oldest_ms)
        return self._download(since).tolist() if since <= until else []

    def tell(self, symbol: str, rows: np.ndarray) -> None:
        """Log what the user must know about these candles."""
        logger.warning(
            "yahoo: %s (%s) stands in for %s%s; the volume is in USD and 0 in %d of %d candles",
            self.ticker,
            self.name or "no name",
            symbol,
            "" if symbol.endswith("/USD") else ", the quote is USD, not USDT",
            int((rows[:, 5] == 0).sum()),
            len(rows),
        )
        n_absent = sum(rows[0, 0] <= time_ms <= rows[-1, 0] for time_ms in self.left_out)
        if n_absent:
            text = "yahoo: %d candles of %s came without values and are left out"
            logger.warning(text, n_absent, self.ticker)

    def _download(self, since: int) -> np.ndarray:
        for n_attempts, wait_s in enumerate((*RETRY_WAITS_S, None), start=1):  # noqa: B007 (used after the loop)
            try:
                return self._sound(self._history(since))
            except ExchangeError:
                raise
            # a scraper: curl's errors, its own, and KeyErrors on unexpected answers
            except Exception as error:
                failure = clean_error(error)
            status, reason = _refusal(self.session.answer)
            if status == 404 and reason:
                raise UnknownSymbolError(
                    f"yahoo has no {self.ticker} ({reason}); choose another source"
                ) from failure
            if reason.startswith(NO_SUCH_SPAN) or _is_empty(self.session.answer):
                return np.empty((0, len(CANDLE_COLUMNS)))
            told = reason or f"{type(failure).__name__}: {failure}".split(". See http")[0]
            told = (f"HTTP {status}, " if status >= 400 else "") + without_secrets(
                " ".join(told.split())
            )[:200]
            is_refusal = 400 <= status < 500 and status != 429
            if wait_s is None or is_refusal or getattr(failure, "code", 0) in NO_NETWORK:
                break
            logger.warning("yahoo: %s failed (%s); again in %.0f s", self.ticker, told, wait_s)
            self.sleep(wait_s)
        raise ExchangeError(
            f"yahoo: candles of {self.ticker} failed after {n_attempts} attempt(s): {told}; check "
            "the network, try again later or choose another source"
        ) from failure

    def _history(self, since: int) -> np.ndarray:
        """(n, 6) time in ms and values from `since` to the present as Yahoo has them, or NaN."""
        self.session.answer = None
        with _telling_errors() as yfinance:
            coin = self.coin or yfinance.Ticker(self.ticker, session=self.session)
            frame = coin.history(
                start=pd.Timestamp(since, unit="ms", tz="UTC"),
                # yfinance would make a half hour of one quarter where the other is missing
                interval="15m" if self.timeframe == "30m" else self.timeframe,
                # factors are for dividends, and their product is not what was traded
                auto_adjust=False,
                keepna=True,
                prepost=True,  # else the candle of 23:59 is taken for one after the close
                actions=False,
            )
            self.coin = coin
            self.name = coin.history_metadata.get("longName") or self.name
        times = frame.index.tz_convert("UTC")
        if self.timeframe == "1d":
            # Midnight in the zone that Yahoo names: UTC, or London's, an hour off in summer. No
            # other zone's day is ours.
            days = times.round("1D")
            times = times.where(abs(times - days) > pd.Timedelta("1h"), days)
        milliseconds = times.tz_localize(None).to_numpy("datetime64[ms]").astype(np.int64)
        values = frame[["Open", "High", "Low", "Close", "Volume"]].to_numpy(np.float64)
        return np.column_stack([milliseconds, values])

    def _sound(self, rows: np.ndarray) -> np.ndarray:
        """Rows with values; of 30m, those that both quarters of an hour make up."""
        has_values = np.isfinite(rows).all(axis=1)
        self.left_out.update(rows[~has_values, 0].astype(np.int64).tolist())
        rows = rows[has_values]
        return _halves(rows) if self.timeframe == "30m" else rows


def _halves(quarters: np.ndarray) -> np.ndarray:
    """Half hours, (m, 6), of which both quarters are among the rows (n, 6).

    Example:
        >>> quarters = [[0, 2, 5, 1, 3, 10], [900_000, 3, 4, 2, 4, 20], [1_800_000, 4, 4, 4, 4, 5]]
        >>> _halves(np.array(quarters))
        array([[ 0.,  2.,  5.,  1.,  4., 30.]])
    """
    table = pd.DataFrame(quarters[quarters[:, 0] % QUARTER_MS == 0], columns=list(CANDLE_COLUMNS))
    groups = table.groupby(table["timestamp"] // (2 * QUARTER_MS) * (2 * QUARTER_MS))
    merge = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    return groups.agg(merge)[groups.size() == 2].reset_index().to_numpy(np.float64)


@functools.cache
def _yfinance() -> Any:
    if "tensorflow" in sys.modules and "curl_cffi" not in sys.modules:
        raise ExchangeError(
            "yahoo cannot be asked any more: TensorFlow was loaded before curl_cffi, and their "
            "libcurls clash; import curl_cffi first"
        )
    try:
        import yfinance
    except ImportError as error:
        text = f"yahoo: yfinance cannot be imported ({error}); pip install yfinance"
        raise ExchangeError(text) from error
    # Its cache below the home directory breaks now and then, and then so does everything. Where no
    # folder can be made, it does without.
    yfinance.set_tz_cache_location(os.devnull)
    # What it has to say is in the errors that we tell.
    logging.getLogger("yfinance").setLevel(logging.CRITICAL + 1)
    return yfinance


@contextlib.contextmanager
def _telling_errors() -> Iterator[Any]:
    """yfinance, which raises what it else logs, and does not remember a failed answer."""
    yfinance = _yfinance()
    hides = yfinance.config.debug.hide_exceptions
    yfinance.config.debug.hide_exceptions = False
    yfinance.data.YfData.cache_get.cache_clear()
    try:
        yield yfinance
    finally:
        yfinance.config.debug.hide_exceptions = hides


@functools.cache
def _session(base_url: str | None, timeout_s: float) -> Any:
    """The session that yfinance is given; cookies last as long as it."""
    _yfinance()
    from curl_cffi import requests  # yfinance's own
    from curl_cffi.curl import CURL_WRITEFUNC_ERROR

    class Bounded(requests.Session):
        """curl else keeps whatever comes."""

        def request(self, *sent: Any, **options: Any) -> Any:
            body = bytearray()

            def keep(part: bytes) -> int:
                body.extend(part)
                return len(part) if len(body) <= MAX_ANSWER_BYTES else CURL_WRITEFUNC_ERROR

            try:
                answer = super().request(*sent, **{**options, "content_callback": keep})
            except requests.exceptions.RequestException as error:
                if len(body) > MAX_ANSWER_BYTES:
                    text = f"yahoo: an answer has more than {MAX_ANSWER_BYTES:,} bytes"
                    raise ExchangeError(f"{text}; choose another source") from error
                raise
            answer.content = bytes(body)
            return answer

    class Session(Bounded):
        answer: Any = None
        """the last one to a request for candles"""

        def request(self, method: Any, url: str, *sent: Any, **options: Any) -> Any:
            answer = self._ask(method, url, *sent, **options)
            for _ in range(MAX_REDIRECTS):
                target = answer.headers.get("Location")
                if not 300 <= answer.status_code < 400 or not target:
                    break
                url = urljoin(url, target)
                answer = self._ask("GET", url)
            return answer

        def _ask(self, method: Any, url: str, *sent: Any, **options: Any) -> Any:
            """One request, to one of Yahoo's hosts; curl would follow a redirect anywhere."""
            host = urlsplit(url).hostname or ""
            if host != "yahoo.com" and not host.endswith(".yahoo.com"):
                text = f"{host} is none of Yahoo's hosts and is not asked"
                raise requests.exceptions.ConnectionError(text)
            options |= {"timeout": timeout_s, "allow_redirects": False}
            address = url if base_url is None else replace_host(url, base_url.rstrip("/"))
            if "/v8/finance/chart/" not in url:
                return super().request(method, address, *sent, **options)
            self.answer = None
            self.answer = super().request(method, address, *sent, **options)
            return self.answer

    return Session(impersonate="chrome")


def _refusal(answer: Any) -> tuple[int, str]:
    """Status of an answer (0: there is none), and Yahoo's description of an error, or ""."""
    if answer is None or answer.status_code < 400:
        return 0 if answer is None else answer.status_code, ""
    try:
        return answer.status_code, str(answer.json()["chart"]["error"]["description"])
    except (ValueError, KeyError, TypeError):
        return answer.status_code, ""


def _is_empty(answer: Any) -> bool:
    """Whether this is Yahoo's answer where it has no candles: a chart of a coin without times."""
    try:
        chart = answer.json()["chart"]["result"][0]
        return bool(chart["meta"]) and "timestamp" not in chart
    except (AttributeError, ValueError, LookupError, TypeError):
        return False
