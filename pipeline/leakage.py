"""Proof that nothing looks ahead: change every candle after t and see whether anything at or before t changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from pipeline.candles import CANDLE_COLUMNS, OPTIONAL_COLUMNS


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

    Two futures are tried at each cut: every later candle replaced by another path of prices, and every later candle
    removed. The first is also tried after the very first candle, where back-filled values show.

    Args:
        function: Takes candles and returns one row per candle: a frame or Series on the candles' index, or an array
            with as many rows as candles. NaN equals NaN.
        candles: Frame in the schema of `pipeline.candles`.
        cuts: Where t lies, as shares of the candles.
        seed: Of the invented future.

    Raises:
        LookAheadError: Names the first row that changed, its column, and how much it changed.

    Example:
        >>> candles = pd.DataFrame({"close": [1.0, 2.0, 4.0, 8.0]})
        >>> check(lambda c: c["close"].pct_change(), candles)
        >>> check(lambda c: c["close"] / c["close"].mean(), candles)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        pipeline.leakage.LookAheadError: ...
    """
    whole = _as_table(function(candles.copy()), len(candles))
    for t in (0, *(int(share * len(candles)) - 1 for share in cuts)):
        futures = {"changed": _with_another_future(candles, t, seed)}
        if t > 0:  # few functions take a single candle
            futures["removed"] = candles.iloc[: t + 1].copy()
        for kind, changed in futures.items():
            table = _as_table(function(changed), len(changed))
            before, after = whole.iloc[: t + 1].to_numpy(), table.iloc[: t + 1].to_numpy()
            differs = ~((before == after) | (pd.isna(before) & pd.isna(after)))
            if differs.any():
                row, column = np.argwhere(differs)[0]
                raise LookAheadError(
                    f"row {row}, column {whole.columns[column]!r} is {before[row, column]}, but "
                    f"{after[row, column]} once the candles after row {t} are {kind}: it looks ahead"
                )


def _with_another_future(candles: pd.DataFrame, t: int, seed: int) -> pd.DataFrame:
    """The same candles up to t, then another path: prices, volume, funding and open interest all differ."""
    changed = candles.copy()
    later = slice(t + 1, len(candles))
    n_later = len(candles) - t - 1
    generator = np.random.default_rng(seed)
    path = np.exp(
        np.cumsum(generator.normal(0.0, 0.05, n_later))
    )  # one factor a candle keeps low <= open, close <= high
    for name in (*CANDLE_COLUMNS[1:], *OPTIONAL_COLUMNS):
        if name in changed.columns:
            values = changed[name].to_numpy(copy=True)
            values[later] *= path if name != "volume" else generator.uniform(2.0, 3.0, n_later)
            changed[name] = values
    return changed


def _as_table(result: object, n_candles: int) -> pd.DataFrame:
    if isinstance(result, np.ndarray):
        result = pd.DataFrame(result.reshape(len(result), -1))
    table = result.to_frame() if isinstance(result, pd.Series) else result
    if not isinstance(table, pd.DataFrame) or len(table) != n_candles:
        raise ValueError(
            f"the function must return one row per candle ({n_candles}), not {type(result).__name__} "
            f"of {len(result) if hasattr(result, '__len__') else '?'} rows"
        )
    return table
