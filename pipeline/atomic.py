"""Files that are replaced whole or not at all, by one process at a time, and read whole.

The lock is our own and not `filelock`'s: that one leaves its file behind, and where a file system
cannot lock it waits in vain, or takes a marker that a killed process leaves locked.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import stat
import time
from collections.abc import Iterator
from errno import EBADF, EINVAL, ENOLCK, ENOSYS, ENOTSUP, EOPNOTSUPP
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

POLL_S = 0.02
"""Pause between two attempts to get a lock; a poll, since a blocking wait would have no bound."""

UNSUPPORTED = (ENOTSUP, EOPNOTSUPP, ENOSYS, ENOLCK, EINVAL, EBADF)
"""What systems answer that cannot lock a file or flush a folder: some network drives, Windows."""


@contextlib.contextmanager
def locked(path: Path, wait_s: float) -> Iterator[None]:
    """Be the only thread and process on this file system that writes `path`.

    The lock is the system's (flock) on a file beside `path`, so it ends with the process that holds
    it, however that ends. The file is removed with the lock; what a killed process leaves of it
    locks nobody out.

    Args:
        path: File to be written; its folder exists.
        wait_s: How long to wait for another holder, seconds.

    Raises:
        ValueError: Another process holds the lock for longer, or the folder cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    handle = _acquire(lock, path, wait_s)
    try:
        yield
    finally:
        if handle is not None:
            try:
                # before the lock ends, so that it is nobody else's yet
                lock.unlink(missing_ok=True)
            finally:
                os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Path to write a new version of a file to; it replaces the old one after the block.

    The content is flushed to the disk before the file gets its name, and the name before the block
    is left. After a loss of power the file is the old one or the new one, and the new one if
    anything later is on the disk. A block that raises leaves the old file.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        flush(unfinished)
        os.replace(unfinished, path)
        flush(path.parent)
    except OSError as error:
        if error.errno and error.filename is None:  # a full disk does not say of what
            error.filename = str(path)
        raise
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


def read_regular(path: Path, max_bytes: int) -> bytes:
    """A file's bytes, read once, if it is a regular file, no link, and of a bounded size.

    Links are followed in the Hub client's cache alone, whose folders are made of them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is a link, a folder, a pipe, a device or too large.
    """
    path = _in_hub_cache(path)
    refuse_link(path)
    # A pipe or device is not even opened: that may wait, or act.
    _demand_regular(path, os.lstat(path), max_bytes)
    flags = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY")  # Windows has the last alone
    handle = os.open(path, sum((getattr(os, flag, 0) for flag in flags), os.O_RDONLY))
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        _demand_regular(path, status, max_bytes)
        return file.read(status.st_size)


def refuse_link(path: Path) -> None:
    """Refuse, with a ValueError, a link to somewhere else."""
    if path.is_symlink():
        raise ValueError(
            f"{path} is a link to {os.readlink(path)!r:.200}, which is not followed; put the file "
            "or folder itself in its place"
        )


def _demand_regular(path: Path, status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is no regular file; put the file itself in its place")
    if status.st_size > max_bytes:
        raise ValueError(
            f"{path} has {status.st_size:,} bytes, such a file has at most {max_bytes:,}; is it "
            "the right file?"
        )


def _in_hub_cache(path: Path) -> Path:
    """Where a link in the Hub client's cache leads: from `snapshots/COMMIT/…` into `blobs`."""
    if path.is_symlink():
        real = Path(os.path.realpath(path))
        for folder in path.absolute().parents:
            blobs = os.path.realpath(folder.parent / "blobs")
            if folder.name == "snapshots" and str(real.parent) == blobs:
                return real
    return path


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
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, handle)
            try:
                if _is_locked(handle, lock):
                    undo.pop_all()
                    return handle
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                lock.unlink(missing_ok=True)
                logger.warning(
                    "%s: cannot be locked here; let only one process write it at a time", path
                )
                return None
        if time.monotonic() >= deadline:
            raise ValueError(
                f"{path}: another process has been writing it for more than {wait_s:g} s; wait for "
                "it, or end it"
            )
        time.sleep(POLL_S)


def _is_locked(handle: int, lock: Path) -> bool:
    """Try to lock; False too where the last holder has removed the file of that name meanwhile."""
    if fcntl is None:
        raise OSError(ENOSYS, "this system has no flock")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except (BlockingIOError, FileNotFoundError):
        return False
