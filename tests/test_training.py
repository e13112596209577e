"""The fit loop: batches, the plain .h5 files, and a resumed run that equals an uninterrupted
one."""

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import pytest

from config import FitConfig
from models.dual_stream import build_dual_stream
from pipeline.bundle.network import (
    BATCH,
    NEWER_ARGUMENTS,
    KerasNetwork,
    import_keras,
    seeded_keras,
    without_newer_arguments,
)
from pipeline.samples.scaling import ScaledSamples
from pipeline.training import fit as fit_module
from pipeline.training.fit import (
    STATE_FILE,
    Hidden,
    Objective,
    WindowBatches,
    _OneCycle,
    fit,
    save_plain_h5,
    save_plain_keras,
)

LOOKBACK, N_FEATURES = 5, 3

ROOT = Path(__file__).resolve().parents[1]


def scaled_samples(n=300, seed=0):
    """Samples whose target is half the last row's first feature plus noise; 200 to train, 100 to
    validate."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(n + LOOKBACK, N_FEATURES)).astype(np.float32)
    end = np.arange(LOOKBACK, n + LOOKBACK)
    target = (0.5 * rows[end, 0] + generator.normal(0, 0.5, n)).astype(np.float32)
    samples = SimpleNamespace(end=end, lookback=LOOKBACK)
    split = SimpleNamespace(train=np.arange(200), val=np.arange(200, n))
    return ScaledSamples(samples, split, rows, target)


def small_network(seed=1):
    keras.utils.set_random_seed(seed)
    return build_dual_stream(
        LOOKBACK,
        N_FEATURES,
        lstm_units=(4, 3),
        conv_filters=4,
        conv_lstm_units=3,
        dense_units=(4, 3),
    )


def dense_network(seed=1):
    """What the fit loop must keep of a network: weights, moving averages, dropout's random state;
    quickly traced."""
    keras.utils.set_random_seed(seed)
    window = keras.Input((LOOKBACK, N_FEATURES))
    hidden = keras.layers.Dense(8, activation="tanh")(keras.layers.Flatten()(window))
    hidden = keras.layers.Dropout(0.1)(keras.layers.BatchNormalization()(hidden))
    return keras.Model(window, keras.layers.Dense(1, kernel_initializer="zeros")(hidden))


def fit_small(model, scaled, folder, hidden=None, on_epoch=None, **changes):
    config = FitConfig(**{"epochs": 4, "learning_rate": 0.01, "seed": 7, **changes})
    objective = Objective(keras.losses.Huber(), hidden=hidden)
    return fit(model, scaled, objective, config, folder / "best.h5", on_epoch=on_epoch)


def test_the_default_network_has_40_000_to_60_000_parameters_and_starts_at_the_naive_forecast():
    model = build_dual_stream(60, 18)
    # LSTM 4u(f + u + 1), Conv1D 3fu + u, Dense fu + u, BatchNorm 4u
    trend = 4 * 64 * (18 + 64 + 1) + 4 * 32 * (64 + 32 + 1)
    pattern = (3 * 18 * 32 + 32) + (18 * 32 + 32) + 4 * 32 + 4 * 32 * (32 + 32 + 1)
    head = (64 * 32 + 32) + (32 * 16 + 16) + (16 + 1)
    assert model.count_params() == trend + pattern + head == 47_105
    windows = np.random.default_rng(0).normal(size=(4, 60, 18)).astype(np.float32)
    assert np.array_equal(model(windows), np.zeros((4, 1)))


def test_batches_hold_each_window_once_with_its_own_target():
    scaled = scaled_samples()
    batches = WindowBatches(scaled, scaled.split.train, 32, shuffle_seed=3)
    seen = []
    for i in range(len(batches)):
        windows, targets = batches[i]
        for window, target in zip(windows, targets[:, 0]):
            (sample,) = np.flatnonzero(scaled.target == target)
            last = scaled.samples.end[sample]
            assert np.array_equal(window, scaled.rows[last - LOOKBACK + 1 : last + 1])
            seen.append(sample)
    assert len(batches) == 7
    assert sorted(seen) == list(range(200))


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    scaled = scaled_samples()
    running = WindowBatches(scaled, scaled.split.train, 32, shuffle_seed=3)
    first = running[0][1].copy()
    running.on_epoch_end()
    later = WindowBatches(scaled, scaled.split.train, 32, shuffle_seed=3, epoch=1)
    assert np.array_equal(running[0][1], later[0][1])
    assert not np.array_equal(first, later[0][1])
    other_seed = WindowBatches(scaled, scaled.split.train, 32, shuffle_seed=4)
    assert not np.array_equal(first, other_seed[0][1])


@pytest.mark.slow
def test_fitting_learns_a_planted_link_and_keeps_the_best_epoch(tmp_path):
    scaled = scaled_samples()
    model = small_network()
    history = fit_small(model, scaled, tmp_path, epochs=12)
    assert (
        len(history.loss)
        == len(history.val_loss)
        == len(history.learning_rate)
        == len(history.seconds)
        == 12
    )
    assert history.val_loss[history.best_epoch] == min(history.val_loss) < 0.8 * history.val_loss[0]
    saved = keras.models.load_model(tmp_path / "best.h5", compile=False)
    for ours, theirs in zip(model.get_weights(), saved.get_weights()):
        assert np.array_equal(ours, theirs)
    windows = np.stack([scaled.rows[e - LOOKBACK + 1 : e + 1] for e in scaled.samples.end[200:]])
    loss = float(keras.losses.Huber()(scaled.target[200:, None], model.predict_on_batch(windows)))
    assert loss == pytest.approx(min(history.val_loss), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("killed_after", "settings"),
    # patience 1 halves the step size along the way: the schedule's state must survive too
    [(n, {"reduce_lr_patience": 1}) for n in (1, 3)]
    + [(3, {"one_cycle": True, "weight_decay": 0.1, "hidden": Hidden(np.array([1]), 0.3)})],
)
def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, killed_after, settings):
    scaled = scaled_samples()
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir(), pieces.mkdir()
    uninterrupted = dense_network()
    expected = fit_small(uninterrupted, scaled, whole, epochs=6, **settings)

    class Killed(Exception):
        pass

    def kill(epoch, logs):
        if epoch + 1 == killed_after:
            raise Killed

    with pytest.raises(Killed):
        fit_small(dense_network(), scaled, pieces, epochs=6, **settings, on_epoch=kill)
    resumed = dense_network(seed=99)  # whatever the weights are before the state is restored
    history = fit_small(resumed, scaled, pieces, epochs=6, **settings)
    assert history.val_loss == expected.val_loss
    assert history.learning_rate == expected.learning_rate
    assert min(expected.learning_rate) < 0.01
    for ours, theirs in zip(resumed.get_weights(), uninterrupted.get_weights()):
        assert np.array_equal(ours, theirs)


def test_one_cycle_rises_over_a_fifth_of_the_steps_and_falls_to_nothing():
    cycle = _OneCycle(peak=2.0, n_batches=20, epochs=5)  # 100 steps; the peak at 0.2 * 99 = 19.8
    rates = [cycle.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.04 * 2.0)
    assert rates[10] == pytest.approx(2.0 * (0.04 + 0.96 * (0.5 - 0.5 * np.cos(np.pi * 10 / 19.8))))
    assert np.argmax(rates) == 20 and rates[20] == pytest.approx(2.0, rel=1e-3)
    assert rates[60] == pytest.approx(1.0 + np.cos(np.pi * (60 - 19.8) / 79.2))
    assert rates[99] == pytest.approx(0.0, abs=1e-12)
    assert _OneCycle(1.0, 1, 1).rate(0) == pytest.approx(1.0)


@pytest.mark.slow
def test_all_epochs_of_one_cycle_are_run_and_told_their_step_sizes(tmp_path):
    scaled = scaled_samples()
    history = fit_small(
        dense_network(), scaled, tmp_path, epochs=5, one_cycle=True, early_stopping_patience=1
    )
    assert len(history.loss) == 5
    assert history.learning_rate[-1] == pytest.approx(0.0, abs=1e-12)
    assert history.learning_rate[0] > history.learning_rate[2] > 0.001


def test_hidden_columns_are_zero_in_whole_windows_drawn_anew_each_epoch():
    scaled = scaled_samples()
    plain = WindowBatches(scaled, scaled.split.train, 50, shuffle_seed=3)
    hiding = WindowBatches(
        scaled, scaled.split.train, 50, shuffle_seed=3, hidden=Hidden(np.array([1]), 0.4)
    )
    hidden = []
    for epoch in range(2):
        shown = np.concatenate([plain[i][0] for i in range(len(plain))])
        given = np.concatenate([hiding[i][0] for i in range(len(hiding))])
        hidden.append((given[:, :, 1] == 0).all(axis=1))
        assert not (shown[:, :, 1] == 0).any()
        assert np.array_equal(given[~hidden[epoch]], shown[~hidden[epoch]])
        others = [column for column in range(given.shape[2]) if column != 1]
        assert np.array_equal(given[:, :, others], shown[:, :, others])
        assert 0.3 < hidden[epoch].mean() < 0.5
        plain.on_epoch_end(), hiding.on_epoch_end()
    assert not np.array_equal(*hidden)
    assert (scaled.rows[:, 1] != 0).all()  # the rows themselves are left alone


@pytest.mark.slow
def test_weight_decay_shrinks_what_the_loss_does_not_hold(tmp_path):
    scaled = scaled_samples()
    norms = []
    for name, decay in (("none", 0.0), ("some", 1.0)):
        (tmp_path / name).mkdir()
        model = dense_network()
        fit_small(model, scaled, tmp_path / name, epochs=3, weight_decay=decay)
        norms.append(np.sqrt(sum(float(np.sum(w**2)) for w in model.get_weights())))
    assert norms[1] < 0.9 * norms[0]


@pytest.mark.slow
def test_a_run_killed_after_its_last_epoch_resumes_without_another(tmp_path):
    scaled = scaled_samples()
    expected = fit_small(dense_network(), scaled, tmp_path)
    epochs = []
    history = fit_small(
        dense_network(), scaled, tmp_path, on_epoch=lambda epoch, logs: epochs.append(epoch)
    )
    assert epochs == []
    assert history == expected


@pytest.mark.slow
def test_a_saved_network_names_no_argument_that_older_versions_of_keras_refuse(tmp_path):
    save_plain_h5(small_network(), tmp_path / "network.h5")
    with h5py.File(tmp_path / "network.h5") as file:
        description = file.attrs["model_config"]
    assert "BatchNormalization" in description and "GlorotUniform" in description
    save_plain_keras(small_network(), tmp_path / "network.h5")
    with zipfile.ZipFile(tmp_path / "network.keras") as file:
        description += file.read("config.json").decode()
    assert [name for name in NEWER_ARGUMENTS if f'"{name}"' in description] == []
    with pytest.raises(ValueError, match="renorm is True, which older versions of Keras do not"):
        without_newer_arguments({"config": {"renorm": True}})


def test_a_keras_file_holds_neither_times_nor_addresses_of_its_saving(tmp_path):
    model = dense_network()
    model.compile(optimizer="adam", loss="mse")
    save_plain_keras(model, tmp_path / "network.h5")
    [path] = tmp_path.iterdir()
    assert path.name == "network.keras"
    with zipfile.ZipFile(path) as file:
        parts = {entry.filename: file.read(entry) for entry in file.infolist()}
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert json.loads(parts["metadata.json"])["date_saved"] == "1980-01-01@00:00:00"
    assert b"shared_object_id" not in parts["config.json"]
    opened = keras.models.load_model(path)
    assert not opened.compiled
    rows = np.ones((2, LOOKBACK, N_FEATURES), np.float32)
    assert np.array_equal(opened.predict_on_batch(rows), model.predict_on_batch(rows))


def test_a_network_of_another_version_of_keras_is_refused_by_both_versions(tmp_path):
    save_plain_h5(dense_network(), tmp_path / "network.h5")
    with h5py.File(tmp_path / "network.h5", "r+") as file:
        file.attrs["keras_version"] = "9.8.7"
        unknown = file.attrs["model_config"].replace('"units"', '"of_tomorrow": 1, "units"')
        file.attrs["model_config"] = unknown
    told = rf"saved with Keras 9.8.7, and Keras {keras.__version__}, .*; install keras==9.8.7, or"
    with pytest.raises(ValueError, match=told):
        KerasNetwork(tmp_path / "network.h5", input_shape=(LOOKBACK, N_FEATURES))


def test_another_project_s_keras_json_does_not_change_the_network(monkeypatch, caplog):
    monkeypatch.setattr(keras.config, "floatx", lambda: "float16")
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    monkeypatch.setattr(keras.config, "epsilon", lambda: 0.001)
    asked = []
    monkeypatch.setattr(keras.config, "set_epsilon", asked.append)
    monkeypatch.setattr(keras.config, "set_floatx", asked.append)
    monkeypatch.setattr(keras.config, "set_image_data_format", asked.append)
    with caplog.at_level("WARNING", logger="pipeline"):
        seeded_keras(1)
    assert asked == ["float32", "channels_last", 1e-7]
    assert "keras.json says floatx float16; this run uses float32" in caplog.text


@pytest.mark.slow
def test_a_value_in_keras_json_that_keras_does_not_take_is_told_with_file_key_and_remedy(tmp_path):
    code = """
