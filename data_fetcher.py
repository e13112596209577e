"""Candles from a directory, an exchange or the generator: fetched, validated, and told apart."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from config import TRADING_PAIRS
from pipeline import exchanges, store, synthetic
from pipeline.candles import drop_forming, find_gaps, read_candles, timeframe_ms, timestamps_ms

logger = logging.getLogger(__name__)

SYNTHETIC_BANNER = """
  ┌──────────────────────────────────────────────────────────────────────────┐
  │  SYNTHETIC CANDLES, made by a generator: no market ever traded them.     │
  │  Nothing below says anything about a real market. No claim is made.      │
  │  Real candles: --candles-dir DIR, or a network. Insist: --require-real.  │
  └──────────────────────────────────────────────────────────────────────────┘
"""

SOURCES = ("auto", "directory", "exchange", "synthetic")


@dataclass(frozen=True)
class CandleSet:
    """Candles of several symbols and where they come from."""

    candles: dict[str, pd.DataFrame]
    """symbol -> frame in the schema of `pipeline.candles`"""
    timeframe: str
    source: str
    """directory, exchange or synthetic"""
    venue: str
    """the directory's path, the exchanges' ids, or the generator's seed"""
    venue_of: Mapping[str, str] = field(default_factory=dict)
    """symbol -> exchange, where they may differ; each symbol comes from one exchange, whole"""

    @property
    def is_synthetic(self) -> bool:
        return self.source == "synthetic"

    def describe(self) -> list[str]:
        """A line a symbol, for people; of many symbols the first few."""
        lines = [
            f"{symbol:10} {len(frame):>8,} candles  {frame['timestamp'].iloc[0]:%Y-%m-%d %H:%M} to "
            f"{frame['timestamp'].iloc[-1]:%Y-%m-%d %H:%M}  {self.source} {self.venue_of.get(symbol, self.venue)}"
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
                    **({"venue": self.venue_of[symbol]} if symbol in self.venue_of else {}),
                }
                for symbol, frame in self.candles.items()
            },
        }


