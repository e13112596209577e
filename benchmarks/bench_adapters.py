"""Models of other packages beside the baselines, walked forward and judged on the same instants.

    python -m benchmarks.bench_adapters --candles-dir DIR
    python -m benchmarks.bench_adapters --candles-dir DIR --only Theta LightGBM
    python -m benchmarks.bench_adapters --candles-dir DIR --forecasts RUN/predictions_v2.parquet

A run of the pooled preset learns from all coins, and is judged on the forecasts of these two:

    python train_v2_production.py --preset pooled --no-final-fit --candles-dir DIR \
        --train-end 2024-03-09T06:18 --val-end 2024-04-27T21:09 --test-end 2024-06-16T12:00

The candles and instants are those of the README's run: BTC and ETH futures of 1h, 8,000 candles
after warm-up, 2,380 forecasts from 2024-04-27 22:00 on. Prints a table in Markdown: skill against
naive in the verdict's loss, its test, the direction, and the time that a forecast takes. Models
whose package is not installed are left out by name.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from judge import judge
from pipeline import terminal
from pipeline.evaluation.losses import deciding

SYMBOLS = ("BTC/USDT", "ETH/USDT")
CANDLES = 8474
"""8,000, and the warm-up of v2's features before them"""
SINCE = "2024-04-27T22:00"
MODELS = {
    "AutoARIMA": "statsforecast_models:AutoArima",
    "Theta": "statsforecast_models:Theta",
    "LightGBM": "lightgbm_model:LightGBM",
    "N-HiTS": "neuralforecast_models:NHits",
    "Chronos": "chronos_model:Chronos",
    "TimesFM": "timesfm_model:TimesFM",
    "Kronos": "kronos_model:Kronos",
}
BY_DEFAULT = ("AutoARIMA", "Theta", "LightGBM", "N-HiTS")
"""Those whose weights need not be fetched"""
HEADING = (
    "model",
    "skill %",
    "95 % CI",
    "DM",
    "p (Holm)",
    "verdict",
    "direction %",
    "a forecast",
    "a fit",
)


def load(names: list[str]) -> dict[str, Any]:
    """Name -> model, of those whose package is installed."""
    models = {}
    for name in names:
        module, _, member = MODELS[name].partition(":")
        try:
            models[name] = getattr(importlib.import_module(f"integrations.{module}"), member)
        except ModuleNotFoundError as error:
            print(f"{name} is left out: {error}")
    return models


def of_the_two_coins(path: Path) -> pd.DataFrame:
    """The forecasts of a run, of these coins alone."""
    forecasts = pd.read_parquet(path)
    return forecasts[forecasts["symbol"].isin(SYMBOLS)].reset_index(drop=True)


def rows_of(metrics: Mapping[str, Mapping[str, Any]], rivals: Mapping[str, Any]) -> list[list[str]]:
    """A row a model, the best first."""
    rows = []
    for of in rivals["models"]:
        name = of["model"]
        own = metrics.get(name, {})
        test = _against_naive(metrics, name)
        walked = own.get("walk")
        seconds = walked["seconds_per_forecast"]["p50"] if walked else None
        fit = walked["fit_seconds"] / walked["fits"] if walked and walked["fits"] else None
        rows.append(
            [
                name + (" (baseline)" if of["is_baseline"] else ""),
                _shown(of["skill"], "{:+.3f}", 100),
                f"{_shown(of['low'], '{:+.2f}', 100)} to {_shown(of['high'], '{:+.2f}', 100)}"
                if name != "naive"
                else "",
                _shown(test.get("statistic"), "{:+.2f}"),
                _shown(test.get("p_holm"), "{:.3f}"),
                test.get("verdict", ""),
                _shown(of["direction"], "{:.2f}", 100),
                _shown(seconds, "{:.3g} ms", 1000),
                _shown(fit, "{:.2g} s"),
            ]
        )
    return rows


def _against_naive(metrics: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """The deciding test of a judged model against naive, on all of its own forecasts; empty for a
    baseline."""
    verdicts = metrics[name]["test"]["verdicts"] if name in metrics else []
    found = [verdict for verdict in deciding(verdicts) if verdict["baseline"] == "naive"]
    return found[0] if found else {}


def _shown(value: float | None, form: str, factor: float = 1.0) -> str:
    return "" if value is None else form.format(factor * value)


def main() -> None:
    """Walk, judge, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--candles-dir", type=Path, required=True, help="BTCUSDT_1h, ETHUSDT_1h")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=BY_DEFAULT, help="models")
    parser.add_argument("--forecasts", type=Path, nargs="*", default=[], help="judged along")
    parser.add_argument("--every", type=int, default=1, help="forecast at every so many-th candle")
    parser.add_argument("--refit-every", type=int, help="fit again after so many candles")
    parser.add_argument("--json", type=Path, help="also write all numbers")
    given = parser.parse_args()
    models = load(list(given.only))
    models |= {path.parent.name or path.stem: of_the_two_coins(path) for path in given.forecasts}
    with terminal.notices():
        judged = judge(
            models,
            given.candles_dir,
            symbols=SYMBOLS,
            n_candles=CANDLES,
            since=SINCE,
            every=given.every,
            refit_every=given.refit_every,
        )
    rivals = judged.rivals or {}
    print(f"\n{rivals.get('n', 0):,} instants\n")
    for row in [list(HEADING), ["---"] * len(HEADING), *rows_of(judged.metrics, rivals)]:
        print(f"| {' | '.join(row)} |")
    if given.json:
        given.json.write_text(json.dumps({"metrics": judged.metrics, "rivals": rivals}, indent=1))


if __name__ == "__main__":
    main()
