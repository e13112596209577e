"""The candle schema: columns and times as every part of the system has them, and their checks.

A frame of candles has the columns `timestamp` (open time, datetime64[ms, UTC]), `open`, `high`,
`low`, `close`, `volume` (float64), in time order. It may carry `funding_rate` and `open_interest`,
joined as of publication, and `ACTIVITY_COLUMNS`, where its source has them. A published series has
`timestamp` (instant of publication) and one value.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import logging
import re
import time
from collections.abc import Callable

import numpy as np
import pandas as pd

logger = logging.getLogger(__name__)

PRICE_COLUMNS = ("open", "high", "low", "close")
CANDLE_COLUMNS = ("timestamp", *PRICE_COLUMNS, "volume")
PUBLISHED = {"funding": "funding_rate", "open_interest": "open_interest"}
"""Kind of a published series, which names its file, and the column it holds."""
ACTIVITY_COLUMNS = ("quote_volume", "trades", "taker_buy_volume")
"""A candle's volume in the quote currency, its number of trades, and its volume bought by takers"""
OPTIONAL_COLUMNS = (*PUBLISHED.values(), *ACTIVITY_COLUMNS)
TIME_NAMES = ("timestamp", "open_time", "date", "datetime")

MINUTES = {
    "1m": 1,
    "3m": 3,
    "5m": 5,
    "10m": 10,
    "15m": 15,
    "30m": 30,
    "45m": 45,
    "1h": 60,
    "2h": 120,
}
MINUTES |= {"3h": 180, "4h": 240, "6h": 360, "8h": 480, "12h": 720, "1d": 1440}
MINUTES |= {"3d": 4320, "1w": 10_080}
DAY_MS = 86_400_000
TIMEFRAME_MS = {timeframe: 60_000 * minutes for timeframe, minutes in MINUTES.items()}

UNITS = dict.fromkeys(["", *"m min mins minute minutes".split()], 1)
UNITS |= dict.fromkeys("h hr hrs hour hours hourly".split(), 60)
UNITS |= dict.fromkeys("d day days daily".split(), 1440)
UNITS |= dict.fromkeys("w wk week weeks weekly".split(), 10_080)
MONTH = "1M"
MONTHS = ("M", "mo", "mon", "month", "months", "monthly")
"""Units of time as people spell them, and their minutes; a month has no length of its own."""

EPOCH_UNITS = ("s", "ms", "us", "ns")
EPOCH_BOUNDS = np.array([1e8, 1e11, 1e14, 1e17, 9.2e18])
"""Counts from one bound up to the next are in that unit: from 1973-03-03 on, before any candle."""

EARLIEST, LATEST = np.datetime64("1678-01-01", "s"), np.datetime64("2262-01-01", "s")
"""The whole years that pandas counts in nanoseconds."""

TIME_REMEDY = "use epoch seconds, ms or µs, or ISO dates such as 2024-01-31 15:00"

MAX_BRIDGED_GAP = 6
"""Indicators run on across gaps of at most this many candles and restart after longer ones."""

MAX_OFF_GRID_SHARE = 0.1
"""With more of the rows off the grid, the timeframe or the time zone is wrong."""

MAX_WIDENING = 1.1
"""An open or close above this many times the high, or as far below the low, is an error."""

MAX_AGE_IN_INTERVALS = 2
"""A published value older than this many publication intervals is stale."""

FIRST_INTERVAL_MS = {"funding_rate": 8 * 3_600_000, "open_interest": 3_600_000}
"""A published series' interval before a second value is known: what exchanges began with."""

INTERVAL_STEPS = 9
"""Steps whose median is a published series' interval there; exchanges change theirs at times."""


