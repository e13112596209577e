"""Pulls by the real huggingface_hub from a loopback Hub: what a stranger pushed is checked before
it is in place."""

import hashlib
import json

import pytest

from pipeline.bundle import hub_transfer
from pipeline.bundle.hub_transfer import HubError, Place, download, list_bundle, pull_bundle
from tests.fetching import foreign_hosts, nothing_leaves
from tests.hub_server import TOKEN, Fault, contents, loopback_hub, naps, small_bundle

pytest.importorskip("huggingface_hub")
FIXTURES = (foreign_hosts, loopback_hub, naps, nothing_leaves)

PLACE = Place("user/repo")
SERVED = ("model.h5", "scalers_v2.pkl")


@pytest.fixture
def files(tmp_path):
    return contents(small_bundle(tmp_path / "made" / "v2"))


@pytest.fixture
def target(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty" / "v2"


def amended(bundle, /, **changes):
    """A bundle's files with another metadata."""
    metadata = json.loads(bundle["metadata_v2.json"]) | changes
    return bundle | {"metadata_v2.json": json.dumps(metadata).encode()}


def test_a_pull_brings_the_bundle_s_files_byte_for_byte_and_nothing_else(
    loopback_hub, files, target
):
    loopback_hub.add(
        "user/repo", files | {"README.md": b"card", "setup.py": b"evil", "sub/x.h5": b"x"}
    )
    pull_bundle(PLACE, target)
    assert contents(target) == files
    assert [path.name for path in target.parent.iterdir()] == ["v2"]
    assert loopback_hub.count("GET", "setup.py") == 0


def test_a_revision_is_a_branch_or_a_commit_and_all_files_are_of_one_commit(
    loopback_hub, files, target, tmp_path
):
    repository = loopback_hub.add("user/repo", files)
    first = repository.commits[-1][0]
    later = contents(small_bundle(tmp_path / "later"))
    second = repository.commit(later)
    pull_bundle(PLACE, target, first)
    assert contents(target) == files
    pull_bundle(PLACE, tmp_path / "new", "main")
    assert contents(tmp_path / "new") == later
    paths = [path for _, path, _ in loopback_hub.log if "/resolve/" in path]
    assert all(first in path or second in path for path in paths)
    with pytest.raises(ValueError, match="user/repo at nowhere: there is no such revision"):
        pull_bundle(PLACE, tmp_path / "never", "nowhere")


def test_a_folder_with_anything_in_it_is_left_alone(loopback_hub, files, target):
    loopback_hub.add("user/repo", files)
    target.mkdir()
    pull_bundle(PLACE, target)  # an empty one will do
    with pytest.raises(ValueError, match="is not empty; pull into a new folder"):
        pull_bundle(PLACE, target)


ELSEWHERE = [
    "../x",
    "../../x",
    "/etc/x",
    "a/../../x",
    "sub/x",
    "..\\x",
    "C:\\x",
    ".ssh",
    "..",
    "x\n",
    "README.md",
    "",
    # what a disk of Windows cannot hold
    "nul",
    "Com1.json",
    "aux.tar.gz",
    "x.",
    "x ",
    "x:y",
    "x|y",
    "x?",
    "x*",
    "x<y>",
    'x"',
    "x\x1b[2J",
]


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("key", ["files", "unhashed_files", "jobs"])
def test_a_path_that_climbs_out_is_refused_before_anything_but_the_metadata_is_downloaded(
    loopback_hub, files, target, name, key
):
    named = {name: hashlib.sha256(b"evil").hexdigest()}
    change = {"files": named, "unhashed_files": [name], "jobs": {"BTC": {"files": named}}}[key]
    loopback_hub.add("user/repo", amended(files, **{key: change}) | {name: b"evil"})
    with pytest.raises(
        ValueError, match="is no name of a bundle's file; nothing of it is downloaded"
    ):
        pull_bundle(PLACE, target)
    assert {
        path.rpartition("/")[2] for method, path, _ in loopback_hub.log if "/resolve/" in path
    } == {"metadata_v2.json"}
    assert list(target.parent.iterdir()) == []


def test_two_names_that_differ_in_case_alone_are_refused(loopback_hub, files, target):
    hashes = json.loads(files["metadata_v2.json"])["files"]
    loopback_hub.add("user/repo", amended(files, files={**hashes, "MODEL.h5": hashes["model.h5"]}))
    with pytest.raises(ValueError, match="model.h5 and MODEL.h5 are one file to Windows and macOS"):
        pull_bundle(PLACE, target)
    assert list(target.parent.iterdir()) == []


GIB = 2**30
ALL = (
    "model.h5",
    "scalers_v2.pkl",
    "metrics_v2.json",
    "predictions_v2.parquet",
    "training_log_v2.txt",
)
SIZES = {
    "20 GB": (
        {"model.h5": 20 * GIB},
        "model.h5 has 21,474,836,480 bytes; a bundle's file has at most 268,435,456",
    ),
    "metadata of 1 GB": ({"metadata_v2.json": GIB}, "metadata_v2.json has 1,073,741,824 bytes"),
    "log": ({"training_log_v2.txt": GIB}, "training_log_v2.txt has"),
    "in all": (
        dict.fromkeys(ALL, GIB // 4),
        "its files have 1,342,1.* bytes; a bundle has at most 1,073,741,824",
    ),
}


@pytest.mark.parametrize(("sizes", "message"), SIZES.values(), ids=SIZES.keys())
def test_files_too_large_for_a_bundle_are_refused_before_they_are_downloaded(
    loopback_hub, files, target, sizes, message
):
    loopback_hub.add("user/repo", files).claimed_sizes = sizes
    with pytest.raises(ValueError, match=message):
        pull_bundle(PLACE, target)
    asked = {path.rpartition("/")[2] for _, path, _ in loopback_hub.log if "/resolve/" in path}
    assert not asked & set(sizes) and list(target.parent.iterdir()) == []


def test_a_repository_of_very_many_files_is_refused(loopback_hub, files, target, monkeypatch):
    monkeypatch.setattr(hub_transfer, "MAX_FILES", 6)
    loopback_hub.add("user/repo", files)
    with pytest.raises(ValueError, match="more than 6 files in one folder"):
        pull_bundle(PLACE, target)


UNSOUND = {
    "a changed file": (
        lambda files: files | {"model.h5": b"evil"},
        "the bytes of model.h5 are not those that the meta",
    ),
    "a missing file": (
        lambda files: {k: v for k, v in files.items() if k != "model.h5"},
        "model.h5 is missing, so the",
    ),
    "no bundle": (lambda files: {"model.h5": b"x"}, "holds no bundle"),
    "two bundles": (lambda files: files | {"metadata_v1.json": b"{}"}, "holds several bundles"),
    "metadata that is no JSON": (
        lambda files: files | {"metadata_v2.json": b"\xff{"},
        "not readable as a bundle's JSON",
    ),
    "metadata nested deep": (
        lambda files: files | {"metadata_v2.json": b"[" * 10**6},
        "not readable as a bundle's JSON",
    ),
    "metadata that is a list": (
        lambda files: files | {"metadata_v2.json": b"[]"},
        "it holds a list, not an object",
    ),
    "hashes that are none": (
        lambda files: amended(files, files={"model.h5": 7}),
        "does not say which files belong",
    ),
    "jobs that are none": (lambda files: amended(files, jobs=[1]), "'jobs': .1. is no dict"),
}


@pytest.mark.parametrize(("spoil", "message"), UNSOUND.values(), ids=UNSOUND.keys())
def test_what_is_no_whole_bundle_is_refused_and_nothing_is_put_in_place(
    loopback_hub, files, target, spoil, message
):
    loopback_hub.add("user/repo", spoil(files))
    with pytest.raises(ValueError, match=message):
        pull_bundle(PLACE, target)
    assert list(target.parent.iterdir()) == []


def test_serving_downloads_what_it_opens_and_the_metadata_and_demands_a_hash_of_each(
    loopback_hub, files, tmp_path
):
    repository = loopback_hub.add("user/repo", files)
    folder = download(PLACE, "metadata_v2.json", SERVED, cache_dir=tmp_path / "own")
    assert {path.name for path in folder.iterdir()} == {*SERVED, "metadata_v2.json"}
    hashes = json.loads(files["metadata_v2.json"])["files"]
    del hashes["model.h5"]
    repository.commit(amended(files, files=hashes))
    with pytest.raises(
        ValueError, match="metadata_v2.json has no hash of model.h5, so nothing vouches for it"
    ):
        download(PLACE, "metadata_v2.json", SERVED)
    repository.commit(files | {"scalers_v2.pkl": b"evil"})
    with pytest.raises(ValueError, match="the bytes of scalers_v2.pkl are not those"):
        download(PLACE, "metadata_v2.json", SERVED)


def test_a_full_commit_hash_in_the_cache_needs_no_network(loopback_hub, files):
    commit = loopback_hub.add("user/repo", files).commits[-1][0]
    folder = download(PLACE, "metadata_v2.json", SERVED, revision=commit)
    n_requests = len(loopback_hub.log)
    assert download(PLACE, "metadata_v2.json", SERVED, revision=commit) == folder
    assert len(loopback_hub.log) == n_requests
    blob = (folder / "model.h5").resolve()
    blob.write_bytes(b"changed in the cache")
    with pytest.raises(ValueError, match="the bytes of model.h5 are not those"):
        download(PLACE, "metadata_v2.json", SERVED, revision=commit)


def test_a_private_repository_needs_its_token_and_a_missing_one_is_named(
    loopback_hub, files, target, monkeypatch
):
    loopback_hub.add("user/repo", files).is_private = True
    with pytest.raises(
        ValueError, match="user/gone: there is no such repository, or it is private"
    ):
        pull_bundle(Place("user/gone"), target)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(target / "token"))
    with pytest.raises((ValueError, HubError), match="user/repo: .*(is private|token is missing)"):
        pull_bundle(PLACE, target)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pull_bundle(PLACE, target)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("GET", "/resolve/", "cut", 3),
        Fault("HEAD", "/resolve/", 503),
        Fault("GET", "/tree/", 429),
        Fault("GET", "/api/models", 500),
        Fault("GET", "/api/models", "close"),
    ],
)
def test_what_breaks_off_once_is_completed(loopback_hub, files, target, naps, fault):
    loopback_hub.add("user/repo", files)
    loopback_hub.faults = [fault]
    pull_bundle(PLACE, target)
    assert contents(target) == files


