"""Forecasts from a saved v2 network: one at a time, all of a history, and the first one of a fresh
process.

    python -m benchmarks.bench_inference
    python -m benchmarks.bench_inference --model-dir all_models/v2 --json inference.json

Peers, on the same windows in the same run: `keras.predict` at its best batch size, and Keras'
compiled call. Our single forecasts are those of a process that does nothing else, as a bot's. The
twin needs onnxruntime and tf2onnx (requirements-optional.txt). Without --model-dir a network of
v2's default size is trained for one epoch on synthetic candles.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Ratio,
    forward_operations,
    matrix_rate,
    peak_mib,
    print_ratios,
    write_report,
)

N_CANDLES = 10_000
BATCHES = (32, 128, 512, 2048)

FORECASTS = """
import time
began = time.perf_counter()
import sys, warnings
warnings.simplefilter("ignore")
from inference_v2 import CryptoPricePredictorV2
import pandas as pd
predictor = CryptoPricePredictorV2.from_directory(sys.argv[1])
candles = pd.read_parquet(sys.argv[2])
predictor.predict(candles)
first, times = time.perf_counter() - began, []
for _ in range(200):
    began = time.perf_counter()
    predictor.predict(candles)
    times.append(time.perf_counter() - began)
print(first, 1000 * sorted(times)[100], "tensorflow" in sys.modules)
"""


def milliseconds(call: Callable[[], Any], repeats: int) -> float:
    """Median (p50) of `repeats` calls after three to warm up."""
    return in_turns({"": call}, repeats)[""]


def in_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Milliseconds: the median (p50) of each, one call after another, three rounds to warm up left
    out."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 3):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return {name: 1000 * float(np.median(values[3:])) for name, values in times.items()}


def train(folder: Path) -> None:
    """A bundle of v2's default network, trained for an epoch."""
    from config import ConfigV2
    from train_v2_production import main as train_v2

    with contextlib.redirect_stdout(io.StringIO()):
        train_v2(
            ConfigV2(
                source="synthetic",
                candles=600,
                epochs=1,
                output_dir=folder,
                cache_dir=folder / "cache",
            )
        )


def forecasts(model_dir: Path, candles: Path) -> tuple[float, float, bool]:
    """In a fresh process, as a bot is: seconds from import to first forecast (best of 5), p50 in ms
    of 200 later ones (median of 5), and whether TensorFlow was loaded."""
    first, later, loaded = [], [], False
    for _ in range(5):
        command = [sys.executable, "-c", FORECASTS, str(model_dir), str(candles)]
        words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        first.append(float(words[0]))
        later.append(float(words[1]))
        loaded = words[2] == "True"
    return min(first), float(np.median(later)), loaded


def measure(model_dir: Path, folder: Path) -> dict[str, float]:
    """All numbers, by name."""
    from feature_engineering import V2_WARMUP, compute_features
    from inference_v2 import FILES, CryptoPricePredictorV2
    from pipeline.bundle.network import OnnxNetwork, import_keras, twin_of
    from pipeline.candles.synthetic import synthetic_market
    from pipeline.samples.scaling import scale_rows
    from pipeline.samples.windows import window_view

    keras_only = folder / "keras_only"
    shutil.copytree(model_dir, keras_only)
    (keras_only / FILES.metadata).unlink()
    twin_of(keras_only / FILES.model).unlink(missing_ok=True)
    ours, keras_ours = (
        CryptoPricePredictorV2.from_directory(path) for path in (model_dir, keras_only)
    )
    if not isinstance(ours._network, OnnxNetwork):
        raise SystemExit(
            f"{model_dir} has no ONNX twin; pip install onnxruntime tf2onnx, and train again"
        )
    candles = synthetic_market(("BTC/USDT",), ours.timeframe, N_CANDLES, seed=1)["BTC/USDT"]
    recent = candles.iloc[-ours.required_candles :]
    recent.to_parquet(folder / "recent.parquet")

    keras = import_keras()
    model = keras.models.load_model(model_dir / FILES.model, compile=False)
    rows = scale_rows(
        compute_features(candles, ours.timeframe, ours.feature_cols).to_numpy(np.float32),
        ours._x_scaler,
    )
    windows = np.ascontiguousarray(window_view(rows, ours.lookback)[V2_WARMUP:])
    results = {
        "limit of a window in ms: operations / matrix rate": 1000
        * forward_operations(model)
        / matrix_rate(),
        **in_turns(
            {
                "keras.predict on the same window": lambda: model.predict(windows[-1:], verbose=0),
                "keras compiled call on the same window": lambda: model.predict_on_batch(
                    windows[-1:]
                ),
            },
            100,
        ),
    }
    for name, predictor in (("twin", ours), ("Keras", keras_ours)):
        seconds = milliseconds(functools.partial(predictor.predict_history, candles), 5) / 1000
        results[f"predict_history, windows a second, {name}"] = (
            N_CANDLES - ours.lookback
        ) / seconds
    for batch in BATCHES:
        seconds = (
            milliseconds(functools.partial(model.predict, windows, batch_size=batch, verbose=0), 3)
            / 1000
        )
        results[f"keras.predict, windows a second, batch {batch}"] = len(windows) / seconds
    for name, path in (("twin", model_dir), ("Keras", keras_only)):
        first, later, loaded = forecasts(path, folder / "recent.parquet")
        results[f"one forecast, features included, {name}"] = later
        results[
            f"import to first forecast in s, {name}, {'with' if loaded else 'no'} TensorFlow"
        ] = first
    results["peak memory of this process, TensorFlow included, MiB"] = peak_mib()
    return results


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model-dir", type=Path, help="a bundle of train_v2_production.py")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.model_dir is None:
            train(folder / "model")
        results = measure(options.model_dir or folder / "model", folder)
    single, peer = (
        results[n]
        for n in ("one forecast, features included, twin", "keras.predict on the same window")
    )
    best = max(value for n, value in results.items() if n.startswith("keras.predict, windows"))
    history = results["predict_history, windows a second, twin"]
    cold = next(
        value for n, value in results.items() if n.startswith("import to first forecast in s, twin")
    )
    ratios = [
        Ratio("one forecast, features included: p50 in ms", single, 5.0, at_least=False),
        Ratio("one forecast: keras.predict / ours", peer / single, 20.0),
        Ratio("import to first forecast: seconds", cold, 1.5, at_least=False),
        Ratio("history: windows a second", history, 8_000.0),
        Ratio("history: ours / keras.predict at its best", history / best, 2.0),
    ]
    print(
        f"v2's network, {N_CANDLES:,} candles, Python {platform.python_version()}, "
        f"{os.cpu_count()} cores"
    )
    for n, value in results.items():
        print(f"{n:58}{value:>12,.2f}")
    print_ratios(ratios)
    write_report(options.json, {"results": results, "python": platform.python_version()}, ratios)


if __name__ == "__main__":
    main()
