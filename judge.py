"""Judge any forecasts, of any model: are they better than what costs nothing?

    python judge.py --forecasts FILE --candles-dir DIR
    python judge.py --forecasts ONE.csv OTHER.parquet --exchange binance --timeframe 1h --horizon 1
    python judge.py --model my_model:forecast --candles-dir DIR

FILE is CSV, Parquet, JSON or Feather: a pair, a time, and any of forecast_return (log-return),
forecast_price, direction (-1, 0, 1), p_up, q10 q50 q90. Frames of statsforecast, neuralforecast and
Kronos, signals of a backtest, and predictions_v2.parquet are read as they are (docs/judge.md).

A model is a function of your own, candles -> forecast. It is walked forward, and it is proved that
it does not look ahead (docs/adapters.md); one that does gets the proof and no verdict.

The verdict is that of a training run: BEATS, TIES or LOSES against naive, drift, reversal, LAD,
ridge and XGBoost on the same candles and instants, with a test. What a referee would doubt is said.
"""

from __future__ import annotations

import datetime
import json as json_format
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import pandas as pd

from config import SourceConfig
from pipeline import options, terminal
from pipeline.bundle import files
from pipeline.candles import folders, formats
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.fetching import fetch_candles
from pipeline.candles.finer import prices_between
from pipeline.candles.pairs import pair_of
from pipeline.candles.schema import canonical_timeframe, instant_ms, timeframe_ms, timestamps_ms
from pipeline.forecasts.baselines import BASELINE_NAMES, KNOWN_BASELINES
from pipeline.forecasts.foreign import (
    UNITS,
    ForeignForecasts,
    Stamped,
    Unit,
    demand_spacing,
    read_forecasts,
)
from pipeline.forecasts.reference import HISTORY, Compute, Reference, fit_reference
from pipeline.forecasts.user_model import UserModel, as_model, is_model
from pipeline.forecasts.walk import ForecastLooksAheadError, Walk, walk

WALKED = 10_000
"""Candles that an exchange is asked for, where a model is walked and nothing else tells"""
LOOKS_AHEAD = 3
"""Exit status where a model looks ahead"""
METRICS, PREDICTIONS, PAGE = "metrics.json", "predictions.parquet", "judged.html"
"""What the folder of a judged model holds"""


