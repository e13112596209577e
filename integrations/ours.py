"""A bundle of train_v2_production.py, as a model that judge.py walks.

    python judge.py --candles-dir DIR --model integrations.ours:Bundle

It forecasts what `predict_history` does. A bundle of the pooled preset looks at other coins, too,
which a walk does not give it: judge that one's predictions_v2.parquet, or what
`python inference_v2.py evaluate --predictions FILE` writes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from config import default_output_dir
from inference_v2 import CryptoPricePredictorV2
from pipeline.candles.schema import timeframe_ms

COLUMNS = ("p_up", "q10", "q50", "q90")


class Bundle:
    """The bundle in a folder: that which CRYPTO_BUNDLE names, or the last run's."""

    def __init__(self, folder: str | Path | None = None) -> None:
        folder = folder or os.environ.get("CRYPTO_BUNDLE") or default_output_dir("v2")
        self.predictor = CryptoPricePredictorV2.from_directory(folder)
        self.step = pd.Timedelta(timeframe_ms(self.predictor.timeframe), "ms")

    def predict(self, candles: pd.DataFrame) -> pd.DataFrame:
        """A row for every candle that can be forecast from, and that the bundle does not know."""
        said = self.predictor.predict_history(candles)
        if self.predictor.seen_until is not None:
            closed = said["target_timestamp"] - (self.predictor.horizon - 1) * self.step
            said = said[closed >= self.predictor.seen_until]
        renamed = said.rename(columns={"predicted_return": "forecast_return"})
        return renamed[["timestamp", "forecast_return", *COLUMNS]]
