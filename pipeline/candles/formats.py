"""Any candles that people have, read into the schema: what is sure is read, what is not is asked.

`load` takes a file, a frame, rows or columns. What a careful person would recognise without doubt
is read and told in one line. Where there is a doubt one error asks the question that decides it.
A frame that is in the schema passes as it is. `pipeline.candles.schema` then checks what was read.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.candles import folders, store, tables, text_tables
from pipeline.candles.columns import TIMES, plain_name
from pipeline.candles.instants import Instants, as_times, read_instants
from pipeline.candles.recognise import (
    Reading,
    Tell,
    checked,
    from_table,
    in_order,
    question,
    read_as_it_is,
    read_rows,
)
from pipeline.candles.schema import (
    ACTIVITY_COLUMNS,
    DAY_MS,
    MONTH,
    PUBLISHED,
    canonical_timeframe,
    check_published,
    drop_forming,
    join_published,
    read_candles,
    timeframe_ms,
    timestamps_ms,
)
from pipeline.candles.text_tables import DoubtfulError, Table

logger = logging.getLogger(__name__)

PUBLISHED_TIMES = TIMES | {"calctime", "fundingtime", "fundingratetimestamp", "createtime"}
PUBLISHED_VALUES = {
    "funding_rate": {"fundingrate", "lastfundingrate", "rate"},
    "open_interest": {"openinterest", "sumopeninterest", "openinterestamount"},
}
"""Names, as `plain_name` writes them, of the columns of a published series"""


def load(
    what: object,
    timeframe: str | None = None,
    *,
    timezone: str | None = None,
    symbol: str | None = None,
    where: str | None = None,
    tell: Tell = logger.warning,
) -> pd.DataFrame:
    """Read candles of one pair, whatever they are in.

    Args:
        what: Path of a file; a frame of any library; rows, as ccxt gives them; or columns by name.
        timeframe: Length of a candle, such as "1h"; None accepts any.
        timezone: Zone of times that name none, such as "Europe/Berlin"; None for UTC.
        symbol: The pair, such as "BTC/USDT", where the candles do not tell; a file's name does.
        where: What to call the candles in errors; a file by its name.
        tell: Called with the line that says what was left out or mended; how they were read alone
            is logged.

    Returns:
        New frame in the schema, with what has closed. Its `attrs` say "symbol", where it is known,
        and "read_as", where there is something to tell.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The candles are unsound, or it is not sure what they are; the text asks.
    """
    if isinstance(what, (str, os.PathLike)):
        path = Path(what)
        where = where or path.name
        table = tables.read_table(path)
        symbol = symbol or store.read_notes(path).get("symbol") or pair_of_file(path)
    else:
        where = where or "candles"
        table = _named(tables.as_table, where)(what)
    candles = from_table(table, timeframe, where, timezone=timezone, symbol=symbol, tell=tell)
    return _closed(candles, timeframe, where, tell)


def _named(function: Callable[[object], Table], where: str) -> Callable[[object], Table]:
    """The function, whose errors say where."""

    @functools.wraps(function)
    def named(what: object) -> Table:
        try:
            return function(what)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    return named


def _closed(candles: pd.DataFrame, timeframe: str | None, where: str, tell: Tell) -> pd.DataFrame:
    """The candles that have closed, with a notice of the others."""
    if timeframe is None or canonical_timeframe(timeframe) == MONTH:
        return candles
    closed = drop_forming(candles, timeframe)
    if len(closed) < len(candles):
        tell(f"{where}: {len(candles) - len(closed)} candle(s) that have not closed are left out")
        closed = closed.reset_index(drop=True)
        closed.attrs = candles.attrs
    return closed


def recognise(
    what: object, timeframe: str | None, *, where: str = "candles", tell: Tell = logger.warning
) -> pd.DataFrame:
    """`load` of what is in memory, with the forming candle and the frame's own `attrs`."""
    candles = read_as_it_is(what, timeframe, where)
    if candles is not None:
        return candles
    table = _named(tables.as_table, where)(what)
    candles = from_table(table, timeframe, where, tell=tell)
    candles.attrs = {**getattr(what, "attrs", {}), **candles.attrs}
    return candles