@dataclass(frozen=True)
class Judge:
    """What is judged, by which candles, and how."""

    forecasts: tuple[Path, ...] = field(default=(), metadata={"metavar": "FILE [FILE ...]"})
    """files of forecasts; several models, in one file or more, are compared with each other too"""
    model: tuple[str, ...] = field(
        default=(), metadata={"metavar": "MODULE:FUNCTION [MODULE:FUNCTION ...]"}
    )
    """functions of your own, candles -> forecast, or classes with fit and predict, in the current
    folder; each is walked forward, proved not to look ahead, timed and judged"""
    symbols: tuple[str, ...] = ()
    """pairs that a --model forecasts; default: those of the files, else all of --candles-dir"""
    candles: int | None = None
    """last candles of each pair that a --model is walked over; default: all of --candles-dir,
    10,000 of an exchange"""
    since: str | None = None
    """a --model's first forecast is made at this instant, UTC; default: after 70 % of the
    candles"""
    every: int = 1
    """a --model forecasts at every so many-th candle, for slow ones"""
    refit_every: int | None = None
    """a --model with fit learns again after so many candles; default: once, before the first
    forecast"""
    history: int | None = None
    """candles that a --model is given at most; default: all up to its own"""
    candles_dir: Path | None = None
    """folder of candles, such as BTCUSDT_1h.parquet or .csv, with some 10,000 before the first
    forecast for the baselines to learn from; finer candles (1m, 5m, 15m) show what a late entry
    costs"""
    exchange: str | None = None
    """without --candles-dir: ccxt id of the exchange; default: binance, then the others that can be
    reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    timeframe: str | None = None
    """length of a candle; default: 1h, asked for where forecasts are further apart"""
    horizon: int | None = None
    """candles that a forecast spans: what is forecast is ln(close[t + horizon] / close[t]);
    default: 1, asked for where forecasts are further apart"""
    stamped: Literal["known", "close", "target"] | None = field(
        default=None, metadata={"metavar": "{known,close,target}"}
    )
    """what the time of a forecast is: known, the open of the last candle that it knew; close, when
    that candle closed; target, the open of the candle that is forecast. Asked for where nothing
    tells"""
    symbol: str | None = None
    """pair, where the rows do not tell"""
    pairs: tuple[str, ...] = field(default=(), metadata={"metavar": "NAME=PAIR [NAME=PAIR ...]"})
    """pairs of the names in the files that are none, such as BTC=BTC/USDT"""
    unit: Unit | None = field(default=None, metadata={"metavar": "{" + ",".join(UNITS) + "}"})
    """what the forecasts are, where their column does not tell. Of a direction 0 and 1 are down and
    up; of a position 0 is none. Asked for where the numbers are in doubt"""
    level: float | None = None
    """percent of the outcomes that shall lie between Prophet's yhat_lower and yhat_upper; 80 are
    judged"""
    timezone: str | None = None
    """zone of times that name none, such as Europe/Berlin; default: UTC"""
    baselines: tuple[str, ...] = BASELINE_NAMES
    """what is compared: naive always; drift, reversal, lad, ridge, xgboost and lightgbm are fitted
    on the candles before the first forecast, which takes some seconds"""
    fee_bps: float = 5.0
    """of the backtest: fee of a trade, in basis points a side"""
    published: str | None = None
    """day on which the forecasts, or their model, became public; what is older is judged apart"""
    tried: int = 1
    """models that were tried before this one was shown; corrects the p-values"""
    rule: str = field(default="", metadata={"metavar": "TEXT"})
    """the rule, set before, by which forecasts are left out or zero, such as "08:00 to 19:00" """
    out: Path = Path("judged")
    """folder of metrics.json, the report page judged.html and predictions.parquet"""
    json: bool = False
    """for programs: a line of JSON for each model on stdout, all else on stderr"""
    verbose: bool = False
    """also say why each source of candles was left"""


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is to be said of forecasts."""

    metrics: dict[str, dict[str, Any]]
    """model -> `judging.judge_one`"""
    predictions: dict[str, pd.DataFrame]
    """model -> its forecasts and the baselines', a row an instant"""
    rivals: dict[str, Any] | None
    """several models on the instants that they share (`judging.compare_rivals`)"""

    @property
    def verdicts(self) -> dict[str, str]:
        """Model -> EDGE, NO EDGE or IN DOUBT; NO CLAIM of synthetic candles."""
        return {name: of["verdict"] for name, of in self.metrics.items()}

    @property
    def text(self) -> str:
        """Tables, suspicions and verdicts, as the command prints them."""
        from pipeline.report.judge_text import judged_text, rivals_text

        told = [judged_text(metrics) for metrics in self.metrics.values()]
        return "\n".join([*told, *([rivals_text(self.rivals)] if self.rivals else [])])

    def page(self, name: str | None = None) -> str:
        """The report of a model, of the first one by default, as HTML."""
        from pipeline.report.judge_page import judged_page

        name = name or next(iter(self.metrics))
        return judged_page(self.metrics[name], self.predictions[name], self.rivals)

    def _repr_html_(self) -> str:
        from pipeline.report.page import in_notebook

        return str(in_notebook(self.page()).data)

    def write(self, folder: Path) -> dict[str, Path]:
        """Write numbers, forecasts and page; of several models each into a folder of its own.

        Returns:
            Model -> its page.
        """
        pages = {}
        for name, metrics in self.metrics.items():
            own = folder if len(self.metrics) == 1 else folder / safe_name(name)
            own.mkdir(parents=True, exist_ok=True)
            files.write_json(own / METRICS, metrics | {"rivals": self.rivals})
            self.predictions[name].to_parquet(own / PREDICTIONS, index=False)
            pages[name] = own / PAGE
            pages[name].write_text(self.page(name), encoding="utf-8")
        return pages