import json, sys
from pathlib import Path
from pipeline.bundle.network import import_keras
for content in ({"floatx": "float8"}, {"epsilon": "small"}, {"image_data_format": None}, [1]):
    Path(sys.argv[1], "keras.json").write_text(json.dumps(content))
    try:
        import_keras()
    except ValueError as error:
        print(error)
    for name in [name for name in sys.modules if name.split(".")[0] == "keras"]:
        del sys.modules[name]
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "KERAS_HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    path = tmp_path / "keras.json"
    first, *others = done.stdout.splitlines()
    assert first.startswith(f"{path}: 'floatx' is 'float8'; mend it: Expected one of {{'float")
    assert others == [
        f"{path}: 'epsilon' is 'small'; mend it: Expected a float.",
        f"{path}: 'image_data_format' is None; mend it: Expected one of {{'channels_last', "
        "'channels_first'}.",
        f"{path}: Keras' settings are [1]; mend the file: it holds an object",
    ], done.stderr


def weights_from_a_seed():
    """Weights after a few steps; some targets are 0, where the loss is divided by epsilon."""
    seeded_keras(1)
    window = keras.Input((LOOKBACK, N_FEATURES))
    features = keras.layers.Conv1D(4, 2, activation="relu")(window)
    output = keras.layers.Dense(1, activation="sigmoid")(keras.layers.Flatten()(features))
    model = keras.Model(window, output)
    model.compile(optimizer="adam", loss=keras.losses.MeanAbsolutePercentageError())
    random = np.random.default_rng(0)
    rows = 20 * random.standard_normal((64, LOOKBACK, N_FEATURES)).astype(np.float32)
    model.fit(rows, random.integers(0, 2, (64, 1)), epochs=3, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.slow
def test_a_network_trained_beside_another_project_s_keras_json_is_the_same(tmp_path):
    foreign = {
        "backend": "torch",
        "floatx": "float16",
        "epsilon": 0.1,
        "image_data_format": "channels_first",
    }
    (tmp_path / "keras.json").write_text(json.dumps(foreign))
    code = """
import sys
from pipeline.bundle.network import import_keras
keras = import_keras()
assert (keras.config.epsilon(), keras.config.floatx()) == (0.1, "float16")
import numpy as np
from tests.test_training import weights_from_a_seed
np.savez(sys.argv[1], *weights_from_a_seed())
"""
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "theirs.npz")],
        env={**environment, "KERAS_HOME": str(tmp_path)},
        cwd=ROOT,
        check=True,
    )
    theirs = np.load(tmp_path / "theirs.npz")
    ours = weights_from_a_seed()
    assert len(theirs.files) == len(ours) == 4
    assert all(np.array_equal(theirs[f"arr_{i}"], weight) for i, weight in enumerate(ours))


