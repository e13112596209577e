"""How large a described network is, found out before Keras builds it.

A description of a few lines may ask for a layer of a million units, and Keras would allocate its
weights before it compares them with those of the file. So the shapes are followed from layer to
layer here, with plain integers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

MAX_LAYERS = 600
"""An ensemble of 35 has fewer. Keras takes 10 ms to build one."""

COSTS = {"Bidirectional": 5, "MultiHeadAttention": 5}
"""Layers that count for several, since they hold others."""

MAX_TENSOR = 2**20
"""Numbers that a layer makes of a window: 1,000 candles of 1,000 units."""

FIXED: Mapping[str, tuple[Any, ...]] = {
    "unroll": (False,),
    "stateful": (False,),
    "groups": (1,),
    "strides": (1, [1]),
    "data_format": ("channels_last", None),
    "merge_mode": ("concat",),
    "output_shape": (None,),
    "attention_axes": (None, [1]),
    "keepdims": (False,),
    "lora_rank": (None,),
    "quantization_config": (None,),
    "renorm": (False,),
    "use_gate": (False,),
    "sliding_window": (None,),
}
"""Arguments of layers that would change shapes, weights or time, and their admitted values."""

SAME = "Dropout Activation Rescaling".split()
MERGING = "Add Average Subtract Multiply Maximum Minimum".split()

Shape = tuple[int, ...]
"""of one window's tensor, without the batch"""


def count_weights(description: Any) -> int:
    """How many numbers the weights of a network are, by its description.

    Args:
        description: The `model_config` of a .h5 file, of admitted classes alone.

    Raises:
        ValueError: It is larger than networks of this project, or not built as they are.
        LookupError, TypeError: It is no description of a network.
    """
    config = description["config"]
    layers = config["layers"]
    if description["class_name"] != "Functional":
        raise ValueError(f"it is a {description['class_name']!r:.60}, not a network of layers")
    cost = sum(COSTS.get(layer["class_name"], 1) for layer in layers)
    if max(cost, len(config["output_layers"])) > MAX_LAYERS:
        raise ValueError(f"it has {len(layers):,} layers, more than the {MAX_LAYERS} admitted")
    made: dict[str, list[Shape]] = {}
    n_weights = 0
    for layer in layers:
        name = layer["name"]
        try:
            inputs = [made[source][tensor] for source, tensor in _sources(layer)]
            outputs, n = _follow(layer["class_name"], layer["config"], inputs)
            if any(math.prod(shape) > MAX_TENSOR or min(shape) < 1 for shape in outputs):
                raise ValueError("it makes too much of a window, or nothing")
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"its layer {name!r:.60} cannot be followed: {error!s:.80}") from error
        if name in made:
            raise ValueError(f"it has two layers {name!r:.60}")
        made[name] = outputs
        n_weights += n
    return n_weights


