"""The parts of the benchmarks that are no clock: the twin's size, the count of operations, ratios
and their targets."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from benchmarks import bench_adapters, bench_gpu
from benchmarks.bench_rivals import build_tcn, build_transformer
from benchmarks.bench_run import HEADING
from benchmarks.bench_training import Result, ratios
from benchmarks.common import Ratio, forward_operations, print_ratios, read_ratios, write_report
from benchmarks.training_worker import LOOKBACK, N_VALIDATION, synthetic_samples
from judge import judge
from models.dual_stream import build_dual_stream
from pipeline.candles.synthetic import synthetic_candles


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize("name", bench_gpu.WINDOWS)
def test_a_pytorch_twin_has_as_many_parameters_and_maps_windows_to_a_forecast_each(name):
    torch = pytest.importorskip(
        "torch", reason="the twins need PyTorch, which the project does not"
    )
    from benchmarks import torch_twin

    lookback, n_features = bench_gpu.WINDOWS[name]
    twin = torch_twin.build_twin(name, lookback, n_features)
    assert torch_twin.count_parameters(twin) == trainable(bench_gpu.build_keras(name))
    assert twin(torch.zeros(5, lookback, n_features)).shape == (5, 1)


def test_operations_of_a_tiny_network_by_hand():
    window = keras.Input((5, 3))
    states = keras.layers.Conv1D(4, 2, padding="causal")(window)  # 2 · 2 · 3 · 4 · 5 = 240
    states = keras.layers.BatchNormalization()(states)
    state = keras.layers.LSTM(2)(states)  # 2 · 8 · (4 + 2) · 5 = 480
    model = keras.Model(window, keras.layers.Dense(7)(state))  # 2 · 2 · 7 = 28
    assert forward_operations(model) == 240 + 480 + 28


def test_operations_of_v2s_network_by_hand():
    lstms = 2 * 60 * 4 * (64 * (16 + 64) + 32 * (64 + 32) + 32 * (32 + 32))
    convolutions = 2 * 60 * 32 * 16 * (3 + 1)
    dense = 2 * (64 * 32 + 32 * 16 + 16 * 1)
    assert forward_operations(build_dual_stream(60, 16)) == lstms + convolutions + dense


def test_layers_whose_operations_are_not_counted_are_refused_by_name():
    window = keras.Input((5, 3))
    model = keras.Model(window, keras.layers.GRU(2, name="odd")(window))
    with pytest.raises(ValueError, match="odd: operations of GRU layers are not counted"):
        forward_operations(model)


def test_the_samples_of_the_training_benchmark_are_as_many_as_asked_for():
    scaled = synthetic_samples(200)
    assert scaled.streams[0].shape == (LOOKBACK, 16)
    assert (len(scaled.split.train), len(scaled.split.val)) == (200, N_VALIDATION)


def test_a_target_is_met_from_above_or_from_below():
    assert Ratio("speed", 0.85, 0.85).verdict == "met"
    assert Ratio("speed", 0.84, 0.85).verdict == "missed"
    assert Ratio("time", 4.1, 4.0, at_least=False).verdict == "missed"
    assert Ratio("time", 4.1).verdict == ""


def test_ratios_survive_their_file(tmp_path, capsys):
    found = [Ratio("a / b", 1.5, 2.0), Ratio("c", 3.0)]
    write_report(tmp_path / "x.json", {"seconds": 1}, found)
    assert read_ratios(tmp_path / "x.json") == found
    print_ratios(found)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["a", "/", "b", "1.50", "at", "least", "2", "missed"]
    assert second.split() == ["c", "3.00"]


def test_the_peer_of_the_training_step_is_the_faster_eager_twin():
    names = {
        "Keras, tensorflow": 30.0,
        "Keras, jax": 10.0,
        "PyTorch, 1 thread": 15.0,
        "PyTorch compiled, 1 thread": 5,
    }
    results = [Result(name, 32, ms, ms, 0.0, 0.0, 1) for name, ms in names.items()]
    assert [(ratio.value, ratio.verdict) for ratio in ratios(results)] == [
        (0.5, "missed"),
        (1.5, "met"),
    ]


def test_without_pytorch_there_is_no_ratio_of_the_training_step():
    assert ratios([Result("Keras, tensorflow", 32, 30.0, 30.0, 0.0, 0.0, 1)]) == []


def test_the_headings_of_a_run_s_phases_are_recognised():
    found = HEADING.match("[8/9] Train · 2,790 windows, batches of 128       12.3 s")
    assert found is not None and found[1] == "Train"
    assert HEADING.match("      epoch   1  loss 0.1") is None


@pytest.mark.parametrize("build", [build_tcn, build_transformer])
def test_the_rival_networks_are_small_and_set_out_from_the_naive_forecast(build):
    model = build(12, 14)
    assert trainable(model) < 6000
    assert np.array_equal(model(np.ones((3, 12, 14), dtype=np.float32)), np.zeros((3, 1)))


def test_the_table_of_rivals_has_a_row_a_model_and_leaves_out_what_is_not_installed(
    monkeypatch, capsys
):
    monkeypatch.setitem(bench_adapters.MODELS, "Theta", "not_there:Theta")
    assert list(bench_adapters.load(["Theta"])) == []
    assert "Theta is left out: No module named 'integrations.not_there'" in capsys.readouterr().out
    candles = {"BTC/USDT": synthetic_candles(400, seed=1)}
    models = {
        "none": lambda c: np.full(len(c), 1e-9),
        "turns": lambda c: -0.1 * np.log(c["close"]).diff(),
    }
    judged = judge(models, candles, baselines=("naive",))
    rows = {row[0]: row for row in bench_adapters.rows_of(judged.metrics, judged.rivals)}
    assert set(rows) == {"none", "turns", "naive (baseline)"}
    [skill] = [of["skill"] for of in judged.rivals["models"] if of["model"] == "turns"]
    assert rows["turns"][1] == f"{100 * skill:+.3f}"
    p50 = judged.metrics["turns"]["walk"]["seconds_per_forecast"]["p50"]
    assert rows["turns"][7] == f"{1000 * p50:.3g} ms"
    assert rows["naive (baseline)"][1:6] == ["+0.000", "", "", "", ""]
