"""Candle files: `<SYMBOL>_<timeframe>.parquet` or `.csv`, with `<SYMBOL>_funding.*` and
`<SYMBOL>_open_interest.*`.

A long series that `pipeline.candles.updating` keeps has its newest rows in a second file,
`<SYMBOL>_<timeframe>.tail.parquet`. Everything here reads the two as one, without a lock; why that
is safe is argued there.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from pipeline import atomic
from pipeline.candles.schema import (
    TIMEFRAME_MS,
    join_published,
    missing_before,
    parse_numbers,
    parse_times,
    read_candles,
    timeframe_ms,
    timestamps_ms,
)

logger = logging.getLogger(__name__)

PUBLISHED = {"funding": "funding_rate", "open_interest": "open_interest"}
"""Kind of a published series, which names its file, and the column it holds."""

NOTES = ("symbol", "venue", "id", "follows", "extends")
"""What the store writes into a Parquet file's metadata beside the rows; see
`pipeline.candles.updating`."""

LOCK_WAIT_S = 60.0
"""How long a writer waits for another one of the same series."""

NEIGHBOURS = 9
"""Steps whose median is the interval that a published series has there; exchanges change theirs now
and then."""

# Pandas before 3.1 reads many decimal fractions one bit off unless told not to; from 3.1 on the
# option is deprecated.
_IS_EXACT = tuple(int(part) for part in pd.__version__.split(".")[:2]) >= (3, 1)
CSV_OPTIONS: dict[str, Any] = {} if _IS_EXACT else {"float_precision": "round_trip"}


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
        return (
            self.main if self.tail is None else pd.concat([self.main, self.tail], ignore_index=True)
        )


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


def read_directory(directory: Path, symbol: str, timeframe: str) -> pd.DataFrame:
    """Candles of one symbol with the funding and open interest beside them.

    Raises:
        ValueError: No such directory or file (the names at hand are listed), or a file is not
            sound.
    """
    return read_file(demand_files(directory, [symbol], timeframe)[0], timeframe)


def read_file(path: Path, timeframe: str) -> pd.DataFrame:
    """Candles of one file; where its name follows the layout, with the funding and open interest
    beside it."""
    candles = read_candles(read_table(path), timeframe, where=path.name)
    base = path.stem.removesuffix(f"_{timeframe}")
    for kind, column in PUBLISHED.items() if base != path.stem else ():
        beside = find_file(path.parent, base, kind)
        if beside is not None and column not in candles.columns:
            candles = join_published(candles, read_published(beside, column), column, timeframe)
    return candles


def read_series(directory: Path, symbol: str, kind: str) -> pd.DataFrame | None:
    """A whole series, validated; None if the directory does not have it.

    Args:
        directory: Folder of series.
        symbol: Such as "BTC/USDT".
        kind: A timeframe, "funding" or "open_interest".

    Returns:
        Candles in the schema of `pipeline.candles.schema`, or `timestamp` (datetime64[ms, UTC]) and
        the published column.

    Raises:
        ValueError: Unknown kind, or a file is damaged or unsound.
    """
    path = find_file(directory, symbol, kind)
    return None if path is None else validate(read_table(path), kind, path.name)


def last_rows(directory: Path, symbol: str, kind: str, n: int) -> pd.DataFrame | None:
    """The newest `n` rows of a series, or all if it has fewer; like `read_series`, but reads only
    its end."""
    path = find_file(directory, symbol, kind)
    if path is None:
        return None
    rows = to_schema(read_stored(path, n_rows=n).rows, kind, path.name)
    return rows.iloc[max(0, len(rows) - n) :].reset_index(drop=True)


def read_published(path: Path, column: str) -> pd.DataFrame:
    """Frame of `timestamp` and `column` from a funding or open-interest file, validated."""
    return check_published(read_table(path), column, path.name)


def check_published(table: pd.DataFrame, column: str, where: str) -> pd.DataFrame:
    """New frame of `timestamp` (datetime64[ms, UTC]) and `column` (float64), in time order.

    Raises:
        ValueError: A column is missing, values are not finite, times are unreadable, unsorted or
            repeated.
    """
    missing = [name for name in ("timestamp", column) if name not in table.columns]
    if missing:
        raise ValueError(
            f"{where}: column {missing[0]!r} missing among {list(map(str, table.columns))}; name "
            f"the columns 'timestamp' and {column!r}"
        )
    times = parse_times(table["timestamp"], where=f"{where}, column 'timestamp'")
    values = parse_numbers(table[column], where=f"{where}, column {column!r}")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"{where}, column {column!r}: {values[row]} in row {row} is not finite; drop the row"
        )
    published = pd.DataFrame({"timestamp": times.array, column: values})
    early = np.flatnonzero(np.diff(timestamps_ms(published)) <= 0) + 1
    if len(early):
        raise ValueError(
            f"{where}: {len(early)} time(s) unsorted or repeated, first {times.iloc[early[0]]} in "
            f"row {early[0]}; sort by 'timestamp' and drop duplicates"
        )
    return published


def to_schema(rows: pd.DataFrame, kind: str, where: str) -> pd.DataFrame:
    """Part of a series as it is kept; checked like the whole, but that its candles may all lie
    apart."""
    if kind in PUBLISHED:
        return check_published(rows, PUBLISHED[kind], where)
    candles = read_candles(rows, None, where=where)
    off_grid = candles["timestamp"][timestamps_ms(candles) % timeframe_ms(kind) != 0]
    if len(off_grid):
        raise ValueError(
            f"{where}: times off the {kind} grid in {len(off_grid)} row(s), first "
            f"{off_grid.iloc[0]}; pass candles of that timeframe, UTC"
        )
    return candles


def validate(series: pd.DataFrame, kind: str, where: str) -> pd.DataFrame:
    """A whole series as it is kept, or a ValueError."""
    return (
        check_published(series, PUBLISHED[kind], where)
        if kind in PUBLISHED
        else read_candles(series, kind, where=where)
    )


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet or CSV file as it is, with its tail's rows; a ValueError names a file that cannot
    be read as one."""
    return read_stored(path).rows


