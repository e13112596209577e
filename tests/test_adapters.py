"""The models of integrations/ on candles: by the packages themselves where they are installed, by
stubs of the same signature where their weights come from the Hub.

`python -m tests.adapter_packages` runs this file where statsforecast, neuralforecast and
chronos-forecasting are installed.
"""

import importlib
import sys
import types
import warnings

import numpy as np
import pandas as pd
import pytest

from pipeline.candles.synthetic import synthetic_candles
from pipeline.forecasts.walk import walk

N = 420
BTC = synthetic_candles(N, seed=9)[["timestamp", "open", "high", "low", "close", "volume"]]
SINCE = BTC["timestamp"].iloc[N - 20]  # so that the first forecast is at candle N - 21


def adapter(name: str) -> types.ModuleType:
    """A module of integrations, imported anew."""
    sys.modules.pop(f"integrations.{name}", None)
    return importlib.import_module(f"integrations.{name}")


def walked(model, candles=BTC, **options):
    return walk(model, {"BTC/USDT": candles}, "1h", since=SINCE, **options)


# --- packages that learn here


@pytest.mark.parametrize("name", ["AutoArima", "Theta"])
def test_statsforecast_runs_the_fitted_model_on(name):
    pytest.importorskip("statsforecast")
    models = adapter("statsforecast_models")
    found = walked(getattr(models, name), horizon=2)
    assert found.notes == ()
    assert len(found.forecasts) == 19
    assert len(found.fit_seconds) == 1
    log_closes = np.log(BTC["close"].to_numpy())
    model = getattr(models, name)().model.new().fit(log_closes[: N - 20])
    for place in (0, 18):  # the same by the package's own hand, at the first and at the last
        t = N - 21 + place
        said = model.forward(y=log_closes[: t + 1], h=2, level=[80])
        row = found.forecasts.iloc[place]
        assert row["forecast_return"] == pytest.approx(said["mean"][1] - log_closes[t], abs=1e-12)
        assert row["q10"] == pytest.approx(np.asarray(said["lo-80"])[1] - log_closes[t], abs=1e-9)
        assert row["q10"] < row["forecast_return"] < row["q90"]


def test_lightgbm_finds_a_planted_signal_and_is_proved_not_to_look_ahead():
    pytest.importorskip("lightgbm")
    model = adapter("lightgbm_model").LightGBM
    candles = synthetic_candles(2000, seed=3, signal_r2=0.2)
    found = walk(model, {"BTC/USDT": candles}, "1h", refit_every=400)
    assert found.is_whole
    assert found.proof.startswith("proved at ")
    close = candles.set_index("timestamp")["close"]
    actual = np.log(close.shift(-1) / close)[found.forecasts["timestamp"]].to_numpy()
    assert np.corrcoef(found.forecasts["forecast_return"], actual)[0, 1] > 0.2


def test_lightgbm_learns_no_target_that_reaches_into_its_validation_part(monkeypatch):
    lightgbm = pytest.importorskip("lightgbm")
    learnt = {}

    def fit(self, inputs, target, eval_set, callbacks):
        learnt["train"], learnt["val"] = inputs.index, eval_set[0][0].index
        learnt["target"] = target

    monkeypatch.setattr(lightgbm.LGBMRegressor, "fit", fit)
    candles = BTC.iloc[:300].copy()
    candles.attrs["horizon"] = 5
    adapter("lightgbm_model").LightGBM().fit(candles)
    train, val = learnt["train"], learnt["val"]
    # The longest sum is of 168 returns, the first of which ends with candle 1 and whose volatility
    # takes 48: so the first row is 48 + 167, and the last five candles have no target.
    assert (train[0], val[-1]) == (215, 294)
    assert train[-1] + 5 < val[0]
    returns = np.log(candles["close"]).diff()
    row = train[-1]
    move = np.log(candles["close"][row + 5] / candles["close"][row])
    assert learnt["target"][row] == pytest.approx(move / returns[: row + 1].ewm(span=48).std()[row])


def test_neuralforecast_s_network_is_trained_and_walked():
    pytest.importorskip("neuralforecast")
    models = adapter("neuralforecast_models")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        found = walked(models.NHits(max_steps=3), every=5, horizon=2, n_instants=2)
    assert found.notes == ()
    assert len(found.forecasts) == 4
    assert found.forecasts["forecast_return"].abs().max() < 1


# --- pretrained ones, whose weights come from the Hub