def canonical_timeframe(text: object) -> str:
    """A timeframe as this project spells it, however people do: "60m", "1H", "60", "D", "1mo".

    A bare number is of minutes, as on Kraken and TradingView. M is a month, m a minute.

    Raises:
        ValueError: It is none of `TIMEFRAME_MS` and no month.

    Example:
        >>> canonical_timeframe("60"), canonical_timeframe("1D"), canonical_timeframe("1mo")
        ('1h', '1d', '1M')
    """
    if isinstance(text, str) and text in TIMEFRAME_MS:
        return text
    found = re.fullmatch(r"(\d{0,5})\s*([A-Za-z]*)", text) if isinstance(text, str) else None
    if found and (found[1] or found[2]):
        number, unit = int(found[1] or 1), found[2]
        name = unit if unit == "M" else unit.lower()
        if name in MONTHS and number == 1:
            return MONTH
        minutes = UNITS.get(name, 0)
        of_length = {length: timeframe for timeframe, length in MINUTES.items()}
        if number * minutes in of_length:
            return of_length[number * minutes]
    raise ValueError(f"unknown timeframe {text!r}; use one of {', '.join(TIMEFRAME_MS)}")


@functools.cache
def timeframe_ms(timeframe: str) -> int:
    """Length of a candle in milliseconds.

    Raises:
        ValueError: The timeframe is not one of `TIMEFRAME_MS`, however spelt.

    Example:
        >>> timeframe_ms("1h")
        3600000
    """
    name = canonical_timeframe(timeframe)
    if name == MONTH:
        raise ValueError(
            "1M candles are not all of one length: they can be read and audited, but not trained "
            f"on or forecast; use one of {', '.join(TIMEFRAME_MS)}"
        )
    return TIMEFRAME_MS[name]


def off_grid(times: np.ndarray, timeframe: str) -> np.ndarray:
    """Where times are no opens of such candles, (n,) bool, from (n,) int64 ms since 1970 UTC.

    Candles of several days begin at a midnight, and on the day that most of them do: weeks on
    Monday on most exchanges, on Thursday on Kraken. Months begin on their first day.

    Example:
        >>> off_grid(np.array([0, 3_600_000, 5_400_000]), "1h")
        array([False, False,  True])
    """
    if canonical_timeframe(timeframe) == MONTH:
        days = times.astype("datetime64[ms]")
        return np.asarray(days != days.astype("datetime64[M]").astype("datetime64[ms]"))
    step_ms = timeframe_ms(timeframe)
    if step_ms <= DAY_MS or len(times) == 0:
        return np.asarray(times % step_ms != 0)
    phases, counts = np.unique(times % step_ms, return_counts=True)
    phase = phases[np.argmax(counts)]
    return np.asarray((times % step_ms != phase) | (times % DAY_MS != 0))


def timestamps_ms(candles: pd.DataFrame) -> np.ndarray:
    """Open times as (n,) int64 milliseconds since 1970 UTC."""
    return candles["timestamp"].to_numpy("datetime64[ms]").astype(np.int64)


def utc_from_ms(milliseconds: np.ndarray) -> pd.Series:
    """Series of datetime64[ms, UTC] from (n,) integer milliseconds since 1970."""
    return pd.Series(np.asarray(milliseconds).astype("datetime64[ms]")).dt.tz_localize("UTC")


