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
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from pipeline.candles import folders, tables, text_tables
from pipeline.candles.columns import PAIRS, plain_name
from pipeline.candles.instants import as_times, read_instants
from pipeline.candles.recognise import question
from pipeline.candles.schema import TIMEFRAME_MS, timeframe_ms
from pipeline.candles.text_tables import DoubtfulError, Table
from pipeline.forecasts.conventions import SPELLINGS, STAMPS, Conventions, Stamped, Unit
from pipeline.forecasts.foreign_columns import (
    OF_IDS,
    add_bounds,
    as_called,
    as_long,
    is_header,
    models_in,
    notes_of_levels,
    pair_in,
    phrase_of,
    roles_of,
    rows_by_model,
    symbols_of,
    time_column,
)
from pipeline.forecasts.foreign_times import (
    cutoffs_of_paths,
    read_horizons,
    stamped_with_cutoff,
    what_times_are,
    with_clock,
)
from pipeline.forecasts.foreign_values import numbers_of, read_values

RUN_COLUMNS = frozenset(
    ("symbol", "timestamp", "base_price", "actual_return", "volatility", "naive", "lstm")
)
"""What the predictions of a training run hold, whose baselines are judged along."""
LEAST_APART, NEARLY_ALL = 10, 0.95
"""Distances between forecasts, and the share of them that are alike, from which they ask what a
candle is"""
LEAST_COLUMNS = 2
"""Of a table of forecasts: a time and a number"""


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
    def tells_when_made(self) -> bool:
        """Whether each row says itself when, or how many candles ahead, it was made."""
        return not {"cutoff", "made", "horizon"}.isdisjoint(self.frame)

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
        table, where = tables.read_table(path, LEAST_COLUMNS, is_header), path.name
        named = path.name.split(".")[0]
        symbol = said.symbol or folders.name_of(path).symbol or pair_in(path.name)
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
    """The models of a table, each with its rows."""
    frame = _tidied(table.columns, where)
    if set(frame.columns) >= RUN_COLUMNS:
        return [_as_run(frame, name or named, where)]

    # Columns: which is what, by its name or by what its maker says.
    frame, several = as_called(with_clock(frame, said.columns), said.columns)
    frame = as_long(frame, said.pairs)
    roles = roles_of(frame.columns)
    plain = {plain_name(column): column for column in frame.columns}
    time, how_timed = time_column(plain, roles)
    found = several or models_in(frame, plain, roles, time, where)
    notes = add_bounds(found, plain, said.level)
    used = {time, *roles.values(), *(column for of in found.values() for column in of.values())}
    notes += notes_of_levels([column for column in frame.columns if column not in used])
    of_pairs = [plain[one] for one in plain if one in OF_IDS | PAIRS]
    left_out = [str(column) for column in frame.columns if column not in {*used, *of_pairs}]

    # Times: of which pair and when each row is, and when it was made.
    keys = pd.DataFrame({"symbol": symbols_of(frame, plain, said)}, index=frame.index)
    times, told_of_times = _times(frame, time, said, where)
    keys["timestamp"] = times
    made, told_of_making = _making(frame, roles, keys, said, where)
    keys = keys.assign(**made)
    if "actual" in roles:
        keys["actual"] = numbers_of(frame, {"actual": roles["actual"]}, table, where)["actual"]
    stamped, why_open = what_times_are(said, how_timed, plain.keys(), found)
    if set(made) & {"cutoff", "made"}:
        stamped = stamped_with_cutoff(said.stamped)
    if not told_of_making:
        how = f"with {STAMPS[stamped]}" if stamped else "in a way that nothing tells"
        told_of_making = f"stamped {how}"

    # Numbers: of each model, in the unit that its maker says.
    told = [*table.told, *(f"{one!r} as {what}" for one, what in said.columns.items())]
    models = []
    for model, columns in found.items():
        values, columns = read_values(frame, columns, said.unit, table, where)
        label = " ".join(filter(None, (name, model))) if model else name or named
        for group, rows in rows_by_model(frame, roles, label):
            models.append(
                ForeignForecasts(
                    name=group,
                    frame=pd.concat([keys, values], axis=1)[rows].reset_index(drop=True),
                    stamped=stamped,
                    why_open=why_open,
                    read_as=(*told, *told_of_times, phrase_of(columns), told_of_making),
                    left_out=tuple(left_out[:5]),
                    unit=said.unit,
                    symbol_column=str(of_pairs[0]) if of_pairs else "",
                    notes=tuple(notes),
                    is_alone=said.path == 1,
                )
            )
    return models


