"""Keras' LSTM layers by TensorFlow's block kernel, while a network is trained on a CPU.

On a CPU Keras runs an LSTM as a loop of small TensorFlow operations, some 20 for each of 60 steps, forward and back,
and the time goes into their bookkeeping. BlockLSTM is the whole loop in one operation, with the same numbers but for
rounding. A GPU has cuDNN, which Keras finds itself; other backends compile the loop.
"""

from __future__ import annotations

import functools
from typing import Any

from pipeline.device import keras_gpus, lstm_layers, reasons_against_cudnn

LARGEST_BATCH = LARGEST_UNITS = 64
"""Beyond either the products weigh more than the bookkeeping, and Keras' loops, which run side by side, are as
fast or faster (docs/performance.md)."""


TESTED_FROM = (2, 21)
"""TensorFlow's version: on 2.16 two tests that plant a signal did not find it with the kernel; why is not known."""


def use_block_kernel(model: Any, batch_size: int) -> int:
    """Let the model's LSTM layers compute by the block kernel where that is faster; they are saved as ever.

    Args:
        model: Keras model, not compiled into a function yet.
        batch_size: Windows a training step.

    Returns:
        Number of layers that do; 0 where Keras runs on another backend than TensorFlow, an older one, or on a GPU.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or keras_gpus() or batch_size > LARGEST_BATCH:
        return 0
    import tensorflow as tf

    if tuple(map(int, tf.__version__.split(".")[:2])) < TESTED_FROM:
        return 0
    layers = list(lstm_layers(model.layers))
    if any(layer.units > LARGEST_UNITS or layer.dropout or reasons_against_cudnn(layer) for layer in layers):
        return 0
    for layer in layers:
        layer.inner_loop = functools.partial(_inner_loop, layer)
    return len(layers)


def _inner_loop(layer: Any, sequences: Any, initial_state: Any, mask: Any, training: bool = False) -> tuple[Any, ...]:
    """What `keras.layers.LSTM.inner_loop` computes: last output, all outputs, last states.

    Args:
        layer: The LSTM layer.
        sequences: (batch, steps, inputs).
        initial_state: h and c before the first step, (batch, units) each.
        mask: Of steps to leave out; has to be None, as no layer before these makes one.
        training: Of no effect, since the layer drops nothing out itself.
    """
    import tensorflow as tf

    if mask is not None:
        raise ValueError(f"{layer.name}: the block kernel knows no mask; leave the masking layer out")
    cell = layer.cell
    steps = tf.transpose(sequences, (1, 0, 2))
    if layer.go_backwards:
        steps = tf.reverse(steps, axis=[0])
    nothing = tf.zeros((layer.units,), steps.dtype)  # instead of the weights of peepholes, which Keras does not have
    weights, bias = (_reordered(w) for w in (tf.concat([cell.kernel, cell.recurrent_kernel], axis=0), cell.bias))
    _, cell_states, _, _, _, _, outputs = tf.raw_ops.BlockLSTM(
        seq_len_max=tf.cast(tf.shape(steps)[0], tf.int64), x=steps, h_prev=initial_state[0], cs_prev=initial_state[1],
        w=weights, b=bias, wci=nothing, wcf=nothing, wco=nothing, forget_bias=0.0, cell_clip=-1.0,
    )  # fmt: skip
    every = tf.transpose(outputs, (1, 0, 2)) if layer.return_sequences else tf.expand_dims(outputs[-1], 1)
    return outputs[-1], every, [outputs[-1], cell_states[-1]]


def _reordered(weights: Any) -> Any:
    """Gates in the last axis from Keras' order (input, forget, cell, output) to the kernel's: cell before forget.

    BlockLSTMV2 takes Keras' order, but its gradient on a CPU comes in the other (TensorFlow 2.21).
    """
    import tensorflow as tf

    gates = tf.split(weights, 4, axis=-1)
    return tf.concat([gates[0], gates[2], gates[1], gates[3]], axis=-1)
