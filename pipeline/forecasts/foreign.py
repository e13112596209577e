"""Forecasts that anyone has made, read from a file or a frame: what is sure, and what is asked.

A forecast is a row: a pair, a time, and any of

- forecast_return: log-return over the horizon; forecast_price: the close that is forecast
- direction: -1, 0 or 1; p_up: the probability of a rise
- q10, q50, q90: quantiles, of the log-return or of the price

What the names of the columns tell without doubt is read and told in one line. Where there is a
doubt, one error asks the question that decides it: never when a row was forecast is guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd

from pipeline.candles import folders, tables, text_tables
from pipeline.candles.columns import (
    OPEN_TIMES,
    PAIRS,
    TIMES,
    UNNAMED,
    clock_texts,
    is_clock,
    plain_name,
)
from pipeline.candles.instants import as_times, read_instants
from pipeline.candles.numbers import read_numbers
from pipeline.candles.pairs import KNOWN_COINS, pair_of
from pipeline.candles.recognise import question
from pipeline.candles.schema import TIMEFRAME_MS, timeframe_ms
from pipeline.candles.text_tables import DoubtfulError, Table

Stamped = Literal["known", "close", "target"]
"""What a forecast's time is: the open of the last candle that it knew, the moment when that candle
closed, or the open of the candle that it is of"""
STAMPS: dict[str, str] = {
    "known": "the open of the last candle that the forecast knew",
    "close": "the moment when that candle closed, and the forecast was made",
    "target": "the open of the candle that is forecast",
}

Unit = Literal["return", "percent", "price", "direction", "position", "p_up"]
"""What a forecast is where its column does not tell; of a direction 0 may mean down, of a position
it means none"""
UNITS: tuple[str, ...] = get_args(Unit)
OF_UNIT: dict[str, str] = {
    **dict.fromkeys(("return", "percent"), "forecast_return"),
    "price": "forecast_price",
    **dict.fromkeys(("direction", "position"), "direction"),
    "p_up": "p_up",
}
"""Unit -> the column of `SPELLINGS` that has it"""

QUANTILES = ("q10", "q50", "q90")
JUDGED_LEVEL = 80.0
"""Percent of the outcomes that the intervals which are judged hold"""
SPELLINGS = {
    "forecast_return": "forecastreturn forecastlogreturn predictedreturn predictedlogreturn "
    "returnforecast logreturnforecast predreturn",
    "forecast_price": "forecastprice predictedprice priceforecast pricepredicted predprice "
    "predictedclose forecastclose predclose closeforecast",
    "direction": "direction predicteddirection forecastdirection signal signals position side",
    "p_up": "pup probup probabilityup upprobability probabilityofrise",
    "q10": "q10 p10 quantile10 01 quantile01",
    "q50": "q50 p50 quantile50 05 quantile05 median",
    "q90": "q90 p90 quantile90 09 quantile09",
    "forecast": "forecast yhat prediction predictions predicted pred ypred",
    "cutoff": "cutoff",
    "actual": "y actual truth ytrue target",
    "model": "model modelname",
    "horizon": "horizon stepsahead forecasthorizon",
    "made": "made",
}
"""Column of a forecast -> how it is spelt, as `plain_name` writes it. The unit of "forecast", a
return or a price, is told by the candles' own prices. `horizon` is how many candles ahead a row is,
`made` when it was made."""
CALLED = ("time", "symbol", *SPELLINGS, "position", "nothing")
"""What its maker may say that a column is"""
SEVERAL = ("forecast", "forecast_return", "forecast_price", "direction", "position", "p_up")
"""Of these several columns may be one, each of which is then a model"""
DOCUMENTED = ("forecast_return", "forecast_price", "direction", "p_up", *QUANTILES)
"""Names whose `timestamp` is by contract that of the last candle known."""
OF_IDS = frozenset(("uniqueid", "itemid", "seriesid"))
"""What nixtla's and AutoGluon's frames call a series."""
OF_TARGETS = frozenset(("ds",))
"""What nixtla's and Prophet's frames call the time that is forecast."""
PRICES = ("open", "high", "low", "close")
BOUND = re.compile(r"^(?P<model>.+?)[-_](?P<side>lo|hi)[-_](?P<level>\d+(?:\.\d+)?)$")
BOUNDS = ("yhatlower", "yhatupper")
"""Prophet's interval, whose level the frame does not tell"""
MODEL_QUANTILE = re.compile(r"^(?P<model>.+?)[-_]ql?[-_]?(?P<level>0?\.\d+)$")
"""A quantile beside its model, as TimesFM, neuralforecast and Darts write it"""
QUANTILE = re.compile(
    r"^(?:q|p|quantile)?[-_ ]?(?P<level>0?\.\d+|\d{1,2}(?:\.\d+)?)$", re.IGNORECASE
)
MEDIAN = re.compile(r"^(?P<model>.+?)[-_]median$")
SAMPLE = re.compile(r"^(samples?[-_ ]?|.+_s)\d+$", re.IGNORECASE)
"""A sample's column; that of Darts is called after what is forecast, such as close_s0"""
LEAST_SAMPLES = 10
RUN_COLUMNS = frozenset(
    ("symbol", "timestamp", "base_price", "actual_return", "volatility", "naive", "lstm")
)
"""What the predictions of a training run hold, whose baselines are judged along."""
WORDS = {
    **dict.fromkeys(("buy", "long", "up", "bull", "bullish", "rise"), 1.0),
    **dict.fromkeys(("sell", "short", "down", "bear", "bearish", "fall"), -1.0),
    **dict.fromkeys(("hold", "flat", "neutral", "none", "wait", ""), 0.0),
}
LEAST_APART, NEARLY_ALL = 10, 0.95
"""Distances between forecasts, and the share of them that are alike, from which they ask what a
candle is"""
LEAST_COLUMNS = 2
"""Of a table of forecasts: a time and a number"""


