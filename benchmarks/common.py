"""What the benchmarks share: ratios with their targets, and the limits that the machine itself
sets."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """A figure that counts: against a peer of the same run, or against a target of its own."""

    name: str
    value: float
    target: float | None = None
    at_least: bool = True
    """False: the target is an upper bound"""

    @property
    def verdict(self) -> str:
        """ "met", "missed", or "" without a target.

        Example:
            >>> Ratio("ours / theirs", 3.9, target=4.0, at_least=False).verdict
            'met'
        """
        if self.target is None:
            return ""
        return (
            "met"
            if (self.value >= self.target if self.at_least else self.value <= self.target)
            else "missed"
        )


def print_ratios(ratios: Iterable[Ratio]) -> None:
    """A line a ratio."""
    for ratio in ratios:
        bound = (
            ""
            if ratio.target is None
            else f"{'at least' if ratio.at_least else 'at most'} {ratio.target:,g}"
        )
        print(f"{ratio.name:66}{ratio.value:>10,.2f}  {bound:>16}  {ratio.verdict}")


def write_report(path: Path | None, report: dict[str, Any], ratios: Iterable[Ratio]) -> None:
    """Write a benchmark's numbers as JSON, its ratios under that key; nothing without a path."""
    if path is not None:
        content = {**report, "ratios": [asdict(ratio) for ratio in ratios]}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_ratios(path: Path) -> list[Ratio]:
    """The ratios of a file that `write_report` wrote."""
    return [Ratio(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["ratios"]]


def best_seconds(call: Callable[[], object], rounds: int) -> float:
    """Least time of so many calls."""
    best = np.inf
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return float(best)


def matrix_rate(size: int = 1024, rounds: int = 30) -> float:
    """Floating-point operations a second of NumPy's float32 product of two square matrices, on all
    cores it uses."""
    matrix = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    return 2 * size**3 / best_seconds(lambda: matrix @ matrix, rounds)


def forward_operations(model: Any) -> int:
    """Floating-point operations of a forward pass of one sample, matrix products alone.

    A multiplication and an addition count for each weight that meets an input.
    An LSTM of u units meets its f inputs and its u states with 4 gates each, every step: 2 · 4u ·
    (f + u) · steps. A convolution of k taps: 2 · k · f · filters · steps. A dense layer: 2 · f ·
    units. Training takes three times as many: backward once for the weights and once for the
    inputs.
    """
    total = 0
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "LSTM":
            _, steps, n_inputs = layer.input.shape
            total += 2 * 4 * layer.units * (n_inputs + layer.units) * steps
        elif kind == "Conv1D":
            total += (
                2
                * layer.kernel.shape[0]
                * layer.input.shape[-1]
                * layer.filters
                * layer.output.shape[1]
            )
        elif kind == "Dense":
            total += 2 * layer.input.shape[-1] * layer.units
        elif layer.weights and kind != "BatchNormalization":
            raise ValueError(
                f"{layer.name}: operations of {kind} layers are not counted; count them here first"
            )
    return int(total)


def peak_mib() -> float:
    """Most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
