"""Whom to ask for candles, and in which order.

A source is an exchange, Yahoo Finance, or the Hugging Face dataset; all answer alike (`fetch`).
Each symbol comes whole from the first source of a chain that has it, with funding and open interest
of futures along.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from pipeline import terminal
from pipeline.candles import binance_vision, exchange, hub_dataset, yahoo
from pipeline.candles.job import Answer, ContradictionError, ExchangeError, Job
from pipeline.candles.schema import DAY_MS

logger = logging.getLogger(__name__)

CANDLE_CHAIN = (*exchange.EXCHANGE_CHAIN, "yahoo")
"""Tried in this order. Yahoo comes last: quoted in USD, hourly for two years only, and many of its
volumes are 0."""

OWN_FUTURES = {"binance": "binanceusdm", "okx": "okx", "bybit": "bybit"}
OWN_FUTURES |= {"binance-vision": "binanceusdm"}
"""Source -> its own futures exchange, whose funding and open interest are asked for first."""

NO_EXCHANGES = ("yahoo", "hub", "binance-vision")
"""Sources that ccxt does not know: Yahoo Finance, the Hub's dataset of Binance US candles, and
Binance's archive of files."""

MAX_FAILURES = 2
"""Series in a row that a source out of reach fails, after which the rest are not asked for."""

OPEN_INTEREST_DAYS = 29
"""Exchanges keep open interest for 30 days; asking for more would only be warned of."""

MAX_REASONS = 4
"""Reasons that the log gives for leaving a source."""

Follow = Callable[[Job, pd.DataFrame], "Job | None"]
"""Called with a job and its frame; may name the job that comes next in its place."""

FetchFrom = Callable[[str, Sequence[Job], str], Mapping[Job, Answer]]
"""Called with a source, jobs, and the source of their candles, which names the folder."""


@dataclass(frozen=True)
class Found:
    """What a chain of sources gave."""

    answers: dict[Job, Answer] = field(default_factory=dict)
    """the series of the symbols that were found"""
    source_of: dict[str, str] = field(default_factory=dict)
    """symbol -> source"""
    failures: dict[str, list[Exception]] = field(default_factory=dict)
    """symbol that was not found -> why not, a reason a source"""

    def error(self) -> Exception:
        """What to raise where nothing was found.

        A ValueError where any source answered: it lacks the symbol or sends nonsense, which is no
        reason for synthetic candles. Else nobody could be reached.
        """
        errors = [error for reasons in self.failures.values() for error in reasons]
        text = "; ".join(dict.fromkeys(map(str, errors)))
        if any(isinstance(error, ValueError) for error in errors):
            return ValueError(text)
        n_tried = max(map(len, self.failures.values()))
        if n_tried == 1:
            return ExchangeError(text)
        first = str(errors[0]).split(";")[0]
        return ExchangeError(
            f"no exchange reachable ({n_tried} tried): {first}; check the network, or use files "
            "(--candles-dir; `predict FILE` in place of `live`)"
        )


def fetch(
    source: str, jobs: Sequence[Job], *, base_url: str | None = None, follow: Follow | None = None
) -> dict[Job, Answer]:
    """Fetch series from one source, of `NO_EXCHANGES` or by ccxt's id, under a bar.

    The other arguments, the answers and the errors are those of `exchange.fetch_many`.
    """
    with terminal.bar(None, source, " rows") as bar:
        if source not in NO_EXCHANGES:
            return exchange.fetch_many(
                source, jobs, base_url=base_url, on_page=lambda _, n: bar.update(n), follow=follow
            )
        answers: dict[Job, Answer] = {}
        failures: list[ExchangeError] = []  # in a row
        for job in jobs:
            if len(failures) == MAX_FAILURES:  # out of reach, and each would be waited for
                answers[job] = failures[-1]
                continue
            piece: Job | None = job
            try:
                while piece is not None:
                    answers[job] = _fetch_elsewhere(source, piece, base_url)
                    bar.update(len(answers[job]))
                    piece = None if follow is None else follow(piece, answers[job])
                failures.clear()
            except ExchangeError as error:
                answers[job] = error
                failures.append(error)
            except ValueError as error:
                answers[job] = error
        return answers


def fetch_from_first(jobs: Sequence[Job], source: str | None, fetch_from: FetchFrom) -> Found:
    """Take each symbol, all its jobs, from the given source, or the first that has them.

    Every hop has its reason in the log. A symbol that no source has does not sink the others: a
    warning names it.

    Raises:
        ValueError, ExchangeError: No source has any symbol.
        ContradictionError: A source and the one it was compared with differ.
    """
    found = Found()
    _try_in_turn(found, jobs, (source,) if source else CANDLE_CHAIN, fetch_from)
    if not found.source_of:
        raise found.error()
    if found.failures:
        n_missing = len(found.failures)
        text = "%d of %d symbols are missing, no source has them: %s"
        n_symbols = n_missing + len(found.source_of)
        logger.warning(text, n_missing, n_symbols, terminal.listed(found.failures))
    return found


