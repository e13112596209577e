"""An evaluation in words and cells: the tables and sentences that the terminal and the page share.

All of it reads the dict that `scoring.score_run` returns, or its part "test", and writes "–" for
what is None.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.terminal import WIDTH

NONE = "–"
INDENT = "      "
LAST_MOVE = 0.5
"""Correlation with the last move from which a forecast is called its copy (or, below zero, its
reversal)."""

COLUMNS = (
    ("price MAPE %", "mape_percent", "{:.4f}", 1.0),
    ("MAE bps", "mae", "{:.3f}", 1e4),
    ("RMSE bps", "rmse", "{:.2f}", 1e4),
    ("R² %", "r2", "{:+.3f}", 100.0),
    ("direction %", "direction_accuracy", "{:.2f}", 100.0),
    ("95 % CI", "direction_accuracy_low", "", 100.0),
    ("top tenth %", "top_tenth_accuracy", "{:.2f}", 100.0),
    ("ROC-AUC", "roc_auc", "{:.4f}", 1.0),
)

_VERBS = {"BEATS": "BEATS", "TIES": "TIES with", "LOSES": "LOSES to"}


def show(value: float | None, form: str = "{:+.2f}", factor: float = 1.0) -> str:
    """A number in its form, or "–" for what is undefined: None, NaN and infinities.

    Example:
        >>> show(0.0123, "{:.1f} %", 100), show(None), show(float("nan"))
        ('1.2 %', '–', '–')
    """
    return NONE if value is None or not math.isfinite(value) else form.format(factor * value)


def span(low: float | None, high: float | None, form: str = "{:.1f}", factor: float = 1.0) -> str:
    """An interval, or "–" where an end is None."""
    return (
        NONE
        if low is None or high is None
        else f"{form.format(factor * low)} to {form.format(factor * high)}"
    )


def p_text(value: float | None) -> str:
    """A p-value to three places.

    Example:
        >>> p_text(0.0576), p_text(3.74e-06), p_text(None)
        ('0.058', '<0.001', '–')
    """
    return NONE if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def network_of(test: Mapping[str, Any]) -> str:
    """The network's name in the tables."""
    return str(test["verdicts"][0]["model"])


def against_naive(test: Mapping[str, Any]) -> Mapping[str, Any]:
    """The comparison that the verdict stands on."""
    return next(entry for entry in test["verdicts"] if entry["baseline"] == "naive")


def table_rows(test: Mapping[str, Any]) -> list[list[str]]:
    """The evaluation's table as text cells, a heading first."""
    rows = [["model", *(heading for heading, _, _, _ in COLUMNS)]]
    for model, numbers in test["models"].items():
        cells = [model]
        for _, key, form, factor in COLUMNS:
            if key == "direction_accuracy_low":
                low, high = numbers.get(key), numbers.get("direction_accuracy_high")
                cells.append(
                    span(low, high, factor=factor).replace(" to ", "–")
                )  # else the table is too wide
            else:
                cells.append(show(numbers.get(key), form, factor))
        rows.append(cells)
    return rows


