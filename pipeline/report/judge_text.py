"""What `python judge.py` shows at the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.losses import IN_WORDS
from pipeline.report.reading import NONE, p_text, show, span
from pipeline.report.run_text import terminal_tables, verdict_banner
from pipeline.report.tables import INDENT, Rows, text_table
from pipeline.terminal import WIDTH, counted


def judged_text(metrics: Mapping[str, Any], label: str) -> str:
    """One model: notes, tables, suspicions, and the verdict last.

    Args:
        metrics: `judging.judge_one`.
        label: What the model is called among others.
    """
    test, suspicions = metrics["test"], metrics["suspicions"]
    span_of = metrics["folds"][0]
    coins = counted(len(metrics["data"]["symbols"]), "pair")
    told = (
        f"{label}: {test['n']:,} forecasts of {coins}, from the candles of "
        f"{span_of['from']} to {span_of['to']}"
    )
    head = "\n".join(_filled(text) for text in (told, *metrics["notes"]))
    shown = shown_test(metrics)
    blocks = [head, terminal_tables(metrics)]
    if published := published_sentences(metrics):
        blocks += [*map(_filled, published), ""]
    if suspicions:
        blocks.append(f"{INDENT}What a referee doubts (!!), or adds")
        blocks += [_filled(f"{mark_of(one)} {sentence_of(one)}") for one in suspicions]
    return "\n".join([*blocks, verdict_banner(shown)])


def shown_test(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The evaluation with the verdict that stands, without what is among the suspicions."""
    test = metrics["test"]
    warnings = [text for text in test["warnings"] if "look-ahead" not in text]
    return {**test, "verdict": metrics["verdict"], "warnings": warnings}


def mark_of(suspicion: Mapping[str, Any]) -> str:
    """How grave a suspicion is, as a mark."""
    return "!!" if suspicion["is_grave"] else " ·"


def sentence_of(suspicion: Mapping[str, Any]) -> str:
    """A suspicion as a sentence."""
    text = suspicion["says"]
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('?') else '.'}"


def published_sentences(metrics: Mapping[str, Any]) -> list[str]:
    """How the forecasts fared before and after they became public, where that is known."""
    parts = metrics.get("published") or {}
    return [
        f"{name.capitalize()} the publication: {part['n']:,} forecasts, skill against naive "
        f"{show(part['skill'], '{:+.3f} %', 100)} (p {p_text(part['p_value'])}): {part['verdict']}."
        for name, part in parts.items()
        if part is not None
    ]


def rivals_text(rivals: Mapping[str, Any]) -> str:
    """Several models side by side."""
    head = (
        f"{INDENT}Rivals on the {rivals['n']:,} instants that they share, in "
        f"{IN_WORDS[rivals['loss']]}, the best first"
    )
    pairs = [text_table(pair_rows(rivals["pairs"]))]
    return "\n\n".join(
        [head, text_table(rival_rows(rivals)), *pairs, _filled(set_sentence(rivals))]
    )


def rival_rows(rivals: Mapping[str, Any]) -> Rows:
    """A row a model, the best first."""
    heading = "model, skill against naive %, 95 % CI, direction %, 95 % CI, may be the best"
    rows = [heading.split(", ")]
    chosen = rivals["confidence_set"]
    for of in rivals["models"]:
        inside = NONE if chosen is None else "yes" if of["model"] in chosen["models"] else "no"
        rows.append(
            [
                of["model"] + (" (baseline)" if of["is_baseline"] else ""),
                show(of["skill"], "{:+.3f}", 100),
                span(of["low"], of["high"], "{:+.2f}", 100),
                show(of["direction"], "{:.2f}", 100),
                span(of["direction_low"], of["direction_high"], factor=100),
                inside,
            ]
        )
    return rows


def pair_rows(pairs: Sequence[Mapping[str, Any]]) -> Rows:
    """Every two models against each other."""
    rows = [["pair", "skill %", "Diebold-Mariano", "p (Holm)", "verdict"]]
    for entry in pairs:
        test = [show(entry["statistic"]), p_text(entry["p_holm"])]
        who = f"{entry['model']} against {entry['baseline']}"
        rows.append([who, show(entry["skill"], "{:+.3f}", 100), *test, entry["verdict"]])
    return rows


def set_sentence(rivals: Mapping[str, Any]) -> str:
    """Which of them may be the best."""
    chosen = rivals["confidence_set"]
    if chosen is None:
        return "Which may be the best one cannot be said of so few or such equal forecasts."
    return f"May be the best one, at 95 % confidence: {', '.join(chosen['models'])}."


def _filled(text: str) -> str:
    further = INDENT + "   "
    return textwrap.fill(text, WIDTH, initial_indent=INDENT, subsequent_indent=further)
