"""The forward ledger's file: nothing is entered late, changed unseen, or lost."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import atomic
from pipeline.forecasts import ledger
from pipeline.forecasts.ledger import to_text
from tests.ledger_entries import HOUR_MS, START, after, enter, forecast

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> bytes:
    """Content of a ledger of five lines."""
    path = tmp_path_factory.mktemp("ledger") / "five.jsonl"
    enter(path, *range(5))
    return path.read_bytes()


def fault_of(path: Path, content: bytes) -> str | None:
    path.write_bytes(content)
    try:
        ledger.read(path)
    except ValueError as error:
        return str(error)
    return None


def rewritten(entries: list[dict]) -> bytes:
    """A ledger with a chain of its own, as somebody makes it who knows the form."""
    lines, previous = b"", ""
    for number, entry in enumerate(entries, 1):
        line = json.dumps({**entry, "number": number, "previous": previous}).encode() + b"\n"
        lines, previous = lines + line, hashlib.sha256(line).hexdigest()
    return lines


def test_the_lines_are_what_they_say_and_each_holds_the_hash_of_the_one_before(path):
    (_, first), (number, second) = enter(path, 0, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    assert [hashlib.sha256(line).hexdigest() for line in lines] == [first, second] and number == 2
    assert json.loads(lines[0]) == {
        "number": 1,
        "made_at": "2024-01-01T01:00:05.000Z",
        "symbol": "BTC/USDT",
        "timeframe": "1h",
        "horizon": 1,
        "timestamp": "2024-01-01T01:00:00.000Z",
        "closes_at": "2024-01-01T02:00:00.000Z",
        "base_time": "2024-01-01T00:00:00.000Z",
        "last_price": 100.0,
        "volatility": 0.01,
        "return": 0.01,
        "q10": -0.025,
        "q50": 0.0,
        "q90": 0.025,
        "p_up": 0.5,
        "price": 100.0 * math.exp(0.01),
        "model_sha256": "a" * 64,
        "synthetic": False,
        "previous": "",
    }
    assert json.loads(lines[1])["previous"] == first
    found = ledger.read(path)
    assert found.entries == [json.loads(line) for line in lines] and found.sha256 == second
    assert list(path.parent.iterdir()) == [path]  # and no lock


def test_a_forecast_is_entered_a_millisecond_before_its_candle_closes_and_not_at_that_instant(path):
    closes = START + 2 * HOUR_MS
    with pytest.raises(
        ValueError,
        match=r"too late .*closed at 2024-01-01T02:00:00.000Z, and it is 2024-01-01T02:00:",
    ):
        ledger.append(path, forecast(0), lambda: closes)
    assert not path.exists()
    assert ledger.append(path, forecast(0), lambda: closes - 1)[0] == 1
    assert ledger.read(path).entries[0]["made_at"] == "2024-01-01T01:59:59.999Z"


def test_a_horizon_of_three_closes_with_the_third_candle(path):
    times = {
        "horizon": 3,
        "timestamp": to_text(START + 3 * HOUR_MS),
        "closes_at": to_text(START + 4 * HOUR_MS),
    }
    with pytest.raises(ValueError, match="too late"):
        ledger.append(path, forecast(0, **times), lambda: START + 4 * HOUR_MS)
    ledger.append(path, forecast(0, **times), lambda: START + 4 * HOUR_MS - 1)
    assert len(ledger.read(path).entries) == 1


def test_the_clock_is_read_when_the_line_is_written_not_while_another_writer_is_waited_for(path):
    def clock():
        assert path.with_name(".ledger.jsonl.lock").exists()
        return after(0)()

    ledger.append(path, forecast(0), clock)


def test_a_clock_that_runs_behind_is_refused(path):
    with pytest.raises(
        ValueError, match=r"clock is wrong.* last candle closed at 2024-01-01T01:00:00.000Z; set it"
    ):
        ledger.append(path, forecast(0), lambda: START + HOUR_MS - 1)
    ledger.append(path, forecast(0), after(0, 5_000))
    with pytest.raises(
        ValueError,
        match=r"it says 2024-01-01T01:00:04.999Z, but line 1 was entered at 2024-.*05.000Z",
    ):
        ledger.append(path, forecast(0, "ETH/USDT"), after(0, 4_999))
    ledger.append(path, forecast(0, "ETH/USDT"), after(0, 5_000))


def test_the_first_forecast_of_a_candle_counts_for_each_model_and_symbol(path):
    enter(path, 0)
    before = path.read_bytes()
    with pytest.raises(
        ledger.AlreadyEnteredError,
        match=r"line 1 of .* candle of 2024-01-01T01:00.*first one counts",
    ):
        enter(path, 0, log_return=-0.5)
    assert path.read_bytes() == before
    enter(path, 0, symbol="ETH/USDT")
    enter(path, 0, model="b" * 64)
    assert [entry["number"] for entry in ledger.read(path).entries] == [1, 2, 3]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"symbol": "BTCUSDT"}, "'BTCUSDT', which is not written as BTC/USDT"),
        ({"volatility": 0.0}, "a volatility of 0.0"),
        ({"last_price": math.nan}, "a last_price of nan"),
        ({"return": math.inf}, "a return of inf"),
        ({"p_up": 1.5}, "a probability of 1.5"),
        ({"q10": 0.03}, "quantiles that cross"),
        ({"price": 99.0}, "a price that is not that of its return"),
        ({"timestamp": to_text(START)}, "times that do not belong together"),
        ({"horizon": 0}, "the horizon 0"),
    ],
)
def test_what_is_no_forecast_is_not_entered(path, wrong, message):
    with pytest.raises(ValueError, match=message):
        ledger.append(path, forecast(0, **wrong), after(0))
    assert not path.exists()


def test_every_change_of_one_byte_in_a_middle_line_is_noticed_and_the_line_named(five, path):
    lines = five.splitlines(keepends=True)
    begin = len(lines[0]) + len(lines[1])
    for position in range(begin, begin + len(lines[2])):
        for change in (1, 0x80):
            fault = fault_of(
                path, five[:position] + bytes([five[position] ^ change]) + five[position + 1 :]
            )
            assert (
                fault is not None and "line 3" in fault and "restore the file from a copy" in fault
            )


@given(st.data())
def test_any_other_bytes_in_place_of_a_line_that_another_follows_are_noticed(
    five, tmp_path_factory, data
):
    lines = five.splitlines(keepends=True)
    row = data.draw(st.integers(0, 3))
    other = data.draw(
        st.binary(max_size=60) | st.sampled_from([line for i, line in enumerate(lines) if i != row])
    )
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    assert fault_of(path, b"".join([*lines[:row], other, *lines[row + 1 :]])) is not None


def test_a_forecast_improved_with_hindsight_is_noticed_though_its_line_is_sound(five, path):
    lines = five.splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"p_up": 0.5', b'"p_up": 0.9')
    assert "line 3 was changed, or its hash in line 4" in fault_of(path, b"".join(lines))


def test_lines_that_were_removed_swapped_or_doubled_are_noticed_and_the_first_one_named(five, path):
    a, b, c, d, e = five.splitlines(keepends=True)
    for order, line, there in (
        ([a, c, d, e], 2, 3),
        ([b, c, d, e], 1, 2),
        ([a, c, b, d, e], 2, 3),
        ([a, b, c, c, d, e], 4, 3),
        ([a, a], 2, 1),
    ):
        fault = fault_of(path, b"".join(order))
        assert (
            f"line {line} was removed, doubled or moved, entry {there} stands in its place" in fault
        )
    assert fault_of(path, five) is None
    # What was cut off at the end the file alone cannot show
    assert fault_of(path, a + b + c) is None


def test_a_new_chain_over_entries_that_no_program_made_is_noticed(five, path):
    entries = [json.loads(line) for line in five.splitlines()]

    def fault(row, **changes):
        return fault_of(
            path,
            rewritten([entry | (changes if i == row else {}) for i, entry in enumerate(entries)]),
        )

    assert fault(0) is None
    assert "line 3 was made at 2024-01-01T04:00:00.000Z, not between" in fault(
        2, made_at="2024-01-01T04:00:00.000Z"
    )
    assert "line 3 was made at 2024-01-01T02:59:59.999Z, not between" in fault(
        2, made_at="2024-01-01T02:59:59.999Z"
    )
    assert "line 3 has a time that cannot be read" in fault(2, made_at="2024-01-01T03:00:05Z")
    # An integer where a float is written
    assert "line 2 was changed, it is none" in fault(1, p_up=1)
    assert "line 2 was changed, it is none" in fault(1, note="x")
    assert "line 2 has a q10 of nan" in fault(1, q10=math.nan)
    again = "line 6 forecasts a candle that this model had forecast before"
    assert again in fault_of(path, rewritten([*entries, entries[4]]))
    earlier = {**entries[4], "symbol": "ETH/USDT", "made_at": "2024-01-01T05:00:04.999Z"}
    assert "line 6 was made before the line before it" in fault_of(
        path, rewritten([*entries, earlier])
    )


def test_a_changed_ledger_takes_no_further_entry(five, path):
    path.write_bytes(five.replace(b'"p_up": 0.5', b'"p_up": 0.7', 1))
    changed = path.read_bytes()
    for act in (lambda: enter(path, 5), lambda: ledger.check(path)):
        with pytest.raises(ValueError, match="line 1 was changed, or its hash in line 2"):
            act()
    assert path.read_bytes() == changed


def test_half_a_line_that_a_kill_left_is_cut_off_with_a_notice(five, path, caplog):
    *whole, last = five.splitlines(keepends=True)
    for n_bytes in (*range(1, len(last), 50), len(last) - 1):
        path.write_bytes(b"".join(whole) + last[:n_bytes])
        found = ledger.read(path)
        assert len(found.entries) == 4 and found.torn == last[:n_bytes]
        caplog.clear()
        enter(path, 4)
        assert path.read_bytes() == five
        assert "half a line that a killed process left at the end is cut off" in caplog.text


def test_zeros_that_a_loss_of_power_left_are_cut_off_and_another_file_s_content_is_not(five, path):
    path.write_bytes(b"".join(five.splitlines(keepends=True)[:4]) + b'{"number": 5\0\0\0')
    enter(path, 4)
    assert path.read_bytes() == five
    for content in (b"my notes", five + b"my notes", five + b'{"number": 7, "made_at": "2024'):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is no half line of a ledger"):
            enter(path, 5)
        assert path.read_bytes() == content


def test_a_whole_last_line_that_was_changed_is_not_taken_for_half_a_one(five, path):
    assert "line 5 was changed" in fault_of(path, five[:-300] + b"\n")


def test_an_entry_that_dies_after_its_line_was_written_is_in_the_ledger(path, monkeypatch):
    def die(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "flush", die)
    with pytest.raises(KeyboardInterrupt):
        enter(path, 0)
    monkeypatch.undo()
    with pytest.raises(ledger.AlreadyEnteredError):
        enter(path, 0)


def test_a_ledger_that_is_not_there_or_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no such ledger; mend --ledger, or begin one "):
        ledger.read(tmp_path / "none.jsonl")
    for act in (lambda path: enter(path, 0), ledger.check):
        with pytest.raises(ValueError, match="cannot be written"):
            act(tmp_path / "no folder" / "ledger.jsonl")


WRITER = """
import sys
from pathlib import Path
from pipeline.forecasts import ledger
from tests.ledger_entries import after, forecast
for number in range(int(sys.argv[3])):
    ledger.append(Path(sys.argv[1]), forecast(0, f"{sys.argv[2]}{number}/USDT"), after(0))
    print(number, flush=True)
