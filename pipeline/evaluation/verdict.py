"""The verdict: does the network forecast better than the baselines?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from pipeline.evaluation import comparison, metrics, probability
from pipeline.evaluation.comparison import Comparison, scaled_absolute_error
from pipeline.evaluation.decay import SkillOverTime, skill_over_time
from pipeline.evaluation.losses import LOSS, SQUARED_LOSS
from pipeline.evaluation.significance import LEVEL, finite_vectors, mean_by_instant, sum_by_instant
from pipeline.forecasts.baselines import BASELINE_NAMES, FREE_FORECASTS

# On liquid hourly candles, honest forecasts stay far below these.
SUSPICIOUS_ACCURACY = 0.56
SUSPICIOUS_R2 = 0.02
SUSPICIOUS_SKILL = 0.02


class ModelMetrics(metrics.DirectionMetrics, metrics.LagCheck):
    """A model's row of the evaluation; all None where its forecasts are unusable."""

    mape_percent: float | None
    """of prices, pooled"""
    mae: float | None
    """of log-returns, as rmse and mae_percent"""
    rmse: float | None
    mae_percent: float | None
    r2: float | None
    """against zero, as the ends of its 95 % interval"""
    r2_low: float | None
    r2_high: float | None
    by_symbol: dict[str, metrics.SymbolErrors]


class ComparedInterval(probability.IntervalScores):
    """The network's interval, and its quantiles beside those of baselines."""

    comparisons: list[dict[str, Any]]
    """a `Comparison` each"""


class Evaluation(TypedDict):
    """Everything that `evaluate_forecasts` measures: plain data without NaN, ready for JSON."""

    n: int
    """forecasts"""
    n_instants: int
    models: dict[str, ModelMetrics]
    verdicts: list[dict[str, Any]]
    """a `Comparison` each, in the order of the baselines; then the same in squared error, a family
    of its own"""
    power: dict[str, float | None]
    """"skill_against_naive": the least skill that would have been found in the share "power" of
    such runs, at "level" after Holm's correction for all "comparisons" """
    verdict: str
    """EDGE, NO EDGE or NO CLAIM (synthetic data)"""
    interval: ComparedInterval | None
    """None without quantiles, as `probability` without p_up"""
    probability: probability.ProbabilityScores | None
    skill_by: dict[str, list[dict[str, Any]]] | None
    """`skill_by` of the network against naive, by "symbol" and by "month" """
    skill_over_time: SkillOverTime | None
    confidence_set: dict[str, Any] | None
    """`model_confidence_set`"""
    warnings: list[str]


def compare_forecasts(
    predictions: pd.DataFrame,
    model: str,
    baselines: Sequence[str],
    horizon: int = 1,
    alpha: float = LEVEL,
    loss: str = LOSS,
) -> list[Comparison]:
    """Compare a model with each baseline by |actual_return - forecast| / volatility, or its square.

    Args:
        predictions: The frame described in `metrics`.
        model: Name of the model's forecast column.
        baselines: Names of the baselines' forecast columns.
        alpha: Level of the whole family of comparisons.
        loss: `LOSS` or `SQUARED_LOSS`.

    Raises:
        ValueError: As `check_predictions`, or no baselines.
    """
    if len(baselines) == 0:
        raise ValueError(f"no baselines to compare {model} with; name at least one forecast column")
    metrics.check_predictions(predictions, [model, *baselines])
    power = 2 if loss == SQUARED_LOSS else 1
    losses = {
        name: scaled_absolute_error(predictions, name) ** power for name in (model, *baselines)
    }
    ours = losses.pop(model)
    instants = predictions["timestamp"]
    return comparison.compare_losses(model, ours, losses, instants, horizon, loss=loss, alpha=alpha)


def run_verdict(comparisons: Sequence[Comparison], synthetic: bool) -> str:
    """EDGE if the network BEATS naive and LOSES to none, else NO EDGE; NO CLAIM if synthetic.

    Raises:
        ValueError: There is no comparison with naive.
    """
    if synthetic:
        return "NO CLAIM (synthetic data)"
    verdicts = {compared.baseline: compared.verdict for compared in comparisons}
    if "naive" not in verdicts:
        raise ValueError(f"no comparison with naive among {list(verdicts)}; a verdict needs one")
    has_edge = verdicts["naive"] == "BEATS" and "LOSES" not in verdicts.values()
    return "EDGE" if has_edge else "NO EDGE"


Interval = tuple[float | None, float | None, float | None]
"""A number and the ends of its 95 % interval; None where they cannot be computed."""


