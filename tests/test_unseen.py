"""A bundle on candles it has never seen: what is scored, what is left out, what is said."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import inference_v2
from config import SourceConfig
from data_fetcher import fetch_candles
from feature_engineering import compute_features
from inference_v2 import METADATA_FILE, SCALER_FILE, CryptoPricePredictorV2
from pipeline import commands
from pipeline.bundle.files import sha256_of
from pipeline.bundle.metadata import read_metadata
from pipeline.candles.candle_set import CandleSet
from pipeline.candles.synthetic import synthetic_market
from pipeline.evaluation.unseen import check_test_part, score_unseen
from pipeline.report.evaluate_text import drift_table, unseen_text
from pipeline.samples.drift import feature_quantiles, measure_drift, population_stability

ROOT = Path(__file__).resolve().parents[1]
HOUR = pd.Timedelta(hours=1)


@pytest.fixture(scope="module")
def predictor(tiny_bundle):
    return CryptoPricePredictorV2.from_directory(tiny_bundle)


@pytest.fixture(scope="module")
def metadata(tiny_bundle):
    return json.loads((tiny_bundle / METADATA_FILE).read_text())


@pytest.fixture(scope="module")
def market(signal_market):
    return CandleSet(signal_market, "1h", "directory", "DIR")


def score(predictor, market, metadata, since=None, **options):
    since_ms = None if since is None else pd.Timestamp(since).value // 10**6
    return score_unseen(predictor, market, metadata, since_ms, **options)


@pytest.fixture(scope="module")
def scored(predictor, market, metadata):
    return score(predictor, market, metadata)


def before_cuts(predictor, **cuts):
    """The predictor of a bundle whose scaler file names no cuts, or these alone."""
    old = copy.copy(predictor)
    old.cuts = cuts
    ended = cuts.get("val_end")
    old.trained_until = None if ended is None else pd.Timestamp(ended, unit="ms", tz="UTC")
    return old


@pytest.fixture
def unscored(monkeypatch):
    """Scoring takes a second; tests of what is scored do without."""
    monkeypatch.setattr(
        "pipeline.evaluation.unseen.score_run", lambda *_, **__: {"test": {"warnings": []}}
    )


def first_row(table):
    """What stands below the rule of a table."""
    lines = table.splitlines()
    return lines[next(i for i, line in enumerate(lines) if "───" in line) + 1]


def forget(folder, *keys):
    """Leave keys out of a bundle's scaler file, as older versions did."""
    scalers = pickle.loads((folder / SCALER_FILE).read_bytes())
    kept = {key: value for key, value in scalers.items() if key not in keys}
    (folder / SCALER_FILE).write_bytes(pickle.dumps(kept, protocol=4))


def synthetic_copy(bundle, folder):
    """The bundle as if it had been trained on synthetic candles, without metadata."""
    shutil.copytree(bundle, folder)
    (folder / METADATA_FILE).unlink()
    scalers = pickle.loads((folder / SCALER_FILE).read_bytes())
    (folder / SCALER_FILE).write_bytes(pickle.dumps({**scalers, "synthetic": True}, protocol=4))
    return folder


def test_on_its_own_test_part_the_bundle_scores_as_its_training_run_did(scored, tiny_bundle):
    result, predictions = scored
    trained = pd.read_parquet(tiny_bundle / "predictions_v2.parquet").sort_values(
        ["timestamp", "symbol"]
    )
    assert list(predictions["timestamp"]) == list(trained["timestamp"])
    assert list(predictions["symbol"]) == list(trained["symbol"])
    for name in (
        "base_price",
        "current_return",
        "actual_return",
        "volatility",
        "ewma_q10",
        "ewma_q90",
    ):
        assert np.array_equal(predictions[name], trained[name]), name
    for name in ("lstm", "q10", "q50", "q90", "p_up"):
        assert (
            np.abs(predictions[name].to_numpy() - trained[name].to_numpy()).max()
            <= 1e-5 * trained[name].std()
        ), name
    before = json.loads((tiny_bundle / "metrics_v2.json").read_text())["test"]
    for name in ("mape_percent", "mae", "rmse", "r2", "direction_accuracy", "brier"):
        ours, theirs = (test["models"]["lstm"][name] for test in (result["test"], before))
        assert ours == pytest.approx(theirs, rel=1e-6), name
    assert result["test"]["verdicts"][0]["skill"] == pytest.approx(
        before["verdicts"][0]["skill"], rel=1e-6
    )
    assert [c["baseline"] for c in result["test"]["interval"]["comparisons"]] == ["ewma"]


