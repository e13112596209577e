import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline.candles.formats import read_directory
from pipeline.evaluation.backtest import backtest, measure
from pipeline.evaluation.significance import standard_error

HOUR_MS = 3_600_000
SYMBOLS = ("BTC/USDT", "ETH/USDT", "SOL/USDT")


def trades_of(moves, calls, symbol="BTC/USDT", hours=None):
    """Predictions of one coin from 2024-01-01 on, from simple returns, forecasts and hours."""
    hours = range(len(moves)) if hours is None else hours
    return pd.DataFrame(
        {
            "symbol": symbol,
            "timestamp": pd.Timestamp("2024-01-01", tz="UTC")
            + pd.to_timedelta(list(hours), unit="h"),
            "base_price": 100.0,
            "actual_return": np.log1p(moves),
            "volatility": 0.01,
            "lstm": np.asarray(calls, dtype=float),
        }
    )


def run(predictions, **options):
    return backtest(predictions, "lstm", timeframe_ms=HOUR_MS, **{"n_bootstrap": 0, **options})


def settlements(*times, rate=0.001):
    return pd.DataFrame(
        {"timestamp": pd.to_datetime(list(times), utc=True, format="ISO8601"), "funding_rate": rate}
    )


def note_of(result, words):
    return any(words in note for note in result.notes)


def test_a_position_that_runs_on_pays_its_fee_at_entry_and_at_the_last_exit_only():
    result = run(trades_of([0.10, -0.05], [0.01, 0.02]), fee_bps=10)
    assert result.net.total_return == pytest.approx((1 + 0.10 - 0.001) * (1 - 0.05 - 0.001) - 1)
    assert result.gross.total_return == pytest.approx(1.10 * 0.95 - 1)
    assert result.fees_paid == pytest.approx(2 * 0.001)
    assert (result.n_trades, result.n_instants, result.time_in_market) == (1, 2, 1.0)
    assert result.win_rate == 0.5


def test_turning_from_long_to_short_pays_twice():
    result = run(trades_of([0.10, -0.05], [0.01, -0.01]), fee_bps=10)
    assert result.net.total_return == pytest.approx(
        (1 + 0.10 - 0.001 - 0.001) * (1 + 0.05 - 0.001 - 0.001) - 1
    )
    assert result.turnover_per_candle == pytest.approx((1 + 2 + 1) / 2)
    assert result.turnover_per_year == pytest.approx(2 * 8760)
    assert result.n_trades == 2


def test_a_forecast_within_the_threshold_is_flat():
    # 0.01 at a volatility of 0.01 is exactly 1: not beyond it.
    result = run(trades_of([0.10, 0.20, 0.30], [0.01, -0.02, 0.005]), fee_bps=0, threshold=1.0)
    assert result.price_pnl == pytest.approx(-0.20)
    assert result.time_in_market == pytest.approx(1 / 3)


def test_each_coin_has_an_equal_share_and_is_flat_where_it_has_no_sample():
    btc = trades_of([0.10, 0.10], [1, 1])
    eth = trades_of([0.30], [-1], symbol="ETH/USDT", hours=[1])
    result = run(pd.concat([eth, btc]), fee_bps=10)
    first = (0.10 - 0.001) / 2
    second = (0.10 - 0.001 - 0.30 - 0.002) / 2
    assert result.equity["strategy"].tolist() == pytest.approx(
        [1, 1 + first, (1 + first) * (1 + second)]
    )
    assert result.time_in_market == pytest.approx(3 / 4)
    assert (result.n_symbols, result.n_trades) == (2, 2)


def test_a_gap_closes_the_position_and_opens_it_anew():
    result = run(trades_of([0.10, 0.20], [1, 1], hours=[0, 3]), fee_bps=10)
    assert result.equity["strategy"].tolist() == pytest.approx(
        [1, 1.098, 1.098, 1.098, 1.098 * 1.198]
    )
    assert (result.n_trades, result.n_instants, result.time_in_market) == (2, 4, 0.5)
    assert result.win_rate == 1.0  # of the two instants with a position


