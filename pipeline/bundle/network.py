"""Runs a saved network: its ONNX twin where there is one and onnxruntime is installed, else Keras.

The only part of the predictors that loads either, and only when a network is opened.
"""

from __future__ import annotations

import abc
import concurrent.futures
import contextlib
import hashlib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from pipeline.bundle.network_file import RefusedNetworkError, check_network_file
from pipeline.samples.windows import Stream, window_view

BATCH = 256
"""Windows a call of Keras; the last call is filled up, so that a network meets two shapes: this and
`SMALL_BATCH`."""

SMALL_BATCH = 16
"""Windows a call of Keras where there are no more than these."""

ONNX_BATCH = 8
"""Windows every call of onnxruntime: half the time of 16 for a single window, and almost as fast
for many."""

MANY_CALLS = 16
"""Calls of onnxruntime from which on they are shared among the cores."""


def open_network(
    model_path: Path, input_shape: Sequence[tuple[int, int]], twin_sha256: str | None
) -> KerasNetwork | OnnxNetwork:
    """Open a network's ONNX twin if it has one that is still there and onnxruntime is installed,
    else the .h5.

    Args:
        model_path: The .h5 file; the twin lies beside it.
        input_shape: (lookback, n_features) for each input, or one for all of them.
        twin_sha256: What the scaler file says of the twin; None: there is none.

    Raises:
        FileNotFoundError: There is no such model file.
        ValueError: A file is damaged, of another run, or takes windows of another shape.
    """
    twin = twin_of(model_path)
    if twin_sha256 is None or not twin.is_file() or importlib.util.find_spec("onnxruntime") is None:
        return KerasNetwork(model_path, input_shape=input_shape)
    content = twin.read_bytes()  # once, so that what is checked is what runs
    if hashlib.sha256(content).hexdigest() != twin_sha256:
        raise ValueError(
            f"{twin}: its bytes are not those that the scaler file names (sha256 "
            f"{twin_sha256[:12]}…); copy the bundle again, or delete this file to forecast with "
            "Keras"
        )
    return OnnxNetwork(content, input_shape=input_shape, where=str(twin))


def twin_of(model_path: Path) -> Path:
    """Where a network's twin lies: `crypto_v2_final_model.onnx` beside
    `crypto_v2_final_model.h5`."""
    return model_path.with_suffix(".onnx")


class _Network(abc.ABC):
    """Feeds windows to a network, a batch at a time."""

    batch: ClassVar[int]
    small_batch: ClassVar[int]
    _lookback: int
    _n_inputs: int

    @abc.abstractmethod
    def _call(self, inputs: list[np.ndarray]) -> np.ndarray:
        """(batch, n_outputs) of a full batch of windows for each input."""

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
        """Output for windows of several inputs, a stream each or one for all, gathered a batch at a
        time.

        Returns:
            (n, n_outputs) float32, in the units the network was trained on.
        """
        n = len(streams[0].end)
        size = self.small_batch if n <= self.small_batch else self.batch

        windows = [window_view(stream.rows, stream.lookback) for stream in streams]

        def call(first: int) -> np.ndarray:
            inputs = []
            for view, stream in zip(windows, streams):
                part = stream.end[first : first + size]
                if len(part) < size:
                    part = np.concatenate([part, np.repeat(part[-1:], size - len(part))])
                inputs.append(np.ascontiguousarray(view[part - stream.lookback + 1]))
            return self._call(inputs * self._n_inputs if len(inputs) == 1 else inputs)[: n - first]

        return np.concatenate(self._map(call, range(0, n, size)))

    def _map(self, call: Callable[[int], np.ndarray], firsts: range) -> list[np.ndarray]:
        """The calls' results, in order; one after another, since Keras shares each among the cores
        itself."""
        return [call(first) for first in firsts]

    def _demand_shapes(
        self, found: list[tuple[int, int]], input_shape: Sequence[Any], where: str
    ) -> None:
        wanted = [input_shape] if isinstance(input_shape[0], int) else list(input_shape)
        wanted = wanted * len(found) if len(wanted) == 1 else wanted
        if found != wanted:
            shapes = [", ".join(map(str, shapes)) for shapes in (found, wanted)]
            raise ValueError(
                f"{where}: takes windows of shape {shapes[0]}, the scaler file says {shapes[1]}; "
                "wrong file?"
            )
        self._lookback, self._n_inputs = found[0][0], len(found)


