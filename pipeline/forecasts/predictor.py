"""What the predictors share: opening a bundle, judging the candles they are given, the forecast."""

from __future__ import annotations

import abc
import contextlib
import copy
import itertools
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from pipeline.bundle.files import BundleFiles
from pipeline.bundle.metadata import check_metadata, minute, read_cuts, read_instant, shown
from pipeline.bundle.network import open_network
from pipeline.bundle.scaler_check import SCALER_TYPES, open_scalers
from pipeline.bundle.snapshot import Snapshot, read_snapshot
from pipeline.candles import formats
from pipeline.candles.schema import DAY_MS, drop_forming, timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.forecasts.aging import age_factors
from pipeline.forecasts.conformal import QuantileFactors, apply_quantiles, point_forecast
from pipeline.forecasts.intervals import (
    QUANTILE_NAMES,
    IntervalModel,
    apply_intervals,
    candle_widths,
    input_names,
    scale_inputs,
)
from pipeline.forecasts.picture import SHOWN, plot_forecast
from pipeline.forecasts.prediction import Instrument, Prediction, quote_of
from pipeline.forecasts.recalibration import Recalibration
from pipeline.forecasts.recent_candles import base_price, one_for_each, read_closed, read_recent
from pipeline.forecasts.shrinkage import Calibration, apply_calibration
from pipeline.forecasts.signals import History
from pipeline.samples.indicators import VOLATILITY_SPAN, VOLATILITY_WARMUP
from pipeline.samples.probe import Probe, changed_feature
from pipeline.samples.scaling import scale_rows
from pipeline.samples.windows import segmented_volatility, usable_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from typing_extensions import Self

VOLUME_REMEDY = "pass candles with traded volumes (0 where the price moved is taken as unknown)"


