"""Updating a stored series: what is added, compared and reported, what an update reads and writes,
the audit."""

import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from pyarrow import parquet

from pipeline import atomic
from pipeline.candles import store
from pipeline.candles.audit import audit
from pipeline.candles.formats import read_directory
from pipeline.candles.schema import PUBLISHED, count_missing, timestamps_ms, utc_from_ms
from pipeline.candles.store import last_rows, read_series, update_series, write_candles
from tests.store_kills import MINUTE, START, make_series

BTC = "BTC/USDT"
HOUR = 3_600_000
SERIES = make_series(2_000)


@pytest.fixture
def short_blocks(monkeypatch):
    """Tails from 20 rows on, of at most 10."""
    monkeypatch.setattr(store, "BLOCK_ROWS", 10)
    monkeypatch.setattr(store, "WHOLE_ROWS", 20)


def update(
    directory: Path, rows: pd.DataFrame, venue: str = "binance", symbol: str = BTC, kind: str = "1m"
):
    return update_series(directory, symbol, kind, rows, venue=venue)


def stored(directory: Path, kind: str = "1m") -> pd.DataFrame:
    return read_series(directory, BTC, kind)


def refusal(function, *args, **options) -> str:
    with pytest.raises(ValueError) as caught:
        function(*args, **options)
    return str(caught.value)


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def make_published(n: int, column: str = "funding_rate", hours: int = 8) -> pd.DataFrame:
    return pd.DataFrame(
        {"timestamp": utc_from_ms(START + hours * HOUR * np.arange(n)), column: 1e-4 * np.arange(n)}
    )


# --- growing
# ------------------------------------------------------------------------------------------


def test_a_series_that_is_not_there_is_none(tmp_path):
    assert read_series(tmp_path, BTC, "1m") is None and last_rows(tmp_path, BTC, "1m", 1) is None
    for wrong in ("7m", "funding_rate"):
        assert "unknown timeframe" in refusal(read_series, tmp_path, BTC, wrong)


def test_an_update_adds_what_is_new_and_compares_the_rest(tmp_path, caplog):
    first = update(tmp_path / "new" / "binance", SERIES[:100])
    assert (first.added, first.checked, len(first.rewritten), first.gap_before) == (100, 0, 0, 0)
    second = update(tmp_path / "new" / "binance", SERIES[90:130])
    assert (second.added, second.checked, len(second.rewritten), second.gap_before) == (
        30,
        10,
        0,
        0,
    )
    assert_frame_equal(stored(tmp_path / "new" / "binance"), SERIES[:130], check_exact=True)
    assert names_in(tmp_path / "new" / "binance") == ["BTCUSDT_1m.parquet"]
    assert warnings_in(caplog) == []


def test_an_update_that_brings_nothing_new_writes_nothing(tmp_path):
    update(tmp_path, SERIES[:100])
    before = (tmp_path / "BTCUSDT_1m.parquet").stat()
    assert update(tmp_path, SERIES[40:100]).checked == 60
    after = (tmp_path / "BTCUSDT_1m.parquet").stat()  # the time of the last reading may differ
    assert (after.st_ino, after.st_mtime_ns, after.st_size) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_size,
    )


def test_a_short_series_is_one_file_and_a_long_one_has_a_tail_that_every_reader_reads(
    tmp_path, short_blocks
):
    update(tmp_path, SERIES[:18])
    update(tmp_path, SERIES[17:20])
    assert names_in(tmp_path) == ["BTCUSDT_1m.parquet"]
    update(tmp_path, SERIES[19:24])  # 20 in the main file, 4 in the tail
    update(tmp_path, SERIES[23:30])  # 10 in the tail
    assert names_in(tmp_path) == ["BTCUSDT_1m.parquet", "BTCUSDT_1m.tail.parquet"]
    assert parquet.read_metadata(tmp_path / "BTCUSDT_1m.parquet").num_rows == 20
    for read in (
        stored(tmp_path),
        read_directory(tmp_path, BTC, "1m"),
        store.read_table(tmp_path / "BTCUSDT_1m.parquet"),
        last_rows(tmp_path, BTC, "1m", 100),
    ):
        assert_frame_equal(read, SERIES[:30], check_exact=True)
    update(tmp_path, SERIES[29:31])  # 11 would be too many
    assert names_in(tmp_path) == ["BTCUSDT_1m.parquet"]
    assert_frame_equal(
        pd.read_parquet(tmp_path / "BTCUSDT_1m.parquet"), SERIES[:31], check_exact=True
    )