def verdict_rows(comparisons: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Comparisons as text cells, a heading first."""
    rows = [["comparison", "skill %", "Diebold-Mariano", "p (Holm)", "verdict"]]
    for entry in comparisons:
        rows.append(
            [
                f"{entry['model']} against {entry['baseline']}",
                show(entry["skill"], "{:+.3f}", 100),
                show(entry["statistic"], "{:+.2f}"),
                p_text(entry["p_holm"]),
                entry["verdict"],
            ]
        )
    return rows


def account_rows(money: Mapping[str, Any]) -> list[list[str]]:
    """The backtest's three accounts as text cells, a heading first."""
    rows = [["account", "return %", "return % a year", "Sharpe a year", "drawdown %"]]
    for title, key in (
        ("after fees", "net"),
        ("before fees", "gross"),
        ("buy and hold", "buy_and_hold"),
    ):
        account = money[key]
        rows.append(
            [
                title,
                show(account["total_return"], "{:+,.1f}", 100),
                show(account["annualised_return"], "{:+,.1f}", 100),
                show(account["sharpe"]),
                show(account["max_drawdown"], "{:.1f}", 100),
            ]
        )
    return rows


def trading_rows(money: Mapping[str, Any]) -> list[list[str]]:
    """What the trading took, a fact a row, with its unit in the first cell; a heading first."""
    return [
        ["trading", "value"],
        [
            "Sharpe after fees, 95 % interval",
            span(money["sharpe_low"], money["sharpe_high"], "{:+.2f}"),
        ],
        ["win rate, % of the spans with a position", show(money["win_rate"], "{:.1f}", 100)],
        ["positions opened", f"{money['n_trades']:,}"],
        ["time in the market, % of the capital", show(money["time_in_market"], "{:.1f}", 100)],
        ["turnover, times the capital a year", show(money["turnover_per_year"], "{:,.0f}")],
        ["fees paid, % of the capital", show(money["fees_paid"], "{:.1f}", 100)],
        ["funding paid, % of the capital", show(money["funding_paid"], "{:+.2f}", 100)],
        ["fee assumed, bps a side", f"{money['fee_bps']:g}"],
        ["fee at which it breaks even, bps a side", show(money["break_even_fee_bps"])],
    ]


def fold_rows(folds: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Folds of a walk-forward run as text cells, a heading first."""
    rows = [["fold from", "days", "forecasts", "skill %", "p", "verdict"]]
    for fold in folds:
        rows.append(
            [
                fold["from"][:10],
                f"{(pd.Timestamp(fold['to']) - pd.Timestamp(fold['from'])) / pd.Timedelta(days=1):.1f}",
                f"{fold['n']:,}",
                show(fold["skill"], "{:+.3f}", 100),
                p_text(fold["p_value"]),
                fold["verdict"],
            ]
        )
    return rows


def symbol_rows(test: Mapping[str, Any]) -> list[list[str]]:
    """Each model's price error by symbol as text cells, a heading first."""
    models = list(test["models"])
    rows = [["price MAPE %", *models]]
    for symbol in test["models"][models[0]]["by_symbol"]:
        values = [test["models"][model]["by_symbol"][symbol]["mape_percent"] for model in models]
        rows.append([symbol, *(show(value, "{:.4f}") for value in values)])
    return rows


def text_table(rows: Sequence[Sequence[str]], indent: str = INDENT) -> str:
    """Cells in columns, the first one left and the others right aligned, a rule below the
    heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        )
        lines.append(indent + "  ".join([first, *others]))
    lines.insert(1, indent + "─" * (len(lines[0]) - len(indent)))
    return "\n".join(lines)


def verdict_sentence(test: Mapping[str, Any]) -> str:
    """The run's verdict and its reason, in a sentence for people."""
    naive = against_naive(test)
    skill = (
        "an undefined skill" if naive["skill"] is None else f"skill {100 * naive['skill']:+.3f} %"
    )
    untested = "not tested" if naive["skill"] is None else "too few to test"
    p_value = untested if naive["p_holm"] is None else f"Holm's p {_with_sign(naive['p_holm'])}"
    reason = f"the network {_VERBS[naive['verdict']]} naive ({skill}, {p_value})"
    others = _lost_to(test)
    if others:
        reason += f" and LOSES to {', '.join(others)}"
    return f"{test['verdict']}: {reason}, {test['n']:,} forecasts out of sample"


def _with_sign(p_value: float) -> str:
    text = p_text(p_value)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def _lost_to(test: Mapping[str, Any]) -> list[str]:
    return [
        e["baseline"]
        for e in test["verdicts"]
        if e["verdict"] == "LOSES" and e["baseline"] != "naive"
    ]


def meaning_sentence(test: Mapping[str, Any]) -> str:
    """The same for somebody without statistics."""
    naive, others = against_naive(test), _lost_to(test)
    if test["verdict"].startswith("NO CLAIM"):
        return (
            "The candles were made up by a generator: the program works, and nothing is known "
            "about any market."
        )
    if test["models"][network_of(test)]["mae"] is None:
        return "The network gave no usable forecasts, most likely because its training diverged."
    if naive["verdict"] == "LOSES":
        return (
            "On these coins and months this network was worse than assuming that the price stays "
            "where it is."
        )
    if naive["verdict"] == "TIES" and naive["p_holm"] is None:
        return (
            "There are too few forecasts here to tell this network from assuming that the price "
            "stays where it is."
        )
    if naive["verdict"] == "TIES":
        meaning = (
            "On these coins and months this network was no better than assuming that the price "
            "stays where it is"
        )
        return meaning + (
            f", and worse than {', '.join(others)}." if others else "; the difference may be luck."
        )
    meaning = (
        "On these coins and months this network came closer than assuming that the price stays "
        "where it is"
    )
    if others:
        return f"{meaning}, but what costs less did better still: {', '.join(others)}."
    return (
        f"{meaning}, by more than luck explains: its errors were "
        f"{show(naive['skill'], '{:.2f}', 100)} % smaller on average. Whether that pays after fees "
        "is another question."
    )


def interval_sentence(test: Mapping[str, Any]) -> str:
    """How often the 80 % interval held what came true."""
    interval = test["interval"]
    measured = span(interval.get("coverage_low"), interval.get("coverage_high"), factor=100)
    return (
        f"The 80 % interval held {100 * interval['coverage']:.1f} % of the actual returns (95 % "
        f"interval {measured}); {100 * interval['below']:.1f} % lay below it and "
        f"{100 * interval['above']:.1f} % above."
    )


def confidence_sentence(test: Mapping[str, Any]) -> str:
    """How far the confidence is from the share of right directions, and whether it is too bold."""
    probability = test["probability"]
    if probability["confidence"] is None:
        return "The network is never more confident of one direction than of the other."
    away = 100 * probability["confidence"]["mean_absolute_deviation"]
    sentence = (
        f"The confidence is {away:.1f} percentage points away from the share of right directions "
        "on average; "
    )
    if probability["slope"] is None:
        return sentence + "its calibration slope is undefined."
    measured = span(probability["slope_low"], probability["slope_high"], "{:.2f}")
    return sentence + (
        f"its slope is {probability['slope']:.2f} ({measured}), where 1 is calibrated and less too "
        "bold."
    )


def confidence_set_sentence(test: Mapping[str, Any]) -> str:
    """The models that may be the best one."""
    chosen = test["confidence_set"]
    if chosen is None:
        return "Which models may be the best one cannot be said of so few or such equal forecasts."
    outside = [name for name in chosen["p_values"] if name not in chosen["models"]]
    if not outside:
        return f"Each may be the best one, at 95 % confidence: {', '.join(chosen['models'])}."
    return (
        f"May be the best one, at 95 % confidence: {', '.join(chosen['models'])}; ruled out: "
        f"{', '.join(outside)}."
    )


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
    """How the folds fared against naive, in a sentence."""
    count = Counter(fold["verdict"] for fold in folds)
    skills = [fold["skill"] for fold in folds if fold["skill"] is not None]
    between = (
        f"skill {span(min(skills), max(skills), '{:+.2f}', 100)} %" if skills else "skill undefined"
    )
    tally = ", ".join(f"{verdict} {count[verdict]}" for verdict in _VERBS)
    return f"{len(folds)} folds against naive: {tally}; {between}."


def fee_sentence(money: Mapping[str, Any]) -> str:
    """The fee that the strategy could bear beside the one assumed."""
    break_even, assumed = money["break_even_fee_bps"], f"{money['fee_bps']:g} bps a side"
    if break_even is None:
        return f"Nothing was traded; the fee assumed is {assumed}."
    if break_even <= 0:
        return f"It loses even without fees; {assumed} are assumed."
    tenth = money.get("top_tenth", {})
    known = tenth.get("break_even_fee_bps") is not None
    apart = f"; the top tenth (known only afterwards) at {_fee(tenth)}" if known else ""
    return f"It breaks even at a fee of {_fee(money)} bps a side{apart}; {assumed} are assumed."


def _fee(money: Mapping[str, Any]) -> str:
    low, high = money.get("break_even_low"), money.get("break_even_high")
    interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
    return f"{money['break_even_fee_bps']:.2f}{interval}"


def _money_text(money: Mapping[str, Any]) -> str:
    def account(title: str, name: str, interval: str = "") -> str:
        numbers = money[name]
        return (
            f"{title} {show(numbers['total_return'], '{:+,.1f} %', 100)} (Sharpe "
            f"{show(numbers['sharpe'])}{interval})"
        )

    measured = span(money["sharpe_low"], money["sharpe_high"], "{:+.2f}")
    return (
        f"{account('after fees', 'net', f', {measured}')}, {account('before', 'gross')}, "
        f"{account('buy and hold', 'buy_and_hold')}. {fee_sentence(money)} A summary, not a "
        "promise."
    )


def _quantiles_text(comparisons: Sequence[Mapping[str, Any]]) -> str:
    compared = (
        f"{_VERBS[c['verdict']]} {c['baseline']} ({show(c['skill'], '{:+.2f} %', 100)})"
        for c in comparisons
    )
    return "Its quantiles (pinball skill): " + ", ".join(compared) + "."


def terminal_tables(scores: Mapping[str, Any]) -> str:
    """Scores of every model, the comparisons, and what else there is, in lines of at most 100
    characters."""
    test, money, folds = scores["test"], scores.get("backtest"), scores.get("folds") or []
    facts = []
    if test["interval"]:
        compared = test["interval"]["comparisons"]
        facts.append(
            (
                "interval",
                interval_sentence(test) + (f" {_quantiles_text(compared)}" if compared else ""),
            )
        )
    if test["probability"]:
        facts.append(("confidence", confidence_sentence(test)))
    facts.append(("best models", confidence_set_sentence(test)))
    if money:
        facts.append(("money", _money_text(money)))
    if len(folds) > 1:
        facts.append(("folds", fold_sentence(folds)))
    lines = "\n".join(
        textwrap.fill(
            text, WIDTH, initial_indent=f"{INDENT}{title:13}", subsequent_indent=f"{INDENT}{'':13}"
        )
        for title, text in facts
    )
    return f"\n{text_table(table_rows(test))}\n\n{text_table(verdict_rows(test['verdicts']))}\n\n{lines}\n"


def verdict_banner(test: Mapping[str, Any]) -> str:
    """Warnings, then the verdict between two rules: the last thing the terminal shows."""
    lines = (
        textwrap.fill(text, WIDTH, initial_indent="  ! ", subsequent_indent="    ")
        for text in test["warnings"]
    )
    warnings = "".join(f"{line}\n" for line in lines)
    rule = "═" * WIDTH
    return f"\n{warnings}{rule}\n  VERDICT  {verdict_sentence(test)}\n{rule}"
