"""The next candle as four prices: scaled so that they stay a candle, and a naive candle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.bundle.network import KerasNetwork
from pipeline.samples.scaling import ScaledSamples, Scaler, changing_features, rows_seen
from pipeline.samples.splitting import Split
from pipeline.samples.windows import Samples, Stream

HEADS = ("open", "close", "high", "low")
"""The four prices, in the order of the network's outputs."""

CLOSE = HEADS.index("close")

FLOOR_SHARE = 0.01
"""No forecast is below this share of the training part's lowest price, so each has a logarithm."""


@dataclass(frozen=True)
class CandleScalers:
    """Fitted MinMaxScalers of one symbol."""

    X: Any
    """of the features; those that are prices have the scale of `y`"""
    y: Any
    """of each of the four prices: 0 is the lowest low of the training part, 1 its highest high"""
    fill: list[float]
    """what a missing value becomes: the feature's mean in the training part, scaled"""

    def to_log_return(
        self, network_output: np.ndarray, samples: Samples, part: np.ndarray
    ) -> np.ndarray:
        """(n, 1) closes of the (n, 4) candles of the samples `part`, as log-returns."""
        return close_log_return(network_output, samples.base_price[part], self.y)[:, None]


def scale_candles_on_train(
    samples: Samples, split: Split, candles: pd.DataFrame, price_cols: Sequence[str]
) -> tuple[ScaledSamples, CandleScalers]:
    """Fit the scalers on the training part; the targets are the four prices `horizon` ahead.

    One scale for all prices, so that what is ordered in quote currency is ordered for the network,
    and back again. A feature that never changes in the training part is dropped.

    Args:
        samples: Samples of one symbol.
        split: Its parts.
        candles: Candles of the same symbol, one for each of `samples.rows`.
        price_cols: Features that are prices.

    Returns:
        Samples of the features that are kept, whose `target` is (n_samples, 4), min-max scaled, and
        the scalers. Prices of later parts may lie beyond 0 and 1.
    """
    from sklearn.preprocessing import MinMaxScaler  # lazy: the predictor needs none of it

    target_rows = samples.end + samples.horizon
    train_rows = rows_seen(samples, split.train)
    kept = changing_features({"": samples.rows[train_rows]}, samples.feature_cols)
    samples = samples.with_features(kept)
    features = samples.rows[train_rows].astype(np.float64)
    train_rows[target_rows[split.train]] = True  # the training targets belong to the training part
    lowest = candles["low"].to_numpy()[train_rows].min()
    highest = candles["high"].to_numpy()[train_rows].max()
    bounds = np.array([np.nanmin(features, axis=0), np.nanmax(features, axis=0)])
    bounds[:, np.isin(samples.feature_cols, price_cols)] = [[lowest], [highest]]
    x_scaler = MinMaxScaler().fit(bounds)
    y_scaler = MinMaxScaler().fit(np.array([[lowest], [highest]]))

    fill = np.nanmean(x_scaler.transform(features), axis=0).tolist()
    rows = scale_and_fill(samples.rows, x_scaler, fill)
    actual = candles[list(HEADS)].to_numpy()[target_rows]
    target = y_scaler.transform(actual.reshape(-1, 1)).reshape(actual.shape).astype(np.float32)
    return ScaledSamples(samples, split, rows, target), CandleScalers(x_scaler, y_scaler, fill)


def scale_and_fill(rows: np.ndarray, scaler: Scaler, fill: Sequence[float]) -> np.ndarray:
    """Scale (n, n_features) float32 rows; a missing value becomes that of `fill`."""
    scaled = scaler.transform(rows.astype(np.float64))
    return np.where(np.isnan(scaled), np.asarray(fill), scaled).astype(np.float32)


def to_prices(network_output: np.ndarray, y_scaler: Scaler) -> np.ndarray:
    """(n, 4) scaled prices in the order of `HEADS`, in quote currency; their order is kept."""
    scaled = network_output.astype(np.float64)
    lowest = y_scaler.inverse_transform(np.zeros((1, 1)))[0, 0]
    prices = y_scaler.inverse_transform(scaled.reshape(-1, 1)).reshape(scaled.shape)
    return np.maximum(prices, FLOOR_SHARE * lowest)


def close_log_return(
    network_output: np.ndarray, base_price: np.ndarray, y_scaler: Scaler
) -> np.ndarray:
    """(n,) log-returns ln(forecast close / base price) of (n, 4) scaled prices."""
    return np.log(to_prices(network_output, y_scaler)[:, CLOSE] / base_price)


def naive_candles(samples: Samples, split: Split, candles: pd.DataFrame) -> np.ndarray:
    """The naive candle: open and close at the last close, high and low as far as usual from it.

    Usually is the median of high / last close, and of low / last close, over the training samples.
    Of seven simple rules it is within 1 % of the best in absolute and 3 % of the best in squared
    errors (docs/log.md).

    Args:
        samples: Samples of one symbol.
        split: Its parts.
        candles: Candles of the same symbol.

    Returns:
        (n_samples, 4) prices in the order of `HEADS`.
    """
    train = split.train
    next_reach = candles[["high", "low"]].to_numpy()[samples.end[train] + samples.horizon]
    high, low = np.median(next_reach / samples.base_price[train, None], axis=0)
    factors = {"open": 1.0, "close": 1.0, "high": max(high, 1.0), "low": min(low, 1.0)}
    return samples.base_price[:, None] * np.array([factors[name] for name in HEADS])


def compare_candles(
    name: str,
    model_path: Path,
    scaled: ScaledSamples,
    scalers: CandleScalers,
    candles: pd.DataFrame,
) -> pd.DataFrame:
    """The saved network's candles of the test part, beside what came true and the naive ones.

    Args:
        name: What the network is called.
        model_path: Its .h5 file.
        scaled: Samples of one symbol, and split.
        scalers: Those of `scaled`.
        candles: Candles of the same symbol.

    Returns:
        A row a sample of the test part, in time order: `<name>_open`, `actual_open`, `naive_open`
        and so on for each of `HEADS`, in quote currency.
    """
    samples = scaled.samples
    test = scaled.split.test
    end = samples.end[test]
    network = KerasNetwork(model_path, input_shape=(samples.lookback, samples.n_features))
    windows = Stream(scaled.rows, end, samples.lookback)
    prices = {
        name: to_prices(network.run_streams([windows]), scalers.y),
        "actual": candles[list(HEADS)].to_numpy()[end + samples.horizon],
        "naive": naive_candles(samples, scaled.split, candles)[test],
    }
    return pd.DataFrame(
        {f"{who}_{head}": prices[who][:, i] for who in prices for i, head in enumerate(HEADS)}
    )
