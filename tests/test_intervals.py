"""Intervals: causal inputs, a scale that finds what was planted, quantiles that cover."""

import logging
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.bench_intervals import forecast_all, score
from feature_engineering import V2_WARMUP
from pipeline.bundle.scalers import load_scalers, save_scalers
from pipeline.candles import formats
from pipeline.candles.schema import TIMEFRAME_MS, timestamps_ms
from pipeline.candles.synthetic import synthetic_candles, synthetic_market
from pipeline.forecasts import garch
from pipeline.forecasts.garch import garch_quantiles, garch_volatility
from pipeline.forecasts.intervals import (
    LEVELS,
    LONG_WINDOW,
    MIN_VOLATILITY,
    PENALTY,
    QUANTILE_NAMES,
    IntervalModel,
    apply_intervals,
    calibrating_samples,
    conformal_quantiles,
    fit_intervals,
    fit_slopes,
    input_names,
    scale_inputs,
    scaled_quantiles,
)
from pipeline.forecasts.width import MEMORY, width_factors
from pipeline.samples.indicators import log_returns
from pipeline.samples.leakage import check
from pipeline.samples.splitting import chronological_split, split_by_dates
from pipeline.samples.windows import make_windows, segmented_volatility, usable_rows

HOUR_MS = 3_600_000
FIRST = 48
"""row of a segment's 48th return"""
NUMBERS = IntervalModel(
    0.5,
    {"a": 1.0, "b": -2.0},
    dict(zip(QUANTILE_NAMES, (-2.0, -1.0, -0.5, 0.1, 0.5, 1.5, 3.0), strict=True)),
)


def samples_of(market, timeframe="1h", horizon=1):
    """Samples without features, and the inputs of each."""
    nothing = {symbol: pd.DataFrame(index=frame.index) for symbol, frame in market.items()}
    samples = make_windows(nothing, market, timeframe, 60, horizon, V2_WARMUP)
    inputs = np.concatenate([scale_inputs(frame, timeframe, horizon) for frame in market.values()])
    return samples, inputs[samples.end]


def split_of(samples):
    purge = np.timedelta64(samples.horizon * samples.step_ms, "ms")
    return chronological_split(
        samples.target_time, train_ratio=0.5, val_ratio=0.25, purge=purge, symbol=samples.symbol
    )


@pytest.fixture(scope="module")
def market():
    return synthetic_market(("BTC/USDT", "ETH/USDT", "SOL/USDT"), "1h", 5000, seed=3)


# Inputs


@pytest.mark.parametrize(
    ("timeframe", "horizon"), [("1h", 1), ("1h", 24), ("15m", 4), ("4h", 1), ("1d", 1)]
)
def test_inputs_do_not_look_ahead(timeframe, horizon):
    candles = synthetic_candles(900, timeframe=timeframe, seed=5)
    check(lambda c: scale_inputs(c, timeframe, horizon), candles)


def test_inputs_of_the_served_row_forget_where_the_history_starts():
    candles = synthetic_candles(3000, seed=8)
    whole = scale_inputs(candles, "1h", 4)
    spread = whole[V2_WARMUP:].std(axis=0)
    required = 60 + V2_WARMUP
    for end in (900, 1777, 2500, 3000):
        frame = candles.iloc[end - required : end].reset_index(drop=True)
        assert (
            np.abs(scale_inputs(frame, "1h", 4)[-1] - whole[end - 1]).max() <= 1e-6 * spread.min()
        )


@pytest.mark.parametrize("timeframe", list(TIMEFRAME_MS))
@pytest.mark.parametrize("horizon", [1, 24])
def test_every_timeframe_has_finite_inputs_from_the_first_usable_row_on(timeframe, horizon):
    candles = synthetic_candles(60, timeframe=timeframe, seed=1)
    inputs = scale_inputs(candles, timeframe, horizon)
    assert inputs.shape == (60, len(input_names(timeframe)))
    assert np.isfinite(inputs[FIRST:]).all()
    assert np.isnan(inputs[:FIRST, : input_names(timeframe).index("momentum") + 1]).all()


