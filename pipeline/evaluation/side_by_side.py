"""Runs side by side: the forecasts of one against those of another, where both have one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.comparison import scaled_absolute_error, skill, skill_interval
from pipeline.evaluation.metrics import check_predictions
from pipeline.evaluation.significance import (
    LEVEL,
    diebold_mariano,
    holm,
    instants_needed,
    mean_by_instant,
)

SAME_RETURN = 1e-9
"""difference of two actual returns up to which they are of the same candles"""
FORECAST, NAIVE = "forecast", "naive"
"""columns of a run's frame"""
KEYS = ["symbol", "timestamp"]


def compare_pairs(
    runs: Mapping[str, pd.DataFrame], horizons: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Test each pair of runs on the forecasts that both have, with Holm's correction over pairs.

    The loss is the verdict's: |actual - forecast| / volatility, that of the first run's frame.

    Args:
        runs: Name -> its forecasts out of sample: `metrics`' frame with a column `forecast`.
        horizons: Name -> candles that a forecast spans.

    Returns:
        A row a pair, in order: "first", "second", "n" (common forecasts), "n_instants", "skill"
        (of the second against the first), "statistic", "p_value", "p_holm" and "verdict" ("better",
        "worse" or "ties", of the second). Where they cannot be tested the numbers are None, and
        "why" says it.
    """
    for frame in runs.values():
        check_predictions(frame, [FORECAST])
    rows = []
    for first, second in itertools.combinations(runs, 2):
        row: dict[str, Any] = dict.fromkeys(("skill", "statistic", "p_value", "p_holm", "verdict"))
        row |= {"first": first, "second": second, "n": 0, "n_instants": 0, "why": ""}
        if horizons[first] != horizons[second]:
            row["why"] = f"horizons of {horizons[first]} and {horizons[second]} candles"
        else:
            row |= _compare(runs[first], runs[second], horizons[first])
        rows.append(row)
    tested = [row for row in rows if row["p_value"] is not None]
    adjusted = holm([row["p_value"] for row in tested]) if tested else []
    for row, p_holm in zip(tested, adjusted):
        is_clear = p_holm < LEVEL
        better = "better" if row["statistic"] > 0 else "worse"
        row |= {"p_holm": float(p_holm), "verdict": better if is_clear else "ties"}
    return rows


def _compare(first: pd.DataFrame, second: pd.DataFrame, horizon: int) -> dict[str, Any]:
    """What one pair has in common, and the second one's skill against the first."""
    columns = [*KEYS, "actual_return", FORECAST]
    both = first[[*columns, "volatility"]].merge(second[columns], on=KEYS, suffixes=("", "_second"))
    if both.empty:
        return {"why": "no forecast in common"}
    is_same = np.isclose(both["actual_return"], both["actual_return_second"], 0, SAME_RETURN)
    if not is_same.all():
        n_other = int((~is_same).sum())
        return {"why": f"other candles: {n_other:,} of {len(both):,} returns differ"}
    times = both["timestamp"]
    n_instants = times.nunique()
    told = {"n": len(both), "n_instants": n_instants}
    if n_instants < instants_needed(horizon):
        return told | {"why": f"only {n_instants} common instants"}
    loss_first, loss_second = (
        scaled_absolute_error(both, name) for name in (FORECAST, f"{FORECAST}_second")
    )
    told["skill"] = skill(loss_second, loss_first, times)
    try:
        test = diebold_mariano(loss_second, loss_first, times, horizon)
    except ValueError as error:
        return told | {"why": str(error)}
    return told | {"statistic": test.statistic, "p_value": test.p_value}


def skill_against_naive(
    forecasts: pd.DataFrame, horizon: int
) -> tuple[float | None, float | None, float | None]:
    """Skill of a run's forecasts against no change, and the ends of its 95 % interval."""
    check_predictions(forecasts, [FORECAST, NAIVE])
    ours, naives = (
        mean_by_instant(scaled_absolute_error(forecasts, name), forecasts["timestamp"])
        for name in (FORECAST, NAIVE)
    )
    return skill_interval(ours, naives, horizon)


def differing(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Settings that are not the same in all runs: name -> a value a run, None where it has none.

    Example:
        >>> differing({"a": {"seed": 1, "epochs": 5}, "b": {"seed": 2, "epochs": 5}})
        {'seed': [1, 2]}
    """
    names = dict.fromkeys(name for run in settings.values() for name in run)
    found = {name: [run.get(name) for run in settings.values()] for name in names}
    return {name: values for name, values in found.items() if not _are_alike(values)}


def _are_alike(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)
