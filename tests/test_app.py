"""The interactive page: its answers, its endpoint by a client, its looks in a headless browser."""

import ast
import asyncio
import concurrent.futures
import contextlib
import html
import http.client
import importlib.util
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import time_machine

import app
from app import Forecaster, Models, Options
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timestamps_ms
from pipeline.candles.synthetic import synthetic_market
from pipeline.forecasts.recalibration import Recalibration, write_recalibration
from pipeline.report import live_page
from pipeline.report.live_guard import Turns
from pipeline.report.sentences import brief_sentence, verdict_sentence
from tests import browser
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer

BTC, ETH = "BTC/USDT", "ETH/USDT"
HOUR_MS = 3_600_000
ROOT = Path(app.__file__).parent
HAS_MCP = importlib.util.find_spec("mcp") is not None


# --- the bundle and its candles


@pytest.fixture(scope="module")
def options(tiny_bundle, signal_dir) -> Options:
    return Options(model_dir=(tiny_bundle,), candles_dir=signal_dir, source="directory")


@pytest.fixture(scope="module")
def open_forecaster(options) -> Forecaster:
    return Forecaster(options)


@pytest.fixture
def forecaster(open_forecaster) -> Forecaster:
    open_forecaster._kept.clear()
    open_forecaster._failed.clear()
    return open_forecaster


