"""Train v7: a network per coin and timeframe that forecasts the next candle's open, close, high and
low.

    python -m generations.v7.train_v7_main
    python -m generations.v7.train_v7_main --candles-dir DIR --symbols BTC/USDT ETH/USDT
    --timeframes 1h --candles 2000

Each network is measured on the last 20 % of its candles, beside a candle that costs nothing to
forecast, and is in place as soon as it is done. A network of price levels is expected to lose.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from config import V7_PAIRS, ConfigV7, default_output_dir
from data_fetcher import CandleSet, expand_symbols, fetch_candles
from feature_engineering import V2_CANDLE_FEATURES, compute_features
from generations.v7 import network_records
from generations.v7.features import V7_FEATURES, V7_PRICES, V7_WARMUP, compute_ohlc_features
from generations.v7.inference import (
    LOG,
    METADATA,
    METRICS,
    PREDICTIONS,
    REPORT,
    RUN_FILES,
    job_files,
    job_name,
)
from generations.v7.ohlc import HEADS, forecast_candles, scale_candles_on_train
from pipeline import atomic, hub, terminal
from pipeline.bundle import files
from pipeline.bundle.network import import_keras
from pipeline.bundle.scalers import save_scalers
from pipeline.candles import formats, store
from pipeline.candles.schema import timeframe_ms
from pipeline.evaluation.price_errors import head_errors
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import INTERVAL_BASELINES, forecast_test
from pipeline.report import page, run_page, tables
from pipeline.samples.scaling import ScaledSamples, scale_on_train
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import Samples, make_windows
from pipeline.training import device, jobs

logger = logging.getLogger(
    "generations.v7.train_v7_main"
)  # __name__ is __main__ where this is the command

NETWORK = "lstm"
"""the network's name in tables and files"""
LOSS_WEIGHTS = (1.0, 1.0, 0.8, 0.8)
"""of open, close, high and low"""
BuildNetwork = Callable[[ConfigV7], Any]
MIN_SAMPLES = 100
"""a coin with fewer is skipped"""


def main(config: ConfigV7 = ConfigV7(), build: BuildNetwork | None = None) -> dict[str, Any]:
    """Fetch, train every network, evaluate them together.

    Args:
        config: Of the run.
        build: Makes an untrained network; `build_network` by default.

    Returns:
        The content of metrics_v7.json: timeframe -> scores over its coins.

    Raises:
        ValueError: Bad settings, or no network could be trained; says what, where, value and
            remedy.
    """
    config.check()
    output_dir = Path(
        config.output_dir or default_output_dir("v7")
    ).absolute()  # workers may stand elsewhere
    settings = files.settings_of(
        config,
        leave_out=("output_dir", "cache_dir", "own_process", "workers", "resume", "push_to_hub"),
    )
    push = hub.push_when_done(config.push_to_hub, is_dataset=True, folder="models_v7")
    with (
        files.new_bundle(output_dir, METADATA, RUN_FILES) as partial,
        terminal.terminal_log(partial / LOG, append=config.resume),
    ):
        phases = terminal.Phases(3)
        phases.start("Fetch", f"{', '.join(config.timeframes)} candles")
        records = network_records.open_records(output_dir)
        interrupted = files.interrupted_run(partial, settings, METADATA) if config.resume else None
        markets, skipped = fetch(config, interrupted or {})
        if interrupted is None:
            ends = {
                timeframe: market.fingerprint()["end_ms"] for timeframe, market in markets.items()
            }
            files.begin_run(partial, settings, ends, LOG)

        phases.start("Train", "a network per coin and timeframe")
        done = train_all(
            markets, records, skipped, config, settings, output_dir, build or build_network
        )

        phases.start("Evaluate", "forecasts out of sample, all coins of a timeframe together")
        metrics = {}
        for timeframe, market in markets.items():
            own = {
                name: record for name, record in done.items() if record["timeframe"] == timeframe
            }
            if own:
                metrics[timeframe] = evaluate(own, market, config, settings, partial)
        files.write_json(partial / METRICS, metrics)
        files.write_metadata(
            partial / METADATA,
            network_records.content(records, config=settings, skipped=skipped),
            unhashed=(LOG,),
            hashed=[
                METRICS,
                *(
                    name.format(timeframe)
                    for name in (PREDICTIONS, REPORT)
                    for timeframe in metrics
                ),
            ],
        )
        terminal.tell(
            f"{len(done)} networks: {output_dir.resolve()}, {jobs.duration(phases.seconds)} in all"
        )
        for timeframe, scores in metrics.items():
            print(
                f"\n  {timeframe} candles, {len(scores['heads'])} "
                f"coins{tables.verdict_banner(scores['test'])}"
            )
    push(output_dir)
    return metrics


