"""Forecasts of the test part by the saved network, beside every baseline's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from pipeline.bundle.files import sha256_of
from pipeline.bundle.network import KerasNetwork, OnnxNetwork, open_network, twin_of
from pipeline.candles.schema import utc_from_ms
from pipeline.forecasts.baselines import Baselines
from pipeline.forecasts.conformal import (
    QuantileFactors,
    apply_quantiles,
    fit_quantiles,
    point_forecast,
)
from pipeline.forecasts.intervals import (
    HAR_INPUTS,
    IntervalModel,
    apply_intervals,
    calibrating_samples,
    conformal_quantiles,
    fit_intervals,
    input_names,
    sample_inputs,
    sample_widths,
)
from pipeline.forecasts.past_intervals import COMPARED_QUANTILES, past_quantiles
from pipeline.forecasts.shrinkage import Calibration, apply_calibration, fit_calibration
from pipeline.forecasts.width import MEMORY
from pipeline.samples.drift import feature_quantiles
from pipeline.samples.scaling import ScaledSamples, rows_seen
from pipeline.samples.windows import Samples
from pipeline.training.recipes import HELD_OUT

NETWORK = "lstm"
"""The network's name in tables and files."""


class TargetScalers(Protocol):
    """Scalers of any generation, as far as a network's outputs need them."""

    def to_log_return(
        self, network_output: np.ndarray, samples: Samples, part: np.ndarray
    ) -> np.ndarray:
        """(n, n_outputs) of the samples `part`, as log-returns."""


@dataclass(frozen=True)
class SavedNetwork:
    """A network's file, and what turns its outputs into log-returns."""

    path: Path
    """the .h5 file"""
    scalers: TargetScalers
    """fitted with the samples that it was trained on"""
    is_refitted: bool = False
    """it has learnt the validation part too; the one in the folder `HELD_OUT` has not"""
    opened: dict[Path, KerasNetwork | OnnxNetwork] = field(default_factory=dict, repr=False)
    """file -> the network, once it is open"""

    def outputs(
        self, scaled: ScaledSamples, val: np.ndarray, test: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, n_outputs) log-returns of the validation and of the test part."""
        if not self.is_refitted:
            network = self._open(self.path, scaled)
            return self._run(network, scaled, val), self._run(network, scaled, test)
        held_out = self._open(self.path.parent / HELD_OUT / self.path.name, scaled)
        refitted = self._open(self.path, scaled)
        return self._run(held_out, scaled, val), self._run(refitted, scaled, test)

    def outputs_of(self, scaled: ScaledSamples) -> np.ndarray:
        """(n_samples, n_outputs) log-returns of all samples, by the network that is served."""
        every = np.arange(len(scaled.samples))
        return self._run(self._open(self.path, scaled), scaled, every)

    def _open(self, path: Path, scaled: ScaledSamples) -> KerasNetwork | OnnxNetwork:
        if path not in self.opened:
            twin = twin_of(path)
            twin_sha256 = sha256_of(twin) if twin.is_file() else None
            shapes = [stream.shape for stream in scaled.streams]
            self.opened[path] = open_network(path, shapes, twin_sha256)
        return self.opened[path]

    def _run(
        self, network: KerasNetwork | OnnxNetwork, scaled: ScaledSamples, part: np.ndarray
    ) -> np.ndarray:
        streams = [replace(stream, end=stream.end[part]) for stream in scaled.streams]
        return self.scalers.to_log_return(network.run_streams(streams), scaled.samples, part)


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
    in volatilities), "reversal_share" (`baselines.reversal_forecast`)"""

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """What serving needs, for the scaler file."""
        return {"calibration": self.calibration.as_dict(), "intervals": self.intervals.as_dict()}