def judge(
    forecasts: Any,
    candles: Any = None,
    *,
    timeframe: str | None = None,
    horizon: int | None = None,
    stamped: Stamped | None = None,
    symbol: str | None = None,
    timezone: str | None = None,
    unit: Unit | None = None,
    level: float | None = None,
    pairs: Mapping[str, str] = {},
    baselines: Sequence[str] = BASELINE_NAMES,
    fee_bps: float = 5.0,
    published: str | None = None,
    tried: int = 1,
    rule: str = "",
    exchange: str | None = None,
    base_url: str | None = None,
    symbols: Sequence[str] = (),
    n_candles: int | None = None,
    since: str | float | datetime.datetime | None = None,
    every: int = 1,
    refit_every: int | None = None,
    history: int | None = None,
) -> Judgement:
    """Judge forecasts.

        from judge import judge
        judge(my_forecasts, "candles/binance")
        judge(my_function, "candles/binance", symbols=["BTC/USDT"])

    Args:
        forecasts: A frame or the path of a file; a function of candles or another model
            (`user_model.as_model`), to be walked forward; a list of them, or name -> one of them,
            of several models.
        candles: Folder of candles; pair -> frame of candles; or one frame, of one pair. None asks
            the exchange.
        timeframe: Length of a candle; None for 1h.
        horizon: Candles that a forecast spans; None for 1. Where neither is passed and the rows of
            a file are further apart, it asks.
        stamped: What the time of a forecast is; see `Judge`, as are the others.
        symbol: The pair, where the rows do not tell.
        timezone: Zone of times that name none; None for UTC.
        unit: What the forecasts are, where their column does not tell; see `Judge`, as is level.
        pairs: Pair of each name in the rows that is none itself, such as BTC.
        baselines: Names of the baselines.
        fee_bps: Fee of a trade in basis points, a side.
        published: Day on which the forecasts became public.
        tried: Models that were tried before this one was shown.
        rule: The rule, set before, by which forecasts are left out or zero.
        exchange: See `SourceConfig`, as is base_url.
        symbols: Of a function: pairs that it forecasts; default: those of the other forecasts,
            else all.
        n_candles: Last candles of each pair that are looked at; None for all.
        since: Of a function: see `walk`, as are every, refit_every and history.

    Raises:
        ForecastLooksAheadError: A function looks ahead; it has the proof.
        ValueError: It is not sure what the forecasts are, the candles are unsound or of another
            time, or nothing can be judged; the text says what to do.
    """
    is_told = timeframe is not None or horizon is not None
    timeframe, horizon = canonical_timeframe(timeframe or "1h"), 1 if horizon is None else horizon
    if horizon < 1 or tried < 1:
        raise ValueError(f"horizon is {horizon} and tried {tried}; each is at least 1")
    if unknown := [name for name in baselines if name not in KNOWN_BASELINES]:
        raise ValueError(
            f"unknown baselines {', '.join(unknown)}; there are {', '.join(KNOWN_BASELINES)}"
        )

    # Read: one record a model, with what is sure of its rows.
    read: list[ForeignForecasts] = []
    models: list[tuple[str | None, UserModel]] = []
    how: dict[str, Any] = {"timezone": timezone, "unit": unit, "level": level, "pairs": pairs}
    for name, what in _each(forecasts):
        if is_model(what):
            models.append((name, as_model(what)))
            continue
        read += read_forecasts(what, name=name, stamped=stamped, symbol=symbol, **how)
    terminal.tell(*(foreign.line for foreign in read))
    if not is_told:
        for foreign in read:
            demand_spacing(foreign, timeframe)

    # Candles: of the pairs that are forecast, with those before, which the baselines learn from.
    source = _source(candles, exchange, base_url, timezone)
    _demand_pairs(read, candles, source)
    wanted = _pairs(read, symbols, symbol)
    market = _candles(candles, read, timeframe, wanted, source, n_candles)

    # Walk: a model's forecasts are made here, each from candles that it could know.
    walks: list[Walk | None] = [None] * len(read)
    some_fit = any(model.can_fit for _, model in models)
    for name, model in models:
        walked = walk(
            model,
            market.candles,
            timeframe,
            horizon=horizon,
            since=since,
            every=every,
            refit_every=refit_every if model.can_fit or not some_fit else None,
            history=history,
        )
        terminal.tell(*walked.lines())
        read += read_forecasts(
            walked.forecasts, name=name or walked.model, stamped="known", unit=unit
        )
        walks.append(walked)
    read = _named_apart(read)

    # scikit-learn and statsmodels take their time, so bad options do not wait for them
    from pipeline.evaluation import judging, matching

    # Match: (n,) forecasts beside what came true of each.
    targets = matching.make_targets(market, horizon)
    names = [foreign.name for foreign in read]
    matched = [matching.match(foreign, market, targets, symbol) for foreign in read]
    matched = [judging.without_strays(one) for one in matched]
    del read, targets  # of half a million forecasts each takes 50 MB

    # Baselines: fitted once, on candles before the first forecast; those of a run come with it.
    reference = Reference(pd.DataFrame(), ("naive",))
    without = [one for one in matched if not one.baselines]
    if without:
        first_ms, last_ms = judging.first_and_last_ms(without)
        has_quantiles = any("q10" in one.predictions for one in without)
        compute, warmup = _features(timeframe)
        reference = fit_reference(
            market,
            compute,
            warmup,
            horizon,
            first_ms,
            last_ms,
            baselines,
            has_quantiles=has_quantiles,
        )

    # Score: as a training run scores its test part, with what a referee doubts.
    between = prices_between(market, source) if source.candles_dir else {}
    rules = judging.Rules(
        horizon, fee_bps, instant_ms(published, "published"), tried, between, rule
    )
    metrics, predictions, rivals = {}, {}, []
    for name, one, walked_one in zip(names, matched, walks):
        metrics[name], predictions[name] = judging.judge_one(
            one, reference, market, rules, is_walked=walked_one is not None
        )
        if walked_one is not None:
            metrics[name]["walk"] = walked_one.as_dict()
            metrics[name]["notes"] += walked_one.notes
        if len(matched) > 1 and tried < len(matched):
            metrics[name]["notes"].append(
                f"{len(matched)} models are judged here; whoever shows the best one of them passes "
                f"--tried {len(matched)}"
            )
        compared = [model for model in metrics[name]["test"]["models"] if model != one.name]
        rivals.append(judging.Rival(name, one, predictions[name], compared))
    together = judging.compare_rivals(rivals, horizon) if len(rivals) > 1 else None
    return Judgement(metrics, predictions, together)


