"""The verdict: does the network forecast better than what costs nothing or little?"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.metrics import (
    check_predictions,
    direction_metrics,
    interval_coverage,
    lag_check,
    price_metrics,
    return_metrics,
)
from pipeline.evaluation.significance import DieboldMariano, diebold_mariano, finite_vectors, holm, mean_by_instant

logger = logging.getLogger(__name__)

LOSS = "scaled_absolute_error"
FREE_FORECASTS = ("naive", "drift")  # they see no features, so they cannot leak
# On liquid hourly candles, honest forecasts stay far below these.
SUSPICIOUS_ACCURACY = 0.56
SUSPICIOUS_R2 = 0.02
SUSPICIOUS_SKILL = 0.02


@dataclass(frozen=True)
class Comparison:
    """One model against one baseline on the same samples."""

    model: str
    baseline: str
    loss: str
    """what is compared: "scaled_absolute_error" is |actual - forecast| / volatility"""
    statistic: float | None
    """Diebold-Mariano; positive where the model is better"""
    p_value: float | None
    """two-sided, of this comparison alone"""
    p_holm: float | None
    """adjusted for all comparisons of the run"""
    skill: float | None
    """1 - loss of the model / loss of the baseline; None where the baseline makes no error"""
    squared_skill: float | None
    """the same for the square of the loss; it decides nothing"""
    verdict: str
    """BEATS, TIES or LOSES"""


def compare_forecasts(
    predictions: pd.DataFrame, model: str, baselines: Sequence[str], horizon: int = 1, alpha: float = 0.05
) -> list[Comparison]:
    """Compare a model with each baseline.

    The loss is |actual_return - forecast| / volatility, so that wild coins and wild weeks do not outvote the
    rest. Losses of one instant are averaged before they are tested and before skill is taken, so that both
    have one sign.

    Args:
        predictions: The frame described in `metrics`.
        model: Name of the model's forecast column.
        baselines: Names of the baselines' forecast columns.
        horizon: Candles that a forecast spans.
        alpha: Level of the whole family of comparisons.

    Returns:
        One Comparison a baseline, in the given order: BEATS or LOSES where p_holm < alpha, else TIES. Where the
        samples are too few to test (a warning says so), statistic and p-values are None, and it TIES.

    Raises:
        ValueError: As `check_predictions`, or no baselines.
    """
    if len(baselines) == 0:
        raise ValueError(f"no baselines to compare {model} with; name at least one forecast column")
    check_predictions(predictions, [model, *baselines])
    instants = predictions["timestamp"]
    loss_model = _scaled_absolute_error(predictions, model)
    losses = {baseline: _scaled_absolute_error(predictions, baseline) for baseline in baselines}
    tests = {baseline: _test(loss_model, loss, instants, horizon) for baseline, loss in losses.items()}
    done = {baseline: test for baseline, test in tests.items() if test is not None}
    adjusted = dict(zip(done, holm([test.p_value for test in done.values()]) if done else []))
    comparisons = []
    for baseline, loss in losses.items():
        test, p_holm, verdict = tests[baseline], adjusted.get(baseline), "TIES"
        if test is not None and p_holm is not None and p_holm < alpha:
            verdict = "BEATS" if test.statistic > 0 else "LOSES"
        comparisons.append(Comparison(
            model=model, baseline=baseline, loss=LOSS,
            statistic=test.statistic if test else None, p_value=test.p_value if test else None, p_holm=p_holm,
            skill=_skill(loss_model, loss, instants), squared_skill=_skill(loss_model**2, loss**2, instants),
            verdict=verdict,
        ))  # fmt: skip
    return comparisons


def _test(loss_model: np.ndarray, loss: np.ndarray, instants: Any, horizon: int) -> DieboldMariano | None:
    """The test, or None under a warning where there is too little to test: the rest of a report must stand."""
    try:
        return diebold_mariano(loss_model, loss, instants, horizon)
    except ValueError as error:
        logger.warning("no significance test: %s", error)
        return None


def run_verdict(comparisons: Sequence[Comparison], synthetic: bool) -> str:
    """Sum a run up in one line.

    Args:
        comparisons: The network's comparisons, one of them with naive.
        synthetic: Whether the candles were made up.

    Returns:
        "NO CLAIM (synthetic data)" for synthetic candles; "EDGE" if the network BEATS naive and LOSES to
        none; else "NO EDGE".

    Raises:
        ValueError: There is no comparison with naive.
    """
    if synthetic:
        return "NO CLAIM (synthetic data)"
    verdicts = {comparison.baseline: comparison.verdict for comparison in comparisons}
    if "naive" not in verdicts:
        raise ValueError(f"no comparison with naive among {list(verdicts)}; a verdict needs one")
    return "EDGE" if verdicts["naive"] == "BEATS" and "LOSES" not in verdicts.values() else "NO EDGE"


def suspicion_warnings(
    model: str, *, direction_accuracy: float | None, r2: float | None, mae_skill: float | None
) -> list[str]:
    """Doubt results that are too good to be true.

    Args:
        model: Name of the model, for the text.
        direction_accuracy: Share of right calls, pooled over symbols; suspicious above 0.56.
        r2: R2 of the log-returns against zero; suspicious above 0.02.
        mae_skill: Skill against naive in absolute error; suspicious above 0.02.

    Returns:
        One sentence for each number above its limit; None is never suspicious.

    Example:
        >>> suspicion_warnings("lstm", direction_accuracy=0.526, r2=0.001, mae_skill=0.003)
        []
    """
    numbers = (
        ("direction accuracy", direction_accuracy, SUSPICIOUS_ACCURACY),
        ("R2 against zero", r2, SUSPICIOUS_R2),
        ("MAE skill against naive", mae_skill, SUSPICIOUS_SKILL),
    )
    return [
        f"{model}: {name} of {100 * value:.2f} % is above {100 * limit:g} %: look-ahead (a feature, scaler "
        "or target that knows the future) is the likely cause, so check for leakage before believing it"
        for name, value, limit in numbers
        if value is not None and value > limit
    ]


def evaluate_forecasts(
    predictions: pd.DataFrame,
    *,
    network: str = "lstm",
    baselines: Sequence[str] = ("naive", "drift", "ridge", "xgboost"),
    horizon: int = 1,
    synthetic: bool = False,
    directions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Evaluate a run's forecasts of the test part.

    Args:
        predictions: The frame described in `metrics`; its p_up, where there is one, is the network's.
        network: Name of the network's forecast column.
        baselines: Names of the baselines' forecast columns; "naive" is one of them.
        horizon: Candles that a forecast spans.
        synthetic: Whether the candles were made up.
        directions: For a model, (n,) log-returns in the order of the rows, whose signs are its direction
            calls instead of its forecasts': a forecast that was shrunk to exactly 0 still has a direction.

    Returns:
        {"n": rows, "n_instants", "models": {name: {...}}, "verdicts": [Comparison as dict, ...], "verdict",
        "warnings"}, plain Python types without NaN, ready for JSON. A model's keys are those of
        `return_metrics` (with r2 for r2_vs_zero; mae and rmse are of log-returns), `direction_metrics`,
        `lag_check` and `price_metrics` (mae and rmse in by_symbol are of prices).

    Raises:
        ValueError: As `compare_forecasts`, naive is no baseline, or directions fit no model or not the rows.
    """
    models = [*baselines, network]
    directions = dict(directions or {})
    unknown = sorted(set(directions) - set(models))
    if unknown:
        raise ValueError(f"directions are given for {unknown}, which are none of the models {models}")
    if "naive" not in baselines:
        raise ValueError(f"baselines are {list(baselines)}; a verdict needs naive among them")
    comparisons = compare_forecasts(predictions, network, baselines, horizon)
    current, instants = predictions["current_return"].to_numpy(np.float64), predictions["timestamp"]
    loss_naive = _scaled_absolute_error(predictions, "naive")
    measured, warnings = {}, []
    for model in models:
        p_up = predictions["p_up"] if model == network and "p_up" in predictions else None
        metrics = _measure(predictions, model, directions.get(model, predictions[model]), p_up, current)
        measured[model] = metrics
        if model not in FREE_FORECASTS:
            warnings += suspicion_warnings(
                model,
                direction_accuracy=metrics["direction_accuracy"],
                r2=metrics["r2"],
                mae_skill=_skill(_scaled_absolute_error(predictions, model), loss_naive, instants),
            )
    return {
        "n": len(predictions),
        "n_instants": int(instants.nunique()),
        "models": measured,
        "verdicts": [asdict(comparison) for comparison in comparisons],
        "verdict": run_verdict(comparisons, synthetic),
        "interval": interval_coverage(predictions) if "q10" in predictions else None,
        "warnings": warnings,
    }


