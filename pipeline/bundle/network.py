"""Runs a saved network: by its ONNX twin where that can be opened, else by Keras.

A twin is the same function in a file that onnxruntime runs without TensorFlow. Keras exports it
through tf2onnx; both are optional, and a bundle without a twin is complete. Keras and onnxruntime
are imported here alone, and only when a network is opened or exported.
"""

from __future__ import annotations

import abc
import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from pipeline.bundle.metadata import shown
from pipeline.bundle.network_check import RefusedNetworkError, check_network_file, keras_version_of
from pipeline.bundle.snapshot import read_network, read_version
from pipeline.bundle.twin_check import check_twin
from pipeline.privacy import no_telemetry
from pipeline.samples.windows import Stream, window_view

logger = logging.getLogger(__name__)

WHOLE_FLOAT32 = {"NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}
"""Variables by which NVIDIA's libraries, and JAX's own kernels, multiply whole float32 numbers."""

BATCH = 256
"""Windows a call of Keras; the last call is filled up, so that there are two shapes of calls"""

SMALL_BATCH = 16
"""Windows a call of Keras where there are no more than these"""

ONNX_BATCH = 8
"""Windows a call of onnxruntime: one takes half the time of 16, many almost as little"""

MANY_CALLS = 16
"""Calls of onnxruntime from which on they are shared among the cores"""

TOLERANCE = 1e-6
"""Largest difference of a twin from Keras in the network's units, on standard normal rows"""

InputShape = tuple[int, int] | Sequence[tuple[int, int]]
"""(lookback, n_features) of each input, or one for all of them"""


def open_network(
    model_path: Path,
    input_shape: InputShape,
    twin_sha256: str | None,
    contents: Mapping[str, bytes] | None = None,
) -> KerasNetwork | OnnxNetwork:
    """Open a network's ONNX twin if it is there and onnxruntime is installed, else the .h5.

    Args:
        model_path: The .h5 file; the twin lies beside it.
        input_shape: Shape of the windows, as the scaler file promises.
        twin_sha256: What the scaler file says of the twin; None: there is none.
        contents: Name -> bytes of the two files, if they have been read.

    Raises:
        FileNotFoundError: There is no such model file.
        ValueError: A file is damaged, of another run, or takes windows of another shape.
    """
    twin = twin_of(model_path)
    if contents is None:
        contents = {path.name: read_network(path) for path in (model_path, twin) if path.exists()}
    content = contents.get(twin.name)
    if twin_sha256 is None or content is None or importlib.util.find_spec("onnxruntime") is None:
        h5 = contents.get(model_path.name)
        return KerasNetwork(model_path, input_shape=input_shape, content=h5)
    if hashlib.sha256(content).hexdigest() != twin_sha256:
        raise ValueError(
            f"{twin}: its bytes are not those that the scaler file names (sha256 "
            f"{twin_sha256[:12]}…); copy the bundle again, or delete this file to forecast with "
            "Keras"
        )
    return OnnxNetwork(content, input_shape=input_shape, where=str(twin))


def twin_of(model_path: Path) -> Path:
    """Where a network's twin lies: `model.onnx` beside `model.h5`."""
    return model_path.with_suffix(".onnx")


class _Network(abc.ABC):
    """Feeds windows to a network, a batch at a time."""

    batch: ClassVar[int]
    small_batch: ClassVar[int]

    def __init__(self, tensors: Sequence[Any], input_shape: Sequence[Any], where: str) -> None:
        """Compare the network's input tensors with the shapes that are to be fed to it."""
        found = [tuple(tensor.shape[1:]) for tensor in tensors]
        is_one = isinstance(input_shape[0], int)
        wanted = [tuple(input_shape)] if is_one else list(input_shape)
        if len(wanted) == 1:
            wanted = wanted * len(found)
        if found != wanted:
            raise ValueError(
                f"{where}: takes windows of shape {', '.join(map(str, found))}, the scaler file "
                f"says {', '.join(map(str, wanted))}; wrong file?"
            )
        self._lookback: int = found[0][0]
        self._n_inputs = len(found)

    @abc.abstractmethod
    def _run_batch(self, inputs: list[np.ndarray]) -> np.ndarray:
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
        """Output for windows of several inputs, a stream each or one for all of them.

        Returns:
            (n, n_outputs) float32, in the units the network was trained on.
        """
        n = len(streams[0].end)
        size = self.small_batch if n <= self.small_batch else self.batch
        windows = [window_view(stream.rows, stream.lookback) for stream in streams]

        def run_from(first: int) -> np.ndarray:
            inputs = []
            for view, stream in zip(windows, streams):
                end = stream.end[first : first + size]
                if len(end) < size:  # filled up with its last window, whose outputs are cut off
                    end = np.pad(end, (0, size - len(end)), mode="edge")
                inputs.append(np.ascontiguousarray(view[end - stream.lookback + 1]))
            if len(inputs) == 1:
                inputs = inputs * self._n_inputs  # every input is given the same windows
            return self._run_batch(inputs)[: n - first]

        return np.concatenate(self._run_all(run_from, range(0, n, size)))

    def _run_all(self, run_from: Callable[[int], np.ndarray], firsts: range) -> list[np.ndarray]:
        """The calls' results in order; one after another, since Keras itself uses all cores."""
        return [run_from(first) for first in firsts]


class KerasNetwork(_Network):
    """A network opened from an .h5 file.

    Keras' result for a window differs in its last bit between a batch of one and larger ones, with
    some widths of layers up to a batch of four. So few windows run as a batch of 16, and every path
    gives the same bits.
    """

    batch, small_batch = BATCH, SMALL_BATCH

    def __init__(
        self, path: str | Path, *, input_shape: InputShape, content: bytes | None = None
    ) -> None:
        """Open a .h5 file whose windows are to be of `input_shape`, as the scaler file promises.

        `content` are its bytes, if they have been read.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated or no Keras model, takes windows of another shape, or
                holds anything but the built-in layers of this project's networks, such as a
                `Lambda`: then it is not opened at all.
        """
        path = Path(path)
        if content is None:
            content = read_network(path)
        keras = import_keras()
        try:
            check_network_file(path, content)
            with quiet_absl(), _private_file(content) as private:
                self._model = keras.models.load_model(private, compile=False, safe_mode=True)
        except RefusedNetworkError:
            raise
        # Keras and h5py raise OSError, KeyError, TypeError, ValueError, … for broken files
        except Exception as error:
            raise ValueError(_why_not_opened(path, content, keras.__version__, error)) from error
        super().__init__(self._model.inputs, input_shape, str(path))
        sha256 = hashlib.sha256(content).hexdigest()
        self._opened = (path.absolute(), input_shape, sha256)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as where it lies; it is opened again where it is unpickled."""
        return _reopen, self._opened

    def _run_batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        if os.getpid() != self._process:  # TensorFlow's threads are not there, and it would hang
            raise RuntimeError(
                f"{self._opened[0]}: this network was opened before the process was forked, where "
                "Keras would hang; open the model in the worker"
            )
        output = self._model.predict_on_batch(inputs if len(inputs) > 1 else inputs[0])
        heads = output if isinstance(output, list) else [output]
        return np.hstack([np.asarray(head) for head in heads])


@contextlib.contextmanager
def _private_file(content: bytes) -> Iterator[Path]:
    """A copy that nobody else can change: Keras opens no bytes, and what was checked is to run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.h5"
        path.write_bytes(content)
        yield path


def _why_not_opened(path: Path, content: bytes, version: str, error: Exception) -> str:
    """What to say of a .h5 file that Keras of this version does not open."""
    saved_with = keras_version_of(content)
    if saved_with in (None, version):
        return (
            f"{path}: not a readable Keras .h5 model of {len(content)} bytes "
            f"({type(error).__name__}: {_first_line(error)}); is it truncated? copy or train it "
            "again"
        )
    cause = str(error).strip().splitlines()[-1:]  # of errors in errors the innermost
    return (
        f"{path}: it was saved with Keras {saved_with}, and Keras {version}, which is installed "
        f"here, does not open it ({type(error).__name__}: {''.join(cause)[:200]}); install "
        f"keras=={saved_with}, or train it again"
    )


def _reopen(path: Path, input_shape: InputShape, sha256: str) -> KerasNetwork:
    """A pickled network; a ValueError where another one lies in its place by now."""
    content = read_version(path, sha256)
    if content is None and path.exists():
        raise ValueError(
            f"{path}: another network lies here since the predictor was pickled; open the bundle "
            "again"
        )
    return KerasNetwork(path, input_shape=input_shape, content=content)


class OnnxNetwork(_Network):
    """A network's ONNX twin: within 1e-6 of Keras, many times as fast, and without TensorFlow.

    onnxruntime's result for a window depends on the size of the batch too, so there is one size.
    """

    batch = small_batch = ONNX_BATCH

    def __init__(self, content: bytes, *, input_shape: InputShape, where: str) -> None:
        """Open an .onnx file's bytes, which errors call `where`.

        Raises:
            ValueError: The bytes are no ONNX model or none of this project's, or it takes windows
                of another shape.
        """
        no_telemetry()
        import onnxruntime

        check_twin(content, self.batch, where)
        options = onnxruntime.SessionOptions()
        # Networks of this size lose by sharing a step among threads.
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no class but RuntimeError's and Exception's
            raise ValueError(
                f"{where}: not a readable ONNX model ({_first_line(error)[:200]}); copy the bundle "
                "again, or delete this file"
            ) from error
        tensors = self._session.get_inputs()
        self._names = [tensor.name for tensor in tensors]
        super().__init__(tensors, input_shape, where)
        self._opened = functools.partial(OnnxNetwork, content, input_shape=input_shape, where=where)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._opened, ()

    def _run_batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        return self._session.run(None, dict(zip(self._names, inputs)))[0]

    def _run_all(self, run_from: Callable[[int], np.ndarray], firsts: range) -> list[np.ndarray]:
        if len(firsts) < MANY_CALLS:
            return super()._run_all(run_from, firsts)
        # Threads will do: a call of onnxruntime leaves Python to others.
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(run_from, firsts))


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
        # Not on a GPU, whose matrix products are coarser; and cuDNN's LSTM has no twin.
        with keras.device("cpu:0"), quiet_absl():
            model = keras.models.load_model(model_path, compile=False)
            _leave_cudnn(model)
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


