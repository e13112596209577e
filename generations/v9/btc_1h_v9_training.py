"""Train v9's three models, direction, volatility and price: from candles to saved models and a
verdict on each.

    python -m generations.v9.btc_1h_v9_training
    python -m generations.v9.btc_1h_v9_training --candles-dir DIR --symbols BTC/USDT --candles 10000

Each model is measured beside what costs nothing or little: the direction beside the majority, the
last move and a logistic regression; the volatility beside EWMA and HAR; the price beside naive,
drift, ridge and XGBoost.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from config import ConfigV9, SourceConfig, default_output_dir
from data_fetcher import CandleSet, expand_symbols, fetch_candles
from generations.v9.direction import DIRECTION_BASELINES, direction_samples, fit_direction_baselines
from generations.v9.features import V9_FEATURES, V9_WARMUP, compute_v9_features
from generations.v9.inference import DIRECTION_FILE, FILES, RESULTS_FILE, VOLATILITY_FILE
from generations.v9.scaling import to_min_max
from generations.v9.three_models import TaskFiles, VolatilityTask, forecast_tasks, volatility_task
from generations.v9.volatility import fit_trees
from pipeline import hub, terminal
from pipeline.bundle import files
from pipeline.bundle.network import import_keras
from pipeline.candles import store
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import INTERVAL_BASELINES, forecast_test
from pipeline.report import run_page, tables
from pipeline.samples.scaling import ScaledSamples, scale_on_train
from pipeline.samples.splitting import Split, split_samples
from pipeline.samples.windows import Samples, make_windows
from pipeline.training import device

NETWORK = "lstm"
"""the price network's name in tables and files"""
BuildNetwork = Callable[[ConfigV9], Any]
DATA_DIR = Path("data")
"""where the document puts BTCUSDT_1h.csv by hand"""


def main(
    config: ConfigV9 = ConfigV9(),
    build_direction: BuildNetwork | None = None,
    build_price: BuildNetwork | None = None,
) -> dict[str, Any]:
    """Run the ten phases and save the bundle.

    Args:
        config: Of the run.
        build_direction: Makes the untrained direction network; `build_direction_network` by
            default.
        build_price: Makes the untrained price network; `build_price_network` by default.

    Returns:
        The content of metrics_v9.json.

    Raises:
        ValueError: Bad settings or bad candles; says what, where, value and remedy.
    """
    config.check()
    output_dir = Path(config.output_dir or default_output_dir("v9"))
    settings = files.settings_of(
        config, leave_out=("output_dir", "cache_dir", "resume", "push_to_hub")
    )
    push = hub.push_when_done(config.push_to_hub)
    with (
        files.new_bundle(output_dir, FILES.metadata, FILES.bundle) as partial,
        terminal.terminal_log(partial / FILES.log, append=config.resume),
    ):
        phases = terminal.Phases(10)
        phases.start("Fetch", f"{config.timeframe} candles")
        interrupted = (
            files.interrupted_run(partial, settings, FILES.metadata) if config.resume else None
        )
        market = fetch(config, interrupted)
        if interrupted is None:
            files.begin_run(partial, settings, market.fingerprint(), FILES.log)

        phases.start("Features", f"{len(V9_FEATURES)}, each looks only backwards")
        features = {s: compute_v9_features(c, config.timeframe) for s, c in market.candles.items()}

        phases.start("Windows", f"{config.lookback} candles each")
        windows = (features, market.candles, config.timeframe, config.lookback)
        samples = make_windows(*windows, config.horizon, V9_WARMUP)
        samples_ahead = make_windows(*windows, config.volatility_horizon, V9_WARMUP)
        terminal.tell(
            f"{len(samples):,} for direction and price, {len(samples_ahead):,} for the volatility"
        )

        phases.start("Split", "by clock time, every symbol at the same instants")
        parts = split(samples, config)

        phases.start("Scale", "fitted on the training part alone")
        standardised, return_scalers = scale_on_train(samples, parts)  # what the small models see
        scaled, scalers = to_min_max(standardised, return_scalers)

        phases.start("Baselines", ", ".join((*BASELINE_NAMES, *DIRECTION_BASELINES, "har")))
        baselines = fit_baselines(standardised, return_scalers.y, seed=config.seed)
        direction_baselines = fit_direction_baselines(direction_samples(standardised))
        volatility = volatility_task(market.candles, samples_ahead, parts)

        phases.start("Direction", "bidirectional LSTM with attention")
        model = (build_direction or build_direction_network)(config)
        direction_history = train_direction(model, direction_samples(scaled), config, partial)

        phases.start(
            "Volatility", f"trees on {config.lookback * samples.n_features:,} numbers a window"
        )
        n_trees = train_volatility(scaled, volatility, config, partial)

        phases.start("Price", "LSTM")
        model = (build_price or build_price_network)(config)
        history = train_price(model, scaled, config, partial)

        phases.start("Evaluate", "forecasts out of sample")
        forecasts = forecast_test(
            NETWORK, partial / FILES.model, scaled, scalers, baselines, market.candles
        )
        paths = TaskFiles(
            partial / DIRECTION_FILE, partial / VOLATILITY_FILE, partial / FILES.model
        )
        forecasts, tasks = forecast_tasks(
            forecasts, paths, scaled, scalers, volatility, market.candles, direction_baselines
        )
        metrics = {
            "data": market.provenance(),
            "split": parts.facts(samples.target_time),
            "cuts": parts.cuts(),
            **evaluate(forecasts.predictions, market, config),
            "calibration": forecasts.calibration.as_dict(),
            "ensemble": tasks["ensemble"],
            "baseline_settings": baselines.settings | {"volatility_trees": n_trees},
        }
        files.write_json(partial / RESULTS_FILE, results(metrics, market))
        page = run_page.html_report(
            metrics,
            forecasts.predictions,
            history,
            settings,
            generation="v9",
            sections=task_sections(metrics),
        )
        hashes = {
            name: files.sha256_of(partial / name) for name in (DIRECTION_FILE, VOLATILITY_FILE)
        }
        scaler_file = {
            "X": scalers.X,
            "y": scalers.y,
            **forecasts.as_dict(),
            **tasks,
            "sha256": hashes,
        }
        files.save_run(
            partial,
            FILES,
            settings,
            samples.facts(),
            forecasts.reference,
            scaler_file,
            {**history, "direction": direction_history},
            metrics,
            forecasts.predictions,
            page,
        )
        terminal.tell(f"bundle: {output_dir.resolve()}, {phases.seconds:.0f} s in all")
        print(tables.verdict_banner(metrics["test"]))
    push(output_dir)
    return metrics


