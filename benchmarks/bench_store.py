"""Cost of storing and updating 1m candles: a month against a year, and against rewriting the file
with pandas.

    python -m benchmarks.bench_store
    python -m benchmarks.bench_store --rounds 500 --json store.json

Each series is stored piece by piece in a process of its own, whose peak memory counts everything,
Python and the libraries included. Then updates of one new candle take turns between the series, and
the median counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.common import Ratio, peak_mib, print_ratios, write_report
from pipeline.candles import store
from pipeline.candles.schema import utc_from_ms

SERIES = {"month": 43_200, "year": 525_600}
PIECE_ROWS = 50_000
START_MS = 1_704_067_200_000  # 2024-01-01 00:00 UTC
BTC = "BTC/USDT"


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    rows: int
    store_seconds: float
    """to store it piece by piece"""
    store_peak_mib: float
    """most memory of that process, 20 updates of one candle included"""
    read_peak_mib: float
    """the same after the whole series was read, too"""
    update_ms: float
    """median of an update of one new candle that overlaps by one"""
    update_kib: float
    """median of what it reads and writes; 0 where the system does not tell"""
    pandas_ms: float
    """median of the same done by reading, appending and writing the file with pandas"""


def make_rows(begin: int, end: int) -> pd.DataFrame:
    """Candles of these minutes, the same whatever piece they come in."""
    minutes = np.arange(begin, end)
    close = np.round(
        50_000
        + 5_000 * np.sin(minutes / 9_973)
        + 50 * np.sin(minutes * 1.7) * np.sin(minutes * 0.31),
        2,
    )
    open_ = np.round(close + 10 * np.sin(minutes * 2.3), 2)
    return pd.DataFrame(
        {
            "timestamp": utc_from_ms(START_MS + 60_000 * minutes),
            "open": open_,
            "high": np.maximum(open_, close) + 5,
            "low": np.minimum(open_, close) - 5,
            "close": close,
            "volume": np.round(np.exp(3 + 2 * np.sin(minutes * 0.77)), 5),
        }
    )


def update(directory: Path, begin: int, end: int) -> None:
    """Update the series by these minutes; an AssertionError unless all but an overlap of one are
    new."""
    done = store.update_series(directory, BTC, "1m", make_rows(begin, end), venue="binance")
    assert (
        done.added == end - begin - done.checked and done.checked <= 1 and len(done.rewritten) == 0
    )


def build(directory: Path, n_rows: int) -> tuple[float, float, float]:
    """Store a series, update it 20 times, read it; seconds of the first, peak MiB before and after
    the last."""
    began = time.perf_counter()
    for begin in range(0, n_rows, PIECE_ROWS):
        update(directory, max(0, begin - 1), min(n_rows, begin + PIECE_ROWS))
    seconds = time.perf_counter() - began
    for minute in range(n_rows, n_rows + 20):
        update(directory, minute - 1, minute + 1)
    stored_mib = peak_mib()
    series = store.read_series(directory, BTC, "1m")
    assert series is not None and len(series) == n_rows + 20
    return seconds, stored_mib, peak_mib()


def kib_moved() -> float:
    """What this process has read and written so far, in KiB; 0 where the system does not tell."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        return 0.0
    lines = dict(line.split(": ") for line in counts.read_text().splitlines())
    return (int(lines["rchar"]) + int(lines["wchar"])) / 2**10


def append_with_pandas(path: Path, minute: int) -> None:
    """What a script without a store does for a new candle."""
    pd.concat([pd.read_parquet(path), make_rows(minute, minute + 1)], ignore_index=True).to_parquet(
        path, index=False
    )


def measure(folder: Path, rounds: int) -> list[Result]:
    """Build the series, then let their updates take turns."""
    built = {}
    for name, n_rows in SERIES.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            built[name] = pool.apply(build, (folder / name, n_rows))
        make_rows(0, n_rows).to_parquet(folder / f"{name}.parquet", index=False)
    seconds: dict[str, list[float]] = {name: [] for name in SERIES}
    moved: dict[str, list[float]] = {name: [] for name in SERIES}
    pandas_seconds: dict[str, list[float]] = {name: [] for name in SERIES}
    for turn in range(rounds):
        for name, n_rows in SERIES.items():
            minute = n_rows + 20 + turn
            before, began = kib_moved(), time.perf_counter()
            update(folder / name, minute - 1, minute + 1)
            seconds[name].append(time.perf_counter() - began)
            moved[name].append(kib_moved() - before)
            if turn < 5:
                began = time.perf_counter()
                append_with_pandas(folder / f"{name}.parquet", n_rows + turn)
                pandas_seconds[name].append(time.perf_counter() - began)
    return [
        Result(
            name,
            n_rows,
            *built[name],
            1000 * float(np.median(seconds[name])),
            float(np.median(moved[name])),
            1000 * float(np.median(pandas_seconds[name])),
        )
        for name, n_rows in SERIES.items()
    ]


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=200, help="updates of one candle of each series (default 200)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.rounds)
    versions = {
        "python": platform.python_version(),
        **{module.__name__: module.__version__ for module in (np, pd, pa)},
        "machine": platform.machine(),
    }
    ratio = results[1].update_ms / results[0].update_ms
    print(f"1m candles, {options.rounds} updates of one candle each; {versions}")
    print(
        f"{'':7}{'rows':>9}{'stored in s':>13}{'peak MiB':>10}{'after reading':>15}"
        f"{'update ms':>11}{'KiB':>7}{'pandas ms':>11}"
    )
    for result in results:
        print(
            f"{result.name:7}{result.rows:>9,}{result.store_seconds:>13.2f}"
            f"{result.store_peak_mib:>10.0f}{result.read_peak_mib:>15.0f}"
            f"{result.update_ms:>11.2f}{result.update_kib:>7.0f}{result.pandas_ms:>11.1f}"
        )
    ratios = [
        Ratio("store: update of a year / of a month", ratio, 2.0, at_least=False),
        Ratio(
            "store: pandas rewriting a year / our update",
            results[1].pandas_ms / results[1].update_ms,
        ),
    ]
    print_ratios(ratios)
    report = {
        "rounds": options.rounds,
        "versions": versions,
        "results": [asdict(r) for r in results],
    }
    write_report(options.json, report, ratios)


if __name__ == "__main__":
    main()
