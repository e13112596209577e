"""`kill -9` at random moments, while one or two processes update a series and this one reads it.

    python -m tests.store_kills --kills 200

After each kill, and at every reading before it, the series must be the beginning of the true one,
without a row less than the last update had reported as stored; the next update must complete it and
leave no other file behind.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import multiprocessing
import os
import random
import signal
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.candles import store
from pipeline.candles.schema import timestamps_ms, utc_from_ms

MINUTE = 60_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
N_ROWS = 6_000
LONGEST_LIFE_S = 0.1
"""of a writer; an update takes about a tenth of it"""


def make_series(n: int = N_ROWS, seed: int = 0) -> pd.DataFrame:
    """Sound 1m candles from 2024-01-01 on."""
    rng = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(1e-3 * rng.standard_normal(n))), 4)
    open_ = np.concatenate([close[:1], close[:-1]])
    return pd.DataFrame(
        {
            "timestamp": utc_from_ms(START + MINUTE * np.arange(n)),
            "open": open_,
            "high": np.maximum(open_, close) + 0.01,
            "low": np.minimum(open_, close) - 0.01,
            "close": close,
            "volume": np.round(rng.lognormal(3, 1, n), 3),
        }
    )


def write_until_killed(directory: Path, seed: int, report: Connection) -> None:
    """Update the series in pieces that overlap it; report the number of rows before the first and
    after each one."""
    store.BLOCK_ROWS, store.WHOLE_ROWS = (200, 300)  # so that every kind of update comes up often
    series, rng, end = make_series(), random.Random(seed), 0
    while True:
        report.send_bytes(end.to_bytes(8, "little"))
        stored = store.last_rows(directory, "BTC/USDT", "1m", rng.randint(1, 40))
        begin = 0 if stored is None else int(timestamps_ms(stored)[0] - START) // MINUTE
        end = min(N_ROWS, begin + 1 + rng.randint(0, 150))
        store.update_series(directory, "BTC/USDT", "1m", series.iloc[begin:end], venue="binance")


def run_and_kill(
    directory: Path, n_writers: int, rng: random.Random, processes: ForkServerContext
) -> int:
    """Start writers, read what they write, kill them; returns how many rows were there for sure
    before the kill."""
    reports, writers = [], []
    for _ in range(n_writers):
        report, sending = processes.Pipe(duplex=False)
        arguments = (directory, rng.getrandbits(32), sending)
        writers.append(processes.Process(target=write_until_killed, args=arguments, daemon=True))
        writers[-1].start()
        sending.close()
        reports.append(report)
    n_rows = 0
    for writer, report in zip(writers, reports):
        report.poll(60)  # until it has started
        deadline = time.monotonic() + rng.uniform(0, LONGEST_LIFE_S)
        while time.monotonic() < deadline:
            n_rows = require_beginning(directory, n_rows)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
    for writer, report in zip(writers, reports):
        writer.join()
        if writer.exitcode != -signal.SIGKILL:
            raise AssertionError(f"a writer ended by itself with exit code {writer.exitcode}")
        with contextlib.suppress(EOFError):  # at the end of what it reported
            while True:
                n_rows = max(n_rows, int.from_bytes(report.recv_bytes(), "little"))
    return n_rows


def require_beginning(directory: Path, n_least: int) -> int:
    """Number of rows of the stored series; an AssertionError unless they are the first of the true
    one."""
    stored = store.read_series(directory, "BTC/USDT", "1m")
    n_rows = 0 if stored is None else len(stored)
    if n_rows < n_least:
        raise AssertionError(f"{n_rows} rows are stored after {n_least} had been")
    if stored is not None:
        pd.testing.assert_frame_equal(stored, make_series().iloc[:n_rows], check_exact=True)
    return n_rows


def complete(directory: Path, n_rows: int) -> int:
    """Update the series by some rows as the next run would; returns its number of rows."""
    end = min(N_ROWS, n_rows + 50)
    rows = make_series().iloc[max(0, n_rows - 1) : end]
    update = store.update_series(directory, "BTC/USDT", "1m", rows, venue="binance")
    if (update.added, len(update.rewritten), update.gap_before) != (end - n_rows, 0, 0):
        raise AssertionError(f"the next update found something else than {n_rows} rows: {update}")
    return require_beginning(directory, end)


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def leftovers(directory: Path) -> list[str]:
    """What a kill has left, in words."""
    found = names_in(directory)
    words = ["an unfinished file"] * any(name.endswith(".unfinished") for name in found)
    words += ["a lock file"] * any(name.endswith(".lock") for name in found)
    path = directory / "BTCUSDT_1m.parquet"
    if store.tail_path(path).exists():
        words.append("a tail" if store.read_stored(path).tail is not None else "a merged tail")
    return words or ["nothing"]


def main() -> None:
    """Parse the options, kill, count what the kills left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the moments; the machine's speed counts too"
    )
    options = parser.parse_args()
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    rng, left = random.Random(seed), collections.Counter[str]()
    processes = multiprocessing.get_context("forkserver")  # imports pandas once, for all writers
    processes.set_forkserver_preload(["pipeline.candles.store"])
    began, n_kills, n_reported = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        directory, n_rows = Path(folder) / "0", 0
        directory.mkdir()
        while n_kills < options.kills:
            n_writers = min(rng.choice([1, 2]), options.kills - n_kills)
            n_stored = run_and_kill(directory, n_writers, rng, processes)
            n_reported += n_stored > n_rows
            left.update(leftovers(directory))
            n_rows = complete(directory, require_beginning(directory, max(n_rows, n_stored)))
            if not names_in(directory) <= {"BTCUSDT_1m.parquet", "BTCUSDT_1m.tail.parquet"}:
                raise AssertionError(f"an update left {names_in(directory)}")
            n_kills += n_writers
            if n_rows > N_ROWS - 1000:
                directory, n_rows = directory.with_name(str(n_kills)), 0
                directory.mkdir()
    words = ", ".join(f"{word} {count} times" for word, count in sorted(left.items()))
    print(
        f"{n_kills} kills in {time.monotonic() - began:.0f} s, seed {seed}: every time the series "
        f"was whole and the next update completed it. In {n_reported} runs an update had ended "
        f"before the kill. They left {words}."
    )


if __name__ == "__main__":
    main()
