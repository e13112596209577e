"""The commands of a predictor: options and order of calls.

They are predict, live, evaluate, and of v2 recalibrate and retrain.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import pandas as pd

from config import TRADING_PAIRS, ConfigV2, SourceConfig, default_cache_dir, default_output_dir
from pipeline import options, privacy, terminal
from pipeline.bundle import files
from pipeline.bundle.metadata import MAX_SHOWN, minute, shown
from pipeline.candles import fetch_cache, folders, formats, store
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import expand_symbols, fetch_candles
from pipeline.candles.finer import prices_between
from pipeline.candles.job import Job
from pipeline.candles.pairs import pair_of
from pipeline.candles.schema import DAY_MS, instant_ms, timeframe_ms, timestamps_ms
from pipeline.forecasts import ledger as ledgers
from pipeline.forecasts.live import LivePredictor, watch
from pipeline.forecasts.prediction import Prediction, as_json, forecast_lines, judge, untrained_note
from pipeline.forecasts.recalibration import DAYS, write_recalibration
from pipeline.forecasts.webhook import Webhook
from pipeline.report.tables import summary, text_table, verdict_sentence

if TYPE_CHECKING:
    from pipeline.retraining import Decision

logger = logging.getLogger(__name__)


Train = Callable[[ConfigV2], Mapping[str, Any]]
"""A training run: settings -> metrics."""

RECALIBRATED_EVERY_MS = 30 * DAY_MS
"""How old a calibration may be while `live --watch` runs."""
MOST_CANDLES = 20_000
"""A coin's candles that a recalibration while watching may fetch: of 15m and longer."""
EXIT_KEPT = 3
"""Status of `retrain` where the old bundle stays; errors end with 2."""
RETRIED_MS = 3_600_000
"""After what went wrong `retrain --every` tries again so much later, or when it is due."""


def main(
    predictor_class: type[LivePredictor], description: str | None, train: Train | None = None
) -> None:
    """Parse the subcommand and run it.

    Args:
        predictor_class: Class of the predictors.
        description: Docstring of the script.
        train: The training run that makes such bundles, for `retrain`.
    """
    commands: dict[str, type] = {"predict": Predict, "live": Live, "evaluate": Evaluate}
    if predictor_class.files.recalibration:
        commands["recalibrate"] = Recalibrate
    if train is not None:
        commands["retrain"] = Retrain
    command = options.read_command(commands, description, _file_by_place(sys.argv[1:]))
    with terminal.plain_warnings(), terminal.notices(getattr(command, "verbose", False)):
        if isinstance(command, Retrain):
            assert train is not None  # else there is no such command
            command.run(predictor_class, train)
        else:
            command.run(predictor_class)
        with contextlib.redirect_stdout(sys.stderr):  # stdout ends with the forecast or verdict
            terminal.tell_next(command.next_steps())


def _file_by_place(words: Sequence[str]) -> list[str]:
    """`predict FILE` also where it is written as it once was, `predict --candles FILE`."""
    if words[:1] != ["predict"]:
        return list(words)
    return [word.removeprefix("--candles=") for word in words if word != "--candles"]


def open_bundle(
    predictor_class: type[LivePredictor], folder: Path, **options: Any
) -> LivePredictor:
    """The predictor of a bundle's folder; options as for its class.

    Raises:
        ValueError: There is no trained model, or its files are damaged or not of one run.
    """
    try:
        return predictor_class.from_directory(folder, **options)
    except FileNotFoundError as error:
        raise ValueError(no_model(folder)) from error


def no_model(folder: Path) -> str:
    """What to say where a bundle, or a file of it, is missing."""
    demo = default_output_dir("demo")
    there = f" {demo}, which is there" if demo.is_dir() else ""
    return (
        f"{folder}: no trained model, or a file of it is missing; train one (python "
        f"train_v2_production.py --output-dir {folder}), make a small one without a network "
        f"(python demo.py), or pass --model-dir{there}"
    )


