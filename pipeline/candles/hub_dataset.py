"""Candles from a dataset of the Hugging Face Hub, a last resort.

huggingface_hub is imported on first use. It keeps what it has downloaded and asks only whether
there is a newer file.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.candles import store
from pipeline.candles.job import ExchangeError, UnknownSymbolError
from pipeline.candles.schema import read_candles, timeframe_ms
from pipeline.candles.table_size import MAX_CSV_BYTES
from pipeline.privacy import clean_error, no_telemetry

logger = logging.getLogger(__name__)

CANDLES_REPO = "zongowo111/cpb-models"
"""Dataset that the v9 document names; its candles are of Binance US."""

METADATA_TIMEOUT_S = 10.0


def fetch_dataset_candles(
    symbol: str,
    timeframe: str,
    *,
    repo: str = CANDLES_REPO,
    endpoint: str | None = None,
    cache_dir: Path | str | None = None,
) -> pd.DataFrame:
    """Fetch all candles of a symbol from a dataset.

    They are those of its `klines_binance_us/BTCUSDT/BTCUSDT_1h_binance_us.csv`, which end when
    somebody last uploaded them, as the log tells. The last row is left out, because nothing says
    whether its candle had closed when the file was made.

    Args:
        symbol: Such as "BTC/USDT".
        timeframe: Such as "1h".
        repo: The dataset, "user/name".
        endpoint: Address in place of https://huggingface.co (tests, mirrors).
        cache_dir: Where downloads are kept; by default where huggingface_hub keeps them.

    Returns:
        Frame in the schema of `pipeline.candles.schema`. Gaps stay gaps. Its `attrs` name
        "exchange" and "market".

    Raises:
        ValueError: Unknown timeframe, or a damaged or unsound file; UnknownSymbolError: no such
            dataset or file.
        ExchangeError: The Hub is out of reach or refuses, or huggingface_hub is not installed.
    """
    timeframe_ms(timeframe)
    pair = symbol.replace("/", "")
    name = f"{pair}_{timeframe}_binance_us.csv"
    path = _download(repo, f"klines_binance_us/{pair}/{name}", endpoint, cache_dir)
    where = f"{name} of {repo}"
    candles = read_candles(store.read_table(path), timeframe, where=where).iloc[:-1]
    if candles.empty:
        raise ValueError(
            f"{where}: it holds one candle, which may not have closed; choose another source"
        )
    last = f"{candles['timestamp'].iloc[-1]:%Y-%m-%d %H:%M}"
    logger.warning("%s: %d candles, the last of %s", where, len(candles), last)
    candles.attrs = {"exchange": "binanceus", "market": symbol}
    return candles


def _download(repo: str, name: str, endpoint: str | None, cache_dir: Path | str | None) -> Path:
    """A dataset's file as it is now, downloaded unless it is there already."""
    no_telemetry()
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ExchangeError(
            f"huggingface_hub cannot be imported ({error}); pip install huggingface_hub"
        ) from error
    place: dict[str, Any] = {"repo_type": "dataset", "endpoint": endpoint}
    try:
        url = huggingface_hub.hf_hub_url(repo, name, **place)
        # Out of reach is known at once this way; the download by itself would try for half a minute
        # and more.
        found = huggingface_hub.get_hf_file_metadata(url, timeout=METADATA_TIMEOUT_S)
        if (found.size or 0) > MAX_CSV_BYTES:
            raise ValueError(f"it has {found.size:,} bytes, at most {MAX_CSV_BYTES:,} are read")
        return Path(huggingface_hub.hf_hub_download(repo, name, cache_dir=cache_dir, **place))
    except errors.HFValidationError as error:
        raise ValueError(f"repo is {repo!r}; name a dataset as user/name") from error
    except errors.RepositoryNotFoundError as error:
        raise UnknownSymbolError(
            f"the Hub has no public dataset {repo} for {name}; choose another source"
        ) from error
    except Exception as error:  # of whatever HTTP library this version of huggingface_hub uses
        # The local kind means that what answered was no Hub: a proxy, a login page.
        is_local = isinstance(error, errors.LocalEntryNotFoundError)
        if isinstance(error, errors.EntryNotFoundError) and not is_local:
            raise UnknownSymbolError(
                f"{repo} has no file {name}; choose another symbol or source"
            ) from error
        reason = (str(clean_error(error)).splitlines() or [""])[0][:200] or type(error).__name__
        raise ExchangeError(
            f"{repo}: {name} cannot be fetched from the Hub ({reason}); check the network or "
            "choose another source"
        ) from error
