"""The next price itself as a target, min-max scaled symbol by symbol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.samples.scaling import (
    ScaledSamples,
    Scaler,
    changing_features,
    fit_features,
    inverse,
    rows_seen,
    scale_rows,
)
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples


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


def scale_prices_on_train(samples: Samples, split: Split) -> tuple[ScaledSamples, PriceScalers]:
    """Fit each symbol's scalers on its training part; the target is the next price.

    The price is min-max scaled to 0 and 1 there; prices of later parts may lie beyond. Of pooled
    symbols each has its own scale: on a common one the moves of a coin at 3,000 are nothing beside
    the distance to one at 60,000. A feature that never changes in a symbol's training part is
    dropped for all.

    Returns:
        Samples of the features that are kept, whose `target` is the scaled price `horizon` candles
        ahead, and the scalers.

    Raises:
        ValueError: A symbol has no training sample, or no feature changes in them.
    """
    from sklearn.preprocessing import MinMaxScaler

    train_rows = {}
    for index, symbol in enumerate(samples.symbols):
        own = split.train[samples.symbol[split.train] == index]
        train_rows[symbol] = rows_seen(samples, own)
    kept = changing_features(
        {symbol: samples.rows[seen] for symbol, seen in train_rows.items()}, samples.feature_cols
    )
    samples = samples.with_features(kept)
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
        x_scaler = fit_features(samples.rows[train_rows[symbol]], f"{symbol}: ")
        y_scaler = MinMaxScaler().fit(next_price[train])
        seen = rows_seen(samples, mine)
        rows[seen] = scale_rows(samples.rows[seen], x_scaler)
        target[mine] = y_scaler.transform(next_price[mine])[:, 0]
        scalers.X[symbol], scalers.y[symbol] = x_scaler, y_scaler
    return ScaledSamples(samples, split, rows, target), scalers


def price_to_log_return(
    network_output: np.ndarray, base_price: np.ndarray | float, y_scaler: Scaler
) -> np.ndarray:
    """Network output, prices between 0 and 1 of any shape, as ln(predicted price / base price)."""
    return np.log(inverse(network_output, y_scaler) / base_price)
