"""The training step of the house's networks on a GPU, by Keras' backend, beside PyTorch on cuDNN.

    python -m benchmarks.bench_gpu --json gpu.json
    python -m benchmarks.bench_gpu --contenders keras-jax torch --networks v2 --batches 128

Random windows of each network's own size, Huber loss, clipping by value and Adam for all.
Keras trains with the pipeline's `fit`, so gathering, callbacks and the saving of the state count.
PyTorch takes the same batches, and its LSTM layers are cuDNN's. Each contender has a process of its
own, one after another, and the best epoch counts. It runs on a CPU too, where there is no GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training_worker import CLIP_VALUE, HUBER_DELTA, LEARNING_RATE, SEED

WINDOWS: dict[str, tuple[int, int]] = {
    "v2": (60, 18),
    "pooled": (12, 15),
    "v1_final": (60, 14),
    "v9_direction": (60, 46),
    "v9_price": (60, 46),
}
"""Network -> lookback and features of its windows."""
CONTENDERS = {
    "keras-tensorflow": ("tensorflow", "tensorflow"),
    "keras-jax": ("jax", "jax"),
    "keras-torch": ("torch", "torch"),
    "torch": ("torch", "torch"),
}
"""Name -> library that it needs, and Keras' backend."""
STEPS_AN_EPOCH, EPOCHS = 30, 4


def build_keras(name: str) -> Any:
    """The house's network."""
    from benchmarks.bench_rivals import build_dual
    from models.dual_stream import build_dual_stream
    from models.multitask import build_direction, build_price
    from models.price_level import build_price_level

    lookback, n_features = WINDOWS[name]
    if name == "v2":
        return build_dual_stream(lookback, n_features)
    if name == "pooled":
        return build_dual(lookback, n_features)
    builders: dict[str, Callable[[int, int], Any]] = {
        "v1_final": build_price_level,
        "v9_direction": build_direction,
        "v9_price": build_price,
    }
    return builders[name](lookback, n_features)


def random_samples(lookback: int, n_features: int, n_train: int) -> Any:
    """Scaled samples of noise, so many to train on and a batch's worth to validate."""
    from pipeline.samples.scaling import ScaledSamples
    from pipeline.samples.splitting import Split
    from pipeline.samples.windows import Samples

    generator = np.random.default_rng(SEED)
    n_samples = n_train + 8
    rows = generator.random((n_samples + lookback, n_features), dtype=np.float32)
    zeros = np.zeros(n_samples)
    samples = Samples(
        symbols=("BTC/USDT",),
        feature_cols=tuple(f"feature_{number}" for number in range(n_features)),
        rows=rows,
        row_ms=np.arange(len(rows)),
        end=np.arange(n_samples) + lookback - 1,
        symbol=np.zeros(n_samples, int),
        target_time=np.arange(n_samples).astype("datetime64[ms]"),
        base_price=zeros,
        current_return=zeros,
        log_return=zeros,
        volatility=zeros,
        timeframe="1h",
        lookback=lookback,
        horizon=1,
        step_ms=1,
    )
    part = np.arange(n_samples)
    cuts = [samples.target_time[row] for row in (n_train, n_train, -1, -1)]
    split = Split(part[:n_train], part[n_train:], part[:0], *cuts)
    target = generator.random(n_samples, dtype=np.float32)
    return ScaledSamples(samples, split, rows, target)


def keras_epochs(name: str, batch_size: int) -> Iterator[float]:
    """Seconds of each epoch, by the pipeline's own fit."""
    from pipeline.bundle.network import import_keras

    keras = import_keras()
    from config import FitConfig
    from pipeline.training.fit import Objective, fit

    keras.utils.set_random_seed(SEED)
    scaled = random_samples(*WINDOWS[name], batch_size * STEPS_AN_EPOCH)
    seconds: list[float] = []
    config = FitConfig(
        epochs=EPOCHS,
        batch_size=batch_size,
        learning_rate=LEARNING_RATE,
        clip_value=CLIP_VALUE,
        early_stopping_patience=EPOCHS,
        reduce_lr_patience=EPOCHS,
        seed=SEED,
    )
    objective = Objective(keras.losses.Huber(delta=HUBER_DELTA))
    with tempfile.TemporaryDirectory() as folder:
        fit(
            build_keras(name),
            scaled,
            objective,
            config,
            Path(folder) / "best.h5",
            on_epoch=lambda _, logs: seconds.append(logs["seconds"]),
        )
    yield from seconds


