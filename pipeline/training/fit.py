"""The fit loop: batches of windows, Keras' usual callbacks, and a state that survives a kill."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from config import FitConfig
from pipeline import atomic, terminal
from pipeline.bundle.files import KERAS_SUFFIX, BundleFiles
from pipeline.bundle.network import export_twin, quiet_absl, without_newer_arguments
from pipeline.bundle.network_check import MAX_WEIGHT_BYTES
from pipeline.samples.scaling import ScaledSamples
from pipeline.samples.windows import window_view

STATE_FILE = "training_state.npz"

VALIDATION_BATCH = 1024
"""Windows a call when only the loss is wanted."""

OnEpoch = Callable[[int, dict[str, float]], None]
"""Called after each epoch with its 0-based number and its logs."""


@dataclass(frozen=True)
class History:
    """One entry per epoch, and the epoch whose weights the model ends with."""

    loss: list[float | None]
    """None where it was not finite"""
    val_loss: list[float | None]
    learning_rate: list[float]
    seconds: list[float]
    best_epoch: int
    """0-based"""


@dataclass(frozen=True)
class Hidden:
    """Features that some training windows lack, so that a forecast may lack them too."""

    columns: np.ndarray
    """(n,) columns of the windows; set to 0, which is what a missing value is scaled to"""
    share: float
    """share of the windows that lack them, drawn anew each epoch"""


@dataclass(frozen=True)
class Objective:
    """What a network is trained for."""

    loss: keras.losses.Loss | Callable[[Any, Any], Any] | list[keras.losses.Loss]
    """a Keras loss or a function of targets and outputs; of several outputs a list"""
    weights: Sequence[float] | None = None
    """weight of each output's loss in the sum"""
    hidden: Hidden | None = None


