"""judge.py walks a model, judges its forecasts, and refuses a verdict to one that looks ahead."""

import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

import judge as script
from judge import judge
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timestamps_ms
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_candles
from pipeline.forecasts.walk import ForecastLooksAheadError, walk
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer

ROOT = Path(script.__file__).resolve().parent
CANDLES = {
    "BTC/USDT": synthetic_candles(700, seed=1, signal_r2=0.2),
    "ETH/USDT": synthetic_candles(700, seed=2, signal_r2=0.2),
}
FREE = ("naive",)

MODULE = """
import numpy as np

def turns_back(candles):
    return -0.3 * np.log(candles["close"].iloc[-1] / candles["close"].iloc[-2])

def knows(candles):
    return np.log(candles["close"]).diff().shift(-1)
"""


def momentum(candles):
    return 0.3 * np.log(candles["close"]).diff()


def test_a_function_is_judged_as_its_forecasts_in_a_file_are():
    walked = walk(momentum, CANDLES, "1h")
    of_rows = judge({"mine": walked.forecasts}, CANDLES, baselines=FREE).metrics["mine"]
    of_function = judge({"mine": momentum}, CANDLES, baselines=FREE).metrics["mine"]
    told = of_function.pop("walk")
    assert of_function == of_rows
    assert told["forecasts"] == len(walked.forecasts) == 2 * 209  # rows 490 to 698
    assert told["proof"] == walked.proof
    assert told["seconds_per_forecast"]["p50"] <= told["seconds_per_forecast"]["max"]


def test_a_function_and_a_file_are_rivals():
    rows = walk(lambda c: 0.0001, CANDLES, "1h", n_instants=0).forecasts
    judged = judge({"rows": rows, "mine": momentum}, CANDLES, baselines=FREE)
    assert set(judged.metrics) == {"rows", "mine"}
    assert "walk" in judged.metrics["mine"]
    assert "walk" not in judged.metrics["rows"]
    [pair] = judged.rivals["pairs"]
    assert {pair["model"], pair["baseline"]} == {"rows", "mine"}


def test_the_walk_obeys_pairs_candles_and_start():
    frame = judge(
        momentum,
        CANDLES,
        baselines=FREE,
        symbols=["BTC/USDT"],
        n_candles=300,
        since=CANDLES["BTC/USDT"]["timestamp"].iloc[600],
        every=7,
    ).predictions["momentum"]
    assert set(frame["symbol"]) == {"BTC/USDT"}
    expected = CANDLES["BTC/USDT"]["timestamp"].iloc[599:699:7]
    assert frame["timestamp"].tolist() == expected.tolist()


class Mean:
    fits: ClassVar[list] = []

    def fit(self, candles):
        self.fits.append(len(candles))
        self.mean = np.log(candles["close"]).diff().mean()

    def predict(self, candles):
        return self.mean


def test_refits_are_of_those_models_that_learn(monkeypatch):
    monkeypatch.setattr(Mean, "fits", [])
    models = {"mean": Mean, "mine": momentum}
    judge(models, {"BTC/USDT": CANDLES["BTC/USDT"]}, baselines=FREE, refit_every=100)
    assert Mean.fits == [491, 591, 691]
    with pytest.raises(ValueError, match=r"has no fit\(candles\), so there is nothing to fit"):
        judge({"mine": momentum}, CANDLES, baselines=FREE, refit_every=100)


def test_a_model_is_walked_over_an_exchange_s_candles():
    candles = CANDLES["ETH/USDT"]
    market = market_of({"ETH/USDT": {"1h": candles}})
    now_ms = int(timestamps_ms(candles)[-1]) + 3_600_000
    with ExchangeServer(market, now_ms=now_ms, limits={}) as server:
        judged = judge(
            momentum,
            exchange="binance",
            base_url=server.url,
            symbols=["ETH/USDT"],
            n_candles=400,
            baselines=FREE,
        )
    [frame] = judged.predictions.values()
    assert set(frame["symbol"]) == {"ETH/USDT"}
    # Of 400 candles the last 120 but one are forecast from: 0.7 of 399 steps is 279.3.
    assert frame["timestamp"].tolist() == candles["timestamp"].iloc[300 + 280 : 699].tolist()


def test_a_model_without_a_pair_or_a_folder_is_asked_for_one():
    with pytest.raises(ValueError, match="nothing names a pair; pass --symbols"):
        judge(momentum, exchange="binance")


def test_a_set_of_candles_is_walked_over_the_pairs_that_are_asked_for():
    market = CandleSet(dict(CANDLES), "1h", "memory", "frames")
    judged = judge(momentum, market, symbols=["ETH/USDT"], baselines=FREE)
    [frame] = judged.predictions.values()
    assert set(frame["symbol"]) == {"ETH/USDT"}


def test_what_a_walk_notes_stands_among_the_notes():
    generator = np.random.default_rng(0)
    judged = judge(lambda c: generator.normal() / 1000, CANDLES, baselines=FREE)
    [metrics] = judged.metrics.values()
    assert any(note.startswith("not repeatable: at 12 of 12") for note in metrics["notes"])
    assert "not repeatable" in judged.text


def test_a_function_that_looks_ahead_gets_no_judgement_but_the_proof():
    with pytest.raises(ForecastLooksAheadError, match="1 candle later"):
        judge(lambda c: np.log(c["close"]).diff().shift(-1), CANDLES, baselines=FREE)


@pytest.fixture
def folder(tmp_path):
    """A user's folder: a module, and candles."""
    (tmp_path / "my_model.py").write_text(MODULE)
    for symbol, frame in CANDLES.items():
        write_candles(frame, tmp_path / "candles", symbol, "1h")
    return tmp_path


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "judge.py"), *words, "--candles-dir", "candles"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_command_judges_a_function_of_the_current_folder(folder):
    words = ("--model", "my_model:turns_back", "--symbols", "BTC/USDT", "--baselines", "naive")
    done = run(folder, *words, "--json")
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert json.loads(line)["model"] == "my_model:turns_back"
    assert "a forecast a call: " in done.stderr
    metrics = json.loads((folder / "judged" / "metrics.json").read_text())
    assert metrics["walk"]["a_row_per_candle"] is False
    frame = pd.read_parquet(folder / "judged" / "predictions.parquet")
    np.testing.assert_allclose(
        frame["my_model:turns_back"], -0.3 * frame["current_return"], rtol=0, atol=1e-15
    )


@pytest.mark.slow
def test_the_command_gives_a_leak_the_proof_and_its_own_status(folder):
    done = run(folder, "--model", "my_model:knows", "--symbols", "ETH/USDT")
    assert done.returncode == script.LOOKS_AHEAD == 3
    assert "NO VERDICT  the model looks ahead" in done.stdout
    assert "ETH/USDT: its forecast_return at" in " ".join(done.stdout.split())
    metrics = json.loads((folder / "judged" / "metrics.json").read_text())
    assert metrics["verdict"] is None
    assert metrics["looks_ahead"]["candles_ahead"] == 1
    assert not (folder / "judged" / "judged.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "error: nothing to judge; pass --forecasts FILE or --model module:function"),
        (("--model", "my_model:nothing"), "error: my_model has no nothing; it has turns_back,"),
        (("--model", "my_model:knows", "--refit-every", "9"), "has no fit(candles), so there is"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong(folder, words, message):
    done = run(folder, *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
