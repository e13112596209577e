"""The interval model against EWMA and GARCH(1,1)-t on candles of a directory, out of sample.

    python -m benchmarks.bench_intervals --candles-dir DIR
    python -m benchmarks.bench_intervals --candles-dir DIR --horizon 4 --json intervals.json

Every symbol of the directory is pooled; each model is fitted on the training and validation part
and calibrated on the same year before the test part; the point forecast is 0. The loss is the mean
pinball loss of the 10, 50 and 90 % quantiles of the return over the sample's EWMA volatility.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from feature_engineering import V2_WARMUP
from pipeline.candles import formats, store
from pipeline.evaluation.probability import QUANTILES, pinball_loss
from pipeline.evaluation.significance import diebold_mariano
from pipeline.forecasts.garch import garch_quantiles
from pipeline.forecasts.intervals import (
    apply_intervals,
    calibrating_samples,
    fit_intervals,
    input_names,
    sample_inputs,
    sample_widths,
    scaled_quantiles,
)
from pipeline.forecasts.width import MEMORY
from pipeline.samples.splitting import Split, split_by_dates
from pipeline.samples.windows import Samples, make_windows, segmented_volatility

LOOKBACK = 60


def forecast_all(
    candles: Mapping[str, pd.DataFrame], timeframe: str, samples: Samples, split: Split
) -> dict[str, dict[str, np.ndarray]]:
    """Model -> its quantiles of every sample; GARCH is missing where it does not converge."""
    inputs = sample_inputs(candles, samples)
    calibrating = calibrating_samples(samples, split)
    model = fit_intervals(
        inputs,
        input_names(timeframe),
        samples.log_return,
        samples.volatility,
        split.known,
        calibrating,
        memory=MEMORY,
    )
    garch = garch_quantiles(candles, samples, split.val_end, calibrating)
    scales = {
        symbol: segmented_volatility(frame, timeframe, samples.horizon)
        for symbol, frame in candles.items()
    }
    return {
        "EWMA": scaled_quantiles(scales, candles, samples, calibrating),
        **({} if garch is None else {"GARCH(1,1)-t": garch}),
        "interval model": apply_intervals(
            model,
            inputs,
            samples.volatility,
            np.zeros(len(samples)),
            sample_widths(model, candles, samples),
        ),
    }


def score(
    forecasts: Mapping[str, Mapping[str, np.ndarray]], samples: Samples, test: np.ndarray
) -> list[dict[str, Any]]:
    """One row a model: loss, skill of the interval model against it with its p-value, coverage of
    the 80 % interval."""
    actual, volatility, symbol = (
        samples.log_return[test],
        samples.volatility[test],
        samples.symbol[test],
    )
    losses, rows = {}, []
    for name, quantiles in forecasts.items():
        of_level = [
            pinball_loss(actual, quantiles[q][test], level) / volatility
            for q, level in QUANTILES.items()
        ]
        losses[name] = np.mean(of_level, axis=0)
    ours = losses["interval model"]
    for name, loss in losses.items():
        inside = (forecasts[name]["q10"][test] <= actual) & (actual <= forecasts[name]["q90"][test])
        by_symbol = np.bincount(symbol, inside) / np.bincount(symbol)
        compared = diebold_mariano(ours, loss, samples.target_time[test], samples.horizon)
        rows.append(
            {
                "model": name,
                "pinball": float(loss.mean()),
                "skill_of_ours_percent": 100 * float(1 - ours.mean() / loss.mean()),
                "p_value": compared.p_value,
                "coverage_percent": 100 * float(inside.mean()),
                "lowest_coverage_percent": 100 * float(by_symbol.min()),
                "highest_coverage_percent": 100 * float(by_symbol.max()),
            }
        )
    return rows


def main() -> None:
    """Parse the options, forecast, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candles-dir", type=Path, required=True, help="directory of candle files")
    parser.add_argument("--timeframe", default="1h", help="of the candles (default 1h)")
    parser.add_argument("--horizon", type=int, default=1, help="candles ahead (default 1)")
    parser.add_argument("--train-end", default="2023-09-30", help="last day of the training part")
    parser.add_argument("--val-end", default="2023-12-31", help="last day of the validation part")
    parser.add_argument("--test-start", default="2024-01-08", help="first day of the test part")
    parser.add_argument("--test-end", help="last day of the test part (default: the last candle)")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    series = [
        one for one in store.list_series(options.candles_dir) if one.kind == options.timeframe
    ]
    candles = {one.symbol: formats.read_file(one.path, options.timeframe) for one in series}
    if not candles:
        parser.error(f"{options.candles_dir} holds no {options.timeframe} candles")
    no_features = {symbol: pd.DataFrame(index=frame.index) for symbol, frame in candles.items()}
    samples = make_windows(
        no_features, candles, options.timeframe, LOOKBACK, options.horizon, V2_WARMUP
    )
    split = split_by_dates(
        samples.target_time,
        options.train_end,
        options.val_end,
        options.test_start,
        options.test_end,
        purge=np.timedelta64(options.horizon * samples.step_ms, "ms"),
    )
    start = time.perf_counter()
    forecasts = forecast_all(candles, options.timeframe, samples, split)
    seconds = time.perf_counter() - start
    rows = score(forecasts, samples, split.test)
    print(
        f"{len(candles)} symbols, {options.timeframe}, horizon {options.horizon}; "
        f"{len(split.train):,} training, {len(split.val):,} validation, {len(split.test):,} test "
        f"samples; fitted in {seconds:.1f} s"
    )
    print(f"{'':16}{'pinball':>9}{'ours better by, p':>26}{'coverage':>10}{'of symbols':>16}")
    for row in rows:
        is_ours = row["model"] == "interval model"
        compared = "" if is_ours else f"{row['skill_of_ours_percent']:.2f} %{row['p_value']:>10.1g}"
        span = f"{row['lowest_coverage_percent']:.1f} to {row['highest_coverage_percent']:.1f} %"
        print(
            f"{row['model']:16}{row['pinball']:>9.5f}{compared:>26}{row['coverage_percent']:>8.1f} "
            f"%{span:>16}"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"rows": rows, "seconds": seconds}, indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
