"""Where candles come from: directory, exchanges in turn, generator; and what is told about it.
Without a network."""

import json
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import time_machine
from pandas.testing import assert_frame_equal

from config import TRADING_PAIRS, SourceConfig
from data_fetcher import CandleSet, CryptodataFetcher, expand_symbols, fetch_candles
from pipeline.candles import exchange, yahoo
from pipeline.candles.exchange import EXCHANGE_CHAIN
from pipeline.candles.fetching import SYNTHETIC_BANNER
from pipeline.candles.job import ExchangeError
from pipeline.candles.schema import read_candles, timestamps_ms, utc_from_ms
from pipeline.candles.store import content_sha256, update_series, write_candles

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
BTC, ETH = "BTC/USDT", "ETH/USDT"
OTHER = "choose another source or symbol"


def make_candles(n: int = 48, price: float = 100.0, first_hour: int = 0) -> pd.DataFrame:
    close = price + np.arange(n, dtype=float)
    times = utc_from_ms(START + HOUR * (first_hour + np.arange(n)))
    return pd.DataFrame(
        {
            "timestamp": times,
            "open": close,
            "high": close + 1,
            "low": close - 1,
            "close": close,
            "volume": 1.0,
        }
    )


class Venues:
    """Stands in for the network: exchange -> symbol -> candles, or an error to raise."""

    def __init__(self):
        self.answers: dict[str, object] = {}
        self.asked: list[tuple[str, ...]] = []

    def fetch_many(self, name, jobs, follow=None, **_):
        self.asked.append((name, *(job.symbol for job in jobs)))
        answer = self.answers.get(
            name, ExchangeError(f"{name}: the list of markets failed; check the network")
        )
        answers = {
            job: answer if isinstance(answer, Exception) else self._answer(name, answer, job)
            for job in jobs
        }
        for job in jobs:
            piece = None if follow is None or isinstance(answers[job], Exception) else job
            while piece is not None:
                piece = follow(piece, self._answer(name, answer, piece))
        return answers

    def refuse(self, symbol, *_, **__):
        raise ExchangeError("yahoo: candles failed; check the network")

    def _answer(self, name, candles, job):
        if job.symbol not in candles:
            return ValueError(f"{name} has no market {job.symbol!r}; did you mean {BTC}?")
        answer = candles[job.symbol]
        if isinstance(answer, Exception):
            return answer
        if job.until_ms is not None:
            answer = answer[timestamps_ms(answer) + HOUR <= job.until_ms]
        return answer.tail(job.n_candles or len(answer)).reset_index(drop=True)


@pytest.fixture(autouse=True)
def venues(monkeypatch) -> Venues:
    """No test of this file reaches the network: every exchange is out of reach unless a test gives
    it an answer."""
    venues = Venues()
    monkeypatch.setattr(exchange, "fetch_many", venues.fetch_many)
    monkeypatch.setattr(yahoo, "fetch_yahoo_candles", venues.refuse)
    return venues


@pytest.fixture
def directory(tmp_path):
    write_candles(make_candles(48), tmp_path, BTC, "1h")
    write_candles(make_candles(30, price=10.0, first_hour=18), tmp_path, ETH, "1h")
    return tmp_path


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def refusal(*args, kind: type[Exception] = ValueError, **kwargs) -> str:
    names = SourceConfig.__dataclass_fields__.keys() & kwargs.keys()
    source = replace(SourceConfig(cache_dir=None), **{name: kwargs.pop(name) for name in names})
    with pytest.raises(kind) as caught:
        fetch_candles(*args, **{"source": source, **kwargs})
    return str(caught.value)


# --- symbols
# ------------------------------------------------------------------------------------------------


def test_symbols_are_upper_case_in_order_and_once():
    assert expand_symbols(["eth/usdt", "BTC/USDT", "Eth/USDT", "sol/usdt:usdt"]) == (
        ETH,
        BTC,
        "SOL/USDT:USDT",
    )
    with pytest.raises(ValueError, match="BTC/USDT and another of .* share one file of candles"):
        expand_symbols(["BTC/USDT", "BTC/USDT:USDT"])


