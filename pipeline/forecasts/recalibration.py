"""Shrinkage and p_up's slope, fitted anew on what came true of a model's later forecasts.

The network stays as it is, and so does the calibration that was judged, in the scaler file. The new
one lies beside them in a small file of its own. It names the hashes of the network and the scaler
file that it belongs to, and counts for no other ones.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import atomic
from pipeline.bundle import files
from pipeline.bundle.metadata import REMEDY, demand, minute, parse_json, read_instant
from pipeline.candles.schema import DAY_MS, timestamps_ms
from pipeline.forecasts.shrinkage import Calibration, fit_calibration

DAYS = 180
"""how far back the forecasts may lie that a recalibration is fitted on"""
MIN_DAYS = 30
MIN_FORECASTS = 500
"""Fewer say more about a few weeks' luck than about the network."""
MAX_BYTES = 2**16
SHAPE: dict[str, Any] = {
    "belongs_to": {"model_sha256": str, "scalers_sha256": str},
    "span": {"first": str, "until": str},
    "n": int,
    "new": dict,
}
"""What is read of a recalibration's file (`metadata.demand`)."""


@dataclass(frozen=True)
class Recalibration:
    """A calibration of its own date."""

    calibration: Calibration
    first_ms: int
    """when the first of its forecasts was made, epoch ms"""
    until_ms: int
    """by when what they forecast had come true, epoch ms: it knows nothing later"""
    n: int
    """forecasts"""


def refit(
    forecasts: pd.DataFrame,
    network: str,
    until_ms: int,
    *,
    step_ms: int,
    horizon: int = 1,
    caution: float = 0.0,
) -> Recalibration | None:
    """Fit on the forecasts of the `DAYS` before an instant, as far as they had come true by then.

    Args:
        forecasts: A row a forecast of candles that the network has not learnt from: timestamp (open
            of candle t), actual_return, volatility and `<network>_raw`, before shrinkage.
        network: Name of the network's column.
        until_ms: The instant, epoch ms.
        step_ms: Length of a candle.
        horizon: Candles that a forecast spans.
        caution: See `fit_shrinkage`.

    Returns:
        None for fewer than `MIN_FORECASTS`, or where they span less than `MIN_DAYS`.
    """
    made_ms = timestamps_ms(forecasts) + step_ms
    is_used = (made_ms >= until_ms - DAYS * DAY_MS) & (made_ms + horizon * step_ms <= until_ms)
    used = forecasts[is_used]
    if len(used) < MIN_FORECASTS or until_ms - made_ms[is_used].min() < MIN_DAYS * DAY_MS:
        return None
    raw, actual, volatility = (
        used[name].to_numpy(np.float64)
        for name in (f"{network}_raw", "actual_return", "volatility")
    )
    calibration = fit_calibration(raw, actual, volatility, caution=caution)
    return Recalibration(calibration, int(made_ms[is_used].min()), until_ms, len(used))


def write_recalibration(
    path: Path, fitted: Recalibration, judged: Calibration, belongs_to: dict[str, str]
) -> None:
    """Write a recalibration beside the bundle, whole or not at all.

    Args:
        path: Its file.
        fitted: The recalibration.
        judged: The calibration of the training run, for people.
        belongs_to: "model_sha256" and "scalers_sha256" of the network's and the scaler file.
    """
    content = {
        "belongs_to": belongs_to,
        "span": {"first": minute(fitted.first_ms), "until": minute(fitted.until_ms)},
        "n": fitted.n,
        "old": asdict(judged),
        "new": asdict(fitted.calibration),
    }
    files.write_json(path, content)


def read_recalibration(path: Path, belongs_to: dict[str, str]) -> Recalibration | None:
    """The recalibration of a network and its scaler file.

    Args:
        path: Its file, which need not be there.
        belongs_to: See `write_recalibration`.

    Returns:
        None where there is no file, or one of another network, of which a warning tells: a training
        run may be replacing the bundle at this moment.

    Raises:
        ValueError: The file is a link, too large or damaged, or a number is out of its range.
    """
    try:
        content = parse_json(atomic.read_regular(path, MAX_BYTES), path.name)
        demand(content, SHAPE, path.name)
        if content["belongs_to"] != belongs_to:
            warnings.warn(
                f"{path} belongs to another network or scaler file and is not used; recalibrate "
                "this one (python inference_v2.py recalibrate)",
                stacklevel=4,
            )
            return None
        calibration = Calibration.from_dict(content["new"])
        first_ms, until_ms = (
            read_instant(content["span"][name], path.name) for name in ("first", "until")
        )
        if not first_ms < until_ms or content["n"] < MIN_FORECASTS:
            raise ValueError(f"{content['n']} forecasts from {first_ms} to {until_ms} are none")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(
            f"{path}: no recalibration can be read there ({_without_remedy(error)}); make it anew "
            "(python inference_v2.py recalibrate)"
        ) from error
    return Recalibration(calibration, first_ms, until_ms, content["n"])


def _without_remedy(error: ValueError) -> str:
    """What is wrong; training again would be the remedy for other files."""
    return str(error).removesuffix(f"; {REMEDY}").removesuffix(f"; {Calibration.remedy}")
