"""What stands before the page's server, on a socket of this machine: what is let in, and what never
is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.report import live_guard
from pipeline.report.live_guard import MAX_BODY_BYTES, Guard

uvicorn = pytest.importorskip("uvicorn", reason="it comes with Gradio")

CALL = "/gradio_api/call/predict"
QUESTION = b'{"data": ["BTC/USDT"]}'


class Behind:
    """An application that notes what reaches it, and answers with the size of the body."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, str, int]] = []
        self.forwarded: list[bytes] = []
        self.fails = False
        self.waits_for: threading.Event | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        message = await receive()
        assert not message["more_body"]
        if self.fails:
            self.fails = False
            raise KeyError("event")
        self.reached.append((scope["method"], scope["path"], len(message["body"])))
        self.forwarded = [of for name, of in scope["headers"] if name == b"x-forwarded-for"]
        while self.waits_for is not None and not self.waits_for.is_set():
            await asyncio.sleep(0.01)
        body = json.dumps(len(message["body"])).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(mcp: bool) -> Iterator[tuple[int, Behind]]:
    """Port of a server in a thread of this process, and what stands behind the guard."""
    behind = Behind()
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Guard(behind, mcp=mcp), log_level="critical"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1], behind
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[int, Behind]]:
    with serving(mcp=False) as found:
        yield found


@pytest.fixture(scope="module")
def for_assistants() -> Iterator[tuple[int, Behind]]:
    with serving(mcp=True) as found:
        yield found


@pytest.fixture
def port(served) -> int:
    served[1].reached.clear()
    return served[0]