def test_the_curve_starts_at_the_close_of_the_first_candle_and_ends_at_the_last_target():
    result = run(trades_of([0.10, 0.20], [1, 1]))
    hours = ["2024-01-01T01:00Z", "2024-01-01T02:00Z", "2024-01-01T03:00Z"]
    assert result.equity["timestamp"].tolist() == [pd.Timestamp(hour) for hour in hours]


def test_a_horizon_of_two_uses_every_second_candle_of_the_common_clock():
    btc = trades_of([0.10, 0.77, 0.20, 0.77], [1, -1, 1, -1])
    eth = trades_of([0.77, 0.30], [-1, 1], symbol="ETH/USDT", hours=[1, 2])
    result = run(pd.concat([btc, eth]), horizon=2, fee_bps=10)
    first, second = (0.10 - 0.001) / 2, (0.20 - 0.001 + 0.30 - 0.002) / 2
    assert result.net.total_return == pytest.approx((1 + first) * (1 + second) - 1)
    assert result.turnover_per_candle == pytest.approx((1 + 1 + 2) / 2 / 4)
    assert result.equity["timestamp"].iloc[-1] == pd.Timestamp("2024-01-01T05:00Z")
    assert note_of(result, "one forecast in 2")


def test_a_long_pays_what_settles_after_its_entry_and_up_to_its_exit():
    held = trades_of([0.0], [1], hours=[6])  # from 07:00 to 08:00

    def paid(*times):
        return run(held, fee_bps=0, funding={"BTC/USDT": settlements(*times)}).funding_paid

    assert paid("2024-01-01T08:00") == pytest.approx(0.001)
    assert paid("2024-01-01T07:00") == 0
    assert paid("2024-01-01T07:00:00.007") == 0  # the settlement of 07:00, stamped late
    assert paid("2024-01-01T08:00:00.007") == pytest.approx(0.001)
    assert paid("2024-01-01T09:00") == 0
    assert paid("2024-01-01T07:30", "2024-01-01T08:00") == pytest.approx(0.002)


def test_a_settlement_between_two_positions_belongs_to_the_one_that_ends():
    turned = trades_of([0.10, 0.10], [1, -1], hours=[6, 7])
    result = run(turned, fee_bps=0, funding={"BTC/USDT": settlements("2024-01-01T08:00")})
    assert result.net.total_return == pytest.approx((1 + 0.10 - 0.001) * (1 - 0.10) - 1)


def test_a_short_receives_funding_and_gross_includes_it():
    held = trades_of([0.0], [-1], hours=[6])
    result = run(
        held, fee_bps=10, funding={"BTC/USDT": settlements("2024-01-01T08:00", rate=0.005)}
    )
    assert result.gross.total_return == pytest.approx(0.005)
    assert result.net.total_return == pytest.approx(0.005 - 2 * 0.001)
    assert result.break_even_fee_bps == pytest.approx(1e4 * 0.005 / 2)


def test_missing_funding_is_said():
    predictions = pd.concat([trades_of(np.zeros(72), np.ones(72), symbol) for symbol in SYMBOLS])
    assert note_of(run(predictions), "funding is not included")
    every_8_hours = list(pd.date_range("2024-01-01", periods=10, freq="8h", tz="UTC"))
    whole, early, late = (
        settlements(*times) for times in (every_8_hours, every_8_hours[:4], every_8_hours[6:])
    )
    for part in (early, late):
        result = run(predictions, funding={"BTC/USDT": whole, "ETH/USDT": part, "SOL/USDT": None})
        assert "funding is not included for SOL/USDT" in result.notes
        assert "funding does not cover the whole test part for ETH/USDT" in result.notes
    with pytest.raises(ValueError, match="funding of BTC/USDT.*not finite"):
        run(predictions, funding={"BTC/USDT": settlements(*every_8_hours, rate=math.nan)})


