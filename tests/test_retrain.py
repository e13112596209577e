"""A bundle is trained again on newer candles, and replaced unless the new one is worse."""

import functools
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import train_v2_production
from app import Models, Options
from config import PRESETS_V2, ConfigV2
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import commands, retraining
from pipeline.bundle import files
from pipeline.bundle.metadata import read_metadata
from pipeline.candles.formats import read_directory
from pipeline.candles.synthetic import synthetic_market
from pipeline.commands import EXIT_KEPT, Retrain
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
    assert "Kept: no candle closes after" in capsys.readouterr().out


@pytest.mark.parametrize("force", [False, True])
def test_a_worse_one_is_refused_unless_it_is_forced(ready, candles_dir, force, monkeypatch, capsys):
    worse = retraining.Decision(False, "the new one is worse than the old one", {})
    monkeypatch.setattr(retraining, "decide", lambda *_: worse)
    old, new = sha256(ready), sha256(ready / retraining.NEXT)
    if force:
        retrain(ready, candles_dir, train=None, force=True)
        assert sha256(ready) == new and sha256(ready / retraining.PREVIOUS) == old
        assert "Replaced (--force): the new one is worse" in capsys.readouterr().out
        return
    with pytest.raises(SystemExit) as ended:
        retrain(ready, candles_dir, train=None)
    assert ended.value.code == EXIT_KEPT
    assert "Kept: the new one is worse than the old one." in capsys.readouterr().out
    assert sha256(ready) == old and not (ready / retraining.NEXT).exists()


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
    config = retraining.settings_again(metadata, until_ms)
    assert (config.train_end, config.val_end) == ("2023-10-31T00:00Z", "2024-01-31T00:00Z")
    assert config.test_start == "2024-01-31T00:00Z" and config.test_end is None


def test_settings_of_a_stranger_are_checked():
    cuts = dict.fromkeys(("train_end", "val_end", "test_start", "test_end"), "2024-01-01T00:00:00Z")
    for name, value in {"epochs": "many", "symbols": "BTC/USDT", "ensemble": -1}.items():
        metadata = {"horizon": 1, "cuts": cuts, "config": {"preset": "pooled", name: value}}
        with pytest.raises(ValueError, match=name):
            retraining.settings_again(metadata, 0)
    with pytest.raises(ValueError, match="does not say with which settings"):
        retraining.settings_again({}, 0)


def test_older_settings_take_what_is_new_from_their_preset():
    cuts = dict.fromkeys(("train_end", "val_end", "test_start", "test_end"), "2024-01-01T00:00:00Z")
    metadata = {"horizon": 1, "cuts": cuts, "config": {"preset": "pooled"}}
    config = retraining.settings_again(metadata, 0)
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
        pytest.raises(ValueError, match="another"),
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
    with pytest.raises(ValueError, match="a training run was cut off there"):
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
    assert "Replaced:" in told and "Kept: no candle closes after" in told


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
