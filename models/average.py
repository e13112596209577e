"""An ensemble in one network: copies of its members side by side, and the mean of their outputs."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def build_average(members: Sequence[keras.Model]) -> keras.Model:
    """One network whose output is the mean of its members' outputs.

    Their layers are copied flat, `trend_lstm_1` of the second member as `member_2_trend_lstm_1`,
    rather than nested as models in a model: `model.layers` then holds every layer.

    Args:
        members: Trained networks of one input of the same shape and one output; they stay as they
            are.

    Returns:
        Uncompiled model of built-in layers, input and output as those of a member.
    """
    window = keras.Input(members[0].inputs[0].shape[1:], name="window")
    outputs = []
    for number, member in enumerate(members, start=1):
        outputs.append(_copy(member, f"member_{number}_", window))
    forecast = layers.Average(name="forecast")(outputs)
    return keras.Model(window, forecast, name=f"average_of_{len(members)}")


def _copy(member: keras.Model, prefix: str, window: keras.KerasTensor) -> keras.KerasTensor:
    """Output of a copy of the member, its weights included, on another input."""

    def renamed(layer: layers.Layer) -> layers.Layer:
        return layer.__class__.from_config({**layer.get_config(), "name": prefix + layer.name})

    # A member from a file has a list of one input, one that was just built a single input.
    inputs = keras.tree.map_structure(lambda _: window, member.input)
    copy = keras.models.clone_model(member, input_tensors=inputs, clone_function=renamed)
    copy.set_weights(member.get_weights())
    return copy.outputs[0]
