"""Runs a saved network; the only part of the predictors that loads Keras, and only when a network is opened."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from pipeline.windows import Stream, window_view

BATCH = 256
"""Windows a call; the last call is filled up, so that a network meets two shapes only: this and `SMALL_BATCH`."""

SMALL_BATCH = 16
"""Windows a call where there are no more than these."""


class KerasNetwork:
    """A network opened from an .h5 file.

    Keras' result for a window differs by one ulp between a batch of one and larger ones, with some widths of layers up
    to a batch of four; so few windows run as a batch of 16 and every path gives the same bits.
    """

    def __init__(self, path: str | Path, *, input_shape: tuple[int, int] | Sequence[tuple[int, int]]) -> None:
        """Open the file.

        Args:
            path: .h5 file of a network of built-in layers.
            input_shape: (lookback, n_features) the scaler file promises: one for each input, or one for all of them.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated or no Keras model, or takes windows of another shape.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such model file; train one or mend the path")
        keras = import_keras()
        try:
            with quiet_absl():
                self._model = keras.models.load_model(path, compile=False, safe_mode=True)
        except Exception as error:  # Keras and h5py raise OSError, KeyError, TypeError, ValueError, … for broken files
            raise ValueError(
                f"{path}: not a readable Keras .h5 model of {path.stat().st_size} bytes ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else ''}); is it truncated? copy or train it again"
            ) from error
        found = [tuple(tensor.shape[1:]) for tensor in self._model.inputs]
        wanted = [input_shape] if isinstance(input_shape[0], int) else list(input_shape)
        wanted = wanted * len(found) if len(wanted) == 1 else wanted
        if found != wanted:
            shapes = [", ".join(map(str, shapes)) for shapes in (found, wanted)]
            raise ValueError(
                f"{path}: takes windows of shape {shapes[0]}, the scaler file says {shapes[1]}; wrong file?"
            )
        self._lookback = found[0][0]

    def run(self, rows: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Output for the windows that end with given rows, gathered a batch at a time.

        Args:
            rows: (n_candles, n_features) float32, scaled.
            end: (n,) the last row of each window, n > 0.

        Returns:
            (n,) float32, in the units the network was trained on.
        """
        return self.run_streams([Stream(rows, end, self._lookback)])[:, 0]

    def run_streams(self, streams: Sequence[Stream]) -> np.ndarray:
        """Output for windows of several inputs, a stream each or one for all, gathered a batch at a time.

        Returns:
            (n, n_outputs) float32, in the units the network was trained on.
        """
        n = len(streams[0].end)
        size = SMALL_BATCH if n <= SMALL_BATCH else BATCH
        outputs = []
        for first in range(0, n, size):
            inputs = []
            for stream in streams:
                part = stream.end[first : first + size]
                filled = np.concatenate([part, np.repeat(part[-1:], size - len(part))])
                windows = window_view(stream.rows, stream.lookback)
                inputs.append(np.ascontiguousarray(windows[filled - stream.lookback + 1]))
            batch = inputs * len(self._model.inputs) if len(inputs) == 1 else inputs
            outputs.append(np.asarray(self._model.predict_on_batch(batch if len(batch) > 1 else batch[0]))[: n - first])
        return np.concatenate(outputs)


def import_keras() -> ModuleType:
    """Import Keras with its default backend, without the start-up chatter of TensorFlow's C++ parts on stderr."""
    with contextlib.suppress(ImportError):
        import curl_cffi  # noqa: F401  # before TensorFlow, whose libcurl it would meet in place of its own (Yahoo)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _stderr_silenced():
        import keras

        keras.ops.zeros(1)  # makes the backend look for its devices, the other thing it chatters about
    return keras


@contextlib.contextmanager
def quiet_absl() -> Iterator[None]:
    """Hide Keras' advice on the .h5 format, which is our documented choice."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Send file descriptor 2 nowhere: those lines come from C++, before any log level is read."""
    if "keras" in sys.modules:
        yield
        return
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
