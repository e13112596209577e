"""What is left of a forecast for those who enter minutes after the close that it was made at.

A part of what is foreseeable is gone within minutes, and nobody trades at the close itself. The
forecast stays what it was. What came true of it begins later: ln(close[t + h] / price at entry).

Money is that of a trader for whom every trade comes late. A position is held from one late entry to
the next, so its moves are ln(price at the next entry / price at this one).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from pipeline.candles.schema import timestamps_ms
from pipeline.evaluation.backtest import backtest
from pipeline.evaluation.comparison import scaled_absolute_error, skill
from pipeline.evaluation.metrics import direction_metrics
from pipeline.evaluation.verdict import compare_forecasts

DELAYS = (1, 5, 15)
"""minutes after the close"""
SAME_PRICE = 1e-6
"""A finer candle that closes with candle t has its price, or is of another market."""


class Entry(TypedDict):
    """What forecasts are worth at one moment of entry."""

    skill: float | None
    """against naive"""
    statistic: float | None
    p_value: float | None
    """of Diebold-Mariano, alone"""
    direction_accuracy: float | None
    direction_accuracy_low: float | None
    direction_accuracy_high: float | None
    break_even_fee_bps: float | None
    break_even_low: float | None
    break_even_high: float | None
    skill_by_symbol: dict[str, float | None]


class DelayedEntry(TypedDict):
    """A late entry beside one at the close, on the same forecasts."""

    delay_minutes: int
    symbols: list[str]
    n: int
    at_close: Entry
    delayed: Entry


def delayed_entries(
    predictions: pd.DataFrame,
    model: str,
    prices: Mapping[str, pd.Series],
    *,
    timeframe_ms: int,
    horizon: int = 1,
    **money: Any,
) -> list[DelayedEntry]:
    """Score forecasts by when one enters.

    A forecast counts where the finer candles hold a price at both entries, this one's and the next
    one's, and where they agree with candle t on its close.

    Args:
        predictions: The frame described in `metrics`, with "naive".
        model: Name of the model's forecast column.
        prices: Symbol -> prices by instant, epoch ms (`finer.prices_between`).
        timeframe_ms: Length of a candle.
        horizon: Candles that a forecast spans.
        money: See `backtest`: fee_bps, threshold, funding.

    Returns:
        An entry for each of `DELAYS` at which any forecast can be scored.
    """
    found: list[DelayedEntry] = []
    span_ms = timeframe_ms * horizon
    rules = {"timeframe_ms": timeframe_ms, "horizon": horizon, **money}
    for minutes in DELAYS:
        if 60_000 * minutes >= span_ms:
            continue
        moves = late_moves(predictions, prices, timeframe_ms, span_ms, 60_000 * minutes)
        is_known = moves.notna().all(axis=1)
        rows, late = predictions[is_known], moves[is_known]
        if rows.empty:
            continue
        at_close = rows["actual_return"]
        found.append(
            {
                "delay_minutes": minutes,
                "symbols": [str(symbol) for symbol in rows["symbol"].unique()],
                "n": len(rows),
                "at_close": _entry(rows, model, at_close, at_close, rules),
                "delayed": _entry(rows, model, late["target"], late["held"], rules),
            }
        )
    return found


def late_moves(
    predictions: pd.DataFrame,
    prices: Mapping[str, pd.Series],
    timeframe_ms: int,
    span_ms: int,
    delay_ms: int,
) -> pd.DataFrame:
    """Log-returns from a late entry, a row a forecast: NaN where a price is missing.

    Args:
        predictions: The frame described in `metrics`.
        prices: Symbol -> prices by instant, epoch ms.
        timeframe_ms: Length of a candle.
        span_ms: From a candle's close to that of the one that is forecast.
        delay_ms: From the close to the entry.

    Returns:
        "target" (to the close that was forecast) and "held" (to the next late entry).
    """
    close_ms = timestamps_ms(predictions) + timeframe_ms
    at_close, at_entry, at_next = np.full((3, len(predictions)), np.nan)
    for symbol, series in prices.items():
        mine = np.flatnonzero((predictions["symbol"] == symbol).to_numpy())
        for values, wait_ms in ((at_close, 0), (at_entry, delay_ms), (at_next, span_ms + delay_ms)):
            values[mine] = series.reindex(close_ms[mine] + wait_ms).to_numpy()
    base = predictions["base_price"].to_numpy(np.float64)
    at_entry[~(np.abs(at_close / base - 1) < SAME_PRICE)] = np.nan
    moves = {
        "target": predictions["actual_return"].to_numpy(np.float64) - np.log(at_entry / base),
        "held": np.log(at_next / at_entry),
    }
    return pd.DataFrame(moves, index=predictions.index)


def _entry(
    rows: pd.DataFrame, model: str, target: pd.Series, held: pd.Series, rules: Mapping[str, Any]
) -> Entry:
    horizon = rules["horizon"]
    scored = rows.assign(actual_return=target)
    [naive] = compare_forecasts(scored, model, ["naive"], horizon)
    # A forecast that was shrunk to 0 keeps the direction that it had before.
    called = rows[f"{model}_raw"] if f"{model}_raw" in rows else rows[model]
    score = (called / rows["volatility"]).to_numpy(np.float64)
    calls = direction_metrics(target.to_numpy(), score, instants=rows["timestamp"], horizon=horizon)
    account = backtest(rows.assign(actual_return=held), model, n_bootstrap=0, **rules)
    by_symbol = {}
    for symbol, part in scored.groupby("symbol", sort=False):
        ours, theirs = (scaled_absolute_error(part, name) for name in (model, "naive"))
        by_symbol[str(symbol)] = skill(ours, theirs, part["timestamp"])
    return {
        "skill": naive.skill,
        "statistic": naive.statistic,
        "p_value": naive.p_value,
        "direction_accuracy": calls["direction_accuracy"],
        "direction_accuracy_low": calls["direction_accuracy_low"],
        "direction_accuracy_high": calls["direction_accuracy_high"],
        "break_even_fee_bps": account.break_even_fee_bps,
        "break_even_low": account.break_even_low,
        "break_even_high": account.break_even_high,
        "skill_by_symbol": by_symbol,
    }
