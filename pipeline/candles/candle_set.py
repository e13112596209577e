"""Candles of several symbols: where they come from, and what is told about it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from config import SourceConfig
from pipeline.candles import chain, fetch_cache, sources, store
from pipeline.candles.exchanges import Job
from pipeline.candles.schema import (
    cut_rows,
    drop_forming,
    find_gaps,
    join_published,
    read_candles,
    timeframe_ms,
    timestamps_ms,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CandleSet:
    """Candles of several symbols and where they come from."""

    candles: dict[str, pd.DataFrame]
    """symbol -> frame in the schema of `pipeline.candles.schema`"""
    timeframe: str
    source: str
    """directory, exchange or synthetic"""
    venue: str
    """the directory's path, the exchanges' ids, or the generator's seed"""
    venue_of: Mapping[str, str] = field(default_factory=dict)
    """symbol -> exchange, where they may differ; each symbol comes from one exchange, whole"""
    published_venue_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """symbol -> column (funding_rate, open_interest) -> futures exchange it was joined from"""
    funding: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """symbol -> settled funding rates, where they are known, for the backtest"""

    @property
    def is_synthetic(self) -> bool:
        return self.source == "synthetic"

    def describe(self) -> list[str]:
        """A line a symbol, for people; of many symbols the first few."""
        lines = [
            f"{symbol:10} {len(frame):>8,} candles  {frame['timestamp'].iloc[0]:%Y-%m-%d %H:%M} to "
            f"{frame['timestamp'].iloc[-1]:%Y-%m-%d %H:%M}  {self.source} "
            f"{self.venue_of.get(symbol, self.venue)}"
            for symbol, frame in self.candles.items()
        ]
        return lines if len(lines) <= 6 else [*lines[:5], f"… and {len(lines) - 5} more symbols"]

    def fingerprint(self) -> dict[str, Any]:
        """What an interrupted run needs to fetch the same candles again and to be sure of it."""
        last_ms = max(int(timestamps_ms(frame)[-1]) for frame in self.candles.values())
        hashes = {symbol: store.content_sha256(frame) for symbol, frame in self.candles.items()}
        return {"end_ms": last_ms + timeframe_ms(self.timeframe), "sha256": hashes}

    def provenance(self) -> dict[str, Any]:
        """For the metadata: source, spans, rows, gaps and hash of each symbol."""
        step_ms = timeframe_ms(self.timeframe)
        return {
            "source": self.source,
            "venue": self.venue,
            "synthetic": self.is_synthetic,
            "timeframe": self.timeframe,
            "symbols": {
                symbol: {
                    "rows": len(frame),
                    "first": frame["timestamp"].iloc[0].isoformat(),
                    "last": frame["timestamp"].iloc[-1].isoformat(),
                    "missing_candles": int(
                        find_gaps(timestamps_ms(frame), step_ms)["missing"].sum()
                    ),
                    "columns": list(frame.columns),
                    "sha256": store.content_sha256(frame),
                    **({"venue": self.venue_of[symbol]} if symbol in self.venue_of else {}),
                    **{
                        f"{name}_venue": venue
                        for name, venue in self.published_venue_of.get(symbol, {}).items()
                    },
                }
                for symbol, frame in self.candles.items()
            },
        }


def at_hand(jobs: Sequence[Job], directory: Path) -> Sequence[Job]:
    """The jobs whose candles a directory has, with a notice of the others; all of them if it has
    none."""
    lacking = [
        job.symbol for job in jobs if store.find_file(directory, job.symbol, job.kind) is None
    ]
    if 0 < len(lacking) < len(jobs):
        logger.info(
            "left out of `all`, since %s does not have them: %s", directory, ", ".join(lacking)
        )
        return [job for job in jobs if job.symbol not in lacking]
    return jobs


def read_directory(jobs: Sequence[Job], directory: Path) -> CandleSet:
    """The candles of each job from a directory, with the funding and open interest beside them."""
    store.demand_files(directory, [job.symbol for job in jobs], jobs[0].kind)
    candles, funding = {}, {}
    for job in jobs:
        frame = drop_forming(store.read_directory(directory, job.symbol, job.kind), job.kind)
        frame = cut_rows(
            frame,
            timeframe_ms(job.kind),
            since_ms=job.since_ms,
            until_ms=job.until_ms,
            n_rows=job.n_candles,
        )
        candles[job.symbol] = _checked(frame, job, str(directory))
        settled = store.read_series(directory, job.symbol, "funding")
        if settled is not None:
            funding[job.symbol] = settled
    return CandleSet(candles, jobs[0].kind, "directory", str(directory), funding=funding)


def fetch_dataset(jobs: Sequence[Job], source: SourceConfig, published: Sequence[str]) -> CandleSet:
    """Each symbol, whole, from the first source that has it, with what futures exchanges publish
    joined on.

    Args:
        jobs: Candles of one timeframe, a job a symbol.
        source: Which exchange to ask, by default those of `chain.CANDLE_CHAIN`; and the folder of
            the exchanges' folders that keep what is fetched.
        published: What to join, of `store.PUBLISHED`.

    Raises:
        ValueError, ExchangeError: No source has any symbol.
    """

    def fetch_from(venue: str, wanted: Sequence[Job], candles_of: str) -> dict[Job, sources.Answer]:
        directory = None if source.cache_dir is None else Path(source.cache_dir) / candles_of
        answers = fetch_cache.fetch_through(directory, venue, wanted, base_url=source.base_url)
        return {job: _checked_or_error(answers[job], job, venue) for job in wanted}

    found = chain.fetch_candles(jobs, source.exchange, fetch_from)
    candles = {job.symbol: found.answers[job] for job in jobs if job in found.answers}
    joined: dict[str, dict[str, str]] = {symbol: {} for symbol in candles}
    funding = {}
    span_of = {
        symbol: (int(timestamps_ms(frame)[0]), int(timestamps_ms(frame)[-1]))
        for symbol, frame in candles.items()
    }
    for kind in published:
        along = chain.fetch_published(kind, span_of, jobs[0].until_ms, found, fetch_from)
        for job, series in along.answers.items():
            column = store.PUBLISHED[kind]
            candles[job.symbol] = join_published(candles[job.symbol], series, column, jobs[0].kind)
            joined[job.symbol][column] = along.source_of[job.symbol]
            if kind == "funding":
                funding[job.symbol] = series
    venues = ", ".join(dict.fromkeys(found.source_of.values()))
    return CandleSet(candles, jobs[0].kind, "exchange", venues, found.source_of, joined, funding)


def _checked(frame: pd.DataFrame, job: Job, venue: str) -> pd.DataFrame:
    """The frame; fewer rows than asked for are a warning, none are a ValueError."""
    if len(frame) == 0:
        raise ValueError(fetch_cache.no_rows(job, venue))
    if job.n_candles is not None and len(frame) < job.n_candles:
        logger.warning(
            "%s: %d candles from %s, %d asked for", job.symbol, len(frame), venue, job.n_candles
        )
    return frame


def _checked_or_error(answer: sources.Answer, job: Job, venue: str) -> sources.Answer:
    """A sound frame of one source, or the error that sends its symbol to the next one."""
    if isinstance(answer, Exception):
        return answer
    try:
        frame = _checked(answer, job, venue)
        is_published = job.kind in store.PUBLISHED
        return (
            frame
            if is_published
            else read_candles(frame, job.kind, where=f"{job.symbol} from {venue}")
        )
    except ValueError as error:
        return error
