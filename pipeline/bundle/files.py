"""The files of a training run: written aside, moved at the end, so that a kill loses nothing.

A bundle is complete exactly when its metadata is there and the hashes in it hold. Everything is
written to `<output-dir>/.partial/`; a kill before the moves leaves the old bundle as it was, one
between them is completed by `finish_moves` when the next run starts. Readers move nothing: they
find the new bundle in both places (`snapshot`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import atomic, privacy
from pipeline.bundle import origin
from pipeline.bundle.metadata import read_json
from pipeline.bundle.scalers import save_scalers
from pipeline.samples.probe import changed_feature

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
KERAS_SUFFIX = ".keras"
"""Beside a network's .h5 file: the same network in Keras' own format."""
TWIN_SUFFIX = ".onnx"
"""Beside it likewise: the same network for onnxruntime."""
RUN_FILE = "run.json"
PATIENCE_S = 5.0
"""How long a writer waits for files to be moved; a run moves them in milliseconds."""


def forms_of(model: str) -> tuple[str, ...]:
    """The names of a network's files: .h5, Keras' own format, and the ONNX twin.

    Example:
        >>> forms_of("network.h5")
        ('network.h5', 'network.keras', 'network.onnx')
    """
    return tuple(
        Path(model).with_suffix(suffix).name for suffix in (".h5", KERAS_SUFFIX, TWIN_SUFFIX)
    )


@dataclasses.dataclass(frozen=True)
class BundleFiles:
    """Names of a generation's files."""

    model: str
    checkpoint: str
    scalers: str
    metrics: str
    predictions: str
    report: str
    log: str
    metadata: str
    extra: tuple[str, ...] = ()
    """further files of the generation"""
    recalibration: str = ""
    """of a later calibration, which no training run writes; "" where the generation has none"""
    judged_model: str = ""
    """the network that was judged, where another one is served that has learnt the test part too;
    "" where the generation has no such thing"""
    judged_scalers: str = ""
    """the scaler file that belongs to it"""

    @property
    def hashed(self) -> tuple[str, ...]:
        """All whose hashes the metadata holds; the log still grows."""
        return (
            self.model,
            self.checkpoint,
            self.scalers,
            self.metrics,
            self.predictions,
            self.report,
            *self.extra,
        )

    @property
    def served(self) -> tuple[str, ...]:
        """All that a forecast takes."""
        return (self.model, self.scalers, *self.extra)

    @property
    def twin(self) -> str:
        """The network's ONNX twin, which not every bundle has."""
        return Path(self.model).with_suffix(TWIN_SUFFIX).name

    @property
    def optional(self) -> tuple[str, ...]:
        """The twin, the networks in Keras' own format, and the judged network beside a served one.

        Not every bundle has them.
        """
        networks = [name for name in self.hashed if name.endswith(".h5")]
        in_keras = (Path(name).with_suffix(KERAS_SUFFIX).name for name in networks)
        return (self.twin, *in_keras, *self.judged)

    @property
    def judged(self) -> tuple[str, ...]:
        """The judged network in all its forms, and its scaler file."""
        if not self.judged_model:
            return ()
        return (*forms_of(self.judged_model), self.judged_scalers)

    @property
    def bundle(self) -> tuple[str, ...]:
        """All but the metadata; what a run has not written is removed when it moves its files."""
        later = (self.recalibration,) if self.recalibration else ()
        return (*self.hashed, *self.optional, self.log, *later)