def fetch(config: ConfigV7, ends: Mapping[str, int]) -> tuple[dict[str, CandleSet], dict[str, str]]:
    """Candles of each timeframe, and who lacks them, and why; an unsound file costs its own coin
    alone.

    Args:
        config: Of the run.
        ends: Timeframe -> instant at which the candles of an interrupted run ended, epoch ms.
    """
    is_all = [symbol.lower() for symbol in config.symbols] == ["all"]
    symbols = V7_PAIRS if is_all else expand_symbols(config.symbols)
    for timeframe in config.timeframes:
        timeframe_ms(timeframe)  # refuses one that nobody knows, before anything is fetched
        if config.candles_dir is not None:
            formats.demand_files(config.candles_dir, [], timeframe)
    groups = (
        [(symbol,) for symbol in symbols] if config.candles_dir is not None else [symbols]
    )  # one file, one fault
    markets: dict[str, CandleSet] = {}
    skipped: dict[str, str] = {}
    for timeframe in dict.fromkeys(config.timeframes):
        for group in groups:
            try:
                found = fetch_candles(
                    group,
                    timeframe,
                    config.candles and config.candles + V7_WARMUP,
                    source=config,
                    end_ms=ends.get(timeframe),
                )
            except ValueError as error:
                skipped |= {job_name(symbol, timeframe): str(error) for symbol in group}
                logger.warning("%s %s: skipped: %s", ", ".join(group), timeframe, error)
                continue
            before = markets.get(timeframe, found)
            markets[timeframe] = replace(
                found,
                candles=before.candles | found.candles,
                funding={**before.funding, **found.funding},
            )
        if timeframe in markets:
            lacking = [symbol for symbol in symbols if symbol not in markets[timeframe].candles]
            for name in (job_name(symbol, timeframe) for symbol in lacking):
                skipped.setdefault(name, "no source has its candles")
            terminal.tell(*markets[timeframe].describe())
    if not markets:
        raise ValueError(
            f"no candles for any of {len(symbols)} pairs: {next(iter(skipped.values()))}"
        )
    return markets, skipped


def train_all(
    markets: Mapping[str, CandleSet],
    records: dict[str, dict[str, Any]],
    skipped: dict[str, str],
    config: ConfigV7,
    settings: Mapping[str, Any],
    output_dir: Path,
    build: BuildNetwork,
) -> dict[str, dict[str, Any]]:
    """Train every network that is not finished yet; each is in place, and in the metadata, as soon
    as it is done.

    Returns:
        Name -> record of the run's networks; `records` and `skipped` are brought up to date.
    """
    todo: dict[str, Any] = {}
    done: dict[str, dict[str, Any]] = {}
    names = [
        job_name(symbol, market.timeframe)
        for market in markets.values()
        for symbol in market.candles
    ]
    for market in markets.values():
        for symbol, candles in market.candles.items():
            name, sha256 = job_name(symbol, market.timeframe), store.content_sha256(candles)
            facts = {"settings": settings, "candles": sha256}
            if network_records.is_finished(
                records.get(name), output_dir / files.PARTIAL / name, facts
            ):
                done[name] = records[name]
            else:
                one = replace(market, candles={symbol: candles})
                todo[name] = functools.partial(
                    train_job, name, one, config, facts, output_dir, build
                )
    if done:
        terminal.tell(f"{len(done)} networks are finished already")
    network_records.write_metadata(
        output_dir, network_records.content(records, config=settings, skipped=skipped)
    )
    how = options(config, ("own_process", "workers"))
    for name, result in jobs.run_jobs(todo, n_done=len(done), **how):
        if isinstance(result, Exception):
            skipped[name] = f"{type(result).__name__}: {result}"
        else:
            done[name] = records[name] = network_records.with_hashes(result, output_dir, name)
        network_records.write_metadata(
            output_dir, network_records.content(records, config=settings, skipped=skipped)
        )
    if not done:
        raise ValueError(
            f"no network could be trained; the first reason: {next(iter(skipped.values()))}"
        )
    return {
        name: done[name] for name in names if name in done
    }  # whatever the order in which they ended


