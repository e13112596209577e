"""Files of forecasts as people save them: read without doubt, or one question that decides it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from judge import judge
from pipeline.candles import store
from pipeline.forecasts.conventions import Conventions
from pipeline.forecasts.foreign import read_forecasts
from tests.test_judge import HOUR, frame_of, free, moves, walk

HEADER = "symbol,timestamp,"


@pytest.fixture(scope="module")
def candles() -> pd.DataFrame:
    return walk()


@pytest.fixture(scope="module")
def noise(candles) -> np.ndarray:
    return 1e-5 * np.random.default_rng(1).standard_normal(len(candles))


def read_lines(tmp_path, *lines: str, name: str = "mine.csv", **options) -> pd.DataFrame:
    """What the one model of a file with these lines says."""
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    [read] = read_forecasts(path, Conventions(**options))
    return read.frame


# --- texts


def test_leading_empty_forecasts_do_not_hide_the_header(tmp_path):
    empty = [f"BTC/USDT,2024-01-0{day} 00:00," for day in range(1, 6)]
    rows = read_lines(tmp_path, HEADER + "forecast_return", *empty, "BTC/USDT,2024-01-06,0.25")
    assert rows["forecast_return"].tolist()[-1] == 0.25
    assert rows["forecast_return"].isna().sum() == 5


def test_a_file_whose_first_sixty_forecasts_are_empty_is_judged(candles, noise, tmp_path):
    made = frame_of(candles, noise)
    made.loc[:59, "forecast_return"] = np.nan
    made.to_csv(tmp_path / "mine.csv", index=False)
    [metrics] = free(tmp_path / "mine.csv", candles).metrics.values()
    assert metrics["test"]["n"] == len(made) - 60


def test_directions_in_words_are_read_from_a_text(tmp_path):
    lines = ["BTC/USDT,2024-01-01,long", "BTC/USDT,2024-01-02,short", "BTC/USDT,2024-01-03,flat"]
    rows = read_lines(tmp_path, HEADER + "direction", *lines)
    assert rows["direction"].tolist() == [1, -1, 0]
    rows = read_lines(tmp_path, "timestamp,direction", *(line[9:] for line in lines))
    assert rows["direction"].tolist() == [1, -1, 0]


def test_words_say_directions_in_a_column_of_no_unit(tmp_path):
    lines = ["BTC/USDT,2024-01-01,UP", "BTC/USDT,2024-01-02,down"]
    rows = read_lines(tmp_path, HEADER + "prediction", *lines)
    assert rows["direction"].tolist() == [1, -1] and "forecast" not in rows


def test_what_a_german_spreadsheet_saves_is_read(tmp_path):
    lines = ["BTCUSDT;03.03.2024 12:00;-0,00033", "BTCUSDT;13.03.2024 12:00;-3,5E-05"]
    rows = read_lines(tmp_path, "symbol;timestamp;forecast_return", *lines)
    assert rows["forecast_return"].tolist() == [-0.00033, -0.000035]
    assert str(rows["timestamp"][0]) == "2024-03-03 12:00:00+00:00"
    rows = read_lines(tmp_path, "timestamp;forecast_return", *(line[8:] for line in lines))
    assert rows["forecast_return"].tolist() == [-0.00033, -0.000035]
    lines = ["03.03.2024;0,033", "13.03.2024;0,012"]
    rows = read_lines(tmp_path, "timestamp;forecast_return", *lines)
    assert rows["forecast_return"].tolist() == [0.033, 0.012]


def test_numbers_with_a_percent_sign_are_a_hundredth(tmp_path):
    lines = ["BTCUSDT;03.03.2024 12:00;-0,033%", "BTCUSDT;13.03.2024 12:00;1,5%"]
    rows = read_lines(tmp_path, "symbol;timestamp;forecast_return", *lines)
    assert rows["forecast_return"].tolist() == pytest.approx([-0.00033, 0.015])
    lines = ["BTCUSDT,2024-03-03,55%", "BTCUSDT,2024-03-04,"]
    assert read_lines(tmp_path, HEADER + "p_up", *lines)["p_up"].tolist()[0] == 0.55


def test_dates_with_the_month_first_are_read(tmp_path):
    lines = ["BTCUSDT,03/05/2024 02:00,0.001", "BTCUSDT,03/15/2024 02:00,0.001"]
    rows = read_lines(tmp_path, HEADER + "forecast_return", *lines)
    assert str(rows["timestamp"][0]) == "2024-03-05 02:00:00+00:00"


def test_a_title_above_the_header_is_left_out(tmp_path):
    rows = read_lines(tmp_path, "my model, v2", HEADER + "p_up", "BTCUSDT,2024-01-01,0.5")
    assert rows["p_up"].tolist() == [0.5]


def test_a_spreadsheet_is_no_file_of_candles(tmp_path):
    (tmp_path / "mine.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"\.xlsx files are not read; save the forecasts as"):
        read_forecasts(tmp_path / "mine.xlsx")


# --- units


def test_returns_in_percent_are_asked_about_and_divided(candles):
    rule = -0.06 * np.nan_to_num(moves(candles))
    expected = free(frame_of(candles, rule), candles)
    made = frame_of(candles, 100 * rule)
    with pytest.raises(ValueError, match=r"is it in percent\? pass --unit percent"):
        free(made, candles)
    [one], [other] = (
        expected.predictions.values(),
        free(made, candles, unit="percent").predictions.values(),
    )
    pd.testing.assert_frame_equal(one, other)


def test_small_percentages_are_told_by_their_loss(candles):
    weak = 2.0 * np.nan_to_num(moves(candles))  # of the usual size of a move
    with pytest.raises(ValueError, match=r"its error 2\.\d* times that of no move"):
        free(frame_of(candles, weak), candles)
    assert free(frame_of(candles, weak), candles, unit="return").verdicts


def test_intervals_in_percent_are_asked_about(candles, noise):
    made = frame_of(candles, noise).assign(q10=-0.6, q50=0.0, q90=0.6)
    for some in (made, made.assign(q10=-0.3, q90=0.3)):
        with pytest.raises(ValueError, match="percent"):
            free(some, candles)
    free(made.assign(forecast_return=100 * noise[100:-5]), candles, unit="percent")


def calls_of(candles, *values) -> np.ndarray:
    return np.random.default_rng(0).choice(np.array(values, dtype=float), len(candles))


@pytest.mark.parametrize("column", ["prediction", "forecast_return"])
@pytest.mark.parametrize("values", [(0, 0, 0, 1), (-1, 0, 0, 0, 1)])
def test_a_classifiers_classes_are_no_returns(candles, column, values):
    made = frame_of(candles, calls_of(candles, *values), column)
    with pytest.raises(ValueError, match=r"are they directions\? pass --unit direction"):
        free(made, candles, stamped="known")
    judged = free(made, candles, stamped="known", unit="direction")
    [metrics] = judged.metrics.values()
    assert metrics["kind"] == "direction"


def test_zero_means_down_of_a_direction_and_none_of_a_position(candles):
    calls = calls_of(candles, 0, 1)
    made = frame_of(candles, calls, "prediction")
    [down] = free(made, candles, stamped="known", unit="direction").predictions.values()
    [none] = free(made, candles, stamped="known", unit="position").predictions.values()
    assert np.sign(down["forecasts"]).tolist() == (2 * calls - 1)[100:-5].tolist()
    assert np.sign(none["forecasts"]).tolist() == calls[100:-5].tolist()


def test_probabilities_in_a_column_of_no_unit_are_asked_about(candles):
    p_up = np.random.default_rng(0).uniform(0.3, 0.7, len(candles))
    made = frame_of(candles, p_up, "prediction")
    with pytest.raises(ValueError, match=r"probabilities of a rise\? pass --unit p_up"):
        free(made, candles, stamped="known")
    [rows] = free(made, candles, stamped="known", unit="p_up").predictions.values()
    assert rows["p_up"].tolist() == p_up[100:-5].tolist()


def test_a_coin_of_half_a_dollar_has_prices(noise):
    cheap = walk(price=0.5)
    judged = free(frame_of(cheap, cheap["close"] * 1.0001, "prediction"), cheap, stamped="known")
    [rows] = judged.predictions.values()
    assert rows["forecasts"].to_numpy() == pytest.approx(np.log(1.0001))


# --- numbers that are missing


def test_one_infinite_forecast_is_no_number_and_the_others_count(candles, noise):
    made = frame_of(candles, noise)
    made.loc[7, "forecast_return"] = np.inf
    [metrics] = free(made, candles).metrics.values()
    assert metrics["test"]["n"] == len(made) - 1
    assert metrics["test"]["models"]["forecasts"]["mae"] is not None
    names = [one["name"] for one in metrics["suspicions"]]
    assert "not_numbers" in names and "too_few" not in names


def test_forecasts_without_an_interval_count_as_forecasts(candles, noise):
    made = frame_of(candles, noise).assign(q10=-0.006, q50=0.0, q90=0.006)
    made.loc[made.index % 10 < 3, "q10"] = np.nan
    [metrics] = free(made, candles).metrics.values()
    actual = moves(candles)[101:-4][made["q10"].notna()]
    assert metrics["test"]["n"] == len(made)
    inside = (np.abs(actual) <= 0.006).mean()
    assert metrics["test"]["interval"]["coverage"] == pytest.approx(inside, rel=1e-12)
    told = " ".join(metrics["test"]["warnings"])
    assert "450 of 1,495 forecasts have no interval" in told
    [metrics] = free(made.assign(q10=np.nan), candles).metrics.values()
    assert metrics["test"]["interval"] is None and metrics["test"]["n"] == len(made)


def test_forecasts_without_p_up_count_as_forecasts(candles, noise):
    made = frame_of(candles, noise).assign(p_up=0.5)
    made.loc[:9, "p_up"] = np.nan
    [metrics] = free(made, candles).metrics.values()
    assert metrics["test"]["n"] == len(made) and metrics["test"]["probability"] is None
    assert "p_up is not scored: 10 of 1,495 forecasts have none" in metrics["notes"][0]


# --- times


def test_predicted_candles_stand_at_what_they_forecast(candles):
    rows = candles.iloc[101:-5][["timestamp", "open", "high", "low", "close"]]
    with pytest.raises(ValueError, match=r"--stamped target; of paths of N candles, .* --path N"):
        free(rows.rename(columns={"timestamp": "timestamps", "close": "Close"}), candles)
    [metrics] = free(rows, candles, stamped="target").metrics.values()
    assert "each row is taken as made 1 candle(s) before what it forecasts" in metrics["notes"][0]


def test_a_path_of_predicted_candles_is_told_apart_by_its_cutoff(candles):
    rows = candles.iloc[100:340][["timestamp", "open", "high", "low", "close"]]
    ahead = np.arange(240) % 24 + 1
    path = rows.assign(cutoff=rows["timestamp"] - ahead * HOUR)
    [metrics] = free(path, candles, horizon=5).metrics.values()
    assert metrics["test"]["n"] == 10
    assert "230 rows are of another horizon than 5" in metrics["notes"][0]


def test_rows_a_day_apart_are_not_taken_for_forecasts_of_an_hour(candles, noise):
    daily = frame_of(candles, noise, rows=slice(120, -48, 24))
    with pytest.raises(ValueError, match="24 candles of 1h apart") as asked:
        free(daily, candles)
    assert "--horizon 24 for" in str(asked.value) and "--timeframe 1d for" in str(asked.value)
    [metrics] = free(daily, candles, horizon=24).metrics.values()
    assert metrics["horizon"] == 24
    [metrics] = free(daily, candles, horizon=1).metrics.values()
    assert metrics["test"]["n"] == len(daily)
    assert free(daily, candles, timeframe="1h").verdicts


def test_rows_five_hours_apart_have_no_timeframe_to_offer(candles, noise):
    with pytest.raises(ValueError, match="5 candles of 1h apart") as asked:
        free(frame_of(candles, noise, rows=slice(120, -48, 5)), candles)
    assert "--timeframe" not in str(asked.value)


def test_a_function_that_forecasts_every_day_is_not_asked(candles):
    judged = free(lambda given: 1e-5 * np.sign(len(given) % 2 - 0.5), candles, every=24)
    assert len(judged.verdicts) == 1


def test_times_without_a_zone_are_told(tmp_path):
    path = tmp_path / "mine.csv"
    for time, is_told in (("2024-01-01 00:00", True), ("2024-01-01T00:00Z", False)):
        path.write_text(f"{HEADER}p_up\nBTCUSDT,{time},0.5\n")
        [read] = read_forecasts(path)
        assert ("times without a zone, taken as UTC" in read.line) == is_told
        [read] = read_forecasts(path, Conventions(timezone="Europe/Berlin"))
        assert "taken as UTC" not in read.line


# --- intervals


def prophet(candles) -> pd.DataFrame:
    rows = candles[101:-5]
    last = candles["close"].to_numpy()[100:-6]
    made = {"ds": rows["timestamp"], "yhat": last * 1.0001}
    return pd.DataFrame(made | {"yhat_lower": last * 0.994, "yhat_upper": last * 1.006})


def test_the_level_of_prophets_interval_is_asked_about(candles):
    made = prophet(candles)
    with pytest.raises(ValueError, match="yhat_lower and yhat_upper\\? pass --level 80"):
        free(made, candles, stamped="target")
    judged = free(made, candles, stamped="target", level=80)
    [rows], [metrics] = judged.predictions.values(), judged.metrics.values()
    assert rows["q10"].to_numpy() == pytest.approx(np.log(0.994))
    assert metrics["test"]["interval"] is not None
    [metrics] = free(made, candles, stamped="target", level=95).metrics.values()
    assert metrics["test"]["interval"] is None
    assert "intervals of 95 % are not judged" in " ".join(metrics["notes"])


@pytest.mark.parametrize("names", [("q05", "q95"), ("0.05", "0.95"), ("p5", "p95")])
def test_intervals_of_another_level_are_noted(candles, noise, names):
    made = frame_of(candles, noise).assign(**dict(zip(names, (-0.01, 0.01))))
    [metrics] = free(made, candles).metrics.values()
    assert "intervals of 90 % are not judged, only those of 80 % (q10, q90)" in metrics["notes"]


def test_intervals_of_statsforecast_of_another_level_are_noted(candles):
    made = prophet(candles)[["ds"]].assign(unique_id="BTCUSDT", AutoARIMA=prophet(candles)["yhat"])
    made = made.assign(**{"AutoARIMA-lo-90": 1.0, "AutoARIMA-hi-90": 2.0})
    [metrics] = free(made, candles, stamped="target").metrics.values()
    assert "intervals of 90 % are not judged" in " ".join(metrics["notes"])


# --- pairs


def test_rows_of_a_pair_without_candles_are_counted(candles, noise, tmp_path):
    made = frame_of(candles, noise)
    both = pd.concat([made, made[:700].assign(symbol="SOL/USDT")])
    [metrics] = free(both, candles).metrics.values()
    assert (
        "700 rows of SOL/USDT are not judged: no candles of SOL/USDT in frames" in metrics["notes"]
    )
    assert "without_candles" not in [one["name"] for one in metrics["suspicions"]]


def test_a_column_for_each_pair_is_read(candles, noise, tmp_path):
    other = walk(seed=9)
    wide = pd.DataFrame(
        {"timestamp": candles["timestamp"], "BTC/USDT": noise, "ETHUSDT": 2 * noise}
    )
    wide[100:-5].to_csv(tmp_path / "wide.csv", index=False)
    both = {"BTC/USDT": candles, "ETH/USDT": other}
    judged = judge(tmp_path / "wide.csv", both, baselines=("naive",), stamped="known")
    [rows] = judged.predictions.values()
    of_eth = rows[rows["symbol"] == "ETH/USDT"]
    assert of_eth["wide"].to_numpy() == pytest.approx(2 * noise[100:-5])
    assert len(rows) == 2 * len(of_eth)


@pytest.mark.parametrize("name", ["BTC", "BINANCE:BTCUSDT", "BTCUSDT.P", "BTC-USDT-SWAP"])
def test_a_name_that_is_no_pair_is_asked_about(candles, noise, tmp_path, name):
    made = frame_of(candles, noise).assign(symbol=name).rename(columns={"symbol": "ticker"})
    store.write_candles(candles, tmp_path, "BTC/USDT", "1h", "binance")
    for where in (tmp_path, {"BTC/USDT": candles}):
        with pytest.raises(ValueError, match=f"'{name}' in column 'ticker' is no pair") as asked:
            judge(made, where, baselines=("naive",))
        assert f"of BTC/USDT; which is it? pass --pairs {name}=PAIR" in str(asked.value)
        judged = judge(made, where, baselines=("naive",), pairs={name: "BTC/USDT"})
        [metrics] = judged.metrics.values()
        assert metrics["test"]["n"] == len(made)


def test_the_pair_in_a_files_name_is_seen(tmp_path):
    line = "2024-01-01,0.5"
    for name in ("BTCUSDT_signals.csv", "BTCUSDT_1h_my_model.csv", "kronos_BTCUSDT.csv"):
        rows = read_lines(tmp_path, "timestamp,p_up", line, name=name)
        assert rows["symbol"].tolist() == ["BTC/USDT"]
    for name in ("my_modelusd_v2.csv", "BTCUSDT_ETHUSDT_both.csv"):
        rows = read_lines(tmp_path, "timestamp,p_up", line, name=name)
        assert rows["symbol"].tolist() == [""]


# --- the command


@pytest.mark.slow
def test_what_is_asked_is_answered_by_options(candles, noise, tmp_path):
    store.write_candles(candles, tmp_path / "candles", "BTC/USDT", "1h", "binance")
    rule = 100 * -0.06 * np.nan_to_num(moves(candles))
    made = frame_of(candles, rule, "yhat", rows=slice(120, -48, 24)).rename(
        columns={"timestamp": "ds", "symbol": "ticker"}
    )
    made = made.assign(ticker="BTC", yhat_lower=made["yhat"] - 1, yhat_upper=made["yhat"] + 1)
    made.to_csv(tmp_path / "mine.csv", index=False)
    command = [
        *(sys.executable, "judge.py", "--json", "--forecasts", str(tmp_path / "mine.csv")),
        *("--candles-dir", str(tmp_path / "candles"), "--out", str(tmp_path / "out")),
        *("--baselines", "naive"),
    ]
    root = Path(__file__).resolve().parents[1]
    answers = [("--horizon", "1"), ("--stamped", "known"), ("--pairs", "BTC=BTC/USDT")]
    for asked, answered in [
        (["pass --level 80"], [("--level", "80")]),
        (["pass --horizon 24", "pass --stamped target", "pass --pairs BTC=PAIR"], answers),
        (["pass --unit percent"], [("--unit", "percent")]),
    ]:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert done.returncode == 2 and all(question in done.stderr for question in asked)
        command += [word for answer in answered for word in answer]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] == len(made)


# --- what a stranger's files hold besides


def nixtla(candles, prices, rows=slice(100, -5)) -> pd.DataFrame:
    """A frame of statsforecast's `forecast`: each row at the candle that it is of."""
    made = candles.iloc[rows]
    return pd.DataFrame(
        {"unique_id": "BTCUSDT", "ds": made["timestamp"] + HOUR, "AutoARIMA": prices[rows]}
    )


