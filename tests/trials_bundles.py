"""Trials of bundles: read while a run ends, of numbers that are none, large, lying, resumed."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

from feature_engineering import probe_preset
from inference_v2 import FILES
from pipeline import atomic
from pipeline.bundle import files
from pipeline.bundle.scalers import load_scalers
from pipeline.forecasts import ledger
from tests import ledger_entries, networks
from tests.race_bundles import publish
from tests.trials import (
    BTC,
    CONFIG,
    EITHER,
    RIGHT,
    Home,
    Trial,
    predictor_command,
    rewrite,
    sparse,
    vouch,
    with_scalers,
)

HUGE = "9" * 5000


def trials(home: Home) -> list[Trial]:
    """All trials of this module."""
    return [*readers(home), *numbers(home), *bounds(home), *lies(home), *resumed(home)]


# A run and a reader at once


class Killed(BaseException):
    """What a kill is to the code."""


def readers(home: Home) -> list[Trial]:
    old, new = home.forecast(home.bundle), home.forecast(home.newer)

    def demand_either(folder: Path) -> None:
        assert home.forecast(folder) in (old, new)

    def killed_after(n_moves: int) -> Path:
        folder, replaced, moved = home.copy(), os.replace, list[Any]()

        def replace_some(source: Any, target: Any) -> None:
            if Path(target).parent == folder:
                if len(moved) == n_moves:
                    raise Killed
                moved.append(target)
            replaced(source, target)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(files.os, "replace", replace_some)
            try:
                publish("v2", home.newer, folder)
            except Killed:
                pass
        return folder

    def read_then_go_on(n_moves: int) -> None:
        folder = killed_after(n_moves)
        before = sorted(path.name for path in folder.rglob("*"))
        demand_either(folder)
        assert sorted(path.name for path in folder.rglob("*")) == before
        publish("v2", home.newer, folder)
        assert home.forecast(folder) == new

    def while_(act: Callable[[Path], object], folder: Path, read: Callable[[], object]) -> None:
        """Read 20 times while something is done again and again."""
        is_over = threading.Event()

        def again() -> None:
            while not is_over.is_set():
                act(folder)

        with ThreadPoolExecutor() as pool:
            busy = pool.submit(again)
            try:
                for _ in range(20):
                    read()
            finally:
                is_over.set()
            busy.result()

    def while_runs_end() -> None:
        folder = home.copy()

        def publish_both(_: Path) -> None:
            publish("v2", home.newer, folder)
            publish("v2", home.bundle, folder)

        while_(publish_both, folder, lambda: demand_either(folder))

    def while_a_file_shrinks(name: str) -> None:
        folder = home.copy()
        content = (folder / name).read_bytes()

        def shrink(_: Path) -> None:
            (folder / name).write_bytes(content[: len(content) // 2])
            (folder / name).write_bytes(content)

        def read() -> None:
            try:
                demand_either(folder)
            except ValueError as error:
                assert str(error).isprintable()

        while_(shrink, folder, read)

    def linked_aside() -> None:
        folder, theirs = home.copy(), home.copy(home.newer)
        before = {path.name: path.read_bytes() for path in theirs.iterdir()}
        (folder / ".partial").symlink_to(theirs)
        try:
            publish("v2", home.bundle, folder)
        finally:
            assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before

    def aside(make: Callable[[Path], object]) -> Callable[[], None]:
        def act() -> None:
            folder = home.copy()
            make(folder / ".partial")
            demand_either(folder)

        return act

    def odd_file_aside(path: Path) -> None:
        path.mkdir()
        os.mkfifo(path / FILES.metadata)

    def foreign_names_aside(path: Path) -> None:
        path.mkdir()
        (path / "secrets").write_text("x")
        named = {"../bundle/scalers_v2.pkl": "0" * 64, "secrets": files.sha256_of(path / "secrets")}
        (path / FILES.metadata).write_text(json.dumps({"files": named, "unhashed_files": []}))

    def two_runs() -> None:
        folder = home.copy()
        with files.new_bundle(folder, FILES.metadata, FILES.bundle):
            publish("v2", home.newer, folder)

    def only_to_be_read() -> None:
        folder = home.copy()
        folder.chmod(0o555)
        assert home.forecast(folder) == old

    def linked_folder() -> None:
        link = home.folder() / "link"
        link.symlink_to(home.bundle)
        assert home.forecast(link) == old

    def deleted_here() -> None:
        here = home.folder()
        before = os.getcwd()
        os.chdir(here)
        shutil.rmtree(here)
        try:
            predictor_command(
                "predict",
                "--candles",
                home.candles / "BTCUSDT_1h.parquet",
                "--model-dir",
                home.bundle,
            )
        finally:
            os.chdir(before)

    def two_ledgers() -> None:
        path = home.folder() / "ledger.jsonl"

        def enter(first: int) -> None:
            for number in range(first, 40, 2):
                ledger_entries.enter(path, 0, symbol=f"C{number}/USDT")

        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(enter, first) for first in (0, 1)]:
                done.result()
        assert len(ledger.read(path).entries) == 40

    def removed_while_read() -> None:
        folder = home.copy()
        with pytest.MonkeyPatch.context() as patched:
            read = atomic.read_regular

            def remove(path: Path, max_bytes: int) -> bytes:
                content = read(path, max_bytes)
                shutil.rmtree(folder, ignore_errors=True)
                return content

            patched.setattr(atomic, "read_regular", remove)
            demand_either(folder)

    def grown_while_read() -> None:
        folder = home.copy()
        with pytest.MonkeyPatch.context() as patched:
            real = os.fstat

            def grow(handle: int) -> os.stat_result:
                status = real(handle)
                with (folder / FILES.model).open("ab") as file:
                    file.write(b"x")
                return status

            patched.setattr(atomic.os, "fstat", grow)
            demand_either(folder)

    kind = "readers"
    return [
        *(
            Trial(
                kind,
                f"read and go on after {n} of a run's moves",
                RIGHT,
                partial(read_then_go_on, n),
            )
            for n in range(8)
        ),
        Trial(kind, "read while runs end", RIGHT, while_runs_end),
        *(
            Trial(
                kind,
                f"read while {name} shrinks and grows",
                RIGHT,
                partial(while_a_file_shrinks, name),
            )
            for name in (FILES.model, FILES.scalers, FILES.metadata)
        ),
        Trial(kind, "a run where .partial is a link to another bundle", "is a link", linked_aside),
        Trial(
            kind,
            "read where .partial is a link to itself",
            "is a link",
            aside(lambda p: p.symlink_to(p)),
        ),
        Trial(kind, "read where .partial is a file", RIGHT, aside(lambda p: p.write_bytes(b"x"))),
        Trial(kind, "read where .partial is empty", RIGHT, aside(lambda p: p.mkdir())),
        Trial(kind, "read where the metadata aside is a pipe", EITHER, aside(odd_file_aside)),
        Trial(
            kind,
            "read where the metadata aside names others' files",
            RIGHT,
            aside(foreign_names_aside),
        ),
        Trial(kind, "a run in a folder that another run holds", "another process", two_runs),
        Trial(kind, "read a folder that may only be read", RIGHT, only_to_be_read),
        Trial(kind, "read a folder by a link", RIGHT, linked_folder),
        Trial(kind, "forecast in a working folder that is gone", EITHER, deleted_here),
        Trial(kind, "two writers of one ledger", RIGHT, two_ledgers),
        Trial(kind, "the folder is removed while it is read", EITHER, removed_while_read),
        Trial(kind, "a file grows while it is read", EITHER, grown_while_read),
    ]


# Numbers that are none

SPECIAL = [
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    -1e308,
    5e-324,
    True,
    "1.0",
    None,
    2**70,
    1j,
    np.float32("nan"),
]


def numbers(home: Home) -> list[Trial]:
    def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Where numbers are."""
        if isinstance(value, dict):
            return [found for key, part in value.items() for found in places(part, (*path, key))]
        if isinstance(value, list):
            return [found for i, part in enumerate(value) for found in places(part, (*path, i))]
        is_record = hasattr(value, "scale_")
        if is_record:
            return [(*path, name) for name in ("mean_", "scale_")]
        return [path] if isinstance(value, (int, float)) else []

    scalers = pickle.loads((home.bundle / FILES.scalers).read_bytes())  # our own file
    served = {name: part for name, part in scalers.items() if name != "features_probe"}
    chosen = [(home.random.choice(places(served)), home.random.choice(SPECIAL)) for _ in range(14)]

    def spoil(path: tuple[Any, ...], special: Any) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            place: Any = content
            for key in path[:-1]:
                place = place[key]
            if isinstance(path[-1], str) and path[-1].endswith("_"):
                array = getattr(place, path[-1])
                setattr(
                    place,
                    path[-1],
                    array.astype(object) if isinstance(special, (str, complex)) else array,
                )
                getattr(place, path[-1])[0] = special
            else:
                place[path[-1]] = special

        return change

    def opened(path: tuple[Any, ...], special: Any) -> Callable[[], object]:
        return lambda: home.forecast(with_scalers(home.copy(), spoil(path, special)))

    def weights(value: float) -> object:
        folder = home.copy()
        with h5py.File(folder / FILES.model, "a") as file:
            file["model_weights"].visititems(
                lambda _, node: (
                    node.__setitem__(..., value) if isinstance(node, h5py.Dataset) else None
                )
            )
        return home.forecast(vouch(folder))

    def candles(column: str, value: float) -> object:
        frame = home.market[BTC].copy()
        frame.loc[frame.index[-3], column] = value
        return home.forecast(home.bundle, frame)

    kind = "numbers"
    return [
        *(
            Trial(kind, f"scaler file: {path} is {special!r}", EITHER, opened(path, special))
            for path, special in chosen
        ),
        *(
            Trial(kind, f"weights are {value}", EITHER, partial(weights, value))
            for value in (math.nan, math.inf, 1e38, -1e38)
        ),
        *(
            Trial(
                kind,
                f"candles: {column} is {value}",
                EITHER if column == "high" else "row|candle|price|volume",
                partial(candles, column, value),
            )
            for column, value in (
                ("close", math.inf),
                ("close", -1.0),
                ("open", 0.0),
                ("volume", -1.0),
                ("high", 1e308),
            )
        ),
        *(
            Trial(
                kind,
                f"--last-price {value}",
                "price|number",
                partial(
                    predictor_command,
                    "predict",
                    "--candles",
                    home.candles / "BTCUSDT_1h.parquet",
                    "--model-dir",
                    home.bundle,
                    "--last-price",
                    value,
                ),
            )
            for value in ("nan", "inf", "-1", "0", "1e400")
        ),
    ]


