"""Train v9's three models, direction, volatility and price, in ten phases, with a verdict on each.

    python -m generations.v9.btc_1h_v9_training
    python -m generations.v9.btc_1h_v9_training --candles-dir DIR --symbols BTC/USDT --candles 10000

Each model is measured beside its baselines. The direction has the majority, the last move and a
logistic regression; the volatility has EWMA and HAR; the price has naive, drift, ridge and XGBoost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from config import ConfigV9, SourceConfig
from generations.v9 import score_tables
from generations.v9.direction import DIRECTION_BASELINES, direction_samples, fit_direction_baselines
from generations.v9.features import V9_FEATURES, V9_WARMUP, compute_v9_features
from generations.v9.inference import DIRECTION_FILE, FILES, RESULTS_FILE, VOLATILITY_FILE
from generations.v9.scaling import to_min_max
from generations.v9.three_models import forecast_combined
from generations.v9.volatility import VolatilitySamples, fit_trees, volatility_samples
from pipeline import script, terminal
from pipeline.bundle import files
from pipeline.bundle.network import seeded_keras
from pipeline.candles import store
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import expand_symbols
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import SavedNetwork, forecast_test
from pipeline.run import open_run
from pipeline.samples.probe import probe
from pipeline.samples.scaling import ScaledSamples, scale_on_train
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import make_windows
from pipeline.training import device

BuildNetwork = Callable[[ConfigV9, int], Any]
DATA_DIR = Path("data")
"""where the document puts BTCUSDT_1h.csv by hand"""


def main(
    config: ConfigV9 = ConfigV9(),
    build_direction: BuildNetwork | None = None,
    build_price: BuildNetwork | None = None,
) -> dict[str, Any]:
    """Run the ten phases and save the bundle.

    Args:
        config: Settings of the run.
        build_direction: Makes the untrained direction network from the config and the number of
            features; `build_direction_network` by default.
        build_price: Makes the untrained price network, likewise; `build_price_network` by default.

    Returns:
        The content of metrics_v9.json.

    Raises:
        ValueError: Bad settings or bad candles; says what, where, value and remedy.
    """
    with open_run(config, "v9", FILES, probe(compute_v9_features), n_phases=10) as run:
        # Candles: one frame a symbol, closed candles only, sorted; gaps are kept as gaps.
        run.phase("Fetch", f"{config.timeframe} candles")
        market = run.fetch(config.timeframe, V9_WARMUP, source=choose_source(config))

        # Features: (n_candles, 46) float64 a symbol. Row t looks at candles up to t, never later.
        run.phase("Features", f"{len(V9_FEATURES)}, each looks only backwards")
        features = {
            symbol: compute_v9_features(candles, config.timeframe)
            for symbol, candles in market.candles.items()
        }

        # Windows: sample i is the `lookback` rows that end with candle t. The target of direction
        # and price is ln(close[t + horizon] / close[t]), its sign and its size. The volatility has
        # samples of its own, whose target is the variance of the next `volatility_horizon` candles.
        run.phase("Windows", f"{config.lookback} candles each")
        windows = (features, market.candles, config.timeframe, config.lookback)
        samples = make_windows(*windows, config.horizon, V9_WARMUP)
        samples_ahead = make_windows(*windows, config.volatility_horizon, V9_WARMUP)
        n_ahead = f"{len(samples_ahead):,} for the volatility"
        terminal.tell(f"{len(samples):,} for direction and price, {n_ahead}")

        # Split by clock time, all three models at the same instants.
        run.phase("Split", "by clock time, every symbol at the same instants")
        split = split_samples(samples, config)
        terminal.tell(*split.describe(samples.target_time))

        # Scale: the three models see features between 0 and 1, the small models features of mean 0
        # and deviation 1. The price's target is divided by the candle's volatility, as in v2. A
        # feature that never changes in the training part is dropped.
        run.phase("Scale", "fitted on the training part alone")
        standardised, return_scalers = scale_on_train(samples, split)
        scaled, scalers = to_min_max(standardised, return_scalers)
        n_features = scaled.samples.n_features

        # Baselines: of the price, of the direction, and HAR, which the volatility model corrects.
        run.phase("Baselines", ", ".join((*BASELINE_NAMES, *DIRECTION_BASELINES, "har")))
        baselines = fit_baselines(standardised, return_scalers.y, seed=config.seed)
        direction_baselines = fit_direction_baselines(direction_samples(standardised))
        volatility = volatility_samples(market.candles, samples_ahead, split)

        # Direction: (batch, lookback, 46) -> (batch, 1), the probability of a rise. Candles that do
        # not move have no direction and are left out.
        run.phase("Direction", "bidirectional LSTM with attention")
        model = (build_direction or build_direction_network)(config, n_features)
        direction_history = train_direction(model, direction_samples(scaled), config, run.folder)

        # Volatility: (n, lookback * 46) -> (n,), the realised variance over HAR's forecast of it.
        n_inputs = config.lookback * n_features
        run.phase("Volatility", f"trees on {n_inputs:,} numbers a window")
        n_trees = train_volatility(scaled, volatility, config, run.folder)

        # Price: (batch, lookback, 46) -> (batch, 1), the scaled log-return.
        run.phase("Price", "LSTM")
        model = (build_price or build_price_network)(config, n_features)
        history = train_price(model, scaled, config, run.folder)

        # Evaluate: the saved files forecast the test part, as serving will. The validation part
        # calibrates each forecast and their combination.
        run.phase("Evaluate", "forecasts out of sample")
        saved = SavedNetwork(run.folder / FILES.model, scalers)
        forecasts = forecast_test(saved, scaled, baselines, market.candles)
        forecasts, combination = forecast_combined(
            run.folder, forecasts, scaled, scalers, volatility, market.candles, direction_baselines
        )
        scores = run.score([forecasts.predictions], market)
        metrics = {
            "data": market.provenance(),
            "split": split.facts(samples.target_time),
            "cuts": split.cuts(),
            **scores,
            **score_models(forecasts.predictions, scores, config),
            "calibration": forecasts.calibration.as_dict(),
            "ensemble": combination.as_dict(),
            "baseline_settings": baselines.settings | {"volatility_trees": n_trees},
        }

        # Save: the three models, their scalers and numbers, moved into place as one.
        files.write_json(run.folder / RESULTS_FILE, results(metrics, market))
        others = (DIRECTION_FILE, VOLATILITY_FILE)
        served = {
            "har": volatility.har.as_dict(),
            "ensemble": combination.as_dict(),
            "volatility_horizon": config.volatility_horizon,
            "sha256": {name: files.sha256_of(run.folder / name) for name in others},
        }
        histories = {**history, "direction": direction_history}
        sections = score_tables.report_section(metrics)
        run.save(
            scaled.samples, scalers, forecasts, histories, metrics, served=served, sections=sections
        )
    return metrics


def choose_source(config: ConfigV9) -> SourceConfig:
    """Where the settings say; the folder `data` where they say nothing and it has the candles."""
    if not has_own_files(config):
        return config
    terminal.tell(f"! candles from {DATA_DIR}/, which holds {config.timeframe} files of every pair")
    return replace(config, candles_dir=DATA_DIR)


def has_own_files(config: ConfigV9) -> bool:
    """Whether nothing else is asked for, and the document's `./data/BTCUSDT_1h.csv` is there."""
    if config.source != "auto" or config.candles_dir is not None or config.exchange is not None:
        return False
    symbols = expand_symbols(config.symbols)
    return all(store.find_file(DATA_DIR, symbol, config.timeframe) for symbol in symbols)


