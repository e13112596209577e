"""v9's three models on one test part: what direction, volatility and the combination add to the
price forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from generations.v9.combination import apply_ensemble, fit_ensemble
from generations.v9.volatility import (
    HarModel,
    TreeModel,
    fit_har,
    realised_variance,
    sample_har_inputs,
)
from pipeline.bundle.network import KerasNetwork
from pipeline.forecasts.test_part import Forecasts
from pipeline.samples.scaling import ScaledSamples, Scalers
from pipeline.samples.splitting import Split, cut_at
from pipeline.samples.windows import Samples


@dataclass(frozen=True, eq=False)
class VolatilityTask:
    """Samples of the volatility model: the windows of the others, a target that reaches further."""

    samples: Samples
    split: Split
    """at the instants of the other models' split, purged of targets that reach across one"""
    variance: np.ndarray
    """(n_samples,) realised over the horizon"""
    har: HarModel
    ratio: np.ndarray
    """(n_samples,) realised variance over the HAR model's, the trees' target"""


@dataclass(frozen=True)
class TaskFiles:
    """Paths of the three saved models."""

    direction: Path
    trees: Path
    price: Path


def volatility_task(
    candles: Mapping[str, pd.DataFrame], samples: Samples, parts: Split
) -> VolatilityTask:
    """Targets and the HAR model of the volatility, fitted on the training part.

    Args:
        candles: Symbol -> the candles that the samples were made of.
        samples: With the volatility's horizon.
        parts: Split of the other models, whose instants are kept.
    """
    cuts = (parts.train_end, parts.val_end, parts.test_start, parts.test_end)
    split = cut_at(samples.target_time, *cuts, samples.target_span)
    variance = realised_variance(candles, samples)
    inputs = sample_har_inputs(candles, samples, samples.horizon)
    har = fit_har(inputs, variance, split.train)
    return VolatilityTask(samples, split, variance, har, variance / har.variance(inputs))


def forecast_tasks(
    forecasts: Forecasts,
    paths: TaskFiles,
    scaled: ScaledSamples,
    scalers: Scalers,
    task: VolatilityTask,
    candles: Mapping[str, pd.DataFrame],
    direction_baselines: Mapping[str, np.ndarray],
) -> tuple[Forecasts, dict[str, Any]]:
    """Forecast direction and volatility with the saved files, as serving does, and combine them
    with the price's.

    Args:
        forecasts: Of the price network, as of `forecast_test`.
        paths: The saved models.
        scaled: Samples and split of direction and price.
        scalers: Of the price network.
        task: The volatility's.
        candles: Symbol -> the candles that the samples were made of.
        direction_baselines: Model -> (n_samples,) probabilities of a rise.

    Returns:
        The forecasts with these columns added to their predictions: direction (the network's
        output), majority, last_move, logistic (probabilities of a rise), what `apply_ensemble`
        returns, and volatility_forecast, volatility_har, volatility_ewma, volatility_realised
        (square roots of variances over the volatility's horizon; what came true is NaN where the
        horizon ends after the test part). And what serving needs besides, for the scaler file: har,
        ensemble, volatility_horizon.
    """
    samples, val = scaled.samples, scaled.split.val
    test = scaled.split.test[
        np.lexsort((samples.symbol[scaled.split.test], samples.target_time[scaled.split.test]))
    ]
    shape, horizon = (samples.lookback, samples.n_features), task.samples.horizon
    direction, trees = (
        KerasNetwork(paths.direction, input_shape=shape),
        TreeModel(paths.trees, input_shape=shape),
    )
    har_variance = task.har.variance(sample_har_inputs(candles, samples, horizon))
    per_candle = np.sqrt(samples.horizon / horizon)

    def volatility(part: np.ndarray) -> np.ndarray:
        return np.sqrt(har_variance[part] * trees.run(scaled.rows, samples.end[part]))

    price = KerasNetwork(paths.price, input_shape=shape).run(scaled.rows, samples.end[val])
    ensemble = fit_ensemble(
        direction.run(scaled.rows, samples.end[val]),
        forecasts.calibration.shrinkage * scalers.to_log_return(price, samples, val),
        samples.volatility[val],
        volatility(val) * per_candle,
        samples.log_return[val],
    )
    p_up, forecast_volatility = direction.run(scaled.rows, samples.end[test]), volatility(test)
    price_return = forecasts.predictions["lstm"].to_numpy()
    combined = apply_ensemble(
        ensemble, p_up, price_return, samples.volatility[test], forecast_volatility * per_candle
    )
    realised = np.full(len(samples.rows), np.nan)
    realised[task.samples.end[task.split.test]] = np.sqrt(task.variance[task.split.test])
    columns = {
        "direction": p_up.astype(np.float64),
        **{name: values[test] for name, values in direction_baselines.items()},
        **combined,
        "volatility_forecast": forecast_volatility,
        "volatility_har": np.sqrt(har_variance[test]),
        "volatility_ewma": samples.volatility[test] / per_candle,
        "volatility_realised": realised[samples.end[test]],
    }
    served = {
        "har": task.har.as_dict(),
        "ensemble": ensemble.as_dict(),
        "volatility_horizon": horizon,
    }
    return replace(forecasts, predictions=forecasts.predictions.assign(**columns)), served
