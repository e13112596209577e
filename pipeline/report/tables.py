"""An evaluation in cells and words: the tables and sentences that terminal, pages and cards share.

All of it reads the dict that `scoring.score_run` returns, or its part "test", and writes "–" for
what is None. A table is a list of rows of text cells, a heading first.
"""

from __future__ import annotations

import calendar
import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.losses import (
    IN_DOUBT,
    IN_WORDS,
    LOSS,
    SQUARED_LOSS,
    WRONG_DIRECTION,
    deciding,
)
from pipeline.forecasts.prediction import format_price
from pipeline.terminal import WIDTH

Rows = list[list[str]]

NONE = "–"
NETWORK = "lstm"
"""what a training run's columns call the network"""
INDENT = "      "
SYNTHETIC = (
    "SYNTHETIC CANDLES: a generator made up what this network was trained or tested on. Nothing "
    "here says anything about a real market."
)
"""What no reader of a run on them may miss, wherever it is told."""
LAST_MOVE = 0.5
"""Correlation with the last move from which a forecast is its copy, or if negative its reversal."""

COLUMNS = (
    ("price MAPE %", "mape_percent", "{:.4f}", 1.0),
    ("MAE bps", "mae", "{:.3f}", 1e4),
    ("RMSE bps", "rmse", "{:.2f}", 1e4),
    ("R² %", "r2", "{:+.3f}", 100.0),
    ("direction %", "direction_accuracy", "{:.2f}", 100.0),
    ("95 % CI", "direction_accuracy_low", "", 100.0),
    ("top 10th %", "top_tenth_accuracy", "{:.2f}", 100.0),
    ("ROC-AUC", "roc_auc", "{:.4f}", 1.0),
)
"""Heading, key, form and factor of the evaluation's table."""

ACCOUNTS = {"after fees": "net", "before fees": "gross", "buy and hold": "buy_and_hold"}
_VERBS = {"BEATS": "BEATS", "TIES": "TIES with", "LOSES": "LOSES to"}


# Numbers


def show(value: float | None, form: str = "{:+.2f}", factor: float = 1.0) -> str:
    """A number in its form, or "–" for what is undefined: None, NaN and infinities.

    Example:
        >>> show(0.0123, "{:.1f} %", 100), show(None), show(float("nan")), show(-0.001)
        ('1.2 %', '–', '–', '+0.00')
    """
    if value is None or not math.isfinite(value):
        return NONE
    text = form.format(factor * value)
    if text.startswith("-") and not re.search("[1-9]", text):  # it rounds to 0
        return form.format(0.0)
    return text


def percent(value: float | None) -> float | None:
    """A share in percent; None stays None."""
    return None if value is None else 100 * value


def span(low: float | None, high: float | None, form: str = "{:.1f}", factor: float = 1.0) -> str:
    """An interval, or "–" where an end is None."""
    if low is None or high is None:
        return NONE
    return f"{show(low, form, factor)} to {show(high, form, factor)}"


def p_text(value: float | None) -> str:
    """A p-value to three places.

    Example:
        >>> p_text(0.0576), p_text(3.74e-06), p_text(None)
        ('0.058', '<0.001', '–')
    """
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def network_of(test: Mapping[str, Any]) -> str:
    """The network's name in the tables."""
    return str(test["verdicts"][0]["model"])


def subject_of(test: Mapping[str, Any]) -> str:
    """What sentences call the model: the network of a run, or a judged one by its name."""
    name = network_of(test)
    return "the network" if name == NETWORK else name


def loss_in_words(test: Mapping[str, Any]) -> str:
    """In what the verdict's comparisons are made."""
    loss = deciding(test["verdicts"])[0].get("loss")
    return IN_WORDS.get(str(loss), IN_WORDS[LOSS])


def says_sizes(test: Mapping[str, Any]) -> bool:
    """Whether the model says how far prices move, and not only where to."""
    return deciding(test["verdicts"])[0].get("loss") != WRONG_DIRECTION


def against_naive(test: Mapping[str, Any]) -> Mapping[str, Any]:
    """The comparison that the verdict stands on."""
    return next(entry for entry in deciding(test["verdicts"]) if entry["baseline"] == "naive")


def tone_of(test: Mapping[str, Any]) -> str:
    """How a page colours the verdict: good, bad or plain."""
    if test["verdict"] == "EDGE":
        return "good"
    if test["verdict"] == IN_DOUBT:
        return "bad"
    return "bad" if against_naive(test)["verdict"] == "LOSES" else "plain"


# Tables of a run