def paths(candles, n_candles: int) -> pd.DataFrame:
    """Predicted candles of paths that follow one another, each flat at the price that it knew."""
    first, n = 100, 240
    start = first + np.arange(n) // n_candles * n_candles
    price = candles["close"].to_numpy()[start - 1]
    rows = candles.iloc[first : first + n][["timestamp"]]
    return rows.assign(open=price, high=price, low=price, close=price * 1.0001)


def test_the_number_of_a_row_is_no_model(candles, tmp_path):
    made = nixtla(candles, candles["close"].to_numpy() * 1.001)
    made["cutoff"] = made["ds"] - HOUR
    made.to_csv(tmp_path / "cv.csv")
    [read] = read_forecasts(tmp_path / "cv.csv")
    assert read.name == "AutoARIMA"


def test_quantiles_beside_their_model_are_no_models(candles):
    price = candles["close"].to_numpy()
    for names in (
        ("TimesFM-q-0.1", "TimesFM-q-0.5", "TimesFM-q-0.9"),
        ("TimesFM_ql0.1", "TimesFM_ql0.5", "TimesFM_ql0.9"),
    ):
        made = nixtla(candles, price).rename(columns={"AutoARIMA": "TimesFM"})
        made = made.assign(**{name: price[100:-5] * k for name, k in zip(names, (0.99, 1, 1.01))})
        [read] = read_forecasts(made)
        assert read.name == "TimesFM" and {"q10", "q50", "q90"} <= set(read.frame)


