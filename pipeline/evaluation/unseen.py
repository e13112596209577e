"""A saved model on candles it has never seen, scored as a training run scores its test part.

What is scored is what is served: every forecast comes from `predict_history`. The samples are
picked by the rules of training (`make_windows`). Of the baselines those are there that the metadata
holds in a number or none: naive, reversal, and the EWMA interval.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline import terminal
from pipeline.bundle import files
from pipeline.bundle.metadata import agreed_cuts, demand, minute, shown
from pipeline.candles import table_size
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.schema import DAY_MS, parse_times, timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.evaluation.calibrations import compare_calibrations
from pipeline.evaluation.probability import QUANTILES
from pipeline.evaluation.scoring import score_run
from pipeline.forecasts.baselines import reversal_forecast
from pipeline.forecasts.intervals import scaled_widths
from pipeline.forecasts.predictor import CandlePredictor
from pipeline.forecasts.recalibration import DAYS, MIN_DAYS, MIN_FORECASTS, Recalibration, refit
from pipeline.samples.drift import measure_drift
from pipeline.samples.windows import make_windows, segmented_volatility

logger = logging.getLogger(__name__)

NETWORK = "lstm"
"""the network's name in tables and files, as in training"""
COLUMNS = {"predicted_return": NETWORK, "raw_return": f"{NETWORK}_raw"}
"""What `predict_history` calls the network's columns -> what these are called"""
EVALUATION_FILE = "evaluation_v2.json"
METADATA = "metadata"
"""what the bundle's metadata is called in errors"""
MAX_PREDICTIONS = 20_000_000
"""bound on the rows of a bundle's predictions"""


class _Part(NamedTuple):
    """Forecasts of one symbol."""

    predictions: pd.DataFrame
    """a row a sample, the columns of predictions_v2.parquet"""
    features: np.ndarray
    """(n_samples, n_features) unscaled, at candle t"""
    time_ms: np.ndarray
    """(n_samples,) open of candle t"""


