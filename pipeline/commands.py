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
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pandas as pd

from config import TRADING_PAIRS, ConfigV2, SourceConfig, default_cache_dir, default_output_dir
from pipeline import options, privacy, recalibrating, terminal
from pipeline.bundle.metadata import MAX_SHOWN, minute, shown
from pipeline.candles import folders, formats, store
from pipeline.candles.fetching import expand_symbols, fetch_candles
from pipeline.candles.finer import prices_between
from pipeline.candles.pairs import pair_of
from pipeline.candles.schema import DAY_MS, instant_ms
from pipeline.forecasts import ledger as ledgers
from pipeline.forecasts.live import LivePredictor, watch
from pipeline.forecasts.opening import open_bundle, source_of, with_neighbours
from pipeline.forecasts.prediction import Prediction, as_json, forecast_lines, judge, untrained_note
from pipeline.forecasts.webhook import Webhook
from pipeline.report.reading import summary

if TYPE_CHECKING:
    from pipeline.retraining import Train

logger = logging.getLogger(__name__)


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
            predictor = with_neighbours(predictor, self.candles.parent, candles)
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
            predictor = open_bundle(predictor_class, self.model_dir)
            go = self._follow if self.watch else self._forecast_once
            go(predictor, json_out, webhook)

    def _forecast_once(
        self, predictor: LivePredictor, json_out: TextIO | None, webhook: Webhook | None
    ) -> None:
        """Forecast from the newest candles."""
        candles = predictor.fetch_live(self.symbol, exchange=self.exchange, base_url=self.base_url)
        prediction = self._forecast(predictor, candles, json_out, webhook)
        try:
            _enter(self.ledger, predictor, self.symbol, candles, prediction)
        finally:  # what was shown is posted, too, where the ledger refuses it
            if webhook is not None:
                webhook.finish()

    def _follow(
        self, predictor: LivePredictor, json_out: TextIO | None, webhook: Webhook | None
    ) -> None:
        """Forecast at every close, tell what came true of the last, and recalibrate when due."""
        if self.ledger is not None:
            ledgers.check(self.ledger)  # a damaged file ends the run at once
        pending: list[Prediction] = []  # forecasts whose candle has not closed yet
        tried_ms = 0
        newest = watch(predictor, self.symbol, exchange=self.exchange, base_url=self.base_url)
        for candles in newest:
            pending = _show_outcomes(pending, candles)
            predictor = predictor.reopened()  # a bundle that was replaced since the last candle
            try:
                pending.append(self._forecast(predictor, candles, json_out, webhook))
            except ValueError as error:  # a gap, say, which later candles leave behind
                logger.warning("no forecast: %s", error)
                continue
            try:
                _enter(self.ledger, predictor, self.symbol, candles, pending[-1])
            except ValueError as error:  # fetched too late, say, which the next candle need not be
                logger.warning("%s", error)
            now_ms = _now_ms()
            is_tried = now_ms - tried_ms < DAY_MS
            if self.recalibrate and not is_tried and recalibrating.is_due(predictor, now_ms):
                tried_ms = now_ms
                source = source_of(None, self.exchange, self.base_url)
                recalibrating.recalibrate_aside(type(predictor), self.model_dir, source, now_ms)

    def _forecast(
        self,
        predictor: LivePredictor,
        candles: pd.DataFrame,
        json_out: TextIO | None,
        webhook: Webhook | None,
    ) -> Prediction:
        """Show the forecast from these candles, and post it."""
        prediction = _show(self._informed(predictor), candles, None, self.picture, json_out)
        if webhook is not None:
            webhook.post(prediction)
        return prediction

    def _informed(self, predictor: LivePredictor) -> LivePredictor:
        """The predictor with the newest candles of the coins it looks at, where they can be had."""
        try:
            context = predictor.fetch_context(exchange=self.exchange, base_url=self.base_url)
            return predictor.with_context(context)
        except (ConnectionError, ValueError) as error:
            logger.warning("no candles of the other coins, so the forecast does without: %s", error)
            return predictor

    def next_steps(self) -> dict[str, str]:
        """What one may want then -> the command to paste."""
        bundle = ("--model-dir", self.model_dir)
        watching = ("live", "--symbol", self.symbol, "--watch", *bundle)
        follow = options.command("inference_v2.py", *watching)
        return {"at every close": follow, **options.page(*bundle)}


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
        is_learnt = max(market.ends_ms.values()) <= (predictor.learnt_until_ms({}) or 0)
        if predictor.has_judged_beside and is_learnt:
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
        source = source_of(self.candles_dir, self.exchange, self.base_url, self.timezone)
        until_ms = instant_ms(self.until, "--until")
        folder, now_ms = self.model_dir, _now_ms()
        print(recalibrating.recalibrate(predictor_class, folder, source, now_ms, until_ms))

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
        source = source_of(
            self.candles_dir, self.exchange, self.base_url, self.timezone, self.cache_dir
        )
        once = functools.partial(
            retraining.retrain_once,
            predictor_class,
            train,
            self.model_dir,
            source,
            force=self.force,
            own_process=self.own_process,
        )
        while True:
            begun_ms = _now_ms()
            with terminal.only_json(self.json) as json_out:
                try:
                    told = once()
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
