"""Which column is which: by its name, or in tables without names by what the numbers can be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pipeline.candles.pairs import QUOTES, STABLE, base_and_quote, coin_of
from pipeline.candles.schema import CANDLE_COLUMNS, OPTIONAL_COLUMNS, PRICE_COLUMNS
from pipeline.candles.text_tables import DoubtfulError

OPEN_TIMES = frozenset(
    "opentime timeopen start starttime startat starttimestamp periodstart begin begintime "
    "candlebegintime opentimestamp opendate opendatetime candledatetimeutc".split()
)
"""Names, as `plain_name` writes them, that say that the time is the open's"""

TIMES = frozenset(
    "timestamp timestamps time times date datetime dates unix unixtime unixtimestamp epoch ts t "
    "mts timems timestampms unixms gmttime localtime dateutc timeutc datetimeutc timestamputc utc "
    "localdatetime kst id".split()
)

UNNAMED = frozenset(("", "unnamed0", "index", "level0"))
"""What pandas calls an index without a name"""

CLOSE_TIMES = frozenset(
    "closetime timeclose end endtime endtimestamp periodend closetimestamp closedate".split()
)

SPELLINGS = {
    "open": ("open", "openprice", "1open", "priceopen", "opening", "openingprice", "first"),
    "high": ("high", "highprice", "2high", "pricehigh", "max", "highest"),
    "low": ("low", "lowprice", "3low", "pricelow", "min", "lowest"),
    "close": ("close", "closeprice", "4close", "priceclose", "last", "closelast", "tradeprice"),
    "volume": (
        "volume vol 5volume basevolume volumebase baseassetvolume basevol volumefrom volumetraded "
        "candleacctradevolume"
    ).split(),
    "funding_rate": ("fundingrate",),
    "open_interest": ("openinterest",),
}

LETTERS = {"o": "open", "h": "high", "l": "low", "c": "close", "v": "volume"}

ACTIVITY = {
    "trades": "trades tradecount tradescount numberoftrades ntrades numtrades count transactions",
    "taker_buy_volume": "takerbuyvolume takerbuybaseassetvolume takerbuybasevolume takerbasevol",
}
"""Optional columns of the schema and their names; the quote's volume is told by its numbers, too"""

QUOTE_VOLUMES = frozenset(
    "quotevolume volumequote quoteassetvolume quotevol turnover volumecurrency volccyquote "
    "volumeto quotevolumetraded value amountquote marketvolume".split()
)

PAIRS = frozenset("symbol symbols ticker pair market instrument instid product coin".split())

SINGLE = PAIRS | frozenset(
    "currency quote quotecurrency quoteasset base basecurrency baseasset exchange venue interval "
    "timeframe resolution per".split()
)
"""What a table of one series has one value of"""

KNOWN_NAMES = (
    OPEN_TIMES
    | TIMES
    | CLOSE_TIMES
    | QUOTE_VOLUMES
    | SINGLE
    | {"tickvol", "tickvolume", "marketcap"}
    | {spelling for spellings in SPELLINGS.values() for spelling in spellings}
)

TICKS = frozenset(("tickvol", "tickvolume"))

ENOUGH_ROWS = 10_000
"""Of a table at either end, by which its columns are told"""

CONSISTENT = 0.9
"""Share of rows whose low and high hold open and close, of a reading that may be right"""


@dataclass(frozen=True)
class Shape:
    """The columns of an unnamed table, in its order; "" where nothing is to be known of one."""

    name: str
    columns: tuple[str, ...]


def _shape(name: str, columns: str) -> Shape:
    return Shape(name, tuple("" if column == "-" else column for column in columns.split()))


SHAPES = (
    _shape("ccxt lists", "time open high low close volume"),
    _shape("Coinbase rows", "time low high open close volume"),
    _shape("Bitfinex rows", "time open close high low volume"),
    _shape("Kraken trades", "time open high low close volume count"),
    _shape("Bybit rows", "time open high low close volume quote"),
    _shape("KuCoin rows", "time open close high low volume quote"),
    _shape("rows of date and time", "date clock open high low close volume"),
    _shape("Kraken rows", "time open high low close vwap volume count"),
    _shape("Bitget rows", "time open high low close volume quote quote"),
    _shape("MEXC rows", "time open high low close volume close_time quote"),
    _shape("Gate.io rows", "time quote close high low open volume flag"),
    _shape("OKX rows", "time open high low close volume - quote flag"),
    _shape("Binance klines", "time open high low close volume close_time quote count taker - -"),
)


