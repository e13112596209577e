"""What a referee doubts about anyone's forecasts, a sentence each.

Each says what was found, where, with its value, and asks or names the remedy. A grave one may have
made the verdict what it is, which does not hold before it is answered. The others were put right
here, or say how to read the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import DAY_MS, timeframe_ms, timestamps_ms
from pipeline.evaluation.comparison import compare_losses
from pipeline.evaluation.losses import deciding
from pipeline.evaluation.matching import Matched
from pipeline.evaluation.significance import (
    LEVEL,
    accuracy_interval,
    instants_needed,
    is_constant,
    mean_by_instant,
    standard_error,
)
from pipeline.evaluation.verdict import SUSPICIOUS_ACCURACY, SUSPICIOUS_R2, SUSPICIOUS_SKILL
from pipeline.forecasts.baselines import BASELINE_NAMES
from pipeline.terminal import counted

COPY = 0.95
"""Correlation with the last move from which a forecast is that move"""
NEAR_COPY = 0.25
"""Correlation with the last move beyond which a forecast tells more of it than of any other"""
SAME_PRICE = 0.05
"""volatilities that the usual forecast of a price lies from an old price, if it is that price"""
ROUNDING = 1e-3
"""likewise where it says nothing else, whatever it is worth"""
LAGGING = -0.5
"""Correlation of the returns to forecast prices with the last move, of prices that lag behind"""
BEYOND = 0.05
"""Correlation with a candle behind the target beyond which a forecast knows that candle"""
HONEST = math.sqrt(SUSPICIOUS_R2)
"""Correlation with a candle of the target beyond which a forecast knows that candle"""
SCANNED = 26
"""candles before and behind a forecast in which times that are off are looked for: a day and two"""
STANDARD_ERRORS = 5.0
"""from which a correlation is no luck"""
MISSING = 0.01
"""Share of the instants without a forecast from which these are looked at"""
AGAINST = 0.6
"""Share of the rows in which p_up and the forecast say opposite things, if one is turned around"""
NARROW = 0.5
"""Width of an interval, as a share of what it takes to hold so many, below which it knows them"""
LEAST_HELD = 0.5
"""Share of the outcomes from which an interval is looked at"""
REGULAR = 0.99
"""Share of the forecasts that have one step, from which there was to be none between"""
DEPENDS = 4.0
"""t statistic from which it depends on the outcome whether there is a forecast"""
FAR_OFF = -1.0
"""Skill against naive of forecasts that are wrong by more than twice as much"""
ONE_SIDE = 0.98
"""Share of the calls in one direction from which a forecast hardly says anything else"""
WEEK_MS = 7 * DAY_MS


@dataclass(frozen=True)
class Suspicion:
    """Something to doubt."""

    name: str
    says: str
    """a sentence or two, without the full stop at the end"""
    is_grave: bool = True


def find_suspicions(
    matched: Matched,
    test: Mapping[str, Any],
    market: CandleSet,
    horizon: int,
    *,
    published_ms: int | None = None,
    tried: int = 1,
    rule: str = "",
    is_walked: bool = False,
) -> list[Suspicion]:
    """Everything to doubt about one model's forecasts, the grave first.

    Args:
        matched: The forecasts and what came true.
        test: Their evaluation.
        market: The candles.
        horizon: Candles that a forecast spans.
        published_ms: When the forecasts, or the model, became public; epoch ms.
        tried: Models that were tried before this one was shown.
        rule: The rule, set before, by which forecasts are left out or zero.
        is_walked: Whether a model was walked forward, so that it could not know what came.
    """
    model = matched.name
    found = [
        *_leaks(matched, test, market, horizon),
        *_copies(matched, test),
        *_missing(matched, test, horizon, tried, rule, is_walked),
        *_rows(matched),
        *_contradiction(matched),
        *_probability(matched, horizon),
        *_interval(matched),
        *_time(matched, published_ms),
        *_size(matched, test, horizon),
        *_opponents(test, model),
        *_tried(test, tried),
    ]
    return sorted(found, key=lambda one: not one.is_grave)


# --- look-ahead


def neighbours(
    predictions: pd.DataFrame, market: CandleSet, offsets: range
) -> Iterator[tuple[int, np.ndarray]]:
    """Offset k and (n,) log-returns of the candle k after the last that a forecast knew, or NaN."""
    step_ms = timeframe_ms(market.timeframe)
    opens_ms = timestamps_ms(predictions)
    codes, names = pd.factorize(predictions["symbol"])
    grids: list[np.ndarray] = []
    slot = np.zeros(len(predictions), dtype=np.int64)
    begin = max(map(abs, offsets))
    for code, name in enumerate(names):
        frame = market.candles[name]
        times, log_close = timestamps_ms(frame), np.log(frame["close"].to_numpy(np.float64))
        move = np.diff(log_close, prepend=np.nan)
        move[1:][np.diff(times) != step_ms] = np.nan
        place = (times - times[0]) // step_ms
        grid = np.full(place[-1] + 1 + 2 * begin, np.nan)  # nothing lies before and behind
        grid[begin + place] = move
        mine = codes == code
        behind = sum(len(one) for one in grids)
        slot[mine] = (opens_ms[mine] - times[0]) // step_ms + begin + behind
        grids.append(grid)
    moves = np.concatenate(grids)
    for k in offsets:
        yield k, moves[slot + k]


def correlations_of(
    matched: Matched, market: CandleSet, horizon: int
) -> dict[int, tuple[float, float]]:
    """Offset k -> correlation with the return of the candle k after the last one known, and its
    standard error.

    Both are divided by the volatility, and what lies beyond 10 volatilities counts as 10. Offsets
    are `SCANNED` candles and the horizon around; those without a correlation are left out. The
    error allows for volatility that comes again (White), and counts an instant once.
    """
    predictions = matched.predictions
    volatility = predictions["volatility"].to_numpy(np.float64)
    scaled = np.clip(_said_of(matched).to_numpy(np.float64) / volatility, -10, 10)
    coins = len(predictions) / max(predictions["timestamp"].nunique(), 1)
    found = {}
    offsets = range(-SCANNED, horizon + SCANNED + 1)
    for k, moves in neighbours(predictions, market, offsets):
        move = np.clip(moves / volatility, -10, 10)
        known = np.isfinite(move) & np.isfinite(scaled)
        if known.sum() < 3 or is_constant(move[known]) or is_constant(scaled[known]):
            continue
        one, other = (values[known] - values[known].mean() for values in (scaled, move))
        size = np.sqrt((one**2).sum() * (other**2).sum())
        left = other - one * (one * other).sum() / (one**2).sum()
        error = np.sqrt(coins * ((one * left) ** 2).sum()) / size
        found[k] = float((one * other).sum() / size), float(max(error, known.sum() ** -0.5))
    return found


def _leaks(
    matched: Matched, test: Mapping[str, Any], market: CandleSet, horizon: int
) -> Iterator[Suspicion]:
    found = correlations_of(matched, market, horizon)
    of = {k: value for k, (value, _) in found.items()}

    def out_of_bounds(offsets: range, honest: float) -> tuple[int, float] | None:
        """The offset that stands out most, and what would be honest there."""
        limits = {k: max(honest, STANDARD_ERRORS * found[k][1]) for k in offsets if k in found}
        beyond = [k for k, limit in limits.items() if abs(of[k]) > limit]
        k = max(beyond, key=lambda one: abs(of[one]), default=None)
        return None if k is None else (k, limits[k])

    def what(k: int) -> str:
        return (
            f"{of[k]:+.2f} with the return of the candle {k} after the last one they say they knew"
        )

    target = out_of_bounds(range(1, horizon + 1), HONEST)
    far = out_of_bounds(range(horizon + 1, horizon + SCANNED + 1), BEYOND)
    past = out_of_bounds(range(-SCANNED, 0), NEAR_COPY)
    when = f"{matched.predictions['timestamp'].iloc[0]:%Y-%m-%d %H:%M}"
    doubted = [text for text in test["warnings"] if "look-ahead" in text]
    if far and target and not doubted and abs(of[target[0]]) > 2 * abs(of[far[0]]):
        far = None  # what follows a target depends on it, where a market turns back
    if far:
        k, limit = far
        yield Suspicion(
            "knows_beyond_target",
            f"the forecasts know candles behind their target: they correlate {what(k)} (first "
            f"forecast: {when}), where an honest one is within ±{limit:.2f}; were they smoothed "
            f"with a centred window, or are the times too early by {counted(k, 'candle')} or so "
            "(--stamped; a local --timezone)?",
        )
    own = of.get(1)
    if doubted:
        about = f"the forecasts know their target: {_after_model(doubted[0])}"
        if own is not None:
            about += f"; they correlate {own:+.2f} with the candle that follows the last one known"
        yield Suspicion("implausible_skill", about)
    elif target and not far:
        k, limit = target
        yield Suspicion(
            "knows_target",
            f"the forecasts know their target: they correlate {what(k)}, where an honest one is "
            f"within ±{limit:.2f}; are the times too early by {counted(k, 'candle')} (--stamped; a "
            "local --timezone), or is the sign turned?",
        )
    last = of.get(0)
    if past and abs(of[past[0]]) > 2 * max(abs(of.get(0, 0)), abs(own or 0)) and not far:
        k, _ = past
        yield Suspicion(
            "times_late",
            f"the forecasts tell most of an older candle: they correlate {of[k]:+.2f} with the one "
            f"{-k} before the last that they knew, and {last or 0:+.2f} with the last; are the "
            f"times late by {counted(-k, 'candle')} (--stamped; a local --timezone)?",
            is_grave=False,
        )
    elif last is not None and NEAR_COPY < last < COPY and last > 2 * abs(own or 0) and not far:
        yield Suspicion(
            "stamped_late",
            f"the forecasts tell more of the candle that they had already seen (correlation "
            f"{last:+.2f}) than of their target ({own or 0:+.2f}): do they copy it, or are their "
            "times those of the candle that is forecast (--stamped target, or close)?",
            is_grave=False,
        )


def _after_model(warning: str) -> str:
    return warning.partition(": ")[2]


# --- copies


def _copies(matched: Matched, test: Mapping[str, Any]) -> Iterator[Suspicion]:
    predictions, model = matched.predictions, matched.name
    row = test["models"][model]
    last = row["correlation_with_current_return"]
    if matched.prices is not None:
        volatility = predictions["volatility"].to_numpy(np.float64)
        base = np.log(predictions["base_price"].to_numpy(np.float64))
        said = np.log(matched.prices.to_numpy(np.float64))
        target = base + predictions["actual_return"].to_numpy(np.float64)
        to_last, to_target = (np.nanmean(np.abs(said - of) / volatility) for of in (base, target))
        asked = (
            "are the times those of the candle that is forecast (--stamped target, or close), by "
            f"which their error would be {100 * (1 - to_last / to_target):.0f} % smaller?"
        )
        old = {
            "the last price": (base, ""),
            "the price before the last": (
                base - predictions["current_return"].to_numpy(np.float64),
                f"; {asked}",
            ),
        }
        for what, (price, question) in old.items():
            far = np.nanmedian(np.abs(said - price) / volatility)
            is_copy = far < ROUNDING or (far < SAME_PRICE and _of_naive(test)["verdict"] != "BEATS")
            if is_copy:
                yield Suspicion(
                    "copies_last_price",
                    f"the forecasts copy {what}: half of them lie within {far:.3f} "
                    f"volatilities of it (first: {predictions['symbol'].iloc[0]} at "
                    f"{predictions['timestamp'].iloc[0]:%Y-%m-%d %H:%M}); a chart of such prices "
                    f"looks right and says nothing{question}",
                )
                return
        if last is not None and last < LAGGING and to_last > SAME_PRICE:
            yield Suspicion(
                "prices_lag",
                f"the forecast prices lag behind: the move from the last price to the forecast "
                f"correlates {last:+.2f} with the last move, as an average of old prices does; "
                f"forecast the return instead, or {asked}",
                is_grave=False,
            )
            return
    if last is not None and last > COPY:
        yield Suspicion(
            "copies_last_move",
            f"the forecasts copy the last move: they correlate {last:+.2f} with it; a chart of "
            "them looks right, a candle late",
            is_grave=False,
        )
    shares = np.sign(predictions[model].to_numpy(np.float64))
    calls = shares[shares != 0]
    if len(calls) and max((calls > 0).mean(), (calls < 0).mean()) > ONE_SIDE:
        up = (calls > 0).mean()
        way = "up" if up > 0.5 else "down"
        rose = float((predictions["actual_return"] > 0).mean())
        yield Suspicion(
            "one_direction",
            f"the forecasts say {way} in {100 * max(up, 1 - up):.1f} % of the cases, and the price "
            f"rose in {100 * rose:.1f} %: their share of right directions is the market's",
            is_grave=False,
        )


# --- what is not there


def _missing(
    matched: Matched, test: Mapping[str, Any], horizon: int, tried: int, rule: str, is_walked: bool
) -> Iterator[Suspicion]:
    instants = _due(matched.instants)
    is_there = instants["is_there"].to_numpy()
    is_silent = _said_of(matched).to_numpy(np.float64) == 0
    missing = 1 - float(is_there.mean())
    is_edge = test["verdict"] == "EDGE"
    facts = []
    are_nan = int(instants["is_nan"].sum()) > (~is_there).sum() / 2
    if missing:
        facts.append(
            f"{100 * missing:.1f} % of the instants between the first and the last forecast "
            f"{'are no numbers' if are_nan else 'have no forecast'} "
            f"({_first(instants, ~instants['is_there'])})"
        )
    if is_edge and is_silent.any():
        facts.append(f"{100 * is_silent.mean():.3g} % of the forecasts are zero")
    fact = ", and ".join(facts)
    row = test["models"][matched.name]
    right, low = row["direction_accuracy"], row["direction_accuracy_low"]
    name = "selected_not_numbers" if are_nan else "selected_forecasts"
    question = "send the forecasts of all instants, or say which rule, set before, left them out"
    may_be_chosen = missing > MISSING and not is_walked
    if may_be_chosen and low is not None and low > SUSPICIOUS_ACCURACY:
        all_right = (right * is_there.sum() + 0.5 * (~is_there).sum()) / len(is_there)
        yield Suspicion(
            name,
            f"{fact}, and those that are there are right in {100 * right:.1f} %, which no honest "
            f"one is: were they left out where they were wrong? Counted as tosses of a coin they "
            f"make it {100 * all_right:.1f} %; {question} (--rule)",
        )
        return
    if may_be_chosen and (depends := _dependence(instants, horizon)):
        about = f"{fact}, and whether there is one goes with {depends}; {question} (--rule)"
        yield Suspicion(name, about)
        return
    if is_edge and facts:
        survives, counted_so = _if_wrong(matched, instants, is_silent, horizon, tried)
        if not survives and not rule and not is_walked:
            yield Suspicion(
                "edge_by_selection",
                f"{fact}; EDGE needs that these were not left out for being wrong: counted as "
                f"wrong {counted_so}; {question} (--rule)",
            )
            return
    if is_walked:
        why = "the model was walked, so it could not know what it left out"
    elif rule:
        why = f"they were left out by a rule that was declared ({rule})"
    elif is_edge and facts:
        why = f"EDGE survives even so: counted as wrong {counted_so}"
    else:
        why = (
            "whether there is one goes neither with a rise nor with the size of what came after; "
            f"whether it goes with being right cannot be seen, so {question} (--rule)"
        )
    if missing > MISSING or (is_edge and is_silent.mean() > MISSING):
        yield Suspicion("incomplete", f"{fact}; {why}", is_grave=False)
    elif matched.n_nan:
        yield Suspicion(
            "not_numbers",
            f"{matched.n_nan:,} of {matched.n_rows:,} forecasts are no numbers "
            f"({_first(instants, instants['is_nan'])}) and are not judged; what would they "
            "have been?",
            is_grave=False,
        )


def _due(instants: pd.DataFrame) -> pd.DataFrame:
    """The instants at which there was to be a forecast: of regular ones those of their own step."""
    ms = timestamps_ms(instants)
    is_there = instants["is_there"].to_numpy()
    steps = np.diff(np.unique(ms[is_there]))
    if not len(steps):
        return instants
    step = int(np.median(steps))
    phases, counts = np.unique(ms[is_there] % step, return_counts=True)
    if counts.max() < REGULAR * is_there.sum():
        return instants
    return instants[ms % step == phases[np.argmax(counts)]]


def _said_of(matched: Matched) -> pd.Series:
    """(n,) the forecasts, before they were shrunk where they were."""
    raw = f"{matched.name}_raw"
    return matched.predictions[raw if raw in matched.predictions else matched.name]


def _if_wrong(
    matched: Matched, instants: pd.DataFrame, is_silent: np.ndarray, horizon: int, tried: int
) -> tuple[bool, str]:
    """Whether it BEATS naive with what is missing, or zero, counted as wrong; and how it fares.

    Returns are then wrong by what one in ten of the others says.
    """
    rows, missing = matched.predictions, instants[~instants["is_there"]]
    said = _said_of(matched).to_numpy(np.float64)
    outcome = pd.concat([rows, missing])[["timestamp", "actual_return", "volatility"]]
    actual = (outcome["actual_return"] / outcome["volatility"]).to_numpy(np.float64)
    forecast = np.append(said / rows["volatility"].to_numpy(np.float64), np.zeros(len(missing)))
    is_absent = np.append(is_silent, np.ones(len(missing), dtype=bool))
    if matched.kind == "direction":
        actual, forecast = np.sign(actual) / 2, np.sign(forecast) / 2
    size = np.quantile(np.abs(forecast[~is_absent]), 0.9)
    forecast[is_absent] = -size * np.where(actual[is_absent] < 0, -1, 1)
    [compared] = compare_losses(
        matched.name,
        np.abs(actual - forecast),
        {"naive": np.abs(actual)},
        outcome["timestamp"],
        horizon,
        loss="if missing ones were wrong",
    )
    survives = compared.verdict == "BEATS" and tried * (compared.p_value or 0) < LEVEL
    right = 100 * float((np.sign(forecast) == np.sign(actual)).mean())
    skill = 100 * (compared.skill or 0)
    return survives, f"they are right in {right:.1f} % and the skill is {skill:+.2f} %"


def _first(instants: pd.DataFrame, chosen: pd.Series) -> str:
    if not chosen.any():
        return "none between the others"
    first = instants[chosen].iloc[0]
    return f"first: {first['symbol']} at {first['timestamp']:%Y-%m-%d %H:%M}"


def _dependence(instants: pd.DataFrame, horizon: int) -> str:
    """What came after that goes with whether there is a forecast; "" for nothing."""
    times = instants["timestamp"]
    is_missing = ~instants["is_there"].to_numpy()
    scaled = instants["actual_return"].to_numpy(np.float64) / instants["volatility"].to_numpy()
    size = np.minimum(np.abs(scaled), 10)
    hour = timestamps_ms(instants) % WEEK_MS
    size = size - pd.Series(size).groupby(hour).transform("mean").to_numpy()
    series = {"whether the price then rose": np.sign(scaled), "how far the price then moved": size}
    for what, values in series.items():
        together = (is_missing - is_missing.mean()) * (values - values.mean())
        by_instant = mean_by_instant(together, times)
        if len(by_instant) < instants_needed(horizon) or is_constant(by_instant):
            continue
        error, _ = standard_error(by_instant, horizon)
        statistic = float(by_instant.mean()) / error if error else 0.0
        if abs(statistic) > DEPENDS:
            return f"{what} (t = {statistic:+.1f})"
    return ""


# --- rows


def _rows(matched: Matched) -> Iterator[Suspicion]:
    if matched.n_duplicates:
        yield Suspicion(
            "duplicated_rows",
            f"{matched.n_duplicates:,} of {matched.n_rows:,} rows are there twice (first: "
            f"{matched.first_duplicate}); each instant counts once here, and whoever counts them "
            "all takes luck for evidence",
            is_grave=False,
        )
    if matched.n_crossed:
        n = len(matched.predictions)
        is_scored = "q10" in matched.predictions
        yield Suspicion(
            "crossed_quantiles",
            f"the quantiles q10, q50 and q90 are not in order in {matched.n_crossed:,} of {n:,} "
            f"rows (first: {matched.first_crossed})"
            f"{'' if is_scored else ', and are not scored'}; are the columns exchanged?",
            is_grave=False,
        )
    if matched.n_contradicting:
        yield Suspicion(
            "contradicting_direction",
            f"direction and forecast_return have different signs in {matched.n_contradicting:,} "
            f"of {len(matched.predictions):,} rows; the return is judged here. Which one is meant?",
        )
    if matched.n_without_candles:
        yield Suspicion(
            "without_candles",
            f"{matched.n_without_candles:,} of {matched.n_rows:,} rows cannot be judged: they lie "
            "at a gap or a halt, in the first 48 candles or outside the candles",
            is_grave=False,
        )
    if matched.n_open:
        yield Suspicion(
            "open",
            f"the targets of {matched.n_open:,} of {matched.n_rows:,} rows have not closed yet",
            is_grave=False,
        )


def _contradiction(matched: Matched) -> Iterator[Suspicion]:
    rows = matched.predictions
    if "p_up" not in rows:
        return
    said, likely = np.sign(_said_of(matched)), np.sign(rows["p_up"] - 0.5)
    both = (said != 0) & (likely != 0)
    n_against = int((said != likely)[both].sum())
    if n_against > AGAINST * both.sum():
        what = "forecast_return" if matched.kind == "return" else "direction"
        yield Suspicion(
            "contradicting_direction",
            f"p_up and {what} are on different sides in {n_against:,} of {int(both.sum()):,} rows; "
            "is p_up the probability of a fall?",
        )


# --- what comes with a forecast


def _probability(matched: Matched, horizon: int) -> Iterator[Suspicion]:
    rows = matched.predictions
    if "p_up" not in rows:
        return
    called = rows[(rows["p_up"] != 0.5) & (rows["actual_return"] != 0)]
    if called.empty:
        return
    right = (called["p_up"] > 0.5) == (called["actual_return"] > 0)
    low, _ = accuracy_interval(right.to_numpy(np.float64), called["timestamp"], horizon)
    if low > SUSPICIOUS_ACCURACY:
        yield Suspicion(
            "implausible_probability",
            f"p_up knows its target: it is right in {100 * right.mean():.1f} %, and at least in "
            f"{100 * low:.1f} % with 95 % confidence, above {100 * SUSPICIOUS_ACCURACY:g} %; was "
            "it made of later candles?",
        )


def _interval(matched: Matched) -> Iterator[Suspicion]:
    """Intervals that hold more than their width can, if they do not know what comes."""
    rows = matched.predictions
    if "q10" not in rows:
        return
    low, high, actual, volatility = (
        rows[name].to_numpy(np.float64) for name in ("q10", "q90", "actual_return", "volatility")
    )
    held = float(((low <= actual) & (actual <= high)).mean())
    width = float(((high - low) / volatility).mean())
    # of the last hundredth of an outcome nobody knows the size
    needed = 2 * float(np.quantile(np.abs(actual) / volatility, min(held, 0.99)))
    if held > LEAST_HELD and 0 < width < NARROW * needed:
        yield Suspicion(
            "implausible_interval",
            f"the intervals know their target: {100 * held:.1f} % of what came true lie within q10 "
            f"to q90, which are {width:.2f} volatilities wide; it takes {needed:.2f} to hold so "
            "many without knowing which; are they the low and the high of a later candle?",
        )


# --- time


def _time(matched: Matched, published_ms: int | None) -> Iterator[Suspicion]:
    if published_ms is None:
        return
    times = timestamps_ms(matched.predictions)
    published = f"{pd.Timestamp(published_ms, unit='ms'):%Y-%m-%d}"
    last = f"{pd.Timestamp(int(times.max()), unit='ms'):%Y-%m-%d %H:%M}"
    n_after = int((times >= published_ms).sum())
    if n_after == 0:
        yield Suspicion(
            "before_publication",
            f"the last forecast, {last}, is older than its publication, {published}: whoever made "
            "them could know what came true; judge forecasts of after that day",
        )
    elif n_after < len(times):
        yield Suspicion(
            "partly_before_publication",
            f"{len(times) - n_after:,} of {len(times):,} forecasts are older than their "
            f"publication, {published}: whoever made them could know what came true; what came "
            "after is scored by itself",
            is_grave=False,
        )


def _size(matched: Matched, test: Mapping[str, Any], horizon: int) -> Iterator[Suspicion]:
    n, n_instants = test["n"], test["n_instants"]
    span = timestamps_ms(matched.predictions)
    steps = np.diff(np.unique(span))
    if horizon > 1 and len(steps):
        step = float(np.median(steps))
        candle = float(steps.min())
        if step < horizon * candle:
            n_apart = max(1, round(n_instants * step / (horizon * candle)))
            yield Suspicion(
                "overlapping",
                f"the forecasts overlap: each spans {horizon} candles and the next one begins "
                f"after {step / candle:g}, so {n:,} of them are about {n_apart:,} that are "
                "independent in time; tests and intervals here allow for that, and whoever counts "
                "all of them must not be believed",
                is_grave=False,
            )
    power = test["power"]["skill_against_naive"]
    naive = _of_naive(test)
    limit = SUSPICIOUS_SKILL if matched.kind == "return" else 2 * (SUSPICIOUS_ACCURACY - 0.5)
    if naive["skill"] is not None and naive["skill"] < FAR_OFF:
        yield Suspicion(
            "far_off",
            f"the error is {1 - naive['skill']:.3g} times naive's, which is far off: are they in "
            "percent (divide by 100), of another --horizon, or are their times those of the "
            "candle that is forecast (--stamped target, or close)?",
            is_grave=False,
        )
    if naive["verdict"] != "TIES":
        return
    if power is None and naive["p_holm"] is None:
        yield Suspicion(
            "too_few",
            f"{n_instants:,} instants are too few to test anything ({n:,} forecasts); it takes "
            f"{instants_needed(horizon)} at least, and some thousands to find an honest skill",
        )
    elif power is not None and power > limit:
        yield Suspicion(
            "too_few",
            f"{n_instants:,} instants say little: a skill below {100 * power:.2g} % would be "
            f"missed in one of five such tests, and honest ones are below {100 * limit:g} %; "
            "judge more of them",
        )


def _of_naive(test: Mapping[str, Any]) -> Mapping[str, Any]:
    """The comparison with naive that decides."""
    return next(entry for entry in deciding(test["verdicts"]) if entry["baseline"] == "naive")


# --- opponents and tries


def _opponents(test: Mapping[str, Any], model: str) -> Iterator[Suspicion]:
    """An EDGE over fewer baselines than judge.py compares by itself."""
    absent = [name for name in BASELINE_NAMES if name not in test["models"]]
    if test["verdict"] != "EDGE" or not absent:
        return
    is_alone = set(test["models"]) == {"naive", model}
    yield Suspicion(
        "naive_alone" if is_alone else "absent_baselines",
        f"{'naive alone is beaten' if is_alone else 'not all baselines are there'}; not compared: "
        f"{', '.join(absent)}, which cost nothing and may do as well; judge forecasts that follow "
        "more candles, against all of them (--baselines)",
    )


def _tried(test: Mapping[str, Any], tried: int) -> Iterator[Suspicion]:
    if tried > 1:
        yield Suspicion(
            "tried",
            f"the best of {tried:,} models is shown: the p-values of what it beats are {tried:,} "
            "times as large as they would be of one (Bonferroni)",
            is_grave=False,
        )
