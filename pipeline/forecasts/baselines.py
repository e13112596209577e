"""Forecasts that cost nothing (naive, drift) or little (ridge, XGBoost), on the same samples as the
network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.forecasts.shrinkage import fit_shrinkage
from pipeline.samples.scaling import ScaledSamples, Scaler, to_log_return

LAGS = 4
"""Candles before t from which the small models see the lagged features."""
LAGGED_FEATURES = (
    "log_return",
    "price_range",
    "volume_ratio",  # v2's
    "scaled_return",
    "close_position",
    "range_size",
    "btc_return",
    "market_return",  # the pooled preset's
)

RIDGE_ALPHAS = tuple(10.0**power for power in range(0, 7))
"""Candidates, chosen by validation; the grid reaches far up because the best ridge on returns is
nearly zero."""

BASELINE_NAMES = ("naive", "drift", "ridge", "xgboost")


@dataclass(frozen=True)
class Baselines:
    """Log-return forecasts for every sample, (n_samples,) each, keyed by model."""

    forecasts: dict[str, np.ndarray]
    directions: dict[str, np.ndarray]
    """the fitted models' forecasts before shrinkage: one shrunk to exactly 0 still has a
    direction"""
    settings: dict[str, float]
    """what validation chose: ridge's alpha, XGBoost's rounds, the shrinkage of each"""
    caution: float = 0.0
    """of their shrinkage; see `fit_shrinkage`"""


def fit_baselines(
    scaled: ScaledSamples, y_scaler: Scaler, *, seed: int, caution: float = 0.0, refit: bool = False
) -> Baselines:
    """Fit the four baselines on the training part; validation picks alpha, rounds and shrinkage, as
    for the network.

    naive forecasts 0; drift the mean training log-return of the symbol; ridge and XGBoost forecast
    the network's own target from the last candle's features and a few lags, and are shrunk as the
    network is, so that the comparison is between signals rather than between temperaments;
    `caution` as in `fit_shrinkage`. With `refit` drift, ridge and XGBoost forecast the test part as
    fitted once more, with what validation chose, on that part too.
    """
    samples, split = scaled.samples, scaled.split
    inputs = lagged_inputs(scaled)
    ridge_output, alpha = _fit_ridge(inputs, scaled, refit)
    xgboost_output, rounds = _fit_xgboost(inputs, scaled, seed, refit)
    forecasts = {"naive": np.zeros(len(samples)), "drift": _drift(scaled, split.train)}
    if refit:
        forecasts["drift"][split.test] = _drift(scaled, split.known)[split.test]
    directions = {}
    settings = {"ridge_alpha": alpha, "xgboost_rounds": float(rounds)}
    for name, output in (("ridge", ridge_output), ("xgboost", xgboost_output)):
        directions[name] = to_log_return(output, samples.volatility, y_scaler)
        scaled_forecast = (directions[name] / samples.volatility)[split.val]
        factor = fit_shrinkage(
            scaled_forecast, (samples.log_return / samples.volatility)[split.val], caution
        )
        forecasts[name] = factor * directions[name]
        settings[f"{name}_shrinkage"] = factor
    return Baselines(forecasts, directions, settings, caution)


def lagged_inputs(scaled: ScaledSamples) -> np.ndarray:
    """(n_samples, n_features + n_lagged * LAGS, …) float32: candle t's features, then some of them
    at t-1 … t-LAGS.

    The lagged ones are those of `LAGGED_FEATURES` that the samples have.

    Of further windows, such as those of a finer timeframe, the last candle's features.
    """
    end = scaled.samples.end
    columns = [
        column for column, name in enumerate(scaled.samples.feature_cols) if name in LAGGED_FEATURES
    ]
    lags = [scaled.rows[end - lag][:, columns] for lag in range(1, LAGS + 1)]
    return np.hstack(
        [scaled.rows[end], *lags, *(stream.rows[stream.end] for stream in scaled.others)]
    )


def _drift(scaled: ScaledSamples, part: np.ndarray) -> np.ndarray:
    samples = scaled.samples
    counts = np.bincount(samples.symbol[part], minlength=len(samples.symbols))
    sums = np.bincount(
        samples.symbol[part], samples.log_return[part], minlength=len(samples.symbols)
    )
    return (sums / np.maximum(counts, 1))[samples.symbol]


def _fit_ridge(inputs: np.ndarray, scaled: ScaledSamples, refit: bool) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import Ridge

    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    known = inputs[train].astype(
        np.float64
    )  # in float32, half a million samples make the smallest alphas inexact
    best_alpha, best_loss, best_output = RIDGE_ALPHAS[0], np.inf, np.zeros(len(inputs))
    for alpha in RIDGE_ALPHAS:
        output = Ridge(alpha=alpha).fit(known, scaled.target[train]).predict(inputs)
        loss = float(np.mean(np.abs(scaled.target[val] - output[val])))
        if loss < best_loss:
            best_alpha, best_loss, best_output = alpha, loss, output
    if refit:
        both = scaled.split.known
        again = Ridge(alpha=best_alpha).fit(inputs[both].astype(np.float64), scaled.target[both])
        best_output[test] = again.predict(inputs[test])
    return best_output, best_alpha


def _fit_xgboost(
    inputs: np.ndarray, scaled: ScaledSamples, seed: int, refit: bool
) -> tuple[np.ndarray, int]:
    import xgboost

    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    settings: dict[str, Any] = {
        # the verdict's loss; on squared error it finds next to nothing (docs/log.md)
        "objective": "reg:absoluteerror",
        "eval_metric": "mae",
        "base_score": 0.0,
        "max_depth": 4,
        "learning_rate": 0.03,
        "subsample": 0.8,
        "colsample_bytree": 0.8,
        "min_child_weight": 20,
        "random_state": seed,
    }
    model = xgboost.XGBRegressor(n_estimators=500, early_stopping_rounds=30, **settings)
    model.fit(
        inputs[train],
        scaled.target[train],
        eval_set=[(inputs[val], scaled.target[val])],
        verbose=False,
    )
    output, rounds = model.predict(inputs), int(model.best_iteration) + 1
    if refit:
        both = scaled.split.known
        again = xgboost.XGBRegressor(n_estimators=rounds, **settings).fit(
            inputs[both], scaled.target[both]
        )
        output[test] = again.predict(inputs[test])
    return output, rounds
