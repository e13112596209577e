"""The leakage check catches what looks ahead and leaves alone what does not."""

import numpy as np
import pandas as pd
import pytest

from feature_engineering import V2_FEATURES, compute_features
from pipeline.candles.synthetic import synthetic_candles
from pipeline.samples.leakage import LookAheadError, check
from pipeline.samples.scaling import scale_rows
from pipeline.samples.windows import window_view

CANDLES = synthetic_candles(400, seed=21)

LEAKS = {
    "z-score over the whole sample": lambda c: (c["close"] - c["close"].mean()) / c["close"].std(),
    "min-max scaling over the whole sample": lambda c: (
        (c["close"] - c["close"].min()) / np.ptp(c["close"])
    ),
    "centred rolling mean": lambda c: c["close"].rolling(5, center=True).mean(),
    "the next close": lambda c: c["close"].shift(-1),
    "the direction of the next candle": lambda c: c["close"].shift(-1) > c["close"],
    "back-filled warm-up": lambda c: c["close"].rolling(20).mean().bfill(),
    "back-filled first return": lambda c: c["close"].pct_change().bfill(),
    "back-filled hole": lambda c: c["open_interest"].where(c.index % 7 == 0).bfill(),
    "the last candle's high": lambda c: c["close"] / c["high"].iloc[-1],
    "a rank among all": lambda c: c["volume"].rank(pct=True),
    "a difference the wrong way round": lambda c: c["open"].diff(-1),
    "the next volume": lambda c: c["volume"].shift(-1),
    "the next funding rate": lambda c: c["funding_rate"].shift(-1),
    "the next open interest": lambda c: c["open_interest"].shift(-1),
    "a smoothing that runs backwards": lambda c: c["close"][::-1].ewm(span=5).mean()[::-1],
}

