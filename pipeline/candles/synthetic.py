"""A synthetic market: seeded candles that look like crypto and hold no edge, unless one is planted.

It serves two ends: every script runs on a machine without network, and the pipeline has a control
whose truth is known. On the default market nothing can be forecast, so whoever finds an edge there
has a leak; with `signal_r2` > 0 a known share can be, so whoever misses it is blind.

The model of coin i, candle t (all factors are independent draws; S is symmetric around 0):

    log_return[i, t] = volatility[i, t] * S[i, t]
    S[i, t]          = b * M[t] + sqrt(1 - b^2) * E[i, t]     the market's part and the coin's own
    M, E             = AR(1), coefficient phi = sqrt(signal_r2), of Student-t draws; unit variance
    volatility[i, t] = coin's level * sqrt(hours) * season[t] * exp(log-AR(1) of market and coin)

The stochastic volatility is that of S. J. Taylor (1986), "Modelling Financial Time Series", chapter
3, with Student-t innovations; the volume rises with the same volatility (Clark 1973, "A
subordinated stochastic process model with finite variance for speculative prices", Econometrica
41).

Why it is a martingale at signal_r2 = 0: the signs of M[t + 1] and E[i, t + 1] are fair coins,
independent of everything up to t and of the volatility, volume and noise of every candle. Opens,
highs, lows, volumes, funding and open interest of candle t are built from draws of candles up to t
alone. Hence E[log_return[i, t + 1] | all that is known at the close of t, of all coins] = 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.candles.schema import timeframe_ms, utc_from_ms

HOUR_MS = 3_600_000
FUNDING_INTERVAL_MS = 8 * HOUR_MS
MARKET_LOADING = 0.84  # b above; two coins' scaled returns correlate by its square
DEGREES_OF_FREEDOM = 5.0  # of Student's t: the fewest whole number with a finite kurtosis
GAP_SHARE = 0.01  # an open's gap from the previous close, in units of the candle's volatility
OPEN_INTEREST_HOURS = 12.0  # open interest, in hours of average turnover

# Standard deviation and half-life in hours of the parts of one factor's log-volatility.
LOG_VOLATILITY_PARTS = ((0.25, 120.0), (0.27, 5.0))
LOG_VOLATILITY_VARIANCE = sum(deviation**2 for deviation, _ in LOG_VOLATILITY_PARTS)


@dataclass(frozen=True)
class Temper:
    """What tells one coin from another."""

    price: float
    """USD, before the first candle"""
    volatility: float
    """standard deviation of the hourly log-return"""
    turnover: float
    """USD traded in an average hour, at that price"""


# Rounded levels of 2024.
TEMPERS = {
    "BTC": Temper(60_000, 0.0050, 500e6),
    "ETH": Temper(3_000, 0.0056, 250e6),
    "SOL": Temper(150, 0.0100, 70e6),
    "XRP": Temper(0.5, 0.0070, 30e6),
    "ADA": Temper(0.4, 0.0080, 12e6),
    "DOGE": Temper(0.15, 0.0090, 30e6),
    "LINK": Temper(15, 0.0085, 14e6),
    "MATIC": Temper(0.6, 0.0080, 15e6),
    "AVAX": Temper(30, 0.0095, 14e6),
    "DOT": Temper(6, 0.0080, 10e6),
    "UNI": Temper(10, 0.0095, 5e6),
    "LTC": Temper(80, 0.0075, 14e6),
    "BCH": Temper(400, 0.0090, 15e6),
    "ETC": Temper(25, 0.0080, 9e6),
    "XLM": Temper(0.1, 0.0070, 3e6),
    "ATOM": Temper(8, 0.0085, 6e6),
    "BNB": Temper(600, 0.0058, 20e6),
    "VET": Temper(0.03, 0.0090, 1.5e6),
    "FIL": Temper(5, 0.0100, 11e6),
    "THETA": Temper(1.5, 0.0100, 2e6),
    "NEAR": Temper(5, 0.0110, 8e6),
    "APE": Temper(1, 0.0105, 1e6),
}


@dataclass(frozen=True)
class _Clock:
    """The candles' times, the same for all coins."""

    open_ms: np.ndarray
    """(n_candles,) int64, epoch milliseconds"""
    candle_ms: int
    """length of a candle"""

    @property
    def n_candles(self) -> int:
        return len(self.open_ms)

    @property
    def hours(self) -> float:
        return self.candle_ms / HOUR_MS

    def decay(self, half_life_hours: float) -> float:
        """AR(1) coefficient from one candle to the next of what halves in `half_life_hours`."""
        return 0.5 ** (self.hours / half_life_hours)