def test_samples_of_darts_are_read(candles):
    noise = np.random.default_rng(0).normal(1, 0.01, (len(candles), 10))
    names = [f"close_s{n}" for n in range(10)]
    made = pd.DataFrame(noise * candles["close"].to_numpy()[:, None], columns=names)
    [read] = read_forecasts(made.assign(time=candles["timestamp"]))
    assert "10 samples a row" in read.line


def test_a_frame_of_two_indices_is_read_from_parquet(candles, noise, tmp_path):
    made = frame_of(candles, noise).set_index(["symbol", "timestamp"])
    made.to_parquet(tmp_path / "mine.parquet")
    [read] = read_forecasts(tmp_path / "mine.parquet")
    assert read.frame["symbol"].unique().tolist() == ["BTC/USDT"]


def test_two_columns_of_one_name_are_refused(candles, noise):
    made = frame_of(candles, noise)
    twice = pd.concat([made, made[["forecast_return"]]], axis=1)
    with pytest.raises(ValueError, match="two of its columns are called 'forecast_return'"):
        read_forecasts(twice)


def test_a_header_of_names_that_say_nothing_is_a_header(tmp_path):
    with pytest.raises(ValueError, match="which of its columns Date, entries, exits is the fore"):
        read_lines(tmp_path, "Date,entries,exits", "2024-01-01,True,False", "2024-01-02,False,True")