def ask(port: int, method: str, path: str, body: Any = b"", **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def status_of(port: int, request: bytes) -> int:
    """What is answered to bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        return int(connection.recv(4000).split()[1])


@pytest.mark.parametrize("path", [CALL, "/gradio_api/queue/join", CALL + "/"])
def test_a_small_question_reaches_the_page_whole(served, port, path):
    body = QUESTION + b" " * (MAX_BODY_BYTES - len(QUESTION))
    assert ask(port, "POST", path, body) == (200, str(MAX_BODY_BYTES))
    assert ask(port, "POST", path, body + b" ")[0] == 413
    assert served[1].reached == [("POST", path, MAX_BODY_BYTES)]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"data": "BTC/USDT"}',
        b'{"data": []}',
        b'{"data": ["BTC/USDT", "v2", "ETH/USDT"]}',
        b'{"data": ["BTC/USDT", ["v2"]]}',
        b'{"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}]}',
        b'{"data": [["BTC/USDT"]]}',
        b'{"data": [true]}',
        b'{"data": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
    ids=lambda body: str(body[:50]),
)
def test_what_names_no_pair_and_model_does_not_reach_the_page(served, port, body):
    assert ask(port, "POST", CALL, body) == (422, live_guard._TEXTS[422])
    assert served[1].reached == []


def test_a_question_by_the_name_of_its_argument_is_one_too(served, port):
    path = "/gradio_api/call/v2/predict"
    assert ask(port, "POST", path, b'{"symbol": "BTC/USDT"}') == (200, "22")
    assert ask(port, "POST", path, b'{"symbol": "BTC/USDT", "model": "v2"}') == (200, "37")
    for body in (QUESTION, b"{}", b"[]", b'{"symbol": {"path": "/etc/passwd"}}'):
        assert ask(port, "POST", path, body)[0] == 422


def test_a_question_about_no_pair_needs_none(served, port):
    assert ask(port, "POST", "/gradio_api/cancel", b"{}") == (200, "2")


def test_what_the_page_itself_cannot_answer_is_told_in_one_line(served, port, caplog):
    served[1].fails = True
    assert ask(port, "GET", "/x") == (500, live_guard._TEXTS[500])
    assert caplog.messages == ["GET /x failed: KeyError('event')"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_whoever_only_looks_is_let_in(served, port, method):
    assert ask(port, method, "/config")[0] == 200
    assert [method for method, *_ in served[1].reached] == [method]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/gradio_api/upload", 404),
        ("GET", "/gradio_api/upload_progress", 404),
        ("GET", "/gradio_api/file=/etc/passwd", 404),
        ("GET", "/file/x", 404),
        ("POST", "/gradio_api/mcp/", 405),
        ("POST", "/gradio_api/run/predict", 405),
        ("POST", "/gradio_api/call/look", 405),
        ("POST", CALL + "/x", 405),
        ("PUT", CALL, 405),
        ("PATCH", "/", 405),
    ],
)
def test_no_other_request_reaches_the_page(served, port, method, path, status):
    assert ask(port, method, path) == (status, live_guard._TEXTS[status])
    assert served[1].reached == []


@pytest.mark.parametrize("length", [b"1" + b"0" * 400, b"70000", b"-1", b"x", b"1e3", b"+5"])
def test_a_length_that_is_none_or_too_much_is_refused_before_the_body(served, port, length):
    request = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %s\r\n\r\n"
    assert status_of(port, request % (CALL.encode(), length)) in (400, 413)
    assert served[1].reached == []


def test_a_body_without_a_length_is_read_up_to_the_limit_alone(served, port):
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(400):
            sent += 2**20
            yield bytes(2**20)

    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        assert ask(port, "POST", CALL, parts())[0] == 413
    assert served[1].reached == [] and sent < 100 * 2**20  # what sockets hold besides


def test_a_body_that_trickles_is_given_up_in_all_not_only_between_two_bytes(
    served, port, monkeypatch
):
    monkeypatch.setattr(live_guard, "BODY_WAIT_S", 0.5)
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\n" % CALL.encode())
        connection.sendall(b"Content-Length: 9999\r\n\r\n")
        connection.settimeout(0.1)
        answer = b""
        while not answer and time.monotonic() - began < 10:
            connection.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(4000)
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.monotonic() - began < 5 and served[1].reached == []


def test_who_never_ends_a_question_keeps_nobody_waiting(served, port):
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{" % CALL.encode()
    with contextlib.ExitStack() as open_:
        for _ in range(100):
            waiting = socket.create_connection(("127.0.0.1", port), timeout=20)
            open_.enter_context(waiting).sendall(head)
        began = time.monotonic()
        assert ask(port, "POST", CALL, QUESTION) == (200, "22")
        assert time.monotonic() - began < 3


def test_a_question_that_breaks_off_is_none(served, port):
    request = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{}" % CALL.encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(request)
    assert ask(port, "POST", CALL, QUESTION) == (200, "22")  # later than those
    assert served[1].reached == [("POST", CALL, len(QUESTION))]


# --- by the Model Context Protocol

TOOL = "/gradio_api/mcp/"


def call_of(**arguments: object) -> bytes:
    params = {"name": "predict", "arguments": arguments}
    return json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    ).encode()


@pytest.mark.parametrize("path", [TOOL, TOOL.rstrip("/")])
def test_an_assistant_s_message_reaches_the_page_and_names_who_asks(for_assistants, path):
    port, behind = for_assistants
    begin = b'{"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {}}'
    for body in (begin, call_of(symbol="BTC/USDT", model="v2"), call_of(symbol=3)):
        assert ask(port, "POST", path, body) == (200, str(len(body)))
    assert behind.forwarded == [b"127.0.0.1"]
    ask(port, "POST", path, begin, **{"X-Forwarded-For": "10.0.0.9"})
    [named] = behind.forwarded
    assert named.startswith(b"10.0.0.9, ")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", TOOL, b"[]", 422),
        ("POST", TOOL, b'{"method": 3}', 422),
        ("POST", TOOL, b"[" * 30_000, 422),
        ("POST", TOOL, call_of(symbol={"path": "/etc/passwd"}), 422),
        ("POST", TOOL, call_of(symbol=["https://example.org/"]), 422),
        ("POST", TOOL, call_of(symbol="x" * MAX_BODY_BYTES), 413),
        ("GET", TOOL, b"", 405),  # a stream that stays open
        ("DELETE", TOOL, b"", 405),
        ("GET", TOOL + "sse", b"", 404),
        ("POST", TOOL + "messages/", b"{}", 404),
        ("GET", TOOL + "schema", b"", 404),
    ],
)
def test_an_assistant_sends_messages_and_nothing_else(for_assistants, method, path, body, status):
    port, behind = for_assistants
    behind.reached.clear()
    assert ask(port, method, path, body) == (status, live_guard._TEXTS[status])
    assert behind.reached == []


def test_assistants_who_wait_keep_no_visitor_waiting_and_are_not_too_many(
    for_assistants, monkeypatch
):
    port, behind = for_assistants
    monkeypatch.setattr(live_guard, "MAX_TOOLS_AT_ONCE", 2)
    behind.reached.clear()
    behind.waits_for = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = [pool.submit(ask, port, "POST", TOOL, call_of(symbol="X/Y")) for _ in range(2)]
        while len(behind.reached) < 2:
            time.sleep(0.01)
        assert ask(port, "POST", TOOL, call_of(symbol="X/Y"))[0] == 503
        look = pool.submit(ask, port, "GET", "/")
        while len(behind.reached) < 3:
            time.sleep(0.01)
        behind.waits_for.set()
        assert [one.result(20)[0] for one in (*waiting, look)] == [200, 200, 200]
    assert ask(port, "POST", TOOL, call_of(symbol="X/Y"))[0] == 200


def test_turns_are_taken_from_one_client_alone():
    turns = live_guard.Turns()
    with contextlib.ExitStack() as waiting:
        for _ in range(live_guard.MAX_AT_ONCE):
            waiting.enter_context(turns.taken("one"))
        with pytest.raises(ValueError, match="4 of your questions"), turns.taken("one"):
            pass
        with turns.taken("other"):
            pass
    with turns.taken("one"):
        pass
    assert turns._waiting == {}


def test_a_websocket_is_closed(served, port):
    pytest.importorskip("websockets")
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with pytest.raises(InvalidStatus, match="403"), connect(f"ws://127.0.0.1:{port}/"):
        pass
    assert served[1].reached == []
