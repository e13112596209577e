"""A bundle is complete exactly when its metadata is there and its hashes hold; a kill at any moment
loses nothing."""

import json
import os

import numpy as np
import pytest

from pipeline.bundle import files

METADATA = "metadata.json"
FILES = ("model.bin", "scalers.bin")
BUNDLE = (*FILES, "log.txt")


def fill(partial, content):
    """Write a complete bundle into .partial."""
    for name in FILES:
        (partial / name).write_text(f"{content} {name}")
    (partial / "log.txt").write_text(content)
    files.write_metadata(
        partial / METADATA, {"content": content}, hashed=FILES, unhashed=("log.txt",)
    )


def write_partial(output_dir, content):
    """A complete run in .partial, not yet moved."""
    partial = output_dir / files.PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    fill(partial, content)
    return partial


def finish_moves(output_dir):
    return files.finish_moves(output_dir, METADATA, BUNDLE)


def bundle_content(output_dir):
    """What a reader finds: the content if the bundle is complete, None if there is none, "broken"
    otherwise."""
    path = output_dir / METADATA
    if not path.is_file():
        return None
    metadata = json.loads(path.read_text())
    whole = all(
        files.sha256_of(output_dir / name) == sha for name, sha in metadata["files"].items()
    )
    return metadata["content"] if whole else "broken"


def test_moving_a_complete_bundle_leaves_its_files_and_nothing_else(tmp_path):
    write_partial(tmp_path, "new")
    assert finish_moves(tmp_path)
    assert bundle_content(tmp_path) == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*FILES, "log.txt", METADATA])


def test_a_run_killed_before_its_metadata_leaves_the_old_bundle_as_it_was(tmp_path):
    write_partial(tmp_path, "old")
    finish_moves(tmp_path)
    partial = write_partial(tmp_path, "new")
    (partial / METADATA).unlink()
    assert not finish_moves(tmp_path)
    assert bundle_content(tmp_path) == "old"


@pytest.mark.parametrize("moves_before_the_kill", range(5))
def test_a_kill_between_the_moves_is_completed_at_the_next_start(
    tmp_path, monkeypatch, moves_before_the_kill
):
    write_partial(tmp_path, "old")
    finish_moves(tmp_path)
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
                finish_moves(tmp_path)
        else:
            finish_moves(tmp_path)
    finish_moves(tmp_path)
    assert bundle_content(tmp_path) == "new"
    assert not (tmp_path / files.PARTIAL).exists()


def test_a_partial_bundle_whose_hashes_do_not_hold_is_not_moved(tmp_path):
    write_partial(tmp_path, "old")
    finish_moves(tmp_path)
    partial = write_partial(tmp_path, "new")
    (partial / FILES[0]).write_text("half writ")
    assert not finish_moves(tmp_path)
    assert bundle_content(tmp_path) == "old"


def open_run(output_dir):
    return files.new_bundle(output_dir, METADATA, BUNDLE)


def test_a_bundle_is_moved_when_its_block_ends_and_only_then(tmp_path):
    with open_run(tmp_path) as partial:
        fill(partial, "new")
        assert bundle_content(tmp_path) is None
    assert bundle_content(tmp_path) == "new"
    with pytest.raises(KeyError), open_run(tmp_path) as partial:
        fill(partial, "newer")
        raise KeyError("a bug, after which nothing may be published")
    assert bundle_content(tmp_path) == "new"


def test_a_block_that_leaves_no_complete_bundle_is_an_error(tmp_path):
    with (
        pytest.raises(ValueError, match="its files changed while the bundle was written"),
        open_run(tmp_path) as partial,
    ):
        fill(partial, "new")
        (partial / FILES[0]).write_text("tampered with")
    assert bundle_content(tmp_path) is None


def test_a_second_run_in_the_same_folder_is_refused_and_a_later_one_is_not(tmp_path):
    with open_run(tmp_path) as partial:
        fill(partial, "first")
        with pytest.raises(ValueError, match="another process"), open_run(tmp_path):
            pass
    with open_run(tmp_path) as partial:
        fill(partial, "second")
    assert bundle_content(tmp_path) == "second"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*BUNDLE, METADATA])