def fetch(config: ConfigV9, interrupted: dict[str, Any] | None) -> CandleSet:
    """Candles of every symbol; on resumption those of the interrupted run, or a ValueError."""
    source: SourceConfig = config
    if has_own_files(config):
        terminal.tell(
            f"! candles from {DATA_DIR}/, which holds {config.timeframe} files of every pair"
        )
        source = replace(config, candles_dir=DATA_DIR)
    market = fetch_candles(
        config.symbols,
        config.timeframe,
        config.candles and config.candles + V9_WARMUP,
        source=source,
        end_ms=interrupted["end_ms"] if interrupted else None,
    )
    files.demand_same_candles(interrupted, market.fingerprint())
    terminal.tell(*market.describe())
    return market


def has_own_files(config: ConfigV9) -> bool:
    """Whether the document's `./data/BTCUSDT_1h.csv` is to be read: nothing else is asked for, and
    it is there."""
    if config.source != "auto" or config.candles_dir is not None or config.exchange is not None:
        return False
    return all(
        store.find_file(DATA_DIR, symbol, config.timeframe)
        for symbol in expand_symbols(config.symbols)
    )


def split(samples: Samples, config: ConfigV9) -> Split:
    """By dates if they are given, else by shares of the time span."""
    parts = split_samples(samples, config)
    terminal.tell(*parts.describe(samples.target_time))
    return parts


def build_direction_network(config: ConfigV9) -> Any:
    """The untrained direction network, seeded."""
    keras = import_keras()
    from models.multitask import build_direction

    keras.utils.set_random_seed(config.seed)
    return build_direction(
        config.lookback,
        len(V9_FEATURES),
        lstm_units=config.direction_lstm_units,
        attention_heads=config.attention_heads,
        dense_units=config.direction_dense_units,
        dropout=config.dropout,
    )


def build_price_network(config: ConfigV9) -> Any:
    """The untrained price network, seeded."""
    keras = import_keras()
    from models.multitask import build_price

    keras.utils.set_random_seed(config.seed)
    return build_price(
        config.lookback,
        len(V9_FEATURES),
        lstm_units=config.price_lstm_units,
        dense_units=config.price_dense_units,
        dropout=config.dropout,
    )


