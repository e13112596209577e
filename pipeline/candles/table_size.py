"""Files of candles are counted before they are read: a small one may hold more than memory does.

A Parquet file of 8 MB can hold 300 million equal rows, and a text of any length as often. A CSV
file of 10 MB can hold ten million columns.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pyarrow import compute, parquet

MAX_ROWS = 6_000_000
"""11 years of 1m candles; Binance's first is of 2017."""

MAX_COLUMNS = 200

MAX_VALUES = 64_000_000
"""of all rows and columns"""

MAX_CSV_BYTES = 2**30
"""unpacked; 9 years of 1m candles as Binance publishes them have 0.6 GB"""

MAX_CHUNKS = 100_000
"""row groups times columns; the store makes 3,000 of 9 years of 1m candles"""

MAX_LINE_BYTES = 2**16

MAX_TEXT_BYTES = 1000
"""of a text in a Parquet file, which may be in every row"""


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
    _check_count(max([metadata.num_rows, *map(sum, counts)]), sum(map(sum, counts)))
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


def check_csv(path: Path) -> None:
    """Count the lines and fields of a CSV file, without parsing them.

    Raises:
        ValueError: It holds more than a series of candles.
    """
    # as pandas opens it, which unpacks what is called .gz and so on
    from pandas.io.common import get_handle

    n_bytes = n_lines = n_fields = 0
    with get_handle(path, "rb", compression="infer", is_text=False) as handles:
        while chunk := handles.handle.read(MAX_LINE_BYTES):
            n_line_ends = max(chunk.count(b"\n"), chunk.count(b"\r"))
            if n_line_ends == 0 and len(chunk) == MAX_LINE_BYTES:
                raise ValueError(f"a line is longer than {MAX_LINE_BYTES:,} bytes")
            if n_bytes == 0:
                _check_width(chunk)
            n_bytes += len(chunk)
            n_lines += n_line_ends
            n_fields += chunk.count(b",") + n_line_ends
            _check_count(n_lines, n_fields)
            if n_bytes > MAX_CSV_BYTES:
                raise ValueError(f"it has more than {MAX_CSV_BYTES:,} bytes")


def _check_width(start: bytes) -> None:
    """Look at the header and the rows below it, by which pandas counts columns."""
    widest = max(line.count(b",") + 1 for line in start.splitlines())
    if widest > MAX_COLUMNS:
        raise ValueError(f"it has {widest:,} columns or more, at most {MAX_COLUMNS} are read")


def _check_count(n_rows: int, n_values: int) -> None:
    if n_rows > MAX_ROWS or n_values > MAX_VALUES:
        raise ValueError(
            f"it has {n_rows:,} rows and {n_values:,} values or more, at most {MAX_ROWS:,} and "
            f"{MAX_VALUES:,} are read"
        )
