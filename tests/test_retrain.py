"""A bundle is trained again on newer candles, and replaced unless the new one is worse."""

import functools
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import train_v2_production
from app import Models, Options
from config import PRESETS_V2, ConfigV2
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import commands, recalibrating, retraining
from pipeline.bundle import files
from pipeline.bundle.metadata import read_metadata
from pipeline.bundle.scalers import save_scalers
from pipeline.candles.formats import read_directory
from pipeline.candles.synthetic import synthetic_market
from pipeline.commands import EXIT_KEPT, Retrain
from pipeline.forecasts import opening
from pipeline.forecasts.recalibration import Recalibration
from tests import networks
from tests.conftest import write_market

COINS = ("BTC/USDT", "ETH/USDT")
SMALL = replace(
    ConfigV2(),
    symbols=COINS,
    candles=2000,
    epochs=2,
    one_cycle=True,
    refit=True,
    final_fit=True,
    learning_rate=0.01,
)
train_small = functools.partial(train_v2_production.main, build=networks.for_v2)


@pytest.fixture(scope="module")
def market():
    return synthetic_market(COINS, "1h", 3600, seed=7, signal_r2=0.15)


@pytest.fixture(scope="module")
def first(market, tmp_path_factory):
    """A bundle that was trained before the last 600 candles."""
    until_then = {symbol: candles.iloc[:3000] for symbol, candles in market.items()}
    candles_dir = write_market(until_then, tmp_path_factory.mktemp("before"))
    folder = tmp_path_factory.mktemp("bundle")
    with networks.bare():
        train_small(replace(SMALL, candles_dir=candles_dir, output_dir=folder))
    return folder


@pytest.fixture(scope="module")
def candles_dir(market, tmp_path_factory):
    return write_market(market, tmp_path_factory.mktemp("candles"))


