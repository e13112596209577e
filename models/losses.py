"""Losses of v1: the pinball loss of three quantiles, and squares that weigh large moves more."""

from __future__ import annotations

from typing import Any

import keras

QUANTILE_LEVELS = (0.1, 0.5, 0.9)
"""Levels of v1's three outputs, in their order"""

LARGE_MOVE = 0.02
"""Log-return beyond which a move weighs more, from the v1 document"""
LARGE_MOVE_WEIGHT = 5.0


def pinball(y_true: Any, y_pred: Any) -> Any:
    """Mean pinball loss over the levels; its minimum is the conditional quantile at each.

    Koenker and Bassett (1978), Regression Quantiles, Econometrica 46(1).

    Args:
        y_true: (batch, 1) targets.
        y_pred: (batch, 3) forecasts of the quantiles `QUANTILE_LEVELS`.

    Returns:
        (batch,) losses in the unit of the targets. Unweighted: weights would bend the coverage.
    """
    error = y_true - y_pred  # (batch, 3)
    levels = keras.ops.convert_to_tensor(QUANTILE_LEVELS, dtype=error.dtype)
    # level * error where the forecast was too low, (1 - level) * |error| where it was too high
    return keras.ops.mean(keras.ops.maximum(levels * error, (levels - 1.0) * error), axis=-1)


def weighted_mse(y_true: Any, y_pred: Any) -> Any:
    """Squared error, times `LARGE_MOVE_WEIGHT` where the price moved by more than `LARGE_MOVE`.

    Args:
        y_true: (batch, 2): the target, and the log-return that says how large the move was.
        y_pred: (batch, 1) forecasts of the target.

    Returns:
        (batch,) losses in squared units of the target.
    """
    target, log_return = y_true[:, 0], y_true[:, 1]
    weight = keras.ops.where(keras.ops.abs(log_return) > LARGE_MOVE, LARGE_MOVE_WEIGHT, 1.0)
    return weight * keras.ops.square(target - y_pred[:, 0])
