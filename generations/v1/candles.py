"""The 1h and 15m candles of the pairs that have both, up to the same instant."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import ConfigV1, SourceConfig
from generations.v1.features import V1_WARMUP
from generations.v1.timeframes import HOUR, QUARTER
from pipeline import terminal
from pipeline.candles import synthetic
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import expand_symbols, fetch_candles
from pipeline.candles.job import ExchangeError
from pipeline.candles.schema import timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.candles.store import find_span

logger = logging.getLogger(__name__)

QUARTERS_AN_HOUR = timeframe_ms(HOUR) // timeframe_ms(QUARTER)


def fetch(config: ConfigV1, end_ms: int | None = None) -> dict[str, CandleSet]:
    """Fetch both timeframes; a pair that lacks one of them is left out with a notice.

    Args:
        config: Settings of the run.
        end_ms: Instant at which the candles end, epoch ms; None for the newest.

    Returns:
        Timeframe -> candles, of the same pairs.

    Raises:
        ValueError: Bad settings or bad candles, or no pair has both timeframes.
    """
    symbols = expand_symbols(config.symbols)
    if config.candles_dir is not None:
        symbols, last_ms = with_quarters(Path(config.candles_dir), symbols)
        end_ms = last_ms if end_ms is None else end_ms
    n_candles = config.candles and config.candles + V1_WARMUP
    hours = fetch_candles(symbols, HOUR, n_candles, config, end_ms=end_ms, published=("funding",))
    if hours.is_synthetic:
        return made_of_quarters(config, hours)

    try:
        quarters = fetch_quarters(config, hours)
    except ExchangeError:
        if hours.source != "cache" or config.require_real:
            raise
        logger.warning("the cache has no %s candles; v1 needs both timeframes", QUARTER)
        made_up = replace(config, source="synthetic", exchange=None)
        return fetch(made_up, end_ms)
    lacking = [symbol for symbol in hours.candles if symbol not in quarters.candles]
    if lacking:
        names = terminal.listed(lacking)
        logger.warning("left out, there are no %s candles: %s", QUARTER, names)
    kept = {symbol: hours.candles[symbol] for symbol in quarters.candles}
    return {HOUR: replace(hours, candles=kept), QUARTER: quarters}


def fingerprint(market: dict[str, CandleSet]) -> dict[str, Any]:
    """What an interrupted run needs to fetch the same candles again and to be sure of it."""
    return {timeframe: part.fingerprint() for timeframe, part in market.items()}


def with_quarters(directory: Path, symbols: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """The pairs of which a directory has 15m candles; others are left out with a notice.

    Returns:
        The pairs, and the end of the last hour that these candles reach, epoch ms; None where there
        is no such directory.

    Raises:
        ValueError: No pair has 15m candles.
    """
    if not directory.is_dir():
        return tuple(symbols), None  # the fetcher says it better
    found = {symbol: find_span(directory, symbol, QUARTER) for symbol in symbols}
    spans = {symbol: span for symbol, span in found.items() if span is not None}
    if not spans:
        raise ValueError(
            f"none of {terminal.listed(symbols)} has {QUARTER} candles in {directory}; v1 needs "
            f"both {HOUR} and {QUARTER} candles: python data_fetcher.py fetch --timeframes "
            f"{QUARTER} {HOUR}"
        )
    lacking = terminal.listed(symbol for symbol in symbols if symbol not in spans)
    if lacking:
        logger.warning("left out, there are no %s candles in %s: %s", QUARTER, directory, lacking)
    last_ms = max(span.last_ms + timeframe_ms(QUARTER) for span in spans.values())
    end_ms = last_ms // timeframe_ms(HOUR) * timeframe_ms(HOUR)
    end = utc_from_ms(np.array([end_ms]))[0]
    logger.info("%s candles end at %s, so do the hours", QUARTER, f"{end:%Y-%m-%d %H:%M}")
    return tuple(spans), end_ms


def fetch_quarters(config: ConfigV1, hours: CandleSet) -> CandleSet:
    """The 15m candles that go with the hours, each pair's from where its hours come from.

    Raises:
        ValueError: No pair has them, or one whose hours come from a directory.
    """
    end_ms = hours.fingerprint()["end_ms"]
    n_candles = config.candles and QUARTERS_AN_HOUR * config.candles + config.lookback + V1_WARMUP
    parts: list[CandleSet] = []
    venues = {symbol: hours.venue_of.get(symbol) for symbol in hours.candles}
    for venue in dict.fromkeys(venues.values()):
        wanted = [symbol for symbol in venues if venues[symbol] == venue]
        source: SourceConfig = config
        is_cached = hours.source == "cache"
        if venue is not None and is_cached:
            source = replace(config, exchange=venue, require_real=True)
        elif venue is not None:
            source = replace(config, source="exchange", exchange=venue)
        try:
            parts.append(fetch_candles(wanted, QUARTER, n_candles, source, end_ms=end_ms))
        except (ExchangeError, ValueError) as error:
            is_down = isinstance(error, ExchangeError) and not is_cached
            if is_down or hours.source == "directory" or len(wanted) == len(hours.candles):
                raise
            logger.warning("%s", error)
    found = {symbol: frame for part in parts for symbol, frame in part.candles.items()}
    candles = {symbol: found[symbol] for symbol in hours.candles if symbol in found}
    if not candles:
        raise ValueError(
            f"no exchange has {QUARTER} candles of {terminal.listed(venues)}; v1 needs both"
        )
    return replace(parts[0], candles=candles)


def made_of_quarters(config: ConfigV1, hours: CandleSet) -> dict[str, CandleSet]:
    """Synthetic 15m candles, and hours made of them.

    Each timeframe of the generator is a market of its own, so its hours have no quarters.
    """
    end_ms = hours.fingerprint()["end_ms"]
    made = synthetic.synthetic_market(
        tuple(hours.candles),
        QUARTER,
        QUARTERS_AN_HOUR * (config.candles + V1_WARMUP),
        seed=config.seed,
        end=pd.Timestamp(end_ms, unit="ms"),
    )
    merged = {symbol: resample_candles(candles, QUARTER, HOUR) for symbol, candles in made.items()}
    return {
        HOUR: replace(hours, candles=merged),
        QUARTER: replace(hours, candles=made, timeframe=QUARTER),
    }


def resample_candles(candles: pd.DataFrame, timeframe: str, coarser: str) -> pd.DataFrame:
    """Coarser candles from finer ones; only those of which every part is there.

    Example:
        >>> quarters = pd.DataFrame({
        ...     "timestamp": utc_from_ms(900_000 * np.arange(5)), "open": [1.0, 2, 3, 4, 5],
        ...     "high": [2.0, 9, 4, 5, 6], "low": [1.0, 2, 0.5, 4, 5], "close": [2.0, 3, 4, 5, 6],
        ...     "volume": 1.0})
        >>> resample_candles(quarters, "15m", "1h").iloc[:, 1:].values.tolist()
        [[1.0, 9.0, 0.5, 5.0, 4.0]]
    """
    step_ms = timeframe_ms(coarser)
    opens = timestamps_ms(candles) // step_ms * step_ms
    parts = candles.groupby(opens, sort=True)
    merged = parts.agg(
        open=("open", "first"),
        high=("high", "max"),
        low=("low", "min"),
        close=("close", "last"),
        volume=("volume", "sum"),
    )
    merged.insert(0, "timestamp", utc_from_ms(merged.index.to_numpy()).array)
    is_whole = parts.size().to_numpy() == step_ms // timeframe_ms(timeframe)
    return merged[is_whole].reset_index(drop=True)