def test_inputs_start_afresh_after_a_long_gap_and_run_on_across_a_short_one():
    candles = synthetic_candles(400, seed=2)
    after = candles.iloc[250:].reset_index(drop=True)
    long_gap = pd.concat([candles.iloc[:200], after], ignore_index=True)
    inputs = scale_inputs(long_gap, "1h", 1)
    np.testing.assert_array_equal(inputs[200:], scale_inputs(after, "1h", 1))
    usable = usable_rows(timestamps_ms(long_gap), HOUR_MS, 60, 0)
    assert np.isfinite(inputs[usable]).all()
    # Row 200 between two gaps
    lone = candles.drop(index=[*range(200, 250), *range(251, 300)]).reset_index(drop=True)
    assert np.isnan(scale_inputs(lone, "1h", 1)[200, 0])
    short_gap = candles.drop(index=range(200, 206)).reset_index(drop=True)
    assert np.isfinite(scale_inputs(short_gap, "1h", 1)[FIRST:]).all()


def test_inputs_by_hand_where_each_candle_is_like_the_last():
    # Each close is e^±0.02 of the one before, so EWMA volatility and mean |return| are 0.02; the
    # range is twice that.
    n = 600
    close = 100 * np.exp(0.02 * (np.arange(n) % 2))
    candles = pd.DataFrame(
        {
            "timestamp": pd.date_range("2024-01-01", periods=n, freq="1h", tz="UTC").as_unit(
                "ms"
            ),  # a Monday
            "open": close,
            "high": close * math.exp(0.03),
            "low": close * math.exp(-0.01),
            "close": close,
            "volume": np.where(np.arange(n) == n - 1, 200.0, 100.0),
        }
    )
    last = dict(zip(input_names("1h"), scale_inputs(candles, "1h", 1)[-1], strict=True))
    for name in ("range_3", "range_12", "range_48", "range_336", "same_time"):
        assert last[name] == pytest.approx(math.log(2))
    for name in ("move_3", "move_12", "move_336"):
        assert last[name] == pytest.approx(0, abs=1e-9)
    # 168 candles earlier the close was the same. The last volume is twice the usual 100; its own
    # weight is 2/49.
    assert last["momentum"] == pytest.approx(0, abs=1e-9)
    assert last["volume"] == pytest.approx(math.log(200 / (100 + 100 * 2 / 49)))
    # The target is candle 600, a Friday 00:00: the start of a day, a day after that of a week (the
    # epoch's Thursday).
    assert last["week_7_cos"] == pytest.approx(1)
    assert last["week_7_sin"] == pytest.approx(0, abs=1e-9)
    assert last["week_1_cos"] == pytest.approx(math.cos(2 * math.pi / 7))


def test_momentum_by_hand():
    n = 300
    close = 100 * np.exp(0.01 * np.arange(n))
    candles = synthetic_candles(n, seed=1).assign(open=close, high=close, low=close, close=close)
    inputs = scale_inputs(candles, "1h", 1)
    column = input_names("1h").index("momentum")
    assert inputs[-1, column] == pytest.approx(math.log1p(0.01 * 168 / math.sqrt(168) / 0.01))
    # 100 candles are all there are
    assert inputs[100, column] == pytest.approx(math.log1p(math.sqrt(100)))


@pytest.mark.parametrize("horizon", [1, 3, 24])
def test_the_same_time_of_day_is_that_of_the_target(horizon):
    # Every day the candle of 05:00 UTC has a range ten times the others'; two weeks of it are in
    # the mean.
    candles = synthetic_candles(500, seed=4)
    hour = candles["timestamp"].dt.hour.to_numpy()
    close = 100 * np.exp(0.001 * (np.arange(500) % 2))
    width = np.where(hour == 5, 0.1, 0.01)
    candles = candles.assign(open=close, close=close, high=close * np.exp(width), low=close)
    column = input_names("1h").index("same_time")
    inputs = scale_inputs(candles, "1h", horizon)[-24:, column]
    for i, t in enumerate(range(476, 500)):
        ahead = [(hour[t] + j) % 24 for j in range(1, horizon + 1)]
        expected = np.mean([0.1 if h == 5 else 0.01 for h in ahead])
        assert inputs[i] == pytest.approx(math.log(expected / 0.001))


