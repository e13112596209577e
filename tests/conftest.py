"""Fixtures that several test files share, and which lane a test belongs to."""
# ruff: noqa: E402  # the libraries read their number of threads when they are loaded

import contextlib
import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # under nohup, or in a script's background
    # A process starts with the signals ignored that its parent ignores, and could then not be sent
    # Ctrl-C by a test.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread each: the lanes run a process per core, and threads of two processes that wait for each
# other in a loop (XGBoost's, OpenBLAS's) make the same test take five times as long.
for variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
):
    os.environ.setdefault(variable, "1")

from collections import Counter
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, settings

from config import ConfigV2
from feature_engineering import V2_WARMUP
from pipeline.candles import exchange_client
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_market

# The Hub's client reads it when it is imported; without it, it asks huggingface.co for what to call
# itself.
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

with contextlib.suppress(ImportError):
    import curl_cffi  # noqa: F401

# How fast examples are made and run depends on what else the machine does.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

TRAINED = frozenset(
    {
        "bundle",
        "networks_folder",
        "once",
        "plain_bundle",
        "predictor",
        "ray",
        "tiny_bundle",
        "twice",
    }
)
"""Fixtures that train a network or start Ray; a test that uses one is slow, however quick it is
itself."""

TINY = ConfigV2(
    candles=700,
    epochs=4,
    learning_rate=0.005,
    lstm_units=(6, 4),
    conv_filters=4,
    conv_lstm_units=4,
    dense_units=(4, 3),
    dropout=0.1,
)
"""A production run in seconds."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses such a fixture as slow, so that `make check` leaves it out; put the files with
    most of it first.

    What takes long and begins last would keep one core at work while the other is idle.
    """
    for item in items:
        if TRAINED & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])


def pytest_configure() -> None:
    """Run on the day that CRYPTO_TEST_DATE names, such as 2028-02-29T23:58+00:00; the processes of
    tests keep today."""
    if day := os.environ.get("CRYPTO_TEST_DATE"):
        import time_machine

        time_machine.travel(datetime.fromisoformat(day), tick=True).start()


@pytest.fixture(autouse=True)
def fresh_allowances() -> None:
    """An exchange on loopback may get the port of an earlier one, and must not inherit the requests
    that it used up."""
    exchange_client.allowance.cache_clear()


@pytest.fixture
def no_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the test save no ONNX twin, which takes three seconds a network and is proved
    elsewhere."""
    monkeypatch.setattr("pipeline.training.fit.export_twin", lambda path: None)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real candles; the test is skipped where there is none."""
    folder = Path(
        os.environ.get("CRYPTO_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    )
    if not folder.is_dir():
        pytest.skip(f"no real candles in {folder}; set CRYPTO_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def signal_market() -> dict[str, pd.DataFrame]:
    """Candles of two coins with a planted signal, so that a network trained on them has something
    to say."""
    return synthetic_market(
        ("BTC/USDT", "ETH/USDT"), "1h", 700 + V2_WARMUP, seed=42, signal_r2=0.15
    )


def write_market(market: dict[str, pd.DataFrame], folder: Path) -> Path:
    """The folder, with the 1h candles of every symbol as files."""
    for symbol, frame in market.items():
        write_candles(frame, folder, symbol, "1h")
    return folder


@pytest.fixture(scope="session")
def signal_dir(signal_market, tmp_path_factory) -> Path:
    """The same candles as a directory."""
    return write_market(signal_market, tmp_path_factory.mktemp("candles"))


@pytest.fixture(scope="session")
def tiny_bundle(signal_dir, tmp_path_factory) -> Path:
    """Output folder of a finished production run with a tiny network on `signal_market`."""
    import train_v2_production

    folder = tmp_path_factory.mktemp("bundle")
    metrics = train_v2_production.main(replace(TINY, candles_dir=signal_dir, output_dir=folder))
    assert (
        metrics["calibration"]["shrinkage"] > 0
    )  # else every forecast is 0 and parity means nothing
    assert metrics["calibration"]["direction_slope"] > 0
    return folder
