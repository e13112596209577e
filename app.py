"""The interactive page: a coin's candles, the forecast, and what came true of the last ones.

    python app.py --candles-dir DIR       # then open http://127.0.0.1:7860

It opens a bundle of train_v2_production.py, trains nothing, and asks for nothing outside but
candles. Programs ask its endpoint /predict. Importing this module loads neither Gradio (optional:
pip install gradio) nor Keras.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from config import TRADING_PAIRS, SourceConfig, default_output_dir
from data_fetcher import expand_symbols, fetch_candles
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import privacy, terminal
from pipeline.bundle import files
from pipeline.candles import store
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.evaluation.outcomes import find_outcomes
from pipeline.forecasts.prediction import aged, as_json, untrained_note
from pipeline.report import live_page
from pipeline.report.live_page import Answer

if TYPE_CHECKING:
    import gradio

logger = logging.getLogger("app")

NO_CLAIM = "NO CLAIM (synthetic data)"
SHOWN = 48
"""past forecasts on the page"""
PUBLICATION_MS = 2_000
"""From a candle's close until exchanges serve it."""
RETRY_MS = 60_000
"""For how long an answer is kept at least, and at most where its candles are late or a stopgap."""
MAX_KEPT = 64
"""Answers kept; whoever calls the endpoint may name any number of pairs."""


@dataclass(frozen=True)
class Options:
    """The page's settings."""

    model_dir: Path = field(default_factory=lambda: default_output_dir("v2"))
    """output folder of train_v2_production.py"""
    candles_dir: Path | None = None
    """directory of BTCUSDT_1h.parquet or .csv files"""
    source: Literal["auto", "exchange", "directory", "synthetic"] = "auto"
    """auto: --candles-dir if given, else an exchange, else synthetic candles under a banner"""
    exchange: str | None = None
    """ccxt id of the exchange; default: binance, then the others that can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    host: str = field(default_factory=lambda: os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    """address to listen on; 0.0.0.0 lets other machines in"""
    port: int = field(default_factory=lambda: int(os.environ.get("GRADIO_SERVER_PORT", "7860")))
    """port to listen on"""
    share: bool = False
    """also open a public tunnel through Gradio's servers"""


