"""Tests and intervals that tell skill from luck."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

MIN_INSTANTS = 10
ROUNDING = 1e-12  # differences below this fraction of the values they come from are rounding, no finding


@dataclass(frozen=True)
class DieboldMariano:
    """Result of `diebold_mariano`; a positive statistic says that the model is better than the baseline."""

    statistic: float
    """corrected by Harvey, Leybourne and Newbold; Student t with n_instants - 1 degrees of freedom"""
    p_value: float
    """two-sided"""
    n_instants: int
    """distinct instants, the sample size of the test"""
    mean_difference: float
    """loss of the baseline minus loss of the model, averaged over instants"""


def finite_vectors(**arrays: Any) -> list[np.ndarray]:
    """Convert arrays to float vectors, and refuse what no metric can be computed from.

    Args:
        **arrays: Array-likes of one common length, under the names that an error should use.

    Returns:
        One (n,) float64 array each, in the given order.

    Raises:
        ValueError: An array is empty, not one-dimensional, longer or shorter than the first, or holds NaN
            or infinite values.
    """
    vectors = [np.asarray(values, dtype=np.float64) for values in arrays.values()]
    for name, vector in zip(arrays, vectors):
        if vector.ndim != 1 or len(vector) == 0:
            raise ValueError(f"{name} has the shape {vector.shape}; pass a vector, one number a sample")
        if len(vector) != len(vectors[0]):
            raise ValueError(
                f"{name} has {len(vector)} values, {next(iter(arrays))} has {len(vectors[0])}; "
                "pass one value a sample in each"
            )
        bad = np.flatnonzero(~np.isfinite(vector))
        if len(bad):
            raise ValueError(
                f"{name} has {len(bad)} NaN or infinite values of {len(vector)}, the first in row {bad[0]}; "
                "repair or drop these samples first"
            )
    return vectors


def mean_by_instant(values: np.ndarray, instants: Any) -> np.ndarray:
    """Average the values that share an instant.

    Args:
        values: (n,) numbers, one a sample.
        instants: (n,) instants of the samples (datetimes or numbers), in any order.

    Returns:
        (n_instants,) means, in time order.

    Raises:
        ValueError: The lengths differ, or an instant is missing (NaT).

    Example:
        >>> mean_by_instant(np.array([4.0, 1.0, 3.0]), [2, 1, 1]).tolist()
        [2.0, 4.0]
    """
    codes, _ = pd.factorize(pd.Index(instants), sort=True)
    if len(codes) != len(values):
        raise ValueError(f"{len(values)} values but {len(codes)} instants; pass one instant a sample")
    if (codes < 0).any():
        raise ValueError(f"{(codes < 0).sum()} of {len(codes)} instants are missing; drop these samples")
    return np.bincount(codes, weights=values) / np.bincount(codes)


def diebold_mariano(loss_model: Any, loss_baseline: Any, instants: Any, horizon: int = 1) -> DieboldMariano:
    """Test whether two forecasts have the same expected loss.

    Losses of one instant are averaged first: coins move together, so 22 coins of one hour are far fewer than
    22 observations. The long-run variance of the mean difference is that of Newey and West (1987) with
    Bartlett weights and max(ceil(n^(1/3)), horizon - 1) lags, instants being taken as equally spaced.
    Where forecasts overlap by many candles it still rejects too often: with fully overlapping differences of
    24 candles, simulated, 11 to 13 % instead of 5 % at 300 to 3,000 instants; without overlap 5 to 6 %.

    The sign: **positive means that the model is better than the baseline**.

    Args:
        loss_model: (n,) losses of the model, one a sample.
        loss_baseline: (n,) losses of the baseline on the same samples.
        instants: (n,) instants of the samples, in any order; symbols may share an instant.
        horizon: Candles that a forecast spans; forecasts of h candles overlap in h - 1.

    Returns:
        DieboldMariano. Where the losses are equal but for rounding, statistic 0.0 and p-value 1.0.

    Raises:
        ValueError: Fewer than 10 instants, no more instants than the horizon, NaN or infinite losses, or a
            difference that is the same at every instant (it has no variance to test against).

    References:
        Diebold and Mariano (1995), Comparing Predictive Accuracy, J. Business & Economic Statistics 13(3).
        Harvey, Leybourne and Newbold (1997), Testing the equality of prediction mean squared errors,
        Int. J. Forecasting 13(2): the small-sample factor and the t distribution.

    Example:
        >>> loss_baseline = np.tile([3.0, 2.0], 10)
        >>> better = diebold_mariano(np.ones(20), loss_baseline, np.arange(20))
        >>> better.mean_difference, better.statistic > 0
        (1.5, True)
    """
    model, baseline = finite_vectors(loss_model=loss_model, loss_baseline=loss_baseline)
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; a forecast spans at least 1 candle")
    difference = mean_by_instant(baseline - model, instants)
    n = len(difference)
    if n < MIN_INSTANTS or n <= horizon:
        raise ValueError(
            f"only {n} instants to compare forecasts on, at a horizon of {horizon}; the Diebold-Mariano test "
            f"needs {max(MIN_INSTANTS, horizon + 1)}: fetch more candles or enlarge the test part"
        )
    mean = float(difference.mean())
    if np.abs(difference).max() <= ROUNDING * np.abs(baseline).mean():
        return DieboldMariano(statistic=0.0, p_value=1.0, n_instants=n, mean_difference=mean)
    if is_constant(difference):
        raise ValueError(
            f"the loss difference is {mean:.6g} at each of {n} instants, so it has no variance to test "
            "against; check that losses and forecasts are not constants"
        )
    lags = max(math.ceil(n ** (1 / 3)), horizon - 1)
    fit = OLS(difference, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    factor = math.sqrt((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n)
    statistic = factor * mean / float(fit.bse[0])
    p_value = 2 * float(stats.t.sf(abs(statistic), df=n - 1))
    return DieboldMariano(statistic=statistic, p_value=p_value, n_instants=n, mean_difference=mean)


def is_constant(values: np.ndarray) -> bool:
    """Say whether all values are the same but for rounding.

    Example:
        >>> is_constant(np.array([0.1 + 0.2, 0.3])), is_constant(np.array([1.0, 2.0]))
        (True, False)
    """
    return bool(np.ptp(values) <= ROUNDING * np.abs(values).max())


def pesaran_timmermann(actual: Any, predicted: Any) -> tuple[float, float] | None:
    """Test whether predicted directions say anything about actual ones.

    Unlike a bare hit rate this does not reward a forecast that always says "up" in a rising market. A value
    above zero counts as up and any other as down: drop zeros first where they are no call.

    Samples are taken as independent. Those of several coins at one hour are not, so the p-value of a pooled
    sample is too small; the verdict of a run rests on `diebold_mariano`, which averages them.

    Args:
        actual: (n,) actual moves.
        predicted: (n,) predicted moves, or scores with their sign.

    Returns:
        (statistic, p_value): asymptotically standard normal; the p-value is of the upper tail (directions
        better than independent ones). None where the test is undefined: one class only, or one sample.

    Raises:
        ValueError: NaN, infinite or no values, or lengths that differ.

    References:
        Pesaran and Timmermann (1992), A Simple Nonparametric Test of Predictive Performance, J. Business &
        Economic Statistics 10(4), its test statistic S_n for two classes.

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
    hit_rate = float((up == called_up).mean())
    expected = p_up * p_called + (1 - p_up) * (1 - p_called)  # hit rate of independent directions
    var_up, var_called = p_up * (1 - p_up), p_called * (1 - p_called)
    variance = expected * (1 - expected) / n
    variance_expected = (
        (2 * p_up - 1) ** 2 * var_called / n + (2 * p_called - 1) ** 2 * var_up / n + 4 * var_up * var_called / n**2
    )
    statistic = (hit_rate - expected) / math.sqrt(variance - variance_expected)
    return statistic, float(stats.norm.sf(statistic))


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Bound a proportion with 95 % confidence.

    Args:
        successes: How many of the trials succeeded.
        n: Trials, taken as independent; correlated ones (coins of one hour) make the interval too narrow.

    Returns:
        (low, high), both in [0, 1].

    Raises:
        ValueError: No trials, or successes outside 0 to n.

    References:
        Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference, JASA 22(158).

    Example:
        >>> low, high = wilson_interval(81, 263)
        >>> round(low, 4), round(high, 4)
        (0.2553, 0.3662)
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} trials is no proportion; pass 0 <= successes <= n and n > 0")
    low, high = proportion_confint(successes, n, alpha=0.05, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of comparisons.

    Args:
        p_values: One p-value a comparison, at least one.

    Returns:
        Adjusted p-values in the given order; compare them with the level of the whole family.

    References:
        Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Statistics 6(2).

    Example:
        >>> [round(p, 4) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    return [float(p) for p in multipletests(p_values, method="holm")[1]]
