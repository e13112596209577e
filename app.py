"""The interactive page: a coin's candles, the forecast, and what came true of the last ones.

    python app.py --candles-dir DIR       # then open http://127.0.0.1:7860

It opens bundles of train_v2_production.py, trains nothing, and asks for nothing outside but
candles. Programs ask its endpoint /predict, and assistants the tool of that name (--mcp).
The page needs Gradio, which is optional: pip install gradio.
"""

# Importing this module loads neither Gradio nor Keras.

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import re
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from config import TRADING_PAIRS, SourceConfig, default_output_dir
from data_fetcher import expand_symbols, fetch_candles
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import privacy, terminal
from pipeline.bundle.metadata import agreed_cuts, demand, read_metadata
from pipeline.candles import folders, store
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.evaluation.outcomes import find_outcomes
from pipeline.forecasts.opening import no_model
from pipeline.forecasts.prediction import (
    aged,
    as_json,
    long_uncalibrated,
    recalibrated,
    untrained_note,
)
from pipeline.options import read_options
from pipeline.report import live_page, page
from pipeline.report.live_guard import Guard, Turns
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
"""Answers kept"""
FAILURE_KEPT_S = 15.0
"""For how long it is remembered that a coin's candles cannot be had."""
MAX_NAME = 40
"""Letters of a pair's name"""
MAX_COINS = 25
"""Rows of the table of all coins"""
TABLE_S = 60.0
"""For how long a table of all coins asks for further ones."""
ANSWERS_AT_ONCE, MAX_QUEUE = 32, 64
"""Questions that are being answered, of all clients, and that wait for their turn"""


def _default_port() -> int:
    """The port that the environment names, which `demand_port` checks; -1 where it is no number."""
    text = os.environ.get("GRADIO_SERVER_PORT") or "7860"
    return int(text) if re.fullmatch(r"[0-9]{1,6}", text) else -1


def demand_port(port: int) -> None:
    """Raise on a port that there is not, whoever named it."""
    if not 0 < port < 65_536:
        named = os.environ.get("GRADIO_SERVER_PORT") if port == -1 else port
        raise ValueError(f"--port or GRADIO_SERVER_PORT is {named}; pass a number from 1 to 65535")


@dataclass(frozen=True)
class Options:
    """The page's settings."""

    model_dir: tuple[Path, ...] = field(default_factory=lambda: (default_output_dir("v2"),))
    """output folders of train_v2_production.py, or folders of such folders; the first model opens
    the page, and visitors choose among all"""
    candles_dir: Path | None = None
    """directory of BTCUSDT_1h.parquet or of other files of candles"""
    timezone: str | None = None
    """zone of times in --candles-dir that name none, such as Europe/Berlin; default: UTC"""
    source: Literal["auto", "exchange", "directory", "synthetic"] = "auto"
    """auto: --candles-dir if given, else an exchange, else synthetic candles under a banner"""
    exchange: str | None = None
    """ccxt id of the exchange; default: binance, then the others that can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    symbols: tuple[str, ...] = ()
    """further pairs to offer, beside those of the training and of the directory or house list"""
    host: str = field(default_factory=lambda: os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"))
    """address to listen on; 0.0.0.0 lets other machines in"""
    port: int = field(default_factory=_default_port)
    """port to listen on"""
    share: bool = False
    """also open a public tunnel through Gradio's servers"""
    mcp: bool = False
    """also offer /predict as a tool to assistants, by the Model Context Protocol"""

    def for_visitors(self, text: object) -> str:
        """A text without the server's folders and passwords."""
        folders = (*self.model_dir, self.candles_dir)
        return privacy.without_secrets(privacy.without_folders(str(text), folders))