class WindowBatches(keras.utils.PyDataset):
    """Batches of windows, gathered when they are needed.

    Memory grows with candles, not with candles x lookback. The order of epoch e depends on the seed
    and e alone, so a resumed run sees the batches that the first run would have seen.
    """

    def __init__(
        self,
        scaled: ScaledSamples,
        part: np.ndarray,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        model: keras.Model | None = None,
        hidden: Hidden | None = None,
    ) -> None:
        """Describe the batches of the samples `part`; the last one may be smaller.

        Args:
            scaled: Samples with one stream of windows or several.
            part: (n,) indices of samples.
            batch_size: Windows a batch.
            shuffle_seed: Seed of the order; None keeps the samples' own order.
            epoch: 0-based number of the first epoch.
            model: Network that the batches are for. Each of its inputs is given a stream of its
                own, or all the same one if there is but one; each of several outputs is given a
                column of the targets. None stands for one input and one output.
            hidden: What some windows of the first stream lack.
        """
        super().__init__()
        self._windows = [window_view(stream.rows, stream.lookback) for stream in scaled.streams]
        self._first_rows = [stream.end[part] - stream.lookback + 1 for stream in scaled.streams]
        self._target = scaled.target[part].reshape(len(part), -1)
        self._batch_size = batch_size
        self._seed = shuffle_seed
        self._epoch = epoch
        self._n_inputs = len(model.inputs) if model else 1
        self._n_outputs = len(model.outputs) if model else 1
        self._hidden = hidden
        self._shuffle()

    def __len__(self) -> int:
        return -(-len(self._target) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        batch = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        streams = zip(self._windows, self._first_rows)
        inputs = tuple(windows[first[batch]] for windows, first in streams)
        if self._hidden:
            chosen = np.flatnonzero(self._is_hidden[batch])
            every_candle = np.arange(inputs[0].shape[1])
            inputs[0][np.ix_(chosen, every_candle, self._hidden.columns)] = 0.0
        if len(inputs) == 1:
            inputs = inputs * self._n_inputs  # every input of the network is given the same stream
        target = self._target[batch]
        outputs: Any = target
        if self._n_outputs > 1:
            outputs = tuple(np.split(target, self._n_outputs, axis=1))
        return inputs[0] if len(inputs) == 1 else inputs, outputs

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._shuffle()

    def _shuffle(self) -> None:
        n_samples = len(self._target)
        if self._seed is None:
            self._order = np.arange(n_samples)
            return
        random = np.random.default_rng([self._seed, self._epoch])
        self._order = random.permutation(n_samples)
        if self._hidden:
            self._is_hidden = random.random(n_samples) < self._hidden.share


def fit(
    model: keras.Model,
    scaled: ScaledSamples,
    objective: Objective,
    config: FitConfig,
    checkpoint: Path,
    *,
    kept_epoch: int | None = None,
    on_epoch: OnEpoch | None = None,
) -> History:
    """Train with Adam; end with the weights of the epoch with the least validation loss.

    Gradients are clipped. The step size is halved where the validation loss stops falling, and
    training ends where it does not fall any more; with `config.one_cycle` all epochs are done, with
    a step size that rises and falls once. Weights decay as in Loshchilov and Hutter (2019),
    Decoupled Weight Decay Regularization.

    Args:
        model: Uncompiled network from (batch, lookback, n_features) windows to (batch, 1) scaled
            targets, an output for each target.
        scaled: Samples; the training part is learnt, the validation part decides when to stop.
        objective: Loss, and what is hidden.
        config: Epochs, batches, step size and seed. The seed is that of the batches' order; weights
            and dropout follow `keras.utils.set_random_seed`.
        checkpoint: File of the best network, a plain .h5 file. The state after each epoch goes
            beside it; a state that is found there is resumed.
        kept_epoch: 0-based epoch whose weights are kept instead. Where the validation part is
            learnt too, its loss says nothing.
        on_epoch: See `OnEpoch`.

    Raises:
        ValueError: The network is larger than those that are opened again, or the validation loss
            is not finite in any epoch.
    """
    n_weights = model.count_params()
    if 4 * n_weights > MAX_WEIGHT_BYTES:
        raise ValueError(
            f"the network has {n_weights:,} weights, and no file of more than "
            f"{MAX_WEIGHT_BYTES // 4:,} is opened again; choose fewer units"
        )
    adam = keras.optimizers.Adam(
        learning_rate=config.learning_rate,
        clipvalue=config.clip_value,
        weight_decay=config.weight_decay or None,
    )
    model.compile(optimizer=adam, loss=objective.loss, loss_weights=objective.weights)
    model.optimizer.build(model.trainable_variables)

    state_path = checkpoint.parent / STATE_FILE
    past: dict[str, Any] = {"logs": [], "finished": False}
    if state_path.is_file():
        past = _restore(model, state_path)
    n_past = len(past["logs"])
    batches = WindowBatches(
        scaled,
        scaled.split.train,
        config.batch_size,
        shuffle_seed=config.seed,
        epoch=n_past,
        model=model,
        hidden=objective.hidden,
    )
    validation = WindowBatches(scaled, scaled.split.val, VALIDATION_BATCH, model=model)

    schedule = _schedule(config, len(batches))
    best = min((entry["val_loss"] for entry in past["logs"]), default=np.inf)
    state = _State(model, past, state_path, schedule, config, on_epoch)
    if not past["finished"]:
        model.fit(
            batches,
            validation_data=validation,
            epochs=config.epochs,
            initial_epoch=n_past,
            callbacks=[
                *schedule,
                keras.callbacks.TerminateOnNaN(),
                _BestCheckpoint(model, checkpoint, best, kept_epoch),
                _BatchBar(len(batches)),
                state,  # last: it saves what the others did
            ],
            shuffle=False,  # the batches shuffle themselves, by seed and epoch
            verbose=0,
        )
    history = _history(state.logs, kept_epoch)
    if not any(loss is not None for loss in history.val_loss):
        raise ValueError(
            f"training diverged: the validation loss was not finite in any of "
            f"{len(history.val_loss)} epoch(s); lower the step size (--learning-rate, now "
            f"{config.learning_rate:g})"
        )
    model.set_weights(keras.models.load_model(checkpoint, compile=False).get_weights())
    return history


def fit_to_file(
    model: keras.Model,
    scaled: ScaledSamples,
    objective: Objective,
    config: FitConfig,
    folder: Path,
    names: BundleFiles,
    *,
    kept_epoch: int | None = None,
) -> History:
    """`fit`, with a line for every epoch; its best weights become the final file and its twins.

    Args:
        model: See `fit`, as are the others that are not named here.
        scaled: See `fit`.
        objective: See `fit`.
        config: See `fit`.
        folder: Where checkpoint, final file and state go.
        names: Names of the bundle's files.
        kept_epoch: See `fit`.
    """
    checkpoint = folder / names.checkpoint
    history = fit(
        model,
        scaled,
        objective,
        config,
        checkpoint,
        kept_epoch=kept_epoch,
        on_epoch=functools.partial(terminal.tell_epoch, is_val_learnt=kept_epoch is not None),
    )
    save_final(model, folder, names)
    chosen = "best" if kept_epoch is None else "kept"
    terminal.tell(f"{chosen} epoch {history.best_epoch + 1} of {len(history.loss)}")
    return history


def save_final(model: keras.Model, folder: Path, names: BundleFiles) -> None:
    """Make the checkpoint the final file, and write what lies beside the two.

    Args:
        model: The network that the checkpoint holds.
        folder: Where the checkpoint is.
        names: Names of the bundle's files.
    """
    shutil.copyfile(folder / names.checkpoint, folder / names.model)
    for name in (names.checkpoint, names.model):
        save_plain_keras(model, folder / name)
    export_twin(folder / names.model)


def save_plain_h5(model: keras.Model, path: Path) -> None:
    """Save, in one step, so that plain `load_model` of every admitted Keras opens the file.

    Without optimizer and compile state, and without arguments that older versions refuse.
    """
    # Elsewhere and then in memory, since HDF5 goes on complaining long after a write to a full disk
    # has failed.
    with tempfile.TemporaryDirectory() as folder, quiet_absl():
        aside = Path(folder) / "network.h5"
        _uncompiled(model).save(aside, include_optimizer=False)
        content = io.BytesIO(aside.read_bytes())
    with h5py.File(content, "r+") as file:
        description = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(without_newer_arguments(description))
    with atomic.replacing(path) as unfinished:
        unfinished.write_bytes(content.getvalue())


def save_plain_keras(model: keras.Model, h5_path: Path) -> None:
    """`save_plain_h5` in Keras' own format, beside the .h5 file; equal networks give equal bytes.

    Keras would write the time of saving and addresses in memory into the file.
    """
    path = h5_path.with_suffix(KERAS_SUFFIX)
    unfinished = path.with_name(f".{path.name}.unfinished{KERAS_SUFFIX}")
    plain = _uncompiled(model)
    plain.save(unfinished)
    with zipfile.ZipFile(unfinished) as saved:
        parts = {name: saved.read(name) for name in saved.namelist()}
    about = json.loads(parts["metadata.json"]) | {"date_saved": "1980-01-01@00:00:00"}
    parts["metadata.json"] = json.dumps(about).encode()
    description = without_newer_arguments(json.loads(plain.to_json()))
    parts["config.json"] = json.dumps(description).encode()
    with zipfile.ZipFile(unfinished, "w") as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980 too
    os.replace(unfinished, path)


def _uncompiled(model: keras.Model) -> keras.Model:
    """The same network, which shares the weights and was never compiled."""
    return keras.Model(model.inputs, model.outputs, name=model.name)


def _schedule(config: FitConfig, n_batches: int) -> list[keras.callbacks.Callback]:
    """Callbacks that choose the step size and the last epoch."""
    if config.one_cycle:
        return [_OneCycle(config.learning_rate, n_batches, config.epochs)]
    return [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=config.early_stopping_patience),
        keras.callbacks.ReduceLROnPlateau(
            monitor="val_loss", factor=0.5, patience=config.reduce_lr_patience, min_lr=1e-6
        ),
    ]