@dataclass(frozen=True)
class Conventions:
    """What the maker of forecasts says of them, where nothing in the rows tells."""

    stamped: Stamped | None = None
    """what the times are"""
    symbol: str | None = None
    """the pair"""
    timezone: str | None = None
    """zone of times that name none, such as "Europe/Berlin"; None for UTC"""
    unit: Unit | None = None
    """what the forecasts are"""
    level: float | None = None
    """percent of the outcomes that shall lie between yhat_lower and yhat_upper"""
    pairs: Mapping[str, str] = field(default_factory=dict)
    """pair of each name that is none itself, such as BTC"""
    columns: Mapping[str, str] = field(default_factory=dict)
    """what a column is, of `CALLED`, where its name does not tell"""
    path: int | None = None
    """rows that were made at once and follow one another, a path of so many candles; 1 where each
    row was made by itself"""

    def __post_init__(self) -> None:
        if wrong := [what for what in self.columns.values() if what not in CALLED]:
            raise ValueError(f"columns has {wrong[0]!r}; a column is one of {', '.join(CALLED)}")
        if self.path is not None and self.path < 1:
            raise ValueError(f"path is {self.path}; it is the number of rows made at once")
        if self.path is not None and self.path > 1 and self.stamped == "known":
            raise ValueError(
                "rows of a path stand at what they forecast, so their times are not those of the "
                "candle that was known; pass --path without --stamped known"
            )
        for name, allowed in (("unit", UNITS), ("stamped", tuple(STAMPS))):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"{name} is {value!r}; pass one of {', '.join(allowed)}")


@dataclass(frozen=True, eq=False)
class ForeignForecasts:
    """Forecasts of one model, before anything is known of their candles."""

    name: str
    frame: pd.DataFrame
    """symbol ("" where it is not told), timestamp (UTC, as it is stamped), cutoff where that is
    known, and columns of `SPELLINGS`; of a training run its predictions as they are"""
    stamped: Stamped | None
    """None where nothing tells what the times are"""
    why_open: str = ""
    """why nothing tells"""
    is_run: bool = False
    """they are the predictions of a training run"""
    read_as: tuple[str, ...] = ()
    """how they were read, a phrase each"""
    left_out: tuple[str, ...] = field(default=())
    """columns that say nothing of a forecast"""
    unit: Unit | None = None
    """what its maker says that the forecasts are; None where the numbers have to tell"""
    symbol_column: str = ""
    """the column that names the pairs"""
    notes: tuple[str, ...] = ()
    """what is to be known of the verdict"""
    is_alone: bool = False
    """its maker says that each row was made by itself, and none of a path"""

    @property
    def line(self) -> str:
        """How they were read, in one line."""
        told = ", ".join(self.read_as)
        ignored = f"; not looked at: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.name}: {len(self.frame):,} rows, {told}{ignored}"


