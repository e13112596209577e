"""v1-final end to end: the report's network, scaled prices, bundle, predictor."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import ConfigV1Final
from feature_engineering import compute_features
from generations.v1_final import train_v1_final
from generations.v1_final.features import V1_FINAL_FEATURES, V1_FINAL_WARMUP, compute_level_features
from generations.v1_final.inference import FILES, CryptoPricePredictorV1Final
from pipeline.bundle import files
from pipeline.bundle.scalers import load_scalers
from pipeline.candles.synthetic import synthetic_candles, synthetic_market
from pipeline.evaluation.price_errors import price_errors
from pipeline.report.tables import price_error_rows, sample_rows
from pipeline.samples import leakage
from tests import networks
from tests.conftest import write_market

ROOT = Path(__file__).resolve().parents[1]
SYMBOLS = ("BTC/USDT", "ETH/USDT")
TINY = ConfigV1Final(
    symbols=SYMBOLS,
    candles=500,
    epochs=3,
    learning_rate=0.01,
    lstm_units=(6, 5, 4, 3),
    conv_filters=(4, 3),
    conv_lstm_units=(4, 3),
    dense_units=(6, 5, 4, 3),
)


@pytest.fixture(scope="module")
def market():
    """A martingale: nothing in it can be forecast."""
    return synthetic_market(SYMBOLS, "1h", 500 + V1_FINAL_WARMUP, seed=4)


@pytest.fixture(scope="module")
def candles_dir(market, tmp_path_factory):
    return write_market(market, tmp_path_factory.mktemp("candles"))


@pytest.fixture(scope="module")
def bundle(candles_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    train_v1_final.main(replace(TINY, candles_dir=candles_dir, output_dir=folder))
    return folder


@pytest.fixture(scope="module")
def predictor(bundle):
    return CryptoPricePredictorV1Final.from_directory(bundle, symbol="ETH/USDT")


# The network


@pytest.fixture(scope="module")
def network():
    from models.price_level import build_price_level

    return build_price_level(60, 14)


def lstm(n_in, units):
    return 4 * ((n_in + units) * units + units)


def test_the_report_s_network_has_exactly_271_889_parameters(network):
    normalised = (
        128,
        96,
        64,
        64,
        48,
        48,
        96,
        64,
        32,
    )  # 9 batch normalisations, 4 numbers a channel
    streams = (
        lstm(14, 128) + lstm(128, 96) + lstm(96, 64) + lstm(64, 32) + lstm(48, 48) + lstm(48, 32)
    )
    convolutions = (3 * 14 * 64 + 64) + (3 * 64 * 48 + 48)
    dense = (64 * 96 + 96) + (96 * 64 + 64) + (64 * 32 + 32) + (32 * 16 + 16) + (16 + 1)
    assert streams + convolutions + dense + 4 * sum(normalised) == 271_889
    assert network.count_params() == 271_889


def test_it_takes_the_same_windows_twice_and_says_a_price_between_0_and_1(network):
    x = np.random.default_rng(0).normal(size=(3, 60, 14)).astype(np.float32)
    scaled_price = network.predict([x, x], verbose=0)
    assert scaled_price.shape == (3, 1)
    assert ((scaled_price > 0) & (scaled_price < 1)).all()


def test_its_lstms_can_run_on_cudnn_and_its_layers_are_keras_own(network):
    for layer in network.layers:
        assert type(layer).__module__.startswith("keras.")
        if type(layer).__name__ == "LSTM":
            settings = layer.get_config()
            assert (settings["activation"], settings["recurrent_activation"]) == ("tanh", "sigmoid")
            assert (settings["recurrent_dropout"], settings["unroll"], settings["use_bias"]) == (
                0.0,
                False,
                True,
            )
    assert network.layers[-1].get_config()["activation"] == "sigmoid"


# The features


def test_the_14_features_are_the_raw_candle_and_v2_s_indicators():
    candles = synthetic_candles(200, seed=1)
    features = compute_level_features(candles, "1h")
    assert tuple(features) == V1_FINAL_FEATURES and len(V1_FINAL_FEATURES) == 14
    for name in ("open", "high", "low", "close", "volume"):
        assert features[name].tolist() == candles[name].tolist()
    pd.testing.assert_frame_equal(
        features.iloc[:, 5:], compute_features(candles, "1h", V1_FINAL_FEATURES[5:])
    )
    close = candles["close"].to_numpy()
    assert features["momentum_10"].iloc[100] == pytest.approx(close[100] / close[90] - 1)
    leakage.check(lambda frame: compute_level_features(frame, "1h"), candles)


# The report's table


def test_the_price_errors_are_those_of_the_report_per_coin_with_naive_beside():
    base = np.array([100.0, 200.0, 400.0, 1.0])
    predictions = pd.DataFrame(
        {
            "symbol": ["A/USDT", "A/USDT", "A/USDT", "B/USDT"],
            "timestamp": pd.date_range("2024-01-01", periods=4, freq="h", tz="UTC"),
            "base_price": base,
            "actual_return": np.log(np.array([110.0, 190.0, 400.0, 2.0]) / base),
            "naive": 0.0,
            "lstm": np.log(np.array([80.0, 210.0, 370.0, 2.0]) / base),
        }
    )
    errors = price_errors(predictions, ("naive", "lstm"))
    # Errors of the network 30, 20, 30; of naive 10, 10, 0.
    assert errors["A/USDT"]["lstm"] == pytest.approx(
        {
            "mae": 80 / 3,
            "rmse": (2200 / 3) ** 0.5,
            "mape_percent": 100 * (30 / 110 + 20 / 190 + 30 / 400) / 3,
            "min": 20.0,
            "median": 30.0,
            "max": 30.0,
        }
    )
    assert errors["A/USDT"]["naive"]["mae"] == pytest.approx(20 / 3)
    assert errors["B/USDT"]["lstm"]["mae"] == pytest.approx(0.0, abs=1e-12)
    assert price_error_rows(errors)[2][:3] == ["A/USDT lstm", "26.67", "27.08"]
    rows = sample_rows(predictions, ("naive", "lstm"), n_rows=2)
    assert rows[1] == ["A/USDT 2024-01-01 00:00", "110.00", "100.00", "9.09", "80.00", "27.27"]
    expected = (("A/USDT", 0), ("A/USDT", 2), ("B/USDT", 3))
    assert [row[0] for row in rows[1:]] == [f"{s} 2024-01-01 0{h}:00" for s, h in expected]


# The run


def test_a_run_leaves_its_files_and_their_hashes(bundle):
    assert {path.name for path in bundle.iterdir()} | {FILES.twin} == {
        *FILES.bundle,
        FILES.metadata,
    }
    metadata = json.loads((bundle / FILES.metadata).read_text())
    assert set(metadata["files"]) | {FILES.twin} == {*FILES.hashed, *FILES.optional}
    for name, sha in metadata["files"].items():
        assert files.sha256_of(bundle / name) == sha
    assert metadata["feature_cols"] == list(V1_FINAL_FEATURES)
    assert "<h1>v1-final on BTC/USDT" in (bundle / FILES.report).read_text(encoding="utf-8")


def test_the_parts_follow_each_other_in_time(bundle):
    split = json.loads((bundle / FILES.metadata).read_text())["split"]
    train, val, test = (split[name] for name in ("train", "val", "test"))
    assert (
        train["first"] < train["last"] < val["first"] < val["last"] < test["first"] < test["last"]
    )
    assert train["n"] == pytest.approx(0.7 * 2 * 440, rel=0.01)


def test_the_log_holds_the_report_s_table_with_naive_beside_and_the_verdict(bundle):
    log = (bundle / FILES.log).read_text()
    for text in (
        "[9/9] Evaluate",
        "MAE $",
        "RMSE $",
        "MAPE %",
        "median $",
        "BTC/USDT naive",
        "BTC/USDT lstm",
        "sample predictions",
        "lstm against naive",
        "no shrinkage",
    ):
        assert text in log, text
    assert "VERDICT" in log.split("═" * 100)[-2]  # between the last two rules


def test_the_metrics_agree_with_the_saved_predictions(bundle):
    metrics = json.loads((bundle / FILES.metrics).read_text())
    predictions = pd.read_parquet(bundle / FILES.predictions)
    for symbol, rows in predictions.groupby("symbol"):
        error = rows["base_price"] * (np.exp(rows["lstm"]) - np.exp(rows["actual_return"]))
        assert metrics["price_errors"][symbol]["lstm"]["mae"] == pytest.approx(
            error.abs().mean(), rel=1e-9
        )
        assert metrics["price_errors"][symbol]["lstm"]["mae"] == pytest.approx(
            metrics["test"]["models"]["lstm"]["by_symbol"][symbol]["mae"], rel=1e-9
        )


def test_on_a_martingale_the_network_does_not_beat_naive(bundle):
    test = json.loads((bundle / FILES.metrics).read_text())["test"]
    assert test["verdict"] == "NO EDGE"
    assert all(entry["verdict"] != "BEATS" for entry in test["verdicts"])


def test_the_price_is_not_shrunk_and_the_probability_is_calibrated(bundle, predictor, market):
    scalers = load_scalers(bundle / FILES.scalers)
    assert scalers["calibration"]["shrinkage"] == 1.0
    predictions = pd.read_parquet(bundle / FILES.predictions)
    assert (predictions["lstm"] == predictions["lstm_raw"]).all()
    slope = scalers["calibration"]["direction_slope"]
    p_up = 1 / (1 + np.exp(-slope * predictions["lstm"] / predictions["volatility"]))
    assert predictions["p_up"].to_numpy() == pytest.approx(p_up.to_numpy(), rel=1e-9)
    prediction = predictor.predict(market["ETH/USDT"])
    assert prediction["confidence"] == max(prediction["p_up"], 1 - prediction["p_up"])


def test_no_price_leaves_the_range_of_the_training_part(bundle):
    y = pickle.loads((bundle / FILES.scalers).read_bytes())["y"]
    predictions = pd.read_parquet(bundle / FILES.predictions)
    price = predictions["base_price"] * np.exp(predictions["lstm"])
    for symbol in SYMBOLS:
        own = price[predictions["symbol"] == symbol]
        assert y[symbol].data_min_[0] <= own.min() <= own.max() <= y[symbol].data_max_[0]


@pytest.mark.slow
def test_the_document_s_own_lines_reload_the_network_in_a_process_that_never_saw_this_project(
    bundle, predictor, market, tmp_path
):
    for name in (FILES.model, FILES.checkpoint, FILES.scalers):
        shutil.copy(bundle / name, tmp_path)
    frame = market["ETH/USDT"]
    x = predictor._scale(predictor._features(frame))[-60:][None]
    np.save(tmp_path / "x.npy", np.concatenate([x, x]))
    code = f"""
