"""What an interval is measured against: quantiles that know nothing but past moves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pipeline.forecasts.garch import garch_quantiles
from pipeline.forecasts.intervals import (
    HAR_INPUTS,
    apply_intervals,
    fit_intervals,
    sample_widths,
    scaled_quantiles,
)
from pipeline.forecasts.width import MEMORY
from pipeline.samples.windows import Samples, segmented_volatility

INTERVAL_BASELINES = ("ewma", "garch", "har")
COMPARED_QUANTILES = ("q10", "q50", "q90")


def past_quantiles(
    candles: Mapping[str, pd.DataFrame],
    samples: Samples,
    inputs: np.ndarray,
    known: np.ndarray,
    calibrating: np.ndarray,
    test: np.ndarray,
) -> dict[str, np.ndarray]:
    """Columns such as garch_q10 of EWMA, GARCH and HAR, at the samples `test`.

    Their width is corrected by what came true of the last candles, as the interval's own is.

    Args:
        candles: Symbol -> the candles that the samples were made of.
        samples: The samples.
        inputs: (n_samples, 3) `intervals.sample_inputs` of them, `HAR_INPUTS` alone.
        known: See `intervals.fit_intervals`, as is calibrating.
        test: Indices of the samples that are forecast.

    Returns:
        (len(test),) log-returns each. GARCH has none where it converges on no symbol.
    """
    scales = {
        symbol: segmented_volatility(frame, samples.timeframe, samples.horizon)
        for symbol, frame in candles.items()
    }
    ewma = scaled_quantiles(scales, candles, samples, calibrating)
    garch = garch_quantiles(candles, samples, samples.target_time[known].max(), calibrating)
    har_model = fit_intervals(
        inputs,
        HAR_INPUTS,
        samples.log_return,
        samples.volatility,
        known,
        calibrating,
        memory=MEMORY,
    )
    compared = {
        "ewma": {quantile: values[test] for quantile, values in ewma.items()},
        "garch": garch and {quantile: values[test] for quantile, values in garch.items()},
        "har": apply_intervals(
            har_model,
            inputs[test],
            samples.volatility[test],
            np.zeros(len(test)),
            sample_widths(har_model, candles, samples)[test],
        ),
    }
    return {
        f"{baseline}_{quantile}": quantiles[quantile]
        for baseline, quantiles in compared.items()
        if quantiles is not None
        for quantile in COMPARED_QUANTILES
    }
