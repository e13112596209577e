"""Tables of text, such as CSV files: what separates the columns, where the header is, the rows.

A file is read once, in blocks, and counted as it is read (`pipeline.candles.table_size`): however
much a packed one holds, no more than one block beyond the bounds is ever in memory.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import pandas as pd
import pyarrow as pa
from pyarrow import compute
from pyarrow import csv as arrow_csv

from pipeline.candles import table_size

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HEAD_BYTES = 2**16
"""The start of a file, by which its form is told."""

HEAD_LINES = 40

MAX_LINE_BYTES = 2**15

BLOCK_BYTES = 2**22

SUFFIXES = tuple(".parquet .pq .feather .ftr .arrow .csv .tsv .txt .json .jsonl .ndjson".split())
PACKED = (".gz", ".zip")
"""Endings of what is read"""

SEPARATORS = (",", ";", "\t", "|")

LEAST_COLUMNS = 2
"""A time and a value"""

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

LONG_LINE = f"a line is longer than {MAX_LINE_BYTES:,} bytes"

ABSENT = ["", "-", "#N/A", "N/A", "n/a", "<NA>", "NA", "NULL", "null", "NaN", "nan", "None", "NaT"]
"""What stands for no value."""

NUMBER = re.compile(r"[-+$]?\d[\d.,]*(?:[eE][-+]?\d+)?[KMB%]?")

DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}[./]\d{1,2}[./]\d{4}")
"""How a time begins that is a time wherever it stands"""

FIRST_NAMES = ("open", "o", "low", "date", "time")
"""What the second column of a header may be called, below rows without one"""

NO_ROW = re.compile(r"\s*(?:#|//|https?://|[\w.]+\.\w+$)")
"""A comment or a site's name on a line of its own."""


IsHeader = Callable[[Sequence[str]], bool]
"""Whether the cells of a line are names of columns, by what they are"""


class DoubtfulError(ValueError):
    """What is there can be read in more ways than one; the text asks the question that decides."""


@dataclass(frozen=True, eq=False)
class Table:
    """What a file holds, before anything is known of its columns."""

    columns: pd.DataFrame
    """named as the header says, or numbered where there is none; numbers are numbers"""
    told: tuple[str, ...] = ()
    """what was done to read it, a phrase each"""
    separator: str = ","
    """what stands between the values of a text"""


@dataclass(frozen=True)
class Form:
    """How a text is laid out."""

    separator: str
    names: tuple[str, ...]
    """empty where there is no header"""
    width: int
    n_above: int
    """lines above the first row of values, the header among them"""


def suffix_of(path: Path) -> str:
    """The ending that says what a file is, in small letters, without that of its packing.

    Example:
        >>> suffix_of(Path("BTCUSDT-1h-2024-12.CSV.gz")), suffix_of(Path("BTCUSDT.zip"))
        ('.csv', '.zip')
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if len(suffixes) > 1 and suffixes[-1] in PACKED and suffixes[-2] in SUFFIXES:
        return suffixes[-2]
    return suffixes[-1] if suffixes else ""


def is_table(path: Path) -> bool:
    """Whether a file is called as one of those that are read."""
    return suffix_of(path) in (*SUFFIXES, *PACKED)


def demand_name(path: Path, what: str = "the candles") -> None:
    """Raise on a file whose ending says that it is of another form."""
    if not is_table(path):
        kind = f"{path.suffix} files" if path.suffix else "files without an ending"
        raise ValueError(
            f"{path}: {kind} are not read; save {what} as Parquet, CSV, JSON or Feather, or "
            "one of these packed as .gz or .zip"
        )


class _Bounded(io.RawIOBase):
    """A stream that raises once more bytes than candles take have come out of it."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._left, self._most = stream, most, most

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        content = self._stream.read(len(memoryview(buffer)))
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it has more than {self._most:,} bytes")
        memoryview(buffer)[: len(content)] = content
        return len(content)


