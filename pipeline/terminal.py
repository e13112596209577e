"""What a person at the terminal sees: phases, the log file, and errors in one line."""

from __future__ import annotations

import contextlib
import logging
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, ClassVar, TextIO

from pipeline.privacy import without_folders, without_secrets

PACKAGES = ("pipeline", "data_fetcher", "feature_engineering", "inference_v2", "generations")
"""Loggers whose notices a training run shows."""

WIDTH = 100


class Phases:
    """Prints a heading for each phase, with its number and the time since the start."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.number = 0
        self.started = time.perf_counter()

    def start(self, title: str, detail: str = "") -> None:
        """Print the heading of the next phase."""
        self.number += 1
        left = f"[{self.number}/{self.total}] {title}"
        if detail:
            left += f" · {detail}"
        elapsed = f"{self.seconds:.1f} s"
        print(f"\n{left}{elapsed:>{max(WIDTH - len(left), len(elapsed) + 1)}}", flush=True)

    @property
    def seconds(self) -> float:
        """Seconds since the first phase began."""
        return time.perf_counter() - self.started


def tell(*lines: str) -> None:
    """Print lines indented below the phase they belong to."""
    for line in lines:
        print(f"      {without_secrets(line)}", flush=True)


def tell_wrapped(*texts: str) -> None:
    """Print texts as `tell` does, each in as many lines as it needs."""
    for text in texts:
        tell(*textwrap.wrap(text, WIDTH - 6, subsequent_indent="  ", break_long_words=False))


def tell_list(items: Iterable[str]) -> None:
    """Print items with commas between them, in as many lines as they need."""
    tell(*textwrap.wrap(", ".join(items), WIDTH - 6))


def tell_epoch(epoch: int, logs: dict[str, float], *, is_val_learnt: bool = False) -> None:
    """One line an epoch: losses, step size, time.

    Args:
        epoch: 0-based.
        logs: What the fit loop knows of it.
        is_val_learnt: Whether the validation part is learnt too, so that its loss says nothing.
    """
    validation = "" if is_val_learnt else f"  validation {logs['val_loss']:.5f}"
    rate = logs["learning_rate"]
    step = f"  step {rate:.1e}" if rate else ""  # one cycle ends with none
    tell(f"epoch {epoch + 1:3}  loss {logs['loss']:.5f}{validation}{step}  {logs['seconds']:.1f} s")


def tell_next(steps: Mapping[str, str]) -> None:
    """The last lines of a command: what to do next, each to be pasted.

    Args:
        steps: What one may want -> a command, or the path of a file.
    """
    wide = max(map(len, steps))
    lines = (f"  {title:{wide}}   {without_secrets(step)}" for title, step in steps.items())
    print("", "Next:", *lines, sep="\n", flush=True)


def listed(names: Iterable[str], most: int = 10) -> str:
    """Names for a sentence, cut where they get many.

    Example:
        >>> listed(["BTC", "ETH"]), listed("ABCDE", 3)
        ('BTC, ETH', 'A, B, C and 2 more')
    """
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "coin"), counted(2000, "coin")
        ('1 coin', '2,000 coins')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def import_tqdm() -> ModuleType:
    """Import tqdm.auto without its warning that a notebook without ipywidgets gets bars of text."""
    import tqdm

    if "tqdm.auto" in sys.modules:  # to change filters of warnings is not for several threads
        return sys.modules["tqdm.auto"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tqdm.TqdmWarning)
        import tqdm.auto
    return tqdm.auto


def bar(total: int | None, title: str, unit: str) -> Any:
    """A tqdm bar for what takes long, on a terminal or in a notebook; nothing in logs and pipes."""
    tqdm = import_tqdm()
    is_notebook = "ipykernel" in sys.modules
    # What goes to stderr leaves an empty red block in a notebook.
    stream = sys.stdout if is_notebook else sys.stderr
    return tqdm.tqdm(
        total=total,
        desc=title,
        unit=unit,
        delay=3,
        leave=False,
        disable=not (is_notebook or sys.stderr.isatty()),
        file=stream,
    )


class _Tee:
    """A stream that also writes whole lines to a log, which is published with the bundle.

    The log has neither what a carriage return overwrites nor the folders' own paths.
    """

    def __init__(self, stream: TextIO, log: TextIO, folders: Sequence[Path | None]) -> None:
        self._stream, self._log, self._line = stream, log, ""
        self._folders = folders

    def write(self, text: str) -> int:
        self._stream.write(text)
        *whole, self._line = (self._line + text).split("\n")
        for line in whole:
            shown = line.rsplit("\r", 1)[-1]
            self._log.write(without_folders(shown, self._folders) + "\n")
        self._log.flush()
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def visible(text: str) -> str:
    """Text with control characters, such as a stranger's escape codes, as \\x1b and so on.

    Example:
        >>> print(visible("a" + chr(27) + "[31mb"))
        a\\x1b[31mb
    """
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1]
        for letter in text
    )


class _Notices(logging.Handler):
    """Shows what the parts log, indented below the phase it belongs to."""

    def emit(self, record: logging.LogRecord) -> None:
        message = visible(record.getMessage())
        is_banner = "\n" in message  # which marks itself
        mark = "! " if record.levelno >= logging.WARNING and not is_banner else ""
        tell(mark + message)


def plain_letters(stream: TextIO) -> None:
    """Write "?" for letters that a terminal or a file lacks, such as ─ on Windows; no error."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


@contextlib.contextmanager
def terminal_log(
    path: Path, folders: Sequence[Path | None] = (), *, verbose: bool = False
) -> Iterator[None]:
    """Show the parts' notices and add what the terminal shows to `path`, until the block ends.

    Args:
        path: The log.
        folders: Those of which the log tells the last part alone, whatever their names hold.
        verbose: See `notices`.
    """
    plain_letters(sys.stdout)
    with path.open("a", encoding="utf-8") as log, notices(verbose):
        previous = sys.stdout
        sys.stdout = _Tee(previous, log, folders)
        try:
            yield
        finally:
            sys.stdout = previous


@contextlib.contextmanager
def only_json(is_wanted: bool) -> Iterator[TextIO | None]:
    """Where JSON goes, if it is wanted; then what is for people goes to stderr."""
    json_out = sys.stdout if is_wanted else None
    with contextlib.redirect_stdout(sys.stderr if is_wanted else sys.stdout):
        yield json_out


@contextlib.contextmanager
def notices(verbose: bool = False) -> Iterator[None]:
    """Show what the parts log, until the block ends; with `verbose` the details too.

    Of blocks within blocks the inner one alone shows it.
    """
    level = logging.DEBUG if verbose else logging.INFO
    handler = _Notices(level=level)
    loggers = [logging.getLogger(name) for name in PACKAGES]
    root, silent = logging.getLogger(), logging.NullHandler()
    if not root.handlers:  # else absl makes one, which would say everything once more
        root.addHandler(silent)
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [one for one in logger.handlers if not isinstance(one, _Notices)]
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, (level_before, handlers) in zip(loggers, before):
            logger.handlers[:] = handlers
            logger.setLevel(level_before)
        root.removeHandler(silent)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Show warnings as notes for people, without the file and line they come from."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"note: {visible(without_secrets(str(message)))}", file=sys.stderr)


class one_line_errors(contextlib.AbstractContextManager):
    """Ends a command with one line on stderr and status 2 where the user can mend the error.

    Such are a ValueError, an OSError and a package that is not installed. Other exceptions are bugs
    and pass.
    """

    is_open: ClassVar[bool] = False
    """whether a command is under way; else the code was called from Python"""

    def __init__(self, after_interrupt: str | Callable[[], str] = "") -> None:
        """`after_interrupt` says what is left where somebody pressed Ctrl-C, or finds it then."""
        self._after_interrupt = after_interrupt

    def __enter__(self) -> one_line_errors:
        for stream in (sys.stdout, sys.stderr):
            plain_letters(stream)
        one_line_errors.is_open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        one_line_errors.is_open = False
        if isinstance(error, KeyboardInterrupt):
            left = self._after_interrupt
            print(f"\ninterrupted{left if isinstance(left, str) else left()}", file=sys.stderr)
            raise SystemExit(130) from None
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            raise SystemExit(141) from None
        told = ""
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            if find_spec(package) is None:
                told = f"the package {package} is not installed; pip install -r requirements.txt"
        elif isinstance(error, (ValueError, OSError)):
            told = " ".join(str(error).split()) or type(error).__name__
        if told:
            print(f"error: {visible(without_secrets(told))}", file=sys.stderr)
            raise SystemExit(2) from None