def score_rows(test: Mapping[str, Any]) -> Rows:
    """The scores of each model."""
    rows = [["model", *(heading for heading, *_ in COLUMNS)]]
    for model, numbers in test["models"].items():
        cells = {key: show(numbers.get(key), form, by) for _, key, form, by in COLUMNS}
        low, high = (numbers.get(f"direction_accuracy_{end}") for end in ("low", "high"))
        # A dash, since with " to " the table is too wide.
        cells["direction_accuracy_low"] = span(low, high, factor=100).replace(" to ", "–")
        rows.append([model, *cells.values()])
    return rows


def verdict_rows(comparisons: Sequence[Mapping[str, Any]], of: str = "") -> Rows:
    """The comparisons that decide; `squared_sentence` tells the others.

    `of` says of what they are, where there are several kinds.
    """
    rows = [["comparison", "skill %", "Diebold-Mariano", "p (Holm)", "verdict"]]
    for entry in deciding(comparisons):
        who = f"{of}{': ' if of else ''}{entry['model']} against {entry['baseline']}"
        skill = show(entry["skill"], "{:+.3f}", 100)
        test = [show(entry["statistic"]), p_text(entry["p_holm"])]
        rows.append([who, skill, *test, entry["verdict"]])
    return rows


def symbol_rows(test: Mapping[str, Any]) -> Rows:
    """Each model's price error by symbol."""
    by_symbol = {model: numbers["by_symbol"] for model, numbers in test["models"].items()}
    rows = [["price MAPE %", *by_symbol]]
    for symbol in next(iter(by_symbol.values())):
        errors = [show(of[symbol]["mape_percent"], "{:.4f}") for of in by_symbol.values()]
        rows.append([symbol, *errors])
    return rows


def account_rows(money: Mapping[str, Any]) -> Rows:
    """The backtest's three accounts."""
    rows = [["account", "return %", "return % a year", "Sharpe a year", "drawdown %"]]
    for title, name in ACCOUNTS.items():
        account = money[name]
        returns = [
            show(account[key], "{:+,.1f}", 100) for key in ("total_return", "annualised_return")
        ]
        drawdown = show(account["max_drawdown"], "{:.1f}", 100)
        rows.append([title, *returns, show(account["sharpe"]), drawdown])
    return rows


def trading_rows(money: Mapping[str, Any]) -> Rows:
    """What the trading took, a fact a row, with its unit in the first cell."""
    sharpe = span(money["sharpe_low"], money["sharpe_high"], "{:+.2f}")
    return [
        ["trading", "value"],
        ["Sharpe after fees, 95 % interval", sharpe],
        ["win rate, % of the spans with a position", show(money["win_rate"], "{:.1f}", 100)],
        ["positions opened", f"{money['n_trades']:,}"],
        ["time in the market, % of the capital", show(money["time_in_market"], "{:.1f}", 100)],
        ["turnover, times the capital a year", show(money["turnover_per_year"], "{:,.0f}")],
        ["fees paid, % of the capital", show(money["fees_paid"], "{:.1f}", 100)],
        ["funding paid, % of the capital", show(money["funding_paid"], "{:+.2f}", 100)],
        ["fee assumed, bps a side", f"{money['fee_bps']:g}"],
        ["fee at which it breaks even, bps a side", show(money["break_even_fee_bps"])],
    ]


def entry_rows(delayed: Sequence[Mapping[str, Any]]) -> Rows:
    """What is left of the forecasts for those who enter late; no rows where nobody knows.

    An entry at the close stands before each late one, once where both are of the same forecasts.
    """
    if not delayed:
        return []
    heading = "entry, forecasts, skill %, Diebold-Mariano, direction %, break-even bps, 95 % CI"
    rows = [heading.split(", ")]
    for late in delayed:
        for title, entry in (
            ("at the close", late["at_close"]),
            (f"{late['delay_minutes']} min later", late["delayed"]),
        ):
            skill, statistic = show(entry["skill"], "{:+.3f}", 100), show(entry["statistic"])
            right = show(entry["direction_accuracy"], "{:.2f}", 100)
            ends = span(entry["break_even_low"], entry["break_even_high"], "{:+.2f}")
            fee = [show(entry["break_even_fee_bps"]), ends]
            row = [title, f"{late['n']:,}", skill, statistic, right, *fee]
            rows += [row] if row not in rows else []
    return rows


def fold_rows(folds: Sequence[Mapping[str, Any]]) -> Rows:
    """The folds of a walk-forward run."""
    rows = [["fold from", "days", "forecasts", "skill %", "p", "verdict"]]
    for fold in folds:
        days = (pd.Timestamp(fold["to"]) - pd.Timestamp(fold["from"])) / pd.Timedelta(days=1)
        test = [show(fold["skill"], "{:+.3f}", 100), p_text(fold["p_value"]), fold["verdict"]]
        rows.append([fold["from"][:10], f"{days:.1f}", f"{fold['n']:,}", *test])
    return rows


