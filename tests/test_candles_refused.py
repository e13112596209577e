"""What the door for candles refuses, and in which words: what, where, which value, what to do."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from pipeline.candles.schema import (
    TIME_REMEDY,
    TIMEFRAME_MS,
    parse_times,
    read_candles,
    timeframe_ms,
    utc_from_ms,
)
from tests.test_candles import (
    HOUR,
    HOURS,
    SCHEMA,
    SOUND,
    START,
    TEXT,
    UTC_HOURS,
    at_hours,
    make_frame,
    with_value,
)


def refusal(frame: object, timeframe: str | None = "1h", **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        read_candles(frame, timeframe, **kwargs)
    return str(caught.value)


# --- the frame and its columns -------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong", [None, "BTCUSDT_1h.csv", [1, 2], {"close": [1.0]}, pd.Series([1.0])]
)
def test_what_is_no_frame_is_named(wrong):
    message = refusal(wrong)
    assert message.startswith(
        f"candles: a pandas DataFrame is needed, not {type(wrong)}; build one with"
    )


def test_no_candles_are_refused():
    assert refusal(make_frame().iloc[:0]) == "candles: there are no candles; pass at least one row"
    assert (
        refusal(pd.DataFrame(columns=SCHEMA))
        == "candles: there are no candles; pass at least one row"
    )
    assert refusal(pd.DataFrame(columns=SCHEMA, dtype=float), where="x.csv").startswith(
        "x.csv: there are no candles"
    )


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        (
            {"close": "Close"},
            "candles: column 'close' missing among ['timestamp', 'open', 'high', 'low', 'Close', "
            "'volume']; "
            "if they are there under other names: df.rename(columns={'Close': 'close'})",
        ),
        (
            {"close": "clsoe", "volume": "VOLUME"},
            "candles: column 'close', 'volume' missing among ['timestamp', 'open', 'high', 'low', "
            "'clsoe', 'VOLUME']; "
            "if they are there under other names: df.rename(columns={'clsoe': 'close', 'VOLUME': "
            "'volume'})",
        ),
        (
            {"timestamp": "Date"},
            "candles: column 'timestamp' missing among ['Date', 'open', 'high', 'low', 'close', "
            "'volume']; "
            "if they are there under other names: df.rename(columns={'Date': 'timestamp'})",
        ),
        (
            {"timestamp": "Open time"},
            "candles: column 'timestamp' missing among ['Open time', 'open', 'high', 'low', "
            "'close', 'volume']; "
            "if they are there under other names: df.rename(columns={'Open time': 'timestamp'})",
        ),
        (
            {"close": "close_time"},
            "candles: column 'close' missing among ['timestamp', 'open', 'high', 'low', "
            "'close_time', 'volume']; name the columns timestamp, open, high, low, close, volume; "
            "open_time, date, datetime will do for the time",
        ),
        (
            {"timestamp": "close_time"},
            "candles: column 'timestamp' missing among ['close_time', 'open', 'high', 'low', "
            "'close', 'volume']; name the columns timestamp, open, high, low, close, volume; "
            "open_time, date, datetime will do for the time",
        ),
    ],
)
def test_a_misnamed_column_comes_with_the_call_that_renames_it(renamed, message):
    frame = make_frame().rename(columns=renamed)
    assert refusal(frame) == message
    if "df.rename" in message:
        repaired = eval(message.partition("under other names: ")[2], {"df": frame})
        assert_frame_equal(read_candles(repaired, "1h"), SOUND)


def test_missing_columns_are_all_named_and_what_is_there_is_listed():
    message = refusal(make_frame().drop(columns=["timestamp", "low", "volume"]), where="x.csv")
    assert message.startswith(
        "x.csv: column 'timestamp', 'low', 'volume' missing among ['open', 'high', 'close']; "
    )
    assert "missing among []" in refusal(pd.DataFrame())
    assert "missing among ['0', '1', '2', '3', '4', '5']" in refusal(
        make_frame().set_axis(range(6), axis=1)
    )


def test_the_open_time_is_not_offered_as_the_open():
    message = refusal(make_frame().rename(columns={"timestamp": "open_time"}).drop(columns="open"))
    assert message.endswith(
        "name the columns timestamp, open, high, low, close, volume; open_time, date, datetime "
        "will do for the time"
    )


def test_times_in_the_index_come_with_the_call_that_moves_them():
    frame = make_frame().set_index("timestamp").rename_axis(None)
    message = refusal(frame)
    assert message == (
        "candles: column 'timestamp' missing among ['open', 'high', 'low', 'close', 'volume']; if "
        "the index holds the times: df.rename_axis('timestamp').reset_index()"
    )
    assert_frame_equal(read_candles(frame.rename_axis("timestamp").reset_index(), "1h"), SOUND)


def test_a_column_that_is_there_twice_is_refused():
    for name in ("timestamp", "close"):
        twice = pd.concat([make_frame(), make_frame()[[name]]], axis=1)
        assert refusal(twice) == f"candles: column {name!r} is there 2 times; keep one of them"


def test_column_names_of_two_levels_are_refused():
    for levels in ([SCHEMA, ["BTC/USDT"]], [["BTC/USDT"], SCHEMA]):
        frame = make_frame().set_axis(pd.MultiIndex.from_product(levels), axis=1)
        assert refusal(frame).startswith("candles: the column names have 2 levels, first (")
        assert refusal(frame).endswith("; pass one symbol's columns with plain names")


# --- times ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([pd.NaT, *UTC_HOURS[1:]], "no time in 1 row(s), first in row 0; drop or mend them"),
        (
            [*HOURS[:3].astype(float), np.nan, np.nan],
            "no time in 2 row(s), first in row 3; drop or mend them",
        ),
        (
            pd.array([*HOURS[:4], None], dtype="Int64"),
            "no time in 1 row(s), first in row 4; drop or mend them",
        ),
        (
            pd.Series([None] * 5, dtype=object),
            "no time in 5 row(s), first in row 0; drop or mend them",
        ),
        (
            ["2024-01-01", "x", "2024-01-03", "", "2024-01-05"],
            f"2 unreadable time(s), first 'x' in row 1; {TIME_REMEDY}",
        ),
        (
            ["2024-01-01 00:00", "2024-01-01 25:00", *TEXT[2:]],
            f"1 unreadable time(s), first '2024-01-01 25:00' in row 1; {TIME_REMEDY}",
        ),
        (
            [f"0{day}/12/2024" for day in range(1, 6)],
            f"5 unreadable time(s), first '01/12/2024' in row 0; {TIME_REMEDY}",
        ),
        ([True] * 5, f"values of type bool are no times; {TIME_REMEDY}"),
        (
            pd.to_timedelta(HOURS, unit="ms").as_unit("ns"),
            f"values of type timedelta64[ns] are no times; {TIME_REMEDY}",
        ),
        (
            pd.Series([True] * 5, dtype=object),
            f"5 unreadable time(s), first True in row 0; {TIME_REMEDY}",
        ),
        (np.arange(5), f"5 number(s) that are no epoch time, first 0 in row 0; {TIME_REMEDY}"),
        (
            20240101 + np.arange(5),
            f"5 number(s) that are no epoch time, first 20240101 in row 0; {TIME_REMEDY}",
        ),
        (
            [str(20240101 + day) for day in range(5)],
            f"5 number(s) that are no epoch time, first 20240101.0 in row 0; {TIME_REMEDY}",
        ),
        (
            -HOURS,
            f"5 number(s) that are no epoch time, first -1704067200000 in row 0; {TIME_REMEDY}",
        ),
        (
            [*HOURS[:4].astype(float), np.inf],
            f"1 number(s) that are no epoch time, first inf in row 4; {TIME_REMEDY}",
        ),
        ([1e300] * 5, f"5 number(s) that are no epoch time, first 1e+300 in row 0; {TIME_REMEDY}"),
        (
            [*HOURS[:2] // 1000, *HOURS[2:]],
            "epoch s and ms are mixed, 1704067200 in row 0 and 1704074400000 in row 2; use one "
            "unit",
        ),
        (
            [*HOURS[:3], *HOURS[3:] * 1000],
            "epoch ms and us are mixed, 1704067200000 in row 0 and 1704078000000000 in row 3; use "
            "one unit",
        ),
        (
            pd.Series([START, *TEXT[1:]], dtype=object),
            "numbers and other values are mixed, 1704067200000 in row 0 and '2024-01-01 01:00' in "
            f"row 1; {TIME_REMEDY} throughout",
        ),
        (
            pd.Series([True, *HOURS[1:].tolist()], dtype=object),
            "numbers and other values are mixed, 1704070800000 in row 1 and True in row 0; "
            f"{TIME_REMEDY} throughout",
        ),
    ],
)
def test_unreadable_times_are_refused_by_row_and_value(times, message):
    frame = make_frame(timestamp=times).rename(columns={"timestamp": "date"})
    assert refusal(frame, where="x.csv") == f"x.csv, column 'date': {message}"


def test_times_before_crypto_are_no_times_at_all():
    # Counts below 1e8 s (1973-03-03) would be dates written as numbers or row numbers, read as
    # 1970.
    with pytest.raises(ValueError, match="no epoch time, first 99999999 in row 0"):
        parse_times(pd.Series([99_999_999]), where="t")
    assert str(parse_times(pd.Series([100_000_000]), where="t")[0]) == "1973-03-03 09:46:40+00:00"


@pytest.mark.parametrize("late", [999, 999_999, 999_999_999])
def test_a_close_time_passed_as_the_open_is_off_the_grid(late):
    # Binance's close_time is a ms or a µs before the next open: rounded up it would shift every
    # candle by one.
    unit = {999: "ms", 999_999: "us", 999_999_999: "ns"}[late]
    per_second = late + 1
    counts = (HOURS // 1000 + 3600) * per_second - 1
    for column in (counts, counts.astype(f"datetime64[{unit}]")):
        message = refusal(make_frame(timestamp=column))
        assert message == (
            "candles: times off the 1h grid in 5 row(s), first at 2024-01-01 00:59:59.999000; "
            "pass candles of that timeframe, UTC"
        )


def test_disorder_is_refused_where_it_begins():
    assert refusal(make_frame().iloc[[0, 2, 1, 4, 3]]) == (
        "candles: times that run backwards in 2 row(s), first at 2024-01-01 01:00; sort by "
        "'timestamp'"
    )
    assert "in 4 row(s), first at 2024-01-01 03:00; sort" in refusal(make_frame().iloc[::-1])


def test_duplicate_times_are_refused():
    assert refusal(make_frame().iloc[[0, 1, 1, 2, 2]]) == (
        "candles: duplicate times in 2 row(s), first at 2024-01-01 01:00; "
        "drop_duplicates('timestamp') or mend the source"
    )


def test_times_off_the_grid_are_refused_to_the_second():
    assert refusal(at_hours(0, 1, 2 + 1 / 3600)) == (
        "candles: times off the 1h grid in 1 row(s), first at 2024-01-01 02:00:01; pass candles "
        "of that timeframe, UTC"
    )
    assert "4h grid in 3 row(s), first at 2024-01-01 01:00;" in refusal(make_frame(), "4h")
    kolkata = make_frame(
        timestamp=utc_from_ms(HOURS + HOUR // 2)
    )  # local hours of a half-hour zone, taken for UTC
    assert "1h grid in 5 row(s), first at 2024-01-01 00:30;" in refusal(kolkata)


def test_candles_of_a_longer_timeframe_are_not_taken_for_gaps():
    assert refusal(at_hours(0, 4, 8, 16)) == (
        "candles: no two of 4 candles are 1h apart, the closest are 240 min; pass candles of that "
        "timeframe, or name theirs"
    )


def test_an_unknown_timeframe_is_refused_with_the_list():
    for wrong in ("1x", "61", "1.5h", "", 60, "0h", "2M"):
        with pytest.raises(
            ValueError, match=r"unknown timeframe .*; use one of 1m, 3m, 5m, 10m, .* 1d, 3d, 1w$"
        ):
            timeframe_ms(wrong)
    assert [TIMEFRAME_MS[name] // 60_000 for name in ("1m", "15m", "1h", "4h", "1d")] == [
        1,
        15,
        60,
        240,
        1440,
    ]


# --- numbers -------------------------------------------------------------------------------

NO_NUMBER = "remove the text, use a point as decimal sign and no thousands separators"


@pytest.mark.parametrize(
    ("column", "value", "shown"),
    [
        ("close", "N/A", "'N/A'"),
        ("close", "", "''"),
        ("open", "1,5", "'1,5'"),
        ("high", "60 000", "'60 000'"),
        ("volume", "nan", "'nan'"),
        ("low", True, "True"),
        ("volume", False, "False"),
        ("volume", np.False_, "False"),
        ("close", [1.0], "[1.0]"),
        ("close", pd.Timestamp(0), "Timestamp('1970-01-01 00:00:00')"),
    ],
)
def test_text_among_numbers_is_refused_by_row_and_value(column, value, shown):
    frame = make_frame()
    values = frame[column].astype(object).tolist()
    values[2] = value
    message = refusal(frame.assign(**{column: pd.Series(values, dtype=object)}), where="x.csv")
    if value is np.False_:
        message = message.replace("np.False_", "False")
    assert message == (
        f"x.csv, column {column!r}: 1 value(s) that are not numbers, first {shown} in row 2; "
        f"{NO_NUMBER}"
    )


def test_an_integer_of_hundreds_of_digits_is_refused_as_any_other_impossible_value():
    for column in ("timestamp", "close"):
        values = make_frame()[column].astype(object).tolist()
        values[2] = int("9" * 400)
        refusal(make_frame().assign(**{column: pd.Series(values, dtype=object)}))


@pytest.mark.parametrize("column", SCHEMA[1:])
def test_a_column_of_another_type_is_refused(column):
    others = (
        True,
        pd.array([True] * 5, dtype="boolean"),
        UTC_HOURS,
        pd.to_timedelta(HOURS, unit="ms"),
        1j,
    )
    for other in others:
        message = refusal(make_frame(**{column: other}))
        assert message.startswith(
            f"candles, column {column!r}: 5 value(s) that are not numbers, first "
        )


@pytest.mark.parametrize("column", SCHEMA[1:])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "NaN in {column!r} in {where} ({column} = nan); drop or mend the rows"),
        (None, "NaN in {column!r} in {where} ({column} = nan); drop or mend the rows"),
        (np.inf, "infinite values in {column!r} in {where} ({column} = inf); mend the source"),
        ("-inf", "infinite values in {column!r} in {where} ({column} = -inf); mend the source"),
        (-3.5, "{sign} values in {column!r} in {where} ({column} = -3.5); mend the source"),
        (0.0, "{sign} values in {column!r} in {where} ({column} = 0); mend the source"),
    ],
)
def test_unsound_numbers_are_refused_by_time_and_value(column, value, message):
    if column == "volume" and value == 0.0:
        return  # an hour without a trade is sound
    sign = "negative" if column == "volume" else "non-positive"
    where = "1 row(s), first at 2024-01-01 02:00"
    expected = message.format(column=column, sign=sign, where=where)
    assert refusal(with_value(column, 2, value)) == f"candles: {expected}"


def test_the_rows_are_counted():
    assert "NaN in 'low' in 3 row(s), first at 2024-01-01 01:00" in refusal(
        make_frame(low=[1, None, None, 1, None])
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("high", 99.0, "high below low in {where} (high = 99); are 'high' and 'low' swapped?"),
        ("close", 114.5, "high below open or close in {where} (high = 104); mend the source"),
        ("open", 90.5, "low above open or close in {where} (low = 100); mend the source"),
    ],
)
def test_prices_that_contradict_each_other_are_refused(column, value, message):
    # row 2: open 102, high 104, low 100, close 103
    where = "1 row(s), first at 2024-01-01 02:00"
    assert refusal(with_value(column, 2, value)) == f"candles: {message.format(where=where)}"


@pytest.mark.parametrize(
    ("column", "value", "mended"),
    [
        ("open", 99.5, [99.5, 104.0, 99.5, 103.0]),
        ("close", 104.5, [102.0, 104.5, 100.0, 104.5]),
        ("high", 102.5, [102.0, 103.0, 100.0, 103.0]),
        ("low", 102.5, [102.0, 104.0, 102.0, 103.0]),
    ],
)
def test_low_to_high_is_widened_with_a_notice_where_open_or_close_lie_a_little_outside(
    column, value, mended, caplog
):
    # row 2: open 102, high 104, low 100, close 103
    candles = read_candles(with_value(column, 2, value), "1h", where="x.csv")
    assert candles.loc[2, ["open", "high", "low", "close"]].tolist() == mended
    assert_frame_equal(candles.drop(index=2), SOUND.drop(index=2))
    [notice] = caplog.messages
    assert notice.startswith(
        "x.csv: low..high of 1 of 5 candle(s) is widened to hold open and close, first at "
        "2024-01-01 02:00 (open "
    )
    assert_frame_equal(read_candles(candles, "1h"), candles)
    assert len(caplog.messages) == 1


def test_widening_has_no_limit_in_number(caplog):
    candles = read_candles(make_frame(low=make_frame()["open"] + 0.5), "1h")
    assert candles["low"].tolist() == candles["open"].tolist()
    assert "low..high of 5 of 5 candle(s)" in caplog.text


@pytest.mark.parametrize("n_off", [1, 4])
def test_a_few_candles_off_the_grid_are_left_out_as_a_gap_with_a_notice(n_off, caplog):
    late = [hour + 28 / 60 for hour in range(10, 10 + n_off)]
    candles = read_candles(at_hours(*range(10), *late, *range(20, 46)), "1h", where="x.csv")
    assert_frame_equal(candles, read_candles(at_hours(*range(10), *range(20, 46)), "1h"))
    assert caplog.messages == [
        f"x.csv: {n_off} of {36 + n_off} candle(s) off the 1h grid are left out as a gap, first "
        "2024-01-01 10:28:00; get them from another source to fill it"
    ]


def test_more_than_a_tenth_off_the_grid_is_another_timeframe_or_zone():
    late = [hour + 0.5 for hour in range(10, 15)]
    assert "off the 1h grid in 5 row(s)" in refusal(at_hours(*range(10), *late, *range(20, 50)))


def test_notices_go_where_the_caller_wants_them(caplog):
    told = []
    read_candles(with_value("open", 2, 99.5), "1h", tell=told.append)
    assert len(told) == 1 and caplog.messages == []


def test_a_candle_without_a_range_is_sound():
    assert len(read_candles(at_hours(0, 1), "1h")) == 2


def test_published_columns_may_be_absent_in_rows_but_not_infinite_or_text():
    assert read_candles(make_frame(funding_rate=np.nan), "1h")["funding_rate"].isna().all()
    for name in ("funding_rate", "open_interest"):
        assert f"infinite values in '{name}' in 5 row(s)" in refusal(make_frame(**{name: np.inf}))
        assert f"column '{name}': 5 value(s) that are not numbers, first 'x'" in refusal(
            make_frame(**{name: "x"})
        )


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(SCHEMA),
    st.integers(0, 4),
    st.one_of(
        st.sampled_from([None, pd.NaT, pd.NA, True, b"1", (), [1.0], {}]),
        *(
            st.floats(),
            st.integers(-(2**70), 2**70),
            st.text(max_size=8),
            st.datetimes(),
            st.decimals(allow_nan=False),
        ),
    ),
)
def test_whatever_a_cell_holds_the_frame_is_read_or_refused(column, row, value):
    frame = make_frame()
    values = frame[column].astype(object).tolist()
    values[row] = value
    frame[column] = pd.Series(values, dtype=object)
    try:
        candles = read_candles(frame, "1h")
    except ValueError as error:
        assert str(error).startswith("candles") and ";" in str(error)
    else:
        assert np.isfinite(candles[SCHEMA[1:]].to_numpy()).all()