def _leave_cudnn(model: Any) -> None:
    for layer in model.layers:
        # A Bidirectional layer holds an LSTM for each direction.
        attributes = vars(layer)
        for part in (layer, attributes.get("forward_layer"), attributes.get("backward_layer")):
            if part is not None and "use_cudnn" in vars(part):
                part.use_cudnn = False


def _export(model: Any, twin: Path, n_windows: int = 8 * ONNX_BATCH) -> float:
    """Write the twin; returns the largest difference to Keras on random windows."""
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    generator = np.random.default_rng(0)
    streams = []
    for lookback, n_features in shapes:
        rows = generator.standard_normal((n_windows + lookback, n_features)).astype(np.float32)
        streams.append(Stream(rows, np.arange(n_windows) + lookback - 1, lookback))
    windows = [
        np.ascontiguousarray(window_view(stream.rows, stream.lookback)[:n_windows])
        for stream in streams
    ]
    expected = np.asarray(model(windows))  # and Keras exports only what has been called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tf2onnx asks NumPy for names that it no longer has
        model.export(twin, format="onnx", verbose=False)
    network = OnnxNetwork(twin.read_bytes(), input_shape=shapes, where=str(twin))
    return float(np.abs(network.run_streams(streams) - expected).max())


NEWER_ARGUMENTS: dict[str, Any] = {
    # dense layers, since Keras 3.13
    "quantization_config": None,
    # batch normalization, since 3.14
    "renorm": False,
    "renorm_clipping": None,
    "renorm_momentum": 0.99,
    # attention, since 3.14 and 3.15
    "use_gate": False,
    "sliding_window": None,
    # initializers, since 3.15
    "input_axes": None,
    "output_axes": None,
}
"""Arguments that older versions of Keras refuse, and the value that stands for what those do."""


