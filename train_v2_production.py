"""Train v2: from candles to a saved model and a verdict, in nine phases.

    python train_v2_production.py
    python train_v2_production.py --candles-dir DIR --symbols BTC/USDT ETH/USDT --candles 8000
    python train_v2_production.py --preset pooled --candles-dir DIR --horizons 1 4 24

The run ends with a verdict: does the network forecast better than forecasts that cost nothing
(naive, drift) or little (ridge, XGBoost)? NO EDGE is a normal, useful result.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import BASELINE_OPTIONS, FIT_OPTIONS, PRESETS_V2, ConfigV2, default_output_dir, options
from data_fetcher import CandleSet, fetch_candles
from feature_engineering import V2_WARMUP, choose_preset_features, compute_market
from inference_v2 import FILES
from pipeline import hub, terminal
from pipeline.bundle import files
from pipeline.bundle.network import import_keras
from pipeline.candles.schema import PUBLISHED
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import (
    HELD_OUT,
    INTERVAL_BASELINES,
    Forecasts,
    forecast_alone,
    forecast_test,
)
from pipeline.report import run_page, tables
from pipeline.samples.pooled_features import POOLED_MARKET_FEATURES
from pipeline.samples.scaling import ScaledSamples, Scalers, scale_on_train
from pipeline.samples.splitting import Split, split_samples
from pipeline.samples.windows import Samples, make_windows
from pipeline.training import device, jobs
from pipeline.training.horizons import run_horizons
from pipeline.training.walk_forward import fold_splits, run_folds

NETWORK = "lstm"  # the network's name in tables and files
BuildNetwork = Callable[[ConfigV2, int], Any]


def main(config: ConfigV2 = ConfigV2(), build: BuildNetwork | None = None) -> dict[str, Any]:
    """Run the nine phases and save the bundle.

    Args:
        config: Of the run.
        build: Makes the untrained network from the config and the number of features;
            `build_network` by default.

    Returns:
        The content of metrics_v2.json.

    Raises:
        ValueError: Bad settings or bad candles; says what, where, value and remedy.
    """
    config.check()
    build = build or build_network
    output_dir = Path(
        config.output_dir or default_output_dir("v2")
    ).absolute()  # workers may stand elsewhere
    settings = files.settings_of(
        config, leave_out=("output_dir", "cache_dir", "workers", "resume", "push_to_hub")
    )
    push = hub.push_when_done(config.push_to_hub)
    with (
        files.new_bundle(output_dir, FILES.metadata, FILES.bundle) as partial,
        terminal.terminal_log(partial / FILES.log, append=config.resume),
    ):
        phases = terminal.Phases(9)
        phases.start("Fetch", f"{config.timeframe} candles")
        interrupted = (
            files.interrupted_run(partial, settings, FILES.metadata) if config.resume else None
        )
        market = fetch(config, interrupted)
        if interrupted is None:
            files.begin_run(partial, settings, market.fingerprint(), FILES.log)

        phases.start("Features", "each looks only backwards")
        feature_cols = choose_preset_features(
            config.preset, market.candles, config.timeframe, config.candles
        )
        features = compute_market(market.candles, config.timeframe, feature_cols)
        terminal.tell(f"{len(feature_cols)} features, {V2_WARMUP} candles of warm-up")

        phases.start(
            "Windows", f"{config.lookback} candles each, the target {config.horizon} ahead"
        )
        samples = make_windows(
            features, market.candles, config.timeframe, config.lookback, config.horizon, V2_WARMUP
        )
        del features  # the samples hold them
        terminal.tell(f"{len(samples):,} samples")

        phases.start("Split", "by clock time, every symbol at the same instants")
        *earlier, parts = split(samples, config)

        phases.start("Scale", "fitted on the training part alone")
        scaled, scalers = scale_on_train(samples, parts)

        phases.start("Baselines", ", ".join(BASELINE_NAMES))
        baselines = fit_baselines(scaled, scalers.y, **options(config, BASELINE_OPTIONS))
        terminal.tell(
            "validation chose " + ", ".join(f"{k} {v:.3g}" for k, v in baselines.settings.items())
        )

        phases.start(
            "Build",
            "dual-stream network" + (f", {config.ensemble} of them" if config.ensemble > 1 else ""),
        )
        terminal.tell(device.describe(build(config, len(feature_cols))))

        phases.start("Train", f"{len(parts.train):,} windows, batches of {config.batch_size}")
        of_fold = functools.partial(forecast_fold, samples, market, config, build)
        folds = run_folds(earlier, of_fold, partial, workers=config.workers)
        history = train(scaled, config, partial, build)

        phases.start("Evaluate", "forecasts out of sample")
        saved = partial / FILES.model
        forecasts = forecast_test(
            NETWORK, saved, scaled, scalers, baselines, market.candles, refit=config.refit
        )
        folds.append(forecasts.predictions)
        metrics = {
            "data": market.provenance(),
            "split": parts.facts(samples.target_time),
            "cuts": parts.cuts(),
            **evaluate(folds, market, config),
            "calibration": forecasts.calibration.as_dict(),
            "baseline_settings": baselines.settings,
        }
        section = compare_members(metrics, forecasts, scaled, scalers, history, config, partial)
        predictions = pd.concat(folds)
        page = run_page.html_report(
            metrics, predictions, history, settings, generation="v2", sections=section
        )
        scaler_file = {"X": scalers.X, "y": scalers.y, **forecasts.as_dict()}
        files.save_run(
            partial,
            FILES,
            settings,
            samples.facts(),
            forecasts.reference,
            scaler_file,
            history,
            metrics,
            predictions,
            page,
        )
        terminal.tell(f"bundle: {output_dir.resolve()}, {phases.seconds:.0f} s in all")
        print(tables.verdict_banner(metrics["test"]))
    push(output_dir)
    return metrics


def fetch(config: ConfigV2, interrupted: dict[str, Any] | None) -> CandleSet:
    """Candles of every symbol; on resumption those of the interrupted run, or a ValueError."""
    market = fetch_candles(
        config.symbols,
        config.timeframe,
        config.candles and config.candles + V2_WARMUP,
        source=config,
        published=tuple(PUBLISHED),
        end_ms=interrupted["end_ms"] if interrupted else None,
    )
    files.demand_same_candles(interrupted, market.fingerprint())
    terminal.tell(*market.describe())
    return market


def split(samples: Samples, config: ConfigV2) -> list[Split]:
    """One split; to walk forward, one a fold."""
    dates = (config.train_end, config.val_end, config.test_start, config.test_end)
    parts = split_samples(
        samples, dates, train_ratio=config.train_ratio, val_ratio=config.val_ratio
    )
    terminal.tell(*parts.describe(samples.target_time))
    if not config.walk_forward:
        return [parts]
    refit_every = np.timedelta64(config.refit_every, "D")
    folds = fold_splits(
        parts, samples.target_time, refit_every, samples.target_span, is_rolling=config.rolling
    )
    terminal.tell(
        f"{len(folds)} folds of {config.refit_every} days, each with a network of its own"
    )
    return folds


def build_network(config: ConfigV2, n_features: int) -> Any:
    """The untrained network, seeded."""
    keras = import_keras()  # takes seconds, so --help and bad options do not wait for it
    from models.dual_stream import build_dual_stream

    keras.utils.set_random_seed(config.seed)
    network = (
        "lstm_units",
        "conv_filters",
        "conv_lstm_units",
        "dense_units",
        "dropout",
        "skip_candles",
    )
    return build_dual_stream(config.lookback, n_features, **options(config, network))


def train(
    scaled: ScaledSamples, config: ConfigV2, folder: Path, build: BuildNetwork
) -> dict[str, Any]:
    """Fit the network, or an ensemble's members, save the final file; returns the history, or
    member -> history."""
    if config.ensemble == 1:
        return train_network(scaled, config, folder, build)
    members = {
        folder / f"member_{n + 1}": replace(config, seed=config.seed + n)
        for n in range(config.ensemble)
    }
    todo = {
        path.name: functools.partial(train_network, scaled, member, path, build)
        for path, member in members.items()
    }
    # In this process, to spare the seconds that another takes to start; TensorFlow keeps some
    # memory of each member.
    histories = jobs.run_all(todo, own_process=False, workers=config.workers)
    for sub in (HELD_OUT, "") if config.refit else ("",):
        save_average([path / sub / FILES.model for path in members], folder / sub)
    return histories


def train_network(
    scaled: ScaledSamples, config: ConfigV2, folder: Path, build: BuildNetwork
) -> dict[str, Any]:
    """Fit one network; with --refit a second one, that learns the validation part too, calibrated
    by the first."""
    if not config.refit:
        return fit_network(scaled, config, folder, build)
    history = fit_network(scaled, config, folder / HELD_OUT, build)
    terminal.tell("again, on the validation part too")
    fit_network(
        scaled.learning_validation(), config, folder, build, kept_epoch=history["best_epoch"]
    )
    return history


def fit_network(
    scaled: ScaledSamples,
    config: ConfigV2,
    folder: Path,
    build: BuildNetwork,
    kept_epoch: int | None = None,
) -> dict[str, Any]:
    """Build and fit; the best epoch's weights, or those of the one to be kept, become the final
    file."""
    model = build(config, scaled.samples.n_features)
    import keras

    from pipeline.training.fit import Hidden, fit_to_file

    folder.mkdir(parents=True, exist_ok=True)
    hidden = Hidden(
        np.flatnonzero(np.isin(scaled.samples.feature_cols, POOLED_MARKET_FEATURES)),
        config.hidden_share,
    )
    settings = options(config, (*FIT_OPTIONS, "one_cycle", "weight_decay")) | {"hidden": hidden}
    loss = keras.losses.Huber(delta=config.huber_delta)
    return asdict(
        fit_to_file(model, scaled, folder, FILES, loss=loss, kept_epoch=kept_epoch, **settings)
    )


def save_average(paths: list[Path], folder: Path) -> None:
    """One network that is the mean of those in the files, as checkpoint, final file and twin."""
    keras = import_keras()
    from models.average import build_average
    from pipeline.training.fit import save_final, save_plain_h5

    folder.mkdir(exist_ok=True)
    average = build_average([keras.models.load_model(path, compile=False) for path in paths])
    save_plain_h5(average, folder / FILES.checkpoint)
    save_final(folder, FILES)


def forecast_fold(
    samples: Samples,
    market: CandleSet,
    config: ConfigV2,
    build: BuildNetwork,
    fold: Split,
    folder: Path,
) -> pd.DataFrame:
    """Train and forecast a fold before the last, which saw nothing later; an ensemble's members one
    after another."""
    terminal.tell(f"{folder.name.replace('_', ' ')}: trained to {fold.cuts()['train_end']}")
    scaled, scalers = scale_on_train(samples, fold)
    baselines = fit_baselines(scaled, scalers.y, **options(config, BASELINE_OPTIONS))
    train(scaled, replace(config, workers=1), folder, build)
    model = folder / FILES.model
    return forecast_test(
        NETWORK, model, scaled, scalers, baselines, market.candles, refit=config.refit
    ).predictions


def evaluate(parts: list[pd.DataFrame], market: CandleSet, config: ConfigV2) -> dict[str, Any]:
    """Score the forecasts of all folds together, and each fold's alone; every score beside the
    baselines'."""
    from pipeline.evaluation.scoring import (
        score_run,  # statsmodels, scikit-learn and arch take their time too
    )

    scores = score_run(
        parts,
        network=NETWORK,
        baselines=BASELINE_NAMES,
        interval_baselines=INTERVAL_BASELINES,
        timeframe=config.timeframe,
        horizon=config.horizon,
        synthetic=market.is_synthetic,
        fee_bps=config.fee_bps,
        threshold=config.threshold,
        funding=market.funding,
    )
    print(tables.terminal_tables(scores))
    return scores


