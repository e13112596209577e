"""What the trials of `tests.second_hundred` share: a bundle, candles, folders, commands."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import random
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from config import ConfigV2
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import commands, terminal
from pipeline.bundle import files
from pipeline.candles.synthetic import synthetic_market
from tests import networks
from tests.conftest import write_market
from tests.race_bundles import vary

RIGHT, EITHER = "right answer", "right answer or one line"
SECRET = "s3cr3t"
BTC, ETH = "BTC/USDT", "ETH/USDT"
CONFIG = ConfigV2(candles=400, epochs=1, source="synthetic", symbols=(BTC,))


@dataclass(frozen=True)
class Trial:
    """One trial."""

    kind: str
    what: str
    """what is done"""
    expected: str
    """RIGHT, EITHER, or a pattern of what the error says"""
    act: Callable[[], object]


class Home(contextlib.ExitStack):
    """Where trials happen: a folder with a sound bundle, another version of it, and candles."""

    def __init__(self, root: Path, seed: int) -> None:
        super().__init__()
        self.root, self.random = root, random.Random(seed)
        self._numbers = itertools.count()

    def __enter__(self) -> Home:
        import train_v2_production

        super().__enter__()
        self.patched = self.enter_context(pytest.MonkeyPatch.context())
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            self.patched.delenv(name, raising=False)
            self.patched.delenv(name.upper(), raising=False)
        self.market = synthetic_market((BTC, ETH), "1h", 700, seed=3, end="2026-01-01")
        self.candles = write_market(self.market, self.root / "candles")
        self.bundle, self.newer = self.root / "bundle", self.root / "newer"
        config = replace(CONFIG, source="directory", candles_dir=self.candles)
        with networks.bare(), contextlib.redirect_stdout(sys.stderr):
            train_v2_production.main(replace(config, output_dir=self.bundle), build=networks.for_v2)
        vary("v2", self.bundle, self.newer, 1.5)
        return self

    def folder(self) -> Path:
        """A new folder."""
        path = self.root / f"trial{next(self._numbers)}"
        path.mkdir()
        return path

    def copy(self, source: Path | None = None) -> Path:
        """A copy of the bundle in a new folder."""
        folder = self.folder() / "bundle"
        shutil.copytree(source or self.bundle, folder)
        return folder

    def forecast(self, folder: Path, candles: Any = None, **options: Any) -> dict[str, Any]:
        """What the bundle in a folder forecasts, but for its age."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predictor = CryptoPricePredictorV2.from_directory(folder)
            frame = self.market[BTC] if candles is None else candles
            told: Any = predictor.predict(frame, **options)
        return {name: value for name, value in told.items() if name != "age_candles"}


def rewrite(folder: Path, name: str, content: bytes, *, is_vouched: bool = True) -> Path:
    """Replace a file of a bundle; scaler file and metadata vouch for it, as its author would."""
    (folder / name).write_bytes(content)
    return vouch(folder) if is_vouched else folder


def vouch(folder: Path, **changes: Any) -> Path:
    """Let scaler file and metadata name the files that are there; some keys of metadata change."""
    import json

    with contextlib.suppress(Exception):  # a scaler file that is none
        scalers = pickle.loads((folder / FILES.scalers).read_bytes())  # our own file
        scalers["model_sha256"] = files.sha256_of(folder / FILES.model)
        (folder / FILES.scalers).write_bytes(pickle.dumps(scalers, protocol=4))
    path = folder / FILES.metadata
    metadata = {**json.loads(path.read_text()), **changes}
    if "files" not in changes:
        named = metadata["files"]
        metadata["files"] = {one: files.sha256_of(folder / one) for one in named}
    path.write_text(json.dumps(metadata))
    return folder


def with_scalers(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the content of a bundle's scaler file."""
    path = folder / FILES.scalers
    scalers = pickle.loads(path.read_bytes())  # our own file
    change(scalers)
    path.write_bytes(pickle.dumps(scalers, protocol=4))
    return vouch(folder)


def run(main: Callable[[], object], *words: object) -> None:
    """What a command does with these words, as at the terminal."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["command", *map(str, words)])
        with terminal.one_line_errors():
            main()


def train(*words: object) -> None:
    """The production run, with a network of one layer."""
    import train_v2_production

    def main() -> None:
        with networks.bare():
            train_v2_production.main(train_v2_production.read_options(), build=networks.for_v2)

    run(main, *words)


def predictor_command(*words: object) -> None:
    """`python inference_v2.py`."""
    run(lambda: commands.main(CryptoPricePredictorV2, "docs"), *words)


def sparse(path: Path, n_bytes: int) -> Path:
    """A file that says it is large, and takes no room."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        os.truncate(file.fileno(), n_bytes)
    return path
