"""Scaler files: what comes back of a file, what is not written, and the records' arithmetic."""

import collections
import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from pipeline.bundle import scalers
from pipeline.bundle.scalers import MinMaxRecord, ScalerRecord, load_scalers, save_scalers


def fitted_scaler(n_features: int = 3) -> StandardScaler:
    return StandardScaler().fit(np.random.default_rng(0).normal(5.0, 2.0, size=(20, n_features)))


# What is admitted


def test_plain_types_and_arrays_come_back_as_they_were(tmp_path):
    written = {
        "feature_cols": ["body", "rsi"],
        "lookback": 60,
        "big": -(2**200),
        "shrink": 0.25,
        "real": True,
        "none": None,
        "nan": float("nan"),
        "hash": b"\x00\xff",
        "text": "ö" * 300,
        "tuple": ("BTC/USDT", 1, (), (2.0,)),
        "nested": {"empty": {}, "list": [], "four": (1, 2, 3, 4)},
        "long_list": list(range(2500)),
        "many_keys": {str(i): i for i in range(2500)},
    }
    save_scalers(written, tmp_path / "scalers.pkl")
    loaded = load_scalers(tmp_path / "scalers.pkl")
    assert np.isnan(written.pop("nan")) and np.isnan(loaded.pop("nan"))
    assert loaded == written
    assert [type(value) for value in loaded.values()] == [type(value) for value in written.values()]


@given(
    st_numpy.arrays(
        st.one_of(
            st_numpy.boolean_dtypes(),
            st_numpy.integer_dtypes(),
            st_numpy.unsigned_integer_dtypes(),
            st_numpy.floating_dtypes(sizes=(16, 32, 64)),
        ),
        st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0),
    )
)
def test_numeric_arrays_and_scalars_of_any_shape_and_byte_order_round_trip(array):
    data = pickle.dumps(
        {"array": array, "fortran": np.asfortranarray(array), "scalars": list(array.flat)}, 4
    )
    ours, theirs = scalers._parse(data, len(data)), pickle.loads(data)
    for key in ("array", "fortran"):
        assert ours[key].dtype == theirs[key].dtype and ours[key].shape == theirs[key].shape
        assert ours[key].tobytes() == theirs[key].tobytes()
        assert (
            ours[key].flags.writeable
            and ours[key].flags.f_contiguous == theirs[key].flags.f_contiguous
        )
    assert [type(item) for item in ours["scalars"]] == [type(item) for item in theirs["scalars"]]
    np.testing.assert_array_equal(ours["scalars"], theirs["scalars"])


def test_a_file_is_an_ordinary_pickle_of_protocol_4_that_gives_scikit_learn_its_scaler_back(
    tmp_path,
):
    scaler = fitted_scaler()
    save_scalers({"X": scaler}, tmp_path / "scalers.pkl")
    data = (tmp_path / "scalers.pkl").read_bytes()
    assert data == pickle.dumps({"X": scaler}, protocol=4)
    assert isinstance(pickle.loads(data)["X"], StandardScaler)


def test_standard_scaler_becomes_a_record_of_its_parameters(tmp_path):
    # Column 0: mean (1 + 3) / 2 = 2, deviation 1. Column 1 is constant, which scikit-learn divides
    # by 1.
    scaler = StandardScaler().fit([[1.0, 10.0], [3.0, 10.0]])
    save_scalers({"X": scaler, "again": scaler}, tmp_path / "scalers.pkl")
    record = load_scalers(tmp_path / "scalers.pkl")["X"]
    assert type(record) is ScalerRecord
    assert record.mean.tolist() == [2.0, 10.0] and record.scale.tolist() == [1.0, 1.0]
    assert record.transform([[5.0, 11.0]]).tolist() == [[3.0, 1.0]]
    assert record.inverse_transform([[3.0, 1.0]]).tolist() == [[5.0, 11.0]]


features = st_numpy.arrays(np.float64, (8, 3), elements=st.floats(-1e9, 1e9, allow_subnormal=False))


@settings(max_examples=50)
@given(features, features)
def test_record_agrees_with_scikit_learn_bit_for_bit(train, x):
    scaler = StandardScaler().fit(train)
    record = scalers._parse(pickle.dumps({"X": scaler}, protocol=4), 10_000)["X"]
    assert record.transform(x).tobytes() == scaler.transform(x).tobytes()
    assert record.inverse_transform(x).tobytes() == scaler.inverse_transform(x).tobytes()


