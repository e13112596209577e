"""Two small bundles of each generation whose forecasts differ, how they are published and read."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py

from config import ConfigV1, ConfigV1Final, ConfigV2, ConfigV7, ConfigV9
from generations.v1 import inference as v1
from generations.v1_final import inference as v1_final
from generations.v7 import inference as v7
from generations.v7 import networks as v7_networks
from generations.v9 import inference as v9
from inference_v2 import FILES as V2_FILES
from inference_v2 import CryptoPricePredictorV2
from pipeline import atomic
from pipeline.bundle import files
from pipeline.candles.synthetic import synthetic_market
from tests import networks

SYMBOL, NETWORK = "BTC/USDT", "BTCUSDT_1h"
BUNDLES = {"v1": v1.FILES, "v1_final": v1_final.FILES, "v2": V2_FILES, "v9": v9.FILES}
METADATA = {**{name: one.metadata for name, one in BUNDLES.items()}, "v7": v7_networks.METADATA}
V7_FILES = v7_networks.all_files(NETWORK)
CONFIGS: dict[str, Any] = {
    "v1": ConfigV1(candles=400),
    "v1_final": ConfigV1Final(candles=400),
    "v2": ConfigV2(candles=400),
    "v7": ConfigV7(candles=560, timeframes=("1h",), own_process=False),
    "v9": ConfigV9(candles=700, trees=5, tree_depth=2),
}
PREDICTORS: dict[str, Callable[[Path], Any]] = {
    "v1": v1.CryptoPricePredictorV1.from_directory,
    "v1_final": v1_final.CryptoPricePredictorV1Final.from_directory,
    "v2": CryptoPricePredictorV2.from_directory,
    "v7": v7.CryptoPricePredictorV7.from_directory,
    "v9": v9.CryptoPricePredictorV9.from_directory,
}
Forecast = tuple[float, ...]


def train(generation: str, folder: Path) -> None:
    """A run of the generation's script with networks of one layer, on synthetic candles."""
    from generations.v1.train_v1 import main as main_v1
    from generations.v1_final.train_v1_final import main as main_v1_final
    from generations.v7.train_v7_main import main as main_v7
    from generations.v9.btc_1h_v9_training import main as main_v9
    from train_v2_production import main as main_v2

    runs: dict[str, Callable[[Any], Any]] = {
        "v1": partial(main_v1, build=networks.for_v1),
        "v1_final": partial(main_v1_final, build=networks.for_v1_final),
        "v2": partial(main_v2, build=networks.for_v2),
        "v7": partial(main_v7, build=networks.for_v7),
        "v9": partial(
            main_v9, build_direction=networks.for_v9_direction, build_price=networks.for_v9_price
        ),
    }
    config = replace(CONFIGS[generation], symbols=(SYMBOL,), source="synthetic", epochs=1)
    with networks.bare():
        runs[generation](replace(config, output_dir=folder))


def vary(generation: str, source: Path, folder: Path, factor: float) -> Path:
    """A copy of a bundle with other weights, another calibration and hashes that hold."""
    shutil.copytree(source, folder)
    for path in folder.glob("*.h5"):
        with h5py.File(path, "a") as file:
            file["model_weights"].visititems(lambda _, node: _multiply(node, factor))
    names = BUNDLES.get(generation)
    model, scalers = (names.model, names.scalers) if names else v7_networks.network_files(NETWORK)
    content = pickle.loads((folder / scalers).read_bytes())  # our own file
    content["calibration"]["shrinkage"] = 0.5 * factor
    content["model_sha256"] = files.sha256_of(folder / model)
    if "sha256" in content:
        content["sha256"] = {name: files.sha256_of(folder / name) for name in content["sha256"]}
    (folder / scalers).write_bytes(pickle.dumps(content, protocol=4))
    metadata = json.loads((folder / METADATA[generation]).read_text())
    for part in (metadata, *metadata.get("jobs", {}).values()):
        part["files"] = {name: files.sha256_of(folder / name) for name in part["files"]}
    files.write_json(folder / METADATA[generation], metadata)
    return folder


