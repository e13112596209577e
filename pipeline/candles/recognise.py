"""Candles recognised in a table of any form: the rows of the schema, and how they were read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pipeline.candles import belief
from pipeline.candles.columns import (
    CLOSE_TIMES,
    ENOUGH_ROWS,
    KNOWN_NAMES,
    OPEN_TIMES,
    PAIRS,
    TIMES,
    UNNAMED,
    Roles,
    are_counts,
    clock_texts,
    demand_order,
    find_columns,
    find_shape,
    is_quote_volume,
    plain_name,
)
from pipeline.candles.instants import (
    Instants,
    as_times,
    clock_change,
    join_clock,
    may_be_times,
    read_instants,
    repeated_by,
)
from pipeline.candles.numbers import read_numbers
from pipeline.candles.pairs import STABLE, base_and_quote, pair_of
from pipeline.candles.schema import (
    CANDLE_COLUMNS,
    DAY_MS,
    EPOCH_BOUNDS,
    MONTH,
    OPTIONAL_COLUMNS,
    PRICE_COLUMNS,
    TIME_NAMES,
    TIMEFRAME_MS,
    canonical_timeframe,
    parse_numbers,
    read_candles,
    timeframe_ms,
    timestamps_ms,
)
from pipeline.candles.text_tables import DoubtfulError, Table

logger = logging.getLogger(__name__)

Tell = Callable[[str], object]

READ_AS = "read_as"
"""In a frame's attrs: how it was read, where that is worth a line."""

LONG_RUN = 20
"""So many candles in a row at a longer distance are of another timeframe, and no gaps."""

SOURCES = (
    ("Binance klines", {"opentime", "closetime"}),
    ("CryptoDataDownload's table", {"unix", "date", "symbol"}),
    ("Gemini's table", {"unixtimestamp", "date", "symbol"}),
    ("CoinMarketCap's table", {"timeopen", "marketcap"}),
    ("Kaggle's table of minutes", {"weightedprice"}),
    ("investing.com's table", {"price", "open", "high", "low", "change"}),
    ("MetaTrader's export", {"tickvol"}),
    ("CryptoCompare's table", {"volumefrom", "volumeto"}),
)
"""Names, as `plain_name` writes them, that tell where a table is from"""


@dataclass
class Reading:
    """How a table is read: what is told of it."""

    where: str
    kind: str = ""
    """what it was recognised as"""
    details: list[str] = field(default_factory=list)
    """what was done that changes no candle"""
    losses: list[str] = field(default_factory=list)
    """what was left out or is not known"""

    @property
    def line(self) -> str:
        """All of it in one line; "" where there is nothing to tell."""
        if not (self.kind or self.details or self.losses):
            return ""
        parts = [part for part in (self.kind or "candles", *self.details) if part]
        return "; ".join([f"{self.where}: read as {', '.join(parts)}", *self.losses])


def read_as_it_is(what: object, timeframe: str | None, where: str) -> pd.DataFrame | None:
    """A frame that has the schema's columns and is sound, in the schema; None of any other.

    This is the hot path of forecasts: it costs little more than the schema's own checks.
    """
    if not isinstance(what, pd.DataFrame) or what.columns.nlevels > 1:
        return None
    names = what.columns.tolist()
    if not set(CANDLE_COLUMNS[1:]) <= set(names):
        return None
    if sum(name in TIME_NAMES for name in names) != 1:
        return None
    for name in names:
        is_ours = name in CANDLE_COLUMNS or name in OPTIONAL_COLUMNS or name in TIME_NAMES
        if not is_ours and plain_name(name) in KNOWN_NAMES:
            return None
    told: list[str] = []
    try:
        candles = read_candles(what, timeframe, where=where, tell=told.append)
        times = timestamps_ms(candles)
        step_ms = _step_ms(times, timeframe)
        _demand_one_timeframe(times, step_ms)
    except ValueError:
        return None  # what is wrong may be mended, or is told of there
    if "quote_volume" in candles and not _can_be_quote_volume(candles):
        return None  # the two volumes may be swapped
    is_plain = not told and candles is not None
    if not is_plain or (_has_gaps(times, step_ms) and _is_naive(what)):
        return None  # columns may be swapped, or a gap may be of a change of the clocks
    return candles


