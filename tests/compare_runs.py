"""Do two versions of the code forecast the same? Compares the runs that each has left in a folder.

    python -m tests.compare_runs BEFORE AFTER

Every predictions*.parquet below BEFORE is compared with the file of the same path below AFTER:
rows, columns and every number, and "test" of the metrics file beside it. A difference above 1e-9,
or a file that is missing, is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TOLERANCE = 1e-9
"""Largest difference between log-returns; the order of a sum may move."""


def largest_difference(before: pd.DataFrame, after: pd.DataFrame) -> float:
    """Largest absolute difference of any number; infinite where rows, columns or texts differ."""
    if list(before.columns) != list(after.columns) or len(before) != len(after):
        return float("inf")
    largest = 0.0
    for name in before.columns:
        left, right = before[name].to_numpy(), after[name].to_numpy()
        if not np.issubdtype(left.dtype, np.floating):
            if not (left == right).all():
                return float("inf")
            continue
        if (np.isnan(left) != np.isnan(right)).any():
            return float("inf")
        difference = np.abs(left - right)
        largest = max(largest, float(np.nanmax(difference, initial=0.0)))
    return largest


def numbers_of(content: Any, place: str = "") -> dict[str, Any]:
    """Every leaf of nested JSON by its place, such as "models.lstm.mae"."""
    if isinstance(content, dict):
        parts = [numbers_of(value, f"{place}.{name}") for name, value in content.items()]
    elif isinstance(content, list):
        parts = [numbers_of(value, f"{place}[{i}]") for i, value in enumerate(content)]
    else:
        return {place: content}
    return {name: leaf for part in parts for name, leaf in part.items()}


def scores_that_differ(before: Path, after: Path) -> list[str]:
    """Places in the "test" of two metrics files that differ by more than rounding."""
    left, right = (numbers_of(json.loads(path.read_text()).get("test")) for path in (before, after))
    differing = sorted(left.keys() ^ right.keys())
    for place in sorted(left.keys() & right.keys()):
        a, b = left[place], right[place]
        if isinstance(a, float) and isinstance(b, float):
            is_same = bool(np.isclose(a, b, rtol=1e-9, atol=1e-12))
        else:
            is_same = a == b
        if not is_same:
            differing.append(place)
    return differing


def main(before: Path, after: Path) -> int:
    """Compare and print a line a file; returns how many differ."""
    n_bad = 0
    for path in sorted(before.rglob("predictions*.parquet")):
        name = path.relative_to(before)
        if not (after / name).is_file():
            print(f"{name}: missing in {after}")
            n_bad += 1
            continue
        left, right = pd.read_parquet(path), pd.read_parquet(after / name)
        difference = largest_difference(left, right)
        verdict = "equal bit for bit" if difference == 0 else f"largest difference {difference:.3g}"
        print(f"{name}: {len(left):,} rows, {len(left.columns)} columns, {verdict}")
        n_bad += difference > TOLERANCE
        for metrics in sorted(path.parent.glob("metrics*.json")):
            differing = scores_that_differ(metrics, (after / name).parent / metrics.name)
            if differing:
                print(f"  {metrics.name}: {len(differing)} scores differ, first {differing[0]}")
                n_bad += 1
    return n_bad


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1]), Path(sys.argv[2]))))
