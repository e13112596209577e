"""`python data_fetcher.py fetch | update | audit | list`, and candles through the cache; at the
loopback exchange."""

import logging
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from pyarrow import parquet

import data_fetcher
from config import SourceConfig
from data_fetcher import Audit, CryptodataFetcher, Fetch, List, Update, fetch_candles
from pipeline.candles import exchange_client, formats, store, yahoo
from pipeline.candles.job import ExchangeError
from pipeline.candles.schema import timestamps_ms
from tests import fetching
from tests.exchange_faults import Fault, FaultList
from tests.exchange_market import DAY_MS, Market, synthetic_exchange
from tests.exchange_server import ExchangeServer
from tests.fetching import BTC, ETH, HOUR_MS

foreign_hosts, nothing_leaves = fetching.FIXTURES[1], fetching.FIXTURES[3]
SOL = "SOL/USDT"


@pytest.fixture(scope="module")
def market() -> Market:
    """Candles to one day from now, of the present."""
    market = synthetic_exchange((BTC, ETH), ("15m", "1h"), 900, end="2025-01-01")
    return market.shifted(
        (int(time.time() * 1000) // DAY_MS + 1) * DAY_MS - market.ends_ms // DAY_MS * DAY_MS
    )


@pytest.fixture
def server(market, nothing_leaves, monkeypatch):
    def out_of_reach(*_, **__):
        raise ExchangeError("yahoo: candles failed; check the network")

    monkeypatch.setattr(yahoo, "fetch_yahoo_candles", out_of_reach)
    with ExchangeServer(market, limits={}) as server:
        yield server


def truth(market: Market, symbol: str, timeframe: str, n: int) -> pd.DataFrame:
    return (
        market.candles(symbol, timeframe, now_ms=int(time.time() * 1000))
        .tail(n)
        .reset_index(drop=True)
    )


def notices(caplog) -> str:
    return "\n".join(caplog.messages)


def test_fetch_stores_every_series_and_prints_a_line_each(server, market, tmp_path, capsys):
    Fetch(
        (BTC, ETH),
        ("15m", "1h"),
        candles=300,
        funding=True,
        base_url=server.url,
        cache_dir=tmp_path,
    ).run()
    for symbol in (BTC, ETH):
        for timeframe in ("15m", "1h"):
            found = store.read_series(tmp_path / "binance", symbol, timeframe)
            assert_frame_equal(found, truth(market, symbol, timeframe, 300))
    funding = store.read_series(tmp_path / "binance", BTC, "funding")
    assert_frame_equal(funding, market.published(BTC, "funding", now_ms=int(time.time() * 1000)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 6 and lines[0].split() == [
        "folder",
        "symbol",
        "series",
        "rows",
        "first",
        "last",
        "new",
    ]
    assert (
        " BTC/USDT" in lines[1]
        and lines[1].split()[2:4] == ["15m", "300"]
        and lines[1].endswith(" 300")
    )


def test_a_timeframe_that_no_exchange_has_costs_neither_the_others_nor_a_second_copy(
    server, tmp_path, capsys, caplog
):
    place = {"exchange": "okx", "base_url": server.url, "cache_dir": tmp_path}
    command = Fetch((BTC,), ("1h", "8h"), candles=30, **place)  # OKX has no 8h
    with pytest.raises(SystemExit) as caught:
        command.run()
    assert caught.value.code == 1
    assert "no source has 8h with the others" in notices(caplog)
    _, line = capsys.readouterr().out.splitlines()
    assert line.split()[1:4] == [BTC, "1h", "30"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["okx"]


def test_fetching_again_asks_only_for_what_is_new(server, tmp_path, capsys):
    command = Fetch((BTC,), ("1h",), candles=300, base_url=server.url, cache_dir=tmp_path)
    command.run()
    server.reset()
    command.run()
    asked = [
        int(request.query["startTime"]) for request in server.log if request.path.endswith("klines")
    ]
    assert len(asked) == 1 and asked[0] > time.time() * 1000 - 24 * HOUR_MS
    assert capsys.readouterr().out.splitlines()[-1].split()[-1] == "0"


def test_since_and_until_bound_what_is_fetched(server, market, tmp_path):
    present = pd.Timestamp.now("UTC").floor("h")
    since, until = (present - pd.Timedelta(hours=hours) for hours in (48, 24))
    Fetch(
        (BTC,), since=since.isoformat(), until=str(until), base_url=server.url, cache_dir=tmp_path
    ).run()
    times = store.read_series(tmp_path / "binance", BTC, "1h")["timestamp"]
    assert (times.iloc[0], times.iloc[-1], len(times)) == (since, until - pd.Timedelta(hours=1), 24)


def test_a_symbol_that_is_missing_ends_the_command_with_status_1_after_the_others(
    server, tmp_path, caplog
):
    with pytest.raises(SystemExit) as caught:
        Fetch((SOL, BTC), candles=50, base_url=server.url, cache_dir=tmp_path).run()
    assert caught.value.code == 1
    assert "1 of 2 symbols are missing, no source has them: SOL/USDT" in notices(caplog)
    assert len(store.read_series(tmp_path / "binance", BTC, "1h")) == 50


def test_options_that_contradict_each_other_are_refused(tmp_path):
    for options in ({"candles": 0}, {"candles": 5, "since": "2024-01-01"}):
        with pytest.raises(
            ValueError, match="--candles is .; pass a positive number, or --since instead of it"
        ):
            Fetch((BTC,), cache_dir=tmp_path, **options).run()
    with pytest.raises(ValueError, match="--since: 1 unreadable time"):
        Fetch((BTC,), since="05/12/2024", cache_dir=tmp_path).run()
    with pytest.raises(ValueError, match="unknown timeframe '1x'"):
        Fetch((BTC,), timeframes=("1x",), cache_dir=tmp_path).run()


@pytest.mark.slow
def test_update_completes_every_stored_series_from_its_own_exchange(
    server, market, tmp_path, capsys, caplog
):
    hours_ago = pd.Timestamp.now("UTC") - pd.Timedelta(hours=30)
    for exchange in ("binance", "okx"):
        Fetch(
            (BTC,),
            ("1h",),
            since=str(hours_ago - pd.Timedelta(days=5)),
            until=str(hours_ago),
            funding=True,
            exchange=exchange,
            base_url=server.url,
            cache_dir=tmp_path,
        ).run()
    store.write_candles(truth(market, ETH, "1h", 10), tmp_path / "mine", ETH, "1h")
    capsys.readouterr()
    caplog.set_level(logging.INFO)
    Update(base_url=server.url, cache_dir=tmp_path).run()
    for exchange in ("binance", "okx"):
        assert_frame_equal(
            store.read_series(tmp_path / exchange, BTC, "1h").tail(100).reset_index(drop=True),
            truth(market, BTC, "1h", 100),
        )
    assert (
        f"{tmp_path / 'mine' / 'ETHUSDT_1h.parquet'} names no exchange, so it is not updated"
        in notices(caplog)
    )
    assert len(capsys.readouterr().out.splitlines()) == 1 + 4


def test_update_of_one_folder_and_some_symbols(server, tmp_path):
    Fetch((BTC, ETH), candles=20, base_url=server.url, cache_dir=tmp_path).run()
    server.reset()
    Update((ETH,), base_url=server.url, cache_dir=tmp_path / "binance").run()
    assert {r.query["symbol"] for r in server.log if r.path.endswith("klines")} == {"ETHUSDT"}


def test_an_update_that_fails_for_one_series_says_so_and_ends_with_status_1(
    server, tmp_path, capsys, monkeypatch
):
    Fetch((BTC, ETH), candles=20, base_url=server.url, cache_dir=tmp_path).run()
    monkeypatch.setattr(exchange_client, "RETRY_WAITS_S", ())
    server.reset(FaultList(Fault("503", on="symbol=ETHUSDT")))
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        Update(base_url=server.url, cache_dir=tmp_path).run()
    assert caught.value.code == 1
    told = capsys.readouterr()
    assert (
        "! ETH/USDT 1h: binance: candles of ETH/USDT failed" in told.err and "BTC/USDT" in told.out
    )


@pytest.mark.parametrize("kept", [0, 4, 1000, -5])
def test_a_truncated_file_is_named_with_status_1_and_the_others_are_updated(
    server, tmp_path, capsys, kept
):
    Fetch((BTC, ETH), candles=50, base_url=server.url, cache_dir=tmp_path).run()
    damaged = tmp_path / "binance" / "BTCUSDT_1h.parquet"
    damaged.write_bytes(damaged.read_bytes()[:kept])
    for command in (Update(base_url=server.url, cache_dir=tmp_path), List(tmp_path)):
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            command.run()
        told = capsys.readouterr()
        assert caught.value.code == 1
        assert f"! {damaged}: not a readable parquet file" in told.err
        assert "ETH/USDT" in told.out
    Update((ETH,), base_url=server.url, cache_dir=tmp_path).run()  # asked for another one alone


def test_a_stored_file_without_statistics_is_read_and_updated(server, tmp_path):
    fetch = Fetch((BTC,), candles=300, base_url=server.url, cache_dir=tmp_path)
    replace(fetch, until=str(pd.Timestamp.now("UTC").floor("h") - pd.Timedelta(hours=9))).run()
    path = tmp_path / "binance" / "BTCUSDT_1h.parquet"
    parquet.write_table(parquet.read_table(path), path, write_statistics=False, row_group_size=100)
    Update(base_url=server.url, cache_dir=tmp_path).run()
    assert len(store.read_series(tmp_path / "binance", BTC, "1h")) in (309, 310)


def test_audit_and_list_say_what_is_there(server, tmp_path, capsys):
    Fetch((BTC,), candles=20, base_url=server.url, cache_dir=tmp_path).run()
    holed = store.read_series(tmp_path / "binance", BTC, "1h").drop(index=[4, 5])
    store.write_candles(holed, tmp_path / "mine", ETH, "1h")
    capsys.readouterr()
    Audit(tmp_path).run()
    audit = capsys.readouterr().out
    assert audit.split(str(tmp_path / "mine"))[1].split()[-4:] == ["1", "2", "2", "0"]
    List(tmp_path).run()
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2
    (tmp_path / "mine" / "ETHUSDT_1h.parquet").write_bytes(b"PAR1")
    with pytest.raises(SystemExit):
        Audit(tmp_path).run()
    assert "not a readable parquet file" in capsys.readouterr().err


def test_a_damaged_file_in_one_folder_keeps_no_other_from_being_audited(tmp_path, market, capsys):
    for folder in ("a", "b"):
        store.write_candles(truth(market, BTC, "1h", 10), tmp_path / folder, BTC, "1h")
    (tmp_path / "a" / "BTCUSDT_1h.parquet").write_bytes(b"PAR1")
    with pytest.raises(SystemExit):
        Audit(tmp_path).run()
    assert str(tmp_path / "b") in capsys.readouterr().out


def test_an_empty_cache_says_what_to_do(tmp_path):
    for command in (Audit, List, Update):
        with pytest.raises(
            ValueError, match="no candle files here or in a folder below; fetch some"
        ):
            command(cache_dir=tmp_path / "absent").run()


@pytest.mark.slow
def test_the_command_line_runs_and_errors_are_one_line(tmp_path, server):
    def run(*options: str) -> subprocess.CompletedProcess:
        root = Path(data_fetcher.__file__).parent
        return subprocess.run(
            [sys.executable, str(root / "data_fetcher.py"), *options],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    done = run("fetch", "--symbols", BTC, "--candles", "20", "--base-url", server.url)
    assert done.returncode == 0 and "candles/binance BTC/USDT" in done.stdout and done.stderr == ""
    refused = run("list", "--cache-dir", "absent")
    assert refused.returncode == 2 and refused.stderr.startswith("error: absent: no candle files")
    assert "--open-interest" in run("fetch", "--help").stdout


# --- fetch_candles and the document's fetcher through all this
# ------------------------------------------------


def test_candles_come_with_the_funding_and_open_interest_of_futures_joined(
    server, market, tmp_path
):
    published = ("funding", "open_interest")
    plain_source = SourceConfig(source="exchange", base_url=server.url, cache_dir=None)
    kept = replace(plain_source, cache_dir=tmp_path)
    plain = fetch_candles([BTC, ETH], "1h", 150, plain_source, published=published)
    cached = fetch_candles([BTC, ETH], "1h", 150, kept, published=published)
    assert_frame_equal(plain.candles[BTC], cached.candles[BTC])
    assert_frame_equal(plain.candles[BTC], formats.read_directory(tmp_path / "binance", BTC, "1h"))
    assert (
        plain.candles[BTC]["funding_rate"].notna().all()
        and plain.candles[ETH]["open_interest"].notna().all()
    )
    facts = plain.provenance()["symbols"][BTC]
    assert (facts["venue"], facts["funding_rate_venue"]) == ("binance", "binanceusdm")


def test_candles_without_funding_are_candles_still(server, market, caplog):
    caplog.set_level(logging.INFO)
    server.markets = {"binance": market}
    found = fetch_candles(
        [BTC],
        "1h",
        50,
        source=SourceConfig(source="exchange", base_url=server.url, cache_dir=None),
        published=("funding",),
    )
    assert list(found.candles[BTC].columns) == [
        "timestamp",
        "open",
        "high",
        "low",
        "close",
        "volume",
    ]
    assert "no futures exchange has funding of 1 symbol: BTC/USDT" in notices(caplog)


def test_the_cache_of_another_exchange_is_not_mixed_in(server, market, tmp_path):
    fetch_candles(
        [BTC],
        "1h",
        50,
        source=SourceConfig(exchange="okx", cache_dir=tmp_path, base_url=server.url),
    )
    server.blocked = {"okx"}
    found = fetch_candles(
        [BTC],
        "1h",
        50,
        source=SourceConfig(source="exchange", cache_dir=tmp_path, base_url=server.url),
    )
    assert found.venue == "binance" and sorted(p.name for p in tmp_path.iterdir()) == [
        "binance",
        "okx",
    ]


def test_the_fetcher_of_v1_takes_since_until_and_limit(server, market):
    fetcher = CryptodataFetcher("binance", base_url=server.url)
    day = pd.Timestamp.now("UTC").floor("D") - pd.Timedelta(days=3)
    frame = fetcher.fetch_ohlcv(BTC, "1h", since=day, until=day + pd.Timedelta(days=1))
    assert timestamps_ms(frame).tolist() == [
        int(day.timestamp()) * 1000 + HOUR_MS * hour for hour in range(24)
    ]
    assert_frame_equal(fetcher.fetch_ohlcv(BTC, "1h", limit=5, since=str(day)), frame.head(5))
    assert_frame_equal(
        fetcher.fetch_ohlcv(BTC, "1h", since=int(day.timestamp() * 1000)).head(24), frame
    )
    assert len(fetcher.fetch_ohlcv(BTC, "15m")) == len(truth(market, BTC, "15m", 1000))


def test_a_series_of_another_symbol_list_is_fetched_beside_it(server, tmp_path):
    first = Fetch((BTC,), candles=20, base_url=server.url, cache_dir=tmp_path)
    first.run()
    replace(first, symbols=(ETH,), candles=30).run()
    assert {series.symbol for series in store.list_series(tmp_path / "binance")} == {BTC, ETH}
