"""Refuses .onnx files that could do more than hold a twin of this project's networks.

onnxruntime computes whatever a graph says: a constant of 12 GB, a loop of 2^62 rounds, weights from
other files. So the bytes are read here first, as protobuf and no further than a twin needs, and the
graph's shapes are followed operator by operator. A twin is run on batches of one size, so every
shape is known; numbers that shapes are made of are computed, all others are stand-ins that take no
memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

MAX_FIELDS = 200_000
"""numbers that say what is where in the file; the longest twin has 3,000"""

MAX_NODES = 10_000

MAX_NUMBERS = 2**26
"""that all operators together make of a batch: 256 MiB"""

MAX_STEPS = 2**34
"""multiplications of a batch, some seconds; v9's price network needs 2^28"""

MAX_KNOWN = 4096
"""whole numbers of one tensor"""

OPSETS = range(13, 19)

# --- what may be in the file: number of a field -> name

TENSOR = {1: "dims", 2: "type", 8: "name", 9: "raw", 12: "doc"}
ATTRIBUTE = {1: "name", 2: "f", 3: "i", 4: "s", 7: "floats", 8: "ints", 9: "strings"}
ATTRIBUTE |= {13: "doc", 20: "type"}
NODE = {1: "input", 2: "output", 3: "name", 4: "kind", 5: "attribute", 6: "doc", 7: "domain"}
VALUE = {1: "name", 2: "type", 3: "doc"}
TYPE, TENSOR_TYPE, SHAPE = {1: "tensor"}, {1: "type", 2: "shape"}, {1: "dim"}
DIM = {1: "size", 2: "name"}
GRAPH = {1: "node", 2: "name", 5: "initializer", 10: "doc", 11: "input", 12: "output"}
OPSET = {1: "domain", 2: "version"}
MODEL = {1: "ir_version", 2: "producer", 3: "producer_version", 4: "domain", 5: "version"}
MODEL |= {6: "doc", 7: "graph", 8: "opset", 14: "notes"}

DTYPES: Mapping[int, np.dtype[Any]]
DTYPES = {1: np.dtype("<f4"), 6: np.dtype("<i4"), 7: np.dtype("<i8")}


def check_twin(content: bytes, batch: int, where: str) -> None:
    """Refuse an ONNX model that is not built as the twins of this project are.

    Args:
        content: The file's bytes, which onnxruntime is to open next.
        batch: Windows that a call of it gets.
        where: What errors call the file.

    Raises:
        ValueError: It is no such model, or asks for too much memory or time.
    """
    try:
        reader = _Reader()
        model = reader.read(memoryview(content), MODEL)
        _check_opsets([reader.read(opset, OPSET) for opset in model["opset"]])
        _follow(reader, reader.read(_only(model["graph"]), GRAPH), batch)
    # of a broken file, and of NumPy where shapes do not fit
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise ValueError(
            f"{where}: not a readable ONNX model of this project's networks ({error!s:.120}); it "
            "was not opened: copy the bundle again, or ask who made it"
        ) from error


