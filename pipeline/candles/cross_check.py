"""A second source's word: closes of a sample of candles, compared with those of another source.

That candles are possible and agree with each other does not show that they are of the market that
is asked for. Another exchange's are near them: in 39,000 hours the closes of Binance's spot and
futures markets lay within 1 % but for 8 hours of crashes.
"""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from pipeline.candles import sources
from pipeline.candles.job import ContradictionError, ExchangeError, Job
from pipeline.candles.schema import timeframe_ms, timestamps_ms

logger = logging.getLogger(__name__)

SAMPLES = 20
"""Candles of a series that are compared, spread evenly, the first and the last one included."""

MAX_DIFFERENCE = 0.01
"""Closes of one instant differ by no more; a quote in USD in place of USDT is within it."""

MAX_FAR_SHARE = 0.05
"""Of the compared candles so many may differ by more, under a warning: one hour of a crash."""

SHOWN = 5
"""Instants that an error names."""


def demand_agreement(
    candles: pd.DataFrame,
    symbol: str,
    timeframe: str,
    venue: str,
    other: str,
    *,
    base_url: str | None = None,
) -> None:
    """Raise unless another source has about the same closes; where it has none, a warning.

    Args:
        candles: In the schema, at least one.
        symbol: Such as "BTC/USDT".
        timeframe: Length of a candle.
        venue: Where the candles come from, in messages.
        other: The source to ask, as of `sources.fetch`.
        base_url: See `exchange_client.open_exchange`.

    Raises:
        ContradictionError: Closes differ; names instants and both values.
        ExchangeError: The other source cannot be asked.
        ValueError: The other source is `venue` itself, or unknown.
    """
    if other == venue:
        raise ValueError(f"--cross-check {other} is where the candles come from; name another one")
    times = timestamps_ms(candles)
    rows = np.unique(np.linspace(0, len(times) - 1, SAMPLES).round().astype(int))
    step_ms = timeframe_ms(timeframe)
    row_of = {
        Job(symbol, timeframe, int(times[row]), int(times[row]) + step_ms): row for row in rows
    }
    answers = sources.fetch(other, [*row_of], base_url=base_url)
    closes = candles["close"].to_numpy()
    n_compared, far = 0, []
    for job, row in row_of.items():
        answer = answers[job]
        if isinstance(answer, ExchangeError):
            raise answer
        if isinstance(answer, Exception) or len(answer) == 0:
            continue
        n_compared += 1
        theirs = float(answer["close"].iloc[0])
        if abs(closes[row] / theirs - 1) > MAX_DIFFERENCE:
            time = candles["timestamp"].iloc[row]
            far.append(f"{time:%Y-%m-%d %H:%M} ({closes[row]:.12g} and {theirs:.12g})")
    where = f"{symbol} {timeframe}"
    if n_compared < len(rows):
        text = "%s: %s has %d of %d sampled candles of %s to compare with"
        logger.warning(text, where, other, n_compared, len(rows), venue)
    if not far:
        return
    told = (
        f"{where}: {len(far)} of {n_compared} closes of {venue} and {other} differ by more than "
        f"{100 * MAX_DIFFERENCE:g} %: {', '.join(far[:SHOWN])}"
    )
    if len(far) > MAX_FAR_SHARE * n_compared:
        raise ContradictionError(f"{told}; one of the two is wrong; ask a third exchange")
    logger.warning("%s", told)
