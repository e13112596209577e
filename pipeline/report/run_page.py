"""An evaluation as one self-contained page for the browser: the verdict on top, then what it rests
on.

The page asks for nothing outside itself, shows everything without its script, and is dark where the
browser is.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.bundle import files
from pipeline.report import page, pictures, tables
from pipeline.report.tables import NONE, show, span

CANDLES_SHOWN = 168
"""length of the excerpts of actual against predicted: a week of hours"""
SYMBOLS_SHOWN = 6

_SYNTHETIC = "SYNTHETIC CANDLES: nothing here says anything about a real market."
_TILE_NOTES = {
    "BEATS": "more than luck explains",
    "TIES": "may be luck",
    "LOSES": "worse than no forecast",
}


def html_report(
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    history: Mapping[str, Any],
    settings: Mapping[str, Any],
    generation: str = "v2",
    sections: Sequence[str] = (),
) -> str:
    """One self-contained page of a run.

    Args:
        metrics: Content of the metrics file: "data", "split", "test", "backtest" and "folds".
        predictions: Rows of the predictions file.
        history: "loss", "val_loss" (a number an epoch) and "best_epoch"; of several networks, name
            -> such a mapping.
        settings: The run's settings.
        generation: What the page calls the system.
        sections: HTML of what only this generation has to tell, after the scores.
    """
    test, folds = metrics["test"], metrics.get("folds") or []
    parts = [
        *_heading(metrics, predictions, generation),
        *_skill_by(test),
        *_scores(test),
        *sections,
        *_direction_calibration(test),
        *_intervals(test),
        *_excerpts(predictions, test),
        *_money(metrics.get("backtest")),
        *_folds(folds),
        *_training(history, n_folds=len(folds)),
        *_provenance(metrics, settings),
        '<p class="note">A forecast is a description of probabilities, not trading advice.</p>',
    ]
    return page.whole(f"{generation}: {test['verdict']}", parts)


def _heading(metrics: Mapping[str, Any], predictions: pd.DataFrame, generation: str) -> list[str]:
    test, data = metrics["test"], metrics["data"]
    first, last = (
        f"{moment:%Y-%m-%d}"
        for moment in (predictions["timestamp"].min(), predictions["timestamp"].max())
    )
    symbols = list(data["symbols"])
    return [
        f"<h1>{html.escape(generation)} on {html.escape(_listing(symbols))}</h1>",
        f'<p class="note">{html.escape(data["timeframe"])} candles, {test["n"]:,} forecasts from '
        f"{first} to {last} "
        "that neither the network nor its calibration had seen.</p>",
        f'<p class="banner bad">{_SYNTHETIC}</p>' if data["synthetic"] else "",
        f'<div class="banner {_tone(test)}"><p '
        f'class="verdict">{html.escape(tables.verdict_sentence(test))}</p>'
        f"<p>{html.escape(tables.meaning_sentence(test))}</p></div>",
        *(f'<p class="banner bad">{html.escape(text)}</p>' for text in test["warnings"]),
        _tiles(metrics),
    ]


def _tone(test: Mapping[str, Any]) -> str:
    if test["verdict"] == "EDGE":
        return "good"
    return "bad" if tables.against_naive(test)["verdict"] == "LOSES" else "plain"


def _tiles(metrics: Mapping[str, Any]) -> str:
    """The four numbers that a reader asks for first."""
    test, money = metrics["test"], metrics.get("backtest")
    naive, numbers, interval = (
        tables.against_naive(test),
        test["models"][tables.network_of(test)],
        test["interval"],
    )
    right = span(numbers["direction_accuracy_low"], numbers["direction_accuracy_high"], factor=100)
    tiles = [
        (
            "skill against naive,\u00a0%",
            show(naive["skill"], "{:+.2f}", 100),
            _TILE_NOTES[naive["verdict"]],
        ),
        (
            "directions right,\u00a0%",
            show(numbers["direction_accuracy"], "{:.1f}", 100),
            f"{right}; a coin toss has 50",
        ),
        (
            "80\u00a0% interval held,\u00a0%",
            show(interval and interval["coverage"], "{:.1f}", 100),
            "80 is the promise",
        ),
        (
            "return after fees,\u00a0%",
            show(money and money["net"]["total_return"], "{:+,.1f}", 100),
            f"buy and hold {show(money and money['buy_and_hold']['total_return'], '{:+,.1f}', 100)}",
        ),
    ]
    cells = (
        f"<div><dt>{name}</dt><dd>{page.minus(value)}</dd><dd>{'' if value == NONE else page.minus(note)}</dd></div>"
        for name, value, note in tiles
    )
    return f'<dl class="tiles">{"".join(cells)}</dl>'


def _skill_by(test: Mapping[str, Any]) -> list[str]:
    groups = test["skill_by"]
    if not groups:
        return []
    figures = []
    for by, title in (("symbol", "by symbol"), ("month", "by calendar month of the forecast")):
        # A month of a few hours at either end would set the scale for all others.
        told = [row for row in groups[by] if row["low"] is not None] or groups[by]
        rows = [
            (row[by], *(_percent(row[key]) for key in ("skill", "low", "high"))) for row in told
        ]
        if any(row["skill"] is not None for row in told):
            figures.append(
                page.picture(
                    pictures.forest_plot(rows, 0, "skill against naive, %"), f"Skill {title}"
                )
            )
    return page.section(
        "Where and when it helped",
        "Right of the line the network's errors are smaller than those of assuming no change, "
        "left of it larger; a bar (95 % interval) that crosses the line may be luck, and one bar "
        "in twenty misses by luck alone.",
        page.pair(*figures),
    )


def _scores(test: Mapping[str, Any]) -> list[str]:
    return page.section(
        "Every score beside the forecasts that cost nothing",
        "A network that deserves its name has smaller errors (MAPE, MAE, RMSE) than naive, which "
        "forecasts no change; directions near 50 % and R² near 0 are normal for hourly candles.",
        page.pair(
            page.table(list(zip(*tables.table_rows(test))))
            + '<p class="note">bps: 1/100 % of the log-return. R² is measured against the forecast 0. 95 % CI: of the '
            "share of right directions. Top tenth: right directions among the tenth of the "
            "forecasts with the largest "
            "moves.</p>",
            page.table(tables.verdict_rows(test["verdicts"]))
            + '<p class="note">Skill is 1 − loss / loss of the baseline; the loss is the absolute error of the '
            "log-return in units of the candle's volatility. Diebold-Mariano above 0: the network "
            "is closer. BEATS and "
            "LOSES need p below 0.05 after Holm's correction.</p>"
            + page.text(tables.confidence_set_sentence(test)),
        ),
        page.details("Price error by symbol", page.table(tables.symbol_rows(test))),
    )


def _direction_calibration(test: Mapping[str, Any]) -> list[str]:
    title = "Is the confidence a probability?"
    probability = test["probability"]
    if not probability:
        return page.section(title, "There are no probabilities of a rise to judge.")
    confidence, figure, note = probability["confidence"], "", ""
    if confidence:
        figure = page.picture(
            pictures.reliability_plot(confidence["bins"]),
            "Right directions by tenth of the confidence",
        )
        note = (
            '<p class="note">Each dot is a tenth of the forecasts. Its bar is the 95 % range for '
            "independent samples; "
            "coins move together, so honest bars are longer.</p>"
        )
    miscalibration, discrimination = (
        max(0.0, probability[name]) for name in ("miscalibration", "discrimination")
    )
    return page.section(
        title,
        "Of the forecasts with a confidence of 55 %, 55 % should be right: the dots should lie on "
        "the line.",
        page.pair(
            figure,
            page.text(tables.confidence_sentence(test))
            + note
            + f'<p class="note">Brier score {probability["brier"]:.4f} = {miscalibration:.4f} miscalibration − '
            f"{discrimination:.4f} discrimination + {probability['uncertainty']:.4f} uncertainty; "
            "always saying one "
            "half scores 0.25.</p>",
        ),
    )


def _intervals(test: Mapping[str, Any]) -> list[str]:
    title = "Is the interval as wide as it says?"
    interval = test["interval"]
    if not interval:
        return page.section(title, "There are no intervals to judge.")
    rows = [
        (
            "all",
            100 * interval["coverage"],
            *(_percent(interval[f"coverage_{end}"]) for end in ("low", "high")),
        )
    ]
    rows += [(symbol, 100 * share, None, None) for symbol, share in interval["by_symbol"].items()]
    compared = interval["comparisons"]
    return page.section(
        title,
        "An 80 % interval should hold four of five returns, for each symbol; among those that do, "
        "the better one is narrower, which the pinball loss measures.",
        page.pair(
            page.picture(
                pictures.forest_plot(rows, 100 * interval["nominal"], "returns held, %", reach=5),
                "Coverage by symbol",
            ),
            page.text(tables.interval_sentence(test))
            + (page.table(tables.verdict_rows(compared)) if compared else "")
            + '<p class="note">Skill in the pinball loss of the 10, 50 and 90 % quantiles. The baselines know nothing '
            "but past returns.</p>",
        ),
    )


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _excerpts(predictions: pd.DataFrame, test: Mapping[str, Any]) -> list[str]:
    network = tables.network_of(test)
    if test["models"][network]["mae"] is None:
        return []
    figures, choices = [], []
    for number, (title, rows) in enumerate(excerpts(predictions)):
        hidden = " hidden" if number else ""
        choices.append(f'<option value="week{number}">{html.escape(title)}</option>')
        figures.append(
            f'<div id="week{number}"{hidden}>{page.picture(pictures.week_plot(rows, network), title)}</div>'
        )
    chooser = (
        f'<select aria-label="symbol and span" hidden>{"".join(choices)}</select>'
        if len(choices) > 1
        else ""
    )
    return page.section(
        "Actual against predicted",
        "The thin line is what happened, the thick one the forecast; the band should hold four of "
        "five returns. A forecast much calmer than the market is as it should be, for most of a "
        "return cannot be known.",
        page.pair(
            f'<div class="chooser">{chooser}{"".join(figures)}</div>',
            "<h3>Does it copy the last move?</h3>"
            '<p class="how">A forecast that repeats the last return looks good in a chart of '
            "prices and is worth "
            "nothing: the first number would be near +1.</p>"
            + page.text(tables.lag_sentence(test)),
        ),
    )


def excerpts(predictions: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A title and the rows of the pictures of actual against predicted.

    Args:
        predictions: Rows of the predictions file.

    Returns:
        For each of the first six symbols its last 168 samples, and where there are more the 168
        whose actual returns are largest.
    """
    chosen = []
    for symbol in predictions["symbol"].unique()[:SYMBOLS_SHOWN]:
        rows = predictions[predictions["symbol"] == symbol].sort_values("timestamp")
        starts = range(len(rows) - CANDLES_SHOWN, -1, -CANDLES_SHOWN)
        spans = [rows.iloc[start : start + CANDLES_SHOWN] for start in starts] or [rows]
        wild = max(spans[1:], key=lambda part: part["actual_return"].abs().mean(), default=None)
        for name, part in (("last", spans[0]), ("wildest", wild)):
            if part is not None:
                first, last = part["timestamp"].iloc[[0, -1]]
                chosen.append((f"{symbol}, {first:%Y-%m-%d} to {last:%Y-%m-%d} ({name})", part))
    return chosen