def without_newer_arguments(description: Any) -> Any:
    """A network's description without `NEWER_ARGUMENTS`, so that older versions of Keras open it.

    Raises:
        ValueError: One of them has another value: an older version would compute something else.

    Example:
        >>> without_newer_arguments({"class_name": "Zeros", "config": {"input_axes": None}})
        {'class_name': 'Zeros', 'config': {}}
    """
    if isinstance(description, list):
        return [without_newer_arguments(entry) for entry in description]
    if not isinstance(description, dict):
        return description
    kept = {}
    for name, value in description.items():
        if name not in NEWER_ARGUMENTS:
            kept[name] = without_newer_arguments(value)
        elif value != NEWER_ARGUMENTS[name]:
            raise ValueError(
                f"a layer's {name} is {value!r}, which older versions of Keras do not know; leave "
                "it out"
            )
    return kept


def import_keras() -> ModuleType:
    """Import Keras on TensorFlow, without what its C++ parts tell on stderr.

    KERAS_BACKEND chooses another backend. keras.json does not: it may be another project's.
    A GPU computes in whole float32, as a CPU does.
    """
    no_telemetry()
    with contextlib.suppress(ImportError):
        # before TensorFlow, whose libcurl it would meet in place of its own (Yahoo)
        import curl_cffi  # noqa: F401
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    os.environ["KERAS_BACKEND"] = backend
    # By default they multiply with 10 bits (TF32): the forecast would not be the one of a CPU.
    for name, value in WHOLE_FLOAT32.items():
        os.environ.setdefault(name, value)
    try:
        with _stderr_silenced():
            import keras

            # Makes the backend look for its devices, the other thing that it tells of.
            keras.ops.zeros(1)
            if backend == "tensorflow":
                config = sys.modules["tensorflow"].config.experimental
                config.enable_tensor_float_32_execution(False)
    except ModuleNotFoundError as error:
        if backend != "tensorflow" and error.name == backend:
            raise ValueError(
                f"KERAS_BACKEND is {backend!r}, and the package {backend} is not installed; unset "
                "the variable, or install the package"
            ) from error
        raise
    except (ValueError, AttributeError) as error:
        fault = _fault_of_keras_json(str(error))
        if fault is None:
            raise
        raise ValueError(fault) from error
    return keras