def test_all_is_the_house_list_of_22():
    assert expand_symbols(["all"]) == expand_symbols(("ALL",)) == TRADING_PAIRS
    assert (
        len(set(TRADING_PAIRS)) == 22
        and TRADING_PAIRS[0] == BTC
        and TRADING_PAIRS[-1] == "APE/USDT"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        "QQTUSD",  # QQT/USD or QQ/TUSD?
        "BTC",
        "/USDT",
        "BTC/",
        "BTC/USDT/X",
        "BTC /USDT",
        "BTC/USDT:",
        "",
        "ALL",
    ],
)
def test_a_symbol_that_is_no_pair_is_refused_by_name(wrong):
    with pytest.raises(ValueError) as caught:
        expand_symbols([BTC, wrong])
    assert (
        str(caught.value)
        == f"unknown symbol {wrong.upper()!r}; write pairs as BTC/USDT, or `all` for the house list"
    )


@pytest.mark.parametrize("spelt", ["BTCUSDT", "btc-usdt", "BTC_USDT", "xbt/usdt", " BTC/USDT"])
def test_a_pair_may_be_spelt_in_every_way_that_is_sure(spelt):
    assert expand_symbols([spelt]) == ("BTC/USDT",)


def test_no_symbols_and_a_bare_string_are_refused():
    with pytest.raises(
        ValueError, match="^no symbols; pass --symbols BTC/USDT, or `all` for the house list$"
    ):
        expand_symbols([])
    with pytest.raises(
        ValueError, match=r"^symbols is the string 'BTC/USDT'; pass a list, such as \['BTC/USDT'\]$"
    ):
        fetch_candles(BTC, "1h", 10)


# --- options
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"source": "binance"},
            "unknown source 'binance'; use one of auto, directory, exchange, synthetic",
        ),
        ({"source": "directory"}, "--source directory needs --candles-dir DIR"),
        (
            {"source": "exchange", "candles_dir": "data"},
            "--source exchange does not read --candles-dir data; leave one of the two out",
        ),
        (
            {"source": "synthetic", "candles_dir": "data"},
            "--source synthetic does not read --candles-dir data; leave one of the two out",
        ),
        (
            {"source": "synthetic", "exchange": "okx"},
            "--source synthetic does not ask --exchange okx; leave one of the two out",
        ),
        (
            {"source": "directory", "candles_dir": "data", "exchange": "okx"},
            "--source directory does not ask --exchange okx; leave one of the two out",
        ),
        (
            {"source": "synthetic", "require_real": True},
            "--require-real: --source synthetic is not real; pass --candles-dir or an exchange",
        ),
        ({"n_candles": -5}, "--candles is -5; pass a positive number, or 0 for all there are"),
        (
            {"n_candles": 0},
            "--candles 0 takes all of a directory; for an exchange or synthetic candles say how "
            "many",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_fetched(
    venues, caplog, options, message
):
    options = {"symbols": [BTC], "n_candles": 10, **options}
    assert refusal(timeframe="1h", **options) == message
    assert refusal(timeframe="1x", **options).startswith("unknown timeframe '1x'; use one of 1m, ")
    assert venues.asked == [] and caplog.records == []


# --- directory
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["auto", "directory"])
def test_a_directory_gives_its_newest_candles(directory, venues, source):
    market = fetch_candles(
        [ETH, BTC],
        "1h",
        24,
        source=SourceConfig(source=source, candles_dir=str(directory), cache_dir=None),
    )
    assert list(market.candles) == [ETH, BTC]
    assert (market.source, market.venue, market.timeframe) == ("directory", directory.name, "1h")
    assert not market.is_synthetic
    assert_frame_equal(market.candles[BTC], make_candles(48).tail(24).reset_index(drop=True))
    assert venues.asked == []


