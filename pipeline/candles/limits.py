"""How much may be asked of an exchange: one count for all clients of a process, as the exchange
itself counts."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping

LIMITS: Mapping[tuple[str, str], tuple[float, float]] = {
    ("binance", ""): (1200, 60),  # 6,000 weight a minute, of which ccxt counts 5 as 1
    ("binanceus", ""): (1200, 60),
    ("binanceusdm", ""): (2400, 60),
    ("binanceusdm", "funding"): (500, 300),
    ("binanceusdm", "open_interest"): (1000, 300),
}
"""(exchange, kind of series) -> (what may be asked in ccxt's costs, in so many seconds). Of those
that are not here we take ccxt's word, which is a rate without bursts."""

SHARE, BURST = 0.8, 0.1
"""Of a limit we use the first share as a steady rate and the second one at once: 0.9 together in
any window, even right after another process that has used the steady share."""


class Allowance:
    """What may be asked now: a steady rate, and some more at once after a pause."""

    def __init__(
        self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_second, self.burst, self._clock = per_second, burst, clock
        self._left, self._counted_at, self._lock = burst, clock(), threading.Lock()

    def reserve(self, cost: float) -> float:
        """Count a request and return the seconds after which it may be sent.

        Example:
            >>> allowance = Allowance(per_second=2, burst=3, clock=lambda: 0.0)
            >>> [allowance.reserve(2) for _ in range(4)]
            [0.0, 0.0, 0.5, 1.5]
        """
        with self._lock:
            now = self._clock()
            self._left = min(self.burst, self._left + (now - self._counted_at) * self.per_second)
            self._counted_at = now
            wait_s = max(0.0, -self._left / self.per_second)
            self._left -= cost
            return wait_s

    def spend_burst(self) -> None:
        """After a 429: somebody else has used what we thought was ours."""
        with self._lock:
            self._left = min(self._left, 0.0)


@functools.cache
def allowance(exchange: str, kind: str, base_url: str | None, ccxt_rate: float) -> Allowance:
    """The one allowance of this process for an exchange, or for a kind of series that has a limit
    of its own.

    Args:
        exchange: ccxt's id.
        kind: "" for what all requests count towards, else "funding" or "open_interest".
        base_url: Of the host, where it is not the exchange's own.
        ccxt_rate: Requests of cost 1 a second, by ccxt.
    """
    if (exchange, kind) not in LIMITS:
        return Allowance(SHARE * ccxt_rate, 0.0)
    most, seconds = LIMITS[exchange, kind]
    return Allowance(SHARE * most / seconds, BURST * most)
