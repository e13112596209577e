"""Past, nearer past, most recent: every symbol is cut at the same instants of clock time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from config import SplitConfig
from pipeline.samples.windows import Samples


@dataclass(frozen=True)
class Split:
    """Sample indices of the three parts, each in time order, and the instants that divide them."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    train_end: np.datetime64
    """training targets close at or before this instant (UTC), validation begins"""
    val_end: np.datetime64
    test_start: np.datetime64
    test_end: np.datetime64

    @property
    def known(self) -> np.ndarray:
        """Indices of all samples before the test part: training's, then validation's."""
        return np.append(self.train, self.val)

    def facts(self, target_time: np.ndarray) -> dict[str, dict[str, Any]]:
        """Part -> its size, and when its first and last target close."""
        facts = {}
        for name, part in (("train", self.train), ("val", self.val), ("test", self.test)):
            times = target_time[part].astype("datetime64[m]")
            facts[name] = {"n": len(part), "first": f"{times[0]}Z", "last": f"{times[-1]}Z"}
        return facts

    def describe(self, target_time: np.ndarray) -> list[str]:
        """A line a part, for people."""
        return [
            f"{name:5} {facts['n']:>9,} samples  {facts['first']} to {facts['last']}"
            for name, facts in self.facts(target_time).items()
        ]

    def cuts(self) -> dict[str, str]:
        """The instants that divide the parts, UTC, for the metadata."""
        names = ("train_end", "val_end", "test_start", "test_end")
        return {name: f"{getattr(self, name).astype('datetime64[s]')}Z" for name in names}


def split_samples(samples: Samples, config: SplitConfig = SplitConfig()) -> Split:
    """Split by dates if any is given, else by shares of the time span.

    All symbols are cut at the same instants. A target that reaches across a cut is purged.
    """
    dates = (config.train_end, config.val_end, config.test_start, config.test_end)
    if any(date is not None for date in dates):
        return split_by_dates(samples.target_time, *dates, purge=samples.target_span)
    return chronological_split(
        samples.target_time,
        train_ratio=config.train_ratio,
        val_ratio=config.val_ratio,
        purge=samples.target_span,
        symbol=samples.symbol,
        end=_common_end(samples),
    )


def _common_end(samples: Samples) -> np.datetime64:
    """When the first symbol's candles end: rows are those of one symbol after another's."""
    last_rows = np.append(np.flatnonzero(np.diff(samples.row_ms) <= 0), len(samples.row_ms) - 1)
    return (samples.row_ms[last_rows].min() + samples.step_ms).astype("datetime64[ms]")


def chronological_split(
    target_time: np.ndarray,
    *,
    train_ratio: float,
    val_ratio: float,
    purge: np.timedelta64,
    symbol: np.ndarray | None = None,
    end: np.datetime64 | None = None,
) -> Split:
    """Split sample indices into past, nearer past and most recent, by clock time.

    All symbols are cut at the same two instants, so a BTC training sample is never later than an
    ETH test sample. The instants divide the span in which all symbols have samples; what is earlier
    is trained on, what is later belongs to no part.

    Args:
        target_time: (n_samples,) datetime64, UTC; close time of the candle each sample predicts.
            Any order; symbols may be interleaved.
        train_ratio: Fraction of the time span used for training, in (0, 1).
        val_ratio: Fraction used for validation, in (0, 1).
        purge: Samples whose target closes less than this long after a cut began before it and are
            dropped.
        symbol: (n_samples,) integers that tell the symbols apart; None if there is one.
        end: End of the span; by default the last target that all symbols reach. The candles' own
            end does not depend on which of the last samples can be used.

    Raises:
        ValueError: The ratios leave no test part, the symbols have no time in common, or a part
            would be empty.

    Example:
        >>> hours = np.arange("2024-01-01T00", "2024-01-01T10", dtype="datetime64[h]")
        >>> hour = np.timedelta64(1, "h")
        >>> split = chronological_split(hours, train_ratio=0.6, val_ratio=0.2, purge=hour)
        >>> split.train, split.val, split.test
        (array([0, 1, 2, 3, 4, 5]), array([7]), array([9]))
    """
    if not (0 < train_ratio < 1 and 0 < val_ratio < 1 and train_ratio + val_ratio < 1):
        raise ValueError(
            f"train_ratio {train_ratio} and val_ratio {val_ratio} must be positive and leave a "
            "share for the test part"
        )
    times = target_time.astype("datetime64[ms]")
    groups = np.zeros(len(times), dtype=int) if symbol is None else symbol
    times_of = [times[groups == group] for group in np.unique(groups)]
    start = max(own.min() for own in times_of)
    end = min(own.max() for own in times_of) if end is None else end
    if end <= start:
        raise ValueError(
            f"the symbols have no time in common: one starts at {start}, another ends at {end}; "
            "choose symbols with overlapping candles or split by dates (--train-end, --val-end)"
        )
    span = (end - start).astype(np.int64)
    train_end = start + np.timedelta64(round(train_ratio * span), "ms")
    val_end = start + np.timedelta64(round((train_ratio + val_ratio) * span), "ms")
    return cut_at(times, train_end, val_end, val_end, end, purge)


