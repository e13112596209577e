"""Tests and intervals that tell skill from luck.

Everywhere in this room `instants` are (n,) datetimes or numbers, one a sample and in any order:
samples of several symbols share an instant. `horizon` is the number of candles that a forecast
spans; forecasts of h candles overlap in h - 1. Vectors that are empty, differ in length or hold NaN
or infinite values raise a ValueError (`finite_vectors`). Intervals have 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import fft, stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.sandwich_covariance import S_hac_simple

MIN_INSTANTS = 10
LEVEL = 0.05  # of every interval (1 - LEVEL) and of every verdict
ROUNDING = 1e-12
"""Differences below this fraction of the values they come from are rounding, no finding."""


@dataclass(frozen=True)
class DieboldMariano:
    """Result of `diebold_mariano`."""

    statistic: float
    """mean difference over its `standard_error`, Student t; positive: the model is better"""
    p_value: float
    """two-sided"""
    n_instants: int
    """distinct instants, the sample size of the test"""
    mean_difference: float
    """loss of the baseline minus loss of the model, averaged over instants"""


def finite_vectors(**arrays: Any) -> list[np.ndarray]:
    """Convert array-likes of one length to (n,) float64, in the given order.

    Args:
        **arrays: Under the names that an error should use.

    Raises:
        ValueError: An array is empty, not one-dimensional, longer or shorter than the first, or
            holds NaN or infinite values.
    """
    vectors = [np.asarray(values, dtype=np.float64) for values in arrays.values()]
    first, n = next(iter(arrays)), len(np.atleast_1d(vectors[0]))
    for name, vector in zip(arrays, vectors):
        if vector.ndim != 1 or len(vector) == 0:
            raise ValueError(
                f"{name} has the shape {vector.shape}; pass a vector, one number a sample"
            )
        if len(vector) != n:
            raise ValueError(
                f"{name} has {len(vector)} values, {first} has {n}; pass one value a sample in each"
            )
        bad = np.flatnonzero(~np.isfinite(vector))
        if len(bad):
            raise ValueError(
                f"{name} has {len(bad)} NaN or infinite values of {len(vector)}, the first in row "
                f"{bad[0]}; repair or drop these samples first"
            )
    return vectors


def mean_by_instant(values: np.ndarray, instants: Any) -> np.ndarray:
    """Average the (n,) values that share an instant: (n_instants,) means in time order.

    Raises:
        ValueError: The lengths differ, or an instant is missing (NaT).

    Example:
        >>> mean_by_instant(np.array([4.0, 1.0, 3.0]), [2, 1, 1]).tolist()
        [2.0, 4.0]
    """
    codes = instant_codes(instants, len(values))
    return np.bincount(codes, weights=values) / np.bincount(codes)


def sum_by_instant(values: np.ndarray, instants: Any) -> np.ndarray:
    """Add up the values that share an instant; as `mean_by_instant` otherwise.

    Example:
        >>> sum_by_instant(np.array([4.0, 1.0, 3.0]), [2, 1, 1]).tolist()
        [4.0, 4.0]
    """
    return np.bincount(instant_codes(instants, len(values)), weights=values)


def instant_codes(instants: Any, n: int) -> np.ndarray:
    """Number the instants 0, 1, … in time order: (n,) int64; raises as `mean_by_instant`."""
    codes, _ = pd.factorize(pd.Index(instants), sort=True)
    if len(codes) != n:
        raise ValueError(f"{n} values but {len(codes)} instants; pass one instant a sample")
    if (codes < 0).any():
        raise ValueError(
            f"{(codes < 0).sum()} of {len(codes)} instants are missing; drop these samples"
        )
    return codes


def instants_needed(horizon: int) -> int:
    """Fewest instants for a standard error: 10, and four horizons where forecasts overlap."""
    return max(MIN_INSTANTS, 4 * horizon if horizon > 1 else 0)


def standard_error(series: np.ndarray, horizon: int = 1) -> tuple[float, float]:
    """Standard error of the mean of a time series, on which every test and interval here rests.

    At horizon 1 it is that of Newey and West (1987) with Bartlett weights and ceil(n^(1/3)) lags,
    with the factor of Harvey, Leybourne and Newbold (1997) and n - 1 degrees of freedom, instants
    being taken as equally spaced.

    Forecasts of h > 1 candles overlap, and Bartlett weights then cut away much of what they share:
    that test rejected true hypotheses in 10 to 13 % instead of 5 % at h = 24. There the long-run
    variance is the equal-weighted cosine estimator of Lazarus et al.: the mean square of the first
    B cosine coefficients, whose t statistic is Student t with B degrees of freedom. B = 0.4 n^(2/3)
    is theirs; it is at most n / 2h here, so that all B frequencies lie where the spectrum of a sum
    over h candles is still flat. Simulated on fully overlapping differences it rejects 4 to 7 % at
    4h to 3,000 instants; what it costs in power is in docs/log.md.

    Args:
        series: (n,) numbers in time order, one an instant.

    Returns:
        Error of the mean, degrees of freedom.

    Raises:
        ValueError: A horizon below 1, or fewer than `instants_needed`.

    References:
        Newey and West (1987), A Simple, Positive Semi-Definite, Heteroskedasticity and
        Autocorrelation Consistent Covariance Matrix, Econometrica 55(3).
        Lazarus, Lewis, Stock and Watson (2018), HAR Inference: Recommendations for Practice, J.
        Business & Economic Statistics 36(4). For Diebold-Mariano: Coroneo and Iacone (2020), J.
        Applied Econometrics 35(4).

    Example:
        >>> series = np.tile([1.0, -1.0, -1.0, 1.0], 25)
        >>> error, degrees_of_freedom = standard_error(series, horizon=4)
        >>> degrees_of_freedom
        8.0
    """
    n = len(series)
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; a forecast spans at least 1 candle")
    if n < instants_needed(horizon):
        raise ValueError(
            f"only {n} instants at a horizon of {horizon}; a standard error needs "
            f"{instants_needed(horizon)}: fetch more candles or enlarge the test part"
        )
    if horizon == 1:
        centred = (series - series.mean())[:, None]
        # total = n * long-run variance; the small-sample factor turns 1 / n^2 into 1 / (n (n - 1)).
        total = float(S_hac_simple(centred, nlags=math.ceil(n ** (1 / 3)))[0, 0])
        return math.sqrt(total / (n * (n - 1))), float(n - 1)
    n_cosines = max(2, min(int(0.4 * n ** (2 / 3)), n // (2 * horizon)))
    cosines = fft.dct(series, type=2, norm="ortho")[1 : n_cosines + 1]
    return math.sqrt(float(np.mean(cosines**2)) / n), float(n_cosines)


def ratio_half_width(
    numerator: np.ndarray, denominator: np.ndarray, ratio: float, horizon: int = 1
) -> float | None:
    """Half of the 95 % interval of a ratio of two means, by the delta method.

    It is t * standard error of the mean of (numerator - ratio * denominator) / mean denominator.

    Args:
        numerator: (n,) numbers in time order, one an instant.
        denominator: (n,) numbers beside them, of a mean that is not 0.
        ratio: Mean of the one over mean of the other.

    Returns:
        None where there are fewer instants than `instants_needed`.
    """
    if len(numerator) < instants_needed(horizon):
        return None
    error, degrees_of_freedom = standard_error(numerator - ratio * denominator, horizon)
    return student_quantile(degrees_of_freedom) * error / float(denominator.mean())


def student_quantile(degrees_of_freedom: float) -> float:
    """Standard errors on either side of an estimate that make a 95 % interval."""
    return float(stats.t.isf(LEVEL / 2, degrees_of_freedom))


def diebold_mariano(
    loss_model: Any, loss_baseline: Any, instants: Any, horizon: int = 1
) -> DieboldMariano:
    """Test whether two forecasts have the same expected loss.

    Losses of one instant are averaged first: coins move together, so 22 coins of one hour are far
    fewer than 22 observations. The error of the mean difference is `standard_error`'s. Simulated at
    a level of 5 % it rejects equally good forecasts in 5 to 7 % of the cases (horizons 1, 4, 24;
    100 to 3,000 instants); at horizon 1, in 7 to 10 % at 20 to 50 instants and 12 % at 10.

    The sign: **positive means that the model is better than the baseline**. Where the losses are
    equal but for rounding, the statistic is 0.0 and the p-value 1.0.

    Args:
        loss_model: (n,) losses of the model, one a sample.
        loss_baseline: (n,) losses of the baseline on the same samples.

    Raises:
        ValueError: Too few instants (`instants_needed`), or a difference that is the same at every
            instant (it has no variance to test against).

    References:
        Diebold and Mariano (1995), Comparing Predictive Accuracy, J. Business & Economic Statistics
        13(3). Harvey, Leybourne and Newbold (1997), Testing the equality of prediction mean squared
        errors, Int. J. Forecasting 13(2): the small-sample factor and the t distribution.
        `standard_error` names the rest.

    Example:
        >>> loss_baseline = np.tile([3.0, 2.0], 10)
        >>> better = diebold_mariano(np.ones(20), loss_baseline, np.arange(20))
        >>> better.mean_difference, better.statistic > 0
        (1.5, True)
    """
    model, baseline = finite_vectors(loss_model=loss_model, loss_baseline=loss_baseline)
    difference = mean_by_instant(baseline - model, instants)
    n = len(difference)
    error, degrees_of_freedom = standard_error(difference, horizon)
    mean = float(difference.mean())
    if np.abs(difference).max() <= ROUNDING * np.abs(baseline).mean():
        return DieboldMariano(0.0, 1.0, n, mean)
    if is_constant(difference):
        raise ValueError(
            f"the loss difference is {mean:.6g} at each of {n} instants, so it has no variance to "
            "test against; check that losses and forecasts are not constants"
        )
    statistic = mean / error
    p_value = 2 * float(stats.t.sf(abs(statistic), degrees_of_freedom))
    return DieboldMariano(statistic, p_value, n, mean)


def is_constant(values: np.ndarray) -> bool:
    """Say whether all values are the same but for rounding.

    Example:
        >>> is_constant(np.array([0.1 + 0.2, 0.3])), is_constant(np.array([1.0, 2.0]))
        (True, False)
    """
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def pesaran_timmermann(
    actual: Any, predicted: Any, instants: Any = None, horizon: int = 1
) -> tuple[float, float] | None:
    """Test whether predicted directions say anything about actual ones.

    Unlike a bare hit rate this does not reward a forecast that always says "up" in a rising market.
    A value above zero counts as up and any other as down: drop zeros first where they are no call.

    Samples that share an instant or overlap are not independent. With `instants` the excess of hits
    over those of independent directions, 2 (up - share up) (called up - share called up), is added
    up instant by instant and the mean of these sums is tested with `standard_error`. Where each
    sample has an instant of its own and the horizon is 1, as without `instants`, the test is the
    classical one.

    Args:
        actual: (n,) actual moves.
        predicted: (n,) predicted moves, or scores with their sign.

    Returns:
        Statistic, standard normal (classical) or Student t, and p-value of the upper tail
        (directions better than independent ones). None where the test is undefined: one class
        only, one sample, or instants fewer than `instants_needed`.

    References:
        Pesaran and Timmermann (1992), A Simple Nonparametric Test of Predictive Performance, J.
        Business & Economic Statistics 10(4), its test statistic S_n for two classes. Pesaran and
        Timmermann (2009), Testing Dependence Among Serially Correlated Multicategory Variables,
        JASA 104(485): the test as a regression slope, whose numerator is this mean and whose error
        may be robust.

    Example:
        >>> statistic, p_value = pesaran_timmermann([1, 1, -1, -1], [1, 1, -1, -1])
        >>> round(statistic, 4), round(p_value, 4)
        (2.3094, 0.0105)
    """
    actual, predicted = finite_vectors(actual=actual, predicted=predicted)
    up, called_up = actual > 0, predicted > 0
    n = len(up)
    p_up, p_called = float(up.mean()), float(called_up.mean())
    if n < 2 or p_up in (0.0, 1.0) or p_called in (0.0, 1.0):
        return None
    if instants is not None:
        excess = sum_by_instant(2 * (up - p_up) * (called_up - p_called), instants)
        if len(excess) < n or horizon > 1:
            return _upper_tail_test(excess, horizon)
    hit_rate = float((up == called_up).mean())
    expected = p_up * p_called + (1 - p_up) * (1 - p_called)  # hit rate of independent directions
    var_up, var_called = p_up * (1 - p_up), p_called * (1 - p_called)
    variance = expected * (1 - expected) / n
    variance_expected = (
        (2 * p_up - 1) ** 2 * var_called / n
        + (2 * p_called - 1) ** 2 * var_up / n
        + 4 * var_up * var_called / n**2
    )
    statistic = (hit_rate - expected) / math.sqrt(variance - variance_expected)
    return statistic, float(stats.norm.sf(statistic))


def _upper_tail_test(series: np.ndarray, horizon: int) -> tuple[float, float] | None:
    if len(series) < instants_needed(horizon) or is_constant(series):
        return None
    error, degrees_of_freedom = standard_error(series, horizon)
    statistic = float(series.mean()) / error
    return statistic, float(stats.t.sf(statistic, degrees_of_freedom))


def wilson_interval(
    successes: float, n: float, critical: float | None = None
) -> tuple[float, float]:
    """Bound a proportion: low and high, both in [0, 1].

    Args:
        successes: How many of the trials succeeded.
        n: Trials, taken as independent; of correlated ones pass the effective number
            (`accuracy_interval`).
        critical: Quantile that sets the width, 1.96 of the normal distribution unless given.

    Raises:
        ValueError: No trials, or successes outside 0 to n.

    References:
        Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference, JASA
        22(158).

    Example:
        >>> low, high = wilson_interval(81, 263)
        >>> round(low, 4), round(high, 4)
        (0.2553, 0.3662)
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(
            f"{successes} of {n} trials is no proportion; pass 0 <= successes <= n and n > 0"
        )
    alpha = LEVEL if critical is None else 2 * float(stats.norm.sf(critical))
    low, high = proportion_confint(successes, n, alpha=alpha, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def accuracy_interval(hits: Any, instants: Any, horizon: int = 1) -> tuple[float, float]:
    """Bound the share of (n,) hits, 0 or 1, where samples share instants or overlap.

    Wilson's interval for the number of independent trials whose share would vary as much as this
    one does: the misses and hits of an instant are added up, `standard_error` measures how the sums
    vary, and the interval has its Student t quantile. Never more trials than samples. Where that
    error is unknown (fewer instants than `instants_needed`, or hits alone or misses alone), all
    that shares a candle counts as one trial: n_instants / horizon of them.

    References:
        Korn and Graubard (1998), Confidence Intervals for Proportions with Small Expected Number of
        Positive Counts Estimated from Survey Data, Survey Methodology 24(2): the effective sample
        size.

    Example:
        >>> hours = np.arange(100)
        >>> hits = np.tile([1, 0, 1, 1, 0, 0, 1, 0, 0, 1], 10)
        >>> [round(x, 3) for x in accuracy_interval(hits, hours)]
        [0.403, 0.597]
        >>> [round(x, 3) for x in accuracy_interval([1, 1, 1, 1], [0, 0, 1, 1])]
        [0.342, 1.0]
    """
    [hits] = finite_vectors(hits=hits)
    n, share = len(hits), float(hits.mean())
    excess = sum_by_instant(hits - share, instants)
    n_instants = len(excess)
    if n_instants < instants_needed(horizon) or np.ptp(hits) == 0:
        trials = max(1.0, n_instants / horizon)
        return wilson_interval(share * trials, trials)
    error, degrees_of_freedom = standard_error(excess, horizon)
    error_of_share = error * n_instants / n
    trials = n if error_of_share == 0 else min(share * (1 - share) / error_of_share**2, n)
    return wilson_interval(share * trials, trials, student_quantile(degrees_of_freedom))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust one or more p-values for their number; compare them with the level of the family.

    References:
        Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statistics
        6(2).

    Example:
        >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    # statsmodels' multipletests collects Python's garbage at each call: 0.3 s beside TensorFlow.
    raw = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(raw)
    adjusted = np.empty(len(raw))
    adjusted[order] = np.maximum.accumulate((len(raw) - np.arange(len(raw))) * raw[order])
    return np.minimum(adjusted, 1.0).tolist()