class Forecaster:
    """An open bundle and its candles; an answer is kept until the next candle closes."""

    def __init__(self, options: Options, folder: Path | None = None) -> None:
        """Open the bundle of a folder, by default the first that the options name.

        Raises:
            ValueError: There is no trained model, or its files are damaged or not of one run.
        """
        folder = folder or options.model_dir[0]
        try:
            self.predictor = CryptoPricePredictorV2.from_directory(folder)
            metrics = self.predictor.metrics()
        except FileNotFoundError as error:
            raise ValueError(no_model(folder)) from error
        demand(metrics, {"test": {"verdict": str}}, str(folder / FILES.metrics))
        self.test: dict[str, Any] = metrics["test"]
        self.options = options
        cuts = agreed_cuts(self.predictor.cuts, metrics, FILES.metrics)
        if not cuts:
            raise ValueError(
                f"{folder / FILES.metrics}: nothing says what the model has seen; train it again"
            )
        with page.of_file(FILES.metrics):
            self.headline = live_page.headline(self.test, self.predictor.is_synthetic)
            self.about = live_page.about(self.test, self.predictor)
        later = self.predictor.recalibration
        learnt_ms = self.predictor.learnt_until_ms(cuts) or cuts["val_end"]
        self.seen_until_ms = max(learnt_ms, later.until_ms if later else 0)
        self.step_ms = timeframe_ms(self.predictor.timeframe)
        self._kept: dict[str, Answer] = {}
        self._failed: dict[str, tuple[float, Exception]] = {}
        self._context: tuple[int, Mapping[str, pd.DataFrame]] = (0, {})
        self._lock_of: dict[str, threading.Lock] = {}
        self._context_lock = threading.Lock()
        # The network's, and that of Python's warnings, which are the process's.
        self._predictor_lock = threading.Lock()

    @property
    def symbols(self) -> list[str]:
        """Pairs to choose from: those of the training first, then the others with candles."""
        trained, directory = self.predictor.symbols, self.options.candles_dir
        if directory is None:
            return list(dict.fromkeys([*trained, *TRADING_PAIRS, *self.options.symbols]))
        timeframe = self.predictor.timeframe
        series = [one.symbol for one in folders.list_series(directory) if one.kind == timeframe]
        # A file may know a pair as BTCUSDT alone; then it is called as a known pair of that name.
        known = (*series, *self.options.symbols, *TRADING_PAIRS, *trained)
        names = {store.file_name(symbol, ""): symbol for symbol in known}
        found = [names[store.file_name(symbol, "")] for symbol in series]
        others = [symbol for symbol in found if symbol not in trained]
        return [*(symbol for symbol in trained if symbol in found), *others] or list(trained)

    def answer(self, symbol: str, now_ms: int | None = None) -> Answer:
        """Forecast from a pair's newest closed candle, and find what came true of those before.

        Raises:
            ValueError: The symbol is malformed or not offered, nobody has its candles, or they
                cannot be forecast from.
            ConnectionError: No exchange can be reached and only real candles will do.
        """
        pairs = expand_symbols([str(symbol).strip()[:MAX_NAME]])
        if len(pairs) > 1:
            raise ValueError(
                f"{symbol!r} is {len(pairs)} pairs; ask for one at a time, such as BTC/USDT"
            )
        [symbol] = pairs
        self._demand_offered(symbol)
        if now_ms is None:
            now_ms = int(time.time() * 1000)
        if kept := self._find_kept(symbol, now_ms):
            return kept
        with self._lock_of.setdefault(symbol, threading.Lock()):  # of one coin; others go on
            # Another visitor may have asked while this one waited.
            if kept := self._find_kept(symbol, now_ms):
                return kept
            try:
                answer = self._make_answer(symbol, now_ms)
            except (ValueError, OSError) as error:
                self._failed[symbol] = (time.monotonic() + FAILURE_KEPT_S, error)
                raise
            self._kept.pop(symbol, None)
            self._kept[symbol] = answer
            if len(self._kept) > MAX_KEPT:
                with contextlib.suppress(KeyError, StopIteration, RuntimeError):  # another thread's
                    self._kept.pop(next(iter(self._kept)))
            return answer

    def _demand_offered(self, symbol: str) -> None:
        """Refuse a pair that is not offered, before anything is asked about it."""
        if symbol in (*self.predictor.symbols, *TRADING_PAIRS) or symbol in self.symbols:
            return
        offered = self.symbols
        more = f" and {len(offered) - 8} more" if len(offered) > 8 else ""
        raise ValueError(
            f"{symbol} is not offered here; choose {', '.join(offered[:8])}{more}; "
            "who runs the page offers others by --symbols or --candles-dir"
        )

    def _find_kept(self, symbol: str, now_ms: int) -> Answer | None:
        """The answer that holds still; raises what went wrong a moment ago."""
        until_s, error = self._failed.get(symbol, (0.0, None))
        if error is not None and time.monotonic() < until_s:
            raise error.with_traceback(None)
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
        with self._context_lock:
            context = self._others(now_ms)
        with self._predictor_lock:
            predictor = self.predictor.with_context(context)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                prediction = predictor.predict(candles)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says of the same candles what `predict` said
                history = predictor.predict_history(candles)
        _demand_numbers(symbol, prediction)
        outcomes = find_outcomes(
            history, candles, predictor.timeframe, predictor.horizon, self.seen_until_ms
        )
        closes_ms = int(timestamps_ms(candles)[-1]) + self.step_ms
        notes = [self.options.for_visitors(w.message) for w in caught if w.category is UserWarning]
        prediction["age_candles"] = max(now_ms - closes_ms, 0) // self.step_ms  # at one instant
        told = (
            untrained_note(symbol, predictor.symbols),
            recalibrated(prediction),
            long_uncalibrated(prediction),
        )
        notes += [note for note in told if note]
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
            symbols = folders.symbols_in(directory, symbols, predictor.timeframe)
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
                timezone=options.timezone,
                exchange=options.exchange,
                base_url=options.base_url,
                cache_dir=None,
            ),
            published=predictor.published,
        )


