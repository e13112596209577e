"""What was trained on real candles is never replaced by a run on synthetic ones."""

import json
from dataclasses import replace

import pytest

import train_v2_production
from config import ConfigV1, ConfigV1Final, ConfigV2, ConfigV7, ConfigV9
from generations.v1 import train_v1
from generations.v1_final import train_v1_final
from generations.v7 import train_v7_main
from generations.v9 import btc_1h_v9_training
from inference_v2 import FILES
from pipeline.bundle import files
from tests import networks
from tests.conftest import TINY

SCRIPTS = {
    "v1": (train_v1, ConfigV1()),
    "v1_final": (train_v1_final, ConfigV1Final()),
    "v2": (train_v2_production, ConfigV2()),
    "v7": (train_v7_main, ConfigV7(timeframes=("1h",))),
    "v9": (btc_1h_v9_training, ConfigV9()),
}
REAL = {"synthetic": False, "files": {}, "unhashed_files": []}
OF_MANY = {"jobs": {"BTCUSDT_1h": REAL, "ETHUSDT_1h": REAL | {"synthetic": True}}}


@pytest.mark.parametrize("generation", SCRIPTS)
def test_synthetic_candles_do_not_replace_a_bundle_trained_on_real_ones(generation, tmp_path):
    script, config = SCRIPTS[generation]
    metadata = tmp_path / f"metadata_{generation}.json"
    metadata.write_text(json.dumps(OF_MANY if generation == "v7" else REAL))
    before = metadata.read_bytes()
    config = replace(
        config, symbols=("BTC/USDT",), source="synthetic", candles=300, output_dir=tmp_path
    )
    with pytest.raises(ValueError) as caught:
        script.main(config)
    assert str(caught.value) == (
        f"{tmp_path}: the bundle there has real candles, and these are synthetic; choose another "
        "--output-dir, pass real candles (--candles-dir DIR), or replace it with --force"
    )
    assert metadata.read_bytes() == before
    assert not (tmp_path / files.PARTIAL / files.RUN_FILE).exists()


def test_synthetic_candles_do_not_replace_an_interrupted_run_on_real_ones(tmp_path):
    partial = tmp_path / files.PARTIAL
    partial.mkdir()
    log = partial / FILES.log
    log.write_text("epoch 3\n")
    files.begin_run(partial, {"seed": 1}, {"end_ms": 5}, FILES.log, is_synthetic=False)
    (partial / "state").write_text("epoch 3")
    config = replace(TINY, source="synthetic", output_dir=tmp_path)
    with pytest.raises(ValueError, match="the interrupted run there has real candles"):
        train_v2_production.main(config)
    assert (partial / "state").read_text() == "epoch 3"
    assert log.read_text().startswith("epoch 3\n")
    assert files.interrupted_run(partial, {"seed": 1}, FILES.metadata) == {"end_ms": 5}


@pytest.mark.parametrize("left", ["", "{", "[1]", "{}", '{"synthetic": true}', '{"jobs": [3]}'])
def test_what_is_synthetic_or_no_metadata_at_all_may_be_replaced(tmp_path, left):
    partial = tmp_path / files.PARTIAL
    partial.mkdir()
    (tmp_path / FILES.metadata).write_text(left)
    (partial / files.RUN_FILE).write_text(left)
    files.refuse_to_replace_real(partial, FILES.metadata)


def test_a_fresh_run_begins_its_log_anew_once_its_candles_are_there(tmp_path):
    (tmp_path / FILES.log).write_text("an earlier run\n[1/9] Fetch\n")
    files.begin_run(tmp_path, {}, {}, FILES.log, log_start=len("an earlier run\n"))
    assert (tmp_path / FILES.log).read_text() == "[1/9] Fetch\n"


@pytest.mark.slow
def test_force_replaces_and_is_no_setting_of_the_run(tmp_path):
    (tmp_path / FILES.metadata).write_text(json.dumps(REAL))
    config = replace(TINY, source="synthetic", epochs=1, output_dir=tmp_path, force=True)
    with networks.bare():
        train_v2_production.main(config, build=networks.for_v2)
    metadata = json.loads((tmp_path / FILES.metadata).read_text())
    assert metadata["synthetic"] is True and "force" not in metadata["config"]
    assert (tmp_path / FILES.log).read_text().startswith("\n[1/9] Fetch")


def test_a_run_says_that_it_will_replace_the_bundle_that_is_there(tmp_path, monkeypatch, capsys):
    class EnoughError(Exception):
        pass

    def stop(*_):
        raise EnoughError

    monkeypatch.setattr(train_v2_production, "choose_preset_features", stop)
    config = replace(TINY, source="synthetic", output_dir=tmp_path)
    for is_there in (False, True):
        with pytest.raises(EnoughError):
            train_v2_production.main(config)
        told = " ".join(capsys.readouterr().out.split())
        assert ("is replaced once this run is complete" in told) == is_there
        (tmp_path / FILES.metadata).write_text(json.dumps(REAL | {"synthetic": True}))