def test_candles_that_cannot_be_are_told_of_beside_the_verdict(
    predictor, market, metadata, unscored
):
    eth = market.candles["ETH/USDT"]
    prices = ["open", "high", "low", "close"]
    last = eth.index >= len(eth) - 40
    split = eth.assign(**{name: eth[name].mask(last, 1000 * eth[name]) for name in prices})
    market = CandleSet({"ETH/USDT": split}, "1h", "directory", "DIR")
    result, _ = score(predictor, market, metadata)
    [warning] = result["test"]["warnings"]
    assert warning.startswith("ETH/USDT: 1 candle(s) hard to believe, first at ")
    assert "returns, scores and money count such jumps" in warning


def test_the_forecasts_are_those_of_predict_history_bit_for_bit(predictor, scored, market):
    _, predictions = scored
    for symbol, candles in market.candles.items():
        rows = predictions[predictions["symbol"] == symbol].set_index("timestamp")
        first = int(np.flatnonzero(candles["timestamp"] == rows.index[0])[0])
        history = predictor.predict_history(candles.iloc[first + 1 - predictor.required_candles :])
        served = history.set_index("timestamp").loc[rows.index]
        assert np.array_equal(served["predicted_return"], rows["lstm"])
        for name in ("q05", "q10", "q25", "q50", "q75", "q90", "q95", "p_up"):
            assert np.array_equal(served[name], rows[name])
        closes = candles.set_index("timestamp")["close"]
        t = rows.index[7]
        assert rows.loc[t, "actual_return"] == np.log(closes[t + HOUR] / closes[t])
        assert rows.loc[t, "base_price"] == closes[t]


def test_no_target_begins_before_the_end_of_validation_and_the_first_that_may_is_there(
    scored, metadata, market
):
    result, predictions = scored
    val_end = pd.Timestamp(metadata["cuts"]["val_end"])
    made_at = predictions["timestamp"] + HOUR
    assert made_at.min() >= val_end
    assert made_at.min() < val_end + HOUR
    n_seen = sum(int((c["timestamp"] + HOUR <= val_end).sum()) for c in market.candles.values())
    note = f"{n_seen:,} candles up to {val_end:%Y-%m-%dT%H:%MZ} left out, since the network"
    assert any(text.startswith(note) for text in result["notes"])
    assert result["seen_until"] == f"{val_end:%Y-%m-%dT%H:%MZ}"


def test_an_instant_before_the_end_of_validation_does_not_bring_seen_candles_back(
    predictor, market, metadata, scored, unscored
):
    result, predictions = score(predictor, market, metadata, since="2000-01-01")
    pd.testing.assert_frame_equal(predictions, scored[1])
    later = scored[1]["timestamp"].iloc[50]
    result, predictions = score(predictor, market, metadata, since=later + HOUR)
    assert predictions["timestamp"].iloc[0] == later  # made when its candle closes
    assert not any("left out" in note for note in result["notes"])


def test_the_bundles_own_test_part_is_said_to_have_been_looked_at_and_later_candles_are_not(
    predictor, market, metadata, scored, unscored
):
    n = len(scored[1])
    assert any(
        f"{n} of {n} forecasts lie in the bundle's own test part" in note
        for note in scored[0]["notes"]
    )
    cuts = {**metadata["cuts"], "test_end": f"{scored[1]['timestamp'].iloc[9]:%Y-%m-%dT%H:%M:%SZ}"}
    old = before_cuts(predictor)
    result, predictions = score(old, market, {**metadata, "cuts": cuts})
    inside = int((predictions["timestamp"] + 2 * HOUR <= pd.Timestamp(cuts["test_end"])).sum())
    assert any(f"{inside} of {n} forecasts lie" in note for note in result["notes"])
    assert 0 < inside < 10
    cuts["test_end"] = cuts["test_start"]
    result, _ = score(old, market, {**metadata, "cuts": cuts})
    assert not any("own test part" in note for note in result["notes"])