@contextlib.contextmanager
def new_bundle(output_dir: Path, metadata_name: str, bundle: Sequence[str]) -> Iterator[Path]:
    """Write a bundle into the folder `.partial`; it is moved into place when the block ends well.

    Other runs are kept out of the output folder meanwhile. Moves that a kill interrupted are
    completed first.

    Args:
        output_dir: Folder of the bundle; made if it is not there.
        metadata_name: File name of the metadata, which `write_metadata` writes last.
        bundle: Names of the bundle's other files.

    Yields:
        The folder `.partial`, with what an interrupted run left in it.

    Raises:
        ValueError: The folder cannot be written, another run is using it, `.partial` or something
            in it is a link, or the block left no complete bundle.
    """
    partial = output_dir / PARTIAL
    atomic.refuse_link(partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{output_dir}: the output directory cannot be written ({error.strerror}); choose "
            "another --output-dir"
        ) from error
    with atomic.locked(partial, wait_s=0.0):
        for path in partial.iterdir():
            atomic.refuse_link(path)  # what is written or moved there would be somebody else's
        finish_moves(output_dir, metadata_name, bundle)
        partial.mkdir(exist_ok=True)
        yield partial
        if not finish_moves(output_dir, metadata_name, bundle):
            raise ValueError(
                f"{partial}: its files changed while the bundle was written; run the script again"
            )


@contextlib.contextmanager
def unmoved(output_dir: Path) -> Iterator[None]:
    """Keep a bundle from being replaced until the block ends.

    Raises:
        ValueError: A run is at work in the folder.
    """
    partial = output_dir / PARTIAL
    atomic.refuse_link(partial)
    with atomic.locked(partial, wait_s=PATIENCE_S):
        yield


