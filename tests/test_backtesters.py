"""Our signals in the real vectorbt and the real backtesting.py, which take the frame as it is.

`make traders` builds an environment that has both, and freqtrade; elsewhere these tests are
skipped. tests/test_freqtrade.py has freqtrade's backtests.
"""

import importlib.util
import warnings

import numpy as np
import pandas as pd
import pytest

from pipeline.candles.formats import read_directory
from pipeline.forecasts.signals import History
from tests.freqtrade_run import STRATEGY

pytestmark = pytest.mark.slow  # vectorbt compiles itself for half a minute

FEE_BPS = 5.0
FEE = FEE_BPS / 1e4
TRADE = ["side", "opened", "open_price", "closed", "close_price"]


@pytest.fixture(scope="module", params=["made up", "real"])
def history(request):
    """Forecasts that know a tenth of what comes, of candles with a gap between close and open."""
    rng = np.random.default_rng(7)
    if request.param == "made up":
        closes = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 600)))
        opens = np.append(100.0, closes[:-1]) * np.exp(rng.normal(0, 0.001, 600))
        prices = {"open": opens, "close": closes}
        prices |= {"high": np.maximum(opens, closes), "low": np.minimum(opens, closes)}
        times = pd.date_range("2024-01-01", periods=600, freq="h", tz="UTC").as_unit("ms")
        candles = pd.DataFrame({"timestamp": times, **prices, "volume": 1.0})
    else:
        folder = request.getfixturevalue("real_data") / "binance"
        candles = read_directory(folder, "BTC/USDT", "1h").tail(2000).reset_index(drop=True)
    moves = np.log(candles["close"].shift(-1) / candles["close"]).fillna(0.0)
    forecast = 0.1 * moves + 0.1 * moves.std() * rng.standard_normal(len(moves))
    columns = {"timestamp": candles["timestamp"], "predicted_return": forecast}
    return History.of(columns, candles, "1h", 1)


def own_trades(signals):
    """The trades that the signals beside the open mean; one that is still open is left out."""
    trades = []
    for side, prefix in (("long", ""), ("short", "short_")):
        begins = signals.index[signals[f"{prefix}entries"]]
        ends = signals.index[signals[f"{prefix}exits"]]
        trades += [
            (side, opened, signals["Open"][opened], closed, signals["Open"][closed])
            for opened, closed in zip(begins, ends)
        ]
    return in_order(pd.DataFrame(trades, columns=TRADE))


def in_order(trades):
    return trades.sort_values("opened", ignore_index=True)


def test_vectorbt_trades_where_the_signals_say_so_at_those_prices(history):
    vectorbt = pytest.importorskip("vectorbt")
    signals = history.to_signals(FEE_BPS)
    account = vectorbt.Portfolio.from_signals(
        signals["Close"],
        signals["entries"],
        signals["exits"],
        signals["short_entries"],
        signals["short_exits"],
        price=signals["Open"],
        fees=FEE,
        freq="1h",
    )
    told = account.trades.records_readable
    told = told[told["Status"] == "Closed"]
    theirs = pd.DataFrame(
        {
            "side": told["Direction"].str.lower(),
            "opened": told["Entry Timestamp"],
            "open_price": told["Avg Entry Price"],
            "closed": told["Exit Timestamp"],
            "close_price": told["Avg Exit Price"],
        }
    )
    ours = own_trades(signals)
    pd.testing.assert_frame_equal(in_order(theirs), ours, check_dtype=False)
    assert set(ours["side"]) == {"long", "short"} and len(ours) > 10


def test_vectorbt_s_account_is_that_of_the_same_trades_by_hand(history):
    vectorbt = pytest.importorskip("vectorbt")
    signals = history.to_signals(FEE_BPS, short=False)
    account = vectorbt.Portfolio.from_signals(
        signals["Close"],
        signals["entries"],
        signals["exits"],
        price=signals["Open"],
        fees=FEE,
        freq="1h",
    )
    # All the cash buys at p, fee included, and sells at q: q / p x (1 - fee) / (1 + fee).
    trades = own_trades(signals)
    factor = (trades["close_price"] / trades["open_price"] * (1 - FEE) / (1 + FEE)).prod()
    position = signals["position"].to_numpy()
    if position[-1]:
        bought = signals["Open"][signals["entries"]].iloc[-1]
        factor *= signals["Close"].iloc[-1] / bought / (1 + FEE)
    assert account.total_return() == pytest.approx(factor - 1, abs=1e-9)


def test_backtesting_py_trades_where_the_signals_say_so_at_those_prices(history):
    backtesting = pytest.importorskip("backtesting")

    class Follow(backtesting.Strategy):
        def init(self):
            self.wished = self.I(lambda: self.data.df["position"].to_numpy(), name="position")

        def next(self):
            if self.wished[-1] == np.sign(self.position.size):
                return
            self.position.close()
            if self.wished[-1] > 0:
                self.buy(size=0.9)
            elif self.wished[-1] < 0:
                self.sell(size=0.9)

    # At the close of t it is known, and backtesting.py trades at the open of t + 1.
    signals = history.to_signals(FEE_BPS, at="close")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        test = backtesting.Backtest(signals, Follow, cash=1e9, commission=FEE)
        told = test.run()["_trades"]
    theirs = pd.DataFrame(
        {
            "side": np.where(told["Size"] > 0, "long", "short"),
            "opened": told["EntryTime"],
            "open_price": told["EntryPrice"],
            "closed": told["ExitTime"],
            "close_price": told["ExitPrice"],
        }
    )
    ours = own_trades(history.to_signals(FEE_BPS))
    # backtesting.py begins at the second bar that it is given.
    first = theirs["opened"].min()
    ours = ours[ours["opened"] >= first].reset_index(drop=True)
    pd.testing.assert_frame_equal(in_order(theirs), ours, check_dtype=False)
    assert len(ours) > 10 and first <= signals.index[40]


def load_strategy():
    """The strategy's module, in an environment that has freqtrade."""
    pytest.importorskip("freqtrade")
    spec = importlib.util.spec_from_file_location("crypto_forecast", STRATEGY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_candles_that_freqtrade_made_up_are_left_out_of_the_features():
    strategy = load_strategy()
    from freqtrade.data.converter import ohlcv_fill_up_missing_data

    times = pd.date_range("2024-01-01", periods=200, freq="h", tz="UTC").as_unit("ms")
    closes = 100 + np.arange(200.0)
    candles = pd.DataFrame({"date": times, "open": closes - 1, "high": closes, "low": closes - 1})
    candles = candles.assign(close=closes, volume=1.0)
    holed = candles.drop(index=[50, 51, 120]).reset_index(drop=True)
    filled = ohlcv_fill_up_missing_data(holed, "1h", "BTC/USDT")
    assert len(filled) == 200
    traded = strategy._traded(filled).rename(columns={"timestamp": "date"})
    pd.testing.assert_frame_equal(traded, holed, check_dtype=False)


def test_a_candle_without_trades_is_kept_where_the_exchange_moved_its_price():
    strategy = load_strategy()
    times = pd.date_range("2024-01-01", periods=3, freq="h", tz="UTC")
    candles = pd.DataFrame({"date": times} | dict.fromkeys(("open", "high", "low"), 100.0))
    candles = candles.assign(close=[100.0, 100.0, 101.0], volume=[1.0, 0.0, 0.0])
    candles["high"] = [100.0, 100.0, 101.0]
    assert strategy._traded(candles)["timestamp"].tolist() == [times[0], times[2]]
