"""`kill -9` at random moments of a retraining: one complete bundle can be served after each.

    python -m tests.retraining_kills --kills 20

Half of the kills hit anywhere in a whole retraining. The other half hit while the new bundle is put
in the old one's place, which takes milliseconds; each step of it is slowed down for that. At the
end a retraining that nobody kills must complete.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path

import pandas as pd

import train_v2_production
from config import ConfigV2
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import retraining
from pipeline.bundle.files import sha256_of
from pipeline.candles.synthetic import synthetic_market
from pipeline.commands import Retrain
from tests import networks
from tests.conftest import write_market

COINS = ("BTC/USDT", "ETH/USDT")
N_CANDLES, N_NEWER = 2600, 200
STEP_S = 0.05
"""how long each step of the replacement is held up"""
SMALL = replace(
    ConfigV2(), symbols=COINS, candles=1500, epochs=2, one_cycle=True, refit=True, final_fit=True
)
train_small = functools.partial(train_v2_production.main, build=networks.for_v2)


def retrain(folder: Path, candles_dir: Path, report: Connection | None, is_slow: bool) -> None:
    """A retraining; it reports "began", and "installing" once the new bundle is complete."""
    with networks.bare(), contextlib.ExitStack() as stack:
        if report is not None:
            report.send("began")
            stack.enter_context(_reporting(report, is_slow))
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        with contextlib.suppress(SystemExit):
            command = Retrain(
                model_dir=folder, candles_dir=candles_dir, own_process=False, force=True
            )
            command.run(CryptoPricePredictorV2, train_small)


@contextlib.contextmanager
def _reporting(report: Connection, is_slow: bool):
    """Tell when the replacement begins, and hold up each of its steps."""
    install, steps = retraining.install, (shutil.copyfile, os.replace, shutil.rmtree)

    def slowly(step):
        def wrapped(*args, **options):
            time.sleep(STEP_S)
            return step(*args, **options)

        return wrapped

    def told(*args):
        report.send("installing")
        if is_slow:
            shutil.copyfile, os.replace, shutil.rmtree = map(slowly, steps)
        install(*args)

    retraining.install = told
    yield


def run_and_kill(
    folder: Path, candles_dir: Path, rng: random.Random, is_slow: bool, whole_s: float
) -> str:
    """Kill a retraining at a random moment; returns in words when that was."""
    processes: SpawnContext = multiprocessing.get_context("spawn")
    receiver, sender = processes.Pipe(duplex=False)
    child = processes.Process(
        target=retrain, args=(folder, candles_dir, sender, is_slow), daemon=True
    )
    child.start()
    sender.close()
    phase = receiver.recv()
    wait_s = rng.uniform(0, whole_s)
    if is_slow:
        phase = receiver.recv()
        wait_s = rng.uniform(0, 40 * STEP_S)
    time.sleep(wait_s)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with contextlib.suppress(EOFError):
        while receiver.poll():
            phase = receiver.recv()
    if child.exitcode == 0:
        return "had ended"
    return {"began": "before the replacement", "installing": "in the replacement"}[phase]


def require_servable(folder: Path, candles: pd.DataFrame, known: set[str]) -> str:
    """Sha256 of the network that is served: an AssertionError unless one of the known ones is."""
    predictor = CryptoPricePredictorV2.from_directory(folder)
    judged = CryptoPricePredictorV2.from_directory(folder, judged=True)
    for one in (predictor, judged):
        value = one.predict(candles)["return"]
        if not abs(value) < 1:
            raise AssertionError(f"a forecast of {value}")
    ready = folder / retraining.NEXT / FILES.model
    if ready.is_file():
        known.add(sha256_of(ready))
    if predictor.model_sha256 not in known:
        raise AssertionError(f"a network that nobody has trained: {predictor.model_sha256}")
    return predictor.model_sha256


def main() -> None:
    """Parse the options, kill, and count where the kills hit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    rng, hits = random.Random(seed), collections.Counter[str]()
    began = time.monotonic()
    market = synthetic_market(COINS, "1h", N_CANDLES, seed=7, signal_r2=0.15)
    candles = market["BTC/USDT"]
    with tempfile.TemporaryDirectory() as place:
        before = {symbol: frame.iloc[:-N_NEWER] for symbol, frame in market.items()}
        early = write_market(before, Path(place) / "early")
        now = write_market(market, Path(place) / "now")
        first = Path(place) / "first"
        with networks.bare(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            train_small(replace(SMALL, candles_dir=early, output_dir=first))
        folder = Path(place) / "bundle"
        shutil.copytree(first, folder)
        started = time.monotonic()
        retrain(folder, now, None, False)
        whole_s = time.monotonic() - started
        known = {sha256_of(first / FILES.model), sha256_of(folder / FILES.model)}
        for number in range(options.kills):
            shutil.rmtree(folder)
            shutil.copytree(first, folder)
            hits[run_and_kill(folder, now, rng, number % 2 == 1, whole_s)] += 1
            served = require_servable(folder, candles, known)
            hits["new one served" if served != sha256_of(first / FILES.model) else "old one"] += 1
            if number % 5 == 4:  # the next retraining completes what the killed one began
                retrain(folder, now, None, False)
                known.add(sha256_of(folder / FILES.model))  # trained by now, if it was not before
                require_servable(folder, candles, known)
                left = {path.name for path in folder.iterdir() if path.name.startswith(".")}
                if left or (folder / retraining.NEXT).exists():
                    raise AssertionError(f"a complete retraining left {left}")
    counted = ", ".join(f"{what} {count}" for what, count in sorted(hits.items()))
    print(f"{options.kills} kills in {time.monotonic() - began:.0f} s, seed {seed}: {counted}")


if __name__ == "__main__":
    main()