# --- files beside one another


def read_file(
    path: Path, timeframe: str, *, timezone: str | None = None, tell: Tell = logger.warning
) -> pd.DataFrame:
    """Candles of one file, with the funding and open interest that lie beside it.

    These are joined where the file is named as the layout says and has no such column itself.
    `attrs` of the frame say its "symbol" and "exchange", None where the file does not tell.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read or is not sound.
    """
    return _read_files([path], canonical_timeframe(timeframe), timezone=timezone, tell=tell)


def read_directory(
    directory: Path,
    symbol: str,
    timeframe: str,
    *,
    timezone: str | None = None,
    tell: Tell = logger.warning,
) -> pd.DataFrame:
    """Candles of one symbol with the funding and open interest beside them.

    Files of months and days are joined. Where the folder lacks the timeframe, the candles are made
    of those of a shorter one, with a notice.

    Raises:
        ValueError: No such directory or file (the names at hand are listed), or a file is not
            sound.
    """
    timeframe = canonical_timeframe(timeframe)
    paths = demand_files(directory, [symbol], timeframe)[symbol]
    read_as = folders.name_of(paths[0]).kind
    is_own = paths[0].stem == store.file_name(symbol, timeframe, "")
    if is_own or read_as == timeframe:
        return _read_files(paths, timeframe, timezone=timezone, tell=tell)
    finer = read_parts(paths, read_as, timezone=timezone, tell=tell)
    candles, n_partial = resample(finer, read_as, timeframe)
    if len(candles) == 0:
        raise ValueError(
            f"{symbol}: no {timeframe} candles in {directory}, and the {len(finer):,} of {read_as} "
            "hold no whole one; fetch more"
        )
    some = f", {n_partial:,} of them of fewer rows" if n_partial else ""
    tell(
        f"{symbol}: no {timeframe} candles in {directory}, so {len(candles):,} are made of those "
        f"of {read_as}{some}"
    )
    read_candles(candles, timeframe, where=symbol)
    return _with_published(candles, paths[0], timeframe, finer.attrs)


def demand_files(directory: Path, symbols: Sequence[str], timeframe: str) -> dict[str, list[Path]]:
    """Files of each symbol's candles, of this timeframe or of one that they can be made of.

    Raises:
        ValueError: Some symbols have none; names them all, and what is there.
    """
    if not directory.is_dir():
        raise ValueError(f"{directory}: there is no such directory of candles; mend --candles-dir")
    paths: dict[str, list[Path]] = {}
    for symbol in symbols:
        paths[symbol] = folders.find_files(directory, symbol, timeframe)
        if not paths[symbol]:
            finer = folders.find_finer(directory, symbol, timeframe)
            paths[symbol] = folders.find_files(directory, symbol, finer) if finer else []
    lacking = [symbol for symbol in symbols if not paths[symbol]]
    if not lacking:
        return paths
    first = store.file_name(lacking[0], "", "")
    files = [path for path in directory.iterdir() if text_tables.is_table(path)]
    stems = {path.name.split(".")[0] for path in files if not path.stem.endswith(".tail")}
    at_hand = sorted(stems, key=lambda stem: (not stem.startswith(first), stem))  # its own first
    shown = ", ".join(at_hand[:12]) or "no candles"
    if len(at_hand) > 12:
        shown += f" and {len(at_hand) - 12} more"
    and_so_on = "" if len(lacking) == 1 else ", and so on,"
    raise ValueError(
        f"{', '.join(lacking)}: no {first}{timeframe}.parquet or {first}{timeframe}.csv{and_so_on} "
        f"in {directory}; it holds {shown}"
    )


