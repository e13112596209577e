"""CryptoPricePredictorV2: reloads what train_v2_production.py saves; and the command `python
inference_v2.py`.

    from inference_v2 import CryptoPricePredictorV2
    predictor = CryptoPricePredictorV2(model_path="crypto_v2_final_model.h5",
    scaler_path="scalers_v2.pkl") predictor.predict(df)["price"]

Importing this module loads no TensorFlow, scikit-learn, XGBoost, arch or ccxt; opening a model
loads Keras.
"""

from __future__ import annotations

import copy
import functools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from config import TRADING_PAIRS, ConfigV2, SourceConfig, default_output_dir
from feature_engineering import V2_FEATURES, V2_OPTIONAL_FEATURES, V2_WARMUP, compute_features
from pipeline import terminal
from pipeline.bundle.files import BundleFiles
from pipeline.candles import store
from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.forecasts import ledger as ledgers
from pipeline.forecasts.picture import format_price, judge
from pipeline.forecasts.predictor import CandlePredictor, read_closed
from pipeline.samples.pooled_features import (
    POOLED_FEATURES,
    POOLED_MARKET_FEATURES,
    market_features,
    preset_of,
    with_market,
)
from pipeline.samples.scaling import to_log_return

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger("inference_v2")  # __name__ is __main__ where this is the command

PUBLICATION_S = 2.0
"""From a candle's close until exchanges serve it."""
RETRY_S = 10.0

FILES = BundleFiles(
    model="crypto_v2_final_model.h5",
    checkpoint="best_v2_model.h5",
    scalers="scalers_v2.pkl",
    metrics="metrics_v2.json",
    predictions="predictions_v2.parquet",
    report="report_v2.html",
    log="training_log_v2.txt",
    metadata="metadata_v2.json",
)
MODEL_FILE, SCALER_FILE, METADATA_FILE = FILES.model, FILES.scalers, FILES.metadata


class CryptoPricePredictorV2(CandlePredictor):
    """Forecasts the close `horizon` candles ahead from recent candles of one pair; see
    `CandlePredictor` for the verbs.

    Args:
        model_path: `crypto_v2_final_model.h5` (or `best_v2_model.h5`).
        scaler_path: `scalers_v2.pkl` of the same training run.
    """

    files = FILES
    known_features = (*V2_FEATURES, *POOLED_FEATURES)
    warmup = V2_WARMUP
    _market: pd.DataFrame | None = None
    """what `with_context` made of other coins' candles"""

    @property
    def wants_context(self) -> bool:
        """Whether the model looks at other coins' candles too, as those of the pooled preset do."""
        return any(name in POOLED_MARKET_FEATURES for name in self.feature_cols)

    def with_context(self, context: Mapping[str, pd.DataFrame] | None) -> Self:
        """This predictor, knowing what other coins did.

        Args:
            context: Pair -> its recent closed candles, at least `required_candles`, of all of
                `symbols` or as many as there are, the forecast pair's own among them. It is looked
                at where "BTC/USDT" and at least two others have the candle that is forecast from;
                elsewhere the forecast is what it would be without. None changes nothing.
        """
        if not context or not self.wants_context:
            return self
        closed = {
            symbol: read_closed(frame, self.timeframe, where=symbol)
            for symbol, frame in context.items()
        }
        informed = copy.copy(self)
        informed._market = market_features(closed, self.timeframe)
        return informed

    @property
    def published(self) -> list[str]:
        """What futures exchanges publish that the model looks at, of `store.PUBLISHED`."""
        columns = {
            V2_OPTIONAL_FEATURES[name] for name in self.feature_cols if name in V2_OPTIONAL_FEATURES
        }
        return [kind for kind, column in store.PUBLISHED.items() if column in columns]

    def fetch_live(
        self, symbol: str, *, exchange: str | None = None, base_url: str | None = None
    ) -> pd.DataFrame:
        """Fetch the newest closed candles of a pair, as many as a forecast wants, with all the
        columns it uses.

        Args:
            symbol: Such as "BTC/USDT".
            exchange: ccxt id; the first exchange of the chain that answers by default.
            base_url: Where to reach the exchange instead of its own address.

        Raises:
            ConnectionError: No exchange can be reached.
            ValueError: No exchange has the pair.
        """
        from data_fetcher import fetch_candles  # lazy: only live forecasts need the exchanges

        market = fetch_candles(
            [symbol],
            self.timeframe,
            self.required_candles,
            source=SourceConfig(
                source="exchange", exchange=exchange, base_url=base_url, cache_dir=None
            ),
            published=self.published,
        )
        return next(iter(market.candles.values()))

    def predict_live(
        self, symbol: str, *, exchange: str | None = None, base_url: str | None = None
    ) -> dict[str, Any]:
        """Forecast from the newest closed candle of a pair; arguments and errors of `fetch_live`
        and `predict`."""
        candles = self.fetch_live(symbol, exchange=exchange, base_url=base_url)
        return self.predict(
            candles, context=self.fetch_context(exchange=exchange, base_url=base_url)
        )

    def fetch_context(
        self, *, exchange: str | None = None, base_url: str | None = None
    ) -> dict[str, pd.DataFrame]:
        """The newest closed candles of every pair the model was trained on, for `with_context`; see
        `fetch_live`.

        Empty, and nothing is fetched, where the model looks at one coin alone.
        """
        if not self.wants_context:
            return {}
        from data_fetcher import fetch_candles

        return fetch_candles(
            self.symbols,
            self.timeframe,
            self.required_candles,
            source=SourceConfig(
                source="exchange", exchange=exchange, base_url=base_url, cache_dir=None
            ),
        ).candles

    def _features(self, candles: pd.DataFrame) -> pd.DataFrame:
        if preset_of(self.feature_cols) == "pooled":
            return with_market(candles, self._market, self.timeframe, self.feature_cols)
        return compute_features(candles, self.timeframe, self.feature_cols)

    def _to_log_return(
        self, output: np.ndarray, base_price: np.ndarray, volatility: np.ndarray
    ) -> np.ndarray:
        return to_log_return(output, volatility, self._y_scaler)


