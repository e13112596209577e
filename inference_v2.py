"""CryptoPricePredictorV2: reloads what train_v2_production.py saves.

    from inference_v2 import CryptoPricePredictorV2
    predictor = CryptoPricePredictorV2.from_directory("all_models/v2")
    predictor.predict(df)["price"]

As a command it forecasts from a file or an exchange, scores what came true, and keeps the model
young:

    python inference_v2.py predict | live | evaluate | recalibrate | retrain
"""

# Importing this module loads no TensorFlow, scikit-learn, XGBoost, arch or ccxt; opening a model
# loads Keras.

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from config import PRESETS_V2, ConfigV2
from feature_engineering import (
    V2_FEATURES,
    V2_OPTIONAL_FEATURES,
    V2_VOLUME_FEATURES,
    V2_WARMUP,
    compute_features,
    probe_preset,
)
from pipeline.bundle.files import BundleFiles
from pipeline.bundle.snapshot import Snapshot
from pipeline.candles.schema import PUBLISHED
from pipeline.forecasts.live import LivePredictor
from pipeline.forecasts.predictor import VOLUME_REMEDY
from pipeline.forecasts.recent_candles import read_closed
from pipeline.samples.pooled_features import (
    POOLED_FEATURES,
    POOLED_MARKET_FEATURES,
    POOLED_VOLUME_FEATURES,
    market_features,
    preset_of,
    with_market,
)
from pipeline.samples.probe import Probe
from pipeline.samples.scaling import to_log_return

if TYPE_CHECKING:
    from typing_extensions import Self

FILES = BundleFiles(
    model="crypto_v2_final_model.h5",
    checkpoint="best_v2_model.h5",
    scalers="scalers_v2.pkl",
    metrics="metrics_v2.json",
    predictions="predictions_v2.parquet",
    report="report_v2.html",
    log="training_log_v2.txt",
    metadata="metadata_v2.json",
    recalibration="recalibration_v2.json",
    judged_model="judged_v2_model.h5",
    judged_scalers="judged_scalers_v2.pkl",
)
MODEL_FILE, SCALER_FILE, METADATA_FILE = FILES.model, FILES.scalers, FILES.metadata


class CryptoPricePredictorV2(LivePredictor):
    """Forecasts the close `horizon` candles ahead from recent candles of one pair.

    Its verbs are those of `CandlePredictor` and `LivePredictor`.

    Args:
        model_path: `crypto_v2_final_model.h5` (or `best_v2_model.h5`).
        scaler_path: `scalers_v2.pkl` of the same training run.
        recalibrated: Whether a later calibration beside them is used, if there is one; False serves
            what the training run judged.
    """

    files = FILES
    known_features = (*V2_FEATURES, *POOLED_FEATURES)
    volume_inputs = frozenset({*V2_VOLUME_FEATURES, *POOLED_VOLUME_FEATURES})
    optional_inputs = frozenset({*POOLED_MARKET_FEATURES, *V2_OPTIONAL_FEATURES, *volume_inputs})
    warmup = V2_WARMUP
    is_cautious_with_age = True
    preset: str
    """whose features the model looks at, of `PRESETS_V2`"""
    _market: pd.DataFrame | None = None
    """what `with_context` made of other coins' candles"""

    @property
    def wants_context(self) -> bool:
        """Whether the model looks at other coins' candles too, as those of the pooled preset do."""
        return any(name in POOLED_MARKET_FEATURES for name in self.feature_cols)

    @property
    def published(self) -> list[str]:
        """What futures exchanges publish that the model looks at, of `schema.PUBLISHED`."""
        wanted = [V2_OPTIONAL_FEATURES.get(name) for name in self.feature_cols]
        return [kind for kind, column in PUBLISHED.items() if column in wanted]

    def with_context(self, context: Mapping[str, pd.DataFrame] | None) -> Self:
        """This predictor, knowing what other coins did.

        Args:
            context: Pair -> its recent closed candles, at least `required_candles`, of all of
                `symbols` or as many as there are, the forecast pair's own among them. It is looked
                at where "BTC/USDT" and at least two others have the candle that is forecast from;
                elsewhere the forecast is what it would be without. None changes nothing.
        """
        if context is not None and not isinstance(context, Mapping):
            raise ValueError(
                f"context is a {type(context).__name__}; pass pair -> candles, such as "
                '{"BTC/USDT": btc, "ETH/USDT": eth, "SOL/USDT": sol}'
            )
        if not context or not self.wants_context:
            return self
        closed = {
            symbol: read_closed(frame, self.timeframe, where=symbol)
            for symbol, frame in context.items()
        }
        informed = copy.copy(self)
        informed._market = market_features(closed, self.timeframe)
        return informed

    def _missing_text(self, missing: Sequence[str]) -> str:
        count = f"{len(missing)} of {len(self.feature_cols)} inputs ({', '.join(missing)})"
        remedies = []
        if any(name in POOLED_MARKET_FEATURES for name in missing):
            remedies.append(
                "pass the candles of BTC/USDT and at least two more pairs up to the same candle "
                "(context=… in Python, files in the same folder at the command line)"
            )
        columns = [V2_OPTIONAL_FEATURES[name] for name in missing if name in V2_OPTIONAL_FEATURES]
        if columns:
            remedies.append(f"pass candles with {' and '.join(columns)}")
        if not self.volume_inputs.isdisjoint(missing):
            remedies.append(VOLUME_REMEDY)
        return f"the forecast does without {count}; {'; '.join(remedies)}"

    def _open(self, bundle: Snapshot) -> dict[str, Any]:
        scalers = super()._open(bundle)
        self.preset = scalers.get("preset", preset_of(scalers["feature_cols"]))
        if self.preset not in PRESETS_V2:
            raise ValueError(
                f"{bundle.scaler_path}: unknown preset {self.preset!r}; it was written by another "
                "version"
            )
        return scalers

    def _probe(self) -> Probe:
        return probe_preset(self.preset)

    def _features(self, candles: pd.DataFrame) -> pd.DataFrame:
        if self.preset == "pooled":
            return with_market(candles, self._market, self.timeframe, self.feature_cols)
        return compute_features(candles, self.timeframe, self.feature_cols)

    def _to_log_return(
        self, output: np.ndarray, base_price: np.ndarray, volatility: np.ndarray
    ) -> np.ndarray:
        return to_log_return(output, volatility, self._y_scaler)


def train_again(config: ConfigV2) -> dict[str, Any]:
    """The training run that makes such a bundle, for the command `retrain`; returns its metrics."""
    import train_v2_production  # lazy, and only here: it imports this module

    return train_v2_production.main(config)


if __name__ == "__main__":
    from pipeline import commands, terminal

    with terminal.one_line_errors():
        commands.main(CryptoPricePredictorV2, __doc__, train_again)
