"""Whom to ask for candles: an exchange, Yahoo Finance, or the Hugging Face dataset; all answer
alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from pipeline import terminal
from pipeline.candles import exchanges, hub_dataset, yahoo
from pipeline.candles.exchanges import FUTURES_CHAIN, ExchangeError, Job
from pipeline.candles.schema import cut_rows, timeframe_ms
from pipeline.candles.store import PUBLISHED

NO_EXCHANGES = ("yahoo", "hub")
"""Sources that ccxt does not know: Yahoo Finance, and the Hub's dataset of Binance US candles, a
fixed file a pair."""

MAX_FAILURES = 2
"""Series in a row that fail for other reasons than their own, after which the rest are not asked
for."""

Answer = Any
"""What fetching a series gave, or the ExchangeError or ValueError that stopped it."""


def fetch(
    source: str,
    jobs: Sequence[Job],
    *,
    base_url: str | None = None,
    follow: Callable[[Job, pd.DataFrame], Job | None] | None = None,
) -> dict[Job, Answer]:
    """Fetch series from one source, "yahoo", "hub" or ccxt's id of an exchange, and show how it
    goes.

    The other arguments, the answers and the errors are those of `exchanges.fetch_many`.
    """
    with terminal.bar(None, source, " rows") as bar:

        def on_page(_: Job, n_rows: int) -> None:
            bar.update(n_rows)

        if source in NO_EXCHANGES:
            return _fetch_one_by_one(source, jobs, base_url, on_page, follow)
        return dict(
            exchanges.fetch_many(source, jobs, base_url=base_url, on_page=on_page, follow=follow)
        )


def _fetch_one_by_one(
    source: str,
    jobs: Sequence[Job],
    base_url: str | None,
    on_page: Callable[[Job, int], None],
    follow: Callable[[Job, pd.DataFrame], Job | None] | None,
) -> dict[Job, Answer]:
    answers: dict[Job, Answer] = {}
    failures: list[ExchangeError] = []  # in a row
    for job in jobs:
        if len(failures) == MAX_FAILURES:  # out of reach, and each would be waited for
            answers[job] = failures[-1]
            continue
        piece: Job | None = job
        try:
            while piece is not None:
                answers[job] = _fetch_elsewhere(source, piece, base_url)
                on_page(piece, len(answers[job]))
                piece = None if follow is None else follow(piece, answers[job])
            failures.clear()
        except ExchangeError as error:
            answers[job] = error
            failures.append(error)
        except ValueError as error:
            answers[job] = error
    return answers


def _fetch_elsewhere(source: str, job: Job, base_url: str | None) -> pd.DataFrame:
    if job.kind in PUBLISHED:
        raise ValueError(f"{source} has no {job.kind}; use one of {', '.join(FUTURES_CHAIN)}")
    if source == "yahoo":
        return yahoo.fetch_candles(
            job.symbol,
            job.kind,
            n_candles=job.n_candles,
            since_ms=job.since_ms,
            until_ms=job.until_ms,
            base_url=base_url,
        )
    candles = hub_dataset.fetch_dataset_candles(job.symbol, job.kind, endpoint=base_url)
    step_ms = timeframe_ms(job.kind)
    return cut_rows(
        candles, step_ms, since_ms=job.since_ms, until_ms=job.until_ms, n_rows=job.n_candles
    )
