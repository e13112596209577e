"""Networks of one layer, for tests of what stands around a network.

Each looks at the last candle alone. They train and open in a tenth of the time that LSTM layers
take, nearly all of which is TensorFlow's tracing. Each takes the place of a script's network by
`main(config, build=...)`, so each has that network's inputs and outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.bundle.network import import_keras


@contextlib.contextmanager
def bare() -> Iterator[None]:
    """Runs in this block make no ONNX twin and no page, which take half of a small run's time."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.training.fit.export_twin", lambda path: None)
        patched.setattr("pipeline.report.run_page.html_report", lambda *_, **__: "a page")
        yield


def for_v2(config: Any, n_features: int) -> Any:
    """Of v2: a window to a scaled log-return."""
    keras = import_keras()
    window, last = _window(config, n_features)
    return keras.Model(window, keras.layers.Dense(1)(last))


def for_v1(config: Any, n_features: int) -> Any:
    """Of v1: two windows to q10, q50 and q90 in this order, whatever the weights."""
    keras = import_keras()

    hours, last_hour = _window(config, n_features)
    quarters, last_quarter = _window(config, n_features)
    both = keras.layers.Concatenate()([last_hour, last_quarter])
    median = keras.layers.Dense(1, kernel_initializer="zeros")(both)
    below, above = (
        keras.layers.Dense(1, activation="softplus", kernel_initializer="zeros")(both)
        for _ in range(2)
    )
    q10 = keras.layers.Subtract()([median, below])
    q90 = keras.layers.Add()([median, above])
    return keras.Model([hours, quarters], keras.layers.Concatenate()([q10, median, q90]))


def for_v1_final(config: Any, n_features: int) -> Any:
    """Of v1-final: the same window twice to a price between 0 and 1."""
    keras = import_keras()

    first, last = _window(config, n_features)
    second, same = _window(config, n_features)
    both = keras.layers.Concatenate()([last, same])
    return keras.Model([first, second], keras.layers.Dense(1, activation="sigmoid")(both))


def for_v7(config: Any, n_features: int) -> Any:
    """Of v7: a window to open, close, high and low of a possible candle."""
    keras = import_keras()

    window, last = _window(config, n_features)
    open_, close = (keras.layers.Dense(1)(last) for _ in range(2))
    upper, lower = (keras.layers.Dense(1, activation="softplus")(last) for _ in range(2))
    high = keras.layers.Add()([keras.layers.Maximum()([open_, close]), upper])
    low = keras.layers.Subtract()([keras.layers.Minimum()([open_, close]), lower])
    return keras.Model(window, [open_, close, high, low])


def for_v9_direction(config: Any, n_features: int) -> Any:
    """Of v9's direction: a window to the probability of a rise."""
    return _for_v9(config, n_features, "sigmoid")


def for_v9_price(config: Any, n_features: int) -> Any:
    """Of v9's price: a window to a scaled log-return."""
    return _for_v9(config, n_features, "linear")


def _for_v9(config: Any, n_features: int, activation: str) -> Any:
    keras = import_keras()

    window, last = _window(config, n_features)
    return keras.Model(window, keras.layers.Dense(1, activation=activation)(last))


def _window(config: Any, n_features: int) -> tuple[Any, Any]:
    """An input of windows, and the last candle of each; the weights that follow are seeded."""
    keras = import_keras()
    keras.utils.set_random_seed(config.seed)
    window = keras.Input((config.lookback, n_features))
    return window, keras.layers.Flatten()(keras.layers.Cropping1D((config.lookback - 1, 0))(window))
