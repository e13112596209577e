"""The baselines, on the same samples as the network: what costs nothing, and what costs little.

Each is fitted for the loss that judges it, the absolute error in volatilities. Ridge alone is
fitted for its square, which the evaluation tells besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.forecasts.hand_made import hand_made
from pipeline.forecasts.shrinkage import fit_shrinkage
from pipeline.samples.scaling import ScaledSamples, Scaler, to_log_return
from pipeline.samples.windows import Samples

LAGS = 4
"""Candles before t from which the small models see the lagged features."""
LAGGED_FEATURES = (
    *("log_return", "price_range", "volume_ratio"),  # v2's
    *("scaled_return", "close_position", "range_size", "btc_return", "market_return"),  # pooled
)
RIDGE_ALPHAS = tuple(10.0**power for power in range(0, 7))
"""Candidates, of which validation chooses; the best ridge on returns is nearly zero."""
XGBOOST_SETTINGS: dict[str, Any] = {
    "objective": "reg:absoluteerror",  # the verdict's loss; of squares it learns next to nothing
    "eval_metric": "mae",
    "base_score": 0.0,
    "max_depth": 4,
    "learning_rate": 0.03,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "min_child_weight": 20,
}
LIGHTGBM_SETTINGS: dict[str, Any] = {
    "objective": "regression_l1",
    "metric": "l1",
    "num_leaves": 8,
    "learning_rate": 0.03,
    "subsample": 0.5,
    "subsample_freq": 1,
    "colsample_bytree": 0.4,
    "reg_lambda": 10,
    "max_bin": 63,
    "deterministic": True,
    "verbose": -1,
}
"""Its leaves hold at least `LEAF_SHARE` of the training part."""
LEAF_SHARE = 0.005
BASELINE_NAMES = ("naive", "drift", "reversal", "lad", "ridge", "xgboost")
FURTHER_BASELINES = ("lightgbm",)
"""Those that a run has by `--baselines`."""
KNOWN_BASELINES = (*BASELINE_NAMES, *FURTHER_BASELINES)
FREE_FORECASTS = BASELINE_NAMES[:3]
"""They see no features, so they cannot leak."""
REVERSAL_LIMIT = 2.0
"""A move counts up to so many volatilities; the largest do not come back in proportion."""


@dataclass(frozen=True)
class Baselines:
    """Log-return forecasts for every sample, (n_samples,) each, keyed by model."""

    forecasts: dict[str, np.ndarray]
    directions: dict[str, np.ndarray]
    """of the fitted ones before shrinkage: one shrunk to exactly 0 still has a direction"""
    settings: dict[str, float]
    """reversal's share, and what validation chose: ridge's alpha, the trees' rounds, the shrinkage
    of each"""
    caution: float = 0.0
    """of their shrinkage; see `fit_shrinkage`"""


def fit_baselines(
    scaled: ScaledSamples,
    y_scaler: Scaler,
    *,
    seed: int,
    caution: float = 0.0,
    refit: bool = False,
    further: Sequence[str] = (),
    wanted: Sequence[str] = BASELINE_NAMES,
) -> Baselines:
    """Fit the baselines on the training part.

    naive forecasts 0, drift the mean training log-return of the symbol, reversal a share of the
    last move, turned around. LAD, ridge and XGBoost forecast the network's own target from the last
    candle's features and a few lags; validation picks alpha and rounds. They are shrunk as the
    network is, so that signals are compared, not temperaments. LightGBM sees `hand_made` features.

    Args:
        scaled: Samples and split.
        y_scaler: Scaler of the target.
        seed: Seed of XGBoost.
        caution: See `fit_shrinkage`.
        refit: Whether all but naive forecast the test part as fitted once more, with what
            validation chose, on the validation part too.
        further: Those of `FURTHER_BASELINES` to fit besides.
        wanted: Those of `BASELINE_NAMES` to fit; those that cost nothing always are.
    """
    samples, split = scaled.samples, scaled.split
    inputs = lagged_inputs(scaled)
    outputs: dict[str, np.ndarray] = {}
    chosen: dict[str, float] = {}
    if "lad" in wanted:
        outputs["lad"] = _fit_lad(inputs, scaled, refit)
    if "ridge" in wanted:
        outputs["ridge"], chosen["ridge_alpha"] = _fit_ridge(inputs, scaled, refit)
    if "xgboost" in wanted:
        outputs["xgboost"], rounds = _fit_xgboost(inputs, scaled, seed, refit)
        chosen["xgboost_rounds"] = float(rounds)
    forecasts = {"naive": np.zeros(len(samples)), "drift": _drift(scaled, split.train)}
    forecasts["reversal"], share = _reversal(samples, split.train)
    if refit:
        forecasts["drift"][split.test] = _drift(scaled, split.known)[split.test]
        again, share = _reversal(samples, split.known)
        forecasts["reversal"][split.test] = again[split.test]
    directions = {}
    settings = {"reversal_share": share, **chosen}
    scaled_actual = (samples.log_return / samples.volatility)[split.val]
    if "lightgbm" in further:
        outputs["lightgbm"], rounds = _fit_lightgbm(scaled, seed, refit)
        settings["lightgbm_rounds"] = float(rounds)
    for name, output in outputs.items():
        directions[name] = to_log_return(output, samples.volatility, y_scaler)
        scaled_forecast = (directions[name] / samples.volatility)[split.val]
        factor = fit_shrinkage(scaled_forecast, scaled_actual, caution)
        forecasts[name] = factor * directions[name]
        settings[f"{name}_shrinkage"] = factor
    return Baselines(forecasts, directions, settings, caution)


def lagged_inputs(scaled: ScaledSamples) -> np.ndarray:
    """What LAD, ridge and XGBoost see of each sample.

    Returns:
        (n_samples, n_features + n_lagged * LAGS, …) float32: candle t's features, then those of
        `LAGGED_FEATURES` at t-1 … t-LAGS; of further windows, such as those of a finer timeframe,
        the last candle's features.
    """
    end = scaled.samples.end
    is_lagged = np.isin(scaled.samples.feature_cols, LAGGED_FEATURES)
    lags = [scaled.rows[end - lag][:, is_lagged] for lag in range(1, LAGS + 1)]
    others = [stream.rows[stream.end] for stream in scaled.others]
    return np.hstack([scaled.rows[end], *lags, *others])


def _drift(scaled: ScaledSamples, part: np.ndarray) -> np.ndarray:
    """(n_samples,) mean log-return of each sample's symbol in a part."""
    samples = scaled.samples
    symbol, n_symbols = samples.symbol[part], len(samples.symbols)
    sums = np.bincount(symbol, samples.log_return[part], minlength=n_symbols)
    counts = np.bincount(symbol, minlength=n_symbols)
    return (sums / np.maximum(counts, 1))[samples.symbol]


