"""Tables of whatever people hold: files of any form, lists, dicts, frames of any library."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import dataset, feather

from pipeline.candles import store, table_size
from pipeline.candles.text_tables import (
    DoubtfulError,
    IsHeader,
    Table,
    open_bytes,
    read_text,
    suffix_of,
)

PARQUET = (".parquet", ".pq")
FEATHER = (".feather", ".ftr", ".arrow")

MOST_DEPTH = 4
"""Levels of a JSON text above the rows; Bybit's answer has two."""

LEAST_ROW = 5
"""A time and four prices, at least"""


def read_table(path: Path, least: int = LEAST_ROW, is_header: IsHeader | None = None) -> Table:
    """Read a file.

    Args:
        path: The file.
        least: Fewest columns of a table in JSON.
        is_header: Of a text, see `text_tables.find_form`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is of no form that is read, damaged, or holds more than a series of candles.
    """
    suffix = suffix_of(path)
    if suffix in PARQUET:
        return Table(store.read_table(path))
    with store.readable(path):
        if suffix in FEATHER:
            return Table(_read_feather(path))
        with open_bytes(path) as stream:
            if _is_json(stream.peek(8)):
                return _read_json(stream, least)
        return read_text(path, is_header)


def as_table(what: object, least: int = LEAST_ROW) -> Table:
    """A table of what is in memory: a frame of any library, rows, or columns.

    Args:
        what: What holds it.
        least: Fewest columns of rows and of columns by name.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(what, pd.DataFrame):
        return Table(what)
    if isinstance(what, pa.Table):
        return Table(what.to_pandas())
    for name in ("to_pandas", "toPandas"):
        if callable(getattr(what, name, None)):
            with contextlib.suppress(ImportError):  # polars converts by pyarrow, or not at all
                return Table(pd.DataFrame(getattr(what, name)()))
    if isinstance(what, Mapping) and any(isinstance(one, pd.DataFrame) for one in what.values()):
        raise DoubtfulError(
            f"it holds {len(what)} frames, of {', '.join(map(repr, list(what)[:5]))}; which one? "
            "pass that frame alone"
        )
    can_be_asked = hasattr(what, "__dataframe__") or hasattr(what, "__arrow_c_stream__")
    if can_be_asked and not isinstance(what, pd.Series):
        return Table(_interchanged(what))
    if isinstance(what, np.ndarray):
        what = what.tolist()
    if isinstance(what, (Mapping, Sequence)) and not isinstance(what, (str, bytes)):
        return Table(_from_plain(what, least))
    raise ValueError(
        f"{type(what).__name__} holds no candles; pass a file's path, a frame, rows such as "
        "[[time, open, high, low, close, volume], ...] or columns such as {'time': [...], ...}"
    )


def _interchanged(what: Any) -> pd.DataFrame:
    if hasattr(what, "__arrow_c_stream__"):
        return pa.table(what).to_pandas()
    from pyarrow import interchange

    return interchange.from_dataframe(what).to_pandas()


# --- files


def _is_json(start: bytes) -> bool:
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"[", b"{")


def _read_json(stream: io.BufferedReader, least: int) -> Table:
    content = stream.read(table_size.MAX_JSON_BYTES + 1)
    n_rows = max(content.count(b"["), content.count(b"{"))
    if len(content) > table_size.MAX_JSON_BYTES or n_rows > table_size.MAX_JSON_ROWS:
        raise ValueError(
            f"it has {len(content):,} bytes and {n_rows:,} rows or more, at most "
            f"{table_size.MAX_JSON_BYTES:,} and {table_size.MAX_JSON_ROWS:,} are read of JSON; "
            "save it as CSV or Parquet"
        )
    table_size.check_count(0, 3 * content.count(b","))
    try:
        text = content.decode("utf-8-sig")
        try:
            plain = json.loads(text)
        except json.JSONDecodeError:
            plain = [json.loads(line) for line in text.splitlines() if line.strip()]
    except RecursionError as error:
        raise ValueError("its lists lie in one another too deep") from error
    return Table(_from_plain(plain, least))


def _read_feather(path: Path) -> pd.DataFrame:
    """A Feather file's columns, of numbers and times alone: nothing tells the size of texts."""
    n_rows = dataset.dataset(path, format="feather").count_rows()
    with pa.OSFile(str(path)) as source:
        schema = pa.ipc.open_file(source).schema
    if len(schema) > table_size.MAX_COLUMNS:
        raise ValueError(f"it holds {len(schema):,} columns")
    table_size.check_count(n_rows, n_rows * len(schema))
    names = [field.name for field in schema if _has_fixed_width(field.type)]
    texts = [name for name in schema.names if name not in names]
    if texts:
        raise ValueError(
            f"its column {texts[0]!r:.60} holds no numbers or times; leave it out, or save the "
            "candles as Parquet"
        )
    return feather.read_table(path).to_pandas()