def _fault_of_keras_json(told: str) -> str | None:
    """What is wrong with Keras' file of settings, where Keras tells that something is."""
    home = os.path.expanduser("~")
    default = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")  # as Keras does
    path = Path(os.environ.get("KERAS_HOME", default)).expanduser() / "keras.json"
    try:
        settings = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(settings, dict):
        return f"{path}: Keras' settings are {shown(settings)}; mend the file: it holds an object"
    name = re.search(r"Invalid `(\w+)` configuration\. (.*?) Received", told)
    if name is None or name[1] not in settings:
        return None
    return f"{path}: {name[1]!r} is {shown(settings[name[1]])}; mend it: {name[2]}"


def seeded_keras(seed: int) -> ModuleType:
    """Keras for training: seeded, with its own defaults whatever ~/.keras/keras.json says.

    Another project's keras.json may say channels_first or float16, which would build another
    network, or another epsilon, which would change its losses.
    """
    keras = import_keras()
    settings = {"floatx": "float32", "image_data_format": "channels_last", "epsilon": 1e-7}
    for name, ours in settings.items():
        theirs = getattr(keras.config, name)()
        if theirs != ours:
            logger.warning("keras.json says %s %s; this run uses %s", name, theirs, ours)
            getattr(keras.config, f"set_{name}")(ours)
    keras.config.set_dtype_policy("float32")
    keras.utils.set_random_seed(seed)
    return keras


@contextlib.contextmanager
def quiet_absl() -> Iterator[None]:
    """Hide Keras' advice on the .h5 format, which is our documented choice."""
    absl = logging.getLogger("absl")
    level = absl.level
    absl.setLevel(logging.ERROR)
    try:
        yield
    finally:
        absl.setLevel(level)


@contextlib.contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Send file descriptor 2 nowhere: those lines come from C++, before any log level is read."""
    if "keras" in sys.modules:
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