@dataclass(frozen=True)
class Predict:
    """Forecast the next candle from a file of recent candles.

    python inference_v2.py predict candles/binance/BTCUSDT_1h.parquet --picture forecast.png
    """

    candles: Path = field(metadata={"positional": True, "metavar": "FILE"})
    """file with timestamp, open, high, low, close, volume, in any form that people have them"""
    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py"""
    last_price: float | None = None
    """price the forecast starts from; default: the last close"""
    picture: Path | None = None
    """also save a picture of the recent candles, the forecast and its band, such as forecast.png"""
    ledger: Path | None = None
    """also enter the forecast into this file, before its candle closes"""
    symbol: str | None = None
    """pair; default: what the file is named by, as BTCUSDT_1h.parquet"""
    timezone: str | None = None
    """zone of times in the file that name none, such as Europe/Berlin; default: UTC"""
    json: bool = False
    """for programs: the forecast as one JSON object on stdout, all else on stderr"""

    def run(self, predictor_class: type[LivePredictor]) -> None:
        """Print the forecast as the guide shows it."""
        if self.ledger is not None and self.last_price is not None:
            raise ValueError(
                f"--last-price {self.last_price:g} with --ledger: a ledger judges the return from "
                "the last close; leave one of the two out"
            )
        store.demand_file(self.candles)  # before a model is opened, which takes longer
        with terminal.only_json(self.json) as json_out:
            predictor = open_bundle(predictor_class, self.model_dir)
            symbol = pair_of(self.symbol) or self.symbol.upper() if self.symbol else ""
            if len(symbol) > MAX_SHOWN or not symbol.isprintable():
                raise ValueError(f"--symbol is {shown(symbol)}; pass a pair such as BTC/USDT")
            if self.ledger is not None and not symbol:
                symbol = ledgers.symbol_of(self.candles, predictor.timeframe, TRADING_PAIRS)
            candles = formats.read_file(self.candles, predictor.timeframe, timezone=self.timezone)
            if self.symbol:
                candles.attrs["symbol"] = symbol
            predictor = _with_neighbours(predictor, self.candles.parent, candles)
            prediction = _show(predictor, candles, self.last_price, self.picture, json_out)
            _enter(self.ledger, predictor, symbol, candles, prediction)

    def next_steps(self) -> dict[str, str]:
        """What one may want then -> the command to paste."""
        bundle = ("--model-dir", self.model_dir)
        if not re.fullmatch(r"[A-Z0-9]+_\w+", self.candles.stem):  # no folder as the others read
            return options.page(*bundle)
        at_hand = ("--candles-dir", self.candles.parent, *bundle)
        score = options.command("inference_v2.py", "evaluate", *at_hand)
        return {"score": score, **options.page(*at_hand)}


@dataclass(frozen=True)
class Live:
    """Fetch the newest candles of a pair from an exchange, and forecast the next one.

    python inference_v2.py live --symbol ETH/USDT --watch
    """

    symbol: str = "BTC/USDT"
    """pair"""
    watch: bool = False
    """go on: a forecast at every candle close, until Ctrl-C"""
    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py; the model's timeframe counts"""
    picture: Path | None = None
    """also save a picture of the recent candles, the forecast and its band, such as forecast.png"""
    exchange: str | None = None
    """ccxt id of the exchange; default: binance, then the others that can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    ledger: Path | None = None
    """also enter each forecast into this file, before its candle closes"""
    webhook: str | None = None
    """also post each forecast to this address, as JSON; what goes wrong there stops no forecast"""
    discord: bool = False
    """the webhook is one of Discord: post a message for people"""
    recalibrate: bool = True
    """with --watch: recalibrate once the calibration in use is a month old, which fetches the
    candles of 180 days"""
    json: bool = False
    """for programs: each forecast as one JSON object on stdout, all else on stderr"""
    verbose: bool = False
    """also say why each source of candles was left"""

    def run(self, predictor_class: type[LivePredictor]) -> None:
        """Print the forecast; with `watch` one at every close, and what came true of the last."""
        expand_symbols([self.symbol])  # refuses one that is not written as pairs are
        webhook = (
            Webhook(self.webhook, is_discord=self.discord) if self.webhook is not None else None
        )
        with terminal.only_json(self.json) as json_out:
            self._follow(open_bundle(predictor_class, self.model_dir), json_out, webhook)
        if webhook is not None:
            webhook.finish()

    def _follow(
        self, predictor: LivePredictor, json_out: TextIO | None, webhook: Webhook | None
    ) -> None:
        place: dict[str, Any] = {"exchange": self.exchange, "base_url": self.base_url}
        if not self.watch:
            candles = predictor.fetch_live(self.symbol, **place)
            informed = self._informed(predictor)
            prediction = _show(informed, candles, None, self.picture, json_out)
            if webhook is not None:
                webhook.post(prediction)
            _enter(self.ledger, predictor, self.symbol, candles, prediction)
            return
        if self.ledger is not None:
            ledgers.check(self.ledger)  # a damaged file ends the run at once
        pending: list[Prediction] = []  # forecasts whose candle has not closed yet
        tried_ms = 0
        for candles in watch(predictor, self.symbol, **place):
            pending = _show_outcomes(pending, candles)
            predictor = predictor.reopened()  # a bundle that was replaced since the last candle
            try:
                informed = self._informed(predictor)
                pending.append(_show(informed, candles, None, self.picture, json_out))
            except ValueError as error:  # a gap, say, which later candles leave behind
                logger.warning("no forecast: %s", error)
                continue
            if webhook is not None:
                webhook.post(pending[-1])
            try:
                _enter(self.ledger, predictor, self.symbol, candles, pending[-1])
            except ValueError as error:  # fetched too late, say, which the next candle need not be
                logger.warning("%s", error)
            is_tried = _now_ms() - tried_ms < DAY_MS
            if self.recalibrate and not is_tried and _is_recalibration_due(predictor):
                tried_ms = _now_ms()
                self._recalibrate_aside(type(predictor))

    def next_steps(self) -> dict[str, str]:
        """What one may want then -> the command to paste."""
        bundle = ("--model-dir", self.model_dir)
        watching = ("live", "--symbol", self.symbol, "--watch", *bundle)
        follow = options.command("inference_v2.py", *watching)
        return {"at every close": follow, **options.page(*bundle)}

    def _recalibrate_aside(self, predictor_class: type[LivePredictor]) -> None:
        """Recalibrate in a thread, so that no forecast waits; the next one finds it.

        What goes wrong is told and stops nothing.
        """

        def recalibrate() -> None:
            place = Place(None, self.exchange, self.base_url, None, None)
            try:
                both = _open_both(predictor_class, self.model_dir)
                market = place.read(both.judged, _now_ms() - DAYS * DAY_MS)
                logger.info("%s", _recalibrate(both, self.model_dir, market))
            except (ValueError, OSError) as error:
                logger.warning("not recalibrated: %s", error)

        threading.Thread(target=recalibrate, daemon=True, name="recalibration").start()

    def _informed(self, predictor: LivePredictor) -> LivePredictor:
        """The predictor with the newest candles of the coins it looks at, where they can be had."""
        try:
            context = predictor.fetch_context(exchange=self.exchange, base_url=self.base_url)
            return predictor.with_context(context)
        except (ConnectionError, ValueError) as error:
            logger.warning("no candles of the other coins, so the forecast does without: %s", error)
            return predictor


@dataclass(frozen=True)
class Evaluate:
    """Score the model on candles it has never seen, with its features' drift; or a ledger.

    python inference_v2.py evaluate --candles-dir candles/binance --since 2026-01-01
    """

    candles_dir: Path | None = None
    """folder of candles, such as BTCUSDT_1h.parquet or .csv, with some 534 before the first
    forecast"""
    ledger: Path | None = None
    """score the forecasts in this file instead, which needs no model; without --candles-dir by an
    exchange's candles"""
    exchange: str | None = None
    """for a ledger: ccxt id of the exchange; default: binance, then the others that can be
    reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py"""
    symbols: tuple[str, ...] = ()
    """pairs; default: those the model was trained on, as far as --candles-dir has them"""
    timezone: str | None = None
    """zone of times in --candles-dir that name none, such as Europe/Berlin; default: UTC"""
    judged: bool = False
    """score the network that the training run's verdict is about, where the one that is served
    was trained once more, on the test part too; also done where no candle is newer than that"""
    since: str | None = None
    """only forecasts made at or after this instant, UTC; default: right after what the model has
    seen"""
    until: str | None = None
    """only candles that have closed by this instant, UTC"""
    fee_bps: float = ConfigV2.fee_bps
    """of the backtest: fee of a trade, in basis points a side"""
    output: Path | None = None
    """also write every number to this file, or as evaluation_v2.json into this folder"""
    predictions: Path | None = None
    """also write the forecasts to this Parquet file"""
    json: bool = False
    """for programs: the verdict as one JSON object on stdout, of a ledger one for each model that
    can be scored, all else on stderr"""
    verbose: bool = False
    """also say why each source of candles was left"""

    def run(self, predictor_class: type[LivePredictor]) -> None:
        """Print scores, drift and verdict."""
        with terminal.only_json(self.json) as json_out:
            if self.ledger is not None:
                scored = self._score_ledger(self.ledger)
            elif self.candles_dir is not None:
                formats.demand_files(self.candles_dir, [], "")  # before a model is opened
                predictor = open_bundle(predictor_class, self.model_dir, judged=self.judged)
                scored = self._score_model(predictor, self.candles_dir)
            else:
                raise ValueError(
                    "no candles to score the model on; pass --candles-dir DIR, or --ledger FILE "
                    "for a ledger's"
                )
            for test in scored if json_out else ():
                print(json.dumps(summary(test)), file=json_out, flush=True)

    def _score_model(self, predictor: LivePredictor, candles_dir: Path) -> list[Mapping[str, Any]]:
        """Print how the model forecasts candles that it has not seen; returns the test."""
        from pipeline.evaluation import unseen  # scikit-learn and statsmodels take their time
        from pipeline.report.evaluate_text import unseen_text

        since_ms = instant_ms(self.since, "--since")
        metadata = predictor.metadata
        predictions = self.model_dir / predictor.files.predictions
        unseen.check_test_part(predictions, predictor, metadata, since_ms)
        source = SourceConfig(candles_dir=candles_dir, timezone=self.timezone, cache_dir=None)
        read = functools.partial(
            fetch_candles,
            timeframe=predictor.timeframe,
            source=source,
            end_ms=instant_ms(self.until, "--until"),
        )
        there = folders.symbols_in(candles_dir, predictor.symbols, predictor.timeframe)
        market = read(self.symbols or there or predictor.symbols)
        if _has_learnt_all(predictor, market):
            logger.warning(
                "the network that is served has learnt all candles up to %s; scored is the one "
                "that the training run judged",
                f"{predictor.trained_until:%Y-%m-%d %H:%M}",
            )
            predictor = open_bundle(type(predictor), self.model_dir, judged=True)
        if there and predictor.wants_context:
            predictor = predictor.with_context(read(there).candles)
        result, forecasts = unseen.score_unseen(
            predictor, market, metadata, since_ms, self.fee_bps, prices_between(market, source)
        )
        lacking = [symbol for symbol in predictor.symbols if symbol not in there]
        if lacking and not self.symbols:
            result["notes"].append(
                f"not scored, since {candles_dir} does not have them: {terminal.listed(lacking)}"
            )
        unseen.write(result, forecasts, self.output, self.predictions)
        print(unseen_text(result))
        return [result["test"]]

    def next_steps(self) -> dict[str, str]:
        """What one may want then -> the command to paste."""
        candles = () if self.candles_dir is None else ("--candles-dir", self.candles_dir)
        return options.page(*candles, "--model-dir", self.model_dir)

    def _score_ledger(self, path: Path) -> list[Mapping[str, Any]]:
        """Print what came true of the forecasts in a ledger; returns each model's test."""
        if self.symbols or self.since or self.until:
            raise ValueError(
                "--symbols, --since or --until with --ledger: every forecast in it counts; leave "
                "them out"
            )
        from pipeline.evaluation import ledger_scores, unseen
        from pipeline.report.evaluate_text import ledger_text

        ledger = ledger_scores.read_begun(path)
        place = (self.candles_dir, self.exchange, self.base_url)
        markets = ledger_scores.fetch_markets(ledger, *place)
        result, forecasts = ledger_scores.score_ledger(
            ledger, path, markets, _now_ms(), self.fee_bps
        )
        unseen.write(result, forecasts, self.output, self.predictions)
        print(ledger_text(result))
        return [model["test"] for model in result["models"] if model["test"] is not None]


