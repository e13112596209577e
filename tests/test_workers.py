"""Jobs side by side on Ray: the results of one process, and a lost worker that costs its own job at
most."""

import functools
import importlib.util
import os
import signal
import socket
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from config import ConfigV2, ConfigV7
from pipeline.training import parallel
from pipeline.training.parallel import Share, environment_of, share_of

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed: pip install ray")
# Ray leaves a socket or a file to the garbage collector when it ends.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def ray():
    """A local Ray of two cores for all the tests of this file; `run_tasks` takes one that is in
    use."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray")
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield ray
    ray.shutdown()


def speak(value):
    print(f"at work on {value}")
    return value


def fail():
    raise KeyError("a bug")


def sleep(seconds):
    time.sleep(seconds)
    return seconds


def die_once(marker: Path):
    """What a job does whose process is killed in its middle, and which then goes on from what it
    had saved."""
    if not marker.exists():
        marker.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.read_text() + " and whole"


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def write_into(array):
    array += 1.0
    return float(array.sum())


def run(tasks, **how):
    return list(parallel.run_jobs(tasks, **{"workers": 2, "own_process": False, **how}))


@needs_ray
def test_jobs_come_back_as_they_end_with_their_number_and_what_they_said(ray, capsys):
    tasks = {
        "slow": functools.partial(sleep, 3.0),
        "a": functools.partial(speak, 1),
        "b": functools.partial(speak, 2),
    }
    results = run(tasks, n_done=1)
    assert dict(results) == {"slow": 3.0, "a": 1, "b": 2}
    assert results[-1][0] == "slow"  # two at once: the others ended beside it
    shown = capsys.readouterr().out
    assert "[2/4] a · done in 0 s, about " in shown and "[4/4] slow · done in 3 s  " in shown
    assert shown.index("[2/4] a") < shown.index("at work on 1") < shown.index("[3/4] b")


@needs_ray
def test_a_killed_worker_loses_its_job_s_progress_at_most_and_the_job_is_begun_again(
    ray, tmp_path, caplog
):
    tasks = {
        "killed": functools.partial(die_once, tmp_path / "marker"),
        **{f"other {n}": functools.partial(speak, n) for n in range(3)},
    }
    assert dict(run(tasks)) == {
        "killed": "half and whole",
        "other 0": 0,
        "other 1": 1,
        "other 2": 2,
    }
    assert caplog.text.count("killed: its worker was lost") == 1


@needs_ray
def test_a_job_that_always_loses_its_worker_fails_alone_after_two_retries(ray, caplog):
    results = dict(run({"dies": die, "fails": fail, "works": functools.partial(speak, 3)}))
    assert results["works"] == 3
    assert isinstance(results["fails"], KeyError)
    assert "its worker was lost 3 times; a lack of memory is the usual cause" in str(
        results["dies"]
    )
    assert caplog.text.count("dies: its worker was lost") == 2


@needs_ray
def test_what_a_job_fails_of_is_shown_under_its_name(ray, capsys):
    run({"fails": fail})
    shown = capsys.readouterr().out
    assert "[1/1] fails · failed in" in shown and "a bug" in shown and "in fail" in shown


@needs_ray
def test_a_job_may_write_into_its_arrays(ray):
    assert dict(run({"a": functools.partial(write_into, np.zeros(100_000))})) == {"a": 100_000.0}


@needs_ray
def test_a_job_that_cannot_be_pickled_back_is_a_failure_and_no_retry(ray, caplog):
    (result,) = dict(run({"a": socket.socket})).values()
    assert isinstance(result, RuntimeError)
    assert "begun again" not in caplog.text


@needs_ray
def test_jobs_with_a_process_of_their_own_get_one_each(ray):
    assert len(set(dict(run(dict.fromkeys("abc", os.getpid), own_process=True)).values())) == 3


def test_without_ray_jobs_run_one_after_another_with_a_notice(monkeypatch, caplog):
    monkeypatch.setattr(parallel.importlib.util, "find_spec", lambda name: None)
    assert run({"a": os.getpid, "b": os.getpid}) == [("a", os.getpid()), ("b", os.getpid())]
    assert caplog.text.count("Ray is not installed: jobs run one after another") == 1
    assert "pip install ray" in caplog.text


@needs_ray
@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_a_cluster_that_cannot_be_reached_is_a_value_error_that_names_the_address(
    monkeypatch, prefix
):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{prefix}127.0.0.1:{unused.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # the Ray of the other tests would do
    with pytest.raises(
        ValueError, match=f"RAY_ADDRESS is '{address}', where no Ray cluster can be reached"
    ):
        run({"a": fail}, workers=1)


def test_an_address_without_jobs_is_not_asked(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert run({}) == []


def test_cores_and_gpus_are_divided_among_the_jobs_at_once():
    assert share_of({"CPU": 2.0}, 2) == Share(at_once=2, threads=1, gpus=0)
    assert share_of({"CPU": 2.0}, 4) == Share(at_once=4, threads=1, gpus=0)
    assert share_of({"CPU": 12.0}, 1) == Share(
        at_once=12, threads=1, gpus=0
    )  # a cluster, without --workers
    assert share_of({"CPU": 8.0, "GPU": 2.0}, 3) == Share(at_once=3, threads=2, gpus=0.5)
    assert share_of({"CPU": 8.0, "GPU": 3.0}, 2) == Share(at_once=2, threads=4, gpus=1)


def test_a_worker_s_sums_have_as_many_threads_as_this_process_s(monkeypatch):
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        monkeypatch.delenv(name, raising=False)
    cores = str(len(os.sched_getaffinity(0)))
    environment = environment_of(Share(4, 2, 0))
    assert (environment["OPENBLAS_NUM_THREADS"], environment["TF_NUM_INTRAOP_THREADS"]) == (
        cores,
        cores,
    )
    assert environment["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    environment = environment_of(Share(4, 2, 0))
    assert (environment["OPENBLAS_NUM_THREADS"], environment["TF_NUM_INTRAOP_THREADS"]) == (
        "7",
        "5",
    )


@pytest.mark.parametrize("config", [ConfigV2, ConfigV7])
def test_no_workers_at_all_are_refused(config):
    with pytest.raises(ValueError, match="workers is 0; pass at least 1"):
        replace(config(), workers=0).check()


@needs_ray
@pytest.mark.slow
def test_members_of_one_layer_are_the_same_whether_one_or_two_are_trained_at_once(
    ray, signal_dir, tmp_path
):
    import train_v2_production
    from tests.networks import for_v2

    config = ConfigV2(
        candles=700, epochs=1, candles_dir=signal_dir, output_dir=tmp_path / "one", ensemble=2
    )
    one = train_v2_production.main(config, build=for_v2)
    two = train_v2_production.main(
        replace(config, output_dir=tmp_path / "two", workers=2), build=for_v2
    )
    assert one == two
    predictions = [
        pd.read_parquet(tmp_path / name / "predictions_v2.parquet") for name in ("one", "two")
    ]
    pd.testing.assert_frame_equal(*predictions, check_exact=True)


@needs_ray
@pytest.mark.slow
@pytest.mark.long
def test_v7_s_networks_are_the_same_whether_one_or_two_are_trained_at_once(ray, tmp_path):
    from generations.v7 import train_v7_main
    from generations.v7.features import V7_WARMUP
    from pipeline.candles.store import write_candles
    from pipeline.candles.synthetic import synthetic_market

    symbols = ("BTC/USDT", "ETH/USDT", "XRP/USDT")
    for symbol, frame in synthetic_market(symbols, "1h", 560 + V7_WARMUP, seed=4).items():
        write_candles(frame, tmp_path, symbol, "1h")
    config = ConfigV7(
        symbols=symbols,
        timeframes=("1h",),
        candles=560,
        epochs=2,
        lstm_units=(32, 16, 8),
        dense_units=(8, 4),
        candles_dir=tmp_path,
        output_dir=tmp_path / "one",
    )
    train_v7_main.main(config)
    train_v7_main.main(replace(config, output_dir=tmp_path / "two", workers=2))
    for name in (
        "predictions_v7_1h.parquet",
        "metrics_v7.json",
        *(f"{s[:3]}USDT_1h_v7.h5" for s in symbols),
    ):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), (
            name
        )
    log = (tmp_path / "two" / "training_log_v7.txt").read_text()
    assert "[3/3] " in log and log.count("best epoch") == 3


@needs_ray
@pytest.mark.slow
@pytest.mark.soak
def test_members_and_folds_are_the_same_whether_one_or_two_are_trained_at_once(
    ray, signal_dir, tmp_path
):
    import train_v2_production

    config = ConfigV2(
        candles=700,
        epochs=2,
        candles_dir=signal_dir,
        output_dir=tmp_path / "one",
        ensemble=2,
        walk_forward=True,
        refit_every=2,
    )
    one = train_v2_production.main(config)
    two = train_v2_production.main(replace(config, output_dir=tmp_path / "two", workers=2))
    assert one == two
    predictions = [
        pd.read_parquet(tmp_path / name / "predictions_v2.parquet") for name in ("one", "two")
    ]
    pd.testing.assert_frame_equal(*predictions, check_exact=True)