class Forecaster:
    """An open bundle and its candles; an answer is kept until the next candle closes."""

    def __init__(self, options: Options) -> None:
        """Open the bundle.

        Raises:
            ValueError: There is no trained model, or its files are damaged or not of one run.
        """
        folder = options.model_dir
        for name in (FILES.model, FILES.metrics):
            if not (folder / name).is_file():
                raise ValueError(
                    f"{folder}: no trained model, {name} is missing; train one (python "
                    f"train_v2_production.py --output-dir {folder}) or pass --model-dir"
                )
        files.check_hashes([folder / FILES.metrics], folder / FILES.metadata)
        metrics = json.loads((folder / FILES.metrics).read_text(encoding="utf-8"))
        self.test: dict[str, Any] = metrics["test"]
        self.seen_until_ms = int(pd.Timestamp(metrics["cuts"]["val_end"]).timestamp() * 1000)
        self.options = options
        self.predictor = CryptoPricePredictorV2.from_directory(folder)
        self.step_ms = timeframe_ms(self.predictor.timeframe)
        self._kept: dict[str, Answer] = {}
        self._context: tuple[int, Mapping[str, pd.DataFrame]] = (0, {})
        self._lock = threading.Lock()

    @property
    def symbols(self) -> list[str]:
        """Pairs to choose from: those of the training first, then the others with candles."""
        trained, directory = self.predictor.symbols, self.options.candles_dir
        if directory is None:
            return list(dict.fromkeys([*trained, *TRADING_PAIRS]))
        timeframe = self.predictor.timeframe
        series = [one.symbol for one in store.list_series(directory) if one.kind == timeframe]
        # A file may know a pair as BTCUSDT alone; then it is called as a known pair of that name.
        known = (*series, *TRADING_PAIRS, *trained)
        names = {store.file_name(symbol, ""): symbol for symbol in known}
        found = [names[store.file_name(symbol, "")] for symbol in series]
        others = [symbol for symbol in found if symbol not in trained]
        return [*(symbol for symbol in trained if symbol in found), *others] or list(trained)

    def answer(self, symbol: str, now_ms: int | None = None) -> Answer:
        """Forecast from a pair's newest closed candle, and find what came true of those before.

        Raises:
            ValueError: The symbol is malformed, nobody has its candles, or they cannot be forecast
                from.
            ConnectionError: No exchange can be reached and only real candles will do.
        """
        pairs = expand_symbols([str(symbol).strip()])
        if len(pairs) > 1:
            raise ValueError(
                f"{symbol!r} is {len(pairs)} pairs; ask for one at a time, such as BTC/USDT"
            )
        [symbol] = pairs
        if now_ms is None:
            now_ms = int(time.time() * 1000)
        if kept := self._find_kept(symbol, now_ms):
            return kept
        with self._lock:
            # Another visitor may have asked while this one waited.
            if kept := self._find_kept(symbol, now_ms):
                return kept
            answer = self._make_answer(symbol, now_ms)
            self._kept.pop(symbol, None)
            self._kept[symbol] = answer
            if len(self._kept) > MAX_KEPT:
                self._kept.pop(next(iter(self._kept)))
            return answer

    def _find_kept(self, symbol: str, now_ms: int) -> Answer | None:
        kept = self._kept.get(symbol)
        return kept if kept is not None and now_ms < kept.kept_until_ms else None

    def predict(self, symbol: str) -> dict[str, Any]:
        """The forecast as plain data for JSON; arguments and errors of `answer`."""
        answer = self.answer(symbol)
        return {
            **as_json(answer.prediction),
            "synthetic": answer.is_synthetic,
            "verdict": NO_CLAIM if answer.is_synthetic else self.test["verdict"],
        }

    def _make_answer(self, symbol: str, now_ms: int) -> Answer:
        market = self._fetch([symbol])
        candles = market.candles[symbol]
        predictor = self.predictor.with_context(self._others(now_ms))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prediction = predictor.predict(candles)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says of the same candles what `predict` has said
            history = predictor.predict_history(candles)
        outcomes = find_outcomes(
            history, candles, predictor.timeframe, predictor.horizon, self.seen_until_ms
        )
        closes_ms = int(timestamps_ms(candles)[-1]) + self.step_ms
        notes = [str(warning.message) for warning in caught if warning.category is UserWarning]
        prediction["age_candles"] = max(now_ms - closes_ms, 0) // self.step_ms  # at one instant
        untrained = untrained_note(symbol, predictor.symbols)
        if untrained is not None:
            notes.append(untrained)
        banners = [live_page.SYNTHETIC_CANDLES] if market.is_synthetic else []
        old = aged(prediction)
        if old is not None:
            banners.append(old)
        is_stopgap = market.is_synthetic and self.options.source == "auto"
        next_ms = 0 if is_stopgap else closes_ms + self.step_ms + PUBLICATION_MS
        return Answer(
            symbol=symbol,
            candles=candles,
            prediction=prediction,
            outcomes=outcomes.tail(SHOWN),
            source=_source_of(market, symbol),
            is_synthetic=predictor.is_synthetic or market.is_synthetic,
            notes=tuple(notes),
            banners=tuple(banners),
            kept_until_ms=max(next_ms, now_ms + RETRY_MS),
        )

    def _others(self, now_ms: int) -> Mapping[str, pd.DataFrame]:
        """Candles of the coins that the model looks at; fetched once a candle, for all pairs."""
        predictor, directory = self.predictor, self.options.candles_dir
        kept_until_ms, candles = self._context
        if not predictor.wants_context or now_ms < kept_until_ms:
            return candles
        symbols = predictor.symbols
        if directory is not None:
            symbols = store.symbols_in(directory, symbols, predictor.timeframe)
        try:
            candles = self._fetch(symbols).candles if symbols else {}
        except (ConnectionError, ValueError) as error:
            logger.warning("no candles of the other coins: %s", error)
            candles = {}
        closes_ms = [int(timestamps_ms(frame)[-1]) + self.step_ms for frame in candles.values()]
        next_ms = min(closes_ms, default=0) + self.step_ms + PUBLICATION_MS
        self._context = (max(next_ms, now_ms + RETRY_MS), candles)
        return candles

    def _fetch(self, symbols: Sequence[str]) -> CandleSet:
        """As many candles of each pair as the forecast and the past ones on the page take."""
        predictor, options = self.predictor, self.options
        return fetch_candles(
            symbols,
            predictor.timeframe,
            predictor.required_candles + SHOWN + predictor.horizon,
            source=SourceConfig(
                source=options.source,
                candles_dir=options.candles_dir,
                exchange=options.exchange,
                base_url=options.base_url,
                cache_dir=None,
            ),
            published=predictor.published,
        )


