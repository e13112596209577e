"""What is to be said of judged forecasts: as text, as a page, and as a folder of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.bundle import files
from pipeline.report.judge_page import judged_page
from pipeline.report.judge_text import judged_text, rivals_text
from pipeline.report.page import in_notebook

METRICS, PREDICTIONS, PAGE = "metrics.json", "predictions.parquet", "judged.html"
"""What the folder of a judged model holds"""


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is to be said of forecasts."""

    metrics: dict[str, dict[str, Any]]
    """model -> `judging.judge_one`"""
    predictions: dict[str, pd.DataFrame]
    """model -> its forecasts and the baselines', a row an instant"""
    rivals: dict[str, Any] | None
    """several models on the instants that they share (`judging.compare_rivals`)"""

    @property
    def verdicts(self) -> dict[str, str]:
        """Model -> EDGE, NO EDGE or IN DOUBT; NO CLAIM of synthetic candles."""
        return {name: of["verdict"] for name, of in self.metrics.items()}

    @property
    def text(self) -> str:
        """Tables, suspicions and verdicts, as the command prints them."""
        told = [judged_text(metrics, name) for name, metrics in self.metrics.items()]
        return "\n".join([*told, *([rivals_text(self.rivals)] if self.rivals else [])])

    def page(self, name: str | None = None) -> str:
        """The report of a model, of the first one by default, as HTML."""
        name = name or next(iter(self.metrics))
        return judged_page(self.metrics[name], self.predictions[name], name, self.rivals)

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return str(in_notebook(self.page()).data)

    def write(self, folder: Path) -> dict[str, Path]:
        """Write numbers, forecasts and page; of several models each into a folder of its own.

        Returns:
            Model -> its page.
        """
        pages: dict[str, Path] = {}
        for name, metrics in self.metrics.items():
            own = folder if len(self.metrics) == 1 else folder / safe_name(name)
            while own / PAGE in pages.values():  # of "a b" and "a_b"
                own = own.with_name(f"{own.name}_")
            own.mkdir(parents=True, exist_ok=True)
            files.write_json(own / METRICS, metrics | {"rivals": self.rivals})
            self.predictions[name].to_parquet(own / PREDICTIONS, index=False)
            pages[name] = own / PAGE
            pages[name].write_text(self.page(name), encoding="utf-8")
        return pages


def safe_name(name: str) -> str:
    """A model's name as that of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
