"""Stored series are completed from a source: what is missing is fetched in pieces, each stored.

A stored series has no hole of our making: its newer end grows forward from the last row, its older
end backward from the first. A kill between two pieces leaves one stretch, and the next call goes on
from both of its ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.candles import sources, store
from pipeline.candles.cross_check import demand_agreement
from pipeline.candles.job import Answer, Job
from pipeline.candles.store import update_series

logger = logging.getLogger(__name__)

PIECE_ROWS = 20_000
"""Rows of one series that are fetched between two writes to the store; bounds the memory."""

OVERLAP_ROWS = 10
"""Stored rows that are fetched again and compared, to notice a source that rewrites its history."""


@dataclass
class Completed:
    """What completing a stored series did."""

    added: int = 0
    """rows that were not stored"""
    checked: int = 0
    """stored rows that were fetched again"""
    rewritten: int = 0
    """of these, rows of which the source now tells other values, or none"""


def complete(
    directory: Path,
    venue: str,
    jobs: Sequence[Job],
    *,
    base_url: str | None = None,
    cross_check: str | None = None,
) -> dict[Job, Answer]:
    """Fetch what a folder of series lacks of each job.

    A job that fails keeps what is stored, and sinks no other. The answers are `Completed`, or an
    ExchangeError or ValueError.

    Args:
        directory: Folder of the series.
        venue: Source of all of them; see `sources.fetch`.
        jobs: What the folder shall hold, each of another series.
        base_url: See `exchange_client.open_exchange`.
        cross_check: Another source; candles are stored only once a sample agrees with it.
    """
    plans = {(job.symbol, job.kind): _missing_pieces(directory, job) for job in jobs}
    done = {key: Completed() for key in plans}

    def keep(piece: Job, rows: pd.DataFrame) -> Job | None:
        key = (piece.symbol, piece.kind)
        if len(rows):
            came_from = rows.attrs.get("exchange", venue)
            if cross_check is not None and not piece.is_published:
                demand_agreement(rows, *key, came_from, cross_check, base_url=base_url)
            update = update_series(directory, *key, rows, venue=came_from)
            done[key].added += update.added
            done[key].checked += update.checked
            done[key].rewritten += update.rewritten["timestamp"].nunique()
        return next(plans[key], None)

    results: dict[Job, Answer] = {}
    job_of: dict[Job, Job] = {}
    """first missing piece -> its job"""
    for job in jobs:
        results[job] = done[job.symbol, job.kind]
        try:
            piece = next(plans[job.symbol, job.kind], None)
        except ValueError as error:  # what is stored is damaged
            results[job] = error
            continue
        if piece is not None:
            job_of[piece] = job
    for piece, answer in sources.fetch(venue, [*job_of], base_url=base_url, follow=keep).items():
        job = job_of[piece]
        if isinstance(answer, Exception):
            results[job] = answer
        elif store.find_file(directory, job.symbol, job.kind) is None:
            results[job] = ValueError(no_rows(job, venue))
    return results


def no_rows(job: Job, venue: str) -> str:
    """What to say where a source has nothing of a job."""
    text = f"{job.symbol}: no {job.kind}{'' if job.is_published else ' candles'}"
    if job.since_ms:
        text += f" from {pd.Timestamp(job.since_ms, unit='ms'):%Y-%m-%d %H:%M} on"
    if job.until_ms is not None:
        text += f" by {pd.Timestamp(job.until_ms, unit='ms'):%Y-%m-%d %H:%M}"
    return f"{text} from {venue}; choose another source or symbol"


def fetch_through(
    directory: Path | None,
    venue: str,
    jobs: Sequence[Job],
    *,
    base_url: str | None = None,
    cross_check: str | None = None,
) -> dict[Job, Answer]:
    """Series, job -> frame or error, through a folder that keeps them, or without one (None)."""
    if directory is None:
        return sources.fetch(venue, jobs, base_url=base_url)
    answers = complete(directory, venue, jobs, base_url=base_url, cross_check=cross_check)
    for job in jobs:
        if not isinstance(answers[job], Exception):
            answers[job] = read(directory, job)
    return answers


def read(directory: Path, job: Job, venue: str | None = None) -> pd.DataFrame | ValueError:
    """What a folder has of a job; empty if it has nothing, or the error that reading gives.

    A series of another source than `venue` counts as nothing.
    """
    path = store.find_file(directory, job.symbol, job.kind)
    if path is None or (venue and store.read_notes(path).get("venue", venue) != venue):
        return pd.DataFrame()
    try:
        series = store.read_series(directory, job.symbol, job.kind)
    except ValueError as error:
        return error
    return pd.DataFrame() if series is None else job.cut(series)


def find_stored(cache_dir: Path, jobs: Sequence[Job], exchange: str | None) -> sources.Found:
    """The series that a cache holds, without asking anybody for more.

    Each symbol comes whole from the first source with all the rows that are asked for, else from
    the one with most. A damaged file is warned of and passed over.

    Args:
        cache_dir: Folder of a folder a source.
        jobs: A job a symbol.
        exchange: The only source to look for; by default the chain's, then all others.
    """
    others = sorted(path.name for path in cache_dir.iterdir()) if cache_dir.is_dir() else []
    venues = (exchange,) if exchange else dict.fromkeys((*sources.CANDLE_CHAIN, *others))
    found = sources.Found()
    for job in jobs:
        for venue in venues:
            rows = read(cache_dir / venue, job)
            if isinstance(rows, ValueError):
                logger.warning("%s", rows)
            elif len(rows) > len(found.answers.get(job, ())):
                found.answers[job], found.source_of[job.symbol] = rows, venue
            if len(found.answers.get(job, ())) == job.n_candles:
                break
    return found


def _missing_pieces(directory: Path, job: Job) -> Iterator[Job]:
    """Jobs that fetch what is missing, in order; the next one once the last one is stored."""
    symbol, kind = job.symbol, job.kind
    step_ms = job.step_ms
    piece_ms = PIECE_ROWS * step_ms
    end_ms = int(time.time() * 1000)
    if job.until_ms is not None:
        end_ms = min(end_ms, job.until_ms)
    since_ms = job.since_ms
    if since_ms is None:
        since_ms = (end_ms // step_ms - (job.n_candles or 0)) * step_ms
    stored = store.find_span(directory, symbol, kind)

    if stored is None or job.until_ms is None or job.until_ms > stored.last_ms + step_ms:
        start_ms = since_ms
        if stored is not None:
            start_ms = stored.last_ms - (OVERLAP_ROWS - 1) * step_ms
        while end_ms - start_ms > piece_ms:
            yield Job(symbol, kind, start_ms, start_ms + piece_ms)
            start_ms += piece_ms
        # an open end: the source's clock tells the present
        yield Job(symbol, kind, start_ms, job.until_ms)

    if stored is not None:
        # With some stored rows: where the source has nothing but bad ones before the first, these
        # show that it is sound.
        overlap_ms = min(OVERLAP_ROWS * step_ms, stored.last_ms + step_ms - stored.first_ms)
        for until_ms in range(stored.first_ms, since_ms, -piece_ms):
            start_ms = max(since_ms, until_ms - piece_ms)
            yield Job(symbol, kind, start_ms, until_ms + overlap_ms)
            overlap_ms = 0

    # gaps, or a young listing
    stored = store.find_span(directory, symbol, kind)
    if job.n_candles is not None and stored is not None and stored.n_rows < job.n_candles:
        n_lacking = job.n_candles - stored.n_rows
        yield Job(symbol, kind, until_ms=stored.first_ms, n_candles=n_lacking)
