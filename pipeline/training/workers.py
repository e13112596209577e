"""Tasks side by side on Ray: on this machine, or on the cluster that RAY_ADDRESS names.

Ray is optional and imported here alone, when tasks are to run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ADDRESS = "RAY_ADDRESS"
"""Environment variable that names a cluster, as Ray's own commands read it."""
MAX_RETRIES = 2
"""Times that a task is begun again whose worker was lost."""
REACHED_WITHIN_S = 10.0


@dataclass(frozen=True)
class Share:
    """What each of the tasks that run at once may use."""

    at_once: int
    threads: int
    gpus: float


def are_wanted(workers: int) -> bool:
    """Whether jobs are to run side by side, and can; a notice where Ray is not installed."""
    if workers == 1 and not os.environ.get(ADDRESS):
        return False
    if importlib.util.find_spec("ray") is None:
        logger.warning(
            "Ray is not installed: jobs run one after another; for several at once: pip install ray"
        )
        return False
    return True


def run_tasks(
    tasks: Mapping[str, Callable[[], Result]], workers: int, *, own_process: bool
) -> Iterator[tuple[str, Result | Exception]]:
    """Run tasks side by side, in the order given, as many at once as there are workers.

    Args:
        tasks: Name -> what to do; it and its result can be pickled, and it catches its own
            exceptions.
        workers: How many at once; 1 on a cluster: as many as it has cores.
        own_process: Give every task a new process; else a worker's process does one task after
            another.

    Yields:
        Name and result, in the order in which they end; of a task whose worker was lost time and
        again an exception.

    Raises:
        ValueError: No cluster answers at RAY_ADDRESS.
    """
    with _connected(workers) as ray:
        from ray import cloudpickle

        share = share_of(ray.cluster_resources(), workers)
        run = ray.remote(
            num_cpus=1,
            num_gpus=share.gpus,
            scheduling_strategy="SPREAD",
            max_calls=int(own_process),
            max_retries=0,
            runtime_env={"env_vars": environment_of(share)},
        )(_run)
        lost = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
            ray.exceptions.ObjectLostError,
            ray.exceptions.OutOfMemoryError,
        )
        waiting, n_lost = list(tasks), Counter[str]()
        running: dict[Any, str] = {}
        while waiting or running:
            while (
                waiting and len(running) < share.at_once
            ):  # no more, since each carries its data along
                name = waiting.pop(0)
                running[run.remote(cloudpickle.dumps(tasks[name]))] = name
            (ended, *_), _ = ray.wait(list(running))
            name = running.pop(ended)
            try:
                result = ray.get(ended)
            except lost as error:
                n_lost[name] += 1
                if n_lost[name] <= MAX_RETRIES:
                    logger.warning(
                        "%s: its worker was lost (%s); it is begun again",
                        name,
                        type(error).__name__,
                    )
                    waiting.insert(0, name)
                    continue
                result = RuntimeError(
                    f"its worker was lost {n_lost[name]} times; a lack of memory is the usual cause"
                )
            except (
                ray.exceptions.RayError
            ) as error:  # the task or its result cannot be pickled, or a process set up
                result = RuntimeError(str(error).strip().splitlines()[-1])
            yield name, result


def share_of(resources: Mapping[str, float], workers: int) -> Share:
    """Divide cores and GPUs among the tasks that run at once; a task uses one GPU at most.

    Args:
        resources: As Ray counts them: "CPU" and perhaps "GPU".
        workers: See `run_tasks`.

    Example:
        >>> share_of({"CPU": 16.0, "GPU": 1.0}, 4)
        Share(at_once=4, threads=4, gpus=0.25)
    """
    cpus, gpus = int(resources.get("CPU", 1)), resources.get("GPU", 0.0)
    at_once = workers if workers > 1 else cpus
    return Share(at_once, max(cpus // at_once, 1), 1 / math.ceil(at_once / gpus) if gpus else 0.0)


def environment_of(share: Share) -> dict[str, str]:
    """Environment of a worker: its share of threads where their number leaves the results alone.

    XGBoost's do not depend on it, nor those of TensorFlow on how many operations it runs at once.
    The sums inside an operation of TensorFlow or BLAS do (docs/log.md), so those have as many
    threads as they would have in this process, and a network's bits are the same wherever it is
    trained.
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


def _run(pickled: bytes) -> Any:
    """In the worker; unpickled here, since arrays that come in Ray's own way cannot be written
    to."""
    from ray import cloudpickle

    os.environ.pop(ADDRESS, None)  # what a task runs itself, it runs one after another
    return cloudpickle.loads(pickled)()


@contextlib.contextmanager
def _connected(workers: int) -> Iterator[Any]:
    """Ray, connected to the cluster or started on this machine, and ended with the block; one in
    use stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # Ray's 15 would yield to whatever else the machine does
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get(ADDRESS)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _join(ray, address, quiet)
    else:
        ray.init("local", num_cpus=max(workers, _cores()), include_dashboard=False, **quiet)
    try:
        yield ray
    finally:
        ray.shutdown()


def _join(ray: Any, address: str, quiet: Mapping[str, Any]) -> None:
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
