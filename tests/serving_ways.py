"""Every way of serving, asked for the forecast from the same last candle: all must say the same.

    python -m tests.serving_ways                    a small pooled and a small guide bundle
    python -m tests.serving_ways all_models/v2      these bundles of train_v2_production.py

The ways are the predictor's verbs, the commands on a folder and on an exchange (on loopback), the
page's endpoint, Keras in the place of ONNX, and the ways that lack what the model looks at. Each is
a row of a table: its forecast, how far it is from that of `predict`, and what it warns of. Equal
means equal bits; Keras may differ from ONNX by 1e-6. A way that differs must warn and name what is
missing, or this script ends with status 1.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import app
from feature_engineering import V2_WARMUP
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline.candles.synthetic import synthetic_market
from pipeline.commands import Live, Predict
from pipeline.forecasts.predictor import CandlePredictor
from tests.conftest import TINY, write_market
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer

KERAS = "Keras in the place of ONNX"
KERAS_TOLERANCE = 1e-6
AskPage = Callable[[app.Options, str], Mapping[str, Any]]
NUMBERS = ("return", "return_low", "return_median", "return_high", "p_up")
HISTORY_OF = dict(zip(NUMBERS, ("predicted_return", "q10", "q50", "q90", "p_up")))


@dataclass(frozen=True)
class Way:
    """What one way of serving said."""

    name: str
    numbers: Mapping[str, float]
    """of `NUMBERS`"""
    missing_inputs: list[str]
    warned: str
    """of its warnings those that name a missing input"""
    difference: float
    """largest among `NUMBERS` from what `predict` says"""

    @property
    def is_honest(self) -> bool:
        """Whether it is the forecast of `predict`, or says what it does without."""
        tolerance = KERAS_TOLERANCE if self.name == KERAS else 0.0
        is_told = bool(self.missing_inputs) and all(
            name in self.warned for name in self.missing_inputs
        )
        return is_told or self.difference <= tolerance


def find_ways(
    bundle: Path, work: Path, symbol: str = "ETH/USDT", *, ask_page: AskPage | None = None
) -> list[Way]:
    """What each way of serving says of a pair's newest candle.

    Args:
        bundle: Folder of a bundle with an ONNX twin, trained on the pair and, if it looks at other
            coins, on at least three.
        work: Empty folder for candles.
        symbol: The pair.
        ask_page: Asks the page for a pair's forecast; by default a program does, at its endpoint.
    """
    ask = ask_page or _ask_endpoint
    predictor = CryptoPricePredictorV2.from_directory(bundle)
    n_candles = predictor.required_candles
    # As long as a forecast remembers and no longer, so that every way begins with the same candle;
    # the last candle is forming.
    now_s = time.time()
    end = pd.Timestamp(now_s, unit="s").floor("h") + pd.Timedelta("1h")
    history = synthetic_market(predictor.symbols, "1h", n_candles + 1, seed=3, end=end)
    listed = market_of({pair: {"1h": frame} for pair, frame in history.items()})
    with ExchangeServer(listed, now_ms=int(now_s * 1000), limits={}) as server:
        asked: dict[str, Any] = {"exchange": "binance", "base_url": server.url}
        candles = {pair: predictor.fetch_live(pair, **asked) for pair in predictor.symbols}
        folder = write_market(candles, work / "all")
        alone = write_market({symbol: candles[symbol]}, work / "alone")
        by_keras = shutil.copytree(bundle, work / "by_keras")
        (by_keras / FILES.twin).unlink()
        df = candles[symbol]
        context = candles if predictor.wants_context else None
        file = "ETHUSDT_1h.parquet"
        page: dict[str, Any] = {"model_dir": (bundle,), "port": _free_port()}

        ways: dict[str, Callable[[], Mapping[str, Any]]] = {
            "predict": lambda: predictor.predict(df, context=context),
            "predict_batch": lambda: predictor.predict_batch([df, df], context=context)[1],
            "predict_history": lambda: _last_of(predictor.predict_history(df, context=context)),
            "command predict, a folder": lambda: _run(Predict(folder / file, bundle, json=True)),
            "command live, an exchange": lambda: _run(
                Live(symbol, model_dir=bundle, json=True, **asked)
            ),
            "page, a folder": lambda: ask(app.Options(candles_dir=folder, **page), symbol),
            "page, an exchange": lambda: ask(
                app.Options(source="exchange", **page, **asked), symbol
            ),
            KERAS: lambda: _open(by_keras).predict(df, context=context),
            "command predict, a lone file": lambda: _run(Predict(alone / file, bundle, json=True)),
            "predict, the pair alone": lambda: predictor.predict(_without_published(df)),
            "predict_history, the pair alone": lambda: _last_of(
                predictor.predict_history(_without_published(df))
            ),
        }
        said = {name: _heard(forecast) for name, forecast in ways.items()}
    first = said["predict"][0]
    return [
        Way(
            name,
            {key: forecast[key] for key in NUMBERS},
            list(forecast.get("missing_inputs", [])) or _named_in(warned, predictor),
            warned,
            max(abs(forecast[key] - first[key]) for key in NUMBERS),
        )
        for name, (forecast, warned) in said.items()
    ]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _open(bundle: Path) -> CandlePredictor:
    return CryptoPricePredictorV2.from_directory(bundle)


def _without_published(df: pd.DataFrame) -> pd.DataFrame:
    return df.drop(columns=["funding_rate", "open_interest"], errors="ignore")


def _last_of(history: pd.DataFrame) -> Mapping[str, Any]:
    """The last row of a history under the names of `predict`."""
    row = history.iloc[-1]
    return {name: float(row[column]) for name, column in HISTORY_OF.items()}


def _run(command: Predict | Live) -> Mapping[str, Any]:
    """What a command prints for programs."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        command.run(CryptoPricePredictorV2)
    return dict(json.loads(printed.getvalue()))


