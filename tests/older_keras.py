"""Saved networks opened by other versions of Keras, each installed beside the environment.

    python -m tests.older_keras                     the oldest admitted, Colab's, one between
    python -m tests.older_keras 3.11.3 3.13.2       these

Every network of the house is built with its own layers and a seed, saved as a training run saves
it, and opened by plain `load_model` in a process that has the other version: its .h5 file and its
.keras file. The version of the environment opens them too. Outputs on random windows agree with
ours to 1e-6, or this script ends with status 1. It needs a package index.
"""

from __future__ import annotations

import json
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
from pipeline.bundle.files import KERAS_SUFFIX
from pipeline.bundle.network import import_keras

VERSIONS = ("3.11.3", "3.12.1", "3.13.2")
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
import json
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
import keras

def difference(path):
    network = tf.keras.models.load_model(path)
    given = np.load(path.with_name(path.stem + "_in.npz"))
    inputs = [given[f"arr_{i}"] for i in range(len(network.inputs))]
    outputs = network(inputs if len(inputs) > 1 else inputs[0], training=False)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    ours = np.load(path.with_name(path.stem + "_out.npz"))
    pairs = zip((ours[f"arr_{i}"] for i in range(len(ours.files))), outputs)
    return max(float(np.abs(a - np.asarray(b)).max()) for a, b in pairs)

found = {}
for path in map(Path, sys.argv[1:]):
    try:
        found[path.name] = difference(path)
    except Exception as error:
        found[path.name] = f"{type(error).__name__}: {error}"[:200]
print(json.dumps([f"Keras {keras.__version__}, TensorFlow {tf.__version__}", found]))
"""


def save_networks(folder: Path) -> list[Path]:
    """Each network as `<name>.h5` and `.keras`, its random windows and its outputs beside it."""
    keras = import_keras()
    from pipeline.training.fit import save_plain_h5, save_plain_keras

    random = np.random.default_rng(0)
    paths = []
    for name, build in NETWORKS.items():
        keras.utils.set_random_seed(1)
        network = build()
        # Some layers begin at 0, so that every forecast would be 0.
        network.set_weights([w + 0.05 * random.normal(size=w.shape) for w in network.get_weights()])
        path = folder / f"{name}.h5"
        save_plain_h5(network, path)
        save_plain_keras(network, path)
        inputs = [
            random.normal(size=(3, *tensor.shape[1:])).astype(np.float32)
            for tensor in network.inputs
        ]
        outputs = network(inputs if len(inputs) > 1 else inputs[0], training=False)
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        np.savez(folder / f"{name}_in.npz", *inputs)
        np.savez(folder / f"{name}_out.npz", *[np.asarray(output) for output in outputs])
        paths += [path, path.with_suffix(KERAS_SUFFIX)]
    return paths


def install(version: str, folder: Path) -> dict[str, str]:
    """Install a version of Keras beside the environment; returns what makes Python find it."""
    target = folder / f"keras-{version}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    package = ["--no-deps", "--target", str(target), f"keras=={version}"]
    subprocess.run([*pip, *package], check=True, stderr=subprocess.DEVNULL)
    return {"PYTHONPATH": str(target)}


def try_files(paths: list[Path], environment: dict[str, str]) -> int:
    """Open every file in one process, a line each; returns how many fail."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, *map(str, paths)],
        env={**os.environ, **environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    version, found = json.loads(done.stdout.splitlines()[-1])
    n_bad = 0
    for name, difference in found.items():
        if isinstance(difference, str):
            told, is_bad = f"does not open: {difference}", True
        else:
            told = f"opens, largest difference {difference:.2g}"
            is_bad = not difference <= TOLERANCE
        print(f"{version}  {name:18} {told}", flush=True)
        n_bad += is_bad
    return n_bad


def main(versions: list[str]) -> int:
    """Try every version, and the environment's own; returns how many files fail."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = save_networks(folder)
        environments = [*(install(version, folder) for version in versions), {}]
        return sum(try_files(paths, environment) for environment in environments)


if __name__ == "__main__":
    sys.exit(bool(main(sys.argv[1:] or list(VERSIONS))))
