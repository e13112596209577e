"""Saved networks opened by other versions of Keras, each installed beside the environment.

    python -m tests.older_keras                     the oldest admitted version, Colab's, two others
    python -m tests.older_keras 3.11.3 3.13.2       these

Every network of the house is built with its own layers and a seed, saved as a training run saves
it, and opened by plain `load_model` in a process that has the other version. Its outputs on random
windows agree with ours to 1e-6, or this script ends with status 1. It needs a package index.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.average import build_average
from models.bilstm_ohlc import build_bilstm_ohlc
from models.dual_stream import build_dual_stream
from models.dual_timeframe import build_dual_timeframe
from models.multitask import build_direction, build_price
from models.price_level import build_price_level
from pipeline.bundle.network import import_keras

VERSIONS = ("3.10.0", "3.11.3", "3.12.1", "3.13.2")
TOLERANCE = 1e-6

NETWORKS: dict[str, Callable[[], Any]] = {
    "v1": lambda: build_dual_timeframe(60, 50),
    "v1_final": lambda: build_price_level(60, 14),
    "v2": lambda: build_dual_stream(60, 18),
    "v2_pooled": lambda: build_average(
        [build_dual_stream(12, 14, lstm_units=(16,), skip_candles=6) for _ in range(2)]
    ),
    "v7": lambda: build_bilstm_ohlc(60, 13),
    "v9_direction": lambda: build_direction(60, 46),
    "v9_price": lambda: build_price(60, 46),
}

ELSEWHERE = """
import sys
import numpy as np
import keras
import tensorflow as tf
assert keras.__version__ == sys.argv[4], keras.__version__
network = tf.keras.models.load_model(sys.argv[1])
given = np.load(sys.argv[2])
inputs = [given[f"arr_{i}"] for i in range(len(network.inputs))]
outputs = network(inputs if len(inputs) > 1 else inputs[0], training=False)
outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
np.savez(sys.argv[3], *[np.asarray(output) for output in outputs])
"""


def save_networks(folder: Path) -> None:
    """Each network as `<name>.h5`, its random windows and its outputs beside it."""
    keras = import_keras()
    from pipeline.training.fit import save_plain_h5

    random = np.random.default_rng(0)
    for name, build in NETWORKS.items():
        keras.utils.set_random_seed(1)
        network = build()
        # Some layers begin at 0, so that every forecast would be 0.
        network.set_weights([w + 0.05 * random.normal(size=w.shape) for w in network.get_weights()])
        save_plain_h5(network, folder / f"{name}.h5")
        inputs = [
            random.normal(size=(3, *tensor.shape[1:])).astype(np.float32)
            for tensor in network.inputs
        ]
        outputs = network(inputs if len(inputs) > 1 else inputs[0], training=False)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        np.savez(folder / f"{name}_in.npz", *inputs)
        np.savez(folder / f"{name}_out.npz", *[np.asarray(output) for output in outputs])


def try_version(version: str, folder: Path) -> int:
    """Open every network with this version, a line each; returns how many fail."""
    target = folder / f"keras-{version}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    package = ["--no-deps", "--target", str(target), f"keras=={version}"]
    subprocess.run([*pip, *package], check=True, stderr=subprocess.DEVNULL)
    environment = {**os.environ, "PYTHONPATH": str(target), "TF_CPP_MIN_LOG_LEVEL": "3"}
    n_bad = 0
    for name in NETWORKS:
        theirs = folder / f"{name}_{version}.npz"
        paths = [folder / f"{name}.h5", folder / f"{name}_in.npz", theirs]
        done = subprocess.run(
            [sys.executable, "-c", ELSEWHERE, *map(str, paths), version],
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            told = done.stderr.strip().splitlines()[-1]
            print(f"Keras {version}  {name:14} does not open: {told[:200]}", flush=True)
            n_bad += 1
            continue
        with np.load(folder / f"{name}_out.npz") as ours, np.load(theirs) as others:
            pairs = [(ours[key], others[key]) for key in ours.files]
        difference = max(float(np.abs(a - b).max()) for a, b in pairs)
        print(f"Keras {version}  {name:14} opens, largest difference {difference:.2g}", flush=True)
        n_bad += difference > TOLERANCE
    return n_bad


def main(versions: list[str]) -> int:
    """Try every version; returns how many networks fail."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_networks(folder)
        return sum(try_version(version, folder) for version in versions)


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:] or list(VERSIONS))))
