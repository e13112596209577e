"""What came true of a predictor's last forecasts, beside what chance would give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.candles.schema import timeframe_ms, timestamps_ms, utc_from_ms


@dataclass(frozen=True)
class Tally:
    """Counts of forecasts that the model had not seen the outcome of."""

    n: int
    """forecasts"""
    n_calls: int
    """of these with a direction, of a price that then moved"""
    n_right: int
    """calls whose direction came true"""
    n_inside: int
    """forecasts whose 80 % band held what came true"""
    error: float
    """mean |actual - forecast|, log-return; NaN without forecasts"""
    naive_error: float
    """the same of the forecast that nothing changes"""


def find_outcomes(
    history: pd.DataFrame, candles: pd.DataFrame, timeframe: str, horizon: int, seen_until_ms: int
) -> pd.DataFrame:
    """What came true of each forecast whose candle has closed.

    Args:
        history: A row a forecast, as `predict_history` returns it.
        candles: The candles it was made from, in the schema.
        timeframe: Length of a candle.
        horizon: Candles ahead.
        seen_until_ms: End of what the model was fitted and calibrated on, epoch ms. A forecast made
            (its candle t closes) before is a fit, whatever the symbol: what moves one coin moves
            the others in the same hour.

    Returns:
        The rows of `history` in time order without those that nothing came of yet, or for lack of a
        candle never will: its columns, `target` (open of the candle that was forecast, UTC),
        `actual_return` (log-return over the horizon), `is_seen`, `direction` ("right", "wrong" or,
        where either stands still, "none") and `is_inside`.
    """
    step_ms = timeframe_ms(timeframe)
    times, closes = timestamps_ms(candles), candles["close"].to_numpy()
    made_ms = timestamps_ms(history)
    target_ms = made_ms + horizon * step_ms
    base = np.searchsorted(times, made_ms)
    end = np.minimum(np.searchsorted(times, target_ms), len(times) - 1)
    has_closed = times[end] == target_ms
    rows = history[has_closed].reset_index(drop=True)
    actual = np.log(closes[end] / closes[base])[has_closed]
    agreement = np.sign(actual) * np.sign(rows["predicted_return"].to_numpy())
    return rows.assign(
        target=utc_from_ms(target_ms[has_closed]),
        actual_return=actual,
        is_seen=made_ms[has_closed] + step_ms < seen_until_ms,
        direction=np.select([agreement > 0, agreement < 0], ["right", "wrong"], "none"),
        is_inside=(rows["q10"].to_numpy() <= actual) & (actual <= rows["q90"].to_numpy()),
    )


def tally(outcomes: pd.DataFrame) -> Tally:
    """Count the rows of `find_outcomes` that the model had not seen."""
    unseen = outcomes[~outcomes["is_seen"]]
    actual = unseen["actual_return"]
    n_right = int((unseen["direction"] == "right").sum())
    return Tally(
        n=len(unseen),
        n_calls=n_right + int((unseen["direction"] == "wrong").sum()),
        n_right=n_right,
        n_inside=int(unseen["is_inside"].sum()),
        error=float((actual - unseen["predicted_return"]).abs().mean()),
        naive_error=float(actual.abs().mean()),
    )


def chance_range(n: int, probability: float) -> tuple[int, int]:
    """Between which counts 95 % of series of `n` draws end, with 2.5 % at most on either side.

    Example:
        >>> chance_range(10, 0.5)  # fewer than 2 heads: 11 / 1024 = 1.1 %; fewer than 3: 5.5 %
        (2, 8)
    """
    from scipy import stats  # takes its time

    low, high = stats.binom.interval(0.95, n, probability)
    return int(low), int(high)