def read_stored(path: Path, *, n_rows: float = math.inf, since_ms: float = math.inf) -> Stored:
    """Read the end of a series, without a lock: at least one row group and the tail; of a user's
    file everything.

    Args:
        path: Main file.
        n_rows: Read at least this many rows.
        since_ms: Read at least all rows from this instant on, epoch ms.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read.
    """
    if path.suffix != ".parquet":
        with _readable(path):
            return Stored({}, 0, 0, pd.read_csv(path, **CSV_OPTIONS), None)
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
        groups = range(
            _first_group(file.metadata, n_rows, since_ms) if "id" in notes else 0,
            file.num_row_groups,
        )
        head_rows = sum(file.metadata.row_group(group).num_rows for group in range(groups.start))
        return Stored(
            notes, groups.start, head_rows, file.read_row_groups(groups).to_pandas(), tail
        )


def iterate_head(path: Path, n_groups: int) -> Iterator[pa.Table]:
    """The first row groups of a Parquet file, one at a time."""
    with _open_parquet(path) as file:
        for group in range(n_groups):
            yield file.read_row_group(group)


def write_candles(candles: pd.DataFrame, directory: Path, symbol: str, timeframe: str) -> Path:
    """Validate candles and write them as Parquet, atomically, in place of what was there; returns
    the path.

    `pipeline.candles.updating.update_series` adds to what is there, and notes where it comes from.
    """
    candles = read_candles(candles, timeframe, where=symbol)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / file_name(symbol, timeframe)
    with atomic.locked(path, LOCK_WAIT_S):
        with atomic.replacing(path) as unfinished:
            candles.to_parquet(unfinished, index=False)
        tail_path(path).unlink(missing_ok=True)
    return path


