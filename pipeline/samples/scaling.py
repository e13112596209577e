"""Scalers fitted on the training part, and the samples in the units the network sees."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples, Stream

logger = logging.getLogger(__name__)

ROUNDING = 1e-6
"""spread over size below which float32 features differ by rounding alone"""
SMALLEST_SPREAD = 1e-14
"""the same for features around 0; prices and ratios of prices move more"""


class Scaler(Protocol):
    """What scikit-learn's scalers and our records of them have in common."""

    def transform(self, values: np.ndarray) -> np.ndarray: ...

    def inverse_transform(self, values: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class ScaledSamples:
    """Samples, their split, and both sides of the learning problem in standardised units."""

    samples: Samples
    split: Split
    rows: np.ndarray
    """(n_candles, n_features) float32, standardised; 0 where a value is missing"""
    target: np.ndarray
    """(n_samples,) float32, in the unit of the scaler"""
    others: tuple[Stream, ...] = ()
    """further windows of each sample, such as those of a finer timeframe, standardised too"""

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The windows of each sample, one for each input of the network."""
        return Stream(self.rows, self.samples.end, self.samples.lookback), *self.others

    def learning_validation(self) -> ScaledSamples:
        """The same with the validation part in the training part: it judges nothing any more."""
        return replace(self, split=replace(self.split, train=self.split.known))

    def learning_everything(self) -> ScaledSamples:
        """The same with every sample up to the end of the test part in the training part."""
        ended = self.samples.target_time.astype("datetime64[ms]") <= self.split.test_end
        return replace(self, split=replace(self.split, train=np.flatnonzero(ended)))


@dataclass(frozen=True)
class Scalers:
    """The fitted scalers of the features (one, or one a timeframe and symbol) and of the target."""

    X: Any
    y: Any

    def to_log_return(
        self, network_output: np.ndarray, samples: Samples, part: np.ndarray
    ) -> np.ndarray:
        """Network output for the samples `part`, in standardised units, as log-returns."""
        return to_log_return(network_output, samples.volatility[part], self.y)


def scale_on_train(samples: Samples, split: Split) -> tuple[ScaledSamples, Scalers]:
    """Fit both scalers on the training part and scale everything with them.

    A feature that never changes there has no scale, and is dropped (`changing_features`).
    The feature scaler sees each candle of the training windows once, however many windows it is in;
    the target scaler sees the training targets. Nothing of validation or test enters.

    Returns:
        Samples of the features that are kept, whose `target` is log-return / volatility, of unit
        variance in the training part, and the scalers.

    Raises:
        ValueError: No feature changes in the training part.
    """
    seen = rows_seen(samples, split.train)
    kept = changing_features({"": samples.rows[seen]}, samples.feature_cols)
    samples = samples.with_features(kept)
    x_scaler = fit_features(samples.rows[seen])
    target, y_scaler = scale_target(samples, split)
    scaled = ScaledSamples(samples, split, scale_rows(samples.rows, x_scaler), target)
    return scaled, Scalers(X=x_scaler, y=y_scaler)


def scale_target(samples: Samples, split: Split) -> tuple[np.ndarray, Any]:
    """(n_samples,) float32 log-return / volatility, of unit variance in training, and its scaler.

    It is scaled only, not centred. The mean of returns cannot be told from 0, and a network that
    outputs 0 is then the naive forecast. With centring, a rising training year shifted every
    forecast up, and validation shrank good signals to nothing.
    """
    from sklearn.preprocessing import StandardScaler  # lazy: serving does without scikit-learn

    scaled_return = (samples.log_return / samples.volatility)[:, None]
    y_scaler = StandardScaler(with_mean=False).fit(scaled_return[split.train])
    return y_scaler.transform(scaled_return)[:, 0].astype(np.float32), y_scaler


def changing_features(parts: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """(n_features,) bool: which features change in each part? One notice names the others.

    A feature that is constant, but for rounding, or missing throughout the training part says
    nothing, and one that changed only later would meet weights that nothing has taught.

    Args:
        parts: Whose candles -> (n, n_features) training rows that one scaler will be fitted on.
        names: (n_features,) names of the features.

    Raises:
        ValueError: No feature is left.
    """
    kept = np.ones(len(names), dtype=bool)
    owners = []
    for owner, rows in parts.items():
        changes = _changes(rows)
        kept &= changes
        if owner and not changes.all():
            owners.append(owner)
    where = f"the training part{' of ' if owners else ''}{', '.join(owners)}"
    if not kept.any():
        raise ValueError(
            f"no feature changes in {where}; are the candles real? fetch more candles "
            "(--candles), or leave the symbol out"
        )
    if not kept.all():
        dropped = ", ".join(itertools.compress(names, ~kept))
        logger.info("%s dropped: constant or missing throughout %s", dropped, where)
    return kept


def _changes(rows: np.ndarray) -> np.ndarray:
    """(n_features,) bool: does the feature change in these rows, by more than rounding?"""
    if len(rows) == 0:
        return np.ones(rows.shape[1], dtype=bool)  # `fit_features` refuses it
    low, high = (edge.reduce(rows).astype(np.float64) for edge in (np.fmin, np.fmax))
    size = np.maximum(np.abs(low), np.abs(high))
    return high - low > np.maximum(ROUNDING * size, SMALLEST_SPREAD)  # NaN throughout is not


def fit_features(rows: np.ndarray, where: str = "") -> Any:
    """StandardScaler of (n, n_features) training rows, the features of `changing_features`."""
    from sklearn.preprocessing import StandardScaler

    if len(rows) == 0:
        raise ValueError(
            f"{where}no candle in the training part; fetch more candles (--candles), or leave it "
            "out"
        )
    return StandardScaler().fit(rows.astype(np.float64))


def scale_rows(rows: np.ndarray, scaler: Scaler, limit: float | None = None) -> np.ndarray:
    """Standardise (n, n_features) float32 rows, in training and in serving.

    A missing value becomes 0, the training mean. What lies beyond a `limit`, in standard
    deviations, is clipped to it.
    """
    scaled = scaler.transform(rows.astype(np.float64)).astype(np.float32)
    scaled = np.nan_to_num(scaled, copy=False, nan=0.0)
    return scaled if limit is None else np.clip(scaled, -limit, limit)


def rows_seen(samples: Samples | Stream, part: np.ndarray) -> np.ndarray:
    """(n_candles,) bool: rows that at least one window of the part contains."""
    change = np.zeros(len(samples.rows) + 1, dtype=np.int64)
    np.add.at(change, samples.end[part] - samples.lookback + 1, 1)
    np.add.at(change, samples.end[part] + 1, -1)
    return np.cumsum(change[:-1]) > 0


def to_log_return(
    network_output: np.ndarray, volatility: np.ndarray, y_scaler: Scaler
) -> np.ndarray:
    """Network output, (n,) or (n, k) in standardised units, as log-returns before shrinkage."""
    scaled = inverse(network_output, y_scaler)
    return scaled * (volatility if scaled.ndim == 1 else volatility[:, None])


def inverse(network_output: np.ndarray, y_scaler: Scaler) -> np.ndarray:
    """Network output of any shape in the unit of the target, before it was scaled."""
    column = network_output.astype(np.float64).reshape(-1, 1)
    return y_scaler.inverse_transform(column).reshape(network_output.shape)