def test_chronos_by_its_own_code_with_random_weights(tmp_path):
    pytest.importorskip("chronos")
    import torch
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config

    small = T5Config(
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        vocab_size=2,
        pad_token_id=0,
        decoder_start_token_id=0,
        feed_forward_proj="relu",
    )
    small.chronos_config = {
        "context_length": 64,
        "prediction_length": 16,
        "quantiles": [round(0.1 * k, 1) for k in range(1, 10)],
        "input_patch_size": 8,
        "input_patch_stride": 8,
        "use_reg_token": True,
    }
    small.chronos_pipeline_class = "ChronosBoltPipeline"
    torch.manual_seed(0)
    network = ChronosBoltModelForForecasting(small)
    for parameter in network.output_patch_embedding.parameters():
        parameter.data *= 1e-3  # prices near the last ones, as trained weights would say
    network.save_pretrained(tmp_path)
    model = adapter("chronos_model").Chronos(str(tmp_path), context=64)
    found = walked(model, horizon=3, every=4).forecasts
    assert len(found) == 5
    t = N - 21
    closes = torch.tensor(BTC["close"].to_numpy()[t - 63 : t + 1], dtype=torch.float32)
    quantiles, _ = model.pipeline.predict_quantiles([closes], 3, [0.1, 0.5, 0.9])
    expected = np.log(quantiles[0, 2].numpy() / BTC["close"][t])
    row = found.iloc[0]
    np.testing.assert_allclose(row[["q10", "q50", "q90"]].astype(float), expected, atol=1e-6)
    assert row["forecast_return"] == row["q50"]


def stub(monkeypatch, name: str, **members) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


class Tensor(np.ndarray):
    """As much of a torch tensor as an adapter touches."""

    def numpy(self):
        return np.asarray(self)


def stub_torch(monkeypatch) -> None:
    def tensor(values, dtype):
        return np.asarray(values, dtype).view(Tensor)

    stub(monkeypatch, "torch", tensor=tensor, float32=np.float32, manual_seed=lambda seed: None)


@pytest.mark.parametrize("is_second", [False, True])
def test_chronos_by_a_stub_of_its_signature(monkeypatch, is_second):
    """Chronos and Chronos-Bolt give a tensor (series, horizon, quantiles), Chronos-2 a list of
    (variates, horizon, quantiles)."""
    given = []

    class BaseChronosPipeline:
        @classmethod
        def from_pretrained(cls, weights, **options):
            given.append((weights, options))
            return cls()

        def predict_quantiles(
            self, inputs, prediction_length=None, quantile_levels=(0.5,), **kwargs
        ):
            [closes] = inputs
            factors = 1 + np.array(quantile_levels) - 0.5  # 0.6, 1.0, 1.4
            one = float(closes[-1]) * factors * np.ones((prediction_length, 1))
            prices = one[None].astype(np.float32).view(Tensor)
            return ([prices], None) if is_second else (prices, None)

    stub_torch(monkeypatch)
    stub(monkeypatch, "chronos", BaseChronosPipeline=BaseChronosPipeline)
    found = walked(adapter("chronos_model").Chronos, horizon=2).forecasts
    np.testing.assert_allclose(found["q10"], np.log(0.6), atol=1e-6)
    np.testing.assert_allclose(found["q90"], np.log(1.4), atol=1e-6)
    np.testing.assert_allclose(found["forecast_return"], 0.0, atol=1e-6)
    assert given == [("amazon/chronos-bolt-small", {"device_map": "cpu"})]


def test_timesfm_by_a_stub_of_its_signature(monkeypatch):
    class Model:
        @classmethod
        def from_pretrained(cls, weights):
            return cls()

        def compile(self, config):
            self.config = config

        def forecast(self, horizon, inputs):
            [closes] = inputs
            assert len(closes) <= self.config.max_context
            # (1, horizon) and (1, horizon, 10): the mean, then the 10 to 90 % quantiles.
            quantiles = closes[-1] * np.array([1.01, *(1 + (np.arange(1, 10) - 5) / 10)])
            return np.full((1, horizon), quantiles[0]), np.tile(quantiles, (1, horizon, 1))

    stub(
        monkeypatch,
        "timesfm",
        TimesFM_2p5_200M_torch=Model,
        ForecastConfig=lambda **settings: types.SimpleNamespace(**settings),
    )
    found = walked(adapter("timesfm_model").TimesFM, horizon=2).forecasts
    expected = {"forecast_return": 1.01, "q10": 0.6, "q50": 1.0, "q90": 1.4}
    for name, factor in expected.items():
        np.testing.assert_allclose(found[name], np.log(factor), atol=1e-12)


