"""Candles from a directory, an exchange or the generator: fetched, validated, and told apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from config import TRADING_PAIRS
from pipeline import exchanges, store, synthetic
from pipeline.candles import find_gaps, read_candles, timeframe_ms, timestamps_ms

logger = logging.getLogger(__name__)

SYNTHETIC_BANNER = """
  ┌──────────────────────────────────────────────────────────────────────────┐
  │  SYNTHETIC CANDLES: no exchange was reached and no directory was given.  │
  │  Nothing below says anything about a real market. No claim is made.      │
  │  Real candles: --candles-dir DIR, or a network. Insist: --require-real.  │
  └──────────────────────────────────────────────────────────────────────────┘
"""


@dataclass(frozen=True)
class CandleSet:
    """Candles of several symbols and where they come from."""

    candles: dict[str, pd.DataFrame]
    """symbol -> frame in the schema of `pipeline.candles`"""
    timeframe: str
    source: str
    """"directory", "exchange" or "synthetic"""
    venue: str
    """the directory's path, the exchange's id, or the generator's seed"""

    @property
    def is_synthetic(self) -> bool:
        return self.source == "synthetic"

    def describe(self) -> list[str]:
        """A line a symbol, for people; of many symbols the first few."""
        lines = [
            f"{symbol:10} {len(frame):>8,} candles  {frame['timestamp'].iloc[0]:%Y-%m-%d %H:%M} to "
            f"{frame['timestamp'].iloc[-1]:%Y-%m-%d %H:%M}  {self.source} {self.venue}"
            for symbol, frame in self.candles.items()
        ]
        return lines if len(lines) <= 6 else [*lines[:5], f"… and {len(lines) - 5} more symbols"]

    def fingerprint(self) -> dict[str, Any]:
        """What an interrupted run needs to fetch the same candles again and to be sure of it."""
        last_ms = max(int(timestamps_ms(frame)[-1]) for frame in self.candles.values())
        hashes = {symbol: store.content_sha256(frame) for symbol, frame in self.candles.items()}
        return {"end_ms": last_ms + timeframe_ms(self.timeframe), "sha256": hashes}

    def provenance(self) -> dict[str, Any]:
        """For the metadata: source, spans, rows, gaps and hash of each symbol."""
        step_ms = timeframe_ms(self.timeframe)
        return {
            "source": self.source,
            "venue": self.venue,
            "synthetic": self.is_synthetic,
            "timeframe": self.timeframe,
            "symbols": {
                symbol: {
                    "rows": len(frame),
                    "first": frame["timestamp"].iloc[0].isoformat(),
                    "last": frame["timestamp"].iloc[-1].isoformat(),
                    "missing_candles": int(find_gaps(timestamps_ms(frame), step_ms)["missing"].sum()),
                    "columns": list(frame.columns),
                    "sha256": store.content_sha256(frame),
                }
                for symbol, frame in self.candles.items()
            },
        }


def expand_symbols(symbols: Sequence[str]) -> tuple[str, ...]:
    """Upper-case pairs without repetition; `all` becomes the 22 of `config.TRADING_PAIRS`.

    Raises:
        ValueError: A symbol is not written as BASE/QUOTE, or there is none.
    """
    wanted = TRADING_PAIRS if [s.lower() for s in symbols] == ["all"] else tuple(s.upper() for s in symbols)
    for symbol in wanted:
        base, slash, quote = symbol.partition("/")
        if not (base and slash and quote):
            raise ValueError(f"unknown symbol {symbol!r}; write pairs as BTC/USDT, or `all` for the house list")
    if not wanted:
        raise ValueError("no symbols; pass --symbols BTC/USDT, or `all` for the house list")
    return tuple(dict.fromkeys(wanted))