@pytest.mark.parametrize(
    "fault", [("GET", "/resolve/", "cut"), ("HEAD", "/resolve/", 503), ("GET", "/tree/", 500)]
)
def test_what_keeps_failing_is_an_error_and_nothing_is_put_in_place(
    loopback_hub, files, target, naps, fault
):
    loopback_hub.add("user/repo", files)
    loopback_hub.faults = [Fault(*fault, times=999)]
    with pytest.raises(HubError, match="user/repo"):
        pull_bundle(PLACE, target)
    assert list(target.parent.iterdir()) == []


def test_a_list_downloads_the_metadata_alone(loopback_hub, files):
    loopback_hub.add("user/repo", files)
    listing, metadata = list_bundle(PLACE)
    assert listing.sizes == {name: len(content) for name, content in files.items()} | {
        ".gitattributes": 0
    }
    assert metadata["verdict"] == "NO EDGE"
    assert loopback_hub.count("GET", "/resolve/") == 1


def test_a_file_that_goes_on_past_its_size_is_given_up_there(loopback_hub, files, target, tmp_path):
    loopback_hub.add("user/repo", files)
    loopback_hub.faults = [Fault("GET", "resolve/", "endless", times=99)]
    with pytest.raises(
        ValueError, match=r"metadata_v2.json has more than the [\d,]+ bytes that the Hub says"
    ):
        pull_bundle(PLACE, target)
    assert not target.exists()
    # a piece of the client's of 10 MB, and what the sockets hold
    assert loopback_hub.n_sent < 64 * 2**20
    kept = [path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sum(kept) < 2**20


def test_a_download_that_broke_off_goes_on_within_its_size(loopback_hub, files, target):
    loopback_hub.add("user/repo", files | {"model.h5": b"x" * 3_000_000})
    metadata = amended(
        files, files={**json.loads(files["metadata_v2.json"])["files"], "model.h5": LONG_SHA256}
    )
    loopback_hub.repositories["user/repo"].commit(metadata | {"model.h5": b"x" * 3_000_000})
    loopback_hub.faults = [Fault("GET", "model.h5", "cut")]
    pull_bundle(PLACE, target)
    assert (target / "model.h5").read_bytes() == b"x" * 3_000_000


LONG_SHA256 = hashlib.sha256(b"x" * 3_000_000).hexdigest()