@pytest.mark.parametrize(
    ("timeframe", "horizon"), [("1h", 1), ("1h", 24), ("1h", 200), ("15m", 5), ("1d", 3)]
)
def test_the_waves_of_the_week_are_means_over_the_candles_of_the_target(timeframe, horizon):
    candles = synthetic_candles(80, timeframe=timeframe, seed=1)
    inputs, names = scale_inputs(candles, timeframe, horizon), input_names(timeframe)
    step, t = TIMEFRAME_MS[timeframe], 70
    opens = timestamps_ms(candles)[t] + step * np.arange(1, horizon + 1)
    for cycles in (1, 2, 3):
        angle = 2 * np.pi * cycles * opens / (7 * 86_400_000)
        assert inputs[t, names.index(f"week_{cycles}_cos")] == pytest.approx(
            np.cos(angle).mean(), abs=1e-9
        )
        assert inputs[t, names.index(f"week_{cycles}_sin")] == pytest.approx(
            np.sin(angle).mean(), abs=1e-9
        )


def test_hours_have_no_part_in_daily_candles():
    assert "week_7_cos" in input_names("4h")
    assert not any(name.startswith("week_7") for name in input_names("1d"))


def test_inputs_have_no_unit():
    candles = synthetic_candles(700, seed=6)
    prices = ["open", "high", "low", "close"]
    cheap = candles.assign(
        **{name: candles[name] * 1e-4 for name in prices}, volume=candles["volume"] * 1e4
    )
    np.testing.assert_allclose(
        scale_inputs(cheap, "1h", 1), scale_inputs(candles, "1h", 1), atol=1e-9
    )


def test_a_price_that_stands_still_has_finite_inputs_and_a_width():
    still = synthetic_candles(700, seed=1)
    still = still.assign(open=5.0, high=5.0, low=5.0, close=5.0, volume=0.0)
    inputs = scale_inputs(still, "1h", 1)
    assert np.isfinite(inputs[FIRST:]).all()
    zeros = np.zeros(len(still))
    model = IntervalModel(0.0, dict.fromkeys(input_names("1h"), 0.5), NUMBERS.quantiles)
    served = apply_intervals(model, inputs[FIRST:], zeros[FIRST:], zeros[FIRST:])
    assert (served["q10"] < served["q90"]).all()
    assert np.abs(served["q90"]).max() < 1e-4


# Quantiles


def test_split_conformal_quantiles_by_hand():
    # 9 residuals: the 1st smallest has 1/10 below it, the 5th 5/10; beyond 1/10 and 9/10 there is
    # nothing to tell.
    assert conformal_quantiles(np.array([9.0, 1, 8, 2, 7, 3, 6, 4, 5])) == {
        "q05": 1.0,
        "q10": 1.0,
        "q25": 2.5,
        "q50": 5.0,
        "q75": 7.5,
        "q90": 9.0,
        "q95": 9.0,
    }


def test_a_fresh_residual_falls_below_a_conformal_quantile_as_often_as_it_says():
    # Uniform residuals: the mean position of the quantile is its level exactly; 20,000 trials of 19
    # residuals.
    draws = np.random.default_rng(0).random((20_000, 19))
    quantiles = np.quantile(draws, LEVELS, axis=1, method="weibull").mean(axis=1)
    assert quantiles == pytest.approx(LEVELS, abs=0.003)
    assert conformal_quantiles(draws[0])["q10"] == np.sort(draws[0])[1]  # the 2nd of 19: 2/20


def test_few_samples_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        conformal_quantiles(np.arange(10.0))
        conformal_quantiles(np.arange(100.0))
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "only 10 samples calibrate the intervals"
    ]


def test_a_baselines_quantiles_are_constants_times_its_scale():
    candles = {"BTC/USDT": synthetic_candles(700, seed=3)}
    samples, _ = samples_of(candles)
    frame = candles["BTC/USDT"]
    scale = np.linspace(0.01, 0.03, len(frame))
    at = samples.end
    residual = np.array([9.0, 1, 8, 2, 7, 3, 6, 4, 5])
    log_return = np.zeros(len(samples))
    log_return[:9] = residual * scale[at[:9]]
    quantiles = scaled_quantiles(
        {"BTC/USDT": scale}, candles, replace(samples, log_return=log_return), np.arange(9)
    )
    # q90 - q10 of the nine residuals is 9 - 1, so half the interval is four scales wide.
    half = 4.0 * scale
    widths = width_factors(
        half, frame["close"].to_numpy(), timestamps_ms(frame), 3_600_000, 1, MEMORY, at
    )
    assert not np.allclose(widths, 1)
    assert quantiles["q10"] == pytest.approx(1.0 * scale[at] * widths)
    assert quantiles["q50"] == pytest.approx(5.0 * scale[at] * widths)


