"""A bundle says when, by which command and with which code it was made, and no secret."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pipeline import terminal
from pipeline.bundle import origin
from pipeline.bundle.files import settings_of
from tests.conftest import TINY


def git(folder, *words):
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(
        ["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with one commit."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("a = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def command(monkeypatch, *words):
    """What is told of a command of these words, as a script of ours is run."""
    monkeypatch.setattr(sys, "argv", list(words))
    with terminal.one_line_errors():
        return origin.command_line()


def test_a_command_is_told_as_a_shell_takes_it(monkeypatch):
    words = ("train_v2_production.py", "--candles-dir", "my candles", "--symbols", "BTC/USDT")
    told = "python train_v2_production.py --candles-dir 'my candles' --symbols BTC/USDT"
    assert command(monkeypatch, *words) == told


def test_a_module_is_told_by_its_name(monkeypatch):
    main = sys.modules["__main__"]
    spec = importlib.util.spec_from_file_location("generations.v1.train_v1", "/x/train_v1.py")
    monkeypatch.setattr(main, "__spec__", spec)
    told = "python -m generations.v1.train_v1 --epochs 3"
    assert command(monkeypatch, "/x/train_v1.py", "--epochs", "3") == told
    assert command(monkeypatch, "other.py") == "python other.py"


def test_without_a_command_none_is_told(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["a_notebook.py", "--secret"])
    assert origin.run_facts()["command"] is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--output-dir", "/mnt/a b/c", "--epochs", "3"], "--output-dir DIR --epochs 3"),
        (["--output_dir=/mnt/it's"], "--output_dir DIR"),
        (["--cache-dir=/mnt/x", "--resume"], "--cache-dir DIR --resume"),
        (["--base-url", "https://me:secret@host:1/x"], "--base-url https://host:1/x"),
        (["--candles-dir", str(Path.home() / "candles")], "--candles-dir candles"),
        (["--candles-dir", f"{Path.home()}s/x"], "--candles-dir x"),
        (["--candles-dir=/mnt/my candles"], "'--candles-dir=my candles'"),
        (["--candles-dir", "data/x"], "--candles-dir data/x"),
    ],
)
def test_a_command_tells_no_folder_of_its_maker_s_and_no_password(monkeypatch, words, told):
    assert command(monkeypatch, "train.py", *words) == f"python train.py {told}"


def test_a_script_is_told_by_its_name(monkeypatch):
    assert command(monkeypatch, str(Path.home() / "code" / "train.py")) == "python train.py"


def test_settings_tell_no_password_either_and_of_a_folder_its_name():
    config = replace(TINY, base_url="http://me:secret@localhost:8000", candles_dir=Path("/a/b c"))
    settings = settings_of(config)
    assert settings["base_url"] == "http://localhost:8000" and settings["candles_dir"] == "b c"


def test_a_run_that_begins_says_when_in_utc_and_the_version_of_the_project():
    facts = origin.run_facts()
    started = datetime.fromisoformat(facts["started"])
    assert started.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - started) < timedelta(minutes=1)
    assert f'version = "{facts["version"]}"' in (origin.PROJECT / "pyproject.toml").read_text()


def test_a_commit_is_told_with_whether_files_have_changed_since(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert origin.commit_of(checkout) == {"commit": commit, "dirty": False}
    (checkout / "candles.csv").write_text("a user's file, of which the repository knows nothing")
    assert origin.commit_of(checkout) == {"commit": commit, "dirty": False}
    (checkout / "code.py").write_text("a = 2\n")
    assert origin.commit_of(checkout) == {"commit": commit, "dirty": True}


def test_another_worktree_of_a_repository_is_a_checkout_too(checkout, tmp_path):
    git(checkout, "worktree", "add", "-q", str(tmp_path / "other"))
    told = origin.commit_of(tmp_path / "other")
    assert told == {"commit": git(checkout, "rev-parse", "HEAD"), "dirty": False}


def test_the_repository_of_somebody_else_around_the_project_is_not_asked(checkout, monkeypatch):
    inside = checkout / "crypto_system"
    inside.mkdir()
    unknown = {"commit": None, "dirty": None}
    assert origin.commit_of(inside) == unknown
    (inside / ".git").mkdir()  # no repository
    assert origin.commit_of(inside) == unknown
    monkeypatch.setenv("GIT_DIR", str(checkout / ".git"))
    assert origin.commit_of(inside) == unknown


def test_no_commit_is_told_without_one_without_git_and_where_git_hangs(
    tmp_path, checkout, monkeypatch
):
    unknown = {"commit": None, "dirty": None}
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    assert origin.commit_of(empty) == unknown
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(origin, "GIT_WAIT_S", 0.2)
    monkeypatch.setenv("PATH", f"{slow.parent}:/usr/bin:/bin")
    assert origin.commit_of(checkout) == unknown
    monkeypatch.setenv("PATH", str(empty))
    assert origin.commit_of(checkout) == unknown


def test_the_environment_names_every_library_that_is_installed():
    told = origin.environment()
    assert {"python", "keras", "numpy", "scipy", "arch", "pyarrow", "h5py"} <= set(told)
