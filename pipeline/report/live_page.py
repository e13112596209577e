"""What the interactive page says, as HTML: the verdict, one coin's forecast, and what came true of
the last ones.

Its look is that of `page`, within Gradio's. Whatever comes from data is escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.evaluation.outcomes import Tally, chance_range, tally
from pipeline.forecasts.picture import Prediction, format_price, plot_forecast
from pipeline.report import page, pictures, tables
from pipeline.report.tables import show, span

SYNTHETIC_MODEL = (
    "SYNTHETIC MODEL: it was trained on candles that a generator made up; what it forecasts says "
    "nothing about any market."
)
SYNTHETIC_CANDLES = (
    "SYNTHETIC CANDLES: a generator made them up, no market ever traded them. No claim is made."
)
PICTURES = (("wide", 72, (9.6, 3.7)), ("narrow", 36, (4.4, 3.1)))
"""For screens and for phones: class in the style, candles shown, inches."""


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
    """The top of the page: what this is, and what it is worth; the verdict stands before any
    forecast.

    Args:
        test: "test" of the bundle's metrics.
        timeframe: Length of a candle.
        lookback: Candles that the network sees.
        horizon: Candles ahead.
        is_synthetic: Whether the bundle was trained on synthetic candles.
    """
    network, naive = (test["models"][name] for name in (tables.network_of(test), "naive"))
    tone = (
        "good"
        if test["verdict"] == "EDGE"
        else "bad"
        if tables.against_naive(test)["verdict"] == "LOSES"
        else ""
    )
    measured = [
        f"Measured out of sample: mean price error {show(network['mape_percent'], '{:.4f} %')}, "
        f"where naive (no change) has {show(naive['mape_percent'], '{:.4f} %')}",
        f"direction right {show(network['direction_accuracy'], '{:.1f} %', 100)} "
        f"({span(network['direction_accuracy_low'], network['direction_accuracy_high'], factor=100)}), "
        "where a coin toss has 50 %",
    ]
    if test["interval"]:
        measured.append(f"the 80 % band held {show(test['interval']['coverage'], '{:.1f} %', 100)}")
    ahead = "of the next candle" if horizon == 1 else f"{horizon} candles ahead"
    return "\n".join(
        [
            '<div class="forecasts">',
            f"<h1>Crypto forecasts, {html.escape(timeframe)} candles</h1>",
            f'<p class="how">A network looks at the last {lookback} candles of a coin and '
            f"forecasts the close {ahead}. "
            "Whether that is worth anything was measured before it says a word:</p>",
            _banner(SYNTHETIC_MODEL) if is_synthetic else "",
            f'<div class="banner {tone}"><p '
            f'class="verdict">{html.escape(page.minus(tables.verdict_sentence(test)))}</p>'
            f"{page.text(tables.meaning_sentence(test))}"
            f'<p class="note">{html.escape("; ".join(measured))}.</p></div>',
            "</div>",
        ]
    )


def body(answer: Answer, timeframe: str) -> str:
    """What the page says of one coin: the forecast in words and as a picture, then what came true
    of the last ones."""
    return "\n".join(
        [
            '<div class="forecasts">',
            *(_banner(text) for text in answer.banners),
            f"<h2>{html.escape(answer.symbol)}: the forecast</h2>",
            page.text(forecast_sentence(answer, timeframe)),
            _forecast_tiles(answer),
            *_pictures(answer),
            f'<p class="note">Candles from {html.escape(answer.source)}, the last one opened at '
            f"{answer.candles['timestamp'].iloc[-1]:%Y-%m-%d %H:%M} UTC. Times are UTC.</p>",
            *(f'<p class="note">! {html.escape(note)}</p>' for note in answer.notes),
            *_record(answer),
            '<p class="note">A forecast is a description of probabilities, not trading advice. '
            "Programs ask the endpoint "
            "/predict.</p>",
            "</div>",
        ]
    )


def problem(error: Exception) -> str:
    """The page where there is no forecast: what is wrong and what helps."""
    return f'<div class="forecasts" role="alert">{_banner(f"No forecast: {error}")}</div>'


def forecast_sentence(answer: Answer, timeframe: str) -> str:
    """The forecast in words."""
    prediction, quote = answer.prediction, answer.symbol.split("/")[1]
    low, high = format_price(prediction["price_low"]), format_price(prediction["price_high"])
    opens = f"{prediction['timestamp']:%Y-%m-%d %H:%M} UTC"
    move = prediction["return"]
    says = (
        "no change"
        if move == 0
        else f"a {'rise' if move > 0 else 'fall'} to {format_price(prediction['price'])} {quote}"
    )
    return (
        f"For the close of the {timeframe} candle that opens at {opens} it forecasts {says}, from "
        f"{format_price(prediction['last_price'])}. That the direction is right has a probability "
        f"of {100 * prediction['confidence']:.1f} %, where a coin toss has 50 %; with one of 80 % "
        f"the close lies between {low} and {high}."
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


def _record(answer: Answer) -> list[str]:
    outcomes = answer.outcomes
    if outcomes.empty:
        return page.section("The last forecasts", record_sentence(tally(outcomes), 0))
    counts = tally(outcomes)
    picture = page.picture(
        pictures.week_plot(outcomes.assign(timestamp=outcomes["target"]), "predicted_return"),
        f"{answer.symbol}: what came true, beside the forecast and its band",
    )
    listing = f'<div class="listing">{page.table(outcome_rows(outcomes))}</div>'
    return page.section(
        f"The last {len(outcomes)} forecasts, and what came true",
        html.escape(record_sentence(counts, int(outcomes["is_seen"].sum()))),
        _record_tiles(counts) if counts.n else "",
        page.pair(picture, listing),
    )


def outcome_rows(outcomes: pd.DataFrame) -> list[list[str]]:
    """Past forecasts as text cells, the newest first, moves in percent; a heading first."""
    rows = [["candle", "forecast %", "80 % band", "actual %", "direction", "band"]]
    columns = [
        "target",
        "predicted_return",
        "q10",
        "q90",
        "actual_return",
        "direction",
        "is_inside",
        "is_seen",
    ]
    for target, *moves, direction, is_inside, is_seen in (
        outcomes[columns].iloc[::-1].itertuples(index=False)
    ):
        forecast, low, high, actual = (page.minus(f"{100 * move:+.2f}") for move in moves)
        band = "inside" if is_inside else "outside"
        mark = " (seen)" if is_seen else ""
        rows.append(
            [
                f"{target:%d %b %H:%M}",
                forecast,
                f"{low} to {high}",
                actual,
                direction + mark,
                band + mark,
            ]
        )
    return rows


def _banner(text: str) -> str:
    return f'<p class="banner bad">{html.escape(text)}</p>'


def _forecast_tiles(answer: Answer) -> str:
    prediction, quote = answer.prediction, html.escape(answer.symbol.split("/")[1])
    change = page.minus(f"{prediction['return_percent']:+.3f}")
    way = "up" if prediction["p_up"] >= 0.5 else "down"
    return _tiles(
        [
            (f"forecast, {quote}", format_price(prediction["price"]), f"{change} %"),
            (
                f"80 % band, {quote}",
                f"{format_price(prediction['price_low'])} – "
                f"{format_price(prediction['price_high'])}",
                "meant to hold 8 of 10 closes",
            ),
            (
                f"confidence: {way}",
                f"{100 * prediction['confidence']:.1f} %",
                "a coin toss has 50 %",
            ),
        ]
    )


def _record_tiles(counts: Tally) -> str:
    right, inside = chance_range(counts.n_calls, 0.5), chance_range(counts.n, 0.8)
    return _tiles(
        [
            (
                "directions right",
                f"{counts.n_right} of {counts.n_calls}",
                f"a coin toss: {counts.n_calls / 2:g}, mostly {right[0]} to {right[1]}",
            ),
            (
                "inside the 80 % band",
                f"{counts.n_inside} of {counts.n}",
                f"promised: {0.8 * counts.n:.0f}, mostly {inside[0]} to {inside[1]}",
            ),
            (
                "mean error, %",
                f"{100 * counts.error:.3f}",
                f"no change: {100 * counts.naive_error:.3f}",
            ),
        ]
    )


def _tiles(tiles: list[tuple[str, str, str]]) -> str:
    cells = (
        f"<div><dt>{name}</dt><dd>{value}</dd><dd>{note}</dd></div>" for name, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _pictures(answer: Answer) -> list[str]:
    """The same picture for screens and for phones, of which the style shows one."""
    parts = []
    for kind, shown, size in PICTURES:
        figure = plot_forecast(answer.candles, answer.prediction, shown=shown, size=size)
        pictures.dress(figure.axes[0])
        name = f"{answer.symbol}: the last {shown} candles, the forecast and its 80 % band"
        parts.append(f'<div class="{kind}">{page.picture(figure, name)}</div>')
    return parts


STYLE = """
.forecasts {
  --ink: #1d2327; --muted: #5f6975; --line: #d9dee4; --card: #f5f6f8;
  --accent: #2b5c9e; --good: #1a7f5a; --bad: #b3423a;
  font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
}
.dark .forecasts {
  --ink: #e4e8ec; --muted: #9aa5b1; --line: #343b43; --card: #1e2328;
  --accent: #7db0f0; --good: #4fc79a; --bad: #f0857c;
}
.gradio-container { max-width: 68rem !important; margin: 0 auto !important; }
.html-container { padding: 0 !important; }
.forecasts * { border-color: var(--line); }
.forecasts h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
.forecasts h2 { font-size: 1.25rem; margin: 0 0 .3rem; }
.forecasts p { margin: .5rem 0; max-width: 46rem; }
.forecasts section { margin-top: 2rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
.forecasts .how, .forecasts .note, .forecasts figcaption { color: var(--muted); }
.forecasts .note, .forecasts figcaption { font-size: .875rem; }
.forecasts .banner { max-width: none; margin: 1rem 0; padding: .8rem 1rem; border-left: .4rem solid var(--muted);
  background: var(--card); border-radius: .2rem; }
.forecasts .banner p { margin: .2rem 0; max-width: none; }
.forecasts .verdict { font-size: 1.2rem; font-weight: 650; }
.forecasts .banner.good { border-color: var(--good); }
.forecasts .banner.bad { border-color: var(--bad); }
.forecasts .tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .7rem;
  margin: 1rem 0; }
