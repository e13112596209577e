"""Refuses .h5 files that could do more than hold a network of built-in layers.

A `Lambda` layer holds Python code. Other layers and functions are imported by the name that the
file gives. HDF5 links reach into other files of the machine, and a dataset may claim a size that
nothing of it is stored of. A layer may ask for more weights than there is memory. So a file's
description is read as plain JSON before Keras opens it, only what networks of this project are made
of is admitted, and the weights that it asks for have to be those that the file stores.
"""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

from pipeline.bundle.layer_sizes import count_weights

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

MAX_WEIGHT_BYTES = 2**25
"""The largest network of this project has 2.4 MB."""

MAX_DESCRIPTION_BYTES = 2**23
MAX_DEPTH = 60
"""of lists and dicts in the description"""

MAX_OBJECTS = 20_000
"""groups, datasets and attributes"""

MAX_LISTED = 20
"""weights of a layer; attention has 8"""

MAX_TEXT_BYTES = 2**30
"""that a file's lists of names could come to, if each name were all of the file but the weights"""


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
        n_stored = _check_storage(path, file)
        config = _read_config(path, file)
    _check_config(path, config)
    try:
        n_needed = count_weights(config)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _refused(path, f"{error!s:.200}") from error
    if n_needed != n_stored:
        raise _refused(
            path, f"its layers need {n_needed:,} weights, and it stores {n_stored:,} for them"
        )


def _refused(path: Path, reason: str) -> RefusedNetworkError:
    return RefusedNetworkError(
        f"{path}: {reason}; the network was not opened: fetch it again from somebody you trust"
    )


def _read_config(path: Path, file: Any) -> Any:
    """The description, if it is one text of a possible size."""
    attribute = file.attrs.get_id("model_config")
    text = file.attrs["model_config"] if attribute.shape == () else None
    if not isinstance(text, (str, bytes)) or len(text) > MAX_DESCRIPTION_BYTES:
        raise _refused(path, f"its description is no text of at most {MAX_DESCRIPTION_BYTES:,}")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise _refused(path, "its description is nested too deeply") from error


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


def _check_config(path: Path, config: Any, depth: int = 0) -> None:
    """Look at every object that Keras would make, wherever in the description it stands."""
    if depth > MAX_DEPTH:
        raise _refused(path, "its description is nested too deeply")
    if isinstance(config, list):
        for item in config:
            _check_config(path, item, depth + 1)
    elif isinstance(config, dict):
        if "class_name" in config:
            _check_object(path, config)
        for item in config.values():
            _check_config(path, item, depth + 1)


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


def _check_storage(path: Path, file: Any) -> int:
    """Refuse what is not stored in the file, byte for byte; returns how many weights it names."""
    import h5py

    n_objects = n_texts = claimed = n_weights = 0
    size = file.id.get_filesize()

    def claim(node: Any) -> None:
        nonlocal claimed
        claimed += math.prod(node.shape or ()) * node.dtype.itemsize
        if claimed > min(MAX_WEIGHT_BYTES, size):
            raise RefusedNetworkError(
                f"{path}: it claims {claimed:,} bytes of weights, more than it holds or a network "
                f"of this project has ({MAX_WEIGHT_BYTES:,}); the network was not opened"
            )

    def visit(_: str, node: Any) -> None:
        nonlocal n_objects, n_texts
        n_objects += 1 + len(node.attrs)
        if n_objects > MAX_OBJECTS or h5py.h5o.get_info(node.id).rc > 1:
            raise _refused(path, "it names a part of it twice, or has more than a network")
        for attribute in map(node.attrs.get_id, node.attrs):
            if h5py.check_string_dtype(attribute.dtype) is not None:
                n_texts += math.prod(attribute.shape or ())
            elif attribute.dtype.kind not in "fiu":
                raise _refused(path, f"it notes {attribute.dtype!s:.40} in place of names")
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
        if node.dtype.kind not in "fiu":
            raise _refused(path, f"it stores {node.dtype!s:.40} in place of numbers")
        claim(node)
        if node.chunks is not None:  # compressed or not; Keras writes none
            raise _refused(path, "its weights are stored in chunks")

    visit("/", file)
    file.visititems(visit)
    # A list may name one long text many times over, and is read at once.
    if n_texts * (size - claimed) > MAX_TEXT_BYTES:
        raise _refused(path, f"it holds {n_texts:,} names, more than a network of its size")
    claimed = 0
    # Keras reads what these lists name, as often as they name it.
    for group in file["model_weights"].values():
        for name in group.attrs if isinstance(group, h5py.Group) else ():
            if name.startswith("weight_names") and group.attrs.get_id(name).shape != (0,):
                names = group.attrs[name]
                if len(names) > MAX_LISTED:
                    raise _refused(path, f"it lists {len(names):,} weights of a layer")
                for weight in names:
                    claim(group[weight])
                    n_weights += group[weight].size
    return n_weights