def _read_files(
    paths: Sequence[Path], timeframe: str, *, timezone: str | None, tell: Tell
) -> pd.DataFrame:
    """Candles of one series with what was published beside it."""
    candles = read_parts(paths, timeframe, timezone=timezone, tell=tell)
    return _with_published(candles, paths[0], timeframe, candles.attrs)


def read_parts(
    paths: Sequence[Path],
    timeframe: str | None,
    *,
    timezone: str | None = None,
    tell: Tell = logger.warning,
) -> pd.DataFrame:
    """Candles of one file, or of those of months and days put together."""
    first = paths[0]
    notes = store.read_notes(first)
    symbol = notes.get("symbol") or pair_of_file(first)
    if len(paths) == 1:
        candles = from_table(
            tables.read_table(first),
            timeframe,
            first.name,
            timezone=timezone,
            symbol=symbol,
            tell=tell,
        )
    else:
        candles = _join_parts(paths, timeframe, symbol, timezone, tell)
    candles.attrs = {"symbol": None, **candles.attrs, "exchange": notes.get("venue")}
    return candles


def _join_parts(
    paths: Sequence[Path],
    timeframe: str | None,
    symbol: str | None,
    timezone: str | None,
    tell: Tell,
) -> pd.DataFrame:
    """Candles of files of months and days, each time once."""
    reading = Reading(f"{paths[0].name} to {paths[-1].name}")
    parts: list[pd.DataFrame] = []
    kinds: dict[str, None] = {}
    for path in paths:
        of_part = Reading(path.name)
        table = tables.read_table(path)
        try:
            rows, symbol = read_rows(table.columns, table, timeframe, timezone, symbol, of_part)
        except DoubtfulError as doubt:
            raise question(doubt, path.name) from None
        kinds[", ".join([of_part.kind, *of_part.details])] = None
        reading.losses += [f"{path.name}: {loss}" for loss in of_part.losses]
        parts.append(rows.assign(timestamp=timestamps_ms(rows)))
    reading.kind = f"{len(paths)} files put together, {' and '.join(filter(None, kinds))}"
    together = pd.concat(parts, ignore_index=True)
    instants = Instants(together["timestamp"].to_numpy())
    try:
        rows = in_order(together, instants, reading)
    except DoubtfulError as doubt:
        raise question(doubt, reading.where) from None
    rows = rows.assign(timestamp=as_times(rows["timestamp"].to_numpy()))
    return checked(rows, timeframe, reading, symbol, tell)


def _with_published(
    candles: pd.DataFrame, path: Path, timeframe: str, attrs: Mapping[Hashable, object]
) -> pd.DataFrame:
    """Candles with what was published, where files beside theirs hold it."""
    symbol = folders.name_of(path).symbol
    if symbol is None and path.stem.endswith(f"_{timeframe}"):
        symbol = path.stem.removesuffix(f"_{timeframe}")
    if canonical_timeframe(timeframe) != MONTH and symbol is not None:
        for kind, column in PUBLISHED.items():
            if column not in candles.columns:
                published = read_beside(path.parent, symbol, kind)
                if published is not None:
                    candles = join_published(candles, published, column, timeframe)
    candles.attrs = dict(attrs)
    return candles


def read_beside(directory: Path, symbol: str, kind: str) -> pd.DataFrame | None:
    """A published series of a folder, whole, of one file or of several; None if it has none."""
    paths = folders.find_files(directory, symbol, kind)
    return read_series(paths, PUBLISHED[kind]) if paths else None


def read_series(paths: Sequence[Path], column: str) -> pd.DataFrame:
    """A published series of one file or of several."""
    rows = pd.concat([read_published(path, column) for path in paths])
    rows = rows.drop_duplicates().sort_values("timestamp", kind="stable", ignore_index=True)
    return check_published(rows, column, paths[0].name)


