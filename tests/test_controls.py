"""Controls of the whole road from candles to a verdict, with ridge and XGBoost in place of the
network.

On a martingale nothing can be forecast, so whoever finds an edge there has a leak; where a signal
is planted, whoever misses it is blind. Every seed is fixed, so that nothing here is flaky; the
bounds would hold for others too.
"""

import numpy as np
import pandas as pd
import pytest
import xgboost  # noqa: F401  loaded here, so that `one_thread` reaches it
from scipy import stats
from threadpoolctl import threadpool_limits

from feature_engineering import V2_FEATURES, V2_WARMUP, compute_features
from pipeline.candles.schema import read_candles, utc_from_ms
from pipeline.candles.synthetic import synthetic_candles, synthetic_market
from pipeline.evaluation.losses import LOSS, SQUARED_LOSS
from pipeline.evaluation.verdict import compare_forecasts
from pipeline.forecasts.baselines import BASELINE_NAMES, fit_baselines
from pipeline.samples.scaling import scale_on_train
from pipeline.samples.splitting import chronological_split
from pipeline.samples.windows import make_windows
from tests.network_nulls import with_random_signs

SYMBOLS = ("BTC/USDT", "ETH/USDT")
SMALL_MODELS = ("reversal", "lad", "ridge", "xgboost")


@pytest.fixture(autouse=True)
def one_thread():
    """On so few rows threads cost more than they save, and on a busy machine a hundred times
    more."""
    with threadpool_limits(1):
        yield


def forecasts_of_test_part(n_candles, seed, *, signal_r2=0.0, horizon=1, spoil=None):
    """Predictions of the test part, 40 % of the time, as the verdict reads them; `spoil` may change
    the features."""
    market = synthetic_market(SYMBOLS, "1h", n_candles, seed=seed, signal_r2=signal_r2)
    features = {
        symbol: compute_features(candles, "1h", V2_FEATURES) for symbol, candles in market.items()
    }
    if spoil is not None:
        features = {symbol: spoil(frame) for symbol, frame in features.items()}
    samples = make_windows(features, market, "1h", 60, horizon, V2_WARMUP)
    split = chronological_split(
        samples.target_time,
        train_ratio=0.4,
        val_ratio=0.2,
        purge=np.timedelta64(horizon, "h"),
        symbol=samples.symbol,
    )
    scaled, scalers = scale_on_train(samples, split)
    forecasts = fit_baselines(scaled, scalers.y, seed=seed).forecasts
    test = split.test
    return pd.DataFrame(
        {
            "symbol": np.array(samples.symbols)[samples.symbol[test]],
            "timestamp": utc_from_ms(samples.row_ms[samples.end[test]]),
            "base_price": samples.base_price[test],
            "actual_return": samples.log_return[test],
            "volatility": samples.volatility[test],
            **{name: forecasts[name][test] for name in BASELINE_NAMES},
        }
    )


def against_naive(predictions, model, horizon=1, loss=LOSS):
    [comparison] = compare_forecasts(predictions, model, ["naive"], horizon, loss=loss)
    return comparison


@pytest.mark.slow
@pytest.mark.parametrize(("horizon", "n_markets"), [(1, 12), (4, 6)])
def test_on_martingales_no_model_finds_an_edge_more_often_than_chance(horizon, n_markets):
    beats, skills = dict.fromkeys(SMALL_MODELS, 0), []
    for seed in range(n_markets):
        predictions = forecasts_of_test_part(2500, seed, horizon=horizon)
        for model in SMALL_MODELS:
            comparison = against_naive(predictions, model, horizon)
            beats[model] += comparison.verdict == "BEATS"
            skills.append(comparison.skill)
    # At a level of 5 %, two-sided, naive is beaten by chance in one market of forty; more than this
    # is rare as 1 %.
    assert max(beats.values()) <= stats.binom.ppf(0.99, n_markets, 0.025)
    assert np.mean(skills) < 0.001


def test_a_planted_signal_is_found_in_every_market():
    for seed in range(4):
        predictions = forecasts_of_test_part(10_000, seed, signal_r2=0.02)
        comparison = against_naive(predictions, "ridge")
        assert comparison.verdict == "BEATS", f"seed {seed}: {comparison}"
        # An absolute error falls by about half of what a squared one does, and four fifths of 2 %
        # can be reached.
        assert 0.003 < comparison.skill < 0.012
        squared = against_naive(predictions, "ridge", loss=SQUARED_LOSS)
        assert 0.006 < squared.skill < 0.022


def test_the_controls_would_notice_a_leak():
    def leak(frame):  # a thirtieth of the next return, hidden in another feature
        return frame.assign(body=frame["body"] + frame["log_return"].shift(-1) / 30)

    for seed in range(2):
        honest, leaky = (forecasts_of_test_part(2500, seed, spoil=spoil) for spoil in (None, leak))
        assert against_naive(honest, "ridge").verdict != "BEATS"
        assert against_naive(leaky, "ridge").verdict == "BEATS"


def test_the_same_market_and_seed_give_the_same_forecasts():
    first, second = (forecasts_of_test_part(1500, 7) for _ in range(2))
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_random_signs_keep_the_size_of_every_move_and_make_sound_candles():
    candles = synthetic_candles(300, seed=5)
    moves = np.diff(np.log(candles["close"]))
    signs = np.random.default_rng(1).choice([-1.0, 1.0], len(candles))
    made = read_candles(with_random_signs(candles, signs), "1h", tell=pytest.fail)
    assert np.diff(np.log(made["close"])) == pytest.approx(signs[1:] * moves, abs=1e-12)
    same = with_random_signs(candles, np.ones(len(candles)))
    pd.testing.assert_frame_equal(same, candles, rtol=1e-9)
