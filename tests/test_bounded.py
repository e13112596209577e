"""Small files that ask for much end in one line, soon and in little memory.

Each is made here, from a sound one, and would take gigabytes or minutes if it were opened.
"""

from __future__ import annotations

import copy
import gzip
import json
import mmap
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.bundle.layer_sizes import count_weights
from pipeline.bundle.network import export_twin, import_keras, quiet_absl
from pipeline.bundle.network_check import RefusedNetworkError, check_network_file
from pipeline.bundle.twin_check import check_twin
from pipeline.candles import store, table_size
from pipeline.candles.synthetic import synthetic_candles
from tests import networks

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8


# --- networks in .h5 files


class Shape:
    """What `tests.networks` asks of a configuration."""

    seed, lookback = 1, 12


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A .h5 file of a window of 12 candles and 5 features, without an LSTM."""
    path = tmp_path_factory.mktemp("sound") / "model.h5"
    with quiet_absl():
        networks.for_v1(Shape, 5).save(path)
    return path


def spoil_network(
    sound: Path, path: Path, change: Callable[[dict[str, Any], h5py.File], None]
) -> None:
    """Copy a network's file, its description changed in place by a function."""
    path.write_bytes(sound.read_bytes())
    with h5py.File(path, "a") as file:
        description = json.loads(file.attrs["model_config"])
        change(description, file)
        file.attrs["model_config"] = json.dumps(description)


@pytest.fixture
def spoilt(sound, tmp_path):
    """Copies the sound file, its description changed in place by a function."""

    def spoil(change: Callable[[dict[str, Any], h5py.File], None]) -> Path:
        path = tmp_path / "spoilt.h5"
        spoil_network(sound, path, change)
        return path

    return spoil


