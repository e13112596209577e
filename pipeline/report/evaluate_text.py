"""What `python inference_v2.py evaluate` shows at the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.ledger_scores import OTHER_PRICE
from pipeline.evaluation.significance import instants_needed
from pipeline.report.reading import show
from pipeline.report.run_text import terminal_tables, verdict_banner
from pipeline.report.tables import INDENT, age_rows, text_table
from pipeline.samples.drift import MOVED, SHIFTED
from pipeline.terminal import WIDTH, listed

LATER = {"monthly": "fitted monthly", "file": "recalibrated"}
RULES = {
    "monthly": "Calibrations: at the start of each month shrinkage and the slope of p_up are "
    "fitted anew on the forecasts of the 180 days before, and scored on that month's. Off: "
    "percentage points between confidence and share of right directions.",
    "file": "The recalibration in use, on the forecasts made after its date:",
}
"""rule of `compare_calibrations` -> the later calibration, and what was done"""
AGE = (
    "Skill against naive by days since the model learnt last. One training cannot tell whether a "
    "skill that falls comes from the network's age or from the market; several trainings "
    "(--walk-forward) can."
)
FEATURES_SHOWN = 5
"""features whose drift is printed: the worst"""
ENTRIES_SHOWN = 5
"""entries of a ledger that are named of those that cannot be judged"""
LEFT_OUT = {
    "without_candle": "without a candle (a gap, or not fetched yet)",
    "other_price": OTHER_PRICE,
}
"""key of the ledger's facts -> why its entries are not judged"""


def unseen_text(result: Mapping[str, Any]) -> str:
    """`score_unseen` for people: notes, tables, drift, and the verdict last."""
    span, symbols = result["span"], result["data"]["symbols"]
    notes = [_filled(f"! {note}") for note in result["notes"]]
    told = _indented(
        f"{span['n']:,} forecasts of {listed(symbols)}, from the candles of {span['first']} to "
        f"{span['last']}",
        *notes,
    )
    ages = [age_table(result["age_curve"])] if result["age_curve"] else []
    blocks = [told, terminal_tables(result), *ages, *map(calibration_table, result["calibrations"])]
    drift = drift_table(result["drift"])
    return "\n".join([*blocks, f"{drift}{verdict_banner(result['test'])}"])


def age_table(curve: Mapping[str, Any]) -> str:
    """The skill by days since the model learnt last (`decay.age_curve`)."""
    rule = textwrap.fill(AGE, WIDTH - len(INDENT), break_on_hyphens=False)
    return f"{textwrap.indent(rule, INDENT)}\n\n{text_table(age_rows(curve))}\n"


def calibration_table(compared: Mapping[str, Any]) -> str:
    """The judged calibration and a later one on the same forecasts (`compare_calibrations`)."""
    span = f"{compared['n']:,} forecasts of {compared['first']} to {compared['last']}"
    heading = "calibration, skill %, Diebold-Mariano, R² %, off, slope, top tenth said %, true %"
    rows = [heading.split(", ")]
    names = {"judged": "judged", "later": LATER[compared["rule"]]}
    for key, name in names.items():
        of = compared[key]
        numbers = [show(of["skill"], "{:+.3f}", 100), show(of["statistic"])]
        numbers += [show(of["r2"], "{:+.3f}", 100), show(of["off"], "{:.2f}", 100)]
        numbers += [show(of["slope"], "{:.2f}")]
        tops = [show(of[top], "{:.1f}", 100) for top in ("top_said", "top_true")]
        rows.append([name, *numbers, *tops])
    rule = textwrap.fill(f"{RULES[compared['rule']]} {span}.", WIDTH - len(INDENT))
    return f"{textwrap.indent(rule, INDENT)}\n\n{text_table(rows)}\n"


def drift_table(drift: Sequence[Mapping[str, Any]]) -> str:
    """The features that have moved furthest, a line each; "" where none is known."""
    if not drift:
        return ""
    rows = [["feature", "PSI", "usual in training", "outside training %", "missing %", "reading"]]
    for row in drift[:FEATURES_SHOWN]:
        psi, usual, reading = row["psi"], row["usual"], row["reading"]
        if psi is not None and usual is not None and MOVED <= psi <= usual:
            reading += ", as usual"
        moved = [show(psi, "{:.3f}"), show(usual, "{:.3f}"), show(row["outside"], "{:.2f}", 100)]
        rows.append([row["feature"], *moved, f"{100 * row['missing']:.1f}", reading])
    rule = (
        f"Drift of the features against the training part, the worst {len(rows) - 1} of "
        f"{len(drift)}. PSI below {MOVED}: stable, to {SHIFTED}: moved, above: shifted. Usual: "
        "nine of ten training stretches of this length stay below it."
    )
    filled = textwrap.fill(rule, WIDTH - len(INDENT))
    return f"{textwrap.indent(filled, INDENT)}\n\n{text_table(rows)}\n"


def ledger_text(result: Mapping[str, Any]) -> str:
    """`score_ledger` for people: what was judged, and what each model's forecasts are worth."""
    facts, n_models = result["ledger"], len(result["models"])
    lines = [
        f"{facts['path']}: {facts['entries']:,} forecasts, {facts['open']:,} open, "
        f"{facts['judged']:,} judged",
        f"the chain is whole; sha256 of line {facts['entries']}: {facts['sha256']}",
    ]
    if facts["torn"]:
        lines.append("! half a line at the end, which the next entry will cut off, is not counted")
    for name, reason in LEFT_OUT.items():
        if found := facts[name]:
            shown = listed(found, ENTRIES_SHOWN)
            lines.append(f"! {len(found):,} left out, {reason}: {shown}")
    if n_models == 0:
        lines.append("nothing to score yet")
    elif n_models > 1:
        lines.append(f"! {n_models} models, each scored alone: the best may just be the luckiest")
    return "\n".join([_indented(*lines), *map(_model_text, result["models"])])


def _model_text(model: Mapping[str, Any]) -> str:
    span, delay = model["span"], model["delay_s"]
    lines = [
        f"model {model['model_sha256'][:12]}…, {model['timeframe']}: {model['n']:,} forecasts of "
        f"{listed(model['symbols'])}, from the candles of {span['first']} to {span['last']}",
        f"entered {delay['median']:,.0f} s (median), at most {delay['max']:,.0f} s after the close "
        f"they start from; {model['n_skipped']:,} candles between without a judged forecast",
    ]
    if model["test"] is not None:
        return f"{_indented(*lines)}\n{terminal_tables(model)}\n{verdict_banner(model['test'])}"
    no_claim = " (and NO CLAIM: synthetic data)" if model["synthetic"] else ""
    return _indented(
        *lines,
        f"direction right in {model['n_right']:,} of {model['n_calls']:,} calls, inside the 80 % "
        f"interval {model['n_inside']:,} of {model['n']:,}",
        f"too few to score: {instants_needed(model['horizon'])} candles are the least{no_claim}",
    )


def _indented(*lines: str) -> str:
    """Each line on a new one, below the heading before it."""
    return "".join(f"\n{INDENT}{line}" for line in lines)


def _filled(text: str) -> str:
    """A text in as many lines as it needs beside the indent; options stay whole."""
    return textwrap.fill(
        text,
        WIDTH - len(INDENT),
        subsequent_indent=f"{INDENT}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
