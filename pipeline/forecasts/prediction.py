"""A forecast as people read it: its numbers, of what it is, how old, and what came true of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import pandas as pd

from pipeline import terminal

DOLLARS = ("USD", "USDT", "USDC", "FDUSD", "BUSD", "TUSD", "DAI")
"""Currencies that people write with a dollar sign: the dollar, and coins that stand for it."""

OLD_CANDLES = 2
"""A forecast is old from so many candles on that have closed since the newest one known."""

OLD_CALIBRATION_DAYS = 365
"""A forecast is warned of from so many days on that its calibration knows nothing of."""

SYNTHETIC = "SYNTHETIC: a generator made these candles up, or what the model has learnt from"

Prediction = TypedDict(
    "Prediction",
    {
        "price": float,  # forecast close, quote currency
        "return": float,  # log-return
        "return_low": float,  # its 10 % quantile
        "return_median": float,
        "return_high": float,  # its 90 % quantile
        "return_percent": float,  # 100 * (e^return - 1)
        "price_change": float,
        "last_price": float,  # what the forecast starts from
        "confidence": float,  # calibrated probability that the direction is right
        "p_up": float,  # calibrated probability of a rise
        "price_low": float,  # the 80 % interval
        "price_high": float,
        "timestamp": pd.Timestamp,  # open of the forecast candle, UTC; the same as:
        "target_timestamp": pd.Timestamp,
        "last_timestamp": pd.Timestamp,  # open of the last candle that it knows, UTC
        "age_candles": int,  # whole candles that have closed since that one
        "timeframe": str,
        "horizon": int,  # candles from the last one known to the forecast one
        "symbol": "str | None",  # pair, where anybody has said it
        "quote": "str | None",  # currency of the prices
        "venue": "str | None",  # exchange that the candles come from
        "synthetic": bool,  # a generator made what the model has learnt from, or these candles
        "trained_until": "pd.Timestamp | None",  # the model has learnt nothing later, UTC
        "age_days": "float | None",  # from then to the close of the last candle that it knows
        "judged_until": "pd.Timestamp | None",  # nor had the network that the verdict is about
        "calibrated_until": "pd.Timestamp | None",  # later than that where recalibrated, UTC
        "missing_inputs": "list[str]",  # features that the forecast had to do without
    },
)
"""What `predict` returns."""


@dataclass(frozen=True)
class Instrument:
    """Whose candles a forecast is made from, as far as anybody has said it."""

    symbol: str | None
    """pair, such as BTC/USDT"""
    venue: str | None
    """exchange"""


def format_price(price: float) -> str:
    """A price for people: cents from 1 upwards, six significant digits below.

    Example:
        >>> format_price(66449.384), format_price(0.1234567)
        ('66,449.38', '0.123457')
    """
    return f"{price:,.2f}" if price >= 1 else f"{price:.6g}"


def money(price: float, quote: str | None) -> str:
    """A price in its currency; the bare number where nobody has said which.

    Example:
        >>> money(66449.384, "USDT"), money(0.0521, "BTC"), money(1.5, None)
        ('$66,449.38', '0.0521 BTC', '1.50')
    """
    if quote in DOLLARS:
        return f"${format_price(price)}"
    return f"{format_price(price)} {quote or ''}".rstrip()


def signed(value: float, digits: int) -> str:
    """A number with its sign; what rounds to 0 is +0.

    Example:
        >>> signed(-0.126, 2), signed(-0.001, 2)
        ('-0.13', '+0.00')
    """
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def quote_of(symbol: str | None) -> str | None:
    """Currency that a pair's prices are in.

    Example:
        >>> quote_of("ETH/BTC"), quote_of("BTC/USDT:USDT"), quote_of(None)
        ('BTC', 'USDT', None)
    """
    return symbol.partition("/")[2].partition(":")[0] or None if symbol else None


def subject(prediction: Prediction) -> str:
    """Of what a forecast is: pair, exchange, timeframe and horizon, as far as they are known."""
    ahead = "next candle"
    if prediction["horizon"] > 1:
        ahead = f"{prediction['horizon']} candles ahead"
    made_up = "SYNTHETIC" if prediction["synthetic"] else None
    parts = [made_up, prediction["symbol"], prediction["venue"], prediction["timeframe"], ahead]
    return " · ".join(part for part in parts if part)


def is_old(prediction: Prediction) -> bool:
    """Whether newer candles have closed: `OLD_CANDLES`, or that which is forecast."""
    return prediction["age_candles"] >= min(OLD_CANDLES, prediction["horizon"])


def aged(prediction: Prediction) -> str | None:
    """A sentence for a forecast from old candles; None for others."""
    if not is_old(prediction):
        return None
    age = prediction["age_candles"]
    sentence = (
        f"old candles: the last one opened at {prediction['last_timestamp']:%Y-%m-%d %H:%M} UTC, "
        f"and {age:,} have closed since"
    )
    if age >= prediction["horizon"]:
        sentence += "; what is forecast here has already happened"
    return sentence


def recalibrated(prediction: Prediction) -> str | None:
    """A sentence for a forecast whose calibration is not the one that was judged."""
    until = prediction["calibrated_until"]
    if until is None or until == prediction["judged_until"]:
        return None
    return (
        f"recalibrated: size and confidence are fitted on forecasts up to {until:%Y-%m-%d %H:%M} "
        "UTC; the training run's verdict is about those before"
    )


def long_uncalibrated(prediction: Prediction) -> str | None:
    """A sentence for a forecast whose size was last fitted long before its candles; else None.

    What is foreseeable changes with the market more than with the age of a network (docs/log.md),
    so a year without a look at what came true is what is warned of.
    """
    until = prediction["calibrated_until"]
    if until is None:
        return None
    days = (prediction["last_timestamp"] - until).days
    if days < OLD_CALIBRATION_DAYS:
        return None
    return (
        f"size and confidence were last fitted {days:,} days before these candles, and what is "
        "foreseeable may have faded since: score the model (python inference_v2.py evaluate) and "
        "recalibrate or retrain it"
    )


def forecast_lines(prediction: Prediction) -> list[str]:
    """The forecast as the command prints it, as the guide shows it."""
    quote = prediction["quote"]
    price, low, high, last = (
        money(prediction[name], quote)
        for name in ("price", "price_low", "price_high", "last_price")
    )
    lines = [
        subject(prediction),
        f"{'Forecast price' if is_old(prediction) else 'Next price'}: {price}",
        f"Expected return: {signed(prediction['return_percent'], 4)}%",
        f"Confidence: {prediction['confidence']:.1%}  (that the direction is right; 50 % is a coin "
        "flip)",
        f"80 % interval: {low} to {high}",
        f"Forecast: close of the {prediction['timeframe']} candle of "
        f"{prediction['target_timestamp']:%Y-%m-%d %H:%M} UTC, from {last}; the last candle known "
        f"opened at {prediction['last_timestamp']:%Y-%m-%d %H:%M}",
    ]
    said = (recalibrated(prediction), long_uncalibrated(prediction), aged(prediction))
    lines += [f"! {told}" for told in said if told]
    if prediction["synthetic"]:
        lines.append(f"! {SYNTHETIC}")
    return lines


def untrained_note(symbol: str | None, trained: Sequence[str]) -> str | None:
    """What to say of a pair that the network has not learnt from; None of others."""
    if symbol is None or symbol.partition(":")[0] in trained:
        return None
    return f"the network was not trained on {symbol}, but on {terminal.listed(trained)}"


def judge(prediction: Prediction, actual: float) -> str:
    """Say in a line what came true of a forecast whose candle has closed at `actual`."""
    moved = actual - prediction["last_price"]
    if moved == 0:
        direction = "no move"
    else:
        direction = "right" if moved * prediction["price_change"] > 0 else "wrong"
    is_inside = prediction["price_low"] <= actual <= prediction["price_high"]
    within = "inside" if is_inside else "outside"
    price = money(actual, prediction["quote"])
    return f"Came true: {price} (direction {direction}, {within} the 80 % interval)"


def as_json(prediction: Prediction) -> dict[str, object]:
    """The forecast as plain data for JSON: instants as ISO text, UTC."""
    return {
        name: value.isoformat() if isinstance(value, pd.Timestamp) else value
        for name, value in prediction.items()
    }
