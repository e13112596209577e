"""What a forecast is still worth the older the network's training is, and by what to shrink it.

    python -m benchmarks.bench_age --candles-dir DIR --keep FOLDER

The pooled preset, one network in place of five, is trained up to several instants, half a year
apart, and forecasts everything after each. Of the forecasts of each age the factor is shown that
would have been best, and what factors that fall with age would have given.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from config import PRESETS_V2, SourceConfig
from feature_engineering import V2_WARMUP, choose_preset_features, compute_market
from inference_v2 import FILES
from pipeline.candles.fetching import fetch_candles
from pipeline.forecasts.recalibration import DAYS, MIN_DAYS, MIN_FORECASTS
from pipeline.forecasts.shrinkage import fit_calibration, fit_shrinkage
from pipeline.forecasts.test_part import SavedNetwork, rows_of_test
from pipeline.report.tables import text_table
from pipeline.samples.scaling import scale_on_train
from pipeline.samples.splitting import split_by_dates
from pipeline.samples.windows import Samples, make_windows

ORIGINS = ("2021-09-30", "2022-03-31", "2022-09-30", "2023-03-31", "2023-09-30")
"""Last days of validation parts: the network learns nothing later."""
VAL_DAYS = 184
BUCKET_DAYS = 90
CONFIG = replace(PRESETS_V2["pooled"], ensemble=1)

FACTORS, SCORES = ("1", "0.7", "monthly"), ("skill", "R²", "t")

Factor = Callable[[np.ndarray], np.ndarray]


def read_samples(candles_dir: Path) -> Samples:
    """The pooled preset's samples of every coin of the house list that the folder has."""
    source = SourceConfig(candles_dir=candles_dir, cache_dir=None)
    market = fetch_candles(CONFIG.symbols, CONFIG.timeframe, 0, source)
    columns = choose_preset_features("pooled", market.candles, CONFIG.timeframe, 0)
    features = compute_market(market.candles, CONFIG.timeframe, columns, "pooled")
    return make_windows(
        features, market.candles, CONFIG.timeframe, CONFIG.lookback, CONFIG.horizon, V2_WARMUP
    )


def forecast_from(samples: Samples, val_end: str, folder: Path) -> pd.DataFrame:
    """Train up to a day and forecast what comes later: a row a sample, shrunk as validation says.

    Returns:
        symbol, timestamp (open of candle t), age_days (from the end of the validation part to the
        close of t), and `forecast` and `actual`, both volatility-scaled.
    """
    import train_v2_production as script

    train_end = pd.Timestamp(val_end) - pd.Timedelta(days=VAL_DAYS)
    split = split_by_dates(
        samples.target_time, f"{train_end:%Y-%m-%d}", val_end, purge=samples.target_span
    )
    scaled, scalers = scale_on_train(samples, split)
    with contextlib.redirect_stdout(io.StringIO()):
        script.train(scaled, CONFIG, folder, script.build_network)
    saved = SavedNetwork(folder / FILES.model, scalers, CONFIG.refit)
    test = rows_of_test(scaled)
    raw_val, raw = (outputs[:, 0] for outputs in saved.outputs(scaled, split.val, test))
    samples = scaled.samples
    volatility = samples.volatility[split.val]
    calibration = fit_calibration(
        raw_val, samples.log_return[split.val], volatility, caution=CONFIG.caution
    )
    made = samples.time[test] + np.timedelta64(samples.step_ms, "ms")
    return pd.DataFrame(
        {
            "origin": val_end,
            "symbol": np.array(samples.symbols)[samples.symbol[test]],
            "timestamp": samples.time[test],
            "age_days": (made - split.val_end) / np.timedelta64(1, "D"),
            "forecast": calibration.shrinkage * raw / samples.volatility[test],
            "actual": samples.log_return[test] / samples.volatility[test],
            "slope": calibration.direction_slope / max(calibration.shrinkage, 1e-9),
        }
    )


def best_factors(part: pd.DataFrame) -> tuple[float, float]:
    """The factors on these forecasts with the least absolute and the least squared error.

    Neither is kept within 0 and 1: whether forecasts may be larger is part of the question.
    """
    forecast, actual = part["forecast"].to_numpy(), part["actual"].to_numpy()
    used = forecast != 0
    ratio = actual[used] / forecast[used]
    order = np.argsort(ratio)
    cumulated = np.cumsum(np.abs(forecast[used])[order])
    middle = np.searchsorted(cumulated, 0.5 * cumulated[-1])
    return float(ratio[order][middle]), float((forecast @ actual) / (forecast @ forecast))


def score(part: pd.DataFrame, factor: np.ndarray) -> tuple[float, float, float]:
    """Skill and R² of the forecasts times a factor, percent, and the skill's t by hours' means."""
    forecast, actual = factor * part["forecast"], part["actual"]
    gain = np.abs(actual) - np.abs(actual - forecast)
    by_hour = gain.groupby(part["timestamp"]).mean()
    statistic = by_hour.mean() / by_hour.std() * np.sqrt(len(by_hour))
    skill = gain.sum() / np.abs(actual).sum()
    squared = 1 - np.square(actual - forecast).sum() / np.square(actual).sum()
    return 100 * skill, 100 * squared, float(statistic)


