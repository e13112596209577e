"""Where a run comes from: when it began, by which command, and with which code and libraries."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline import privacy, terminal
from pipeline.options import PROJECT, script_words

LIBRARIES = (
    *("keras", "tensorflow", "jax", "torch", "h5py", "onnxruntime", "tf2onnx", "numpy", "scipy"),
    *("pandas", "pyarrow", "scikit-learn", "xgboost", "TA-Lib", "statsmodels", "arch", "ccxt"),
)
"""Those that a result depends on; others, such as matplotlib, change how it looks."""

FOLDERS = ("--output-dir", "--cache-dir")
"""Options whose values a bundle that is shared need not tell."""

GIT = "git -c core.fsmonitor=false --no-optional-locks status --porcelain=v2 --branch"
GIT_WAIT_S = 5.0


def run_facts() -> dict[str, Any]:
    """What is known of a run when it begins, as plain data."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(),
        "version": _version(),
        **commit_of(PROJECT),
    }


def command_line() -> str | None:
    """The command that this process runs, for a shell; None in a notebook, a test or a program.

    As with the settings, it tells neither where a bundle goes nor where candles are kept; of other
    folders it tells the last part.
    """
    if not terminal.one_line_errors.is_open:
        return None
    words = _without_folders([*script_words(), *sys.argv[1:]])
    return privacy.without_secrets(shlex.join(["python", *words]))


def _without_folders(words: Sequence[str]) -> list[str]:
    """The words of a command: DIR for folders that change no result, the last part of others."""
    told: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if told and told[-1].replace("_", "-") in FOLDERS:
            told.append("DIR")
        elif equals and name.replace("_", "-") in FOLDERS:
            told += [name, "DIR"]
        elif os.path.isabs(value):
            told.append(f"{name}={privacy.folder_name(value)}")
        else:
            told.append(privacy.folder_name(word) if os.path.isabs(word) else word)
    return told


def commit_of(folder: Path) -> dict[str, Any]:
    """The commit of a checkout, and whether its files have changed since ("dirty").

    Both are None where the folder itself is no checkout, or git is missing, slow or refuses.
    """
    unknown = {"commit": None, "dirty": None}
    if not (folder / ".git").exists():  # a repository further up is somebody else's
        return unknown
    surroundings = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    try:
        told = subprocess.run(
            [*GIT.split(), "--untracked-files=no"],
            cwd=folder,
            env=surroundings | {"GIT_CEILING_DIRECTORIES": str(folder.parent)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=GIT_WAIT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return unknown
    commit = re.search(r"^# branch\.oid ([0-9a-f]{40,})$", told, re.MULTILINE)
    is_dirty = any(not line.startswith("# ") for line in told.splitlines())
    return {"commit": commit[1], "dirty": is_dirty} if commit else unknown


def environment() -> dict[str, str]:
    """Versions of Python and the libraries a result depends on, and the backend of Keras."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    keras = sys.modules.get("keras")  # which is loaded where a network was trained
    return versions if keras is None else versions | {"keras backend": keras.backend.backend()}


def _version() -> str | None:
    """The version of this project."""
    try:
        text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    except OSError:  # an installed package has its version elsewhere
        return _installed_version()
    found = re.search(r'^version = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else None


def _installed_version() -> str | None:
    try:
        return importlib.metadata.version("crypto-system")
    except importlib.metadata.PackageNotFoundError:
        return None
