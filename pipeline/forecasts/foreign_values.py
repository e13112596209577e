"""The numbers of anyone's forecasts, in the unit that their maker says."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd

from pipeline.candles.columns import plain_name
from pipeline.candles.numbers import read_numbers
from pipeline.candles.text_tables import DoubtfulError, Table
from pipeline.forecasts.conventions import Unit

OF_UNIT: dict[str, str] = {
    **dict.fromkeys(("return", "percent"), "forecast_return"),
    "price": "forecast_price",
    **dict.fromkeys(("direction", "position"), "direction"),
    "p_up": "p_up",
}
"""Unit -> the column of `SPELLINGS` that has it"""
WORDS = {
    **dict.fromkeys(("buy", "long", "up", "bull", "bullish", "rise"), 1.0),
    **dict.fromkeys(("sell", "short", "down", "bear", "bearish", "fall"), -1.0),
    **dict.fromkeys(("hold", "flat", "neutral", "none", "wait", ""), 0.0),
}


def numbers_of(
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


def read_values(
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
    values = numbers_of(frame, numeric, table, where)
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