def _training(history: Mapping[str, Any], n_folds: int) -> list[str]:
    several = {f"Loss by epoch, {name}": curve for name, curve in history.items()}
    curves = {"Loss by epoch": history} if "loss" in history else several
    whose = " The curves are those of the last fold's network." if n_folds > 1 else ""
    return page.section(
        "Training curves",
        "The epoch with the lowest validation loss is kept; where the validation loss rises while "
        f"the training loss falls, the network learns by heart.{whose}",
        page.pair(
            *(page.picture(pictures.training_plot(curve), title) for title, curve in curves.items())
        ),
    )


def _money(money: Mapping[str, Any] | None) -> list[str]:
    title = "Money"
    if not money:
        return page.section(title, "There are no forecasts to trade on.")
    flat = (
        f" where it exceeds {money['threshold']:g} volatilities, else flat"
        if money["threshold"]
        else ""
    )
    return page.section(
        title,
        "What following the sign of every forecast would have earned, beside buying once and "
        "waiting: a summary of the forecasts, not a promise.",
        page.pair(
            page.picture(pictures.equity_plot(money["equity"]), "Capital after fees"),
            page.text(tables.fee_sentence(money)) + page.table(tables.trading_rows(money)),
        ),
        page.table(tables.account_rows(money)),
        f'<p class="note">Long or short by the sign of the forecast{flat}, with an equal share of '
        "the capital for each "
        "symbol; spreads and slippage are left out.</p>",
        *(
            f'<p class="note">{html.escape(note[:1].upper() + note[1:])}.</p>'
            for note in money["notes"]
        ),
    )


