"""A model of the user's walked forward over closed candles, with a proof that it looks at no later.

A model that gives one forecast a call is given, at each candle t, the candles up to t and no later
ones. So its argument cannot tell it the future; the walk goes through all symbols in the order of
time, so that what it remembers cannot either. A model that gives a row per candle is given a whole
history, and proves itself: the candles after t are changed and cut, and no forecast up to t may
move (`pipeline.samples.leakage`).
"""

from __future__ import annotations

import datetime
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from pipeline import terminal
from pipeline.candles.schema import instant_ms, timeframe_ms, timestamps_ms, utc_from_ms
from pipeline.forecasts.user_model import (
    FORECAST_NAMES,
    ModelError,
    UserModel,
    as_model,
    call,
    is_table,
    read_one,
    read_table,
)
from pipeline.samples import leakage

SHARE_KNOWN = 0.7
"""Without `since`, forecasts begin after this share of the span that all symbols have."""

N_INSTANTS = 12
"""Instants at which the proof is made, at least."""
MOST_INSTANTS = 500
"""The same at most, of a model that answers for all candles at once: there are as many as take"""
PROOF_SECONDS = 2.0
"""by the time of its first answer; two answers are asked for at each."""

TOLERANCE = {"changed": 1e-9, "removed": 1e-5}
"""Change of a forecast that is rounding (`leakage.find_leak`). Other candles of the same number
leave a network's batches as they are, fewer do not: then 32 bits say other last digits."""

NO_LATER = "no later candle: each forecast was made from a copy of the candles up to its own"


class ForecastLooksAheadError(leakage.LookAheadError):
    """A model's forecast needs candles that come later: the proof, and no verdict."""

    def __init__(self, model: str, symbol: str, opens: pd.Series, leak: leakage.Leak) -> None:
        """`opens` are the candles' times, in whose rows the leak is told."""
        self.model = model
        self.symbol = symbol
        self.name = str(leak.column)
        self.instant = opens.iloc[leak.row]
        """open of the last candle that the forecast may know"""
        self.needed = opens.iloc[leak.reached]
        """open of the last candle that it needs"""
        self.n_ahead = leak.reached - leak.row
        """candles from the one to the other"""
        self.before, self.after = float(leak.before), float(leak.after)  # type: ignore[arg-type]
        """the forecast, and what becomes of it once the candles after `cut` are others"""
        self.cut = opens.iloc[leak.cut]
        self.future = leak.future
        size = (
            f"moves by {abs(self.after - self.before):.3g}"
            if np.isfinite(self.after - self.before)
            else "changes"
        )
        super().__init__(
            f"{model} looks ahead. {symbol}: its {self.name} at {self.instant:%Y-%m-%d %H:%M} "
            f"needs the candle of {self.needed:%Y-%m-%d %H:%M}, "
            f"{terminal.counted(self.n_ahead, 'candle')} later. With the candles after "
            f"{self.cut:%Y-%m-%d %H:%M} {self.future} it is {self.after:.6g} instead of "
            f"{self.before:.6g}: it {size}."
        )

    def as_dict(self) -> dict[str, Any]:
        """The proof as plain data for JSON."""
        return {
            "symbol": self.symbol,
            "forecast": self.name,
            "timestamp": self.instant.isoformat(),
            "needs_candle": self.needed.isoformat(),
            "candles_ahead": self.n_ahead,
            "value": self.before if np.isfinite(self.before) else None,
            "value_with_another_future": self.after if np.isfinite(self.after) else None,
            "cut": self.cut.isoformat(),
            "later_candles": self.future,
        }


