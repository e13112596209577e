"""v9 end to end: three models, their bundle and results, and a predictor that says the same."""

import json
import pickle
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import ConfigV9
from generations.v9 import btc_1h_v9_training
from generations.v9.features import V9_FEATURES, V9_WARMUP
from generations.v9.inference import (
    DIRECTION_FILE,
    FILES,
    RESULTS_FILE,
    VOLATILITY_FILE,
    CryptoPricePredictorV9,
)
from generations.v9.model_scores import qlike
from pipeline.bundle import files
from pipeline.bundle.scalers import load_scalers
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_market
from pipeline.forecasts.baselines import BASELINE_NAMES
from pipeline.samples import leakage
from tests import networks

ROOT = Path(__file__).resolve().parents[1]
TINY = ConfigV9(
    candles=900,
    epochs=3,
    learning_rate=0.01,
    direction_learning_rate=0.01,
    direction_lstm_units=(4, 3),
    direction_dense_units=(4, 3),
    attention_heads=2,
    price_lstm_units=(4, 3),
    price_dense_units=(4, 3, 3),
    trees=20,
    tree_depth=3,
    dropout=0.1,
)
DOCUMENT_KEYS = {
    "direction_metrics": {"accuracy", "precision", "recall", "f1", "roc_auc"},
    "volatility_metrics": {"rmse", "mae", "mape", "r2"},
    "price_metrics": {"rmse", "mae", "mape", "r2"},
}


@pytest.fixture(scope="module")
def candles():
    """A martingale: no direction and no return in it can be forecast."""
    return synthetic_market(("BTC/USDT",), "1h", 900 + V9_WARMUP, seed=4)["BTC/USDT"]


