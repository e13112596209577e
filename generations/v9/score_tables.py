"""Tables of the scores of v9's models, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.report import page
from pipeline.report.reading import show, span
from pipeline.report.tables import text_table, verdict_rows


def terminal_tables(scores: Mapping[str, Any]) -> str:
    """The scores of direction, volatility and combination as tables of text."""
    return "\n\n".join(text_table(rows) for rows in _rows(scores))


def report_section(scores: Mapping[str, Any]) -> list[str]:
    """The same as a section of the report, HTML."""
    direction, volatility, verdicts, intervals = (page.table(rows) for rows in _rows(scores))
    return page.section(
        "Direction, volatility, and their combination",
        "The direction network's calls beside those of the majority of the training part, the "
        "last move's sign and a logistic regression; the volatility of the coming day beside "
        "EWMA and HAR, where a smaller QLIKE is better; the combined forecast beside naive "
        "and the price network.",
        direction,
        volatility,
        verdicts,
        '<p class="note">Losses: wrong directions, QLIKE, and the absolute error in units of '
        "the candle's volatility. BEATS and LOSES need p below 0.05 after Holm's correction "
        "within each task.</p>",
        intervals,
        '<p class="note">The combined interval, as wide as the volatility model says, beside '
        "the price network's, by the pinball loss of the 10, 50 and 90 % quantiles.</p>",
    )


def _rows(scores: Mapping[str, Any]) -> list[list[list[str]]]:
    """Cells of the four tables, a heading first: direction, volatility, verdicts, intervals."""
    direction, volatility, combined = (
        scores[name] for name in ("direction", "volatility", "combined")
    )
    heading, *verdicts = verdict_rows(direction["verdicts"], "direction")
    verdicts += verdict_rows(volatility["verdicts"], "volatility")[1:]
    verdicts += verdict_rows(combined["verdicts"], "price")[1:]
    return [
        _direction_rows({"bilstm": direction, **direction["baselines"]}),
        _volatility_rows({"xgboost": volatility, **volatility["baselines"]}),
        [heading, *verdicts],
        verdict_rows(combined["interval_verdicts"], "interval"),
    ]


def _direction_rows(models: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    counted = ["direction", "accuracy %", "95 % CI", "precision %", "recall %"]
    rows = [[*counted, "F1", "ROC-AUC", "Brier"]]
    for name, row in models.items():
        cells = [
            name,
            show(row["accuracy"], "{:.2f}", 100),
            span(row["accuracy_low"], row["accuracy_high"], factor=100),
            show(row["precision"], "{:.2f}", 100),
            show(row["recall"], "{:.2f}", 100),
            show(row["f1"], "{:.3f}"),
            show(row["roc_auc"], "{:.4f}"),
            show(row["brier"], "{:.4f}"),
        ]
        rows.append(cells)
    return rows


def _volatility_rows(models: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    rows = [["volatility", "RMSE %", "MAE %", "MAPE %", "R²", "QLIKE"]]
    for name, row in models.items():
        cells = [
            name,
            show(row["rmse"], "{:.3f}", 100),
            show(row["mae"], "{:.3f}", 100),
            show(row["mape_percent"], "{:.1f}"),
            show(row["r2"], "{:+.3f}"),
            show(row["qlike"], "{:.4f}"),
        ]
        rows.append(cells)
    return rows
