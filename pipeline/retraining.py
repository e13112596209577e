"""A bundle made anew on newer candles, and whether the new one may take the old one's place.

`retrain_once` is one retraining from candles to bundle; below it stand its parts.

The new bundle is trained in the folder `next` inside the old one's. The old one is kept in
`previous` when it is replaced. A kill at any moment leaves one complete bundle to serve:
the old one until the new one's files are moved, which `files` does so that readers see either.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from config import PRESETS_V2, ConfigV2, SourceConfig
from pipeline import atomic, recalibrating, terminal
from pipeline.bundle import files, origin
from pipeline.bundle.files import BundleFiles
from pipeline.bundle.metadata import demand, minute, read_cuts, read_json, shown
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import expand_symbols
from pipeline.evaluation import unseen
from pipeline.evaluation.losses import deciding
from pipeline.evaluation.side_by_side import FORECAST, compare_pairs
from pipeline.forecasts.live import LivePredictor
from pipeline.forecasts.opening import Both, no_model, open_both, open_bundle, read_market
from pipeline.report.reading import summary
from pipeline.report.sentences import verdict_sentence
from pipeline.run import NO_SETTINGS
from pipeline.samples.probe import Probe
from pipeline.training import parallel

logger = logging.getLogger(__name__)

Train = Callable[[ConfigV2], Mapping[str, Any]]
"""A training run: settings -> metrics."""

NEXT, PREVIOUS = "next", "previous"
"""Folders inside a bundle's: where the new one is trained, and where the old one is kept."""
GONE_ON_WITH_S = 86_400.0
"""For how long a retraining that was cut off is gone on with; its candles are old after that."""
DATES = ("train_end", "val_end", "test_start", "test_end")
"""Settings that are instants; a split by dates moves along."""
KINDS = {"baselines": str, "horizons": int}
"""Of settings that may hold several values and by default none."""
PLACE = {field.name for field in dataclasses.fields(SourceConfig)} - {"seed"}
"""Settings that say where candles come from; whoever trains again says it anew."""
OWN = PLACE | set(NO_SETTINGS)
"""Settings that are not the recipe's."""


# --- one retraining


def retrain_once(
    predictor_class: type[LivePredictor],
    train: Train,
    folder: Path,
    source: SourceConfig,
    *,
    force: bool = False,
    own_process: bool = True,
) -> dict[str, Any]:
    """Score the served network, train anew, judge, replace or keep, recalibrate; told as it goes.

    Args:
        predictor_class: Class of the bundle's predictor.
        train: The training run that makes such bundles.
        folder: Where the bundle lies.
        source: Where candles come from.
        force: Replace the bundle whatever the guard says.
        own_process: Train in a process of its own.

    Returns:
        For JSON: "replaced", "reason", "trained_until", "candles_until" and "recalibrated". Where
        the served network was scored also "on_new_candles", its test's summary, and where one was
        trained "verdict", the new bundle's.

    Raises:
        ValueError: There is no sound bundle or no sound candles, another retraining is at work, or
            the training failed. The bundle stays.
    """
    names = predictor_class.files
    if not (folder / names.metadata).is_file():
        raise ValueError(no_model(folder))
    with alone(folder):
        is_moved = complete_moves(folder, names)
        both = open_both(predictor_class, folder)
        settings = functools.partial(
            settings_again,
            both.served.metadata,
            timeframe=both.served.timeframe,
            horizon=both.served.horizon,
        )
        test_end_ms = both.served.cuts.get("test_end", 0)
        settings(test_end_ms)  # what cannot be used is refused before anything is fetched
        market = read_market(both.judged, source, both.served.cuts.get("val_end", 0))
        if is_moved:
            discard(folder)
            return _replaced(both, folder, market, "a retraining that was cut off is complete")

        # How has the served network fared since?
        scored = _score_served(both.served, market)
        symbol, until_ms = _first_to_end(market)
        if until_ms <= test_end_ms:
            reason = (
                f"{symbol} has no candle after {minute(until_ms)}, and the bundle knows all "
                "before; fetch newer ones"
            )
            return _kept(both, folder, market, reason) | {"on_new_candles": scored}

        # Train in `next`, unless an earlier retraining has done so.
        place = {name: getattr(source, name) for name in PLACE}
        config = replace(settings(until_ms), **place, output_dir=folder / NEXT)
        left = find_left(folder, names, config, both.served._probe())
        if not left.is_complete:
            _train(train, replace(config, resume=left.is_resumable), own_process)

        # Replace the old one, or keep it.
        new = open_bundle(predictor_class, folder / NEXT, judged=True)
        decision = _judge(both.judged, new, market, folder / NEXT)
        told = {"on_new_candles": scored, "verdict": new.metrics()["test"]["verdict"]}
        if not (decision.is_accepted or force):
            logger.info("--force serves it all the same, within a day without a new training")
            return _kept(both, folder, market, decision.reason) | told
        install(folder, names)
        both = open_both(predictor_class, folder)
        by_force = "" if decision.is_accepted else " (--force)"
        return _replaced(both, folder, market, f"{decision.reason}{by_force}") | told


