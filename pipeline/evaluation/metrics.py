"""Metrics of point forecasts: prices, log-returns, directions, and the lag check.

All of them read one frame, `predictions`, one row a sample, in any order:

- symbol (str), timestamp (datetime64, UTC): the coin and the open of candle t
- base_price: close of candle t; actual_return: log-return over the horizon from there
- volatility: causal EWMA(span 48) volatility of the candle's log-return, at t
- one column a model: its forecast of actual_return; p_up, optional: the network's probability of a
  rise

What is undefined (no calls, a single class, a constant series) is None, never NaN or a made-up
number.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from pipeline.evaluation.significance import (
    accuracy_interval,
    finite_vectors,
    is_constant,
    pesaran_timmermann,
    wilson_interval,
)

LARGEST_LOG_RETURN = 50.0  # a factor of e^50: no forecast, but a network that diverged


class SymbolErrors(TypedDict):
    """Errors of one symbol's prices."""

    mape_percent: float
    mae: float
    """in the symbol's quote currency, so it is never pooled"""
    rmse: float
    mase: float | None
    """mae over that of naive on the same rows; less than 1 is better. None if no price changed"""


class PriceMetrics(TypedDict):
    """Errors of a model's prices."""

    mape_percent: float
    """pooled over all rows"""
    by_symbol: dict[str, SymbolErrors]


class ReturnMetrics(TypedDict):
    """Errors of forecasts of log-returns."""

    mae: float
    rmse: float
    mae_percent: float
    """100 * mae; other reports call it "MAPE on log-return" """
    r2_vs_zero: float | None
    """1 - sum (y - f)^2 / sum y^2, against "no change"; None where no return differs from 0"""


class CallMetrics(TypedDict):
    """How often the calls of a direction were right; None where undefined."""

    direction_accuracy: float | None
    direction_accuracy_low: float | None
    direction_accuracy_high: float | None
    """95 % interval: `accuracy_interval`, Wilson's without instants"""
    pesaran_timmermann_statistic: float | None
    pesaran_timmermann_p_value: float | None
    top_tenth_accuracy: float | None
    """of the n_calls // 10 most confident calls and those that tie with the last of them"""


class DirectionMetrics(CallMetrics):
    """The same, and how good the scores and probabilities are of all rows that moved."""

    n_calls: int
    roc_auc: float | None
    """of the score; a coin toss has 0.5"""
    brier: float | None
    """of p_up; a coin toss has 0.25"""


class LagCheck(TypedDict):
    """Pearson correlations of a forecast; None where a series is constant."""

    correlation_with_current_return: float | None
    correlation_with_next_return: float | None


def check_predictions(predictions: pd.DataFrame, models: Sequence[str]) -> None:
    """Refuse a frame of predictions from which no honest metric can be computed.

    Args:
        predictions: The frame described at the top of this module.
        models: Names of the forecast columns that are needed.

    Raises:
        ValueError: No rows, a missing column or value, a sample given twice, a forecast or actual
            return that is NaN, infinite or beyond +-50, a price or volatility that is not positive,
            or p_up outside 0..1.
    """
    columns = ["symbol", "timestamp", "base_price", "actual_return", "volatility", *models]
    check_columns(predictions, columns)
    if predictions.empty:
        raise ValueError(
            "predictions are empty: the test part has no samples; fetch more candles or shorten "
            "the lookback"
        )
    for name in ("symbol", "timestamp"):
        _refuse(predictions, name, predictions[name].notna(), "missing")
    for name in ("actual_return", *models):
        is_usable = predictions[name].abs() < LARGEST_LOG_RETURN
        _refuse(predictions, name, is_usable, f"NaN, infinite or beyond +-{LARGEST_LOG_RETURN:g}")
    for name in ("base_price", "volatility"):
        is_usable = (predictions[name] > 0) & np.isfinite(predictions[name])
        _refuse(predictions, name, is_usable, "not positive and finite")
    if "p_up" in predictions:
        _refuse(predictions, "p_up", predictions["p_up"].between(0, 1), "not within 0 to 1")
    twice = predictions.duplicated(["symbol", "timestamp"])
    if twice.any():
        first = predictions[twice].iloc[0]
        raise ValueError(
            f"predictions hold {twice.sum()} samples twice, for example {first['symbol']} at "
            f"{first['timestamp']}; pass one row a symbol and timestamp"
        )


