"""Hostile, truncated and damaged scaler files, written here opcode by opcode."""

import pickle
import random
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from pipeline.bundle import scalers
from pipeline.bundle.scalers import MinMaxRecord, ScalerRecord, load_scalers

NUMPY_MODULE = (
    np.zeros(1).__reduce__()[0].__module__
)  # numpy.core.multiarray in NumPy 1, numpy._core... in 2
SKLEARN_MODULE = "sklearn.preprocessing._data"
NONE, EMPTY_DICT, MARK, TUPLE, REDUCE, NEWOBJ, BUILD = b"N", b"}", b"(", b"t", b"R", b"\x81", b"b"


def fitted_scaler(n_features: int = 3) -> StandardScaler:
    return StandardScaler().fit(np.random.default_rng(0).normal(5.0, 2.0, size=(20, n_features)))


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def tuple_of(*parts: bytes) -> bytes:
    return MARK + b"".join(parts) + TUPLE


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def pickle_of(value: bytes) -> bytes:
    """The pickle of {"key": value}, whose value is given as opcodes."""
    return b"\x80\x04" + EMPTY_DICT + text("key") + value + b"s."


def dtype_of(code: str = "f8") -> bytes:
    minus_one = b"J\xff\xff\xff\xff"
    state = tuple_of(b"K\x03", text("<"), NONE, NONE, NONE, minus_one, minus_one, b"K\x00")
    return named("numpy", "dtype") + tuple_of(text(code), b"\x89", b"\x88") + REDUCE + state + BUILD


def array_of(
    shape: bytes, data: bytes, *, dtype: bytes | None = None, module: str = NUMPY_MODULE
) -> bytes:
    empty = tuple_of(named("numpy", "ndarray"), b"K\x00\x85", b"C\x01b")
    state = tuple_of(b"K\x01", shape, dtype_of() if dtype is None else dtype, b"\x89", data)
    return named(module, "_reconstruct") + empty + REDUCE + state + BUILD


def bytes_of(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def load_bytes(folder: Path, data: bytes) -> dict:
    path = folder / "scalers.pkl"
    path.write_bytes(data)
    return load_scalers(path)


def assert_refused(folder: Path, data: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        load_bytes(folder, data)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_arrays_written_by_numpy_1_and_2_load(tmp_path, module):
    data = bytes_of(struct.pack("<2d", 1.5, -2.0))
    array = load_bytes(tmp_path, pickle_of(array_of(b"K\x02\x85", data, module=module)))["key"]
    np.testing.assert_array_equal(array, [1.5, -2.0])
    scalar = (
        named(module, "scalar") + tuple_of(dtype_of(), bytes_of(struct.pack("<d", 0.25))) + REDUCE
    )
    assert load_bytes(tmp_path, pickle_of(scalar))["key"] == np.float64(0.25)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x89HDF\r\n", pickle.dumps({}, 5), pickle.dumps({}, 2)]
)
def test_what_is_no_pickle_of_protocol_4_is_refused(tmp_path, data):
    assert_refused(tmp_path, data, "does not begin as a pickle of protocol 4")


def test_bytes_after_the_end_are_refused(tmp_path):
    assert_refused(tmp_path, pickle.dumps({"a": 1}, 4) + b"x", "its pickle ends at byte")


@pytest.mark.parametrize("by", ["GLOBAL", "STACK_GLOBAL"])
def test_a_file_that_would_run_a_command_runs_nothing(tmp_path, by):
    marker = tmp_path / "marker"
    system = b"cos\nsystem\n" if by == "GLOBAL" else named("os", "system")
    data = pickle_of(system + tuple_of(text(f'echo > "{marker}"')) + REDUCE)
    assert_refused(tmp_path, data, r"scalers.pkl .* type os.system is not admitted \(opcode " + by)
    assert not marker.exists()
    pickle.loads(data)  # the file is armed: who trusts it runs the command
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("builtins", "dict"),
        ("functools", "partial"),
        ("posix", "system"),
        ("importlib", "import_module"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "fromfile"),
        ("numpy.core.multiarray", "frombuffer"),
        ("numpy", "object_"),
        ("numpy._core", "multiarray._reconstruct"),
        ("numpy._core.multiarray", "_reconstruct.__globals__"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.random._pickle", "__generator_ctor"),
        ("sklearn.preprocessing._data", "RobustScaler"),
        ("sklearn.preprocessing", "StandardScaler"),
        ("sklearn.preprocessing", "MinMaxScaler"),
        ("sklearn.preprocessing._data", "minmax_scale"),
        ("joblib.numpy_pickle", "NumpyArrayWrapper"),
        ("pipeline.bundle.scalers", "MinMaxRecord"),
        ("", ""),
    ],
)
def test_every_other_name_is_refused_even_if_it_is_not_called(tmp_path, module, name):
    assert_refused(
        tmp_path, pickle_of(named(module, name)), rf"type {module}\.{name} is not admitted"
    )


