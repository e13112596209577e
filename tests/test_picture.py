"""The picture of a forecast: volume, round ticks, and which past forecasts held."""

import numpy as np
import pandas as pd
import pytest

from pipeline.forecasts.picture import FORECAST, MISSED, _ticks, plot_forecast
from tests.test_prediction import forecast_of


def hours(n: int, start: str = "2024-01-01T05:00") -> pd.DataFrame:
    """Candles whose price stays at 100 but for the last, which closes at 103."""
    times = pd.date_range(start, periods=n, freq="h", tz="UTC")
    close = np.full(n, 100.0)
    close[-1] = 103.0
    columns = {"open": 100.0, "high": 104.0, "low": 99.0, "close": close, "volume": 7.0}
    return pd.DataFrame({"timestamp": times, **columns})


def forecasts(candles: pd.DataFrame) -> pd.DataFrame:
    """A forecast of ±1 % at each candle, as `predict_history` gives them."""
    return pd.DataFrame(
        {
            "last_timestamp": candles["timestamp"],
            "target_timestamp": candles["timestamp"] + pd.Timedelta("1h"),
            "q10": np.log(0.99),
            "q90": np.log(1.01),
        }
    )


def ahead_of(candles: pd.DataFrame):
    return forecast_of(timestamp=candles["timestamp"].iloc[-1] + pd.Timedelta("1h"))


def colours_behind(axes) -> dict[str, int]:
    """Colour -> how many bands of past forecasts have it."""
    from matplotlib.colors import to_hex

    bands = [lines for lines in axes.collections if lines.get_zorder() == 0]
    return {to_hex(lines.get_colors()[0]): len(lines.get_segments()) for lines in bands}


def test_past_forecasts_that_held_and_missed_are_counted_and_coloured():
    candles = hours(60)
    figure = plot_forecast(candles, ahead_of(candles), shown=10, history=forecasts(candles))
    prices, volume = figure.axes
    # 99 to 101 was forecast of each; of the ten candles shown nine closed at 100, one at 103.
    assert "9 of the last 10 forecasts held their 80 % interval" in prices.get_title(loc="left")
    assert colours_behind(prices) == {FORECAST: 9, MISSED: 1}
    assert len(prices.patches) == len(volume.patches) == 10
    assert [bar.get_height() for bar in volume.patches] == [7.0] * 10


@pytest.mark.parametrize("narrow", [False, True])
def test_volume_that_nobody_knows_and_narrow_pictures_have_one_axis(narrow):
    candles = hours(60) if narrow else hours(60).assign(volume=0.0)
    size = (4.0, 3.0) if narrow else (10.0, 5.0)
    figure = plot_forecast(candles, ahead_of(candles), size=size)
    assert len(figure.axes) == 1
    assert "forecasts held" not in figure.axes[0].get_title(loc="left")


def test_ticks_stand_at_round_instants():
    places, labels = _ticks(hours(72)["timestamp"], 6)  # from 05:00 on
    assert labels[:3] == ["01 Jan 12:00", "02 Jan 00:00", "02 Jan 12:00"]
    assert list(places[:3]) == [7, 19, 31] and len(places) <= 7
    days = pd.Series(pd.date_range("2024-01-03", periods=72, freq="D", tz="UTC"))
    assert all(len(label) == 6 for label in _ticks(days, 6)[1])
    odd = pd.Series(pd.date_range("2024-01-01T00:02", periods=3, freq="min", tz="UTC"))
    assert _ticks(odd, 6)[1] == ["01 Jan 00:02", "01 Jan 00:04"]
