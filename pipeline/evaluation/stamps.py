"""The last candle that each of anyone's forecasts knew, and whether rows were made at once."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.candles.schema import DAY_MS, timestamps_ms
from pipeline.forecasts.foreign import ForeignForecasts
from pipeline.samples.windows import Samples

FOLLOWS, LEAST_OF_PATH = 0.6, 20
"""Share of the last known move that the next forecast price follows, below which rows may have been
made at once: of paths of two candles it is a half; rows that tell it"""
KNOWS = 0.3
"""Correlation with what came true beyond that of any forecast"""
ENDS = 1_000
"""ms; a closing time of 12:59:59.999 is that of 13:00"""


def last_known(
    foreign: ForeignForecasts, rows: pd.DataFrame, targets: Samples
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """The rows of this horizon, the open of the last candle that each knew (epoch ms), and notes.

    Raises:
        ValueError: Nothing tells, no row is of this horizon, or the times are no candles'.
    """
    step_ms, horizon = targets.step_ms, targets.horizon
    stamps = timestamps_ms(rows)
    if "made" in rows or "cutoff" in rows:
        known = timestamps_ms(rows.assign(timestamp=rows.get("made", rows.get("cutoff"))))
        if foreign.stamped == "close":  # all of its times are closing times
            stamps, known = _opens(stamps, step_ms), _opens(known, step_ms)
        elif "made" in rows:  # the last candle that had closed by then
            known = known // step_ms * step_ms - step_ms
        remedy = "pass --horizon, or the timeframe of the candles that were forecast"
        chosen, notes = _of_horizon(foreign, (stamps - known) / step_ms, horizon, remedy)
        return rows[chosen], known[chosen], notes
    notes = []
    if "horizon" in rows:
        remedy = (
            "pass --horizon, or --columns NAME=nothing where their column of horizons is no number "
            "of candles"
        )
        chosen, notes = _of_horizon(foreign, rows["horizon"].to_numpy(), horizon, remedy)
        rows, stamps = rows[chosen], stamps[chosen]
    if foreign.stamped is None:
        raise ValueError(f"{foreign.name}: {foreign.why_open}")
    if foreign.stamped == "close":
        stamps = _opens(stamps, step_ms)
    _demand_grid(foreign, rows, stamps, targets)
    if foreign.stamped == "target":
        stamps = stamps - horizon * step_ms
        if "horizon" not in rows:
            notes.append(
                f"each row is taken as made {horizon} candle(s) before what it forecasts; of paths "
                "of N candles pass --path N"
            )
    return rows, stamps, notes


def _of_horizon(
    foreign: ForeignForecasts, ahead: np.ndarray, horizon: int, remedy: str
) -> tuple[np.ndarray, list[str]]:
    """(n,) which rows are so many candles ahead, and what to note of the others."""
    chosen = ahead == horizon
    if not chosen.any():
        found = ", ".join(f"{one:g}" for one in np.unique(ahead)[:5])
        raise ValueError(
            f"{foreign.name}: its rows are {found} candles ahead of the last one that they knew, "
            f"none of them {horizon}; {remedy}"
        )
    n_others = int((~chosen).sum())
    if not n_others:
        return chosen, []
    return chosen, [
        f"{n_others:,} rows are of another horizon than {horizon} and not judged here (--horizon)"
    ]


def _demand_grid(
    foreign: ForeignForecasts, rows: pd.DataFrame, opens: np.ndarray, targets: Samples
) -> None:
    """Raise on times that lie between candles; longer ones than a day begin where they like."""
    off = np.flatnonzero(opens % targets.step_ms)
    if len(off) and targets.step_ms <= DAY_MS:
        first = rows["timestamp"].iloc[off[0]]
        raise ValueError(
            f"{foreign.name}: {len(off):,} of {len(opens):,} times lie between candles of "
            f"{targets.timeframe}, first {first:%Y-%m-%d %H:%M:%S}; are they closing times "
            "(--stamped close), or is it another --timeframe?"
        )


def _opens(stamps: np.ndarray, step_ms: int) -> np.ndarray:
    """Opens of the candles that closed at these times, epoch ms; 12:59:59.999 is 13:00."""
    late = -stamps % step_ms
    return np.where(late <= ENDS, stamps + late, stamps) - step_ms


def demand_alone(
    foreign: ForeignForecasts, forecast: np.ndarray, sample: np.ndarray, targets: Samples
) -> None:
    """Raise where forecast prices do not follow the newest candle that each is said to have known.

    Of rows that were made at once, as a path, only the first knows it. Whoever starts from the
    last price, and adds a small return, follows its last move wholly.

    Args:
        foreign: The forecasts.
        forecast: (n,) log-returns from the price that was known.
        sample: (n,) their samples.
        targets: All samples.
    """
    if foreign.stamped != "target" or foreign.is_alone or foreign.tells_when_made:
        return
    time = targets.time[sample].astype("datetime64[ms]").astype(np.int64)
    order = np.lexsort((time, targets.symbol[sample]))
    of, level = sample[order], (np.log(targets.base_price[sample]) + forecast)[order]
    follows = np.diff(time[order]) == targets.step_ms
    follows &= np.diff(targets.symbol[of]) == 0
    known, moved = targets.current_return[of][1:][follows], np.diff(level)[follows]
    said, came = forecast[order][1:][follows], targets.log_return[of][1:][follows]
    is_number = np.isfinite(known) & np.isfinite(moved) & (known != 0)
    if is_number.sum() < LEAST_OF_PATH:
        return
    known, moved, said, came = (one[is_number] for one in (known, moved, said, came))
    knows = (said * came).sum() > KNOWS * np.sqrt((said**2).sum() * (came**2).sum())
    if knows and targets.horizon == 1:  # beyond 1, the late rows of a path know most of theirs
        return  # it knows its target, which is another error
    share = float((known * moved).sum() / (known**2).sum())
    if share < FOLLOWS:
        raise ValueError(
            f"{foreign.name}: its prices follow the last move that each row is said to have known "
            f"by {100 * share:.0f} %, as a path does whose rows were made at once; were they? pass "
            "--path N for paths of N candles, one after another, --path 1 where each row was made "
            "by itself, or name the column that says when: --columns NAME=made"
        )