def suspicion_warnings(
    model: str, *, direction_accuracy: Interval, r2: Interval, mae_skill: Interval
) -> list[str]:
    """Doubt results that are too good to be true, and not by luck.

    A number is doubted where even the lower end of its 95 % interval is above the limit. A point
    estimate alone passes it by luck in short runs.

    Args:
        model: Name of the model, for the text.
        direction_accuracy: Share of right calls, pooled over symbols.
        r2: R2 of the log-returns against zero.
        mae_skill: Skill against naive in absolute error.

    Returns:
        One sentence for each number that is doubted.

    Example:
        >>> none = (None, None, None)
        >>> luck = (0.57, 0.55, 0.59)
        >>> suspicion_warnings("lstm", direction_accuracy=luck, r2=none, mae_skill=none)
        []
    """
    numbers = (
        ("direction accuracy", direction_accuracy, SUSPICIOUS_ACCURACY),
        ("R2 against zero", r2, SUSPICIOUS_R2),
        ("MAE skill against naive", mae_skill, SUSPICIOUS_SKILL),
    )
    return [
        f"{model}: {name} is {100 * value:.2f} %, and at least {100 * low:.2f} % with 95 % "
        f"confidence, above {100 * limit:g} %: look-ahead (a feature, scaler or target that knows "
        "the future) is the likely cause, so check for leakage before believing it"
        for name, (value, low, _), limit in numbers
        if value is not None and low is not None and low > limit
    ]


def evaluate_forecasts(
    predictions: pd.DataFrame,
    *,
    network: str = "lstm",
    baselines: Sequence[str] = BASELINE_NAMES,
    horizon: int = 1,
    synthetic: bool = False,
    directions: Mapping[str, Any] | None = None,
    quantile_baselines: Sequence[str] = (),
    confidence_set: bool = True,
) -> Evaluation:
    """Evaluate a run's forecasts of the test part.

    A model with unusable forecasts gets a warning and a row of None; the rest stands. Such a
    network LOSES to every baseline, and with such a baseline it TIES, both without a test.

    Args:
        predictions: The frame described in `metrics`; p_up, q10, q50 and q90, where they are, are
            the network's.
        network: Name of the network's forecast column.
        baselines: Names of the baselines' forecast columns; "naive" is one of them.
        synthetic: Whether the candles were made up.
        directions: For a model, (n,) log-returns in the order of the rows, whose signs are its
            direction calls instead of its forecasts': a forecast that was shrunk to exactly 0 still
            has a direction.
        quantile_baselines: Names of baselines with quantiles, such as "garch" for garch_q10,
            garch_q50, garch_q90.
        confidence_set: Whether to compute the `model_confidence_set`: a second for 25,000 instants.

    Raises:
        ValueError: As `check_predictions`, naive is no baseline, or directions fit no model or not
            the rows.
    """
    models, directions = [*baselines, network], directions or {}
    if unknown := sorted(set(directions) - set(models)):
        raise ValueError(
            f"directions are given for {unknown}, which are none of the models {models}"
        )
    if "naive" not in baselines:
        raise ValueError(f"baselines are {list(baselines)}; a verdict needs naive among them")
    found = {name: metrics.forecast_fault(predictions, name) for name in models if name != "naive"}
    faults = {name: fault for name, fault in found.items() if fault is not None}
    usable = [name for name in models if name not in faults]
    if network in faults:  # what comes with its forecasts is no better
        predictions = predictions.drop(columns=[*probability.QUANTILES, "p_up"], errors="ignore")
    metrics.check_predictions(predictions, usable)
    comparisons, squared = (
        _compare_usable(predictions, network, baselines, horizon, faults, loss)
        for loss in (LOSS, SQUARED_LOSS)
    )
    measured = {
        name: measure_model(predictions, name, network, directions.get(name), horizon)
        for name in usable
    }
    blank = blank_row(measured["naive"])
    result: Evaluation = {
        "n": len(predictions),
        "n_instants": int(predictions["timestamp"].nunique()),
        "models": {name: measured.get(name, blank) for name in models},
        "verdicts": [asdict(compared) for compared in [*comparisons, *squared]],
        "power": _power(predictions, network, len(comparisons), horizon, faults),
        "verdict": run_verdict(comparisons, synthetic),
        "interval": _interval(predictions, network, quantile_baselines, horizon),
        "probability": None,
        "skill_by": None,
        "skill_over_time": None,
        "confidence_set": None,
        "warnings": [*faults.values(), *_suspicions(predictions, measured, network, horizon)],
    }
    if "p_up" in predictions:
        result["probability"] = probability.probability_scores(predictions, horizon)
    if network in usable:
        result["skill_by"] = {
            by: comparison.skill_by(predictions, network, "naive", by, horizon)
            for by in ("symbol", "month")
        }
        result["skill_over_time"] = skill_over_time(predictions, network, "naive", horizon)
    if confidence_set:
        result["confidence_set"] = comparison.model_confidence_set(predictions, usable, horizon)
    return result


def _compare_usable(
    predictions: pd.DataFrame,
    network: str,
    baselines: Sequence[str],
    horizon: int,
    faults: Mapping[str, str],
    loss: str,
) -> list[Comparison]:
    """Comparisons in the order of the baselines; untested where either forecast is unusable."""
    tested, untested = {}, "LOSES"
    if network not in faults:
        usable = [name for name in baselines if name not in faults]
        compared = compare_forecasts(predictions, network, usable, horizon, loss=loss)
        tested, untested = {one.baseline: one for one in compared}, "TIES"
    return [
        tested.get(name) or Comparison(network, name, loss, None, None, None, None, untested)
        for name in baselines
    ]


