"""Runs side by side: what they have in common is tested, what they have not is said."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest

from pipeline.evaluation.side_by_side import compare_pairs, differing, skill_against_naive
from pipeline.evaluation.significance import holm
from pipeline.report import compare

N = 400
GENERATOR = np.random.default_rng(4)
RETURNS = 0.01 * GENERATOR.standard_normal(N)


def forecasts(share: float, first: int = 0, symbol: str = "BTC/USDT") -> pd.DataFrame:
    """A run that knows a share of each return, from some hour on."""
    times = pd.date_range("2024-01-01", periods=N, freq="h", tz="UTC")
    frame = pd.DataFrame(
        {
            "symbol": symbol,
            "timestamp": times,
            "base_price": 100.0,
            "actual_return": RETURNS,
            "volatility": 0.01,
            "naive": 0.0,
            "forecast": share * RETURNS,
        }
    )
    return frame[first:]


def test_a_pair_is_tested_on_the_forecasts_that_both_have():
    runs = {"a": forecasts(0.0), "b": forecasts(0.2, first=100), "c": forecasts(0.1)}
    pairs = compare_pairs(runs, dict.fromkeys(runs, 1))
    told = [(pair["first"], pair["second"], pair["n"], pair["verdict"]) for pair in pairs]
    assert told == [("a", "b", 300, "better"), ("a", "c", 400, "better"), ("b", "c", 300, "worse")]
    # Every absolute error shrinks by the share that is known: from 1 to 0.8, from 0.8 to 0.9.
    assert [pair["skill"] for pair in pairs] == pytest.approx([0.2, 0.1, -0.125])
    adjusted = holm([pair["p_value"] for pair in pairs])
    assert [pair["p_holm"] for pair in pairs] == pytest.approx(list(adjusted))


def test_what_cannot_be_tested_says_why():
    hour = forecasts(0.0)
    runs = {
        "hour": hour,
        "day": hour,
        "other coin": forecasts(0.0, symbol="ETH/USDT"),
        "other candles": hour.assign(actual_return=RETURNS + 1e-6),
        "short": hour[-5:],
    }
    horizons = {**dict.fromkeys(runs, 1), "day": 24}
    why = {
        (pair["first"], pair["second"]): pair["why"]
        for pair in compare_pairs(runs, horizons)
        if pair["first"] == "hour"
    }
    assert why == {
        ("hour", "day"): "horizons of 1 and 24 candles",
        ("hour", "other coin"): "no forecast in common",
        ("hour", "other candles"): "other candles: 400 of 400 returns differ",
        ("hour", "short"): "only 5 common instants",
    }


def test_equal_runs_tie():
    [pair] = compare_pairs({"a": forecasts(0.1), "b": forecasts(0.1)}, {"a": 1, "b": 1})
    assert (pair["skill"], pair["statistic"], pair["verdict"]) == (0.0, 0.0, "ties")


def test_the_skill_against_naive_is_the_share_that_is_known():
    value, low, high = skill_against_naive(forecasts(0.2), 1)
    assert value == pytest.approx(0.2) and low == pytest.approx(0.2) and high == pytest.approx(0.2)


def test_settings_that_one_run_alone_has_differ():
    assert differing({"a": {"seed": 1, "same": [1]}, "b": {"seed": 2, "same": [1], "new": 0}}) == {
        "seed": [1, 2],
        "new": [None, 0],
    }


def test_the_command_compares_two_folders(tiny_bundle, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other)
    page = tmp_path / "compare.html"

    def run(*words) -> str:
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, words)])
        compare.main()
        return capsys.readouterr().out

    told = json.loads(run(tiny_bundle, other, "--json"))
    assert list(told["runs"]) == [tiny_bundle.name, "other"] and told["settings"] == {}
    [pair] = told["pairs"]
    assert pair["n"] == told["runs"]["other"]["n"] and pair["verdict"] == "ties"

    shown = run(tiny_bundle, other, "--page", page)
    assert "no different" in shown and str(page) in shown
    html = page.read_text(encoding="utf-8")
    assert "<h1>Runs side by side</h1>" in html and "Skill against naive" in html

    (other / "metrics_v2.json").write_text("{}")
    with pytest.raises(ValueError, match="metrics_v2.json"):
        run(tiny_bundle, other)
    with pytest.raises(ValueError, match="1 run.s. named; name two folders or more"):
        run(tiny_bundle)
