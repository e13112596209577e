"""Candles from a directory, an exchange or the generator: fetched, validated, and told apart. As a
command:

    python data_fetcher.py fetch --symbols all --timeframes 15m 1h --since 2024-01-01 --funding
    python data_fetcher.py update

keep them in a folder an exchange (candles/binance/BTCUSDT_1h.parquet), which is a --candles-dir for
training.
"""

from __future__ import annotations

import datetime
import logging
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import TRADING_PAIRS, default_cache_dir
from pipeline import terminal
from pipeline.candles import chain, exchanges, fetch_cache, sources, store, synthetic
from pipeline.candles.candle_set import CandleSet, at_hand, fetch_dataset, read_directory
from pipeline.candles.exchanges import Job
from pipeline.candles.schema import parse_times, timeframe_ms, timestamps_ms, utc_from_ms

__all__ = ["CandleSet", "CryptodataFetcher", "expand_symbols", "fetch_candles"]

logger = logging.getLogger("data_fetcher")  # __name__ is __main__ where this is the command

Instant = str | int | float | datetime.datetime

SYNTHETIC_BANNER = """
  ┌──────────────────────────────────────────────────────────────────────────┐
  │  SYNTHETIC CANDLES, made by a generator: no market ever traded them.     │
  │  Nothing below says anything about a real market. No claim is made.      │
  │  Real candles: --candles-dir DIR, or a network. Insist: --require-real.  │
  └──────────────────────────────────────────────────────────────────────────┘
"""

SOURCES = ("auto", "directory", "exchange", "synthetic")


def expand_symbols(symbols: Sequence[str]) -> tuple[str, ...]:
    """Upper-case pairs without repetition; `all` becomes the 22 of `config.TRADING_PAIRS`.

    Raises:
        ValueError: A symbol is not written as BASE/QUOTE, there is none, or a bare string is
            passed.
    """
    if isinstance(symbols, str):
        raise ValueError(f"symbols is the string {symbols!r}; pass a list, such as [{symbols!r}]")
    wanted = (
        TRADING_PAIRS
        if [s.lower() for s in symbols] == ["all"]
        else tuple(s.upper() for s in symbols)
    )
    for symbol in wanted:
        if not re.fullmatch(r"[^\s/:]+/[^\s/:]+(:[^\s/:]+)?", symbol):
            raise ValueError(
                f"unknown symbol {symbol!r}; write pairs as BTC/USDT, or `all` for the house list"
            )
    files = [store.file_name(symbol, "") for symbol in dict.fromkeys(wanted)]
    twice = next(
        (symbol for symbol in wanted if files.count(store.file_name(symbol, "")) > 1), None
    )
    if twice is not None:
        raise ValueError(
            f"{twice} and another of {', '.join(wanted)} share one file of candles; name the pair "
            "once"
        )
    if not wanted:
        raise ValueError("no symbols; pass --symbols BTC/USDT, or `all` for the house list")
    return tuple(dict.fromkeys(wanted))


