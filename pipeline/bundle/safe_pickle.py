"""Scaler files: pickles of plain types, numeric NumPy arrays, StandardScalers and MinMaxScalers,
and nothing else.

`pickle.load` imports and calls whatever a file names, so a stranger's scaler file could run
anything. `load` runs no unpickler at all. It steps through the opcodes that pickle protocol 4
writes for the admitted types, keeps every "call this" of the file as data, and then builds arrays,
scalars and scalers by its own code, out of bytes that the file itself holds. Nothing that a file
names is imported, called or given attributes, and the limits below bound time and memory.

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
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.bundle.scaler_records import MinMaxRecord, ScalerRecord

MAX_BYTES = 16 * 2**20
"""default bound on a file's size, and the bound for files that `dump` writes"""
MAX_STEPS = 500_000
"""bound on a file's opcodes, and on its values, repeated ones counted; a bundle's has a few
thousand"""
MAX_DEPTH = 50
"""bound on containers within containers"""
ARRAY_BYTES_FACTOR = 4
"""bound on the bytes of all arrays, repeated ones counted, as a multiple of the file's largest
size"""


def load(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a scaler file without executing anything it says, and without scikit-learn.

    Args:
        path: A pickle of protocol 4, such as `scalers_v2.pkl`.
        max_bytes: Larger files are refused.

    Returns:
        The file's dict, with ScalerRecords for StandardScalers and MinMaxRecords for MinMaxScalers.
        A list or dict that the file shares between two places comes as two.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is too large, truncated, damaged, no pickle of protocol 4 or not of a
            dict, or it holds a type that is not admitted (the error says module.name) or a dict key
            that is no string.
    """
    with Path(path).open("rb") as file:
        data = file.read(max_bytes + 1)
    try:
        return _read(data, max_bytes)
    except ValueError as error:
        remedy = "check that it is the right file, then fetch it again or train again"
        raise ValueError(f"{path} is no scaler file that can be read: {error}; {remedy}") from error


def dump(obj: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a scaler file, a plain pickle of protocol 4, once `load`'s own reading of it has
    succeeded.

    Args:
        obj: Dict with string keys of dicts, lists, tuples, str, bytes, int, float, bool, None,
            numeric NumPy arrays and scalars, and fitted StandardScalers and MinMaxScalers; exactly
            these types, no subclasses.
        path: File to write; an existing one is replaced.

    Raises:
        TypeError: Something in `obj` cannot be pickled at all.
        ValueError: `obj` is no dict, holds a type that is not admitted, or is too large or deep for
            `load`.
    """
    try:
        data = pickle.dumps(obj, protocol=4)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise TypeError(
            f"cannot pickle the scalers for {path}: {error}; keep to plain types"
        ) from error
    try:
        _read(data, MAX_BYTES)
    except ValueError as error:
        remedy = (
            "keep to string keys, plain types, numeric NumPy arrays and fitted Standard- or "
            "MinMaxScalers"
        )
        raise ValueError(f"scalers for {path} could not be read back: {error}; {remedy}") from error
    Path(path).write_bytes(data)


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
    """What a file wants made, target(*args) with a state set on it, as data; never carried out."""

    target: _Global
    args: tuple
    state: Any = None
    made: Any = None  # the value that _Builder makes instead


_NDARRAY = _Global("numpy", "ndarray")
_DTYPE = _Global("numpy", "dtype")
_STANDARD_SCALER = _Global("sklearn.preprocessing._data", "StandardScaler")
_MIN_MAX_SCALER = _Global("sklearn.preprocessing._data", "MinMaxScaler")
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # as NumPy 1 and NumPy 2 write it
_ARRAYS = {_Global(module, "_reconstruct") for module in _NUMPY}
_SCALARS = {_Global(module, "scalar") for module in _NUMPY}
_ADMITTED = {_NDARRAY, _DTYPE, _STANDARD_SCALER, _MIN_MAX_SCALER} | _ARRAYS | _SCALARS
_DTYPE_CODES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"}

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NUMBERS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_LITERALS = {"SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"} | _NUMBERS
_CONTAINERS = {
    "MARK",
    "TUPLE",
    "EMPTY_LIST",
    "APPEND",
    "APPENDS",
    "EMPTY_DICT",
    "SETITEM",
    "SETITEMS",
}
_OBJECTS = {
    "MEMOIZE",
    "BINGET",
    "LONG_BINGET",
    "GLOBAL",
    "STACK_GLOBAL",
    "REDUCE",
    "NEWOBJ",
    "BUILD",
}
# What pickle writes for the admitted types: no persistent ids, extension codes, sets or out-of-band
# buffers.
_ADMITTED_OPCODES = {"FRAME", *_CONSTANTS, *_TUPLES} | _LITERALS | _CONTAINERS | _OBJECTS
_OPCODE_OF = {opcode.code: opcode for opcode in pickletools.opcodes}


def _read(data: bytes, max_bytes: int) -> dict[str, Any]:
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than max_bytes, {max_bytes} bytes")
    tree, builder = _interpret(data), _Builder(ARRAY_BYTES_FACTOR * max_bytes)
    try:
        value = builder.build(tree, ())
    except ValueError as error:
        raise ValueError(f"{error} (at {_show(builder.place)})") from error
    if type(value) is not dict:
        raise ValueError(f"it holds a {type(value).__name__}, not a dict")
    return value


def _interpret(data: bytes) -> Any:
    """Return the value a pickle describes, with _Global and _Call for all that it would look up or
    call."""
    if data[:2] != b"\x80\x04":
        raise ValueError("it does not begin as a pickle of protocol 4 does")
    stream, machine = io.BytesIO(data), _Machine()
    stream.seek(2)
    for _ in range(MAX_STEPS):
        position = stream.tell()
        opcode = _OPCODE_OF.get(stream.read(1).decode("latin-1"))
        if opcode is None:
            raise ValueError(f"it is truncated or damaged at byte {position} of {len(data)}")
        if opcode.name == "STOP":
            break
        # Before its argument is read, which for some refused opcodes is slow.
        if opcode.name not in _ADMITTED_OPCODES:
            raise ValueError(f"pickle opcode {opcode.name} at byte {position} is not admitted")
        try:
            machine.step(opcode.name, opcode.arg.reader(stream) if opcode.arg else None)
        except ValueError as error:
            raise ValueError(f"{error} (opcode {opcode.name} at byte {position})") from error
    else:
        raise ValueError(f"it has more than {MAX_STEPS} opcodes")
    if stream.tell() != len(data) or len(machine.stack) != 1 or machine.outer:
        raise ValueError(
            f"it is damaged: its pickle ends at byte {position} of {len(data)} or is incomplete"
        )
    return machine.stack[0]


class _Machine:
    """The pickle machine: the stack, the stacks set aside at each open mark, and the memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: list[Any] = []

    def step(self, name: str, argument: Any) -> None:
        """Carry out one of _ADMITTED_OPCODES."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        elif name in ("EMPTY_LIST", "EMPTY_DICT"):
            self.stack.append([] if name == "EMPTY_LIST" else {})
        elif name == "MARK":
            self.outer.append(self.stack)
            self.stack = []
        elif name == "TUPLE":
            items = self._pop_to_mark()
            self.stack.append(tuple(items))
        elif name in ("APPEND", "APPENDS"):
            items = self._pop(1) if name == "APPEND" else self._pop_to_mark()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._pop(2) if name == "SETITEM" else self._pop_to_mark()
            self._set_items(items[::2], items[1::2])
        elif name == "MEMOIZE":
            self.memo.append(self._top())
        elif name in ("BINGET", "LONG_BINGET"):
            if argument >= len(self.memo):
                raise ValueError("it uses a value before it is there")
            self.stack.append(self.memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._push_global(*(argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)))
        elif name in ("REDUCE", "NEWOBJ"):
            target, args = self._pop(2)
            if type(target) is not _Global or type(args) is not tuple:
                raise ValueError("it calls what is no type")
            self.stack.append(_Call(target, args))
        elif name == "BUILD":
            (state,) = self._pop(1)
            self._top(_Call).state = state

    def _pop(self, count: int) -> list[Any]:
        kept = len(self.stack) - count
        if kept < 0:
            raise ValueError("a value is missing")
        items = self.stack[kept:]
        del self.stack[kept:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        if not self.outer:
            raise ValueError("a mark is missing")
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _top(self, kind: type | None = None) -> Any:
        if not self.stack or (kind is not None and type(self.stack[-1]) is not kind):
            raise ValueError("the value it works on is missing or of another type")
        return self.stack[-1]

    def _set_items(self, keys: list[Any], values: list[Any]) -> None:
        # Nested tuples can take exponential time to hash, and integers can be made to collide.
        for key in keys:
            if type(key) is not str:
                raise ValueError(f"a dict key is a {type(key).__name__.lstrip('_')}, not a str")
        self._top(dict).update(zip(keys, values, strict=True))

    def _push_global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a type's name is no str")
        target = _Global(module, name)
        if target not in _ADMITTED:
            raise ValueError(f"type {target} is not admitted")
        self.stack.append(target)


class _Builder:
    """Makes the result of what the machine left, within the limits on values, depth and array
    bytes."""

    def __init__(self, max_array_bytes: int) -> None:
        self.values_left = MAX_STEPS
        self.array_bytes_left = max_array_bytes
        self.place: tuple[str | int, ...] = ()  # of the value in hand, for errors

    def build(self, value: Any, place: tuple[str | int, ...]) -> Any:
        """Return `value`, which lies at `place`, with everything in it made."""
        self.place = place
        self.values_left -= 1
        if self.values_left < 0:
            raise ValueError(f"it holds more than {MAX_STEPS} values, repeated ones counted")
        if len(place) > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if type(value) is dict:
            return {key: self.build(item, (*place, key)) for key, item in value.items()}
        if type(value) in (list, tuple):
            return type(value)(self.build(item, (*place, i)) for i, item in enumerate(value))
        if type(value) is _Global:
            raise ValueError(f"type {value} is no value of a scaler file")
        if type(value) is not _Call:
            return value  # a str, bytes, int, float, bool or None
        if value.made is None and value.target in _ARRAYS:
            value.made = self._make_array(value)
        elif value.made is None and value.target in _SCALARS:
            value.made = _make_scalar(value)
        elif value.made is None and value.target == _STANDARD_SCALER:
            value.made = self._make_standard_scaler(value, place)
        elif value.made is None and value.target == _MIN_MAX_SCALER:
            value.made = self._make_min_max_scaler(value, place)
        elif value.made is None:
            raise ValueError(f"type {value.target} is no value of a scaler file")
        return value.made

    def _make_array(self, call: _Call) -> np.ndarray:
        if (
            call.args != (_NDARRAY, (0,), b"b")
            or type(call.state) is not tuple
            or len(call.state) != 5
        ):
            raise ValueError("an array is not written as NumPy writes it")
        _, shape, dtype_call, is_fortran, data = call.state
        dtype = _make_dtype(dtype_call)
        if type(shape) is not tuple or len(shape) > 32 or not all(_is_size(n) for n in shape):
            raise ValueError("an array's shape is no tuple of sizes")
        if type(data) is not bytes or math.prod(shape) * dtype.itemsize != len(data):
            raise ValueError("an array's shape does not fit its bytes")
        self._spend(len(data))
        order: Literal["F", "C"] = "F" if is_fortran is True else "C"
        # astype copies: the bytes are read-only. NumPy too loads arrays in native order.
        return (
            np.frombuffer(data, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))
        )

    def _make_standard_scaler(self, call: _Call, place: tuple[str | int, ...]) -> ScalerRecord:
        state = _state_of(call)
        arrays = []
        # Whatever else scikit-learn's versions keep there (var_, n_samples_seen_, feature names) is
        # not used.
        for switch, name, neutral in (("with_mean", "mean_", 0.0), ("with_std", "scale_", 1.0)):
            if type(state.get(switch)) is not bool:
                raise ValueError(f"a StandardScaler's {switch} is neither True nor False")
            arrays.append(self._fitted(call, name, place) if state[switch] else np.array([neutral]))
        return ScalerRecord(*arrays)

    def _make_min_max_scaler(self, call: _Call, place: tuple[str | int, ...]) -> MinMaxRecord:
        if _state_of(call).get("clip") is not False:
            raise ValueError(
                "a MinMaxScaler's clip is not False, so what it did could not be undone"
            )
        return MinMaxRecord(*(self._fitted(call, name, place) for name in ("min_", "scale_")))

    def _fitted(self, call: _Call, name: str, place: tuple[str | int, ...]) -> np.ndarray:
        """A fitted parameter of a scaler; its record refuses what is no sound array."""
        if name not in call.state:
            raise ValueError(f"a {call.target.name} has no {name}: it is not fitted")
        array = self.build(call.state[name], (*place, name))
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
    dtype, data = _make_dtype(call.args[0]), call.args[1]
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise ValueError("a NumPy scalar does not fit its bytes")
    return np.frombuffer(data, dtype)[0]


def _make_dtype(call: Any) -> np.dtype:
    if (
        type(call) is not _Call
        or call.target != _DTYPE
        or not call.args
        or type(call.args[0]) is not str
    ):
        raise ValueError("an array has no dtype")
    code, state = call.args[0], call.state
    if code not in _DTYPE_CODES:
        raise ValueError(f"dtype {code[:20]!a} is not numeric")
    byte_order = state[1] if type(state) is tuple and len(state) == 8 else None
    if byte_order not in ("<", ">", "|") or state != (3, byte_order, None, None, None, -1, -1, 0):
        raise ValueError(f"dtype {code!r} is not written as NumPy writes it")
    return np.dtype(byte_order + code)


def _show(place: tuple[str | int, ...]) -> str:
    return (
        "".join(f"[{ascii(key[:40]) if isinstance(key, str) else key}]" for key in place[:8])
        or "the top"
    )
