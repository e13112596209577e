"""Scores of v9's three models and of their combination, under the document's names, each beside its
baselines.

They read the frame of `generations.v9.three_models.forecast_tasks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from generations.v9.direction import DIRECTION_BASELINES
from pipeline.evaluation.comparison import compare_losses
from pipeline.evaluation.metrics import direction_metrics, return_metrics
from pipeline.evaluation.price_errors import price_errors
from pipeline.evaluation.probability import compare_quantiles, interval_scores
from pipeline.evaluation.verdict import compare_forecasts
from pipeline.report import page
from pipeline.report.tables import show, span, verdict_rows

VOLATILITY_BASELINES = ("ewma", "har")


def direction_scores(predictions: pd.DataFrame, horizon: int) -> dict[str, Any]:
    """Score the direction network on the rows whose price moved.

    Args:
        predictions: Needs timestamp, actual_return, direction, direction_p_up and the columns
            `DIRECTION_BASELINES`.
        horizon: Candles that a forecast spans.

    Returns:
        Of the network, called up where `direction` is above one half: accuracy, precision and
        recall of the rises, f1, roc_auc, accuracy_low, accuracy_high (95 %),
        pesaran_timmermann_statistic and _p_value, top_tenth_accuracy, brier (of the calibrated
        probability), n. The same of each baseline under "baselines", and under "verdicts" the
        comparisons of the share of wrong directions. None where a number is undefined.
    """
    moved = predictions[predictions["actual_return"] != 0]
    models = {"bilstm": moved["direction"], **{name: moved[name] for name in DIRECTION_BASELINES}}
    scores = {
        name: _direction_row(
            moved, p_up, moved["direction_p_up"] if name == "bilstm" else p_up, horizon
        )
        for name, p_up in models.items()
    }
    rose = moved["actual_return"] > 0
    losses = {
        # no call is half right
        name: np.where(p_up == 0.5, 0.5, (p_up > 0.5) != rose)
        for name, p_up in models.items()
    }
    network = losses.pop("bilstm")
    compared = compare_losses(
        "bilstm", network, losses, moved["timestamp"], horizon, loss="wrong_direction"
    )
    return {
        **scores.pop("bilstm"),
        "baselines": scores,
        "verdicts": [asdict(comparison) for comparison in compared],
    }


def _direction_row(
    moved: pd.DataFrame, p_up: pd.Series, calibrated: pd.Series, horizon: int
) -> dict[str, Any]:
    actual, score = moved["actual_return"], p_up - 0.5
    measured = direction_metrics(
        actual, score, calibrated, instants=moved["timestamp"], horizon=horizon
    )
    rose, called = actual > 0, score > 0
    hits = int((rose & called).sum())
    precision = hits / int(called.sum()) if called.any() else None
    recall = hits / int(rose.sum()) if rose.any() else None
    both = None if precision is None or recall is None else precision + recall
    return {
        "accuracy": measured["direction_accuracy"],
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / both if both else None,  # type: ignore[operator]
        "accuracy_low": measured["direction_accuracy_low"],
        "accuracy_high": measured["direction_accuracy_high"],
        "n": len(moved),
        **{
            name: measured[name]
            for name in (
                "n_calls",
                "roc_auc",
                "brier",
                "top_tenth_accuracy",
                "pesaran_timmermann_statistic",
                "pesaran_timmermann_p_value",
            )
        },
    }


def qlike(variance: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Loss of a variance forecast: variance / forecast - ln(variance / forecast) - 1; 0 where they
    agree.

    Patton (2011), Volatility Forecast Comparison Using Imperfect Volatility Proxies, J.
    Econometrics 160(1): of the losses that rank forecasts rightly although the realised variance is
    noisy, the one that wild days do not decide.

    Example:
        >>> qlike(np.array([4.0, 1.0]), np.array([4.0, 2.0])).round(6).tolist()
        [0.0, 0.193147]
    """
    ratio = variance / forecast
    return ratio - np.log(ratio) - 1.0


