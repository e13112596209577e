"""A bundle that is retrained each month for a year, beside one run that walks forward.

    python -m tests.retraining_chain --candles-dir DIR

The chain runs the command `retrain` against an exchange on this machine, whose clock and the
process's own are moved on a month at a time. What the served network forecasts of the month after
is compared with the fold of `--walk-forward --rolling --refit-every 30` that knows the same
candles. The two differ in their scalers, which are fitted on 70 and on 85 % of these candles, and
in the order of batches. How much two seeds of the walk forward differ is the yardstick.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import time_machine

import train_v2_production
from config import ConfigV2
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline.candles import exchange_client
from pipeline.candles.exchange_client import Allowance
from pipeline.candles.formats import read_directory
from pipeline.commands import Retrain
from pipeline.report.tables import text_table
from tests import networks
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer

COINS = ("BTC/USDT", "ETH/USDT")
N_CANDLES = 8000
MONTH = pd.Timedelta(days=30)
CONFIG = replace(
    ConfigV2(), symbols=COINS, candles=N_CANDLES, epochs=6, one_cycle=True, refit=True,
    learning_rate=1e-2, final_fit=True, source="exchange", exchange="binanceusdm",
)  # fmt: skip
train = functools.partial(train_v2_production.main, build=networks.for_v2)


def quietly() -> contextlib.ExitStack:
    """A block that prints nothing and makes neither twins nor pages."""
    stack = contextlib.ExitStack()
    stack.enter_context(networks.bare())
    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
    return stack


def forecasts_of(folder: Path, candles: dict[str, pd.DataFrame], start: pd.Timestamp):
    """Raw forecasts of the month after an instant by the network that a bundle serves."""
    predictor = CryptoPricePredictorV2.from_directory(folder, recalibrated=False).as_judged()
    parts = []
    for symbol, frame in candles.items():
        known = frame[frame["timestamp"] < start + MONTH]
        history = predictor.predict_history(known.tail(2000))
        made = history["timestamp"] + pd.Timedelta(hours=1)
        month = history[(made >= start) & (made < start + MONTH)]
        parts.append(month[["timestamp", "raw_return"]].assign(symbol=symbol))
    return pd.concat(parts).set_index(["symbol", "timestamp"])["raw_return"]


def chain(
    candles: dict[str, pd.DataFrame], begin: pd.Timestamp, months: int, place: Path
) -> tuple[list[pd.Series], list[str]]:
    """Each month's forecasts by the bundle of the month before, and what each retraining said."""
    forecasts, said = [], []
    folder = place / "bundle"
    with ExchangeServer(market_of({s: {"1h": f} for s, f in candles.items()}), limits={}) as server:
        for number in range(months):
            now = begin + number * MONTH + pd.Timedelta(minutes=1)
            server.now_ms = int(now.timestamp() * 1000)
            with time_machine.travel(now.to_pydatetime(), tick=True), quietly():
                if number == 0:
                    train(replace(CONFIG, base_url=server.url, cache_dir=None, output_dir=folder))
                    said.append("trained")
                else:
                    command = Retrain(
                        model_dir=folder,
                        exchange="binanceusdm",
                        base_url=server.url,
                        cache_dir=place / "cache",
                        own_process=False,
                    )
                    try:
                        command.run(CryptoPricePredictorV2, train)
                        said.append("replaced")
                    except SystemExit:
                        said.append("kept")
            forecasts.append(forecasts_of(folder, candles, begin + number * MONTH))
            print(f"{now:%Y-%m-%d}: {said[-1]}", flush=True)
    return forecasts, said


def walk_forward(
    candles_dir: Path, begin: pd.Timestamp, months: int, seed: int, place: Path
) -> pd.Series:
    """The same months' raw forecasts by one run that walks forward."""
    start = begin - pd.Timedelta(hours=N_CANDLES)
    val_end, test_end = begin, begin + months * MONTH
    train_end = start + 0.85 * (begin - start)
    config = replace(
        CONFIG, source="auto", exchange=None, candles_dir=candles_dir, cache_dir=None, seed=seed,
        candles=N_CANDLES + months * 720, final_fit=False, walk_forward=True, rolling=True,
        train_end=f"{train_end:%Y-%m-%dT%H:%M}", val_end=f"{val_end:%Y-%m-%dT%H:%M}",
        test_end=f"{test_end:%Y-%m-%dT%H:%M}", output_dir=(walk := place / f"walk_{seed}"),
    )  # fmt: skip
    with quietly():
        train(config)
    told = pd.read_parquet(walk / FILES.predictions)
    return told.set_index(["symbol", "timestamp"])["lstm_raw"]


def main() -> None:
    """Parse the options, run the chain and two walks, print the months."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candles-dir", type=Path, required=True, help="real hourly candles")
    parser.add_argument("--begin", default="2023-06-21", help="when the first one is trained")
    parser.add_argument("--months", type=int, default=12, help="months of 30 days (default 12)")
    options = parser.parse_args()
    # The server knows no limits.
    setattr(exchange_client, "allowance", lambda *_: Allowance(1e9, 1e9))  # noqa: B010
    begin = pd.Timestamp(options.begin, tz="UTC")
    end = begin + options.months * MONTH
    candles = {name: read_directory(options.candles_dir, name, "1h") for name in COINS}
    candles = {name: frame[frame["timestamp"] < end] for name, frame in candles.items()}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, frame in candles.items():
            (place / "candles").mkdir(exist_ok=True)
            frame.to_parquet(place / "candles" / f"{name.replace('/', '')}_1h.parquet")
        months, said = chain(candles, begin, options.months, place)
        walks = [
            walk_forward(place / "candles", begin, options.months, seed, place)
            for seed in (CONFIG.seed, CONFIG.seed + 1)
        ]
    rows = [["month from", "retraining", "forecasts", "chain and walk", "walk, two seeds"]]
    pairs = []
    for number, (month, told) in enumerate(zip(months, said)):
        both = pd.concat([month, *walks], axis=1, join="inner").to_numpy()
        pairs.append(both)
        numbers = np.corrcoef(both.T)
        start = begin + number * MONTH
        rows.append(
            [f"{start:%Y-%m-%d}", told, f"{len(both):,}", f"{numbers[0, 1]:.4f}",
             f"{numbers[1, 2]:.4f}"]
        )  # fmt: skip
    whole = np.corrcoef(np.concatenate(pairs).T)
    n = sum(map(len, pairs))
    rows.append(["all", "", f"{n:,}", f"{whole[0, 1]:.4f}", f"{whole[1, 2]:.4f}"])
    print(text_table(rows))
    print(f"correlation of raw forecasts; {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
