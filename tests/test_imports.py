"""The house's one-way imports, and what importing a predictor must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {"train_v2_production"}
GENERATIONS = {"generations"}  # training scripts and predictors of the other generations
FEATURES = {"feature_engineering", *(f"feature_engineering_{name}" for name in ("pooled", "v1", "v7", "v9"))}
PAGE = {"app"}
ROOMS = {"config", "models", "pipeline", *FEATURES, "data_fetcher", "inference_v2", *SCRIPTS, *GENERATIONS, *PAGE}
ALLOWED = {
    "config": set(),
    "models": {"models"},
    "pipeline": {"pipeline"},
    "feature_engineering": {"pipeline", "feature_engineering_pooled", "feature_engineering_v1"},
    "feature_engineering_pooled": {"pipeline"},
    "feature_engineering_v1": {"pipeline"},
    "feature_engineering_v7": {"pipeline"},
    "feature_engineering_v9": {"feature_engineering", "pipeline"},
    "data_fetcher": {"pipeline", "config"},
    "inference_v2": {"config", "data_fetcher", "pipeline", *FEATURES},
    "train_v2_production": ROOMS - SCRIPTS - GENERATIONS - PAGE,
    "generations": ROOMS - SCRIPTS - PAGE,
    "app": ROOMS - SCRIPTS - GENERATIONS - PAGE,
}
COMMAND = "hub.py"  # python -m pipeline.hub writes model cards, from the tables of the evaluation
SCRIPT_MODULES = [
    "train_v2_production",
    *(f"generations.{name}" for name in ("train_v1", "train_v1_final", "train_v7_main", "btc_1h_v9_training")),
]
PREDICTORS = ["inference_v2", *(f"generations.inference_{name}" for name in ("v1", "v1_final", "v7", "v9"))]


def imported_modules(path: Path) -> set[str]:
    """Dotted names a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files_of(room: str) -> list[Path]:
    return [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").is_file() else sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_the_rooms_below_it(room):
    for path in files_of(room):
        ours = {name.split(".")[0] for name in imported_modules(path)} & ROOMS
        assert ours <= ALLOWED[room], f"{path.name} imports {ours - ALLOWED[room]}"


def test_a_predictor_of_a_generation_imports_what_v2_s_may_and_nobody_imports_a_training_script():
    for path in files_of("generations"):
        names = imported_modules(path)
        assert not any(name.startswith(("generations.train", "generations.btc")) for name in names), path.name
        if path.name.startswith("inference"):
            assert {name.split(".")[0] for name in names} & ROOMS <= ALLOWED["inference_v2"], path.name


def test_no_part_of_the_pipeline_imports_its_evaluation_or_its_command():
    for path in files_of("pipeline"):
        names = imported_modules(path)
        assert not names & {"pipeline.hub"}, path.name
        if path.parent.name != "evaluation" and path.name != COMMAND:
            assert not any(name.startswith("pipeline.evaluation") for name in names), path.name


@pytest.mark.parametrize("room", ["models", "pipeline"])
def test_networks_and_fit_loop_use_keras_alone_so_that_any_backend_runs_them(room):
    for path in files_of(room):
        if path.name == "block_lstm.py":  # a kernel of TensorFlow's, used where that is the backend
            continue
        assert not any(name.split(".")[0] == "tensorflow" for name in imported_modules(path)), path.name


def test_every_python_file_belongs_to_a_known_room():
    known = ROOMS | {"tests", "benchmarks", "notebooks"}
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert room in known or room.startswith("."), f"{room}: add it to design and to this test"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_importing_a_predictor_loads_nothing_heavy(predictor):
    heavy = (
        "tensorflow",
        "keras",
        "sklearn",
        "xgboost",
        "arch",
        "ccxt",
        "statsmodels",
        "matplotlib",
        "scipy",
        "data_fetcher",
    )
    loaded = run_python(f"import sys, {predictor}; print([m for m in {heavy!r} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_importing_the_page_loads_neither_gradio_nor_a_network_s_libraries():
    heavy = ("gradio", "tensorflow", "keras", "onnxruntime", "sklearn", "statsmodels", "matplotlib", "tyro")
    assert run_python(f"import sys, app; print([m for m in {heavy!r} if m in sys.modules])").strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPT_MODULES)
def test_importing_a_training_script_trains_nothing_and_configures_no_logging(script):
    code = f"""
import logging, os, sys
before = set(os.listdir())
import {script}
print(logging.getLogger().handlers, set(os.listdir()) - before - {{"__pycache__"}}, "keras" in sys.modules)
"""
    assert run_python(code).strip() == "[] set() False"
