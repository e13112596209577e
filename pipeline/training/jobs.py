"""Jobs, such as a network per coin: how far they are, and files in place only when a job is done.

They run one after another, or side by side (`pipeline.training.workers`).

A job writes into a folder of its own below `.partial`. What it leaves there is moved into the
output folder at its end, the file that makes it complete last; a kill before the moves loses that
job alone, and one between them is completed by `finish_job` at the next start. The jobs share
nothing.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pipeline import atomic, terminal
from pipeline.bundle import files
from pipeline.training import workers as side_by_side

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def run_jobs(
    jobs: Mapping[str, Callable[[], Result]],
    *,
    n_done: int = 0,
    own_process: bool = True,
    workers: int = 1,
) -> Iterator[tuple[str, Result | Exception]]:
    """Run jobs one after another or side by side; one that fails is reported, and the others go on.

    Each is told with its number and an estimate of the time left: one after another when it begins,
    side by side when it is done, and what it said follows.

    Args:
        jobs: Name -> what to do; with `own_process` or workers it can be pickled, as can what it
            returns.
        n_done: Jobs that an earlier run has finished, to be counted.
        own_process: Run each in a process of its own. TensorFlow keeps 60 to 75 MB of every LSTM
            that was trained, whatever is cleared or deleted; so the system takes it back, and a job
            that the system ends for its memory does not end the others.
        workers: How many at once. With more than 1, or on a cluster (RAY_ADDRESS), they run on Ray;
            where that is not installed, one after another, with a notice. A job whose worker is
            lost is begun again, twice at most.

    Yields:
        Name, and what the job returned or the exception that ended it; side by side in the order in
        which they end.

    Raises:
        ValueError: No cluster answers at RAY_ADDRESS.
    """
    phases = terminal.Phases(n_done + len(jobs))
    phases.number = n_done
    if jobs and side_by_side.are_wanted(workers):
        yield from _run_side_by_side(jobs, phases, workers, own_process)
        return
    for n_run, (name, job) in enumerate(jobs.items()):
        seconds_left = phases.seconds / n_run * (len(jobs) - n_run) if n_run else None
        phases.start(name, "" if seconds_left is None else f"about {duration(seconds_left)} left")
        started = time.perf_counter()
        result = _attempt_apart(name, job) if own_process else _attempt(name, job)
        if not isinstance(result, Exception):
            terminal.tell(f"{name} done in {duration(time.perf_counter() - started)}")
        yield name, result


def run_all(jobs: Mapping[str, Callable[[], Result]], **how: Any) -> dict[str, Result]:
    """`run_jobs` where none may fail: name -> what it returned, in the order of the jobs.

    Args:
        jobs: See `run_jobs`.
        how: Its other arguments.

    Raises:
        ValueError: A job failed; it is named.
    """
    results = {}
    for name, result in run_jobs(jobs, **how):
        if isinstance(result, Exception):
            raise ValueError(
                f"{name} failed ({type(result).__name__}: {result}), and the run needs it; "
                "--resume keeps what is finished and tries it again"
            ) from result
        results[name] = result
    return {name: results[name] for name in jobs}


def _run_side_by_side(
    jobs: Mapping[str, Callable[[], Result]],
    phases: terminal.Phases,
    workers: int,
    own_process: bool,
) -> Iterator[tuple[str, Result | Exception]]:
    tasks = {name: functools.partial(_attempt_quietly, name, job) for name, job in jobs.items()}
    for n_run, (name, answer) in enumerate(
        side_by_side.run_tasks(tasks, workers, own_process=own_process), start=1
    ):
        n_left = len(jobs) - n_run
        left = f", about {duration(phases.seconds / n_run * n_left)} left" if n_left else ""
        if isinstance(answer, Exception):
            phases.start(name, f"lost{left}")
            logger.warning("%s failed: %s", name, answer)
            yield name, answer
            continue
        result, seconds, said = answer
        phases.start(
            name,
            f"{'failed' if isinstance(result, Exception) else 'done'} in {duration(seconds)}{left}",
        )
        sys.stdout.write(said)
        sys.stdout.flush()
        yield name, result


def _attempt_quietly(name: str, job: Callable[[], Result]) -> tuple[Result | Exception, float, str]:
    """`_attempt`, the seconds it took, and what it said, its notices too."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as said, terminal.notices():
        result = _attempt(name, job)
    return result, time.perf_counter() - started, said.getvalue()