@dataclass(frozen=True)
class Walk:
    """Forecasts of a model, and how they were made."""

    model: str
    forecasts: pd.DataFrame
    """a row a forecast in time order: symbol, timestamp (open of the last candle known, UTC), and
    those of `FORECAST_NAMES` that it gives; log-returns are over `horizon` candles"""
    horizon: int
    is_whole: bool
    """whether it gives a row per candle"""
    call_seconds: np.ndarray
    """(n_calls,) of the calls that made the forecasts"""
    rows_of_call: np.ndarray
    """(n_calls,) forecasts that each gave"""
    fit_seconds: np.ndarray
    """(n_fits,)"""
    n_silent: int
    """instants at which it gave no forecast"""
    proof: str
    """what was proved, in a sentence"""
    notes: tuple[str, ...] = ()
    """what a reader must know"""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds a forecast: the median and the longest; of a call for all, a forecast's share."""
        each = self.call_seconds / np.maximum(self.rows_of_call, 1)
        return {"p50": float(np.median(each)), "max": float(each.max())}

    def as_dict(self) -> dict[str, Any]:
        """How they were made, as plain data for JSON."""
        return {
            "forecasts": len(self.forecasts),
            "a_row_per_candle": self.is_whole,
            "seconds_per_forecast": self.seconds,
            "fits": len(self.fit_seconds),
            "fit_seconds": float(self.fit_seconds.sum()),
            "instants_without_forecast": self.n_silent,
            "proof": self.proof,
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """What to tell of it."""
        n_symbols = self.forecasts["symbol"].nunique()
        first, last = self.forecasts["timestamp"].iloc[[0, -1]]
        told = [
            f"{self.model}: {len(self.forecasts):,} forecasts of "
            f"{terminal.counted(n_symbols, 'symbol')}, {first:%Y-%m-%d %H:%M} to "
            f"{last:%Y-%m-%d %H:%M}"
        ]
        p50, longest = (_duration(value) for value in self.seconds.values())
        how = "a row per candle" if self.is_whole else "a forecast a call"
        told.append(f"{how}: {p50} a forecast (median), at most {longest}")
        if len(self.fit_seconds):
            fits = terminal.counted(len(self.fit_seconds), "fit")
            told[-1] += f"; {fits}, {_duration(float(np.median(self.fit_seconds)))} each (median)"
        told.append(self.proof)
        if self.n_silent:
            instants = terminal.counted(self.n_silent, "instant")
            told.append(f"no forecast at {instants}, which are not judged")
        return [*told, *self.notes]


def walk(
    what: object,
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    *,
    horizon: int = 1,
    since: str | float | datetime.datetime | None = None,
    every: int = 1,
    refit_every: int | None = None,
    history: int | None = None,
    n_instants: int | None = None,
    seed: int = 0,
) -> Walk:
    """Walk a model forward over candles.

    The frames that it is given say in their `attrs` "symbol", "timeframe" and "horizon".

    Args:
        what: See `as_model`.
        candles: Symbol -> frame in the candle schema, closed candles only. Not changed.
        timeframe: Length of a candle, such as "1h".
        horizon: Candles from t to the one that is forecast.
        since: First instant at which a forecast is made (its candle t closes), UTC; default: after
            `SHARE_KNOWN` of the span that all symbols have.
        every: Forecast at every so many-th candle of a symbol.
        refit_every: Fit a model that has `fit` again after so many candles; default: fit once,
            before the first forecast.
        history: Candles that it is given at most; default: all up to t.
        n_instants: Instants at which the proof is made, all symbols together; default:
            `N_INSTANTS`, of a row per candle as many as `PROOF_SECONDS` allow.
        seed: Seed of the instants and of the invented candles.

    Raises:
        ForecastLooksAheadError: The model looks ahead; has the proof.
        ModelError: It cannot be loaded, fails, changes the candles that it is given, or gives
            something that is no forecast.
        ValueError: An option is out of range, or no candle is left to forecast from.
    """
    model = as_model(what)
    _check(model, horizon, every, refit_every, history)
    rows_of = _rows_to_forecast(candles, timeframe, horizon, since, every)
    # Without their attrs, which pandas copies at every access.
    plain = {symbol: _without_attrs(frame) for symbol, frame in candles.items()}
    walker = _Walker(
        model, plain, timeframe, horizon, rows_of, refit_every, history, n_instants, seed
    )
    return walker.run()


def _check(
    model: UserModel, horizon: int, every: int, refit_every: int | None, history: int | None
) -> None:
    counts = {"horizon": horizon, "every": every, "refit_every": refit_every, "history": history}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    if refit_every is not None and not model.can_fit:
        raise ValueError(
            f"{model.name} has no fit(candles), so there is nothing to fit every {refit_every} "
            "candles; leave the option out, or give a class with fit and predict"
        )


def _rows_to_forecast(
    candles: Mapping[str, pd.DataFrame],
    timeframe: str,
    horizon: int,
    since: str | float | datetime.datetime | None,
    every: int,
) -> dict[str, np.ndarray]:
    """Symbol -> rows of the candles t, of which the candle t + horizon is there too."""
    step_ms = timeframe_ms(timeframe)
    opens = {symbol: timestamps_ms(frame) for symbol, frame in candles.items()}
    since_ms = instant_ms(since, "since")
    if since_ms is None:
        begin, end = max(ms[0] for ms in opens.values()), max(ms[-1] for ms in opens.values())
        first_ms = begin + SHARE_KNOWN * (end - begin)
    else:
        first_ms = since_ms - step_ms
    rows = {}
    for symbol, ms in opens.items():
        first = int(np.searchsorted(ms, first_ms))
        if len(found := np.arange(first, len(ms) - horizon)[::every]):
            rows[symbol] = found
    if not rows:
        longest = max(len(ms) for ms in opens.values())
        raise ValueError(
            f"no candle to forecast from: of {longest:,} candles none is followed by {horizon} and "
            f"closes at or after {utc_from_ms(np.array([first_ms + step_ms]))[0]:%Y-%m-%d %H:%M}; "
            "give more candles or an earlier since"
        )
    return rows


_REMEMBERING: set[tuple[str, object]] = set()
"""Name and code of the models that answered otherwise after a walk of this process"""


@dataclass
class _Walker:
    """The state of one walk."""

    model: UserModel
    candles: Mapping[str, pd.DataFrame]
    timeframe: str
    horizon: int
    rows_of: dict[str, np.ndarray]
    refit_every: int | None
    history: int | None
    n_instants: int | None
    seed: int
    call_seconds: list[float] = field(default_factory=list)
    rows_of_call: list[int] = field(default_factory=list)
    fit_seconds: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    last_seconds: float = 0.0
    """of the last call of the model alone"""

    def __post_init__(self) -> None:
        self.opens = {symbol: frame["timestamp"].array for symbol, frame in self.candles.items()}

    def run(self) -> Walk:
        """Walk, and prove."""
        order = self._in_time()
        symbol, first = order[0]
        # The first call tells what the model gives; it also loads what it loads but once.
        function = self._fitted(symbol, first)
        given = self._given(symbol, first)
        is_whole = is_table(self._called(function, given, symbol, first), len(given))
        if self.n_instants is None:
            self.n_instants = (
                self._affordable(symbol, first, given, function) if is_whole else N_INSTANTS
            )
        if is_whole:
            forecasts, proof = self._walk_whole({symbol: function})
        else:
            forecasts, proof = self._walk_steps(order, {symbol: function})
        columns = [name for name in FORECAST_NAMES if name in forecasts]
        is_silent = forecasts[columns].isna().all(axis=1)
        if is_silent.all():
            raise ModelError(
                f"{self.model.name} gave no forecast at any of {len(forecasts):,} instants; it "
                "may need more candles before the first"
            )
        kept = forecasts[~is_silent].sort_values(["timestamp", "symbol"], ignore_index=True)
        return Walk(
            self.model.name,
            kept[["symbol", "timestamp", *columns]],
            self.horizon,
            is_whole,
            np.array(self.call_seconds),
            np.array(self.rows_of_call),
            np.array(self.fit_seconds),
            int(is_silent.sum()),
            proof,
            tuple(self.notes),
        )

    def _affordable(self, symbol: str, row: int, given: pd.DataFrame, made: Any) -> int:
        """Instants of the proof that `PROOF_SECONDS` allow, by a second answer, loaded and warm."""
        self._called(made, given.copy(), symbol, row)
        affordable = PROOF_SECONDS / (2 * max(self.last_seconds, 1e-6))
        return int(np.clip(affordable, N_INSTANTS, MOST_INSTANTS))

    # --- what both kinds share

    def _in_time(self) -> list[tuple[str, int]]:
        """Symbol and row of every forecast, in the order of time."""
        parts = [
            pd.DataFrame({"ms": timestamps_ms(self.candles[symbol])[rows], "row": rows}).assign(
                symbol=symbol
            )
            for symbol, rows in self.rows_of.items()
        ]
        together = pd.concat(parts).sort_values(["ms", "symbol"])
        return list(zip(together["symbol"], together["row"]))

    def _given(self, symbol: str, row: int, first_row: int | None = None) -> pd.DataFrame:
        """What the model is given: a copy of the candles up to a row, and `history` of the first.

        Args:
            symbol: The pair.
            row: The last candle.
            first_row: The first that it forecasts from; the last one by default.
        """
        begin = row if first_row is None else first_row
        first = 0 if self.history is None else max(0, begin + 1 - self.history)
        given = self.candles[symbol].iloc[first : row + 1].reset_index(drop=True)
        given = given.copy()  # no view, behind which later candles would lie
        given.attrs = {"symbol": symbol, "timeframe": self.timeframe, "horizon": self.horizon}
        return given

    def _fitted(self, symbol: str, row: int, made: Any = None) -> Any:
        """The object of a symbol, fitted on the candles up to a row; its `predict` or itself."""
        made = self.model.make() if made is None else made
        if hasattr(made, "fit"):
            started = time.perf_counter()
            when = f"in fit, {self._at(symbol, row)}"
            call(made.fit, self.model.name, when, self.model.home, self._given(symbol, row))
            self.fit_seconds.append(time.perf_counter() - started)
        return made

    def _called(self, made: Any, given: pd.DataFrame, symbol: str, row: int) -> Any:
        """What the model says to these candles, and the time that it takes."""
        function = getattr(made, "predict", made)
        started = time.perf_counter()
        answer = call(function, self.model.name, self._at(symbol, row), self.model.home, given)
        self.last_seconds = time.perf_counter() - started
        return answer

    def _answer(self, made: Any, given: pd.DataFrame, symbol: str, row: int) -> Any:
        """The same of a model that must leave the candles as they are."""
        before = _without_attrs(given)
        answer = self._called(made, given, symbol, row)
        self._demand_unchanged(before, given, symbol)
        return answer

    def _demand_unchanged(self, before: pd.DataFrame, after: pd.DataFrame, symbol: str) -> None:
        """Raise where a candle's number is another one than before the call."""
        change = _first_change(before, _without_attrs(after))
        if change is None:
            return
        row, name, old, new = change
        raise ModelError(
            f"{self.model.name} changes the candles that it is given: {symbol}, {name} of the "
            f"candle of {before['timestamp'].iloc[row]:%Y-%m-%d %H:%M} was {old}, and is {new} "
            "after the call. Outside of this walk that is how a later price gets into an earlier "
            "candle; let it work on a copy (candles = candles.copy())"
        )

    def _at(self, symbol: str, row: int) -> str:
        return f"at {symbol} {self.opens[symbol][row]:%Y-%m-%d %H:%M}"

    def _table(self, rows: list[dict[str, Any]]) -> pd.DataFrame:
        table = pd.DataFrame(rows)
        table["timestamp"] = table["timestamp"].astype("datetime64[ms, UTC]")
        for name in FORECAST_NAMES:
            if name in table:
                table[name] = table[name].astype(np.float64)
        return table

    # --- a forecast a call

    def _walk_steps(
        self, order: list[tuple[str, int]], made: dict[str, Any]
    ) -> tuple[pd.DataFrame, str]:
        """Every forecast by a call of its own, all symbols in the order of time."""
        fitted_at = dict(order[:1])
        rows = []
        with terminal.bar(len(order), self.model.name, " forecasts") as bar:
            for symbol, row in order:
                is_new = symbol not in made
                if is_new or self._is_due(fitted_at[symbol], row):
                    made[symbol] = self._fitted(symbol, row, made.get(symbol))
                    fitted_at[symbol] = row
                given = self._given(symbol, row)
                answer = self._answer(made[symbol], given, symbol, row)
                self.call_seconds.append(self.last_seconds)
                self.rows_of_call.append(1)
                named = self._read(answer, symbol, row)
                known_until = self.opens[symbol][row]
                rows.append({"symbol": symbol, "timestamp": known_until, **named})
                bar.update()
        # What is asked again must be of the fit that answered.
        askable = [
            (place, symbol, row)
            for place, (symbol, row) in enumerate(order)
            if not hasattr(made[symbol], "fit") or row >= fitted_at[symbol]
        ]
        return self._table(rows), self._ask_again(askable, made, rows)

    def _read(self, answer: Any, symbol: str, row: int) -> dict[str, float]:
        where = f"{self.model.name} {self._at(symbol, row)}"
        if is_table(answer, row + 1):
            raise ModelError(f"{where}: {type(answer).__name__} of several rows, where it gave one")
        return read_one(answer, where)

    def _is_due(self, fitted_at: int, row: int) -> bool:
        return self.refit_every is not None and row - fitted_at >= self.refit_every

    def _ask_again(
        self,
        askable: list[tuple[int, str, int]],
        made: Mapping[str, Any],
        rows: list[dict[str, Any]],
    ) -> str:
        """Ask at some instants once more, now that the model has been shown all: what is said."""
        chosen = self._sample(len(askable))
        n_other, n_random, n_deaf = 0, 0, 0
        for place, symbol, row in (askable[i] for i in chosen):
            given = self._given(symbol, row)

            def answer(
                candles: pd.DataFrame, symbol: str = symbol, row: int = row
            ) -> dict[str, float]:
                said = self._answer(made[symbol], candles.copy(), symbol, row)
                return self._read(said, symbol, row)

            first, second = answer(given), answer(given)
            n_random += not _same(first, second)
            n_other += not _same(first, rows[place])
            other = leakage.with_another_future(given, len(given) // 2, self.seed)
            n_deaf += _same(first, answer(other))
        n = len(chosen)
        instants = terminal.counted(n, "instant")
        proof = NO_LATER
        key = (self.model.name, self.model.code)
        was_walked = key in _REMEMBERING
        if n_random or n_other:
            _REMEMBERING.add(key)
        if was_walked:
            self.notes.append(
                "it answered otherwise when it was asked again, and was walked in this process "
                "before: what it may have kept of that walk is of later candles, so nothing is "
                "proved; judge it in a fresh process"
            )
            return "not proved: it may remember an earlier walk of this process"
        if n_random:
            self.notes.append(
                f"not repeatable: at {n_random} of {instants} it gave two answers to the same "
                "candles; what is random in it has no seed, or it learns from being asked"
            )
        elif n_other:
            self.notes.append(
                f"it remembers: at {n_other} of {instants} it answers otherwise now than when it "
                "was walked; what it remembers was never of later candles"
            )
        else:
            proof += f"; asked again at {instants}, it said the same"
        is_deaf = n > 0 and n_deaf == n and any(not _same(row, rows[0]) for row in rows)
        if is_deaf and not self.model.can_fit:
            self.notes.append(
                f"it does not look at the prices that it is given: with others, no forecast at "
                f"{instants} moves. If it reads candles by itself, nothing is proved of it"
            )
        return proof

    # --- a row per candle

    def _walk_whole(self, made: dict[str, Any]) -> tuple[pd.DataFrame, str]:
        """All forecasts of a fit by one call, proved at some instants."""
        parts = []
        blocks = list(self._blocks())
        chosen = self._chosen_rows(blocks)
        with terminal.bar(len(blocks), self.model.name, " blocks") as bar:
            for place, (symbol, rows) in enumerate(blocks):
                first, last = int(rows[0]), int(rows[-1])
                is_first = place == 0 and symbol in made
                if not is_first:
                    made[symbol] = self._fitted(symbol, first, made.get(symbol))
                given = self._given(symbol, last, first)
                self._prove(made[symbol], given, symbol, rows, chosen[place])
                answer = self._answer(made[symbol], given, symbol, last)
                self.call_seconds.append(self.last_seconds)
                self.rows_of_call.append(len(rows))
                where = f"{self.model.name}, {symbol}"
                table = read_table(answer, given, where).iloc[rows - (last + 1 - len(given))]
                times = given["timestamp"].iloc[rows - (last + 1 - len(given))]
                parts.append(table.assign(symbol=symbol, timestamp=times))
                bar.update()
        n = sum(map(len, chosen))
        if n == 0:
            return pd.concat(parts, ignore_index=True), NO_LATER
        return pd.concat(parts, ignore_index=True), (
            f"proved at {terminal.counted(n, 'instant')}: with the candles after them changed, and "
            f"cut off, no forecast moves{self._missable(n)}"
        )

    def _missable(self, n: int) -> str:
        """What such a proof cannot see: with 95 % confidence, leaks of one candle in fewer rows."""
        n_rows = sum(map(len, self.rows_of.values()))
        share = 1 - 0.05 ** (1 / n)
        if n >= n_rows - len(self.rows_of) or share * n_rows < 1:
            return ""
        return f"; a leak by one candle in fewer than {100 * share:.2g} % of the rows may be missed"

    def _blocks(self) -> Iterator[tuple[str, np.ndarray]]:
        """Symbol and the rows of one call: those of a fit."""
        for symbol, rows in self.rows_of.items():
            if self.refit_every is None:
                yield symbol, rows
                continue
            number = (rows - rows[0]) // self.refit_every
            for n in np.unique(number):
                yield symbol, rows[number == n]

    def _chosen_rows(self, blocks: list[tuple[str, np.ndarray]]) -> list[list[int]]:
        """Rows of each block at which it is proved; each symbol has one at least.

        After the last row of a block no candle is given, so there is nothing to change.
        """
        pairs = [(place, int(row)) for place, (_, rows) in enumerate(blocks) for row in rows[:-1]]
        chosen: list[set[int]] = [set() for _ in blocks]
        for place, row in (pairs[i] for i in self._sample(len(pairs))):
            chosen[place].add(row)
        for symbol in self.rows_of:
            own = [(place, row) for place, row in pairs if blocks[place][0] == symbol]
            if own and not any(chosen[place] for place, _ in own):
                place, row = own[len(own) // 2]
                chosen[place].add(row)
        return [sorted(rows) for rows in chosen]

    def _prove(
        self, made: Any, given: pd.DataFrame, symbol: str, rows: np.ndarray, chosen: list[int]
    ) -> None:
        """Raise if a forecast of this block up to a chosen row needs a later candle."""
        first, last = int(rows[0]), int(rows[-1])
        offset = last + 1 - len(given)
        function = getattr(made, "predict", made)

        def forecasts(candles: pd.DataFrame) -> pd.DataFrame:
            candles.attrs = dict(given.attrs)
            until = candles["timestamp"].iloc[-1]
            when = f"at {symbol} with candles to {until:%Y-%m-%d %H:%M}"
            kept = candles.copy()
            answer = call(function, self.model.name, when, self.model.home, candles)
            table = read_table(answer, kept, f"{self.model.name}, {symbol}")
            table.iloc[: first - offset] = np.nan  # what is not judged proves nothing
            return table

        futures = list(itertools.product((row - offset for row in chosen), ("changed", "removed")))
        if not futures:
            return
        try:
            leak = leakage.find_leak(forecasts, given, futures, seed=self.seed, tolerance=TOLERANCE)
        except leakage.UnrepeatableError:
            self._refuse_random(symbol)
        if leak is not None:
            raise ForecastLooksAheadError(self.model.name, symbol, given["timestamp"], leak)

    def _refuse_random(self, symbol: str) -> NoReturn:
        raise ModelError(
            f"{self.model.name} is not repeatable: {symbol}, two answers to the same candles. So "
            "it cannot be proved that it does not look ahead; seed what is random in it, or let "
            "it give one forecast a call"
        )

    def _sample(self, n: int) -> np.ndarray:
        """Places of at most `n_instants` of n things, spread over them at random, in order."""
        edges = np.linspace(0, n, min(self.n_instants or 0, n) + 1).astype(int)
        generator = np.random.default_rng(self.seed)
        return np.array(
            [generator.integers(low, high) for low, high in itertools.pairwise(edges)], int
        )


def _without_attrs(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy that has no attrs."""
    plain = frame.copy()
    plain.attrs = {}
    return plain


def _first_change(before: pd.DataFrame, after: pd.DataFrame) -> tuple[int, str, Any, Any] | None:
    """Row, column and both values of the first number that changed; added columns are none."""
    if before.equals(after):
        return None
    for name in before.columns:
        if name not in after.columns or len(after) != len(before):
            continue  # it was moved into the index, or rows were dropped: of a copy
        old, new = before[name].to_numpy(), after[name].to_numpy()
        differs = ~((old == new) | (pd.isna(old) & pd.isna(new)))
        if differs.any():
            row = int(np.argmax(differs))
            return row, str(name), old[row], new[row]
    return None


def _said(row: Mapping[str, Any]) -> dict[str, float]:
    """A forecast's numbers without those that it leaves open."""
    return {name: row[name] for name in FORECAST_NAMES if name in row and not np.isnan(row[name])}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two forecasts say the same, but for rounding."""
    one, other = _said(one), _said(other)
    return one.keys() == other.keys() and all(
        math.isclose(one[name], other[name], rel_tol=TOLERANCE["removed"]) for name in one
    )


def _duration(seconds: float) -> str:
    """A time as people read it.

    Example:
        >>> _duration(2.5), _duration(0.0123), _duration(4e-6)
        ('2.5 s', '12.3 ms', '4 µs')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