def _each(forecasts: Any) -> list[tuple[str | None, Any]]:
    """Name and content of each model's forecasts."""
    if isinstance(forecasts, Mapping) and any(map(_is_whole, forecasts.values())):
        return [(str(name), what) for name, what in forecasts.items()]
    if isinstance(forecasts, (list, tuple)) and all(map(_is_whole, forecasts)):
        return [(None, what) for what in forecasts]
    return [(None, forecasts)]


def _is_whole(what: object) -> bool:
    """Whether this is all of a model's forecasts, or the model, and no row or column of them."""
    return isinstance(what, (pd.DataFrame, str, os.PathLike)) or is_model(what)


def _named_apart(read: Sequence[ForeignForecasts]) -> list[ForeignForecasts]:
    """The same, of which no two are called alike, nor as a column that is ours."""
    taken = set(RESERVED)
    named = []
    for one in read:
        name, number = one.name, 1
        while name in taken and not one.is_run:
            number += 1
            name = f"{one.name} {number}"
        taken.add(name)
        named.append(replace(one, name=name))
    return named


RESERVED = frozenset(
    (
        *("symbol", "timestamp", "base_price", "current_return", "actual_return", "volatility"),
        *("p_up", "q10", "q50", "q90", *KNOWN_BASELINES),
    )
)
"""Columns of a frame of predictions, which no model is called"""


