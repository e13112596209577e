"""A whole series from pages: gathered, judged, and asked for once more where in doubt.

Exchanges send fewer rows than asked, none at all, or a window of time that is cut at its old end;
and now and then rows that are missing, repeated, contradictory or impossible. So a series is
fetched in three steps:

1. Gather: pages forward in time, each from behind the newest row there is.
2. Judge all rows together: what is missing, what cannot be (bad), what is hard to believe
   (doubtful).
3. Ask once more for every stretch with any of these, and settle: what the second answer mends is
   mended, what is doubtful or missing twice is believed. What is bad and the same twice is what
   the exchange has: low..high is widened where open or close lie a little outside, other rows are
   left out as a gap, and too many of these are an error. Whatever was done is logged.

Rows are (n, 1 + k) float64: the time in ms since 1970 UTC (exact in float64), then k values.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pipeline.candles import belief
from pipeline.candles.job import ExchangeError, Job
from pipeline.candles.schema import utc_from_ms, widen

logger = logging.getLogger(__name__)

MAX_EMPTY_PAGES = 100
"""Empty pages in a row after which a fetch gives up: 100,000 candles on Binance, 11 years of 1h."""

ABSURD_FACTOR = 10.0
"""A price this many times above or below what it was before and is after cannot be."""

NEIGHBOURS = 10
"""Rows on either side whose median says what the price was before and is after."""

MAX_LEFT_OUT_SHARE = 0.2
FEW_ROWS = 50
"""Bad rows that may be left out as a gap: this share of all, or so few, but never all of them. The
1m candles that Binance's outage of February 2018 put off the grid are 14 % of a stored piece."""

MAX_FUNDING_RATE = 1.0
"""A settlement of 100 % cannot be; exchanges cap theirs at a few percent."""

TWICE, OFF_GRID, IMPOSSIBLE, ABSURD = range(1, 5)
"""What is wrong with a row; 0 is nothing."""
BAD = {
    TWICE: "came twice with different values",
    OFF_GRID: "off the grid of times",
    IMPOSSIBLE: "with impossible values",
    ABSURD: "at an absurd price",
}

Span = tuple[int, int]
"""First and last instant, both included, in ms since 1970 UTC."""


@dataclass(frozen=True)
class PagedSeries:
    """A series of one market and how to ask for it."""

    exchange: str
    market: str
    """as the exchange calls it"""
    job: Job
    """what is asked for"""
    page_rows: int
    """most to ask for at once"""
    ask: Callable[[int, int, int], Awaitable[Sequence[Sequence[Any]]]]
    """rows [time, *values] for (since, until, limit) as they came; it need not heed `until`"""
    now_ms: int = 0
    """the present; the candle that forms at it is dropped"""
    closed_ms: int = 0
    """what has closed by then has closed by every clock"""
    oldest_ms: int = 0
    """there is nothing before this instant, and asking for it may be an error"""

    @property
    def what(self) -> str:
        rows = "rows" if self.job.is_published else "candles"
        return f"{rows} of {self.market} {self.job.kind}"

    @property
    def name(self) -> str:
        """What the log calls it."""
        return f"{self.exchange} {self.market} {self.job.kind}"

    @property
    def is_regular(self) -> bool:
        """Whether rows lie on a grid of `step_ms`; settlement intervals vary."""
        return self.job.kind != "funding"

    @property
    def step_ms(self) -> int:
        """From one row to the next; of funding the usual interval."""
        return self.job.step_ms

    @property
    def stride_ms(self) -> int:
        """From a row to the first instant at which the next one may lie."""
        return self.step_ms if self.is_regular else 1

    @property
    def forming_ms(self) -> int | None:
        """Open of the candle that has not closed yet."""
        return None if self.job.is_published else self.now_ms // self.step_ms * self.step_ms

    @property
    def empty(self) -> np.ndarray:
        """(0, 1 + k)"""
        return np.empty((0, 1 + len(self.job.columns)))