# The model


def test_the_model_is_applied_by_hand_arithmetic():
    # x'b is 0.5, 0.5, 9.5 and -17.5
    inputs = np.array([[0.5, 0.25], [0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    served = apply_intervals(NUMBERS, inputs, np.full(4, 0.01), np.array([0.001, 0.0, 0.0, 0.0]))
    scale = 0.01 * np.exp([0.5, 0.5, 3.0, -3.0])  # bounded at a factor of e^3
    assert list(served) == list(QUANTILE_NAMES)
    assert served["q10"] == pytest.approx(np.array([0.001, 0, 0, 0]) - 1.0 * scale)
    assert served["q90"] == pytest.approx(np.array([0.001, 0, 0, 0]) + 1.5 * scale)


def test_a_dead_market_keeps_the_least_width():
    served = apply_intervals(NUMBERS, np.zeros((1, 2)), np.zeros(1), np.zeros(1))
    assert served["q90"][0] == pytest.approx(1.5 * MIN_VOLATILITY * math.exp(0.5))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=1, max_size=30),
    st.floats(-50, 50),
    st.floats(0, 1),
    st.floats(-0.5, 0.5),
)
def test_quantiles_never_cross(residuals, value, volatility, forecast):
    model = IntervalModel(0.1, {"a": 1.0}, conformal_quantiles(np.array(residuals)))
    served = apply_intervals(
        model, np.array([[value]]), np.array([volatility]), np.array([forecast])
    )
    assert (np.diff([served[name][0] for name in QUANTILE_NAMES]) >= 0).all()


def test_one_row_alone_gives_the_bits_it_gives_among_many():
    generator = np.random.default_rng(1)
    inputs, volatility = generator.normal(size=(1001, 2)), generator.uniform(0.001, 0.1, 1001)
    many = apply_intervals(NUMBERS, inputs, volatility, volatility)
    for i in (0, 500, 1000):
        one = apply_intervals(
            NUMBERS, inputs[i : i + 1], volatility[i : i + 1], volatility[i : i + 1]
        )
        assert {name: values[i] for name, values in many.items()} == {
            name: values[0] for name, values in one.items()
        }


def test_inputs_of_another_width_are_refused():
    with pytest.raises(
        ValueError, match="2 coefficients for 3 inputs; was it trained on another timeframe"
    ):
        apply_intervals(NUMBERS, np.zeros((1, 3)), np.ones(1), np.zeros(1))


def test_the_model_survives_the_scaler_file(tmp_path):
    save_scalers({"intervals": NUMBERS.as_dict()}, tmp_path / "scalers.pkl")
    read = IntervalModel.from_dict(load_scalers(tmp_path / "scalers.pkl")["intervals"])
    assert read == NUMBERS
    assert list(read.coefficients) == list(NUMBERS.coefficients)  # the order is that of the inputs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"intercept": math.nan},
            "'intercept' is nan, not a number from .*; train the model again",
        ),
        ({"intercept": True}, "'intercept' is True, not a number from"),
        ({"coefficients": {"a": "1"}}, "'a' is '1', not a number from"),
        ({"coefficients": None}, "'coefficients' is None, not a dict"),
        ({"quantiles": {"q10": 0.0}}, "the quantiles are .'q10'., not q05, q10"),
        ({"quantiles": dict.fromkeys(QUANTILE_NAMES, 0.0) | {"q05": 1.0}}, "are not in order"),
        ({"slopes": dict.fromkeys(QUANTILE_NAMES, 1.5)}, "'q05' is 1.5, not a number from 0 to 1"),
        ({"slopes": {"q50": 1.0}}, "the slopes are .* not one of each quantile"),
    ],
)
def test_a_damaged_model_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        IntervalModel.from_dict(NUMBERS.as_dict() | change)


def planted(n=40_000, seed=0):
    """Inputs, Laplace returns of scale volatility * exp(0.2 + 0.5 a - 0.3 b), volatility."""
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(n, 2))
    volatility = generator.uniform(0.001, 0.05, n)
    scale = volatility * np.exp(0.2 + inputs @ [0.5, -0.3])
    return inputs, generator.laplace(size=n) * scale, volatility


