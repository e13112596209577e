"""A ledger's forecasts, counted by hand; `predict`, `live` and `evaluate` with --ledger."""

import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import inference_v2
from inference_v2 import CryptoPricePredictorV2
from pipeline import commands
from pipeline.bundle.files import sha256_of
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import timestamps_ms, utc_from_ms
from pipeline.candles.store import write_candles
from pipeline.commands import Evaluate, Live, Predict
from pipeline.evaluation import ledger_scores
from pipeline.forecasts import ledger, live
from pipeline.forecasts.live import watch
from pipeline.report.evaluate_text import ledger_text
from pipeline.samples.windows import segmented_volatility
from tests import fetching
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer
from tests.fetching import BTC
from tests.ledger_entries import HOUR_MS, MODEL, START, enter

foreign_hosts, nothing_leaves = fetching.FIXTURES[1], fetching.FIXTURES[3]
ROOT = Path(__file__).resolve().parents[1]
MOVES = [0.02, -0.01, 0.03, 0.04] * 4
"""What comes after each forecast of +1 %, whose 80 % interval is ±2.5 %."""
LATE = START + 1000 * HOUR_MS


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "ledger.jsonl"


def candles_of(*closes: float) -> pd.DataFrame:
    close = np.array(closes)
    open_ = np.concatenate([close[:1], close[:-1]])
    return pd.DataFrame(
        {
            "timestamp": utc_from_ms(START + HOUR_MS * np.arange(len(close))),
            "open": open_,
            "high": np.maximum(open_, close),
            "low": np.minimum(open_, close),
            "close": close,
            "volume": 1.0,
        }
    )


def there_and_back(moves) -> pd.DataFrame:
    """Candles that close at 100 in every even hour, and move from there."""
    return candles_of(
        *itertools.chain.from_iterable((100.0, 100.0 * math.exp(move)) for move in moves)
    )


def judge(
    path: Path, candles: dict[str, pd.DataFrame], now_ms: int = LATE, source: str = "directory"
):
    markets = {"1h": CandleSet(candles, "1h", source, "DIR")}
    return ledger_scores.score_ledger(ledger.read(path), path, markets, now_ms)


def test_direction_coverage_and_skill_by_hand(path):
    enter(path, *range(0, 32, 2))
    result, predictions = judge(path, {BTC: there_and_back(MOVES)})
    facts, (model,) = result["ledger"], result["models"]
    assert (facts["entries"], facts["open"], facts["judged"]) == (16, 0, 16)
    assert (
        facts["sha256"] == ledger.read(path).sha256
        and not facts["without_candle"]
        and not facts["other_price"]
    )
    assert predictions["actual_return"].to_numpy() == pytest.approx(MOVES)
    assert predictions["timestamp"].iloc[1] == pd.Timestamp("2024-01-01 02:00", tz="UTC")
    current = predictions["current_return"]
    assert np.isnan(current.iloc[0]) and current.iloc[1] == pytest.approx(-0.02)
    assert (model["n"], model["n_calls"], model["n_right"], model["n_inside"]) == (16, 16, 12, 8)
    assert model["n_skipped"] == 15 and model["delay_s"] == {"median": 5.0, "max": 5.0}
    assert model["test"]["models"]["lstm"]["direction_accuracy"] == 0.75
    assert model["test"]["interval"]["coverage"] == 0.5
    assert model["test"]["models"]["lstm"]["mae"] == pytest.approx((0.01 + 0.02 + 0.02 + 0.03) / 4)
    comparison, squared = model["test"]["verdicts"]
    assert (comparison["baseline"], squared["loss"]) == ("naive", "scaled_squared_error")
    assert comparison["skill"] == pytest.approx(
        1 - (0.01 + 0.02 + 0.02 + 0.03) / (0.02 + 0.01 + 0.03 + 0.04)
    )
    assert model["test"]["verdict"] in ("EDGE", "NO EDGE")
    told = ledger_text(result)
    assert (
        "16 forecasts, 0 open, 16 judged" in told
        and facts["sha256"] in told
        and "the chain is whole" in told
    )
    assert "lstm against naive" in told and f"VERDICT  {model['test']['verdict']}" in told


def test_too_few_forecasts_are_counted_and_not_scored(path):
    enter(path, *range(0, 18, 2))
    result, _ = judge(path, {BTC: there_and_back(MOVES)})
    (model,) = result["models"]
    assert (model["n"], model["n_right"], model["n_inside"], model["test"]) == (9, 7, 5, None)
    told = ledger_text(result)
    assert "direction right in 7 of 9 calls, inside the 80 % interval 5 of 9" in told
    assert "too few to score: 10 candles are the least" in told and "VERDICT" not in told


