"""Stored series: how they lie in files, are read and grow, so that no kill can break one.

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

import contextlib
import hashlib
import itertools
import logging
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from pipeline import atomic
from pipeline.candles import table_size, text_tables
from pipeline.candles.job import ExchangeError
from pipeline.candles.schema import (
    ACTIVITY_COLUMNS,
    PRICE_COLUMNS,
    PUBLISHED,
    TIMEFRAME_MS,
    canonical_timeframe,
    count_missing,
    read_candles,
    read_rows,
    timestamps_ms,
)

logger = logging.getLogger(__name__)

NOTES = ("symbol", "venue", "id", "follows", "extends")
"""What the store writes into a Parquet file's metadata beside the rows."""

BLOCK_ROWS = 10_000
"""Rows of a row group of the main file, and the most that a tail has."""

WHOLE_ROWS = 20_000
"""A series of no more rows (27 months of 1h) has no tail, so that anything can read its file."""

MAX_PRICE_CHANGE = 0.01
MAX_CHANGED_SHARE = 0.5
FEW_ROWS = 2
"""Where more of the compared candles than this share, and than so few, have a price that differs by
more, the new ones are of another series; an exchange mends a few candles."""

LOCK_WAIT_S = 60.0
"""How long a writer waits for another one of the same series."""


@dataclass(frozen=True)
class Series:
    """A series that a directory holds."""

    path: Path
    """its file; of a series in two files, the main one"""
    symbol: str
    """as whoever stored it wrote it ("BTC/USDT"), or what a user's file is called by ("BTCUSDT")"""
    kind: str
    """timeframe, funding or open_interest"""
    venue: str | None
    """exchange it comes from; None where a user made the file"""


@dataclass(frozen=True, eq=False)
class Stored:
    """What the files of one series hold, from some row group of the main file on."""

    path: Path
    """the main file, or a user's"""
    notes: dict[str, str]
    """`NOTES` of the main file; without "id" it is not the store's"""
    n_head: int
    """row groups before `main`, not read"""
    head_rows: int
    """rows in them"""
    main: pd.DataFrame
    """rows of the other row groups, as they are in the file"""
    tail: pd.DataFrame | None
    """rows of the tail, all later than those of the main file; None if there is none that counts"""

    @property
    def rows(self) -> pd.DataFrame:
        """All that was read, in the order of the files."""
        if self.tail is None:
            return self.main
        return pd.concat([self.main, self.tail], ignore_index=True)


@dataclass(frozen=True)
class Span:
    """Where a stored series begins and ends."""

    first_ms: int
    """time of its first row, ms since 1970 UTC"""
    last_ms: int
    n_rows: int


@dataclass(frozen=True, eq=False)
class Update:
    """What an update of one series did."""

    added: int
    """rows that were not stored"""
    checked: int
    """stored rows in the span of the new ones, compared with them"""
    rewritten: pd.DataFrame
    """where they differ: timestamp, column, stored, new (NaN: the new ones lack the row)"""
    gap_before: int
    """rows missing between the stored ones and the new ones"""


# --- names


def file_name(symbol: str, kind: str, suffix: str = ".parquet") -> str:
    """Name of a series' file.

    Example:
        >>> file_name("BTC/USDT", "1h")
        'BTCUSDT_1h.parquet'
    """
    return f"{symbol.split(':')[0].replace('/', '')}_{kind}{suffix}"


def tail_path(path: Path) -> Path:
    """Where the newest rows of the series in `path` lie, if it has a tail."""
    return path.with_name(f"{path.stem}.tail.parquet")


def find_file(directory: Path, symbol: str, kind: str) -> Path | None:
    """A series' main file, Parquet before CSV, or None."""
    if kind not in PUBLISHED:
        kind = canonical_timeframe(kind)
    candidates = (directory / file_name(symbol, kind, suffix) for suffix in (".parquet", ".csv"))
    return next((path for path in candidates if path.is_file()), None)


