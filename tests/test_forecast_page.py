"""What the interactive page says: outcomes counted by hand, and the words and tables on them."""

import math
import re

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
    made = hours(*forecasts)
    columns = {
        "timestamp": made,
        "last_timestamp": made,
        "target_timestamp": made + pd.Timedelta("1h"),
        "predicted_return": list(forecasts.values()),
    }
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
        "last_timestamp": pd.Timestamp("2024-06-16 11:00", tz="UTC"),
        "timeframe": "1h",
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


def text_of(page: str) -> str:
    """A page's words, one space between them."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def test_the_numbers_stand_first_then_picture_notes_record_and_verdict():
    page = live_page.body(
        answer_of(notes=("few candles",)), "<p>all of the verdict</p>", hour_ms(9)
    )
    text = text_of(page)
    order = [
        "BTC/USDT: the forecast For 2024-06-16 13:00 UTC, when the 1h candle of 12:00 closes.",
        "forecast, USDT 67,000.50 +0.100 % from 66,933.50",
        "confidence: up 52.1 % a coin toss: 50 %",
        "80 % band, USDT 66,500.00 – 67,400.00",
        "the last 72 candles",
        "! few candles",
        "The last forecasts",
        "all of the verdict",
    ]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    none = live_page.body(answer_of(return_percent=-0.0001, price=0.1234567), "")
    assert "0.123457 +0.000 % from" in text_of(none)


@pytest.mark.parametrize(
    ("timeframe", "now_ms", "told"),
    [
        ("1h", hour_ms(5) + 37 * 60_000, "at 06:00 UTC, in 23 minutes."),
        ("1h", hour_ms(5) + 59 * 60_000 + 1, "at 06:00 UTC, in 1 minute."),
        ("1h", hour_ms(6), "at 07:00 UTC, in 60 minutes."),
        ("4h", hour_ms(5) + 30 * 60_000, "at 08:00 UTC, in 2 hours 30 minutes."),
        ("1d", hour_ms(0), "at 02 Jun 00:00 UTC, in 24 hours."),
    ],
)
def test_the_next_candle_closes_on_the_grid_of_the_candles(timeframe, now_ms, told):
    candles = candles_of({-24: 100.0, 0: 100.0})  # the newest opened at midnight
    assert live_page.next_close(candles, timeframe, now_ms) == f"The next candle closes {told}"


def test_past_bands_are_drawn_over_the_candles_but_not_those_of_seen_forecasts():
    candles = answer_of().candles
    history = history_of(dict.fromkeys(range(70, 78), 0.0))
    history.loc[3, "q10"] = 0.05
    judged, fitted = (find_outcomes(history, candles, "1h", 1, hour_ms(cut)) for cut in (0, 99))
    page = live_page.body(answer_of(judged), "")
    # One was missed, on the wide and the narrow picture, and seven held.
    assert "Bands behind candles" in page and page.count("stroke: #d9822b") == 2
    assert "Bands behind candles" not in live_page.body(answer_of(fitted), "")


def test_all_coins_stand_in_the_order_of_their_confidence_with_what_failed_below():
    sure = answer_of(symbol="ETH/USDT", confidence=0.61, p_up=0.39, return_percent=-0.0001)
    failures = ["SOL/USDT: <b>no</b> candles"]
    page = live_page.all_coins([answer_of(), sure], failures, 3, 3)
    assert text_of(page) == (
        "2 of 3 coins, the most confident first. Times are UTC. "
        "coin forecast % 80 % band % confidence last candle "
        "ETH/USDT +0.000 −0.65 to +0.70 61.0 % down 16 Jun 11:00 "  # 66,500 / 66,933.5 - 1
        "BTC/USDT +0.100 −0.65 to +0.70 52.1 % up 16 Jun 11:00 "
        "! SOL/USDT: &lt;b&gt;no&lt;/b&gt; candles"
    )
    assert "1 of 3 coins …" in live_page.all_coins([answer_of()], [], 1, 3)
    old = answer_of(banners=("old candles",))
    made_up = answer_of(banners=(live_page.SYNTHETIC_CANDLES,))
    page = live_page.all_coins([old, made_up, made_up], [], 3, 3)
    assert page.count("SYNTHETIC CANDLES") == 1 and "old candles (1 of these coins)" in page


def test_the_record_says_what_is_counted_and_what_was_seen():
    counts = Tally(n=10, n_calls=10, n_right=6, n_inside=8, error=0.1, naive_error=0.1)
    assert live_page.record_sentences(counts, 0) == (
        "Of 10 coin tosses, 2 to 8 come out right 95 times in 100. A count inside that range "
        "proves nothing."
    )
    assert live_page.record_sentences(counts, 38).endswith(
        " 38 of these 48 were made at a time that the model was fitted or calibrated on. They are "
        "marked and not counted."
    )
    nothing = Tally(0, 0, 0, 0, math.nan, math.nan)
    assert live_page.record_sentences(nothing, 48).endswith(
        "They say nothing about forecasts, and no hits are counted."
    )
    assert live_page.record_sentences(nothing, 0).startswith("Nothing has come true yet")


def test_the_table_shows_the_newest_forecast_first_and_marks_what_was_seen():
    candles = candles_of({0: 100, 1: 101, 2: 90})
    outcomes = find_outcomes(history_of({0: 0.001, 1: 0.002}), candles, "1h", 1, hour_ms(2))
    assert live_page.outcome_rows(outcomes) == [
        ["candle", "forecast %", "80 % band", "actual %", "direction", "band"],
        ["01 Jun 02:00", "+0.20", "−10.00 to +10.00", "−11.53", "wrong", "outside"],
        ["01 Jun 01:00", "+0.10", "−10.00 to +10.00", "+1.00", "right (seen)", "inside (seen)"],
    ]


def test_a_page_without_outcomes_or_with_seen_ones_alone_counts_none():
    assert "Nothing has come true yet" in live_page.body(answer_of(), "")
    candles = candles_of({hour: 100.0 + hour for hour in range(5)})
    outcomes = find_outcomes(
        history_of(dict.fromkeys(range(4), 0.01)), candles, "1h", 1, hour_ms(99)
    )
    page = live_page.body(answer_of(outcomes), "")
    assert (
        "right (seen)" in page
        and "directions right" not in page
        and "4 of these 4 were made" in page
    )


def test_banners_and_notes_are_on_the_page_and_nothing_foreign_runs_there():
    noted = answer_of(banners=(live_page.SYNTHETIC_CANDLES,), notes=("<b>few</b> candles",))
    page = live_page.body(noted, "")
    assert "SYNTHETIC CANDLES" in page and "&lt;b&gt;few&lt;/b&gt; candles" in page
    alert = live_page.problem(ValueError("<script>x</script>"))
    assert "No forecast: &lt;script&gt;" in alert and 'role="alert"' in alert