@dataclass(frozen=True)
class Recalibrate:
    """Fit shrinkage and confidence anew on the last 180 days of the model's own forecasts.

    python inference_v2.py recalibrate --candles-dir candles/binance
    """

    candles_dir: Path | None = None
    """folder of candles up to now; default: an exchange's candles"""
    exchange: str | None = None
    """ccxt id of the exchange; default: binance, then the others that can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py"""
    timezone: str | None = None
    """zone of times in --candles-dir that name none, such as Europe/Berlin; default: UTC"""
    until: str | None = None
    """only candles that have closed by this instant, UTC; default: the newest"""
    verbose: bool = False
    """also say why each source of candles was left"""

    def run(self, predictor_class: type[LivePredictor]) -> None:
        """Write the calibration beside the bundle, and print it beside the judged one."""
        both = _open_both(predictor_class, self.model_dir)
        place = Place(self.candles_dir, self.exchange, self.base_url, self.timezone)
        until_ms = instant_ms(self.until, "--until")
        since_ms = (until_ms or _now_ms()) - DAYS * DAY_MS
        print(_recalibrate(both, self.model_dir, place.read(both.judged, since_ms, until_ms)))

    def next_steps(self) -> dict[str, str]:
        """What one may want then -> the command to paste."""
        return options.page("--model-dir", self.model_dir)