def train_direction(
    model: Any, scaled: ScaledSamples, config: ConfigV9, partial: Path
) -> dict[str, Any]:
    """Fit the direction network in a folder of its own, which holds what a resumed run needs."""
    import keras

    from pipeline.training.fit import fit_to_file

    tell_size(model, scaled)
    folder = partial / "direction"
    folder.mkdir(exist_ok=True)
    settings = options(config, FIT_OPTIONS) | {
        "epochs": min(config.epochs, config.direction_epochs),
        "learning_rate": config.direction_learning_rate,
    }
    names = dataclasses.replace(FILES, model=DIRECTION_FILE, checkpoint="best.h5")
    history = fit_to_file(
        model, scaled, folder, names, loss=keras.losses.BinaryCrossentropy(), **settings
    )
    os.replace(folder / DIRECTION_FILE, partial / DIRECTION_FILE)
    return asdict(history)


def train_volatility(
    scaled: ScaledSamples, task: VolatilityTask, config: ConfigV9, partial: Path
) -> int:
    """Fit the trees; they take seconds, so a resumed run fits them again, to the same end."""
    n_trees = fit_trees(
        scaled.rows,
        task.samples,
        task.split,
        task.ratio,
        partial / VOLATILITY_FILE,
        **options(config, ("trees", "tree_depth", "tree_learning_rate", "seed")),
    )
    terminal.tell(
        f"{len(task.split.train):,} windows, validation kept {n_trees} of {config.trees} trees"
    )
    return n_trees


def train_price(
    model: Any, scaled: ScaledSamples, config: ConfigV9, partial: Path
) -> dict[str, Any]:
    """Fit the price network; the best epoch's weights become the final file."""
    import keras

    from pipeline.training.fit import fit_to_file

    tell_size(model, scaled)
    loss = keras.losses.Huber(delta=config.huber_delta)
    return asdict(
        fit_to_file(model, scaled, partial, FILES, loss=loss, **options(config, FIT_OPTIONS))
    )


def tell_size(model: Any, scaled: ScaledSamples) -> None:
    """How large the network and its training part are, and what it runs on."""
    terminal.tell(f"{device.describe(model)}; {len(scaled.split.train):,} windows")


def evaluate(predictions: pd.DataFrame, market: CandleSet, config: ConfigV9) -> dict[str, Any]:
    """Score each model and the combination, every score beside its baselines'."""
    from generations.v9 import model_scores  # statsmodels, scikit-learn and arch take their time
    from pipeline.evaluation.scoring import score_run

    scores = score_run(
        [predictions],
        network=NETWORK,
        baselines=BASELINE_NAMES,
        interval_baselines=INTERVAL_BASELINES,
        synthetic=market.is_synthetic,
        funding=market.funding,
        **options(config, ("timeframe", "horizon", "fee_bps", "threshold")),
    )
    of_tasks = {
        "direction": model_scores.direction_scores(predictions, config.horizon),
        "volatility": model_scores.volatility_scores(predictions, config.volatility_horizon),
        "price": model_scores.price_scores(predictions, scores["test"], BASELINE_NAMES),
        "combined": model_scores.combined_scores(predictions, config.horizon),
    }
    scores |= files.plain(of_tasks)
    print(tables.terminal_tables(scores))
    for rows in model_scores.task_rows(scores).values():
        print(tables.text_table(rows), end="\n\n")
    return scores


def task_sections(metrics: dict[str, Any]) -> list[str]:
    """What the report says of direction, volatility and the combination."""
    from generations.v9 import model_scores

    return model_scores.task_sections(metrics)


def results(metrics: dict[str, Any], market: CandleSet) -> dict[str, Any]:
    """Content of v9_results.json: the document's keys, and what they must be read beside."""
    return {
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pair": ",".join(symbol.replace("/", "") for symbol in market.candles),
        "timeframe": market.timeframe,
        **{
            f"{task}_metrics": metrics[task]
            for task in ("direction", "volatility", "price", "combined")
        },
        "verdict": metrics["test"]["verdict"],
        **{name: metrics[name] for name in ("data", "split", "cuts")},
    }


if __name__ == "__main__":
    import tyro

    with terminal.one_line_errors(
        after_interrupt="; the previous bundle is complete, --resume goes on"
    ):
        main(tyro.cli(ConfigV9, description=__doc__))
