"""JSON of a bundle, which may be a stranger's: what is read, and what is refused in one line."""

import json
import os

import pytest

from pipeline.bundle import metadata
from pipeline.bundle.metadata import agreed_cuts, parse_json, read_cuts, read_metadata

CUTS = {
    "train_end": "2024-01-01T00:00:00Z",
    "val_end": "2024-03-01T00:00:00Z",
    "test_start": "2024-03-01T00:00:00Z",
    "test_end": "2024-05-01T00:00:00Z",
}


def nested(depth: int) -> bytes:
    """An object of so many containers within containers."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_an_object_of_plain_values_comes_back_as_it_was():
    content = {"text": "ö", "list": [1, -2.5, None, True], "deep": {"a": {}}, "ns": 17 * 10**17}
    assert parse_json(json.dumps(content).encode(), "x") == content
    assert parse_json(nested(metadata.MAX_DEPTH), "x")["a"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff", "can't decode"),
        (b"[]", "it holds a list, not an object"),
        (b"3", "it holds a int, not an object"),
        (b'{"a": NaN}', "NaN is no finite number"),
        (b'{"a": [-Infinity]}', "-Infinity is no finite number"),
        (b'{"a": 1e999}', "1e999 is no finite number"),
        (b'{"a": ' + b"9" * 20 + b"}", "an integer has 20 digits"),
        (b'{"a": ' + b"9" * 10**6 + b"}", "an integer has 1,000,000 digits"),
        (nested(metadata.MAX_DEPTH + 1), "more than 20 deep"),
        (nested(10**6), "maximum recursion depth"),
        (b'{"a": "' + b"x" * metadata.MAX_BYTES + b'"}', "more than 16,777,216 bytes"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_what_is_no_json_of_a_bundle_is_refused_in_one_line(data, message):
    with pytest.raises(
        ValueError, match=rf"^x: not readable as a bundle's JSON .*{message}"
    ) as caught:
        parse_json(data, "x")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_json_that_is_a_pipe_or_a_folder_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path):
        with pytest.raises(ValueError, match="no regular file"):
            metadata.read_json(path)


def test_metadata_that_is_not_there_is_empty(tmp_path):
    assert read_metadata(tmp_path / "metadata_v2.json") == {}


def test_cuts_are_read_as_instants_and_known_by_the_scaler_file_first():
    cuts = read_cuts(CUTS, "x")
    assert cuts["test_end"] - cuts["test_start"] == 61 * 24 * 3_600_000  # March and April
    assert agreed_cuts(cuts, {}, "x") == agreed_cuts({}, {"cuts": CUTS}, "x") == cuts
    assert agreed_cuts({}, {"cuts": {}}, "x") == agreed_cuts({}, {}, "x") == {}
    with pytest.raises(ValueError, match="x: val_end is 2024-03-01T00:00Z, and 1970-01-01T00:00Z"):
        agreed_cuts({"val_end": 0}, {"cuts": CUTS}, "x")