def test_a_planted_scale_is_recovered_and_covers():
    inputs, log_return, volatility = planted()
    train, val, test = np.arange(20_000), np.arange(20_000, 30_000), np.arange(30_000, 40_000)
    model = fit_intervals(inputs, ("a", "b"), log_return, volatility, train, val)
    # Standard error 1/sqrt(20,000) = 0.007; the penalty takes back 100 of 20,000.
    assert [model.intercept, *model.coefficients.values()] == pytest.approx(
        [0.2, 0.5, -0.3], abs=0.03
    )
    # A Laplace variable falls below ln(2 p) with probability p < 0.5; standard error 0.03 at 0.1,
    # more at 0.05.
    assert model.quantiles["q10"] == pytest.approx(math.log(0.2), abs=0.12)
    assert model.quantiles["q90"] == pytest.approx(-math.log(0.2), abs=0.12)
    served = apply_intervals(model, inputs[test], volatility[test], np.zeros(len(test)))
    for name, level in zip(QUANTILE_NAMES, LEVELS, strict=True):
        assert np.mean(log_return[test] <= served[name]) == pytest.approx(level, abs=0.02)


def test_the_fit_solves_its_normal_equations():
    # At the least sum of |y| e^-m + m with m = c + x'b, penalised: sum (1 - |y| e^-m) x + penalty *
    # b = 0.
    inputs, log_return, volatility = planted(n=500, seed=4)
    model = fit_intervals(
        inputs, ("a", "b"), log_return, volatility, np.arange(400), np.arange(400, 500)
    )
    slope = np.array(list(model.coefficients.values()))
    rest = 1 - np.abs(log_return / volatility)[:400] * np.exp(
        -model.intercept - inputs[:400] @ slope
    )
    assert rest.sum() == pytest.approx(0, abs=0.1)
    assert rest @ inputs[:400] + PENALTY * slope == pytest.approx([0, 0], abs=0.1)


def test_the_interval_is_that_of_the_forecasts_residual():
    inputs, log_return, volatility = planted(n=3000, seed=1)
    train, val = np.arange(2000), np.arange(2000, 3000)
    forecast = 0.5 * log_return[val]  # knows half of every move, so the rest is half as wide
    bare = fit_intervals(inputs, ("a", "b"), log_return, volatility, train, val)
    informed = fit_intervals(inputs, ("a", "b"), log_return, volatility, train, val, forecast)
    assert informed.coefficients == bare.coefficients
    assert informed.quantiles == pytest.approx(
        {name: value / 2 for name, value in bare.quantiles.items()}
    )


def test_validation_and_the_year_before_its_end_calibrate(market):
    samples, _ = samples_of(market)
    split = split_of(samples)
    chosen = calibrating_samples(samples, split)
    assert chosen[: len(split.val)].tolist() == split.val.tolist()
    assert sorted(chosen) == sorted([*split.train, *split.val])  # these candles span five months
    days = 24 * np.arange(len(samples.target_time)).astype("timedelta64[h]")  # a day a sample
    slow = replace(samples, target_time=np.datetime64("2020-01-01", "ms") + days)
    parts = replace(split, train=np.arange(1000), val=np.arange(1005, 1100))
    # From day 1099 - 365 = 734 on, which itself is not counted.
    assert calibrating_samples(slow, parts).tolist() == [*range(1005, 1100), *range(735, 1000)]


def test_the_slopes_tell_a_shifted_distribution_from_one_whose_median_alone_moves():
    generator = np.random.default_rng(5)
    centres = generator.normal(0, 0.5, 40_000)
    noise = generator.normal(size=len(centres))
    assert set(fit_slopes(centres + noise, centres).values()) == {1.0}
    # Small moves revert, large ones do not: within 1 of nothing a move is shifted, beyond it is
    # not.
    moves = np.where(np.abs(noise) < 1, noise + 0.5 * centres * (1 - np.abs(noise)), noise)
    slopes = fit_slopes(moves, 0.5 * centres)
    assert (
        slopes["q50"] == 1.0
        and slopes["q05"] == slopes["q95"] == slopes["q10"] == slopes["q90"] == 0.0
    )
    assert 0.1 <= slopes["q25"] == slopes["q75"] <= 0.6
    assert fit_slopes(noise, np.zeros(len(noise))) == dict.fromkeys(QUANTILE_NAMES, 1.0)


