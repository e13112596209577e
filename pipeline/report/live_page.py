"""The interactive page: a coin's forecast, what came true of the last ones, and all coins' table.

It is HTML within Gradio's, from `templates/live_heading.html` and `templates/live_body.html`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.evaluation.outcomes import Tally, chance_range, tally
from pipeline.forecasts.picture import plot_forecast
from pipeline.forecasts.prediction import Prediction, format_price
from pipeline.report import page, pictures, reading, tables

if TYPE_CHECKING:
    from pipeline.forecasts.predictor import CandlePredictor

SYNTHETIC_MODEL = (
    "SYNTHETIC MODEL: it was trained on made-up candles. It says nothing about any market."
)
SYNTHETIC_CANDLES = (
    "SYNTHETIC CANDLES: a generator made them up, no market ever traded them. No claim is made."
)
PICTURES = (("wide", 72, (9.6, 3.7)), ("narrow", 36, (4.4, 3.1)))
"""For screens and for phones, of which the style shows one: class, candles shown, inches."""
STYLE = page.render("style.css", live=True)
WAITING = '<div class="forecasts"><p class="how">Fetching candles …</p></div>'
ALL_COINS = (
    '<div class="forecasts"><p class="how">This asks for each coin that the model was trained on. '
    "It may take some seconds. The first of many may stand out by luck alone.</p></div>"
)
RETURNS = (
    "An object. timestamp is the open of the candle whose close is forecast (UTC). price is that "
    "close, price_low and price_high are its 80 % band, last_price is the last known close. "
    "confidence is the probability that the direction is right (a coin toss has 0.5), p_up that of "
    "a rise. verdict is what the model was worth out of sample: NO EDGE is no better than assuming "
    "no change. synthetic says whether model or candles are made up. None of it is trading advice."
)
"""What /predict returns, in a line, as Gradio reads docstrings"""
DRAWN = 64
"""Answers whose pictures are kept"""


@dataclass(frozen=True, eq=False)
class Answer:
    """All that the page says of one coin."""

    symbol: str
    candles: pd.DataFrame
    prediction: Prediction
    """as `predict` returns it"""
    outcomes: pd.DataFrame
    """of the last forecasts, as `find_outcomes` returns them"""
    source: str
    """where the candles come from, for people"""
    is_synthetic: bool
    """the model or the candles"""
    notes: tuple[str, ...]
    """what a reader must know"""
    banners: tuple[str, ...]
    """what a reader must not miss"""
    kept_until_ms: int


def headline(test: Mapping[str, Any], is_synthetic: bool) -> str:
    """The top of the page: what this is, and in a line what it is worth, before any forecast.

    Args:
        test: "test" of the bundle's metrics.
        is_synthetic: Whether the bundle was trained on synthetic candles.
    """
    banners = [SYNTHETIC_MODEL] if is_synthetic else []
    return page.render("live_heading.html", test=test, banners=banners)


def about(test: Mapping[str, Any], predictor: CandlePredictor) -> str:
    """The end of the page: the whole verdict with its numbers, and how the forecast is made."""
    return page.render("live_about.html", test=test, predictor=predictor)


def body(answer: Answer, about: str, now_ms: int | None = None) -> str:
    """One coin: the forecast in numbers and as a picture, what came true of the last ones, `about`.

    Args:
        answer: What is told.
        about: HTML of the verdict.
        now_ms: Present time; by default the clock's.
    """
    outcomes, prediction = answer.outcomes, answer.prediction
    counts = tally(outcomes)
    step = pd.Timedelta(timeframe_ms(prediction["timeframe"]), "ms")
    forecast_pictures, record_picture = _pictures(answer)
    record_title = "The last forecasts"
    if len(outcomes):
        record_title = f"The last {len(outcomes)} forecasts, and what came true"
    return page.render(
        "live_body.html",
        answer=answer,
        target=prediction["timestamp"],
        closes=prediction["timestamp"] + step,
        next_close=next_close(answer.candles, prediction["timeframe"], now_ms),
        forecast_pictures=forecast_pictures,
        last_opened=f"{answer.candles['timestamp'].iloc[-1]:%Y-%m-%d %H:%M}",
        record_title=record_title,
        record=record_sentences(counts, int(outcomes["is_seen"].sum())),
        counts=counts,
        chance_range=chance_range,
        price=format_price,
        record_picture=record_picture,
        record_rows=outcome_rows(outcomes),
        about=Markup(about),
    )


@functools.lru_cache(DRAWN)
def _pictures(answer: Answer) -> tuple[list[tuple[str, Markup]], Markup]:
    """The forecast's pictures with their classes, and that of the past ones; empty without any."""
    outcomes = answer.outcomes
    # What the model was fitted to is no forecast that held.
    counted = outcomes[~outcomes["is_seen"]]
    past = counted if len(counted) else None
    bands = " Bands behind candles: past forecasts, blue if they held, orange if missed."
    forecasts = []
    for shape, shown, size in PICTURES:
        figure = plot_forecast(
            answer.candles, answer.prediction, shown=shown, size=size, title="", history=past
        )
        for axes in figure.axes:
            pictures.dress(axes)
        caption = f"{answer.symbol}: the last {shown} candles, the forecast and its 80 % band."
        forecasts.append(
            (shape, page.picture(figure, caption + (bands if past is not None else "")))
        )
    if not len(outcomes):
        return forecasts, Markup("")
    figure = pictures.week_plot(outcomes.assign(timestamp=outcomes["target"]), "predicted_return")
    caption = f"{answer.symbol}: what came true, beside the forecast and its band"
    return forecasts, page.picture(figure, caption)


