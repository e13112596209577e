"""Every fault that exchanges are known for, through the real ccxt: retried, mended and said, or a
clear error."""

import logging

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from pipeline.candles.job import ExchangeError, GeoBlockError, Job
from pipeline.candles.schema import find_gaps, timestamps_ms
from tests import fetching
from tests.exchange_faults import Fault, FaultList
from tests.exchange_market import Series
from tests.fault_schedules import loopback, run_schedule
from tests.fetching import (
    BTC,
    HOUR_MS,
    LONG,
    MARKET,
    NOW_MS,
    VENUES,
    fetch_one,
    hold,
    refuse_to_sleep,
    truth,
    without,
)

exchange, foreign_hosts, limited, nothing_leaves, server = fetching.FIXTURES

TIMES = MARKET.listings[BTC].candles["1h"].times
RETRIED = ("429", "418", "500", "502", "503", "reset", "truncated", "cut_json")
MENDED = {
    "missing_rows": "missing rows found by asking again",
    "empty_page": "missing rows found by asking again",
    "conflicting_rows": "bad rows mended by asking again",
    "nan_price": "bad rows mended by asking again",
    "null_price": "bad rows mended by asking again",
    "negative_price": "bad rows mended by asking again",
    "absurd_price": "bad rows mended by asking again",
    "zero_volume": "bad rows mended by asking again",
    "unsorted": "rows out of order sorted",
    "overlapping_page": "rows outside the asked span cut",
    "repeated_page": "repeated rows merged",
    "short_page": "",  # nothing is wrong with it
}
PERSISTENT = {
    "nan_price": "with impossible values",
    "negative_price": "with impossible values",
    "absurd_price": "at an absurd price",
}


@pytest.mark.parametrize("kind", RETRIED)
@pytest.mark.parametrize("venue", VENUES)
def test_what_may_pass_is_retried_and_said(server, caplog, venue, kind):
    # The HTTP library asks again by itself where a connection that was kept open turns out to be
    # closed.
    server.faults = FaultList(Fault(kind, on="BTC", times=2 if kind == "reset" else 1))
    waits = []
    assert_frame_equal(fetch_one(server, LONG, venue, sleep=waits.append), truth(LONG))
    assert waits == [1]
    [told] = [
        record.getMessage() for record in caplog.records if "again in 1 s" in record.getMessage()
    ]
    assert told.startswith(f"{venue}: candles of BTC/USDT")


def test_an_exchange_that_hangs_is_left_and_asked_again(server, caplog):
    server.faults = FaultList(Fault("hang", on="klines"))
    assert_frame_equal(fetch_one(server, LONG, timeout_s=0.3), truth(LONG))
    assert "RequestTimeout" in caplog.text


def test_a_demanded_wait_is_kept_for_429_and_418(server):
    server.faults = FaultList(
        Fault("429", on="klines", wait_s=7), Fault("418", on="klines", wait_s=30)
    )
    waits = []
    assert_frame_equal(fetch_one(server, LONG, sleep=waits.append), truth(LONG))
    assert waits == [7, 30]


@pytest.mark.parametrize("kind", ["429", "418"])
def test_a_demanded_wait_beyond_the_bound_is_an_error_at_once(server, kind):
    server.faults = FaultList(Fault(kind, on="klines", wait_s=600))
    with pytest.raises(ExchangeError, match=f"failed after 1 attempt.*HTTP {kind}"):
        fetch_one(server, LONG, sleep=refuse_to_sleep)


def test_retries_end_after_four_attempts_whatever_the_faults(server):
    server.faults = FaultList(
        *(Fault(kind, on="klines") for kind in ("503", "reset", "cut_json", "truncated", "500"))
    )
    waits = []
    with pytest.raises(ExchangeError, match="candles of BTC/USDT failed after 4 attempt"):
        fetch_one(server, LONG, sleep=waits.append)
    assert waits == [1, 2, 4]


@pytest.mark.parametrize("venue", VENUES)
def test_a_refused_country_is_an_error_of_its_own_and_not_asked_again(server, venue):
    server.faults = FaultList(Fault("451", on="BTC"))
    with pytest.raises(
        GeoBlockError, match=f"{venue} refuses this machine's address.*HTTP 451.*choose another"
    ):
        fetch_one(server, LONG, venue, sleep=refuse_to_sleep)
    assert [request.status for request in server.log].count(451) == 1


@pytest.mark.parametrize("kind", MENDED)
@pytest.mark.parametrize("venue", VENUES)
def test_a_wrong_page_is_mended_and_said(server, caplog, venue, kind):
    caplog.set_level(logging.INFO, "pipeline")
    server.faults = FaultList(Fault(kind, on="BTC"))
    assert_frame_equal(fetch_one(server, LONG, venue), truth(LONG))
    assert [fault.kind for fault in server.applied] == [kind]
    assert MENDED[kind] in caplog.text


