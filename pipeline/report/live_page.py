"""The interactive page: the verdict, one coin's forecast, and what came true of the last ones.

It is HTML within Gradio's, from `templates/live_heading.html` and `templates/live_body.html`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.evaluation.outcomes import Tally, chance_range, tally
from pipeline.forecasts.picture import plot_forecast
from pipeline.forecasts.prediction import Prediction, format_price
from pipeline.report import page, pictures, tables

SYNTHETIC_MODEL = (
    "SYNTHETIC MODEL: it was trained on candles that a generator made up; what it forecasts says "
    "nothing about any market."
)
SYNTHETIC_CANDLES = (
    "SYNTHETIC CANDLES: a generator made them up, no market ever traded them. No claim is made."
)
PICTURES = (("wide", 72, (9.6, 3.7)), ("narrow", 36, (4.4, 3.1)))
"""For screens and for phones, of which the style shows one: class, candles shown, inches."""
STYLE = page.render("style.css", live=True)


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


def heading(
    test: Mapping[str, Any], timeframe: str, lookback: int, horizon: int, is_synthetic: bool
) -> str:
    """The top of the page: what this is, and what it is worth, before any forecast.

    Args:
        test: "test" of the bundle's metrics.
        timeframe: Length of a candle.
        lookback: Candles that the network sees.
        horizon: Candles ahead.
        is_synthetic: Whether the bundle was trained on synthetic candles.
    """
    return page.render(
        "live_heading.html",
        test=test,
        timeframe=timeframe,
        lookback=lookback,
        horizon=horizon,
        banners=[SYNTHETIC_MODEL] if is_synthetic else [],
    )


def body(answer: Answer, timeframe: str) -> str:
    """One coin: the forecast in words and as a picture, then what came true of the last ones."""
    outcomes, counts = answer.outcomes, tally(answer.outcomes)
    forecast_pictures = []
    for shape, shown, size in PICTURES:
        figure = plot_forecast(answer.candles, answer.prediction, shown=shown, size=size, title="")
        pictures.dress(figure.axes[0])
        caption = f"{answer.symbol}: the last {shown} candles, the forecast and its 80 % band"
        forecast_pictures.append((shape, page.picture(figure, caption)))
    record_title, record_picture = "The last forecasts", ""
    if len(outcomes):
        record_title = f"The last {len(outcomes)} forecasts, and what came true"
        record_picture = page.picture(
            pictures.week_plot(outcomes.assign(timestamp=outcomes["target"]), "predicted_return"),
            f"{answer.symbol}: what came true, beside the forecast and its band",
        )
    return page.render(
        "live_body.html",
        answer=answer,
        forecast=forecast_sentence(answer, timeframe),
        forecast_pictures=forecast_pictures,
        last_opened=f"{answer.candles['timestamp'].iloc[-1]:%Y-%m-%d %H:%M}",
        record_title=record_title,
        record=record_sentence(counts, int(outcomes["is_seen"].sum())),
        counts=counts,
        chance_range=chance_range,
        price=format_price,
        record_picture=record_picture,
        record_rows=outcome_rows(outcomes),
    )


def problem(text: object) -> str:
    """The page where there is no forecast: what is wrong and what helps."""
    return f'<div class="forecasts" role="alert">{page.warning(f"No forecast: {text}")}</div>'


def forecast_sentence(answer: Answer, timeframe: str) -> str:
    """The forecast in words."""
    prediction, quote = answer.prediction, answer.symbol.split("/")[1]
    price, last, low, high = (
        format_price(prediction[name])
        for name in ("price", "last_price", "price_low", "price_high")
    )
    says = "no change"
    if prediction["return"] != 0:
        says = f"a {'rise' if prediction['return'] > 0 else 'fall'} to {price} {quote}"
    return (
        f"For the close of the {timeframe} candle that opens at "
        f"{prediction['timestamp']:%Y-%m-%d %H:%M} UTC it forecasts {says}, from {last}. That the "
        f"direction is right has a probability of {100 * prediction['confidence']:.1f} %, where a "
        f"coin toss has 50 %; with one of 80 % the close lies between {low} and {high}."
    )


def record_sentence(counts: Tally, n_seen: int) -> str:
    """What is counted of the past forecasts, and what is not."""
    if counts.n + n_seen == 0:
        return "Nothing has come true yet of any forecast from these candles."
    seen = (
        f"{n_seen} of these {counts.n + n_seen} were made at a time that the model was fitted or "
        "calibrated on"
    )
    if counts.n == 0:
        return f"{seen}: they say nothing about forecasts, and no hits are counted."
    low, high = chance_range(counts.n_calls, 0.5)
    sentence = (
        f"In a series of {counts.n_calls} coin tosses, {low} to {high} come out right 95 times in "
        "100, so a count inside that range proves nothing."
    )
    return sentence + (f" {seen}; they are marked and not counted." if n_seen else "")


def outcome_rows(outcomes: pd.DataFrame) -> tables.Rows:
    """Past forecasts as text cells, the newest first, moves in percent; a heading first."""
    rows = [["candle", "forecast %", "80 % band", "actual %", "direction", "band"]]
    for outcome in outcomes.iloc[::-1].itertuples(index=False):
        forecast, low, high, actual = (
            page.minus(f"{100 * move:+.2f}")
            for move in (outcome.predicted_return, outcome.q10, outcome.q90, outcome.actual_return)
        )
        mark = " (seen)" if outcome.is_seen else ""
        band = "inside" if outcome.is_inside else "outside"
        moves = [forecast, f"{low} to {high}", actual]
        rows.append(
            [f"{outcome.target:%d %b %H:%M}", *moves, outcome.direction + mark, band + mark]
        )
    return rows
