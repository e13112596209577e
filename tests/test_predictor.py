"""Training and serving compute the same, and what the predictor refuses."""

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

import inference_v2
import train_v2_production
from feature_engineering import V2_WARMUP, compute_features
from inference_v2 import METADATA_FILE, MODEL_FILE, SCALER_FILE, CryptoPricePredictorV2
from pipeline import commands
from pipeline.candles.schema import timestamps_ms
from pipeline.forecasts import predictor as predictor_module
from pipeline.forecasts.baselines import BASELINE_NAMES
from pipeline.forecasts.width import MEMORY
from pipeline.samples import leakage
from tests.conftest import TINY
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def predictor(tiny_bundle):
    return CryptoPricePredictorV2(tiny_bundle / MODEL_FILE, tiny_bundle / SCALER_FILE)


@pytest.fixture(scope="module")
def market(signal_market):
    return signal_market


@pytest.fixture(scope="module")
def candles(market):
    return market["BTC/USDT"]


def test_the_forecasts_of_the_test_part_come_back_bit_for_bit(predictor, tiny_bundle, market):
    saved = pd.read_parquet(tiny_bundle / "predictions_v2.parquet")
    for symbol, frame in market.items():
        history = predictor.predict_history(frame).set_index("timestamp")
        rows = saved[saved["symbol"] == symbol].set_index("timestamp")
        assert rows["lstm"].abs().min() > 0
        served = history.loc[rows.index]
        assert len(rows) > 50
        for ours, theirs in (
            ("predicted_return", "lstm"),
            *((name, name) for name in ("q10", "q50", "q90", "p_up")),
        ):
            assert np.array_equal(served[ours].to_numpy(), rows[theirs].to_numpy())


def test_predict_up_to_t_equals_row_t_of_the_history_bit_for_bit(predictor, candles):
    history = predictor.predict_history(candles)
    assert len(history) == len(candles) - 59
    for t in (59, 60, 107, 300, 700, len(candles) - 1):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # still warming up
            prediction = predictor.predict(candles.iloc[: t + 1])
        row = history.iloc[t - 59]
        assert row["timestamp"] == candles["timestamp"].iloc[t]
        assert prediction["return"] == row["predicted_return"]
        assert prediction["p_up"] == row["p_up"]
        assert prediction["price_low"] == candles["close"].iloc[t] * np.exp(row["q10"])


def test_a_forecast_says_of_what_it_is(predictor, tiny_bundle, candles):
    said = predictor.predict(candles, symbol="ETH/BTC")
    last = candles["timestamp"].iloc[-1]
    assert (said["symbol"], said["quote"], said["venue"]) == ("ETH/BTC", "BTC", None)
    assert (said["timeframe"], said["horizon"]) == ("1h", 1)
    assert said["last_timestamp"] == last
    assert said["target_timestamp"] == said["timestamp"] == last + pd.Timedelta("1h")
    cuts = json.loads((tiny_bundle / "metrics_v2.json").read_text())["cuts"]
    assert said["trained_until"] == pd.Timestamp(cuts["val_end"])

    nobody = predictor.predict(candles.assign())
    assert nobody["symbol"] is nobody["quote"] is None
    known = candles.assign()
    known.attrs = {"symbol": "BTC/USDT", "exchange": "okx"}
    said = predictor.predict(known)
    assert (said["symbol"], said["quote"], said["venue"]) == ("BTC/USDT", "USDT", "okx")


@pytest.mark.parametrize(("since_close_s", "age"), [(0, 0), (3599, 0), (3600, 1), (9000, 2)])
def test_the_age_counts_the_whole_candles_that_have_closed_since(
    predictor, candles, monkeypatch, since_close_s, age
):
    closed_s = candles["timestamp"].iloc[-1].timestamp() + 3600
    monkeypatch.setattr("time.time", lambda: closed_s + since_close_s)
    assert predictor.predict(candles)["age_candles"] == age


