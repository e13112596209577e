"""Recalibration: what it is fitted on, what it is scored on, whose it is, and who uses it.

The network is a stub that looks at the last candle alone.
"""

import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import inference_v2
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import commands
from pipeline.bundle import files, hub_transfer
from pipeline.bundle.files import sha256_of
from pipeline.candles.schema import utc_from_ms
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_market
from pipeline.evaluation.calibrations import compare_calibrations, monthly_calibrations
from pipeline.forecasts.recalibration import (
    MAX_BYTES,
    Recalibration,
    read_recalibration,
    refit,
    write_recalibration,
)
from pipeline.forecasts.shrinkage import Calibration, fit_calibration
from tests.exchange_market import market_of
from tests.exchange_server import ExchangeServer
from tests.test_bundle_numbers import sound

HOUR = 3_600_000
DAY = 24 * HOUR
START = 1_704_067_200_000  # 2024-01-01 00:00
OWNER = {"model_sha256": "a" * 64, "scalers_sha256": "b" * 64}


def forecasts(n: int, boldness: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Hourly forecasts, of which 1 / boldness is true, judged with a shrinkage of 1."""
    rng = np.random.default_rng(seed)
    foreseen = rng.normal(0, 0.3, n)
    raw = 0.01 * boldness * foreseen
    return pd.DataFrame(
        {
            "symbol": "BTC/USDT",
            "timestamp": utc_from_ms(START + HOUR * np.arange(n) - HOUR),
            "base_price": 100.0,
            "current_return": 0.0,
            "actual_return": 0.01 * (foreseen + rng.normal(0, 1, n)),
            "volatility": 0.01,
            "naive": 0.0,
            "lstm": raw,
            "lstm_raw": raw,
            "p_up": 1 / (1 + np.exp(-3 * boldness * foreseen)),
        }
    )


# What it is fitted on


@pytest.mark.parametrize("horizon", [1, 4])
def test_it_is_fitted_on_the_180_days_of_forecasts_that_had_come_true_and_on_nothing_else(horizon):
    rows = forecasts(24 * 220)
    until_ms = START + 200 * DAY
    made_ms = START + HOUR * np.arange(len(rows))
    used = (made_ms >= until_ms - 180 * DAY) & (made_ms <= until_ms - horizon * HOUR)
    poisoned = rows.assign(lstm_raw=rows["lstm_raw"].where(used))  # NaN elsewhere
    fitted = refit(poisoned, "lstm", until_ms, step_ms=HOUR, horizon=horizon, caution=0.5)
    part, names = rows[used], ["lstm_raw", "actual_return", "volatility"]
    assert fitted == Recalibration(
        fit_calibration(*part[names].to_numpy().T, caution=0.5),
        until_ms - 180 * DAY,
        until_ms,
        180 * 24 - horizon + 1,
    )


def test_few_forecasts_or_few_days_are_refused():
    def fit(rows, days):
        return refit(rows, "lstm", START + days * DAY, step_ms=HOUR)

    assert fit(forecasts(30 * 24), 30) is not None
    assert fit(forecasts(30 * 24), 29) is None  # 29 days
    assert fit(forecasts(30 * 24)[:499], 30) is None
    assert fit(forecasts(30 * 24)[:500], 30) is not None


# What it is scored on


def test_a_month_is_scored_by_what_was_known_when_it_began():
    rows = forecasts(24 * 100)
    months = monthly_calibrations(rows, "lstm", step_ms=HOUR, horizon=1, caution=0.0)
    # From 2024-01-01 to 04-09; before February there are 31 days.
    first_ms = [START + days * DAY for days in (31, 60, 91)]
    assert [one.until_ms for one in months] == first_ms
    made_ms = START + HOUR * np.arange(len(rows))
    for (one, part), end_ms in zip(months.items(), [*first_ms[1:], START + 100 * DAY]):
        assert np.array_equal(part, np.flatnonzero((made_ms >= one.until_ms) & (made_ms < end_ms)))
    # Whatever came true in March and April, the calibrations of February and March stay.
    others = rows.assign(actual_return=rows["actual_return"].where(made_ms < first_ms[1], 0.1))
    changed = monthly_calibrations(others, "lstm", step_ms=HOUR, horizon=1, caution=0.0)
    same = [a.calibration == b.calibration for a, b in zip(months, changed)]
    assert same == [True, True, False]


def test_a_network_that_is_too_bold_is_mended_out_of_sample():
    rows = forecasts(24 * 100, boldness=4.0)
    after = START + 60 * DAY
    fitted = refit(rows, "lstm", after, step_ms=HOUR)
    assert fitted is not None and fitted.calibration.shrinkage == pytest.approx(0.25, abs=0.1)
    monthly, file = compare_calibrations(rows, "lstm", step_ms=HOUR, later=fitted)
    assert (monthly["rule"], monthly["n"], len(monthly["fits"])) == ("monthly", 24 * 69, 3)
    assert (file["rule"], file["n"], file["first"]) == ("file", 24 * 40, "2024-03-01T00:00Z")
    for compared in (monthly, file):
        judged, later = compared["judged"], compared["later"]
        assert judged["r2"] < 0 < later["r2"] and judged["skill"] < 0 < later["skill"]
        assert later["off"] < judged["off"] / 2
        assert judged["slope"] < 0.6 < 0.75 < later["slope"]
        assert judged["top_said"] - judged["top_true"] > 0.2
        assert abs(later["top_said"] - later["top_true"]) < 0.1
    # By hand: R² of what the file's calibration says of the last 40 days
    part = rows.iloc[24 * 60 :]
    error = part["actual_return"] - fitted.calibration.shrinkage * part["lstm_raw"]
    r2 = 1 - (error**2).sum() / (part["actual_return"] ** 2).sum()
    assert file["later"]["r2"] == pytest.approx(r2)


def test_too_short_a_stretch_has_nothing_to_compare():
    assert compare_calibrations(forecasts(24 * 20), "lstm", step_ms=HOUR) == []
    long_after = Recalibration(Calibration(0.5, 1.0), START, START + 900 * DAY, 500)
    assert compare_calibrations(forecasts(240), "lstm", step_ms=HOUR, later=long_after) == []


# Its file

LATER = Recalibration(Calibration(0.25, 1.5), START, START + 40 * DAY, 700)


def test_the_file_holds_what_was_fitted_and_whose_it_is(tmp_path):
    path = tmp_path / "recalibration_v2.json"
    assert read_recalibration(path, OWNER) is None
    write_recalibration(path, LATER, Calibration(0.5, 3.0), OWNER)
    assert read_recalibration(path, OWNER) == LATER
    content = json.loads(path.read_text())
    assert content["old"] == {"shrinkage": 0.5, "direction_slope": 3.0}
    assert content["span"] == {"first": "2024-01-01T00:00Z", "until": "2024-02-10T00:00Z"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", OWNER)
def test_a_foreign_one_is_not_used_and_said_so(tmp_path, name):
    path = tmp_path / "recalibration_v2.json"
    write_recalibration(path, LATER, Calibration(0.5, 3.0), OWNER)
    with pytest.warns(UserWarning, match="belongs to another network or scaler file and is not"):
        assert read_recalibration(path, {**OWNER, name: "c" * 64}) is None


BAD = [
    ({"new": {"shrinkage": 1.5, "direction_slope": 1.0}}, "'shrinkage' is 1.5, not a number from"),
    ({"new": {"shrinkage": 0.5, "direction_slope": -1}}, "'direction_slope' is -1"),
    ({"new": {"shrinkage": 0.5}}, "'direction_slope' is None"),
    ({"new": 3}, "'new': 3 is no dict"),
    ({"n": 3}, "3 forecasts"),
    ({"n": True}, "'n': True is no int"),
    ({"span": {"first": "2024-01-01", "until": "2023-01-01"}}, "are none"),
    ({"span": {"first": "2024-01-01", "until": "\x1b[2J"}}, "is no instant"),
    ({"belongs_to": {"model_sha256": 1}}, "1 is no str"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_damaged_one_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "recalibration_v2.json"
    write_recalibration(path, LATER, Calibration(0.5, 3.0), OWNER)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        read_recalibration(path, OWNER)
    assert str(caught.value).isprintable() and "inference_v2.py recalibrate" in str(caught.value)
    assert "train" not in str(caught.value).removeprefix(str(path))


def test_what_is_no_file_of_ours_is_refused(tmp_path):
    path = tmp_path / "recalibration_v2.json"
    for content in (b"", b"[1]", b"{" * 50, b'{"n": NaN}', b" " * (MAX_BYTES + 1)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="no recalibration can be read there"):
            read_recalibration(path, OWNER)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    with pytest.raises(ValueError, match="is a link"):
        read_recalibration(link, OWNER)


# Who uses it


class Stub:
    """A network that expects a third of the last candle's first feature to come back."""

    def run(self, rows, end):
        return -0.3 * rows[end, 0]


@pytest.fixture(scope="module")
def market():
    return synthetic_market(("BTC/USDT", "ETH/USDT"), "1h", 1700, seed=5, signal_r2=0.1)


@pytest.fixture(scope="module")
def candles_dir(market, tmp_path_factory):
    folder = tmp_path_factory.mktemp("candles")
    for symbol, frame in market.items():
        write_candles(frame, folder, symbol, "1h")
    return folder


@pytest.fixture
def bundle(tmp_path, market, monkeypatch):
    """A bundle of the stub, which has seen nothing after the first 800 candles."""
    monkeypatch.setattr("pipeline.forecasts.predictor.open_network", lambda *_: Stub())
    val_end = market["BTC/USDT"]["timestamp"].iloc[800]
    instants = [val_end - pd.Timedelta(days=1), val_end, val_end, val_end + pd.Timedelta(days=99)]
    cuts = dict(zip(("train_end", "val_end", "test_start", "test_end"), map(str, instants)))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / FILES.model).write_bytes(b"a network")
    content = {**sound("v2"), "cuts": cuts, "trained_until": cuts["val_end"]}
    content |= {"model_sha256": sha256_of(folder / FILES.model), "symbols": list(market)}
    (folder / FILES.scalers).write_bytes(pickle.dumps(content, protocol=4))
    return folder