def expand_symbols(symbols: Sequence[str]) -> tuple[str, ...]:
    """Upper-case pairs without repetition; `all` becomes the 22 of `config.TRADING_PAIRS`.

    Raises:
        ValueError: A symbol is not written as BASE/QUOTE, there is none, or a bare string is passed.
    """
    if isinstance(symbols, str):
        raise ValueError(f"symbols is the string {symbols!r}; pass a list, such as [{symbols!r}]")
    wanted = TRADING_PAIRS if [s.lower() for s in symbols] == ["all"] else tuple(s.upper() for s in symbols)
    for symbol in wanted:
        if not re.fullmatch(r"[^\s/:]+/[^\s/:]+(:[^\s/:]+)?", symbol):
            raise ValueError(f"unknown symbol {symbol!r}; write pairs as BTC/USDT, or `all` for the house list")
    files = [store.file_name(symbol, "") for symbol in dict.fromkeys(wanted)]
    twice = next((symbol for symbol in wanted if files.count(store.file_name(symbol, "")) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice} and another of {', '.join(wanted)} share one file of candles; name the pair once")
    if not wanted:
        raise ValueError("no symbols; pass --symbols BTC/USDT, or `all` for the house list")
    return tuple(dict.fromkeys(wanted))


def fetch_candles(
    symbols: Sequence[str],
    timeframe: str,
    n_candles: int,
    *,
    source: str = "auto",
    candles_dir: Path | str | None = None,
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
        ValueError: Contradicting options, an unknown symbol or timeframe, an unsound file, exchanges that answer but
            have no such candles.
        exchanges.ExchangeError: Real candles are required and no exchange can be reached.
    """
    timeframe_ms(timeframe)
    symbols = expand_symbols(symbols)
    _check_options(n_candles, source, candles_dir, exchange, require_real)
    if candles_dir is not None:
        return _from_directory(symbols, timeframe, n_candles, Path(candles_dir), end_ms)
    if source in ("exchange", "auto"):
        try:
            return _from_exchange(symbols, timeframe, n_candles, exchange, end_ms)
        except exchanges.ExchangeError:
            if source == "exchange" or require_real:
                raise
            logger.warning("no exchange delivered candles")
    logger.warning("%s", SYNTHETIC_BANNER)
    end = {} if end_ms is None else {"end": pd.Timestamp(end_ms, unit="ms")}
    market = synthetic.synthetic_market(symbols, timeframe, n_candles, seed=seed, **end)
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


def _check_options(
    n_candles: int, source: str, candles_dir: Path | str | None, exchange: str | None, require_real: bool
) -> None:
    """Raise on options that contradict each other, rather than ignore one of them."""
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; use one of {', '.join(SOURCES)}")
    if source == "directory" and candles_dir is None:
        raise ValueError("--source directory needs --candles-dir DIR")
    if source in ("exchange", "synthetic") and candles_dir is not None:
        raise ValueError(f"--source {source} does not read --candles-dir {candles_dir}; leave one of the two out")
    if source in ("directory", "synthetic") and exchange is not None:
        raise ValueError(f"--source {source} does not ask --exchange {exchange}; leave one of the two out")
    if source == "synthetic" and require_real:
        raise ValueError("--require-real: --source synthetic is not real; pass --candles-dir or an exchange")
    if n_candles < 0:
        raise ValueError(f"--candles is {n_candles}; pass a positive number, or 0 for all there are")
    if n_candles == 0 and candles_dir is None:
        raise ValueError("--candles 0 takes all of a directory; for an exchange or synthetic candles say how many")


def _from_directory(
    symbols: Sequence[str], timeframe: str, n_candles: int, directory: Path, end_ms: int | None
) -> CandleSet:
    candles = {}
    for symbol in symbols:
        frame = drop_forming(store.read_directory(directory, symbol, timeframe), timeframe)
        if end_ms is not None:
            frame = frame[timestamps_ms(frame) + timeframe_ms(timeframe) <= end_ms]
        candles[symbol] = _newest(frame, n_candles, symbol, timeframe, str(directory), end_ms)
    return CandleSet(candles, timeframe, "directory", str(directory))


def _from_exchange(
    symbols: Sequence[str], timeframe: str, n_candles: int, name: str | None, end_ms: int | None
) -> CandleSet:
    """Each symbol, whole, from the first exchange that has it; every hop has its reason in the log.

    A symbol that no exchange has does not sink the others: a warning says who is missing.
    """
    candles: dict[str, pd.DataFrame] = {}
    venues: dict[str, str] = {}
    failures: dict[str, list[Exception]] = {symbol: [] for symbol in symbols}
    chain = (name,) if name else exchanges.EXCHANGE_CHAIN
    for candidate in chain:
        jobs = {s: exchanges.Job(s, timeframe, None, end_ms, n_candles) for s in symbols if s not in candles}
        found = exchanges.fetch_many(candidate, list(jobs.values())) if jobs else {}
        for symbol, job in jobs.items():
            answer = found[job]
            try:
                if isinstance(answer, Exception):
                    raise answer
                frame = _newest(answer, n_candles, symbol, timeframe, candidate, end_ms)
                candles[symbol] = read_candles(frame, timeframe, where=f"{symbol} from {candidate}")
                venues[symbol] = candidate
            except (exchanges.ExchangeError, ValueError) as error:
                failures[symbol].append(error)
        and_now = "; trying the next exchange" if candidate != chain[-1] else ""
        for reason in dict.fromkeys(
            str(failures[symbol][-1]).split(";")[0] for symbol in jobs if symbol not in candles
        ):
            logger.info("%s%s", reason, and_now)
    if not candles:
        reasons = {str(error): error for errors in failures.values() for error in errors}
        # A ValueError is an exchange's answer: it lacks the symbol or sends nonsense. No reason for synthetic candles.
        answered = any(isinstance(error, ValueError) for error in reasons.values())
        raise (ValueError if answered else exchanges.ExchangeError)("; ".join(reasons))
    missing = [symbol for symbol in symbols if symbol not in candles]
    if missing:
        logger.warning("%d of %d symbols are missing, no exchange has them: %s", len(missing), len(symbols),
                       ", ".join(missing))  # fmt: skip
    in_order = {symbol: candles[symbol] for symbol in symbols if symbol in candles}
    return CandleSet(in_order, timeframe, "exchange", ", ".join(dict.fromkeys(venues.values())), venues)


def _newest(
    frame: pd.DataFrame, n_candles: int, symbol: str, timeframe: str, venue: str, end_ms: int | None
) -> pd.DataFrame:
    """The last `n_candles` rows (0: all); fewer are a warning, none are a ValueError."""
    if len(frame) == 0:
        by = "" if end_ms is None else f" that close by {pd.Timestamp(end_ms, unit='ms')}"
        raise ValueError(f"{symbol}: no {timeframe} candles{by} from {venue}; choose another source or symbol")
    if len(frame) < n_candles:
        logger.warning("%s: %d candles from %s, %d asked for", symbol, len(frame), venue, n_candles)
    return frame.iloc[-n_candles:].reset_index(drop=True)
