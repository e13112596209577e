"""What the interactive page's server lets in: small questions, and no files.

It stands before Gradio, which has routes for what this page does not do: uploads, the server's
files, other servers' pages, streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

logger = logging.getLogger("app")

MAX_BODY_BYTES = 64 * 1024
BODY_WAIT_S = 30.0
"""A body that takes longer is given up."""
MAX_AT_ONCE = 4
"""Answers that one client may wait for at the same time"""
MAX_TOOLS_AT_ONCE = 16
"""Calls of assistants, of all clients: each holds a thread of the server's 40 while it waits."""

_TOOL = re.compile(r"/gradio_api/mcp/?")
_ASKED = re.compile(r"/gradio_api/(queue/join|call/predict|(call/v2/predict)|(cancel|reset))/?")
_REFUSED = re.compile(
    r"(/gradio_api)?/(upload|file|proxy|stream|custom_component|component_server|deep_link|dev/|"
    r"run-history|process_recording|vibe|undo-vibe|monitoring|profiling|login|logout).*"
)
_TEXTS = {
    404: "there is no such page",
    405: "the page takes questions alone",
    408: "the question took too long",
    413: f"a question has at most {MAX_BODY_BYTES:,} bytes",
    422: 'a question names one pair, as {"data": ["BTC/USDT"]}',
    500: "the page could not answer this question",
    503: "too many questions are being answered; ask again in a moment",
}


class Guard:
    """An ASGI application in front of another: refuses what the page does not need.

    Args:
        app: What stands behind it.
        mcp: Whether assistants may ask, by the Model Context Protocol.
    """

    def __init__(self, app: Asgi, mcp: bool = False) -> None:
        self._app = app
        self._mcp = mcp
        self._tools = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a request on, whose body has arrived and is small; else refuse it."""
        if scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_tool = self._mcp and _TOOL.match(scope["path"]) is not None
        status, body = _status_of(scope, is_tool), b""
        if status == 200:
            try:
                found = await asyncio.wait_for(_read_body(receive), BODY_WAIT_S)
            except asyncio.TimeoutError:
                return await _refuse(408, send)
            if found is None:
                return
            body = found
            if len(body) > MAX_BODY_BYTES:
                status = 413
            elif is_tool:
                status = 422 if not _is_message(body) else 200
                status = 503 if self._tools >= MAX_TOOLS_AT_ONCE else status
            elif scope["method"] == "POST" and not _is_question(scope["path"], body):
                status = 422
        if status != 200:
            return await _refuse(status, send)
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        is_begun = False

        async def send_on(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        self._tools += is_tool
        try:
            await self._app(_naming_client(scope) if is_tool else scope, receive_again, send_on)
        except Exception as error:  # Gradio's own, which its server would tell with a traceback
            logger.warning("%s %.100s failed: %.200r", scope["method"], scope["path"], error)
            if not is_begun:
                await _refuse(500, send)
        finally:
            self._tools -= is_tool


def _status_of(scope: MutableMapping[str, Any], is_tool: bool) -> int:
    """200 for what may be asked, else the status of the refusal."""
    path, method = scope["path"], scope["method"]
    if _REFUSED.fullmatch(path):
        return 404
    if is_tool:
        if not _TOOL.fullmatch(path):  # streams that stay open
            return 404
        if method != "POST":
            return 405
    elif method not in ("GET", "HEAD", "OPTIONS") and not (
        method == "POST" and _ASKED.fullmatch(path)
    ):
        return 405
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return 413 if not length.isdigit() or int(length[:20]) > MAX_BODY_BYTES else 200


def _is_question(path: str, body: bytes) -> bool:
    """Whether a body names one pair; Gradio would take what is more, or else, for other things."""
    asked = _ASKED.fullmatch(path)
    assert asked is not None
    if asked[3]:  # names no pair
        return True
    try:
        content = json.loads(body)
        data = list(content.values()) if asked[2] else content["data"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False
    return isinstance(data, list) and _are_names(data)


def _are_names(data: Sequence[object]) -> bool:
    """Whether it is a pair or a model, or both."""
    return len(data) in (1, 2) and all(one is None or isinstance(one, str) for one in data)


def _is_message(body: bytes) -> bool:
    """Whether a body is a message of the protocol, whose arguments hold no file."""
    try:
        message = json.loads(body)
        is_message = isinstance(message["method"], str)
        arguments = message.get("params", {}).get("arguments") or {}
        return is_message and not any(isinstance(one, (dict, list)) for one in arguments.values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def _naming_client(scope: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The request as a proxy would pass it on: Gradio asks itself on an assistant's behalf."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"x-forwarded-for"]
    named = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
    named.append((scope.get("client") or [""])[0].encode())
    return {**scope, "headers": [*headers, (b"x-forwarded-for", b", ".join(named))]}


async def _read_body(receive: Receive) -> bytes | None:
    """A request's body; of a large one a little more than is admitted; None if it breaks off."""
    body = b""
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
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
