"""Several horizons in one command: a training run each, then their verdicts side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import terminal
from pipeline.report import tables


def run_horizons(train: Callable[[Any], dict[str, Any]], config: Any, folder: Path) -> None:
    """Train once; where `config.horizons` names some, once for each of them, in folders such as
    `h4` below `folder`.

    Args:
        train: A training script's `main`, which returns its metrics.
        config: Its settings, a dataclass with `horizon`, `horizons` and `output_dir`.
        folder: Where the folders of several horizons go, unless the settings name one.
    """
    if not config.horizons:
        train(config)
        return
    found = {}
    for horizon in dict.fromkeys(config.horizons):
        one = replace(
            config,
            horizon=horizon,
            horizons=(),
            output_dir=(config.output_dir or folder) / f"h{horizon}",
        )
        found[horizon] = train(one)["test"]
    terminal.tell("", *tables.text_table(horizon_rows(found), indent="").splitlines())


def horizon_rows(tests: Mapping[int, Mapping[str, Any]]) -> list[list[str]]:
    """The networks' figures as text cells, a row a horizon, a heading first.

    Args:
        tests: Horizon -> "test" of a run's metrics.
    """
    rows = [
        [
            "horizon",
            "forecasts",
            "skill against naive %",
            "Diebold-Mariano",
            "p (Holm)",
            "direction %",
            "verdict",
        ]
    ]
    for horizon, test in tests.items():
        network, naive = test["models"][tables.network_of(test)], tables.against_naive(test)
        against = [tables.show(naive["skill"], "{:+.3f}", 100), tables.show(naive["statistic"])]
        right = tables.show(network["direction_accuracy"], "{:.2f}", 100)
        rows.append(
            [
                str(horizon),
                f"{test['n']:,}",
                *against,
                tables.p_text(naive["p_holm"]),
                right,
                test["verdict"],
            ]
        )
    return rows
