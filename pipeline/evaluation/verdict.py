"""The verdict: does the network forecast better than what costs nothing or little?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.comparison import (
    Comparison,
    compare_losses,
    model_confidence_set,
    scaled_absolute_error,
    skill,
    skill_by,
)
from pipeline.evaluation.metrics import (
    check_predictions,
    direction_metrics,
    forecast_fault,
    lag_check,
    price_metrics,
    return_metrics,
)
from pipeline.evaluation.probability import (
    QUANTILES,
    compare_quantiles,
    interval_scores,
    probability_scores,
)
from pipeline.evaluation.significance import LEVEL, finite_vectors

LOSS = "scaled_absolute_error"
FREE_FORECASTS = ("naive", "drift")  # they see no features, so they cannot leak
# On liquid hourly candles, honest forecasts stay far below these.
SUSPICIOUS_ACCURACY = 0.56
SUSPICIOUS_R2 = 0.02
SUSPICIOUS_SKILL = 0.02


def compare_forecasts(
    predictions: pd.DataFrame,
    model: str,
    baselines: Sequence[str],
    horizon: int = 1,
    alpha: float = LEVEL,
) -> list[Comparison]:
    """Compare a model with each baseline by |actual_return - forecast| / volatility.

    Args:
        predictions: The frame described in `metrics`.
        model: Name of the model's forecast column.
        baselines: Names of the baselines' forecast columns.
        horizon: Candles that a forecast spans.
        alpha: Level of the whole family of comparisons.

    Returns:
        One Comparison a baseline, as `compare_losses`.

    Raises:
        ValueError: As `check_predictions`, or no baselines.
    """
    if len(baselines) == 0:
        raise ValueError(f"no baselines to compare {model} with; name at least one forecast column")
    check_predictions(predictions, [model, *baselines])
    losses = {name: scaled_absolute_error(predictions, name) for name in (model, *baselines)}
    against = {baseline: losses[baseline] for baseline in baselines}
    return compare_losses(
        model, losses[model], against, predictions["timestamp"], horizon, loss=LOSS, alpha=alpha
    )


def run_verdict(comparisons: Sequence[Comparison], synthetic: bool) -> str:
    """Sum a run up in one line.

    Args:
        comparisons: The network's comparisons, one of them with naive.
        synthetic: Whether the candles were made up.

    Returns:
        "NO CLAIM (synthetic data)" for synthetic candles; "EDGE" if the network BEATS naive and
        LOSES to none; else "NO EDGE".

    Raises:
        ValueError: There is no comparison with naive.
    """
    if synthetic:
        return "NO CLAIM (synthetic data)"
    verdicts = {comparison.baseline: comparison.verdict for comparison in comparisons}
    if "naive" not in verdicts:
        raise ValueError(f"no comparison with naive among {list(verdicts)}; a verdict needs one")
    return (
        "EDGE" if verdicts["naive"] == "BEATS" and "LOSES" not in verdicts.values() else "NO EDGE"
    )


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
        f"{model}: {name} of {100 * value:.2f} % is above {100 * limit:g} %: look-ahead (a "
        "feature, scaler or target that knows the future) is the likely cause, so check for "
        "leakage before believing it"
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
    quantile_baselines: Sequence[str] = (),
    confidence_set: bool = True,
) -> dict[str, Any]:
    """Evaluate a run's forecasts of the test part.

    A model with unusable forecasts gets a warning and a row of None; the rest stands. Such a
    network LOSES to every baseline, and with such a baseline it TIES, both without a test.

    Args:
        predictions: The frame described in `metrics`; p_up, q10, q50 and q90, where they are, are
            the network's.
        network: Name of the network's forecast column.
        baselines: Names of the baselines' forecast columns; "naive" is one of them.
        horizon: Candles that a forecast spans.
        synthetic: Whether the candles were made up.
        directions: For a model, (n,) log-returns in the order of the rows, whose signs are its
            direction calls instead of its forecasts': a forecast that was shrunk to exactly 0 still
            has a direction.
        quantile_baselines: Names of baselines with quantiles, such as "garch" for garch_q10,
            garch_q50, garch_q90.
        confidence_set: Whether to compute the `model_confidence_set`: a second for 25,000 instants.

    Returns:
        Plain Python types without NaN, ready for JSON, None for what is not there: n (rows),
        n_instants, models (a row
        each: `return_metrics`, `direction_metrics`, `lag_check`, `price_metrics`; r2 is r2_vs_zero,
            mae and rmse are of
        log-returns but in by_symbol of prices), verdicts (each a `Comparison`), verdict, interval
        (`interval_scores`, and comparisons with the quantile baselines), probability, skill_by
        (naive), confidence_set, warnings.

    Raises:
        ValueError: As `check_predictions`, naive is no baseline, or directions fit no model or not
            the rows.
    """
    models, directions = [*baselines, network], dict(directions or {})
    if unknown := sorted(set(directions) - set(models)):
        raise ValueError(
            f"directions are given for {unknown}, which are none of the models {models}"
        )
    if "naive" not in baselines:
        raise ValueError(f"baselines are {list(baselines)}; a verdict needs naive among them")
    faults = {
        name: fault
        for name in models
        if name != "naive" and (fault := forecast_fault(predictions, name))
    }
    usable = [name for name in models if name not in faults]
    if network in faults:  # what comes with its forecasts is no better
        predictions = predictions.drop(columns=[*QUANTILES, "p_up"], errors="ignore")
    check_predictions(predictions, usable)
    comparisons = _compare_usable(predictions, network, baselines, horizon, faults)
    measured = {
        name: _measure(predictions, name, network, directions.get(name), horizon) for name in usable
    }
    return {
        "n": len(predictions),
        "n_instants": int(predictions["timestamp"].nunique()),
        "models": {name: measured.get(name) or _blank(measured["naive"]) for name in models},
        "verdicts": [asdict(comparison) for comparison in comparisons],
        "verdict": run_verdict(comparisons, synthetic),
        "interval": _interval(predictions, network, quantile_baselines, horizon),
        "probability": probability_scores(predictions, horizon) if "p_up" in predictions else None,
        "skill_by": _skill_by(predictions, network, horizon) if network in usable else None,
        "confidence_set": model_confidence_set(predictions, usable, horizon)
        if confidence_set
        else None,
        "warnings": [*faults.values(), *_suspicions(predictions, measured)],
    }


def _compare_usable(
    predictions: pd.DataFrame,
    network: str,
    baselines: Sequence[str],
    horizon: int,
    faults: Mapping[str, str],
) -> list[Comparison]:
    """Comparisons in the order of the baselines; untested where either forecast is unusable."""
    usable = [name for name in baselines if name not in faults]
    done = (
        {}
        if network in faults
        else {c.baseline: c for c in compare_forecasts(predictions, network, usable, horizon)}
    )
    untested = "LOSES" if network in faults else "TIES"
    return [
        done.get(name) or Comparison(network, name, LOSS, None, None, None, None, None, untested)
        for name in baselines
    ]


def _skill_by(predictions: pd.DataFrame, network: str, horizon: int) -> dict[str, Any]:
    return {
        "symbol": skill_by(predictions, network, "naive", "symbol", horizon),
        "month": skill_by(predictions, network, "naive", "month", horizon),
    }


def _interval(
    predictions: pd.DataFrame, network: str, baselines: Sequence[str], horizon: int
) -> dict[str, Any] | None:
    if not set(QUANTILES) <= set(predictions):
        return None
    compared = compare_quantiles(predictions, network, baselines, horizon)
    return {**interval_scores(predictions, horizon), "comparisons": compared}


def _suspicions(predictions: pd.DataFrame, measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    loss_naive, warnings = scaled_absolute_error(predictions, "naive"), []
    for model, metrics in measured.items():
        if model not in FREE_FORECASTS:
            warnings += suspicion_warnings(
                model,
                direction_accuracy=metrics["direction_accuracy"],
                r2=metrics["r2"],
                mae_skill=skill(
                    scaled_absolute_error(predictions, model), loss_naive, predictions["timestamp"]
                ),
            )
    return warnings


def _measure(
    predictions: pd.DataFrame, model: str, network: str, direction: Any, horizon: int
) -> dict[str, Any]:
    actual = predictions["actual_return"].to_numpy(np.float64)
    direction = predictions[model] if direction is None else direction
    _, direction = finite_vectors(actual_return=actual, **{f"directions of {model}": direction})
    prices = price_metrics(predictions, model)
    returns = return_metrics(actual, predictions[model])
    p_up = predictions["p_up"] if model == network and "p_up" in predictions else None
    # Divided by volatility, so that the most confident tenth is not just the wildest coin.
    score = direction / predictions["volatility"].to_numpy(np.float64)
    return {
        "mape_percent": prices["mape_percent"],
        "mae": returns["mae"],
        "rmse": returns["rmse"],
        "mae_percent": returns["mae_percent"],
        "r2": returns["r2_vs_zero"],
        **direction_metrics(
            actual, score, p_up, instants=predictions["timestamp"], horizon=horizon
        ),
        **lag_check(direction, predictions["current_return"], actual),
        "by_symbol": prices["by_symbol"],
    }


def _blank(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys, each number None: the row of a model that cannot be scored."""
    return {
        key: _blank(value) if isinstance(value, dict) else None for key, value in metrics.items()
    }
