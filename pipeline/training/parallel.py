"""Jobs, such as a network per coin: one after another, or side by side on Ray.

Jobs share nothing, and one that fails does not end the others. Ray is optional. It is imported
here alone, when jobs are to run side by side: on this machine, or on the cluster that RAY_ADDRESS
names.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline import terminal
from pipeline.privacy import no_telemetry

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ADDRESS = "RAY_ADDRESS"
"""Environment variable that names a cluster, as Ray's own commands read it."""
MAX_RETRIES = 2
"""Times that a job is begun again whose worker was lost."""
EXIT_S = 10.0
"""How long a process that has sent its result may take to end."""
REACHED_WITHIN_S = 10.0


def run_jobs(
    jobs: Mapping[str, Callable[[], Result]],
    *,
    n_done: int = 0,
    own_process: bool = True,
    workers: int = 1,
) -> Iterator[tuple[str, Result | Exception]]:
    """Run jobs one after another or side by side; one that fails is reported, the others go on.

    Each is told with its number and an estimate of the time left: one after another when it begins,
    side by side when it is done, and what it said follows.

    Args:
        jobs: Name -> what to do. With `own_process` or workers, it and its result can be pickled.
        n_done: Jobs that an earlier run has finished, to be counted.
        own_process: Run each in a process of its own. TensorFlow keeps 60 to 75 MB of every LSTM
            that was trained, whatever is cleared or deleted; so the system takes it back, and a job
            that the system ends for its memory does not end the others.
        workers: How many at once. With more than 1, or on a cluster, they run on Ray; where that is
            not installed, one after another, with a notice. A job whose worker is lost is begun
            again, twice at most.

    Yields:
        Name, and what the job returned or the exception that ended it; side by side in the order in
        which they end.

    Raises:
        ValueError: No cluster answers at RAY_ADDRESS.
    """
    phases = terminal.Phases(n_done + len(jobs))
    phases.number = n_done
    if jobs and _is_ray_wanted(workers):
        yield from _run_side_by_side(jobs, phases, workers, own_process)
        return
    for n_run, (name, job) in enumerate(jobs.items()):
        left = ""
        if n_run:
            left = f"about {duration(phases.seconds / n_run * (len(jobs) - n_run))} left"
        phases.start(name, left)
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


# --- each in a process of its own


def _attempt_apart(name: str, job: Callable[[], Result]) -> Result | Exception:
    """`_attempt` in a new process; what it prints is printed here."""
    # A fork of a process that has loaded TensorFlow may hang.
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(sender, name, job), daemon=True)
    child.start()
    sender.close()  # the child's copy is then the only one, and its end is seen here
    try:
        while True:
            kind, content = receiver.recv()
            if kind == "result":
                child.join(EXIT_S)  # it takes down what it made; ended at once, that would leak
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


# --- side by side


def _is_ray_wanted(workers: int) -> bool:
    """Whether jobs are to run side by side, and can; a notice where Ray is not installed."""
    if workers == 1 and not os.environ.get(ADDRESS):
        return False
    if importlib.util.find_spec("ray") is None:
        logger.warning(
            "Ray is not installed: jobs run one after another; for several at once: pip install ray"
        )
        return False
    return True


def _run_side_by_side(
    jobs: Mapping[str, Callable[[], Result]],
    phases: terminal.Phases,
    workers: int,
    own_process: bool,
) -> Iterator[tuple[str, Result | Exception]]:
    quiet = {name: functools.partial(_attempt_quietly, name, job) for name, job in jobs.items()}
    answers = _run_on_ray(quiet, workers, own_process)
    for n_run, (name, answer) in enumerate(answers, start=1):
        n_left = len(jobs) - n_run
        left = f", about {duration(phases.seconds / n_run * n_left)} left" if n_left else ""
        if isinstance(answer, Exception):
            phases.start(name, f"lost{left}")
            logger.warning("%s failed: %s", name, answer)
            yield name, answer
            continue
        result, seconds, said = answer
        outcome = "failed" if isinstance(result, Exception) else "done"
        phases.start(name, f"{outcome} in {duration(seconds)}{left}")
        sys.stdout.write(said)
        sys.stdout.flush()
        yield name, result