def _source_of(market: CandleSet, symbol: str) -> str:
    return {"directory": "a directory", "synthetic": "a generator"}.get(
        market.source, f"exchange {market.venue_of.get(symbol, market.venue)}"
    )


def build(forecaster: Forecaster) -> gradio.Blocks:
    """The page and its endpoint, not served yet.

    Raises:
        ValueError: Gradio is not installed.
    """
    privacy.no_telemetry()
    try:
        import gradio as gr
    except ImportError as error:
        raise ValueError(
            f"the page needs Gradio, which cannot be imported ({error}); pip install gradio"
        ) from error

    predictor = forecaster.predictor

    def look(symbol: str) -> str:
        try:
            return live_page.body(forecaster.answer(symbol or ""), predictor.timeframe)
        except (ValueError, OSError) as error:
            return live_page.problem(error)

    def predict(symbol: str) -> dict[str, Any]:
        """Forecast the next candle of a pair such as BTC/USDT."""
        try:
            return forecaster.predict(symbol)
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    symbols = forecaster.symbols
    heading = live_page.heading(
        forecaster.test,
        predictor.timeframe,
        predictor.lookback,
        predictor.horizon,
        predictor.is_synthetic,
    )
    with gr.Blocks(title="Crypto forecasts", analytics_enabled=False) as blocks:
        gr.HTML(heading)
        with gr.Row(elem_classes="chooser"):
            chooser = gr.Dropdown(
                symbols, value=symbols[0], label="coin", allow_custom_value=True, scale=3
            )
            update = gr.Button("update", scale=1)
        content = gr.HTML('<div class="forecasts"><p class="how">Fetching candles …</p></div>')
        events = [blocks.load, chooser.change, update.click]
        gr.on(events, look, chooser, content, api_visibility="private")
        gr.api(predict, api_name="predict")
    return blocks


def main() -> None:
    """Parse the options, open the bundle and serve the page until Ctrl-C."""
    import tyro

    options = tyro.cli(Options, description=__doc__)
    with terminal.plain_warnings(), terminal.notices():
        serve(build(Forecaster(options)), options)


def serve(blocks: gradio.Blocks, options: Options, *, wait: bool = True) -> str:
    """Serve the page; returns its address at once where it need not `wait` for Ctrl-C."""
    import gradio as gr

    font = ["system-ui", "sans-serif"]  # the visitor's own: nothing is loaded from elsewhere
    _, address, _ = blocks.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        prevent_thread_lock=not wait,
        theme=gr.themes.Default(font=font, font_mono=["ui-monospace", "monospace"]),
        css=live_page.STYLE,
        footer_links=["api"],
        ssr_mode=False,
    )
    return str(address)


if __name__ == "__main__":
    with terminal.one_line_errors():
        main()