def build_direction_network(config: ConfigV9, n_features: int) -> Any:
    """The untrained direction network, seeded."""
    seeded_keras(config.seed)
    from models.multitask import build_direction

    return build_direction(
        config.lookback,
        n_features,
        lstm_units=config.direction_lstm_units,
        attention_heads=config.attention_heads,
        dense_units=config.direction_dense_units,
        dropout=config.dropout,
    )


def build_price_network(config: ConfigV9, n_features: int) -> Any:
    """The untrained price network, seeded."""
    seeded_keras(config.seed)
    from models.multitask import build_price

    return build_price(
        config.lookback,
        n_features,
        lstm_units=config.price_lstm_units,
        dense_units=config.price_dense_units,
        dropout=config.dropout,
    )


def train_direction(
    model: Any, scaled: ScaledSamples, config: ConfigV9, folder: Path
) -> dict[str, Any]:
    """Fit the direction network in a folder of its own, which holds what a resumed run needs."""
    import keras

    from pipeline.training.fit import Objective, fit_to_file

    tell_size(model, scaled)
    own = folder / "direction"
    own.mkdir(exist_ok=True)
    config = replace(
        config,
        epochs=min(config.epochs, config.direction_epochs),
        learning_rate=config.direction_learning_rate,
    )
    names = replace(FILES, model=DIRECTION_FILE, checkpoint="best.h5")
    objective = Objective(keras.losses.BinaryCrossentropy())
    history = fit_to_file(model, scaled, objective, config, own, names)
    for name in (DIRECTION_FILE, Path(DIRECTION_FILE).with_suffix(files.KERAS_SUFFIX).name):
        os.replace(own / name, folder / name)
    return asdict(history)