def resample(candles: pd.DataFrame, timeframe: str, longer: str) -> tuple[pd.DataFrame, int]:
    """Longer candles of shorter ones.

    Args:
        candles: In the schema.
        timeframe: Of these.
        longer: A multiple of it, or a month.

    Returns:
        The longer candles, and how many of them lack some of their rows. The first and the last
        one, of which the candles may hold a part alone, are there if their first and last rows are.
    """
    times, step_ms = timestamps_ms(candles), timeframe_ms(timeframe)
    opens, ends = _spans(times, longer)
    grouped = candles.groupby(opens)
    made = grouped.agg(
        open=("open", "first"),
        high=("high", "max"),
        low=("low", "min"),
        close=("close", "last"),
        volume=("volume", "sum"),
    )
    sizes = grouped.size().to_numpy()
    for name in (name for name in ACTIVITY_COLUMNS if name in candles.columns):
        is_known = grouped[name].count().to_numpy() == sizes
        made[name] = grouped[name].sum().where(is_known)
    starts = made.index.to_numpy()
    whole = np.unique(ends) - starts
    is_kept = np.ones(len(made), dtype=bool)
    is_kept[0] &= times[0] == starts[0]
    is_kept[-1] &= times[-1] + step_ms == ends[-1]
    n_partial = int((sizes * step_ms < whole)[is_kept].sum())
    made = made[is_kept].reset_index(drop=True)
    made.insert(0, "timestamp", as_times(starts[is_kept]))
    return made, n_partial


def _spans(times: np.ndarray, timeframe: str) -> tuple[np.ndarray, np.ndarray]:
    """Open and end of the longer candle that each time lies in, epoch ms; weeks begin on Monday."""
    if timeframe == MONTH:
        months = times.astype("datetime64[ms]").astype("datetime64[M]")
        in_ms = (months.astype("datetime64[ms]"), (months + 1).astype("datetime64[ms]"))
        return in_ms[0].astype(np.int64), in_ms[1].astype(np.int64)
    step_ms = timeframe_ms(timeframe)
    first_ms = 4 * DAY_MS if timeframe == "1w" else 0  # 1970-01-05 was a Monday
    opens = (times - first_ms) // step_ms * step_ms + first_ms
    return opens, opens + step_ms


def read_published(path: Path, column: str) -> pd.DataFrame:
    """A published series from a file of any spelling: `timestamp` and the column, in time order.

    Raises:
        ValueError: A column is missing, or the series is not sound.
    """
    table = tables.read_table(path).columns
    plain = {name: plain_name(name) for name in table.columns}
    times = [name for name in plain if plain[name] in PUBLISHED_TIMES]
    values = [name for name in plain if plain[name] in PUBLISHED_VALUES[column]]
    if not times and isinstance(table.index, pd.DatetimeIndex):
        table = table.rename_axis("timestamp").reset_index()
        times = ["timestamp"]
    if not times or not values:
        missing = column if times else "timestamp"
        raise ValueError(
            f"{path.name}: which column is {missing!r}? the columns are "
            f"{', '.join(repr(str(name)) for name in plain)}; call it so in the first line"
        )
    exact = [name for name in times if name == "timestamp"]
    name = (exact or times)[0]
    instants = read_instants(table[name], where=f"{path.name}, column {name!r}")
    rows = pd.DataFrame({"timestamp": instants.ms, column: table[values[0]].to_numpy()})
    rows = rows.drop_duplicates().sort_values("timestamp", kind="stable", ignore_index=True)
    rows["timestamp"] = as_times(rows["timestamp"].to_numpy())
    return check_published(rows, column, path.name)


def pair_of_file(path: Path) -> str | None:
    """The pair that a file is called by, where there is no doubt about it.

    Example:
        >>> pair_of_file(Path("ETHBTC_1h.csv")), pair_of_file(Path("candles.csv"))
        ('ETH/BTC', None)
    """
    return folders.name_of(path).symbol