def read_forecasts(
    what: object, said: Conventions = Conventions(), *, name: str | None = None
) -> list[ForeignForecasts]:
    """Read forecasts of one model or several, whatever they are in.

    Args:
        what: Path of a CSV, Parquet, JSON or Feather file; a frame of any library; rows; columns.
        said: What their maker says of them, where nothing in the rows tells.
        name: What the model is called; default: the file's name. Of several models, which its
            columns name, it stands before their names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: They cannot be read, or it is not sure what they are; the text asks.
    """
    if isinstance(what, (str, os.PathLike)):
        path = Path(what)
        if path.is_file():
            text_tables.demand_name(path, "the forecasts")
        table, where = tables.read_table(path, LEAST_COLUMNS, _is_header), path.name
        named = path.name.split(".")[0]
        symbol = said.symbol or folders.name_of(path).symbol or _pair_in(path.name)
    else:
        where = named = name or "forecasts"
        table = _in_memory(what, where)
        symbol = said.symbol or getattr(what, "attrs", {}).get("symbol")
    try:
        return _read(table, replace(said, symbol=symbol), name, named, where)
    except DoubtfulError as doubt:
        raise question(doubt, where) from None


def _in_memory(what: object, where: str) -> Table:
    """The table that a notebook holds; a series is a forecast."""
    if isinstance(what, pd.Series):
        is_known = plain_name(what.name) in {one for of in SPELLINGS.values() for one in of.split()}
        what = what.to_frame(what.name if is_known else "forecast")
    try:
        return tables.as_table(what, LEAST_COLUMNS)
    except DoubtfulError as doubt:
        raise question(doubt, where) from None
    except ValueError as error:
        raise ValueError(
            f"{where}: {type(what).__name__} holds no forecasts that are read; pass a file's path, "
            "a frame, or columns such as {'symbol': [...], 'timestamp': [...], "
            "'forecast_return': [...]}"
        ) from error


def _read(
    table: Table, said: Conventions, name: str | None, named: str, where: str
) -> list[ForeignForecasts]:
    frame = table.columns
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    if frame.empty:
        raise ValueError(f"{where}: it holds no forecasts")
    if isinstance(frame.columns, pd.MultiIndex):
        frame = frame.set_axis([" ".join(filter(None, map(str, one))) for one in frame], axis=1)
    if not frame.columns.is_unique:
        twice = str(frame.columns[frame.columns.duplicated()][0])
        raise ValueError(
            f"{where}: two of its columns are called {twice!r}; give each its own name, in one line"
        )
    if set(frame.columns) >= RUN_COLUMNS:
        return [_as_run(frame, name or named, where)]
    frame, several = _called(_with_clock(frame, said.columns), said.columns)
    frame = _long(frame, said.pairs)
    roles = _roles_of(frame.columns)
    plain = {plain_name(column): column for column in frame.columns}
    time, how_timed = _time_column(plain, roles)
    told = [*table.told, *(f"{one!r} as {what}" for one, what in said.columns.items())]
    keys = pd.DataFrame(index=frame.index)
    keys["symbol"] = _symbols(frame, plain, said)
    zone = said.timezone
    read = read_instants(frame[time], where=f"{where}, column {str(time)!r}", timezone=zone)
    keys["timestamp"] = as_times(read.ms).set_axis(frame.index)
    if read.told:
        told.append(read.told)
    if read.is_naive:
        told.append("times without a zone, taken as UTC")
    if "cutoff" in roles:
        cut = read_instants(frame[roles["cutoff"]], where=f"{where}, cutoff", timezone=zone)
        keys["cutoff"] = as_times(cut.ms).set_axis(frame.index)
    elif "made" in roles:
        made = read_instants(frame[roles["made"]], where=f"{where}, made", timezone=zone)
        keys["made"] = as_times(made.ms).set_axis(frame.index)
    elif "horizon" in roles:
        keys["horizon"] = _horizons(frame[roles["horizon"]], roles["horizon"])
    elif said.path is not None and said.path > 1:
        keys["cutoff"] = _cutoffs(keys, said.path, where)
    if "actual" in roles:
        keys["actual"] = _numbers(frame, {"actual": roles["actual"]}, table, where)["actual"]
    found = several or _models_in(frame, plain, roles, time, where)
    notes = _add_bounds(found, plain, said.level)
    used = {time, *roles.values(), *(name for of in found.values() for name in of.values())}
    notes += _other_levels([column for column in frame.columns if column not in used])
    used |= {plain[one] for one in plain if one in (*PAIRS, *OF_IDS)}
    left_out = tuple(str(column) for column in frame.columns if column not in used)[:5]
    stamped, why_open = _stamps(said, how_timed, plain.keys(), found)
    models = []
    for model, columns in found.items():
        values, columns = _in_unit(frame, columns, said.unit, table, where)
        told_of = [*told, _phrase(columns)]
        told_of.append(
            "each with the candle that it knew last (cutoff)"
            if "cutoff" in roles
            else "each with the time when it was made"
            if "made" in roles
            else f"in paths of {said.path} candles, each made before its first one"
            if "cutoff" in keys
            else f"stamped with {STAMPS[stamped]}"
            if stamped
            else "stamped in a way that nothing tells"
        )
        label = " ".join(filter(None, (name, model))) if model else name or named
        for group, rows in _groups(frame, roles, label):
            models.append(
                ForeignForecasts(
                    name=group,
                    frame=pd.concat([keys, values], axis=1)[rows].reset_index(drop=True),
                    stamped=_of_cutoffs(said.stamped)
                    if set(keys) & {"cutoff", "made"}
                    else stamped,
                    why_open=why_open,
                    read_as=tuple(told_of),
                    left_out=left_out,
                    unit=said.unit,
                    symbol_column=str(next((plain[n] for n in plain if n in OF_IDS | PAIRS), "")),
                    notes=tuple(notes),
                    is_alone=said.path == 1,
                )
            )
    return models


