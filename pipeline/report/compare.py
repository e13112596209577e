"""Training runs side by side: what differs in their settings, their scores, and who is better.

    python -m pipeline.report.compare all_models/v2 all_models/v2_pooled
    python -m pipeline.report.compare RUN RUN RUN --page compare.html

A run is the output folder of v1, v1_final or v2. Each pair is tested on the forecasts that both
have, with Holm's correction over the pairs. The best of many runs was chosen by its test part, so
its score there is too good: judge it on candles that none has seen (`inference_v2.py evaluate`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from pipeline import atomic, options, privacy, terminal
from pipeline.bundle.hub_transfer import read_bundle
from pipeline.bundle.metadata import read_json
from pipeline.candles import store
from pipeline.evaluation import side_by_side
from pipeline.evaluation.side_by_side import FORECAST
from pipeline.report import page, pictures, reading, tables

HOW = (
    "Each run beside the others. Scores are of each run's own test part; a pair is tested on the "
    "forecasts that both have."
)


@dataclass(frozen=True, eq=False)
class Run:
    """A complete run in a folder."""

    name: str
    test: Mapping[str, Any]
    """the evaluation of its test part"""
    money: Mapping[str, Any]
    """its backtest; empty where it has none"""
    forecasts: pd.DataFrame
    """predictions of its test part; the network's in the column `forecast`"""
    horizon: int
    """candles that a forecast spans"""
    settings: Mapping[str, Any]
    """everything that may differ between two runs of one script"""


@dataclass(frozen=True)
class Options:
    """Compare runs."""

    folders: tuple[Path, ...] = field(metadata={"positional": True, "metavar": "RUN"})
    """output folders of training runs, two or more"""
    page: Path | None = None
    """also write the comparison as a page to this file"""
    json: bool = False
    """print the comparison as JSON alone"""


def read_run(folder: Path, name: str) -> Run:
    """Read a run whose files are whole.

    Raises:
        ValueError: There is no complete run, or it holds several networks' metrics.
    """
    bundle = read_bundle(folder)
    generation = bundle.metadata_name.removeprefix("metadata_").removesuffix(".json")
    paths = [folder / f"metrics_{generation}.json", folder / f"predictions_{generation}.parquet"]
    missing = [path.name for path in paths if path.name not in bundle.hashes]
    metrics = {} if missing else read_json(paths[0])
    if missing or "test" not in metrics:
        raise ValueError(
            f"{folder}: a run of {generation} holds several networks, which are not compared; name "
            "the folder of a run of v1, v1_final or v2"
        )
    with page.of_file(str(folder)):
        network = reading.network_of(metrics["test"])
        forecasts = store.read_table(paths[1]).rename(columns={network: FORECAST})
        return Run(
            name,
            metrics["test"],
            metrics.get("backtest") or {},
            forecasts,
            int(bundle.metadata["horizon"]),
            _settings(bundle.metadata, metrics, forecasts["timestamp"]),
        )


def _settings(
    metadata: Mapping[str, Any], metrics: Mapping[str, Any], times: pd.Series
) -> dict[str, Any]:
    data = metrics["data"]
    named = {name: metadata.get(name) for name in ("horizon", "timeframe", "symbols", "synthetic")}
    return {
        **metadata.get("config", {}),
        **named,
        "features": metadata.get("feature_cols"),
        "candles from": f"{data['source']} {data['venue']}",
        "test part": f"{times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}",
        "commit": str(metadata.get("run", {}).get("commit") or "")[:7] or None,
        "keras backend": metadata.get("environment", {}).get("keras backend"),
    }


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """The comparison, plain data: "runs", "settings" (that differ) and "pairs"."""
    pairs = side_by_side.compare_pairs(
        {run.name: run.forecasts for run in runs}, {run.name: run.horizon for run in runs}
    )
    return {
        "runs": {run.name: reading.summary(run.test) for run in runs},
        "settings": side_by_side.differing({run.name: run.settings for run in runs}),
        "pairs": pairs,
    }


# Tables


def setting_rows(compared: Mapping[str, Any]) -> tables.Rows:
    """A line a setting that differs, a column a run."""
    rows = [["setting", *compared["runs"]]]
    for name, values in compared["settings"].items():
        rows.append([name, *map(_brief, values)])
    return rows