def list_series(directory: Path) -> list[Series]:
    """The series of a directory by name, from the files' metadata alone; others are passed over."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory of candles; mend the path")
    found: dict[str, Series] = {}
    # .parquet before .csv, of which it hides its namesake
    for path in sorted(directory.iterdir(), reverse=True):
        kinds = (kind for kind in (*TIMEFRAME_MS, *PUBLISHED) if path.stem.endswith(f"_{kind}"))
        kind = next(kinds, "")
        is_ours = kind and path.suffix in (".parquet", ".csv") and not path.name.startswith(".")
        if is_ours and path.stem not in found:
            notes = read_notes(path)
            symbol = notes.get("symbol", path.stem.removesuffix(f"_{kind}"))
            found[path.stem] = Series(path, symbol, kind, notes.get("venue"))
    return sorted(found.values(), key=lambda series: series.path)


# --- reading


def read_series(directory: Path, symbol: str, kind: str) -> pd.DataFrame | None:
    """A whole series in the schema, validated; None if the directory does not have it.

    Args:
        directory: Folder of series.
        symbol: Such as "BTC/USDT".
        kind: A timeframe, "funding" or "open_interest".

    Raises:
        ValueError: Unknown kind, or a file is damaged or unsound.
    """
    path = find_file(directory, symbol, kind)
    return None if path is None else read_rows(read_table(path), kind, path.name)


def last_rows(directory: Path, symbol: str, kind: str, n: int) -> pd.DataFrame | None:
    """The newest `n` rows of a series or all it has; like `read_series`, but reads only its end."""
    path = find_file(directory, symbol, kind)
    if path is None:
        return None
    rows = read_rows(read_stored(path, n_rows=n).rows, kind, path.name, is_whole=False)
    return rows.iloc[max(0, len(rows) - n) :].reset_index(drop=True)


def find_span(directory: Path, symbol: str, kind: str) -> Span | None:
    """Where a series begins and ends, from its first and last row group; None if not stored."""
    path = find_file(directory, symbol, kind)
    if path is None:
        return None
    stored = read_stored(path, n_rows=1)
    times = timestamps_ms(read_rows(stored.rows, kind, path.name, is_whole=False))
    first_ms = int(times[0])
    if stored.n_head:
        head = next(_iterate_head(path, 1)).slice(0, 1).to_pandas()
        first_ms = int(timestamps_ms(read_rows(head, kind, path.name, is_whole=False))[0])
    return Span(first_ms, int(times[-1]), stored.head_rows + len(times))


def demand_file(path: Path) -> None:
    """Raise where there is no file, as reading it would."""
    with readable(path):
        path.stat()


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet or CSV file as it is, with its tail's rows.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read.
    """
    return read_stored(path).rows


def read_stored(path: Path, *, n_rows: float = math.inf, since_ms: float = math.inf) -> Stored:
    """Read the end of a series, without a lock: at least one row group and the tail.

    Args:
        path: Main file; a user's is read whole.
        n_rows: Read at least this many rows.
        since_ms: Read at least all rows from this instant on, epoch ms.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read.
    """
    if path.suffix.lower() not in (".parquet", ".pq"):
        with readable(path):
            return Stored(path, {}, 0, 0, text_tables.read_text(path).columns, None)
    # before the main file, so that the two fit or the main file has it all
    tail, tail_notes = _read_tail(path)
    with _open_parquet(path) as file:
        notes = _notes(file)
        if tail is not None and ("id" not in notes or tail_notes.get("extends") != notes["id"]):
            is_merged = "id" in notes and tail_notes.get("extends") == notes["follows"]
            # not merged and gone since it was read
            if not is_merged and read_notes(tail_path(path)) == tail_notes:
                logger.warning(
                    "%s is of another %s than this one and is not read", tail_path(path), path.name
                )
            tail = None
        n_head = _first_group(file.metadata, n_rows, since_ms) if "id" in notes else 0
        head_rows = sum(file.metadata.row_group(group).num_rows for group in range(n_head))
        main = _to_pandas(file.read_row_groups(range(n_head, file.num_row_groups)))
        return Stored(path, notes, n_head, head_rows, main, tail)


def read_notes(path: Path) -> dict[str, str]:
    """`NOTES` of a main file or tail; none where it is a user's, damaged or not there."""
    try:
        with _open_parquet(path) as file:
            return _notes(file)
    except (ValueError, FileNotFoundError):
        return {}


def find_damage(path: Path) -> str:
    """The error that reading a series' file gives, or ""."""
    try:
        read_stored(path, n_rows=1)
    except ValueError as error:
        return str(error)
    return ""


def content_sha256(candles: pd.DataFrame) -> str:
    """Hash of the values of a frame of candles, whatever file they came from."""
    digest = hashlib.sha256(",".join(candles.columns).encode())
    for name in candles.columns:
        is_time = name == "timestamp"
        values = timestamps_ms(candles) if is_time else candles[name].to_numpy(dtype=np.float64)
        digest.update(values.tobytes())
    return digest.hexdigest()


def _read_tail(path: Path) -> tuple[pd.DataFrame | None, dict[str, str]]:
    try:
        with _open_parquet(tail_path(path)) as file:
            return _to_pandas(file.read()), _notes(file)
    except FileNotFoundError:
        return None, {}