# Far too much


def bounds(home: Home) -> list[Trial]:
    def with_file(name: str, make: Callable[[Path], object]) -> Callable[[], object]:
        def act() -> object:
            folder = home.copy()
            (folder / name).unlink()
            make(folder / name)
            return home.forecast(folder)

        return act

    def vouched(make: Callable[[Path], object]) -> object:
        folder = home.copy()
        make(folder / FILES.scalers)
        return home.forecast(vouch(folder))

    def described(change: Callable[[dict[str, Any]], None]) -> Callable[[], object]:
        def act() -> object:
            folder = home.copy()
            with h5py.File(folder / FILES.model, "a") as file:
                text = json.loads(file.attrs["model_config"])
                change(text)
                file.attrs["model_config"] = json.dumps(text)
            return home.forecast(vouch(folder))

        return act

    def layers(text: dict[str, Any], kind: str) -> dict[str, Any]:
        return next(one["config"] for one in text["config"]["layers"] if one["class_name"] == kind)

    deep = b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    long = b'{"files": {}, "a": [' + b"0," * 7_000_000 + b"0]}"

    def bomb(path: Path) -> None:
        path.write_bytes(b"\x80\x04" + b"]" + b"(" * 1000 + b"\x94" * 3_000_000 + b".")

    kind = "bounds"
    loop = "regular file|link"
    return [
        *(
            Trial(
                kind,
                f"{name} of 6 GB without content",
                "bytes",
                with_file(name, lambda path: sparse(path, 6 * 2**30)),
            )
            for name in (FILES.model, FILES.scalers, FILES.metadata, FILES.metrics)
        ),
        *(
            Trial(kind, f"{name} is a pipe", "regular file", with_file(name, os.mkfifo))
            for name in (FILES.model, FILES.scalers, FILES.metadata)
        ),
        Trial(
            kind,
            "the network is a link to /dev/zero",
            loop,
            with_file(FILES.model, lambda p: p.symlink_to("/dev/zero")),
        ),
        Trial(
            kind,
            "the scaler file is a link to itself",
            loop,
            with_file(FILES.scalers, lambda p: p.symlink_to(p)),
        ),
        Trial(kind, "the network is a folder", "regular file", with_file(FILES.model, Path.mkdir)),
        Trial(kind, "the network is empty", "not|no ", with_file(FILES.model, Path.touch)),
        Trial(
            kind, "the scaler file is empty", "bytes are not", with_file(FILES.scalers, Path.touch)
        ),
        Trial(kind, "the metadata is empty", "not readable", with_file(FILES.metadata, Path.touch)),
        Trial(
            kind,
            "metadata nested 50,000 deep",
            "not readable",
            with_file(FILES.metadata, lambda p: p.write_bytes(deep)),
        ),
        Trial(
            kind,
            "metadata of 7 million numbers",
            EITHER,
            with_file(FILES.metadata, lambda p: p.write_bytes(long)),
        ),
        Trial(kind, "a scaler file of 3 million steps", "no scaler file", lambda: vouched(bomb)),
        Trial(
            kind,
            "a layer of 10^9 units",
            "not opened",
            described(lambda t: layers(t, "Dense").update(units=10**9)),
        ),
        Trial(
            kind,
            "a layer of units that are a list",
            "not opened",
            described(lambda t: layers(t, "Dense").update(units=[1])),
        ),
        Trial(
            kind,
            "a layer of -1 units",
            "not opened",
            described(lambda t: layers(t, "Dense").update(units=-1)),
        ),
        Trial(
            kind,
            "layers that are none",
            "not opened|description",
            described(lambda t: t.update(config=[])),
        ),
        Trial(
            kind,
            "a cropping beyond the window",
            "not opened",
            described(lambda t: layers(t, "Cropping1D").update(cropping=[10**6, 0])),
        ),
    ]