def _demand_numbers(symbol: str, prediction: Mapping[str, Any]) -> None:
    """Refuse a forecast with a value that is none, which JSON could not hold either."""
    for name, value in prediction.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{symbol}: {name} of the forecast is {value}; train the model again")


def _source_of(market: CandleSet, symbol: str) -> str:
    return {"directory": "a directory", "synthetic": "a generator"}.get(
        market.source, f"exchange {market.venue_of.get(symbol, market.venue)}"
    )


class Models:
    """The bundles that the page offers: each is opened when it is first asked for, and kept."""

    def __init__(self, options: Options) -> None:
        """Find the bundles, and open the first that can be opened.

        Raises:
            ValueError: None can; of several, it tells of the first.
        """
        self.options = options
        # What holds no bundle stays, so that it is told of.
        found = [find_bundles(folder) or [folder] for folder in options.model_dir]
        self.folders = _labelled(list(dict.fromkeys(run for runs in found for run in runs)))
        self._opened: dict[str, Forecaster] = {}
        self._failed: dict[str, tuple[float, ValueError]] = {}
        self._lock = threading.Lock()
        self.first = self._first_that_opens()

    def _first_that_opens(self) -> str:
        failures = []
        for name in self.folders:
            try:
                self.open(name)
            except ValueError as error:
                failures.append(error)
                if len(self.folders) > 1:
                    warnings.warn(f"{name}: {error}", stacklevel=3)
            else:
                return name
        raise failures[0]

    def open(self, name: str | None) -> Forecaster:
        """The forecaster of a label; None stands for the first.

        Raises:
            ValueError: There is no such model, or its bundle cannot be opened.
        """
        name = name or self.first
        if name not in self.folders:
            raise ValueError(
                f"{name[:MAX_NAME]!r} is no model of this page; choose {', '.join(self.folders)}"
            )
        if name in self._opened and not self._opened[name].predictor.is_replaced():
            return self._opened[name]
        with self._lock:
            until_s, failure = self._failed.get(name, (0.0, None))
            if failure is not None and time.monotonic() < until_s:
                raise failure.with_traceback(None)
            before = self._opened.get(name)
            if before is None or before.predictor.is_replaced():
                try:
                    self._opened[name] = Forecaster(self.options, self.folders[name])
                except (ValueError, OSError, ImportError) as error:
                    if before is not None and before.predictor.reopened() is before.predictor:
                        return before  # which says once that it goes on
                    failure = ValueError(str(error))
                    self._failed[name] = (time.monotonic() + FAILURE_KEPT_S, failure)
                    raise failure from error
            return self._opened[name]


def find_bundles(folder: Path) -> list[Path]:
    """The bundle of a folder and its runs of --horizons (h1, h4, …).

    Where there are none, those directly below it, synthetic ones last.
    """
    found = _runs_of(folder)
    if found or not folder.is_dir():
        return found
    below = [run for child in sorted(folder.iterdir()) for run in _runs_of(child)]
    return sorted(below, key=lambda run: _metadata_of(run).get("synthetic") is True)


