"""What the maker of forecasts says of them, and how columns of forecasts are spelt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Stamped = Literal["known", "close", "target"]
"""What a forecast's time is: the open of the last candle that it knew, the moment when that candle
closed, or the open of the candle that it is of"""
STAMPS: dict[str, str] = {
    "known": "the open of the last candle that the forecast knew",
    "close": "the moment when that candle closed, and the forecast was made",
    "target": "the open of the candle that is forecast",
}
Unit = Literal["return", "percent", "price", "direction", "position", "p_up"]
"""What a forecast is where its column does not tell; of a direction 0 may mean down, of a position
it means none"""
UNITS: tuple[str, ...] = get_args(Unit)
QUANTILES = ("q10", "q50", "q90")
SPELLINGS = {
    "forecast_return": "forecastreturn forecastlogreturn predictedreturn predictedlogreturn "
    "returnforecast logreturnforecast predreturn",
    "forecast_price": "forecastprice predictedprice priceforecast pricepredicted predprice "
    "predictedclose forecastclose predclose closeforecast",
    "direction": "direction predicteddirection forecastdirection signal signals position side",
    "p_up": "pup probup probabilityup upprobability probabilityofrise",
    "q10": "q10 p10 quantile10 01 quantile01",
    "q50": "q50 p50 quantile50 05 quantile05 median",
    "q90": "q90 p90 quantile90 09 quantile09",
    "forecast": "forecast yhat prediction predictions predicted pred ypred",
    "cutoff": "cutoff",
    "actual": "y actual truth ytrue target",
    "model": "model modelname",
    "horizon": "horizon stepsahead forecasthorizon",
    "made": "made",
}
"""Column of a forecast -> how it is spelt, as `plain_name` writes it. The unit of "forecast", a
return or a price, is told by the candles' own prices. `horizon` is how many candles ahead a row is,
`made` when it was made."""
CALLED = ("time", "symbol", *SPELLINGS, "position", "nothing")
"""What its maker may say that a column is"""
SEVERAL = ("forecast", "forecast_return", "forecast_price", "direction", "position", "p_up")
"""Of these several columns may be one, each of which is then a model"""
DOCUMENTED = ("forecast_return", "forecast_price", "direction", "p_up", *QUANTILES)
"""Names whose `timestamp` is by contract that of the last candle known."""


@dataclass(frozen=True)
class Conventions:
    """What the maker of forecasts says of them, where nothing in the rows tells."""

    stamped: Stamped | None = None
    """what the times are"""
    symbol: str | None = None
    """the pair"""
    timezone: str | None = None
    """zone of times that name none, such as "Europe/Berlin"; None for UTC"""
    unit: Unit | None = None
    """what the forecasts are"""
    level: float | None = None
    """percent of the outcomes that shall lie between yhat_lower and yhat_upper"""
    pairs: Mapping[str, str] = field(default_factory=dict)
    """pair of each name that is none itself, such as BTC"""
    columns: Mapping[str, str] = field(default_factory=dict)
    """what a column is, of `CALLED`, where its name does not tell"""
    path: int | None = None
    """rows that were made at once and follow one another, a path of so many candles; 1 where each
    row was made by itself"""

    def __post_init__(self) -> None:
        if wrong := [what for what in self.columns.values() if what not in CALLED]:
            raise ValueError(f"columns has {wrong[0]!r}; a column is one of {', '.join(CALLED)}")
        if self.path is not None and self.path < 1:
            raise ValueError(f"path is {self.path}; it is the number of rows made at once")
        if self.path is not None and self.path > 1 and self.stamped == "known":
            raise ValueError(
                "rows of a path stand at what they forecast, so their times are not those of the "
                "candle that was known; pass --path without --stamped known"
            )
        for name, allowed in (("unit", UNITS), ("stamped", tuple(STAMPS))):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"{name} is {value!r}; pass one of {', '.join(allowed)}")
