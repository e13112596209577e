"""Skill in the course of time: by quarter, its trend, what the next quarter may bring; by age."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.evaluation.comparison import (
    calendar_names,
    scaled_absolute_error,
    skill_by,
    skill_interval,
)
from pipeline.evaluation.significance import (
    LEVEL,
    instants_needed,
    is_constant,
    mean_by_instant,
    standard_error,
    student_quantile,
)

WHOLE_DAYS = 30
"""A quarter with forecasts on fewer days is shown, but nothing is concluded from it."""
TREND_YEARS = 0.5
"""A shorter stretch has no trend: months differ by chance."""
QUARTERS_FOR_FORECAST = 4
"""A line through fewer quarters leaves too little to measure their spread by."""
YEAR = np.timedelta64(365 * 24 + 6, "h")
ROLLING_DAYS = (30, 7)
"""Days of a rolling window: the longest that goes three times into the whole."""
ROLLING_POINTS = 200
AGE_DAYS = (90, 30, 10, 3, 1)
"""Days of a step of the age curve: the longest that goes three times into the span of ages."""
DAY = np.timedelta64(1, "D")


class Trend(TypedDict):
    """The slope of the skill, as a share a year: -0.004 is 0.4 points less each year."""

    per_year: float
    low: float
    high: float
    statistic: float
    p_value: float


class SkillOverTime(TypedDict):
    """How a model's skill against a baseline changes; shares, with 95 % intervals."""

    quarters: list[dict[str, Any]]
    """a row a calendar quarter (UTC): "quarter", "skill", "low", "high", "n", "is_whole" """
    trend: Trend | None
    """None where the forecasts span less than half a year"""
    next_quarter: dict[str, float] | None
    """"skill", "low", "high": where a quarter like those before would lie; None for fewer than 4"""
    rolling: dict[str, Any] | None
    """over the last days, `rolling_skill`"""
    last_holds_zero: bool | None
    """whether the interval of the last whole quarter holds 0; None without one"""


class AgeCurve(TypedDict):
    """Skill by days since training; shares, with 95 % intervals."""

    days: int
    """length of a step"""
    steps: list[dict[str, Any]]
    """a row a step, the youngest first: "from_day", "to_day", "skill", "low", "high", "n"
    (forecasts), "trainings" (networks that they come from); steps without forecasts are left out"""


def skill_over_time(
    predictions: pd.DataFrame, model: str, baseline: str, horizon: int = 1
) -> SkillOverTime:
    """Measure how a model's skill changes.

    Args:
        predictions: The frame described in `metrics`.
        model: Name of the model's forecast column.
        baseline: Name of the baseline's forecast column.
        horizon: Candles that a forecast spans.
    """
    rows = skill_by(predictions, model, baseline, "quarter", horizon)
    times = predictions["timestamp"].to_numpy("datetime64[ms]")
    days = (
        pd.Series(times.astype("datetime64[D]")).groupby(calendar_names(times, "quarter")).nunique()
    )
    quarters = [{**row, "is_whole": bool(days[row["quarter"]] >= WHOLE_DAYS)} for row in rows]
    whole = [row for row in quarters if row["is_whole"] and row["low"] is not None]
    return {
        "quarters": quarters,
        "trend": _trend(predictions, model, baseline, horizon),
        "rolling": rolling_skill(predictions, model, baseline, horizon),
        "next_quarter": forecast_next([row["skill"] for row in whole]),
        "last_holds_zero": whole[-1]["low"] <= 0 <= whole[-1]["high"] if whole else None,
    }


def age_curve(
    parts: Sequence[pd.DataFrame],
    trained_until: Sequence[np.datetime64],
    model: str,
    baseline: str,
    *,
    step: np.timedelta64,
    horizon: int = 1,
) -> AgeCurve | None:
    """Measure the skill by the days that have passed since training.

    A forecast's age is the time from what its network knew last to the close of the candle that it
    is made from. Forecasts of several trainings at the same age are taken together. Of a single
    training age and calendar are the same thing, and so are an old network and another market.

    Args:
        parts: The frame described in `metrics`, for each training.
        trained_until: For each training, when its validation part ended: nothing that it was fitted
            or calibrated on is later.
        model: Name of the model's forecast column.
        baseline: Name of the baseline's forecast column.
        step: Length of a candle.
        horizon: Candles that a forecast spans.

    Returns:
        The curve; None where the ages are less than three days apart.
    """
    ages = [
        (part["timestamp"].to_numpy("datetime64[ms]") + step - until) / DAY
        for part, until in zip(parts, trained_until)
    ]
    predictions, age = pd.concat(parts), np.concatenate(ages)
    span = np.ceil(age.max() - age.min())  # a fold of 30 days spans an hour less
    days = next((days for days in AGE_DAYS if 3 * days <= span), None)
    if days is None:
        return None
    training = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    number = np.floor(age / days).astype(int)
    steps: list[dict[str, Any]] = []
    for one in np.unique(number):
        chosen = number == one
        _, ours, theirs = _losses_in_time(predictions[chosen], model, baseline)
        skill, low, high = skill_interval(ours, theirs, horizon)
        ends = {"from_day": int(one * days), "to_day": int((one + 1) * days)}
        counts = {"n": int(chosen.sum()), "trainings": len(np.unique(training[chosen]))}
        steps.append({**ends, "skill": skill, "low": low, "high": high, **counts})
    return {"days": days, "steps": steps}


