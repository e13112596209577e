"""How often the verdict is wrong: its size on markets without an edge, its power on others.

    python -m tests.verdict_size --runs 200
    python -m tests.verdict_size --runs 50 --horizon 24

The whole road: synthetic candles of two coins, features, windows, split, scaling, a model,
shrinkage, verdict against naive and drift. The model is ridge, the project's own baseline in the
network's place, because a run then takes a fraction of a second. A market is a seed. Size: BEATS
against naive on martingales (2,500 candles a coin, about 1,600 test samples), alone and as one of
two comparisons. Power: the same with a planted signal of R2 1 % and 20,000 test samples.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from feature_engineering import V2_FEATURES, V2_WARMUP, compute_features
from pipeline.candles.schema import utc_from_ms
from pipeline.candles.synthetic import synthetic_market
from pipeline.evaluation.verdict import compare_forecasts
from pipeline.forecasts.baselines import _drift, _fit_ridge, lagged_inputs
from pipeline.forecasts.shrinkage import fit_shrinkage
from pipeline.samples.scaling import scale_on_train, to_log_return
from pipeline.samples.splitting import chronological_split
from pipeline.samples.windows import make_windows

SYMBOLS = ("BTC/USDT", "ETH/USDT")
SIZE_CANDLES = 2_500
POWER_CANDLES = 25_540  # 40 % of what the warm-up leaves, of two coins: 20,000 test samples
POWER_R2 = 0.01


@dataclass(frozen=True)
class Outcome:
    """One market's verdicts on ridge."""

    alone: str
    """against naive, the only comparison"""
    of_two: str
    """against naive, with drift beside it and Holm's correction over both"""
    n: int
    """test samples"""


def forecasts_of_ridge(
    seed: int, n_candles: int, signal_r2: float, horizon: int = 1
) -> pd.DataFrame:
    """Predictions of the test part (40 % of the time) by naive, drift and shrunk ridge."""
    market = synthetic_market(SYMBOLS, "1h", n_candles, seed=seed, signal_r2=signal_r2)
    features = {
        symbol: compute_features(candles, "1h", V2_FEATURES) for symbol, candles in market.items()
    }
    samples = make_windows(features, market, "1h", 60, horizon, V2_WARMUP)
    split = chronological_split(
        samples.target_time,
        train_ratio=0.4,
        val_ratio=0.2,
        purge=np.timedelta64(horizon, "h"),
        symbol=samples.symbol,
    )
    scaled, scalers = scale_on_train(samples, split)
    output, _ = _fit_ridge(lagged_inputs(scaled), scaled, refit=False)
    forecast = to_log_return(output, samples.volatility, scalers.y)
    val, test = split.val, split.test
    factor = fit_shrinkage(
        (forecast / samples.volatility)[val], (samples.log_return / samples.volatility)[val]
    )
    return pd.DataFrame(
        {
            "symbol": np.array(samples.symbols)[samples.symbol[test]],
            "timestamp": utc_from_ms(samples.time[test]),
            "base_price": samples.base_price[test],
            "current_return": samples.current_return[test],
            "actual_return": samples.log_return[test],
            "volatility": samples.volatility[test],
            "naive": 0.0,
            "drift": _drift(scaled, split.train)[test],
            "ridge": factor * forecast[test],
        }
    )


def run(seed: int, n_candles: int, signal_r2: float, horizon: int = 1) -> Outcome:
    """One market from candles to verdict."""
    predictions = forecasts_of_ridge(seed, n_candles, signal_r2, horizon)
    [alone] = compare_forecasts(predictions, "ridge", ["naive"], horizon)
    of_two = compare_forecasts(predictions, "ridge", ["naive", "drift"], horizon)[0]
    return Outcome(alone.verdict, of_two.verdict, len(predictions))


def shares(outcomes: list[Outcome], verdict: str) -> tuple[float, float]:
    """Share of markets with this verdict against naive: alone, and as one of two comparisons."""
    alone = float(np.mean([outcome.alone == verdict for outcome in outcomes]))
    of_two = float(np.mean([outcome.of_two == verdict for outcome in outcomes]))
    return alone, of_two


def main() -> None:
    """Parse the options, run both experiments, print the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, default=200, help="markets of each experiment (default 200)"
    )
    parser.add_argument(
        "--horizon", type=int, default=1, help="candles that a forecast spans (default 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first market's (default 0)")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.runs)
    for name, n_candles, signal_r2 in (
        ("martingales", SIZE_CANDLES, 0.0),
        ("planted signal", POWER_CANDLES, POWER_R2),
    ):
        start = time.perf_counter()
        with threadpool_limits(1):
            outcomes = [run(seed, n_candles, signal_r2, options.horizon) for seed in seeds]
        print(
            f"{name}: {options.runs} markets, {outcomes[0].n:,} test samples, horizon "
            f"{options.horizon}, ridge, {time.perf_counter() - start:.0f} s"
        )
        for verdict in ("BEATS", "TIES", "LOSES"):
            alone, of_two = shares(outcomes, verdict)
            print(
                f"  {verdict:6}{100 * alone:6.1f} % against naive alone,{100 * of_two:6.1f} % of "
                "two comparisons"
            )


if __name__ == "__main__":
    main()
