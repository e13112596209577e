"""Judged forecasts as one self-contained page: a training run's, with what a referee doubts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.bundle import origin
from pipeline.evaluation.losses import IN_WORDS
from pipeline.report import page, run_page
from pipeline.report.judge_text import (
    pair_rows,
    published_sentences,
    rival_rows,
    sentence_of,
    set_sentence,
    shown_test,
)


def judged_page(
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    label: str,
    rivals: Mapping[str, Any] | None = None,
) -> str:
    """The page of one model.

    Args:
        metrics: `judging.judge_one`.
        predictions: The frame that was scored.
        label: What the model is called among others.
        rivals: `judging.compare_rivals`, where there are several models.
    """
    test = shown_test(metrics)
    grave = [one["name"].replace("_", " ") for one in metrics["suspicions"] if one["is_grave"]]
    if grave:
        test["warnings"].insert(0, f"To be answered first (Doubts): {', '.join(grave)}.")
    return run_page.html_report(
        {**metrics, "test": test, "split": {}},
        predictions,
        {},
        {"horizon": metrics["horizon"], "tried": metrics["tried"]},
        generation=label,
        sections=rivals_section(rivals),
        doubts=doubts_section(metrics),
        run=origin.run_facts(),
    )


def doubts_section(metrics: Mapping[str, Any]) -> list[str]:
    """What a referee doubts, and the notes."""
    told = [
        (page.warning if one["is_grave"] else page.text)(page.minus(sentence_of(one)))
        for one in metrics["suspicions"]
    ]
    told += [page.text(page.minus(sentence)) for sentence in published_sentences(metrics)]
    told += [page.text(f"{note[0].upper()}{note[1:]}.") for note in metrics["notes"]]
    return page.section(
        "Doubts",
        "What has a red edge is to be answered before the verdict holds; the rest says how to read "
        "it.",
        *told,
    )


def rivals_section(rivals: Mapping[str, Any] | None) -> list[str]:
    """Several models side by side."""
    if not rivals:
        return []
    return page.section(
        "Rivals",
        f"All models on the {rivals['n']:,} instants that they share, the best first; then every "
        f"two of them, with Holm's correction over all pairs. Skill is in "
        f"{IN_WORDS[rivals['loss']]}.",
        page.table(rival_rows(rivals)),
        page.table(pair_rows(rivals["pairs"])),
        page.text(set_sentence(rivals)),
    )