def _tidied(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with its index as columns, each with a name of its own."""
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
    return frame


def _times(
    frame: pd.DataFrame, column: Hashable, said: Conventions, where: str
) -> tuple[pd.Series, list[str]]:
    """A column of times, UTC, and what to tell of how they were read."""
    read = read_instants(
        frame[column], where=f"{where}, column {str(column)!r}", timezone=said.timezone
    )
    told = [read.told] if read.told else []
    told += ["times without a zone, taken as UTC"] if read.is_naive else []
    return as_times(read.ms).set_axis(frame.index), told


def _making(
    frame: pd.DataFrame,
    roles: Mapping[str, Hashable],
    keys: pd.DataFrame,
    said: Conventions,
    where: str,
) -> tuple[dict[str, pd.Series], str]:
    """What tells when each row was made, by the name of its column, and a phrase of it."""
    if "cutoff" in roles:
        known, _ = _times(frame, roles["cutoff"], said, where)
        return {"cutoff": known}, "each with the candle that it knew last (cutoff)"
    if "made" in roles:
        made, _ = _times(frame, roles["made"], said, where)
        return {"made": made}, "each with the time when it was made"
    if "horizon" in roles:
        return {"horizon": read_horizons(frame[roles["horizon"]], roles["horizon"])}, ""
    if said.path is not None and said.path > 1:
        told = f"in paths of {said.path} candles, each made before its first one"
        return {"cutoff": cutoffs_of_paths(keys, said.path, where)}, told
    return {}, ""


def open_questions(foreign: ForeignForecasts, timeframe: str | None) -> list[str]:
    """What the rows of a file leave open, whatever the candles, a question each.

    Args:
        foreign: The forecasts of a file.
        timeframe: Length of a candle where no one has said it, nor the horizon; else None.
    """
    asked = [_question_of_spacing(foreign, timeframe)] if timeframe is not None else []
    if foreign.stamped is None:
        asked.append(foreign.why_open)
    return [f"{foreign.name}: {question}" for question in asked if question]


def _question_of_spacing(foreign: ForeignForecasts, timeframe: str) -> str:
    """How far ahead a forecast is, where nearly all are the same several candles apart; else ""."""
    if foreign.is_run or foreign.tells_when_made:
        return ""
    rows = foreign.frame.drop_duplicates(["symbol", "timestamp"]).sort_values("timestamp")
    apart = rows.groupby("symbol")["timestamp"].diff().dropna() // pd.Timedelta(milliseconds=1)
    if len(apart) < LEAST_APART:
        return ""
    step_ms, usual = timeframe_ms(timeframe), int(apart.median())
    if usual <= step_ms or usual % step_ms or (apart == usual).mean() < NEARLY_ALL:
        return ""
    n_candles = usual // step_ms
    longer = next((name for name, length in TIMEFRAME_MS.items() if length == usual), None)
    return (
        f"its rows are {n_candles} candles of {timeframe} apart; how far ahead is a forecast? pass "
        f"--horizon {n_candles} for as many candles of {timeframe}, "
        f"{f'--timeframe {longer} for a candle of {longer}, ' if longer else ''}or --horizon 1 for "
        f"one candle of {timeframe}"
    )


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
