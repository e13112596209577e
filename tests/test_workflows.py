"""What runs elsewhere: GitHub's jobs, and whether an installation leaves Colab's packages alone."""

import re

import pytest
from packaging.version import Version

from tests import colab


def test_an_installation_replaces_nothing_that_colab_ships():
    assert (
        colab.replacements(colab.ROOT / "requirements.txt", colab.read_freeze(colab.FREEZE)) == []
    )


def test_what_is_optional_replaces_three_of_colab_s_packages_by_its_own_demand():
    optional = colab.ROOT / "requirements-optional.txt"
    found = colab.replacements(optional, colab.read_freeze(colab.FREEZE))
    asked = {replacement.name for replacement in found if replacement.by == optional.name}
    assert asked == {"gradio", "huggingface-hub", "yfinance"}  # docs/colab.md names them


def test_a_package_that_is_too_old_is_found_whoever_asks_for_a_newer_one(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("--only-binary x\nkeras>=99  # a comment\narch>=7\npandas\n")
    frozen = {"keras": Version("3.13.2"), "numpy": Version("1.0"), "pandas": Version("99.0")}
    keras, numpy = colab.replacements(file, frozen)
    assert (keras.name, keras.demanded, keras.by) == ("keras", ">=99", "requirements.txt")
    assert (numpy.name, numpy.version, numpy.by) == ("numpy", "1.0", "arch")
    assert str(keras) == "keras 3.13.2 would be replaced: requirements.txt asks for >=99"


def test_a_freeze_is_read_without_what_is_no_version(tmp_path):
    file = tmp_path / "freeze.txt"
    file.write_text(
        "# made by pip\nml_dtypes==0.5.4\ngoogle-colab @ "
        "file:///colab.tar.gz\ntorch==2.11.0+cu128\n"
    )
    assert colab.read_freeze(file) == {
        "ml-dtypes": Version("0.5.4"),
        "torch": Version("2.11.0+cu128"),
    }


def test_github_runs_ci_on_every_python_that_is_admitted():
    project = (colab.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    first, end = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    job = (colab.ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.findall(r'"3\.(\d+)"', job) == [str(minor) for minor in range(int(first), int(end))]
    assert "run: .ci/run" in job


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-optional.txt"])
def test_the_kept_freeze_names_what_our_requirements_touch(name):
    """Else the comparison would take a package of Colab's for one that it lacks."""
    frozen = colab.read_freeze(colab.FREEZE)
    lacking = {
        requirement.name.lower() for requirement in colab.read_requirements(colab.ROOT / name)
    } - set(frozen)
    assert lacking <= {
        "arch",
        "ccxt",
        "ta-lib",
        "tyro",
        "huggingface_hub",
        "onnxruntime",
        "ray",
        "tf2onnx",
        "trackio",
    }
