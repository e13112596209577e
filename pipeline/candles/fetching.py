"""Candles of several symbols from the one source that settings name, or the first that works."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from config import TRADING_PAIRS, SourceConfig
from pipeline.candles import exchanges, store, synthetic
from pipeline.candles.candle_set import CandleSet, at_hand, fetch_dataset, read_directory
from pipeline.candles.exchanges import Job
from pipeline.candles.schema import timeframe_ms

logger = logging.getLogger(__name__)

SYNTHETIC_BANNER = """
  ┌──────────────────────────────────────────────────────────────────────────┐
  │  SYNTHETIC CANDLES, made by a generator: no market ever traded them.     │
  │  Nothing below says anything about a real market. No claim is made.      │
  │  Real candles: --candles-dir DIR, or a network. Insist: --require-real.  │
  └──────────────────────────────────────────────────────────────────────────┘
"""

SOURCES = ("auto", "directory", "exchange", "synthetic")


def expand_symbols(symbols: Sequence[str]) -> tuple[str, ...]:
    """Upper-case pairs without repetition; `all` becomes the 22 of `config.TRADING_PAIRS`.

    Raises:
        ValueError: A symbol is not written as BASE/QUOTE, there is none, or a bare string is
            passed.
    """
    if isinstance(symbols, str):
        raise ValueError(f"symbols is the string {symbols!r}; pass a list, such as [{symbols!r}]")
    wanted = (
        TRADING_PAIRS
        if [s.lower() for s in symbols] == ["all"]
        else tuple(s.upper() for s in symbols)
    )
    for symbol in wanted:
        if not re.fullmatch(r"[^\s/:]+/[^\s/:]+(:[^\s/:]+)?", symbol):
            raise ValueError(
                f"unknown symbol {symbol!r}; write pairs as BTC/USDT, or `all` for the house list"
            )
    files = [store.file_name(symbol, "") for symbol in dict.fromkeys(wanted)]
    twice = next(
        (symbol for symbol in wanted if files.count(store.file_name(symbol, "")) > 1), None
    )
    if twice is not None:
        raise ValueError(
            f"{twice} and another of {', '.join(wanted)} share one file of candles; name the pair "
            "once"
        )
    if not wanted:
        raise ValueError("no symbols; pass --symbols BTC/USDT, or `all` for the house list")
    return tuple(dict.fromkeys(wanted))


def fetch_candles(
    symbols: Sequence[str],
    timeframe: str,
    n_candles: int = 0,
    source: SourceConfig = SourceConfig(cache_dir=None),
    *,
    since_ms: int | None = None,
    end_ms: int | None = None,
    published: Sequence[str] = (),
) -> CandleSet:
    """Fetch the newest candles of every symbol from the first source that works.

    `auto` takes the directory if one is given, else the exchange chain, else synthetic candles
    under a banner.

    Args:
        symbols: Pairs such as BTC/USDT, or `all` for the house list; of a directory, for those of
            it that are there.
        timeframe: Length of a candle.
        n_candles: Candles wanted per symbol, warm-up included; 0 takes all a directory has, or all
            from `since_ms` on.
        source: Where candles come from, and where fetched ones are kept; by default from an
            exchange, and nowhere.
        since_ms: Only candles that open at or after this instant, epoch ms.
        end_ms: Only candles that close at or before this instant, epoch ms; None for the newest.
        published: Of `store.PUBLISHED`, what to fetch along from futures exchanges and join as of
            publication.

    Raises:
        ValueError: Contradicting options, an unknown symbol or timeframe, an unsound file,
            exchanges that answer but have no such candles.
        exchanges.ExchangeError: Real candles are required and no exchange can be reached.
    """
    step_ms = timeframe_ms(timeframe)
    is_all = [symbol.lower() for symbol in symbols] == ["all"]
    symbols = expand_symbols(symbols)
    _check_options(n_candles, source, since_ms)
    first_ms = 0 if since_ms is None else since_ms
    jobs = [
        Job(s, timeframe, None if n_candles else first_ms, end_ms, n_candles or None)
        for s in symbols
    ]
    if source.candles_dir is not None:
        directory = Path(source.candles_dir)  # a notebook may say it as text
        return read_directory(at_hand(jobs, directory) if is_all else jobs, directory)
    if source.source in ("exchange", "auto"):
        try:
            return fetch_dataset(jobs, source, published)
        except exchanges.ExchangeError:
            if source.source == "exchange" or source.require_real:
                raise
            logger.warning("no exchange delivered candles")
    logger.warning("%s", SYNTHETIC_BANNER)
    end = int(time.time() * 1000) if end_ms is None else end_ms
    n_candles = n_candles or (end - first_ms) // step_ms
    market = synthetic.synthetic_market(
        symbols, timeframe, n_candles, seed=source.seed, end=pd.Timestamp(end, unit="ms")
    )
    return CandleSet(market, timeframe, "synthetic", f"seed {source.seed}")


def _check_options(n_candles: int, source: SourceConfig, since_ms: int | None) -> None:
    """Raise on options that contradict each other, rather than ignore one of them."""
    name, candles_dir, exchange = source.source, source.candles_dir, source.exchange
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}; use one of {', '.join(SOURCES)}")
    if name == "directory" and candles_dir is None:
        raise ValueError("--source directory needs --candles-dir DIR")
    if name in ("exchange", "synthetic") and candles_dir is not None:
        raise ValueError(
            f"--source {name} does not read --candles-dir {candles_dir}; leave one of the two out"
        )
    if name in ("directory", "synthetic") and exchange is not None:
        raise ValueError(
            f"--source {name} does not ask --exchange {exchange}; leave one of the two out"
        )
    if name == "synthetic" and source.require_real:
        raise ValueError(
            "--require-real: --source synthetic is not real; pass --candles-dir or an exchange"
        )
    if n_candles < 0:
        raise ValueError(
            f"--candles is {n_candles}; pass a positive number, or 0 for all there are"
        )
    if n_candles and since_ms is not None:
        raise ValueError(
            f"{n_candles} candles from an instant on; give either the number or the instant"
        )
    if n_candles == 0 and candles_dir is None and since_ms is None:
        raise ValueError(
            "--candles 0 takes all of a directory; for an exchange or synthetic candles say how "
            "many"
        )
