"""A metric that cannot be computed is null in the files, and never costs a finished training."""

import functools
import json
from dataclasses import replace

import numpy as np
import pytest

import train_v2_production
from config import ConfigV1, ConfigV1Final, ConfigV2, ConfigV7, ConfigV9
from generations.v1 import train_v1
from generations.v1_final import train_v1_final
from generations.v7 import train_v7_main
from generations.v9 import btc_1h_v9_training
from tests import networks

V7 = ConfigV7(symbols=("BTC/USDT",), timeframes=("1h",), own_process=False, candles=560)
V9 = functools.partial(
    btc_1h_v9_training.main,
    build_direction=networks.for_v9_direction,
    build_price=networks.for_v9_price,
)
SCRIPTS = {
    "v1": (
        functools.partial(train_v1.main, build=networks.for_v1),
        ConfigV1(candles=300, symbols=("BTC/USDT",)),
    ),
    "v1_final": (
        functools.partial(train_v1_final.main, build=networks.for_v1_final),
        ConfigV1Final(candles=500),
    ),
    "v2": (
        functools.partial(train_v2_production.main, build=networks.for_v2),
        ConfigV2(candles=500),
    ),
    "v7": (functools.partial(train_v7_main.main, build=networks.for_v7), V7),
    "v9": (V9, ConfigV9(candles=600, trees=5)),
}


def refuse(constant):
    raise AssertionError(f"{constant} in JSON, which no other reader would take")


@pytest.mark.slow
@pytest.mark.parametrize("generation", SCRIPTS)
def test_what_is_no_number_is_null_in_the_files_and_a_dash_for_people(
    generation, tmp_path, monkeypatch, capsys
):
    undefined = {
        "correlation_with_current_return": float("nan"),
        "correlation_with_next_return": np.float64("inf"),
    }
    monkeypatch.setattr("pipeline.evaluation.metrics.lag_check", lambda *_: undefined)
    monkeypatch.setattr("pipeline.evaluation.metrics._roc_auc", lambda *_: float("nan"))
    monkeypatch.setattr("pipeline.training.fit.export_twin", lambda path: None)
    main, config = SCRIPTS[generation]
    main(replace(config, source="synthetic", epochs=1, output_dir=tmp_path))
    assert "VERDICT  NO CLAIM" in capsys.readouterr().out
    files = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json")}
    read = {name: json.loads(text, parse_constant=refuse) for name, text in files.items()}
    scores = read[f"metrics_{generation}.json"]
    network = (scores["1h"] if generation == "v7" else scores)["test"]["models"]["lstm"]
    assert network["roc_auc"] is None and network["correlation_with_next_return"] is None
    (page,) = (path.read_text(encoding="utf-8") for path in tmp_path.glob("report_*.html"))
    assert (
        ">nan<" not in page
        and "Whether the forecast copies the last move is undefined here." in page
    )