@pytest.mark.parametrize("kind", PERSISTENT)
@pytest.mark.parametrize("venue", VENUES)
def test_a_bad_row_that_comes_the_same_twice_is_left_out_as_a_gap(server, caplog, venue, kind):
    lie(server, row=710, kind=kind)
    expected = truth(LONG)
    expected = expected[timestamps_ms(expected) != TIMES[710]].reset_index(drop=True)
    assert_frame_equal(fetch_one(server, LONG, venue), expected)
    [told] = [text for text in caplog.messages if "left out as a gap" in text]
    assert told.startswith(f"{venue} BTC/USDT")
    assert f"1 row(s) {PERSISTENT[kind]} are left out" in told
    assert f"asked for twice, first {day(TIMES[710])} (open = " in told


@pytest.mark.parametrize("venue", VENUES)
def test_two_values_for_one_time_are_an_error_that_names_it(server, venue):
    lie(server, row=710, kind="conflicting_rows")
    message = f"{venue}: 1 candles of BTC/USDT.*came twice with.*, first {day(TIMES[710])} .open ="
    with pytest.raises(ExchangeError, match=message):
        fetch_one(server, LONG, venue)


@pytest.mark.parametrize("kind", ["nan_price", "negative_price"])
def test_more_than_a_fifth_of_bad_rows_is_an_error(server, kind):
    series = MARKET.listings[BTC].candles["1h"]
    values = series.numbers.copy()
    values[::4, 2] = np.nan if kind == "nan_price" else -1.0
    hold(server, Series(series.times, values))
    with pytest.raises(ExchangeError, match="300 candles of BTC/USDT.*with impossible values"):
        fetch_one(server, LONG)


def off_grid(rows: slice) -> Series:
    """BTC's candles, of which some open 28 min 14.789 s late, as Binance's of February 2018."""
    series = MARKET.listings[BTC].candles["1h"]
    times = series.times.copy()
    times[rows] += 28 * 60_000 + 14_789
    return Series(times, series.numbers)


@pytest.mark.parametrize("venue", VENUES)
def test_candles_off_the_grid_are_left_out_as_a_gap(server, caplog, venue):
    hold(server, off_grid(slice(700, 743)))
    expected = truth(LONG)
    is_late = np.isin(timestamps_ms(expected), TIMES[700:743])
    found = fetch_one(server, LONG, venue)
    assert_frame_equal(found, expected[~is_late].reset_index(drop=True))
    assert "43 row(s) off the grid of times are left out as a gap" in caplog.text
    assert "1 gap(s) of 43 rows" in caplog.text


def test_an_exchange_of_another_zone_is_an_error_however_few_candles_are_asked_for(server):
    hold(server, off_grid(slice(None)))
    with pytest.raises(ExchangeError, match="off the grid of times"):
        fetch_one(server, Job(BTC, "1h", since_ms=NOW_MS - 5 * HOUR_MS))


def opens_outside(every: int) -> tuple[Series, np.ndarray]:
    """BTC's candles, of which some lie 1 % above their open; and their values mended by hand."""
    series = MARKET.listings[BTC].candles["1h"]
    values, mended = series.numbers.copy(), series.numbers.copy()
    low = values[::every, 0] * 1.01
    values[::every, 2] = low
    values[::every, 1] = np.maximum(values[::every, 1], low)
    values[::every, 3] = low
    mended[::every] = values[::every]
    mended[::every, 2] = mended[::every, 0]
    return Series(series.times, values), mended


@pytest.mark.parametrize("every", [3, 100])
@pytest.mark.parametrize("venue", VENUES)
def test_low_to_high_is_widened_where_the_open_lies_outside_however_often(
    server, caplog, venue, every
):
    series, mended = opens_outside(every)
    hold(server, series)
    found = fetch_one(server, LONG, venue)
    rows = np.isin(TIMES, timestamps_ms(found))
    np.testing.assert_array_equal(found[["open", "high", "low", "close"]], mended[rows, :4])
    n_mended = int(rows[::every].sum())
    assert f"{n_mended} rows, asked for twice: low..high widened" in caplog.text


def test_an_open_far_outside_is_left_out(server, caplog):
    series = MARKET.listings[BTC].candles["1h"]
    values = series.numbers.copy()
    values[710, 0] *= 1.5
    values[710, 1] = values[710, 3]
    hold(server, Series(series.times, values))
    assert TIMES[710] not in timestamps_ms(fetch_one(server, LONG))
    assert "1 row(s) with impossible values are left out as a gap" in caplog.text


def day(time: int) -> str:
    return f"{pd.Timestamp(int(time), unit='ms'):%Y-%m-%d %H:%M}"