def _history(logs: Sequence[dict[str, float]], kept_epoch: int | None) -> History:
    val_loss = [_finite(entry["val_loss"]) for entry in logs]
    if kept_epoch is None:
        losses = [np.inf if loss is None else loss for loss in val_loss]
        kept_epoch = int(np.argmin(losses))
    return History(
        loss=[_finite(entry["loss"]) for entry in logs],
        val_loss=val_loss,
        learning_rate=[entry["learning_rate"] for entry in logs],
        seconds=[entry["seconds"] for entry in logs],
        best_epoch=kept_epoch,
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


class _BestCheckpoint(keras.callbacks.Callback):
    """Saves the network at the lowest validation loss so far, or after the epoch to be kept.

    Keras' ModelCheckpoint would save the compile state along, which a plain `load_model` refuses in
    .h5 files.
    """

    def __init__(
        self, network: keras.Model, path: Path, best: float, kept_epoch: int | None
    ) -> None:
        super().__init__()
        self._network = network
        self._path = path
        self._best = best
        self._kept_epoch = kept_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        val_loss = (logs or {})["val_loss"]
        if self._kept_epoch is None:
            is_wanted = val_loss < self._best
        else:
            is_wanted = epoch == self._kept_epoch
        if is_wanted:
            self._best = val_loss
            save_plain_h5(self._network, self._path)


class _OneCycle(keras.callbacks.Callback):
    """Step size that rises to its peak over a fifth of all steps and then falls to nothing.

    Both along half a cosine: Smith and Topin (2019), Super-Convergence: Very Fast Training of
    Neural Networks Using Large Learning Rates. It depends on the number of the step alone, so a
    resumed run goes on where the first one was.
    """

    RISE = 0.2
    """share of all steps"""
    START = 0.04
    """share of the peak"""

    def __init__(self, peak: float, n_batches: int, epochs: int) -> None:
        super().__init__()
        self._peak = peak
        self._n_batches = n_batches
        self._n_steps = n_batches * epochs
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.model.optimizer.learning_rate = self.rate(self._epoch * self._n_batches + batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if logs is not None:
            logs["learning_rate"] = self.rate((epoch + 1) * self._n_batches - 1)

    def rate(self, step: int) -> float:
        """Step size of the 0-based step."""
        top = self.RISE * (self._n_steps - 1)
        if step < top:
            low = self.START
            share = 0.5 - 0.5 * np.cos(np.pi * step / top)
        else:
            low = 0.0
            fall = max(self._n_steps - 1 - top, 1.0)
            share = 0.5 + 0.5 * np.cos(np.pi * (step - top) / fall)
        return float(self._peak * (low + (1.0 - low) * share))


class _BatchBar(keras.callbacks.Callback):
    """A bar within the epoch, for epochs that take long enough to wonder."""

    def __init__(self, n_batches: int) -> None:
        super().__init__()
        self._n_batches = n_batches

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._bar = terminal.bar(self._n_batches, f"epoch {epoch + 1}", "batch")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._bar.close()


class _State(keras.callbacks.Callback):
    """Saves weights, optimizer, random states and logs after each epoch; replays past epochs.

    Early stopping and the falling step size are functions of the past losses. So a resumed run
    replays the logs to those callbacks, which restores their state without touching their insides.
    """

    def __init__(
        self,
        network: keras.Model,
        past: dict[str, Any],
        path: Path,
        schedule: list[keras.callbacks.Callback],
        config: FitConfig,
        on_epoch: OnEpoch | None,
    ) -> None:
        super().__init__()
        self.logs: list[dict[str, float]] = list(past["logs"])
        self._network = network
        self._path = path
        self._schedule = schedule
        self._config = config
        self._on_epoch = on_epoch
        self._started = 0.0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self.logs:  # the replay lowers it again
            self._network.optimizer.learning_rate = self._config.learning_rate
        for epoch, past in enumerate(self.logs):
            for callback in self._schedule:
                callback.on_epoch_end(epoch, dict(past))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        entry = {name: float(value) for name, value in (logs or {}).items()}
        entry["seconds"] = time.perf_counter() - self._started
        self.logs.append(entry)
        is_finished = self._network.stop_training or epoch + 1 == self._config.epochs
        _save_state(self._network, self._path, {"logs": self.logs, "finished": bool(is_finished)})
        if self._on_epoch:
            self._on_epoch(epoch, entry)


def _variables(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]


def _save_state(model: keras.Model, path: Path, past: dict[str, Any]) -> None:
    variables = enumerate(_variables(model))
    arrays = {f"v{i}": keras.ops.convert_to_numpy(variable) for i, variable in variables}
    with atomic.replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, past=np.array(json.dumps(past)), **arrays)


def _restore(model: keras.Model, path: Path) -> dict[str, Any]:
    """Load a saved state into a compiled model; returns its logs."""
    try:
        with np.load(path, allow_pickle=False) as state:
            arrays = [state[f"v{i}"] for i in range(len(_variables(model)))]
            past = json.loads(str(state["past"]))
        for variable, array in zip(_variables(model), arrays):
            variable.assign(array)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"--resume: {path} is damaged ({error!r}); leave --resume out to start afresh"
        ) from error
    return past
