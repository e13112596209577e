"""Instants as people's files write them: epochs of any unit, ISO, clocks of twelve hours, dates
whose day comes first."""

from __future__ import annotations

import itertools
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.candles.schema import EPOCH_BOUNDS, EPOCH_UNITS, parse_times, utc_from_ms
from pipeline.candles.text_tables import DoubtfulError

CLOCKS = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p", " %I-%p")

PLAIN_DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d")

COMPACT_FORMS = ("%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S")

NAMED_DATES = ("%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b-%d-%Y", "%b %d %Y")

DAY_FIRST = ("%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y")
MONTH_FIRST = ("%m/%d/%Y", "%m.%d.%Y", "%m-%d-%Y")

ZONES = ("America/New_York", "Europe/Berlin", "Australia/Sydney")
"""Zones whose changes of the clocks local times show: of America, Europe and the south"""

UNIT_NAMES = {"s": "s", "ms": "ms", "us": "µs", "ns": "ns"}

COMPACT = re.compile(r"(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(\d{4}(?:\d{2})?)?")
"""20240131, 202401311500 and 20240131150000"""

HOUR_MS = 3_600_000


@dataclass(frozen=True, eq=False)
class Instants:
    """What a column of times says."""

    ms: np.ndarray
    """(n,) int64 milliseconds since 1970 UTC"""
    told: str = ""
    """their form, where it is not the schema's"""
    is_naive: bool = False
    """they name no zone, and none was passed"""


def read_instants(column: pd.Series, *, where: str, timezone: str | None = None) -> Instants:
    """Read a column of times.

    Args:
        column: Epochs whose unit is told row by row, texts, datetimes or periods; none absent.
        where: What to call it in errors.
        timezone: Zone of what names none, such as "Europe/Berlin"; None for UTC.

    Raises:
        DoubtfulError: The times can be read in two ways.
        ValueError: A time cannot be read, or there is no such zone.
    """
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.start_time
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(object)
    if column.dtype.kind == "M":
        is_naive = getattr(column.dt, "tz", None) is None
        return _from_datetimes(column, is_naive, "", where, timezone)
    if column.dtype.kind in "iuf" or len(column) == 0:
        return _from_numbers(column, where, timezone)
    if column.dtype.kind == "O" and not isinstance(column.iloc[0], str):
        if isinstance(column.iloc[0], pd.Period):
            column = column.map(lambda period: period.start_time)
        if all(isinstance(value, (int, float, np.number)) for value in column.iloc[:100]):
            numbers = pd.to_numeric(column, errors="coerce")
            if numbers.notna().all() and not _has_bools(column):
                return _from_numbers(numbers, where, timezone)
        return Instants(_ms(parse_times(column, where=where)))
    return _from_texts(column, where, timezone)


def may_be_times(column: pd.Series) -> bool:
    """Whether a column without a name can be of times."""
    try:
        read_instants(column, where="")
    except ValueError:
        return False
    return True


def _has_bools(column: pd.Series) -> bool:
    return any(isinstance(value, (bool, np.bool_)) for value in column)


def _ms(times: pd.Series) -> np.ndarray:
    return times.to_numpy("datetime64[ms]").astype(np.int64)


def _from_numbers(column: pd.Series, where: str, timezone: str | None) -> Instants:
    numbers = column.to_numpy()
    if _are_compact(numbers):
        return _from_texts(column.astype("int64").astype(str), where, timezone)
    rank = np.searchsorted(EPOCH_BOUNDS, numbers, side="right") - 1
    units = [rank_ for rank_ in np.unique(rank) if 0 <= rank_ < len(EPOCH_UNITS)]
    is_single = len(units) == 1 and bool((rank == units[0]).all())
    if is_single or len(units) == 0 or not ((rank >= 0) & (rank < len(EPOCH_UNITS))).all():
        ms = _ms(parse_times(column, where=where))
    else:
        ms = np.empty(len(numbers), np.int64)
        for unit in units:
            of_unit = rank == unit
            ms[of_unit] = _ms(parse_times(column[of_unit], where=where))
    told = " and ".join(UNIT_NAMES[EPOCH_UNITS[unit]] for unit in units)
    return Instants(ms, told if told != "ms" else "")