def lie(server, row: int, kind: str) -> None:
    """Let the exchange hold a wrong candle for good."""
    series = MARKET.listings[BTC].candles["1h"]
    times, values = series.times.copy(), series.numbers.copy()
    if kind == "conflicting_rows":
        times, values = (
            np.insert(times, row, times[row]),
            np.insert(values, row, values[row] * 1.01, axis=0),
        )
    else:
        values[row, 2] = {"negative_price": -1.0, "absurd_price": values[row, 2] / 1000}.get(
            kind, np.nan
        )
    hold(server, Series(times, values))


@pytest.mark.parametrize("venue", VENUES)
def test_a_real_gap_stays_a_gap_and_its_size_is_said(server, caplog, venue):
    market = hold(server, without(slice(500, 533)))
    found = fetch_one(server, LONG, venue)
    assert_frame_equal(found, truth(LONG, market))
    assert find_gaps(timestamps_ms(found), HOUR_MS)["missing"].tolist() == [33]
    assert "1 gap(s) of 33 rows, the longest of 33 from " in caplog.text
    assert "asked for twice, so the exchange has none" in caplog.text


def test_a_series_that_ends_early_or_begins_late_says_so(server, caplog):
    series = MARKET.listings[BTC].candles["1h"]
    market = hold(server, Series(series.times[600:1200], series.numbers[600:1200]))
    assert_frame_equal(fetch_one(server, LONG), truth(LONG, market))
    begin, first, last, end = (
        day(time) for time in (LONG.since_ms + HOUR_MS // 2, *series.times[[599, 1200, -2]])
    )
    assert f"no rows from {begin} to {first}, asked for twice" in caplog.text
    assert f"no rows from {last} to {end}, asked for twice" in caplog.text


def test_a_candle_without_volume_that_did_not_move_is_no_news(server, caplog):
    series = MARKET.listings[BTC].candles["1h"]
    values = series.numbers.copy()
    values[700] = [*([values[700, 0]] * 4), 0.0]
    market = hold(server, Series(series.times, values))
    assert_frame_equal(fetch_one(server, LONG), truth(LONG, market))
    assert caplog.text == ""


def test_a_crash_is_believed_but_asked_for_twice(server, caplog):
    series = MARKET.listings[BTC].candles["1h"]
    values = series.numbers.copy()
    values[700:, :4] /= 50
    values[700, [0, 1]] = values[699, 3]  # opens where the last one closed
    market = hold(server, Series(series.times, values))
    assert_frame_equal(fetch_one(server, LONG), truth(LONG, market))
    assert "row(s) hard to believe, asked for twice" in caplog.text


def test_a_wrong_price_in_the_one_new_candle_is_noticed_because_older_ones_come_along(
    server, caplog
):
    job = Job(BTC, "1h", n_candles=1)
    server.faults = FaultList(Fault("absurd_price", on="limit=11"))
    series = MARKET.listings[BTC].candles["1h"]
    values = series.numbers.copy()
    values[-2, :4] *= 1000
    hold(server, Series(series.times, values))
    found = fetch_one(server, job)
    assert found["close"].item() == pytest.approx(values[-2, 3])
    assert "1 row(s) hard to believe" in caplog.text


@pytest.mark.parametrize("hours_off", [-30, 30])
def test_a_wrong_clock_of_this_machine_does_no_harm_and_is_said(
    server, caplog, monkeypatch, hours_off
):
    job = Job(BTC, "1h", n_candles=5)
    monkeypatch.setattr("ccxt.Exchange.milliseconds", lambda *_: NOW_MS + hours_off * HOUR_MS)
    assert_frame_equal(fetch_one(server, job, now_ms=None), truth(job))
    assert (
        f"clock is 1800 min {'behind' if hours_off < 0 else 'ahead of'} that of binance, which "
        "counts" in caplog.text
    )


def test_a_forming_candle_that_is_marked_as_closed_is_not_believed(server, caplog):
    caplog.set_level(logging.INFO, "pipeline")
    hold(
        server, without(slice(1250, 1252))
    )  # so that the page for the span has room for the forming candle
    server.faults = FaultList(Fault("forming_closed", on="klines"))
    found = fetch_one(server, LONG)
    assert timestamps_ms(found)[-1] == MARKET.ends_ms - HOUR_MS
    assert "1 forming candle dropped" in caplog.text
    assert [fault.kind for fault in server.applied] == ["forming_closed"]


# --- at random
# ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_some_random_faults_are_never_silent(nothing_leaves):
    with loopback() as (server, notices):
        results = [
            outcome.result for seed in range(25) for outcome in run_schedule(seed, server, notices)
        ]
    assert "silent" not in results
    assert {"right", "right with a notice", "error"} <= set(results)


@pytest.mark.soak
def test_500_random_schedules_of_faults_are_never_silent(nothing_leaves):
    with loopback() as (server, notices):
        outcomes = [
            outcome for seed in range(500) for outcome in run_schedule(seed, server, notices)
        ]
    assert [outcome for outcome in outcomes if outcome.result == "silent"] == []
    assert sum(outcome.result == "right" for outcome in outcomes) > 300