def test_a_forecast_is_open_until_its_candle_closes_and_an_open_one_is_not_judged(path):
    enter(path, 0, 2)
    candles = {BTC: there_and_back(MOVES)}
    closes = START + 4 * HOUR_MS
    result, predictions = judge(path, candles, closes - 1)
    assert (result["ledger"]["open"], result["ledger"]["judged"], len(predictions)) == (1, 1, 1)
    result, _ = judge(path, candles, closes)
    assert (result["ledger"]["open"], result["ledger"]["judged"]) == (0, 2)
    result, predictions = judge(path, candles, START)
    assert result["ledger"]["open"] == 2 and result["models"] == [] and predictions.empty
    assert "nothing to score yet" in ledger_text(result)


def test_a_missing_candle_and_another_price_are_named_and_left_out(path):
    enter(path, 0, 2, 4, 6, 8)
    candles = (
        there_and_back(MOVES).drop(index=[3, 6]).reset_index(drop=True)
    )  # a target, and a candle t
    candles.loc[candles["timestamp"] == pd.Timestamp("2024-01-01 08:00", tz="UTC"), "close"] *= (
        1 + 1e-8
    )
    result, predictions = judge(path, {BTC: candles})
    facts = result["ledger"]
    assert facts["without_candle"] == ["BTC/USDT 2024-01-01T03:00Z", "BTC/USDT 2024-01-01T07:00Z"]
    assert facts["other_price"] == ["BTC/USDT 2024-01-01T09:00Z"]
    assert facts["judged"] == 2 and list(predictions["timestamp"].dt.hour) == [0, 4]
    told = ledger_text(result)
    assert (
        "2 left out, without a candle (a gap, or not fetched yet): BTC/USDT 2024-01-01T03:00Z"
        in told
    )
    assert (
        "1 left out, its last price is not the close of these candles: BTC/USDT 2024-01-01T09:00Z"
        in told
    )
    assert (
        judge(path, {"ETH/USDT": candles})[0]["ledger"]["judged"] == 0
    )  # no candles of the pair at all


def test_a_target_of_three_candles_is_judged_by_its_last_close_and_not_across_a_gap(path):
    def three(hour):
        times = {"timestamp": hour + 3, "closes_at": hour + 4}
        return {"horizon": 3} | {
            name: ledger.to_text(START + h * HOUR_MS) for name, h in times.items()
        }

    for hour in (0, 4):
        enter(path, hour, **three(hour))
    candles = candles_of(100.0, 90.0, 110.0, 120.0, 100.0, 101.0, 102.0, 103.0)
    _, predictions = judge(path, {BTC: candles})
    assert predictions["actual_return"].tolist() == pytest.approx([math.log(1.2), math.log(1.03)])
    result, predictions = judge(path, {BTC: candles.drop(index=5)})
    assert len(predictions) == 1 and result["ledger"]["without_candle"] == [
        "BTC/USDT 2024-01-01T07:00Z"
    ]


def test_models_are_scored_apart_and_the_reader_is_warned_of_the_luckiest(path):
    for hour in range(0, 32, 2):
        enter(path, hour)
        enter(path, hour, model="b" * 64, log_return=-0.01)
        enter(path, hour, model="b" * 64, log_return=-0.01, symbol="ETH/USDT")
    result, predictions = judge(
        path, {BTC: there_and_back(MOVES), "ETH/USDT": there_and_back(MOVES)}
    )
    first, other = result["models"]
    assert (first["model_sha256"], first["n"], first["n_right"], first["symbols"]) == (
        MODEL,
        16,
        12,
        [BTC],
    )
    assert (other["n"], other["n_right"], other["symbols"]) == (32, 8, [BTC, "ETH/USDT"])
    assert other["test"]["n_instants"] == 16 and other["n_skipped"] == 30
    assert len(predictions) == 48
    assert "2 models, each scored alone: the best may just be the luckiest" in ledger_text(result)


def test_synthetic_models_and_synthetic_candles_make_no_claim(path):
    candles = {BTC: there_and_back(MOVES)}
    enter(path, *range(0, 32, 2))
    assert (
        judge(path, candles, source="synthetic")[0]["models"][0]["test"]["verdict"]
        == "NO CLAIM (synthetic data)"
    )
    path.unlink()
    enter(path, *range(0, 32, 2), synthetic=True)
    result, _ = judge(path, candles)
    assert "VERDICT  NO CLAIM (synthetic data)" in ledger_text(result)


