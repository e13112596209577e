"""Money: what trading on the forecasts would have earned. A summary, not a promise.

The rules. The position is the sign of the forecast where |forecast| / volatility exceeds a
threshold, else flat. It is taken at the close of candle t for 1 / n_symbols of the capital, and
held to the close of candle t + horizon; it runs on without a trade where the next forecast says the
same. Where a symbol has no next sample (a gap, or the end) it is closed, and opened anew later.

With a horizon of h candles, only the forecasts of every h-th candle from the first instant on are
used, the same ones for all symbols. The alternative, h overlapping portfolios, needs the return of
each candle, which the frame of predictions does not hold, and its returns overlap, so that neither
the Sharpe ratio nor its interval would stand.

The net return of an instant is the mean over symbols of position * (e^actual_return - 1) - funding
- fees. A fee is paid on each change of position, at an entry from flat and at the last exit too. A
long pays the funding rate of each settlement with entry < settlement <= exit, a short receives it;
settlements are taken down to the minute, and the notional is that of the entry. Instants compound,
from capital brought back to equal shares. The break-even fee adds them up instead, which makes it
exact: 10^4 * (price_pnl - funding_paid) / turnover. At a loss of everything the account ends.

Left out: spreads, slippage, margin calls, and the fees of bringing shares back to equal, which
trade a part of each return (always long in 19 coins, hourly, in 2024: 0.36 % of the capital an
hour, 1.6 % a year in fees of 5 bps).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.bundle import files
from pipeline.candles.schema import (
    DAY_MS,
    MAX_AGE_IN_INTERVALS,
    check_published,
    timestamps_ms,
    utc_from_ms,
)
from pipeline.evaluation.metrics import check_predictions
from pipeline.evaluation.significance import MIN_INSTANTS, is_constant, ratio_half_width
from pipeline.forecasts.signals import demand_fee, positions

YEAR_MS = 365 * DAY_MS  # crypto trades around the clock: 8,760 hours a year
MIN_DAYS_TO_ANNUALISE = 30  # a fortnight's return to the power of 26 says nothing about a year
MOST_DRAWN, LEAST_DRAWS = 50_000_000, 1_000
"""Numbers and resamples that the interval of the Sharpe ratio is drawn from, beyond 10,000
instants. There 2,000 resamples place its ends to about 2 % of its width (a standard deviation)."""
SETTLEMENT_ROUNDING_MS = 60_000  # exchanges stamp the settlement of 08:00 with 08:00:00.007


@dataclass(frozen=True)
class Performance:
    """Numbers of one account; returns and drawdown are fractions, 0.1 is ten percent."""

    total_return: float
    annualised_return: float | None
    """compound; None for less than 30 days"""
    sharpe: float | None
    """annualised, without a risk-free rate; None where the returns do not vary"""
    max_drawdown: float
    """largest fall from an earlier peak, as a positive fraction of it; 1 is ruin"""


@dataclass(frozen=True, eq=False)
class Backtest:
    """Result of `backtest`; shares are of the capital, an instant spans `horizon` candles."""

    net: Performance
    """after fees and funding"""
    gross: Performance
    """the same without fees; after funding"""
    buy_and_hold: Performance
    """equal shares bought at the start and sold at the end, at the same fee, without funding"""
    sharpe_low: float | None
    sharpe_high: float | None
    """95 % interval of the net Sharpe ratio by the stationary bootstrap"""
    win_rate: float | None
    """share of the instants with a position whose net return is positive"""
    break_even_fee_bps: float | None
    """fee at which the net returns sum to 0; negative: it loses anyway; None without trades"""
    break_even_low: float | None
    break_even_high: float | None
    """its 95 % interval, that of a ratio of two means; None with too few instants to tell"""
    price_pnl: float
    """sum over instants of what the moves of prices earned"""
    funding_paid: float
    """sum of the funding; negative where more was received than paid"""
    fees_paid: float
    turnover_per_candle: float
    """share of the capital bought or sold; closing all and opening the opposite counts 2"""
    turnover_per_year: float
    n_trades: int
    """positions opened, each of which is also closed"""
    time_in_market: float
    """mean share of the capital that is in a position"""
    n_instants: int
    n_symbols: int
    fee_bps: float
    threshold: float
    horizon: int
    notes: tuple[str, ...]
    """what the numbers leave out or cannot bear, a sentence each"""
    equity: pd.DataFrame
    """timestamp (UTC), strategy, buy_and_hold: 1 at the first entry, then a row an instant's end"""

    def as_dict(self) -> dict[str, Any]:
        """All but the equity curve for JSON; None for what is undefined or not finite."""
        values = dict(vars(self))
        del values["equity"]
        accounts = {name: asdict(values[name]) for name in ("net", "gross", "buy_and_hold")}
        return files.plain(values | accounts)


