"""The notebooks: what their sources build, what their first cell does, and that all of them run."""

import ast
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest

from config import PRESETS_V2, default_cache_dir, default_output_dir
from notebooks import build
from pipeline.candles.fetching import SYNTHETIC_BANNER
from pipeline.candles.store import write_candles
from pipeline.forecasts.picture import new_figure

ROOT = Path(__file__).resolve().parents[1]
MOST_CELLS = 14
MOST_KB = 600
PARTS_OF_A_PATH = ("/tmp", "/home", "/work", "/root", "/Users")
SCRIPTS = {
    "train_v7": "generations.v7.train_v7_main",
    "train_v9": "generations.v9.btc_1h_v9_training",
}
SMALL: dict[str, dict[str, Any]] = {
    "train_v2": {
        "candles": 700,
        "epochs": 2,
        "more": {
            "source": "synthetic",
            "lstm_units": (6, 4),
            "conv_filters": 4,
            "conv_lstm_units": 4,
        },
    },
    "train_v1": {
        "candles": 500,
        "epochs": 1,
        "more": {
            "source": "synthetic",
            "lstm_units": (6, 4),
            "conv_filters": (4, 4),
            "conv_lstm_units": (4, 3),
        },
    },
    "train_v7": {
        "symbols": "BTC/USDT ETH/USDT",
        "timeframes": "1h",
        "candles": 400,
        "epochs": 1,
        "more": {"source": "synthetic", "lstm_units": (4, 4, 4), "dense_units": (4, 4)},
    },
    "train_v9": {
        "candles": 700,
        "epochs": 1,
        "more": {
            "source": "synthetic",
            "direction_lstm_units": (4, 4),
            "attention_heads": 1,
            "direction_dense_units": (4, 4),
            "price_lstm_units": (4, 4),
            "price_dense_units": (4, 4, 4),
            "trees": 5,
        },
    },
    "predict_v2": {"candles_file": "BTCUSDT_1h.parquet"},
    "judge": {"symbols": "BTC/USDT", "candles_dir": "candles", "candles": 700, "epochs": 40},
    "verdict": {"candles": 700, "more": {"source": "synthetic", "epochs": 1, "lstm_units": (6, 4)}},
}
"""Settings with which the tests run them: tiny, and without a network."""


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def first_code(name: str) -> str:
    return build.code_cells(read(name))[0].source


def settings_cell(name: str) -> nbformat.NotebookNode:
    """The only cell that is tagged, as papermill wants it."""
    [cell] = [cell for cell in read(name).cells if cell.metadata.get("tags")]
    assert cell.metadata == {"tags": ["parameters"]}
    return cell


@pytest.mark.parametrize("name", build.NAMES)
def test_a_notebook_is_what_its_source_builds_but_for_outputs_that_are_kept(name):
    notebook = read(name)
    text = (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert text == build.as_text(notebook)
    if name in build.KEPT:
        for cell in build.code_cells(notebook):
            cell.outputs, cell.execution_count = [], None
    assert build.as_text(notebook) == build.as_text(build.build(name)), (
        "run: python -m notebooks.build"
    )


@pytest.mark.parametrize("name", build.NAMES)
def test_a_notebook_is_short_and_ends_with_what_to_try_next(name):
    cells = read(name).cells
    assert len(cells) <= MOST_CELLS
    assert cells[-1].cell_type == "markdown"
    assert cells[-1].source.startswith("## What to try next\n- **")


@pytest.mark.parametrize("name", build.NAMES)
def test_the_settings_are_a_form_of_colab_and_parameters_of_papermill(name):
    title, *lines = settings_cell(name).source.splitlines()
    assert title == "# @title Settings"
    settings = [line for line in lines if not line.startswith("# @markdown ")]
    assert all(re.fullmatch(r"\w+ = .*  # @param [{\[].*[}\]]", line) for line in settings)
    assert set(SMALL[name]) <= {line.split(" = ")[0] for line in settings}


@pytest.mark.parametrize("name", build.NAMES)
def test_google_drive_is_asked_for_only_where_the_settings_say_so(name):
    assert re.search(r"^(keep_on|from)_drive = False ", settings_cell(name).source, re.MULTILINE)
    tree = ast.parse("\n".join(cell.source for cell in build.code_cells(read(name))))
    asked = [
        branch
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If)
        and ast.unparse(branch.test) in ("keep_on_drive", "from_drive")
        and "drive.mount" in "".join(map(ast.unparse, branch.body))
    ]
    assert len(asked) == ast.unparse(tree).count("drive.mount") == 1


