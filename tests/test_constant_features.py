"""Feeds whose open is the close before, or that publish no volume, can be trained on and served."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from feature_engineering import V2_CANDLE_FEATURES
from generations.v1.candles import resample_candles
from generations.v1.features import V1_VOLUME_FEATURES
from generations.v1.inference import CryptoPricePredictorV1
from generations.v1_final.features import V1_FINAL_VOLUME_FEATURES
from generations.v1_final.inference import CryptoPricePredictorV1Final
from generations.v7.features import V7_VOLUME_FEATURES
from generations.v7.inference import CryptoPricePredictorV7
from generations.v9.features import V9_VOLUME_FEATURES
from generations.v9.inference import CryptoPricePredictorV9
from inference_v2 import CryptoPricePredictorV2
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_candles
from tests.test_undefined_metrics import SCRIPTS

PREDICTORS = {
    "v1": (CryptoPricePredictorV1, {*V1_VOLUME_FEATURES, "open_gap"}),
    "v1_final": (CryptoPricePredictorV1Final, {*V1_FINAL_VOLUME_FEATURES}),
    "v2": (CryptoPricePredictorV2, {*CryptoPricePredictorV2.volume_inputs, "open_gap"}),
    "v7": (CryptoPricePredictorV7, {*V7_VOLUME_FEATURES}),
    "v9": (CryptoPricePredictorV9, {*V9_VOLUME_FEATURES, "open_gap"}),
}


def bare_feed(n, timeframe):
    """Candles that open where the one before closed, without volume."""
    candles = synthetic_candles(n, timeframe=timeframe, seed=3, end="2025-01-01")
    open_ = candles["close"].shift(1).fillna(candles["open"])
    high = np.maximum(candles["high"], open_)
    low = np.minimum(candles["low"], open_)
    return candles[["timestamp"]].assign(
        open=open_, high=high, low=low, close=candles["close"], volume=0.0
    )


def on_bitcoin(config, tmp_path, **settings):
    """Settings of a run of one epoch on all of BTC's candles below `tmp_path`."""
    return replace(
        config,
        symbols=("BTC/USDT",),
        candles_dir=tmp_path / "candles",
        candles=0,
        epochs=1,
        **settings,
    )


@pytest.mark.slow
@pytest.mark.parametrize("generation", SCRIPTS)
def test_a_feed_without_gaps_and_volume_is_trained_on_and_served(
    generation, tmp_path, no_twin, capsys
):
    main, config = SCRIPTS[generation]
    predictor_class, constant = PREDICTORS[generation]
    quarters = bare_feed(4 * 1400, "15m")
    hours = resample_candles(quarters, "15m", "1h")
    frames = {"1h": hours, "15m": quarters}
    for timeframe, frame in frames.items():
        write_candles(frame, tmp_path / "candles", "BTC/USDT", timeframe)
    folder = tmp_path / "bundle"
    main(on_bitcoin(config, tmp_path, output_dir=folder))
    assert "dropped: constant or missing throughout the training part" in capsys.readouterr().out

    predictor = predictor_class.from_directory(folder)
    assert constant.isdisjoint(predictor.feature_cols)
    n_kept = {"v1": 50 - 7, "v1_final": 14 - 2, "v2": 16 - 3, "v7": 13 - 1, "v9": 46 - 5}
    assert len(predictor.feature_cols) == n_kept[generation]

    # Training and serving agree to the bit, and nothing is said to be missing.
    given = frames.values() if generation == "v1" else [hours]
    served = predictor.predict_history(*given).set_index("timestamp")
    [saved] = folder.glob("predictions_*.parquet")
    rows = pd.read_parquet(saved).set_index("timestamp")
    assert len(rows) > 30
    assert np.array_equal(served.loc[rows.index, "predicted_return"], rows["lstm"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What v7 and v1-final say is not shrunk, so it may.
        warnings.filterwarnings("ignore", "the forecast of .* lies outside of its own")
        prediction = predictor.predict(*given)
    assert prediction["missing_inputs"] == []
    assert prediction["price_low"] < prediction["price_high"]


@pytest.mark.slow
def test_a_model_that_knows_volume_says_when_it_has_none(tiny_bundle, signal_market):
    predictor = CryptoPricePredictorV2.from_directory(tiny_bundle)
    candles = signal_market["BTC/USDT"]
    silent = candles.assign(volume=0.0)
    told = r"does without 2 of 18 inputs \(volume_z, volume_ratio\); pass candles with traded"
    with pytest.warns(UserWarning, match=told) as caught:
        prediction = predictor.predict(silent)
    assert len(caught) == 1
    assert prediction["missing_inputs"] == ["volume_z", "volume_ratio"]
    assert all(np.isfinite(prediction[name]) for name in ("price", "price_low", "price_high"))
    with pytest.warns(UserWarning, match=f"641 of 641 forecasts: .*{told}"):
        history = predictor.predict_history(silent)
    assert np.isfinite(history.select_dtypes("number")).all(axis=None)
    assert history["predicted_return"].iloc[-1] == prediction["return"]

    # A volume here and there is missing too; where nobody traded it is 0.
    last = candles.index[-1]
    with pytest.warns(UserWarning, match=told):
        predictor.predict(candles.assign(volume=candles["volume"].mask(candles.index == last, 0.0)))
    still = candles.copy()
    still.loc[last, ["open", "high", "low", "volume"]] = [*[still["close"][last]] * 3, 0.0]
    assert predictor.predict(still)["missing_inputs"] == []


@pytest.mark.slow
def test_a_history_that_is_still_warming_up_is_not_told_that_volume_is_missing(
    tiny_bundle, signal_market
):
    predictor = CryptoPricePredictorV2.from_directory(tiny_bundle)
    with pytest.warns(UserWarning, match="still warming up") as caught:
        prediction = predictor.predict(signal_market["BTC/USDT"].iloc[-60:])
    assert len(caught) == 1
    assert prediction["missing_inputs"] == []


@pytest.mark.slow
def test_a_fold_looks_at_what_changes_in_its_own_training_part(tmp_path, no_twin, capsys):
    main, config = SCRIPTS["v2"]
    candles = synthetic_candles(1500, seed=3, end="2025-01-01")
    # 965 samples begin with candle 534; the first fold's training part ends with candle 1209.
    candles["volume"] = candles["volume"].mask(candles.index < 1225, 0.0)
    write_candles(candles, tmp_path / "candles", "BTC/USDT", "1h")
    folder = tmp_path / "bundle"
    main(on_bitcoin(config, tmp_path, walk_forward=True, refit_every=2, output_dir=folder))
    assert "volume_z, volume_ratio dropped: constant or missing" in capsys.readouterr().out
    metadata = json.loads((tmp_path / "bundle" / "metadata_v2.json").read_text(encoding="utf-8"))
    assert set(V2_CANDLE_FEATURES) <= set(metadata["feature_cols"])
