"""Our verdict on anyone's forecasts: the scores of a training run, what to doubt, and rivals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline import terminal
from pipeline.bundle import files
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timestamps_ms
from pipeline.evaluation.comparison import (
    Comparison,
    compare_losses,
    model_confidence_set,
    scaled_absolute_error,
    skill_interval,
)
from pipeline.evaluation.directions import as_directions
from pipeline.evaluation.losses import IN_DOUBT, LOSS, WRONG_DIRECTION, deciding
from pipeline.evaluation.matching import Matched
from pipeline.evaluation.metrics import direction_metrics
from pipeline.evaluation.scoring import score_run
from pipeline.evaluation.significance import LEVEL, holm, mean_by_instant
from pipeline.evaluation.suspicions import find_suspicions
from pipeline.evaluation.verdict import run_verdict
from pipeline.forecasts.past_intervals import INTERVAL_BASELINES
from pipeline.forecasts.reference import Reference

COVERED = 0.99
"""Share of the forecasts at which fitted baselines are there too, from which the others are left
out instead of the baselines"""
STRAY = 0.01
"""Share of a pair's forecasts, the first ones, that may lie apart and go unscored"""
LONG_GAP = 100
"""usual steps from which a gap sets such forecasts apart"""


@dataclass(frozen=True)
class Rules:
    """How forecasts are judged."""

    horizon: int = 1
    fee_bps: float = 5.0
    published_ms: int | None = None
    """when the forecasts became public, epoch ms"""
    tried: int = 1
    """models that were tried before this one was shown"""
    prices_between: Mapping[str, pd.Series] = field(default_factory=dict)
    """see `score_run`"""
    rule: str = ""
    """the rule, set before, by which forecasts are left out or zero"""