def _first_group(metadata: parquet.FileMetaData, n_rows: float, since_ms: float) -> int:
    """First row group to read, at most the last one, to have what `read_stored` is to read."""
    group = metadata.num_row_groups
    rows = 0
    first_ms = math.inf
    while group > 0 and (rows == 0 or rows < n_rows or first_ms > since_ms):
        group -= 1
        rows += metadata.row_group(group).num_rows
        statistics = metadata.row_group(group).column(0).statistics
        # a file that another program has written may have none
        has_least = statistics is not None and statistics.has_min_max
        first_ms = statistics.min_raw if has_least else math.inf
    return group


def _iterate_head(path: Path, n_groups: int) -> Iterator[pa.Table]:
    """The first row groups of a Parquet file, one at a time."""
    if n_groups:
        with _open_parquet(path) as file:
            for group in range(n_groups):
                yield file.read_row_group(group)


def _notes(file: parquet.ParquetFile) -> dict[str, str]:
    metadata = file.schema_arrow.metadata or {}
    return {name: metadata[name.encode()].decode() for name in NOTES if name.encode() in metadata}


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[parquet.ParquetFile]:
    """An open Parquet file, its checksums verified; what goes wrong in the block is its damage."""
    with readable(path), path.open("rb") as whole:  # once: an update may replace it meanwhile
        metadata = parquet.read_metadata(whole)
        texts = table_size.check_parquet(metadata)
        table_size.check_pages(whole, metadata)
        with parquet.ParquetFile(
            whole, page_checksum_verification=True, read_dictionary=texts
        ) as file:
            yield file


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """A frame; of texts that repeat, which were read as dictionaries, each is there once."""
    texts = table_size.check_texts(table)
    frame = table.to_pandas()
    return frame.astype({name: object for name in texts if name in frame})  # not of its index


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """What goes wrong with a file in the block becomes one ValueError that names it."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path}: a device or pipe; pass a file of candles")
    if path.is_file():
        text_tables.demand_name(path)
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file; mend the path") from None
    except text_tables.DoubtfulError as doubt:
        raise ValueError(f"{path.name}: {doubt}") from None
    # of damaged files
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError) as error:
        if path.is_dir():
            raise ValueError(
                f"{path}: a folder; pass one of its files, such as {path}/BTCUSDT_1h.parquet"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # A stored series stays in the way of the next fetch, but whoever wrote it decides.
        remedy = "move it aside, then " if path.suffix == ".parquet" else ""
        raise ValueError(
            f"{path}: not a readable {path.suffix[1:]} file ({reason[:300]}); {remedy}fetch or "
            "copy it again"
        ) from error


# --- writing


def write_candles(
    candles: pd.DataFrame, directory: Path, symbol: str, timeframe: str, venue: str = ""
) -> Path:
    """Validate candles and write them as Parquet in place of what was there; returns the path.

    The file notes the venue where one is given. `update_series` adds to what is there.
    """
    candles = read_candles(candles, timeframe, where=symbol)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / file_name(symbol, timeframe)
    with atomic.locked(path, LOCK_WAIT_S):
        if venue:
            _write(path, [], candles, {"symbol": symbol, "venue": venue})
        else:
            with atomic.replacing(path) as unfinished:
                candles.to_parquet(unfinished, index=False)
        tail_path(path).unlink(missing_ok=True)
    return path


def update_series(
    directory: Path,
    symbol: str,
    kind: str,
    rows: pd.DataFrame,
    *,
    venue: str,
    wait_s: float = LOCK_WAIT_S,
) -> Update:
    """Add rows to a stored series, or start one: all of them, or none if it raises.

    Stored rows in the span of the new ones are compared with them, so fetch from the last stored
    row on (`last_rows`), or from further back to check more. Where they differ the exchange has
    rewritten its history: the new values replace the stored ones; a stored row that is missing
    among the new ones stays. Either is reported and warned of, as is a gap before the new rows.
    Rows before the stored ones or inside gaps are added, too.

    A long history goes in pieces (of 50,000 rows, say, in time order), so that it need not fit into
    memory at once.

    Args:
        directory: Folder of series; made if it is not there.
        symbol: Such as "BTC/USDT".
        kind: A timeframe, "funding" or "open_interest".
        rows: At least one row, as `schema.read_rows` takes them.
        venue: Exchange they come from, such as "binance".
        wait_s: How long to wait for another process that writes the same series, seconds.

    Raises:
        ValueError: The rows or the stored ones are unsound, a file is damaged, the series is
            another symbol's or from another exchange, or another process writes it for longer than
            `wait_s`.
        ExchangeError: The new candles contradict the stored ones.
    """
    source = f"{symbol} {kind} from {venue}"
    if len(rows) == 0:
        raise ValueError(f"{source}: no rows to update with; fetch from the last stored row on")
    rows = read_rows(rows, kind, source, is_whole=False)
    path = directory / file_name(symbol, kind)
    directory.mkdir(parents=True, exist_ok=True)
    with atomic.locked(path, wait_s):
        stored = _read_end(path, rows)
        known = rows[:0]
        if len(stored.rows):
            known = read_rows(stored.rows, kind, stored.path.name, is_whole=False)
        notes = {"symbol": symbol, "venue": venue, "id": uuid.uuid4().hex}
        notes["follows"] = stored.notes.get("id", "")
        if len(known):
            rows = _with_activity_of(known, rows)
        _check_origin(stored, known, rows, notes)
        update = _compare(known, rows, kind)
        if "id" not in stored.notes and len(known):
            _check_agreement(update, stored.path.name, source)
        _refuse_another_series(update, path.name, source)
        is_changed = rows["timestamp"].isin(update.rewritten["timestamp"])
        news = rows[is_changed | ~rows["timestamp"].isin(known["timestamp"])]
        if len(news):
            stays = known[~known["timestamp"].isin(rows["timestamp"])]
            end = pd.concat([stays, rows]).sort_values("timestamp", ignore_index=True)
            if stored.n_head == 0:
                where = f"{path.name} with rows from {venue}" if len(known) else source
                read_rows(end, kind, where)
            _write_end(path, stored, end, news["timestamp"].iloc[0], notes)
    _warn(update, path.name, source)
    return update


def _read_end(path: Path, rows: pd.DataFrame) -> Stored:
    """What is stored from the first of the rows on; removes what killed updates left."""
    atomic.remove_unfinished(path)
    atomic.remove_unfinished(tail_path(path))
    found = next((file for file in (path, path.with_suffix(".csv")) if file.is_file()), None)
    if found != path and tail_path(path).exists():
        logger.warning("%s is removed: its main file is gone", tail_path(path))
        _remove_tail(path)
    if found is None:
        return Stored(path, {}, 0, 0, rows[:0], None)
    stored = read_stored(found, n_rows=1, since_ms=timestamps_ms(rows)[0])
    if stored.tail is None:
        _remove_tail(path)
    return stored


def _with_activity_of(known: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """New rows with the activity columns of the stored ones, and their values where rows lack them.

    Binance's archive tells the number of trades, and its candles through ccxt do not.
    """
    unknown = [name for name in known.columns if name not in rows and name in ACTIVITY_COLUMNS]
    surplus = [name for name in rows.columns if name not in known and name in ACTIVITY_COLUMNS]
    stored = known.set_index("timestamp")[unknown].reindex(rows["timestamp"])
    rows = rows.drop(columns=surplus).assign(**{name: stored[name].to_numpy() for name in unknown})
    is_alike = set(rows.columns) == set(known.columns)
    return rows[list(known.columns)] if is_alike else rows


def _check_origin(
    stored: Stored, known: pd.DataFrame, rows: pd.DataFrame, notes: Mapping[str, str]
) -> None:
    """Raise unless the stored rows are of the same symbol, venue and columns as the new ones."""
    name = stored.path.name
    for what in ("symbol", "venue"):
        old, new = stored.notes.get(what), notes[what]
        if old not in (None, new):
            raise ValueError(
                f"{name}: its {what} is {old}, that of the new rows {new}; a series comes from one "
                "exchange, whole: update it from there, or keep the new rows in another directory"
            )
    if list(known.columns) != list(rows.columns):
        raise ValueError(
            f"{name}: its columns are {list(known.columns)}, those of the new rows from "
            f"{notes['venue']} {list(rows.columns)}; keep funding and open interest in files of "
            "their own"
        )


def _check_agreement(update: Update, name: str, source: str) -> None:
    """Raise unless the rows of a user's file prove to be the source's own."""
    n_different = update.rewritten["timestamp"].nunique()
    if update.checked == 0 or n_different:
        raise ValueError(
            f"{name} names no exchange, and of {update.checked} rows in the span of those of "
            f"{source} {n_different} differ; fetch from its last row on, drop that row if its "
            "candle was unfinished, or keep each exchange in a directory of its own"
        )


def _refuse_another_series(update: Update, name: str, source: str) -> None:
    """Raise where most of the stored candles have quite other prices, or open and close swapped."""
    changed = update.rewritten[update.rewritten["column"].isin(PRICE_COLUMNS)]
    is_far = (changed["new"] / changed["stored"] - 1).abs() > MAX_PRICE_CHANGE
    ends = changed[changed["column"].isin(("open", "close"))].pivot(
        index="timestamp", columns="column", values=["stored", "new"]
    )
    n_swapped = 0
    if ends.shape[1] == 4:
        is_swapped = ends["stored", "open"] == ends["new", "close"]
        n_swapped = int((is_swapped & (ends["stored", "close"] == ends["new", "open"])).sum())
    n_changed = max(int(changed["timestamp"][is_far].nunique()), n_swapped)
    if n_changed > max(FEW_ROWS, MAX_CHANGED_SHARE * update.checked):
        first = changed.iloc[0]
        raise ExchangeError(
            f"{source}: {n_changed} of {update.checked} candles that {name} holds have other "
            f"prices there, first at {first['timestamp']:%Y-%m-%d %H:%M}, {first['column']} "
            f"{first['stored']:.12g} and now {first['new']:.12g}; this is another series, so "
            "nothing is stored; check the exchange, or keep its candles in another --cache-dir"
        )


def _compare(known: pd.DataFrame, rows: pd.DataFrame, kind: str) -> Update:
    """What adding `rows` to the stored end `known` means; both in the schema."""
    known_times, times = timestamps_ms(known), timestamps_ms(rows)
    overlap = known[(known_times >= times[0]) & (known_times <= times[-1])]
    gap_before = 0
    if len(known) and times[0] > known_times[-1]:
        missing = count_missing(np.concatenate([known_times, times]), kind)
        gap_before = int(missing[len(known)])
    stored = overlap.set_index("timestamp")
    new = rows.set_index("timestamp").reindex(stored.index)
    old_values, new_values = stored.to_numpy(dtype=np.float64), new.to_numpy(dtype=np.float64)
    differ = (old_values != new_values) & ~(np.isnan(old_values) & np.isnan(new_values))
    row, column = np.nonzero(differ)
    differences = {
        "timestamp": stored.index[row],
        "column": stored.columns[column],
        "stored": old_values[row, column],
        "new": new_values[row, column],
    }
    added = int((~np.isin(times, known_times)).sum())
    return Update(added, len(overlap), pd.DataFrame(differences), gap_before)


def _write_end(
    path: Path, stored: Stored, end: pd.DataFrame, first_new: pd.Timestamp, notes: Mapping[str, str]
) -> None:
    """Put `end` in place of the stored rows that were read, in one rename."""
    if "id" in stored.notes:
        main_last = stored.main["timestamp"].iloc[-1]
        tail = end[end["timestamp"] > main_last]
        n_rows = stored.head_rows + len(stored.main) + len(tail)
        if first_new > main_last and len(tail) <= BLOCK_ROWS and n_rows > WHOLE_ROWS:
            _write(tail_path(path), (), tail, {"extends": stored.notes["id"]})
            return
    _write(path, _iterate_head(path, stored.n_head), end, notes)
    _remove_tail(path)


def _write(
    path: Path, head: Iterable[pa.Table], rows: pd.DataFrame, notes: Mapping[str, str]
) -> None:
    """Replace a Parquet file by one with the row groups `head`, those of `rows`, and notes."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    noted = {name.encode(): note.encode() for name, note in notes.items()}
    schema = table.schema.with_metadata(table.schema.metadata | noted)
    with (
        atomic.replacing(path) as unfinished,
        parquet.ParquetWriter(unfinished, schema, write_page_checksum=True) as out,
    ):
        for part in itertools.chain(head, [table]):
            out.write_table(part, BLOCK_ROWS)


def _remove_tail(path: Path) -> None:
    """Remove the tail of a main file that holds its rows."""
    tail = tail_path(path)
    if tail.exists():
        # the main file first: else a loss of power could lose the rows from both
        atomic.flush(path.parent)
        tail.unlink()


def _warn(update: Update, name: str, source: str) -> None:
    """Say what is wrong with the new rows, or with the stored ones."""
    is_gone = update.rewritten["new"].isna()
    changed = "%s: %d stored row(s) have other values in %s; the new ones replace them; first %s"
    gone = "%s: %d stored row(s) are missing in %s; they stay; first %s"
    for text, rows in ((changed, update.rewritten[~is_gone]), (gone, update.rewritten[is_gone])):
        if len(rows):
            time, column, stored, new = rows.iloc[0]
            first = f"{time:%Y-%m-%d %H:%M}, {column} {stored:.12g}"
            if not pd.isna(new):
                first += f", now {new:.12g}"
            logger.warning(text, name, rows["timestamp"].nunique(), source, first)
    if update.gap_before:
        logger.warning(
            "%s: %d row(s) are missing before those of %s", name, update.gap_before, source
        )
