"""A finished run in TensorBoard and trackio, read back by themselves."""

import json
import sqlite3

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline import script
from pipeline.evaluation.losses import LOSS, SQUARED_LOSS
from pipeline.report import track

METADATA = {
    "config": {"seed": 7, "epochs": 2},
    "history": {"loss": [0.5, 0.25], "val_loss": [0.75, None], "best_epoch": 0},
}
TEST = {
    "models": {"naive": {}, "lstm": {"mape_percent": 0.5, "brier": None}},
    "verdicts": [
        {"model": "lstm", "baseline": "naive", "loss": LOSS, "skill": 0.125},
        {"model": "lstm", "baseline": "naive", "loss": SQUARED_LOSS, "skill": -1.0},
    ],
}


def test_tensorboard_reads_curves_and_scores(tmp_path):
    shown = track.log_run("tensorboard", "a", METADATA, TEST, tmp_path)
    assert shown == f"tensorboard --logdir {tmp_path}"
    found = EventAccumulator(str(tmp_path / "a")).Reload()
    read = {
        name: [(event.step, event.tensor_proto.float_val[0]) for event in found.Tensors(name)]
        for name in found.Tags()["tensors"]
    }
    assert read == {
        "loss/loss": [(1, 0.5), (2, 0.25)],
        "loss/val_loss": [(1, 0.75)],
        "test/mape_percent": [(0, 0.5)],
        "skill/naive": [(0, 0.125)],
    }
    assert json.loads((tmp_path / "a" / "settings.json").read_text()) == METADATA["config"]


def test_trackio_reads_curves_and_scores(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    assert track.log_run("trackio", "a", METADATA, TEST, tmp_path) == (
        "trackio show --project crypto-forecasts"
    )
    [database] = tmp_path.glob("*.db")
    with sqlite3.connect(database) as opened:
        rows = opened.execute("SELECT step, metrics FROM metrics ORDER BY rowid").fetchall()
    told = [(step, json.loads(metrics)) for step, metrics in rows]
    assert told[:2] == [(1, {"loss/loss": 0.5, "loss/val_loss": 0.75}), (2, {"loss/loss": 0.25})]
    assert told[2][1] == {"test/mape_percent": 0.5, "skill/naive": 0.125}


def test_curves_of_several_networks_keep_their_names():
    two = {"history": {"member_1": {"loss": [1.0]}, "member_2": {"loss": [2.0, 3.0]}}}
    assert list(track.epochs(two)) == [
        {"member_1/loss": 1.0, "member_2/loss": 2.0},
        {"member_2/loss": 3.0},
    ]


def test_a_missing_tracker_is_told_of_before_the_training(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    track.demand(None)
    with pytest.raises(ValueError, match="--track trackio needs .*: pip install trackio"):
        track.demand("trackio")


def test_a_run_is_logged_beside_its_folder_under_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "all_models" / "v2"
    folder.mkdir(parents=True)
    told = METADATA | {"run": {"started": "2026-11-27T05:45:09+00:00"}}
    (folder / "metadata_v2.json").write_text(json.dumps(told))
    metrics = {"test": TEST, "data": {"timeframe": "1h"}}
    judged = script.Judged(metrics, folder, "report_v2.html", 1)
    shown = script._log("tensorboard", judged, "metadata_v2.json")
    assert shown == "tensorboard --logdir all_models/tensorboard"
    assert (tmp_path / "all_models/tensorboard/v2-1h-1-20261127054509").is_dir()