def train_job(
    name: str,
    market: CandleSet,
    config: ConfigV7,
    facts: Mapping[str, Any],
    output_dir: Path,
    build: BuildNetwork,
) -> dict[str, Any]:
    """Train and measure the network of one coin and timeframe, and put its two files in place.

    Returns:
        Its record, which the scaler file holds too.

    Raises:
        ValueError: The coin has too few samples, or its candles are of no use.
    """
    work = jobs.work_folder(output_dir / files.PARTIAL, name, facts)
    model_file, scaler_file = job_files(name)
    candles = next(iter(market.candles.values()))
    samples = make_samples(compute_ohlc_features(candles, market.timeframe), market, config)
    parts = split_samples(samples, config)
    terminal.tell(f"{len(samples):,} samples", *parts.describe(samples.target_time))

    small = make_samples(
        compute_features(candles, market.timeframe, V2_CANDLE_FEATURES), market, config
    )
    returns, return_scalers = scale_on_train(
        small, parts
    )  # the small models forecast log-returns, as in v2
    baselines = fit_baselines(returns, return_scalers.y, seed=config.seed)
    prices, scalers = scale_candles_on_train(samples, parts, candles, V7_PRICES)
    history = train(build(config), prices, config, work / model_file)

    forecasts = forecast_test(
        NETWORK, work / model_file, prices, scalers, baselines, market.candles, is_shrunk=False
    )
    forecast = forecast_candles(NETWORK, work / model_file, prices, scalers, candles)
    predictions = pd.concat([forecasts.predictions, forecast], axis=1)
    predictions.to_parquet(work / network_records.PREDICTIONS_FILE, index=False)
    facts_of_all = {**samples.facts(), "synthetic": market.is_synthetic}
    record = {
        "facts": facts,
        **facts_of_all,
        **judge(predictions, market, config.horizon),
        "data": market.provenance(),
        "split": parts.facts(samples.target_time),
        "cuts": parts.cuts(),
        "history": history,
        "baseline_settings": baselines.settings,
        "predictions_sha256": files.sha256_of(work / network_records.PREDICTIONS_FILE),
    }
    content = {
        "X": scalers.X,
        "y": scalers.y,
        "fill": scalers.fill,
        **forecasts.as_dict(),
        **facts_of_all,
        "record": record,
        "model_sha256": files.sha256_of(work / model_file),
    }
    with atomic.replacing(work / scaler_file) as unfinished:  # it makes the job complete
        save_scalers(content, unfinished)
    jobs.finish_job(work, output_dir, (model_file, scaler_file))
    return record


def make_samples(features: pd.DataFrame, market: CandleSet, config: ConfigV7) -> Samples:
    """Windows of one coin; a ValueError where they are too few."""
    (symbol,) = market.candles
    samples = make_windows(
        {symbol: features},
        market.candles,
        market.timeframe,
        config.lookback,
        config.horizon,
        V7_WARMUP,
    )
    if len(samples) < MIN_SAMPLES:
        raise ValueError(
            f"{symbol}: {len(samples)} samples in {len(market.candles[symbol])} candles are too "
            f"few, at least {MIN_SAMPLES} are needed; fetch more candles (--candles)"
        )
    return samples


def build_network(config: ConfigV7) -> Any:
    """The untrained network, seeded."""
    keras = import_keras()  # takes seconds, so --help and bad options do not wait for it
    from models.bilstm_ohlc import build_bilstm_ohlc

    keras.utils.set_random_seed(config.seed)
    layers = options(config, ("lstm_units", "dense_units", "dropout"))
    model = build_bilstm_ohlc(config.lookback, len(V7_FEATURES), **layers)
    terminal.tell(device.describe(model))
    return model


