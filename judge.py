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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TextIO

import pandas as pd

from config import SourceConfig
from feature_engineering import V2_CANDLE_FEATURES, V2_WARMUP, compute_features
from pipeline import options, terminal
from pipeline.bundle import files
from pipeline.candles.columns import PAIRS, plain_name
from pipeline.candles.finer import prices_between
from pipeline.candles.pairs import pair_of
from pipeline.candles.schema import canonical_timeframe, instant_ms
from pipeline.forecasts.baselines import BASELINE_NAMES, KNOWN_BASELINES
from pipeline.forecasts.conventions import UNITS, Conventions, Stamped, Unit
from pipeline.forecasts.foreign import ForeignForecasts, open_questions, read_forecasts
from pipeline.forecasts.foreign_candles import gather_candles, pair_questions
from pipeline.forecasts.reference import Reference, fit_reference
from pipeline.forecasts.user_model import UserModel, as_model, is_model
from pipeline.forecasts.walk import ForecastLooksAheadError, Walk, walk
from pipeline.report.judgement import METRICS, Judgement

LOOKS_AHEAD = 3
"""Exit status where a model looks ahead"""


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
    columns: tuple[str, ...] = field(default=(), metadata={"metavar": "NAME=WHAT [NAME=WHAT ...]"})
    """what a column is, where its name does not tell, such as "Date and time=time": time, symbol,
    forecast, forecast_return, forecast_price, direction, position, p_up, q10, q50, q90, cutoff,
    made (when a row was made), horizon, actual, model or nothing. Several columns of forecasts are
    several models"""
    path: int | None = None
    """of predicted candles that stand at what they forecast: rows of a path that were made at
    once, one path after another; 1 where each row was made by itself"""
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
    columns: Mapping[str, str] = {},
    path: int | None = None,
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
        columns: What a column is, where its name does not tell; see `Judge`, as is path.
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
    said = Conventions(stamped, symbol, timezone, unit, level, pairs, columns, path)
    models, read = _sort_out(forecasts, said)
    terminal.tell_wrapped(*(foreign.line for foreign in read))

    # Candles: of the pairs that are forecast, with those before, which the baselines learn from.
    folder = Path(candles) if isinstance(candles, (str, os.PathLike)) else None
    source = SourceConfig(
        source="auto" if folder else "exchange",
        candles_dir=folder,
        exchange=exchange,
        base_url=base_url,
        timezone=timezone,
        cache_dir=None,
    )
    unsaid = None if is_told else timeframe
    asked = [question for foreign in read for question in open_questions(foreign, unsaid)]
    asked += pair_questions(candles, read, source)
    if asked:
        raise ValueError(". Also: ".join(asked))
    named = [*symbols, *([symbol] if symbol else [])]
    market = gather_candles(candles, read, timeframe, source, symbols=named, n_candles=n_candles)

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
        terminal.tell_wrapped(*walked.lines())
        known = Conventions(stamped="known", unit=unit)
        read += read_forecasts(walked.forecasts, known, name=name or walked.model)
        walks.append(walked)

    # scikit-learn and statsmodels take their time, so bad options do not wait for them
    from pipeline.evaluation import judging, matching

    # Match: (n,) forecasts beside what came true of each.
    read = matching.named_apart(read)
    targets = matching.make_targets(market, horizon)
    names = [foreign.name for foreign in read]
    matched = [matching.match(foreign, market, targets, symbol) for foreign in read]
    matched = [judging.without_strays(one) for one in matched]
    del read, targets  # of half a million forecasts each takes 50 MB

    # Baselines: fitted once, on candles before the first forecast; those of a run come with it.
    reference = Reference(pd.DataFrame(), ("naive",))
    if without := [one for one in matched if not one.baselines]:
        first_ms, last_ms = judging.first_and_last_ms(without)
        reference = fit_reference(
            market,
            lambda frame: compute_features(frame, timeframe, V2_CANDLE_FEATURES),
            V2_WARMUP,
            horizon,
            first_ms,
            last_ms,
            baselines,
            has_quantiles=any("q10" in one.predictions for one in without),
        )

    # Score: as a training run scores its test part, with what a referee doubts.
    between = prices_between(market, source) if folder else {}
    published_ms = instant_ms(published, "published")
    rules = judging.Rules(horizon, fee_bps, published_ms, tried, between, rule)
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


def _sort_out(
    forecasts: Any, said: Conventions
) -> tuple[list[tuple[str | None, UserModel]], list[ForeignForecasts]]:
    """The models to be walked, each with its name, and the forecasts that are read already."""
    if isinstance(forecasts, (Mapping, list, tuple)) and len(forecasts) == 0:
        raise ValueError("nothing to judge; pass a frame, a file's path or a function of candles")
    forecasts = _of_pairs(forecasts)
    each: list[tuple[str | None, Any]] = [(None, forecasts)]
    if isinstance(forecasts, Mapping) and any(map(_is_whole, forecasts.values())):
        each = [(str(name), what) for name, what in forecasts.items()]
    elif isinstance(forecasts, (list, tuple)) and all(map(_is_whole, forecasts)):
        each = list(zip(_folders_of(forecasts), forecasts))
    models = [(name, as_model(what)) for name, what in each if is_model(what)]
    read = [
        foreign
        for name, what in each
        if not is_model(what)
        for foreign in read_forecasts(what, said, name=name)
    ]
    return models, read


def _folders_of(files: Sequence[Any]) -> list[str | None]:
    """Of each file that is called as another one its folder's name, by which people know it."""
    paths = [Path(what) if isinstance(what, (str, os.PathLike)) else None for what in files]
    names = [path.name if path else None for path in paths]
    return [path.parent.name if path and names.count(path.name) > 1 else None for path in paths]


def _of_pairs(forecasts: Any) -> Any:
    """One frame of forecasts, where they are pair -> frame and no row names a pair."""
    if not isinstance(forecasts, Mapping) or not all(
        isinstance(frame, pd.DataFrame) and pair_of(str(name)) for name, frame in forecasts.items()
    ):
        return forecasts
    rows = [
        frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()
        for frame in forecasts.values()
    ]
    if any(plain_name(column) in PAIRS for frame in rows for column in frame.columns):
        return forecasts
    named = [frame.assign(symbol=name) for name, frame in zip(forecasts, rows)]
    return pd.concat(named, ignore_index=True)


def _is_whole(what: object) -> bool:
    """Whether this is all of a model's forecasts, or the model, and no row or column of them."""
    return isinstance(what, (pd.DataFrame, str, os.PathLike)) or is_model(what)


def _renamed(given: Sequence[str], option: str, form: str) -> dict[str, str]:
    """Name -> what it is, of an option that says so."""
    if wrong := [one for one in given if "=" not in one]:
        raise ValueError(f"{option} has {wrong[0]!r}; write {form}")
    return dict(one.rsplit("=", 1) for one in given)


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
        pairs=_renamed(settings.pairs, "--pairs", "NAME=PAIR, such as BTC=BTC/USDT"),
        columns=_renamed(settings.columns, "--columns", "NAME=WHAT, such as close=forecast_price"),
        path=settings.path,
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
            from pipeline.report.reading import summary

            for name, metrics in done.metrics.items():
                doubts = [one["name"] for one in metrics["suspicions"]]
                verdict = {"verdict": metrics["verdict"], "suspicions": doubts}
                line = {"model": name, **summary(metrics["test"]), **verdict}
                print(json_format.dumps(line), file=json_out, flush=True)