def test_a_series_is_a_forecast(candles, noise):
    [read] = read_forecasts(pd.Series(noise, candles["timestamp"], name="r"))
    assert read.frame["forecast"].tolist() == noise.tolist()


def test_what_holds_no_forecasts_is_not_asked_for_candles():
    for what in (None, 5, [1.0, 2.0], np.zeros(3)):
        with pytest.raises(ValueError, match="holds no forecasts that are read"):
            read_forecasts(what)


def test_frames_by_pair_are_one_model(candles, noise):
    made = frame_of(candles, noise).drop(columns="symbol")
    market = {"BTC/USDT": candles, "ETH/USDT": walk(seed=3)}
    judged = judge({"BTC/USDT": made, "ETH/USDT": made}, market, baselines=["naive"])
    [predictions] = judged.predictions.values()
    assert predictions["symbol"].value_counts().tolist() == [len(made), len(made)]


def test_nothing_at_all_is_refused(candles):
    with pytest.raises(ValueError, match="nothing to judge"):
        free([], candles)


def test_columns_are_what_their_maker_says(tmp_path):
    lines = ("Date and time,Price,Chance", "2024-01-01,100,0.6", "2024-01-02,101,0.4")
    with pytest.raises(ValueError, match="--columns NAME=time"):
        read_lines(tmp_path, *lines)
    columns = {"Date and time": "time", "Chance": "p_up"}
    rows = read_lines(tmp_path, *lines, columns=columns)
    assert rows["p_up"].tolist() == [0.6, 0.4]
    with pytest.raises(ValueError, match="there is no column 'Chances'; its columns are Date"):
        read_lines(tmp_path, *lines, columns={"Chances": "p_up"})
    with pytest.raises(ValueError, match="columns has 'chance'; a column is one of time, symbol"):
        read_lines(tmp_path, *lines, columns={"Chance": "chance"})


