"""The faults of the loopback exchange, each seen on the wire by a plain HTTP client."""

import http.client
import json
import math
import re
import signal
import subprocess
import sys
import urllib.request
from email.utils import parsedate_to_datetime
from itertools import pairwise

import pytest

from pipeline.candles.schema import timestamps_ms
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_candles
from tests.exchange_faults import FAULTS, ROW_FAULTS, Fault, FaultList, FaultSchedule
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer

HOUR = 3_600_000
CANDLES = synthetic_candles(400, end="2024-01-20")
TIMES = timestamps_ms(CANDLES).tolist()
NOW = TIMES[-1] + HOUR // 2
START = TIMES[100]
KLINES = f"/api/v3/klines?symbol=BTCUSDT&interval=1h&startTime={START}&limit=200"
NEWEST = "/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=20"
OKX = (
    f"/api/v5/market/candles?instId=BTC-USDT&bar=1H&before={START - 1}&after={TIMES[300]}&limit=200"
)
FUNDING = f"/fapi/v1/fundingRate?symbol=BTCUSDT&startTime={TIMES[0]}&limit=50"
PAGES = {"binance": KLINES, "okx": OKX, "funding": FUNDING}


@pytest.fixture
def server():
    with ExchangeServer(market_of({"BTC/USDT": {"1h": CANDLES}}), now_ms=NOW, hang_s=0.5) as server:
        yield server


def ask(
    server: ExchangeServer, target: str, timeout_s: float = 30.0
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of one request, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout_s)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def rows(server: ExchangeServer, target: str) -> list[list]:
    """[time, *numbers] as they are sent, turned into time's direction."""
    body = json.loads(ask(server, target)[2])
    if target == FUNDING:
        return [[row["fundingTime"], number(row["fundingRate"])] for row in body]
    data = body["data"][::-1] if target == OKX else body
    return [[int(row[0]), *map(number, row[1:6])] for row in data]


def number(sent: str | None) -> float | None:
    return None if sent is None else float(sent)


def test_without_a_fault_the_pages_of_these_tests_are_the_truth(server):
    truth = [
        list(row) for row in zip(TIMES, *(CANDLES[name].tolist() for name in CANDLES.columns[1:6]))
    ]
    assert rows(server, KLINES) == rows(server, OKX) == truth[100:300]
    assert len(rows(server, FUNDING)) == 50
    assert server.applied == []


# --- instead of an answer
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["429", "418", "500", "502", "503", "451"])
def test_a_status_comes_instead_of_the_answer_once(server, kind):
    server.faults = FaultList(Fault(kind, wait_s=6.5))
    status, headers, body = ask(server, KLINES)
    assert status == int(kind)
    assert headers["Retry-After"] == ("7" if kind in ("429", "418") else None)
    assert (b"-1003" in body) == (kind in ("429", "418"))
    assert ask(server, KLINES)[0] == (451 if kind == "451" else 200)
    [applied] = server.applied
    assert (applied.kind, applied.venue, applied.target, applied.answer) == (
        kind,
        "binance",
        KLINES,
        "candles",
    )
    assert (server.n_429, server.n_418) == (0, 0)  # the limits did not call for it


def test_a_geo_block_stays_for_its_venue_until_the_server_is_reset(server):
    server.faults = FaultList(Fault("451"))
    assert [ask(server, KLINES)[0] for _ in range(3)] == [451, 451, 451]
    assert b"restricted location" in ask(server, KLINES)[2]
    assert [ask(server, target)[0] for target in (OKX, FUNDING, f"/binanceus{KLINES}")] == [
        200,
        200,
        200,
    ]
    server.reset()
    assert ask(server, KLINES)[0] == 200


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("reset", ConnectionResetError),
        ("hang", TimeoutError),
        ("truncated", http.client.IncompleteRead),
    ],
)
def test_a_connection_breaks(server, kind, error):
    server.faults = FaultList(Fault(kind))
    with pytest.raises(error):
        ask(server, KLINES, timeout_s=0.2)
    assert len(rows(server, KLINES)) == 200


def test_half_of_the_json_comes_as_a_whole_answer_and_so_does_a_login_page(server):
    server.faults = FaultList(Fault("cut_json"), Fault("html"))
    status, headers, body = ask(server, KLINES)
    assert (status, len(body)) == (200, int(headers["Content-Length"]))
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)
    whole = ask(server, "/api/v5/public/time")[2]  # the second fault
    assert whole.startswith(b"<!doctype html>")
    assert ask(server, KLINES)[2].startswith(body)