def test_the_last_rows_are_those_of_main_file_and_tail(tmp_path, short_blocks):
    update(tmp_path, SERIES[:55])
    update(tmp_path, SERIES[54:58])
    for n in (1, 3, 4, 10, 58, 99):
        expected = SERIES[max(0, 58 - n) : 58].reset_index(drop=True)
        assert_frame_equal(last_rows(tmp_path, BTC, "1m", n), expected, check_exact=True)
    assert len(last_rows(tmp_path, BTC, "1m", 0)) == 0


pieces = st.lists(
    st.tuples(
        st.integers(0, 79),  # first minute
        st.integers(1, 40),  # minutes
        st.sets(st.integers(0, 79), max_size=3),  # minutes without a candle
        st.dictionaries(
            st.integers(0, 79), st.sampled_from(["open", "close", "volume"]), max_size=2
        ),  # rewritten
    ),
    min_size=1,
    max_size=8,
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(pieces)
def test_pieces_in_any_order_make_up_the_series_and_every_difference_is_reported(
    tmp_path_factory, pieces
):
    directory = tmp_path_factory.mktemp("series")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "BLOCK_ROWS", 7)
        patch.setattr(store, "WHOLE_ROWS", 15)
        patch.setattr(atomic, "flush", lambda path: None)  # for speed
        truth: dict[int, pd.Series] = {}
        for begin, length, without, rewritten in pieces:
            rows = SERIES[begin : min(80, begin + length)].drop(
                index=list(without), errors="ignore"
            )
            for minute, column in rewritten.items():
                if minute in rows.index:
                    rows.loc[minute, column] = (
                        rows.loc[minute, "low" if column != "volume" else "volume"] + 0.005
                    )
            together = np.array(sorted(set(rows.index) | set(truth)))
            if len(rows) == 0 or (len(together) > 2 and np.diff(together).min() > 1):
                # a series without two candles a minute apart is refused as one of a longer
                # timeframe
                continue
            span = [minute for minute in truth if rows.index[0] <= minute <= rows.index[-1]]
            differing = {
                (minute, column)
                for minute in span
                for column in SERIES.columns[1:]
                if minute not in rows.index or truth[minute][column] != rows.loc[minute, column]
            }
            gap = max(0, rows.index[0] - max(truth) - 1) if truth else 0
            result = update(directory, rows)
            n_new = len(set(rows.index) - set(truth))
            assert (result.added, result.checked, result.gap_before) == (n_new, len(span), gap)
            reported = (timestamps_ms(result.rewritten) - START) // MINUTE
            assert set(zip(reported, result.rewritten["column"])) == differing
            truth |= {minute: rows.loc[minute] for minute in rows.index}
            expected = pd.DataFrame([truth[minute] for minute in sorted(truth)]).astype(
                SERIES.dtypes
            )
            assert_frame_equal(stored(directory), expected.reset_index(drop=True), check_exact=True)


# --- rewritten history, gaps
# ------------------------------------------------------------------------------------------


def test_a_rewritten_candle_is_reported_warned_of_and_replaced(tmp_path, short_blocks, caplog):
    update(tmp_path, SERIES[:50])
    update(tmp_path, SERIES[49:54])
    rows = SERIES[2:55].copy()
    rows.loc[3, "volume"] = 12.5
    rows.loc[51, ["high", "close"]] = 999.0
    result = update(tmp_path, rows)
    assert (result.added, result.checked) == (1, 52)
    assert result.rewritten["timestamp"].tolist() == SERIES["timestamp"][[3, 51, 51]].tolist()
    assert result.rewritten["column"].tolist() == ["volume", "high", "close"]
    assert result.rewritten["stored"].tolist() == [
        SERIES.volume[3],
        SERIES.high[51],
        SERIES.close[51],
    ]
    assert result.rewritten["new"].tolist() == [12.5, 999.0, 999.0]
    assert warnings_in(caplog) == [
        "BTCUSDT_1m.parquet: 2 stored row(s) have other values in BTC/USDT 1m from binance; the "
        f"new ones replace them; first 2024-01-01 00:03, volume {SERIES.volume[3]:.12g}, now 12.5"
    ]
    assert_frame_equal(stored(tmp_path), pd.concat([SERIES[:2], rows]), check_exact=True)


def test_a_stored_candle_that_the_exchange_no_longer_has_is_reported_and_stays(tmp_path, caplog):
    update(tmp_path, SERIES[:50])
    result = update(tmp_path, SERIES[40:60].drop(index=[45, 47]))
    assert (result.added, result.checked, len(result.rewritten)) == (10, 10, 2 * 5)
    assert result.rewritten["new"].isna().all()
    assert warnings_in(caplog) == [
        "BTCUSDT_1m.parquet: 2 stored row(s) are missing in BTC/USDT 1m from binance; they stay; "
        f"first 2024-01-01 00:45, open {SERIES.open[45]:.12g}"
    ]
    assert_frame_equal(stored(tmp_path), SERIES[:60], check_exact=True)