def test_zero_candles_are_all_there_are_and_fewer_than_asked_for_a_warning(directory, caplog):
    for n_candles in (0, 48):
        market = fetch_candles(
            [BTC, ETH], "1h", n_candles, source=SourceConfig(candles_dir=directory, cache_dir=None)
        )
        assert [len(frame) for frame in market.candles.values()] == [48, 30]
    assert warnings_in(caplog) == [f"ETH/USDT: 30 candles from {directory}, 48 asked for"]


def test_only_candles_that_have_closed_by_the_end_count(directory):
    end = START + 20 * HOUR
    for late_ms, last_hour in ((0, 19), (HOUR - 1, 19), (HOUR, 20), (-1, 18)):
        frame = fetch_candles(
            [BTC],
            "1h",
            5,
            source=SourceConfig(candles_dir=directory, cache_dir=None),
            end_ms=end + late_ms,
        ).candles[BTC]
        assert timestamps_ms(frame).tolist() == [
            START + hour * HOUR for hour in range(last_hour - 4, last_hour + 1)
        ]
        assert frame.index.equals(pd.RangeIndex(5))


def test_an_end_before_the_first_candle_is_refused(directory):
    message = refusal([BTC, ETH], "1h", 5, candles_dir=directory, end_ms=START + 18 * HOUR)
    assert message == f"ETH/USDT: no 1h candles by 2024-01-01 18:00 from {directory}; {OTHER}"


def test_a_symbol_that_the_directory_lacks_is_refused_with_what_it_has(directory):
    message = refusal([BTC, "SOL/USDT"], "1h", 5, candles_dir=directory)
    assert message == (
        f"SOL/USDT: no SOLUSDT_1h.parquet or SOLUSDT_1h.csv in {directory}; it holds BTCUSDT_1h, "
        "ETHUSDT_1h"
    )
    assert refusal([BTC], "1h", 5, candles_dir=directory / "x").startswith(
        f"{directory / 'x'}: there is no such dir"
    )


def test_a_damaged_directory_never_becomes_synthetic(directory, caplog):
    (directory / "ETHUSDT_1h.parquet").write_bytes(b"PAR1")
    assert "ETHUSDT_1h.parquet: not a readable parquet file" in refusal(
        [BTC, ETH], "1h", 5, candles_dir=directory
    )
    assert warnings_in(caplog) == []


# --- synthetic
# ----------------------------------------------------------------------------------------------


def test_synthetic_candles_come_under_a_banner(venues, caplog):
    market = fetch_candles(
        [BTC, ETH], "1h", 100, source=SourceConfig(source="synthetic", seed=7, cache_dir=None)
    )
    assert market.is_synthetic and (market.source, market.venue) == ("synthetic", "seed 7")
    assert [len(frame) for frame in market.candles.values()] == [100, 100]
    assert warnings_in(caplog) == [SYNTHETIC_BANNER] and "SYNTHETIC CANDLES" in SYNTHETIC_BANNER
    assert venues.asked == []
    assert market.provenance()["synthetic"] is True
    again = fetch_candles(
        [BTC, ETH], "1h", 100, source=SourceConfig(source="synthetic", seed=7, cache_dir=None)
    )
    other = fetch_candles(
        [BTC, ETH], "1h", 100, source=SourceConfig(source="synthetic", seed=8, cache_dir=None)
    )
    assert again.fingerprint() == market.fingerprint() != other.fingerprint()


def test_synthetic_candles_end_when_asked_to_so_a_fingerprint_gives_them_again():
    market = fetch_candles(
        [BTC],
        "1h",
        10,
        source=SourceConfig(source="synthetic", cache_dir=None),
        end_ms=START + 20 * HOUR + 1,
    )
    assert market.fingerprint()["end_ms"] == START + 20 * HOUR
    first = fetch_candles(
        [BTC], "15m", 50, source=SourceConfig(source="synthetic", cache_dir=None)
    ).fingerprint()
    assert (
        fetch_candles(
            [BTC],
            "15m",
            50,
            source=SourceConfig(source="synthetic", cache_dir=None),
            end_ms=first["end_ms"],
        ).fingerprint()
        == first
    )