def _called(
    frame: pd.DataFrame, columns: Mapping[str, str]
) -> tuple[pd.DataFrame, dict[str, dict[str, Hashable]]]:
    """The columns by the names that their maker gives them; each model, where it names several.

    Another column that is spelt as one of these is left out, since the maker has chosen.
    """
    there = {str(column): column for column in frame.columns}
    if missing := [name for name in columns if name not in there]:
        raise DoubtfulError(
            f"there is no column {missing[0]!r}; its columns are {', '.join(there)}; which one?"
        )
    of: dict[str, list[str]] = {}
    for name, what in columns.items():
        of.setdefault(what, []).append(name)
    for what, names in of.items():
        if len(names) > 1 and what not in (*SEVERAL, "nothing"):
            raise DoubtfulError(
                f"columns {' and '.join(map(repr, names))} are both called {what}; which one?"
            )
    chosen = {there[name] for name in columns}
    left_out = [
        column
        for column in frame.columns
        if column not in chosen and any(plain_name(column) in _spelt(what) for what in of)
    ]
    frame = frame.drop(columns=[*left_out, *(there[name] for name in of.pop("nothing", []))])
    single = {there[names[0]]: what for what, names in of.items() if len(names) == 1}
    several = [what for what, names in of.items() if len(names) > 1]
    models = {
        name: {"direction" if what == "position" else what: there[name]}
        for what in several
        for name in of[what]
    }
    return frame.rename(columns=single), models


def _spelt(what: str) -> Set[str]:
    """The plain names of columns that are this."""
    if what == "time":
        return OPEN_TIMES | TIMES | OF_TARGETS
    if what == "symbol":
        return OF_IDS | PAIRS
    if what == "nothing":
        return frozenset()
    return frozenset(SPELLINGS["direction" if what == "position" else what].split())


def _of_cutoffs(stamped: Stamped | None) -> Stamped:
    """What the times are where each row has its cutoff: opens, unless all are closing times."""
    return "close" if stamped == "close" else "known"


def _cutoffs(keys: pd.DataFrame, n_candles: int, where: str) -> pd.Series:
    """The last candle that each row knew, of paths that follow one another.

    Args:
        keys: Symbol and timestamp of each row, in the order of the file.
        n_candles: Rows of a path.

    Raises:
        ValueError: The rows are no such paths.
    """
    step = None
    cutoff = pd.Series(pd.NaT, index=keys.index, dtype=keys["timestamp"].dtype)
    for symbol, rows in keys.groupby("symbol", sort=False):
        times = rows["timestamp"]
        if len(rows) % n_candles:
            raise ValueError(
                f"{where}: {len(rows):,} rows{f' of {symbol}' if symbol else ''} are no whole "
                f"number of paths of {n_candles}; how many candles has a path? pass --path, or "
                "name the column that says when each row was made: --columns NAME=made"
            )
        place = np.arange(len(rows)) % n_candles
        apart = times.diff()[place > 0]
        step = apart.iloc[0] if step is None else step
        if wrong := int((apart != step).sum()):
            first = times[apart.index[(apart != step).to_numpy()][0]]
            raise ValueError(
                f"{where}: {wrong:,} rows are not {step} later than the row before in their path "
                f"of {n_candles}, first {first:%Y-%m-%d %H:%M}; how many candles has a path? pass "
                "--path, or name the column that says when each row was made: --columns NAME=made"
            )
        starts = times.where(place == 0).ffill()
        cutoff.loc[rows.index] = starts - step
    return cutoff


def _horizons(column: pd.Series, name: Hashable) -> pd.Series:
    """How many candles ahead each row is."""
    read = pd.to_numeric(column, errors="coerce").astype(np.float64)
    if read.isna().any():
        first = column[read.isna()].iloc[0]
        raise DoubtfulError(
            f"its column {str(name)!r} holds {str(first)!r}, no number of candles; how far ahead "
            f"is a forecast? pass --horizon, and --columns {name}=nothing"
        )
    return read


