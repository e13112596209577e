"""Anyone's forecasts beside the candles that they are of: what came true of each.

A forecast counts where the candle that it knew last and all those up to its target are there, and
where the last 48 returns give it a volatility. These are the rules of a training run
(`make_windows`), but for the history that a network looks at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timestamps_ms, utc_from_ms
from pipeline.forecasts.baselines import KNOWN_BASELINES
from pipeline.forecasts.foreign import QUANTILES, STAMPS, ForeignForecasts
from pipeline.samples.windows import Samples, make_windows

LEAST_FOR_LOSS = 50
"""Forecasts from which the mean of their errors tells a unit"""
SAME_PRICE = 1e-6
"""relative difference up to which a price of the forecasts' file is the candles' own"""
SAME_VOLATILITY = 1e-3
"""likewise of a volatility, which depends a little on where a history begins"""
FAR_PRICE = 10.0
"""volatilities that the usual forecast of a price lies from the last one, beyond any forecast"""
FAR_RETURN = 2.0
"""likewise of the usual size of a return that is not 0: it forecasts more than half of all moves"""
FAR_QUANTILE = 5.0
"""likewise of half the width of an interval; that of 80 % has 1.3"""
FAR_LOSS = 2.0
"""Naive's loss times so much is a percentage's, where a hundredth of the forecast has hardly more
than naive's"""
MOST_CROSSED = 0.01
"""Share of rows whose quantiles are not in order, beyond which these are not scored"""
RESERVED = frozenset(
    (
        *("symbol", "timestamp", "base_price", "current_return", "actual_return", "volatility"),
        *("p_up", "q10", "q50", "q90", *KNOWN_BASELINES),
    )
)
"""Columns of a frame of predictions, which no model is called"""
FOLLOWS, LEAST_OF_PATH = 0.6, 20
"""Share of the last known move that the next forecast price follows, below which rows may have been
made at once: of paths of two candles it is a half; rows that tell it"""
KNOWS = 0.3
"""Correlation with what came true beyond that of any forecast"""
ENDS = 1_000
"""ms; a closing time of 12:59:59.999 is that of 13:00"""


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
    rows, when, notes = _stamped(foreign, rows, targets)
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
    said = _said(foreign, rows, sample, targets)
    kind: Literal["return", "direction"] = "return" if "forecast" in said else "direction"
    main = said["forecast"] if kind == "return" else said["direction"]
    is_nan = ~np.isfinite(main)
    if kind == "return":
        _demand_alone(foreign, main, sample, targets)
    instants = _instants(targets, sample, sample[~is_nan])
    n_rows = len(foreign.frame)
    if is_nan.all():
        raise ValueError(f"{foreign.name}: none of its {len(is_nan):,} forecasts is a number")
    kept = np.flatnonzero(~is_nan)
    order = np.lexsort((targets.symbol[sample[kept]], targets.time[sample[kept]]))
    kept = kept[order]
    of = sample[kept]
    volatility = targets.volatility[of]
    columns = {
        "symbol": np.array(targets.symbols, dtype=object)[targets.symbol[of]],
        "timestamp": utc_from_ms(targets.row_ms[targets.end[of]]),
        "base_price": targets.base_price[of],
        "current_return": targets.current_return[of],
        "actual_return": targets.log_return[of],
        "volatility": volatility,
        "naive": 0.0,
        foreign.name: main[kept] if kind == "return" else main[kept] * volatility,
    }
    n_contradicting = 0
    if kind == "return" and "direction" in said:
        called, sign = said["direction"][kept], np.sign(main[kept])
        n_contradicting = int(((called != sign) & (called != 0) & (sign != 0)).sum())
    n_crossed, first_crossed = 0, ""
    if set(QUANTILES) <= set(said):
        low, middle, high = (said[name][kept] for name in QUANTILES)
        crossed = (low > middle) | (middle > high)  # none where one is missing
        n_crossed = int(crossed.sum())
        if n_crossed:
            row = int(np.argmax(crossed))
            first_crossed = (
                f"{columns['symbol'][row]} at {columns['timestamp'].iloc[row]:%Y-%m-%d %H:%M}: "
                f"{low[row]:.3g}, {middle[row]:.3g}, {high[row]:.3g}"
            )
        if n_crossed <= MOST_CROSSED * len(kept):
            columns |= {name: said[name][kept] for name in QUANTILES}
    if "p_up" in said:
        columns["p_up"] = said["p_up"][kept]
        if n_missing := int(np.isnan(columns["p_up"]).sum()):
            del columns["p_up"]
            notes.append(
                f"p_up is not scored: {n_missing:,} of {len(kept):,} forecasts have none; leave "
                "these rows out to score the others"
            )
    prices = said.get("price")
    return Matched(
        name=foreign.name,
        kind=kind,
        predictions=pd.DataFrame(columns),
        instants=instants,
        n_rows=n_rows,
        n_duplicates=n_duplicates,
        first_duplicate=first_duplicate,
        n_nan=int(is_nan.sum()),
        n_without_candles=int((~known & ~is_missing).sum()) - n_open,
        n_open=n_open,
        n_contradicting=n_contradicting,
        n_crossed=n_crossed,
        first_crossed=first_crossed,
        prices=None if prices is None else pd.Series(prices[kept]),
        notes=notes,
    )


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