# --- the commands ---


@pytest.fixture(scope="module")
def predictor(tiny_bundle) -> CryptoPricePredictorV2:
    return CryptoPricePredictorV2.from_directory(tiny_bundle)


@pytest.fixture
def candles(signal_market) -> pd.DataFrame:
    return signal_market[BTC]


def stop_clock(monkeypatch, now_ms: int) -> None:
    monkeypatch.setattr(commands, "time", SimpleNamespace(time=lambda: now_ms / 1000))


def test_predict_enters_the_forecast_that_it_prints(
    predictor, candles, signal_dir, tiny_bundle, path, monkeypatch, capsys
):
    closed_ms = int(timestamps_ms(candles)[-1]) + HOUR_MS
    stop_clock(monkeypatch, closed_ms + 60_000)
    command = Predict(signal_dir / "BTCUSDT_1h.parquet", model_dir=tiny_bundle, ledger=path)
    command.run(CryptoPricePredictorV2)
    (entry,) = ledger.read(path).entries
    row, prediction = predictor.predict_history(candles).iloc[-1], predictor.predict(candles)
    assert [entry[name] for name in ("q10", "q50", "q90", "p_up")] == [
        row[name] for name in ("q10", "q50", "q90", "p_up")
    ]
    assert (entry["return"], entry["price"]) == (row["predicted_return"], prediction["price"])
    assert (entry["symbol"], entry["timeframe"], entry["horizon"], entry["synthetic"]) == (
        BTC,
        "1h",
        1,
        False,
    )
    assert (
        entry["base_time"] == ledger.to_text(closed_ms - HOUR_MS)
        and entry["last_price"] == candles["close"].iloc[-1]
    )
    assert entry["volatility"] == segmented_volatility(candles, "1h", 1)[-1]
    assert entry["model_sha256"] == sha256_of(tiny_bundle / inference_v2.MODEL_FILE)
    assert f"Ledger: line 1, sha256 {ledger.read(path).sha256}" in capsys.readouterr().out
    command.run(CryptoPricePredictorV2)  # as a job that runs twice: no error
    assert (
        "holds this model's forecast" in capsys.readouterr().out
        and len(ledger.read(path).entries) == 1
    )


def test_predict_refuses_old_candles_a_price_of_the_user_s_and_a_file_without_a_pair(
    signal_dir, tiny_bundle, tmp_path, path
):
    file = signal_dir / "BTCUSDT_1h.parquet"
    with pytest.raises(
        ValueError, match=r"too late .*forecast from candles up to the last closed one .*update"
    ):
        Predict(file, model_dir=tiny_bundle, ledger=path).run(CryptoPricePredictorV2)
    with pytest.raises(
        ValueError, match=r"--last-price 100 with --ledger: .*leave one of the two out"
    ):
        Predict(file, model_dir=tiny_bundle, ledger=path, last_price=100.0).run(
            CryptoPricePredictorV2
        )
    nameless = tmp_path / "mine.parquet"
    shutil.copy(file, nameless)
    with pytest.raises(
        ValueError,
        match=r"mine.parquet: its name is not that of a pair's 1h candles; pass --symbol",
    ):
        Predict(nameless, model_dir=tiny_bundle, ledger=path).run(CryptoPricePredictorV2)
    with (
        pytest.raises(ValueError, match="'BITCOIN', which is not written as BTC/USDT"),
        pytest.MonkeyPatch.context() as patch,
    ):
        stop_clock(
            patch, int(pd.read_parquet(file)["timestamp"].iloc[-1].timestamp() * 1000) + HOUR_MS
        )
        Predict(nameless, model_dir=tiny_bundle, ledger=path, symbol="bitcoin").run(
            CryptoPricePredictorV2
        )
    assert not path.exists()


@pytest.fixture
def server(candles, nothing_leaves, monkeypatch):
    """An exchange 20 minutes into the fifth last candle, whose clock is this machine's."""
    now_ms = int(timestamps_ms(candles)[-1]) - 5 * HOUR_MS + 1_200_000
    with ExchangeServer(market_of({BTC: {"1h": candles}}), now_ms=now_ms, limits={}) as server:
        for module in (commands, live):
            monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: server.now_ms / 1000))
        yield server