@dataclass(frozen=True)
class _Factor:
    """One driver of returns: the market, or what a coin has for itself. Arrays are (n_candles,)."""

    shock: np.ndarray
    """M or E above: unit variance, AR(1) with coefficient phi"""
    shock_variance: np.ndarray
    """variance of this candle's Student-t innovation given its mixing variable; mean 1 - phi^2"""
    log_volatility: np.ndarray
    """stationary, mean 0, variance `LOG_VOLATILITY_VARIANCE`"""


def synthetic_market(
    symbols: Sequence[str],
    timeframe: str = "1h",
    n_candles: int = 2000,
    *,
    seed: int = 42,
    signal_r2: float = 0.0,
    end: str | pd.Timestamp = "2025-01-01",
) -> dict[str, pd.DataFrame]:
    """Generate the candles of several correlated coins.

    The same arguments give the same numbers. A symbol's candles do not depend on which others are
    asked for. Each timeframe is a market of its own: its 15m candles do not add up to its 1h
    candles.

    The planted signal is momentum of the volatility-scaled return: with S and phi of the module's
    docstring, the best forecast at the close of t is phi * S[t] * volatility[t + 1], and it
    explains the share phi^2 = `signal_r2` of the variance of S[t + 1]. Past candles show S[t] as
    the last log-return over an estimate of its volatility: with an exponentially weighted one (span
    48) a linear forecast of the scaled hourly return reaches about four fifths of that share.

    Args:
        symbols: Pairs such as "BTC/USDT". Known coins get price, volatility and turnover of their
            kind, others a temper derived from their name.
        timeframe: Length of a candle, such as "15m", "1h" or "1d".
        n_candles: Candles of each symbol.
        seed: Non-negative; another seed is another market.
        signal_r2: Share of the variance of the volatility-scaled next log-return that can be
            forecast, in [0, 1); 0 is a martingale.
        end: The last candle closes here at the latest. Taken as UTC unless it names a time zone.

    Returns:
        For each symbol a frame of `n_candles` rows without gaps, RangeIndex: `timestamp` (open of
        the candle, datetime64[ms, UTC]), `open`, `high`, `low`, `close` (USD), `volume` (base
        currency), `funding_rate` (share per 8 hours, settled at 00, 08 and 16 UTC; the last one
        settled strictly before the candle's close), `open_interest` (USD, observed at the candle's
        open).

    Raises:
        ValueError: No symbols, a bare string, fewer than one candle, `signal_r2` outside [0, 1), or
            an unknown timeframe.

    Example:
        >>> market = synthetic_market(["BTC/USDT", "ETH/USDT"], n_candles=3, end="2024-06-01 12:30")
        >>> [str(time) for time in market["ETH/USDT"]["timestamp"].dt.time]
        ['09:00:00', '10:00:00', '11:00:00']
    """
    if isinstance(symbols, str) or len(symbols) == 0:
        remedy = "pass a list of at least one pair, such as ['BTC/USDT']"
        raise ValueError(f"symbols is {symbols!r}; {remedy}")
    if n_candles < 1:
        raise ValueError(f"n_candles is {n_candles}; ask for at least 1 candle")
    if not 0.0 <= signal_r2 < 1.0:
        remedy = "it is a share of variance: give 0 <= signal_r2 < 1"
        raise ValueError(f"signal_r2 is {signal_r2}; {remedy}")
    clock = _clock(timeframe, n_candles, end)
    phi = math.sqrt(signal_r2)
    market = _draw_factor(_stream(seed, timeframe, "the market"), clock, phi)
    return {
        symbol: _draw_coin(symbol, _stream(seed, timeframe, symbol), clock, market, phi)
        for symbol in symbols
    }


def synthetic_candles(
    n_candles: int,
    *,
    symbol: str = "BTC/USDT",
    timeframe: str = "1h",
    seed: int = 42,
    signal_r2: float = 0.0,
    end: str | pd.Timestamp = "2025-01-01",
) -> pd.DataFrame:
    """Generate the candles of one symbol; the arguments are those of `synthetic_market`.

    Example:
        >>> candles = synthetic_candles(100, seed=7)
        >>> candles.columns.tolist()
        ['timestamp', 'open', 'high', 'low', 'close', 'volume', 'funding_rate', 'open_interest']
    """
    market = synthetic_market(
        [symbol], timeframe, n_candles, seed=seed, signal_r2=signal_r2, end=end
    )
    return market[symbol]


