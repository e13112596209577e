"""All that is said about a run's forecasts: scores, verdicts, money, and each fold's own result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.bundle import files
from pipeline.candles.schema import timeframe_ms
from pipeline.evaluation.backtest import backtest
from pipeline.evaluation.decay import age_curve
from pipeline.evaluation.delayed_entry import DelayedEntry, delayed_entries
from pipeline.evaluation.directions import as_directions, evaluate_directions
from pipeline.evaluation.metrics import forecast_fault
from pipeline.evaluation.tear_sheet import tear_sheet
from pipeline.evaluation.verdict import compare_forecasts, evaluate_forecasts

BREAK_EVEN = ("break_even_fee_bps", "break_even_low", "break_even_high")
"""What is kept of the backtest of the largest tenth of the forecasts."""


def score_run(
    parts: Sequence[pd.DataFrame],
    *,
    network: str,
    baselines: Sequence[str],
    interval_baselines: Sequence[str],
    timeframe: str,
    horizon: int,
    synthetic: bool,
    fee_bps: float,
    threshold: float,
    funding: Mapping[str, pd.DataFrame | None],
    prices_between: Mapping[str, pd.Series] = {},
    says_sizes: bool = True,
    trained_until: Sequence[np.datetime64] | None = None,
) -> dict[str, Any]:
    """Score the forecasts of all folds together, and each fold's alone.

    Args:
        parts: Predictions of each fold as `pipeline.forecasts.test_part` gives them; usually one.
        network: Name of the network's column.
        baselines: Names of the baselines' columns.
        interval_baselines: Baselines with quantiles; one that has none is left out.
        timeframe: Length of a candle.
        horizon: Candles that a forecast spans.
        synthetic: Whether the candles were made up.
        fee_bps: See `backtest`, as are threshold and funding.
        threshold: In volatilities.
        funding: Symbol -> settled rates, or None.
        prices_between: Symbol -> prices by instant, for late entries (`finer.prices_between`).
        says_sizes: Whether the network's forecasts have a size; else they are directions, each one
            volatility far, and judged by `evaluate_directions`.
        trained_until: When the training of each fold ended (`age_curve`), where that is known.

    Returns:
        Plain data for JSON (`files.plain`): "test" (`evaluate_forecasts`), "backtest" (None
        where the network's forecasts are unusable), "delayed_entry" (`delayed_entries`), "folds"
        (span, size and comparison with naive of each) and "age_curve" (`age_curve`, or None).
    """
    predictions = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    predictions = predictions.reset_index(drop=True)
    usable = forecast_fault(predictions, network) is None
    directions = {}
    if usable:  # a forecast that was shrunk to 0 keeps the direction that it had before
        names = [name for name in (*baselines, network) if f"{name}_raw" in predictions]
        directions = {name: predictions[f"{name}_raw"] for name in names}
    lowest = predictions.reindex(columns=[f"{name}_q10" for name in interval_baselines])
    is_there = lowest.notna().any()
    evaluate: Callable[..., Any] = evaluate_forecasts if says_sizes else evaluate_directions
    test = evaluate(
        predictions,
        network=network,
        baselines=baselines,
        horizon=horizon,
        synthetic=synthetic,
        directions=directions,
        quantile_baselines=[name for name in interval_baselines if is_there[f"{name}_q10"]],
    )
    money, late = None, []
    if usable:
        rules: dict[str, Any] = {
            "timeframe_ms": timeframe_ms(timeframe),
            "horizon": horizon,
            "fee_bps": fee_bps,
            "funding": funding or None,
        }
        money = _trade(predictions, network, threshold, rules)
        late = delayed_entries(predictions, network, prices_between, threshold=threshold, **rules)
        if not says_sizes:
            late = [_without_errors(entry) for entry in late]
    if not says_sizes and usable:
        parts = [as_directions(part, ["naive", network]) for part in parts]
    curve = None
    if usable and trained_until is not None:
        step = np.timedelta64(timeframe_ms(timeframe), "ms")
        curve = age_curve(parts, trained_until, network, "naive", step=step, horizon=horizon)
    return files.plain(
        {
            "test": test,
            "backtest": money,
            "delayed_entry": late,
            "folds": [_fold(part, network, horizon) for part in parts],
            "age_curve": curve,
        }
    )


def _trade(
    predictions: pd.DataFrame, network: str, threshold: float, rules: Mapping[str, Any]
) -> dict[str, Any]:
    """The backtest, its tear sheet, and the break-even fee of the largest tenth."""
    account = backtest(predictions, network, threshold=threshold, **rules)
    cut = float(np.quantile(np.abs(predictions[network] / predictions["volatility"]), 0.9))
    tenth = backtest(predictions, network, threshold=cut, n_bootstrap=0, **rules)
    return account.as_dict() | {
        "top_tenth": {name: getattr(tenth, name) for name in ("threshold", *BREAK_EVEN)},
        **tear_sheet(account.equity, rules["timeframe_ms"] * rules["horizon"]),
    }


def _without_errors(late: DelayedEntry) -> DelayedEntry:
    """A late entry of forecasts without a size, of which only directions and money are defined."""
    blank: Any = {"skill": None, "statistic": None, "p_value": None, "skill_by_symbol": {}}
    return {**late, "at_close": late["at_close"] | blank, "delayed": late["delayed"] | blank}


def _fold(part: pd.DataFrame, network: str, horizon: int) -> dict[str, Any]:
    facts = {
        "from": f"{part['timestamp'].min():%Y-%m-%dT%H:%MZ}",
        "to": f"{part['timestamp'].max():%Y-%m-%dT%H:%MZ}",
        "n": len(part),
    }
    if forecast_fault(part, network) is not None:
        return {**facts, "skill": None, "p_value": None, "verdict": "LOSES"}
    [naive] = compare_forecasts(part, network, ["naive"], horizon)
    return {**facts, "skill": naive.skill, "p_value": naive.p_value, "verdict": naive.verdict}