def test_a_history_names_both_instants_as_predict_does(predictor, candles):
    history = predictor.predict_history(candles)
    assert history["last_timestamp"].equals(history["timestamp"])
    step = history["target_timestamp"] - history["last_timestamp"]
    assert (step == pd.Timedelta("1h")).all()
    said = predictor.predict(candles)
    for name in ("last_timestamp", "target_timestamp"):
        assert history[name].iloc[-1] == said[name]


def test_a_history_without_an_input_that_the_model_uses_says_so_once(predictor, candles):
    bare = candles.drop(columns=["funding_rate", "open_interest"])
    n_warm = len(candles) - predictor.warm_candles + 1
    with pytest.warns(UserWarning, match=f"^{n_warm} of {n_warm} forecasts: .*2 of 18") as caught:
        predictor.predict_history(bare)
    assert len(caught) == 1


def test_a_forecast_outside_of_its_own_interval_warns():
    inside = {"price": 101.0, "price_low": 98.0, "price_high": 102.0}
    outside = inside | {
        "price": 89.0,
        "return_percent": -11.0,
        "return_low": np.log(0.98),
        "return_high": np.log(1.02),
        "last_timestamp": pd.Timestamp("2024-06-16 11:00", tz="UTC"),
    }
    told = r"forecast of -11.00 % lies outside of its own 80 % interval, -2.00 to \+2.00 %"
    with pytest.warns(UserWarning, match=told):
        predictor_module._warn_of_outsiders([inside, outside])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor_module._warn_of_outsiders([inside])


def test_a_history_that_starts_later_gives_the_same_features_and_forecasts(predictor, candles):
    whole = predictor.predict_history(candles).set_index("timestamp")
    spread = whole["predicted_return"].std()
    feature_spread = compute_features(candles, "1h").std()
    for start in (1, 37, 400):
        cut = candles.iloc[start:]
        later = (
            predictor.predict_history(cut)
            .set_index("timestamp")
            .iloc[predictor.warm_candles - 60 :]
        )
        difference = (
            (later["predicted_return"] - whole.loc[later.index, "predicted_return"]).abs().max()
        )
        assert difference <= 1e-5 * spread
        features = compute_features(cut, "1h").iloc[V2_WARMUP:]
        gap = (features - compute_features(candles, "1h").loc[features.index]).abs().max()
        assert (gap <= 1e-6 * feature_spread).all()


def test_required_candles_are_those_of_the_features_and_of_the_interval_s_width(predictor):
    assert predictor.warm_candles == 60 + V2_WARMUP == 534
    assert predictor.required_candles == V2_WARMUP + MEMORY + 1 == 925


def test_batch_and_single_forecasts_are_the_same_bits(predictor, market):
    frames = [market["BTC/USDT"], market["ETH/USDT"].iloc[:900], market["BTC/USDT"].iloc[100:800]]
    batch = predictor.predict_batch(frames, [100.0, None, 7.0])
    assert [p["last_price"] for p in batch] == [100.0, frames[1]["close"].iloc[-1], 7.0]
    for frame, price, prediction in zip(frames, [100.0, None, 7.0], batch):
        assert predictor.predict(frame, price) == prediction
    assert predictor.predict_batch([]) == []
    with pytest.raises(ValueError, match="3 frames of candles but 1 last prices"):
        predictor.predict_batch(frames, [1.0])
    with pytest.raises(ValueError, match=r"last_prices is 100.0; pass a list"):
        predictor.predict_batch(frames, 100.0)
    with pytest.raises(ValueError, match="frame 1 of 2: 10 candles are too few"):
        predictor.predict_batch([frames[0], frames[1].iloc[:10]])


