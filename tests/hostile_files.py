"""Hostile files and answers, and what each takes before it is refused: a table for SECURITY.md.

    python -m tests.hostile_files [--only twin]

Each is opened in a process of its own, which tells its seconds and how much its memory grew at
most. Ends with status 1 where one is not refused, or takes more than 10 s or 1 GiB.
"""

from __future__ import annotations

import argparse
import gzip
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from pipeline.bundle.network import import_keras, quiet_absl
from tests import networks, test_bounded
from tests.test_bounded import HOSTILE_CANDLES, HOSTILE_NETWORKS, HOSTILE_TWINS, Shape
from tests.test_bounded_answers import Hostile as Endless
from tests.trials import sparse

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S, LIMIT_MIB = 10.0, 1024.0

OPENING = """
import sys, time
from pathlib import Path
from pipeline.bundle import metadata, network_check, scalers, snapshot
from pipeline.candles import formats
from pipeline.forecasts import ledger
from pipeline.bundle.network import OnnxNetwork
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))
def ask():
    from pipeline.candles.exchange import fetch_many
    from pipeline.candles.job import Job
    job = Job("BTC/USDT", "1h", n_candles=5)
    raise fetch_many("binance", [job], base_url=path.read_text(), timeout_s=9)[job]
path, kind = Path(sys.argv[1]), sys.argv[2]
how = {
    "network": lambda: network_check.check_network_file(path, snapshot.read_network(path)),
    "scaler file": lambda: scalers.load_scalers(path),
    "JSON": lambda: metadata.read_json(path),
    "twin": lambda: OnnxNetwork(snapshot.read_network(path), input_shape=[(12, 5)], where="x"),
    "candles": lambda: formats.read_file(path, "1h"),
    "ledger": lambda: ledger.read(path),
    "answer": ask,
}[kind]
Path("/proc/self/clear_refs").write_text("5")
before, began, told = status("VmRSS"), time.monotonic(), "it was read"
try:
    how()
except (ValueError, OSError) as error:
    told = "refused"
    assert str(error).isprintable(), error
print(told, time.monotonic() - began, status("VmHWM") - before, sep="|")
"""


@dataclass(frozen=True)
class Hostile:
    """One file."""

    kind: str
    """how it is opened"""
    asks_for: str
    suffix: str
    make: Callable[[Path], object]


def all_files(sound: Path) -> list[Hostile]:
    """Every kind; `sound` is a network to spoil."""

    def spoilt(change: Callable[[dict[str, Any], h5py.File], None]) -> Callable[[Path], None]:
        return lambda path: test_bounded.spoil_network(sound, path, change)

    def content(data: bytes) -> Callable[[Path], object]:
        return lambda path: path.write_bytes(data)

    def large(path: Path) -> Path:
        return sparse(path, 6 * 2**30)

    def to_zeros(path: Path) -> None:
        path.symlink_to("/dev/zero")

    def long(path: Path) -> None:
        path.write_bytes(b'{"a": [' + b"0," * 150_000_000 + b"0]}")

    def bomb(path: Path) -> None:
        with gzip.open(path, "wb", 1) as file:
            for _ in range(1024):
                file.write(bytes(2**20))

    def serving(**how: bool) -> Callable[[Path], object]:
        def make(path: Path) -> None:
            body = gzip.compress(bytes(2**30), 1) if "is_packed" in how else b"[" + b"0," * 2**15
            server = Endless(body, **how)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            path.write_text(server.url)

        return make

    deep = b'{"a":' + b"[" * 10**6 + b"]" * 10**6 + b"}"
    steps = b"\x80\x04]" + b"\x94" * 15_000_000 + b"."
    places = (("network", "h5"), ("scaler file", "pkl"), ("JSON", "json"), ("candles", "csv"))
    return [
        *(Hostile(kind, "6 GB without content", suffix, large) for kind, suffix in places),
        Hostile("ledger", "6 GB without content", "jsonl", large),
        *(Hostile(kind, "a link to /dev/zero", suffix, to_zeros) for kind, suffix in places),
        *(Hostile(kind, "a pipe that nobody writes", suffix, os.mkfifo) for kind, suffix in places),
        Hostile("JSON", "300 MB of numbers", "json", long),
        Hostile("JSON", "a million lists in lists", "json", content(deep)),
        Hostile("scaler file", "15 million steps", "pkl", content(steps)),
        *(
            Hostile("network", name, "h5", spoilt(change))
            for name, (change, _) in HOSTILE_NETWORKS.items()
        ),
        *(Hostile("twin", name, "onnx", content(data)) for name, data in HOSTILE_TWINS.items()),
        Hostile("candles", "20 million equal rows", "parquet", test_bounded.equal_rows),
        Hostile("candles", "1 GiB of zeros in 4 MB", "csv.gz", bomb),
        *(
            Hostile("candles", name, suffix, make)
            for name, (suffix, make, _) in HOSTILE_CANDLES.items()
        ),
        Hostile("answer", "1 GiB of zeros in 5 MB", "url", serving(is_packed=True)),
        Hostile("answer", "numbers without an end", "url", serving(is_endless=True)),
    ]


def measure(hostile: Hostile, folder: Path) -> tuple[str, float, float]:
    """Open a file in a process of its own: what came of it, seconds, MiB."""
    path = folder / f"BTCUSDT_1h.{hostile.suffix}"
    hostile.make(path)
    try:
        done = subprocess.run(
            [sys.executable, "-c", OPENING, str(path), hostile.kind],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        told, seconds, mib = done.stdout.strip().splitlines()[-1].split("|")
        return told, float(seconds), float(mib)
    except subprocess.TimeoutExpired:
        return "it hangs", 120.0, 0.0
    except (IndexError, ValueError):
        return f"it fails: {(done.stderr.splitlines() or [''])[-1]:.80}", 0.0, 0.0
    finally:
        path.unlink()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="one kind of file")
    only = parser.parse_args().only
    is_bad = False
    print("| file | what it asks for | result | seconds | MiB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.h5"
        import_keras()
        with quiet_absl():
            networks.for_v1(Shape, 5).save(sound)
        for hostile in all_files(sound):
            if only in (None, hostile.kind):
                told, seconds, mib = measure(hostile, Path(folder))
                is_bad |= told != "refused" or seconds > LIMIT_S or mib > LIMIT_MIB
                row = [hostile.kind, hostile.asks_for, told, f"{seconds:.1f}", f"{mib:.0f}"]
                print(f"| {' | '.join(row)} |", flush=True)
    sys.exit(is_bad)


if __name__ == "__main__":
    main()