def torch_epochs(name: str, batch_size: int) -> Iterator[float]:
    """Seconds of each epoch, by the loop that PyTorch's users write."""
    import torch

    from benchmarks.torch_twin import build_twin
    from pipeline.training.fit import WindowBatches

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(SEED)
    lookback, n_features = WINDOWS[name]
    scaled = random_samples(lookback, n_features, batch_size * STEPS_AN_EPOCH)
    batches = WindowBatches(scaled, scaled.split.train, batch_size, shuffle_seed=SEED)
    network = build_twin(name, lookback, n_features).to(device)
    adam = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    huber = torch.nn.HuberLoss(delta=HUBER_DELTA)
    for _ in range(EPOCHS):
        began = time.perf_counter()
        for index in range(STEPS_AN_EPOCH):
            windows, target = (torch.from_numpy(part).to(device) for part in batches[index])
            adam.zero_grad()
            loss = huber(network(windows), target)
            loss.backward()
            torch.nn.utils.clip_grad_value_(network.parameters(), CLIP_VALUE)
            adam.step()
        loss.item()  # waits for the GPU
        yield time.perf_counter() - began


def work(contender: str, networks: list[str], batches: list[int]) -> None:
    """What a contender's process does: a line of JSON for each network and size of a batch."""
    epochs: Callable[[str, int], Iterator[float]] = keras_epochs
    if contender == "torch":
        epochs = torch_epochs
    for batch_size in batches:
        for name in networks:
            entry: dict[str, Any] = {"contender": contender, "network": name, "batch": batch_size}
            try:
                first, *later = epochs(name, batch_size)
            except Exception as error:  # a backend may lack an operation: told, and the next tried
                entry["error"] = f"{type(error).__name__}: {str(error)[:200]}"
            else:
                entry["ms_a_step"] = 1000 * min(later) / STEPS_AN_EPOCH
                entry["first_seconds"] = first
            print("answer " + json.dumps(entry), flush=True)


def device_name() -> str:
    """The GPU's name by its driver, or that there is none."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"no GPU, {os.cpu_count()} CPU cores"


def main() -> None:
    """Parse the options, measure, print a line for each result as it comes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--networks", nargs="+", default=list(WINDOWS), choices=WINDOWS)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 1024, 32])
    parser.add_argument("--seconds", type=float, default=150, help="at most, for each contender")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.contenders[0], options.networks, options.batches)
        return
    results: list[dict[str, Any]] = []
    print(device_name())
    for contender in options.contenders:
        library, backend = CONTENDERS[contender]
        if importlib.util.find_spec(library) is None:
            print(f"{contender} left out: {library} is not installed")
            continue
        command = [sys.executable, "-m", "benchmarks.bench_gpu", "--work"]
        command += ["--contenders", contender, "--networks", *options.networks]
        command += ["--batches", *(str(size) for size in options.batches)]
        environment = {**os.environ, "KERAS_BACKEND": backend}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, timeout=options.seconds
            )
            output, errors = done.stdout, done.stderr
        except subprocess.TimeoutExpired as ended:
            output, errors = ended.stdout or b"", b"stopped by --seconds"
        found = [line for line in output.decode().splitlines() if line.startswith("answer ")]
        results += [json.loads(line.removeprefix("answer ")) for line in found]
        for line in found:
            print(line.removeprefix("answer "), flush=True)
        if len(found) < len(options.networks) * len(options.batches):
            print(f"{contender} ended early: {errors.decode()[-300:].strip()}", flush=True)
    if options.json:
        report = {"device": device_name(), "results": results}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
