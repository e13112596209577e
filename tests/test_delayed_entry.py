"""Late entries by hand, and where their prices come from."""

import numpy as np
import pandas as pd
import pytest

from config import SourceConfig
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.finer import prices_between
from pipeline.candles.schema import utc_from_ms
from pipeline.evaluation.delayed_entry import delayed_entries, late_moves
from pipeline.report.tables import entry_rows

MINUTE, HOUR = 60_000, 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00
RULES = {"timeframe_ms": HOUR, "fee_bps": 0.0, "threshold": 0.0, "funding": {}}


def frame(base, nxt, forecast, symbol="BTC/USDT"):
    """Forecasts of consecutive hours that start from `base` and end at `nxt`."""
    base, nxt = np.asarray(base, float), np.asarray(nxt, float)
    return pd.DataFrame(
        {
            "symbol": symbol,
            "timestamp": utc_from_ms(START + HOUR * np.arange(len(base))),
            "base_price": base,
            "actual_return": np.log(nxt / base),
            "volatility": 0.01,
            "naive": 0.0,
            "lstm": forecast,
        }
    )


def prices(closes, late, minutes):
    """Prices at each close, and so many minutes after it."""
    closes_ms = START + HOUR * np.arange(1, len(closes) + 1)
    known = dict(zip(closes_ms, closes)) | dict(zip(closes_ms + minutes * MINUTE, late))
    return pd.Series(known, dtype=float).sort_index()


def test_a_late_entry_by_hand():
    # Closes 100, 110, 99; 15 minutes later 104, 108, 99.
    rows = frame([100, 110], [110, 99], [0.01, -0.02])
    held = {"BTC/USDT": prices([100, 110, 99], [104, 108, 99], 15)}
    moves = late_moves(rows, held, HOUR, HOUR, 15 * MINUTE)
    assert moves["target"].tolist() == pytest.approx([np.log(110 / 104), np.log(99 / 108)])
    assert moves["held"].tolist() == pytest.approx([np.log(108 / 104), np.log(99 / 108)])
    [late] = delayed_entries(rows, "lstm", held, **RULES)
    assert (late["delay_minutes"], late["n"], late["symbols"]) == (15, 2, ["BTC/USDT"])
    # |y - f| against |y|, each a mean over the two hours
    at_close = 1 - (np.log(1.1) - 0.01 + np.log(110 / 99) - 0.02) / (np.log(1.1) + np.log(110 / 99))
    moved = np.log(110 / 104) + np.log(108 / 99)
    assert late["at_close"]["skill"] == pytest.approx(at_close)
    assert late["delayed"]["skill"] == pytest.approx(0.03 / moved)
    assert late["delayed"]["skill_by_symbol"] == {"BTC/USDT": pytest.approx(0.03 / moved)}
    assert late["delayed"]["direction_accuracy"] == 1.0
    # Long, then short: four sides are traded. At the close 10 % and 10 % are earned, a quarter of
    # an hour later 4 / 104 and 9 / 108.
    assert late["at_close"]["break_even_fee_bps"] == pytest.approx(1e4 * 0.2 / 4)
    assert late["delayed"]["break_even_fee_bps"] == pytest.approx(1e4 * (4 / 104 + 9 / 108) / 4)
    table = entry_rows([late])
    assert [row[0] for row in table] == ["entry", "at the close", "15 min later"]
    assert table[2][5] == "+304.49"  # 1e4 * (0.038462 + 0.083333) / 4


def test_a_direction_that_is_gone_when_one_enters_is_wrong():
    rows = frame([100, 100], [101, 101], [0.01, 0.01])
    held = {"BTC/USDT": prices([100, 100, 100], [102, 100.5, 100], 5)}
    [late] = delayed_entries(rows, "lstm", held, **RULES)
    assert late["at_close"]["direction_accuracy"] == 1.0
    assert late["delayed"]["direction_accuracy"] == 0.5  # from 102 to 101, and from 100.5 to 101


