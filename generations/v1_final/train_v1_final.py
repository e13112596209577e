"""Train v1-final, the training report's network for the next price itself: from candles to a saved
model and a verdict.

    python -m generations.v1_final.train_v1_final
    python -m generations.v1_final.train_v1_final --candles-dir DIR --symbols BTC/USDT ETH/USDT
    --candles 2000

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

from config import FIT_OPTIONS, ConfigV1Final, default_output_dir, options
from data_fetcher import CandleSet, fetch_candles
from generations.v1_final.features import V1_FINAL_FEATURES, V1_FINAL_WARMUP, compute_level_features
from generations.v1_final.inference import FILES
from generations.v1_final.prices import scale_prices_on_train
from pipeline import hub, terminal
from pipeline.bundle import files
from pipeline.bundle.network import import_keras
from pipeline.evaluation.price_errors import price_error_rows, price_errors, sample_rows
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import INTERVAL_BASELINES, forecast_test
from pipeline.report import run_page, tables
from pipeline.samples.scaling import ScaledSamples, scale_on_train
from pipeline.samples.splitting import Split, split_samples
from pipeline.samples.windows import Samples, make_windows
from pipeline.training import device

NETWORK = "lstm"
"""the network's name in tables and files"""


def main(
    config: ConfigV1Final = ConfigV1Final(), build: Callable[[ConfigV1Final], Any] | None = None
) -> dict[str, Any]:
    """Run the nine phases and save the bundle.

    Args:
        config: Of the run.
        build: Makes the untrained network; `build_network` by default.

    Returns:
        The content of metrics_v1_final.json.

    Raises:
        ValueError: Bad settings or bad candles; says what, where, value and remedy.
    """
    config.check()
    output_dir = Path(config.output_dir or default_output_dir("v1_final"))
    settings = files.settings_of(
        config, leave_out=("output_dir", "cache_dir", "resume", "push_to_hub")
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

        phases.start("Features", "the report's 14, each looks only backwards")
        features = {
            s: compute_level_features(c, config.timeframe) for s, c in market.candles.items()
        }

        phases.start(
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

        phases.start("Split", "by clock time, every symbol at the same instants")
        parts = split(samples, config)

        phases.start("Scale", "fitted on the training part alone, the network's per symbol")
        returns, return_scalers = scale_on_train(
            samples, parts
        )  # the small models forecast log-returns, as in v2
        prices, scalers = scale_prices_on_train(samples, parts)

        phases.start("Baselines", ", ".join(BASELINE_NAMES))
        baselines = fit_baselines(returns, return_scalers.y, seed=config.seed)

        phases.start("Build", "dual-stream network with two inputs")
        model = (build or build_network)(config)

        phases.start("Train", f"{len(parts.train):,} windows, batches of {config.batch_size}")
        history = train(model, prices, config, partial)

        phases.start("Evaluate", "forecasts out of sample, the network's as they are: no shrinkage")
        forecasts = forecast_test(
            NETWORK,
            partial / FILES.model,
            prices,
            scalers,
            baselines,
            market.candles,
            is_shrunk=False,
        )
        metrics = {
            "data": market.provenance(),
            "split": parts.facts(samples.target_time),
            "cuts": parts.cuts(),
            **evaluate(forecasts.predictions, market, config),
            "calibration": forecasts.calibration.as_dict(),
            "baseline_settings": baselines.settings,
        }
        page = run_page.html_report(
            metrics, forecasts.predictions, history, settings, generation="v1-final"
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
            forecasts.predictions,
            page,
        )
        terminal.tell(f"bundle: {output_dir.resolve()}, {phases.seconds:.0f} s in all")
        print(tables.verdict_banner(metrics["test"]))
    push(output_dir)
    return metrics


def fetch(config: ConfigV1Final, interrupted: dict[str, Any] | None) -> CandleSet:
    """Candles of every symbol; on resumption those of the interrupted run, or a ValueError."""
    market = fetch_candles(
        config.symbols,
        config.timeframe,
        config.candles and config.candles + V1_FINAL_WARMUP,
        source=config,
        end_ms=interrupted["end_ms"] if interrupted else None,
    )
    files.demand_same_candles(interrupted, market.fingerprint())
    terminal.tell(*market.describe())
    return market


def split(samples: Samples, config: ConfigV1Final) -> Split:
    """By dates if they are given, else by shares of the time span."""
    dates = (config.train_end, config.val_end, config.test_start, config.test_end)
    parts = split_samples(
        samples, dates, train_ratio=config.train_ratio, val_ratio=config.val_ratio
    )
    terminal.tell(*parts.describe(samples.target_time))
    return parts


def build_network(config: ConfigV1Final) -> Any:
    """The untrained network, seeded."""
    keras = import_keras()  # takes seconds, so --help and bad options do not wait for it
    from models.price_level import build_price_level

    keras.utils.set_random_seed(config.seed)
    layers = options(config, ("lstm_units", "conv_filters", "conv_lstm_units", "dense_units"))
    model = build_price_level(config.lookback, len(V1_FINAL_FEATURES), **layers)
    terminal.tell(device.describe(model))
    return model


def train(
    model: Any, prices: ScaledSamples, config: ConfigV1Final, partial: Path
) -> dict[str, Any]:
    """Fit the network; the best epoch's weights become the final file."""
    import keras

    from pipeline.training.fit import fit_to_file

    loss = keras.losses.Huber(delta=config.huber_delta)
    return asdict(
        fit_to_file(model, prices, partial, FILES, loss=loss, **options(config, FIT_OPTIONS))
    )


def evaluate(predictions: pd.DataFrame, market: CandleSet, config: ConfigV1Final) -> dict[str, Any]:
    """Score the forecasts as log-returns, every score beside the baselines'; then the report's own
    table of prices."""
    from pipeline.evaluation.scoring import (
        score_run,  # statsmodels, scikit-learn and arch take their time too
    )

    scores = score_run(
        [predictions],
        network=NETWORK,
        baselines=BASELINE_NAMES,
        interval_baselines=INTERVAL_BASELINES,
        synthetic=market.is_synthetic,
        funding=market.funding,
        **options(config, ("timeframe", "horizon", "fee_bps", "threshold")),
    )
    print(tables.terminal_tables(scores))
    errors = files.plain(price_errors(predictions, ("naive", NETWORK)))
    print(tables.text_table(price_error_rows(errors)), end="\n\n")
    print(tables.text_table(sample_rows(predictions, ("naive", NETWORK))))
    return {**scores, "price_errors": errors}


if __name__ == "__main__":
    import tyro

    with terminal.one_line_errors(
        after_interrupt="; the previous bundle is complete, --resume goes on"
    ):
        main(tyro.cli(ConfigV1Final, description=__doc__))
