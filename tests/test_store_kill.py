"""The store when a writer dies at any moment, when two write at once, when one holds the lock, when
the power fails."""

import errno
import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

from pipeline import atomic
from pipeline.candles import store
from pipeline.candles.store import read_series, update_series, write_candles
from tests.store_kills import make_series

ROOT = Path(__file__).resolve().parents[1]
BTC = "BTC/USDT"
SERIES = make_series(200)
STEPS = (
    (atomic, "_acquire"),
    (os, "fsync"),
    (os, "replace"),
    (Path, "unlink"),
    (parquet.ParquetWriter, "write_table"),
)
"""What an update does to the disk; reading may be interrupted anywhere, it changes nothing."""


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    """Tails from 20 rows on, of at most 10; and no waiting for the disk, which no test can tell
    from waiting."""
    monkeypatch.setattr(store, "BLOCK_ROWS", 10)
    monkeypatch.setattr(store, "WHOLE_ROWS", 20)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Death(BaseException):
    """Like KeyboardInterrupt, nothing that code expects."""


class Steps:
    """Counts an update's steps on the disk, and ends it before or after one of them."""

    def __init__(self, monkeypatch, fatal: int, *, after: bool, only_once: bool) -> None:
        """`only_once` is Ctrl-C, after which the update cleans up; else it is a kill, after which
        nothing happens."""
        self.count, self.fatal, self.after, self.only_once = 0, fatal, after, only_once
        for owner, name in STEPS:
            monkeypatch.setattr(owner, name, self.wrap(getattr(owner, name)))

    def wrap(self, step):
        def counted(*args, **options):
            self.count += 1
            dies = self.count == self.fatal or (self.count > self.fatal and not self.only_once)
            if dies and not (self.after and self.count == self.fatal):
                raise Death
            result = step(*args, **options)
            if dies:
                if step.__name__ == "_acquire":  # the system would close it
                    os.close(result)
                raise Death
            return result

        return counted


def update(directory: Path, rows: pd.DataFrame, **options):
    return update_series(directory, BTC, "1m", rows, venue="binance", **options)


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def stored(directory: Path) -> pd.DataFrame | None:
    return read_series(directory, BTC, "1m")


def is_equal(frame: pd.DataFrame | None, other: pd.DataFrame | None) -> bool:
    return (
        frame is other
        if frame is None or other is None
        else frame.equals(other.reset_index(drop=True))
    )


REWRITTEN = SERIES[3:34].assign(volume=1.0)
USERS_FILE = "a user's file"
SCENES = {
    USERS_FILE: ((), SERIES[25:40], SERIES[:40]),
    "a first update": ((), SERIES[:25], SERIES[:25]),
    "a short series": ((SERIES[:10],), SERIES[9:15], SERIES[:15]),
    "a first tail": ((SERIES[:30],), SERIES[29:33], SERIES[:33]),
    "a longer tail": ((SERIES[:30], SERIES[29:33]), SERIES[32:38], SERIES[:38]),
    "a merged tail": ((SERIES[:30], SERIES[29:33]), SERIES[32:45], SERIES[:45]),
    "rewritten history": (
        (SERIES[:28], SERIES[27:31]),
        REWRITTEN,
        pd.concat([SERIES[:3], REWRITTEN]),
    ),
    "earlier rows": ((SERIES[10:38], SERIES[37:41]), SERIES[:11], SERIES[:41]),
}


@pytest.mark.parametrize("only_once", [False, True], ids=["kill", "Ctrl-C"])
@pytest.mark.parametrize("scene", SCENES)
def test_an_update_that_dies_at_any_step_is_done_or_not_done(tmp_path, scene, only_once):
    pieces, rows, expected = SCENES[scene]
    (template := tmp_path / "template").mkdir()
    if scene == USERS_FILE:
        SERIES[:30].to_parquet(template / "BTCUSDT_1m.parquet")
    for piece in pieces:
        update(template, piece)
    before = stored(template)
    outcomes, fatal, is_over = set(), 0, False
    while not is_over:
        fatal += 1
        for after in (False, True):
            directory = Path(shutil.copytree(template, tmp_path / f"{fatal}{after}"))
            with pytest.MonkeyPatch.context() as patch:
                steps = Steps(patch, fatal, after=after, only_once=only_once)
                try:
                    update(directory, rows)
                except Death:
                    pass
            is_over = steps.count < fatal
            is_done = is_equal(stored(directory), expected)
            assert is_done or is_equal(stored(directory), before)
            outcomes.add(is_done)
            if only_once and not is_over:
                assert not [name for name in names_in(directory) if name.endswith(".unfinished")]
            result = update(directory, rows, wait_s=0)
            assert is_equal(stored(directory), expected)
            assert result.added == (
                0 if is_done else len(expected) - len(before if before is not None else [])
            )
            assert names_in(directory) <= {"BTCUSDT_1m.parquet", "BTCUSDT_1m.tail.parquet"}
    assert fatal > 5 and outcomes == {False, True}


