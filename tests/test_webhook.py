"""Forecasts posted to a server on loopback, which fails in every way that servers do."""

import logging
import threading
import time

import pandas as pd
import pytest

from pipeline.forecasts import webhook as module
from pipeline.forecasts.webhook import Webhook
from tests.webhook_server import Receiver

INSTANT = pd.Timestamp("2024-06-16 12:00", tz="UTC")
PREDICTION = {
    "price": 101.0, "last_price": 100.0, "return": 0.00995, "return_percent": 1.0,
    "price_change": 1.0, "return_low": -0.01, "return_median": 0.0, "return_high": 0.02,
    "price_low": 99.0, "price_high": 102.0, "p_up": 0.6, "confidence": 0.6, "timestamp": INSTANT,
    "target_timestamp": INSTANT, "last_timestamp": INSTANT, "age_candles": 0, "timeframe": "1h",
    "horizon": 1, "symbol": "BTC/USDT", "quote": "USDT", "venue": "binance", "synthetic": False,
    "trained_until": INSTANT, "judged_until": INSTANT, "calibrated_until": INSTANT,
    "age_days": 0.0, "missing_inputs": [],
}  # fmt: skip


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


def test_a_forecast_arrives_as_json(receiver):
    hook = Webhook(receiver.url)
    hook.post(PREDICTION)
    hook.finish()
    [got] = receiver.got
    assert got["price"] == 101.0 and got["symbol"] == "BTC/USDT"
    assert got["timestamp"].startswith("2024-06-16T12:00")


def test_discord_gets_a_message(receiver):
    hook = Webhook(receiver.url, is_discord=True)
    hook.post(PREDICTION)
    hook.finish()
    [got] = receiver.got
    assert list(got) == ["content"] and "BTC/USDT" in got["content"]


def test_it_is_posted_again_after_what_passes_and_waits_as_long_as_it_is_asked(receiver):
    waits = []
    receiver.answers = [500, (429, "Retry-After", "7"), (429, "Retry-After", "99999")]
    hook = Webhook(receiver.url, sleep=waits.append)
    hook.post(PREDICTION)
    hook.finish()
    assert len(receiver.got) == 4
    assert waits == [1.0, 7.0, module.LONGEST_WAIT_S]


@pytest.mark.parametrize(
    ("answers", "n_tries", "reason"),
    [
        ([404], 1, "HTTP 404"),
        ([503] * 9, 4, "HTTP 503"),
        ([(302, "Location", "http://127.0.0.1:9/elsewhere")], 1, "HTTP 302"),
    ],
)
def test_what_is_not_taken_is_told_of_by_the_host_alone(receiver, caplog, answers, n_tries, reason):
    receiver.answers = answers
    hook = Webhook(receiver.url, sleep=lambda seconds: None)
    hook.post(PREDICTION)
    hook.finish()
    assert len(receiver.got) == n_tries
    [message] = caplog.messages
    assert message == f"webhook 127.0.0.1: a forecast was not taken ({reason})"
    assert "SECRET" not in caplog.text


def test_nobody_waits_for_a_server_that_is_not_there_and_of_many_the_oldest_is_left_out(caplog):
    caplog.set_level(logging.WARNING)
    began, released = time.monotonic(), threading.Event()
    hook = Webhook("http://127.0.0.1:9/SECRET", sleep=lambda seconds: released.wait(30))
    for _ in range(module.MAX_WAITING + 5):
        hook.post(PREDICTION)
    assert time.monotonic() - began < 5
    assert "too slow, the oldest forecast is left out" in caplog.text
    released.set()


@pytest.mark.parametrize("url", ["ftp://x/y", "example.org/hook", "https://", ""])
def test_what_is_no_address_is_refused_without_being_shown(url):
    with pytest.raises(ValueError, match="--webhook is no address; pass one that begins with ht"):
        Webhook(url)
