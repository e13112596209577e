"""An evaluation in cells: the tables that terminal, pages and cards share.

All of them read the dict that `scoring.score_run` returns, or its part "test". What is None is
shown as "–". A table is a list of rows of text cells, a heading first.
"""

from __future__ import annotations

import calendar
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.losses import deciding
from pipeline.forecasts.prediction import format_price
from pipeline.report.reading import (
    NONE,
    against_naive,
    age_text,
    minute_of,
    network_of,
    p_text,
    show,
    span,
)

Rows = list[list[str]]
INDENT = "      "
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


def text_table(rows: Sequence[Sequence[str]], indent: str = INDENT) -> str:
    """Cells in columns, the first left and the others right aligned, a rule below the heading."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:])]
        lines.append(indent + "  ".join([first.ljust(widths[0]), *cells]))
    lines.insert(1, indent + "─" * (len(lines[0]) - len(indent)))
    return "\n".join(lines)