def test_a_column_that_is_said_to_be_a_price_has_no_contract_of_its_time(candles, noise):
    made = frame_of(candles, candles["close"].to_numpy(), column="close")
    with pytest.raises(ValueError, match="what is the time of a forecast"):
        free(made, candles, columns={"close": "forecast_price"})
    assert free(made, candles, columns={"close": "forecast_price"}, stamped="known").verdicts


def test_several_columns_that_are_said_to_be_forecasts_are_models(candles, noise):
    made = frame_of(candles, noise, column="lstm").assign(gru=1e-5)
    columns = {"lstm": "forecast", "gru": "forecast"}
    assert set(free(made, candles, columns=columns, stamped="known").verdicts) == {"lstm", "gru"}


def test_columns_of_coins_are_pairs_where_their_maker_says_so(candles, tmp_path):
    price = candles["close"].to_numpy()
    wide = pd.DataFrame({"time": candles["timestamp"], "BTC_pred": price, "BTC_actual": price})
    with pytest.raises(ValueError, match=r"own column, --pairs BTC_pred=BTC/USDT$"):
        read_forecasts(wide)
    [read] = read_forecasts(wide, Conventions(pairs={"BTC_pred": "BTC/USDT"}))
    assert read.frame["symbol"].unique().tolist() == ["BTC/USDT"] and len(read.frame) == 1600