def layer_of(description: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(one for one in description["config"]["layers"] if one["class_name"] == kind)


@pytest.mark.slow
def test_the_weights_of_every_generations_network_are_counted_from_its_description(tmp_path):
    import_keras()
    from models.average import build_average
    from models.bilstm_ohlc import build_bilstm_ohlc
    from models.dual_stream import build_dual_stream
    from models.dual_timeframe import build_dual_timeframe
    from models.multitask import build_direction, build_price
    from models.price_level import build_price_level

    small = {"lstm_units": (4,), "conv_filters": 3, "conv_lstm_units": 2, "skip_candles": 2}
    built = {
        "v2": build_dual_stream(9, 5, lstm_units=(4, 3), dense_units=(3,)),
        "ensemble": build_average([build_dual_stream(9, 5, **small) for _ in range(2)]),
        "v1": build_dual_timeframe(9, 5),
        "v1_final": build_price_level(9, 5),
        "v7": build_bilstm_ohlc(9, 5, lstm_units=(4, 3, 2)),
        "direction": build_direction(9, 5, lstm_units=(6, 4)),
        "price": build_price(9, 5, lstm_units=(6, 4)),
    }
    for name, model in built.items():
        with quiet_absl():
            model.save(tmp_path / f"{name}.h5")
        with h5py.File(tmp_path / f"{name}.h5") as file:
            assert count_weights(json.loads(file.attrs["model_config"])) == model.count_params()
        check_network_file(tmp_path / f"{name}.h5")


def ask_for(kind: str, **arguments: Any) -> Callable[[dict[str, Any], h5py.File], None]:
    return lambda description, file: layer_of(description, kind)["config"].update(arguments)


def many_layers(description: dict[str, Any], file: h5py.File) -> None:
    dense = layer_of(description, "Dense")
    for number in range(5000):
        more = copy.deepcopy(dense)
        more["name"] = more["config"]["name"] = f"more_{number}"
        description["config"]["layers"].append(more)


def wide_concatenation(description: dict[str, Any], file: h5py.File) -> None:
    """Each of 40 layers puts the one before beside itself: 2^40 numbers, and no weights."""
    first = layer_of(description, "Concatenate")
    before = first["name"]
    for number in range(40):
        more = copy.deepcopy(first)
        more["name"] = more["config"]["name"] = f"more_{number}"
        source = {"class_name": "__keras_tensor__", "config": {"keras_history": [before, 0, 0]}}
        more["inbound_nodes"] = [{"args": [[source, source]], "kwargs": {}}]
        description["config"]["layers"].append(more)
        before = more["name"]


def named_twice(description: dict[str, Any], file: h5py.File) -> None:
    weights = file["model_weights"]
    group = weights[layer_of(description, "Dense")["name"]]
    name = group.attrs["weight_names"][0]
    for number in range(20):
        group[f"again_{number}"] = group[name]


def listed_often(description: dict[str, Any], file: h5py.File) -> None:
    group = file["model_weights"][layer_of(description, "Dense")["name"]]
    group.attrs["weight_names"] = [group.attrs["weight_names"][0]] * 4000


def packed(description: dict[str, Any], file: h5py.File) -> None:
    file["model_weights"].create_dataset("w", (10**6,), "f4", chunks=(10**6,), compression="gzip")


HOSTILE_NETWORKS = {
    "more units": (ask_for("Dense", units=10**5), "need .* weights, and it stores"),
    "sizes past counting": (ask_for("Dense", units=10**30), "none of the sizes"),
    "units that are no number": (ask_for("Dense", units="9" * 10**6), "none of the sizes"),
    "a long window": (ask_for("InputLayer", batch_shape=[None, 10**9, 5]), "none of the sizes"),
    "a batch of its own": (ask_for("InputLayer", batch_shape=[10**9, 12, 5]), "a fixed size"),
    "low-rank weights": (ask_for("Dense", lora_rank=10**9), "lora_rank is 1000000000"),
    "5,000 layers": (many_layers, "more than the 600 admitted"),
    "a concatenation of itself": (wide_concatenation, "makes too much of a window"),
    "weights named twice": (named_twice, "names a part of it twice"),
    "weights listed often": (listed_often, "lists 4,000 weights of a layer"),
    "packed weights": (packed, "claims .* bytes|stored in chunks"),
}


@pytest.mark.parametrize(("spoil", "match"), HOSTILE_NETWORKS.values(), ids=HOSTILE_NETWORKS.keys())
def test_a_network_that_asks_for_more_than_it_stores_is_refused(spoilt, spoil, match):
    with pytest.raises(RefusedNetworkError, match=f"spoilt.h5: .*{match}.* not opened"):
        check_network_file(spoilt(spoil))


def test_a_long_text_that_is_listed_often_is_refused_unread(spoilt, monkeypatch):
    monkeypatch.setattr("pipeline.bundle.network_check.MAX_TEXT_BYTES", 2**20)
    with pytest.raises(RefusedNetworkError, match="names, more than a network of its size"):
        check_network_file(
            spoilt(lambda description, file: file.attrs.create("a", ["x" * 60] * 99))
        )


@pytest.mark.parametrize("depth", [100, 100_000])
def test_a_description_that_is_nested_deeply_is_refused(sound, tmp_path, depth):
    path = tmp_path / "deep.h5"
    path.write_bytes(sound.read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = "[" * depth + "]" * depth
    with pytest.raises(RefusedNetworkError, match="nested too deeply"):
        check_network_file(path)


# --- ONNX twins, written here field by field


def varint(number: int) -> bytes:
    number %= 2**64
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(
    name: str, shape: tuple[int, ...], raw: bytes, kind: int = 1, more: bytes = b""
) -> bytes:
    dims = b"".join(field(1, size) for size in shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, raw) + more)


def whole(name: str, *numbers: int) -> bytes:
    return tensor(name, (len(numbers),), np.array(numbers, "<i8").tobytes(), 7)


def node(kind: str, inputs: list[str], output: str, *more: bytes) -> bytes:
    given = b"".join(field(1, name) for name in inputs)
    return field(1, given + field(2, output) + field(4, kind) + b"".join(more))


def attribute(name: str, value: int) -> bytes:
    return field(5, field(1, name) + field(3, value) + field(20, 2))


def value(number: int, name: str, *sizes: int, kind: int = 1) -> bytes:
    dims = field(1, field(2, "n")) + b"".join(field(1, field(1, size)) for size in sizes)
    described = field(1, field(1, kind) + field(2, dims))
    return field(number, field(1, name) + field(2, described))


def twin(*parts: bytes, opset: int = 15, more: bytes = b"", inputs: bytes | None = None) -> bytes:
    """A graph from the windows "x" (12, 5) to the row "y" (1), of what is given."""
    inputs = value(11, "x", 12, 5) if inputs is None else inputs
    graph = b"".join(parts) + field(2, "g") + inputs + value(12, "y", 1)
    return field(1, 8) + field(7, graph) + field(8, field(2, opset)) + more


WEIGHTS = tensor("w", (60, 1), bytes(240))
FLAT = whole("flat", -1, 60)
SOUND = [WEIGHTS, FLAT, node("Reshape", ["x", "flat"], "a"), node("MatMul", ["a", "w"], "y")]
LOOP = field(5, field(1, "body") + field(6, field(2, "endless")) + field(20, 5))
EXTERNAL = field(13, field(1, "location") + field(2, "secret")) + field(14, 1)
ZERO = tensor("zero", (1,), bytes(4))

HOSTILE_TWINS = {
    "a constant of 12 GB": twin(
        *SOUND, ZERO, whole("huge", 3_000_000_000), node("Expand", ["zero", "huge"], "b")
    ),
    "such a constant by a product": twin(
        *SOUND,
        ZERO,
        whole("row", 1, 60_000),
        whole("column", 60_000, 1),
        node("Expand", ["zero", "row"], "b"),
        node("Expand", ["zero", "column"], "c"),
        node("MatMul", ["c", "b"], "d"),
    ),
    "padding": twin(*SOUND, whole("pads", 0, 0, 0, 0, 10**9, 0), node("Pad", ["x", "pads"], "b")),
    "doubling": twin(
        *SOUND,
        *(
            node("Concat", [f"d{n - 1}" if n else "x"] * 2, f"d{n}", attribute("axis", 1))
            for n in range(40)
        ),
    ),
    "a long product": twin(
        *SOUND,
        ZERO,
        whole("square", 6000, 6000),
        node("Expand", ["zero", "square"], "b"),
        node("MatMul", ["b", "b"], "c"),
    ),
    "a loop": twin(*SOUND, whole("rounds", 2**62), node("Loop", ["rounds"], "b", LOOP)),
    "a graph inside": twin(*SOUND, node("Relu", ["x"], "b", LOOP)),
    "another operator": twin(*SOUND, node("ConstantOfShape", ["flat"], "b")),
    "another maker's operator": twin(*SOUND, node("Relu", ["x"], "b", field(7, "com.maker"))),
    "a function": twin(*SOUND, more=field(25, field(1, "f"))),
    "weights of another file": twin(*SOUND[1:], tensor("w", (60, 1), b"", more=EXTERNAL)),
    "weights that are not there": twin(*SOUND[1:], tensor("w", (60, 10**9), bytes(240))),
    "sizes that overflow": twin(*SOUND[1:], tensor("w", (2**62, 4), b"")),
    "a text in place of windows": twin(*SOUND, inputs=value(11, "x", 12, 5, kind=8)),
    "two outputs": twin(*SOUND, value(12, "a", 60)),
    "a shape that windows decide": twin(
        *SOUND, node("Cast", ["x"], "b", attribute("to", 7)), node("Expand", ["x", "b"], "c")
    ),
    "operators of another age": twin(*SOUND, opset=7),
    "two graphs": twin(*SOUND, more=field(7, b"")),
    "millions of fields": field(14, b"") * 200_000 + twin(*SOUND),
    "a graph that breaks off": twin(*SOUND)[:-20],
    "a length past the end": b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    "nothing": b"",
}


def test_a_twin_written_field_by_field_is_admitted_and_runs():
    onnxruntime = pytest.importorskip("onnxruntime")
    check_twin(twin(*SOUND), BATCH, "x.onnx")
    session = onnxruntime.InferenceSession(twin(*SOUND), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((BATCH, 12, 5), np.float32)})[0].shape == (BATCH, 1)