def test_files_that_say_they_are_made_up_are_not_taken_for_real_ones(tmp_path):
    """`python demo.py` writes such files, and anybody may train or score on them."""
    write_candles(make_candles(), tmp_path, BTC, "1h")
    real = fetch_candles([BTC], "1h", 0, SourceConfig(candles_dir=tmp_path))
    assert not real.is_synthetic
    write_candles(make_candles(price=10.0), tmp_path, ETH, "1h", venue="synthetic")
    both = fetch_candles([BTC, ETH], "1h", 0, SourceConfig(candles_dir=tmp_path))
    assert both.is_synthetic and both.provenance()["synthetic"]


NO_NETWORK = (
    f"no exchange reachable ({len(EXCHANGE_CHAIN) + 1} tried): binance: the list of markets "
    "failed; check the network, or use files (--candles-dir; `predict FILE` in place of `live`)"
)


def test_without_a_network_auto_becomes_synthetic_and_says_why(venues, caplog):
    caplog.set_level(logging.DEBUG)
    assert fetch_candles([BTC], "1h", 100).is_synthetic
    assert venues.asked == [(name, BTC) for name in EXCHANGE_CHAIN]
    assert warnings_in(caplog) == ["no exchange delivered candles", SYNTHETIC_BANNER]
    by_level = {level: [] for level in (logging.DEBUG, logging.INFO, logging.WARNING)}
    for record in caplog.records:
        by_level[record.levelno].append(record.getMessage())
    assert by_level[logging.INFO] == [NO_NETWORK]  # one line; the reasons are details
    for name in EXCHANGE_CHAIN:
        reason = f"{name}: the list of markets failed; trying the next source"
        assert reason in by_level[logging.DEBUG]


@pytest.mark.parametrize("options", [{"require_real": True}, {"source": "exchange"}])
def test_where_real_candles_are_required_no_network_is_an_error(caplog, options):
    message = refusal([BTC], "1h", 100, kind=ExchangeError, **options)
    assert message == NO_NETWORK
    assert warnings_in(caplog) == []


# --- the cache
# ------------------------------------------------------------------------------------------------


@pytest.fixture
def keep(tmp_path):
    """Stores candles as an earlier run would have, under the name of the exchange."""

    def keep_series(venue, symbol, rows, kind="1h", came_from=None):
        update_series(tmp_path / venue, symbol, kind, rows, venue=came_from or venue)
        return tmp_path

    return keep_series


def test_without_a_network_candles_of_the_cache_come_before_synthetic_ones(keep, venues, caplog):
    keep("binance", BTC, make_candles(48))
    cache = keep("binance", ETH, make_candles(48, price=10.0))
    with time_machine.travel("2024-01-08 23:30Z"):  # the newest candle opened on the 2nd at 23:00
        market = fetch_candles([BTC, ETH], "1h", 24, SourceConfig(cache_dir=cache))
    assert venues.asked == [(name, BTC, ETH) for name in EXCHANGE_CHAIN]
    assert (market.source, market.venue, market.is_synthetic) == ("cache", "binance", False)
    assert_frame_equal(
        market.candles[ETH], read_candles(make_candles(48, price=10.0).tail(24), "1h")
    )
    assert warnings_in(caplog) == [
        "no exchange delivered candles",
        f"candles of the cache, {cache / 'binance'}: newest 2024-01-02 23:00 UTC, 6 days old",
    ]
    provenance = market.provenance()
    assert (provenance["source"], provenance["synthetic"]) == ("cache", False)
    assert provenance["symbols"][ETH]["venue"] == "binance"


def test_what_the_cache_gives_is_what_the_exchange_gave(venues, tmp_path):
    venues.answers["okx"] = {BTC: make_candles(60)}
    source = SourceConfig(cache_dir=tmp_path)
    first = fetch_candles([BTC], "1h", 24, source)
    venues.answers.clear()
    again = fetch_candles([BTC], "1h", 24, source)
    assert (first.source, again.source) == ("exchange", "cache")
    assert again.fingerprint() == first.fingerprint()