def _has_fixed_width(kind: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(kind) or pa.types.is_decimal(kind))


# --- plain data


def _from_plain(plain: Any, least: int) -> pd.DataFrame:
    """A frame of lists and dicts, the rows of which may lie inside an exchange's answer."""
    found = list(_tables_in(plain, MOST_DEPTH, least))
    if len(found) > 1:
        raise DoubtfulError(
            f"{len(found)} tables lie in it, of {', '.join(map(repr, (name for name, _ in found)))}"
            "; which one? pass that one alone"
        )
    if not found:
        if isinstance(plain, Sequence) and len(plain) == 0:
            return pd.DataFrame()
        raise ValueError(
            "no rows of candles are in it; pass rows such as [[time, open, high, low, close, "
            "volume], ...] or columns such as {'time': [...], 'open': [...], ...}"
        )
    return found[0][1]


def _tables_in(
    plain: Any, depth: int, least: int, name: str = ""
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each table in nested lists and dicts, with the name that it lies under."""
    if isinstance(plain, Mapping):
        table = _from_mapping(plain, least)
        if table is not None:
            yield name, table
        elif depth:
            for key, value in plain.items():
                yield from _tables_in(value, depth - 1, least, str(key))
    elif isinstance(plain, Sequence) and not isinstance(plain, (str, bytes)) and len(plain):
        first = plain[0]
        if isinstance(first, Mapping) and len(first) >= least:
            demand_alike(plain, Mapping)
            yield name, pd.DataFrame(list(plain))
        elif _is_row(first, least):
            widths = {len(row) if _is_row(row, least) else 0 for row in plain}
            if len(widths) > 1:
                raise DoubtfulError(
                    f"its rows have {' and '.join(map(str, sorted(widths)))} values; which are "
                    "the candles? pass rows of one width"
                )
            yield name, pd.DataFrame(list(plain))


def _is_row(what: object, least: int) -> bool:
    """Whether this is a row of values, and no list of rows."""
    is_list = isinstance(what, (Sequence, np.ndarray)) and not isinstance(what, (str, bytes))
    return is_list and len(what) >= least and not isinstance(what[0], (list, tuple, Mapping))  # type: ignore


def demand_alike(rows: Sequence[object], kind: type) -> None:
    """Raise unless all rows are of one kind."""
    other = next((number for number, row in enumerate(rows) if not isinstance(row, kind)), None)
    if other is not None:
        raise ValueError(f"row {other} is {rows[other]!r:.60}; pass rows of one kind")


def _from_mapping(plain: Mapping[Any, Any], least: int) -> pd.DataFrame | None:
    """Columns by name, or what pandas' `to_json` and `to_dict` make of a frame; None of others."""
    if {"columns", "data"} <= set(plain) and isinstance(plain["data"], Sequence):
        return pd.DataFrame(plain["data"], plain.get("index"), plain["columns"])
    columns = {name: value for name, value in plain.items() if not np.isscalar(value)}
    if len(columns) < least:
        return None
    if all(isinstance(value, Mapping) for value in columns.values()):
        frame = pd.DataFrame(columns)
        is_row_each = len(frame.columns) > len(frame) and len(frame) < 3 * LEAST_ROW
        return frame.T if is_row_each else frame
    sizes = {len(value) for value in columns.values() if hasattr(value, "__len__")}
    if all(hasattr(value, "__len__") for value in columns.values()) and len(sizes) == 1:
        if any(isinstance(value, Mapping) for value in columns.values()):
            return None
        inner = [value[0] for value in map(list, columns.values()) if len(value)]
        if any(isinstance(value, (Mapping, list, tuple)) for value in inner):
            return None
        return pd.DataFrame({name: list(value) for name, value in columns.items()})
    return None
