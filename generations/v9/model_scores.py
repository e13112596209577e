"""Scores of v9's three models and of their combination, each beside its baselines.

They have the document's names and read the frame of `three_models.forecast_combined`.
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

VOLATILITY_BASELINES = ("ewma", "har")
QUANTILES = ("q10", "q50", "q90")


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
    rose = moved["actual_return"] > 0
    models = {"bilstm": moved["direction"], **{name: moved[name] for name in DIRECTION_BASELINES}}
    calibrated = {**models, "bilstm": moved["direction_p_up"]}
    scores = {
        name: _direction_row(moved, p_up, calibrated[name], horizon)
        for name, p_up in models.items()
    }
    # No call, at one half, is half wrong.
    losses = {
        name: np.where(p_up == 0.5, 0.5, (p_up > 0.5) != rose) for name, p_up in models.items()
    }
    return _beside_baselines(scores, losses, moved["timestamp"], horizon, "wrong_direction")


def _direction_row(
    moved: pd.DataFrame, p_up: pd.Series, calibrated: pd.Series, horizon: int
) -> dict[str, Any]:
    actual = moved["actual_return"]
    score = p_up - 0.5
    measured: Mapping[str, Any] = direction_metrics(
        actual, score, calibrated, instants=moved["timestamp"], horizon=horizon
    )
    hits = int(((actual > 0) & (score > 0)).sum())
    n_called = int((score > 0).sum())
    n_rose = int((actual > 0).sum())
    precision = hits / n_called if n_called else None
    recall = hits / n_rose if n_rose else None
    f1 = None
    if precision and recall:
        f1 = 2 * precision * recall / (precision + recall)
    same = ("n_calls", "roc_auc", "brier", "top_tenth_accuracy")
    tested = ("pesaran_timmermann_statistic", "pesaran_timmermann_p_value")
    return {
        "accuracy": measured["direction_accuracy"],
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "accuracy_low": measured["direction_accuracy_low"],
        "accuracy_high": measured["direction_accuracy_high"],
        "n": len(moved),
        **{name: measured[name] for name in (*same, *tested)},
    }


def qlike(variance: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Loss of a variance forecast, 0 where they agree: ratio - ln(ratio) - 1.

    The ratio is variance / forecast. Patton (2011), Volatility Forecast Comparison Using Imperfect
    Volatility Proxies, J. Econometrics 160(1): of the losses that rank forecasts rightly although
    the realised variance is noisy, the one that wild days do not decide.

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
    forecasts = {"xgboost": known["volatility_forecast"].to_numpy()}
    forecasts |= {name: known[f"volatility_{name}"].to_numpy() for name in VOLATILITY_BASELINES}
    losses = {name: qlike(realised**2, forecast**2) for name, forecast in forecasts.items()}
    scores = {
        name: {
            **_level_errors(realised, forecast),
            "qlike": float(losses[name].mean()),
            "n": len(known),
        }
        for name, forecast in forecasts.items()
    }
    return _beside_baselines(scores, losses, known["timestamp"], volatility_horizon, "qlike")


def _beside_baselines(
    scores: dict[str, dict[str, Any]],
    losses: dict[str, np.ndarray],
    instants: pd.Series,
    horizon: int,
    loss: str,
) -> dict[str, Any]:
    """The first model's scores, with those of the others and the comparisons by loss."""
    model, *baselines = scores
    others = {name: losses[name] for name in baselines}
    compared = compare_losses(model, losses[model], others, instants, horizon, loss=loss)
    return {
        **scores[model],
        "baselines": {name: scores[name] for name in baselines},
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
        predictions: The frame of `forecast_combined`.
        test: Content of "test" of `score_run`.
        baselines: Names of the baselines' columns.

    Returns:
        rmse and mae in quote currency and r2 of the price (each None for several symbols, whose
        dollars do not add up: see by_symbol), mape (a fraction) and mape_percent, r2_return
        (against zero), by_symbol; the same of each baseline under "baselines", and "verdicts".
    """
    models = ("lstm", *baselines)
    errors = price_errors(predictions, models)
    rows = {}
    for model in models:
        by_symbol = _errors_by_symbol(predictions, model, errors)
        whole: dict[str, Any] = dict.fromkeys(("rmse", "mae", "r2"))
        if len(by_symbol) == 1:
            (whole,) = by_symbol.values()
        mape_percent = test["models"][model]["mape_percent"]
        rows[model] = {
            **whole,
            "mape": mape_percent / 100,
            "mape_percent": mape_percent,
            "r2_return": test["models"][model]["r2"],
            "by_symbol": by_symbol,
        }
    verdicts = {name: test[name] for name in ("verdicts", "verdict")}
    return {**rows.pop("lstm"), "baselines": rows, **verdicts}


def _errors_by_symbol(
    predictions: pd.DataFrame, model: str, errors: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    by_symbol = {}
    for symbol, own in predictions.groupby(predictions["symbol"].astype(str), sort=False):
        base = own["base_price"].to_numpy()
        actual = base * np.exp(own["actual_return"].to_numpy())
        forecast = base * np.exp(own[model].to_numpy())
        known = errors[str(symbol)][model]
        r2 = _level_errors(actual, forecast)["r2"]
        by_symbol[str(symbol)] = {"rmse": known["rmse"], "mae": known["mae"], "r2": r2}
    return by_symbol


def combined_scores(predictions: pd.DataFrame, horizon: int) -> dict[str, Any]:
    """Score the combined forecast beside naive and the price network.

    Returns:
        `return_metrics`, `direction_metrics` and "interval" of the combined forecast, its
        "verdicts" against naive and the price network, and "interval_verdicts": the combined
        quantiles against the price network's.
    """
    frame = predictions.assign(
        **{name: predictions[f"combined_{name}"] for name in QUANTILES},
        **{f"lstm_{name}": predictions[name] for name in QUANTILES},
    )
    actual, forecast = frame["actual_return"], frame["combined"]
    score = forecast / frame["volatility"]
    p_up = frame["combined_p_up"]
    compared = compare_forecasts(frame, "combined", ("naive", "lstm"), horizon)
    return {
        **return_metrics(actual, forecast),
        **direction_metrics(actual, score, p_up, instants=frame["timestamp"], horizon=horizon),
        "interval": interval_scores(frame, horizon),
        "verdicts": [asdict(comparison) for comparison in compared],
        "interval_verdicts": compare_quantiles(frame, "combined", ("lstm",), horizon),
    }
