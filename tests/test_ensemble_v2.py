"""v2's ensemble: one network that is the mean of its members, scored beside each of them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import train_v2_production
from config import ConfigV2
from inference_v2 import FILES, CryptoPricePredictorV2
from models.average import build_average
from models.dual_stream import build_dual_stream
from pipeline.bundle.network import export_twin, import_keras
from pipeline.bundle.network_check import check_network_file
from pipeline.evaluation.members import score_members, spread_of
from pipeline.report.tables import member_rows
from pipeline.training import recipes
from pipeline.training.fit import save_plain_h5
from tests import networks
from tests.conftest import TINY


@pytest.fixture(scope="module")
def config(signal_dir):
    return replace(TINY, candles_dir=signal_dir, ensemble=3, epochs=3)


def train(config, **changes):
    """A run with networks of one layer, for what does not depend on them."""
    with networks.bare():
        return train_v2_production.main(replace(config, **changes), build=networks.for_v2)


@pytest.fixture(scope="module")
def kept():
    """Networks of the members of `bundle`, which the run itself deletes."""
    return []


@pytest.fixture(scope="module")
def bundle(config, kept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    save_average = recipes.save_average

    def kept_first(paths, partial, names):
        kept.extend(shutil.copy(path, folder / f"{path.parent.name}.h5") for path in paths)
        save_average(paths, partial, names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "save_average", kept_first)
        train_v2_production.main(replace(config, output_dir=folder), build=networks.for_v2)
    return folder


@pytest.fixture(scope="module")
def average(tmp_path_factory):
    """File of the mean of three networks of the real kind, with its twin."""
    path = tmp_path_factory.mktemp("average") / FILES.model
    members = [
        train_v2_production.build_network(replace(TINY, seed=seed), 18) for seed in (42, 43, 44)
    ]
    for number, member in enumerate(members):
        kernel = member.get_layer("forecast").kernel
        kernel.assign(
            np.full(kernel.shape, 0.1 * (number + 1), dtype=np.float32)
        )  # they begin at 0
    save_plain_h5(build_average(members), path)
    export_twin(path)
    return path


@pytest.fixture(scope="module")
def metrics(bundle):
    return json.loads((bundle / FILES.metrics).read_text())


def windows():
    return np.random.default_rng(0).standard_normal((32, 60, 18)).astype(np.float32)


def test_the_network_s_output_is_the_mean_of_its_members(bundle, kept):
    keras = import_keras()
    outputs = [
        keras.models.load_model(path, compile=False).predict(windows(), verbose=0) for path in kept
    ]
    whole = keras.models.load_model(bundle / FILES.model, compile=False)
    assert np.abs(whole.predict(windows(), verbose=0) - np.mean(outputs, axis=0)).max() < 1e-6
    assert np.std(outputs, axis=0).max() > 1e-4  # they differ
    assert (bundle / FILES.checkpoint).read_bytes() == (bundle / FILES.model).read_bytes()


@pytest.mark.slow
def test_it_is_one_plain_file_of_admitted_layers_and_every_layer_stands_in_it_once(average):
    check_network_file(average)
    layers = import_keras().models.load_model(average, compile=False).layers
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    assert sum(name.endswith("_trend_lstm_1") for name in names) == 3
    assert not any(hasattr(layer, "layers") for layer in layers)  # no model in the model


@pytest.mark.slow
def test_the_first_member_is_what_a_single_run_with_its_seed_would_be(config, tmp_path):
    metrics = train(config, ensemble=2, output_dir=tmp_path / "both")
    single = train(config, ensemble=1, seed=43, output_dir=tmp_path)
    member = metrics["ensemble"]["members"][1]
    naive = single["test"]["verdicts"][0]
    assert (member["seed"], naive["baseline"]) == (43, "naive")
    assert member["skill"] == naive["skill"]
    assert member["direction_accuracy"] == single["test"]["models"]["lstm"]["direction_accuracy"]
    history = json.loads((tmp_path / FILES.metadata).read_text())["history"]
    assert member["val_loss"] == history["val_loss"][history["best_epoch"]]
    assert "ensemble" not in single


def test_the_mean_s_scores_are_the_run_s(metrics):
    ensemble, test = metrics["ensemble"], metrics["test"]
    assert ensemble["seeds"] == [42, 43, 44]
    assert ensemble["mean"]["skill"] == test["verdicts"][0]["skill"]
    assert ensemble["mean"]["direction_accuracy"] == test["models"]["lstm"]["direction_accuracy"]
    assert ensemble["spread"] > 0


def test_the_terminal_and_the_page_show_the_members_and_a_curve_of_each(bundle):
    page, log = ((bundle / name).read_text(encoding="utf-8") for name in (FILES.report, FILES.log))
    assert "<h2>Members of the ensemble</h2>" in page and "Loss by epoch, member_3" in page
    for text in (page, log):
        assert "member 2, seed 43" in text and "their mean, the forecast" in text
        assert "these are the members of the last" not in text


def test_the_predictor_says_what_the_run_said_bit_for_bit(bundle, signal_market):
    saved = pd.read_parquet(bundle / FILES.predictions)
    rows = saved[saved["symbol"] == "ETH/USDT"].set_index("timestamp")
    predictor = CryptoPricePredictorV2.from_directory(bundle)
    history = (
        predictor.predict_history(signal_market["ETH/USDT"]).set_index("timestamp").loc[rows.index]
    )
    for ours, theirs in (("predicted_return", "lstm"), ("q10", "q10"), ("p_up", "p_up")):
        assert np.array_equal(history[ours].to_numpy(), rows[theirs].to_numpy()), ours


@pytest.mark.slow
def test_the_twin_of_an_ensemble_is_within_1e_6_of_keras(average):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    from pipeline.bundle.network import KerasNetwork, OnnxNetwork

    rows = np.random.default_rng(1).standard_normal((200, 18)).astype(np.float32)
    twin = OnnxNetwork(
        average.with_suffix(".onnx").read_bytes(), input_shape=[(60, 18)], where="twin"
    )
    keras = KerasNetwork(average, input_shape=[(60, 18)])
    assert np.ptp(keras.run(rows, np.arange(59, 200))) > 1e-3
    assert (
        np.abs(twin.run(rows, np.arange(59, 200)) - keras.run(rows, np.arange(59, 200))).max()
        < 1e-6
    )


@pytest.mark.slow
def test_a_run_cut_off_in_its_second_member_resumes_to_the_same_forecasts(
    config, tmp_path, monkeypatch, capsys
):
    train(config, output_dir=tmp_path / "whole")
    epochs = []

    def interrupt(epoch, logs, **_):
        epochs.append(epoch)
        if len(epochs) == 5:  # three of the first member, two of the second
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipeline.terminal.tell_epoch", interrupt)
        train(config, output_dir=tmp_path)
    assert epochs == [0, 1, 2, 0, 1]
    capsys.readouterr()
    train(config, output_dir=tmp_path, resume=True)
    assert "epoch   1 " in capsys.readouterr().out  # of the third member
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / FILES.predictions),
        pd.read_parquet(tmp_path / "whole" / FILES.predictions),
        check_exact=True,
    )


@pytest.mark.slow
def test_a_member_that_fails_ends_the_run_by_name_and_the_finished_ones_are_kept(
    config, tmp_path, monkeypatch
):
    train_one = recipes.train_one

    def second_fails(fit_network, scaled, member, folder):
        if member.seed == 43:
            raise ValueError("training diverged")
        return train_one(fit_network, scaled, member, folder)

    monkeypatch.setattr(recipes, "train_one", second_fails)
    with pytest.raises(
        ValueError, match=r"member_2 failed \(ValueError: training diverged\).*--resume keeps"
    ):
        train(config, epochs=1, output_dir=tmp_path)
    assert (tmp_path / ".partial" / "member_1" / FILES.model).is_file()
    assert not (tmp_path / FILES.metadata).exists()


@pytest.mark.parametrize("changes", [{"ensemble": 0}, {"ensemble": 2, "seed": 2**32 - 1}])
def test_ensembles_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match="ensemble is"):
        replace(ConfigV2(), **changes).check()


def test_the_spread_is_the_members_deviation_in_units_of_the_mean_s():
    members = np.array([[0.0, 4.0], [2.0, 4.0]])
    # deviations at the two samples: sqrt(2) and 0; the mean 1, 4 has a standard deviation of 1.5
    assert spread_of(members, members.mean(axis=0)) == pytest.approx(np.sqrt(2) / 2 / 1.5)
    assert spread_of(members, np.zeros(2)) is None


def test_skill_and_direction_of_each_member_by_hand():
    predictions = pd.DataFrame(
        {
            "symbol": "BTC/USDT",
            "timestamp": pd.date_range("2024-01-01", periods=4, freq="h", tz="UTC"),
            "base_price": 100.0,
            "volatility": [0.01, 0.02, 0.01, 0.02],
            "actual_return": [0.01, -0.02, 0.01, -0.02],
            "naive": 0.0,
            "lstm": 0.0,
            "lstm_raw": [0.01, 0.01, 0.01, 0.01],
        }
    )
    half = 0.5 * predictions["actual_return"].to_numpy()
    members = [{"raw": half, "served": half}, {"raw": -half, "served": np.zeros(4)}]
    histories = [
        {"val_loss": [0.3, 0.2], "best_epoch": 1},
        {"val_loss": [0.25, 0.4], "best_epoch": 0},
    ]
    scores = score_members(predictions, "lstm", members, [7, 8], histories, horizon=1)
    # scaled errors: 1 for naive, half of it for the first member, the same for the second, which
    # serves 0
    assert scores["members"] == [
        {"seed": 7, "best_epoch": 1, "val_loss": 0.2, "skill": 0.5, "direction_accuracy": 1.0},
        {"seed": 8, "best_epoch": 0, "val_loss": 0.25, "skill": 0.0, "direction_accuracy": 0.0},
    ]
    assert scores["mean"] == {"skill": 0.0, "direction_accuracy": 0.5}
    assert member_rows(scores)[1] == ["member 1, seed 7", "2", "0.20000", "+50.000", "100.00"]
    assert member_rows(scores)[-1] == ["their mean, the forecast", "", "", "+0.000", "50.00"]


@pytest.mark.slow
def test_an_average_of_networks_from_files_and_from_memory_is_the_same(tmp_path):
    keras = import_keras()
    members = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        member = build_dual_stream(
            5, 3, lstm_units=(4, 3), conv_filters=4, conv_lstm_units=3, dense_units=(4, 3)
        )
        member.get_layer("forecast").kernel.assign(np.full((3, 1), seed, dtype=np.float32))
        save_plain_h5(member, tmp_path / f"{seed}.h5")
        members.append(member)
    x = np.random.default_rng(0).standard_normal((8, 5, 3)).astype(np.float32)
    loaded = [keras.models.load_model(tmp_path / f"{seed}.h5", compile=False) for seed in (1, 2)]
    averages = [build_average(networks)(x).numpy() for networks in (members, loaded)]
    assert np.array_equal(*averages)
    assert averages[0] == pytest.approx(
        sum(np.asarray(member(x)) for member in members) / 2, abs=1e-7
    )
