"""Anyone's forecasts beside the candles that they are of: what came true of each.

A forecast counts where the candle that it knew last and all those up to its target are there, and
where the last 48 returns give it a volatility. These are the rules of a training run
(`make_windows`), but for the history that a network looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timestamps_ms, utc_from_ms
from pipeline.evaluation.stamps import demand_alone, last_known
from pipeline.evaluation.units import said_by
from pipeline.forecasts.baselines import KNOWN_BASELINES
from pipeline.forecasts.conventions import QUANTILES, STAMPS
from pipeline.forecasts.foreign import ForeignForecasts
from pipeline.samples.windows import Samples, make_windows

SAME_PRICE = 1e-6
"""relative difference up to which a price of the forecasts' file is the candles' own"""
SAME_VOLATILITY = 1e-3
"""likewise of a volatility, which depends a little on where a history begins"""
MOST_CROSSED = 0.01
"""Share of rows whose quantiles are not in order, beyond which these are not scored"""
RESERVED = frozenset(
    (
        *("symbol", "timestamp", "base_price", "current_return", "actual_return", "volatility"),
        *("p_up", "q10", "q50", "q90", *KNOWN_BASELINES),
    )
)
"""Columns of a frame of predictions, which no model is called"""


@dataclass(frozen=True, eq=False)
class Matched:
    """One model's forecasts and what came true of them."""

    name: str
    kind: Literal["return", "direction"]
    """what is judged: errors of returns, or, where there are none, directions"""
    predictions: pd.DataFrame
    """the frame that `metrics` describes, in time order, with "current_return", "naive", the
    forecast under `name` and the quantiles and p_up that there are; of directions the forecast is
    one volatility in that direction, of p_up alone 2 p_up - 1 of them"""
    instants: pd.DataFrame
    """a row an instant that could be judged between a symbol's first and last forecast: symbol,
    timestamp, actual_return, volatility, is_there (whether there is a forecast), is_nan"""
    n_rows: int
    n_duplicates: int
    """rows that say once more what another one says"""
    first_duplicate: str = ""
    n_nan: int = 0
    n_without_candles: int = 0
    """rows at a gap, a halt, or where the history is too short for a volatility; those of a pair
    without any candles are noted instead"""
    n_open: int = 0
    """rows whose target has not closed"""
    n_contradicting: int = 0
    """rows whose direction is not that of their return"""
    n_crossed: int = 0
    """rows whose quantiles are not in order"""
    first_crossed: str = ""
    prices: pd.Series | None = None
    """prices that are forecast, where these are what is said, in the rows of `predictions`"""
    baselines: tuple[str, ...] = ()
    """columns of the run's own baselines, where they are the predictions of one"""
    notes: list[str] = field(default_factory=list)

    @property
    def said(self) -> pd.Series:
        """(n,) the forecasts, before they were shrunk where they were."""
        raw = f"{self.name}_raw"
        return self.predictions[raw if raw in self.predictions else self.name]


def named_apart(read: Sequence[ForeignForecasts]) -> list[ForeignForecasts]:
    """The same, of which no two are called alike, nor as a column that is ours."""
    taken = set(RESERVED)
    named = []
    for one in read:
        name, number = one.name, 1
        while name in taken:
            number += 1
            name = f"{one.name} {number}"
        taken.add(name)
        named.append(replace(one, name=name))
    return named


def make_targets(market: CandleSet, horizon: int) -> Samples:
    """Every instant of the candles that could be forecast, without any feature."""
    empty = {
        symbol: pd.DataFrame(index=range(len(frame))) for symbol, frame in market.candles.items()
    }
    return make_windows(empty, market.candles, market.timeframe, 1, horizon, 0)