@dataclass(frozen=True, eq=False)
class _Book:
    """Positions on the common grid of instants: (n_instants, n_symbols), 0 without a sample."""

    symbols: tuple[str, ...]
    edges_ms: np.ndarray
    """(n_instants + 1,) where instants begin and end"""
    position: np.ndarray
    """-1, 0 or 1"""
    move: np.ndarray
    """simple return of the price"""


def backtest(
    predictions: pd.DataFrame,
    model: str,
    *,
    timeframe_ms: int,
    horizon: int = 1,
    fee_bps: float = 5.0,
    threshold: float = 0.0,
    funding: Mapping[str, pd.DataFrame | None] | None = None,
    n_bootstrap: int = 5000,
) -> Backtest:
    """Trade the forecasts by the rules at the top of this module.

    Args:
        predictions: The frame described in `metrics`.
        model: Name of the forecast column.
        timeframe_ms: Length of a candle.
        horizon: Candles that a forecast spans.
        fee_bps: Fee in 1/100 % of what is bought or sold, a side.
        threshold: Size of a forecast, in units of `volatility`, up to which nothing is held.
        funding: For each symbol a frame of timestamp (settlement) and funding_rate, or None where
            there is none.
        n_bootstrap: Resamples for the interval of the Sharpe ratio, fewer beyond 10,000 instants;
            0 leaves it out.

    Raises:
        ValueError: As `check_predictions`; settings out of range; timestamps off the grid of the
            timeframe; a funding series that is not sound.

    Example:
        >>> hours = pd.date_range("2024-01-01", periods=3, freq="h", tz="UTC")
        >>> predictions = pd.DataFrame({
        ...     "symbol": "BTC/USDT", "timestamp": hours, "base_price": [100.0, 110.0, 99.0],
        ...     "actual_return": np.log([1.1, 0.9, 1.0]), "volatility": 0.01,
        ...     "lstm": [0.01, -0.01, 0.0]})
        >>> result = backtest(predictions, "lstm", timeframe_ms=3_600_000, fee_bps=0.0)
        >>> round(result.net.total_return, 6), result.n_trades  # + 10 % long, then short
        (0.21, 2)
    """
    _check_settings(timeframe_ms, horizon, fee_bps, threshold)
    check_predictions(predictions, [model])
    book = _open_book(predictions, model, timeframe_ms, horizon, threshold)
    rate, missing = _funding_rates(book, funding)
    flows = _flows(book, rate)
    fee, span_ms = fee_bps / 1e4, timeframe_ms * horizon
    gross = (flows["price"] - flows["funding"]).to_numpy()
    net = _until_ruin(gross - fee * flows["traded"].to_numpy())
    held = _buy_and_hold(book.move, fee)
    low, high = _sharpe_interval(net, span_ms, n_bootstrap)
    return Backtest(
        net=measure(net, span_ms),
        gross=measure(_until_ruin(gross), span_ms),
        buy_and_hold=measure(held, span_ms),
        sharpe_low=low,
        sharpe_high=high,
        **_trading_numbers(flows.iloc[: len(net)], net, fee, timeframe_ms, horizon),
        n_symbols=len(book.symbols),
        fee_bps=float(fee_bps),
        threshold=float(threshold),
        horizon=horizon,
        notes=(*missing, *_notes(book, net, span_ms, horizon)),
        equity=_equity_frame(book.edges_ms, net, held),
    )