def _attempt(name: str, job: Callable[[], Result]) -> Result | Exception:
    """What a job returns, or the exception that ended it, which is told."""
    try:
        return job()
    except Exception as error:  # whatever ends this job must not end the others
        if isinstance(error, ValueError):
            logger.warning("%s failed: %s", name, error)
        else:
            logger.warning("%s failed:\n%s", name, traceback.format_exc())
        return error.with_traceback(None)  # whose frames would hold the job's memory


def _attempt_apart(name: str, job: Callable[[], Result]) -> Result | Exception:
    """`_attempt` in a new process; what it prints is printed here."""
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork of a process that has loaded TensorFlow may hang
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(sender, name, job), daemon=True)
    child.start()
    sender.close()  # the child's copy is then the only one, and its end is seen here
    try:
        while True:
            kind, content = receiver.recv()
            if kind == "result":
                return content
            sys.stdout.write(content)
            sys.stdout.flush()
    except EOFError:
        child.join()
        error = RuntimeError(
            f"its process ended with exit code {child.exitcode}; a lack of memory is the usual "
            "cause"
        )
        logger.warning("%s failed: %s", name, error)
        return error
    finally:
        child.terminate()
        child.join()


def _serve(
    connection: multiprocessing.connection.Connection, name: str, job: Callable[[], Any]
) -> None:
    """The process of one job: does it, sends what it prints, and its result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout = _Sent(connection)
    with terminal.notices():
        connection.send(("result", _attempt(name, job)))


def _end_with_parent() -> None:
    """Where the parent is killed, a later run must not meet this one at work on the same files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Sent(io.TextIOBase):
    """A stream whose text goes to the parent."""

    def __init__(self, connection: multiprocessing.connection.Connection) -> None:
        self._connection = connection

    def write(self, text: str) -> int:
        self._connection.send(("text", text))
        return len(text)


def duration(seconds: float) -> str:
    """A span of time for people.

    Example:
        >>> duration(42.4), duration(754), duration(8100)
        ('42 s', '13 min', '2 h 15 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def work_folder(partial: Path, name: str, facts: Mapping[str, Any]) -> Path:
    """Folder for a job in hand; what is in it is kept if a run that was cut off had begun the very
    same job.

    Args:
        partial: Folder of the folders.
        name: Of the job.
        facts: What makes it the same job: settings and hashes of the candles, as plain data.
    """
    work = partial / name
    wanted = json.loads(json.dumps(facts))
    if _read_json(work / files.RUN_FILE) != wanted:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        files.write_json(work / files.RUN_FILE, wanted)
    return work


def finish_job(work: Path, output_dir: Path, names: Sequence[str]) -> bool:
    """Move a job's files into place if it is complete: if the last of `names`, which it wrote last,
    is there.

    Safe to call at any time, by any command that opens the output folder.

    Args:
        work: Folder of the job.
        output_dir: Where the files belong.
        names: Of the files, the one that makes the job complete last.

    Returns:
        Whether there was anything to move.
    """
    if not (work / names[-1]).is_file():
        return False
    for name in names:
        with contextlib.suppress(
            FileNotFoundError
        ):  # moved before a kill, or by another process just now
            os.replace(work / name, output_dir / name)
    atomic.flush(output_dir)
    return True


def _read_json(path: Path) -> Any:
    """Content of a file, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
