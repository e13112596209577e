"""The candle schema: one reader of columns and times, one validator, for every entry into the system.

A frame of candles has the columns `timestamp` (open time, datetime64[ms, UTC]), `open`, `high`, `low`, `close`,
`volume` (float64), in time order, and may carry `funding_rate` and `open_interest`, joined as of publication.
"""

from __future__ import annotations

import difflib
import logging

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

PRICE_COLUMNS = ("open", "high", "low", "close")
CANDLE_COLUMNS = ("timestamp", *PRICE_COLUMNS, "volume")
OPTIONAL_COLUMNS = ("funding_rate", "open_interest")
TIME_NAMES = ("timestamp", "open_time", "date", "datetime")

TIMEFRAME_MS = {
    "1m": 60_000, "3m": 180_000, "5m": 300_000, "15m": 900_000, "30m": 1_800_000,
    "1h": 3_600_000, "2h": 7_200_000, "4h": 14_400_000, "6h": 21_600_000, "8h": 28_800_000, "12h": 43_200_000,
    "1d": 86_400_000,
}  # fmt: skip

MAX_BRIDGED_GAP = 6
"""Indicators run on across gaps of at most this many missing candles and restart after longer ones."""

MAX_AGE_IN_INTERVALS = 2
"""A published value (funding, open interest) older than this many publication intervals is stale."""


def timeframe_ms(timeframe: str) -> int:
    """Length of a candle in milliseconds.

    Raises:
        ValueError: The timeframe is not one of `TIMEFRAME_MS`.

    Example:
        >>> timeframe_ms("1h")
        3600000
    """
    if timeframe not in TIMEFRAME_MS:
        raise ValueError(f"unknown timeframe {timeframe!r}; use one of {', '.join(TIMEFRAME_MS)}")
    return TIMEFRAME_MS[timeframe]


def timestamps_ms(candles: pd.DataFrame) -> np.ndarray:
    """Open times as (n,) int64 milliseconds since 1970 UTC."""
    return candles["timestamp"].dt.tz_localize(None).to_numpy("datetime64[ms]").astype(np.int64)


def utc_from_ms(milliseconds: np.ndarray) -> pd.Series:
    """Series of datetime64[ms, UTC] from (n,) integer milliseconds since 1970."""
    return pd.Series(np.asarray(milliseconds).astype("datetime64[ms]")).dt.tz_localize("UTC")


