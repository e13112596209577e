"""A run that ends while its folder is being read: a reader gets the old bundle or the new one, and
changes nothing."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from generations.v7 import networks as v7_networks
from pipeline import atomic
from pipeline.bundle import files
from pipeline.bundle.scalers import save_scalers
from pipeline.bundle.snapshot import Snapshot, read_snapshot
from tests import race_bundles
from tests.race_bundles import BUNDLES, METADATA, NETWORK, V7_FILES


class Case(NamedTuple):
    """Who writes and reads, and which of the two bundles has an ONNX twin."""

    generation: str
    old_twin: bool = False
    new_twin: bool = False


CASES = [
    *(Case(generation) for generation in METADATA),
    *(Case("v2", *twins) for twins in ((True, False), (False, True), (True, True))),
]


class Killed(BaseException):
    """What a kill is to the code: nothing that it expects."""


# Bundles of made-up bytes, moved step by step


def fill(folder: Path, generation: str, content: str, *, twin: bool = False) -> dict[str, bytes]:
    """Write a complete bundle, every file of which says `content`; returns what a reader wants."""
    folder.mkdir(parents=True, exist_ok=True)
    names = BUNDLES.get(generation)
    if names is None:
        model, _, scalers = V7_FILES
        written, wanted = [*V7_FILES[:2]], [model, scalers]
    else:
        model, scalers = names.model, names.scalers
        written = [name for name in names.hashed if name != scalers]
        written += names.optional[0 if twin else 1 :]
        wanted = [*names.served, names.metrics, *([names.twin] if twin else [])]
    for name in written:
        (folder / name).write_text(json.dumps(f"{content} {name}"))
    identity: dict[str, Any] = {"model_sha256": files.sha256_of(folder / model)}
    if names is not None:
        identity["sha256"] = {name: files.sha256_of(folder / name) for name in names.extra}
        if twin:
            identity["twin_sha256"] = files.sha256_of(folder / names.twin)
    save_scalers({"content": content, **identity}, folder / scalers)
    if names is not None:
        (folder / names.log).write_text(content)
        hashed = (*written, scalers)
        files.write_metadata(folder / names.metadata, {}, hashed=hashed, unhashed=(names.log,))
    return {name: (folder / name).read_bytes() for name in wanted}


def aside(folder: Path, generation: str) -> Path:
    """Where a run keeps its files until it moves them."""
    return folder / files.PARTIAL / (NETWORK if generation == "v7" else "")


def read(folder: Path, generation: str) -> Snapshot:
    """As the generation's predictor does."""
    if generation == "v7":
        model, scalers = v7_networks.network_files(NETWORK)
        return read_snapshot(folder / model, folder / scalers, aside=aside(folder, generation))
    names = BUNDLES[generation]
    return read_snapshot(folder / names.model, folder / names.scalers, names)


def finish(folder: Path, generation: str) -> None:
    """Move what lies aside into place, as a run does at its end; what a kill left is completed."""
    if generation == "v7":
        v7_networks.finish_network(aside(folder, generation), folder, V7_FILES)
    else:
        files.finish_moves(folder, BUNDLES[generation].metadata, BUNDLES[generation].bundle)


