"""Files that are replaced whole or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

POLL_S = 0.02
"""Pause between two attempts to get a lock; a poll, since a blocking wait would have no bound."""

UNSUPPORTED = (
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOLCK,
    errno.EINVAL,
    errno.EBADF,
)
"""What systems answer that cannot lock a file or flush a folder: some network drives, Windows."""


@contextlib.contextmanager
def locked(path: Path, wait_s: float) -> Iterator[None]:
    """Be the only one, of all threads and processes on this file system, who writes `path` while
    the block runs.

    The lock is the system's own (flock) on a file beside `path`, so it ends with the process that
    holds it, however that ends. The file is removed with the lock; what a killed process leaves of
    it locks nobody out.

    Args:
        path: File to be written; its folder exists.
        wait_s: How long to wait for another holder, seconds.

    Raises:
        ValueError: Another process holds the lock for longer than `wait_s`, or the folder cannot be
            written.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle = _acquire(lock, path, wait_s)
    try:
        yield
    finally:
        if handle is not None:
            try:
                lock.unlink(
                    missing_ok=True
                )  # before the lock ends, so that it is nobody else's yet
            finally:
                os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Path to write a new version of a file to; it takes the place of the old one when the block
    ends without error.

    The content is flushed to the disk before the file gets its name, and the name before the block
    is left: after a loss of power the file is the old one or the new one, and the new one if
    anything later is on the disk. (A killed process needs no flush: what it has written is the
    system's.)
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        flush(unfinished)
        os.replace(unfinished, path)
        flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of `replacing(path)`; only for who holds the lock."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.unfinished"):
        leftover.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the disk hold the content of a file, or the names in a folder, before anything later."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():  # Windows opens no folders
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def _acquire(lock: Path, path: Path, wait_s: float) -> int | None:
    """Handle of the locked lock file, or None, under a warning, where there are no locks."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(
                f"{path.parent}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        try:
            is_ours = _is_locked(handle, lock)
        except BaseException as error:
            os.close(handle)
            if isinstance(error, OSError) and error.errno in UNSUPPORTED:
                lock.unlink(missing_ok=True)
                logger.warning(
                    "%s: cannot be locked here; let only one process write it at a time", path
                )
                return None
            raise
        if is_ours:
            return handle
        os.close(handle)
        if time.monotonic() >= deadline:
            raise ValueError(
                f"{path}: another process has been writing it for more than {wait_s:g} s; wait for "
                "it, or end it"
            )
        time.sleep(POLL_S)


def _is_locked(handle: int, lock: Path) -> bool:
    """Try to lock; whether the lock is ours, and on the file of that name: its last holder may have
    removed it."""
    if fcntl is None:
        raise OSError(errno.ENOSYS, "this system has no flock")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except (BlockingIOError, FileNotFoundError):
        return False