def volatility_scores(predictions: pd.DataFrame, volatility_horizon: int) -> dict[str, Any]:
    """Score the volatility model where what came true is known.

    Args:
        predictions: Needs timestamp, volatility_realised, volatility_forecast, volatility_ewma and
            volatility_har.
        volatility_horizon: Candles that a forecast spans.

    Returns:
        Of the model: rmse and mae (log-return over the horizon), mape (a fraction) and
        mape_percent, r2 (against the mean of the test part), qlike (of variances), n. The same of
        each baseline under "baselines", and under "verdicts" the comparisons by QLIKE.
    """
    known = predictions[predictions["volatility_realised"].notna()]
    realised = known["volatility_realised"].to_numpy()
    columns = {
        "xgboost": "volatility_forecast",
        **{name: f"volatility_{name}" for name in VOLATILITY_BASELINES},
    }
    scores, losses = {}, {}
    for model, column in columns.items():
        forecast = known[column].to_numpy()
        losses[model] = qlike(realised**2, forecast**2)
        scores[model] = {
            **_level_errors(realised, forecast),
            "qlike": float(losses[model].mean()),
            "n": len(known),
        }
    model_loss = losses.pop("xgboost")
    compared = compare_losses(
        "xgboost", model_loss, losses, known["timestamp"], volatility_horizon, loss="qlike"
    )
    return {
        **scores.pop("xgboost"),
        "baselines": scores,
        "verdicts": [asdict(comparison) for comparison in compared],
    }


def _level_errors(actual: np.ndarray, forecast: np.ndarray) -> dict[str, Any]:
    error = actual - forecast
    spread = float(np.sum((actual - actual.mean()) ** 2))
    mape = float(np.mean(np.abs(error) / actual))
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae": float(np.mean(np.abs(error))),
        "mape": mape,
        "mape_percent": 100 * mape,
        "r2": 1 - float(np.sum(error**2)) / spread if spread > 0 else None,
    }


def price_scores(
    predictions: pd.DataFrame, test: Mapping[str, Any], baselines: Sequence[str]
) -> dict[str, Any]:
    """The price network's errors as prices, and the verdicts of its returns.

    Args:
        predictions: The frame.
        test: Content of "test" of `score_run`.
        baselines: Names of the baselines' columns.

    Returns:
        rmse and mae in quote currency and r2 of the price (each None for several symbols, whose
        dollars do not add up: see by_symbol), mape (a fraction) and mape_percent, r2_return
        (against zero), by_symbol; the same of each baseline under "baselines", and "verdicts".
    """
    models = ("lstm", *baselines)
    errors = price_errors(predictions, models)
    rows = {name: _price_row(predictions, name, errors, test) for name in models}
    return {
        **rows.pop("lstm"),
        "baselines": rows,
        "verdicts": test["verdicts"],
        "verdict": test["verdict"],
    }


def _price_row(
    predictions: pd.DataFrame,
    model: str,
    errors: Mapping[str, Mapping[str, Any]],
    test: Mapping[str, Any],
) -> dict[str, Any]:
    by_symbol = {}
    for symbol, own in predictions.groupby(predictions["symbol"].astype(str), sort=False):
        base = own["base_price"].to_numpy()
        actual, forecast = (
            base * np.exp(own[name].to_numpy()) for name in ("actual_return", model)
        )
        r2 = _level_errors(actual, forecast)["r2"]
        by_symbol[str(symbol)] = {
            **{name: errors[str(symbol)][model][name] for name in ("rmse", "mae")},
            "r2": r2,
        }
    only = (
        next(iter(by_symbol.values()))
        if len(by_symbol) == 1
        else dict.fromkeys(("rmse", "mae", "r2"))
    )
    mape_percent = test["models"][model]["mape_percent"]
    return {
        **only,
        "mape": mape_percent / 100,
        "mape_percent": mape_percent,
        "r2_return": test["models"][model]["r2"],
        "by_symbol": by_symbol,
    }


