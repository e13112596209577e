"""The production run end to end: its files, its honesty, its behaviour under bad input and
kills."""

import html.parser
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import train_v2_production
from feature_engineering import V2_WARMUP
from inference_v2 import METADATA_FILE, CryptoPricePredictorV2
from pipeline.bundle import files
from pipeline.bundle.scalers import load_scalers
from pipeline.candles.store import write_candles
from pipeline.candles.synthetic import synthetic_market
from tests import networks
from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "crypto_v2_final_model.h5",
    "best_v2_model.h5",
    "crypto_v2_final_model.keras",
    "best_v2_model.keras",
    "scalers_v2.pkl",
    "metrics_v2.json",
    "predictions_v2.parquet",
    "report_v2.html",
    "training_log_v2.txt",
    "metadata_v2.json",
}
TINY_OPTIONS = (
    "--lstm-units 6 4 --conv-filters 4 --conv-lstm-units 4 --dense-units 4 3 --candles 700 "
    "--learning-rate 0.005"
).split()


def train_command(*options):
    return [sys.executable, "train_v2_production.py", *TINY_OPTIONS, *map(str, options)]


def run(*options, **kwargs):
    return subprocess.run(
        train_command(*options), cwd=ROOT, capture_output=True, text=True, **kwargs
    )


def train(config, **changes):
    """A run with a network of one layer, for what does not depend on the network."""
    with networks.bare():
        return train_v2_production.main(replace(config, **changes), build=networks.for_v2)


def stop_in_training(config, monkeypatch, epoch=0):
    """A run that Ctrl-C ends in the given epoch."""

    def interrupt(number, logs, **_):
        if number == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("pipeline.terminal.tell_epoch", interrupt)
        train(config)


def test_a_bundle_holds_its_files_and_their_hashes(tiny_bundle):
    assert {path.name for path in tiny_bundle.iterdir()} - {"crypto_v2_final_model.onnx"} == FILES
    metadata = json.loads((tiny_bundle / METADATA_FILE).read_text())
    assert set(metadata["files"]) - {"crypto_v2_final_model.onnx"} == FILES - {
        "training_log_v2.txt",
        METADATA_FILE,
    }
    for name, sha in metadata["files"].items():
        assert files.sha256_of(tiny_bundle / name) == sha
    assert metadata["data"]["source"] == "directory"
    assert metadata["data"]["symbols"]["BTC/USDT"]["rows"] == 1174
    assert metadata["environment"]["keras"]
    made = metadata["run"]
    assert made["command"] is None and made["version"]  # called from a test, not by a command
    assert pd.Timestamp(made["started"]) <= pd.Timestamp.now("UTC")
    assert metadata["config"]["seed"] == 42
    assert list(metadata["cuts"]) == ["train_end", "val_end", "test_start", "test_end"]
    assert (
        "output_dir" not in metadata["config"]
    )  # a bundle that is shared tells nothing of its maker's folders


def test_predictions_have_the_documented_columns_in_time_order_without_a_gap_in_the_numbers(
    tiny_bundle,
):
    predictions = pd.read_parquet(tiny_bundle / "predictions_v2.parquet")
    documented = (
        "symbol timestamp base_price actual_return naive ridge xgboost lstm q10 q50 q90 p_up"
    ).split()
    assert set(documented) <= set(predictions.columns)
    assert not predictions.isna().any().any()
    assert predictions["timestamp"].is_monotonic_increasing
    assert (predictions["q10"] < predictions["q90"]).all()
    assert (predictions["naive"] == 0).all()


def test_the_parts_follow_each_other_and_every_test_target_is_later_than_all_training(tiny_bundle):
    metadata = json.loads((tiny_bundle / METADATA_FILE).read_text())
    train, val, test = (metadata["split"][name] for name in ("train", "val", "test"))
    assert (
        train["first"] < train["last"] < val["first"] < val["last"] < test["first"] < test["last"]
    )
    assert train["n"] == pytest.approx(0.7 * 2 * 640, rel=0.01)


