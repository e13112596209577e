"""What a referee doubts about anyone's forecasts, a sentence each.

Each says what was found, where, with its value, and asks or names the remedy. A grave one may have
made the verdict what it is, which does not hold before it is answered. The others were put right
here, or say how to read the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timestamps_ms
from pipeline.evaluation.look_ahead import COPY, find_leaks
from pipeline.evaluation.losses import deciding
from pipeline.evaluation.matching import Matched
from pipeline.evaluation.selection import find_missing
from pipeline.evaluation.significance import accuracy_interval, instants_needed
from pipeline.evaluation.suspicion import Suspicion
from pipeline.evaluation.verdict import SUSPICIOUS_ACCURACY, SUSPICIOUS_SKILL
from pipeline.forecasts.baselines import BASELINE_NAMES

SAME_PRICE = 0.05
"""volatilities that the usual forecast of a price lies from an old price, if it is that price"""
ROUNDING = 1e-3
"""likewise where it says nothing else, whatever it is worth"""
LAGGING = -0.5
"""Correlation of the returns to forecast prices with the last move, of prices that lag behind"""
AGAINST = 0.6
"""Share of the rows in which p_up and the forecast say opposite things, if one is turned around"""
NARROW = 0.5
"""Width of an interval, as a share of what it takes to hold so many, below which it knows them"""
LEAST_HELD = 0.5
"""Share of the outcomes from which an interval is looked at"""
FAR_OFF = -1.0
"""Skill against naive of forecasts that are wrong by more than twice as much"""
ONE_SIDE = 0.98
"""Share of the calls in one direction from which a forecast hardly says anything else"""


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
        *find_leaks(matched, test, market, horizon),
        *_copies(matched, test),
        *find_missing(matched, test, horizon, tried, rule, is_walked),
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
    said, likely = np.sign(matched.said), np.sign(rows["p_up"] - 0.5)
    both = (said != 0) & (likely != 0)
    n_against = int((said != likely)[both].sum())
    if n_against > AGAINST * both.sum():
        what = "forecast_return" if matched.kind == "return" else "direction"
        yield Suspicion(
            "contradicting_direction",
            f"p_up and {what} are on different sides in {n_against:,} of {int(both.sum()):,} rows; "
            "is p_up the probability of a fall?",
        )


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