def _are_compact(numbers: np.ndarray) -> bool:
    """Whether numbers are dates without signs between, which as epochs were long ago or ahead."""
    if len(numbers) == 0 or not np.isfinite(numbers).all():
        return False
    first = int(numbers[0])
    if first != numbers[0] or not COMPACT.fullmatch(str(first)):
        return False
    size = {8: 1, 12: 1e4, 14: 1e6}[len(str(first))]
    return bool(((numbers >= 19000101 * size) & (numbers < 21000101 * size)).all())


def _from_datetimes(
    times: pd.Series, is_naive: bool, told: str, where: str, timezone: str | None
) -> Instants:
    if not is_naive or timezone is None:
        return Instants(_ms(parse_times(times, where=where)), told, is_naive)
    demand_zone(timezone)
    # An hour that the clocks show twice is told by its place, so the newest must not come first.
    is_reversed = len(times) > 1 and times.iloc[0] > times.iloc[-1]
    ordered = times.iloc[::-1] if is_reversed else times
    try:
        local = ordered.dt.tz_localize(timezone, ambiguous="infer")
    except ValueError as error:
        raise DoubtfulError(
            f"{where}: these times are not all local times of {timezone} ({error}); is that the "
            "zone?"
        ) from error
    local = local.iloc[::-1] if is_reversed else local
    phrases = [told, f"local times of {timezone}"]
    return Instants(_ms(local.dt.tz_convert("UTC")), ", ".join(filter(None, phrases)))


def demand_zone(timezone: str) -> None:
    """Raise unless there is such a time zone."""
    try:
        zoneinfo.ZoneInfo(timezone)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise ValueError(
            f"there is no time zone {timezone!r}; pass one such as Europe/Berlin or UTC"
        ) from error


def _from_texts(column: pd.Series, where: str, timezone: str | None) -> Instants:
    texts = column.astype("string").str.strip()
    numbers = pd.to_numeric(texts, errors="coerce")
    if numbers.notna().all():
        whole = texts.str.fullmatch(r"\d+").all()
        numbers = texts.astype("int64") if whole and texts.str.len().max() < 19 else numbers
        values = numbers.to_numpy()
        if not _are_compact(values):
            return _from_numbers(
                pd.Series(values.astype(np.int64 if whole else float)), where, None
            )
    texts = texts.str.removesuffix(" UTC").str.removesuffix(" GMT")
    has_zone = (texts.str.contains(r"(?:Z|[+-]\d{2}:?\d{2}|[+-]\d{2})$", regex=True)) & (
        texts.str.len() > 11
    )
    has_zone |= column.astype("string").str.strip().str.contains(r" (?:UTC|GMT)$", regex=True)
    iso = pd.to_datetime(texts, utc=True, errors="coerce", format="ISO8601")
    if iso.notna().all() and not _are_compact(numbers.to_numpy(np.float64, na_value=np.nan)):
        if timezone is not None and has_zone.any() and not has_zone.all():
            row = int(np.argmin(has_zone.to_numpy(bool)))
            raise DoubtfulError(
                f"{where}: some times name a zone and some do not, first {texts.iloc[row]!r} in "
                f"row {row}; which zone are these of? write it behind them"
            )
        if has_zone.any() or timezone is None:
            ms = _ms(parse_times(texts.astype(object), where=where))
            return Instants(ms, "", not has_zone.any())
        return _from_datetimes(iso.dt.tz_localize(None), True, "", where, timezone)
    return _from_forms(texts, iso, where, timezone)


def _from_forms(texts: pd.Series, iso: pd.Series, where: str, timezone: str | None) -> Instants:
    """Times of another form; the one that fits the whole column."""
    day_first = next(_fitting(texts, DAY_FIRST), None)
    month_first = next(_fitting(texts, MONTH_FIRST), None)
    if day_first is not None and month_first is not None and not day_first.equals(month_first):
        raise DoubtfulError(
            f"{where}: is {texts.iloc[0]!r} the day or the month first? nothing in the column "
            "tells; write the dates as 2024-01-31"
        )
    found = day_first if day_first is not None else month_first
    told = "the day first" if day_first is not None else "the month first"
    if found is None:
        found = _compact(texts)
        if found is None:
            found = next(_fitting(texts, PLAIN_DATES + NAMED_DATES), None)
        told = f"times such as {texts.iloc[0]}"
    if found is not None:
        return _from_datetimes(found, True, told, where, timezone)
    some = iso.isna().to_numpy()
    if not some.all():  # ISO but for some rows, which another form may fit: 12-AM and 00:00:00
        rest = next(_fitting(texts[some], PLAIN_DATES), None)
        if rest is not None:
            times = iso.dt.tz_localize(None).astype("datetime64[ms]")
            times[some] = rest.astype("datetime64[ms]")
            told = f"some times such as {texts[some].iloc[0]}"
            return _from_datetimes(times, True, told, where, timezone)
    parse_times(texts.astype(object), where=where)  # raises, naming the first
    raise ValueError(f"{where}: unreadable times")


