"""What is served may have learnt the test part; what was judged stays beside it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import train_v2_production
from app import Forecaster, Options
from config import PRESETS_V2, ConfigV2
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline.bundle.files import forms_of
from pipeline.candles.formats import read_directory
from pipeline.candles.synthetic import synthetic_market
from pipeline.commands import Evaluate, Recalibrate
from tests import networks
from tests.conftest import write_market

COINS = ("BTC/USDT", "ETH/USDT")
SMALL = replace(
    ConfigV2(),
    symbols=COINS,
    candles=2500,
    epochs=2,
    one_cycle=True,
    refit=True,
    final_fit=True,
    ensemble=2,
    learning_rate=0.01,
)


@pytest.fixture(scope="module")
def market():
    return synthetic_market(COINS, "1h", 3800, seed=7, signal_r2=0.15)


@pytest.fixture(scope="module")
def candles_dir(market, tmp_path_factory):
    until_then = {symbol: candles.iloc[:3200] for symbol, candles in market.items()}
    return write_market(until_then, tmp_path_factory.mktemp("candles"))


@pytest.fixture(scope="module")
def later_dir(market, tmp_path_factory):
    """The same candles, and 25 days more."""
    return write_market(market, tmp_path_factory.mktemp("later"))


@pytest.fixture(scope="module")
def bundle(candles_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    config = replace(SMALL, candles_dir=candles_dir, output_dir=folder)
    metrics = train_v2_production.main(config, networks.for_v2)
    assert metrics["calibration"]["shrinkage"] > 0  # else every forecast is 0
    return folder


@pytest.fixture(scope="module")
def metadata(bundle):
    return json.loads((bundle / FILES.metadata).read_text())


def test_the_bundle_says_which_network_has_learnt_what(bundle, metadata):
    cuts = metadata["cuts"]
    assert metadata["judged"] == {"model": FILES.judged_model, "trained_until": cuts["val_end"]}
    assert metadata["served"] == {"model": FILES.model, "trained_until": cuts["test_end"]}
    assert metadata["trained_until"] == cuts["test_end"]
    served = CryptoPricePredictorV2.from_directory(bundle)
    judged = CryptoPricePredictorV2.from_directory(bundle, judged=True)
    assert served.trained_until == pd.Timestamp(cuts["test_end"])
    assert judged.trained_until == served.judged_until == pd.Timestamp(cuts["val_end"])
    assert served.has_judged_beside and not judged.has_judged_beside
    assert served.model_sha256 != judged.model_sha256


def test_all_forms_of_both_networks_are_vouched_for(bundle, metadata):
    for model in (FILES.model, FILES.judged_model, FILES.checkpoint):
        for name in forms_of(model):
            there = (bundle / name).is_file()
            assert there == (name in metadata["files"]), name
    assert FILES.judged_scalers in metadata["files"]


def test_the_judged_network_forecasts_the_test_part_as_it_was_judged(bundle, candles_dir):
    judged = CryptoPricePredictorV2.from_directory(bundle, judged=True)
    saved = pd.read_parquet(bundle / FILES.predictions)
    for symbol in COINS:
        own = saved[saved["symbol"] == symbol].set_index("timestamp")
        history = judged.predict_history(read_directory(candles_dir, symbol, "1h"))
        history = history.set_index("timestamp").loc[own.index]
        np.testing.assert_array_equal(history["predicted_return"], own["lstm"])
        np.testing.assert_allclose(history["q10"], own["q10"], rtol=0, atol=1e-12)


def test_the_served_network_serves_alike_in_every_way(bundle, candles_dir, tmp_path):
    candles = read_directory(candles_dir, "BTC/USDT", "1h")
    served = CryptoPricePredictorV2.from_directory(bundle)
    history = served.predict_history(candles)
    assert served.predict(candles)["return"] == history["predicted_return"].iloc[-1]
    judged = CryptoPricePredictorV2.from_directory(bundle, judged=True).predict_history(candles)
    assert not np.allclose(history["predicted_return"], judged["predicted_return"], rtol=0.01)

    keras_alone = tmp_path / "keras"
    shutil.copytree(bundle, keras_alone)
    (keras_alone / FILES.twin).unlink(missing_ok=True)
    for name in (FILES.metadata,):
        (keras_alone / name).unlink()
    by_keras = CryptoPricePredictorV2.from_directory(keras_alone).predict_history(candles)
    difference = by_keras["predicted_return"] - history["predicted_return"]
    assert np.abs(difference).max() < 1e-6


def test_shrinkage_and_intervals_are_those_that_were_judged(bundle):
    served = CryptoPricePredictorV2.from_directory(bundle)
    judged = CryptoPricePredictorV2.from_directory(bundle, judged=True)
    assert served.calibration == judged.calibration
    assert served._intervals == judged._intervals


def test_the_served_network_has_learnt_the_test_part(bundle, candles_dir):
    """Trained on the whole signal, it is closer to what came true there than the judged one."""
    candles = read_directory(candles_dir, "BTC/USDT", "1h")
    saved = pd.read_parquet(bundle / FILES.predictions).query("symbol == 'BTC/USDT'")
    errors = []
    for is_judged in (True, False):
        predictor = CryptoPricePredictorV2.from_directory(bundle, judged=is_judged)
        predictor = predictor.as_judged()
        history = predictor.predict_history(candles).set_index("timestamp")
        raw = history["raw_return"].loc[saved["timestamp"]].to_numpy()
        errors.append(np.square(raw - saved["actual_return"].to_numpy()).mean())
    assert errors[1] < errors[0]


def test_evaluate_scores_the_judged_network_where_nothing_is_newer(bundle, candles_dir, capsys):
    numbers = bundle.parent / "evaluation.json"
    Evaluate(candles_dir=candles_dir, model_dir=bundle, output=numbers).run(CryptoPricePredictorV2)
    told = json.loads(numbers.read_text())
    metrics = json.loads((bundle / FILES.metrics).read_text())
    assert told["seen_until"] == metrics["cuts"]["val_end"][:16] + "Z"
    assert told["test"]["n"] == metrics["test"]["n"]
    assert told["test"]["models"]["lstm"]["mae"] == pytest.approx(
        metrics["test"]["models"]["lstm"]["mae"], abs=1e-12
    )


def test_evaluate_of_the_served_network_begins_where_it_was_trained_to(
    bundle, later_dir, tmp_path, metadata
):
    numbers = tmp_path / "evaluation.json"
    Evaluate(candles_dir=later_dir, model_dir=bundle, output=numbers).run(CryptoPricePredictorV2)
    told = json.loads(numbers.read_text())
    end = pd.Timestamp(metadata["cuts"]["test_end"])
    assert told["seen_until"] == f"{end:%Y-%m-%dT%H:%MZ}"
    # Made when a candle closes: the first one's opened an hour before.
    assert pd.Timestamp(told["span"]["first"]) == end - pd.Timedelta(hours=1)
    # Of 600 more candles each is forecast from but for the last, whose next one is not known.
    assert told["test"]["n"] == 2 * 600


def test_a_recalibration_is_fitted_on_the_judged_and_used_by_the_served(
    bundle, later_dir, tmp_path, metadata
):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    Recalibrate(candles_dir=later_dir, model_dir=folder).run(CryptoPricePredictorV2)
    used = CryptoPricePredictorV2.from_directory(folder).recalibration
    # From the end of the judged network's validation part on, which the served one has learnt.
    val_end = pd.Timestamp(metadata["cuts"]["val_end"]).ceil("h")
    assert used.first_ms == val_end.timestamp() * 1000
    assert CryptoPricePredictorV2.from_directory(folder, judged=True).recalibration is None


def test_the_report_and_the_page_say_whose_figures_they_show(bundle, candles_dir, metadata):
    told = "The figures are of the network that learnt nothing after "
    minute = pd.Timestamp(metadata["cuts"]["val_end"]).strftime("%Y-%m-%d %H:%M UTC")
    assert told + minute in (bundle / FILES.report).read_text()
    page = Forecaster(Options(model_dir=(bundle,), candles_dir=candles_dir))
    assert told + metadata["cuts"]["val_end"][:10] in page.about
    end_ms = pd.Timestamp(metadata["cuts"]["test_end"]).timestamp() * 1000
    assert page.seen_until_ms == end_ms


def test_a_bundle_without_a_final_fit_has_one_network(tmp_path, candles_dir):
    config = replace(
        SMALL, candles_dir=candles_dir, output_dir=tmp_path, final_fit=False, ensemble=1
    )
    with networks.bare():
        train_v2_production.main(config, networks.for_v2)
    assert not (tmp_path / FILES.judged_model).exists()
    served = CryptoPricePredictorV2.from_directory(tmp_path)
    judged = CryptoPricePredictorV2.from_directory(tmp_path, judged=True)
    assert served.model_sha256 == judged.model_sha256 and not served.has_judged_beside


def test_the_next_run_without_a_final_fit_removes_the_judged_network(bundle, candles_dir, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    config = replace(SMALL, candles_dir=candles_dir, output_dir=folder, final_fit=False, ensemble=1)
    with networks.bare():
        train_v2_production.main(config, networks.for_v2)
    assert not any((folder / name).exists() for name in FILES.judged)


def test_a_final_fit_needs_the_number_of_epochs():
    with pytest.raises(ValueError, match="final_fit is True; pass one_cycle too"):
        ConfigV2(final_fit=True).check()
    assert PRESETS_V2["pooled"].final_fit and not PRESETS_V2["guide"].final_fit