async def fetch_span(series: PagedSeries, first: int, last: int) -> np.ndarray:
    """Sound rows from `first` to `last`, both included, (n, 1 + k) in time order.

    Raises:
        ExchangeError: The exchange is out of reach, refuses, contradicts itself, or sends too many
            bad rows.
    """
    answers = _Answers(series, _with_context(series, first, last), last)
    await _gather(answers, answers.first, last)
    rows = await _settle(answers, first)
    return rows[rows[:, 0] >= first]


async def fetch_newest(series: PagedSeries, n_rows: int, last: int) -> np.ndarray:
    """The newest `n_rows` up to `last`, or all there are; looks further back past gaps."""
    first = max(0, last - (n_rows - 1) * series.step_ms)
    answers = _Answers(series, _with_context(series, first, last), last)
    await _gather(answers, answers.first, last)
    n_found = len(answers.times)
    while answers.first > 0 and n_found < n_rows:
        later = answers.first
        n_more = max(n_rows - n_found, series.page_rows)
        answers.first = max(0, later - n_more * series.step_ms)
        await _gather(answers, answers.first, later - series.step_ms)
        # the listing began here, or a gap of more than a page; it will be asked again
        if len(answers.times) == n_found:
            break
        n_found = len(answers.times)
    wanted = int(answers.times[-n_rows]) if n_found >= n_rows else answers.first
    return (await _settle(answers, wanted))[-n_rows:]


def _with_context(series: PagedSeries, first: int, last: int) -> int:
    """Where to start so that a short series has something to be compared with."""
    context_ms = NEIGHBOURS * series.step_ms
    is_long = last - first >= context_ms
    return first if is_long else min(first, max(series.oldest_ms, first - context_ms))


def to_frame(series: PagedSeries, rows: np.ndarray) -> pd.DataFrame:
    """Frame of timestamp (datetime64[ms, UTC]) and the values (float64)."""
    columns: dict[str, Any] = {"timestamp": utc_from_ms(rows[:, 0].astype(np.int64))}
    for name, values in zip(series.job.columns, rows[:, 1:].T):
        columns[name] = values.copy()
    return pd.DataFrame(columns)


@dataclass
class _Answers:
    """Rows of a span as they came, and what was asked."""

    series: PagedSeries
    first: int
    last: int
    pages: list[np.ndarray] = field(default_factory=list)
    asked: list[Span] = field(default_factory=list)
    """spans that an answer covered"""
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> np.ndarray:
        return np.concatenate([self.series.empty, *self.pages])

    @property
    def times(self) -> np.ndarray:
        """Distinct times of the rows, sorted."""
        return np.unique(self.rows[:, 0])

    def keep(self, page: Sequence[Sequence[Any]], since: int, until: int, limit: int) -> np.ndarray:
        """Keep a page's rows up to `until`; returns all its times from `since` on, sorted."""
        # None becomes NaN
        rows = np.array(page, dtype=np.float64).reshape(-1, self.series.empty.shape[1])
        has_time = np.isfinite(rows[:, 0])
        rows = rows[has_time]
        times = rows[:, 0]
        is_forming = times == self.series.forming_ms
        is_outside = ((times < self.first) | (times > self.last)) & ~is_forming
        steps = np.diff(times)
        self.notes["rows without a time dropped"] += int((~has_time).sum())
        self.notes["forming candle dropped"] += int(is_forming.sum())
        self.notes["rows outside the asked span cut"] += int(is_outside.sum())
        # all descending is how some exchanges answer
        self.notes["rows out of order sorted"] += int(min((steps < 0).sum(), (steps > 0).sum()))
        self.pages.append(rows[(times >= self.first) & (times <= until)])
        ahead: np.ndarray = np.sort(times[times >= since])
        end = ahead[-1] if len(ahead) else since + limit * self.series.step_ms - 1
        self.asked.append((since, int(min(end, until))))
        return ahead


