"""A bundle opened, and the candles of its pairs: what every command begins with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from config import SourceConfig, default_cache_dir, default_output_dir
from pipeline import terminal
from pipeline.candles import fetch_cache, folders, formats
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.job import Job
from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.forecasts.live import LivePredictor

logger = logging.getLogger(__name__)


def open_bundle(
    predictor_class: type[LivePredictor], folder: Path, **options: Any
) -> LivePredictor:
    """The predictor of a bundle's folder; options as for its class.

    Raises:
        ValueError: There is no trained model, or its files are damaged or not of one run.
    """
    try:
        return predictor_class.from_directory(folder, **options)
    except FileNotFoundError as error:
        raise ValueError(no_model(folder)) from error


def no_model(folder: Path) -> str:
    """What to say where a bundle, or a file of it, is missing."""
    demo = default_output_dir("demo")
    there = f" {demo}, which is there" if demo.is_dir() else ""
    return (
        f"{folder}: no trained model, or a file of it is missing; train one (python "
        f"train_v2_production.py --output-dir {folder}), make a small one without a network "
        f"(python demo.py), or pass --model-dir{there}"
    )


class Both(NamedTuple):
    """The networks of one bundle, which may be the same."""

    judged: LivePredictor
    """that of the verdict"""
    served: LivePredictor


def open_both(predictor_class: type[LivePredictor], folder: Path) -> Both:
    """Both networks of what lies in a folder at one moment, by the calibration that was judged.

    Raises:
        ValueError: See `open_bundle`; or the bundle was replaced between the two.
    """
    judged = open_bundle(predictor_class, folder, judged=True)
    served = open_bundle(predictor_class, folder, recalibrated=False)
    if judged.metadata != served.metadata:
        raise ValueError(f"{folder}: the bundle is being replaced at this moment; try again")
    return Both(judged, served)


def source_of(
    candles_dir: Path | None,
    exchange: str | None,
    base_url: str | None,
    timezone: str | None = None,
    cache_dir: Path | None = None,
) -> SourceConfig:
    """Where the candles of a bundle's pairs come from: a folder, else an exchange; never made up.

    Arguments are fields of `SourceConfig`. A folder is never cached.
    """
    return SourceConfig(
        "exchange" if candles_dir is None else "directory",
        candles_dir=candles_dir,
        timezone=timezone,
        exchange=exchange,
        base_url=base_url,
        cache_dir=cache_dir if candles_dir is None else None,
    )


def read_market(
    predictor: LivePredictor, source: SourceConfig, since_ms: int, end_ms: int | None = None
) -> CandleSet:
    """Candles of the pairs that a model was trained on, and the history before them.

    Args:
        predictor: The model.
        source: Where they come from (`source_of`).
        since_ms: When the first forecast is made that is wanted, epoch ms; a folder is read as a
            whole.
        end_ms: See `fetch_candles`.
    """
    if source.candles_dir is not None:
        formats.demand_files(source.candles_dir, [], "")
        there = folders.symbols_in(source.candles_dir, predictor.symbols, predictor.timeframe)
        symbols = there or predictor.symbols
        return fetch_candles(symbols, predictor.timeframe, source=source, end_ms=end_ms)
    before_ms = predictor.required_candles * timeframe_ms(predictor.timeframe)
    return fetch_candles(
        predictor.symbols,
        predictor.timeframe,
        source=source,
        since_ms=max(since_ms - before_ms, 0),
        end_ms=end_ms,
        published=predictor.published,
    )


def with_neighbours(predictor: LivePredictor, folder: Path, candles: pd.DataFrame) -> LivePredictor:
    """The predictor with the other coins' candles, if it looks at them.

    They lie in the folder of the pair's own, or in the cache.
    """
    if not predictor.wants_context:
        return predictor
    context = {}
    for symbol in folders.symbols_in(folder, predictor.symbols, predictor.timeframe):
        try:
            context[symbol] = formats.read_directory(folder, symbol, predictor.timeframe)
        except ValueError as error:
            logger.warning("%s: not used: %s", symbol, error)
    logger.info("candles of %s in %s", terminal.counted(len(context), "coin"), folder)
    until_ms = int(timestamps_ms(candles)[-1]) + timeframe_ms(predictor.timeframe)
    jobs = [
        Job(symbol, predictor.timeframe, until_ms=until_ms, n_candles=predictor.required_candles)
        for symbol in predictor.symbols
        if symbol not in context
    ]
    kept = fetch_cache.find_stored(default_cache_dir(), jobs, None).answers
    if kept:
        told = terminal.counted(len(kept), "further coin")
        logger.info("candles of %s in %s", told, default_cache_dir())
    return predictor.with_context(context | {job.symbol: kept[job] for job in kept})
