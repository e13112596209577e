"""A whole training run on more windows than memory would hold: time and peak memory, at two numbers
of candles.

    python -m benchmarks.bench_memory
    python -m benchmarks.bench_memory --candles 25000 50000 --json memory.json

22 synthetic coins, one epoch of a small network, baselines, intervals and the report included; each
run in a process of its own. Beside it what the windows would take if they were laid out.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.common import Ratio, peak_mib, print_ratios, write_report

N_COINS = 22


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    candles: int
    windows: int
    seconds: float
    peak_mib: float
    laid_out_mib: float
    """float32 windows of 60 × 16 numbers"""


def _run(pipe: Connection, candles: int) -> None:
    from config import ConfigV2
    from train_v2_production import main as train

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        metrics = train(
            ConfigV2(
                source="synthetic",
                symbols=("all",),
                candles=candles,
                epochs=1,
                batch_size=1024,
                lstm_units=(16, 8),
                conv_filters=8,
                conv_lstm_units=8,
                dense_units=(8, 8),
                output_dir=Path(folder),
            )
        )
    windows = sum(part["n"] for part in metrics["split"].values())
    pipe.send(
        Result(
            candles, windows, time.perf_counter() - began, peak_mib(), windows * 60 * 16 * 4 / 2**20
        )
    )


def measure(candles: int) -> Result:
    """A run in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(there, candles))
    process.start()
    result: Result = here.recv()
    process.join()
    return result


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--candles", type=int, nargs="+", default=[25_000, 50_000], help="candles a coin"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    results = [measure(candles) for candles in options.candles]
    print(f"{N_COINS} coins, one epoch of a small network, everything included")
    print(
        f"{'candles a coin':>14}{'windows':>12}{'seconds':>10}{'peak MiB':>10}"
        f"{'windows laid out, MiB':>23}"
    )
    for result in results:
        print(
            f"{result.candles:>14,}{result.windows:>12,}{result.seconds:>10.0f}"
            f"{result.peak_mib:>10.0f}{result.laid_out_mib:>23,.0f}"
        )
    ratios = []
    if len(results) > 1:
        first, last = results[0], results[-1]
        added = (last.peak_mib - first.peak_mib) * 2**20 / (last.windows - first.windows)
        print(
            f"{added:,.0f} bytes of memory a further window; laid out it would take {60 * 16 * 4:,}"
        )
        ratios = [Ratio("memory of a further window: laid out / ours", 60 * 16 * 4 / added)]
    print_ratios(ratios)
    write_report(options.json, {"results": [asdict(result) for result in results]}, ratios)


if __name__ == "__main__":
    main()