@dataclass(frozen=True)
class Retrain:
    """Train again on what is newer, and serve the new bundle unless it is worse.

    python inference_v2.py retrain --every 30d

    The exit status is 0 where the bundle was replaced, 3 where the old one stays, 2 after an error.
    """

    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py; the bundle before goes to previous/ inside it"""
    candles_dir: Path | None = None
    """folder of candles up to now; default: an exchange's candles"""
    exchange: str | None = None
    """ccxt id of the exchange; default: binance, then the others that can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    """folder that keeps fetched candles, so that the next run fetches only what is new"""
    timezone: str | None = None
    """zone of times in --candles-dir that name none, such as Europe/Berlin; default: UTC"""
    force: bool = False
    """replace the bundle whatever the guard says"""
    every: str | None = None
    """go on: train again whenever so much time has passed, such as 30d or 12h, until Ctrl-C"""
    own_process: bool = True
    """train in a process of its own, which gives all its memory back; costs some seconds"""
    json: bool = False
    """for programs: what happened as one JSON object on stdout, all else on stderr"""
    verbose: bool = False
    """also say why each source of candles was left"""

    def run(self, predictor_class: type[LivePredictor], train: Train) -> None:
        """Retrain once, or again and again; a bundle that stays ends with status `EXIT_KEPT`."""
        from pipeline import retraining  # statsmodels takes its time

        pause_ms = retraining.span_ms(self.every) if self.every is not None else None
        while True:
            begun_ms = _now_ms()
            with terminal.only_json(self.json) as json_out:
                try:
                    told = self._once(predictor_class, train)
                    due_ms = begun_ms + (pause_ms or 0)
                except (ValueError, OSError) as error:  # an exchange that is down, say
                    if pause_ms is None:
                        raise
                    logger.warning("%s", error)
                    told = {"replaced": False, "reason": privacy.without_secrets(str(error))}
                    due_ms = _now_ms() + min(pause_ms, RETRIED_MS)
                if pause_ms is not None:
                    print(f"Next retraining: {minute(due_ms)}", flush=True)
                if json_out is not None:
                    print(json.dumps(told), file=json_out, flush=True)
            if pause_ms is None:
                break
            time.sleep(max(due_ms - _now_ms(), 0) / 1000)
        if not told["replaced"]:
            raise SystemExit(EXIT_KEPT)

    def next_steps(self) -> dict[str, str]:
        """What one may want then -> the command to paste."""
        return options.page("--model-dir", self.model_dir)

    def _once(self, predictor_class: type[LivePredictor], train: Train) -> dict[str, Any]:
        """Train, judge, replace or not; returns what happened."""
        from pipeline import retraining

        folder, names = self.model_dir, predictor_class.files
        if not (folder / names.metadata).is_file():
            raise ValueError(no_model(folder))
        with retraining.alone(folder):
            is_moved = retraining.complete_moves(folder, names)
            both = _open_both(predictor_class, folder)
            again = functools.partial(
                retraining.settings_again,
                both.served.metadata,
                timeframe=both.served.timeframe,
                horizon=both.served.horizon,
            )
            again(both.served.cuts.get("test_end", 0))  # what cannot be used is refused at once
            place = Place(
                self.candles_dir, self.exchange, self.base_url, self.timezone, self.cache_dir
            )
            market = place.read(both.judged, both.served.cuts.get("val_end", 0))
            if is_moved:
                retraining.discard(folder)
                return _replaced(both, folder, market, "a retraining that was cut off is complete")

            scored = _score_served(both.served, market)
            symbol, until_ms = _first_to_end(market)
            if until_ms <= both.served.cuts.get("test_end", 0):
                reason = f"{symbol} has no candle after {minute(until_ms)}, which is known"
                return _kept(both, folder, market, reason) | {"on_new_candles": scored}

            config = replace(
                place.settings_in(again(until_ms)), output_dir=folder / retraining.NEXT
            )
            left = retraining.find_left(folder, names, config, both.served._probe())
            if not left.is_complete:
                _train(train, replace(config, resume=left.is_resumable), self.own_process)
            new = open_bundle(predictor_class, folder / retraining.NEXT, judged=True)
            decision = _decide(both.judged, new, market, folder / retraining.NEXT)
            told = {"on_new_candles": scored, "verdict": new.metrics()["test"]["verdict"]}
            if not (decision.is_accepted or self.force):
                logger.info("--force serves it all the same, within a day without a new training")
                return _kept(both, folder, market, decision.reason) | told
            retraining.install(folder, names)
            both = _open_both(predictor_class, folder)
            by_force = "" if decision.is_accepted else " (--force)"
            return _replaced(both, folder, market, f"{decision.reason}{by_force}") | told


@dataclass(frozen=True)
class Place:
    """Where the candles of a bundle's pairs come from."""

    candles_dir: Path | None
    exchange: str | None
    base_url: str | None
    timezone: str | None
    cache_dir: Path | None = None

    @property
    def source(self) -> SourceConfig:
        """The same as settings; candles are never made up."""
        return SourceConfig(
            "exchange" if self.candles_dir is None else "directory",
            candles_dir=self.candles_dir,
            timezone=self.timezone,
            exchange=self.exchange,
            base_url=self.base_url,
            cache_dir=self.cache_dir if self.candles_dir is None else None,
        )

    def settings_in(self, config: ConfigV2) -> ConfigV2:
        """A run's settings, with its candles from here."""
        source = self.source
        own = ("source", "candles_dir", "timezone", "exchange", "base_url", "cache_dir")
        found: dict[str, Any] = {name: getattr(source, name) for name in own}
        return replace(config, **found)

    def read(self, predictor: LivePredictor, since_ms: int, end_ms: int | None = None) -> CandleSet:
        """Candles of the pairs that a model was trained on, and the history before them.

        Args:
            predictor: The model.
            since_ms: When the first forecast is made that is wanted, epoch ms; a folder is read as
                a whole.
            end_ms: See `fetch_candles`.
        """
        if self.candles_dir is not None:
            formats.demand_files(self.candles_dir, [], "")
            there = folders.symbols_in(self.candles_dir, predictor.symbols, predictor.timeframe)
            symbols = there or predictor.symbols
            return fetch_candles(symbols, predictor.timeframe, source=self.source, end_ms=end_ms)
        before_ms = predictor.required_candles * timeframe_ms(predictor.timeframe)
        return fetch_candles(
            predictor.symbols,
            predictor.timeframe,
            source=self.source,
            since_ms=max(since_ms - before_ms, 0),
            end_ms=end_ms,
            published=predictor.published,
        )


