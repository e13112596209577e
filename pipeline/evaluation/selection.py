"""Whether anyone's forecasts are missing, or zero, where they would have been wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.schema import DAY_MS, timestamps_ms
from pipeline.evaluation.comparison import compare_losses
from pipeline.evaluation.matching import Matched
from pipeline.evaluation.significance import (
    LEVEL,
    instants_needed,
    is_constant,
    mean_by_instant,
    standard_error,
)
from pipeline.evaluation.suspicion import Suspicion
from pipeline.evaluation.verdict import SUSPICIOUS_ACCURACY

MISSING = 0.01
"""Share of the instants without a forecast from which these are looked at"""
REGULAR = 0.99
"""Share of the forecasts that have one step, from which there was to be none between"""
DEPENDS = 4.0
"""t statistic from which it depends on the outcome whether there is a forecast"""
WEEK_MS = 7 * DAY_MS


def find_missing(
    matched: Matched, test: Mapping[str, Any], horizon: int, tried: int, rule: str, is_walked: bool
) -> Iterator[Suspicion]:
    """What is missing or zero, and whether it may have been left out for being wrong.

    Args:
        matched: The forecasts and what came true.
        test: Their evaluation.
        horizon: Candles that a forecast spans.
        tried: Models that were tried before this one was shown.
        rule: The rule, set before, by which forecasts are left out or zero.
        is_walked: Whether a model was walked forward, so that it could not know what came.
    """
    instants = _due(matched.instants)
    is_there = instants["is_there"].to_numpy()
    is_silent = matched.said.to_numpy(np.float64) == 0
    missing = 1 - float(is_there.mean())
    is_edge = test["verdict"] == "EDGE"
    facts = []
    are_nan = int(instants["is_nan"].sum()) > (~is_there).sum() / 2
    if missing:
        facts.append(
            f"{100 * missing:.1f} % of the instants between the first and the last forecast "
            f"{'are no numbers' if are_nan else 'have no forecast'} "
            f"({_first(instants, ~instants['is_there'])})"
        )
    if is_edge and is_silent.any():
        facts.append(f"{100 * is_silent.mean():.3g} % of the forecasts are zero")
    fact = ", and ".join(facts)
    row = test["models"][matched.name]
    right, low = row["direction_accuracy"], row["direction_accuracy_low"]
    name = "selected_not_numbers" if are_nan else "selected_forecasts"
    question = "send the forecasts of all instants, or say which rule, set before, left them out"
    may_be_chosen = missing > MISSING and not is_walked
    if may_be_chosen and low is not None and low > SUSPICIOUS_ACCURACY:
        all_right = (right * is_there.sum() + 0.5 * (~is_there).sum()) / len(is_there)
        yield Suspicion(
            name,
            f"{fact}, and those that are there are right in {100 * right:.1f} %, which no honest "
            f"one is: were they left out where they were wrong? Counted as tosses of a coin they "
            f"make it {100 * all_right:.1f} %; {question} (--rule)",
        )
        return
    if may_be_chosen and (depends := _dependence(instants, horizon)):
        about = f"{fact}, and whether there is one goes with {depends}; {question} (--rule)"
        yield Suspicion(name, about)
        return
    if is_edge and facts:
        survives, counted_so = _if_wrong(matched, instants, is_silent, horizon, tried)
        if not survives and not rule and not is_walked:
            yield Suspicion(
                "edge_by_selection",
                f"{fact}; EDGE needs that these were not left out for being wrong: counted as "
                f"wrong {counted_so}; {question} (--rule)",
            )
            return
    if is_walked:
        why = "the model was walked, so it could not know what it left out"
    elif rule:
        why = f"they were left out by a rule that was declared ({rule})"
    elif is_edge and facts:
        why = f"EDGE survives even so: counted as wrong {counted_so}"
    else:
        why = (
            "whether there is one goes neither with a rise nor with the size of what came after; "
            f"whether it goes with being right cannot be seen, so {question} (--rule)"
        )
    if missing > MISSING or (is_edge and is_silent.mean() > MISSING):
        yield Suspicion("incomplete", f"{fact}; {why}", is_grave=False)
    elif matched.n_nan:
        yield Suspicion(
            "not_numbers",
            f"{matched.n_nan:,} of {matched.n_rows:,} forecasts are no numbers "
            f"({_first(instants, instants['is_nan'])}) and are not judged; what would they "
            "have been?",
            is_grave=False,
        )


def _due(instants: pd.DataFrame) -> pd.DataFrame:
    """The instants at which there was to be a forecast: of regular ones those of their own step."""
    ms = timestamps_ms(instants)
    is_there = instants["is_there"].to_numpy()
    steps = np.diff(np.unique(ms[is_there]))
    if not len(steps):
        return instants
    step = int(np.median(steps))
    phases, counts = np.unique(ms[is_there] % step, return_counts=True)
    if counts.max() < REGULAR * is_there.sum():
        return instants
    return instants[ms % step == phases[np.argmax(counts)]]


def _if_wrong(
    matched: Matched, instants: pd.DataFrame, is_silent: np.ndarray, horizon: int, tried: int
) -> tuple[bool, str]:
    """Whether it BEATS naive with what is missing, or zero, counted as wrong; and how it fares.

    Returns are then wrong by what one in ten of the others says.
    """
    rows, missing = matched.predictions, instants[~instants["is_there"]]
    said = matched.said.to_numpy(np.float64)
    outcome = pd.concat([rows, missing])[["timestamp", "actual_return", "volatility"]]
    actual = (outcome["actual_return"] / outcome["volatility"]).to_numpy(np.float64)
    forecast = np.append(said / rows["volatility"].to_numpy(np.float64), np.zeros(len(missing)))
    is_absent = np.append(is_silent, np.ones(len(missing), dtype=bool))
    if matched.kind == "direction":
        actual, forecast = np.sign(actual) / 2, np.sign(forecast) / 2
    size = np.quantile(np.abs(forecast[~is_absent]), 0.9)
    forecast[is_absent] = -size * np.where(actual[is_absent] < 0, -1, 1)
    [compared] = compare_losses(
        matched.name,
        np.abs(actual - forecast),
        {"naive": np.abs(actual)},
        outcome["timestamp"],
        horizon,
        loss="if missing ones were wrong",
    )
    survives = compared.verdict == "BEATS" and tried * (compared.p_value or 0) < LEVEL
    right = 100 * float((np.sign(forecast) == np.sign(actual)).mean())
    skill = 100 * (compared.skill or 0)
    return survives, f"they are right in {right:.1f} % and the skill is {skill:+.2f} %"


def _first(instants: pd.DataFrame, chosen: pd.Series) -> str:
    if not chosen.any():
        return "none between the others"
    first = instants[chosen].iloc[0]
    return f"first: {first['symbol']} at {first['timestamp']:%Y-%m-%d %H:%M}"


def _dependence(instants: pd.DataFrame, horizon: int) -> str:
    """What came after that goes with whether there is a forecast; "" for nothing."""
    times = instants["timestamp"]
    is_missing = ~instants["is_there"].to_numpy()
    scaled = instants["actual_return"].to_numpy(np.float64) / instants["volatility"].to_numpy()
    size = np.minimum(np.abs(scaled), 10)
    hour = timestamps_ms(instants) % WEEK_MS
    size = size - pd.Series(size).groupby(hour).transform("mean").to_numpy()
    series = {"whether the price then rose": np.sign(scaled), "how far the price then moved": size}
    for what, values in series.items():
        together = (is_missing - is_missing.mean()) * (values - values.mean())
        by_instant = mean_by_instant(together, times)
        if len(by_instant) < instants_needed(horizon) or is_constant(by_instant):
            continue
        error, _ = standard_error(by_instant, horizon)
        statistic = float(by_instant.mean()) / error if error else 0.0
        if abs(statistic) > DEPENDS:
            return f"{what} (t = {statistic:+.1f})"
    return ""