def age_rows(curve: Mapping[str, Any]) -> Rows:
    """The skill by days since training, `decay.age_curve`."""
    rows = [["days since training", "trainings", "forecasts", "skill %", "95 % interval"]]
    for step in curve["steps"]:
        ends = span(step["low"], step["high"], "{:+.2f}", 100)
        counts = [f"{step['trainings']:,}", f"{step['n']:,}"]
        rows.append([age_text(step), *counts, show(step["skill"], "{:+.3f}", 100), ends])
    return rows


def age_text(step: Mapping[str, Any]) -> str:
    """A step of the age curve in words."""
    return f"{step['from_day']} to {step['to_day']}"


def horizon_rows(tests: Mapping[int, Mapping[str, Any]]) -> Rows:
    """The networks' figures, a row a horizon.

    Args:
        tests: Horizon -> "test" of a run's metrics.
    """
    heading = "horizon, forecasts, skill against naive %, Diebold-Mariano, p (Holm), direction %"
    rows = [[*heading.split(", "), "verdict"]]
    for horizon, test in tests.items():
        naive = against_naive(test)
        accuracy = test["models"][network_of(test)]["direction_accuracy"]
        against = [show(naive["skill"], "{:+.3f}", 100), show(naive["statistic"])]
        against += [p_text(naive["p_holm"]), show(accuracy, "{:.2f}", 100)]
        rows.append([str(horizon), f"{test['n']:,}", *against, test["verdict"]])
    return rows


def member_rows(ensemble: Mapping[str, Any]) -> Rows:
    """What `members.score_members` returns."""

    def cells(scores: Mapping[str, Any]) -> list[str]:
        forms = {"skill": "{:+.3f}", "direction_accuracy": "{:.2f}"}
        return [show(scores[key], form, 100) for key, form in forms.items()]

    rows = [["network", "best epoch", "validation loss", "skill against naive %", "direction %"]]
    for number, member in enumerate(ensemble["members"], start=1):
        facts = [str(member["best_epoch"] + 1), show(member["val_loss"], "{:.5f}")]
        rows.append([f"member {number}, seed {member['seed']}", *facts, *cells(member)])
    return [*rows, ["their mean, the forecast", "", "", *cells(ensemble["mean"])]]


def candle_rows(data: Mapping[str, Any]) -> Rows:
    """The candles of a run, from `CandleSet.provenance`."""
    rows = [["symbol", "candles", "first", "last", "missing", "sha256"]]
    for symbol, of in data["symbols"].items():
        times = [of["first"][:16], of["last"][:16]]
        sha256 = of.get("sha256", NONE)[:12]
        rows.append([symbol, f"{of['rows']:,}", *times, str(of["missing_candles"]), sha256])
    return rows


def importance_rows(importance: Mapping[str, Any]) -> Rows:
    """What `permutation_importance` returns."""
    rows = [["group of features", "skill lost, points", "95 % interval", "forecast moves by, %"]]
    for of in importance["groups"]:
        interval = span(of["low"], of["high"], "{:+.2f}", 100)
        numbers = [show(of["skill_lost"], "{:+.2f}", 100), interval]
        name = f"{of['group']}: {', '.join(of['features'])}"
        rows.append([name, *numbers, show(of["moved"], "{:.0f}", 100)])
    return rows


def month_rows(months: Sequence[Mapping[str, Any]], account: str) -> list[tuple[str, list]]:
    """A calendar of what an account earned, a row a year: its name, and a number a month and year.

    Months that no year has are left out; the last number is the whole year's.

    Args:
        months: `tear_sheet.months`.
        account: "strategy" or "buy_and_hold".

    Example:
        >>> months = [{"month": "2024-01", "it": 0.5}, {"month": "2024-02", "it": -0.5}]
        >>> month_rows(months, "it")
        [('year', ['Jan', 'Feb', 'year']), ('2024', [0.5, -0.5, -0.25])]
    """
    earned = {row["month"]: row[account] for row in months}
    numbers = sorted({month[5:] for month in earned})
    rows: list[tuple[str, list]] = [
        ("year", [*(calendar.month_abbr[int(number)] for number in numbers), "year"])
    ]
    for year in sorted({month[:4] for month in earned}):
        of_year = [earned.get(f"{year}-{number}") for number in numbers]
        known = [value for month, value in earned.items() if month[:4] == year]
        whole = None if None in known else math.prod(1 + value for value in known) - 1
        rows.append((year, [*of_year, whole]))
    return rows


def run_facts(run: Mapping[str, Any]) -> dict[str, str]:
    """When, by which command and with which code a run was made, from `origin.run_facts`.

    Example:
        >>> run_facts({"started": "2026-11-26T18:51:02+00:00", "version": "2.0.0"})["code"]
        'crypto-system 2.0.0, commit unknown'
    """
    if not run:
        return {}
    commit = f"commit {run['commit']}" if run.get("commit") else "commit unknown"
    changed = ", with changes that are in no commit" if run.get("dirty") else ""
    called = "none: main(config) was called from Python, with the settings below"
    return {
        "begun": minute_of(str(run.get("started"))),
        "command": str(run.get("command") or called),
        "code": f"crypto-system {run.get('version')}, {commit}{changed}",
    }


