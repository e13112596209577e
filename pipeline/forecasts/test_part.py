"""Forecasts of the test part by the saved network, calibrated on what came before, beside every
baseline's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from pipeline.bundle.files import sha256_of
from pipeline.bundle.network import open_network, twin_of
from pipeline.candles.schema import utc_from_ms
from pipeline.forecasts.baselines import Baselines
from pipeline.forecasts.conformal import (
    QuantileFactors,
    apply_quantiles,
    fit_quantiles,
    point_forecast,
)
from pipeline.forecasts.garch import garch_quantiles
from pipeline.forecasts.intervals import (
    HAR_INPUTS,
    IntervalModel,
    apply_intervals,
    calibrating_samples,
    conformal_quantiles,
    fit_intervals,
    input_names,
    sample_inputs,
)
from pipeline.forecasts.shrinkage import Calibration, apply_calibration, fit_calibration
from pipeline.samples.drift import feature_quantiles
from pipeline.samples.scaling import ScaledSamples, Scalers, rows_seen
from pipeline.samples.windows import Samples

INTERVAL_BASELINES = ("ewma", "garch", "har")
COMPARED_QUANTILES = ("q10", "q50", "q90")
HELD_OUT = "held_out"
"""folder beside a network that was trained again: of the same one, trained without the validation
part"""


class TargetScalers(Protocol):
    """Scalers of any generation, as far as a network's outputs need them."""

    def to_log_return(
        self, network_output: np.ndarray, samples: Samples, part: np.ndarray
    ) -> np.ndarray:
        """(n, n_outputs) of the samples `part`, as log-returns."""


@dataclass(frozen=True, eq=False)
class Forecasts:
    """What a trained network says of the test part, and what serving needs to say the same."""

    predictions: pd.DataFrame
    """a row a sample of the test part, in time order: symbol, timestamp (open of candle t),
    base_price, current_return, actual_return, volatility; forecasts (log-returns) of each baseline
    and of the network, before shrinkage under `<model>_raw`; the network's quantiles and p_up; the
    quantiles of each interval baseline as `<baseline>_q10`, …"""
    calibration: Calibration
    intervals: IntervalModel | QuantileFactors
    """of a network that forecasts quantiles, the factors on its own"""
    reference: dict[str, Any]
    """what forecasts of later candles are judged by, for the metadata: "feature_quantiles" of the
    training part (`pipeline.samples.drift`), "interval_baselines" (the EWMA interval's quantiles,
    in volatilities)"""

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """What serving needs, for the scaler file."""
        return {"calibration": self.calibration.as_dict(), "intervals": self.intervals.as_dict()}


def forecast_test(
    name: str,
    model_path: Path,
    scaled: ScaledSamples,
    scalers: TargetScalers,
    baselines: Baselines,
    candles: Mapping[str, pd.DataFrame],
    *,
    is_shrunk: bool = True,
    refit: bool = False,
) -> Forecasts:
    """Forecast with the saved file, as serving does; whatever is fitted here is fitted on training
    and validation.

    A network of three outputs forecasts q10, q50 and q90 itself; to another one the scale model of
    `intervals` gives them.

    Args:
        name: What the network is called in the predictions.
        model_path: Its .h5 file.
        scaled: Samples and split.
        scalers: Those of `scaled`.
        baselines: Fitted on `scaled`; the network is shrunk with their caution.
        candles: Symbol -> the candles that the samples were made of.
        is_shrunk: Whether the network's forecasts are shrunk; see `fit_calibration`.
        refit: The network has learnt the validation part too; that of the folder `HELD_OUT`
            calibrates it.
    """
    samples, val, test = scaled.samples, scaled.split.val, rows_of_test(scaled)
    outputs_val, outputs = _network_outputs(model_path, scaled, scalers, val, test, refit)
    raw_val, raw = (point_forecast(values) for values in (outputs_val, outputs))
    calibration = fit_calibration(
        raw_val,
        samples.log_return[val],
        samples.volatility[val],
        is_shrunk=is_shrunk,
        caution=baselines.caution,
    )
    names, inputs = input_names(samples.timeframe), sample_inputs(candles, samples)
    # Errors in the price itself, at candles that the network has learnt, say nothing of others:
    # validation alone then.
    known, calibrating = (
        (scaled.split.known, calibrating_samples(samples, scaled.split))
        if is_shrunk
        else (scaled.split.train, val)
    )
    fitted_to = (samples.log_return, samples.volatility, known, calibrating)
    served = apply_calibration(calibration, raw, samples.volatility[test])
    intervals: IntervalModel | QuantileFactors
    if outputs.shape[1] == 1:
        shrunk = np.zeros(
            len(calibrating)
        )  # 0 at training samples, which the network may know by heart
        shrunk[: len(val)] = calibration.shrinkage * raw_val
        intervals = fit_intervals(inputs, names, *fitted_to, shrunk, is_shifted=not is_shrunk)
        served |= apply_intervals(
            intervals, inputs[test], samples.volatility[test], served["predicted_return"]
        )
    else:
        intervals = fit_quantiles(
            outputs_val, calibration.shrinkage * raw_val, samples.log_return[val]
        )
        served |= apply_quantiles(intervals, outputs, served["predicted_return"])
    har = [names.index(column) for column in HAR_INPUTS]
    har_model = fit_intervals(inputs[:, har], HAR_INPUTS, *fitted_to)
    ewma = conformal_quantiles(samples.log_return[calibrating] / samples.volatility[calibrating])
    garch = garch_quantiles(candles, samples, samples.target_time[known].max(), calibrating)
    at_test = samples.volatility[test]
    compared = {
        "ewma": {quantile: value * at_test for quantile, value in ewma.items()},
        "garch": garch and {quantile: values[test] for quantile, values in garch.items()},
        "har": apply_intervals(har_model, inputs[test][:, har], at_test, np.zeros(len(test))),
    }
    columns = _columns(name, samples, test, baselines, served, raw)
    for baseline, quantiles in compared.items():
        if quantiles is not None:
            columns |= {f"{baseline}_{q}": quantiles[q] for q in COMPARED_QUANTILES}
    return Forecasts(pd.DataFrame(columns), calibration, intervals, _reference(scaled, ewma))


