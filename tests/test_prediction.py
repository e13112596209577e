"""A forecast in words: of what it is, in which currency, how old."""

import json

import pandas as pd
import pytest

from pipeline.candles.pairs import pair_of
from pipeline.forecasts.prediction import (
    aged,
    as_json,
    forecast_lines,
    judge,
    money,
    quote_of,
    recalibrated,
    subject,
    untrained_note,
)


def forecast_of(**changes):
    """A forecast of the next hour from a close of 100, one percent up."""
    opens = pd.Timestamp("2024-06-16 12:00", tz="UTC")
    return {
        "price": 101.0,
        "return": 0.00995,
        "return_low": -0.02,
        "return_median": 0.0,
        "return_high": 0.02,
        "return_percent": 1.0,
        "price_change": 1.0,
        "last_price": 100.0,
        "confidence": 0.523,
        "p_up": 0.523,
        "price_low": 98.0,
        "price_high": 102.0,
        "timestamp": opens,
        "target_timestamp": opens,
        "last_timestamp": opens - pd.Timedelta("1h"),
        "age_candles": 0,
        "timeframe": "1h",
        "horizon": 1,
        "symbol": "BTC/USDT",
        "quote": "USDT",
        "venue": "binance",
        "synthetic": False,
        "trained_until": None,
        "age_days": None,
        "judged_until": None,
        "calibrated_until": None,
        "missing_inputs": [],
        **changes,
    }


def test_a_fresh_forecast_names_pair_exchange_timeframe_candle_and_currency():
    assert forecast_lines(forecast_of()) == [
        "BTC/USDT · binance · 1h · next candle",
        "Next price: $101.00",
        "Expected return: +1.0000%",
        "Confidence: 52.3%  (that the direction is right; 50 % is a coin flip)",
        "80 % interval: $98.00 to $102.00",
        "Forecast: close of the 1h candle of 2024-06-16 12:00 UTC, from $100.00; the last candle "
        "known opened at 2024-06-16 11:00",
    ]


def test_a_price_in_bitcoin_carries_no_dollar_sign():
    lines = forecast_lines(forecast_of(symbol="ETH/BTC", quote="BTC", price=0.0521, price_low=0.05))
    assert lines[1] == "Next price: 0.0521 BTC" and lines[4].startswith("80 % interval: 0.05 BTC")
    assert not any("$" in line for line in lines)


def test_a_forecast_of_nobody_knows_what_has_no_currency_and_says_what_is_known():
    lines = forecast_lines(forecast_of(symbol=None, quote=None, venue=None))
    assert lines[:2] == ["1h · next candle", "Next price: 101.00"]


@pytest.mark.parametrize(
    ("age", "horizon", "is_old", "has_happened"),
    [
        (0, 1, False, False),
        (1, 1, True, True),  # the forecast candle itself has closed
        (1, 4, False, False),  # an exchange that is late by a candle
        (2, 4, True, False),
        (4, 4, True, True),
    ],
)
def test_old_candles_are_said_to_be_old(age, horizon, is_old, has_happened):
    forecast = forecast_of(age_candles=age, horizon=horizon)
    told = aged(forecast)
    assert (told is not None) == is_old
    assert ("already happened" in (told or "")) == has_happened
    lines = forecast_lines(forecast)
    assert lines[1].startswith("Forecast price" if is_old else "Next price")
    assert lines[-1].startswith("! old candles") == is_old


def test_made_up_candles_are_named_first_and_last():
    lines = forecast_lines(forecast_of(synthetic=True))
    assert lines[0].startswith("SYNTHETIC · BTC/USDT") and lines[-1].startswith("! SYNTHETIC: ")


def test_a_horizon_of_several_candles_is_named():
    assert subject(forecast_of(horizon=4)) == "BTC/USDT · binance · 1h · 4 candles ahead"


def test_currencies_are_those_of_the_pair():
    assert money(1234.5, "USDT") == "$1,234.50" and money(1234.5, "EUR") == "1,234.50 EUR"
    assert [quote_of(pair) for pair in ("ETH/BTC", "BTC/USD:BTC", None)] == ["BTC", "USD", None]


@pytest.mark.parametrize(
    ("name", "pair"),
    [
        ("XBTUSD", "BTC/USD"),
        ("BTCFDUSD", "BTC/FDUSD"),
        ("BTCBUSD", "BTC/BUSD"),
        ("ETHBTC", "ETH/BTC"),
        ("SHIB_USDT", "SHIB/USDT"),
        ("QQTUSD", None),  # QQT/USD or QQ/TUSD?
        ("recent", None),
    ],
)
def test_a_file_s_name_says_its_pair_where_there_is_one_reading(name, pair):
    assert pair_of(name) == pair


def test_what_came_true_is_told_in_the_pair_s_currency():
    told = judge(forecast_of(quote="BTC"), 99.0)
    assert told == "Came true: 99.00 BTC (direction wrong, inside the 80 % interval)"


def test_a_pair_that_was_not_trained_on_is_named_and_long_lists_are_cut():
    coins = [f"C{number:02d}/USDT" for number in range(12)]
    assert untrained_note("C03/USDT:USDT", coins) is None and untrained_note(None, coins) is None
    told = untrained_note("BTC/USDT", coins)
    assert told.startswith("the network was not trained on BTC/USDT, but on C00/USDT, ")
    assert told.endswith("C09/USDT and 2 more")


def test_json_holds_every_key_and_reads_back():
    read = json.loads(json.dumps(as_json(forecast_of())))
    assert read["target_timestamp"] == read["timestamp"] == "2024-06-16T12:00:00+00:00"
    assert read["price"] == 101.0 and set(read) == set(forecast_of())


def test_a_recalibrated_forecast_says_until_when():
    trained = pd.Timestamp("2024-01-01", tz="UTC")
    later = trained + pd.Timedelta("30D")
    assert recalibrated(forecast_of(judged_until=trained, calibrated_until=trained)) is None
    lines = forecast_lines(forecast_of(judged_until=trained, calibrated_until=later))
    assert lines[-1].startswith("! recalibrated: ") and "up to 2024-01-31 00:00 UTC" in lines[-1]