def fetch_candles(
    symbols: Sequence[str],
    timeframe: str,
    n_candles: int = 0,
    *,
    source: str = "auto",
    candles_dir: Path | str | None = None,
    exchange: str | None = None,
    require_real: bool = False,
    seed: int = 42,
    since_ms: int | None = None,
    end_ms: int | None = None,
    published: Sequence[str] = (),
    cache_dir: Path | str | None = None,
    base_url: str | None = None,
) -> CandleSet:
    """Fetch the newest candles of every symbol from the first source that works.

    `auto` takes the directory if one is given, else the exchange chain, else synthetic candles
    under a banner.

    Args:
        symbols: Pairs such as BTC/USDT, or `all` for the house list; of a directory, for those of
            it that are there.
        timeframe: Length of a candle.
        n_candles: Candles wanted per symbol, warm-up included; 0 takes all a directory has, or all
            from `since_ms` on.
        source: auto, directory, exchange or synthetic.
        candles_dir: Directory of candle files.
        exchange: ccxt id, `yahoo` or `hub`; None tries the chain.
        require_real: Refuse synthetic candles.
        seed: Of synthetic candles.
        since_ms: Only candles that open at or after this instant, epoch ms.
        end_ms: Only candles that close at or before this instant, epoch ms; None for the newest.
        published: Of `store.PUBLISHED`, what to fetch along from futures exchanges and join as of
            publication.
        cache_dir: Folder of the exchanges' folders, which keep what is fetched; None keeps nothing.
        base_url: Where to reach the exchange instead of its own address.

    Raises:
        ValueError: Contradicting options, an unknown symbol or timeframe, an unsound file,
            exchanges that answer but have no such candles.
        exchanges.ExchangeError: Real candles are required and no exchange can be reached.
    """
    step_ms = timeframe_ms(timeframe)
    is_all = [symbol.lower() for symbol in symbols] == ["all"]
    symbols = expand_symbols(symbols)
    _check_options(n_candles, source, candles_dir, exchange, require_real, since_ms)
    first_ms = 0 if since_ms is None else since_ms
    jobs = [
        Job(s, timeframe, None if n_candles else first_ms, end_ms, n_candles or None)
        for s in symbols
    ]
    if candles_dir is not None:
        return read_directory(
            at_hand(jobs, Path(candles_dir)) if is_all else jobs, Path(candles_dir)
        )
    if source in ("exchange", "auto"):
        cache = None if cache_dir is None else Path(cache_dir)
        try:
            return fetch_dataset(jobs, exchange, published, cache, base_url)
        except exchanges.ExchangeError:
            if source == "exchange" or require_real:
                raise
            logger.warning("no exchange delivered candles")
    logger.warning("%s", SYNTHETIC_BANNER)
    end = int(time.time() * 1000) if end_ms is None else end_ms
    n_candles = n_candles or (end - first_ms) // step_ms
    market = synthetic.synthetic_market(
        symbols, timeframe, n_candles, seed=seed, end=pd.Timestamp(end, unit="ms")
    )
    return CandleSet(market, timeframe, "synthetic", f"seed {seed}")


class CryptodataFetcher:
    """The v1 document's fetcher: a thin face over `fetch_candles` and the store."""

    def __init__(
        self,
        exchange: str | None = None,
        candles_dir: Path | str | None = None,
        cache_dir: Path | str | None = None,
        base_url: str | None = None,
    ) -> None:
        """Fetch from `candles_dir` if given, else from `exchange`, else from the chain; never
        synthetic.

        `cache_dir` and `base_url` are those of `fetch_candles`.
        """
        self.exchange, self.candles_dir, self.cache_dir, self.base_url = (
            exchange,
            candles_dir,
            cache_dir,
            base_url,
        )

    def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: str = "1h",
        limit: int | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
    ) -> pd.DataFrame:
        """Closed candles of one symbol, paged where the exchange gives fewer at a time.

        Args:
            symbol: Such as "BTC/USDT".
            timeframe: Length of a candle.
            limit: The newest this many; 1000 unless `since` is given. With `since` the first this
                many from there.
            since: Only candles that open at or after this; a datetime, ISO text or epoch count.
            until: Only candles that have closed by then.
        """
        return self.fetch_multiple_symbols([symbol], timeframe, limit, since, until)[
            expand_symbols([symbol])[0]
        ]

    def fetch_multiple_symbols(
        self,
        symbols: Sequence[str],
        timeframe: str = "1h",
        limit: int | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
    ) -> dict[str, pd.DataFrame]:
        """Symbol -> its closed candles, as of `fetch_ohlcv`; symbols that no exchange has are named
        in a warning."""
        since_ms, end_ms = to_ms(since, "since"), to_ms(until, "until")
        if since_ms is not None and limit is not None:
            last_ms = since_ms + limit * timeframe_ms(timeframe)
            end_ms, limit = last_ms if end_ms is None else min(last_ms, end_ms), None
        fetched = fetch_candles(
            symbols,
            timeframe,
            0 if since_ms is not None else 1000 if limit is None else limit,
            candles_dir=self.candles_dir,
            exchange=self.exchange,
            require_real=True,
            since_ms=since_ms,
            end_ms=end_ms,
            cache_dir=self.cache_dir,
            base_url=self.base_url,
        )
        return fetched.candles

    def save_to_parquet(
        self, candles: dict[str, pd.DataFrame], directory: Path | str, timeframe: str = "1h"
    ) -> list[Path]:
        """Write each symbol's candles to `<directory>/<SYMBOL>_<timeframe>.parquet`; returns the
        paths."""
        return [
            store.write_candles(frame, Path(directory), symbol, timeframe)
            for symbol, frame in candles.items()
        ]


