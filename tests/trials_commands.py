"""Trials of the commands: options that nobody should pass."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

import app
import data_fetcher
from pipeline import hub
from tests.trials import BTC, EITHER, RIGHT, Home, Trial, predictor_command, run, train

FAR = "300000-01-01"
TRAINING: tuple[tuple[str, ...], ...] = (
    ("--epochs", "0"),
    ("--epochs", "-1"),
    ("--epochs", "1e3"),
    ("--lookback", str(10**9)),
    ("--lookback", "9" * 5000),
    ("--candles", "-5"),
    ("--candles", str(10**30)),
    ("--horizon", "0"),
    ("--horizon", str(10**6)),
    ("--horizons", "0"),
    ("--horizons", "1", str(10**9)),
    ("--fee-bps", "nan"),
    ("--fee-bps", "1e300"),
    ("--fee-bps", "-1"),
    ("--threshold", "inf"),
    ("--seed", "-1"),
    ("--seed", str(2**64)),
    ("--train-ratio", "1"),
    ("--val-ratio", "nan"),
    ("--train-ratio", "0.9", "--val-ratio", "0.1"),
    ("--train-end", FAR, "--val-end", FAR),
    ("--train-end", "yesterday"),
    ("--train-end", "2026-01-01", "--val-end", "2025-01-01"),
    ("--symbols",),
    ("--symbols", ""),
    ("--symbols", "BTC"),
    ("--symbols", "../../etc/passwd"),
    ("--symbols", "BTC/\u202eTDSU"),
    ("--symbols", "BTC/USDT\x1b[2J"),
    ("--symbols", "x" * 5000 + "/USDT"),
    ("--timeframe", "7h"),
    ("--timeframe", ""),
    ("--lstm-units",),
    ("--lstm-units", "0"),
    ("--lstm-units", "100000"),
    ("--dropout", "1"),
    ("--dropout", "nan"),
    ("--batch-size", "0"),
    ("--learning-rate", "0"),
    ("--learning-rate", "inf"),
    ("--ensemble", "0"),
    ("--workers", "0"),
    ("--preset", "odd"),
    ("--source", "directory"),
    ("--candles-dir", "nowhere"),
    ("--candles-dir", "/dev/null"),
    ("--source", "synthetic", "--exchange", "binance"),
    ("--source", "exchange", "--exchange", "nonesuch"),
    ("--source", "exchange", "--exchange", "binance", "--base-url", "no address"),
    ("--source", "exchange", "--exchange", "binance", "--base-url", "http://[::1"),
    ("--push-to-hub", "x"),
    ("--output-dir", "/dev/null/x"),
    ("--output-dir", "y" * 5000),
    ("--output-dir", "/proc/x"),
    ("--huber-delta", "0"),
    ("--skip-candles", "-1"),
    ("--refit",),
    ("--caution", "1"),
)


def trials(home: Home) -> list[Trial]:
    """All trials of this module."""

    def training(words: tuple[str, ...]) -> Callable[[], object]:
        def act() -> object:
            small = ("--candles", "300", "--epochs", "1", "--source", "synthetic", "--symbols", BTC)
            train(*small, "--output-dir", home.folder(), *words)
            return None

        return act

    def served(*words: object, command: str = "evaluate") -> Callable[[], object]:
        folders = ("--model-dir", home.bundle)
        return lambda: predictor_command(command, *folders, *words)

    def page(*words: object, **variables: str) -> Callable[[], object]:
        def act() -> object:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(app, "serve", lambda *_: pytest.fail("it is served"))
                for name, text in variables.items():
                    patched.setenv(name, text)
                run(app.main, "--model-dir", home.bundle, *words)
            return None

        return act

    def fetching(*words: object) -> Callable[[], object]:
        return lambda: run(data_fetcher.main, *words)

    def of_hub(*words: object) -> Callable[[], object]:
        return lambda: run(hub.main, *words)

    file = home.candles / "BTCUSDT_1h.parquet"
    there = ("--candles-dir", home.candles)
    empty = home.folder()
    ledger = home.folder() / "ledger.jsonl"
    looped = home.folder() / "loop"
    os.symlink(looped, looped)
    kind = "options"
    return [
        *(Trial(kind, f"train {' '.join(words):.60}", ".", training(words)) for words in TRAINING),
        Trial(kind, "train --resume where nothing was begun", RIGHT, training(("--resume",))),
        Trial(
            kind,
            "predict from a file that is not there",
            ".",
            served("--candles", "nowhere.csv", command="predict"),
        ),
        Trial(
            kind, "predict from a folder", ".", served("--candles", home.candles, command="predict")
        ),
        Trial(
            kind, "predict from /dev/null", ".", served("--candles", "/dev/null", command="predict")
        ),
        Trial(
            kind,
            "a picture of no kind",
            ".",
            served("--candles", file, "--picture", empty / "x.nonsense", command="predict"),
        ),
        Trial(
            kind,
            "a picture in a folder that is not there",
            ".",
            served("--candles", file, "--picture", "nowhere/x.png", command="predict"),
        ),
        Trial(
            kind,
            "a ledger that is a folder",
            ".",
            served("--candles", file, "--ledger", empty, command="predict"),
        ),
        Trial(
            kind,
            "a ledger that is a link to itself",
            ".",
            served("--candles", file, "--ledger", looped, command="predict"),
        ),
        Trial(
            kind,
            "a symbol that steers",
            EITHER,
            served("--candles", file, "--symbol", "\x1b[2J/\u202e", command="predict"),
        ),
        Trial(kind, "evaluate nothing", "no candles", served()),
        Trial(kind, "evaluate since the year 300000", ".", served(*there, "--since", FAR)),
        Trial(
            kind,
            "evaluate since later than until",
            ".",
            served(*there, "--since", "2025-12-30", "--until", "2025-12-20"),
        ),
        Trial(
            kind,
            "evaluate with a fee of NaN",
            ".",
            served(*there, "--since", "2025-12-20", "--fee-bps", "nan"),
        ),
        Trial(
            kind,
            "evaluate with a fee of 1e300",
            ".",
            served(*there, "--since", "2025-12-20", "--fee-bps", "1e300"),
        ),
        Trial(
            kind,
            "evaluate into a folder that is not there",
            ".",
            served(*there, "--since", "2025-12-20", "--output", "nowhere/x.json"),
        ),
        Trial(kind, "evaluate an unknown pair", ".", served(*there, "--symbols", "XYZ/USDT")),
        Trial(kind, "evaluate a ledger that is not there", ".", served("--ledger", ledger)),
        Trial(kind, "evaluate a ledger that is a pipe", ".", served("--ledger", _pipe(home))),
        Trial(kind, "port 99999", "port", page("--port", "99999")),
        Trial(kind, "port 0", "port", page("--port", "0")),
        Trial(kind, "port -1", "port", page("--port", "-1")),
        Trial(
            kind,
            "a port of letters in the environment",
            "port",
            page(GRADIO_SERVER_PORT="\x1b[2Jport"),
        ),
        Trial(kind, "a port of 10,000 digits", "port", page("--port", "9" * 10_000)),
        Trial(kind, "fetch 0 candles", "candles", fetching("fetch", "--candles", "0")),
        Trial(kind, "fetch since the year 300000", "since", fetching("fetch", "--since", FAR)),
        Trial(
            kind,
            "fetch since later than until",
            ".",
            fetching("fetch", "--since", "2024-01-01", "--until", "2023-01-01"),
        ),
        Trial(kind, "fetch no timeframe", ".", fetching("fetch", "--timeframes", "")),
        Trial(
            kind, "list a folder that is not there", ".", fetching("list", "--cache-dir", "nowhere")
        ),
        Trial(kind, "audit an empty folder", ".", fetching("audit", "--cache-dir", empty)),
        Trial(kind, "update a file", ".", fetching("update", "--cache-dir", file)),
        Trial(kind, "push what is not there", ".", of_hub("push", "nowhere", "user/repo")),
        Trial(kind, "push to a path", ".", of_hub("push", home.bundle, "../x")),
        Trial(
            kind,
            "push into a folder above",
            ".",
            of_hub("push", home.bundle, "user/repo", "--path-in-repo", "../x"),
        ),
        Trial(
            kind, "pull into a folder in use", "not empty", of_hub("pull", "user/repo", home.bundle)
        ),
    ]


def _pipe(home: Home) -> object:
    path = home.folder() / "pipe"
    os.mkfifo(path)
    return path
