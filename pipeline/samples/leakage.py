"""Proof that nothing looks ahead: nothing at or before t changes with the candles after t."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.candles.schema import TIME_NAMES


@dataclass(frozen=True)
class Leak:
    """A row that needs candles which come later."""

    row: int
    """first row that changed"""
    column: object
    """first of its columns that changed"""
    before: object
    """its value"""
    after: object
    """its value once later candles are others"""
    cut: int
    """the candles after this row are others"""
    future: str
    """what they are: changed or removed"""
    reached: int
    """last candle that the row depends on"""

    def __str__(self) -> str:
        far = self.reached - self.row
        return (
            f"row {self.row}, column {self.column!r} is {self.before}, but {self.after} once the "
            f"candles after row {self.cut} are {self.future}: it looks ahead, by {far} "
            f"candle{'s' if far > 1 else ''}"
        )


class LookAheadError(AssertionError):
    """A function of candles used candles that come later."""


class UnrepeatableError(ValueError):
    """A function gives other rows at every call, so that nothing can be proved of it."""


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
        seed: Seed of the invented future.

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
    later = [t for share in cuts if (t := int(share * len(candles)) - 1) > 0]
    # After the first candle nothing is removed: few functions take a single one.
    futures = [(0, "changed"), *itertools.product(later, ("changed", "removed"))]
    leak = find_leak(function, candles, futures, seed=seed)
    if leak is not None:
        raise LookAheadError(str(leak))


def find_leak(
    function: Callable[[pd.DataFrame], object],
    candles: pd.DataFrame,
    futures: Sequence[tuple[int, str]],
    *,
    seed: int = 0,
    tolerance: Mapping[str, float] = {},
) -> Leak | None:
    """The first row that changes with the candles after it, or None.

    Args:
        function: See `check`.
        candles: See `check`.
        futures: Rows t, and whether the candles after t are "changed" or "removed"; tried in turn.
        seed: Seed of the invented future.
        tolerance: Future -> change that counts as none, as a share of the value and of its
            column's standard deviation together; of columns of numbers alone. Where candles are
            removed, arrays have other sizes, and a product of matrices other last digits.

    Raises:
        LookAheadError: Which columns there are depends on later candles.
        UnrepeatableError: The function gives other rows at every call.
        ValueError: The function returns something else than one row per candle.
    """
    last = len(candles) - 1

    def rows_with(future: str, t: int) -> pd.DataFrame:
        """What the function makes of candles that are "changed" or "removed" after row t."""
        known = candles.iloc[: t + 1].copy()
        other = known if future == "removed" else with_another_future(candles, t, seed)
        return _as_table(function(other), len(other))

    whole = rows_with("removed", last)
    size = whole.abs() + whole.std() if tolerance else whole

    def difference(
        rows: slice, other: pd.DataFrame, share: float
    ) -> tuple[int, object, object, object] | None:
        nearly = share * size.iloc[rows].to_numpy() if share else None
        return _first_difference(whole.iloc[rows], other.iloc[rows], nearly)

    everything, again = slice(None), rows_with("removed", last)
    noise = max(tolerance.values(), default=0.0)
    if difference(everything, again, noise) is not None:
        raise UnrepeatableError(
            "the function gives other rows at every call for the same candles; seed what is "
            "random in it"
        )
    # Threads that add up in another order at every call leave such noise everywhere.
    is_noisy = difference(everything, again, min(tolerance.values(), default=0.0)) is not None
    for t, future in futures:
        share = noise if is_noisy else tolerance.get(future, 0.0)
        found = difference(slice(t + 1), rows_with(future, t), share)
        if found is None:
            continue
        row, column, before, after = found

        def is_kept(t: int, row: int = row, future: str = future, share: float = share) -> bool:
            return difference(slice(row, row + 1), rows_with(future, t), share) is None

        # The last candle that the row depends on; after the last of all there is none to change.
        reached = bisect.bisect_left(range(last), True, lo=t + 1, key=is_kept)
        return Leak(row, column, before, after, t, future, reached)
    return None


def _first_difference(
    whole: pd.DataFrame, table: pd.DataFrame, nearly: np.ndarray | None = None
) -> tuple[int, object, object, object] | None:
    """Row, column and both values where two tables first differ, NaN equal to NaN; or None.

    Numbers may differ by `nearly`, of the same shape.
    """
    if list(whole.columns) != list(table.columns):
        raise LookAheadError(
            f"the columns are {list(whole.columns)}, but {list(table.columns)} once later candles "
            "are other ones: which columns there are looks ahead"
        )
    before, after = whole.to_numpy(), table.to_numpy()
    differs = ~((before == after) | (pd.isna(before) & pd.isna(after)))
    if nearly is not None and differs.any():
        differs &= ~(np.abs(before - after) <= nearly)
    if not differs.any():
        return None
    row, column = np.argwhere(differs)[0]
    return int(row), whole.columns[column], before[row, column], after[row, column]


def with_another_future(candles: pd.DataFrame, t: int, seed: int) -> pd.DataFrame:
    """The same candles up to t, then another path: prices, volume and every other number differ.

    A volume of 0 becomes 1, so that what was unknown is known.
    """
    changed = candles.copy()
    n_later = len(candles) - t - 1
    generator = np.random.default_rng(seed)
    # One factor a candle, so that low <= open, close <= high still holds.
    path = np.exp(np.cumsum(generator.normal(0.0, 0.05, n_later)))
    for name in changed.columns:
        if changed[name].dtype.kind in "iuf" and name not in TIME_NAMES:
            values = changed[name].to_numpy(np.float64, copy=True)
            values[t + 1 :] *= path if name != "volume" else generator.uniform(2.0, 3.0, n_later)
            if name == "volume":
                values[t + 1 :] += values[t + 1 :] == 0
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
