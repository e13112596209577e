"""Candles of several symbols from the one source that settings name, or the first that works."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from config import TRADING_PAIRS, SourceConfig
from pipeline import terminal
from pipeline.candles import belief, fetch_cache, folders, formats, sources, store, synthetic
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.cross_check import demand_agreement
from pipeline.candles.job import Answer, ExchangeError, Job
from pipeline.candles.pairs import pair_of
from pipeline.candles.schema import (
    PUBLISHED,
    canonical_timeframe,
    drop_forming,
    join_published,
    read_candles,
    timeframe_ms,
    timestamps_ms,
)
from pipeline.privacy import folder_name

logger = logging.getLogger(__name__)

SYNTHETIC_BANNER = """
  ┌──────────────────────────────────────────────────────────────────────────┐
  │  SYNTHETIC CANDLES, made by a generator: no market ever traded them.     │
  │  Nothing below says anything about a real market. No claim is made.      │
  │  Real candles: --candles-dir DIR, or a network. Insist: --require-real.  │
  └──────────────────────────────────────────────────────────────────────────┘
"""

MAX_NAME = 40
"""letters of a pair's name"""

SOURCES = ("auto", "directory", "exchange", "synthetic")


def expand_symbols(symbols: Sequence[str]) -> tuple[str, ...]:
    """Upper-case pairs without repetition; `all` becomes the 22 of `config.TRADING_PAIRS`.

    BTCUSDT, btc-usd and XBT/USD are pairs, too, where they can be read in one way.

    Raises:
        ValueError: A symbol is no pair or may be several, there is none, or a bare string is
            passed.
    """
    if isinstance(symbols, str):
        raise ValueError(f"symbols is the string {symbols!r}; pass a list, such as [{symbols!r}]")
    wanted = TRADING_PAIRS if _is_all(symbols) else tuple(map(_pair, symbols))
    pair_by_name: dict[str, str] = {}
    for symbol in wanted:
        first = pair_by_name.setdefault(store.file_name(symbol, ""), symbol)
        if first != symbol:
            raise ValueError(
                f"{first} and another of {', '.join(wanted)} share one file of candles; name the "
                "pair once"
            )
    if not wanted:
        raise ValueError("no symbols; pass --symbols BTC/USDT, or `all` for the house list")
    return tuple(pair_by_name.values())


def _pair(symbol: str) -> str:
    is_name = len(symbol) <= MAX_NAME and symbol.isprintable()
    pair = pair_of(symbol) if is_name else None
    if pair is None:
        raise ValueError(
            f"unknown symbol {symbol.upper()!r:.100}; write pairs as BTC/USDT, or `all` for the "
            "house list"
        )
    return pair


def fetch_candles(
    symbols: Sequence[str],
    timeframe: str,
    n_candles: int = 0,
    source: SourceConfig = SourceConfig(cache_dir=None),
    *,
    since_ms: int | None = None,
    end_ms: int | None = None,
    published: Sequence[str] = (),
) -> CandleSet:
    """Fetch the newest candles of every symbol from the first source that works.

    `auto` takes the directory if one is given, else the exchange chain, else what the cache holds,
    with its age, else synthetic candles under a banner.

    Args:
        symbols: Pairs such as BTC/USDT, or `all` for the house list; of a directory, for those of
            it that are there.
        timeframe: Length of a candle.
        n_candles: Candles wanted per symbol, warm-up included; 0 takes all a directory has, or all
            from `since_ms` on.
        source: Where candles come from, and where fetched ones are kept; by default from an
            exchange, and nowhere.
        since_ms: Only candles that open at or after this instant, epoch ms.
        end_ms: Only candles that close at or before this instant, epoch ms; None for the newest.
        published: Of `schema.PUBLISHED`, what to fetch along from futures exchanges and join as of
            publication.

    Raises:
        ValueError: Contradicting options, an unknown symbol or timeframe, an unsound file,
            exchanges that answer but have no such candles.
        ContradictionError: Candles differ from those of `source.cross_check`.
        ExchangeError: Real candles are required, no exchange can be reached, and the cache has
            none, or is not asked (source "exchange").
    """
    step_ms = timeframe_ms(timeframe)
    timeframe = canonical_timeframe(timeframe)
    pairs = expand_symbols(symbols)
    _check_options(n_candles, source, since_ms)
    first_ms = since_ms or 0
    from_ms = None if n_candles else first_ms
    jobs = [Job(pair, timeframe, from_ms, end_ms, n_candles or None) for pair in pairs]
    if source.candles_dir is not None:
        directory = Path(source.candles_dir)  # a notebook may say it as text
        if _is_all(symbols):
            jobs = list(_those_at_hand(jobs, directory))
        return _labelled(_read_from(directory, jobs, source.timezone), source)
    if source.source in ("exchange", "auto"):
        try:
            market = _fetch_from_sources(jobs, source, published)
        except ExchangeError as error:
            if source.source == "exchange":
                raise
            logger.info("%s", error)
            cached = _read_from_cache(jobs, source, published)
            if cached is not None:
                return _labelled(cached, source)
            if source.require_real or source.cross_check:
                raise
            logger.warning("no exchange delivered candles%s", _not_cached(jobs, source))
        else:
            return _labelled(market, source)
    logger.warning("%s", SYNTHETIC_BANNER)
    end = int(time.time() * 1000) if end_ms is None else end_ms
    n_candles = n_candles or (end - first_ms) // step_ms
    made_up = synthetic.synthetic_market(
        pairs, timeframe, n_candles, seed=source.seed, end=pd.Timestamp(end, unit="ms")
    )
    return _labelled(CandleSet(made_up, timeframe, "synthetic", f"seed {source.seed}"), source)


