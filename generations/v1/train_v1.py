"""Train v1: two timeframes of candles to a saved model and a verdict, in nine phases.

    python -m generations.v1.train_v1
    python -m generations.v1.train_v1 --candles-dir DIR --symbols BTC/USDT ETH/USDT --candles 8000

A sample sees 60 candles of 1h and the 60 of 15m that end at the same instant; the network forecasts
the quantiles q10, q50, q90 of the next hour's move. The run ends with a verdict on its median; NO
EDGE is a normal, useful result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import ConfigV1, SourceConfig, default_output_dir
from data_fetcher import CandleSet, expand_symbols, fetch_candles
from generations.v1.features import V1_FEATURES, V1_WARMUP, compute_v1_features
from generations.v1.inference import FILES, HOUR, QUARTER
from generations.v1.timeframes import add_stream, resample_candles, scale_streams
from pipeline import hub, terminal
from pipeline.bundle import files
from pipeline.bundle.network import import_keras
from pipeline.candles import synthetic
from pipeline.candles.job import ExchangeError
from pipeline.candles.schema import timeframe_ms, utc_from_ms
from pipeline.candles.store import find_span
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import INTERVAL_BASELINES, forecast_test
from pipeline.report import run_page, tables
from pipeline.samples.scaling import ScaledSamples
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import make_windows
from pipeline.training import device

logger = logging.getLogger(
    "generations.v1.train_v1"
)  # __name__ is __main__ where this is the command

NETWORK = "lstm"
"""the network's name in tables and files"""
QUARTERS_AN_HOUR = timeframe_ms(HOUR) // timeframe_ms(QUARTER)


def main(
    config: ConfigV1 = ConfigV1(), build: Callable[[ConfigV1], Any] | None = None
) -> dict[str, Any]:
    """Run the nine phases and save the bundle.

    Args:
        config: Of the run.
        build: Makes the untrained network; `build_network` by default.

    Returns:
        The content of metrics_v1.json.

    Raises:
        ValueError: Bad settings or bad candles; says what, where, value and remedy.
    """
    config.check()
    output_dir = Path(config.output_dir or default_output_dir("v1"))
    settings = files.settings_of(
        config, leave_out=("output_dir", "cache_dir", "resume", "push_to_hub")
    )
    push = hub.push_when_done(config.push_to_hub)
    with (
        files.new_bundle(output_dir, FILES.metadata, FILES.bundle) as partial,
        terminal.terminal_log(partial / FILES.log, append=config.resume),
    ):
        phases = terminal.Phases(9)
        phases.start("Fetch", f"{HOUR} and {QUARTER} candles")
        interrupted = (
            files.interrupted_run(partial, settings, FILES.metadata) if config.resume else None
        )
        market = fetch(config, interrupted)
        if interrupted is None:
            files.begin_run(partial, settings, fingerprint(market), FILES.log)
        hours, quarters = market[HOUR], market[QUARTER]

        phases.start("Features", "each looks only backwards")
        features = {
            t: {s: compute_v1_features(c, t) for s, c in part.candles.items()}
            for t, part in market.items()
        }
        terminal.tell(
            f"{len(V1_FEATURES)} features a candle, {V1_WARMUP} candles of warm-up in each "
            "timeframe"
        )

        phases.start("Windows", f"{config.lookback} candles of each timeframe that end together")
        samples = make_windows(
            features[HOUR], hours.candles, HOUR, config.lookback, config.horizon, V1_WARMUP
        )
        samples, fine = add_stream(samples, features[QUARTER], quarters.candles, QUARTER, V1_WARMUP)
        terminal.tell(f"{len(samples):,} samples")

        phases.start("Split", "by clock time, every symbol at the same instants")
        parts = split_samples(samples, config)
        terminal.tell(*parts.describe(samples.target_time))

        phases.start("Scale", "z-scores per coin and timeframe, fitted on the training part alone")
        n_rows = {t: {s: len(c) for s, c in part.candles.items()} for t, part in market.items()}
        scaled, scalers = scale_streams(samples, fine, parts, n_rows)

        phases.start("Baselines", ", ".join(BASELINE_NAMES))
        baselines = fit_baselines(scaled, scalers.y, seed=config.seed)
        terminal.tell(
            "validation chose " + ", ".join(f"{k} {v:.3g}" for k, v in baselines.settings.items())
        )

        phases.start("Build", "dual-timeframe network")
        model = (build or build_network)(config)

        phases.start("Train", f"{len(parts.train):,} samples, batches of {config.batch_size}")
        history = train(model, scaled, config, partial)

        phases.start("Evaluate", "forecasts out of sample")
        forecasts = forecast_test(
            NETWORK, partial / FILES.model, scaled, scalers, baselines, hours.candles
        )
        metrics = {
            "data": {**hours.provenance(), "fine": quarters.provenance()},
            "split": parts.facts(samples.target_time),
            "cuts": parts.cuts(),
            **evaluate(forecasts.predictions, hours, config),
            "calibration": forecasts.calibration.as_dict(),
            "baseline_settings": baselines.settings,
        }
        page = run_page.html_report(
            metrics, forecasts.predictions, history, settings, generation="v1"
        )
        facts = {**samples.facts(), "quantile_regression": config.quantile_regression}
        fitted = {"X": scalers.X, "y": scalers.y, **forecasts.as_dict()}
        files.save_run(
            partial,
            FILES,
            settings,
            facts,
            forecasts.reference,
            fitted,
            history,
            metrics,
            forecasts.predictions,
            page,
        )
        terminal.tell(f"bundle: {output_dir.resolve()}, {phases.seconds:.0f} s in all")
        print(tables.verdict_banner(metrics["test"]))
    push(output_dir)
    return metrics