def _score_served(served: LivePredictor, market: CandleSet) -> dict[str, Any] | None:
    """Print how the served network fared on candles that it has not learnt; None without any."""
    informed = served.with_context(market.candles)
    try:
        result, _ = unseen.score_unseen(informed, market, served.metadata)
    except ValueError as error:
        logger.info("the served network is not scored on newer candles: %s", error)
        return None
    told = summary(result["test"])
    span = result["span"]
    text = (
        f"Served so far, on {span['n']:,} forecasts of {span['first']} to {span['last']} that it "
        f"had not learnt, by the judged calibration: {verdict_sentence(result['test'])}."
    )
    print(textwrap.fill(text, terminal.WIDTH), flush=True)
    return told


def _train(train: Train, config: ConfigV2, own_process: bool) -> None:
    """The training run, told as it goes on."""
    logger.info("%s", "going on with what was cut off" if config.resume else "training anew")
    job = {"retraining": functools.partial(train, config)}
    for _, result in parallel.run_jobs(job, own_process=own_process):
        if isinstance(result, Exception):
            raise ValueError(
                f"the training failed ({type(result).__name__}: {result}), and the bundle stays; "
                "mend the cause and retrain again, which goes on from here for a day"
            ) from result


def _judge(judged: LivePredictor, new: LivePredictor, market: CandleSet, folder: Path) -> Decision:
    """What the guard says of a new bundle, by the judged networks of both."""
    predictions = pd.read_parquet(folder / new.files.predictions)
    since_ms = max(new.cuts["val_end"], judged.learnt_until_ms({}) or 0)
    informed = judged.with_context(market.candles).without_caution()  # one network is older
    old = unseen.forecast_unseen(informed, market, since_ms)
    return decide(
        forecasts_of(old, unseen.NETWORK),
        forecasts_of(predictions, unseen.NETWORK),
        new.metrics()["test"],
        new.horizon,
    )


def _replaced(both: Both, folder: Path, market: CandleSet, reason: str) -> dict[str, Any]:
    """Tell that a new bundle is served, recalibrated where that can be."""
    told = _outcome(both, folder, market, reason)
    text = f"Replaced: {reason}; the network has learnt candles to {told['trained_until']}."
    print(textwrap.fill(text, terminal.WIDTH))
    return {"replaced": True, **told}


def _kept(both: Both, folder: Path, market: CandleSet, reason: str) -> dict[str, Any]:
    """Tell that the old bundle stays, recalibrated where that can be."""
    told = _outcome(both, folder, market, reason)
    print(textwrap.fill(f"Kept: {reason}.", terminal.WIDTH))
    return {"replaced": False, **told}


def _outcome(both: Both, folder: Path, market: CandleSet, reason: str) -> dict[str, Any]:
    """What both outcomes tell; recalibrates the bundle that is served."""
    until_ms = both.served.learnt_until_ms({})
    return {
        "reason": reason,
        "trained_until": None if until_ms is None else minute(until_ms),
        "candles_until": minute(_first_to_end(market)[1]),
        "recalibrated": _try_recalibrating(both, folder, market),
    }


def _try_recalibrating(both: Both, folder: Path, market: CandleSet) -> bool:
    """Recalibrate where enough has come true; whether it was done."""
    try:
        text = recalibrating.fit_anew(both, folder, market)
    except (ValueError, OSError) as error:  # the bundle that is served stays as it is
        logger.info("not recalibrated: %s", error)
        return False
    print(f"{text}\n")
    return True


def _first_to_end(market: CandleSet) -> tuple[str, int]:
    """The pair whose candles end first, and the close of its last one, epoch ms."""
    return min(market.ends_ms.items(), key=lambda end: end[1])


# --- the same settings


