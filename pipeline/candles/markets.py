"""Which market of an exchange a user's symbol means: perpetuals, renamed coins, and USD where there
is no USDT."""

from __future__ import annotations

import difflib
import logging
from typing import Any

logger = logging.getLogger(__name__)

RENAMED = {"MATIC": ("POL", 1_725_148_800_000)}
"""Coin -> (its new name, instant before which nobody traded under it, ms since 1970 UTC:
2024-09-01). On Binance MATIC stopped on 2024-09-10 and POL began on 2024-09-13."""


class UnknownSymbolError(ValueError):
    """The exchange has no such market, or has it no longer."""


class QuoteError(UnknownSymbolError):
    """The exchange quotes the coin in USD alone, where USDT was asked for."""


def find(client: Any, symbol: str, *, accept_usd: bool) -> list[str]:
    """ccxt's symbol of the market that the user's symbol means; of a renamed coin both, the older
    first, if listed.

    Args:
        client: ccxt's, with its markets loaded.
        symbol: Such as "BTC/USDT"; on futures exchanges the perpetual "BTC/USDT:USDT" is meant, and
            may be said.
        accept_usd: Take BTC/USD for BTC/USDT where there is no other.

    Raises:
        UnknownSymbolError: There is no such market.
        QuoteError: There is one in USD, which is not accepted.
    """
    coin, _, quote = symbol.partition("/")
    old = next((name for name, (new, _) in RENAMED.items() if coin in (name, new)), None)
    names = [coin] if old is None else [old, RENAMED[old][0]]
    quotes = (quote, "USD", "USD:USD") if quote in ("USDT", "USDT:USDT") else (quote,)
    for its_quote in quotes:
        pairs = [f"{name}/{its_quote}" for name in names]
        found = [market for pair in pairs if (market := _listed(client, pair)) is not None]
        if not found:
            continue
        if its_quote != quote:
            if not accept_usd:
                raise QuoteError(
                    f"{client.id} quotes {coin} in USD alone ({found[-1]}); choose another exchange"
                )
            logger.warning(
                "%s has no %s; %s is taken for it", client.id, symbol, " and ".join(found)
            )
        elif len(found) < len(names):
            absent = next(
                name for name in names if not any(coin_of(market) == name for market in found)
            )
            logger.warning("%s has %s but no %s, its other name", client.id, found[0], absent)
        return found
    raise UnknownSymbolError(
        f"{client.id} has no market {symbol!r}; {did_you_mean(symbol, list(client.markets))}"
    )


def renamed_ms(market: str) -> int:
    """Instant before which a market of this name cannot be what is asked for, ms since 1970 UTC; 0
    for most.

    Example:
        >>> renamed_ms("POL/USDT"), renamed_ms("BTC/USDT")
        (1725148800000, 0)
    """
    return next((began_ms for name, began_ms in RENAMED.values() if name == coin_of(market)), 0)


def coin_of(market: str) -> str:
    """The coin that a market trades.

    Example:
        >>> coin_of("BTC/USDT:USDT")
        'BTC'
    """
    return market.partition("/")[0]


def did_you_mean(word: str, known: list[str]) -> str:
    """The end of an error about an unknown word."""
    by_upper = {name.upper(): name for name in known}
    close = [
        by_upper[match] for match in difflib.get_close_matches(word.upper(), list(by_upper), 3)
    ]
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"it has {len(known)}, such as {', '.join(known[:3])}"


def _listed(client: Any, pair: str) -> str | None:
    if pair in client.markets:
        return pair
    perpetual = f"{pair}:{pair.rpartition('/')[2]}"
    return perpetual if client.is_futures and perpetual in client.markets else None
