"""The real freqtrade, with this project's strategy, against the loopback exchange.

    python -m tests.freqtrade_run --model-dir DIR --candles-dir DIR --days 60 --fee-bps 5
    python -m tests.freqtrade_run --model-dir DIR --candles-dir DIR --futures --short

freqtrade downloads the candles of these days from an exchange on loopback, which has those of the
folder, and backtests `integrations/freqtrade/crypto_forecast.py` on them. Its trades are compared
with our own signals of the same candles: where each begins and ends, at which price and on which
side. A trade that differs ends this script with status 1. `make traders` builds the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from inference_v2 import CryptoPricePredictorV2
from pipeline.candles.formats import read_directory
from pipeline.candles.schema import CANDLE_COLUMNS, timeframe_ms
from tests.exchange_market import read_market
from tests.exchange_server import ExchangeServer
from tests.test_imports import ROOT

STRATEGY = ROOT / "integrations" / "freqtrade" / "crypto_forecast.py"
LOG_SHOWN = 3000
"""characters of freqtrade's own words in an error"""
TRADE = ["pair", "side", "opened", "open_price", "closed", "close_price"]


@dataclass(frozen=True)
class Wish:
    """What freqtrade is to backtest."""

    bundle: Path
    pairs: tuple[str, ...]
    """as this project writes them, such as BTC/USDT"""
    start: pd.Timestamp
    end: pd.Timestamp
    """open of the last candle"""
    fee_bps: float = 5.0
    futures: bool = False
    short: bool = False


def find_freqtrade() -> Path | None:
    """freqtrade's command: CRYPTO_FREQTRADE, that of `make traders`, or what the path has."""
    named = os.environ.get("CRYPTO_FREQTRADE")
    places = [named, ROOT / ".venv-traders" / "bin" / "freqtrade", shutil.which("freqtrade")]
    return next((Path(place) for place in places if place and Path(place).is_file()), None)


def backtest(program: Path, wish: Wish, url: str, folder: Path) -> pd.DataFrame:
    """freqtrade's trades, in the order of their beginnings: columns `TRADE`.

    Args:
        program: freqtrade's command.
        wish: What to backtest.
        url: Where the loopback exchange is.
        folder: An empty folder for freqtrade's files.
    """
    strategies = folder / "strategies"
    strategies.mkdir(parents=True)
    shutil.copy(STRATEGY, strategies)
    # The file that freqtrade keeps a strategy's parameters in.
    parameters = {"strategy_name": "CryptoForecast", "params": {"buy": {"fee_bps": wish.fee_bps}}}
    (strategies / STRATEGY.with_suffix(".json").name).write_text(json.dumps(parameters))
    config = folder / "config.json"
    config.write_text(json.dumps(configuration(wish, url)))

    predictor = CryptoPricePredictorV2.from_directory(wish.bundle)
    step = pd.Timedelta(milliseconds=timeframe_ms(predictor.timeframe))
    before = wish.start - (predictor.required_candles + 24) * step
    common = ["--config", str(config), "--userdir", str(folder)]
    download = ["--timeframes", predictor.timeframe, "--timerange", _span(before, wish.end)]
    asked = predictor.symbols if predictor.wants_context else []
    pairs = [_pair(symbol, wish) for symbol in dict.fromkeys((*wish.pairs, *asked))]
    _call(program, ["download-data", *common, *download, "--pairs", *pairs])
    which = ["--strategy", "CryptoForecast", "--strategy-path", strategies]
    span = ["--timerange", _span(wish.start, wish.end)]
    _call(program, ["backtesting", *common, *which, *span, "--cache", "none", "--export", "trades"])
    return _read_trades(folder)


def configuration(wish: Wish, url: str) -> dict[str, Any]:
    """freqtrade's configuration: a dry run on Binance, whose address is the loopback exchange's."""
    addresses = {
        "public": f"{url}/api/v3",
        "fapiPublic": f"{url}/fapi/v1",
        "fapiData": f"{url}/futures/data",
    }
    markets = {"fetchMarkets": {"types": ["linear" if wish.futures else "spot"]}}
    prices = {"price_side": "same", "use_order_book": True, "order_book_top": 1}
    mode = {"trading_mode": "futures", "margin_mode": "isolated"} if wish.futures else {}
    return {
        "crypto_bundle": str(wish.bundle.resolve()),
        "crypto_short": wish.short,
        "max_open_trades": len(wish.pairs),
        "stake_currency": "USDT",
        "stake_amount": 1000,
        "dry_run": True,
        "dry_run_wallet": 1_000_000,
        "fee": wish.fee_bps / 1e4,
        "entry_pricing": prices,
        "exit_pricing": prices,
        "pairlists": [{"method": "StaticPairList"}],
        "exchange": {
            "name": "binance",
            "only_from_ccxt": True,
            "pair_whitelist": [_pair(symbol, wish) for symbol in wish.pairs],
            "ccxt_config": {"urls": {"api": addresses}, "options": markets},
        },
        **mode,
    }