def _clock(timeframe: str, n_candles: int, end: str | pd.Timestamp) -> _Clock:
    candle_ms = timeframe_ms(timeframe)
    last = pd.Timestamp(end)
    last = last.tz_localize("UTC") if last.tzinfo is None else last.tz_convert("UTC")
    end_ms = (last - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(milliseconds=1)
    first_index = end_ms // candle_ms - n_candles
    return _Clock(candle_ms * np.arange(first_index, first_index + n_candles), candle_ms)


def _stream(seed: int, timeframe: str, name: str) -> np.random.Generator:
    """Random numbers that belong to this seed, timeframe and name alone."""
    return np.random.default_rng([seed, _hash(f"{timeframe} {name}")])


def _hash(text: str) -> int:
    """64 bits that are the same in every process, as those of Python's hash() are not."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _temper(symbol: str) -> Temper:
    coin = symbol.split("/")[0]
    if coin in TEMPERS:
        return TEMPERS[coin]
    rng = np.random.default_rng(_hash(coin))
    return Temper(
        price=10 ** rng.uniform(-1.5, 2.5),
        volatility=rng.uniform(0.007, 0.011),
        turnover=10 ** rng.uniform(6, 7.3),
    )


def _ar1(innovations: np.ndarray, coefficient: float) -> np.ndarray:
    """Stationary AR(1) from (n,) innovations of unit variance; its variance is 1 as well."""
    from scipy import signal  # lazy: it takes a second, and few runs need made-up candles

    scaled = innovations * math.sqrt(1.0 - coefficient**2)
    scaled[0] = innovations[0]
    return signal.lfilter([1.0], [1.0, -coefficient], scaled)


def _draw_factor(rng: np.random.Generator, clock: _Clock, phi: float) -> _Factor:
    n_candles = clock.n_candles
    # A Student-t is a Gaussian whose variance is drawn first; that variance also sets the candle's
    # range.
    mixing = (DEGREES_OF_FREEDOM - 2.0) / rng.chisquare(DEGREES_OF_FREEDOM, n_candles)
    shock = _ar1(np.sqrt(mixing) * rng.standard_normal(n_candles), phi)
    log_volatility = np.zeros(n_candles)
    for deviation, half_life in LOG_VOLATILITY_PARTS:
        part = _ar1(rng.standard_normal(n_candles), clock.decay(half_life))
        log_volatility += deviation * part
    return _Factor(shock, (1.0 - phi**2) * mixing, log_volatility)


def _draw_coin(
    symbol: str, rng: np.random.Generator, clock: _Clock, market: _Factor, phi: float
) -> pd.DataFrame:
    temper = _temper(symbol)
    own = _draw_factor(rng, clock, phi)
    loading = MARKET_LOADING
    scaled_return = loading * market.shock + math.sqrt(1.0 - loading**2) * own.shock
    scaled_variance = loading**2 * market.shock_variance + (1.0 - loading**2) * own.shock_variance
    # Volatility of each candle over the coin's level; its mean square is 1. Both factors'
    # log-volatilities add up, and E[exp(2 X)] = exp(2 var X) of a centred Gaussian X.
    log_volatility = market.log_volatility + own.log_volatility
    stochastic = np.exp(log_volatility - 2.0 * LOG_VOLATILITY_VARIANCE)
    relative_volatility = stochastic * np.sqrt(_season_variance(clock))
    volatility = temper.volatility * math.sqrt(clock.hours) * relative_volatility
    prices = _draw_prices(rng, temper.price, volatility, scaled_return, scaled_variance)
    coins_traded = temper.turnover / temper.price * clock.hours
    activity = _draw_activity(rng, clock, relative_volatility, scaled_variance)
    funding_rate = _draw_funding(rng, clock, scaled_return)
    open_interest = temper.turnover * _draw_open_interest(rng, clock, scaled_return)
    return pd.DataFrame(
        {
            "timestamp": utc_from_ms(clock.open_ms),
            **prices,
            "volume": coins_traded * activity,
            "funding_rate": funding_rate,
            "open_interest": open_interest,
        }
    )


def _season_variance(clock: _Clock) -> np.ndarray:
    """Variance of each candle by the hours of the week it covers, relative to the week's mean.

    Busiest when Europe and America both trade (14-16 UTC), calm at night and at weekends.
    """
    hour = np.arange(7 * 24)
    angle = 2.0 * np.pi * (hour % 24 - 15.5) / 24.0
    log_volatility = 0.25 * np.cos(angle) + 0.12 * np.cos(2.0 * angle) - 0.45 * (hour // 24 >= 5)
    variance = np.exp(2.0 * log_volatility)
    variance /= variance.mean()
    # 1970-01-01 was a Thursday, the fourth day of a week that starts on Monday.
    first_hour = clock.open_ms // HOUR_MS + 3 * 24
    covered = np.arange(max(1, clock.candle_ms // HOUR_MS))
    return variance[(first_hour[:, None] + covered) % len(hour)].mean(axis=1)


def _draw_prices(
    rng: np.random.Generator,
    start: float,
    volatility: np.ndarray,
    scaled_return: np.ndarray,
    scaled_variance: np.ndarray,
) -> dict[str, np.ndarray]:
    """Open, high, low and close: a Brownian path of the candle's variance, seen at four points.

    The extremes follow the distribution of a Brownian bridge from open to close: for a bridge from
    0 to x with variance v, P(max > m) = exp(-2 m (m - x) / v), so that the maximum is (x + sqrt(x^2
    + 2 v e)) / 2 with e exponential (Glasserman 2004, "Monte Carlo Methods in Financial
    Engineering", section 6.4). High and low are drawn apart.
    """
    n_candles = len(volatility)
    log_close = math.log(start) + np.cumsum(volatility * scaled_return)
    gap = GAP_SHARE * volatility * rng.standard_normal(n_candles) * (rng.random(n_candles) < 0.5)
    gap[0] = 0.0
    log_open = np.concatenate([[math.log(start)], log_close[:-1]]) + gap
    body = log_close - log_open
    spread = 2.0 * volatility**2 * scaled_variance * rng.standard_exponential((2, n_candles))
    candle_open, close = np.exp(log_open), np.exp(log_close)
    high = np.exp(log_open + (body + np.sqrt(body**2 + spread[0])) / 2.0)
    low = np.exp(log_open + (body - np.sqrt(body**2 + spread[1])) / 2.0)
    # The last bit of exp() may put an extreme inside the body.
    high = np.maximum(high, np.maximum(candle_open, close))
    low = np.minimum(low, np.minimum(candle_open, close))
    return {"open": candle_open, "high": high, "low": low, "close": close}


def _draw_activity(
    rng: np.random.Generator,
    clock: _Clock,
    relative_volatility: np.ndarray,
    scaled_variance: np.ndarray,
) -> np.ndarray:
    """(n_candles,) volume over the coin's average; rises with volatility."""
    own = 0.35 * _ar1(rng.standard_normal(clock.n_candles), clock.decay(24.0))
    # The factor makes the mean 1; measured, since powers of the season have no closed form.
    return 1.17 * relative_volatility**1.2 * np.sqrt(scaled_variance) * np.exp(own)


def _draw_funding(rng: np.random.Generator, clock: _Clock, scaled_return: np.ndarray) -> np.ndarray:
    """(n_candles,) funding rate known strictly before each close; follows past returns."""
    settlement = (clock.open_ms + clock.candle_ms - 1) // FUNDING_INTERVAL_MS  # counted since 1970
    settled_ms = FUNDING_INTERVAL_MS * np.arange(settlement[0], settlement[-1] + 1)
    # The return since the previous settlement, of the candles that had closed when each was
    # settled.
    path = np.concatenate([[0.0], np.cumsum(scaled_return)])
    closed = np.maximum(0, (settled_ms - clock.open_ms[0]) // clock.candle_ms)
    recent = np.diff(path[closed], prepend=0.0) * math.sqrt(clock.candle_ms / FUNDING_INTERVAL_MS)
    premium = _ar1(0.5 * recent + math.sqrt(0.75) * rng.standard_normal(len(settled_ms)), 0.82)
    return (1e-4 + 1e-4 * premium)[settlement - settlement[0]]


def _draw_open_interest(
    rng: np.random.Generator, clock: _Clock, scaled_return: np.ndarray
) -> np.ndarray:
    """(n_candles,) open interest at each open, in hours of turnover; follows past returns."""
    before = np.concatenate([[0.0], scaled_return[:-1]])
    change = 0.3 * before + math.sqrt(0.91) * rng.standard_normal(clock.n_candles)
    return OPEN_INTEREST_HOURS * np.exp(0.3 * _ar1(change, clock.decay(20 * 24.0)))