def interrupted_run(
    partial: Path, settings: Mapping[str, Any], metadata_name: str, code: Mapping[str, Any] = {}
) -> dict[str, Any] | None:
    """What an interrupted run had stored, for --resume; None if there is nothing to resume.

    Args:
        partial: The folder of `new_bundle`.
        settings: The run's config, plain.
        metadata_name: File name of the metadata.
        code: "features_probe" of this code and its "commit".

    Raises:
        ValueError: There is a complete bundle and nothing to resume, the interrupted run's settings
            differ from `settings` (the first one is named), its code computed features otherwise,
            or what it left is damaged.
    """
    path = partial / RUN_FILE
    if not path.is_file():
        if (partial.parent / metadata_name).is_file():
            raise ValueError(
                f"--resume: there is nothing to resume in {partial.parent}, its bundle is "
                "complete; leave --resume out to train again"
            )
        logger.info("nothing to resume; a fresh run begins")
        return None
    try:
        left = read_json(path)
        before, stored = dict(left["settings"]), dict(left["stored"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--resume: {path} is damaged ({error!r}); leave --resume out to start afresh"
        ) from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(
                f"--resume: {name} is {value!r} now and was {before.get(name)!r} in the "
                f"interrupted run in {partial}; use the same settings, or leave --resume out to "
                "start afresh"
            )
    probe = code.get("features_probe", {})
    changed = changed_feature(left.get("features_probe"), probe, probe)
    if changed is not None:
        raise ValueError(
            f"--resume: this version of the code computes the feature {changed} in another way "
            f"than the one that began the interrupted run in {partial}; use that version, or leave "
            "--resume out to start afresh"
        )
    if left.get("commit") != code.get("commit"):
        text = "the interrupted run was begun by other code (commit %s) than this (commit %s)"
        logger.warning(text, left.get("commit"), code.get("commit"))
    return stored


def demand_same_candles(
    interrupted: Mapping[str, Any] | None, fingerprint: Mapping[str, Any]
) -> None:
    """Refuse to resume a run on other candles than it had; a fresh run has None to compare."""
    if interrupted and fingerprint != interrupted:
        raise ValueError(
            "--resume: the candles are not those of the interrupted run (their hashes differ); "
            "leave --resume out"
        )


def refuse_to_replace_real(partial: Path, metadata_name: str) -> None:
    """Refuse synthetic candles where a bundle, or an interrupted run, has real ones.

    Raises:
        ValueError: The output folder holds such a bundle, or its `.partial` such a run.
    """
    output_dir = partial.parent
    bundle = _read_json(output_dir / metadata_name)
    networks = [bundle, *_mapping(bundle.get("jobs")).values()]
    if any(_mapping(network).get("synthetic") is False for network in networks):
        what = "bundle"
    elif _read_json(partial / RUN_FILE).get("synthetic") is False:
        what = "interrupted run"
    else:
        return
    raise ValueError(
        f"{output_dir}: the {what} there has real candles, and these are synthetic; choose another "
        "--output-dir, pass real candles (--candles-dir DIR), or replace it with --force"
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    """Content of a file; empty where there is none, or none that can be read."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return {}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def begin_run(
    partial: Path,
    settings: Mapping[str, Any],
    stored: Mapping[str, Any],
    log_name: str,
    *,
    log_start: int = 0,
    is_synthetic: bool | None = None,
    code: Mapping[str, Any] = {},
) -> None:
    """Begin a fresh run: remove what another one left, and note how to recognise this one.

    Args:
        partial: The folder of `new_bundle`.
        settings: The run's config, plain.
        stored: What the run needs to fetch the same candles again.
        log_name: File name of the run's log.
        log_start: Bytes at the beginning of the log that are another run's.
        is_synthetic: Whether the candles were made up.
        code: See `interrupted_run`.
    """
    if (partial / RUN_FILE).is_file():
        logger.warning("an interrupted run is discarded; --resume would have gone on with it")
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != log_name:
            path.unlink()
        elif log_start:
            path.write_bytes(path.read_bytes()[log_start:])
    noted = {"settings": dict(settings), "stored": dict(stored), "synthetic": is_synthetic}
    noted |= code
    write_json(partial / RUN_FILE, noted)


@dataclasses.dataclass(frozen=True)
class BundleContent:
    """What a run writes beside its network."""

    settings: Mapping[str, Any]
    """the run's config, plain"""
    facts: Mapping[str, Any]
    """what serving must know and people want to: for the scaler file and the metadata"""
    served: Mapping[str, Any]
    """the scaler file's other content: scalers, calibration, intervals"""
    reference: Mapping[str, Any]
    """what forecasts of later candles are judged by, for the metadata"""
    history: Mapping[str, Any]
    """losses and step sizes by epoch"""
    metrics: Mapping[str, Any]
    """content of the metrics file: "data", "split", "cuts" and "test" at least"""
    predictions: pd.DataFrame
    """a row a sample of the test part"""
    page: str
    """the report, HTML"""
    run: Mapping[str, Any]
    """`origin.run_facts`"""


def save_run(folder: Path, names: BundleFiles, content: BundleContent) -> None:
    """Write the files beside the network; the metadata last, with the hashes of all the others.

    Args:
        folder: The folder of `new_bundle`, which holds the network, its checkpoint and the log.
        names: What the files are called.
        content: What goes into them.
    """
    metrics = content.metrics
    facts = {**content.facts, "synthetic": metrics["data"]["synthetic"]}
    cuts = dict(metrics["cuts"])
    scalers = {**content.served, **facts, "cuts": cuts}
    trained_until = cuts["val_end"]  # of network, shrinkage and intervals
    both = {}
    if names.judged_model and (folder / names.judged_model).is_file():
        judged = {**scalers, **_identity(folder / names.judged_model)}
        save_scalers(judged, folder / names.judged_scalers)
        both = {
            "judged": {"model": names.judged_model, "trained_until": trained_until},
            "served": {"model": names.model, "trained_until": cuts["test_end"]},
        }
        trained_until = cuts["test_end"]
        scalers["trained_until"] = trained_until
    save_scalers({**scalers, **_identity(folder / names.model)}, folder / names.scalers)
    write_json(folder / names.metrics, metrics)
    content.predictions.to_parquet(folder / names.predictions, index=False)
    (folder / names.report).write_text(content.page, encoding="utf-8")
    metadata = {
        **facts,
        "trained_until": trained_until,
        **both,
        "verdict": metrics["test"]["verdict"],
        "config": content.settings,
        **{name: metrics[name] for name in ("data", "split", "cuts")},
        **content.reference,
        "history": content.history,
        "run": content.run,
        "environment": origin.environment(),
    }
    hashed = [*names.hashed, *(n for n in names.optional if (folder / n).is_file())]
    write_metadata(folder / names.metadata, metadata, hashed=hashed, unhashed=(names.log,))


def _identity(model: Path) -> dict[str, str]:
    """What a scaler file says of the network that it belongs to."""
    identity = {"model_sha256": sha256_of(model)}
    twin = model.with_suffix(TWIN_SUFFIX)
    if twin.is_file():
        identity["twin_sha256"] = sha256_of(twin)
    return identity


def write_metadata(
    path: Path, metadata: Mapping[str, Any], *, hashed: Sequence[str], unhashed: Sequence[str] = ()
) -> None:
    """Complete the bundle in `.partial`: metadata with the sha256 of the other files.

    Args:
        path: The metadata file, in `.partial`.
        metadata: Plain data.
        hashed: Names of files beside it; their hashes become the key "files".
        unhashed: Names that move along without a hash (the log, which still grows).
    """
    hashes = {name: sha256_of(path.with_name(name)) for name in hashed}
    write_json(path, {**metadata, "files": hashes, "unhashed_files": list(unhashed)})


def finish_moves(output_dir: Path, metadata_name: str, allowed: Sequence[str]) -> bool:
    """Move a complete `.partial` bundle into place; only for the run that holds the folder.

    Args:
        output_dir: Folder of the bundle.
        metadata_name: File name of the metadata.
        allowed: The only names that are moved; a folder from a stranger must not choose what it
            overwrites.

    Returns:
        Whether there was one. A `.partial` without metadata, with other names or other hashes is
        left alone.
    """
    partial = output_dir / PARTIAL
    try:
        metadata = read_json(partial / metadata_name)
        hashes, unhashed = dict(metadata["files"]), list(metadata["unhashed_files"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # none, or none that this module wrote: it writes atomically
        return False
    if not set(allowed) >= {*hashes, *unhashed}:
        return False
    for name, expected in hashes.items():
        # a file is either still aside or already moved; its bytes say which
        if not any(
            p.is_file() and sha256_of(p) == expected for p in (partial / name, output_dir / name)
        ):
            return False
    for name in [*hashes, *unhashed]:
        if (partial / name).is_file():
            os.replace(partial / name, output_dir / name)
    for name in set(allowed) - {
        *hashes,
        *unhashed,
    }:  # of the bundle before, such as a twin that this one lacks
        (output_dir / name).unlink(missing_ok=True)
    os.replace(partial / metadata_name, output_dir / metadata_name)
    shutil.rmtree(partial, ignore_errors=True)
    return True


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically; what is not finite becomes null (`plain`)."""
    text = json.dumps(plain(content), indent=2, allow_nan=False) + "\n"
    with atomic.replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def settings_of(config: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    """A frozen config dataclass as plain data, without passwords; of folders the last part."""
    settings = {}
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, Path):
            value = privacy.folder_name(value)
        elif isinstance(value, str):
            value = privacy.without_secrets(value)
        settings[name] = plain(value)
    return {name: value for name, value in settings.items() if name not in leave_out}


def plain(value: Any) -> Any:
    """Plain data for JSON: text for paths, Python's numbers for numpy's, None for NaN.

    JSON has neither NaN nor infinities. A metric that cannot be computed is None by the
    evaluation's own contract; this is the last net, so that one that slipped through never costs a
    finished training.

    Raises:
        TypeError: A value is of another kind.

    Example:
        >>> plain({"r2": float("nan"), "seeds": (1, 2), "folder": Path("models")})
        {'r2': None, 'seeds': [1, 2], 'folder': 'models'}
    """
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"{type(value).__name__} is no plain value")
