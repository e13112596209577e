"""Jobs one after another: failures that end one alone, files in place only when a job is
complete."""

import functools
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from pipeline.training import parallel


def fail():
    raise KeyError("a bug")


def refuse():
    raise ValueError("too few samples")


def speak(value):
    print(f"at work on {value}")
    return value


def die():
    os._exit(7)


def test_a_failing_job_is_told_and_the_others_go_on(caplog, capsys):
    tasks = {
        "a": functools.partial(speak, 1),
        "b": refuse,
        "c": fail,
        "d": functools.partial(speak, 4),
    }
    results = dict(parallel.run_jobs(tasks, n_done=2, own_process=False))
    assert (results["a"], results["d"]) == (1, 4)
    assert isinstance(results["b"], ValueError) and isinstance(results["c"], KeyError)
    assert results["c"].__traceback__ is None
    assert "b failed: too few samples" in caplog.text
    assert "c failed" in caplog.text and "in fail" in caplog.text
    shown = capsys.readouterr().out
    assert "[3/6] a" in shown and "[6/6] d" in shown
    assert "[4/6] b · about 0 s left" in shown


def test_an_interrupt_is_no_failure_of_a_job():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(parallel.run_jobs({"a": interrupt}, own_process=False))


@pytest.mark.slow
def test_a_job_in_a_process_of_its_own_prints_here_and_may_die_alone(capsys, caplog):
    tasks = {
        "dies": die,
        "refuses": refuse,
        "works": functools.partial(speak, 3),
        "where": os.getpid,
    }
    results = dict(parallel.run_jobs(tasks))
    assert isinstance(results["dies"], RuntimeError) and "exit code 7" in str(results["dies"])
    assert "dies failed: its process ended with exit code 7" in caplog.text
    assert isinstance(results["refuses"], ValueError)
    assert results["works"] == 3
    assert results["where"] != os.getpid()
    shown = capsys.readouterr().out
    assert "at work on 3\n" in shown
    assert "refuses failed: too few samples" in shown


def hold_a_lock():
    return multiprocessing.get_context("spawn").Lock() is not None


@pytest.mark.slow
def test_a_process_that_is_done_takes_its_semaphores_down():
    """`python -m generations.v7.train_v7_main` once ended with a warning of leaked ones."""
    script = "from tests.test_jobs import hold_a_lock; from pipeline.training import parallel\n"
    script += "if __name__ == '__main__': list(parallel.run_jobs({'a': hold_a_lock}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_time_left_counts_the_jobs_of_this_run_alone(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def minute():
        now[0] += 60.0

    list(parallel.run_jobs(dict.fromkeys("abc", minute), n_done=37, own_process=False))
    shown = capsys.readouterr().out
    assert "[38/40] a " in shown and "a · about" not in shown
    assert "[39/40] b · about 2 min left" in shown  # two jobs of a minute each
    assert "[40/40] c · about 60 s left" in shown
    assert "c done in 60 s" in shown
