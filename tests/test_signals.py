"""Signals of forecasts, by hand, against our backtest, and as a frame that pandas may copy."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.backtest import backtest
from pipeline.forecasts.signals import History, Source, signals_of

HOUR_MS = 3_600_000
FLAGS = ["entries", "exits", "short_entries", "short_exits"]


def hours(n, start="2024-01-01"):
    return pd.date_range(start, periods=n, freq="h", tz="UTC").as_unit("ms")


def candles_of(closes, missing=()):
    """Candles whose open is the close before, without those whose number is missing."""
    closes = np.asarray(closes, dtype=float)
    opens = np.concatenate([closes[:1], closes[:-1]])
    frame = pd.DataFrame(
        {
            "timestamp": hours(len(closes)),
            "open": opens,
            "high": np.maximum(opens, closes),
            "low": np.minimum(opens, closes),
            "close": closes,
            "volume": 1.0,
        }
    )
    return frame.drop(index=list(missing)).reset_index(drop=True)


def history_of(candles, returns, timeframe="1h", horizon=1):
    """A forecast from each candle, None where there is none."""
    known = [t for t, value in enumerate(returns) if value is not None]
    columns = {
        "timestamp": candles["timestamp"].iloc[known].reset_index(drop=True),
        "predicted_return": [float(returns[t]) for t in known],
    }
    return History.of(columns, candles, timeframe, horizon)


def test_a_forecast_acts_at_the_open_of_the_next_candle():
    candles = candles_of([100.0, 101.0, 102.0, 103.0])
    signals = history_of(candles, [None, 0.01, -0.01, 0.01]).to_signals(0.0)
    # The forecast of the candle of 01:00 acts at 02:00, whose open is the close of 01:00.
    assert signals.index.tolist() == hours(4)[2:].tolist()
    assert signals["Open"].tolist() == [101.0, 102.0]
    assert signals["position"].tolist() == [1, -1]
    assert signals["predicted_return"].tolist() == [0.01, -0.01]
    assert signals[FLAGS].to_numpy().tolist() == [
        [True, False, False, False],
        [False, True, True, False],
    ]


def test_a_forecast_must_exceed_both_fees_of_a_trade():
    candles = candles_of(np.full(6, 100.0))
    # e^r - 1 against 2 x 5 bps = 0.001: ln(1.0011) is beyond it, ln(1.0009) and ln(0.9991) are not.
    returns = [*np.log([1.0011, 1.0009, 0.9991, 0.9989, 1.0]), 0.0]
    assert history_of(candles, returns).to_signals(5.0)["position"].tolist() == [1, 0, 0, -1, 0]
    assert history_of(candles, returns).to_signals(6.0)["position"].tolist() == [0, 0, 0, 0, 0]
    alone = history_of(candles, returns).to_signals(5.0, short=False)
    assert alone["position"].tolist() == [1, 0, 0, 0, 0]
    assert not alone[["short_entries", "short_exits"]].to_numpy().any()


def test_beside_the_close_stands_what_acts_at_the_next_open():
    candles = candles_of(np.linspace(100, 110, 8))
    history = history_of(candles, [None, 0.01, 0.01, -0.01, 0.0, 0.01, None, None])
    at_open, at_close = history.to_signals(0.0), history.to_signals(0.0, at="close")
    assert at_close["position"].tolist() == [1, 1, -1, 0, 1, 0, 0]
    assert at_close.index.tolist() == hours(8)[1:].tolist()
    later = at_open.set_axis((at_open.index - pd.Timedelta(hours=1)).as_unit("ms"))
    columns = ["position", "predicted_return", *FLAGS]
    pd.testing.assert_frame_equal(at_close[columns].iloc[:-1], later[columns], check_freq=False)


def test_the_newest_forecast_is_there_beside_the_close():
    candles = candles_of([100.0, 101.0, 102.0])
    signals = history_of(candles, [0.01, 0.01, -0.01]).to_signals(at="close")
    assert signals["position"].iloc[-1] == -1
    assert signals.index[-1] == candles["timestamp"].iloc[-1]


def test_a_gap_ends_a_position_and_its_last_signal_acts_nowhere():
    candles = candles_of(np.full(8, 100.0), missing=[3, 4])  # 00, 01, 02, 05, 06, 07
    signals = history_of(candles, [None, 0.01, -0.01, None, None, 0.01]).to_signals(0.0)
    by_hour = dict(zip(signals.index.hour, signals["position"]))
    assert by_hour == {2: 1, 5: 0, 6: 0, 7: 0}
    assert signals["exits"].tolist() == [False, True, False, False]
    assert not signals["short_entries"].any()


def test_of_a_longer_horizon_every_hth_forecast_is_used_whatever_the_history_begins_with():
    candles = candles_of(np.full(13, 100.0))
    # With 4 candles, those count that are known at 04:00, 08:00, …: of the candles 3, 7 and 11.
    returns = [-0.01] * 3 + [0.02] + [-0.03] * 3 + [0.0] + [-0.04] * 3 + [0.01, 0.01]
    history = history_of(candles, returns, horizon=4)
    signals = history.to_signals(1.0)
    assert signals["position"].tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1]
    later = history.iloc[2:].to_signals(1.0)
    pd.testing.assert_frame_equal(later, signals.iloc[2:], check_freq=False)


@given(
    st.lists(st.sampled_from([-0.02, -0.0005, 0.0, 0.0005, 0.02]), min_size=12, max_size=60),
    st.integers(0, 5),
    st.sampled_from([0.0, 1.0, 5.0, 40.0]),
)
def test_positions_fees_and_equity_are_those_of_our_backtest(returns, seed, fee_bps):
    moves = np.random.default_rng(seed).normal(0, 0.01, len(returns))
    candles = candles_of(100 * np.exp(np.cumsum(np.append(0, moves))))
    history = history_of(candles, [*returns, None])
    signals = history.to_signals(fee_bps)

    # The rule of the backtest on the same forecasts, with the fees as the unit of the threshold.
    costs = 2 * fee_bps / 1e4
    expected = np.expm1(history["predicted_return"].to_numpy())
    predictions = pd.DataFrame(
        {
            "symbol": "BTC/USDT",
            "timestamp": history["timestamp"],
            "base_price": candles["close"].iloc[:-1],
            "actual_return": moves,
            "volatility": costs or 1.0,
            "lstm": expected,
        }
    )
    options = {"fee_bps": fee_bps, "threshold": 1.0 if costs else 0.0, "n_bootstrap": 0}
    judged = backtest(predictions, "lstm", timeframe_ms=HOUR_MS, **options)

    # The same account by hand, from the signals and the prices beside them alone.
    position = signals["position"].to_numpy()
    before, after = np.append(0, position[:-1]), np.append(position[1:], 0)
    n_fees = (position != 0) * ((before != position).astype(int) + (after != position))
    earned = position * (signals["Close"] / signals["Open"] - 1).to_numpy()
    equity = np.cumprod(1 + earned - n_fees * fee_bps / 1e4)
    assert equity == pytest.approx(judged.equity["strategy"].to_numpy()[1:], abs=1e-12)
    assert n_fees.sum() * fee_bps / 1e4 == pytest.approx(judged.fees_paid, abs=1e-12)
    assert signals[["entries", "short_entries"]].to_numpy().sum() == judged.n_trades
    n_ends = signals[["exits", "short_exits"]].to_numpy().sum()
    assert n_ends == judged.n_trades - (position[-1] != 0)


@given(st.lists(st.floats(-0.05, 0.05), min_size=4, max_size=40), st.integers(1, 39))
def test_no_later_forecast_or_candle_changes_an_earlier_signal(returns, cut):
    cut = min(cut, len(returns) - 1)
    candles = candles_of(np.linspace(100, 120, len(returns) + 1))
    whole = history_of(candles, [*returns, None]).to_signals(at="close")
    known = candles.iloc[: cut + 1]
    early = history_of(known, returns[: cut + 1]).to_signals(at="close")
    pd.testing.assert_frame_equal(early, whole.iloc[: len(early)], check_freq=False)


def test_a_history_is_a_frame_whose_copies_and_selections_know_its_candles(tmp_path):
    candles = candles_of(np.linspace(100, 110, 20))
    history = history_of(candles, np.linspace(-0.02, 0.02, 20))
    signals = history.to_signals()
    assert isinstance(history, pd.DataFrame) and isinstance(history._source, Source)
    for same in (
        history.copy(),
        copy.deepcopy(history),
        pickle.loads(pickle.dumps(history)),
        history.assign(more=1.0),
        history.sort_values("timestamp"),
        history.reset_index(drop=True),
    ):
        pd.testing.assert_frame_equal(same.to_signals(), signals)
    half = history.tail(10).to_signals()
    pd.testing.assert_frame_equal(half[["position"]], signals[["position"]].tail(9))

    plain = pd.DataFrame(history)
    assert type(plain) is pd.DataFrame and type(history["predicted_return"]) is pd.Series
    pd.testing.assert_frame_equal(plain, history, check_frame_type=False)
    history.to_parquet(tmp_path / "history.parquet")
    read = pd.read_parquet(tmp_path / "history.parquet")
    assert type(read) is pd.DataFrame
    pd.testing.assert_frame_equal(read, plain)
    again = signals_of(read, candles, timeframe="1h")
    pd.testing.assert_frame_equal(again, signals)
    joined = pd.concat([history.head(5), history.tail(15)])
    pd.testing.assert_frame_equal(pd.DataFrame(joined), plain)


def test_what_was_joined_does_not_know_its_candles_and_says_what_to_call():
    candles = candles_of(np.full(4, 100.0))
    joined = pd.concat([history_of(candles, [0.01] * 4), history_of(candles, [0.01] * 4)])
    with pytest.raises(ValueError, match=r"joined or read from a file.*signals_of\(history"):
        joined.to_signals()
    with pytest.raises(ValueError, match="goes back in time at row 4, 2024-01-01 00:00"):
        signals_of(joined, candles, timeframe="1h")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fee_bps": -1.0}, "fee_bps is -1.0; pass the fee of one side"),
        ({"fee_bps": 1e4}, "fee_bps is 10000.0"),
        ({"fee_bps": float("nan")}, "fee_bps is nan"),
        ({"at": "next"}, "at is 'next'; pass 'open'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    history = history_of(candles_of(np.full(4, 100.0)), [0.01] * 4)
    with pytest.raises(ValueError, match=message):
        history.to_signals(**options)


def test_a_history_without_its_columns_or_rows_is_refused():
    history = history_of(candles_of(np.full(4, 100.0)), [0.01] * 4)
    with pytest.raises(ValueError, match="no column 'predicted_return'"):
        history[["timestamp"]].to_signals()
    with pytest.raises(ValueError, match="the history has no rows; .*judged=True"):
        history.iloc[:0].to_signals()


def test_signals_of_candles_that_the_model_was_fitted_to_are_warned_of():
    candles = candles_of([100.0, 101.0, 102.0, 103.0])
    history = history_of(candles, [0.01, -0.01, 0.01, 0.01])
    # The forecast of the candle of 00:00 was made at 01:00, that of 01:00 at 02:00.
    seen = History.of(dict(history), candles, "1h", 1, candles["timestamp"].iloc[2])
    with pytest.warns(UserWarning, match="1 of 4 forecasts were made before 2024-01-01 02:00 UTC"):
        seen.to_signals(0.0)
    seen[seen["timestamp"] >= candles["timestamp"].iloc[2]].to_signals(0.0)  # and no warning