def _can_be_quote_volume(candles: pd.DataFrame) -> bool:
    names = ("quote_volume", "volume", "close")
    return is_quote_volume(*(candles[name].to_numpy()[:ENOUGH_ROWS] for name in names))


def _has_gaps(times: np.ndarray, step_ms: int) -> bool:
    return len(times) > 0 and bool(times[-1] - times[0] != (len(times) - 1) * step_ms)


def _is_naive(frame: pd.DataFrame) -> bool:
    """Whether the times of a frame with our names may name no zone: texts, or datetimes without."""
    times = frame[next(name for name in frame.columns if name in TIME_NAMES)]
    is_zoned = isinstance(times.dtype, pd.DatetimeTZDtype)
    return not is_zoned and times.dtype.kind not in "iuf"


def from_table(
    table: Table,
    timeframe: str | None,
    where: str,
    *,
    timezone: str | None = None,
    symbol: str | None = None,
    tell: Tell = logger.warning,
) -> pd.DataFrame:
    """Candles in the schema from a table, with a line about how it was read; see `load`."""
    frame, reading = table.columns, Reading(where)
    if timeframe is not None:
        timeframe = canonical_timeframe(timeframe)
    if timezone is None and not table.told:
        candles = read_as_it_is(frame, timeframe, where)
        if candles is not None:
            candles.attrs = {"symbol": symbol} if symbol else {}
            return candles
    try:
        rows, found = read_rows(frame, table, timeframe, timezone, symbol, reading)
    except DoubtfulError as doubt:
        raise question(doubt, where) from None
    del frame, table  # whose columns may be many, before they are copied again
    return checked(rows, timeframe, reading, found, tell)


def question(doubt: DoubtfulError, where: str) -> ValueError:
    """The error that asks, and says where."""
    text = str(doubt)
    says_where = text.startswith((f"{where}:", f"{where},"))
    return ValueError(text if says_where else f"{where}: {text}")


def checked(
    rows: pd.DataFrame, timeframe: str | None, reading: Reading, symbol: str | None, tell: Tell
) -> pd.DataFrame:
    """Rows that were read, checked by the schema, with the line about how they were read."""
    mended: list[str] = []
    candles = read_candles(rows, timeframe, where=reading.where, tell=mended.append)
    _demand_unswapped(candles, timeframe, reading.where)
    if reading.losses:
        tell(reading.line)
    elif reading.line:
        logger.info("%s", reading.line)
    for text in mended:
        tell(text)
    candles.attrs = {"symbol": symbol} if symbol else {}
    if reading.line:
        candles.attrs[READ_AS] = reading.line
    return candles


def read_rows(
    frame: pd.DataFrame,
    table: Table,
    timeframe: str | None,
    timezone: str | None,
    symbol: str | None,
    reading: Reading,
) -> tuple[pd.DataFrame, str | None]:
    """The rows of a table with the schema's columns, in order, and the pair they are of."""
    if len(frame) == 0:
        raise ValueError(f"{reading.where}: there are no candles; pass at least one row")
    frame, ticker = _flat(frame, reading)
    frame = _with_times(frame, reading)
    frame, is_named = _numbered(frame)
    if is_named:
        roles = find_columns(frame, ticker or symbol)
        reading.kind = _kind_of(frame, roles) or reading.kind
        reading.losses += [text for text in roles.told if "unknown" in text]
        reading.details += [text for text in roles.told if "unknown" not in text]
        reading.details += list(table.told)
    else:
        kind, roles = find_shape(frame, may_be_times)
        reading.kind = kind
        reading.details += table.told or [f"{len(frame.columns)} columns without names"]
    pair = _pair(roles.pair or ticker, symbol, reading.where)
    values = read_numbers(frame, roles.columns, table.separator, reading.where)
    demand_order({name: values[name] for name in PRICE_COLUMNS})
    is_blank = np.logical_and.reduce([np.isnan(values[name]) for name in PRICE_COLUMNS])
    if is_blank.any():
        reading.losses.append(f"{int(is_blank.sum())} row(s) without prices left out as gaps")
        frame = frame[~is_blank]
        values = {name: column[~is_blank] for name, column in values.items()}
    if len(frame) == 0:
        raise ValueError(f"{reading.where}: no row has prices; is this the right file?")
    instants = _instants(frame, roles, timezone, reading)
    step_ms = _step_ms(instants.ms, timeframe)
    if not roles.times:
        instants = _from_closes(instants, step_ms, reading)
    _demand_opens(instants.ms, step_ms, roles, reading)
    values |= _read_activity(frame, roles, values)
    rows = pd.DataFrame({"timestamp": instants.ms, **values}, copy=False)
    rows = _without_forming(rows, frame, roles, reading)
    _demand_unswapped_volumes(rows, frame, roles)
    rows = in_order(rows, instants, reading)
    _demand_one_timeframe(rows["timestamp"].to_numpy(), step_ms)
    if instants.is_naive and step_ms < DAY_MS:
        change = clock_change(rows["timestamp"].to_numpy(), step_ms)
        reading.losses += [change] if change else []
    return rows.assign(timestamp=as_times(rows["timestamp"].to_numpy())), pair


