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
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from config import RunConfig, SourceConfig, default_output_dir
from pipeline import hub, terminal
from pipeline.bundle import files, origin
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.finer import prices_between
from pipeline.candles.schema import canonical_timeframe
from pipeline.forecasts.baselines import KNOWN_BASELINES
from pipeline.forecasts.past_intervals import INTERVAL_BASELINES
from pipeline.forecasts.test_part import NETWORK, Forecasts
from pipeline.report import run_page, run_text
from pipeline.samples.probe import Probe
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples

Config = TypeVar("Config", bound=RunConfig)

NO_SETTINGS = (
    *("output_dir", "cache_dir", "own_process", "workers", "resume", "force", "push_to_hub"),
    *("track", "json", "verbose"),
)
"""Fields of a config that change nothing about the result."""


@dataclass
class Run:
    """A run under way: its folder, what it has been told, and where it stands."""

    config: RunConfig
    generation: str
    metadata: str
    """file name of the metadata, which is written last"""
    log: str
    """file name of what the terminal shows"""
    log_start: int
    """bytes of the log that an interrupted run has written"""
    output_dir: Path
    folder: Path
    """what the run writes, until it is moved into `output_dir`"""
    settings: dict[str, Any]
    """the config as plain data, without what changes nothing about the result"""
    phases: terminal.Phases
    origin: dict[str, Any]
    """when and by which command it began, and with which code"""
    features_probe: Probe
    """what this code's features are of fixed candles"""

    @functools.cached_property
    def stored(self) -> dict[str, Any] | None:
        """What the interrupted run had noted of its candles; None for a fresh run.

        Raises:
            ValueError: There is nothing to resume, or not with these settings.
        """
        if not self.config.resume:
            return None
        return files.interrupted_run(self.folder, self.settings, self.metadata, self._code)

    @property
    def _code(self) -> dict[str, Any]:
        """What an interrupted run and one that resumes it must have in common."""
        return {"features_probe": self.features_probe, "commit": self.origin["commit"]}

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
            published: What to fetch along from futures exchanges, of `schema.PUBLISHED`.

        Raises:
            ValueError: Bad candles, or see `note_candles`.
        """
        config = self.config
        n_candles = config.candles and config.candles + warmup
        end_ms = self.stored["end_ms"] if self.stored else None
        market = fetch_candles(
            config.symbols,
            timeframe,
            n_candles,
            source or config,
            end_ms=end_ms,
            published=published,
        )
        self.note_candles(market.fingerprint(), is_synthetic=market.is_synthetic)
        terminal.tell(*market.describe())
        return market

    def note_candles(
        self, fingerprint: Mapping[str, Any], *, is_synthetic: bool, is_exact: bool = True
    ) -> None:
        """Begin a fresh run on these candles; of a resumed one, demand that they are the same.

        Args:
            fingerprint: What tells the candles from others.
            is_synthetic: Whether a generator made them; such a run replaces no real one.
            is_exact: Whether a resumed run needs the very same.

        Raises:
            ValueError: They are synthetic and the output folder has a bundle trained on real ones,
                or they are not those of the interrupted run.
        """
        if is_synthetic and not self.config.force:
            files.refuse_to_replace_real(self.folder, self.metadata)
        if self.stored is None:
            if (self.output_dir / self.metadata).is_file():
                terminal.tell_wrapped(
                    f"the bundle in {self.output_dir} is replaced once this run is complete; "
                    "another --output-dir keeps both"
                )
            files.begin_run(
                self.folder,
                self.settings,
                fingerprint,
                self.log,
                log_start=self.log_start,
                is_synthetic=is_synthetic,
                code=self._code,
            )
        elif is_exact:
            files.demand_same_candles(self.stored, fingerprint)

    def score(
        self, parts: Sequence[pd.DataFrame], market: CandleSet, folds: Sequence[Split] | None = None
    ) -> dict[str, Any]:
        """Score forecasts beside every baseline's, and print the tables; see `score_run`.

        Args:
            parts: Predictions of each fold, as `forecast_test` gives them.
            market: Candles that they were made from.
            folds: The folds themselves, for the skill by age.
        """
        # statsmodels, scikit-learn and arch take their time, so bad options do not wait for them
        from pipeline.evaluation.scoring import score_run

        scores = score_run(
            list(parts),
            network=NETWORK,
            baselines=[name for name in KNOWN_BASELINES if name in parts[0]],
            interval_baselines=INTERVAL_BASELINES,
            timeframe=market.timeframe,
            horizon=self.config.horizon,
            synthetic=market.is_synthetic,
            fee_bps=self.config.fee_bps,
            threshold=self.config.threshold,
            funding=market.funding,
            prices_between=prices_between(market, self.config),
            trained_until=None if folds is None else [fold.val_end for fold in folds],
        )
        scores["test"]["warnings"] += market.doubts.values()
        print(run_text.terminal_tables(scores))
        return scores


@dataclass
class BundleRun(Run):
    """A run whose files are one bundle."""

    names: files.BundleFiles

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
            run=self.origin,
        )
        content = files.BundleContent(
            settings=self.settings,
            facts={**samples.facts(), **(facts or {})},
            served={
                "X": scalers.X,
                "y": scalers.y,
                **forecasts.as_dict(),
                **(served or {}),
                "features_probe": self.features_probe,
            },
            reference=forecasts.reference,
            history=history,
            metrics=metrics,
            predictions=forecasts.predictions,
            page=page,
            run=self.origin,
        )
        files.save_run(self.folder, self.names, content)
        took = f"{self.phases.seconds:.0f} s in all"
        terminal.tell(f"bundle: {self.output_dir.resolve()}, {took}")
        print(run_text.verdict_banner(metrics["test"]))


@contextlib.contextmanager
def open_run(
    config: RunConfig,
    generation: str,
    names: files.BundleFiles,
    features_probe: Probe,
    *,
    n_phases: int = 9,
) -> Iterator[BundleRun]:
    """Check the settings and open a run's folder and log; the bundle is in place at the end.

    Args:
        config: Settings of the run.
        generation: As the report names it, such as "v2" or "v1-final".
        names: What the bundle's files are called.
        features_probe: What this code's features are of fixed candles.
        n_phases: How many phases there will be.

    Raises:
        ValueError: Settings that no run can use, a folder that cannot be written or is in use, or
            nothing to resume.
    """
    with open_folder(
        config,
        generation,
        names.metadata,
        names.bundle,
        names.log,
        features_probe,
        n_phases=n_phases,
    ) as run:
        yield BundleRun(**vars(run), names=names)


def spelt(config: Config) -> Config:
    """The settings with timeframes as this project spells them, however a person did."""
    changes: dict[str, Any] = {}
    if hasattr(config, "timeframe"):
        changes["timeframe"] = canonical_timeframe(config.timeframe)
    if hasattr(config, "timeframes"):
        changes["timeframes"] = tuple(map(canonical_timeframe, config.timeframes))
    return replace(config, **changes)


@contextlib.contextmanager
def open_folder(
    config: RunConfig,
    generation: str,
    metadata: str,
    others: Sequence[str],
    log: str,
    features_probe: Probe,
    *,
    n_phases: int,
    dataset_folder: str = "",
) -> Iterator[Run]:
    """`open_run` for files that are no single bundle.

    Args:
        config: Settings of the run.
        generation: See `open_run`.
        metadata: File name of the metadata, which is written last.
        others: Names of all other files that the run may write, the log among them.
        log: File name of what the terminal shows.
        features_probe: See `open_run`.
        n_phases: How many phases there will be.
        dataset_folder: Folder of a dataset repository that the Hub is to keep the files in; by
            default they are a model repository.
    """
    config.check()
    if spelt(config) != config:
        raise ValueError("a timeframe is not spelt as this project does; write 1h for 60m or 1H")
    # Workers may stand elsewhere.
    output_dir = folder_of(config, generation).absolute()
    settings = files.settings_of(config, leave_out=NO_SETTINGS)
    push = hub.push_when_done(
        config.push_to_hub, is_dataset=bool(dataset_folder), folder=dataset_folder
    )
    with (
        files.new_bundle(output_dir, metadata, others) as folder,
        terminal.terminal_log(
            folder / log, [output_dir, config.candles_dir, config.cache_dir], verbose=config.verbose
        ),
    ):
        yield Run(
            config=config,
            generation=generation,
            metadata=metadata,
            log=log,
            log_start=(folder / log).stat().st_size,
            output_dir=output_dir,
            folder=folder,
            settings=settings,
            phases=terminal.Phases(n_phases),
            origin=origin.run_facts(),
            features_probe=features_probe,
        )
    push(output_dir)


def folder_of(config: RunConfig, generation: str) -> Path:
    """The output folder of a run."""
    return Path(config.output_dir or default_output_dir(generation.replace("-", "_")))