@dataclass(frozen=True)
class Predict:
    """Forecast the next candle from a file of recent candles."""

    candles: Path
    """Parquet or CSV file with timestamp, open, high, low, close, volume"""
    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py"""
    last_price: float | None = None
    """price the forecast starts from; default: the last close"""
    picture: Path | None = None
    """also save a picture of the recent candles, the forecast and its band, such as forecast.png"""
    ledger: Path | None = None
    """also enter the forecast into this file, before its candle closes"""
    symbol: str | None = None
    """pair, for the ledger; default: what the file is named by, as BTCUSDT_1h.parquet"""

    def run(self) -> None:
        """Print the forecast as the guide shows it."""
        if self.ledger is not None and self.last_price is not None:
            raise ValueError(
                f"--last-price {self.last_price:g} with --ledger: a ledger judges the return from "
                "the last close; leave one of the two out"
            )
        predictor = CryptoPricePredictorV2.from_directory(self.model_dir)
        symbol = self.symbol or ""
        if self.ledger is not None and not symbol:
            symbol = ledgers.symbol_of(self.candles, predictor.timeframe, TRADING_PAIRS)
        candles = store.read_file(self.candles, predictor.timeframe)
        prediction = _show(predictor, candles, self.last_price, self.picture)
        _enter(self.ledger, predictor, symbol, candles, prediction)


@dataclass(frozen=True)
class Live:
    """Fetch the newest candles of a pair from an exchange, and forecast the next one."""

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

    def run(self) -> None:
        """Print the forecast; with `watch` another one at every close, after what came true of the
        one before."""
        predictor = CryptoPricePredictorV2.from_directory(self.model_dir)
        if not self.watch:
            candles = predictor.fetch_live(
                self.symbol, exchange=self.exchange, base_url=self.base_url
            )
            prediction = _show(self._informed(predictor), candles, None, self.picture)
            _enter(self.ledger, predictor, self.symbol, candles, prediction)
            return
        if self.ledger is not None:
            ledgers.check(
                self.ledger
            )  # so that a fault ends the run now and is no warning at every close
        pending: list[dict[str, Any]] = []  # forecasts whose candle has not closed yet
        for candles in watch(
            predictor, self.symbol, exchange=self.exchange, base_url=self.base_url
        ):
            pending = _show_outcomes(pending, candles)
            try:
                pending.append(_show(self._informed(predictor), candles, None, self.picture))
            except ValueError as error:  # a gap, say, which later candles leave behind
                logger.warning("no forecast: %s", error)
                continue
            try:
                _enter(self.ledger, predictor, self.symbol, candles, pending[-1])
            except ValueError as error:  # fetched too late, say, which the next candle need not be
                logger.warning("%s", error)

    def _informed(self, predictor: CryptoPricePredictorV2) -> CryptoPricePredictorV2:
        """The predictor with the newest candles of the coins it looks at; without, where there are
        none."""
        try:
            return predictor.with_context(
                predictor.fetch_context(exchange=self.exchange, base_url=self.base_url)
            )
        except (ConnectionError, ValueError) as error:
            logger.warning("no candles of the other coins, so the forecast does without: %s", error)
            return predictor


@dataclass(frozen=True)
class Evaluate:
    """Score the model on candles it has never seen, with the drift of its features; or what a
    ledger holds."""

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

    def run(self) -> None:
        """Print scores, drift and verdict."""
        if self.ledger is not None:
            self._score_ledger(self.ledger)
            return
        if self.candles_dir is None:
            raise ValueError(
                "no candles to score the model on; pass --candles-dir DIR, or --ledger FILE for a "
                "ledger's"
            )
        from data_fetcher import fetch_candles, to_ms
        from pipeline.evaluation import unseen  # scikit-learn and statsmodels take their time

        predictor = CryptoPricePredictorV2.from_directory(self.model_dir)
        files = {
            symbol: store.find_file(self.candles_dir, symbol, predictor.timeframe)
            for symbol in predictor.symbols
        }
        there = [symbol for symbol, file in files.items() if file is not None]
        symbols, until_ms = self.symbols or there or predictor.symbols, to_ms(self.until, "--until")
        read = functools.partial(
            fetch_candles,
            source=SourceConfig(candles_dir=self.candles_dir, cache_dir=None),
            end_ms=until_ms,
        )
        market = read(symbols, predictor.timeframe)
        if there and predictor.wants_context:
            predictor = predictor.with_context(read(there, predictor.timeframe).candles)
        features = {
            symbol: predictor._features(candles) for symbol, candles in market.candles.items()
        }
        metadata = unseen.read_metadata(self.model_dir / METADATA_FILE)
        since_ms = to_ms(self.since, "--since")
        result, forecasts = unseen.score_unseen(
            predictor, market, features, metadata, since_ms, self.fee_bps
        )
        if lacking := [
            symbol for symbol in predictor.symbols if not (self.symbols or symbol in there)
        ]:
            result["notes"].append(
                f"not scored, since {self.candles_dir} does not have them: {', '.join(lacking)}"
            )
        unseen.write(result, forecasts, self.output, self.predictions)
        print(unseen.as_text(result))

    def _score_ledger(self, path: Path) -> None:
        """Print what came true of the forecasts in a ledger."""
        if self.symbols or self.since or self.until:
            raise ValueError(
                "--symbols, --since or --until with --ledger: every forecast in it counts; leave "
                "them out"
            )
        from data_fetcher import fetch_candles
        from pipeline.evaluation import ledger_scores, unseen

        ledger = ledgers.read(path)
        if not ledger.entries:
            raise ValueError(
                f"{path}: no forecast is in it yet; predict --ledger or live --ledger enters them"
            )
        markets = {}
        for timeframe in dict.fromkeys(entry["timeframe"] for entry in ledger.entries):
            symbols = dict.fromkeys(
                entry["symbol"] for entry in ledger.entries if entry["timeframe"] == timeframe
            )
            markets[timeframe] = fetch_candles(
                list(symbols),
                timeframe,
                source=SourceConfig(
                    source="auto" if self.candles_dir else "exchange",
                    exchange=self.exchange,
                    candles_dir=self.candles_dir,
                    base_url=self.base_url,
                    cache_dir=None,
                ),
                since_ms=ledger_scores.first_needed_ms(ledger, timeframe),
            )
        result, forecasts = ledger_scores.score_ledger(
            ledger, path, markets, _now_ms(), self.fee_bps
        )
        unseen.write(result, forecasts, self.output, self.predictions)
        print(ledger_scores.as_text(result))


def watch(
    predictor: CryptoPricePredictorV2,
    symbol: str,
    *,
    exchange: str | None = None,
    base_url: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[pd.DataFrame]:
    """The newest candles of a pair at once, and again after every close.

    An exchange needs a moment to publish a candle that has closed, and may be out of reach for a
    while: then it is asked again, with a notice, as long as it takes. The first fetch raises
        instead.
    """
    step_ms = timeframe_ms(predictor.timeframe)
    candles = predictor.fetch_live(symbol, exchange=exchange, base_url=base_url)
    while True:
        yield candles
        last_ms = timestamps_ms(candles)[-1]
        wait_s = (last_ms + 2 * step_ms) / 1000 + PUBLICATION_S - time.time()
        while timestamps_ms(candles)[-1] == last_ms:
            sleep(max(wait_s, 0.0))
            wait_s = RETRY_S
            try:
                candles = predictor.fetch_live(symbol, exchange=exchange, base_url=base_url)
            except (ConnectionError, ValueError) as error:
                logger.warning("%s; asking again in %.0f s", error, RETRY_S)


def _show(
    predictor: CryptoPricePredictorV2,
    candles: pd.DataFrame,
    last_price: float | None,
    picture: Path | None,
) -> dict[str, Any]:
    """Print the forecast from the last of these candles."""
    prediction = predictor.predict(candles, last_price)
    low, high = format_price(prediction["price_low"]), format_price(prediction["price_high"])
    print(f"Next price: ${format_price(prediction['price'])}")
    print(f"Expected return: {prediction['return_percent']:+.4f}%")
    print(
        f"Confidence: {prediction['confidence']:.1%}  (that the direction is right; 50 % is a coin "
        "flip)"
    )
    print(f"80 % interval: ${low} to ${high}")
    candle = (
        f"close of the {predictor.timeframe} candle of {prediction['timestamp']:%Y-%m-%d %H:%M} UTC"
    )
    print(f"Forecast: {candle}, from ${format_price(prediction['last_price'])}", flush=True)
    if picture is not None:
        predictor.plot(candles, last_price).savefig(picture, dpi=120)
        print(f"Picture: {picture}", flush=True)
    return prediction


def _enter(
    ledger: Path | None,
    predictor: CryptoPricePredictorV2,
    symbol: str,
    candles: pd.DataFrame,
    made: dict[str, Any],
) -> None:
    """Enter a forecast into the ledger, if there is one, and print the hash to publish."""
    if ledger is None:
        return
    try:
        forecast = ledgers.forecast_of(predictor, symbol, candles, made)
        number, sha256 = ledgers.append(ledger, forecast, now_ms=_now_ms)
    except (
        ledgers.AlreadyEnteredError
    ) as error:  # a job that runs twice, or a watch that was started again
        print(f"Ledger: {error}", flush=True)
    else:
        print(f"Ledger: line {number}, sha256 {sha256}", flush=True)


def _now_ms() -> int:
    return int(time.time() * 1000)


def _show_outcomes(pending: list[dict[str, Any]], candles: pd.DataFrame) -> list[dict[str, Any]]:
    """Print what came true of forecasts whose candle has closed; returns the others."""
    closes = dict(zip(candles["timestamp"], candles["close"]))
    for prediction in pending:
        actual = closes.get(prediction["timestamp"])
        if actual is not None:
            print(f"\n{judge(prediction, actual)}\n")
    return [
        prediction
        for prediction in pending
        if prediction["timestamp"] > candles["timestamp"].iloc[-1]
    ]


def main() -> None:
    """Parse the subcommand and run it."""
    import tyro  # lazy: notebooks and bots that import the predictor need no command line

    commands: dict[str, Any] = {"predict": Predict, "live": Live, "evaluate": Evaluate}
    command = tyro.extras.subcommand_cli_from_dict(commands, description=__doc__)
    with terminal.plain_warnings(), terminal.notices():
        command.run()


if __name__ == "__main__":
    with terminal.one_line_errors():
        main()