def split_by_dates(
    target_time: np.ndarray,
    train_end: str | None,
    val_end: str | None,
    test_start: str | None = None,
    test_end: str | None = None,
    *,
    purge: np.timedelta64,
) -> Split:
    """Split by dates, UTC: a date without a time names its whole day, an end includes it.

    Args:
        target_time: As in `chronological_split`.
        train_end: Last instant or day of the training part.
        val_end: Last instant or day of the validation part, which begins right after `train_end`.
        test_start: First instant or day of the test part; right after `val_end` by default.
        test_end: Last instant or day of the test part; the last sample by default.
        purge: As in `chronological_split`.

    Raises:
        ValueError: An end is missing, a date is unreadable, dates are out of order, or a part would
            be empty.
    """
    if train_end is None or val_end is None:
        raise ValueError(
            "a split by dates needs both --train-end and --val-end, such as 2023-09-30 and "
            "2023-12-31"
        )
    times = target_time.astype("datetime64[ms]")
    first_cut = _instant(train_end, "train_end", True)
    second_cut = _instant(val_end, "val_end", True)
    start = second_cut if test_start is None else _instant(test_start, "test_start", False)
    end = times.max() if test_end is None else _instant(test_end, "test_end", True)
    if not first_cut < second_cut <= start < end:
        raise ValueError(
            f"dates out of order: train_end {first_cut}, val_end {second_cut}, test_start {start}, "
            f"test_end {end}; the samples lie between {times.min()} and {times.max()}"
        )
    return cut_at(times, first_cut, second_cut, start, end, purge)


def cut_at(
    target_time: np.ndarray,
    train_end: np.datetime64,
    val_end: np.datetime64,
    test_start: np.datetime64,
    test_end: np.datetime64,
    purge: np.timedelta64,
    *,
    train_start: np.datetime64 | None = None,
) -> Split:
    """Split at instants, those of `Split`; targets that began before a cut are purged.

    Raises:
        ValueError: A part would be empty.
    """
    times = target_time.astype("datetime64[ms]")
    order = np.argsort(times, kind="stable")
    ordered = times[order]

    def between(begin: np.datetime64, end: np.datetime64) -> np.ndarray:
        return order[(ordered >= begin + purge) & (ordered > begin) & (ordered <= end)]

    begun = True if train_start is None else ordered >= train_start
    parts = {
        "train": order[begun & (ordered <= train_end)],
        "val": between(train_end, val_end),
        "test": between(test_start, test_end),
    }
    for name, part in parts.items():
        if len(part) == 0:
            raise ValueError(
                f"{name} part is empty: {len(times)} samples with targets from {times.min()} to "
                f"{times.max()}, cut at {train_end} and {val_end}; fetch more candles (--candles) "
                "or move the cuts"
            )
    return Split(
        **parts, train_end=train_end, val_end=val_end, test_start=test_start, test_end=test_end
    )


def _instant(text: str, name: str, is_end: bool) -> np.datetime64:
    """The instant of a date or time, UTC; of an end that is a mere date, the end of its day."""
    try:
        # pandas would read "2023-09" as its first day, "03.04.2023" as 4 March.
        if not re.match(r"\d{4}-\d{2}-\d{2}", text.strip()):
            raise ValueError(text)
        stamp = pd.Timestamp(text)
        if stamp.year >= 2262:  # behind it pandas cannot count nanoseconds
            raise ValueError(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{name} {text!r} is no date; write it as 2023-09-30 or 2023-09-30T12:00"
        ) from None
    if stamp.tzinfo is not None:
        stamp = stamp.tz_convert("UTC").tz_localize(None)
    if is_end and len(text.strip()) <= len("2023-09-30"):
        stamp += pd.Timedelta(days=1)
    return np.datetime64(stamp.isoformat(), "ms")
