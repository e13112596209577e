"""Scores of a run whose forecasts are few, flat, of one coin or unusable: the rest stands."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.candles.schema import utc_from_ms
from pipeline.evaluation.scoring import score_run

HOUR = 3_600_000
START = 1_704_067_200_000


def predictions(n: int = 400, symbols=("BTC/USDT", "ETH/USDT"), seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for symbol in symbols:
        actual = 0.01 * rng.standard_normal(n)
        forecast = 0.002 * rng.standard_normal(n)
        frame = pd.DataFrame(
            {
                "symbol": symbol,
                "timestamp": utc_from_ms(START + HOUR * np.arange(n)),
                "base_price": 100.0,
                "current_return": np.r_[0.0, actual[:-1]],
                "actual_return": actual,
                "volatility": 0.01,
                "naive": 0.0,
                "drift": 1e-5,
                "ridge": 0.5 * forecast,
                "lstm": forecast,
                "p_up": 0.5 + 10 * forecast,
                "ridge_raw": forecast,
                "lstm_raw": 2 * forecast,
                **{
                    f"{prefix}{name}": forecast * (prefix == "") + shift
                    for prefix in ("", "ewma_", "garch_")
                    for name, shift in (("q10", -0.0128), ("q50", 0.0), ("q90", 0.0128))
                },
            }
        )
        parts.append(frame)
    return pd.concat(parts, ignore_index=True).sort_values(
        ["timestamp", "symbol"], ignore_index=True
    )


def score(*parts: pd.DataFrame, **changed):
    options: dict[str, Any] = {
        "network": "lstm",
        "baselines": ("naive", "drift", "ridge"),
        "interval_baselines": ("ewma", "garch", "har"),
        "timeframe": "1h",
        "horizon": 1,
        "synthetic": False,
        "fee_bps": 5.0,
        "threshold": 0.0,
        "funding": {},
    } | changed
    scores = score_run(parts, **options)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores  # plain data, without NaN
    return scores


def test_folds_are_scored_together_and_each_alone():
    whole = predictions()
    half = whole["timestamp"] < whole["timestamp"].iloc[400]
    scores = score(whole[half], whole[~half])
    assert scores["test"] == score(whole)["test"]
    assert [fold["n"] for fold in scores["folds"]] == [400, 400]
    assert (
        scores["folds"][0]["from"] == "2024-01-01T00:00Z"
        and scores["folds"][1]["to"] == "2024-01-17T15:00Z"
    )


def test_direction_is_called_by_the_forecast_before_shrinkage():
    shrunk = predictions().assign(ridge=0.0)
    assert score(shrunk)["test"]["models"]["ridge"]["n_calls"] == 800
    assert score(shrunk.drop(columns="ridge_raw"))["test"]["models"]["ridge"]["n_calls"] == 0


def test_an_interval_baseline_that_did_not_converge_in_a_fold_is_compared_on_the_others():
    first, second = predictions(seed=1), predictions(seed=2)
    second["timestamp"] += pd.Timedelta(days=30)
    without = second.drop(columns=["garch_q10", "garch_q50", "garch_q90"])
    compared, alone = (
        {entry["baseline"]: entry for entry in score(*parts)["test"]["interval"]["comparisons"]}
        for parts in ((first, without), (first,))
    )
    assert list(compared) == ["ewma", "garch"]
    assert compared["garch"]["statistic"] == alone["garch"]["statistic"]
    assert compared["ewma"]["statistic"] != alone["ewma"]["statistic"]


def test_a_network_whose_forecasts_are_unusable_loses_and_the_rest_stands():
    scores = score(predictions().assign(lstm=np.nan))
    assert scores["backtest"] is None and scores["test"]["interval"] is None
    assert scores["test"]["verdict"] == "NO EDGE" and scores["folds"][0]["verdict"] == "LOSES"
    assert scores["test"]["models"]["ridge"]["n_calls"] == 800
    assert any("lstm" in warning for warning in scores["test"]["warnings"])


@pytest.mark.parametrize("n", [1, 5, 10])
def test_a_handful_of_samples_of_one_coin_is_scored_as_far_as_it_goes(n, caplog):
    scores = score(predictions(n, symbols=("BTC/USDT",)))
    assert scores["test"]["n"] == n and scores["backtest"]["n_instants"] == n
    assert scores["test"]["verdict"] == "NO EDGE"
    if n < 10:
        assert scores["test"]["verdicts"][0]["statistic"] is None and "only" in caplog.text


def test_prices_that_stand_still_are_scored_without_a_made_up_number():
    scores = score(predictions().assign(actual_return=0.0, current_return=0.0))
    assert (
        scores["test"]["models"]["lstm"]["roc_auc"] is None
        and scores["test"]["models"]["naive"]["mape_percent"] == 0
    )
    assert scores["backtest"]["gross"]["total_return"] == 0


def test_a_long_equity_curve_is_thinned_for_the_file():
    curve = score(predictions(3000))["backtest"]["equity"]
    assert len(curve["timestamp"]) == len(curve["strategy"]) == len(curve["buy_and_hold"]) <= 1000
