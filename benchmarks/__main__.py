"""All benchmarks, one after another, and a table of their ratios at the end.

    python -m benchmarks
    python -m benchmarks --only features training --json bench.json

Each runs in a process of its own and writes its numbers; the file of --json holds all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import print_ratios, read_ratios

BENCHMARKS = (
    "features",
    "windows",
    "training",
    "run",
    "inference",
    "store",
    "audit",
    "fetch",
    "history",
    "evaluation",
    "judge",
    "memory",
    "jobs",
)


def main() -> None:
    """Parse the options, run the benchmarks, print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS, help="these alone"
    )
    parser.add_argument(
        "--json", type=Path, default=Path("bench.json"), help="of all numbers (default bench.json)"
    )
    options = parser.parse_args()
    content: dict[str, object] = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
    ratios, failed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            print(f"\n--- python -m benchmarks.bench_{name}", flush=True)
            path = Path(folder) / f"{name}.json"
            done = subprocess.run(
                [sys.executable, "-m", f"benchmarks.bench_{name}", "--json", str(path)]
            )
            if done.returncode:
                failed.append(name)
                continue
            content[name] = json.loads(path.read_text(encoding="utf-8"))
            ratios += read_ratios(path)
    options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print("\n--- ratios")
    print_ratios(ratios)
    print(f"all numbers: {options.json}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