def random_predictions(seed, n=40):
    """Three coins with gaps, forecasts of -1, 0 and 1, rows in any order."""
    rng = np.random.default_rng(seed)
    frames = []
    for symbol in SYMBOLS:
        hours = np.sort(rng.choice(n, size=n - 8, replace=False))
        frames.append(
            trades_of(
                rng.normal(0, 0.02, len(hours)), rng.integers(-1, 2, len(hours)), symbol, hours
            )
        )
    return pd.concat(frames).sample(frac=1, random_state=seed)


def naive_equity(predictions, horizon, fee):
    """The same account, one coin and one candle at a time."""
    first = predictions["timestamp"].min()
    rows = {
        (symbol, int((time - first) / pd.Timedelta(hours=1))): (np.sign(call), math.expm1(move))
        for symbol, time, call, move in predictions[
            ["symbol", "timestamp", "lstm", "actual_return"]
        ].itertuples(index=False)
    }
    last = max(hour for _, hour in rows if hour % horizon == 0)
    equity, curve = 1.0, [1.0]
    for hour in range(0, last + 1, horizon):
        earned = 0.0
        for symbol in SYMBOLS:
            before, now, after = (
                rows.get((symbol, hour + shift), (0, 0)) for shift in (-horizon, 0, horizon)
            )
            earned += now[0] * now[1]
            earned -= fee * abs(now[0]) * (int(before[0] != now[0]) + int(after[0] != now[0]))
        equity *= 1 + earned / len(SYMBOLS)
        curve.append(equity)
    return curve


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), horizon=st.integers(1, 4), fee_bps=st.floats(0, 50))
def test_the_account_agrees_with_a_loop_over_coins_and_candles(seed, horizon, fee_bps):
    predictions = random_predictions(seed)
    result = run(predictions, horizon=horizon, fee_bps=fee_bps)
    assert result.equity["strategy"].tolist() == pytest.approx(
        naive_equity(predictions, horizon, fee_bps / 1e4)
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_opposite_forecasts_earn_the_opposite_before_fees(seed):
    predictions = random_predictions(seed)
    funding = {
        symbol: settlements("2024-01-01T08:00", "2024-01-01T16:00", rate=0.01) for symbol in SYMBOLS
    }
    result = run(predictions, funding=funding)
    opposite = run(predictions.assign(lstm=-predictions["lstm"]), funding=funding)
    assert opposite.price_pnl == pytest.approx(-result.price_pnl, abs=1e-12)
    assert opposite.funding_paid == pytest.approx(-result.funding_paid, abs=1e-12)
    assert opposite.fees_paid == result.fees_paid


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_perfect_foresight_earns_the_size_of_every_move(seed):
    predictions = random_predictions(seed)
    result = run(predictions.assign(lstm=predictions["actual_return"]), fee_bps=0)
    assert result.price_pnl == pytest.approx(
        np.abs(np.expm1(predictions["actual_return"])).sum() / len(SYMBOLS)
    )
    assert result.win_rate == 1.0
    assert result.net.max_drawdown == 0


def test_at_the_break_even_fee_the_net_returns_sum_to_zero():
    predictions = trades_of([0.02, 0.01, -0.01, 0.03], [1, -1, 0, 1])
    funding = {"BTC/USDT": settlements("2024-01-01T02:00", rate=0.002)}
    fee_bps = run(predictions, funding=funding).break_even_fee_bps
    assert fee_bps == pytest.approx(1e4 * (0.02 - 0.01 + 0.03 - 0.002) / (1 + 2 + 1 + 1 + 1))
    equity = run(predictions, funding=funding, fee_bps=fee_bps).equity["strategy"].to_numpy()
    assert np.sum(equity[1:] / equity[:-1] - 1) == pytest.approx(0, abs=1e-12)


def test_a_forecast_that_loses_without_fees_has_a_negative_break_even_fee():
    assert run(trades_of([0.02], [-1])).break_even_fee_bps == pytest.approx(-1e4 * 0.02 / 2)


def test_buy_and_hold_is_bought_once_and_never_rebalanced():
    predictions = pd.concat(
        [trades_of([1.0, 1.0], [0, 0]), trades_of([-0.5, 0.0], [0, 0], symbol="ETH/USDT")]
    )
    result = run(predictions, fee_bps=10)
    values = [1, 0.999 * (2 + 0.5) / 2, 0.999 * 0.999 * (4 + 0.5) / 2]
    assert result.equity["buy_and_hold"].tolist() == pytest.approx(values)
    assert result.buy_and_hold.total_return == pytest.approx(values[-1] - 1)


def test_sharpe_agrees_with_hand_arithmetic():
    # Mean 0.01, deviations 0.01, -0.02 and 0.01: variance 0.0006 / 2.
    expected = 0.01 / math.sqrt(0.0003) * math.sqrt(8760)
    assert measure(np.array([0.02, -0.01, 0.02]), HOUR_MS).sharpe == pytest.approx(expected)
    assert measure(np.array([0.02, -0.01, 0.02]), 4 * HOUR_MS).sharpe == pytest.approx(expected / 2)


def test_a_year_of_returns_is_annualised_to_itself_and_half_a_year_to_its_square():
    year = measure(np.array([0.5, -0.2]), 365 * 12 * HOUR_MS)
    assert year.annualised_return == pytest.approx(year.total_return) == pytest.approx(0.2)
    assert measure(np.array([0.5, -0.2]), 365 * 6 * HOUR_MS).annualised_return == pytest.approx(
        1.2**2 - 1
    )


def test_returns_whose_squares_underflow_have_no_sharpe_ratio():
    assert measure(np.array([0.0, 1e-260]), HOUR_MS).sharpe is None


@settings(max_examples=50, deadline=None)
@given(returns=st.lists(st.floats(-0.9, 2.0), min_size=1, max_size=30))
def test_drawdown_agrees_with_a_loop(returns):
    equity = peak = 1.0
    worst = 0.0
    for value in returns:
        equity *= 1 + value
        peak = max(peak, equity)
        worst = max(worst, 1 - equity / peak)
    assert measure(np.array(returns), HOUR_MS).max_drawdown == pytest.approx(worst)


def test_the_bootstrap_interval_is_as_wide_as_theory_says_for_independent_returns():
    # Lo (2002), The Statistics of Sharpe Ratios: near 0, independent returns give a standard error
    # of sqrt(1 / n).
    moves = np.random.default_rng(3).normal(0, 0.01, 2_000)
    result, again = (run(trades_of(moves, np.ones(2_000)), n_bootstrap=1_000) for _ in range(2))
    width = 2 * 1.96 * math.sqrt(8760 / 2_000)
    assert result.sharpe_high - result.sharpe_low == pytest.approx(width, rel=0.1)
    assert result.sharpe_low < result.net.sharpe < result.sharpe_high
    assert (result.sharpe_low, result.sharpe_high) == (again.sharpe_low, again.sharpe_high)


def test_a_short_that_loses_more_than_everything_ends_the_account():
    result = run(trades_of([0.1, 1.5, 0.1], [1, -1, 1]), fee_bps=0)
    assert result.equity["strategy"].tolist() == pytest.approx([1, 1.1, 0, 0])
    assert (result.net.total_return, result.net.max_drawdown) == (-1.0, 1.0)
    assert (result.n_instants, result.n_trades) == (2, 2)
    assert note_of(result, "ruin: everything is lost at 2024-01-01 03:00")


def test_forecasts_of_zero_stay_flat_and_say_so():
    result = run(trades_of(np.full(20, 0.01), np.zeros(20)), n_bootstrap=50)
    assert result.net.total_return == 0
    assert (result.net.sharpe, result.sharpe_low, result.win_rate, result.break_even_fee_bps) == (
        None,
    ) * 4
    assert note_of(result, "no position")


def test_constant_prices_cost_the_fees_and_say_so():
    result = run(trades_of(np.zeros(20), np.ones(20)), fee_bps=10)
    assert result.net.total_return == pytest.approx(0.999**2 - 1)
    assert result.gross.sharpe is None
    assert note_of(result, "no price moves")


@pytest.mark.parametrize("n", [1, 2, 10])
def test_a_short_test_part_is_measured_and_said_to_be_short(n):
    result = run(trades_of(np.linspace(-0.01, 0.02, n), np.ones(n)), n_bootstrap=50)
    assert result.net.annualised_return is None
    assert note_of(result, "too few")
    assert note_of(result, "a single symbol")


def test_the_result_is_plain_json_without_nan():
    predictions = trades_of(
        [1e6] * 60, [1] * 60, hours=range(0, 1_440, 24)
    )  # more than a float holds
    result = backtest(predictions, "lstm", timeframe_ms=24 * HOUR_MS, n_bootstrap=50)
    plain = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert plain["net"]["total_return"] is None or plain["net"]["total_return"] > 1e300
    assert plain["net"]["annualised_return"] is None
    assert plain["notes"] == list(result.notes)
    assert "equity" not in plain


def test_unusable_input_is_refused():
    good = trades_of([0.01, 0.02], [1, 1])
    with pytest.raises(ValueError, match="column lstm"):
        run(good.assign(lstm=[0.1, math.nan]))
    with pytest.raises(
        ValueError, match="1 of 2 timestamps of predictions lie between candles of 86400000 ms"
    ):
        backtest(good, "lstm", timeframe_ms=24 * HOUR_MS)
    for wrong in (
        {"fee_bps": -1},
        {"fee_bps": math.nan},
        {"threshold": math.nan},
        {"threshold": -1},
        {"horizon": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            run(good, **wrong)


def test_turning_with_every_candle_cannot_pay_the_default_fee_on_real_candles(real_data):
    frames = []
    for symbol in ("BTC/USDT", "ETH/USDT"):
        candles = read_directory(real_data / "binanceusdm", symbol, "1h").tail(4_000)
        move = np.log(candles["close"]).diff().to_numpy()
        frame = {
            "symbol": symbol,
            "timestamp": candles["timestamp"],
            "base_price": candles["close"],
            "lstm": -move,
        }
        frames.append(
            pd.DataFrame(frame)
            .assign(volatility=0.01, actual_return=np.append(move[1:], np.nan))
            .dropna()
        )
    result = run(pd.concat(frames), n_bootstrap=100)
    assert result.gross.sharpe > 0  # the last hour's move tends to be taken back
    assert 0 < result.break_even_fee_bps < 2
    assert result.net.sharpe < 0 and result.sharpe_high < 0


def test_the_interval_of_the_break_even_fee_is_that_of_a_ratio_of_means():
    generator = np.random.default_rng(8)
    moves = generator.normal(0.001, 0.01, 60)
    calls = np.where(generator.random(60) < 0.5, 1, -1)
    result = run(trades_of(list(moves), list(calls)))
    opened = np.r_[1, np.abs(np.diff(calls)) // 2]
    closed = np.r_[np.abs(np.diff(calls)) // 2, 1]
    earned, traded = calls * moves, opened + closed
    value = earned.sum() / traded.sum()
    error, degrees_of_freedom = standard_error(earned - value * traded)
    half = stats.t.ppf(0.975, degrees_of_freedom) * error / traded.mean()
    assert result.break_even_fee_bps == pytest.approx(1e4 * value)
    assert (result.break_even_low, result.break_even_high) == pytest.approx(
        (1e4 * (value - half), 1e4 * (value + half))
    )
    assert run(trades_of([0.02], [1])).break_even_low is None