def _is_all(symbols: Sequence[str]) -> bool:
    return [symbol.lower() for symbol in symbols] == ["all"]


def _check_options(n_candles: int, source: SourceConfig, since_ms: int | None) -> None:
    """Raise on options that contradict each other, rather than ignore one of them."""
    name, folder, exchange = source.source, source.candles_dir, source.exchange
    out = "leave one of the two out"
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}; use one of {', '.join(SOURCES)}")
    if name == "directory" and folder is None:
        raise ValueError("--source directory needs --candles-dir DIR")
    if name in ("exchange", "synthetic") and folder is not None:
        raise ValueError(f"--source {name} does not read --candles-dir {folder}; {out}")
    if name in ("directory", "synthetic") and exchange is not None:
        raise ValueError(f"--source {name} does not ask --exchange {exchange}; {out}")
    if name != "synthetic" and folder is not None and exchange is not None:
        raise ValueError(f"--candles-dir {folder} is read, --exchange {exchange} not asked; {out}")
    if name == "synthetic" and source.cross_check is not None:
        raise ValueError(f"--source synthetic has nothing to do with --cross-check; {out}")
    if name == "synthetic" and source.require_real:
        remedy = "pass --candles-dir or an exchange"
        raise ValueError(f"--require-real: --source synthetic is not real; {remedy}")
    if n_candles < 0:
        remedy = "pass a positive number, or 0 for all there are"
        raise ValueError(f"--candles is {n_candles}; {remedy}")
    if n_candles and since_ms is not None:
        remedy = "give either the number or the instant"
        raise ValueError(f"{n_candles} candles from an instant on; {remedy}")
    if n_candles == 0 and folder is None and since_ms is None:
        remedy = "for an exchange or synthetic candles say how many"
        raise ValueError(f"--candles 0 takes all of a directory; {remedy}")


def _those_at_hand(jobs: Sequence[Job], directory: Path) -> Sequence[Job]:
    """The jobs that a directory has, with a notice of the others; all of them if it has none."""
    found = [job for job in jobs if folders.has_series(directory, job.symbol, job.kind)]
    if not found:
        return jobs
    lacking = [job.symbol for job in jobs if job not in found]
    if lacking:
        names = terminal.listed(lacking)
        logger.info("left out of `all`, since %s does not have them: %s", directory, names)
    return found


def _labelled(market: CandleSet, source: SourceConfig) -> CandleSet:
    """Frames that say of what they are, since forecasts name it; a warning tells of doubts.

    Candles that are hard to believe stay, since they may be true. Those that the source to compare
    with contradicts are an error.
    """
    if source.cross_check is not None:
        for symbol, frame in market.candles.items():
            whence = market.venue_of.get(symbol, market.venue)
            names = (symbol, market.timeframe, whence, source.cross_check)
            demand_agreement(frame, *names, base_url=source.base_url)
    for symbol, frame in market.candles.items():
        venue = "synthetic" if market.is_synthetic else market.venue_of.get(symbol)
        frame.attrs |= {"symbol": symbol} | ({"exchange": venue} if venue else {})
        if symbol in market.doubts:
            logger.warning("%s", market.doubts[symbol])
            frame.attrs[belief.TOLD] = True
    return market


def _read_from(directory: Path, jobs: Sequence[Job], timezone: str | None) -> CandleSet:
    """The candles of each job from a directory, with the funding and open interest beside them."""
    timeframe = jobs[0].kind
    formats.demand_files(directory, [job.symbol for job in jobs], timeframe)
    candles, funding = {}, {}
    for job in jobs:
        frame = formats.read_directory(directory, job.symbol, timeframe, timezone=timezone)
        frame = job.cut(drop_forming(frame, timeframe))
        _check_number(frame, job, str(directory))
        candles[job.symbol] = frame
        settled = formats.read_beside(directory, job.symbol, "funding")
        if settled is not None:
            funding[job.symbol] = settled
    venue = folder_name(directory)  # all that a bundle needs to know of it
    return CandleSet(candles, timeframe, "directory", venue, funding=funding)


def _fetch_from_sources(
    jobs: Sequence[Job], source: SourceConfig, published: Sequence[str]
) -> CandleSet:
    """Each symbol, whole, from the first source that has it, with published values joined on."""

    def fetch_from(venue: str, wanted: Sequence[Job], candles_of: str) -> dict[Job, Answer]:
        directory = None if source.cache_dir is None else Path(source.cache_dir) / candles_of
        answers = fetch_cache.fetch_through(
            directory, venue, wanted, base_url=source.base_url, cross_check=source.cross_check
        )
        return {job: _sound_or_error(answers[job], job, venue) for job in wanted}

    found = sources.fetch_from_first(jobs, source.exchange, fetch_from)
    return _join_published("exchange", jobs, found, published, fetch_from)