def train(model: Any, prices: ScaledSamples, config: ConfigV7, path: Path) -> dict[str, Any]:
    """Fit the network; the best epoch's is the one in the file."""
    import keras

    from pipeline.training.fit import fit

    history = fit(
        model,
        prices,
        loss=[keras.losses.MeanSquaredError() for _ in HEADS],
        loss_weights=LOSS_WEIGHTS,
        checkpoint=path,
        state_dir=path.parent,
        on_epoch=terminal.tell_epoch,
        **options(config, FIT_OPTIONS),
    )
    terminal.tell(f"best epoch {history.best_epoch + 1} of {len(history.loss)}")
    return asdict(history)


def judge(predictions: pd.DataFrame, market: CandleSet, horizon: int) -> dict[str, Any]:
    """Errors of one network's four prices, and the verdict on its close, both beside naive."""
    from pipeline.evaluation.verdict import (
        evaluate_forecasts,  # statsmodels and scikit-learn take their time too
    )

    heads = files.plain(head_errors(predictions, (NETWORK, "naive"), HEADS))
    test = evaluate_forecasts(
        predictions,
        network=NETWORK,
        baselines=BASELINE_NAMES,
        synthetic=market.is_synthetic,
        horizon=horizon,
        confidence_set=False,
    )
    print(tables.text_table(tables.head_error_rows({next(iter(market.candles)): heads})))
    terminal.tell(f"the close: {tables.verdict_sentence(test)}")
    return {
        "n": len(predictions),
        "heads": heads,
        "verdict": test["verdict"],
        "verdicts": test["verdicts"],
    }


def evaluate(
    records: Mapping[str, Mapping[str, Any]],
    market: CandleSet,
    config: ConfigV7,
    settings: Mapping[str, Any],
    partial: Path,
) -> dict[str, Any]:
    """Score the close of all coins of a timeframe together, and write its predictions and its
    page."""
    from pipeline.evaluation.scoring import score_run  # arch takes its time

    parts = [pd.read_parquet(partial / name / network_records.PREDICTIONS_FILE) for name in records]
    predictions = pd.concat(parts, ignore_index=True).sort_values(
        "timestamp", kind="stable", ignore_index=True
    )
    by_symbol = {record["symbols"][0]: record for record in records.values()}
    scores = score_run(
        [predictions],
        network=NETWORK,
        baselines=BASELINE_NAMES,
        interval_baselines=INTERVAL_BASELINES,
        timeframe=market.timeframe,
        synthetic=market.is_synthetic,
        funding=market.funding,
        **options(config, ("horizon", "fee_bps", "threshold")),
    )
    metrics = {
        "data": replace(market, candles={s: market.candles[s] for s in by_symbol}).provenance(),
        "split": whole_split([record["split"] for record in by_symbol.values()]),
        **scores,
        "heads": {symbol: record["heads"] for symbol, record in by_symbol.items()},
    }
    rows = tables.head_error_rows(metrics["heads"])
    print(f"\n{tables.text_table(rows)}\n{tables.terminal_tables(scores)}")
    section = page.section(
        "The four prices of the next candle",
        "Errors of each price, with the candle beside that costs nothing: it opens and closes at "
        "the last close, and reaches as far as candles usually do.",
        page.table(rows),
    )
    histories = {symbol: record["history"] for symbol, record in by_symbol.items()}
    text = run_page.html_report(
        metrics, predictions, histories, settings, generation="v7", sections=section
    )
    predictions.to_parquet(partial / PREDICTIONS.format(market.timeframe), index=False)
    (partial / REPORT.format(market.timeframe)).write_text(text, encoding="utf-8")
    return metrics


def whole_split(splits: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Size and span of each part over all coins, which are cut one by one."""
    return {
        name: {
            "n": sum(split[name]["n"] for split in splits),
            "first": min(split[name]["first"] for split in splits),
            "last": max(split[name]["last"] for split in splits),
        }
        for name in ("train", "val", "test")
    }


if __name__ == "__main__":
    import tyro

    with terminal.one_line_errors(
        after_interrupt="; finished networks are in place, --resume goes on with the others"
    ):
        main(tyro.cli(ConfigV7, description=__doc__))