def test_min_max_scaler_becomes_a_record_of_its_parameters(tmp_path):
    # Prices of 50 to 250: 0 is scaled to -0.25, and a unit of price is a 200th of the range.
    save_scalers(
        {"y": {"BTC/USDT": MinMaxScaler().fit([[250.0], [50.0], [100.0]])}},
        tmp_path / "scalers.pkl",
    )
    record = load_scalers(tmp_path / "scalers.pkl")["y"]["BTC/USDT"]
    assert type(record) is MinMaxRecord
    assert (record.min.tolist(), record.scale.tolist()) == ([-0.25], [0.005])
    assert record.transform([[150.0], [300.0]]).tolist() == [
        [0.5],
        [1.25],
    ]  # above 1: it does not clip
    assert record.inverse_transform([[0.5]]).tolist() == [[150.0]]


@settings(max_examples=50)
@given(features, features, st.sampled_from([(0, 1), (-1, 1), (0.1, 0.9)]))
def test_min_max_record_agrees_with_scikit_learn_bit_for_bit(train, x, feature_range):
    scaler = MinMaxScaler(feature_range=feature_range).fit(train)
    record = scalers._parse(pickle.dumps({"y": scaler}, protocol=4), 10_000)["y"]
    assert record.transform(x).tobytes() == scaler.transform(x).tobytes()
    assert record.inverse_transform(x).tobytes() == scaler.inverse_transform(x).tobytes()


@pytest.mark.parametrize(
    ("minimum", "scale", "match"),
    [
        (np.zeros(2), np.array([1.0, -1.0]), "scale is -1.0, not positive"),
        (np.array([np.inf]), np.ones(1), "min is empty or not finite"),
        (np.zeros(1), np.ones(2), "1 minima, 2 scales"),
        (np.zeros(1, dtype=np.float32), np.ones(1), "min is no one-dimensional float64 array"),
    ],
)
def test_min_max_record_refuses_parameters_that_no_fitted_scaler_has(minimum, scale, match):
    with pytest.raises(ValueError, match=match):
        MinMaxRecord(min=minimum, scale=scale)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
def test_record_does_not_centre_or_scale_where_the_scaler_does_not(tmp_path, with_mean, with_std):
    x = np.random.default_rng(1).normal(3.0, 2.0, size=(10, 4))
    scaler = StandardScaler(with_mean=with_mean, with_std=with_std).fit(x)
    save_scalers({"X": scaler}, tmp_path / "scalers.pkl")
    record = load_scalers(tmp_path / "scalers.pkl")["X"]
    np.testing.assert_array_equal(record.transform(x), scaler.transform(x))
    np.testing.assert_array_equal(record.inverse_transform(x), scaler.inverse_transform(x))


def test_record_scales_windows_along_their_last_axis_and_leaves_them_unchanged():
    record = ScalerRecord(mean=np.array([1.0, 2.0]), scale=np.array([2.0, 4.0]))
    windows = np.full((2, 3, 2), 6.0)
    np.testing.assert_array_equal(record.transform(windows), np.broadcast_to([2.5, 1.0], (2, 3, 2)))
    assert (windows == 6.0).all()


def test_record_refuses_an_array_of_another_width():
    record = ScalerRecord(mean=np.zeros(2), scale=np.ones(2))
    for method in (record.transform, record.inverse_transform):
        with pytest.raises(ValueError, match=r"2 features got an array of shape \(5, 1\)"):
            method(np.zeros((5, 1)))


@pytest.mark.parametrize(
    ("mean", "scale", "match"),
    [
        (np.zeros(2), np.array([1.0, 0.0]), "scale is 0.0, not positive"),
        (np.array([0.0, np.nan]), np.ones(2), "mean is empty or not finite"),
        (np.zeros(0), np.zeros(0), "mean is empty or not finite"),
        (np.zeros(2), np.ones(3), "2 means, 3 scales"),
        (np.zeros((2, 1)), np.ones(2), "mean is no one-dimensional float64 array"),
        (np.zeros(2), np.ones(2, dtype=np.float32), "scale is no one-dimensional float64 array"),
    ],
)
def test_record_refuses_parameters_that_no_fitted_scaler_has(mean, scale, match):
    with pytest.raises(ValueError, match=match):
        ScalerRecord(mean=mean, scale=scale)


def test_scalers_of_other_scikit_learn_versions_and_fitted_on_data_frames_load(tmp_path):
    scaler = StandardScaler().fit(pandas.DataFrame({"body": [1.0, 3.0], "rsi": [0.0, 4.0]}))
    scaler.__dict__["a_later_attribute"] = {"mode": ("auto", 1)}
    del scaler.__dict__["copy"]
    (tmp_path / "scalers.pkl").write_bytes(pickle.dumps({"X": scaler}, protocol=4))
    assert load_scalers(tmp_path / "scalers.pkl")["X"].mean.tolist() == [2.0, 2.0]


def test_what_the_file_shares_is_shared_for_arrays_and_copied_for_lists(tmp_path):
    columns, array = ["body"], np.arange(3.0)
    save_scalers({"a": columns, "b": columns, "c": array, "d": array}, tmp_path / "scalers.pkl")
    loaded = load_scalers(tmp_path / "scalers.pkl")
    assert loaded["a"] == loaded["b"] and loaded["a"] is not loaded["b"]
    assert loaded["c"] is loaded["d"]


