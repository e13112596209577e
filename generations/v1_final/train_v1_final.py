"""Train v1-final, the training report's network for the next price itself, in nine phases.

    python -m generations.v1_final.train_v1_final
    python -m generations.v1_final.train_v1_final --candles-dir DIR --symbols BTC/USDT

The run prints the report's table (MAE, RMSE, MAPE, error distribution, sample predictions) with the
forecast of no change beside it, and ends with a verdict. A network of price levels is expected to
lose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from config import ConfigV1Final
from generations.v1_final.features import V1_FINAL_WARMUP, compute_level_features
from generations.v1_final.inference import FILES
from generations.v1_final.prices import scale_prices_on_train
from pipeline import script, terminal
from pipeline.bundle import files
from pipeline.bundle.network import seeded_keras
from pipeline.evaluation.price_errors import price_errors
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import NETWORK, SavedNetwork, forecast_test
from pipeline.report import tables
from pipeline.run import open_run
from pipeline.samples.probe import probe
from pipeline.samples.scaling import ScaledSamples, scale_on_train
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import make_windows
from pipeline.training import device


def main(
    config: ConfigV1Final = ConfigV1Final(),
    build: Callable[[ConfigV1Final, int], Any] | None = None,
) -> dict[str, Any]:
    """Run the nine phases and save the bundle.

    Args:
        config: Settings of the run.
        build: Makes the untrained network from the config and the number of features;
            `build_network` by default.

    Returns:
        The content of metrics_v1_final.json.

    Raises:
        ValueError: Bad settings or bad candles; says what, where, value and remedy.
    """
    with open_run(config, "v1-final", FILES, probe(compute_level_features)) as run:
        # Candles: one frame a symbol, closed candles only, sorted; gaps are kept as gaps.
        run.phase("Fetch", f"{config.timeframe} candles")
        market = run.fetch(config.timeframe, V1_FINAL_WARMUP)

        # Features: (n_candles, 14) a symbol. Prices and volume themselves are among them, which is
        # why each symbol has scalers of its own below.
        run.phase("Features", "the report's 14, each looks only backwards")
        features = {
            symbol: compute_level_features(candles, config.timeframe)
            for symbol, candles in market.candles.items()
        }

        # Windows: sample i is the `lookback` rows that end with candle t; its target is the price
        # close[t + horizon].
        run.phase(
            "Windows",
            f"{config.lookback} candles each, the target the price {config.horizon} ahead",
        )
        samples = make_windows(
            features,
            market.candles,
            config.timeframe,
            config.lookback,
            config.horizon,
            V1_FINAL_WARMUP,
        )
        terminal.tell(f"{len(samples):,} samples")

        # Split by clock time, so that no coin's past is another one's future.
        run.phase("Split", "by clock time, every symbol at the same instants")
        split = split_samples(samples, config)
        terminal.tell(*split.describe(samples.target_time))

        # Scale: the network sees features of mean 0 and deviation 1 and forecasts a price between 0
        # and 1, per symbol. The small models forecast log-returns, as in v2. A feature that never
        # changes in the training part is dropped.
        run.phase("Scale", "fitted on the training part alone, the network's per symbol")
        returns, return_scalers = scale_on_train(samples, split)
        prices, scalers = scale_prices_on_train(samples, split)

        run.phase("Baselines", ", ".join(BASELINE_NAMES))
        baselines = fit_baselines(returns, return_scalers.y, seed=config.seed)

        # Build: the same (batch, lookback, 14) windows twice -> (batch, 1), the scaled price.
        run.phase("Build", "dual-stream network with two inputs")
        model = (build or build_network)(config, prices.samples.n_features)

        run.phase("Train", f"{len(split.train):,} windows, batches of {config.batch_size}")
        history = train(model, prices, config, run.folder)

        # Evaluate: forecast prices become log-returns, so that they can be compared with the
        # baselines'. They are not shrunk: the report's network forecasts a level.
        run.phase("Evaluate", "forecasts out of sample, the network's as they are: no shrinkage")
        saved = SavedNetwork(run.folder / FILES.model, scalers)
        forecasts = forecast_test(saved, prices, baselines, market.candles, is_shrunk=False)
        metrics = {
            "data": market.provenance(),
            "split": split.facts(samples.target_time),
            "cuts": split.cuts(),
            **run.score([forecasts.predictions], market),
            "price_errors": compare_prices(forecasts.predictions),
            "calibration": forecasts.calibration.as_dict(),
            "baseline_settings": baselines.settings,
        }
        run.save(prices.samples, scalers, forecasts, history, metrics)
    return metrics


def build_network(config: ConfigV1Final, n_features: int) -> Any:
    """The untrained network, seeded."""
    seeded_keras(config.seed)  # takes seconds, so --help and bad options do not wait for it
    from models.price_level import build_price_level

    model = build_price_level(
        config.lookback,
        n_features,
        lstm_units=config.lstm_units,
        conv_filters=config.conv_filters,
        conv_lstm_units=config.conv_lstm_units,
        dense_units=config.dense_units,
    )
    terminal.tell(device.describe(model))
    return model


def train(model: Any, prices: ScaledSamples, config: ConfigV1Final, folder: Path) -> dict[str, Any]:
    """Fit the network; the best epoch's weights become the final file."""
    import keras

    from pipeline.training.fit import Objective, fit_to_file

    objective = Objective(keras.losses.Huber(delta=config.huber_delta))
    return asdict(fit_to_file(model, prices, objective, config, folder, FILES))


def compare_prices(predictions: pd.DataFrame) -> dict[str, Any]:
    """The report's own table of prices, with naive beside the network, printed."""
    errors = files.plain(price_errors(predictions, ("naive", NETWORK)))
    print(tables.text_table(tables.price_error_rows(errors)), end="\n\n")
    print(tables.text_table(tables.sample_rows(predictions, ("naive", NETWORK))))
    return errors


if __name__ == "__main__":
    script.run_bundle(
        ConfigV1Final(),
        main,
        __doc__,
        "v1-final",
        FILES,
        "generations.v1_final.inference.CryptoPricePredictorV1Final",
    )
