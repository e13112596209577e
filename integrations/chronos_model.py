"""Chronos of Amazon: a pretrained model of any series, on closes.

    python judge.py --candles-dir DIR --model integrations.chronos_model:Chronos --every 24

The weights come from the Hugging Face Hub at the first forecast. Chronos, Chronos-Bolt and
Chronos-2 are all opened so. It may have seen these very candles in training: judge it on candles
that are younger than its weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from chronos import BaseChronosPipeline  # pip install chronos-forecasting

QUANTILES = {"q10": 0.1, "q50": 0.5, "q90": 0.9}


class Chronos:
    """Its quantiles as log-returns; the forecast is its median."""

    def __init__(
        self, weights: str = "amazon/chronos-bolt-small", context: int = 512, device: str = "cpu"
    ) -> None:
        self.weights, self.context, self.device = weights, context, device
        self.pipeline: Any = None

    def predict(self, candles: pd.DataFrame) -> dict[str, float]:
        """Forecast from the last `context` closes."""
        if self.pipeline is None:
            self.pipeline = BaseChronosPipeline.from_pretrained(
                self.weights, device_map=self.device
            )
        torch.manual_seed(0)  # the first Chronos samples
        closes = candles["close"].to_numpy()[-self.context :]
        quantiles, _ = self.pipeline.predict_quantiles(
            [torch.tensor(closes, dtype=torch.float32)],
            prediction_length=candles.attrs["horizon"],
            quantile_levels=list(QUANTILES.values()),
        )
        # (horizon, 3) of the only series; Chronos-2 has another dimension, of variates.
        prices = quantiles[0].reshape(-1, len(QUANTILES)).numpy()[-1].astype(np.float64)
        named = dict(zip(QUANTILES, np.log(prices / closes[-1])))
        return named | {"forecast_return": named["q50"]}
