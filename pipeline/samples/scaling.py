"""Scalers fitted on the training part, and the samples in the units the network sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples, Stream

OUTLIER_LIMIT = 5.0
"""Standard deviations at which features that are scaled coin by coin are clipped."""
ALL_SYMBOLS = "all"
"""The scaler of all symbols together among those of each."""
MIN_MAX_TAILS = (0.001, 0.999)
"""Quantiles of a feature that become 0 and 1: single extreme candles would squeeze all others."""
MIN_MAX_BAND = (-1.0, 2.0)
"""Where min-max scaled values are cut off: one whole range beyond either end."""


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


@dataclass(frozen=True)
class PriceScalers:
    """Fitted scalers of each symbol: its features' StandardScaler and its price's MinMaxScaler."""

    X: dict[str, Any]
    y: dict[str, Any]

    def to_log_return(
        self, network_output: np.ndarray, samples: Samples, part: np.ndarray
    ) -> np.ndarray:
        """(n, k) network output for the samples `part`, prices between 0 and 1, as log-returns."""
        log_return = np.empty(network_output.shape)
        for index, symbol in enumerate(samples.symbols):
            mine = samples.symbol[part] == index
            base_price = samples.base_price[part[mine], None]
            log_return[mine] = price_to_log_return(network_output[mine], base_price, self.y[symbol])
        return log_return


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
    x_scaler = _fit_features(samples.rows[rows_seen(samples, split.train)], samples.feature_cols)
    target, y_scaler = scale_target(samples, split)
    scaled = ScaledSamples(samples, split, scale_rows(samples.rows, x_scaler), target)
    return scaled, Scalers(X=x_scaler, y=y_scaler)


def scale_prices_on_train(samples: Samples, split: Split) -> tuple[ScaledSamples, PriceScalers]:
    """Fit each symbol's scalers on its training part; the target is the next price.

    The price is min-max scaled to 0 and 1 there; prices of later parts may lie beyond. Of pooled
    symbols each has its own scale: on a common one the moves of a coin at 3,000 are nothing beside
    the distance to one at 60,000.

    Returns:
        Samples whose `target` is the scaled price `horizon` candles ahead, and the scalers.

    Raises:
        ValueError: A symbol has no training sample, or a feature that never changes in them
            (named).
    """
    from sklearn.preprocessing import MinMaxScaler

    scalers = PriceScalers(X={}, y={})
    rows = np.zeros_like(samples.rows)
    target = np.empty(len(samples), dtype=np.float32)
    next_price = (samples.base_price * np.exp(samples.log_return))[:, None]
    for index, symbol in enumerate(samples.symbols):
        mine = np.flatnonzero(samples.symbol == index)
        train = np.intersect1d(split.train, mine)
        if len(train) == 0:
            raise ValueError(
                f"{symbol}: no sample in the training part; leave the symbol out or move the cuts"
            )
        train_rows = samples.rows[rows_seen(samples, train)]
        x_scaler = _fit_features(train_rows, samples.feature_cols, f"{symbol}: ")
        y_scaler = MinMaxScaler().fit(next_price[train])
        seen = rows_seen(samples, mine)
        rows[seen] = scale_rows(samples.rows[seen], x_scaler)
        target[mine] = y_scaler.transform(next_price[mine])[:, 0]
        scalers.X[symbol], scalers.y[symbol] = x_scaler, y_scaler
    return ScaledSamples(samples, split, rows, target), scalers


def scale_by_symbol(
    stream: Stream, n_rows: Mapping[str, int], train: np.ndarray, feature_cols: Sequence[str]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Z-score each symbol's rows by its own training rows, clipped to `OUTLIER_LIMIT`.

    Args:
        stream: Windows of all symbols, their rows stacked symbol after symbol.
        n_rows: Symbol -> number of its rows, in that order.
        train: Indices of the training samples.
        feature_cols: Names of the columns.

    Returns:
        (n_candles, n_features) float32, and symbol -> StandardScaler; under `ALL_SYMBOLS` one of
        all training rows, for coins that training did not see.

    Raises:
        ValueError: A feature is constant throughout a symbol's training part, or it has none.
    """
    seen = rows_seen(stream, train)
    scalers, scaled, first = {}, [], 0
    for symbol, n in n_rows.items():
        rows, is_seen = stream.rows[first : first + n], seen[first : first + n]
        scalers[symbol] = _fit_features(rows[is_seen], feature_cols, f"{symbol}: ")
        scaled.append(scale_rows(rows, scalers[symbol], OUTLIER_LIMIT))
        first += n
    scalers[ALL_SYMBOLS] = _fit_features(stream.rows[seen], feature_cols)
    return np.concatenate(scaled), scalers


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


def to_min_max(standardised: ScaledSamples, scalers: Scalers) -> tuple[ScaledSamples, Scalers]:
    """The same samples and target with min-max scaled features; see `scale_rows_min_max`.

    The scaler sees the training part's candles alone: 0 and 1 are their quantiles `MIN_MAX_TAILS`.

    Args:
        standardised: What `scale_on_train` returned, which refuses features that never change.
        scalers: Those of `standardised`; the target keeps its own.
    """
    from sklearn.preprocessing import MinMaxScaler

    samples = standardised.samples
    train_rows = samples.rows[rows_seen(samples, standardised.split.train)].astype(np.float64)
    low, high = np.nanquantile(train_rows, MIN_MAX_TAILS, axis=0)
    x_scaler = MinMaxScaler().fit(np.clip(train_rows, low, high))
    rows = scale_rows_min_max(samples.rows, x_scaler)
    return replace(standardised, rows=rows), Scalers(X=x_scaler, y=scalers.y)


def _fit_features(rows: np.ndarray, feature_cols: Sequence[str], where: str = "") -> Any:
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


def scale_rows_min_max(rows: np.ndarray, scaler: Scaler) -> np.ndarray:
    """Min-max scale (n, n_features) float32 rows, in training and in serving.

    Values beyond `MIN_MAX_BAND` are cut off there, so that a move greater than any of the training
    part is a great move and not a number that the network has never met. A missing value becomes
    one half, the middle of the range.
    """
    scaled = np.clip(scaler.transform(rows.astype(np.float64)), *MIN_MAX_BAND).astype(np.float32)
    return np.nan_to_num(scaled, copy=False, nan=0.5)


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
    scaled = _inverse(network_output, y_scaler)
    return scaled * (volatility if scaled.ndim == 1 else volatility[:, None])


def price_to_log_return(
    network_output: np.ndarray, base_price: np.ndarray | float, y_scaler: Scaler
) -> np.ndarray:
    """Network output, prices between 0 and 1 of any shape, as ln(predicted price / base price)."""
    return np.log(_inverse(network_output, y_scaler) / base_price)


def _inverse(network_output: np.ndarray, y_scaler: Scaler) -> np.ndarray:
    column = network_output.astype(np.float64).reshape(-1, 1)
    return y_scaler.inverse_transform(column).reshape(network_output.shape)
