"""All that is said about a run's forecasts: scores, verdicts, money, and each fold's own result."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from pipeline.bundle import files
from pipeline.candles.schema import timeframe_ms
from pipeline.evaluation.backtest import backtest
from pipeline.evaluation.metrics import forecast_fault
from pipeline.evaluation.verdict import compare_forecasts, evaluate_forecasts

logger = logging.getLogger(__name__)

BREAK_EVEN = ("break_even_fee_bps", "break_even_low", "break_even_high")
"""Of the backtest of the tenth of the forecasts that are largest, a cut that is known only
afterwards"""


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
) -> dict[str, Any]:
    """Score the forecasts of all folds together, and each fold's alone.

    Args:
        parts: Predictions of each fold as `pipeline.forecasts.test_part` gives them; usually one.
        network: Name of the network's column.
        baselines: Names of the baselines' columns.
        interval_baselines: Baselines with quantiles; one that lacks any of them, because it did not
            converge, is left out.
        timeframe: Of the candles.
        horizon: Candles that a forecast spans.
        synthetic: Whether the candles were made up.
        fee_bps: See `backtest`, as are threshold and funding.
        threshold: In volatilities.
        funding: Symbol -> settled rates, or None.

    Returns:
        Plain data for JSON (`artifacts.plain`): "test" (`evaluate_forecasts`), "backtest" (None
        where the network's forecasts are unusable) and "folds" (span, size and comparison with
        naive of each).
    """
    predictions = pd.concat(parts, ignore_index=True)
    raw = {
        name: predictions[f"{name}_raw"]
        for name in (*baselines, network)
        if f"{name}_raw" in predictions
    }
    complete = [name for name in interval_baselines if f"{name}_q10" in predictions]
    complete = [name for name in complete if predictions[f"{name}_q10"].notna().all()]
    usable = forecast_fault(predictions, network) is None
    test = evaluate_forecasts(
        predictions,
        network=network,
        baselines=baselines,
        horizon=horizon,
        synthetic=synthetic,
        directions=raw if usable else None,
        quantile_baselines=complete,
    )
    money = None
    if usable:
        rules: dict[str, Any] = {
            "timeframe_ms": timeframe_ms(timeframe),
            "horizon": horizon,
            "fee_bps": fee_bps,
        }
        rules["funding"] = funding or None
        account = backtest(predictions, network, threshold=threshold, **rules)
        cut = float(np.quantile(np.abs(predictions[network] / predictions["volatility"]), 0.9))
        tenth = backtest(predictions, network, threshold=cut, n_bootstrap=0, **rules)
        equity = account.equity
        money = account.as_dict() | {
            "top_tenth": {name: getattr(tenth, name) for name in ("threshold", *BREAK_EVEN)},
            "equity": {
                "timestamp": [
                    f"{time:%Y-%m-%dT%H:%MZ}"
                    for time in equity["timestamp"].iloc[:: _stride(equity)]
                ],
                **{
                    name: equity[name].iloc[:: _stride(equity)].tolist()
                    for name in ("strategy", "buy_and_hold")
                },
            },
        }
    folds = [_fold(part, network, horizon) for part in parts]
    return files.plain({"test": test, "backtest": money, "folds": folds})


def _stride(rows: pd.DataFrame, most: int = 1000) -> int:
    """Step at which a curve has at most so many points."""
    return -(-len(rows) // most)


def _fold(part: pd.DataFrame, network: str, horizon: int) -> dict[str, Any]:
    facts = {
        "from": f"{part['timestamp'].min():%Y-%m-%dT%H:%MZ}",
        "to": f"{part['timestamp'].max():%Y-%m-%dT%H:%MZ}",
        "n": len(part),
    }
    if forecast_fault(part, network) is not None:
        return {**facts, "skill": None, "p_value": None, "verdict": "LOSES"}
    compared = asdict(compare_forecasts(part, network, ["naive"], horizon)[0])
    return facts | {name: compared[name] for name in ("skill", "p_value", "verdict")}