def check_columns(predictions: pd.DataFrame, columns: Sequence[str]) -> None:
    """Refuse a frame that lacks one of these columns, with a ValueError."""
    missing = [name for name in columns if name not in predictions]
    if missing:
        raise ValueError(
            f"predictions lack the columns {missing}; they have {list(predictions.columns)}"
        )


def _refuse(predictions: pd.DataFrame, name: str, is_usable: pd.Series, rule: str) -> None:
    """Name the first value of a column that is not usable."""
    bad = predictions[~is_usable.to_numpy()]
    if len(bad):
        first = bad.sort_values("timestamp").iloc[0]
        raise ValueError(
            f"column {name} of predictions: {len(bad)} of {len(predictions)} values are "
            f"{rule}, the first at {first['timestamp']} ({first['symbol']}: {first[name]}); "
            "repair what made them or drop these samples"
        )


def forecast_fault(predictions: pd.DataFrame, model: str) -> str | None:
    """Why a model's forecasts cannot be used, as after a network diverged; None if they can.

    A model with some unusable forecasts is unusable as a whole: on the rest alone it would be
    scored on other samples than the others. A missing column is no such fault but a broken frame,
    which `check_predictions` refuses.
    """
    if model not in predictions:
        return None
    bad = predictions[~(predictions[model].abs() < LARGEST_LOG_RETURN)]
    if bad.empty:
        return None
    first = bad.sort_values("timestamp").iloc[0]
    return (
        f"{model}: {len(bad)} of {len(predictions)} forecasts are NaN, infinite or beyond "
        f"+-{LARGEST_LOG_RETURN:g}, the first at {first['timestamp']} ({first['symbol']}: "
        f"{first[model]}), so it is not scored; did it diverge?"
    )


def price_metrics(predictions: pd.DataFrame, model: str) -> PriceMetrics:
    """Measure a model's forecasts as prices: base_price * exp(log-return).

    The original MASE divides by naive's error on the training part, which a change of volatility
    since then would flatter or spoil; here it is that on the same rows.

    Args:
        predictions: A frame that `check_predictions` lets pass.
        model: Name of the model's forecast column.

    References:
        Hyndman and Koehler (2006), Another look at measures of forecast accuracy, Int. J.
        Forecasting 22(4).
    """
    base = predictions["base_price"].to_numpy(np.float64)
    actual = base * np.exp(predictions["actual_return"].to_numpy(np.float64))
    error = np.abs(actual - base * np.exp(predictions[model].to_numpy(np.float64)))
    columns = {
        "percent": 100 * error / actual,
        "absolute": error,
        "squared": error**2,
        "naive": np.abs(actual - base),
    }
    codes, symbols = pd.factorize(predictions["symbol"], sort=True)
    counts = np.bincount(codes)
    means = {name: np.bincount(codes, values) / counts for name, values in columns.items()}
    by_symbol: dict[str, SymbolErrors] = {
        str(symbol): {
            "mape_percent": float(means["percent"][code]),
            "mae": float(means["absolute"][code]),
            "rmse": float(np.sqrt(means["squared"][code])),
            "mase": (
                float(means["absolute"][code] / means["naive"][code])
                if means["naive"][code] > 0
                else None
            ),
        }
        for code, symbol in enumerate(symbols)
    }
    return {"mape_percent": float(columns["percent"].mean()), "by_symbol": by_symbol}


def return_metrics(actual: Any, forecast: Any) -> ReturnMetrics:
    """Measure forecasts of log-returns.

    A percentage error of a return has no meaning near zero and is not computed.

    Args:
        actual: (n,) log-returns.
        forecast: (n,) forecasts of them.

    Example:
        >>> return_metrics([0.02, -0.01], [0.01, 0.0])
        {'mae': 0.01, 'rmse': 0.01, 'mae_percent': 1.0, 'r2_vs_zero': 0.6}
    """
    actual, forecast = finite_vectors(actual=actual, forecast=forecast)
    error = actual - forecast
    mae = float(np.abs(error).mean())
    power = float(np.sum(actual**2))
    return {
        "mae": mae,
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mae_percent": 100 * mae,
        "r2_vs_zero": float(1 - np.sum(error**2) / power) if power > 0 else None,
    }


