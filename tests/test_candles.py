"""The candle schema: what is read, what is refused and in which words; gaps; the join of what was
published."""

import datetime
import decimal
import itertools
import statistics

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from pipeline.candles.schema import (
    MAX_AGE_IN_INTERVALS,
    check_published,
    find_gaps,
    join_published,
    missing_before,
    parse_numbers,
    parse_times,
    read_candles,
    segment_starts,
    timestamps_ms,
    utc_from_ms,
)
from pipeline.candles.store import read_table

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
HOURS = START + HOUR * np.arange(5)
SCHEMA = ["timestamp", "open", "high", "low", "close", "volume"]


def make_frame(**columns) -> pd.DataFrame:
    """Five sound hours from 2024-01-01 on: open 100, 101, …; high and low 2 beside it, close 1
    above."""
    opens = 100.0 + np.arange(5)
    frame = pd.DataFrame(
        {
            "timestamp": utc_from_ms(HOURS),
            "open": opens,
            "high": opens + 2,
            "low": opens - 2,
            "close": opens + 1,
            "volume": 10.0,
        }
    )
    return frame.assign(**columns)


def with_value(column: str, row: int, value: object) -> pd.DataFrame:
    frame = make_frame()
    if not isinstance(value, float):
        frame[column] = frame[column].astype(object)
    frame.loc[row, column] = value
    return frame


def at_hours(*hours: float) -> pd.DataFrame:
    """One sound candle at each of these hours after 2024-01-01 00:00."""
    times = utc_from_ms(np.array([START + round(hour * HOUR) for hour in hours]))
    return pd.DataFrame({"timestamp": times, **dict.fromkeys(SCHEMA[1:], 1.0)})


SOUND = read_candles(make_frame(), "1h")


# --- what is read
# ------------------------------------------------------------------------------------------


def test_the_schema_is_millisecond_utc_and_float64_on_a_range_index():
    assert SOUND.dtypes.astype(str).to_dict() == {
        "timestamp": "datetime64[ms, UTC]",
        **dict.fromkeys(SCHEMA[1:], "float64"),
    }
    assert SOUND.index.equals(pd.RangeIndex(5))
    assert timestamps_ms(SOUND).tolist() == HOURS.tolist()