def judge_one(
    matched: Matched,
    reference: Reference,
    market: CandleSet,
    rules: Rules,
    *,
    is_walked: bool = False,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Score one model's forecasts.

    Args:
        matched: The forecasts and what came true.
        reference: The baselines; those of a run come with its forecasts.
        market: The candles.
        rules: How to judge.
        is_walked: Whether a model was walked forward, so that it could not know what came.

    Returns:
        Plain data for JSON: "model", "verdict" (that of the numbers, in "test", or `IN_DOUBT` where
        it is EDGE and a grave suspicion stands against it), "kind", "data" (of
        `CandleSet.provenance`), what `score_run` returns, "suspicions" (name, says, is_grave),
        "notes", "published" (the comparison with naive before and after that day, or None) and
        "tried"; and the frame that was scored.
    """
    predictions, baselines, notes = _with_baselines(matched, reference)
    scores = score_run(
        [predictions],
        network=matched.name,
        baselines=baselines,
        interval_baselines=INTERVAL_BASELINES,
        timeframe=market.timeframe,
        horizon=rules.horizon,
        synthetic=market.is_synthetic,
        fee_bps=rules.fee_bps,
        threshold=0.0,
        funding=market.funding,
        prices_between=rules.prices_between,
        says_sizes=matched.kind == "return",
    )
    scores["test"]["warnings"] += market.doubts.values()
    if rules.tried > 1:
        correct_for_tried(scores["test"], rules.tried)
    found = find_suspicions(
        matched,
        scores["test"],
        market,
        rules.horizon,
        published_ms=rules.published_ms,
        tried=rules.tried,
        rule=rules.rule,
        is_walked=is_walked,
    )
    verdict = scores["test"]["verdict"]
    if verdict == "EDGE" and any(one.is_grave for one in found):
        verdict = IN_DOUBT
    metrics = {
        "model": matched.name,
        "verdict": verdict,
        "kind": matched.kind,
        "horizon": rules.horizon,
        "data": market.provenance(),
        **scores,
        "suspicions": [asdict(one) for one in found],
        "notes": [*matched.notes, *notes],
        "published": _published(predictions, matched, rules),
        "tried": rules.tried,
        "baseline_settings": dict(reference.settings),
    }
    return files.plain(metrics), predictions


def _with_baselines(
    matched: Matched, reference: Reference
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """The forecasts beside the baselines, the names of these, and what to tell."""
    predictions = matched.predictions
    if matched.baselines:
        return predictions, list(matched.baselines), ["the baselines are the run's own"]
    if reference.why_not:
        return predictions, ["naive"], [f"naive alone is compared: {reference.why_not}"]
    if reference.columns.empty:
        return predictions, ["naive"], ["naive alone is compared (--baselines)"]
    place = _places(predictions, reference.columns)
    there = place >= 0
    if there.mean() < COVERED:
        return (
            predictions,
            ["naive"],
            [
                f"naive alone is compared: the fitted baselines know only {100 * there.mean():.0f} "
                "% of these instants, since the others follow too few candles"
            ],
        )
    told = (
        f"baselines fitted on {reference.n_train:,} samples until {reference.trained_until}, "
        "before the first forecast"
    )
    notes = [told]
    if not there.all():
        notes.append(
            f"{int((~there).sum()):,} forecasts that follow too few candles for the baselines are "
            "left out"
        )
        predictions = predictions[there].reset_index(drop=True)
    columns = {
        name: reference.columns[name].to_numpy()[place[there]]
        for name in reference.columns
        if name not in ("symbol", "timestamp")
    }
    return predictions.assign(**columns), list(reference.baselines), notes


def _places(predictions: pd.DataFrame, others: pd.DataFrame) -> np.ndarray:
    """(n,) the row of `others` of the same symbol and instant, -1 where there is none."""
    names = pd.Index(others["symbol"].unique())
    wanted, known = (
        timestamps_ms(rows) // 1000 * (len(names) + 1) + names.get_indexer(rows["symbol"])
        for rows in (predictions, others)
    )
    order = np.argsort(known, kind="stable")
    place = order[np.minimum(np.searchsorted(known[order], wanted), len(known) - 1)]
    is_there = (known[place] == wanted) & (names.get_indexer(predictions["symbol"]) >= 0)
    return np.where(is_there, place, -1)


def correct_for_tried(test: dict[str, Any], tried: int) -> None:
    """Correct the p-values of what the best of several models beats, and the verdict, in place.

    The best of N is better than some by luck: its p-values are multiplied by N (Bonferroni). What
    it loses to, it loses to although it was chosen.
    """
    for entry in test["verdicts"]:
        if entry["p_holm"] is None or entry["statistic"] <= 0:
            continue
        entry["p_holm"] = min(1.0, tried * entry["p_holm"])
        if entry["verdict"] == "BEATS" and entry["p_holm"] >= LEVEL:
            entry["verdict"] = "TIES"
    decisive = [Comparison(**entry) for entry in deciding(test["verdicts"])]
    if not test["verdict"].startswith("NO CLAIM"):
        test["verdict"] = run_verdict(decisive, synthetic=False)


def _published(
    predictions: pd.DataFrame, matched: Matched, rules: Rules
) -> dict[str, dict[str, Any] | None] | None:
    """Skill against naive before and after the publication."""
    if rules.published_ms is None:
        return None
    is_after = timestamps_ms(predictions) >= rules.published_ms
    parts: dict[str, dict[str, Any] | None] = {}
    for name, chosen in (("before", ~is_after), ("after", is_after)):
        part = predictions[chosen]
        if part.empty:
            parts[name] = None
            continue
        loss, scored = _scored(part, [matched.name, "naive"], matched.kind == "direction")
        losses = {one: scaled_absolute_error(scored, one) for one in (matched.name, "naive")}
        [compared] = compare_losses(
            matched.name,
            losses[matched.name],
            {"naive": losses["naive"]},
            scored["timestamp"],
            rules.horizon,
            loss=loss,
        )
        parts[name] = {"n": len(part), **asdict(compared)}
    return parts


def _scored(
    predictions: pd.DataFrame, models: Sequence[str], are_directions: bool
) -> tuple[str, pd.DataFrame]:
    """The loss that decides, and the frame on which the absolute error is that loss."""
    if are_directions:
        return WRONG_DIRECTION, as_directions(predictions, models)
    return LOSS, predictions


# --- rivals


@dataclass(frozen=True, eq=False)
class Rival:
    """One model that was judged."""

    label: str
    """what it is called among the others"""
    matched: Matched
    predictions: pd.DataFrame
    """the frame that `judge_one` scored"""
    baselines: Sequence[str]


def compare_rivals(rivals: Sequence[Rival], horizon: int) -> dict[str, Any]:
    """Several models on the instants that they share.

    Args:
        rivals: Two models or more.
        horizon: Candles that a forecast spans.

    Returns:
        Plain data for JSON: "n", "loss", "models" (a row each, the best first: name, is_baseline,
        skill against naive with its interval, direction), "pairs" (a `Comparison` of every two
        models, with Holm's correction over all pairs) and "confidence_set".

    Raises:
        ValueError: They share no instant.
    """
    names = [rival.label for rival in rivals]
    together, baselines = _shared(rivals)
    are_directions = any(rival.matched.kind == "direction" for rival in rivals)
    models = [*names, *baselines]
    loss, scored = _scored(together, models, are_directions)
    times = scored["timestamp"]
    losses = {name: scaled_absolute_error(scored, name) for name in models}
    by_instant = {name: mean_by_instant(values, times) for name, values in losses.items()}
    rows = []
    for name in models:
        value, low, high = skill_interval(by_instant[name], by_instant["naive"], horizon)
        right = direction_metrics(
            together["actual_return"],
            together[f"{name}_raw" if f"{name}_raw" in together else name] / together["volatility"],
            instants=times,
            horizon=horizon,
        )
        rows.append(
            {
                "model": name,
                "is_baseline": name not in names,
                "skill": value,
                "low": low,
                "high": high,
                "direction": right["direction_accuracy"],
                "direction_low": right["direction_accuracy_low"],
                "direction_high": right["direction_accuracy_high"],
            }
        )
    pairs = []
    for one, other in itertools.combinations(names, 2):
        [compared] = compare_losses(
            one, losses[one], {other: losses[other]}, times, horizon, loss=loss
        )
        pairs.append(asdict(compared))
    for entry, p_value in zip(
        [entry for entry in pairs if entry["p_value"] is not None],
        holm([entry["p_value"] for entry in pairs if entry["p_value"] is not None])
        if any(entry["p_value"] is not None for entry in pairs)
        else [],
    ):
        entry["p_holm"] = p_value
        better = "BEATS" if entry["statistic"] > 0 else "LOSES"
        entry["verdict"] = better if p_value < LEVEL else "TIES"
    return files.plain(
        {
            "n": len(together),
            "loss": loss,
            "models": sorted(rows, key=lambda row: -(row["skill"] or 0)),
            "pairs": pairs,
            "confidence_set": model_confidence_set(scored, models, horizon),
        }
    )


def _shared(rivals: Sequence[Rival]) -> tuple[pd.DataFrame, list[str]]:
    """The rows that all models have, with a column a model and a baseline; and the baselines.

    They are those that were fitted here; those of a training run where there are no others.
    """
    keys = ["symbol", "timestamp"]
    together: pd.DataFrame | None = None
    baselines: list[str] = []
    for rival in sorted(rivals, key=lambda rival: bool(rival.matched.baselines)):
        name, rows = rival.matched.name, rival.predictions
        labels = {name: rival.label, f"{name}_raw": f"{rival.label}_raw"}
        rows = rows.rename(columns=labels)
        new = [one for one in rival.baselines if one not in baselines]
        wanted = [rival.label, *new]
        columns = [column for one in wanted for column in (one, f"{one}_raw") if column in rows]
        baselines += new
        if together is None:
            facts = ("base_price", "current_return", "actual_return", "volatility")
            together = rows[[*keys, *facts, *columns]]
        else:
            together = together.merge(rows[[*keys, *columns]], on=keys, how="inner")
    assert together is not None
    if together.empty:
        raise ValueError(
            f"{', '.join(rival.label for rival in rivals)} share no instant, so they cannot be "
            "compared; judge each by itself"
        )
    return together, baselines


def without_strays(matched: Matched) -> Matched:
    """The same without the few first forecasts of a pair that a long gap sets apart.

    The baselines are fitted before the first forecast: one stray row would leave them no candles.
    """
    if matched.baselines:
        return matched
    rows, instants = matched.predictions, matched.instants
    ms, instants_ms = timestamps_ms(rows), timestamps_ms(instants)
    is_kept, is_due = np.ones(len(rows), dtype=bool), np.ones(len(instants), dtype=bool)
    notes = []
    for symbol in rows["symbol"].unique():
        mine = (rows["symbol"] == symbol).to_numpy()
        steps = np.diff(ms[mine])
        if not len(steps):
            continue
        gaps = np.flatnonzero(steps[: int(STRAY * mine.sum())] > LONG_GAP * np.median(steps))
        if not len(gaps):
            continue
        last = ms[mine][gaps[-1]]
        is_kept &= ~mine | (ms > last)
        is_due &= (instants["symbol"] != symbol).to_numpy() | (
            instants_ms >= ms[mine][gaps[-1] + 1]
        )
        n = terminal.counted(int(gaps[-1]) + 1, "forecast")
        notes.append(
            f"{n} of {symbol} until {pd.Timestamp(last, unit='ms'):%Y-%m-%d %H:%M} lie apart from "
            "the others by a long gap, and are not scored"
        )
    if not notes:
        return matched
    return replace(
        matched,
        predictions=rows[is_kept].reset_index(drop=True),
        instants=instants[is_due].reset_index(drop=True),
        prices=None if matched.prices is None else matched.prices[is_kept].reset_index(drop=True),
        notes=[*matched.notes, *notes],
    )


def first_and_last_ms(every: Sequence[Matched]) -> tuple[int, int]:
    """Opens of the last candles that the first and the last forecast knew, epoch ms."""
    times = [timestamps_ms(matched.predictions) for matched in every]
    return int(min(map(np.min, times))), int(max(map(np.max, times)))
