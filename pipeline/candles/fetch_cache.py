"""Stored series are completed from a source: what is missing is fetched piece by piece, and each
piece stored at once.

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
from pipeline.candles.exchanges import FUNDING_STEP_MS, OPEN_INTEREST_TIMEFRAME, ExchangeError, Job
from pipeline.candles.schema import cut_rows, timeframe_ms, timestamps_ms
from pipeline.candles.updating import update_series

logger = logging.getLogger(__name__)

PIECE_ROWS = 20_000
"""Rows of one series that are fetched between two writes to the store; bounds the memory that a
long series takes."""

OVERLAP_ROWS = 10
"""Stored rows that are fetched again and compared: a source that rewrites its history is
noticed."""


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
    directory: Path, venue: str, jobs: Sequence[Job], *, base_url: str | None = None
) -> dict[Job, Completed | ExchangeError | ValueError]:
    """Fetch what a folder of series lacks of each job; one that fails keeps what is stored, and
    sinks no other.

    Args:
        directory: Folder of the series.
        venue: Source of all of them; see `sources.fetch`.
        jobs: What the folder shall hold, each of another series.
        base_url: See `exchanges.open_exchange`.
    """
    plans = {(job.symbol, job.kind): _missing_pieces(directory, job) for job in jobs}
    done = {key: Completed() for key in plans}

    def keep(piece: Job, rows: pd.DataFrame) -> Job | None:
        key = (piece.symbol, piece.kind)
        if len(rows):
            came_from = rows.attrs.get("exchange", venue)
            update = update_series(directory, *key, rows, venue=came_from)
            done[key].added += update.added
            done[key].checked += update.checked
            done[key].rewritten += update.rewritten["timestamp"].nunique()
        return next(plans[key], None)

    results: dict[Job, Completed | ExchangeError | ValueError] = {}
    first_pieces: dict[Job, Job] = {}
    for job in jobs:
        results[job] = done[job.symbol, job.kind]
        try:
            piece = next(plans[job.symbol, job.kind], None)
            if piece is not None:
                first_pieces[piece] = job
        except ValueError as error:  # what is stored is damaged
            results[job] = error
    answers = sources.fetch(venue, list(first_pieces), base_url=base_url, follow=keep)
    for piece, job in first_pieces.items():
        if isinstance(answers[piece], Exception):
            results[job] = answers[piece]
        elif store.find_file(directory, job.symbol, job.kind) is None:
            results[job] = ValueError(no_rows(job, venue))
    return results


def no_rows(job: Job, venue: str) -> str:
    """What to say where a source has nothing of a job."""
    what = job.kind if job.kind in store.PUBLISHED else f"{job.kind} candles"
    since = (
        ""
        if not job.since_ms
        else f" from {pd.Timestamp(job.since_ms, unit='ms'):%Y-%m-%d %H:%M} on"
    )
    until = (
        ""
        if job.until_ms is None
        else f" by {pd.Timestamp(job.until_ms, unit='ms'):%Y-%m-%d %H:%M}"
    )
    return f"{job.symbol}: no {what}{since}{until} from {venue}; choose another source or symbol"


def fetch_through(
    directory: Path | None, venue: str, jobs: Sequence[Job], *, base_url: str | None = None
) -> dict[Job, sources.Answer]:
    """Fetch series, job -> frame or error: through a folder that keeps them, or without one (None)
    from the source."""
    if directory is None:
        return sources.fetch(venue, jobs, base_url=base_url)
    answers: dict[Job, sources.Answer] = dict(complete(directory, venue, jobs, base_url=base_url))
    for job in jobs:
        if not isinstance(answers[job], Exception):
            answers[job] = read(directory, job)
    return answers


def read(directory: Path, job: Job) -> pd.DataFrame | ValueError:
    """What a folder has of a job; empty if it has nothing, or the error that reading gives."""
    try:
        series = store.read_series(directory, job.symbol, job.kind)
    except ValueError as error:
        return error
    if series is None:
        return pd.DataFrame()
    step_ms = 0 if job.kind in store.PUBLISHED else timeframe_ms(job.kind)
    return cut_rows(
        series, step_ms, since_ms=job.since_ms, until_ms=job.until_ms, n_rows=job.n_candles
    )


def _missing_pieces(directory: Path, job: Job) -> Iterator[Job]:
    """Jobs that fetch what is missing, in order; each is asked for once the one before it has been
    stored."""
    step_ms = _step_ms(job.kind)
    present_ms = int(time.time() * 1000)
    end_ms = present_ms if job.until_ms is None else min(present_ms, job.until_ms)
    since_ms = (
        (end_ms // step_ms - (job.n_candles or 0)) * step_ms
        if job.since_ms is None
        else job.since_ms
    )
    stored = find_span(directory, job.symbol, job.kind)
    newer_from = since_ms if stored is None else stored.last_ms - (OVERLAP_ROWS - 1) * step_ms
    if stored is None or job.until_ms is None or job.until_ms > stored.last_ms + step_ms:
        yield from _newer_pieces(job, newer_from, end_ms, PIECE_ROWS * step_ms)
    if stored is not None:
        for until_ms in range(stored.first_ms, since_ms, -PIECE_ROWS * step_ms):
            yield Job(
                job.symbol, job.kind, max(since_ms, until_ms - PIECE_ROWS * step_ms), until_ms
            )
    stored = find_span(directory, job.symbol, job.kind)
    # gaps, or a young listing
    if job.n_candles is not None and stored is not None and stored.n_rows < job.n_candles:
        yield Job(
            job.symbol, job.kind, until_ms=stored.first_ms, n_candles=job.n_candles - stored.n_rows
        )


def _newer_pieces(job: Job, start_ms: int, end_ms: int, piece_ms: int) -> Iterator[Job]:
    while end_ms - start_ms > piece_ms:
        yield Job(job.symbol, job.kind, start_ms, start_ms + piece_ms)
        start_ms += piece_ms
    # an open end: the source's clock tells the present
    yield Job(job.symbol, job.kind, start_ms, job.until_ms)


def _step_ms(kind: str) -> int:
    """Usual time between two rows of a series."""
    if kind == "funding":
        return FUNDING_STEP_MS
    return timeframe_ms(OPEN_INTEREST_TIMEFRAME if kind == "open_interest" else kind)


@dataclass(frozen=True)
class Span:
    """Where a stored series begins and ends."""

    first_ms: int
    """time of its first row, ms since 1970 UTC"""
    last_ms: int
    n_rows: int


def find_span(directory: Path, symbol: str, kind: str) -> Span | None:
    """Where a stored series begins and ends, from its first and last row group; None if it is not
    stored."""
    path = store.find_file(directory, symbol, kind)
    if path is None:
        return None
    stored = store.read_stored(path, n_rows=1)
    times = timestamps_ms(store.to_schema(stored.rows, kind, path.name))
    first_ms = int(times[0])
    if stored.n_head:
        head = next(store.iterate_head(path, 1)).slice(0, 1).to_pandas()
        first_ms = int(timestamps_ms(store.to_schema(head, kind, path.name))[0])
    return Span(first_ms, int(times[-1]), stored.head_rows + len(times))