def _multiply(node: Any, factor: float) -> None:
    if isinstance(node, h5py.Dataset) and node.dtype.kind == "f":
        node[...] = node[...] * factor


def publish(generation: str, source: Path, folder: Path) -> None:
    """What a run does that has this bundle's files to save."""
    last = METADATA[generation]
    names = BUNDLES.get(generation)
    allowed = names.bundle if names else v7_networks.RUN_FILES
    with files.new_bundle(folder, last, allowed) as aside:
        if names is None:
            work = aside / NETWORK
            work.mkdir()
            for name in V7_FILES[:-1]:
                shutil.copy(source / name, work)
            with atomic.replacing(work / V7_FILES[-1]) as unfinished:
                shutil.copy(source / V7_FILES[-1], unfinished)
            v7_networks.finish_network(work, folder, V7_FILES)
        for name in allowed:
            if (source / name).is_file():
                shutil.copy(source / name, aside)
        files.write_json(aside / last, json.loads((source / last).read_text()))


def open_quietly(generation: str, folder: Path) -> Any:
    """The generation's predictor of a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its candles were synthetic
        return PREDICTORS[generation](folder)


def forecast(generation: str, folder: Path) -> Forecast:
    """Every number that the bundle in a folder says of the same candles."""
    return ask(generation, open_quietly(generation, folder))


def ask(generation: str, predictor: Any) -> Forecast:
    """Every number that a predictor says of the same candles."""
    hours = synthetic_market((SYMBOL,), "1h", 400, seed=3, end="2025-01-01")[SYMBOL]
    candles = [hours]
    if generation == "v1":
        candles += [synthetic_market((SYMBOL,), "15m", 400, seed=3, end="2025-01-01")[SYMBOL]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a short history
        prediction = predictor.predict(*candles)
    prediction.pop("age_candles")  # the clock's
    return tuple(value for value in prediction.values() if type(value) is float)


def read_until(is_over: Callable[[], bool], generation: str, folder: Path) -> Counter[Any]:
    """How often a reader was given which forecast, or which error."""
    seen: Counter[Any] = Counter()
    while not is_over():
        try:
            seen[forecast(generation, folder)] += 1
        except Exception as error:  # whatever it is, nobody was to see it
            seen[f"{type(error).__name__}: {error}"] += 1
    return seen


def publish_in_turns(
    generation: str, bundles: list[Path], folder: Path, n_runs: int, pause_s: float
) -> None:
    """Let runs end one after another, each with the other one of two bundles."""
    for number in range(n_runs):
        publish(generation, bundles[number % 2], folder)
        time.sleep(pause_s)


def read_in_process(generation: str, folder: Path, over: Any, ready: Any, found: Any) -> None:
    """Read until the event `over` is set, and put what was seen into the queue `found`."""
    first = forecast(generation, folder)
    ready.release()
    found.put(read_until(over.is_set, generation, folder) + Counter([first]))


def race(
    generation: str, bundles: list[Path], folder: Path, n_runs: int, n_readers: int
) -> Counter[Any]:
    """What readers in processes of their own have seen while runs ended."""
    context = multiprocessing.get_context("spawn")
    over, ready, found = context.Event(), context.Semaphore(0), context.Queue()
    readers = [
        context.Process(target=read_in_process, args=(generation, folder, over, ready, found))
        for _ in range(n_readers)
    ]
    for reader in readers:
        reader.start()
    for _ in readers:
        assert ready.acquire(timeout=300)
    publish_in_turns(generation, bundles, folder, n_runs, pause_s=0.02)
    over.set()
    seen: Counter[Any] = Counter()
    for _ in readers:
        seen += found.get(timeout=300)
    for reader in readers:
        reader.join()
    return seen