@contextlib.contextmanager
def open_bytes(
    source: Path | bytes, most: int = table_size.MAX_CSV_BYTES
) -> Iterator[io.BufferedReader]:
    """The bytes of a file; what is packed by gzip or zip, which its first bytes tell, is unpacked.

    Args:
        source: The file, or its content.
        most: Number of unpacked bytes beyond which reading raises a ValueError.

    Raises:
        ValueError: It is packed and damaged, holds several files, or more bytes.
    """
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        stack.enter_context(stream)
        start = stream.read(4)
        stream.seek(0)
        if start[:2] == b"\x1f\x8b":
            stream = cast("IO[bytes]", stack.enter_context(gzip.open(stream)))
        elif start == b"PK\x03\x04":
            stream = stack.enter_context(_open_member(stack.enter_context(_open_zip(stream))))
        try:
            yield io.BufferedReader(_Bounded(stream, most), HEAD_BYTES)
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
            raise ValueError(f"it is packed and damaged ({error})") from error


def _open_zip(stream: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        raise ValueError(f"it is packed and damaged ({error})") from error


def _open_member(archive: zipfile.ZipFile) -> IO[bytes]:
    """The one file of a zip archive; checksums and what systems add do not count."""
    names = [
        info.filename
        for info in archive.infolist()
        if not (info.is_dir() or "__MACOSX" in info.filename or info.filename.endswith("CHECKSUM"))
    ]
    if len(names) != 1:
        raise DoubtfulError(
            f"the archive holds {len(names)} files; which one? unpack it and pass that file, or "
            "the folder"
        )
    try:
        return archive.open(names[0])
    except (RuntimeError, NotImplementedError) as error:  # a password, say
        raise ValueError(f"the archive cannot be unpacked ({error})") from error


def read_text(source: Path | bytes, is_header: IsHeader | None = None) -> Table:
    """Read a text of columns, from a file or from its content; see `open_bytes`.

    Args:
        source: The file, or its content.
        is_header: See `find_form`.

    Raises:
        ValueError: It is not such a text, or holds more than a series of candles.
    """
    with open_bytes(source) as stream:
        start = stream.peek(HEAD_BYTES)[:HEAD_BYTES]
    if not start:
        raise ValueError("it is empty")
    encoding = next((name for bom, name in BOMS if start.startswith(bom)), "utf-8")
    if encoding == "utf-8" and b"\0" in start:
        raise ValueError("it is no text")
    text = start.decode("utf-8-sig" if encoding == "utf-8" else encoding, "ignore")
    lines = _head_lines(text, is_whole=len(start) < HEAD_BYTES)
    form = find_form(lines, is_header)
    try:
        with _open_text(source, encoding) as stream:
            table, n_repeated = _read_rows(stream, form, _kinds_in(lines, form))
    except _OtherKindError:
        with _open_text(source, encoding) as stream:
            table, n_repeated = _read_rows(stream, form, None)
    told: tuple[str, ...] = ("UTF-16",) if encoding == "utf-16" else ()
    if not form.names:
        told += (f"without header, {form.width} columns",)
    if form.separator != ",":
        told += (f"separated by {'tab' if form.separator == chr(9) else form.separator}",)
    if n_repeated:
        told += (f"{n_repeated} further header line(s) left out",)
    return Table(table, told, form.separator)


@contextlib.contextmanager
def _open_text(source: Path | bytes, encoding: str) -> Iterator[io.BufferedReader]:
    """The text in UTF-8, without the mark of its encoding."""
    with open_bytes(source) as stream:
        if encoding != "utf-8":
            yield cast("io.BufferedReader", codecs.EncodedFile(stream, "utf-8", encoding))
        else:
            if stream.peek(3).startswith(codecs.BOM_UTF8):
                stream.read(3)
            yield stream


@contextlib.contextmanager
def _system_memory() -> Iterator[None]:
    """Arrow's memory from the system, so that columns which it hands over do not stay its own."""
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(usual)


class _OtherKindError(Exception):
    """A value is of another kind than those at the start of its column."""


def _kinds_in(lines: Sequence[str], form: Form) -> list[pa.DataType] | None:
    """What each column holds at the start of the file, so that Arrow need not ask of each value."""
    rows = [
        next(csv.reader([line], delimiter=form.separator), []) for line in lines[form.n_above :]
    ]
    rows = [row for row in rows if len(row) == form.width]
    if len(rows) < LEAST_COLUMNS or any(_is_header(row, form.names) for row in rows):
        return None
    kinds: list[pa.DataType] = []
    for cells in zip(*rows):
        column = pa.array([None if cell in ABSENT else cell for cell in cells], pa.string())
        values = _as_values(column)
        # Prices and volumes that are whole here need not be so further on; times are.
        is_price = values.type == pa.int64() and compute.min(values).as_py() < 10**8 and kinds
        kinds.append(pa.float64() if is_price else values.type)
    return kinds


def _head_lines(text: str, *, is_whole: bool) -> list[str]:
    """The first lines; the last one is complete."""
    lines = text.splitlines()[:HEAD_LINES]
    is_cut = not is_whole and len(lines) < HEAD_LINES
    for separator in SEPARATORS:
        widest = max((line.count(separator) + 1 for line in lines), default=0)
        if widest > table_size.MAX_COLUMNS:
            raise ValueError(
                f"it has {widest:,} columns or more, at most {table_size.MAX_COLUMNS} are read"
            )
    if max(map(len, lines), default=0) > MAX_LINE_BYTES:
        raise ValueError(LONG_LINE)
    return lines[:-1] if is_cut and len(lines) > 1 else lines


def find_form(lines: Sequence[str], is_header: IsHeader | None = None) -> Form:
    """Tell separator, header and first row of a text from its first lines.

    Args:
        lines: The first lines.
        is_header: Tells a header by its names, whatever the rows below it hold; where no line is
            one, and by default, the header is above the first row of numbers.

    Example:
        >>> find_form(["a;b;c", "1;2;3,5", "4;5;6,5"])
        Form(separator=';', names=('a', 'b', 'c'), width=3, n_above=1)
    """
    found = [_form_by(lines, separator, is_header) for separator in SEPARATORS]
    return max(found, key=lambda one: (one[0], one[1].width))[1]


def _form_by(lines: Sequence[str], separator: str, is_header: IsHeader | None) -> tuple[int, Form]:
    """How sure this separator is (2 of names that are known, 1 of values), and the form."""
    rows = [next(csv.reader([line], delimiter=separator), []) for line in lines]
    filled = [number for number, row in enumerate(rows) if any(cell.strip() for cell in row)]
    named = [number for number in filled if is_header and is_header(rows[number])][:1]
    if named:
        filled = [number for number in filled if number >= named[0]]
        first = next((number for number in filled[1:] if len(rows[number]) > 1), len(rows))
    else:
        first = next((number for number in filled if _is_values(rows[number])), len(rows))
    width = len(rows[first]) if first < len(rows) else max(map(len, rows), default=0)
    above = [rows[number] for number in filled if number < first and len(rows[number]) > 1]
    names: tuple[str, ...] = ()
    if above:
        names = tuple(name.strip().lstrip("\ufeff").strip() for name in _names_of(above))
        if first == len(rows):
            width = len(names)
        names = names[:width] if not any(names[width:]) else names
    if names and len(names) != width:
        row = rows[first]
        if len(row) == len(names) + 1 and not row[-1].strip():
            names = (*names, "")  # rows that end with a separator
        else:
            raise DoubtfulError(
                f"its header names {len(names)} columns and its first row has {width} values; "
                "which column is which? mend the header line"
            )
    has_values = first < len(rows)
    if not has_values:  # what follows the header shows why
        first = next((number for number in filled if len(rows[number]) > 1), 0) + bool(names)
    return 2 if named else int(has_values), Form(separator, names, width, first)


def _names_of(above: list[list[str]]) -> list[str]:
    """The header among the lines above the values: the last one, but of yfinance's three."""
    if above[0][0].strip() == "Price" and len(above) > 1 and above[1][0].strip() == "Ticker":
        tickers = {cell.strip() for cell in above[1][1:]}
        if len(tickers) != 1:
            raise DoubtfulError(
                f"it holds candles of {len(tickers)} tickers, {', '.join(sorted(tickers))}; which "
                "one? keep the columns of one"
            )
        first = above[2][0] if len(above) > 2 else ""
        return [first or "Date", *above[0][1:]]
    return above[-1]


def _is_values(row: Sequence[str]) -> bool:
    """Whether a line holds values: most of its cells that are filled hold numbers, two at least."""
    cells = [cell.strip() for cell in row if cell.strip()]
    if len(cells) > 1 and cells == [str(number) for number in range(len(cells))]:
        return False  # pandas' names of columns that have none
    n_numbers = sum(bool(NUMBER.fullmatch(cell)) or cell in ABSENT for cell in cells)
    has_time = bool(cells) and cells[0][:1].isdigit() and not NUMBER.fullmatch(cells[0])
    has_time = has_time or any(DATE.match(cell) for cell in cells[1:])  # behind a pair's name
    return n_numbers + has_time >= max(LEAST_COLUMNS, (len(cells) + 1) // 2)


@_system_memory()
def _read_rows(
    stream: io.BufferedReader, form: Form, kinds: Sequence[pa.DataType] | None
) -> tuple[pd.DataFrame, int]:
    """The rows below the header, and how many lines among them repeat it or say nothing.

    Args:
        stream: The text.
        form: Its form.
        kinds: What the columns hold, which raises where a value is of another kind; None finds out.
    """
    labels = [str(number) for number in range(form.width)]
    n_skipped, wrong = 0, ""

    def on_invalid(row: arrow_csv.InvalidRow) -> str:
        nonlocal n_skipped, wrong
        if NO_ROW.match(row.text) or _repeats(row.text.split(form.separator), form.names):
            n_skipped += 1
            return "skip"
        line = row.number + form.n_above
        wrong = f"line {line} has {row.actual_columns} values in place of {form.width}"
        wrong = LONG_LINE if len(row.text) > MAX_LINE_BYTES else wrong
        return "error"

    parts: list[list[pa.Array]] = [[] for _ in labels]
    n_rows = 0
    try:
        reader = arrow_csv.open_csv(
            _SkipLines(stream, form.n_above),
            arrow_csv.ReadOptions(block_size=BLOCK_BYTES, column_names=labels, use_threads=False),
            arrow_csv.ParseOptions(delimiter=form.separator, invalid_row_handler=on_invalid),
            arrow_csv.ConvertOptions(
                column_types=dict(zip(labels, kinds or [pa.string()] * form.width)),
                null_values=ABSENT,
                strings_can_be_null=True,
            ),
        )
        for batch in reader:
            rows, n_repeated = batch, 0
            if kinds is None:
                rows, n_repeated = _without_headers(batch, form.names)
            n_skipped += n_repeated
            n_rows += len(rows)
            table_size.check_count(n_rows, n_rows * form.width)
            for number, column in enumerate(rows.columns):
                parts[number].append(column if kinds else _as_values(column))
    except pa.ArrowInvalid as error:
        reason = str(error).partition("\n")[0]
        if "Empty CSV file" in reason:
            reader = None
        elif "straddling" in reason:
            raise ValueError(LONG_LINE) from error
        elif kinds and not wrong:
            raise _OtherKindError from error
        else:
            raise ValueError(wrong or reason[:200]) from error
    names: Sequence[object] = form.names or range(form.width)
    columns = {}
    for label, part in zip(labels, parts):
        # A column at a time moves from Arrow to pandas, so that no two copies of all are in memory.
        columns[label] = _join(part).to_pandas()
        pa.default_memory_pool().release_unused()
    frame = pd.DataFrame(columns, copy=False)
    return frame.set_axis(pd.Index(names, dtype=object if form.names else None), axis=1), n_skipped


class _SkipLines(io.RawIOBase):
    """A stream without its first lines, which pyarrow would count otherwise than `csv` does."""

    def __init__(self, stream: io.BufferedReader, n_lines: int) -> None:
        self._stream = stream
        self._rest = b""
        while n_lines > 0:
            block = self._stream.read(HEAD_BYTES)
            if not block:
                break
            lines = (self._rest + block).splitlines(keepends=True)
            kept = lines[n_lines:]
            n_lines = 0 if kept or len(lines) >= n_lines else n_lines - len(lines)
            self._rest = b"".join(kept)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return self._stream.read(size)


def _is_header(row: Sequence[str], names: Sequence[str]) -> bool:
    if len(row) < LEAST_COLUMNS:
        return False
    return _repeats(row, names) if names else row[1].strip().lower() in FIRST_NAMES


def _repeats(cells: Sequence[str], names: Sequence[str]) -> bool:
    return [cell.strip() for cell in cells[:2]] == list(names[:2])


def _without_headers(batch: pa.RecordBatch, names: Sequence[str]) -> tuple[pa.RecordBatch, int]:
    """The rows that repeat no header, as those of files that were put together do."""
    if batch.num_columns < LEAST_COLUMNS:
        return batch, 0
    last = batch.column(batch.num_columns - 1 if len(names) == 0 else min(2, len(names) - 1))
    wanted = names[min(2, len(names) - 1)].lower() if names else None
    texts = compute.utf8_lower(compute.utf8_trim_whitespace(batch.column(1)))
    if names:
        is_header = compute.and_(
            compute.equal(texts, names[1].lower()),
            compute.equal(compute.utf8_lower(compute.utf8_trim_whitespace(last)), wanted),
        )
    else:
        is_header = compute.is_in(texts, pa.array(FIRST_NAMES))
    is_header = compute.fill_null(is_header, False)
    n_headers = compute.sum(is_header).as_py() or 0
    if not n_headers:
        return batch, 0
    return batch.filter(compute.invert(is_header)), n_headers


def _as_values(texts: pa.Array) -> pa.Array:
    """Whole numbers, numbers, ISO times or, where one of them is none, the texts."""
    if texts.null_count == len(texts):
        return texts.cast(pa.float64())
    first = texts.drop_null()[0].as_py().strip()
    trimmed = (
        compute.utf8_trim_whitespace(texts) if first != texts.drop_null()[0].as_py() else texts
    )
    if NUMBER.fullmatch(first):
        kinds = [pa.int64(), pa.float64()]
        if len(first) > 1 and first[0] == "0" and first.isdigit():
            kinds = []  # such as a clock's time, 093000
    elif first[:1].isdigit():
        kinds = [pa.timestamp("us"), pa.timestamp("us", "UTC")]
    else:
        kinds = []
    for kind in kinds:
        with contextlib.suppress(pa.ArrowInvalid):
            return compute.cast(trimmed, kind)
    return texts


def _join(parts: list[pa.Array]) -> pa.ChunkedArray:
    """One column of the blocks' parts; texts, where a block has texts."""
    kinds = {part.type for part in parts}
    if kinds == {pa.int64(), pa.float64()}:
        parts = [part.cast(pa.float64()) for part in parts]
    elif len(kinds) > 1:
        parts = [part.cast(pa.string()) for part in parts]
    joined = pa.chunked_array(parts, parts[0].type if parts else pa.float64())
    parts.clear()
    return joined
