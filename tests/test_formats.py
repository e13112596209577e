"""Candles in every form that people have them: each is read as the frame that it was made from, or
refused with the one question that decides it."""

import gzip
import json
import logging
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from data_fetcher import load_candles
from inference_v2 import CryptoPricePredictorV2
from pipeline.candles.columns import plain_name
from pipeline.candles.formats import resample
from pipeline.candles.schema import CANDLE_COLUMNS, timestamps_ms
from pipeline.candles.synthetic import synthetic_candles

HOUR = 3_600_000
OHLCV = ["open", "high", "low", "close", "volume"]
HOURS = synthetic_candles(80, seed=5, end="2025-01-02")[["timestamp", *OHLCV]]
"""Over 2025-01-01, from when on Binance counts microseconds"""
MS = timestamps_ms(HOURS)
DAYS = synthetic_candles(80, timeframe="1d", seed=5, end="2024-06-20")[["timestamp", *OHLCV]]
BASE = HOURS["volume"]
QUOTE = BASE * HOURS["close"]


def table(**columns) -> pd.DataFrame:
    """A table of these columns; o, h, l, c and v stand for the candles' own."""
    short = dict(zip("ohlcv", OHLCV))
    return pd.DataFrame(
        {name: HOURS[short[of]] if isinstance(of, str) else of for name, of in columns.items()}
    )


def lines(frame: pd.DataFrame, *, header: bool = True, sep: str = ",", **options) -> str:
    return frame.to_csv(index=False, header=header, sep=sep, **options)


def binance(unit: int = 1) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "open_time": MS * unit,
            **HOURS[OHLCV],
            "close_time": (MS + HOUR) * unit - 1,
            "quote_volume": QUOTE,
            "count": 100,
            "taker_buy_volume": BASE / 2,
            "taker_buy_quote_volume": QUOTE / 2,
            "ignore": 0,
        }
    )


def put_together() -> str:
    cut = 40
    return lines(binance()[:cut], header=False) + lines(binance(1000)[cut - 5 :], header=False)


def rows(order: str = "ohlcv", *more, as_text: bool = False) -> list[list]:
    short = dict(zip("ohlcv", OHLCV))
    columns = [MS.tolist(), *(HOURS[short[letter]].tolist() for letter in order), *more]
    found = [list(row) for row in zip(*columns)]
    return [[str(value) for value in row] for row in found] if as_text else found