def fetch_candles(
    symbols: Sequence[str],
    timeframe: str,
    n_candles: int,
    *,
    source: str = "auto",
    candles_dir: Path | None = None,
    exchange: str | None = None,
    require_real: bool = False,
    seed: int = 42,
    end_ms: int | None = None,
) -> CandleSet:
    """Fetch the newest candles of every symbol from the first source that works.

    `auto` takes the directory if one is given, else the exchange chain, else synthetic candles under a banner.

    Args:
        symbols: Pairs such as BTC/USDT, or `all`.
        timeframe: Length of a candle.
        n_candles: Candles wanted per symbol, warm-up included; 0 takes all a directory has (an exchange needs to know).
        source: auto, directory, exchange or synthetic.
        candles_dir: Directory of candle files.
        exchange: ccxt id; None tries the chain.
        require_real: Refuse synthetic candles.
        seed: Of synthetic candles.
        end_ms: Only candles that close at or before this instant, epoch ms; None for the newest.

    Raises:
        ValueError: Contradicting options, an unknown symbol or timeframe, an unsound file.
        exchanges.ExchangeError: Real candles are required and no exchange delivers them.
    """
    timeframe_ms(timeframe)
    if n_candles < 0:
        raise ValueError(f"--candles is {n_candles}; pass a positive number, or 0 for all there are")
    symbols = expand_symbols(symbols)
    if source == "directory" or (source == "auto" and candles_dir is not None):
        if candles_dir is None:
            raise ValueError("--source directory needs --candles-dir DIR")
        return _from_directory(symbols, timeframe, n_candles, candles_dir, end_ms)
    if source in ("exchange", "auto"):
        if n_candles == 0:
            raise ValueError("--candles 0 takes all of a directory; for an exchange say how many")
        try:
            return _from_exchange(symbols, timeframe, n_candles, exchange, end_ms)
        except exchanges.ExchangeError as error:
            if source == "exchange" or require_real:
                raise
            logger.warning("no exchange delivered candles: %s", error)
    if require_real:
        raise ValueError("--require-real: --source synthetic is not real; pass --candles-dir or an exchange")
    if n_candles == 0:
        raise ValueError("--candles 0 takes all of a directory; for synthetic candles say how many")
    logger.warning("%s", SYNTHETIC_BANNER)
    market = synthetic.synthetic_market(symbols, timeframe, n_candles, seed=seed)
    return CandleSet(market, timeframe, "synthetic", f"seed {seed}")


class CryptodataFetcher:
    """The v1 document's fetcher: a thin face over `fetch_candles` and the store."""

    def __init__(self, exchange: str | None = None, candles_dir: Path | str | None = None) -> None:
        """Fetch from `candles_dir` if given, else from `exchange`, else from the chain; never synthetic."""
        self.exchange = exchange
        self.candles_dir = None if candles_dir is None else Path(candles_dir)

    def fetch_ohlcv(self, symbol: str, timeframe: str = "1h", limit: int = 1000) -> pd.DataFrame:
        """The newest `limit` closed candles of one symbol, paged where the exchange gives fewer at a time."""
        return self.fetch_multiple_symbols([symbol], timeframe, limit)[expand_symbols([symbol])[0]]

    def fetch_multiple_symbols(
        self, symbols: Sequence[str], timeframe: str = "1h", limit: int = 1000
    ) -> dict[str, pd.DataFrame]:
        """Symbol -> its newest `limit` closed candles."""
        fetched = fetch_candles(
            symbols, timeframe, limit, candles_dir=self.candles_dir, exchange=self.exchange, require_real=True
        )
        return fetched.candles

    def save_to_parquet(
        self, candles: dict[str, pd.DataFrame], directory: Path | str, timeframe: str = "1h"
    ) -> list[Path]:
        """Write each symbol's candles to `<directory>/<SYMBOL>_<timeframe>.parquet`; returns the paths."""
        return [store.write_candles(frame, Path(directory), symbol, timeframe) for symbol, frame in candles.items()]


def _from_directory(
    symbols: Sequence[str], timeframe: str, n_candles: int, directory: Path, end_ms: int | None
) -> CandleSet:
    candles = {}
    for symbol in symbols:
        frame = store.read_directory(directory, symbol, timeframe)
        if end_ms is not None:
            frame = frame[timestamps_ms(frame) + timeframe_ms(timeframe) <= end_ms]
        if 0 < len(frame) < n_candles:
            logger.warning("%s: %d candles in %s, %d asked for", symbol, len(frame), directory, n_candles)
        candles[symbol] = frame.iloc[-n_candles:].reset_index(drop=True)
    return CandleSet(candles, timeframe, "directory", str(directory))


def _from_exchange(
    symbols: Sequence[str], timeframe: str, n_candles: int, name: str | None, end_ms: int | None
) -> CandleSet:
    """All symbols from the first exchange that has them; the reason for each hop is logged."""
    reasons = []
    for candidate in (name,) if name else exchanges.EXCHANGE_CHAIN:
        try:
            client = exchanges.open_exchange(candidate)
            candles = {}
            for symbol in symbols:
                logger.info("%s: fetching %d candles from %s", symbol, n_candles, candidate)
                frame = exchanges.fetch_ohlcv(client, symbol, timeframe, n_candles=n_candles, until_ms=end_ms)
                candles[symbol] = read_candles(frame, timeframe, where=f"{symbol} from {candidate}")
            return CandleSet(candles, timeframe, "exchange", candidate)
        except exchanges.ExchangeError as error:
            reasons.append(str(error))
            logger.info("%s", error)
    raise exchanges.ExchangeError("; ".join(reasons))
