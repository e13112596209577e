"""Scalers fitted on the training part, and the samples in the units the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples, Stream


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

    The feature scaler sees each candle of the training windows once, however many windows it is in;
    the target scaler sees the training targets. Nothing of validation or test enters.

    Returns:
        Samples whose `target` is log-return / volatility, of unit variance in the training part,
        and the scalers.

    Raises:
        ValueError: A feature is constant or missing throughout the training part (named), so that
            no scale can be told.
    """
    x_scaler = fit_features(samples.rows[rows_seen(samples, split.train)], samples.feature_cols)
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


def fit_features(rows: np.ndarray, feature_cols: Sequence[str], where: str = "") -> Any:
    """StandardScaler of (n, n_features) training rows, each of which must change in them."""
    from sklearn.preprocessing import StandardScaler

    train_rows = rows.astype(np.float64)
    if len(rows) == 0:
        raise ValueError(
            f"{where}no candle in the training part; fetch more candles (--candles), or leave it "
            "out"
        )
    changes = np.fmax.reduce(train_rows) > np.fmin.reduce(train_rows)  # NaN throughout does not
    if not changes.all():
        name = feature_cols[int(np.argmin(changes))]
        raise ValueError(
            f"{where}feature {name!r} never changes in the {len(train_rows)} candles of the "
            "training part; are the candles real? drop the symbol or fetch more candles "
            "(--candles)"
        )
    return StandardScaler().fit(train_rows)


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