def _stamped(
    foreign: ForeignForecasts, rows: pd.DataFrame, targets: Samples
) -> tuple[pd.DataFrame, np.ndarray, list[str]]:
    """The rows of this horizon, and the open of the last candle that each knew, epoch ms."""
    step_ms, horizon = targets.step_ms, targets.horizon
    stamps = timestamps_ms(rows)
    if "made" in rows or "cutoff" in rows:
        cutoff = timestamps_ms(rows.assign(timestamp=rows.get("made", rows.get("cutoff"))))
        if foreign.stamped == "close":  # all of its times are closing times
            stamps, cutoff = _opens(stamps, step_ms), _opens(cutoff, step_ms)
        elif "made" in rows:  # the last candle that had closed by then
            cutoff = cutoff // step_ms * step_ms - step_ms
        ahead = (stamps - cutoff) / step_ms
        chosen = ahead == horizon
        if not chosen.any():
            found = ", ".join(f"{one:g}" for one in np.unique(ahead)[:5])
            raise ValueError(
                f"{foreign.name}: its rows are {found} candles ahead of their cutoff, none of them "
                f"{horizon}; pass --horizon, or the timeframe of the candles that were forecast"
            )
        notes = []
        if not chosen.all():
            notes.append(
                f"{int((~chosen).sum()):,} rows are of another horizon than {horizon} and not "
                "judged here (--horizon)"
            )
        return rows[chosen], cutoff[chosen], notes
    notes = []
    if "horizon" in rows:
        ahead = rows["horizon"].to_numpy()
        chosen = ahead == horizon
        if not chosen.any():
            found = ", ".join(f"{one:g}" for one in np.unique(ahead)[:5])
            raise ValueError(
                f"{foreign.name}: its column of horizons says {found}, and no row is {horizon} "
                "candle(s) ahead; pass --horizon, or --columns NAME=nothing where it is no number "
                "of candles"
            )
        if not chosen.all():
            notes.append(
                f"{int((~chosen).sum()):,} rows are of another horizon than {horizon} and not "
                "judged here (--horizon)"
            )
        rows, stamps = rows[chosen], stamps[chosen]
    if foreign.stamped is None:
        raise ValueError(f"{foreign.name}: {foreign.why_open}")
    if foreign.stamped == "close":
        late = -stamps % step_ms
        stamps = np.where(late <= ENDS, stamps + late, stamps)
    off = np.flatnonzero(stamps % step_ms)
    if len(off) and step_ms <= 86_400_000:
        first = rows.iloc[off[0]]
        raise ValueError(
            f"{foreign.name}: {len(off):,} of {len(stamps):,} times lie between candles of "
            f"{targets.timeframe}, first {first['timestamp']:%Y-%m-%d %H:%M:%S}; are they closing "
            "times (--stamped close), or is it another --timeframe?"
        )
    early = {"known": 0, "close": step_ms, "target": horizon * step_ms}[foreign.stamped]
    if foreign.stamped == "target" and "horizon" not in rows:
        notes.append(
            f"each row is taken as made {horizon} candle(s) before what it forecasts; of paths of "
            "N candles pass --path N"
        )
    return rows, stamps - early, notes


