"""Scaler files: pickles of plain types, numeric NumPy arrays, StandardScalers and MinMaxScalers.

`pickle.load` imports and calls whatever a file names, so a stranger's file could run anything.
`load_scalers` runs no unpickler; it reads a file in two steps:

1. `_Machine` carries out the opcodes that pickle protocol 4 writes for the admitted types. What the
   file wants called becomes a `_Call`, which is data.
2. `_Builder` makes arrays, scalars and scaler records of it by its own code, out of bytes that the
   file itself holds.

Nothing that a file names is imported, called or given attributes, and limits bound time and memory.
A `pickle.Unpickler` with its own `find_class` would not do: it sets attributes on the types that it
is given, and it hashes dict keys, which nested tuples make endless.

The files stay ordinary pickles: with scikit-learn, `pickle.load` of a trusted one gives its
scalers.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import pickle
import pickletools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from pipeline import atomic

MAX_BYTES = 16 * 2**20
"""default bound on a file's size, and the bound for files that `save_scalers` writes"""
MAX_STEPS = 500_000
"""bound on a file's opcodes, and on its values, repeated ones counted; a bundle has thousands"""
MAX_DEPTH = 50
"""bound on containers within containers"""
ARRAY_BYTES_FACTOR = 4
"""bound on the bytes of all arrays, repeated ones counted, as a multiple of the largest file"""