def test_prices_in_another_dollar_are_asked_about(candles, noise, tmp_path):
    candles.to_parquet(tmp_path / "BTCUSDT_1h.parquet")
    made = frame_of(candles, noise).assign(symbol="BTC-USD")
    with pytest.raises(ValueError, match="pass --pairs BTC/USD=BTC/USDT"):
        judge(made, tmp_path)
    pairs = {"BTC/USD": "BTC/USDT"}
    assert judge(made, tmp_path, pairs=pairs, baselines=["naive"]).verdicts


def test_a_column_of_horizons_is_obeyed(candles, noise):
    made = frame_of(candles, noise).assign(horizon=4)
    with pytest.raises(ValueError, match="are 4 candles ahead of the last .* none of them 1"):
        free(made, candles)
    [metrics] = free(made, candles, horizon=4).metrics.values()
    assert metrics["test"]["n"] == len(made)
    assert free(made, candles, columns={"horizon": "nothing"}).verdicts


@pytest.mark.parametrize("n_candles", [2, 6, 24, 240])
def test_a_path_is_noticed_by_what_its_rows_do_not_know(candles, n_candles):
    made = paths(candles, n_candles)
    with pytest.raises(ValueError, match="as a path does whose rows were made at once"):
        free(made, candles, stamped="target")
    [metrics] = free(made, candles, path=n_candles, horizon=2).metrics.values()
    assert metrics["test"]["n"] == 240 // n_candles
    assert free(made, candles, stamped="target", path=1).verdicts


