"""What has come true of the forecasts in a ledger: each judged by candles, each model's scored as a
training run's are.

It takes the ledger and the candles alone. The scale of the losses is the volatility that the ledger
holds, the only baseline is naive, and every forecast counts whose candles are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import parse_times, timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.evaluation.scoring import score_run
from pipeline.evaluation.significance import instants_needed
from pipeline.evaluation.unseen import NETWORK
from pipeline.forecasts.ledger import Ledger
from pipeline.report.tables import terminal_tables, verdict_banner

SAME_PRICE = 1e-9
"""relative difference up to which an entry's last price is the close of its candle"""
SHOWN = 5
"""entries that are named of those that cannot be judged"""
OTHER_PRICE = "its last price is not the close of these candles"


def first_needed_ms(ledger: Ledger, timeframe: str) -> int:
    """Open of the first candle that judging the forecasts of a timeframe takes: the one before the
    first candle t."""
    first = min(entry["base_time"] for entry in ledger.entries if entry["timeframe"] == timeframe)
    return int(_times_ms(pd.Series([first]))[0]) - timeframe_ms(timeframe)


def score_ledger(
    ledger: Ledger, path: Path, markets: Mapping[str, CandleSet], now_ms: int, fee_bps: float = 5.0
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Judge every forecast whose candle has closed, and score those of each model.

    Args:
        ledger: As `ledger.read` gives it, with at least one entry.
        path: Its file, for people.
        markets: Timeframe -> candles from `first_needed_ms` on.
        now_ms: Epoch ms; candles that close later are open.
        fee_bps: See `backtest`; every forecast is traded on.

    Returns:
        Plain data for JSON: "ledger" (path, entries, open, judged, sha256, torn, and the names of
        those without_candle or of other_price), "data" (`CandleSet.provenance` by timeframe) and
        "models", a dict each: model_sha256, timeframe, horizon, symbols, span, synthetic, n,
        n_calls, n_right, n_inside, n_skipped (candles from the first to the last without a judged
        forecast), delay_s (of entries, from the close of candle t on), and what `score_run`
        returns, None where there are fewer instants than a test takes. And the judged forecasts, a
        row
        each: the columns of predictions_v2.parquet that a ledger can fill, model_sha256, timeframe
            and horizon.
    """
    entries = pd.DataFrame(ledger.entries).rename(columns={"return": NETWORK})
    for name in ("made_at", "base_time", "closes_at"):
        entries[name] = _times_ms(entries[name])
    entries["state"] = "open"
    pieces = [
        _judge(rows, markets[key[0]], *key)
        for key, rows in entries[entries["closes_at"] <= now_ms].groupby(
            ["timeframe", "symbol", "horizon"]
        )
    ]
    closed = pd.concat(pieces).sort_values(["base_time", "symbol"]) if pieces else entries[:0]
    judged = closed[closed["state"] == "judged"]
    facts = {
        "path": str(path),
        "entries": len(entries),
        "open": len(entries) - len(closed),
        "judged": len(judged),
        "without_candle": _names(closed[closed["state"] == "without a candle"]),
        "other_price": _names(closed[closed["state"] == OTHER_PRICE]),
        "sha256": ledger.sha256,
        "torn": bool(ledger.torn),
    }
    models = [
        _score_model(rows, markets[key[1]], key, fee_bps)
        for key, rows in judged.groupby(["model_sha256", "timeframe", "horizon"], sort=False)
    ]
    data = {timeframe: market.provenance() for timeframe, market in markets.items()}
    return {"ledger": facts, "data": data, "models": models}, _predictions(judged)


def as_text(result: Mapping[str, Any]) -> str:
    """What a person at the terminal sees of `score_ledger`."""
    facts = result["ledger"]
    counts = f"{facts['entries']:,} forecasts, {facts['open']:,} open, {facts['judged']:,} judged"
    lines = [
        f"{facts['path']}: {counts}",
        f"the chain is whole; sha256 of line {facts['entries']}: {facts['sha256']}",
    ]
    if facts["torn"]:
        lines.append("! half a line at the end, which the next entry will cut off, is not counted")
    reasons = {
        "without_candle": "without a candle (a gap, or not fetched yet)",
        "other_price": OTHER_PRICE,
    }
    for name, what in reasons.items():
        if found := facts[name]:
            shown = ", ".join(found[:SHOWN]) + (
                f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
            )
            lines.append(f"! {len(found):,} left out, {what}: {shown}")
    if len(result["models"]) != 1:
        n = len(result["models"])
        lines.append(
            f"! {n} models, each scored alone: the best may just be the luckiest"
            if n
            else "nothing to score yet"
        )
    told = "".join(f"\n      {line}" for line in lines)
    return told + "".join(f"\n{_model_text(model)}" for model in result["models"])


def _times_ms(times: pd.Series) -> np.ndarray:
    return timestamps_ms(pd.DataFrame({"timestamp": parse_times(times, where="ledger")}))


def _judge(
    rows: pd.DataFrame, market: CandleSet, timeframe: str, symbol: str, horizon: int
) -> pd.DataFrame:
    """The rows with their state, base_price, current_return and actual_return, of one symbol's
    candles."""
    step_ms, candles = timeframe_ms(timeframe), market.candles.get(symbol)
    known = pd.Series(dtype=np.float64)
    if candles is not None:
        known = pd.Series(candles["close"].to_numpy(), index=timestamps_ms(candles))
    # (horizon + 2, n) closes of the candles t - 1, t, …, t + horizon: a target that spans a gap is
    # none.
    offsets = np.arange(-1, horizon + 1)[:, None] * step_ms
    closes = (
        known.reindex((rows["base_time"].to_numpy() + offsets).ravel())
        .to_numpy()
        .reshape(horizon + 2, -1)
    )
    base = closes[1]
    state = np.select(
        [
            np.isnan(closes[1:]).any(axis=0),
            np.abs(rows["last_price"].to_numpy() / base - 1) > SAME_PRICE,
        ],
        ["without a candle", OTHER_PRICE],
        "judged",
    )
    returns = {
        "current_return": np.log(base / closes[0]),
        "actual_return": np.log(closes[-1] / base),
    }
    return rows.assign(state=state, base_price=base, **returns)


def _predictions(judged: pd.DataFrame) -> pd.DataFrame:
    """The frame that `score_run` takes."""
    if judged.empty:
        return pd.DataFrame()
    columns = [
        "base_price",
        "current_return",
        "actual_return",
        "volatility",
        NETWORK,
        "q10",
        "q50",
        "q90",
        "p_up",
    ]
    keys = ["model_sha256", "timeframe", "horizon"]
    rows = judged.reset_index(drop=True)
    return rows[["symbol", *columns, *keys]].assign(
        timestamp=utc_from_ms(rows["base_time"].to_numpy()), naive=0.0
    )


def _score_model(
    rows: pd.DataFrame, market: CandleSet, key: tuple[str, str, int], fee_bps: float
) -> dict[str, Any]:
    """Counts, and from as many instants on as a test takes the scores, of one model's judged
    forecasts."""
    model_sha256, timeframe, horizon = key
    synthetic = bool(rows["synthetic"].any()) or market.is_synthetic
    step_ms, predictions = timeframe_ms(timeframe), _predictions(rows)
    spans = rows.groupby("symbol")["base_time"].agg(["min", "max", "size"])
    n_candles = int(((spans["max"] - spans["min"]) // step_ms + 1).sum())
    delay_s = (rows["made_at"] - rows["base_time"] - step_ms) / 1000
    agreement = np.sign(rows[NETWORK]) * np.sign(rows["actual_return"])
    counts: dict[str, Any] = {
        "model_sha256": model_sha256,
        "timeframe": timeframe,
        "horizon": horizon,
        "symbols": list(spans.index),
        "span": {
            "first": f"{predictions['timestamp'].min():%Y-%m-%dT%H:%MZ}",
            "last": f"{predictions['timestamp'].max():%Y-%m-%dT%H:%MZ}",
        },
        "synthetic": synthetic,
        "n": len(rows),
        "n_calls": int((agreement != 0).sum()),
        "n_right": int((agreement > 0).sum()),
        "n_inside": int(rows["actual_return"].between(rows["q10"], rows["q90"]).sum()),
        "n_skipped": n_candles - len(rows),
        "delay_s": {"median": float(delay_s.median()), "max": float(delay_s.max())},
    }
    if rows["base_time"].nunique() < instants_needed(horizon):
        return {**counts, "test": None, "backtest": None, "folds": []}
    return counts | score_run(
        [predictions],
        network=NETWORK,
        baselines=("naive",),
        interval_baselines=(),
        timeframe=timeframe,
        horizon=horizon,
        synthetic=synthetic,
        fee_bps=fee_bps,
        threshold=0.0,
        funding=market.funding,
    )


def _names(rows: pd.DataFrame) -> list[str]:
    return [f"{row.symbol} {row.timestamp[:16]}Z" for row in rows.itertuples()]


def _model_text(model: Mapping[str, Any]) -> str:
    span, delay = model["span"], model["delay_s"]
    lines = [
        f"model {model['model_sha256'][:12]}…, {model['timeframe']}: {model['n']:,} forecasts of "
        f"{', '.join(model['symbols'])}, from the candles of {span['first']} to {span['last']}",
        f"entered {delay['median']:,.0f} s (median), at most {delay['max']:,.0f} s after the close "
        f"they start from; {model['n_skipped']:,} candles between without a judged forecast",
    ]
    if model["test"] is None:
        lines += [
            f"direction right in {model['n_right']:,} of {model['n_calls']:,} calls, inside the 80 "
            f"% interval {model['n_inside']:,} of {model['n']:,}",
            f"too few to score: {instants_needed(model['horizon'])} candles are the least"
            + (" (and NO CLAIM: synthetic data)" if model["synthetic"] else ""),
        ]
    told = "".join(f"\n      {line}" for line in lines)
    return (
        told
        if model["test"] is None
        else f"{told}\n{terminal_tables(model)}\n{verdict_banner(model['test'])}"
    )
