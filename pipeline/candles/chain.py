"""Each symbol whole from the first source of a chain that has it, with funding and open interest of
futures along."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.candles.exchanges import DAY_MS, EXCHANGE_CHAIN, FUTURES_CHAIN, ExchangeError, Job
from pipeline.candles.sources import Answer

logger = logging.getLogger(__name__)

CANDLE_CHAIN = (*EXCHANGE_CHAIN, "yahoo")
"""Tried in this order. Yahoo comes last: quoted in USD, hourly for two years only, and many of its
volumes are 0."""

FUTURES_OF = {"binance": "binanceusdm", "okx": "okx", "bybit": "bybit"}
"""Exchange -> its own futures, whose funding and open interest are asked for first."""

OPEN_INTEREST_DAYS = 29
"""Exchanges keep open interest for 30 days; asking for more would only be warned of."""

MAX_REASONS = 4
"""Reasons that the log gives for leaving a source."""

FetchFrom = Callable[[str, Sequence[Job], str], Mapping[Job, Answer]]
"""Called with a source, jobs, and the source whose candles the series belong to (which names the
folder)."""


@dataclass(frozen=True)
class Found:
    """What a chain of sources gave."""

    answers: dict[Job, Answer]
    """the series of the symbols that were found"""
    source_of: dict[str, str]
    """symbol -> source"""
    failures: dict[str, list[Exception]]
    """symbol that was not found -> why not, a reason a source"""

    def error(self) -> Exception:
        """What to raise where nothing was found.

        A ValueError where any source answered: it lacks the symbol or sends nonsense, which is no
        reason for synthetic candles. Else nobody could be reached.
        """
        errors = [error for reasons in self.failures.values() for error in reasons]
        text = "; ".join(dict.fromkeys(str(error) for error in errors))
        return (
            ValueError if any(isinstance(error, ValueError) for error in errors) else ExchangeError
        )(text)


def fetch_candles(jobs: Sequence[Job], source: str | None, fetch_from: FetchFrom) -> Found:
    """Take each symbol, all its jobs, from the given source, or from the first of the chain that
    has them.

    Every hop has its reason in the log. A symbol that no source has does not sink the others: a
    warning names it.

    Raises:
        ValueError, ExchangeError: No source has any symbol.
    """
    chain = (source,) if source else CANDLE_CHAIN
    found = _from_first(jobs, chain, lambda candidate, left: fetch_from(candidate, left, candidate))
    if not found.source_of:
        raise found.error()
    if found.failures:
        n = len(found.failures) + len(found.source_of)
        missing = ", ".join(found.failures)
        logger.warning(
            "%d of %d symbols are missing, no source has them: %s", len(found.failures), n, missing
        )
    return found


def fetch_published(
    kind: str,
    span_of: Mapping[str, tuple[int, int]],
    until_ms: int | None,
    found: Found,
    fetch_from: FetchFrom,
) -> Found:
    """Fetch funding or open interest to go with the candles that were found; what no futures
    exchange has is left out.

    Args:
        kind: "funding" or "open_interest".
        span_of: Symbol -> open of its first and last candle, ms since 1970 UTC.
        until_ms: Only what was published by then.
        found: The candles' sources.
        fetch_from: See `FetchFrom`.
    """
    along = Found({}, {}, {})
    for source in dict.fromkeys(found.source_of.values()):
        symbols = [symbol for symbol, its_source in found.source_of.items() if its_source == source]
        wanted = [
            Job(symbol, kind, _published_since(kind, *span_of[symbol]), until_ms)
            for symbol in symbols
        ]

        def fetch_along(
            futures: str, left: Sequence[Job], candles_of: str = source
        ) -> Mapping[Job, Answer]:
            return fetch_from(futures, left, candles_of)

        some = _from_first(wanted, futures_of(source), fetch_along)
        along.answers.update(some.answers)
        along.source_of.update(some.source_of)
        along.failures.update(some.failures)
    if along.failures:
        what, lacking = kind.replace("_", " "), ", ".join(along.failures)
        logger.info(
            "no futures exchange has %s of %d symbols: %s", what, len(along.failures), lacking
        )
    return along


def futures_of(source: str) -> tuple[str, ...]:
    """Futures exchanges whose funding and open interest go with a source's candles, the best first.

    Example:
        >>> futures_of("okx"), futures_of("kucoin")
        (('okx', 'binanceusdm', 'bybit'), ('binanceusdm', 'bybit', 'okx'))
    """
    return tuple(dict.fromkeys((FUTURES_OF.get(source, FUTURES_CHAIN[0]), *FUTURES_CHAIN)))


def _from_first(
    jobs: Sequence[Job],
    chain: Sequence[str],
    fetch_from: Callable[[str, Sequence[Job]], Mapping[Job, Answer]],
) -> Found:
    found = Found({}, {}, {job.symbol: [] for job in jobs})
    for source in chain:
        left = [job for job in jobs if job.symbol not in found.source_of]
        if not left:
            break
        answers = fetch_from(source, left)
        failed = {
            job.symbol: answers[job]
            for job in reversed(left)
            if isinstance(answers[job], Exception)
        }
        for job in left:
            if job.symbol not in failed:
                found.answers[job] = answers[job]
                found.source_of[job.symbol] = source
        for symbol, error in failed.items():
            found.failures[symbol].append(error)
        and_now = "; trying the next source" if source != chain[-1] else ""
        reasons = list(
            dict.fromkeys(str(error).split(";")[0] for error in reversed(failed.values()))
        )
        for reason in reasons[:MAX_REASONS]:
            logger.info("%s%s", reason, and_now)
        if len(reasons) > MAX_REASONS:
            logger.info("… and so on for %d symbols in all%s", len(failed), and_now)
    for symbol in found.source_of:
        del found.failures[symbol]
    return found


def _published_since(kind: str, first_ms: int, last_ms: int) -> int:
    """From where to fetch a published series: from a day before the first candle, so that it has a
    value."""
    since_ms = max(0, first_ms - DAY_MS)
    return (
        max(since_ms, last_ms - OPEN_INTEREST_DAYS * DAY_MS)
        if kind == "open_interest"
        else since_ms
    )
