"""A finished run beside earlier ones, in TensorBoard or trackio: settings, loss by epoch, scores.

It is logged once its bundle is complete, so that no tracker can cost a run.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import privacy
from pipeline.evaluation.losses import deciding
from pipeline.report import reading

PROJECT = "crypto-forecasts"
CURVES = ("loss", "val_loss", "learning_rate")


def demand(tracker: str | None) -> None:
    """Raise before hours of training where the tracker is not installed."""
    if tracker is not None and importlib.util.find_spec(tracker) is None:
        raise ValueError(
            f"--track {tracker} needs a package that is not here: pip install {tracker}"
        )


def log_run(
    tracker: str, name: str, metadata: Mapping[str, Any], test: Mapping[str, Any], folder: Path
) -> str:
    """Log a run.

    Args:
        tracker: "tensorboard" or "trackio".
        name: Of the run, unlike that of any other.
        metadata: Content of its metadata file.
        test: Its evaluation.
        folder: Where TensorBoard's files go, in a folder a run.

    Returns:
        The command that shows it.
    """
    log = {"tensorboard": _to_tensorboard, "trackio": _to_trackio}[tracker]
    return log(name, metadata, test, folder)


def _to_tensorboard(
    name: str, metadata: Mapping[str, Any], test: Mapping[str, Any], folder: Path
) -> str:
    from tensorboard.summary import Writer  # lazy: optional

    writer = Writer(str(folder / name))
    for epoch, values in enumerate(epochs(metadata), start=1):
        for key, value in values.items():
            writer.add_scalar(key, value, step=epoch)
    for key, value in scores(test).items():
        writer.add_scalar(key, value, step=0)
    writer.close()
    (folder / name / "settings.json").write_text(json.dumps(metadata.get("config", {}), indent=2))
    return f"tensorboard --logdir {folder}"


def _to_trackio(
    name: str, metadata: Mapping[str, Any], test: Mapping[str, Any], folder: Path
) -> str:
    privacy.no_telemetry()  # it stands on Gradio, which would report to its makers
    import trackio  # lazy: optional

    trackio.init(project=PROJECT, name=name, config=dict(metadata.get("config", {})), embed=False)
    for epoch, values in enumerate(epochs(metadata), start=1):
        trackio.log(values, step=epoch)
    trackio.log(scores(test))
    trackio.finish()
    return f"trackio show --project {PROJECT}"


def epochs(metadata: Mapping[str, Any]) -> Iterator[dict[str, float]]:
    """What is known of each epoch: "loss/val_loss" -> number; of several networks with their names.

    Example:
        >>> list(epochs({"history": {"loss": [2.0, 1.0], "val_loss": [3.0, None]}}))
        [{'loss/loss': 2.0, 'loss/val_loss': 3.0}, {'loss/loss': 1.0}]
    """
    history = metadata.get("history", {})
    networks = {"loss": history} if "loss" in history else history
    curves = {
        f"{network}/{key}": curve[key]
        for network, curve in networks.items()
        for key in CURVES
        if key in curve
    }
    for epoch in range(max(map(len, curves.values()), default=0)):
        yield {
            name: values[epoch]
            for name, values in curves.items()
            if epoch < len(values) and values[epoch] is not None
        }


def scores(test: Mapping[str, Any]) -> dict[str, float]:
    """The network's scores and its skill against each baseline, as far as they are numbers."""
    of_network = test["models"][reading.network_of(test)]
    told = {f"test/{key}": value for key, value in of_network.items()}
    told |= {
        f"skill/{compared['baseline']}": compared["skill"]
        for compared in deciding(test["verdicts"])
    }
    return {key: float(value) for key, value in told.items() if isinstance(value, (int, float))}
