"""Forecasts as signals: when a rule would be long, short or flat, for other people's backtests.

The rule is that of `pipeline.evaluation.backtest`: a position has the sign of the forecast where
the forecast exceeds a limit, else there is none. The limit here is what a trade costs. A forecast
exceeds it where the expected simple return e^r - 1 is larger than the fees of a round trip, one
side when it is opened and one when it is closed. The position is kept for the horizon, and runs on
without a trade where the next forecast says the same.

Candle t is known at its close, which is the open of candle t + 1; that is when its signal acts.
With a horizon of h candles only every h-th forecast is used: those made at instants that are
multiples of h candles since 1970 (UTC), so that a longer history gives the same signals.

No order is placed here or anywhere else in this project.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from pipeline.candles.schema import timeframe_ms, timestamps_ms

FEE_BPS = 5.0
BPS = 1e-4
SIDES = 2
"""A trade pays its fee twice: when it is opened, and when it is closed."""
OHLCV = {name: name.capitalize() for name in ("open", "high", "low", "close", "volume")}
"""Column of a candle -> what backtesting.py and yfinance call it"""
At = Literal["open", "close"]


@dataclass(frozen=True)
class Source:
    """What a history was made from."""

    candles: pd.DataFrame
    """in the schema"""
    timeframe: str
    horizon: int
    seen_until: pd.Timestamp | None
    """what forecasts made before earn proves nothing (`BundlePredictor.seen_until`)"""


class History(pd.DataFrame):
    """Forecasts of one pair, a row a candle: a frame that knows the candles that it was made from.

    Selections and copies know them too. What was joined or read from a file does not: `signals_of`
    takes the candles by name.
    """

    _metadata: ClassVar[list[str]] = ["_source"]
    _source: Source | None = None

    @property
    def _constructor(self) -> type[History]:
        return History

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Any],
        candles: pd.DataFrame,
        timeframe: str,
        horizon: int,
        seen_until: pd.Timestamp | None = None,
    ) -> History:
        """Forecasts and their candles together."""
        history = cls(columns)
        history._source = Source(candles, timeframe, horizon, seen_until)
        return history

    def to_signals(
        self, fee_bps: float = FEE_BPS, *, short: bool = True, at: At = "open"
    ) -> pd.DataFrame:
        """These forecasts as signals: `signals_of` with the candles that they were made from.

        Raises:
            ValueError: The candles are not known any more; or as `signals_of`.
        """
        if self._source is None:
            raise ValueError(
                "this history was joined or read from a file and does not know its candles; call "
                "pipeline.forecasts.signals.signals_of(history, candles, timeframe=…, horizon=…)"
            )
        self._warn_of_seen(self._source)
        return signals_of(
            self,
            self._source.candles,
            timeframe=self._source.timeframe,
            horizon=self._source.horizon,
            fee_bps=fee_bps,
            short=short,
            at=at,
        )

    def _warn_of_seen(self, source: Source) -> None:
        if source.seen_until is None:
            return
        step = pd.Timedelta(timeframe_ms(source.timeframe), "ms")
        n_seen = int((self["timestamp"] + step < source.seen_until).sum())
        if n_seen:
            warnings.warn(
                f"{n_seen:,} of {len(self):,} forecasts were made before "
                f"{source.seen_until:%Y-%m-%d %H:%M} UTC, up to which the model was fitted: what "
                'they earn proves nothing; keep history[history["timestamp"] >= '
                "predictor.seen_until]",
                stacklevel=3,
            )


def positions(forecast: np.ndarray, limit: float) -> np.ndarray:
    """The sign of each forecast beyond a limit, else 0.

    Example:
        >>> positions(np.array([0.3, 0.1, -0.2, np.nan]), 0.1).tolist()
        [1.0, 0.0, -1.0, 0.0]
    """
    return np.where(np.abs(forecast) > limit, np.sign(forecast), 0.0)


def demand_fee(fee_bps: float) -> None:
    """Refuse what is no fee of one side in basis points."""
    if not 0 <= fee_bps < 1e4:
        raise ValueError(
            f"fee_bps is {fee_bps}; pass the fee of one side in basis points, 5 for 0.05 %"
        )


def signals_of(
    history: pd.DataFrame,
    candles: pd.DataFrame,
    *,
    timeframe: str,
    horizon: int = 1,
    fee_bps: float = FEE_BPS,
    short: bool = True,
    at: At = "open",
) -> pd.DataFrame:
    """Positions and their changes, by the rule at the top of this module.

    A candle without a forecast, such as those after a gap, ends the position. A signal whose next
    candle is missing acts nowhere.

    Args:
        history: A row a forecast of one pair in time order, with `timestamp` (open of candle t) and
            `predicted_return` (log-return over the horizon), as `predict_history` returns it.
        candles: The pair's candles in the schema.
        timeframe: Length of a candle.
        horizon: Candles that a forecast spans.
        fee_bps: Fee in 1/100 % of what is bought or sold, a side; 0 follows every forecast.
        short: Whether falls are traded too; else these forecasts mean flat.
        at: Which candle a signal stands beside. "open": the one at whose open it acts, for
            libraries that are told the price of each trade (vectorbt with price=signals["Open"]).
            "close": the one at whose close it is known, for those that trade at the next open
            (backtesting.py, freqtrade).

    Returns:
        A row a candle, indexed by its open (UTC), from the first forecast on: `Open`, `High`,
        `Low`, `Close`, `Volume`; `predicted_return`, of the forecast that is known by then, NaN
        where there is none; `position` (-1, 0 or 1, from this signal to the next); `entries`,
        `exits`, `short_entries`, `short_exits` (bool), where it begins and ends.

    Raises:
        ValueError: A bad fee or `at`, or forecasts without the two columns or out of order.

    Example:
        >>> opens = pd.date_range("2024-01-01", periods=4, freq="h", tz="UTC").as_unit("ms")
        >>> candles = pd.DataFrame({"timestamp": opens} | dict.fromkeys(OHLCV, 100.0))
        >>> history = pd.DataFrame({"timestamp": opens[:3], "predicted_return": [.01, .02, -.01]})
        >>> signals = signals_of(history, candles, timeframe="1h")
        >>> signals["position"].to_dict()[pd.Timestamp("2024-01-01 01:00", tz="UTC")]
        1
        >>> signals["position"].tolist(), signals["entries"].tolist()
        ([1, 1, -1], [True, False, False])
    """
    _demand(history, fee_bps, at)
    step_ms = timeframe_ms(timeframe)
    known_ms = timestamps_ms(history)
    wished = positions(np.expm1(history["predicted_return"].to_numpy()), SIDES * fee_bps * BPS)
    if not short:
        wished = np.maximum(wished, 0)

    opens_ms = timestamps_ms(candles)
    is_shown = opens_ms >= known_ms[0] + (step_ms if at == "open" else 0)
    shown = candles[is_shown]
    acts_ms = opens_ms[is_shown] + (0 if at == "open" else step_ms)

    # The forecast of candle t is known from the open of t + 1 on, and used for the horizon.
    span_ms = horizon * step_ms
    used = _rows_of(acts_ms // span_ms * span_ms - step_ms, known_ms)
    position = np.where(used >= 0, wished[used], 0).astype(int)
    newest = _rows_of(acts_ms - step_ms, known_ms)
    forecast = np.where(newest >= 0, history["predicted_return"].to_numpy()[newest], np.nan)

    before = np.concatenate([[0], position[:-1]])
    values: dict[str, Any] = {title: shown[name].to_numpy() for name, title in OHLCV.items()}
    values |= {"predicted_return": forecast, "position": position}
    for name, side in (("", 1), ("short_", -1)):
        values[f"{name}entries"] = (position == side) & (before != side)
        values[f"{name}exits"] = (before == side) & (position != side)
    return pd.DataFrame(values, index=pd.DatetimeIndex(shown["timestamp"], name="timestamp"))


def _demand(history: pd.DataFrame, fee_bps: float, at: str) -> None:
    demand_fee(fee_bps)
    if at not in ("open", "close"):
        raise ValueError(
            f"at is {at!r}; pass 'open' (beside the candle at whose open a signal acts) or 'close' "
            "(beside the one at whose close it is known)"
        )
    for name in ("timestamp", "predicted_return"):
        if name not in history:
            raise ValueError(
                f"the history has no column {name!r}; pass rows of predict_history as they are"
            )
    if len(history) == 0:
        raise ValueError(
            "the history has no rows; forecast from more candles, or, where the model has learnt "
            "all of them, open its judged network: from_directory(folder, judged=True)"
        )
    times = timestamps_ms(history)
    if len(times) > 1 and np.diff(times).min() <= 0:
        row = int(np.argmax(np.diff(times) <= 0)) + 1
        raise ValueError(
            f"the history goes back in time at row {row}, "
            f"{history['timestamp'].iloc[row]:%Y-%m-%d %H:%M}; pass the rows of one pair, in order"
        )


def _rows_of(wanted_ms: np.ndarray, known_ms: np.ndarray) -> np.ndarray:
    """(n,) rows where `known_ms` has each instant; -1 where it has not."""
    row = np.minimum(np.searchsorted(known_ms, wanted_ms), len(known_ms) - 1)
    return np.where(known_ms[row] == wanted_ms, row, -1)