def test_without_metadata_it_needs_since_and_says_that_it_trusts_it(predictor, market, scored):
    with pytest.raises(
        ValueError,
        match=r"neither .* which candles the model has seen; copy metadata_v2.json .*--since",
    ):
        score(before_cuts(predictor), market, {})
    start = scored[1]["timestamp"].iloc[0] + HOUR
    result, predictions = score(before_cuts(predictor), market, {}, since=start)
    assert np.array_equal(predictions["lstm"], scored[1]["lstm"])
    assert result["seen_until"] is None
    assert any("taken on trust" in note for note in result["notes"])
    assert any("no drift" in note for note in result["notes"])
    assert result["drift"] == [] and drift_table([]) == ""
    assert result["test"]["interval"]["comparisons"] == []


def test_what_the_model_has_learnt_is_said_to_be_its_author_s_word(
    predictor, market, metadata, scored, unscored
):
    until = f"{pd.Timestamp(metadata['cuts']['val_end']):%Y-%m-%dT%H:%MZ}"
    word = f"that the model has learnt nothing after {until} is its author's word"
    assert word in scored[0]["notes"]
    assert word in unseen_text(scored[0])
    for result in (
        score(before_cuts(predictor), market, metadata)[0],
        score(predictor, market, {})[0],
    ):
        assert any(note.startswith(word) for note in result["notes"])
    assert (
        f"{word}, in the metadata alone"
        in score(before_cuts(predictor), market, metadata)[0]["notes"]
    )


@pytest.mark.parametrize("name", ["train_end", "val_end", "test_start", "test_end"])
def test_cuts_that_the_metadata_moves_contradict_the_scaler_file(predictor, market, metadata, name):
    moved = dict.fromkeys(metadata["cuts"], "2024-01-01T00:00:00Z")
    cuts = {
        **metadata["cuts"],
        **{key: moved[key] for key in list(moved)[: list(moved).index(name) + 1]},
    }
    known = before_cuts(predictor, **{name: predictor.cuts[name]})
    with pytest.raises(ValueError, match=f"metadata: {name} is 2024-01-01T00:00Z, and 202[45]-"):
        score(known, market, {**metadata, "cuts": cuts})


BAD_METADATA = [
    ({"cuts": 3}, "'cuts'.* 3 is no dict"),
    ({"cuts": {"val_end": "2024-12-01"}}, "'train_end': None is no str"),
    ({"cuts": {"val_end": [1]}}, "'val_end': .1. is no str"),
    ({"config": []}, "'config': .. is no dict"),
    ({"config": {"threshold": "low"}}, "'threshold': 'low' is no float"),
    ({"feature_quantiles": {"rsi": 3}}, "'rsi': 3 is no dict"),
    ({"feature_quantiles": {"rsi": {"low": 0.0}}}, "'rsi', 'high': None is no float"),
    ({"feature_quantiles": [1]}, "'feature_quantiles': .1. is no dict"),
    ({"interval_baselines": {"ewma": {"q10": -1.0}}}, "'ewma', 'q50': None is no float"),
    ({"interval_baselines": {"ewma": "x"}}, "'ewma': 'x' is no dict"),
    ({"interval_baselines": {"\x1b[2J": {"q10": -1, "q50": 0, "q90": 1}}}, "is no name"),
    ({"jobs": [1]}, "'jobs': .1. is no dict"),
]


@pytest.mark.parametrize(("change", "message"), BAD_METADATA)
def test_metadata_of_another_shape_ends_in_one_line(
    predictor, market, metadata, tmp_path, unscored, change, message
):
    (tmp_path / METADATA_FILE).write_text(json.dumps({**metadata, **change}))
    with pytest.raises(ValueError, match=message) as caught:
        score(predictor, market, read_metadata(tmp_path / METADATA_FILE))
    assert str(caught.value).isprintable()


def test_bins_that_are_none_are_refused_by_the_feature_s_name():
    sound = {"low": 0.0, "high": 9.0, "edges": [1.0, 2.0], "shares": [0.3, 0.3, 0.4], "usual": []}
    rows, hours = np.arange(10.0)[:, None], 3_600_000 * np.arange(10)
    assert len(measure_drift(rows, hours, ["a"], {"a": sound})) == 1
    for change in (
        {"edges": [2.0, 1.0]},
        {"shares": [1.0]},
        {"usual": [[1.0]]},
        {"usual": [[0, 1]]},
    ):
        with pytest.raises(ValueError, match="'a': its edges, shares or usual values"):
            measure_drift(rows, hours, ["a"], {"a": {**sound, **change}})