@pytest.fixture
def bundle(first, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(first, folder)
    return folder


@pytest.fixture(scope="module")
def trained(first, candles_dir, tmp_path_factory):
    """The first bundle with a new one in `next`, as after a kill between training and moves."""
    folder = tmp_path_factory.mktemp("trained") / "bundle"
    shutil.copytree(first, folder)
    with networks.bare(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(retraining, "install", killed)
        with pytest.raises(KeyboardInterrupt):
            retrain(folder, candles_dir)
    return folder


def killed(*_):
    raise KeyboardInterrupt


@pytest.fixture
def ready(trained, tmp_path):
    folder = tmp_path / "ready"
    shutil.copytree(trained, folder)
    return folder


@pytest.fixture(autouse=True)
def quick():
    with networks.bare():
        yield


def retrain(bundle, candles_dir, train=train_small, **options) -> None:
    command = Retrain(model_dir=bundle, candles_dir=candles_dir, own_process=False, **options)
    command.run(CryptoPricePredictorV2, train)


def sha256(folder):
    return files.sha256_of(folder / FILES.model)


def is_served(folder, candles) -> bool:
    """Whether a complete bundle lies there, with a forecast."""
    predictor = CryptoPricePredictorV2.from_directory(folder)
    metadata = read_metadata(folder / FILES.metadata)
    whole = all(
        files.sha256_of(folder / name) == sha256 for name, sha256 in metadata["files"].items()
    )
    return whole and np.isfinite(predictor.predict(candles)["return"])


def test_a_newer_bundle_takes_the_place_of_the_old_one(ready, candles_dir, market, capsys):
    bundle, old, new = ready, sha256(ready), sha256(ready / retraining.NEXT)
    retrain(bundle, candles_dir, train=None, json=True)  # what is trained is not trained again
    told = json.loads(capsys.readouterr().out)
    assert told["replaced"] and told["on_new_candles"]["n"] == 2 * 600
    assert sha256(bundle) == new != old and sha256(bundle / retraining.PREVIOUS) == old
    assert not (bundle / retraining.NEXT).exists()
    newest = market["BTC/USDT"]["timestamp"].iloc[-1] + pd.Timedelta(hours=1)
    served = CryptoPricePredictorV2.from_directory(bundle)
    assert abs(served.trained_until - newest) < pd.Timedelta(hours=1)
    assert served.recalibration is None  # the test part is shorter than 30 days
    for folder in (bundle, bundle / retraining.PREVIOUS):
        assert is_served(folder, market["BTC/USDT"])


def test_it_is_trained_as_the_first_one_was(ready):
    before = read_metadata(ready / FILES.metadata)["config"]
    after = read_metadata(ready / retraining.NEXT / FILES.metadata)["config"]
    assert after | {"candles_dir": None, "source": None} == before | {
        "candles_dir": None,
        "source": None,
    }


def test_without_a_newer_candle_nothing_is_trained(bundle, market, tmp_path, capsys):
    until_then = {symbol: candles.iloc[:3000] for symbol, candles in market.items()}
    candles_dir = write_market(until_then, tmp_path / "candles")
    with pytest.raises(SystemExit) as ended:
        retrain(bundle, candles_dir, train=None)
    assert ended.value.code == EXIT_KEPT
    assert "has no candle after" in capsys.readouterr().out


@pytest.mark.parametrize("force", [False, True])
def test_a_worse_one_is_refused_unless_it_is_forced(ready, candles_dir, force, monkeypatch, capsys):
    worse = retraining.Decision(False, "the new one is worse than the old one", {})
    monkeypatch.setattr(retraining, "decide", lambda *_: worse)
    old, new = sha256(ready), sha256(ready / retraining.NEXT)
    if force:
        retrain(ready, candles_dir, train=None, force=True)
        assert sha256(ready) == new and sha256(ready / retraining.PREVIOUS) == old
        assert (
            "Replaced: the new one is worse than the old one (--force)" in capsys.readouterr().out
        )
        return
    with pytest.raises(SystemExit) as ended:
        retrain(ready, candles_dir, train=None)
    assert ended.value.code == EXIT_KEPT
    assert "Kept: the new one is worse than the old one." in capsys.readouterr().out
    assert sha256(ready) == old and sha256(ready / retraining.NEXT) == new  # --force may follow


def frame(forecast, actual, seed=0):
    n = len(actual)
    times = pd.date_range("2024-01-01", periods=n, freq="h", tz="UTC")
    return pd.DataFrame(
        {
            "symbol": "BTC/USDT",
            "timestamp": times,
            "base_price": 100.0,
            "actual_return": actual,
            "volatility": 0.01,
            "forecast": forecast,
        }
    )


def verdicts(verdict: str):
    naive = {
        "model": "lstm",
        "baseline": "naive",
        "loss": "absolute",
        "decides": True,
        "skill": -0.01,
        "p_holm": 0.001,
        "verdict": verdict,
    }
    return {"verdicts": [naive]}


def test_the_guard_refuses_what_loses_to_naive_or_to_the_old_one(monkeypatch):
    monkeypatch.setattr(retraining, "deciding", lambda rows: rows)
    random = np.random.default_rng(1)
    actual = random.normal(0, 0.01, 1500)
    good, noise = frame(0.3 * actual, actual), frame(random.normal(0, 0.005, 1500), actual)
    ties = verdicts("TIES")
    assert retraining.decide(good, good, ties, 1).is_accepted
    assert retraining.decide(noise, good, ties, 1).reason.startswith("the new one is better")
    refused = retraining.decide(good, noise, ties, 1)
    assert not refused.is_accepted and "worse than the old one" in refused.reason
    assert not retraining.decide(noise, good, verdicts("LOSES"), 1).is_accepted
    later = good.assign(timestamp=good["timestamp"] + pd.Timedelta(days=400))
    apart = retraining.decide(good, later, ties, 1)
    assert apart.is_accepted and "could not be compared" in apart.reason


def test_cuts_by_dates_move_along():
    metadata = {
        "horizon": 1,
        "config": {
            "train_end": "2023-09-30",
            "val_end": "2023-12-31",
            "test_start": None,
            "test_end": None,
            "preset": "guide",
            "symbols": ["BTC/USDT"],
        },
        "cuts": {
            "train_end": "2023-10-01T00:00:00Z",
            "val_end": "2024-01-01T00:00:00Z",
            "test_start": "2024-01-01T00:00:00Z",
            "test_end": "2024-03-01T00:00:00Z",
        },
    }
    until_ms = pd.Timestamp("2024-03-31", tz="UTC").value // 10**6  # 30 days later
    config = retraining.settings_again(metadata, until_ms, "1h", 1)
    assert (config.train_end, config.val_end) == ("2023-10-31T00:00Z", "2024-01-31T00:00Z")
    assert config.test_start == "2024-01-31T00:00Z" and config.test_end is None


def test_settings_of_a_stranger_are_checked():
    cuts = dict.fromkeys(("train_end", "val_end", "test_start", "test_end"), "2024-01-01T00:00:00Z")
    strange = {
        "epochs": "many",
        "symbols": "BTC/USDT",
        "ensemble": -1,
        "lstm_units": ["a"],
        "baselines": [1],
        "horizons": ["4"],
    }
    for name, value in strange.items():
        metadata = {"horizon": 1, "cuts": cuts, "config": {"preset": "pooled", name: value}}
        with pytest.raises(ValueError, match=name):
            retraining.settings_again(metadata, 0, "1h", 1)
    with pytest.raises(ValueError, match="does not say with which settings"):
        retraining.settings_again({}, 0, "1h", 1)


def test_older_settings_take_what_is_new_from_their_preset():
    cuts = dict.fromkeys(("train_end", "val_end", "test_start", "test_end"), "2024-01-01T00:00:00Z")
    metadata = {"horizon": 1, "cuts": cuts, "config": {"preset": "pooled"}}
    config = retraining.settings_again(metadata, 0, "1h", 1)
    assert config == PRESETS_V2["pooled"]


def test_spans_are_days_or_hours():
    assert retraining.span_ms("30d") == 30 * 86_400_000
    for text in ("30", "d", "-1d", "1w", "", "1.5d", "99999d"):
        with pytest.raises(ValueError, match="--every is"):
            retraining.span_ms(text)


def test_a_second_retraining_waits_for_nobody(bundle, candles_dir):
    from pipeline import atomic

    with (
        atomic.locked(bundle / retraining.NEXT, wait_s=0.0),
        pytest.raises(ValueError, match="another retraining is at work there"),
    ):
        retrain(bundle, candles_dir)


def test_it_resumes_a_training_that_was_cut_off(bundle, candles_dir):
    def cut_off(config: ConfigV2):
        def build(config, n_features):
            if any((config.output_dir / files.PARTIAL).rglob("training_state.npz")):
                raise KeyboardInterrupt
            return networks.for_v2(config, n_features)

        return train_v2_production.main(config, build)

    with pytest.raises(KeyboardInterrupt):
        retrain(bundle, candles_dir, cut_off)
    resumed = []

    def train(config: ConfigV2):
        resumed.append(config.resume)
        return train_small(config)

    retrain(bundle, candles_dir, train)
    assert resumed == [True]


def test_an_interrupted_training_run_in_the_folder_is_not_overwritten(ready, candles_dir):
    partial = ready / files.PARTIAL
    partial.mkdir()
    (partial / files.RUN_FILE).write_text("{}")
    with pytest.raises(ValueError, match="train_v2_production.py was cut off there"):
        retrain(ready, candles_dir)


def test_every_repeats(ready, candles_dir, monkeypatch, capsys):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(commands.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        retrain(ready, candles_dir, every="30d")
    assert all(29 * 86_400 < seconds <= 30 * 86_400 for seconds in slept)
    told = capsys.readouterr().out
    assert "Replaced:" in told and "has no candle after" in told


def test_every_goes_on_after_an_outage(ready, candles_dir, monkeypatch, capsys):
    from pipeline.candles.fetching import fetch_candles

    asked, slept = [], []

    def fetch(*given, **how):
        asked.append(1)
        if len(asked) == 1:
            raise ConnectionError("the exchange is down")
        return fetch_candles(*given, **how)

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(opening, "fetch_candles", fetch)
    monkeypatch.setattr(commands.time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        retrain(ready, candles_dir, train=None, every="30d", json=True)
    first, second = map(json.loads, capsys.readouterr().out.splitlines())  # JSON alone
    assert first == {"replaced": False, "reason": "the exchange is down"} and second["replaced"]
    assert 0 < slept[0] <= 3600 < 29 * 86_400 < slept[1]


@pytest.mark.parametrize("n_moves", [1, 3, 8])
def test_a_kill_amid_the_moves_loses_neither_bundle(
    ready, candles_dir, n_moves, monkeypatch, capsys
):
    """The next retraining completes them, and both bundles are whole."""
    old, new = sha256(ready), sha256(ready / retraining.NEXT)
    moved, replace_file = [], os.replace

    def replace_some(source, target):
        if Path(source).parent.name == files.PARTIAL and Path(target).parent == ready:
            moved.append(target)
            if len(moved) > n_moves:
                raise KeyboardInterrupt
        replace_file(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace_some)
        with pytest.raises(KeyboardInterrupt):
            retrain(ready, candles_dir, train=None)
    retrain(ready, candles_dir, train=None)
    assert "Replaced: a retraining that was cut off is complete" in capsys.readouterr().out
    assert sha256(ready) == new and sha256(ready / retraining.PREVIOUS) == old
    candles = read_directory(candles_dir, "BTC/USDT", "1h")
    assert is_served(ready, candles) and is_served(ready / retraining.PREVIOUS, candles)
    assert not (ready / retraining.NEXT).exists()


def test_a_bundle_that_claims_to_have_learnt_less_is_refused(first, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(first, folder)
    scalers = pickle.loads((folder / FILES.scalers).read_bytes())
    del scalers["trained_until"]
    save_scalers(scalers, folder / FILES.scalers)
    metadata = json.loads((folder / FILES.metadata).read_text())
    metadata["files"][FILES.scalers] = files.sha256_of(folder / FILES.scalers)
    (folder / FILES.metadata).write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="contradicts itself"):
        CryptoPricePredictorV2.from_directory(folder)


def test_a_judged_network_that_is_missing_is_not_replaced_by_the_served_one(first, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(first, folder)
    (folder / FILES.judged_model).unlink()
    with pytest.raises(ValueError, match="the network that was judged is missing"):
        CryptoPricePredictorV2.from_directory(folder, judged=True)


def test_a_coin_that_ends_earlier_is_named(ready, market, tmp_path, capsys):
    shorter = {"BTC/USDT": market["BTC/USDT"], "ETH/USDT": market["ETH/USDT"].iloc[:3000]}
    candles_dir = write_market(shorter, tmp_path / "candles")
    with pytest.raises(SystemExit):
        retrain(ready, candles_dir, train=None)
    assert "Kept: ETH/USDT has no candle after" in capsys.readouterr().out


def test_a_recalibration_of_a_bundle_that_was_replaced_meanwhile_is_refused(ready, candles_dir):
    both = opening.open_both(CryptoPricePredictorV2, ready)
    market = opening.read_market(both.judged, opening.source_of(candles_dir, None, None), 0)
    retrain(ready, candles_dir, train=None)
    with (
        pytest.MonkeyPatch.context() as patched,
        pytest.raises(ValueError, match="the bundle was replaced meanwhile"),
    ):
        fitted = Recalibration(both.judged.calibration, 0, 10**12, 1000)
        patched.setattr("pipeline.evaluation.unseen.recalibrate", lambda *_: fitted)
        patched.setattr("pipeline.evaluation.unseen.check_test_part", lambda *_: None)
        recalibrating.fit_anew(both, ready, market)
    assert not (ready / FILES.recalibration).exists()


def test_a_new_bundle_is_told_of_even_where_its_recalibration_cannot_be_written(
    ready, candles_dir, monkeypatch, capsys
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recalibrating, "fit_anew", full)
    retrain(ready, candles_dir, train=None, json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["replaced"] and not told["recalibrated"]


def test_page_and_predictor_notice_the_new_bundle(ready, candles_dir):
    page = Models(Options(model_dir=(ready,), candles_dir=candles_dir))
    before = page.open(None)
    old = CryptoPricePredictorV2.from_directory(ready)
    assert not old.is_replaced() and page.open(None) is before
    retrain(ready, candles_dir)
    assert old.is_replaced()
    after = page.open(None)
    assert after is not before
    assert after.predictor.model_sha256 == sha256(ready)
    assert page.open(None) is after


def test_the_page_goes_on_with_the_old_bundle_where_the_new_one_cannot_be_opened(
    bundle, candles_dir
):
    page = Models(Options(model_dir=(bundle,), candles_dir=candles_dir))
    before = page.open(None)
    (bundle / FILES.metadata).write_text("{}")
    with pytest.warns(UserWarning, match="goes on with the one before"):
        assert page.open(None) is before


def test_the_old_and_the_new_forecast_differ(ready, candles_dir):
    candles = read_directory(candles_dir, "BTC/USDT", "1h")
    before = CryptoPricePredictorV2.from_directory(ready).predict(candles)["return"]
    retrain(ready, candles_dir)
    after = CryptoPricePredictorV2.from_directory(ready).predict(candles)["return"]
    kept = CryptoPricePredictorV2.from_directory(ready / retraining.PREVIOUS)
    assert kept.predict(candles)["return"] == before != after