def test_a_tail_that_a_kill_left_after_its_merging_counts_for_nothing_and_goes_with_the_next_update(
    tmp_path, caplog
):
    update(tmp_path, SERIES[:30])
    update(tmp_path, SERIES[29:33])
    shutil.copy(tmp_path / "BTCUSDT_1m.tail.parquet", tmp_path / "kept")
    update(tmp_path, SERIES[32:60])
    shutil.move(tmp_path / "kept", tmp_path / "BTCUSDT_1m.tail.parquet")
    assert is_equal(stored(tmp_path), SERIES[:60])
    assert update(tmp_path, SERIES[55:60]).checked == 5
    assert names_in(tmp_path) == {"BTCUSDT_1m.parquet"} and caplog.records == []


def test_candles_written_whole_over_a_tail_are_the_old_series_or_the_new_one(tmp_path):
    other = make_series(40, seed=1)
    for fatal in range(1, 9):
        directory = tmp_path / str(fatal)
        update(directory, SERIES[:30])
        update(directory, SERIES[29:36])
        with pytest.MonkeyPatch.context() as patch:
            Steps(patch, fatal, after=False, only_once=False)
            try:
                write_candles(other, directory, BTC, "1m")
            except Death:
                pass
        assert is_equal(stored(directory), other) or is_equal(stored(directory), SERIES[:36])
    assert is_equal(stored(directory), other)


def test_a_full_disk_leaves_the_series_as_it_was_and_nothing_else(tmp_path, monkeypatch):
    update(tmp_path, SERIES[:30])
    update(tmp_path, SERIES[29:33])

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "no space left on device")

    for owner, name in STEPS[1:3] + STEPS[4:]:
        for rows in (SERIES[32:36], SERIES[32:60]):
            with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
                patch.setattr(owner, name, refuse)
                update(tmp_path, rows)
            assert is_equal(stored(tmp_path), SERIES[:33])
            assert names_in(tmp_path) == {"BTCUSDT_1m.parquet", "BTCUSDT_1m.tail.parquet"}


def test_what_is_renamed_is_on_the_disk_and_what_is_merged_is_before_its_tail_goes(
    tmp_path, monkeypatch
):
    update(tmp_path, SERIES[:30])
    update(tmp_path, SERIES[29:33])
    log = []

    def logged(step):
        def logging_step(path, *args, **options):
            log.append((step.__name__, path.name))
            return step(path, *args, **options)

        return logging_step

    for owner, name in ((atomic, "flush"), (os, "replace"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, logged(getattr(owner, name)))
    update(tmp_path, SERIES[32:60])
    unfinished = f".BTCUSDT_1m.parquet.{os.getpid()}.unfinished"
    assert log == [
        ("flush", unfinished),
        ("replace", unfinished),
        ("flush", tmp_path.name),
        ("unlink", unfinished),  # it is not there any more
        ("flush", tmp_path.name),
        ("unlink", "BTCUSDT_1m.tail.parquet"),
        ("unlink", ".BTCUSDT_1m.parquet.lock"),
    ]


# --- several writers
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ends", [(36,), (60,), (60, 64, 80)], ids=["longer tail", "merged tail", "two mergers"]
)
def test_a_reader_between_whose_two_files_updates_come_sees_a_whole_series(
    tmp_path, monkeypatch, caplog, ends
):
    update(tmp_path, SERIES[:30])
    update(tmp_path, SERIES[29:33])
    open_parquet, opened = store._open_parquet, []

    def open_late(path: Path):
        opened.append(path)
        if len(opened) == 2:
            for begin, end in zip((33, *ends), ends):
                update(tmp_path, SERIES[begin - 1 : end])
        return open_parquet(path)

    monkeypatch.setattr(store, "_open_parquet", open_late)
    seen = stored(tmp_path)
    assert len(opened) > 2 and (is_equal(seen, SERIES[:33]) or is_equal(seen, SERIES[: ends[-1]]))
    assert is_equal(stored(tmp_path), SERIES[: ends[-1]]) and caplog.records == []