def score_unseen(
    predictor: CandlePredictor,
    market: CandleSet,
    metadata: Mapping[str, Any],
    since_ms: int | None = None,
    fee_bps: float = 5.0,
    prices_between: Mapping[str, pd.Series] = {},
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Forecast from every candle that the model has not seen, and score the forecasts.

    What is scored is the calibration that the training run judged; later ones stand beside it.
    A forecast counts if it is made (its candle t closes) at or after all that the network has
    learnt from. That is the end of the bundle's validation part, where the test part of training
    begins, or the end of the test part where that was learnt too. It holds for coins it was not
    trained on as well: what moves one coin moves the others in the same hour.

    Args:
        predictor: The model.
        market: Candles, with the history that the indicators need before the first forecast.
        metadata: Metadata of the bundle (`read_metadata`); may be empty.
        since_ms: Only forecasts made at or after this instant, epoch ms.
        fee_bps: See `backtest`; its threshold is the bundle's own.
        prices_between: See `score_run`.

    Returns:
        Plain data for JSON: "data" (`CandleSet.provenance`), "span", "seen_until",
        "untrained_symbols", "notes" (what a reader must know), "test", "backtest", "delayed_entry",
        "folds" and "age_curve" (`score_run`), "calibrations" (`compare_calibrations`), "drift"
        (`measure_drift`); and the forecasts, a row a sample in time order, with the columns of
        predictions_v2.parquet that a bundle can fill.

    Raises:
        ValueError: Nothing says what the model has seen and since_ms is not given, what says it
            contradicts itself, or no forecast is left.
    """
    cuts = agreed_cuts(predictor.cuts, metadata, METADATA)
    learnt_ms = predictor.learnt_until_ms(cuts)
    first_ms = _first_instant(learnt_ms, since_ms)
    interval_baselines = metadata.get("interval_baselines", {})
    parts = _forecast_all(predictor.as_judged(), market, first_ms, interval_baselines)
    predictions = _join(parts.values())
    baselines = ["naive"]
    if "reversal_share" in metadata:
        baselines.append("reversal")
        moves, volatility = (predictions[name] for name in ("current_return", "volatility"))
        predictions["reversal"] = reversal_forecast(
            moves.to_numpy(), volatility.to_numpy(), predictor.horizon, metadata["reversal_share"]
        )
    scores = score_run(
        [predictions],
        network=NETWORK,
        baselines=baselines,
        interval_baselines=tuple(interval_baselines),
        timeframe=predictor.timeframe,
        horizon=predictor.horizon,
        synthetic=predictor.is_synthetic or market.is_synthetic,
        fee_bps=fee_bps,
        threshold=_setting(metadata, "threshold"),
        funding=market.funding,
        prices_between=prices_between,
        trained_until=None if learnt_ms is None else [np.datetime64(learnt_ms, "ms")],
    )
    scores["test"]["warnings"] += market.doubts.values()
    scores["calibrations"] = files.plain(
        compare_calibrations(
            predictions,
            NETWORK,
            step_ms=timeframe_ms(predictor.timeframe),
            horizon=predictor.horizon,
            caution=_caution_of(metadata),
            later=predictor.recalibration,
        )
    )
    quantiles = metadata.get("feature_quantiles", {})
    rows = np.concatenate([part.features for part in parts.values()])
    time_ms = np.concatenate([part.time_ms for part in parts.values()])
    untrained = [symbol for symbol in parts if symbol not in predictor.symbols]
    notes = _notes_on_time(predictor, market, cuts, learnt_ms, time_ms, since_ms)
    notes += _notes_on_symbols(untrained, market, parts)
    missing = predictor.missing_note(pd.DataFrame(rows, columns=predictor.feature_cols))
    if missing is not None:
        notes.append(missing)
    if not quantiles:
        notes.append(
            "no drift: the metadata has no quantiles of the training features; newer training "
            "runs write them"
        )
    return {
        "data": market.provenance(),
        "span": {
            "first": minute(time_ms.min()),
            "last": minute(time_ms.max()),
            "n": len(predictions),
        },
        "seen_until": None if learnt_ms is None else minute(learnt_ms),
        "untrained_symbols": untrained,
        "notes": notes,
        **scores,
        "drift": measure_drift(rows, time_ms, predictor.feature_cols, quantiles),
    }, predictions


def forecast_unseen(predictor: CandlePredictor, market: CandleSet, since_ms: int) -> pd.DataFrame:
    """Forecasts as they were judged, of every candle that closes at an instant or later.

    Args:
        predictor: The model.
        market: See `score_unseen`.
        since_ms: The instant, epoch ms.

    Returns:
        See `score_unseen`.

    Raises:
        ValueError: There is no such candle.
    """
    return _join(_forecast_all(predictor.as_judged(), market, since_ms).values())


def recalibrate(
    predictor: CandlePredictor, market: CandleSet, metadata: Mapping[str, Any]
) -> Recalibration:
    """Fit the model's calibration anew, on its own forecasts of the last of these candles.

    Forecasts made before the end of the bundle's validation part do not count.

    Args:
        predictor: The model.
        market: See `score_unseen`, as is metadata.

    Raises:
        ValueError: Nothing says what the model has seen, or the forecasts are too few.
    """
    cuts = agreed_cuts(predictor.cuts, metadata, METADATA)
    if not cuts:
        raise ValueError(
            "nothing beside the model says which candles it has seen, so which of its forecasts "
            "are honest; train it again"
        )
    step_ms = timeframe_ms(predictor.timeframe)
    until_ms = max(market.ends_ms.values())
    since_ms = _first_instant(predictor.learnt_until_ms(cuts), until_ms - DAYS * DAY_MS)
    forecasts = forecast_unseen(predictor, market, since_ms)
    fitted = refit(
        forecasts,
        NETWORK,
        until_ms,
        step_ms=step_ms,
        horizon=predictor.horizon,
        caution=_caution_of(metadata),
    )
    if fitted is None:
        raise ValueError(
            f"{len(forecasts):,} forecasts from {minute(since_ms)} to {minute(until_ms)} are too "
            f"few to recalibrate: it takes {MIN_FORECASTS} over {MIN_DAYS} days that the model has "
            "not seen; pass newer candles, or wait for them"
        )
    return fitted


def _caution_of(metadata: Mapping[str, Any]) -> float:
    """With how much caution the training run shrank its forecasts; see `fit_shrinkage`."""
    caution = _setting(metadata, "caution")
    if not 0 <= caution <= 1:
        raise ValueError(f"{METADATA}, 'config', 'caution': {shown(caution)} is not within 0 and 1")
    return caution


def write(
    result: Mapping[str, Any],
    predictions: pd.DataFrame,
    output: Path | None,
    predictions_file: Path | None,
) -> None:
    """Write numbers to `output`, a file or a folder, and forecasts as Parquet; None: nothing."""
    if output is not None:
        files.write_json(output / EVALUATION_FILE if output.is_dir() else output, result)
    if predictions_file is not None:
        predictions.to_parquet(predictions_file, index=False)


def check_test_part(
    path: Path, predictor: CandlePredictor, metadata: Mapping[str, Any], since_ms: int | None = None
) -> None:
    """Compare when a bundle's test part begins, as its cuts say, with its forecasts of that part.

    Cuts that were moved into the past would let candles be scored that the network has learnt.

    Args:
        path: The bundle's predictions; nothing is checked where there are none.
        predictor: The model.
        metadata: Its metadata; may be empty.
        since_ms: Only forecasts made at or after this instant are to be scored, epoch ms.

    Raises:
        ValueError: The two contradict each other, or the file cannot be read.
    """
    cuts = agreed_cuts(predictor.cuts, metadata, METADATA)
    if "test_start" not in cuts or not path.is_file():
        return
    step_ms = timeframe_ms(predictor.timeframe)
    made_ms = _opens_of(path) + step_ms
    has_folds = metadata.get("config", {}).get("walk_forward") is True  # each has cuts of its own
    if not has_folds and made_ms.min() < cuts["val_end"]:
        raise ValueError(
            f"{path}: its forecasts begin at {minute(made_ms.min())}, and the bundle says that "
            f"validation ends at {minute(cuts['val_end'])}: it contradicts itself; get it again "
            "from whoever trained it"
        )
    tested = made_ms[made_ms >= cuts["test_start"]]
    first_ms = int(tested.min()) if len(tested) else int(made_ms.max())
    is_late = first_ms - cuts["test_start"] > predictor.warm_candles * step_ms
    if is_late and (since_ms is None or since_ms < first_ms):
        raise ValueError(
            f"{path}: its forecasts of the test part begin at {minute(first_ms)}, and the bundle "
            f"says that this part begins at {minute(cuts['test_start'])}: what lies between may "
            f"have been learnt; pass --since {minute(first_ms)} or later"
        )


def _opens_of(path: Path) -> np.ndarray:
    """(n,) opens of the candles that a bundle's predictions are made from, epoch ms."""
    from pyarrow import ArrowException, parquet

    try:
        with path.open("rb") as file:
            described = parquet.read_metadata(file)
            n_rows = described.num_rows
            if not 0 < n_rows <= MAX_PREDICTIONS:
                raise ValueError(f"it has {n_rows:,} rows")
            table_size.check_parquet(described)
            table_size.check_pages(file, described)
            times = parquet.read_table(file, columns=["timestamp"]).to_pandas()
        return timestamps_ms(pd.DataFrame({"timestamp": parse_times(times["timestamp"], where="")}))
    except (ArrowException, OSError, ValueError, LookupError) as error:
        raise ValueError(
            f"{path}: not readable as a bundle's predictions ({shown(str(error))}); copy the "
            "bundle again"
        ) from error


def _setting(metadata: Mapping[str, Any], name: str) -> float:
    """A number of the training run's settings; 0 where older ones had none."""
    value = metadata.get("config", {}).get(name, 0.0)
    demand(value, float, f"{METADATA}, 'config', {name!r}")
    return float(value)


def _first_instant(learnt_ms: int | None, since_ms: int | None) -> int:
    """From when on forecasts count, epoch ms."""
    if learnt_ms is None and since_ms is None:
        raise ValueError(
            "neither the scaler file nor metadata beside it says which candles the model has seen; "
            "copy metadata_v2.json of its training run there, or pass --since with an instant "
            "after all it was trained, validated and calibrated on"
        )
    return max(ms for ms in (learnt_ms, since_ms) if ms is not None)


def _forecast_all(
    predictor: CandlePredictor,
    market: CandleSet,
    start_ms: int,
    interval_baselines: Mapping[str, Mapping[str, float]] = {},
) -> dict[str, _Part]:
    """Symbol -> its forecasts, of the symbols that can be forecast; a ValueError if none can."""
    parts = {}
    with terminal.bar(len(market.candles), "forecasts", " symbols") as bar:
        for symbol, candles in market.candles.items():
            part = _forecast(predictor, symbol, candles, start_ms, interval_baselines)
            if part is not None:
                parts[symbol] = part
            bar.update()
    if not parts:
        last = max(candles["timestamp"].iloc[-1] for candles in market.candles.values())
        raise ValueError(
            f"no forecast can be made from {minute(start_ms)} on: the last candle opens at "
            f"{last:%Y-%m-%d %H:%M}; fetch newer candles (python data_fetcher.py update)"
        )
    return parts


def _forecast(
    predictor: CandlePredictor,
    symbol: str,
    candles: pd.DataFrame,
    start_ms: int,
    interval_baselines: Mapping[str, Mapping[str, float]],
) -> _Part | None:
    """Forecasts of one symbol made from `start_ms` on; None, under a warning, without any."""
    features = predictor._features(candles)
    try:
        samples = make_windows(
            {symbol: features},
            {symbol: candles},
            predictor.timeframe,
            predictor.lookback,
            predictor.horizon,
            predictor.warmup,
        )
    except ValueError as error:  # too short, or nothing but gaps; the other symbols can be scored
        logger.warning("left out: %s", error)
        return None
    opens_ms = samples.row_ms[samples.end]
    chosen = np.flatnonzero(opens_ms + samples.step_ms >= start_ms)
    if len(chosen) == 0:
        logger.warning(
            "left out: %s has no candle to forecast from at %s or later", symbol, minute(start_ms)
        )
        return None
    end, time_ms = samples.end[chosen], opens_ms[chosen]
    # From as far back as a forecast remembers: to run the network on all the history takes long.
    first = max(end[0] + 1 - predictor.required_candles, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is missing is noted once, for all symbols
        history = predictor.predict_history(candles.iloc[first:])
    served = history.set_index("timestamp").loc[utc_from_ms(time_ms), [*predictor.history_columns]]
    columns = {
        "symbol": symbol,
        "timestamp": utc_from_ms(time_ms),
        "base_price": samples.base_price[chosen],
        "current_return": samples.current_return[chosen],
        "actual_return": samples.log_return[chosen],
        "volatility": samples.volatility[chosen],
        "naive": 0.0,
        **served.rename(columns=COLUMNS).reset_index(drop=True),
    }
    scale = segmented_volatility(candles, predictor.timeframe, predictor.horizon)
    for name, constants in interval_baselines.items():
        of_candles = (scale, candles, predictor.timeframe, predictor.horizon)
        widths = scaled_widths(constants, *of_candles, end)
        for quantile in QUANTILES:
            columns[f"{name}_{quantile}"] = (
                constants[quantile] * samples.volatility[chosen] * widths
            )
    return _Part(pd.DataFrame(columns), samples.rows[end], time_ms)


def _join(parts: Iterable[_Part]) -> pd.DataFrame:
    """Forecasts in time order."""
    predictions = pd.concat([part.predictions for part in parts])
    return predictions.sort_values(["timestamp", "symbol"], ignore_index=True)


def _notes_on_time(
    predictor: CandlePredictor,
    market: CandleSet,
    cuts: Mapping[str, int],
    learnt_ms: int | None,
    time_ms: np.ndarray,
    since_ms: int | None,
) -> list[str]:
    """What was left out, and what has been looked at before."""
    if learnt_ms is None:
        return [
            "nothing beside the model says what it has seen: that it has not seen these candles is "
            "taken on trust (--since)"
        ]
    until = minute(learnt_ms)
    notes = [f"that the model has learnt nothing after {until} is its author's word"]
    if not predictor.cuts:
        notes = [f"{notes[0]}, in the metadata alone"]
    step_ms = timeframe_ms(predictor.timeframe)
    opens = np.concatenate([timestamps_ms(candles) for candles in market.candles.values()])
    closes = opens + step_ms
    n_seen = int(((closes <= learnt_ms) & (closes >= (since_ms or 0))).sum())
    if n_seen:
        notes.append(
            f"{n_seen:,} candles up to {until} left out, since the network, its "
            "scalers or its calibration saw them or other coins at that time; they serve as "
            "history only"
        )
    if "test_end" not in cuts:
        return notes
    targets = time_ms + (1 + predictor.horizon) * step_ms
    n_looked_at = int(((targets > cuts["test_start"]) & (targets <= cuts["test_end"])).sum())
    if n_looked_at:
        notes.append(
            f"{n_looked_at:,} of {len(time_ms):,} forecasts lie in the bundle's own test part (to "
            f"{minute(cuts['test_end'])}): unseen by the network, but its scores there were "
            "looked at before"
        )
    return notes


def _notes_on_symbols(
    untrained: Sequence[str], market: CandleSet, parts: Mapping[str, _Part]
) -> list[str]:
    """Whom the scores are about, and beside what."""
    notes = []
    if untrained:
        notes.append(f"not trained on: {', '.join(untrained)}")
    without = [symbol for symbol in market.candles if symbol not in parts]
    if without:
        notes.append(f"no forecasts of {', '.join(without)}")
    return [
        *notes,
        "LAD, ridge and XGBoost are not compared: they belong to a training run, not to its bundle",
    ]
