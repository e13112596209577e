"""Folders of candles whose files are called in any way, timeframes of any spelling, and the import
into the store."""

import logging
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

import data_fetcher
from config import SourceConfig
from data_fetcher import load_candles
from pipeline.candles import folders, formats, store
from pipeline.candles.audit import audit, audit_file
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.formats import read_directory, resample
from pipeline.candles.schema import (
    canonical_timeframe,
    off_grid,
    timeframe_ms,
    timestamps_ms,
    utc_from_ms,
)
from pipeline.candles.synthetic import synthetic_candles
from tests.test_formats import HOURS, MS, OHLCV, QUOTE, assert_hours, binance, lines

BTC = "BTC/USDT"
DAY = 86_400_000


@pytest.mark.parametrize(
    ("name", "symbol", "kind", "part"),
    [
        ("BTCUSDT_1h.parquet", BTC, "1h", ""),
        ("BTC_USDT-1h.feather", BTC, "1h", ""),
        ("BTC_USDT_USDT-1h-futures.feather", "BTC/USDT:USDT", "1h", ""),
        ("BTCUSDT-1h-2024-12.zip", BTC, "1h", "2024-12"),
        ("BTCUSDT-1h-2024-12-15.csv.gz", BTC, "1h", "2024-12-15"),
        ("Binance_BTCUSDT_1h.csv", BTC, "1h", ""),
        ("Binance_BTCUSDT_2023_minute.csv", BTC, "1m", "2023"),
        ("Bitstamp_BTCUSD_d.csv", "BTC/USD", "1d", ""),
        ("XBTUSD_60.csv", "BTC/USD", "1h", ""),
        ("ETHXBT_1440.csv", "ETH/BTC", "1d", ""),
        ("BINANCE_BTCUSDT, 60.csv", BTC, "1h", ""),
        ("btcusdt_1H.CSV", BTC, "1h", ""),
        ("BTCUSDT_1M.csv", BTC, "1M", ""),
        ("BTCUSDT_funding.csv", BTC, "funding", ""),
        ("BTCUSDT-fundingRate-2024-01.zip", BTC, "funding", "2024-01"),
        ("BTCUSDT_open_interest.csv", BTC, "open_interest", ""),
        ("SOLEUR-15m.json", "SOL/EUR", "15m", ""),
        ("notes.txt", None, "", ""),
        ("BTCUSDT.csv", BTC, "", ""),
    ],
)
def test_a_file_s_name_tells_pair_timeframe_and_part(name, symbol, kind, part):
    assert folders.name_of(Path(name)) == folders.Name(symbol, kind, part)


@pytest.mark.parametrize(
    "name", ["BTC_USDT-1h.csv", "Binance_BTCUSDT_1h.csv", "BTCUSDT_60.txt", "btcusdt-1H.CSV"]
)
def test_a_series_is_found_under_every_name(tmp_path, name):
    (tmp_path / name).write_text(lines(HOURS))
    assert_frame_equal(read_directory(tmp_path, BTC, "1h"), HOURS, check_exact=True)
    assert folders.symbols_in(tmp_path, [BTC, "ETH/USDT"], "1h") == [BTC]


