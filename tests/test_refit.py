"""A network that learns the validation part once that has calibrated it: what decides, what
changes, what resumes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest

import train_v2_production
from config import ConfigV2, FitConfig
from inference_v2 import FILES
from pipeline.bundle.scalers import load_scalers
from pipeline.samples.scaling import ScaledSamples
from pipeline.samples.splitting import Split
from pipeline.training.fit import Objective, fit
from tests import networks
from tests.conftest import TINY

ONE_CYCLE = replace(TINY, epochs=2, one_cycle=True)


def learnable():
    """64 windows of three rows whose target is twice the last one."""
    rows = np.random.default_rng(0).normal(size=(66, 1)).astype(np.float32)
    now, end = np.datetime64("2024-01-01"), np.arange(2, 66)
    split = Split(np.arange(48), np.arange(48, 64), np.arange(0), now, now, now, now)
    return ScaledSamples(SimpleNamespace(end=end, lookback=3), split, rows, 2.0 * rows[end, 0])


def train(config, **changes):
    with networks.bare():
        return train_v2_production.main(replace(config, **changes), build=networks.for_v2)


@pytest.fixture(scope="module")
def config(signal_dir):
    return replace(ONE_CYCLE, candles_dir=signal_dir)


@pytest.fixture(scope="module")
def once(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("once")
    train(config, output_dir=folder)
    return folder


@pytest.fixture(scope="module")
def twice(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twice")
    train(config, refit=True, output_dir=folder)
    return folder


def test_what_is_fitted_on_validation_is_of_the_network_that_never_saw_it(once, twice):
    left, right = (load_scalers(folder / FILES.scalers) for folder in (once, twice))
    for name in ("calibration", "intervals"):
        assert left[name] == right[name]
    for name in ("X", "y"):
        np.testing.assert_array_equal(left[name].scale, right[name].scale)
    assert left["calibration"]["shrinkage"] > 0  # else nothing is compared
    history = [
        json.loads((folder / FILES.metadata).read_text())["history"] for folder in (once, twice)
    ]
    assert history[0]["val_loss"] == history[1]["val_loss"]


def test_the_network_that_is_served_is_another_one_and_alone_in_the_bundle(once, twice):
    left, right = (pd.read_parquet(folder / FILES.predictions) for folder in (once, twice))
    assert (left["lstm_raw"] != right["lstm_raw"]).mean() > 0.99
    assert (
        left["xgboost_raw"] != right["xgboost_raw"]
    ).mean() > 0.9  # the rivals learn the validation part too
    np.testing.assert_array_equal(left["ewma_q10"], right["ewma_q10"])
    assert sorted(path.name for path in twice.iterdir()) == sorted(
        path.name for path in once.iterdir()
    )


def test_the_second_network_learns_training_and_validation_and_nothing_else():
    now = np.datetime64("2024-01-01")
    split = Split(np.arange(5), np.arange(6, 8), np.arange(9, 12), now, now, now, now)
    scaled = ScaledSamples(None, split, np.zeros((12, 1)), np.zeros(12)).learning_validation()
    assert scaled.split.train.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert scaled.split.test.tolist() == [9, 10, 11]


@pytest.mark.slow
def test_the_second_network_keeps_the_epoch_that_validation_chose_for_the_first(
    config, tmp_path, monkeypatch
):
    fit, kept = train_v2_production.fit_network, []

    def best_was_the_second(build, scaled, config, folder, *, kept_epoch=None):
        kept.append(kept_epoch)
        return fit(build, scaled, config, folder, kept_epoch=kept_epoch) | {"best_epoch": 1}

    monkeypatch.setattr(train_v2_production, "fit_network", best_was_the_second)
    train(config, epochs=4, refit=True, output_dir=tmp_path / "run")
    assert kept == [None, 1]


@pytest.mark.slow
def test_the_kept_epochs_weights_are_those_after_it_whatever_the_loss_does_later(tmp_path):
    scaled = learnable()
    saved = {}
    for kept in (0, 2, None):
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [keras.Input((3, 1)), keras.layers.Flatten(), keras.layers.Dense(1)]
        )
        folder = tmp_path / str(kept)
        folder.mkdir()
        after = []
        settings = FitConfig(epochs=3, batch_size=16, learning_rate=0.01, seed=1, one_cycle=True)
        history = fit(
            model,
            scaled,
            Objective(keras.losses.MeanSquaredError()),
            settings,
            folder / "best.h5",
            kept_epoch=kept,
            on_epoch=lambda epoch, logs, model=model, after=after: after.append(
                model.get_weights()
            ),
        )
        assert history.best_epoch == (2 if kept is None else kept)  # the loss falls to the end
        for ours, theirs in zip(model.get_weights(), after[history.best_epoch], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        saved[kept] = model.get_weights()[0]
    assert (saved[0] != saved[2]).any() and (saved[2] == saved[None]).all()


def test_without_a_fixed_number_of_epochs_it_is_refused():
    with pytest.raises(ValueError, match="refit is True; pass one_cycle too"):
        replace(ConfigV2(), refit=True).check()


@pytest.mark.slow
def test_a_run_cut_off_between_its_networks_resumes_to_the_same_forecasts(
    config, twice, tmp_path, monkeypatch
):
    fit, calls = train_v2_production.fit_network, []

    def killed_at_the_second(*args, **settings):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args, **settings)

    monkeypatch.setattr(train_v2_production, "fit_network", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(config, refit=True, output_dir=tmp_path)
    monkeypatch.setattr(train_v2_production, "fit_network", fit)
    train(config, refit=True, output_dir=tmp_path, resume=True)
    left, right = (pd.read_parquet(folder / FILES.predictions) for folder in (twice, tmp_path))
    pd.testing.assert_frame_equal(left, right)


@pytest.mark.slow
def test_the_members_of_an_ensemble_are_calibrated_each_by_its_own(config, twice, tmp_path):
    metrics = train(config, refit=True, ensemble=2, output_dir=tmp_path)
    alone = json.loads((twice / FILES.metrics).read_text())["test"]["verdicts"]
    skill, _ = (row["skill"] for row in alone if row["baseline"] == "naive")
    assert metrics["ensemble"]["members"][0]["skill"] == pytest.approx(skill, rel=1e-9)