def test_a_gap_before_the_new_rows_is_reported_and_can_be_filled_later(tmp_path, caplog):
    update(tmp_path, SERIES[:50])
    assert (
        update(tmp_path, SERIES[50:60]).gap_before == 0
    )  # next to each other: nothing compared, nothing missing
    assert update(tmp_path, SERIES[63:64]).gap_before == 3
    assert warnings_in(caplog) == [
        "BTCUSDT_1m.parquet: 3 row(s) are missing before those of BTC/USDT 1m from binance"
    ]
    assert update(tmp_path, SERIES[59:66]).added == 5
    assert_frame_equal(stored(tmp_path), SERIES[:66], check_exact=True)


def test_a_short_update_across_gaps_is_not_taken_for_a_longer_timeframe(tmp_path):
    update(tmp_path, SERIES[:50])
    assert update(tmp_path, SERIES.iloc[[49, 52, 55, 60]]).added == 3
    assert "no two of 4 candles are 1m apart" in refusal(
        update, tmp_path / "new", SERIES.iloc[[49, 52, 55, 60]]
    )


# --- refused, and the store as it was
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            lambda rows: rows[:0],
            "BTC/USDT 1m from binance: no rows to update with; fetch from the last stored row on",
        ),
        (
            lambda rows: rows[::-1],
            "BTC/USDT 1m from binance: times that run backwards in 29 row(s)",
        ),
        (lambda rows: rows.assign(high=1.0), "BTC/USDT 1m from binance: high below low"),
        (
            lambda rows: rows.assign(timestamp=rows["timestamp"] + pd.Timedelta(1, "s")),
            "BTC/USDT 1m from binance: times off the 1m grid in 30 row(s), first at 2024-01-01 "
            "00:40:01; pass candles",
        ),
        (
            lambda rows: rows.assign(funding_rate=1e-4),
            "keep funding and open interest in files of their own",
        ),
        (lambda rows: rows.drop(columns="volume"), "column 'volume' missing"),
    ],
)
def test_unsound_rows_are_refused_and_the_store_stays_as_it_was(tmp_path, fault, message):
    update(tmp_path, SERIES[:50])
    before = (tmp_path / "BTCUSDT_1m.parquet").read_bytes()
    assert message in refusal(update, tmp_path, fault(SERIES[40:70]))
    assert (tmp_path / "BTCUSDT_1m.parquet").read_bytes() == before
    assert names_in(tmp_path) == ["BTCUSDT_1m.parquet"]


def test_a_series_stays_with_its_exchange_and_symbol(tmp_path):
    update(tmp_path, SERIES[:50])
    assert refusal(update, tmp_path, SERIES[40:70], venue="okx") == (
        "BTCUSDT_1m.parquet: its venue is binance, that of the new rows okx; a series comes from "
        "one exchange, whole: update it from there, or keep the new rows in another directory"
    )
    message = refusal(update, tmp_path, SERIES[40:70], symbol="BTC/USDT:USDT")
    assert message.startswith(
        "BTCUSDT_1m.parquet: its symbol is BTC/USDT, that of the new rows BTC/USDT:USDT;"
    )
    assert len(stored(tmp_path)) == 50
    update(
        tmp_path, make_published(3), venue="binanceusdm", kind="funding"
    )  # beside spot candles, from elsewhere
    venues = {series.kind: series.venue for series in store.list_series(tmp_path)}
    assert venues == {"1m": "binance", "funding": "binanceusdm"}


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_users_file_is_taken_over_where_the_exchange_agrees_with_it(tmp_path, suffix):
    path = tmp_path / f"BTCUSDT_1m{suffix}"
    frame = SERIES[:30].rename(columns={"timestamp": "open_time"})
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    before = path.read_bytes()
    other = SERIES[25:40].assign(volume=1.0)
    for rows, n in ((other, 5), (SERIES[30:40], 0)):
        message = refusal(update, tmp_path, rows)
        assert message.startswith(
            f"BTCUSDT_1m{suffix} names no exchange, and of {n} rows in the span of those of BTC/"
        )
    assert path.read_bytes() == before and names_in(tmp_path) == [path.name]
    result = update(tmp_path, SERIES[25:40])
    assert (result.added, result.checked) == (10, 5)
    assert_frame_equal(stored(tmp_path), SERIES[:40], check_exact=True)
    assert store.list_series(tmp_path) == [
        store.Series(tmp_path / "BTCUSDT_1m.parquet", BTC, "1m", "binance")
    ]
    assert suffix == ".parquet" or path.read_bytes() == before