def _opens(stamps: np.ndarray, step_ms: int) -> np.ndarray:
    """Opens of the candles that closed at these times, epoch ms; 12:59:59.999 is 13:00."""
    late = -stamps % step_ms
    return np.where(late <= ENDS, stamps + late, stamps) - step_ms


def _demand_alone(
    foreign: ForeignForecasts, forecast: np.ndarray, sample: np.ndarray, targets: Samples
) -> None:
    """Raise where forecast prices do not follow the newest candle that each is said to have known.

    Of rows that were made at once, as a path, only the first knows it. Whoever starts from the
    last price, and adds a small return, follows its last move wholly.

    Args:
        foreign: The forecasts.
        forecast: (n,) log-returns from the price that was known.
        sample: (n,) their samples.
        targets: All samples.
    """
    if (
        foreign.stamped != "target"
        or foreign.is_alone
        or {"cutoff", "made", "horizon"} & set(foreign.frame)
    ):
        return
    time = targets.time[sample].astype("datetime64[ms]").astype(np.int64)
    order = np.lexsort((time, targets.symbol[sample]))
    of, level = sample[order], (np.log(targets.base_price[sample]) + forecast)[order]
    follows = np.diff(time[order]) == targets.step_ms
    follows &= np.diff(targets.symbol[of]) == 0
    known, moved = targets.current_return[of][1:][follows], np.diff(level)[follows]
    said, came = forecast[order][1:][follows], targets.log_return[of][1:][follows]
    is_number = np.isfinite(known) & np.isfinite(moved) & (known != 0)
    if is_number.sum() < LEAST_OF_PATH:
        return
    known, moved, said, came = (one[is_number] for one in (known, moved, said, came))
    knows = (said * came).sum() > KNOWS * np.sqrt((said**2).sum() * (came**2).sum())
    if knows and targets.horizon == 1:  # beyond 1, the late rows of a path know most of theirs
        return  # it knows its target, which is another error
    share = float((known * moved).sum() / (known**2).sum())
    if share < FOLLOWS:
        raise ValueError(
            f"{foreign.name}: its prices follow the last move that each row is said to have known "
            f"by {100 * share:.0f} %, as a path does whose rows were made at once; were they? pass "
            "--path N for paths of N candles, one after another, --path 1 where each row was made "
            "by itself, or name the column that says when: --columns NAME=made"
        )


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