class KerasNetwork(_Network):
    """A network opened from an .h5 file.

    Keras' result for a window differs by one ulp between a batch of one and larger ones, with some
    widths of layers up to a batch of four; so few windows run as a batch of 16 and every path gives
    the same bits.
    """

    batch, small_batch = BATCH, SMALL_BATCH

    def __init__(
        self, path: str | Path, *, input_shape: tuple[int, int] | Sequence[tuple[int, int]]
    ) -> None:
        """Open the file.

        Args:
            path: .h5 file of a network of built-in layers.
            input_shape: (lookback, n_features) the scaler file promises: one for each input, or one
                for all of them.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated or no Keras model, takes windows of another shape, or
                holds anything but the built-in layers of this project's networks, such as a
                `Lambda`: then it is not opened at all.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: there is no such model file; train one or mend the path"
            )
        keras = import_keras()
        try:
            check_network_file(path)
            with quiet_absl():
                self._model = keras.models.load_model(path, compile=False, safe_mode=True)
        except RefusedNetworkError:
            raise
        # Keras and h5py raise OSError, KeyError, TypeError, ValueError, … for broken files
        except Exception as error:
            raise ValueError(
                f"{path}: not a readable Keras .h5 model of {path.stat().st_size} bytes "
                f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); is "
                "it truncated? copy or train it again"
            ) from error
        self._demand_shapes(
            [tuple(tensor.shape[1:]) for tensor in self._model.inputs], input_shape, str(path)
        )

    def _call(self, inputs: list[np.ndarray]) -> np.ndarray:
        output = self._model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
        return (
            np.hstack([np.asarray(head) for head in output])
            if isinstance(output, list)
            else np.asarray(output)
        )


class OnnxNetwork(_Network):
    """A network's ONNX twin (`onnx_twin`): within 1e-6 of Keras, many times as fast, and without
    TensorFlow.

    onnxruntime's result for a window depends on the size of the batch too, so there is one size.
    """

    batch = small_batch = ONNX_BATCH

    def __init__(
        self,
        content: bytes,
        *,
        input_shape: tuple[int, int] | Sequence[tuple[int, int]],
        where: str,
    ) -> None:
        """Open the bytes of an .onnx file.

        Args:
            content: Of the file.
            input_shape: (lookback, n_features) for each input, or one for all of them.
            where: What the file is called in errors.

        Raises:
            ValueError: The bytes are no ONNX model, or it takes windows of another shape.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = (
            1  # networks of this size lose by sharing a step among threads
        )
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no class but RuntimeError's and Exception's
            reason = (str(error).splitlines() or [""])[0][:200]
            raise ValueError(
                f"{where}: not a readable ONNX model ({reason}); copy the bundle again, or delete "
                "this file"
            ) from error
        tensors = self._session.get_inputs()
        self._names = [tensor.name for tensor in tensors]
        self._demand_shapes([tuple(tensor.shape[1:]) for tensor in tensors], input_shape, where)

    def _call(self, inputs: list[np.ndarray]) -> np.ndarray:
        return self._session.run(None, dict(zip(self._names, inputs)))[0]

    def _map(self, call: Callable[[int], np.ndarray], firsts: range) -> list[np.ndarray]:
        if len(firsts) < MANY_CALLS:
            return super()._map(call, firsts)
        with concurrent.futures.ThreadPoolExecutor(
            os.cpu_count()
        ) as pool:  # a call leaves Python to others
            parts = [
                firsts[first : first + MANY_CALLS] for first in range(0, len(firsts), MANY_CALLS)
            ]
            return [
                output
                for outputs in pool.map(lambda part: list(map(call, part)), parts)
                for output in outputs
            ]


def import_keras() -> ModuleType:
    """Import Keras with its default backend, without the start-up chatter of TensorFlow's C++ parts
    on stderr."""
    with contextlib.suppress(ImportError):
        # before TensorFlow, whose libcurl it would meet in place of its own (Yahoo)
        import curl_cffi  # noqa: F401
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _stderr_silenced():
        import keras

        keras.ops.zeros(
            1
        )  # makes the backend look for its devices, the other thing it chatters about
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
