"""A forecasting function of the user's own: loaded, called, and its answers read.

What it may be: a function `candles -> forecast`, or a class with `predict(candles)` and perhaps
`fit(candles)`. What it may return: a forecast from the last candle (a number, or names and
numbers), or a row per candle.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd

from pipeline import terminal
from pipeline.candles.schema import parse_times, timestamps_ms
from pipeline.forecasts.conventions import DOCUMENTED

FORECAST_NAMES = DOCUMENTED
"""What a forecast may say. A bare number is a `forecast_return`: the log-return over the horizon"""


class ModelError(ValueError):
    """A model of the user's cannot be loaded, fails, or gives something that is no forecast."""


@dataclass(frozen=True)
class UserModel:
    """A model as the walk takes it."""

    name: str
    """what to call it in messages"""
    make: Callable[[], Any]
    """gives the object for one symbol; what does not learn is the same for all"""
    home: Path | None
    """file of its code, whose lines an error names"""
    can_fit: bool = False
    """whether it learns from candles"""
    code: object = None
    """what tells the same function, or class, again"""


def is_model(what: object) -> bool:
    """Whether this is a model, and no table of forecasts."""
    return isinstance(what, UserModel) or callable(what) or hasattr(type(what), "predict")


def as_model(what: object) -> UserModel:
    """A model from what the user has.

    Args:
        what: "module:name" of the current folder, "folder/file.py:name", a function, a class with
            `predict`, or an object of one. One that has `fit` too is copied for every symbol.

    Raises:
        ModelError: There is no such module or name, its code fails, or it is no model.
    """
    if isinstance(what, UserModel):
        return what
    if isinstance(what, str):
        name, what = what, _load(what)
    else:
        name = getattr(what, "__name__", type(what).__name__)
    home = _file_of(what)
    if inspect.isclass(what):
        if not hasattr(what, "predict"):
            raise ModelError(f"{name}: the class has no predict(candles); add it")
        what = call(what, name, "when it is made", home)
    code = getattr(what, "__code__", None) or type(what).__qualname__
    if hasattr(what, "fit") and hasattr(what, "predict"):
        return UserModel(name, lambda: copy.deepcopy(what), home, can_fit=True, code=code)
    if hasattr(what, "predict") or callable(what):
        return UserModel(name, lambda: what, home, code=code)  # large weights are not copied
    raise ModelError(
        f"{name} is {type(what).__name__}; a function of candles is needed, or a class with "
        "predict(candles)"
    )


def _load(spec: str) -> object:
    """What "module:name" names, of the current folder first."""
    place, separator, name = spec.rpartition(":")
    if not separator or not place or not name:
        raise ModelError(
            f"{spec!r} names no function; write module:function, such as my_model:forecast for "
            "the function forecast in my_model.py"
        )
    module = _import(place)
    if not hasattr(module, name):
        public = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        own = [n for n in public if getattr(vars(module)[n], "__module__", "") == module.__name__]
        raise ModelError(f"{place} has no {name}; it has {terminal.listed(own) or 'no functions'}")
    return getattr(module, name)


def _import(place: str) -> ModuleType:
    """The module of this name in the current folder, or installed; or of this file."""
    path = Path(place)
    is_file = path.suffix == ".py"
    name = path.stem if is_file else place
    if is_file and not path.is_file():
        raise ModelError(f"{place}: there is no such file")
    folder = str(path.parent.absolute() if is_file else Path.cwd())
    wanted = path.absolute() if is_file else Path(folder, *name.split(".")).with_suffix(".py")
    loaded = sys.modules.get(name)
    if loaded is not None and wanted.is_file() and _file_of(loaded) != wanted.resolve():
        raise ModelError(
            f"{wanted.name}: another module is called {name}, too; give the file another name"
        )
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise ModelError(
            f"there is no {name}.py in {folder}, and no installed module of that name; run the "
            "command where the file is, or write its path: folder/file.py:function"
        )
    return call(lambda: importlib.import_module(name), name, "when it is imported", wanted)


def _file_of(what: object) -> Path | None:
    """The file of an object's code, if it has one."""
    module = what if isinstance(what, ModuleType) else inspect.getmodule(what)
    if module is None and not callable(what):
        module = inspect.getmodule(type(what))
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


def call(function: Callable[..., Any], name: str, when: str, home: Path | None, *args: Any) -> Any:
    """What the user's code returns.

    Args:
        function: The code.
        name: What to call it.
        when: The instant, or what was being done.
        home: File whose line the error names; else the last one that ran.
        args: What it is given.

    Raises:
        ModelError: It failed; says where, with the line of its code.
    """
    try:
        return function(*args)
    except ModelError:
        raise
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        kind = type(error).__name__
        line = _line_of(error, home)
        raise ModelError(f"{name} fails {when}: {kind}: {told}{line}") from error


def _line_of(error: Exception, home: Path | None) -> str:
    """Where in the user's file an error arose."""
    if isinstance(error, SyntaxError) and error.filename:
        code = (error.text or "").strip()
        return f" ({Path(error.filename).name}, line {error.lineno}: {code})"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if home and Path(frame.filename).resolve() == home]
    frame = (own or list(frames))[-1]
    return f" ({Path(frame.filename).name}, line {frame.lineno}, in {frame.name}: {frame.line})"


