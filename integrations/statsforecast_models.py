"""AutoARIMA and Theta of statsforecast, on log-closes.

    python judge.py --candles-dir DIR --model integrations.statsforecast_models:AutoArima

The model is chosen in `fit`, on the last `CANDLES` closes. At every later candle `forward` runs
the chosen one on over the newest closes, without choosing again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from statsforecast import models  # pip install statsforecast

CANDLES = 1000
"""closes that a model looks at"""


class OnLogCloses:
    """A model of statsforecast that has `forward`, with its 80 % interval."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, candles: pd.DataFrame) -> None:
        """Choose and fit on the last closes."""
        self.model = self.model.new().fit(_log_closes(candles))

    def predict(self, candles: pd.DataFrame) -> dict[str, float]:
        """Mean and 10 and 90 % quantiles as log-returns from the last close."""
        closes = _log_closes(candles)
        horizon = candles.attrs["horizon"]
        said = self.model.forward(y=closes, h=horizon, level=[80])
        wanted = {"forecast_return": "mean", "q10": "lo-80", "q90": "hi-80"}
        ahead = {name: np.asarray(said[theirs])[-1] for name, theirs in wanted.items()}
        return {name: float(value - closes[-1]) for name, value in ahead.items()}


class AutoArima(OnLogCloses):
    """ARIMA of the order that AICc prefers (Hyndman and Khandakar, 2008)."""

    def __init__(self) -> None:
        super().__init__(models.AutoARIMA())


class Theta(OnLogCloses):
    """The Theta method (Assimakopoulos and Nikolopoulos, 2000)."""

    def __init__(self) -> None:
        super().__init__(models.Theta(season_length=1))


def _log_closes(candles: pd.DataFrame) -> np.ndarray:
    return np.log(candles["close"].to_numpy()[-CANDLES:])