def read_candles(
    frame: pd.DataFrame,
    timeframe: str | None = None,
    *,
    where: str = "candles",
    is_whole: bool = True,
    tell: Callable[[str], object] = logger.warning,
) -> pd.DataFrame:
    """Bring a user's frame into the schema and validate it; the one door for candles from anywhere.

    Two faults of real exchanges are mended, each with one notice. Candles off the grid, of which
    there may be a small share, are left out as a gap. Where open or close lie a little outside
    low..high, low..high is widened to hold them.

    Args:
        frame: Columns as in the schema; the time column may also be called `open_time`, `date` or
            `datetime` (the first of these that is there counts) and hold what `parse_times` reads.
            Other columns are ignored. Not changed.
        timeframe: Length of a candle such as "1h"; None accepts any spacing.
        where: What to call these candles in errors, such as a file's name.
        is_whole: Whether this is a series and not a part of one, whose candles may all lie apart.
        tell: Called with the text of each notice.

    Returns:
        New frame in the schema, with a RangeIndex.

    Raises:
        ValueError: Anything `validate_candles` refuses, a missing column, text among numbers,
            unreadable times.
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(
            f"{where}: a pandas DataFrame is needed, not {type(frame)}; build one with "
            "pd.DataFrame(...)"
        )
    time_name = _find_columns(frame, where)
    times = parse_times(frame[time_name], where=f"{where}, column {time_name!r}")
    columns = {"timestamp": times.array.copy()}
    for name in (*CANDLE_COLUMNS[1:], *OPTIONAL_COLUMNS):
        if name in frame.columns:
            columns[name] = parse_numbers(frame[name], where=f"{where}, column {name!r}")
    candles = pd.DataFrame(columns, copy=False)
    if timeframe is not None:
        candles = _on_grid(candles, timeframe, where, tell)
    _widen_ranges(candles, where, tell)
    validate_candles(candles, timeframe, where=where, is_whole=is_whole)
    return candles


def _on_grid(
    candles: pd.DataFrame, timeframe: str, where: str, tell: Callable[[str], object]
) -> pd.DataFrame:
    """The candles on the grid; raises where too many are off it."""
    is_off = off_grid(timestamps_ms(candles), timeframe)
    n_off = int(is_off.sum())
    if n_off == 0:
        return candles
    if n_off > MAX_OFF_GRID_SHARE * len(candles):
        remedy = "pass candles of that timeframe, UTC"
        _refuse(where, candles, is_off, f"times off the {timeframe} grid", remedy)
    first = candles["timestamp"].iloc[int(np.argmax(is_off))]
    tell(
        f"{where}: {n_off} of {len(candles)} candle(s) off the {timeframe} grid are left out as a "
        f"gap, first {first:%Y-%m-%d %H:%M:%S}; get them from another source to fill it"
    )
    return candles[~is_off].reset_index(drop=True)


def _widen_ranges(candles: pd.DataFrame, where: str, tell: Callable[[str], object]) -> None:
    """Widen low..high in place where open or close lie a little outside."""
    values = [candles[name].to_numpy() for name in PRICE_COLUMNS]
    high, low, is_widened = widen(*values)
    if not is_widened.any():
        return
    first = candles.iloc[int(np.argmax(is_widened))]
    shown = ", ".join(f"{name} {first[name]:g}" for name in PRICE_COLUMNS)
    tell(
        f"{where}: low..high of {int(is_widened.sum())} of {len(candles)} candle(s) is widened to "
        f"hold open and close, first at {first['timestamp']:%Y-%m-%d %H:%M} ({shown}); if the "
        "exchange's open is not the close before, check the source"
    )
    candles["high"], candles["low"] = high, low


def widen(
    open_: np.ndarray, high: np.ndarray, low: np.ndarray, close: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """High, low, and where they were widened, (n,) each, so that low..high holds open and close.

    On BitMEX a candle's open is the close before, at which nobody may have traded within it. What
    lies outside by a factor of more than `MAX_WIDENING`, or cannot be mended so, stays as it is.

    Example:
        >>> high, low, is_widened = widen(*np.array([[9.9, 20.0], [12, 12], [10, 10], [11, 11]]))
        >>> high, low, is_widened
        (array([12., 12.]), array([ 9.9, 10. ]), array([ True, False]))
    """
    is_outside = (high < open_) | (high < close) | (low > open_) | (low > close)
    if not is_outside.any():
        return high, low, is_outside
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    is_candle = (low > 0) & (low <= high)
    is_little = (top / MAX_WIDENING <= high) & (low / MAX_WIDENING <= bottom)
    is_widened = is_outside & is_candle & is_little
    high = np.where(is_widened, np.maximum(high, top), high)
    low = np.where(is_widened, np.minimum(low, bottom), low)
    return high, low, is_widened


def validate_candles(
    candles: pd.DataFrame,
    timeframe: str | None = None,
    *,
    where: str = "candles",
    is_whole: bool = True,
) -> None:
    """Raise a ValueError that says what, where, how many and what to do, unless candles are sound.

    Sound is: not empty; times in order, unique, and not all of a longer timeframe; prices finite
    and positive; volume finite and not negative; low <= open, close <= high. Gaps are
    no error here: `find_gaps` reports them. `read_candles` has checked the grid.
    """
    if len(candles) == 0:
        raise ValueError(f"{where}: there are no candles; pass at least one row")
    refuse = functools.partial(_refuse, where, candles)
    times = timestamps_ms(candles)
    steps = np.diff(times, prepend=times[0] - 1)
    refuse(steps < 0, "times that run backwards", "sort by 'timestamp'")
    refuse(steps == 0, "duplicate times", "drop_duplicates('timestamp') or mend the source")
    has_length = timeframe is not None and canonical_timeframe(timeframe) != MONTH
    if timeframe is not None and has_length and is_whole and len(times) > 2:
        closest_ms = steps[1:].min()
        if closest_ms > timeframe_ms(timeframe):
            raise ValueError(
                f"{where}: no two of {len(candles)} candles are {timeframe} apart, the closest are "
                f"{closest_ms / 60_000:g} min; pass candles of that timeframe, or name theirs"
            )
    for name in CANDLE_COLUMNS[1:]:
        values = candles[name].to_numpy()
        refuse(np.isnan(values), f"NaN in {name!r}", "drop or mend the rows", name)
        refuse(np.isinf(values), f"infinite values in {name!r}", "mend the source", name)
        wrong = values < 0 if name == "volume" else values <= 0
        kind = "negative" if name == "volume" else "non-positive"
        refuse(wrong, f"{kind} values in {name!r}", "mend the source", name)
    for name in OPTIONAL_COLUMNS:
        if name in candles.columns:
            values = candles[name].to_numpy()
            refuse(np.isinf(values), f"infinite values in {name!r}", "mend it", name)
            if name in ACTIVITY_COLUMNS:
                refuse(values < 0, f"negative values in {name!r}", "mend it", name)
    open_, high, low, close = (candles[name].to_numpy() for name in PRICE_COLUMNS)
    refuse(high < low, "high below low", "are 'high' and 'low' swapped?", "high")
    is_below, is_above = (high < open_) | (high < close), (low > open_) | (low > close)
    refuse(is_below, "high below open or close", "mend the source", "high")
    refuse(is_above, "low above open or close", "mend the source", "low")


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


def read_rows(rows: pd.DataFrame, kind: str, where: str, *, is_whole: bool = True) -> pd.DataFrame:
    """Rows of a series of some kind in the schema.

    Args:
        rows: Candles as `read_candles` takes them, or `timestamp` and the published column.
        kind: A timeframe, "funding" or "open_interest".
        where: What to call the rows in errors.
        is_whole: Whether this is a series and not a part of one, whose candles may all lie apart.

    Raises:
        ValueError: The rows are unsound.
    """
    if kind in PUBLISHED:
        return check_published(rows, PUBLISHED[kind], where)
    return read_candles(rows, kind, where=where, is_whole=is_whole)


def drop_forming(
    candles: pd.DataFrame, timeframe: str, *, now_ms: int | None = None
) -> pd.DataFrame:
    """Candles that have closed by `now_ms` (epoch ms; the clock's time by default)."""
    now = time.time() * 1000 if now_ms is None else now_ms
    is_closed = timestamps_ms(candles) + timeframe_ms(timeframe) <= now
    return candles if is_closed.all() else candles[is_closed]


def missing_before(times: np.ndarray, step_ms: int) -> np.ndarray:
    """Number of candles missing right before each candle, (n,) int64; 0 where the series runs on.

    Example:
        >>> missing_before(np.array([0, 1, 2, 5]), 1)
        array([0, 0, 0, 2])
    """
    missing = np.zeros(len(times), dtype=np.int64)
    missing[1:] = np.diff(times) // step_ms - 1
    return missing


def count_missing(times: np.ndarray, kind: str) -> np.ndarray:
    """Rows missing right before each row of a series of some kind, (n,) int64, from (n,) ms.

    Example:
        >>> hours = np.array([0, 8, 16, 32, 40, 44, 48, 52, 56])  # one is left out
        >>> count_missing(hours * 3_600_000, "funding")
        array([0, 0, 0, 1, 0, 0, 0, 0, 0])
    """
    if kind not in PUBLISHED:
        return missing_before(times, timeframe_ms(kind))
    steps = pd.Series(np.diff(times), dtype=np.float64)
    interval = steps.rolling(INTERVAL_STEPS, center=True, min_periods=1).median()
    missing = np.zeros(len(times), dtype=np.int64)
    missing[1:] = np.maximum(np.rint(steps / interval) - 1, 0)
    return missing


def find_gaps(times: np.ndarray, step_ms: int) -> pd.DataFrame:
    """One row per gap: `after` (ms, the last candle before it) and `missing` (candles)."""
    missing = missing_before(times, step_ms)
    after_gap = np.flatnonzero(missing > 0)
    return pd.DataFrame({"after": times[after_gap - 1], "missing": missing[after_gap]})


def segment_starts(times: np.ndarray, step_ms: int) -> np.ndarray:
    """Rows at which indicators start afresh: 0, and those after gaps beyond `MAX_BRIDGED_GAP`."""
    return np.concatenate([[0], np.flatnonzero(missing_before(times, step_ms) > MAX_BRIDGED_GAP)])


def join_published(
    candles: pd.DataFrame, published: pd.DataFrame, column: str, timeframe: str
) -> pd.DataFrame:
    """Add the value last published strictly before each candle's close, NaN where it is stale.

    Args:
        candles: Frame in the schema.
        published: `timestamp` (instant of publication) and `column`, in time order.
        column: Name of the value, `funding_rate` or `open_interest`.
        timeframe: Of the candles; the close is the open time plus its length.

    Returns:
        Copy of the candles with the column. A value counts for at most `MAX_AGE_IN_INTERVALS` of
        the series' interval after its publication: the median of the last `INTERVAL_STEPS` steps by
        then, and for the first value, by which none is known, `FIRST_INTERVAL_MS`, at least a
        candle.
    """
    published_at = timestamps_ms(published)
    closes = timestamps_ms(candles) + timeframe_ms(timeframe)
    values = np.full(len(candles), np.nan)
    if len(published_at):
        last = np.searchsorted(published_at, closes, side="left") - 1  # strictly before the close
        steps = pd.Series(np.diff(published_at), dtype=np.float64)
        known = steps.rolling(INTERVAL_STEPS, min_periods=1).median()
        first = max(FIRST_INTERVAL_MS[column], timeframe_ms(timeframe))
        interval = np.concatenate([[first], known])
        age = closes - published_at[last]
        fresh = (last >= 0) & (age <= MAX_AGE_IN_INTERVALS * interval[last])
        values[fresh] = published[column].to_numpy(dtype=np.float64)[last[fresh]]
    return candles.assign(**{column: values})


def instant_ms(instant: str | float | datetime.datetime | None, name: str) -> int | None:
    """Epoch ms of an instant that a person wrote; None stays None.

    Args:
        instant: A datetime, ISO text or an epoch count; UTC unless it says else.
        name: What to call it in errors.

    Raises:
        ValueError: It cannot be read.
    """
    if instant is None:
        return None
    times = parse_times(pd.Series([instant]), where=name)
    return int(timestamps_ms(times.to_frame("timestamp"))[0])


def parse_times(column: pd.Series, *, where: str) -> pd.Series:
    """Read instants, without guessing.

    Args:
        column: Epoch seconds, ms, µs or ns, as numbers or as text (their magnitude tells them
            apart, see `EPOCH_BOUNDS`), ISO 8601 text in any mixture of its forms, or datetimes.
            What names no zone is UTC.
        where: What to call the column in errors.

    Returns:
        Series of datetime64[ms, UTC]; what is finer than a millisecond is cut off.

    Raises:
        ValueError: A time is absent or unreadable, or the column mixes units, or numbers with text.
    """
    if len(column) == 0:
        return utc_from_ms(np.empty(0, dtype=np.int64))
    if column.dtype.kind in "bcm":
        raise ValueError(f"{where}: values of type {column.dtype} are no times; {TIME_REMEDY}")
    absent = column.isna().to_numpy()
    if absent.any():
        raise ValueError(
            f"{where}: no time in {int(absent.sum())} row(s), first in row "
            f"{int(np.argmax(absent))}; drop or mend them"
        )
    if column.dtype.kind == "M":
        _demand_years(column, where)
    if column.dtype == "datetime64[ms, UTC]":
        return column
    is_number = np.zeros(len(column), dtype=bool)
    form = None
    if column.dtype.kind != "M":
        numbers = _as_numbers(column)
        is_number = ~np.isnan(numbers)
        form = "ISO8601"  # no other: 05/12/2024 is in May here and in December there
        if is_number.all():
            return _parse_epoch(numbers, where)
    if is_number.any():
        first, other = int(np.argmax(is_number)), int(np.argmin(is_number))
        raise ValueError(
            f"{where}: numbers and other values are mixed, {column.iloc[first]!r} in row {first} "
            f"and {column.iloc[other]!r} in row {other}; {TIME_REMEDY} throughout"
        )
    parsed = pd.to_datetime(column, utc=True, errors="coerce", format=form)
    bad = parsed.isna().to_numpy()
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{where}: {int(bad.sum())} unreadable time(s), first {column.iloc[row]!r} in row "
            f"{row}; {TIME_REMEDY}"
        )
    _demand_years(parsed, where)
    return parsed.astype("datetime64[ms, UTC]")