def test_candles_written_whole_replace_main_file_and_tail(tmp_path, short_blocks):
    update(tmp_path, SERIES[:50])
    update(tmp_path, SERIES[49:54])
    other = make_series(30, seed=1)
    write_candles(other, tmp_path, BTC, "1m")
    assert names_in(tmp_path) == ["BTCUSDT_1m.parquet"]
    assert_frame_equal(stored(tmp_path), other, check_exact=True)


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_tail_whose_main_file_someone_else_took_away_is_not_read_but_warned_of(
    tmp_path, short_blocks, caplog, how
):
    update(tmp_path, SERIES[:50])
    update(tmp_path, SERIES[49:54])
    path = tmp_path / "BTCUSDT_1m.parquet"
    path.unlink()
    if how == "replaced":
        SERIES[:40].to_parquet(path)
        assert_frame_equal(stored(tmp_path), SERIES[:40], check_exact=True)
    update(tmp_path, SERIES[39:45])
    first = 0 if how == "replaced" else 39
    assert_frame_equal(stored(tmp_path), SERIES[first:45].reset_index(drop=True), check_exact=True)
    fate = "is of another BTCUSDT_1m.parquet than this one and is not read"
    if how == "removed":
        fate = "is removed: its main file is gone"
    assert set(warnings_in(caplog)) == {f"{store.tail_path(path)} {fate}"}
    assert names_in(tmp_path) == ["BTCUSDT_1m.parquet"]


# --- published series
# ------------------------------------------------------------------------------------------


def test_funding_and_open_interest_grow_and_are_joined(tmp_path, short_blocks):
    update(tmp_path, SERIES[:60])
    for kind, column in PUBLISHED.items():
        values = make_published(40, column)
        update(tmp_path, values[:30], kind=kind)
        result = update(tmp_path, values[28:35], kind=kind)
        assert (result.added, result.checked, result.gap_before) == (5, 2, 0)
        assert update(tmp_path, values[37:], kind=kind).gap_before == 2
        assert_frame_equal(
            stored(tmp_path, kind),
            values.drop(index=[35, 36]).reset_index(drop=True),
            check_exact=True,
        )
    assert len([name for name in names_in(tmp_path) if ".tail." in name]) == 2
    assert read_directory(tmp_path, BTC, "1m").columns.tolist()[-2:] == [
        "funding_rate",
        "open_interest",
    ]
    assert "nan in row 2 is not finite" in refusal(
        update,
        tmp_path,
        values[30:].assign(open_interest=[1, 2, np.nan, *range(7)]),
        kind="open_interest",
    )


def test_missing_settlements_are_counted_by_the_interval_they_have_there():
    hours = np.concatenate([np.arange(0, 240, 8), np.arange(240, 480, 4)])
    hours = hours[(hours != 80) & (hours != 300) & (hours != 304)]
    jitter = np.arange(len(hours)) % 3 * 7  # ms, as Binance's settlements have it
    missing = count_missing(hours * HOUR + jitter, "funding")
    assert dict(zip(hours[missing > 0].tolist(), missing[missing > 0].tolist())) == {88: 1, 308: 2}
    for n in (0, 1, 2):
        assert count_missing(8 * HOUR * np.arange(n), "funding").tolist() == [0] * n


# --- damage and audit
# ------------------------------------------------------------------------------------------


def test_a_damaged_file_is_named_with_its_remedy_and_the_other_series_stay_usable(
    tmp_path, short_blocks
):
    for symbol in (BTC, "ETH/USDT", "SOL/USDT"):
        update(tmp_path, SERIES[:50], symbol=symbol)
        update(tmp_path, SERIES[49:54], symbol=symbol)
    main, tail = tmp_path / "BTCUSDT_1m.parquet", tmp_path / "ETHUSDT_1m.tail.parquet"
    for path in (main, tail):
        content = bytearray(path.read_bytes())
        content[60] ^= 1  # among the values: the checksums tell
        path.write_bytes(content)
        symbol = path.name[:3] + "/USDT"
        for refused in (
            refusal(read_series, tmp_path, symbol, "1m"),
            refusal(
                update, tmp_path, SERIES[53:60] if path == tail else SERIES[0:60], symbol=symbol
            ),
        ):
            assert refused.startswith(f"{path}: not a readable parquet file (")
            assert refused.endswith("); move it aside, then fetch or copy it again")
    report = audit(tmp_path).set_index("symbol")
    assert report["rows"].to_dict() == {BTC: 0, "ETH/USDT": 0, "SOL/USDT": 54}
    assert update(tmp_path, SERIES[53:60], symbol="SOL/USDT").added == 6
    tail.unlink()
    assert update(tmp_path, SERIES[49:60], symbol="ETH/USDT").added == 10