def test_real_candles_that_are_required_may_be_those_of_the_cache(keep):
    cache = keep("okx", BTC, make_candles())
    source = SourceConfig(cache_dir=cache, require_real=True)
    assert fetch_candles([BTC], "1h", 24, source).venue == "okx"


def test_a_source_of_exchanges_alone_does_not_look_into_the_cache(keep):
    cache = keep("binance", BTC, make_candles())
    refusal([BTC], "1h", 24, kind=ExchangeError, source="exchange", cache_dir=cache)


def test_a_named_exchange_has_its_own_cache_and_no_other(keep):
    cache = keep("binance", BTC, make_candles())
    assert fetch_candles(
        [BTC], "1h", 24, SourceConfig(cache_dir=cache, exchange="okx")
    ).is_synthetic


def test_the_cache_gives_the_candles_from_an_instant_on_and_up_to_one(keep):
    cache = keep("binance", BTC, make_candles(48))
    span = {"since_ms": START + 10 * HOUR, "end_ms": START + 20 * HOUR}
    frame = fetch_candles([BTC], "1h", 0, SourceConfig(cache_dir=cache), **span).candles[BTC]
    assert_frame_equal(frame, read_candles(make_candles(48).iloc[10:20], "1h"))


def test_each_symbol_comes_from_the_first_exchange_that_kept_all_of_it(keep):
    keep("binance", BTC, make_candles(10))
    keep("binance", ETH, make_candles(48))
    keep("okx", BTC, make_candles(30))
    keep("okx", ETH, make_candles(60))
    cache = keep("kucoin", BTC, make_candles(40))
    market = fetch_candles([BTC, ETH], "1h", 24, SourceConfig(cache_dir=cache))
    assert market.venue_of == {BTC: "okx", ETH: "binance"}


def test_fewer_candles_of_the_cache_than_asked_for_are_a_warning(keep, caplog):
    cache = keep("binance", BTC, make_candles(30))
    assert len(fetch_candles([BTC], "1h", 48, SourceConfig(cache_dir=cache)).candles[BTC]) == 30
    assert "BTC/USDT: 30 candles from binance, 48 asked for" in warnings_in(caplog)


def test_symbols_that_the_cache_lacks_are_named_and_the_others_are_used(keep, caplog):
    cache = keep("binance", BTC, make_candles())
    market = fetch_candles([BTC, ETH], "1h", 24, SourceConfig(cache_dir=cache))
    assert list(market.candles) == [BTC] and not market.is_synthetic
    assert f"1 of 2 symbols are missing, {cache} has no 1h candles of them: ETH/USDT" in (
        warnings_in(caplog)
    )


@pytest.mark.parametrize("kind", ["15m", "1h"])
def test_a_cache_without_the_candles_is_told_before_synthetic_ones(keep, caplog, kind):
    cache = keep("binance", BTC, make_candles())
    symbol = ETH if kind == "1h" else BTC
    assert fetch_candles([symbol], kind, 24, SourceConfig(cache_dir=cache)).is_synthetic
    assert warnings_in(caplog) == [
        f"no exchange delivered candles, and the cache ({cache}) has no {kind} candles of {symbol}",
        SYNTHETIC_BANNER,
    ]


def test_a_damaged_file_of_the_cache_is_told_and_the_next_exchange_s_is_taken(keep, caplog):
    cache = keep("mexc", BTC, make_candles())
    (cache / "kraken").mkdir()
    (cache / "kraken" / "BTCUSDT_1h.parquet").write_bytes(b"PAR1 cut off")
    assert fetch_candles([BTC], "1h", 24, SourceConfig(cache_dir=cache)).venue == "mexc"
    assert any("BTCUSDT_1h.parquet: not a readable" in text for text in warnings_in(caplog))