def forecast_next(skills: Sequence[float]) -> dict[str, float] | None:
    """Where the next quarter's skill will lie, by the line through those before.

    The interval has the spread between quarters, which is wider than the error within one: markets
    change. It is the prediction interval of a least-squares line, Student t with n - 2 degrees of
    freedom.

    Args:
        skills: Of successive quarters.

    Returns:
        "skill", "low" and "high"; None for fewer than `QUARTERS_FOR_FORECAST`.

    Example:
        >>> {name: round(value, 3) for name, value in forecast_next([4.0, 3.0, 3.0, 2.0]).items()}
        {'skill': 1.5, 'low': -0.651, 'high': 3.651}
    """
    n = len(skills)
    if n < QUARTERS_FOR_FORECAST:
        return None
    number = np.arange(n, dtype=float)
    slope, start = np.polyfit(number, skills, 1)
    expected = start + slope * n
    residuals = np.asarray(skills) - (start + slope * number)
    spread = math.sqrt(float(residuals @ residuals) / (n - 2))
    centred = number - number.mean()
    leverage = 1 + 1 / n + (n - number.mean()) ** 2 / float(centred @ centred)
    half = float(stats.t.isf(LEVEL / 2, n - 2)) * spread * math.sqrt(leverage)
    return {"skill": float(expected), "low": float(expected - half), "high": float(expected + half)}


def rolling_skill(
    predictions: pd.DataFrame, model: str, baseline: str, horizon: int = 1
) -> dict[str, Any] | None:
    """The skill over the last days, again and again; its windows overlap, so it moves slowly.

    Returns:
        "days" of a window; "timestamp" (the last candle that a forecast in it knows), "value",
        "low", "high" (95 % interval), a number a window. None where there are too few days.
    """
    times, ours, theirs = _losses_in_time(predictions, model, baseline)
    days, windows = rolling_windows(times)
    if not windows:
        return None
    rows = [skill_interval(ours[window], theirs[window], horizon) for window in windows]
    ends = times[[window.stop - 1 for window in windows]]
    named = dict(zip(("value", "low", "high"), map(list, zip(*rows))))
    return {"days": days, "timestamp": [f"{end.astype('datetime64[m]')}Z" for end in ends], **named}


def rolling_windows(times: np.ndarray) -> tuple[int, list[slice]]:
    """Days of a window, and the rows of `ROLLING_POINTS` windows or fewer, the last at the end.

    No windows where the whole is too short for three of them.

    Args:
        times: (n,) datetimes in order.

    Example:
        >>> days, windows = rolling_windows(np.arange("2024-01", "2024-02", dtype="datetime64[D]"))
        >>> days, windows[0], windows[-1]
        (7, slice(0, 7, None), slice(24, 31, None))
    """
    lengths = [np.timedelta64(days, "D") for days in ROLLING_DAYS]
    whole = times[-1] - times[0]
    length = next((length for length in lengths if 3 * length <= whole), None)
    if length is None:
        return 0, []
    first = int(np.searchsorted(times, times[0] + length))  # the first end of a whole window
    ends = np.unique(np.linspace(first, len(times), ROLLING_POINTS).astype(int))
    starts = np.searchsorted(times, times[ends - 1] - length, side="right")
    days = int(length / np.timedelta64(1, "D"))
    return days, [slice(int(start), int(end)) for start, end in zip(starts, ends)]


def _losses_in_time(
    predictions: pd.DataFrame, model: str, baseline: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n_instants,) times, and the mean loss of each of the two at each of them."""
    instants = predictions["timestamp"]
    ours, theirs = (
        mean_by_instant(scaled_absolute_error(predictions, name), instants)
        for name in (model, baseline)
    )
    return np.unique(instants.to_numpy("datetime64[ms]")), ours, theirs


def _trend(predictions: pd.DataFrame, model: str, baseline: str, horizon: int) -> Trend | None:
    """Least-squares slope of the loss difference on time, with the errors of `standard_error`."""
    times, ours, theirs = _losses_in_time(predictions, model, baseline)
    if times[-1] - times[0] < TREND_YEARS * YEAR or len(ours) < instants_needed(horizon):
        return None
    gained = (theirs - ours) / theirs.mean()
    if is_constant(gained):
        return None
    years = (times - times[0]) / YEAR
    years -= years.mean()
    slope = float(years @ gained) / float(years @ years)
    # What each instant adds to the slope; the error of their mean is the slope's.
    residual = gained - gained.mean() - slope * years
    error, degrees_of_freedom = standard_error(years * residual / np.mean(years**2), horizon)
    half = student_quantile(degrees_of_freedom) * error
    statistic = slope / error
    return {
        "per_year": slope,
        "low": slope - half,
        "high": slope + half,
        "statistic": statistic,
        "p_value": 2 * float(stats.t.sf(abs(statistic), degrees_of_freedom)),
    }
