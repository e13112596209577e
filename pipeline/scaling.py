"""Scalers fitted on the training part, and the samples in the units the network sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.splitting import Split
from pipeline.windows import Samples


class Scaler(Protocol):
    """What scikit-learn's StandardScaler and our record of one have in common."""

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
    """(n_samples,) float32, in the unit of the scaler: see `scale_on_train` and `scale_prices_on_train`"""


@dataclass(frozen=True)
class Scalers:
    """The two fitted StandardScalers: of the features and of the volatility-scaled log-return."""

    X: Any
    y: Any

    def to_log_return(self, network_output: np.ndarray, samples: Samples, part: np.ndarray) -> np.ndarray:
        """Network output for the samples `part`, in standardised units, as log-returns."""
        return to_log_return(network_output, samples.volatility[part], self.y)


@dataclass(frozen=True)
class PriceScalers:
    """Fitted scalers of each symbol: its features' StandardScaler and its price's MinMaxScaler."""

    X: dict[str, Any]
    y: dict[str, Any]

    def to_log_return(self, network_output: np.ndarray, samples: Samples, part: np.ndarray) -> np.ndarray:
        """Network output for the samples `part`, prices between 0 and 1, as log-returns."""
        log_return = np.empty(len(part))
        for index, symbol in enumerate(samples.symbols):
            mine = samples.symbol[part] == index
            base_price = samples.base_price[part[mine]]
            log_return[mine] = price_to_log_return(network_output[mine], base_price, self.y[symbol])
        return log_return


def scale_on_train(samples: Samples, split: Split) -> tuple[ScaledSamples, Scalers]:
    """Fit both scalers on the training part and scale everything with them.

    The feature scaler sees each candle of the training windows once, however many windows it is in; the target scaler
    sees the training targets. Nothing of validation or test enters.

    Returns:
        Samples whose `target` is log-return / volatility, of unit variance in the training part, and the scalers.

    Raises:
        ValueError: A feature is constant or missing throughout the training part (named), so that no scale can be told.
    """
    from sklearn.preprocessing import StandardScaler  # lazy: the predictor shares this module and needs none of it

    x_scaler = _fit_features(samples, split.train)
    scaled_return = (samples.log_return / samples.volatility)[:, None]
    # Scale only: the mean of returns cannot be told from 0, and a network that outputs 0 is then the naive forecast.
    # With it, a rising training year shifted every forecast up and validation shrank good signals to nothing.
    y_scaler = StandardScaler(with_mean=False).fit(scaled_return[split.train])
    target = y_scaler.transform(scaled_return)[:, 0].astype(np.float32)
    scaled = ScaledSamples(samples, split, scale_rows(samples.rows, x_scaler), target)
    return scaled, Scalers(X=x_scaler, y=y_scaler)


def scale_prices_on_train(samples: Samples, split: Split) -> tuple[ScaledSamples, PriceScalers]:
    """Fit each symbol's scalers on its training part; the target is the next price, min-max scaled to 0 and 1 there.

    Prices of later parts may lie beyond 0 and 1. Of pooled symbols each has its own scale: on a common one the moves of
    a coin at 3,000 are nothing beside the distance to one at 60,000.

    Returns:
        Samples whose `target` is the scaled price `horizon` candles ahead, and the scalers.

    Raises:
        ValueError: A symbol has no training sample, or a feature that never changes in them (named).
    """
    from sklearn.preprocessing import MinMaxScaler

    scalers = PriceScalers(X={}, y={})
    rows, target = np.zeros_like(samples.rows), np.empty(len(samples), dtype=np.float32)
    next_price = (samples.base_price * np.exp(samples.log_return))[:, None]
    for index, symbol in enumerate(samples.symbols):
        mine = np.flatnonzero(samples.symbol == index)
        train = np.intersect1d(split.train, mine)
        if len(train) == 0:
            raise ValueError(f"{symbol}: no sample in the training part; leave the symbol out or move the cuts")
        scalers.X[symbol] = _fit_features(samples, train)
        scalers.y[symbol] = MinMaxScaler().fit(next_price[train])
        seen = rows_seen(samples, mine)
        rows[seen] = scale_rows(samples.rows[seen], scalers.X[symbol])
        target[mine] = scalers.y[symbol].transform(next_price[mine])[:, 0]
    return ScaledSamples(samples, split, rows, target), scalers


def _fit_features(samples: Samples, train: np.ndarray) -> Any:
    """A StandardScaler fitted on the candles of these samples, each once."""
    from sklearn.preprocessing import StandardScaler

    train_rows = samples.rows[rows_seen(samples, train)].astype(np.float64)
    flat = ~(np.fmax.reduce(train_rows) > np.fmin.reduce(train_rows))  # missing throughout counts as flat
    if flat.any():
        name = samples.feature_cols[int(np.argmax(flat))]
        raise ValueError(
            f"feature {name!r} never changes in the {len(train_rows)} candles of the training part; "
            "are the candles real? drop the symbol or fetch more candles (--candles)"
        )
    return StandardScaler().fit(train_rows)


def scale_rows(rows: np.ndarray, scaler: Scaler) -> np.ndarray:
    """Standardise (n, n_features) float32 rows; a missing value becomes 0, the training mean. Serving uses it too."""
    scaled = scaler.transform(rows.astype(np.float64)).astype(np.float32)
    return np.nan_to_num(scaled, copy=False, nan=0.0)


def rows_seen(samples: Samples, part: np.ndarray) -> np.ndarray:
    """(n_candles,) bool: rows that at least one window of the part contains."""
    change = np.zeros(len(samples.rows) + 1, dtype=np.int64)
    np.add.at(change, samples.end[part] - samples.lookback + 1, 1)
    np.add.at(change, samples.end[part] + 1, -1)
    return np.cumsum(change[:-1]) > 0


def to_log_return(network_output: np.ndarray, volatility: np.ndarray, y_scaler: Scaler) -> np.ndarray:
    """Network output, (n,) in standardised units, back to log-returns, before shrinkage."""
    return y_scaler.inverse_transform(network_output.astype(np.float64)[:, None])[:, 0] * volatility


def price_to_log_return(network_output: np.ndarray, base_price: np.ndarray | float, y_scaler: Scaler) -> np.ndarray:
    """Network output, (n,) prices between 0 and 1, as log-returns ln(predicted price / base price)."""
    price = y_scaler.inverse_transform(network_output.astype(np.float64)[:, None])[:, 0]
    return np.log(price / base_price)
