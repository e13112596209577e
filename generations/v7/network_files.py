"""Where the files of a network are, from its first epoch to their place in the folder.

A network is trained in a folder of its own below `.partial`. What it leaves there is moved into the
output folder at its end, the file that makes it complete last. A kill before the moves loses that
network alone; one between them is completed by `finish_job` at the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import atomic
from pipeline.bundle import files


def work_folder(partial: Path, name: str, facts: Mapping[str, Any]) -> Path:
    """Folder for a network in hand; kept if a run that was cut off had begun the very same one.

    Args:
        partial: Folder of the folders.
        name: Name of the network.
        facts: What makes it the same: settings and hashes of the candles, as plain data.
    """
    work = partial / name
    wanted = json.loads(json.dumps(facts))
    try:
        is_same = json.loads((work / files.RUN_FILE).read_text(encoding="utf-8")) == wanted
    except (OSError, ValueError):  # none, or none that can be read
        is_same = False
    if not is_same:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        files.write_json(work / files.RUN_FILE, wanted)
    return work


def finish_job(work: Path, output_dir: Path, names: Sequence[str]) -> bool:
    """Move a network's files into place if it is complete: if the last of `names` is there.

    Safe to call at any time, by any command that opens the output folder.

    Args:
        work: Folder of the network in hand.
        output_dir: Where the files belong.
        names: Names of the files, the one that was written last at the end.

    Returns:
        Whether there was anything to move.
    """
    if not (work / names[-1]).is_file():
        return False
    for name in names:
        # Moved before a kill, or by another process just now.
        with contextlib.suppress(FileNotFoundError):
            os.replace(work / name, output_dir / name)
    atomic.flush(output_dir)
    return True
