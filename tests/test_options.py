"""Options of the commands: how --help tells them, how they are read, and lines to paste."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import config
from pipeline import commands, options
from tests.test_imports import ROOT, run_python

CONFIGS = (config.ConfigV1, config.ConfigV1Final, config.ConfigV2, config.ConfigV7, config.ConfigV9)


def help_of(monkeypatch, capsys, read) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", [*sys.argv[:1], "--help"])
    with pytest.raises(SystemExit) as caught:
        read()
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("settings", CONFIGS)
def test_help_lists_every_setting_in_one_of_six_groups(monkeypatch, capsys, settings):
    doc = "Train it.\n\n    python x.py\n\n" + "It ends with a verdict, whatever comes. " * 5
    told = help_of(monkeypatch, capsys, lambda: options.read_settings(settings, settings(), doc))
    groups = re.findall(r"(\w+) options [─ ]", told)
    assert groups == list(config.OPTION_GROUPS)
    names = {entry.name.replace("_", "-") for entry in dataclasses.fields(settings)}
    assert [name for name in names if not re.search(f"--{name}[ ,\n]", told)] == []
    assert "None" not in told
    assert max(map(len, told.splitlines())) <= 80
    assert "\n    python x.py\n" in told


@pytest.mark.parametrize("settings", CONFIGS)
def test_what_the_command_line_says_is_what_the_settings_hold(monkeypatch, settings):
    words = "--epochs 3 --symbols ETH/USDT --no-resume --candles-dir some/where --json".split()
    monkeypatch.setattr(sys, "argv", ["x.py", *words])
    read = options.read_settings(settings, settings(lookback=30), "Train it.")
    assert read == settings(
        lookback=30, epochs=3, symbols=("ETH/USDT",), candles_dir=Path("some/where"), json=True
    )


def test_every_setting_of_the_lists_exists():
    known = {entry.name for settings in CONFIGS for entry in dataclasses.fields(settings)}
    assert {name for names in config._GROUPS.values() for name in names} <= known


@pytest.mark.parametrize(
    "words", [["x.csv", "--json"], ["--candles", "x.csv", "--json"], ["--json", "--candles=x.csv"]]
)
def test_predict_takes_its_file_by_place_and_as_older_versions_did(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["inference_v2.py"])
    found = options.read_command(
        {"predict": commands.Predict, "live": commands.Live},
        "Forecast.",
        commands._file_by_place(["predict", *words]),
    )
    assert isinstance(found, commands.Predict)
    assert (found.candles, found.json, found.symbol) == (Path("x.csv"), True, None)
    assert commands._file_by_place(["live", "--candles"]) == ["live", "--candles"]


def test_a_line_to_paste_is_quoted_and_starts_this_interpreter(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    line = options.command("app.py", "--candles-dir", Path("my candles"))
    python, *words = shlex.split(line)
    assert words == [str(ROOT / "app.py"), "--candles-dir", "my candles"]
    assert python in ("python", sys.executable)
    monkeypatch.chdir(ROOT)
    assert shlex.split(options.command("app.py"))[1:] == ["app.py"]


def test_an_environment_that_is_not_activated_is_named_by_its_path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/python")
    assert options.python("-c", "pass") == ".venv/bin/python -c pass"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert list(options.page()) == ["page (.venv/bin/python -m pip install gradio)"]
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / ".venv" / "bin" / "python"))
    assert options.python("-c", "pass") == "python -c pass"
    assert list(options.page()) == ["page (pip install gradio)"]


@pytest.mark.slow
def test_help_names_the_module_as_it_was_started_and_waits_for_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-m", "generations.v7.train_v7_main", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("usage: python -m generations.v7.train_v7_main [-h]")
    loaded = "import sys, train_v2_production; print([m for m in ('scipy', 'keras', 'ccxt', "
    loaded += "'sklearn', 'matplotlib') if m in sys.modules])"
    assert run_python(loaded).strip() == "[]"