.forecasts .tiles div { background: var(--card); border-radius: .3rem; padding: .7rem .9rem; }
.forecasts dt, .forecasts dd { margin: 0; font-size: .875rem; color: var(--muted); }
.forecasts dt + dd { font-size: 1.5rem; line-height: 1.3; color: var(--ink); font-variant-numeric: tabular-nums; }
.forecasts figure { margin: .6rem 0; }
.forecasts svg { display: block; width: 100%; height: auto; }
.forecasts svg * { stroke-linejoin: round; }
.forecasts svg text { font-family: system-ui, sans-serif !important; fill: var(--ink); }
.forecasts .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem 2rem; }
.forecasts .pair > div { min-width: 0; }
.forecasts .listing thead { position: sticky; top: 0; background: var(--body-background-fill); }
.forecasts .listing { max-height: 24rem; overflow-y: auto; }
.forecasts .scroll { overflow-x: auto; }
.forecasts table, .forecasts tr { border: 0 !important; }
.forecasts table { border-collapse: collapse; width: 100%; margin: 0; font-size: .8rem;
  font-variant-numeric: tabular-nums; }
.forecasts th, .forecasts td { padding: .3rem; text-align: right; border: 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; color: var(--ink); background: none; }
.forecasts th { color: var(--muted); font-weight: 600; white-space: normal; vertical-align: bottom; }
.forecasts th:first-child, .forecasts td:first-child { text-align: left; padding-left: 0; }
.forecasts td.good { color: var(--good); font-weight: 600; }
.forecasts td.bad { color: var(--bad); font-weight: 600; }
footer .divider { display: none !important; }
.forecasts .narrow { display: none; }
.chooser { align-items: end; }
@media (max-width: 44rem) {
  .forecasts .wide { display: none; }
  .forecasts .narrow { display: block; }
  .forecasts table { font-size: .72rem; }
  .forecasts th:nth-child(3), .forecasts td:nth-child(3) { display: none; }  /* the picture shows the band */
}
"""
