"""How an evaluation is shown: a table for the terminal, one self-contained page for the browser."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.progress import WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NETWORK_COLOUR, ACTUAL_COLOUR, GREY = "#2b5c9e", "#222222", "#8a8a8a"

COLUMNS = (
    ("price MAPE %", "mape_percent", "{:.4f}", 1.0),
    ("MAE bps", "mae", "{:.3f}", 1e4),
    ("RMSE bps", "rmse", "{:.2f}", 1e4),
    ("R² %", "r2", "{:+.3f}", 100.0),
    ("direction %", "direction_accuracy", "{:.2f}", 100.0),
    ("95 % interval", "direction_accuracy_low", "", 100.0),
    ("top tenth %", "top_tenth_accuracy", "{:.2f}", 100.0),
    ("ROC-AUC", "roc_auc", "{:.4f}", 1.0),
)


def table_rows(test: Mapping[str, Any]) -> list[list[str]]:
    """The evaluation's table as text cells, a heading first; "–" where a number is not defined."""
    rows = [["model", *(heading for heading, _, _, _ in COLUMNS)]]
    for model, numbers in test["models"].items():
        cells = [model]
        for _, key, form, factor in COLUMNS:
            value = numbers.get(key)
            if value is None:
                cells.append("–")
            elif key == "direction_accuracy_low":
                cells.append(f"{factor * value:.1f} to {factor * numbers['direction_accuracy_high']:.1f}")
            else:
                cells.append(form.format(factor * value))
        rows.append(cells)
    return rows


def verdict_rows(test: Mapping[str, Any]) -> list[list[str]]:
    """The comparisons as text cells, a heading first."""
    rows = [["comparison", "skill %", "Diebold-Mariano", "p (Holm)", "verdict"]]
    for entry in test["verdicts"]:
        skill = "–" if entry["skill"] is None else f"{100 * entry['skill']:+.3f}"
        rows.append(
            [
                f"{entry['model']} against {entry['baseline']}",
                skill,
                "–" if entry["statistic"] is None else f"{entry['statistic']:+.2f}",
                "–" if entry["p_holm"] is None else f"{entry['p_holm']:.3g}",
                entry["verdict"],
            ]
        )
    return rows


def text_table(rows: Sequence[Sequence[str]], indent: str = "      ") -> str:
    """Cells in columns, the first one left and the others right aligned, a rule below the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = (cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
        lines.append(indent + "  ".join([first, *others]))
    lines.insert(1, indent + "─" * (len(lines[0]) - len(indent)))
    return "\n".join(lines)


_VERBS = {"BEATS": "BEATS", "TIES": "TIES with", "LOSES": "LOSES to"}


def verdict_sentence(test: Mapping[str, Any]) -> str:
    """The run's verdict and its reason, in a sentence for people."""
    naive = next(entry for entry in test["verdicts"] if entry["baseline"] == "naive")
    skill = "an undefined skill" if naive["skill"] is None else f"skill {100 * naive['skill']:+.3f} %"
    untested = "not tested" if naive["skill"] is None else "too few to test"
    p_value = untested if naive["p_holm"] is None else f"Holm's p = {naive['p_holm']:.3g}"
    reason = f"the network {_VERBS[naive['verdict']]} naive ({skill}, {p_value})"
    others = [e["baseline"] for e in test["verdicts"] if e["verdict"] == "LOSES" and e["baseline"] != "naive"]
    if others:
        reason += f" and LOSES to {', '.join(others)}"
    return f"{test['verdict']}: {reason}, {test['n']:,} forecasts out of sample"


def terminal_tables(scores: Mapping[str, Any]) -> str:
    """Scores of every model, then the comparisons."""
    test = scores["test"]
    interval = f"      {interval_sentence(test)}\n" if test["interval"] else ""
    return f"\n{text_table(table_rows(test))}\n\n{text_table(verdict_rows(test))}\n\n{interval}"


def interval_sentence(test: Mapping[str, Any]) -> str:
    """How often the 80 % interval held what came true."""
    interval = test["interval"]
    return (
        f"The 80 % interval held {100 * interval['coverage']:.1f} % of the actual returns; "
        f"{100 * interval['below']:.1f} % lay below it and {100 * interval['above']:.1f} % above."
    )


def verdict_banner(test: Mapping[str, Any]) -> str:
    """Warnings, then the verdict between two rules: the last thing the terminal shows."""
    warnings = "".join(f"  ! {text}\n" for text in test["warnings"])
    rule = "═" * WIDTH
    return f"\n{warnings}{rule}\n  VERDICT  {verdict_sentence(test)}\n{rule}"