def test_funding_of_the_cache_comes_along_with_the_exchange_that_it_is_from(keep):
    keep("okx", BTC, make_candles())
    times = utc_from_ms(START + 8 * HOUR * np.arange(6))
    rates = pd.DataFrame({"timestamp": times, "funding_rate": 1e-4 * np.arange(1, 7)})
    cache = keep("okx", BTC, rates, "funding", came_from="binanceusdm")
    kinds = ("funding", "open_interest")
    market = fetch_candles([BTC], "1h", 24, SourceConfig(cache_dir=cache), published=kinds)
    assert market.published_venue_of == {BTC: {"funding_rate": "binanceusdm"}}
    assert market.candles[BTC]["funding_rate"].iloc[-1] == rates["funding_rate"].iloc[-1]
    assert len(market.funding[BTC]) == 6


# --- exchanges
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"source": "exchange"}, {"require_real": True}])
def test_the_first_exchange_that_answers_is_taken(venues, options):
    venues.answers["binance"] = {BTC: make_candles(48), ETH: make_candles(48, price=10.0)}
    source = SourceConfig(cache_dir=None, **options)
    market = fetch_candles([BTC, ETH], "1h", 24, source)
    assert (market.source, market.venue, market.is_synthetic) == ("exchange", "binance", False)
    assert_frame_equal(
        market.candles[ETH], read_candles(make_candles(48, price=10.0).tail(24), "1h")
    )
    assert venues.asked == [("binance", BTC, ETH)]


@pytest.mark.parametrize(
    "failure",
    [
        ExchangeError("binance refuses this machine's address; choose another exchange"),
        {
            BTC: make_candles(),
            ETH: ExchangeError("binance: candles of ETH/USDT failed after 4 attempt(s); wait"),
        },
        {BTC: make_candles()},
        {BTC: make_candles(), ETH: make_candles(0)},
        {BTC: make_candles(), ETH: make_candles().assign(low=np.nan)},
        {BTC: make_candles(), ETH: make_candles().iloc[::-1]},
    ],
    ids=[
        "refuses",
        "breaks off",
        "lacks a symbol",
        "sends no candles",
        "sends NaN",
        "sends disorder",
    ],
)
def test_a_symbol_comes_whole_from_the_next_exchange_when_one_fails(venues, caplog, failure):
    caplog.set_level(logging.INFO)
    venues.answers["binance"] = failure
    venues.answers["binanceus"] = {BTC: make_candles(price=200.0), ETH: make_candles(price=20.0)}
    market = fetch_candles([BTC, ETH], "1h", 24)
    assert list(market.candles) == [BTC, ETH]
    assert (
        market.candles[ETH]["close"].iloc[-1] == 20.0 + 47
    )  # none of the candles that binance did send
    refused = isinstance(failure, Exception)
    assert market.venue_of == {BTC: "binanceus" if refused else "binance", ETH: "binanceus"}
    assert market.venue == ("binanceus" if refused else "binance, binanceus")
    assert market.provenance()["symbols"][ETH]["venue"] == "binanceus"
    assert venues.asked[1:] == [("binanceus", BTC, ETH) if refused else ("binanceus", ETH)]
    hops = [text for text in caplog.messages if text.endswith("; trying the next source")]
    assert len(hops) == 1 and "binance" in hops[0]
    assert warnings_in(caplog) == []


def test_one_missing_symbol_does_not_sink_the_others_and_is_named(venues, caplog):
    venues.answers["binance"] = {BTC: make_candles(), "SOL/USDT": make_candles()}
    market = fetch_candles([BTC, ETH, "SOL/USDT"], "1h", 24)
    assert list(market.candles) == [BTC, "SOL/USDT"]
    assert warnings_in(caplog) == ["1 of 3 symbols are missing, no source has them: ETH/USDT"]


def test_a_symbol_that_no_exchange_has_never_becomes_synthetic(venues, caplog):
    for name in EXCHANGE_CHAIN[1:]:
        venues.answers[name] = {BTC: make_candles()}
    message = refusal(["BTX/USDT"], "1h", 24)
    assert message.startswith(
        "binance: the list of markets failed; check the network; binanceus has no market "
    )
    assert message.count("has no market 'BTX/USDT'; did you mean BTC/USDT?") == 4
    assert warnings_in(caplog) == []


