"""Stored series grow: new rows are checked against the stored ones and added, and no kill can break
a series.

A series is one Parquet file in row groups of `BLOCK_ROWS` ("the main file"); an update of a short
series replaces it. Once the series is longer than `WHOLE_ROWS`, new rows go to a second file, the
tail, so that an update costs the same however much is stored; a tail of more than `BLOCK_ROWS` rows
is merged into the main file.

Each main file has a random id, and a tail the id of the main file it extends; a tail whose main
file is not there counts for nothing. The series is: the main file, and the tail if it counts. From
this follows:

- Every update is one rename, hence done or not done. Either a new tail takes the old one's place;
  or a new main file, which holds everything and has a new id, takes the old one's place, by which
  the old tail stops to count at the same instant. `kill -9` before the rename leaves the old series
  and an unfinished file that nobody reads; after it the new series, and maybe a tail that does not
  count. The next update removes both. (A main file also notes the id before its own: a tail of
  neither is one whose main file someone else has replaced, and worth a warning.)
- A loss of power is no worse: a file is flushed before its rename, and the rename before the merged
  tail is removed, so that no order in which a disk may write the names loses rows.
- Two writers take turns by a lock that the system drops with the process that holds it. Each reads
  what is stored after it has the lock, so none undoes the other's work.
- A reader needs no lock. It reads the tail, then the main file. If the ids fit, the main file was
  there all the time (an id never comes again), and the two were the series when the tail was read.
  If they do not, or there was no tail, the main file was the whole series: either at the start of
  the reading, or when it took its place, which was later.
"""

from __future__ import annotations

import itertools
import logging
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from pipeline import atomic
from pipeline.candles import store
from pipeline.candles.schema import timestamps_ms

logger = logging.getLogger(__name__)

BLOCK_ROWS = 10_000
"""Rows of a row group of the main file, and the most that a tail has."""

WHOLE_ROWS = 20_000
"""A series of no more rows than this (27 months of 1h) has no tail, so that its file can be read by
anything."""


@dataclass(frozen=True, eq=False)
class Update:
    """What an update of one series did."""

    added: int
    """rows that were not stored"""
    checked: int
    """stored rows in the span of the new ones, compared with them"""
    rewritten: pd.DataFrame
    """where they differ: timestamp, column, stored, new; NaN as new: the row is missing among the
    new ones"""
    gap_before: int
    """rows missing between the stored ones and the new ones"""


def update_series(
    directory: Path,
    symbol: str,
    kind: str,
    rows: pd.DataFrame,
    *,
    venue: str,
    wait_s: float = store.LOCK_WAIT_S,
) -> Update:
    """Add rows to a stored series, or start one. All is stored when this returns, or nothing if it
    raises.

    Stored rows in the span of the new ones are compared with them, so fetch from the last stored
    row on (`store.last_rows`), or from further back to check more. Where they differ the exchange
    has rewritten its history: the new values replace the stored ones; a stored row that is missing
    among the new ones stays. Either is reported and warned of, as is a gap before the new rows.
    Rows before the stored ones or inside gaps are added, too.

    A long history goes in pieces (of 50,000 rows, say, in time order), so that it need not fit into
    memory at once.

    Args:
        directory: Folder of series; made if it is not there.
        symbol: Such as "BTC/USDT".
        kind: A timeframe, "funding" or "open_interest".
        rows: At least one row; candles as `read_candles` takes them, or `timestamp` and the
            published column.
        venue: Exchange they come from, such as "binance".
        wait_s: How long to wait for another process that writes the same series, seconds.

    Raises:
        ValueError: The rows or the stored ones are unsound, a file is damaged, the series is
            another symbol's or from another exchange, or another process writes it for longer than
            `wait_s`.
    """
    source = f"{symbol} {kind} from {venue}"
    if len(rows) == 0:
        raise ValueError(f"{source}: no rows to update with; fetch from the last stored row on")
    rows = store.to_schema(rows, kind, source)
    path = directory / store.file_name(symbol, kind)
    directory.mkdir(parents=True, exist_ok=True)
    with atomic.locked(path, wait_s):
        atomic.remove_unfinished(path)
        atomic.remove_unfinished(store.tail_path(path))
        found = store.find_file(directory, symbol, kind)
        if found != path and store.tail_path(path).exists():
            logger.warning("%s is removed: its main file is gone", store.tail_path(path))
            _remove_tail(path)
        if found is None:
            store.validate(rows, kind, source)
            _write_main(path, 0, rows, _new_notes(symbol, venue, {}))
            return _compare(rows[:0], rows, kind)
        stored = store.read_stored(found, n_rows=1, since_ms=timestamps_ms(rows)[0])
        if stored.tail is None:
            _remove_tail(path)
        known = store.to_schema(stored.rows, kind, found.name) if len(stored.rows) else rows[:0]
        _check_origin(stored.notes, known, rows, found.name, symbol, venue)
        update = _compare(known, rows, kind)
        if (
            "id" not in stored.notes
            and len(known)
            and (update.checked == 0 or len(update.rewritten))
        ):
            raise ValueError(
                f"{found.name} names no exchange, and of {update.checked} rows in the span of "
                f"those of {source} {update.rewritten['timestamp'].nunique()} differ; fetch from "
                "its last row on, drop that row if its candle was unfinished, or keep each "
                "exchange in a directory of its own"
            )
        _store(path, stored, known, rows, update, _new_notes(symbol, venue, stored.notes), kind)
    _warn(update, path.name, source)
    return update


