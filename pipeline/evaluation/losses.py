"""The two losses of a comparison, and which of them decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LOSS = "scaled_absolute_error"
"""the loss that decides: |actual_return - forecast| / volatility"""
SQUARED_LOSS = "scaled_squared_error"
"""told beside it: a forecast may be nearer to the median and further from the mean"""


def deciding(verdicts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The comparisons of an evaluation that its verdict stands on: all but those in squared error.

    Example:
        >>> deciding([{"loss": LOSS}, {"loss": SQUARED_LOSS}])
        [{'loss': 'scaled_absolute_error'}]
    """
    return [compared for compared in verdicts if compared.get("loss") != SQUARED_LOSS]