import pickle
import numpy as np
import tensorflow as tf
X_test = np.load("x.npy")
for name in ("{FILES.model}", "{FILES.checkpoint}"):
    model = tf.keras.models.load_model(name)
    y_pred_normalized = model.predict([X_test, X_test], verbose=0)
    scaler_y = pickle.load(open("{FILES.scalers}", "rb"))["y"]["ETH/USDT"]
    y_pred = scaler_y.inverse_transform(y_pred_normalized)
    print(y_pred.shape, float(y_pred[0, 0]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        shape, price = line.rsplit(" ", 1)
        assert shape == "(2, 1)"
        assert float(price) == pytest.approx(predictor.predict(frame)["price"], rel=1e-6)
    assert len(done.stdout.splitlines()) == 2


# The predictor


def test_the_forecasts_of_the_test_part_come_back_bit_for_bit(bundle, market):
    saved = pd.read_parquet(bundle / FILES.predictions)
    for symbol, frame in market.items():
        own = CryptoPricePredictorV1Final.from_directory(bundle, symbol=symbol)
        rows = saved[saved["symbol"] == symbol].set_index("timestamp")
        served = own.predict_history(frame).set_index("timestamp").loc[rows.index]
        assert len(rows) > 50
        for ours, theirs in (
            ("predicted_return", "lstm"),
            *((name, name) for name in ("q10", "q50", "q90", "p_up")),
        ):
            assert np.array_equal(served[ours].to_numpy(), rows[theirs].to_numpy())


def test_predict_and_predict_batch_equal_the_history_bit_for_bit(predictor, market):
    frame = market["ETH/USDT"]
    history = predictor.predict_history(frame)
    ends = (540, 700, len(frame))
    batch = predictor.predict_batch([frame.iloc[:end] for end in ends])
    for end, prediction in zip(ends, batch):
        row = history.iloc[end - 60]
        assert row["timestamp"] == frame["timestamp"].iloc[end - 1]
        assert prediction["return"] == row["predicted_return"]
        assert prediction["p_up"] == row["p_up"]
        assert prediction["price_low"] == frame["close"].iloc[end - 1] * np.exp(row["q10"])
        assert prediction == predictor.predict(frame.iloc[:end])
    assert predictor.required_candles == 60 + V1_FINAL_WARMUP


def test_the_price_is_what_the_network_says_in_the_coin_s_own_units(bundle, predictor, market):
    frame = market["ETH/USDT"]
    rows = predictor._scale(predictor._features(frame))
    scaled_price = predictor._network.run(rows, np.array([len(frame) - 1]))
    y_scaler = pickle.loads((bundle / FILES.scalers).read_bytes())["y"]["ETH/USDT"]
    expected = y_scaler.inverse_transform(scaled_price[:, None].astype(np.float64))[0, 0]
    assert predictor.predict(frame)["price"] == pytest.approx(expected, rel=1e-12)


def test_another_last_price_changes_the_return_but_not_the_price(predictor, market):
    frame = market["ETH/USDT"]
    usual, other = (
        predictor.predict(frame),
        predictor.predict(frame, last_price=2 * frame["close"].iloc[-1]),
    )
    assert other["price"] == pytest.approx(
        usual["price"], rel=1e-12
    )  # a level does not depend on where it is seen from
    assert other["return"] == pytest.approx(usual["return"] - np.log(2), rel=1e-9)
    assert other["price_low"] == pytest.approx(usual["price_low"], rel=1e-12)


def test_nothing_looks_ahead_from_candles_to_forecasts(predictor, market):
    def forecasts(frame):
        history = predictor.predict_history(frame).set_index("timestamp")
        return history.reindex(frame["timestamp"]).reset_index(drop=True)

    leakage.check(forecasts, market["ETH/USDT"])


def test_a_pair_the_network_has_not_seen_is_refused(bundle):
    with pytest.raises(
        ValueError,
        match=r"symbol is 'SOL/USDT'; this model knows the price levels of BTC/USDT, ETH",
    ):
        CryptoPricePredictorV1Final.from_directory(bundle, symbol="SOL/USDT")
    with pytest.raises(ValueError, match="symbol is None; .*pass one of these"):
        CryptoPricePredictorV1Final.from_directory(bundle)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("y", {}, "the scalers of ETH/USDT are missing or of another kind"),
        ("X", {"ETH/USDT": [1.0]}, "'X' is .1.0., not a scaler"),
        ("X", 1.0, "'X' is 1.0, not a usable dict"),
        ("feature_cols", ["funding_rate"], "'X' has 14 columns, not 1"),
        ("lookback", 30, r"takes windows of shape \(60, 14\)"),
    ],
)
def test_a_scaler_file_with_wrong_content_is_refused(bundle, tmp_path, key, value, message):
    scalers = pickle.loads((bundle / FILES.scalers).read_bytes())
    (tmp_path / FILES.scalers).write_bytes(pickle.dumps({**scalers, key: value}, protocol=4))
    shutil.copy(bundle / FILES.model, tmp_path)
    with pytest.raises(ValueError, match=message):
        CryptoPricePredictorV1Final.from_directory(tmp_path, symbol="ETH/USDT")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symbols": ("SOL/USDT",)}, r"SOL/USDT: no SOLUSDT_1h.parquet or SOLUSDT_1h.csv"),
        ({"epochs": 0}, "epochs is 0"),
        ({"dense_units": (8, 8, 0, 8)}, "number of units is 0"),
        ({"train_ratio": 0.9, "val_ratio": 0.2}, "train_ratio . val_ratio is 1.1"),
        ({"train_end": "2024-12-01"}, "needs both --train-end and --val-end"),
    ],
)
def test_bad_settings_are_value_errors(candles_dir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_v1_final.main(
            replace(TINY, **{"candles_dir": candles_dir, "output_dir": tmp_path, **changes})
        )


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_end(candles_dir, tmp_path, monkeypatch):
    config = replace(TINY, candles_dir=candles_dir, output_dir=tmp_path / "ours")

    def train(config):
        with networks.bare():
            train_v1_final.main(config, build=networks.for_v1_final)

    train(replace(config, output_dir=tmp_path / "whole"))

    def interrupt(epoch, logs, **_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipeline.terminal.tell_epoch", interrupt)
        train(config)
    train(replace(config, resume=True))
    for name in (FILES.metrics, FILES.predictions):
        assert (config.output_dir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_one_coin_of_synthetic_candles_makes_no_claim_and_needs_no_symbol(tmp_path, capsys):
    config = replace(TINY, symbols=("BTC/USDT",), source="synthetic", output_dir=tmp_path, epochs=1)
    metrics = train_v1_final.main(config, build=networks.for_v1_final)
    assert metrics["test"]["verdict"] == "NO CLAIM (synthetic data)"
    assert "SYNTHETIC CANDLES" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="trained on synthetic candles"):
        assert CryptoPricePredictorV1Final.from_directory(tmp_path).symbol == "BTC/USDT"


@pytest.mark.slow
def test_the_command_explains_every_option_and_ends_bad_ones_in_one_line():
    def run(*arguments):
        command = [sys.executable, "-m", "generations.v1_final.train_v1_final", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    text = run("--help").stdout
    for option in (
        "--candles-dir",
        "--symbols",
        "--candles",
        "--epochs",
        "--output-dir",
        "--resume",
        "--lstm-units",
    ):
        assert option in text
    result = run("--epochs", "0")
    assert (result.returncode, result.stderr) == (2, "error: epochs is 0; pass at least 1\n")


@pytest.mark.slow
def test_on_real_candles_a_network_of_price_levels_loses_to_no_change(real_data, tmp_path, no_twin):
    config = replace(TINY, candles_dir=real_data / "binanceusdm", candles=1500, output_dir=tmp_path)
    test = train_v1_final.main(config)["test"]
    assert test["models"]["naive"]["mape_percent"] < 0.5
    assert test["models"]["lstm"]["mape_percent"] > 2 * test["models"]["naive"]["mape_percent"]
    assert {entry["verdict"] for entry in test["verdicts"]} == {"LOSES"}
