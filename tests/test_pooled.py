"""The pooled preset: features by hand, no look-ahead, training and serving alike."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import train_v2_production
from app import Forecaster, Options
from config import PRESETS_V2, ConfigV2
from feature_engineering import V2_WARMUP, choose_preset_features, compute_market
from inference_v2 import CryptoPricePredictorV2
from pipeline.candles.schema import timestamps_ms
from pipeline.candles.synthetic import synthetic_market
from pipeline.commands import Evaluate, Live, Predict
from pipeline.evaluation.losses import deciding
from pipeline.report.tables import horizon_rows
from pipeline.samples import leakage
from pipeline.samples.pooled_features import (
    LEAST_COINS,
    POOLED_FEATURES,
    POOLED_MARKET_FEATURES,
    POOLED_OWN_FEATURES,
    TIME_FEATURES,
    choose_pooled_features,
    compute_pooled_features,
    market_features,
    with_market,
)
from pipeline.training.recipes import run_horizons
from tests import fetching
from tests.conftest import TINY, write_market
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer
from tests.serving_ways import find_ways

foreign_hosts, nothing_leaves = fetching.FIXTURES[1], fetching.FIXTURES[3]

COINS = ("BTC/USDT", "ETH/USDT", "SOL/USDT", "XRP/USDT", "ADA/USDT", "LTC/USDT")
SMALL = replace(
    PRESETS_V2["pooled"],
    symbols=COINS,
    candles=600,
    epochs=2,
    ensemble=1,
    batch_size=64,
    lstm_units=(4,),
    conv_filters=3,
    conv_lstm_units=3,
    dense_units=(4,),
    dropout=0.1,
    learning_rate=0.01,
)


@pytest.fixture(scope="module")
def market():
    return synthetic_market(COINS, "1h", 600 + V2_WARMUP, seed=7, signal_r2=0.15)


@pytest.fixture(scope="module")
def candles_dir(market, tmp_path_factory):
    return write_market(market, tmp_path_factory.mktemp("candles"))


@pytest.fixture(scope="module")
def bundle(candles_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    metrics = train_v2_production.main(replace(SMALL, candles_dir=candles_dir, output_dir=folder))
    # Else every forecast is 0 and parity means nothing
    assert metrics["calibration"]["shrinkage"] > 0
    return folder


@pytest.fixture(scope="module")
def predictor(bundle):
    return CryptoPricePredictorV2.from_directory(bundle)


def candles_of(close, high=None, low=None, volume=None, start="2024-01-01"):
    close = np.asarray(close, dtype=np.float64)
    return pd.DataFrame(
        {
            "timestamp": pd.date_range(start, periods=len(close), freq="h", tz="UTC").as_unit("ms"),
            "open": close,
            "high": close * 1.01 if high is None else high,
            "low": close * 0.99 if low is None else low,
            "close": close,
            "volume": np.ones(len(close)) if volume is None else volume,
        }
    )


def test_the_own_features_of_a_hand_made_candle():
    # 399 moves of 1 % up and down, then one of 2 %: the volatility just before is 1 %
    log_return = np.where(np.arange(400) % 2, 0.01, -0.01)
    log_return[-1] = 0.02
    close = 100 * np.exp(np.cumsum(log_return))
    high, low, volume = close * 1.01, close * 0.99, np.ones(400)
    high[-1], low[-1], volume[-1] = close[-1] * np.exp(0.01), close[-1] * np.exp(-0.03), 49.0
    last = with_market(candles_of(close, high, low, volume), None, "1h").iloc[-1]
    decay = 47 / 49
    volatility = np.sqrt(decay * 0.01**2 + (1 - decay) * 0.02**2)
    assert last["scaled_return"] == pytest.approx(0.02 / volatility)
    top, bottom = np.exp(0.01), np.exp(-0.03)
    assert last["close_position"] == pytest.approx((2 - top - bottom) / (top - bottom))
    assert last["range_size"] == pytest.approx(np.log(0.04 / volatility))
    assert last["volume_level"] == pytest.approx(np.log(49 / (96 / 48)))
    assert last["volatility_ratio_12"] == pytest.approx(
        np.log(np.sqrt((11 + 4) / 12) * 0.01 / volatility)
    )
    assert last["volatility_ratio_336"] == pytest.approx(
        np.log(volatility / (np.sqrt((335 + 4) / 336) * 0.01))
    )
    closes_at = (399 + 1) % 24  # the first candle opens at midnight
    assert last["hour_sin"] == pytest.approx(np.sin(2 * np.pi * closes_at / 24))
    assert last["half_day_cos"] == pytest.approx(np.cos(4 * np.pi * closes_at / 24))
    assert last[list(POOLED_MARKET_FEATURES)].isna().all()


def test_extreme_and_dead_candles_give_finite_features_within_the_limits():
    close = np.full(200, 7.3)
    close[150] = 7000.0
    high, low, volume = close.copy(), close.copy(), np.zeros(200)
    values = with_market(
        candles_of(close, high, low, volume), None, "1h", POOLED_OWN_FEATURES
    ).iloc[60:]
    assert np.isfinite(values.to_numpy()).all()
    assert values.abs().to_numpy().max() <= 5.0


def test_the_market_is_the_mean_of_the_coins_that_have_the_candle(market):
    frames = {symbol: frame.copy() for symbol, frame in market.items()}
    frames["ADA/USDT"] = frames["ADA/USDT"].drop(index=700).reset_index(drop=True)
    features = compute_pooled_features(frames, "1h")
    time = market["BTC/USDT"]["timestamp"]
    for row, coins in ((699, COINS), (700, [coin for coin in COINS if coin != "ADA/USDT"])):
        at = {
            coin: features[coin].loc[frames[coin]["timestamp"] == time[row]].iloc[0]
            for coin in coins
        }
        for coin in coins:
            for name in ("return", "close_position"):
                own = "scaled_return" if name == "return" else name
                assert at[coin][f"market_{name}"] == pytest.approx(
                    np.mean([at[c][own] for c in coins])
                )
                assert at[coin][f"btc_{name}"] == at["BTC/USDT"][own]


@pytest.mark.parametrize("lacking", ["BTC/USDT", "ETH/USDT"])
def test_where_bitcoin_or_the_least_coin_is_missing_so_are_all_four_market_features(
    market, lacking
):
    coins = COINS[:LEAST_COINS]
    frames = {
        coin: market[coin].drop(index=700).reset_index(drop=True)
        if coin == lacking
        else market[coin]
        for coin in coins
    }
    times = market["BTC/USDT"]["timestamp"]
    features = market_features(frames, "1h").loc[timestamps_ms(pd.DataFrame({"timestamp": times}))]
    assert features.iloc[700].isna().all()
    assert features.iloc[[699, 701]].notna().all().all()
    assert market_features({coin: market[coin] for coin in coins[1:]}, "1h").isna().all().all()


def test_the_features_that_candles_can_serve_are_chosen(market):
    assert choose_pooled_features(market, "1h") == POOLED_FEATURES
    few = dict(list(market.items())[: LEAST_COINS - 1])
    assert choose_pooled_features(few, "1h") == POOLED_OWN_FEATURES
    without_bitcoin = {coin: frame for coin, frame in market.items() if coin != "BTC/USDT"}
    assert choose_pooled_features(without_bitcoin, "1h") == POOLED_OWN_FEATURES
    assert not set(TIME_FEATURES) & set(choose_pooled_features(market, "1d"))
    assert set(TIME_FEATURES) <= set(choose_pooled_features(market, "15m"))
    assert choose_preset_features("guide", market, "1h", 0)[0] == "open_gap"


def test_no_feature_looks_ahead_neither_at_its_own_coin_nor_at_another(market):
    part = {coin: frame.iloc[:400] for coin, frame in market.items()}
    for changed, watched in (
        ("ETH/USDT", "ETH/USDT"),
        ("BTC/USDT", "ETH/USDT"),
        ("SOL/USDT", "ETH/USDT"),
    ):

        def features(candles, changed=changed, watched=watched):
            shorter = {**part, changed: candles}
            table = compute_pooled_features(shorter, "1h")[watched]
            return table.iloc[: len(candles)].reset_index(drop=True)

        leakage.check(features, part[changed], cuts=(0.2, 0.5, 0.99))


def test_features_do_not_depend_on_the_price_or_the_volume_scale(market):
    scaled = {
        coin: frame.assign(
            **{name: frame[name] * 1024 for name in ("open", "high", "low", "close", "volume")}
        )
        for coin, frame in market.items()
    }
    assert_frame_equal(
        compute_pooled_features(scaled, "1h")["ETH/USDT"],
        compute_pooled_features(market, "1h")["ETH/USDT"],
    )


def test_after_the_warm_up_features_have_forgotten_where_the_history_starts(market):
    whole = compute_pooled_features(market, "1h")["ETH/USDT"]
    later = compute_pooled_features(
        {coin: frame.iloc[300:] for coin, frame in market.items()}, "1h"
    )["ETH/USDT"]
    gap = (later.iloc[V2_WARMUP:] - whole.loc[later.index[V2_WARMUP:]]).abs().max() / whole.std()
    assert gap.max() < 1e-6


def test_unknown_features_are_refused(market):
    with pytest.raises(
        ValueError, match=r"unknown feature 'sentiment'; the pooled preset knows scaled_return"
    ):
        with_market(market["BTC/USDT"], None, "1h", ["scaled_return", "sentiment"])


def test_the_forecasts_of_the_test_part_come_back_bit_for_bit_with_the_context(bundle, market):
    predictor = CryptoPricePredictorV2.from_directory(bundle, judged=True)
    saved = pd.read_parquet(bundle / "predictions_v2.parquet")
    assert predictor.wants_context
    for coin in ("BTC/USDT", "ADA/USDT"):
        rows = saved[saved["symbol"] == coin].set_index("timestamp")
        served = (
            predictor.predict_history(market[coin], context=market)
            .set_index("timestamp")
            .loc[rows.index]
        )
        assert rows["lstm"].abs().min() > 0
        for ours, theirs in (
            ("predicted_return", "lstm"),
            ("q10", "q10"),
            ("q90", "q90"),
            ("p_up", "p_up"),
        ):
            assert np.array_equal(served[ours].to_numpy(), rows[theirs].to_numpy())


def test_one_forecast_equals_its_row_of_the_history_whatever_the_context_holds_of_later_candles(
    predictor, market
):
    eth = market["ETH/USDT"]
    history = predictor.predict_history(eth, context=market).set_index("timestamp")
    for t in (700, 900, len(eth) - 1):
        expected = history.loc[eth["timestamp"][t], "predicted_return"]
        until_t = {coin: frame.iloc[: t + 1] for coin, frame in market.items()}
        assert predictor.predict(eth.iloc[: t + 1], context=until_t)["return"] == expected
        assert predictor.predict(eth.iloc[: t + 1], context=market)["return"] == expected
        both = predictor.predict_batch(
            [eth.iloc[: t + 1], market["ADA/USDT"].iloc[: t + 1]], context=until_t
        )
        assert both[0]["return"] == expected


def test_without_context_a_forecast_is_made_as_with_too_little_of_it(predictor, market):
    eth = market["ETH/USDT"]
    informed = predictor.predict(eth, context=market)
    few = {coin: market[coin] for coin in ("BTC/USDT", "ETH/USDT")}
    with pytest.warns(UserWarning, match="does without 4 of 14 inputs .*at least two more pairs"):
        alone = predictor.predict(eth)
    assert alone["return"] != informed["return"]
    assert alone["missing_inputs"] == list(POOLED_MARKET_FEATURES)
    assert informed["missing_inputs"] == []
    # The context of one call is forgotten in the next.
    for context in (few, {}, None):
        with pytest.warns(UserWarning, match="does without 4 of 14 inputs"):
            assert predictor.predict(eth, context=context) == alone


def test_shifted_context_changes_the_forecast_so_it_is_matched_by_time(predictor, market):
    eth = market["ETH/USDT"]
    older = {coin: frame.iloc[:-1] for coin, frame in market.items()}  # nothing of the last candle
    with pytest.warns(UserWarning, match="does without 4 of 14 inputs"):
        late = predictor.predict(eth, context=older)
    assert late["return"] != predictor.predict(eth, context=market)["return"]


def test_evaluate_looks_at_the_trained_coins_whichever_is_scored(
    bundle, market, candles_dir, tmp_path, capsys
):
    # No candle is newer than what the served network has learnt.
    predictor = CryptoPricePredictorV2.from_directory(bundle, judged=True)
    kept = tmp_path / "forecasts.parquet"
    command = Evaluate(candles_dir, model_dir=bundle, symbols=("ETH/USDT",), predictions=kept)
    command.run(CryptoPricePredictorV2)
    scored = pd.read_parquet(kept).set_index("timestamp")
    history = (
        predictor.predict_history(market["ETH/USDT"], context=market)
        .set_index("timestamp")
        .loc[scored.index]
    )
    # The evaluation forecasts from a piece of the history that has forgotten where it starts.
    gap = np.abs(scored["lstm"] - history["predicted_return"]).max()
    assert len(scored) > 50 and gap < 1e-5 * history["predicted_return"].std()
    assert "forecasts of ETH/USDT" in capsys.readouterr().out


@pytest.fixture
def exchange(market, nothing_leaves):
    """An exchange 20 minutes into the last candle but one."""
    last_ms = int(timestamps_ms(market["BTC/USDT"])[-1])
    known = {coin: {"1h": frame} for coin, frame in market.items()}
    with ExchangeServer(market_of(known), now_ms=last_ms - 2_400_000, limits={}) as server:
        yield server


def test_a_live_forecast_knows_what_the_other_coins_did(predictor, market, exchange):
    closed = {coin: frame.iloc[:-2] for coin, frame in market.items()}
    live = predictor.predict_live("ETH/USDT", exchange="binance", base_url=exchange.url)
    recent = {coin: frame.iloc[-predictor.required_candles :] for coin, frame in closed.items()}
    recent["ETH/USDT"].attrs = {"symbol": "ETH/USDT", "exchange": "binance"}  # as fetched ones say
    assert live == predictor.predict(recent["ETH/USDT"], context=recent)
    with pytest.warns(UserWarning, match="does without 4 of 14 inputs"):
        assert live["return"] != predictor.predict(recent["ETH/USDT"])["return"]


def test_the_live_command_does_without_the_other_coins_where_they_cannot_be_had(
    predictor, bundle, market, exchange, monkeypatch, caplog, capsys
):
    def out_of_reach(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(CryptoPricePredictorV2, "fetch_context", out_of_reach)
    command = Live("ETH/USDT", model_dir=bundle, exchange="binance", base_url=exchange.url)
    with pytest.warns(UserWarning, match="does without 4 of 14 inputs"):
        command.run(CryptoPricePredictorV2)
    with pytest.warns(UserWarning, match="does without 4 of 14 inputs"):
        alone = predictor.predict(market["ETH/USDT"].iloc[:-2].iloc[-predictor.required_candles :])
    assert f"Expected return: {alone['return_percent']:+.4f}%" in capsys.readouterr().out
    assert "no candles of the other coins, so the forecast does without: no route" in caplog.text


def test_predict_finds_the_other_coins_beside_the_file(
    predictor, bundle, market, candles_dir, tmp_path, capsys
):
    command = Predict(candles_dir / "ETHUSDT_1h.parquet", model_dir=bundle)
    command.run(CryptoPricePredictorV2)
    informed = predictor.predict(market["ETH/USDT"], context=market)
    assert f"Expected return: {informed['return_percent']:+.4f}%" in capsys.readouterr().out

    shutil.copy(candles_dir / "ETHUSDT_1h.parquet", tmp_path)
    picture = tmp_path / "forecast.png"
    command = Predict(tmp_path / "ETHUSDT_1h.parquet", model_dir=bundle, picture=picture)
    told = "files in the same folder at the command line"
    with pytest.warns(UserWarning, match=told) as caught:
        command.run(CryptoPricePredictorV2)
    assert len(caught) == 1 and picture.is_file()  # once, though the picture forecasts again
    assert f"Expected return: {informed['return_percent']:+.4f}%" not in capsys.readouterr().out


def test_predict_finds_the_other_coins_in_the_cache(
    predictor, bundle, market, candles_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(candles_dir / "ETHUSDT_1h.parquet", tmp_path)
    others = {symbol: frame for symbol, frame in market.items() if symbol != "ETH/USDT"}
    write_market(others, tmp_path / "candles" / "binance")
    Predict(Path("ETHUSDT_1h.parquet"), model_dir=bundle, json=True).run(CryptoPricePredictorV2)
    said = json.loads(capsys.readouterr().out)
    informed = predictor.predict(market["ETH/USDT"], context=market)
    assert said["missing_inputs"] == []
    # The cache's frames are cut to what is needed, so the last bits of indicators may differ.
    assert said["return"] == pytest.approx(informed["return"], rel=1e-6)


def test_the_page_forecasts_with_the_other_coins_of_its_source(
    predictor, bundle, market, candles_dir, exchange, tmp_path
):
    informed = predictor.predict(market["ETH/USDT"], context=market)
    page = Forecaster(Options(model_dir=(bundle,), candles_dir=candles_dir, source="directory"))
    shown = page.predict("ETH/USDT")
    assert shown["missing_inputs"] == []
    # The page's frame begins later, so the last bits of its indicators may differ.
    assert shown["return"] == pytest.approx(informed["return"], rel=1e-6)

    live = Forecaster(
        Options(model_dir=(bundle,), source="exchange", exchange="binance", base_url=exchange.url)
    ).predict("ETH/USDT")
    closed = {coin: frame.iloc[:-2] for coin, frame in market.items()}
    expected = predictor.predict(closed["ETH/USDT"], context=closed)
    assert live["return"] == pytest.approx(expected["return"], rel=1e-6)

    shutil.copy(candles_dir / "ETHUSDT_1h.parquet", tmp_path)
    blind = Forecaster(Options(model_dir=(bundle,), candles_dir=tmp_path, source="directory"))
    answer = blind.answer("ETH/USDT")
    assert answer.prediction["missing_inputs"] == list(POOLED_MARKET_FEATURES)
    assert any("does without 4 of 14 inputs" in note for note in answer.notes)


def test_an_evaluation_says_that_its_forecasts_lack_the_other_coins(
    bundle, candles_dir, tmp_path, capsys
):
    shutil.copy(candles_dir / "ETHUSDT_1h.parquet", tmp_path)
    Evaluate(candles_dir=tmp_path, model_dir=bundle).run(CryptoPricePredictorV2)
    told = " ".join(capsys.readouterr().out.split())
    assert "forecasts: the forecast does without 4 of 14 inputs (btc_return," in told
    Evaluate(candles_dir=candles_dir, model_dir=bundle).run(CryptoPricePredictorV2)
    assert "does without" not in capsys.readouterr().out


def test_every_way_of_serving_says_the_same_or_names_what_it_lacks(bundle, tiny_bundle, tmp_path):
    def ask(options, symbol):  # tests/test_app.py has the endpoint itself
        return Forecaster(options).predict(symbol)

    pooled = {way.name: way for way in find_ways(bundle, tmp_path / "pooled", ask_page=ask)}
    guide = {way.name: way for way in find_ways(tiny_bundle, tmp_path / "guide", ask_page=ask)}
    for ways in (pooled, guide):
        assert [way.name for way in ways.values() if not way.is_honest] == []
        assert ways["predict"].missing_inputs == []
        assert len(ways["predict, the pair alone"].missing_inputs) > 0
    blind = "command predict, a lone file"
    assert pooled[blind].missing_inputs == list(POOLED_MARKET_FEATURES)
    assert pooled[blind].difference > 0
    assert guide[blind].difference == 0


def test_a_model_of_one_coin_has_no_use_for_context(tiny_bundle, signal_market):
    guide = CryptoPricePredictorV2.from_directory(tiny_bundle)
    assert not guide.wants_context and guide.fetch_context() == {}
    frame = signal_market["BTC/USDT"]
    assert guide.predict(frame, context=signal_market) == guide.predict(frame)


def test_the_presets_are_sound_and_differ_where_the_help_says_so():
    for config in PRESETS_V2.values():
        config.check()
    assert PRESETS_V2["guide"] == ConfigV2()
    assert TINY.preset == "guide"


@pytest.mark.slow
@pytest.mark.parametrize("option", [["--preset", "pooled"], ["--preset=pooled"]])
def test_the_command_line_sets_the_presets_defaults(option):
    script = Path(train_v2_production.__file__)
    done = subprocess.run(
        [sys.executable, str(script), *option, "--help"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "(default: 12)" in done.stdout and "(default: pooled)" in done.stdout


def test_horizons_are_a_run_each_in_a_folder_each_and_a_row_each_of_a_table(tmp_path):
    seen = []

    def train(config):
        seen.append((config.horizon, config.horizons, config.output_dir))
        naive = {
            "model": "lstm",
            "baseline": "naive",
            "skill": 0.004,
            "statistic": 2.5,
            "p_holm": 0.02,
            "verdict": "BEATS",
        }
        models = {
            "naive": {"direction_accuracy": None},
            "lstm": {"direction_accuracy": 0.5 + config.horizon / 100},
        }
        return {
            "test": {
                "n": 1000 * config.horizon,
                "models": models,
                "verdicts": [naive],
                "verdict": "EDGE",
            }
        }

    found = run_horizons(train, replace(TINY, horizons=(1, 4, 4)), tmp_path)
    assert seen == [(1, (), tmp_path / "h1"), (4, (), tmp_path / "h4")]
    rows = horizon_rows({horizon: metrics["test"] for horizon, metrics in found.items()})
    assert rows[-1] == ["4", "4,000", "+0.400", "+2.50", "0.020", "54.00", "EDGE"]
    run_horizons(train, replace(TINY, horizons=(24,), output_dir=tmp_path / "mine"), tmp_path)
    assert seen[2:] == [(24, (), tmp_path / "mine" / "h24")]
    with pytest.raises(ValueError, match="horizons is 0; pass at least 1 each"):
        replace(TINY, horizons=(4, 0)).check()


def test_compute_market_tells_the_presets_apart(market):
    assert list(compute_market(market, "1h", ("rsi",))["BTC/USDT"].columns) == ["rsi"]
    assert list(compute_market(market, "1h", ("btc_return",))["BTC/USDT"].columns) == ["btc_return"]


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize(("signal_r2", "verdict"), [(0.0, "TIES"), (0.15, "BEATS")])
def test_on_martingales_it_finds_no_edge_and_a_planted_one_it_finds(
    signal_r2, verdict, tmp_path, no_twin
):
    market = synthetic_market(COINS, "1h", 2000 + V2_WARMUP, seed=11, signal_r2=signal_r2)
    config = replace(
        PRESETS_V2["pooled"],
        symbols=COINS,
        candles=2000,
        batch_size=128,
        ensemble=1,
        candles_dir=write_market(market, tmp_path / "candles"),
        output_dir=tmp_path / "bundle",
    )
    against = {
        row["baseline"]: row["verdict"]
        for row in deciding(train_v2_production.main(config)["test"]["verdicts"])
    }
    assert against["naive"] == verdict