def test_forecasts_count_where_the_prices_are_those_of_the_same_market():
    rows = frame([100, 110, 99], [110, 99, 105], [0.01, -0.02, 0.01])
    known = prices([100, 110, 99, 105], [104, 108, 99, 105], 15)
    other_market = known.copy()
    other_market[START + 2 * HOUR] = 110.01
    [late] = delayed_entries(rows, "lstm", {"BTC/USDT": other_market}, **RULES)
    assert late["n"] == 2
    [late] = delayed_entries(rows, "lstm", {"BTC/USDT": known.drop(START + HOUR)}, **RULES)
    assert late["n"] == 2
    # The next entry's price is missing: what is held until then is not known.
    [late] = delayed_entries(
        rows, "lstm", {"BTC/USDT": known.drop(START + 4 * HOUR + 15 * MINUTE)}, **RULES
    )
    assert late["n"] == 2
    assert delayed_entries(rows, "lstm", {"BTC/USDT": 2 * known}, **RULES) == []
    assert delayed_entries(rows, "lstm", {"ETH/USDT": known}, **RULES) == []
    assert delayed_entries(rows, "lstm", {}, **RULES) == [] and entry_rows([]) == []


def test_no_entry_comes_after_the_close_that_is_forecast():
    rows = frame([100, 110], [110, 99], [0.01, -0.02]).assign(
        timestamp=utc_from_ms(START + 5 * MINUTE * np.arange(2))
    )
    known = pd.Series(100.0, index=START + MINUTE * np.arange(60))
    known.loc[START + 10 * MINUTE] = 110.0
    found = delayed_entries(
        rows, "lstm", {"BTC/USDT": known}, **{**RULES, "timeframe_ms": 5 * MINUTE}
    )
    assert [late["delay_minutes"] for late in found] == [1]


def candles(minutes, n, first=100.0):
    close = first + np.arange(n)
    times = utc_from_ms(START + minutes * MINUTE * np.arange(n))
    prices = {"open": close - 0.5, "high": close + 1, "low": close - 1, "close": close}
    return pd.DataFrame({"timestamp": times, **prices, "volume": 1.0})


def test_finer_prices_come_from_the_candles_folder_or_the_cache(tmp_path, caplog):
    hours = {symbol: candles(60, 3) for symbol in ("BTC/USDT", "ETH/USDT", "XRP/USDT")}
    candles(15, 12).to_csv(tmp_path / "BTCUSDT_15m.csv", index=False)
    candles(5, 6, first=200.0).to_csv(tmp_path / "BTCUSDT_5m.csv", index=False)
    candles(240, 3).to_csv(tmp_path / "ETHUSDT_4h.csv", index=False)
    (tmp_path / "XRPUSDT_15m.csv").write_text("no candles\n1\n")
    market = CandleSet(hours, "1h", "directory", "DIR")
    found = prices_between(market, SourceConfig(candles_dir=tmp_path))
    assert list(found) == ["BTC/USDT"]
    of_btc = found["BTC/USDT"]
    # A candle's close is known when it ends; where two end at once the shorter one counts.
    assert of_btc[START + 5 * MINUTE] == 200.0 and of_btc[START + 15 * MINUTE] == 202.0
    assert of_btc[START + 45 * MINUTE] == 102.0
    assert of_btc.index.is_monotonic_increasing and of_btc.index.is_unique
    assert "finer candles of XRP/USDT are not used" in caplog.text
    minutes = CandleSet({"BTC/USDT": candles(5, 6)}, "5m", "directory", "DIR")
    assert prices_between(minutes, SourceConfig(candles_dir=tmp_path)) == {}  # none is shorter

    (tmp_path / "kraken").mkdir()
    (tmp_path / "BTCUSDT_15m.csv").rename(tmp_path / "kraken" / "BTCUSDT_15m.csv")
    fetched = CandleSet(hours, "1h", "exchange", "kraken", {"BTC/USDT": "kraken"})
    found = prices_between(fetched, SourceConfig(cache_dir=tmp_path))
    assert found["BTC/USDT"][START + 15 * MINUTE] == 100.0
    assert prices_between(fetched, SourceConfig(cache_dir=None)) == {}
    made_up = CandleSet(hours, "1h", "synthetic", "seed 1")
    assert prices_between(made_up, SourceConfig(cache_dir=tmp_path)) == {}
