"""What the interactive page's server lets in: small questions, and no files.

It stands before Gradio, which has routes for what this page does not do: uploads, the server's
files, other servers' pages, streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 64 * 1024
BODY_WAIT_S = 30.0
"""A body that takes longer is given up."""
MAX_AT_ONCE = 4
"""Answers that one client may wait for at the same time"""

_ASKED = re.compile(r"/gradio_api/(queue/join|call(/v2)?/predict|cancel|reset)/?")
_REFUSED = re.compile(
    r"(/gradio_api)?/(upload|file|proxy|stream|custom_component|component_server|deep_link|dev/|"
    r"run-history|process_recording|vibe|undo-vibe|monitoring|profiling|login|logout).*"
)
_TEXTS = {
    404: "there is no such page",
    405: "the page takes questions alone",
    408: "the question took too long",
    413: f"a question has at most {MAX_BODY_BYTES:,} bytes",
}


class Guard:
    """An ASGI application in front of another: refuses what the page does not need."""

    def __init__(self, app: Asgi) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, whose body has arrived and is small; else refuse it."""
        if scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, body = _status_of(scope), b""
        if status == 200:
            try:
                body = await asyncio.wait_for(_read_body(receive), BODY_WAIT_S)
            except asyncio.TimeoutError:
                status = 408
            if len(body) > MAX_BODY_BYTES:
                status = 413
        if status != 200:
            return await _refuse(status, send)
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, receive_again, send)


def _status_of(scope: MutableMapping[str, Any]) -> int:
    """200 for what may be asked, else the status of the refusal."""
    path, method = scope["path"], scope["method"]
    if _REFUSED.fullmatch(path):
        return 404
    if method not in ("GET", "HEAD", "OPTIONS") and not (
        method == "POST" and _ASKED.fullmatch(path)
    ):
        return 405
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return 413 if not length.isdigit() or int(length[:20]) > MAX_BODY_BYTES else 200


async def _read_body(receive: Receive) -> bytes:
    """A request's body; of one that is too large a little more than is admitted."""
    body = b""
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):  # or the client has gone
            break
    return body


async def _refuse(status: int, send: Send) -> None:
    text = _TEXTS[status].encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(text)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


class Turns:
    """How many answers each client waits for."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def taken(self, client: str) -> Iterator[None]:
        """Count an answer while the block runs.

        Raises:
            ValueError: The client waits for `MAX_AT_ONCE` already.
        """
        with self._lock:
            if self._waiting[client] >= MAX_AT_ONCE:
                raise ValueError(
                    f"{MAX_AT_ONCE} of your questions are being answered; ask again after that"
                )
            self._waiting[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[client] -= 1
                self._waiting += Counter()  # forgets those who wait no more
