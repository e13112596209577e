"""LightGBM on lagged returns, their sums, the volatility and the volume.

    python judge.py --candles-dir DIR --model integrations.lightgbm_model:LightGBM

A sketch to start from: it fits the median of the next return over its volatility.
"""

from __future__ import annotations

import lightgbm  # pip install lightgbm
import numpy as np
import pandas as pd

LAGS = range(6)
SUMS = (3, 6, 12, 24, 72, 168)


class LightGBM:
    """Trees by absolute error, stopped by the last fifth of the candles that they are fitted on."""

    def fit(self, candles: pd.DataFrame) -> None:
        """Learn the return over the horizon, in units of the volatility."""
        horizon = candles.attrs["horizon"]
        inputs, volatility = _features(candles)
        log_close = np.log(candles["close"])
        target = (log_close.shift(-horizon) - log_close) / volatility  # the last have none
        known = np.flatnonzero(target.notna() & inputs.notna().all(axis=1))
        cut = int(0.8 * len(known))
        train, val = known[: cut - horizon], known[cut:]  # no target reaches into the other part
        self.trees = lightgbm.LGBMRegressor(
            objective="regression_l1",
            n_estimators=500,
            learning_rate=0.03,
            num_leaves=8,
            min_child_samples=50,
            deterministic=True,
            random_state=0,
            verbose=-1,
        )
        self.trees.fit(
            inputs.iloc[train],
            target.iloc[train],
            eval_set=[(inputs.iloc[val], target.iloc[val])],
            callbacks=[lightgbm.early_stopping(50, verbose=False)],
        )

    def predict(self, candles: pd.DataFrame) -> np.ndarray:
        """A log-return for every candle, from what was known at its close."""
        inputs, volatility = _features(candles)
        return np.asarray(self.trees.predict(inputs)) * volatility.to_numpy()


def _features(candles: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """A row per candle, which looks backwards alone; and the volatility of a return."""
    returns = np.log(candles["close"]).diff()
    volatility = returns.ewm(span=48, min_periods=48).std()
    scaled = returns / volatility
    features = {f"return_{lag}": scaled.shift(lag) for lag in LAGS}
    features |= {f"sum_{n}": scaled.rolling(n).sum() / np.sqrt(n) for n in SUMS}
    features["range"] = np.log(candles["high"] / candles["low"]) / volatility
    features["volume"] = np.log1p(candles["volume"]).diff()
    features["hour"] = candles["timestamp"].dt.hour
    return pd.DataFrame(features), volatility