def match(
    foreign: ForeignForecasts, market: CandleSet, targets: Samples, symbol: str | None = None
) -> Matched:
    """Put forecasts beside what came true.

    Args:
        foreign: The forecasts.
        market: The candles.
        targets: `make_targets` of them.
        symbol: The pair of forecasts that name none; by default that of the candles, if it is one.

    Raises:
        ValueError: It is not sure what the forecasts are, they contradict one another or the
            candles, or none can be judged.
    """
    if foreign.is_run:
        return _match_run(foreign, market, targets)
    rows = _named(foreign, market, symbol)
    rows, when, notes = last_known(foreign, rows, targets)
    notes += foreign.notes
    is_missing = ~rows["symbol"].isin(list(market.candles)).to_numpy()
    notes += [
        f"{n:,} rows of {pair} are not judged: no candles of {pair} in {market.venue}"
        for pair, n in rows["symbol"][is_missing].value_counts().items()
    ]
    sample = _places(rows, when, targets)
    n_open = _count_open(rows, when, market, targets)
    known = sample >= 0
    _demand_some(foreign, rows, when, known, market)
    _demand_actual(foreign, rows[known], sample[known], targets)
    rows, when, sample = rows[known], when[known], sample[known]
    rows, sample, n_duplicates, first_duplicate = _without_duplicates(foreign, rows, sample)
    said = said_by(foreign, rows, sample, targets)
    kind: Literal["return", "direction"] = "return" if "forecast" in said else "direction"
    main = said["forecast"] if kind == "return" else said["direction"]
    if kind == "return":
        demand_alone(foreign, main, sample, targets)
    is_nan = ~np.isfinite(main)
    if is_nan.all():
        raise ValueError(f"{foreign.name}: none of its {len(is_nan):,} forecasts is a number")

    # In the order of time, and at one instant of the symbols: (n_kept,) rows.
    kept = np.flatnonzero(~is_nan)
    kept = kept[np.lexsort((targets.symbol[sample[kept]], targets.time[sample[kept]]))]
    of, said = sample[kept], {name: values[kept] for name, values in said.items()}
    predictions = _outcomes(targets, of)
    predictions["naive"] = 0.0
    is_return = kind == "return"
    predictions[foreign.name] = main[kept] * (1.0 if is_return else predictions["volatility"])
    n_contradicting = _count_contradicting(said) if is_return else 0
    n_crossed, first_crossed = _find_crossed(said, predictions)
    if set(QUANTILES) <= set(said) and n_crossed <= MOST_CROSSED * len(kept):
        predictions = predictions.assign(**{name: said[name] for name in QUANTILES})
    if "p_up" in said:
        if n_missing := int(np.isnan(said["p_up"]).sum()):
            notes.append(
                f"p_up is not scored: {n_missing:,} of {len(kept):,} forecasts have none; leave "
                "these rows out to score the others"
            )
        else:
            predictions["p_up"] = said["p_up"]
    return Matched(
        name=foreign.name,
        kind=kind,
        predictions=predictions,
        instants=_instants(targets, sample, of),
        n_rows=len(foreign.frame),
        n_duplicates=n_duplicates,
        first_duplicate=first_duplicate,
        n_nan=int(is_nan.sum()),
        n_without_candles=int((~known & ~is_missing).sum()) - n_open,
        n_open=n_open,
        n_contradicting=n_contradicting,
        n_crossed=n_crossed,
        first_crossed=first_crossed,
        prices=pd.Series(said["price"]) if "price" in said else None,
        notes=notes,
    )


def _outcomes(targets: Samples, of: np.ndarray) -> pd.DataFrame:
    """What was known at each of these samples, and what came true."""
    columns = {
        "symbol": np.array(targets.symbols, dtype=object)[targets.symbol[of]],
        "timestamp": utc_from_ms(targets.row_ms[targets.end[of]]),
        "base_price": targets.base_price[of],
        "current_return": targets.current_return[of],
        "actual_return": targets.log_return[of],
        "volatility": targets.volatility[of],
    }
    return pd.DataFrame(columns)


def _count_contradicting(said: Mapping[str, np.ndarray]) -> int:
    """How many directions are not those of their returns."""
    if "direction" not in said:
        return 0
    called, sign = said["direction"], np.sign(said["forecast"])
    return int(((called != sign) & (called != 0) & (sign != 0)).sum())


def _find_crossed(said: Mapping[str, np.ndarray], rows: pd.DataFrame) -> tuple[int, str]:
    """How many rows have quantiles that are not in order, and the first one in words."""
    if not set(QUANTILES) <= set(said):
        return 0, ""
    low, middle, high = (said[name] for name in QUANTILES)
    crossed = (low > middle) | (middle > high)  # none where one is missing
    if not crossed.any():
        return 0, ""
    row = int(np.argmax(crossed))
    first = rows.iloc[row]
    told = f"{low[row]:.3g}, {middle[row]:.3g}, {high[row]:.3g}"
    return int(crossed.sum()), f"{first['symbol']} at {first['timestamp']:%Y-%m-%d %H:%M}: {told}"


