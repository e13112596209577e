"""The training report's 14 indicators: the raw candle, whose level it forecasts, and v2's."""

from __future__ import annotations

import numpy as np
import pandas as pd

from feature_engineering import V2_WARMUP, compute_features
from pipeline.samples.indicators import CANDLE_VALUES, by_segment

INDICATORS = (
    "log_return",
    "volatility_14",
    "momentum_10",
    "price_range",
    "rsi",
    "macd",
    "macd_signal",
    "volume_ratio",
    "atr",
)
V1_FINAL_FEATURES = (*CANDLE_VALUES, *INDICATORS)
"""In the report's order."""

V1_FINAL_VOLUME_FEATURES = ("volume", "volume_ratio")

V1_FINAL_WARMUP = V2_WARMUP
"""The indicators are v2's, and so is the volatility by which errors are scaled."""


def compute_level_features(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """The v1-final features of one symbol's candles; row t looks at candles up to t only.

    Args:
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle, such as "1h"; tells where the gaps are.

    Returns:
        (n, 14) float64 frame on the candles' index, columns `V1_FINAL_FEATURES`: prices in quote
        currency, volume in base currency, then v2's scale-free indicators, NaN where they have not
        enough history yet; those of volume are NaN where it is unknown (see `by_segment`).
    """
    levels = candles[list(CANDLE_VALUES)].astype(np.float64)
    of_volume = ["volume"]
    [levels["volume"]] = by_segment(
        lambda volume: [("volume", volume)], candles, timeframe, of_volume, of_volume, of_volume
    )
    return pd.concat([levels, compute_features(candles, timeframe, INDICATORS)], axis=1)
