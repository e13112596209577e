"""What feature code makes of fixed candles, so that other code than a model's own is noticed.

The numbers themselves are kept, not their hash: processors and libraries differ in last bits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.schema import utc_from_ms

Probe = dict[str, list["float | None"]]
"""feature -> its values in `ROWS`, None where it has none"""

N_CANDLES = 600
ROWS = (150, N_CANDLES - 1)
"""one while indicators warm up, and the last"""
GAP = slice(560, 562)
"""candles that are missing"""
FIRST_MS = 1_704_067_200_000
HOUR_MS = 3_600_000
TOLERANCE = 1e-6
"""relative; and `SMALL` is taken for 0"""
SMALL = 1e-9


def probe_candles(seed: int = 0) -> pd.DataFrame:
    """Hourly candles with funding and open interest, by plain arithmetic: never to be changed."""
    t = np.arange(N_CANDLES + 2, dtype=np.int64)
    # Residues look random enough, and are the same everywhere.
    first, second, third = (
        ((t * t * factor + t * 104_729 + 7_919 * seed) % 2_003) / 2_003 for factor in (31, 57, 89)
    )
    close = 100.0 * np.cumprod(1.0 + 0.02 * (first - 0.499))
    open_ = np.concatenate([[100.0], close[:-1]]) * (1.0 + 0.002 * (second - 0.5))
    frame = pd.DataFrame(
        {
            "timestamp": utc_from_ms(FIRST_MS + HOUR_MS * t).array,
            "open": open_,
            "high": np.maximum(open_, close) * (1.0 + 0.005 * third),
            "low": np.minimum(open_, close) * (1.0 - 0.005 * second),
            "close": close,
            "volume": 1_000.0 * (0.2 + third),
            "funding_rate": 0.0001 * (second - 0.3),
            "open_interest": 1e6 * (1.0 + 0.1 * first),
        }
    )
    return frame.drop(index=t[GAP]).reset_index(drop=True)


@functools.cache
def probe(compute: Callable[[pd.DataFrame, str], pd.DataFrame]) -> Probe:
    """What a function makes of `probe_candles`.

    Args:
        compute: Candles and timeframe -> features.
    """
    features = compute(probe_candles(), "1h")
    table = {name: features[name].to_numpy(np.float64)[list(ROWS)] for name in features}
    return {
        name: [float(value) if math.isfinite(value) else None for value in values]
        for name, values in table.items()
    }


def changed_feature(before: Any, now: Probe, names: Iterable[str]) -> str | None:
    """The first of the names whose values are not those of before; None where all are.

    Args:
        before: What `probe` said when the model was trained, as a file holds it.
        now: What it says.
        names: Features that the model looks at.

    Example:
        >>> changed_feature({"rsi": [50.0]}, {"rsi": [50.00000001]}, ["rsi"]) is None
        True
        >>> changed_feature({"rsi": [50.0]}, {"rsi": [50.01]}, ["rsi"])
        'rsi'
    """
    kept = before if isinstance(before, Mapping) else {}
    return next((name for name in names if not _is_same(kept.get(name), now.get(name))), None)


def _is_same(before: Any, now: list[float | None] | None) -> bool:
    if not isinstance(before, list) or now is None or len(before) != len(now):
        return False
    for one, other in zip(before, now):
        if one is None or other is None:
            if one is not other:
                return False
        elif type(one) not in (int, float) or not math.isclose(
            one, other, rel_tol=TOLERANCE, abs_tol=SMALL
        ):
            return False
    return True