class Both(NamedTuple):
    """The networks of one bundle, which may be the same."""

    judged: LivePredictor
    """that of the verdict"""
    served: LivePredictor


def _open_both(predictor_class: type[LivePredictor], folder: Path) -> Both:
    """Both networks of what lies in a folder at one moment, by the calibration that was judged.

    Raises:
        ValueError: See `open_bundle`; or the bundle was replaced between the two.
    """
    judged = open_bundle(predictor_class, folder, judged=True)
    served = open_bundle(predictor_class, folder, recalibrated=False)
    if judged.metadata != served.metadata:
        raise ValueError(f"{folder}: the bundle is being replaced at this moment; try again")
    return Both(judged, served)


def _recalibrate(both: Both, folder: Path, market: CandleSet) -> str:
    """Fit a calibration on the judged network's forecasts, for the served one; returns the text.

    The judged network has forecast more candles that it has not learnt. The one that is served is
    shrunk by the same rule.
    """
    from pipeline.evaluation import unseen

    judged = both.judged
    metadata = judged.metadata
    unseen.check_test_part(folder / judged.files.predictions, judged, metadata)
    informed = _in_market(judged, market)
    fitted = unseen.recalibrate(informed, market, metadata)
    path = folder / judged.files.recalibration
    before, anew = judged.calibration.as_dict(), fitted.calibration.as_dict()
    with files.unmoved(folder):
        if judged.is_replaced():
            raise ValueError(f"{folder}: the bundle was replaced meanwhile; recalibrate again")
        write_recalibration(path, fitted, judged.calibration, both.served.sha256)
    rows = [["", "judged", "recalibrated"]]
    rows += [[name, f"{before[name]:.4f}", f"{anew[name]:.4f}"] for name in before]
    return (
        f"{text_table(rows, indent='')}\n"
        f"\nFitted on {fitted.n:,} forecasts of {terminal.listed(market.candles)}, made from "
        f"{minute(fitted.first_ms)} on, that had come true by {minute(fitted.until_ms)}.\n"
        f"{path}: predict, live and the page use it from now on; evaluate shows both."
    )


