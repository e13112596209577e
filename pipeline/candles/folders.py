"""What the files of a folder are called, and so which series they hold: names of any spelling.

`BTCUSDT_1h.parquet` is the store's own. freqtrade writes `BTC_USDT-1h.feather`, Binance's archive
`BTCUSDT-1h-2024-12.zip`, CryptoDataDownload `Binance_BTCUSDT_1h.csv`, Kraken `XBTUSD_60.csv`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.candles import store, text_tables
from pipeline.candles.pairs import QUOTES, coin_of, pair_of
from pipeline.candles.schema import DAY_MS, PUBLISHED, TIMEFRAME_MS, canonical_timeframe

DATE = re.compile(r"[-_. ](20\d{2})(?:[-_. ]?(\d{2})(?:[-_. ]?(\d{2}))?)?$")
"""Year, month and day at the end of a name"""

MEANINGLESS = frozenset("futures spot ohlcv candles klines kline data history swap perp".split())

KINDS = {"funding": "funding", "fundingrate": "funding", "openinterest": "open_interest"}


@dataclass(frozen=True)
class Name:
    """What a file's name says."""

    symbol: str | None
    """pair, such as BTC/USDT"""
    kind: str
    """timeframe, funding, open_interest, or "" where it does not tell"""
    part: str
    """the year, month or day that it holds; "" where it holds a whole series"""


def name_of(path: Path) -> Name:
    """What the name of a file tells.

    Example:
        >>> name_of(Path("BTCUSDT-1h-2024-12.zip"))
        Name(symbol='BTC/USDT', kind='1h', part='2024-12')
        >>> name_of(Path("XBTUSD_60.csv")), name_of(Path("notes.txt"))
        (Name(symbol='BTC/USD', kind='1h', part=''), Name(symbol=None, kind='', part=''))
    """
    stem = path.name
    while Path(stem).suffix.lower() in (*text_tables.SUFFIXES, *text_tables.PACKED):
        stem = stem[: -len(Path(stem).suffix)]
    part = ""
    if found := DATE.search(stem):
        part = "-".join(text for text in found.groups() if text)
        stem = stem[: found.start()]
    tokens = [token for token in re.split(r"[_\-,\s]+", stem) if token]
    tokens = [token for token in tokens if token.lower() not in MEANINGLESS]
    if len(tokens) > 1 and "".join(tokens[-2:]).lower() in KINDS:
        tokens[-2:] = ["".join(tokens[-2:])]
    kind = _kind_of(tokens[-1]) if tokens else ""
    tokens = tokens[:-1] if kind else tokens
    if len(tokens) > 1 and re.fullmatch(r"20\d{2}", tokens[-1]):
        part = tokens.pop()
    return Name(_symbol_of(tokens), kind, part)


def _kind_of(token: str) -> str:
    if token.lower() in KINDS:
        return KINDS[token.lower()]
    try:
        return canonical_timeframe(token) if not token.startswith("0") else ""
    except ValueError:
        return ""


def _symbol_of(tokens: list[str]) -> str | None:
    """The pair at the end of a name's parts, before which an exchange may be named."""
    words = [coin_of(token) for token in tokens]
    if len(words) > 2 and words[-1] == words[-2] and words[-1] in QUOTES:
        return f"{words[-3]}/{words[-2]}:{words[-1]}"
    if len(words) > 1 and words[-1] in QUOTES and words[-2].isalnum():
        return f"{words[-2]}/{words[-1]}"
    return pair_of(tokens[-1]) if tokens else None


def find_files(directory: Path, symbol: str, kind: str) -> list[Path]:
    """The files of a series: one, or its parts of months and days; none if the folder lacks it.

    The store's own name counts before others.

    Raises:
        ValueError: Unknown kind, or two files may hold it.
    """
    own = store.find_file(directory, symbol, kind)
    if own is not None:
        return [own]
    kind = kind if kind in PUBLISHED else canonical_timeframe(kind)
    wanted = pair_of(symbol) or symbol
    found = [path for path, name in _names(directory) if name.kind == kind and name.symbol]
    exact = [path for path in found if name_of(path).symbol == wanted]
    chosen = exact or [path for path in found if _spot(name_of(path).symbol) == _spot(wanted)]
    whole = [path for path in chosen if not name_of(path).part]
    if not whole:
        return chosen
    stems = {path.name.split(".")[0] for path in whole}
    if len(stems) > 1:
        raise ValueError(
            f"{directory}: {' and '.join(path.name for path in whole[:3])} may all be the {kind} "
            f"series of {symbol}; which one is wanted? call it {store.file_name(symbol, kind, '')}"
            f"{whole[0].suffix}"
        )
    endings = (*text_tables.SUFFIXES, *text_tables.PACKED)
    return [min(whole, key=lambda path: endings.index(text_tables.suffix_of(path)))]


def _spot(symbol: str | None) -> str:
    return (symbol or "").partition(":")[0]


def _names(directory: Path) -> list[tuple[Path, Name]]:
    """The tables of a folder in the order of their names, but for the store's second files."""
    if not directory.is_dir():
        return []
    paths = sorted(path for path in directory.iterdir() if text_tables.is_table(path))
    return [
        (path, name_of(path))
        for path in paths
        if not path.name.startswith(".") and not path.name.endswith(".tail.parquet")
    ]


def find_finer(directory: Path, symbol: str, timeframe: str) -> str | None:
    """The longest shorter timeframe of which a folder has the pair, and that fits into this one."""
    step_ms = TIMEFRAME_MS.get(timeframe, DAY_MS)  # a month is made of days
    shorter = [name for name, ms in TIMEFRAME_MS.items() if ms < step_ms and step_ms % ms == 0]
    shorter += ["1d"] if timeframe not in TIMEFRAME_MS else []
    for name in reversed(shorter):
        if find_files(directory, symbol, name):
            return name
    return None


def has_series(directory: Path, symbol: str, timeframe: str) -> bool:
    """Whether a folder has a pair's candles, of this timeframe or of a shorter one."""
    if find_files(directory, symbol, timeframe):
        return True
    return find_finer(directory, symbol, timeframe) is not None


def symbols_in(directory: Path, symbols: Iterable[str], timeframe: str) -> list[str]:
    """Those of the pairs whose candles a folder has."""
    return [symbol for symbol in symbols if has_series(directory, symbol, timeframe)]


def list_series(directory: Path) -> list[store.Series]:
    """The series of a folder by name, however it is spelt; of one in parts the first file.

    Raises:
        ValueError: There is no such folder.
    """
    found = {(series.symbol, series.kind): series for series in store.list_series(directory)}
    names = {store.file_name(series.symbol, series.kind, "") for series in found.values()}
    for path, name in _names(directory):
        if name.symbol and name.kind and store.file_name(name.symbol, name.kind, "") not in names:
            names.add(store.file_name(name.symbol, name.kind, ""))
            found[name.symbol, name.kind] = store.Series(path, name.symbol, name.kind, None)
    return sorted(found.values(), key=lambda series: series.path)


def list_unknown(directory: Path) -> list[str]:
    """Names of the files that are tables, but whose names tell no pair or no timeframe."""
    known = {series.path for series in store.list_series(directory)}
    return [
        path.name
        for path, name in _names(directory)
        if path not in known and not (name.symbol and name.kind)
    ]