def test_months_and_days_are_joined_across_the_change_of_the_unit(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    is_old = HOURS["timestamp"] < "2025-01-01"
    with zipfile.ZipFile(tmp_path / "BTCUSDT-1h-2024-12.zip", "w") as archive:
        archive.writestr("BTCUSDT-1h-2024-12.csv", lines(binance()[is_old], header=False))
    (tmp_path / "BTCUSDT-1h-2025-01-01.csv").write_text(lines(binance(1000)[~is_old]))
    (tmp_path / "BTCUSDT-1h-2025-01.csv").write_text(lines(binance(1000)[~is_old]))
    candles = read_directory(tmp_path, BTC, "1h")
    assert_hours(candles)
    assert set(candles["trades"]) == {100.0}
    assert f"{(~is_old).sum()} equal duplicate(s) merged" in caplog.text
    market = fetch_candles([BTC], "60m", 0, SourceConfig(candles_dir=tmp_path, cache_dir=None))
    assert_hours(market.candles[BTC])
    assert market.timeframe == "1h"


def test_contrary_parts_and_two_files_of_one_series_are_questions(tmp_path):
    (tmp_path / "BTCUSDT-1h-2024-12.csv").write_text(lines(HOURS))
    (tmp_path / "BTCUSDT-1h-2025-01.csv").write_text(lines(HOURS.assign(volume=1.0)))
    with pytest.raises(ValueError, match="80 time.s. are there twice with different values"):
        read_directory(tmp_path, BTC, "1h")
    for name in ("Binance_BTCUSDT_1h.csv", "Kraken_BTCUSDT_1h.csv"):
        (tmp_path / name).write_text(lines(HOURS))
    with pytest.raises(ValueError, match=r"may all be the 1h series of BTC/USDT; which one is"):
        read_directory(tmp_path, BTC, "1h")


def test_a_shorter_timeframe_is_resampled_with_a_notice(tmp_path, caplog):
    (tmp_path / "BTCUSDT_1h.csv").write_text(lines(HOURS))
    candles = read_directory(tmp_path, BTC, "4h")
    assert "no 4h candles in" in caplog.text and "are made of those of 1h" in caplog.text
    first = 4 - MS[0] // 3_600_000 % 4 if MS[0] % 14_400_000 else 0
    block = HOURS.iloc[first : first + 4]
    assert candles.loc[0, "timestamp"] == block["timestamp"].iloc[0]
    assert candles.loc[0, OHLCV].tolist() == [
        block["open"].iloc[0],
        block["high"].max(),
        block["low"].min(),
        block["close"].iloc[-1],
        pytest.approx(block["volume"].sum()),  # pandas and numpy add up in different orders
    ]


def test_candles_of_which_a_part_is_there_are_left_out_at_the_ends_and_counted_inside():
    times = 3_600_000 * np.array([*range(1, 7), *range(8, 14)])
    hours = HOURS[: len(times)].assign(timestamp=utc_from_ms(times))
    candles, n_partial = resample(hours, "1h", "4h")  # 1-3, 4-7 without 7, 8-11, 12-13
    assert (timestamps_ms(candles) // 3_600_000).tolist() == [4, 8] and n_partial == 1


def test_funding_in_files_of_the_archive_is_joined(tmp_path):
    (tmp_path / "BTCUSDT_1h.csv").write_text(lines(HOURS))
    times = MS[::8]
    funding = pd.DataFrame(
        {"calc_time": times + 2, "funding_interval_hours": 8, "last_funding_rate": 1e-4}
    )
    (tmp_path / "BTCUSDT-fundingRate-2024-12.csv").write_text(lines(funding))
    assert (read_directory(tmp_path, BTC, "1h")["funding_rate"][1:] == 1e-4).all()


@pytest.mark.parametrize(
    ("spelt", "timeframe"),
    [
        *(("1H", "1h"), ("60m", "1h"), ("60", "1h"), ("1hour", "1h"), ("h", "1h")),
        *(("1D", "1d"), ("D", "1d"), ("1440", "1d"), ("24h", "1d"), ("1day", "1d")),
        *(("1min", "1m"), ("1 minute", "1m"), ("15", "15m"), ("W", "1w"), ("7d", "1w")),
        *(("1mo", "1M"), ("1M", "1M"), ("3D", "3d"), ("240", "4h")),
    ],
)
def test_timeframes_are_told_however_they_are_spelt(spelt, timeframe):
    assert canonical_timeframe(spelt) == timeframe
    if timeframe != "1M":
        assert timeframe_ms(spelt) == timeframe_ms(timeframe)


def test_a_month_has_no_length_but_is_read(tmp_path):
    with pytest.raises(ValueError, match="1M candles are not all of one length: they can be read"):
        timeframe_ms("1M")
    months = pd.date_range("2022-01-01", periods=24, freq="MS", tz="UTC")
    frame = synthetic_candles(24, timeframe="1d", seed=3)[["timestamp", *OHLCV]]
    frame["timestamp"] = months.astype("datetime64[ms, UTC]")
    (tmp_path / "BTCUSDT_1M.csv").write_text(lines(frame))
    assert_frame_equal(load_candles(tmp_path / "BTCUSDT_1M.csv", "1mo"), frame)
    assert len(audit(tmp_path)) == 1 and audit(tmp_path)["rows"].item() == 24
    with pytest.raises(ValueError, match="off the 1M grid"):
        load_candles(frame.assign(timestamp=frame["timestamp"] + pd.Timedelta("1D")), "1M")


@pytest.mark.parametrize("start", ["2024-01-01", "2024-01-04"])  # Monday; Thursday, as Kraken has
@pytest.mark.parametrize("timeframe", ["3d", "1w"])
def test_candles_of_several_days_begin_on_any_day_but_all_on_one(start, timeframe):
    step = pd.Timedelta(milliseconds=timeframe_ms(timeframe))
    times = pd.Series(pd.date_range(start, periods=80, freq=step, tz="UTC"))
    frame = HOURS.assign(timestamp=times.astype("datetime64[ms, UTC]"))[:70]
    assert_frame_equal(load_candles(frame, timeframe), frame)
    shifted = timestamps_ms(frame) + DAY * (np.arange(70) == 5)
    assert off_grid(shifted, timeframe).tolist() == [row == 5 for row in range(70)]


# --- the import and the audit


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["data_fetcher.py", *map(str, arguments)])
    data_fetcher.main()


def test_a_file_is_imported_into_the_store(tmp_path, monkeypatch, capsys):
    path = tmp_path / "download.csv"
    path.write_text(lines(binance(), header=False))
    cache = tmp_path / "cache"
    run(monkeypatch, "import", path, "--symbol", "btcusdt", "--cache-dir", cache)
    stored = store.read_series(cache / "imported", BTC, "1h")
    assert_hours(stored)
    assert stored["quote_volume"].equals(QUOTE)
    assert "80" in capsys.readouterr().out
    run(monkeypatch, "import", path, "--symbol", BTC, "--cache-dir", cache)
    assert len(store.read_series(cache / "imported", BTC, "1h")) == 80
    with pytest.raises(ValueError, match="of which pair is it"):
        run(monkeypatch, "import", path, "--cache-dir", cache)


def test_a_folder_is_imported_and_what_was_not_understood_is_named(tmp_path, monkeypatch, capsys):
    source, cache = tmp_path / "downloads", tmp_path / "cache"
    source.mkdir()
    (source / "BTC_USDT-1h.csv").write_text(lines(HOURS))
    (source / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit):
        run(monkeypatch, "import", source, "--cache-dir", cache, "--exchange", "binance")
    assert "notes.csv: its name tells no pair and timeframe" in capsys.readouterr().err
    assert store.read_notes(cache / "binance" / "BTCUSDT_1h.parquet")["venue"] == "binance"


def test_the_audit_tells_of_any_file_how_it_was_read(tmp_path, monkeypatch, capsys):
    path = tmp_path / "download.csv"
    path.write_text(lines(binance(1000), header=False))
    report = audit_file(path)
    assert report["read_as"].item() == (
        "download.csv: read as Binance klines, without header, 12 columns, µs"
    )
    assert report[["kind", "rows", "problems"]].to_numpy().tolist() == [["1h", 80, ""]]
    run(monkeypatch, "audit", path)
    assert "read as Binance klines, without header" in "".join(capsys.readouterr())
    assert formats.pair_of_file(path) is None