@pytest.mark.parametrize("content", HOSTILE_TWINS.values(), ids=HOSTILE_TWINS.keys())
def test_a_twin_that_is_not_built_as_ours_are_is_refused(content):
    with pytest.raises(ValueError, match=r"^x\.onnx: not a readable ONNX model.*was not opened"):
        check_twin(content, BATCH, "x.onnx")


@pytest.mark.long
def test_the_twins_of_every_generation_are_admitted_with_any_weights(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    import_keras()
    from models.dual_stream import build_dual_stream
    from models.dual_timeframe import build_dual_timeframe
    from models.multitask import build_direction, build_price
    from models.price_level import build_price_level

    built = [
        build_dual_stream(9, 5, lstm_units=(4, 3), dense_units=(3,), skip_candles=2),
        build_dual_timeframe(9, 5),
        build_price_level(9, 5),
        build_direction(9, 5, lstm_units=(6, 4)),
        build_price(9, 5, lstm_units=(6, 4)),
        *(make(Shape, 5) for make in (networks.for_v2, networks.for_v1, networks.for_v1_final)),
    ]
    monkeypatch.setattr("pipeline.bundle.network.TOLERANCE", np.inf)  # such weights exaggerate
    generator = np.random.default_rng(3)
    for model in built:
        for weight in model.weights:  # as after training: none is zero or one
            weight.assign(generator.uniform(0.1, 0.3, weight.shape))
        with quiet_absl():
            model.save(tmp_path / "model.h5")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras' own, of an input that is no list
            made = export_twin(tmp_path / "model.h5")
        assert made is not None
        check_twin(made.read_bytes(), BATCH, "x.onnx")


# --- candles


def equal_rows(path: Path) -> None:
    """20 million rows; a Parquet file says of equal ones once how many there are."""
    rows = synthetic_candles(1, seed=1)
    table = pa.Table.from_pandas(rows, preserve_index=False)
    many = table.take(pa.array(np.zeros(2_000_000, np.int64)))
    with parquet.ParquetWriter(path, many.schema) as out:
        for _ in range(10):
            out.write_table(many)


def one_text_often(path: Path) -> None:
    """A text of 10 MB in 100,000 rows, of which the file holds one."""
    index = pa.array(np.zeros(100_000, np.int32))
    texts = pa.DictionaryArray.from_arrays(index, ["x" * 10**7])
    parquet.write_table(pa.table({"timestamp": texts, "open": np.ones(100_000)}), path)


HOSTILE_CANDLES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "columns": ("csv", lambda path: path.write_bytes(b"," * 10**7), "a line is longer|columns"),
    "columns below the header": (
        "csv",
        lambda path: path.write_bytes(b"timestamp,open\n" + b"," * 50_000),
        "50,001 columns",
    ),
    "a long line": (
        "csv",
        lambda path: path.write_bytes(b"timestamp,open\n" + b"1" * 10**6),
        "a line is longer than 32,768 bytes",
    ),
    "rows": ("csv", lambda path: path.write_bytes(b"1\n" * 6_100_000), "rows and .* values"),
    "a packed text": (
        "csv.gz",
        lambda path: path.write_bytes(gzip.compress(b"1,1\n" * 6_100_000, 1)),
        "rows and .* values",
    ),
    "lists": (
        "parquet",
        lambda path: pd.DataFrame({"timestamp": [[1.0] * 1000]}).to_parquet(path),
        "is no plain column",
    ),
    "300 columns": (
        "parquet",
        lambda path: pd.DataFrame(np.ones((2, 300))).rename(columns=str).to_parquet(path),
        "300 columns",
    ),
    "a text as often as there are rows": ("parquet", one_text_often, "more than 1,000 bytes"),
}