def _with_clock(frame: pd.DataFrame, said: Mapping[str, str]) -> pd.DataFrame:
    """The frame with one column of times, where the day and the time of day stand apart.

    Args:
        frame: The table.
        said: What its maker says of columns; of these two it leaves them as they are.
    """
    plain = {plain_name(column): column for column in frame.columns}
    if not {"date", "time"} <= set(plain) or "timestamp" in plain:
        return frame
    date, clock = plain["date"], plain["time"]
    if {str(date), str(clock)} & set(said):
        return frame
    texts = clock_texts(frame[clock])
    if frame[date].dtype.kind in "iuf" or not is_clock(frame[clock]) or ":" not in texts.iloc[0]:
        return frame
    joined = frame[date].astype(str) + " " + texts
    return frame.assign(**{str(date): joined}).drop(columns=clock)


def demand_spacing(foreign: ForeignForecasts, timeframe: str) -> None:
    """Raise where nearly all forecasts are the same several candles apart.

    Args:
        foreign: The forecasts of a file; where each row has its `cutoff`, that tells.
        timeframe: Length of a candle, which no one has said, as no one has said the horizon.
    """
    if foreign.is_run or {"cutoff", "made", "horizon"} & set(foreign.frame):
        return
    rows = foreign.frame.drop_duplicates(["symbol", "timestamp"]).sort_values("timestamp")
    apart = rows.groupby("symbol")["timestamp"].diff().dropna() // pd.Timedelta(milliseconds=1)
    if len(apart) < LEAST_APART:
        return
    step_ms, usual = timeframe_ms(timeframe), int(apart.median())
    if usual <= step_ms or usual % step_ms or (apart == usual).mean() < NEARLY_ALL:
        return
    n_candles = usual // step_ms
    longer = next((name for name, length in TIMEFRAME_MS.items() if length == usual), None)
    raise ValueError(
        f"{foreign.name}: its rows are {n_candles} candles of {timeframe} apart; how far ahead is "
        f"a forecast? pass --horizon {n_candles} for as many candles of {timeframe}, "
        f"{f'--timeframe {longer} for a candle of {longer}, ' if longer else ''}or --horizon 1 for "
        f"one candle of {timeframe}"
    )


def _is_header(cells: Sequence[str]) -> bool:
    """Whether the cells of a line name a time and what a forecast says or is of."""
    plain = {plain_name(cell) for cell in cells}
    named = {spelling for spellings in SPELLINGS.values() for spelling in spellings.split()}
    is_of_something = bool(plain & (named | PAIRS | OF_IDS)) or set(PRICES) <= plain
    is_of_something |= any(pair_of(cell) for cell in cells)
    is_of_something |= plain_name(cells[0]) in OPEN_TIMES | TIMES and not any(
        text_tables.NUMBER.fullmatch(cell.strip()) for cell in cells
    )
    return is_of_something and bool(plain & (OPEN_TIMES | TIMES | OF_TARGETS))


def _as_run(frame: pd.DataFrame, name: str, where: str) -> ForeignForecasts:
    """The predictions of a training run, with its baselines."""
    read = read_instants(frame["timestamp"], where=f"{where}, column 'timestamp'")
    rows = frame.assign(timestamp=as_times(read.ms).set_axis(frame.index))
    return ForeignForecasts(
        name=name,
        frame=rows.reset_index(drop=True),
        stamped="known",
        is_run=True,
        read_as=("the predictions of a training run, with the baselines that it fitted",),
    )


def _roles_of(columns: Sequence[Hashable]) -> dict[str, Hashable]:
    """Column of a forecast -> its name in the table."""
    roles: dict[str, Hashable] = {}
    for column in columns:
        plain = plain_name(column)
        for role, spellings in SPELLINGS.items():
            if plain in spellings.split():
                if role in roles:
                    raise DoubtfulError(
                        f"its columns {str(roles[role])!r} and {str(column)!r} may both be "
                        f"{role}; which one? pass --columns NAME={role}"
                    )
                roles[role] = column
    return roles


def _time_column(
    plain: Mapping[str, Hashable], roles: Mapping[str, Hashable]
) -> tuple[Hashable, str]:
    """The column of the times, and its plain name."""
    for names in (OF_TARGETS, OPEN_TIMES | TIMES, UNNAMED):
        found = [one for one in plain if one in names]
        if len(found) > 1 and "timestamp" in found:
            found = ["timestamp"]
        if len(found) > 1:
            raise DoubtfulError(
                f"its columns {' and '.join(str(plain[one]) for one in found)} may both be the "
                "time of a forecast; which one? pass --columns NAME=time"
            )
        if found:
            return plain[found[0]], found[0]
    raise DoubtfulError(
        f"none of its columns {', '.join(map(str, plain.values()))} is called as a time; which is "
        "the time of a forecast? pass --columns NAME=time"
    )