@pytest.fixture(scope="module")
def several(tiny_bundle, tmp_path_factory) -> Path:
    """A folder of bundles: a good one and a broken one, and a run of a further horizon."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_bundle, folder / "good")
    for name in ("broken", "good/h4"):
        shutil.copytree(tiny_bundle, folder / name)
    (folder / "broken" / "metrics_v2.json").write_text("{}")
    return folder


@pytest.fixture
def models(options, open_forecaster, monkeypatch) -> Models:
    monkeypatch.setattr(app, "Forecaster", lambda *_: open_forecaster)
    return Models(options)


def test_the_endpoint_s_forecast_is_the_predictor_s(forecaster, signal_market):
    forecast = forecaster.predict(BTC.lower())
    expected = forecaster.predictor.predict(signal_market[BTC])
    assert forecast["price"] == pytest.approx(expected["price"], rel=1e-6)
    assert forecast["timestamp"] == expected["timestamp"].isoformat() and forecast["symbol"] == BTC
    assert forecast["synthetic"] is False and forecast["verdict"] == forecaster.test["verdict"]
    assert json.loads(json.dumps(forecast)) == forecast


def test_a_recalibration_is_told_of_and_what_it_was_fitted_on_counts_as_seen(
    options, forecaster, tmp_path
):
    folder = tmp_path / "bundle"
    shutil.copytree(options.model_dir[0], folder)
    judged, target = forecaster.predictor, forecaster.answer(BTC).outcomes["target"].iloc[-5]
    until_ms = target.value // 10**6 + HOUR_MS
    later = Recalibration(replace(judged.calibration, shrinkage=0.01), 0, until_ms, 500)
    write_recalibration(folder / "recalibration_v2.json", later, judged.calibration, judged.sha256)
    recalibrated = Forecaster(replace(options, model_dir=(folder,)))
    answer, before = recalibrated.answer(BTC), forecaster.answer(BTC)
    shares = answer.prediction["return"] / before.prediction["return"]
    assert shares == pytest.approx(0.01 / judged.calibration.shrinkage)
    assert any(note.startswith("recalibrated: ") for note in answer.notes)
    assert not any(note.startswith("recalibrated: ") for note in before.notes)
    # Made from the candle before its target, so at the target's open.
    is_before = answer.outcomes["target"] < target + pd.Timedelta("1h")
    assert answer.outcomes["is_seen"].equals(is_before)


def test_what_came_true_is_the_test_part_s_own(forecaster, tiny_bundle):
    outcomes = forecaster.answer(BTC).outcomes
    predictions = (
        pd.read_parquet(tiny_bundle / "predictions_v2.parquet")
        .query("symbol == @BTC")
        .tail(app.SHOWN)
    )
    assert (
        outcomes["timestamp"].tolist() == predictions["timestamp"].tolist()
        and not outcomes["is_seen"].any()
    )
    assert np.allclose(outcomes["actual_return"], predictions["actual_return"], atol=1e-12)
    assert np.allclose(outcomes["predicted_return"], predictions["lstm"], atol=1e-6)


def test_an_answer_is_kept_until_the_next_candle_closes(forecaster, signal_market):
    closes_ms = int(timestamps_ms(signal_market[BTC])[-1]) + HOUR_MS
    first = forecaster.answer(BTC, now_ms=closes_ms + 5_000)
    assert forecaster.answer(BTC, now_ms=closes_ms + HOUR_MS) is first
    late = forecaster.answer(
        BTC, now_ms=closes_ms + HOUR_MS + 2_000
    )  # the next candle has closed, and is not there
    assert late is not first and late.kept_until_ms == closes_ms + HOUR_MS + 62_000
    assert first.banners == ()
    assert "already happened" in late.banners[0]


def test_a_stopgap_is_marked_everywhere_and_kept_for_a_minute(forecaster, monkeypatch):
    market = synthetic_market([BTC], "1h", 700)
    monkeypatch.setattr(
        app, "fetch_candles", lambda *_, **__: CandleSet(market, "1h", "synthetic", "seed 42")
    )
    monkeypatch.setattr(forecaster, "options", Options(source="auto"))
    now_ms = int(timestamps_ms(market[BTC])[-1]) + HOUR_MS
    answer = forecaster.answer(BTC, now_ms=now_ms)
    assert answer.kept_until_ms == now_ms + 60_000 and answer.is_synthetic
    assert "SYNTHETIC CANDLES" in live_page.body(answer, "")
    forecaster._kept[BTC] = replace(answer, kept_until_ms=2**62)
    assert forecaster.predict(BTC)["synthetic"] is True
    assert forecaster.predict(BTC)["verdict"] == "NO CLAIM (synthetic data)"


def test_a_coin_that_the_network_does_not_know_and_a_short_history_are_said_so(
    forecaster, monkeypatch
):
    market = CandleSet(
        synthetic_market(["SOL/USDT"], "1h", 200), "1h", "exchange", "okx", {"SOL/USDT": "okx"}
    )
    monkeypatch.setattr(app, "fetch_candles", lambda *_, **__: market)
    answer = forecaster.answer("SOL/USDT")
    assert "the network was not trained on SOL/USDT, but on BTC/USDT, ETH/USDT" in answer.notes
    assert (
        any("still warming up" in note for note in answer.notes) and answer.source == "exchange okx"
    )


def test_live_candles_come_from_the_exchange(tiny_bundle, signal_market):
    candles, closed = signal_market[BTC], len(signal_market[BTC]) - 3
    now_ms = (
        int(timestamps_ms(candles)[closed]) + 60_000
    )  # a minute into the candle after the closed ones
    with ExchangeServer(market_of({BTC: {"1h": candles}}), now_ms=now_ms, limits={}) as server:
        live = Forecaster(
            Options((tiny_bundle,), source="exchange", exchange="binance", base_url=server.url)
        )
        answer = live.answer(BTC)
    assert answer.source == "exchange binance" and not answer.is_synthetic
    assert (
        answer.candles["timestamp"].iloc[-1] == candles["timestamp"].iloc[closed - 1]
        and len(answer.outcomes) == 48
    )


def test_no_more_answers_are_kept_than_fit(forecaster, monkeypatch):
    kept = replace(forecaster.answer(BTC), kept_until_ms=2**62)
    monkeypatch.setattr(forecaster, "_make_answer", lambda symbol, now_ms: kept)
    more = tuple(f"C{number}/USDT" for number in range(app.MAX_KEPT + 3))
    monkeypatch.setattr(forecaster, "options", Options(symbols=more))
    for number in range(app.MAX_KEPT + 3):
        forecaster.answer(f"C{number}/USDT")
    assert len(forecaster._kept) == app.MAX_KEPT and "C2/USDT" not in forecaster._kept


@pytest.mark.parametrize(
    "symbol, complaint", [("BTC", "write pairs as BTC/USDT"), ("all", "22 pairs"), (None, "NONE")]
)
def test_what_is_no_pair_is_refused(forecaster, symbol, complaint):
    with pytest.raises(ValueError, match=complaint):
        forecaster.answer(symbol)


def test_the_chooser_begins_with_the_coins_of_the_training(
    options, tiny_bundle, signal_dir, tmp_path
):
    for name in ("ADAUSDT_1h", "BTCUSDT_15m", "BTCUSDT_1h", "ETHUSDT_1h"):
        shutil.copy(
            signal_dir / "BTCUSDT_1h.parquet", tmp_path / f"{name}.csv"
        )  # their names are enough
    assert Forecaster(Options((tiny_bundle,), tmp_path)).symbols == [BTC, ETH, "ADA/USDT"]
    assert Forecaster(Options((tiny_bundle,))).symbols[:3] == [BTC, ETH, "SOL/USDT"]


def test_a_verdict_that_was_doctored_is_refused(tiny_bundle, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "metrics_v2.json"
    path.write_text(path.read_text().replace('"verdict": "', '"verdict": "VERY GOOD: '))
    with pytest.raises(ValueError, match=r"metrics_v2.json: its bytes are not those"):
        Forecaster(Options((tmp_path / "bundle",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": 3}, "'test': 3 is no dict"),
        ({"test": {"verdict": [1]}}, "'verdict': .1. is no str"),
        ({"test": {"verdict": "EDGE"}}, "not what a training run writes"),
        ({"cuts": {"val_end": 3}}, "'cuts', 'train_end': None is no str"),
        ({"data": {"rows": math.nan}}, "not readable as a bundle's JSON .NaN is no finite number"),
    ],
)
def test_metrics_of_another_shape_end_in_one_line(tiny_bundle, tmp_path, change, message):
    folder = metrics_with(tiny_bundle, tmp_path / "bundle", change)
    with pytest.raises(ValueError, match=message) as caught:
        Forecaster(Options((folder,)))
    assert str(caught.value).isprintable()


def test_metrics_that_move_the_cuts_contradict_the_scaler_file(tiny_bundle, tmp_path):
    cuts = dict.fromkeys(("train_end", "val_end", "test_start"), "2024-01-01T00:00:00Z")
    cuts["test_end"] = "2025-01-01T00:00:00Z"
    folder = metrics_with(tiny_bundle, tmp_path / "bundle", {"cuts": cuts})
    with pytest.raises(ValueError, match="metrics_v2.json: .* and 2024-12-.* in the scaler file"):
        Forecaster(Options((folder,)))


def metrics_with(bundle, folder, change):
    """A copy of the bundle with other metrics, and no metadata that would tell."""
    shutil.copytree(bundle, folder)
    (folder / "metadata_v2.json").unlink()
    path = folder / "metrics_v2.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return folder


def test_a_synthetic_model_says_so_above_its_verdict(forecaster):
    page = live_page.headline(forecaster.test, is_synthetic=True)
    assert page.index("SYNTHETIC MODEL") < page.index("in absolute error it")
    assert "SYNTHETIC" not in live_page.headline(forecaster.test, is_synthetic=False)


# --- several models


def bundle_at(folder: Path, **metadata: object) -> Path:
    """What looks like a bundle from outside."""
    folder.mkdir(parents=True)
    (folder / "scalers_v2.pkl").touch()
    if metadata:
        (folder / "metadata_v2.json").write_text(json.dumps(metadata))
    return folder


def test_bundles_are_found_with_their_horizons_or_below_a_folder_synthetic_ones_last(tmp_path):
    run = bundle_at(tmp_path / "v2")
    by_horizon = [bundle_at(run / name) for name in ("h1", "h4", "h24")]
    bundle_at(run / "member_1")
    demo = bundle_at(tmp_path / "demo", synthetic=True)
    (tmp_path / "notes").mkdir()
    assert app.find_bundles(run) == [run, *by_horizon]
    assert app.find_bundles(tmp_path) == [run, *by_horizon, demo]
    assert app.find_bundles(tmp_path / "notes") == app.find_bundles(tmp_path / "none") == []


def test_a_model_is_called_by_its_folder_timeframe_and_horizon(tmp_path):
    told = {"timeframe": "1h", "horizon": 4}
    folders = [bundle_at(tmp_path / a / "v2" / "h4", **told) for a in ("a", "b")]
    folders += [bundle_at(tmp_path / "old"), bundle_at(tmp_path / "odd", **told, synthetic=True)]
    (tmp_path / "old" / "metadata_v2.json").write_text("no JSON")
    assert list(app._labelled(folders)) == [
        "v2/h4 · 1h · 4 ahead",
        "v2/h4 · 1h · 4 ahead (2)",
        "old",
        "odd · 1h · 4 ahead · synthetic",
    ]


def test_each_model_is_opened_once_and_one_that_cannot_be_is_told_of(
    options, tmp_path, monkeypatch
):
    opened = []

    def open_(_, folder):
        opened.append(folder.name)
        if folder.name == "broken":
            raise ValueError(f"{folder}: damaged")
        predictor = SimpleNamespace(is_replaced=lambda: False)
        return SimpleNamespace(name=folder.name, predictor=predictor)

    monkeypatch.setattr(app, "Forecaster", open_)
    folders = tuple(bundle_at(tmp_path / name) for name in ("broken", "one", "two"))
    with pytest.warns(UserWarning, match="broken: .*damaged"):
        models = Models(replace(options, model_dir=folders))
    assert (models.first, models.open(None).name, models.open("two").name) == ("one", "one", "two")
    for _ in range(2):
        with pytest.raises(ValueError, match="damaged"):
            models.open("broken")
        models.open("two")
    with pytest.raises(ValueError, match="'v9' is no model of this page; choose broken, one, two"):
        models.open("v9")
    assert opened == ["broken", "one", "two"]
    with pytest.raises(ValueError, match="damaged"):
        Models(replace(options, model_dir=folders[:1]))


def test_the_endpoint_takes_a_model_where_there_are_several(models, forecaster):
    pytest.importorskip("gradio", reason="Gradio is optional: pip install gradio")

    async def arguments() -> list[str]:  # Gradio makes a loop where none runs
        endpoints = app.build(models).get_api_info()["named_endpoints"]
        assert list(endpoints) == ["/predict"]
        return [one["parameter_name"] for one in endpoints["/predict"]["parameters"]]

    assert asyncio.run(arguments()) == ["symbol"]
    models.folders["other"] = Path()
    assert asyncio.run(arguments()) == ["symbol", "model"]


# --- all coins


def test_the_table_of_all_coins_grows_and_tells_what_fails(forecaster, monkeypatch):
    fetch = app.fetch_candles

    def fetch_some(symbols, *sent, **options):
        if symbols == [ETH]:
            raise ValueError("nobody has /home/me/ETHUSDT_1h.csv")
        return fetch(symbols, *sent, **options)

    monkeypatch.setattr(app, "fetch_candles", fetch_some)
    first, last = app._tables(forecaster, Turns(), "me")
    assert "1 of 2 coins …" in first and BTC in first and ETH not in first
    assert "! ETH/USDT: nobody has ETHUSDT_1h.csv" in last and "1 of 2 coins, the most" in last


def test_a_table_is_a_turn_a_coin_and_ends_in_time(forecaster, monkeypatch):
    turns = Turns()
    table = app._tables(forecaster, turns, "me")
    next(table)
    assert turns._waiting == {}  # whoever leaves now has left none taken
    with contextlib.ExitStack() as busy:
        for _ in range(4):
            busy.enter_context(turns.taken("me"))
        with pytest.raises(ValueError, match="of your questions are being answered"):
            next(table)
    monkeypatch.setattr(app, "TABLE_S", -1.0)
    assert (
        "! ETH/USDT: not asked, since -1 seconds are over"
        in [*app._tables(forecaster, turns, "me")][-1]
    )


def test_without_a_trained_model_the_command_says_how_to_train_one(tmp_path):
    command = [sys.executable, app.__file__, "--model-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(
        r"error: .*no trained model.*train one \(python train_v2_production.py .*\n", done.stderr
    )


# --- served


GUARDED = """
import sys
foreign = open(sys.argv.pop(1), "w", buffering=1)
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1][0]
        if host not in (None, "localhost") and not str(host).startswith("127."):
            foreign.write(f"{event} {host}\\n")
            raise ConnectionRefusedError(host)