def moved_into_the_past(bundle, folder):
    """A bundle that lies in every file that a liar would think of: cuts of a year before."""
    shutil.copytree(bundle, folder)
    scalers = pickle.loads((folder / SCALER_FILE).read_bytes())
    cuts = {**scalers["cuts"], "train_end": "2023-11-01", "val_end": "2023-12-01"}
    cuts["test_start"] = cuts["val_end"]
    scalers |= {"cuts": cuts, "trained_until": cuts["val_end"]}
    (folder / SCALER_FILE).write_bytes(pickle.dumps(scalers, protocol=4))
    metadata = json.loads((folder / METADATA_FILE).read_text())
    metadata["cuts"] = cuts
    metadata["files"][SCALER_FILE] = sha256_of(folder / SCALER_FILE)
    (folder / METADATA_FILE).write_text(json.dumps(metadata))
    return folder


def test_cuts_moved_into_the_past_contradict_the_forecasts_of_the_test_part(
    tiny_bundle, signal_dir, tmp_path, monkeypatch, capsys
):
    folder = moved_into_the_past(tiny_bundle, tmp_path / "bundle")
    options = ("--model-dir", folder, "--candles-dir", signal_dir)
    told = r"forecasts of the test part begin at 2024-12-28T.*, and .* begins at 2023-12-01T00:00Z"
    with pytest.raises(ValueError, match=told) as caught:
        evaluate(monkeypatch, *options)
    since = str(caught.value).split("--since ")[1].split()[0]
    evaluate(monkeypatch, *options, "--since", since)
    assert "is its author's word" in capsys.readouterr().out


