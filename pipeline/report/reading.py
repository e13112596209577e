"""An evaluation read for tables and sentences: its numbers as text, and who won.

All of it reads the dict that `scoring.score_run` returns, or its part "test". What is undefined is
None there, and "–" here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pipeline.evaluation.losses import IN_DOUBT, IN_WORDS, LOSS, WRONG_DIRECTION, deciding

NONE = "–"
NETWORK = "lstm"
"""what a training run's columns call the network"""
SYNTHETIC = (
    "SYNTHETIC CANDLES: a generator made up what this network was trained or tested on. Nothing "
    "here says anything about a real market."
)
"""What no reader of a run on them may miss, wherever it is told."""


def show(value: float | None, form: str = "{:+.2f}", factor: float = 1.0) -> str:
    """A number in its form, or "–" for what is undefined: None, NaN and infinities.

    Example:
        >>> show(0.0123, "{:.1f} %", 100), show(None), show(float("nan")), show(-0.001)
        ('1.2 %', '–', '–', '+0.00')
    """
    if value is None or not math.isfinite(value):
        return NONE
    text = form.format(factor * value)
    if text.startswith("-") and not re.search("[1-9]", text):  # it rounds to 0
        return form.format(0.0)
    return text


def percent(value: float | None) -> float | None:
    """A share in percent; None stays None."""
    return None if value is None else 100 * value


def span(low: float | None, high: float | None, form: str = "{:.1f}", factor: float = 1.0) -> str:
    """An interval, or "–" where an end is None."""
    if low is None or high is None:
        return NONE
    return f"{show(low, form, factor)} to {show(high, form, factor)}"


def p_text(value: float | None) -> str:
    """A p-value to three places.

    Example:
        >>> p_text(0.0576), p_text(3.74e-06), p_text(None)
        ('0.058', '<0.001', '–')
    """
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def network_of(test: Mapping[str, Any]) -> str:
    """The network's name in the tables."""
    return str(test["verdicts"][0]["model"])


def subject_of(test: Mapping[str, Any]) -> str:
    """What sentences call the model: the network of a run, or a judged one by its name."""
    name = network_of(test)
    return "the network" if name == NETWORK else name


def loss_in_words(test: Mapping[str, Any]) -> str:
    """In what the verdict's comparisons are made."""
    loss = deciding(test["verdicts"])[0].get("loss")
    return IN_WORDS.get(str(loss), IN_WORDS[LOSS])


def says_sizes(test: Mapping[str, Any]) -> bool:
    """Whether the model says how far prices move, and not only where to."""
    return deciding(test["verdicts"])[0].get("loss") != WRONG_DIRECTION


def against_naive(test: Mapping[str, Any]) -> Mapping[str, Any]:
    """The comparison that the verdict stands on."""
    return next(entry for entry in deciding(test["verdicts"]) if entry["baseline"] == "naive")


def tone_of(test: Mapping[str, Any]) -> str:
    """How a page colours the verdict: good, bad or plain."""
    if test["verdict"] == "EDGE":
        return "good"
    if test["verdict"] == IN_DOUBT:
        return "bad"
    return "bad" if against_naive(test)["verdict"] == "LOSES" else "plain"


def age_text(step: Mapping[str, Any]) -> str:
    """A step of the age curve in words."""
    return f"{step['from_day']} to {step['to_day']}"


def is_over(test: Mapping[str, Any]) -> bool:
    """Whether the network BEATS naive as a whole, but no longer in its last whole quarter."""
    over_time = test.get("skill_over_time")
    return against_naive(test)["verdict"] == "BEATS" and bool(
        over_time and over_time["last_holds_zero"]
    )


def is_synthetic(test: Mapping[str, Any]) -> bool:
    """Whether an evaluation is of synthetic candles."""
    return str(test["verdict"]).startswith("NO CLAIM")


def minute_of(instant: str) -> str:
    """An instant of a bundle's JSON as people read it.

    Example:
        >>> minute_of("2024-06-04T09:09:00Z")
        '2024-06-04 09:09 UTC'
    """
    return f"{instant[:16].replace('T', ' ')} UTC"


def summary(test: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict for programs, plain data."""
    naive = against_naive(test)
    return {
        "verdict": test["verdict"],
        "skill": naive["skill"],
        "p_holm": naive["p_holm"],
        "n": test["n"],
        "synthetic": is_synthetic(test),
    }
