"""The candles that anyone's forecasts are of: of which pairs, from where, and how far back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from config import SourceConfig
from pipeline.candles import folders, formats
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.pairs import base_and_quote, pair_of
from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.forecasts.foreign import ForeignForecasts
from pipeline.forecasts.reference import HISTORY

WALKED = 10_000
"""Candles that an exchange is asked for, where a model is walked and nothing else tells"""


def gather_candles(
    given: Any,
    read: Sequence[ForeignForecasts],
    timeframe: str,
    source: SourceConfig,
    *,
    symbols: Sequence[str] = (),
    n_candles: int | None = None,
) -> CandleSet:
    """The candles of the pairs that are forecast, with those before, which baselines learn from.

    Args:
        given: Pair -> frame of candles, one frame, or a `CandleSet`, where the candles are in
            memory; else None or a folder, which `source` names.
        read: The forecasts that are read already; none where a model is only walked.
        timeframe: Length of a candle.
        source: Where candles come from that are not in memory.
        symbols: Pairs, where no row of the forecasts names one.
        n_candles: Last candles of each pair that are looked at; None for all, 10,000 of an
            exchange where a model is walked.

    Raises:
        ValueError: Nothing names a pair, or there are no candles of the pairs.
    """
    in_memory = given if source.candles_dir is None else None
    named = [pair for one in read for pair in one.frame["symbol"].unique() if pair]
    pairs = list(dict.fromkeys(named)) or [pair_of(name) or name for name in symbols]
    if in_memory is not None:
        market = _from_memory(in_memory, timeframe, pairs)
    elif source.candles_dir is not None:
        market = _from_folder(timeframe, pairs, source)
    else:
        market = _from_exchange(read, timeframe, pairs, source, n_candles or WALKED)
    if n_candles is None:
        return market
    last = {
        pair: frame.tail(n_candles).reset_index(drop=True) for pair, frame in market.candles.items()
    }
    return replace(market, candles=last)


def pair_questions(given: Any, read: Sequence[ForeignForecasts], source: SourceConfig) -> list[str]:
    """A question of each file with names that are neither pairs nor what candles are called.

    Args:
        given: See `gather_candles`, as are the others.
    """
    in_memory = given if source.candles_dir is None else None
    there: list[str] = []
    if source.candles_dir is not None:
        there = [one.symbol for one in folders.list_series(source.candles_dir)]
    elif isinstance(in_memory, CandleSet):
        there = list(in_memory.candles)
    elif isinstance(in_memory, Mapping) and "close" not in in_memory:
        there = list(in_memory)
    elif in_memory is not None:
        return []  # one frame is of the one name that there is
    asked = []
    for one in read:
        names = [name for name in one.frame["symbol"].unique() if name and name not in there]
        if wrong := [name for name in names if pair_of(name) is None][:5]:
            of = f"; the candles are of {', '.join(dict.fromkeys(there))}" if there else ""
            remedy = " ".join(f"{name}=PAIR" for name in wrong)
            asked.append(
                f"{one.name}: {', '.join(map(repr, wrong))} in column {one.symbol_column!r} is no "
                f"pair{of}; which is it? pass --pairs {remedy}, PAIR being such as BTC/USDT"
            )
    return asked


def _from_memory(given: Any, timeframe: str, pairs: Sequence[str]) -> CandleSet:
    """Candles that a notebook holds: pair -> frame, or one frame."""
    if isinstance(given, CandleSet):
        chosen = {pair: frame for pair, frame in given.candles.items() if pair in pairs}
        return replace(given, candles=chosen or given.candles)
    if not isinstance(given, Mapping) or "close" in given:
        if len(pairs) > 1:
            raise ValueError(
                f"one frame of candles for forecasts of {', '.join(pairs)}; pass pair -> frame"
            )
        name = pairs[0] if pairs else getattr(given, "attrs", {}).get("symbol") or "candles"
        given = {name: given}
    frames = {
        pair: formats.load(frame, timeframe, where=pair)
        for pair, frame in given.items()
        if not pairs or pair in pairs
    }
    for pair, frame in frames.items():
        frame.attrs = {**getattr(given[pair], "attrs", {}), **frame.attrs, "symbol": pair}
    if not frames:
        _demand_currency(pairs, list(map(str, given)))
        raise ValueError(
            f"no candles of {', '.join(pairs)} among {', '.join(map(str, given))}; pass them"
        )
    return CandleSet(frames, timeframe, "memory", "frames")


def _from_folder(timeframe: str, pairs: Sequence[str], source: SourceConfig) -> CandleSet:
    """Candles as they lie in the folder; those of all pairs there, where none is named."""
    assert source.candles_dir is not None
    if not pairs:
        there = folders.list_series(source.candles_dir)
        pairs = [one.symbol for one in there if one.kind == timeframe]
    found = folders.symbols_in(source.candles_dir, pairs, timeframe)
    if not found:
        _demand_currency(pairs, [one.symbol for one in folders.list_series(source.candles_dir)])
    return fetch_candles(found or pairs, timeframe, source=source)


def _demand_currency(pairs: Sequence[str], there: Sequence[str]) -> None:
    """Raise where all candles of the coins that are forecast are in other currencies."""
    of_coin = {base_and_quote(name)[0]: pair_of(name) or name for name in there}
    other = {pair: of_coin.get(base_and_quote(pair)[0]) for pair in pairs}
    known = {pair: found for pair, found in other.items() if found and found != pair}
    if len(known) == len(pairs):
        remedy = " ".join(f"{pair}={found}" for pair, found in list(known.items())[:5])
        raise ValueError(
            f"there are no candles of {', '.join(known)}, but of {', '.join(known.values())}; are "
            f"the forecasts meant for these? pass --pairs {remedy}"
        )


def _from_exchange(
    read: Sequence[ForeignForecasts],
    timeframe: str,
    pairs: Sequence[str],
    source: SourceConfig,
    n_candles: int,
) -> CandleSet:
    """Candles from before the first forecast on, or as many as a model is walked over."""
    if not pairs:
        raise ValueError("nothing names a pair; pass --symbols, such as BTC/USDT")
    if not read:
        return fetch_candles(pairs, timeframe, n_candles, source)
    first_ms = min(int(timestamps_ms(one.frame).min()) for one in read)
    since_ms = first_ms - (HISTORY + 1000) * timeframe_ms(timeframe)
    return fetch_candles(pairs, timeframe, source=source, since_ms=since_ms)