def _try_recalibrating(both: Both, folder: Path, market: CandleSet) -> bool:
    """Recalibrate where enough has come true; whether it was done."""
    try:
        text = _recalibrate(both, folder, market)
    except ValueError as error:
        logger.info("not recalibrated: %s", error)
        return False
    print(f"{text}\n")
    return True


def _replaced(both: Both, folder: Path, market: CandleSet, reason: str) -> dict[str, Any]:
    """Tell that a new bundle is served, recalibrated where that can be."""
    told = _outcome(both, folder, market, reason)
    print(f"Replaced: {reason}; the network has learnt candles to {told['trained_until']}.")
    return {"replaced": True, **told}


def _kept(both: Both, folder: Path, market: CandleSet, reason: str) -> dict[str, Any]:
    """Tell that the old bundle stays, recalibrated where that can be."""
    told = _outcome(both, folder, market, reason)
    print(f"Kept: {reason}.")
    return {"replaced": False, **told}


def _outcome(both: Both, folder: Path, market: CandleSet, reason: str) -> dict[str, Any]:
    until_ms = both.served.learnt_until_ms({})
    return {
        "reason": reason,
        "trained_until": None if until_ms is None else minute(until_ms),
        "candles_until": minute(_first_to_end(market)[1]),
        "recalibrated": _try_recalibrating(both, folder, market),
    }


