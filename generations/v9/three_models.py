"""v9's three models on one test part: direction and volatility join the price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from generations.v9.combination import Combination, apply_combination, fit_combination
from generations.v9.inference import DIRECTION_FILE, FILES, VOLATILITY_FILE
from generations.v9.volatility import TreeModel, VolatilitySamples, sample_har_inputs
from pipeline.bundle.network import KerasNetwork
from pipeline.forecasts.test_part import NETWORK, Forecasts, rows_of_test
from pipeline.samples.scaling import ScaledSamples, Scalers


def forecast_combined(
    folder: Path,
    forecasts: Forecasts,
    scaled: ScaledSamples,
    scalers: Scalers,
    volatility: VolatilitySamples,
    candles: Mapping[str, pd.DataFrame],
    direction_baselines: Mapping[str, np.ndarray],
) -> tuple[Forecasts, Combination]:
    """Forecast direction and volatility as serving does, and combine them with the price's.

    Args:
        folder: Folder of the three saved models.
        forecasts: The price network's, from `forecast_test`.
        scaled: Samples and split of direction and price.
        scalers: Scalers of the price network.
        volatility: Samples of the volatility model.
        candles: Symbol -> the candles that the samples were made of.
        direction_baselines: Model -> (n_samples,) probabilities of a rise.

    Returns:
        The forecasts, with columns added to their predictions: direction (the network's output),
        majority, last_move, logistic (probabilities of a rise), what `apply_combination` returns,
        and volatility_forecast, volatility_har, volatility_ewma, volatility_realised (square roots
        of variances over the volatility's horizon; what came true is NaN where the horizon ends
        after the test part). And the combination, fitted on the validation part.
    """
    samples = scaled.samples
    rows = scaled.rows
    val = scaled.split.val
    test = rows_of_test(scaled)
    shape = (samples.lookback, samples.n_features)
    direction = KerasNetwork(folder / DIRECTION_FILE, input_shape=shape)
    trees = TreeModel(folder / VOLATILITY_FILE, input_shape=shape)
    price = KerasNetwork(folder / FILES.model, input_shape=shape)
    ahead = volatility.samples.horizon
    # Of a variance over `ahead` candles, `horizon / ahead` falls on one forecast return.
    per_return = np.sqrt(samples.horizon / ahead)
    har_variance = volatility.har.variance(sample_har_inputs(candles, samples, ahead))

    def forecast_volatility(part: np.ndarray) -> np.ndarray:
        return np.sqrt(har_variance[part] * trees.run(rows, samples.end[part]))

    price_return = scalers.to_log_return(price.run(rows, samples.end[val]), samples, val)
    combination = fit_combination(
        direction.run(rows, samples.end[val]),
        forecasts.calibration.shrinkage * price_return,
        samples.volatility[val],
        forecast_volatility(val) * per_return,
        samples.log_return[val],
    )
    p_up = direction.run(rows, samples.end[test])
    forecast_ahead = forecast_volatility(test)
    combined = apply_combination(
        combination,
        p_up,
        forecasts.predictions[NETWORK].to_numpy(),
        samples.volatility[test],
        forecast_ahead * per_return,
    )
    predictions = forecasts.predictions.assign(
        direction=p_up.astype(np.float64),
        **{name: values[test] for name, values in direction_baselines.items()},
        **combined,
        volatility_forecast=forecast_ahead,
        volatility_har=np.sqrt(har_variance[test]),
        volatility_ewma=samples.volatility[test] / per_return,
        volatility_realised=_realised_volatility(volatility)[samples.end[test]],
    )
    return replace(forecasts, predictions=predictions), combination


def _realised_volatility(volatility: VolatilitySamples) -> np.ndarray:
    """(n_candles,) what came true after each candle; NaN but for the volatility's test part."""
    realised = np.full(len(volatility.samples.rows), np.nan)
    known = volatility.split.test
    realised[volatility.samples.end[known]] = np.sqrt(volatility.variance[known])
    return realised
