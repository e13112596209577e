"""Train v7: a network per coin and timeframe that forecasts the next candle's four prices.

    python -m generations.v7.train_v7_main
    python -m generations.v7.train_v7_main --candles-dir DIR --symbols BTC/USDT ETH/USDT \
--timeframes 1h --candles 2000

Each network is measured on the last 20 % of its candles, beside the naive candle, and is in place
as soon as it is done. A network of price levels is expected to lose.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from config import V7_PAIRS, ConfigV7
from feature_engineering import V2_CANDLE_FEATURES, compute_features
from generations.v7 import networks
from generations.v7.features import V7_PRICES, V7_WARMUP, compute_ohlc_features
from generations.v7.networks import LOG, METADATA, METRICS, RUN_FILES, Grid, Record, network_name
from generations.v7.ohlc import HEADS, compare_candles, scale_candles_on_train
from pipeline import options, script, terminal
from pipeline.bundle import files
from pipeline.bundle.network import seeded_keras
from pipeline.candles import formats, store
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import expand_symbols, fetch_candles
from pipeline.candles.schema import timeframe_ms
from pipeline.evaluation.price_errors import head_errors
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.forecasts.test_part import NETWORK, SavedNetwork, forecast_test
from pipeline.report import page, run_page, run_text, sentences, tables
from pipeline.run import Run, folder_of, open_folder
from pipeline.samples.probe import probe
from pipeline.samples.scaling import ScaledSamples, scale_on_train
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import Samples, make_windows
from pipeline.training import device, parallel

# __name__ is __main__ where this is the command.
logger = logging.getLogger("generations.v7.train_v7_main")

LOSS_WEIGHTS = (1.0, 1.0, 0.8, 0.8)
"""of open, close, high and low"""
BuildNetwork = Callable[[ConfigV7, int], Any]
MIN_SAMPLES = 100
"""a coin with fewer is skipped"""


def main(config: ConfigV7 = ConfigV7(), build: BuildNetwork | None = None) -> dict[str, Any]:
    """Fetch, train every network, evaluate them together.

    Args:
        config: Settings of the run.
        build: Makes an untrained network from the config and the number of features;
            `build_network` by default.

    Returns:
        The content of metrics_v7.json: timeframe -> scores over its coins.

    Raises:
        ValueError: Bad settings, or no network could be trained; says what, where, value and
            remedy.
    """
    with open_folder(
        config,
        "v7",
        METADATA,
        RUN_FILES,
        LOG,
        probe(compute_ohlc_features),
        n_phases=3,
        dataset_folder="models_v7",
    ) as run:
        # Candles: of each timeframe a frame a symbol. Who has none, and why, is noted. Each network
        # knows the hash of its own candles, so here a resumed run needs only where they ended.
        run.phase("Fetch", f"{', '.join(config.timeframes)} candles")
        grid = networks.open_grid(run.output_dir)
        markets, skipped = fetch(config, run.stored or {})
        grid = replace(grid, settings=run.settings, skipped=skipped, run=run.origin)
        ends = {name: part.fingerprint()["end_ms"] for name, part in markets.items()}
        is_synthetic = any(part.is_synthetic for part in markets.values())
        run.note_candles(ends, is_synthetic=is_synthetic, is_exact=False)

        # Train: from features to forecasts of the test part, `train_job` for each network.
        run.phase("Train", "a network per coin and timeframe")
        done = train_all(markets, grid, config, build or build_network)

        # Evaluate: the close of all coins of a timeframe as one test part, beside every baseline's.
        run.phase("Evaluate", "forecasts out of sample, all coins of a timeframe together")
        metrics = {}
        for timeframe, market in markets.items():
            own = {name: done[name] for name in done if done[name]["timeframe"] == timeframe}
            if own:
                metrics[timeframe] = evaluate(own, market, run)
        save(metrics, grid, run.folder)

        took = parallel.duration(run.phases.seconds)
        terminal.tell(
            f"{terminal.counted(len(done), 'network')}: {run.output_dir.resolve()}, {took} in all"
        )
        for timeframe, scores in metrics.items():
            banner = run_text.verdict_banner(scores["test"])
            coins = terminal.counted(len(scores["heads"]), "coin")
            print(f"\n  {timeframe} candles, {coins}{banner}")
    return metrics


def fetch(config: ConfigV7, ends: Mapping[str, int]) -> tuple[dict[str, CandleSet], dict[str, str]]:
    """Fetch the candles of each timeframe.

    Args:
        config: Settings of the run.
        ends: Timeframe -> instant at which the candles of an interrupted run ended, epoch ms.

    Returns:
        Timeframe -> candles; and name of each network without candles -> why.

    Raises:
        ValueError: An unknown timeframe or folder, or there are no candles at all.
    """
    is_all = [symbol.lower() for symbol in config.symbols] == ["all"]
    symbols = V7_PAIRS if is_all else expand_symbols(config.symbols)
    for timeframe in config.timeframes:
        timeframe_ms(timeframe)  # refuses one that nobody knows, before anything is fetched
        if config.candles_dir is not None:
            formats.demand_files(config.candles_dir, [], timeframe)
    markets = {}
    skipped: dict[str, str] = {}
    for timeframe in dict.fromkeys(config.timeframes):
        market, lacking = fetch_each(config, symbols, timeframe, ends.get(timeframe))
        skipped |= {network_name(symbol, timeframe): why for symbol, why in lacking.items()}
        if market is not None:
            markets[timeframe] = market
            terminal.tell(*market.describe())
    if not markets:
        why = next(iter(skipped.values()))
        raise ValueError(f"no candles for any of {len(symbols)} pairs: {why}")
    return markets, skipped


def fetch_each(
    config: ConfigV7, symbols: Sequence[str], timeframe: str, end_ms: int | None
) -> tuple[CandleSet | None, dict[str, str]]:
    """Candles of a timeframe, and symbol -> why it has none; a bad file costs its coin alone."""
    groups = [symbols]
    if config.candles_dir is not None:
        groups = [(symbol,) for symbol in symbols]
    n_candles = config.candles and config.candles + V7_WARMUP
    market = None
    lacking: dict[str, str] = {}
    for group in groups:
        try:
            found = fetch_candles(group, timeframe, n_candles, config, end_ms=end_ms)
        except ValueError as error:
            lacking |= dict.fromkeys(group, str(error))
            pairs = terminal.listed(group)
            logger.warning("%s %s: skipped: %s", pairs, timeframe, error)
            continue
        if market is not None:
            funding = {**market.funding, **found.funding}
            found = replace(found, candles=market.candles | found.candles, funding=funding)
        market = found
    if market is not None:
        absent = [symbol for symbol in symbols if symbol not in market.candles]
        lacking = {**dict.fromkeys(absent, "no source has its candles"), **lacking}
    return market, lacking


def train_all(
    markets: Mapping[str, CandleSet], grid: Grid, config: ConfigV7, build: BuildNetwork
) -> dict[str, Record]:
    """Train every network that is not finished yet.

    Each is in place, and in the metadata, as soon as it is done.

    Args:
        markets: Timeframe -> candles.
        grid: The networks in place; gets what is trained, and what fails.
        config: Settings of the run.
        build: Makes an untrained network.

    Returns:
        Name -> record of the run's networks, in the order of the candles.

    Raises:
        ValueError: No network could be trained.
    """
    todo: dict[str, Callable[[], Record]] = {}
    finished: dict[str, bool] = {}
    for market in markets.values():
        for symbol, candles in market.candles.items():
            name = network_name(symbol, market.timeframe)
            facts = {"settings": grid.settings, "candles": store.content_sha256(candles)}
            finished[name] = grid.is_finished(name, facts)
            if not finished[name]:
                one = replace(market, candles={symbol: candles})
                todo[name] = functools.partial(
                    train_job, name, one, config, facts, grid.output_dir, build
                )
    n_done = len(finished) - len(todo)
    if n_done:
        terminal.tell(f"finished already: {terminal.counted(n_done, 'network')}")
    grid.write_metadata()
    results = parallel.run_jobs(
        todo, n_done=n_done, own_process=config.own_process, workers=config.workers
    )
    for name, result in results:
        if isinstance(result, Exception):
            grid.skipped[name] = f"{type(result).__name__}: {result}"
        else:
            finished[name] = True
            grid.add(name, result)
        grid.write_metadata()
    if not any(finished.values()):
        why = next(iter(grid.skipped.values()))
        raise ValueError(f"no network could be trained; the first reason: {why}")
    return {name: grid.records[name] for name in finished if finished[name]}


def train_job(
    name: str,
    market: CandleSet,
    config: ConfigV7,
    facts: Mapping[str, Any],
    output_dir: Path,
    build: BuildNetwork,
) -> Record:
    """Train and measure the network of one coin and timeframe, and put its two files in place.

    Args:
        name: What its files are called by.
        market: Candles of the coin.
        config: Settings of the run.
        facts: What makes it the same network; see `networks.work_folder`.
        output_dir: Where its files belong.
        build: Makes the untrained network.

    Returns:
        Its record, which the scaler file holds too.

    Raises:
        ValueError: The coin has too few samples, or its candles are of no use.
    """
    work = networks.work_folder(output_dir / files.PARTIAL, name, facts)
    candles = next(iter(market.candles.values()))

    # Samples: sample i is the 60 rows of 13 that end with candle t. Its targets are the four prices
    # of candle t + horizon. The split is the coin's own, by clock time.
    samples = make_samples(compute_ohlc_features(candles, market.timeframe), market, config)
    split = split_samples(samples, config)
    terminal.tell(f"{len(samples):,} samples", *split.describe(samples.target_time))

    # Baselines: the small models see v2's features of the same candles and forecast log-returns.
    v2_features = compute_features(candles, market.timeframe, V2_CANDLE_FEATURES)
    returns, return_scalers = scale_on_train(make_samples(v2_features, market, config), split)
    baselines = fit_baselines(returns, return_scalers.y, seed=config.seed)

    # Scale: 0 is the lowest price of the training part and 1 its highest, for every price. A
    # feature that never changes there is dropped.
    prices, scalers = scale_candles_on_train(samples, split, candles, V7_PRICES)
    samples = prices.samples
    model_path = work / networks.network_files(name)[0]
    history = train(build(config, samples.n_features), prices, config, model_path)

    # Forecast: the close as a log-return beside the baselines', as the network says it, not shrunk;
    # then all four prices beside the naive candle.
    saved = SavedNetwork(model_path, scalers)
    forecasts = forecast_test(saved, prices, baselines, market.candles, is_shrunk=False)
    four_prices = compare_candles(NETWORK, model_path, prices, scalers, candles)
    predictions = pd.concat([forecasts.predictions, four_prices], axis=1)
    predictions.to_parquet(work / networks.NETWORK_PREDICTIONS, index=False)

    known = {**samples.facts(), "synthetic": market.is_synthetic}
    record = {
        "facts": facts,
        **known,
        **judge(predictions, market, config.horizon),
        "data": market.provenance(),
        "split": split.facts(samples.target_time),
        "cuts": split.cuts(),
        "history": history,
        "baseline_settings": baselines.settings,
        "predictions_sha256": files.sha256_of(work / networks.NETWORK_PREDICTIONS),
    }
    fitted = {"X": scalers.X, "y": scalers.y, "fill": scalers.fill, **forecasts.as_dict()}
    fitted |= {"cuts": record["cuts"], "features_probe": probe(compute_ohlc_features)}
    networks.save_network(work, output_dir, name, {**fitted, **known, "record": record})
    return record


def make_samples(features: pd.DataFrame, market: CandleSet, config: ConfigV7) -> Samples:
    """Windows of one coin; a ValueError where they are too few."""
    [(symbol, candles)] = market.candles.items()
    sizes = (market.timeframe, config.lookback, config.horizon, V7_WARMUP)
    samples = make_windows({symbol: features}, market.candles, *sizes)
    if len(samples) < MIN_SAMPLES:
        raise ValueError(
            f"{symbol}: {len(samples)} samples in {len(candles)} candles are too few, at least "
            f"{MIN_SAMPLES} are needed; fetch more candles (--candles)"
        )
    return samples


def build_network(config: ConfigV7, n_features: int) -> Any:
    """The untrained network, seeded: (batch, lookback, n_features) -> four times (batch, 1)."""
    seeded_keras(config.seed)  # takes seconds, so --help and bad options do not wait for it
    from models.bilstm_ohlc import build_bilstm_ohlc

    model = build_bilstm_ohlc(
        config.lookback,
        n_features,
        lstm_units=config.lstm_units,
        dense_units=config.dense_units,
        dropout=config.dropout,
    )
    terminal.tell(device.describe(model))
    return model


def train(model: Any, prices: ScaledSamples, config: ConfigV7, path: Path) -> dict[str, Any]:
    """Fit the network; the best epoch's is the one in the file."""
    import keras

    from pipeline.training.fit import Objective, fit, save_plain_keras

    squared = [keras.losses.MeanSquaredError() for _ in HEADS]
    objective = Objective(squared, weights=LOSS_WEIGHTS)
    history = fit(model, prices, objective, config, path, on_epoch=terminal.tell_epoch)
    save_plain_keras(model, path)
    terminal.tell(f"best epoch {history.best_epoch + 1} of {len(history.loss)}")
    return asdict(history)