def served_together(timeframes: Sequence[str], source: str | None) -> tuple[str, ...]:
    """Those of the timeframes that one source has: all of them, or as many as any has."""
    most: tuple[str, ...] = ()
    for name in (source,) if source else CANDLE_CHAIN:
        known: Collection[str] = timeframes
        if name == "yahoo":
            known = yahoo.KEPT_DAYS
        elif name not in NO_EXCHANGES:
            known = exchange.timeframes_of(name)
        kept = tuple(timeframe for timeframe in timeframes if timeframe in known)
        if len(kept) > len(most):
            most = kept
    return most


def fetch_published(
    kind: str,
    span_of: Mapping[str, tuple[int, int]],
    until_ms: int | None,
    found: Found,
    fetch_from: FetchFrom,
) -> Found:
    """Fetch funding or open interest to go with the candles that were found.

    What no futures exchange has is left out.

    Args:
        kind: "funding" or "open_interest".
        span_of: Symbol -> open of its first and last candle, ms since 1970 UTC.
        until_ms: Only what was published by then.
        found: The candles' sources.
        fetch_from: See `FetchFrom`.
    """
    along = Found()
    for source in dict.fromkeys(found.source_of.values()):
        wanted = []
        for symbol, (first_ms, last_ms) in span_of.items():
            # from a day before the first candle, so that it has a value
            since_ms = max(0, first_ms - DAY_MS)
            if kind == "open_interest":
                since_ms = max(since_ms, last_ms - OPEN_INTEREST_DAYS * DAY_MS)
            if found.source_of[symbol] == source:
                wanted.append(Job(symbol, kind, since_ms, until_ms))
        _try_in_turn(along, wanted, futures_of(source), fetch_from, source)
    if along.failures:
        what, lacking = kind.replace("_", " "), terminal.listed(along.failures)
        n_symbols = terminal.counted(len(along.failures), "symbol")
        logger.info("no futures exchange has %s of %s: %s", what, n_symbols, lacking)
    return along


def futures_of(source: str) -> tuple[str, ...]:
    """Futures exchanges whose funding and open interest go with a source's candles, best first.

    Example:
        >>> futures_of("okx"), futures_of("kucoin")
        (('okx', 'binanceusdm', 'bybit'), ('binanceusdm', 'bybit', 'okx'))
    """
    chain = exchange.FUTURES_CHAIN
    return tuple(dict.fromkeys((OWN_FUTURES.get(source, chain[0]), *chain)))


def _try_in_turn(
    found: Found,
    jobs: Sequence[Job],
    chain: Sequence[str],
    fetch_from: FetchFrom,
    candles_of: str | None = None,
) -> None:
    """Add to `found` what the first source that has all of a symbol's jobs gives."""
    failures: dict[str, list[Exception]] = {job.symbol: [] for job in jobs}
    hops: list[tuple[list[Exception], str]] = []
    for source in chain:
        left = [job for job in jobs if job.symbol not in found.source_of]
        if not left:
            break
        answers = fetch_from(source, left, candles_of or source)
        failed: dict[str, Exception] = {}
        for job in left:
            if isinstance(answers[job], ContradictionError):
                raise answers[job]
            if isinstance(answers[job], Exception):
                failed.setdefault(job.symbol, answers[job])
        for job in left:
            if job.symbol not in failed:
                found.answers[job] = answers[job]
                found.source_of[job.symbol] = source
        for symbol, error in failed.items():
            failures[symbol].append(error)
        and_now = "; trying the next source" if source != chain[-1] else ""
        hops.append((list(failed.values()), and_now))
    # Where nobody answers, that is one line; each reason is then a detail.
    level = logging.INFO if found.source_of else logging.DEBUG
    for errors, and_now in hops:
        _tell_reasons(errors, and_now, level)
    found.failures.update(
        {symbol: errors for symbol, errors in failures.items() if symbol not in found.source_of}
    )


def _tell_reasons(errors: Sequence[Exception], and_now: str, level: int) -> None:
    reasons = list(dict.fromkeys(str(error).split(";")[0] for error in errors))
    for reason in reasons[:MAX_REASONS]:
        logger.log(level, "%s%s", reason, and_now)
    if len(reasons) > MAX_REASONS:
        logger.log(level, "… and so on for %d symbols in all%s", len(errors), and_now)


def _fetch_elsewhere(source: str, job: Job, base_url: str | None) -> pd.DataFrame:
    """A series of one of `NO_EXCHANGES`."""
    if job.is_published:
        futures = ", ".join(exchange.FUTURES_CHAIN)
        raise ValueError(f"{source} has no {job.kind}; use one of {futures}")
    if source == "yahoo":
        return yahoo.fetch_yahoo_candles(job, base_url=base_url)
    if source == "binance-vision":
        return binance_vision.fetch_archive_candles(job, base_url=base_url)
    return job.cut(hub_dataset.fetch_dataset_candles(job.symbol, job.kind, endpoint=base_url))
