"""Splits by clock time: the same for all symbols, without a target across a cut."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.candles.synthetic import synthetic_candles
from pipeline.samples.indicators import VOLATILITY_WARMUP
from pipeline.samples.splitting import chronological_split, split_by_dates, split_samples
from pipeline.samples.windows import make_windows

HOUR = np.timedelta64(1, "h")


def hours(first, last):
    """Every full hour of a stretch of time, both ends included."""
    return np.arange(np.datetime64(first, "h"), np.datetime64(last, "h") + 1).astype(
        "datetime64[ms]"
    )


def split_100(**changes):
    """Targets that close in hours 0 to 100, cut after hours 60 and 80 unless changed."""
    arguments = {"train_ratio": 0.6, "val_ratio": 0.2, "purge": HOUR} | changes
    return chronological_split(hours("2024-01-01T00", "2024-01-05T04"), **arguments)


# By shares of the time


def test_shares_of_the_time_become_three_parts():
    split = split_100()
    assert split.train.tolist() == [*range(61)]  # targets close at or before the cut in hour 60
    # A target of one hour that closes in hour 61 began at the cut
    assert split.val.tolist() == [*range(61, 81)]
    assert split.test.tolist() == [*range(81, 101)]
    assert split.train_end == np.datetime64("2024-01-03T12")
    assert split.val_end == split.test_start == np.datetime64("2024-01-04T08")
    assert split.test_end == np.datetime64("2024-01-05T04")


def test_targets_that_reach_across_a_cut_are_purged():
    split = split_100(purge=5 * HOUR)
    assert split.train.tolist() == [*range(61)]
    # Those that close in hours 61 to 64 began before hour 60
    assert split.val.tolist() == [*range(65, 81)]
    assert split.test.tolist() == [*range(85, 101)]


def test_facts_say_how_many_and_when():
    times = hours("2024-01-01T00", "2024-01-05T04")
    assert split_100().facts(times)["val"] == {
        "n": 20,
        "first": "2024-01-03T13:00Z",
        "last": "2024-01-04T08:00Z",
    }


def test_samples_may_come_in_any_order():
    times = hours("2024-01-01T00", "2024-01-05T04")
    shuffled = np.random.default_rng(0).permutation(len(times))
    split = chronological_split(times[shuffled], train_ratio=0.6, val_ratio=0.2, purge=HOUR)
    for name, first, last in (("train", 0, 60), ("val", 61, 80), ("test", 81, 100)):
        # Each part in time order
        assert shuffled[getattr(split, name)].tolist() == [*range(first, last + 1)]


def test_every_symbol_is_cut_at_the_same_two_instants():
    # BTC has hours 0 to 100, ETH 50 to 150: 60 % and 80 % of the 50 hours they share are hours 80
    # and 90.
    times = np.r_[hours("2024-01-01T00", "2024-01-05T04"), hours("2024-01-03T02", "2024-01-07T06")]
    symbol = np.repeat([0, 1], 101)
    split = chronological_split(times, train_ratio=0.6, val_ratio=0.2, purge=HOUR, symbol=symbol)
    hour = (times - times[0]) // HOUR
    assert (split.train_end, split.val_end) == (times[80], times[90])
    assert sorted(hour[split.train][symbol[split.train] == 0].tolist()) == [*range(81)]
    assert sorted(hour[split.train][symbol[split.train] == 1].tolist()) == [*range(50, 81)]
    assert sorted(hour[split.test][symbol[split.test] == 0].tolist()) == [*range(91, 101)]
    # Where BTC ends too
    assert sorted(hour[split.test][symbol[split.test] == 1].tolist()) == [*range(91, 101)]


def test_the_cuts_do_not_depend_on_which_of_the_last_samples_can_be_used():
    candles = {name: synthetic_candles(700, seed=n) for n, name in enumerate(("A/B", "C/B"))}
    features = {name: frame[["close"]] for name, frame in candles.items()}
    samples = make_windows(features, candles, "1h", 5, 1, VOLATILITY_WARMUP)
    whole = split_samples(samples)
    assert whole.test_end == samples.target_time.max()
    kept = np.ones(len(samples), dtype=bool)
    kept[-30:] = False
    fewer = split_samples(samples.take(kept))
    assert fewer.cuts() == whole.cuts()
    assert len(fewer.test) == len(whole.test) - 30


def test_symbols_without_a_time_in_common_are_refused():
    times = np.r_[hours("2024-01-01T00", "2024-01-02T00"), hours("2024-02-01T00", "2024-02-02T00")]
    with pytest.raises(
        ValueError,
        match="no time in common: one starts at 2024-02-01T00.*ends at 2024-01-02T00.*dates",
    ):
        chronological_split(
            times, train_ratio=0.6, val_ratio=0.2, purge=HOUR, symbol=np.repeat([0, 1], 25)
        )


@pytest.mark.parametrize(
    ("train", "val"), [(0.0, 0.2), (1.0, 0.2), (0.6, 0.0), (0.6, -0.1), (0.8, 0.2), (0.8, 0.3)]
)
def test_ratios_out_of_range_are_refused(train, val):
    with pytest.raises(
        ValueError, match=f"train_ratio {train} and val_ratio {val} must be positive and leave"
    ):
        split_100(train_ratio=train, val_ratio=val)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"purge": 21 * HOUR}, "val"),
        ({"train_ratio": 0.3, "val_ratio": 0.6, "purge": 11 * HOUR}, "test"),
    ],
)
def test_an_empty_part_is_named(changes, part):
    with pytest.raises(
        ValueError,
        match=f"{part} part is empty: 101 samples .* fetch more candles .* or move the cuts",
    ):
        split_100(**changes)


@settings(max_examples=200, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 120), st.integers(20, 300)), min_size=1, max_size=4),
    train=st.floats(0.2, 0.7),
    val=st.floats(0.1, 0.25),
    horizon=st.integers(1, 30),
    missing=st.sets(st.integers(0, 400), max_size=60),
    seed=st.integers(0, 99),
)
def test_no_target_overlaps_another_part_and_nothing_else_is_dropped(
    spans, train, val, horizon, missing, seed
):
    closes, symbol = [], []
    for index, (first, length) in enumerate(spans):
        mine = [hour for hour in range(first, first + length) if hour not in missing]
        closes += mine
        symbol += [index] * len(mine)
    order = np.random.default_rng(seed).permutation(len(closes))
    closes, symbol = np.array(closes)[order], np.array(symbol)[order]
    assume(len(set(symbol.tolist())) == len(spans))
    times = np.datetime64("2024-01-01", "ms") + closes * HOUR
    purge = horizon * HOUR
    try:
        split = chronological_split(
            times, train_ratio=train, val_ratio=val, purge=purge, symbol=symbol
        )
    except ValueError as error:
        assert "part is empty" in str(error) or "no time in common" in str(error)
        return
    opens = times - purge  # a target is the stretch (opens, closes]
    assert times[split.train].max() <= opens[split.val].min()
    assert times[split.val].max() <= opens[split.test].min()
    used = np.concatenate([split.train, split.val, split.test])
    assert len(np.unique(used)) == len(used)
    dropped = np.setdiff1d(np.flatnonzero(times <= split.test_end), used)
    assert (times[used] <= split.test_end).all()
    across = [(opens < cut) & (times > cut) for cut in (split.train_end, split.val_end)]
    assert (across[0] | across[1])[dropped].all()
    for part in (split.train, split.val, split.test):
        assert (np.diff(times[part]) >= np.timedelta64(0)).all()


# By dates


def test_a_date_names_its_whole_day_and_an_end_includes_it():
    # Targets that close from January 1st 00:00 to the 11th 00:00. The 4th ends with the close at
    # midnight.
    times = hours("2024-01-01", "2024-01-11")
    split = split_by_dates(
        times,
        train_end="2024-01-04",
        val_end="2024-01-06",
        test_start="2024-01-08",
        test_end="2024-01-09",
        purge=HOUR,
    )
    assert (times[split.train[0]], times[split.train[-1]]) == (
        times[0],
        np.datetime64("2024-01-05T00"),
    )
    assert times[split.val[[0, -1]]].astype("datetime64[h]").astype(str).tolist() == [
        "2024-01-05T01",
        "2024-01-07T00",
    ]
    assert times[split.test[[0, -1]]].astype("datetime64[h]").astype(str).tolist() == [
        "2024-01-08T01",
        "2024-01-10T00",
    ]
    assert (split.test_start, split.test_end) == (
        np.datetime64("2024-01-08"),
        np.datetime64("2024-01-10"),
    )


def test_the_test_part_reaches_from_the_validation_to_the_last_sample_by_default():
    times = hours("2024-01-01", "2024-01-11")
    split = split_by_dates(times, train_end="2024-01-04", val_end="2024-01-06", purge=3 * HOUR)
    assert times[split.val[0]] == np.datetime64("2024-01-05T03")
    assert times[split.test[[0, -1]]].tolist() == [
        np.datetime64("2024-01-07T03", "ms").item(),
        times[-1].item(),
    ]


def test_a_time_of_day_names_an_instant():
    times = hours("2024-01-01", "2024-01-11")
    split = split_by_dates(
        times, train_end="2024-01-04T12:00", val_end="2024-01-06 06:00+02:00", purge=HOUR
    )
    assert split.train_end == np.datetime64("2024-01-04T12")
    assert split.val_end == np.datetime64("2024-01-06T04")
    assert times[split.train[-1]] == np.datetime64("2024-01-04T12")


@pytest.mark.parametrize(
    "dates",
    [
        {"train_end": "2024-01-06", "val_end": "2024-01-04"},
        {"train_end": "2024-01-04", "val_end": "2024-01-04"},
        {
            "train_end": "2024-01-04",
            "val_end": "2024-01-06",
            "test_start": "2024-01-06",
        },  # the 6th is validation's
        {"train_end": "2024-01-04", "val_end": "2024-01-06", "test_end": "2024-01-06"},
        {"train_end": "2024-01-04", "val_end": "2024-01-11"},
    ],
)
def test_dates_out_of_order_are_refused(dates):
    with pytest.raises(
        ValueError,
        match="dates out of order: train_end 2024-01-0.*the samples lie between 2024-01-01",
    ):
        split_by_dates(hours("2024-01-01", "2024-01-11"), **dates, purge=HOUR)


def test_a_part_without_samples_is_named():
    times = np.r_[hours("2024-01-01", "2024-01-03"), hours("2024-01-08", "2024-01-11")]
    with pytest.raises(ValueError, match="val part is empty"):
        split_by_dates(times, train_end="2024-01-04", val_end="2024-01-06", purge=HOUR)
    with pytest.raises(ValueError, match="train part is empty"):
        split_by_dates(times, train_end="2023-01-04", val_end="2024-01-06", purge=HOUR)


@pytest.mark.parametrize(
    "text", ["soon", "", "now", "12:00", "2024", "2024-01", "04.01.2024", "2024-01-32", "20240104"]
)
def test_what_names_no_day_is_refused_and_not_guessed(text):
    with pytest.raises(
        ValueError,
        match=f"train_end '{text}' is no date; write it as 2023-09-30 or 2023-09-30T12:00",
    ):
        split_by_dates(
            hours("2024-01-01", "2024-01-11"), train_end=text, val_end="2024-01-06", purge=HOUR
        )