def test_no_candles_from_any_exchange_is_an_error_with_what_to_do(venues):
    venues.answers["okx"] = {BTC: make_candles(0)}
    assert refusal([BTC], "1h", 24, exchange="okx") == "BTC/USDT: no 1h candles from okx; " + OTHER
    venues.answers["okx"] = {BTC: make_candles(48)}
    message = refusal([BTC], "1h", 24, exchange="okx", end_ms=START)
    assert message == "BTC/USDT: no 1h candles by 2024-01-01 00:00 from okx; " + OTHER


def test_a_named_exchange_is_the_only_one_asked(venues, caplog):
    caplog.set_level(logging.INFO)
    venues.answers["binance"] = {BTC: make_candles()}
    assert refusal(
        [BTC], "1h", 24, kind=ExchangeError, exchange="okx", source="exchange"
    ).startswith("okx: ")
    assert venues.asked == [("okx", BTC)] and "trying the next source" not in caplog.text
    assert (
        fetch_candles(
            [BTC], "1h", 24, source=SourceConfig(exchange="binance", cache_dir=None)
        ).venue
        == "binance"
    )


def test_an_exchange_that_ccxt_does_not_know_is_an_error(monkeypatch):
    monkeypatch.undo()  # the real open_exchange, which asks the network nothing
    assert "knows no exchange 'binanse'; did you mean binance" in refusal(
        [BTC], "1h", 24, exchange="binanse"
    )


def test_fewer_candles_from_an_exchange_are_a_warning(venues, caplog):
    venues.answers["binance"] = {BTC: make_candles(30)}
    assert len(fetch_candles([BTC], "1h", 48).candles[BTC]) == 30
    assert warnings_in(caplog) == ["BTC/USDT: 30 candles from binance, 48 asked for"]


# --- what is told
# -------------------------------------------------------------------------------------------


def with_gaps() -> pd.DataFrame:
    return make_candles(48).drop(index=[5, 20, 21]).reset_index(drop=True)


def test_the_provenance_says_source_spans_gaps_and_hashes():
    market = CandleSet({BTC: with_gaps(), ETH: make_candles(10)}, "1h", "directory", "data")
    provenance = market.provenance()
    assert json.loads(json.dumps(provenance)) == provenance
    assert {k: v for k, v in provenance.items() if k != "symbols"} == {
        "source": "directory",
        "venue": "data",
        "synthetic": False,
        "timeframe": "1h",
    }
    assert provenance["symbols"][BTC] == {
        "rows": 45,
        "first": "2024-01-01T00:00:00+00:00",
        "last": "2024-01-02T23:00:00+00:00",
        "missing_candles": 3,
        "columns": ["timestamp", "open", "high", "low", "close", "volume"],
        "sha256": content_sha256(with_gaps()),
    }
    assert provenance["symbols"][ETH]["missing_candles"] == 0


def test_the_fingerprint_survives_json_and_differs_with_any_symbol():
    market = CandleSet({BTC: make_candles(48), ETH: make_candles(40)}, "1h", "exchange", "okx")
    fingerprint = market.fingerprint()
    assert (
        fingerprint["end_ms"] == START + 48 * HOUR
    )  # the close of the newest candle of any symbol
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    changed = make_candles(40)
    changed.loc[7, "close"] += 1e-9
    assert (
        CandleSet({**market.candles, ETH: changed}, "1h", "exchange", "okx").fingerprint()
        != fingerprint
    )


def test_a_directory_that_has_grown_still_gives_the_candles_of_the_fingerprint(directory):
    first = fetch_candles(
        [BTC, ETH], "1h", 24, source=SourceConfig(candles_dir=directory, cache_dir=None)
    ).fingerprint()
    write_candles(make_candles(60), directory, BTC, "1h")
    write_candles(make_candles(42, price=10.0, first_hour=18), directory, ETH, "1h")
    assert (
        fetch_candles(
            [BTC, ETH], "1h", 24, source=SourceConfig(candles_dir=directory, cache_dir=None)
        ).fingerprint()
        != first
    )
    again = fetch_candles(
        [BTC, ETH],
        "1h",
        24,
        source=SourceConfig(candles_dir=directory, cache_dir=None),
        end_ms=first["end_ms"],
    )
    assert again.fingerprint() == first


