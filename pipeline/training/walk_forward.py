"""Walk-forward: train again every month on what was known by then, and forecast the month after;
all months together.

A single test part says how one network fared. Walking forward says how the recipe fares: each fold
has its own scaler, baselines, network and calibration, none of which has seen anything later than
its validation part.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline import atomic
from pipeline.samples.splitting import Split, cut_at
from pipeline.training import jobs

logger = logging.getLogger(__name__)

PREDICTIONS = "predictions.parquet"
SHORTEST_FOLD = 0.5
"""A last fold shorter than this share of the others joins the one before it."""


def fold_splits(
    split: Split,
    target_time: np.ndarray,
    refit_every: np.timedelta64,
    purge: np.timedelta64,
    *,
    is_rolling: bool = False,
) -> list[Split]:
    """Cut the test part into folds; the parts before each fold move along with it.

    Args:
        split: Of the whole run; its training and validation part are those of the first fold.
        target_time: (n_samples,) datetime64, UTC; as in `chronological_split`.
        refit_every: Length of a fold.
        purge: As in `chronological_split`.
        is_rolling: The training part keeps its length and drops its oldest samples; else it grows.

    Returns:
        At least one Split, in time order; their test parts are disjoint and, but for the purge,
        make up the whole one.

        A fold without samples in one of its parts is left out with a warning.

    Raises:
        ValueError: All of them are, or a fold is of no length.
    """
    if refit_every <= np.timedelta64(0, "ms"):
        raise ValueError(f"refit_every is {refit_every}; a fold is longer than nothing")
    step = refit_every.astype("timedelta64[ms]")
    starts = [split.test_start]
    while starts[-1] + step < split.test_end:
        starts.append(starts[-1] + step)
    if len(starts) > 1 and split.test_end - starts[-1] < SHORTEST_FOLD * step:
        starts.pop()
    first_target = target_time[split.train[0]].astype("datetime64[ms]")
    folds = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], split.test_end])):
        moved = number * step
        train_start = first_target + moved if is_rolling else None
        cuts = (split.train_end + moved, split.val_end + moved, start, end)
        try:
            folds.append(cut_at(target_time, *cuts, purge, train_start=train_start))
        except ValueError as error:
            logger.warning("the fold from %s to %s is left out: %s", start, end, error)
    if not folds:
        raise ValueError(
            f"no fold of {refit_every} has samples in all its parts; lengthen --refit-every"
        )
    return folds


def run_folds(
    folds: Sequence[Split],
    forecast: Callable[[Split, Path], pd.DataFrame],
    folder: Path,
    *,
    workers: int = 1,
) -> list[pd.DataFrame]:
    """Predictions of every fold; what an interrupted run has finished is read, not done again.

    Args:
        folds: From `fold_splits`.
        forecast: Called with a fold and a folder of its own for what it needs to resume; returns
            its predictions. With workers it can be pickled.
        folder: Where the folds' folders go.
        workers: How many folds at once; see `jobs.run_jobs`.

    Raises:
        ValueError: A fold failed; it is named.
    """
    todo, paths = {}, []
    for number, fold in enumerate(folds, start=1):
        own = folder / f"fold_{number:02d}"
        own.mkdir(exist_ok=True)
        paths.append(own / PREDICTIONS)
        if paths[-1].is_file():
            logger.info("fold %d of %d was finished before", number, len(folds))
        else:
            todo[own.name] = functools.partial(_run_fold, forecast, fold, own)
    # In this process, to spare the seconds that another takes to start; TensorFlow keeps some
    # memory of each fold.
    jobs.run_all(todo, n_done=len(folds) - len(todo), own_process=False, workers=workers)
    return [pd.read_parquet(path) for path in paths]


def _run_fold(forecast: Callable[[Split, Path], pd.DataFrame], fold: Split, own: Path) -> None:
    predictions = forecast(fold, own)
    with atomic.replacing(own / PREDICTIONS) as unfinished:
        predictions.to_parquet(unfinished, index=False)
