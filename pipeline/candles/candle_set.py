"""Candles of several symbols: where they come from, and what is told about it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipeline.candles import belief, store
from pipeline.candles.schema import find_gaps, timeframe_ms, timestamps_ms


@dataclass(frozen=True)
class CandleSet:
    """Candles of several symbols and where they come from."""

    candles: dict[str, pd.DataFrame]
    """symbol -> frame in the schema of `pipeline.candles.schema`"""
    timeframe: str
    source: str
    """directory, exchange, cache (of exchanges) or synthetic"""
    venue: str
    """the directory's name, the exchanges' ids, or the generator's seed"""
    venue_of: Mapping[str, str] = field(default_factory=dict)
    """symbol -> exchange, where they may differ; each symbol comes from one exchange, whole"""
    published_venue_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """symbol -> column (funding_rate, open_interest) -> futures exchange it was joined from"""
    funding: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """symbol -> settled funding rates, where they are known, for the backtest"""

    @property
    def is_synthetic(self) -> bool:
        """Whether a generator made any of them, as the source or their files say."""
        made_up = [frame.attrs.get("exchange") == "synthetic" for frame in self.candles.values()]
        return self.source == "synthetic" or any(made_up)

    @property
    def ends_ms(self) -> dict[str, int]:
        """Symbol -> close of its last candle, epoch ms."""
        step_ms = timeframe_ms(self.timeframe)
        return {
            symbol: int(timestamps_ms(frame)[-1]) + step_ms
            for symbol, frame in self.candles.items()
        }

    @functools.cached_property
    def doubts(self) -> dict[str, str]:
        """Symbol -> what to say of its candles that are hard to believe; mostly empty."""
        told = {}
        for symbol, frame in self.candles.items():
            doubts = belief.doubts_of(frame, self.timeframe, symbol)
            if doubts:
                told[symbol] = doubts
        return told

    def describe(self) -> list[str]:
        """A line a symbol, for people; of many symbols the first few."""
        lines = []
        for symbol, frame in self.candles.items():
            first, last = (f"{frame['timestamp'].iloc[row]:%Y-%m-%d %H:%M}" for row in (0, -1))
            where = f"{self.source} {self.venue_of.get(symbol, self.venue)}"
            lines.append(f"{symbol:10} {len(frame):>8,} candles  {first} to {last}  {where}")
        return lines if len(lines) <= 6 else [*lines[:5], f"… and {len(lines) - 5} more symbols"]

    def fingerprint(self) -> dict[str, Any]:
        """What an interrupted run needs to fetch the same candles again and to be sure of it."""
        hashes = {symbol: store.content_sha256(frame) for symbol, frame in self.candles.items()}
        return {"end_ms": max(self.ends_ms.values()), "sha256": hashes}

    def provenance(self) -> dict[str, Any]:
        """For the metadata: source, spans, rows, gaps and hash of each symbol."""
        return {
            "source": self.source,
            "venue": self.venue,
            "synthetic": self.is_synthetic,
            "timeframe": self.timeframe,
            "symbols": {symbol: self._provenance_of(symbol) for symbol in self.candles},
        }

    def _provenance_of(self, symbol: str) -> dict[str, Any]:
        frame = self.candles[symbol]
        gaps = find_gaps(timestamps_ms(frame), timeframe_ms(self.timeframe))
        told = {
            "rows": len(frame),
            "first": frame["timestamp"].iloc[0].isoformat(),
            "last": frame["timestamp"].iloc[-1].isoformat(),
            "missing_candles": int(gaps["missing"].sum()),
            "columns": list(frame.columns),
            "sha256": store.content_sha256(frame),
        }
        n_doubtful = len(belief.find_doubtful(frame, self.timeframe))
        if n_doubtful:
            told["doubtful_candles"] = n_doubtful
        if symbol in self.venue_of:
            told["venue"] = self.venue_of[symbol]
        for name, venue in self.published_venue_of.get(symbol, {}).items():
            told[f"{name}_venue"] = venue
        return told
