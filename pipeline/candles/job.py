"""A series to fetch, and how fetching it may fail; what all sources share."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.schema import CANDLE_COLUMNS, PUBLISHED, timeframe_ms, timestamps_ms

FUNDING_STEP_MS = 28_800_000
"""The usual interval between settlements; others are kept as they come."""
OPEN_INTEREST_TIMEFRAME = "1h"

RENAMED = {"MATIC": ("POL", 1_725_148_800_000)}
"""Coin -> (its new name, instant before which nobody traded under it, ms since 1970 UTC:
2024-09-01). On Binance MATIC stopped on 2024-09-10 and POL began on 2024-09-13."""

Answer = Any
"""What fetching a series gave, or the ExchangeError or ValueError that stopped it."""


class ExchangeError(ConnectionError):
    """A source is out of reach, refuses or answers nonsense; the message says what to do."""


class GeoBlockError(ExchangeError):
    """The exchange does not serve this machine's address, for its country; no retry helps."""


class UnknownSymbolError(ValueError):
    """The source has no such market, or has it no longer."""


class ContradictionError(ValueError):
    """Two sources tell different prices of one market; no third one is taken unasked."""


class QuoteError(UnknownSymbolError):
    """The exchange quotes the coin in USD alone, where USDT was asked for."""


@dataclass(frozen=True)
class Job:
    """A series to fetch."""

    symbol: str
    """such as BTC/USDT; futures exchanges also take BTC/USDT:USDT"""
    kind: str
    """a timeframe such as 1h, funding or open_interest"""
    since_ms: int | None = None
    """all that open (or are published) at or after this, ms since 1970 UTC"""
    until_ms: int | None = None
    """only candles that have closed, values that were published by then; None for the present"""
    n_candles: int | None = None
    """instead of `since_ms`: the newest this many; fewer come back where the listing is younger"""

    def __post_init__(self) -> None:
        n_candles = self.n_candles
        if (n_candles is None) == (self.since_ms is None):
            raise ValueError(
                f"n_candles is {n_candles} and since_ms is {self.since_ms}; give exactly one of "
                "them"
            )
        if n_candles is not None and n_candles < 1:
            raise ValueError(f"n_candles is {n_candles}; ask for at least 1 candle")
        if n_candles is not None and self.is_published:
            raise ValueError(f"n_candles is {n_candles} for {self.kind}; say since_ms instead")

    @property
    def is_published(self) -> bool:
        """Whether rows are values of one instant, not candles."""
        return self.kind in PUBLISHED

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the values of a row, beside its time."""
        return (PUBLISHED[self.kind],) if self.is_published else CANDLE_COLUMNS[1:]

    @property
    def step_ms(self) -> int:
        """Time from one row to the next; of funding the usual one."""
        if self.kind == "funding":
            return FUNDING_STEP_MS
        return timeframe_ms(OPEN_INTEREST_TIMEFRAME if self.is_published else self.kind)

    def cut(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that are asked for, of a longer series in time order."""
        times = timestamps_ms(rows)
        first = 0 if self.since_ms is None else int(np.searchsorted(times, self.since_ms))
        end = len(rows)
        if self.until_ms is not None:
            last_open = self.until_ms - (0 if self.is_published else self.step_ms)
            end = int(np.searchsorted(times, last_open, side="right"))
        if self.n_candles is not None:
            first = max(first, end - self.n_candles)
        return rows.iloc[first:end].reset_index(drop=True)


def renamed_ms(market: str) -> int:
    """Instant before which a market of this name cannot be what is asked for, ms; 0 for most.

    Example:
        >>> renamed_ms("POL/USDT"), renamed_ms("BTC/USDT")
        (1725148800000, 0)
    """
    return next((began_ms for name, began_ms in RENAMED.values() if name == coin_of(market)), 0)


def coin_of(market: str) -> str:
    """The coin that a market trades.

    Example:
        >>> coin_of("BTC/USDT:USDT")
        'BTC'
    """
    return market.partition("/")[0]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """The end of an error about an unknown word."""
    by_upper = {name.upper(): name for name in known}
    close = difflib.get_close_matches(word.upper(), list(by_upper), 3)
    if close:
        return f"did you mean {', '.join(by_upper[match] for match in close)}?"
    return f"it has {len(known)}, such as {', '.join(list(known)[:3])}"
