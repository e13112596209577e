"""Candle files: names, both formats, what lies beside them, damage, writing, hashing."""

import hashlib
import os

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from pyarrow import parquet

from pipeline.candles.formats import read_directory
from pipeline.candles.schema import (
    PUBLISHED,
    TIME_REMEDY,
    check_published,
    count_missing,
    read_candles,
    timestamps_ms,
    utc_from_ms,
)
from pipeline.candles.store import content_sha256, file_name, read_table, write_candles

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC


def make_candles(n: int = 48, seed: int = 0) -> pd.DataFrame:
    """Sound hours from 2024-01-01 on, with prices of 16 or 17 digits as no exchange has them."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(n)))
    open_ = close * np.exp(0.001 * rng.standard_normal(n))
    return pd.DataFrame(
        {
            "timestamp": utc_from_ms(START + HOUR * np.arange(n)),
            "open": open_,
            "high": np.maximum(open_, close) * (1 + 0.01 * rng.random(n)),
            "low": np.minimum(open_, close) * (1 - 0.01 * rng.random(n)),
            "close": close,
            "volume": rng.lognormal(3, 2, n),
        }
    )


def make_funding(n: int = 6) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "timestamp": utc_from_ms(START + 8 * HOUR * np.arange(n)),
            "funding_rate": 1e-4 * np.arange(n),
        }
    )


def save(frame: pd.DataFrame, path) -> None:
    frame.to_parquet(path, index=False) if path.suffix == ".parquet" else frame.to_csv(
        path, index=False
    )


def refusal(function, *args, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        function(*args)
    return str(caught.value)


# --- names and formats
# --------------------------------------------------------------------------------------


def test_files_are_named_by_symbol_and_kind():
    assert file_name("BTC/USDT", "1h") == "BTCUSDT_1h.parquet"
    assert file_name("BTC/USDT:USDT", "15m", ".csv") == "BTCUSDT_15m.csv"
    assert file_name("1000SHIB/USDT", "funding") == "1000SHIBUSDT_funding.parquet"
    assert PUBLISHED == {"funding": "funding_rate", "open_interest": "open_interest"}


def test_parquet_and_csv_give_equal_frames_to_the_last_bit(tmp_path):
    candles = make_candles(2000)
    for suffix in (".parquet", ".csv"):
        (tmp_path / suffix).mkdir()
        save(candles, tmp_path / suffix / f"BTCUSDT_1h{suffix}")
        assert_frame_equal(
            read_directory(tmp_path / suffix, "BTC/USDT", "1h"), candles, check_exact=True
        )


@pytest.mark.parametrize("unit", ["s", "ms", "us", "iso"])
def test_a_csv_may_name_and_write_the_time_its_own_way(tmp_path, unit):
    candles = make_candles()
    times = candles["timestamp"].astype(str)
    if unit != "iso":
        times = timestamps_ms(candles) * {"s": 1, "ms": 1000, "us": 10**6}[unit] // 1000
    table = candles.assign(timestamp=times, note=1).rename(columns={"timestamp": "open_time"})
    save(table, tmp_path / "BTCUSDT_1h.csv")
    assert_frame_equal(read_directory(tmp_path, "BTC/USDT", "1h"), candles, check_exact=True)


def test_of_both_formats_parquet_is_read(tmp_path):
    save(make_candles(48), tmp_path / "BTCUSDT_1h.parquet")
    save(make_candles(24), tmp_path / "BTCUSDT_1h.csv")
    assert len(read_directory(tmp_path, "BTC/USDT", "1h")) == 48


# --- funding and open interest
# ------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_funding_and_open_interest_beside_the_candles_are_joined(tmp_path, suffix):
    candles = make_candles(24)
    save(candles, tmp_path / f"BTCUSDT_1h{suffix}")
    save(make_funding(3), tmp_path / f"BTCUSDT_funding{suffix}")
    interest = pd.DataFrame(
        {"timestamp": candles["timestamp"], "open_interest": 1000.0 + np.arange(24)}
    )
    save(interest.iloc[4:], tmp_path / f"BTCUSDT_open_interest{suffix}")
    joined = read_directory(tmp_path, "BTC/USDT", "1h")
    assert joined.columns.tolist() == [*candles.columns, "funding_rate", "open_interest"]
    # 8 candles close after 00:00 and by 08:00, 8 after 08:00 and by 16:00, 8 after 16:00.
    assert joined["funding_rate"].tolist() == [0.0] * 8 + [1e-4] * 8 + [2e-4] * 8
    np.testing.assert_array_equal(joined["open_interest"], [np.nan] * 4 + list(range(1004, 1024)))
    assert_frame_equal(joined[candles.columns], candles, check_exact=True)


def test_a_column_of_the_candle_file_is_not_overwritten_and_another_symbols_not_joined(tmp_path):
    save(make_funding(), tmp_path / "BTCUSDT_funding.parquet")
    save(make_candles().assign(funding_rate=0.5), tmp_path / "BTCUSDT_1h.parquet")
    assert read_directory(tmp_path, "BTC/USDT", "1h")["funding_rate"].eq(0.5).all()
    save(make_candles(), tmp_path / "ETHUSDT_1h.parquet")
    assert "funding_rate" not in read_directory(tmp_path, "ETH/USDT", "1h")


def test_a_funding_file_without_rows_gives_an_empty_column(tmp_path):
    for suffix in (".parquet", ".csv"):
        path = tmp_path / f"BTCUSDT_funding{suffix}"
        for empty in (
            make_funding(0),
            pd.DataFrame({"timestamp": [], "funding_rate": []}, dtype=float),
        ):
            save(empty, path)
            assert len(check_published(read_table(path), "funding_rate", path.name)) == 0
        save(make_candles(), tmp_path / f"BTCUSDT_1h{suffix}")
        assert read_directory(tmp_path, "BTC/USDT", "1h")["funding_rate"].isna().all()


ORDER = "sort by 'timestamp' and drop duplicates"
NO_NUMBER = "remove the text, use a point as decimal sign and no thousands separators"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda f: f.rename(columns={"funding_rate": "level"}),
            ": which column is 'funding_rate'? the columns are 'timestamp', 'level'; call it so in "
            "the first line",
        ),
        (
            lambda f: f.rename(columns={"timestamp": "row"}),
            ": which column is 'timestamp'? the columns are 'row', 'funding_rate'; call it so in "
            "the first line",
        ),
        (
            lambda f: f.assign(funding_rate=[0, 1e-4, np.nan, 3e-4, 4e-4, 5e-4]),
            ", column 'funding_rate': nan in row 2 is not finite; drop the row",
        ),
        (
            lambda f: f.assign(funding_rate=[0, -np.inf, 2e-4, 3e-4, 4e-4, 5e-4]),
            ", column 'funding_rate': -inf in row 1 is not finite; drop the row",
        ),
        (
            lambda f: f.assign(funding_rate=["0.01%"] * 6),
            ", column 'funding_rate': 6 value(s) that are not numbers, first '0.01%' in row 0; "
            f"{NO_NUMBER}",
        ),
        (
            lambda f: f.assign(timestamp=f["timestamp"].iloc[[0, 1, 1, 2, 3, 3]].to_numpy()),
            f": 2 time(s) unsorted or repeated, first 2024-01-01 08:00:00+00:00 in row 2; {ORDER}",
        ),
        (
            lambda f: f.assign(timestamp=range(6)),
            ", column 'timestamp': 6 number(s) that are no epoch time, first 0 in row 0; "
            f"{TIME_REMEDY}",
        ),
    ],
)
def test_an_unsound_funding_file_is_refused_by_name_row_and_value(tmp_path, suffix, fault, message):
    save(make_candles(), tmp_path / f"BTCUSDT_1h{suffix}")
    save(fault(make_funding()), tmp_path / f"BTCUSDT_funding{suffix}")
    assert (
        refusal(read_directory, tmp_path, "BTC/USDT", "1h") == f"BTCUSDT_funding{suffix}{message}"
    )


def test_missing_funding_is_counted_by_the_interval_that_the_series_has_there():
    hours = np.array([0, 8, 16, 40, 48, 56, 64])  # every 8 hours, with two left out
    assert count_missing(hours * 3_600_000, "funding").tolist() == [0, 0, 0, 2, 0, 0, 0]
    assert count_missing(hours * 1_800_000, "funding").tolist() == [
        0,
        0,
        0,
        2,
        0,
        0,
        0,
    ]  # every 4 hours


# --- missing and damaged files
# ------------------------------------------------------------------------------


def test_a_missing_directory_is_named(tmp_path):
    save(make_candles(), tmp_path / "BTCUSDT_1h.parquet")
    for wrong in (tmp_path / "candels", tmp_path / "BTCUSDT_1h.parquet"):
        message = refusal(read_directory, wrong, "BTC/USDT", "1h")
        assert message == f"{wrong}: there is no such directory of candles; mend --candles-dir"


def test_a_missing_file_comes_with_what_is_there_its_own_symbol_first(tmp_path):
    assert refusal(read_directory, tmp_path, "ETH/USDT", "4h").endswith(
        f"in {tmp_path}; it holds no candles"
    )
    for name in (
        "ADAUSDT_1h.csv",
        "ETHUSDT_1h.parquet",
        "ETHUSDT_15m.parquet",
        "ETHUSDT_15m.csv",
        "notes.md",
    ):
        (tmp_path / name).touch()
    message = refusal(read_directory, tmp_path, "ETH/USDT", "5m")
    assert message == (
        f"ETH/USDT: no ETHUSDT_5m.parquet or ETHUSDT_5m.csv in {tmp_path}; it holds ETHUSDT_15m, "
        "ETHUSDT_1h, ADAUSDT_1h"
    )
    for number in range(20):
        (tmp_path / f"X{number:02}_1h.csv").touch()
    assert refusal(read_directory, tmp_path, "BTC/USDT", "1h").endswith(
        " X07_1h, X08_1h and 11 more"
    )


def test_a_missing_table_is_a_file_not_found_error(tmp_path):
    for name in ("candles.csv", "candles.parquet"):
        message = refusal(read_table, tmp_path / name, kind=FileNotFoundError)
        assert message == f"{tmp_path / name}: there is no such file; mend the path"


@pytest.mark.parametrize("kept", [0, 1, 10, 1000, -1, -8])
def test_a_truncated_parquet_file_is_named(tmp_path, kept):
    path = tmp_path / "BTCUSDT_1h.parquet"
    save(make_candles(), path)
    path.write_bytes(path.read_bytes()[:kept])
    message = refusal(read_directory, tmp_path, "BTC/USDT", "1h")
    assert message.startswith(f"{path}: not a readable parquet file (")
    assert message.endswith("); move it aside, then fetch or copy it again") and "\n" not in message


def test_what_only_calls_itself_parquet_is_named(tmp_path):
    path = tmp_path / "BTCUSDT_1h.parquet"
    for content in (
        b"timestamp,open\n1,2\n",
        b"<html>Please log in</html>",
        b"version https://git-lfs",
        b"\0" * 500,
    ):
        path.write_bytes(content)
        assert refusal(read_table, path).startswith(f"{path}: not a readable parquet file (")


@settings(
    max_examples=100, deadline=None, derandomize=True
)  # the same damage each time: no luck involved
@given(
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3
    )
)
def test_flipped_bytes_in_a_parquet_file_are_a_value_error_or_pass(tmp_path_factory, flips):
    path = tmp_path_factory.getbasetemp() / "flipped.parquet"
    save(make_candles(), path)
    content = bytearray(path.read_bytes())
    footer = (
        len(content) * 2 // 5
    )  # the data lie before it, and without checksums a flip there may change a price
    for where, byte in flips:
        content[footer + int(where * (len(content) - footer))] = byte
    path.write_bytes(content)
    try:
        read_table(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: not a readable parquet file (")


@pytest.mark.parametrize("intact", [b'"numpy_type"', b'"index_columns"'])
def test_damaged_notes_of_pandas_inside_a_parquet_file_are_a_value_error(tmp_path, intact):
    path = tmp_path / "BTCUSDT_1h.parquet"
    table = pa.Table.from_pandas(make_candles())
    notes = table.schema.metadata[b"pandas"]
    damaged = notes.replace(intact, intact[:2] + b"X" + intact[3:])
    assert damaged != notes
    parquet.write_table(table.replace_schema_metadata({b"pandas": damaged}), path)
    assert refusal(read_table, path).startswith(f"{path}: not a readable parquet file (")


def test_a_folder_or_a_file_of_another_kind_is_told_what_to_pass_and_not_to_be_deleted(tmp_path):
    message = refusal(read_table, tmp_path)
    assert (
        message
        == f"{tmp_path}: a folder; pass one of its files, such as {tmp_path}/BTCUSDT_1h.parquet"
    )
    path = tmp_path / "BTCUSDT_1h.pkl"
    make_candles(4).to_pickle(path)
    message = refusal(read_table, path)
    assert message.startswith(f"{path}: .pkl files are not read; save the candles as Parquet, CSV,")


def test_a_csv_with_a_row_too_long_is_named_with_its_line(tmp_path):
    path = tmp_path / "BTCUSDT_1h.csv"
    save(make_candles(4), path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3] + ",7,8", *lines[4:]]))
    message = refusal(read_directory, tmp_path, "BTC/USDT", "1h")
    assert (
        message.startswith(f"{path}: not a readable csv file (")
        and "line 4 has 8 values in place of 6" in message
    )
    assert message.endswith("); fetch or copy it again")


def test_a_csv_cut_off_in_a_row_is_refused_in_that_row(tmp_path):
    path = tmp_path / "BTCUSDT_1h.csv"
    save(make_candles(4), path)
    path.write_text(path.read_text().rstrip().rpartition(",")[0])
    assert "(line 5 has 5 values in place of 6)" in refusal(
        read_directory, tmp_path, "BTC/USDT", "1h"
    )


def test_a_csv_with_a_field_more_than_its_header_is_not_read_shifted(tmp_path):
    # pandas takes the first field of such rows for an index, which shifts every column by one.
    path = tmp_path / "BTCUSDT_1h.csv"
    save(make_candles(4), path)
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row + ",1" for row in rows)]))
    message = refusal(read_directory, tmp_path, "BTC/USDT", "1h")
    assert message == (
        "BTCUSDT_1h.csv: its header names 6 columns and its first row has 7 values; which column "
        "is which? mend the header line"
    )


def test_an_empty_csv_and_one_without_rows_are_named(tmp_path):
    path = tmp_path / "BTCUSDT_1h.csv"
    path.touch()
    assert refusal(read_directory, tmp_path, "BTC/USDT", "1h").startswith(
        f"{path}: not a readable csv file ("
    )
    save(make_candles(0), path)
    assert refusal(read_directory, tmp_path, "BTC/USDT", "1h") == (
        "BTCUSDT_1h.csv: there are no candles; pass at least one row"
    )


def test_binary_noise_as_csv_is_a_value_error(tmp_path):
    path = tmp_path / "BTCUSDT_1h.csv"
    for content in (b"\xff\xfe\x00\x01" * 50, b"PK\x03\x04" + bytes(range(256)), b"\x00" * 100):
        path.write_bytes(content)
        assert "BTCUSDT_1h.csv" in refusal(read_directory, tmp_path, "BTC/USDT", "1h")


def test_unsound_candles_are_refused_under_the_name_of_their_file(tmp_path):
    save(make_candles().assign(close=-1.0), tmp_path / "BTCUSDT_1h.csv")
    assert refusal(read_directory, tmp_path, "BTC/USDT", "1h") == (
        "BTCUSDT_1h.csv: non-positive values in 'close' in 48 row(s), first at 2024-01-01 00:00 "
        "(close = -1); mend the source"
    )
    save(make_candles(), tmp_path / "ETHUSDT_15m.parquet")
    assert refusal(read_directory, tmp_path, "ETH/USDT", "15m") == (
        "ETHUSDT_15m.parquet: no two of 48 candles are 15m apart, the closest are 60 min; pass "
        "candles of that timeframe, or name theirs"
    )


# --- writing
# ------------------------------------------------------------------------------------------------


def test_what_is_written_last_is_read_back_and_nothing_else_is_left(tmp_path):
    for n in (48, 24):
        candles = make_candles(n).assign(funding_rate=1e-4)
        path = write_candles(candles, tmp_path / "new" / "binance", "BTC/USDT", "1h")
        assert_frame_equal(read_directory(path.parent, "BTC/USDT", "1h"), candles, check_exact=True)
    assert (
        list((tmp_path / "new/binance").iterdir())
        == [tmp_path / "new/binance/BTCUSDT_1h.parquet"]
        == [path]
    )


def test_the_schema_is_written_whatever_form_the_frame_has(tmp_path):
    candles = make_candles()
    loose = candles.assign(
        timestamp=candles["timestamp"].dt.tz_convert("Asia/Taipei"), note="x"
    ).set_index("note")
    path = write_candles(loose.astype({"close": str}), tmp_path, "BTC/USDT", "1h")
    written = pd.read_parquet(path)
    assert written.columns.tolist() == candles.columns.tolist()
    assert str(written["timestamp"].dtype) == "datetime64[ms, UTC]"
    assert_frame_equal(read_candles(written, "1h"), candles)


def test_unsound_candles_are_not_written(tmp_path):
    message = refusal(write_candles, make_candles().iloc[::-1], tmp_path / "new", "BTC/USDT", "1h")
    assert message.startswith("BTC/USDT: times that run backwards in 47 row(s)")
    four_hours = make_candles().iloc[::4]
    assert "no two of 12 candles are 1h apart" in refusal(
        write_candles, four_hours, tmp_path / "new", "BTC/USDT", "1h"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("failing", ["to_parquet", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = write_candles(make_candles(), tmp_path, "BTC/USDT", "1h")
    before = path.read_bytes()

    def write_half(_, unfinished, **__):
        unfinished.write_bytes(b"PAR1 half of it")
        raise OSError("no space left on device")

    def refuse(*_):
        raise OSError("no space left on device")

    if failing == "to_parquet":
        monkeypatch.setattr(pd.DataFrame, "to_parquet", write_half)
    else:
        monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        write_candles(make_candles(seed=1), tmp_path, "BTC/USDT", "1h")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["BTCUSDT_1h.parquet"]


# --- hashing
# ------------------------------------------------------------------------------------------------


def test_the_hash_is_that_of_the_names_and_the_little_endian_values():
    candles = make_candles(2)
    expected = hashlib.sha256(b"timestamp,open,high,low,close,volume")
    expected.update(np.array([START, START + HOUR], dtype="<i8").tobytes())
    for name in ("open", "high", "low", "close", "volume"):
        expected.update(candles[name].to_numpy("<f8").tobytes())
    assert content_sha256(candles) == expected.hexdigest()


def test_the_hash_does_not_depend_on_format_unit_or_index(tmp_path):
    candles = make_candles(500).assign(funding_rate=[np.nan, *[1e-4] * 499])
    hashes = {content_sha256(candles), content_sha256(candles.set_axis(range(7, 507)))}
    for unit in ("s", "us", "ns"):
        hashes.add(content_sha256(candles.assign(timestamp=candles["timestamp"].dt.as_unit(unit))))
    for suffix in (".parquet", ".csv"):
        (tmp_path / suffix).mkdir()
        save(candles, tmp_path / suffix / f"BTCUSDT_1h{suffix}")
        hashes.add(content_sha256(read_directory(tmp_path / suffix, "BTC/USDT", "1h")))
    assert len(hashes) == 1


@given(st.integers(0, 11), st.sampled_from(["timestamp", "open", "high", "low", "close", "volume"]))
def test_the_hash_differs_when_any_value_differs_by_one_bit(row, column):
    candles = make_candles(12)
    changed = candles.copy()
    if column == "timestamp":
        changed.loc[row, column] += pd.Timedelta(1, "ms")
    else:
        changed.loc[row, column] = np.nextafter(candles.loc[row, column], np.inf)
    assert content_sha256(changed) != content_sha256(candles)


def test_the_hash_differs_with_rows_columns_and_order():
    candles = make_candles(12)
    others = [
        candles.iloc[:-1],
        candles.iloc[1:],
        candles.iloc[::-1],
        candles.assign(open_interest=1.0),
    ]
    others.append(candles.rename(columns={"volume": "open_interest"}))
    others.append(candles.assign(open=candles["close"], close=candles["open"]))
    assert len({content_sha256(frame) for frame in [candles, *others]}) == 7


# --- real candles
# -------------------------------------------------------------------------------------------


def test_real_funding_and_open_interest_are_joined(real_data):
    candles = read_directory(real_data / "recent", "BTC/USDT", "1h")
    assert candles.columns[-2:].tolist() == ["funding_rate", "open_interest"]
    assert len(candles) == 3041
    assert candles["funding_rate"].notna().mean() > 0.99
    # Hourly values, of which 2,142 exist: a value may also count for the candle after its own, at
    # most.
    assert 2142 - 1 <= candles["open_interest"].notna().sum() <= 2142 + 20
    assert (
        candles["open_interest"].first_valid_index()
        == candles.index[candles["timestamp"] >= "2025-12-07 11:00"][0]
    )


def test_real_spot_candles_have_neither_funding_nor_open_interest(real_data):
    assert "funding_rate" not in read_directory(real_data / "binance", "ETH/USDT", "15m")
    message = refusal(read_directory, real_data / "binance", "VET/USDT", "1h")
    assert (
        message.startswith("VET/USDT: no VETUSDT_1h.parquet or VETUSDT_1h.csv in ")
        and "APEUSDT_15m" in message
    )