def judge(predictions: pd.DataFrame, market: CandleSet, horizon: int) -> dict[str, Any]:
    """Errors of one network's four prices, and the verdict on its close, both beside naive."""
    # statsmodels and scikit-learn take their time too
    from pipeline.evaluation.verdict import evaluate_forecasts

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
    terminal.tell(f"the close: {sentences.verdict_sentence(test)}")
    verdicts = {name: test[name] for name in ("verdict", "verdicts")}
    return {"n": len(predictions), "heads": heads, **verdicts}


def evaluate(records: Mapping[str, Record], market: CandleSet, run: Run) -> dict[str, Any]:
    """Score all coins of a timeframe together; writes their predictions and their page.

    Args:
        records: Name -> record of each network of the timeframe.
        market: Candles of the timeframe.
        run: The run under way.

    Returns:
        Their entry in the metrics file.
    """
    paths = [run.folder / name / networks.NETWORK_PREDICTIONS for name in records]
    predictions = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    predictions = predictions.sort_values("timestamp", kind="stable", ignore_index=True)
    by_symbol = {record["symbols"][0]: record for record in records.values()}
    heads = {symbol: record["heads"] for symbol, record in by_symbol.items()}
    rows = tables.head_error_rows(heads)
    print(f"\n{tables.text_table(rows)}")
    scored = replace(market, candles={symbol: market.candles[symbol] for symbol in by_symbol})
    metrics = {
        "data": scored.provenance(),
        "split": whole_split([record["split"] for record in by_symbol.values()]),
        **run.score([predictions], market),
        "heads": heads,
    }
    section = page.section(
        "The four prices of the next candle",
        "Errors of each price, beside those of the naive candle: it opens and closes at the last "
        "close, and reaches as far as candles usually do.",
        page.table(rows),
    )
    text = run_page.html_report(
        metrics,
        predictions,
        {symbol: record["history"] for symbol, record in by_symbol.items()},
        run.settings,
        generation="v7",
        sections=section,
        run=run.origin,
    )
    name = networks.PREDICTIONS.format(market.timeframe)
    predictions.to_parquet(run.folder / name, index=False)
    report = run.folder / networks.REPORT.format(market.timeframe)
    report.write_text(text, encoding="utf-8")
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