def forecast_alone(
    model_path: Path,
    scaled: ScaledSamples,
    scalers: Scalers,
    *,
    caution: float = 0.0,
    refit: bool = False,
) -> dict[str, np.ndarray]:
    """A network's forecasts of the test part, calibrated on the validation part, and nothing
    beside.

    Args:
        model_path: .h5 file of a network of one output.
        scaled: Samples and split.
        scalers: Those of `scaled`.
        caution: See `fit_shrinkage`.
        refit: See `forecast_test`.

    Returns:
        "raw" and "served" (shrunk), (n,) log-returns each, in the order of `forecast_test`'s rows.
    """
    samples, val, test = scaled.samples, scaled.split.val, rows_of_test(scaled)
    raw_val, raw = (
        values[:, 0] for values in _network_outputs(model_path, scaled, scalers, val, test, refit)
    )
    calibration = fit_calibration(
        raw_val, samples.log_return[val], samples.volatility[val], caution=caution
    )
    return {"raw": raw, "served": calibration.shrinkage * raw}


def rows_of_test(scaled: ScaledSamples) -> np.ndarray:
    """Indices of the test part's samples, in time order."""
    test = scaled.split.test
    return test[np.lexsort((scaled.samples.symbol[test], scaled.samples.target_time[test]))]


def _network_outputs(
    model_path: Path,
    scaled: ScaledSamples,
    scalers: TargetScalers,
    val: np.ndarray,
    test: np.ndarray,
    refit: bool,
) -> list[np.ndarray]:
    """(n, n_outputs) of the validation and of the test part, as log-returns, by the saved file or
    files."""
    if not refit:
        return _outputs_of(model_path, scaled, scalers, val, test)
    held_out = model_path.parent / HELD_OUT / model_path.name
    return [
        *_outputs_of(held_out, scaled, scalers, val),
        *_outputs_of(model_path, scaled, scalers, test),
    ]


def _outputs_of(
    model_path: Path, scaled: ScaledSamples, scalers: TargetScalers, *parts: np.ndarray
) -> list[np.ndarray]:
    """(n, n_outputs) of each part, as log-returns, by one file."""
    twin = twin_of(model_path)
    twin_sha256 = sha256_of(twin) if twin.is_file() else None
    network = open_network(model_path, [stream.shape for stream in scaled.streams], twin_sha256)
    outputs = []
    for part in parts:
        streams = [replace(stream, end=stream.end[part]) for stream in scaled.streams]
        outputs.append(scalers.to_log_return(network.run_streams(streams), scaled.samples, part))
    return outputs


def _columns(
    name: str,
    samples: Samples,
    test: np.ndarray,
    baselines: Baselines,
    served: dict[str, np.ndarray],
    raw: np.ndarray,
) -> dict[str, Any]:
    """Columns of the predictions, but for the quantiles of interval baselines."""
    return {
        "symbol": np.array(samples.symbols)[samples.symbol[test]],
        "timestamp": utc_from_ms(samples.time[test]),
        "base_price": samples.base_price[test],
        "current_return": samples.current_return[test],
        "actual_return": samples.log_return[test],
        "volatility": samples.volatility[test],
        **{model: values[test] for model, values in baselines.forecasts.items()},
        name: served.pop("predicted_return"),
        **served,
        **{f"{model}_raw": values[test] for model, values in baselines.directions.items()},
        f"{name}_raw": raw,
    }


def _reference(scaled: ScaledSamples, ewma: Mapping[str, float]) -> dict[str, Any]:
    samples, seen = scaled.samples, rows_seen(scaled.samples, scaled.split.train)
    return {
        "feature_quantiles": feature_quantiles(
            samples.rows[seen], samples.row_ms[seen], samples.feature_cols
        ),
        "interval_baselines": {"ewma": {name: ewma[name] for name in COMPARED_QUANTILES}},
    }
