"""v7's grid of networks, one after another and side by side: seconds, and whether the results are
the same.

    python -m benchmarks.bench_jobs
    python -m benchmarks.bench_jobs --symbols BTC/USDT ETH/USDT --epochs 10 --json jobs.json

Synthetic candles, the document's network of 357,348 parameters, everything included from the first
import of a job to its scores. Ray's own start is part of the time and is told apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from benchmarks.common import Ratio, print_ratios, write_report
from config import ConfigV7
from generations.v7.features import V7_WARMUP
from generations.v7.networks import PREDICTIONS
from generations.v7.train_v7_main import main as train
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_market
from pipeline.training import parallel

TIMEFRAMES = ("15m", "1h")


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    workers: int
    networks: int
    seconds: float
    start_seconds: float
    """of them for a job that does nothing: processes, and Ray"""


def write_market(folder: Path, symbols: list[str], candles: int) -> None:
    """The same candles for every run."""
    for timeframe in TIMEFRAMES:
        for symbol, frame in synthetic_market(
            symbols, timeframe, candles + V7_WARMUP, seed=1
        ).items():
            write_candles(frame, folder, symbol, timeframe)


def measure(
    workers: int, market: Path, symbols: list[str], candles: int, epochs: int
) -> tuple[Result, pd.DataFrame]:
    """Train the grid; its time, and its predictions."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        list(parallel.run_jobs({"nothing": dict}, workers=workers))
        started = time.perf_counter()
        train(
            ConfigV7(
                candles_dir=market,
                symbols=tuple(symbols),
                timeframes=TIMEFRAMES,
                candles=candles,
                epochs=epochs,
                early_stopping_patience=epochs,
                workers=workers,
                output_dir=Path(folder),
            )
        )
        seconds = time.perf_counter() - started
        rows = [
            pd.read_parquet(Path(folder) / PREDICTIONS.format(timeframe))
            for timeframe in TIMEFRAMES
        ]
    return Result(workers, len(symbols) * len(TIMEFRAMES), seconds, started - began), pd.concat(
        rows
    )


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--symbols", nargs="+", default=["BTC/USDT", "ETH/USDT", "SOL/USDT"], help="a network each"
    )
    parser.add_argument("--candles", type=int, default=2000, help="candles a coin and timeframe")
    parser.add_argument("--epochs", type=int, default=6, help="of each network")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="networks trained at once"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    results, first = [], None
    print(
        f"{len(options.symbols) * len(TIMEFRAMES)} networks of {options.candles:,} candles, "
        f"{options.epochs} epochs"
    )
    print(f"{'workers':>7}{'seconds':>10}{'of them start':>15}{'ratio':>8}  predictions")
    with tempfile.TemporaryDirectory() as market:
        write_market(Path(market), options.symbols, options.candles)
        for workers in options.workers:
            result, predictions = measure(
                workers, Path(market), options.symbols, options.candles, options.epochs
            )
            results.append(result)
            first = predictions if first is None else first
            print(
                f"{workers:>7}{result.seconds:>10.0f}{result.start_seconds:>15.1f}"
                f"{results[0].seconds / result.seconds:>8.2f} "
                f" {'the same' if predictions.equals(first) else 'others'}"
            )
    ratios = []
    if len(results) > 1:
        last = results[-1]
        gain = results[0].seconds / last.seconds
        ratios = [
            Ratio(
                f"v7's grid: {results[0].workers} worker / {last.workers} workers", gain, target=1.5
            )
        ]
    print_ratios(ratios)
    write_report(options.json, {"results": [asdict(result) for result in results]}, ratios)


if __name__ == "__main__":
    main()
