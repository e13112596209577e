"""The calibration that was judged beside later ones, on forecasts that these were not fitted on.

Two rules keep a later calibration from being scored by what it was fitted on:

- "monthly": at the start of each calendar month (UTC) it is fitted anew on the forecasts of the 180
  days before that had come true by then, and scored on the forecasts of that month alone.
- "file": the one that is in use is scored on the forecasts made after its own date.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np
import pandas as pd

from pipeline.bundle.metadata import minute
from pipeline.candles.schema import timestamps_ms
from pipeline.evaluation.losses import deciding
from pipeline.evaluation.probability import QUANTILES
from pipeline.evaluation.verdict import evaluate_forecasts
from pipeline.forecasts.recalibration import Recalibration, refit
from pipeline.forecasts.shrinkage import apply_calibration


class CalibrationScores(TypedDict):
    """What a calibration changes of a network's scores."""

    skill: float | None
    """against naive"""
    statistic: float | None
    """of Diebold-Mariano"""
    p_value: float | None
    r2: float | None
    r2_low: float | None
    r2_high: float | None
    off: float | None
    """mean distance of confidence and share of right directions, over the tenths of confidence"""
    slope: float | None
    """of the confidence: 1 is calibrated, less too bold"""
    top_said: float | None
    """confidence of the most confident tenth"""
    top_true: float | None
    """share of right directions in it"""


class Compared(TypedDict):
    """Two calibrations on the same forecasts."""

    rule: str
    """"monthly" or "file", as above"""
    first: str
    """when the first forecast was made"""
    last: str
    n: int
    judged: CalibrationScores
    later: CalibrationScores
    fits: list[dict[str, Any]]
    """of each later calibration "until", "n" (forecasts it was fitted on), "shrinkage" and
    "direction_slope" """


def compare_calibrations(
    predictions: pd.DataFrame,
    network: str,
    *,
    step_ms: int,
    horizon: int = 1,
    caution: float = 0.0,
    later: Recalibration | None = None,
) -> list[Compared]:
    """Score the judged calibration and later ones.

    Args:
        predictions: Unseen forecasts as they were judged, in time order: the frame described in
            `metrics` with "naive", the network's own, its `<network>_raw` and "p_up".
        network: Name of the network's column.
        step_ms: Length of a candle.
        horizon: Candles that a forecast spans.
        caution: See `fit_shrinkage`.
        later: The recalibration in use, if there is one.

    Returns:
        A comparison by each rule that has forecasts to score.
    """
    made_ms = timestamps_ms(predictions) + step_ms
    monthly = monthly_calibrations(
        predictions, network, step_ms=step_ms, horizon=horizon, caution=caution
    )
    rules = {"monthly": monthly}
    if later is not None:
        rules["file"] = {later: np.flatnonzero(made_ms >= later.until_ms)}
    compared: list[Compared] = []
    for rule, rows_of in rules.items():
        rows = np.concatenate([np.empty(0, int), *rows_of.values()])
        if len(rows) == 0:
            continue
        # The intervals are the judged ones either way.
        judged = predictions.drop(columns=[*QUANTILES], errors="ignore")
        anew = pd.concat(
            _recalibrated(judged.iloc[part], network, one) for one, part in rows_of.items()
        )
        compared.append(
            {
                "rule": rule,
                "first": minute(int(made_ms[rows].min())),
                "last": minute(int(made_ms[rows].max())),
                "n": len(rows),
                "judged": _scores(judged.iloc[rows], network, horizon),
                "later": _scores(anew, network, horizon),
                "fits": [_told(one) for one in rows_of],
            }
        )
    return compared


def monthly_calibrations(
    predictions: pd.DataFrame, network: str, *, step_ms: int, horizon: int, caution: float
) -> dict[Recalibration, np.ndarray]:
    """A calibration of the start of each month -> the rows that were made in that month.

    Months are missing before which too few forecasts had come true.
    """
    made_ms = timestamps_ms(predictions) + step_ms
    months = made_ms.astype("datetime64[ms]").astype("datetime64[M]")
    found = {}
    for month in np.unique(months):
        until_ms = int(month.astype("datetime64[ms]").astype(np.int64))
        fitted = refit(
            predictions, network, until_ms, step_ms=step_ms, horizon=horizon, caution=caution
        )
        if fitted is not None:
            found[fitted] = np.flatnonzero(months == month)
    return found


def _recalibrated(rows: pd.DataFrame, network: str, later: Recalibration) -> pd.DataFrame:
    """The rows with this calibration's forecasts and probabilities."""
    raw, volatility = (rows[name].to_numpy(np.float64) for name in (f"{network}_raw", "volatility"))
    served = apply_calibration(later.calibration, raw, volatility)
    return rows.assign(**{network: served["predicted_return"], "p_up": served["p_up"]})


def _scores(rows: pd.DataFrame, network: str, horizon: int) -> CalibrationScores:
    test = evaluate_forecasts(
        rows, network=network, baselines=["naive"], horizon=horizon, confidence_set=False
    )
    [naive] = deciding(test["verdicts"])
    numbers, probability = test["models"][network], test["probability"]
    confidence = probability and probability["confidence"]
    top = confidence["bins"][-1] if confidence else {}
    return {
        "skill": naive["skill"],
        "statistic": naive["statistic"],
        "p_value": naive["p_value"],
        "r2": numbers["r2"],
        "r2_low": numbers["r2_low"],
        "r2_high": numbers["r2_high"],
        "off": confidence["mean_absolute_deviation"] if confidence else None,
        "slope": probability["slope"] if probability else None,
        "top_said": top.get("probability"),
        "top_true": top.get("share"),
    }


def _told(later: Recalibration) -> dict[str, Any]:
    calibration = later.calibration.as_dict()
    return {"until": minute(later.until_ms), "n": later.n, **calibration}
