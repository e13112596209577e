"""Candles from a directory, an exchange or the generator: fetched, validated, and told apart.

As a command,

    python data_fetcher.py fetch --symbols all --timeframes 15m 1h --since 2024-01-01 --funding
    python data_fetcher.py update
    python data_fetcher.py import DOWNLOADS

keep them in a folder an exchange (candles/binance/BTCUSDT_1h.parquet), which is a --candles-dir for
training.
"""

from __future__ import annotations

import datetime
import logging
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from config import SourceConfig, default_cache_dir
from pipeline import options, terminal
from pipeline.candles import audit, fetch_cache, folders, formats, sources, store
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import expand_symbols, fetch_candles
from pipeline.candles.formats import load as load_candles
from pipeline.candles.job import Answer, Job
from pipeline.candles.schema import (
    PUBLISHED,
    canonical_timeframe,
    drop_forming,
    instant_ms,
    timeframe_ms,
    timestamps_ms,
)

__all__ = ["CandleSet", "CryptodataFetcher", "expand_symbols", "fetch_candles", "load_candles"]

IMPORTED = "imported"
"""Folder of candles that nobody says which exchange they come from, and that are not updated"""

logger = logging.getLogger("data_fetcher")  # __name__ is __main__ where this is the command


class CryptodataFetcher:
    """The v1 document's fetcher: a thin face over `fetch_candles` and the store."""

    def __init__(
        self,
        exchange: str | None = None,
        candles_dir: Path | str | None = None,
        cache_dir: Path | str | None = None,
        base_url: str | None = None,
    ) -> None:
        """Fetch from `candles_dir` if given, else from `exchange`, else from the first that works.

        A folder and an exchange together are refused. Candles are never synthetic. `cache_dir` and
        `base_url` are those of `SourceConfig`.
        """
        self._source = SourceConfig(
            source="exchange" if candles_dir is None else "auto",
            candles_dir=None if candles_dir is None else Path(candles_dir),
            exchange=exchange,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            base_url=base_url,
            require_real=True,
        )

    def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: str = "1h",
        limit: int | None = None,
        since: str | float | datetime.datetime | None = None,
        until: str | float | datetime.datetime | None = None,
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
        found = self.fetch_multiple_symbols([symbol], timeframe, limit, since, until)
        return found[expand_symbols([symbol])[0]]

    def fetch_multiple_symbols(
        self,
        symbols: Sequence[str],
        timeframe: str = "1h",
        limit: int | None = None,
        since: str | float | datetime.datetime | None = None,
        until: str | float | datetime.datetime | None = None,
    ) -> dict[str, pd.DataFrame]:
        """Symbol -> its closed candles, as of `fetch_ohlcv`.

        A warning names the symbols that no exchange has.
        """
        since_ms = instant_ms(since, "since")
        end_ms = instant_ms(until, "until")
        n_candles = limit
        if since_ms is None:
            n_candles = 1000 if limit is None else limit
        elif limit is not None:
            last_ms = since_ms + limit * timeframe_ms(timeframe)
            end_ms = last_ms if end_ms is None else min(last_ms, end_ms)
            n_candles = None
        return fetch_candles(
            symbols, timeframe, n_candles or 0, self._source, since_ms=since_ms, end_ms=end_ms
        ).candles

    def save_to_parquet(
        self, candles: dict[str, pd.DataFrame], directory: Path | str, timeframe: str = "1h"
    ) -> list[Path]:
        """Write each symbol's candles to `<directory>/<SYMBOL>_<timeframe>.parquet`; the paths."""
        timeframe = canonical_timeframe(timeframe)
        return [
            store.write_candles(frame, Path(directory), symbol, timeframe)
            for symbol, frame in candles.items()
        ]


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
    """ccxt id of the exchange, or binance-vision (Binance's archive: years of candles in minutes),
    yahoo or hub; default: binance, then the others that can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    cross_check: str | None = None
    """another exchange, yahoo or hub, whose closes of 20 candles of each piece are compared; more
    than 1 % apart is an error, and nothing is stored"""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """folder of the exchanges' folders"""
    verbose: bool = False
    """also say why each source of candles was left"""

    def run(self) -> None:
        """Fetch, and print what there is now."""
        if self.candles is not None and (self.since is not None or self.candles < 1):
            raise ValueError(
                f"--candles is {self.candles}; pass a positive number, or --since instead of it"
            )
        since_ms = instant_ms(self.since, "--since")
        until_ms = instant_ms(self.until, "--until")
        n_candles = (self.candles or 2000) if since_ms is None else None
        wanted = tuple(dict.fromkeys(map(canonical_timeframe, self.timeframes)))
        for timeframe in wanted:
            timeframe_ms(timeframe)  # refuses an unknown one, and a month
        # A coin's timeframes come from one exchange; what none has beside the others is left out.
        served = sources.served_together(wanted, self.exchange) if len(wanted) > 1 else wanted
        lacking = [timeframe for timeframe in wanted if timeframe not in served]
        if served and lacking:
            logger.warning("no source has %s with the others", ", ".join(lacking))
        jobs = [
            Job(symbol, timeframe, since_ms, until_ms, n_candles)
            for timeframe in served or wanted
            for symbol in expand_symbols(self.symbols)
        ]
        found = sources.fetch_from_first(jobs, self.exchange, self._complete)
        span_of = self._spans(found)
        parts = [found]
        for kind in ["funding"] * self.funding + ["open_interest"] * self.open_interest:
            parts.append(sources.fetch_published(kind, span_of, until_ms, found, self._complete))
        _print_table(
            _series_line(self.cache_dir / found.source_of[job.symbol], job, answer.added)
            for part in parts
            for job, answer in part.answers.items()
        )
        if lacking or any(part.failures for part in parts):
            raise SystemExit(1)  # the notices say who is missing, and why

    def next_steps(self) -> dict[str, str]:
        """What one may want then -> the command to paste."""
        timeframe, symbols = self.timeframes[0], expand_symbols(self.symbols)
        train: tuple[object, ...] = ()
        for folder in _folders(self.cache_dir):
            found = folders.symbols_in(folder, symbols, timeframe)
            if found and self.exchange in (None, folder.name):
                train = ("--candles-dir", folder, "--symbols", *found)
                break
        audit = ("audit", "--cache-dir", self.cache_dir)
        return {
            "look for gaps": options.command("data_fetcher.py", *audit),
            "train": options.command("train_v2_production.py", *train),
        }

    def _spans(self, found: sources.Found) -> dict[str, tuple[int, int]]:
        """Symbol -> open of its first and last stored candle of any timeframe, epoch ms."""
        span_of: dict[str, tuple[int, int]] = {}
        for job in found.answers:
            folder = self.cache_dir / found.source_of[job.symbol]
            span = store.find_span(folder, job.symbol, job.kind)
            if span is not None:
                first_ms, last_ms = span_of.get(job.symbol, (span.first_ms, span.last_ms))
                span_of[job.symbol] = (min(first_ms, span.first_ms), max(last_ms, span.last_ms))
        return span_of

    def _complete(self, source: str, jobs: Sequence[Job], candles_of: str) -> dict[Job, Answer]:
        folder = self.cache_dir / candles_of
        return fetch_cache.complete(
            folder, source, jobs, base_url=self.base_url, cross_check=self.cross_check
        )


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
                names = {store.file_name(symbol, series.kind, "") for symbol in wanted}
                if wanted and series.path.stem not in names:
                    continue
                damage = store.find_damage(series.path) if series.venue is None else ""
                if damage:  # which may be why it names none
                    problems.append(damage)
                elif series.venue in (None, IMPORTED):
                    logger.info("%s names no exchange, so it is not updated", series.path)
                else:
                    job = Job(series.symbol, series.kind, since_ms=now_ms)
                    jobs_of.setdefault(series.venue, []).append(job)
            for venue, jobs in jobs_of.items():
                answers = fetch_cache.complete(folder, venue, jobs, base_url=self.base_url)
                for job, answer in answers.items():
                    if isinstance(answer, Exception):
                        problems.append(f"{job.symbol} {job.kind}: {answer}")
                    else:
                        lines.append(_series_line(folder, job, answer.added))
        _print_table(lines)
        _end_with_problems(problems)