CAUSAL = {
    "the candle itself": lambda c: c[["open", "high", "low", "close", "volume", "funding_rate"]],
    "the last close": lambda c: c["close"].shift(1),
    "a rolling mean": lambda c: c["close"].rolling(20).mean(),
    "a smoothing": lambda c: c["close"].ewm(span=26, adjust=False).mean(),
    "an expanding z-score": lambda c: (
        (c["close"] - c["close"].expanding().mean()) / c["close"].expanding().std()
    ),
    "a forward-filled hole": lambda c: c["open_interest"].where(c.index % 7 == 0).ffill(),
    "an array": lambda c: np.log(c["close"].to_numpy()),
    "a constant": lambda c: pd.Series(1.0, index=c.index),
    "times": lambda c: c["timestamp"],
    "the features": lambda c: compute_features(c, "1h"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_look_ahead_is_caught(name):
    with pytest.raises(
        LookAheadError,
        match=r"row \d+, column .* once the candles after row \d+ are .*: "
        r"it looks ahead, by \d+ candle",
    ):
        check(LEAKS[name], CANDLES)


@pytest.mark.parametrize("name", CAUSAL)
def test_what_looks_backwards_passes(name):
    check(CAUSAL[name], CANDLES)


def test_the_error_names_row_and_column():
    def features(candles):
        return pd.DataFrame({"fine": candles["close"], "leaky": candles["close"].shift(-1)})

    with pytest.raises(
        LookAheadError, match="row 0, column 'leaky' is .* once the candles after row 0 are changed"
    ):
        check(features, CANDLES)
    later = (
        r"row 199, column 'leaky' is \d+\.\d+, "
        r"but \d+\.\d+ once the candles after row 199 are changed"
    )
    with pytest.raises(LookAheadError, match=later):
        check(lambda c: features(c).iloc[100:].reindex(c.index), CANDLES)


@pytest.mark.parametrize(
    "name", ["open", "high", "low", "close", "volume", "funding_rate", "open_interest"]
)
def test_every_column_of_the_future_is_changed(name):
    with pytest.raises(LookAheadError, match="after row 0 are changed"):
        check(lambda c: c[name].shift(-1), CANDLES)


def test_removed_candles_tell_what_changed_ones_do_not():
    # A candle's price times any factor keeps its sign; that it is there at all shows only once it
    # is not.
    with pytest.raises(LookAheadError, match="after row 199 are removed"):
        check(lambda c: np.sign(c["close"].shift(-1)), CANDLES)


def test_the_smallest_look_ahead_is_caught():
    # A millionth of the next close is 1e-6 of the value: bits are compared, nothing is near enough.
    with pytest.raises(LookAheadError):
        check(lambda c: c["close"] + 1e-9 * c["close"].shift(-1), CANDLES)


@pytest.mark.parametrize(
    ("function", "row", "distance"),
    [
        (lambda c: c["close"].shift(-1), 0, "1 candle"),
        (lambda c: c["close"].shift(-3), 0, "3 candles"),
        (lambda c: c["close"].rolling(5, center=True, min_periods=1).mean(), 0, "2 candles"),
        (
            lambda c: c["close"].rolling(20).mean().bfill(),
            0,
            "19 candles",
        ),  # the first mean is in row 19
        (lambda c: c["close"] / c["close"].mean(), 0, "399 candles"),  # to the last of the 400
        (
            lambda c: np.sign(c["close"].shift(-3)),
            197,
            "3 candles",
        ),  # seen where the candles after row 199 are gone
    ],
)
def test_the_error_says_how_far_ahead_it_looks(function, row, distance):
    with pytest.raises(
        LookAheadError, match=rf"row {row}, column 'close'.*: it looks ahead, by {distance}$"
    ):
        check(function, CANDLES)


def test_what_users_have_is_taken_as_it_is():
    frame = CANDLES.assign(volume=CANDLES["volume"].round().astype("int64"), trades=np.arange(400))
    for candles in (
        frame,
        frame.set_index("timestamp"),
        frame.rename(columns={"timestamp": "open_time"}),
    ):
        check(lambda c: c[["close", "volume", "trades"]].rolling(5).mean(), candles)
        with pytest.raises(
            LookAheadError, match=r"column 'trades' .* row 0 are changed: .* by 2 candles"
        ):
            check(lambda c: c[["trades"]].shift(-2), candles)


def test_columns_that_depend_on_later_candles_are_a_look_ahead():
    def without_wild_columns(
        candles,
    ):  # such as dropping what correlates too much over the whole sample
        prices = candles[["open", "close"]]
        return (
            prices if candles["close"].iloc[-1] == CANDLES["close"].iloc[-1] else prices[["open"]]
        )

    with pytest.raises(
        LookAheadError,
        match=r"\['open', 'close'\], but \['open'\] once later candles are other ones",
    ):
        check(without_wild_columns, CANDLES)


def test_a_function_that_draws_lots_is_told_to_seed_them():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="other rows at every call for the same candles; seed"):
        check(lambda c: c["close"] + generator.normal(size=len(c)), CANDLES)


def test_a_leak_that_shows_only_near_a_cut_needs_the_cut():
    def leaky(candles):  # row 100 alone looks ahead, by one candle
        values = candles["close"].to_numpy(copy=True)
        if len(values) > 101:
            values[100] = values[101]
        return values

    check(leaky, CANDLES)
    with pytest.raises(LookAheadError, match="row 100"):
        check(leaky, CANDLES, cuts=(101 / 400,))


def test_scaled_windows_do_not_look_ahead_but_a_scaler_fitted_on_everything_does():
    from sklearn.preprocessing import StandardScaler

    def rows(candles):
        return compute_features(candles, "1h").to_numpy(np.float32)

    training = StandardScaler().fit(rows(CANDLES)[48:200])

    def windows(candles, scaler=training):
        scaled = scale_rows(rows(candles), scaler)
        padded = np.vstack([np.zeros((59, len(V2_FEATURES)), dtype=np.float32), scaled])
        return window_view(padded, 60)  # window i ends with candle i

    check(windows, CANDLES, cuts=(0.5, 0.75, 0.95))
    with pytest.raises(LookAheadError):
        check(lambda c: windows(c, StandardScaler().fit(rows(c)[48:])), CANDLES)


@pytest.mark.parametrize(
    "function",
    [lambda c: c["close"].dropna().iloc[1:], lambda c: c["close"].to_numpy()[:-1], lambda c: 1.0],
)
def test_anything_but_one_row_per_candle_is_refused(function):
    with pytest.raises(
        ValueError, match=r"the function must return one row per candle \(400\), not "
    ):
        check(function, CANDLES)


def test_the_candles_stay_as_they_are():
    before = CANDLES.copy()

    def careless(candles):
        candles["close"] *= 0.0
        return candles["close"]

    check(careless, CANDLES)
    pd.testing.assert_frame_equal(CANDLES, before, check_exact=True)