def test_a_skewed_clock_shows_in_the_time_and_the_date_but_not_in_the_candles(server):
    server.faults = FaultList(Fault("clock_skew"))
    assert [row[0] for row in rows(server, NEWEST)] == TIMES[-20:]
    _, headers, body = ask(server, "/api/v3/time")
    skew_ms = json.loads(body)["serverTime"] - NOW
    assert HOUR <= abs(skew_ms) <= 3 * HOUR
    assert skew_ms == server.skew_ms
    assert parsedate_to_datetime(headers["Date"]).timestamp() * 1000 == NOW + skew_ms // 1000 * 1000


# --- rows
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("kind", ROW_FAULTS)
def test_the_record_of_a_row_fault_names_the_rows_that_are_not_the_truth(server, kind, name):
    target = PAGES[name]
    truth = {row[0]: row for row in rows(server, target)}
    ask(server, re.sub(r"limit=\d+", "limit=30", target))  # the page to be repeated
    server.faults = FaultList(Fault(kind))
    sent = rows(server, target)
    if (
        kind == "forming_closed"
        or (name == "funding" and kind in CANDLES_ONLY)
        or (name, kind) == NOT_HERE
    ):
        assert server.applied == []
        return
    [applied] = server.applied
    assert applied.kind == kind
    missing = set(truth) - {row[0] for row in sent}
    wrong = {row[0] for row in sent if row[0] in truth and repr(row) != repr(truth[row[0]])}
    assert set(applied.times) == missing | wrong
    assert rows(server, target) == list(truth.values())  # the truth itself is as it was


CANDLES_ONLY = ("negative_price", "absurd_price", "zero_volume")
NOT_HERE = ("funding", "overlapping_page")  # that page starts where the series does


def spoilt(server: ExchangeServer, kind: str, target: str = KLINES) -> list[list]:
    server.faults = FaultList(Fault(kind))
    return rows(server, target)


def test_a_short_page_lacks_what_paging_would_ask_for_next(server):
    truth = rows(server, KLINES)
    forward, backward = spoilt(server, "short_page"), spoilt(server, "short_page", OKX)
    assert 1 <= len(forward) < 200
    assert forward == truth[: len(forward)]
    assert 1 <= len(backward) < 200
    assert backward == truth[-len(backward) :]
    assert spoilt(server, "empty_page") == []


def test_a_repeated_page_is_the_one_before_and_an_overlapping_one_starts_before_it_should(server):
    before = rows(server, KLINES)
    later = KLINES.replace(str(START), str(TIMES[300]))
    assert spoilt(server, "repeated_page", later) == before
    overlapping = spoilt(server, "overlapping_page", later)
    truth = rows(server, later)
    shift = (TIMES[300] - overlapping[0][0]) // HOUR
    assert 1 <= shift <= 50
    assert overlapping == before[-shift:] + truth[:-shift]


