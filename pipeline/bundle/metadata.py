"""What a bundle says of itself in JSON, which may be a stranger's: read within bounds, and checked.

The scaler file says some of it too. It belongs to the network, so where both speak they must agree.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import atomic
from pipeline.candles.schema import instant_ms

MAX_BYTES = 16 * 2**20
"""bound on a file's size; Python takes up to 24 times as much memory for what it holds"""
MAX_DEPTH = 20
"""bound on containers within containers"""
MAX_DIGITS = 19
"""bound on an integer's digits"""
MAX_SHOWN = 60
"""bound on a stranger's text in a message, in letters"""
REMEDY = "copy the bundle again, or train it again"

CUTS = ("train_end", "val_end", "test_start", "test_end")
"""The instants that divide a run's candles, in their order."""
SHAPES: dict[str, Any] = {
    "cuts": {str: str},
    "config": dict,
    "feature_quantiles": {
        str: {"low": float, "high": float, "edges": [float], "shares": [float], "usual": [[float]]}
    },
    "interval_baselines": {str: {"q10": float, "q50": float, "q90": float}},
    "reversal_share": float,
    "jobs": {str: dict},
    "judged": {"trained_until": str},
    "served": {"trained_until": str},
}
"""Keys of a metadata file that are read, and their shapes (`demand`); a file may lack any."""


def read_metadata(path: Path) -> dict[str, Any]:
    """Content of a bundle's metadata file, whose `SHAPES` hold; empty if it is not there.

    Raises:
        ValueError: It cannot be read, or a key is of another shape.
    """
    return check_metadata(read_json(path), str(path)) if path.is_file() else {}


def check_metadata(metadata: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Content of a metadata file, whose `SHAPES` hold; a ValueError where a key is of another."""
    for key, shape in SHAPES.items():
        if key in metadata:
            demand(metadata[key], shape, f"{where}, {key!r}")
    for name in metadata.get("interval_baselines", {}):
        if len(name) > MAX_SHOWN or not name.isidentifier():  # it stands in tables
            raise ValueError(f"{where}, 'interval_baselines': {shown(name)} is no name; {REMEDY}")
    return dict(metadata)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a regular file; see `parse_json`."""
    return parse_json(atomic.read_regular(path, MAX_BYTES), str(path))


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object of finite numbers, of bounded size and depth.

    Args:
        data: Content of a file.
        where: What to call it in errors.

    Raises:
        ValueError: It is no JSON object, too large or too deep, or a number is not finite or has
            too many digits.
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        content = json.loads(
            data.decode(), parse_int=_integer, parse_float=_finite, parse_constant=_finite
        )
        _demand_shallow(content)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not readable as a bundle's JSON ({error}); {REMEDY}") from error
    return content


def demand(value: object, shape: Any, where: str) -> None:
    """Make sure that a value out of JSON has a shape.

    Args:
        value: The value.
        shape: A type (`float` stands for any number); [shape of each]; {str: shape of each}; or
            name -> shape of what has to be there among others.
        where: What to call the value in errors.

    Raises:
        ValueError: It has another one.

    Example:
        >>> demand({"q10": -1, "more": None}, {"q10": float}, "constants")
        >>> demand({"a": [1.0, "x"]}, {str: [float]}, "table")
        Traceback (most recent call last):
        ValueError: table, 'a': 'x' is no float; copy the bundle again, or train it again
    """
    kind = shape if isinstance(shape, type) else type(shape)
    is_of_kind = is_number(value) if kind is float else type(value) is kind
    if not is_of_kind:
        raise ValueError(f"{where}: {shown(value)} is no {kind.__name__}; {REMEDY}")
    if isinstance(value, list) and isinstance(shape, list):
        for entry in value:
            demand(entry, shape[0], where)
    if isinstance(value, dict) and isinstance(shape, dict):
        each = shape.get(str)
        parts = shape if each is None else dict.fromkeys(value, each)
        for name, part in parts.items():
            demand(value.get(name), part, f"{where}, {shown(name)}")


def is_number(value: object) -> bool:
    """Whether a value is a finite number, and no boolean."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return isinstance(value, int) or math.isfinite(value)


def shown(value: object) -> str:
    r"""A stranger's value in a message: escaped, in one line, of at most `MAX_SHOWN` letters.

    Example:
        >>> shown("\x1b[2J"), len(shown("a" * 1000))
        ("'\\x1b[2J'", 60)
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integer of more than 4,300 digits
        text = f"a {type(value).__name__} with an integer of thousands of digits"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def read_cuts(cuts: Any, where: str) -> dict[str, int]:
    """The instants that divide a run's candles, name -> epoch ms.

    Raises:
        ValueError: They are not `CUTS`, cannot be read, or are not in order.
    """
    demand(cuts, dict.fromkeys(CUTS, str), where)
    instants = {name: read_instant(cuts[name], f"{where}, {name!r}") for name in CUTS}
    if list(instants.values()) != sorted(instants.values()):
        told = ", ".join(f"{name} {minute(ms)}" for name, ms in instants.items())
        raise ValueError(f"{where}: {told} are not in order; {REMEDY}")
    return instants


def read_instant(text: object, where: str) -> int:
    """Epoch ms of an instant that a bundle names; a ValueError where that is none."""
    if not isinstance(text, str) or len(text) > MAX_SHOWN or not text.isprintable():
        raise ValueError(f"{where}: {shown(text)} is no instant; {REMEDY}")
    return int(instant_ms(text, where) or 0)


def agreed_cuts(
    of_scalers: Mapping[str, int], metadata: Mapping[str, Any], where: str
) -> dict[str, int]:
    """The instants that divide the run's candles, name -> epoch ms; empty where nothing names them.

    Args:
        of_scalers: What the scaler file says, as far as it does; older ones do not.
        metadata: Content of the metadata, or of another file that may name "cuts".
        where: What to call that file in errors.

    Raises:
        ValueError: The two contradict each other, or the cuts are none.
    """
    told = metadata.get("cuts")
    cuts = read_cuts(told, f"{where}, 'cuts'") if told else {}
    for name, known in of_scalers.items():
        if cuts.get(name, known) != known:
            raise ValueError(
                f"{where}: {name} is {minute(cuts[name])}, and {minute(known)} in the "
                "scaler file: the bundle contradicts itself; get it again from whoever trained it"
            )
    return {**cuts, **of_scalers}


def minute(time_ms: int) -> str:
    """An instant in a message.

    Example:
        >>> minute(1_709_251_200_000)
        '2024-03-01T00:00Z'
    """
    return f"{pd.Timestamp(time_ms, unit='ms'):%Y-%m-%dT%H:%MZ}"


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer has {len(text):,} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _demand_shallow(content: object) -> None:
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        containers = [entry for entry in level if isinstance(entry, (dict, list))]
        if not containers:
            return
        parts = (box.values() if isinstance(box, dict) else box for box in containers)
        level = list(itertools.chain.from_iterable(parts))
    raise ValueError(f"containers lie more than {MAX_DEPTH} deep")