# A bundle that lies about itself


def lies(home: Home) -> list[Trial]:
    def told(**changes: Any) -> Callable[[], object]:
        return lambda: evaluate(vouch(home.copy(), **changes))

    def text(content: str) -> Callable[[], object]:
        return lambda: evaluate(
            rewrite(home.copy(), FILES.metadata, content.encode(), is_vouched=False)
        )

    def evaluate(folder: Path) -> object:
        predictor_command(
            "evaluate",
            "--model-dir",
            folder,
            "--candles-dir",
            home.candles,
            "--since",
            "2025-12-20",
        )
        return None

    def in_scalers(**changes: Any) -> Callable[[], object]:
        return lambda: home.forecast(
            with_scalers(home.copy(), lambda content: content.update(changes))
        )

    def probe(change: Callable[[dict[str, Any]], object]) -> Callable[[], object]:
        return lambda: home.forecast(
            with_scalers(home.copy(), lambda content: change(content["features_probe"]))
        )

    def predictions(frame: pd.DataFrame) -> Callable[[], object]:
        def act() -> object:
            folder = home.copy()
            frame.to_parquet(folder / FILES.predictions)
            return evaluate(vouch(folder))

        return act

    metadata = json.loads((home.bundle / FILES.metadata).read_text())
    features = load_scalers(home.bundle / FILES.scalers)["feature_cols"]
    past = dict.fromkeys(metadata["cuts"], "2020-01-01T00:00:00Z")
    frame = pd.read_parquet(home.bundle / FILES.predictions)
    kind = "lies"
    return [
        Trial(kind, "cuts of the metadata in the past", "contradicts", told(cuts=past)),
        Trial(
            kind,
            "cuts in the year 300000",
            "cuts|year|instant",
            told(cuts=dict.fromkeys(past, "300000-01-01")),
        ),
        Trial(kind, "cuts that are booleans", "is no str", told(cuts=dict.fromkeys(past, True))),
        Trial(kind, "cuts that are empty", EITHER, told(cuts={})),
        Trial(
            kind,
            "cuts of letters that steer",
            "no instant",
            told(cuts=dict.fromkeys(past, "\x1b[2J\u202e")),
        ),
        Trial(
            kind,
            "quantiles of features that are true",
            "is no",
            told(feature_quantiles={"rsi": True}),
        ),
        Trial(
            kind,
            "quantiles of features that are mixed",
            EITHER,
            told(
                feature_quantiles={
                    "rsi": {"low": 1, "high": 0, "edges": [], "shares": [], "usual": []}
                }
            ),
        ),
        Trial(kind, "interval baselines that are a text", "is no", told(interval_baselines="wide")),
        Trial(
            kind,
            "interval baselines out of order",
            EITHER,
            told(interval_baselines={"flat": {"q10": 9, "q50": 0, "q90": -9}}),
        ),
        Trial(
            kind,
            "a name of a baseline with letters that steer",
            "no name",
            told(interval_baselines={"\u202eflat": {"q10": -1, "q50": 0, "q90": 1}}),
        ),
        Trial(kind, "files that are a list", "not readable", told(files=["x"])),
        Trial(kind, "hashes that are null", "not readable", told(files={FILES.model: None})),
        Trial(
            kind,
            "a hash that is short",
            "bytes are not those|not readable",
            told(files={FILES.model: "00"}),
        ),
        Trial(kind, "metadata with 1e400", "not readable", text('{"files": {}, "cuts": 1e400}')),
        Trial(
            kind,
            "metadata with an integer of 5,000 digits",
            "not readable",
            text(f'{{"files": {{}}, "n": {HUGE}}}'),
        ),
        Trial(
            kind,
            "metadata with a lone surrogate",
            EITHER,
            text('{"files": {}, "verdict": "\\ud800"}'),
        ),
        Trial(
            kind,
            "metadata in UTF-16",
            "not readable",
            lambda: evaluate(
                rewrite(home.copy(), FILES.metadata, "{}".encode("utf-16"), is_vouched=False)
            ),
        ),
        Trial(
            kind,
            "metadata that name a file twice",
            EITHER,
            text('{"files": {"a": "x"}, "files": {}}'),
        ),
        Trial(kind, "a config that is a number", "is no dict", told(config=3)),
        Trial(
            kind, "predictions without a column", EITHER, predictions(frame.drop(columns="lstm"))
        ),
        Trial(kind, "predictions of texts", EITHER, predictions(frame.astype(str))),
        Trial(kind, "predictions without rows", EITHER, predictions(frame.iloc[:0])),
        Trial(kind, "predictions with NaN", EITHER, predictions(frame.assign(lstm=math.nan))),
        Trial(
            kind,
            "a symbol with marks of direction",
            "symbols",
            in_scalers(symbols=["BTC/\u202eTDSU"]),
        ),
        Trial(
            kind,
            "a symbol that is a lone surrogate",
            "symbols|no scaler file",
            in_scalers(symbols=["\ud800"]),
        ),
        Trial(kind, "true in place of a horizon", "horizon", in_scalers(horizon=True)),
        Trial(kind, "a lookback of -60", "lookback", in_scalers(lookback=-60)),
        Trial(
            kind,
            "a lookback that the network has not",
            "look|shape|input|window",
            in_scalers(lookback=61),
        ),
        Trial(kind, "features doubled", "feature_cols", in_scalers(feature_cols=["rsi", "rsi"])),
        Trial(
            kind,
            "a feature that there is not",
            "feature|columns",
            in_scalers(feature_cols=["x", *features[1:]]),
        ),
        Trial(
            kind,
            "a probe of other numbers",
            "another way",
            probe(lambda p: p.update(rsi=[1.0, 2.0])),
        ),
        Trial(
            kind, "a probe of booleans", "another way", probe(lambda p: p.update(rsi=[True, False]))
        ),
        Trial(
            kind,
            "a probe that is a text",
            "another way|features_probe",
            in_scalers(features_probe="same"),
        ),
        Trial(kind, "a preset with a path", "preset", in_scalers(preset="../guide")),
    ]


