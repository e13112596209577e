"""A training script as a command: its options, its run, and what to do next."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from config import RunConfig
from pipeline import options, terminal
from pipeline.bundle import files
from pipeline.bundle.metadata import read_json
from pipeline.candles import store
from pipeline.candles.fetching import expand_symbols
from pipeline.report import reading, track
from pipeline.run import folder_of, spelt

C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class Judged:
    """A verdict of a run that is done, and where it is told."""

    metrics: Mapping[str, Any]
    folder: Path
    report: str
    """file name of the page"""
    horizon: int

    @property
    def timeframe(self) -> str:
        """Length of a candle."""
        return str(self.metrics["data"]["timeframe"])

    @property
    def page(self) -> Path:
        """Path of the page, as it is reached from here."""
        return options.from_here(self.folder / self.report)

    def as_line(self) -> str:
        """A line of JSON, for programs."""
        told = reading.summary(self.metrics["test"])
        told |= {"timeframe": self.timeframe, "horizon": self.horizon}
        return json.dumps({**told, "bundle": str(self.folder), "report": str(self.page)})


def run(
    read: Callable[[], C],
    train: Callable[[C], Sequence[Judged]],
    forecast: Callable[[C, Path], Mapping[str, str]],
    generation: str,
    metadata: str,
) -> None:
    """Do what the command line says, and name what to do next.

    Args:
        read: Gives the settings of the command line.
        train: Does the run, or several, and gives their verdicts.
        forecast: Of settings and a bundle's folder: what one may want -> the command to paste.
        generation: See `open_run`.
        metadata: File name of the metadata, which is written last.
    """
    folder: Path | None = None

    def what_is_left() -> str:
        """The end of a sentence about an interrupted run."""
        told = []
        if folder is not None and (folder / metadata).is_file():
            told.append(f"what was complete in {folder} still is")
        if folder is not None and (folder / files.PARTIAL / files.RUN_FILE).is_file():
            told.append("the same command with --resume goes on")
        return "".join(f"; {text}" for text in told)

    with terminal.one_line_errors(what_is_left):
        config = spelt(read())
        folder = folder_of(config, generation)
        with terminal.only_json(config.json) as json_out:
            track.demand(config.track)
            judged = train(config)
            steps = {f"report, {one.timeframe}, {one.horizon} ahead": one.page for one in judged}
            if len(judged) == 1:
                steps = {"report": judged[0].page}
            told = {title: str(page) for title, page in steps.items()}
            if config.track:
                told[config.track] = [_log(config.track, one, metadata) for one in judged][-1]
            terminal.tell_next({**told, **forecast(config, judged[0].folder)})
        if json_out is not None:
            print(*(one.as_line() for one in judged), sep="\n", flush=True)


def _log(tracker: str, judged: Judged, metadata: str) -> str:
    """Log a run that is done; returns the command that shows it."""
    told = read_json(judged.folder / metadata)
    started = re.sub(r"\D", "", str(told.get("run", {}).get("started", "")))[:14]
    name = f"{judged.folder.name}-{judged.timeframe}-{judged.horizon}-{started}"
    folder = options.from_here(judged.folder.parent / tracker)
    return track.log_run(tracker, name, told, judged.metrics["test"], folder)


def run_bundle(
    settings: C,
    train: Callable[[C], Mapping[str, Any]],
    description: str | None,
    generation: str,
    names: files.BundleFiles,
    predictor: str,
    timeframes: Sequence[str] = (),
) -> None:
    """`run` for a generation whose run makes one bundle, which no command forecasts with.

    Args:
        settings: What options default to.
        train: The script's `main`.
        description: The script's docstring.
        generation: See `open_run`.
        names: What the bundle's files are called.
        predictor: See `python_forecast`.
        timeframes: Of the candles that a forecast takes; by default the run's.
    """

    def train_one(config: C) -> list[Judged]:
        return [Judged(train(config), folder_of(config, generation), names.report, config.horizon)]

    def forecast(config: C, folder: Path) -> dict[str, str]:
        lengths = timeframes or [getattr(config, "timeframe")]  # noqa: B009 (not of all configs)
        return python_forecast(predictor, config, folder, lengths)

    def read() -> C:
        return options.read_settings(type(settings), settings, description)

    run(read, train_one, forecast, generation, names.metadata)


def python_forecast(
    predictor: str, config: RunConfig, folder: Path, timeframes: Sequence[str], **which: str
) -> dict[str, str]:
    """How to forecast without a command: a line of Python to paste.

    Args:
        predictor: Its module and class, such as "generations.….inference.CryptoPricePredictorV…".
        config: Settings of the run.
        folder: The bundle's.
        timeframes: Of the candles that a forecast takes, in their order.
        which: Further arguments of `from_directory`.
    """
    module, _, name = predictor.rpartition(".")
    quoted = json.dumps  # in double quotes, since the shell's are single ones
    whence = ""
    if config.candles_dir is not None:
        whence = f"candles_dir={quoted(str(config.candles_dir))}"
    symbol = quoted(which.get("symbol") or first_symbol(config))
    named = [f"{key}={quoted(value)}" for key, value in which.items()]
    opened = ", ".join([quoted(str(folder)), *named])
    candles = ", ".join(
        f"fetch({symbol}, {quoted(timeframe)}, predictor.required_candles)"
        for timeframe in timeframes
    )
    code = (
        f"from {module} import {name}; from data_fetcher import CryptodataFetcher; "
        f"fetch = CryptodataFetcher({whence}).fetch_ohlcv; "
        f"predictor = {name}.from_directory({opened}); print(predictor.predict({candles}))"
    )
    return {"forecast": options.python("-c", code)}


def first_symbol(config: RunConfig) -> str:
    """A pair of the run, for an example."""
    return expand_symbols(config.symbols)[0]


def forecast_commands(config: RunConfig, timeframe: str, folder: Path) -> dict[str, str]:
    """How to forecast with a bundle of v2: by its command, from the candles that the run had."""
    symbol, model = first_symbol(config), ("--model-dir", folder)
    words: tuple[object, ...] = ("live", "--symbol", symbol)
    candles: tuple[object, ...] = ()
    if config.candles_dir is not None:
        words = ("predict", store.find_file(config.candles_dir, symbol, timeframe) or "FILE")
        candles = ("--candles-dir", config.candles_dir)
    picture = ("--picture", "forecast.png")
    forecast = options.command("inference_v2.py", *words, *model, *picture)
    return {"forecast": forecast, **options.page(*model, *candles)}
