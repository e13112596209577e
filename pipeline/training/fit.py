"""The fit loop: batches gathered from one float32 array, the usual callbacks, and a state that
survives a kill."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline import atomic, terminal
from pipeline.bundle.files import BundleFiles
from pipeline.bundle.network import export_twin, quiet_absl
from pipeline.samples.scaling import ScaledSamples
from pipeline.samples.windows import window_view

STATE_FILE = "training_state.npz"

VALIDATION_BATCH = 1024
"""Windows a call when only the loss is wanted."""


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
    """Features that some training windows lack, in all of their candles, so that a forecast may
    lack them too."""

    columns: np.ndarray
    """(n,) of the windows; set to 0, which is what a missing value is scaled to"""
    share: float
    """of the windows, drawn anew each epoch"""


class WindowBatches(keras.utils.PyDataset):
    """Batches of windows, gathered when they are needed; memory grows with candles, not with
    candles x lookback.

    The order of epoch e depends on the seed and e alone, so a resumed run sees the batches the
    first would have seen.
    """

    def __init__(
        self,
        scaled: ScaledSamples,
        part: np.ndarray,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        n_inputs: int = 1,
        n_outputs: int = 1,
        hidden: Hidden | None = None,
    ) -> None:
        """Describe the batches of the samples `part`; the last one may be smaller.

        Each of the `n_inputs` is given a stream of its own, or all the same one if there is but
        one; each of several outputs a column of the targets. What is `hidden` is so in the first
        stream.
        """
        super().__init__()
        self._windows = [window_view(stream.rows, stream.lookback) for stream in scaled.streams]
        self._first_rows = [stream.end[part] - stream.lookback + 1 for stream in scaled.streams]
        self._target = scaled.target[part].reshape(len(part), -1)
        self._batch_size, self._seed, self._epoch = batch_size, shuffle_seed, epoch
        self._n_inputs, self._n_outputs, self._hidden = n_inputs, n_outputs, hidden
        self._shuffle()

    def __len__(self) -> int:
        return -(-len(self._target) // self._batch_size)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        batch = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        inputs = tuple(
            windows[first[batch]] for windows, first in zip(self._windows, self._first_rows)
        )
        if self._hidden:
            chosen = np.flatnonzero(self._is_hidden[batch])
            inputs[0][np.ix_(chosen, np.arange(inputs[0].shape[1]), self._hidden.columns)] = 0.0
        inputs = inputs * self._n_inputs if len(inputs) == 1 else inputs
        target = self._target[batch]
        outputs = (
            target if self._n_outputs == 1 else tuple(np.split(target, self._n_outputs, axis=1))
        )
        return inputs[0] if len(inputs) == 1 else inputs, outputs

    def on_epoch_end(self) -> None:
        self._epoch += 1
        self._shuffle()

    def _shuffle(self) -> None:
        if self._seed is None:
            self._order = np.arange(len(self._target))
        else:
            random = np.random.default_rng([self._seed, self._epoch])
            self._order = random.permutation(len(self._target))
            if self._hidden:
                self._is_hidden = random.random(len(self._target)) < self._hidden.share


def fit(
    model: keras.Model,
    scaled: ScaledSamples,
    *,
    loss: keras.losses.Loss | Callable[[Any, Any], Any] | list[keras.losses.Loss],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    clip_value: float,
    early_stopping_patience: int,
    reduce_lr_patience: int,
    seed: int,
    checkpoint: Path,
    state_dir: Path,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    loss_weights: Sequence[float] | None = None,
    weight_decay: float = 0.0,
    one_cycle: bool = False,
    hidden: Hidden | None = None,
    kept_epoch: int | None = None,
) -> History:
    """Train with Adam, clipping, early stopping and a falling step size; end with the best epoch's
    weights.

    Args:
        model: Uncompiled model from (batch, lookback, n_features) windows to (batch, 1) scaled
            targets, an output for each target; with several inputs each is given the same windows.
        scaled: Samples; the training part is learnt, the validation part decides when to stop.
        loss: Keras loss, or a function of targets and outputs; of several outputs a list, one for
            each.
        epochs: At most so many.
        batch_size: Windows a step.
        learning_rate: Adam's first step size; halved after `reduce_lr_patience` epochs without
            progress.
        clip_value: Bound on each gradient component.
        early_stopping_patience: Epochs without progress before training stops.
        reduce_lr_patience: See `learning_rate`.
        seed: Of the batch order; weights and dropout follow `keras.utils.set_random_seed`.
        checkpoint: Where the best network goes, a plain .h5 file.
        state_dir: Where the state after each epoch goes; a state found there is resumed.
        on_epoch: Called after each epoch with its 0-based number and logs.
        loss_weights: Of each output's loss in the whole.
        weight_decay: Share of its weights, times the step size, that the network loses each step
            (Loshchilov and Hutter, 2019, Decoupled Weight Decay Regularization).
        one_cycle: All the epochs, with a step size that rises to `learning_rate` and falls to
            nothing (`_OneCycle`), instead of early stopping and halving.
        hidden: What some training windows lack.
        kept_epoch: The 0-based epoch whose weights are kept, instead of the one with the least
            validation loss: where the validation part is learnt too, that loss says nothing.

    Raises:
        ValueError: The validation loss is not finite in any epoch.
    """
    adam = keras.optimizers.Adam(
        learning_rate=learning_rate, clipvalue=clip_value, weight_decay=weight_decay or None
    )
    model.compile(optimizer=adam, loss=loss, loss_weights=loss_weights)
    model.optimizer.build(model.trainable_variables)
    state_path = state_dir / STATE_FILE
    past: dict[str, Any] = {"logs": [], "finished": False}
    if state_path.is_file():
        past = _restore(model, state_path)
    n_past = len(past["logs"])
    make = functools.partial(
        WindowBatches, scaled, n_inputs=len(model.inputs), n_outputs=len(model.outputs)
    )
    batches = make(scaled.split.train, batch_size, shuffle_seed=seed, epoch=n_past, hidden=hidden)
    validation = make(scaled.split.val, VALIDATION_BATCH)

    schedule = (
        [_OneCycle(learning_rate, len(batches), epochs)]
        if one_cycle
        else [
            keras.callbacks.EarlyStopping(monitor="val_loss", patience=early_stopping_patience),
            keras.callbacks.ReduceLROnPlateau(
                monitor="val_loss", factor=0.5, patience=reduce_lr_patience, min_lr=1e-6
            ),
        ]
    )
    best = min((entry["val_loss"] for entry in past["logs"]), default=np.inf)
    state = _State(model, past, state_path, schedule, epochs, learning_rate, on_epoch)
    if not past["finished"]:
        model.fit(
            batches,
            validation_data=validation,
            epochs=epochs,
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
    val_loss = [entry["val_loss"] for entry in state.logs]
    if not np.isfinite(val_loss).any():
        raise ValueError(
            f"training diverged: the validation loss was not finite in any of {len(val_loss)} "
            f"epoch(s); lower the step size (--learning-rate, now {learning_rate:g})"
        )
    model.set_weights(keras.models.load_model(checkpoint, compile=False).get_weights())
    return History(
        loss=[_finite(entry["loss"]) for entry in state.logs],
        val_loss=[_finite(value) for value in val_loss],
        learning_rate=[entry["learning_rate"] for entry in state.logs],
        seconds=[entry["seconds"] for entry in state.logs],
        best_epoch=int(np.nanargmin(np.where(np.isfinite(val_loss), val_loss, np.nan)))
        if kept_epoch is None
        else kept_epoch,
    )


def fit_to_file(
    model: keras.Model, scaled: ScaledSamples, folder: Path, names: BundleFiles, **settings: Any
) -> History:
    """`fit` as a training script wants it: it tells every epoch; the best one's weights become the
    final file and twin.

    Args:
        model: See `fit`, as is scaled.
        scaled: Samples.
        folder: Where checkpoint, final file and state go.
        names: Of the bundle's files.
        settings: The other arguments of `fit`, but for those that follow from these.
    """
    checkpoint = folder / names.checkpoint
    history = fit(
        model,
        scaled,
        checkpoint=checkpoint,
        state_dir=folder,
        on_epoch=terminal.tell_epoch,
        **settings,
    )
    twin = save_final(folder, names)
    chosen = "best" if settings.get("kept_epoch") is None else "kept"
    terminal.tell(
        f"{chosen} epoch {history.best_epoch + 1} of "
        f"{len(history.loss)}{f', ONNX twin {twin.name}' if twin else ''}"
    )
    return history


def save_final(folder: Path, names: BundleFiles) -> Path | None:
    """Make the checkpoint the final file, and export its twin beside it; returns the twin, None
    where there is none."""
    shutil.copyfile(folder / names.checkpoint, folder / names.model)
    return export_twin(folder / names.model)


def save_plain_h5(model: keras.Model, path: Path) -> None:
    """Save without optimizer and compile state, atomically, so that a plain `load_model` opens it
    anywhere."""
    plain = keras.Model(
        model.inputs, model.outputs, name=model.name
    )  # shares the weights, was never compiled
    unfinished = path.with_name(
        f".{path.name}.unfinished.h5"
    )  # by this ending Keras tells the format
    with quiet_absl():
        plain.save(unfinished, include_optimizer=False)
    os.replace(unfinished, path)


class _BestCheckpoint(keras.callbacks.Callback):
    """Saves the network whenever the validation loss is the lowest so far, or after the epoch that
    is to be kept.

    Keras' ModelCheckpoint would save the compile state along, which a plain `load_model` refuses in
    .h5 files.
    """

    def __init__(
        self, network: keras.Model, path: Path, best: float, kept_epoch: int | None
    ) -> None:
        super().__init__()
        self._network, self._path, self._best, self._kept_epoch = network, path, best, kept_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        val_loss = (logs or {})["val_loss"]
        if val_loss < self._best if self._kept_epoch is None else epoch == self._kept_epoch:
            self._best = val_loss
            save_plain_h5(self._network, self._path)


class _OneCycle(keras.callbacks.Callback):
    """Step size that rises to its peak over a fifth of all steps and falls to nothing, along two
    half cosines.

    Smith and Topin (2019), Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates. It depends on the number of the step alone, so a resumed run goes on where the
    first one was.
    """

    RISE = 0.2
    START = 0.04
    """of the peak"""

    def __init__(self, peak: float, n_batches: int, epochs: int) -> None:
        super().__init__()
        self._peak, self._n_batches, self._n_steps, self._epoch = (
            peak,
            n_batches,
            n_batches * epochs,
            0,
        )

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
            low, share = self.START, 0.5 - 0.5 * np.cos(np.pi * step / top)
        else:
            low, share = (
                0.0,
                0.5 + 0.5 * np.cos(np.pi * (step - top) / max(self._n_steps - 1 - top, 1.0)),
            )
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
    """Saves weights, optimizer, random states and logs after each epoch; on a resumed run replays
    the past epochs.

    Early stopping and the falling step size are functions of the past losses, so replaying the logs
    to those callbacks restores their state without touching their insides.
    """

    def __init__(
        self,
        network: keras.Model,
        past: dict[str, Any],
        path: Path,
        schedule: list[keras.callbacks.Callback],
        epochs: int,
        learning_rate: float,
        on_epoch: Callable[[int, dict[str, float]], None] | None,
    ) -> None:
        super().__init__()
        self.logs: list[dict[str, float]] = list(past["logs"])
        self._network, self._path, self._schedule = network, path, schedule
        self._epochs, self._learning_rate, self._on_epoch = epochs, learning_rate, on_epoch
        self._started = 0.0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self.logs:
            self._network.optimizer.learning_rate = (
                self._learning_rate
            )  # the replay lowers it again
        for epoch, past in enumerate(self.logs):
            for callback in self._schedule:
                callback.on_epoch_end(epoch, dict(past))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        entry = {name: float(value) for name, value in (logs or {}).items()}
        entry["seconds"] = time.perf_counter() - self._started
        self.logs.append(entry)
        finished = self._network.stop_training or epoch + 1 == self._epochs
        _save_state(self._network, self._path, {"logs": self.logs, "finished": bool(finished)})
        if self._on_epoch:
            self._on_epoch(epoch, entry)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _variables(model: keras.Model) -> list[Any]:
    return [*model.variables, *model.optimizer.variables]


def _save_state(model: keras.Model, path: Path, past: dict[str, Any]) -> None:
    arrays = {
        f"v{i}": keras.ops.convert_to_numpy(variable)
        for i, variable in enumerate(_variables(model))
    }
    with atomic.replacing(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, past=np.array(json.dumps(past)), **arrays)


def _restore(model: keras.Model, path: Path) -> dict[str, Any]:
    """Load a saved state into a compiled model; returns its logs. A ValueError names a damaged
    file."""
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
