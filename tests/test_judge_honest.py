"""Ten honest forecasts of markets that nobody can forecast: how often judge.py says BEATS.

python -m tests.test_judge_honest prints the counts.
"""

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from judge import judge
from pipeline.candles.candle_set import CandleSet
from pipeline.evaluation import matching
from pipeline.evaluation.directions import as_directions
from pipeline.evaluation.verdict import compare_forecasts
from pipeline.forecasts.foreign import read_forecasts

DRAWS = 200
CANDLES, FIRST = 1000, 150
MARKETS = ("gauss", "student", "garch", "seasonal", "jumps")


def martingale(kind: str, rng: np.random.Generator, n: int = CANDLES) -> np.ndarray:
    """(n,) log-returns with symmetric innovations, whose size alone can be foreseen."""
    shock = rng.standard_normal(n)
    if kind == "student":
        shock = rng.standard_t(3, n)
    elif kind == "seasonal":
        shock *= 1 + 0.8 * np.sin(2 * np.pi * np.arange(n) / 24)
    elif kind == "jumps":
        shock += 15 * (rng.random(n) < 0.005) * rng.choice((-1.0, 1.0), n)
    elif kind == "garch":
        variance = 1.0
        for t in range(n):
            shock[t] *= np.sqrt(variance)
            variance = 0.03 + 0.12 * shock[t] ** 2 + 0.85 * variance
    return 0.005 * shock


def candles_of(moves: np.ndarray) -> pd.DataFrame:
    close = 100 * np.exp(np.cumsum(moves))
    times = pd.date_range("2024-01-01", periods=len(moves), freq="h", tz="UTC").as_unit("ms")
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    return pd.DataFrame({"timestamp": times, **prices, "volume": 1.0})


def honest(kind: str, moves: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Column -> (n,) forecasts; row t looks at moves up to t."""
    n, past = len(moves), pd.Series(moves)
    volatility = past.ewm(span=48).std().bfill().to_numpy()
    close = pd.Series(100 * np.exp(np.cumsum(moves)))
    forecasts = {
        "noise": ("forecast_return", 0.02 * volatility * rng.standard_normal(n)),
        "momentum": ("forecast_return", 0.05 * moves),
        "reversal": ("forecast_return", -0.05 * np.clip(moves, -2 * volatility, 2 * volatility)),
        "mean of the past": ("forecast_return", past.expanding().mean().to_numpy()),
        "moving average": ("forecast_price", close.rolling(3, min_periods=1).mean().to_numpy()),
        "always up": ("forecast_return", np.full(n, 1e-5)),
        "tossed direction": ("direction", rng.choice((-1, 1), n)),
        "trend direction": ("direction", np.sign(past.rolling(10).sum().fillna(1)).to_numpy()),
        "probability": ("p_up", 0.5 + 0.02 * np.tanh(moves / volatility)),
        "four ahead": ("forecast_return", -0.05 * past.rolling(4).sum().fillna(0).to_numpy()),
    }
    column, values = forecasts[kind]
    return {column: values}


KINDS = (
    *("noise", "momentum", "reversal", "mean of the past", "moving average", "always up"),
    *("tossed direction", "trend direction", "probability", "four ahead"),
)


def drawn(kind: str, draw: int) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Forecasts, candles and horizon of one draw."""
    rng = np.random.default_rng([KINDS.index(kind), draw])
    moves = martingale(MARKETS[draw % len(MARKETS)], rng)
    candles = candles_of(moves)
    rows = pd.DataFrame({"timestamp": candles["timestamp"], **honest(kind, moves, rng)})
    horizon = 4 if kind == "four ahead" else 1
    return rows[FIRST:-horizon], candles, horizon


def grave_doubts(kind: str, draw: int) -> list[str]:
    """What judge.py gravely doubts about one honest forecast, naive alone compared."""
    rows, candles, horizon = drawn(kind, draw)
    judged = judge(rows, {"BTC/USDT": candles}, horizon=horizon, baselines=("naive",))
    [metrics] = judged.metrics.values()
    return [one["name"] for one in metrics["suspicions"] if one["is_grave"]]


def verdict_of(kind: str, draw: int) -> str:
    """What judge.py says of one honest forecast against naive."""
    rows, candles, horizon = drawn(kind, draw)
    market = CandleSet({"BTC/USDT": candles}, "1h", "memory", "frames")
    [read] = read_forecasts(rows)
    matched = matching.match(read, market, matching.make_targets(market, horizon))
    predictions = matched.predictions
    if matched.kind == "direction":
        predictions = as_directions(predictions.drop(columns="p_up", errors="ignore"), [read.name])
    [compared] = compare_forecasts(predictions, read.name, ["naive"], horizon)
    return compared.verdict


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
def test_an_honest_forecast_of_a_martingale_beats_naive_no_more_often_than_by_chance(kind):
    count = Counter(verdict_of(kind, draw) for draw in range(DRAWS))
    assert count["BEATS"] <= 0.05 * DRAWS, count


def test_one_draw_of_each_kind_is_judged():
    assert {verdict_of(kind, 0) for kind in KINDS} <= {"BEATS", "TIES", "LOSES"}


if __name__ == "__main__":
    for name in KINDS:
        print(f"{name:18}", dict(Counter(verdict_of(name, draw) for draw in range(DRAWS))))
