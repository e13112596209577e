"""Rows are judged all together: what is missing, repeated, impossible or hard to believe."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.candles import pages
from pipeline.candles.job import Job

HOUR_MS = 3_600_000


def series_of(kind="1h"):
    return pages.PagedSeries("here", "A/B", Job("A/B", kind, since_ms=0), 100, ask=None)


@given(st.integers(2, 60), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_the_judge_finds_every_hole_and_every_repetition_however_rows_are_shuffled(n_rows, random):
    rows = np.column_stack([np.arange(n_rows) * HOUR_MS, *[np.full(n_rows, 5.0)] * 5])
    dropped = set(random.sample(range(n_rows), random.randint(0, n_rows - 1)))
    kept = [row for row in range(n_rows) if row not in dropped]
    repeated = random.choices(kept, k=random.randint(0, 5))
    shuffled = random.sample(kept + repeated, len(kept + repeated))
    judged = pages._judge(series_of(), rows[shuffled])
    assert judged.good[:, 0].tolist() == [row * HOUR_MS for row in kept]
    assert judged.n_repeated == len(repeated)
    missing = pages._missing(series_of(), judged.good[:, 0], 0, (n_rows - 1) * HOUR_MS)
    found = {hour for lo, hi in missing for hour in range(lo // HOUR_MS, hi // HOUR_MS + 1)}
    assert found == dropped


@pytest.mark.parametrize(
    ("steps", "holes"),
    [
        ([8, 8, 16, 8], [(8 * 2, 8 * 4)]),
        ([8, 16, 16, 8], [(8, 8 * 3), (8 * 3, 8 * 5)]),
        (
            [4, 4, 4, 8, 8, 8],
            [(12, 20)],
        ),  # a change of interval looks so too, and is believed when it comes again
        ([8, 8, 4, 4], [(8, 16)]),
    ],
)
def test_of_settlements_an_interval_longer_than_one_beside_it_is_suspicious(steps, holes):
    times = np.cumsum([0, *steps]) * HOUR_MS
    missing = pages._missing(series_of("funding"), times, 0, int(times[-1]))
    assert missing == [(lo * HOUR_MS + 1, hi * HOUR_MS - 1) for lo, hi in holes]
