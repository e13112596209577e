"""What a network runs on, in a line for people; on a GPU also whether its LSTMs run on cuDNN."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.bundle.network import import_keras

CUDNN_SETTINGS = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "recurrent_dropout": 0,
    "unroll": False,
    "use_bias": True,
}
"""What cuDNN's LSTM computes, by Keras' documentation; any other runs in Keras' own slow loop."""


def describe(model: Any, gpus: Sequence[str] | None = None) -> str:
    """Size of a network, Keras' version and backend, and what it runs on.

    Args:
        model: Keras model.
        gpus: Names of the GPUs; by default those that Keras sees.

    Returns:
        "46,721 parameters, Keras 3.15.1 on tensorflow, 2 CPU cores"; with a GPU "…, gpu:0: its 3
        LSTM layers run on cuDNN", or which of them do not, and why.
    """
    keras = import_keras()
    backend = keras.backend.backend()
    size = f"{model.count_params():,} parameters, Keras {keras.__version__} on {backend}"
    gpus = keras_gpus() if gpus is None else gpus
    if not gpus:
        return f"{size}, {os.cpu_count()} CPU cores"
    layers = list(lstm_layers(model.layers))
    slow = {layer.name: reasons for layer in layers if (reasons := reasons_against_cudnn(layer))}
    found = f"{size}, {' '.join(gpus)}"
    if not layers:
        return found
    if not slow:
        return f"{found}: its {len(layers)} LSTM layers run on cuDNN"
    named = ", ".join(f"{name} ({', '.join(reasons)})" for name, reasons in slow.items())
    return f"{found}: not on cuDNN, so many times slower: {named}"


def reasons_against_cudnn(lstm: Any) -> list[str]:
    """Settings of an LSTM layer that cuDNN does not know, such as ["activation relu"]."""
    config = lstm.get_config()
    unlike = [name for name, wanted in CUDNN_SETTINGS.items() if config[name] != wanted]
    reasons = [f"{name} {config[name]}" for name in unlike]
    if lstm.use_cudnn is False:
        reasons.append("use_cudnn False")
    return reasons


def lstm_layers(layers: Iterable[Any]) -> Iterator[Any]:
    """The LSTM layers among these and inside of bidirectional layers and models."""
    import keras

    for layer in layers:
        if isinstance(layer, keras.layers.LSTM):
            yield layer
        elif isinstance(layer, keras.layers.Bidirectional):
            yield from lstm_layers([layer.forward_layer, layer.backward_layer])
        elif isinstance(layer, keras.Model):
            yield from lstm_layers(layer.layers)


def keras_gpus() -> list[str]:
    """GPUs that Keras' backend sees, such as ["gpu:0"]; none where the backend does not tell."""
    import keras

    try:
        return list(keras.distribution.list_devices("gpu"))
    except (AttributeError, NotImplementedError, RuntimeError):  # the last is jax's, without one
        return []
