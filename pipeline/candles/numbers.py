"""Numbers as people's files write them: decimal commas, thousands, currency signs, 12.3K."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.candles.schema import parse_numbers
from pipeline.candles.text_tables import DoubtfulError

SIZES = {"K": 1e3, "M": 1e6, "B": 1e9}

SIGNS = "$€£¥₿"

THOUSANDS = r"-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"
THOUSANDS_OF_COMMA = r"-?\d{1,3}(?:\.\d{3})+(?:,\d+)?"


def read_numbers(
    frame: pd.DataFrame, columns: Mapping[str, object], separator: str, where: str
) -> dict[str, np.ndarray]:
    """Column of the schema -> (n,) float64 from the column of a table, whose memory it may share.

    Args:
        frame: The table.
        columns: Column of the schema -> the table's; None where it is unknown, which is 0.
        separator: What stands between the values of a text; decimal commas need ";".
        where: What to call the table in errors.

    Raises:
        DoubtfulError: A comma may be a decimal sign or stand between thousands.
        ValueError: A value is no number.
    """
    texts = {name: _texts(frame[name]) for name in columns.values() if name is not None}
    comma = _sign_of_comma(frame, texts, separator)
    values = {}
    for column, name in columns.items():
        if name is None:
            values[column] = np.zeros(len(frame))
            continue
        text = texts[name]
        cleaned = frame[name] if text is None else _cleaned(text, comma)
        values[column] = parse_numbers(cleaned, where=f"{where}, column {str(name)!r}", copy=False)
    return values


def _texts(column: pd.Series) -> pd.Series | None:
    """The texts of a column that is not of numbers already."""
    if column.dtype.kind in "iufbmMc" or not isinstance(column.iloc[0], str):
        return None
    texts = column.astype("string").str.strip()
    return None if pd.to_numeric(texts, errors="coerce").notna().all() else texts


def _sign_of_comma(
    frame: pd.DataFrame, texts: Mapping[object, pd.Series | None], separator: str
) -> str:
    """ "decimal", "thousands" or "" where no number has a comma."""
    written = [text.dropna() for text in texts.values() if text is not None]
    together = pd.concat(written) if written else pd.Series(dtype="string")
    together = together.str.strip(SIGNS).str.rstrip("KMB%")
    with_comma = together[together.str.contains(",", regex=False)]
    if len(with_comma) == 0:
        return ""
    whole = [frame[name] for name, text in texts.items() if text is None]
    has_fraction = any(
        column.dtype.kind == "f" and bool((column.dropna() % 1 != 0).any()) for column in whole
    )
    has_point = has_fraction or bool(together.str.contains(".", regex=False).any())
    are_thousands = bool(with_comma.str.fullmatch(THOUSANDS).all())
    first = with_comma.iloc[0]
    if are_thousands and has_point:
        return "thousands"
    if separator == ";" and not are_thousands:
        with_point = together[together.str.contains(".", regex=False)]
        is_german = bool(with_point.str.fullmatch(THOUSANDS_OF_COMMA).all())
        is_plain = bool(with_comma.str.fullmatch(r"-?[\d.]*,\d+(?:[eE][-+]?\d+)?").all())
        if is_plain and not has_fraction and is_german:
            return "decimal"
    raise DoubtfulError(
        f"is the comma of {first!r} a decimal sign, or between thousands? write the numbers with a "
        "point as decimal sign and nothing between thousands"
    )


def _cleaned(texts: pd.Series, comma: str) -> pd.Series:
    """Texts that are numbers to Python."""
    present = texts.dropna()
    signs = set(present.str[:1]) if len(present) else set()
    if len(signs & set(SIGNS)) > 1:
        raise DoubtfulError(
            f"prices in {' and '.join(sorted(signs & set(SIGNS)))} are mixed; in which currency "
            "are they? convert them into one"
        )
    if len(signs) == 1 and signs <= set(SIGNS):
        texts = texts.str[1:]
    if comma == "decimal":
        texts = texts.str.replace(".", "", regex=False).str.replace(",", ".", regex=False)
    elif comma == "thousands":
        texts = texts.str.replace(",", "", regex=False)
    size = texts.str[-1:].map(SIZES)
    if size.notna().any():
        numbers = pd.to_numeric(texts.str.rstrip("KMB"), errors="coerce")
        if numbers.notna().equals(texts.notna()):
            return numbers.astype("float64") * size.fillna(1.0).astype("float64")
    return texts.astype(object)
