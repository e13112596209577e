"""Reading of the files and folders that people have.

A folder holds `<SYMBOL>_<timeframe>.parquet` or `.csv`, with `<SYMBOL>_funding.*` and
`<SYMBOL>_open_interest.*` beside them. The folders that `pipeline.candles.store` keeps are such.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from config import TRADING_PAIRS
from pipeline.candles import store
from pipeline.candles.schema import PUBLISHED, check_published, join_published, read_candles

QUOTES = tuple("USDT USDC FDUSD BUSD TUSD DAI USD EUR GBP JPY KRW TRY BRL BTC ETH BNB".split())
"""Currencies that a file's name may end with, behind the coin's."""
KNOWN_COINS = frozenset({"XBT", *(pair.partition("/")[0] for pair in TRADING_PAIRS)})


def read_file(path: Path, timeframe: str) -> pd.DataFrame:
    """Candles of one file, with the funding and open interest that lie beside it.

    These are joined where the file is named as the layout says and has no such column itself.
    `attrs` of the frame say its "symbol" and "exchange", None where the file does not tell.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read or is not sound.
    """
    candles = read_candles(store.read_table(path), timeframe, where=path.name)
    symbol = path.stem.removesuffix(f"_{timeframe}")
    for kind, column in PUBLISHED.items() if symbol != path.stem else ():
        beside = store.find_file(path.parent, symbol, kind)
        if beside is not None and column not in candles.columns:
            published = check_published(store.read_table(beside), column, beside.name)
            candles = join_published(candles, published, column, timeframe)
    notes = store.read_notes(path)
    candles.attrs = {"symbol": notes.get("symbol") or pair_in_name(symbol)}
    candles.attrs["exchange"] = notes.get("venue")
    return candles


def pair_in_name(name: str) -> str | None:
    """The pair that a file is called by, where its quote currency is one of `QUOTES`.

    Of XBTUSD's two readings, XBT/USD and XB/TUSD, that of a known coin counts.

    Example:
        >>> pair_in_name("ETHBTC"), pair_in_name("SOL-USDT"), pair_in_name("candles")
        ('ETH/BTC', 'SOL/USDT', None)
    """
    pairs = []
    for quote in QUOTES:
        if found := re.fullmatch(rf"([A-Z0-9]{{2,12}})[-_]?{quote}", name):
            pairs.append(f"{found[1]}/{quote}")
    of_known = [pair for pair in pairs if pair.partition("/")[0] in KNOWN_COINS]
    chosen = of_known or pairs
    return chosen[0] if len(chosen) == 1 else None


def read_directory(directory: Path, symbol: str, timeframe: str) -> pd.DataFrame:
    """Candles of one symbol with the funding and open interest beside them.

    Raises:
        ValueError: No such directory or file (the names at hand are listed), or a file is not
            sound.
    """
    return read_file(demand_files(directory, [symbol], timeframe)[0], timeframe)


def demand_files(directory: Path, symbols: Sequence[str], timeframe: str) -> list[Path]:
    """Path of each symbol's candles.

    Raises:
        ValueError: Some symbols have none; names them all, and what is there.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory of candles; mend --candles-dir")
    paths = {symbol: store.find_file(directory, symbol, timeframe) for symbol in symbols}
    lacking = [symbol for symbol, path in paths.items() if path is None]
    if not lacking:
        return [path for path in paths.values() if path is not None]
    first = store.file_name(lacking[0], "", "")
    files = [path for path in directory.iterdir() if path.suffix in (".parquet", ".csv")]
    stems = {path.stem for path in files if not path.stem.endswith(".tail")}
    at_hand = sorted(stems, key=lambda stem: (not stem.startswith(first), stem))  # its own first
    shown = ", ".join(at_hand[:12]) or "no candles"
    if len(at_hand) > 12:
        shown += f" and {len(at_hand) - 12} more"
    and_so_on = "" if len(lacking) == 1 else ", and so on,"
    raise ValueError(
        f"{', '.join(lacking)}: no {first}{timeframe}.parquet or {first}{timeframe}.csv{and_so_on} "
        f"in {directory}; it holds {shown}"
    )