def direction_metrics(
    actual: Any,
    score: Any,
    p_up: Any = None,
    confidence: Any = None,
    instants: Any = None,
    horizon: int = 1,
) -> DirectionMetrics:
    """Measure forecasts of the direction.

    A call is a row in which both the score and the actual move differ from 0. Without instants
    calls are taken as independent; pooled over 22 coins of one market that makes a "95 %" interval
    which holds the truth in half of all cases.

    Args:
        actual: (n,) actual moves.
        score: (n,) scores whose sign is the called direction; in units of volatility where rows of
            several coins or of calm and wild times are pooled, since the size of the score ranks
            them.
        p_up: (n,) probabilities of a rise.
        confidence: (n,) what ranks the calls for the most confident tenth; |score| unless given.
        instants: (n,) instants of the rows; None if they are independent.
    """
    actual, score = finite_vectors(actual=actual, score=score)
    confidence = np.abs(score) if confidence is None else confidence
    score, confidence = finite_vectors(score=score, confidence=confidence)
    moved = actual != 0
    is_call = moved & (score != 0)
    when = None if instants is None else pd.Index(instants)[is_call]
    calls = _score_calls(actual[is_call], score[is_call], confidence[is_call], when, horizon)
    rose = actual[moved] > 0
    roc_auc = brier = None
    if 0 < rose.sum() < len(rose) and not is_constant(score[moved]):
        roc_auc = _roc_auc(rose, score[moved])
    if p_up is not None and len(rose):
        probability = finite_vectors(actual=actual, p_up=p_up)[1]
        brier = float(np.mean((probability[moved] - rose) ** 2))
    return {"n_calls": int(is_call.sum()), **calls, "roc_auc": roc_auc, "brier": brier}


def _roc_auc(rose: np.ndarray, score: np.ndarray) -> float:
    """Share of the pairs of a rise and a fall of which the rise has the higher score.

    Ties count half. scikit-learn gives the same number and takes twice as long, by checks that
    were made here already.

    References:
        Hanley and McNeil (1982), The meaning and use of the area under a ROC curve, Radiology
        143(1).
    """
    n_rises = int(rose.sum())
    n_pairs = n_rises * (len(rose) - n_rises)
    return float((rankdata(score)[rose].sum() - n_rises * (n_rises + 1) / 2) / n_pairs)


def _score_calls(
    actual: np.ndarray,
    score: np.ndarray,
    confidence: np.ndarray,
    instants: pd.Index | None,
    horizon: int,
) -> CallMetrics:
    hits = (actual > 0) == (score > 0)
    n_calls = len(hits)
    share = low = high = test = top_tenth = None
    if n_calls > 0:
        share = float(hits.mean())
        test = pesaran_timmermann(actual, score, instants, horizon)
        if instants is None:
            low, high = wilson_interval(int(hits.sum()), n_calls)
        else:
            low, high = accuracy_interval(hits, instants, horizon)
    if n_calls >= 10:
        cut = np.partition(confidence, -(n_calls // 10))[-(n_calls // 10)]
        top_tenth = float(hits[confidence >= cut].mean())
    statistic, p_value = test or (None, None)
    return {
        "direction_accuracy": share,
        "direction_accuracy_low": low,
        "direction_accuracy_high": high,
        "pesaran_timmermann_statistic": statistic,
        "pesaran_timmermann_p_value": p_value,
        "top_tenth_accuracy": top_tenth,
    }


def lag_check(forecast: Any, current_return: Any, next_return: Any) -> LagCheck:
    """Show whether forecasts merely copy the last move.

    A network that has learned nothing often repeats the move it saw last: its curve then looks
    right, one candle late. It shows as a correlation with the current return far above that with
    the next.

    Args:
        forecast: (n,) forecasts of the log-return.
        current_return: (n,) last log-returns known when forecasting; NaN where there is none.
        next_return: (n,) log-returns that were forecast.

    Example:
        >>> checked = lag_check([1.0, -1.0, 2.0], [2.0, -2.0, 4.0], [-1.0, -1.0, -1.0])
        >>> round(checked["correlation_with_current_return"], 6)
        1.0
        >>> checked["correlation_with_next_return"] is None
        True
    """
    forecast, next_return = finite_vectors(forecast=forecast, next_return=next_return)
    current_return = np.asarray(current_return, dtype=np.float64)
    if current_return.shape != forecast.shape:
        raise ValueError(
            f"current_return has the shape {current_return.shape}, forecast {forecast.shape}; pass "
            "one value a sample"
        )
    known = np.isfinite(current_return)
    return {
        "correlation_with_current_return": _correlation(forecast[known], current_return[known]),
        "correlation_with_next_return": _correlation(forecast, next_return),
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    if len(x) < 2 or is_constant(x) or is_constant(y):
        return None
    return float(np.corrcoef(x, y)[0, 1])
