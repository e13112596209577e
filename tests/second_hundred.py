"""The second hundred: 200 trials of what an attacker or a hurried user may do, and how each ends.

    python -m tests.second_hundred [--only page] [--seed 1] [--all]

A trial ends well with the right answer, or with one line that says what is wrong: an error that the
commands show with status 2. A traceback, a hang, a number that is none, a secret or somebody's
folder in what is shown, or more than 10 s of work, 30 s of waiting or 1 GiB is a bad end. What
ended badly is shown, then a table of the kinds. The trials themselves are in `tests.trials_*`.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import math
import os
import re
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import terminal
from tests.trials import EITHER, RIGHT, SECRET, Home, Trial

LIMIT_S, LIMIT_MIB = 10.0, 1024.0
HANGS_S = 30
"""after which a trial is ended"""


class Hangs(BaseException):
    """Nothing that the code expects."""


def end_of(trial: Trial) -> tuple[str, bool]:
    """How a trial ended in words, and whether it ended well."""
    shown = io.StringIO()
    resident_mib = _reset_peak()
    began = time.process_time()  # whatever else the machine does
    fault = ""
    with _watched(shown):
        try:
            told: object = trial.act()
            ending = RIGHT
        except Hangs:
            told, ending, fault = None, "hangs", f"more than {HANGS_S} s"
        except SystemExit as error:
            told, ending = error.code, f"status {error.code}: {_last_line(shown.getvalue())}"
            fault = "" if error.code in (1, 2) else "an odd status"
        except (ValueError, OSError) as error:
            told, ending = None, f"{type(error).__name__}: {error}"
            fault = "" if str(error).isprintable() and str(error) else "more than a line"
        except BaseException as error:
            told, ending, fault = None, f"{type(error).__name__}: {error!s:.300}", "a traceback"
    seconds, mib = time.process_time() - began, _peak_mib() - resident_mib
    text = f"{shown.getvalue()}\n{ending}\n{told!r}"
    if not fault:
        fault = _fault(trial, ending, told, text)
    if not fault and (seconds > LIMIT_S or mib > LIMIT_MIB):
        fault = f"{seconds:.1f} s and {mib:.0f} MiB"
    return f"{ending[:400]}" + (f" -- {fault}" if fault else ""), not fault


def _fault(trial: Trial, ending: str, told: object, text: str) -> str:
    """What is wrong with an ending that was soon and small; empty where nothing is."""
    if SECRET in text or "hf_Marked" in text:
        return "a secret is shown"
    if "Traceback" in text:
        return "a traceback"
    if terminal.visible(text) != text.replace("\r", ""):
        return "control characters are shown"
    if ending == RIGHT and not is_finite(told):
        return "a number that is none"
    if trial.expected in (RIGHT, EITHER):
        is_as_expected = trial.expected == EITHER or ending == RIGHT
    else:
        is_as_expected = ending != RIGHT and re.search(trial.expected, text) is not None
    return "" if is_as_expected else f"expected was: {trial.expected}"


def is_finite(told: object) -> bool:
    """Whether all numbers in what was told are finite."""
    if isinstance(told, pd.DataFrame):
        told = told.select_dtypes("number").to_numpy().ravel().tolist()
    if isinstance(told, Mapping):
        told = list(told.values())
    if isinstance(told, (list, tuple)):
        return all(map(is_finite, told))
    return not isinstance(told, float) or math.isfinite(told)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


@contextlib.contextmanager
def _watched(shown: io.StringIO) -> Iterator[None]:
    """What is printed or logged goes to `shown`; a trial that hangs is ended."""

    def end(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(HANGS_S)
    faulthandler.dump_traceback_later(4 * HANGS_S, exit=True, file=2)  # within C
    try:
        with (
            contextlib.redirect_stdout(shown),
            contextlib.redirect_stderr(shown),
            terminal.notices(),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def _reset_peak() -> float:
    """Forget the most memory there was; returns what there is, MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mib("VmRSS")


def _peak_mib() -> float:
    return _status_mib("VmHWM")


def trials_of(home: Home, only: str | None) -> list[Trial]:
    """All trials, or those of one kind."""
    from tests import trials_bundles, trials_candles, trials_commands, trials_page

    modules: tuple[Any, ...] = (trials_bundles, trials_candles, trials_commands, trials_page)
    found = [trial for module in modules for trial in module.trials(home)]
    return [trial for trial in found if only in (None, trial.kind)]


def main() -> None:
    """Run the trials, and end with status 1 where one ended badly."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one kind")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen at random")
    parser.add_argument("--all", action="store_true", help="show every trial")
    options = parser.parse_args()
    counts: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder, Home(Path(folder), options.seed) as home:
        os.chdir(folder)
        for trial in trials_of(home, options.only):
            began = time.monotonic()
            ending, is_well = end_of(trial)
            count = counts.setdefault(trial.kind, [0, 0])
            count[0] += 1
            count[1] += is_well
            if options.all or not is_well:
                mark = "well" if is_well else "BAD "
                text = (
                    f"{mark} {time.monotonic() - began:4.1f} s {trial.kind}: {trial.what}: {ending}"
                )
                print(terminal.visible(text), flush=True)
    print("\n| kind | trials | ended well |\n|---|---|---|")
    for kind, (n, n_well) in counts.items():
        print(f"| {kind} | {n} | {n_well} |")
    n, n_well = (sum(count[place] for count in counts.values()) for place in (0, 1))
    print(f"| all | {n} | {n_well} |")
    sys.exit(n_well < n)


if __name__ == "__main__":
    main()
