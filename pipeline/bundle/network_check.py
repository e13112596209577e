"""Refuses .h5 files that could do more than hold a network of built-in layers.

A `Lambda` layer holds Python code. Other layers and functions are imported by the name that the
file gives. HDF5 links reach into other files of the machine, and a dataset may claim a size that
nothing of it is stored of. So a file's description is read as plain JSON before Keras opens it, and
only what networks of this project are made of is admitted.
"""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

LAYERS = (
    "InputLayer LSTM Bidirectional Conv1D Dense Dropout BatchNormalization LayerNormalization "
    "MultiHeadAttention GlobalAveragePooling1D Concatenate Add Average Subtract Multiply Maximum "
    "Minimum Activation Rescaling Reshape Flatten Cropping1D"
).split()
INITIALIZERS = "Zeros Ones Constant Orthogonal GlorotUniform HeNormal".split()
ADMITTED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(LAYERS, ("keras.layers",)),
    **dict.fromkeys(INITIALIZERS, ("keras.initializers",)),
    "DTypePolicy": ("keras",),
    "Functional": ("keras", "keras.models", "keras.src.models.functional"),
    "__keras_tensor__": (),
    "__tuple__": (),
}
"""Class names that a file may hold, and the modules that it may name for them, if any."""

MAX_WEIGHT_BYTES = 2**30


class RefusedNetworkError(ValueError):
    """A network file that is not opened."""


def check_network_file(path: Path, content: bytes | None = None) -> None:
    """Read a .h5 file's description, and refuse what is no plain network.

    Args:
        path: A file that `keras.models.load_model` is to open next.
        content: Its bytes, if they have been read; errors name the path.

    Raises:
        RefusedNetworkError: It holds a layer or another object that is not admitted, a link, or too
            much.
        OSError, KeyError, ValueError: It is no HDF5 file, or not one of Keras.
    """
    import h5py

    with h5py.File(path if content is None else io.BytesIO(content), "r") as file:
        _check_storage(path, file)
        _check_config(path, json.loads(file.attrs["model_config"]))


def keras_version_of(content: bytes) -> str | None:
    """The version of Keras that saved a .h5 file's bytes; None where it cannot be told."""
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            version = file.attrs["keras_version"]
    except (OSError, KeyError):
        return None
    text = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    return text if re.fullmatch(r"[\w.+-]{1,20}", text, re.ASCII) else None


def _check_config(path: Path, config: Any) -> None:
    """Look at every object that Keras would make, wherever in the description it stands."""
    if isinstance(config, list):
        for item in config:
            _check_config(path, item)
    elif isinstance(config, dict):
        if "class_name" in config:
            _check_object(path, config)
        for item in config.values():
            _check_config(path, item)


def _check_object(path: Path, described: dict[str, Any]) -> None:
    name = described["class_name"]
    module = described.get("module")
    registered = described.get("registered_name")
    is_known = isinstance(name, str) and name in ADMITTED
    if is_known and module in (None, *ADMITTED[name]) and registered in (None, name):
        return
    shown = [module, name if registered is None else registered]
    parts = [str(part)[:60] for part in shown if part is not None]
    raise RefusedNetworkError(
        f"{path}: {'.'.join(parts)!a} is none of the built-in layers that networks of this project "
        "are made of, and could run code; the network was not opened: fetch it again from somebody "
        "you trust"
    )


def _check_storage(path: Path, file: Any) -> None:
    """Refuse links to anywhere, and datasets whose bytes are not in the file."""
    import h5py

    claimed = 0  # bytes of all datasets

    def visit(_: str, node: Any) -> None:
        nonlocal claimed
        if isinstance(node, h5py.Group):
            kinds = [node.get(name, getclass=True, getlink=True) for name in node]
            if any(kind is not h5py.HardLink for kind in kinds):
                raise RefusedNetworkError(
                    f"{path}: it links to other places or files; the network was not opened"
                )
            return
        if node.external or node.is_virtual:
            raise RefusedNetworkError(
                f"{path}: its weights are to come from other files; the network was not opened"
            )
        claimed += math.prod(node.shape or ()) * node.dtype.itemsize

    visit("/", file)
    file.visititems(visit)
    if claimed > MAX_WEIGHT_BYTES:
        raise RefusedNetworkError(
            f"{path}: it claims {claimed:,} bytes of weights, a network of this project has at "
            f"most {MAX_WEIGHT_BYTES:,}; the network was not opened"
        )