def _compare(known: pd.DataFrame, rows: pd.DataFrame, kind: str) -> Update:
    """What adding `rows` to the stored end `known` means; both in the schema."""
    known_times, times = timestamps_ms(known), timestamps_ms(rows)
    overlap = known[(known_times >= times[0]) & (known_times <= times[-1])]
    gap_before = 0
    if len(known) and times[0] > known_times[-1]:
        gap_before = int(
            store.count_missing(np.concatenate([known_times, times]), kind)[len(known)]
        )
    added = int((~np.isin(times, known_times)).sum())
    return Update(added, len(overlap), _differences(overlap, rows), gap_before)


def _differences(overlap: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Stored values, of rows in the span of the new ones, that the new ones contradict; see
    `Update.rewritten`."""
    stored = overlap.set_index("timestamp")
    new = rows.set_index("timestamp").reindex(stored.index)
    old_values, new_values = stored.to_numpy(dtype=np.float64), new.to_numpy(dtype=np.float64)
    differ = (old_values != new_values) & ~(np.isnan(old_values) & np.isnan(new_values))
    row, column = np.nonzero(differ)
    return pd.DataFrame(
        {
            "timestamp": stored.index[row],
            "column": stored.columns[column],
            "stored": old_values[row, column],
            "new": new_values[row, column],
        }
    )


def _store(
    path: Path,
    stored: store.Stored,
    known: pd.DataFrame,
    rows: pd.DataFrame,
    update: Update,
    notes: dict[str, str],
    kind: str,
) -> None:
    """Write the series with the new rows, in one rename; nothing if they bring nothing new."""
    known_times, times = timestamps_ms(known), timestamps_ms(rows)
    news = (
        ~np.isin(times, known_times)
        | rows["timestamp"].isin(update.rewritten["timestamp"]).to_numpy()
    )
    if not news.any():
        return
    end = pd.concat([known[~np.isin(known_times, times)], rows]).sort_values(
        "timestamp", ignore_index=True
    )
    if stored.n_head == 0:
        store.validate(end, kind, f"{path.name} with rows from {notes['venue']}")
    n_main = stored.head_rows + len(stored.main)
    if "id" in stored.notes and times[news][0] > (main_last := known_times[len(stored.main) - 1]):
        tail = end[timestamps_ms(end) > main_last]
        if len(tail) <= BLOCK_ROWS and n_main + len(tail) > WHOLE_ROWS:
            _write(store.tail_path(path), [_to_table(tail)], {"extends": stored.notes["id"]})
            return
    _write_main(path, stored.n_head, end, notes)
    _remove_tail(path)


def _write_main(path: Path, n_head: int, end: pd.DataFrame, notes: dict[str, str]) -> None:
    """Replace the main file by its first `n_head` row groups and the rows `end`."""
    blocks = (
        _to_table(end.iloc[start : start + BLOCK_ROWS]) for start in range(0, len(end), BLOCK_ROWS)
    )
    _write(path, itertools.chain(store.iterate_head(path, n_head) if n_head else (), blocks), notes)


def _write(path: Path, tables: Iterable[pa.Table], notes: Mapping[str, str]) -> None:
    """Replace a Parquet file by one with these row groups and notes."""
    tables = iter(tables)
    first = next(tables)
    metadata = first.schema.metadata | {
        name.encode(): note.encode() for name, note in notes.items()
    }
    schema = first.schema.with_metadata(metadata)
    with (
        atomic.replacing(path) as unfinished,
        parquet.ParquetWriter(unfinished, schema, write_page_checksum=True) as out,
    ):
        for table in itertools.chain([first], tables):
            out.write_table(table)


def _to_table(rows: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(rows, preserve_index=False)


def _remove_tail(path: Path) -> None:
    """Remove the tail of a main file that holds its rows."""
    tail = store.tail_path(path)
    if tail.exists():
        # the main file first: else a loss of power could lose the rows from both
        atomic.flush(path.parent)
        tail.unlink()


def _new_notes(symbol: str, venue: str, old: Mapping[str, str]) -> dict[str, str]:
    """Notes of a new main file in place of one with the notes `old`."""
    return {"symbol": symbol, "venue": venue, "id": uuid.uuid4().hex, "follows": old.get("id", "")}


def _check_origin(
    notes: Mapping[str, str],
    known: pd.DataFrame,
    rows: pd.DataFrame,
    name: str,
    symbol: str,
    venue: str,
) -> None:
    """Raise unless the stored rows are of the same symbol, venue and columns as the new ones."""
    for what, new in (("symbol", symbol), ("venue", venue)):
        if notes.get(what, new) != new:
            raise ValueError(
                f"{name}: its {what} is {notes[what]}, that of the new rows {new}; a series comes "
                "from one exchange, whole: update it from there, or keep the new rows in another "
                "directory"
            )
    if list(known.columns) != list(rows.columns):
        raise ValueError(
            f"{name}: its columns are {list(known.columns)}, those of the new rows from {venue} "
            f"{list(rows.columns)}; keep funding and open interest in files of their own"
        )


def _warn(update: Update, name: str, source: str) -> None:
    """Say what is wrong with the new rows, or with the stored ones."""
    gone = update.rewritten["new"].isna()
    for rows, meaning in (
        (
            update.rewritten[~gone],
            "%s: %d stored row(s) have other values in %s; the new ones replace them; first %s",
        ),
        (update.rewritten[gone], "%s: %d stored row(s) are missing in %s; they stay; first %s"),
    ):
        if len(rows):
            time, column, stored, new = rows.iloc[0]
            first = f"{time:%Y-%m-%d %H:%M}, {column} {stored:.12g}" + (
                "" if pd.isna(new) else f", now {new:.12g}"
            )
            logger.warning(meaning, name, rows["timestamp"].nunique(), source, first)
    if update.gap_before:
        logger.warning(
            "%s: %d row(s) are missing before those of %s", name, update.gap_before, source
        )