@np.errstate(over="ignore", invalid="ignore")  # knowing the future may earn more than a float holds
def measure(returns: np.ndarray, span_ms: int) -> Performance:
    """Sum up an account's returns.

    Args:
        returns: (n,) simple returns of consecutive spans, at least -1; at least one.
        span_ms: Length of a span.

    Example:
        >>> measure(np.array([0.1, -0.5, 1.0]), 3_600_000).max_drawdown
        0.5
    """
    equity = _compound(returns)
    days = len(returns) * span_ms / DAY_MS
    annualised = float(equity[-1] ** (YEAR_MS / DAY_MS / days)) - 1
    return Performance(
        total_return=float(equity[-1]) - 1,
        annualised_return=annualised if days >= MIN_DAYS_TO_ANNUALISE else None,
        sharpe=sharpe_ratio(returns, span_ms),
        max_drawdown=float(drawdowns(equity).max()),
    )


@np.errstate(over="ignore", invalid="ignore")
def drawdowns(equity: np.ndarray) -> np.ndarray:
    """(n,) how far an account is below its earlier peak, as a positive fraction of it.

    Example:
        >>> drawdowns(np.array([1.0, 2.0, 1.0, 4.0])).tolist()
        [0.0, 0.0, 0.5, 0.0]
    """
    return 1 - equity / np.maximum.accumulate(equity)


def sharpe_ratio(returns: np.ndarray, span_ms: int) -> float | None:
    """Mean over standard deviation of (n,) returns, a year; None where they do not vary."""
    if len(returns) < 2 or is_constant(returns):
        return None
    spread = returns.std(ddof=1)
    if spread == 0:  # the squares of tiny returns underflow
        return None
    return float(returns.mean() / spread * np.sqrt(YEAR_MS / span_ms))


