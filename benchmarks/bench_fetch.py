"""Speed of fetching many series, as ratios against peers in the same run.

    python -m benchmarks.bench_fetch
    python -m benchmarks.bench_fetch --json fetch.json

22 pairs × 2 timeframes × 1,000 candles of Binance spot, from the loopback exchange of the tests in
a process of its own: 50 ms latency, Binance's weight limits enforced, each contender at a fresh
one. Loading the list of markets counts for all of them, importing ccxt for none. What they fetched
is compared with the truth before any number is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import multiprocessing
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ccxt
import ccxt.async_support
import numpy as np

from benchmarks.common import Ratio, print_ratios, write_report
from config import TRADING_PAIRS
from pipeline.candles.exchange import fetch_many
from pipeline.candles.exchange_client import replace_host
from pipeline.candles.job import Job
from pipeline.candles.schema import CANDLE_COLUMNS, timeframe_ms, timestamps_ms
from tests.exchange_market import Market, synthetic_exchange
from tests.exchange_server import ExchangeServer

TIMEFRAMES = ("1h", "15m")
N_CANDLES = 1000
LATENCY_S = 0.05
PAUSE_S = 0.1
"""What the oldest of the source documents waits between its requests."""

ASKS = tuple((symbol, timeframe) for symbol in TRADING_PAIRS for timeframe in TIMEFRAMES)
Fetched = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    seconds: float
    """best round"""
    times_ours: float
    """seconds over those of ours: above 1 is slower than ours"""
    n_requests: int
    """of the last round"""
    n_429: int
    """requests over the limit, of all rounds"""


def one_at_a_time(url: str, now_ms: int) -> Fetched:
    """ccxt's synchronous client, one request after the other, with a pause after each."""
    exchange = ccxt.binance(
        {"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}}
    )
    exchange.urls["api"] = replace_host(exchange.urls["api"], url)
    exchange.load_markets()
    found = {}
    for symbol, timeframe in ASKS:
        found[symbol, timeframe] = np.array(
            exchange.fetch_ohlcv(symbol, timeframe, limit=N_CANDLES)
        )
        time.sleep(PAUSE_S)
    return found


def own_throttle(url: str, now_ms: int) -> Fetched:
    """ccxt's asynchronous client, all requests at once through its own throttle: the simplest thing
    that is polite."""

    async def fetch() -> list[Any]:
        exchange = ccxt.async_support.binance({"options": {"fetchMarkets": {"types": ["spot"]}}})
        exchange.urls["api"] = replace_host(exchange.urls["api"], url)
        try:
            await exchange.load_markets()
            return await asyncio.gather(
                *(exchange.fetch_ohlcv(*ask, limit=N_CANDLES) for ask in ASKS)
            )
        finally:
            await exchange.session.close()
            exchange.session = None

    return dict(zip(ASKS, map(np.array, asyncio.run(fetch()))))


def ours(url: str, now_ms: int) -> Fetched:
    """`fetch_many`, everything it checks included."""
    jobs = [Job(*ask, n_candles=N_CANDLES) for ask in ASKS]
    found = fetch_many("binance", jobs, base_url=url, now_ms=now_ms)
    rows = {}
    for job, frame in found.items():
        if isinstance(frame, Exception):
            raise frame
        rows[job.symbol, job.kind] = np.column_stack(
            [timestamps_ms(frame), frame[list(CANDLE_COLUMNS[1:])]]
        )
    return rows


CONTENDERS: dict[str, Callable[[str, int], Fetched]] = {
    "fetch_many": ours,
    "one at a time, 100 ms pauses": one_at_a_time,
    "ccxt's own throttle": own_throttle,
}


def truth() -> tuple[Market, int]:
    """The market and its present: right after the last candle has closed, so that no candle is
    forming."""
    market = synthetic_exchange(TRADING_PAIRS, TIMEFRAMES, N_CANDLES)
    return market, market.ends_ms + timeframe_ms("15m")


def _serve(pipe: Connection) -> None:
    market, now_ms = truth()
    with ExchangeServer(market, now_ms=now_ms, latency_s=LATENCY_S) as server:
        pipe.send(server.url)
        pipe.recv()
        pipe.send((sum(server.n_requests.values()), server.n_429 + server.n_418))


@contextmanager
def exchange(counts: list[tuple[int, int]]) -> Iterator[str]:
    """URL of a fresh exchange in another process; at the end its requests and refusals are appended
    to `counts`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
        here.send("done")
        counts.append(here.recv())
    finally:
        process.join(5)
        process.terminate()


def require_truth(name: str, found: Fetched, market: Market, now_ms: int) -> None:
    """Raise an AssertionError unless all rows are there and right."""
    for (symbol, timeframe), rows in found.items():
        expected = market.candles(symbol, timeframe, now_ms=now_ms).tail(N_CANDLES)
        if not np.array_equal(rows[:, 1:], expected[list(CANDLE_COLUMNS[1:])].to_numpy()):
            raise AssertionError(f"{name} has fetched something else for {symbol} {timeframe}")


def compare(rounds: int = 1) -> list[Result]:
    """Results of all contenders, ours first; they take turns, and the best round of each counts."""
    market, now_ms = truth()
    best = dict.fromkeys(CONTENDERS, float("inf"))
    counts: dict[str, list[tuple[int, int]]] = {name: [] for name in CONTENDERS}
    for _ in range(rounds):
        for name, fetch in CONTENDERS.items():
            with exchange(counts[name]) as url:
                began = time.perf_counter()
                found = fetch(url, now_ms)
                best[name] = min(best[name], time.perf_counter() - began)
            require_truth(name, found, market, now_ms)
    fastest = best["fetch_many"]
    return [
        Result(
            name,
            best[name],
            best[name] / fastest,
            counts[name][-1][0],
            sum(refused for _, refused in counts[name]),
        )
        for name in CONTENDERS
    ]


def main() -> None:
    """Parse the options, measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each contender, the best counts (default 3)"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    logging.getLogger("pipeline").setLevel(logging.ERROR)
    results = compare(options.rounds)
    versions = {
        "python": platform.python_version(),
        "ccxt": ccxt.__version__,
        "machine": platform.machine(),
    }
    print(
        f"{len(ASKS)} series of {N_CANDLES:,} candles, {1000 * LATENCY_S:.0f} ms latency, best of "
        f"{options.rounds}"
    )
    print(versions)
    print(f"{'':32}{'seconds':>9}{'x ours':>9}{'requests':>10}{'429':>6}")
    for result in results:
        print(
            f"{result.name:32}{result.seconds:>9.2f}{result.times_ours:>9.2f}{result.n_requests:>10}{result.n_429:>6}"
        )
    ratios = [Ratio(f"fetch: {result.name} / ours", result.times_ours) for result in results[1:]]
    print_ratios(ratios)
    report = {
        "rounds": options.rounds,
        "versions": versions,
        "results": [asdict(result) for result in results],
    }
    write_report(options.json, report, ratios)


if __name__ == "__main__":
    main()