def _pair_in(name: str) -> str | None:
    """The pair of a known coin that one part of a file's name is, where no other part is one."""
    pairs = {pair_of(part) for part in re.split(r"[-_.\s]+", name)} - {None}
    known = [pair for pair in pairs if pair and pair.partition("/")[0] in KNOWN_COINS]
    return known[0] if len(known) == 1 else None


def _long(frame: pd.DataFrame, pairs: Mapping[str, str]) -> pd.DataFrame:
    """A row a forecast, where each pair has a column of its own, or those that are told have."""
    times = OPEN_TIMES | TIMES | OF_TARGETS | UNNAMED
    keys = [column for column in frame.columns if plain_name(column) in times]
    others = [column for column in frame.columns if column not in keys]
    told = [column for column in others if str(column) in pairs]
    are_pairs = bool(others) and all(pair_of(str(column)) for column in others)
    if not keys or not (told or are_pairs):
        return frame
    named = {pairs[str(column)] for column in told}
    told += [column for column in others if column not in told and _is_pair(column, named)]
    return frame.melt(id_vars=keys, value_vars=told, var_name="symbol", value_name="forecast")


def _is_pair(column: Hashable, others: Set[str]) -> bool:
    """Whether a column is called as a pair, and none of these."""
    return pair_of(str(column)) not in {None, *others}


def _coins_in(columns: Sequence[Hashable]) -> list[str]:
    """NAME=PAIR of each column whose name has a pair or a known coin in it, as it may be meant."""
    found = []
    for column in map(str, columns):
        parts = re.split(r"[-_.\s]+", column)
        if {plain_name(part) for part in parts} & {
            *SPELLINGS["actual"].split(),
            "true",
            "real",
            "act",
        }:
            continue
        pairs = {pair_of(part) for part in parts} - {None}
        coins = {part.upper() for part in parts} & KNOWN_COINS
        named = pairs or {f"{coin}/USDT" for coin in coins}
        if len(named) == 1:
            found.append(f"{column}={named.pop()}")
    return found


def _symbols(
    frame: pd.DataFrame, plain: Mapping[str, Hashable], said: Conventions
) -> pd.Series | str:
    """The pair of each row; "" where nothing tells."""
    column = next((plain[name] for name in plain if name in OF_IDS | PAIRS), None)
    if column is None:
        return pair_of(said.symbol) or said.symbol if said.symbol else ""
    codes, names = pd.factorize(frame[column].astype(object))
    if (codes < 0).any():
        raise ValueError(
            f"{int((codes < 0).sum())} rows name no pair in column {str(column)!r}; name it, or "
            "leave these rows out"
        )
    told = [
        said.pairs.get(str(one)) or said.pairs.get(pair_of(str(one)) or "", str(one))
        for one in names
    ]
    read = np.array([pair_of(one) or one for one in told], dtype=object)
    return pd.Series(read[codes], index=frame.index)


def _models_in(
    frame: pd.DataFrame,
    plain: Mapping[str, Hashable],
    roles: Mapping[str, Hashable],
    time: Hashable,
    where: str,
) -> dict[str, dict[str, Hashable]]:
    """Model -> its columns by role; the name "" where the table holds one that it does not name."""
    documented = {role: roles[role] for role in (*DOCUMENTED, "forecast") if role in roles}
    samples = [column for column in frame.columns if SAMPLE.match(str(column))]
    if len(samples) >= LEAST_SAMPLES:
        return {"": {**documented, **{f"sample {n}": one for n, one in enumerate(samples)}}}
    if documented:
        return {"": documented}
    if set(PRICES) <= set(plain):
        return {"": {"forecast_price": plain["close"]}}
    is_of_ids = any(name in plain for name in OF_IDS) or any(name in plain for name in OF_TARGETS)
    taken = {time, *roles.values(), *(plain[name] for name in plain if name in OF_IDS | PAIRS)}
    others = [
        column
        for column in frame.columns
        if column not in taken and frame[column].dtype.kind in "iuf"
        if plain_name(column) not in UNNAMED  # the number of the row
    ]
    models: dict[str, dict[str, Hashable]] = {}
    for column in others:
        if any(of.match(str(column)) for of in (BOUND, MEDIAN, MODEL_QUANTILE)):
            continue
        models[str(column)] = {"forecast": column}
    for column in others:
        if found := MODEL_QUANTILE.match(str(column)):
            quantile = f"q{100 * float(found['level']):.0f}"
            if quantile in QUANTILES:
                models.setdefault(found["model"], {})[quantile] = column
        if found := MEDIAN.match(str(column)):
            models.setdefault(found["model"], {}).setdefault("forecast", column)
        found = BOUND.match(str(column))
        if found and float(found["level"]) == 80 and found["model"] in models:
            side = "q10" if found["side"] == "lo" else "q90"
            models[found["model"]][side] = column
    has_quantiles = any("q10" in of and "q90" in of for of in models.values())
    if models and (is_of_ids or (has_quantiles and len(models) == 1)):
        return models
    shown = [str(column) for column in frame.columns]
    if len(shown) > 12:
        shown = [*shown[:11], f"{len(shown) - 11} more"]
    wide = _coins_in([column for column in frame.columns if column not in taken])
    no_pairs = not any(name in plain for name in OF_IDS | PAIRS)
    of_pairs = f"; where each pair has its own column, --pairs {' '.join(wide[:5])}"
    raise DoubtfulError(
        f"which of its columns {', '.join(shown)} is the forecast? pass --columns NAME=forecast, "
        "or NAME=forecast_return (log-return), forecast_price, direction (-1, 0, 1), position "
        f"or p_up{of_pairs if wide and no_pairs else ''}"
    )


