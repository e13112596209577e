"""Scores of quantiles and probabilities: is the interval as wide as it says, p_up a probability?

They read the frame of predictions that `metrics` describes, with q10, q50 and q90 (log-returns) and
p_up. Losses are divided by the candle's volatility, as the verdict's is.
"""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from pipeline.evaluation.comparison import compare_losses
from pipeline.evaluation.metrics import check_columns
from pipeline.evaluation.significance import (
    accuracy_interval,
    finite_vectors,
    instant_codes,
    instants_needed,
    is_constant,
    standard_error,
    student_quantile,
    sum_by_instant,
)

logger = logging.getLogger(__name__)

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}
"""Columns and their levels; a baseline's columns carry its name before them, such as garch_q10."""

BINS = 10


class IntervalScores(TypedDict):
    """How good the network's 80 % interval and quantiles are."""

    nominal: float
    coverage: float
    """share of what came true inside; the others lie `below` or `above`"""
    below: float
    above: float
    coverage_low: float
    coverage_high: float
    """95 % interval of the coverage (`accuracy_interval`)"""
    by_symbol: dict[str, float]
    """coverage of each"""
    width: float
    """mean of (q90 - q10) / volatility"""
    pinball: dict[str, float]
    """quantile -> mean loss / volatility"""
    pinball_mean: float
    crps: float
    """twice `pinball_mean`"""


class Reliability(TypedDict):
    """Probabilities beside frequencies."""

    bins: list[dict[str, float]]
    """by rising probability, each with its mean "probability", the "share" that came true, and n"""
    mean_absolute_deviation: float
    """mean of |probability - share| over the samples"""


class BrierScore(TypedDict):
    """brier = miscalibration - discrimination + uncertainty."""

    brier: float
    miscalibration: float
    """what the best monotone recalibration (isotonic regression, in sample) would save"""
    discrimination: float
    """what is then better than always saying the base rate"""
    uncertainty: float
    """Brier score of the base rate"""


class CalibrationSlope(TypedDict):
    """1 is calibrated, below 1 overconfident."""

    slope: float | None
    slope_low: float | None
    slope_high: float | None


class ProbabilityScores(BrierScore, CalibrationSlope):
    """How good p_up is, and the confidence that is made of it."""

    n: int
    """rows whose price moved"""
    p_up: Reliability
    """against rises"""
    confidence: Reliability | None
    """of max(p_up, 1 - p_up) against right directions, where p_up is not one half"""


def pinball_loss(actual: Any, quantile: Any, level: float) -> np.ndarray:
    """Loss that a quantile forecast minimises.

    It is level * (y - q) where y is above q, and (1 - level) * (q - y) below.

    Args:
        actual: (n,) what came true.
        quantile: (n,) forecasts of its quantile.
        level: Level of the quantile, in (0, 1).

    Returns:
        (n,) losses in the unit of `actual`; their mean is scikit-learn's mean_pinball_loss.

    Raises:
        ValueError: A level outside (0, 1).

    References:
        Koenker and Bassett (1978), Regression Quantiles, Econometrica 46(1).

    Example:
        >>> pinball_loss([2.0, -1.0], [1.0, 1.0], level=0.9).round(6).tolist()
        [0.9, 0.2]
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; a quantile's level lies between 0 and 1")
    actual, quantile = finite_vectors(actual=actual, quantile=quantile)
    return np.maximum(level * (actual - quantile), (level - 1) * (actual - quantile))


def crps_from_quantiles(actual: Any, quantiles: Any, levels: Sequence[float]) -> np.ndarray:
    """Continuous ranked probability score from quantiles: twice their mean pinball loss.

    It is the integral over all levels, taken as the mean over the given ones; with three of them a
    coarse figure, to be compared with another forecast's at the same levels and not with a CRPS in
    closed form.

    Args:
        actual: (n,) what came true.
        quantiles: (n, n_levels) forecasts.
        levels: Levels of the quantiles, in (0, 1).

    Returns:
        (n,) scores in the unit of `actual`.

    Raises:
        ValueError: As `pinball_loss`, or levels that are not one a column.

    References:
        Gneiting and Ranjan (2011), Comparing Density Forecasts Using Threshold- and
        Quantile-Weighted Scoring Rules, J. Business & Economic Statistics 29(3). Normalised as in
        Berrisch and Ziel (2023), CRPS learning, J. Econometrics 237(2).

    Example:
        >>> crps_from_quantiles([2.0], [[1.0, 3.0]], levels=(0.25, 0.75)).tolist()
        [0.5]
    """
    table = np.asarray(quantiles, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != len(levels):
        raise ValueError(
            f"quantiles have the shape {table.shape} for {len(levels)} levels; pass one column a "
            "level"
        )
    losses = [pinball_loss(actual, column, level) for column, level in zip(table.T, levels)]
    return 2 * np.mean(losses, axis=0)


def interval_scores(predictions: pd.DataFrame, horizon: int = 1) -> IntervalScores:
    """Measure the network's 80 % interval and quantiles."""
    actual, q10, q90 = (predictions[name] for name in ("actual_return", "q10", "q90"))
    below, above = float((actual < q10).mean()), float((actual > q90).mean())
    inside = actual.between(q10, q90)
    low, high = accuracy_interval(inside, predictions["timestamp"], horizon)
    by_symbol = inside.groupby(predictions["symbol"].astype(str).to_numpy()).mean()
    losses = {name: float(loss.mean()) for name, loss in _scaled_pinball(predictions).items()}
    pinball_mean = float(np.mean(list(losses.values())))
    return {
        "nominal": 0.8,
        "coverage": 1.0 - below - above,
        "below": below,
        "above": above,
        "coverage_low": low,
        "coverage_high": high,
        "by_symbol": {str(symbol): float(share) for symbol, share in by_symbol.items()},
        "width": float(((q90 - q10) / predictions["volatility"]).mean()),
        "pinball": losses,
        "pinball_mean": pinball_mean,
        "crps": 2 * pinball_mean,
    }


