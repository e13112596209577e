"""The public scoreboard of a ledger: its counts by hand, its page, and what it does not claim."""

import json
import sys

import numpy as np
import pandas as pd
import pytest

from pipeline.candles.schema import utc_from_ms
from pipeline.candles.store import write_candles
from pipeline.report import scoreboard
from tests.ledger_entries import HOUR_MS, START, enter

N = 30


@pytest.fixture
def board(tmp_path, monkeypatch):
    """A ledger of 30 hours, of which the even ones rise by 1 % as forecast, and its scoreboard."""
    times = START + HOUR_MS * np.arange(-1, N + 1)
    candles = pd.DataFrame({"timestamp": utc_from_ms(times), "open": 100.0, "high": 102.0})
    candles = candles.assign(low=98.0, close=100.0, volume=1.0)
    candles.loc[candles.index % 2 == 0, "close"] = 101.0
    write_candles(candles, tmp_path / "candles", "BTC/USDT", "1h", "binance")
    path = tmp_path / "forecasts.jsonl"
    closes = dict(zip(times.tolist(), candles["close"]))
    for hour in range(N - 1):
        last = closes[START + hour * HOUR_MS]
        enter(path, hour, last_price=last, price=last * np.exp(0.01))

    def run(*words: str) -> str:
        arguments = ["scoreboard", "--ledger", path, "--candles-dir", tmp_path / "candles"]
        out = tmp_path / "public"
        monkeypatch.setattr(sys, "argv", [*map(str, arguments), "--out", str(out), *words])
        scoreboard.main()
        return out

    return run, path


def test_the_counts_are_those_of_the_ledger_and_the_candles(board):
    run, _ = board
    out = run("--title", "Ours <b>")
    told = json.loads((out / "scoreboard.json").read_text())
    [model] = told["models"]
    assert (told["ledger"]["entries"], model["n"]) == (N - 1, N - 1)
    # Every forecast is a rise of 1 %; the closes go 100, 101, 100, …, so every other one is right.
    assert model["n_right"] in (N // 2, N // 2 - 1)
    assert model["n_inside"] == N - 1  # the band is 2.5 % either way
    html = (out / "index.html").read_text(encoding="utf-8")
    assert f"{model['n_right']} of {N - 1}" in html
    assert told["ledger"]["sha256"] in html
    assert "<h1>Ours &lt;b&gt;</h1>" in html
    assert "http" not in html.split("<main>")[1].split("<script>")[0]  # but for names of SVG


def test_an_open_forecast_is_open_and_a_broken_chain_is_refused(board, monkeypatch):
    run, path = board
    monkeypatch.setattr(scoreboard.time, "time", lambda: (START + 20 * HOUR_MS) / 1000)
    out = run()
    told = json.loads((out / "scoreboard.json").read_text())["ledger"]
    assert told["open"] == N - 1 - 19 and ">open<" in (out / "index.html").read_text()
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], *lines[6:]]) + "\n")
    with pytest.raises(ValueError, match="line 6"):
        run()
