"""A ledger of forecasts, each entered before its candle closes: a text file, a JSON object a line.

Every line holds the SHA-256 of the line before it, its newline included (`tail -n 1 FILE |
sha256sum`). So a line that was changed, removed, doubled or moved shows, as long as another line
follows it. The file alone does not show that its last lines were changed or removed, or that all
of it was written anew, with a false clock. The hash of the newest line does, if it was published
(a commit, a post) before the candle closed: it stands for every line up to that one.

Nor does a ledger show which forecasts were never entered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline import atomic
from pipeline.candles import store
from pipeline.candles.schema import TIMEFRAME_MS, timeframe_ms, timestamps_ms
from pipeline.forecasts.prediction import Prediction
from pipeline.samples.windows import segmented_volatility

if TYPE_CHECKING:
    from pipeline.forecasts.predictor import BundlePredictor

logger = logging.getLogger(__name__)

FIELDS: dict[str, type] = {
    "number": int,  # of the line, from 1 on
    "made_at": str,  # this machine's clock when the line was written, UTC, as `to_text` has it
    "symbol": str,
    "timeframe": str,
    "horizon": int,
    "timestamp": str,  # open of the candle that is forecast
    "closes_at": str,
    "base_time": str,  # open of candle t, the last one seen
    "last_price": float,  # its close, from which the return is counted
    "volatility": float,  # EWMA volatility over the horizon at t: the scale of the verdict's loss
    "return": float,  # log-return over the horizon, as are the quantiles
    "q10": float,
    "q50": float,
    "q90": float,
    "p_up": float,
    "price": float,
    "model_sha256": str,
    "synthetic": bool,  # trained on made-up candles
    "previous": str,  # SHA-256 of the line before; "" in the first line
}
"""What a line holds, in this order."""
KEY = ("model_sha256", "symbol", "timeframe", "horizon", "timestamp")
"""What there is only one forecast of."""

MAX_BYTES = 2**28
"""of a ledger: half a million lines, 22 coins' hours for two years and a half"""

LOCK_WAIT_S = 60.0
"""How long a writer waits for another one."""

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MEND = "restore the file from a copy: what follows a changed line proves nothing"


class AlreadyEnteredError(ValueError):
    """The model's forecast of this candle is in the ledger; the first one counts."""


@dataclass(frozen=True)
class Ledger:
    """What a ledger's file holds, verified."""

    entries: list[dict[str, Any]]
    """a dict of `FIELDS` a line"""
    sha256: str
    """of the last line, "" while there is none"""
    size: int
    """bytes that its lines take"""
    torn: bytes
    """half a line behind the last one, which a killed process has left"""


def to_text(time_ms: int) -> str:
    """An instant as the ledger writes it.

    Example:
        >>> to_text(1_704_067_200_123)
        '2024-01-01T00:00:00.123Z'
    """
    instant = EPOCH + timedelta(milliseconds=time_ms)
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def entry_ms(text: str) -> int:
    """Epoch ms of an instant that `to_text` wrote; a ValueError for any other text."""
    time_ms = (datetime.fromisoformat(f"{text[:-1]}+00:00") - EPOCH) // timedelta(milliseconds=1)
    if to_text(time_ms) != text:
        raise ValueError(f"{text!r} is no time such as {to_text(0)}")
    return time_ms


def forecast_of(
    predictor: BundlePredictor, symbol: str, candles: pd.DataFrame, prediction: Prediction
) -> dict[str, Any]:
    """What a ledger holds of a forecast, all `FIELDS` but those that `append` adds.

    Args:
        predictor: Who made it.
        symbol: Such as "BTC/USDT".
        candles: What it was made from, in the schema.
        prediction: `predict(candles)`, from the last close.
    """
    step_ms = timeframe_ms(predictor.timeframe)
    opens_ms = round(prediction["timestamp"].timestamp() * 1000)
    base_ms = opens_ms - predictor.horizon * step_ms
    seen = candles[timestamps_ms(candles) <= base_ms]
    volatility = segmented_volatility(seen, predictor.timeframe, predictor.horizon)
    return {
        "symbol": symbol.split(":")[0].upper(),
        "timeframe": predictor.timeframe,
        "horizon": predictor.horizon,
        "timestamp": to_text(opens_ms),
        "closes_at": to_text(opens_ms + step_ms),
        "base_time": to_text(base_ms),
        "last_price": prediction["last_price"],
        "volatility": float(volatility[-1]),
        "return": prediction["return"],
        "q10": prediction["return_low"],
        "q50": prediction["return_median"],
        "q90": prediction["return_high"],
        "p_up": prediction["p_up"],
        "price": prediction["price"],
        "model_sha256": predictor.model_sha256,
        "synthetic": predictor.is_synthetic,
    }