def split_rows(split: Mapping[str, Mapping[str, Any]]) -> Rows:
    """The parts of a run's samples."""
    rows = [["part", "samples", "first target", "last target"]]
    for name, part in split.items():
        rows.append([name, f"{part['n']:,}", part["first"][:16], part["last"][:16]])
    return rows


# Tables of prices


def price_error_rows(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Rows:
    """What `price_errors` returns."""
    heading = "absolute error of the price, MAE $, RMSE $, MAPE %, min $, median $, max $"
    rows = [heading.split(", ")]
    for symbol, models in errors.items():
        for model, values in models.items():
            cells = {
                key: format_price(values[key])
                for key in ("mae", "rmse", "mape_percent", "min", "median", "max")
            }
            cells["mape_percent"] = f"{values['mape_percent']:.4f}"
            rows.append([f"{symbol} {model}", *cells.values()])
    return rows


def sample_rows(predictions: pd.DataFrame, models: Sequence[str], n_rows: int = 5) -> Rows:
    """Prices of a few rows of each symbol, evenly spread over the test part."""
    heading = [cell for model in models for cell in (f"{model} $", "error %")]
    table = [["sample predictions, candle t + horizon", "actual $", *heading]]
    for symbol, rows in predictions.groupby("symbol", sort=False):
        chosen = np.linspace(0, len(rows) - 1, min(n_rows, len(rows))).astype(int)
        for _, row in rows.iloc[chosen].iterrows():
            actual = row["base_price"] * np.exp(row["actual_return"])
            cells = [f"{symbol} {row['timestamp']:%Y-%m-%d %H:%M}", format_price(actual)]
            for model in models:
                price = row["base_price"] * np.exp(row[model])
                cells += [format_price(price), f"{100 * abs(price - actual) / actual:.2f}"]
            table.append(cells)
    return table


def head_error_rows(errors: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> Rows:
    """`head_errors` of several networks, by their names."""
    rows: Rows = []
    for network, models in errors.items():
        for model, heads in models.items():
            if not rows:
                units = [f"{head} {unit}" for unit in "%$" for head in heads]
                rows.append(["MAPE %, then MAE $", *units])
            percents = [f"{values['mape_percent']:.3f}" for values in heads.values()]
            dollars = [format_price(values["mae"]) for values in heads.values()]
            rows.append([f"{network} {model}", *percents, *dollars])
    return rows


# Sentences


def verdict_sentence(test: Mapping[str, Any]) -> str:
    """The run's verdict and its reason, in a sentence for people."""
    return f"{test['verdict']}: {reason_sentence(test)}"


def brief_sentence(test: Mapping[str, Any]) -> str:
    """The run's verdict without its numbers."""
    naive, others = against_naive(test), _lost_to(test)
    sentence = f"{test['verdict']}: in {loss_in_words(test)} it {_VERBS[naive['verdict']]} naive"
    if others:
        sentence += f" and LOSES to {', '.join(others)}"
    return sentence + (", but not any more" if is_over(test) else "")


def reason_sentence(test: Mapping[str, Any]) -> str:
    """What the run's verdict rests on."""
    naive, others = against_naive(test), _lost_to(test)
    if naive["skill"] is None:
        skill, p_value = "an undefined skill", "not tested"
    else:
        skill, p_value = f"skill {show(naive['skill'], '{:+.3f}', 100)} %", "too few to test"
    if naive["p_holm"] is not None:
        value = p_text(naive["p_holm"])
        p_value = f"Holm's p < {value[1:]}" if value.startswith("<") else f"Holm's p = {value}"
    if naive["verdict"] == "TIES" and (least := test.get("power", {}).get("skill_against_naive")):
        p_value += f"; one below {100 * least:.2g} % is often missed in such a run"
    who = f"in {loss_in_words(test)} {subject_of(test)}"
    reason = f"{who} {_VERBS[naive['verdict']]} naive ({skill}, {p_value})"
    if others:
        reason += f" and LOSES to {', '.join(others)}"
    if is_over(test):
        reason += ", but not any more in the last whole quarter"
    return f"{reason}, {test['n']:,} forecasts out of sample"


def is_over(test: Mapping[str, Any]) -> bool:
    """Whether the network BEATS naive as a whole, but no longer in its last whole quarter."""
    over_time = test.get("skill_over_time")
    return against_naive(test)["verdict"] == "BEATS" and bool(
        over_time and over_time["last_holds_zero"]
    )


def _lost_to(test: Mapping[str, Any]) -> list[str]:
    """Baselines other than naive that the network LOSES to."""
    compared = deciding(test["verdicts"])
    lost = [entry["baseline"] for entry in compared if entry["verdict"] == "LOSES"]
    return [name for name in lost if name != "naive"]


def is_synthetic(test: Mapping[str, Any]) -> bool:
    """Whether an evaluation is of synthetic candles."""
    return str(test["verdict"]).startswith("NO CLAIM")


def meaning_sentence(test: Mapping[str, Any]) -> str:
    """The same for somebody without statistics."""
    naive, others = against_naive(test), ", ".join(_lost_to(test))
    who = "this network" if network_of(test) == NETWORK else network_of(test)
    here = f"On these coins and months {who}"
    if test["verdict"] == IN_DOUBT:
        return (
            f"The numbers alone say that {who} has an edge. They do not count before what is "
            "doubted here is answered."
        )
    if not says_sizes(test) and not is_synthetic(test):
        return _direction_meaning(test, here)
    standing = "assuming that the price stays where it is"
    if is_synthetic(test):
        return (
            "The candles were made up by a generator: the program works, and nothing is known "
            "about any market."
        )
    if test["models"][network_of(test)]["mae"] is None and says_sizes(test):
        return "The network gave no usable forecasts, most likely because its training diverged."
    if naive["verdict"] == "LOSES":
        return f"{here} was worse than {standing}."
    if naive["verdict"] == "TIES":
        if naive["p_holm"] is None:
            return f"There are too few forecasts here to tell {who} from {standing}."
        end = f", and worse than {others}." if others else "; the difference may be luck."
        return f"{here} was no better than {standing}{end}"
    if others:
        return (
            f"{here} came closer than {standing}, but what costs less did better still: {others}."
        )
    return (
        f"{here} came closer than {standing}, by more than luck explains: its errors were "
        f"{show(naive['skill'], '{:.2f}', 100)} % smaller on average. Whether that pays after fees "
        "is another question."
    )


def _direction_meaning(test: Mapping[str, Any], here: str) -> str:
    """`meaning_sentence` of forecasts that say directions alone."""
    naive, others = against_naive(test), ", ".join(_lost_to(test))
    ends = "Its absolute error is not defined, since it says no sizes."
    if naive["verdict"] == "LOSES":
        return f"{here} was right less often than a coin. {ends}"
    if naive["verdict"] == "TIES" or naive["skill"] is None:
        return f"{here} was right no more often than a coin; the difference may be luck. {ends}"
    if others:
        return f"{here} was right more often than a coin, but what costs less more often: {others}."
    share = f"{100 * (0.5 + naive['skill'] / 2):.1f}"
    return (
        f"{here} was right in {share} of 100 cases, by more than luck explains. Whether that pays "
        f"after fees is another question. {ends}"
    )


def squared_sentence(test: Mapping[str, Any]) -> str:
    """What the squared error says, which decides nothing; "" where it was not compared."""
    squared = [entry for entry in test["verdicts"] if entry.get("loss") == SQUARED_LOSS]
    if not squared:
        return ""
    named: dict[str, list[str]] = {}
    for entry in squared:
        skill = show(entry["skill"], "{:+.2f} %", 100)
        named.setdefault(_VERBS[entry["verdict"]], []).append(f"{entry['baseline']} ({skill})")
    told = f"In squared error, which does not decide, {subject_of(test)} {_listed_by(named)}."
    numbers = test["models"][network_of(test)]
    ends = span(numbers["r2_low"], numbers["r2_high"], "{:+.2f}", 100)
    told += f" R² is {show(numbers['r2'], '{:+.2f} %', 100)} (95 % interval {ends})."
    naive = next(entry for entry in squared if entry["baseline"] == "naive")
    if against_naive(test)["verdict"] == "BEATS" and naive["verdict"] != "BEATS":
        told += (
            " So it knows in which direction most moves go, and not how large they are on average: "
            "the median is shifted, the mean is not."
        )
    return told


def power_sentence(test: Mapping[str, Any]) -> str:
    """The skill that this run could have seen; "" where that is unknown."""
    power = test.get("power")
    if not power or power["skill_against_naive"] is None:
        return ""
    return (
        f"A skill against naive of {100 * power['skill_against_naive']:.3g} % would be found in "
        f"{100 * power['power']:.0f} of 100 such runs; a smaller one is often missed."
    )


def minute_of(instant: str) -> str:
    """An instant of a bundle's JSON as people read it.

    Example:
        >>> minute_of("2024-06-04T09:09:00Z")
        '2024-06-04 09:09 UTC'
    """
    return f"{instant[:16].replace('T', ' ')} UTC"


def served_sentence(judged_until: str, served_until: str) -> str:
    """Which network the figures are of, where another one is served that was trained once more.

    Args:
        judged_until: The network of the figures has learnt nothing later.
        served_until: Nor has the one that is served.

    Example:
        >>> served_sentence("2024-01-01", "2024-06-16")[:67]
        'The figures are of the network that learnt nothing after 2024-01-01'
    """
    return (
        f"The figures are of the network that learnt nothing after {judged_until}. Forecasts come "
        "from one that was trained once more in the same way, on everything up to "
        f"{served_until}: nothing was left to judge that one by."
    )


def time_sentences(test: Mapping[str, Any]) -> str:
    """Whether the skill lasts: by quarter, its trend, the next quarter; "" where none is known."""
    over_time = test.get("skill_over_time")
    if not over_time:
        return ""
    whole = [row for row in over_time["quarters"] if row["is_whole"]]
    if not whole:
        return (
            "The forecasts span less than a month of any quarter: how the skill lasts is unknown."
        )
    told = ", ".join(f"{row['quarter']} {show(row['skill'], '{:+.2f}', 100)}" for row in whole)
    sentences = [f"Skill by quarter, %: {told}."]
    if trend := over_time["trend"]:
        ends = span(trend["low"], trend["high"], "{:+.2f}", 100)
        sentences.append(
            f"Trend: {100 * trend['per_year']:+.2f} points a year (95 % interval {ends})."
        )
    if following := over_time["next_quarter"]:
        ends = span(following["low"], following["high"], "{:+.2f}", 100)
        sentences.append(
            f"If this goes on, the next quarter's will be {100 * following['skill']:+.2f} % (95 % "
            f"interval {ends})."
        )
    if is_over(test):
        last = whole[-1]
        ends = span(last["low"], last["high"], "{:+.2f}", 100)
        sentences.append(
            f"NOT ANY MORE: in the last whole quarter, {last['quarter']}, the interval of the "
            f"skill holds 0 ({ends} %)."
        )
    return " ".join(sentences)


def interval_sentence(test: Mapping[str, Any]) -> str:
    """How often the 80 % interval held what came true."""
    interval = test["interval"]
    measured = span(interval.get("coverage_low"), interval.get("coverage_high"), factor=100)
    return (
        f"The 80 % interval held {100 * interval['coverage']:.1f} % of the actual returns (95 % "
        f"interval {measured}); {100 * interval['below']:.1f} % lay below it and "
        f"{100 * interval['above']:.1f} % above."
    )


def quantile_sentence(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """How the quantiles fared against those of the baselines."""
    compared = (
        f"{_VERBS[c['verdict']]} {c['baseline']} ({show(c['skill'], '{:+.2f} %', 100)})"
        for c in comparisons
    )
    return f"Its quantiles (pinball skill): {', '.join(compared)}."


def confidence_sentence(test: Mapping[str, Any]) -> str:
    """How far the confidence is from the share of right directions, and whether it is too bold."""
    probability = test["probability"]
    if probability["confidence"] is None:
        return "The network is never more confident of one direction than of the other."
    away = 100 * probability["confidence"]["mean_absolute_deviation"]
    if probability["slope"] is None:
        slope = "calibration slope is undefined."
    else:
        measured = span(probability["slope_low"], probability["slope_high"], "{:.2f}")
        slope = (
            f"slope is {probability['slope']:.2f} ({measured}), where 1 is calibrated and less too "
            "bold."
        )
    return (
        f"The confidence is {away:.1f} percentage points away from the share of right directions "
        f"on average; its {slope}"
    )


def brier_sentence(test: Mapping[str, Any]) -> str:
    """The Brier score and its three parts."""
    probability = test["probability"]
    # Rounding leaves a tiny negative number where a part is 0.
    miscalibration, discrimination = (
        max(0.0, probability[name]) for name in ("miscalibration", "discrimination")
    )
    return (
        f"Brier score {probability['brier']:.4f} = {miscalibration:.4f} miscalibration − "
        f"{discrimination:.4f} discrimination + {probability['uncertainty']:.4f} uncertainty; "
        "always saying one half scores 0.25."
    )


def confidence_set_sentence(test: Mapping[str, Any]) -> str:
    """The models that may be the best one."""
    chosen = test["confidence_set"]
    if chosen is None:
        return "Which models may be the best one cannot be said of so few or such equal forecasts."
    inside = ", ".join(chosen["models"])
    outside = ", ".join(name for name in chosen["p_values"] if name not in chosen["models"])
    if outside:
        told = f"May be the best one, at 95 % confidence: {inside}; ruled out: {outside}."
    else:
        told = f"Each may be the best one, at 95 % confidence: {inside}."
    return " ".join([told, *_differing_sentences(test)])


_SET_SAYS = {
    (True, True): ("TIES",),
    (True, False): ("BEATS",),
    (False, True): ("LOSES",),
    (False, False): ("BEATS", "LOSES"),
}
"""(network may be the best, baseline may be) -> verdicts that nobody wonders about beside it"""


def _differing_sentences(test: Mapping[str, Any]) -> list[str]:
    """Why the models that may be the best one are not those that the verdicts suggest, if so."""
    chosen, network = test["confidence_set"], network_of(test)
    apart: dict[str, list[str]] = {}
    together: dict[str, list[str]] = {}
    for entry in deciding(test["verdicts"]):
        baseline, verdict = entry["baseline"], entry["verdict"]
        both = network in chosen["models"], baseline in chosen["models"]
        is_in_both = {network, baseline} <= set(chosen["p_values"])  # else it is unusable
        if is_in_both and verdict not in _SET_SAYS[both]:
            differing = together if all(both) else apart
            differing.setdefault(_VERBS[verdict], []).append(baseline)
    reasons = {
        f"a verdict compares {subject_of(test)} with one baseline, and ruled out means worse than "
        "some model, whichever it is": apart,
        "it takes more to tell all models apart at once than two of them": together,
    }
    return [
        f"This does not contradict {_listed_by(differing)}: {reason}."
        for reason, differing in reasons.items()
        if differing
    ]


def _listed_by(names: Mapping[str, Sequence[str]]) -> str:
    return " and ".join(f"{verb} {', '.join(of)}" for verb, of in names.items())


def importance_items(importance: Mapping[str, Any]) -> list[str]:
    """The skill that each group of features is worth, in points."""
    told = [
        f"{of['group']} {show(of['skill_lost'], '{:+.2f}', 100)} "
        f"({span(of['low'], of['high'], '{:+.2f}', 100)})"
        for of in importance["groups"]
    ]
    return [f"points of skill lost without {told[0]}", *told[1:]]


def importance_sentence(importance: Mapping[str, Any]) -> str:
    """Which groups of features made the network's forecasts better, or worse."""
    groups = importance["groups"]
    if not any(of["moved"] for of in groups):
        return "The forecasts are the same whatever the inputs, so no group is worth anything."
    helpful = [of["group"] for of in groups if (of["low"] or 0) > 0]
    harmful = [of["group"] for of in groups if (of["high"] or 0) < 0]
    if not helpful and not harmful:
        return "Every bar touches the line: luck may explain what any group seems worth."
    told = [f"Wholly right of the line: {', '.join(helpful)}."] if helpful else []
    if harmful:
        told.append(f"Wholly left of it, so that they did harm: {', '.join(harmful)}.")
    return " ".join([*told, "One bar in twenty lies so by luck alone."])


def lag_sentence(test: Mapping[str, Any]) -> str:
    """Does the forecast copy the last move?"""
    numbers = test["models"][network_of(test)]
    last, following = (numbers[f"correlation_with_{which}_return"] for which in ("current", "next"))
    if last is None or following is None:
        return "Whether the forecast copies the last move is undefined here."
    if last > LAST_MOVE:
        finding = "To a large part the forecast copies the last move"
    elif last < -LAST_MOVE:
        finding = "To a large part the forecast is the last move turned around"
    else:
        finding = "The forecast is no copy of the last move"
    return (
        f"{finding}: it correlates {last:+.3f} with the last return and {following:+.3f} with the "
        "one it forecasts."
    )


def fold_sentence(folds: Sequence[Mapping[str, Any]]) -> str:
    """How the folds fared against naive."""
    count = Counter(fold["verdict"] for fold in folds)
    tally = ", ".join(f"{verdict} {count[verdict]}" for verdict in _VERBS)
    skills = [fold["skill"] for fold in folds if fold["skill"] is not None]
    between = "skill undefined"
    if skills:
        between = f"skill {span(min(skills), max(skills), '{:+.2f}', 100)} %"
    return f"{len(folds)} folds against naive: {tally}; {between}."


def age_sentence(curve: Mapping[str, Any] | None) -> str:
    """The skill by days since training (`decay.age_curve`); "" where it is unknown."""
    if not curve:
        return ""
    steps = (f"{age_text(step)} {show(step['skill'], '{:+.2f}', 100)}" for step in curve["steps"])
    return f"Skill by days since training, %: {', '.join(steps)}."


def member_sentences(ensemble: Mapping[str, Any], n_folds: int) -> list[str]:
    """How far an ensemble's members are apart, and whose they are."""
    spread = show(ensemble["spread"], "{:.2f}")
    sentences = [
        f"members differ by {spread} at a candle; 1 is how much their mean differs from candle to "
        "candle"
    ]
    if n_folds > 1:
        sentences.append(
            f"these are the members of the last of {n_folds} folds, on that fold alone"
        )
    return sentences


def fee_sentence(money: Mapping[str, Any]) -> str:
    """The fee that the strategy could bear beside the one assumed."""
    break_even, assumed = money["break_even_fee_bps"], f"{money['fee_bps']:g} bps a side"
    if break_even is None:
        return f"Nothing was traded; the fee assumed is {assumed}."
    if break_even <= 0:
        return f"It loses even without fees; {assumed} are assumed."
    tenth, apart = money.get("top_tenth", {}), ""
    if tenth.get("break_even_fee_bps") is not None:
        apart = f"; the top tenth (known only afterwards) at {_fee(tenth)}"
    return f"It breaks even at a fee of {_fee(money)} bps a side{apart}; {assumed} are assumed."


def _fee(money: Mapping[str, Any]) -> str:
    low, high = money.get("break_even_low"), money.get("break_even_high")
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    return f"{money['break_even_fee_bps']:.2f}{interval}"


def money_sentences(money: Mapping[str, Any]) -> str:
    """What following the forecasts would have earned."""
    interval = span(money["sharpe_low"], money["sharpe_high"], "{:+.2f}")
    accounts = []
    for title, name in {
        "after fees": "net",
        "before": "gross",
        "buy and hold": "buy_and_hold",
    }.items():
        earned = show(money[name]["total_return"], "{:+,.1f} %", 100)
        sharpe = show(money[name]["sharpe"]) + (f", {interval}" if name == "net" else "")
        accounts.append(f"{title} {earned} (Sharpe {sharpe})")
    return f"{', '.join(accounts)}. {fee_sentence(money)} A summary, not a promise."


# At the terminal


def text_table(rows: Sequence[Sequence[str]], indent: str = INDENT) -> str:
    """Cells in columns, the first left and the others right aligned, a rule below the heading."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:])]
        lines.append(indent + "  ".join([first.ljust(widths[0]), *cells]))
    lines.insert(1, indent + "─" * (len(lines[0]) - len(indent)))
    return "\n".join(lines)


def member_table(ensemble: Mapping[str, Any], n_folds: int) -> str:
    """The members of an ensemble, their mean and their spread."""
    lines = "\n".join(INDENT + sentence for sentence in member_sentences(ensemble, n_folds))
    return f"{text_table(member_rows(ensemble))}\n\n{lines}\n"


def terminal_tables(scores: Mapping[str, Any]) -> str:
    """Scores, comparisons, and what else there is, in lines of at most 100 characters."""
    test, money, folds = scores["test"], scores.get("backtest"), scores.get("folds") or []
    facts = {
        "power": power_sentence(test),
        "squared error": squared_sentence(test),
        "over time": time_sentences(test),
    }
    if test["interval"]:
        facts["interval"] = interval_sentence(test)
        if test["interval"]["comparisons"]:
            facts["interval"] += f" {quantile_sentence(test['interval']['comparisons'])}"
    if test["probability"]:
        facts["confidence"] = confidence_sentence(test)
    facts["best models"] = confidence_set_sentence(test)
    if money:
        facts["money"] = money_sentences(money)
    if len(folds) > 1:
        facts["folds"] = fold_sentence(folds)
        facts["by age"] = age_sentence(scores.get("age_curve"))
    further = INDENT + 15 * " "
    lines = (
        textwrap.fill(f"{title:15}{text}", WIDTH, initial_indent=INDENT, subsequent_indent=further)
        for title, text in facts.items()
        if text
    )
    blocks = [text_table(score_rows(test)), text_table(verdict_rows(test["verdicts"]))]
    if late := entry_rows(scores.get("delayed_entry") or []):
        blocks.append(text_table(late))
    return "\n" + "\n\n".join([*blocks, "\n".join(lines)]) + "\n"


def summary(test: Mapping[str, Any]) -> dict[str, Any]:
    """The verdict for programs, plain data."""
    naive = against_naive(test)
    return {
        "verdict": test["verdict"],
        "skill": naive["skill"],
        "p_holm": naive["p_holm"],
        "n": test["n"],
        "synthetic": is_synthetic(test),
    }


def verdict_banner(test: Mapping[str, Any]) -> str:
    """Warnings, then the verdict between two rules: the last thing the terminal shows.

    Of synthetic candles it is said once more that they are.
    """
    warnings = (
        textwrap.fill(text, WIDTH, initial_indent="  ! ", subsequent_indent="    ") + "\n"
        for text in test["warnings"]
    )
    rule = "═" * WIDTH
    made_up = ""
    if is_synthetic(test):
        made_up = f"{textwrap.indent(textwrap.fill(SYNTHETIC, WIDTH - 2), '  ')}\n"
    verdict = textwrap.indent(verdict_lines(test), "  ")
    return f"\n{''.join(warnings)}{rule}\n{made_up}{verdict}\n{rule}"


def verdict_lines(test: Mapping[str, Any]) -> str:
    """The verdict with its sentence, in as many lines as it needs."""
    text = f"VERDICT  {verdict_sentence(test)}"
    return textwrap.fill(text, WIDTH - 4, subsequent_indent=" " * len("VERDICT  "))
