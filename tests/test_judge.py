"""Anyone's forecasts get our verdict: read, matched, scored, and doubted where they should be."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import train_v2_production
from feature_engineering import V2_WARMUP
from inference_v2 import FILES
from judge import Judgement, judge
from pipeline.candles import store
from pipeline.candles.schema import timestamps_ms
from pipeline.candles.synthetic import synthetic_candles
from pipeline.evaluation import judging
from pipeline.evaluation.matching import Matched
from tests import networks
from tests.conftest import TINY
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer

HOUR = pd.Timedelta(hours=1)
FREE = ("naive",)
"""no baseline that has to be fitted"""


def walk(n: int = 1600, seed: int = 0, start: str = "2024-01-01", price: float = 100.0):
    """Candles of a random walk whose volatility changes slowly."""
    rng = np.random.default_rng(seed)
    wild = np.exp(0.3 * np.sin(np.arange(n) / 200))
    move = 0.005 * wild * rng.standard_normal(n)
    close = price * np.exp(np.cumsum(move))
    open_ = np.concatenate([[price], close[:-1]])
    spread = 1 + 0.001 * rng.random(n)
    frame = {
        "timestamp": pd.date_range(start, periods=n, freq="h", tz="UTC").as_unit("ms"),
        "open": open_,
        "high": np.maximum(open_, close) * spread,
        "low": np.minimum(open_, close) / spread,
        "close": close,
        "volume": 10.0 + rng.random(n),
    }
    return pd.DataFrame(frame)


def moves(candles: pd.DataFrame) -> np.ndarray:
    """(n,) log-return of each candle; that of the first is NaN."""
    return np.log(candles["close"]).diff().to_numpy()


def frame_of(candles: pd.DataFrame, forecast, column="forecast_return", rows=slice(100, -5)):
    """Forecasts made at each candle."""
    made = pd.DataFrame({"symbol": "BTC/USDT", "timestamp": candles["timestamp"]})
    return made.assign(**{column: forecast})[rows].reset_index(drop=True)


def names_of(judged: Judgement) -> list[str]:
    [metrics] = judged.metrics.values()
    return [one["name"] for one in metrics["suspicions"]]


def says_of(judged: Judgement, name: str) -> str:
    [metrics] = judged.metrics.values()
    return next(one["says"] for one in metrics["suspicions"] if one["name"] == name)


def free(forecasts, candles, **options) -> Judgement:
    return judge(forecasts, {"BTC/USDT": candles}, baselines=FREE, **options)


@pytest.fixture(scope="module")
def candles() -> pd.DataFrame:
    return walk()


@pytest.fixture(scope="module")
def noise(candles) -> np.ndarray:
    """An honest forecast that knows nothing: shrunk noise."""
    return 1e-5 * np.random.default_rng(1).standard_normal(len(candles))


# --- by hand


def test_the_numbers_are_those_of_hand_arithmetic():
    candles = walk(120)
    close = candles["close"].to_numpy()
    judged = free(frame_of(candles, 0.001, rows=slice(80, 110)), candles)
    [metrics] = judged.metrics.values()
    actual = np.log(close[81:111] / close[80:110])
    own = metrics["test"]["models"]["forecasts"]
    assert metrics["test"]["n"] == 30
    assert own["mae"] == pytest.approx(np.abs(actual - 0.001).mean(), rel=1e-12)
    assert own["direction_accuracy"] == pytest.approx((actual > 0).mean(), rel=1e-12)
    [predictions] = judged.predictions.values()
    scaled = np.abs(actual - 0.001) / predictions["volatility"]
    naive = np.abs(actual) / predictions["volatility"]
    skill = metrics["test"]["verdicts"][0]["skill"]
    assert skill == pytest.approx(1 - scaled.mean() / naive.mean(), rel=1e-12)


def test_directions_are_scored_by_the_share_of_wrong_ones():
    candles = walk(200)
    close = candles["close"].to_numpy()
    calls = np.tile([1, -1, 0, 1], 50)
    judged = free(frame_of(candles, calls, "direction", rows=slice(100, 190)), candles)
    [metrics] = judged.metrics.values()
    actual, called = np.sign(np.diff(np.log(close))[100:190]), calls[100:190]
    wrong = np.abs(actual - called) / 2  # 0, 1/2 or 1
    first = metrics["test"]["verdicts"][0]
    assert (first["baseline"], first["loss"]) == ("naive", "wrong_direction")
    assert first["skill"] == pytest.approx(1 - wrong.mean() / 0.5, rel=1e-12)
    own = metrics["test"]["models"]["forecasts"]
    assert own["mae"] is None
    hits = (actual == called)[called != 0]
    assert own["direction_accuracy"] == pytest.approx(hits.mean(), rel=1e-12)
    assert metrics["backtest"]["n_trades"] > 0
    assert "absolute error is not defined" in judged.text.replace("\n", " ") or judged.page()


def test_probabilities_alone_have_a_brier_score():
    candles = walk(400)
    p_up = np.random.default_rng(3).uniform(0.3, 0.7, 400)
    judged = free(frame_of(candles, p_up, "p_up"), candles)
    [metrics] = judged.metrics.values()
    rose = np.diff(np.log(candles["close"]))[100:395] > 0
    brier = np.mean((p_up[100:395] - rose) ** 2)
    assert metrics["test"]["probability"]["brier"] == pytest.approx(brier, rel=1e-12)
    assert metrics["test"]["verdicts"][0]["loss"] == "wrong_direction"


def test_a_horizon_of_four_candles_is_matched_with_what_came_four_candles_later():
    candles = walk(300)
    close = candles["close"].to_numpy()
    price = close * 1.001
    judged = free(
        frame_of(candles, price, "forecast_price", rows=slice(100, 250)), candles, horizon=4
    )
    [rows] = judged.predictions.values()
    assert rows["actual_return"].to_numpy() == pytest.approx(
        np.log(close[104:254] / close[100:250])
    )
    assert rows["forecasts"].to_numpy() == pytest.approx(np.log(1.001))
    assert "overlapping" in names_of(judged)


@pytest.mark.parametrize(("stamped", "early"), [("known", 0), ("close", 1), ("target", 3)])
def test_the_time_of_a_forecast_is_what_its_maker_says_it_is(candles, noise, stamped, early):
    made = frame_of(candles, noise)
    shifted = made.assign(timestamp=made["timestamp"] + early * HOUR)
    judged = free(shifted, candles, stamped=stamped, horizon=3)
    expected = free(made, candles, horizon=3)
    [one], [other] = judged.predictions.values(), expected.predictions.values()
    pd.testing.assert_frame_equal(one, other)


def test_forecasts_after_the_last_candle_wait_for_it(candles, noise):
    judged = free(frame_of(candles, noise, rows=slice(100, None)), candles)
    assert "the targets of 1 of 1,500 rows have not closed yet" in says_of(judged, "open")


# --- forms


def nixtla(candles: pd.DataFrame, horizon: int = 1) -> pd.DataFrame:
    """What statsforecast's cross_validation gives, rolling one candle at a time."""
    rows = np.arange(100, len(candles) - horizon)
    close, times = candles["close"].to_numpy(), candles["timestamp"]
    return pd.DataFrame(
        {
            "unique_id": "BTCUSDT",
            "ds": times.to_numpy()[rows + horizon],
            "cutoff": times.to_numpy()[rows],
            "y": close[rows + horizon],
            "AutoARIMA": close[rows] * 1.0001,
            "AutoARIMA-lo-80": close[rows] * 0.99,
            "AutoARIMA-hi-80": close[rows] * 1.01,
            "Theta": close[rows] * 0.9999,
        }
    )