def list_series(directory: Path) -> list[Series]:
    """The series of a directory by name; opens no more than the files' metadata. Other files are
    passed over."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory of candles; mend the path")
    found: dict[str, Series] = {}
    # .parquet before .csv, of which it hides its namesake
    for path in sorted(directory.iterdir(), reverse=True):
        kind = next(
            (kind for kind in (*TIMEFRAME_MS, *PUBLISHED) if path.stem.endswith(f"_{kind}")), None
        )
        if (
            kind is None
            or path.suffix not in (".parquet", ".csv")
            or path.name[0] == "."
            or path.stem in found
        ):
            continue
        notes = read_notes(path)
        symbol = notes.get("symbol", path.stem.removesuffix(f"_{kind}"))
        found[path.stem] = Series(path, symbol, kind, notes.get("venue"))
    return sorted(found.values(), key=lambda series: series.path)


def read_notes(path: Path) -> dict[str, str]:
    """`NOTES` of a series' main file or tail; none where the file is a user's, damaged or not
    there."""
    try:
        with _open_parquet(path) as file:
            return _notes(file)
    except (ValueError, FileNotFoundError):
        return {}


def audit(directory: Path) -> pd.DataFrame:
    """Read every series of a directory and say what is wrong with it.

    Returns:
        One row a series: symbol, kind, venue ("" if unknown), rows, first, last (NaT without rows),
        n_gaps, missing and longest_gap (candles; of a published series values, by the interval it
        has there), problems (the error that reading it gives, or "").
    """
    lines = []
    for series in list_series(directory):
        frame, problems = pd.DataFrame({"timestamp": pd.to_datetime([], utc=True)}), ""
        try:
            frame = validate(read_table(series.path), series.kind, series.path.name)
        except ValueError as error:
            problems = str(error)
        times, missing = frame["timestamp"], count_missing(timestamps_ms(frame), series.kind)
        first, last = (times.iloc[0], times.iloc[-1]) if len(times) else (pd.NaT, pd.NaT)
        gaps = [int((missing > 0).sum()), int(missing.sum()), int(missing.max(initial=0))]
        lines.append(
            [
                series.symbol,
                series.kind,
                series.venue or "",
                len(frame),
                first,
                last,
                *gaps,
                problems,
            ]
        )
    names = [
        "symbol",
        "kind",
        "venue",
        "rows",
        "first",
        "last",
        "n_gaps",
        "missing",
        "longest_gap",
        "problems",
    ]
    return pd.DataFrame(lines, columns=names)


def count_missing(times: np.ndarray, kind: str) -> np.ndarray:
    """Rows missing right before each row of a series, (n,) int64, from its (n,) times in ms.

    Example:
        >>> hours = np.array([0, 8, 16, 32, 40, 44, 48, 52, 56])  # one is left out
        >>> count_missing(hours * 3_600_000, "funding")
        array([0, 0, 0, 1, 0, 0, 0, 0, 0])
    """
    if kind not in PUBLISHED:
        return missing_before(times, timeframe_ms(kind))
    steps = pd.Series(np.diff(times), dtype=np.float64)
    interval = steps.rolling(NEIGHBOURS, center=True, min_periods=1).median()
    missing = np.zeros(len(times), dtype=np.int64)
    missing[1:] = np.maximum(np.rint(steps / interval) - 1, 0)
    return missing


def content_sha256(candles: pd.DataFrame) -> str:
    """Hash of the values of a frame of candles, whatever file they came from."""
    digest = hashlib.sha256(",".join(candles.columns).encode())
    for name in candles.columns:
        values = (
            timestamps_ms(candles)
            if name == "timestamp"
            else candles[name].to_numpy(dtype=np.float64)
        )
        digest.update(values.tobytes())
    return digest.hexdigest()


def find_file(directory: Path, symbol: str, kind: str) -> Path | None:
    """A series' main file, Parquet before CSV, or None."""
    if kind not in PUBLISHED:
        timeframe_ms(kind)
    candidates = (directory / file_name(symbol, kind, suffix) for suffix in (".parquet", ".csv"))
    return next((path for path in candidates if path.is_file()), None)


def demand_files(directory: Path, symbols: Sequence[str], timeframe: str) -> list[Path]:
    """Path of each symbol's candles; a ValueError names all the symbols that have none, and what is
    there."""
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory of candles; mend --candles-dir")
    paths = {symbol: find_file(directory, symbol, timeframe) for symbol in symbols}
    lacking = [symbol for symbol, path in paths.items() if path is None]
    if not lacking:
        return [path for path in paths.values() if path is not None]
    first = file_name(lacking[0], "", "")
    stems = {
        p.stem
        for p in directory.iterdir()
        if p.suffix in (".parquet", ".csv") and not p.stem.endswith(".tail")
    }
    at_hand = sorted(stems, key=lambda stem: (not stem.startswith(first), stem))  # its own first
    shown = ", ".join(at_hand[:12]) + (
        f" and {len(at_hand) - 12} more" if len(at_hand) > 12 else ""
    )
    raise ValueError(
        f"{', '.join(lacking)}: no {first}{timeframe}.parquet or "
        f"{first}{timeframe}.csv{'' if len(lacking) == 1 else ', and so on,'} in {directory}; it "
        f"holds {shown or 'no candles'}"
    )


def _read_tail(path: Path) -> tuple[pd.DataFrame | None, dict[str, str]]:
    try:
        with _open_parquet(tail_path(path)) as file:
            return file.read().to_pandas(), _notes(file)
    except FileNotFoundError:
        return None, {}


def _first_group(metadata: parquet.FileMetaData, n_rows: float, since_ms: float) -> int:
    """First row group to read for the newest `n_rows` and all rows from `since_ms` on; the last one
    always is read."""
    group, rows, first_ms = metadata.num_row_groups, 0, math.inf
    while group > 0 and (rows == 0 or rows < n_rows or first_ms > since_ms):
        group -= 1
        rows += metadata.row_group(group).num_rows
        first_ms = metadata.row_group(group).column(0).statistics.min_raw
    return group


def _notes(file: parquet.ParquetFile) -> dict[str, str]:
    metadata = file.schema_arrow.metadata or {}
    return {name: metadata[name.encode()].decode() for name in NOTES if name.encode() in metadata}


@contextlib.contextmanager
def _open_parquet(path: Path) -> Iterator[parquet.ParquetFile]:
    """An open Parquet file whose checksums, if it has any, are verified; what goes wrong in the
    block is its damage."""
    with _readable(path), parquet.ParquetFile(path, page_checksum_verification=True) as file:
        yield file


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file; mend the path") from None
    # of damaged files
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = (
            "fetch or copy it again"
            if path.suffix == ".csv"
            else ("delete it and fetch or copy it again")
        )
        raise ValueError(
            f"{path}: not a readable {path.suffix[1:]} file ({reason}); {remedy}"
        ) from error
