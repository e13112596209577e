"""CryptoPricePredictorV9: reloads the three models that generations/v9/btc_1h_v9_training.py saves.

    from generations.v9.inference import CryptoPricePredictorV9
    predictor = CryptoPricePredictorV9.from_directory("all_models/v9")
    predictor.predict(df)["direction"]

Importing this module loads no TensorFlow, scikit-learn, XGBoost, arch or ccxt; opening a model
loads Keras and XGBoost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from generations.v9.combination import Combination, apply_combination
from generations.v9.features import V9_FEATURES, V9_VOLUME_FEATURES, V9_WARMUP, compute_v9_features
from generations.v9.scaling import scale_rows_min_max
from generations.v9.volatility import HAR_WINDOWS, HarModel, TreeModel, har_inputs
from pipeline.bundle.files import BundleFiles
from pipeline.bundle.network import KerasNetwork
from pipeline.bundle.scaler_check import SCALER_TYPES
from pipeline.bundle.scalers import MinMaxRecord
from pipeline.bundle.snapshot import Snapshot
from pipeline.forecasts.prediction import Instrument, Prediction
from pipeline.forecasts.predictor import CandlePredictor
from pipeline.samples.probe import Probe, probe
from pipeline.samples.scaling import to_log_return

DIRECTION_FILE = "direction_model_v9.h5"
VOLATILITY_FILE = "volatility_model_v9.json"
RESULTS_FILE = "v9_results.json"

FILES = BundleFiles(
    model="price_model_v9.h5",
    checkpoint="best_price_model_v9.h5",
    scalers="scalers_v9.pkl",
    metrics="metrics_v9.json",
    predictions="predictions_v9.parquet",
    report="report_v9.html",
    log="training.log",
    metadata="metadata_v9.json",
    extra=(DIRECTION_FILE, VOLATILITY_FILE, RESULTS_FILE),
)


class CombinedPrediction(Prediction):
    """What `predict` returns: direction, volatility and the combined forecast as well."""

    direction: float
    direction_p_up: float
    volatility: float
    combined_return: float
    combined_price: float
    combined_p_up: float
    combined_low: float
    combined_high: float


class CryptoPricePredictorV9(CandlePredictor):
    """Forecasts direction, volatility and price of one pair, and combines them.

    `CandlePredictor` has the verbs. What v2's keys say (`price`, `return`, `p_up`, `confidence`,
    `price_low`, `price_high`) is the price network's, so that they agree with each other. Beside
    them `predict` returns the document's `direction` (output of the direction network: P(up), not
    calibrated) and `volatility` (forecast volatility of the log-return over `volatility_horizon`
    candles), `direction_p_up` (the same, calibrated), and the combined forecast:
    `combined_price`, `combined_return`, `combined_p_up`, `combined_low`, `combined_high` (80 %
    interval, as wide as the forecast volatility says).

    The other two models lie beside the `model_path`, `price_model_v9.h5` (or
    `best_price_model_v9.h5`).
    """

    files = FILES
    known_features = V9_FEATURES
    optional_inputs = frozenset(V9_VOLUME_FEATURES)
    warmup = V9_WARMUP
    scaler_types: ClassVar[Mapping[str, type]] = {
        **SCALER_TYPES,
        "X": MinMaxRecord,
        "volatility_horizon": int,
        "har": dict,
        "ensemble": dict,
        "sha256": dict,
    }
    history_columns = (
        *CandlePredictor.history_columns,
        "direction",
        "direction_p_up",
        "volatility",
        "combined_p_up",
        "combined",
        "combined_q10",
        "combined_q90",
    )

    log_returns = CandlePredictor.log_returns | {"combined", "combined_q10", "combined_q90"}
    probabilities = frozenset({"p_up", "direction", "direction_p_up", "combined_p_up"})
    ordered = (*CandlePredictor.ordered, ("combined_q10", "combined_q50", "combined_q90"))

    def _open_networks(self, bundle: Snapshot, scalers: Mapping[str, Any]) -> None:
        super()._open_networks(bundle, scalers)
        for name in (DIRECTION_FILE, VOLATILITY_FILE):
            if bundle.sha256(name) != scalers["sha256"].get(name):
                raise ValueError(
                    f"{bundle.path_of(name)}: {bundle.scaler_path.name} belongs to another model "
                    "(sha256 differs); use the files of one training run"
                )
        opened: dict[str, Any] = {"input_shape": (self.lookback, len(self.feature_cols))}
        self.volatility_horizon: int = scalers["volatility_horizon"]
        self._direction = KerasNetwork(
            bundle.path_of(DIRECTION_FILE), content=bundle.content(DIRECTION_FILE), **opened
        )
        self._trees = TreeModel(
            bundle.path_of(VOLATILITY_FILE), content=bundle.content(VOLATILITY_FILE), **opened
        )

    def _probe(self) -> Probe:
        return probe(compute_v9_features)

    def _read_numbers(self, scalers: Mapping[str, Any]) -> None:
        super()._read_numbers(scalers)
        self._har = HarModel.from_dict(scalers["har"])
        self._combination = Combination.from_dict(scalers["ensemble"])

    def _features(self, candles: pd.DataFrame) -> pd.DataFrame:
        return compute_v9_features(candles, self.timeframe, self.feature_cols)

    def _scale(self, features: pd.DataFrame) -> np.ndarray:
        return scale_rows_min_max(features.to_numpy(np.float32), self._x_scaler)

    def _to_log_return(
        self, output: np.ndarray, base_price: np.ndarray, volatility: np.ndarray
    ) -> np.ndarray:
        return to_log_return(output, volatility, self._y_scaler)

    def _inputs(
        self, candles: pd.DataFrame, volatility: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        har = har_inputs(candles, self.timeframe, self.volatility_horizon)
        return np.hstack([super()._inputs(candles, volatility, rows), har[rows]])

    def _forecast(
        self,
        rows: np.ndarray,
        end: np.ndarray,
        base_price: np.ndarray,
        volatility: np.ndarray,
        inputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        own, har = np.split(inputs, [-len(HAR_WINDOWS)], axis=1)
        served = super()._forecast(rows, end, base_price, volatility, own)
        p_up = self._direction.run(rows, end)
        ahead = np.sqrt(self._har.variance(har) * self._trees.run(rows, end))
        per_return = np.sqrt(self.horizon / self.volatility_horizon)
        combined = apply_combination(
            self._combination, p_up, served["predicted_return"], volatility, ahead * per_return
        )
        return {**served, "direction": p_up.astype(np.float64), "volatility": ahead, **combined}

    def _as_prediction(
        self,
        candles: pd.DataFrame,
        price: float,
        forecast: dict[str, float],
        instrument: Instrument,
    ) -> CombinedPrediction:
        return {
            **super()._as_prediction(candles, price, forecast, instrument),
            "direction": forecast["direction"],
            "direction_p_up": forecast["direction_p_up"],
            "volatility": forecast["volatility"],
            "combined_p_up": forecast["combined_p_up"],
            "combined_return": forecast["combined"],
            "combined_price": price * float(np.exp(forecast["combined"])),
            "combined_low": price * float(np.exp(forecast["combined_q10"])),
            "combined_high": price * float(np.exp(forecast["combined_q90"])),
        }
