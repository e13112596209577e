"""A training run, from its settings to its bundle: what every training script does alike.

    with open_run(config, "v2", FILES) as run:
        run.phase("Fetch", "1h candles")
        market = run.fetch(config.timeframe, warmup)
        …
        run.save(samples, scalers, forecasts, history, metrics)

Everything is written aside and moved into the output folder when the block ends well. A run that
was cut off leaves what `--resume` needs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from config import RunConfig, SourceConfig, default_output_dir
from pipeline import hub, terminal
from pipeline.bundle import files
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import fetch_candles
from pipeline.forecasts.baselines import BASELINE_NAMES
from pipeline.forecasts.test_part import INTERVAL_BASELINES, NETWORK, Forecasts
from pipeline.report import run_page, tables
from pipeline.samples.windows import Samples

NO_SETTINGS = ("output_dir", "cache_dir", "own_process", "workers", "resume", "push_to_hub")
"""Fields of a config that change nothing about the result."""


@dataclass
class Run:
    """A run under way: its folder, what it has been told, and where it stands."""

    config: RunConfig
    generation: str
    names: files.BundleFiles
    output_dir: Path
    folder: Path
    """what the run writes, until it is moved into `output_dir`"""
    settings: dict[str, Any]
    """the config as plain data, without what changes nothing about the result"""
    stored: dict[str, Any] | None
    """what the interrupted run had noted of its candles; None for a fresh run"""
    phases: terminal.Phases = field(default_factory=lambda: terminal.Phases(9))

    def phase(self, title: str, detail: str = "") -> None:
        """Begin the next phase, with its heading at the terminal."""
        self.phases.start(title, detail)

    def fetch(
        self,
        timeframe: str,
        warmup: int,
        *,
        source: SourceConfig | None = None,
        published: Sequence[str] = (),
    ) -> CandleSet:
        """Closed candles of every symbol; on resumption those of the interrupted run.

        Args:
            timeframe: Length of a candle.
            warmup: Candles before the first usable one; `config.candles` counts usable ones.
            source: Where candles come from, if not from where the config says.
            published: What to fetch along from futures exchanges, of `store.PUBLISHED`.

        Raises:
            ValueError: Bad candles, or not those of the interrupted run.
        """
        config = self.config
        market = fetch_candles(
            config.symbols,
            timeframe,
            config.candles and config.candles + warmup,
            source or config,
            end_ms=self.stored["end_ms"] if self.stored else None,
            published=published,
        )
        self.note_candles(market.fingerprint())
        terminal.tell(*market.describe())
        return market

    def note_candles(self, fingerprint: Mapping[str, Any]) -> None:
        """Begin a fresh run on these candles; of a resumed one, demand that they are the same."""
        files.demand_same_candles(self.stored, fingerprint)
        if self.stored is None:
            files.begin_run(self.folder, self.settings, fingerprint, self.names.log)

    def score(
        self, parts: Sequence[pd.DataFrame], market: CandleSet, horizon: int | None = None
    ) -> dict[str, Any]:
        """Score forecasts beside every baseline's, and print the tables; see `score_run`.

        Args:
            parts: Predictions of each fold, as `forecast_test` gives them.
            market: Candles that they were made from.
            horizon: Candles ahead, if not the config's.
        """
        # statsmodels, scikit-learn and arch take their time, so bad options do not wait for them
        from pipeline.evaluation.scoring import score_run

        scores = score_run(
            list(parts),
            network=NETWORK,
            baselines=BASELINE_NAMES,
            interval_baselines=INTERVAL_BASELINES,
            timeframe=market.timeframe,
            horizon=horizon or self.config.horizon,
            synthetic=market.is_synthetic,
            fee_bps=self.config.fee_bps,
            threshold=self.config.threshold,
            funding=market.funding,
        )
        print(tables.terminal_tables(scores))
        return scores

    def save(
        self,
        samples: Samples,
        scalers: Any,
        forecasts: Forecasts,
        history: Mapping[str, Any],
        metrics: Mapping[str, Any],
        *,
        facts: Mapping[str, Any] | None = None,
        served: Mapping[str, Any] | None = None,
        sections: Sequence[str] = (),
    ) -> None:
        """Write the report and every file beside the network, and print the verdict.

        Args:
            samples: What the network was trained on.
            scalers: Fitted on the training part, with `X` and `y`.
            forecasts: Of the test part, with their calibration.
            history: Losses by epoch; of an ensemble, member -> history.
            metrics: Content of the metrics file.
            facts: What else serving must know and people want to, for scaler file and metadata.
            served: What else serving needs, for the scaler file.
            sections: Further sections of the report, HTML.
        """
        page = run_page.html_report(
            metrics,
            forecasts.predictions,
            history,
            self.settings,
            generation=self.generation,
            sections=sections,
        )
        content = files.BundleContent(
            settings=self.settings,
            facts={**samples.facts(), **(facts or {})},
            served={"X": scalers.X, "y": scalers.y, **forecasts.as_dict(), **(served or {})},
            reference=forecasts.reference,
            history=history,
            metrics=metrics,
            predictions=forecasts.predictions,
            page=page,
        )
        files.save_run(self.folder, self.names, content)
        self.tell_end()
        print(tables.verdict_banner(metrics["test"]))

    def tell_end(self) -> None:
        """Where the bundle will be, and how long the run took."""
        terminal.tell(f"bundle: {self.output_dir.resolve()}, {self.phases.seconds:.0f} s in all")


@contextlib.contextmanager
def open_run(
    config: RunConfig, generation: str, names: files.BundleFiles, *, n_phases: int = 9
) -> Iterator[Run]:
    """Check the settings and open a run's folder and log; the bundle is in place at the end.

    Args:
        config: Settings of the run.
        generation: As the report names it, such as "v2" or "v1-final".
        names: What the bundle's files are called.
        n_phases: How many phases there will be.

    Raises:
        ValueError: Settings that no run can use, a folder that cannot be written or is in use, or
            nothing to resume.
    """
    config.check()
    default_dir = default_output_dir(generation.replace("-", "_"))
    # Workers may stand elsewhere.
    output_dir = Path(config.output_dir or default_dir).absolute()
    settings = files.settings_of(config, leave_out=NO_SETTINGS)
    push = hub.push_when_done(config.push_to_hub)
    with (
        files.new_bundle(output_dir, names.metadata, names.bundle) as folder,
        terminal.terminal_log(folder / names.log, append=config.resume),
    ):
        stored = None
        phases = terminal.Phases(n_phases)
        if config.resume:
            stored = files.interrupted_run(folder, settings, names.metadata)
        yield Run(config, generation, names, output_dir, folder, settings, stored, phases)
    push(output_dir)
