"""Records of the networks in a v7 folder: each is in its network's scaler file, metadata_v7.json
collects them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generations.v7.inference import METADATA, SCALER_SUFFIX, job_files
from generations.v7.network_files import finish_job
from pipeline.bundle import files
from pipeline.bundle.scalers import load_scalers

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.parquet"
"""of one network, in its folder below .partial, until the run ends"""


def open_records(output_dir: Path) -> dict[str, dict[str, Any]]:
    """Records of all the networks in a folder, by their names; a missing or damaged
    metadata_v7.json is written again.

    Moves that a kill interrupted are completed first. A network whose two files do not belong
    together is left out, with a notice.
    """
    partial = output_dir / files.PARTIAL
    for work in sorted(path for path in partial.iterdir() if path.is_dir()):
        finish_job(work, output_dir, job_files(work.name))
    records = {}
    for path in sorted(output_dir.glob(f"*{SCALER_SUFFIX}")):
        name = path.name.removesuffix(SCALER_SUFFIX)
        try:
            records[name] = _read_record(output_dir, name)
        except ValueError as error:
            logger.warning("%s is left out of %s: %s", name, METADATA, error)
    state = _state_of_metadata(output_dir / METADATA)
    if records and state:
        logger.warning(
            "%s is %s; it is written again from %d scaler files", METADATA, state, len(records)
        )
        write_metadata(output_dir, content(records))
    return records


def is_finished(record: Mapping[str, Any] | None, work: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a network was trained by the very run that is resumed, and its predictions are still
    there."""
    if record is None or record["facts"] != json.loads(json.dumps(facts)):
        return False
    predictions = work / PREDICTIONS_FILE
    return predictions.is_file() and files.sha256_of(predictions) == record["predictions_sha256"]


def content(records: Mapping[str, Mapping[str, Any]], **run: Any) -> dict[str, Any]:
    """Content of metadata_v7.json: what is said of the run, then of each network."""
    return {
        "generation": "v7",
        **run,
        "environment": files.environment(),
        "jobs": dict(sorted(records.items())),
    }


def write_metadata(output_dir: Path, metadata: Mapping[str, Any]) -> None:
    """Write metadata_v7.json, whole or not at all, while the run's own files are not there yet."""
    files.write_json(output_dir / METADATA, {**metadata, "files": {}, "unhashed_files": []})


def with_hashes(record: Mapping[str, Any], output_dir: Path, name: str) -> dict[str, Any]:
    """A network's record and the sha256 of its two files, which are in place."""
    return {
        **record,
        "files": {file: files.sha256_of(output_dir / file) for file in job_files(name)},
    }


def _read_record(output_dir: Path, name: str) -> dict[str, Any]:
    """The record in a scaler file; a ValueError if it is damaged, of another kind or not of the
    network beside it."""
    model, scalers = (output_dir / file for file in job_files(name))
    stored = load_scalers(scalers)
    record = stored.get("record")
    if not isinstance(record, dict) or "facts" not in record:
        raise ValueError(f"{scalers} holds no record of a network; train it again")
    if not model.is_file() or files.sha256_of(model) != stored.get("model_sha256"):
        raise ValueError(
            f"{model} is missing or not the network that {scalers.name} was saved with; train it "
            "again"
        )
    return with_hashes(record, output_dir, name)


def _state_of_metadata(path: Path) -> str:
    """ "missing", "damaged", or "" where it is sound."""
    if not path.is_file():
        return "missing"
    try:
        return (
            ""
            if isinstance(json.loads(path.read_text(encoding="utf-8")).get("jobs"), dict)
            else "damaged"
        )
    except (OSError, ValueError, AttributeError):
        return "damaged"