def test_a_prediction_is_consistent_with_itself(predictor, candles):
    prediction = predictor.predict(candles, last_price=100_000)
    log_return = prediction["return"]
    assert prediction["price"] == pytest.approx(100_000 * np.exp(log_return), rel=1e-12)
    assert prediction["return_percent"] == pytest.approx(
        100 * (np.exp(log_return) - 1), rel=1e-9, abs=1e-12
    )
    assert prediction["price_change"] == pytest.approx(prediction["price"] - 100_000, abs=1e-6)
    assert prediction["confidence"] == max(prediction["p_up"], 1 - prediction["p_up"]) >= 0.5
    assert prediction["price_low"] < prediction["price"] < prediction["price_high"]
    assert prediction["timestamp"] == candles["timestamp"].iloc[-1] + pd.Timedelta(hours=1)
    assert prediction["timestamp"].tzinfo is not None


def test_nothing_looks_ahead_from_candles_to_forecasts(predictor, candles):
    def forecasts(frame):
        history = predictor.predict_history(frame).set_index("timestamp")
        return history.reindex(frame["timestamp"]).reset_index(drop=True)

    leakage.check(forecasts, candles)
    leakage.check(lambda frame: predictor._scale(predictor._features(frame)), candles)


def test_candles_may_come_in_the_shapes_users_have(predictor, candles):
    expected = predictor.predict(candles)
    times = candles["timestamp"]
    milliseconds = candles.assign(timestamp=times.astype("int64"))
    text = candles.assign(timestamp=times.dt.strftime("%Y-%m-%d %H:%M:%S")).rename(
        columns={"timestamp": "date"}
    )
    shuffled_columns = candles[candles.columns[::-1]].assign(trades=1)
    naive = candles.assign(timestamp=times.dt.tz_localize(None)).set_index(
        np.arange(len(candles)) + 7
    )
    for frame in (milliseconds, text, shuffled_columns, naive):
        before = frame.copy()
        assert predictor.predict(frame) == expected
        pd.testing.assert_frame_equal(frame, before)


def test_fewer_than_60_candles_are_refused_with_both_numbers_and_up_to_534_warn_once(
    predictor, candles
):
    with pytest.raises(ValueError, match=r"59 candles are too few: .*60.*534"):
        predictor.predict(candles.iloc[:59])
    with pytest.warns(UserWarning, match=r"only 60 candles .*still warming up.*534") as caught:
        predictor.predict(candles.iloc[-60:])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.predict(candles.iloc[-534:])


def test_a_gap_in_the_window_is_refused_and_one_before_it_is_not(predictor, candles):
    n = len(candles)
    with pytest.raises(
        ValueError,
        match=r"2 candle\(s\) missing among the last 60, first right before .*fetch them",
    ):
        predictor.predict(candles.drop(index=[n - 30, n - 29]))
    assert predictor.predict(candles.drop(index=[n - 61]))  # the window begins right after it
    with pytest.raises(ValueError, match="missing among the last 60"):
        predictor.predict(candles.drop(index=[n - 60 + 1]))
    history = predictor.predict_history(candles.drop(index=[500]))
    assert len(history) == (500 - 59) + (n - 501 - 59)


def test_a_long_gap_starts_the_warm_up_again(predictor, candles):
    with pytest.warns(UserWarning, match="only 100 candles without a long gap"):
        after_gap = predictor.predict(
            candles.drop(index=range(len(candles) - 110, len(candles) - 100))
        )
    with pytest.warns(UserWarning):
        alone = predictor.predict(candles.iloc[-100:])
    assert after_gap == alone


def test_missing_funding_and_open_interest_count_as_their_training_mean(predictor, candles):
    assert predictor.feature_cols[-2:] == ["funding_rate", "open_interest_change"]
    bare = candles.drop(columns=["funding_rate", "open_interest"])
    mean = predictor._x_scaler.mean[-2:]
    at_mean = candles.assign(
        funding_rate=np.float32(mean[0]),
        open_interest=1e9
        * np.exp(np.arange(len(candles)) * mean[1]),  # every change is the training mean
    )
    told = r"does without 2 of 18 inputs \(funding_rate, open_interest_change\); pass candles with "
    with pytest.warns(UserWarning, match=told + "funding_rate and open_interest") as caught:
        without = predictor.predict(bare)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert without["missing_inputs"] == ["funding_rate", "open_interest_change"]
    known = predictor.predict(at_mean)
    assert without["return"] == pytest.approx(known["return"], rel=1e-3, abs=1e-9)
    assert without["return"] != predictor.predict(candles)["return"]
    assert predictor.predict(candles)["missing_inputs"] == known["missing_inputs"] == []


