"""Files of candles are counted before they are read: a small one may hold more than memory does.

A Parquet file of 8 MB can hold 300 million equal rows, and a text of any length as often. A CSV
file of 10 MB can hold ten million columns.
"""

from __future__ import annotations

import mmap
from typing import BinaryIO

import pyarrow as pa
from pyarrow import compute, parquet

MAX_ROWS = 6_000_000
"""11 years of 1m candles; Binance's first is of 2017."""

MAX_COLUMNS = 200

MAX_VALUES = 64_000_000
"""of all rows and columns"""

MAX_CSV_BYTES = 2**30
"""unpacked; 9 years of 1m candles as Binance publishes them have 0.6 GB"""

MAX_JSON_BYTES = 2**27
MAX_JSON_ROWS = 2_000_000
"""A value of a JSON text takes tenfold its room in memory."""

MAX_CHUNKS = 100_000
"""row groups times columns; the store makes 3,000 of 9 years of 1m candles"""

MAX_TEXT_BYTES = 1000
"""of a text in a Parquet file, which may be in every row"""


MAX_UNPACKED_BYTES = 2**30
"""of all pages of a Parquet file"""

MAX_PAGE_BYTES = 2**27
"""of one page; writers make them of 1 MB, or of a group's column"""

MAX_DEPTH = 8
"""structs within structs in a page's header"""


def check_parquet(metadata: parquet.FileMetaData) -> list[str]:
    """Count what a Parquet file holds, by its metadata.

    Returns:
        The columns of texts, which are to be read as dictionaries: each text once, however often it
        is there.

    Raises:
        ValueError: It holds more than a series of candles, or lists and the like.
    """
    n_columns = metadata.num_columns
    if n_columns > MAX_COLUMNS or n_columns * metadata.num_row_groups > MAX_CHUNKS:
        raise ValueError(f"it holds {n_columns:,} columns in {metadata.num_row_groups:,} groups")
    texts = []
    for number in range(n_columns):
        column = metadata.schema.column(number)
        if column.max_repetition_level or column.path != column.name:
            raise ValueError(f"its column {column.path!r:.60} is no plain column")
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY" and column.length > 32:
            raise ValueError(f"its column {column.name!r:.60} holds no numbers")
        if column.physical_type == "BYTE_ARRAY":
            texts.append(column.name)
    groups = range(metadata.num_row_groups)
    counts = [
        [metadata.row_group(group).column(number).num_values for group in groups]
        for number in range(n_columns)
    ]
    check_count(max([metadata.num_rows, *map(sum, counts)]), sum(map(sum, counts)))
    return texts


def check_texts(table: pa.Table) -> list[str]:
    """Look at the longest text of each column that was read as a dictionary.

    Returns:
        The names of these columns.

    Raises:
        ValueError: A text is too long to be a time or a number.
    """
    texts = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    for name in texts:
        for chunk in table[name].chunks:
            lengths = compute.binary_length(chunk.dictionary.cast(pa.large_binary()))
            if (compute.max(lengths).as_py() or 0) > MAX_TEXT_BYTES:
                raise ValueError(
                    f"its column {name!r:.60} has a text of more than {MAX_TEXT_BYTES:,} bytes"
                )
    return texts


def check_count(n_rows: int, n_values: int) -> None:
    """Raise a ValueError on more rows or values than a series of candles has."""
    if n_rows > MAX_ROWS or n_values > MAX_VALUES:
        raise ValueError(
            f"it has {n_rows:,} rows and {n_values:,} values or more, at most {MAX_ROWS:,} and "
            f"{MAX_VALUES:,} are read"
        )


def check_pages(file: BinaryIO, metadata: parquet.FileMetaData) -> None:
    """Add up what the pages of a Parquet file unpack to, by the headers that pyarrow goes by.

    The metadata at the file's end may say less than the header before each page.

    Raises:
        ValueError: They unpack to more than a series of candles, or a header cannot be read.
    """
    n_bytes = 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for chunk in map(group.column, range(metadata.num_columns)):
                if chunk.num_values == 0:  # of which no page is read
                    continue
                place = chunk.data_page_offset
                if chunk.dictionary_page_offset:
                    place = min(place, chunk.dictionary_page_offset)
                end = place + chunk.total_compressed_size
                while place < end:
                    unpacked, packed, place = _read_page_header(data, place)
                    n_bytes += unpacked
                    place += packed
                    if unpacked > MAX_PAGE_BYTES or n_bytes > MAX_UNPACKED_BYTES or packed < 0:
                        raise ValueError(
                            f"its pages unpack to {n_bytes:,} bytes or more, at most "
                            f"{MAX_UNPACKED_BYTES:,} are read, and {MAX_PAGE_BYTES:,} of a page"
                        )


def _read_page_header(data: mmap.mmap, place: int) -> tuple[int, int, int]:
    """Bytes of a page once it is unpacked, bytes that it takes, and where it begins.

    The header is a struct in Thrift's compact protocol, of which fields 2 and 3 are wanted.
    """
    try:
        fields, place = _read_struct(data, place, depth=0)
        unpacked, packed = fields[2], fields[3]
    except (IndexError, KeyError, ValueError) as error:
        raise ValueError("the header of a page is damaged") from error
    return unpacked & 0xFFFFFFFF, packed, place  # below 0 is no size either


def _read_struct(data: mmap.mmap, place: int, depth: int) -> tuple[dict[int, int], int]:
    """A struct's integers by their fields' numbers, and where it ends."""
    if depth > MAX_DEPTH:
        raise ValueError("structs within structs")
    fields: dict[int, int] = {}
    number = 0
    while (head := data[place]) != 0:
        place += 1
        number += head >> 4
        if head >> 4 == 0:
            number, place = _read_integer(data, place)
        value, place = _read_value(data, place, head & 15, depth)
        fields[number] = value
    return fields, place + 1


def _read_value(data: mmap.mmap, place: int, kind: int, depth: int) -> tuple[int, int]:
    """A value if it is an integer, else 0, and where it ends."""
    if kind in (1, 2):  # true and false, which the head holds
        return 0, place
    if kind == 3:
        return 0, place + 1
    if kind in (4, 5, 6):
        return _read_integer(data, place)
    if kind == 7:
        return 0, place + 8
    if kind == 8:
        length, place = _read_varint(data, place)
        return 0, place + length
    if kind == 12:
        return 0, _read_struct(data, place, depth + 1)[1]
    raise ValueError("a list, which no page's header holds")


def _read_integer(data: mmap.mmap, place: int) -> tuple[int, int]:
    """An integer, of which the last bit is the sign, and where it ends."""
    number, place = _read_varint(data, place)
    return (number >> 1) ^ -(number & 1), place


def _read_varint(data: mmap.mmap, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, ten bytes at most, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
    raise ValueError("a number without an end")
