"""The ONNX twin: the network Keras has, in a file that onnxruntime runs."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import ConfigV2
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline.bundle import files
from pipeline.bundle.network import KerasNetwork, OnnxNetwork, export_twin, open_network
from pipeline.bundle.scalers import load_scalers
from pipeline.candles.synthetic import synthetic_market
from train_v2_production import main

pytest.importorskip("onnxruntime")
pytest.importorskip("tf2onnx")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(
            ConfigV2(
                source="synthetic",
                candles=400,
                epochs=1,
                output_dir=folder,
                lstm_units=(8, 8),
                conv_filters=8,
                conv_lstm_units=8,
            )
        )
    return folder


@pytest.fixture(scope="module")
def candles():
    return synthetic_market(("BTC/USDT",), "1h", 900, seed=5)["BTC/USDT"]


def open_predictor(folder):
    with pytest.warns(UserWarning, match="synthetic"):
        return CryptoPricePredictorV2.from_directory(folder)


def copy_of(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / FILES.metadata).unlink()  # its hashes would speak first
    return tmp_path / "copy"


def test_a_run_saves_the_twin_with_its_hash_and_serves_it(bundle):
    metadata = (bundle / FILES.metadata).read_text()
    sha = files.sha256_of(bundle / FILES.twin)
    assert sha in metadata
    assert load_scalers(bundle / FILES.scalers)["twin_sha256"] == sha
    assert isinstance(open_predictor(bundle)._network, OnnxNetwork)


def test_the_twin_forecasts_what_keras_does(bundle, candles, tmp_path):
    keras_only = copy_of(bundle, tmp_path)
    (keras_only / FILES.twin).unlink()
    with_keras, with_onnx = open_predictor(keras_only), open_predictor(bundle)
    assert isinstance(with_keras._network, KerasNetwork)
    ours, theirs = with_onnx.predict_history(candles), with_keras.predict_history(candles)
    assert np.abs(ours["predicted_return"] - theirs["predicted_return"]).max() <= 1e-6
    assert not np.array_equal(ours["predicted_return"], np.zeros(len(ours)))


def test_with_the_twin_one_forecast_is_the_row_of_the_history_bit_for_bit(bundle, candles):
    predictor = open_predictor(bundle)
    history = predictor.predict_history(candles)
    for t in (len(candles) - 1, len(candles) - 14, 700):
        row = history.set_index("timestamp").loc[candles["timestamp"].iloc[t]]
        assert predictor.predict(candles.iloc[: t + 1])["return"] == row["predicted_return"]


def test_the_test_part_was_forecast_by_the_twin_that_serves(bundle):
    saved = pd.read_parquet(bundle / FILES.predictions)
    btc = saved[saved["symbol"] == "BTC/USDT"]
    config = ConfigV2()
    warmup = CryptoPricePredictorV2.warmup
    end = pd.Timestamp(
        json.loads((bundle / FILES.metadata).read_text())["data"]["symbols"]["BTC/USDT"]["last"]
    )
    market = synthetic_market(
        config.symbols,
        "1h",
        400 + warmup,
        seed=config.seed,
        end=end.tz_localize(None) + pd.Timedelta("1h"),
    )
    frame = market["BTC/USDT"]
    assert frame["timestamp"].iloc[-1] == end
    history = open_predictor(bundle).predict_history(frame).set_index("timestamp")
    assert history.loc[btc["timestamp"], "predicted_return"].to_numpy() == pytest.approx(
        btc["lstm"].to_numpy(), abs=0
    )


def test_a_twin_of_other_bytes_is_refused_by_name(bundle, tmp_path):
    folder = copy_of(bundle, tmp_path)
    twin = folder / FILES.twin
    twin.write_bytes(twin.read_bytes()[:-1] + b"x")
    with (
        pytest.raises(ValueError, match=r"\.onnx: its bytes are not those"),
        pytest.warns(UserWarning),
    ):
        CryptoPricePredictorV2.from_directory(folder)


def test_a_twin_that_the_scaler_file_does_not_name_is_not_opened(bundle):
    network = open_network(bundle / FILES.model, [(60, 18)], None)
    assert isinstance(network, KerasNetwork)


def test_a_hash_of_another_kind_is_refused(bundle, tmp_path):
    folder = copy_of(bundle, tmp_path)
    scalers = pickle.loads((folder / FILES.scalers).read_bytes())  # our own file
    (folder / FILES.scalers).write_bytes(pickle.dumps({**scalers, "twin_sha256": 7}, protocol=4))
    with pytest.raises(ValueError, match="'twin_sha256' is 7"):
        CryptoPricePredictorV2.from_directory(folder)


def test_bytes_that_are_no_model_and_windows_of_another_shape_are_refused(bundle):
    with pytest.raises(ValueError, match="not a readable ONNX model"):
        OnnxNetwork(b"no model", input_shape=[(60, 18)], where="x.onnx")
    with pytest.raises(
        ValueError, match=r"takes windows of shape \(60, 18\), the scaler file says \(60, 5\)"
    ):
        OnnxNetwork((bundle / FILES.twin).read_bytes(), input_shape=[(60, 5)], where="x.onnx")


def test_a_twin_that_differs_from_keras_is_not_kept(bundle, tmp_path, monkeypatch, caplog):
    shutil.copy(bundle / FILES.model, tmp_path / "model.h5")
    monkeypatch.setattr("pipeline.bundle.network.TOLERANCE", -1.0)
    assert export_twin(tmp_path / "model.h5") is None
    assert not (tmp_path / "model.onnx").exists()
    assert "its outputs differ from Keras'" in caplog.text


def test_an_export_that_fails_is_a_notice(tmp_path, caplog):
    (tmp_path / "model.h5").write_bytes(b"no model")
    assert export_twin(tmp_path / "model.h5") is None
    assert "the export failed" in caplog.text


def test_a_bundle_without_a_twin_or_keras_files_removes_those_of_the_one_before(tmp_path):
    for name in FILES.optional:
        (tmp_path / name).write_text("old")
    partial = tmp_path / files.PARTIAL
    partial.mkdir()
    for name in (*FILES.hashed, FILES.log):
        (partial / name).write_text(name)
    files.write_metadata(partial / FILES.metadata, {}, hashed=FILES.hashed, unhashed=(FILES.log,))
    assert files.finish_moves(tmp_path, FILES.metadata, FILES.bundle)
    assert not any((tmp_path / name).exists() for name in FILES.optional)


def test_a_forecast_from_the_twin_loads_no_tensorflow(bundle, candles, tmp_path):
    candles.to_parquet(tmp_path / "candles.parquet")
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
import pandas as pd
from inference_v2 import CryptoPricePredictorV2
predictor = CryptoPricePredictorV2.from_directory({str(bundle)!r})
predictor.predict(pd.read_parquet({str(tmp_path / "candles.parquet")!r}))
heavy = ("tensorflow", "keras", "sklearn", "scipy", "tf2onnx")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
