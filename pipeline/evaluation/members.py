"""What an ensemble gains: each member's score beside that of their mean, and how far they are
apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.metrics import direction_metrics, forecast_fault
from pipeline.evaluation.verdict import compare_forecasts
from pipeline.report import page, tables


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
        seeds: Of each.
        histories: Of each: "val_loss" by epoch and "best_epoch".
        horizon: Candles that a forecast spans.

    Returns:
        Plain data for JSON: "seeds"; "members", of each its seed, best_epoch (from 0), its
        val_loss, skill against naive and direction_accuracy; "mean", skill and direction_accuracy
        of the ensemble; "spread" (`spread_of`).
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


def _scores(predictions: pd.DataFrame, network: str, horizon: int) -> dict[str, float | None]:
    if forecast_fault(predictions, network) is not None:
        return {"skill": None, "direction_accuracy": None}
    raw = predictions[f"{network}_raw"] / predictions["volatility"]
    return {
        "skill": compare_forecasts(predictions, network, ["naive"], horizon)[0].skill,
        "direction_accuracy": direction_metrics(predictions["actual_return"], raw)[
            "direction_accuracy"
        ],
    }


def member_rows(ensemble: Mapping[str, Any]) -> list[list[str]]:
    """`score_members` as text cells, a heading first."""
    rows = [["network", "best epoch", "validation loss", "skill against naive %", "direction %"]]
    for number, member in enumerate(ensemble["members"], start=1):
        facts = [str(member["best_epoch"] + 1), tables.show(member["val_loss"], "{:.5f}")]
        rows.append([f"member {number}, seed {member['seed']}", *facts, *_score_cells(member)])
    return [*rows, ["their mean, the forecast", "", "", *_score_cells(ensemble["mean"])]]


def _score_cells(scores: Mapping[str, float | None]) -> list[str]:
    return [
        tables.show(scores["skill"], "{:+.3f}", 100),
        tables.show(scores["direction_accuracy"], "{:.2f}", 100),
    ]


def terminal_table(ensemble: Mapping[str, Any], n_folds: int) -> str:
    """The members, their mean and their spread, for the terminal."""
    lines = "\n".join(tables.INDENT + sentence for sentence in _sentences(ensemble, n_folds))
    return f"{tables.text_table(member_rows(ensemble))}\n\n{lines}\n"


def report_section(ensemble: Mapping[str, Any], n_folds: int) -> list[str]:
    """The same for the report page."""
    return page.section(
        "Members of the ensemble",
        "Networks that differ by their seed alone: how far their scores are apart is luck, and "
        "what a single network's score is worth. Each is scored as if it were alone, shrunk by "
        "its own factor.",
        page.table(member_rows(ensemble)),
        *map(page.text, _sentences(ensemble, n_folds)),
    )


def _sentences(ensemble: Mapping[str, Any], n_folds: int) -> list[str]:
    spread = tables.show(ensemble["spread"], "{:.2f}")
    return [
        f"members differ by {spread} at a candle; 1 is how much their mean differs from candle to "
        "candle",
        *(
            [f"these are the members of the last of {n_folds} folds, on that fold alone"]
            if n_folds > 1
            else []
        ),
    ]