def symbol_of(path: Path, timeframe: str, pairs: Sequence[str]) -> str:
    """The pair that a file of candles is of: what the store noted, or whose name the file has.

    Raises:
        ValueError: It is named after none of them.
    """
    names = {store.file_name(pair, timeframe, ""): pair for pair in pairs}
    symbol = store.read_notes(path).get("symbol") or names.get(path.stem)
    if symbol is None:
        raise ValueError(
            f"{path.name}: its name is not that of a pair's {timeframe} candles; pass --symbol "
            "BTC/USDT, say"
        )
    return symbol


def append(path: Path, forecast: Mapping[str, Any], now_ms: Callable[[], int]) -> tuple[int, str]:
    """Enter a forecast as the last line, which is on the disk when this returns.

    One process writes at a time. Half a line at the end, left by a process that was killed, is cut
    off with a notice; nothing else is ever changed.

    Args:
        path: Of the ledger, which is begun where there is none; its folder exists.
        forecast: As `forecast_of` gives it.
        now_ms: The clock, epoch ms; read when the line is about to be written.

    Returns:
        Number and SHA-256 of the line.

    Raises:
        AlreadyEnteredError: This model's forecast of this candle is there.
        ValueError: The candle has closed, or the one before has not; the clock is behind the last
            entry; the ledger was changed; the forecast is none (a price that is not positive, say).
    """
    path = _real_path(path)
    with atomic.locked(path, LOCK_WAIT_S):
        ledger = _load(path, _base_closes_ms(forecast))  # no forecast of this candle can be older
        made_ms = now_ms()
        number = ledger.entries[-1]["number"] + 1 if ledger.entries else 1
        added = {"number": number, "made_at": to_text(made_ms), "previous": ledger.sha256}
        known = added | dict(forecast)
        entry = {name: known[name] for name in FIELDS}
        _refuse(path, entry, made_ms, ledger)
        fault = _fault(entry, ledger.entries[-1:])
        if fault is not None:
            raise ValueError(
                f"{path}: not entered: the forecast {fault}; mend --symbol, or the candles"
            )
        if ledger.torn:
            logger.warning(
                "%s: half a line that a killed process left at the end is cut off: %r",
                path,
                ledger.torn,
            )
        line = _encode(entry)
        path.touch()
        with path.open("r+b") as file:
            file.truncate(ledger.size)
            file.seek(ledger.size)
            file.write(line)
        atomic.flush(path)
        atomic.flush(path.parent)
    return number, _hash(line)