sys.addaudithook(guard)
import app, math, time
from pathlib import Path
fetch, predict = app.fetch_candles, app.CryptoPricePredictorV2.predict
fetched = Path(foreign.name).with_name("fetched.txt").open("w", buffering=1)
def odd_fetch(symbols, *sent, **options):
    print(*symbols, file=fetched)
    if symbols == ["SOL/USDT"]:
        raise ValueError("/home/me/BTCUSDT_1h.csv of http://me:secret@host/")
    while symbols == ["XRP/USDT"] and not Path(foreign.name).with_name("go").exists():
        time.sleep(0.05)
    if symbols[0] in ("XRP/USDT", "ADA/USDT"):
        found = fetch(["BTC/USDT"], *sent, **options)
        found.candles[symbols[0]] = found.candles.pop("BTC/USDT")
        found.candles[symbols[0]].attrs["is_odd"] = symbols == ["ADA/USDT"]
        return found
    return fetch(symbols, *sent, **options)
def odd_predict(self, candles, *sent):
    told = predict(self, candles, *sent)
    return {**told, "price": math.nan} if candles.attrs.get("is_odd") else told
app.fetch_candles, app.CryptoPricePredictorV2.predict = odd_fetch, odd_predict
app.main()
"""
"""The page, which asks this machine alone; SOL fails, XRP waits for a file, ADA's price is NaN."""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory) -> Path:
    """File of the hosts that the server asked for beside this machine."""
    return tmp_path_factory.mktemp("server") / "foreign.txt"