async def _gather(answers: _Answers, first: int, last: int) -> None:
    """Ask for pages until the span is through.

    Some exchanges answer with a window of time. An empty page may lie inside a gap, so the next one
    is asked for behind it; and a window may be cut at its old end, so what is missing there is
    asked for next.
    """
    series = answers.series
    pending = [(first, last)]
    n_empty = 0
    while pending:
        since, until = pending.pop()
        if since > until:
            continue
        limit = series.page_rows
        if series.is_regular:
            limit = min(limit, (until - since) // series.step_ms + 1)
        times = answers.keep(await series.ask(since, until, limit), since, until, limit)
        n_empty = 0 if len(times) else n_empty + 1
        if n_empty == MAX_EMPTY_PAGES:
            raise ExchangeError(
                f"{series.exchange}: {n_empty} pages in a row held no {series.what}, up to "
                f"{_date(since)} UTC; start after its listing, or end before its delisting"
            )
        behind = int(times[-1]) + series.stride_ms if len(times) else since + limit * series.step_ms
        pending.append((behind, until))
        fresh = times[times <= until]
        if len(fresh):
            interval = series.step_ms  # from one row to the next, at most
            if not series.is_regular and len(fresh) > 1:
                interval = np.diff(fresh).max()
            if fresh[0] - since >= interval:
                pending.append((since, int(fresh[0]) - series.stride_ms))


@dataclass(frozen=True)
class _Judged:
    """Rows sorted by time."""

    good: np.ndarray
    """(n, 1 + k), every time once"""
    doubtful: np.ndarray
    """(n,) bool: hard to believe"""
    bad: np.ndarray
    """(m, 1 + k), times may repeat"""
    kinds: np.ndarray
    """(m,) what is wrong with each bad row, an index of `BAD`"""
    n_repeated: int
    """equal rows that were merged"""


def _judge(series: PagedSeries, rows: np.ndarray, *, is_whole: bool = True) -> _Judged:
    """Tell good rows from bad ones; only of a whole series by a look at their neighbours."""
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    alike = np.flatnonzero(_shares_time(rows))
    is_repeated = np.zeros(len(rows), dtype=bool)
    is_repeated[alike] = pd.DataFrame(rows[alike]).duplicated()
    rows = rows[~is_repeated]
    kinds = np.zeros(len(rows), dtype=np.int64)
    kinds[_impossible(series, rows)] = IMPOSSIBLE
    if series.is_regular:
        kinds[rows[:, 0] % series.step_ms != 0] = OFF_GRID
    kinds[_shares_time(rows)] = TWICE
    sound = np.flatnonzero(kinds == 0)
    doubtful = np.zeros(len(sound), dtype=bool)
    if is_whole and series.is_regular and len(sound):
        absurd, doubtful = _hard_to_believe(series, rows[sound])
        kinds[sound[absurd]] = ABSURD
        doubtful = doubtful[~absurd]
    is_bad = kinds > 0
    return _Judged(rows[~is_bad], doubtful, rows[is_bad], kinds[is_bad], int(is_repeated.sum()))


def _shares_time(rows: np.ndarray) -> np.ndarray:
    """(n,) bool: another row has the same time."""
    return pd.Series(rows[:, 0]).duplicated(keep=False).to_numpy()


def _impossible(series: PagedSeries, rows: np.ndarray) -> np.ndarray:
    """(n,) bool: no such row can be."""
    values = rows[:, 1:]
    wrong: np.ndarray = ~np.isfinite(values).all(axis=1)
    if not series.job.is_published:
        open_, high, low, close, volume = values.T
        wrong |= (values[:, :4] <= 0).any(axis=1) | (volume < 0)
        return wrong | (high < np.maximum(open_, close)) | (low > np.minimum(open_, close))
    if series.job.kind == "open_interest":
        return wrong | (values[:, 0] < 0)
    return wrong | (np.abs(values[:, 0]) > MAX_FUNDING_RATE)


def _hard_to_believe(series: PagedSeries, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool each, of sound rows: absurd, and doubtful.

    Absurd is a price `ABSURD_FACTOR` away, in one direction, from both what it was before and what
    it is after: a crash is not, since it agrees with what comes after it. So is a single candle
    that stands apart (`_stands_apart`). Doubtful is a price as far away
    at an end of the series, where only one side is known (listings begin wildly), rows on either
    side of a jump by the factor, what `belief` doubts, and a candle that moves without volume.
    """
    prices = rows[:, 1:2] if series.job.is_published else rows[:, 1:5]
    level = pd.Series(prices[:, -1])
    before = level.rolling(NEIGHBOURS, min_periods=1).median().shift(1).to_numpy()
    after = level[::-1].rolling(NEIGHBOURS, min_periods=1).median().shift(1).to_numpy()[::-1]
    above = prices.max(axis=1) > ABSURD_FACTOR * np.fmax(before, after)
    below = prices.min(axis=1) < np.fmin(before, after) / ABSURD_FACTOR
    absurd = (above | below) & ~np.isnan(before) & ~np.isnan(after)
    absurd |= _stands_apart(series, rows)
    doubtful = above | below
    kept = np.flatnonzero(~absurd)
    jump = np.abs(np.diff(np.log(np.maximum(prices[kept, -1], 1e-300)))) > np.log(ABSURD_FACTOR)
    doubtful[kept[1:][jump]] = doubtful[kept[:-1][jump]] = True
    if not series.job.is_published:
        times, open_, high, low, close, volume = rows.T
        doubtful |= belief.doubtful_rows(times, series.step_ms, open_, high, low, close)
        doubtful |= (volume == 0) & (high > low)
    return absurd, doubtful


def _stands_apart(series: PagedSeries, rows: np.ndarray) -> np.ndarray:
    """(n,) bool: a single candle, all of it far above or below both of its neighbours.

    Trading goes on where it stopped, so the low of a candle that shot up is near the close before.
    """
    apart = np.zeros(len(rows), dtype=bool)
    if series.job.is_published or len(rows) < 3:
        return apart
    times, open_, high, low, close = rows.T[:5]
    is_beside = (np.diff(times) == series.step_ms)[1:] & (np.diff(times) == series.step_ms)[:-1]
    top, bottom = np.maximum(close[:-2], open_[2:]), np.minimum(close[:-2], open_[2:])
    is_far = (low[1:-1] > belief.TICK_FACTOR * top) | (high[1:-1] * belief.TICK_FACTOR < bottom)
    apart[1:-1] = is_beside & is_far
    return apart


def _missing(series: PagedSeries, times: np.ndarray, first: int, last: int) -> list[Span]:
    """Spans without rows where some ought to be.

    Of funding they are where an interval is longer than one beside it.
    """
    stride = series.stride_ms
    edges = np.concatenate([[first - stride], times, [last + stride]]).astype(np.int64)
    steps = np.diff(edges)
    usual = np.full(len(steps), series.step_ms, dtype=np.float64)
    if not series.is_regular and len(times) > 1:
        inner = np.concatenate([[np.inf], steps[1:-1], [np.inf]])
        usual[1:-1] = 1.5 * np.minimum(inner[:-2], inner[2:])
        usual[0], usual[-1] = inner[1:3].min(), inner[-3:-1].min()
    return [
        (int(edges[gap]) + stride, int(edges[gap + 1]) - stride)
        for gap in np.flatnonzero(steps > usual)
    ]


def _stretches(
    series: PagedSeries, judged: _Judged, missing: Sequence[Span], asked: Sequence[Span]
) -> list[Span]:
    """Spans to ask for once more; near ones are joined into one request."""
    page_ms = series.page_rows * series.step_ms
    spans = [(lo, hi) for lo, hi in missing if sum(a <= lo and hi <= b for a, b in asked) < 2]
    for time in map(int, (*judged.bad[:, 0], *judged.good[judged.doubtful, 0])):
        # With its neighbours, because of two rows for one time a page for one row would hold one.
        spans.append((time - time % series.stride_ms - series.step_ms, time + series.step_ms))
    stretches: list[Span] = []
    for lo, hi in sorted(spans):
        if stretches and hi - stretches[-1][0] < page_ms:
            stretches[-1] = (stretches[-1][0], max(hi, stretches[-1][1]))
        else:
            stretches.append((lo, hi))
    return stretches


async def _settle(answers: _Answers, wanted: int) -> np.ndarray:
    """The rows that remain once what is in doubt has been asked for again.

    Of gaps and doubts from `wanted` on the log is told.
    """
    series, first, last = answers.series, answers.first, answers.last
    judged = _judge(series, answers.rows)
    answers.notes["repeated rows merged"] += judged.n_repeated
    answers.pages.clear()
    on_grid = judged.bad[judged.kinds != OFF_GRID, 0]
    missing = _missing(series, np.union1d(judged.good[:, 0], on_grid), first, last)
    stretches = _stretches(series, judged, missing, answers.asked)
    if stretches:
        again = _Answers(series, first, last)
        for lo, hi in stretches:
            await _gather(again, max(lo, first), min(hi, last))
        judged = _combine(series, judged, _judge(series, again.rows, is_whole=False), answers.notes)
    rows = judged.good
    times = rows[:, 0]
    if not series.job.is_published and belief.has_swapped(times, series.step_ms, *rows.T[[1, 4]]):
        raise ExchangeError(
            f"{series.exchange}: open and close of {series.what} are swapped: closes lie where the "
            "candle before opened; choose another exchange"
        )
    missing = [span for span in _missing(series, times, first, last) if span[1] >= wanted]
    odd = judged.good[judged.doubtful & (times >= wanted)]
    _tell(answers, rows, odd, [(max(lo, wanted), hi) for lo, hi in missing])
    return rows


def _combine(series: PagedSeries, first: _Judged, second: _Judged, notes: Counter[str]) -> _Judged:
    """What both answers together say; raises where they contradict, or agree on too many bad rows.

    Bad rows that came the same twice are mended or left out.
    """
    rows = first.good.copy()
    known, again = rows[:, 0], second.good[:, 0]
    _, at, at_again = np.intersect1d(known, again, assume_unique=True, return_indices=True)
    differs = (rows[at] != second.good[at_again]).any(axis=1)
    contradicts = differs & ~first.doubtful[at]
    if contradicts.any():
        _refuse(series, second.good[at_again[contradicts]], TWICE)
    rows[at[differs]] = second.good[at_again[differs]]
    is_new = ~np.isin(again, known)
    was_bad = np.isin(again, first.bad[:, 0])
    rows = np.concatenate([rows, second.good[is_new]])
    still_bad = ~np.isin(second.bad[:, 0], rows[:, 0])
    bad, kinds = second.bad[still_bad], second.kinds[still_bad]
    _demand_same(series, bad, kinds, first, second)
    n_dropped = int((~np.isin(first.bad[:, 0], np.union1d(rows[:, 0], bad[:, 0]))).sum())
    rows, bad, kinds, n_widened = _widen(series, rows, bad, kinds)
    judged = _judge(series, rows)
    while len(judged.bad):  # absurd ones; without them others may be, too
        _demand_same(series, judged.bad, judged.kinds, first, second)
        bad, kinds = np.concatenate([bad, judged.bad]), np.concatenate([kinds, judged.kinds])
        was_bad &= ~np.isin(again, judged.bad[:, 0])
        judged = _judge(series, judged.good)
    notes["bad rows mended by asking again"] += int(differs.sum() + was_bad.sum())
    notes["missing rows found by asking again"] += int((is_new & ~was_bad).sum())
    notes["bad rows dropped that did not come again"] += n_dropped
    notes["rows, asked for twice: low..high widened to hold open and close"] += n_widened
    _leave_out(series, bad, kinds, len(judged.good))
    return judged


def _demand_same(
    series: PagedSeries, bad: np.ndarray, kinds: np.ndarray, first: _Judged, second: _Judged
) -> None:
    """Raise unless each bad row came with the same values in both answers, and alone."""
    seen = [
        {row.tobytes() for row in np.concatenate([judged.good, judged.bad])}
        for judged in (first, second)
        if len(bad)
    ]
    came_twice = np.array([all(row.tobytes() in rows for rows in seen) for row in bad], dtype=bool)
    refused = np.flatnonzero(~came_twice | (kinds == TWICE))
    if len(refused):
        kind = kinds[refused[0]]
        _refuse(series, bad[refused][kinds[refused] == kind], int(kind))


def _widen(
    series: PagedSeries, rows: np.ndarray, bad: np.ndarray, kinds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rows with those that widening mends, the other bad rows and kinds, and how many it mended."""
    if series.job.is_published:
        return rows, bad, kinds, 0
    high, low, is_mended = widen(*bad[:, 1:5].T)
    is_mended &= (kinds == IMPOSSIBLE) & np.isfinite(bad[:, 5]) & (bad[:, 5] >= 0)
    mended = np.column_stack([bad[:, :2], high, low, bad[:, 4:]])[is_mended]
    rows = np.concatenate([rows, mended])
    return rows, bad[~is_mended], kinds[~is_mended], len(mended)


def _leave_out(series: PagedSeries, bad: np.ndarray, kinds: np.ndarray, n_sound: int) -> None:
    """Log the bad rows that become a gap, a line for each kind; too many are an error."""
    most = max(FEW_ROWS, MAX_LEFT_OUT_SHARE * (n_sound + len(bad)))
    for kind in np.unique(kinds):
        rows = bad[kinds == kind]
        if n_sound == 0 or len(bad) > most:
            _refuse(series, rows, int(kind))
        text = "%s: %d row(s) %s are left out as a gap, asked for twice, first %s (%s)"
        first = (_date(rows[0, 0]), _values(series, rows[0]))
        logger.warning(text, series.name, len(rows), BAD[int(kind)], *first)


def _refuse(series: PagedSeries, rows: np.ndarray, kind: int) -> None:
    """Raise on rows that are bad after asking twice, naming the first one."""
    n_times = len(np.unique(rows[:, 0]))
    raise ExchangeError(
        f"{series.exchange}: {n_times} {series.what} {BAD[kind]}, first {_date(rows[0, 0])} "
        f"({_values(series, rows[0])}); asked for twice, so try again later or choose another "
        "exchange"
    )


def _values(series: PagedSeries, row: np.ndarray) -> str:
    names = series.job.columns
    return ", ".join(f"{name} = {value:g}" for name, value in zip(names, row[1:]))


def _tell(answers: _Answers, rows: np.ndarray, odd: np.ndarray, missing: Sequence[Span]) -> None:
    """Log what was repaired, and rows that remain doubtful or missing, a line for each."""
    series = answers.series
    name, times = series.name, rows[:, 0]
    for what, count in answers.notes.items():
        is_usual = what.startswith(("forming", "rows outside"))
        if count:
            level = logging.INFO if is_usual else logging.WARNING
            logger.log(level, "%s: %d %s", name, count, what)
    if len(odd):
        values = ", ".join(f"{value:g}" for value in odd[0, 1:])
        text = "%s: %d row(s) hard to believe, asked for twice, first %s (%s)"
        logger.warning(text, name, len(odd), _date(odd[0, 0]), values)
    inner = []
    for lo, hi in missing:
        if len(times) and times[0] < lo and hi < times[-1]:
            inner.append((lo, hi))
        else:
            logger.warning("%s: no rows from %s to %s, asked for twice", name, _date(lo), _date(hi))
    if len(times) and not series.job.is_published:
        for oddity in belief.oddities(to_frame(series, rows), series.job.kind):
            logger.warning("%s: %s", name, oddity)
    if not inner:
        return
    longest = max(inner, key=lambda span: span[1] - span[0])
    where = f"from {_date(longest[0])} to {_date(longest[1])}"
    if series.is_regular:
        sizes = [(hi - lo) // series.step_ms + 1 for lo, hi in inner]
        what = f"{len(inner)} gap(s) of {sum(sizes)} rows, the longest of {max(sizes)} {where}"
        logger.warning("%s: %s; asked for twice, so the exchange has none", name, what)
    else:  # most often the exchange has changed the interval
        text = "%s: %d interval(s) longer than one beside them, the longest %s"
        logger.info(text, name, len(inner), where)


def _date(milliseconds: float) -> str:
    return f"{pd.Timestamp(int(milliseconds), unit='ms'):%Y-%m-%d %H:%M}"