def test_a_candle_that_is_still_forming_is_left_out_with_a_warning(predictor, candles, monkeypatch):
    # The last candle closes in a minute
    now = candles["timestamp"].iloc[-1] + pd.Timedelta(minutes=59)
    monkeypatch.setattr("pipeline.candles.schema.time.time", lambda: now.timestamp())
    with pytest.warns(
        UserWarning, match=r"1 candle\(s\) from .* have not closed yet and are left out"
    ) as caught:
        prediction = predictor.predict(candles)
    assert caught[0].filename == __file__
    assert prediction["timestamp"] == candles["timestamp"].iloc[-1]
    assert prediction == predictor.predict(candles.iloc[:-1])
    with pytest.warns(UserWarning, match="not closed yet"):
        history = predictor.predict_history(candles)
    assert history["timestamp"].iloc[-1] == candles["timestamp"].iloc[-2]


def test_the_direction_of_a_coin_at_a_fraction_of_the_price_is_the_same(predictor, candles):
    cheap = candles.assign(
        **{name: candles[name] / 2**18 for name in ("open", "high", "low", "close")}
    )
    assert predictor.predict(cheap)["return"] == predictor.predict(candles)["return"]


@pytest.mark.parametrize(
    "price", [0, -1.0, float("nan"), float("inf"), "100", True, [1.0], 10**400, pd.NA]
)
def test_a_last_price_that_is_no_price_is_refused(predictor, candles, price):
    with pytest.raises(ValueError, match="last_price is .*pass a positive price"):
        predictor.predict(candles, price)


def test_a_live_forecast_leaves_the_forming_candle_out_and_equals_predict(predictor, candles):
    bare = candles.drop(columns=["funding_rate", "open_interest"])
    bare.attrs = {"symbol": "BTC/USDT", "exchange": "binance"}  # as fetched candles say
    now_ms = int(timestamps_ms(bare)[-1]) + 60_000  # the last candle has been forming for a minute
    without = pytest.warns(UserWarning, match="does without 2 of 18 inputs")
    with ExchangeServer(market_of({"BTC/USDT": {"1h": bare}}), now_ms=now_ms) as server, without:
        live = predictor.predict_live("BTC/USDT", exchange="binance", base_url=server.url)
    with pytest.warns(UserWarning, match="does without 2 of 18 inputs"):
        assert live == predictor.predict(bare.iloc[:-1].tail(predictor.required_candles))
    assert live["timestamp"] == bare["timestamp"].iloc[-1]


def test_a_price_from_a_float32_column_is_a_price(predictor, candles):
    expected = predictor.predict(candles, last_price=35_000.0)
    assert predictor.predict(candles, last_price=np.float32(35_000)) == expected


@pytest.mark.parametrize("runtime", ["Keras", "ONNX"])
def test_a_pickled_predictor_forecasts_the_same(tiny_bundle, candles, tmp_path, runtime):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    if runtime == "Keras":
        (folder / "crypto_v2_final_model.onnx").unlink()
    predictor = CryptoPricePredictorV2.from_directory(folder)
    pickled = pickle.dumps(predictor)
    assert pickle.loads(pickled).predict(candles) == predictor.predict(candles)
    if runtime == "Keras":  # the file is opened again, so it has to be the same one
        (folder / MODEL_FILE).write_bytes((folder / MODEL_FILE).read_bytes() + b"x")
        with pytest.raises(ValueError, match="another network lies here since the predictor was"):
            pickle.loads(pickled)


