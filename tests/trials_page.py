"""Trials of the page, over real HTTP: what a stranger may send."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable
from typing import Any

from app import Models, Options, build, serve
from tests.trials import BTC, Home, Trial

JSON = {"Content-Type": "application/json"}


def trials(home: Home) -> list[Trial]:
    """All trials of this module."""
    started: list[int] = []

    def port() -> int:
        if not started:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                started.append(free.getsockname()[1])
            options = Options((home.bundle,), home.candles, source="directory", port=started[0])
            blocks = build(Models(options))
            serve(blocks, options, wait=False)
            home.callback(blocks.close)
        return started[0]

    def sent(raw: bytes, n_bytes: int = 4000) -> bytes:
        """What the page answers to bytes."""
        with socket.create_connection(("127.0.0.1", port()), timeout=20) as connection:
            connection.sendall(raw)
            return connection.recv(n_bytes)

    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port(), timeout=20)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            with contextlib.suppress(http.client.IncompleteRead):  # Gradio breaks off
                return answer.status, answer.read(200_000).decode(errors="replace")
            return answer.status, ""
        finally:
            connection.close()

    def demand_private(text: str) -> None:
        for private in (str(home.root), "Traceback", "site-packages", "NaN", "Infinity"):
            assert private not in text, text[:500]

    def refused(
        *statuses: int, method: str = "POST", path: str, body: bytes = b"x", **headers: str
    ) -> Callable[[], object]:
        def act() -> object:
            status, text = ask(method, path, body, **headers)
            assert status in statuses, (status, text[:200])
            demand_private(text)
            demand_alive()
            return None

        return act

    def demand_alive() -> None:
        assert ask("GET", "/")[0] == 200

    def forecast(data: Any, expected: str) -> Callable[[], object]:
        """Ask the endpoint, and read what comes."""

        def act() -> object:
            body = data if isinstance(data, bytes) else json.dumps({"data": data}).encode()
            status, text = ask("POST", "/gradio_api/call/predict", body, **JSON)
            if status == 200:
                event = json.loads(text)["event_id"]
                status, text = ask("GET", f"/gradio_api/call/predict/{event}")
            demand_private(text)
            assert expected in f"{status} {text}", (status, text[:300])
            demand_alive()
            return None

        return act

    def raw(content: bytes, *expected: bytes) -> Callable[[], object]:
        def act() -> object:
            answer = sent(content)
            demand_private(answer.decode(errors="replace"))
            assert not expected or any(answer.startswith(b"HTTP/1.1 " + one) for one in expected), (
                answer
            )
            demand_alive()
            return None

        return act

    def slow_strangers() -> None:
        """Some begin a request and never end it; others are answered at once."""
        waiting = [socket.create_connection(("127.0.0.1", port())) for _ in range(50)]
        for connection in waiting:
            connection.sendall(
                b"POST /gradio_api/call/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            )
        began = time.monotonic()
        demand_alive()
        assert time.monotonic() - began < 5
        for connection in waiting:
            connection.close()

    port()  # it takes longer than a trial may
    call = "/gradio_api/call/predict"
    head = b"POST /gradio_api/call/predict HTTP/1.1\r\nHost: x\r\n"
    kind = "page"
    right = "right answer"

    def trial(what: str, act: Callable[[], object]) -> Trial:
        return Trial(kind, what, right, act)

    return [
        trial("a forecast", forecast([BTC], '"price"')),
        trial("a coin that is not offered", forecast(["XYZ/USDT"], "not offered")),
        trial("a path in place of a coin", forecast(["../../etc/passwd"], "error")),
        trial("null in place of a coin", forecast([None], "error")),
        trial("a list in place of a coin", forecast([[BTC]], "422")),
        trial("true in place of a coin", forecast([True], "422")),
        trial("a number of 300 digits in place of a coin", forecast([10**300], "422")),
        trial("marks of direction in a coin", forecast(["BTC/\u202eTDSU"], "error")),
        trial("a coin of 60,000 letters", forecast(["x" * 60_000], "error")),
        trial(
            "a file in place of a coin",
            forecast([{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "422"),
        ),
        trial("two coins", forecast([BTC, BTC], "422")),
        trial("no coin", forecast([], "422")),
        trial("data that is no list", forecast(b'{"data": 3}', "422")),
        trial("JSON that is none", forecast(b"{", "422")),
        trial(
            "JSON nested deeply", forecast(b'{"data": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "4")
        ),
        trial("NaN in JSON", forecast(b'{"data": [NaN]}', "422")),
        trial("an upload", refused(404, path="/gradio_api/upload")),
        trial("an upload by another name", refused(404, 405, path="/gradio_api/./upload")),
        trial("an upload in capitals", refused(404, 405, path="/GRADIO_API/UPLOAD")),
        trial("a file", refused(404, method="GET", path="/gradio_api/file=/etc/passwd")),
        trial(
            "a file by a path above",
            refused(403, 404, method="GET", path="/static/../../../../etc/passwd"),
        ),
        trial(
            "another function",
            refused(
                404, 405, 422, 500, path="/gradio_api/call/look", body=b'{"data": ["x"]}', **JSON
            ),
        ),
        trial("a session that is not there", refused(404, 200, method="GET", path=f"{call}/none")),
        trial("the configuration", refused(200, method="GET", path="/config")),
        trial("a body of 70 kB", refused(413, path=call, body=bytes(70_000))),
        trial(
            "a length of 10^400", raw(head + b"Content-Length: 1" + b"0" * 400 + b"\r\n\r\n", b"4")
        ),
        trial("a length below 0", raw(head + b"Content-Length: -1\r\n\r\n", b"4")),
        trial("two lengths", raw(head + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx", b"4")),
        trial(
            "a chunk of 2^62",
            raw(
                head + b"Transfer-Encoding: chunked\r\n\r\n3fffffffffffffff\r\n" + bytes(70_000),
                b"4",
            ),
        ),
        trial("a header of a megabyte", raw(head + b"X: " + b"x" * 2**20 + b"\r\n\r\n")),
        trial("no HTTP", raw(b"\x16\x03\x01" + bytes(100))),
        trial("50 strangers who never end", slow_strangers),
    ]
