"""One model against another: the verdict's loss, skill with its interval, and the best models.

All of it reads the frame of predictions that `metrics` describes, and refuses a broken one with a
ValueError (`check_predictions`).
"""

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.evaluation.metrics import check_predictions
from pipeline.evaluation.significance import (
    LEVEL,
    ROUNDING,
    DieboldMariano,
    diebold_mariano,
    holm,
    instant_codes,
    instants_needed,
    is_constant,
    mean_by_instant,
    ratio_half_width,
    standard_error,
)

logger = logging.getLogger(__name__)

POWER = 0.8
"""How often a skill as large as `detectable_skill` is found."""
LARGEST_BOOTSTRAP = 20_000
"""Rows of the confidence set's bootstrap; arch keeps an index of each draw in memory."""


@dataclass(frozen=True)
class Comparison:
    """One model against one baseline on the same samples."""

    model: str
    baseline: str
    loss: str
    """what is compared: "scaled_absolute_error" is |actual - forecast| / volatility,
    "scaled_squared_error" its square"""
    statistic: float | None
    """Diebold-Mariano; positive where the model is better"""
    p_value: float | None
    """two-sided, of this comparison alone"""
    p_holm: float | None
    """adjusted for all comparisons of the run"""
    skill: float | None
    """1 - loss of the model / loss of the baseline; None where the baseline makes no error"""
    verdict: str
    """BEATS, TIES or LOSES"""


def scaled_absolute_error(predictions: pd.DataFrame, model: str) -> np.ndarray:
    """(n,) |actual_return - forecast| / volatility, so that no wild coin or week decides."""
    error = (predictions["actual_return"] - predictions[model]).abs() / predictions["volatility"]
    return error.to_numpy(np.float64)


def skill(loss_model: np.ndarray, loss_baseline: np.ndarray, instants: Any) -> float | None:
    """1 - mean loss / mean loss of the baseline, each instant counting once; None against 0."""
    mean_baseline = float(mean_by_instant(loss_baseline, instants).mean())
    if mean_baseline == 0:
        return None
    return 1 - float(mean_by_instant(loss_model, instants).mean()) / mean_baseline


def compare_losses(
    model: str,
    loss_model: np.ndarray,
    losses: Mapping[str, np.ndarray],
    instants: Any,
    horizon: int,
    *,
    loss: str,
    alpha: float = LEVEL,
) -> list[Comparison]:
    """Compare a model's losses with those of each baseline, with Holm's correction over them.

    Losses of one instant are averaged before they are tested and before skill is taken, so that
    both have one sign.

    Args:
        model: Name of the model.
        loss_model: (n,) losses of the model.
        losses: Baseline -> (n,) losses on the same samples; NaN where it has none, which leaves the
            sample out of this comparison.
        loss: Name of the loss.
        alpha: Level of the whole family of comparisons.

    Returns:
        One Comparison a baseline, in the given order: BEATS or LOSES where p_holm < alpha, else
        TIES. Where the samples are too few to test (a warning says so), statistic and p-values are
        None, and it TIES.
    """
    tests: dict[str, DieboldMariano | None] = {}
    reasons = []
    times = instant_codes(instants, len(loss_model))  # once: numbers are sorted faster than times
    is_known = {baseline: ~np.isnan(values) for baseline, values in losses.items()}
    for baseline, rows in is_known.items():
        try:
            tests[baseline] = diebold_mariano(
                loss_model[rows], losses[baseline][rows], times[rows], horizon
            )
        except ValueError as error:
            tests[baseline] = None
            reasons.append(str(error))
    for reason in dict.fromkeys(reasons):
        logger.warning("no significance test: %s", reason)
    p_values = {baseline: test.p_value for baseline, test in tests.items() if test is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())))) if p_values else {}
    comparisons = []
    for baseline, test in tests.items():
        verdict = "TIES"
        if test is not None and adjusted[baseline] < alpha:
            verdict = "BEATS" if test.statistic > 0 else "LOSES"
        rows = is_known[baseline]
        comparisons.append(
            Comparison(
                model=model,
                baseline=baseline,
                loss=loss,
                statistic=None if test is None else test.statistic,
                p_value=p_values.get(baseline),
                p_holm=adjusted.get(baseline),
                skill=skill(loss_model[rows], losses[baseline][rows], times[rows]),
                verdict=verdict,
            )
        )
    return comparisons


def skill_by(
    predictions: pd.DataFrame,
    model: str,
    baseline: str,
    by: Literal["symbol", "month", "quarter"] = "symbol",
    horizon: int = 1,
) -> list[dict[str, Any]]:
    """Skill against a baseline, by symbol, month or quarter, with 95 % intervals.

    The interval is that of a ratio of two means (delta method): skill +- t * `standard_error` of
    (loss of the baseline - loss of the model - skill * loss of the baseline) / mean loss of the
    baseline. No correction for the number of rows: one of twenty intervals misses by chance.

    Args:
        predictions: The frame.
        model: Name of the model's forecast column.
        baseline: Name of the baseline's forecast column.
        by: "symbol", or "month" or "quarter" (of the calendar, UTC, of the candle from which is
            forecast).

    Returns:
        A row a group, in order: {by: its name, "skill", "low", "high", "n": forecasts}. low and
        high are None where there are fewer instants than `instants_needed`, all three where the
        baseline makes no error.
    """
    check_predictions(predictions, [model, baseline])
    losses = [scaled_absolute_error(predictions, name) for name in (model, baseline)]
    times = predictions["timestamp"].to_numpy("datetime64[ms]")
    if by == "symbol":
        groups = predictions["symbol"].astype(str).to_numpy()
    else:
        groups = calendar_names(times, by)
    codes, names = pd.factorize(groups, sort=True)
    rows: list[dict[str, Any]] = []
    for code, name in enumerate(names):
        chosen = codes == code
        ours, theirs = (mean_by_instant(loss[chosen], times[chosen]) for loss in losses)
        value, low, high = skill_interval(ours, theirs, horizon)
        rows.append(
            {by: str(name), "skill": value, "low": low, "high": high, "n": int(chosen.sum())}
        )
    return rows


