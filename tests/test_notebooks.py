"""The notebooks: what their sources build, what their first cell does, and that all of them run."""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nbclient
import nbformat
import pytest

from notebooks import build
from pipeline.candles.store import write_candles
from pipeline.forecasts.picture import new_figure

ROOT = Path(__file__).resolve().parents[1]
MOST_CELLS = 12
SCRIPTS = {
    "train_v7": "generations.v7.train_v7_main",
    "train_v9": "generations.v9.btc_1h_v9_training",
}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def first_code(name: str) -> str:
    return next(cell.source for cell in read(name).cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", build.NAMES)
def test_a_notebook_is_what_its_source_builds(name):
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert text == build.as_text(build.build(name)), "run: python -m notebooks.build"


@pytest.mark.parametrize("name", build.NAMES)
def test_a_notebook_is_short_and_holds_no_outputs(name):
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert len(read(name).cells) <= MOST_CELLS
    assert not any(cell.outputs or cell.execution_count for cell in code)


def test_every_source_is_built_and_every_notebook_has_a_badge():
    sources = {path.stem for path in (ROOT / "notebooks").glob("*.py")} - {"__init__", "build"}
    assert (
        sources == set(build.NAMES) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    )
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in build.NAMES:
        assert (
            f"https://colab.research.google.com/github/caizongxun/crypto_system/blob/main/notebooks/{name}"
            in readme
        )


def test_all_notebooks_begin_with_the_same_cell():
    assert len({first_code(name) for name in build.NAMES}) == 1


@pytest.fixture
def first_cell(monkeypatch, tmp_path):
    """Runs the first cell in an empty folder; returns the commands that it would have run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    commands = []

    def run(command, **_):
        commands.append(command)
        if command[0] == "git":
            (folder := Path(command[-1])).mkdir()
            (folder / "train_v2_production.py").touch()

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(shutil, "which", lambda name: None)

    def execute() -> list[list[str]]:
        commands.clear()
        exec(first_code("train_v2").replace("/content", str(tmp_path)), {})
        return list(commands)

    return execute


def test_in_colab_the_first_cell_clones_and_installs_and_a_second_run_only_installs(
    first_cell, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    folder = str(Path.cwd() / "crypto_system")
    install = [sys.executable, "-m", "pip", "install", "-q", "-r", f"{folder}/requirements.txt"]
    clone = ["git", "clone", "--depth", "1", "https://github.com/caizongxun/crypto_system", folder]
    assert first_cell() == [clone, install]
    assert str(Path.cwd()) == folder == sys.path[0]
    assert first_cell() == [install]
    assert sys.path.count(folder) == 1
    assert capsys.readouterr().out.startswith("No GPU")


def test_elsewhere_the_first_cell_finds_the_folder_above_and_installs_nothing(
    first_cell, tmp_path, monkeypatch
):
    (tmp_path / "train_v2_production.py").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert first_cell() == []
    assert Path.cwd() == tmp_path
    assert sys.path[0] == str(tmp_path)


def test_a_notebook_shows_our_figures_without_pyplot():
    figure = new_figure(3, 2)
    figure.add_subplot().plot([1, 2])
    png, size = figure._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert size == {"width": 300, "height": 200}


def execute(notebook: nbformat.NotebookNode, folder: Path) -> tuple[str, list[dict]]:
    """Run a notebook in a clean kernel and a folder of its own; what it printed, what it showed."""
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(folder)}}
    )
    try:
        client.execute(env={**os.environ, "NOTEBOOK_SMALL": "1", "PYTHONPATH": str(ROOT)})
    # the client looked into ipykernel, by which other tests would take this process for a notebook
    finally:
        for module in [name for name in sys.modules if name.split(".")[0] == "ipykernel"]:
            del sys.modules[module]
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    streams = [output for output in outputs if output.output_type == "stream"]
    errors = "".join(output.text for output in streams if output.name == "stderr").splitlines()
    # a network of an epoch or two may well be told not to rely on its forecast
    expected = ("was trained on synthetic candles", "lies outside of its own")
    assert not [
        line
        for line in errors
        if "Warning" in line and not any(words in line for words in expected)
    ]
    shown = [
        output.data
        for output in outputs
        if output.output_type in ("display_data", "execute_result")
    ]
    return "".join(output.text for output in streams if output.name == "stdout"), shown


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "train_v2",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("train_v1", "train_v7", "train_v9")
        ),
    ],
)
def test_a_training_notebook_runs_to_its_verdict_its_report_and_a_picture_of_the_forecast(
    name, tmp_path
):
    pytest.importorskip(SCRIPTS.get(name, "train_v2_production"))
    text, shown = execute(build.build(name), tmp_path)
    assert "VERDICT  NO CLAIM (synthetic data)" in text
    assert any("<iframe srcdoc=" in data.get("text/html", "") for data in shown)
    assert "image/png" in shown[-1]
    generation = name.removeprefix("train_")
    assert (tmp_path / "all_models" / generation / f"metadata_{generation}.json").is_file()


@pytest.mark.slow
def test_the_prediction_notebook_shows_a_forecast_and_the_days_before(
    tmp_path, tiny_bundle, signal_market
):
    shutil.copytree(tiny_bundle, tmp_path / "all_models" / "v2")
    write_candles(signal_market["BTC/USDT"], tmp_path, "BTC/USDT", "1h")
    text, shown = execute(build.build("predict_v2"), tmp_path)
    assert "confidence      0." in text
    assert "of the last 72 returns" in text
    assert ["image/png" in data for data in shown] == [False, True, True]


@pytest.mark.slow
def test_the_verdict_notebook_shows_a_leak_and_finds_it(tmp_path):
    text, shown = execute(build.build("verdict"), tmp_path)
    assert "VERDICT  NO CLAIM (synthetic data)" in text
    assert "it looks ahead, by 5 candles" in text
    honest, leaky = (
        float(text.split(name)[1].split()[0].rstrip("%")) for name in ("\nhonest ", "\nleaky ")
    )
    assert honest < 58 < 65 < leaky
    assert sum("image/png" in data for data in shown) == 2