def own_trades(wish: Wish, candles: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The same trades by `predict_history(...).to_signals(...)`, on the whole of the candles.

    A trade counts that begins and ends within the span. At the span's last candle freqtrade closes
    whatever is open, so what ends there is left out of both.
    """
    predictor = CryptoPricePredictorV2.from_directory(wish.bundle)
    trades = []
    # freqtrade hands on no funding.
    candles = {symbol: frame[[*CANDLE_COLUMNS]] for symbol, frame in candles.items()}
    for symbol in wish.pairs:
        history = predictor.predict_history(candles[symbol], context=candles)
        signals = history.to_signals(wish.fee_bps, short=wish.short)
        # A signal of the first candle acts at the second, which is where a backtest begins.
        acted = signals[(signals.index > wish.start) & (signals.index < wish.end)]
        for side, prefix in (("long", ""), ("short", "short_")):
            begins = acted[acted[f"{prefix}entries"]]["Open"]
            ends = acted[acted[f"{prefix}exits"]]["Open"]
            for opened, price in begins.items():
                later = ends[ends.index > opened]
                if len(later):
                    row = (symbol, side, opened, price, later.index[0], later.iloc[0])
                    trades.append(dict(zip(TRADE, row)))
    return _in_order(pd.DataFrame(trades, columns=TRADE))


def _in_order(trades: pd.DataFrame) -> pd.DataFrame:
    return trades.sort_values(["opened", "pair"], ignore_index=True)


def _read_trades(folder: Path) -> pd.DataFrame:
    """What freqtrade exported, without what it closed because the span was over."""
    [path] = (folder / "backtest_results").glob("*.zip")
    with zipfile.ZipFile(path) as exported:
        result = json.loads(exported.read(f"{path.stem}.json"))
    trades = [
        {
            "pair": trade["pair"].partition(":")[0],
            "side": "short" if trade["is_short"] else "long",
            "opened": pd.Timestamp(trade["open_date"]),
            "open_price": trade["open_rate"],
            "closed": pd.Timestamp(trade["close_date"]),
            "close_price": trade["close_rate"],
        }
        for trade in result["strategy"]["CryptoForecast"]["trades"]
        if trade["exit_reason"] != "force_exit"
    ]
    return _in_order(pd.DataFrame(trades, columns=TRADE))


def _pair(symbol: str, wish: Wish) -> str:
    return f"{symbol}:USDT" if wish.futures else symbol


def _span(start: pd.Timestamp, end: pd.Timestamp) -> str:
    """A time range as freqtrade writes it, in seconds."""
    return f"{int(start.timestamp())}-{int(end.timestamp())}"


def _call(program: Path, arguments: Sequence[Any]) -> None:
    """One command of freqtrade; its last words where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    if done.returncode:
        raise RuntimeError(f"freqtrade {arguments[0]} failed:\n{done.stdout[-LOG_SHOWN:]}")


def differences(theirs: pd.DataFrame, ours: pd.DataFrame) -> pd.DataFrame:
    """Trades that only one of the two has; freqtrade rounds prices to the exchange's tick."""
    rounded = (trades.round({"open_price": 6, "close_price": 6}) for trades in (theirs, ours))
    both = pd.merge(*rounded, how="outer", on=TRADE, indicator="of")
    return both[both["of"] != "both"]


def mean_profit_bps(trades: pd.DataFrame, fee_bps: float) -> float:
    """What a trade earned on average, in 1/100 % of its entry; funding is left out."""
    sign = trades["side"].map({"long": 1.0, "short": -1.0})
    gross = sign * (trades["close_price"] / trades["open_price"] - 1)
    return float(1e4 * gross.mean() - 2 * fee_bps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare freqtrade's trades with our own signals, and tell both."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.freqtrade_run", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("--model-dir", type=Path, required=True, help="a bundle of v2")
    parser.add_argument("--candles-dir", type=Path, required=True, help="folder of candle files")
    parser.add_argument("--symbols", nargs="+", default=["BTC/USDT"], help="pairs to trade")
    parser.add_argument("--days", type=int, default=60, help="the last days of the candles")
    parser.add_argument("--fee-bps", type=float, default=5.0, help="fee of a side in 1/100 %%")
    parser.add_argument("--futures", action="store_true", help="trade perpetual futures")
    parser.add_argument("--short", action="store_true", help="trade falls too (with --futures)")
    options = parser.parse_args(arguments)
    program = find_freqtrade()
    if program is None:
        print("freqtrade is not there: make traders builds an environment that has it")
        return 2
    predictor = CryptoPricePredictorV2.from_directory(options.model_dir)
    market = read_market(options.candles_dir)
    asked = predictor.symbols if predictor.wants_context else []
    symbols = dict.fromkeys((*options.symbols, *asked))
    candles = {
        symbol: read_directory(options.candles_dir, symbol, predictor.timeframe)
        for symbol in symbols
    }
    end = min(frame["timestamp"].iloc[-1] for frame in candles.values())
    wish = Wish(
        options.model_dir,
        tuple(options.symbols),
        (end - pd.Timedelta(days=options.days)).floor("h"),
        end,
        options.fee_bps,
        options.futures,
        options.short,
    )
    with tempfile.TemporaryDirectory() as folder, ExchangeServer(market) as server:
        theirs = backtest(program, wish, server.url, Path(folder) / "user_data")
    ours = own_trades(wish, candles)
    other = differences(theirs, ours)
    print(f"{wish.start:%Y-%m-%d %H:%M} to {wish.end:%Y-%m-%d %H:%M}, {wish.fee_bps:g} bps a side")
    sides = theirs["side"].value_counts().to_dict()
    print(f"freqtrade's trades: {len(theirs)} {sides}, of our signals: {len(ours)}, not in both:")
    print(other.to_string() if len(other) else "none")
    if len(theirs):
        mean = mean_profit_bps(theirs, wish.fee_bps)
        print(f"after fees a trade earned {mean:+.1f} bps on average")
    return 1 if len(other) else 0


if __name__ == "__main__":
    sys.exit(main())