def test_slopes_move_each_quantile_by_their_share_of_the_forecast_and_none_crosses():
    slopes = dict(zip(QUANTILE_NAMES, (0.0, 0.0, 0.5, 1.0, 0.5, 0.0, 0.0)))
    model = replace(NUMBERS, intercept=0.0, slopes=slopes)
    served = apply_intervals(model, np.zeros((2, 2)), np.ones(2), np.array([0.2, 2.0]))
    assert [round(float(served[name][0]), 9) for name in QUANTILE_NAMES] == [
        -2.0,
        -1.0,
        -0.4,
        0.3,
        0.6,
        1.5,
        3.0,
    ]
    assert [round(float(served[name][1]), 9) for name in QUANTILE_NAMES] == [
        -2.0,
        -1.0,
        0.5,
        1.5,
        1.5,
        2.1,
        3.0,
    ]


def test_numbers_of_before_there_were_slopes_shift_as_a_whole():
    old = {name: value for name, value in NUMBERS.as_dict().items() if name != "slopes"}
    assert IntervalModel.from_dict(old) == NUMBERS


def test_ten_validation_samples_give_an_interval_and_a_warning(caplog):
    inputs, log_return, volatility = planted(n=60, seed=2)
    with caplog.at_level(logging.WARNING):
        model = fit_intervals(
            inputs, ("a", "b"), log_return, volatility, np.arange(50), np.arange(50, 60)
        )
    assert caplog.text.count("only 10 samples") == 1
    assert model.quantiles["q10"] < model.quantiles["q90"]


def test_a_price_without_a_move_in_training_is_fitted():
    inputs, log_return, volatility = planted(n=300, seed=3)
    log_return[:50] = 0.0
    model = fit_intervals(
        inputs, ("a", "b"), log_return, volatility, np.arange(200), np.arange(200, 300)
    )
    assert np.isfinite([model.intercept, *model.coefficients.values()]).all()


@pytest.mark.parametrize("horizon", [1, 4, 24])
def test_intervals_cover_what_they_say_on_synthetic_candles(market, horizon):
    samples, inputs = samples_of(market, horizon=horizon)
    split = split_of(samples)
    model = fit_intervals(
        inputs, input_names("1h"), samples.log_return, samples.volatility, split.train, split.val
    )
    served = apply_intervals(model, inputs, samples.volatility, np.zeros(len(samples)))
    actual = samples.log_return[split.test]
    coverage = np.mean(
        (served["q10"][split.test] <= actual) & (actual <= served["q90"][split.test])
    )
    # 1,100 hours of three correlated coins, in wilder and calmer weeks; days overlap.
    assert coverage == pytest.approx(0.8, abs=0.04 if horizon < 24 else 0.12)


def test_a_single_symbol_of_fifteen_minutes_is_served():
    samples, inputs = samples_of(
        {"BTC/USDT": synthetic_candles(2500, timeframe="15m", seed=2)}, "15m"
    )
    split = split_of(samples)
    model = fit_intervals(
        inputs, input_names("15m"), samples.log_return, samples.volatility, split.train, split.val
    )
    served = apply_intervals(
        model, inputs[split.test], samples.volatility[split.test], np.zeros(len(split.test))
    )
    actual = samples.log_return[split.test]
    assert 0.7 < np.mean((served["q10"] <= actual) & (actual <= served["q90"])) < 0.9


# GARCH and the comparison


def test_garch_volatility_is_bollerslevs_recursion_and_ahead_what_arch_says():
    close = synthetic_candles(1200, seed=9)["close"].to_numpy()
    returns = 100 * log_returns(close)[1:]
    omega, alpha, beta, nu = garch._fit(returns[:999])
    variance = (garch_volatility(close, 1000, 1)[1:] * 100) ** 2
    np.testing.assert_allclose(
        variance[1:], omega + alpha * returns[1:] ** 2 + beta * variance[:-1], rtol=1e-9
    )
    fixed = garch._model(returns).fix([omega, alpha, beta, nu])
    day = fixed.forecast(horizon=24, start=0, reindex=False).variance.to_numpy().sum(axis=1)
    np.testing.assert_allclose((garch_volatility(close, 1000, 24)[1:] * 100) ** 2, day, rtol=1e-9)


