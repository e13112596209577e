"""TimesFM 2.5 of Google: a pretrained model of any series, on closes.

    python judge.py --candles-dir DIR --model integrations.timesfm_model:TimesFM --every 24

The weights come from the Hugging Face Hub at the first forecast. It may have seen these very
candles in training: judge it on candles that are younger than its weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import timesfm  # pip install git+https://github.com/google-research/timesfm

QUANTILES = {"q10": 1, "q50": 5, "q90": 9}
"""place of a quantile in what it gives: the mean, then the 10 to 90 % quantiles"""


class TimesFM:
    """Its quantiles as log-returns; the forecast is its point forecast."""

    def __init__(
        self, weights: str = "google/timesfm-2.5-200m-pytorch", context: int = 1024
    ) -> None:
        self.weights, self.context = weights, context
        self.model: Any = None

    def _open(self, horizon: int) -> None:
        self.model = timesfm.TimesFM_2p5_200M_torch.from_pretrained(self.weights)
        self.model.compile(
            timesfm.ForecastConfig(
                max_context=self.context,
                max_horizon=max(horizon, 128),
                normalize_inputs=True,
                use_continuous_quantile_head=True,
                fix_quantile_crossing=True,
            )
        )

    def predict(self, candles: pd.DataFrame) -> dict[str, float]:
        """Forecast from the last `context` closes."""
        horizon = candles.attrs["horizon"]
        if self.model is None:
            self._open(horizon)
        closes = candles["close"].to_numpy()[-self.context :]
        point, quantiles = self.model.forecast(horizon=horizon, inputs=[closes])
        prices = {name: quantiles[0, -1, place] for name, place in QUANTILES.items()}
        prices["forecast_return"] = point[0, -1]
        return {name: float(np.log(price / closes[-1])) for name, price in prices.items()}
