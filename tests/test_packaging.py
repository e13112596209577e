"""An installed package holds all that the commands need, and works from any folder."""

import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.colab import read_requirements
from tests.test_imports import FILES, ROOT

TEMPLATES = ROOT / "pipeline" / "report" / "templates"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    """The wheel of a copy of the tree, since building leaves files behind."""
    copy = tmp_path_factory.mktemp("tree")
    for path in ROOT.glob("*"):
        if path.is_file() and path.suffix in (".py", ".toml", ".txt", ".md", ""):
            shutil.copy(path, copy)
    for folder in ("models", "pipeline", "generations"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=unwanted)
    code = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return zipfile.ZipFile(next(copy.glob("*.whl")))


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_template(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in FILES.values()} - {"setup.py"}
    templates = {path.relative_to(ROOT).as_posix() for path in TEMPLATES.iterdir()}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == modules | templates


@pytest.mark.slow
def test_the_wheel_asks_for_what_requirements_txt_names(wheel):
    name = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    told = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist")
    asked = {Requirement(text) for text in told}
    assert asked == set(read_requirements(ROOT / "requirements.txt"))


@pytest.mark.slow
def test_an_installed_copy_is_imported_and_run_from_another_folder(wheel, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    wheel.extractall(installed)
    elsewhere.mkdir()
    code = (
        "import train_v2_production; from data_fetcher import CryptodataFetcher; "
        "from inference_v2 import CryptoPricePredictorV2; from pipeline.bundle.origin import "
        "run_facts; from pipeline.report import page; print(inference_v2.__file__)"
    ).replace("print", "import inference_v2; print")
    for words in (["-c", code], ["-m", "inference_v2", "--help"]):
        done = subprocess.run(
            [sys.executable, *words],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
            check=True,
        )
        if words[0] == "-c":
            assert Path(done.stdout.strip()) == installed / "inference_v2.py"
        else:
            assert done.stdout.startswith("usage: python -m inference_v2 ")
    assert list(elsewhere.iterdir()) == []
