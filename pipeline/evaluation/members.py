"""What an ensemble gains: each member's score beside that of their mean, and their spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from pipeline.evaluation.metrics import direction_metrics, forecast_fault
from pipeline.evaluation.verdict import compare_forecasts


class MemberScores(TypedDict):
    """What a network is worth alone; both None where its forecasts are unusable."""

    skill: float | None
    """against naive"""
    direction_accuracy: float | None


def score_members(
    predictions: pd.DataFrame,
    network: str,
    members: Sequence[Mapping[str, np.ndarray]],
    seeds: Sequence[int],
    histories: Sequence[Mapping[str, Any]],
    horizon: int,
) -> dict[str, Any]:
    """Score each member as if it were alone, on the samples that the ensemble forecast.

    Args:
        predictions: The ensemble's, as `pipeline.forecasts.test_part` gives them.
        network: Name of its column; `<network>_raw` before shrinkage.
        members: Of each, (n,) "served" (shrunk by its own factor) and "raw" log-returns, in the
            order of the rows.
        seeds: Seed of each.
        histories: Of each: "val_loss" by epoch and "best_epoch".
        horizon: Candles that a forecast spans.

    Returns:
        Plain data for JSON: "seeds"; "members", of each its seed, best_epoch (from 0), its
        val_loss and `MemberScores`; "mean", `MemberScores` of the ensemble; "spread" (`spread_of`).
    """
    rows = []
    for member, seed, history in zip(members, seeds, histories):
        alone = predictions.assign(**{network: member["served"], f"{network}_raw": member["raw"]})
        best = history["best_epoch"]
        facts = {"seed": seed, "best_epoch": best, "val_loss": history["val_loss"][best]}
        rows.append({**facts, **_scores(alone, network, horizon)})
    raw = np.stack([member["raw"] for member in members])
    return {
        "seeds": list(seeds),
        "members": rows,
        "mean": _scores(predictions, network, horizon),
        "spread": spread_of(raw, predictions[f"{network}_raw"].to_numpy()),
    }


def spread_of(members: np.ndarray, mean: np.ndarray) -> float | None:
    """How far the members' forecasts are apart, in units of how far the ensemble's vary.

    Args:
        members: (n_members, n) forecasts, n_members > 1.
        mean: (n,) the ensemble's.

    Returns:
        Mean over the samples of the members' standard deviation (n_members - 1), over the standard
        deviation of `mean`; None where that does not vary.

    Example:
        >>> round(spread_of(np.array([[0.0, 1.0], [2.0, 5.0]]), np.array([1.0, 3.0])), 6)
        2.12132
    """
    scale = float(np.std(mean))
    return float(np.std(members, axis=0, ddof=1).mean()) / scale if scale > 0 else None


def _scores(predictions: pd.DataFrame, network: str, horizon: int) -> MemberScores:
    if forecast_fault(predictions, network) is not None:
        return {"skill": None, "direction_accuracy": None}
    raw = predictions[f"{network}_raw"] / predictions["volatility"]
    [against_naive] = compare_forecasts(predictions, network, ["naive"], horizon)
    measured = direction_metrics(predictions["actual_return"], raw)
    return {"skill": against_naive.skill, "direction_accuracy": measured["direction_accuracy"]}