def compare_quantiles(
    predictions: pd.DataFrame, model: str, baselines: Sequence[str], horizon: int = 1
) -> list[dict[str, Any]]:
    """Compare q10, q50, q90 with a baseline's, by their mean pinball loss over volatility.

    Args:
        predictions: The frame, with columns such as garch_q10 for a baseline called garch.
        model: Name of the model that made q10, q50 and q90.
        baselines: Names of the baselines.

    Returns:
        A `Comparison` as dict for each baseline, its loss "scaled_pinball": skill, Diebold-Mariano,
        Holm, verdict. Where a baseline's quantiles are NaN or infinite (a coin whose GARCH did not
        converge), the samples are left out of its comparison. One without any is left out.

    Raises:
        ValueError: A baseline's column is missing, or the model's quantiles hold NaN or infinite
            values.
    """
    columns = [f"{baseline}_{quantile}" for baseline in baselines for quantile in QUANTILES]
    check_columns(predictions, columns)
    losses = {}
    for name in baselines:
        own = predictions[[f"{name}_{quantile}" for quantile in QUANTILES]]
        is_known = np.isfinite(own).all(axis=1).to_numpy()
        if not is_known.any():
            logger.warning("no comparison of quantiles with %s: none is finite", name)
            continue
        losses[name] = np.full(len(predictions), np.nan)
        losses[name][is_known] = _mean_pinball(predictions[is_known], f"{name}_")
    ours, instants = _mean_pinball(predictions), predictions["timestamp"]
    compared = compare_losses(model, ours, losses, instants, horizon, loss="scaled_pinball")
    return [asdict(comparison) for comparison in compared]


def _mean_pinball(predictions: pd.DataFrame, prefix: str = "") -> np.ndarray:
    """(n,) losses, each the mean over the quantiles."""
    return np.mean(list(_scaled_pinball(predictions, prefix).values()), axis=0)


def _scaled_pinball(predictions: pd.DataFrame, prefix: str = "") -> dict[str, np.ndarray]:
    """Quantile -> (n,) losses over volatility."""
    actual = predictions["actual_return"]
    volatility = predictions["volatility"].to_numpy(np.float64)
    columns = {prefix + name: predictions[prefix + name] for name in QUANTILES}
    vectors = finite_vectors(**columns)  # here, so that an error names the column
    return {
        name: pinball_loss(actual, vector, level) / volatility
        for (name, level), vector in zip(QUANTILES.items(), vectors)
    }


def probability_scores(predictions: pd.DataFrame, horizon: int = 1) -> ProbabilityScores | None:
    """Measure p_up and the confidence made of it, on the rows whose price moved; None without."""
    moved = predictions[predictions["actual_return"] != 0]
    if moved.empty:
        return None
    p_up = moved["p_up"].to_numpy(np.float64)
    rose = moved["actual_return"].to_numpy(np.float64) > 0
    called = p_up != 0.5
    confidence, right = np.maximum(p_up, 1 - p_up)[called], ((p_up > 0.5) == rose)[called]
    return {
        "n": len(moved),
        **brier_decomposition(p_up, rose),
        **calibration_slope(p_up, rose, moved["timestamp"], horizon),
        "p_up": reliability(p_up, rose),
        "confidence": reliability(confidence, right) if called.any() else None,
    }