@dataclass(frozen=True)
class Audit:
    """Read every stored series whole: where candles are missing or hard to believe, and which files
    are damaged."""

    path: Path | None = field(default=None, metadata={"positional": True, "metavar": "PATH"})
    """a file or a folder of candles, in any form; default: --cache-dir"""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """folder of the exchanges' folders, or any folder of candle files"""
    timezone: str | None = None
    """of a file: zone of times that name none, such as Europe/Berlin; default: UTC"""

    def run(self) -> None:
        """Print a line a series."""
        problems: list[str] = []
        where = self.path or self.cache_dir
        for place in [where] if where.is_file() else _folders(where):
            is_file = place.is_file()
            found = audit.audit_file(place, self.timezone) if is_file else audit.audit(place)
            table = found.drop(columns=["doubts", "problems", "read_as"])
            print(terminal.visible(f"{place}\n{table.to_string(index=False)}\n"))
            if is_file and not found["read_as"].item() and not found["problems"].item():
                logger.info("%s: read as it is, in the schema", place.name)
            for doubt in found["doubts"]:
                if doubt:
                    logger.warning("%s", doubt)
            problems += [problem for problem in found["problems"] if problem]
            problems += [] if is_file else _unknown(place)
        # behind the last folder, so that a damaged file hides no other
        _end_with_problems(problems)