def test_a_gpu_is_told_to_compute_in_whole_float32():
    import tensorflow as tf

    import_keras()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
    assert os.environ["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"


@pytest.mark.slow
def test_a_backend_that_is_not_installed_is_named(tmp_path):
    code = "from pipeline.bundle.network import import_keras; import_keras()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if importlib.util.find_spec("jax") is not None:
        pytest.skip("jax is installed")
    told = "KERAS_BACKEND is 'jax', and the package jax is not installed; unset the variable"
    assert told in done.stderr


def test_early_stopping_ends_a_run_that_learns_nothing(tmp_path):
    scaled = scaled_samples()
    scaled.target[scaled.split.val] = (
        0.0  # any forecast that moves away from 0 makes validation worse
    )
    history = fit_small(
        dense_network(), scaled, tmp_path, epochs=30, early_stopping_patience=3, learning_rate=0.05
    )
    assert len(history.loss) < 30
    assert len(history.loss) == history.best_epoch + 1 + 3


def test_a_network_too_large_to_be_opened_again_is_refused_before_it_is_trained(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(fit_module, "MAX_WEIGHT_BYTES", 40)
    with pytest.raises(ValueError, match="no file of more than 10 is opened again"):
        fit_small(dense_network(), scaled_samples(), tmp_path)


def test_a_diverged_run_is_a_value_error_with_a_remedy(tmp_path):
    scaled = scaled_samples()
    scaled.target[:] = np.nan
    with pytest.raises(ValueError, match=r"training diverged.*--learning-rate, now 0.01"):
        fit_small(dense_network(), scaled, tmp_path)


@pytest.mark.slow
def test_saved_files_hold_no_compile_state_and_open_by_plain_load_model_elsewhere(tmp_path):
    scaled = scaled_samples()
    model = small_network()
    fit_small(model, scaled, tmp_path, epochs=1)
    path = tmp_path / "best.h5"
    with h5py.File(path) as file:
        assert "training_config" not in file.attrs
        assert "optimizer_weights" not in file
        assert "Lambda" not in file.attrs["model_config"]
    code = f"""
import tensorflow as tf, numpy as np
model = tf.keras.models.load_model({str(path)!r})
print(float(model(np.ones((1, {LOOKBACK}, {N_FEATURES}), "float32"))[0, 0]))
"""
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    ours = float(model(np.ones((1, LOOKBACK, N_FEATURES), "float32"))[0, 0])
    assert float(output.stdout) == pytest.approx(ours, abs=1e-6)


@pytest.mark.parametrize("content", [b"", b"PK half a zip", b"text"])
def test_a_damaged_state_is_refused_by_name(tmp_path, content):
    (tmp_path / STATE_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"training_state.npz is damaged .*leave --resume out"):
        fit_small(dense_network(), scaled_samples(), tmp_path)


def test_a_kill_while_the_state_is_written_leaves_the_previous_state(tmp_path, monkeypatch):
    scaled = scaled_samples()
    fit_small(dense_network(), scaled, tmp_path, epochs=1)
    before = (tmp_path / STATE_FILE).read_bytes()

    def cut_off(file, **arrays):
        file.write(b"half a fi")
        raise KeyboardInterrupt

    model = dense_network()
    model.compile(optimizer="adam", loss="mse")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(fit_module.np, "savez", cut_off)
        fit_module._save_state(model, tmp_path / STATE_FILE, {})
    assert (tmp_path / STATE_FILE).read_bytes() == before


@pytest.mark.slow
def test_a_window_gives_the_same_bits_alone_in_a_pair_and_in_a_crowd(tmp_path):
    model = build_dual_stream(60, 18)
    # None is negative: of a negative variance there is no root.
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0, 0.1, w.shape) for w in model.get_weights()])
    save_plain_h5(model, tmp_path / "model.h5")
    network = KerasNetwork(tmp_path / "model.h5", input_shape=(60, 18))
    rows = np.random.default_rng(1).normal(size=(2 * BATCH, 18)).astype(np.float32)
    end = np.arange(59, len(rows))
    crowd = network.run(rows, end)
    assert len(crowd) == len(end)
    for i in (0, 1, 100, BATCH, len(end) - 1):
        assert network.run(rows, end[i : i + 1])[0] == crowd[i]
        assert network.run(rows[: end[i] + 1], end[i : i + 1])[0] == crowd[i]
    assert np.array_equal(network.run(rows, end[[5, 9]]), crowd[[5, 9]])