@pytest.fixture(scope="module")
def server(options, several, foreign) -> Iterator[subprocess.Popen]:
    """A process that serves the page, and reaches no other host."""
    pytest.importorskip("gradio", reason="Gradio is optional: pip install gradio")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = ["--model-dir", str(several), "--candles-dir", str(options.candles_dir)]
    command = [sys.executable, "-c", GUARDED, str(foreign), *folders, "--port", str(port)]
    command += ["--mcp"] if HAS_MCP else []
    log = foreign.with_name("server.log")
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT) as process,
    ):
        deadline = time.monotonic() + 120
        try:
            while not _answers(f"http://127.0.0.1:{port}"):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address(server) -> str:
    """Where the page is served."""
    return f"http://127.0.0.1:{server.args[server.args.index('--port') + 1]}"


def _answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=10) as page:
        return page.status == 200
    return False


@pytest.fixture
def chromium() -> None:
    if browser.find_browser() is None:
        pytest.skip("no Chromium to look at the page with: apt-get install chromium")


def forecast_of_today(options: Options) -> dict:
    """What the page's process says of ETH, which keeps the machine's clock on every test date."""
    forecast = Forecaster(options).predict(ETH)
    clock = time_machine.escape_hatch if time_machine.escape_hatch.is_travelling() else None
    now = pd.Timestamp(clock.time.time() if clock else time.time(), unit="s", tz="UTC")
    hour = pd.Timedelta("1h")
    age = (now - pd.Timestamp(forecast["last_timestamp"]) - hour) // hour
    return forecast | {"age_candles": age}


