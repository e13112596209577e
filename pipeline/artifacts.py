"""The bundle of a training run: written aside, moved at the end, metadata last, so that a kill loses nothing.

A bundle is complete exactly when its metadata is there and the hashes in it hold. Everything is written to
`<output-dir>/.partial/`; a kill before the moves leaves the old bundle as it was, one between them is completed by
`finish_moves` at the next start.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PARTIAL = ".partial"
RUN_FILE = "run.json"
LIBRARIES = ("keras", "tensorflow", "numpy", "pandas", "scikit-learn", "xgboost", "TA-Lib", "statsmodels", "ccxt")


def open_partial(
    output_dir: Path, settings: Mapping[str, Any], metadata_name: str, *, resume: bool
) -> tuple[Path, dict[str, Any] | None]:
    """Prepare `<output-dir>/.partial/` for a run.

    Moves that a kill interrupted are completed first. What else an interrupted run left is kept if `resume` is set, and
    removed if not.

    Args:
        output_dir: Folder of the bundle; made if it is not there.
        settings: What the run is defined by; stored, and compared on resumption.
        metadata_name: File name of the bundle's metadata.
        resume: Go on with what an interrupted run left.

    Returns:
        The folder, and what the interrupted run had stored beside its settings (None for a fresh run).

    Raises:
        ValueError: The folder cannot be written, or the settings differ from those of the interrupted run (named).
    """
    partial = output_dir / PARTIAL
    try:
        partial.mkdir(parents=True, exist_ok=True)
        probe = partial / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{output_dir}: the output directory cannot be written ({error.strerror}); choose another --output-dir"
        ) from error
    finish_moves(output_dir, metadata_name)
    run_path = partial / RUN_FILE
    if resume and run_path.is_file():
        left = json.loads(run_path.read_text())
        changed = [name for name in settings if settings[name] != left["settings"].get(name)]
        if changed:
            name = changed[0]
            raise ValueError(
                f"--resume: {name} is {settings[name]!r} now and was {left['settings'].get(name)!r} in the interrupted "
                f"run in {partial}; use the same settings, or leave --resume out to start afresh"
            )
        return partial, left["stored"]
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(exist_ok=True)
    store_run(partial, settings, {})
    return partial, None


def store_run(partial: Path, settings: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Write what an interrupted run is recognised by, atomically."""
    write_json(partial / RUN_FILE, {"settings": dict(settings), "stored": dict(stored)})


def write_metadata(
    path: Path, metadata: Mapping[str, Any], *, hashed: Sequence[str], unhashed: Sequence[str] = ()
) -> None:
    """Complete the bundle in `.partial`: the metadata with the sha256 of the files beside it, written last.

    Args:
        path: The metadata file, in `.partial`.
        metadata: Plain data.
        hashed: Names of files beside it; their hashes become the key "files".
        unhashed: Names that move along without a hash (the log, which still grows).
    """
    hashes = {name: sha256_of(path.with_name(name)) for name in hashed}
    write_json(path, {**metadata, "files": hashes, "unhashed_files": list(unhashed)})


def finish_moves(output_dir: Path, metadata_name: str) -> bool:
    """Move a complete `.partial` bundle into place; safe to call at any time, by any command that opens the folder.

    Returns:
        Whether there was one. A `.partial` without metadata, or whose hashes do not hold, is left alone.
    """
    partial = output_dir / PARTIAL
    metadata_path = partial / metadata_name
    try:
        metadata = json.loads(metadata_path.read_text())
    except (FileNotFoundError, ValueError):  # no metadata, or none that this module wrote: it writes atomically
        return False
    for name, expected in metadata["files"].items():
        # a file is either still aside or already moved; its bytes say which
        if not any(p.is_file() and sha256_of(p) == expected for p in (partial / name, output_dir / name)):
            return False
    for name in [*metadata["files"], *metadata["unhashed_files"]]:
        if (partial / name).is_file():
            os.replace(partial / name, output_dir / name)
    os.replace(metadata_path, output_dir / metadata_name)
    shutil.rmtree(partial, ignore_errors=True)
    return True


def check_hashes(paths: Sequence[Path], metadata_path: Path) -> None:
    """Check files against the metadata beside them; no metadata, no check.

    Raises:
        ValueError: A file's bytes are not those of the training run.
    """
    if not metadata_path.is_file():
        return
    try:
        hashes = json.loads(metadata_path.read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{metadata_path}: not readable as metadata ({error}); copy the bundle again") from error
    for path in paths:
        if path.name in hashes and path.is_file() and sha256_of(path) != hashes[path.name]:
            raise ValueError(
                f"{path}: its bytes are not those that {metadata_path.name} names (sha256 {hashes[path.name][:12]}…); "
                "it was changed or half copied, or a training run was cut off while moving: copy the bundle again or "
                "run the training script once more"
            )


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; NaN and infinities are refused, since no other reader would take them."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(json.dumps(content, indent=2, allow_nan=False, default=_plain) + "\n", encoding="utf-8")
    os.replace(unfinished, path)


def environment() -> dict[str, str]:
    """Versions of Python and the libraries a result depends on."""
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def settings_of(config: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """A frozen config dataclass as plain data."""
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=_plain))
    return {name: value for name, value in plain.items() if name not in leave_out}


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value")