def train_volatility(
    scaled: ScaledSamples, volatility: VolatilitySamples, config: ConfigV9, folder: Path
) -> int:
    """Fit the trees; they take seconds, so a resumed run fits them again, to the same end."""
    n_trees = fit_trees(scaled.rows, volatility, config, folder / VOLATILITY_FILE)
    kept = f"validation kept {n_trees} of {config.trees} trees"
    terminal.tell(f"{len(volatility.split.train):,} windows, {kept}")
    return n_trees


def train_price(
    model: Any, scaled: ScaledSamples, config: ConfigV9, folder: Path
) -> dict[str, Any]:
    """Fit the price network; the best epoch's weights become the final file."""
    import keras

    from pipeline.training.fit import Objective, fit_to_file

    tell_size(model, scaled)
    objective = Objective(keras.losses.Huber(delta=config.huber_delta))
    return asdict(fit_to_file(model, scaled, objective, config, folder, FILES))


def tell_size(model: Any, scaled: ScaledSamples) -> None:
    """How large the network and its training part are, and what it runs on."""
    terminal.tell(f"{device.describe(model)}; {len(scaled.split.train):,} windows")


def score_models(
    predictions: pd.DataFrame, scores: Mapping[str, Any], config: ConfigV9
) -> dict[str, Any]:
    """Score each model and the combination beside their baselines, and print the tables.

    Args:
        predictions: The frame of `forecast_combined`.
        scores: What `score_run` found.
        config: Settings of the run.
    """
    from generations.v9 import model_scores  # statsmodels and scikit-learn take their time

    found = files.plain(
        {
            "direction": model_scores.direction_scores(predictions, config.horizon),
            "volatility": model_scores.volatility_scores(predictions, config.volatility_horizon),
            "price": model_scores.price_scores(predictions, scores["test"], BASELINE_NAMES),
            "combined": model_scores.combined_scores(predictions, config.horizon),
        }
    )
    print(score_tables.terminal_tables(found), end="\n\n")
    return found


def results(metrics: Mapping[str, Any], market: CandleSet) -> dict[str, Any]:
    """Content of v9_results.json: the document's keys, and what they must be read beside."""
    models = ("direction", "volatility", "price", "combined")
    return {
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "pair": ",".join(symbol.replace("/", "") for symbol in market.candles),
        "timeframe": market.timeframe,
        **{f"{model}_metrics": metrics[model] for model in models},
        "verdict": metrics["test"]["verdict"],
        **{name: metrics[name] for name in ("data", "split", "cuts")},
    }


if __name__ == "__main__":
    script.run_bundle(
        ConfigV9(), main, __doc__, "v9", FILES, "generations.v9.inference.CryptoPricePredictorV9"
    )
