"""v7 end to end: a grid of networks that a kill cannot hurt, and a predictor that says the same."""

import itertools
import json
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import TRADING_PAIRS, V7_PAIRS, ConfigV7
from generations.v7 import train_v7_main
from generations.v7.features import V7_FEATURES, V7_WARMUP
from generations.v7.inference import CryptoPricePredictorV7
from generations.v7.networks import METADATA, all_files, network_files, open_grid
from generations.v7.ohlc import HEADS
from pipeline.bundle import files
from pipeline.bundle.scalers import load_scalers
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_market
from pipeline.samples import leakage
from tests import networks

ROOT = Path(__file__).resolve().parents[1]
SYMBOLS = ("BTC/USDT", "ETH/USDT", "XRP/USDT", "LTC/USDT")
TINY = ConfigV7(
    symbols=SYMBOLS,
    candles=560,
    epochs=3,
    learning_rate=0.01,
    lstm_units=(5, 4, 3),
    dense_units=(5, 4),
    own_process=False,
)
NAMES = ["BTCUSDT_15m", "BTCUSDT_1h", "ETHUSDT_1h"]


@pytest.fixture(scope="module")
def market():
    """A martingale: nothing in it can be forecast."""
    return synthetic_market(SYMBOLS[:2], "1h", 560 + V7_WARMUP, seed=4)


@pytest.fixture(scope="module")
def candles_dir(market, tmp_path_factory):
    """BTC whole; ETH without 15m; XRP too short; LTC damaged."""
    folder = tmp_path_factory.mktemp("candles")
    for symbol, frame in market.items():
        write_candles(frame, folder, symbol, "1h")
    write_candles(
        synthetic_market(["BTC/USDT"], "15m", 560 + V7_WARMUP, seed=4)["BTC/USDT"],
        folder,
        "BTC/USDT",
        "15m",
    )
    write_candles(market["ETH/USDT"].iloc[:600], folder, "XRP/USDT", "1h")
    (folder / "LTCUSDT_1h.parquet").write_bytes(b"PAR1 and nothing else")
    return folder


@pytest.fixture(scope="module")
def networks_folder(candles_dir, tmp_path_factory):
    """ETH's network is the real one; BTC's two are of one layer, which nothing here could tell."""
    output, built = tmp_path_factory.mktemp("v7"), itertools.count(1)

    def build(config, n_features):
        is_last = next(built) == len(NAMES)
        make = train_v7_main.build_network if is_last else networks.for_v7
        return make(config, n_features)

    train_v7_main.main(replace(TINY, candles_dir=candles_dir, output_dir=output), build=build)
    return output


@pytest.fixture(scope="module")
def predictor(networks_folder):
    return CryptoPricePredictorV7.from_directory(networks_folder, symbol="ETH/USDT")


@pytest.fixture
def copied(networks_folder, tmp_path):
    shutil.copytree(networks_folder, tmp_path / "v7")
    return tmp_path / "v7"


# The run


def test_a_run_leaves_three_files_a_network_and_says_who_is_left_out_and_why(networks_folder):
    expected = {file for name in NAMES for file in all_files(name)}
    expected |= {METADATA, "metrics_v7.json", "training_log_v7.txt"}
    expected |= {"predictions_v7_15m.parquet", "predictions_v7_1h.parquet"}
    expected |= {"report_v7_15m.html", "report_v7_1h.html"}
    assert {path.name for path in networks_folder.iterdir()} == expected
    metadata = json.loads((networks_folder / METADATA).read_text())
    assert sorted(metadata["jobs"]) == NAMES
    assert metadata["run"]["started"] and metadata["run"]["version"]
    skipped = metadata["skipped"]
    assert "no ETHUSDT_15m.parquet" in skipped["ETHUSDT_15m"]
    assert "66 samples in 600 candles are too few" in skipped["XRPUSDT_1h"]
    assert "LTCUSDT_1h" in skipped["LTCUSDT_1h"]
    for name in NAMES:
        for file, sha in metadata["jobs"][name]["files"].items():
            assert files.sha256_of(networks_folder / file) == sha


def test_the_metadata_has_mse_mae_and_mape_of_each_price_beside_naive(networks_folder):
    entry = json.loads((networks_folder / METADATA).read_text())["jobs"]["ETHUSDT_1h"]
    rows = pd.read_parquet(networks_folder / "predictions_v7_1h.parquet")
    rows = rows[rows["symbol"] == "ETH/USDT"]
    for model in ("lstm", "naive"):
        for head in HEADS:
            error = rows[f"{model}_{head}"] - rows[f"actual_{head}"]
            assert entry["heads"][model][head] == pytest.approx(
                {
                    "mse": (error**2).mean(),
                    "mae": error.abs().mean(),
                    "mape_percent": 100 * (error.abs() / rows[f"actual_{head}"]).mean(),
                }
            )
    assert entry["n"] == len(rows)
    assert entry["split"]["val"]["last"] < entry["split"]["test"]["first"]
    close = rows["base_price"] * np.exp(rows["lstm"])
    assert close.to_numpy() == pytest.approx(rows["lstm_close"].to_numpy(), rel=1e-12)


