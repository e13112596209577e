"""An evaluation as one self-contained page for the browser: the verdict first, then its reasons.

The page asks for nothing outside itself, shows everything without its script, and is dark where the
browser is. Its text is in `templates/run_page.html`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from pipeline.bundle import origin
from pipeline.report import page, reading, sentences, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CANDLES_SHOWN = 168
"""length of the excerpts of actual against predicted: a week of hours"""
SYMBOLS_SHOWN = 6
COINS_NAMED = 6


def html_report(
    metrics: Mapping[str, Any],
    predictions: pd.DataFrame,
    history: Mapping[str, Any],
    settings: Mapping[str, Any],
    generation: str = "v2",
    sections: Sequence[str] = (),
    *,
    doubts: Sequence[str] = (),
    run: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """One self-contained page of a run.

    Args:
        metrics: Content of the metrics file: "data", "split", "test", "backtest" and "folds",
            and "importance" where that is known.
        predictions: Rows of the predictions file.
        history: "loss", "val_loss" (a number an epoch) and "best_epoch"; of several networks, name
            -> such a mapping.
        settings: Settings of the run.
        generation: What the page calls the system.
        sections: HTML of what only this generation has to tell, after the scores.
        doubts: HTML of what stands before them.
        run: `origin.run_facts` of the run, where they are known.
        environment: Versions that the run had; by default those of this process.
    """
    test = metrics["test"]
    network = reading.network_of(test)
    curves = {f"Loss by epoch, {name}": curve for name, curve in history.items()}
    if "loss" in history:
        curves = {"Loss by epoch": history}
    weeks = []
    if test["models"][network]["mae"] is not None:
        weeks = excerpts(predictions)
    times = predictions["timestamp"]
    title, alarm, picture = f"{generation}: {test['verdict']}", "", page.picture
    if metrics["data"]["synthetic"]:
        title, alarm = f"SYNTHETIC CANDLES · {title}", reading.SYNTHETIC
        picture = _marked_picture
    return page.render(
        "run_page.html",
        title=title,
        alarm=alarm,
        picture=picture,
        generation=generation,
        coins=_listing(list(metrics["data"]["symbols"])),
        first=f"{times.min():%Y-%m-%d}",
        last=f"{times.max():%Y-%m-%d}",
        data=metrics["data"],
        split=metrics["split"],
        test=test,
        network=network,
        served=_served_note(metrics, settings),
        scores=_by_column(tables.score_rows(test)),
        doubts=Markup("\n".join(doubts)),
        sections=Markup("\n".join([*sections, *entry_section(metrics)])),
        skills=skill_rows(
            {**(test["skill_by"] or {}), "quarter": _whole_quarters(test["skill_over_time"])}
        ),
        coverages=coverage_rows(test["interval"]),
        weeks=weeks,
        money=metrics.get("backtest"),
        importance=metrics.get("importance"),
        relied=importance_rows(metrics.get("importance")),
        folds=metrics.get("folds") or [],
        age_curve=metrics.get("age_curve"),
        ages=age_rows(metrics.get("age_curve")),
        curves=curves,
        settings=settings,
        run=tables.run_facts(run or {}),
        environment=environment or origin.environment(),
    )


def _by_column(rows: tables.Rows) -> list[tuple[str, ...]]:
    """A column a model, the network's first, so that a narrow page shows it."""
    heading, *baselines, network = rows
    return list(zip(heading, network, *baselines))


def _marked_picture(figure: Figure, caption: str) -> Markup:
    """A picture that says of itself that its candles were made up, wherever it is copied to."""
    figure.text(0.5, 0.5, "SYNTHETIC", fontsize=30, color="#a3211a", alpha=0.3, ha="center")
    return page.picture(figure, f"{caption} · SYNTHETIC CANDLES")


def members_section(ensemble: Mapping[str, Any], n_folds: int) -> list[str]:
    """The members of an ensemble (`members.score_members`) as a section of the page."""
    return page.section(
        "Members of the ensemble",
        "Networks that differ by their seed alone: how far their scores are apart is luck, and "
        "what a single network's score is worth. Each is scored as if it were alone, shrunk by "
        "its own factor.",
        page.table(tables.member_rows(ensemble)),
        *map(page.text, sentences.member_sentences(ensemble, n_folds)),
    )


