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
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.candles import folders, tables, text_tables
from pipeline.candles.columns import OPEN_TIMES, PAIRS, TIMES, UNNAMED, plain_name
from pipeline.candles.instants import as_times, read_instants
from pipeline.candles.numbers import read_numbers
from pipeline.candles.pairs import pair_of
from pipeline.candles.recognise import question
from pipeline.candles.text_tables import DoubtfulError, Table

Stamped = Literal["known", "close", "target"]
"""What a forecast's time is: the open of the last candle that it knew, the moment when that candle
closed, or the open of the candle that it is of"""
STAMPS: dict[str, str] = {
    "known": "the open of the last candle that the forecast knew",
    "close": "the moment when that candle closed, and the forecast was made",
    "target": "the open of the candle that is forecast",
}

QUANTILES = ("q10", "q50", "q90")
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
}
"""Column of a forecast -> how it is spelt, as `plain_name` writes it. The unit of "forecast", a
return or a price, is told by the candles' own prices."""
DOCUMENTED = ("forecast_return", "forecast_price", "direction", "p_up", *QUANTILES)
"""Names whose `timestamp` is by contract that of the last candle known."""
OF_IDS = frozenset(("uniqueid", "itemid", "seriesid"))
"""What nixtla's and AutoGluon's frames call a series."""
OF_TARGETS = frozenset(("ds",))
"""What nixtla's and Prophet's frames call the time that is forecast."""
PRICES = ("open", "high", "low", "close")
BOUND = re.compile(r"^(?P<model>.+?)[-_](?P<side>lo|hi)[-_](?P<level>\d+(?:\.\d+)?)$")
MEDIAN = re.compile(r"^(?P<model>.+?)[-_]median$")
SAMPLE = re.compile(r"^samples?[-_ ]?\d+$", re.IGNORECASE)
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

    @property
    def line(self) -> str:
        """How they were read, in one line."""
        told = ", ".join(self.read_as)
        ignored = f"; not looked at: {', '.join(self.left_out)}" if self.left_out else ""
        return f"{self.name}: {len(self.frame):,} rows, {told}{ignored}"