def calendar_names(times: np.ndarray, by: Literal["month", "quarter"]) -> np.ndarray:
    """(n,) names of the month or quarter of each time, UTC, which sort as the times do.

    Example:
        >>> calendar_names(np.array(["2024-05-31"], "datetime64[ms]"), "quarter").tolist()
        ['2024-Q2']
    """
    periods = pd.DatetimeIndex(times).to_period("M" if by == "month" else "Q")
    codes, distinct = pd.factorize(periods)  # a name is written once, however many times it has
    return distinct.strftime("%Y-%m" if by == "month" else "%Y-Q%q").to_numpy(str)[codes]


def detectable_skill(
    loss_model: np.ndarray, loss_baseline: np.ndarray, horizon: int, n_comparisons: int
) -> float | None:
    """Least skill that a verdict would have found in four of five such runs (power 80 %).

    The standard error of the skill times the sum of two quantiles: of the level, at Holm's most
    demanding step, and of the power.

    Args:
        loss_model: (n_instants,) losses in time order, as `loss_baseline`.
        horizon: Candles that a forecast spans.
        n_comparisons: Size of the family that Holm's correction is made for.

    Returns:
        None where there are too few instants for a test, or the baseline makes no error.

    References:
        Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, chapter 2.
    """
    mean_baseline = float(loss_baseline.mean())
    if mean_baseline == 0 or len(loss_model) < instants_needed(horizon):
        return None
    lost = float(loss_model.mean()) / mean_baseline * loss_baseline - loss_model
    error = standard_error(lost, horizon)[0] / mean_baseline
    quantiles = stats.norm.isf(LEVEL / 2 / n_comparisons) + stats.norm.isf(1 - POWER)
    return float(quantiles * error)


def skill_interval(
    loss_model: np.ndarray, loss_baseline: np.ndarray, horizon: int
) -> tuple[float | None, float | None, float | None]:
    """Skill and the ends of its 95 % interval, from (n_instants,) losses in time order.

    The ends are None where there are too few instants; all are None against a loss of 0.
    """
    mean_baseline = float(loss_baseline.mean())
    if mean_baseline == 0:
        return None, None, None
    value = 1 - float(loss_model.mean()) / mean_baseline
    half = ratio_half_width(loss_baseline - loss_model, loss_baseline, value, horizon)
    if half is None:
        return value, None, None
    return value, value - half, value + half


def model_confidence_set(
    predictions: pd.DataFrame,
    models: Sequence[str],
    horizon: int = 1,
    *,
    seed: int = 0,
    repetitions: int = 1000,
) -> dict[str, Any] | None:
    """The models that cannot be told from the best one, at 95 % confidence.

    On losses averaged by instant, with arch's range statistic and a stationary bootstrap of blocks
    of max(n^(1/3), 2 horizon) instants on average; of more than 20,000 instants, neighbours are
    averaged first, which changes neither the mean nor its long-run variance. It needs no baseline
    and answers another question than the verdict: a model outside the set is worse than some other;
    one inside may be worse too, and nobody knows yet.

    Args:
        predictions: The frame.
        models: Names of two or more forecast columns.
        seed: Seed of the bootstrap.
        repetitions: Draws of the bootstrap.

    Returns:
        {"models": names in the set, in the given order, "p_values": {model: p}}; equal forecasts
        share a p-value. None where it is undefined: fewer than `instants_needed`, or losses that
        differ by a constant.

    References:
        Hansen, Lunde and Nason (2011), The Model Confidence Set, Econometrica 79(2).
    """
    from arch.bootstrap import MCS  # lazy: a second, and not every report needs it

    check_predictions(predictions, models)
    losses = {
        name: mean_by_instant(scaled_absolute_error(predictions, name), predictions["timestamp"])
        for name in models
    }
    n = len(losses[models[0]])
    if n < instants_needed(horizon):
        return None
    # Of equal forecasts the first stands for all.
    twin = {name: next(m for m in models if _are_equal(losses[m], losses[name])) for name in models}
    distinct = list(dict.fromkeys(twin.values()))
    if len(distinct) == 1:
        return {"models": list(models), "p_values": dict.fromkeys(models, 1.0)}
    pairs = itertools.combinations(distinct, 2)
    if any(is_constant(losses[first] - losses[other]) for first, other in pairs):
        return None
    width = math.ceil(n / LARGEST_BOOTSTRAP)
    table = np.column_stack([losses[name] for name in distinct])[: n // width * width]
    table = table.reshape(-1, width, len(distinct)).mean(axis=1)
    block_size = math.ceil(max(n ** (1 / 3), 2 * horizon if horizon > 1 else 0) / width)
    test = MCS(table, size=LEVEL, reps=repetitions, block_size=block_size, seed=seed)
    test.compute()
    p_values = {distinct[index]: float(p) for index, p in test.pvalues["Pvalue"].items()}
    shared = {name: p_values[twin[name]] for name in models}
    return {"models": [name for name in models if shared[name] > LEVEL], "p_values": shared}


def _are_equal(first: np.ndarray, other: np.ndarray) -> bool:
    scale = max(np.abs(first).mean(), np.abs(other).mean())
    return bool(np.abs(first - other).max() <= ROUNDING * scale)
