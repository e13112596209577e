"""The networks of a v7 folder: their files, from the first epoch to their place, and their records.

A network is trained in a folder of its own below `.partial`. What it leaves there is moved into the
output folder at its end, the file that makes it complete last. A kill before the moves loses that
network alone; one between them is completed by `finish_network` when the next run starts, and
predictors find the network in both places. Its record is in its scaler file; metadata_v7.json
collects them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import atomic, privacy
from pipeline.bundle import files, origin
from pipeline.bundle.metadata import read_json, read_metadata
from pipeline.bundle.scalers import load_scalers, save_scalers
from pipeline.candles import store
from pipeline.candles.schema import TIMEFRAME_MS

logger = logging.getLogger(__name__)

METADATA = "metadata_v7.json"
METRICS = "metrics_v7.json"
LOG = "training_log_v7.txt"
PREDICTIONS, REPORT = "predictions_v7_{}.parquet", "report_v7_{}.html"
"""A file for each timeframe."""

RUN_FILES = (
    METRICS,
    LOG,
    *(name.format(timeframe) for name in (PREDICTIONS, REPORT) for timeframe in TIMEFRAME_MS),
)
"""All that a run may leave beside the networks and its metadata."""

MODEL_SUFFIX, SCALER_SUFFIX = "_v7.h5", "_v7_scalers.pkl"
KERAS_SUFFIX = "_v7" + files.KERAS_SUFFIX
NETWORK_PREDICTIONS = "predictions.parquet"
"""Predictions of one network, in its folder below .partial, until the run ends."""

Record = dict[str, Any]
"""What is known of a network, as plain data.

"facts" (settings and hash of the candles, which make it the same network), the facts of its
samples, "n", "heads", "verdict" and "verdicts" (its scores), "data", "split", "cuts", "history",
"baseline_settings", "predictions_sha256"; of one that is in place also "files", name -> sha256."""


def network_name(symbol: str, timeframe: str) -> str:
    """What the files of a network are called by.

    Example:
        >>> network_name("BTC/USDT", "1h")
        'BTCUSDT_1h'
    """
    return store.file_name(symbol, timeframe, "")


def network_files(name: str) -> tuple[str, str]:
    """The two files that forecast; the scaler file makes the network complete."""
    return name + MODEL_SUFFIX, name + SCALER_SUFFIX


def all_files(name: str) -> tuple[str, str, str]:
    """All files of a network, the scaler file last; older networks lack the second one."""
    return name + MODEL_SUFFIX, name + KERAS_SUFFIX, name + SCALER_SUFFIX


def networks_in(folder: Path) -> list[str]:
    """Names of the networks that a folder holds."""
    return sorted(path.name.removesuffix(MODEL_SUFFIX) for path in folder.glob(f"*{MODEL_SUFFIX}"))


# --- files of a network in hand


def work_folder(partial: Path, name: str, facts: Mapping[str, Any]) -> Path:
    """Folder for a network in hand; kept if a run that was cut off had begun the very same one.

    Args:
        partial: Folder of the folders.
        name: Name of the network.
        facts: What makes it the same: settings and hash of the candles, as plain data.
    """
    work = partial / name
    wanted = files.plain(facts)
    left = None
    with contextlib.suppress(OSError, ValueError):  # none, or none that can be read
        left = read_json(work / files.RUN_FILE)
    if left != wanted:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        files.write_json(work / files.RUN_FILE, wanted)
    return work


def finish_network(work: Path, output_dir: Path, names: Sequence[str]) -> bool:
    """Move a network's files into place if it is complete: if the last of `names` is there.

    Only for the run that holds the output folder.

    Args:
        work: Folder of the network in hand.
        output_dir: Where the files belong.
        names: Names of the files, the one that was written last at the end.

    Returns:
        Whether there was anything to move.
    """
    if not (work / names[-1]).is_file():
        return False
    for name in names:
        # moved before a kill
        with contextlib.suppress(FileNotFoundError):
            os.replace(work / name, output_dir / name)
    atomic.flush(output_dir)
    return True


def save_network(work: Path, output_dir: Path, name: str, content: Mapping[str, Any]) -> None:
    """Write a network's scaler file beside the network, and move all into place.

    Args:
        work: Folder of the network in hand, with its .h5 file.
        output_dir: Where the files belong.
        name: Name of the network.
        content: Content of the scaler file but for the network's sha256.
    """
    model, _, scalers = names = all_files(name)
    whole = {**content, "model_sha256": files.sha256_of(work / model)}
    with atomic.replacing(work / scalers) as unfinished:  # it makes the network complete
        save_scalers(whole, unfinished)
    finish_network(work, output_dir, names)


# --- records


@dataclass
class Grid:
    """The networks of a folder, and who has none; metadata_v7.json says the same."""

    output_dir: Path
    records: dict[str, Record]
    """name -> record of each network in place"""
    settings: Mapping[str, Any] | None = None
    """settings of the run under way, plain; None before there is one"""
    skipped: dict[str, str] = field(default_factory=dict)
    """name -> why the run has no such network"""
    run: Mapping[str, Any] = field(default_factory=dict)
    """`origin.run_facts` of the run under way"""

    def add(self, name: str, record: Record) -> None:
        """Take in a network whose files are in place."""
        paths = [self.output_dir / file for file in all_files(name)]
        hashes = {path.name: files.sha256_of(path) for path in paths if path.is_file()}
        self.records[name] = {**record, "files": hashes}

    def is_finished(self, name: str, facts: Mapping[str, Any]) -> bool:
        """Whether the run that is resumed has trained this network; its predictions must be left.

        Args:
            name: Name of the network.
            facts: See `work_folder`.
        """
        record = self.records.get(name)
        if record is None or record["facts"] != files.plain(facts):
            return False
        left = self.output_dir / files.PARTIAL / name / NETWORK_PREDICTIONS
        return left.is_file() and files.sha256_of(left) == record["predictions_sha256"]

    def metadata(self) -> dict[str, Any]:
        """Content of metadata_v7.json: what is said of the run, then of each network."""
        run: dict[str, Any] = {}
        if self.settings is not None:
            run = {
                "config": self.settings,
                "skipped": _without_places(self.skipped),
                "run": self.run,
            }
        return {
            "generation": "v7",
            **run,
            "environment": origin.environment(),
            "jobs": dict(sorted(self.records.items())),
        }

    def write_metadata(self) -> None:
        """Write metadata_v7.json, whole or not at all; the run's own files are not in it yet."""
        content = {**self.metadata(), "files": {}, "unhashed_files": []}
        files.write_json(self.output_dir / METADATA, content)


