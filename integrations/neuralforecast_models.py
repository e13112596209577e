"""Networks of neuralforecast on log-closes: N-HiTS here, any other in the same way.

python judge.py --candles-dir DIR --model integrations.neuralforecast_models:NHits
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np
import pandas as pd
from neuralforecast import NeuralForecast, models  # pip install neuralforecast

INPUT_SIZE = 48
"""closes that a network looks at"""


class OnLogCloses:
    """A network of neuralforecast; it learns in `fit`, from one symbol's candles."""

    def __init__(self, model_class: Any, **settings: Any) -> None:
        self.model_class = model_class
        self.settings: dict[str, Any] = {
            "input_size": INPUT_SIZE,
            "max_steps": 300,
            "scaler_type": "robust",
            "random_seed": 0,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
        }
        self.settings |= settings
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)

    def fit(self, candles: pd.DataFrame) -> None:
        """Train on all log-closes so far."""
        network = self.model_class(h=candles.attrs["horizon"], **self.settings)
        self.forecaster = NeuralForecast(models=[network], freq=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice
            self.forecaster.fit(_series(candles))

    def predict(self, candles: pd.DataFrame) -> float:
        """The log-return from the last close."""
        series = _series(candles.tail(INPUT_SIZE))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ahead = self.forecaster.predict(series)[self.model_class.__name__]
        return float(ahead.iloc[-1] - series["y"].iloc[-1])


class NHits(OnLogCloses):
    """N-HiTS (Challu et al., 2022)."""

    def __init__(self, **settings: Any) -> None:
        small = {"mlp_units": [[64, 64]] * 3, "windows_batch_size": 256}  # for a CPU
        super().__init__(models.NHITS, **(small | settings))


def _series(candles: pd.DataFrame) -> pd.DataFrame:
    """Candles as neuralforecast has series; its time counts candles, so that a gap is none."""
    log_closes = np.log(candles["close"].to_numpy())
    return pd.DataFrame({"unique_id": "close", "ds": np.arange(len(candles)), "y": log_closes})