def _ask_endpoint(options: app.Options, symbol: str) -> Mapping[str, Any]:
    """What the endpoint of the page answers to a program."""
    from gradio_client import Client

    blocks = app.build(app.Models(options))
    address = app.serve(blocks, options, wait=False)
    try:
        client = Client(address, verbose=False, analytics_enabled=False)
        forecast = client.predict(symbol, api_name="/predict")
    finally:
        blocks.close(verbose=False)
    return dict(forecast)


def _heard(forecast: Callable[[], Mapping[str, Any]]) -> tuple[Mapping[str, Any], str]:
    """A forecast, and those of its warnings that speak of missing inputs."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        said = forecast()
    told = [str(warning.message) for warning in caught]
    return said, "; ".join(text for text in dict.fromkeys(told) if "does without" in text)


def _named_in(warned: str, predictor: CandlePredictor) -> list[str]:
    """A history has no field for missing inputs; its warning names them."""
    return [name for name in predictor.feature_cols if name in warned]


def table_of(ways: list[Way]) -> str:
    """A row a way, for people."""
    rows = [
        {
            "way": way.name,
            "return": f"{way.numbers['return']:+.17f}",
            "difference": f"{way.difference:.1e}" if way.difference else "0",
            "missing inputs": len(way.missing_inputs),
            "verdict": "ok" if way.is_honest else "DIFFERS IN SILENCE",
        }
        for way in ways
    ]
    return pd.DataFrame(rows).to_string(index=False)


def _train_small(folder: Path) -> list[Path]:
    """A small pooled and a small guide bundle."""
    import train_v2_production
    from tests.test_pooled import SMALL

    bundles = []
    for config in (SMALL, TINY):
        n_candles = config.candles + V2_WARMUP
        market = synthetic_market(config.symbols, "1h", n_candles, seed=42, signal_r2=0.15)
        candles_dir = write_market(market, folder / f"{config.preset}_candles")
        output_dir = folder / config.preset
        train_v2_production.main(replace(config, candles_dir=candles_dir, output_dir=output_dir))
        bundles.append(output_dir)
    return bundles


def main(arguments: list[str]) -> int:
    """Print a table a bundle; 1 where a way differs in silence."""
    are_honest = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundles = [Path(argument) for argument in arguments] or _train_small(folder)
        for number, bundle in enumerate(bundles):
            ways = find_ways(bundle, folder / f"work_{number}")
            print(f"\n{bundle}\n{table_of(ways)}")
            are_honest &= all(way.is_honest for way in ways)
    return 0 if are_honest else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