def _named(foreign: ForeignForecasts, market: CandleSet, symbol: str | None) -> pd.DataFrame:
    """The rows with the pairs that the candles have."""
    rows = foreign.frame
    if symbol is None and len(market.candles) == 1:
        [symbol] = market.candles
    unnamed = rows["symbol"] == ""
    if unnamed.any():
        if symbol is None:
            raise ValueError(
                f"{foreign.name}: its rows name no pair, and there are candles of "
                f"{', '.join(market.candles)}; of which are they? pass --symbol, or --columns "
                "NAME=symbol for the column that names them"
            )
        rows = rows.assign(symbol=rows["symbol"].mask(unnamed, symbol))
    return rows


def _places(rows: pd.DataFrame, when: np.ndarray, targets: Samples) -> np.ndarray:
    """(n,) index of each row's sample, -1 where there is none."""
    place = np.full(len(rows), -1)
    codes, names = pd.factorize(rows["symbol"])
    times = targets.row_ms[targets.end]
    for code, name in enumerate(names):
        if name not in targets.symbols:
            continue
        mine = np.flatnonzero(codes == code)
        own = np.flatnonzero(targets.symbol == targets.symbols.index(name))
        found = np.searchsorted(times[own], when[mine])
        found = np.minimum(found, len(own) - 1)
        is_there = times[own][found] == when[mine]
        place[mine[is_there]] = own[found[is_there]]
    return place


def _count_open(rows: pd.DataFrame, when: np.ndarray, market: CandleSet, targets: Samples) -> int:
    """How many rows have a target that lies behind the last candle."""
    codes, names = pd.factorize(rows["symbol"])
    lasts = [
        timestamps_ms(market.candles[name])[-1] if name in market.candles else np.inf
        for name in names
    ]
    return int((when + targets.horizon * targets.step_ms > np.array(lasts)[codes]).sum())


def _demand_some(
    foreign: ForeignForecasts,
    rows: pd.DataFrame,
    when: np.ndarray,
    known: np.ndarray,
    market: CandleSet,
) -> None:
    if known.any():
        return
    firsts = [frame["timestamp"].iloc[0] for frame in market.candles.values()]
    lasts = [frame["timestamp"].iloc[-1] for frame in market.candles.values()]
    first, last = (pd.Timestamp(int(of), unit="ms") for of in (when.min(), when.max()))
    pairs = ", ".join(map(str, rows["symbol"].unique()[:5]))
    raise ValueError(
        f"{foreign.name}: no forecast can be judged: they are of {pairs} from "
        f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}, the candles of "
        f"{', '.join(list(market.candles)[:5])} from {min(firsts):%Y-%m-%d %H:%M} to "
        f"{max(lasts):%Y-%m-%d %H:%M}; pass candles of that time and from 48 candles before it on"
    )


def _demand_actual(
    foreign: ForeignForecasts, rows: pd.DataFrame, sample: np.ndarray, targets: Samples
) -> None:
    """Where the file says what came true, it must be what the candles say."""
    if "actual" not in rows:
        return
    said = rows["actual"].to_numpy(np.float64)
    base, target = (
        targets.base_price[sample],
        targets.base_price[sample] * np.exp(targets.log_return[sample]),
    )
    known = np.isfinite(said)
    if not known.any() or np.median(np.abs(said[known] / target[known] - 1)) > 0.5:
        return  # it is no price
    off = float(np.median(np.abs(said[known] / target[known] - 1)))
    if off < SAME_PRICE:
        return
    if float(np.median(np.abs(said[known] / base[known] - 1))) < SAME_PRICE:
        raise ValueError(
            f"{foreign.name}: what its file says came true is the price that was known when it "
            f"forecast, if its times are {STAMPS[foreign.stamped or 'known']}; are they closing "
            "times? pass --stamped close"
        )
    raise ValueError(
        f"{foreign.name}: what its file says came true is not what these candles say (the usual "
        f"difference is {100 * off:.2g} %); are they of another market, timeframe or horizon?"
    )