def next_close(candles: pd.DataFrame, timeframe: str, now_ms: int | None = None) -> str:
    """When the next candle closes, by the clock, on the grid of these candles."""
    if now_ms is None:
        now_ms = int(time.time() * 1000)
    step_ms = timeframe_ms(timeframe)
    left_ms = step_ms - (now_ms - int(timestamps_ms(candles)[-1])) % step_ms
    closes = pd.Timestamp(now_ms + left_ms, unit="ms")
    minutes = -(-left_ms // 60_000)  # rounded up, so that nobody comes too early
    hours, rest = divmod(minutes, 60)
    wait = f"{minutes} minute{'s' if minutes > 1 else ''}"
    if hours >= 2:
        wait = f"{hours} hours" + (f" {rest} minutes" if rest else "")
    day = "" if left_ms < 24 * 3_600_000 else f"{closes:%d %b} "
    return f"The next candle closes at {day}{closes:%H:%M} UTC, in {wait}."


def all_coins(answers: Sequence[Answer], failures: Sequence[str], n_done: int, n_coins: int) -> str:
    """The table of all coins, the most confident first, and why others are missing."""
    rows = [["coin", "forecast %", "80 % band %", "confidence", "last candle"]]
    for answer in sorted(answers, key=lambda answer: -answer.prediction["confidence"]):
        told = answer.prediction
        low, high = (
            reading.show(told[end] / told["last_price"] - 1, "{:+.2f}", 100)
            for end in ("price_low", "price_high")
        )
        way = "up" if told["p_up"] >= 0.5 else "down"
        rows.append(
            [
                answer.symbol,
                reading.show(told["return_percent"], "{:+.3f}"),
                f"{low} to {high}",
                f"{reading.show(told['confidence'], '{:.1f} %', 100)} {way}",
                f"{told['last_timestamp']:%d %b %H:%M}",
            ]
        )
    told_of = [text for answer in answers for text in answer.banners]
    n_old = len(told_of) - told_of.count(SYNTHETIC_CANDLES)
    banners = [SYNTHETIC_CANDLES] if SYNTHETIC_CANDLES in told_of else []
    if n_old:
        banners.append(
            f"old candles ({n_old} of these coins): the last column tells how old. What is "
            "forecast of them may have happened already."
        )
    return page.render(
        "live_coins.html",
        rows=rows,
        banners=banners,
        failures=failures,
        n_done=n_done,
        n_coins=n_coins,
    )


def endpoint_text(models: Sequence[str]) -> str:
    """What /predict takes and returns: the docstring that programs and assistants are shown."""
    told = [
        "Forecast a coin's next close with its 80 % band, and say what the model is worth.",
        "Args:",
        "    symbol: Pair such as BTC/USDT.",
    ]
    if len(models) > 1:
        told.append(f"    model: One of {'; '.join(models)}.")
    return "\n".join([*told, "Returns:", f"    {RETURNS}"])


def problem(text: object) -> str:
    """The page where there is no forecast: what is wrong and what helps."""
    return f'<div class="forecasts" role="alert">{page.warning(f"No forecast: {text}")}</div>'


def record_sentences(counts: Tally, n_seen: int) -> str:
    """What is counted of the past forecasts, and what is not."""
    if counts.n + n_seen == 0:
        return "Nothing has come true yet of any forecast from these candles."
    seen = (
        f"{n_seen} of these {counts.n + n_seen} were made at a time that the model was fitted or "
        "calibrated on."
    )
    if counts.n == 0:
        return f"{seen} They say nothing about forecasts, and no hits are counted."
    low, high = chance_range(counts.n_calls, 0.5)
    sentences = (
        f"Of {counts.n_calls} coin tosses, {low} to {high} come out right 95 times in 100. A count "
        "inside that range proves nothing."
    )
    return sentences + (f" {seen} They are marked and not counted." if n_seen else "")


def outcome_rows(outcomes: pd.DataFrame) -> tables.Rows:
    """Past forecasts as text cells, the newest first, moves in percent; a heading first."""
    rows = [["candle", "forecast %", "80 % band", "actual %", "direction", "band"]]
    for outcome in outcomes.iloc[::-1].itertuples(index=False):
        forecast, low, high, actual = (
            page.minus(reading.show(move, "{:+.2f}", 100))
            for move in (outcome.predicted_return, outcome.q10, outcome.q90, outcome.actual_return)
        )
        mark = " (seen)" if outcome.is_seen else ""
        band = "inside" if outcome.is_inside else "outside"
        moves = [forecast, f"{low} to {high}", actual]
        rows.append(
            [f"{outcome.target:%d %b %H:%M}", *moves, outcome.direction + mark, band + mark]
        )
    return rows