def entry_section(metrics: Mapping[str, Any]) -> list[str]:
    """Late entries (`delayed_entry.delayed_entries`) as a section, where any are known."""
    rows = tables.entry_rows(metrics.get("delayed_entry") or [])
    if not rows:
        return []
    return page.section(
        "Entry minutes late",
        "Nobody trades at the close itself. The forecasts are the same; what comes true of them is "
        "counted from the price some minutes later, beside entry at the close on the same ones.",
        page.table(rows),
    )


def skill_rows(groups: Mapping[str, Any]) -> list[tuple[str, list[tuple]]]:
    """Titles and rows of the pictures of skill, in percent: (label, skill, low, high).

    A month of a few hours at either end would set the scale for all others, so groups without an
    interval are left out where there are others.

    Args:
        groups: "skill_by" of the evaluation, rows by "symbol" and by "month", and by "quarter".
    """
    titles = {
        "symbol": "by symbol",
        "month": "by calendar month of the forecast",
        "quarter": "by quarter of the forecast",
    }
    shown = []
    for by, title in titles.items():
        groups_of = groups.get(by, [])
        told = [row for row in groups_of if row["low"] is not None] or groups_of
        rows = [
            (row[by], *map(reading.percent, (row["skill"], row["low"], row["high"])))
            for row in told
        ]
        if any(row["skill"] is not None for row in told):
            shown.append((title, rows))
    return shown


def _whole_quarters(over_time: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The quarters that a picture shows: none where there is but one."""
    quarters = [row for row in over_time["quarters"] if row["is_whole"]] if over_time else []
    return quarters if len(quarters) > 1 else []


def age_rows(curve: Mapping[str, Any] | None) -> list[tuple]:
    """Rows of the picture of the skill by age, in percent: (label, skill, low, high)."""
    return [
        (
            f"{reading.age_text(step)} days",
            *map(reading.percent, (step["skill"], step["low"], step["high"])),
        )
        for step in (curve["steps"] if curve else [])
        if step["low"] is not None
    ]


def coverage_rows(interval: Mapping[str, Any] | None) -> list[tuple]:
    """Rows of the picture of the interval's coverage, in percent: (label, coverage, low, high)."""
    if not interval:
        return []
    whole = map(reading.percent, (interval[f"coverage{end}"] for end in ("", "_low", "_high")))
    by_symbol = interval["by_symbol"].items()
    return [("all", *whole), *((symbol, 100 * share, None, None) for symbol, share in by_symbol)]


def importance_rows(importance: Mapping[str, Any] | None) -> list[tuple]:
    """Rows of the picture of what the network relies on, in points: (group, lost, low, high)."""
    rows = importance["groups"] if importance else []
    return [
        (of["group"], *map(reading.percent, (of["skill_lost"], of["low"], of["high"])))
        for of in rows
    ]


def excerpts(predictions: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """A title and the rows of each picture of actual against predicted.

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
        weeks = [rows.iloc[start : start + CANDLES_SHOWN] for start in starts] or [rows]
        parts = {"last": weeks[0]}
        if len(weeks) > 1:
            parts["wildest"] = max(weeks[1:], key=lambda week: week["actual_return"].abs().mean())
        for name, part in parts.items():
            first, last = part["timestamp"].iloc[[0, -1]]
            chosen.append((f"{symbol}, {first:%Y-%m-%d} to {last:%Y-%m-%d} ({name})", part))
    return chosen


def _served_note(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """What to say of a run whose served network is not the one that was judged."""
    if not settings.get("final_fit"):
        return ""
    cuts = (reading.minute_of(metrics["cuts"][name]) for name in ("val_end", "test_end"))
    return sentences.served_sentence(*cuts)


def _listing(names: Sequence[str]) -> str:
    if len(names) <= COINS_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:COINS_NAMED])} and {len(names) - COINS_NAMED} more"