def test_names_in_errors_are_short_and_printable(tmp_path):
    with pytest.raises(ValueError, match=r"type \\x1b\[2Jmmm") as caught:
        load_bytes(tmp_path, pickle_of(named("\x1b[2J" + "m" * 10**6, "n" * 10**6)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("opcode", "value"),
    [
        ("PERSID", b"Pabc\n"),
        ("BINPERSID", text("abc") + b"Q"),
        ("INST", b"(ios\nsystem\n"),
        ("OBJ", b"(o"),
        ("EXT1", b"\x82\x01"),
        ("EXT2", b"\x83\x01\x00"),
        ("EXT4", b"\x84\x01\x00\x00\x00"),
        ("NEXT_BUFFER", b"\x97"),
        ("READONLY_BUFFER", b"\x98"),
        ("BYTEARRAY8", b"\x96" + bytes(8)),
        ("LONG_BINPUT", b"Nr\xff\xff\xff\x7f"),
        ("PUT", b"Np99999999999\n"),
        ("FROZENSET", b"(\x91"),
        ("BINBYTES8", b"\x8e" + b"\xff" * 7 + b"\x7f"),
        ("LONG", b"L" + b"9" * 10**6 + b"L\n"),
        ("STRING", b"S'\\q'\n"),
        ("PROTO", b"\x80\x05N"),
        ("DUP", b"N2"),
        ("NEWOBJ_EX", b"\x92"),
    ],
)
def test_opcodes_that_no_scaler_file_needs_are_refused(tmp_path, opcode, value):
    assert_refused(tmp_path, pickle_of(value), rf"opcode {opcode} at byte \d+ is not admitted")


@pytest.mark.parametrize(
    "target",
    [
        named("numpy", "ndarray"),
        named("numpy", "dtype"),
        named(NUMPY_MODULE, "_reconstruct"),
        named(SKLEARN_MODULE, "StandardScaler"),
        named(SKLEARN_MODULE, "MinMaxScaler"),
        EMPTY_DICT,
        b"]",
        b")",
        NONE,
        text("text"),
        b"C\x01b",
    ],
)
@pytest.mark.parametrize("state", ["attributes", "slots"])
def test_no_state_can_be_set_on_types_functions_and_plain_values(tmp_path, target, state):
    attributes = EMPTY_DICT + text("transform") + NONE + b"s"
    build = attributes if state == "attributes" else tuple_of(NONE, attributes)
    assert_refused(
        tmp_path, pickle_of(target + build + BUILD), "missing or of another type .opcode BUILD"
    )


@pytest.mark.parametrize(
    "attribute", ["__class__", "__setstate__", "__dict__", "transform", "scale"]
)
def test_a_scaler_state_sets_no_attribute(tmp_path, attribute):
    scaler = fitted_scaler()
    scaler.__dict__[attribute] = "hostile"
    record = load_bytes(tmp_path, pickle.dumps({"X": scaler}, 4))["X"]
    assert type(record) is ScalerRecord and set(vars(record)) == {"mean", "scale"}
    assert record.mean.tobytes() == scaler.mean_.tobytes() and callable(record.transform)
    price_scaler = MinMaxScaler().fit([[1.0], [3.0]])
    price_scaler.__dict__[attribute] = "hostile"
    record = load_bytes(tmp_path, pickle.dumps({"y": price_scaler}, 4))["y"]
    assert type(record) is MinMaxRecord and set(vars(record)) == {"min", "scale"}


def scaler_of(state: bytes, args: bytes = b")", name: str = "StandardScaler") -> bytes:
    return named(SKLEARN_MODULE, name) + args + NEWOBJ + state


def min_max_of(*entries: bytes, args: bytes = b")") -> bytes:
    state = EMPTY_DICT + (MARK + b"".join(entries) + b"u" if entries else b"") + BUILD
    return scaler_of(state, args, "MinMaxScaler")


UNCLIPPED = (text("clip"), b"\x89")


WITH_BOTH = MARK + text("with_mean") + b"\x88" + text("with_std") + b"\x88"


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (scaler_of(b""), "not written as scikit-learn writes it"),
        (scaler_of(NONE + BUILD), "not written as scikit-learn writes it"),
        (scaler_of(EMPTY_DICT + BUILD, args=b"K\x01\x85"), "not written as scikit-learn writes it"),
        (scaler_of(EMPTY_DICT + BUILD), "with_mean is neither True nor False"),
        (scaler_of(EMPTY_DICT + WITH_BOTH + b"u" + BUILD), "has no mean_"),
        (
            scaler_of(
                EMPTY_DICT + WITH_BOTH + text("mean_") + NONE + text("scale_") + NONE + b"u" + BUILD
            ),
            "mean is no one-dimensional float64 array",
        ),
        (
            scaler_of(b"", name="MinMaxScaler"),
            "a MinMaxScaler is not written as scikit-learn writes it",
        ),
        (min_max_of(args=b"K\x01\x85"), "a MinMaxScaler is not written as scikit-learn writes it"),
        (min_max_of(), "a MinMaxScaler's clip is not False"),
        (min_max_of(text("clip"), b"\x88"), "a MinMaxScaler's clip is not False"),
        (min_max_of(*UNCLIPPED), "a MinMaxScaler has no min_: it is not fitted"),
        (min_max_of(*UNCLIPPED, text("min_"), NONE), "a MinMaxScaler has no scale_"),
        (
            min_max_of(*UNCLIPPED, text("min_"), NONE, text("scale_"), NONE),
            "min is no one-dimensional float64 array",
        ),
        (named(NUMPY_MODULE, "_reconstruct") + b")" + REDUCE, "not written as NumPy writes it"),
        (named(NUMPY_MODULE, "scalar") + b")" + REDUCE, "not written as NumPy writes it"),
        (
            named(NUMPY_MODULE, "scalar") + tuple_of(dtype_of(), b"C\x01b") + REDUCE,
            "does not fit its bytes",
        ),
        (array_of(b"K\x01\x85", NONE), "does not fit its bytes"),
        (array_of(b"K\x02\x85", bytes_of(bytes(8))), "does not fit its bytes"),
        (array_of(b"J\xff\xff\xff\xff\x85", bytes_of(bytes(8))), "no tuple of sizes"),
        (array_of(b"K\x01", bytes_of(bytes(8))), "no tuple of sizes"),
        (array_of(b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x7f\x86", b"C\x00"), "too big"),
        (array_of(MARK + b"K\x01" * 33 + TUPLE, bytes_of(bytes(8))), "no tuple of sizes"),
        (
            array_of(b"K\x01\x85", bytes_of(bytes(8)), dtype=dtype_of("O8")),
            "dtype 'O8' is not numeric",
        ),
        (
            array_of(b"K\x01\x85", bytes_of(bytes(8)), dtype=dtype_of("f8,O")),
            "dtype 'f8,O' is not numeric",
        ),
        (
            array_of(b"K\x01\x85", bytes_of(bytes(8)), dtype=dtype_of() + NONE + BUILD),
            "dtype 'f8' is not written",
        ),
        (array_of(b"K\x01\x85", bytes_of(bytes(8)), dtype=NONE), "no dtype"),
    ],
)
def test_objects_that_are_not_written_as_their_library_writes_them_are_refused(
    tmp_path, value, match
):
    assert_refused(tmp_path, pickle_of(value), match)


@pytest.mark.parametrize(
    "where",
    [
        "constructor",
        "state",
        "shared bytes",
        "shared scaler arrays",
        "shared min-max arrays",
        "literal",
    ],
)
def test_memory_bombs_are_refused_before_they_are_allocated(tmp_path, where):
    huge = b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85"
    if where == "constructor":
        ndarray = tuple_of(named("numpy", "ndarray"), huge, b"C\x01b")
        value, match = (
            named(NUMPY_MODULE, "_reconstruct") + ndarray + REDUCE,
            "not written as NumPy",
        )
    elif where == "state":
        value, match = array_of(huge, bytes_of(bytes(8))), "does not fit its bytes"
    elif where == "shared bytes":  # 2000 arrays of one megabyte, all over the same bytes
        first = array_of(b"J\x00\x00\x02\x00\x85", bytes_of(bytes(2**20)) + b"\x94")
        rest = array_of(b"J\x00\x00\x02\x00\x85", b"h\x00") * 2000
        value, match = tuple_of(first, rest), "larger than the file"
    elif where in ("shared scaler arrays", "shared min-max arrays"):
        array = (
            array_of(b"J\x00\x00\x02\x00\x85", bytes_of(struct.pack("<d", 1.0) * 2**17)) + b"\x94"
        )
        state = EMPTY_DICT + WITH_BOTH + text("mean_") + b"h\x00" + text("scale_") + b"h\x00" + b"u"
        min_max = min_max_of(*UNCLIPPED, text("min_"), b"h\x00", text("scale_"), b"h\x00")
        scaler = scaler_of(state + BUILD) if where == "shared scaler arrays" else min_max
        value, match = tuple_of(array, scaler * 2000), "larger than the file"
    else:
        value, match = b"B\xff\xff\xff\xff" + bytes(10), "opcode BINBYTES"
    tracemalloc.start()
    try:
        assert_refused(tmp_path, pickle_of(value), match)
        assert tracemalloc.get_traced_memory()[1] < 80 * 2**20
    finally:
        tracemalloc.stop()


DTYPE = named("numpy", "dtype")


def nested_in_lists(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def doubling(levels: int, before: bytes, after: bytes) -> bytes:
    """A tuple whose parts hold their predecessor twice each: 2**levels values when written out."""
    parts = (
        before + b"h" + bytes([i]) + b"h" + bytes([i]) + after + b"\x94" for i in range(levels)
    )
    return tuple_of(b")\x94", *parts)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (doubling(40, b"](", b"e"), "more than 500000 values"),
        (doubling(40, b"", b"\x86"), "more than 500000 values"),
        # The key would take 2**60 steps to hash.
        (EMPTY_DICT + doubling(60, b"", b"\x86") + NONE + b"s", "dict key is a tuple"),
        (nested_in_lists(200_000), "nested more than 50 deep"),
        (b")" + b"\x85" * 400_000, "nested more than 50 deep"),
        (DTYPE + b"\x94" + b"h\x00" * 99_999 + b")" + (REDUCE + b"\x85") * 10**5, "dtype"),
        (tuple_of(DTYPE, b"\x94", b"h\x00)R" * 10**5, BUILD * 99_999), "numpy.dtype is no value"),
        (NONE * 15_000_000, "more than 500000 opcodes"),
        (MARK * 400_000 + TUPLE * 400_000, "more than 500000 opcodes"),
        (b"]\x94(" + b"h\x00" * 400_000 + b"e", "nested more than 50 deep"),
    ],
    ids=[
        "lists",
        "tuples",
        "key",
        "deep lists",
        "deep tuples",
        "calls",
        "states",
        "flood",
        "marks",
        "self",
    ],
)
def test_time_bombs_are_refused_in_bounded_time(tmp_path, value, match):
    start = time.process_time()  # not the clock's, which other programs spend too
    assert_refused(tmp_path, pickle_of(value), match)
    assert time.process_time() - start < 10.0  # measured: at most 1 s, 5 on a busy machine


