"""Kronos: a pretrained model of candles.

    git clone https://github.com/shiyu-coder/Kronos
    export PYTHONPATH=Kronos
    python judge.py --candles-dir DIR --model integrations.kronos_model:Kronos --every 24

Kronos is no package: its clone must be on the path. The weights come from the Hugging Face Hub at
the first forecast. It was trained on candles of many exchanges: judge it on candles that are
younger than its weights.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from model import Kronos as Network  # the clone's folder `model`
from model import KronosPredictor, KronosTokenizer


class Kronos:
    """The close that it predicts, the mean of `samples` paths."""

    def __init__(
        self,
        weights: str = "NeoQuasar/Kronos-small",
        tokenizer: str = "NeoQuasar/Kronos-Tokenizer-base",
        context: int = 400,
        samples: int = 5,
    ) -> None:
        self.weights, self.tokenizer = weights, tokenizer
        self.context, self.samples = context, samples
        self.predictor: Any = None

    def predict(self, candles: pd.DataFrame) -> dict[str, float]:
        """Forecast from the last `context` candles."""
        if self.predictor is None:
            network = Network.from_pretrained(self.weights)
            tokenizer = KronosTokenizer.from_pretrained(self.tokenizer)
            self.predictor = KronosPredictor(network, tokenizer, max_context=512)
        horizon = candles.attrs["horizon"]
        known = candles.tail(self.context).reset_index(drop=True)
        step = pd.Timedelta(candles.attrs["timeframe"])
        later = known["timestamp"].iloc[-1] + step * pd.Series(range(1, horizon + 1))
        torch.manual_seed(0)  # it samples
        said = self.predictor.predict(
            df=known[["open", "high", "low", "close", "volume"]],
            x_timestamp=known["timestamp"],
            y_timestamp=later,
            pred_len=horizon,
            T=1.0,
            top_p=0.9,
            sample_count=self.samples,
            verbose=False,
        )
        return {"forecast_price": float(said["close"].iloc[-1])}