def _without_places(reasons: Mapping[str, str]) -> dict[str, str]:
    """Why networks are missing, as it may be published."""
    return {
        name: privacy.without_folders(privacy.without_secrets(why)) for name, why in reasons.items()
    }


def open_grid(output_dir: Path) -> Grid:
    """The networks in a folder.

    Moves that a kill interrupted are completed first. A network whose two files do not belong
    together is left out, with a notice. Where metadata_v7.json is missing or damaged it is written
    again.
    """
    for work in sorted((output_dir / files.PARTIAL).iterdir()):
        if work.is_dir():
            finish_network(work, output_dir, all_files(work.name))
    grid = Grid(output_dir, {})
    for path in sorted(output_dir.glob(f"*{SCALER_SUFFIX}")):
        name = path.name.removesuffix(SCALER_SUFFIX)
        try:
            grid.add(name, _read_record(output_dir, name))
        except ValueError as error:
            logger.warning("%s is left out of %s: %s", name, METADATA, error)
    state = _state_of_metadata(output_dir / METADATA)
    if grid.records and state != "sound":
        again = f"it is written again from {len(grid.records)} scaler files"
        logger.warning("%s is %s; %s", METADATA, state, again)
        grid.write_metadata()
    return grid


def _read_record(output_dir: Path, name: str) -> Record:
    """The record in a scaler file; a ValueError if the network's two files are not sound."""
    model, scalers = (output_dir / file for file in network_files(name))
    stored = load_scalers(scalers)
    record = stored.get("record")
    if not isinstance(record, dict) or "facts" not in record:
        raise ValueError(f"{scalers} holds no record of a network; train it again")
    if not model.is_file() or files.sha256_of(model) != stored.get("model_sha256"):
        raise ValueError(
            f"{model} is missing or not the network that {scalers.name} was saved with; train it "
            "again"
        )
    return record


def _state_of_metadata(path: Path) -> str:
    if not path.is_file():
        return "missing"
    with contextlib.suppress(OSError, ValueError):
        if "jobs" in read_metadata(path):
            return "sound"
    return "damaged"
