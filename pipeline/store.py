"""Candle files: `<SYMBOL>_<timeframe>.parquet` or `.csv`, with `<SYMBOL>_funding.*` and `<SYMBOL>_open_interest.*`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles import join_published, parse_numbers, parse_times, read_candles, timestamps_ms

PUBLISHED = {"funding": "funding_rate", "open_interest": "open_interest"}
"""Kind of a published series, which names its file, and the column it holds."""

# Pandas before 3.1 reads many decimal fractions one bit off unless told not to; from 3.1 on the option is deprecated.
_IS_EXACT = tuple(int(part) for part in pd.__version__.split(".")[:2]) >= (3, 1)
CSV_OPTIONS: dict[str, Any] = {} if _IS_EXACT else {"float_precision": "round_trip"}


def file_name(symbol: str, kind: str, suffix: str = ".parquet") -> str:
    """Name of a series' file.

    Example:
        >>> file_name("BTC/USDT", "1h")
        'BTCUSDT_1h.parquet'
    """
    return f"{symbol.split(':')[0].replace('/', '')}_{kind}{suffix}"


def read_directory(directory: Path, symbol: str, timeframe: str) -> pd.DataFrame:
    """Candles of one symbol with the funding and open interest that lie beside them.

    Raises:
        ValueError: There is no such directory or file (the names at hand are listed), or the file is not sound.
    """
    return read_file(_find_file(directory, symbol, timeframe), timeframe)


def read_file(path: Path, timeframe: str) -> pd.DataFrame:
    """Candles of one file; where its name follows the layout, with the funding and open interest beside it."""
    candles = read_candles(read_table(path), timeframe, where=path.name)
    base = path.stem.removesuffix(f"_{timeframe}")
    if base == path.stem:
        return candles
    for kind, column in PUBLISHED.items():
        beside = next((p for p in _candidates(path.parent, base, kind) if p.is_file()), None)
        if beside is not None and column not in candles.columns:
            candles = join_published(candles, read_published(beside, column), column, timeframe)
    return candles


def read_published(path: Path, column: str) -> pd.DataFrame:
    """Frame of `timestamp` and `column` from a funding or open-interest file, validated."""
    table = read_table(path)
    missing = [name for name in ("timestamp", column) if name not in table.columns]
    if missing:
        raise ValueError(
            f"{path.name}: column {missing[0]!r} missing among {list(map(str, table.columns))}; "
            f"name the columns 'timestamp' and {column!r}"
        )
    times = parse_times(table["timestamp"], where=f"{path.name}, column 'timestamp'")
    values = parse_numbers(table[column], where=f"{path.name}, column {column!r}")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{path.name}, column {column!r}: {values[row]} in row {row} is not finite; drop the row")
    published = pd.DataFrame({"timestamp": times.array, column: values})
    early = np.flatnonzero(np.diff(timestamps_ms(published)) <= 0) + 1
    if len(early):
        raise ValueError(
            f"{path.name}: {len(early)} time(s) unsorted or repeated, first {times.iloc[early[0]]} in row {early[0]}; "
            "sort by 'timestamp' and drop duplicates"
        )
    return published


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet or CSV file as it is; a ValueError names a file that cannot be read as one."""
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, **CSV_OPTIONS)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file; mend the path") from None
    except (OSError, ValueError, LookupError, TypeError, NotImplementedError) as error:  # of damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path}: not a readable {path.suffix[1:]} file ({reason}); fetch or copy it again") from error


def write_candles(candles: pd.DataFrame, directory: Path, symbol: str, timeframe: str) -> Path:
    """Validate candles and write them as Parquet, atomically; returns the path."""
    candles = read_candles(candles, timeframe, where=symbol)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / file_name(symbol, timeframe)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        candles.to_parquet(unfinished, index=False)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def content_sha256(candles: pd.DataFrame) -> str:
    """Hash of the values of a frame of candles, whatever file they came from."""
    digest = hashlib.sha256(",".join(candles.columns).encode())
    for name in candles.columns:
        values = timestamps_ms(candles) if name == "timestamp" else candles[name].to_numpy(dtype=np.float64)
        digest.update(values.tobytes())
    return digest.hexdigest()


def _candidates(directory: Path, symbol: str, kind: str) -> list[Path]:
    return [directory / file_name(symbol, kind, suffix) for suffix in (".parquet", ".csv")]


def _find_file(directory: Path, symbol: str, timeframe: str) -> Path:
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory of candles; mend --candles-dir")
    candidates = _candidates(directory, symbol, timeframe)
    for path in candidates:
        if path.is_file():
            return path
    stems = {p.stem for p in directory.iterdir() if p.suffix in (".parquet", ".csv")}
    at_hand = sorted(stems, key=lambda stem: (not stem.startswith(file_name(symbol, "", "")), stem))  # its own first
    shown = ", ".join(at_hand[:12]) + (f" and {len(at_hand) - 12} more" if len(at_hand) > 12 else "")
    raise ValueError(
        f"{symbol}: no {candidates[0].name} or {candidates[1].name} in {directory}; it holds {shown or 'no candles'}"
    )