def cryptodatadownload(times: pd.Series, *, unix: bool) -> str:
    frame = table(
        Date=times, Symbol=["BTC/USDT"] * 80, Open="o", High="h", Low="l", Close="c",
        **{"Volume BTC": "v", "Volume USDT": QUOTE},
    )  # fmt: skip
    if unix:
        frame.insert(0, "Unix", np.where(np.arange(80) < 30, MS // 1000, MS))
    return "https://www.CryptoDataDownload.com\n" + lines(frame[::-1])


def yfinance() -> pd.DataFrame:
    frame = HOURS.set_index("timestamp").rename(columns=str.capitalize)
    frame = frame[["Close", "High", "Low", "Open", "Volume"]].rename_axis("Datetime")
    return frame.set_axis(
        pd.MultiIndex.from_product([frame.columns, ["BTC-USD"]], names=["Price", "Ticker"]), axis=1
    )


def columns_of(unit: int = 1) -> dict[str, list[float]]:
    return {"t": (MS * unit).tolist(), **{name[0]: HOURS[name].tolist() for name in OHLCV}}


TEXT_HOURS = HOURS["timestamp"].dt.strftime("%Y-%m-%d %H:%M:%S")
WITHOUT_ZONE = HOURS["timestamp"].dt.tz_localize(None)
KAGGLE = table(
    Timestamp=MS // 1000, Open="o", High="h", Low="l", Close="c",
    **{"Volume_(BTC)": "v", "Volume_(Currency)": QUOTE, "Weighted_Price": HOURS["close"]},
)  # fmt: skip
METATRADER = table(
    **{"<DATE>": HOURS["timestamp"].dt.strftime("%Y.%m.%d")},
    **{"<TIME>": HOURS["timestamp"].dt.strftime("%H:%M:%S")},
    **{"<OPEN>": "o", "<HIGH>": "h", "<LOW>": "l", "<CLOSE>": "c"},
    **{"<TICKVOL>": [7] * 80, "<VOL>": "v", "<SPREAD>": [1] * 80},
)
NAMED = table(time=MS // 1000, open="o", high="h", low="l", close="c", Volume="v")

FILES: dict[str, tuple[str, str | bytes]] = {
    "the schema": ("x.csv", lines(HOURS)),
    "Binance with header, ms": ("x.csv", lines(binance())),
    "Binance with header, µs": ("x.csv", lines(binance(1000))),
    "Binance without header, ms": ("x.csv", lines(binance(), header=False)),
    "Binance without header, µs": ("x.csv", lines(binance(1000), header=False)),
    "Binance over 2025-01-01, ms then µs, 5 rows twice": ("x.csv", put_together()),
    "Binance, header and no header put together": (
        "x.csv",
        lines(binance()[:40], header=False) + lines(binance()[40:]),
    ),
    "headers in the middle": ("x.csv", lines(binance()[:9]) + lines(binance()[9:])),
    "CryptoDataDownload, new": ("x.csv", cryptodatadownload(TEXT_HOURS, unix=True)),
    "CryptoDataDownload, old": (
        "x.csv",
        cryptodatadownload(HOURS["timestamp"].dt.strftime("%Y-%m-%d %I-%p"), unix=False),
    ),
    "Kraken, 7 columns": (
        "x.csv",
        lines(table(t=MS // 1000, o="o", h="h", l="l", c="c", v="v", n=[3] * 80), header=False),
    ),
    "Kraken, 8 columns": (
        "x.csv",
        lines(
            table(t=MS // 1000, o="o", h="h", l="l", c="c", w="c", v="v", n=[3] * 80), header=False
        ),
    ),
    "ccxt without header": ("x.csv", lines(pd.DataFrame(rows()), header=False)),
    "Coinbase without header": ("x.csv", lines(pd.DataFrame(rows("lhocv"))[::-1], header=False)),
    "Coinbase with header": (
        "x.csv",
        lines(table(time=MS // 1000, low="l", high="h", open="o", close="c", volume="v")[::-1]),
    ),
    "Bitfinex without header": ("x.csv", lines(pd.DataFrame(rows("ochlv"))[::-1], header=False)),
    "Bitstamp's JSON": (
        "x.json",
        json.dumps(
            {
                "data": {
                    "pair": "BTC/USD",
                    "ohlc": table(
                        timestamp=MS // 1000, open="o", high="h", low="l", close="c", volume="v"
                    )
                    .astype(str)
                    .to_dict("records"),
                }
            }
        ),
    ),
    "TradingView, epoch": ("x.csv", lines(NAMED)),
    "TradingView, ISO": (
        "x.csv",
        lines(NAMED.assign(time=HOURS["timestamp"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))),
    ),
    "Gemini": (
        "x.csv",
        "https://www.gemini.com\n"
        + lines(
            table(
                **{"Unix Timestamp": MS, "Date": TEXT_HOURS, "Symbol": ["BTCUSD"] * 80},
                **{"Open": "o", "High": "h", "Low": "l", "Close": "c", "Volume": "v"},
            )[::-1]
        ),
    ),
    "yfinance's CSV": ("x.csv", yfinance().to_csv()),
    "freqtrade's JSON": ("x.json", json.dumps(rows())),
    "Bybit's answer": (
        "x.json",
        json.dumps(
            {"retCode": 0, "result": {"list": rows("ohlcv", QUOTE.tolist(), as_text=True)[::-1]}}
        ),
    ),
    "OKX's answer": (
        "x.json",
        json.dumps(
            {
                "code": "0",
                "data": rows("ohlcv", BASE.tolist(), QUOTE.tolist(), ["1"] * 80, as_text=True)[
                    ::-1
                ],
            }
        ),
    ),
    "KuCoin's answer": (
        "x.json",
        json.dumps({"code": "200000", "data": rows("ochlv", QUOTE.tolist(), as_text=True)[::-1]}),
    ),
    "Kraken's answer": (
        "x.json",
        json.dumps(
            {
                "error": [],
                "result": {
                    "XXBTZUSD": [
                        [int(t) // 1000, *row[:4], row[3], row[4], 9] for t, *row in rows()
                    ],
                    "last": 1,
                },
            }
        ),
    ),
    "MetaTrader": ("x.csv", lines(METATRADER, sep="\t")),
    "date and time without header": (
        "x.csv",
        lines(
            table(
                d=HOURS["timestamp"].dt.strftime("%Y.%m.%d"),
                t=HOURS["timestamp"].dt.strftime("%H:%M"),
                **dict(zip("ohlcv", "ohlcv")),
            ),
            header=False,
        ),
    ),
    "decimal commas": ("x.csv", lines(NAMED, sep=";", decimal=",")),
    "bars between": ("x.txt", lines(NAMED, sep="|")),
    "UTF-8 with BOM": ("x.csv", b"\xef\xbb\xbf" + lines(NAMED).encode()),
    "UTF-16": ("x.TSV", lines(NAMED, sep="\t").encode("utf-16")),
    "comments above": ("x.csv", "# candles of BTC/USDT\n# UTC\n" + lines(NAMED)),
    "gzip": ("x.csv.gz", gzip.compress(lines(NAMED).encode())),
    "Windows' line ends": ("x.csv", lines(NAMED).replace("\n", "\r\n")),
    "pandas' index": ("x.csv", HOURS.to_csv()),
    "pandas' numbers": ("x.csv", pd.DataFrame(rows()).to_csv()),
    "pandas' JSON of columns": ("x.json", HOURS.to_json(double_precision=15)),
    "pandas' JSON of rows": ("x.json", HOURS.to_json(orient="records", double_precision=15)),
    "pandas' JSON of lines": (
        "x.jsonl",
        HOURS.to_json(orient="records", lines=True, double_precision=15),
    ),
    "pandas' JSON, split": ("x.json", HOURS.to_json(orient="split", double_precision=15)),
    "month first": (
        "x.csv",
        lines(NAMED.assign(time=HOURS["timestamp"].dt.strftime("%m/%d/%Y %H:%M"))),
    ),
    "day first": (
        "x.csv",
        lines(NAMED.assign(time=HOURS["timestamp"].dt.strftime("%d.%m.%Y %H:%M"))),
    ),
    "twelve hours": (
        "x.csv",
        lines(NAMED.assign(time=HOURS["timestamp"].dt.strftime("%m/%d/%Y %I:%M %p"))),
    ),
    "names of months": (
        "x.csv",
        lines(NAMED.assign(time=HOURS["timestamp"].dt.strftime("%b %d, %Y %H:%M"))),
    ),
    "digits alone": (
        "x.csv",
        lines(NAMED.assign(time=HOURS["timestamp"].dt.strftime("%Y%m%d%H%M%S"))),
    ),
    "a close's time alone": ("x.csv", lines(binance().drop(columns="open_time"))),
    "a turnover beside": (
        "x.csv",
        lines(
            table(timestamp=MS, open="o", high="h", low="l", close="c", volume="v", turnover=QUOTE)
        ),
    ),
}
"""What it is -> name and content of a file that holds HOURS"""

CLOCKS = HOURS["timestamp"].dt

FILES |= {
    "Stooq": (
        "x.txt",
        lines(
            table(
                **{"<TICKER>": ["BTCUSD"] * 80, "<PER>": [60] * 80},
                **{"<DATE>": CLOCKS.strftime("%Y%m%d"), "<TIME>": CLOCKS.strftime("%H%M%S")},
                **{"<OPEN>": "o", "<HIGH>": "h", "<LOW>": "l", "<CLOSE>": "c", "<VOL>": "v"},
                **{"<OPENINT>": [0] * 80},
            )
        ),
    ),
    "date and twelve hours in two columns": (
        "x.csv",
        lines(
            table(
                Date=CLOCKS.strftime("%m/%d/%Y"), Time=CLOCKS.strftime("%I:%M %p"),
                Open="o", High="h", Low="l", Close="c", Volume="v",
            )
        ),
    ),
    "Dukascopy": (
        "x.csv",
        lines(
            table(
                **{"Gmt time": CLOCKS.strftime("%d.%m.%Y %H:%M:%S.000")},
                **{"Open": "o", "High": "h", "Low": "l", "Close": "c", "Volume": "v"},
            )
        ),
    ),
    "Alpha Vantage": (
        "x.csv",
        lines(
            table(
                **{"": TEXT_HOURS, "1. open": "o", "2. high": "h", "3. low": "l"},
                **{"4. close": "c", "5. volume": "v"},
            )
        ),
    ),
    "CryptoCompare": (
        "x.json",
        table(
            time=MS // 1000, high="h", low="l", open="o", volumefrom="v", volumeto=QUOTE, close="c"
        ).to_json(orient="records", double_precision=15),
    ),
    "dollar signs": (
        "x.csv",
        lines(
            HOURS.assign(
                **{name: HOURS[name].map("${!r}".format) for name in OHLCV[:4]}
            )
        ),
    ),
}  # fmt: skip

FRAMES = {
    "the index": HOURS.set_index("timestamp"),
    "an unnamed index": HOURS.set_index("timestamp").rename_axis(None),
    "an unnamed index, reset": HOURS.set_index("timestamp").rename_axis(None).reset_index(),
    "epochs in the index": HOURS.assign(timestamp=MS).set_index("timestamp"),
    "texts in the index": HOURS.assign(timestamp=TEXT_HOURS).set_index("timestamp"),
    "periods": HOURS.assign(timestamp=WITHOUT_ZONE.dt.to_period("h")),
    "periods in the index": HOURS.assign(timestamp=WITHOUT_ZONE.dt.to_period("h")).set_index(
        "timestamp"
    ),
    "a pair in the index": pd.concat({"BTC/USDT": HOURS.set_index("timestamp")}, names=["symbol"]),
    "capitals": HOURS.rename(columns=str.capitalize),
    "capitals and an index": HOURS.rename(columns=str.capitalize).set_index("Timestamp"),
    "yfinance": yfinance(),
    "yfinance, reset": yfinance().reset_index(),
    "yfinance, plain": yfinance().set_axis(["Close", "High", "Low", "Open", "Volume"], axis=1),
    "ccxt lists": rows(),
    "ccxt tuples": [tuple(row) for row in rows()],
    "a frame of ccxt lists": pd.DataFrame(rows()),
    "an array": np.array(rows(), dtype=float),
    "texts, newest first": rows(as_text=True)[::-1],
    "columns": HOURS.to_dict("list"),
    "columns by letters": columns_of(),
    "rows by name": HOURS.to_dict("records"),
    "Huobi's rows": table(
        id=MS // 1000, open="o", close="c", low="l", high="h", amount="v", vol=QUOTE, count=[4] * 80
    ).to_dict("records"),
    "Binance's stream": table(
        t=MS, T=MS + HOUR - 1, s=["BTCUSDT"] * 80, o="o", h="h", l="l", c="c", v="v", q=QUOTE
    ).to_dict("records"),
    "shuffled": HOURS.sample(frac=1, random_state=1),
    "rows twice": pd.concat([HOURS, HOURS[20:30]]),
    "an Arrow table": __import__("pyarrow").Table.from_pandas(HOURS),
    "one pair named in a column": HOURS.assign(symbol="BTC/USDT", exchange="binance"),
    "the close's time beside": HOURS.assign(close_time=MS + HOUR - 1),
    "the day beside": HOURS.assign(date=HOURS["timestamp"].dt.strftime("%Y-%m-%d")),
    "adjusted closes": HOURS.rename(columns=str.capitalize).assign(**{"Adj Close": 1.0}),
    "ns": HOURS.assign(timestamp=HOURS["timestamp"].astype("datetime64[ns, UTC]")),
}


class Interchanged:
    """A frame of another library, that knows pandas."""

    def to_pandas(self):
        return HOURS


def write(folder, name: str, content: str | bytes):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def assert_hours(candles: pd.DataFrame) -> None:
    """The candles are `HOURS`; trades and other volumes of them may stand beside."""
    assert_frame_equal(candles[list(CANDLE_COLUMNS)], HOURS, check_exact=True)


@pytest.mark.parametrize("form", FILES)
def test_every_file_is_read_to_the_last_bit(tmp_path, form):
    path = write(tmp_path, *FILES[form])
    assert_hours(load_candles(path, "1h"))
    assert_hours(load_candles(str(path)))


@pytest.mark.parametrize("form", FRAMES)
def test_whatever_is_in_memory_is_read_to_the_last_bit(form):
    assert_hours(load_candles(FRAMES[form], "1h"))


ACTIVITY = {
    "Binance with header, µs": ["quote_volume", "trades", "taker_buy_volume"],
    "Binance over 2025-01-01, ms then µs, 5 rows twice": [
        "quote_volume", "trades", "taker_buy_volume",
    ],
    "CryptoDataDownload, new": ["quote_volume"],
    "Kraken, 8 columns": ["trades"],
    "OKX's answer": ["quote_volume"],
    "TradingView, epoch": [],
}  # fmt: skip


@pytest.mark.parametrize("form", ACTIVITY)
def test_trades_and_other_volumes_are_kept_where_a_file_has_them(tmp_path, form):
    candles = load_candles(write(tmp_path, *FILES[form]), "1h")
    assert [name for name in candles if name not in CANDLE_COLUMNS] == ACTIVITY[form]
    if "quote_volume" in candles:
        assert candles["quote_volume"].tolist() == QUOTE.tolist()
    if "taker_buy_volume" in candles:
        assert candles["taker_buy_volume"].tolist() == (BASE / 2).tolist()
        assert set(candles["trades"]) == {100.0}


@pytest.mark.parametrize(
    "wrong",
    [
        {"quote_volume": BASE * 7},
        {"trades": 0.5},
        {"trades": "many"},
        {"trades": -1},
        {"taker_buy_volume": BASE * 2},
    ],
)
def test_trades_and_volumes_that_cannot_be_are_left_out(wrong):
    candles = load_candles(HOURS.assign(**wrong, close_time=MS + HOUR - 1), "1h")
    assert_frame_equal(candles, HOURS)


def test_longer_candles_add_up_trades_and_lack_them_where_one_is_unknown():
    trades = np.arange(80.0)
    trades[9] = np.nan
    shorter = load_candles(HOURS.assign(trades=trades), "1h")
    longer, _ = resample(shorter, "1h", "4h")
    want = trades.reshape(20, 4).sum(axis=1)  # nan in the third
    np.testing.assert_array_equal(longer["trades"], want)


def test_two_timeframes_are_a_question_where_none_is_named_too():
    what, _ = DOUBTS["two timeframes, the shorter one last"]
    with pytest.raises(ValueError, match="are 1h apart and others 15 min; which timeframe"):
        load_candles(what)


def test_a_frame_of_another_library_is_read():
    assert_frame_equal(load_candles(Interchanged(), "1h"), HOURS)


def test_a_frame_of_polars_is_read():
    """TA-Lib imports polars where it is, which costs every process time; so it is not required."""
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert_frame_equal(load_candles(polars.from_pandas(HOURS), "1h"), HOURS)


def test_binary_files_are_read(tmp_path):
    HOURS.rename(columns={"timestamp": "date"}).to_feather(tmp_path / "x.feather")
    HOURS.set_index("timestamp").to_parquet(tmp_path / "x.parquet")
    yfinance().to_parquet(tmp_path / "y.parquet")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("BTCUSDT-1h-2024-12.csv", lines(binance(), header=False))
    for name in ("x.feather", "x.parquet", "y.parquet", "x.zip"):
        assert_hours(load_candles(tmp_path / name, "1h"))


def test_what_is_in_the_schema_is_read_without_a_word(caplog):
    caplog.set_level(logging.INFO)
    candles = load_candles(HOURS, "1h")
    assert caplog.messages == [] and candles.attrs == {}


READ_AS = {
    "Binance with header, ms": "Binance klines, 12 columns",
    "Binance with header, µs": "Binance klines, 12 columns, µs",
    "Binance over 2025-01-01, ms then µs, 5 rows twice": (
        "Binance klines, without header, 12 columns, ms and µs, sorted, 5 equal duplicate(s) merged"
    ),
    "headers in the middle": "Binance klines, 12 columns, 1 further header line(s) left out",
    "CryptoDataDownload, new": (
        "CryptoDataDownload's table, 9 columns, volume from 'Volume BTC', s and ms, newest first"
    ),
    "Kraken, 7 columns": "Kraken trades, without header, 7 columns, s",
    "Kraken, 8 columns": "Kraken rows, without header, 8 columns, s",
    "ccxt without header": "ccxt lists, without header, 6 columns",
    "Coinbase without header": "Coinbase rows, without header, 6 columns, newest first",
    "Bitfinex without header": "Bitfinex rows, without header, 6 columns, newest first",
    "TradingView, epoch": "columns time, open, high, low, close, Volume, s",
    "Gemini": "Gemini's table, 8 columns, newest first",
    "yfinance's CSV": "columns Datetime, Open, High, Low, Close, Volume",
    "freqtrade's JSON": "ccxt lists, 6 columns without names",
    "Bybit's answer": "Bybit rows, 7 columns without names, newest first",
    "OKX's answer": "OKX rows, 9 columns without names, newest first",
    "KuCoin's answer": "KuCoin rows, 7 columns without names, newest first",
    "Kraken's answer": "Kraken rows, 8 columns without names, s",
    "MetaTrader": "MetaTrader's export, 9 columns, separated by tab, date and time in two columns",
    "decimal commas": "columns time, open, high, low, close, Volume, separated by ;, s",
    "UTF-16": "columns time, open, high, low, close, Volume, UTF-16, separated by tab, s",
    "month first": "columns time, open, high, low, close, Volume, the month first",
    "day first": "columns time, open, high, low, close, Volume, the day first",
    "a close's time alone": (
        "columns close_time, open, high, low, close, volume, opens from the times of the closes"
    ),
    "Alpha Vantage": "columns '', 1. open, 2. high, 3. low, 4. close, 5. volume",
    "CryptoCompare": "CryptoCompare's table, 7 columns, s",
}
"""What a file is -> how the one line tells that it was read"""


@pytest.mark.parametrize("form", READ_AS)
def test_how_a_file_was_read_is_told_in_one_line(tmp_path, caplog, form):
    caplog.set_level(logging.INFO)
    path = write(tmp_path, *FILES[form])
    candles = load_candles(path, "1h")
    assert caplog.messages == [f"{path.name}: read as {READ_AS[form]}"]
    assert candles.attrs["read_as"] == caplog.messages[0]


# --- what is left out is told

DAY_LIST = DAYS["timestamp"].dt.strftime("%m/%d/%Y")


def test_rows_without_prices_are_gaps(caplog):
    frame = KAGGLE.copy()
    frame.loc[[3, 4], frame.columns[1:]] = np.nan
    kept = load_candles(frame, "1h").drop(columns="quote_volume")
    assert_frame_equal(kept, HOURS.drop(index=[3, 4]).reset_index(drop=True))
    [line] = caplog.messages
    assert line.endswith("; 2 row(s) without prices left out as gaps")


def test_investing_com_gives_the_price_as_the_close_and_rounded_volumes(tmp_path):
    frame = pd.DataFrame({"Date": DAY_LIST, "Price": DAYS["close"].map("{:,.1f}".format)})
    for name in ("Open", "High", "Low"):
        frame[name] = DAYS[name.lower()].map("{:,.1f}".format)
    frame["Vol."] = (DAYS["volume"] / 1000).map("{:.2f}K".format)
    frame["Change %"] = "0.1%"
    path = write(tmp_path, "x.csv", frame[::-1].to_csv(index=False, quoting=1))
    candles = load_candles(path, "1d")
    assert candles["timestamp"].equals(DAYS["timestamp"])
    for name in ("open", "high", "low", "close"):
        assert candles[name].tolist() == DAYS[name].map("{:.1f}".format).astype(float).tolist()
    np.testing.assert_allclose(candles["volume"], DAYS["volume"], atol=5.1)


def test_coinmarketcap_s_volume_is_dollars_and_so_unknown(tmp_path, caplog):
    opens = DAYS["timestamp"]
    closes = (opens + pd.Timedelta("1D") - pd.Timedelta("1ms")).dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    frame = pd.DataFrame({"timeOpen": opens.dt.strftime("%Y-%m-%dT%H:%M:%S.000Z")})
    frame = frame.assign(timeClose=closes, timeHigh=closes, timeLow=closes, name="2781")
    frame = frame.assign(**DAYS[OHLCV], marketCap=1e12, timestamp=closes)
    path = write(tmp_path, "x.csv", frame[::-1].to_csv(index=False, sep=";"))
    candles = load_candles(path, "1d")
    assert_frame_equal(candles, DAYS.assign(volume=0.0))
    [line] = caplog.messages
    assert "its volume is in the quote currency, so it counts as unknown" in line


def test_a_candle_that_has_not_closed_is_left_out(caplog):
    now = pd.Timestamp.now("UTC").floor("h")
    frame = HOURS.assign(timestamp=pd.date_range(end=now, periods=80, freq="h"))
    assert len(load_candles(frame, "1h")) == 79
    assert "1 candle(s) that have not closed are left out" in caplog.text
    flags = ["1"] * 79 + ["0"]
    confirmed = rows("ohlcv", BASE.tolist(), QUOTE.tolist(), flags, as_text=True)
    kept = load_candles(confirmed, "1h").drop(columns="quote_volume")
    assert_frame_equal(kept, HOURS[:-1])


# --- local times

ZONE = "America/New_York"


def in_new_york(start: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Hours from an instant of UTC, and the same with the local times of New York, without zone."""
    times = pd.Series(pd.date_range(start, periods=80, freq="h", tz="UTC"))
    candles = HOURS.assign(timestamp=times.astype("datetime64[ms, UTC]"))
    local = candles["timestamp"].dt.tz_convert(ZONE).dt.tz_localize(None)
    return candles, candles.assign(timestamp=local.dt.strftime("%Y-%m-%d %H:%M"))


@pytest.mark.parametrize("start", ["2024-03-09", "2024-11-02", "2024-07-01"])
def test_local_times_are_read_by_their_zone(start):
    candles, local = in_new_york(start)
    assert_frame_equal(load_candles(local, "1h", timezone=ZONE), candles)
    assert_frame_equal(load_candles(local[::-1], "1h", timezone=ZONE), candles)


def test_a_gap_on_a_change_of_the_clocks_is_told_of_and_a_repeat_is_a_question(caplog):
    _, spring = in_new_york("2024-03-09")
    load_candles(spring, "1h")
    assert "falls on a change of the clocks in America/New_York" in caplog.text
    _, autumn = in_new_york("2024-11-02")
    with pytest.raises(ValueError, match=r"clocks of America/New_York show this hour twice"):
        load_candles(autumn, "1h")


def test_an_unknown_zone_is_refused():
    local = HOURS.assign(timestamp=TEXT_HOURS)
    with pytest.raises(ValueError, match="there is no time zone 'Atlantis'"):
        load_candles(local, "1h", timezone="Atlantis")


# --- what is doubtful is asked

TWO = pd.concat([HOURS.assign(symbol="BTC/USDT"), HOURS.assign(symbol="ETH/USDT")])
CONTRARY = pd.concat([HOURS, HOURS[10:11].assign(close=HOURS["high"][10])])
TICKERS = pd.concat([yfinance(), yfinance().rename(columns={"BTC-USD": "ETH-USD"})], axis=1)
DATES = pd.DataFrame({"Date": DAYS["timestamp"].dt.strftime("%d/%m/%Y")}).assign(**DAYS[OHLCV])[:12]
DATES["Date"] = [f"0{1 + row % 9}/0{1 + row // 9}/2024" for row in range(12)]
COARSE = HOURS.assign(timestamp=HOURS["timestamp"].iloc[-1] + pd.to_timedelta(
    4 * (np.arange(80) + 1), "h"
))  # fmt: skip
QUARTERS = pd.to_timedelta(15 * np.arange(40), "min")
POINTS = NAMED.assign(open=NAMED["open"].map("{:.2f}".format))
POINTS["close"] = NAMED["close"].map("{:.2f}".format).str.replace(".", ",")


def swapped(one: str, other: str, frame: pd.DataFrame = NAMED) -> pd.DataFrame:
    return frame.rename(columns={one: other, other: one})


DOUBTS = {
    "open and close swapped": (swapped("open", "close"), "are open and close swapped"),
    "high and low swapped": (swapped("high", "low"), "are 'high' and 'low' swapped"),
    "open and high swapped": (swapped("open", "high"), "are 'high' and 'open' swapped"),
    "low and close swapped in the schema": (
        swapped("low", "close", HOURS),
        "are 'low' and 'close' swapped",
    ),
    "a volume in dollars": (
        table(time=MS, open="o", high="h", low="l", close="c", Volume=QUOTE, size="v"),
        "'Volume' is 'size' times the price.*are the two swapped",
    ),
    "two frames": ({"BTC/USDT": HOURS, "ETH/USDT": HOURS}, "2 frames, of .*; which one"),
    "two signs": (
        HOURS.assign(close=["$5", "€5"] * 40),
        "prices in [$] and € are mixed; in which currency",
    ),
    "the volumes swapped": (swapped("volume", "quote_volume", binance()), "are the two swapped"),
    "two pairs": (TWO, "'symbol' holds 2 values, BTC/USDT, ETH/USDT; of which one"),
    "two currencies": (
        HOURS.assign(currency=["USD"] * 40 + ["EUR"] * 40),
        "'currency' holds 2 values, USD, EUR; of which one",
    ),
    "two tickers": (TICKERS, "2 tickers, BTC-USD, ETH-USD; which one"),
    "contrary rows": (CONTRARY, "twice with different values.*which one is right"),
    "day or month": (DATES, "the day or the month first"),
    "two timeframes": (pd.concat([HOURS, COARSE]), "4h apart and others 60 min; which timeframe"),
    "two timeframes, the shorter one last": (
        pd.concat([HOURS[:40], HOURS[40:].assign(timestamp=HOURS["timestamp"][40] + QUARTERS)]),
        "off the 1h grid",
    ),
    "the quote's volume alone": (
        table(timestamp=MS, open="o", high="h", low="l", close="c", quote_volume=QUOTE),
        "the only volume is that of the quote currency, 'quote_volume'; which column",
    ),
    "dollars alone": (
        table(timestamp=MS, open="o", high="h", low="l", close="c", **{"Volume USDT": QUOTE}),
        "the volume is there as 'Volume USDT'; is that the traded amount of the coin",
    ),
    "a lone volume of a coin that prices are in": (
        table(timestamp=MS, open="o", high="h", low="l", close="c", **{"Volume BTC": "v"}),
        "the volume is there as 'Volume BTC'; is that",
    ),
    "no volume": (HOURS.drop(columns="volume"), "which column is 'volume'"),
    "close time for time": (
        HOURS.assign(timestamp=MS + HOUR - 1),
        "look like those of the closes; are they",
    ),
    "two times": (
        HOURS.assign(date=HOURS["timestamp"] + pd.Timedelta("1h")),
        "'timestamp' and 'date' tell different times.*which one",
    ),
    "two closes": (
        HOURS.drop(columns="close").assign(Close=HOURS["close"], Last=HOURS["open"]),
        "two columns may be the close, 'Close' and 'Last'; which one",
    ),
    "prices of one value": ([[int(t), 5.0, 5.0, 5.0, 5.0, 1.0, 1.0] for t in MS], None),
    "no order fits": ([[t, h, o, c, low, v] for t, o, h, low, c, v in rows()], "which column is"),
    "a row number for the time": ([[n, *row[1:]] for n, row in enumerate(rows())], "which column"),
    "two tables": (
        {"BTC": {"rows": rows()}, "ETH": {"rows": rows()}},
        "2 tables lie in it.*which one",
    ),
    "rows of two widths": ([*rows()[:5], *([*row, 1] for row in rows()[5:])], "which are the"),
    "half an hour off": (HOURS.assign(timestamp=MS + HOUR // 2), "off the 1h grid"),
}
"""What is doubtful -> what is passed, and the question"""


@pytest.mark.parametrize("doubt", [name for name in DOUBTS if DOUBTS[name][1]])
def test_what_is_doubtful_is_refused_with_one_question(doubt):
    what, question = DOUBTS[doubt]
    with pytest.raises(ValueError, match=question) as caught:
        load_candles(what, "1h")
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(("candles: ", "candles, "))


DOUBTFUL_FILES = {
    "decimal commas and points": (
        lines(POINTS, sep=";"),
        "is the comma of .* a decimal sign, or between thousands",
    ),
    "three digits behind each comma": (
        lines(
            NAMED.assign(open="42,123", high="43,123", low="41,123", close="42,124", Volume=7),
            sep=";",
        ),
        "is the comma of '42,123' a decimal sign",
    ),
    "quoted commas": (
        lines(NAMED.assign(open="42,123", high="43,123", low="41,123", close="42,124", Volume=7)),
        "is the comma of '42,123' a decimal sign",
    ),
    "more values than names": (
        "time,open,high,low,close,volume\n" + lines(binance(), header=False),
        "its header names 6 columns and its first row has 12 values; which column is which",
    ),
    "two tickers": (TICKERS.to_csv(), "2 tickers, BTC-USD, ETH-USD; which one"),
    "another pair than the name's": (
        lines(HOURS.assign(symbol="ETH/USDT")),
        "its rows say ETH/USDT and its name says BTC/USDT; which one",
    ),
    "another currency than the name's": (
        lines(HOURS.assign(symbol="BTC/EUR")),
        "its rows say BTC/EUR and its name says BTC/USDT; which one",
    ),
    "Binance with columns swapped": (
        lines(binance().iloc[:, [0, 1, 3, 2, *range(4, 12)]], header=False),
        "which column is which of 12 without names",
    ),
}


@pytest.mark.parametrize("doubt", DOUBTFUL_FILES)
def test_a_doubtful_file_is_refused_with_one_question(tmp_path, doubt):
    content, question = DOUBTFUL_FILES[doubt]
    with pytest.raises(ValueError, match=question) as caught:
        load_candles(write(tmp_path, "BTCUSDT_1h.csv", content), "1h")
    assert str(caught.value).startswith("BTCUSDT_1h.csv: ")


def test_other_files_are_named_with_what_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"\.xlsx files are not read; save the candles as Parq"):
        load_candles(write(tmp_path, "x.xlsx", b"PK"))
    with pytest.raises(FileNotFoundError, match=r"x\.csv: there is no such file"):
        load_candles(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="candles: NoneType holds no candles; pass"):
        load_candles(None)


def test_names_are_compared_without_case_signs_and_spaces():
    assert plain_name(" Volume_(BTC) ") == "volumebtc" and plain_name("<Open>") == "open"


# --- forecasts


def test_every_form_is_forecast_to_the_last_bit(tiny_bundle, signal_market, tmp_path):
    """What a frame says, its lists, its index and its file say, too."""
    predictor = CryptoPricePredictorV2.from_directory(tiny_bundle)
    frame = signal_market["BTC/USDT"][["timestamp", *OHLCV]]
    ms = timestamps_ms(frame).tolist()
    lists = [[time, *row] for time, row in zip(ms, frame[OHLCV].to_numpy().tolist())]
    (tmp_path / "x.csv").write_text(pd.DataFrame(lists[::-1]).to_csv(header=False, index=False))
    forms = [
        lists,
        frame.set_index("timestamp").rename(columns=str.capitalize),
        frame[::-1],
        load_candles(tmp_path / "x.csv", predictor.timeframe),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of funding, which no form has
        want = predictor.predict(frame)
        for form in forms:
            assert predictor.predict(form) == want
        assert predictor.predict_batch(forms) == [want] * len(forms)
        assert_frame_equal(predictor.predict_history(lists), predictor.predict_history(frame))


# --- bounds


def test_files_of_other_forms_are_counted_before_they_are_read_too(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.candles.table_size.MAX_ROWS", 1000)
    monkeypatch.setattr("pipeline.candles.table_size.MAX_JSON_ROWS", 50)
    many = pd.concat([HOURS] * 13)
    many.to_feather(tmp_path / "x.feather")
    with pytest.raises(ValueError, match="1,040 rows and 7,280 values or more, at most 1,000"):
        load_candles(tmp_path / "x.feather")
    with pytest.raises(ValueError, match="1,040 rows and .* at most 1,000"):
        load_candles(write(tmp_path, "x.csv", lines(many)))
    with pytest.raises(ValueError, match="80 rows or more, at most .* 50 are read of JSON"):
        load_candles(write(tmp_path, "x.json", HOURS.to_json(orient="records")))
    HOURS.assign(note="x").to_feather(tmp_path / "y.feather")
    with pytest.raises(ValueError, match="column 'note' holds no numbers or times"):
        load_candles(tmp_path / "y.feather")


@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_what_is_unpacked_is_bounded(tmp_path, monkeypatch, packed):
    monkeypatch.setattr("pipeline.candles.text_tables.open_bytes.__wrapped__.__defaults__", (5000,))
    path = tmp_path / f"x.csv.{packed}"
    if packed == "gz":
        path.write_bytes(gzip.compress(lines(HOURS).encode()))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.csv", lines(HOURS))
    with pytest.raises(ValueError, match="it has more than 5,000 bytes"):
        load_candles(path)
