"""Network files that could do more than hold a network are refused before Keras sees them."""

import json
import re
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.bundle import network_check
from pipeline.bundle.network import KerasNetwork, import_keras, quiet_absl
from pipeline.bundle.network_check import RefusedNetworkError, check_network_file

DENSE = {
    "class_name": "Dense",
    "config": {"units": 1, "kernel_initializer": {"class_name": "Zeros", "config": {}}},
}


def layer(name, **more):
    return {"class_name": name, "config": {}, **more}


def write(path, *layers):
    """A file with this description and no weights."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(
            {"class_name": "Functional", "config": {"layers": list(layers)}}
        )
        file.create_group("model_weights")
    return path


def assert_refused(path, match):
    with pytest.raises(RefusedNetworkError, match=match):
        check_network_file(path)
    with pytest.raises(ValueError, match=match):
        KerasNetwork(path, input_shape=(60, 18))


def test_a_lambda_that_would_write_a_file_writes_none(tmp_path):
    keras = import_keras()
    marker = tmp_path / "marker"
    code = f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]"
    window = keras.Input((60, 18))
    output = keras.layers.Dense(1)(keras.layers.Lambda(eval(code))(window))
    with quiet_absl():
        keras.Model(window, output).save(tmp_path / "model.h5")
    marker.unlink()
    assert_refused(tmp_path / "model.h5", "'Lambda' is none of the built-in layers")
    assert not marker.exists()
    with quiet_absl(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras.models.load_model(
            tmp_path / "model.h5", safe_mode=False, compile=False
        )  # the file is armed
    assert marker.exists()


def test_every_layer_that_the_project_may_use_is_admitted_as_keras_writes_it(tmp_path):
    keras = import_keras()
    layers = keras.layers
    window = keras.Input((8, 3))
    steps = layers.Bidirectional(layers.LSTM(2, return_sequences=True))(
        layers.Conv1D(4, 3, padding="causal")(window)
    )
    attended = layers.MultiHeadAttention(2, key_dim=2, dropout=0.1)(steps, steps)
    pooled = layers.GlobalAveragePooling1D()(
        layers.LayerNormalization()(layers.Add()([steps, attended]))
    )
    hidden = layers.BatchNormalization()(layers.Dropout(0.1)(layers.Activation("relu")(pooled)))
    start = keras.initializers.Constant(-3.0)
    head, wick = (
        layers.Dense(1)(hidden),
        layers.Dense(1, activation="softplus", bias_initializer=start)(hidden),
    )
    top, low = (
        layers.Maximum()([head, wick]),
        layers.Subtract()([layers.Minimum()([head, wick]), wick]),
    )
    model = keras.Model([window], [layers.Concatenate()([top, layers.Multiply()([low, wick])])])
    with quiet_absl():
        model.save(tmp_path / "model.h5")
    check_network_file(tmp_path / "model.h5")
    assert KerasNetwork(tmp_path / "model.h5", input_shape=(8, 3)) is not None


HOSTILE = {
    "Lambda": layer("Lambda"),
    "in a wrapper": {"class_name": "Bidirectional", "config": {"layer": layer("Lambda")}},
    "in a model inside": {"class_name": "Functional", "config": {"layers": [layer("TFSMLayer")]}},
    "another module's Dense": layer("Dense", module="os"),
    "a registered Dense": layer("Dense", module="keras.layers", registered_name="evil>Dense"),
    "a function as activation": {
        "class_name": "Dense",
        "config": {"activation": layer("function", module="builtins")},
    },
    "code as initializer": {
        "class_name": "Dense",
        "config": {"kernel_initializer": layer("__lambda__")},
    },
    "a file to load": layer("TFSMLayer"),
    "a name that is none": layer(["Dense"]),
    "no name": layer(None),
    "an initializer of elsewhere": {
        "class_name": "Dense",
        "config": {"kernel_initializer": layer("Zeros", module="x")},
    },
    "deep in lists": {"class_name": "Dense", "config": {"x": [[{"y": [layer("Lambda")]}]]}},
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_every_object_that_is_not_on_the_short_list_is_refused(tmp_path, hostile):
    assert_refused(
        write(tmp_path / "model.h5", DENSE, hostile), "is none of the built-in layers .* not opened"
    )


def test_names_in_errors_are_short_and_printable(tmp_path):
    with pytest.raises(RefusedNetworkError) as caught:
        check_network_file(write(tmp_path / "model.h5", layer("\x1b[2J" + "x" * 10**6)))
    assert len(str(caught.value)) < 500 and "\x1b" not in str(caught.value)


def test_weights_that_lie_elsewhere_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    sources = h5py.VirtualLayout((4,), "f4")
    sources[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "weights", (4,))
    storages = {
        "external": lambda group: group.create_dataset(
            "w", (4,), "f4", external=[(str(secret), 0, 16)]
        ),
        "virtual": lambda group: group.create_virtual_dataset("w", sources),
        "link to a file": lambda group: group.__setitem__(
            "w", h5py.ExternalLink(str(secret), "/w")
        ),
        "link": lambda group: group.__setitem__("w", h5py.SoftLink("/elsewhere")),
    }
    for name, store in storages.items():
        path = write(tmp_path / f"{name}.h5", DENSE)
        with h5py.File(path, "a") as file:
            store(file["model_weights"].create_group("dense"))
        assert_refused(path, "links to other places|come from other files")


def test_weights_that_claim_more_than_a_network_has_are_refused_unread(tmp_path):
    path = write(tmp_path / "model.h5", DENSE)
    with h5py.File(path, "a") as file:
        file["model_weights"].create_dataset(
            "w", (2**40,), "f4", chunks=(1024,), compression="gzip"
        )
    assert path.stat().st_size < 20_000
    assert_refused(path, "claims 4,398,046,511,104 bytes of weights")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n" + bytes(99), np.random.default_rng(0).bytes(999)],
)
def test_what_is_no_hdf5_file_is_a_value_error_of_the_network(tmp_path, content):
    (tmp_path / "model.h5").write_bytes(content)
    with pytest.raises(ValueError, match="not a readable Keras .h5 model"):
        KerasNetwork(tmp_path / "model.h5", input_shape=(60, 18))


def test_every_layer_that_the_models_are_made_of_is_admitted():
    models = Path(__file__).resolve().parents[1] / "models"
    used = {
        name
        for path in models.glob("*.py")
        for name in re.findall(r"layers\.([A-Z]\w+)\(", path.read_text())
    }
    assert {"LSTM", "Dense"} <= used <= set(network_check.LAYERS)
