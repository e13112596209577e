"""How skill changes in time: quarters, trend and the next quarter, by hand arithmetic."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.decay import forecast_next, skill_over_time
from pipeline.report import tables


def make_predictions(share_of_time, n_days=730, seed=0):
    """A coin by the hour; the network knows a share of each return, which changes with time.

    `share_of_time` maps (n,) years since the start to the share that is known.
    """
    rng = np.random.default_rng(seed)
    hours = pd.date_range("2024-01-01", periods=24 * n_days, freq="h", tz="UTC").as_unit("ms")
    years = np.arange(len(hours)) / (24 * 365.25)
    actual = 0.01 * rng.standard_normal(len(hours))
    return pd.DataFrame(
        {
            "symbol": "BTC/USDT",
            "timestamp": hours,
            "base_price": 100.0,
            "current_return": 0.0,
            "actual_return": actual,
            "volatility": 0.01,
            "naive": 0.0,
            "lstm": share_of_time(years) * actual,
        }
    )


def test_a_share_that_is_known_is_the_skill_of_each_quarter():
    over_time = skill_over_time(make_predictions(lambda years: 0.1 + 0 * years), "lstm", "naive")
    names = [row["quarter"] for row in over_time["quarters"]]
    assert names == [f"{year}-Q{quarter}" for year in (2024, 2025) for quarter in (1, 2, 3, 4)]
    assert [row["skill"] for row in over_time["quarters"]] == pytest.approx([0.1] * 8)
    assert over_time["last_holds_zero"] is False


def test_a_skill_that_falls_by_a_tenth_a_year_has_that_trend_and_is_over_where_it_is_gone():
    falling = make_predictions(lambda years: np.maximum(0.15 - 0.1 * years, 0))
    over_time = skill_over_time(falling, "lstm", "naive")
    trend = over_time["trend"]
    # 0.15 - 0.1 t until t = 1.5, then 0: its least-squares slope over two years, by hand
    years = np.arange(24 * 730) / (24 * 365.25)
    expected = np.polyfit(years, np.maximum(0.15 - 0.1 * years, 0), 1)[0]
    assert trend["per_year"] == pytest.approx(expected, abs=0.01)
    assert trend["low"] < expected < trend["high"] < 0
    assert trend["statistic"] < -5
    assert over_time["last_holds_zero"] is True
    test = {
        "skill_over_time": over_time,
        "verdicts": [{"baseline": "naive", "verdict": "BEATS", "loss": "scaled_absolute_error"}],
    }
    assert tables.is_over(test)
    assert "NOT ANY MORE: in the last whole quarter, 2025-Q4" in tables.time_sentences(test)


def test_a_trend_of_nothing_is_found_about_as_often_as_its_level_says():
    rng = np.random.default_rng(3)
    rejected = 0
    for seed in range(40):
        noise = make_predictions(lambda years: 0.3 * rng.standard_normal(len(years)), 190, seed)
        rejected += skill_over_time(noise.iloc[::6], "lstm", "naive")["trend"]["p_value"] < 0.05
    assert rejected <= 6  # 2 expected; 7 or more have a probability of 0.5 %


def test_a_quarter_of_less_than_a_month_is_shown_and_concludes_nothing():
    short = make_predictions(lambda years: 0.1 + 0 * years, n_days=91 + 20)  # to 2024-04-20
    over_time = skill_over_time(short, "lstm", "naive")
    assert [row["is_whole"] for row in over_time["quarters"]] == [True, False]
    assert (over_time["trend"], over_time["next_quarter"]) == (None, None)


def test_the_next_quarter_is_on_the_line_and_as_uncertain_as_quarters_differ():
    # By statsmodels 0.15, OLS([5, 1, 4, 2] on 0..3).get_prediction(4).summary_frame(alpha=0.05)
    found = forecast_next([5.0, 1.0, 4.0, 2.0])
    assert found["skill"] == pytest.approx(1.5)
    from statsmodels.api import OLS, add_constant

    fitted = OLS([5.0, 1.0, 4.0, 2.0], add_constant(np.arange(4.0))).fit()
    frame = fitted.get_prediction([[1.0, 4.0]]).summary_frame(alpha=0.05)
    assert found["low"] == pytest.approx(frame["obs_ci_lower"].iloc[0])
    assert found["high"] == pytest.approx(frame["obs_ci_upper"].iloc[0])
    assert forecast_next([5.0, 1.0, 4.0]) is None
