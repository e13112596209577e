"""Forecasts that say no more than up or down: scored by the share of wrong directions.

Where a forecast names no size, its absolute error is not defined. What is compared is how often the
direction was wrong; a forecast of no move, as naive's always is, counts as half a wrong one, and so
does a price that did not move. A skill of 2 % is thus a share of right directions of 51 %.

The tests are those of other forecasts. They are of frames whose moves are -1, 0 and 1 and whose
volatility is 2, so that |actual - forecast| / volatility is 0, 1/2 or 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.losses import LOSS, WRONG_DIRECTION
from pipeline.evaluation.metrics import forecast_fault
from pipeline.evaluation.probability import QUANTILES, probability_scores
from pipeline.evaluation.verdict import (
    Evaluation,
    ModelMetrics,
    blank_row,
    evaluate_forecasts,
    measure_model,
    suspicion_warnings,
)

NO_ERRORS = ("mape_percent", "mae", "rmse", "mae_percent", "r2", "r2_low", "r2_high")
"""Scores of a model that says no size"""
NONE = (None, None, None)


def as_directions(predictions: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """The frame of predictions with moves of -1, 0 and 1; of shrunk forecasts those before.

    Example:
        >>> rows = pd.DataFrame({"actual_return": [0.02], "it": [-0.001], "volatility": [0.01]})
        >>> as_directions(rows, ["it"]).to_dict("records")
        [{'actual_return': 1.0, 'it': -1.0, 'volatility': 2.0}]
    """
    signs = {
        name: np.sign(predictions[f"{name}_raw" if f"{name}_raw" in predictions else name])
        for name in models
    }
    moved = np.sign(predictions["actual_return"])
    return predictions.assign(actual_return=moved, volatility=2.0, **signs)


def evaluate_directions(
    predictions: pd.DataFrame,
    *,
    network: str,
    baselines: Sequence[str],
    horizon: int = 1,
    synthetic: bool = False,
    directions: Mapping[str, Any] | None = None,
    quantile_baselines: Sequence[str] = (),
) -> Evaluation:
    """`evaluate_forecasts` of a model that says directions alone, by the share of wrong ones."""
    models = [*baselines, network]
    usable = [name for name in models if forecast_fault(predictions, name) is None]
    signs = as_directions(predictions, usable).drop(
        columns=["p_up", *QUANTILES, *(f"{name}_raw" for name in models)], errors="ignore"
    )
    result = evaluate_forecasts(
        signs, network=network, baselines=baselines, horizon=horizon, synthetic=synthetic
    )
    compared = [entry for entry in result["verdicts"] if entry["loss"] == LOSS]
    result["verdicts"] = [entry | {"loss": WRONG_DIRECTION} for entry in compared]
    called = directions or {}
    rows: dict[str, ModelMetrics] = {
        name: measure_model(predictions, name, network, called.get(name), horizon)
        for name in usable
    }
    if network in rows:
        own: Any = dict(rows[network]) | dict.fromkeys(NO_ERRORS)
        own["by_symbol"] = blank_row(own["by_symbol"])
        rows[network] = own
    result["models"] = {name: rows.get(name, result["models"][name]) for name in models}
    result["interval"] = None
    if "p_up" in predictions:
        result["probability"] = probability_scores(predictions, horizon)
    faults = [text for name in models if (text := forecast_fault(predictions, name))]
    doubts: list[str] = []
    if network in rows:
        ends = ("", "_low", "_high")
        right: Any = tuple(rows[network][f"direction_accuracy{end}"] for end in ends)  # type: ignore
        doubts = suspicion_warnings(network, direction_accuracy=right, r2=NONE, mae_skill=NONE)
    result["warnings"] = [*faults, *doubts]
    return result
