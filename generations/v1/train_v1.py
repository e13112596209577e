"""Train v1: two timeframes of candles to a saved model and a verdict, in nine phases.

    python -m generations.v1.train_v1
    python -m generations.v1.train_v1 --candles-dir DIR --symbols BTC/USDT ETH/USDT --candles 8000

A sample sees 60 candles of 1h and the 60 of 15m that end at the same instant; the network forecasts
the quantiles q10, q50, q90 of the next hour's move. The run ends with a verdict on its median; NO
EDGE is a normal, useful result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from config import ConfigV1
from generations.v1.candles import fetch, fingerprint
from generations.v1.features import V1_FEATURES, V1_WARMUP, compute_v1_features
from generations.v1.inference import FILES
from generations.v1.timeframes import HOUR, QUARTER, add_stream, scale_streams
from pipeline import script, terminal
from pipeline.bundle.network import seeded_keras
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import SavedNetwork, forecast_test
from pipeline.run import open_run
from pipeline.samples.probe import probe
from pipeline.samples.scaling import ScaledSamples
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import make_windows
from pipeline.training import device


def main(
    config: ConfigV1 = ConfigV1(), build: Callable[[ConfigV1, int], Any] | None = None
) -> dict[str, Any]:
    """Run the nine phases and save the bundle.

    Args:
        config: Settings of the run.
        build: Makes the untrained network from the config and the number of features;
            `build_network` by default.

    Returns:
        The content of metrics_v1.json.

    Raises:
        ValueError: Bad settings or bad candles; says what, where, value and remedy.
    """
    with open_run(config, "v1", FILES, probe(compute_v1_features)) as run:
        # Candles: of each timeframe a frame a symbol, closed candles only, sorted; gaps are kept.
        # Both end at the same hour. A pair that lacks one of them is left out.
        run.phase("Fetch", f"{HOUR} and {QUARTER} candles")
        end_ms = run.stored[HOUR]["end_ms"] if run.stored else None
        market = fetch(config, end_ms)
        run.note_candles(fingerprint(market), is_synthetic=market[HOUR].is_synthetic)
        for timeframe, part in market.items():
            terminal.tell(*(f"{timeframe:>3}  {line}" for line in part.describe()))
        hours, quarters = market[HOUR], market[QUARTER]

        # Features: (n_candles, 50) float64 a symbol and timeframe, the same 50 in both. Row t looks
        # at candles up to t, never later.
        run.phase("Features", "each looks only backwards")
        features = {
            timeframe: {
                symbol: compute_v1_features(candles, timeframe)
                for symbol, candles in part.candles.items()
            }
            for timeframe, part in market.items()
        }
        warmup = f"{V1_WARMUP} candles of warm-up in each timeframe"
        terminal.tell(f"{len(V1_FEATURES)} features a candle, {warmup}")

        # Windows: sample i is the 60 hours that end with candle t, and the 60 quarters that close
        # with it. Its target is the log-return ln(close[t + horizon] / close[t]) of the hours.
        run.phase("Windows", f"{config.lookback} candles of each timeframe that end together")
        samples = make_windows(
            features[HOUR], hours.candles, HOUR, config.lookback, config.horizon, V1_WARMUP
        )
        samples, fine = add_stream(samples, features[QUARTER], quarters.candles, QUARTER, V1_WARMUP)
        terminal.tell(f"{len(samples):,} samples")

        # Split by clock time, so that no coin's past is another one's future.
        run.phase("Split", "by clock time, every symbol at the same instants")
        split = split_samples(samples, config)
        terminal.tell(*split.describe(samples.target_time))

        # Scale: each coin's features in each timeframe to mean 0 and deviation 1, clipped at 5
        # deviations; the target divided by the candle's volatility, so that coins can be pooled. A
        # feature that never changes in the training part is dropped.
        run.phase("Scale", "z-scores per coin and timeframe, fitted on the training part alone")
        scaled, scalers = scale_streams(samples, fine, split, features)

        # Baselines: fitted on the hours of the same samples, for the same target.
        run.phase("Baselines", ", ".join(BASELINE_NAMES))
        baselines = fit_baselines(scaled, scalers.y, seed=config.seed)
        fitted = (f"{name} {value:.3g}" for name, value in baselines.settings.items())
        terminal.tell_list(fitted)

        # Build: two windows of (batch, lookback, 50) -> (batch, 3), scaled q10 < q50 < q90.
        run.phase("Build", "dual-timeframe network")
        model = (build or build_network)(config, scaled.samples.n_features)

        # Train: on the training part; validation decides when to stop.
        run.phase("Train", f"{len(split.train):,} samples, batches of {config.batch_size}")
        history = train(model, scaled, config, run.folder)

        # Evaluate: the saved file forecasts the test part, as serving will. The validation part
        # calibrates the quantiles; the median is the forecast that is judged.
        run.phase("Evaluate", "forecasts out of sample")
        saved = SavedNetwork(run.folder / FILES.model, scalers)
        forecasts = forecast_test(saved, scaled, baselines, hours.candles)
        metrics = {
            "data": {**hours.provenance(), "fine": quarters.provenance()},
            "split": split.facts(samples.target_time),
            "cuts": split.cuts(),
            **run.score([forecasts.predictions], hours),
            "calibration": forecasts.calibration.as_dict(),
            "baseline_settings": baselines.settings,
        }
        facts = {"quantile_regression": config.quantile_regression}
        run.save(scaled.samples, scalers, forecasts, history, metrics, facts=facts)
    return metrics


def build_network(config: ConfigV1, n_features: int) -> Any:
    """The untrained network, seeded."""
    seeded_keras(config.seed)  # takes seconds, so --help and bad options do not wait for it
    from models import DualStreamLSTMModel

    model = DualStreamLSTMModel(config).build(n_features)
    terminal.tell(device.describe(model))
    return model


def train(model: Any, scaled: ScaledSamples, config: ConfigV1, folder: Path) -> dict[str, Any]:
    """Fit the network; the best epoch's weights become the final file."""
    from models import losses
    from pipeline.training.fit import Objective, fit_to_file

    objective = Objective(losses.pinball)
    if not config.quantile_regression:
        # This loss wants to know how far the price moved: (n_samples, 2).
        target = np.column_stack([scaled.target, scaled.samples.log_return]).astype(np.float32)
        scaled = replace(scaled, target=target)
        objective = Objective(losses.weighted_mse)
    return asdict(fit_to_file(model, scaled, objective, config, folder, FILES))


if __name__ == "__main__":
    script.run_bundle(
        ConfigV1(),
        main,
        __doc__,
        "v1",
        FILES,
        "generations.v1.inference.CryptoPricePredictorV1",
        timeframes=(HOUR, QUARTER),
    )