@pytest.mark.parametrize(
    ("suffix", "make", "match"), HOSTILE_CANDLES.values(), ids=HOSTILE_CANDLES.keys()
)
def test_a_file_of_candles_that_holds_far_too_much_is_refused(tmp_path, suffix, make, match):
    path = tmp_path / f"BTCUSDT_1h.{suffix}"
    make(path)
    with pytest.raises(ValueError, match=match):
        store.read_series(tmp_path, "BTC/USDT", "1h") or store.read_table(path)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("packing", ["snappy", "zstd", "none"])
def test_the_headers_of_pages_say_what_the_metadata_of_a_sound_file_say(tmp_path, version, packing):
    rows = synthetic_candles(5000, seed=1).assign(text="a", gap=[1.0, None] * 2500)
    options = {"data_page_version": version, "compression": packing, "data_page_size": 4096}
    path = tmp_path / "x.parquet"
    rows.iloc[:0].to_parquet(path, **options)
    with path.open("rb") as file:
        table_size.check_pages(file, parquet.read_metadata(file))
    rows.to_parquet(path, row_group_size=2000, write_page_checksum=True, **options)
    described = parquet.read_metadata(path)
    with path.open("rb") as file:
        table_size.check_pages(file, described)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for number in range(described.num_columns):
            chunk = described.row_group(1).column(number)
            place = start = chunk.dictionary_page_offset or chunk.data_page_offset
            unpacked = 0
            while place < start + chunk.total_compressed_size:
                size, packed, behind = table_size._read_page_header(data, place)
                unpacked += size + behind - place
                place = behind + packed
            assert place == start + chunk.total_compressed_size
            assert unpacked == chunk.total_uncompressed_size