def _runs_of(folder: Path) -> list[Path]:
    by_horizon = sorted(folder.glob("h[0-9]*"), key=lambda run: (len(run.name), run.name))
    return [run for run in (folder, *by_horizon) if (run / FILES.scalers).is_file()]


def _metadata_of(folder: Path) -> dict[str, Any]:
    """A bundle's metadata; what is wrong with them is told of where the bundle is opened."""
    with contextlib.suppress(ValueError, OSError):
        return read_metadata(folder / FILES.metadata)
    return {}


def _labelled(folders: Sequence[Path]) -> dict[str, Path]:
    """What visitors read of each bundle -> its folder."""
    labelled: dict[str, Path] = {}
    same: Counter[str] = Counter()
    for name, folder in zip(privacy.names_of(folders), folders):
        told, label = _metadata_of(folder), name
        if {"timeframe", "horizon"} <= set(told):
            label += f" · {told['timeframe']} · {told['horizon']} ahead"
        label += " · synthetic" if told.get("synthetic") else ""
        same[label] += 1
        labelled[f"{label} ({same[label]})" if same[label] > 1 else label] = folder
    return labelled


def build(models: Models) -> gradio.Blocks:
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

    turns, hide = Turns(), models.options.for_visitors

    def look(model: str | None, symbol: str, request: gr.Request) -> tuple[str, str]:
        headline, about = "", ""
        try:
            with turns.taken(_client_of(request)):
                forecaster = models.open(model)
                headline, about = forecaster.headline, forecaster.about
                return headline, live_page.body(forecaster.answer(symbol or ""), about)
        except (ValueError, OSError) as error:
            return headline, live_page.problem(hide(error)) + about

    def change(model: str | None, symbol: str, request: gr.Request) -> tuple[Any, ...]:
        """Another model, which may know other coins; the table was the one before's."""
        coins = gr.skip()
        with contextlib.suppress(ValueError), turns.taken(_client_of(request)):  # `look` tells
            offered = models.open(model).symbols
            symbol = symbol if symbol in offered else offered[0]
            coins = gr.Dropdown(offered, value=symbol)
        return coins, "", *look(model, symbol, request)

    def look_at_all(model: str | None, request: gr.Request) -> Iterator[str]:
        try:
            with turns.taken(_client_of(request)):
                forecaster = models.open(model)
            yield from _tables(forecaster, turns, _client_of(request))
        except (ValueError, OSError) as error:
            yield live_page.problem(hide(error))

    def ask(symbol: str, model: str | None, request: gr.Request) -> dict[str, Any]:
        try:
            with turns.taken(_client_of(request)):
                return models.open(model).predict(symbol)
        except (ValueError, OSError) as error:
            raise gr.Error(hide(error), print_exception=False) from None

    def predict(symbol: str, request: gr.Request) -> dict[str, Any]:
        return ask(symbol, None, request)

    def predict_by(symbol: str, request: gr.Request, model: str = models.first) -> dict[str, Any]:
        return ask(symbol, model, request)

    has_choice = len(models.folders) > 1
    endpoint = predict_by if has_choice else predict
    endpoint.__name__ = "predict"
    endpoint.__doc__ = live_page.endpoint_text(list(models.folders))
    for function in (look, change, look_at_all, endpoint):  # Gradio looks at the type, not its name
        function.__annotations__["request"] = gr.Request

    forecaster = models.open(None)
    symbols = forecaster.symbols
    private: dict[str, Any] = {"concurrency_limit": ANSWERS_AT_ONCE, "concurrency_id": "answers"}
    shared = private | {"api_visibility": "private"}
    with gr.Blocks(title="Crypto forecasts", analytics_enabled=False) as blocks:
        headline = gr.HTML(forecaster.headline)
        with gr.Row(elem_classes="chooser"):
            with gr.Column(min_width=300, scale=4, visible=has_choice):
                model = gr.Dropdown(list(models.folders), value=models.first, label="model")
            with gr.Column(min_width=180, scale=4):
                coin = gr.Dropdown(symbols, value=symbols[0], label="coin", allow_custom_value=True)
            with gr.Column(min_width=90, scale=1):
                update = gr.Button("update")
        with gr.Tab("one coin"):
            content = gr.HTML(live_page.WAITING)
        with gr.Tab("all coins"):
            gr.HTML(live_page.ALL_COINS)
            compute = gr.Button("forecast all coins")
            table = gr.HTML()
        seen = [headline, content]
        # By default Gradio drops a choice that is made while the one before is answered.
        asked = shared | {"show_progress_on": content, "trigger_mode": "always_last"}
        gr.on([blocks.load, coin.input, update.click], look, [model, coin], seen, **asked)
        all_asked = compute.click(look_at_all, model, table, show_progress="hidden", **shared)
        model.input(change, [model, coin], [coin, table, *seen], cancels=[all_asked], **asked)
        gr.api(endpoint, api_name="predict", **private)
    return blocks.queue(max_size=MAX_QUEUE, api_open=False)