def _sources(layer: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(layer, number of its output) of each tensor that a layer is given."""
    nodes = layer["inbound_nodes"]
    if len(nodes) != (layer["class_name"] != "InputLayer"):
        raise ValueError(f"it stands at {len(nodes)} places")
    found = list(_histories(nodes))
    if len(found) > MAX_LAYERS or any(node != 0 for _, node, _ in found):
        raise ValueError("its inputs are none of this network's layers")
    return [(source, tensor) for source, _, tensor in found]


def _histories(described: Any) -> Iterator[list[Any]]:
    """Where the tensors in a call's arguments come from, in their order."""
    if isinstance(described, list):
        for item in described:
            yield from _histories(item)
    elif isinstance(described, dict):
        if described.get("class_name") == "__keras_tensor__":
            yield described["config"]["keras_history"]
        else:
            yield from _histories(list(described.values()))


def _follow(kind: str, config: dict[str, Any], inputs: list[Shape]) -> tuple[list[Shape], int]:
    """The shapes of a layer's outputs, and how many weights it has."""
    for name, admitted in FIXED.items():
        if name in config and config[name] not in admitted:
            raise ValueError(f"{name} is {config[name]!r:.40}")
    if kind == "InputLayer":
        batch, *shape = config["batch_shape"]
        if batch is not None:
            raise ValueError("its batch has a fixed size")
        return [tuple(_size(size) for size in shape)], 0
    if kind in ("LSTM", "Bidirectional"):
        return (_follow_lstm if kind == "LSTM" else _follow_bidirectional)(config, inputs)
    if kind in MERGING:
        if len({len(shape) for shape in inputs}) != 1:
            raise ValueError("its inputs have different numbers of dimensions")
        return [np.broadcast_shapes(*inputs)], 0
    if kind == "Concatenate":
        widths = [shape[-1] for shape in inputs]
        if config["axis"] != -1 or len({shape[:-1] for shape in inputs}) != 1:
            raise ValueError("its inputs do not stand side by side")
        return [(*inputs[0][:-1], sum(widths))], 0
    shape = inputs[0]
    width = shape[-1]
    if kind in SAME:
        return [shape], 0
    if kind == "Flatten":
        return [(math.prod(shape),)], 0
    if kind == "Reshape":
        target = tuple(_size(size) for size in config["target_shape"])
        return [target if math.prod(target) == math.prod(shape) else (0,)], 0
    if kind == "Cropping1D":
        before, after = (_size(size, 0) for size in config["cropping"])
        return [(shape[0] - before - after, width)], 0
    if kind == "GlobalAveragePooling1D":
        return [(width,)], 0
    if kind == "Dense":
        units = _size(config["units"])
        return [(*shape[:-1], units)], units * (width + bool(config["use_bias"]))
    if kind == "Conv1D":
        return _follow_convolution(config, shape)
    if kind in ("BatchNormalization", "LayerNormalization") and config["axis"] in (-1, [-1]):
        n_moving = 2 if kind == "BatchNormalization" else 0
        return [shape], width * (n_moving + bool(config["center"]) + bool(config["scale"]))
    if kind == "MultiHeadAttention":
        return _follow_attention(config, inputs)
    raise ValueError(f"a {kind} of this kind is none of this project's")


def _follow_lstm(config: dict[str, Any], inputs: list[Shape]) -> tuple[list[Shape], int]:
    steps, width = inputs[0]
    units = _size(config["units"])
    output = (steps, units) if config["return_sequences"] else (units,)
    states = [(units,), (units,)] if config["return_state"] else []
    return [output, *states], 4 * units * (width + units + bool(config["use_bias"]))


def _follow_bidirectional(config: dict[str, Any], inputs: list[Shape]) -> tuple[list[Shape], int]:
    outputs, n_weights = [], 0
    for direction in ("layer", "backward_layer"):
        described = config.get(direction) or config["layer"]
        if described["class_name"] != "LSTM":
            raise ValueError("it holds no LSTM")
        # not by `_follow_lstm`, which would pass over the arguments
        shapes, n = _follow("LSTM", described["config"], inputs[:1])
        outputs.append(shapes)
        n_weights += n
    (first, *forward), (second, *backward) = outputs
    return [(*first[:-1], first[-1] + second[-1]), *forward, *backward], n_weights


def _follow_convolution(config: dict[str, Any], shape: Shape) -> tuple[list[Shape], int]:
    steps, width = shape
    filters = _size(config["filters"])
    [kernel] = (_size(size) for size in _listed(config["kernel_size"]))
    [dilation] = (_size(size) for size in _listed(config["dilation_rate"]))
    reach = dilation * (kernel - 1)
    if reach > MAX_TENSOR // width:
        raise ValueError("it reaches further than a window")
    if config["padding"] == "valid":
        steps -= reach
    return [(steps, filters)], filters * (kernel * width + bool(config["use_bias"]))


def _follow_attention(config: dict[str, Any], inputs: list[Shape]) -> tuple[list[Shape], int]:
    query, value, *key = inputs
    (steps, width), (n_values, value_width) = query, value
    key_width = key[0][-1] if key else value_width
    heads, key_dim = _size(config["num_heads"]), _size(config["key_dim"])
    value_dim = _size(config["value_dim"] or key_dim)
    if heads * steps * n_values > MAX_TENSOR:
        raise ValueError("it compares too many steps")
    n_weights = heads * (key_dim * (width + key_width) + value_dim * (value_width + width))
    if config["use_bias"]:
        n_weights += heads * (2 * key_dim + value_dim) + width
    return [query], n_weights


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _size(value: Any, least: int = 1) -> int:
    """A number of units or steps, which JSON may also hold as anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_TENSOR:
        raise ValueError(f"{value!r:.40} is none of the sizes that its networks have")
    return value