def settings_of(name: str, **changed):
    """The settings that a training notebook's two cells make of the form."""
    _, form, chosen = build.code_cells(read(name))[:3]
    scope: dict[str, Any] = {"Path": Path}
    exec(form.source, scope)
    scope |= changed
    exec(chosen.source, scope)
    return scope["config"]


@pytest.mark.parametrize("name", ["train_v2", "train_v1", "train_v7", "train_v9"])
def test_what_the_form_says_reaches_the_run(name, monkeypatch):
    mounted = []
    drive = types.SimpleNamespace(mount=mounted.append)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    colab = types.ModuleType("google.colab")
    colab.drive = drive
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    config = settings_of(name)
    assert config.output_dir == default_output_dir(name.removeprefix("train_"))
    assert config.cache_dir == default_cache_dir()
    assert mounted == []
    more = {"fee_bps": 2.0, "epochs": 3}
    config = settings_of(
        name, symbols="ETH/USDT SOL/USDT", candles=9, keep_on_drive=True, more=more
    )
    assert (config.symbols, config.candles) == (("ETH/USDT", "SOL/USDT"), 9)
    assert (config.fee_bps, config.epochs) == (2.0, 3)
    kept = Path("/content/drive/MyDrive/crypto_system")
    assert config.output_dir.parent == config.cache_dir.parent == kept
    assert mounted == ["/content/drive"]


def test_all_coins_is_the_pooled_preset():
    config = settings_of("train_v2", all_coins=True)
    assert replace(config, output_dir=None) == PRESETS_V2["pooled"]


def test_parameters_are_set_behind_the_form_and_a_name_that_it_lacks_is_refused():
    notebook = build.with_parameters(build.build("verdict"), {"candles": 9, "more": {"seed": (1,)}})
    form, injected = notebook.cells[2:4]
    assert form.source.startswith("# @title Settings")
    assert injected.metadata == {"tags": ["injected-parameters"]}
    assert injected.source == "candles = 9\nmore = {'seed': (1,)}"
    with pytest.raises(ValueError, match="candle: no such setting"):
        build.with_parameters(build.build("verdict"), {"candle": 9})


@pytest.mark.parametrize("name", [name for name in build.NAMES if name not in build.KEPT])
def test_other_notebooks_hold_no_outputs(name):
    code = build.code_cells(read(name))
    assert not any(cell.outputs or cell.execution_count for cell in code)


def kept_outputs(name: str) -> list[nbformat.NotebookNode]:
    return [output for cell in build.code_cells(read(name)) for output in cell.outputs]


def text_of(outputs: list[nbformat.NotebookNode]) -> str:
    """All that is no picture."""
    texts = [output.get("text", "") for output in outputs]
    for output in outputs:
        data = output.get("data", {})
        texts += [text for kind, text in data.items() if kind.startswith("text/")]
    return "\n".join(texts)


@pytest.mark.parametrize("name", build.KEPT)
def test_a_kept_notebook_ran_from_top_to_bottom_on_real_candles(name):
    code, outputs = build.code_cells(read(name)), kept_outputs(name)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    silent = [cell.source for cell in code if not cell.outputs]
    shows_nothing = ("# @title Settings\n", "# Share it, if")
    assert all(source.startswith(shows_nothing) for source in silent)
    kinds = {output.output_type for output in outputs}
    assert kinds <= {"stream", "display_data", "execute_result"}
    assert not [output for output in outputs if output.get("name") == "stderr"]
    text = text_of(outputs)
    assert SYNTHETIC_BANNER not in text
    assert "synthetic data" not in text


@pytest.mark.parametrize("name", build.KEPT)
def test_what_is_kept_is_small_and_tells_nothing_of_the_machine(name):
    assert (ROOT / "notebooks" / f"{name}.ipynb").stat().st_size < 1000 * MOST_KB
    outputs, text = kept_outputs(name), text_of(kept_outputs(name))
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert kinds <= {"text/plain", "text/html", "text/markdown", "image/png"}
    assert not [part for part in (*PARTS_OF_A_PATH, "\r", "<iframe", "0x7f") if part in text]


def test_the_kept_notebooks_show_the_readme_s_run_and_its_pictures():
    texts = (text_of(kept_outputs(name)) for name in ("train_v2", "verdict"))
    verdicts = {re.search(r"VERDICT  .*(?:\n {9,}.*)*", text)[0] for text in texts}
    [verdict] = verdicts
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert verdict in readme, "run: python -m notebooks.build --run --candles-dir DIR"
    pictures = {
        name: sum("image/png" in output.get("data", {}) for output in kept_outputs(name))
        for name in build.KEPT
    }
    assert pictures == {"train_v2": 1, "predict_v2": 2, "verdict": 5, "judge": 1}


