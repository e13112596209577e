"""Which column of anyone's forecasts is what, by its name or by what its maker says."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence, Set

import numpy as np
import pandas as pd

from pipeline.candles import text_tables
from pipeline.candles.columns import OPEN_TIMES, PAIRS, TIMES, UNNAMED, plain_name
from pipeline.candles.pairs import KNOWN_COINS, pair_of
from pipeline.candles.text_tables import DoubtfulError
from pipeline.forecasts.conventions import DOCUMENTED, QUANTILES, SEVERAL, SPELLINGS, Conventions

JUDGED_LEVEL = 80.0
"""Percent of the outcomes that the intervals which are judged hold"""
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


def as_called(
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


def is_header(cells: Sequence[str]) -> bool:
    """Whether the cells of a line name a time and what a forecast says or is of."""
    plain = {plain_name(cell) for cell in cells}
    named = {spelling for spellings in SPELLINGS.values() for spelling in spellings.split()}
    is_of_something = bool(plain & (named | PAIRS | OF_IDS)) or set(PRICES) <= plain
    is_of_something |= any(pair_of(cell) for cell in cells)
    is_of_something |= plain_name(cells[0]) in OPEN_TIMES | TIMES and not any(
        text_tables.NUMBER.fullmatch(cell.strip()) for cell in cells
    )
    return is_of_something and bool(plain & (OPEN_TIMES | TIMES | OF_TARGETS))


def roles_of(columns: Sequence[Hashable]) -> dict[str, Hashable]:
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


def time_column(
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


def pair_in(name: str) -> str | None:
    """The pair of a known coin that one part of a file's name is, where no other part is one."""
    pairs = {pair_of(part) for part in re.split(r"[-_.\s]+", name)} - {None}
    known = [pair for pair in pairs if pair and pair.partition("/")[0] in KNOWN_COINS]
    return known[0] if len(known) == 1 else None


def as_long(frame: pd.DataFrame, pairs: Mapping[str, str]) -> pd.DataFrame:
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


def symbols_of(
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


def models_in(
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


def add_bounds(
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


def notes_of_levels(columns: Sequence[Hashable]) -> list[str]:
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


def phrase_of(columns: Mapping[str, Hashable]) -> str:
    n_samples = sum(role.startswith("sample ") for role in columns)
    named = [
        role if role == str(column) else f"{role} from {column}"
        for role, column in columns.items()
        if not role.startswith("sample ")
    ]
    return ", ".join([*named, *([f"{n_samples} samples a row"] if n_samples else [])])


def rows_by_model(
    frame: pd.DataFrame, roles: Mapping[str, Hashable], label: str
) -> list[tuple[str, np.ndarray]]:
    """Rows of each model, where a column names them."""
    if "model" not in roles:
        return [(label, np.ones(len(frame), dtype=bool))]
    names = frame[roles["model"]].astype(str)
    return [(str(one), (names == one).to_numpy()) for one in names.unique()]