# --- columns


def _flat(frame: pd.DataFrame, reading: Reading) -> tuple[pd.DataFrame, str | None]:
    """A frame with plain names, and the one ticker that the names of two levels tell."""
    if frame.columns.nlevels == 1:
        return frame, None
    wanted = set(PRICE_COLUMNS)
    levels = [frame.columns.get_level_values(level) for level in range(frame.columns.nlevels)]
    named = next((names for names in levels if wanted <= {plain_name(n) for n in names}), None)
    if named is None:
        raise DoubtfulError(
            f"the columns' names have {len(levels)} levels, first {frame.columns[0]}; which are "
            "the prices? pass one pair's columns with plain names"
        )
    others = [{str(n) for n in names if str(n)} - {""} for names in levels if names is not named]
    for tickers in others:
        if len(tickers) > 1:
            shown = ", ".join(sorted(tickers)[:5])
            raise DoubtfulError(
                f"it holds candles of {len(tickers)} tickers, {shown}; which one? pass its columns "
                f"alone, such as df.xs({sorted(tickers)[0]!r}, axis=1, level=...)"
            )
    ticker = next((next(iter(tickers)) for tickers in others if tickers), None)
    reading.kind = f"columns of {ticker}" if ticker else "columns of two levels"
    return frame.set_axis(named, axis=1), ticker


def _with_times(frame: pd.DataFrame, reading: Reading) -> pd.DataFrame:
    """A frame whose times are a column, where its index holds them."""
    index = frame.index
    known = TIMES | OPEN_TIMES | CLOSE_TIMES
    if any(plain_name(name) in known for name in frame.columns):
        return frame.reset_index(drop=True)
    if isinstance(index, pd.MultiIndex):
        is_ours = any(plain_name(name) in known | PAIRS for name in index.names if name)
        return frame.reset_index() if is_ours else frame.reset_index(drop=True)
    if len(frame) == 0 or (isinstance(index, pd.RangeIndex) and index[0] < EPOCH_BOUNDS[0]):
        return frame.reset_index(drop=True)
    column = index.to_series().reset_index(drop=True)
    is_time = isinstance(index, (pd.DatetimeIndex, pd.PeriodIndex)) or may_be_times(column)
    frame = frame.reset_index(drop=True)
    if not is_time:
        return frame
    is_numbered = _are_numbers(frame.columns)
    name: object = index.name if plain_name(index.name) in known else "timestamp"
    reading.details.append("times from the index")
    if is_numbered:
        return frame.set_axis(range(1, len(frame.columns) + 1), axis=1).assign(**{"0": column})[
            ["0", *range(1, len(frame.columns) + 1)]
        ]
    return frame.assign(**{str(name): column})


