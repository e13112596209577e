"""CryptoPricePredictorV1: reloads what generations/v1/train_v1.py saves.

    from generations.v1.inference import CryptoPricePredictorV1
    predictor = CryptoPricePredictorV1.from_directory("all_models/v1", symbol="BTC/USDT")
    predictor.predict(df_1h, df_15m)["q90"]

Importing this module loads no TensorFlow, scikit-learn, XGBoost, arch or ccxt; opening a model
loads Keras.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from generations.v1.features import V1_FEATURES, V1_VOLUME_FEATURES, V1_WARMUP, compute_v1_features
from generations.v1.timeframes import ALL_SYMBOLS, HOUR, OUTLIER_LIMIT, QUARTER, rows_of_windows
from pipeline.bundle.files import BundleFiles
from pipeline.bundle.scaler_check import SCALER_TYPES
from pipeline.bundle.scalers import ScalerRecord
from pipeline.candles.schema import read_candles, timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.forecasts.prediction import Instrument
from pipeline.forecasts.predictor import (
    VOLUME_REMEDY,
    BundlePredictor,
    last_ms_of,
    numbers_unjudged,
)
from pipeline.forecasts.recent_candles import base_price, one_for_each, read_closed, read_recent
from pipeline.forecasts.signals import History
from pipeline.samples.probe import Probe, probe
from pipeline.samples.scaling import scale_rows, to_log_return
from pipeline.samples.windows import Stream, usable_rows

FILES = BundleFiles(
    model="crypto_v1_model.h5",
    checkpoint="best_v1_model.h5",
    scalers="scalers_v1.pkl",
    metrics="metrics_v1.json",
    predictions="predictions_v1.parquet",
    report="report_v1.html",
    log="training_log_v1.txt",
    metadata="metadata_v1.json",
)

UNCERTAIN = 0.015
"""(q90 - q10) / q50 beyond which the v1 document reduces positions or pauses."""

FORECASTS = ("predicted_return", "q10", "q50", "q90", "p_up", "uncertainty")


class CryptoPricePredictorV1(BundlePredictor):
    """Forecasts quantiles of the next hour's close from recent 1h and 15m candles of one pair."""

    files = FILES
    known_features = V1_FEATURES
    warmup = V1_WARMUP
    scaler_types: ClassVar[Mapping[str, type]] = {
        **SCALER_TYPES,
        "X": dict,
        "quantile_regression": bool,
    }
    n_streams = 2

    def __init__(
        self, model_path: str | Path, scaler_path: str | Path, symbol: str | None = None
    ) -> None:
        """Open a trained model for one pair.

        Args:
            model_path: `crypto_v1_model.h5` (or `best_v1_model.h5`).
            scaler_path: `scalers_v1.pkl` of the same training run.
            symbol: Such as "BTC/USDT": its own training part standardises the features. May be left
                out if the model was trained on one pair; else, and for a pair that training did not
                see, all trained pairs together standardise, under a warning.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, holds anything but the admitted types, or belongs to
                another run.
        """
        super().__init__(model_path, scaler_path)
        if symbol is None and len(self.symbols) == 1:
            symbol = self.symbols[0]
        self.symbol = symbol
        name = symbol
        if symbol not in self.symbols:
            name = ALL_SYMBOLS
            warnings.warn(
                f"symbol is {symbol!r}, none of the trained {', '.join(self.symbols)}: the "
                "features are standardised by all of these together; pass symbol=… where it is "
                "one of them",
                stacklevel=2,
            )
        self._x_scalers: dict[str, Any] = {}
        for timeframe in (HOUR, QUARTER):
            scalers = self._x_scaler.get(timeframe)
            self._x_scalers[timeframe] = scalers.get(name) if isinstance(scalers, dict) else None
        if not all(type(scaler) is ScalerRecord for scaler in self._x_scalers.values()):
            raise ValueError(
                f"{scaler_path}: a scaler of {name} is missing or of another kind; train the model "
                "again"
            )

    def predict(
        self, df_1h: pd.DataFrame, df_15m: pd.DataFrame, last_price: float | None = None
    ) -> dict[str, Any]:
        """Forecast from the last candle of `df_1h`.

        Args:
            df_1h: Recent closed 1h candles of the pair, at least `lookback`, better
                `required_candles`: timestamp (open), open, high, low, close, volume.
            df_15m: As many 15m candles of the pair, up to the same close. Later ones, of the hour
                that has not closed yet, are not looked at.
            last_price: Price the forecast starts from, in quote currency; the last close by
                default.

        Returns:
            What v2 returns (`price` is the median's), and: `q10`, `q50`, `q90` (prices),
            `uncertainty` ((q90 - q10) / q50) and `hint`, "reduce" where that is above 1.5 %, else
            "trade".

        Raises:
            ValueError: Too few candles, a gap among the last `lookback`, unsound candles,
                timeframes that do not end together, a price that is not positive.
        """
        return self._predict([(df_1h, df_15m)], [last_price])[0]

    def predict_batch(
        self,
        pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
        last_prices: Sequence[float | None] | None = None,
    ) -> list[dict[str, Any]]:
        """Forecast from each (df_1h, df_15m); the same dicts as `predict`, in the same order."""
        prices = one_for_each(last_prices, len(pairs))
        return self._predict(pairs, prices) if len(pairs) else []

    def predict_history(self, df_1h: pd.DataFrame, df_15m: pd.DataFrame) -> History:
        """Forecast from every 1h candle that can be, bit for bit as `predict` does from there.

        Returns:
            One row per 1h candle t whose window and 15m window hold no gap: `timestamp` and
            `last_timestamp` (open of t, UTC), `target_timestamp` (open of the candle that is
            forecast), `predicted_return`, `q10`, `q50`, `q90` (log-returns over the horizon),
            `p_up`, `uncertainty`.
        """
        hours = read_closed(df_1h, HOUR, where="1h candles")
        quarters = read_closed(df_15m, QUARTER, where="15m candles")
        times = timestamps_ms(hours)
        fine_times = timestamps_ms(quarters)
        t = np.flatnonzero(usable_rows(times, self._step_ms, self._needed, warmup=0))
        row = rows_of_windows(times[t], fine_times, HOUR, QUARTER, self.lookback, warmup=0)
        t, row = t[row >= 0], row[row >= 0]
        if len(t) == 0:
            raise ValueError(
                f"none of {len(hours)} 1h candles can be forecast from: it takes {self._needed} in "
                f"a row without a gap and {self.lookback} 15m candles that end with them"
            )
        with numbers_unjudged():
            streams = [
                Stream(self._scale(self._features(hours, HOUR), HOUR), t, self.lookback),
                Stream(self._scale(self._features(quarters, QUARTER), QUARTER), row, self.lookback),
            ]
            volatility = self._volatility(hours)
            inputs = self._inputs(hours, volatility, t)
            forecast = self._forecast(streams, volatility[t], inputs)
        self._demand_numbers(forecast, hours["close"].to_numpy()[t], times[t])
        columns = self._times_of(hours, t)
        columns |= {name: forecast[name] for name in FORECASTS}
        return History.of(columns, hours, HOUR, self.horizon, self.seen_until)

    def _predict(
        self, pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]], prices: Sequence[float | None]
    ) -> list[dict[str, Any]]:
        frames: list[pd.DataFrame] = []
        base: list[float] = []
        missing: list[list[str]] = []
        rows: dict[str, list[np.ndarray]] = {HOUR: [], QUARTER: []}
        required = self.warm_candles
        for i, ((df_1h, df_15m), price) in enumerate(zip(pairs, prices)):
            pair = "" if len(pairs) == 1 else f"pair {i} of {len(pairs)}, "
            where = f"{pair}{HOUR} candles"
            hours = read_recent(df_1h, HOUR, needed=self._needed, required=required, where=where)
            where = f"{pair}{QUARTER} candles"
            known = _known_with(hours, df_15m, where)
            quarters = read_recent(
                known, QUARTER, needed=self.lookback, required=required, where=where
            )
            newest = []
            for timeframe, candles in ((HOUR, hours), (QUARTER, quarters)):
                with numbers_unjudged():
                    features = self._features(candles, timeframe)
                    rows[timeframe].append(self._scale(features, timeframe)[-self.lookback :])
                newest.append(features.iloc[-1])
            missing.append(_missing_volume(newest))
            frames.append(hours)
            base.append(base_price(hours, price))
        end = np.arange(1, len(frames) + 1) * self.lookback - 1
        streams = [Stream(np.concatenate(part), end, self.lookback) for part in rows.values()]
        with numbers_unjudged():
            scales = [self._volatility(hours) for hours in frames]
            last = (np.array([len(hours) - 1]) for hours in frames)
            inputs = np.vstack([self._inputs(*of) for of in zip(frames, scales, last)])
            volatility = np.array([scale[-1] for scale in scales])
            forecast = self._forecast(streams, volatility, inputs)
        self._demand_numbers(forecast, np.array(base), last_ms_of(frames))
        if lacking := list(dict.fromkeys(name for names in missing for name in names)):
            text = f"the forecast does without {', '.join(lacking)}; {VOLUME_REMEDY}"
            warnings.warn(text, stacklevel=3)
        predictions = []
        for i, (hours, price) in enumerate(zip(frames, base)):
            numbers = {name: float(values[i]) for name, values in forecast.items()}
            instrument = self._instrument_of(pairs[i][0], None)
            prediction = self._as_prices(hours, price, numbers, instrument)
            predictions.append({**prediction, "missing_inputs": missing[i]})
        return predictions

    def _probe(self) -> Probe:
        return probe(compute_v1_features)

    def _features(self, candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
        """(n, n_features) frame, as in training."""
        return compute_v1_features(candles, timeframe, self.feature_cols)

    def _scale(self, features: pd.DataFrame, timeframe: str) -> np.ndarray:
        """(n, n_features) float32; a missing value becomes the training mean."""
        return scale_rows(features.to_numpy(np.float32), self._x_scalers[timeframe], OUTLIER_LIMIT)

    def _forecast(
        self, streams: Sequence[Stream], volatility: np.ndarray, inputs: np.ndarray
    ) -> dict[str, np.ndarray]:
        outputs = to_log_return(self._network.run_streams(streams), volatility, self._y_scaler)
        served = self._serve(outputs, volatility, inputs)
        q10, q50, q90 = (np.exp(served[name]) for name in ("q10", "q50", "q90"))
        return served | {"uncertainty": (q90 - q10) / q50}

    def _as_prices(
        self, hours: pd.DataFrame, price: float, forecast: dict[str, float], instrument: Instrument
    ) -> dict[str, Any]:
        prediction = self._as_prediction(hours, price, forecast, instrument)
        prices = {name: price * float(np.exp(forecast[name])) for name in ("q10", "q50", "q90")}
        hint = "reduce" if forecast["uncertainty"] > UNCERTAIN else "trade"
        return {**prediction, **prices, "uncertainty": forecast["uncertainty"], "hint": hint}


def _missing_volume(newest: Sequence[pd.Series]) -> list[str]:
    """Features of volume that the newest candle of a timeframe lacks."""
    return [
        name
        for name in V1_VOLUME_FEATURES
        if any(name in features and np.isnan(features[name]) for features in newest)
    ]


def _known_with(hours: pd.DataFrame, df_15m: pd.DataFrame, where: str) -> pd.DataFrame:
    """The 15m candles that had closed with the last hour; a ValueError unless they end with it."""
    quarters = read_candles(df_15m, QUARTER, where=where)
    close_ms = timestamps_ms(hours)[-1] + timeframe_ms(HOUR)
    closes = timestamps_ms(quarters) + timeframe_ms(QUARTER)
    known = quarters[closes <= close_ms]
    if len(known) == 0 or closes[len(known) - 1] != close_ms:
        instants = utc_from_ms(np.array([closes[0], closes[-1], close_ms]))
        first, last, hour = instants.dt.strftime("%Y-%m-%d %H:%M")
        raise ValueError(
            f"{where}: none closes at {hour} with the last 1h candle, they close from {first} to "
            f"{last}; pass both timeframes up to the same instant"
        )
    return known
