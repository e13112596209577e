"""Intervals: how far the next move may go, by a scale model calibrated on the last year.

A move has the scale volatility * exp(x'b): the EWMA volatility of the samples, corrected by a few
causal, scale-free inputs x (recent ranges and moves, volume, momentum, the time of the week).
Quantiles of residual / scale on the validation part and the year before turn the scale into
intervals. Serving needs NumPy and pandas alone.

Corsi (2009), A Simple Approximate Long-Memory Model of Realized Volatility, J. Financial
Econometrics 7(2): volatilities of several horizons side by side. Parkinson (1980), The Extreme
Value Method for Estimating the Variance of the Rate of Return, J. Business 53(1): a candle's range
tells more of it than its close.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from pipeline.bundle.metadata import shown
from pipeline.candles.schema import DAY_MS, timeframe_ms, timestamps_ms
from pipeline.forecasts.fitted import FittedNumbers
from pipeline.forecasts.width import MEMORY, width_factors
from pipeline.samples.indicators import (
    VOLATILITY_SPAN,
    NamedColumns,
    by_segment,
    ewma_volatility,
    log_returns,
)
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples, segmented_volatility

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Probabilities of the quantiles."""
QUANTILE_NAMES = tuple(f"q{round(100 * level):02d}" for level in LEVELS)
SLOPES = tuple(k / 10 for k in range(10, -1, -1))
"""Candidates of `fit_slopes`; of equals the first."""

SPANS = {"range": (3, 12, 48), "move": (3, 12)}
"""EWMA spans, in candles; none above the volatility's, so that V2_WARMUP is long enough for all."""
LONG_WINDOW = 336
"""candles; two weeks of hours"""
SEGMENT_INPUTS = (
    *(f"{kind}_{span}" for kind, spans in SPANS.items() for span in (*spans, LONG_WINDOW)),
    *("volume", "same_time", "momentum"),
)
"""The inputs but for the week's waves."""
MOMENTUM_WINDOW = 168
WEEK_CYCLES = (1, 2, 3, 6, 7, 8, 13, 14, 15, 21, 28)
"""Cycles a week: 7, 14, 21, 28 are the day and its harmonics, the others let days differ."""
WEEK_MS = 7 * DAY_MS

HAR_INPUTS = ("range_3", "range_48", "range_336")
"""What a plain HAR model of ranges sees, a baseline: the last hours, days and weeks."""

MIN_VOLATILITY = 1e-7
"""log-return; a price that stands still is taken to move this much, so that no scale is 0"""
SMALLEST_RATIO = 0.05
"""floor of an input before its logarithm, in EWMA volatilities"""
LARGEST_CORRECTION = 3.0
"""bound on |x'b|, so that a scale stays within a factor of 20 of the volatility"""
PENALTY = 100.0
"""ridge penalty on b, in samples: chosen at 1,000 to 400,000 training samples (docs/log.md)"""
CALIBRATION_SPAN = np.timedelta64(365, "D")
"""up to the validation part's end, of whose moves the quantiles are taken"""
LARGEST_MEMORY = 10_000.0
"""bound on the candles that correct the width"""
FEW_SAMPLES = 100
"""such moves below which the quantiles are rough"""