def _brief(value: object, most: int = 24) -> str:
    if isinstance(value, list):
        text = ", ".join(map(str, value))
        return text if len(text) <= most else f"{len(value)} of them"
    text = reading.NONE if value is None else str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def score_rows(runs: Sequence[Run]) -> tables.Rows:
    """A line a run."""
    heading = ["run", "forecasts", "MAPE %", "naive's", "direction %", "skill %", "p (Holm)"]
    rows = [[*heading, "80 % held", "break-even bps", "verdict"]]
    for run in runs:
        test = run.test
        network, naive = reading.network_of(test), reading.against_naive(test)
        scores, interval = test["models"][network], test.get("interval") or {}
        rows.append(
            [
                run.name,
                f"{test['n']:,}",
                reading.show(scores["mape_percent"], "{:.4f}"),
                reading.show(test["models"]["naive"]["mape_percent"], "{:.4f}"),
                reading.show(scores.get("direction_accuracy"), "{:.2f}", 100),
                reading.show(naive["skill"], "{:+.3f}", 100),
                reading.p_text(naive["p_holm"]),
                reading.show(interval.get("coverage"), "{:.1f}", 100),
                reading.show(run.money.get("break_even_fee_bps"), "{:+.1f}"),
                test["verdict"],
            ]
        )
    return rows


def pair_rows(pairs: Sequence[Mapping[str, Any]]) -> tables.Rows:
    """A line a pair: the second run against the first."""
    rows = [["run", "against", "common", "skill %", "Diebold-Mariano", "p (Holm)", "it is"]]
    for pair in pairs:
        rows.append(
            [
                pair["second"],
                pair["first"],
                f"{pair['n']:,}",
                reading.show(pair["skill"], "{:+.3f}", 100),
                reading.show(pair["statistic"]),
                reading.p_text(pair["p_holm"]),
                {"ties": "no different"}.get(pair["verdict"], pair["verdict"]) or pair["why"],
            ]
        )
    return rows


def skill_rows(runs: Sequence[Run]) -> list[tuple]:
    """(run, skill against naive, low, high) in percent."""
    found = {run.name: side_by_side.skill_against_naive(run.forecasts, run.horizon) for run in runs}
    return [(name, *map(reading.percent, ends)) for name, ends in found.items()]


def html_page(runs: Sequence[Run], compared: Mapping[str, Any]) -> str:
    """The comparison as one self-contained page."""
    is_made_up = any(reading.is_synthetic(run.test) for run in runs)
    figure = pictures.forest_plot(skill_rows(runs), 0.0, "skill against naive, %", 0.5)
    names = " · ".join(run.name for run in runs)
    parts = [Markup("<h1>Runs side by side</h1>"), page.text(names), page.text(HOW)]
    parts += [page.warning(reading.SYNTHETIC)] if is_made_up else []
    parts += page.section(
        "Scores",
        "Each run on its own test part. Two runs of different parts met different markets.",
        page.table(score_rows(runs)),
        page.picture(figure, "Skill against naive with its 95 % interval"),
    )
    parts += page.section(
        "Each pair",
        "The mean loss of both on the forecasts that they have in common, in absolute error.",
        page.table(pair_rows(compared["pairs"])),
    )
    parts += page.section(
        "Settings that differ", "All others are the same.", page.table(setting_rows(compared))
    )
    return page.whole("Runs side by side", parts)


def main() -> None:
    """Parse the options, read the runs, print and write the comparison."""
    asked = options.read_options(Options, __doc__)
    if len(asked.folders) < 2:
        raise ValueError(f"{len(asked.folders)} run(s) named; name two folders or more")
    names = privacy.names_of(asked.folders)
    runs = [read_run(folder, name) for folder, name in zip(asked.folders, names)]
    compared = compare(runs)
    if asked.page:
        with atomic.replacing(asked.page) as unfinished:
            unfinished.write_text(html_page(runs, compared), encoding="utf-8")
    if asked.json:
        print(json.dumps(compared, indent=2))  # noqa: T201 - for programs, without the margin
        return
    for rows in (score_rows(runs), pair_rows(compared["pairs"]), setting_rows(compared)):
        terminal.tell("", *tables.text_table(rows, indent="").splitlines())
    if asked.page:
        terminal.tell_next({"page": str(asked.page)})


if __name__ == "__main__":
    with terminal.one_line_errors(), terminal.notices():
        main()