def test_a_program_gets_the_forecast_from_the_endpoint(address, options):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(address, verbose=False, analytics_enabled=False)
    forecast = client.predict(ETH, api_name="/predict")
    assert forecast == forecast_of_today(options)
    with pytest.raises(AppError, match=r"XYZ/USDT is not offered here; choose BTC/USDT, ETH/USDT"):
        client.predict("XYZ/USDT", api_name="/predict")
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/predict"]


SEES_FORECAST = "document.querySelector('.forecasts h2')?.innerText === '{}: the forecast'"
CHOOSE = """(() => {{
  const input = document.querySelector('.chooser input[aria-label="coin"]');
  input.focus();
  input.value = '{}';
  input.dispatchEvent(new Event('input', {{bubbles: true}}));
  input.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', bubbles: true}}));
  input.blur();
  return true;
}})()"""


LOOK = (
    f"""(() => {{{browser.FAINT}"""
    + """
  const order = [...document.querySelectorAll("a[href], button, input")]
    .filter(element => element.getClientRects().length && element.tabIndex >= 0)
    .map(element => element.innerText || element.ariaLabel);
  document.body.dataset.look = JSON.stringify({
    faint: faintOf(".gradio-container *"),
    first: document.querySelector(".tiles").getBoundingClientRect().bottom,
    jumps: document.querySelectorAll("[tabindex]:not([tabindex='0'], [tabindex='-1'])").length,
    order,
  });
  return true;
})()"""
)


