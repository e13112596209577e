"""The strategy in the real freqtrade, on an exchange on loopback: its trades are our signals."""

from dataclasses import replace

import pandas as pd
import pytest

import train_v2_production
from feature_engineering import V2_WARMUP
from inference_v2 import CryptoPricePredictorV2
from pipeline.candles.formats import read_directory
from pipeline.candles.schema import CANDLE_COLUMNS
from pipeline.candles.synthetic import synthetic_market
from tests import freqtrade_run, networks
from tests.conftest import TINY, write_market
from tests.exchange_market import market_of, read_market
from tests.exchange_server import ExchangeServer

DAYS = 60
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")


@pytest.fixture(scope="module")
def program():
    """freqtrade's command; the test is skipped where there is none."""
    found = freqtrade_run.find_freqtrade()
    if found is None:
        pytest.skip("freqtrade is not installed here: make traders builds its environment")
    return found


@pytest.fixture(scope="module")
def candles():
    """Three coins with a planted signal, so that a small network has something to say."""
    n_candles = V2_WARMUP + 700 + 24 * (DAYS + 40)
    return synthetic_market(SYMBOLS, "1h", n_candles, seed=42, end="2024-06-01", signal_r2=0.15)


def train(candles, folder, **changes):
    """A bundle of a network of one layer, trained on all but the last days."""
    columns = [*CANDLE_COLUMNS]  # freqtrade hands on no funding
    until = {symbol: frame[columns].iloc[: -24 * DAYS] for symbol, frame in candles.items()}
    candles_dir = folder / "candles"
    candles_dir.mkdir()
    write_market(until, candles_dir)
    config = replace(
        TINY,
        symbols=SYMBOLS,
        candles=1500,
        epochs=12,
        learning_rate=0.02,
        candles_dir=candles_dir,
        output_dir=folder / "bundle",
        **changes,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline.report.run_page.html_report", lambda *_, **__: "a page")
        train_v2_production.main(config, build=networks.for_v2)
    predictor = CryptoPricePredictorV2.from_directory(folder / "bundle")
    assert type(predictor._network).__name__ == "OnnxNetwork"
    return folder / "bundle"


@pytest.fixture(scope="module")
def bundle(candles, tmp_path_factory):
    """A bundle of the guide's preset."""
    return train(candles, tmp_path_factory.mktemp("guide"))


def wish_of(bundle, candles, **changes):
    end = candles["BTC/USDT"]["timestamp"].iloc[-1]
    start = end - pd.Timedelta(days=DAYS)
    return freqtrade_run.Wish(bundle, ("BTC/USDT", "ETH/USDT"), start, end, **changes)


def both_trades(program, wish, candles, folder, market=None):
    market = market or market_of({symbol: {"1h": frame} for symbol, frame in candles.items()})
    with ExchangeServer(market) as server:
        theirs = freqtrade_run.backtest(program, wish, server.url, folder / "user_data")
    return theirs, freqtrade_run.own_trades(wish, candles)


@pytest.mark.soak
@pytest.mark.parametrize("changes", [{}, {"futures": True, "short": True}], ids=["spot", "futures"])
def test_freqtrade_trades_where_our_signals_say_so_and_nowhere_else(
    program, bundle, candles, changes, tmp_path
):
    wish = wish_of(bundle, candles, fee_bps=5.0, **changes)
    theirs, ours = both_trades(program, wish, candles, tmp_path)
    other = freqtrade_run.differences(theirs, ours)
    assert len(other) == 0, other.to_string()
    assert len(theirs) > 100 and theirs["pair"].nunique() == 2
    assert set(theirs["side"]) == ({"long", "short"} if changes else {"long"})


@pytest.mark.soak
def test_a_pooled_bundle_knows_the_other_coins_inside_freqtrade(program, candles, tmp_path):
    bundle = train(candles, tmp_path, preset="pooled", lookback=12)
    wish = wish_of(bundle, candles, fee_bps=5.0)
    theirs, ours = both_trades(program, wish, candles, tmp_path)
    other = freqtrade_run.differences(theirs, ours)
    assert len(other) == 0, other.to_string()
    with pytest.warns(UserWarning, match="does without 4 of 14 inputs"):
        alone = freqtrade_run.own_trades(wish, {symbol: candles[symbol] for symbol in wish.pairs})
    assert len(freqtrade_run.differences(alone, ours)), "the other coins do not matter here"


@pytest.mark.soak
def test_a_configuration_without_a_bundle_is_refused_with_its_remedy(
    program, bundle, candles, tmp_path
):
    market = market_of({symbol: {"1h": frame} for symbol, frame in candles.items()})
    wish = wish_of(bundle, candles)
    whole = freqtrade_run.configuration
    with pytest.MonkeyPatch.context() as patched, ExchangeServer(market) as server:
        patched.setattr(
            freqtrade_run,
            "configuration",
            lambda *asked: {**whole(*asked), "crypto_bundle": str(tmp_path / "nowhere")},
        )
        with pytest.raises(RuntimeError, match="crypto_bundle: .*nowhere"):
            freqtrade_run.backtest(program, wish, server.url, tmp_path / "user_data")


@pytest.mark.soak
def test_real_candles_of_sixty_days_give_the_same_trades(program, bundle, real_data, tmp_path):
    market = read_market(real_data / "binance")
    real = {
        symbol: read_directory(real_data / "binance", symbol, "1h")
        for symbol in ("BTC/USDT", "ETH/USDT")
    }
    wish = wish_of(bundle, real, fee_bps=1.0)
    theirs, ours = both_trades(program, wish, real, tmp_path, market)
    other = freqtrade_run.differences(theirs, ours)
    assert len(other) == 0, other.to_string()
    assert len(theirs) > 20