UNNAMED_ACTIVITY = (("quote_volume", "quote"), ("trades", "count"), ("taker_buy_volume", "taker"))


@dataclass(frozen=True)
class Roles:
    """Where the columns of the schema are in a table."""

    times: tuple[object, ...]
    """names of the columns that may hold the open's time, the surest first"""
    columns: Mapping[str, object]
    """column of the schema -> name in the table, or None where the volume is unknown"""
    close_time: object | None = None
    clock: object | None = None
    """the column of the time of day, where the date has one of its own"""
    quote_volume: object | None = None
    pair: str | None = None
    """what the table says of its pair"""
    flag: object | None = None
    """1 where the candle has closed"""
    told: tuple[str, ...] = ()
    activity: Mapping[str, object] = field(default_factory=dict)
    """one of `ACTIVITY_COLUMNS` -> name in the table of what may be it"""


def plain_name(name: object) -> str:
    """A column's name in small letters and digits alone.

    Example:
        >>> plain_name("Volume_(BTC)"), plain_name("<OPEN>"), plain_name("1. open")
        ('volumebtc', 'open', '1open')
    """
    return re.sub(r"[^a-z0-9]", "", str(name).lower().replace("µ", "u"))


def find_columns(frame: pd.DataFrame, symbol: str | None) -> Roles:
    """Tell the columns of a table with names.

    Args:
        frame: The table.
        symbol: Its pair, where that is known, by which a currency is the base or the quote.

    Raises:
        DoubtfulError: A column is missing, or two may be the one.
    """
    plain = {name: plain_name(name) for name in frame.columns}
    _demand_unique(frame)
    values: dict[str, object] = {}
    for column, spellings in SPELLINGS.items():
        exact = [name for name in plain if name == column]
        alike = exact or [name for name in plain if plain[name] in spellings]
        found = _one_of(frame, alike, column)
        if found is not None:
            values[column] = found
    _add_letters(plain, values)
    told: tuple[str, ...] = ()
    if "close" not in values and _is_investing(plain):
        values["close"] = next(name for name in plain if plain[name] == "price")
        told += ("Price is the close",)
    quotes = [name for name in plain if plain[name] in QUOTE_VOLUMES]
    pair = _pair_of(frame, plain)
    symbol = pair or symbol
    by_currency = _volumes_by_currency(plain)
    if "marketcap" in plain.values() and "volume" in values:
        del values["volume"]
        values["volume"] = None
        told += ("its volume is in the quote currency, so it counts as unknown",)
    elif "volume" not in values and by_currency:
        base, others = _base_volume(by_currency, symbol, has_quote=bool(quotes))
        values["volume"] = base
        quotes += others
        told += (f"volume from {str(base).strip()!r}",)
    told += _use_amount(frame, plain, values)
    told += _use_ticks(frame, plain, values)
    times = _time_columns(frame, plain)
    close_time = next((name for name in plain if plain[name] in CLOSE_TIMES), None)
    _demand_all(frame, values, times or ([close_time] if close_time is not None else []), quotes)
    times, clock = _with_clock(frame, plain, times)
    ignored = [str(name) for name in plain if plain[name] in ("adjclose", "adjustedclose")]
    told += tuple(f"{name} left out" for name in ignored)
    quote = quotes[0] if quotes else None
    activity = {} if quote is None else {"quote_volume": quote}
    for column, spellings in ACTIVITY.items():
        named = [name for name in plain if plain[name] in spellings.split()]
        activity |= {column: named[0]} if len(named) == 1 else {}
    return Roles(tuple(times), values, close_time, clock, quote, pair, None, told, activity)


def _demand_unique(frame: pd.DataFrame) -> None:
    known = (*CANDLE_COLUMNS, *OPTIONAL_COLUMNS, *SPELLINGS)
    for name in frame.columns[frame.columns.duplicated()].unique():
        if plain_name(name) in known:
            count = int((frame.columns == name).sum())
            raise DoubtfulError(
                f"column {name!r} is there {count} times; which one counts? keep one of them"
            )


def _one_of(frame: pd.DataFrame, names: Sequence[object], column: str) -> object | None:
    """The one of these names; several that hold the same are one."""
    if not names:
        return None
    first = names[0]
    for other in names[1:]:
        if not frame[other].equals(frame[first]):
            raise DoubtfulError(
                f"two columns may be the {column}, {first!r} and {other!r}; which one is it? call "
                f"that one {column!r} and the other something else"
            )
    return first