def _reversal(samples: Samples, part: np.ndarray) -> tuple[np.ndarray, float]:
    """(n_samples,) log-returns of the rule, and its share, fitted on the samples `part`."""
    move = reversal_forecast(samples.current_return, samples.volatility, samples.horizon, 1.0)
    share = _least_absolute_slope(
        move[part] / samples.volatility[part], samples.log_return[part] / samples.volatility[part]
    )
    return share * move, share


def reversal_forecast(
    current_return: np.ndarray, volatility: np.ndarray, horizon: int, share: float
) -> np.ndarray:
    """Minus a share of the last move, which counts up to `REVERSAL_LIMIT` volatilities.

    Args:
        current_return: (n,) log-return of the candle from which is forecast.
        volatility: (n,) of `horizon` candles.
        horizon: Candles that the forecast spans.
        share: Share that comes back; a negative one is of moves that go on.

    Returns:
        (n,) log-returns.

    Example:
        >>> moves = np.array([0.01, -0.5])
        >>> reversal_forecast(moves, np.array([0.02, 0.02]), 1, 0.1)
        array([-0.001,  0.004])
    """
    move = np.clip(current_return / volatility * np.sqrt(horizon), -REVERSAL_LIMIT, REVERSAL_LIMIT)
    return -share * move * volatility


def _least_absolute_slope(x: np.ndarray, y: np.ndarray) -> float:
    """The b of the least sum of |y - b x|: the median of y / x, each counting |x|.

    Example:
        >>> _least_absolute_slope(np.array([1.0, 1.0, 4.0, 0.0]), np.array([1.0, 2.0, 12.0, 9.0]))
        3.0
    """
    y, x = y[x != 0], x[x != 0]
    if len(x) == 0:
        return 0.0
    slopes = y / x
    order = np.argsort(slopes)
    weights = np.cumsum(np.abs(x)[order])
    return float(slopes[order][np.searchsorted(weights, weights[-1] / 2)])


def _fit_lad(inputs: np.ndarray, scaled: ScaledSamples, refit: bool) -> np.ndarray:
    """(n_samples,) outputs of the linear model of the least absolute error."""
    train, test = scaled.split.train, scaled.split.test
    output = _predict_linear(fit_lad(inputs[train], scaled.target[train]), inputs)
    if refit:
        both = scaled.split.known
        output[test] = _predict_linear(fit_lad(inputs[both], scaled.target[both]), inputs[test])
    return output


