"""Opens the scaler file of a bundle: it must hold what serving needs and belong to its network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bundle import files
from pipeline.bundle.scalers import ScalerRecord, load_scalers

SCALER_TYPES: dict[str, type] = {
    "X": ScalerRecord,
    "y": ScalerRecord,
    "feature_cols": list,
    "lookback": int,
    "horizon": int,
    "timeframe": str,
    "symbols": list,
    "synthetic": bool,
    "calibration": dict,
    "intervals": dict,
    "model_sha256": str,
}
"""What a scaler file holds."""


def open_scalers(
    model_path: Path,
    scaler_path: Path,
    names: files.BundleFiles | None,
    types: Mapping[str, type] = SCALER_TYPES,
) -> dict[str, Any]:
    """Read a scaler file and make sure that it belongs to the model file beside it.

    Moves of the bundle that a kill interrupted are completed first.

    Args:
        model_path: The network's file.
        scaler_path: The scaler file.
        names: Names of the bundle's files; the metadata need not be there. None where a network
            and its scalers stand alone.
        types: Keys that the scaler file must hold, and of which type.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The scaler file is damaged, of another kind, or of another model; hashes do not
            hold.
    """
    if names is not None:
        files.finish_moves(model_path.parent, names.metadata, names.bundle)
        files.check_hashes([model_path, scaler_path], model_path.parent / names.metadata)
    for path, what in ((model_path, "model"), (scaler_path, "scaler")):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: there is no such {what} file; train a model or mend the path"
            )
    scalers = load_scalers(scaler_path)
    _check_types(scaler_path, scalers, types)
    if files.sha256_of(model_path) != scalers["model_sha256"]:
        raise ValueError(
            f"{scaler_path}: these scalers belong to another model than {model_path.name} (sha256 "
            "of the network differs); use the two files of one training run"
        )
    if scalers["synthetic"]:
        warnings.warn(
            f"{model_path.name} was trained on synthetic candles: what it forecasts says nothing "
            "about real prices",
            stacklevel=3,
        )
    return scalers


def _check_types(path: Path, scalers: dict[str, Any], types: Mapping[str, type]) -> None:
    for key, kind in types.items():
        if key not in scalers:
            raise ValueError(
                f"{path}: key {key!r} is missing; is it the scaler file of another generation?"
            )
        value = scalers[key]
        is_usable = type(value) is kind
        if is_usable and kind is int:
            is_usable = value >= 1  # a number of candles
        if not is_usable:
            raise ValueError(
                f"{path}: {key!r} is {value!r}, not a usable {kind.__name__}; train the model again"
            )
    twin_sha256 = scalers.get("twin_sha256")
    if not isinstance(twin_sha256, (str, type(None))):
        raise ValueError(
            f"{path}: 'twin_sha256' is {twin_sha256!r}, not a hash; train the model again"
        )