def _measure(predictions: pd.DataFrame, model: str, direction: Any, p_up: Any, current: np.ndarray) -> dict[str, Any]:
    actual = predictions["actual_return"].to_numpy(np.float64)
    _, direction = finite_vectors(actual_return=actual, **{f"directions of {model}": direction})
    prices = price_metrics(predictions, model)
    returns = return_metrics(actual, predictions[model])
    return {
        "mape_percent": prices["mape_percent"],
        "mae": returns["mae"],
        "rmse": returns["rmse"],
        "mae_percent": returns["mae_percent"],
        "r2": returns["r2_vs_zero"],
        # Divided by volatility, so that the most confident tenth is not just the wildest coin.
        **direction_metrics(actual, direction / predictions["volatility"].to_numpy(np.float64), p_up),
        **lag_check(direction, current, actual),
        "by_symbol": prices["by_symbol"],
    }


def _scaled_absolute_error(predictions: pd.DataFrame, model: str) -> np.ndarray:
    error = (predictions["actual_return"] - predictions[model]).abs() / predictions["volatility"]
    return error.to_numpy(np.float64)


def _skill(loss_model: np.ndarray, loss_baseline: np.ndarray, instants: Any) -> float | None:
    mean_baseline = float(mean_by_instant(loss_baseline, instants).mean())
    if mean_baseline == 0:
        return None
    return 1 - float(mean_by_instant(loss_model, instants).mean()) / mean_baseline
