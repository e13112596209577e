"""Live forecasts at every candle close, from the loopback exchange."""

import itertools
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

import inference_v2
from inference_v2 import CryptoPricePredictorV2
from pipeline import commands, recalibrating, terminal
from pipeline.candles.schema import timestamps_ms
from pipeline.commands import Live
from pipeline.forecasts import live, webhook
from pipeline.forecasts.live import watch
from tests import fetching
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer
from tests.fetching import BTC, HOUR_MS
from tests.webhook_server import Receiver

foreign_hosts, nothing_leaves = fetching.FIXTURES[1], fetching.FIXTURES[3]


@pytest.fixture(scope="module")
def predictor(tiny_bundle) -> CryptoPricePredictorV2:
    return CryptoPricePredictorV2.from_directory(tiny_bundle)


@pytest.fixture
def candles(signal_market) -> pd.DataFrame:
    return signal_market[BTC]


@pytest.fixture
def server(candles, nothing_leaves, monkeypatch):
    """An exchange 20 minutes into the fifth last candle; the watcher's clock is the exchange's."""
    with ExchangeServer(
        market_of({BTC: {"1h": candles}}), now_ms=open_of(candles, 5) + 1_200_000, limits={}
    ) as server:
        monkeypatch.setattr(live, "time", SimpleNamespace(time=lambda: server.now_ms / 1000))
        yield server


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


def open_of(candles: pd.DataFrame, n_before_last: int) -> int:
    return int(timestamps_ms(candles)[-1]) - n_before_last * HOUR_MS


class Sleeper:
    """Time passes only here; one of the `events` happens at the end of each sleep."""

    def __init__(self, server: ExchangeServer, *events):
        self.server, self.events = server, list(events)
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        assert self.server.now_ms is not None
        self.server.now_ms += int(seconds * 1000)
        if self.events:
            self.events.pop(0)()


def nothing() -> None:
    pass


def test_watch_gives_the_newest_candles_at_once_and_after_every_close(predictor, server, candles):
    sleep = Sleeper(server)
    seen = list(
        itertools.islice(
            watch(predictor, BTC, exchange="binance", base_url=server.url, sleep=sleep), 3
        )
    )
    assert [int(timestamps_ms(frame)[-1]) for frame in seen] == [
        open_of(candles, n) for n in (6, 5, 4)
    ]
    assert sleep.slept == pytest.approx([40 * 60 + 2, 3600])
    assert all(len(frame) == predictor.required_candles for frame in seen)


def test_watch_outlasts_an_exchange_that_is_late_or_refuses(predictor, server, candles, caplog):
    def serve_late():
        server.skew_ms = -5_000
        server.now_ms -= 5_000

    def in_time():
        server.now_ms += 5_000

    def refuse():
        server.blocked = {"binance"}

    sleep = Sleeper(server, serve_late, in_time, refuse, nothing, server.reset)
    frames = watch(predictor, BTC, exchange="binance", base_url=server.url, sleep=sleep)
    assert [int(timestamps_ms(frame)[-1]) for frame in itertools.islice(frames, 3)] == [
        open_of(candles, n) for n in (6, 5, 4)
    ]
    assert (
        sleep.slept[1] == sleep.slept[3] == sleep.slept[4] == live.RETRY_S and len(sleep.slept) == 5
    )
    assert caplog.text.count("asking again in 10 s") == 2


def test_watch_raises_at_once_where_the_first_fetch_fails(predictor, server):
    with pytest.raises(ValueError, match="has no market 'SOL/USDT'"):
        next(watch(predictor, "SOL/USDT", exchange="binance", base_url=server.url))


def test_live_watch_prints_what_came_true_of_the_forecast_before(
    predictor, server, tiny_bundle, capsys, monkeypatch
):
    seen = []

    def three(*args, **options):
        sleep = Sleeper(server)
        for frame in itertools.islice(watch(*args, **options, sleep=sleep), 3):
            seen.append(frame)
            yield frame

    monkeypatch.setattr(commands, "watch", three)
    command = Live(
        BTC,
        watch=True,
        recalibrate=False,
        model_dir=tiny_bundle,
        exchange="binance",
        base_url=server.url,
    )
    command.run(CryptoPricePredictorV2)
    told = capsys.readouterr().out
    assert told.count("Forecast price: $") == 3 and told.count("Came true: $") == 2
    for before, after in itertools.pairwise(seen):
        prediction, close = predictor.predict(before), after["close"].iloc[-1]
        is_right = (close > prediction["last_price"]) == (prediction["price_change"] > 0)
        is_inside = prediction["price_low"] <= close <= prediction["price_high"]
        assert (
            f"Came true: ${close:,.2f} (direction {'right' if is_right else 'wrong'}, "
            f"{'inside' if is_inside else 'outside'} the 80 % interval)" in told
        )