def test_forecasts_of_the_test_part_begin_after_validation(tiny_bundle, predictor, tmp_path):
    path = tmp_path / "predictions.parquet"
    saved = pd.read_parquet(tiny_bundle / "predictions_v2.parquet")
    check_test_part(tiny_bundle / "predictions_v2.parquet", predictor, {})
    check_test_part(path, predictor, {})  # there is none
    saved.assign(timestamp=saved["timestamp"] - 24 * HOUR).to_parquet(path)
    with pytest.raises(ValueError, match="begin at 2024-12-27T.*, and the bundle says that valid"):
        check_test_part(path, predictor, {})
    check_test_part(path, predictor, {"config": {"walk_forward": True}})
    for content in (b"PAR1", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not readable as a bundle's predictions"):
            check_test_part(path, predictor, {})
    saved.drop(columns="timestamp").to_parquet(path)
    with pytest.raises(ValueError, match="not readable as a bundle's predictions"):
        check_test_part(path, predictor, {})


def test_later_candles_of_a_synthetic_market_give_no_claim(tiny_bundle, tmp_path):
    later = synthetic_market(("BTC/USDT", "ETH/USDT"), "1h", 700, seed=42, signal_r2=0.15)
    folder = synthetic_copy(tiny_bundle, tmp_path / "bundle")
    forget(folder, "cuts", "trained_until")
    with pytest.warns(UserWarning, match="trained on synthetic candles"):
        predictor = CryptoPricePredictorV2.from_directory(folder)
    since = later["BTC/USDT"]["timestamp"].iloc[0]
    result, predictions = score(
        predictor, CandleSet(later, "1h", "directory", "DIR"), {}, since=since
    )
    assert len(predictions) == 2 * (700 - 533 - 1)  # 474 of warm-up, a window of 60, a target
    assert result["test"]["verdict"] == "NO CLAIM (synthetic data)"
    assert "VERDICT  NO CLAIM (synthetic data)" in unseen_text(result)


def test_made_up_candles_give_no_claim_to_a_real_bundle_either(predictor, signal_market, metadata):
    made_up = CandleSet(signal_market, "1h", "synthetic", "seed 42")
    result, _ = score(predictor, made_up, metadata)
    assert result["test"]["verdict"] == "NO CLAIM (synthetic data)"


def test_coins_it_was_not_trained_on_are_scored_and_named_and_one_without_samples_is_left_out(
    predictor, market, metadata, caplog, unscored
):
    eth = market.candles["ETH/USDT"]
    strangers = {"SOL/USDT": eth, "ADA/USDT": eth.iloc[:800], "XRP/USDT": eth.iloc[:100]}
    result, predictions = score(
        predictor, CandleSet({**market.candles, **strangers}, "1h", "directory", "DIR"), metadata
    )
    assert result["untrained_symbols"] == ["SOL/USDT"]
    assert "not trained on: SOL/USDT" in result["notes"]
    assert "no forecasts of ADA/USDT, XRP/USDT" in result["notes"]
    assert "ADA/USDT has no candle to forecast from" in caplog.text
    assert "XRP/USDT: no sample in 100 candles" in caplog.text
    by_symbol = predictions.set_index(["symbol", "timestamp"])["lstm"]
    assert np.array_equal(by_symbol["SOL/USDT"], by_symbol["ETH/USDT"])  # the cut is one of time
    with pytest.raises(
        ValueError,
        match="no forecast can be made from .*: the last candle opens at .*; fetch newer",
    ):
        score(
            predictor, CandleSet({"XRP/USDT": eth.iloc[:100]}, "1h", "directory", "DIR"), metadata
        )


def test_samples_follow_the_rules_of_training_at_gaps(
    predictor, market, metadata, scored, unscored
):
    candles = market.candles["BTC/USDT"]
    gap = len(candles) - 70
    holed = CandleSet(
        {"BTC/USDT": candles.drop(index=gap).reset_index(drop=True)}, "1h", "directory", "DIR"
    )
    _, predictions = score(predictor, holed, metadata)
    whole = scored[1].loc[scored[1]["symbol"] == "BTC/USDT", "timestamp"]
    # The candle before the gap has no target; the 59 after it have a gap in their window.
    lost = set(candles["timestamp"].iloc[gap - 1 : gap + 60]) & set(whole)
    assert set(predictions["timestamp"]) == set(whole) - lost
    assert len(lost) == 61


def test_a_training_run_writes_what_drift_and_intervals_are_judged_by(
    metadata, predictor, tiny_bundle
):
    assert list(metadata["feature_quantiles"]) == predictor.feature_cols
    for numbers in metadata["feature_quantiles"].values():
        edges = [numbers["low"], *numbers["edges"], numbers["high"]]
        assert edges == sorted(edges)
        assert sum(numbers["shares"]) == pytest.approx(1)
    trained = pd.read_parquet(tiny_bundle / "predictions_v2.parquet")
    constants = metadata["interval_baselines"]["ewma"]
    of_low, of_high = (
        trained[f"ewma_{name}"] / (constants[name] * trained["volatility"])
        for name in ("q10", "q90")
    )
    # What is left is the correction of the width, the same for every quantile.
    assert of_low.to_numpy() == pytest.approx(of_high.to_numpy(), rel=1e-12)
    assert of_low.between(0.5, 2).all()


def test_a_feature_that_has_moved_is_found_and_the_others_are_not(predictor, market, unscored):
    features = {
        s: compute_features(c, "1h", predictor.feature_cols) for s, c in market.candles.items()
    }
    before = [f.assign(volume_z=f["volume_z"] - 2.0).to_numpy() for f in features.values()]
    quantiles = feature_quantiles(
        np.concatenate([rows[500:] for rows in before]),
        np.concatenate([np.arange(500, len(rows)) * 3_600_000 for rows in before]),
        predictor.feature_cols,
    )
    start = pd.Timestamp(market.candles["BTC/USDT"]["timestamp"].iloc[540]).value // 10**6
    metadata = {"feature_quantiles": quantiles}
    result, _ = score_unseen(before_cuts(predictor), market, metadata, start)
    assert result["drift"][0]["feature"] == "volume_z"
    assert result["drift"][0]["reading"] == "shifted"
    assert {row["reading"] for row in result["drift"][1:]} == {"stable"}
    assert "volume_z" in first_row(drift_table(result["drift"]))


def test_population_stability_by_hand():
    half, third = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    # (0.25 - 0.5) ln(0.25 / 0.5) + (0.75 - 0.5) ln(0.75 / 0.5) = 0.25 (ln 2 + ln 1.5) = 0.25 ln 3
    assert population_stability(half, third) == pytest.approx(0.25 * np.log(3))
    assert population_stability(half, half) == 0
    # an empty bin counts as 1e-4: (0.0001 - 0.5) ln(0.0002) + (1 - 0.5) ln 2
    expected = -0.4999 * np.log(0.0002) + 0.5 * np.log(2)
    assert population_stability(half, np.array([0.0, 1.0])) == pytest.approx(expected)


@given(
    st.lists(st.integers(1, 50), min_size=4, max_size=4),
    st.lists(st.integers(1, 50), min_size=4, max_size=4),
)
def test_population_stability_is_symmetric_and_never_negative(first, other):
    first, other = np.array(first) / sum(first), np.array(other) / sum(other)
    assert population_stability(first, other) == pytest.approx(
        population_stability(other, first), abs=1e-12
    )
    assert population_stability(first, other) >= 0


def drift_of(before, now, days=100):
    """Drift of one feature whose values come evenly over so many days."""
    times = [
        np.linspace(0, days * 86_400_000, len(values)).astype(np.int64) for values in (before, now)
    ]
    quantiles = feature_quantiles(np.array(before)[:, None], times[0], ["x"])
    return measure_drift(np.array(now)[:, None], times[1], ["x"], quantiles)[0]


def test_deciles_by_hand():
    row = drift_of(np.arange(1, 1001.0), np.arange(1, 1001.0))
    assert row["psi"] == 0
    assert row["reading"] == "stable"
    assert row["outside"] == pytest.approx(
        1 / 1000
    )  # the quantiles of 0.1 % and 99.9 % are 1 and 999: only 1000 is out
    # Shifted by one decile: the first is empty, the last has two: (1e-4 - .1) ln(1e-3) + (.2 - .1)
    # ln 2
    row = drift_of(np.arange(1, 1001.0), np.arange(101, 1101.0))
    assert row["psi"] == pytest.approx((1e-4 - 0.1) * np.log(1e-3) + 0.1 * np.log(2), rel=1e-9)
    assert row["reading"] == "shifted"
    assert row["outside"] == pytest.approx(101 / 1000)


def test_repeated_values_constants_and_missing_ones_do_not_read_as_drift():
    funding = np.repeat([1e-4, 2e-4, -1e-4], [700, 200, 100])  # most deciles are one value
    row = drift_of(funding, np.tile(funding, 2))
    assert row["psi"] == pytest.approx(0)
    assert row["reading"] == "stable"
    assert drift_of(funding, np.full(500, 1e-4))["reading"] == "shifted"  # no longer moves
    assert drift_of(np.ones(10), np.ones(5))["psi"] == pytest.approx(0)
    assert drift_of(np.ones(10), np.full(5, 2.0))["outside"] == 1.0
    gone = drift_of(funding, np.full(20, np.nan))
    assert (gone["psi"], gone["outside"], gone["missing"], gone["reading"]) == (
        None,
        None,
        1.0,
        "missing",
    )
    half = drift_of(funding, np.where(np.arange(2000) % 2, np.nan, np.repeat(funding, 2)))
    assert half["missing"] == 0.5
    assert half["psi"] == pytest.approx(0)
    assert "missing" in first_row(drift_table([gone, half]))


def test_a_feature_missing_throughout_training_has_no_quantiles():
    rows = np.array([[1.0, np.nan], [2.0, np.nan]])
    quantiles = feature_quantiles(rows, np.array([0, 1]), ["a", "b"])
    assert list(quantiles) == ["a"]
    assert [
        row["feature"] for row in measure_drift(rows, np.array([0, 1]), ["a", "b"], quantiles)
    ] == ["a"]


def test_the_usual_psi_is_that_of_equally_long_stretches_of_training():
    # A slow wave: each half of the training part holds one half of the values, so halves always
    # look shifted.
    slow = np.arange(1000.0)
    row = drift_of(slow, slow[:500], days=100)
    quantiles = feature_quantiles(slow[:, None], np.arange(1000) * 8_640_000, ["x"])["x"]
    lengths, psi = np.transpose(quantiles["usual"])
    assert list(lengths) == pytest.approx(
        [5, 10, 20, 50], rel=0.01
    )  # 100 pieces would hold 10 candles each
    half = 5 * (1e-4 - 0.1) * np.log(1e-3) + 5 * 0.1 * np.log(2)
    assert psi[-1] == pytest.approx(half, rel=1e-6)
    assert row["usual"] == pytest.approx(half, rel=1e-6)  # 100 days: beyond the longest stretch
    assert drift_table([row]).endswith(
        "shifted, as usual\n"
    )  # no worse than halves of the training part are
    fast = np.random.default_rng(0).permutation(slow)
    assert drift_of(fast, fast[:500])["usual"] < 0.05


def test_evaluate_from_the_shell_prints_tables_drift_and_verdict_and_writes_both_files(
    tiny_bundle, signal_dir, tmp_path, scored
):
    options = [
        "--model-dir",
        tiny_bundle,
        "--candles-dir",
        signal_dir,
        "--fee-bps",
        0,
        "--output",
        tmp_path,
    ]
    command = [
        sys.executable,
        "inference_v2.py",
        "evaluate",
        *options,
        "--predictions",
        tmp_path / "unseen.parquet",
    ]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result, predictions = scored
    assert f"{len(predictions)} forecasts of BTC/USDT, ETH/USDT" in done.stdout
    assert "lstm against naive" in done.stdout
    assert result["drift"][0]["feature"] in done.stdout
    last = done.stdout.split("═" * 100)[-2]  # what stands between the last two rules
    assert last.strip().startswith(f"VERDICT  {result['test']['verdict']}")
    written = json.loads((tmp_path / "evaluation_v2.json").read_text())
    assert written["test"] == json.loads(json.dumps(result["test"]))
    assert written["backtest"]["fee_bps"] == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "unseen.parquet"), predictions)