def settings_again(
    metadata: Mapping[str, Any], until_ms: int, timeframe: str, horizon: int
) -> ConfigV2:
    """The settings of the run that made a bundle, for a run that ends later.

    A split by shares of the time is taken anew. One by dates moves along with the candles' end,
    the last test part included. A walk forward becomes a single split, of which the served network
    is the last.

    Args:
        metadata: The bundle's.
        until_ms: Close of the newest candle that all coins have, epoch ms.
        timeframe: Of the bundle's candles.
        horizon: Candles that its forecasts span.

    Raises:
        ValueError: The metadata tells no settings, or some that this version cannot use.
    """
    stored = metadata.get("config")
    if not isinstance(stored, dict) or "cuts" not in metadata:
        raise ValueError(
            "the bundle's metadata does not say with which settings it was trained; train it "
            "anew with train_v2_production.py"
        )
    base = PRESETS_V2.get(str(stored.get("preset")), ConfigV2())
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(ConfigV2):
        if field.name in stored and field.name not in OWN:
            changes[field.name] = _as_kind_of(field.name, stored[field.name], base)
    config = replace(base, **changes)
    if config.train_end is not None or config.val_end is not None:
        cuts = read_cuts(metadata["cuts"], "metadata, 'cuts'")
        moved = until_ms - cuts["test_end"]
        ends: dict[str, Any] = {name: minute(cuts[name] + moved) for name in DATES}
        config = replace(config, **{**ends, "test_end": None})
    config = replace(config, walk_forward=False, horizons=(), horizon=horizon, timeframe=timeframe)
    config.check()
    expand_symbols(config.symbols)  # refuses what is no pair
    return config


def _as_kind_of(name: str, value: Any, base: ConfigV2) -> Any:
    """A setting out of JSON, of the kind that the default is of."""
    default = getattr(base, name)
    if isinstance(default, tuple):
        kind = type(default[0]) if default else KINDS[name]
        demand(value, [kind], f"metadata, 'config', {name!r}")
        return tuple(value)
    if default is None:
        if value is None:
            return None
        demand(value, str, f"metadata, 'config', {name!r}")
        return value
    demand(value, type(default), f"metadata, 'config', {name!r}")
    return value


# --- where it is trained


@dataclass(frozen=True)
class Found:
    """What an earlier retraining has left in the folder `next`."""

    is_complete: bool
    """a bundle that was trained on candles which the served one has not learnt"""
    is_resumable: bool
    """an interrupted run with these settings"""


def find_left(folder: Path, names: BundleFiles, config: ConfigV2, probe: Probe) -> Found:
    """Look at what an earlier retraining has left; what is older than a day is as good as nothing.

    Args:
        folder: The old bundle's folder.
        names: Names of a bundle's files.
        config: Settings of the run to come.
        probe: What this code's features are of fixed candles.
    """
    partial = folder / NEXT / files.PARTIAL
    settings = files.settings_of(config, leave_out=NO_SETTINGS)
    is_resumable = False
    if _is_fresh(partial / files.RUN_FILE):
        code = {"features_probe": probe, "commit": origin.run_facts()["commit"]}
        # Of other settings or other code, or damaged: a fresh run replaces it.
        with contextlib.suppress(ValueError):
            files.interrupted_run(partial, settings, names.metadata, code)
            is_resumable = True
    there = folder / NEXT / names.metadata
    if not _is_fresh(there):
        return Found(False, is_resumable)
    new, old = (_hashes(place / names.metadata) for place in (folder / NEXT, folder))
    is_whole = bool(new) and all(
        (folder / NEXT / name).is_file() and files.sha256_of(folder / NEXT / name) == sha256
        for name, sha256 in new.items()
    )
    return Found(is_whole and new.get(names.model) != old.get(names.model), is_resumable)


def _is_fresh(path: Path) -> bool:
    return path.is_file() and time.time() - path.stat().st_mtime < GONE_ON_WITH_S


def _hashes(path: Path) -> dict[str, str]:
    """Name -> sha256 of the files that a bundle's metadata names; empty where it cannot be read."""
    try:
        hashes = read_json(path)["files"]
        demand(hashes, {str: str}, str(path))
    except (OSError, ValueError, KeyError):
        return {}
    return dict(hashes)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only retraining of a bundle.

    Raises:
        ValueError: Another one is at work, or the folder cannot be written or holds links.
    """
    for name in (NEXT, PREVIOUS):
        atomic.refuse_link(folder / name)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(atomic.locked(folder / NEXT, wait_s=0.0))
        except ValueError as error:
            raise ValueError(
                f"{folder}: another retraining is at work there, or the folder cannot be written "
                f"({error})"
            ) from error
        yield


def complete_moves(folder: Path, names: BundleFiles) -> bool:
    """Finish what a killed retraining had begun to move; whether the bundle in `next` is served.

    Args:
        folder: The bundle's folder.
        names: Names of a bundle's files.
    """
    partial = folder / files.PARTIAL
    if (partial / names.metadata).is_file():
        with atomic.locked(partial, wait_s=0.0):
            files.finish_moves(folder, names.metadata, names.bundle)
    new, old = (_hashes(place / names.metadata) for place in (folder / NEXT, folder))
    return bool(new) and new == old


# --- the guard


@dataclass(frozen=True)
class Decision:
    """Whether the new bundle may take the old one's place, and why."""

    is_accepted: bool
    reason: str
    """a clause"""
    against_old: Mapping[str, Any]
    """of the two judged networks: a row of `side_by_side.compare_pairs`, the new one second"""