def read_candles(frame: pd.DataFrame, timeframe: str | None = None, *, where: str = "candles") -> pd.DataFrame:
    """Bring a user's frame into the schema and validate it; the one door for candles from anywhere.

    Args:
        frame: Columns as in the schema; the time column may also be called `open_time`, `date` or `datetime` and hold
            epoch seconds, milliseconds, microseconds, nanoseconds, ISO strings or datetimes. Other columns are ignored.
        timeframe: Length of a candle such as "1h"; None accepts any spacing.
        where: What to call these candles in errors, such as a file's name.

    Returns:
        New frame in the schema, with a RangeIndex.

    Raises:
        ValueError: Anything `validate_candles` refuses, a missing column, text among numbers, unreadable times.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"{where}: a pandas DataFrame is needed, not {type(frame).__name__}")
    time_name = _find_time_column(frame, where)
    missing = [name for name in CANDLE_COLUMNS[1:] if name not in frame.columns]
    if missing:
        close = {name: difflib.get_close_matches(name, [str(c).lower() for c in frame.columns], 1) for name in missing}
        hint = "; ".join(f"is {found[0]!r} meant for {name!r}?" for name, found in close.items() if found)
        raise ValueError(
            f"{where}: column {', '.join(map(repr, missing))} missing among {list(map(str, frame.columns))}; "
            + (hint or f"rename the columns to {', '.join(CANDLE_COLUMNS)}")
        )
    columns = {"timestamp": parse_times(frame[time_name], where=f"{where}, column {time_name!r}").array}
    for name in (*CANDLE_COLUMNS[1:], *OPTIONAL_COLUMNS):
        if name in frame.columns:
            columns[name] = _parse_numbers(frame[name], where=f"{where}, column {name!r}")
    candles = pd.DataFrame(columns)
    validate_candles(candles, timeframe, where=where)
    return candles


def validate_candles(candles: pd.DataFrame, timeframe: str | None = None, *, where: str = "candles") -> None:
    """Raise a ValueError that says what, where, how many and what to do, unless the frame is sound.

    Sound is: not empty; times in order, unique, on the timeframe's grid; prices finite and positive; volume finite and
    not negative; low <= open, close <= high. Gaps are no error here: `find_gaps` reports them.
    """
    if len(candles) == 0:
        raise ValueError(f"{where}: there are no candles; pass at least one row")
    times = timestamps_ms(candles)
    steps = np.diff(times)
    _refuse(steps < 0, candles.iloc[1:], where, "times that run backwards", "sort by 'timestamp'")
    _refuse(steps == 0, candles.iloc[1:], where, "duplicate times", "drop_duplicates('timestamp') or mend the source")
    if timeframe is not None:
        off_grid = times % timeframe_ms(timeframe) != 0
        _refuse(off_grid, candles, where, f"times off the {timeframe} grid", "pass candles of that timeframe, UTC")
    for name in (*PRICE_COLUMNS, "volume"):
        values = candles[name].to_numpy()
        _refuse(np.isnan(values), candles, where, f"NaN in {name!r}", "drop or mend the rows", name)
        _refuse(np.isinf(values), candles, where, f"infinite values in {name!r}", "mend the source", name)
        wrong = values < 0 if name == "volume" else values <= 0
        kind = "negative" if name == "volume" else "non-positive"
        _refuse(wrong, candles, where, f"{kind} values in {name!r}", "mend the source", name)
    for name in OPTIONAL_COLUMNS:
        if name in candles.columns:
            _refuse(np.isinf(candles[name].to_numpy()), candles, where, f"infinite values in {name!r}", "mend it", name)
    open_, high, low, close = (candles[name].to_numpy() for name in PRICE_COLUMNS)
    body_high, body_low = np.maximum(open_, close), np.minimum(open_, close)
    _refuse(high < low, candles, where, "high below low", "are 'high' and 'low' swapped?", "high")
    _refuse(high < body_high, candles, where, "high below open or close", "mend the source", "high")
    _refuse(low > body_low, candles, where, "low above open or close", "mend the source", "low")


def infer_timeframe(candles: pd.DataFrame, *, where: str = "candles") -> str:
    """Name of the timeframe whose length is the most frequent step between candles."""
    steps = np.diff(timestamps_ms(candles))
    if len(steps):
        values, counts = np.unique(steps, return_counts=True)
        most_frequent = int(values[np.argmax(counts)])
        for name, length in TIMEFRAME_MS.items():
            if length == most_frequent:
                return name
    raise ValueError(f"{where}: the timeframe cannot be told from {len(candles)} candles; pass it")


def missing_before(times: np.ndarray, step_ms: int) -> np.ndarray:
    """Number of candles missing right before each candle, (n,) int64; 0 where the series runs on.

    Example:
        >>> missing_before(np.array([0, 1, 2, 5]), 1)
        array([0, 0, 0, 2])
    """
    missing = np.zeros(len(times), dtype=np.int64)
    missing[1:] = np.diff(times) // step_ms - 1
    return missing


def find_gaps(times: np.ndarray, step_ms: int) -> pd.DataFrame:
    """One row per gap: `after` (ms, the last candle before it) and `missing` (candles)."""
    missing = missing_before(times, step_ms)
    after_gap = np.flatnonzero(missing > 0)
    return pd.DataFrame({"after": times[after_gap - 1], "missing": missing[after_gap]})


def segment_starts(times: np.ndarray, step_ms: int) -> np.ndarray:
    """Rows at which indicators start afresh: 0 and every row after a gap of more than `MAX_BRIDGED_GAP` candles."""
    return np.concatenate([[0], np.flatnonzero(missing_before(times, step_ms) > MAX_BRIDGED_GAP)])


def join_published(candles: pd.DataFrame, published: pd.DataFrame, column: str, timeframe: str) -> pd.DataFrame:
    """Add `column` with the value last published strictly before each candle's close, NaN where it is stale.

    Args:
        candles: Frame in the schema.
        published: `timestamp` (instant of publication) and `column`, in time order.
        column: Name of the value, `funding_rate` or `open_interest`.
        timeframe: Of the candles; the close is the open time plus its length.

    Returns:
        Copy of the candles with the column. A value counts for at most `MAX_AGE_IN_INTERVALS` of the series' own
        median interval after its publication.
    """
    published_at = timestamps_ms(published)
    closes = timestamps_ms(candles) + timeframe_ms(timeframe)
    values = np.full(len(candles), np.nan)
    if len(published_at):
        last = np.searchsorted(published_at, closes, side="left") - 1  # strictly before the close
        known = last >= 0
        interval = float(np.median(np.diff(published_at))) if len(published_at) > 1 else float(timeframe_ms(timeframe))
        fresh = known & (closes - published_at[last] <= MAX_AGE_IN_INTERVALS * interval)
        values[fresh] = published[column].to_numpy(dtype=np.float64)[last[fresh]]
    return candles.assign(**{column: values})


def parse_times(column: pd.Series, *, where: str) -> pd.Series:
    """Series of datetime64[ms, UTC] from epoch numbers (unit told by magnitude), ISO text or datetimes.

    Times without a zone are UTC. Epoch seconds, ms, µs and ns of the years 1973 to 2286 do not overlap, so the
    magnitude tells them apart without a guess.
    """
    if pd.api.types.is_bool_dtype(column):
        raise ValueError(f"{where}: {column.iloc[0]!r} is not a time; pass epoch milliseconds or ISO dates")
    numeric = column if pd.api.types.is_numeric_dtype(column) else pd.to_numeric(column, errors="coerce")
    if not pd.api.types.is_datetime64_any_dtype(column) and numeric.notna().all() and len(column):
        largest = float(numeric.abs().max())
        if not np.isfinite(largest):
            raise ValueError(f"{where}: infinite times; mend the source")
        unit = next((u for u, bound in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if largest < bound), "ns")
        parsed = pd.to_datetime(numeric.astype(np.int64), unit=unit, utc=True)
    else:
        if pd.api.types.is_numeric_dtype(column):
            row = int(np.argmax(column.isna().to_numpy()))
            raise ValueError(f"{where}: no time in row {row}; drop or mend the row")
        parsed = pd.to_datetime(column, utc=True, errors="coerce")
    bad = parsed.isna().to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{where}: {int(bad.sum())} unreadable time(s), first {column.iloc[row]!r} in row {row}; "
            "use epoch seconds, ms or µs, or ISO dates such as 2024-01-31 15:00"
        )
    return parsed.astype("datetime64[ms, UTC]")


def _find_time_column(frame: pd.DataFrame, where: str) -> str:
    found = [name for name in TIME_NAMES if name in frame.columns]
    if found:
        return found[0]
    remedy = (
        "call reset_index() and name it 'timestamp'"
        if isinstance(frame.index, pd.DatetimeIndex)
        else (f"name the candles' open time one of {', '.join(TIME_NAMES)}")
    )
    raise ValueError(f"{where}: column 'timestamp' missing among {list(map(str, frame.columns))}; {remedy}")


def _parse_numbers(column: pd.Series, *, where: str) -> np.ndarray:
    numbers = pd.to_numeric(column, errors="coerce")
    text = numbers.isna().to_numpy() & column.notna().to_numpy()
    if text.any():
        row = int(np.argmax(text))
        raise ValueError(
            f"{where}: {int(text.sum())} value(s) that are not numbers, first {column.iloc[row]!r} in row {row}; "
            "remove the text, use a point as decimal sign and no thousands separators"
        )
    return np.ascontiguousarray(numbers.to_numpy(dtype=np.float64))


def _refuse(bad: np.ndarray, rows: pd.DataFrame, where: str, what: str, remedy: str, column: str | None = None) -> None:
    """Raise if any row is bad, naming the first one."""
    if bad.any():
        first = rows.iloc[int(np.argmax(bad))]
        value = "" if column is None else f" ({column} = {first[column]:g})"
        raise ValueError(
            f"{where}: {what} in {int(bad.sum())} row(s), first at {first['timestamp']:%Y-%m-%d %H:%M}{value}; {remedy}"
        )
