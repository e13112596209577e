"""What has come true of the forecasts in a ledger, scored model by model as a training run's are.

It takes the ledger and the candles alone. The scale of the losses is the volatility that the ledger
holds, the only baseline is naive, and every forecast counts whose candles are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import SourceConfig
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.schema import parse_times, timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.evaluation.scoring import score_run
from pipeline.evaluation.significance import instants_needed
from pipeline.evaluation.unseen import NETWORK
from pipeline.forecasts import ledger as ledgers
from pipeline.forecasts.ledger import Ledger

SAME_PRICE = 1e-9
"""relative difference up to which an entry's last price is the close of its candle"""
JUDGED, OPEN, WITHOUT_CANDLE = "judged", "open", "without a candle"
OTHER_PRICE = "its last price is not the close of these candles"
"""states of an entry"""

KEYS = ["model_sha256", "timeframe", "horizon"]
"""columns of an entry: forecasts that share them are scored together"""
NUMBERS = ["base_price", "current_return", "actual_return", "volatility", NETWORK]
QUANTILES_AND_P = ["q10", "q50", "q90", "p_up"]


def read_begun(path: Path) -> Ledger:
    """A ledger that holds a forecast at least; a ValueError where it is broken or holds none."""
    ledger = ledgers.read(path)
    if not ledger.entries:
        raise ValueError(
            f"{path}: no forecast is in it yet; predict --ledger or live --ledger enters them"
        )
    return ledger


def fetch_markets(
    ledger: Ledger,
    candles_dir: Path | None = None,
    exchange: str | None = None,
    base_url: str | None = None,
) -> dict[str, CandleSet]:
    """Timeframe -> the candles that judging a ledger's entries takes, an exchange's by default.

    Args:
        ledger: With at least one entry.
        candles_dir: Folder of candles.
        exchange: See `SourceConfig`, as is base_url.
    """
    source = SourceConfig(
        source="auto" if candles_dir else "exchange",
        exchange=exchange,
        candles_dir=candles_dir,
        base_url=base_url,
        cache_dir=None,
    )
    symbols: dict[str, list[str]] = {}
    for entry in ledger.entries:
        symbols.setdefault(entry["timeframe"], []).append(entry["symbol"])
    return {
        timeframe: fetch_candles(
            list(dict.fromkeys(named)),
            timeframe,
            source=source,
            since_ms=first_needed_ms(ledger, timeframe),
        )
        for timeframe, named in symbols.items()
    }


def first_needed_ms(ledger: Ledger, timeframe: str) -> int:
    """Open of the first candle that judging a timeframe takes: the one before the first t."""
    first = min(entry["base_time"] for entry in ledger.entries if entry["timeframe"] == timeframe)
    return int(_times_ms(pd.Series([first]))[0]) - timeframe_ms(timeframe)