def test_prices_that_were_made_one_by_one_are_no_path(candles, noise):
    known = candles["close"].to_numpy() * np.exp(noise)
    for horizon in (1, 4):
        made = nixtla(candles, known)
        made["ds"] += (horizon - 1) * HOUR
        assert free(made, candles, stamped="target", horizon=horizon).verdicts


def test_paths_of_another_length_are_refused(candles):
    made = paths(candles, 24)
    with pytest.raises(ValueError, match="240 rows are no whole number of paths of 25"):
        free(made, candles, path=25)
    with pytest.raises(ValueError, match="rows are not 0 days 01:00:00 later than the row before"):
        free(made.drop(index=made.index[[5, 9]]), candles, path=14 * 17)


def test_when_a_row_was_made_tells_the_last_candle_that_had_closed(candles):
    made = paths(candles, 24)
    first = made["timestamp"].to_numpy()[np.arange(240) // 24 * 24]
    made["run_at"] = pd.to_datetime(first) + pd.Timedelta("7s")  # when the candle before closed
    judged = free(made, candles, columns={"run_at": "made"}, horizon=3)
    [predictions] = judged.predictions.values()
    known = candles["timestamp"].to_numpy()[99:339:24]
    assert (predictions["timestamp"].to_numpy() == known).all()


def test_a_cutoff_is_a_closing_time_where_all_times_are(candles):
    made = nixtla(candles, candles["close"].to_numpy())
    made["cutoff"] = made["ds"] - HOUR
    closing = made.assign(ds=made["ds"] + HOUR, cutoff=made["cutoff"] + HOUR)
    [opens] = free(made, candles).predictions.values()
    [closes] = free(closing, candles, stamped="close").predictions.values()
    pd.testing.assert_frame_equal(opens, closes)


def test_a_horizon_in_words_is_asked_about(candles, noise):
    made = frame_of(candles, noise).assign(horizon="4h")
    with pytest.raises(ValueError, match="'4h', no number of candles; how far .* horizon=nothing"):
        free(made, candles)
    assert free(made, candles, columns={"horizon": "nothing"}, horizon=4).verdicts


def test_the_day_and_the_time_of_day_are_one_time(tmp_path):
    lines = ("BTC/USDT,2024-01-01,13:00,0.5", "BTC/USDT,2024-01-01,14:00,0.6")
    rows = read_lines(tmp_path, "symbol,date,time,p_up", *lines)
    assert rows["timestamp"].dt.hour.tolist() == [13, 14]


def test_rows_of_a_path_are_not_stamped_with_what_was_known():
    with pytest.raises(ValueError, match="pass --path without --stamped known"):
        Conventions(stamped="known", path=24)