def _sharpe_interval(
    returns: np.ndarray, span_ms: int, n_bootstrap: int
) -> tuple[float | None, float | None]:
    """95 % percentile interval by the stationary bootstrap, in blocks of about n^(1/3) instants.

    Politis and Romano (1994), The Stationary Bootstrap, J. Am. Stat. Assoc. 89(428).
    """
    if n_bootstrap < 1 or len(returns) < MIN_INSTANTS or is_constant(returns):
        return None, None
    from arch.bootstrap import StationaryBootstrap  # takes a second to import

    def sharpe(sample: np.ndarray) -> float:
        value = sharpe_ratio(sample, span_ms)
        # None where the resample missed all of the few trades
        return 0.0 if value is None else value

    bootstrap = StationaryBootstrap(np.ceil(len(returns) ** (1 / 3)), returns, seed=0)
    n_draws = min(n_bootstrap, max(LEAST_DRAWS, MOST_DRAWN // len(returns)))
    low, high = np.quantile(bootstrap.apply(sharpe, n_draws), (0.025, 0.975))
    return float(low), float(high)


def _check_settings(timeframe_ms: int, horizon: int, fee_bps: float, threshold: float) -> None:
    if timeframe_ms < 1 or horizon < 1:
        raise ValueError(
            f"timeframe_ms is {timeframe_ms}, horizon {horizon}; a candle lasts at least 1 ms, a "
            "forecast spans at least 1 candle"
        )
    demand_fee(fee_bps)
    if not threshold >= 0:
        raise ValueError(
            f"threshold is {threshold}; pass 0 or more, in units of the candle's volatility"
        )


def _open_book(
    predictions: pd.DataFrame, model: str, timeframe_ms: int, horizon: int, threshold: float
) -> _Book:
    opens_ms = timestamps_ms(predictions)
    first_ms, span_ms = int(opens_ms.min()), timeframe_ms * horizon
    off_grid = np.flatnonzero((opens_ms - first_ms) % timeframe_ms)
    if len(off_grid):
        raise ValueError(
            f"{len(off_grid)} of {len(opens_ms)} timestamps of predictions lie between candles of "
            f"{timeframe_ms} ms, for example {predictions['timestamp'].iloc[off_grid[0]]}; pass "
            "the timeframe that was forecast"
        )
    codes, symbols = pd.factorize(predictions["symbol"], sort=True)
    instant, rest = np.divmod(opens_ms - first_ms, span_ms)
    used = rest == 0
    score = (predictions[model] / predictions["volatility"]).to_numpy(np.float64)[used]
    cell = instant[used], codes[used]
    n_instants = int(instant[used].max()) + 1
    position, move = np.zeros((2, n_instants, len(symbols)))
    position[cell] = positions(score, threshold)
    move[cell] = np.expm1(predictions["actual_return"].to_numpy(np.float64)[used])
    first_close_ms = first_ms + timeframe_ms  # candle t is known at its close
    edges_ms = first_close_ms + span_ms * np.arange(n_instants + 1)
    return _Book(tuple(map(str, symbols)), edges_ms, position, move)


def _trades(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is opened at the start and closed at the end of each instant, 0 or 1 a cell.

    A change of position at one moment is thus shared between the instant that ends and the one that
    begins: each position pays for its own entry and exit, and a flat instant pays nothing.
    """
    flat = np.zeros((1, position.shape[1]))
    changed = np.diff(np.concatenate([flat, position, flat]), axis=0) != 0
    size = np.abs(position)
    return size * changed[:-1], size * changed[1:]


def _flows(book: _Book, rate: np.ndarray) -> pd.DataFrame:
    """A row an instant: shares of the capital, and `opened`, the number of positions opened."""
    opened, closed = _trades(book.position)
    cells = {
        "price": book.position * book.move,
        "funding": book.position * rate,
        "traded": opened + closed,
        "invested": np.abs(book.position),
    }
    shares = {name: of.sum(axis=1) / len(book.symbols) for name, of in cells.items()}
    return pd.DataFrame({**shares, "opened": opened.sum(axis=1)})


def _trading_numbers(
    flows: pd.DataFrame, net: np.ndarray, fee: float, timeframe_ms: int, horizon: int
) -> dict[str, Any]:
    total = flows.sum()
    turnover = float(total["traded"])
    wins = net[flows["invested"].to_numpy() > 0] > 0
    turnover_per_candle = turnover / (len(net) * horizon)
    return {
        "win_rate": float(wins.mean()) if len(wins) else None,
        **_break_even(flows),
        "price_pnl": float(total["price"]),
        "funding_paid": float(total["funding"]),
        "fees_paid": fee * turnover,
        "turnover_per_candle": turnover_per_candle,
        "turnover_per_year": turnover_per_candle * YEAR_MS / timeframe_ms,
        "n_trades": int(total["opened"]),
        "time_in_market": float(flows["invested"].mean()),
        "n_instants": len(net),
    }


def _break_even(flows: pd.DataFrame) -> dict[str, float | None]:
    """The fee at which the net returns sum to 0, in bps a side, with its interval."""
    earned, traded = (flows["price"] - flows["funding"]).to_numpy(), flows["traded"].to_numpy()
    fee = low = high = None
    if traded.sum() > 0:
        ratio = float(earned.sum() / traded.sum())
        half = ratio_half_width(earned, traded, ratio)
        fee = 1e4 * ratio
        if half is not None:
            low, high = 1e4 * (ratio - half), 1e4 * (ratio + half)
    return {"break_even_fee_bps": fee, "break_even_low": low, "break_even_high": high}


def _funding_rates(
    book: _Book, funding: Mapping[str, pd.DataFrame | None] | None
) -> tuple[np.ndarray, list[str]]:
    """(n_instants, n_symbols) sum of the rates that settle in each instant, and what is missing."""
    rate = np.zeros_like(book.position)
    if funding is None:
        return rate, ["funding is not included"]
    missing, holes = [], []
    start, end = book.edges_ms[[0, -1]]
    for column, symbol in enumerate(book.symbols):
        series = funding.get(symbol)
        if series is None or len(series) == 0:
            missing.append(symbol)
            continue
        series = check_published(series, "funding_rate", f"funding of {symbol}")
        settled = timestamps_ms(series) // SETTLEMENT_ROUNDING_MS * SETTLEMENT_ROUNDING_MS
        total = np.concatenate([[0.0], np.cumsum(series["funding_rate"].to_numpy(np.float64))])
        # Strictly after the entry, up to and including the exit.
        rate[:, column] = np.diff(total[np.searchsorted(settled, book.edges_ms, side="right")])
        waits = np.diff([start, *settled[(settled > start) & (settled < end)], end])
        if len(settled) < 2 or waits.max() > MAX_AGE_IN_INTERVALS * np.median(np.diff(settled)):
            holes.append(symbol)
    notes = []
    if missing:
        notes.append(f"funding is not included for {', '.join(missing)}")
    if holes:
        notes.append(f"funding does not cover the whole test part for {', '.join(holes)}")
    return rate, notes


def _until_ruin(returns: np.ndarray) -> np.ndarray:
    """Returns up to the one that loses everything, which counts as -1: no exchange lends more."""
    ruin = np.flatnonzero(returns <= -1)
    return returns if len(ruin) == 0 else np.append(returns[: ruin[0]], -1.0)


@np.errstate(over="ignore", invalid="ignore")
def _buy_and_hold(move: np.ndarray, fee: float) -> np.ndarray:
    """(n_instants,) returns of equal shares, never rebalanced; a gap leaves a share as it is."""
    value = _compound(move).mean(axis=1)
    value[1:] *= 1 - fee
    value[-1] *= 1 - fee
    return value[1:] / value[:-1] - 1


@np.errstate(over="ignore", invalid="ignore")
def _compound(returns: np.ndarray) -> np.ndarray:
    """(n + 1, ...) values of what was 1 before the first of (n, ...) returns."""
    return np.concatenate([np.ones_like(returns[:1]), np.cumprod(1 + returns, axis=0)])


def _equity_frame(edges_ms: np.ndarray, net: np.ndarray, held: np.ndarray) -> pd.DataFrame:
    strategy = np.zeros(len(edges_ms))  # after ruin there is nothing left
    strategy[: len(net) + 1] = _compound(net)
    return pd.DataFrame(
        {"timestamp": utc_from_ms(edges_ms), "strategy": strategy, "buy_and_hold": _compound(held)}
    )


def _notes(book: _Book, net: np.ndarray, span_ms: int, horizon: int) -> list[str]:
    notes = []
    days = len(net) * span_ms / DAY_MS
    if net[-1] == -1:
        notes.append(
            f"ruin: everything is lost at {utc_from_ms(book.edges_ms)[len(net)]}, and trading ends "
            "there"
        )
    if not book.position.any():
        notes.append("no forecast exceeds the threshold: no position is ever taken")
    if not book.move.any():
        notes.append("no price moves in the whole test part")
    if len(book.symbols) == 1:
        notes.append("a single symbol: nothing is spread")
    if days < MIN_DAYS_TO_ANNUALISE:
        notes.append(
            f"{len(net)} instants span {days:.1f} days: too few for an annualised return, and a "
            "Sharpe ratio of them is mostly luck"
        )
    if horizon > 1:
        notes.append(
            f"one forecast in {horizon} is used, so that spans do not overlap; another start may "
            "tell another story"
        )
    return notes