def _compact(texts: pd.Series) -> pd.Series | None:
    """What digits alone say, all of one length."""
    sizes = texts.str.len()
    form = {8: COMPACT_FORMS[0], 12: COMPACT_FORMS[1], 14: COMPACT_FORMS[2]}.get(sizes.iloc[0])
    if form is None or not (sizes == sizes.iloc[0]).all() or not texts.str.isdigit().all():
        return None
    parsed = pd.to_datetime(texts, errors="coerce", format=form)
    return parsed if parsed.notna().all() else None


def _fitting(texts: pd.Series, dates: tuple[str, ...]) -> Iterator[pd.Series]:
    """What the texts are by each form that fits them all."""
    for date, clock in itertools.product(dates, CLOCKS):
        for between in ("", "T") if clock else ("",):
            form = date + (between + clock.lstrip() if between else clock)
            first = pd.to_datetime(texts.iloc[:1], errors="coerce", format=form)
            if first.isna().any():
                continue
            parsed = pd.to_datetime(texts, errors="coerce", format=form)
            if parsed.notna().all():
                yield parsed


def join_clock(dates: pd.Series, clocks: pd.Series) -> pd.Series:
    """Texts of date and time of day, from a column and from what `clock_texts` makes of one."""
    texts = clocks
    is_digits = texts.str.fullmatch(r"\d{1,6}")
    is_short = is_digits.all() and texts.astype(int).max() <= 2359  # without seconds
    padded = texts.str.zfill(4).str.ljust(6, "0") if is_short else texts.str.zfill(6)
    written = padded.str[:2] + ":" + padded.str[2:4] + ":" + padded.str[4:]
    texts = texts.where(~is_digits, written)
    if dates.dtype.kind == "f":
        dates = dates.astype("int64")
    if dates.dtype.kind == "M":
        dates = dates.dt.strftime("%Y-%m-%d")
    days = dates.astype(str).str.strip()
    compact = days.str.fullmatch(r"\d{8}").all()
    if compact:
        days = days.str[:4] + "-" + days.str[4:6] + "-" + days.str[6:]
    days = days.str.replace(r"^(\d{4})[./](\d{2})[./](\d{2})$", r"\1-\2-\3", regex=True)
    return days + " " + texts


def clock_change(ms: np.ndarray, step_ms: int) -> str:
    """A notice where a gap of an hour falls on a change of the clocks; "" where none does.

    Args:
        ms: (n,) times in order that name no zone, taken for UTC.
        step_ms: Length of a candle.
    """
    lost = np.flatnonzero(np.diff(ms) == step_ms + HOUR_MS)[:200]
    for row in lost:
        first_lost = pd.Timestamp(int(ms[row]) + step_ms, unit="ms")
        for zone in ZONES:
            if skipped_by(first_lost, zone):
                return (
                    f"the gap at {first_lost:%Y-%m-%d %H:%M} falls on a change of the clocks in "
                    f"{zone}; if these are local times, say so by --timezone"
                )
    return ""


def skipped_by(local: pd.Timestamp, zone: str) -> bool:
    """Whether the clocks of a zone never show this time."""
    there = local.tz_localize(zone, nonexistent="NaT", ambiguous=True)
    return bool(pd.isna(there))


def repeated_by(local: pd.Timestamp) -> str | None:
    """The zone whose clocks show this time twice."""
    for zone in ZONES:
        if pd.isna(local.tz_localize(zone, ambiguous="NaT", nonexistent="shift_forward")):
            return zone
    return None


def as_times(ms: np.ndarray) -> pd.Series:
    """The schema's column of times."""
    return utc_from_ms(ms)