@dataclass(frozen=True)
class Import:
    """Write candles of any form into the store: a file, or a folder with what it holds."""

    path: Path = field(metadata={"positional": True, "metavar": "PATH"})
    """a file or a folder of candles; files are told by their names, such as BTCUSDT_1h.csv"""
    symbol: str | None = None
    """of a file: its pair, such as BTC/USDT; default: what its name tells"""
    timeframe: str | None = None
    """of a file: length of a candle; default: what its name or its rows tell"""
    timezone: str | None = None
    """zone of times that name none, such as Europe/Berlin; default: UTC"""
    exchange: str = IMPORTED
    """ccxt id of the exchange that the candles come from, so that `update` goes on from there"""
    cache_dir: Path = field(default_factory=default_cache_dir)
    """folder of the exchanges' folders"""

    def run(self) -> None:
        """Store the candles, and print what there is now."""
        folder, lines, problems = self.cache_dir / self.exchange, [], []
        for symbol, kind, paths in self._series():
            try:
                rows, kind = self._read(paths, kind)
                update = store.update_series(folder, symbol, kind, rows, venue=self.exchange)
            except ValueError as error:
                problems.append(str(error))
            else:
                lines.append(_series_line(folder, Job(symbol, kind, 0), update.added))
        if self.path.is_dir():
            problems += _unknown(self.path)
        _print_table(lines)
        _end_with_problems(problems)

    def _series(self) -> list[tuple[str, str, list[Path]]]:
        """Pair, timeframe or "", and files of each series."""
        if not self.path.is_dir():
            name = folders.name_of(self.path)
            symbol = self.symbol or name.symbol
            if symbol is None:
                raise ValueError(
                    f"{self.path}: of which pair is it? say so by --symbol, such as BTC/USDT"
                )
            kind = self.timeframe or name.kind
            return [(expand_symbols([symbol])[0], kind, [self.path])]
        if self.symbol or self.timeframe:
            raise ValueError(
                "--symbol or --timeframe with a folder, whose files are told by their names; "
                "leave them out, or pass one file"
            )
        series = folders.list_series(self.path)
        return [
            (
                expand_symbols([one.symbol])[0],
                one.kind,
                folders.find_files(self.path, one.symbol, one.kind),
            )
            for one in series
        ]

    def _read(self, paths: Sequence[Path], kind: str) -> tuple[pd.DataFrame, str]:
        """Rows of a series, and its timeframe."""
        if kind in PUBLISHED:
            return formats.read_series(paths, PUBLISHED[kind]), kind
        timeframe = canonical_timeframe(kind) if kind else None
        rows = formats.read_parts(paths, timeframe, timezone=self.timezone)
        timeframe = timeframe or audit.timeframe_of(timestamps_ms(rows))
        timeframe_ms(timeframe)  # refuses months, which the store does not keep
        return drop_forming(rows, timeframe).reset_index(drop=True), timeframe