def test_the_log_holds_the_nine_phases_the_table_and_the_verdict(tiny_bundle):
    log = (tiny_bundle / "training_log_v2.txt").read_text()
    for number, title in enumerate(
        (
            "Fetch",
            "Features",
            "Windows",
            "Split",
            "Scale",
            "Baselines",
            "Build",
            "Train",
            "Evaluate",
        ),
        start=1,
    ):
        assert f"[{number}/9] {title}" in log
    assert "price MAPE %" in log
    assert "VERDICT" in log.split("═" * 100)[-2]  # between the last two rules


class Tags(html.parser.HTMLParser):
    """Collects tags, links and text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.links = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            value
            for name, value in attrs
            if name in ("href", "src") and not value.startswith(("data:", "#"))
        ]

    def handle_data(self, data):
        self.text += data


def test_the_report_is_one_self_contained_page_with_verdict_table_and_pictures(tiny_bundle):
    page = Tags()
    page.feed((tiny_bundle / "report_v2.html").read_text(encoding="utf-8"))
    assert page.links == []
    # capital, skill by symbol and month, two calibrations, a span a coin, drawdown, returns,
    # importance, training
    assert page.tags.count("svg") == 11
    metrics = json.loads((tiny_bundle / "metrics_v2.json").read_text())
    for model, numbers in metrics["test"]["models"].items():
        assert model in page.text
        assert f"{numbers['mape_percent']:.4f}" in page.text
    assert metrics["test"]["verdict"] in page.text
    assert page.text.index("the network") < page.text.index(
        "price MAPE"
    )  # the verdict stands on top


@pytest.mark.slow
def test_same_seed_and_candles_give_identical_metrics_and_forecasts(
    tiny_bundle, signal_dir, tmp_path
):
    train_v2_production.main(replace(TINY, candles_dir=signal_dir, output_dir=tmp_path))
    for name in ("metrics_v2.json", "predictions_v2.parquet"):
        assert (tmp_path / name).read_bytes() == (tiny_bundle / name).read_bytes()


@pytest.mark.slow
def test_another_seed_gives_another_network(signal_dir, tmp_path):
    config = replace(TINY, candles_dir=signal_dir, epochs=1)
    train(config, output_dir=tmp_path / "ours")
    train(config, output_dir=tmp_path / "theirs", seed=7)
    ours, theirs = (
        pd.read_parquet(tmp_path / p / "predictions_v2.parquet")["lstm"] for p in ("ours", "theirs")
    )
    assert (ours != theirs).any()


@pytest.mark.slow
def test_a_run_killed_in_training_keeps_the_old_bundle_and_resume_ends_as_if_nothing_happened(
    signal_dir, tmp_path, monkeypatch
):
    config = replace(TINY, candles_dir=signal_dir, output_dir=tmp_path / "ours")
    train(config, output_dir=tmp_path / "whole")
    train(config, epochs=1)
    old = {path.name: path.read_bytes() for path in config.output_dir.iterdir()}
    stop_in_training(config, monkeypatch, epoch=1)
    assert {
        path.name: path.read_bytes() for path in config.output_dir.iterdir() if path.is_file()
    } == old
    CryptoPricePredictorV2.from_directory(config.output_dir)

    train(config, resume=True)
    for name in ("metrics_v2.json", "predictions_v2.parquet"):
        assert (config.output_dir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_a_mistyped_command_leaves_an_interrupted_run_alone(signal_dir, tmp_path, monkeypatch):
    config = replace(TINY, candles_dir=signal_dir, output_dir=tmp_path)
    stop_in_training(config, monkeypatch)
    with pytest.raises(ValueError, match="unknown symbol"):
        train(config, symbols=("QQTUSD",))
    assert (tmp_path / ".partial" / "training_state.npz").is_file()
    train(config, resume=True)


@pytest.mark.slow
def test_a_test_part_too_small_to_test_is_said_and_the_bundle_is_saved_all_the_same(
    signal_dir, tmp_path, capsys
):
    config = replace(
        TINY, candles_dir=signal_dir, output_dir=tmp_path, epochs=1, train_ratio=0.7, val_ratio=0.29
    )
    test = train(config)["test"]
    assert test["n_instants"] < 10
    assert all(entry["p_holm"] is None and entry["verdict"] == "TIES" for entry in test["verdicts"])
    assert test["verdict"] == "NO EDGE"
    assert "too few to test" in " ".join(capsys.readouterr().out.split())
    CryptoPricePredictorV2.from_directory(tmp_path)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_some_epoch_does_not_keep_the_run_from_being_saved(
    signal_dir, tmp_path, no_twin
):
    config = replace(TINY, candles_dir=signal_dir, output_dir=tmp_path, learning_rate=1e9, epochs=3)
    train_v2_production.main(config)
    history = json.loads((tmp_path / METADATA_FILE).read_text())["history"]
    assert None in history["loss"] or max(history["loss"]) > 1e6


@pytest.mark.slow
def test_a_coin_that_was_halted_does_not_outweigh_the_others(signal_market, tmp_path):
    for symbol, frame in signal_market.items():
        halted = frame.copy()
        if symbol == "ETH/USDT":
            halted.loc[600:899, ["open", "high", "low", "close"]] = frame["close"].iloc[599]
        write_candles(halted, tmp_path, symbol, "1h")
    train(TINY, candles_dir=tmp_path, output_dir=tmp_path / "out", epochs=1)
    assert load_scalers(tmp_path / "out" / "scalers_v2.pkl")["y"].scale[0] < 2


@pytest.mark.slow
def test_candles_that_have_not_closed_are_not_trained_on(
    signal_market, signal_dir, tmp_path, monkeypatch
):
    last = signal_market["BTC/USDT"]["timestamp"].iloc[-1]
    monkeypatch.setattr("pipeline.candles.schema.time.time", lambda: last.timestamp() + 60)
    metrics = train(TINY, candles_dir=signal_dir, output_dir=tmp_path, epochs=1)
    assert (
        metrics["data"]["symbols"]["BTC/USDT"]["last"] == (last - pd.Timedelta(hours=1)).isoformat()
    )


@pytest.mark.slow
def test_resuming_on_other_candles_is_refused(signal_dir, signal_market, tmp_path, monkeypatch):
    config = replace(TINY, candles_dir=signal_dir, output_dir=tmp_path / "out")
    stop_in_training(config, monkeypatch)
    changed = dict(signal_market)
    changed["BTC/USDT"] = changed["BTC/USDT"].assign(volume=lambda frame: frame["volume"] + 1)
    monkeypatch.setattr(
        "pipeline.candles.formats.read_directory",
        lambda folder, symbol, timeframe, **_: changed[symbol],
    )
    with pytest.raises(
        ValueError, match="--resume: the candles are not those of the interrupted run"
    ):
        train(config, resume=True)


@pytest.mark.soak
def test_a_run_killed_by_the_system_is_resumed_on_the_command_line(
    tiny_bundle, signal_dir, tmp_path
):
    options = (
        "--candles-dir",
        signal_dir,
        "--output-dir",
        tmp_path / "out",
        "--epochs",
        4,
        "--dropout",
        0.1,
    )
    with subprocess.Popen(
        train_command(*options), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if "epoch   2" in line:
                os.kill(process.pid, signal.SIGKILL)
                break
    assert not (tmp_path / "out" / METADATA_FILE).exists()
    result = run(*options, "--resume")
    assert result.returncode == 0, result.stderr
    assert "epoch   2" not in result.stdout.split("[8/9]")[1]  # it goes on where it was cut off
    ours = json.loads((tmp_path / "out" / "metrics_v2.json").read_text())
    theirs = json.loads((tiny_bundle / "metrics_v2.json").read_text())
    assert ours["test"]["models"] == theirs["test"]["models"]


@pytest.mark.slow
def test_without_a_network_it_trains_on_synthetic_candles_and_says_so_everywhere(
    tmp_path, monkeypatch, capsys
):
    from pipeline.candles.job import ExchangeError

    def no_network(name, jobs, **_):
        return dict.fromkeys(jobs, ExchangeError(f"{name} cannot be reached; no network"))

    def no_yahoo(*_, **__):
        raise ExchangeError("yahoo cannot be reached; no network")

    monkeypatch.setattr("pipeline.candles.exchange.fetch_many", no_network)
    monkeypatch.setattr("pipeline.candles.yahoo.fetch_yahoo_candles", no_yahoo)
    metrics = train_v2_production.main(
        replace(TINY, output_dir=tmp_path, cache_dir=tmp_path / "candles", epochs=1),
        build=networks.for_v2,
    )
    terminal = capsys.readouterr().out
    assert "SYNTHETIC CANDLES" in terminal
    assert "VERDICT  NO CLAIM (synthetic data)" in terminal.rpartition("═\n  ")[2]
    assert metrics["test"]["verdict"] == "NO CLAIM (synthetic data)"
    assert json.loads((tmp_path / METADATA_FILE).read_text())["synthetic"] is True
    assert json.loads((tmp_path / "metrics_v2.json").read_text())["data"]["synthetic"] is True
    assert "SYNTHETIC CANDLES" in (tmp_path / "report_v2.html").read_text(encoding="utf-8")
    assert load_scalers(tmp_path / "scalers_v2.pkl")["synthetic"] is True
    with pytest.raises(ExchangeError):
        train(TINY, output_dir=tmp_path, cache_dir=None, epochs=1, require_real=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"symbols": ("BTC/USDT", "SOL/USDT")},
            r"SOL/USDT: no SOLUSDT_1h.parquet or SOLUSDT_1h.csv",
        ),
        ({"symbols": ("BTC/\u202eTDSU",)}, r"unknown symbol 'BTC/\\u202eTDSU'"),
        ({"symbols": ("x" * 5000 + "/USDT",)}, "unknown symbol 'X{99}"),
        ({"symbols": ("QQTUSD",)}, "unknown symbol 'QQTUSD'"),
        ({"timeframe": "7m"}, "unknown timeframe '7m'"),
        ({"timeframe": "60m"}, "timeframe is not spelt as this project does; write 1h for 60m"),
        ({"candles": -5}, "candles is -5"),
        ({"candles_dir": Path("/no/such/place")}, "there is no such directory"),
        (
            {"train_ratio": 0.9, "val_ratio": 0.2},
            "train_ratio . val_ratio is 1.1; pass less than 1",
        ),
        ({"train_ratio": float("nan")}, "train_ratio is nan"),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"conv_filters": 0}, "number of units is 0"),
        ({"symbols": ("BTC/USDT", "BTC/USDT:USDT")}, "share one file of candles"),
        ({"train_end": "2024-12-01"}, "needs both --train-end and --val-end"),
        ({"train_end": "yesterday", "val_end": "2024-12-30"}, "train_end 'yesterday' is no date"),
        ({"train_end": "2024-12-20", "val_end": "2024-12-10"}, "dates out of order"),
        ({"train_end": "2019-01-01", "val_end": "2019-02-01"}, "train part is empty"),
        ({"lookback": 0}, "lookback is 0"),
        ({"horizon": 0}, "horizon is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"lookback": 1000}, r"no sample in 1174 candles"),
    ],
)
def test_bad_settings_are_value_errors_that_say_what_and_how_to_mend_it(
    signal_dir, tmp_path, changes, message
):
    with pytest.raises(ValueError, match=message):
        train_v2_production.main(
            replace(TINY, **{"candles_dir": signal_dir, "output_dir": tmp_path, **changes})
        )


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda c: c.rename(columns={"close": "clsoe"}), "which column is 'close'"),
        (lambda c: c.assign(high=c["low"], low=c["high"]), "are 'high' and 'low' swapped"),
        (lambda c: pd.concat([c, c.iloc[-1:].assign(volume=1.0)]), "twice with different values"),
        (lambda c: c.assign(close=c["close"].mask(c.index == 9)), "NaN in 'close'"),
        (lambda c: c.assign(open="abc"), "not numbers"),
        (lambda c: c.iloc[:300], "no sample in 300 candles"),
    ],
)
def test_on_the_command_line_bad_candles_are_one_line_on_stderr_and_status_2(
    signal_market, tmp_path, mistake, message, monkeypatch, capsys
):
    from pipeline import terminal

    mistake(signal_market["BTC/USDT"]).to_csv(tmp_path / "BTCUSDT_1h.csv", index=False)
    config = replace(TINY, symbols=("BTC/USDT",), candles_dir=tmp_path, output_dir=tmp_path / "out")
    with pytest.raises(SystemExit) as exit, terminal.one_line_errors():
        train_v2_production.main(config)
    error = capsys.readouterr().err
    assert exit.value.code == 2
    assert message in error
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.slow
def test_the_command_itself_ends_with_status_2_for_bad_input_and_bad_options(signal_dir, tmp_path):
    result = run("--epochs", 0)
    assert (result.returncode, result.stderr) == (2, "error: epochs is 0; pass at least 1\n")
    result = run("--candles-dir", signal_dir, "--symbols", "DOGE/USDT", "--output-dir", tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: DOGE/USDT: no DOGEUSDT_1h.parquet")
    assert "Traceback" not in result.stderr
    assert run("--no-such-option").returncode == 2


@pytest.mark.slow
def test_the_help_explains_every_option(tmp_path):
    result = run("--help")
    assert result.returncode == 0
    for option in ("--candles-dir", "--horizon", "--require-real", "--resume", "--train-end"):
        assert option in result.stdout
    assert "candles a sample sees" in result.stdout


@pytest.mark.slow
def test_horizon_timeframe_and_split_by_dates_run_through(signal_dir, tmp_path):
    config = replace(
        TINY,
        candles_dir=signal_dir,
        output_dir=tmp_path,
        epochs=1,
        horizon=3,
        train_end="2024-12-18",
        val_end="2024-12-23",
        test_start="2024-12-25",
        test_end="2024-12-30",
    )
    metrics = train(config)
    assert metrics["split"]["train"]["last"] == "2024-12-19T00:00Z"
    assert (
        metrics["split"]["val"]["first"] == "2024-12-19T03:00Z"
    )  # three hours ahead, none of them in training
    assert metrics["split"]["test"]["first"] == "2024-12-25T03:00Z"
    assert metrics["split"]["test"]["last"] == "2024-12-31T00:00Z"
    predictor = CryptoPricePredictorV2.from_directory(tmp_path)
    frame = pd.read_parquet(signal_dir / "BTCUSDT_1h.parquet")
    assert predictor.predict(frame)["timestamp"] == frame["timestamp"].iloc[-1] + pd.Timedelta(
        hours=3
    )


def run_on(market, folder):
    """Metrics of a run on candles that pretend to be real, so that it ends in a claim."""
    for symbol, frame in market.items():
        write_candles(frame, folder, symbol, "1h")
    config = replace(TINY, candles=3000, candles_dir=folder, output_dir=folder / "out")
    return train_v2_production.main(config)["test"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (2, 3))]
)
def test_on_martingales_the_network_finds_no_edge(tmp_path, no_twin, seed):
    market = synthetic_market(("BTC/USDT", "ETH/USDT"), "1h", 3000 + V2_WARMUP, seed=seed)
    test = run_on(market, tmp_path)
    assert test["verdict"] == "NO EDGE"
    assert all(
        entry["verdict"] != "BEATS" for entry in test["verdicts"] if entry["baseline"] == "naive"
    )


@pytest.mark.slow
def test_a_planted_signal_is_found_by_the_network(tmp_path, no_twin):
    market = synthetic_market(
        ("BTC/USDT", "ETH/USDT"), "1h", 3000 + V2_WARMUP, seed=1, signal_r2=0.08
    )
    against_naive = run_on(market, tmp_path)["verdicts"][0]
    assert (against_naive["baseline"], against_naive["verdict"]) == ("naive", "BEATS")


@pytest.mark.slow
def test_real_candles_give_the_known_naive_error_and_a_network_not_far_from_it(
    real_data, tmp_path, no_twin
):
    config = replace(
        TINY, candles_dir=real_data / "binanceusdm", candles=8000, epochs=2, output_dir=tmp_path
    )
    test = train_v2_production.main(config)["test"]
    naive = test["models"]["naive"]
    assert naive["mape_percent"] == pytest.approx(0.34, abs=0.01)
    assert naive["by_symbol"]["BTC/USDT"]["mape_percent"] == pytest.approx(0.30, abs=0.01)
    assert naive["by_symbol"]["ETH/USDT"]["mape_percent"] == pytest.approx(0.38, abs=0.01)
    assert test["models"]["lstm"]["mape_percent"] < 1.01 * naive["mape_percent"]
    assert test["verdict"] in ("EDGE", "NO EDGE")
