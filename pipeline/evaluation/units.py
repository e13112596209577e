"""What anyone's forecasts say, as log-returns; a unit in doubt is asked about."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipeline.forecasts.conventions import QUANTILES
from pipeline.forecasts.foreign import ForeignForecasts
from pipeline.samples.windows import Samples

LEAST_FOR_LOSS = 50
"""Forecasts from which the mean of their errors tells a unit"""
FAR_PRICE = 10.0
"""volatilities that the usual forecast of a price lies from the last one, beyond any forecast"""
FAR_RETURN = 2.0
"""likewise of the usual size of a return that is not 0: it forecasts more than half of all moves"""
FAR_QUANTILE = 5.0
"""likewise of half the width of an interval; that of 80 % has 1.3"""
FAR_LOSS = 2.0
"""Naive's loss times so much is a percentage's, where a hundredth of the forecast has hardly more
than naive's"""


def said_by(
    foreign: ForeignForecasts, rows: pd.DataFrame, sample: np.ndarray, targets: Samples
) -> dict[str, np.ndarray]:
    """What the rows say, as log-returns: "forecast", "direction", "p_up", the quantiles; "price".

    Raises:
        ValueError: A unit is in doubt.
    """
    base, volatility = targets.base_price[sample], targets.volatility[sample]
    actual = targets.log_return[sample]
    symbols = rows["symbol"].to_numpy()
    said: dict[str, np.ndarray] = {}
    columns = {name: rows[name].to_numpy(np.float64) for name in rows if rows[name].dtype == float}
    samples = [name for name in columns if name.startswith("sample ")]
    if "p_up" in columns:
        said["p_up"] = _probability(foreign, columns["p_up"])
    if "direction" in columns:
        said["direction"] = columns["direction"]
    if "forecast_return" in columns:
        said["forecast"] = columns["forecast_return"]
        _demand_no_classes(foreign, said["forecast"], base, volatility)
        _demand_no_prices(foreign, said["forecast"], base)
        _demand_unit(foreign, said["forecast"], volatility, actual, "forecast_return")
    elif "forecast_price" in columns:
        said["price"] = columns["forecast_price"]
        said["forecast"] = _from_prices(foreign, said["price"], base, volatility, symbols)
    elif "forecast" in columns:
        _demand_no_classes(foreign, columns["forecast"], base, volatility)
        if _are_prices(foreign, columns["forecast"], base):
            said["price"] = columns["forecast"]
            said["forecast"] = _from_prices(foreign, said["price"], base, volatility, symbols)
        else:
            said["forecast"] = columns["forecast"]
            _demand_unit(foreign, said["forecast"], volatility, actual, "the forecast")
    if samples:
        table = np.column_stack([columns[name] for name in samples])
        if _are_prices(foreign, np.median(table, axis=1), base):
            table = np.log(table / base[:, None])
        for name, level in zip(QUANTILES, (0.1, 0.5, 0.9)):
            columns[name] = np.quantile(table, level, axis=1)
        said.setdefault("p_up", (table > 0).mean(axis=1) + (table == 0).mean(axis=1) / 2)
    if set(QUANTILES) - {"q50"} <= set(columns):
        middle = columns.get("q50")
        prices = _are_prices(foreign, columns["q10"], base) and not samples
        for name in ("q10", "q90"):
            said[name] = np.log(columns[name] / base) if prices else columns[name]
        _demand_width(foreign, said["q90"] - said["q10"], volatility)
        if middle is not None:
            said["q50"] = np.log(middle / base) if prices else middle
        elif "forecast" in said:
            said["q50"] = said["forecast"]
        else:
            del said["q10"], said["q90"]
    elif "q50" in columns:
        is_price = _are_prices(foreign, columns["q50"], base)
        said["q50"] = np.log(columns["q50"] / base) if is_price else columns["q50"]
    if "q50" in said:
        said.setdefault("forecast", said["q50"])
    if "forecast" not in said and "direction" not in said:
        if "p_up" not in said:
            raise ValueError(
                f"{foreign.name}: q10 and q90 alone are no forecast; add q50, forecast_return or "
                "direction"
            )
        said["direction"] = 2 * said["p_up"] - 1  # the surer, the further
    return said


def _probability(foreign: ForeignForecasts, p_up: np.ndarray) -> np.ndarray:
    known = p_up[~np.isnan(p_up)]
    if len(known) and (known.min() < 0 or known.max() > 1):
        row = int(np.flatnonzero((p_up < 0) | (p_up > 1))[0])
        if known.min() >= 0 and known.max() <= 100:
            raise ValueError(
                f"{foreign.name}: p_up is {p_up[row]:g} in row {row} and goes to {known.max():g}; "
                "is it in percent? pass --unit percent"
            )
        raise ValueError(
            f"{foreign.name}: p_up is {p_up[row]:g} in row {row}; is it a probability? it lies "
            "between 0 and 1"
        )
    return p_up