def _add_bounds(
    found: Mapping[str, dict[str, Hashable]], plain: Mapping[str, Hashable], level: float | None
) -> list[str]:
    """Add Prophet's interval to the one model that there is; what to note of it."""
    if not set(BOUNDS) <= set(plain) or len(found) != 1:
        return []
    low, high = (plain[name] for name in BOUNDS)
    if level is None:
        raise DoubtfulError(
            f"how many percent of the outcomes shall lie between {low} and {high}? pass --level "
            "80, Prophet's default, or what its interval_width says"
        )
    if level != JUDGED_LEVEL:
        return [_level_note([level])]
    [columns] = found.values()
    columns |= {"q10": low, "q90": high}
    return []


def _other_levels(columns: Sequence[Hashable]) -> list[str]:
    """A note of intervals among these columns that are of another level than is judged."""
    names = [str(column) for column in columns]
    levels = {float(of["level"]) for name in names if (of := BOUND.match(name))}
    shares = {float(of["level"]) for name in names if (of := QUANTILE.match(name))}
    shares = {round(share / 100 if share >= 1 else share, 6) for share in shares}
    levels |= {
        round(100 - 200 * share, 4)
        for share in shares
        if 0 < share < 0.5 and round(1 - share, 6) in shares
    }
    levels -= {JUDGED_LEVEL}
    return [_level_note(sorted(levels))] if levels else []


def _level_note(levels: Sequence[float]) -> str:
    told = ", ".join(f"{level:g}" for level in levels)
    return f"intervals of {told} % are not judged, only those of {JUDGED_LEVEL:g} % (q10, q90)"


def _stamps(
    said: Conventions, how_timed: str, plain: Set[str], found: Mapping[str, Mapping[str, Hashable]]
) -> tuple[Stamped | None, str]:
    """What the times are, and why nothing tells where nothing does."""
    if said.stamped is not None:
        return said.stamped, ""
    names = {str(column) for columns in found.values() for column in columns.values()}
    own = names - set(said.columns.values()) - set(said.columns)  # the contract is of a file's own
    if how_timed == "timestamp" and own & set(DOCUMENTED):
        return "known", ""
    are_candles = set(PRICES) <= plain and {*map(plain_name, names)} == {"close"}
    if how_timed in OF_TARGETS or are_candles:
        what = "a candle stands at" if are_candles else "`ds` is"
        return None, (
            f"{what} the time that is forecast, and without a column `cutoff` nothing tells how "
            "many candles ahead a row was made: are all rows made --horizon candles ahead? then "
            "pass --stamped target; of paths of N candles, one after another, pass --path N; a "
            "column that says when a row was made is named by --columns NAME=made; `cutoff` is the "
            "open of the last candle that was known then"
        )
    told = "; ".join(f"{name}: {what}" for name, what in STAMPS.items())
    return None, f"what is the time of a forecast? pass --stamped {' | '.join(STAMPS)} ({told})"


def _phrase(columns: Mapping[str, Hashable]) -> str:
    n_samples = sum(role.startswith("sample ") for role in columns)
    named = [
        role if role == str(column) else f"{role} from {column}"
        for role, column in columns.items()
        if not role.startswith("sample ")
    ]
    return ", ".join([*named, *([f"{n_samples} samples a row"] if n_samples else [])])