@dataclass(frozen=True)
class List:
    """Say what is stored, from the ends of the files alone."""

    cache_dir: Path = field(default_factory=default_cache_dir)
    """folder of the exchanges' folders, or any folder of candle files"""

    def run(self) -> None:
        """Print a line a series."""
        lines, problems = [], []
        for folder in _folders(self.cache_dir):
            for series in store.list_series(folder):
                try:
                    lines.append(_series_line(folder, Job(series.symbol, series.kind, 0)))
                except ValueError as error:
                    problems.append(str(error))
        _print_table(lines)
        _end_with_problems(problems)


def _unknown(folder: Path) -> list[str]:
    """Of the files whose names tell no series, a sentence each."""
    return [
        f"{folder / name}: its name tells no pair and timeframe, so it is not read; call it as "
        "BTCUSDT_1h.csv, or pass it alone"
        for name in folders.list_unknown(folder)
    ]


def _folders(cache_dir: Path) -> list[Path]:
    """The folders that hold series: this one or those in it."""
    paths = [cache_dir, *sorted(cache_dir.iterdir())] if cache_dir.is_dir() else []
    found = [path for path in paths if path.is_dir() and folders.list_series(path)]
    if not found:
        raise ValueError(
            f"{cache_dir}: no candle files here or in a folder below; fetch some, or mend "
            "--cache-dir"
        )
    return found


def _series_line(directory: Path, job: Job, added: int | None = None) -> dict[str, object]:
    """What a person wants to know of a stored series."""
    line: dict[str, object] = {"folder": directory, "symbol": job.symbol, "series": job.kind}
    span = store.find_span(directory, job.symbol, job.kind)
    if span is not None:
        line["rows"] = span.n_rows
        line["first"] = f"{pd.Timestamp(span.first_ms, unit='ms'):%Y-%m-%d %H:%M}"
        line["last"] = f"{pd.Timestamp(span.last_ms, unit='ms'):%Y-%m-%d %H:%M}"
    if added is not None:
        line["new"] = added
    return line


def _print_table(lines: Iterable[dict[str, object]]) -> None:
    table = pd.DataFrame(lines)
    if len(table):
        print(terminal.visible(table.to_string(index=False)))


def _end_with_problems(problems: list[str]) -> None:
    """Say what went wrong, and end with status 1 if anything did."""
    for problem in problems:
        print(f"! {terminal.visible(problem)}", file=sys.stderr)
    if problems:
        raise SystemExit(1)


def main() -> None:
    """Parse the subcommand and run it."""
    commands: dict[str, type] = {"fetch": Fetch, "update": Update, "import": Import}
    commands |= {"audit": Audit, "list": List}
    command = options.read_command(commands, __doc__)
    with terminal.notices(getattr(command, "verbose", False)):
        command.run()
        if isinstance(command, Fetch):
            terminal.tell_next(command.next_steps())


if __name__ == "__main__":
    with terminal.one_line_errors(lambda: "; what was fetched is stored, the same command goes on"):
        main()