def test_the_audit_has_a_line_a_series(tmp_path):
    update(tmp_path, SERIES[:100].drop(index=[10, 50, 51, 52]))
    update(tmp_path, make_published(20).drop(index=[5]), kind="funding", venue="binanceusdm")
    SERIES[::-1].to_csv(tmp_path / "ETHUSDT_1m.csv", index=False)
    (tmp_path / "notes.csv").write_text("x")
    (tmp_path / "DOGEUSDT_1h.parquet").write_bytes(b"PAR1")
    report = audit(tmp_path)
    assert report[["symbol", "kind", "venue"]].to_numpy().tolist() == [
        [BTC, "1m", "binance"],
        [BTC, "funding", "binanceusdm"],
        ["DOGEUSDT", "1h", ""],
        ["ETHUSDT", "1m", ""],
    ]
    numbers = ["rows", "n_gaps", "missing", "longest_gap"]
    assert report[numbers].to_numpy().tolist() == [
        [96, 2, 4, 3],
        [19, 1, 1, 1],
        [0, 0, 0, 0],
        [len(SERIES), 0, 0, 0],
    ]
    assert report["first"].iloc[0] == pd.Timestamp("2024-01-01", tz="UTC")
    assert (
        report["last"].iloc[0] == pd.Timestamp("2024-01-01 01:39", tz="UTC")
        and report["last"].isna()[2]
    )
    assert report["problems"][:2].tolist() == ["", ""]
    assert "DOGEUSDT_1h.parquet: not a readable parquet file" in report["problems"][2]
    assert report["problems"][3] == ""
    assert report["read_as"][3] == "ETHUSDT_1m.csv: read as candles, newest first"
    (tmp_path / "empty").mkdir()
    assert len(audit(tmp_path / "empty")) == 0
    assert "there is no such directory" in refusal(audit, tmp_path / "absent")


def test_the_names_at_hand_are_those_of_series_not_of_tails(tmp_path, short_blocks):
    update(tmp_path, SERIES[:50])
    update(tmp_path, SERIES[49:54])
    assert refusal(read_directory, tmp_path, "ETH/USDT", "1m").endswith("; it holds BTCUSDT_1m")


# --- cost
# ------------------------------------------------------------------------------------------


def bytes_moved() -> tuple[int, int]:
    """Bytes this process has read and written so far, by whatever library."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]), int(counts["wchar"])


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the system does not count bytes")
def test_an_update_of_one_candle_moves_no_more_bytes_for_a_year_than_for_a_month(tmp_path):
    year = make_series(525_600 + 2)
    moved = {}
    for n in (43_200, 525_600):
        directory = tmp_path / str(n)
        update(directory, year[:n])
        update(directory, year[n - 1 : n + 1])
        before = bytes_moved()
        assert update(directory, year[n : n + 2]).added == 1
        moved[n] = np.subtract(bytes_moved(), before)
    assert (moved[525_600] <= 2 * moved[43_200]).all(), moved
    size = (tmp_path / "525600" / "BTCUSDT_1m.parquet").stat().st_size
    assert moved[525_600].sum() < size / 20


def test_trades_stay_where_new_rows_lack_them_and_a_series_without_them_takes_none(tmp_path):
    candles = make_series(48)
    told = candles.assign(trades=np.arange(len(candles), dtype=float))
    store.update_series(tmp_path, "BTC/USDT", "1m", told[:30], venue="binance")
    update = store.update_series(tmp_path, "BTC/USDT", "1m", candles[20:40], venue="binance")
    assert len(update.rewritten) == 0 and update.added == 10
    stored = store.read_series(tmp_path, "BTC/USDT", "1m")
    np.testing.assert_array_equal(stored["trades"], [*range(30), *[np.nan] * 10])

    store.update_series(tmp_path, "ETH/USDT", "1m", candles[:30], venue="binance")
    store.update_series(tmp_path, "ETH/USDT", "1m", told[20:40], venue="binance")
    stored = store.read_series(tmp_path, "ETH/USDT", "1m")
    assert_frame_equal(stored, candles[:40], check_exact=True)