def recalibrate(folder) -> CryptoPricePredictorV2:
    """The bundle's predictor, with `LATER` beside it."""
    judged = CryptoPricePredictorV2.from_directory(folder)
    write_recalibration(folder / FILES.recalibration, LATER, judged.calibration, judged.sha256)
    return CryptoPricePredictorV2.from_directory(folder)


def test_it_changes_size_and_confidence_and_nothing_of_the_network(bundle, market):
    candles = market["BTC/USDT"]
    before = CryptoPricePredictorV2.from_directory(bundle)
    judged, said = before.predict_history(candles), before.predict(candles)
    assert said["calibrated_until"] == said["trained_until"] == before.trained_until
    last_close = said["last_timestamp"] + pd.Timedelta("1h")
    assert said["age_days"] == (last_close - before.trained_until) / pd.Timedelta("1d")
    later = recalibrate(bundle)
    raw = before.as_judged().predict_history(candles)["raw_return"]
    assert np.array_equal(judged["predicted_return"], 0.5 * raw)
    history, forecast = later.predict_history(candles), later.predict(candles)
    assert np.array_equal(history["predicted_return"], 0.25 * raw)
    odds = np.log(history["p_up"] / (1 - history["p_up"]))
    odds_judged = np.log(judged["p_up"] / (1 - judged["p_up"]))
    assert odds.to_numpy() == pytest.approx(1.5 / 0.4 * odds_judged.to_numpy())
    assert forecast["return"] == history["predicted_return"].iloc[-1]
    assert forecast == later.predict_batch([candles])[0]
    assert forecast["calibrated_until"] == pd.Timestamp("2024-02-10", tz="UTC")
    # On request the judged forecasts come back bit for bit.
    asked = CryptoPricePredictorV2.from_directory(bundle, recalibrated=False)
    pd.testing.assert_frame_equal(asked.predict_history(candles), judged, check_exact=True)
    assert asked.predict(candles) == said
    unshrunk = later.as_judged().predict_history(candles).drop(columns="raw_return")
    pd.testing.assert_frame_equal(unshrunk, judged, check_exact=True)
    assert "raw_return" not in later.predict_history(candles)