def _demand_years(times: pd.Series, where: str) -> None:
    """Raise on times that no candle has and that pandas cannot print."""
    seconds = times.to_numpy("datetime64[s]")
    if seconds.min() >= EARLIEST and seconds.max() < LATEST:
        return
    is_out = (seconds < EARLIEST) | (seconds >= LATEST)
    row = int(np.argmax(is_out))
    raise ValueError(
        f"{where}: {int(is_out.sum())} time(s) before 1678 or after 2261, first {seconds[row]} in "
        f"row {row}; {TIME_REMEDY}"
    )


def parse_numbers(column: pd.Series, *, where: str, copy: bool = True) -> np.ndarray:
    """(n,) float64 from numbers or their text, NaN for absent values.

    Args:
        column: The values.
        where: What to call the column in errors.
        copy: Whether the result may not share the column's memory.

    Raises:
        ValueError: There is other text, or a boolean.
    """
    # the usual case, ten times as fast
    if isinstance(column.dtype, np.dtype) and column.dtype.kind == "f":
        return column.to_numpy(dtype=np.float64, copy=copy)
    numbers = _as_numbers(column).astype(np.float64)
    text = np.isnan(numbers) & column.notna().to_numpy()
    if text.any():
        row = int(np.argmax(text))
        raise ValueError(
            f"{where}: {int(text.sum())} value(s) that are not numbers, first {column.iloc[row]!r} "
            f"in row {row}; remove the text, use a point as decimal sign and no thousands "
            "separators"
        )
    return numbers


