"""Random faults against the fetcher: whatever an exchange does, a wrong series never comes without
a word.

    python -m tests.fault_schedules --schedules 10000

A schedule is a seed: it chooses exchange, series and span, and spoils the answers of the loopback
exchange at random. What comes back is compared with the truth. It may be right; it may be an error;
it may differ if the log says that something is odd with this very series. Anything else is silent,
and fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import numpy as np
import pandas as pd

from pipeline.candles import exchange_client
from pipeline.candles.exchange import fetch_many
from pipeline.candles.exchange_client import Allowance
from pipeline.candles.job import Job
from pipeline.candles.schema import find_gaps, timeframe_ms, timestamps_ms
from tests.exchange_faults import FAULTS, FaultSchedule
from tests.exchange_market import DAY_MS, Market, Series, synthetic_exchange
from tests.exchange_server import ExchangeServer

SYMBOLS = ("BTC/USDT", "DOGE/USDT")
"""The candles of the second one have real gaps."""
GAPS = ((1500, 1533), (2100, 2101), (2380, 2384))
VENUES = ("binance", "binanceusdm", "okx")
USUAL = ("forming candle dropped", "rows outside the asked span cut")
"""Notices that excuse nothing."""

TIMEOUT_S, HANG_S = 0.3, 0.4


@dataclass(frozen=True)
class Outcome:
    """What became of one series."""

    seed: int
    job: Job
    result: str
    """right, right with a notice, different with a notice, error or silent"""
    detail: str
    """the error, or the notices"""


class _Notices(logging.Handler):
    """Collects what the parts log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def loopback() -> Iterator[tuple[ExchangeServer, _Notices]]:
    """A server with a market, clients that need not wait for their turn, and the log."""
    market = synthetic_exchange(SYMBOLS, ("1h",), 2400)
    whole = market.listings[SYMBOLS[1]].candles["1h"]
    there = np.ones(len(whole.times), dtype=bool)
    for first, behind in GAPS:
        there[first:behind] = False
    market.listings[SYMBOLS[1]].candles["1h"] = Series(whole.times[there], whole.numbers[there])
    notices, logger, allowed = _Notices(), logging.getLogger("pipeline"), exchange_client.allowance
    level, propagates = logger.level, logger.propagate
    exchange_client.allowance = lambda *_: Allowance(1e9, 1e9)  # type: ignore[assignment]
    logger.addHandler(notices)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with ExchangeServer(market, limits={}, hang_s=HANG_S) as server:
            yield server, notices
    finally:
        exchange_client.allowance = allowed
        logger.removeHandler(notices)
        logger.setLevel(level)
        logger.propagate = propagates


def run_schedule(seed: int, server: ExchangeServer, notices: _Notices) -> list[Outcome]:
    """Fetch some series under the faults of one seed."""
    rng = Random(f"schedule {seed}")
    market = server.markets["binance"]
    server.now_ms = market.ends_ms - rng.randint(0, 10 * DAY_MS)
    server.reset(FaultSchedule(seed, rng.choice((0.1, 0.3, 0.6, 0.9)), _kinds(rng)))
    venue = rng.choice(VENUES)
    jobs = list(
        dict.fromkeys(_random_job(rng, venue, server.now_ms) for _ in range(rng.randint(1, 3)))
    )
    notices.lines.clear()
    found = fetch_many(
        venue,
        jobs,
        base_url=server.url,
        timeout_s=TIMEOUT_S,
        now_ms=server.now_ms,
        sleep=lambda seconds: None,
    )
    return [_judge(seed, job, found[job], market, server.now_ms, notices.lines) for job in jobs]


def _kinds(rng: Random) -> tuple[str, ...]:
    """Some kinds of faults; a refusal for good now and then only, since it ends everything."""
    kinds = [kind for kind in FAULTS if kind != "451" or rng.random() < 0.1]
    return tuple(rng.sample(kinds, rng.randint(1, len(kinds))))


def _random_job(rng: Random, venue: str, now_ms: int) -> Job:
    symbol = rng.choice(SYMBOLS)
    kind = rng.choice(("1h", "1h", "funding", "open_interest")) if venue != "binance" else "1h"
    n_rows = rng.choice((3, 20, 150, 700, 1300))
    if kind == "1h" and rng.random() < 0.5:
        return Job(symbol, kind, n_candles=n_rows)
    since_ms = now_ms - (min(n_rows, 700) if kind == "open_interest" else n_rows) * timeframe_ms(
        "1h"
    )
    until_ms = rng.choice((None, since_ms + (now_ms - since_ms) * 2 // 3))
    return Job(symbol, kind, since_ms, until_ms)


def _truth(job: Job, market: Market, now_ms: int) -> pd.DataFrame:
    end_ms = now_ms if job.until_ms is None else job.until_ms
    if job.kind in ("funding", "open_interest"):
        return market.published(job.symbol, job.kind, now_ms=end_ms, since_ms=job.since_ms)
    candles = market.candles(job.symbol, job.kind, now_ms=end_ms, since_ms=job.since_ms)
    return candles if job.n_candles is None else candles.tail(job.n_candles).reset_index(drop=True)


def _judge(
    seed: int, job: Job, found: object, market: Market, now_ms: int, lines: list[str]
) -> Outcome:
    if isinstance(found, Exception):
        return Outcome(seed, job, "error", f"{type(found).__name__}: {found}")
    assert isinstance(found, pd.DataFrame)
    own = [
        line
        for line in lines
        if f"{job.symbol}:USDT {job.kind}:" in line or f"{job.symbol} {job.kind}:" in line
    ]
    truth = _truth(job, market, now_ms)
    gaps = find_gaps(timestamps_ms(truth), timeframe_ms("1h"))["missing"]
    excuses_nothing = (*USUAL, f" {len(gaps)} gap(s) of {gaps.sum()} rows, ")
    told = [line for line in own if not any(text in line for text in excuses_nothing)]
    is_right = found.equals(truth)
    result = "right" if is_right else "different"
    if told:
        result += " with a notice"
    elif not is_right:
        result = "silent"
    return Outcome(seed, job, result, " | ".join(told))


def main(arguments: list[str] | None = None) -> int:
    """Run the schedules; the exit status says whether one was silent."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fault_schedules", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--schedules", type=int, default=500)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--json", help="file to write the counts to")
    options = parser.parse_args(arguments)
    began, results, faults, silent = time.monotonic(), Counter[str](), Counter[str](), []
    with loopback() as (server, notices):
        for seed in range(options.first_seed, options.first_seed + options.schedules):
            for outcome in run_schedule(seed, server, notices):
                results[outcome.result] += 1
                silent += [outcome] if outcome.result == "silent" else []
            faults.update(fault.kind for fault in server.applied)
    for outcome in silent:
        print(f"SILENT: seed {outcome.seed}, {outcome.job}")
    summary = {
        "schedules": options.schedules,
        "series": sum(results.values()),
        "results": dict(results),
        "faults": dict(faults.most_common()),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(summary, indent=1))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(summary, file, indent=1)
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