def _add_letters(plain: Mapping[object, str], values: dict[str, object]) -> None:
    """Take o, h, l and c for the prices where all four are there and none has a name."""
    of_letter = {letter: name for name, letter in plain.items() if letter in LETTERS}
    if set("ohlc") <= set(of_letter) and not set(PRICE_COLUMNS) & set(values):
        for letter, column in LETTERS.items():
            if letter in of_letter:
                values.setdefault(column, of_letter[letter])


def _is_investing(plain: Mapping[object, str]) -> bool:
    """Whether a table is of investing.com, whose close is called Price."""
    return {"price", "open", "high", "low"} <= set(plain.values())


def _volumes_by_currency(plain: Mapping[object, str]) -> dict[object, str]:
    """Names such as "Volume BTC" and "Volume_(Currency)" -> their currency."""
    found = {}
    for name, text in plain.items():
        match = re.fullmatch(r"vol(?:ume)?([a-z]{2,8})|([a-z]{2,5})vol(?:ume)?", text)
        currency = (match[1] or match[2]).upper() if match else ""
        if currency and text not in QUOTE_VOLUMES and text not in TICKS:
            found[name] = currency
    return found


def _base_volume(
    by_currency: Mapping[object, str], symbol: str | None, *, has_quote: bool
) -> tuple[object, list[object]]:
    """The volume of the base and those of others."""
    base, _ = base_and_quote(symbol)
    names = list(by_currency)
    of_base = [name for name in names if base and coin_of(by_currency[name]) == base]
    if not of_base and base is None:
        is_quote = {name: by_currency[name] in (*STABLE, "CURRENCY", "QUOTE") for name in names}
        rest = [name for name in names if not is_quote[name]]
        # A lone "Volume BTC" may be that of BTC/USDT or of ETH/BTC.
        is_sure = (
            has_quote
            or len(rest) < len(names)
            or all(by_currency[name] not in QUOTES for name in rest)
        )
        of_base = rest if is_sure else []
    if len(of_base) != 1:
        shown = ", ".join(repr(str(name)) for name in names)
        pair = f" of {symbol}" if symbol else ""
        raise DoubtfulError(
            f"the volume is there as {shown}; is that the traded amount of the coin itself{pair}? "
            "call the column of that amount 'volume', or add a column 'volume' of zeros to do "
            "without"
        )
    return of_base[0], [name for name in names if name != of_base[0]]


def _use_amount(
    frame: pd.DataFrame, plain: Mapping[object, str], values: dict[str, object]
) -> tuple[str, ...]:
    """Huobi's amount is the coin's, and its vol the amount times the price."""
    amount = next((name for name in plain if plain[name] == "amount"), None)
    if amount is None or values.get("volume") is None or "close" not in values:
        return ()
    numbers = [
        pd.to_numeric(frame[name][:ENOUGH_ROWS], errors="coerce").to_numpy(np.float64)
        for name in (values["volume"], amount, values["close"])
    ]
    if not is_quote_volume(*numbers) or is_quote_volume(numbers[1], numbers[0], numbers[2]):
        return ()
    values["volume"] = amount
    return (f"volume from {str(amount)!r}",)


def _use_ticks(
    frame: pd.DataFrame, plain: Mapping[object, str], values: dict[str, object]
) -> tuple[str, ...]:
    """MetaTrader's tick volume counts changes of the price; its real volume is mostly 0."""
    if not TICKS & set(plain.values()):
        return ()
    if values.get("volume") is None:
        values["volume"] = None
        return ("ticks are no volume, so it counts as unknown",)
    volume = pd.to_numeric(frame[values["volume"]], errors="coerce")
    return ("the volume is unknown: all 0 beside a tick volume",) if (volume == 0).all() else ()


def _time_columns(frame: pd.DataFrame, plain: Mapping[object, str]) -> list[object]:
    """Columns that may hold the open's time, the surest first."""
    sure = [name for name in plain if plain[name] in OPEN_TIMES]
    exact = [name for name in plain if name == "timestamp"]
    others = [name for name in plain if plain[name] in TIMES and name not in exact]
    if {"t", "T"} <= set(others):
        others.remove("T")  # the close's time in Binance's streams
    found = [*sure, *exact, *others]
    if not found:
        found = [name for name in plain if plain[name] in UNNAMED and _may_be_times(frame[name])]
    return found


