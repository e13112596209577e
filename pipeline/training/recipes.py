"""Recipes that train a network more than once: ensembles, refits, folds and horizons.

A training script says how one network is fitted (`FitNetwork`); a recipe repeats that. What a
killed run has finished is not done again.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from config import RecipeConfig
from pipeline import atomic, terminal
from pipeline.bundle.files import BundleFiles, forms_of
from pipeline.bundle.network import import_keras
from pipeline.samples.scaling import ScaledSamples
from pipeline.samples.splitting import Split, cut_at
from pipeline.samples.windows import Samples
from pipeline.training import parallel

logger = logging.getLogger(__name__)

HELD_OUT = "held_out"
"""Folder beside a refitted network: the same network, trained without the validation part."""
JUDGED, SERVED = "judged", "served"
"""Folders of a run whose served network learns the test part too, and of the one before it."""
PREDICTIONS = "predictions.parquet"
SHORTEST_FOLD = 0.5
"""A last fold shorter than this share of the others joins the one before it."""


class FitNetwork(Protocol):
    """Builds one network, fits it and saves it in a folder; returns its history."""

    def __call__(
        self, scaled: ScaledSamples, config: Any, folder: Path, *, kept_epoch: int | None = None
    ) -> dict[str, Any]: ...


# --- ensembles and refits


def train(
    fit_network: FitNetwork,
    scaled: ScaledSamples,
    config: RecipeConfig,
    folder: Path,
    names: BundleFiles,
) -> dict[str, Any]:
    """Fit the network, or the members of an ensemble whose mean becomes the final file.

    Args:
        fit_network: How one network is fitted; with workers it can be pickled.
        scaled: Samples and split.
        config: `ensemble`, `refit` and `workers` choose the recipe; members differ by their seed.
        folder: Where the final file goes, and a folder for each member.
        names: Names of the bundle's files.

    Returns:
        The history of the network; of an ensemble, member -> history.
    """
    if config.ensemble == 1:
        return train_one(fit_network, scaled, config, folder)
    jobs = {
        name: functools.partial(train_one, fit_network, scaled, member, folder / name)
        for name, member in _members(config).items()
    }
    # In this process, to spare the seconds that another takes to start; TensorFlow keeps some
    # memory of each member.
    histories = parallel.run_all(jobs, own_process=False, workers=config.workers)
    for below in (HELD_OUT, "") if config.refit else ("",):
        save_average([folder / name / below / names.model for name in jobs], folder / below, names)
    return histories


def final_fit(
    fit_network: FitNetwork,
    scaled: ScaledSamples,
    config: RecipeConfig,
    folder: Path,
    names: BundleFiles,
    history: Mapping[str, Any],
) -> None:
    """Train once more what will be served, on everything up to the end of the test part.

    Settings and epochs are those of the judged network, and so are scalers, shrinkage and
    intervals. Nothing is left that could judge the result: the verdict is about the judged network.

    Args:
        fit_network: See `train`.
        scaled: The samples that the judged network was trained and tested on.
        config: See `train`.
        folder: Where the final files go; the judged network is in its folder `JUDGED`.
        names: Names of the bundle's files, those of the judged network among them.
        history: Of the judged network, as `train` returned it.
    """
    terminal.tell("the network that will be served, once more on everything")
    everything = scaled.learning_everything()
    served = folder / SERVED
    if config.ensemble == 1:
        fit_network(everything, config, served, kept_epoch=history["best_epoch"])
    else:
        members = _members(config)
        jobs = {
            name: functools.partial(
                fit_network,
                everything,
                member,
                served / name,
                kept_epoch=history[name]["best_epoch"],
            )
            for name, member in members.items()
        }
        parallel.run_all(jobs, own_process=False, workers=config.workers)
        save_average([served / name / names.model for name in jobs], served, names)
    # Copies: a run that is killed here begins again with what it has trained.
    for judged, name in zip(forms_of(names.judged_model), forms_of(names.model)):
        _copy(folder / JUDGED / name, folder / judged)
    for name in (*forms_of(names.model), *forms_of(names.checkpoint)):
        _copy(served / name, folder / name)


def _copy(source: Path, target: Path) -> None:
    """Copy a file that need not be there, such as a network's ONNX twin."""
    if source.is_file():
        shutil.copyfile(source, target)


def judged_folder(config: RecipeConfig, folder: Path) -> Path:
    """Where the network goes that is judged: into the run's folder unless another is served."""
    return folder / JUDGED if config.final_fit else folder


def _members(config: RecipeConfig) -> dict[str, Any]:
    """Name of an ensemble's member -> its settings, with a seed of its own."""
    return {
        f"member_{n + 1}": replace(config, seed=config.seed + n) for n in range(config.ensemble)
    }