def _said(
    foreign: ForeignForecasts, rows: pd.DataFrame, sample: np.ndarray, targets: Samples
) -> dict[str, np.ndarray]:
    """What the rows say, as log-returns: "forecast", "direction", "p_up", the quantiles; "price".

    Raises:
        ValueError: A unit is in doubt.
    """
    base, volatility = targets.base_price[sample], targets.volatility[sample]
    actual = targets.log_return[sample]
    symbols = rows["symbol"].to_numpy()
    said: dict[str, np.ndarray] = {}
    columns = {name: rows[name].to_numpy(np.float64) for name in rows if rows[name].dtype == float}
    samples = [name for name in columns if name.startswith("sample ")]
    if "p_up" in columns:
        said["p_up"] = _probability(foreign, columns["p_up"])
    if "direction" in columns:
        said["direction"] = columns["direction"]
    if "forecast_return" in columns:
        said["forecast"] = columns["forecast_return"]
        _demand_no_classes(foreign, said["forecast"], base, volatility)
        _demand_no_prices(foreign, said["forecast"], base)
        _demand_unit(foreign, said["forecast"], volatility, actual, "forecast_return")
    elif "forecast_price" in columns:
        said["price"] = columns["forecast_price"]
        said["forecast"] = _from_prices(foreign, said["price"], base, volatility, symbols)
    elif "forecast" in columns:
        _demand_no_classes(foreign, columns["forecast"], base, volatility)
        if _are_prices(foreign, columns["forecast"], base):
            said["price"] = columns["forecast"]
            said["forecast"] = _from_prices(foreign, said["price"], base, volatility, symbols)
        else:
            said["forecast"] = columns["forecast"]
            _demand_unit(foreign, said["forecast"], volatility, actual, "the forecast")
    if samples:
        table = np.column_stack([columns[name] for name in samples])
        if _are_prices(foreign, np.median(table, axis=1), base):
            table = np.log(table / base[:, None])
        for name, level in zip(QUANTILES, (0.1, 0.5, 0.9)):
            columns[name] = np.quantile(table, level, axis=1)
        said.setdefault("p_up", (table > 0).mean(axis=1) + (table == 0).mean(axis=1) / 2)
    if set(QUANTILES) - {"q50"} <= set(columns):
        middle = columns.get("q50")
        prices = _are_prices(foreign, columns["q10"], base) and not samples
        for name in ("q10", "q90"):
            said[name] = np.log(columns[name] / base) if prices else columns[name]
        _demand_width(foreign, said["q90"] - said["q10"], volatility)
        if middle is not None:
            said["q50"] = np.log(middle / base) if prices else middle
        elif "forecast" in said:
            said["q50"] = said["forecast"]
        else:
            del said["q10"], said["q90"]
    elif "q50" in columns:
        is_price = _are_prices(foreign, columns["q50"], base)
        said["q50"] = np.log(columns["q50"] / base) if is_price else columns["q50"]
    if "q50" in said:
        said.setdefault("forecast", said["q50"])
    if "forecast" not in said and "direction" not in said:
        if "p_up" not in said:
            raise ValueError(
                f"{foreign.name}: q10 and q90 alone are no forecast; add q50, forecast_return or "
                "direction"
            )
        said["direction"] = 2 * said["p_up"] - 1  # the surer, the further
    return said


def _probability(foreign: ForeignForecasts, p_up: np.ndarray) -> np.ndarray:
    known = p_up[~np.isnan(p_up)]
    if len(known) and (known.min() < 0 or known.max() > 1):
        row = int(np.flatnonzero((p_up < 0) | (p_up > 1))[0])
        if known.min() >= 0 and known.max() <= 100:
            raise ValueError(
                f"{foreign.name}: p_up is {p_up[row]:g} in row {row} and goes to {known.max():g}; "
                "is it in percent? pass --unit percent"
            )
        raise ValueError(
            f"{foreign.name}: p_up is {p_up[row]:g} in row {row}; is it a probability? it lies "
            "between 0 and 1"
        )
    return p_up


def _are_prices(foreign: ForeignForecasts, values: np.ndarray, base: np.ndarray) -> bool:
    """Whether values are prices, by the candles' own; a ValueError where they may be either."""
    if foreign.unit in ("price", "return", "percent"):
        return foreign.unit == "price"
    known = np.isfinite(values) & (values != 0)
    if not known.any():
        return False
    are_positive = bool((values[known] > 0).all())
    ratio = float(np.median(np.abs(values[known] / base[known])))
    size = float(np.median(np.abs(values[known])))
    if are_positive and (0.5 < ratio < 2 or size > 1):
        if size < 0.5 and ratio < 0.5:
            raise _unit_in_doubt(foreign, size)
        return True
    if size < 0.5:
        return False
    raise _unit_in_doubt(foreign, size)


def _unit_in_doubt(foreign: ForeignForecasts, size: float) -> ValueError:
    return ValueError(
        f"{foreign.name}: its forecasts, of the usual size {size:.3g}, may be prices or returns; "
        "which? pass --unit price, return (log-return) or percent"
    )


