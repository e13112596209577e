"""The truth behind the loopback exchange: what every candle, settlement and observation really was.

`tests.exchange_server` serves it, and tests compare with it what they have fetched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.candles import formats, store
from pipeline.candles.schema import (
    CANDLE_COLUMNS,
    PUBLISHED,
    TIMEFRAME_MS,
    check_published,
    timeframe_ms,
    timestamps_ms,
    utc_from_ms,
)
from pipeline.candles.synthetic import FUNDING_INTERVAL_MS, synthetic_market

DAY_MS = 86_400_000
QUOTES = ("USDT", "USDC", "USD", "BTC", "EUR")
VALUE_COLUMNS = CANDLE_COLUMNS[1:]


@dataclass(frozen=True)
class Series:
    """Rows in time order."""

    times: np.ndarray
    """(n,) int64 milliseconds since 1970 UTC: a candle's open, a funding's settlement"""
    numbers: np.ndarray
    """(n, k) float64: open, high, low, close, volume of a candle, else one column"""

    def between(self, start_ms: int | None, end_ms: int | None) -> Series:
        """Rows from `start_ms` on and before `end_ms`."""
        first = 0 if start_ms is None else int(np.searchsorted(self.times, start_ms))
        last = len(self.times) if end_ms is None else int(np.searchsorted(self.times, end_ms))
        return Series(self.times[first:last], self.numbers[first:last])

    def shifted(self, by_ms: int) -> Series:
        return Series(self.times + by_ms, self.numbers)


def empty_series(n_columns: int = 1) -> Series:
    return Series(np.empty(0, dtype=np.int64), np.empty((0, n_columns)))


@dataclass(frozen=True)
class Listing:
    """A pair and all that ever happened to it; a symbol without candles so far is not listed
    yet."""

    symbol: str
    """such as BTC/USDT; futures list the pair as a perpetual if it is quoted in USDT or USDC"""
    candles: dict[str, Series] = field(default_factory=dict)
    """timeframe -> candles"""
    funding: Series = field(default_factory=empty_series)
    """rates at their settlement"""
    open_interest: Series = field(default_factory=empty_series)
    """USD at the instant of observation"""
    closed_ms: int | None = None
    """from here on the pair is listed as BREAK and its history is served still"""
    is_removed: bool = False
    """from `closed_ms` on the exchange has never heard of the pair"""

    @property
    def begins_ms(self) -> int:
        return min(
            (int(series.times[0]) for series in self.candles.values() if len(series.times)),
            default=2**62,
        )

    def is_closed(self, now_ms: int) -> bool:
        return self.closed_ms is not None and now_ms >= self.closed_ms

    def is_known(self, now_ms: int) -> bool:
        return now_ms >= self.begins_ms and not (self.is_removed and self.is_closed(now_ms))

    def price_at(self, times: np.ndarray) -> np.ndarray:
        """(n,) open of the candle of the shortest timeframe at each of (n,) instants."""
        series = self.candles[min(self.candles, key=timeframe_ms)]
        rows = np.searchsorted(series.times, times, side="right") - 1
        return series.numbers[np.maximum(rows, 0), 0]

    def publishing(self, kind: str, series: Series) -> Listing:
        """The same pair with this `funding` or `open_interest`."""
        return (
            replace(self, funding=series)
            if kind == "funding"
            else replace(self, open_interest=series)
        )

    def between(self, start_ms: int | None, end_ms: int | None) -> Listing:
        """The same pair with a part of its history."""
        candles = {
            timeframe: series.between(start_ms, end_ms)
            for timeframe, series in self.candles.items()
        }
        funding, open_interest = (
            self.funding.between(start_ms, end_ms),
            self.open_interest.between(start_ms, end_ms),
        )
        return replace(self, candles=candles, funding=funding, open_interest=open_interest)


class Market:
    """Symbol -> listing, and the candles of each as frames."""

    def __init__(self, listings: Iterable[Listing] = ()) -> None:
        self.listings = {listing.symbol: listing for listing in listings}

    def add(self, symbol: str, timeframe: str, frame: pd.DataFrame) -> None:
        """Add candles in the schema of `pipeline.candles.schema`, and the funding and open interest
        that stand in them.

        A funding rate counts as settled at the open of each candle that opens at 00, 08 or 16 UTC,
        an open interest as observed at each candle's open, as in `pipeline.candles.synthetic`; of
        several timeframes the shortest one's are taken.
        """
        listing = self.listings.setdefault(symbol, Listing(symbol))
        times = timestamps_ms(frame)
        is_shortest = all(
            timeframe_ms(timeframe) <= timeframe_ms(other) for other in listing.candles
        )
        listing.candles[timeframe] = Series(
            times, frame[list(VALUE_COLUMNS)].to_numpy(dtype=np.float64)
        )
        settled = times % FUNDING_INTERVAL_MS == 0
        for column, kind, chosen in (
            ("funding_rate", "funding", settled),
            ("open_interest", "open_interest", np.ones(len(times), dtype=bool)),
        ):
            if column in frame.columns and is_shortest:
                chosen = chosen & frame[column].notna().to_numpy()
                series = Series(times[chosen], frame[[column]].to_numpy(dtype=np.float64)[chosen])
                self.listings[symbol] = self.listings[symbol].publishing(kind, series)

    def candles(
        self, symbol: str, timeframe: str, *, now_ms: int, since_ms: int | None = None
    ) -> pd.DataFrame:
        """The truth: frame in the schema of the candles that open from `since_ms` on and have
        closed by `now_ms`."""
        last_open = now_ms - timeframe_ms(timeframe)
        series = self.listings[symbol].candles[timeframe].between(since_ms, last_open + 1)
        columns = dict(zip(VALUE_COLUMNS, series.numbers.T.copy(), strict=True))
        return pd.DataFrame({"timestamp": utc_from_ms(series.times), **columns})

    def published(
        self, symbol: str, kind: str, *, now_ms: int, since_ms: int | None = None
    ) -> pd.DataFrame:
        """The truth of `funding` or `open_interest`: frame of timestamp and value from `since_ms`
        up to `now_ms`."""
        series = getattr(self.listings[symbol], kind).between(since_ms, now_ms + 1)
        return pd.DataFrame(
            {"timestamp": utc_from_ms(series.times), PUBLISHED[kind]: series.numbers[:, 0].copy()}
        )

    def close(self, symbol: str, closed_ms: int, *, is_removed: bool = False) -> None:
        """Stop a pair: from then on it is listed as BREAK, or with `is_removed` unknown; later
        candles never were."""
        listing = self.listings[symbol].between(None, closed_ms)
        self.listings[symbol] = replace(listing, closed_ms=closed_ms, is_removed=is_removed)

    def rename(self, old: str, new: str, closed_ms: int, begins_ms: int) -> None:
        """Let `old` stop and its history go on as `new`, as MATIC did at Binance: 2024-09-10, POL
        from 2024-09-13."""
        self.listings[new] = replace(self.listings[old].between(begins_ms, None), symbol=new)
        self.close(old, closed_ms)

    def shifted(self, by_ms: int) -> Market:
        """The same market at another time; whole days leave every candle and settlement on its
        grid."""
        listings = []
        for listing in self.listings.values():
            candles = {
                timeframe: series.shifted(by_ms) for timeframe, series in listing.candles.items()
            }
            closed_ms = None if listing.closed_ms is None else listing.closed_ms + by_ms
            funding, open_interest = (
                listing.funding.shifted(by_ms),
                listing.open_interest.shifted(by_ms),
            )
            moved = replace(
                listing,
                candles=candles,
                funding=funding,
                open_interest=open_interest,
                closed_ms=closed_ms,
            )
            listings.append(moved)
        return Market(listings)

    @property
    def ends_ms(self) -> int:
        """Open of the last candle of all."""
        series = [
            series for listing in self.listings.values() for series in listing.candles.values()
        ]
        return max(int(one.times[-1]) for one in series if len(one.times))


def market_of(frames: Mapping[str, Mapping[str, pd.DataFrame]]) -> Market:
    """Market of symbol -> timeframe -> frame in the schema of `pipeline.candles.schema`."""
    market = Market()
    for symbol, by_timeframe in frames.items():
        for timeframe, frame in by_timeframe.items():
            market.add(symbol, timeframe, frame)
    return market


def synthetic_exchange(
    symbols: Sequence[str],
    timeframes: Sequence[str] = ("1h",),
    n_candles: int = 2000,
    *,
    seed: int = 42,
    end: str | pd.Timestamp = "2025-01-01",
) -> Market:
    """Market of `pipeline.candles.synthetic`; every timeframe has `n_candles` and is a series of
    its own."""
    market = Market()
    for timeframe in timeframes:
        for symbol, frame in synthetic_market(
            symbols, timeframe, n_candles, seed=seed, end=end
        ).items():
            market.add(symbol, timeframe, frame)
    return market


def read_market(directory: Path) -> Market:
    """Market of a directory of candle files, in the layout of `pipeline.candles.store`.

    Raises:
        ValueError: There is no candle file in the directory, or a file is not sound.
    """
    market = Market()
    paths = sorted(path for path in directory.iterdir() if path.suffix in (".parquet", ".csv"))
    named = [
        (path, re.fullmatch(rf"(\w+?)({'|'.join(QUOTES)})_(\w+)", path.stem)) for path in paths
    ]
    found = [
        (path, f"{match[1]}/{match[2]}", match[3]) for path, match in named if match is not None
    ]
    for _, symbol, timeframe in found:
        if timeframe in TIMEFRAME_MS:
            market.add(
                symbol,
                timeframe,
                formats.read_directory(directory, symbol, timeframe)[list(CANDLE_COLUMNS)],
            )
    if not market.listings:
        raise ValueError(
            f"{directory}: no candle files such as BTCUSDT_1h.parquet; mend --candles-dir"
        )
    for path, symbol, kind in found:
        if kind in PUBLISHED and symbol in market.listings:
            frame = check_published(store.read_table(path), PUBLISHED[kind], path.name)
            series = Series(
                timestamps_ms(frame), frame[[PUBLISHED[kind]]].to_numpy(dtype=np.float64)
            )
            market.listings[symbol] = market.listings[symbol].publishing(kind, series)
    return market