def _score_served(served: LivePredictor, market: CandleSet) -> dict[str, Any] | None:
    """Print how the served network fared on candles that it has not learnt; None without any."""
    from pipeline.evaluation import unseen

    informed = _in_market(served, market)
    try:
        result, _ = unseen.score_unseen(informed, market, served.metadata)
    except ValueError as error:
        logger.info("the served network is not scored on newer candles: %s", error)
        return None
    told = summary(result["test"])
    span = result["span"]
    print(
        f"Served so far, on {span['n']:,} forecasts of {span['first']} to {span['last']} that it "
        f"had not learnt, by the judged calibration: {verdict_sentence(result['test'])}.",
        flush=True,
    )
    return told


def _train(train: Train, config: ConfigV2, own_process: bool) -> None:
    """The training run, told as it goes on."""
    from pipeline.training import parallel

    logger.info("%s", "going on with what was cut off" if config.resume else "training anew")
    job = {"retraining": functools.partial(train, config)}
    for _, result in parallel.run_jobs(job, own_process=own_process):
        if isinstance(result, Exception):
            raise ValueError(
                f"the training failed ({type(result).__name__}: {result}), and the bundle stays; "
                "mend the cause and retrain again, which goes on from here for a day"
            ) from result


def _decide(judged: LivePredictor, new: LivePredictor, market: CandleSet, folder: Path) -> Decision:
    """What the guard says of a new bundle, by the judged networks of both."""
    from pipeline import retraining
    from pipeline.evaluation import unseen

    predictions = pd.read_parquet(folder / new.files.predictions)
    since_ms = max(new.cuts["val_end"], judged.learnt_until_ms({}) or 0)
    informed = _in_market(judged, market).without_caution()  # one network is older
    old = unseen.forecast_unseen(informed, market, since_ms)
    return retraining.decide(
        retraining.forecasts_of(old, unseen.NETWORK),
        retraining.forecasts_of(predictions, unseen.NETWORK),
        new.metrics()["test"],
        new.horizon,
    )


def _first_to_end(market: CandleSet) -> tuple[str, int]:
    """The pair whose candles end first, and the close of its last one, epoch ms."""
    ends = {symbol: int(timestamps_ms(frame)[-1]) for symbol, frame in market.candles.items()}
    first = min(ends, key=ends.__getitem__)
    return first, ends[first] + timeframe_ms(market.timeframe)