def train_one(
    fit_network: FitNetwork, scaled: ScaledSamples, config: RecipeConfig, folder: Path
) -> dict[str, Any]:
    """Fit one network; with `config.refit` a second one, that learns the validation part too.

    The first one calibrates the forecasts, on a validation part that it has not learnt. The second
    one is trained for as many epochs as validation chose for the first.
    """
    if not config.refit:
        return fit_network(scaled, config, folder)
    history = fit_network(scaled, config, folder / HELD_OUT)
    terminal.tell("again, on the validation part too")
    both = scaled.learning_validation()
    fit_network(both, config, folder, kept_epoch=history["best_epoch"])
    return history


def save_average(paths: Sequence[Path], folder: Path, names: BundleFiles) -> None:
    """Save one network that is the mean of those in the files: checkpoint, final file and twins."""
    keras = import_keras()
    from models.average import build_average
    from pipeline.training.fit import save_final, save_plain_h5

    folder.mkdir(exist_ok=True)
    average = build_average([keras.models.load_model(path, compile=False) for path in paths])
    save_plain_h5(average, folder / names.checkpoint)
    save_final(average, folder, names)


# --- folds: walking forward
#
# A single test part says how one network fared. Walking forward says how the recipe fares: each
# fold has its own scaler, baselines, network and calibration, and none of these has seen anything
# later than the fold's validation part.


def split_into_folds(samples: Samples, split: Split, config: RecipeConfig) -> list[Split]:
    """The split itself; with `config.walk_forward` a split for every `refit_every` days of it."""
    if not config.walk_forward:
        return [split]
    folds = fold_splits(
        split,
        samples.target_time,
        np.timedelta64(config.refit_every, "D"),
        samples.target_span,
        is_rolling=config.rolling,
    )
    days = config.refit_every
    terminal.tell(f"{len(folds)} folds of {days} days, each with a network of its own")
    return folds


def fold_splits(
    split: Split,
    target_time: np.ndarray,
    refit_every: np.timedelta64,
    purge: np.timedelta64,
    *,
    is_rolling: bool = False,
) -> list[Split]:
    """Cut the test part into folds; the parts before each fold move along with it.

    A fold without samples in one of its parts is left out with a warning.

    Args:
        split: Split of the whole run; its training and validation part are those of the first fold.
        target_time: (n_samples,) datetime64, UTC; as in `chronological_split`.
        refit_every: Length of a fold.
        purge: As in `chronological_split`.
        is_rolling: The training part keeps its length and drops its oldest samples; else it grows.

    Returns:
        At least one split, in time order; their test parts are disjoint and, but for the purge,
        make up the whole one.

    Raises:
        ValueError: No fold has samples in all its parts, or a fold is of no length.
    """
    if refit_every <= np.timedelta64(0, "ms"):
        raise ValueError(f"refit_every is {refit_every}; a fold is longer than nothing")
    step = refit_every.astype("timedelta64[ms]")
    starts = [split.test_start]
    while starts[-1] + step < split.test_end:
        starts.append(starts[-1] + step)
    if len(starts) > 1 and split.test_end - starts[-1] < SHORTEST_FOLD * step:
        starts.pop()
    ends = [*starts[1:], split.test_end]
    first_target = target_time[split.train[0]].astype("datetime64[ms]")
    folds = []
    for number, (start, end) in enumerate(zip(starts, ends)):
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
    """Predictions of every fold.

    Args:
        folds: From `fold_splits`.
        forecast: Called with a fold and a folder of its own for what it needs to resume; returns
            its predictions. With workers it can be pickled.
        folder: Where the folds' folders go.
        workers: How many folds at once; see `parallel.run_jobs`.

    Raises:
        ValueError: A fold failed; it is named.
    """
    todo = {}
    paths = []
    for number, fold in enumerate(folds, start=1):
        own = folder / f"fold_{number:02d}"
        own.mkdir(exist_ok=True)
        paths.append(own / PREDICTIONS)
        if paths[-1].is_file():
            logger.info("fold %d of %d was finished before", number, len(folds))
        else:
            todo[own.name] = functools.partial(_run_fold, forecast, fold, own)
    # In this process: see `train`.
    n_done = len(folds) - len(todo)
    parallel.run_all(todo, n_done=n_done, own_process=False, workers=workers)
    return [pd.read_parquet(path) for path in paths]


def _run_fold(forecast: Callable[[Split, Path], pd.DataFrame], fold: Split, own: Path) -> None:
    predictions = forecast(fold, own)
    with atomic.replacing(own / PREDICTIONS) as unfinished:
        predictions.to_parquet(unfinished, index=False)


# --- horizons


def run_horizons(
    train_run: Callable[[Any], dict[str, Any]], config: Any, folder: Path
) -> dict[int, dict[str, Any]]:
    """A training run for each of `config.horizons`, in folders such as `h4` below `folder`.

    Args:
        train_run: A training script's `main`, which returns its metrics.
        config: Settings of the run, with `horizon`, `horizons` and `output_dir`.
        folder: Where the horizons' folders go, unless the settings name one.

    Returns:
        Horizon -> metrics.
    """
    metrics = {}
    for horizon in dict.fromkeys(config.horizons):
        own = (config.output_dir or folder) / f"h{horizon}"
        metrics[horizon] = train_run(replace(config, horizon=horizon, horizons=(), output_dir=own))
    return metrics