def test_live_watch_enters_every_forecast_and_a_second_watch_goes_on(
    server, candles, tiny_bundle, path, capsys, monkeypatch
):
    def some(*args, **options):
        def sleep(seconds):
            server.now_ms += int(seconds * 1000)

        yield from itertools.islice(watch(*args, **options, sleep=sleep), 2)

    monkeypatch.setattr(commands, "watch", some)
    command = Live(
        "btc/usdt",
        watch=True,
        recalibrate=False,
        model_dir=tiny_bundle,
        exchange="binance",
        base_url=server.url,
        ledger=path,
    )
    command.run(CryptoPricePredictorV2)
    command.run(CryptoPricePredictorV2)  # begins with a forecast that is there
    told = capsys.readouterr().out
    assert told.count("Ledger: line 1, sha256") == told.count("Ledger: line 3, sha256") == 1
    assert told.count("the first one counts, nothing was entered") == 1
    entries = ledger.read(path).entries
    last_ms = int(timestamps_ms(candles)[-1])
    assert [entry["base_time"] for entry in entries] == [
        ledger.to_text(last_ms - n * HOUR_MS) for n in (6, 5, 4)
    ]
    assert [entry["made_at"][14:19] for entry in entries] == ["20:00", "00:02", "00:02"]
    assert {entry["symbol"] for entry in entries} == {BTC}


def test_live_watch_ends_at_once_on_a_changed_ledger_and_outlasts_a_late_forecast(
    server, candles, tiny_bundle, path, monkeypatch, caplog
):
    command = Live(
        BTC,
        watch=True,
        recalibrate=False,
        model_dir=tiny_bundle,
        exchange="binance",
        base_url=server.url,
        ledger=path,
    )
    frames = [candles.iloc[:-20], candles.iloc[:-6]]
    monkeypatch.setattr(commands, "watch", lambda *_, **__: iter(frames))
    command.run(CryptoPricePredictorV2)
    assert "too late for a forecast of BTC/USDT's 1h candle" in caplog.text
    assert len(ledger.read(path).entries) == 1  # of the second frame
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 was changed"):
        command.run(CryptoPricePredictorV2)


def test_live_enters_and_evaluate_judges_by_the_exchange_once_the_candle_has_closed(
    server, tiny_bundle, path, tmp_path, capsys
):
    Live(BTC, model_dir=tiny_bundle, exchange="binance", base_url=server.url, ledger=path).run(
        CryptoPricePredictorV2
    )
    options = {"ledger": path, "exchange": "binance", "base_url": server.url, "output": tmp_path}
    Evaluate(**options).run(CryptoPricePredictorV2)
    assert "1 forecasts, 1 open, 0 judged" in capsys.readouterr().out
    server.now_ms += HOUR_MS
    Evaluate(**options).run(CryptoPricePredictorV2)
    told = capsys.readouterr().out
    assert "1 forecasts, 0 open, 1 judged" in told and "entered 1,200 s (median)" in told
    written = json.loads((tmp_path / "evaluation_v2.json").read_text())
    assert written["ledger"]["judged"] == 1 and written["models"][0]["n"] == 1


@pytest.mark.slow
def test_evaluate_scores_a_ledger_from_the_shell_with_candles_alone(path, tmp_path):
    enter(path, *range(0, 32, 2))
    write_candles(there_and_back(MOVES), tmp_path / "candles", BTC, "1h")
    command = [
        sys.executable,
        ROOT / "inference_v2.py",
        "evaluate",
        "--ledger",
        path,
        "--candles-dir",
        "candles",
    ]
    command += ["--output", "scores.json", "--predictions", "judged.parquet", "--fee-bps", "0"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "16 forecasts, 0 open, 16 judged" in done.stdout and done.stdout.rstrip().endswith("═")
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["models"][0]["test"]["verdicts"][0]["skill"] == pytest.approx(0.2)
    assert written["models"][0]["backtest"]["fee_bps"] == 0
    assert len(pd.read_parquet(tmp_path / "judged.parquet")) == 16


def test_evaluate_says_what_it_lacks(path, signal_dir):
    with pytest.raises(ValueError, match="pass --candles-dir DIR, or --ledger FILE"):
        Evaluate().run(CryptoPricePredictorV2)
    with pytest.raises(ValueError, match="every forecast in it counts"):
        Evaluate(candles_dir=signal_dir, ledger=path, since="2024-01-01").run(
            CryptoPricePredictorV2
        )
    with pytest.raises(ValueError, match="there is no such ledger"):
        Evaluate(candles_dir=signal_dir, ledger=path).run(CryptoPricePredictorV2)
    path.touch()
    with pytest.raises(ValueError, match="no forecast is in it yet"):
        Evaluate(candles_dir=signal_dir, ledger=path).run(CryptoPricePredictorV2)