def _may_be_times(column: pd.Series) -> bool:
    """Whether a column without a name is no mere number of the row."""
    if column.dtype.kind in "iuf":
        return bool(len(column)) and bool((column.abs() > 1e8).all())
    return True


def _with_clock(
    frame: pd.DataFrame, plain: Mapping[object, str], times: Sequence[object]
) -> tuple[list[object], object | None]:
    """The times without the clock's, where the date and the time of day have a column each."""
    dates = [name for name in times if plain[name] == "date"]
    clocks = [name for name in times if plain[name] == "time"]
    if len(dates) == 1 and len(clocks) == 1 and is_clock(frame[clocks[0]]):
        return [name for name in times if name != clocks[0]], clocks[0]
    return list(times), None


def clock_texts(column: pd.Series) -> pd.Series:
    """Texts of a column of times of the day, of whole numbers without a point."""
    if column.dtype.kind == "f" and bool((column % 1 == 0).all()):
        column = column.astype("int64")
    return column.astype(str).str.strip()


def is_clock(column: pd.Series) -> bool:
    """Whether a column holds times of the day: 15:00, 15:00:00 or 150000."""
    texts = clock_texts(column)
    clock = r"\d{1,2}:\d{2}(:\d{2}(\.0+)?)?( ?[AaPp][Mm])?|\d{1,6}"
    return bool(texts.str.fullmatch(clock).all())


def _demand_all(
    frame: pd.DataFrame,
    values: Mapping[str, object],
    times: Sequence[object],
    quotes: Sequence[object],
) -> None:
    missing = [] if times else ["timestamp"]
    missing += [column for column in CANDLE_COLUMNS[1:] if column not in values]
    if not missing:
        return
    there = ", ".join(repr(str(name)) for name in frame.columns[:20])
    if missing == ["volume"] and quotes:
        raise DoubtfulError(
            f"the only volume is that of the quote currency, {str(quotes[0])!r}; which column is "
            "the traded amount of the coin itself? call it 'volume', or add a column 'volume' of "
            "zeros to do without"
        )
    raise DoubtfulError(
        f"which column is {', '.join(map(repr, missing))}? the columns are {there or 'none'}; call "
        "it so in the first line of the file, or in Python by "
        f"df.rename(columns={{'...': {missing[0]!r}}})"
    )


def _pair_of(frame: pd.DataFrame, plain: Mapping[object, str]) -> str | None:
    """The pair that a column names; raises where the rows are of several series."""
    pair = None
    for name in (name for name in plain if plain[name] in SINGLE):
        named = [str(value).strip() for value in frame[name].dropna().unique()]
        if len(named) > 1:
            shown = f"{named[0]}, {named[1]}{', ...' if len(named) > 2 else ''}"
            raise DoubtfulError(
                f"its column {str(name)!r} holds {len(named)} values, {shown}; of which one are "
                "the candles wanted? keep its rows in a file or frame of their own"
            )
        if plain[name] in PAIRS and named and pair is None:
            pair = named[0]
    return pair


# --- tables without names


def demand_order(prices: Mapping[str, np.ndarray]) -> None:
    """Raise where other columns than those of these names are the highest and the lowest.

    Args:
        prices: Column of the schema -> (n,) of it, for the four prices.

    Raises:
        DoubtfulError: In most rows high and low do not hold open and close, and others would.
    """
    names = list(PRICE_COLUMNS)
    values = np.stack([prices[name] for name in names])
    values = values[:, (np.isfinite(values) & (values > 0)).all(axis=0)]
    top, bottom = values.max(axis=0), values.min(axis=0)
    if values.shape[1] == 0:
        return
    is_top, is_bottom = (values == top).mean(axis=1), (values == bottom).mean(axis=1)
    high, low = names.index("high"), names.index("low")
    is_sound = min(is_top[high], is_bottom[low]) >= CONSISTENT
    highest, lowest = int(np.argmax(is_top)), int(np.argmax(is_bottom))
    are_others = min(is_top[highest], is_bottom[lowest]) > 1 - (1 - CONSISTENT) / 10
    if not is_sound and are_others and (highest, lowest) != (high, low):
        raise DoubtfulError(
            f"{names[highest]!r} is never below the other prices and {names[lowest]!r} never above "
            f"them; are {'high' if highest != high else 'low'!r} and "
            f"{names[highest] if highest != high else names[lowest]!r} swapped? swap their names"
        )


