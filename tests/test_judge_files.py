"""Files of forecasts as people save them: read without doubt, or one question that decides it."""

import numpy as np
import pandas as pd
import pytest

from judge import judge
from pipeline.forecasts.foreign import read_forecasts
from tests.test_judge import HOUR, candles, frame_of, free, moves, noise, walk  # noqa: F401

HEADER = "symbol,timestamp,"


def read_lines(tmp_path, *lines: str, name: str = "mine.csv", **options) -> pd.DataFrame:
    """What the one model of a file with these lines says."""
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    [read] = read_forecasts(path, **options)
    return read.frame


# --- texts


def test_leading_empty_forecasts_do_not_hide_the_header(tmp_path):
    empty = [f"BTC/USDT,2024-01-0{day} 00:00," for day in range(1, 6)]
    rows = read_lines(tmp_path, HEADER + "forecast_return", *empty, "BTC/USDT,2024-01-06,0.25")
    assert rows["forecast_return"].tolist()[-1] == 0.25
    assert rows["forecast_return"].isna().sum() == 5


def test_a_file_whose_first_sixty_forecasts_are_empty_is_judged(candles, noise, tmp_path):  # noqa: F811
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