def _read_from_cache(
    jobs: Sequence[Job], source: SourceConfig, published: Sequence[str]
) -> CandleSet | None:
    """What the cache holds, as `_fetch_from_sources` would give it; None if it has no candles."""
    if source.cache_dir is None:
        return None
    cache = Path(source.cache_dir)

    def read_from(venue: str, wanted: Sequence[Job], candles_of: str) -> dict[Job, Answer]:
        answers = {job: fetch_cache.read(cache / candles_of, job, venue) for job in wanted}
        return {job: _sound_or_error(answers[job], job, venue) for job in wanted}

    found = fetch_cache.find_stored(cache, jobs, source.exchange)
    if not found.answers:
        return None
    logger.warning("no exchange delivered candles")
    newest_ms = max(int(timestamps_ms(rows)[-1]) for rows in found.answers.values())
    newest = f"{pd.Timestamp(newest_ms, unit='ms'):%Y-%m-%d %H:%M} UTC, {_age(newest_ms)} old"
    folders = ", ".join(str(cache / venue) for venue in dict.fromkeys(found.source_of.values()))
    logger.warning("candles of the cache, %s: newest %s", folders, newest)
    lacking = [job.symbol for job in jobs if job not in found.answers]
    if lacking:
        text = "%d of %d symbols are missing, %s has no %s candles of them: %s"
        names = terminal.listed(lacking)
        logger.warning(text, len(lacking), len(jobs), cache, jobs[0].kind, names)
    for job, rows in found.answers.items():
        _check_number(rows, job, found.source_of[job.symbol])
    folder_of = {symbol: cache / venue for symbol, venue in found.source_of.items()}
    kept = [kind for kind in published if _is_stored(kind, folder_of)]
    return _join_published("cache", jobs, found, kept, read_from)


def _is_stored(kind: str, folder_of: Mapping[str, Path]) -> bool:
    return any(store.find_file(folder, symbol, kind) for symbol, folder in folder_of.items())


def _not_cached(jobs: Sequence[Job], source: SourceConfig) -> str:
    """The end of a sentence: what the cache lacks, where there is one."""
    if source.cache_dir is None:
        return ""
    symbols = terminal.listed(job.symbol for job in jobs)
    return f", and the cache ({source.cache_dir}) has no {jobs[0].kind} candles of {symbols}"


def _age(time_ms: int) -> str:
    """How long ago an instant was, such as "6 days" or "5 h"."""
    hours = (time.time() - time_ms / 1000) / 3600
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} h"


def _join_published(
    source: str,
    jobs: Sequence[Job],
    found: sources.Found,
    published: Sequence[str],
    fetch_from: sources.FetchFrom,
) -> CandleSet:
    """The candles that were found, with published values from the futures exchanges that go along.

    Args:
        source: What the candles' set calls it.
        jobs: The candles that were asked for.
        found: Those that were found.
        published: Of `schema.PUBLISHED`, what to join.
        fetch_from: See `sources.FetchFrom`.
    """
    timeframe = jobs[0].kind
    candles = {job.symbol: found.answers[job] for job in jobs if job in found.answers}
    joined: dict[str, dict[str, str]] = {symbol: {} for symbol in candles}
    funding = {}
    span_of = {}
    for symbol, frame in candles.items():
        times = timestamps_ms(frame)
        span_of[symbol] = (int(times[0]), int(times[-1]))
    for kind in published:
        column = PUBLISHED[kind]
        along = sources.fetch_published(kind, span_of, jobs[0].until_ms, found, fetch_from)
        for job, series in along.answers.items():
            candles[job.symbol] = join_published(candles[job.symbol], series, column, timeframe)
            joined[job.symbol][column] = along.source_of[job.symbol]
            if kind == "funding":
                funding[job.symbol] = series
    venues = ", ".join(dict.fromkeys(found.source_of.values()))
    return CandleSet(candles, timeframe, source, venues, found.source_of, joined, funding)


def _check_number(rows: pd.DataFrame, job: Job, venue: str) -> None:
    """Warn of fewer rows than asked for; none are a ValueError."""
    if len(rows) == 0:
        raise ValueError(fetch_cache.no_rows(job, venue))
    if job.n_candles is not None and len(rows) < job.n_candles:
        logger.warning(
            "%s: %d candles from %s, %d asked for", job.symbol, len(rows), venue, job.n_candles
        )


def _sound_or_error(answer: Answer, job: Job, venue: str) -> Answer:
    """A sound frame of one source, or the error that sends its symbol to the next one."""
    if isinstance(answer, Exception):
        return answer
    try:
        _check_number(answer, job, venue)
        if job.is_published:
            return answer
        return read_candles(answer, job.kind, where=f"{job.symbol} from {venue}")
    except ValueError as error:
        return error
