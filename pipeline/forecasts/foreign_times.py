"""When each row of anyone's forecasts was made: what tells it, and what is asked."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set

import numpy as np
import pandas as pd

from pipeline.candles.columns import clock_texts, is_clock, plain_name
from pipeline.candles.text_tables import DoubtfulError
from pipeline.forecasts.conventions import DOCUMENTED, STAMPS, Conventions, Stamped
from pipeline.forecasts.foreign_columns import OF_TARGETS, PRICES


def stamped_with_cutoff(stamped: Stamped | None) -> Stamped:
    """What the times are where each row has its cutoff: opens, unless all are closing times."""
    return "close" if stamped == "close" else "known"


def cutoffs_of_paths(keys: pd.DataFrame, n_candles: int, where: str) -> pd.Series:
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


def read_horizons(column: pd.Series, name: Hashable) -> pd.Series:
    """How many candles ahead each row is."""
    read = pd.to_numeric(column, errors="coerce").astype(np.float64)
    if read.isna().any():
        first = column[read.isna()].iloc[0]
        raise DoubtfulError(
            f"its column {str(name)!r} holds {str(first)!r}, no number of candles; how far ahead "
            f"is a forecast? pass --horizon, and --columns {name}=nothing"
        )
    return read


def with_clock(frame: pd.DataFrame, said: Mapping[str, str]) -> pd.DataFrame:
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


def what_times_are(
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