def test_importing_and_loading_take_neither_scikit_learn_nor_scipy_nor_pandas(tmp_path):
    save_scalers({"X": fitted_scaler()}, tmp_path / "scalers.pkl")
    code = (
        "import sys; from pipeline.bundle import scalers\n"
        "scalers.load_scalers(sys.argv[1])['X'].transform([[1.0, 2.0, 3.0]])\n"
        "print({'sklearn', 'scipy', 'pandas', 'joblib'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "scalers.pkl")]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# What dump refuses


class Text(str):
    pass


class Disguised:
    """Pickles as something whose name is harmless."""

    def __reduce__(self):
        return dict, ()


class Calling:
    def __reduce__(self):
        return os.getpid, ()


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (Text("x"), r"\.Text is not admitted"),
        (Disguised(), "builtins.dict is not admitted"),
        (Calling(), "getpid is not admitted"),
        (collections.OrderedDict(a=1), "collections.OrderedDict is not admitted"),
        ({1, 2}, "opcode EMPTY_SET"),
        (bytearray(b"x"), "builtins.bytearray is not admitted"),
        (1j, "builtins.complex is not admitted"),
        (int, "builtins.int is not admitted"),
        (np.float64, "numpy.float64 is not admitted"),
        (np.ndarray, r"numpy.ndarray is no value of a scaler file \(at \['key'\]\)"),
        (np.dtype("f8"), "numpy.dtype is no value of a scaler file"),
        (np.array(["a", None], dtype=object), "dtype 'O8' is not numeric"),
        (np.array(["a"]), r"dtype 'U1' is not numeric \(at \['key'\]\)"),
        (np.array(["2024-01-01"], dtype="M8[D]"), "dtype 'M8' is not numeric"),
        (np.zeros(2, dtype=[("a", "f8")]), "dtype 'V8' is not numeric"),
        (np.zeros(2, dtype=complex), "dtype 'c16' is not numeric"),
        (np.zeros(2).view(np.ma.MaskedArray), "numpy.ma.* is not admitted"),
        (pandas.Series([1.0]), r"pandas\..* is not admitted"),
        (
            RobustScaler().fit([[1.0], [2.0]]),
            "sklearn.preprocessing._data.RobustScaler is not admitted",
        ),
        (MinMaxScaler(), "a MinMaxScaler has no min_: it is not fitted"),
        (MinMaxScaler(clip=True).fit([[1.0], [2.0]]), "a MinMaxScaler's clip is not False"),
        (StandardScaler(), "no mean_: it is not fitted"),
        ({1: 2}, "dict key is a int, not a str"),
        ({(): 2}, "dict key is a tuple, not a str"),
        (10**1000, "opcode LONG4"),
        ([[0.0] * 1000] * 600, "more than 500000 values"),
        ([0.0] * 500_000, "more than 500000 opcodes"),
        (np.zeros(2 * 2**20 + 1), "larger than max_bytes"),
    ],
)
def test_dump_refuses_what_load_could_not_read_and_writes_nothing(tmp_path, value, match):
    with pytest.raises(ValueError, match=match):
        save_scalers({"key": value}, tmp_path / "scalers.pkl")
    assert list(tmp_path.iterdir()) == []


def test_dump_refuses_what_cannot_be_pickled_with_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="cannot pickle the scalers"):
        save_scalers({"f": lambda: 0}, tmp_path / "scalers.pkl")


def test_dump_refuses_what_is_no_dict_and_what_contains_itself(tmp_path):
    with pytest.raises(ValueError, match="it holds a list, not a dict"):
        save_scalers([1], tmp_path / "scalers.pkl")
    endless = {}
    endless["self"] = endless
    with pytest.raises(ValueError, match="nested more than 50 deep"):
        save_scalers(endless, tmp_path / "scalers.pkl")


def test_many_copies_of_one_scaler_can_be_written(tmp_path):
    scaler = fitted_scaler(50)
    save_scalers({str(i): copy.copy(scaler) for i in range(200)}, tmp_path / "scalers.pkl")
    assert len(load_scalers(tmp_path / "scalers.pkl")) == 200


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_scalers(tmp_path / "nowhere.pkl")


def test_a_file_larger_than_max_bytes_is_refused(tmp_path):
    (tmp_path / "scalers.pkl").write_bytes(pickle.dumps({"a": b"x" * 100}, protocol=4))
    assert load_scalers(tmp_path / "scalers.pkl", max_bytes=200) == {"a": b"x" * 100}
    with pytest.raises(ValueError, match="scalers.pkl .* larger than max_bytes, 50 bytes"):
        load_scalers(tmp_path / "scalers.pkl", max_bytes=50)