def reliability(probability: Any, outcome: Any) -> Reliability:
    """Compare probabilities with frequencies, in ten bins of equal count.

    Equal probabilities share a bin, so where many are equal there are fewer bins. Of perfect
    forecasts chance alone leaves a mean absolute deviation of about sqrt(2 / pi * p (1 - p) /
    (n / 10)): 0.004 of 100,000 independent samples near one half.

    Args:
        probability: (n,) forecast probabilities.
        outcome: (n,) whether it came true, bool or 0 and 1.

    Example:
        >>> reliability([0.25, 0.25, 0.75, 0.75], [0, 1, 1, 1])["mean_absolute_deviation"]
        0.25
    """
    probability, outcome = finite_vectors(probability=probability, outcome=outcome)
    edges = np.unique(np.sort(probability)[(np.arange(1, BINS) * len(probability) - 1) // BINS])
    codes = np.searchsorted(edges, probability)  # a bin holds its upper edge
    n = np.bincount(codes)
    n, filled = n[n > 0], np.flatnonzero(n)
    forecast = np.bincount(codes, weights=probability)[filled] / n
    share = np.bincount(codes, weights=outcome)[filled] / n
    return {
        "bins": [
            {"probability": float(p), "share": float(s), "n": int(count)}
            for p, s, count in zip(forecast, share, n)
        ],
        "mean_absolute_deviation": float(np.sum(n * np.abs(forecast - share)) / len(outcome)),
    }


def brier_decomposition(probability: Any, outcome: Any) -> BrierScore:
    """Take the Brier score apart, exactly and without bins.

    Args:
        probability: (n,) forecast probabilities.
        outcome: (n,) whether it came true, bool or 0 and 1.

    References:
        Brier (1950), Verification of Forecasts Expressed in Terms of Probability, Monthly Weather
        Review 78(1). Dimitriadis, Gneiting and Jordan (2021), Stable Reliability Diagrams for
        Probabilistic Classifiers, PNAS 118(8): the decomposition (CORP).

    Example:
        >>> brier_decomposition([0.5, 0.5, 0.9, 0.9], [0, 1, 1, 1])  # doctest: +ELLIPSIS
        {'brier': 0.13, 'miscalibration': 0.005..., 'discrimination': 0.0625, 'uncertainty': 0.1875}
    """
    from sklearn.isotonic import isotonic_regression

    probability, outcome = finite_vectors(probability=probability, outcome=outcome)
    # Not IsotonicRegression, which interpolates: between levels that differ by rounding, to NaN.
    _, level, counts = np.unique(probability, return_inverse=True, return_counts=True)
    shares = np.bincount(level, outcome) / counts
    recalibrated = isotonic_regression(shares, sample_weight=counts)[level]
    brier, best = (float(np.mean((p - outcome) ** 2)) for p in (probability, recalibrated))
    uncertainty = float(outcome.mean() * (1 - outcome.mean()))
    return {
        "brier": brier,
        "miscalibration": brier - best,
        "discrimination": uncertainty - best,
        "uncertainty": uncertainty,
    }


def calibration_slope(
    probability: Any, outcome: Any, instants: Any, horizon: int = 1
) -> CalibrationSlope:
    """Slope of a logistic regression of the outcome on the log-odds of the forecast.

    The 95 % interval is clustered by instant: the scores of an instant are added up and
    `standard_error` measures how these sums vary.

    Args:
        probability: (n,) forecast probabilities.
        outcome: (n,) whether it came true, bool or 0 and 1.

    Returns:
        All None where the slope is undefined (one probability, one outcome, outcomes that the
        forecast separates perfectly) or the instants are fewer than `instants_needed`.

    References:
        Cox (1958), Two Further Applications of a Model for Binary Regression, Biometrika 45(3/4).
    """
    from statsmodels.discrete.discrete_model import Logit
    from statsmodels.tools.sm_exceptions import PerfectSeparationError

    probability, outcome = finite_vectors(probability=probability, outcome=outcome)
    codes = instant_codes(instants, len(outcome))
    undefined: CalibrationSlope = {"slope": None, "slope_low": None, "slope_high": None}
    clipped = np.clip(probability, 1e-9, 1 - 1e-9)
    log_odds = np.log(clipped / (1 - clipped))
    if is_constant(log_odds) or np.ptp(outcome) == 0 or codes.max() + 1 < instants_needed(horizon):
        return undefined
    spread = float(log_odds.std())  # standardised, so that the solver converges whatever the unit
    inputs = np.column_stack([np.ones(len(outcome)), log_odds / spread])
    try:
        with warnings.catch_warnings():
            # Of perfect separation releases of statsmodels warn, raise or do neither.
            warnings.simplefilter("ignore")
            fit = Logit(outcome, inputs).fit(disp=0, method="newton")
            fitted = fit.predict()
    except (PerfectSeparationError, np.linalg.LinAlgError):
        return undefined
    information = inputs.T @ (inputs * (fitted * (1 - fitted))[:, None])
    if not fit.mle_retvals["converged"] or np.linalg.cond(information) > 1e12:
        return undefined
    influence = (inputs * (outcome - fitted)[:, None]) @ np.linalg.inv(information)[1]
    sums = sum_by_instant(influence, codes)
    error, degrees_of_freedom = standard_error(sums, horizon)
    slope = float(fit.params[1]) / spread
    half = student_quantile(degrees_of_freedom) * error * len(sums) / spread
    return {"slope": slope, "slope_low": slope - half, "slope_high": slope + half}