def _tables(forecaster: Forecaster, turns: Turns, client: str) -> Iterator[str]:
    """The table of the coins that the model was trained on, again after each of them.

    Each coin is a turn of its own, so that whoever leaves meanwhile leaves none taken.

    Raises:
        ValueError: The client waits for too many answers already.
    """
    trained = forecaster.predictor.symbols
    symbols = [symbol for symbol in forecaster.symbols if symbol in trained][:MAX_COINS]
    answers: list[Answer] = []
    failures: list[str] = []
    until_s = time.monotonic() + TABLE_S
    for n, symbol in enumerate(symbols):
        with turns.taken(client):
            try:
                if time.monotonic() > until_s:
                    raise TimeoutError(f"not asked, since {TABLE_S:g} seconds are over")
                answers.append(forecaster.answer(symbol))
            except (ValueError, OSError) as error:
                failures.append(f"{symbol}: {forecaster.options.for_visitors(error)}")
        yield live_page.all_coins(answers, failures, n + 1, len(symbols))


def _client_of(request: gradio.Request) -> str:
    """Who asks; behind a proxy, whom the proxy names."""
    host = request.client.host if request.client else ""
    return f"{host} {request.headers.get('x-forwarded-for', '')}"


def main() -> None:
    """Parse the options, open the bundle and serve the page until Ctrl-C."""
    options = read_options(Options, __doc__)
    demand_port(options.port)
    with terminal.plain_warnings(), terminal.notices():
        models = Models(options)
        blocks = build(models)
        # The first visitor need not wait until drawing is loaded.
        threading.Thread(target=_make_first, args=[models.open(None)], daemon=True).start()
        serve(blocks, options)


def _make_first(forecaster: Forecaster) -> None:
    with contextlib.suppress(ValueError, OSError):  # the visitor is told
        live_page.body(forecaster.answer(forecaster.symbols[0]), forecaster.about)


def serve(blocks: gradio.Blocks, options: Options, *, wait: bool = True) -> str:
    """Serve the page; returns its address at once where it need not `wait` for Ctrl-C.

    Raises:
        ValueError: Assistants are to be served, and the package for that is missing or refuses.
    """
    import gradio as gr
    from starlette.middleware import Middleware  # which Gradio stands on

    if options.mcp and importlib.util.find_spec("mcp") is None:
        raise ValueError('--mcp needs the package mcp; pip install "gradio[mcp]"')
    font = ["system-ui", "sans-serif"]  # the visitor's own: nothing is loaded from elsewhere
    _, address, _ = blocks.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        prevent_thread_lock=True,
        theme=gr.themes.Default(font=font, font_mono=["ui-monospace", "monospace"]),
        css=live_page.STYLE,
        footer_links=["api"],
        ssr_mode=False,
        mcp_server=options.mcp,
        app_kwargs={"middleware": [Middleware(Guard, mcp=options.mcp)]},
    )
    if options.mcp and not blocks.mcp_server:
        blocks.close(verbose=False)
        raise ValueError(f'--mcp: {blocks.mcp_error}; pip install "gradio[mcp]"')
    if wait:
        blocks.block_thread()
    return str(address)


if __name__ == "__main__":
    with terminal.one_line_errors():
        main()
