"""Forecasts for the tests of the ledger, and the clock they are entered by."""

import math
from pathlib import Path

from pipeline.forecasts import ledger
from pipeline.forecasts.ledger import to_text

HOUR_MS = 3_600_000
START = 1_704_067_200_000  # 2024-01-01 00:00 UTC
MODEL = "a" * 64


def forecast(
    hour: int, symbol: str = "BTC/USDT", *, log_return: float = 0.01, model: str = MODEL, **other
) -> dict:
    """What a model says from the candle of this hour, whose close is 100, of the next one."""
    base = START + hour * HOUR_MS
    return {
        "symbol": symbol,
        "timeframe": "1h",
        "horizon": 1,
        "timestamp": to_text(base + HOUR_MS),
        "closes_at": to_text(base + 2 * HOUR_MS),
        "base_time": to_text(base),
        "last_price": 100.0,
        "volatility": 0.01,
        "return": log_return,
        "q10": -0.025,
        "q50": 0.0,
        "q90": 0.025,
        "p_up": 0.5,
        "price": 100.0 * math.exp(log_return),
        "model_sha256": model,
        "synthetic": False,
    } | other


def after(hour: int, ms: int = 5_000):
    """A clock that stands so long after the close of the candle of this hour."""
    return lambda: START + (hour + 1) * HOUR_MS + ms


def enter(path: Path, *hours: int, **options) -> list[tuple[int, str]]:
    return [ledger.append(path, forecast(hour, **options), after(hour)) for hour in hours]
