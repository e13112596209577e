"""What the interactive page says: outcomes counted by hand, and the words and tables on them."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.candles.schema import utc_from_ms
from pipeline.evaluation.outcomes import Tally, chance_range, find_outcomes, tally
from pipeline.report import live_page
from pipeline.report.live_page import Answer

BTC = "BTC/USDT"
HOUR_MS = 3_600_000
FIRST = pd.Timestamp("2024-06-01", tz="UTC")


def hours(*which: int) -> pd.Series:
    return utc_from_ms(np.array([hour_ms(hour) for hour in which], dtype=np.int64))


def candles_of(closes: dict[int, float]) -> pd.DataFrame:
    price = np.array(list(closes.values()), dtype=float)
    return pd.DataFrame(
        {
            "timestamp": hours(*closes),
            **dict.fromkeys(("open", "high", "low", "close"), price),
            "volume": 1.0,
        }
    )


def history_of(forecasts: dict[int, float], low: float = -0.1, high: float = 0.1) -> pd.DataFrame:
    columns = {"timestamp": hours(*forecasts), "predicted_return": list(forecasts.values())}
    return pd.DataFrame({**columns, "q10": low, "q90": high})


def hour_ms(hour: int) -> int:
    return int(FIRST.timestamp() * 1000) + hour * HOUR_MS


def test_an_outcome_is_the_move_from_a_forecast_s_candle_to_the_one_that_was_forecast():
    candles = candles_of({0: 100, 1: 110, 2: 99, 3: 99})
    history = history_of({0: 0.01, 1: 0.01, 2: -0.01, 3: 0.02}, low=-0.1, high=0.1)
    found = find_outcomes(history, candles, "1h", 1, seen_until_ms=hour_ms(2))
    assert found["target"].tolist() == hours(1, 2, 3).tolist()  # of candle 3 nothing has come yet
    assert found["actual_return"].tolist() == pytest.approx([math.log(1.1), math.log(0.9), 0])
    assert found["direction"].tolist() == ["right", "wrong", "none"]
    assert found["is_inside"].tolist() == [True, False, True]  # ln 0.9 is -0.105
    assert found["is_seen"].tolist() == [
        True,
        False,
        False,
    ]  # candle 0 closes at 1, candle 1 when the cut is


def test_a_forecast_whose_candle_is_missing_has_no_outcome():
    candles = candles_of({0: 100, 1: 101, 2: 102, 4: 104, 5: 105})
    found = find_outcomes(history_of({0: 0.1, 1: 0.1, 2: 0.1, 4: 0.1, 5: 0.1}), candles, "1h", 2, 0)
    assert found["timestamp"].tolist() == hours(0, 2).tolist()
    assert found["actual_return"].tolist() == pytest.approx([math.log(1.02), math.log(104 / 102)])


def test_only_what_the_model_had_not_seen_is_counted():
    candles = candles_of({0: 100, 1: 110, 2: 99, 3: 99})
    history = history_of({0: 0.01, 1: 0.02, 2: -0.01})
    assert tally(find_outcomes(history, candles, "1h", 1, hour_ms(2))) == Tally(
        n=2,
        n_calls=1,
        n_right=0,
        n_inside=1,
        error=pytest.approx((0.02 - math.log(0.9) + 0.01) / 2),
        naive_error=pytest.approx(-math.log(0.9) / 2),
    )
    nothing = tally(find_outcomes(history, candles, "1h", 1, hour_ms(9)))
    assert (nothing.n, nothing.n_calls, nothing.n_right, nothing.n_inside) == (0, 0, 0, 0)


@given(st.integers(0, 500))
def test_a_coin_toss_is_as_often_above_its_half_as_below(n):
    low, high = chance_range(n, 0.5)
    assert low + high == n and 0 <= low <= high


def test_48_coin_tosses_come_out_17_to_31_times_right():
    # sum of C(48, k) for k < 17 and for k < 18 over 2^48: 1.5 % and 3.0 %
    below = [sum(math.comb(48, k) for k in range(n)) / 2**48 for n in (17, 18)]
    assert below[0] < 0.025 < below[1] and chance_range(48, 0.5) == (17, 31)


# --- words


def answer_of(outcomes: pd.DataFrame | None = None, **changes) -> Answer:
    prediction = {
        "price": 67_000.5,
        "return": 0.001,
        "return_percent": 0.1,
        "price_change": 67.0,
        "last_price": 66_933.5,
        "confidence": 0.5214,
        "p_up": 0.5214,
        "price_low": 66_500.0,
        "price_high": 67_400.0,
        "timestamp": pd.Timestamp("2024-06-16 12:00", tz="UTC"),
        "quote": "USDT",
    }
    prediction |= {name: changes.pop(name) for name in list(changes) if name in prediction}
    candles = candles_of({hour: 66_900.0 + hour for hour in range(80)})
    fields = {
        "symbol": BTC,
        "candles": candles,
        "prediction": prediction,
        "source": "a directory",
        "is_synthetic": False,
        "outcomes": find_outcomes(history_of({}), candles, "1h", 1, 0)
        if outcomes is None
        else outcomes,
        "notes": (),
        "banners": (),
        "kept_until_ms": 0,
    }
    return Answer(**fields | changes)


def test_the_forecast_in_words():
    assert live_page.forecast_sentence(answer_of(), "1h") == (
        "For the close of the 1h candle that opens at 2024-06-16 12:00 UTC it forecasts a rise to "
        "67,000.50 USDT, from 66,933.50. That the direction is right has a probability of 52.1 %, "
        "where a coin toss has 50 %; with one of 80 % the close lies between 66,500.00 and "
        "67,400.00."
    )
    down = {"return": -0.01, "price": 0.1234567}
    assert "a fall to 0.123457 USDT" in live_page.forecast_sentence(answer_of(**down), "1h")
    assert "it forecasts no change, from" in live_page.forecast_sentence(
        answer_of(**{"return": 0.0}), "1h"
    )


def test_the_record_says_what_is_counted_and_what_was_seen():
    counts = Tally(n=10, n_calls=10, n_right=6, n_inside=8, error=0.1, naive_error=0.1)
    assert live_page.record_sentence(counts, 0) == (
        "In a series of 10 coin tosses, 2 to 8 come out right 95 times in 100, so a count inside "
        "that range proves nothing."
    )
    assert live_page.record_sentence(counts, 38).endswith(
        " 38 of these 48 were made at a time that the model was fitted or calibrated on; they are "
        "marked and not counted."
    )
    nothing = Tally(0, 0, 0, 0, math.nan, math.nan)
    assert live_page.record_sentence(nothing, 48).endswith(
        "say nothing about forecasts, and no hits are counted."
    )
    assert live_page.record_sentence(nothing, 0).startswith("Nothing has come true yet")


def test_the_table_shows_the_newest_forecast_first_and_marks_what_was_seen():
    candles = candles_of({0: 100, 1: 101, 2: 90})
    outcomes = find_outcomes(history_of({0: 0.001, 1: 0.002}), candles, "1h", 1, hour_ms(2))
    assert live_page.outcome_rows(outcomes) == [
        ["candle", "forecast %", "80 % band", "actual %", "direction", "band"],
        ["01 Jun 02:00", "+0.20", "−10.00 to +10.00", "−11.53", "wrong", "outside"],
        ["01 Jun 01:00", "+0.10", "−10.00 to +10.00", "+1.00", "right (seen)", "inside (seen)"],
    ]


def test_a_page_without_outcomes_or_with_seen_ones_alone_counts_none():
    assert "Nothing has come true yet" in live_page.body(answer_of(), "1h")
    candles = candles_of({hour: 100.0 + hour for hour in range(5)})
    outcomes = find_outcomes(
        history_of(dict.fromkeys(range(4), 0.01)), candles, "1h", 1, hour_ms(99)
    )
    page = live_page.body(answer_of(outcomes), "1h")
    assert (
        "right (seen)" in page
        and "directions right" not in page
        and "4 of these 4 were made" in page
    )


def test_banners_and_notes_are_on_the_page_and_nothing_foreign_runs_there():
    noted = answer_of(banners=(live_page.SYNTHETIC_CANDLES,), notes=("<b>few</b> candles",))
    page = live_page.body(noted, "1h")
    assert "SYNTHETIC CANDLES" in page and "&lt;b&gt;few&lt;/b&gt; candles" in page
    assert "not trading advice" in page
    alert = live_page.problem(ValueError("<script>x</script>"))
    assert "No forecast: &lt;script&gt;" in alert and 'role="alert"' in alert