class BundlePredictor(abc.ABC):
    """An open bundle: what it knows of its candles, and what it makes of a network's output."""

    files: ClassVar[BundleFiles]
    known_features: ClassVar[tuple[str, ...]]
    warmup: ClassVar[int]
    """candles after which the features have forgotten where the history starts"""
    scaler_types: ClassVar[Mapping[str, type]] = SCALER_TYPES
    history_columns: tuple[str, ...] = ("predicted_return", *QUANTILE_NAMES, "p_up")
    """what `predict_history` tells of each candle"""
    log_returns: ClassVar[frozenset[str]] = frozenset({"predicted_return", *QUANTILE_NAMES})
    probabilities: ClassVar[frozenset[str]] = frozenset({"p_up"})
    prices: ClassVar[frozenset[str]] = frozenset()
    ordered: ClassVar[tuple[tuple[str, ...], ...]] = (QUANTILE_NAMES,)
    """of what a forecast says, what is what; and which quantiles may not cross"""
    is_cautious_with_age: bool = False
    """whether forecasts older than any that were judged are shrunk further (`aging`)"""
    n_streams: ClassVar[int] = 1
    """windows that a forecast looks at"""
    symbol: str | None = None
    """the pair that the model is for, of models that are for one alone"""
    recalibration: Recalibration | None = None
    """the later calibration that is in use, if any"""

    def __init__(self, model_path: str | Path, scaler_path: str | Path) -> None:
        """Open a trained model.

        Args:
            model_path: The .h5 file of the network, or of its best checkpoint.
            scaler_path: The scaler file of the same training run.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is damaged, holds anything but the admitted types, or belongs to
                another run.
        """
        bundle = self._read(Path(model_path), Path(scaler_path))
        scalers = self._open(bundle)
        self._bundle = bundle.without_networks()
        self.feature_cols: list[str] = scalers["feature_cols"]
        self.lookback: int = scalers["lookback"]
        self.horizon: int = scalers["horizon"]
        self.timeframe: str = scalers["timeframe"]
        self.symbols: list[str] = scalers["symbols"]
        self.is_synthetic: bool = scalers["synthetic"]
        self.cuts = _cuts_of(scalers)
        self.trained_until = _trained_until(scalers, self.cuts)
        self._demand_agreement(bundle)
        self.model_sha256: str = scalers["model_sha256"]
        unknown = [name for name in self.feature_cols if name not in self.known_features]
        if unknown:
            raise ValueError(
                f"{scaler_path}: unknown feature {unknown[0]!r}; it was written by another version"
            )
        self._demand_same_features(scalers, scaler_path)
        self._x_scaler, self._y_scaler = scalers["X"], scalers["y"]
        try:
            self._read_numbers(scalers)
        except ValueError as error:
            raise ValueError(f"{scaler_path}: {error}") from error
        self._step_ms = timeframe_ms(self.timeframe)
        self.sha256 = {
            "model_sha256": self.model_sha256,
            "scalers_sha256": bundle.sha256(bundle.scaler_path.name),
        }
        self._open_networks(bundle, scalers)

    @classmethod
    def from_directory(cls, directory: str | Path, **options: Any) -> Self:
        """Open the bundle in a training run's output folder; options as for the class itself."""
        folder = Path(directory)
        return cls(folder / cls.files.model, folder / cls.files.scalers, **options)

    def _read(self, model_path: Path, scaler_path: Path) -> Snapshot:
        return read_snapshot(model_path, scaler_path, self.files)

    def _open(self, bundle: Snapshot) -> dict[str, Any]:
        """Content of the scaler file, checked."""
        return open_scalers(bundle, self.scaler_types)

    def _open_networks(self, bundle: Snapshot, scalers: Mapping[str, Any]) -> None:
        shapes = [(self.lookback, len(self.feature_cols))] * self.n_streams
        self._network = open_network(
            bundle.model_path, shapes, scalers.get("twin_sha256"), bundle.contents
        )

    @abc.abstractmethod
    def _probe(self) -> Probe:
        """What this code makes of fixed candles."""

    def _demand_same_features(self, scalers: Mapping[str, Any], scaler_path: str | Path) -> None:
        """Refuse a model whose features this code computes otherwise; older files do not tell."""
        if "features_probe" not in scalers:
            return
        changed = changed_feature(scalers["features_probe"], self._probe(), self.feature_cols)
        if changed is not None:
            raise ValueError(
                f"{scaler_path}: this version of the code computes the feature {changed} in "
                "another way than the one that trained the model; train again, or use that version "
                "(the metadata names its commit)"
            )

    def _read_numbers(self, scalers: Mapping[str, Any]) -> None:
        """Take in the fitted numbers of the scaler file; a ValueError names one out of range."""
        self._calibration = Calibration.from_dict(scalers["calibration"])
        self._intervals = _read_intervals(scalers)

    @classmethod
    def from_pretrained(
        cls,
        repo: str,
        revision: str | None = None,
        *,
        is_dataset: bool = False,
        folder: str = "",
        cache_dir: str | Path | None = None,
        **options: Any,
    ) -> Self:
        """Open a bundle on the Hugging Face Hub, of which only what a forecast takes is downloaded.

        Args:
            repo: Such as "user/repo"; a private one takes the token in HF_TOKEN or of a stored
                login.
            revision: Branch, tag or commit; with a full commit hash a bundle that was opened before
                needs no network.
            is_dataset: It lies in a dataset repository.
            folder: Folder inside the repository.
            cache_dir: Where downloads are kept; by default where huggingface_hub keeps them.
            options: As for the class itself.

        Raises:
            ConnectionError: The Hub is out of reach or refuses.
            ValueError: There is no such bundle, its files are too large or not those that its
                metadata names, hold anything but the admitted types and layers, or huggingface_hub
                is not installed.
        """
        from pipeline.bundle import hub_transfer  # lazy: few need the Hub

        directory = hub_transfer.download(
            hub_transfer.Place(repo, is_dataset, folder),
            cls.files.metadata,
            cls.files.served,
            optional=(cls.files.twin, *(cls.files.judged if options.get("judged") else ())),
            revision=revision,
            cache_dir=cache_dir,
        )
        return cls.from_directory(directory, **options)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The bundle's metadata, of the same run as the network; empty where there is none."""
        return check_metadata(self._bundle.metadata, self._bundle.metadata_name)

    def metrics(self) -> dict[str, Any]:
        """What the training run measured: content of the bundle's metrics file.

        Raises:
            FileNotFoundError: It is missing.
            ValueError: It is not the one that the metadata names, or not readable.
        """
        return self._bundle.read_json(self.files.metrics)

    def _demand_agreement(self, bundle: Snapshot) -> None:
        """Refuse a scaler file that says less was learnt than the metadata does.

        Raises:
            ValueError: They contradict each other.
        """
        metadata = check_metadata(bundle.metadata, bundle.metadata_name)
        judged = metadata.get("judged", {})
        is_judged = judged.get("model") == bundle.model_path.name
        told = judged if is_judged else metadata.get("served")
        if told is None:
            return
        until_ms = read_instant(told["trained_until"], bundle.metadata_name)
        if until_ms != self.learnt_until_ms({}):
            raise ValueError(
                f"{bundle.scaler_path}: the network has learnt candles to {minute(until_ms)}, says "
                f"{bundle.metadata_name}, and to {self.trained_until}, says this file: the bundle "
                "contradicts itself; get it again from whoever trained it"
            )

    @property
    def seen_until(self) -> pd.Timestamp | None:
        """Forecasts made before are no proof: the network has learnt what came of them, or the
        recalibration in use was fitted to it."""
        later = self.recalibration
        if self.trained_until is None or later is None:
            return self.trained_until
        return max(self.trained_until, _timestamp(later.until_ms))

    @property
    def calibration(self) -> Calibration:
        """The one in use: of the training run, or later."""
        return self._calibration if self.recalibration is None else self.recalibration.calibration

    @property
    def calibrated_until(self) -> pd.Timestamp | None:
        """Shrinkage and p_up know nothing later; that is `judged_until` unless recalibrated."""
        later = self.recalibration
        return self.judged_until if later is None else _timestamp(later.until_ms)

    def without_caution(self) -> Self:
        """This predictor without caution with age, to compare networks of different age."""
        bold = copy.copy(self)
        bold.is_cautious_with_age = False
        return bold

    def as_judged(self) -> Self:
        """This predictor without recalibration; its history tells `raw_return` too, unshrunk."""
        judged = copy.copy(self)
        judged.recalibration = None
        judged.history_columns = (*type(self).history_columns, "raw_return")
        return judged

    def learnt_until_ms(self, cuts: Mapping[str, int]) -> int | None:
        """Until when the network has learnt from candles, epoch ms; None where nothing says it.

        Args:
            cuts: What the bundle's files say (`agreed_cuts`); of older bundles the scaler file says
                less.
        """
        if self.trained_until is None:
            return cuts.get("val_end")
        return int(self.trained_until.timestamp() * 1000)

    @property
    def judged_until(self) -> pd.Timestamp | None:
        """The network that the verdict is about has learnt nothing later."""
        return _timestamp(self.cuts["val_end"]) if self.cuts else None

    @property
    def has_judged_beside(self) -> bool:
        """Whether this network has learnt the test part too, so that the verdict is another's."""
        return self.judged_until != self.trained_until

    @property
    def required_candles(self) -> int:
        """Candles from which on nothing of a forecast depends on where the history starts.

        With fewer the width of the interval is corrected less, by what is known.
        """
        memory = getattr(self._intervals, "memory", 0)
        if not memory:
            return self.warm_candles
        return max(self.warm_candles, VOLATILITY_WARMUP + int(memory) + self.horizon)

    @property
    def warm_candles(self) -> int:
        """Candles from which on the features have forgotten where the history starts."""
        return self.lookback + self.warmup

    @property
    def _needed(self) -> int:
        """Candles in a row that a forecast takes: its window, or the volatility's first value."""
        return max(self.lookback, VOLATILITY_SPAN + 1)

    def _volatility(self, candles: pd.DataFrame) -> np.ndarray:
        return segmented_volatility(candles, self.timeframe, self.horizon)

    def _inputs(
        self, candles: pd.DataFrame, volatility: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        """(k, n_inputs + 2) what calibration and intervals of the candles `rows` take:
        `scale_inputs`, the factor on the width, and the factor on the forecast."""
        inputs = scale_inputs(candles, self.timeframe, self.horizon)
        widths = np.ones(len(rows))
        if isinstance(self._intervals, IntervalModel):
            of_candles = (candles, inputs, volatility, self.timeframe, self.horizon)
            widths = candle_widths(self._intervals, *of_candles, rows)
        return np.column_stack([inputs[rows], widths, self._age_factors(candles, rows)])

    def _age_factors(self, candles: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
        """(k,) factors on the forecasts from the candles `rows` (`aging`)."""
        is_known = self.trained_until is not None and "test_end" in self.cuts
        if not (self.is_cautious_with_age and is_known) or self.recalibration is not None:
            return np.ones(len(rows))
        closed_ms = timestamps_ms(candles)[rows] + self._step_ms
        age_days = (closed_ms - (self.learnt_until_ms(self.cuts) or 0)) / DAY_MS
        judged_days = (self.cuts["test_end"] - self.cuts["val_end"]) / DAY_MS
        return age_factors(age_days, judged_days)

    def _instrument_of(self, df: pd.DataFrame, symbol: str | None) -> Instrument:
        """Whose candles these are, as far as the caller, the frame or the model says it."""
        attrs = getattr(df, "attrs", {})
        return Instrument(symbol or attrs.get("symbol") or self.symbol, attrs.get("exchange"))

    def _times_of(self, candles: pd.DataFrame, t: np.ndarray) -> dict[str, Any]:
        """The time columns of a history whose forecasts are made from the rows t."""
        last = candles["timestamp"].iloc[t].reset_index(drop=True)
        target_ms = timestamps_ms(candles)[t] + self.horizon * self._step_ms
        return {
            "timestamp": last,
            "last_timestamp": last,
            "target_timestamp": utc_from_ms(target_ms),
        }

    def _serve(
        self, outputs: np.ndarray, volatility: np.ndarray, inputs: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Calibrated forecasts from (n, 1) log-returns, or (n, 3) quantiles of them."""
        raw = point_forecast(outputs)
        served = apply_calibration(self.calibration, raw, volatility) | {"raw_return": raw}
        *_, width, by_age = inputs.T
        served["predicted_return"] = centre = by_age * served["predicted_return"]
        if isinstance(self._intervals, QuantileFactors):
            if outputs.shape[1] != 3:
                raise ValueError(
                    f"the network forecasts {outputs.shape[1]} number(s), and the scaler file's "
                    "intervals take q10, q50 and q90; use the two files of one training run"
                )
            return served | apply_quantiles(self._intervals, outputs, centre)
        return served | apply_intervals(self._intervals, inputs[:, :-2], volatility, centre, width)

    def _demand_numbers(
        self, forecast: Mapping[str, np.ndarray], base_price: np.ndarray, last_ms: np.ndarray
    ) -> None:
        """Refuse forecasts of which a number is none: the last thing before they leave.

        Args:
            forecast: Name -> (n,) of what `_forecast` says.
            base_price: (n,) prices that the forecasts start from.
            last_ms: (n,) opens of the candles that they are made from, epoch ms.

        Raises:
            ValueError: A number is not finite, a price not positive, a probability not within 0
                and 1, or quantiles are not in order; names the first candle.
        """
        for name, values in forecast.items():
            _refuse(~np.isfinite(values), f"{name} is not finite", values, last_ms)
        for name in self.log_returns & forecast.keys():
            with numbers_unjudged():
                factor = np.exp(forecast[name])
                price = base_price * factor
            # Percent are a hundred times as large.
            is_price = (price > 0) & np.isfinite(price) & np.isfinite(100 * factor)
            _refuse(~is_price, f"{name} gives no price", price, last_ms)
        for name in self.prices & forecast.keys():
            _refuse(forecast[name] <= 0, f"{name} is no price", forecast[name], last_ms)
        for name in self.probabilities & forecast.keys():
            values = forecast[name]
            _refuse((values < 0) | (values > 1), f"{name} is no probability", values, last_ms)
        for names in self.ordered:
            present = [name for name in names if name in forecast]
            for low, high in itertools.pairwise(present):
                crosses = forecast[low] > forecast[high]
                _refuse(crosses, f"{low} is above {high}", forecast[low], last_ms)

    def _age_days(self, closed_ms: int) -> float | None:
        """Days from what the model learnt last to a candle's close; None of bundles of before."""
        if self.trained_until is None:
            return None
        return (_timestamp(closed_ms) - self.trained_until) / pd.Timedelta(days=1)

    def _is_unseen(self, history: pd.DataFrame) -> np.ndarray:
        """(n,) bool: was a forecast made after everything that the model was fitted to?"""
        if self.seen_until is None:
            return np.ones(len(history), dtype=bool)
        closed_ms = timestamps_ms(history) + self._step_ms
        return closed_ms >= int(self.seen_until.timestamp() * 1000)

    def _as_prediction(
        self,
        candles: pd.DataFrame,
        price: float,
        forecast: dict[str, float],
        instrument: Instrument,
    ) -> Prediction:
        log_return, p_up = forecast["predicted_return"], forecast["p_up"]
        last_ms = int(timestamps_ms(candles)[-1])
        target = _timestamp(last_ms + self.horizon * self._step_ms)
        closed_ms = last_ms + self._step_ms
        return {
            "price": price * float(np.exp(log_return)),
            "return": log_return,
            "return_low": forecast["q10"],
            "return_median": forecast["q50"],
            "return_high": forecast["q90"],
            "return_percent": 100.0 * float(np.expm1(log_return)),
            "price_change": price * float(np.expm1(log_return)),
            "last_price": price,
            "confidence": max(p_up, 1.0 - p_up),
            "p_up": p_up,
            "price_low": price * float(np.exp(forecast["q10"])),
            "price_high": price * float(np.exp(forecast["q90"])),
            "timestamp": target,
            "target_timestamp": target,
            "last_timestamp": _timestamp(last_ms),
            "age_candles": max(int(time.time() * 1000 - closed_ms) // self._step_ms, 0),
            "timeframe": self.timeframe,
            "horizon": self.horizon,
            "symbol": instrument.symbol,
            "quote": quote_of(instrument.symbol),
            "venue": instrument.venue,
            "synthetic": self.is_synthetic or instrument.venue == "synthetic",
            "trained_until": self.trained_until,
            "age_days": self._age_days(closed_ms),
            "judged_until": self.judged_until,
            "calibrated_until": self.calibrated_until,
            "missing_inputs": [],
        }


class CandlePredictor(BundlePredictor):
    """Forecasts the close `horizon` candles ahead from recent candles of one pair.

    A generation names its files and features, computes them, and turns what its network says into
    log-returns.
    """

    optional_inputs: ClassVar[frozenset[str]] = frozenset()
    """features that candles may lack: they rest on volume, other coins or further columns"""

    @abc.abstractmethod
    def _features(self, candles: pd.DataFrame) -> pd.DataFrame:
        """(n, n_features) frame, as in training."""

    @abc.abstractmethod
    def _to_log_return(
        self, output: np.ndarray, base_price: np.ndarray, volatility: np.ndarray
    ) -> np.ndarray:
        """What the network says of n windows, as log-returns from their base price."""

    def with_context(self, context: Mapping[str, pd.DataFrame] | None) -> Self:
        """This predictor, knowing other coins' candles; itself where it looks at one coin alone."""
        return self

    def predict(
        self,
        df: pd.DataFrame,
        last_price: float | None = None,
        *,
        context: Mapping[str, pd.DataFrame] | None = None,
        symbol: str | None = None,
    ) -> Prediction:
        """Forecast from the last candle of `df`.

        Args:
            df: Recent closed candles of one pair, at least `lookback`, better `required_candles`:
                timestamp (open), open, high, low, close, volume; what else the model uses.
            last_price: Price the forecast starts from, in quote currency; the last close by
                default.
            context: Pair -> candles of other pairs, for models that look at them; see
                `with_context`.
            symbol: The pair, such as "BTC/USDT", which the forecast then names; by default what
                `df.attrs` says, as it does of candles that were read or fetched by this project.

        Raises:
            ValueError: Too few candles, a gap among the last `lookback`, unsound candles, a price
                that is not positive.
        """
        return self.with_context(context)._predict([df], [last_price], symbol)[0]

    def predict_batch(
        self,
        dfs: Sequence[pd.DataFrame],
        last_prices: Sequence[float | None] | None = None,
        *,
        context: Mapping[str, pd.DataFrame] | None = None,
    ) -> list[Prediction]:
        """Forecast from the last candle of each frame: what `predict` says of it, in their order.

        Args:
            dfs: Frames of candles, of one or of several pairs.
            last_prices: A price for each frame; None for the last close.
            context: As for `predict`; all frames share it.
        """
        if isinstance(dfs, (Mapping, pd.DataFrame)):
            kind = type(dfs).__name__
            raise ValueError(
                f"predict_batch was given one {kind}; pass a list of frames of candles"
            )
        prices = one_for_each(last_prices, len(dfs))
        return self.with_context(context)._predict(dfs, prices) if len(dfs) else []

    def predict_history(
        self, df: pd.DataFrame, *, context: Mapping[str, pd.DataFrame] | None = None
    ) -> History:
        """Forecast from every candle that can be: bit for bit what `predict(df.iloc[:t + 1])` says.

        Args:
            df: As for `predict`.
            context: As for `predict`; of each candle that was known by then.

        Returns:
            One row per candle t whose last `lookback` candles hold no gap: `timestamp` and
            `last_timestamp` (open of t, UTC), `target_timestamp` (open of the candle that is
            forecast), `predicted_return`, `q05`, `q10`, `q25`, `q50`, `q75`, `q90`, `q95`
            (log-returns over the horizon), `p_up`. It is a frame that also has `to_signals`.
        """
        candles = read_closed(df, self.timeframe)
        is_usable = usable_rows(timestamps_ms(candles), self._step_ms, self._needed, warmup=0)
        t = np.flatnonzero(is_usable)
        if len(t) == 0:
            raise ValueError(
                f"none of {len(candles)} candles can be forecast from: it takes {self._needed} in "
                "a row without a gap"
            )
        base = candles["close"].to_numpy()[t]
        with numbers_unjudged():
            features = self.with_context(context)._features(candles)
            volatility = self._volatility(candles)
            forecast = self._forecast(
                self._scale(features), t, base, volatility[t], self._inputs(candles, volatility, t)
            )
        self._demand_numbers(forecast, base, timestamps_ms(candles)[t])
        # Before, much is missing by its nature.
        is_warm = t >= min(self.warm_candles - 1, t[-1])
        note = self.missing_note(features.iloc[t[is_warm]])
        if note is not None:
            warnings.warn(note, stacklevel=2)
        columns = self._times_of(candles, t)
        columns |= {name: forecast[name] for name in self.history_columns}
        return History.of(columns, candles, self.timeframe, self.horizon, self.seen_until)

    def plot(
        self,
        df: pd.DataFrame,
        last_price: float | None = None,
        *,
        context: Mapping[str, pd.DataFrame] | None = None,
        symbol: str | None = None,
    ) -> Figure:
        """Picture of the recent candles, the forecast and its 80 % band; arguments of `predict`."""
        prediction = self.predict(df, last_price, context=context, symbol=symbol)
        return self.with_context(context).picture_of(prediction, df)

    def picture_of(self, prediction: Prediction, df: pd.DataFrame) -> Figure:
        """The same of a forecast that has been made from these candles already.

        Past forecasts are drawn too: of as many candles as are shown, can be forecast from and were
        not learnt from.
        """
        # What is odd was told of where the forecast was made.
        candles = formats.recognise(df, self.timeframe, tell=lambda text: None)
        closed = drop_forming(candles, self.timeframe)
        history = None
        with warnings.catch_warnings(), contextlib.suppress(ValueError):  # there may be too few
            warnings.simplefilter("ignore")
            history = self.predict_history(closed.iloc[-self.required_candles - SHOWN :])
            history = history[self._is_unseen(history)]
        return plot_forecast(closed, prediction, history=history)

    def _predict(
        self, dfs: Sequence[pd.DataFrame], prices: Sequence[float | None], symbol: str | None = None
    ) -> list[Prediction]:
        frames, rows, base, volatility, inputs, missing = [], [], [], [], [], []
        for i, (df, price) in enumerate(zip(dfs, prices)):
            where = "candles" if len(dfs) == 1 else f"frame {i} of {len(dfs)}"
            candles = read_recent(
                df, self.timeframe, needed=self._needed, required=self.warm_candles, where=where
            )
            with numbers_unjudged():
                features = self._features(candles)
                rows.append(self._scale(features)[-self.lookback :])
                of_candles = self._volatility(candles)
                volatility.append(of_candles[-1])
                inputs.append(self._inputs(candles, of_candles, np.array([len(candles) - 1]))[0])
            frames.append(candles)
            missing.append(self._missing_inputs(features))
            base.append(base_price(candles, price))
        end = np.arange(1, len(frames) + 1) * self.lookback - 1
        with numbers_unjudged():
            forecast = self._forecast(
                np.concatenate(rows), end, np.array(base), np.array(volatility), np.array(inputs)
            )
        self._demand_numbers(forecast, np.array(base), last_ms_of(frames))
        if lacking := list(dict.fromkeys(name for names in missing for name in names)):
            warnings.warn(self._missing_text(lacking), stacklevel=3)
        predictions = []
        for i, candles in enumerate(frames):
            numbers = {name: float(values[i]) for name, values in forecast.items()}
            instrument = self._instrument_of(dfs[i], symbol)
            prediction = self._as_prediction(candles, base[i], numbers, instrument)
            prediction["missing_inputs"] = missing[i]
            predictions.append(prediction)
        _warn_of_outsiders(predictions)
        return predictions

    def _missing_inputs(self, features: pd.DataFrame) -> list[str]:
        """Optional features that the newest candle lacks, or most of its window."""
        names = [name for name in features.columns if name in self.optional_inputs]
        places = [place for place, name in enumerate(features.columns) if name in names]
        # The first rows of a history lack inputs because these are still warming up.
        is_nan = np.isnan(features.to_numpy()[VOLATILITY_SPAN:, places][-self.lookback :])
        is_missing = is_nan[-1] | (is_nan.mean(axis=0) > 0.5)
        return list(itertools.compress(names, is_missing))

    def count_missing(self, features: pd.DataFrame) -> dict[str, int]:
        """Optional feature -> how many of these rows lack it, of those that any row lacks."""
        names = [name for name in self.feature_cols if name in self.optional_inputs]
        counts = features[names].isna().sum()
        return {name: int(counts[name]) for name in names if counts[name]}

    def missing_note(self, features: pd.DataFrame) -> str | None:
        """What to say of forecasts from these rows of features; None where nothing is missing."""
        counts = self.count_missing(features)
        if not counts:
            return None
        n_most = max(counts.values())
        return f"{n_most:,} of {len(features):,} forecasts: {self._missing_text(list(counts))}"

    def _missing_text(self, missing: Sequence[str]) -> str:
        """What to say about a forecast that does without some inputs."""
        return f"the forecast does without {', '.join(missing)}; {VOLUME_REMEDY}"

    def _scale(self, features: pd.DataFrame) -> np.ndarray:
        """(n, n_features) float32; a missing value becomes the training mean."""
        return scale_rows(features.to_numpy(np.float32), self._x_scaler)

    def _forecast(
        self,
        rows: np.ndarray,
        end: np.ndarray,
        base_price: np.ndarray,
        volatility: np.ndarray,
        inputs: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Name -> (n,) of the windows that end with the rows `end`."""
        raw = self._to_log_return(self._network.run(rows, end), base_price, volatility)
        return self._serve(raw[:, None], volatility, inputs)


def numbers_unjudged() -> np.errstate:
    """NumPy says nothing of numbers that overflow: `_demand_numbers` judges what comes of them."""
    return np.errstate(all="ignore")


def last_ms_of(frames: Sequence[pd.DataFrame]) -> np.ndarray:
    """(n,) open of the last candle of each frame, epoch ms."""
    return np.array([timestamps_ms(candles)[-1] for candles in frames])


def _refuse(is_bad: np.ndarray, what: str, values: np.ndarray, last_ms: np.ndarray) -> None:
    """A ValueError where any of n forecasts is bad; names the first."""
    if is_bad.any():
        first = int(np.argmax(is_bad))
        raise ValueError(
            f"no forecast from the candle of {minute(int(last_ms[first]))}: {what} "
            f"({values[first]:g}, in {int(is_bad.sum()):,} of {len(is_bad):,} forecasts); the "
            "model's weights or scalers hold such numbers (train it again), or the candles up to "
            "there are extreme (mend them)"
        )


def _warn_of_outsiders(predictions: Sequence[Prediction]) -> None:
    """A warning where a forecast lies outside of its own 80 % interval; of many, of the first."""
    for prediction in predictions:
        if not prediction["price_low"] <= prediction["price"] <= prediction["price_high"]:
            warnings.warn(
                f"the forecast of {prediction['return_percent']:+.2f} % lies outside of its own "
                f"80 % interval, {100 * np.expm1(prediction['return_low']):+.2f} to "
                f"{100 * np.expm1(prediction['return_high']):+.2f} %: do not rely on it; look at "
                f"the last candles up to {prediction['last_timestamp']:%Y-%m-%d %H:%M} for a wrong "
                "price or a change of unit",
                stacklevel=4,
            )
            return


def _timestamp(milliseconds: int) -> pd.Timestamp:
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC").as_unit("ms")


def _cuts_of(scalers: Mapping[str, Any]) -> dict[str, int]:
    """What the scaler file says of the instants that divide the run's candles, epoch ms.

    Bundles of before name the end of the validation part alone, or nothing.
    """
    if scalers.get("cuts") is not None:
        return read_cuts(scalers["cuts"], "cuts")
    if scalers.get("trained_until") is not None:
        return {"val_end": read_instant(scalers["trained_until"], "trained_until")}
    return {}


def _trained_until(scalers: Mapping[str, Any], cuts: Mapping[str, int]) -> pd.Timestamp | None:
    """The network has learnt nothing later; None of bundles of before that do not tell.

    That is the end of the validation part, or of the test part where the network was trained once
    more after the verdict.
    """
    told = scalers.get("trained_until")
    if told is not None:
        return _timestamp(read_instant(told, "trained_until"))
    return _timestamp(cuts["val_end"]) if cuts else None


def _read_intervals(scalers: Mapping[str, Any]) -> IntervalModel | QuantileFactors:
    """The intervals of a scaler file, of the kind that it names."""
    numbers = scalers["intervals"]
    is_quantiles = scalers.get("quantile_regression") is True  # a bundle that names no kind
    kind = numbers.get("kind", QuantileFactors.kind if is_quantiles else IntervalModel.kind)
    if kind == QuantileFactors.kind:
        return QuantileFactors.from_dict(numbers)
    if kind == IntervalModel.kind:
        model = IntervalModel.from_dict(numbers)
        model.demand_inputs(input_names(scalers["timeframe"]))
        return model
    raise ValueError(f"unknown kind of interval {shown(kind)}; it was written by another version")