def step(folder: Path, generation: str) -> bool:
    """Carry out the next move or removal of `finish`; whether one was left."""
    budget = 1

    def limited(act: Callable[..., Any]) -> Callable[..., Any]:
        def act_or_die(path: Path, *arguments: Any, **options: Any) -> None:
            nonlocal budget
            if path.exists():
                if budget == 0:
                    raise Killed
                budget -= 1
            act(path, *arguments, **options)

        return act_or_die

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", limited(os.replace))
        patched.setattr(Path, "unlink", limited(Path.unlink))
        try:
            finish(folder, generation)
        except Killed:
            return True
    return budget == 0


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and when it was changed."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def place_both(folder: Path, case: Case) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """An old bundle in place and a new one aside; returns what a reader wants of each."""
    old = fill(folder, case.generation, "old", twin=case.old_twin)
    new_folder = aside(folder, case.generation)
    return old, fill(new_folder, case.generation, "new", twin=case.new_twin)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_between_any_two_moves_the_new_bundle_is_read_whole_and_nothing_is_touched(tmp_path, case):
    _, new = place_both(tmp_path, case)
    n_moves = 0
    while True:
        before = contents(tmp_path)
        assert read(tmp_path, case.generation).contents == new
        assert contents(tmp_path) == before
        if not step(tmp_path, case.generation):
            break
        n_moves += 1
    assert n_moves >= len(new)


def read_while_moving(
    folder: Path, case: Case, last: Path, first: int, n_steps: int
) -> dict[str, bytes]:
    """Read while a run ends: it writes its `last` file and makes `n_steps` moves just before the
    read number `first`, the others before the next one."""
    real_read, n_reads = atomic.read_regular, 0

    def read_one(path: Path, max_bytes: int) -> bytes:
        nonlocal n_reads
        n_reads += 1
        if n_reads == first:
            shutil.copy(last, aside(folder, case.generation))
            for _ in range(n_steps):
                step(folder, case.generation)
        elif n_reads == first + 1:
            finish(folder, case.generation)
        return real_read(path, max_bytes)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(atomic, "read_regular", read_one)
        return dict(read(folder, case.generation).contents)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_moves_between_any_two_reads_of_a_reader_give_the_old_or_the_new_bundle(tmp_path, case):
    ready = tmp_path / "ready"
    old, new = place_both(ready, case)
    last = tmp_path / (V7_FILES[-1] if case.generation == "v7" else METADATA[case.generation])
    (aside(ready, case.generation) / last.name).rename(last)
    seen: Counter[str] = Counter()
    for first, n_steps in itertools.product(range(1, 12), (0, 1, 2, 3, 6, 12)):
        folder = shutil.copytree(ready, tmp_path / f"{first} {n_steps}")
        found = read_while_moving(folder, case, last, first, n_steps)
        assert found in (old, new), (first, n_steps)
        seen["new" if found == new else "old"] += 1
    assert seen["old"] and seen["new"]


def test_a_twin_that_is_missing_or_of_another_run_does_not_keep_the_others_from_being_read(
    tmp_path,
):
    case = Case("v2", old_twin=True, new_twin=True)
    old, _ = place_both(tmp_path, case)
    shutil.rmtree(tmp_path / files.PARTIAL)
    twin = tmp_path / BUNDLES["v2"].twin
    twin.write_bytes(b"of another run")
    assert read(tmp_path, "v2").contents == old | {twin.name: b"of another run"}
    twin.unlink()
    old.pop(twin.name)
    assert read(tmp_path, "v2").contents == old


def test_changed_bytes_are_refused_and_a_folder_without_metadata_is_not_checked(tmp_path):
    fill(tmp_path, "v2", "old")
    names = BUNDLES["v2"]
    (tmp_path / names.model).write_text("something else")
    changed = rf"{names.model}: its bytes are not those that {names.metadata} names"
    with pytest.raises(ValueError, match=changed):
        read(tmp_path, "v2")
    (tmp_path / names.metadata).unlink()
    assert read(tmp_path, "v2").contents[names.model] == b"something else"
    for content in ("{not json", "[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', "[" * 10**5):
        (tmp_path / names.metadata).write_text(content)
        with pytest.raises(ValueError, match=rf"{names.metadata}: not readable as metadata"):
            read(tmp_path, "v2")


def test_a_damaged_bundle_aside_leaves_the_old_one_to_be_read(tmp_path):
    old, _ = place_both(tmp_path, Case("v2"))
    (tmp_path / files.PARTIAL / BUNDLES["v2"].model).write_text("half writ")
    assert read(tmp_path, "v2").contents == old
    (tmp_path / files.PARTIAL / BUNDLES["v2"].metadata).write_text("{")
    assert read(tmp_path, "v2").contents == old


# Trained bundles, and their forecasts to the bit


# Training takes long: v2 stands for all in the lanes, and `make soak` has the others.
RACING = os.environ.get("RACING_GENERATIONS", "v2").split()


@pytest.fixture(scope="module", params=RACING)
def published(request, tmp_path_factory) -> tuple[str, list[Path], list[race_bundles.Forecast]]:
    """A generation, an old and a new bundle of it, and what they forecast."""
    generation, folder = request.param, tmp_path_factory.mktemp(request.param)
    race_bundles.train(generation, folder / "trained")
    bundles = [
        race_bundles.vary(generation, folder / "trained", folder / name, factor)
        for name, factor in (("old", 1.0), ("new", 1.5))
    ]
    forecasts = [race_bundles.forecast(generation, bundle) for bundle in bundles]
    assert forecasts[0] != forecasts[1]
    return generation, bundles, forecasts


@pytest.mark.slow
def test_a_predictor_opened_between_any_two_moves_forecasts_as_the_new_bundle(published, tmp_path):
    generation, (old, new), forecasts = published
    folder = shutil.copytree(old, tmp_path / "folder")
    shutil.copytree(new, aside(folder, generation))
    while True:
        before = contents(folder)
        assert race_bundles.forecast(generation, folder) == forecasts[1]
        assert contents(folder) == before
        if not step(folder, generation):
            break


@pytest.mark.slow
def test_a_predictor_pickled_between_two_moves_is_opened_again_where_its_files_are(
    published, tmp_path
):
    generation, (old, new), forecasts = published
    folder = shutil.copytree(old, tmp_path / "folder")
    shutil.copytree(new, aside(folder, generation))
    pickled = pickle.dumps(race_bundles.open_quietly(generation, folder))
    while True:
        assert race_bundles.ask(generation, pickle.loads(pickled)) == forecasts[1]
        if not step(folder, generation):
            break


@pytest.mark.slow
def test_while_20_runs_end_a_reader_gets_the_old_or_the_new_forecast(published, tmp_path):
    generation, bundles, forecasts = published
    folder = shutil.copytree(bundles[1], tmp_path / "folder")
    with ThreadPoolExecutor() as pool:
        runs = pool.submit(
            race_bundles.publish_in_turns, generation, bundles, folder, 20, pause_s=0.05
        )
        seen = race_bundles.read_until(runs.done, generation, folder)
    runs.result()
    assert set(seen) <= set(forecasts) and sum(seen.values()) > 0
    assert race_bundles.forecast(generation, folder) == forecasts[1]


@pytest.mark.soak
@pytest.mark.slow
def test_while_300_runs_end_four_readers_get_the_old_or_the_new_forecast(published, tmp_path):
    generation, bundles, forecasts = published
    folder = shutil.copytree(bundles[1], tmp_path / "folder")
    seen = race_bundles.race(generation, bundles, folder, n_runs=300, n_readers=4)
    print(f"{generation}: {sum(seen.values())} openings, {[seen[one] for one in forecasts]}")
    assert set(seen) == set(forecasts)
    assert race_bundles.forecast(generation, folder) == forecasts[1]


# Links, pipes and sizes


@pytest.mark.parametrize("generation", METADATA)
def test_a_link_in_the_place_of_a_file_is_refused_in_one_line(tmp_path, generation):
    wanted = fill(tmp_path / "somebody", generation, "somebody's")
    for name in wanted:
        folder = shutil.copytree(tmp_path / "somebody", tmp_path / f"with {name}")
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "somebody" / name)
        with pytest.raises(ValueError, match=rf"{name} is a link to .*, which is not followed"):
            read(folder, generation)


def test_a_pipe_a_device_a_folder_and_a_sparse_file_are_refused_at_once(tmp_path):
    path = tmp_path / "model.h5"
    os.mkfifo(path)
    for refused in (path, Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="is no regular file"):
            atomic.read_regular(refused, 100)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(6 * 2**30)
    with pytest.raises(ValueError, match="has 6,442,450,944 bytes, such a file has at most 100"):
        atomic.read_regular(path, 100)


def test_links_are_followed_in_the_cache_of_the_hub_s_client_and_nowhere_else(tmp_path):
    snapshot = tmp_path / "models--user--repo" / "snapshots" / ("5e" * 20)
    folder = snapshot / "models_v7"
    folder.mkdir(parents=True)
    blob = tmp_path / "models--user--repo" / "blobs" / "abc"
    blob.parent.mkdir()
    blob.write_bytes(b"content")
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for place in (snapshot / "model.h5", folder / "model.h5"):
        place.symlink_to(os.path.relpath(blob, place.parent))
        assert atomic.read_regular(place, 100) == b"content"
        place.unlink()
        place.symlink_to(secret)
        with pytest.raises(ValueError, match="is a link to"):
            atomic.read_regular(place, 100)


@pytest.mark.parametrize("generation", ["v2", "v7"])
def test_a_link_in_the_place_of_partial_is_refused_and_empties_nobody_s_bundle(
    tmp_path, generation
):
    somebody = tmp_path / "somebody"
    fill(somebody, generation, "somebody's")
    before = contents(somebody)
    ours = tmp_path / "ours"
    fill(ours, generation, "ours")
    link = aside(ours, generation)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(somebody)
    with pytest.raises(ValueError, match=rf"{link.name} is a link to"):
        read(ours, generation)
    with (
        pytest.raises(ValueError, match=rf"{link.name} is a link to"),
        files.new_bundle(ours, METADATA[generation], ()),
    ):
        pytest.fail("a run began")
    assert contents(somebody) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read_can_be_read(tmp_path):
    _, new = place_both(tmp_path, Case("v2"))
    for folder in (tmp_path / files.PARTIAL, tmp_path):
        folder.chmod(0o555)
    try:
        assert read(tmp_path, "v2").contents == new
    finally:
        tmp_path.chmod(0o755)
        (tmp_path / files.PARTIAL).chmod(0o755)
