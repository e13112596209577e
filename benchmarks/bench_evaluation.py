"""Time and memory of the evaluation: half a million forecasts of 19 coins, every table of the
report.

    python -m benchmarks.bench_evaluation
    python -m benchmarks.bench_evaluation --forecasts 50000 --json evaluation.json

One process, one core; the fits of the models are not part of it. The goal: 500,000 forecasts in at
most 5 seconds and 1 GiB. The memory is the whole process's, the frame of forecasts and the
libraries included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.bench_features import use_one_core
from benchmarks.common import Ratio, peak_mib, print_ratios, write_report
from pipeline.candles.synthetic import TEMPERS
from pipeline.evaluation.verdict import evaluate_forecasts

N_COINS = 19
QUANTILE_BASELINES = ("ewma", "garch")


def forecasts(n: int, seed: int = 0) -> pd.DataFrame:
    """About n forecasts as the training script frames them: 19 coins that correlate, a network with
    a little skill."""
    rng = np.random.default_rng(seed)
    n_hours = n // N_COINS
    hours = pd.date_range("2022-01-01", periods=n_hours, freq="h", tz="UTC").as_unit("ms")
    shared = rng.standard_t(4, n_hours)
    frames = []
    for coin in list(TEMPERS)[:N_COINS]:
        volatility = TEMPERS[coin].volatility * np.exp(0.3 * rng.standard_normal(n_hours))
        scaled = 0.7 * shared + 0.7 * rng.standard_t(4, n_hours)
        scaled_forecast = 0.01 * scaled + 0.1 * rng.standard_normal(n_hours)
        quantiles = {
            f"{prefix}{name}": (0.05 * scaled_forecast + width * point) * volatility
            for prefix, width in (("", 1.0), ("ewma_", 1.05), ("garch_", 1.02))
            for name, point in (("q10", -1.4), ("q50", 0.0), ("q90", 1.4))
        }
        frames.append(
            pd.DataFrame(
                {
                    "symbol": f"{coin}/USDT",
                    "timestamp": hours,
                    "base_price": TEMPERS[coin].price * np.exp(0.1 * rng.standard_normal(n_hours)),
                    "current_return": volatility * rng.standard_t(4, n_hours),
                    "actual_return": volatility * scaled,
                    "volatility": volatility,
                    "naive": 0.0,
                    "drift": 1e-5 * volatility,
                    "ridge": 0.05 * volatility * rng.standard_normal(n_hours),
                    "xgboost": 0.05 * volatility * rng.standard_normal(n_hours),
                    "lstm": 0.05 * scaled_forecast * volatility,
                    **quantiles,
                    "p_up": 0.5 + 0.5 * np.tanh(0.1 * scaled_forecast),
                }
            )
        )
    return pd.concat(frames).sort_values(["timestamp", "symbol"], ignore_index=True)


def timed(function: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--forecasts", type=int, default=500_000, help="of all coins together (default 500000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="the best counts (default 3)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    use_one_core()
    evaluate_forecasts(forecasts(20 * N_COINS))  # so that no import is timed
    predictions = forecasts(options.forecasts)
    before = peak_mib()
    seconds = {}
    for name, with_set in (("without the confidence set", False), ("all of it", True)):
        evaluate = partial(
            evaluate_forecasts,
            predictions,
            quantile_baselines=QUANTILE_BASELINES,
            confidence_set=with_set,
        )
        seconds[name] = min(timed(evaluate) for _ in range(options.rounds))
    report = {
        "forecasts": len(predictions),
        "seconds": seconds,
        "mib_before": before,
        "peak_mib": peak_mib(),
    }
    print(f"{len(predictions):,} forecasts of {N_COINS} coins, one core, best of {options.rounds}")
    for name, value in seconds.items():
        print(f"{name:28}{value:>8.2f} s")
    print(
        f"{'peak memory':28}{report['peak_mib']:>8.0f} MiB, {before:.0f} of them libraries and "
        "forecasts"
    )
    is_whole = options.forecasts >= 500_000
    ratios = [
        Ratio(
            "evaluation: seconds", seconds["all of it"], 5.0 if is_whole else None, at_least=False
        ),
        Ratio("evaluation: peak memory in MiB", peak_mib(), 1024.0, at_least=False),
    ]
    print_ratios(ratios)
    write_report(options.json, report, ratios)


if __name__ == "__main__":
    main()
