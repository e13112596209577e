"""The figures of the README's run, wherever they are printed.

    python -m docs.figures all_models/readme

The tables, the verdict and the sentences below them are printed anew from the run's metrics file.
Figures in prose are then taken from those lines. So each figure is written once, and a test holds
the pages to one another without the run.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import terminal
from pipeline.report import run_text, tables

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = "docs/numbers.md"
"""The page that prints all of the run."""
PAGES = ("README.md", NUMBERS, "docs/published_figures.md")

BLOCKS = {
    "verdict": r"VERDICT  .*(?:\n {9}.*)*",
    "scores": r"model +price MAPE(?:.|\n)*?\n *lstm .*",
    "comparisons": r"comparison +skill(?:.|\n)*?(?=\n```|\n\n)",
    "sentences": r"power   (?:.|\n)*?(?=\n```)",
}
"""What is printed in fenced blocks."""

SHOWN = {
    "n": r",\s+([\d,]+)\s+forecasts\s+out\s+of\s+sample",
    "about": r"one\s+below\s+([\d.]+)\s+%\s+is\s+often\s+missed",
    "naive_mape": r"\nnaive +(\d\.\d\d)",
    "low, high": r"\nlstm  .* ([\d.]+)–([\d.]+) ",
    "xgboost": r"\nxgboost (?: +\S+){4} +(\S+)",
    "xgboost_low": r"\nxgboost .* ([\d.]+)–",
    "power": r"skill against naive of ([\d.]+) %",
    "ewma": r"BEATS\s+ewma \(\+(.*?) %\)",
    "garch": r"BEATS\s+garch \(\+(.*?) %\)",
    "har": r"BEATS\s+har \(\+(.*?) %\)",
    "apart": r"confidence is ([\d.]+)\spercentage",
    "slope": r"slope\sis\s([\d.]+\s\([^)]*\))",
    "after": r"after fees (\S+) %",
    "before": r"before\s(\S+) %",
    "held": r"buy and hold (\S+) %",
    "sharpes": r"\(Sharpe [^,]*, (\S+ to \S+)\)",
}
"""Names of figures -> where the blocks of `NUMBERS` print them."""

PROSE = (
    ("README.md", "could only show a skill of {about} % or more"),
    ("docs/published_figures.md", "It made {n} forecasts in"),
    (NUMBERS, "It made {n} forecasts of"),
    (NUMBERS, "Naive has {naive_mape} % here"),
    (NUMBERS, "The network's is {low} to {high}."),
    (NUMBERS, "Against {closest} alone p was {p}."),
    (NUMBERS, "As the smallest of six it counts sixfold: {p_holm}."),
    (NUMBERS, "Seven weeks of two coins would need {power} %."),
    (NUMBERS, "It is {ewma} % better than EWMA's"),
    (NUMBERS, "and {garch} % better than GARCH's."),
    (NUMBERS, "Over HAR, the strongest simple model, it is {har} %."),
    (NUMBERS, "It was {apart} percentage points off on average."),
    (NUMBERS, "{slope} is fine, as far as {n} forecasts can tell."),
    (NUMBERS, "and pay 5 bps a side: {after} %."),
    (NUMBERS, "Without fees it is {before} %, and buying and holding made {held} %."),
    (NUMBERS, "Its range, {sharpes}, shows"),
    (NUMBERS, "XGBoost's {xgboost} % may be as little as {xgboost_low} %."),
)
"""Sentences with figures, by page."""


def printed_anew(page: str, scores: Mapping[str, Any]) -> str:
    """The page with its blocks as a run prints them; indents and rules as they were.

    Args:
        page: Text of a page.
        scores: Content of the run's metrics file.
    """
    test = scores["test"]
    new = {
        "verdict": run_text.verdict_lines(test),
        "scores": tables.text_table(tables.score_rows(test), indent=""),
        "comparisons": tables.text_table(tables.verdict_rows(test["verdicts"]), indent=""),
        "sentences": textwrap.dedent(
            run_text.terminal_tables(scores).rstrip().rpartition("\n\n")[2]
        ),
    }
    for name, pattern in BLOCKS.items():

        def replace(old: re.Match[str], lines: str = new[name]) -> str:
            if "─" not in old[2]:
                lines = "\n".join(line for line in lines.splitlines() if "─" not in line)
            return textwrap.indent(lines, old[1])

        page = re.sub(rf"^( *)({pattern})", replace, page, flags=re.MULTILINE)
    return page


def with_figures(pages: Mapping[str, str]) -> dict[str, str]:
    """The pages with the figures in their prose as the blocks of `NUMBERS` have them.

    Raises:
        ValueError: A page no longer says what a figure belongs to.
    """
    figures = shown_figures(pages[NUMBERS])
    pages = dict(pages)
    for page, sentence in PROSE:
        parts = re.split(r"\{\w+\}", sentence)
        pattern = r"(?:[\w.,()+−-]+|[\d.]+ \([^)]*\)|\S+ to \S+)".join(map(re.escape, parts))
        told = sentence.format(**figures)
        pages[page], n = re.subn(pattern, told, pages[page])
        if n != 1:
            raise ValueError(
                f'{page}: says {n} times "{sentence}", where it should once; write it so again, or '
                "change PROSE in docs/figures.py"
            )
    return pages


def shown_figures(page: str) -> dict[str, str]:
    """Name -> figure, as the blocks of `NUMBERS` print it.

    Raises:
        ValueError: A block has none.
    """
    figures: dict[str, str] = {}
    for names, pattern in SHOWN.items():
        found = re.search(pattern, page)
        if found is None:
            raise ValueError(f"{NUMBERS}: no figure for {names}; change SHOWN in docs/figures.py")
        values = (" ".join(value.replace("-", "−").split()) for value in found.groups())
        figures |= dict(zip(names.split(", "), values))
    compared = re.findall(r"\nlstm against (\w+) .* (\S+) +[A-Z]+", page)[:6]
    closest, p_holm = min(compared, key=lambda one: float(one[1].lstrip("<")))
    alone = p_holm if p_holm.startswith("<") else f"{float(p_holm) / len(compared):.3f}"
    return figures | {"closest": closest, "p": alone, "p_holm": p_holm}


def verdicts_of(page: str) -> list[str]:
    """What the words of a page were written for: the verdicts that its blocks print."""
    return re.findall(
        r"\b(?:BEATS|TIES|LOSES|NO EDGE|EDGE|loses even)\b", "\n".join(blocks_of(page))
    )


def blocks_of(page: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(r"^```text\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


def main(run: Path) -> None:
    """Rewrite the pages from a run's folder, and say what a person has to read again."""
    scores = json.loads((run / "metrics_v2.json").read_text(encoding="utf-8"))
    old = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
    new = with_figures({name: printed_anew(page, scores) for name, page in old.items()})
    for name, page in new.items():
        (ROOT / name).write_text(page, encoding="utf-8")
        terminal.tell(f"{name}: {'rewritten' if page != old[name] else 'as it was'}")
        if verdicts_of(page) != verdicts_of(old[name]):
            terminal.tell(f"! {name}: a verdict has changed; read again what stands around it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of the README's run")
    with terminal.one_line_errors():
        main(parser.parse_args().run)
