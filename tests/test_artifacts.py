"""A bundle is complete exactly when its metadata is there and its hashes hold; a kill at any moment loses nothing."""

import json
import os
import shutil

import pytest

from pipeline import artifacts

METADATA = "metadata.json"
FILES = ("model.bin", "scalers.bin")


def write_partial(output_dir, content):
    """A complete run in .partial, not yet moved."""
    partial, _ = artifacts.open_partial(output_dir, {"seed": 1}, METADATA, resume=False)
    for name in FILES:
        (partial / name).write_text(f"{content} {name}")
    (partial / "log.txt").write_text(content)
    artifacts.write_metadata(partial / METADATA, {"content": content}, hashed=FILES, unhashed=("log.txt",))
    return partial


def bundle_content(output_dir):
    """What a reader finds: the content if the bundle is complete, None if there is none, "broken" otherwise."""
    path = output_dir / METADATA
    if not path.is_file():
        return None
    metadata = json.loads(path.read_text())
    whole = all(artifacts.sha256_of(output_dir / name) == sha for name, sha in metadata["files"].items())
    return metadata["content"] if whole else "broken"


def test_moving_a_complete_bundle_leaves_its_files_and_nothing_else(tmp_path):
    write_partial(tmp_path, "new")
    assert artifacts.finish_moves(tmp_path, METADATA)
    assert bundle_content(tmp_path) == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*FILES, "log.txt", METADATA])


def test_a_run_killed_before_its_metadata_leaves_the_old_bundle_as_it_was(tmp_path):
    write_partial(tmp_path, "old")
    artifacts.finish_moves(tmp_path, METADATA)
    partial = write_partial(tmp_path, "new")
    (partial / METADATA).unlink()
    assert not artifacts.finish_moves(tmp_path, METADATA)
    assert bundle_content(tmp_path) == "old"


@pytest.mark.parametrize("moves_before_the_kill", range(5))
def test_a_kill_between_the_moves_is_completed_at_the_next_start(tmp_path, monkeypatch, moves_before_the_kill):
    write_partial(tmp_path, "old")
    artifacts.finish_moves(tmp_path, METADATA)
    write_partial(tmp_path, "new")
    real_replace, n_moves = os.replace, 0

    def replace_until_killed(source, target):
        nonlocal n_moves
        if n_moves == moves_before_the_kill:
            raise KeyboardInterrupt
        n_moves += 1
        real_replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace_until_killed)
        if moves_before_the_kill < 4:  # two files, the log, the metadata
            with pytest.raises(KeyboardInterrupt):
                artifacts.finish_moves(tmp_path, METADATA)
        else:
            artifacts.finish_moves(tmp_path, METADATA)
    artifacts.finish_moves(tmp_path, METADATA)
    assert bundle_content(tmp_path) == "new"
    assert not (tmp_path / artifacts.PARTIAL).exists()


def test_a_partial_bundle_whose_hashes_do_not_hold_is_not_moved(tmp_path):
    write_partial(tmp_path, "old")
    artifacts.finish_moves(tmp_path, METADATA)
    partial = write_partial(tmp_path, "new")
    (partial / FILES[0]).write_text("half writ")
    assert not artifacts.finish_moves(tmp_path, METADATA)
    assert bundle_content(tmp_path) == "old"


def test_a_fresh_start_removes_what_an_interrupted_run_left_and_resume_keeps_it(tmp_path):
    partial, interrupted = artifacts.open_partial(tmp_path, {"seed": 1}, METADATA, resume=False)
    assert interrupted is None
    artifacts.store_run(partial, {"seed": 1}, {"end_ms": 5})
    (partial / "state").write_text("epoch 3")
    partial, interrupted = artifacts.open_partial(tmp_path, {"seed": 1}, METADATA, resume=True)
    assert interrupted == {"end_ms": 5}
    assert (partial / "state").read_text() == "epoch 3"
    partial, interrupted = artifacts.open_partial(tmp_path, {"seed": 1}, METADATA, resume=False)
    assert interrupted is None
    assert not (partial / "state").exists()


def test_resuming_where_nothing_was_interrupted_starts_afresh(tmp_path):
    _, interrupted = artifacts.open_partial(tmp_path, {"seed": 1}, METADATA, resume=True)
    assert interrupted is None


def test_resuming_with_other_settings_names_the_one_that_changed(tmp_path):
    artifacts.open_partial(tmp_path, {"seed": 1, "epochs": 5}, METADATA, resume=False)
    with pytest.raises(ValueError, match=r"--resume: epochs is 9 now and was 5 in the interrupted run"):
        artifacts.open_partial(tmp_path, {"seed": 1, "epochs": 9}, METADATA, resume=True)


def test_a_directory_that_cannot_be_written_is_a_value_error_with_a_remedy(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(ValueError, match=r"file/out: the output directory cannot be written .*choose another"):
        artifacts.open_partial(blocked / "out", {}, METADATA, resume=False)


def test_changed_bytes_are_refused_and_a_folder_without_metadata_is_not_checked(tmp_path):
    write_partial(tmp_path, "new")
    artifacts.finish_moves(tmp_path, METADATA)
    paths = [tmp_path / name for name in FILES]
    artifacts.check_hashes(paths, tmp_path / METADATA)
    paths[1].write_text("something else")
    with pytest.raises(ValueError, match=r"scalers.bin: its bytes are not those that metadata.json names"):
        artifacts.check_hashes(paths, tmp_path / METADATA)
    (tmp_path / METADATA).write_text("{not json")
    with pytest.raises(ValueError, match=r"metadata.json: not readable"):
        artifacts.check_hashes(paths, tmp_path / METADATA)
    (tmp_path / METADATA).unlink()
    artifacts.check_hashes(paths, tmp_path / METADATA)


def test_json_refuses_nan_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    artifacts.write_json(path, {"mape_percent": 0.34})
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(path, {"mape_percent": float("nan")})
    assert json.loads(path.read_text()) == {"mape_percent": 0.34}


def test_a_corrupt_metadata_aside_does_not_stop_the_next_run(tmp_path):
    partial = write_partial(tmp_path, "new")
    (partial / METADATA).write_text("{")
    artifacts.open_partial(tmp_path, {"seed": 1}, METADATA, resume=False)
    shutil.rmtree(tmp_path / artifacts.PARTIAL)
