"""How skill changes in time: quarters, trend and the next quarter, by hand arithmetic."""

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.decay import age_curve, forecast_next, skill_over_time
from pipeline.report import reading, sentences, tables


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
    assert reading.is_over(test)
    assert "NOT ANY MORE: in the last whole quarter, 2025-Q4" in sentences.time_sentences(test)


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


HOUR = np.timedelta64(1, "h")


def ageing_parts(share_of_age, n_parts=6, days=30, wait=0, noise=0.0, seed=0):
    """Folds of so many days, each of a network whose share of the return changes with its age.

    Returns the folds' predictions, and when each network was trained: `wait` days before.
    """
    parts, trained = [], []
    for number in range(n_parts):
        first = pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(days=days * number)
        hours = pd.date_range(first, periods=24 * days, freq="h").as_unit("ms")
        actual, error = 0.01 * np.random.default_rng([seed, number]).standard_normal(
            (2, len(hours))
        )
        age = wait + (np.arange(len(hours)) + 1) / 24  # of the close of the candle that is known
        part = pd.DataFrame({"symbol": "BTC/USDT", "timestamp": hours, "base_price": 100.0})
        part = part.assign(actual_return=actual, volatility=0.01, naive=0.0)
        parts.append(part.assign(lstm=share_of_age(age) * actual + noise * error))
        trained.append(np.datetime64(first.tz_localize(None), "ms") - np.timedelta64(wait, "D"))
    return parts, trained


def test_the_skill_by_age_is_the_share_that_is_known_at_that_age():
    parts, trained = ageing_parts(lambda age: np.select([age < 10, age < 20], [0.3, 0.2], 0.1))
    curve = age_curve(parts, trained, "lstm", "naive", step=HOUR)
    assert curve["days"] == 10
    # The close of the last candle of a fold is 30 days old: a step of its own.
    assert [step["from_day"] for step in curve["steps"]] == [0, 10, 20, 30]
    assert [step["skill"] for step in curve["steps"]] == pytest.approx([0.3, 0.2, 0.1, 0.1])
    assert [step["trainings"] for step in curve["steps"]] == [6, 6, 6, 6]
    assert [step["n"] for step in curve["steps"]] == [6 * 239, 6 * 240, 6 * 240, 6]
    assert curve["steps"][-1]["low"] is None


def test_a_network_that_has_waited_is_as_old_as_it_is():
    parts, trained = ageing_parts(lambda age: 0.1 + 0 * age, n_parts=2, days=100, wait=540)
    curve = age_curve(parts, trained, "lstm", "naive", step=HOUR)
    assert curve["days"] == 30
    ends = [(step["from_day"], step["to_day"]) for step in curve["steps"]]
    assert ends == [(540, 570), (570, 600), (600, 630), (630, 660)]


def test_the_interval_of_an_age_holds_the_true_skill_about_as_often_as_it_says():
    held = []
    for seed in range(60):
        parts, trained = ageing_parts(lambda age: 0 * age, 3, noise=0.3, seed=seed)
        curve = age_curve(parts, trained, "lstm", "naive", step=HOUR)
        # Actual and forecast are independent: their difference is normal, sqrt(1 + 0.09) as wide.
        true = 1 - np.sqrt(1.09)
        whole = [step for step in curve["steps"] if step["low"] is not None]
        held += [step["low"] <= true <= step["high"] for step in whole]
    assert 0.9 <= np.mean(held) <= 0.99


def test_forecasts_of_two_days_have_no_curve():
    parts, trained = ageing_parts(lambda age: 0.1 + 0 * age, n_parts=1, days=2)
    assert age_curve(parts, trained, "lstm", "naive", step=HOUR) is None


def test_the_ages_are_told_in_rows_with_their_trainings():
    parts, trained = ageing_parts(lambda age: 0.1 + 0 * age, n_parts=2)
    rows = tables.age_rows(age_curve(parts, trained, "lstm", "naive", step=HOUR))
    assert rows[1] == ["0 to 10", "2", "478", "+10.000", "+10.00 to +10.00"]
    assert rows[-1] == ["30 to 40", "2", "2", "+10.000", "–"]
