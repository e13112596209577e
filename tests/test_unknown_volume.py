"""Volume 0 though the price moved is unknown; where nobody traded it is 0."""

import numpy as np
import pandas as pd
import pytest

from feature_engineering import V2_CANDLE_FEATURES, V2_VOLUME_FEATURES, compute_features
from generations.v1.features import V1_VOLUME_FEATURES, compute_v1_features
from generations.v1_final.features import V1_FINAL_VOLUME_FEATURES, compute_level_features
from generations.v7.features import V7_VOLUME_FEATURES, compute_ohlc_features
from generations.v9.features import V9_VOLUME_FEATURES, compute_v9_features
from pipeline.candles.synthetic import synthetic_candles
from pipeline.forecasts.intervals import apply_intervals, fit_intervals, input_names, scale_inputs
from pipeline.samples import leakage
from pipeline.samples.indicators import unknown_volume
from pipeline.samples.pooled_features import (
    POOLED_OWN_FEATURES,
    POOLED_VOLUME_FEATURES,
    with_market,
)
from pipeline.samples.windows import segmented_volatility

CANDLES = synthetic_candles(900, seed=11)

GENERATIONS = {
    "v1": (lambda c: compute_v1_features(c, "1h"), V1_VOLUME_FEATURES),
    "v1_final": (lambda c: compute_level_features(c, "1h"), V1_FINAL_VOLUME_FEATURES),
    "v2": (lambda c: compute_features(c, "1h", V2_CANDLE_FEATURES), V2_VOLUME_FEATURES),
    "pooled": (lambda c: with_market(c, None, "1h", POOLED_OWN_FEATURES), POOLED_VOLUME_FEATURES),
    "v7": (lambda c: compute_ohlc_features(c, "1h"), V7_VOLUME_FEATURES),
    "v9": (lambda c: compute_v9_features(c, "1h"), V9_VOLUME_FEATURES),
}


def without_volume(candles, share=1.0, seed=0):
    """The same candles, of which a share has volume 0 whatever the price did."""
    is_zero = np.random.default_rng(seed).random(len(candles)) < share
    return candles.assign(volume=candles["volume"].mask(is_zero, 0.0))


def flat_candles(volume, high=1.01):
    """Candles of one close, with a price range unless `high` is 1."""
    n = len(volume)
    times = pd.date_range("2024-01-01", periods=n, freq="1h", tz="UTC").as_unit("ms")
    prices = dict.fromkeys(("open", "low", "close"), np.ones(n))
    return pd.DataFrame(
        {"timestamp": times, **prices, "high": np.broadcast_to(high, n), "volume": volume}
    )


def test_volume_is_unknown_where_it_is_0_and_the_price_moved():
    candles = flat_candles([0.0, 0.0, 5.0, 5.0], high=[1.01, 1.0, 1.01, 1.0])
    assert unknown_volume(candles).tolist() == [True, False, False, False]


def test_an_unknown_volume_is_missing_and_the_last_known_one_stands_in_for_it_later():
    features = compute_features(flat_candles([1.0] * 48 + [0.0, 49.0]), "1h")
    assert features.loc[48, list(V2_VOLUME_FEATURES)].isna().all()
    # The last 48 volumes are 47 of 1, one of which stands in, and 49: mean 2, variance 47. The last
    # 20 are 19 of 1 and 49: mean 3.4.
    assert features["volume_z"][49] == pytest.approx(47**0.5)
    assert features["volume_ratio"][49] == pytest.approx(49 / 3.4)


def test_where_nobody_traded_volume_is_0():
    candles = flat_candles([1.0] * 49 + [0.0], high=[1.01] * 49 + [1.0])
    last = compute_features(candles, "1h").iloc[-1]
    # The last 48 volumes are 47 of 1 and 0: mean 47/48, variance 47/48 - (47/48)^2 = 47/48^2.
    assert last["volume_ratio"] == 0.0
    assert last["volume_z"] == pytest.approx(-(47**0.5))