def is_table(answer: object, n_candles: int) -> bool:
    """Whether an answer has a row per candle; else it is one forecast."""
    if isinstance(answer, Mapping):
        return any(np.ndim(value) > 0 for value in answer.values())
    if isinstance(answer, pd.Series) and answer.index.isin(FORECAST_NAMES).any():
        return False
    if isinstance(answer, pd.DataFrame):
        return "timestamp" in answer or len(answer) != 1 or n_candles == 1
    values = np.asarray(answer)
    return values.ndim > 0 and values.size != 1


def read_one(answer: object, where: str) -> dict[str, float]:
    """One forecast: name of `FORECAST_NAMES` -> number; empty where none was made.

    Args:
        answer: A number, an array of one, names and numbers, a frame of one row, or None for no
            forecast.
        where: The model and the instant, for errors.

    Raises:
        ModelError: It is no forecast.
    """
    if answer is None:
        return {}
    if isinstance(answer, pd.DataFrame):
        answer = answer.iloc[0]
    if isinstance(answer, pd.Series) and not answer.index.isin(FORECAST_NAMES).any():
        answer = answer.to_numpy() if len(answer) == 1 else answer
    if isinstance(answer, (Mapping, pd.Series)):
        named = {name: answer[name] for name in FORECAST_NAMES if name in answer}
        if not named:
            _refuse_names(list(answer.keys()), where)
    else:
        named = {FORECAST_NAMES[0]: answer}
    return {name: _number(value, name, where) for name, value in named.items()}


def _number(value: Any, name: str, where: str) -> float:
    """A finite number or NaN."""
    if value is None or value is pd.NA:
        return np.nan
    try:
        number = float(np.asarray(value, np.float64).item())
    except (TypeError, ValueError):
        number = np.inf
    if np.isinf(number):
        raise ModelError(
            f"{where}: {name} is {value!r:.80}, no number; give a finite one, NaN or None for no "
            "forecast"
        )
    return number


def read_table(answer: object, candles: pd.DataFrame, where: str) -> pd.DataFrame:
    """Forecasts with a row per candle, (n, k) float64 on the candles' index.

    Args:
        answer: A frame, Series, array, list or dict of columns. A frame with `timestamp` may have
            fewer rows.
        candles: The candles that it was made of.
        where: The model, for errors.

    Raises:
        ModelError: It has other rows than the candles, no known column, or what is no number.
    """
    table = answer if isinstance(answer, pd.DataFrame) else None
    if isinstance(answer, Mapping):
        table = pd.DataFrame(answer)
    if table is None:
        values = np.asarray(answer)
        is_column = values.ndim == 1 or (values.ndim == 2 and values.shape[1] == 1)
        if not is_column:
            raise ModelError(
                f"{where}: an array of shape {values.shape} tells no names; return a frame with "
                f"columns of {', '.join(FORECAST_NAMES)}"
            )
        index = answer.index if isinstance(answer, pd.Series) else None
        table = pd.DataFrame({FORECAST_NAMES[0]: values.reshape(-1)}, index=index)
    names = [name for name in FORECAST_NAMES if name in table]
    if not names:
        _refuse_names(list(table.columns), where)
    try:
        numbers = table[names].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where}: forecasts must be numbers: {error}") from error
    infinite = np.isinf(numbers.to_numpy())
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise ModelError(
            f"{where}: {names[column]} is {numbers.iat[row, column]} in row {row}; leave NaN where "
            "there is no forecast"
        )
    return _on_candles(table, numbers, candles, where)


def _on_candles(
    table: pd.DataFrame, numbers: pd.DataFrame, candles: pd.DataFrame, where: str
) -> pd.DataFrame:
    """The numbers in the candles' order: by their times where they have any, else one by one."""
    times = None
    if "timestamp" in table:
        times = table["timestamp"].reset_index(drop=True)
    elif isinstance(table.index, pd.DatetimeIndex):
        times = table.index.to_series(index=range(len(table)))
    if times is None:
        if len(table) != len(candles):
            raise ModelError(
                f"{where}: {len(table):,} rows for {len(candles):,} candles; return a row per "
                "candle and leave NaN where there is no forecast, or return the column timestamp"
            )
        is_ordered = table.index.equals(candles.index) or not table.index.isin(candles.index).all()
        if not is_ordered:
            raise ModelError(
                f"{where}: the rows are in another order than the candles; sort them by their index"
            )
        return numbers.set_axis(candles.index)
    opens = timestamps_ms(pd.DataFrame({"timestamp": parse_times(times, where=where)}))
    known = pd.Index(timestamps_ms(candles))
    unknown = ~np.isin(opens, known)
    if unknown.any() or len(set(opens)) < len(opens):
        what = "no candle's open" if unknown.any() else "there twice"
        at = (
            times[unknown].iloc[0]
            if unknown.any()
            else times[pd.Series(opens).duplicated()].iloc[0]
        )
        raise ModelError(f"{where}: the timestamp {at} is {what}; give each candle's open once")
    return numbers.set_axis(opens).reindex(known).set_axis(candles.index)


def _refuse_names(names: list[Any], where: str) -> None:
    raise ModelError(
        f"{where}: a forecast is called one of {', '.join(FORECAST_NAMES)}; there are "
        f"{terminal.listed(map(str, names)) or 'no names'}"
    )
