"""Caution with age: forecasts older than any that the verdict is about are shrunk further.

The judged network's test part says what forecasts are worth up to some days after its training.
Nothing says it of older ones. On development candles the age alone took nothing from them: what is
foreseeable fades with the market, for old and young networks alike (docs/log.md). But a factor of
0.7 cost a fifth of the skill where nothing had faded, and raised the test statistic in every
quarter. So that is where the factor goes to.

A recalibration knows what came true since, and takes the factor's place.
"""

from __future__ import annotations

import numpy as np

LEAST_FACTOR = 0.7
"""What the factor falls to."""
FALLING_DAYS = 365.0
"""How many days behind the oldest judged age it takes to fall there, in a straight line."""


def age_factors(age_days: np.ndarray, judged_days: float) -> np.ndarray:
    """Factors on forecasts by their age.

    Args:
        age_days: (n,) days from all that the network has learnt to a forecast.
        judged_days: The age of the oldest forecast of the test part.

    Returns:
        (n,) 1 up to `judged_days`, `LEAST_FACTOR` from `FALLING_DAYS` later on.

    Example:
        >>> age_factors(np.array([0.0, 50.0, 232.5, 900.0]), judged_days=50)
        array([1.  , 1.  , 0.85, 0.7 ])
    """
    late = np.clip((age_days - judged_days) / FALLING_DAYS, 0.0, 1.0)
    return 1.0 - (1.0 - LEAST_FACTOR) * late