def test_before_the_first_known_volume_there_is_no_history():
    candles = CANDLES.assign(volume=CANDLES["volume"].mask(CANDLES.index < 300, 0.0))
    features = compute_features(candles, "1h")[list(V2_VOLUME_FEATURES)]
    later = compute_features(CANDLES.iloc[300:], "1h")[list(V2_VOLUME_FEATURES)]
    assert features[:300].isna().all(axis=None)
    pd.testing.assert_frame_equal(features[300:], later, check_exact=True)


def test_after_a_long_silence_there_is_too_little_to_compare_a_volume_with():
    # Of the last 48 volumes more than 36 are unknown until the 12th known one is there.
    volume = CANDLES["volume"].mask((CANDLES.index >= 300) & (CANDLES.index < 400), 0.0)
    missing = compute_features(CANDLES.assign(volume=volume), "1h")["volume_z"].isna()
    assert np.flatnonzero(missing)[47:].tolist() == list(range(300, 411))


def test_constant_volumes_are_flat_whatever_their_size():
    for volume in (0.1, 123.4, 7e5 / 3, 3.3e9):
        assert (compute_features(flat_candles([volume] * 200), "1h")["volume_z"][47:] == 0).all()


@pytest.mark.parametrize("name", GENERATIONS)
def test_unknown_volumes_leave_every_other_feature_as_it_is(name):
    compute, of_volume = GENERATIONS[name]
    known, none, half = (compute(without_volume(CANDLES, share)) for share in (0.0, 1.0, 0.5))
    others = [column for column in known if column not in of_volume]
    assert none[list(of_volume)].isna().all(axis=None)
    is_unknown = unknown_volume(without_volume(CANDLES, 0.5))[200:]
    for column in of_volume:
        assert half[column].isna()[200:].tolist() == is_unknown.tolist()
    for features in (none, half):
        pd.testing.assert_frame_equal(features[others], known[others], check_exact=True)


@pytest.mark.parametrize("name", GENERATIONS)
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_unknown_volumes_are_not_filled_from_later_ones(name, share):
    leakage.check(GENERATIONS[name][0], without_volume(CANDLES, share), cuts=(0.5, 0.9))


# The interval model's input


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_interval_s_input_is_causal_finite_and_starts_with_what_is_known(share):
    candles = without_volume(CANDLES, share)
    leakage.check(lambda c: scale_inputs(c, "1h", 1), candles)
    inputs = scale_inputs(candles, "1h", 1)[48:]
    assert np.isfinite(inputs).all()
    column = input_names("1h").index("volume")
    others = np.delete(inputs, column, axis=1)
    assert np.array_equal(others, np.delete(scale_inputs(CANDLES, "1h", 1)[48:], column, axis=1))
    if share == 1.0:
        assert (inputs[:, column] == 0).all(), "where nothing is known the width says nothing"


def test_an_interval_holds_as_often_where_half_of_the_volumes_are_unknown():
    candles = synthetic_candles(6000, seed=12)
    move = np.log(candles["close"]).diff().shift(-1).to_numpy()
    volatility = segmented_volatility(candles, "1h", 1)
    known, later = np.arange(600, 3000), np.arange(3000, 5999)
    inputs = scale_inputs(candles, "1h", 1)
    model = fit_intervals(inputs, input_names("1h"), move, volatility, known, known)
    assert model.coefficients["volume"] > 0.02, "else volume says nothing here"

    def coverage(share):
        told = scale_inputs(without_volume(candles, share), "1h", 1)[later]
        served = apply_intervals(model, told, volatility[later], np.zeros(len(later)))
        return np.mean((move[later] >= served["q10"]) & (move[later] <= served["q90"]))

    assert coverage(0.5) == pytest.approx(coverage(0.0), abs=0.01)
    assert coverage(1.0) == pytest.approx(coverage(0.0), abs=0.03)
