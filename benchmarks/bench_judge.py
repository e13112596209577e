"""Time and memory of judge.py: half a million forecasts of 19 coins, from file to verdict.

    python -m benchmarks.bench_judge
    python -m benchmarks.bench_judge --forecasts 50000 --json judge.json

A Parquet file of forecasts with intervals and probabilities, and candles in memory that are random
walks, with 2,000 more a coin before the first forecast. Each kind of judging runs in a process of
its own, on one core: with naive alone, and with all baselines, which are fitted first. The goal:
500,000 forecasts in at most 10 seconds and 1 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.bench_features import use_one_core
from benchmarks.common import Ratio, peak_mib, print_ratios, write_report
from config import TRADING_PAIRS

N_COINS = 19
BEFORE = 2_000
"""Candles a coin before the first forecast"""
MOST_SECONDS, MOST_MIB = 10.0, 1024.0
KINDS = {"naive alone": ("naive",), "all baselines": None}


def write_files(folder: Path, n: int) -> None:
    """Candles of random walks, and forecasts of them with a little skill."""
    rng = np.random.default_rng(0)
    n_hours = n // N_COINS + BEFORE + 1
    hours = pd.date_range("2020-01-01", periods=n_hours, freq="h", tz="UTC").as_unit("ms")
    made, market = [], []
    for pair in TRADING_PAIRS[:N_COINS]:
        move = 0.005 * rng.standard_t(4, n_hours)
        close = 100 * np.exp(np.cumsum(move))
        open_ = np.concatenate([[100.0], close[:-1]])
        high, low = 1.001 * np.maximum(open_, close), np.minimum(open_, close) / 1.001
        frame = pd.DataFrame({"timestamp": hours, "open": open_, "high": high, "low": low})
        market.append(frame.assign(close=close, volume=rng.gamma(2, 5, n_hours), symbol=pair))
        forecast = 0.01 * np.append(move[1:], 0) + 1e-4 * rng.standard_normal(n_hours)
        rows = pd.DataFrame({"symbol": pair, "timestamp": hours, "forecast_return": forecast})
        rows = rows.assign(q10=forecast - 0.008, q50=forecast, q90=forecast + 0.008)
        made.append(rows.assign(p_up=0.5 + 20 * forecast.clip(-0.02, 0.02))[BEFORE:-1])
    pd.concat(made).to_parquet(folder / "forecasts.parquet", index=False)
    pd.concat(market).to_parquet(folder / "candles.parquet", index=False)


def judge_once(folder: Path, kind: str) -> dict[str, float]:
    """Seconds by the clock and of the processor, peak MiB, and the number of forecasts.

    The libraries are imported before.
    """
    use_one_core()
    import arch.bootstrap  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import xgboost  # noqa: F401

    import pipeline.evaluation.judging  # noqa: F401
    from judge import judge
    from pipeline.forecasts.baselines import BASELINE_NAMES

    whole = pd.read_parquet(folder / "candles.parquet")
    candles = {
        str(pair): rows.drop(columns="symbol").reset_index(drop=True)
        for pair, rows in whole.groupby("symbol", sort=False)
    }
    del whole
    before = peak_mib()
    began, worked = time.perf_counter(), time.process_time()
    judged = judge(folder / "forecasts.parquet", candles, baselines=KINDS[kind] or BASELINE_NAMES)
    spent = {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - worked,
    }
    n = judged.metrics["forecasts"]["test"]["n"]
    return {**spent, "peak_mib": peak_mib(), "mib_before": before, "n": n}


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--forecasts", type=int, default=500_000, help="of all coins together (default 500000)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(judge_once(Path(options.one[0]), options.one[1])))
        return
    results, ratios = {}, []
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), options.forecasts)
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.bench_judge", "--one", folder, kind]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads of one core would only wait
            )
            results[kind] = json.loads(done.stdout.splitlines()[-1])
    is_whole = options.forecasts >= 500_000
    for kind, found in results.items():
        print(
            f"{found['n']:,.0f} forecasts of {N_COINS} coins, {kind}: {found['seconds']:.1f} s "
            f"({found['processor_seconds']:.1f} of the processor), {found['peak_mib']:.0f} MiB, of "
            f"these {found['mib_before']:.0f} libraries and candles"
        )
        bounds = (MOST_SECONDS, MOST_MIB) if is_whole else (None, None)
        ratios.append(Ratio(f"judge, {kind}: seconds", found["seconds"], bounds[0], False))
        ratios.append(Ratio(f"judge, {kind}: MiB", found["peak_mib"], bounds[1], False))
    print_ratios(ratios)
    write_report(options.json, {"results": results}, ratios)


if __name__ == "__main__":
    main()