def read(path: Path) -> Ledger:
    """Read and verify a ledger.

    Raises:
        ValueError: There is none; or a line was changed, entered late, removed, doubled or moved;
            the first is named.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: there is no such ledger; mend --ledger, or begin one "
            "(python inference_v2.py live --ledger FILE)"
        )
    return _load(_real_path(path))


def check(path: Path) -> None:
    """Raise the ValueError of `append` for a changed ledger, or a folder that is not writable."""
    path = _real_path(path)
    with atomic.locked(path, LOCK_WAIT_S):
        _load(path)


def _real_path(path: Path) -> Path:
    """The file behind links."""
    try:
        return path.resolve(strict=True)
    except FileNotFoundError:  # it is begun
        return path.resolve()
    except (OSError, RuntimeError) as error:  # of a loop, either of them by Python's version
        raise ValueError(f"{path}: a link that leads to no file; mend --ledger") from error


def _load(path: Path, since_ms: int | None = None) -> Ledger:
    """What is in a ledger, where there is one; a ValueError names the first unsound line.

    Args:
        path: Its file.
        since_ms: Open only the entries made from this instant on and the one before, epoch ms; of
            all others compare the hashes alone, which takes a twentieth of the time. None opens
            all.
    """
    content = atomic.read_regular(path, MAX_BYTES) if path.exists() else b""
    *lines, torn = content.split(b"\n")
    first = 0 if since_ms is None else _first_since(lines, since_ms)
    entries: list[dict[str, Any]] = []
    seen: set[tuple[Any, ...]] = set()
    sha256 = ""
    for number, line in enumerate(lines, 1):
        if number <= first and line.endswith(f'"previous": "{sha256}"}}'.encode()):
            sha256 = _hash(line + b"\n")
            continue
        entry = _decode(line + b"\n")
        if entry is None:
            raise ValueError(
                f"{path}: line {number} was changed, it is none that a ledger writes; {MEND}"
            )
        if entry["number"] != number:
            raise ValueError(
                f"{path}: line {number} was removed, doubled or moved, entry {entry['number']} "
                f"stands in its place; {MEND}"
            )
        if entry["previous"] != sha256:
            changed = f"line {number - 1} was changed, or its hash in line {number}"
            if number == 1:
                changed = "line 1 was changed"
            raise ValueError(f"{path}: {changed}; {MEND}")
        fault = _fault(entry, entries[-1:])
        key = _key(entry)
        if fault is None and key in seen:
            fault = "forecasts a candle that this model had forecast before"
        if fault is not None:
            raise ValueError(
                f"{path}: line {number} {fault}: it was not entered by this program; {MEND}"
            )
        entries.append(entry)
        seen.add(key)
        sha256 = _hash(line + b"\n")
    head = f'{{"number": {len(lines) + 1}, "made_at": "'.encode()
    if not head.startswith(torn.strip(b"\0")[: len(head)]):  # zeros: of a loss of power
        raise ValueError(
            f"{path}: what stands behind line {len(lines)} is no half line of a ledger; {MEND}"
        )
    return Ledger(entries, sha256, len(content) - len(torn), torn)


def _first_since(lines: list[bytes], since_ms: int) -> int:
    """Index of the last line made before `since_ms`, or of the first line."""
    for index in range(len(lines) - 1, 0, -1):
        entry = _decode(lines[index] + b"\n")
        if entry is None or _fault(entry, []) is not None or entry_ms(entry["made_at"]) < since_ms:
            return index  # an unsound line too: the caller opens it, and refuses it
    return 0


def _refuse(path: Path, entry: Mapping[str, Any], made_ms: int, ledger: Ledger) -> None:
    """Raise, with the remedy, on what may come up in honest use."""
    what = f"{entry['symbol']}'s {entry['timeframe']} candle of {entry['timestamp']}"
    if made_ms >= entry_ms(entry["closes_at"]):
        raise ValueError(
            f"{path}: too late for a forecast of {what}: it closed at {entry['closes_at']}, and it "
            f"is {entry['made_at']}; forecast from candles up to the last closed one (python "
            "data_fetcher.py update)"
        )
    known = next((other["number"] for other in ledger.entries if _key(other) == _key(entry)), None)
    if known is not None:
        raise AlreadyEnteredError(
            f"line {known} of {path} holds this model's forecast of {what}; the first one counts, "
            "nothing was entered"
        )
    behind = f"{path}: the clock is wrong, or was: it says {entry['made_at']}, but"
    if ledger.entries and made_ms < entry_ms(ledger.entries[-1]["made_at"]):
        last = ledger.entries[-1]
        raise ValueError(
            f"{behind} line {last['number']} was entered at {last['made_at']}; set it right"
        )
    if made_ms < _base_closes_ms(entry):
        raise ValueError(
            f"{behind} the forecast's last candle closed at {to_text(_base_closes_ms(entry))}; set "
            "it right"
        )


def _fault(entry: Mapping[str, Any], before: list[dict[str, Any]]) -> str | None:
    """What no entry can be, in words that follow "line 7"; None if it follows `before` soundly."""
    if not re.fullmatch(r"[^\s/:a-z]+/[^\s/:a-z]+", entry["symbol"]):
        return f"is of {entry['symbol']!r}, which is not written as BTC/USDT"
    if entry["timeframe"] not in TIMEFRAME_MS or entry["horizon"] < 1:
        return (
            f"has the timeframe {entry['timeframe']!r} and the horizon {entry['horizon']}, of no "
            "forecast"
        )
    numbers = {name: entry[name] for name, kind in FIELDS.items() if kind is float}
    unsound = [name for name, value in numbers.items() if not math.isfinite(value)]
    unsound += [name for name in ("last_price", "volatility", "price") if not numbers[name] > 0]
    if unsound:
        return f"has a {unsound[0]} of {numbers[unsound[0]]}"
    if not (0 <= numbers["p_up"] <= 1 and numbers["q10"] <= numbers["q50"] <= numbers["q90"]):
        return f"has quantiles that cross, or a probability of {numbers['p_up']}"
    if abs(math.log(numbers["price"]) - math.log(numbers["last_price"]) - numbers["return"]) > 1e-9:
        return "has a price that is not that of its return"
    step_ms = timeframe_ms(entry["timeframe"])
    times = ("made_at", "timestamp", "closes_at", "base_time")
    try:
        made, opens, closes, base = (entry_ms(entry[name]) for name in times)
    except ValueError as error:
        return f"has a time that cannot be read ({error})"
    if base % step_ms or opens != base + entry["horizon"] * step_ms or closes != opens + step_ms:
        return "has times that do not belong together"
    if not _base_closes_ms(entry) <= made < closes:
        return (
            f"was made at {entry['made_at']}, not between the close of its last candle and "
            f"{entry['closes_at']}"
        )
    if before and made < entry_ms(before[0]["made_at"]):
        return "was made before the line before it"
    return None


def _base_closes_ms(entry: Mapping[str, Any]) -> int:
    """When candle t closed, and the forecast could be made."""
    return entry_ms(entry["base_time"]) + timeframe_ms(entry["timeframe"])


def _key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in KEY)


def _encode(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _decode(line: bytes) -> dict[str, Any] | None:
    """The entry in a line; None unless the line is, byte for byte, what `_encode` makes of it."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, or no UTF-8
        return None
    if type(entry) is not dict or list(entry) != list(FIELDS):
        return None
    has_types = all(type(entry[name]) is kind for name, kind in FIELDS.items())
    return entry if has_types and _encode(entry) == line else None


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
