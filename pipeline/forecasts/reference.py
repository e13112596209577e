"""Baselines for anyone's forecasts: fitted once, on the candles before the first of them.

They are those of a training run, of v2's features. Nothing of the judged span enters them but the
features of the candles that a forecast knew as well.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.forecasts.baselines import FURTHER_BASELINES, LAGS, fit_baselines
from pipeline.forecasts.intervals import HAR_INPUTS, calibrating_samples, sample_inputs
from pipeline.forecasts.past_intervals import past_quantiles
from pipeline.samples.scaling import scale_on_train
from pipeline.samples.splitting import cut_at
from pipeline.samples.windows import Samples, make_windows

logger = logging.getLogger(__name__)

HISTORY = 10_000
"""Candles a symbol before the first forecast that are looked at, the warm-up aside"""
MOST_SAMPLES = 20_000
"""Of all symbols together; more would change the baselines little and take a while"""
LEAST_SAMPLES = 1_000
"""Samples before the first forecast, of all symbols, below which nothing is fitted"""
VALIDATION = 0.15 / 0.85
"""Share of the time before the first forecast that chooses ridge's alpha and the trees' rounds, as
in a training run"""

Compute = Callable[[pd.DataFrame], pd.DataFrame]
"""Candles of one symbol -> their features, a row a candle"""


@dataclass(frozen=True, eq=False)
class Reference:
    """Forecasts of baselines, at every instant that they can be made of."""

    columns: pd.DataFrame
    """a row an instant: symbol, timestamp (UTC), forecasts by baseline, `<baseline>_raw` before
    shrinkage, and quantiles such as ewma_q10"""
    baselines: tuple[str, ...] = ()
    """names of the columns of forecasts, naive among them"""
    settings: Mapping[str, float] = field(default_factory=dict)
    """see `Baselines.settings`"""
    n_train: int = 0
    trained_until: str = ""
    """when the last target that they were fitted or tuned on had closed"""
    why_not: str = ""
    """why nothing was fitted; "" where it was"""


def fit_reference(
    market: CandleSet,
    compute: Compute,
    warmup: int,
    horizon: int,
    first_ms: int,
    last_ms: int,
    wanted: Sequence[str],
    *,
    has_quantiles: bool = False,
    seed: int = 42,
) -> Reference:
    """Fit the baselines on the candles before the first forecast.

    Args:
        market: The candles.
        compute: Gives the features that LAD, ridge and the trees see.
        warmup: Candles that the features need before they are right.
        horizon: Candles that a forecast spans.
        first_ms: Open of the last candle that the first forecast knew, epoch ms.
        last_ms: The same of the last forecast.
        wanted: Names of the baselines; of naive alone nothing is fitted.
        has_quantiles: Whether there are intervals to be compared with EWMA's, GARCH's and HAR's.
        seed: Seed of the trees.
    """
    nothing = Reference(pd.DataFrame(), ("naive",))
    if set(wanted) <= {"naive"}:
        return nothing
    step_ms = timeframe_ms(market.timeframe)
    made_ms = first_ms + step_ms  # when the first forecast is made
    per_symbol = min(HISTORY, MOST_SAMPLES // len(market.candles))
    candles = _near(market, first_ms - (per_symbol + warmup) * step_ms, last_ms, horizon, step_ms)
    try:
        features = {symbol: compute(frame) for symbol, frame in candles.items()}
        samples = make_windows(features, candles, market.timeframe, LAGS + 1, horizon, warmup)
        before = samples.target_time[samples.target_time <= np.datetime64(made_ms, "ms")]
        if len(before) < LEAST_SAMPLES:
            raise ValueError(f"{len(before):,} samples")
        first = before.min()
        val_end = np.datetime64(made_ms, "ms")
        train_end = val_end - np.timedelta64(
            int((val_end - first).astype(np.int64) * VALIDATION), "ms"
        )
        split = cut_at(
            samples.target_time,
            train_end,
            val_end,
            val_end,
            samples.target_time.max(),
            samples.target_span,
        )
    except ValueError as error:
        logger.info("no baselines are fitted: %s", error)
        return Reference(
            pd.DataFrame(),
            ("naive",),
            why_not=f"the candles before the first forecast are too few ({error}); baselines need "
            f"{LEAST_SAMPLES:,} samples after {warmup} candles of warm-up",
        )
    scaled, scalers = scale_on_train(samples, split)
    further = [name for name in wanted if name in FURTHER_BASELINES]
    fitted = fit_baselines(scaled, scalers.y, seed=seed, further=further, wanted=wanted)
    test = split.test
    columns = {
        "symbol": np.array(samples.symbols, dtype=object)[samples.symbol[test]],
        "timestamp": utc_from_ms(samples.row_ms[samples.end[test]]),
    }
    names = tuple(name for name in fitted.forecasts if name in wanted or name == "naive")
    columns |= {name: fitted.forecasts[name][test] for name in names if name != "naive"}
    columns |= {
        f"{name}_raw": values[test] for name, values in fitted.directions.items() if name in names
    }
    if has_quantiles:
        columns |= _quantiles(
            candles, samples, split.known, calibrating_samples(samples, split), test
        )
    return Reference(
        pd.DataFrame(columns),
        names,
        fitted.settings,
        n_train=len(split.known),
        trained_until=f"{samples.target_time[split.known].max().astype('datetime64[m]')}Z",
    )


def _near(
    market: CandleSet, from_ms: int, last_ms: int, horizon: int, step_ms: int
) -> dict[str, pd.DataFrame]:
    """The candles from an instant to the last target."""
    near = {}
    for symbol, frame in market.candles.items():
        times = timestamps_ms(frame)
        begin, end = np.searchsorted(times, (from_ms, last_ms + (horizon + 1) * step_ms))
        if end > begin:
            near[symbol] = frame.iloc[begin:end].reset_index(drop=True)
    return near


def _quantiles(
    candles: Mapping[str, pd.DataFrame],
    samples: Samples,
    known: np.ndarray,
    calibrating: np.ndarray,
    test: np.ndarray,
) -> dict[str, np.ndarray]:
    inputs = sample_inputs(candles, samples, HAR_INPUTS)
    return past_quantiles(candles, samples, inputs, known, calibrating, test)