def _in_market(predictor: LivePredictor, market: CandleSet) -> LivePredictor:
    """The predictor with the other coins' candles, if it looks at them."""
    return predictor.with_context(market.candles) if predictor.wants_context else predictor


def _is_recalibration_due(predictor: LivePredictor) -> bool:
    """Whether the calibration in use is old, and candles for a newer one are not too many."""
    until = predictor.calibrated_until
    if not predictor.files.recalibration or until is None:
        return False
    n_candles = DAYS * DAY_MS // timeframe_ms(predictor.timeframe)
    is_old = _now_ms() - int(until.timestamp() * 1000) > RECALIBRATED_EVERY_MS
    return is_old and n_candles <= MOST_CANDLES


def _has_learnt_all(predictor: LivePredictor, market: CandleSet) -> bool:
    """Whether the network that is served has learnt the test part, and no candle is newer."""
    if not predictor.has_judged_beside:
        return False
    lasts_ms = [int(timestamps_ms(candles)[-1]) for candles in market.candles.values()]
    end_ms = max(lasts_ms) + timeframe_ms(market.timeframe)
    return end_ms <= (predictor.learnt_until_ms({}) or 0)


def _with_neighbours(
    predictor: LivePredictor, folder: Path, candles: pd.DataFrame
) -> LivePredictor:
    """The predictor with the other coins' candles, if it looks at them.

    They lie in the folder of the pair's own, or in the cache.
    """
    if not predictor.wants_context:
        return predictor
    context = {}
    for symbol in folders.symbols_in(folder, predictor.symbols, predictor.timeframe):
        try:
            context[symbol] = formats.read_directory(folder, symbol, predictor.timeframe)
        except ValueError as error:
            logger.warning("%s: not used: %s", symbol, error)
    logger.info("candles of %s in %s", terminal.counted(len(context), "coin"), folder)
    until_ms = int(timestamps_ms(candles)[-1]) + timeframe_ms(predictor.timeframe)
    jobs = [
        Job(symbol, predictor.timeframe, until_ms=until_ms, n_candles=predictor.required_candles)
        for symbol in predictor.symbols
        if symbol not in context
    ]
    kept = fetch_cache.find_stored(default_cache_dir(), jobs, None).answers
    if kept:
        told = terminal.counted(len(kept), "further coin")
        logger.info("candles of %s in %s", told, default_cache_dir())
    return predictor.with_context(context | {job.symbol: kept[job] for job in kept})


def _show(
    predictor: LivePredictor,
    candles: pd.DataFrame,
    last_price: float | None,
    picture: Path | None,
    json_out: TextIO | None,
) -> Prediction:
    """Print the forecast from the last of these candles, for people and, if wanted, as JSON."""
    prediction = predictor.predict(candles, last_price)
    if note := untrained_note(prediction["symbol"], predictor.symbols):
        logger.warning("%s", note)
    print(*forecast_lines(prediction), sep="\n", flush=True)
    if json_out is not None:
        print(json.dumps(as_json(prediction)), file=json_out, flush=True)
    if picture is not None:
        predictor.picture_of(prediction, candles).savefig(picture, dpi=120)
        print(f"Picture: {picture}", flush=True)
    return prediction


def _enter(
    ledger: Path | None,
    predictor: LivePredictor,
    symbol: str,
    candles: pd.DataFrame,
    prediction: Prediction,
) -> None:
    """Enter a forecast into the ledger, if there is one, and print the hash to publish."""
    if ledger is None:
        return
    try:
        forecast = ledgers.forecast_of(predictor, symbol, candles, prediction)
        number, sha256 = ledgers.append(ledger, forecast, now_ms=_now_ms)
    except ledgers.AlreadyEnteredError as error:  # a job that runs twice, or a second watch
        print(f"Ledger: {error}", flush=True)
    else:
        print(f"Ledger: line {number}, sha256 {sha256}", flush=True)


def _show_outcomes(pending: list[Prediction], candles: pd.DataFrame) -> list[Prediction]:
    """Print what came true of forecasts whose candle has closed; returns the others."""
    closes = dict(zip(candles["timestamp"], candles["close"]))
    for prediction in pending:
        if prediction["timestamp"] in closes:
            print(f"\n{judge(prediction, closes[prediction['timestamp']])}\n")
    newest = candles["timestamp"].iloc[-1]
    return [prediction for prediction in pending if prediction["timestamp"] > newest]


def _now_ms() -> int:
    return int(time.time() * 1000)