def find_shape(frame: pd.DataFrame, is_time: Callable[[pd.Series], bool]) -> tuple[str, Roles]:
    """Tell the columns of a table without names by what they hold.

    Args:
        frame: The table, whose columns are numbered.
        is_time: Tells whether a column holds times.

    Returns:
        What the shape is called, and where the columns are.

    Raises:
        DoubtfulError: No shape fits, or two fit that differ.
    """
    width = len(frame.columns)
    if len(frame) > 2 * ENOUGH_ROWS:
        frame = pd.concat([frame[:ENOUGH_ROWS], frame[-ENOUGH_ROWS:]])
    numbers = [pd.to_numeric(frame[name], errors="coerce") for name in frame.columns]
    values = [column.to_numpy(np.float64, na_value=np.nan) for column in numbers]
    first_is_time = width > 0 and len(frame) > 0 and is_time(frame.iloc[:, 0])
    fitting = [
        shape
        for shape in SHAPES
        if len(shape.columns) == width and first_is_time and _fits(shape, frame, values)
    ]
    readings = {tuple(_schema_places(shape).items()) for shape in fitting}
    if len(readings) == 1:
        shape = fitting[0]
        places = {column: frame.columns[place] for column, place in _schema_places(shape).items()}
        role = {name: frame.columns[i] for i, name in enumerate(shape.columns) if name}
        return shape.name, Roles(
            (role.get("time", role.get("date")),),
            places,
            None,
            role.get("clock"),
            role.get("quote"),
            None,
            role.get("flag"),
            activity={column: role[name] for column, name in UNNAMED_ACTIVITY if name in role},
        )
    shown = ", ".join(str(value) for value in frame.iloc[0].tolist()[:12]) if len(frame) else ""
    several = " and ".join(f"{shape.name} ({' '.join(shape.columns)})" for shape in fitting)
    why = f"it may be {several}" if fitting else "its rows fit no order that is known"
    raise DoubtfulError(
        f"which column is which of {width} without names? {why}; the first row is {shown}; name "
        "them in a first line, such as timestamp,open,high,low,close,volume"
    )


def _schema_places(shape: Shape) -> dict[str, int]:
    return {column: shape.columns.index(column) for column in CANDLE_COLUMNS[1:]}


def _fits(shape: Shape, frame: pd.DataFrame, values: Sequence[np.ndarray]) -> bool:
    """Whether the numbers of a table can be what a shape says."""
    place = {name: number for number, name in enumerate(shape.columns)}
    open_, high, low, close, volume = (values[place[name]] for name in CANDLE_COLUMNS[1:])
    with np.errstate(all="ignore"):
        is_row = np.isfinite(open_ + high + low + close)
        is_candle = (low <= np.minimum(open_, close)) & (high >= np.maximum(open_, close))
        is_candle &= (low > 0) & (volume >= 0)
        if not is_row.any() or is_candle[is_row].mean() < CONSISTENT:
            return False
        middle = (high + low) / 2
        if "clock" in place and not is_clock(frame.iloc[:, place["clock"]]):
            return False
        if "close_time" in place and not (values[place["close_time"]] > values[0])[is_row].all():
            return False
        if "count" in place and not are_counts(values[place["count"]][is_row]):
            return False
        if "flag" in place and not _are_flags(frame.iloc[:, place["flag"]]):
            return False
        if "vwap" in place:
            vwap = values[place["vwap"]]
            is_inside = ((vwap >= low * 0.999) & (vwap <= high * 1.001)) | (vwap == 0)
            return bool(is_inside[is_row].mean() >= CONSISTENT)
        if "quote" in place and shape.name != "Binance klines":
            return is_quote_volume(values[place["quote"]], volume, middle)
    return True


def are_counts(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values == np.rint(values))).all())


def _are_flags(column: pd.Series) -> bool:
    return bool(column.astype(str).str.lower().isin(["0", "1", "true", "false"]).all())


def is_quote_volume(quote: np.ndarray, volume: np.ndarray, price: np.ndarray) -> bool:
    """Whether one volume is the other one times the price, within a tenth in most rows.

    Example:
        >>> is_quote_volume(np.array([200.0, 330]), np.array([2.0, 3]), np.array([101.0, 109]))
        True
    """
    with np.errstate(all="ignore"):
        ratio = (quote / (volume * price))[(volume > 0) & (quote > 0)]
    return len(ratio) > 0 and bool(abs(np.median(ratio) - 1) < 0.1)
