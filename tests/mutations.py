"""Twenty-six mistakes of arithmetic, each of which a test of `make test` must notice.

    python -m tests.mutations            all of them, in a copy of the working tree
    python -m tests.mutations 3 7        some, by number

A mutation is one line of the product with a wrong sign, index, bound or lag. It counts as caught
when a test of the named file fails; which one did is printed. A mutation that survives, or whose
line is no longer there, is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutation:
    """A line of the product, what becomes of it, and the test file that is to notice."""

    path: str
    old: str
    new: str
    caught_by: str


MUTATIONS = (
    # windows: which rows a sample may see, and what it is to forecast
    Mutation(
        "pipeline/samples/windows.py",
        "np.log(close[t + horizon] / close[t])",
        "np.log(close[t + horizon] / close[t + 1])",
        "test_windows",
    ),
    Mutation(
        "pipeline/samples/windows.py",
        "(since_start >= warmup + lookback - 1)",
        "(since_start >= warmup + lookback - 2)",
        "test_windows",
    ),
    Mutation(
        "pipeline/samples/windows.py",
        "== horizon * step_ms))",
        "<= 2 * horizon * step_ms))",
        "test_windows",
    ),
    Mutation(
        "pipeline/samples/windows.py",
        "table[0] * np.sqrt(horizon)",
        "table[0] * horizon",
        "test_windows",
    ),
    # splitting: no target reaches across a cut
    Mutation(
        "pipeline/samples/splitting.py",
        "(ordered >= begin + purge)",
        "(ordered >= begin)",
        "test_splitting",
    ),
    Mutation(
        "pipeline/samples/splitting.py",
        "start = max(own.min()",
        "start = min(own.min()",
        "test_splitting",
    ),
    Mutation(
        "pipeline/samples/splitting.py",
        "stamp += pd.Timedelta(days=1)",
        "stamp += pd.Timedelta(days=0)",
        "test_splitting",
    ),
    # scaling: the training part alone, each candle once
    Mutation(
        "pipeline/samples/scaling.py",
        "x_scaler = fit_features(samples.rows[seen])",
        "x_scaler = fit_features(samples.rows)",
        "test_scaling",
    ),
    Mutation(
        "pipeline/samples/scaling.py",
        "samples.end[part] - samples.lookback + 1, 1)",
        "samples.end[part] - samples.lookback, 1)",
        "test_scaling",
    ),
    Mutation(
        "pipeline/samples/scaling.py",
        "fit(scaled_return[split.train])",
        "fit(scaled_return)",
        "test_scaling",
    ),
    # intervals: conformal quantiles, times of day, what is known
    Mutation(
        "pipeline/forecasts/intervals.py",
        'level, method="weibull"',
        'level, method="linear"',
        "test_intervals",
    ),
    Mutation(
        "pipeline/forecasts/intervals.py",
        "lag = day * candles_a_day - span",
        "lag = day * candles_a_day - span - 1",
        "test_intervals",
    ),
    Mutation(
        "pipeline/forecasts/intervals.py",
        "np.append(split.val, split.train[earlier])",
        "np.append(split.val, split.train)",
        "test_intervals",
    ),
    # significance: signs, lags, factors
    Mutation(
        "pipeline/evaluation/significance.py",
        "mean_by_instant(baseline - model, instants)",
        "mean_by_instant(model - baseline, instants)",
        "test_significance",
    ),
    Mutation(
        "pipeline/evaluation/significance.py",
        "nlags=math.ceil(n ** (1 / 3))",
        "nlags=1",
        "test_significance",
    ),
    Mutation(
        "pipeline/evaluation/significance.py",
        "math.sqrt(total / (n * (n - 1)))",
        "math.sqrt(total / (n * n))",
        "test_significance",
    ),
    Mutation(
        "pipeline/evaluation/significance.py",
        "(len(raw) - np.arange(len(raw))) * raw[order]",
        "(len(raw) + 1 - np.arange(len(raw))) * raw[order]",
        "test_significance",
    ),
    # backtest: costs, funding, the first entry
    Mutation(
        "pipeline/evaluation/backtest.py",
        '(flows["price"] - flows["funding"]).to_numpy()\n    net',
        '(flows["price"] + flows["funding"]).to_numpy()\n    net',
        "test_backtest",
    ),
    Mutation(
        "pipeline/evaluation/backtest.py",
        "return size * changed[:-1], size * changed[1:]",
        "return size * changed[:-1], size * changed[:-1]",
        "test_backtest",
    ),
    Mutation(
        "pipeline/evaluation/backtest.py",
        'book.edges_ms, side="right")',
        'book.edges_ms, side="left")',
        "test_backtest",
    ),
    # store: gaps, overlaps
    Mutation(
        "pipeline/candles/schema.py",
        "np.rint(steps / interval) - 1, 0)",
        "np.rint(steps / interval), 0)",
        "test_store",
    ),
    Mutation(
        "pipeline/candles/store.py",
        "overlap = known[(known_times >= times[0])",
        "overlap = known[(known_times > times[0])",
        "test_store_update",
    ),
    # ledger: a forecast is entered before its candle closes, and nobody changes it unseen
    Mutation(
        "pipeline/forecasts/ledger.py",
        'if made_ms >= entry_ms(entry["closes_at"]):',
        'if made_ms > entry_ms(entry["closes_at"]) + 1000:',
        "test_ledger",
    ),
    Mutation(
        "pipeline/forecasts/ledger.py",
        'if entry["previous"] != sha256:',
        'if entry["previous"] == "":',
        "test_ledger",
    ),
    # the interval's width: what had come true by then
    Mutation(
        "pipeline/forecasts/width.py",
        'np.searchsorted(begun[first:last], rows[own] - horizon, side="right")',
        'np.searchsorted(begun[first:last], rows[own], side="right")',
        "test_width",
    ),
    Mutation(
        "pipeline/forecasts/width.py",
        "return min(math.ceil(round(LEVEL * (n + 1), 9)), n)",
        "return min(math.ceil(round(LEVEL * n, 9)), n)",
        "test_width",
    ),
)


def main(numbers: list[int]) -> int:
    """Try the mutations; the number of those that survived."""
    chosen = numbers or range(1, len(MUTATIONS) + 1)
    survived, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=_ignored)
        for number in chosen:
            mutation = MUTATIONS[number - 1]
            failed = try_one(mutation, copy)
            survived += not failed
            print(f"{number:2} {mutation.path}: {mutation.new.splitlines()[0]}")
            print(
                f"   {'caught by ' + failed if failed else 'SURVIVED ' + mutation.caught_by}",
                flush=True,
            )
    print(f"{len(chosen) - survived} of {len(chosen)} caught in {time.monotonic() - began:.0f} s")
    return survived


def _ignored(folder: str, names: list[str]) -> set[str]:
    """What the copy needs not: at the root `candles` is fetched data, in `pipeline` it is code."""
    patterns = [".git", ".venv*", "all_models", "__pycache__", ".*_cache"]
    if Path(folder) == ROOT:
        patterns.append("candles")
    return shutil.ignore_patterns(*patterns)(folder, names)


def try_one(mutation: Mutation, copy: Path) -> str:
    """The first test that fails with the mutation in place; "" if none does."""
    path = copy / mutation.path
    source = path.read_text(encoding="utf-8")
    if source.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.path} holds {mutation.old!r} {source.count(mutation.old)} times, not once: "
            "mend it"
        )
    path.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-m",
        "not soak",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        f"tests/{mutation.caught_by}.py",
    ]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    path.write_text(source, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise SystemExit(
            f"{mutation.caught_by} could not be run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    found = re.search(r"^FAILED (\S+)", done.stdout, flags=re.MULTILINE)
    return found[1] if found else ""


if __name__ == "__main__":
    sys.exit(main([int(number) for number in sys.argv[1:]]))