@dataclass(frozen=True)
class IntervalModel(FittedNumbers):
    """Numbers of the scale model and of its calibration."""

    what: ClassVar[str] = "interval model:"
    kind: ClassVar[str] = "scale"
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {
        "slopes": (0.0, 1.0),
        "memory": (0.0, LARGEST_MEMORY),
    }

    intercept: float
    coefficients: dict[str, float]
    """one per input, in the order of `input_names`"""
    quantiles: dict[str, float]
    """`QUANTILE_NAMES` -> quantile of residual / scale, in ascending order"""
    slopes: dict[str, float] = field(default_factory=lambda: dict.fromkeys(QUANTILE_NAMES, 1.0))
    """`QUANTILE_NAMES` -> share of the forecast that the quantile moves by, 0 to 1"""
    memory: float = 0.0
    """completed candles whose moves correct the width (`width`); 0 of models of before"""

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote; bundles of before have no slopes and no memory.

        Raises:
            ValueError: A number is missing, out of its range or out of order; names it.
        """
        of_before = {"slopes": dict.fromkeys(QUANTILE_NAMES, 1.0), "memory": 0.0}
        model = super().from_dict({**of_before, **numbers})
        check_quantiles(model.quantiles, cls.what)
        if tuple(model.slopes) != QUANTILE_NAMES:
            raise ValueError(
                f"interval model: the slopes are {shown(model.slopes)}, not one of each quantile; "
                "train it again"
            )
        if model.memory % 1:
            raise ValueError(
                f"interval model: the memory is {model.memory:g}, no whole number of candles; "
                "train it again"
            )
        return model

    def demand_inputs(self, names: Sequence[str]) -> None:
        """Refuse numbers that were fitted on other inputs than `names`, or in another order.

        Raises:
            ValueError: Names the first that differs.
        """
        for ours, theirs in itertools.zip_longest(names, self.coefficients):
            if ours != theirs:
                raise ValueError(
                    f"interval model: a coefficient is of {shown(theirs)} in the place of {ours}; "
                    "was it trained on another timeframe or by another version? train it again"
                )


def check_quantiles(quantiles: Mapping[str, float], what: str) -> None:
    """Make sure that quantiles are `QUANTILE_NAMES`, in ascending order.

    Args:
        quantiles: Name -> number.
        what: Whose they are, as errors begin.

    Raises:
        ValueError: They are not.
    """
    if tuple(quantiles) != QUANTILE_NAMES:
        raise ValueError(
            f"{what} the quantiles are {shown(list(quantiles))}, not {', '.join(QUANTILE_NAMES)}; "
            "train again"
        )
    if sorted(quantiles.values()) != list(quantiles.values()):
        told = ", ".join(f"{value:g}" for value in quantiles.values())
        raise ValueError(f"{what} the quantiles {told} are not in order; train again")


def input_names(timeframe: str) -> tuple[str, ...]:
    """Names of the columns of `scale_inputs`.

    Example:
        >>> input_names("1d")[-4:]
        ('week_2_cos', 'week_2_sin', 'week_3_cos', 'week_3_sin')
    """
    cycles = _week_cycles(timeframe)
    return (*SEGMENT_INPUTS, *(f"week_{n}_{part}" for n in cycles for part in ("cos", "sin")))


def scale_inputs(candles: pd.DataFrame, timeframe: str, horizon: int) -> np.ndarray:
    """What the scale model sees of one symbol's candles; row t looks at candles up to t only.

    The inputs are logarithms of ratios to the EWMA volatility, so that coins of any temper compare,
    and waves of the week at the time of the target. They start afresh after every long gap. Where
    volume is unknown the last known one stands in (see `by_segment`); before the first, its input
    is 0.

    Args:
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle.
        horizon: Candles the target spans.

    Returns:
        (n, k) float64, columns as in `input_names`; NaN before a segment's 48th return. From there
        on averages take what there is; 474 candles (v2's warm-up) into a segment they no longer
        depend on where it starts.
    """
    candles_a_day = max(DAY_MS // timeframe_ms(timeframe), 1)
    segment_inputs = functools.partial(
        _segment_inputs, candles_a_day=candles_a_day, horizon=horizon
    )
    columns = ("high", "low", "close", "volume")
    table = by_segment(segment_inputs, candles, timeframe, columns, SEGMENT_INPUTS)
    week = _week_waves(timestamps_ms(candles), timeframe, horizon)
    return np.hstack([table.T, week])


def sample_inputs(
    candles: Mapping[str, pd.DataFrame], samples: Samples, names: Sequence[str] | None = None
) -> np.ndarray:
    """(n_samples, k) rows of `scale_inputs` at each sample's candle t.

    Args:
        candles: Symbol -> the candles that the samples were made of.
        samples: Their samples.
        names: Which of `input_names`; None for all.
    """
    every = input_names(samples.timeframe)
    chosen = [every.index(name) for name in names or every]
    inputs = np.empty((len(samples), len(chosen)))
    first = 0
    # One symbol's rows at a time: those of all candles take a lot of memory.
    for index, frame in enumerate(candles.values()):
        own = samples.symbol == index
        rows = scale_inputs(frame, samples.timeframe, samples.horizon)
        inputs[own] = rows[samples.end[own] - first][:, chosen]
        first += len(frame)
    return inputs


def calibrating_samples(samples: Samples, split: Split) -> np.ndarray:
    """Indices of the validation part, then of the training samples of the year before its end.

    A season alone may be calmer or wilder than the next, and a short run's validation part is a
    handful of days. The scale has some 30 numbers, so the moves it was fitted to are hardly
    narrower for it (docs/log.md has the coverage).
    """
    begin = samples.target_time[split.val].max() - CALIBRATION_SPAN
    earlier = samples.target_time[split.train] > begin
    return np.append(split.val, split.train[earlier])


def fit_intervals(
    inputs: np.ndarray,
    names: tuple[str, ...],
    log_return: np.ndarray,
    volatility: np.ndarray,
    known: np.ndarray,
    calibrating: np.ndarray,
    forecast: np.ndarray | float = 0.0,
    *,
    is_shifted: bool = False,
    memory: int = 0,
) -> IntervalModel:
    """Fit the scale on all known samples, then its quantiles on those that calibrate.

    All symbols are pooled. The scale s makes sum |r| / s + log s smallest (Laplace moves'
    likelihood). That is a Gamma regression of |r| with a logarithmic link: it is convex, and single
    crashes weigh less than in one of squares.

    Args:
        inputs: (n_samples, k) rows of `scale_inputs` at each sample's candle t.
        names: (k,) `input_names`.
        log_return: (n_samples,) targets.
        volatility: (n_samples,) EWMA volatility times sqrt(horizon), as in `Samples`.
        known: Indices of the samples that the scale is fitted to: training's and validation's.
        calibrating: Indices of samples whose moves give the quantiles: `calibrating_samples`, or
            validation's.
        forecast: (len(calibrating),) their shrunk point forecasts, log-returns; the intervals are
            theirs.
        is_shifted: All quantiles move by the whole forecast: where that is a price, which stays
            what it is from wherever the return to it is counted.
        memory: Completed candles that correct the width where it is served; see `width`.
    """
    from sklearn.linear_model import GammaRegressor  # lazy: only training needs it

    size = np.abs(log_return[known]) / np.maximum(volatility[known], MIN_VOLATILITY)
    regression = GammaRegressor(alpha=PENALTY / len(known), solver="newton-cholesky")
    regression.fit(inputs[known], np.maximum(size, 1e-6))  # a Gamma variable is above 0
    intercept = float(regression.intercept_)
    coefficients = dict(zip(names, map(float, regression.coef_), strict=True))
    scale = _scale(intercept, coefficients, inputs[calibrating], volatility[calibrating])
    moves = log_return[calibrating] / scale
    centres = np.broadcast_to(forecast, len(calibrating)) / scale
    slopes = dict.fromkeys(QUANTILE_NAMES, 1.0) if is_shifted else fit_slopes(moves, centres)
    _warn_of_few(len(calibrating))
    calibrated = [
        _quantile(moves - slope * centres, level) for level, slope in zip(LEVELS, slopes.values())
    ]
    quantiles = dict(zip(QUANTILE_NAMES, sorted(calibrated)))
    return IntervalModel(intercept, coefficients, quantiles, slopes, float(memory))


def apply_intervals(
    model: IntervalModel,
    inputs: np.ndarray,
    volatility: np.ndarray,
    forecast: np.ndarray,
    width: np.ndarray | float = 1.0,
) -> dict[str, np.ndarray]:
    """Quantiles of the log-return, (n,) each, named `QUANTILE_NAMES`; they never cross.

    Where those of a forecast far out would, they change places, which makes their pinball loss no
    larger (Chernozhukov, Fernández-Val and Galichon, 2010, Quantile and Probability Curves Without
    Crossing, Econometrica 78(3)).

    Args:
        model: Fitted numbers.
        inputs: (n, k) rows of `scale_inputs`.
        volatility: (n,) EWMA volatility times sqrt(horizon).
        forecast: (n,) shrunk point forecasts, log-returns.
        width: (n,) `candle_widths`.

    Raises:
        ValueError: The model was fitted on other inputs.
    """
    if inputs.shape[1] != len(model.coefficients):
        raise ValueError(
            f"interval model has {len(model.coefficients)} coefficients for {inputs.shape[1]} "
            "inputs; was it trained on another timeframe or by another version? train the model "
            "again"
        )
    scale = width * _scale(model.intercept, model.coefficients, inputs, volatility)
    table = [
        model.slopes[name] * forecast + value * scale for name, value in model.quantiles.items()
    ]
    return dict(zip(QUANTILE_NAMES, np.sort(table, axis=0)))


def candle_widths(
    model: IntervalModel,
    candles: pd.DataFrame,
    inputs: np.ndarray,
    volatility: np.ndarray,
    timeframe: str,
    horizon: int,
    rows: np.ndarray,
) -> np.ndarray:
    """(k,) factors on the intervals of one symbol's candles `rows`, by what came true until then.

    Args:
        model: Fitted numbers.
        candles: n candles in the schema.
        inputs: (n, k) their `scale_inputs`.
        volatility: (n,) their EWMA volatility times sqrt(horizon).
        timeframe: Length of a candle.
        horizon: Candles that the forecast spans.
        rows: (k,) candles that are forecast from.
    """
    memory = int(model.memory)
    if not memory:
        return np.ones(len(rows))
    scale = _scale(model.intercept, model.coefficients, inputs, volatility)
    half_width = (model.quantiles["q90"] - model.quantiles["q10"]) / 2 * scale
    return width_factors(
        half_width,
        candles["close"].to_numpy(),
        timestamps_ms(candles),
        timeframe_ms(timeframe),
        horizon,
        memory,
        rows,
    )


def sample_widths(
    model: IntervalModel, candles: Mapping[str, pd.DataFrame], samples: Samples
) -> np.ndarray:
    """(n_samples,) `candle_widths` at each sample's candle t.

    Args:
        model: Fitted numbers, on all of `scale_inputs` or some.
        candles: Symbol -> the candles that the samples were made of.
        samples: Their samples.
    """
    names = input_names(samples.timeframe)
    columns = [names.index(name) for name in model.coefficients]

    def widths_of(symbol: str, rows: np.ndarray) -> np.ndarray:
        frame = candles[symbol]
        # The inputs are computed again, one symbol's at a time: those of all candles, which the
        # fit saw but the samples' rows of, take a lot of memory.
        inputs = scale_inputs(frame, samples.timeframe, samples.horizon)[:, columns]
        volatility = segmented_volatility(frame, samples.timeframe, samples.horizon)
        of_candles = (frame, inputs, volatility, samples.timeframe, samples.horizon)
        return candle_widths(model, *of_candles, rows)

    return _by_symbol(widths_of, candles, samples)


def _by_symbol(
    of_rows: Callable[[str, np.ndarray], np.ndarray],
    candles: Mapping[str, pd.DataFrame],
    samples: Samples,
) -> np.ndarray:
    """(n_samples,) what a function says of each symbol's candles t, given as rows of its own."""
    found = np.ones(len(samples))
    first = 0
    for index, symbol in enumerate(candles):
        own = samples.symbol == index
        found[own] = of_rows(symbol, samples.end[own] - first)
        first += len(candles[symbol])
    return found


def fit_slopes(moves: np.ndarray, centres: np.ndarray) -> dict[str, float]:
    """How much of the forecast each quantile moves by.

    It is the share that makes the pinball loss of the quantile and of the one opposite least. What
    is foreseeable of the next move is its median, hardly its mean: small moves revert, large
    ones do not. So the outer quantiles stay nearly where they are when the forecast moves, and the
    whole distribution is not shifted (docs/log.md). The median moves by the whole forecast, which
    is shrunk already.

    Args:
        moves: (n,) log-returns over their scale.
        centres: (n,) their forecasts, likewise.

    Returns:
        `QUANTILE_NAMES` -> one of `SLOPES`; of the median 1.
    """
    slopes = dict.fromkeys(QUANTILE_NAMES, 1.0)
    if not centres.any():
        return slopes
    for place in range(len(LEVELS) // 2):
        pair = (LEVELS[place], LEVELS[-1 - place])
        best = min(
            SLOPES,
            key=lambda slope: sum(_pinball_loss(moves - slope * centres, level) for level in pair),
        )
        slopes |= {QUANTILE_NAMES[place]: best, QUANTILE_NAMES[-1 - place]: best}
    return slopes


def _pinball_loss(residual: np.ndarray, level: float) -> float:
    """Mean pinball loss of the residuals' own quantile."""
    above = residual - _quantile(residual, level)
    return float(np.mean(np.maximum(level * above, (level - 1) * above)))


def _quantile(residual: np.ndarray, level: float) -> float:
    """See `conformal_quantiles`."""
    return float(np.quantile(residual, level, method="weibull"))


def scaled_quantiles(
    scales: Mapping[str, np.ndarray],
    candles: Mapping[str, pd.DataFrame],
    samples: Samples,
    calibrating: np.ndarray,
) -> dict[str, np.ndarray]:
    """Quantiles of a baseline around 0, (n_samples,) each: constants times its scale.

    With the EWMA volatility this is the RiskMetrics interval. Like the model's own, the width is
    corrected by what came true of the last candles (`width`): a baseline without that would lose
    to it for no merit of the model's.

    Args:
        scales: Symbol -> (n_candles,) scale of the next move, in any unit.
        candles: Symbol -> the candles that the samples were made of.
        samples: Their samples.
        calibrating: See `fit_intervals`.
    """
    scale = np.concatenate([scales[symbol] for symbol in candles])[samples.end]
    constants = conformal_quantiles(samples.log_return[calibrating] / scale[calibrating])

    def widths_of(symbol: str, rows: np.ndarray) -> np.ndarray:
        of_candles = (candles[symbol], samples.timeframe, samples.horizon)
        return scaled_widths(constants, scales[symbol], *of_candles, rows)

    widths = _by_symbol(widths_of, candles, samples)
    return {name: value * scale * widths for name, value in constants.items()}


def scaled_widths(
    constants: Mapping[str, float],
    scale: np.ndarray,
    candles: pd.DataFrame,
    timeframe: str,
    horizon: int,
    rows: np.ndarray,
) -> np.ndarray:
    """(k,) factors on the intervals of a baseline, at one symbol's candles `rows`; see `width`.

    Args:
        constants: "q10" and "q90" in units of the scale.
        scale: (n,) scale of each candle's next move.
        candles: n candles in the schema.
        timeframe: Length of a candle.
        horizon: Candles that a forecast spans.
        rows: (k,) candles that are forecast from.
    """
    return width_factors(
        (constants["q90"] - constants["q10"]) / 2 * scale,
        candles["close"].to_numpy(),
        timestamps_ms(candles),
        timeframe_ms(timeframe),
        horizon,
        MEMORY,
        rows,
    )


def conformal_quantiles(residual: np.ndarray) -> dict[str, float]:
    """Quantiles that a fresh residual, drawn as these were, falls below so often as `LEVELS` say.

    Split conformal prediction takes the k-th smallest of n calibration residuals with k / (n + 1)
    at the wanted level, not k / n (Vovk, Gammerman and Shafer, 2005, Algorithmic Learning in a
    Random World): NumPy's "weibull" method.

    Args:
        residual: (n,) scaled residuals. Few of them are logged as a warning.

    Example:
        >>> round(conformal_quantiles(np.arange(1.0, 200.0))["q90"], 6)
        180.0
    """
    _warn_of_few(len(residual))
    return {name: _quantile(residual, level) for name, level in zip(QUANTILE_NAMES, LEVELS)}


def _warn_of_few(n: int) -> None:
    if n < FEW_SAMPLES:
        logger.warning(
            "only %d samples calibrate the intervals, so their coverage is rough; fetch more "
            "candles (--candles)",
            n,
        )


def _scale(
    intercept: float, coefficients: Mapping[str, float], inputs: np.ndarray, volatility: np.ndarray
) -> np.ndarray:
    """(n,) volatility * exp(x'b) for n rows x of inputs."""
    correction = np.full(len(inputs), intercept)
    # Column by column: BLAS would sum one row in another order than many.
    for column, coefficient in enumerate(coefficients.values()):
        correction += coefficient * inputs[:, column]
    bounded = np.clip(correction, -LARGEST_CORRECTION, LARGEST_CORRECTION)
    return np.maximum(volatility, MIN_VOLATILITY) * np.exp(bounded)


def _segment_inputs(
    high: np.ndarray,
    low: np.ndarray,
    close: np.ndarray,
    volume: np.ndarray,
    *,
    candles_a_day: int,
    horizon: int,
) -> NamedColumns:
    """`SEGMENT_INPUTS` of candles without a long gap."""
    scale = np.maximum(ewma_volatility(log_returns(close)), MIN_VOLATILITY)
    sizes = {"range": pd.Series(np.log(high / low)), "move": pd.Series(np.abs(log_returns(close)))}
    for kind, size in sizes.items():
        for span in SPANS[kind]:
            yield f"{kind}_{span}", _log_ratio(size.ewm(span=span).mean(), scale)
        usual = size.rolling(LONG_WINDOW, min_periods=1).mean().to_numpy()
        yield f"{kind}_{LONG_WINDOW}", _log_ratio(usual, scale)
        if kind == "range":
            same_time = _same_time_of_day(size, usual, candles_a_day, horizon)
            yield "same_time", _log_ratio(same_time, scale)
    usual_volume = pd.Series(volume).ewm(span=VOLATILITY_SPAN).mean().to_numpy()
    traded = np.divide(volume, usual_volume, out=np.ones(len(volume)), where=usual_volume > 0)
    log_traded = np.log(np.maximum(traded, SMALLEST_RATIO))
    yield "volume", np.where(np.isnan(scale), np.nan, log_traded)
    row = np.arange(len(close))
    before = np.maximum(row - MOMENTUM_WINDOW, 0)
    momentum = np.abs(np.log(close / close[before])) / np.sqrt(np.maximum(row - before, 1))
    yield "momentum", np.log1p(momentum / scale)


def _log_ratio(size: pd.Series | np.ndarray, scale: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(np.asarray(size) / scale, SMALLEST_RATIO))


def _same_time_of_day(
    size: pd.Series, usual: np.ndarray, candles_a_day: int, horizon: int
) -> np.ndarray:
    """(n,) mean size, over the days of `LONG_WINDOW`, at the times of day the target spans.

    `usual`, the mean size of that window at any time of day, stands in where there is less than a
    day of history.
    """
    span = min(horizon, candles_a_day)
    at_target = size.to_numpy()
    if span > 1:
        at_target = size.rolling(span, min_periods=1).mean().to_numpy()
    total = np.zeros(len(size))
    count = np.zeros(len(size))
    for day in range(1, LONG_WINDOW // candles_a_day + 1):
        lag = day * candles_a_day - span
        total[lag:] += at_target[: max(len(size) - lag, 0)]
        count[lag:] += 1
    return np.divide(total, count, out=usual.copy(), where=count > 0)


def _week_cycles(timeframe: str) -> list[int]:
    """The cycles that candles of this length can tell apart (Nyquist)."""
    return [cycles for cycles in WEEK_CYCLES if 2 * cycles < WEEK_MS // timeframe_ms(timeframe)]


def _week_waves(times: np.ndarray, timeframe: str, horizon: int) -> np.ndarray:
    """(n, 2 * cycles) cosines and sines of the time of the week, the mean over the target."""
    step_ms = timeframe_ms(timeframe)
    candles_a_week = WEEK_MS // step_ms
    step = 2 * np.pi * np.array(_week_cycles(timeframe)) / candles_a_week  # radians a candle
    # The mean of e^(i step j) over j = 1 … horizon is damping * e^(i step (horizon + 1) / 2).
    damping = np.sin(horizon * step / 2) / (horizon * np.sin(step / 2))
    angle = (np.arange(candles_a_week)[:, None] + (horizon + 1) / 2) * step
    waves = np.stack([damping * np.cos(angle), damping * np.sin(angle)], axis=2)
    return waves.reshape(candles_a_week, -1)[times // step_ms % candles_a_week]
