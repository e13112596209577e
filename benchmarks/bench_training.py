"""A training step of v2's network: Keras on tensorflow and on jax as the project trains, beside a
plain PyTorch twin.

    python -m benchmarks.bench_training
    python -m benchmarks.bench_training --batches 32 --rounds 5 --json training.json

The same 60 × 16 windows, Huber loss, clipping by value and Adam for all; data gathering counts, and
so do the pipeline's callbacks. Each contender has a process of its own, they take turns, and the
best epoch of each counts. The peer is the faster of the twin with one thread and with one a core.
What is not installed (torch, jax) is named and left out. The limit: operations of a step over the
matrix rate that this machine shows in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Ratio, forward_operations, matrix_rate, print_ratios, write_report
from pipeline.bundle.network import import_keras

N_CORES = os.cpu_count() or 1
CONTENDERS: dict[str, tuple[str, str, str, int]] = {
    "Keras, tensorflow": ("tensorflow", "keras", "tensorflow", N_CORES),
    "Keras, jax": ("jax", "keras", "jax", N_CORES),
    "PyTorch, 1 thread": ("torch", "torch", "torch", 1),
    f"PyTorch, {N_CORES} threads": ("torch", "torch", "torch", N_CORES),
    "PyTorch compiled, 1 thread": ("torch", "torch-compiled", "torch", 1),
}
"""Name -> library it needs, kind of `training_worker`, Keras' backend, threads."""
PEERS = ("PyTorch, 1 thread", f"PyTorch, {N_CORES} threads")
WINDOWS_AN_EPOCH = 3_200


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    batch_size: int
    ms_a_step: float
    """best epoch"""
    median_ms: float
    """of the epochs"""
    compile_seconds: float
    """what the first epoch took longer than the best one"""
    peak_mib: float
    parameters: int


class Worker:
    """A contender's process; raises a RuntimeError with its last line of error where it ends
    early."""

    def __init__(
        self, kind: str, backend: str, batch_size: int, n_steps: int, n_threads: int
    ) -> None:
        numbers = [str(number) for number in (batch_size, n_steps, n_threads)]
        command = [sys.executable, "-m", "benchmarks.training_worker", kind, *numbers]
        environment = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": str(n_threads)}
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.answers = [self._read()]

    def train(self) -> None:
        """One epoch more."""
        assert self._process.stdin is not None
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()
        self.answers.append(self._read())

    def end(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        errors = self._process.communicate()[1].strip().splitlines()
        raise RuntimeError(errors[-1][:200] if errors else "ended without a word")


def measure(
    batch_size: int, rounds: int, *, with_compiled: bool
) -> tuple[list[Result], dict[str, str]]:
    """Results of all contenders, and why others were left out."""
    n_steps = max(WINDOWS_AN_EPOCH // batch_size, 1)
    workers: dict[str, Worker] = {}
    absent: dict[str, str] = {}
    for name, (library, kind, backend, n_threads) in CONTENDERS.items():
        if importlib.util.find_spec(library) is None:
            absent[name] = f"{library} is not installed"
        elif kind != "torch-compiled" or with_compiled:
            try:
                workers[name] = Worker(kind, backend, batch_size, n_steps, n_threads)
            except RuntimeError as error:
                absent[name] = str(error)
    for _ in range(rounds):
        for worker in workers.values():
            worker.train()
    results = []
    for name, worker in workers.items():
        worker.end()
        first, *later = (entry["seconds"] for entry in worker.answers)
        last, best = worker.answers[-1], min(later)
        median = sorted(later)[len(later) // 2]
        results.append(
            Result(
                name,
                batch_size,
                1000 * best / n_steps,
                1000 * median / n_steps,
                first - best,
                last["peak_mib"],
                last["parameters"],
            )
        )
    if len({result.parameters for result in results}) != 1:
        raise AssertionError(
            f"the contenders differ in size: {[(r.name, r.parameters) for r in results]}"
        )
    return results, absent


def ratios(results: list[Result]) -> list[Ratio]:
    """Peer over ours, for each batch size; above 1 we are faster. The targets are those of a batch
    of 32."""
    found = []
    for batch_size in dict.fromkeys(result.batch_size for result in results):
        ms = {
            result.name: result.ms_a_step for result in results if result.batch_size == batch_size
        }
        peers = [ms[name] for name in PEERS if name in ms]
        ours = {name: value for name, value in ms.items() if name.startswith("Keras")}
        if not peers or "Keras, tensorflow" not in ours:
            continue
        targets = (0.85, 1.0) if batch_size == 32 else (None, None)
        found += [
            Ratio(
                f"step, batch {batch_size}: PyTorch / Keras on tensorflow",
                min(peers) / ours["Keras, tensorflow"],
                targets[0],
            ),
            Ratio(
                f"step, batch {batch_size}: PyTorch / Keras on its best backend",
                min(peers) / min(ours.values()),
                targets[1],
            ),
        ]
    return found


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[32, 128], help="windows a step (default 32 128)"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="epochs of each contender after its first (default 5)"
    )
    parser.add_argument(
        "--compiled", action="store_true", help="PyTorch's torch.compile too, which takes minutes"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    import_keras()
    from models.dual_stream import build_dual_stream

    operations = 3 * forward_operations(build_dual_stream(60, 16))
    rate = matrix_rate()
    results: list[Result] = []
    absent: dict[str, str] = {}
    for batch_size in options.batches:
        more, absent = measure(batch_size, options.rounds, with_compiled=options.compiled)
        results += more
    print(
        f"v2's network, Python {platform.python_version()}, {N_CORES} cores, best of "
        f"{options.rounds} epochs; matrix rate {rate / 1e9:.0f} GFLOP/s, {operations / 1e6:.1f} "
        "MFLOP a window"
    )
    print(
        f"{'':28}{'batch':>6}{'ms a step':>11}{'median':>9}{'limit ms':>10}{'steps/s':>9}"
        f"{'compile s':>11}{'peak MiB':>10}"
    )
    for result in results:
        limit = 1000 * result.batch_size * operations / rate
        print(
            f"{result.name:28}{result.batch_size:>6}{result.ms_a_step:>11.1f}"
            f"{result.median_ms:>9.1f}{limit:>10.2f}{1000 / result.ms_a_step:>9.1f}"
            f"{result.compile_seconds:>11.1f}{result.peak_mib:>10.0f}"
        )
    for name, reason in absent.items():
        print(f"{name} left out: {reason}")
    found = ratios(results)
    print_ratios(found)
    report = {
        "results": [asdict(r) for r in results],
        "absent": absent,
        "matrix_rate": rate,
        "operations": operations,
    }
    write_report(options.json, report, found)


if __name__ == "__main__":
    main()