# A run that goes on


def resumed(home: Home) -> list[Trial]:
    def resume(content: Any, *, name: str = "run.json", **changes: Any) -> Callable[[], object]:
        def act() -> object:
            import train_v2_production

            folder = home.folder()
            partial = folder / ".partial"
            partial.mkdir()
            config = replace(CONFIG, output_dir=folder, candles=300, resume=True, **changes)
            if callable(content):
                content(partial, config)
            else:
                (partial / name).write_bytes(content)
            with networks.bare():
                train_v2_production.main(config, build=networks.for_v2)
            return None

        return act

    def noted(**changes: Any) -> Callable[[Path, Any], None]:
        def write(partial: Path, config: Any) -> None:
            settings = files.settings_of(config)
            code = {"features_probe": files.plain(probe_preset("guide")), "commit": None}
            files.begin_run(partial, settings, {}, FILES.log, code=code)
            content = json.loads((partial / "run.json").read_text())
            (partial / "run.json").write_text(json.dumps({**content, **changes}))

        return write

    kind = "resume"
    damaged = "--resume"
    return [
        Trial(kind, "a note that is empty", damaged, resume(b"")),
        Trial(kind, "a note that is a list", damaged, resume(b"[]")),
        Trial(kind, "a note with NaN", damaged, resume(b'{"settings": NaN, "stored": {}}')),
        Trial(
            kind,
            "a note nested deeply",
            damaged,
            resume(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
        ),
        Trial(kind, "settings that are null", damaged, resume(b'{"settings": null, "stored": {}}')),
        Trial(
            kind,
            "settings of another run",
            damaged,
            resume(b'{"settings": {"seed": 1}, "stored": {}}'),
        ),
        Trial(kind, "stored things that are a number", damaged, resume(noted(stored=3))),
        Trial(
            kind,
            "stored things of another shape",
            EITHER,
            resume(noted(stored={"end_ms": "soon", "candles": [1]})),
        ),
        Trial(
            kind, "an end in the year 300000", EITHER, resume(noted(stored={"end_ms": 9 * 10**18}))
        ),
        Trial(
            kind,
            "a probe of other code",
            "another way",
            resume(noted(features_probe={"rsi": [1.0, 2.0]})),
        ),
        Trial(kind, "a commit that steers the terminal", EITHER, resume(noted(commit="\x1b[2J"))),
        Trial(
            kind,
            "a note that is a folder",
            EITHER,
            resume(lambda partial, _: (partial / "run.json").mkdir()),
        ),
        Trial(
            kind,
            "a note that is a pipe",
            EITHER,
            resume(lambda partial, _: os.mkfifo(partial / "run.json")),
        ),
    ]