def _attempt_quietly(name: str, job: Callable[[], Result]) -> tuple[Result | Exception, float, str]:
    """`_attempt`, the seconds it took, and what it said, its notices too."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()) as said, terminal.notices():
        result = _attempt(name, job)
    return result, time.perf_counter() - started, said.getvalue()


def _run_on_ray(
    jobs: Mapping[str, Callable[[], Result]], workers: int, own_process: bool
) -> Iterator[tuple[str, Result | Exception]]:
    """Name and result of each job, in the order in which they end; see `run_jobs`."""
    with _connected(workers) as ray:
        share = share_of(ray.cluster_resources(), workers)
        run = ray.remote(
            num_cpus=1,
            num_gpus=share.gpus,
            scheduling_strategy="SPREAD",
            max_calls=int(own_process),
            max_retries=0,
            runtime_env={"env_vars": environment_of(share)},
        )(_run_pickled)
        waiting = list(jobs)
        n_lost = Counter[str]()
        running: dict[Any, str] = {}
        while waiting or running:
            # No more than run at once are sent, since each carries its data along.
            while waiting and len(running) < share.at_once:
                name = waiting.pop(0)
                running[run.remote(ray.cloudpickle.dumps(jobs[name]))] = name
            (ended, *_), _ = ray.wait(list(running))
            name = running.pop(ended)
            try:
                result = ray.get(ended)
            except (
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.NodeDiedError,
                ray.exceptions.ObjectLostError,
                ray.exceptions.OutOfMemoryError,
            ) as error:
                n_lost[name] += 1
                if n_lost[name] <= MAX_RETRIES:
                    kind = type(error).__name__
                    logger.warning("%s: its worker was lost (%s); it is begun again", name, kind)
                    waiting.insert(0, name)
                    continue
                result = RuntimeError(
                    f"its worker was lost {n_lost[name]} times; a lack of memory is the usual cause"
                )
            except ray.exceptions.RayError as error:
                # It cannot be pickled, or no process could be set up for it.
                result = RuntimeError(str(error).strip().splitlines()[-1])
            yield name, result


def _run_pickled(job: bytes) -> Any:
    """A job, in the worker; unpickled here, since arrays that Ray itself sends are read-only."""
    from ray import cloudpickle

    os.environ.pop(ADDRESS, None)  # what a job runs itself, it runs one after another
    return cloudpickle.loads(job)()


@dataclass(frozen=True)
class Share:
    """What each of the jobs that run at once may use."""

    at_once: int
    threads: int
    gpus: float


def share_of(resources: Mapping[str, float], workers: int) -> Share:
    """Divide cores and GPUs among the jobs that run at once; a job uses one GPU at most.

    Args:
        resources: As Ray counts them: "CPU" and perhaps "GPU".
        workers: How many at once; 1 on a cluster: as many as it has cores.

    Example:
        >>> share_of({"CPU": 16.0, "GPU": 1.0}, 4)
        Share(at_once=4, threads=4, gpus=0.25)
    """
    cpus = int(resources.get("CPU", 1))
    gpus = resources.get("GPU", 0.0)
    at_once = workers if workers > 1 else cpus
    gpus_each = 1 / math.ceil(at_once / gpus) if gpus else 0.0
    return Share(at_once, max(cpus // at_once, 1), gpus_each)


def environment_of(share: Share) -> dict[str, str]:
    """Environment of a worker: its share of threads where their number leaves the results alone.

    XGBoost's do not depend on it, nor those of TensorFlow on how many operations it runs at once.
    The sums inside an operation of TensorFlow or BLAS do (docs/log.md). Those have as many threads
    as they would have in this process, so a network's bits are the same wherever it is trained.
    """
    env = os.environ.get
    blas = env("OPENBLAS_NUM_THREADS") or env("OMP_NUM_THREADS") or str(_cores())
    return {
        "OMP_NUM_THREADS": str(share.threads),
        "TF_NUM_INTEROP_THREADS": str(share.threads),
        "TF_NUM_INTRAOP_THREADS": env("TF_NUM_INTRAOP_THREADS") or str(_cores()),
        "OPENBLAS_NUM_THREADS": blas,
        # else the first to come takes all the memory of a GPU they share
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _connected(workers: int) -> Iterator[Any]:
    """Ray, connected to the cluster or started here, ended with the block; one in use stays."""
    no_telemetry()
    # Ray's 15 would yield to whatever else the machine does.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get(ADDRESS)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _join_cluster(ray, address, quiet)
    else:
        ray.init("local", num_cpus=max(workers, _cores()), include_dashboard=False, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()


def _join_cluster(ray: Any, address: str, quiet: Mapping[str, Any]) -> None:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if port.isdigit():  # Ray itself would try for two minutes and then end this process
            socket.create_connection((host, int(port)), timeout=REACHED_WITHIN_S).close()
        ray.init(address, **quiet)
    except (OSError, ValueError, SystemExit) as error:
        raise ValueError(
            f"{ADDRESS} is {address!r}, where no Ray cluster can be reached ({error}); start one "
            f"there (ray start --head), mend the address, or unset {ADDRESS}"
        ) from error
