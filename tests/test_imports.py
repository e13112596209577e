"""The house's one-way imports, and what importing a predictor must not load."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = (
    "privacy",
    "terminal",
    "options",
    "atomic",
    "candles",
    "samples",
    "bundle",
    "training",
    "forecasts",
    "evaluation",
    "report",
    "hub",
    "run",
    "script",
    "recalibrating",
    "retraining",
    "commands",
)
"""The rooms of `pipeline` in the order of the data; each may import itself and those before it."""
FACES = ("feature_engineering", "data_fetcher", "inference_v2")
"""What users import by name, at the root; each may import those before it."""
SCRIPTS = ("train_v2_production", "judge", "app", "demo", "setup")
GENERATIONS = ("v1", "v1_final", "v7", "v9")
TRAINING_SCRIPTS = (
    "train_v2_production",
    "generations.v1.train_v1",
    "generations.v1_final.train_v1_final",
    "generations.v7.train_v7_main",
    "generations.v9.btc_1h_v9_training",
)
PREDICTORS = ("inference_v2", *(f"generations.{name}.inference" for name in GENERATIONS))
DOCUMENT_NAMES = {"feature_engineering": {"generations.v1.features"}}
"""The v1 document's `FeatureEngineer` is importable from where its readers look for it."""


@functools.cache
def imported_modules(path: Path) -> frozenset[str]:
    """Dotted names a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules_below(folder: str) -> dict[str, Path]:
    return {module_of(path): path for path in sorted((ROOT / folder).rglob("*.py"))}


FILES = {
    **{path.stem: path for path in ROOT.glob("*.py")},
    **modules_below("models"),
    **modules_below("pipeline"),
    **modules_below("generations"),
}
"""Every module of the product by its dotted name."""


@functools.cache
def imports_of(name: str) -> frozenset[str]:
    """Modules of ours that a module imports."""
    return imported_modules(FILES[name]) & set(FILES) - {name, "pipeline", "generations"}


def room_of(name: str) -> str:
    """`candles` for pipeline.candles.store, `v7` for generations.v7.inference, else the file."""
    return name.split(".")[1] if name.count(".") else name


def is_of(name: str, package: str) -> bool:
    return name.startswith(f"{package}.")


def allowed(name: str, other: str) -> bool:
    """Whether a module may import another one."""
    if other in DOCUMENT_NAMES.get(name, set()):
        return True
    if is_of(name, "models") or name in ("config", "models"):
        return is_of(other, "models")
    if name == "pipeline.training.recipes" and other == "models.average":
        return True  # an ensemble is built from networks that are trained already
    if is_of(name, "pipeline"):
        rooms = [*PIPELINE]
        is_above = is_of(other, "pipeline") and rooms.index(room_of(other)) <= rooms.index(
            room_of(name)
        )
        return is_above or other == "config"
    if other in TRAINING_SCRIPTS:
        # The command `retrain` of a predictor runs the script that makes such bundles.
        return name == "demo" or (name, other) == ("inference_v2", "train_v2_production")
    if name in FACES:
        return other == "config" or is_of(other, "pipeline") or other in FACES[: FACES.index(name)]
    if is_of(name, "generations"):
        is_own = is_of(other, "generations") and room_of(other) == room_of(name)
        is_elsewhere = is_of(other, "generations") and not is_own
        return not is_elsewhere and other not in SCRIPTS
    return True


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_module_imports_only_what_stands_before_it(name):
    assert {other for other in imports_of(name) if not allowed(name, other)} == set()


RUN_BY = {"inference_v2": frozenset({"train_v2_production"})}
"""A face and the script that its command runs, which imports that face."""


def test_no_module_imports_in_a_circle():
    seen: dict[str, bool] = {}

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name not in seen:
            for other in imports_of(name) - RUN_BY.get(name, frozenset()):
                visit(other, (*way, name))
            seen[name] = True

    for name in FILES:
        visit(name, ())


def test_the_pipeline_holds_nothing_that_a_single_generation_uses():
    for name in FILES:
        if not is_of(name, "pipeline") or FILES[name].name == "__init__.py":
            continue
        users = {
            room_of(other) if is_of(other, "generations") else "others"
            for other in FILES
            if name in imports_of(other)
        }
        assert not (len(users) == 1 and users <= set(GENERATIONS)), f"{name}: only {users}"


def test_no_module_of_the_pipeline_knows_a_generation_by_its_name():
    for name, path in FILES.items():
        if is_of(name, "pipeline") and name != "pipeline.report.model_card":
            assert not re.search(r"\bgenerations\.v\d", path.read_text()), name


def test_networks_and_fit_loop_use_keras_alone_so_that_any_backend_runs_them():
    for name, path in FILES.items():
        if is_of(name, "models") or is_of(name, "pipeline"):
            roots = {module.split(".")[0] for module in imported_modules(path)}
            assert "tensorflow" not in roots, name


def test_every_python_file_belongs_to_a_known_room():
    known = {"config", "models", "pipeline", "generations", *FACES, *SCRIPTS}
    known |= {"tests", "benchmarks", "docs", "integrations", "notebooks"}
    known |= {"v1"}  # the v2 guide's names
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert room in known or room.startswith("."), f"{room}: add it to docs/house.md and here"
    assert {room_of(name) for name in FILES if is_of(name, "pipeline")} <= set(PIPELINE)
    assert {room_of(name) for name in FILES if is_of(name, "generations")} <= set(GENERATIONS)


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


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
    loaded = run_python(
        f"import sys, {predictor}; print([m for m in {heavy!r} if m in sys.modules])"
    )
    assert loaded.strip() == "[]"


def test_importing_the_page_loads_neither_gradio_nor_a_network_s_libraries():
    heavy = (
        "gradio",
        "tensorflow",
        "keras",
        "onnxruntime",
        "sklearn",
        "statsmodels",
        "matplotlib",
        "tyro",
    )
    assert (
        run_python(f"import sys, app; print([m for m in {heavy!r} if m in sys.modules])").strip()
        == "[]"
    )


@pytest.mark.slow
@pytest.mark.parametrize("script", TRAINING_SCRIPTS)
def test_importing_a_training_script_trains_nothing_and_configures_no_logging(script):
    code = f"""
import logging, os, sys
before = set(os.listdir())
import {script}
made = set(os.listdir()) - before - {{"__pycache__"}}
print(logging.getLogger().handlers, made, "keras" in sys.modules)
"""
    assert run_python(code).strip() == "[] set() False"
