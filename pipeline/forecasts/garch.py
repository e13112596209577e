"""GARCH(1,1) with Student t: the textbook volatility forecast that intervals are measured against.

Bollerslev (1987), A Conditionally Heteroskedastic Time Series Model for Speculative Prices and
Rates of Return, Review of Economics and Statistics 69(3).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.candles.schema import timestamps_ms
from pipeline.forecasts.intervals import scaled_quantiles
from pipeline.samples.indicators import log_returns
from pipeline.samples.windows import Samples

if TYPE_CHECKING:
    from arch.univariate.base import ARCHModel

logger = logging.getLogger(__name__)

PERCENT = 100.0
"""arch wants returns of about 1 in size"""
MIN_RETURNS = 100
"""training returns below which five parameters are not worth fitting"""


def garch_quantiles(
    candles: Mapping[str, pd.DataFrame],
    samples: Samples,
    known_until: np.datetime64,
    calibrating: np.ndarray,
) -> dict[str, np.ndarray] | None:
    """Quantiles of every sample's log-return: constants times GARCH volatility and its correction.

    Args:
        candles: Symbol -> the candles that `samples` was made of.
        samples: Their samples.
        known_until: Parameters are fitted, a set per symbol, on candles that closed by then.
        calibrating: Indices of the samples that the constants are fitted to, as in
            `intervals.fit_intervals`.

    Returns:
        Names as `intervals.QUANTILE_NAMES`, (n_samples,) each; NaN, with a logged warning, at the
        samples of a symbol that cannot be fitted. None where no symbol can.
    """
    known_ms = known_until.astype("datetime64[ms]").astype(np.int64)
    scales = {}
    for symbol, frame in candles.items():
        n_known = int((timestamps_ms(frame) + samples.step_ms <= known_ms).sum())
        part = garch_volatility(frame["close"].to_numpy(np.float64), n_known, samples.horizon)
        if part is None:
            logger.warning(
                "%s: GARCH does not converge on %d candles; it is not compared on this coin",
                symbol,
                n_known,
            )
            part = np.full(len(frame), np.nan)
        scales[symbol] = part
    scale = np.concatenate(list(scales.values()))[samples.end]
    calibrating = calibrating[np.isfinite(scale[calibrating])]
    if len(calibrating) == 0:
        return None
    return scaled_quantiles(scales, candles, samples, calibrating)


def garch_volatility(close: np.ndarray, n_train: int, horizon: int) -> np.ndarray | None:
    """Volatility of the next `horizon` candles' log-return, seen from each candle.

    Fitted to the first candles, then filtered through all with the parameters held fixed.

    Args:
        close: (n,) closes of one symbol; a gap counts as one candle.
        n_train: Candles to fit on, from the first.
        horizon: Candles ahead.

    Returns:
        (n,) float64, NaN in row 0; row t looks at candles up to t only. None where the fit did not
        converge or there are fewer than `MIN_RETURNS` returns for it.
    """
    returns = PERCENT * log_returns(close)[1:]
    if n_train - 1 < MIN_RETURNS:
        return None
    parameters = _fit(returns[: n_train - 1])
    if parameters is None:
        return None
    omega, alpha, beta, _ = parameters
    filtered = _model(returns).fix(parameters).forecast(horizon=1, start=0, reindex=False)
    # v[t+1], then v[t+k+1] = omega + (alpha + beta) v[t+k]; arch's own sum over a day's candles
    # takes half a minute for 19 coins.
    variance = filtered.variance["h.1"].to_numpy()
    ahead = variance.copy()
    for _ in range(horizon - 1):
        variance = omega + (alpha + beta) * variance
        ahead += variance
    return np.concatenate([[np.nan], np.sqrt(ahead) / PERCENT])


def _model(returns: np.ndarray) -> ARCHModel:
    import arch  # lazy: only training needs it

    return arch.arch_model(returns, mean="Zero", vol="GARCH", p=1, q=1, dist="t", rescale=False)


def _fit(returns: np.ndarray) -> np.ndarray | None:
    """omega, alpha, beta and nu; None where no start leads anywhere."""
    model = _model(returns)
    variance = returns.var()
    # arch's own start, which ends off the optimum on 1 coin in 20; a usual one; a persistent one
    starts = (None, [0.05 * variance, 0.10, 0.85, 5.0], [0.01 * variance, 0.04, 0.95, 8.0])
    for start in starts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong shows in the flag and in the numbers
            fitted = model.fit(
                disp="off", show_warning=False, starting_values=start and np.array(start)
            )
        if fitted.convergence_flag == 0 and np.isfinite(fitted.params).all():
            return fitted.params.to_numpy()
    return None
