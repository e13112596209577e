"""CryptoPricePredictorV1Final: reloads what generations/v1_final/train_v1_final.py saves.

    from generations.v1_final.inference import CryptoPricePredictorV1Final
    predictor = CryptoPricePredictorV1Final.from_directory("all_models/v1_final", symbol="BTC/USDT")
    predictor.predict(df)["price"]

Importing this module loads no TensorFlow, scikit-learn, XGBoost, arch or ccxt; opening a model
loads Keras.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from generations.v1_final.features import (
    V1_FINAL_FEATURES,
    V1_FINAL_VOLUME_FEATURES,
    V1_FINAL_WARMUP,
    compute_level_features,
)
from generations.v1_final.prices import price_to_log_return
from pipeline.bundle.files import BundleFiles
from pipeline.bundle.scaler_check import SCALER_TYPES
from pipeline.bundle.scalers import MinMaxRecord, ScalerRecord
from pipeline.forecasts.predictor import CandlePredictor
from pipeline.samples.probe import Probe, probe

FILES = BundleFiles(
    model="crypto_v1_final_model.h5",
    checkpoint="best_optimized_model.h5",
    scalers="scalers_v1_final.pkl",
    metrics="metrics_v1_final.json",
    predictions="predictions_v1_final.parquet",
    report="report_v1_final.html",
    log="training_log_v1_final.txt",
    metadata="metadata_v1_final.json",
)


class CryptoPricePredictorV1Final(CandlePredictor):
    """Forecasts the price itself, for one of the pairs that the model was trained on.

    `CandlePredictor` has the verbs. A price level has a scale only where the network has seen it,
    so other pairs are refused, and no forecast leaves the range of the pair's training prices.
    `price` is what the network says, not shrunk; the interval is that of its errors on the
    validation part, so where these lean to one side the price may lie outside of it.
    """

    files = FILES
    known_features = V1_FINAL_FEATURES
    optional_inputs = frozenset(V1_FINAL_VOLUME_FEATURES)
    warmup = V1_FINAL_WARMUP
    scaler_types: ClassVar[Mapping[str, type]] = {**SCALER_TYPES, "X": dict, "y": dict}

    def __init__(
        self, model_path: str | Path, scaler_path: str | Path, symbol: str | None = None
    ) -> None:
        """Open a trained model for one pair.

        Args:
            model_path: `crypto_v1_final_model.h5` (or `best_optimized_model.h5`).
            scaler_path: `scalers_v1_final.pkl` of the same training run.
            symbol: Such as "BTC/USDT"; may be left out if the model was trained on one pair.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged or of another run, or the model was not trained on this
                pair.
        """
        super().__init__(model_path, scaler_path)
        if symbol is None and len(self.symbols) == 1:
            symbol = self.symbols[0]
        if symbol not in self.symbols:
            raise ValueError(
                f"symbol is {symbol!r}; this model knows the price levels of "
                f"{', '.join(self.symbols)} alone: pass one of these, or train on the pair"
            )
        self.symbol = symbol
        self._x_scaler = self._x_scaler.get(symbol)
        self._y_scaler = self._y_scaler.get(symbol)
        if type(self._x_scaler) is not ScalerRecord or type(self._y_scaler) is not MinMaxRecord:
            raise ValueError(
                f"{scaler_path}: the scalers of {symbol} are missing or of another kind; train "
                "again"
            )

    def _probe(self) -> Probe:
        return probe(compute_level_features)

    def _features(self, candles: pd.DataFrame) -> pd.DataFrame:
        return compute_level_features(candles, self.timeframe)[self.feature_cols]

    def _to_log_return(
        self, output: np.ndarray, base_price: np.ndarray, volatility: np.ndarray
    ) -> np.ndarray:
        return price_to_log_return(output, base_price, self._y_scaler)