def forecast_test(
    network: SavedNetwork,
    scaled: ScaledSamples,
    baselines: Baselines,
    candles: Mapping[str, pd.DataFrame],
    *,
    is_shrunk: bool = True,
) -> Forecasts:
    """Forecast with the saved file, as serving does, beside every baseline.

    Whatever is fitted here is fitted on the training and the validation part. A network of three
    outputs forecasts q10, q50 and q90 itself; to another one the scale model of `intervals` gives
    them.

    Args:
        network: The saved network.
        scaled: Samples and split.
        baselines: Fitted on `scaled`; the network is shrunk with their caution.
        candles: Symbol -> the candles that the samples were made of.
        is_shrunk: Whether the network's forecasts are shrunk; see `fit_calibration`.
    """
    samples = scaled.samples
    val = scaled.split.val
    test = rows_of_test(scaled)

    # (n, n_outputs) log-returns; the raw forecast is the only output or the middle quantile.
    outputs_val, outputs = network.outputs(scaled, val, test)
    raw_val = point_forecast(outputs_val)
    raw = point_forecast(outputs)
    calibration = fit_calibration(
        raw_val,
        samples.log_return[val],
        samples.volatility[val],
        is_shrunk=is_shrunk,
        caution=baselines.caution,
    )
    shrunk_val = calibration.shrinkage * raw_val
    served = apply_calibration(calibration, raw, samples.volatility[test])

    known = scaled.split.known
    calibrating = calibrating_samples(samples, scaled.split)
    if not is_shrunk:
        # Errors in the price itself, at candles that the network has learnt, say nothing of others.
        known = scaled.split.train
        calibrating = val
    fit_to_known = functools.partial(
        fit_intervals,
        log_return=samples.log_return,
        volatility=samples.volatility,
        known=known,
        calibrating=calibrating,
    )

    names = input_names(samples.timeframe)
    inputs = sample_inputs(candles, samples)
    intervals: IntervalModel | QuantileFactors
    if outputs.shape[1] == 1:
        # 0 at training samples, whose moves the network may know by heart.
        shrunk = np.zeros(len(calibrating))
        shrunk[: len(val)] = shrunk_val
        # The width is corrected by moves, which are not what a network of prices errs by.
        memory = MEMORY if is_shrunk else 0
        intervals = fit_to_known(
            inputs, names, forecast=shrunk, is_shifted=not is_shrunk, memory=memory
        )
        served |= apply_intervals(
            intervals,
            inputs[test],
            samples.volatility[test],
            served["predicted_return"],
            sample_widths(intervals, candles, samples)[test],
        )
    else:
        intervals = fit_quantiles(outputs_val, shrunk_val, samples.log_return[val])
        served |= apply_quantiles(intervals, outputs, served["predicted_return"])

    # What the interval is measured against: quantiles that know nothing but past moves.
    ewma = conformal_quantiles(samples.log_return[calibrating] / samples.volatility[calibrating])
    columns = _columns(samples, test, baselines, served, raw)
    har_inputs = inputs[:, [names.index(name) for name in HAR_INPUTS]]
    columns |= past_quantiles(candles, samples, har_inputs, known, calibrating, test)
    reference = _reference(scaled, ewma, baselines.settings["reversal_share"])
    return Forecasts(pd.DataFrame(columns), calibration, intervals, reference)


def forecast_alone(
    network: SavedNetwork, scaled: ScaledSamples, *, caution: float = 0.0
) -> dict[str, np.ndarray]:
    """Forecasts of the test part by a network of one output, calibrated, and nothing beside.

    Args:
        network: The saved network.
        scaled: Samples and split.
        caution: See `fit_shrinkage`.

    Returns:
        "raw" and "served" (shrunk), (n,) log-returns each, in the order of `forecast_test`'s rows.
    """
    samples = scaled.samples
    val = scaled.split.val
    outputs_val, outputs = network.outputs(scaled, val, rows_of_test(scaled))
    calibration = fit_calibration(
        outputs_val[:, 0], samples.log_return[val], samples.volatility[val], caution=caution
    )
    raw = outputs[:, 0]
    return {"raw": raw, "served": calibration.shrinkage * raw}


def rows_of_test(scaled: ScaledSamples) -> np.ndarray:
    """Indices of the test part's samples, in time order."""
    test = scaled.split.test
    return test[np.lexsort((scaled.samples.symbol[test], scaled.samples.target_time[test]))]


def _columns(
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
        NETWORK: served.pop("predicted_return"),
        **served,
        **{f"{model}_raw": values[test] for model, values in baselines.directions.items()},
        f"{NETWORK}_raw": raw,
    }


def _reference(
    scaled: ScaledSamples, ewma: Mapping[str, float], reversal_share: float
) -> dict[str, Any]:
    samples, seen = scaled.samples, rows_seen(scaled.samples, scaled.split.train)
    return {
        "feature_quantiles": feature_quantiles(
            samples.rows[seen], samples.row_ms[seen], samples.feature_cols
        ),
        "interval_baselines": {"ewma": {name: ewma[name] for name in COMPARED_QUANTILES}},
        "reversal_share": reversal_share,
    }