def _numbered(frame: pd.DataFrame) -> tuple[pd.DataFrame, bool]:
    """A table, without the row numbers of one that has no names, and whether it has names."""
    rest = [name for name in frame.columns if plain_name(name) not in UNNAMED]
    if len(rest) == len(frame.columns) - 1 and _are_numbers(rest):
        frame = frame[rest]
    return frame, not _are_numbers(frame.columns)


def _are_numbers(names: Sequence[object] | pd.Index) -> bool:
    return len(names) > 0 and [str(name) for name in names] == [str(n) for n in range(len(names))]


def _kind_of(frame: pd.DataFrame, roles: Roles) -> str:
    """Where a table is from, or which of its columns are taken; "" where all have our names."""
    plain = {plain_name(name) for name in frame.columns}
    for source, names in SOURCES:
        if names <= plain:
            return f"{source}, {len(frame.columns)} columns"
    time = (roles.times or (roles.close_time,))[:1]
    taken = [*time, *(name for name in roles.columns.values() if name is not None)]
    ours = {*TIME_NAMES, *CANDLE_COLUMNS, *OPTIONAL_COLUMNS}
    if all(name in ours for name in taken):
        return ""
    return "columns " + ", ".join(str(name) or "''" for name in taken)


def _pair(told: str | None, symbol: str | None, where: str) -> str | None:
    """The pair of the candles; raises where what the table tells is another one than the name."""
    pair = pair_of(told) if told else None
    base, quote = base_and_quote(pair)
    wanted_base, wanted_quote = base_and_quote(symbol)
    if base is None or wanted_base is None:
        return symbol or pair
    are_dollars = {quote, wanted_quote} <= {name for name in STABLE if "USD" in name}
    if base != wanted_base or (quote != wanted_quote and not are_dollars):
        raise DoubtfulError(
            f"its rows say {pair} and its name says {symbol}; which one is it? call the file by "
            "the pair that it holds"
        )
    return symbol


# --- times


def _instants(
    frame: pd.DataFrame, roles: Roles, timezone: str | None, reading: Reading
) -> Instants:
    """The times of the rows; raises where two columns tell different ones."""
    if not roles.times:
        return _read_time(frame, roles.close_time, timezone, reading.where)
    if roles.clock is not None:
        name = next(n for n in roles.times if plain_name(n) == "date" or n == roles.times[0])
        texts = join_clock(frame[name], clock_texts(frame[roles.clock]))
        reading.details.append("date and time in two columns")
        return read_instants(texts, where=f"{reading.where}, column {name!r}", timezone=timezone)
    first, *others = roles.times
    try:
        instants = _read_time(frame, first, timezone, reading.where)
    except DoubtfulError:
        raise
    except ValueError:
        readable = [name for name in others if may_be_times(frame[name])]
        if not readable or str(first) == "timestamp":
            raise
        first, others = readable[0], []
        instants = _read_time(frame, first, timezone, reading.where)
    if instants.told:
        reading.details.append(instants.told)
    if plain_name(first) in OPEN_TIMES:
        return instants
    for other in others:
        _demand_agreement(instants, frame, first, other, timezone)
    return instants


def _read_time(frame: pd.DataFrame, name: object, timezone: str | None, where: str) -> Instants:
    return read_instants(frame[name], where=f"{where}, column {name!r}", timezone=timezone)


