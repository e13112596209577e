"""Opens the scaler file of a bundle: it must hold what serving needs and belong to its network.

Every number of the file has a range, since one that is none, or beyond all sense, would make a
forecast that is none. Those of calibration and intervals are judged by `fitted.FittedNumbers`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bundle.metadata import MAX_SHOWN, read_cuts, read_instant, shown
from pipeline.bundle.scalers import MinMaxRecord, ScalerRecord, read_scalers
from pipeline.bundle.snapshot import Snapshot
from pipeline.candles.schema import TIMEFRAME_MS

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
OPTIONAL_TYPES: dict[str, type] = {
    "twin_sha256": str,
    "preset": str,
    "quantile_regression": bool,
    "trained_until": str,  # of bundles without cuts, and of networks that learnt the test part too
    "cuts": dict,
}
"""What it may hold as well."""
MAX_CANDLES = 100_000
"""bound on a number of candles"""
MAX_SIZE = 1e30
"""bound on a number's size, and on how small a scale may be: float32 goes to 3e38"""


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
    for key in types:
        if key not in scalers:
            raise ValueError(
                f"{path}: key {key!r} is missing; is it the scaler file of another generation?"
            )
    known = {**OPTIONAL_TYPES, **types}
    for key, kind in known.items():
        value: Any = scalers.get(key)
        is_absent = value is None and key not in types
        is_usable = type(value) is kind or is_absent
        if is_usable and kind is int:
            is_usable = 1 <= value <= MAX_CANDLES
        if not is_usable:
            raise _fault(path, key, value, f"a usable {kind.__name__}")
    _check_names(path, scalers, "feature_cols")
    _check_names(path, scalers, "symbols")
    _check_records(path, scalers, "X", len(scalers["feature_cols"]))
    _check_records(path, scalers, "y", 1)
    if scalers["timeframe"] not in TIMEFRAME_MS:
        raise ValueError(
            f"{path}: unknown timeframe {shown(scalers['timeframe'])}; use one of "
            f"{', '.join(TIMEFRAME_MS)}"
        )
    _check_instants(path, scalers)


def _check_names(path: Path, scalers: dict[str, Any], key: str) -> None:
    names = scalers[key]
    are_texts = all(type(name) is str and 0 < len(name) <= MAX_SHOWN for name in names)
    if not (names and are_texts and "".join(names).isprintable() and len(set(names)) == len(names)):
        raise _fault(path, key, names, "a list of different names")


def _check_records(path: Path, scalers: dict[str, Any], key: str, width: int) -> None:
    """Make sure that the scalers below a key have so many columns, and numbers of sensible size."""
    for record in _leaves(scalers[key]):
        if not isinstance(record, (ScalerRecord, MinMaxRecord)):
            raise _fault(path, key, record, "a scaler")
        shift = record.mean if isinstance(record, ScalerRecord) else record.min
        n_columns = max(shift.size, record.scale.size)
        if n_columns != width:
            raise ValueError(
                f"{path}: a scaler of {key!r} has {n_columns} columns, not {width}; train the "
                "model again"
            )
        largest = max(np.abs(shift).max(), record.scale.max())
        if largest > MAX_SIZE or record.scale.min() < 1 / MAX_SIZE:
            raise ValueError(
                f"{path}: a scaler of {key!r} has a number beyond {MAX_SIZE:g}, or a scale below "
                f"{1 / MAX_SIZE:g}; train the model again"
            )


def _leaves(value: Any) -> Iterator[Any]:
    """The value itself, or what lies in dicts of dicts of it."""
    if isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part)
    else:
        yield value


def _check_instants(path: Path, scalers: dict[str, Any]) -> None:
    """Make sure that the end of what the model has learnt from is one instant."""
    until, cuts = scalers.get("trained_until"), scalers.get("cuts")
    until_ms = None if until is None else read_instant(until, f"{path}, 'trained_until'")
    if cuts is None:
        return
    ends_ms = read_cuts(cuts, f"{path}, 'cuts'")
    # The end of the test part where the network was trained once more after the verdict.
    if until_ms not in (None, ends_ms["val_end"], ends_ms["test_end"]):
        raise ValueError(
            f"{path}: 'trained_until' is {until}, and the validation part ends at "
            f"{cuts['val_end']}, the test part at {cuts['test_end']}; train the model again"
        )


def _fault(path: Path, key: str, value: object, wanted: str) -> ValueError:
    return ValueError(f"{path}: {key!r} is {shown(value)}, not {wanted}; train the model again")
