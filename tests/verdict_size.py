"""How often the verdict is wrong: its size on markets without an edge, its power on others.

    python -m tests.verdict_size --runs 200
    python -m tests.verdict_size --runs 50 --horizon 24

The whole road: synthetic candles of two coins, features, windows, split, scaling, a model,
shrinkage, verdict. The model is ridge, the project's own baseline in the network's place, because a
run then takes a fraction of a second. A market is a seed. Size: BEATS on martingales (2,500 candles
a coin, about 1,600 test samples), against naive alone and against each of four baselines with
Holm's correction over them. Power: the same with a planted signal of R2 1 % and 20,000 samples.

    python -m tests.verdict_size --power

is a table of how often a forecast that knows a share of the moves BEATS naive. Its moves are of
Student's t with 4 degrees of freedom, independent, one an instant; it knows the signal itself.
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
from pipeline.evaluation.significance import LEVEL, diebold_mariano
from pipeline.evaluation.verdict import compare_forecasts
from pipeline.forecasts.baselines import _drift, _fit_lad, _fit_ridge, _reversal, lagged_inputs
from pipeline.forecasts.shrinkage import fit_shrinkage
from pipeline.samples.scaling import scale_on_train, to_log_return
from pipeline.samples.splitting import chronological_split
from pipeline.samples.windows import make_windows

SYMBOLS = ("BTC/USDT", "ETH/USDT")
SIZE_CANDLES = 2_500
POWER_CANDLES = 25_540  # 40 % of what the warm-up leaves, of two coins: 20,000 test samples
POWER_R2 = 0.01
BASELINES = ("naive", "drift", "reversal", "lad")
POWERS_OF_R2 = (0.0025, 0.005, 0.01)
POWERS_OF_N = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
N_COMPARISONS = 6
"""of a run of v2: Holm's first step divides the level by so many"""


@dataclass(frozen=True)
class Outcome:
    """One market's verdicts on ridge."""

    alone: str
    """against naive, the only comparison"""
    of_all: dict[str, str]
    """against each of `BASELINES`, with Holm's correction over them"""
    n: int
    """test samples"""


def forecasts_of_ridge(
    seed: int, n_candles: int, signal_r2: float, horizon: int = 1
) -> pd.DataFrame:
    """Predictions of the test part (40 % of the time) by the baselines and shrunk ridge."""
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
    inputs = lagged_inputs(scaled)
    ridge, _ = _fit_ridge(inputs, scaled, refit=False)
    outputs = {"lad": _fit_lad(inputs, scaled, refit=False), "ridge": ridge}
    val, test = split.val, split.test
    actual = (samples.log_return / samples.volatility)[val]
    shrunk = {}
    for name, output in outputs.items():
        forecast = to_log_return(output, samples.volatility, scalers.y)
        factor = fit_shrinkage((forecast / samples.volatility)[val], actual)
        shrunk[name] = factor * forecast[test]
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
            "reversal": _reversal(samples, split.train)[0][test],
            **shrunk,
        }
    )


def run(seed: int, n_candles: int, signal_r2: float, horizon: int = 1) -> Outcome:
    """One market from candles to verdict."""
    predictions = forecasts_of_ridge(seed, n_candles, signal_r2, horizon)
    [alone] = compare_forecasts(predictions, "ridge", ["naive"], horizon)
    of_all = compare_forecasts(predictions, "ridge", BASELINES, horizon)
    verdicts = {compared.baseline: compared.verdict for compared in of_all}
    return Outcome(alone.verdict, verdicts, len(predictions))


def shares(outcomes: list[Outcome], verdict: str) -> dict[str, float]:
    """Share of markets with this verdict: against naive "alone", and against each of the family."""
    found = {"alone": float(np.mean([outcome.alone == verdict for outcome in outcomes]))}
    for name in BASELINES:
        found[name] = float(np.mean([outcome.of_all[name] == verdict for outcome in outcomes]))
    return found


def power(r2: float, n: int, runs: int, seed: int) -> tuple[float, float]:
    """Share of runs in which a forecast BEATS naive: alone, and at Holm's first step."""
    rng = np.random.default_rng(seed)
    p_values = []
    for _ in range(runs):
        noise = rng.standard_t(4, n) / np.sqrt(2)  # of variance 1
        signal = rng.standard_normal(n)
        forecast = np.sqrt(r2) * signal
        actual = forecast + np.sqrt(1 - r2) * noise
        test = diebold_mariano(np.abs(actual - forecast), np.abs(actual), np.arange(n))
        p_values.append(test.p_value if test.statistic > 0 else 1.0)
    levels = (LEVEL, LEVEL / N_COMPARISONS)
    alone, first = (float(np.mean(np.array(p_values) < level)) for level in levels)
    return alone, first


def print_powers(runs: int, seed: int) -> None:
    """The table of `power` in Markdown."""
    print("| test samples | " + " | ".join(f"R² {100 * r2:g} %" for r2 in POWERS_OF_R2) + " |")
    print("|---|" + "---|" * len(POWERS_OF_R2))
    for n in POWERS_OF_N:
        cells = (power(r2, n, runs, seed) for r2 in POWERS_OF_R2)
        shown = (f"{100 * alone:.0f} %, {100 * first:.0f} %" for alone, first in cells)
        print(f"| {n:,} | " + " | ".join(shown) + " |", flush=True)


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
    parser.add_argument("--power", action="store_true", help="the table of powers instead")
    options = parser.parse_args()
    if options.power:
        print_powers(options.runs, options.seed)
        return
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
            found = shares(outcomes, verdict)
            told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in found.items())
            print(f"  {verdict:6} {told}")


if __name__ == "__main__":
    main()