def evaluate(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["inference_v2.py", "evaluate", *map(str, options)])
    commands.main(CryptoPricePredictorV2, inference_v2.__doc__)


def test_evaluate_takes_symbols_since_and_until(
    tiny_bundle, signal_dir, scored, tmp_path, monkeypatch, capsys
):
    times = scored[1]["timestamp"].drop_duplicates().reset_index(drop=True)
    evaluate(
        monkeypatch,
        "--model-dir",
        tiny_bundle,
        "--candles-dir",
        signal_dir,
        "--symbols",
        "eth/usdt",
        "--since",
        f"{times[10]:%Y-%m-%dT%H:%M}",
        "--until",
        f"{times[60]:%Y-%m-%dT%H:%M}",
        "--output",
        tmp_path / "a.json",
    )
    capsys.readouterr()
    written = json.loads((tmp_path / "a.json").read_text())
    assert list(written["data"]["symbols"]) == ["ETH/USDT"]
    # Made at times[10], so at the close of candle 9; the last target is candle 59, which closes at
    # times[60].
    assert written["span"] == {
        "first": f"{times[9]:%Y-%m-%dT%H:%MZ}",
        "last": f"{times[58]:%Y-%m-%dT%H:%MZ}",
        "n": 50,
    }


def test_evaluate_scores_the_trained_pairs_that_are_there_and_names_the_others(
    tiny_bundle, signal_dir, tmp_path, monkeypatch, capsys
):
    for path in signal_dir.glob("ETHUSDT*"):
        shutil.copy(path, tmp_path)
    evaluate(monkeypatch, "--model-dir", tiny_bundle, "--candles-dir", tmp_path)
    printed = capsys.readouterr().out
    assert "forecasts of ETH/USDT, from" in printed
    told = " ".join(printed.split())
    assert f"not scored, since {tmp_path} does not have them: BTC/USDT" in told
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match=r"BTC/USDT, ETH/USDT: no BTCUSDT_1h.parquet"):
        evaluate(monkeypatch, "--model-dir", tiny_bundle, "--candles-dir", empty)


