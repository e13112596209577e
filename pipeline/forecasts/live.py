"""Forecasts from an exchange's newest candles: now, and at every close."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from config import SourceConfig
from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.forecasts.prediction import Prediction
from pipeline.forecasts.predictor import CandlePredictor
from pipeline.forecasts.recalibration import read_recalibration

logger = logging.getLogger(__name__)

PUBLICATION_S = 2.0
"""From a candle's close until exchanges serve it."""
RETRY_S = 10.0


class LivePredictor(CandlePredictor):
    """A predictor that fetches the candles it looks at, and may be recalibrated."""

    def __init__(
        self, model_path: str | Path, scaler_path: str | Path, *, recalibrated: bool = True
    ) -> None:
        """Open a trained model; see `BundlePredictor`.

        Args:
            model_path: The .h5 file of the network, or of its best checkpoint.
            scaler_path: The scaler file of the same training run.
            recalibrated: Whether a later calibration beside them is used, if there is one.
        """
        super().__init__(model_path, scaler_path)
        if recalibrated and self.files.recalibration:
            path = Path(model_path).with_name(self.files.recalibration)
            self.recalibration = read_recalibration(path, self.sha256)

    @property
    def wants_context(self) -> bool:
        """Whether the model looks at other coins' candles too."""
        return False

    @property
    def published(self) -> list[str]:
        """What futures exchanges publish that the model looks at, of `store.PUBLISHED`."""
        return []

    def fetch_live(
        self, symbol: str, *, exchange: str | None = None, base_url: str | None = None
    ) -> pd.DataFrame:
        """The newest closed candles of a pair, as many and with such columns as a forecast takes.

        Args:
            symbol: Such as "BTC/USDT".
            exchange: ccxt id; the first exchange of the chain that answers by default.
            base_url: Where to reach the exchange instead of its own address.

        Raises:
            ConnectionError: No exchange can be reached.
            ValueError: No exchange has the pair.
        """
        candles = self._fetch([symbol], exchange, base_url, self.published)
        return next(iter(candles.values()))

    def fetch_context(
        self, *, exchange: str | None = None, base_url: str | None = None
    ) -> dict[str, pd.DataFrame]:
        """The newest closed candles of every pair the model was trained on, for `with_context`.

        Nothing is fetched where the model looks at one coin alone. Arguments and errors are those
        of `fetch_live`.
        """
        if not self.wants_context:
            return {}
        return self._fetch(self.symbols, exchange, base_url)

    def predict_live(
        self, symbol: str, *, exchange: str | None = None, base_url: str | None = None
    ) -> Prediction:
        """Forecast from the newest closed candle of a pair; see `fetch_live` and `predict`."""
        candles = self.fetch_live(symbol, exchange=exchange, base_url=base_url)
        context = self.fetch_context(exchange=exchange, base_url=base_url)
        return self.predict(candles, context=context)

    def _fetch(
        self,
        symbols: Sequence[str],
        exchange: str | None,
        base_url: str | None,
        published: Sequence[str] = (),
    ) -> dict[str, pd.DataFrame]:
        from pipeline.candles.fetching import fetch_candles  # lazy: it loads the exchanges

        source = SourceConfig("exchange", exchange=exchange, base_url=base_url, cache_dir=None)
        n_candles = self.required_candles
        return fetch_candles(
            symbols, self.timeframe, n_candles, source, published=published
        ).candles


def watch(
    predictor: LivePredictor,
    symbol: str,
    *,
    exchange: str | None = None,
    base_url: str | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[pd.DataFrame]:
    """The newest candles of a pair at once, and again after every close.

    An exchange needs a moment to publish a candle that has closed, and may be out of reach for a
    while: then it is asked again, with a notice, as long as it takes. The first fetch raises
    instead.
    """
    step_ms = timeframe_ms(predictor.timeframe)
    candles = predictor.fetch_live(symbol, exchange=exchange, base_url=base_url)
    while True:
        yield candles
        last_ms = timestamps_ms(candles)[-1]
        wait_s = (last_ms + 2 * step_ms) / 1000 + PUBLICATION_S - time.time()
        while timestamps_ms(candles)[-1] == last_ms:
            sleep(max(wait_s, 0.0))
            wait_s = RETRY_S
            try:
                candles = predictor.fetch_live(symbol, exchange=exchange, base_url=base_url)
            except (ConnectionError, ValueError) as error:
                logger.warning("%s; asking again in %.0f s", error, RETRY_S)
