"""Opens the scaler file of a bundle: it must hold what serving needs and belong to its network."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.bundle.scalers import ScalerRecord, read_scalers
from pipeline.bundle.snapshot import Snapshot

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


def open_scalers(bundle: Snapshot, types: Mapping[str, type] = SCALER_TYPES) -> dict[str, Any]:
    """Read a bundle's scaler file and make sure that it belongs to the network beside it.

    Args:
        bundle: The files as they were read.
        types: Keys that the scaler file must hold, and of which type.

    Raises:
        ValueError: The scaler file is damaged, of another kind, or of another model.
    """
    model_path, scaler_path = bundle.model_path, bundle.scaler_path
    scalers = read_scalers(bundle.content(scaler_path.name), scaler_path)
    _check_types(scaler_path, scalers, types)
    if bundle.sha256(model_path.name) != scalers["model_sha256"]:
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
