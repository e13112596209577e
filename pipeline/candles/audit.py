"""What files of candles hold, how they were read, and what is wrong with them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.candles import belief, folders, formats, store
from pipeline.candles.recognise import READ_AS
from pipeline.candles.schema import MONTH, PUBLISHED, TIMEFRAME_MS, count_missing, timestamps_ms

logger = logging.getLogger(__name__)

AUDITED = "symbol kind venue rows first last n_gaps missing longest_gap doubtful".split()
AUDITED += ["doubts", "problems", "read_as"]


def audit(directory: Path) -> pd.DataFrame:
    """Read every series of a directory and say what is wrong with it.

    Returns:
        One row a series: symbol, kind, venue ("" if unknown), rows, first, last (NaT without rows),
        n_gaps, missing and longest_gap (candles; of a published series values, by the interval it
        has there), doubtful (candles that are hard to believe), doubts (what is told of them, or
        ""), problems (the error that reading it gives, or ""), read_as (how it was recognised, or
        "" where it is in the schema).
    """
    lines = []
    for series in folders.list_series(directory):
        paths = [series.path]
        if series.venue is None:
            paths = folders.find_files(directory, series.symbol, series.kind) or paths
        lines.append(_audit_series(series, paths))
    return pd.DataFrame(lines, columns=AUDITED)


def audit_file(path: Path, timezone: str | None = None) -> pd.DataFrame:
    """`audit` of one file, whatever it is called; the timeframe is the name's or that of its rows.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; mend the path")
    name = folders.name_of(path)
    notes = store.read_notes(path)
    symbol = notes.get("symbol") or name.symbol or path.name
    series = store.Series(path, symbol, name.kind, notes.get("venue"))
    return pd.DataFrame([_audit_series(series, [path], timezone)], columns=AUDITED)


def _audit_series(
    series: store.Series, paths: Sequence[Path], timezone: str | None = None
) -> list[object]:
    times = np.empty(0, dtype=np.int64)
    kind, doubtful, doubts, problems, read_as = series.kind, 0, "", "", ""
    try:
        if kind in PUBLISHED:
            times = timestamps_ms(formats.read_series(paths, PUBLISHED[kind]))
        else:
            candles = formats.read_parts(paths, kind or None, timezone=timezone, tell=logger.info)
            times, read_as = timestamps_ms(candles), str(candles.attrs.get(READ_AS, ""))
            kind = kind or timeframe_of(times)
            if kind in TIMEFRAME_MS:
                doubtful = len(belief.find_doubtful(candles, kind))
                doubts = belief.doubts_of(candles, kind, series.path.name)
    except ValueError as error:
        problems = str(error)
    gaps = [0, 0, 0]
    if kind in TIMEFRAME_MS or kind in PUBLISHED:
        missing = count_missing(times, kind)
        gaps = [int((missing > 0).sum()), int(missing.sum()), int(missing.max(initial=0))]
    ends = [pd.Timestamp(int(time), unit="ms", tz="UTC") for time in (*times[:1], *times[-1:])]
    first, last = ends or [pd.NaT, pd.NaT]
    origin = [series.symbol, kind, series.venue or ""]
    return [*origin, len(times), first, last, *gaps, doubtful, doubts, problems, read_as]


def timeframe_of(times: np.ndarray) -> str:
    """The timeframe of candles by their commonest distance, from (n,) ms; "" where it is none.

    Example:
        >>> timeframe_of(np.array([0, 1, 2, 5]) * 3_600_000)
        '1h'
    """
    steps, counts = np.unique(np.diff(times), return_counts=True)
    if len(steps) == 0:
        return ""
    step_ms = int(steps[np.argmax(counts)])
    if step_ms in (28 * 86_400_000, 30 * 86_400_000, 31 * 86_400_000):
        return MONTH
    return next((name for name, ms in TIMEFRAME_MS.items() if ms == step_ms), "")
