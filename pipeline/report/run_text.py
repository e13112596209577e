"""What the terminal shows of a run: scores, comparisons, sentences, and the verdict last."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from pipeline.report import sentences, tables
from pipeline.report.reading import SYNTHETIC, is_synthetic
from pipeline.report.tables import INDENT, text_table
from pipeline.terminal import WIDTH


def member_table(ensemble: Mapping[str, Any], n_folds: int) -> str:
    """The members of an ensemble, their mean and their spread."""
    told = sentences.member_sentences(ensemble, n_folds)
    lines = "\n".join(INDENT + sentence for sentence in told)
    return f"{text_table(tables.member_rows(ensemble))}\n\n{lines}\n"


def terminal_tables(scores: Mapping[str, Any]) -> str:
    """Scores, comparisons, and what else there is, in lines of at most 100 characters."""
    test, money, folds = scores["test"], scores.get("backtest"), scores.get("folds") or []
    told = {
        "power": sentences.power_sentence(test),
        "squared error": sentences.squared_sentence(test),
        "over time": sentences.time_sentences(test),
    }
    if test["interval"]:
        told["interval"] = sentences.interval_sentence(test)
        if test["interval"]["comparisons"]:
            told["interval"] += f" {sentences.quantile_sentence(test['interval']['comparisons'])}"
    if test["probability"]:
        told["confidence"] = sentences.confidence_sentence(test)
    told["best models"] = sentences.confidence_set_sentence(test)
    if money:
        told["money"] = sentences.money_sentences(money)
    if len(folds) > 1:
        told["folds"] = sentences.fold_sentence(folds)
        told["by age"] = sentences.age_sentence(scores.get("age_curve"))
    further = INDENT + 15 * " "
    lines = (
        textwrap.fill(f"{title:15}{text}", WIDTH, initial_indent=INDENT, subsequent_indent=further)
        for title, text in told.items()
        if text
    )
    blocks = [
        text_table(tables.score_rows(test)),
        text_table(tables.verdict_rows(test["verdicts"])),
    ]
    if late := tables.entry_rows(scores.get("delayed_entry") or []):
        blocks.append(text_table(late))
    return "\n" + "\n\n".join([*blocks, "\n".join(lines)]) + "\n"


def verdict_banner(test: Mapping[str, Any]) -> str:
    """Warnings, then the verdict between two rules: the last thing the terminal shows.

    Of synthetic candles it is said once more that they are.
    """
    warnings = (
        textwrap.fill(text, WIDTH, initial_indent="  ! ", subsequent_indent="    ") + "\n"
        for text in test["warnings"]
    )
    rule = "═" * WIDTH
    made_up = ""
    if is_synthetic(test):
        made_up = f"{textwrap.indent(textwrap.fill(SYNTHETIC, WIDTH - 2), '  ')}\n"
    verdict = textwrap.indent(verdict_lines(test), "  ")
    return f"\n{''.join(warnings)}{rule}\n{made_up}{verdict}\n{rule}"


def verdict_lines(test: Mapping[str, Any]) -> str:
    """The verdict with its sentence, in as many lines as it needs."""
    text = f"VERDICT  {sentences.verdict_sentence(test)}"
    return textwrap.fill(text, WIDTH - 4, subsequent_indent=" " * len("VERDICT  "))