def _without_duplicates(
    foreign: ForeignForecasts, rows: pd.DataFrame, sample: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray, int, str]:
    """Each instant once; a ValueError where two rows of one contradict each other."""
    twice = pd.Series(sample).duplicated().to_numpy()
    if not twice.any():
        return rows, sample, 0, ""
    columns = [
        name for name in rows if name not in ("symbol", "timestamp", "cutoff", "made", "actual")
    ]
    distinct = rows[columns].assign(sample=sample).drop_duplicates()
    again = distinct["sample"].duplicated()
    first = rows[twice].iloc[0]
    when = f"{first['symbol']} at {first['timestamp']:%Y-%m-%d %H:%M}"
    if again.any():
        one = rows[sample == distinct["sample"][again].iloc[0]].iloc[0]
        raise ValueError(
            f"{foreign.name}: {int(again.sum()):,} instants have several forecasts that differ, "
            f"first {one['symbol']} at {one['timestamp']:%Y-%m-%d %H:%M}; which one counts? keep "
            "one, or tell forecasts of several horizons apart: by a column cutoff, by --columns "
            "NAME=made for the column that says when each was made, or by --path N where paths of "
            "N candles follow one another"
        )
    return rows[~twice], sample[~twice], int(twice.sum()), when


def _instants(targets: Samples, said: np.ndarray, there: np.ndarray) -> pd.DataFrame:
    """Every instant between each symbol's first and last row; see `Matched.instants`.

    Args:
        targets: All instants.
        said: Those of which there is a row.
        there: Those of which that is a number.
    """
    has_row, is_there = np.zeros((2, len(targets)), dtype=bool)
    has_row[said], is_there[there] = True, True
    kept = np.zeros(len(targets), dtype=bool)
    for number in np.unique(targets.symbol[said]):
        own = np.flatnonzero(targets.symbol == number)
        rows = own[has_row[own]]
        kept[rows.min() : rows.max() + 1] = True
    of = np.flatnonzero(kept)
    columns = {
        "symbol": np.array(targets.symbols, dtype=object)[targets.symbol[of]],
        "timestamp": utc_from_ms(targets.row_ms[targets.end[of]]),
        "actual_return": targets.log_return[of],
        "volatility": targets.volatility[of],
        "is_there": is_there[of],
        "is_nan": has_row[of] & ~is_there[of],
    }
    return pd.DataFrame(columns)


NETWORK = "lstm"


def _match_run(foreign: ForeignForecasts, market: CandleSet, targets: Samples) -> Matched:
    """A run's predictions as they are, once the candles have said that they are of them."""
    rows = foreign.frame
    place = _places(rows, timestamps_ms(rows), targets)
    known = place >= 0
    _demand_some(foreign, rows, timestamps_ms(rows), known, market)
    checks = {
        "base_price": (targets.base_price, SAME_PRICE),
        "volatility": (targets.volatility, SAME_VOLATILITY),
    }
    for column, (values, tolerance) in checks.items():
        said, true = rows[column].to_numpy(np.float64)[known], values[place[known]]
        _demand_same(foreign, rows[known], column, said, true, np.abs(said / true - 1) > tolerance)
    said, true = rows["actual_return"].to_numpy(np.float64)[known], targets.log_return[place[known]]
    far = np.abs(said - true) > SAME_PRICE
    _demand_same(foreign, rows[known], "actual_return", said, true, far)
    if not known.all():
        first = rows[~known].iloc[0]
        raise ValueError(
            f"{foreign.name}: {int((~known).sum()):,} of its forecasts are of candles that are not "
            f"here, first {first['symbol']} at {first['timestamp']:%Y-%m-%d %H:%M}; pass the "
            "candles of the run"
        )
    baselines = [
        name
        for name in rows
        if f"{name}_raw" in rows or name in ("naive", "drift", "reversal")
        if name != NETWORK
    ]
    return Matched(
        name=NETWORK,
        kind="return",
        predictions=rows,
        instants=_instants(targets, place, place),
        n_rows=len(rows),
        n_duplicates=0,
        baselines=tuple(baselines),
    )


def _demand_same(
    foreign: ForeignForecasts,
    rows: pd.DataFrame,
    column: str,
    said: np.ndarray,
    true: np.ndarray,
    far: np.ndarray,
) -> None:
    if not far.any():
        return
    row = int(np.argmax(far))
    raise ValueError(
        f"{foreign.name}: {column} of {rows['symbol'].iloc[row]} at "
        f"{rows['timestamp'].iloc[row]:%Y-%m-%d %H:%M} is {said[row]:.8g}, by the candles "
        f"{true[row]:.8g} ({int(far.sum()):,} such rows); are these the candles, the timeframe and "
        "the horizon of the run?"
    )