def decide(old: pd.DataFrame, new: pd.DataFrame, test: Mapping[str, Any], horizon: int) -> Decision:
    """Accept the new bundle unless a test says that it is worse than naive or than the old one.

    Old and new are compared by their judged networks, one of which is older, on the forecasts of
    the new test part that neither has learnt. The served networks have no such candles in common.

    Args:
        old: Forecasts of the old judged network, a row a candle that it has not learnt: `symbol`,
            `timestamp`, `actual_return`, `volatility`, `forecast` (log-returns).
        new: The same of the new one, of its test part.
        test: "test" of the new run's metrics.
        horizon: Candles that a forecast spans.
    """
    horizons = {"old": horizon, "new": horizon}
    [row] = compare_pairs({"old": old, "new": new}, horizons)
    [naive] = [one for one in deciding(test["verdicts"]) if one["baseline"] == "naive"]
    if naive["verdict"] == "LOSES":
        told = _numbers(naive["skill"], naive["p_holm"])
        return Decision(False, f"the new one loses to naive ({told})", row)
    if row["verdict"] is None:
        return Decision(True, f"it could not be compared with the old one ({row['why']})", row)
    told = f"{_numbers(row['skill'], row['p_holm'])} on {row['n']:,} forecasts neither had learnt"
    if row["verdict"] == "worse":
        return Decision(False, f"the new one is worse than the old one ({told})", row)
    what = "is better than" if row["verdict"] == "better" else "ties with"
    return Decision(True, f"the new one {what} the old one ({told})", row)


def _numbers(skill: float | None, p_value: float | None) -> str:
    told = "skill unknown" if skill is None else f"skill {100 * skill:+.3f} %"
    return told if p_value is None else f"{told}, p {p_value:.2g}"


def forecasts_of(predictions: pd.DataFrame, network: str) -> pd.DataFrame:
    """What `decide` takes, of a bundle's predictions."""
    columns = ["symbol", "timestamp", "base_price", "actual_return", "volatility"]
    return predictions[columns].assign(**{FORECAST: predictions[network].to_numpy()})


# --- the new one in the old one's place


def install(folder: Path, names: BundleFiles) -> None:
    """Put the bundle in `next` in the place of the one in the folder, which goes to `previous`.

    Args:
        folder: The bundle's folder.
        names: Names of a bundle's files.

    Raises:
        ValueError: Another run is at work in the folder, or was cut off there; or `next` holds no
            complete bundle.
    """
    ready = folder / NEXT
    hashes = _hashes(ready / names.metadata)
    unknown = set(hashes) - set(names.bundle)
    if not hashes or unknown:
        what = f"names {shown(min(unknown))}" if unknown else "is missing or damaged"
        raise ValueError(f"{ready / names.metadata}: it {what}; retrain again")
    if (folder / files.PARTIAL / files.RUN_FILE).is_file():
        raise ValueError(
            f"{folder / files.PARTIAL}: a run of train_v2_production.py was cut off there; let it "
            "end (its own --resume) before the bundle is replaced"
        )
    _keep_previous(folder, names)
    with files.new_bundle(folder, names.metadata, names.bundle) as partial:
        for name in (*hashes, names.log):
            if (ready / name).is_file():
                shutil.copyfile(ready / name, partial / name)
        with atomic.replacing(partial / names.metadata) as unfinished:
            shutil.copyfile(ready / names.metadata, unfinished)
    discard(folder)


def _keep_previous(folder: Path, names: BundleFiles) -> None:
    """Copy the bundle to `previous`; what was there before is no longer needed."""
    aside, kept = folder / f".{PREVIOUS}", folder / PREVIOUS
    for place in (aside, kept):
        atomic.refuse_link(place)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    for name in (*names.bundle, names.metadata):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, aside / name)
    shutil.rmtree(kept, ignore_errors=True)
    aside.rename(kept)


def discard(folder: Path) -> None:
    """Remove what lies in `next`, once it is served."""
    shutil.rmtree(folder / NEXT, ignore_errors=True)


def span_ms(text: str) -> int:
    """Milliseconds of a span such as 30d or 12h.

    Raises:
        ValueError: It is no such span.

    Example:
        >>> span_ms("30d"), span_ms("12h")
        (2592000000, 43200000)
    """
    units = {"d": 86_400_000, "h": 3_600_000}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isdecimal() or not 0 < int(number) < 10_000:
        raise ValueError(f"--every is {shown(text)}; write days or hours, such as 30d or 12h")
    return int(number) * units[unit]