def _groups(
    frame: pd.DataFrame, roles: Mapping[str, Hashable], label: str
) -> list[tuple[str, np.ndarray]]:
    """Rows of each model, where a column names them."""
    if "model" not in roles:
        return [(label, np.ones(len(frame), dtype=bool))]
    names = frame[roles["model"]].astype(str)
    return [(str(one), (names == one).to_numpy()) for one in names.unique()]


def _numbers(
    frame: pd.DataFrame, columns: Mapping[str, Hashable], table: Table, where: str
) -> pd.DataFrame:
    """Columns by role, (n, n_columns) float64; 1.5% is 0.015."""
    of_percent = [role for role, column in columns.items() if _are_percent(frame[column])]
    if of_percent:
        frame = frame.copy()
    for role in of_percent:
        frame[columns[role]] = frame[columns[role]].str.rstrip("% ")
    values = read_numbers(frame, columns, table.separator, where)
    values |= {role: values[role] / 100 for role in of_percent}
    return pd.DataFrame(values, index=frame.index, copy=False)


def _are_percent(column: pd.Series) -> bool:
    """Whether all that is there are texts that end with a percent sign."""
    texts = column.dropna()
    is_first = len(texts) > 0 and isinstance(texts.iloc[0], str) and texts.iloc[0].endswith("%")
    return is_first and bool(texts.astype(str).str.endswith("%").all())


def _in_unit(
    frame: pd.DataFrame,
    columns: Mapping[str, Hashable],
    unit: Unit | None,
    table: Table,
    where: str,
) -> tuple[pd.DataFrame, dict[str, Hashable]]:
    """The forecasts as numbers in the unit that their maker says, and their columns by role."""
    columns = dict(columns)
    main = [role for role in ("forecast", "forecast_return", "forecast_price") if role in columns]
    if unit is None and main and _are_words(frame[columns[main[0]]]):
        unit = "direction"
    if unit is not None and main:
        columns = {OF_UNIT[unit] if of == main[0] else of: one for of, one in columns.items()}
    values = _values(frame, columns, unit, table, where)
    if unit == "percent":
        rest = [name for name in values if name not in ("forecast_price", "direction", "p_up")]
        values[rest] /= 100
        if "p_up" in values and values["p_up"].max() > 1:
            values["p_up"] /= 100
    return values, columns


def _values(
    frame: pd.DataFrame,
    columns: Mapping[str, Hashable],
    unit: Unit | None,
    table: Table,
    where: str,
) -> pd.DataFrame:
    """The forecasts as numbers, (n, n_columns) float64; NaN where there is none."""
    numeric = {role: column for role, column in columns.items() if role != "direction"}
    values = _numbers(frame, numeric, table, where)
    if "direction" in columns:
        values["direction"] = _directions(frame[columns["direction"]], columns["direction"], unit)
    return values


def _are_words(column: pd.Series) -> bool:
    """Whether all that is there are words for directions, which no number is."""
    texts = column.dropna()
    is_text = len(texts) > 0 and isinstance(texts.iloc[0], str)
    return is_text and bool(texts.astype(str).str.strip().str.lower().isin(WORDS.keys()).all())


def _directions(column: pd.Series, name: Hashable, unit: Unit | None) -> np.ndarray:
    """(n,) -1, 0 or 1, NaN where there is none, of numbers or words."""
    if column.dtype.kind in "iufb":
        values = column.to_numpy(np.float64)
    else:
        texts = column.astype("string").str.strip().str.lower()
        numbers = pd.to_numeric(texts, errors="coerce")
        values = numbers.fillna(texts.map(WORDS).astype("Float64")).to_numpy(
            np.float64, na_value=np.nan
        )
        unread = np.isnan(values) & column.notna().to_numpy()
        if unread.any():
            first = column[unread].iloc[0]
            raise ValueError(
                f"column {str(name)!r}: {first!r} is no direction; write -1, 0 or 1, or "
                "short, flat or long"
            )
    known = values[~np.isnan(values)]
    if not np.isin(known, (-1.0, 0.0, 1.0)).all():
        row = int(np.flatnonzero(~np.isnan(values) & ~np.isin(values, (-1.0, 0.0, 1.0)))[0])
        raise ValueError(
            f"column {str(name)!r}: {values[row]:g} in row {row} is no direction; is it a "
            "probability (call it p_up) or a return (call it forecast_return)?"
        )
    is_halved = not (known == -1).any() and (known == 0).any()
    if is_halved and unit == "direction":
        return np.where(values == 0, -1.0, values)
    if is_halved and "position" not in (plain_name(name), unit):
        raise DoubtfulError(
            f"column {str(name)!r} holds 0 and 1 alone; does 0 mean down, or no position? pass "
            "--unit direction where it means down, --unit position where it means none"
        )
    return values