def test_a_page_that_unpacks_to_more_than_the_metadata_say_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(table_size, "MAX_PAGE_BYTES", 10**6)
    candles = synthetic_candles(5000, seed=1)
    path = tmp_path / "BTCUSDT_1h.parquet"
    candles.to_parquet(path, compression="zstd", column_encoding="PLAIN", use_dictionary=False)
    store.read_table(path)
    content = bytearray(path.read_bytes())
    chunk = parquet.read_metadata(path).row_group(0).column(1)
    # 5,000 numbers, two bytes that begin the column and two of its levels: the varint 2 * 40,00x
    place = content.index(b"\x15", chunk.data_page_offset + 2)
    assert content[place + 3] < 128 <= content[place + 1]
    content[place + 3] = 127  # a million bytes now, of which the metadata know nothing
    path.write_bytes(content)
    with pytest.raises(ValueError, match="its pages unpack to 1,0..,... bytes or more"):
        store.read_table(path)
    content[place : place + 12] = b"\xff" * 12
    path.write_bytes(content)
    with pytest.raises(ValueError, match="the header of a page is damaged"):
        store.read_table(path)


def test_nine_years_of_minutes_are_within_the_bounds():
    assert table_size.MAX_ROWS > 9 * 366 * 24 * 60
    assert table_size.MAX_VALUES > 12 * 9 * 366 * 24 * 60  # the columns that Binance publishes


def test_texts_of_a_parquet_file_are_read_as_before(tmp_path):
    candles = synthetic_candles(50, seed=2)
    texts = candles.assign(
        timestamp=candles["timestamp"].dt.strftime("%Y-%m-%d %H:%M"),
        close=candles["close"].map(repr),
    )
    texts.to_parquet(tmp_path / "BTCUSDT_1h.parquet")
    pd.testing.assert_frame_equal(store.read_series(tmp_path, "BTC/USDT", "1h"), candles)


def test_a_pipe_in_place_of_candles_is_refused_at_once(tmp_path):
    os = pytest.importorskip("os")
    os.mkfifo(tmp_path / "candles.csv")
    with pytest.raises(ValueError, match="a device or pipe"):
        store.read_table(tmp_path / "candles.csv")


# --- time and memory


@pytest.mark.long
def test_hostile_files_end_within_ten_seconds_and_a_gibibyte(tmp_path, sound):
    """All kinds in one process, which says how much memory it ever had."""
    equal_rows(tmp_path / "BTCUSDT_1h.parquet")
    one_text_often(tmp_path / "texts.parquet")
    (tmp_path / "wide.csv").write_bytes(b"," * 10**7)
    for number, content in enumerate(HOSTILE_TWINS.values()):
        (tmp_path / f"{number}.onnx").write_bytes(content)
    code = f"""
import sys, time
from pathlib import Path
from pipeline.bundle.network import OnnxNetwork
from pipeline.candles import store
folder = Path({str(tmp_path)!r})
began = time.monotonic()
for path in sorted(folder.iterdir()):
    try:
        if path.suffix == ".onnx":
            OnnxNetwork(path.read_bytes(), input_shape=[(12, 5)], where=path.name)
        else:
            store.read_table(path)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1, error
    assert time.monotonic() - began < 10, path
    began = time.monotonic()
status = Path("/proc/self/status")  # of Linux; what the system counts of children is the parent's
lines = status.read_text().splitlines() if status.exists() else []
print(*[line.split()[1] for line in lines if line.startswith("VmHWM")])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout or 0) < 2**20, "KiB"