def test_garch_is_fitted_on_the_past_and_filtered_forward():
    candles = synthetic_candles(800, seed=9)
    check(
        lambda c: garch_volatility(c["close"].to_numpy(), 300, 4), candles, cuts=(0.4, 0.75, 0.95)
    )


@pytest.mark.parametrize(
    "close", [np.full(500, 3.0), np.exp(np.linspace(0, 1, 90)), np.array([1.0])]
)
def test_candles_that_garch_cannot_be_fitted_on_give_none(close):
    assert garch_volatility(close, len(close), 1) is None


def test_garch_that_does_not_converge_is_left_out_with_a_warning(market, monkeypatch, caplog):
    samples, _ = samples_of(market)
    split = split_of(samples)
    monkeypatch.setattr(garch, "_fit", lambda returns: None)
    with caplog.at_level(logging.WARNING):
        assert garch_quantiles(market, samples, split.train_end, split.val) is None
        forecasts = forecast_all(market, "1h", samples, split)
    assert "BTC/USDT: GARCH does not converge on" in caplog.text
    found = iter([None, *[np.array([0.01, 0.1, 0.85, 5.0])] * (len(market) - 1)])
    monkeypatch.setattr(garch, "_fit", lambda returns: next(found))
    quantiles = garch_quantiles(market, samples, split.train_end, split.val)
    is_first = samples.symbol == 0
    assert np.isnan(quantiles["q10"][is_first]).all()
    assert np.isfinite(quantiles["q10"][~is_first]).all()
    assert list(forecasts) == ["EWMA", "interval model"]  # the rest stands


def test_the_comparison_scores_each_model_by_hand(market):
    samples, _ = samples_of({"BTC/USDT": market["BTC/USDT"]})
    test = np.arange(len(samples))
    unit = replace(
        samples,
        volatility=np.ones(len(samples)),
        log_return=np.tile([1.0, -1.0, 3.0], len(samples))[test],
    )
    wide = {
        "q10": np.full(len(test), -2.0),
        "q50": np.zeros(len(test)),
        "q90": np.full(len(test), 2.0),
    }
    low = dict.fromkeys(wide, unit.log_return - 1.0)
    rows = score({"EWMA": wide, "interval model": low}, unit, test)
    # The wide one at 1: 0.3, 0.5, 0.1; at -1: 0.1, 0.5, 0.3; at 3: 0.5, 1.5, 0.9; two of three are
    # inside.
    assert rows[0]["pinball"] == pytest.approx((0.9 + 0.9 + 2.9) / 9, rel=1e-3)
    assert rows[0]["coverage_percent"] == pytest.approx(200 / 3, abs=0.1)
    # All quantiles 1 too low: 0.1, 0.5, 0.9, and nothing inside.
    assert rows[1]["pinball"] == pytest.approx(0.5) and rows[1]["coverage_percent"] == 0
    assert rows[0]["skill_of_ours_percent"] == pytest.approx(100 * (1 - 4.5 / 4.7), abs=0.1)


def test_on_real_candles_the_model_beats_ewma_and_garch_and_covers(real_data):
    folder = real_data / "binanceusdm"
    market = {
        symbol: formats.read_directory(folder, symbol, "1h")
        for symbol in ("BTC/USDT", "DOGE/USDT", "XLM/USDT")
    }
    samples, _ = samples_of(market)
    split = split_by_dates(
        samples.target_time,
        "2023-09-30",
        "2023-12-31",
        "2024-01-08",
        purge=np.timedelta64(HOUR_MS, "ms"),
    )
    rows = {
        row["model"]: row
        for row in score(forecast_all(market, "1h", samples, split), samples, split.test)
    }
    for baseline in ("EWMA", "GARCH(1,1)-t"):
        assert rows[baseline]["skill_of_ours_percent"] > 1.2
        assert rows[baseline]["p_value"] < 0.01
    assert 78.5 < rows["interval model"]["coverage_percent"] < 81.5
    assert rows["interval model"]["lowest_coverage_percent"] > 76
    assert rows["interval model"]["highest_coverage_percent"] < 84


def test_the_windows_fit_the_warm_up():
    # What a served row needs: the long window and the targets' day before it, and a forgotten EWMA.
    assert LONG_WINDOW + 24 <= V2_WARMUP
    volatility = segmented_volatility(synthetic_candles(100, seed=1), "1h", 1)
    assert np.isnan(volatility[:FIRST]).all()