def read_forecasts(
    what: object,
    *,
    name: str | None = None,
    stamped: Stamped | None = None,
    symbol: str | None = None,
    timezone: str | None = None,
) -> list[ForeignForecasts]:
    """Read forecasts of one model or several, whatever they are in.

    Args:
        what: Path of a CSV, Parquet, JSON or Feather file; a frame of any library; rows; columns.
        name: What the model is called; default: the file's name. Of several models, which its
            columns name, it stands before their names.
        stamped: What the times are, where nothing tells; see `Stamped`.
        symbol: The pair, where the rows do not tell.
        timezone: Zone of times that name none, such as "Europe/Berlin"; None for UTC.

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
        symbol = symbol or folders.name_of(path).symbol
    else:
        where = named = name or "forecasts"
        try:
            table = tables.as_table(what, LEAST_COLUMNS)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        symbol = symbol or getattr(what, "attrs", {}).get("symbol")
    try:
        return _read(table, name, named, stamped, symbol, timezone, where)
    except DoubtfulError as doubt:
        raise question(doubt, where) from None


def _read(
    table: Table,
    name: str | None,
    named: str,
    stamped: Stamped | None,
    symbol: str | None,
    timezone: str | None,
    where: str,
) -> list[ForeignForecasts]:
    frame = table.columns
    if not isinstance(frame.index, pd.RangeIndex):
        frame = frame.reset_index()
    if frame.empty:
        raise ValueError(f"{where}: it holds no forecasts")
    if set(frame.columns) >= RUN_COLUMNS:
        return [_as_run(frame, name or named, where)]
    roles = _roles_of(frame.columns)
    plain = {plain_name(column): column for column in frame.columns}
    time, how_timed = _time_column(plain, roles)
    told = list(table.told)
    keys = pd.DataFrame(index=frame.index)
    keys["symbol"] = _symbols(frame, plain, symbol)
    read = read_instants(frame[time], where=f"{where}, column {str(time)!r}", timezone=timezone)
    keys["timestamp"] = as_times(read.ms).set_axis(frame.index)
    if read.told:
        told.append(read.told)
    if "cutoff" in roles:
        cut = read_instants(frame[roles["cutoff"]], where=f"{where}, cutoff", timezone=timezone)
        keys["cutoff"] = as_times(cut.ms).set_axis(frame.index)
    if "actual" in roles:
        keys["actual"] = _numbers(frame, {"actual": roles["actual"]}, table, where)["actual"]
    found = _models_in(frame, plain, roles, time, where)
    used = {time, *roles.values(), *(name for of in found.values() for name in of.values())}
    used |= {plain[one] for one in plain if one in (*PAIRS, *OF_IDS)}
    left_out = tuple(str(column) for column in frame.columns if column not in used)[:5]
    said, why_open = _stamps(stamped, how_timed, roles, found)
    models = []
    for model, columns in found.items():
        values = _values(frame, columns, table, where)
        told_of = [*told, _phrase(columns)]
        told_of.append(
            "each with the candle that it knew last (cutoff)"
            if "cutoff" in keys
            else f"stamped with {STAMPS[said]}"
            if said
            else "stamped in a way that nothing tells"
        )
        label = " ".join(filter(None, (name, model))) if model else name or named
        for group, rows in _groups(frame, roles, label):
            models.append(
                ForeignForecasts(
                    name=group,
                    frame=pd.concat([keys, values], axis=1)[rows].reset_index(drop=True),
                    stamped="known" if "cutoff" in keys else said,
                    why_open=why_open,
                    read_as=tuple(told_of),
                    left_out=left_out,
                )
            )
    return models


def _is_header(cells: Sequence[str]) -> bool:
    """Whether the cells of a line name a time and what a forecast says or is of."""
    plain = {plain_name(cell) for cell in cells}
    named = {spelling for spellings in SPELLINGS.values() for spelling in spellings.split()}
    is_of_something = bool(plain & (named | PAIRS | OF_IDS)) or set(PRICES) <= plain
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
                        f"{role}; which one? leave the other one out"
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
                "time of a forecast; which one? leave the other one out, or call it timestamp"
            )
        if found:
            return plain[found[0]], found[0]
    raise DoubtfulError(
        f"none of its columns {', '.join(map(str, plain.values()))} is called as a time; which is "
        "the time of a forecast? call it timestamp"
    )


def _symbols(
    frame: pd.DataFrame, plain: Mapping[str, Hashable], symbol: str | None
) -> pd.Series | str:
    """The pair of each row; "" where nothing tells."""
    column = next((plain[name] for name in plain if name in OF_IDS | PAIRS), None)
    if column is None:
        return pair_of(symbol) or symbol if symbol else ""
    codes, names = pd.factorize(frame[column].astype(object))
    if (codes < 0).any():
        raise ValueError(
            f"{int((codes < 0).sum())} rows name no pair in column {str(column)!r}; name it, or "
            "leave these rows out"
        )
    pairs = np.array([pair_of(str(one)) or str(one) for one in names], dtype=object)
    return pd.Series(pairs[codes], index=frame.index)


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
    ]
    models: dict[str, dict[str, Hashable]] = {}
    for column in others:
        if BOUND.match(str(column)) or MEDIAN.match(str(column)):
            continue
        models[str(column)] = {"forecast": column}
    for column in others:
        if found := MEDIAN.match(str(column)):
            models.setdefault(found["model"], {}).setdefault("forecast", column)
        found = BOUND.match(str(column))
        if found and float(found["level"]) == 80 and found["model"] in models:
            side = "q10" if found["side"] == "lo" else "q90"
            models[found["model"]][side] = column
    if models and is_of_ids:
        return models
    raise DoubtfulError(
        f"which of its columns {', '.join(map(str, frame.columns))} is the forecast? call it "
        "forecast_return (log-return), forecast_price, direction (-1, 0, 1) or p_up"
    )


def _stamps(
    stamped: Stamped | None,
    how_timed: str,
    roles: Mapping[str, Hashable],
    found: Mapping[str, Mapping[str, Hashable]],
) -> tuple[Stamped | None, str]:
    """What the times are, and why nothing tells where nothing does."""
    if stamped is not None:
        if stamped not in STAMPS:
            raise ValueError(f"stamped is {stamped!r}; pass one of {', '.join(STAMPS)}")
        return stamped, ""
    names = {str(column) for columns in found.values() for column in columns.values()}
    if how_timed == "timestamp" and names & set(DOCUMENTED):
        return "known", ""
    if how_timed in OF_TARGETS:
        return None, (
            "`ds` is the time that is forecast, and without a column `cutoff` nothing tells how "
            "many candles ahead a row was made: are all rows made --horizon candles ahead? then "
            "pass --stamped target"
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
    values = read_numbers(frame, columns, table.separator, where)
    return pd.DataFrame(values, index=frame.index, copy=False)


def _values(
    frame: pd.DataFrame, columns: Mapping[str, Hashable], table: Table, where: str
) -> pd.DataFrame:
    """The forecasts as numbers, (n, n_columns) float64; NaN where there is none."""
    numeric = {role: column for role, column in columns.items() if role != "direction"}
    values = _numbers(frame, numeric, table, where)
    if "direction" in columns:
        values["direction"] = _directions(frame[columns["direction"]], columns["direction"])
    return values


def _directions(column: pd.Series, name: Hashable) -> np.ndarray:
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
    if is_halved and plain_name(name) != "position":
        raise DoubtfulError(
            f"column {str(name)!r} holds 0 and 1 alone; does 0 mean down, or no position? write -1 "
            "for down, or call the column position"
        )
    return values
