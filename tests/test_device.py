"""What the training scripts say about the device; no GPU is needed, so none has been seen by these
tests."""

from __future__ import annotations

import os

import keras

from models.bilstm_ohlc import build_bilstm_ohlc
from models.dual_stream import build_dual_stream
from pipeline.training.device import describe, keras_gpus, lstm_layers, reasons_against_cudnn


def test_on_a_cpu_the_line_counts_parameters_and_cores():
    line = describe(build_dual_stream(60, 16), gpus=[])
    assert line == (
        f"46,337 parameters, Keras {keras.__version__} on {keras.backend.backend()}, "
        f"{os.cpu_count()} CPU cores"
    )


def test_v2s_three_lstm_layers_run_on_cudnn_where_there_is_a_gpu():
    assert describe(build_dual_stream(60, 16), gpus=["gpu:0"]).endswith(
        ", gpu:0: its 3 LSTM layers run on cuDNN"
    )


def test_both_directions_of_v7s_layers_are_counted():
    assert describe(build_bilstm_ohlc(60, 13), gpus=["gpu:0"]).endswith(
        "its 6 LSTM layers run on cuDNN"
    )


def test_a_layer_that_cudnn_does_not_know_is_named_with_the_reason():
    window = keras.Input((8, 2))
    states = keras.layers.LSTM(4, return_sequences=True, name="plain")(window)
    states = keras.layers.LSTM(4, activation="relu", recurrent_dropout=0.2, name="odd")(states)
    line = describe(keras.Model(window, states), gpus=["gpu:0", "gpu:1"])
    assert line.endswith(
        ", gpu:0 gpu:1: not on cuDNN, so many times slower: odd (activation relu, "
        "recurrent_dropout 0.2)"
    )


def test_each_setting_that_keeps_a_layer_from_cudnn_is_found():
    for settings, reason in (
        ({"activation": "relu"}, "activation relu"),
        ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation hard_sigmoid"),
        ({"recurrent_dropout": 0.1}, "recurrent_dropout 0.1"),
        ({"unroll": True}, "unroll True"),
        ({"use_bias": False}, "use_bias False"),
        ({"use_cudnn": False}, "use_cudnn False"),
    ):
        assert reasons_against_cudnn(keras.layers.LSTM(4, **settings)) == [reason]
    assert reasons_against_cudnn(keras.layers.LSTM(4)) == []


def test_layers_inside_a_nested_model_are_found_too():
    window = keras.Input((8, 2))
    inner = keras.Model(window, keras.layers.LSTM(3, name="inner")(window))
    outer = keras.Model(window, keras.layers.Dense(1)(inner(window)))
    assert [layer.name for layer in lstm_layers(outer.layers)] == ["inner"]


def test_a_model_without_lstm_layers_is_described_without_a_word_on_cudnn():
    window = keras.Input((3,))
    assert describe(keras.Model(window, keras.layers.Dense(1)(window)), gpus=["gpu:0"]).endswith(
        ", gpu:0"
    )


def test_a_backend_that_does_not_tell_its_devices_counts_as_one_without_a_gpu(monkeypatch):
    def refuse(kind: str) -> list[str]:
        raise NotImplementedError

    monkeypatch.setattr(keras.distribution, "list_devices", refuse)
    assert keras_gpus() == []