def load_scalers(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a scaler file without executing anything it says, and without scikit-learn.

    Args:
        path: A pickle of protocol 4, such as `scalers_v2.pkl`.
        max_bytes: Larger files are refused.

    Returns:
        The file's dict, with ScalerRecords for StandardScalers and MinMaxRecords for MinMaxScalers.
        A list or dict that the file holds in two places comes as two.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is a link or no regular one, too large, truncated, damaged, no pickle
            of protocol 4 or not of a dict, or it holds a type that is not admitted (the error says
            module.name) or a dict key that is no string.
    """
    data = atomic.read_regular(Path(path), max(max_bytes, MAX_BYTES))
    return read_scalers(data, path, max_bytes=max_bytes)


def read_scalers(
    data: bytes, where: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES
) -> dict[str, Any]:
    """`load_scalers` from a file's bytes, which errors call `where`."""
    try:
        return _parse(data, max_bytes)
    except ValueError as error:
        remedy = "check that it is the right file, then fetch it again or train again"
        raise ValueError(
            f"{where} is no scaler file that can be read: {error}; {remedy}"
        ) from error


def save_scalers(scalers: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a scaler file, a plain pickle of protocol 4 that `load_scalers` is sure to read.

    Args:
        scalers: Dict with string keys of dicts, lists, tuples, str, bytes, int, float, bool, None,
            numeric NumPy arrays and scalars, and fitted StandardScalers and MinMaxScalers; exactly
            these types, no subclasses.
        path: File to write; an existing one is replaced.

    Raises:
        TypeError: Something in `scalers` cannot be pickled at all.
        ValueError: It is no dict, holds a type that is not admitted, or is too large or deep.
    """
    try:
        data = pickle.dumps(scalers, protocol=4)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise TypeError(
            f"cannot pickle the scalers for {path}: {error}; keep to plain types"
        ) from error
    try:
        _parse(data, MAX_BYTES)
    except ValueError as error:
        remedy = (
            "keep to string keys, plain types, numeric NumPy arrays and fitted Standard- or "
            "MinMaxScalers"
        )
        raise ValueError(f"scalers for {path} could not be read back: {error}; {remedy}") from error
    Path(path).write_bytes(data)


# What forecasting needs of scikit-learn's fitted scalers


@dataclasses.dataclass(frozen=True, eq=False)
class ScalerRecord:
    """Parameters and arithmetic of a fitted StandardScaler.

    For float64 input both methods agree with scikit-learn bit for bit (but for the sign of a zero
    if the scaler does not centre). Other input is taken as float64, where scikit-learn would keep
    float32.

    Attributes:
        mean: (n_features,) float64 in the feature's unit; a single 0.0 if it does not centre.
        scale: (n_features,) float64 > 0 in the feature's unit; a single 1.0 if it does not scale.

    Raises:
        ValueError: A parameter is not such an array or not finite, or their lengths differ and
            neither is 1.

    Example:
        >>> scaler = ScalerRecord(mean=np.array([10.0, 0.0]), scale=np.array([2.0, 1.0]))
        >>> scaler.transform([[14.0, 3.0]])
        array([[2., 3.]])
        >>> scaler.inverse_transform([[2.0, 3.0]])
        array([[14.,  3.]])
    """

    mean: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        _check_parameters(mean=self.mean, scale=self.scale)
        if self.mean.size != self.scale.size and 1 not in (self.mean.size, self.scale.size):
            raise ValueError(
                f"scaler has {self.mean.size} means, {self.scale.size} scales; fit it again"
            )

    def transform(self, x: ArrayLike) -> np.ndarray:
        """(x - mean) / scale of `x` (..., n_features); ValueError for another width."""
        return (self._as_float64(x) - self.mean) / self.scale

    def inverse_transform(self, x: ArrayLike) -> np.ndarray:
        """x * scale + mean of `x` (..., n_features); ValueError for another width."""
        return self._as_float64(x) * self.scale + self.mean

    def _as_float64(self, x: ArrayLike) -> np.ndarray:
        return _as_float64(x, max(self.mean.size, self.scale.size))


@dataclasses.dataclass(frozen=True, eq=False)
class MinMaxRecord:
    """Parameters and arithmetic of a fitted MinMaxScaler that does not clip.

    For float64 input both methods agree with scikit-learn bit for bit; other input is taken as
    float64.

    Attributes:
        min: (n_features,) float64; what a feature of 0 is scaled to.
        scale: (n_features,) float64 > 0; the target range's width over the feature's in training.

    Raises:
        ValueError: A parameter is not such an array or not finite, or their lengths differ.

    Example:
        >>> scaler = MinMaxRecord(min=np.array([-0.5]), scale=np.array([0.25]))  # fitted on 2 to 6
        >>> scaler.transform([[5.0]]), scaler.inverse_transform([[0.75]])
        (array([[0.75]]), array([[5.]]))
    """

    min: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        _check_parameters(min=self.min, scale=self.scale)
        if self.min.size != self.scale.size:
            raise ValueError(
                f"scaler has {self.min.size} minima, {self.scale.size} scales; fit it again"
            )

    def transform(self, x: ArrayLike) -> np.ndarray:
        """x * scale + min of `x` (..., n_features); ValueError for another width."""
        return _as_float64(x, self.min.size) * self.scale + self.min

    def inverse_transform(self, x: ArrayLike) -> np.ndarray:
        """(x - min) / scale of `x` (..., n_features); ValueError for another width."""
        return (_as_float64(x, self.min.size) - self.min) / self.scale


def _check_parameters(**arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        if type(array) is not np.ndarray or array.dtype != np.float64 or array.ndim != 1:
            raise ValueError(
                f"scaler's {name} is no one-dimensional float64 array; fit the scaler again"
            )
        if array.size == 0 or not np.isfinite(array).all():
            raise ValueError(
                f"scaler's {name} is empty or not finite; fit the scaler on finite features"
            )
    smallest = arrays["scale"].min()
    if smallest <= 0:
        raise ValueError(f"scaler's scale is {smallest}, not positive; fit the scaler again")


def _as_float64(x: ArrayLike, width: int) -> np.ndarray:
    array = np.asarray(x, dtype=np.float64)
    # NumPy would broadcast one column over all features without a word. One feature fits any shape.
    if width > 1 and array.shape[-1:] != (width,):
        remedy = "pass one whose last axis is the features it was fitted on"
        raise ValueError(
            f"scaler of {width} features got an array of shape {array.shape}; {remedy}"
        )
    return array


# What a file names, as data


@dataclasses.dataclass(frozen=True)
class _Global:
    """The name of a class or function in a file; never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        # A hostile name may be megabytes long or hold control characters.
        return ascii(f"{self.module[:100]}.{self.name[:100]}")[1:-1]


@dataclasses.dataclass(eq=False)
class _Call:
    """What a file wants made: target(*args) with a state set on it; never carried out."""

    target: _Global
    args: tuple
    state: Any = None
    made: Any = None
    """the value that _Builder makes instead"""


_NDARRAY = _Global("numpy", "ndarray")
_DTYPE = _Global("numpy", "dtype")
_STANDARD_SCALER = _Global("sklearn.preprocessing._data", "StandardScaler")
_MIN_MAX_SCALER = _Global("sklearn.preprocessing._data", "MinMaxScaler")
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # as NumPy 1 and NumPy 2 write it
_ARRAYS = {_Global(module, "_reconstruct") for module in _NUMPY}
_SCALARS = {_Global(module, "scalar") for module in _NUMPY}
_ADMITTED = {_NDARRAY, _DTYPE, _STANDARD_SCALER, _MIN_MAX_SCALER} | _ARRAYS | _SCALARS


def _parse(data: bytes, max_bytes: int) -> dict[str, Any]:
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than max_bytes, {max_bytes} bytes")
    described = _run_opcodes(data)
    builder = _Builder(ARRAY_BYTES_FACTOR * max_bytes)
    try:
        value = builder.build(described)
    except ValueError as error:
        keys = [ascii(key[:40]) if isinstance(key, str) else key for key in builder.place[:8]]
        place = "".join(f"[{key}]" for key in keys) or "the top"
        raise ValueError(f"{error} (at {place})") from error
    if type(value) is not dict:
        raise ValueError(f"it holds a {type(value).__name__}, not a dict")
    return value


# First step: opcodes


class _Machine:
    """The pickle machine: a stack, the stacks set aside at each open mark, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: list[Any] = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        kept = len(self.stack) - count
        if kept < 0:
            raise ValueError("a value is missing")
        items = self.stack[kept:]
        del self.stack[kept:]
        return items

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        if not self.outer:
            raise ValueError("a mark is missing")
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def top(self, kind: type = object) -> Any:
        if not self.stack or (kind is not object and type(self.stack[-1]) is not kind):
            raise ValueError("the value it works on is missing or of another type")
        return self.stack[-1]

    def recall(self, number: int) -> None:
        if number >= len(self.memo):
            raise ValueError("it uses a value before it is there")
        self.push(self.memo[number])

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        keys = items[::2]
        # Nested tuples can take exponential time to hash, and integers can be made to collide.
        for key in keys:
            if type(key) is not str:
                raise ValueError(f"a dict key is a {type(key).__name__.lstrip('_')}, not a str")
        self.top(dict).update(zip(keys, items[1::2], strict=True))

    def push_global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a type's name is no str")
        target = _Global(module, name)
        if target not in _ADMITTED:
            raise ValueError(f"type {target} is not admitted")
        self.push(target)

    def push_call(self) -> None:
        target, args = self.pop(2)
        if type(target) is not _Global or type(args) is not tuple:
            raise ValueError("it calls what is no type")
        self.push(_Call(target, args))

    def set_state(self) -> None:
        (state,) = self.pop(1)
        self.top(_Call).state = state


_LITERALS = (
    "SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES BININT BININT1 BININT2 LONG1 BINFLOAT"
).split()
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "FRAME": lambda machine, size: None,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    **dict.fromkeys(_LITERALS, _Machine.push),
    "MARK": lambda machine, _: machine.mark(),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "MEMOIZE": lambda machine, _: machine.memo.append(machine.top()),
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": lambda machine, words: machine.push_global(*words.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.push_global(*machine.pop(2)),
    "REDUCE": lambda machine, _: machine.push_call(),
    "NEWOBJ": lambda machine, _: machine.push_call(),
    "BUILD": lambda machine, _: machine.set_state(),
}
"""What each admitted opcode does: those that pickle writes for the admitted types, so no persistent
ids, extension codes, sets or out-of-band buffers."""
_OPCODE_OF = {opcode.code: opcode for opcode in pickletools.opcodes}


def _run_opcodes(data: bytes) -> Any:
    """The value that a pickle describes, with _Global and _Call for what it names and calls."""
    if data[:2] != b"\x80\x04":
        raise ValueError("it does not begin as a pickle of protocol 4 does")
    stream = io.BytesIO(data)
    stream.seek(2)
    machine = _Machine()
    for _ in range(MAX_STEPS):
        position = stream.tell()
        opcode = _OPCODE_OF.get(stream.read(1).decode("latin-1"))
        if opcode is None:
            raise ValueError(f"it is truncated or damaged at byte {position} of {len(data)}")
        if opcode.name == "STOP":
            break
        # Before its argument is read, which for some refused opcodes is slow.
        if opcode.name not in _STEPS:
            raise ValueError(f"pickle opcode {opcode.name} at byte {position} is not admitted")
        try:
            argument = opcode.arg.reader(stream) if opcode.arg else None
            _STEPS[opcode.name](machine, argument)
        except ValueError as error:
            raise ValueError(f"{error} (opcode {opcode.name} at byte {position})") from error
    else:
        raise ValueError(f"it has more than {MAX_STEPS} opcodes")
    if stream.tell() != len(data) or len(machine.stack) != 1 or machine.outer:
        raise ValueError(
            f"it is damaged: its pickle ends at byte {position} of {len(data)} or is incomplete"
        )
    return machine.stack[0]


# Second step: values


class _Builder:
    """Makes what the machine left, within the limits on values, depth and array bytes."""

    def __init__(self, max_array_bytes: int) -> None:
        self.values_left = MAX_STEPS
        self.array_bytes_left = max_array_bytes
        self.place: list[str | int] = []
        """keys that lead to the value in hand"""

    def build_at(self, key: str | int, value: Any) -> Any:
        self.place.append(key)
        built = self.build(value)
        self.place.pop()
        return built

    def build(self, value: Any) -> Any:
        """Return a value with everything in it made."""
        self.values_left -= 1
        if self.values_left < 0:
            raise ValueError(f"it holds more than {MAX_STEPS} values, repeated ones counted")
        if len(self.place) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            return {key: self.build_at(key, item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.build_at(i, item) for i, item in enumerate(value))
        if isinstance(value, _Global):
            raise ValueError(f"type {value} is no value of a scaler file")
        if not isinstance(value, _Call):
            return value  # a str, bytes, int, float, bool or None
        if value.made is None:
            value.made = self._make(value)
        return value.made

    def _make(self, call: _Call) -> Any:
        if call.target in _ARRAYS:
            return self._make_array(call)
        if call.target in _SCALARS:
            return _make_scalar(call)
        if call.target == _STANDARD_SCALER:
            return self._make_standard_scaler(call)
        if call.target == _MIN_MAX_SCALER:
            return self._make_min_max_scaler(call)
        raise ValueError(f"type {call.target} is no value of a scaler file")

    def _make_array(self, call: _Call) -> np.ndarray:
        is_written_so = call.args == (_NDARRAY, (0,), b"b")
        if not is_written_so or type(call.state) is not tuple or len(call.state) != 5:
            raise ValueError("an array is not written as NumPy writes it")
        _, shape, dtype_call, is_fortran, data = call.state
        dtype = _make_dtype(dtype_call)
        if type(shape) is not tuple or len(shape) > 32 or not all(map(_is_size, shape)):
            raise ValueError("an array's shape is no tuple of sizes")
        if type(data) is not bytes or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("an array's shape does not fit its bytes")
        self._spend(len(data))
        order: Literal["F", "C"] = "F" if is_fortran is True else "C"
        array = np.frombuffer(data, dtype).reshape(shape, order=order)
        # A copy, since the bytes are read-only; in native byte order, as NumPy loads arrays too.
        return array.astype(dtype.newbyteorder("="))

    def _make_standard_scaler(self, call: _Call) -> ScalerRecord:
        state = _state_of(call)
        # What else scikit-learn keeps there (var_, n_samples_seen_, feature names) is not used.
        parameters = []
        for switch, name, neutral in (("with_mean", "mean_", 0.0), ("with_std", "scale_", 1.0)):
            if type(state.get(switch)) is not bool:
                raise ValueError(f"a StandardScaler's {switch} is neither True nor False")
            if state[switch]:
                parameters.append(self._fitted(call, name))
            else:
                parameters.append(np.array([neutral]))
        return ScalerRecord(*parameters)

    def _make_min_max_scaler(self, call: _Call) -> MinMaxRecord:
        if _state_of(call).get("clip") is not False:
            raise ValueError(
                "a MinMaxScaler's clip is not False, so what it did could not be undone"
            )
        return MinMaxRecord(self._fitted(call, "min_"), self._fitted(call, "scale_"))

    def _fitted(self, call: _Call, name: str) -> np.ndarray:
        """A fitted parameter of a scaler; its record refuses what is no sound array."""
        if name not in call.state:
            raise ValueError(f"a {call.target.name} has no {name}: it is not fitted")
        array = self.build_at(name, call.state[name])
        self._spend(getattr(array, "nbytes", 0))
        return array

    def _spend(self, n_bytes: int) -> None:
        self.array_bytes_left -= n_bytes
        if self.array_bytes_left < 0:
            raise ValueError("its arrays are larger than the file, repeated ones counted")


def _state_of(call: _Call) -> dict[str, Any]:
    if call.args != () or type(call.state) is not dict:
        raise ValueError(f"a {call.target.name} is not written as scikit-learn writes it")
    return call.state


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 <= n <= sys.maxsize


def _make_scalar(call: _Call) -> Any:
    if len(call.args) != 2 or call.state is not None:
        raise ValueError("a NumPy scalar is not written as NumPy writes it")
    dtype = _make_dtype(call.args[0])
    data = call.args[1]
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise ValueError("a NumPy scalar does not fit its bytes")
    return np.frombuffer(data, dtype)[0]


_DTYPE_CODES = "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split()


def _make_dtype(call: Any) -> np.dtype:
    if type(call) is not _Call or call.target != _DTYPE or not call.args:
        raise ValueError("an array has no dtype")
    code, state = call.args[0], call.state
    if type(code) is not str:
        raise ValueError("an array has no dtype")
    if code not in _DTYPE_CODES:
        raise ValueError(f"dtype {code[:20]!a} is not numeric")
    byte_order = state[1] if type(state) is tuple and len(state) == 8 else None
    if byte_order not in ("<", ">", "|") or state != (3, byte_order, None, None, None, -1, -1, 0):
        raise ValueError(f"dtype {code!r} is not written as NumPy writes it")
    return np.dtype(byte_order + code)