def test_on_martingales_no_network_beats_anything(networks_folder):
    metadata = json.loads((networks_folder / METADATA).read_text())
    metrics = json.loads((networks_folder / "metrics_v7.json").read_text())
    tests = [*metadata["jobs"].values(), *(scores["test"] for scores in metrics.values())]
    assert len(tests) == 5
    for test in tests:
        assert test["verdict"] == "NO EDGE"
        assert all(entry["verdict"] != "BEATS" for entry in test["verdicts"])


def test_the_report_shows_the_four_prices_and_a_curve_for_each_network(networks_folder):
    page = (networks_folder / "report_v7_1h.html").read_text(encoding="utf-8")
    assert "<h1>v7 on BTC/USDT, ETH/USDT</h1>" in page
    assert "The four prices of the next candle" in page
    assert "Loss by epoch, BTC/USDT" in page and "Loss by epoch, ETH/USDT" in page


@pytest.mark.slow
def test_the_document_s_own_lines_run_in_a_process_that_never_saw_this_project(
    networks_folder, predictor, market, tmp_path
):
    for name in network_files("ETHUSDT_1h"):
        shutil.copy(networks_folder / name, tmp_path)
    frame = market["ETH/USDT"]
    x = predictor._scale(predictor._features(frame))[-60:][None]
    np.save(tmp_path / "x.npy", np.concatenate([x, x]))
    code = """
import pickle
import tensorflow as tf
import numpy as np

X_test = np.load("x.npy")
model = tf.keras.models.load_model('ETHUSDT_1h_v7.h5')
predictions = model.predict(X_test)

open_pred = predictions[0]
close_pred = predictions[1]
high_pred = predictions[2]
low_pred = predictions[3]

scaler_y = pickle.load(open("ETHUSDT_1h_v7_scalers.pkl", "rb"))["y"]
predicted = (open_pred, close_pred, high_pred, low_pred)
print(model.input_shape, *(float(scaler_y.inverse_transform(p)[0, 0]) for p in predicted))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shape, prices = done.stdout.splitlines()[-1].rsplit(")", 1)
    assert shape == "(None, 60, 13"
    served = predictor.predict(frame)
    assert [float(price) for price in prices.split()] == pytest.approx(
        [served[head] for head in HEADS], rel=1e-6
    )


# The predictor


def test_the_forecasts_of_the_test_part_come_back_bit_for_bit(networks_folder, predictor, market):
    saved = pd.read_parquet(networks_folder / "predictions_v7_1h.parquet")
    rows = saved[saved["symbol"] == "ETH/USDT"].set_index("timestamp")
    served = predictor.predict_history(market["ETH/USDT"]).set_index("timestamp").loc[rows.index]
    assert len(rows) > 80
    pairs = {"predicted_return": "lstm", "q10": "q10", "p_up": "p_up"}
    pairs |= {head: f"lstm_{head}" for head in HEADS}
    for ours, theirs in pairs.items():
        assert np.array_equal(served[ours].to_numpy(), rows[theirs].to_numpy()), ours


def test_predict_and_predict_batch_equal_the_history_bit_for_bit(predictor, market):
    frame = market["ETH/USDT"]
    history = predictor.predict_history(frame)
    ends = (540, 700, len(frame))
    for end, prediction in zip(ends, predictor.predict_batch([frame.iloc[:end] for end in ends])):
        row = history.iloc[end - 60]
        assert prediction["return"] == row["predicted_return"]
        assert [prediction[head] for head in HEADS] == [row[head] for head in HEADS]
        assert prediction["price"] == prediction["close"]
        assert prediction["low"] <= min(prediction["open"], prediction["close"])
        assert prediction["high"] >= max(prediction["open"], prediction["close"])
        assert prediction == predictor.predict(frame.iloc[:end])
    assert predictor.required_candles == 60 + V7_WARMUP
    assert len(predictor.plot(frame).axes) == 2  # prices and volume


def test_another_last_price_changes_the_return_but_not_the_candle(predictor, market):
    frame = market["ETH/USDT"]
    usual, other = (
        predictor.predict(frame),
        predictor.predict(frame, last_price=2 * frame["close"].iloc[-1]),
    )
    assert [other[head] for head in HEADS] == [usual[head] for head in HEADS]
    assert other["return"] == pytest.approx(usual["return"] - np.log(2), rel=1e-9)


def test_nothing_looks_ahead_from_candles_to_forecasts(predictor, market):
    def forecasts(frame):
        history = predictor.predict_history(frame).set_index("timestamp")
        return history.reindex(frame["timestamp"]).reset_index(drop=True)

    leakage.check(forecasts, market["ETH/USDT"])


def test_sixty_candles_are_enough_with_a_warning_and_missing_values_become_the_training_mean(
    predictor, market
):
    frame = market["ETH/USDT"].iloc[-60:]
    with pytest.warns(UserWarning, match="still warming up"):
        assert np.isfinite(predictor.predict(frame)["price"])
    rows = predictor._scale(predictor._features(frame))
    macd = V7_FEATURES.index("macd")
    assert rows[0, macd] == np.float32(predictor._fill[macd]) != 0


def test_a_forecast_without_volume_says_so_and_takes_the_training_mean(predictor, market):
    silent = market["ETH/USDT"].assign(volume=0.0)
    told = "the forecast does without volume; pass candles with traded volumes"
    with pytest.warns(UserWarning, match=told):
        prediction = predictor.predict(silent)
    assert prediction["missing_inputs"] == ["volume"]
    volume = V7_FEATURES.index("volume")
    assert predictor._scale(predictor._features(silent))[-1, volume] == np.float32(
        predictor._fill[volume]
    )
    assert prediction["low"] <= prediction["close"] <= prediction["high"]


def test_a_pair_or_timeframe_without_a_network_is_named_with_what_there_is(networks_folder):
    with pytest.raises(
        FileNotFoundError,
        match=r"no network of ETH/USDT and 15m; .* BTCUSDT_15m, BTCUSDT_1h, ETHUSDT",
    ):
        CryptoPricePredictorV7.from_directory(networks_folder, symbol="ETH/USDT", timeframe="15m")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fill", [0.5], "not those of one pair's 13 inputs"),
        ("fill", [float("nan")] * 13, "not those of one pair's 13 inputs"),
        ("symbols", ["BTC/USDT", "ETH/USDT"], "not those of one pair's 13 inputs"),
        ("X", 1.0, "'X' is 1.0, not a usable MinMaxRecord"),
        ("model_sha256", "0" * 64, "belong to another model"),
        ("lookback", 30, r"takes windows of shape \(60, 13\)"),
    ],
)
def test_a_scaler_file_with_wrong_content_is_refused(copied, key, value, message):
    path = copied / "BTCUSDT_1h_v7_scalers.pkl"
    path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), key: value}, protocol=4))
    with pytest.raises(ValueError, match=message):
        CryptoPricePredictorV7.from_directory(copied)


# Kills, damage, bad input


def test_a_damaged_metadata_file_costs_nothing(copied, candles_dir, market, capsys, monkeypatch):
    whole = json.loads((copied / METADATA).read_text())["jobs"]
    (copied / METADATA).write_text('{"jobs": {"BTCUSDT_1h"')
    served = CryptoPricePredictorV7.from_directory(copied, symbol="ETH/USDT").predict(
        market["ETH/USDT"]
    )
    assert served["low"] <= served["close"]
    (copied / "BTCUSDT_15m_v7.h5").write_bytes(b"half")
    with pytest.raises(ValueError, match="nothing to resume"):
        train_v7_main.main(replace(TINY, candles_dir=candles_dir, output_dir=copied, resume=True))
    shown = capsys.readouterr().out
    assert "metadata_v7.json is damaged; it is written again from 2 scaler files" in shown
    assert "BTCUSDT_15m is left out of metadata_v7.json" in shown
    again = json.loads((copied / METADATA).read_text())["jobs"]
    assert again == {name: whole[name] for name in ("BTCUSDT_1h", "ETHUSDT_1h")}


def test_a_folder_of_before_has_no_keras_files_and_is_served_all_the_same(copied, market):
    for path in copied.glob("*.keras"):
        path.unlink()
    (copied / files.PARTIAL).mkdir()
    records = open_grid(copied).records
    assert {name: set(record["files"]) for name, record in records.items()} == {
        name: set(network_files(name)) for name in NAMES
    }
    predictor = CryptoPricePredictorV7.from_directory(copied, symbol="ETH/USDT")
    assert predictor.predict(market["ETH/USDT"])["low"] > 0


@pytest.mark.slow
def test_a_run_that_was_cut_off_resumes_to_the_same_end_and_repeats_no_finished_network(
    candles_dir, tmp_path_factory, tmp_path, monkeypatch
):
    config = replace(TINY, candles_dir=candles_dir, output_dir=tmp_path, symbols=("BTC/USDT",))
    whole = tmp_path_factory.mktemp("whole")

    def train(config):
        with networks.bare():
            train_v7_main.main(config, build=networks.for_v7)

    train(replace(config, output_dir=whole))
    epochs = []

    def interrupt(epoch, logs, **_):
        epochs.append(epoch)
        if len(epochs) == 5:  # in the second network
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipeline.terminal.tell_epoch", interrupt)
        train(config)
    assert {path.name for path in tmp_path.glob("*_v7*")} == {*all_files("BTCUSDT_15m"), METADATA}
    assert list(json.loads((tmp_path / METADATA).read_text())["jobs"]) == ["BTCUSDT_15m"]
    first = (tmp_path / "BTCUSDT_15m_v7.h5").stat().st_mtime_ns
    train(replace(config, resume=True))
    assert (tmp_path / "BTCUSDT_15m_v7.h5").stat().st_mtime_ns == first
    for name in ("predictions_v7_1h.parquet", "predictions_v7_15m.parquet", "metrics_v7.json"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert not (tmp_path / ".partial").exists()


@pytest.mark.slow
@pytest.mark.soak
def test_a_run_that_is_killed_leaves_no_half_written_file_and_goes_on(candles_dir, tmp_path):
    def start(*more):
        command = [sys.executable, "-m", "generations.v7.train_v7_main", *more]
        command += ["--candles-dir", str(candles_dir), "--output-dir", str(tmp_path)]
        command += "--symbols BTC/USDT --candles 560 --epochs 2".split()
        command += "--lstm-units 5 4 3 --dense-units 5 4".split()
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    with start() as run:
        for line in run.stdout:
            if "[2/2]" in line:
                break
        run.send_signal(signal.SIGKILL)
    time.sleep(0.5)  # the network's own process ends with its parent
    done = {path.name for path in tmp_path.glob("*_v7*")}
    assert done == {*all_files("BTCUSDT_15m"), METADATA}
    assert CryptoPricePredictorV7.from_directory(tmp_path, timeframe="15m").symbol == "BTC/USDT"
    with start("--resume") as resumed:
        shown, _ = resumed.communicate()
    assert resumed.returncode == 0, shown
    assert "finished already: 1 network\n" in shown and "[1/2]" not in shown.replace("[1/3]", "")
    assert (tmp_path / "BTCUSDT_1h_v7.h5").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"symbols": ("SOL/USDT",)}, r"no candles for any of 1 pairs: SOL/USDT: no SOLUSDT_1"),
        (
            {"symbols": ("XRP/USDT",)},
            r"no network could be trained; the first reason: .*XRPUSDT_15m",
        ),
        ({"epochs": 0}, "epochs is 0"),
        ({"dense_units": (8, 0)}, "number of units is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"timeframes": ()}, "number of timeframes is 0"),
        ({"timeframes": ("1h", "1x")}, "unknown timeframe '1x'"),
        ({"train_ratio": 0.9, "val_ratio": 0.2}, "train_ratio . val_ratio is 1.1"),
        ({"candles_dir": Path("nowhere")}, "nowhere: there is no such directory"),
    ],
)
def test_bad_settings_are_value_errors(candles_dir, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train_v7_main.main(
            replace(TINY, **{"candles_dir": candles_dir, "output_dir": tmp_path, **changes})
        )


def test_all_means_the_document_s_20_coins():
    assert len(V7_PAIRS) == 20 and set(TRADING_PAIRS) - set(V7_PAIRS) == {"DOT/USDT", "ATOM/USDT"}


def test_a_later_run_of_one_coin_keeps_the_others_in_the_metadata(copied, candles_dir):
    before = load_scalers(copied / "BTCUSDT_1h_v7_scalers.pkl")["record"]
    config = replace(
        TINY, candles_dir=candles_dir, output_dir=copied, symbols=("ETH/USDT",), timeframes=("1h",)
    )
    with networks.bare():
        train_v7_main.main(replace(config, epochs=1), build=networks.for_v7)
    jobs = json.loads((copied / METADATA).read_text())["jobs"]
    assert sorted(jobs) == NAMES
    assert jobs["BTCUSDT_1h"]["predictions_sha256"] == before["predictions_sha256"]
    assert len(jobs["ETHUSDT_1h"]["history"]["loss"]) == 1


@pytest.mark.slow
def test_on_real_candles_a_network_of_price_levels_loses_to_no_change(real_data, tmp_path):
    config = replace(
        TINY,
        symbols=("BTC/USDT",),
        timeframes=("1h",),
        candles_dir=real_data / "binance",
        candles=1500,
        output_dir=tmp_path,
    )
    test = train_v7_main.main(config)["1h"]["test"]
    assert test["models"]["naive"]["mape_percent"] < 0.5
    assert {entry["verdict"] for entry in test["verdicts"]} == {"LOSES"}
