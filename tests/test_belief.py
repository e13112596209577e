"""Candles that are hard to believe are told of wherever candles enter, and a crash is believed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import SourceConfig
from data_fetcher import Audit
from pipeline.candles import belief
from pipeline.candles.audit import audit
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.schema import PRICE_COLUMNS, read_candles, utc_from_ms
from pipeline.forecasts.recent_candles import read_closed, read_recent

HOUR = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
PRICES = list(PRICE_COLUMNS)
UNITS = [1000.0, 100.0, 10.0, 0.1, 0.01, 0.001]


def candles_of(closes, *, hours=None, before=None) -> pd.DataFrame:
    """Hourly candles that open at the close before and have no wicks."""
    closes = np.asarray(closes, dtype=float)
    opens = np.concatenate([[closes[0] if before is None else before], closes[:-1]])
    hours = np.arange(len(closes)) if hours is None else np.asarray(hours)
    return pd.DataFrame(
        {
            "timestamp": utc_from_ms(START + HOUR * hours),
            "open": opens,
            "high": np.maximum(opens, closes),
            "low": np.minimum(opens, closes),
            "close": closes,
            "volume": 10.0,
        }
    )


def walk(n=60, seed=0, sigma=0.01) -> pd.DataFrame:
    """A seeded random walk from 100 on."""
    return candles_of(100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, sigma, n))))


def doubtful(candles: pd.DataFrame) -> list[int]:
    return belief.find_doubtful(candles, "1h").tolist()


def times_factor(rows, factor, columns=PRICES, candles=None) -> pd.DataFrame:
    candles = walk() if candles is None else candles
    candles.loc[rows, columns] *= factor
    return candles


# --- what is doubtful


@pytest.mark.parametrize("factor", UNITS)
@pytest.mark.parametrize("row", [2, 30, 58])
def test_a_change_of_the_unit_is_doubtful_where_it_begins(row, factor):
    assert doubtful(times_factor(slice(row, None), factor)) == [row]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 59), st.sampled_from([*UNITS, 2.0, 0.5, 3.0]), st.integers(0, 1000))
def test_a_wrong_candle_is_doubtful_wherever_it_is(row, factor, seed):
    assert doubtful(times_factor(row, factor, candles=walk(seed=seed))) == [row]


@pytest.mark.parametrize("factor", [10.0, 0.5])
def test_a_few_wrong_candles_in_a_row_are_doubtful_each(factor):
    assert doubtful(times_factor(slice(20, 23), factor)) == [20, 21, 22, 23]
    wrong = times_factor([10, 11, 14, 40], factor)
    assert doubtful(wrong) == [10, 11, 14, 40]


@pytest.mark.parametrize("columns", [["open", "high"], ["close", "high"]])
def test_an_open_or_a_close_alone_may_be_wrong(columns):
    wrong = times_factor(30, 3.0, columns)
    wrong["high"] = wrong[PRICES].max(axis=1)
    assert doubtful(wrong) == [30]


@pytest.mark.parametrize(("column", "factor"), [("high", 10.0), ("low", 0.1)])
def test_a_wick_of_ten_times_the_price_is_doubtful(column, factor):
    assert doubtful(times_factor(30, factor, [column])) == [30]


def test_a_change_of_the_unit_shows_where_the_open_is_always_the_close_before():
    closes = walk()["close"].to_numpy()
    assert doubtful(candles_of(closes * np.where(np.arange(60) < 30, 1, 1000))) == [30]
    assert doubtful(candles_of(closes * np.where(np.arange(60) == 30, 10, 1))) == [30, 31]


# --- what is believed


def test_a_collapse_is_believed_however_deep_it_is():
    # LUNA in May 2022, closes of its days in USDT, rounded
    days = [85, 78, 64, 61, 30, 17, 1.07, 0.005, 0.00005]
    assert doubtful(candles_of(days)) == []
    assert doubtful(candles_of([*[85] * 12, *days])) == []


@pytest.mark.parametrize("factor", [0.1, 0.5, 5.0, 20.0])
def test_a_crash_or_pump_inside_one_candle_is_believed(factor):
    closes = walk()["close"].to_numpy()
    assert doubtful(candles_of(closes * np.where(np.arange(60) < 30, 1, factor))) == []


def test_a_flash_crash_is_believed():
    # Bitcoin fell from 65,760 to 8,200 dollars and back within a minute on one exchange in 2021.
    candles = walk()
    candles.loc[30, "low"] = candles.loc[30, "low"] * 8200 / 65760
    assert doubtful(candles) == []


def test_a_price_may_double_while_candles_are_missing():
    closes = [100.0, 100.0, 200.0]
    candles = candles_of(closes, hours=[0, 1, 500])
    candles.loc[2, PRICES] = 200.0
    assert doubtful(candles) == []
    assert doubtful(candles.assign(timestamp=candles_of(closes)["timestamp"])) == [2]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.001, 0.3))
def test_a_market_that_goes_on_where_it_stopped_is_believed_however_wild(seed, sigma):
    assert doubtful(walk(seed=seed, sigma=sigma)) == []


def test_one_candle_is_nothing_to_compare():
    assert doubtful(walk(1)) == []


def test_no_real_candle_is_doubtful(real_data):
    found = {}
    for path in sorted(real_data.glob("*/*.parquet")):
        timeframe = path.stem.split("_", 1)[1]
        if timeframe in ("1h", "15m", "5m"):
            rows = belief.find_doubtful(read_candles(pd.read_parquet(path), timeframe), timeframe)
            found[path] = len(rows)
    assert found and sum(found.values()) == 0


# --- where it is told


@pytest.fixture
def folder(tmp_path):
    """A folder in which the unit of one coin changes at its 31st candle."""
    times_factor(slice(30, None), 1000.0).to_csv(tmp_path / "SHIBUSDT_1h.csv", index=False)
    walk().to_csv(tmp_path / "BTCUSDT_1h.csv", index=False)
    return tmp_path


def test_training_and_evaluation_are_told_what_it_means_and_what_to_do(folder, caplog):
    market = fetch_candles(
        ["BTC/USDT", "SHIB/USDT"], "1h", 0, SourceConfig(candles_dir=folder, cache_dir=None)
    )
    [notice] = caplog.messages
    assert notice.startswith(
        "SHIB/USDT: 1 candle(s) hard to believe, first at 2024-01-02 06:00 (open "
    )
    assert "after a close of " in notice
    assert "returns, scores and money count such jumps as moves of the market" in notice
    assert "mend the candles, begin behind them (--candles, --since) or leave the pair" in notice
    told = market.provenance()["symbols"]
    assert told["SHIB/USDT"]["doubtful_candles"] == 1
    assert "doubtful_candles" not in told["BTC/USDT"]


def test_the_audit_counts_them_and_names_the_first(folder, capsys, caplog):
    report = audit(folder).set_index("symbol")
    assert report["doubtful"].to_dict() == {"BTCUSDT": 0, "SHIBUSDT": 1}
    Audit(folder).run()
    shown = capsys.readouterr().out
    assert "doubtful" in shown and "hard to believe" not in shown
    [notice] = caplog.messages
    assert notice.startswith("SHIBUSDT_1h.csv: 1 candle(s) hard to believe, first at 2024-01-02")


def read_one(candles, required=50):
    return read_recent(candles, "1h", needed=10, required=required, where="candles")


def test_a_predictor_warns_once_of_what_its_forecast_looks_at():
    wrong = times_factor(slice(30, None), 1000.0)
    with pytest.warns(UserWarning, match="hard to believe") as caught:
        read_one(wrong)
    [warning] = caught
    assert "pass candles from behind them on, or mend them" in str(warning.message)
    with pytest.warns(UserWarning, match="hard to believe"):
        read_closed(wrong, "1h")


@pytest.mark.filterwarnings("error")
def test_a_predictor_is_silent_about_what_lies_before_its_warm_up_and_what_was_told(folder):
    wrong = times_factor(slice(5, None), 1000.0)
    assert len(read_one(wrong)) == 60
    market = fetch_candles(["SHIB/USDT"], "1h", 0, SourceConfig(candles_dir=folder, cache_dir=None))
    assert len(read_closed(market.candles["SHIB/USDT"], "1h")) == 60


def test_a_predictor_warns_of_what_it_mends():
    off = walk()
    off.loc[20, "timestamp"] += pd.Timedelta("28min")
    off.loc[30, ["open", "high"]] = off.loc[30, "low"] * 0.99
    off.loc[30, "high"] = off.loc[30, "close"]
    with pytest.warns(UserWarning) as caught:
        candles = read_closed(off, "1h")
    told = [str(warning.message) for warning in caught]
    assert len(candles) == 59 and len(told) == 2
    assert "1 of 60 candle(s) off the 1h grid are left out as a gap" in told[0]
    assert "low..high of 1 of 59 candle(s) is widened" in told[1]
