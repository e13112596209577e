"""Folds of a walk-forward run: what each may see, and that a kill costs at most the fold in
hand."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import train_v2_production
from pipeline.samples.splitting import chronological_split
from pipeline.training.recipes import fold_splits, run_folds
from tests import networks
from tests.conftest import TINY

HOUR, DAY = np.timedelta64(1, "h"), np.timedelta64(1, "D")
HOURS = np.arange("2024-01-01T00", "2024-04-10T00", dtype="datetime64[h]").astype(
    "datetime64[ms]"
)  # 100 days


def split():
    return chronological_split(HOURS, train_ratio=0.5, val_ratio=0.1, purge=HOUR)


def test_folds_follow_each_other_and_each_trains_on_all_that_came_before():
    whole = split()
    folds = fold_splits(whole, HOURS, 10 * DAY, HOUR)
    assert len(folds) == 4
    assert np.array_equal(folds[0].train, whole.train) and np.array_equal(folds[0].val, whole.val)
    for before, after in itertools.pairwise(folds):
        assert after.train_end - before.train_end == after.val_end - before.val_end == 10 * DAY
        assert after.test_start == before.test_end
        assert len(after.train) == len(before.train) + 240 and after.train[0] == 0
    # Each fold's first sample began before the cut, and is purged.
    assert sum(len(fold.test) for fold in folds) == len(whole.test) - 3
    assert set(np.concatenate([fold.test for fold in folds])) <= set(whole.test)


def test_no_fold_sees_what_it_forecasts():
    for fold in fold_splits(split(), HOURS, 7 * DAY, HOUR):
        assert (
            HOURS[fold.train].max()
            < HOURS[fold.val].min()
            <= HOURS[fold.val].max()
            < HOURS[fold.test].min()
        )
        assert HOURS[fold.test].min() - HOURS[fold.val].max() > HOUR


def test_a_rolling_training_part_keeps_its_length():
    folds = fold_splits(split(), HOURS, 10 * DAY, HOUR, is_rolling=True)
    assert len({len(fold.train) for fold in folds}) == 1
    assert [fold.train[0] for fold in folds] == [0, 240, 480, 720]


@pytest.mark.parametrize(
    ("days", "lengths"), [(30, [39.96]), (25, [25, 14.96]), (15, [15, 15, 9.96]), (100, [39.96])]
)
def test_a_short_last_fold_joins_the_one_before(days, lengths):
    folds = fold_splits(split(), HOURS, days * DAY, HOUR)
    assert [(fold.test_end - fold.test_start) / DAY for fold in folds] == pytest.approx(
        lengths, abs=0.05
    )


def test_a_fold_of_no_length_is_refused():
    with pytest.raises(ValueError, match="a fold is longer than nothing"):
        fold_splits(split(), HOURS, 0 * DAY, HOUR)


def test_what_is_finished_is_read_again_and_not_done_again(tmp_path):
    folds, done = fold_splits(split(), HOURS, 10 * DAY, HOUR), []

    def forecast(fold, folder):
        done.append(folder.name)
        if len(done) == 3:
            raise KeyboardInterrupt
        return pd.DataFrame({"sample": fold.test})

    with pytest.raises(KeyboardInterrupt):
        run_folds(folds, forecast, tmp_path)
    parts = run_folds(folds, forecast, tmp_path)
    assert done == ["fold_01", "fold_02", "fold_03", "fold_03", "fold_04"]
    assert [part["sample"].tolist() for part in parts] == [fold.test.tolist() for fold in folds]


@pytest.fixture(scope="module")
def config(signal_dir):
    parts = {"train_ratio": 0.5, "val_ratio": 0.15}  # a test part of ten days
    folds = {"walk_forward": True, "refit_every": 5}
    return replace(TINY, candles_dir=signal_dir, epochs=2, **parts, **folds)


def run(config, folder, **changes):
    with networks.bare():
        return train_v2_production.main(
            replace(config, output_dir=folder, **changes), build=networks.for_v2
        )


@pytest.mark.slow
def test_a_run_that_walks_forward_scores_all_folds_and_resumes_after_a_kill(
    config, tmp_path, monkeypatch, capsys
):
    metrics = run(config, tmp_path / "whole")
    assert len(metrics["folds"]) == 2
    assert metrics["test"]["n"] == sum(fold["n"] for fold in metrics["folds"])
    told = capsys.readouterr().out
    assert "2 folds of 5 days" in told and "days since training" in told
    curve = metrics["age_curve"]
    assert curve["days"] == 1 and sum(step["n"] for step in curve["steps"]) == metrics["test"]["n"]
    assert [step["trainings"] for step in curve["steps"][:2]] == [2, 2]
    predictions = pd.read_parquet(tmp_path / "whole" / "predictions_v2.parquet")
    assert (
        len(predictions) == metrics["test"]["n"]
        and predictions["timestamp"].is_monotonic_increasing
    )

    train, calls = train_v2_production.train, []

    def killed_in_the_second_fold(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*args)

    monkeypatch.setattr(train_v2_production, "train", killed_in_the_second_fold)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "killed")
    monkeypatch.setattr(train_v2_production, "train", train)
    run(config, tmp_path / "killed", resume=True)
    assert "fold 1 of 1 was finished before" in capsys.readouterr().out
    resumed = json.loads((tmp_path / "killed" / "metrics_v2.json").read_text())
    assert (
        resumed["test"] == json.loads((tmp_path / "whole" / "metrics_v2.json").read_text())["test"]
    )
    assert not (tmp_path / "killed" / ".partial").exists()


def test_a_fold_without_samples_is_left_out_with_a_warning(caplog):
    halt = np.arange("2024-03-09", "2024-03-23", dtype="datetime64[h]")
    holed = np.setdiff1d(HOURS, halt.astype("datetime64[ms]"))
    whole = chronological_split(holed, train_ratio=0.5, val_ratio=0.1, purge=HOUR)
    folds = fold_splits(whole, holed, 10 * DAY, HOUR)
    assert len(folds) == 2
    assert "is left out: test part is empty" in caplog.text
    assert (
        "is left out: val part is empty" in caplog.text
    )  # the next one's validation lies where that test was