class _Reader:
    """Reads protobuf messages, up to a number of fields."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def read(self, message: memoryview, admitted: Mapping[int, str]) -> dict[str, list[Any]]:
        """The fields of a message by name, each as often as it is there."""
        found: dict[str, list[Any]] = {name: [] for name in admitted.values()}
        for number, value in self._fields(message):
            if number not in admitted:
                raise ValueError(f"field {number} where there may be {', '.join(found)}")
            found[admitted[number]].append(value)
        return found

    def whole_numbers(self, values: list[Any]) -> tuple[int, ...]:
        """Of a repeated field, whichever of both ways it is written in."""
        found = []
        for value in values:
            if isinstance(value, int):
                found.append(value)
                continue
            at = 0
            while at < len(value):
                number, at = self._varint(value, at)
                found.append(number)
        return tuple(found)

    def _fields(self, message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        at = 0
        while at < len(message):
            tag, at = self._varint(message, at)
            kind = tag & 7
            if kind == 0:
                value, at = self._varint(message, at)
                yield tag >> 3, value
                continue
            if kind == 2:
                length, at = self._varint(message, at)
            else:
                length = {1: 8, 5: 4}[kind]
            if not 0 <= length <= len(message) - at:
                raise ValueError("it breaks off")
            yield tag >> 3, message[at : at + length]
            at += length

    def _varint(self, message: memoryview, at: int) -> tuple[int, int]:
        """A number, as signed 64 bits, and where the next byte is."""
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"it has more than {MAX_FIELDS:,} fields")
        if at < len(message) and message[at] < 128:  # nearly all
            return message[at], at + 1
        number = 0
        for n, byte in enumerate(message[at : at + 10]):
            number |= (byte & 127) << (7 * n)
            if byte < 128:
                return (number + 2**63) % 2**64 - 2**63, at + n + 1
        raise ValueError("it breaks off")


def _only(values: list[Any]) -> Any:
    if len(values) != 1:
        raise ValueError(f"{len(values)} values where there is one")
    return values[0]


def _text(values: list[Any]) -> str:
    """A field of text that may be there once."""
    return bytes(_only(values)).decode() if values else ""


def _check_opsets(opsets: list[dict[str, list[Any]]]) -> None:
    ours = [opset for opset in opsets if _text(opset["domain"]) in ("", "ai.onnx")]
    if _only(_only(ours)["version"]) not in OPSETS:
        raise ValueError(f"operators of version {ours[0]['version'][0]}")


# --- the graph


def _follow(reader: _Reader, graph: dict[str, list[Any]], batch: int) -> None:
    """Compute the shape of every tensor of a batch, in the order of the nodes."""
    tensors: dict[str, np.ndarray] = {}

    def add(name: str, tensor: np.ndarray) -> None:
        if name in tensors or not name:
            raise ValueError(f"two tensors {name!r:.60}")
        tensors[name] = tensor

    for message in graph["input"]:
        name, shape = _declared(reader, message, batch)
        add(name, _stand_in(shape))
    for message in graph["initializer"]:
        add(*_constant(reader.read(message, TENSOR), reader))
    if len(graph["node"]) > MAX_NODES:
        raise ValueError(f"{len(graph['node']):,} operators")
    n_numbers = n_steps = 0
    for message in graph["node"]:
        node = reader.read(message, NODE)
        kind = _text(node["kind"])
        if kind not in OPERATORS or _text(node["domain"]) not in ("", "ai.onnx"):
            raise ValueError(f"an operator {kind!r:.40}")
        rule, *admitted = OPERATORS[kind]
        attributes = dict(
            _attribute(reader.read(one, ATTRIBUTE), reader) for one in node["attribute"]
        )
        if not attributes.keys() <= set(admitted):
            raise ValueError(f"{kind} with {', '.join(attributes)!r:.60}")
        names = [_text([one]) for one in node["input"]]
        inputs = [tensors[name] if name else None for name in names]
        made, steps = rule(attributes, *inputs)
        outputs = [_text([one]) for one in node["output"]]
        for name, tensor in zip(outputs, made):
            add(name, _known(tensor) if tensor.dtype.kind == "i" else _stand_in(tensor.shape))
            n_numbers += tensor.size
        n_steps += steps
        if len(outputs) > len(made) or n_numbers > MAX_NUMBERS or n_steps > MAX_STEPS:
            raise ValueError(f"up to {kind} it makes {n_numbers:,} numbers in {n_steps:,} steps")
    name, shape = _declared(reader, _only(graph["output"]), batch)
    if tensors[name].dtype.kind != "f" or tensors[name].shape != shape or len(shape) != 2:
        raise ValueError("its output is no row of numbers for each window")


def _declared(reader: _Reader, message: memoryview, batch: int) -> tuple[str, tuple[int, ...]]:
    """Name and shape of an input or output: floats, of any number of windows."""
    value = reader.read(message, VALUE)
    tensor = reader.read(_only(reader.read(_only(value["type"]), TYPE)["tensor"]), TENSOR_TYPE)
    first, *others = (
        reader.read(dim, DIM) for dim in reader.read(_only(tensor["shape"]), SHAPE)["dim"]
    )
    if _only(tensor["type"]) != 1 or first["size"] or any(dim["name"] for dim in others):
        raise ValueError("an input or output that is none of windows")
    return _text(value["name"]), (batch, *(_only(dim["size"]) for dim in others))


def _constant(tensor: dict[str, list[Any]], reader: _Reader) -> tuple[str, np.ndarray]:
    """Name and value of a constant, whose bytes have to be there."""
    shape = reader.whole_numbers(tensor["dims"])
    dtype = DTYPES[_only(tensor["type"])]
    raw = _only(tensor["raw"])
    if any(size < 1 for size in shape) or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"a constant of {shape!s:.60} in {len(raw):,} bytes")
    if dtype.kind == "f":
        return _text(tensor["name"]), _stand_in(shape)
    return _text(tensor["name"]), _known(np.frombuffer(raw, dtype).reshape(shape))


def _attribute(attribute: dict[str, list[Any]], reader: _Reader) -> tuple[str, Any]:
    """Name and value of an attribute: a whole number, several, or a text; others do not matter."""
    name = _text(attribute["name"])
    kinds = [kind for kind in ("f", "i", "s", "floats", "ints", "strings") if attribute[kind]]
    kind = _only(kinds)
    if kind == "ints":
        return name, reader.whole_numbers(attribute["ints"])
    if kind == "i":
        return name, _only(attribute["i"])
    return name, _text(attribute["s"]) if kind == "s" else None


def _stand_in(shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of floats that takes no memory, whatever its shape."""
    if any(size < 1 for size in shape) or math.prod(shape) > MAX_NUMBERS:
        raise ValueError(f"a tensor of {shape!s:.60}")
    return np.broadcast_to(np.float32(0), shape)


