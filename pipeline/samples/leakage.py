"""Proof that nothing looks ahead: change every candle after t and see whether anything at or before
t changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.candles.schema import TIME_NAMES


class LookAheadError(AssertionError):
    """A function of candles used candles that come later."""


def check(
    function: Callable[[pd.DataFrame], object],
    candles: pd.DataFrame,
    *,
    cuts: tuple[float, ...] = (0.5, 0.75, 0.95),
    seed: int = 0,
) -> None:
    """Assert that `function` gives the same rows up to t whatever the candles after t are.

    Two futures are tried at each cut: every later candle replaced by another path of prices, and
    every later candle removed. The first is also tried after the very first candle, where
    back-filled values show.

    Args:
        function: Takes candles and returns one row per candle: a frame or Series on the candles'
            index, or an array with as many rows as candles. NaN equals NaN.
        candles: A row a candle; every column of numbers but the times is changed. Not changed
            itself.
        cuts: Where t lies, as shares of the candles.
        seed: Of the invented future.

    Raises:
        LookAheadError: Names the first row that changed, its column, how much it changed, and how
            far ahead it looks.
        ValueError: The function returns something else than one row per candle, or other rows at
            every call.

    Example:
        >>> candles = pd.DataFrame({"close": [1.0, 2.0, 4.0, 8.0]})
        >>> check(lambda c: c["close"].pct_change(), candles)
        >>> check(lambda c: c["close"].shift(-1), candles)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        pipeline.samples.leakage.LookAheadError: row 0, column 'close' is 2.0, but ...
    """
    whole = _as_table(function(candles.copy()), len(candles))
    if _first_difference(whole, _as_table(function(candles.copy()), len(candles))) is not None:
        raise ValueError(
            "the function gives other rows at every call for the same candles; seed what is "
            "random in it"
        )
    for t in (0, *(int(share * len(candles)) - 1 for share in cuts)):
        for kind in (
            ("changed", "removed") if t > 0 else ("changed",)
        ):  # few functions take a single candle
            table = _with_future(function, candles, t, kind, seed)
            found = _first_difference(whole.iloc[: t + 1], table.iloc[: t + 1])
            if found is None:
                continue
            row, column, before, after = found
            far = _distance(function, candles, whole, row, t, kind, seed)
            raise LookAheadError(
                f"row {row}, column {column!r} is {before}, but {after} once the candles after row "
                f"{t} are {kind}: it looks ahead, by {far} candle{'s' if far > 1 else ''}"
            )


def _distance(
    function: Callable[[pd.DataFrame], object],
    candles: pd.DataFrame,
    whole: pd.DataFrame,
    row: int,
    t: int,
    kind: str,
    seed: int,
) -> int:
    """How many candles after `row` lies the last one that it depends on, found by halving; `t`
    changes it."""
    changes, keeps = t, len(candles) - 1  # after the last candle there is nothing to change
    while keeps - changes > 1:
        middle = (changes + keeps) // 2
        table = _with_future(function, candles, middle, kind, seed)
        if _first_difference(whole.iloc[[row]], table.iloc[[row]]) is None:
            keeps = middle
        else:
            changes = middle
    return changes + 1 - row


def _with_future(
    function: Callable[[pd.DataFrame], object], candles: pd.DataFrame, t: int, kind: str, seed: int
) -> pd.DataFrame:
    """What the function makes of candles that are "changed" or "removed" after row t."""
    other = (
        _with_another_future(candles, t, seed)
        if kind == "changed"
        else candles.iloc[: t + 1].copy()
    )
    return _as_table(function(other), len(other))


def _first_difference(
    whole: pd.DataFrame, table: pd.DataFrame
) -> tuple[int, object, object, object] | None:
    """Row, column and both values where two tables first differ; None if they are equal, NaN to
    NaN."""
    if list(whole.columns) != list(table.columns):
        raise LookAheadError(
            f"the columns are {list(whole.columns)}, but {list(table.columns)} once later candles "
            "are other ones: which columns there are looks ahead"
        )
    before, after = whole.to_numpy(), table.to_numpy()
    differs = ~((before == after) | (pd.isna(before) & pd.isna(after)))
    if not differs.any():
        return None
    row, column = np.argwhere(differs)[0]
    return int(row), whole.columns[column], before[row, column], after[row, column]


def _with_another_future(candles: pd.DataFrame, t: int, seed: int) -> pd.DataFrame:
    """The same candles up to t, then another path: prices, volume and every other number differ."""
    changed = candles.copy()
    later = slice(t + 1, len(candles))
    n_later = len(candles) - t - 1
    generator = np.random.default_rng(seed)
    path = np.exp(
        np.cumsum(generator.normal(0.0, 0.05, n_later))
    )  # one factor a candle keeps low <= open, close <= high
    for name in changed.columns:
        if changed[name].dtype.kind in "iuf" and name not in TIME_NAMES:
            values = changed[name].to_numpy(np.float64, copy=True)
            values[later] *= path if name != "volume" else generator.uniform(2.0, 3.0, n_later)
            changed[name] = values
    return changed


def _as_table(result: object, n_candles: int) -> pd.DataFrame:
    if isinstance(result, np.ndarray):
        result = pd.DataFrame(result.reshape(len(result), -1))
    table = result.to_frame() if isinstance(result, pd.Series) else result
    if not isinstance(table, pd.DataFrame) or len(table) != n_candles:
        raise ValueError(
            f"the function must return one row per candle ({n_candles}), not "
            f"{type(result).__name__} of {len(result) if hasattr(result, '__len__') else '?'} "
            "rows; leave NaN where a value is not known yet"
        )
    return table