def test_a_network_of_keras_in_a_forked_process_is_an_error_instead_of_a_hang(
    tiny_bundle, candles, tmp_path, monkeypatch
):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    (folder / "crypto_v2_final_model.onnx").unlink()
    predictor = CryptoPricePredictorV2.from_directory(folder)
    monkeypatch.setattr("pipeline.bundle.network.os.getpid", lambda: -1)
    with pytest.raises(RuntimeError, match="before the process was forked.*in the worker"):
        predictor.predict(candles)


def test_frames_and_contexts_of_another_kind_are_refused_by_name(predictor, candles):
    with pytest.raises(ValueError, match="predict_batch was given one dict; pass a list of frames"):
        predictor.predict_batch({"BTC/USDT": candles})
    with pytest.raises(ValueError, match="predict_batch was given one DataFrame"):
        predictor.predict_batch(candles)
    with pytest.raises(ValueError, match="context is a list; pass pair -> candles"):
        predictor.predict(candles, context=[candles])


def test_the_picture_shows_candles_and_forecast(predictor, candles, tmp_path):
    figure = predictor.plot(candles)
    axes = figure.axes[0]
    assert len(axes.patches) == 72
    assert "direction right with probability" in axes.get_title(loc="left")
    figure.savefig(tmp_path / "forecast.png")


def copy_bundle(bundle, folder):
    shutil.copytree(bundle, folder)
    return folder


def test_the_scalers_of_another_model_are_noticed(tiny_bundle, tmp_path):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    (folder / METADATA_FILE).unlink()
    scalers = pickle.loads((folder / SCALER_FILE).read_bytes())
    scalers["model_sha256"] = "0" * 64
    (folder / SCALER_FILE).write_bytes(pickle.dumps(scalers, protocol=4))
    with pytest.raises(ValueError, match=r"scalers_v2.pkl: these scalers belong to another model"):
        CryptoPricePredictorV2(folder / MODEL_FILE, folder / SCALER_FILE)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("feature_cols", ["log_return", "magic"], "'X' has 18 columns, not 2"),
        ("feature_cols", [f"magic_{i}" for i in range(18)], "unknown feature 'magic_0'"),
        ("lookback", 30, r"takes windows of shape \(60, 18\)"),
        ("timeframe", "7h", "unknown timeframe '7h'"),
        ("calibration", {}, "calibration number 'shrinkage' is None"),
        ("X", "text", "'X'"),
        ("y", 3, "'y'"),
        ("lookback", "sixty", "'lookback'"),
        ("lookback", 0, "'lookback' is 0"),
        ("synthetic", "no", "'synthetic'"),
        ("horizon", 0, "'horizon'"),
        ("symbols", 5, "'symbols'"),
        ("feature_cols", "log_return", "'feature_cols'"),
        ("preset", "mine", "unknown preset 'mine'"),
        ("intervals", {"kind": "bands"}, "unknown kind of interval 'bands'"),
        ("intervals", {"kind": "quantiles"}, "quantile factor 'below' is None"),
    ],
)
def test_a_scaler_file_with_wrong_content_is_refused_by_name(
    tiny_bundle, tmp_path, key, value, message
):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    (folder / METADATA_FILE).unlink()
    scalers = pickle.loads((folder / SCALER_FILE).read_bytes())
    scalers[key] = value
    (folder / SCALER_FILE).write_bytes(pickle.dumps(scalers, protocol=4))
    with pytest.raises(ValueError, match=message):
        CryptoPricePredictorV2(folder / MODEL_FILE, folder / SCALER_FILE)


def test_bundles_that_name_neither_preset_nor_kind_of_interval_forecast_the_same(
    tiny_bundle, tmp_path, predictor, candles
):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    (folder / METADATA_FILE).unlink()
    scalers = pickle.loads((folder / SCALER_FILE).read_bytes())
    assert scalers["intervals"].pop("kind") == "scale"
    scalers.pop("preset", None)
    del scalers["features_probe"]  # such bundles have none
    (folder / SCALER_FILE).write_bytes(pickle.dumps(scalers, protocol=4))
    old = CryptoPricePredictorV2.from_directory(folder)
    assert old.preset == "guide" and old.predict(candles) == predictor.predict(candles)
    (folder / SCALER_FILE).write_bytes(pickle.dumps({**scalers, "preset": "pooled"}, protocol=4))
    assert CryptoPricePredictorV2.from_directory(folder).preset == "pooled"