def _check_options(
    n_candles: int,
    source: str,
    candles_dir: Path | str | None,
    exchange: str | None,
    require_real: bool,
    since_ms: int | None,
) -> None:
    """Raise on options that contradict each other, rather than ignore one of them."""
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; use one of {', '.join(SOURCES)}")
    if source == "directory" and candles_dir is None:
        raise ValueError("--source directory needs --candles-dir DIR")
    if source in ("exchange", "synthetic") and candles_dir is not None:
        raise ValueError(
            f"--source {source} does not read --candles-dir {candles_dir}; leave one of the two out"
        )
    if source in ("directory", "synthetic") and exchange is not None:
        raise ValueError(
            f"--source {source} does not ask --exchange {exchange}; leave one of the two out"
        )
    if source == "synthetic" and require_real:
        raise ValueError(
            "--require-real: --source synthetic is not real; pass --candles-dir or an exchange"
        )
    if n_candles < 0:
        raise ValueError(
            f"--candles is {n_candles}; pass a positive number, or 0 for all there are"
        )
    if n_candles and since_ms is not None:
        raise ValueError(
            f"{n_candles} candles from an instant on; give either the number or the instant"
        )
    if n_candles == 0 and candles_dir is None and since_ms is None:
        raise ValueError(
            "--candles 0 takes all of a directory; for an exchange or synthetic candles say how "
            "many"
        )


def to_ms(instant: Instant | None, name: str) -> int | None:
    """Epoch ms of an instant that a person wrote: a datetime, ISO text or an epoch count; UTC
    unless it says else."""
    if instant is None:
        return None
    return int(
        timestamps_ms(pd.DataFrame({"timestamp": parse_times(pd.Series([instant]), where=name)}))[0]
    )


@dataclass(frozen=True)
class Fetch:
    """Fetch candles into a folder for each exchange; what is there already is not fetched again."""

    symbols: tuple[str, ...] = ("BTC/USDT", "ETH/USDT")
    """pairs, such as BTC/USDT ETH/USDT; `all` for the 22 of the house list"""
    timeframes: tuple[str, ...] = ("1h",)
    """lengths of a candle, such as 15m 1h"""
    candles: int | None = None
    """the newest this many; default: 2000, or all from --since on"""
    since: str | None = None
    """all that open at or after this instant, UTC: 2023-01-01 or 2023-01-01T12:00"""
    until: str | None = None
    """only what has closed by this instant, UTC; default: now"""
    funding: bool = False
    """also funding rates, of perpetual futures"""
    open_interest: bool = False
    """also open interest, of perpetual futures; hourly, exchanges keep the last 30 days"""
    exchange: str | None = None
    """ccxt id of the exchange, or yahoo, or hub; default: binance, then the others that can be
    reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """folder of the exchanges' folders"""

    def run(self) -> None:
        """Fetch, and print what there is now."""
        if self.candles is not None and (self.since is not None or self.candles < 1):
            raise ValueError(
                f"--candles is {self.candles}; pass a positive number, or --since instead of it"
            )
        since_ms, until_ms = to_ms(self.since, "--since"), to_ms(self.until, "--until")
        n_candles = (self.candles or 2000) if since_ms is None else None
        jobs = [
            Job(symbol, timeframe, since_ms, until_ms, n_candles)
            for timeframe in dict.fromkeys(self.timeframes)
            if timeframe_ms(timeframe)
            for symbol in expand_symbols(self.symbols)
        ]

        def fetch_from(
            source: str, wanted: Sequence[Job], candles_of: str
        ) -> dict[Job, sources.Answer]:
            return fetch_cache.complete(
                self.cache_dir / candles_of, source, wanted, base_url=self.base_url
            )

        found = chain.fetch_candles(jobs, self.exchange, fetch_from)
        span_of: dict[str, tuple[int, int]] = {}
        for job in found.answers:
            span = fetch_cache.find_span(
                self.cache_dir / found.source_of[job.symbol], job.symbol, job.kind
            )
            if span is not None:
                first_ms, last_ms = span_of.get(job.symbol, (span.first_ms, span.last_ms))
                span_of[job.symbol] = (min(first_ms, span.first_ms), max(last_ms, span.last_ms))
        kinds = ["funding"] * self.funding + ["open_interest"] * self.open_interest
        along = [
            chain.fetch_published(kind, span_of, until_ms, found, fetch_from) for kind in kinds
        ]
        lines = [
            _series_line(self.cache_dir / found.source_of[job.symbol], job, answer.added)
            for part in (found, *along)
            for job, answer in part.answers.items()
        ]
        _print_table(lines)
        if any(part.failures for part in (found, *along)):
            raise SystemExit(1)  # the notices say who is missing, and why


