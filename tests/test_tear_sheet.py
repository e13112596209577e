"""The account in the course of time, by hand arithmetic."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.backtest import sharpe_ratio
from pipeline.evaluation.tear_sheet import distribution, months, rolling_sharpe, thinned

HOUR_MS = 3_600_000


def equity_of(strategy, first="2024-01-31 22:00", held=None, freq="h"):
    times = pd.date_range(first, periods=len(strategy), freq=freq, tz="UTC")
    held = np.ones(len(strategy)) if held is None else held
    return pd.DataFrame({"timestamp": times, "strategy": strategy, "buy_and_hold": held})


def test_a_month_earns_what_lies_between_its_midnights():
    # 22:00, 23:00, 00:00 | 01:00, 02:00: what ends at midnight is still January's
    rows = months(equity_of([1.0, 1.2, 1.1, 1.32, 0.66], held=[1, 1, 2, 2, 3]))
    assert [row["month"] for row in rows] == ["2024-01", "2024-02"]
    assert [row["strategy"] for row in rows] == pytest.approx([0.1, 0.66 / 1.1 - 1])
    assert [row["buy_and_hold"] for row in rows] == pytest.approx([1.0, 0.5])


def test_a_thinned_curve_keeps_the_deepest_drawdown_and_when_it_was():
    strategy = np.ones(3001)
    strategy[1234] = 0.25
    curve = thinned(equity_of(strategy))
    assert len(curve["timestamp"]) == 751  # every fourth
    fall = curve["strategy_drawdown"]
    # The stretch that ends with point 309, row 1236, holds row 1234.
    assert [i for i, value in enumerate(fall) if value] == [309] and fall[309] == 0.75
    assert curve["strategy"] == [1.0] * 751


def test_a_short_curve_is_kept_whole():
    curve = thinned(equity_of([1.0, 2.0, 1.0, 0.5, 4.0]))
    assert curve["strategy_drawdown"] == [0.0, 0.0, 0.5, 0.75, 0.0]
    assert curve["timestamp"][0] == "2024-01-31T22:00Z"


def test_the_rolling_sharpe_ratio_is_that_of_the_last_days():
    rng = np.random.default_rng(0)
    returns = 0.01 * rng.standard_normal(24 * 25)
    rolling = rolling_sharpe(equity_of(np.cumprod(np.r_[1.0, 1 + returns])), HOUR_MS)
    assert rolling["days"] == 7 and len(rolling["value"]) == 200
    assert rolling["value"][-1] == pytest.approx(sharpe_ratio(returns[-7 * 24 :], HOUR_MS))
    assert rolling["value"][0] == pytest.approx(sharpe_ratio(returns[: 7 * 24], HOUR_MS))
    # Independent hours: the error of a mean of 168 is 1 / sqrt(168) deviations, a year has 8,760.
    half = (rolling["high"][-1] - rolling["low"][-1]) / 2
    assert half == pytest.approx(1.97 * np.sqrt(8760 / 168), rel=0.3)


def test_an_account_that_never_trades_has_no_sharpe_ratio_and_one_bin():
    flat = equity_of(np.ones(24 * 25))
    assert set(rolling_sharpe(flat, HOUR_MS)["value"]) == {None}
    assert sorted(set(distribution(flat)["strategy"])) == [0, 24 * 25 - 1]


def test_two_weeks_have_no_rolling_numbers():
    assert rolling_sharpe(equity_of(np.linspace(1, 2, 24 * 14)), HOUR_MS) is None


def test_returns_are_counted_and_the_outermost_bins_hold_what_lies_beyond():
    returns = np.r_[np.full(300, 0.01), np.full(299, -0.01), -0.5]
    found = distribution(equity_of(np.cumprod(np.r_[1.0, 1 + returns])))
    assert sum(found["strategy"]) == 600
    assert (found["strategy"][0], found["strategy"][-1]) == (300, 300)  # -0.5 beside -0.01
    assert found["edges"][-1] == pytest.approx(0.01)
    assert (found["worst"], found["best"]) == pytest.approx((-0.5, 0.01))
    assert found["worst_twentieth"] == pytest.approx(-0.01)


def test_after_ruin_nothing_is_earned_and_nothing_is_made_up():
    ruined = equity_of([1.0, 0.5, 0.0, 0.0, 0.0], first="2024-01-31 20:00")
    assert months(ruined)[0]["strategy"] == -1.0
    found = distribution(ruined)
    assert sum(found["strategy"]) == 2 and found["worst"] == -1.0