def test_a_new_bundle_leaves_none_of_the_old_one_s_behind(bundle):
    recalibrate(bundle)
    assert (bundle / FILES.recalibration).is_file()
    with files.new_bundle(bundle, FILES.metadata, FILES.bundle) as aside:
        (aside / FILES.model).write_bytes(b"another network")
        files.write_metadata(aside / FILES.metadata, {}, hashed=[FILES.model])
    assert not (bundle / FILES.recalibration).exists()


def test_a_push_to_the_hub_leaves_it_out(bundle):
    recalibrate(bundle)
    files.write_metadata(bundle / FILES.metadata, {}, hashed=[FILES.model, FILES.scalers])
    assert FILES.recalibration not in hub_transfer.read_bundle(bundle).names


def run(monkeypatch, *words, predictor_class=CryptoPricePredictorV2):
    monkeypatch.setattr(sys, "argv", ["inference_v2.py", *map(str, words)])
    commands.main(predictor_class, inference_v2.__doc__)


def test_the_command_writes_it_and_the_others_tell_of_it(
    bundle, candles_dir, monkeypatch, capsys, tmp_path
):
    place = ("--model-dir", bundle, "--candles-dir", candles_dir)
    predictor = CryptoPricePredictorV2.from_directory(bundle)
    times = synthetic_times(candles_dir)
    with pytest.raises(ValueError, match=r"are too few to recalibrate: it takes 500 over 30 days"):
        run(monkeypatch, "recalibrate", *place, "--until", times[800 + 24 * 20])
    assert not (bundle / FILES.recalibration).exists()
    (bundle / FILES.recalibration).write_text("damaged")  # does not keep it from being mended
    until = times[800 + 24 * 31]
    run(monkeypatch, "recalibrate", *place, "--until", until)
    printed = capsys.readouterr().out
    assert "Fitted on 1,488 forecasts of BTC/USDT, ETH/USDT" in printed  # 2 * 24 * 31
    fitted = CryptoPricePredictorV2.from_directory(bundle).recalibration
    assert fitted is not None and fitted.n == 1488
    assert (
        fitted.until_ms == until.value // 10**6 and fitted.first_ms == (predictor.cuts["val_end"])
    )
    run(monkeypatch, "predict", candles_dir / "BTCUSDT_1h.parquet", "--model-dir", bundle)
    assert f"recalibrated: size and confidence are fitted on forecasts up to {until:%Y-%m-%d}" in (
        capsys.readouterr().out
    )
    run(monkeypatch, "evaluate", *place, "--output", tmp_path / "evaluation.json")
    printed = capsys.readouterr().out
    assert "The recalibration in use, on the forecasts made after its date" in printed
    written = json.loads((tmp_path / "evaluation.json").read_text())
    file = written["calibrations"][-1]
    assert file["first"] == f"{until:%Y-%m-%dT%H:%MZ}" and file["fits"][0]["n"] == 1488
    shares = fitted.calibration.as_dict()
    assert {name: file["fits"][0][name] for name in shares} == shares
    # The verdict is about the judged calibration, as before.
    (bundle / FILES.recalibration).unlink()
    run(monkeypatch, "evaluate", *place, "--output", tmp_path / "before.json")
    before = json.loads((tmp_path / "before.json").read_text())
    assert before["test"] == written["test"] and len(before["calibrations"]) == (
        len(written["calibrations"]) - 1
    )