def test_kronos_by_a_stub_of_its_signature(monkeypatch):
    class Pretrained:
        @classmethod
        def from_pretrained(cls, weights):
            return cls()

    class KronosPredictor:
        def __init__(self, model, tokenizer, device=None, max_context=512, clip=5):
            pass

        def predict(
            self,
            df,
            x_timestamp,
            y_timestamp,
            pred_len,
            T=1.0,  # Kronos calls it so
            top_k=0,
            top_p=0.9,
            sample_count=1,
            verbose=True,
        ):
            assert len(df) == len(x_timestamp) == 400
            assert len(y_timestamp) == pred_len
            assert x_timestamp.dt.hour.iloc[-1] == (y_timestamp.dt.hour.iloc[0] - 1) % 24
            ahead = df["close"].iloc[-1] * (1 + 0.01 * np.arange(1, pred_len + 1))
            return pd.DataFrame({"close": ahead}, index=y_timestamp)

    stub_torch(monkeypatch)
    stub(
        monkeypatch,
        "model",
        Kronos=Pretrained,
        KronosTokenizer=Pretrained,
        KronosPredictor=KronosPredictor,
    )
    found = walked(adapter("kronos_model").Kronos, horizon=3, history=500).forecasts
    closes = BTC["close"].to_numpy()[N - 21 : N - 3]
    np.testing.assert_allclose(found["forecast_price"], 1.03 * closes)


# --- files of others, and our own


def freqai_folder(tmp_path, rows: pd.DataFrame, name: str = "cb_btc_1717200000"):
    folder = tmp_path / "backtesting_predictions"
    folder.mkdir(exist_ok=True)
    rows.to_feather(folder / f"{name}_prediction.feather")
    return tmp_path


def test_freqai_s_numbers_are_simple_returns_and_untrusted_ones_are_none(tmp_path):
    forecasts = adapter("freqai").forecasts
    rows = pd.DataFrame(
        {
            "date": pd.date_range("2024-06-01", periods=3, freq="h", tz="UTC"),
            "&-s_close": [0.01, -0.02, 0.5],
            "&-s_close_mean": 0.0,
            "&-s_close_std": 1.0,
            "do_predict": [1, 1, 0],
        }
    )
    folder = freqai_folder(tmp_path, rows)
    freqai_folder(tmp_path, rows.assign(date=rows["date"] + pd.Timedelta(days=1)), "cb_eth_1")
    found = forecasts(folder)
    assert found["symbol"].tolist() == ["BTC/USDT", "BTC/USDT", "ETH/USDT", "ETH/USDT"]
    assert found["timestamp"].tolist()[:2] == rows["date"].tolist()[:2]
    np.testing.assert_allclose(found["forecast_return"], np.tile(np.log([1.01, 0.98]), 2))
    with pytest.raises(ValueError, match="has no &-target; its labels are &-s_close$"):
        forecasts(folder, "&-target")


def test_freqai_s_words_are_directions(tmp_path):
    rows = pd.DataFrame(
        {
            "date": pd.date_range("2024-06-01", periods=2, freq="h", tz="UTC"),
            "&s-up_or_down": ["up", "down"],
            "up": [0.7, 0.4],
            "down": [0.3, 0.6],
            "do_predict": 1,
        }
    )
    found = adapter("freqai").forecasts(freqai_folder(tmp_path, rows), "&s-up_or_down", "USDC")
    assert found["direction"].tolist() == [1.0, -1.0]
    assert found["p_up"].tolist() == [0.7, 0.4]
    assert set(found["symbol"]) == {"BTC/USDC"}


def test_a_folder_without_freqai_s_files_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"no backtesting_predictions/cb_\*_prediction.feather"):
        adapter("freqai").forecasts(tmp_path)


def test_freqai_s_command_writes_a_file_of_forecasts(tmp_path, monkeypatch):
    rows = pd.DataFrame(
        {
            "date": pd.date_range("2024-06-01", periods=2, freq="h", tz="UTC"),
            "&-s_close": [0.0, 0.1],
        }
    )
    folder = freqai_folder(tmp_path, rows)
    monkeypatch.setattr(sys, "argv", ["freqai", str(folder), str(tmp_path / "out.csv")])
    adapter("freqai").main()
    found = pd.read_csv(tmp_path / "out.csv")
    assert found.columns.tolist() == ["symbol", "timestamp", "forecast_return"]
    np.testing.assert_allclose(found["forecast_return"], np.log([1.0, 1.1]))


def test_a_bundle_of_ours_says_what_predict_history_says(tiny_bundle, signal_market, monkeypatch):
    from inference_v2 import CryptoPricePredictorV2

    candles = signal_market["BTC/USDT"]
    since = candles["timestamp"].iloc[-20]
    monkeypatch.setenv("CRYPTO_BUNDLE", str(tiny_bundle))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it was trained on synthetic candles
        found = walk(
            adapter("ours").Bundle, {"BTC/USDT": candles}, "1h", since=since, n_instants=2
        ).forecasts
        said = CryptoPricePredictorV2.from_directory(tiny_bundle).predict_history(candles)
    expected = said.set_index("timestamp").loc[found["timestamp"]]
    np.testing.assert_allclose(found["forecast_return"], expected["predicted_return"], atol=1e-7)
    np.testing.assert_allclose(found["q90"], expected["q90"], atol=1e-7)
    assert len(found) == 20