def fit_lad(inputs: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Intercept and slopes of the least sum of absolute errors (least absolute deviations).

    The dual of the linear program has a row a slope instead of a row a sample, and is solved in
    seconds where scikit-learn's QuantileRegressor, which solves the primal one, takes minutes.

    Args:
        inputs: (n, n_inputs).
        target: (n,).

    Returns:
        (1 + n_inputs,) float64.

    Raises:
        RuntimeError: The solver found no solution.

    References:
        Koenker and Bassett (1978), Regression Quantiles, Econometrica 46(1), at the quantile 1/2.
    """
    from scipy.optimize import linprog

    columns = np.column_stack([np.ones(len(inputs)), inputs]).astype(np.float64)
    # maximise y'd over 0 <= d <= 1 with X'd = X'1 / 2; the slopes are the constraints' prices
    found = linprog(
        -target.astype(np.float64),
        A_eq=columns.T,
        b_eq=columns.sum(axis=0) / 2,
        bounds=(0, 1),
        method="highs",
    )
    if found.status != 0:
        raise RuntimeError(f"the linear baseline could not be fitted: {found.message}")
    return -found.eqlin.marginals


def _predict_linear(weights: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    return weights[0] + inputs @ weights[1:]


def _fit_ridge(inputs: np.ndarray, scaled: ScaledSamples, refit: bool) -> tuple[np.ndarray, float]:
    """(n_samples,) outputs, and the alpha of the least error in the validation part."""
    from sklearn.linear_model import Ridge

    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    # In float32, half a million samples make the smallest alphas inexact.
    known = inputs[train].astype(np.float64)
    best_alpha, best_loss, best = RIDGE_ALPHAS[0], np.inf, None
    for alpha in RIDGE_ALPHAS:
        model = Ridge(alpha=alpha).fit(known, scaled.target[train])
        loss = float(np.mean(np.abs(scaled.target[val] - model.predict(inputs[val]))))
        if loss < best_loss:
            best_alpha, best_loss, best = alpha, loss, model
    best_output = np.zeros(len(inputs)) if best is None else best.predict(inputs)
    if refit:
        both = scaled.split.known
        again = Ridge(alpha=best_alpha).fit(inputs[both].astype(np.float64), scaled.target[both])
        best_output[test] = again.predict(inputs[test])
    return best_output, best_alpha


def _fit_xgboost(
    inputs: np.ndarray, scaled: ScaledSamples, seed: int, refit: bool
) -> tuple[np.ndarray, int]:
    """(n_samples,) outputs, and the number of rounds where validation stopped."""
    import xgboost

    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    settings = XGBOOST_SETTINGS | {"random_state": seed}
    model = xgboost.XGBRegressor(n_estimators=500, early_stopping_rounds=30, **settings)
    validation = [(inputs[val], scaled.target[val])]
    model.fit(inputs[train], scaled.target[train], eval_set=validation, verbose=False)
    output, rounds = model.predict(inputs), int(model.best_iteration) + 1
    if refit:
        both = scaled.split.known
        again = xgboost.XGBRegressor(n_estimators=rounds, **settings)
        output[test] = again.fit(inputs[both], scaled.target[both]).predict(inputs[test])
    return output, rounds


def _fit_lightgbm(scaled: ScaledSamples, seed: int, refit: bool) -> tuple[np.ndarray, int]:
    """(n_samples,) outputs, and the number of rounds where validation stopped."""
    import lightgbm

    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    inputs = hand_made(scaled, np.arange(len(scaled.samples)))
    settings = LIGHTGBM_SETTINGS | {
        "min_child_samples": max(20, int(LEAF_SHARE * len(train))),
        "random_state": seed,
    }
    stop: list[Any] = [lightgbm.early_stopping(50, verbose=False)]
    model = lightgbm.LGBMRegressor(n_estimators=600, **settings)
    model.fit(
        inputs[train],
        scaled.target[train],
        eval_set=[(inputs[val], scaled.target[val])],
        callbacks=stop,
    )
    output, rounds = np.asarray(model.predict(inputs)), int(model.best_iteration_)
    if refit:
        both = scaled.split.known
        again = lightgbm.LGBMRegressor(n_estimators=rounds, **settings)
        output[test] = again.fit(inputs[both], scaled.target[both]).predict(inputs[test])
    return output, rounds
