"""What can be wrong with an answer of the loopback exchange, and when it is.

A row fault is a small function that alters a page and returns the times it lied about, or None
where it does not apply (nothing can be missing from an empty page); the other faults replace the
answer or break the connection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from tests.exchange_answers import Answer, Page, true_rows
from tests.exchange_dialects import dumped, rate_limited, restricted

HOUR_MS = 3_600_000
MAX_OVERLAP, MAX_MISSING, MAX_BAD_ROWS = 50, 10, 3
RowFault = Callable[[Page, Random], "list[int] | None"]
LOGIN_PAGE = b"<!doctype html><html><body>Please log in to use this network.</body></html>"


@dataclass(frozen=True)
class Fault:
    """One kind of fault, as a test plans it."""

    kind: str
    """one of `FAULTS`"""
    on: str = ""
    """only answers to requests whose path and query hold this text, such as klines or
    symbol=ETHUSDT"""
    times: int = 1
    """answers it spoils"""
    wait_s: float = 1.0
    """what a 429 or 418 demands"""

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"unknown fault {self.kind!r}; use one of {', '.join(FAULTS)}")


@dataclass(frozen=True)
class AppliedFault:
    """What a client was up against."""

    kind: str
    venue: str
    target: str
    """path and query of the request"""
    answer: str
    """what was asked for: markets, time, candles, funding or open_interest"""
    times: tuple[int, ...] = ()
    """times of the rows that were altered or held back, in ms"""


class FaultList:
    """Planned faults, each waiting for the first answers that it applies to, in the order given."""

    def __init__(self, *faults: Fault) -> None:
        self.waiting = [fault for fault in faults for _ in range(fault.times)]

    def candidates(self, target: str) -> list[tuple[Fault, Random]]:
        return [
            (fault, Random(f"{fault.kind} {target}"))
            for fault in self.waiting
            if fault.on in target
        ]

    def spend(self, fault: Fault) -> None:
        self.waiting.remove(fault)


class FaultSchedule:
    """Seeded faults: each answer is spoilt with probability `rate` by one of `kinds`, if that
    applies to it.

    Drawn from the seed, the request and how often it was sent before, so the order in which
    concurrent requests arrive does not matter.
    """

    def __init__(self, seed: int, rate: float, kinds: Sequence[str] | None = None) -> None:
        self.seed, self.rate = seed, rate
        self.faults = [Fault(kind) for kind in (FAULTS if kinds is None else kinds)]
        self.n_sent: Counter[str] = Counter()

    def candidates(self, target: str) -> list[tuple[Fault, Random]]:
        self.n_sent[target] += 1
        rng = Random(f"{self.seed} {target} {self.n_sent[target]}")
        return [(rng.choice(self.faults), rng)] if rng.random() < self.rate else []

    def spend(self, fault: Fault) -> None:
        pass


class Exchange(Protocol):
    """What faults know and change of the exchange."""

    blocked: set[str]
    skew_ms: int


def spoil(
    answer: Answer, venue: str, fault: Fault, rng: Random, exchange: Exchange
) -> tuple[int, ...] | None:
    """Apply a fault to an answer; the times it lied about, or None where it does not apply."""
    if fault.kind in BROKEN_CONNECTIONS:
        answer.ending = fault.kind
        return ()
    if fault.kind in ROW_FAULTS:
        if answer.page is None:
            return None
        times = ROW_FAULTS[fault.kind](answer.page, rng)
        return None if times is None else tuple(times)
    if fault.kind == "clock_skew":
        if exchange.skew_ms != 0:
            return None
        exchange.skew_ms = rng.choice((-1, 1)) * rng.randint(HOUR_MS, 3 * HOUR_MS)
        return ()
    if fault.kind == "451":
        exchange.blocked.add(venue)
    _replace(answer, _substitute(answer, venue, fault))
    return ()


def _substitute(answer: Answer, venue: str, fault: Fault) -> Answer:
    if fault.kind in ("429", "418"):
        return rate_limited(venue, fault.wait_s, is_ban=fault.kind == "418")
    if fault.kind == "451":
        return restricted(venue)
    if fault.kind == "cut_json":
        whole = dumped(answer)
        return Answer("error", raw=whole[: len(whole) // 2])
    if fault.kind == "html":
        return Answer("error", raw=LOGIN_PAGE)
    return Answer(
        "error", raw=b"<html><body>It is not you, it is us.</body></html>", status=int(fault.kind)
    )


def _replace(answer: Answer, other: Answer) -> None:
    answer.page, answer.body, answer.raw = None, other.body, other.raw
    answer.status, answer.headers = other.status, {**answer.headers, **other.headers}


# --- rows
# ------------------------------------------------------------------------------------------


def _times(rows: list[list[Any]]) -> list[int]:
    return [row[0] for row in rows]


def _shorten(page: Page, rng: Random) -> list[int] | None:
    """Fewer rows than match; those that paging in the exchange's own direction asks for next are
    cut."""
    if len(page.rows) < 2:
        return None
    keep = rng.randint(1, len(page.rows) - 1)
    cut = page.rows[:-keep] if page.keeps_newest else page.rows[keep:]
    page.rows = page.rows[-keep:] if page.keeps_newest else page.rows[:keep]
    return _times(cut)


def _empty(page: Page, rng: Random) -> list[int] | None:
    if not page.rows:
        return None
    cut, page.rows = page.rows, []
    return _times(cut)


def _repeat(page: Page, rng: Random) -> list[int] | None:
    """The page that the same series was answered with before."""
    if not page.before or _times(page.before) == _times(page.rows):
        return None
    cut, page.rows = page.rows, page.before
    return sorted(set(_times(cut)) - set(_times(page.rows)))


def _overlap(page: Page, rng: Random) -> list[int] | None:
    """As many rows as there were, but from earlier on than asked for."""
    most = min(MAX_OVERLAP, page.first, len(page.rows) - 1)
    if most < 1:
        return None
    shift = rng.randint(1, most)
    cut = page.rows[-shift:]
    page.rows = [*true_rows(page.series, page.first - shift, page.first), *page.rows[:-shift]]
    return _times(cut)


def _shuffle(page: Page, rng: Random) -> list[int] | None:
    before = _times(page.rows)
    rng.shuffle(page.rows)
    return None if _times(page.rows) == before else []


def _drop_middle(page: Page, rng: Random) -> list[int] | None:
    """A gap that is not in the truth; the first and the last row stay."""
    if len(page.rows) < 3:
        return None
    first = rng.randint(1, len(page.rows) - 2)
    last = rng.randint(first + 1, min(first + MAX_MISSING, len(page.rows) - 1))
    cut = page.rows[first:last]
    del page.rows[first:last]
    return _times(cut)


def _contradict(page: Page, rng: Random) -> list[int] | None:
    """Some rows come twice, once with other values."""
    chosen = _choose(page, rng)
    for row in chosen:
        other = [row[0], *(number * 1.01 for number in row[1:])]
        page.rows.insert(page.rows.index(row) + rng.randint(0, 1), other)
    return _times(chosen) or None


def _choose(page: Page, rng: Random) -> list[list[Any]]:
    """A few rows of candles that have closed; the rows themselves, to be changed in place."""
    closed = [row for row in page.rows if row[0] != page.forming_ms]
    return sorted(rng.sample(closed, min(len(closed), rng.randint(1, MAX_BAD_ROWS))))


def _put(value: Callable[[float], float | None]) -> RowFault:
    """The fault that puts `value(price)` in place of one price (or rate) in a few rows."""

    def fault(page: Page, rng: Random) -> list[int] | None:
        chosen = _choose(page, rng)
        for row in chosen:
            column = rng.randint(1, min(4, len(row) - 1))
            row[column] = value(row[column])
        return _times(chosen) or None

    return fault


def _candles_only(fault: RowFault) -> RowFault:
    return lambda page, rng: fault(page, rng) if page.kind == "candles" else None


def _exaggerate(page: Page, rng: Random) -> list[int] | None:
    """Prices that are a thousand times too high or low: a candle's extreme alone, or the whole of
    it."""
    chosen = _choose(page, rng)
    for row in chosen:
        column, factor = rng.choice(((2, 1000.0), (3, 0.001), (None, 1000.0), (None, 0.001)))
        for wrong in (1, 2, 3, 4) if column is None else (column,):
            row[wrong] *= factor
    return _times(chosen) or None


def _silence(page: Page, rng: Random) -> list[int] | None:
    chosen = [row for row in _choose(page, rng) if row[5] > 0]
    for row in chosen:
        row[5] = 0.0
    return _times(chosen) or None


def _finish(page: Page, rng: Random) -> list[int] | None:
    """The forming candle is marked as closed."""
    if page.forming_ms is None:
        return None
    page.marked_closed_ms = page.request.now_ms - 1
    return [page.forming_ms]


BROKEN_CONNECTIONS = ("reset", "hang", "truncated")
ROW_FAULTS: Mapping[str, RowFault] = {
    "short_page": _shorten,
    "empty_page": _empty,
    "repeated_page": _repeat,
    "overlapping_page": _overlap,
    "unsorted": _shuffle,
    "missing_rows": _drop_middle,
    "conflicting_rows": _contradict,
    "nan_price": _put(lambda price: float("nan")),
    "null_price": _put(lambda price: None),
    "negative_price": _candles_only(_put(lambda price: -price)),
    "absurd_price": _candles_only(_exaggerate),
    "zero_volume": _candles_only(_silence),
    "forming_closed": _candles_only(_finish),
}
FAULTS = (
    "429",
    "418",
    "500",
    "502",
    "503",
    "451",
    *BROKEN_CONNECTIONS,
    "cut_json",
    "html",
    "clock_skew",
    *ROW_FAULTS,
)
"""All kinds. `truncated` breaks off the HTTP answer, `cut_json` is a whole one with half of the
JSON; 418 is Binance's, OKX answers 429. 451 and `clock_skew` stay until the server is reset: the
venue refuses, its clock is off."""