def _power(
    predictions: pd.DataFrame,
    network: str,
    n_comparisons: int,
    horizon: int,
    faults: Mapping[str, str],
) -> dict[str, float | None]:
    skill = None
    if network not in faults:
        ours, theirs = (
            mean_by_instant(scaled_absolute_error(predictions, name), predictions["timestamp"])
            for name in (network, "naive")
        )
        skill = comparison.detectable_skill(ours, theirs, horizon, n_comparisons)
    return {
        "skill_against_naive": skill,
        "power": comparison.POWER,
        "level": LEVEL,
        "comparisons": n_comparisons,
    }


def _interval(
    predictions: pd.DataFrame, network: str, baselines: Sequence[str], horizon: int
) -> ComparedInterval | None:
    if not set(probability.QUANTILES) <= set(predictions):
        return None
    predictions = predictions[_has_interval(predictions)]
    if predictions.empty:
        return None
    compared = probability.compare_quantiles(predictions, network, baselines, horizon)
    return {**probability.interval_scores(predictions, horizon), "comparisons": compared}


def _has_interval(predictions: pd.DataFrame) -> np.ndarray:
    """(n,) whether all quantiles are numbers; a frame without them has all that it should."""
    own = predictions[[name for name in probability.QUANTILES if name in predictions]]
    return np.asarray(np.isfinite(own).all(axis=1))


def _suspicions(
    predictions: pd.DataFrame, measured: Mapping[str, ModelMetrics], network: str, horizon: int
) -> list[str]:
    """Doubts about the network, then about the fitted baselines, which see the same features."""
    instants = predictions["timestamp"]
    loss_naive = mean_by_instant(scaled_absolute_error(predictions, "naive"), instants)
    doubts = []
    if n_missing := int((~_has_interval(predictions)).sum()):
        doubts.append(
            f"{network}: {n_missing:,} of {len(predictions):,} forecasts have no interval; "
            "intervals are scored where there is one"
        )
    for model in sorted(measured, key=lambda name: name != network):
        if model in FREE_FORECASTS:
            continue
        row = measured[model]
        loss = mean_by_instant(scaled_absolute_error(predictions, model), instants)
        right = (
            row["direction_accuracy"],
            row["direction_accuracy_low"],
            row["direction_accuracy_high"],
        )
        doubts += suspicion_warnings(
            model,
            direction_accuracy=right,
            r2=(row["r2"], row["r2_low"], row["r2_high"]),
            mae_skill=comparison.skill_interval(loss, loss_naive, horizon),
        )
    return doubts


def _r2_interval(predictions: pd.DataFrame, model: str, horizon: int) -> Interval:
    """R2 against zero, 1 - sum of squared errors / sum of squares, and its ends."""
    actual = predictions["actual_return"].to_numpy(np.float64)
    errors = actual - predictions[model].to_numpy(np.float64)
    # sums, not means, so that the ratio is that of all samples
    ours, theirs = (
        sum_by_instant(values**2, predictions["timestamp"]) for values in (errors, actual)
    )
    return comparison.skill_interval(ours, theirs, horizon)


def measure_model(
    predictions: pd.DataFrame, model: str, network: str, direction: Any, horizon: int
) -> ModelMetrics:
    """A model's row of the evaluation.

    Args:
        predictions: The frame described in `metrics`, which `check_predictions` lets pass.
        model: Name of the model's forecast column.
        network: Name of the model that p_up is of.
        direction: (n,) log-returns whose signs are its direction calls; None for its forecasts'.
        horizon: Candles that a forecast spans.
    """
    actual = predictions["actual_return"].to_numpy(np.float64)
    direction = predictions[model] if direction is None else direction
    _, direction = finite_vectors(actual_return=actual, **{f"directions of {model}": direction})
    prices = metrics.price_metrics(predictions, model)
    returns = metrics.return_metrics(actual, predictions[model])
    p_up = predictions["p_up"] if model == network and "p_up" in predictions else None
    # Divided by volatility, so that the most confident tenth is not just the wildest coin.
    score = direction / predictions["volatility"].to_numpy(np.float64)
    instants = predictions["timestamp"]
    r2 = _r2_interval(predictions, model, horizon)
    return {
        "mape_percent": prices["mape_percent"],
        "mae": returns["mae"],
        "rmse": returns["rmse"],
        "mae_percent": returns["mae_percent"],
        "r2": returns["r2_vs_zero"],
        "r2_low": r2[1],
        "r2_high": r2[2],
        **metrics.direction_metrics(actual, score, p_up, instants=instants, horizon=horizon),
        **metrics.lag_check(direction, predictions["current_return"], actual),
        "by_symbol": prices["by_symbol"],
    }


def blank_row(row: Any) -> Any:
    """The same keys, each number None: the row of a model that cannot be scored."""
    return {name: blank_row(of) if isinstance(of, dict) else None for name, of in row.items()}
