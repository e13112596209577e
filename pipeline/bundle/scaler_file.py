"""The scaler file of a bundle: what it must hold, and that it belongs to the network beside it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bundle import files, safe_pickle
from pipeline.bundle.files import BundleFiles
from pipeline.bundle.scaler_records import ScalerRecord

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
    names: BundleFiles | None,
    types: Mapping[str, type] = SCALER_TYPES,
) -> dict[str, Any]:
    """Read a scaler file and make sure that it belongs to the model file beside it.

    Moves of the bundle that a kill interrupted are completed first.

    Args:
        model_path: The network's file.
        scaler_path: The scaler file.
        names: Of the bundle's files; the metadata need not be there. None where a network and its
            scalers stand alone.
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
    scalers = safe_pickle.load(scaler_path)
    for key, kind in types.items():
        if key not in scalers:
            raise ValueError(
                f"{scaler_path}: key {key!r} is missing; is it the scaler file of another "
                "generation?"
            )
        value = scalers[key]
        usable = value >= 1 if kind is int and type(value) is int else type(value) is kind
        if not usable:
            raise ValueError(
                f"{scaler_path}: {key!r} is {value!r}, not a usable {kind.__name__}; train the "
                "model again"
            )
    if not isinstance(scalers.get("twin_sha256"), (str, type(None))):
        raise ValueError(
            f"{scaler_path}: 'twin_sha256' is {scalers['twin_sha256']!r}, not a hash; train the "
            "model again"
        )
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