def _demand_no_classes(
    foreign: ForeignForecasts, values: np.ndarray, base: np.ndarray, volatility: np.ndarray
) -> None:
    """Raise where numbers may be a classifier's: its classes, or their probability."""
    known = np.isfinite(values) & (values != 0)
    if foreign.unit is not None or not known.any():
        return
    values, base, volatility = values[known], base[known], volatility[known]
    if np.isin(values, (-1.0, 1.0)).all():
        raise ValueError(
            f"{foreign.name}: its forecasts are {'-1, ' if values.min() < 0 else ''}0 and 1 alone; "
            "are they directions? pass --unit direction, or --unit position where 0 means none"
        )
    if values.min() < 0 or values.max() > 1:
        return
    is_far = np.median(values / volatility) > FAR_RETURN
    is_price = np.median(np.abs(np.log(values / base)) / volatility) < FAR_PRICE
    if is_far and not is_price:
        raise ValueError(
            f"{foreign.name}: its forecasts lie between 0 and 1; are they probabilities of a rise? "
            "pass --unit p_up, else --unit price, return (log-return) or percent"
        )


def _demand_no_prices(foreign: ForeignForecasts, values: np.ndarray, base: np.ndarray) -> None:
    """Raise where what is called a return is near the price."""
    known = np.isfinite(values) & (values != 0)
    if foreign.unit is None and known.any():
        ratio, size = np.median(values[known] / base[known]), np.median(np.abs(values[known]))
        if 0.5 < ratio < 2 and size > 1:
            raise ValueError(
                f"{foreign.name}: the usual forecast_return is {size:.4g}, {ratio:.3g} times the "
                "last price; is it a price? pass --unit price, or call it forecast_price"
            )


def _demand_unit(
    foreign: ForeignForecasts,
    values: np.ndarray,
    volatility: np.ndarray,
    actual: np.ndarray,
    name: str,
) -> None:
    """Raise where log-returns are too large to be any, but not as percentages."""
    known = np.isfinite(values) & (values != 0)
    if foreign.unit in ("return", "percent") or not known.any():
        return
    values, volatility, actual = values[known], volatility[known], actual[known]
    size = float(np.median(np.abs(values / volatility)))
    naive, loss, of_percent = (
        float(np.mean(np.abs(actual - of) / volatility)) for of in (0.0, values, values / 100)
    )
    is_percent = len(values) >= LEAST_FOR_LOSS and loss > FAR_LOSS * max(naive, of_percent)
    if size > FAR_RETURN or is_percent:
        raise ValueError(
            f"{foreign.name}: the usual size of {name} is {np.median(np.abs(values)):.3g}, "
            f"{size:.2g} volatilities of its target, and its error {loss / naive:.2g} times that "
            "of no move; is it in percent? pass --unit percent, else --unit return (log-return) or "
            "price"
        )


def _demand_width(foreign: ForeignForecasts, width: np.ndarray, volatility: np.ndarray) -> None:
    """Raise where intervals are too wide to be of log-returns."""
    known = np.isfinite(width)
    half = float(np.median(width[known] / volatility[known])) / 2 if known.any() else 0.0
    if foreign.unit is None and half > FAR_QUANTILE:
        raise ValueError(
            f"{foreign.name}: half of its usual interval, q10 to q90, is {half:.2g} volatilities "
            "of its target; is it in percent? pass --unit percent, else --unit return (log-return) "
            "or price"
        )


def _from_prices(
    foreign: ForeignForecasts,
    prices: np.ndarray,
    base: np.ndarray,
    volatility: np.ndarray,
    symbols: np.ndarray,
) -> np.ndarray:
    """(n,) log-returns of prices; a ValueError where they are on another scale."""
    bad = np.flatnonzero(prices <= 0)
    if len(bad):
        raise ValueError(
            f"{foreign.name}: a price of {prices[bad[0]]:g} is forecast of {symbols[bad[0]]}, the "
            f"first of {len(bad):,} that are not positive; is it a return? "
            "pass --unit return or percent"
        )
    returns = np.log(prices / base)
    usual = pd.DataFrame(
        {"away": np.abs(returns) / volatility, "ratio": prices / base, "symbol": symbols}
    )
    for symbol, rows in usual.groupby("symbol", sort=False):
        if rows["away"].median() > FAR_PRICE:
            raise ValueError(
                f"{foreign.name}: the usual forecast of {symbol} is {rows['ratio'].median():.4g} "
                f"times the last price, {rows['away'].median():.0f} volatilities of a candle away; "
                "in which currency or scale are these prices? give them in that of the candles"
            )
    return returns


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


# --- predictions of a training run

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
