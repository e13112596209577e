"""Forecasts from an exchange's newest candles: now, and at every close."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from config import SourceConfig
from pipeline.bundle.snapshot import stamp
from pipeline.candles.schema import timeframe_ms, timestamps_ms
from pipeline.forecasts.prediction import Prediction
from pipeline.forecasts.predictor import CandlePredictor
from pipeline.forecasts.recalibration import read_recalibration

if TYPE_CHECKING:
    from typing_extensions import Self

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
        self._paths = (Path(model_path), Path(scaler_path))
        self._is_recalibrated = recalibrated
        self._stamps = self._stamps_now()  # before the files are read: a later change is noticed
        super().__init__(model_path, scaler_path)
        if recalibrated and self.files.recalibration:
            path = Path(model_path).with_name(self.files.recalibration)
            self.recalibration = read_recalibration(path, self.sha256)

    @classmethod
    def from_directory(cls, directory: str | Path, *, judged: bool = False, **options: Any) -> Self:
        """Open the bundle in a training run's output folder.

        Args:
            directory: The folder.
            judged: Open the network that the run's verdict is about, where another one is served
                that was trained once more, on the test part too. It is never recalibrated.
            options: As for the class itself.
        """
        folder = Path(directory)
        if not judged:
            return super().from_directory(folder, **options)
        options["recalibrated"] = False
        if not (cls.files.judged_model and (folder / cls.files.judged_model).is_file()):
            predictor = super().from_directory(folder, **options)
            if predictor.has_judged_beside:
                raise ValueError(
                    f"{folder / cls.files.judged_model}: the network that was judged is missing; "
                    "copy the bundle again"
                )
            return predictor
        return cls(folder / cls.files.judged_model, folder / cls.files.judged_scalers, **options)

    def is_replaced(self) -> bool:
        """Whether the bundle's files are others by now, as after a training or a recalibration."""
        return self._stamps_now() != self._stamps

    def reopened(self) -> Self:
        """The predictor of what lies there now; itself where nothing has changed.

        Where the new files cannot be opened it stays with the old ones, which it knows by heart,
        under a warning.
        """
        now = self._stamps_now()
        if now == self._stamps:
            return self
        try:
            newer = type(self)(*self._paths, recalibrated=self._is_recalibrated)
        except (ValueError, OSError) as error:
            warnings.warn(
                f"{self._paths[0].parent}: the bundle there has changed and cannot be opened; the "
                f"forecast goes on with the one before ({error})",
                stacklevel=2,
            )
            self._stamps = now  # told once
            return self
        logger.info("a newer bundle is used, trained to %s", newer.trained_until)
        return newer

    def _stamps_now(self) -> list[tuple[int, ...] | None]:
        """What changes when the bundle's files are replaced."""
        model, scalers = self._paths
        later = (self.files.metadata, self.files.recalibration)
        return [
            stamp(path)
            for path in (model, scalers, *(model.with_name(name) for name in later if name))
        ]

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