def _demand_agreement(
    instants: Instants, frame: pd.DataFrame, first: object, other: object, timezone: str | None
) -> None:
    """Raise where another column tells other times; the mere day of them is none."""
    try:
        also = read_instants(frame[other], where="", timezone=timezone).ms
    except ValueError:
        return
    is_same = (also == instants.ms) | (also == instants.ms // 1000 * 1000)
    is_day = also == instants.ms // DAY_MS * DAY_MS
    if is_same.all() or is_day.all():
        return
    row = int(np.argmin(is_same))
    shown = [str(as_times(values[row : row + 1])[0])[:19] for values in (instants.ms, also)]
    raise DoubtfulError(
        f"columns {str(first)!r} and {str(other)!r} tell different times, {shown[0]} and "
        f"{shown[1]} in row {row}; which one is when the candle opens? call it 'open_time'"
    )


def _step_ms(ms: np.ndarray, timeframe: str | None) -> int:
    """Length of a candle: the timeframe's, else the shortest of the common distances."""
    if timeframe is not None and timeframe != MONTH:
        return timeframe_ms(timeframe)
    steps = np.abs(np.diff(np.sort(ms)))
    steps = steps[steps > 0]
    if len(steps) == 0:
        return 1
    lengths, counts = np.unique(steps, return_counts=True)
    is_usual = counts >= min(LONG_RUN, counts.max())
    return int(lengths[np.argmax(is_usual)])


def _from_closes(instants: Instants, step_ms: int, reading: Reading) -> Instants:
    """Opens from the times of the closes, which may be a millisecond or a second early."""
    late = -instants.ms % 60_000
    closes = instants.ms + np.where(late <= 1000, late, 0)
    reading.details.append("opens from the times of the closes")
    return Instants(closes - step_ms, instants.told, instants.is_naive)


def _demand_opens(ms: np.ndarray, step_ms: int, roles: Roles, reading: Reading) -> None:
    """Raise where the times are those of the closes, a millisecond or a second before the next."""
    if step_ms < 60_000 or not roles.times:
        return
    late = -ms % 60_000
    is_close = (late > 0) & (late <= 1000)
    if is_close.mean() > 0.5:
        first = as_times(ms[:1])[0]
        raise DoubtfulError(
            f"the times, first {first:%Y-%m-%d %H:%M:%S.%f}, look like those of the closes; are "
            "they? then call their column 'close_time', and the opens are taken from them"
        )


# --- rows


def _without_forming(
    rows: pd.DataFrame, frame: pd.DataFrame, roles: Roles, reading: Reading
) -> pd.DataFrame:
    """The rows, less the newest one where the exchange says that it has not closed."""
    if roles.flag is None:
        return rows
    is_open = ~frame[roles.flag].astype(str).str.lower().isin(["1", "true"]).to_numpy()
    is_newest = (rows["timestamp"] == rows["timestamp"].max()).to_numpy()
    if (is_open & is_newest).any() and not (is_open & ~is_newest).any():
        reading.losses.append("the newest candle, which has not closed, left out")
        return rows[~is_newest]
    return rows


def in_order(rows: pd.DataFrame, instants: Instants, reading: Reading) -> pd.DataFrame:
    """Rows in time order, each once."""
    times = rows["timestamp"].to_numpy()
    steps = np.diff(times)
    if (steps > 0).all():
        return rows.reset_index(drop=True)
    if (steps < 0).any():
        is_reversed = bool((steps <= 0).all())
        reading.details.append("newest first" if is_reversed else "sorted")
        rows = rows.iloc[::-1] if is_reversed else rows.sort_values("timestamp", kind="stable")
        times = rows["timestamp"].to_numpy()
    is_again = np.concatenate([[False], times[1:] == times[:-1]])
    if not is_again.any():
        return rows.reset_index(drop=True)
    values = rows[list(CANDLE_COLUMNS[1:])].to_numpy()
    is_equal = np.ones(len(rows), dtype=bool)
    is_equal[1:] = (values[1:] == values[:-1]).all(axis=1)
    contrary = np.flatnonzero(is_again & ~is_equal)
    if len(contrary):
        _refuse_contrary(rows, int(contrary[0]), len(contrary), instants)
    reading.details.append(f"{int(is_again.sum())} equal duplicate(s) merged")
    return rows[~is_again].reset_index(drop=True)


def _refuse_contrary(rows: pd.DataFrame, row: int, count: int, instants: Instants) -> None:
    when = as_times(rows["timestamp"].to_numpy()[row : row + 1])[0]
    shown = [
        ", ".join(f"{name} {rows[name].iloc[place]:.12g}" for name in CANDLE_COLUMNS[1:])
        for place in (row - 1, row)
    ]
    zone = repeated_by(when.tz_localize(None)) if instants.is_naive else None
    question = "which one is right? remove the other row"
    if zone is not None:
        question = (
            f"the clocks of {zone} show this hour twice: are these local times? say of which zone "
            "by --timezone (timezone=... in Python), or remove one of the rows"
        )
    raise DoubtfulError(
        f"{count} time(s) are there twice with different values, first {when:%Y-%m-%d %H:%M}: "
        f"({shown[0]}) and ({shown[1]}); {question}"
    )


def _demand_one_timeframe(times: np.ndarray, step_ms: int) -> None:
    """Raise where a stretch of the rows is of a longer timeframe."""
    if len(times) < LONG_RUN or step_ms <= 1 or not _has_gaps(times, step_ms):
        return
    steps = np.diff(times)
    is_long = (steps[1:] == steps[:-1]) & (steps[1:] > step_ms)
    is_long &= np.isin(steps[1:], list(TIMEFRAME_MS.values()))
    ends = np.flatnonzero(~np.concatenate([[False], is_long, [False]]))
    runs = np.diff(ends) - 1
    if not len(runs) or runs.max() < LONG_RUN - 1 or not (steps == step_ms).any():
        return
    first = int(ends[np.argmax(runs)])
    name = next(name for name, ms in TIMEFRAME_MS.items() if ms == steps[first])
    at = as_times(times[first : first + 1])[0]
    raise DoubtfulError(
        f"candles from {at:%Y-%m-%d %H:%M} on are {name} apart and others "
        f"{step_ms / 60_000:g} min; which timeframe is wanted? keep its rows in a file of their own"
    )


def _read_activity(
    frame: pd.DataFrame, roles: Roles, values: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Those of `ACTIVITY_COLUMNS` whose numbers can be what their names say, (n,) float64 each."""
    found = {}
    for column, name in roles.activity.items():
        try:
            numbers = parse_numbers(frame[name], where="", copy=False)
        except ValueError:
            continue
        if _can_be(column, numbers[:ENOUGH_ROWS], values["volume"][:ENOUGH_ROWS], values["close"]):
            found[column] = numbers
    return found


def _can_be(column: str, numbers: np.ndarray, volume: np.ndarray, close: np.ndarray) -> bool:
    """Whether numbers can be the volume in the quote currency, of takers or a count of trades."""
    known = ~np.isnan(numbers)
    if not known.any() or (numbers[known] < 0).any() or np.isinf(numbers[known]).any():
        return False
    if column == "quote_volume":
        return is_quote_volume(numbers, volume, close[: len(volume)])
    if column == "trades":
        return are_counts(numbers[known])
    return bool((numbers[known] <= volume[known] * 1.001).all())


def _demand_unswapped_volumes(rows: pd.DataFrame, frame: pd.DataFrame, roles: Roles) -> None:
    """Raise where the volume is the quote's times the price, and not the other way round."""
    name = roles.columns.get("volume")
    if name is None or len(rows) != len(frame):
        return
    rows, frame = rows[:ENOUGH_ROWS], frame[:ENOUGH_ROWS]
    volume, price = rows["volume"].to_numpy(), rows["close"].to_numpy()
    taken = {*roles.times, *roles.columns.values(), roles.close_time, roles.clock}
    for other in (other for other in frame.columns if other not in taken):
        numbers = pd.to_numeric(frame[other], errors="coerce")
        amount = numbers.to_numpy(np.float64, na_value=np.nan)
        is_amount = is_quote_volume(volume, amount, price)
        if is_amount and not is_quote_volume(amount, volume, price):
            raise DoubtfulError(
                f"{str(name)!r} is {str(other)!r} times the price, so it may be in the quote "
                f"currency; are the two swapped? call {str(other)!r} 'volume' if it is the traded "
                "amount of the coin"
            )


def _demand_unswapped(candles: pd.DataFrame, timeframe: str | None, where: str) -> None:
    """Raise where every close is the open before: open and close are swapped."""
    open_, close = candles["open"].to_numpy(), candles["close"].to_numpy()
    times = timestamps_ms(candles)
    if belief.has_swapped(times, _step_ms(times, timeframe), open_, close):
        raise ValueError(
            f"{where}: each close is where the candle before opened; are open and close swapped? "
            "swap their names"
        )