def test_evaluate_without_metadata_or_candles_ends_in_a_sentence(
    tiny_bundle, signal_dir, tmp_path, monkeypatch
):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    (folder / METADATA_FILE).unlink()
    forget(folder, "cuts", "trained_until")
    with pytest.raises(ValueError, match="pass --since"):
        evaluate(monkeypatch, "--model-dir", folder, "--candles-dir", signal_dir)
    with pytest.raises(ValueError, match="no SOLUSDT_1h.parquet"):
        evaluate(
            monkeypatch,
            "--model-dir",
            tiny_bundle,
            "--candles-dir",
            signal_dir,
            "--symbols",
            "SOL/USDT",
        )


def test_real_candles_after_the_test_part_of_a_bundle_are_scored(
    tiny_bundle, predictor, metadata, real_data
):
    market = fetch_candles(
        ["BTC/USDT"],
        "1h",
        1200,
        source=SourceConfig(candles_dir=real_data / "binanceusdm", cache_dir=None),
    )
    if market.candles["BTC/USDT"]["timestamp"].iloc[-300] < pd.Timestamp(
        metadata["cuts"]["val_end"]
    ):
        predictor, metadata = before_cuts(predictor), {**metadata, "cuts": {}}
    since = market.candles["BTC/USDT"]["timestamp"].iloc[-300]
    result, predictions = score(predictor, market, metadata, since=since)
    assert len(predictions) == 300
    assert result["test"]["verdict"] in ("EDGE", "NO EDGE")