def test_a_scaler_file_without_a_key_or_with_foreign_types_is_refused(tiny_bundle, tmp_path):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    (folder / METADATA_FILE).unlink()
    scalers = pickle.loads((folder / SCALER_FILE).read_bytes())
    del scalers["horizon"]
    (folder / SCALER_FILE).write_bytes(pickle.dumps(scalers, protocol=4))
    with pytest.raises(ValueError, match="key 'horizon' is missing"):
        CryptoPricePredictorV2(folder / MODEL_FILE, folder / SCALER_FILE)
    (folder / SCALER_FILE).write_bytes(pickle.dumps({"X": Path("/")}, protocol=4))
    with pytest.raises(ValueError, match="pathlib"):
        CryptoPricePredictorV2(folder / MODEL_FILE, folder / SCALER_FILE)


def test_a_file_that_changed_after_training_is_noticed_by_its_hash(tiny_bundle, tmp_path):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    content = (folder / MODEL_FILE).read_bytes()
    (folder / MODEL_FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        ValueError, match=r"crypto_v2_final_model.h5: its bytes are not those that metadata_v2.json"
    ):
        CryptoPricePredictorV2(folder / MODEL_FILE, folder / SCALER_FILE)


def test_missing_files_are_named(tiny_bundle, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such model file"):
        CryptoPricePredictorV2(tmp_path / "absent.h5", tiny_bundle / SCALER_FILE)
    with pytest.raises(FileNotFoundError, match="no such scaler file"):
        CryptoPricePredictorV2(tiny_bundle / MODEL_FILE, tmp_path / "absent.pkl")


def test_a_model_of_synthetic_candles_says_so_whenever_it_is_opened(tiny_bundle, tmp_path):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    (folder / METADATA_FILE).unlink()
    scalers = pickle.loads((folder / SCALER_FILE).read_bytes())
    (folder / SCALER_FILE).write_bytes(pickle.dumps({**scalers, "synthetic": True}, protocol=4))
    with pytest.warns(
        UserWarning, match="trained on synthetic candles: what it forecasts says nothing"
    ):
        assert CryptoPricePredictorV2.from_directory(folder).is_synthetic


@pytest.mark.slow
def test_a_short_lookback_still_needs_the_49_candles_of_the_volatility(
    tmp_path, signal_dir, candles
):
    config = replace(TINY, candles_dir=signal_dir, output_dir=tmp_path, lookback=20, epochs=1)
    train_v2_production.main(config)
    short = CryptoPricePredictorV2.from_directory(tmp_path)
    with pytest.raises(ValueError, match="48 candles are too few: a forecast needs the last 49"):
        short.predict(candles.tail(48))
    history = short.predict_history(candles.tail(100))
    assert len(history) == 100 - 48
    assert not history.isna().any().any()


def test_the_best_checkpoint_opens_with_the_same_scalers(tiny_bundle, predictor, candles):
    best = CryptoPricePredictorV2(tiny_bundle / "best_v2_model.h5", tiny_bundle / SCALER_FILE)
    from_best, from_final = best.predict(candles), predictor.predict(candles)
    assert from_best["timestamp"] == from_final["timestamp"]
    # The final model may run as its ONNX twin
    assert abs(from_best["return"] - from_final["return"]) <= 1e-6


def test_the_scaler_file_is_what_the_documents_promise_for_people_with_scikit_learn(tiny_bundle):
    from sklearn.preprocessing import StandardScaler

    scalers = pickle.loads((tiny_bundle / SCALER_FILE).read_bytes())
    assert isinstance(scalers["X"], StandardScaler)
    assert isinstance(scalers["y"], StandardScaler)
    assert isinstance(scalers["feature_cols"], list)
    assert scalers["lookback"] == 60
    assert len(scalers["feature_cols"]) == scalers["X"].n_features_in_ == 18


def run_command(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_the_predict_command_prints_a_forecast_as_the_guide_shows_it(
    tiny_bundle, predictor, candles, tmp_path, monkeypatch, capsys
):
    candles.to_csv(tmp_path / "BTCUSDT_1h.csv", index=False)
    options = [
        "--model-dir",
        tiny_bundle,
        "--candles",
        tmp_path / "BTCUSDT_1h.csv",
        "--picture",
        tmp_path / "forecast.png",
    ]
    monkeypatch.setattr(sys, "argv", ["inference_v2.py", "predict", *map(str, options)])
    commands.main(CryptoPricePredictorV2, inference_v2.__doc__)
    printed = capsys.readouterr().out
    expected = predictor.predict(candles)
    assert printed.startswith("BTC/USDT · 1h · next candle\n")
    assert f"Forecast price: ${expected['price']:,.2f}" in printed  # the candles are of 2024
    assert "old candles: the last one opened at 2024-12-31 23:00 UTC, and" in printed
    assert f"Expected return: {expected['return_percent']:+.4f}%" in printed
    assert f"Confidence: {expected['confidence']:.1%}" in printed
    assert (tmp_path / "forecast.png").read_bytes()[:4] == b"\x89PNG"


def test_the_predict_command_ends_bad_input_in_one_line_and_status_2(
    tiny_bundle, candles, tmp_path
):
    candles.iloc[:10].to_csv(tmp_path / "few.csv", index=False)
    result = run_command(
        "inference_v2.py", "predict", "--model-dir", tiny_bundle, "--candles", tmp_path / "few.csv"
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: candles: 10 candles are too few")
    assert result.stderr.count("\n") == 1


def test_a_bundle_moved_halfway_is_served_and_its_files_stay_where_they_are(
    tiny_bundle, candles, predictor, tmp_path
):
    folder = copy_bundle(tiny_bundle, tmp_path / "bundle")
    partial = folder / ".partial"
    partial.mkdir()
    for name in (SCALER_FILE, METADATA_FILE):
        (folder / name).rename(partial / name)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    reopened = CryptoPricePredictorV2.from_directory(folder)
    assert reopened.predict(candles) == predictor.predict(candles)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_metrics_hold_no_number_that_is_not_measured(tiny_bundle):
    metrics = json.loads((tiny_bundle / "metrics_v2.json").read_text())
    test = metrics["test"]
    assert test["verdict"] in ("EDGE", "NO EDGE")
    assert list(test["models"]) == [*BASELINE_NAMES, "lstm"]
    assert [entry["baseline"] for entry in test["verdicts"]] == 2 * [*BASELINE_NAMES]
    assert test["power"]["skill_against_naive"] > 0
    predictions = pd.read_parquet(tiny_bundle / "predictions_v2.parquet")
    actual = predictions["base_price"] * np.exp(predictions["actual_return"])
    for model in test["models"]:
        forecast = predictions["base_price"] * np.exp(predictions[model])
        mape = 100 * ((actual - forecast).abs() / actual).mean()
        assert test["models"][model]["mape_percent"] == pytest.approx(mape, rel=1e-9)
    below, above = (
        (predictions["actual_return"] < predictions["q10"]),
        (predictions["actual_return"] > predictions["q90"]),
    )
    assert test["interval"]["coverage"] == pytest.approx(1 - below.mean() - above.mean())


def test_a_window_gives_the_same_bits_alone_and_among_many(predictor):
    network, n_features = predictor._network, len(predictor.feature_cols)
    rows = (
        np.random.default_rng(0)
        .standard_normal((predictor.lookback + 299, n_features))
        .astype(np.float32)
    )
    end = np.arange(predictor.lookback - 1, len(rows))
    whole = network.run(rows, end)
    for few in (1, 2, 5, 16, 17):
        for first in range(0, 120, few):
            assert np.array_equal(
                network.run(rows, end[first : first + few]), whole[first : first + few]
            )
