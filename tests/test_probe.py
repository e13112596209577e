"""A model whose features other code computes otherwise is not served, and its run not resumed."""

import logging
import re

import pytest

import inference_v2
from feature_engineering import V2_FEATURES, compute_features, probe_preset
from generations.v1.features import V1_FEATURES, compute_v1_features
from generations.v1_final.features import V1_FINAL_FEATURES, compute_level_features
from generations.v7.features import V7_FEATURES, compute_ohlc_features
from generations.v9.features import V9_FEATURES, compute_v9_features
from inference_v2 import CryptoPricePredictorV2
from pipeline.bundle import files
from pipeline.bundle.scalers import load_scalers
from pipeline.candles.schema import read_candles
from pipeline.samples import probe as probes
from pipeline.samples.pooled_features import POOLED_FEATURES, compute_probe_features
from pipeline.samples.probe import changed_feature, probe, probe_candles

COMPUTE = {
    compute_features: V2_FEATURES,
    compute_probe_features: POOLED_FEATURES,
    compute_v1_features: V1_FEATURES,
    compute_level_features: V1_FINAL_FEATURES,
    compute_ohlc_features: V7_FEATURES,
    compute_v9_features: V9_FEATURES,
}
"""What computes a generation's features, and which."""


def test_the_fixed_candles_are_sound_and_those_of_before():
    candles = read_candles(probe_candles(), "1h")
    assert len(candles) == 600 and candles["close"].iloc[-1] == pytest.approx(LAST_CLOSE, rel=1e-12)


# By the arithmetic of `probe_candles`: never to be changed, since files hold what came of it.
LAST_CLOSE = 101.41187326083445


@pytest.mark.parametrize("compute", COMPUTE, ids=lambda one: one.__name__)
def test_every_feature_of_a_generation_is_probed_and_has_a_value(compute):
    told = probe(compute)
    assert tuple(told) == COMPUTE[compute]
    assert all(values[-1] is not None for values in told.values())


@pytest.mark.parametrize("compute", COMPUTE, ids=lambda one: one.__name__)
def test_last_bits_are_no_change_and_a_thousandth_is_one(compute):
    now = probe(compute)

    def scaled(factor):
        return {n: [v if v is None else v * factor for v in values] for n, values in now.items()}

    assert changed_feature(scaled(1 + 1e-9), now, now) is None
    assert changed_feature(scaled(1.001), now, now) is not None


@pytest.mark.parametrize(
    "before",
    [None, "x", [], {}, {"rsi": 50.0}, {"rsi": [True, 1.0]}, {"rsi": [50.0]}, {"rsi": [None, 50]}],
)
def test_what_is_no_probe_is_another_one(before):
    assert changed_feature(before, {"rsi": [50.0, 50.0]}, ["rsi"]) == "rsi"


def test_a_feature_that_a_model_does_not_look_at_may_change():
    assert changed_feature({"rsi": [1.0]}, {"rsi": [1.0], "atr": [2.0]}, ["rsi"]) is None


def another(preset):
    """The probe of code that computes the RSI otherwise."""
    told = dict(probe_preset(preset))
    return told | {"rsi": [value + 0.5 if value else value for value in told["rsi"]]}


@pytest.mark.slow
def test_a_bundle_of_other_feature_code_is_refused_and_one_that_does_not_tell_is_served(
    tiny_bundle, monkeypatch
):
    scalers = load_scalers(tiny_bundle / "scalers_v2.pkl")
    assert changed_feature(scalers["features_probe"], probe_preset("guide"), V2_FEATURES) is None
    monkeypatch.setattr(inference_v2, "probe_preset", another)
    with pytest.raises(ValueError, match="computes the feature rsi in another way") as refusal:
        CryptoPricePredictorV2.from_directory(tiny_bundle)
    assert "train again, or use that version" in str(refusal.value)
    monkeypatch.setattr(CryptoPricePredictorV2, "_demand_same_features", older)
    CryptoPricePredictorV2.from_directory(tiny_bundle)


def older(self, scalers, scaler_path, _check=CryptoPricePredictorV2._demand_same_features):
    """The check, of a file from before there was one."""
    _check(self, {k: v for k, v in scalers.items() if k != "features_probe"}, scaler_path)


def code(preset_probe, commit="a" * 40):
    return {"features_probe": preset_probe, "commit": commit}


def test_a_run_of_other_feature_code_is_not_resumed(tmp_path):
    begun = code(files.plain(probe_preset("guide")))
    files.begin_run(tmp_path, {"seed": 1}, {"end_ms": 5}, "log.txt", code=begun)
    now = code(probe_preset("guide"))
    assert files.interrupted_run(tmp_path, {"seed": 1}, "m.json", now) == {"end_ms": 5}
    with pytest.raises(ValueError, match=r"--resume: .*feature rsi .*leave --resume out"):
        files.interrupted_run(tmp_path, {"seed": 1}, "m.json", code(another("guide")))


def test_a_run_of_a_version_that_noted_no_features_is_not_resumed(tmp_path):
    files.begin_run(tmp_path, {"seed": 1}, {"end_ms": 5}, "log.txt")
    with pytest.raises(ValueError, match=r"--resume: .*leave --resume out"):
        files.interrupted_run(tmp_path, {"seed": 1}, "m.json", code(probe_preset("guide")))


def test_a_run_of_another_commit_with_the_same_features_is_resumed_with_a_notice(tmp_path, caplog):
    probe_now = probe_preset("guide")
    files.begin_run(tmp_path, {}, {"end_ms": 5}, "log.txt", code=code(files.plain(probe_now)))
    with caplog.at_level(logging.WARNING):
        files.interrupted_run(tmp_path, {}, "m.json", code(probe_now, "b" * 40))
    assert re.search("begun by other code .commit a{40}. than this .commit b{40}.", caplog.text)
    assert probes.N_CANDLES == 600