def _are_prices(foreign: ForeignForecasts, values: np.ndarray, base: np.ndarray) -> bool:
    """Whether values are prices, by the candles' own; a ValueError where they may be either."""
    if foreign.unit in ("price", "return", "percent"):
        return foreign.unit == "price"
    known = np.isfinite(values) & (values != 0)
    if not known.any():
        return False
    are_positive = bool((values[known] > 0).all())
    ratio = float(np.median(np.abs(values[known] / base[known])))
    size = float(np.median(np.abs(values[known])))
    if are_positive and (0.5 < ratio < 2 or size > 1):
        if size < 0.5 and ratio < 0.5:
            raise _unit_in_doubt(foreign, size)
        return True
    if size < 0.5:
        return False
    raise _unit_in_doubt(foreign, size)


def _unit_in_doubt(foreign: ForeignForecasts, size: float) -> ValueError:
    return ValueError(
        f"{foreign.name}: its forecasts, of the usual size {size:.3g}, may be prices or returns; "
        "which? pass --unit price, return (log-return) or percent"
    )


def _demand_no_classes(
    foreign: ForeignForecasts, values: np.ndarray, base: np.ndarray, volatility: np.ndarray
) -> None:
    """Raise where numbers may be a classifier's: its classes, or their probability."""
    known = np.isfinite(values) & (values != 0)
    if foreign.unit is not None or not known.any():
        return
    values, base, volatility = values[known], base[known], volatility[known]
    if np.isin(values, (-1.0, 1.0)).all():
        raise ValueError(
            f"{foreign.name}: its forecasts are {'-1, ' if values.min() < 0 else ''}0 and 1 alone; "
            "are they directions? pass --unit direction, or --unit position where 0 means none"
        )
    if values.min() < 0 or values.max() > 1:
        return
    is_far = np.median(values / volatility) > FAR_RETURN
    is_price = np.median(np.abs(np.log(values / base)) / volatility) < FAR_PRICE
    if is_far and not is_price:
        raise ValueError(
            f"{foreign.name}: its forecasts lie between 0 and 1; are they probabilities of a rise? "
            "pass --unit p_up, else --unit price, return (log-return) or percent"
        )


def _demand_no_prices(foreign: ForeignForecasts, values: np.ndarray, base: np.ndarray) -> None:
    """Raise where what is called a return is near the price."""
    known = np.isfinite(values) & (values != 0)
    if foreign.unit is None and known.any():
        ratio, size = np.median(values[known] / base[known]), np.median(np.abs(values[known]))
        if 0.5 < ratio < 2 and size > 1:
            raise ValueError(
                f"{foreign.name}: the usual forecast_return is {size:.4g}, {ratio:.3g} times the "
                "last price; is it a price? pass --unit price, or call it forecast_price"
            )


def _demand_unit(
    foreign: ForeignForecasts,
    values: np.ndarray,
    volatility: np.ndarray,
    actual: np.ndarray,
    name: str,
) -> None:
    """Raise where log-returns are too large to be any, but not as percentages."""
    known = np.isfinite(values) & (values != 0)
    if foreign.unit in ("return", "percent") or not known.any():
        return
    values, volatility, actual = values[known], volatility[known], actual[known]
    size = float(np.median(np.abs(values / volatility)))
    naive, loss, of_percent = (
        float(np.mean(np.abs(actual - of) / volatility)) for of in (0.0, values, values / 100)
    )
    is_percent = len(values) >= LEAST_FOR_LOSS and loss > FAR_LOSS * max(naive, of_percent)
    if size > FAR_RETURN or is_percent:
        raise ValueError(
            f"{foreign.name}: the usual size of {name} is {np.median(np.abs(values)):.3g}, "
            f"{size:.2g} volatilities of its target, and its error {loss / naive:.2g} times that "
            "of no move; is it in percent? pass --unit percent, else --unit return (log-return) or "
            "price"
        )


def _demand_width(foreign: ForeignForecasts, width: np.ndarray, volatility: np.ndarray) -> None:
    """Raise where intervals are too wide to be of log-returns."""
    known = np.isfinite(width)
    half = float(np.median(width[known] / volatility[known])) / 2 if known.any() else 0.0
    if foreign.unit is None and half > FAR_QUANTILE:
        raise ValueError(
            f"{foreign.name}: half of its usual interval, q10 to q90, is {half:.2g} volatilities "
            "of its target; is it in percent? pass --unit percent, else --unit return (log-return) "
            "or price"
        )


def _from_prices(
    foreign: ForeignForecasts,
    prices: np.ndarray,
    base: np.ndarray,
    volatility: np.ndarray,
    symbols: np.ndarray,
) -> np.ndarray:
    """(n,) log-returns of prices; a ValueError where they are on another scale."""
    bad = np.flatnonzero(prices <= 0)
    if len(bad):
        raise ValueError(
            f"{foreign.name}: a price of {prices[bad[0]]:g} is forecast of {symbols[bad[0]]}, the "
            f"first of {len(bad):,} that are not positive; is it a return? "
            "pass --unit return or percent"
        )
    returns = np.log(prices / base)
    usual = pd.DataFrame(
        {"away": np.abs(returns) / volatility, "ratio": prices / base, "symbol": symbols}
    )
    for symbol, rows in usual.groupby("symbol", sort=False):
        if rows["away"].median() > FAR_PRICE:
            raise ValueError(
                f"{foreign.name}: the usual forecast of {symbol} is {rows['ratio'].median():.4g} "
                f"times the last price, {rows['away'].median():.0f} volatilities of a candle away; "
                "in which currency or scale are these prices? give them in that of the candles"
            )
    return returns
