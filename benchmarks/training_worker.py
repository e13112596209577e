"""A contender of `bench_training` in a process of its own: trains an epoch for each line it reads,
and tells its time.

    python -m benchmarks.training_worker keras 32 100 2        (KERAS_BACKEND chooses the backend)
    python -m benchmarks.training_worker torch 32 100 1

The first epoch, compilation included, is trained at once. The pipeline's own `fit` trains, with its
batches, callbacks and state; PyTorch takes the same batches.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import peak_mib

LOOKBACK, SEED = 60, 0
HUBER_DELTA, LEARNING_RATE, CLIP_VALUE, DROPOUT = 0.5, 3e-4, 1.0, 0.2
N_VALIDATION = 8
"""Windows; `fit` wants some, and the training step is what counts."""


def synthetic_samples(n_train: int) -> Any:
    """Scaled samples of one synthetic coin: 60 × 16 windows, so many to train on."""
    from feature_engineering import V2_CANDLE_FEATURES, V2_WARMUP, compute_features
    from pipeline.candles.synthetic import synthetic_market
    from pipeline.samples.scaling import scale_on_train
    from pipeline.samples.splitting import split_samples
    from pipeline.samples.windows import make_windows

    candles = synthetic_market(("BTC/USDT",), "1h", n_train + V2_WARMUP + LOOKBACK + 100, seed=SEED)
    features = {
        symbol: compute_features(frame, "1h", V2_CANDLE_FEATURES)
        for symbol, frame in candles.items()
    }
    samples = make_windows(features, candles, "1h", LOOKBACK, 1, V2_WARMUP)
    split = split_samples(samples)
    part = np.arange(n_train + N_VALIDATION)
    split = dataclasses.replace(split, train=part[:n_train], val=part[n_train:])
    return scale_on_train(samples, split)[0]


def answer(**numbers: Any) -> None:
    """Tell the parent these numbers, and wait for its next line; the end of its lines ends the
    process."""
    print("answer " + json.dumps({**numbers, "peak_mib": peak_mib()}), flush=True)
    if not sys.stdin.readline():
        sys.exit()


def train_keras(batch_size: int, n_steps: int) -> None:
    """The pipeline's fit; an epoch's time holds its validation and its saving of the state, too."""
    from pipeline.bundle.network import import_keras

    keras = import_keras()
    from config import FitConfig
    from models.dual_stream import build_dual_stream
    from pipeline.training.fit import Objective, fit

    scaled = synthetic_samples(batch_size * n_steps)
    keras.utils.set_random_seed(SEED)
    model = build_dual_stream(LOOKBACK, scaled.samples.n_features, dropout=DROPOUT)
    parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    with tempfile.TemporaryDirectory() as name:
        fit(
            model,
            scaled,
            Objective(keras.losses.Huber(delta=HUBER_DELTA)),
            FitConfig(
                epochs=10**6,
                batch_size=batch_size,
                learning_rate=LEARNING_RATE,
                clip_value=CLIP_VALUE,
                early_stopping_patience=10**6,
                reduce_lr_patience=10**6,
                seed=SEED,
            ),
            Path(name) / "best.h5",
            on_epoch=lambda _, logs: answer(seconds=logs["seconds"], parameters=parameters),
        )


def train_torch(batch_size: int, n_steps: int, n_threads: int, *, is_compiled: bool) -> None:
    """The loop that PyTorch's users write: zero_grad, loss, backward, clip, step."""
    import torch

    from benchmarks.torch_twin import DualStream, count_parameters
    from pipeline.training.fit import WindowBatches

    torch.set_num_threads(n_threads)
    torch.manual_seed(SEED)
    scaled = synthetic_samples(batch_size * n_steps)
    batches = WindowBatches(scaled, scaled.split.train, batch_size, shuffle_seed=SEED)
    network = DualStream(scaled.samples.n_features, DROPOUT)
    forecast = torch.compile(network) if is_compiled else network
    adam = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    huber = torch.nn.HuberLoss(delta=HUBER_DELTA)
    while True:
        began = time.perf_counter()
        for index in range(n_steps):
            windows, target = (torch.from_numpy(part) for part in batches[index])
            adam.zero_grad()
            huber(forecast(windows), target).backward()
            torch.nn.utils.clip_grad_value_(network.parameters(), CLIP_VALUE)
            adam.step()
        batches.on_epoch_end()
        answer(seconds=time.perf_counter() - began, parameters=count_parameters(network))


def main() -> None:
    """What to train comes as arguments: keras or torch or torch-compiled, batch size, steps an
    epoch, threads."""
    name, batch_size, n_steps, n_threads = sys.argv[1], *(int(word) for word in sys.argv[2:5])
    if name == "keras":
        train_keras(batch_size, n_steps)
    else:
        train_torch(batch_size, n_steps, n_threads, is_compiled=name == "torch-compiled")


if __name__ == "__main__":
    main()
