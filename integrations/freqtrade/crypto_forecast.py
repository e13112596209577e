"""A freqtrade strategy that follows the forecasts of a v2 bundle where they exceed their fees.

freqtrade loads it by name and path (docs/freqtrade.md). The bundle is named in its configuration:

    "crypto_bundle": "all_models/v2",
    "crypto_short": false

The forecasts come from `CryptoPricePredictorV2`, so the features are those of training, and the
rule is that of `predict_history(...).to_signals(fee_bps)`. This file places no order: freqtrade
does, as far as it is told to. A forecast is a description of probabilities, not trading advice.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from freqtrade.exceptions import OperationalException
from freqtrade.strategy import DecimalParameter, IStrategy

from inference_v2 import CryptoPricePredictorV2
from pipeline.candles.schema import CANDLE_COLUMNS
from pipeline.forecasts.signals import signals_of

logger = logging.getLogger(__name__)

TAGS = {"enter_long": "entries", "exit_long": "exits"}
SHORT_TAGS = {"enter_short": "short_entries", "exit_short": "short_exits"}
"""freqtrade's column -> ours"""


class CryptoForecast(IStrategy):
    """Long where the expected return exceeds a round trip's fees, short by option, else flat."""

    INTERFACE_VERSION = 3

    # The forecast alone opens and closes a position: no profit or loss does.
    minimal_roi = {"0": 1000.0}  # noqa: RUF012  # freqtrade's own form
    stoploss = -0.99
    process_only_new_candles = True
    use_exit_signal = True
    ignore_roi_if_entry_signal = True

    fee_bps = DecimalParameter(0.0, 50.0, default=5.0, decimals=1, space="buy")
    """fee of one side in 1/100 %; what a forecast must exceed twice"""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self.predictor = _open(config)
        self.timeframe = self.predictor.timeframe
        self.startup_candle_count = self.predictor.required_candles
        self.can_short = bool(config.get("crypto_short", False))

    def bot_start(self, **_: Any) -> None:
        """Refuse another timeframe than the bundle's; the configuration may have replaced it."""
        if self.timeframe != self.predictor.timeframe:
            raise OperationalException(
                f"timeframe is {self.timeframe}, and the bundle forecasts "
                f"{self.predictor.timeframe} candles; leave it out of the configuration"
            )

    def informative_pairs(self) -> list[tuple[str, str]]:
        """The pairs that a bundle of the pooled preset looks at beside the traded one."""
        if not self.predictor.wants_context:
            return []
        return [(self._pair_of(symbol), self.timeframe) for symbol in self.predictor.symbols]

    def populate_indicators(self, dataframe: pd.DataFrame, metadata: dict) -> pd.DataFrame:
        """The forecast of each candle, known at its close: NaN where there is none."""
        candles = _traded(dataframe)
        columns = [*self.predictor.history_columns]
        if len(candles) < self.predictor.lookback:
            return dataframe.assign(**dict.fromkeys(columns, float("nan")))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            history = self.predictor.predict_history(candles, context=self._context())
        notes = [str(warning.message) for warning in told]
        for text in dict.fromkeys([*notes, *self._notes_on_time(dataframe)]):
            logger.warning("%s: %s", metadata["pair"], text)
        known = pd.DataFrame(history.set_index("timestamp")[columns])
        rows = known.reindex(pd.DatetimeIndex(dataframe["date"]))
        return dataframe.assign(**{name: rows[name].to_numpy() for name in columns})

    def populate_entry_trend(self, dataframe: pd.DataFrame, metadata: dict) -> pd.DataFrame:
        """Where a position begins: `entries`, and `short_entries` by option."""
        return self._with_signals(dataframe, "enter")

    def populate_exit_trend(self, dataframe: pd.DataFrame, metadata: dict) -> pd.DataFrame:
        """Where a position ends: `exits`, and `short_exits` by option."""
        return self._with_signals(dataframe, "exit")

    def _with_signals(self, dataframe: pd.DataFrame, kind: str) -> pd.DataFrame:
        known = dataframe.dropna(subset=["predicted_return"])
        if len(known) == 0:
            return dataframe
        signals = signals_of(
            known.rename(columns={"date": "timestamp"}),
            dataframe.rename(columns={"date": "timestamp"}),
            timeframe=self.predictor.timeframe,
            horizon=self.predictor.horizon,
            fee_bps=float(self.fee_bps.value),
            short=self.can_short,
            at="close",
        ).reindex(pd.DatetimeIndex(dataframe["date"]))
        tags = TAGS | (SHORT_TAGS if self.can_short else {})
        chosen = {tag: name for tag, name in tags.items() if tag.startswith(kind)}
        return dataframe.assign(
            **{tag: (signals[name] == True).to_numpy(int) for tag, name in chosen.items()}  # noqa: E712
        )

    def _notes_on_time(self, dataframe: pd.DataFrame) -> list[str]:
        """What to say of candles that the model has learnt from, the startup's left aside."""
        until = self.predictor.seen_until
        if until is None:
            return ["nothing says which candles the model has learnt from: these may be among them"]
        n_seen = int((dataframe["date"].iloc[self.startup_candle_count :] < until).sum())
        if n_seen == 0:
            return []
        return [
            f"{n_seen:,} candles are older than {until:%Y-%m-%d %H:%M}, up to which the model was "
            "fitted: what is earned there proves nothing; begin the timerange later"
        ]

    def _context(self) -> dict[str, pd.DataFrame] | None:
        """Candles of the bundle's pairs, as far as freqtrade has them."""
        if not self.predictor.wants_context:
            return None
        frames = {
            symbol: _traded(self.dp.get_pair_dataframe(self._pair_of(symbol), self.timeframe))
            for symbol in self.predictor.symbols
        }
        return {symbol: frame for symbol, frame in frames.items() if len(frame)}

    def _pair_of(self, symbol: str) -> str:
        """What freqtrade calls a pair: BTC/USDT is BTC/USDT:USDT among futures."""
        is_future = self.config.get("trading_mode") == "futures"
        return f"{symbol}:{symbol.rsplit('/', 1)[-1]}" if is_future else symbol


def _open(config: dict[str, Any]) -> CryptoPricePredictorV2:
    """The bundle that the configuration names."""
    folder = config.get("crypto_bundle")
    if not folder:
        raise OperationalException(
            'the configuration names no bundle; add "crypto_bundle": "all_models/v2", the output '
            "folder of train_v2_production.py"
        )
    try:
        return CryptoPricePredictorV2.from_directory(Path(folder))
    except (FileNotFoundError, ValueError) as error:
        raise OperationalException(f"crypto_bundle: {error}") from error


def _traded(dataframe: pd.DataFrame) -> pd.DataFrame:
    """Candles in the schema, without those that freqtrade put where the exchange has none.

    Such a candle has no volume, and all its prices are the close before it.
    """
    candles = dataframe.rename(columns={"date": "timestamp"})
    if len(candles) == 0:
        return candles
    before = candles["close"].shift()
    is_flat = (candles[["open", "high", "low", "close"]].sub(before, axis=0) == 0).all(axis=1)
    is_made_up = is_flat & (candles["volume"] == 0)
    return candles.loc[~is_made_up, [*CANDLE_COLUMNS]].reset_index(drop=True)