@dataclass(frozen=True)
class Update:
    """Fetch what is new of every series that is stored, and compare the newest stored rows."""

    symbols: tuple[str, ...] = ()
    """only these pairs; default: all that are stored"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """folder of the exchanges' folders, or one of these"""

    def run(self) -> None:
        """Update, and print what there is now."""
        wanted = expand_symbols(self.symbols) if self.symbols else ()
        now_ms = int(time.time() * 1000)
        lines, problems = [], []
        for folder in _folders(self.cache_dir):
            jobs_of: dict[str, list[Job]] = {}
            for series in store.list_series(folder):
                if series.venue is None:
                    logger.info("%s names no exchange, so it is not updated", series.path)
                elif not wanted or series.symbol in wanted:
                    jobs_of.setdefault(series.venue, []).append(
                        Job(series.symbol, series.kind, since_ms=now_ms)
                    )
            for venue, jobs in jobs_of.items():
                for job, answer in fetch_cache.complete(
                    folder, venue, jobs, base_url=self.base_url
                ).items():
                    if isinstance(answer, Exception):
                        problems.append(f"{job.symbol} {job.kind}: {answer}")
                    else:
                        lines.append(_series_line(folder, job, answer.added))
        _print_table(lines)
        _end_with_problems(problems)


@dataclass(frozen=True)
class Audit:
    """Read every stored series whole, and say where candles are missing and which files are
    damaged."""

    cache_dir: Path = field(default_factory=default_cache_dir)
    """folder of the exchanges' folders, or any folder of candle files"""

    def run(self) -> None:
        """Print a line a series."""
        problems: list[str] = []
        for folder in _folders(self.cache_dir):
            found = store.audit(folder)
            print(f"{folder}\n{found.drop(columns='problems').to_string(index=False)}\n")
            problems += [problem for problem in found["problems"] if problem]
        _end_with_problems(
            problems
        )  # behind the last folder, so that a damaged file hides no other


@dataclass(frozen=True)
class List:
    """Say what is stored, from the ends of the files alone."""

    cache_dir: Path = field(default_factory=default_cache_dir)
    """folder of the exchanges' folders, or any folder of candle files"""

    def run(self) -> None:
        """Print a line a series."""
        found = [
            (folder, series)
            for folder in _folders(self.cache_dir)
            for series in store.list_series(folder)
        ]
        _print_table(
            [_series_line(folder, Job(series.symbol, series.kind, 0)) for folder, series in found]
        )


def _folders(cache_dir: Path) -> list[Path]:
    """The folders that hold series: this one or those in it."""
    folders = [cache_dir, *sorted(cache_dir.iterdir())] if cache_dir.is_dir() else []
    found = [folder for folder in folders if folder.is_dir() and store.list_series(folder)]
    if not found:
        raise ValueError(
            f"{cache_dir}: no candle files here or in a folder below; fetch some, or mend "
            "--cache-dir"
        )
    return found


def _series_line(directory: Path, job: Job, added: int | None = None) -> dict[str, object]:
    """What a person wants to know of a stored series."""
    span = fetch_cache.find_span(directory, job.symbol, job.kind)
    line: dict[str, object] = {"folder": directory, "symbol": job.symbol, "series": job.kind}
    if span is not None:
        first, last = utc_from_ms(np.array([span.first_ms, span.last_ms])).dt.strftime(
            "%Y-%m-%d %H:%M"
        )
        line |= {"rows": span.n_rows, "first": first, "last": last}
    return line if added is None else {**line, "new": added}


def _print_table(lines: list[dict[str, object]]) -> None:
    if lines:
        print(pd.DataFrame(lines).to_string(index=False))


def _end_with_problems(problems: list[str]) -> None:
    """Say what went wrong, and end with status 1 if anything did."""
    for problem in problems:
        print(f"! {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)


def main() -> None:
    """Parse the subcommand and run it."""
    import tyro

    commands: dict[str, Any] = {"fetch": Fetch, "update": Update, "audit": Audit, "list": List}
    command = tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
    with terminal.notices():
        command.run()


if __name__ == "__main__":
    with terminal.one_line_errors(
        after_interrupt="; what was fetched is stored, the same command goes on"
    ):
        main()
