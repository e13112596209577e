"""Prices between the candles' closes, from shorter candles that lie in the same folder."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from config import SourceConfig
from pipeline.candles import folders, formats
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timeframe_ms, timestamps_ms

logger = logging.getLogger(__name__)

FINER = ("1m", "5m", "15m")
"""Timeframes that are looked for."""


def prices_between(market: CandleSet, source: SourceConfig) -> dict[str, pd.Series]:
    """Closes of the shorter candles that the candles' folder, or the cache, holds; none is fetched.

    A file that cannot be read costs a notice, no run.

    Args:
        market: The candles.
        source: Where they came from.

    Returns:
        Symbol -> prices by the instant when they were known, epoch ms (the index, unique and
        rising); only of symbols that have any.
    """
    found = {}
    for symbol in market.candles:
        folder = _folder_of(market, symbol, source)
        if folder is None:
            continue
        try:
            prices = _closes(folder, symbol, market.timeframe, source.timezone)
        except (ValueError, OSError) as error:
            logger.warning("finer candles of %s are not used: %s", symbol, error)
            continue
        if len(prices):
            found[symbol] = prices
    return found


def _folder_of(market: CandleSet, symbol: str, source: SourceConfig) -> Path | None:
    if market.source == "directory":
        return source.candles_dir and Path(source.candles_dir)
    venue = market.venue_of.get(symbol)
    return Path(source.cache_dir, venue) if source.cache_dir and venue else None


def _closes(folder: Path, symbol: str, timeframe: str, timezone: str | None) -> pd.Series:
    closes = [pd.Series(dtype=np.float64)]
    for finer in FINER:
        step_ms = timeframe_ms(finer)
        paths = folders.find_files(folder, symbol, finer)
        if step_ms < timeframe_ms(timeframe) and paths:
            rows = formats.read_parts(paths, finer, timezone=timezone, tell=logger.info)
            known_ms = timestamps_ms(rows) + step_ms
            closes.append(pd.Series(rows["close"].to_numpy(np.float64), index=known_ms))
    together = pd.concat(closes)
    return together[~together.index.duplicated()].sort_index()
