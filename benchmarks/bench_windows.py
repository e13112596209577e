"""An epoch of shuffled windows: gathered a batch at a time, laid out at once, or by Keras' own data
set.

    python -m benchmarks.bench_windows
    python -m benchmarks.bench_windows --candles 20000 --json windows.json

60 × 16 windows in batches of 128, one core. All must yield as many windows; the contenders take
turns, the best round of each counts, and memory is what a round holds at once beyond the candles.
"""

from __future__ import annotations

import argparse
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.bench_features import use_one_core
from benchmarks.common import Ratio, best_seconds, print_ratios, write_report

LOOKBACK, N_FEATURES, BATCH = 60, 16, 128


def contenders(n_candles: int) -> dict[str, Callable[[], int]]:
    """Name -> a function that goes through an epoch and returns the number of windows."""
    from benchmarks.training_worker import synthetic_samples
    from pipeline.bundle.network import import_keras

    keras = import_keras()
    from pipeline.training.fit import WindowBatches

    scaled = synthetic_samples(n_candles)
    part = scaled.split.train
    rows, target, end = scaled.rows, scaled.target[part], scaled.samples.end[part]

    def gathered() -> int:
        batches = WindowBatches(scaled, part, BATCH, shuffle_seed=1)
        return sum(len(batches[index][0]) for index in range(len(batches)))

    def laid_out() -> int:
        views = np.lib.stride_tricks.sliding_window_view(rows, LOOKBACK, axis=0).transpose(0, 2, 1)
        windows = np.ascontiguousarray(views[end - LOOKBACK + 1])
        order = np.random.default_rng(1).permutation(len(windows))
        batches = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
        return sum(len((windows[batch], target[batch])[0]) for batch in batches)

    data = keras.utils.timeseries_dataset_from_array(
        rows[end[0] - LOOKBACK + 1 : end[-1] + 1],
        target,
        LOOKBACK,
        batch_size=BATCH,
        shuffle=True,
        seed=1,
    )

    def keras_data() -> int:
        return sum(len(windows) for windows, _ in data)

    return {
        "gathered (ours)": gathered,
        "laid out at once": laid_out,
        "timeseries_dataset_from_array": keras_data,
    }


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--candles", type=int, default=20_000, help="windows to go through (default 20000)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="epochs of each contender (default 5)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    use_one_core()
    calls = contenders(options.candles)
    counts = {name: call() for name, call in calls.items()}
    if set(counts.values()) != {options.candles}:
        raise AssertionError(f"the contenders differ in their windows: {counts}")
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(options.rounds):
        for name, call in calls.items():
            best[name] = min(best[name], best_seconds(call, 1))
    peak = {}
    for name, call in calls.items():
        tracemalloc.start()
        call()
        peak[name] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    print(
        f"{options.candles:,} windows of {LOOKBACK} × {N_FEATURES}, shuffled, batches of {BATCH}, "
        "one core"
    )
    print(f"{'':32}{'ms':>9}{'windows/s':>13}{'peak MiB':>10}")
    for name, seconds in best.items():
        print(
            f"{name:32}{1000 * seconds:>9.1f}{options.candles / seconds:>13,.0f}{peak[name]:>10.1f}"
        )
    print("(memory of NumPy and Python; what TensorFlow holds is not seen)")
    ours, *others = best
    found = [Ratio(f"windows: {other} / ours", best[other] / best[ours]) for other in others]
    print_ratios(found)
    write_report(options.json, {"seconds": best, "peak_mib": peak}, found)


if __name__ == "__main__":
    main()