@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_a_visitor_sees_verdict_forecast_and_record_and_nothing_is_loaded_from_elsewhere(
    address, chromium, tiny_bundle, tmp_path, width, dark
):
    picture = tmp_path / "page.png"
    visit = browser.visit(
        address, steps=[SEES_FORECAST.format(BTC), LOOK], width=width, dark=dark, picture=picture
    )
    test = json.loads((tiny_bundle / "metrics_v2.json").read_text())["test"]
    text = visit.text.replace("−", "-")
    order = [
        brief_sentence(test),
        "coin",
        "forecast, USDT",
        "the last 36" if width < 600 else "the last 72",
        "last 48",
        verdict_sentence(test),
        "not trading advice",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert re.search(r"directions right\s+\d+ of \d+\s+a coin toss: \d", text)
    look = json.loads(html.unescape(re.search(r'data-look="(.*?)"', visit.html)[1]))
    assert look["faint"] == [] and look["jumps"] == 0
    assert look["first"] < (844 if width < 600 else 800)
    assert look["order"][:6] == [
        "Details below",
        "model",
        "coin",
        "update",
        "one coin",
        "all coins",
    ]
    assert all(asked.startswith(address) for asked in visit.requests) and len(visit.requests) > 5
    assert visit.overflow <= 0 and visit.errors == ()
    assert picture.stat().st_size > 50_000


def test_a_visitor_chooses_another_coin_and_reads_why_there_is_none(address, chromium):
    asks = [SEES_FORECAST.format(BTC), CHOOSE.format(ETH), SEES_FORECAST.format(ETH)]
    asks += [CHOOSE.format("XYZ/USDT"), "document.querySelector('[role=alert]') !== null"]
    visit = browser.visit(address, steps=asks)
    assert "No forecast: XYZ/USDT is not offered here; choose BTC/USDT" in visit.text
    assert "Traceback" not in visit.text and "Error" not in visit.text


PICK = """(() => {{
  const input = document.querySelector('.chooser input[aria-label="model"]');
  input.focus();
  const options = [...document.querySelectorAll('[role=option]')];
  const wanted = options.find(option => option.innerText.includes('{}'));
  wanted?.dispatchEvent(new MouseEvent('mousedown', {{bubbles: true}}));
  return wanted !== undefined;
}})()"""
PRESS = """(() => {{
  const buttons = [...document.querySelectorAll('button')];
  // The first of a tab's buttons is a hidden one, by which Gradio measures its width.
  // One that is not shown yet may not listen yet either.
  const isShown = button => button.innerText === '{}' && button.offsetParent !== null;
  const wanted = buttons.findLast(isShown);
  wanted?.click();
  return wanted !== undefined;
}})()"""


def test_a_visitor_chooses_another_model_and_sees_all_coins(address, chromium):
    said = "document.body.innerText.includes('{}')"
    steps = [SEES_FORECAST.format(BTC), PICK.format("broken")]
    steps += [said.format("No forecast: "), PICK.format("h4")]
    steps += [SEES_FORECAST.format(BTC), PRESS.format("all coins")]
    steps += [PRESS.format("forecast all coins"), said.format("2 of 2 coins, the most confident")]
    visit = browser.visit(address, steps=steps, width=390)
    assert re.search(rf"{ETH}\s+[+−]0\.\d+", visit.text)
    assert visit.overflow <= 0 and visit.errors == ()


@pytest.mark.skipif(not HAS_MCP, reason='the protocol is optional: pip install "gradio[mcp]"')
def test_an_assistant_finds_one_tool_and_gets_the_endpoint_s_forecast(address, options):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with (
            streamablehttp_client(f"{address}/gradio_api/mcp/") as (*streams, _),
            ClientSession(*streams) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            asked = ({"symbol": ETH}, {"symbol": "SOL/USDT"}, {"symbol": 3}, {"model": "x"})
            return tools, [await session.call_tool("predict", one) for one in asked]

    [tool], (forecast, *refused) = asyncio.run(asyncio.wait_for(talk(), 60))
    assert tool.name == "predict" and "80 % band" in tool.description
    assert list(tool.inputSchema["properties"]) == ["symbol", "model"]
    assert tool.inputSchema["required"] == ["symbol"]
    assert ast.literal_eval(forecast.content[0].text) == forecast_of_today(options)
    assert all(one.isError for one in refused)
    told = refused[0].content[0].text
    assert "BTCUSDT_1h.csv of http://host/" in told and "secret" not in told


def test_the_server_has_asked_for_no_other_host(address, foreign):
    with urllib.request.urlopen(address, timeout=30) as page:
        assert b"gradio" in page.read()
    assert foreign.read_text() == ""


def _send(address, method, path, body=b"", headers=None):
    """Status of a request, and the answer's text."""
    host, port = address.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(100_000).decode(errors="replace")
    finally:
        connection.close()


@pytest.mark.parametrize(
    "method, path",
    [
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/upload/"),
        ("POST", "/gradio_api/upload?upload_id=x"),
        ("POST", "/upload"),
        ("POST", "/gradio_api//upload"),
        ("POST", "/gradio_api/%75pload"),
        ("GET", "/gradio_api/upload_progress?upload_id=x"),
        ("GET", "/gradio_api/file=app.py"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/proxy=https://example.org"),
        ("POST", "/gradio_api/stream/x"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/api/predict"),
        ("GET", "/monitoring"),
        ("POST", "/login"),
        ("PUT", "/gradio_api/call/predict"),
        ("DELETE", "/"),
    ],
)
def test_the_page_takes_no_file_and_shows_none(address, method, path):
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nb\r\n--x--'
    status, text = _send(address, method, path, part if method == "POST" else b"", boundary)
    assert status in (404, 405) and "Traceback" not in text and str(ROOT) not in text


def _resident_mib(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to ask for memory")
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_large_question_is_refused_and_not_kept_in_memory(address, server, is_chunked):
    def chunks():
        for _ in range(200):
            yield b"x" * 2**20

    before = _resident_mib(server.pid)
    # A server that refuses need not read on, so the connection may break meanwhile.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        length = {} if is_chunked else {"Content-Length": str(200 * 2**20)}
        status, text = _send(address, "POST", "/gradio_api/call/predict", chunks(), length)
        assert status == 413 and "a question has at most 65,536 bytes" in text
    assert _resident_mib(server.pid) - before < 20
    assert _answers(address)


def test_a_question_just_below_the_limit_is_read(address):
    for n_bytes, expected in ((60_000, 422), (70_000, 413)):  # 422: what names no pair
        assert _send(address, "POST", "/gradio_api/call/predict", b"x" * n_bytes)[0] == expected


def test_an_error_names_no_folder_of_the_server(options):
    for text in (
        FileNotFoundError(2, "no such file", str(options.candles_dir / "BTCUSDT_1h.csv")),
        ValueError(f"{options.model_dir[0]}: damaged"),
        ValueError("http://me:secret@host/x failed"),
    ):
        shown = options.for_visitors(text)
        assert str(options.model_dir[0].parent) not in shown and "secret" not in shown
        assert str(options.candles_dir.parent) not in shown
    damaged = f"{options.candles_dir / 'BTCUSDT_1h.parquet'}: damaged"
    assert options.for_visitors(damaged) == "BTCUSDT_1h.parquet: damaged"


def test_an_unknown_coin_is_refused_and_a_third_answers_while_a_slow_one_is_fetched(
    forecaster, monkeypatch, signal_market
):
    is_asked, may_answer = threading.Event(), threading.Event()

    def fetch(symbols, *_, **__):
        if symbols == [ETH]:
            is_asked.set()
            assert may_answer.wait(60)
        return CandleSet({symbols[0]: signal_market[BTC]}, "1h", "exchange", "okx", {})

    monkeypatch.setattr(app, "fetch_candles", fetch)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = pool.submit(forecaster.answer, ETH)
        assert is_asked.wait(60)
        with pytest.raises(ValueError, match="XYZ/USDT is not offered here"):
            forecaster.answer("XYZ/USDT")
        assert forecaster.answer(BTC).symbol == BTC and not slow.done()
        may_answer.set()
        assert slow.result(60).symbol == ETH


def test_a_failure_is_remembered_so_that_nobody_waits_for_it_twice(forecaster, monkeypatch):
    asked = []

    def fail(symbols, *_, **__):
        asked.extend(symbols)
        raise ConnectionError("no exchange answers")

    monkeypatch.setattr(app, "fetch_candles", fail)
    for _ in range(3):
        with pytest.raises(ConnectionError, match="no exchange answers"):
            forecaster.answer(BTC)
    assert asked == [BTC]
    monkeypatch.setattr(app.time, "monotonic", lambda: 1e12)
    with pytest.raises(ConnectionError):
        forecaster.answer(BTC)
    assert asked == [BTC, BTC]


def test_a_forecast_that_is_no_number_is_an_error(forecaster, monkeypatch):
    prediction = forecaster.predictor.predict(forecaster.answer(BTC).candles)
    forecaster._kept.clear()
    wrong = {**prediction, "price_low": float("nan")}
    monkeypatch.setattr(forecaster.predictor, "predict", lambda _: wrong)
    with pytest.raises(ValueError, match="price_low of the forecast is nan"):
        forecaster.predict(BTC)


# --- over the wire


def _asked(address: str, symbol: object) -> str:
    """What the endpoint says of a pair, as it comes over the wire."""
    question = json.dumps({"data": [symbol, None]}).encode()
    path = "/gradio_api/call/predict"
    status, text = _send(address, "POST", path, question, {"Content-Type": "application/json"})
    assert status == 200
    return _send(address, "GET", f"{path}/{json.loads(text)['event_id']}")[1]


@pytest.mark.parametrize("symbol", ["XYZ/USDT", "../../etc/passwd", "BTC/\u202eTDSU", None])
def test_over_the_wire_an_unknown_pair_is_refused_before_anything_is_touched(
    address, foreign, symbol
):
    told = _asked(address, symbol)
    assert told.startswith("event: error") and "Traceback" not in told
    assert str(symbol).upper() not in foreign.with_name("fetched.txt").read_text().splitlines()


def test_over_the_wire_an_error_names_no_folder_and_no_password(address):
    told = _asked(address, "SOL/USDT")
    assert "BTCUSDT_1h.csv of http://host/" in told
    assert "secret" not in told and "/home" not in told


def test_over_the_wire_no_number_is_none(address):
    told = _asked(address, "ADA/USDT")
    assert told.startswith("event: error") and "price of the forecast is" in told
    assert "NaN" not in told


def test_over_the_wire_one_slow_exchange_keeps_no_other_visitor_waiting(address, foreign):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        slow = [pool.submit(_asked, address, "XRP/USDT") for _ in range(3)]
        while "XRP/USDT" not in foreign.with_name("fetched.txt").read_text():
            time.sleep(0.05)
        began = time.monotonic()
        assert _asked(address, BTC).startswith("event: complete")
        assert time.monotonic() - began < 10 and not any(one.done() for one in slow)
        foreign.with_name("go").touch()
        assert all(one.result(60).startswith("event: complete") for one in slow)


def test_visitors_of_a_slow_exchange_do_not_keep_each_other_waiting(tiny_bundle, signal_market):
    candles, closed = signal_market, len(signal_market[BTC]) - 3
    now_ms = int(timestamps_ms(candles[BTC])[closed]) + 60_000
    market = market_of({symbol: {"1h": frame} for symbol, frame in candles.items()})
    with ExchangeServer(market, now_ms=now_ms, limits={}) as server:
        options = Options(
            (tiny_bundle,), source="exchange", exchange="binance", base_url=server.url
        )
        live = Forecaster(options)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            answers = list(pool.map(live.answer, [BTC, ETH] * 4))
    assert [answer.symbol for answer in answers] == [BTC, ETH] * 4
    assert len({id(answer) for answer in answers}) == 2  # one of each coin


def test_without_gradio_the_page_says_what_to_install(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match="pip install gradio"):
        app.build(models)


def test_without_its_package_the_protocol_of_assistants_says_what_to_install(monkeypatch):
    pytest.importorskip("gradio", reason="Gradio is optional: pip install gradio")
    monkeypatch.setattr(app.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'--mcp needs .*; pip install "gradio\[mcp\]"'):
        app.serve(None, Options(mcp=True))  # before anything is served