def fetch(config: ConfigV1, interrupted: dict[str, Any] | None) -> dict[str, CandleSet]:
    """Candles of both timeframes of the pairs that have both; on resumption those of the
    interrupted run."""
    symbols, end_ms = (
        expand_symbols(config.symbols),
        interrupted[HOUR]["end_ms"] if interrupted else None,
    )
    if config.candles_dir is not None:
        symbols, last_ms = with_quarters(Path(config.candles_dir), symbols)
        end_ms = last_ms if end_ms is None else end_ms
    hours = fetch_candles(
        symbols,
        HOUR,
        config.candles and config.candles + V1_WARMUP,
        source=config,
        end_ms=end_ms,
        published=("funding",),
    )
    market = fetch_quarters(config, hours)
    files.demand_same_candles(interrupted, fingerprint(market))
    for part in market.values():
        terminal.tell(*(f"{part.timeframe:>3}  {line}" for line in part.describe()))
    return market


def with_quarters(directory: Path, symbols: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """The pairs of which a directory has 15m candles, and the end of the last hour that these
    reach, epoch ms.

    Pairs without are left out with a notice.
    """
    if not directory.is_dir():
        return tuple(symbols), None  # the fetcher says it better
    spans = {symbol: find_span(directory, symbol, QUARTER) for symbol in symbols}
    lacking = [symbol for symbol, span in spans.items() if span is None]
    if len(lacking) == len(symbols):
        raise ValueError(
            f"none of {', '.join(symbols)} has {QUARTER} candles in {directory}; v1 needs both "
            f"{HOUR} and {QUARTER} candles: python data_fetcher.py fetch --timeframes {QUARTER} "
            f"{HOUR}"
        )
    if lacking:
        logger.warning(
            "left out, there are no %s candles in %s: %s", QUARTER, directory, ", ".join(lacking)
        )
    step_ms = timeframe_ms(HOUR)
    end_ms = (
        max(span.last_ms + timeframe_ms(QUARTER) for span in spans.values() if span)
        // step_ms
        * step_ms
    )
    logger.info(
        "%s candles end at %s, so do the hours",
        QUARTER,
        f"{utc_from_ms(np.array([end_ms]))[0]:%Y-%m-%d %H:%M}",
    )
    return tuple(symbol for symbol in symbols if symbol not in lacking), end_ms


def fetch_quarters(config: ConfigV1, hours: CandleSet) -> dict[str, CandleSet]:
    """The 15m candles that go with the hours, from where these come from; pairs without are left
    out with a notice."""
    end_ms = hours.fingerprint()["end_ms"]
    n_candles = config.candles and QUARTERS_AN_HOUR * config.candles + config.lookback + V1_WARMUP
    if (
        hours.is_synthetic
    ):  # each timeframe of the generator is a market of its own, so the hours are made of quarters
        n_candles = QUARTERS_AN_HOUR * (config.candles + V1_WARMUP)
        made = synthetic.synthetic_market(
            tuple(hours.candles),
            QUARTER,
            n_candles,
            seed=config.seed,
            end=pd.Timestamp(end_ms, unit="ms"),
        )
        merged = {
            symbol: resample_candles(candles, QUARTER, HOUR) for symbol, candles in made.items()
        }
        return {
            HOUR: replace(hours, candles=merged),
            QUARTER: replace(hours, candles=made, timeframe=QUARTER),
        }
    source: SourceConfig = config
    parts: list[CandleSet] = []
    for venue in dict.fromkeys(hours.venue_of.get(symbol) for symbol in hours.candles):
        wanted = [symbol for symbol in hours.candles if hours.venue_of.get(symbol) == venue]
        if venue is not None:
            source = replace(config, source="exchange", exchange=venue)
        try:
            parts.append(fetch_candles(wanted, QUARTER, n_candles, source=source, end_ms=end_ms))
        except ExchangeError:
            raise
        except ValueError as error:
            if hours.source == "directory" or len(wanted) == len(hours.candles):
                raise
            logger.warning("%s", error)
    found = {
        symbol: part.candles[symbol]
        for symbol in hours.candles
        for part in parts
        if symbol in part.candles
    }
    lacking = [symbol for symbol in hours.candles if symbol not in found]
    if lacking:
        logger.warning("left out, there are no %s candles: %s", QUARTER, ", ".join(lacking))
    kept = {symbol: hours.candles[symbol] for symbol in found}
    return {HOUR: replace(hours, candles=kept), QUARTER: replace(parts[0], candles=found)}


def fingerprint(market: dict[str, CandleSet]) -> dict[str, Any]:
    """What an interrupted run needs to fetch the same candles again and to be sure of it."""
    return {timeframe: part.fingerprint() for timeframe, part in market.items()}


def build_network(config: ConfigV1) -> Any:
    """The untrained network, seeded."""
    keras = import_keras()  # takes seconds, so --help and bad options do not wait for it
    from models import DualStreamLSTMModel

    keras.utils.set_random_seed(config.seed)
    model = DualStreamLSTMModel(config).build(len(V1_FEATURES))
    terminal.tell(device.describe(model))
    return model


def train(model: Any, scaled: ScaledSamples, config: ConfigV1, partial: Path) -> dict[str, Any]:
    """Fit the network; the best epoch's weights become the final file."""
    from models import losses
    from pipeline.training.fit import fit_to_file

    loss = losses.pinball
    if not config.quantile_regression:  # this loss wants to know how far the price moved
        target = np.column_stack([scaled.target, scaled.samples.log_return]).astype(np.float32)
        scaled, loss = replace(scaled, target=target), losses.weighted_mse
    return asdict(
        fit_to_file(model, scaled, partial, FILES, loss=loss, **options(config, FIT_OPTIONS))
    )


def evaluate(predictions: pd.DataFrame, hours: CandleSet, config: ConfigV1) -> dict[str, Any]:
    """Score the median and the quantiles, every score beside the baselines'."""
    from pipeline.evaluation.scoring import (
        score_run,  # statsmodels, scikit-learn and arch take their time too
    )

    scores = score_run(
        [predictions],
        network=NETWORK,
        baselines=BASELINE_NAMES,
        interval_baselines=INTERVAL_BASELINES,
        timeframe=HOUR,
        synthetic=hours.is_synthetic,
        funding=hours.funding,
        **options(config, ("horizon", "fee_bps", "threshold")),
    )
    print(tables.terminal_tables(scores))
    return scores


if __name__ == "__main__":
    import tyro

    with terminal.one_line_errors(
        after_interrupt="; the previous bundle is complete, --resume goes on"
    ):
        main(tyro.cli(ConfigV1, description=__doc__))