def html_report(
    metrics: Mapping[str, Any], predictions: pd.DataFrame, history: Mapping[str, Any], settings: Mapping[str, Any]
) -> str:
    """One self-contained page: verdict, table, comparisons, training curves, actual against predicted, provenance.

    Args:
        metrics: Content of the metrics file: "data", "split" and "test".
        predictions: Rows of the predictions file.
        history: "loss", "val_loss" (a number an epoch) and "best_epoch".
        settings: The run's settings.
    """
    test, data = metrics["test"], metrics["data"]
    synthetic = '<p class="warning">SYNTHETIC CANDLES: nothing here says anything about a real market.</p>'
    symbols = [
        [symbol, f"{facts['rows']:,}", facts["first"][:16], facts["last"][:16], str(facts["missing_candles"])]
        for symbol, facts in data["symbols"].items()
    ]
    parts = [
        f"<h1>v2 on {html.escape(', '.join(data['symbols']))}, {data['timeframe']} candles</h1>",
        synthetic if data["synthetic"] else "",
        f'<p class="verdict {_tone(test)}">{html.escape(verdict_sentence(test))}</p>',
        *(f'<p class="warning">{html.escape(text)}</p>' for text in test["warnings"]),
        "<h2>Every score beside the forecast that costs nothing</h2>",
        _html_table(table_rows(test)),
        "<p>Test part only. naive forecasts no change. MAE and RMSE are of the log-return, in basis points; R² is "
        "measured against the forecast 0. Directions near 50 % and R² near 0 are normal for hourly forecasts.</p>",
        _html_table(verdict_rows(test)),
        "<p>Skill is 1 − loss / loss of the baseline; the loss is the absolute error of the log-return divided by the "
        "candle's volatility. BEATS and LOSES need p &lt; 5 % after Holm's correction.</p>",
        f"<p>{interval_sentence(test)}</p>" if test["interval"] else "",
        "<h2>Training curves</h2>",
        _picture(_draw_history(history), "loss on the training and validation part by epoch"),
        "<h2>Actual against predicted</h2>",
        _picture(_draw_week(predictions), "log-returns of the last week of the test part with the 80 % band"),
        _picture(_draw_scatter(predictions), "actual log-return over predicted log-return, test part"),
        "<h2>Price error by symbol</h2>",
        _html_table(_symbol_rows(test)),
        "<h2>Where the candles come from</h2>",
        f"<p>{html.escape(data['source'])}: {html.escape(data['venue'])}</p>",
        _html_table([["symbol", "candles", "first", "last", "missing"], *symbols]),
        "<h2>How they were split</h2>",
        _html_table([["part", "samples", "from", "to"], *_split_rows(metrics["split"])]),
        "<details><summary>Settings</summary>"
        + _html_table([["setting", "value"], *([name, str(value)] for name, value in settings.items())])
        + "</details>",
        "<p>A forecast is a description of probabilities, not trading advice.</p>",
    ]
    return _PAGE.format(title=html.escape(f"v2: {test['verdict']}"), body="\n".join(parts))


def _tone(test: Mapping[str, Any]) -> str:
    return "good" if test["verdict"] == "EDGE" else "plain"


def _split_rows(split: Mapping[str, Any]) -> list[list[str]]:
    return [[name, f"{part['n']:,}", part["first"][:16], part["last"][:16]] for name, part in split.items()]


def _symbol_rows(test: Mapping[str, Any]) -> list[list[str]]:
    models = list(test["models"])
    rows = [["price MAPE %", *models]]
    for symbol in test["models"][models[0]]["by_symbol"]:
        values = [test["models"][model]["by_symbol"][symbol]["mape_percent"] for model in models]
        rows.append([symbol, *("–" if value is None else f"{value:.4f}" for value in values)])
    return rows


def _draw_history(history: Mapping[str, Any]) -> Figure:
    figure, axes = _figure(3.2)
    epochs = np.arange(1, len(history["loss"]) + 1)
    loss, val_loss = (np.array(history[name], dtype=float) for name in ("loss", "val_loss"))  # None was not finite
    axes.plot(epochs, loss, color=GREY, label="training")
    axes.plot(epochs, val_loss, color=NETWORK_COLOUR, label="validation")
    best = history["best_epoch"]
    axes.plot([best + 1], [val_loss[best]], "o", color=NETWORK_COLOUR, label=f"best: epoch {best + 1}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("Huber loss")
    _finish(axes)
    return figure


def _draw_week(predictions: pd.DataFrame) -> Figure:
    symbol = predictions["symbol"].iloc[-1]
    rows = predictions[predictions["symbol"] == symbol]
    rows = rows[rows["timestamp"] >= rows["timestamp"].iloc[-1] - pd.Timedelta(days=7)]
    figure, axes = _figure(3.6)
    time = rows["timestamp"].dt.tz_localize(None)
    axes.fill_between(time, 100 * rows["q10"], 100 * rows["q90"], color=NETWORK_COLOUR, alpha=0.18, label="80 % band")
    axes.plot(time, 100 * rows["actual_return"], color=ACTUAL_COLOUR, linewidth=0.8, label="actual")
    axes.plot(time, 100 * rows["lstm"], color=NETWORK_COLOUR, linewidth=1.4, label="network")
    axes.set_ylabel("log-return, %")
    axes.set_title(f"{symbol}, last week of the test part", loc="left", fontsize=10)
    _finish(axes)
    return figure


def _draw_scatter(predictions: pd.DataFrame, shown: int = 4000) -> Figure:
    rows = predictions.iloc[:: max(1, len(predictions) // shown)]
    figure, axes = _figure(3.6)
    axes.plot(100 * rows["lstm"], 100 * rows["actual_return"], ".", color=NETWORK_COLOUR, alpha=0.35, markersize=3)
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_xlabel("predicted log-return, %")
    axes.set_ylabel("actual log-return, %")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # lazy, and no pyplot: nothing global, works without a display

    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.add_subplot()


def _finish(axes: Any) -> None:
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, fontsize=9)


def _picture(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f'<div class="scroll"><table><thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table></div>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
.verdict {{ font-size: 1.2rem; font-weight: 600; padding: .8rem 1rem; border-left: .4rem solid #8a8a8a;
  background: #f4f4f4; }}
.verdict.good {{ border-color: #1a7f5a; background: #eaf6f0; }}
.warning {{ padding: .6rem 1rem; border-left: .4rem solid #b3423a; background: #fbeceb; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #e3e3e3; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }} img {{ width: 100%; height: auto; }}
</style></head><body>
{body}
</body></html>
"""