def test_frames_of_statsforecast_are_read_as_they_are(candles):
    judged = free(nixtla(candles), candles)
    assert list(judged.metrics) == ["AutoARIMA", "Theta"]
    assert judged.metrics["AutoARIMA"]["test"]["interval"]["coverage"] > 0.8
    rows = judged.predictions["AutoARIMA"]
    assert rows["AutoARIMA"].to_numpy() == pytest.approx(np.log(1.0001))
    assert judged.rivals is not None and judged.rivals["n"] == len(candles) - 101


def test_a_frame_of_targets_without_cutoff_is_asked_about(candles):
    rows = nixtla(candles).drop(columns=["cutoff", "y"])
    with pytest.raises(ValueError, match="--stamped target"):
        free(rows, candles)
    assert len(free(rows, candles, stamped="target").metrics) == 2


def test_a_long_frame_of_yhat_is_read(candles):
    rows = nixtla(candles)[["unique_id", "ds", "cutoff", "AutoARIMA"]]
    judged = free(rows.rename(columns={"AutoARIMA": "yhat"}), candles)
    assert list(judged.metrics) == ["forecasts"]


def test_what_a_file_says_came_true_must_be_what_the_candles_say(candles):
    rows = nixtla(candles)
    with pytest.raises(ValueError, match="not what these candles say"):
        free(rows.assign(y=rows["y"] * 1.01), candles)


