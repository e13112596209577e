"""Years of minutes audited: time and peak memory of the whole command, beside pandas' own reading.

    python -m benchmarks.bench_audit
    python -m benchmarks.bench_audit --rows 1000000 --json audit.json

Two files: six columns with a header, and Binance's twelve without one. Each command runs in a
process of its own. The peer reads the same file by `pandas.read_csv` and checks nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.common import Ratio, print_ratios, write_report

MINUTE = 60_000
FIRST_MS = 1_500_000_000_000 // MINUTE * MINUTE
MOST_SECONDS, MOST_MIB = 10, 1024
"""Of 4,000,000 rows"""

PEER = "import sys, pandas; pandas.read_csv(sys.argv[1], header=0 if sys.argv[2] == '6' else None)"


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    form: str
    megabytes: float
    seconds: float
    peak_mib: float
    peer_seconds: float
    peer_peak_mib: float


def write_files(folder: Path, n: int) -> dict[str, Path]:
    """A file of each form, of a random walk."""
    rng = np.random.default_rng(0)
    close = np.round(30_000 * np.exp(np.cumsum(1e-4 * rng.standard_normal(n))), 2)
    open_ = np.concatenate([close[:1], close[:-1]])
    times, volume = FIRST_MS + MINUTE * np.arange(n), np.round(rng.gamma(2, 5, n), 5)
    rows = pd.DataFrame({"timestamp": times, "open": open_})
    rows["high"] = np.maximum(open_, close) + 1
    rows["low"] = np.minimum(open_, close) - 1
    rows = rows.assign(close=close, volume=volume)
    paths = {name: folder / name / "BTCUSDT_1m.csv" for name in ("6 columns", "12 columns")}
    for path in paths.values():
        path.parent.mkdir()
    rows.to_csv(paths["6 columns"], index=False)
    quote = np.round(volume * close, 2)
    rows = rows.assign(end=times + MINUTE - 1, quote=quote, n=rng.integers(10, 3000, n))
    rows = rows.assign(taker=volume / 2, taker_quote=quote / 2, ignored=0)
    rows.to_csv(paths["12 columns"], index=False, header=False)
    return paths


def run(*command: str) -> tuple[float, float]:
    """Seconds and peak MiB of a command, which must end well."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss / 1024


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4_000_000, help="minutes in each file")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for form, path in write_files(Path(folder), options.rows).items():
            ours = run("data_fetcher.py", "audit", str(path))
            peer = run("-c", PEER, str(path), form.split()[0])
            results.append(Result(form, path.stat().st_size / 1e6, *ours, *peer))
    print(f"{options.rows:,} minutes of CSV")
    print(f"{'':12}{'MB':>6}{'audit s':>10}{'MiB':>8}{'read_csv s':>12}{'MiB':>8}")
    ratios = []
    is_whole = options.rows == 4_000_000
    for result in results:
        print(
            f"{result.form:12}{result.megabytes:>6.0f}{result.seconds:>10.1f}"
            f"{result.peak_mib:>8.0f}{result.peer_seconds:>12.1f}{result.peer_peak_mib:>8.0f}"
        )
        name = f"{result.form}: read_csv / audit, seconds"
        ratios.append(Ratio(name, result.peer_seconds / result.seconds))
        if is_whole:
            ratios.append(Ratio(f"{result.form}: seconds", result.seconds, MOST_SECONDS, False))
            ratios.append(Ratio(f"{result.form}: MiB", result.peak_mib, MOST_MIB, False))
    print_ratios(ratios)
    write_report(options.json, {"results": [asdict(result) for result in results]}, ratios)


if __name__ == "__main__":
    main()