def score_ledger(
    ledger: Ledger, path: Path, markets: Mapping[str, CandleSet], now_ms: int, fee_bps: float = 5.0
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Judge every forecast whose candle has closed, and score those of each model.

    Args:
        ledger: As `ledger.read` gives it, with at least one entry.
        path: File of the ledger, for people.
        markets: Timeframe -> candles from `first_needed_ms` on.
        now_ms: Epoch ms; candles that close later are open.
        fee_bps: See `backtest`; every forecast is traded on.

    Returns:
        Plain data for JSON: "ledger" (path, entries, open, judged, sha256, torn, and the names of
        those without_candle or of other_price), "data" (`CandleSet.provenance` by timeframe) and
        "models", a dict each: model_sha256, timeframe, horizon, symbols, span, synthetic, n,
        n_calls, n_right, n_inside, n_skipped (candles from the first to the last without a judged
        forecast), delay_s (of entries, from the close of candle t on), and what `score_run`
        returns, None where there are fewer instants than a test takes.
        And the judged forecasts, a row each: the columns of predictions_v2.parquet that a ledger
        can fill, model_sha256, timeframe and horizon.
    """
    entries = pd.DataFrame(ledger.entries).rename(columns={"return": NETWORK})
    for name in ("made_at", "base_time", "closes_at"):
        entries[name] = _times_ms(entries[name])
    closed = entries[entries["closes_at"] <= now_ms]
    series = closed.groupby(["timeframe", "symbol", "horizon"])
    pieces = [_judge(rows, markets[timeframe], *rest) for (timeframe, *rest), rows in series]
    if pieces:
        closed = pd.concat(pieces).sort_values(["base_time", "symbol"])
    else:
        closed = closed.assign(state=OPEN)
    judged = closed[closed["state"] == JUDGED]
    facts = {
        "path": str(path),
        "entries": len(entries),
        "open": len(entries) - len(closed),
        "judged": len(judged),
        "without_candle": _names(closed[closed["state"] == WITHOUT_CANDLE]),
        "other_price": _names(closed[closed["state"] == OTHER_PRICE]),
        "sha256": ledger.sha256,
        "torn": bool(ledger.torn),
    }
    models = [
        _score_model(rows, markets[timeframe], fee_bps)
        for (_, timeframe, _), rows in judged.groupby(KEYS, sort=False)
    ]
    data = {timeframe: market.provenance() for timeframe, market in markets.items()}
    return {"ledger": facts, "data": data, "models": models}, _predictions(judged)


def _times_ms(times: pd.Series) -> np.ndarray:
    return timestamps_ms(pd.DataFrame({"timestamp": parse_times(times, where="ledger")}))


def _judge(rows: pd.DataFrame, market: CandleSet, symbol: str, horizon: int) -> pd.DataFrame:
    """One symbol's rows with their state, base_price, current_return and actual_return."""
    candles = market.candles.get(symbol)
    known = pd.Series(dtype=np.float64)
    if candles is not None:
        known = pd.Series(candles["close"].to_numpy(), index=timestamps_ms(candles))
    # (horizon + 2, n) closes of the candles t - 1, t, …, t + horizon: a target that spans a gap is
    # none.
    offsets = np.arange(-1, horizon + 1)[:, None] * timeframe_ms(market.timeframe)
    times = rows["base_time"].to_numpy() + offsets
    closes = known.reindex(times.ravel()).to_numpy().reshape(times.shape)
    base = closes[1]
    lacks_candle = np.isnan(closes[1:]).any(axis=0)
    has_other_price = np.abs(rows["last_price"].to_numpy() / base - 1) > SAME_PRICE
    return rows.assign(
        state=np.select([lacks_candle, has_other_price], [WITHOUT_CANDLE, OTHER_PRICE], JUDGED),
        base_price=base,
        current_return=np.log(base / closes[0]),
        actual_return=np.log(closes[-1] / base),
    )


def _predictions(judged: pd.DataFrame) -> pd.DataFrame:
    """The frame that `score_run` takes."""
    if judged.empty:
        return pd.DataFrame()
    rows = judged.reset_index(drop=True)
    return rows[["symbol", *NUMBERS, *QUANTILES_AND_P, *KEYS]].assign(
        timestamp=utc_from_ms(rows["base_time"].to_numpy()), naive=0.0
    )


def _score_model(rows: pd.DataFrame, market: CandleSet, fee_bps: float) -> dict[str, Any]:
    """Counts of one model's judged forecasts, and their scores where there are enough to test."""
    predictions = _predictions(rows)
    model_sha256, timeframe, horizon = predictions.loc[0, KEYS]
    step_ms, times = timeframe_ms(timeframe), predictions["timestamp"]
    synthetic = bool(rows["synthetic"].any()) or market.is_synthetic
    spans = rows.groupby("symbol")["base_time"].agg(["min", "max"])
    n_candles = int(((spans["max"] - spans["min"]) // step_ms + 1).sum())
    delay_s = (rows["made_at"] - rows["base_time"] - step_ms) / 1000
    agreement = np.sign(rows[NETWORK]) * np.sign(rows["actual_return"])
    counts: dict[str, Any] = {
        "model_sha256": model_sha256,
        "timeframe": timeframe,
        "horizon": int(horizon),
        "symbols": list(spans.index),
        "span": {
            "first": f"{times.min():%Y-%m-%dT%H:%MZ}",
            "last": f"{times.max():%Y-%m-%dT%H:%MZ}",
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
        horizon=int(horizon),
        synthetic=synthetic,
        fee_bps=fee_bps,
        threshold=0.0,
        funding=market.funding,
    )


def _names(rows: pd.DataFrame) -> list[str]:
    """Names of entries: symbol, and the minute of the candle that was forecast."""
    return [f"{row.symbol} {row.timestamp[:16]}Z" for row in rows.itertuples()]
