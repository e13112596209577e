"""Forecasts posted to an address as they are made; what goes wrong there stops no forecast.

The address of a webhook is its password, so messages name its host alone, and no redirect is
followed.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from pipeline.forecasts.prediction import Prediction, as_json, forecast_lines

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
PAUSES_S = (1.0, 5.0, 25.0)
"""Waits between the tries."""
LONGEST_WAIT_S = 120.0
"""Bound on a wait that the receiver asks for."""
MAX_WAITING = 100
"""Forecasts that wait; of more the oldest is left out."""
LAST_S = 60.0
"""For how long a command that ends waits for its last post."""

Sleep = Callable[[float], None]


class Webhook:
    """Posts forecasts one after another, from a thread of its own."""

    def __init__(self, url: str, *, is_discord: bool = False, sleep: Sleep = time.sleep) -> None:
        """Start with nothing to post.

        Args:
            url: Where to post to.
            is_discord: Whether Discord's form is wanted: a message in place of the forecast's
                numbers.
            sleep: Waits the given seconds.

        Raises:
            ValueError: It is no address of http or https.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("--webhook is no address; pass one that begins with https://")
        self._url, self._host, self._is_discord = url, parts.hostname, is_discord
        self._sleep = sleep
        self._waiting: queue.Queue[bytes] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def post(self, prediction: Prediction) -> None:
        """Post a forecast soon; returns at once, and never raises."""
        content: dict[str, Any] = as_json(prediction)
        if self._is_discord:
            content = {"content": "\n".join(forecast_lines(prediction))[:2000]}
        encoded = json.dumps(content).encode()
        try:
            self._waiting.put_nowait(encoded)
        except queue.Full:
            self._waiting.get_nowait()
            self._waiting.task_done()
            self._waiting.put_nowait(encoded)
            logger.warning("webhook %s: too slow, the oldest forecast is left out", self._host)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def finish(self, timeout_s: float = LAST_S) -> None:
        """Wait until all is posted or given up, for so long at most."""
        until = time.monotonic() + timeout_s
        while self._waiting.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)

    def _work(self) -> None:
        while True:
            content = self._waiting.get()
            try:
                self._deliver(content)
            except Exception as error:  # a thread that ends would post nothing more
                logger.warning("webhook %s: %s", self._host, type(error).__name__)
            finally:
                self._waiting.task_done()

    def _deliver(self, content: bytes) -> None:
        """Post until it is taken or refused, or the tries are used up."""
        for pause_s in (*PAUSES_S, None):
            wait_s, reason = pause_s, ""
            try:
                self._send(content)
                return
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code}"
                if error.code != 429 and error.code < 500:
                    wait_s = None  # it will not be taken later either
                elif wait_s is not None:
                    wait_s = max(wait_s, _asked_wait_s(error))
                error.close()
            except (OSError, ValueError) as error:
                reason = type(error).__name__
            if wait_s is None:
                logger.warning("webhook %s: a forecast was not taken (%s)", self._host, reason)
                return
            self._sleep(wait_s)

    def _send(self, content: bytes) -> None:
        request = urllib.request.Request(
            self._url, content, {"Content-Type": "application/json", "User-Agent": "crypto_system"}
        )
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S):
            pass


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Whoever is redirected to would learn the forecast, and maybe the address."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _asked_wait_s(error: urllib.error.HTTPError) -> float:
    """Seconds that the receiver asks to wait; 0 where it does not say."""
    try:
        return min(max(float(error.headers.get("Retry-After", 0)), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return 0.0
