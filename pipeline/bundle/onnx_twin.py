"""The ONNX twin of a network: the same function in a file that onnxruntime runs without TensorFlow.

Keras exports it through tf2onnx, both optional; a bundle without a twin is complete and is served
by Keras.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundle.network import ONNX_BATCH, OnnxNetwork, import_keras, quiet_absl, twin_of
from pipeline.samples.windows import Stream

logger = logging.getLogger(__name__)

TOLERANCE = 1e-6
"""Largest difference between the two in the network's units, on standard normal rows."""


def export_twin(model_path: Path) -> Path | None:
    """Export a network's twin beside it, checked against Keras.

    Args:
        model_path: .h5 file of a network with one output.

    Returns:
        The twin; None where onnxruntime or tf2onnx is not installed, Keras runs on another backend
        than TensorFlow, or the two differ (with a notice why).
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "tf2onnx")):
        return None
    keras = import_keras()
    if keras.backend.backend() != "tensorflow":
        logger.info("no ONNX twin: Keras exports one from the tensorflow backend alone")
        return None
    twin = twin_of(model_path)
    try:
        with (
            keras.device("cpu:0"),
            quiet_absl(),
        ):  # a GPU's matrix products are coarser, and cuDNN's LSTM has no twin
            model = keras.models.load_model(model_path, compile=False)
            for layer in model.layers:
                parts = [
                    layer,
                    *(
                        vars(layer)[n]
                        for n in ("forward_layer", "backward_layer")
                        if n in vars(layer)
                    ),
                ]
                for part in parts:
                    if "use_cudnn" in vars(part):
                        part.use_cudnn = False
            difference = _export(model, twin)
    # tf2onnx meets what it does not know with many kinds of errors; a twin is a convenience
    except Exception as error:
        twin.unlink(missing_ok=True)
        logger.warning(
            "no ONNX twin: the export failed (%s: %s)", type(error).__name__, str(error)[:200]
        )
        return None
    if not difference <= TOLERANCE:
        twin.unlink()
        logger.warning("no ONNX twin: its outputs differ from Keras' by %.1e", difference)
        return None
    return twin


def _export(model: Any, twin: Path, n_windows: int = 8 * ONNX_BATCH) -> float:
    """Write the twin; returns the largest difference to Keras on random windows."""
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    generator = np.random.default_rng(0)
    rows = [
        generator.standard_normal((n_windows + shape[0], shape[1])).astype(np.float32)
        for shape in shapes
    ]
    streams = [
        Stream(r, np.arange(n_windows) + shape[0] - 1, shape[0]) for r, shape in zip(rows, shapes)
    ]
    windows = [
        r[np.arange(n_windows)[:, None] + np.arange(shape[0])] for r, shape in zip(rows, shapes)
    ]
    expected = np.asarray(model(windows))  # and Keras exports only what has been called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx asks NumPy for names that it no longer has
        model.export(twin, format="onnx", verbose=False)
    network = OnnxNetwork(twin.read_bytes(), input_shape=shapes, where=str(twin))
    return float(np.abs(network.run_streams(streams) - expected).max())
