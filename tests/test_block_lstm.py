"""LSTM layers by TensorFlow's block kernel: the numbers of Keras' own loop, forward and back, and the same file."""

import numpy as np
import pytest

keras = pytest.importorskip("keras")

from pipeline import block_lstm  # noqa: E402
from pipeline.block_lstm import use_block_kernel  # noqa: E402

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's kernel")


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture(autouse=True)
def cpu(monkeypatch):
    monkeypatch.setattr(block_lstm, "TESTED_FROM", (2, 0))
    monkeypatch.setattr(block_lstm, "keras_gpus", lambda: [])


def network(**settings):
    keras.utils.set_random_seed(1)
    window = keras.Input((7, 3))
    return keras.Model(window, keras.layers.LSTM(5, bias_initializer="random_normal", **settings)(window))


def outputs_and_gradients(model, windows, target):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        output = model(tf.constant(windows))
        loss = tf.reduce_mean((output - target) ** 2)
    return [output.numpy(), *(gradient.numpy() for gradient in tape.gradient(loss, model.trainable_variables))]


@pytest.mark.parametrize("settings", [{}, {"return_sequences": True}, {"go_backwards": True},
                                      {"go_backwards": True, "return_sequences": True}])  # fmt: skip
def test_outputs_and_gradients_are_those_of_keras_loop(settings, rng):
    model = network(**settings)
    windows = rng.standard_normal((4, 7, 3)).astype(np.float32)
    target = rng.standard_normal((4, *model.output.shape[1:])).astype(np.float32)
    expected = outputs_and_gradients(model, windows, target)
    assert use_block_kernel(model, 32) == 1
    found = outputs_and_gradients(model, windows, target)
    assert len(found) == 4
    for values, wanted in zip(found, expected):
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-6)


def test_both_directions_of_a_bidirectional_layer_take_the_kernel(rng):
    window = keras.Input((7, 3))
    model = keras.Model(window, keras.layers.Bidirectional(keras.layers.LSTM(5, return_sequences=True))(window))
    windows = rng.standard_normal((4, 7, 3)).astype(np.float32)
    expected = np.asarray(model(windows))
    assert use_block_kernel(model, 32) == 2
    np.testing.assert_allclose(np.asarray(model(windows)), expected, rtol=1e-5, atol=1e-6)


def test_the_saved_file_is_that_of_the_plain_network(tmp_path):
    model = network()
    config = model.get_config()
    use_block_kernel(model, 32)
    assert model.get_config() == config
    model.save(tmp_path / "model.h5")
    assert keras.models.load_model(tmp_path / "model.h5").get_config()["layers"][1]["class_name"] == "LSTM"


@pytest.mark.parametrize("settings", [{"activation": "relu"}, {"recurrent_dropout": 0.1}, {"dropout": 0.1},
                                      {"use_bias": False}])  # fmt: skip
def test_layers_that_the_kernel_does_not_know_are_left_alone(settings):
    assert use_block_kernel(network(**settings), 32) == 0


def test_large_batches_wide_layers_older_versions_and_gpus_are_left_to_keras(monkeypatch):
    assert use_block_kernel(network(), block_lstm.LARGEST_BATCH + 1) == 0
    window = keras.Input((7, 3))
    wide = keras.Model(window, keras.layers.LSTM(block_lstm.LARGEST_UNITS + 1)(window))
    assert use_block_kernel(wide, 32) == 0
    monkeypatch.setattr(block_lstm, "TESTED_FROM", (99, 0))
    assert use_block_kernel(network(), 32) == 0
    monkeypatch.setattr(block_lstm, "TESTED_FROM", (2, 0))
    assert use_block_kernel(network(), 32) == 1
    monkeypatch.setattr(block_lstm, "keras_gpus", lambda: ["gpu:0"])
    assert use_block_kernel(network(), 32) == 0
