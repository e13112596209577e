"""What a referee doubts that a first look at the forecasts does not show."""

import numpy as np
import pandas as pd
import pytest

from judge import Judgement, judge
from pipeline.forecasts.baselines import BASELINE_NAMES
from tests.test_judge import HOUR, frame_of, free, moves, names_of, says_of, walk


def turning(n: int = 3000, share: float = 0.2, seed: int = 0) -> pd.DataFrame:
    """Candles whose moves turn back by this share of the last one."""
    shock = 0.005 * np.random.default_rng(seed).standard_normal(n)
    for t in range(1, n):
        shock[t] -= share * shock[t - 1]
    close = 100 * np.exp(np.cumsum(shock))
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    times = walk(n)["timestamp"]
    return pd.DataFrame({"timestamp": times, **prices, "volume": 10.0})


@pytest.fixture(scope="module")
def market() -> pd.DataFrame:
    return turning()


@pytest.fixture(scope="module")
def rule(market) -> np.ndarray:
    """An honest forecast that BEATS naive."""
    return -0.1 * np.nan_to_num(moves(market))


def verdict_of(judged: Judgement) -> str:
    [verdict] = judged.verdicts.values()
    return verdict


def is_grave(judged: Judgement, name: str) -> bool:
    [metrics] = judged.metrics.values()
    return next(one["is_grave"] for one in metrics["suspicions"] if one["name"] == name)


def against_all(forecasts, candles, **options) -> Judgement:
    return judge(forecasts, {"BTC/USDT": candles}, **options)


# --- opponents


def test_naive_alone_is_no_opponent_that_makes_an_edge(market, rule):
    judged = free(frame_of(market, rule), market)
    assert judged.metrics["forecasts"]["test"]["verdict"] == "EDGE"
    assert verdict_of(judged) == "IN DOUBT"
    assert "not compared: drift, reversal, lad, ridge, xgboost" in says_of(judged, "naive_alone")
    assert "naive_alone" not in names_of(free(frame_of(market, 0.0), market))


def test_a_stray_early_row_does_not_drive_the_opponents_away(market, rule):
    made = frame_of(market, rule, rows=slice(2200, -5))
    stray = pd.concat([frame_of(market, rule, rows=slice(60, 61)), made])
    one = against_all(made, market).metrics["forecasts"]
    judged = against_all(stray, market)
    other = judged.metrics["forecasts"]
    assert list(other["test"]["models"]) == [*BASELINE_NAMES, "forecasts"]
    assert other["test"]["n"] == one["test"]["n"] == len(made)
    assert other["test"]["verdicts"] == one["test"]["verdicts"]
    assert "1 forecast of BTC/USDT until 2024-01-03 12:00" in " ".join(other["notes"])
    assert "incomplete" not in names_of(judged)
