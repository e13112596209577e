"""The two losses of a comparison, and which of them decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LOSS = "scaled_absolute_error"
"""the loss that decides: |actual_return - forecast| / volatility"""
SQUARED_LOSS = "scaled_squared_error"
"""told beside it: a forecast may be nearer to the median and further from the mean"""
WRONG_DIRECTION = "wrong_direction"
"""the loss that decides where a forecast says no size: 1 for a wrong direction, 1/2 for none"""
IN_DOUBT = "IN DOUBT"
"""the verdict where the numbers alone say EDGE, and something grave is to be answered first"""
IN_WORDS = {LOSS: "absolute error", WRONG_DIRECTION: "wrong directions"}
"""what decides -> in what a model BEATS another"""


def deciding(verdicts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The comparisons of an evaluation that its verdict stands on: all but those in squared error.

    Example:
        >>> deciding([{"loss": LOSS}, {"loss": SQUARED_LOSS}])
        [{'loss': 'scaled_absolute_error'}]
    """
    return [compared for compared in verdicts if compared.get("loss") != SQUARED_LOSS]