def safe_name(name: str) -> str:
    """A model's name as that of a folder."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _source(
    candles: Any, exchange: str | None, base_url: str | None, timezone: str | None
) -> SourceConfig:
    folder = Path(candles) if isinstance(candles, (str, os.PathLike)) else None
    return SourceConfig(
        source="auto" if folder else "exchange",
        candles_dir=folder,
        exchange=exchange,
        base_url=base_url,
        timezone=timezone,
        cache_dir=None,
    )


def _candles(
    candles: Any,
    read: Sequence[ForeignForecasts],
    timeframe: str,
    pairs: list[str],
    source: SourceConfig,
    n_candles: int | None,
) -> CandleSet:
    """Candles of the pairs that are forecast, the last so many of each."""
    market = _all_candles(candles, read, timeframe, pairs, source, n_candles or WALKED)
    if n_candles is None:
        return market
    last = {
        pair: frame.tail(n_candles).reset_index(drop=True) for pair, frame in market.candles.items()
    }
    return replace(market, candles=last)


def _renamed(given: Sequence[str]) -> dict[str, str]:
    """Name -> pair, of --pairs."""
    if wrong := [one for one in given if "=" not in one]:
        raise ValueError(f"--pairs has {wrong[0]!r}; write NAME=PAIR, such as BTC=BTC/USDT")
    return dict(one.split("=", 1) for one in given)


def _demand_pairs(read: Sequence[ForeignForecasts], candles: Any, source: SourceConfig) -> None:
    """Raise on a name in the rows that is neither a pair nor what candles are called."""
    there: list[str] = []
    if source.candles_dir is not None:
        there = [one.symbol for one in folders.list_series(source.candles_dir)]
    elif isinstance(candles, CandleSet):
        there = list(candles.candles)
    elif isinstance(candles, Mapping) and "close" not in candles:
        there = list(candles)
    elif candles is not None:
        return  # one frame is of the one name that there is
    for one in read:
        names = [name for name in one.frame["symbol"].unique() if name and name not in there]
        if wrong := [name for name in names if pair_of(name) is None][:5]:
            of = f"; the candles are of {', '.join(dict.fromkeys(there))}" if there else ""
            remedy = " ".join(f"{name}=PAIR" for name in wrong)
            raise ValueError(
                f"{one.name}: {', '.join(map(repr, wrong))} in column {one.symbol_column!r} is no "
                f"pair{of}; which is it? pass --pairs {remedy}, PAIR being such as BTC/USDT"
            )


def _pairs(
    read: Sequence[ForeignForecasts], symbols: Sequence[str], symbol: str | None
) -> list[str]:
    """The pairs that are forecast, as far as anything tells them."""
    named = [pair for one in read for pair in one.frame["symbol"].unique() if pair]
    asked = [pair_of(pair) or pair for pair in (*symbols, *([symbol] if symbol else []))]
    return list(dict.fromkeys(named)) or asked


def _all_candles(
    candles: Any,
    read: Sequence[ForeignForecasts],
    timeframe: str,
    pairs: list[str],
    source: SourceConfig,
    n_candles: int,
) -> CandleSet:
    """Candles of the pairs: as they lie there, or as many as an exchange is asked for."""
    if candles is not None and source.candles_dir is None:
        return _from_memory(candles, timeframe, pairs)
    if source.candles_dir is not None:
        if not pairs:
            pairs = [
                one.symbol
                for one in folders.list_series(source.candles_dir)
                if one.kind == timeframe
            ]
        there = folders.symbols_in(source.candles_dir, pairs, timeframe)
        return fetch_candles(there or pairs, timeframe, source=source)
    if not pairs:
        raise ValueError("nothing names a pair; pass --symbols, such as BTC/USDT")
    if not read:
        return fetch_candles(pairs, timeframe, n_candles, source)
    first_ms = min(int(timestamps_ms(one.frame).min()) for one in read)
    since_ms = first_ms - (HISTORY + 1000) * timeframe_ms(timeframe)
    return fetch_candles(pairs, timeframe, source=source, since_ms=since_ms)


def _from_memory(candles: Any, timeframe: str, pairs: Sequence[str]) -> CandleSet:
    """Candles that a notebook holds: pair -> frame, or one frame."""
    if isinstance(candles, CandleSet):
        chosen = {pair: frame for pair, frame in candles.candles.items() if pair in pairs}
        return replace(candles, candles=chosen or candles.candles)
    if not isinstance(candles, Mapping) or "close" in candles:
        if len(pairs) > 1:
            raise ValueError(
                f"one frame of candles for forecasts of {', '.join(pairs)}; pass pair -> frame"
            )
        name = pairs[0] if pairs else getattr(candles, "attrs", {}).get("symbol") or "candles"
        candles = {name: candles}
    frames = {
        pair: formats.load(frame, timeframe, where=pair)
        for pair, frame in candles.items()
        if not pairs or pair in pairs
    }
    for pair, frame in frames.items():
        frame.attrs = {**getattr(candles[pair], "attrs", {}), **frame.attrs, "symbol": pair}
    if not frames:
        raise ValueError(
            f"no candles of {', '.join(pairs)} among {', '.join(map(str, candles))}; pass them"
        )
    return CandleSet(frames, timeframe, "memory", "frames")


def _features(timeframe: str) -> tuple[Compute, int]:
    """What LAD, ridge and the trees see, and the warm-up that it takes."""
    from feature_engineering import V2_CANDLE_FEATURES, V2_WARMUP, compute_features

    return lambda frame: compute_features(frame, timeframe, V2_CANDLE_FEATURES), V2_WARMUP


def refuse(leak: ForecastLooksAheadError, folder: Path, json_out: TextIO | None) -> int:
    """Say and write that there is no verdict, but the proof; the exit status."""
    proof = {"model": leak.model, "verdict": None, "looks_ahead": leak.as_dict()}
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / METRICS, proof)
    print("", "NO VERDICT  the model looks ahead", *textwrap.wrap(str(leak), 100), sep="\n")
    if json_out is not None:
        print(json_format.dumps(proof), file=json_out, flush=True)
    return LOOKS_AHEAD


def main(settings: Judge) -> Judgement:
    """Judge what the command line names, print it, and write the folder."""
    if not settings.forecasts and not settings.model:
        raise ValueError("nothing to judge; pass --forecasts FILE or --model module:function")
    judgement = judge(
        [*settings.forecasts, *map(as_model, settings.model)],
        settings.candles_dir,
        timeframe=settings.timeframe,
        horizon=settings.horizon,
        stamped=settings.stamped,
        symbol=settings.symbol,
        timezone=settings.timezone,
        unit=settings.unit,
        level=settings.level,
        pairs=_renamed(settings.pairs),
        baselines=settings.baselines,
        fee_bps=settings.fee_bps,
        published=settings.published,
        tried=settings.tried,
        rule=settings.rule,
        exchange=settings.exchange,
        base_url=settings.base_url,
        symbols=settings.symbols,
        n_candles=settings.candles,
        since=settings.since,
        every=settings.every,
        refit_every=settings.refit_every,
        history=settings.history,
    )
    print(judgement.text)
    pages = judgement.write(settings.out)
    terminal.tell_next({f"report of {name}": str(path) for name, path in pages.items()})
    return judgement


if __name__ == "__main__":
    with terminal.one_line_errors():
        given = options.read_options(Judge, __doc__)
        with terminal.only_json(given.json) as json_out, terminal.notices(given.verbose):
            try:
                done = main(given)
            except ForecastLooksAheadError as error:
                raise SystemExit(refuse(error, given.out, json_out)) from None
        if json_out is not None:
            from pipeline.report.tables import summary

            for name, metrics in done.metrics.items():
                doubts = [one["name"] for one in metrics["suspicions"]]
                verdict = {"verdict": metrics["verdict"], "suspicions": doubts}
                line = {"model": name, **summary(metrics["test"]), **verdict}
                print(json_format.dumps(line), file=json_out, flush=True)