"""


def write_in_a_process(path: Path, coin: str, n: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(path), coin, str(n)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_at_once_lose_no_entry(path):
    writers = [write_in_a_process(path, coin, 50) for coin in ("A", "B")]
    assert [writer.communicate(timeout=120)[0].count("\n") for writer in writers] == [50, 50]
    symbols = [entry["symbol"] for entry in ledger.read(path).entries]
    for coin in ("A", "B"):
        assert [symbol for symbol in symbols if symbol[0] == coin] == [
            f"{coin}{i}/USDT" for i in range(50)
        ]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_a_kill_loses_nothing_that_was_reported_as_entered(path):
    writer = write_in_a_process(path, "A", 100_000)
    reported = [writer.stdout.readline() for _ in range(20)]
    os.kill(writer.pid, signal.SIGKILL)
    n = len(reported) + writer.communicate(timeout=60)[0].count("\n")
    assert len(ledger.read(path).entries) in (n, n + 1)
    enter(path, 1)
    assert ledger.read(path).entries[-1]["base_time"] == to_text(START + HOUR_MS)


def test_a_ledger_that_is_a_link_to_itself_is_named(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.symlink_to(path)
    for use in (lambda: enter(path, 0), lambda: ledger.check(path), lambda: ledger.read(path)):
        with pytest.raises(ValueError, match=r"ledger.jsonl: .*; mend --ledger"):
            use()


def test_a_ledger_that_is_far_too_large_or_a_pipe_is_refused_unread(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.touch()
    os.truncate(path, 6 * 2**30)
    for use in (lambda: enter(path, 0), lambda: ledger.check(path), lambda: ledger.read(path)):
        with pytest.raises(ValueError, match="6,442,450,944 bytes, such a file has at most"):
            use()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="no regular file"):
        enter(path, 0)
