"""Train v2: from candles to a saved model and a verdict, in nine phases.

    python train_v2_production.py
    python train_v2_production.py --candles-dir DIR --symbols BTC/USDT ETH/USDT --candles 8000
    python train_v2_production.py --preset pooled --output-dir all_models/v2_pooled
    python train_v2_production.py --horizons 1 4 24 --output-dir all_models/v2_ahead

The run ends with a verdict: does the network forecast better than the baselines (naive, drift,
reversal, LAD, ridge, XGBoost)? NO EDGE is a normal, useful result.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import PRESETS_V2, ConfigV2
from feature_engineering import (
    V2_WARMUP,
    choose_preset_features,
    compute_market,
    group_features,
    probe_preset,
)
from inference_v2 import FILES
from pipeline import options, script, terminal
from pipeline.bundle.network import seeded_keras
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import PUBLISHED
from pipeline.forecasts.baselines import BASELINE_NAMES, Baselines, fit_baselines
from pipeline.forecasts.test_part import (
    NETWORK,
    Forecasts,
    SavedNetwork,
    forecast_alone,
    forecast_test,
)
from pipeline.report import run_page, run_text, sentences, tables
from pipeline.run import folder_of, open_run
from pipeline.samples.pooled_features import POOLED_MARKET_FEATURES
from pipeline.samples.scaling import ScaledSamples, Scalers, scale_on_train
from pipeline.samples.splitting import Split, split_samples
from pipeline.samples.windows import Samples, make_windows
from pipeline.training import device, recipes

BuildNetwork = Callable[[ConfigV2, int], Any]


def main(config: ConfigV2 = ConfigV2(), build: BuildNetwork | None = None) -> dict[str, Any]:
    """Run the nine phases and save the bundle.

    Args:
        config: Settings of the run.
        build: Makes the untrained network from the config and the number of features;
            `build_network` by default.

    Returns:
        The content of metrics_v2.json.

    Raises:
        ValueError: Bad settings or bad candles; says what, where, value and remedy.
    """
    build = build or build_network
    with open_run(config, "v2", FILES, probe_preset(config.preset)) as run:
        # Candles: one frame a symbol, closed candles only, sorted; gaps are kept as gaps. Funding
        # and open interest come along where a futures exchange publishes them.
        run.phase("Fetch", f"{config.timeframe} candles")
        market = run.fetch(config.timeframe, V2_WARMUP, published=tuple(PUBLISHED))

        # Features: a table a symbol, (n_candles, n_features) float64. Row t looks at candles up to
        # t, never later. The first V2_WARMUP rows are dropped: indicators still remember nothing.
        run.phase("Features", "each looks only backwards")
        feature_cols = choose_preset_features(
            config.preset, market.candles, config.timeframe, config.candles
        )
        features = compute_market(market.candles, config.timeframe, feature_cols, config.preset)
        terminal.tell(f"{len(feature_cols)} features, {V2_WARMUP} candles of warm-up")

        # Windows: sample i is the `lookback` rows that end with candle t. Its target is the
        # log-return ln(close[t + horizon] / close[t]). A window across a gap is no sample.
        run.phase("Windows", f"{config.lookback} candles each, the target {config.horizon} ahead")
        samples = make_windows(
            features, market.candles, config.timeframe, config.lookback, config.horizon, V2_WARMUP
        )
        del features  # the samples hold them
        terminal.tell(f"{len(samples):,} samples")

        # Split by clock time: every symbol is cut at the same instants, so that no coin's past is
        # another one's future. Targets that reach across a cut are purged.
        run.phase("Split", "by clock time, every symbol at the same instants")
        whole = split_samples(samples, config)
        terminal.tell(*whole.describe(samples.target_time))
        *earlier, split = recipes.split_into_folds(samples, whole, config)

        # Scale: each feature to mean 0 and deviation 1; the target divided by the candle's
        # volatility first, so that coins of any temper can be pooled. Fitted on training candles,
        # each once; a feature that never changes in them is dropped.
        run.phase("Scale", "fitted on the training part alone")
        scaled, scalers = scale_on_train(samples, split)

        # Baselines: fitted on the same samples, for the same target; validation chooses their
        # settings as it does the network's.
        run.phase("Baselines", ", ".join((*BASELINE_NAMES, *config.baselines)))
        baselines = fit_small_models(scaled, scalers, config)
        fitted = (f"{name} {value:.3g}" for name, value in baselines.settings.items())
        terminal.tell_list(fitted)

        # Build: (batch, lookback, n_features) -> (batch, 1), the scaled log-return.
        several = f", {config.ensemble} of them" if config.ensemble > 1 else ""
        run.phase("Build", f"dual-stream network{several}")
        terminal.tell(device.describe(build(config, scaled.samples.n_features)))

        # Train: on the training part; validation decides when to stop. Each earlier fold (with
        # --walk-forward) is trained, saved and forecast by itself, and knows nothing later.
        run.phase("Train", f"{len(split.train):,} windows, batches of {config.batch_size}")
        of_fold = functools.partial(forecast_fold, samples, market, config, build)
        parts = recipes.run_folds(earlier, of_fold, run.folder, workers=config.workers)
        judged = recipes.judged_folder(config, run.folder)
        history = train(scaled, config, judged, build)

        # Evaluate: the saved file forecasts the test part, as serving will. Every score stands
        # beside the baselines', and a verdict with a test statistic beside every score.
        run.phase("Evaluate", "forecasts out of sample")
        saved = SavedNetwork(judged / FILES.model, scalers, config.refit)
        forecasts = forecast_test(saved, scaled, baselines, market.candles)
        parts.append(forecasts.predictions)
        metrics = {
            "data": market.provenance(),
            "split": split.facts(samples.target_time),
            "cuts": split.cuts(),
            **run.score(parts, market, [*earlier, split]),
            "calibration": forecasts.calibration.as_dict(),
            "baseline_settings": baselines.settings,
            "importance": find_importance(saved, scaled, forecasts, config),
        }
        sections = compare_members(metrics, saved, forecasts.predictions, scaled, history, config)

        # The network that is served may learn the newest candles too, once the verdict stands.
        if config.final_fit:
            fit_one = functools.partial(fit_network, build)
            recipes.final_fit(fit_one, scaled, config, run.folder, FILES, history)

        # Save: network, scalers, numbers, forecasts, report and log, moved into place as one.
        forecasts = replace(forecasts, predictions=pd.concat(parts))
        facts = {"preset": config.preset}
        run.save(
            scaled.samples, scalers, forecasts, history, metrics, facts=facts, sections=sections
        )
    return metrics


def build_network(config: ConfigV2, n_features: int) -> Any:
    """The untrained network, seeded."""
    seeded_keras(config.seed)  # takes seconds, so --help and bad options do not wait for it
    from models.dual_stream import build_dual_stream

    return build_dual_stream(
        config.lookback,
        n_features,
        lstm_units=config.lstm_units,
        conv_filters=config.conv_filters,
        conv_lstm_units=config.conv_lstm_units,
        dense_units=config.dense_units,
        dropout=config.dropout,
        skip_candles=config.skip_candles,
    )


def train(
    scaled: ScaledSamples, config: ConfigV2, folder: Path, build: BuildNetwork
) -> dict[str, Any]:
    """Train as the settings say (`recipes.train`); returns the history, or member -> history."""
    fit_one = functools.partial(fit_network, build)
    return recipes.train(fit_one, scaled, config, folder, FILES)


def fit_network(
    build: BuildNetwork,
    scaled: ScaledSamples,
    config: ConfigV2,
    folder: Path,
    *,
    kept_epoch: int | None = None,
) -> dict[str, Any]:
    """Build one network and fit it; the best epoch's weights become the file in the folder.

    Args:
        build: Makes the untrained network.
        scaled: Samples and split.
        config: Settings of the run; of an ensemble's member, with its own seed.
        folder: Where the network's files go.
        kept_epoch: See `fit`.

    Returns:
        Losses and step sizes by epoch.
    """
    model = build(config, scaled.samples.n_features)
    import keras

    from pipeline.training.fit import Hidden, Objective, fit_to_file

    folder.mkdir(parents=True, exist_ok=True)
    # Some windows lack what Bitcoin and the market did, so that a forecast may lack it too.
    is_market = np.isin(scaled.samples.feature_cols, POOLED_MARKET_FEATURES)
    objective = Objective(
        loss=keras.losses.Huber(delta=config.huber_delta),
        hidden=Hidden(np.flatnonzero(is_market), config.hidden_share),
    )
    history = fit_to_file(model, scaled, objective, config, folder, FILES, kept_epoch=kept_epoch)
    return asdict(history)


def fit_small_models(scaled: ScaledSamples, scalers: Scalers, config: ConfigV2) -> Baselines:
    """The baselines, shrunk with the same caution as the network and refitted if it is."""
    return fit_baselines(
        scaled,
        scalers.y,
        seed=config.seed,
        caution=config.caution,
        refit=config.refit,
        further=config.baselines,
    )


def forecast_fold(
    samples: Samples,
    market: CandleSet,
    config: ConfigV2,
    build: BuildNetwork,
    fold: Split,
    folder: Path,
) -> pd.DataFrame:
    """Train on a fold before the last one, and forecast its test part; nothing later is seen."""
    name = folder.name.replace("_", " ")
    terminal.tell(f"{name}: trained to {fold.cuts()['train_end']}")
    scaled, scalers = scale_on_train(samples, fold)
    baselines = fit_small_models(scaled, scalers, config)
    train(scaled, replace(config, workers=1), folder, build)  # folds may be side by side already
    saved = SavedNetwork(folder / FILES.model, scalers, config.refit)
    return forecast_test(saved, scaled, baselines, market.candles).predictions


def find_importance(
    saved: SavedNetwork, scaled: ScaledSamples, forecasts: Forecasts, config: ConfigV2
) -> dict[str, Any] | None:
    """What the served network relies on, told in a line; of several folds, that of the last."""
    from pipeline.evaluation.importance import permutation_importance

    groups = group_features(scaled.samples.feature_cols)
    terminal.tell(f"what {len(groups)} groups of features are worth …")
    found = permutation_importance(
        saved, scaled, forecasts.calibration.shrinkage, groups, seed=config.seed
    )
    if found is not None:
        terminal.tell_list(sentences.importance_items(found))
    return found


def compare_members(
    metrics: dict[str, Any],
    saved: SavedNetwork,
    predictions: pd.DataFrame,
    scaled: ScaledSamples,
    history: dict[str, Any],
    config: ConfigV2,
) -> list[str]:
    """Score an ensemble's members for metrics and terminal; returns the report's section."""
    if config.ensemble == 1:
        return []
    from pipeline.evaluation.members import score_members

    alone = []
    for name in history:
        member = replace(saved, path=saved.path.parent / name / FILES.model)
        alone.append(forecast_alone(member, scaled, caution=config.caution))
    seeds = range(config.seed, config.seed + config.ensemble)
    told = score_members(predictions, NETWORK, alone, seeds, list(history.values()), config.horizon)
    metrics["ensemble"] = told
    n_folds = len(metrics["folds"])
    print(run_text.member_table(told, n_folds=n_folds))
    return run_page.members_section(told, n_folds=n_folds)


def read_options() -> ConfigV2:
    """The settings of the command line; `--preset` decides what the other options default to."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="guide")
    preset = first.parse_known_args()[0].preset
    defaults = PRESETS_V2.get(preset, ConfigV2())  # an unknown one is refused by name below
    return options.read_settings(ConfigV2, defaults, __doc__)


def train_horizons(config: ConfigV2) -> list[script.Judged]:
    """`main` for the command: one run, or one for each of the horizons."""
    folder = folder_of(config, "v2")
    if not config.horizons:
        return [script.Judged(main(config), folder, FILES.report, config.horizon)]
    found = recipes.run_horizons(main, config, folder)
    tests = {horizon: metrics["test"] for horizon, metrics in found.items()}
    rows = tables.horizon_rows(tests)
    terminal.tell("", *tables.text_table(rows, indent="").splitlines())
    return [
        script.Judged(metrics, folder / f"h{horizon}", FILES.report, horizon)
        for horizon, metrics in found.items()
    ]


if __name__ == "__main__":
    script.run(
        read_options,
        train_horizons,
        lambda config, folder: script.forecast_commands(config, config.timeframe, folder),
        "v2",
        FILES.metadata,
    )