def test_unsorted_rows_are_all_there_and_missing_rows_leave_a_gap_within_the_page(server):
    truth = rows(server, KLINES)
    unsorted = spoilt(server, "unsorted")
    assert unsorted != truth
    assert sorted(unsorted) == truth
    gappy = spoilt(server, "missing_rows")
    assert (gappy[0], gappy[-1]) == (truth[0], truth[-1])
    assert 1 <= 200 - len(gappy) <= 10
    assert {(b[0] - a[0]) // HOUR for a, b in pairwise(gappy)} == {1, 200 - len(gappy) + 1}


def test_conflicting_rows_come_beside_the_true_ones(server):
    truth, sent = rows(server, KLINES), spoilt(server, "conflicting_rows")
    others = [row for row in sent if row not in truth]
    assert 1 <= len(others) <= 3
    assert len(sent) == 200 + len(others)
    assert [row for row in sent if row in truth] == truth


@pytest.mark.parametrize(
    ("kind", "is_wrong"),
    [
        ("nan_price", lambda sent, true: math.isnan(sent)),
        ("null_price", lambda sent, true: sent is None),
        ("negative_price", lambda sent, true: sent == -true),
        ("absurd_price", lambda sent, true: sent in (true * 1000.0, true * 0.001)),
        ("zero_volume", lambda sent, true: sent == 0.0),
    ],
)
@pytest.mark.parametrize("target", [KLINES, OKX], ids=["binance", "okx"])
def test_bad_numbers_are_in_a_few_candles(server, kind, is_wrong, target):
    pairs = list(zip(spoilt(server, kind, target), rows(server, target)))
    changed = [(a, b) for sent, true in pairs for a, b in zip(sent, true) if a is None or a != b]
    assert len({true[0] for sent, true in pairs if repr(sent) != repr(true)}) in (1, 2, 3)
    assert all(is_wrong(sent, true) for sent, true in changed)


def test_the_forming_candle_is_marked_closed(server):
    okx = "/api/v5/market/candles?instId=BTC-USDT&bar=1H&limit=2"
    assert [row[8] for row in json.loads(ask(server, okx)[2])["data"]] == ["0", "1"]
    assert json.loads(ask(server, NEWEST)[2])[-1][6] == TIMES[-1] + HOUR - 1
    server.faults = FaultList(Fault("forming_closed", times=2))
    assert [row[8] for row in json.loads(ask(server, okx)[2])["data"]] == ["1", "1"]
    assert json.loads(ask(server, NEWEST)[2])[-1][6] == NOW - 1
    assert [fault.times for fault in server.applied] == [(TIMES[-1],)] * 2


# --- when they come
# ------------------------------------------------------------------------------------------


def test_planned_faults_wait_for_the_answers_they_are_meant_for(server):
    server.faults = FaultList(
        Fault("500", on="okx-is-not-asked"), Fault("empty_page"), Fault("502", on="/time", times=2)
    )
    targets = (
        "/api/v3/time",
        "/api/v3/exchangeInfo",
        NEWEST,
        "/api/v3/time",
        "/api/v3/time",
        NEWEST,
    )
    replies = [ask(server, target) for target in targets]
    assert [status for status, _, _ in replies] == [502, 200, 200, 502, 200, 200]
    assert [body == b"[]" for _, _, body in replies] == [False, False, True, False, False, False]
    assert [fault.kind for fault in server.faults.waiting] == ["500"]
    with pytest.raises(ValueError, match="unknown fault 'rain'; use one of 429"):
        Fault("rain")


def test_a_seed_fixes_what_happens_to_each_request_in_whatever_order_they_come(server):
    targets = [KLINES.replace(str(START), str(time)) for time in TIMES[:60]]

    def run(seed: int, order: list[str]) -> dict[str, tuple]:
        server.reset(FaultSchedule(seed, 0.4, ["short_page", "nan_price", "503"]))
        for target in order:
            ask(server, target)
        return {fault.target: (fault.kind, fault.times) for fault in server.applied}

    first = run(1, targets)
    assert 10 <= len(first) <= 40
    assert {kind for kind, _ in first.values()} == {"short_page", "nan_price", "503"}
    assert run(1, targets[::-1]) == first
    assert run(2, targets) != first


def test_a_request_sent_again_is_drawn_for_again(server):
    server.reset(FaultSchedule(3, 0.5, ["503"]))
    statuses = [ask(server, KLINES)[0] for _ in range(20)]
    assert set(statuses) == {200, 503}
    assert FaultSchedule(0, 1.0).faults == [Fault(kind) for kind in FAULTS]


def test_spoilt_answers_count_towards_the_limits():
    market, faults = market_of({"BTC/USDT": {"1h": CANDLES}}), FaultList(Fault("503", times=2))
    with ExchangeServer(
        market, now_ms=NOW, faults=faults, limits={"binance": (4, 60.0)}, clock=lambda: 0.0
    ) as server:
        assert [ask(server, KLINES)[0] for _ in range(3)] == [503, 503, 429]
        assert server.n_429 == 1


@pytest.mark.slow
def test_by_hand_it_serves_a_directory_in_the_present_and_says_in_the_end_what_it_did(tmp_path):
    write_candles(CANDLES[CANDLES.columns[:6]], tmp_path, "BTC/USDT", "1h")
    command = [
        sys.executable,
        "-m",
        "tests.exchange_server",
        "--port",
        "0",
        "--candles-dir",
        str(tmp_path),
    ]
    options = ["--latency", "0.01", "--faults", "1", "--fault-rate", "0"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        url = re.search(
            r"1 pairs as binance, .* at (http://127\.0\.0\.1:\d+)", process.stdout.readline()
        )[1]
        with urllib.request.urlopen(f"{url}{NEWEST}") as response:
            sent = json.loads(response.read())
        with urllib.request.urlopen(f"{url}/api/v3/time") as response:
            now_ms = json.loads(response.read())["serverTime"]
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert sent[-1][0] <= now_ms < sent[-1][0] + 2 * HOUR  # the newest is forming
    assert f"--symbols BTC/USDT --timeframes 1h --candles 1000 --base-url {url}" in said
    assert "answered {'binance': 2}, faults Counter()" in said
    assert process.returncode == 0
