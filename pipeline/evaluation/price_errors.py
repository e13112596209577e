"""Errors of forecast prices, in quote currency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pandas as pd


class PriceErrors(TypedDict):
    """Absolute errors of a model's prices of one symbol, in quote currency."""

    mae: float
    rmse: float
    mape_percent: float
    min: float
    median: float
    max: float


class HeadErrors(TypedDict):
    """Errors of forecasts of one price of the next candle."""

    mse: float
    """squared quote currency"""
    mae: float
    """quote currency"""
    mape_percent: float


def price_errors(
    predictions: pd.DataFrame, models: Sequence[str]
) -> dict[str, dict[str, PriceErrors]]:
    """Measure errors of prices per symbol, since a dollar of BTC is none of ETH.

    Args:
        predictions: The frame described in `metrics`.
        models: Names of forecast columns.

    Returns:
        Symbol -> model -> its errors.

    Example:
        >>> row = {"symbol": ["BTC/USDT"], "base_price": [100.0], "naive": [0.0]}
        >>> row["actual_return"] = [np.log(1.25)]
        >>> errors = price_errors(pd.DataFrame(row), ["naive"])["BTC/USDT"]["naive"]
        >>> round(errors["mae"], 6), round(errors["mape_percent"], 6)
        (25.0, 20.0)
    """
    return {
        str(symbol): {model: _errors(rows, model) for model in models}
        for symbol, rows in predictions.groupby("symbol", sort=False)
    }


def _errors(rows: pd.DataFrame, model: str) -> PriceErrors:
    base = rows["base_price"].to_numpy(np.float64)
    actual = base * np.exp(rows["actual_return"].to_numpy(np.float64))
    error = np.abs(base * np.exp(rows[model].to_numpy(np.float64)) - actual)
    return {
        "mae": float(error.mean()),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "mape_percent": float(100 * np.mean(error / actual)),
        "min": float(error.min()),
        "median": float(np.median(error)),
        "max": float(error.max()),
    }


def head_errors(
    predictions: pd.DataFrame, models: Sequence[str], heads: Sequence[str]
) -> dict[str, dict[str, HeadErrors]]:
    """Measure forecasts of several prices of one symbol's next candle.

    Args:
        predictions: For each head, such as "high", its price under "actual_high" and forecasts
            under "<model>_high".
        models: Names of the models.
        heads: Names of the prices.

    Returns:
        Model -> head -> its errors.

    Example:
        >>> rows = pd.DataFrame({"actual_high": [100.0, 50.0], "lstm_high": [101.0, 50.0]})
        >>> head_errors(rows, ["lstm"], ["high"])["lstm"]["high"]
        {'mse': 0.5, 'mae': 0.5, 'mape_percent': 0.5}
    """
    return {
        model: {head: _head_errors(predictions, model, head) for head in heads} for model in models
    }


def _head_errors(predictions: pd.DataFrame, model: str, head: str) -> HeadErrors:
    actual = predictions[f"actual_{head}"].to_numpy(np.float64)
    error = np.abs(predictions[f"{model}_{head}"].to_numpy(np.float64) - actual)
    return {
        "mse": float(np.mean(error**2)),
        "mae": float(error.mean()),
        "mape_percent": float(100 * np.mean(error / actual)),
    }