UTC_HOURS = make_frame()["timestamp"]
TEXT = [
    "2024-01-01",
    "2024-01-01 01:00",
    "2024-01-01T02:00:00Z",
    "2024-01-01 03:00:00.000+00:00",
    "2024-01-01T06+02:00",
]
TIMES = {
    "epoch seconds": HOURS // 1000,
    "epoch seconds as int32": (HOURS // 1000).astype(np.int32),
    "epoch milliseconds": HOURS,
    "epoch microseconds": HOURS * 1000,
    "epoch nanoseconds": HOURS * 1_000_000,
    "float seconds": HOURS / 1000,
    "float milliseconds": HOURS.astype(float),
    "float nanoseconds": HOURS * 1e6,
    "nullable integers": pd.array(HOURS, dtype="Int64"),
    "seconds as text": (HOURS // 1000).astype(str),
    "milliseconds as text": HOURS.astype(str),
    "ISO text in UTC": UTC_HOURS.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "ISO text without a zone": UTC_HOURS.dt.strftime("%Y-%m-%d %H:%M"),
    "ISO text of Taipei": UTC_HOURS.dt.tz_convert("Asia/Taipei").dt.strftime("%Y-%m-%dT%H:%M:%S%z"),
    "ISO text in mixed forms": TEXT,
    "text categories": pd.Categorical(UTC_HOURS.astype(str)),
    "datetimes without a zone": UTC_HOURS.dt.tz_localize(None),
    "datetimes of New York": UTC_HOURS.dt.tz_convert("America/New_York"),
    "Python datetimes": np.array(UTC_HOURS.dt.to_pydatetime(), dtype=object),
    "mixed objects": pd.Series(
        [*UTC_HOURS[:2], datetime.datetime(2024, 1, 1, 2), *TEXT[3:]], dtype=object
    ),
    **{f"datetimes in {unit}": UTC_HOURS.dt.as_unit(unit) for unit in ("s", "ms", "us", "ns")},
}


@pytest.mark.parametrize("form", TIMES)
@pytest.mark.parametrize("name", ["timestamp", "open_time", "date", "datetime"])
def test_every_form_and_name_of_the_time_gives_the_same_candles(form, name):
    frame = make_frame().assign(timestamp=TIMES[form]).rename(columns={"timestamp": name})
    assert_frame_equal(read_candles(frame, "1h"), SOUND)


def test_dates_are_midnights_utc():
    days = [datetime.date(2024, 1, day) for day in range(1, 6)]
    for dates in (
        days,
        pd.Series(days, dtype=object),
        [str(day) for day in days],
        pd.to_datetime(days),
    ):
        candles = read_candles(make_frame().assign(timestamp=dates), "1d")
        assert candles["timestamp"].dt.strftime("%d %H:%M").tolist() == [
            f"0{day} 00:00" for day in range(1, 6)
        ]


def test_of_several_time_columns_timestamp_counts():
    both = make_frame(date="no time at all", open_time=0)
    assert_frame_equal(read_candles(both, "1h"), SOUND)


NUMBERS = {
    "text": lambda column: column.astype(str),
    "text among numbers": lambda column: pd.Series([str(column[0]), *column[1:]], dtype=object),
    "categories": lambda column: column.astype(str).astype("category"),
    "objects": lambda column: column.astype(object),
    "decimals": lambda column: column.map(decimal.Decimal).astype(object),
    "integers": lambda column: column.astype("int64"),
    "small integers": lambda column: column.astype("uint8"),
    "float32": lambda column: column.astype("float32"),
    "nullable floats": lambda column: column.astype("Float64"),
    "arrow floats": lambda column: column.astype("float64[pyarrow]"),
}


@pytest.mark.parametrize("form", NUMBERS)
def test_every_form_of_a_number_gives_the_same_candles(form):
    frame = make_frame()
    for name in SCHEMA[1:]:
        frame[name] = NUMBERS[form](frame[name])
    assert_frame_equal(read_candles(frame, "1h"), SOUND)


def test_text_of_a_csv_keeps_its_fraction():
    candles = read_candles(
        make_frame(close=["100.5", " 101.25", "1.02e2", "103", "104.125 "]), "1h"
    )
    assert candles["close"].tolist() == [100.5, 101.25, 102.0, 103.0, 104.125]


def test_extra_columns_are_left_out_and_published_ones_kept():
    frame = make_frame(
        vwap=3,
        symbol="BTC/USDT",
        funding_rate=[np.nan, 1e-4, 1e-4, "0.0002", None],
        open_interest=5,
    )
    candles = read_candles(frame, "1h")
    assert candles.columns.tolist() == [*SCHEMA, "funding_rate", "open_interest"]
    np.testing.assert_array_equal(candles["funding_rate"], [np.nan, 1e-4, 1e-4, 2e-4, np.nan])
    assert candles["open_interest"].tolist() == [5.0] * 5


@pytest.mark.parametrize(
    "index", [list("abcde"), [7] * 5, pd.MultiIndex.from_product([["BTC"], range(5)]), UTC_HOURS]
)
def test_the_index_does_not_matter(index):
    assert_frame_equal(read_candles(make_frame().set_index(pd.Index(index)), "1h"), SOUND)


def test_no_trade_in_an_hour_and_a_gap_are_sound():
    assert read_candles(with_value("volume", 2, 0.0), "1h")["volume"][2] == 0.0
    assert len(read_candles(at_hours(0, 1, 9), "1h")) == 3
    assert len(read_candles(at_hours(5, 9), "1h")) == 2
    assert len(read_candles(at_hours(5), "1h")) == 1


def test_without_a_timeframe_any_spacing_will_do():
    assert len(read_candles(at_hours(0, 0.5, 7.25), None)) == 3


@pytest.mark.parametrize("form", [*TIMES, *NUMBERS, "unsound"])
def test_the_input_frame_is_never_changed(form):
    frame = make_frame()
    if form in TIMES:
        frame["timestamp"] = TIMES[form]
    elif form in NUMBERS:
        frame["close"] = NUMBERS[form](frame["close"])
    else:
        frame = with_value("close", 3, True)
    before = frame.copy(deep=True)
    try:
        candles = read_candles(frame, "1h")
        candles.loc[:, "close"] = 0.0
        candles.loc[0, "timestamp"] = pd.Timestamp(0, tz="UTC")
    except ValueError:
        assert form == "unsound"
    assert_frame_equal(frame, before)


def test_fractions_of_a_second_count_to_the_millisecond():
    stamped = 1_704_096_000_003  # Binance stamps funding some milliseconds after the hour
    for column in (
        [stamped / 1000],
        [str(stamped / 1000)],
        [float(stamped)],
        [stamped * 1e3],
        [stamped * 1e6],
    ):
        assert timestamps_ms(
            pd.DataFrame({"timestamp": parse_times(pd.Series(column), where="t")})
        ).tolist() == [stamped]


@given(st.integers(10**11, 4 * 10**12))
def test_every_millisecond_survives_every_unit(ms):
    for column in (
        [ms],
        [ms * 1000],
        [ms * 10**6],
        [ms / 1000],
        [float(ms)],
        [ms * 1e3],
        [str(ms)],
    ):
        assert parse_times(pd.Series(column), where="t")[0] == pd.Timestamp(ms, unit="ms", tz="UTC")


def test_numbers_are_read_exactly():
    assert parse_numbers(pd.Series([2**53, 1]), where="x").tolist() == [2.0**53, 1.0]
    assert parse_numbers(pd.Series([], dtype=object), where="x").dtype == np.float64


# --- gaps
# ------------------------------------------------------------------------------------------


def test_gaps_are_found_counted_and_dated():
    times = START + HOUR * np.array([0, 1, 3, 4, 12, 13])  # hour 2 is missing, then hours 5 to 11
    assert missing_before(times, HOUR).tolist() == [0, 0, 1, 0, 7, 0]
    gaps = find_gaps(times, HOUR)
    assert gaps.to_dict("list") == {"after": [START + HOUR, START + 4 * HOUR], "missing": [1, 7]}


def test_a_series_without_gaps_or_without_candles_has_none():
    for times in (HOURS, HOURS[:1], HOURS[:0]):
        assert missing_before(times, HOUR).tolist() == [0] * len(times)
        assert find_gaps(times, HOUR).to_dict("list") == {"after": [], "missing": []}
        assert segment_starts(times, HOUR).tolist() == [0]


def test_indicators_run_on_across_6_missing_candles_and_restart_after_7():
    bridged = START + HOUR * np.array([0, 1, 8, 9])
    restarted = START + HOUR * np.array([0, 1, 9, 10])
    assert missing_before(bridged, HOUR)[2] == 6 and segment_starts(bridged, HOUR).tolist() == [0]
    assert missing_before(restarted, HOUR)[2] == 7 and segment_starts(restarted, HOUR).tolist() == [
        0,
        2,
    ]


@given(st.lists(st.integers(1, 12), max_size=30), st.sampled_from([60_000, HOUR]))
def test_gaps_and_segments_agree_with_counting(steps, step_ms):
    positions = np.concatenate([[0], np.cumsum(steps, dtype=np.int64)])
    times = START + step_ms * positions
    here = set(positions.tolist())
    absent = [sum(p not in here for p in range(a + 1, b)) for a, b in itertools.pairwise(positions)]
    assert missing_before(times, step_ms).tolist() == [0, *absent]
    assert find_gaps(times, step_ms)["missing"].tolist() == [n for n in absent if n]
    assert segment_starts(times, step_ms).tolist() == [
        0,
        *(i + 1 for i, n in enumerate(absent) if n > 6),
    ]


# --- what was published
# ------------------------------------------------------------------------------------------


def published(
    *stamps_and_values: tuple[float, float], column: str = "funding_rate"
) -> pd.DataFrame:
    """Values at these hours after 2024-01-01 00:00."""
    times = [START + round(hour * HOUR) for hour, _ in stamps_and_values]
    return pd.DataFrame(
        {
            "timestamp": utc_from_ms(np.array(times)),
            column: [value for _, value in stamps_and_values],
        }
    )


def joined(candle_hours, publication, timeframe="1h", column="funding_rate") -> list[float | None]:
    values = join_published(at_hours(*candle_hours), publication, column, timeframe)[column]
    return [None if np.isnan(value) else value for value in values]


MS = 1 / HOUR  # in hours


@pytest.mark.parametrize("late", [0, 3 * MS])
def test_funding_counts_from_the_first_candle_that_closes_after_its_stamp(late):
    funding = published((0 + late, 1.0), (8 + late, 2.0), (16 + late, 3.0))
    # The candles of 07:00 and 15:00 close at the very stamp or 3 ms before it: they know nothing of
    # it yet.
    assert joined([0, 6, 7, 8, 9, 15, 16], funding) == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 3.0]


def test_nothing_is_known_before_the_first_publication():
    assert joined([0, 1, 2, 3], published((2, 1.0), (3, 2.0))) == [None, None, 1.0, 2.0]


def test_a_value_counts_for_two_intervals_and_no_longer():
    funding = published((0, 1.0), (8, 2.0), (16, 3.0))
    # The last value, of 16:00, is 16 h old at the close of the candle of 31:00, and 17 h old an
    # hour later.
    assert joined([16, 30, 31, 32, 90], funding) == [3.0, 3.0, 3.0, None, None]


def test_an_exchange_that_settles_more_often_later_changes_nothing_before():
    eight_hourly = [(8.0 * number, float(number)) for number in range(20)]
    hourly = [(153.0 + number, 20.0 + number) for number in range(300)]
    before = joined(range(150), published(*eight_hourly))
    assert joined(range(150), published(*eight_hourly, *hourly)) == before
    assert None not in before


def test_a_hole_is_absent_and_what_follows_it_is_not():
    interest = published((0, 1.0), (1, 2.0), (2, 3.0), (8, 4.0), (9, 5.0), column="open_interest")
    got = joined(range(10), interest, column="open_interest")
    assert got == [
        1.0,
        2.0,
        3.0,
        3.0,
        None,
        None,
        None,
        None,
        4.0,
        5.0,
    ]  # 02:00's value is 2 h old at 04:00


def test_four_hourly_funding_and_longer_candles_follow_the_same_rule():
    four_hourly = published((0, 1.0), (4, 2.0), (8, 3.0))
    assert joined([2, 3, 4, 11, 15, 16], four_hourly) == [
        1.0,
        1.0,
        2.0,
        3.0,
        3.0,
        None,
    ]  # 16:00 closes 9 h after 08:00
    eight_hourly = published((0, 1.0), (8, 2.0), (16, 3.0), (24, 4.0))
    assert joined([0, 4, 8, 12], eight_hourly, "4h") == [1.0, 1.0, 2.0, 2.0]
    # The first day closes at 24:00, the stamp of the fourth value; at the close of the second that
    # is 24 h old.
    assert joined([0, 24], eight_hourly, "1d") == [3.0, None]


def test_a_single_value_counts_for_two_intervals_that_exchanges_began_with_or_two_candles():
    assert joined([0, 14, 15, 16], published((0, 1.0))) == [1.0, 1.0, 1.0, None]
    assert joined([0, 24, 48], published((0, 1.0)), "1d") == [1.0, 1.0, None]
    interest = published((0, 1.0), column="open_interest")
    assert joined([0, 1, 2], interest, column="open_interest") == [1.0, 1.0, None]


def test_an_empty_series_gives_an_empty_column():
    assert joined([0, 1], published()) == [None, None]


def test_joining_copies_the_candles():
    candles, funding = at_hours(0, 1), published((0, 1.0))
    copies = candles.copy(deep=True), funding.copy(deep=True)
    assert join_published(candles, funding, "funding_rate", "1h").columns.tolist() == [
        *SCHEMA,
        "funding_rate",
    ]
    assert_frame_equal(candles, copies[0])
    assert_frame_equal(funding, copies[1])


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.integers(0, 60), min_size=1, max_size=20),
    st.lists(st.integers(1, 6 * 3600), max_size=15),
    st.integers(0, 12 * 3600),
    st.sampled_from([0, 3]),
)
def test_the_joined_value_is_that_of_the_definition(candle_hours, steps_s, first_s, jitter_ms):
    stamps = (
        START
        + 1000 * (first_s + np.concatenate([[0], np.cumsum(steps_s, dtype=np.int64)]))
        + jitter_ms
    )
    values = np.arange(1.0, len(stamps) + 1)
    series = pd.DataFrame({"timestamp": utc_from_ms(stamps), "open_interest": values})
    got = joined(sorted(candle_hours), series, column="open_interest")
    for hour, value in zip(sorted(candle_hours), got):
        close = START + (hour + 1) * HOUR
        before = [(stamp, v) for stamp, v in zip(stamps, values) if stamp < close]
        steps = [b - a for (a, _), (b, _) in itertools.pairwise(before)][-9:]
        interval = statistics.median(steps or [HOUR])
        fresh = before and close - before[-1][0] <= MAX_AGE_IN_INTERVALS * interval
        assert value == (before[-1][1] if fresh else None)


