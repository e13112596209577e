"""The factor on an interval's width: what came true by then, by hand, and nothing later."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.candles.schema import timestamps_ms
from pipeline.candles.synthetic import synthetic_candles
from pipeline.forecasts.intervals import (
    IntervalModel,
    candle_widths,
    conformal_quantiles,
    input_names,
    scale_inputs,
)
from pipeline.forecasts.width import FEW, LARGEST_FACTOR, STRENGTH, rank, width_factors
from pipeline.samples.windows import segmented_volatility

HOUR = 3_600_000


def factors(moves, half_width=1.0, *, horizon=1, memory=4, rows=None, times=None):
    """Factors of candles whose log-returns are `moves`, in half-widths of 1 % each."""
    close = 100 * np.exp(0.01 * np.concatenate([[0.0], np.cumsum(moves)]))
    n = len(close)
    half = np.broadcast_to(0.01 * np.asarray(half_width), n).copy()
    times = HOUR * np.arange(n) if times is None else times
    rows = np.arange(n) if rows is None else np.array(rows)
    return width_factors(half, close, times, HOUR, horizon, memory, rows)


def test_the_factor_is_the_fourth_of_four_moves_to_the_power_of_three_quarters():
    # Of 4 scores the conformal one is the min(ceil(0.8 · 5), 4)-th: the largest.
    moves = [0.5, -1.5, 1.0, 0.2, 0.1, 0.1]
    assert factors(moves)[4] == pytest.approx(1.5**STRENGTH)
    assert factors(moves)[5] == pytest.approx(1.5**STRENGTH)  # of the moves 1.5, 1, 0.2, 0.1
    assert factors(moves)[6] == pytest.approx(1.0)  # of 1, 0.2, 0.1, 0.1


def test_with_fewer_moves_the_factor_is_drawn_towards_1():
    found = factors([1.5, 0.2])
    assert found[0] == 1.0
    assert found[1] == pytest.approx(1.5 ** (STRENGTH / 4))
    assert found[2] == pytest.approx(1.5 ** (STRENGTH / 2))


def test_a_move_counts_once_its_last_candle_has_closed():
    moves = [0.0] * 8
    moves[3] = 1.8
    two_ahead = factors(moves, horizon=2, memory=2)
    # The moves over two candles from 2 and from 3 hold it; the first of them ends at candle 4.
    assert two_ahead[3] == pytest.approx((1 / LARGEST_FACTOR) ** (STRENGTH / np.sqrt(2)))
    assert two_ahead[4] == pytest.approx(1.8 ** (STRENGTH / np.sqrt(2)))


def test_a_move_across_a_gap_or_without_an_interval_is_none():
    moves = [1.5, 1.5, 1.5, 1.5, 1.5]
    times = HOUR * np.array([0, 1, 2, 4, 5, 6])
    whole, gapped = factors(moves), factors(moves, times=times)
    assert whole[4] == pytest.approx(1.5**STRENGTH)
    assert gapped[4] == pytest.approx(1.5 ** (STRENGTH * 3 / 4))
    unknown = factors(moves, half_width=[np.nan, np.nan, 1, 1, 1, 1])
    assert unknown[4] == pytest.approx(1.5 ** (STRENGTH * 2 / 4))


def test_a_long_gap_starts_the_memory_again():
    moves = [1.5] * 6
    times = HOUR * np.array([0, 1, 2, 3, 20, 21, 22])
    found = factors(moves, times=times)
    assert found[3] == pytest.approx(1.5 ** (STRENGTH * 3 / 4))
    assert found[4] == 1.0
    assert found[6] == pytest.approx(1.5 ** (STRENGTH * 2 / 4))


def test_after_a_halt_and_in_a_crash_the_factor_has_bounds():
    assert factors([0.0] * 10)[-1] == pytest.approx(LARGEST_FACTOR**-STRENGTH)
    assert factors([9.0] * 10)[-1] == pytest.approx(LARGEST_FACTOR**STRENGTH)


def test_without_a_memory_there_is_no_factor():
    assert (factors([3.0] * 10, memory=0) == 1).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5))
def test_one_row_and_all_of_them_give_the_same_bits(seed, memory, horizon):
    moves = np.random.default_rng(seed).standard_normal(3 * FEW).round(1)  # with equal ones
    every = factors(moves, horizon=horizon, memory=memory)
    for row in (0, horizon, memory, memory + horizon, 2 * FEW, 3 * FEW):
        assert factors(moves, horizon=horizon, memory=memory, rows=[row])[0] == every[row]


def test_the_rank_is_that_of_split_conformal_prediction():
    assert [rank(n) for n in (1, 2, 4, 9, 450)] == [1, 2, 4, 8, 361]


def test_the_width_knows_nothing_later_and_little_of_where_the_history_starts():
    candles = synthetic_candles(1400, seed=3)
    model = IntervalModel(
        0.1, dict.fromkeys(input_names("1h"), 0.01), conformal_quantiles(np.linspace(-2, 2, 999)),
        memory=450.0,
    )  # fmt: skip

    def width(frame, row):
        inputs, volatility = scale_inputs(frame, "1h", 1), segmented_volatility(frame, "1h", 1)
        return candle_widths(model, frame, inputs, volatility, "1h", 1, np.array([row]))[0]

    whole = width(candles, 1300)
    assert width(candles[:1301], 1300) == whole
    later = candles[1300 - 924 :].reset_index(drop=True)
    assert width(later, 924) == pytest.approx(whole, rel=1e-5)
    assert whole != 1.0 and timestamps_ms(later)[924] == timestamps_ms(candles)[1300]