def _as_numbers(column: pd.Series) -> np.ndarray:
    """(n,) int64 or float64, NaN where there is no number: text, nothing, a boolean, a datetime."""
    if column.dtype.kind in "bcmM":
        return np.full(len(column), np.nan)
    try:
        numbers = pd.to_numeric(column, errors="coerce")
    except OverflowError:  # an integer of hundreds of digits
        numbers = pd.to_numeric(column.astype("string"), errors="coerce")
    if column.dtype.kind == "i" and numbers.notna().all():
        return numbers.to_numpy(dtype=np.int64)
    values = numbers.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    if column.dtype.kind == "O":  # a boolean among objects is 1 to pandas
        values[[isinstance(value, (bool, np.bool_)) for value in column]] = np.nan
    return values


def _parse_epoch(numbers: np.ndarray, where: str) -> pd.Series:
    """Series of datetime64[ms, UTC] from counts of one unit; float64 is exact to a microsecond."""
    rank = np.searchsorted(EPOCH_BOUNDS, numbers, side="right") - 1
    impossible = (rank < 0) | (rank >= len(EPOCH_UNITS))
    if impossible.any():
        row = int(np.argmax(impossible))
        raise ValueError(
            f"{where}: {int(impossible.sum())} number(s) that are no epoch time, first "
            f"{numbers[row]} in row {row}; {TIME_REMEDY}"
        )
    other = rank != rank[0]
    if other.any():
        row = int(np.argmax(other))
        raise ValueError(
            f"{where}: epoch {EPOCH_UNITS[rank[0]]} and {EPOCH_UNITS[rank[row]]} are mixed, "
            f"{numbers[0]} in row 0 and {numbers[row]} in row {row}; use one unit"
        )
    unit = EPOCH_UNITS[rank[0]]
    if numbers.dtype.kind == "f":
        numbers = np.rint(numbers * 1000.0 ** (2 - rank[0])).astype(np.int64)
        unit = "us"
    return utc_from_ms(numbers.astype(f"datetime64[{unit}]").astype("datetime64[ms]"))