# --- real candles
# ------------------------------------------------------------------------------------------


def test_real_spot_candles_hold_the_exchange_outages(real_data):
    candles = read_candles(read_table(real_data / "binance" / "BTCUSDT_1h.parquet"), "1h")
    gaps = find_gaps(timestamps_ms(candles), HOUR)
    assert (len(gaps), gaps["missing"].sum()) == (15, 32)
    quarters = read_candles(read_table(real_data / "binance" / "BTCUSDT_15m.parquet"), "15m")
    times = timestamps_ms(quarters)
    assert find_gaps(times, HOUR // 4)["missing"].max() == 42
    restarts = quarters["timestamp"].iloc[segment_starts(times, HOUR // 4)[1:]]
    assert restarts.astype(str).tolist() == [
        "2024-01-01 00:00:00+00:00"
    ]  # 42 missing; a gap of 5 is bridged


def test_every_real_candle_file_is_sound(real_data):
    paths = sorted(real_data.glob("recent/*_1h.parquet")) + sorted(
        real_data.glob("binance/*_15m.parquet")
    )
    assert paths
    for path in paths:
        timeframe = path.stem.rpartition("_")[2]
        assert read_candles(read_table(path), timeframe, where=path.name)["close"].gt(0).all()


def test_real_open_interest_is_absent_before_its_start_and_in_its_hole(real_data):
    folder = real_data / "recent"
    candles = read_candles(read_table(folder / "BTCUSDT_1h.parquet"), "1h")
    path = folder / "BTCUSDT_open_interest.parquet"
    interest = check_published(read_table(path), "open_interest", path.name)
    stamps = timestamps_ms(interest)
    hole = int(np.argmax(np.diff(stamps)))
    after = join_published(candles, interest, "open_interest", "1h")
    closes = timestamps_ms(candles) + HOUR
    absent = after["open_interest"].isna().to_numpy()
    assert absent[closes <= stamps[0]].all()
    in_hole = (closes > stamps[hole] + 2 * HOUR) & (closes <= stamps[hole + 1])
    assert in_hole.sum() >= 16 and absent[in_hole].all()
    assert not absent[(closes > stamps[hole + 1]) & (closes <= stamps[hole + 1] + 2 * HOUR)].any()