def save(metrics: Mapping[str, Any], grid: Grid, folder: Path) -> None:
    """Write the run's own files; the metadata last, with the hashes of all the others."""
    names = (networks.PREDICTIONS, networks.REPORT)
    by_timeframe = [name.format(timeframe) for name in names for timeframe in metrics]
    files.write_json(folder / METRICS, metrics)
    files.write_metadata(
        folder / METADATA, grid.metadata(), hashed=[METRICS, *by_timeframe], unhashed=(LOG,)
    )


def train_grid(config: ConfigV7) -> list[script.Judged]:
    """`main` for the command: the verdict of each timeframe."""
    folder = folder_of(config, "v7")
    return [
        script.Judged(scores, folder, networks.REPORT.format(timeframe), config.horizon)
        for timeframe, scores in main(config).items()
    ]


def forecast_line(config: ConfigV7, folder: Path) -> dict[str, str]:
    """A line of Python that forecasts with the first network of the folder."""
    first = next(iter(files.read_json(folder / METADATA)["jobs"].values()))
    which = {"symbol": first["symbols"][0], "timeframe": first["timeframe"]}
    predictor = "generations.v7.inference.CryptoPricePredictorV7"
    return script.python_forecast(predictor, config, folder, [first["timeframe"]], **which)


if __name__ == "__main__":
    script.run(
        lambda: options.read_settings(ConfigV7, ConfigV7(), __doc__),
        train_grid,
        forecast_line,
        "v7",
        METADATA,
    )
