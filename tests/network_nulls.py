"""How often a whole run says EDGE where there is none to find.

    python -m tests.network_nulls --candles-dir DIR
    python -m tests.network_nulls --candles-dir DIR --runs 5 --candles 2000

Each market is made of real candles whose moves are turned around at random, one toss an hour for
all coins: sizes of moves, volumes and what coins have in common stay, and no direction can be
foreseen. The whole production run is made on it, with the pooled preset in small: four coins, fewer
candles, one network in place of five.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import PRESETS_V2
from feature_engineering import V2_WARMUP
from pipeline.candles.formats import read_directory
from pipeline.candles.schema import PRICE_COLUMNS
from pipeline.candles.store import write_candles
from pipeline.evaluation.losses import deciding

SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT")


def with_random_signs(candles: pd.DataFrame, signs: np.ndarray) -> pd.DataFrame:
    """Candles whose moves have other signs.

    Args:
        candles: In the schema, without gaps.
        signs: (n,) 1 or -1; where it is -1 the candle is its mirror image about the close before.

    Returns:
        The candles; their absolute log-returns are those of the given ones, but for the first.
    """
    logs = {name: np.log(candles[name].to_numpy()) for name in PRICE_COLUMNS}
    before = np.concatenate([logs["open"][:1], logs["close"][:-1]])
    moves = {name: signs * (values - before) for name, values in logs.items()}
    level = logs["open"][0] + np.concatenate([[0.0], np.cumsum(moves["close"])[:-1]])
    is_mirrored = signs < 0
    high = np.where(is_mirrored, moves["low"], moves["high"])
    low = np.where(is_mirrored, moves["high"], moves["low"])
    made = {"open": moves["open"], "high": high, "low": low, "close": moves["close"]}
    return candles.assign(**{name: np.exp(level + move) for name, move in made.items()})


def run(seed: int, market: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """The evaluation of a production run on one market of random signs."""
    import train_v2_production

    n = min(map(len, market.values()))
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], n)
    settings = replace(
        PRESETS_V2["pooled"], symbols=tuple(market), candles=n - V2_WARMUP, ensemble=1, seed=seed
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for symbol, candles in market.items():
            made = with_random_signs(candles.tail(n).reset_index(drop=True), signs)
            write_candles(made, Path(folder) / "candles", symbol, "1h")
        config = replace(
            settings, candles_dir=Path(folder) / "candles", output_dir=Path(folder) / "v2"
        )
        test: dict[str, Any] = train_v2_production.main(config)["test"]
        return test


def main() -> None:
    """Parse the options, run all markets, print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candles-dir", type=Path, required=True, help="real hourly candles")
    parser.add_argument("--runs", type=int, default=60, help="markets (default 60)")
    parser.add_argument("--candles", type=int, default=4000, help="a coin (default 4000)")
    parser.add_argument("--seed", type=int, default=0, help="the first market's (default 0)")
    options = parser.parse_args()
    n = options.candles + V2_WARMUP
    market = {name: read_directory(options.candles_dir, name, "1h").tail(n) for name in SYMBOLS}
    began = time.perf_counter()
    verdicts: collections.Counter[str] = collections.Counter()
    against: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for seed in range(options.seed, options.seed + options.runs):
        test = run(seed, market)
        verdicts[test["verdict"]] += 1
        for compared in deciding(test["verdicts"]):
            against[compared["baseline"]][compared["verdict"]] += 1
        print(f"{sum(verdicts.values()):3} of {options.runs}: {test['verdict']}", flush=True)
    print(
        f"{options.runs} markets, {test['n']:,} forecasts each, {time.perf_counter() - began:.0f} s"
    )
    for name, counts in {"the run": verdicts, **against}.items():
        print(f"  {name:10} {', '.join(f'{what} {n}' for what, n in sorted(counts.items()))}")


if __name__ == "__main__":
    main()