@pytest.fixture(scope="module")
def candles_dir(candles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("candles")
    write_candles(candles, folder, "BTC/USDT", "1h")
    return folder


@pytest.fixture(scope="module")
def bundle(candles_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    btc_1h_v9_training.main(replace(TINY, candles_dir=candles_dir, output_dir=folder))
    return folder


@pytest.fixture(scope="module")
def predictor(bundle):
    return CryptoPricePredictorV9.from_directory(bundle)


def train(config, **changes):
    """A run with networks of one layer, for what does not depend on them."""
    with networks.bare():
        return btc_1h_v9_training.main(
            replace(config, **changes),
            build_direction=networks.for_v9_direction,
            build_price=networks.for_v9_price,
        )


@pytest.fixture(scope="module")
def plain_bundle(candles_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    train(TINY, candles_dir=candles_dir, output_dir=folder)
    return folder


# The networks


def lstm(n_in, units):
    return 4 * ((n_in + units) * units + units)


def test_the_networks_have_the_document_s_layers():
    from models.multitask import build_direction, build_price

    direction, price = build_direction(60, 46), build_price(60, 46)
    assert direction.input_shape == price.input_shape == (None, 60, 46)
    assert direction.output_shape == price.output_shape == (None, 1)
    recurrent = 2 * lstm(46, 128) + 2 * lstm(256, 64)
    attention = 4 * (128 * 128 + 128)  # queries, keys, values and output: 4 heads of 32
    dense = (128 * 128 + 128) + (128 * 64 + 64) + (64 + 1)
    assert direction.count_params() == recurrent + attention + 4 * 128 + dense
    dense = (128 * 256 + 256) + (256 * 128 + 128) + (128 * 64 + 64) + (64 + 1)
    assert price.count_params() == lstm(46, 256) + lstm(256, 128) + dense + 4 * (256 + 128 + 64)
    kinds = {type(layer).__name__ for layer in direction.layers}
    assert {"Bidirectional", "MultiHeadAttention", "Dense"} <= kinds
    assert "BatchNormalization" in {type(layer).__name__ for layer in price.layers}
    for model in (direction, price):
        assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
        settings = [layer.get_config() for layer in model.layers]
        inner = [s.get("layer", {}).get("config", s) for s in settings]
        for config in (s for s in inner if "recurrent_activation" in s):
            assert (config["activation"], config["recurrent_activation"]) == ("tanh", "sigmoid")
            assert config["recurrent_dropout"] == 0.0
            assert config["use_bias"] and not config["unroll"]


@pytest.mark.slow
def test_before_training_the_networks_say_what_costs_nothing():
    from models.multitask import build_direction, build_price

    x = np.random.default_rng(0).uniform(size=(3, 60, 46)).astype(np.float32)
    assert np.asarray(build_direction(60, 46)(x)).tolist() == [[0.5]] * 3
    assert np.asarray(build_price(60, 46)(x)).tolist() == [[0.0]] * 3


# The run


def test_a_run_leaves_the_document_s_files_and_their_hashes(bundle):
    assert {path.name for path in bundle.iterdir()} | {FILES.twin} == {
        *FILES.bundle,
        FILES.metadata,
    }
    documented = {"direction_model_v9.h5", "volatility_model_v9.json", "price_model_v9.h5"}
    documented |= {"v9_results.json", "training.log", "scalers_v9.pkl"}
    assert documented <= {path.name for path in bundle.iterdir()}
    metadata = json.loads((bundle / FILES.metadata).read_text())
    assert set(metadata["files"]) | {FILES.twin} == {*FILES.hashed, *FILES.optional}
    for name, sha in metadata["files"].items():
        assert files.sha256_of(bundle / name) == sha
    assert metadata["feature_cols"] == list(V9_FEATURES)
    page = (bundle / FILES.report).read_text(encoding="utf-8")
    assert "<h1>v9 on BTC/USDT" in page and "Direction, volatility, and their combination" in page


def test_the_results_have_the_document_s_keys_and_the_baselines_beside_them(bundle):
    results = json.loads((bundle / RESULTS_FILE).read_text())
    assert (results["pair"], results["timeframe"]) == ("BTCUSDT", "1h")
    assert pd.Timestamp(results["timestamp"]) <= pd.Timestamp.now("UTC")
    for name, keys in DOCUMENT_KEYS.items():
        assert keys <= set(results[name])
    assert set(results["direction_metrics"]["baselines"]) == {"majority", "last_move", "logistic"}
    assert set(results["volatility_metrics"]["baselines"]) == {"ewma", "har"}
    assert list(results["price_metrics"]["baselines"]) == [*BASELINE_NAMES]
    metrics = json.loads((bundle / FILES.metrics).read_text())
    assert results["price_metrics"] == metrics["price"]
    log = (bundle / FILES.log).read_text()
    names = (
        "bilstm",
        "last_move",
        "QLIKE",
        "volatility: xgboost against har",
        "price: combined against lstm",
    )
    names += ("interval: combined against lstm",)
    for text in ("[10/10] Evaluate", *names):
        assert text in log, text
    assert "VERDICT" in log.split("═" * 100)[-2]  # between the last two rules


def test_the_metrics_agree_with_the_saved_predictions(bundle):
    metrics = json.loads((bundle / FILES.metrics).read_text())
    rows = pd.read_parquet(bundle / FILES.predictions)
    moved = rows[(rows["actual_return"] != 0) & (rows["direction"] != 0.5)]
    hits = (moved["direction"] > 0.5) == (moved["actual_return"] > 0)
    assert metrics["direction"]["accuracy"] == pytest.approx(hits.mean())
    actual = rows["base_price"] * np.exp(rows["actual_return"])
    error = actual - rows["base_price"] * np.exp(rows["lstm"])
    assert metrics["price"]["rmse"] == pytest.approx(np.sqrt((error**2).mean()))
    assert metrics["price"]["mape_percent"] == pytest.approx(100 * (error.abs() / actual).mean())
    assert metrics["price"]["r2"] == pytest.approx(
        1 - (error**2).sum() / ((actual - actual.mean()) ** 2).sum()
    )
    naive = metrics["price"]["baselines"]["naive"]
    assert naive["mae"] == pytest.approx((actual - rows["base_price"]).abs().mean())
    known = rows.dropna(subset="volatility_realised")
    assert len(known) == len(rows) - 23  # the last 23 horizons end after the test part
    loss = qlike(known["volatility_realised"] ** 2, known["volatility_forecast"] ** 2)
    assert metrics["volatility"]["qlike"] == pytest.approx(loss.mean())


def test_the_realised_volatility_is_that_of_the_24_candles_after_t(bundle, candles):
    rows = pd.read_parquet(bundle / FILES.predictions).dropna(subset="volatility_realised")
    log_return = np.log(candles["close"]).diff().to_numpy()
    for index in (0, 50, len(rows) - 1):
        t = int(np.flatnonzero(candles["timestamp"] == rows["timestamp"].iloc[index])[0])
        expected = np.sqrt(np.sum(log_return[t + 1 : t + 25] ** 2))
        assert rows["volatility_realised"].iloc[index] == pytest.approx(expected, rel=1e-9)


def test_on_a_martingale_neither_direction_nor_price_beats_anything(bundle):
    metrics = json.loads((bundle / FILES.metrics).read_text())
    assert metrics["test"]["verdict"] == "NO EDGE"
    for model in ("direction", "price", "combined"):
        assert all(entry["verdict"] != "BEATS" for entry in metrics[model]["verdicts"]), model


@pytest.mark.slow
def test_the_document_s_own_lines_open_the_models_in_a_process_that_never_saw_this_project(
    bundle, predictor, candles, tmp_path
):
    for name in (DIRECTION_FILE, VOLATILITY_FILE, FILES.model, FILES.checkpoint):
        shutil.copy(bundle / name, tmp_path)
    x = predictor._scale(predictor._features(candles))[-60:][None]
    np.save(tmp_path / "x.npy", np.concatenate([x] * 16))
    code = """
import tensorflow as tf
import xgboost as xgb

# Load direction model
dir_model = tf.keras.models.load_model('direction_model_v9.h5')

# Load volatility model
vol_model = xgb.XGBRegressor()
vol_model.load_model('volatility_model_v9.json')

# Load price model
price_model = tf.keras.models.load_model('price_model_v9.h5')

import numpy as np
X_new = np.load("x.npy")
X_new_2d = X_new.reshape(len(X_new), -1)
dir_prob = dir_model.predict(X_new, verbose=0)
vol_pred = vol_model.predict(X_new_2d)  # Flattened for XGBoost
price_pred = price_model.predict(X_new, verbose=0)
ensemble_output = {'direction': dir_prob, 'volatility': vol_pred, 'price': price_pred}
tf.keras.models.load_model('best_price_model_v9.h5')
print(dir_model.input_shape, price_model.input_shape, X_new_2d.shape)
print(*(float(np.ravel(value)[0]) for value in ensemble_output.values()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shapes, numbers = done.stdout.splitlines()
    assert shapes == "(None, 60, 46) (None, 60, 46) (16, 2760)"
    p_up, ratio, output = map(float, numbers.split())
    prediction = predictor.predict(candles)
    assert prediction["direction"] == pytest.approx(p_up, rel=1e-5)
    last = np.array([len(candles) - 1])
    har = predictor._har.variance(
        predictor._inputs(candles, predictor._volatility(candles), last)[:, -3:]
    )[0]
    assert prediction["volatility"] == pytest.approx(np.sqrt(ratio * har), rel=1e-5)
    y_scale = pickle.loads((bundle / FILES.scalers).read_bytes())["y"].scale_[0]
    shrunk = (
        predictor._calibration.shrinkage * output * y_scale * predictor._volatility(candles)[-1]
    )
    assert prediction["return"] == pytest.approx(shrunk, rel=1e-4, abs=1e-9)


# The predictor


def test_the_forecasts_of_the_test_part_come_back_bit_for_bit(bundle, predictor, candles):
    saved = pd.read_parquet(bundle / FILES.predictions).set_index("timestamp")
    served = predictor.predict_history(candles).set_index("timestamp").loc[saved.index]
    same = "q10 q50 q90 p_up direction direction_p_up combined combined_p_up combined_q10"
    pairs = {"predicted_return": "lstm", "volatility": "volatility_forecast"}
    pairs |= {name: name for name in same.split()}
    assert len(saved) > 100
    for ours, theirs in pairs.items():
        assert np.array_equal(served[ours].to_numpy(), saved[theirs].to_numpy()), ours


def test_predict_and_predict_batch_equal_the_history_bit_for_bit(predictor, candles):
    history = predictor.predict_history(candles)
    ends = (800, 1000, len(candles))
    for end, prediction in zip(ends, predictor.predict_batch([candles.iloc[:end] for end in ends])):
        row, close = history.iloc[end - 60], candles["close"].iloc[end - 1]
        assert row["timestamp"] == candles["timestamp"].iloc[end - 1]
        assert prediction == predictor.predict(candles.iloc[:end])
        for name in ("p_up", "direction", "direction_p_up", "volatility", "combined_p_up"):
            assert prediction[name] == row[name]
        assert prediction["price"] == close * np.exp(row["predicted_return"])
        assert prediction["combined_price"] == close * np.exp(row["combined"])
        assert prediction["combined_low"] == close * np.exp(row["combined_q10"])
        assert prediction["combined_low"] < prediction["combined_high"]
        assert 0 < prediction["direction"] < 1 and 0 < prediction["volatility"] < 1
    assert predictor.warm_candles == 60 + 720
    assert predictor.required_candles == 925


def test_a_forecast_from_few_candles_warns_once_and_is_finite(predictor, candles):
    with pytest.warns(UserWarning, match="still warming up") as caught:
        prediction = predictor.predict(candles.iloc[-61:])
    assert len(caught) == 1
    assert all(np.isfinite(value) for value in prediction.values() if isinstance(value, float))


def test_with_a_gap_in_the_candles_all_forecasts_stay_finite(predictor, candles):
    history = predictor.predict_history(pd.concat([candles.iloc[:700], candles.iloc[720:]]))
    assert np.isfinite(history.drop(columns="timestamp")).all(axis=None)


def test_nothing_looks_ahead_from_candles_to_forecasts(predictor, candles):
    def forecasts(frame):
        history = predictor.predict_history(frame).set_index("timestamp")
        return history.reindex(frame["timestamp"]).reset_index(drop=True)

    leakage.check(forecasts, candles)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("X", [1.0], "'X' is .* not a usable MinMaxRecord"),
        ("har", {}, "HAR model: .* train the model again"),
        ("ensemble", {"price_weight": 1.0}, "ensemble: 'direction_shrinkage' is None"),
        (
            "sha256",
            {DIRECTION_FILE: "0"},
            f"{DIRECTION_FILE}: scalers_v9.pkl belongs to another model",
        ),
        ("feature_cols", ["funding_rate"], "'X' has 46 columns, not 1"),
        ("lookback", 30, r"takes windows of shape \(60, 46\)"),
        ("volatility_horizon", 0, "'volatility_horizon' is 0, not a usable int"),
    ],
)
def test_a_scaler_file_with_wrong_content_is_refused(bundle, tmp_path, key, value, message):
    scalers = pickle.loads((bundle / FILES.scalers).read_bytes())
    (tmp_path / FILES.scalers).write_bytes(pickle.dumps({**scalers, key: value}, protocol=4))
    for name in (FILES.model, DIRECTION_FILE, VOLATILITY_FILE):
        shutil.copy(bundle / name, tmp_path)
    with pytest.raises(ValueError, match=message):
        CryptoPricePredictorV9.from_directory(tmp_path)


@pytest.mark.parametrize("name", [DIRECTION_FILE, VOLATILITY_FILE])
def test_a_missing_or_exchanged_model_is_named(bundle, tmp_path, name):
    for other in (FILES.model, FILES.scalers, DIRECTION_FILE, VOLATILITY_FILE):
        shutil.copy(bundle / other, tmp_path)
    (tmp_path / name).write_bytes(b"another model")
    with pytest.raises(ValueError, match=f"{name}: scalers_v9.pkl belongs to another model"):
        CryptoPricePredictorV9.from_directory(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name}: there is no such model file"):
        CryptoPricePredictorV9.from_directory(tmp_path)


# Where the candles come from, and bad settings


def test_the_document_s_own_file_is_read_where_nothing_else_is_asked_for(
    candles, tmp_path, monkeypatch, capsys
):
    """`./data/BTCUSDT_1h.csv` as Binance's klines usually are: more columns, the times in ms."""
    monkeypatch.chdir(tmp_path)
    config = replace(TINY, candles=300)
    assert not btc_1h_v9_training.has_own_files(config)
    (tmp_path / "data").mkdir()
    times = candles["timestamp"].astype("int64") // (
        1 if candles["timestamp"].dt.unit == "ms" else 10**6
    )
    klines = candles.assign(
        timestamp=times, close_time=times + 3_599_999, quote_volume=1.0, trades=5
    )
    klines = klines.rename(columns={"timestamp": "open_time"}).drop(
        columns=["funding_rate", "open_interest"]
    )
    klines.to_csv("data/BTCUSDT_1h.csv", index=False)
    source = btc_1h_v9_training.choose_source(config)
    market = fetch_candles(config.symbols, config.timeframe, 300 + V9_WARMUP, source)
    assert "candles from data/" in capsys.readouterr().out
    assert (market.source, len(market.candles["BTC/USDT"])) == ("directory", 300 + V9_WARMUP)
    read = market.candles["BTC/USDT"]
    assert read["close"].tolist() == candles["close"].tolist()[-300 - V9_WARMUP :]
    elsewhere = ({"exchange": "hub"}, {"source": "synthetic"}, {"candles_dir": Path("x")})
    for other in (*elsewhere, {"timeframe": "4h"}):
        assert not btc_1h_v9_training.has_own_files(replace(config, **other))
    assert not btc_1h_v9_training.has_own_files(replace(config, symbols=("BTC/USDT", "ETH/USDT")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symbols": ("SOL/USDT",)}, r"SOL/USDT: no SOLUSDT_1h.parquet or SOLUSDT_1h.csv"),
        ({"epochs": 0}, "epochs is 0"),
        ({"trees": 0}, "trees is 0"),
        ({"volatility_horizon": 0}, "volatility_horizon is 0"),
        ({"direction_learning_rate": 0.0}, "direction_learning_rate is 0"),
        ({"price_dense_units": (8, 0, 8)}, "number of units is 0"),
        ({"train_ratio": 0.9, "val_ratio": 0.2}, "train_ratio . val_ratio is 1.1"),
        ({"candles": 90}, "part is empty"),
    ],
)
def test_bad_settings_are_value_errors(candles_dir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        btc_1h_v9_training.main(
            replace(TINY, **{"candles_dir": candles_dir, "output_dir": tmp_path, **changes})
        )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["train_direction", "train_price"])
def test_a_run_killed_in_either_network_resumes_to_the_same_end(
    plain_bundle, candles_dir, tmp_path, monkeypatch, model
):
    config = replace(TINY, candles_dir=candles_dir, output_dir=tmp_path)
    whole = getattr(btc_1h_v9_training, model)

    def interrupted(*arguments):
        def interrupt(epoch, logs, **_):
            raise KeyboardInterrupt

        monkeypatch.setattr("pipeline.terminal.tell_epoch", interrupt)
        return whole(*arguments)

    with monkeypatch.context(), pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(btc_1h_v9_training, model, interrupted)
        train(config)
    monkeypatch.undo()
    train(config, resume=True)
    for name in (FILES.metrics, FILES.predictions, VOLATILITY_FILE):
        assert (tmp_path / name).read_bytes() == (plain_bundle / name).read_bytes(), name


@pytest.mark.slow
def test_two_coins_of_synthetic_candles_make_no_claim(tmp_path, capsys):
    config = replace(
        TINY, symbols=("BTC/USDT", "ETH/USDT"), source="synthetic", output_dir=tmp_path, epochs=1
    )
    metrics = train(config)
    assert metrics["test"]["verdict"] == "NO CLAIM (synthetic data)"
    assert "SYNTHETIC CANDLES" in capsys.readouterr().out
    price = metrics["price"]
    assert price["rmse"] is None and set(price["by_symbol"]) == {
        "BTC/USDT",
        "ETH/USDT",
    }  # dollars do not add up
    with pytest.warns(UserWarning, match="trained on synthetic candles"):
        assert CryptoPricePredictorV9.from_directory(tmp_path).symbols == ["BTC/USDT", "ETH/USDT"]


@pytest.mark.slow
def test_the_command_explains_every_option_and_ends_bad_ones_in_one_line():
    def run(*arguments):
        command = [sys.executable, "-m", "generations.v9.btc_1h_v9_training", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    text = run("--help").stdout
    options = "--candles-dir --symbols --candles --epochs --output-dir --resume --trees"
    for option in options.split():
        assert option in text
    result = run("--epochs", "0")
    assert (result.returncode, result.stderr) == (2, "error: epochs is 0; pass at least 1\n")


def test_the_scaler_file_opens_without_scikit_learn(bundle):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_scalers(bundle / FILES.scalers)["volatility_horizon"] == 24