def recalibrated(forecasts: pd.DataFrame) -> pd.Series:
    """The factor that a recalibration of each month's start gives, 1 before the first."""
    factors = pd.Series(1.0, index=forecasts.index)
    made = pd.to_datetime(forecasts["timestamp"], unit="ms", utc=True)
    month = made.dt.to_period("M")
    for (_, number), rows in forecasts.groupby(["origin", month]).groups.items():
        origin = forecasts.loc[rows[0], "origin"]
        start = number.start_time.tz_localize("UTC")
        earlier = (made >= start - pd.Timedelta(days=DAYS)) & (made < start - pd.Timedelta(hours=2))
        known = forecasts[earlier & (forecasts["origin"] == origin)]
        if len(known) >= MIN_FORECASTS and known["age_days"].max() >= MIN_DAYS:
            # Up to twice as large as it was judged: the raw forecast is larger still.
            forecast, actual = 2 * known["forecast"], known["actual"]
            found = fit_shrinkage(forecast.to_numpy(), actual.to_numpy(), CONFIG.caution)
            factors[rows] = 2 * found
    return factors


def ending_at(days: float) -> Factor:
    """A factor that falls from 1 in a straight line, to 0 at an age."""
    return lambda age: np.clip(1 - age / days, 0.0, 1.0)


def halving(days: float) -> Factor:
    """A factor that halves whenever so many days have passed."""
    return lambda age: 0.5 ** (age / days)


def constant(value: float) -> Factor:
    """A factor that no age changes."""
    return lambda age: np.full(len(age), value)


CURVES: dict[str, Factor] = {
    "1": constant(1.0),
    "0.7": constant(0.7),
    **{f"to 0 in {days} days": ending_at(days) for days in (365, 547, 730, 1095, 1460)},
    **{f"half in {days} days": halving(days) for days in (182, 365, 547, 730)},
}


def main() -> None:
    """Parse the options, train from each origin, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candles-dir", type=Path, required=True, help="real hourly candles")
    parser.add_argument("--keep", type=Path, help="folder for the forecasts, used when they exist")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as aside:
        keep = options.keep or Path(aside)
        keep.mkdir(parents=True, exist_ok=True)
        files = [keep / f"{origin}.parquet" for origin in ORIGINS]
        samples = None
        for origin, file in zip(ORIGINS, files):
            if not file.is_file():
                samples = samples or read_samples(options.candles_dir)
                network = Path(aside) / origin
                forecast_from(samples, origin, network).to_parquet(file, index=False)
            print(f"trained to {origin}", flush=True)
        forecasts = pd.concat(map(pd.read_parquet, files), ignore_index=True)

    bucket = forecasts["age_days"] // BUCKET_DAYS
    rows = [["age, days", "origin", "n", "best |e|", "best e²", "skill %", "R² %", "t"]]
    groups = [((age, "all"), part) for age, part in forecasts.groupby(bucket)]
    groups += list(forecasts.groupby([bucket, "origin"]))
    for (age, origin), part in groups:
        absolute, squared = best_factors(part)
        told = score(part, np.ones(len(part)))
        days = f"{int(age) * BUCKET_DAYS}"
        numbers = [f"{number:.3f}" for number in (absolute, squared, *told)]
        rows.append([days, str(origin), f"{len(part):,}", *numbers])
    print(text_table(rows))

    rows = [["factor", "skill %", "R² %", "t", *(f"R² from {o}" for o in ORIGINS)]]
    for name, curve in CURVES.items():
        told_all = [f"{number:.3f}" for number in score(forecasts, curve(forecasts["age_days"]))]
        for origin in ORIGINS:
            own = forecasts[forecasts["origin"] == origin]
            told_all.append(f"{score(own, curve(own['age_days']))[1]:.3f}")
        rows.append([name, *told_all])
    factor = recalibrated(forecasts)
    told_all = [f"{number:.3f}" for number in score(forecasts, factor)]
    for origin in ORIGINS:
        is_own = forecasts["origin"] == origin
        told_all.append(f"{score(forecasts[is_own], factor[is_own])[1]:.3f}")
    rows.append(["recalibrated monthly", *told_all])
    print(text_table(rows))

    rows = [["quarter", "n", *(f"{what}, {name}" for name in FACTORS for what in SCORES)]]
    made = pd.to_datetime(forecasts["timestamp"], unit="ms")
    for quarter, part in forecasts.groupby(made.dt.to_period("Q")):
        if len(part) < MIN_FORECASTS:
            continue
        numbers = []
        for one in (pd.Series(1.0, index=part.index), 0.7 + 0 * factor[part.index], factor):
            numbers += [f"{number:.2f}" for number in score(part, one[part.index])]
        rows.append([str(quarter), f"{len(part):,}", *numbers])
    print(text_table(rows))


if __name__ == "__main__":
    main()