def test_threads_that_update_one_series_add_up(tmp_path):
    def write(first: int) -> None:
        for begin in range(first, first + 60, 5):
            update(tmp_path, SERIES[begin : begin + 6])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, (0, 30, 60, 100)))
    assert is_equal(stored(tmp_path), SERIES[:161])
    assert names_in(tmp_path) <= {"BTCUSDT_1m.parquet", "BTCUSDT_1m.tail.parquet"}


WRITER = """
import sys
from pathlib import Path
from pipeline.candles import store
from tests.store_kills import make_series
store.BLOCK_ROWS, store.WHOLE_ROWS = 10, 20
series, first = make_series(200), int(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for begin in range(first, first + 100, 4):
    rows = series[begin : begin + 5]
    store.update_series(Path(sys.argv[1]), "BTC/USDT", "1m", rows, venue="binance")
"""


def start_writer(directory: Path, first: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(directory), str(first)]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_that_update_one_series_at_once_add_up_and_a_reader_never_sees_half_of_it(
    tmp_path,
):
    update(tmp_path, SERIES[:10])
    writers = [start_writer(tmp_path, 9), start_writer(tmp_path, 60)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    n_rows = 0
    while any(writer.poll() is None for writer in writers):
        now = stored(tmp_path)
        assert len(now) >= n_rows and is_equal(
            now, SERIES[SERIES["timestamp"].isin(now["timestamp"])]
        )
        n_rows = len(now)
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert is_equal(stored(tmp_path), SERIES[:161])


@pytest.mark.slow
def test_twenty_kills_at_random_moments_lose_nothing():
    command = [sys.executable, "-m", "tests.store_kills", "--kills", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.match(
        r"20 kills in \d+ s, seed \d+: every time the series was whole and the next", done.stdout
    )


# --- the lock
# -----------------------------------------------------------------------------------------------


def test_a_writer_waits_for_another_one_but_not_for_ever(tmp_path):
    update(tmp_path, SERIES[:30])
    path = tmp_path / "BTCUSDT_1m.parquet"
    with atomic.locked(path, 0):
        began = time.monotonic()
        with pytest.raises(ValueError) as caught:
            update(tmp_path, SERIES[29:33], wait_s=0.1)
        assert 0.1 <= time.monotonic() - began < 5
        assert str(caught.value) == (
            f"{path}: another process has been writing it for more than 0.1 s; wait for it, or end "
            "it"
        )
        assert is_equal(stored(tmp_path), SERIES[:30])  # readers do not wait
        update_series(
            tmp_path, "ETH/USDT", "1m", SERIES[:30], venue="binance", wait_s=0
        )  # nor do other series
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(update, tmp_path, SERIES[29:33])
            time.sleep(0.05)
            assert not waiting.done()
            os.unlink(tmp_path / ".BTCUSDT_1m.parquet.lock")  # as the holder does when it is done
            open(tmp_path / ".BTCUSDT_1m.parquet.lock", "w").close()
            assert waiting.result().added == 3


HOLDER = """
import sys, time
from pathlib import Path
from pipeline import atomic
with atomic.locked(Path(sys.argv[1]), 0):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    update(tmp_path, SERIES[:30])
    path = tmp_path / "BTCUSDT_1m.parquet"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match="another process has been writing it for more than 0 s"):
        update(tmp_path, SERIES[29:33], wait_s=0)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / ".BTCUSDT_1m.parquet.lock").exists()
    assert update(tmp_path, SERIES[29:33], wait_s=0).added == 3
    assert not (tmp_path / ".BTCUSDT_1m.parquet.lock").exists()


@pytest.mark.parametrize("how", ["no flock", "not supported"])
def test_where_nothing_can_be_locked_an_update_says_so_and_goes_on(
    tmp_path, monkeypatch, caplog, how
):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "operation not supported")

    monkeypatch.setattr(atomic, "fcntl", None) if how == "no flock" else monkeypatch.setattr(
        fcntl, "flock", refuse
    )
    assert update(tmp_path, SERIES[:30]).added == 30
    warnings = [
        record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING
    ]
    assert warnings == [
        f"{tmp_path / 'BTCUSDT_1m.parquet'}: cannot be locked here; let only one process write it "
        "at a time"
    ]
    assert names_in(tmp_path) == {"BTCUSDT_1m.parquet"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "absent" / "BTCUSDT_1m.parquet"
    with pytest.raises(ValueError) as caught, atomic.locked(path, 0):
        pass
    assert (
        str(caught.value)
        == f"{path.parent}: cannot be written (No such file or directory); choose another folder"
    )