def test_live_watch_goes_on_where_one_close_gives_no_forecast(
    server, candles, tiny_bundle, capsys, monkeypatch, caplog
):
    candles = candles.copy()
    candles.attrs["symbol"] = BTC  # as fetched candles say
    frames = [candles.drop(index=len(candles) - 20), candles]
    monkeypatch.setattr(commands, "watch", lambda *_, **__: iter(frames))
    Live(BTC, watch=True, recalibrate=False, model_dir=tiny_bundle).run(CryptoPricePredictorV2)
    assert "no forecast: candles: 1 candle(s) missing among the last 60" in caplog.text
    assert capsys.readouterr().out.count("Forecast price: $") == 1


def test_a_model_with_funding_fetches_it_along(predictor, server, candles, monkeypatch):
    monkeypatch.setattr(predictor, "feature_cols", ["rsi", "funding_rate"])
    frame = predictor.fetch_live(BTC, exchange="binance", base_url=server.url)
    assert frame["funding_rate"].notna().all() and "open_interest" not in frame.columns


def test_the_live_command_forecasts_from_the_newest_candle(
    server, tiny_bundle, predictor, tmp_path
):
    picture = tmp_path / "forecast.png"
    script = Path(inference_v2.__file__)
    options = [
        "--symbol",
        BTC,
        "--model-dir",
        str(tiny_bundle),
        "--base-url",
        server.url,
        "--picture",
        str(picture),
    ]
    done = subprocess.run(
        [sys.executable, str(script), "live", *options], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    expected = predictor.predict_live(BTC, base_url=server.url)
    assert (
        f"Forecast: close of the 1h candle of {expected['timestamp']:%Y-%m-%d %H:%M} UTC"
        in done.stdout
    )
    assert (
        f"Expected return: {expected['return_percent']:+.4f}%" in done.stdout
        and picture.stat().st_size > 10_000
    )


def test_a_forecast_that_was_shown_is_posted_even_where_the_ledger_refuses_it(
    server, receiver, tiny_bundle, tmp_path, monkeypatch, capsys
):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text("{}\n")
    receiver.answers = [503]  # it is posted again after a pause
    monkeypatch.setattr(webhook, "PAUSES_S", (0.2,))
    place = {"exchange": "binance", "base_url": server.url, "webhook": receiver.url}
    with pytest.raises(ValueError, match="line 1 was changed"):
        Live(BTC, model_dir=tiny_bundle, ledger=ledger, **place).run(CryptoPricePredictorV2)
    assert "Forecast price: $" in capsys.readouterr().out and len(receiver.got) == 2


def test_of_a_webhook_that_fails_at_the_end_stdout_says_nothing_beside_the_json(
    server, receiver, tiny_bundle, monkeypatch, capsys
):
    receiver.answers = [503, 503]
    monkeypatch.setattr(webhook, "PAUSES_S", (0.2,))
    place = {"exchange": "binance", "base_url": server.url, "webhook": receiver.url}
    with terminal.notices():
        Live(BTC, model_dir=tiny_bundle, json=True, **place).run(CryptoPricePredictorV2)
    told = capsys.readouterr()
    assert json.loads(told.out)["symbol"] == BTC
    assert "a forecast was not taken (HTTP 503)" in told.err


def test_watching_recalibrates_a_model_whose_calibration_is_old(
    tiny_bundle, server, monkeypatch, caplog
):
    """It is done aside, once, with the exchange that the forecasts come from."""
    fitted = []

    def fit_anew(both, folder, market):
        fitted.append((both.judged.calibration, folder, set(market.candles)))
        return "recalibrated"

    monkeypatch.setattr(recalibrating, "fit_anew", fit_anew)
    monkeypatch.setattr(commands, "_now_ms", lambda: server.now_ms)
    monkeypatch.setattr(recalibrating, "DUE_AFTER_MS", 3_600_000)
    place = {"exchange": "binance", "base_url": server.url}
    live_watch = commands.watch
    monkeypatch.setattr(
        commands,
        "watch",
        lambda *given, **how: itertools.islice(live_watch(*given, **how, sleep=Sleeper(server)), 2),
    )
    Live(BTC, watch=True, model_dir=tiny_bundle, **place).run(CryptoPricePredictorV2)
    for thread in threading.enumerate():
        if thread.name == "recalibration":
            thread.join()
    [(_, folder, symbols)] = fitted
    assert folder == tiny_bundle and BTC in symbols

    fitted.clear()
    watching = Live(BTC, watch=True, recalibrate=False, model_dir=tiny_bundle, **place)
    watching.run(CryptoPricePredictorV2)
    assert not fitted
