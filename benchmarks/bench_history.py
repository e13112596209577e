"""A year of 1m candles fetched into the store through ccxt, then updated one candle at a time: time
and memory.

    python -m benchmarks.bench_history
    python -m benchmarks.bench_history --updates 50 --json history.json

The exchange of the tests runs in a process of its own, without latency and limits, so that only our
work counts. Each series is fetched in a process of its own, too, whose peak memory counts
everything, Python and the libraries included.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import ccxt
import numpy as np
import pandas as pd

from benchmarks.bench_store import BTC, SERIES, START_MS, make_rows
from benchmarks.common import Ratio, peak_mib, print_ratios, write_report
from pipeline.candles import exchange_client, fetch_cache, store
from pipeline.candles.exchange_client import Allowance
from pipeline.candles.job import Job
from pipeline.candles.schema import timestamps_ms, utc_from_ms
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer

MINUTE_MS = 60_000


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    rows: int
    fetch_seconds: float
    fetch_peak_mib: float
    """most memory of that process, updates included"""
    update_ms: float
    """median of an update of one new candle, list of markets and clock included"""


def _serve(pipe: Connection, n_updates: int, shift_ms: int) -> None:
    """One candle more at every word from the pipe; all series end at the same instant."""
    n_rows = max(SERIES.values())
    market = market_of({BTC: {"1m": make_rows(0, n_rows + n_updates + 1)}}).shifted(shift_ms)
    with ExchangeServer(
        market, now_ms=START_MS + n_rows * MINUTE_MS + shift_ms, limits={}
    ) as server:
        pipe.send(server.url)
        while pipe.recv() == "go on":
            server.now_ms = server.present_ms() + MINUTE_MS
            pipe.send("done")


def fetch(
    folder: Path, n_rows: int, url: str, pipe: Connection, n_updates: int, shift_ms: int
) -> tuple[float, float, float]:
    """Fetch the newest candles into a folder, update it; seconds, peak MiB, ms an update."""
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    exchange_client.allowance = lambda *_: Allowance(1e9, 1e9)  # type: ignore  # a year uses up what Binance allows; waiting is no work
    job = Job(BTC, "1m", since_ms=START_MS + (max(SERIES.values()) - n_rows) * MINUTE_MS + shift_ms)
    began = time.perf_counter()
    done = fetch_cache.complete(folder, "binance", [job], base_url=url)[job]
    seconds = time.perf_counter() - began
    assert isinstance(done, fetch_cache.Completed) and done.added == n_rows, done
    updates = []
    for _ in range(n_updates):
        pipe.send("go on")
        pipe.recv()
        began = time.perf_counter()
        done = fetch_cache.complete(folder, "binance", [job], base_url=url)[job]
        updates.append(time.perf_counter() - began)
        assert isinstance(done, fetch_cache.Completed) and (done.added, done.rewritten) == (1, 0), (
            done
        )
    return seconds, peak_mib(), 1000 * float(np.median(updates))


def _measure(out: Connection, *arguments: object) -> None:
    out.send(fetch(*arguments))  # type: ignore[arg-type]


def measure(folder: Path, n_updates: int) -> list[Result]:
    """Fetch and update each series, and compare what is stored with the truth."""
    context = multiprocessing.get_context("spawn")
    # The candles end at the present, as an exchange's do.
    shift_ms = (int(time.time() * 1000) - START_MS) // MINUTE_MS * MINUTE_MS - max(
        SERIES.values()
    ) * MINUTE_MS
    results = []
    for name, n_rows in SERIES.items():
        here, there = context.Pipe()
        server = context.Process(target=_serve, args=(there, n_updates, shift_ms), daemon=True)
        server.start()
        url = here.recv()
        told, out = context.Pipe()
        arguments = (out, folder / name, n_rows, url, here, n_updates, shift_ms)
        worker = context.Process(target=_measure, args=arguments, daemon=True)
        worker.start()
        results.append(Result(name, n_rows, *told.recv()))
        worker.join()
        server.terminate()
        stored = store.read_series(folder / name, BTC, "1m")
        first = max(SERIES.values()) - n_rows
        truth = make_rows(first, first + n_rows + n_updates)
        truth["timestamp"] = utc_from_ms(timestamps_ms(truth) + shift_ms)
        pd.testing.assert_frame_equal(stored, truth, check_exact=True)
    return results


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--updates", type=int, default=30, help="updates of one candle of each series (default 30)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), options.updates)
    versions = {
        "python": platform.python_version(),
        "ccxt": ccxt.__version__,
        "machine": platform.machine(),
    }
    print(
        f"1m candles through ccxt into the store, {options.updates} updates of one candle each; "
        f"{versions}"
    )
    print(f"{'':7}{'rows':>9}{'fetched in s':>14}{'peak MiB':>10}{'update ms':>11}")
    for result in results:
        print(
            f"{result.name:7}{result.rows:>9,}{result.fetch_seconds:>14.1f}{result.fetch_peak_mib:>10.0f}{result.update_ms:>11.1f}"
        )
    ratio = results[1].update_ms / results[0].update_ms
    peak = max(result.fetch_peak_mib for result in results)
    ratios = [
        Ratio("fetch and store: update of a year / of a month", ratio, 2.0, at_least=False),
        Ratio("fetch and store: peak memory in MiB", peak, 400.0, at_least=False),
    ]
    print_ratios(ratios)
    write_report(
        options.json,
        {"versions": versions, "results": [asdict(result) for result in results]},
        ratios,
    )


if __name__ == "__main__":
    main()
