"""Speed and memory of v2's features, as ratios against peers in the same run.

    python -m benchmarks.bench_features
    python -m benchmarks.bench_features --candles 50000 --json features.json

One symbol, one core. The contenders take turns, so that a busy moment of the machine hits all of
them, and the best round of each counts. Before anything is timed, each must agree with ours
wherever its definition is the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import ta
import talib

from benchmarks.common import Ratio, print_ratios, write_report
from feature_engineering import V2_FEATURES, V2_WARMUP, compute_features
from pipeline.candles.synthetic import synthetic_candles

SYMBOL = "BTC/USDT"
TIMEFRAME = "1h"
TOLERANCE = 1e-6
"""Largest difference from ours after the warm-up, in standard deviations of the feature."""


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    n_features: int
    seconds: float
    """best round"""
    candles_per_second: float
    times_ours: float
    """seconds over those of ours: above 1 is slower than ours"""
    peak_mib: float
    """most memory held at once beyond the candles, the result included"""


def pandas_features(candles: pd.DataFrame) -> pd.DataFrame:
    """The same 18 features in plain pandas; smoothings start from their first value, so they agree
    after a warm-up."""
    open_, high, low, close, volume = (
        candles[name] for name in ("open", "high", "low", "close", "volume")
    )
    previous = close.shift()
    log_return = np.log(close / previous)
    change = close.diff()
    gain = change.clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    loss = (-change).clip(lower=0).ewm(alpha=1 / 14, adjust=False).mean()
    ranges = pd.concat([high - low, (high - previous).abs(), (low - previous).abs()], axis=1)
    macd = close.ewm(span=12, adjust=False).mean() - close.ewm(span=26, adjust=False).mean()
    last_48 = volume.rolling(48)
    return pd.DataFrame(
        {
            "open_gap": np.log(open_ / previous),
            "high_ratio": np.log(high / close),
            "low_ratio": np.log(low / close),
            "body": np.log(close / open_),
            "volume_z": (volume - last_48.mean()) / last_48.std(ddof=0),
            "log_return": log_return,
            "volatility_14": log_return.rolling(14).std(ddof=0),
            "volatility_20": log_return.rolling(20).std(ddof=0),
            "momentum_10": close.pct_change(10),
            "momentum_20": close.pct_change(20),
            "price_range": (high - low) / close,
            "rsi": 100 * gain / (gain + loss),
            "macd": macd / close,
            "macd_signal": macd.ewm(span=9, adjust=False).mean() / close,
            "volume_ratio": volume / volume.rolling(20).mean(),
            "atr": 100 * ranges.max(axis=1).ewm(alpha=1 / 14, adjust=False).mean() / close,
            "funding_rate": candles["funding_rate"],
            "open_interest_change": np.log(candles["open_interest"]).diff(),
        }
    )


def ta_features(candles: pd.DataFrame) -> pd.DataFrame:
    """The eight features that the `ta` package serves, as a typical project computes them."""
    high, low, close = candles["high"], candles["low"], candles["close"]
    log_return = ta.others.DailyLogReturnIndicator(close).daily_log_return()
    macd = ta.trend.MACD(close, window_slow=26, window_fast=12, window_sign=9)
    return pd.DataFrame(
        {
            "rsi": ta.momentum.RSIIndicator(close, window=14).rsi(),
            "macd": macd.macd(),
            "macd_signal": macd.macd_signal(),
            "atr": ta.volatility.AverageTrueRange(high, low, close, window=14).average_true_range(),
            "volatility_14": log_return.rolling(14).std(ddof=0),
            "volatility_20": log_return.rolling(20).std(ddof=0),
            "momentum_10": ta.momentum.ROCIndicator(close, window=10).roc(),
            "momentum_20": ta.momentum.ROCIndicator(close, window=20).roc(),
        }
    )


def ta_in_our_units(candles: pd.DataFrame) -> pd.DataFrame:
    """`ta`'s features over the close or in shares, as ours are; for the comparison, not for the
    clock."""
    features, close = ta_features(candles), candles["close"]
    features[["macd", "macd_signal"]] = features[["macd", "macd_signal"]].div(close, axis=0)
    features["atr"] *= 100 / close
    features[["momentum_10", "momentum_20"]] /= 100
    features[["volatility_14", "volatility_20"]] /= 100  # it gives log-returns in percent
    return features


def talib_alone(arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """TA-Lib's own functions for the ten features that are indicators, arrays in and arrays out:
    the floor."""
    high, low, close, volume, log_return = (
        arrays[name] for name in ("high", "low", "close", "volume", "log_return")
    )
    return [
        talib.SMA(volume, timeperiod=48),
        talib.STDDEV(volume, timeperiod=48),
        talib.SMA(volume, timeperiod=20),
        talib.STDDEV(log_return, timeperiod=14),
        talib.STDDEV(log_return, timeperiod=20),
        talib.ROCP(close, timeperiod=10),
        talib.ROCP(close, timeperiod=20),
        talib.RSI(close, timeperiod=14),
        *talib.MACD(close, fastperiod=12, slowperiod=26, signalperiod=9),
        talib.NATR(high, low, close, timeperiod=14),
    ]


def require_agreement(name: str, theirs: pd.DataFrame, ours: pd.DataFrame) -> None:
    """Raise an AssertionError unless all of their features equal ours after the warm-up."""
    difference = (theirs - ours[theirs.columns]).iloc[V2_WARMUP:].abs() / ours[theirs.columns].std()
    worst = difference.max(skipna=False)
    wrong = worst[~(worst < TOLERANCE)]
    if len(wrong):
        raise AssertionError(
            f"{name} computes something else: differs by {wrong.to_dict()} standard deviations"
        )


def measure(
    contenders: Mapping[str, tuple[int, Callable[[], object]]], n_candles: int, rounds: int
) -> list[Result]:
    """Time the contenders in turns, then each one's memory apart, since tracing slows everything
    down.

    Args:
        contenders: Name -> number of features and a function without arguments; the first one is
            ours.
        n_candles: Candles that one call works through.
        rounds: Calls of each; the best one counts.
    """
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, (_, function) in contenders.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    ours = best[next(iter(contenders))]
    results = []
    for name, (n_features, function) in contenders.items():
        tracemalloc.start()
        function()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        seconds = best[name]
        results.append(
            Result(name, n_features, seconds, n_candles / seconds, seconds / ours, peak / 2**20)
        )
    return results


def use_one_core() -> None:
    """Keep this process on one core, where the system lets it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--candles", type=int, default=200_000, help="synthetic candles (default 200000)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="calls of each contender, the best counts (default 7)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    use_one_core()
    candles = synthetic_candles(options.candles, symbol=SYMBOL, timeframe=TIMEFRAME, seed=42)
    ours = compute_features(candles, TIMEFRAME)
    require_agreement("pandas", pandas_features(candles), ours)
    require_agreement("ta", ta_in_our_units(candles), ours)
    arrays = {name: candles[name].to_numpy() for name in ("high", "low", "close", "volume")}
    arrays["log_return"] = ours["log_return"].to_numpy()
    contenders: dict[str, tuple[int, Callable[[], object]]] = {
        "compute_features": (len(V2_FEATURES), lambda: compute_features(candles, TIMEFRAME)),
        "plain pandas": (len(V2_FEATURES), lambda: pandas_features(candles)),
        "ta": (8, lambda: ta_features(candles)),
        "TA-Lib's C functions alone": (10, lambda: talib_alone(arrays)),
    }
    results = measure(contenders, options.candles, options.rounds)
    versions = {
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (np, pd, talib)},
        "machine": platform.machine(),
    }
    print(
        f"{options.candles:,} candles of one symbol, one core, best of {options.rounds}; {versions}"
    )
    print(f"{'':28}{'features':>9}{'ms':>10}{'candles/s':>14}{'x ours':>9}{'peak MiB':>10}")
    for result in results:
        print(
            f"{result.name:28}{result.n_features:>9}{1000 * result.seconds:>10.1f}"
            f"{result.candles_per_second:>14,.0f}{result.times_ours:>9.2f}{result.peak_mib:>10.1f}"
        )
    _, pandas, ta_alone, floor = results
    ratios = [
        Ratio(
            "18 features: ours / TA-Lib's own C functions",
            1 / floor.times_ours,
            4.0,
            at_least=False,
        ),
        Ratio("18 features: plain pandas / ours", pandas.times_ours),
        Ratio("8 features of `ta` / our 18", ta_alone.times_ours),
    ]
    print_ratios(ratios)
    report = {
        "candles": options.candles,
        "rounds": options.rounds,
        "versions": versions,
        "results": [asdict(result) for result in results],
    }
    write_report(options.json, report, ratios)


if __name__ == "__main__":
    main()
