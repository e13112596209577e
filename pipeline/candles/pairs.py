"""Names of pairs, however they are spelt: BTC/USDT, BTCUSDT, btc-usd, XBTUSD."""

from __future__ import annotations

import re

from config import TRADING_PAIRS

STABLE = tuple("USDT USDC FDUSD BUSD TUSD DAI USD EUR GBP JPY KRW TRY BRL AUD".split())
"""Currencies that prices are in, and that no one forecasts"""

QUOTES = (*STABLE, "BTC", "ETH", "BNB")
"""Currencies that a pair may end with, behind the coin's."""

KNOWN_COINS = frozenset({"XBT", "POL", *(pair.partition("/")[0] for pair in TRADING_PAIRS)})


def coin_of(name: str) -> str:
    """A coin's name in capitals; Kraken's and BitMEX' XBT is BTC.

    Example:
        >>> coin_of("xbt"), coin_of("eth")
        ('BTC', 'ETH')
    """
    return {"XBT": "BTC", "XXBT": "BTC", "XDG": "DOGE"}.get(name.upper(), name.upper())


def pair_of(name: str) -> str | None:
    """The pair that is meant, where there is no doubt about it.

    Of XBTUSD's two readings, XBT/USD and XB/TUSD, that of a known coin counts.

    Example:
        >>> pair_of("ETHBTC"), pair_of("SOL-USDT"), pair_of("btc/usdt:usdt"), pair_of("candles")
        ('ETH/BTC', 'SOL/USDT', 'BTC/USDT:USDT', None)
    """
    name = name.strip().upper()
    if found := re.fullmatch(r"([^\s/:]+)/([^\s/:]+)(:[^\s/:]+)?", name):
        return f"{coin_of(found[1])}/{coin_of(found[2])}{found[3] or ''}"
    pairs = []
    for quote in (*QUOTES, "XBT"):
        if found := re.fullmatch(rf"([A-Z0-9]{{2,12}})[-_ ]?{quote}", name):
            pairs.append(f"{found[1]}/{quote}")
    of_known = [pair for pair in pairs if pair.partition("/")[0] in KNOWN_COINS]
    chosen = of_known or pairs
    if len(chosen) != 1:
        return None
    base, _, quote = chosen[0].partition("/")
    return f"{coin_of(base)}/{coin_of(quote)}"


def base_and_quote(symbol: str | None) -> tuple[str | None, str | None]:
    """The two currencies of a pair, None where they are not known."""
    pair = pair_of(symbol) if symbol else None
    if pair is None:
        return None, None
    base, _, quote = pair.partition("/")
    return base, quote.partition(":")[0]