def _find_columns(frame: pd.DataFrame, where: str) -> str:
    """Name of the time column; raises where a column of the schema is missing or there twice."""
    if frame.columns.nlevels > 1:
        raise ValueError(
            f"{where}: the column names have {frame.columns.nlevels} levels, first "
            f"{frame.columns[0]}; pass one symbol's columns with plain names"
        )
    found = [name for name in TIME_NAMES if name in frame.columns]
    missing = [] if found else ["timestamp"]
    missing += [name for name in CANDLE_COLUMNS[1:] if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{where}: column {', '.join(map(repr, missing))} missing among "
            f"{list(map(str, frame.columns))}; {_rename_remedy(frame, missing)}"
        )
    wanted = () if frame.columns.is_unique else (found[0], *CANDLE_COLUMNS[1:], *OPTIONAL_COLUMNS)
    for name in wanted:
        count = int((frame.columns == name).sum())
        if count > 1:
            raise ValueError(f"{where}: column {name!r} is there {count} times; keep one of them")
    return found[0]


def _rename_remedy(frame: pd.DataFrame, missing: list[str]) -> str:
    """What to do about missing columns: rename those that look alike, or take the index as time."""
    there = {str(name).lower(): str(name) for name in frame.columns}
    renames = {}
    for name in missing:
        for spelling in TIME_NAMES if name == "timestamp" else (name,):
            # "close_time" is no "open_time"
            for alike in difflib.get_close_matches(spelling, there, 1, cutoff=0.8):
                renames[there[alike]] = name
    if renames:
        return f"if they are there under other names: df.rename(columns={renames})"
    if "timestamp" in missing and isinstance(frame.index, pd.DatetimeIndex):
        return "if the index holds the times: df.rename_axis('timestamp').reset_index()"
    others = ", ".join(TIME_NAMES[1:])
    return f"name the columns {', '.join(CANDLE_COLUMNS)}; {others} will do for the time"


def _refuse(
    where: str, rows: pd.DataFrame, bad: np.ndarray, what: str, remedy: str, column: str = ""
) -> None:
    """Raise if any row is bad, naming the first one."""
    if bad.any():
        first = rows.iloc[int(np.argmax(bad))]
        when = str(first["timestamp"].tz_localize(None)).removesuffix(":00")
        value = f" ({column} = {first[column]:g})" if column else ""
        raise ValueError(
            f"{where}: {what} in {int(bad.sum())} row(s), first at {when}{value}; {remedy}"
        )
