"""The default run in whole, as `make train` starts it: time of each phase, imports included, and
peak memory.

    python -m benchmarks.bench_run
    python -m benchmarks.bench_run --candles-dir DIR --json run.json

Without a folder of candles they are synthetic, so that the network is not part of it. At most 60 s
are demanded.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import Ratio, print_ratios, write_report

TARGET_SECONDS = 60.0
HEADING = re.compile(r"^\[\d+/\d+\] (\w+)")


def run(arguments: list[str], folder: Path) -> tuple[dict[str, float], str]:
    """Seconds of each phase, by when its heading appeared, and what the run printed."""
    command = [sys.executable, "-u", "train_v2_production.py", *arguments]
    command += ["--output-dir", str(folder / "out"), "--cache-dir", str(folder / "cache")]
    began = time.perf_counter()
    phase, printed, seconds = "Python, imports", "", {}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            printed += line
            if heading := HEADING.match(line):
                seconds[phase], began, phase = (
                    time.perf_counter() - began,
                    time.perf_counter(),
                    heading[1],
                )
    seconds[phase] = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"the run ended with status {process.returncode}: {printed[-300:]}")
    return seconds, printed


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--candles-dir", type=Path, help="folder of BTCUSDT_1h and ETHUSDT_1h (default: synthetic)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    source = (
        ["--candles-dir", str(options.candles_dir)]
        if options.candles_dir
        else ["--source", "synthetic"]
    )
    with tempfile.TemporaryDirectory() as name:
        seconds, printed = run(source, Path(name))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (
        2**20 if sys.platform == "darwin" else 2**10
    )
    total, epochs = sum(seconds.values()), len(re.findall(r"^ +epoch ", printed, re.MULTILINE))
    for phase, value in seconds.items():
        print(f"{phase:20}{value:>8.1f} s{f'   {epochs} epochs' if phase == 'Train' else ''}")
    print(f"{'in all':20}{total:>8.1f} s   peak memory {peak:.0f} MiB")
    found = [Ratio("default run in whole, seconds", total, TARGET_SECONDS, at_least=False)]
    print_ratios(found)
    write_report(options.json, {"seconds": seconds, "epochs": epochs, "peak_mib": peak}, found)


if __name__ == "__main__":
    main()