def test_a_fresh_run_removes_what_an_interrupted_one_left_and_says_so(tmp_path, caplog):
    partial = tmp_path / files.PARTIAL
    partial.mkdir()
    files.begin_run(partial, {"seed": 1}, {"end_ms": 5}, "log.txt")
    assert caplog.messages == []
    (partial / "state").write_text("epoch 3")
    (partial / "log.txt").write_text("in use")
    assert files.interrupted_run(partial, {"seed": 1}, METADATA) == {"end_ms": 5}
    assert (partial / "state").read_text() == "epoch 3"
    files.begin_run(partial, {"seed": 2}, {}, "log.txt")
    assert "an interrupted run is discarded" in caplog.text
    assert sorted(p.name for p in partial.iterdir()) == ["log.txt", "run.json"]


def test_resuming_in_an_empty_folder_starts_afresh_and_on_a_complete_bundle_is_refused(tmp_path):
    partial = tmp_path / files.PARTIAL
    partial.mkdir()
    assert files.interrupted_run(partial, {"seed": 1}, METADATA) is None
    with open_run(tmp_path) as partial:
        fill(partial, "new")
    with pytest.raises(ValueError, match="nothing to resume in .* its bundle is complete"):
        files.interrupted_run(partial, {"seed": 1}, METADATA)


def test_resuming_with_other_settings_names_the_one_that_changed(tmp_path):
    files.begin_run(tmp_path, {"seed": 1, "epochs": 5}, {}, "log.txt")
    with pytest.raises(
        ValueError, match=r"--resume: epochs is 9 now and was 5 in the interrupted run"
    ):
        files.interrupted_run(tmp_path, {"seed": 1, "epochs": 9}, METADATA)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"settings": 3, "stored": {}}', ""])
def test_a_damaged_note_of_the_interrupted_run_is_refused_by_name(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run.json is damaged .*leave --resume out"):
        files.interrupted_run(tmp_path, {"seed": 1}, METADATA)


def test_a_directory_that_cannot_be_written_is_a_value_error_with_a_remedy(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    message = r"file/out: the output directory cannot be written .*choose another"
    with pytest.raises(ValueError, match=message), open_run(blocked / "out"):
        pass


@pytest.mark.parametrize(
    "metadata",
    [
        {"files": {"../victim.py": "SHA"}, "unhashed_files": []},
        {"files": {}, "unhashed_files": ["../victim.py"]},
        {"files": {"victim.py": "SHA"}, "unhashed_files": []},
        {"files": {"/etc/passwd": "SHA"}, "unhashed_files": []},
        {"files": 3, "unhashed_files": []},
        {"files": {}, "unhashed_files": None},
        {"files": {}},
        [],
        7,
    ],
)
def test_a_strangers_folder_chooses_no_file_to_overwrite(tmp_path, metadata):
    folder = tmp_path / "bundle"
    (folder / ".partial").mkdir(parents=True)
    (folder / "victim.py").write_text("evil")
    (tmp_path / "victim.py").write_text("good")
    text = json.dumps(metadata).replace("SHA", files.sha256_of(folder / "victim.py"))
    (folder / ".partial" / METADATA).write_text(text)
    assert not finish_moves(folder)
    assert (tmp_path / "victim.py").read_text() == "good"


def test_a_number_that_is_not_finite_becomes_null_and_costs_nothing(tmp_path):
    path = tmp_path / "metrics.json"
    wild = {
        "mape_percent": float("nan"),
        "by_symbol": {"BTC/USDT": [np.float32("inf"), -np.inf, 0.34]},
    }
    files.write_json(path, wild)
    assert json.loads(path.read_text()) == {
        "mape_percent": None,
        "by_symbol": {"BTC/USDT": [None, None, 0.34]},
    }


def test_json_refuses_what_is_no_plain_value_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"mape_percent": 0.34})
    with pytest.raises(TypeError, match="set is no plain value"):
        files.write_json(path, {"mape_percent": {0.34}})
    assert json.loads(path.read_text()) == {"mape_percent": 0.34}


def test_a_corrupt_metadata_aside_does_not_stop_the_next_run(tmp_path):
    partial = write_partial(tmp_path, "new")
    (partial / METADATA).write_text("{")
    with open_run(tmp_path) as partial:
        fill(partial, "newer")
    assert bundle_content(tmp_path) == "newer"