def _known(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers, of which shapes are made."""
    if numbers.dtype.kind != "i" or numbers.size > MAX_KNOWN:
        raise ValueError(f"{numbers.size:,} numbers where there is a shape")
    return numbers


def _listed(numbers: np.ndarray | None) -> list[int]:
    """The whole numbers of an input that has to be there."""
    if numbers is None:
        raise ValueError("an operator without its shape")
    return _known(numbers).ravel().tolist()


# --- operators: what they make of their inputs, and the multiplications that it takes

Made = tuple[list[np.ndarray], int]


def _plain(rule: Callable[..., np.ndarray]) -> Callable[..., Made]:
    """An operator that makes one tensor, a number at a time."""

    def made(attributes: Mapping[str, Any], *inputs: Any) -> Made:
        tensor = rule(attributes, *inputs)
        return [tensor], tensor.size

    return made


def _same(_: Any, x: np.ndarray) -> np.ndarray:
    return _stand_in(x.shape)


def _merge(of_shapes: Callable[..., np.ndarray] | None) -> Callable[..., Made]:
    """An operator on numbers at the same place; `of_shapes` is it on whole numbers."""

    def rule(_: Any, *inputs: np.ndarray) -> np.ndarray:
        shape = np.broadcast_shapes(*(x.shape for x in inputs))
        if of_shapes is None or any(x.dtype.kind == "f" for x in inputs):
            return _stand_in(shape)
        _known(np.broadcast_to(inputs[0], shape))
        return of_shapes(*inputs)

    return _plain(rule)


def _cast(attributes: Any, x: np.ndarray) -> np.ndarray:
    dtype = DTYPES[attributes["to"]]
    return _stand_in(x.shape) if dtype.kind == "f" else _known(x).astype(dtype)


def _concatenate(attributes: Any, *inputs: np.ndarray) -> np.ndarray:
    if all(x.dtype.kind == "i" for x in inputs) and sum(x.size for x in inputs) <= MAX_KNOWN:
        return np.concatenate(inputs, attributes["axis"])
    axis = attributes["axis"]
    first, *others = ([*x.shape] for x in inputs)
    for shape in others:
        first[axis] += shape[axis]
        if [*first[:axis], *first[axis:][1:]] != [*shape[:axis], *shape[axis:][1:]]:
            raise ValueError("tensors that do not stand side by side")
    return _stand_in(tuple(first))


def _slice(_: Any, x: np.ndarray, starts: Any, ends: Any, axes: Any, steps: Any = None) -> Any:
    cut = [slice(None)] * x.ndim
    steps = [1] * x.ndim if steps is None else _listed(steps)
    for start, end, axis, step in zip(_listed(starts), _listed(ends), _listed(axes), steps):
        cut[axis] = slice(start, end, step)
    return x[tuple(cut)]


def _gather(attributes: Any, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take(_known(x), _known(index), attributes.get("axis", 0))


def _reshape(_: Any, x: np.ndarray, target: np.ndarray) -> np.ndarray:
    sizes = _listed(target)
    return x.reshape([x.shape[at] if size == 0 else size for at, size in enumerate(sizes)])


def _expand(_: Any, x: np.ndarray, target: np.ndarray) -> np.ndarray:
    shape = np.broadcast_shapes(x.shape, tuple(_listed(target)))
    return np.broadcast_to(x, _stand_in(shape).shape)


def _squeeze(_: Any, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.squeeze(x, tuple(_listed(axes)))


def _unsqueeze(_: Any, x: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return np.expand_dims(x, tuple(_listed(axes)))


def _pad(attributes: Any, x: np.ndarray, pads: np.ndarray, *_: Any) -> np.ndarray:
    wide = np.reshape(_listed(pads), (2, x.ndim))
    if wide.min() < 0:
        raise ValueError("a negative Pad")
    return _stand_in(tuple(size + sum(more) for size, more in zip(x.shape, wide.T.tolist())))


def _product(attributes: Any, x: np.ndarray) -> np.ndarray:
    keeps = bool(attributes.get("keepdims", 1))
    axes = attributes.get("axes")
    return np.prod(_known(x), axis=axes, dtype=x.dtype, keepdims=keeps)


def _multiply_matrices(_: Any, a: np.ndarray, b: np.ndarray) -> Made:
    if min(a.ndim, b.ndim) < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError("matrices that do not fit")
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    made = _stand_in((*stack, a.shape[-2], b.shape[-1]))
    return [made], made.size * a.shape[-1]


def _convolve(attributes: Any, x: np.ndarray, weights: np.ndarray, *_: Any) -> Made:
    n, width, *steps = x.shape
    filters, width_of_weights, *kernel = weights.shape
    ones = (1,) * len(kernel)
    reach = [d * (k - 1) for d, k in zip(attributes.get("dilations", ones), kernel, strict=True)]
    wide = attributes.get("pads", (0, 0) * len(kernel))
    is_plain = attributes.get("group", 1) == 1 and set(attributes.get("strides", ones)) == {1}
    if not is_plain or width != width_of_weights or min(*wide, *reach) < 0:
        raise ValueError("a Conv of another kind")
    ends = zip(steps, reach, wide[: len(kernel)], wide[len(kernel) :], strict=True)
    made = _stand_in((n, filters, *(size + a + b - r for size, r, a, b in ends)))
    return [made], made.size * width * math.prod(kernel)


def _run_lstm(attributes: Any, x: np.ndarray, weights: np.ndarray, *others: Any) -> Made:
    steps, n, width = x.shape
    directions, gates, width_of_weights = weights.shape
    units = attributes["hidden_size"]
    is_double = attributes.get("direction", "forward") == "bidirectional"
    if (directions, gates, width) != (1 + is_double, 4 * units, width_of_weights):
        raise ValueError("an LSTM whose weights do not fit")
    gated = _stand_in((steps, n, directions, gates))
    state = _stand_in((directions, n, units))
    outputs = [_stand_in((steps, directions, n, units)), state, state]
    return outputs, gated.size * (width + units)


OPERATORS: Mapping[str, tuple[Any, ...]] = {
    "LSTM": (_run_lstm, "activations", "direction", "hidden_size"),
    "Conv": (_convolve, "dilations", "strides", "kernel_shape", "group", "pads"),
    "MatMul": (_multiply_matrices,),
    "Add": (_merge(np.add),),
    "Sub": (_merge(np.subtract),),
    "Mul": (_merge(np.multiply),),
    "Max": (_merge(np.maximum),),
    "Min": (_merge(np.minimum),),
    "Div": (_merge(None),),
    **dict.fromkeys("Relu Sigmoid Softplus Tanh Neg Sqrt Identity".split(), (_plain(_same),)),
    "Softmax": (_plain(_same), "axis"),
    "Transpose": (_plain(lambda given, x: np.transpose(x, given["perm"])), "perm"),
    "Shape": (_plain(lambda _, x: np.array(x.shape, np.int64)),),
    "Cast": (_plain(_cast), "to"),
    "Concat": (_plain(_concatenate), "axis"),
    "Slice": (_plain(_slice),),
    "Gather": (_plain(_gather), "axis"),
    "Reshape": (_plain(_reshape),),
    "Expand": (_plain(_expand),),
    "Squeeze": (_plain(_squeeze),),
    "Unsqueeze": (_plain(_unsqueeze),),
    "Pad": (_plain(_pad), "mode"),
    "ReduceProd": (_plain(_product), "axes", "keepdims"),
}
"""Operator -> its rule, and the attributes that it may have. tf2onnx makes these of this project's
networks; a few are kin of them."""