def test_without_a_folder_the_exchange_is_asked_for_as_much_as_it_takes(
    bundle, market, monkeypatch, capsys
):
    last = market["BTC/USDT"]["timestamp"].iloc[-1]
    now_ms = last.value // 10**6 + HOUR
    monkeypatch.setattr(commands, "_now_ms", lambda: now_ms)
    truth = {symbol: {"1h": candles} for symbol, candles in market.items()}
    with ExchangeServer(market_of(truth), now_ms=now_ms, limits={}) as server:
        place = ("--exchange", "binance", "--base-url", server.url_of("binance"))
        run(monkeypatch, "recalibrate", "--model-dir", bundle, *place)
    assert "had come true by" in capsys.readouterr().out
    fitted = CryptoPricePredictorV2.from_directory(bundle).recalibration
    assert fitted is not None and fitted.until_ms == now_ms
    # Made from candle 799 on, which closes where validation ends, to the last but one.
    assert fitted.n == 2 * (1700 - 1 - 799)


def synthetic_times(folder):
    return pd.read_parquet(folder / "BTCUSDT_1h.parquet")["timestamp"]


def test_a_generation_without_it_does_not_offer_the_command(monkeypatch, capsys):
    class Other(CryptoPricePredictorV2):
        files = replace(FILES, recalibration="")

    with pytest.raises(SystemExit):
        run(monkeypatch, "recalibrate", predictor_class=Other)
    assert "recalibrate" not in FILES.bundle and FILES.recalibration not in Other.files.bundle