def small_pickle() -> bytes:
    y = MinMaxScaler().fit([[1.0], [3.0]])
    scalers = {
        "X": fitted_scaler(2),
        "y": y,
        "a": np.arange(2),
        "s": np.float32(1.5),
        "c": ["body", (1, 2.5, None)],
    }
    return pickle.dumps(scalers, protocol=4)


def test_a_file_cut_at_any_byte_is_refused(tmp_path):
    data = small_pickle()
    load_bytes(tmp_path, data)
    for length in range(len(data)):
        with pytest.raises(ValueError):
            load_bytes(tmp_path, data[:length])


def test_random_damage_gives_a_dict_or_a_value_error_and_imports_nothing(recwarn):
    intact, rng, modules = small_pickle(), random.Random(0), set(sys.modules)
    refused = 0
    for _ in range(4000):
        damaged = bytearray(intact)
        for _ in range(rng.choice([1, 1, 2, 8])):
            damaged[rng.randrange(2, len(damaged))] = rng.randrange(256)
        try:
            assert type(scalers._parse(bytes(damaged), len(damaged))) is dict
        except ValueError:
            refused += 1
    assert 1000 < refused < 4000
    assert set(sys.modules) == modules and not recwarn.list


SNIPPETS = [
    NONE,
    EMPTY_DICT,
    MARK,
    TUPLE,
    REDUCE,
    NEWOBJ,
    BUILD,
    b"\x88",
    b"K\x00",
    b"K\x01",
    b"C\x01b",
    b"C\x00",
    b")",
    b"]",
    b"\x94",
    b"\x85",
    b"\x86",
    b"\x87",
    b"a",
    b"e",
    b"s",
    b"u",
    b"h\x00",
    b"h\x01",
    b"\x93",
    text("key"),
    text("f8"),
    dtype_of(),
    array_of(b"K\x01\x85", bytes_of(bytes(8))),
    scaler_of(b""),
    named("numpy", "ndarray"),
    named(NUMPY_MODULE, "_reconstruct"),
    named(SKLEARN_MODULE, "StandardScaler"),
    named(SKLEARN_MODULE, "MinMaxScaler"),
    min_max_of(*UNCLIPPED),
]


@given(st.lists(st.sampled_from(SNIPPETS), max_size=40).map(b"".join))
def test_any_sequence_of_opcodes_gives_a_dict_or_a_value_error(body):
    for data in (b"\x80\x04" + body + b".", pickle_of(body)):
        try:
            assert type(scalers._parse(data, 10**4)) is dict
        except ValueError:
            pass