def test_outputs_stay_while_text_changes_and_go_when_code_does(tmp_path):
    path = tmp_path / "predict_v2.ipynb"
    old = build.build("predict_v2")
    for count, cell in enumerate(build.code_cells(old), start=1):
        cell.execution_count = count
    hello = nbformat.v4.new_output("stream", text="hello")
    build.code_cells(old)[2].outputs = [hello]
    old.cells[0].source = "# Another title"
    path.write_text(build.as_text(old), encoding="utf-8")
    again = build.rebuild("predict_v2", tmp_path)
    assert again.cells[0].source == build.build("predict_v2").cells[0].source
    assert build.code_cells(again)[2].outputs == [hello]
    build.code_cells(old)[-1].source += "\nprint()"
    path.write_text(build.as_text(old), encoding="utf-8")
    assert build.rebuild("predict_v2", tmp_path) == build.build("predict_v2")


def test_outputs_of_a_run_lose_noise_pages_and_the_folder(tmp_path):
    built = build.build("train_v2")
    ran = build.with_parameters(build.build("train_v2"), {"epochs": 2})
    cell = build.code_cells(ran)[4]
    page = {"text/html": "<div><iframe srcdoc='…'></iframe></div>" + 3000 * " "}
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="a library's notes"),
        nbformat.v4.new_output("stream", text=f"bundle: {tmp_path / 'all_models'}"),
        nbformat.v4.new_output("execute_result", data=page, execution_count=5),
    ]
    build.keep_outputs(built, ran, tmp_path)
    assert not any("epochs = 2" in cell.source for cell in built.cells)
    cell = build.code_cells(built)[3]  # one less than there, since nothing is injected
    told, shown = cell.outputs
    assert told.text == "bundle: all_models"
    assert shown.data["text/markdown"].startswith("*A page of 3 kB")
    assert "text/html" not in shown.data
    assert (shown.execution_count, cell.execution_count) == (4, 4)


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


def small(name: str) -> nbformat.NotebookNode:
    """A notebook with the tests' own settings."""
    return build.with_parameters(build.build(name), SMALL[name])


def execute(notebook: nbformat.NotebookNode, folder: Path) -> tuple[str, list[dict]]:
    """Run a notebook in a clean kernel and a folder of its own; what it printed, what it showed."""
    try:
        build.execute(notebook, folder, timeout_s=300)
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
    text, shown = execute(small(name), tmp_path)
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
    text, shown = execute(small("predict_v2"), tmp_path)
    assert re.search(r"\nconfidence +0\.", text)
    assert "of the last 72 returns" in text
    assert ["image/png" in data for data in shown] == [False, True, True]


@pytest.mark.slow
def test_the_verdict_notebook_shows_a_leak_and_finds_it(tmp_path):
    text, shown = execute(small("verdict"), tmp_path)
    assert "VERDICT  NO CLAIM (synthetic data)" in text
    assert "it looks ahead, by 5 candles" in text
    honest, leaky = (
        float(text.split(name)[1].split()[0].rstrip("%")) for name in ("\nhonest ", "\nleaky ")
    )
    assert honest < 58 < 65 < leaky
    is_confident = "never more confident of one direction" not in text
    assert sum("image/png" in data for data in shown) == 4 + is_confident


@pytest.mark.slow
def test_the_judge_notebook_judges_three_claims_and_proves_two_leaks(tmp_path, signal_market):
    for symbol, frame in signal_market.items():
        write_candles(frame, tmp_path / "candles", symbol, "1h")
    text, shown = execute(small("judge"), tmp_path)
    verdicts = re.findall(r"VERDICT  (?:NO )?EDGE: in .*(?:\n {9,}.*)*", text)
    for verdict, claim in zip(verdicts, ("tutorial LSTM", "RSI below 30", "turns back")):
        assert claim in verdict
    assert len(verdicts) == 3
    assert re.search(r"no change +R² of the price 0\.\d+, error 0\.\d+ %", text)
    assert "scaled_over_all looks ahead. BTC/USDT: its forecast_return at" in text
    assert re.search(r"smoothed looks ahead\. .*, 2 candles later\.", text)
    assert "writes_into_its_candles changes the candles that it is given" in text
    assert sum("image/png" in data for data in shown) == 1