def test_predicted_candles_are_prices(candles):
    rows = candles.iloc[101:-5].assign(close=candles["close"].iloc[100:-6].to_numpy() * 1.0003)
    frame = rows[["timestamp", "open", "high", "low", "close", "volume"]]
    with pytest.raises(ValueError, match="--stamped known | close | target"):
        free(frame, candles)
    judged = free(frame, candles, stamped="target")
    [predictions] = judged.predictions.values()
    assert predictions["forecasts"].to_numpy() == pytest.approx(np.log(1.0003))


def test_a_signal_of_zero_and_one_is_asked_about(candles):
    calls = np.tile([0, 1], len(candles) // 2)
    with pytest.raises(ValueError, match="does 0 mean down, or no position"):
        free(frame_of(candles, calls, "signal"), candles, stamped="known")
    assert free(frame_of(candles, calls, "position"), candles, stamped="known")
    words = np.where(calls == 1, "long", "short")
    assert free(frame_of(candles, words, "signal"), candles, stamped="known")


def test_samples_become_quantiles(candles):
    draws = 0.003 * np.random.default_rng(0).standard_normal((len(candles), 50))
    frame = frame_of(candles, 0.0).drop(columns="forecast_return")
    samples = pd.DataFrame(draws, columns=[f"sample_{n}" for n in range(50)])[100:-5]
    frame = pd.concat([frame, samples.reset_index(drop=True)], axis=1)
    judged = free(frame, candles, stamped="known")
    [rows] = judged.predictions.values()
    assert rows["q10"].to_numpy() == pytest.approx(np.quantile(draws[100:-5], 0.1, axis=1))
    assert rows["p_up"].between(0, 1).all()


@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_files_of_all_forms_hold_the_same_forecasts(candles, noise, tmp_path, ending):
    made = frame_of(candles, noise)
    path = tmp_path / f"mine.{ending}"
    if ending == "csv":
        made.to_csv(path, index=False)
    elif ending == "parquet":
        made.to_parquet(path, index=False)
    else:
        made.to_json(path, orient="records", date_format="iso", double_precision=15)
    judged = free(path, candles)
    assert list(judged.metrics) == ["mine"]
    [rows] = judged.predictions.values()
    assert rows["mine"].to_numpy() == pytest.approx(made["forecast_return"].to_numpy(), abs=1e-12)


def test_columns_that_may_be_anything_are_asked_about(candles, noise):
    with pytest.raises(ValueError, match="which of its columns .* is the forecast"):
        free(frame_of(candles, noise, "wisdom"), candles)
    with pytest.raises(ValueError, match="what is the time of a forecast"):
        free(frame_of(candles, noise, "prediction"), candles)


def test_forecasts_of_another_time_are_refused(candles, noise):
    made = frame_of(candles, noise)
    with pytest.raises(ValueError, match="no forecast can be judged"):
        free(made.assign(timestamp=made["timestamp"] + pd.Timedelta(days=900)), candles)


# --- frauds and errors


def test_a_leak_by_one_candle_is_named(candles):
    ahead = np.append(moves(candles)[1:], 0.0)
    noise = 0.002 * np.random.default_rng(2).standard_normal(len(candles))
    judged = free(frame_of(candles, 0.3 * ahead + noise), candles)
    assert "implausible_skill" in names_of(judged)
    assert "correlate +" in says_of(judged, "implausible_skill")
    assert judged.verdicts == {"forecasts": "IN DOUBT"}
    assert judged.metrics["forecasts"]["test"]["verdict"] == "EDGE"
    assert "VERDICT  IN DOUBT" in judged.text and "IN DOUBT" in judged.page()


def test_centred_smoothing_is_named(candles):
    smooth = pd.Series(moves(candles)).rolling(7, center=True).mean().fillna(0).to_numpy()
    judged = free(frame_of(candles, smooth), candles)
    assert "knows_beyond_target" in names_of(judged)
    assert "centred window" in says_of(judged, "knows_beyond_target")


def test_times_that_are_one_candle_early_are_named(candles):
    known = np.append(moves(candles)[1:], 0.0)  # what was known a candle later
    after = np.append(moves(candles)[2:], [0.0, 0.0])
    skilled = 0.05 * after - 0.02 * known
    judged = free(frame_of(candles, skilled), candles)
    assert "knows_beyond_target" in names_of(judged)


def test_times_that_are_one_candle_late_are_named(candles):
    own = moves(candles)
    noise = 0.005 * np.random.default_rng(5).standard_normal(len(candles))
    judged = free(frame_of(candles, np.nan_to_num(0.6 * own + noise)), candles)
    assert "stamped_late" in names_of(judged)
    assert "--stamped target" in says_of(judged, "stamped_late")


def test_a_copy_of_the_last_price_is_named(candles):
    judged = free(frame_of(candles, candles["close"], "forecast_price"), candles)
    assert "the forecasts copy the last price" in says_of(judged, "copies_last_price")
    before = candles["close"].shift(1).bfill()
    judged = free(frame_of(candles, before, "forecast_price"), candles)
    assert "the price before the last" in says_of(judged, "copies_last_price")


def test_a_copy_of_the_last_move_is_named(candles):
    judged = free(frame_of(candles, np.nan_to_num(moves(candles))), candles)
    assert "copies_last_move" in names_of(judged)


def test_prices_that_lag_are_named(candles):
    average = candles["close"].ewm(span=5).mean()
    judged = free(frame_of(candles, average, "forecast_price"), candles)
    assert "prices_lag" in names_of(judged)


@pytest.mark.parametrize("rate", [0.92, 1000.0])
def test_prices_in_another_currency_or_scale_are_asked_about(candles, rate):
    with pytest.raises(ValueError, match=r"BTC/USDT is .* times the last price.*which currency"):
        free(frame_of(candles, candles["close"] * rate, "forecast_price"), candles)


def test_duplicated_rows_are_named_and_count_once(candles, noise):
    made = frame_of(candles, noise)
    judged = free(pd.concat([made, made[:500]]), candles)
    assert "500 of 1,995 rows are there twice" in says_of(judged, "duplicated_rows")
    [metrics] = judged.metrics.values()
    assert metrics["test"]["n"] == len(made)


def test_rows_of_one_instant_that_differ_are_asked_about(candles, noise):
    made = frame_of(candles, noise)
    other = made[:3].assign(forecast_return=1.0e-3)
    with pytest.raises(ValueError, match="3 instants have several forecasts that differ"):
        free(pd.concat([made, other]), candles)


def right_ones(candles):
    made = frame_of(candles, 1e-4 * np.random.default_rng(4).standard_normal(len(candles)))
    ahead = np.append(moves(candles)[1:], np.nan)[100:-5]
    return made, np.sign(made["forecast_return"]) == np.sign(ahead)


def test_forecasts_only_where_they_were_right_are_named(candles):
    made, right = right_ones(candles)
    judged = free(made[right], candles)
    says = says_of(judged, "selected_forecasts")
    assert "are right in 100.0 %" in says and "were they left out where they were wrong" in says


def test_no_numbers_where_they_were_wrong_are_named(candles):
    made, right = right_ones(candles)
    judged = free(made.assign(forecast_return=made["forecast_return"].where(right)), candles)
    assert "are no numbers" in says_of(judged, "selected_not_numbers")


def test_forecasts_that_are_missing_where_the_price_fell_are_named(candles):
    made = frame_of(candles, 1e-4)
    fell = np.append(moves(candles)[1:], np.nan)[100:-5] < 0
    dropped = fell & (np.random.default_rng(0).random(len(fell)) < 0.15)
    judged = free(made[~dropped], candles)
    assert "whether the price then rose (t = " in says_of(judged, "selected_forecasts")


def test_an_honest_schedule_is_no_fraud(candles, noise):
    made = frame_of(candles, noise)
    judged = free(made[made["timestamp"].dt.hour.between(8, 19)], candles)
    assert "selected_forecasts" not in names_of(judged)
    assert "incomplete" in names_of(judged)


def test_probabilities_in_percent_are_asked_about(candles):
    p_up = np.random.default_rng(0).uniform(30, 70, len(candles))
    with pytest.raises(ValueError, match=r"is it in percent\? pass --unit percent"):
        free(frame_of(candles, p_up, "p_up"), candles)


def test_returns_in_percent_are_asked_about(candles, noise):
    wild = 0.5 * np.random.default_rng(0).standard_normal(len(candles))
    with pytest.raises(ValueError, match="is it in percent"):
        free(frame_of(candles, wild), candles)


def test_quantiles_in_the_wrong_order_are_named(candles, noise):
    made = frame_of(candles, noise).assign(q10=0.006, q50=0.0, q90=-0.006)
    judged = free(made, candles)
    says = says_of(judged, "crossed_quantiles")
    assert judged.metrics["forecasts"]["test"]["interval"] is None
    assert "1,495 of 1,495 rows" in says and "0.006, 0, -0.006" in says


def test_a_direction_that_is_not_that_of_the_return_is_named(candles, noise):
    made = frame_of(candles, noise).assign(direction=-np.sign(noise[100:-5]))
    judged = free(made, candles)
    assert "different signs in 1,495" in says_of(judged, "contradicting_direction")


def test_forecasts_of_before_their_publication_are_named(candles, noise):
    judged = free(frame_of(candles, noise), candles, published="2025-01-01")
    assert "older than its publication, 2025-01-01" in says_of(judged, "before_publication")
    judged = free(frame_of(candles, noise), candles, published="2024-02-15")
    [metrics] = judged.metrics.values()
    parts = metrics["published"]
    assert parts["before"]["n"] + parts["after"]["n"] == metrics["test"]["n"]
    assert "partly_before_publication" in names_of(judged)


def test_too_few_forecasts_say_so(candles, noise):
    judged = free(frame_of(candles, noise, rows=slice(100, 108)), candles)
    assert "8 instants are too few to test anything" in says_of(judged, "too_few")
    loud = 0.002 * np.random.default_rng(0).standard_normal(len(candles))
    judged = free(frame_of(candles, loud, rows=slice(100, 200)), candles)
    assert "would be missed" in says_of(judged, "too_few")


def test_the_number_of_tried_models_corrects_the_p_values(candles):
    ahead = np.append(moves(candles)[1:], 0.0)
    noise = 0.005 * np.random.default_rng(0).standard_normal(len(candles))
    weak = 0.1 * (0.25 * ahead + noise)
    alone = free(frame_of(candles, weak), candles)
    [one] = alone.metrics.values()
    first = one["test"]["verdicts"][0]
    assert first["verdict"] == "BEATS" and 1e-12 < first["p_holm"] < 0.05
    tried = int(0.06 / first["p_holm"]) + 1
    [many] = free(frame_of(candles, weak), candles, tried=tried).metrics.values()
    again = many["test"]["verdicts"][0]
    assert again["p_holm"] == pytest.approx(min(1.0, tried * first["p_holm"]))
    assert (again["verdict"], many["test"]["verdict"]) == ("TIES", "NO EDGE")


def test_an_honest_forecast_is_not_doubted(candles, noise):
    assert names_of(free(frame_of(candles, noise), candles)) == []


# --- baselines and rivals


@pytest.fixture(scope="module")
def long() -> dict[str, pd.DataFrame]:
    return {"BTC/USDT": walk(3500, 7), "ETH/USDT": walk(3500, 8)}


def of_both(long, first: int = 2500) -> pd.DataFrame:
    parts = []
    for number, (symbol, candles) in enumerate(long.items()):
        values = 1e-5 * np.random.default_rng(number).standard_normal(len(candles))
        part = frame_of(candles, values, rows=slice(first, -3)).assign(symbol=symbol)
        parts.append(part.assign(q10=-0.006, q50=0.0, q90=0.006))
    return pd.concat(parts)


def test_the_baselines_are_those_of_a_run_and_know_nothing_of_the_judged_span(long):
    judged = judge(of_both(long), long)
    [metrics] = judged.metrics.values()
    models = ["naive", "drift", "reversal", "lad", "ridge", "xgboost", "forecasts"]
    assert list(metrics["test"]["models"]) == models
    compared = [one["baseline"] for one in metrics["test"]["interval"]["comparisons"]]
    assert compared == ["ewma", "garch", "har"]

    # Whatever comes after the middle of the span, the baselines before it stay what they are.
    middle = 3000
    changed = {
        symbol: pd.concat(
            [
                candles[:middle],
                walk(
                    500,
                    99,
                    str(candles["timestamp"][middle].tz_localize(None)),
                    candles["close"][middle - 1],
                ),
            ]
        ).reset_index(drop=True)
        for symbol, candles in long.items()
    }
    other = judge(of_both(long), changed)
    [one], [two] = judged.predictions.values(), other.predictions.values()
    cut = long["BTC/USDT"]["timestamp"][middle - 2]
    columns = ["drift", "reversal", "lad", "ridge", "xgboost", "ewma_q10", "garch_q10", "har_q10"]
    before = one["timestamp"] <= cut
    pd.testing.assert_frame_equal(
        one.loc[before, columns], two.loc[before, columns], rtol=0, atol=1e-12
    )
    assert not one.loc[~before, "lad"].equals(two.loc[~before, "lad"])


def test_too_few_candles_before_the_first_forecast_leave_naive_alone(long):
    judged = judge(of_both(long, first=600), long)
    [metrics] = judged.metrics.values()
    assert list(metrics["test"]["models"]) == ["naive", "forecasts"]
    assert "too few" in metrics["notes"][0] and str(V2_WARMUP) in metrics["notes"][0]


def test_rivals_are_compared_on_the_instants_that_they_share(candles, noise):
    ahead = np.append(moves(candles)[1:], 0.0)
    rivals = {
        "good": frame_of(candles, 0.1 * ahead, rows=slice(100, 1200)),
        "noise": frame_of(candles, 300 * noise, rows=slice(200, -5)),
        "calls": frame_of(candles, np.sign(noise), "direction"),
    }
    judged = free(dict(list(rivals.items())[:2]), candles)
    table = judged.rivals
    assert table["n"] == 1000 and table["loss"] == "scaled_absolute_error"
    assert [row["model"] for row in table["models"]] == ["good", "naive", "noise"]
    [pair] = table["pairs"]
    assert pair["verdict"] == "BEATS" and pair["p_holm"] == pair["p_value"]
    assert table["confidence_set"]["models"] == ["good"]
    judged = free(rivals, candles)
    assert judged.rivals["loss"] == "wrong_direction" and len(judged.rivals["pairs"]) == 3
    assert "Rivals" in judged.page("good") and "wrong directions" in judged.text


def test_files_of_one_name_are_called_by_their_folders(tmp_path, candles, noise):
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        frame_of(candles, noise).to_parquet(tmp_path / name / "predictions.parquet")
    paths = [tmp_path / name / "predictions.parquet" for name in ("small", "large")]
    assert list(free(paths, candles).metrics) == ["small", "large"]
    assert list(free([paths[0], paths[0]], candles).metrics) == ["small", "small 2"]


def test_two_runs_of_ours_are_rivals(candles, noise):
    [scored] = free(frame_of(candles, noise), candles).predictions.values()
    run = scored.rename(columns={"forecasts": "lstm"})
    judged = free([run, run.assign(lstm=-run["lstm"])], candles)
    models = {row["model"]: row["skill"] for row in judged.rivals["models"]}
    assert set(models) == {"forecasts", "forecasts 2", "naive"}
    [one, other] = (judged.metrics[name]["test"]["verdicts"][0]["skill"] for name in judged.metrics)
    assert models["forecasts"] == pytest.approx(one) and models["forecasts 2"] == pytest.approx(
        other
    )


def test_the_baselines_of_rivals_are_those_fitted_here_before_those_of_a_run(candles, noise):
    def rival(name: str, ridge: float, own: tuple[str, ...]) -> judging.Rival:
        said = free(frame_of(candles, noise), candles)
        [predictions] = said.predictions.values()
        rows = predictions.rename(columns={"forecasts": name}).assign(ridge=ridge)
        matched = Matched(name, "return", rows, pd.DataFrame(), len(rows), 0, baselines=own)
        return judging.Rival(name, matched, rows, ["ridge"])

    of_a_run, of_a_file = rival("run", 1.0, ("naive", "ridge")), rival("file", 2.0, ())
    together, baselines = judging._shared([of_a_run, of_a_file])
    assert baselines == ["ridge"] and (together["ridge"] == 2.0).all()


def test_without_a_folder_an_exchange_is_asked_for_the_candles(candles, noise):
    now_ms = int(timestamps_ms(candles)[-1]) + 3_600_000
    market = market_of({"BTC/USDT": {"1h": candles}})
    with ExchangeServer(market, now_ms=now_ms, limits={}) as server:
        made = frame_of(candles, noise)
        asked = judge(made, exchange="binance", base_url=server.url, baselines=FREE)
    [one], [other] = asked.predictions.values(), free(made, candles).predictions.values()
    pd.testing.assert_frame_equal(one, other)
    assert asked.metrics["forecasts"]["data"]["source"] == "exchange"


def test_an_unknown_baseline_is_refused(candles, noise):
    with pytest.raises(ValueError, match="unknown baselines arima; there are naive, drift"):
        judge(frame_of(candles, noise), {"BTC/USDT": candles}, baselines=("arima",))


# --- our own run


def near(one: object, other: object, where: str = "") -> list[str]:
    """Where two trees of numbers differ by more than 1e-12."""
    if isinstance(other, dict):
        assert isinstance(one, dict) and list(one) == list(other), where
        return [text for key in other for text in near(one[key], other[key], f"{where}/{key}")]
    if isinstance(other, list):
        assert isinstance(one, list) and len(one) == len(other), where
        pairs = enumerate(zip(one, other))
        return [text for n, (a, b) in pairs for text in near(a, b, f"{where}/{n}")]
    if isinstance(other, float) and isinstance(one, (int, float)):
        return (
            [] if abs(one - other) <= 1e-12 * max(1.0, abs(other)) else [f"{where}: {one} {other}"]
        )
    return [] if one == other else [f"{where}: {one} {other}"]


@pytest.mark.slow
@pytest.mark.parametrize("of", ["walks", "real"])
def test_our_own_run_is_judged_by_the_numbers_that_it_wrote(of, tmp_path, request, no_twin):
    if of == "real":
        folder = request.getfixturevalue("real_data") / "binanceusdm"
    else:
        folder = tmp_path / "candles"
        for number, symbol in enumerate(("BTC/USDT", "ETH/USDT")):
            store.write_candles(walk(1700, number), folder, symbol, "1h", "binance")
    config = replace(TINY, candles_dir=folder, candles=1000, epochs=1, output_dir=tmp_path / "run")
    with networks.bare():
        train_v2_production.main(config, build=networks.for_v2)
    written = json.loads((tmp_path / "run" / FILES.metrics).read_text())
    judged = judge(tmp_path / "run" / FILES.predictions, folder)
    [metrics] = judged.metrics.values()
    for part in ("test", "backtest", "delayed_entry", "folds"):
        assert near(metrics[part], written[part], part) == []
    assert "interval" in metrics["test"] and metrics["test"]["interval"]["comparisons"]

    rows = pd.read_parquet(tmp_path / "run" / FILES.predictions)
    rows.loc[3, "actual_return"] += 1e-3
    with pytest.raises(ValueError, match="actual_return of .* by the candles"):
        judge(rows, folder)


# --- the command


@pytest.mark.slow
def test_the_command_writes_page_numbers_and_forecasts(candles, noise, tmp_path):
    store.write_candles(candles, tmp_path / "candles", "BTC/USDT", "1h", "binance")
    frame_of(candles, noise).to_csv(tmp_path / "mine.csv", index=False)
    command = [
        *(sys.executable, "judge.py", "--forecasts", str(tmp_path / "mine.csv"), "--json"),
        *("--candles-dir", str(tmp_path / "candles"), "--out", str(tmp_path / "out")),
        *("--baselines", "naive"),
    ]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["model"], told["verdict"], told["n"]) == ("mine", "NO EDGE", 1495)
    assert "VERDICT" in done.stderr and "stamped with the open of the last candle" in done.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["test"]["n"] == 1495
    assert len(pd.read_parquet(tmp_path / "out" / "predictions.parquet")) == 1495
    assert "mine on BTC/USDT" in (tmp_path / "out" / "judged.html").read_text()
    refused = subprocess.run(
        [*command, "--stamped", "target", "--horizon", "0"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2 and refused.stderr.startswith("error: horizon is 0")


def test_candles_of_a_generator_have_no_claim(noise):
    made_up = synthetic_candles(1600, seed=1)
    made_up.attrs["exchange"] = "synthetic"
    judged = free(frame_of(made_up, noise), made_up)
    assert list(judged.verdicts.values()) == ["NO CLAIM (synthetic data)"]


def test_one_forecast_is_judged_without_a_warning(candles, noise):
    [metrics] = free(frame_of(candles, noise, rows=slice(100, 101)), candles).metrics.values()
    assert metrics["test"]["n"] == 1 and metrics["verdict"] == "NO EDGE"


def test_a_price_that_is_called_a_return_is_asked_about(candles):
    made = frame_of(candles, candles["close"].to_numpy())
    with pytest.raises(ValueError, match="is it a price. pass --unit price"):
        free(made, candles)
    assert free(made, candles, unit="price").verdicts


def test_a_judgement_is_told_as_text(candles, noise):
    judged = free(frame_of(candles, noise), candles)
    assert repr(judged) == judged.text


def test_models_whose_names_are_alike_have_folders_of_their_own(candles, noise, tmp_path):
    made = frame_of(candles, noise)
    pages = free({"a b": made, "a_b": made}, candles).write(tmp_path)
    assert len(set(pages.values())) == 2