def test_the_description_is_a_line_a_symbol_and_of_many_the_first_five():
    candles = {symbol: make_candles(1200) for symbol in TRADING_PAIRS}
    few = CandleSet({BTC: candles[BTC]}, "1h", "exchange", "okx").describe()
    assert few == [
        "BTC/USDT      1,200 candles  2024-01-01 00:00 to 2024-02-19 23:00  exchange okx"
    ]
    many = CandleSet(candles, "1h", "exchange", "okx").describe()
    assert len(many) == 6 and many[5] == "… and 17 more symbols"
    six = CandleSet(dict(list(candles.items())[:6]), "1h", "exchange", "okx").describe()
    assert len(six) == 6 and six[5].startswith("DOGE/USDT")


# --- the fetcher of the v1 document
# -------------------------------------------------------------------------


def test_the_fetcher_of_v1_fetches_one_symbol_or_several(venues):
    venues.answers["binance"] = {BTC: make_candles(2000), ETH: make_candles(2000, price=10.0)}
    fetcher = CryptodataFetcher()
    assert_frame_equal(
        fetcher.fetch_ohlcv("btc/usdt"), make_candles(2000).tail(1000).reset_index(drop=True)
    )
    market = fetcher.fetch_multiple_symbols([ETH, BTC], "1h", limit=10)
    assert list(market) == [ETH, BTC] and [len(frame) for frame in market.values()] == [10, 10]


def test_the_fetcher_of_v1_reads_a_directory_or_a_named_exchange(venues, directory):
    assert len(CryptodataFetcher(candles_dir=str(directory)).fetch_ohlcv(ETH, "1h", 7)) == 7
    assert venues.asked == []
    venues.answers["okx"] = {BTC: make_candles(48)}
    assert len(CryptodataFetcher("okx").fetch_ohlcv(BTC, limit=7)) == 7


def test_the_fetcher_of_v1_never_makes_candles_up(caplog):
    with pytest.raises(ExchangeError, match="check the network"):
        CryptodataFetcher().fetch_ohlcv(BTC)
    assert warnings_in(caplog) == []


def test_the_fetcher_of_v1_saves_what_it_can_read_again(venues, tmp_path):
    venues.answers["binance"] = {BTC: make_candles(48), ETH: make_candles(48, price=10.0)}
    fetched = CryptodataFetcher().fetch_multiple_symbols([BTC, ETH], "1h", 48)
    paths = CryptodataFetcher().save_to_parquet(fetched, str(tmp_path / "cache"), "1h")
    assert paths == [
        tmp_path / "cache" / "BTCUSDT_1h.parquet",
        tmp_path / "cache" / "ETHUSDT_1h.parquet",
    ]
    again = CryptodataFetcher(candles_dir=tmp_path / "cache").fetch_multiple_symbols(
        [BTC, ETH], "1h", 48
    )
    for symbol in (BTC, ETH):
        assert_frame_equal(again[symbol], fetched[symbol])


# --- real candles
# -------------------------------------------------------------------------------------------


def test_real_candles_carry_their_provenance(real_data):
    market = fetch_candles(
        [BTC, ETH],
        "1h",
        5000,
        source=SourceConfig(candles_dir=real_data / "binance", cache_dir=None),
    )
    facts = market.provenance()["symbols"][BTC]
    assert facts["rows"] == 5000 and facts["last"] == "2024-06-16T11:00:00+00:00"
    every = fetch_candles(
        [BTC], "1h", 0, source=SourceConfig(candles_dir=real_data / "binance", cache_dir=None)
    )
    assert every.provenance()["symbols"][BTC]["missing_candles"] == 32
    assert every.describe()[0].startswith(
        "BTC/USDT     39,052 candles  2020-01-01 00:00 to 2024-06-16 11:00  directory"
    )