def _folds(folds: Sequence[Mapping[str, Any]]) -> list[str]:
    if len(folds) < 2:
        return []
    return page.section(
        "Fold by fold",
        "Each fold has a network of its own, trained on what came before; a recipe that works "
        "wins most of them. The p of a fold stands alone, without correction for their number.",
        page.text(tables.fold_sentence(folds)),
        page.table(tables.fold_rows(folds)),
    )


def _provenance(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    data = metrics["data"]
    symbols = [
        [
            symbol,
            f"{facts['rows']:,}",
            facts["first"][:16],
            facts["last"][:16],
            str(facts["missing_candles"]),
        ]
        for symbol, facts in data["symbols"].items()
    ]
    parts = [
        [name, f"{part['n']:,}", part["first"][:16], part["last"][:16]]
        for name, part in metrics["split"].items()
    ]
    return page.section(
        "Where it comes from",
        "What is needed to make this run again; times are UTC.",
        page.details(
            "Candles",
            f"<p>{html.escape(data['source'])}: {html.escape(str(data['venue']))}</p>",
            page.table([["symbol", "candles", "first", "last", "missing"], *symbols]),
        ),
        page.details(
            "Split", page.table([["part", "samples", "first target", "last target"], *parts])
        ),
        page.details("Settings", page.table([["setting", "value"], *_pairs(settings)])),
        page.details(
            "Environment", page.table([["library", "version"], *_pairs(files.environment())])
        ),
    )


def _pairs(values: Mapping[str, Any]) -> list[list[str]]:
    return [[name, str(value)] for name, value in values.items()]


def _listing(names: Sequence[str], most: int = 6) -> str:
    return (
        ", ".join(names)
        if len(names) <= most
        else f"{', '.join(names[:most])} and {len(names) - most} more"
    )