def test_broken_model_files_are_value_errors_that_name_the_file(tmp_path):
    model = small_network()
    save_plain_h5(model, tmp_path / "model.h5")
    whole = (tmp_path / "model.h5").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"absent.h5: there is no such model file"):
        KerasNetwork(tmp_path / "absent.h5", input_shape=(LOOKBACK, N_FEATURES))
    for size in (0, 100, len(whole) // 2, len(whole) - 100):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut.h5: not a readable Keras .h5 model .*truncated"):
            KerasNetwork(tmp_path / "cut.h5", input_shape=(LOOKBACK, N_FEATURES))
    with pytest.raises(
        ValueError, match=r"takes windows of shape \(5, 3\), the scaler file says \(60, 18\)"
    ):
        KerasNetwork(tmp_path / "model.h5", input_shape=(60, 18))


def test_a_saved_network_has_the_bytes_that_keras_writes_to_a_disk(tmp_path):
    model = build_dual_stream(10, 3)
    save_plain_h5(model, tmp_path / "ours.h5")
    keras.Model(model.inputs, model.outputs, name=model.name).save(tmp_path / "theirs.h5")
    with h5py.File(tmp_path / "theirs.h5", "r+") as file:
        description = without_newer_arguments(json.loads(file.attrs["model_config"]))
        file.attrs["model_config"] = json.dumps(description)
    assert (tmp_path / "ours.h5").read_bytes() == (tmp_path / "theirs.h5").read_bytes()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import keras
from pipeline import atomic, terminal
from pipeline.training.fit import save_plain_h5
inputs = keras.Input((10, 3))
model = keras.Model(inputs, keras.layers.LSTM(64)(inputs))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit is an error then
replacing = atomic.replacing

def on_a_full_disk(path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))
    return replacing(path)

atomic.replacing = on_a_full_disk
with terminal.one_line_errors():
    save_plain_h5(model, Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limits of a process")
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path):
    path = tmp_path / "model.h5"
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if "HDF5" in line or "Errno" in line]
    assert told[-1].startswith("error: [Errno ") and told[-1].endswith(f"'{path}'")
    assert len(told) == 1 and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
