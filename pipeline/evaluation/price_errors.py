"""Errors of forecast prices as the training report tells them, in quote currency, with naive beside
the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.forecasts.picture import format_price

COLUMNS = ("mae", "rmse", "mape_percent", "min", "median", "max")


def price_errors(
    predictions: pd.DataFrame, models: Sequence[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Measure the absolute errors of forecast prices; per symbol, since a dollar of BTC is none of
    ETH.

    Args:
        predictions: The frame described in `metrics`.
        models: Names of forecast columns.

    Returns:
        Symbol -> model -> mae, rmse, min, median and max of the absolute error in quote currency,
        and mape_percent.

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


def price_error_rows(errors: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
    """`price_errors` as text cells, a heading first."""
    rows = [
        ["absolute error of the price", "MAE $", "RMSE $", "MAPE %", "min $", "median $", "max $"]
    ]
    for symbol, models in errors.items():
        for model, values in models.items():
            cells = [
                f"{values[k]:.4f}" if k == "mape_percent" else format_price(values[k])
                for k in COLUMNS
            ]
            rows.append([f"{symbol} {model}", *cells])
    return rows


def sample_rows(
    predictions: pd.DataFrame, models: Sequence[str], n_rows: int = 5
) -> list[list[str]]:
    """Prices of a few rows of each symbol, evenly spread over the test part, as text cells; a
    heading first."""
    heading = [cell for model in models for cell in (f"{model} $", "error %")]
    table = [["sample predictions, candle t + horizon", "actual $", *heading]]
    for symbol, rows in predictions.groupby("symbol", sort=False):
        for _, row in rows.iloc[
            np.linspace(0, len(rows) - 1, min(n_rows, len(rows))).astype(int)
        ].iterrows():
            actual = row["base_price"] * np.exp(row["actual_return"])
            cells = [f"{symbol} {row['timestamp']:%Y-%m-%d %H:%M}", format_price(actual)]
            for model in models:
                price = row["base_price"] * np.exp(row[model])
                cells += [format_price(price), f"{100 * abs(price - actual) / actual:.2f}"]
            table.append(cells)
    return table


def _errors(rows: pd.DataFrame, model: str) -> dict[str, Any]:
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
) -> dict[str, dict[str, Any]]:
    """Measure forecasts of several prices of one symbol's next candle.

    Args:
        predictions: For each head, such as "high", its price under "actual_high" and forecasts
            under "<model>_high".
        models: Names of the models.
        heads: Names of the prices.

    Returns:
        Model -> head -> mse (squared quote currency), mae (quote currency) and mape_percent.

    Example:
        >>> rows = pd.DataFrame({"actual_high": [100.0, 50.0], "lstm_high": [101.0, 50.0]})
        >>> head_errors(rows, ["lstm"], ["high"])["lstm"]["high"]
        {'mse': 0.5, 'mae': 0.5, 'mape_percent': 0.5}
    """
    return {
        model: {head: _head_errors(predictions, model, head) for head in heads} for model in models
    }


def head_error_rows(
    errors: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]],
) -> list[list[str]]:
    """`head_errors` of several networks, by their names, as text cells, a heading first."""
    rows: list[list[str]] = []
    for network, models in errors.items():
        for model, heads in models.items():
            if not rows:
                rows.append(
                    ["MAPE %, then MAE $", *(f"{head} {unit}" for unit in "%$" for head in heads)]
                )
            percents = [f"{values['mape_percent']:.3f}" for values in heads.values()]
            rows.append(
                [f"{network} {model}", *percents, *(format_price(v["mae"]) for v in heads.values())]
            )
    return rows


def _head_errors(predictions: pd.DataFrame, model: str, head: str) -> dict[str, float]:
    actual = predictions[f"actual_{head}"].to_numpy(np.float64)
    error = np.abs(predictions[f"{model}_{head}"].to_numpy(np.float64) - actual)
    return {
        "mse": float(np.mean(error**2)),
        "mae": float(error.mean()),
        "mape_percent": float(100 * np.mean(error / actual)),
    }
