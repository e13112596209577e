"""A training script as a command: what it ends with, and what an interrupt leaves."""

import json
import shlex
from pathlib import Path

import pytest

from config import ConfigV2
from pipeline import script
from pipeline.bundle.files import PARTIAL, RUN_FILE
from tests.test_imports import ROOT

TEST = {
    "verdict": "NO EDGE",
    "n": 2380,
    "verdicts": [
        {"model": "lstm", "baseline": "naive", "skill": 0.0069, "p_holm": 0.14, "verdict": "TIES"}
    ],
}
METRICS = {"test": TEST, "data": {"timeframe": "1h"}}


def run(config: ConfigV2, train=None) -> None:
    def judge(config: ConfigV2) -> list[script.Judged]:
        print("a phase")
        return [script.Judged(METRICS, Path(config.output_dir or ""), "report_v2.html", 1)]

    def forecast(config: ConfigV2, folder: Path) -> dict[str, str]:
        return script.forecast_commands(config, "1h", folder)

    script.run(lambda: config, train or judge, forecast, "v2", "metadata_v2.json")


def test_a_run_ends_with_its_report_and_commands_that_name_what_it_used(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    candles = tmp_path / "my candles"
    candles.mkdir()
    (candles / "ETHUSDT_1h.csv").write_text("")
    run(ConfigV2(candles_dir=Path("my candles"), symbols=("ETH/USDT",), output_dir=Path("out")))
    before, told = capsys.readouterr().out.split("\nNext:\n")
    assert before == "a phase\n"
    report, forecast, page = (line.split("   ", 1)[1].strip() for line in told.splitlines())
    assert report == "out/report_v2.html"
    assert shlex.split(forecast)[1:] == [
        *(str(ROOT / "inference_v2.py"), "predict", "my candles/ETHUSDT_1h.csv"),
        *("--model-dir", "out", "--picture", "forecast.png"),
    ]
    assert shlex.split(page)[1:] == [
        *(str(ROOT / "app.py"), "--model-dir", "out", "--candles-dir", "my candles")
    ]


def test_with_json_stdout_has_the_verdict_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(ConfigV2(output_dir=Path("out"), json=True))
    told = capsys.readouterr()
    assert json.loads(told.out) == {
        "verdict": "NO EDGE",
        "skill": 0.0069,
        "p_holm": 0.14,
        "n": 2380,
        "synthetic": False,
        "timeframe": "1h",
        "horizon": 1,
        "bundle": "out",
        "report": "out/report_v2.html",
    }
    assert "a phase" in told.err and "live --symbol BTC/USDT" in told.err


def test_ctrl_c_speaks_only_of_what_is_there(tmp_path, capsys):
    folder = tmp_path / "out"

    def told() -> str:
        def interrupt(config: ConfigV2) -> list[script.Judged]:
            raise KeyboardInterrupt

        with pytest.raises(SystemExit) as caught:
            run(ConfigV2(output_dir=folder), interrupt)
        assert caught.value.code == 130
        return capsys.readouterr().err

    assert told() == "\ninterrupted\n"
    (folder / PARTIAL).mkdir(parents=True)
    (folder / PARTIAL / RUN_FILE).write_text("{}")
    assert told() == "\ninterrupted; the same command with --resume goes on\n"
    (folder / "metadata_v2.json").write_text("{}")
    assert told().startswith(f"\ninterrupted; what was complete in {folder} still is; the same")


def test_a_line_of_python_forecasts_from_where_the_run_had_its_candles():
    config = ConfigV2(candles_dir=Path("it's here"), symbols=("ETH/USDT",))
    told = script.python_forecast("some.where.Predictor", config, Path("out"), ["1h", "15m"])
    words = shlex.split(told["forecast"])
    assert words[1] == "-c"
    compile(words[2], "pasted", "exec")
    assert "from some.where import Predictor; " in words[2]
    assert 'CryptodataFetcher(candles_dir="it\'s here").fetch_ohlcv' in words[2]
    assert (
        'predict(fetch("ETH/USDT", "1h", predictor.required_candles), fetch("ETH/USDT", "15m",'
        in (words[2])
    )


def test_a_line_of_python_is_one_pair_of_single_quotes_with_double_ones_inside():
    config = ConfigV2(candles_dir=Path("DIR"), symbols=("ETH/USDT",))
    told = script.python_forecast("some.where.Predictor", config, Path("out"), ["1h"], symbol="X")
    assert (
        told["forecast"].count("'") == 2 and 'from_directory("out", symbol="X")' in told["forecast"]
    )