def combined_scores(predictions: pd.DataFrame, horizon: int) -> dict[str, Any]:
    """Score the combined forecast beside its parts: the price network and naive, and its interval
    beside the price's.

    Returns:
        `return_metrics`, `direction_metrics` and "interval" of the combined forecast, its
        "verdicts" against naive and the price network, and "interval_verdicts": the combined
        quantiles against the price network's.
    """
    frame = predictions[
        ["symbol", "timestamp", "base_price", "actual_return", "volatility", "naive", "lstm"]
    ].assign(
        combined=predictions["combined"],
        **{q: predictions[f"combined_{q}"] for q in ("q10", "q50", "q90")},
        **{f"lstm_{q}": predictions[q] for q in ("q10", "q50", "q90")},
    )
    actual, score = frame["actual_return"], frame["combined"] / frame["volatility"]
    p_up = predictions["combined_p_up"]
    return {
        **return_metrics(actual, frame["combined"]),
        **direction_metrics(actual, score, p_up, instants=frame["timestamp"], horizon=horizon),
        "interval": interval_scores(frame, horizon),
        "verdicts": [
            asdict(c) for c in compare_forecasts(frame, "combined", ("naive", "lstm"), horizon)
        ],
        "interval_verdicts": compare_quantiles(frame, "combined", ("lstm",), horizon),
    }


def task_rows(scores: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """The scores of direction, volatility and combination as text cells, a heading first in each
    table."""
    direction, volatility, combined = (
        scores[name] for name in ("direction", "volatility", "combined")
    )
    rows = {
        "direction": [
            [
                "direction",
                "accuracy %",
                "95 % CI",
                "precision %",
                "recall %",
                "F1",
                "ROC-AUC",
                "Brier",
            ]
        ],
        "volatility": [["volatility", "RMSE %", "MAE %", "MAPE %", "R²", "QLIKE"]],
    }
    for name, row in {"bilstm": direction, **direction["baselines"]}.items():
        rows["direction"].append(
            [
                name,
                show(row["accuracy"], "{:.2f}", 100),
                span(row["accuracy_low"], row["accuracy_high"], factor=100),
                *(show(row[key], "{:.2f}", 100) for key in ("precision", "recall")),
                show(row["f1"], "{:.3f}"),
                *(show(row[key], "{:.4f}") for key in ("roc_auc", "brier")),
            ]
        )
    for name, row in {"xgboost": volatility, **volatility["baselines"]}.items():
        rows["volatility"].append(
            [
                name,
                *(show(row[key], "{:.3f}", 100) for key in ("rmse", "mae")),
                show(row["mape_percent"], "{:.1f}"),
                show(row["r2"], "{:+.3f}"),
                show(row["qlike"], "{:.4f}"),
            ]
        )
    verdicts = [*direction["verdicts"], *volatility["verdicts"], *combined["verdicts"]]
    rows["verdicts"] = verdict_rows(verdicts)
    rows["intervals"] = verdict_rows(combined["interval_verdicts"])
    return rows


def task_sections(scores: Mapping[str, Any]) -> list[str]:
    """The same as sections of the report, HTML."""
    rows = task_rows(scores)
    return [
        *page.section(
            "Direction, volatility, and their combination",
            "The direction network's calls beside those of the majority of the training part, the "
            "last move's sign and a logistic regression; the volatility of the coming day beside "
            "EWMA and HAR, where a smaller QLIKE is better; the combined forecast beside naive "
            "and the price network.",
            page.table(rows["direction"]),
            page.table(rows["volatility"]),
            page.table(rows["verdicts"]),
            '<p class="note">Losses: wrong directions, QLIKE, and the absolute error in units of '
            "the candle's "
            "volatility. BEATS and LOSES need p below 0.05 after Holm's correction within each "
            "task.</p>",
            page.table(rows["intervals"]),
            '<p class="note">The combined interval, as wide as the volatility model says, beside '
            "the price network's, "
            "by the pinball loss of the 10, 50 and 90 % quantiles.</p>",
        )
    ]