def compare_members(
    metrics: dict[str, Any],
    forecasts: Forecasts,
    scaled: ScaledSamples,
    scalers: Scalers,
    history: dict[str, Any],
    config: ConfigV2,
    partial: Path,
) -> list[str]:
    """Score an ensemble's members, for the metrics, the terminal and the report, whose section this
    returns."""
    if config.ensemble == 1:
        return []
    from pipeline.evaluation import members

    paths, shrunk_by = (
        [partial / name / FILES.model for name in history],
        options(config, ("caution", "refit")),
    )
    alone = [forecast_alone(path, scaled, scalers, **shrunk_by) for path in paths]
    seeds, histories = range(config.seed, config.seed + config.ensemble), list(history.values())
    told = members.score_members(
        forecasts.predictions, NETWORK, alone, seeds, histories, config.horizon
    )
    metrics["ensemble"] = told
    print(members.terminal_table(told, n_folds=len(metrics["folds"])))
    return members.report_section(told, n_folds=len(metrics["folds"]))


if __name__ == "__main__":
    import tyro

    with terminal.one_line_errors(
        after_interrupt="; the previous bundle is complete, --resume goes on"
    ):
        asked = re.search(
            r"--preset[ =](\w+)", " ".join(sys.argv)
        )  # it decides what the other options default to
        defaults = PRESETS_V2.get(asked[1] if asked else "guide", ConfigV2())
        run_horizons(
            main,
            tyro.cli(ConfigV2, default=defaults, description=__doc__),
            default_output_dir("v2"),
        )
