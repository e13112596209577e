# %% [markdown]
# # What a verdict means, for people who believe in 72 %
#
# Forecasts of crypto prices are sold with numbers: "error below 1 %", "72 % right directions". This
# notebook takes a real run of `train_v2_production.py` and asks of each number what it is worth.
# What stands below the cells is of the run that `train_v2.ipynb` shows.

# %%
# In Colab this gets the code and its libraries (a minute or two); elsewhere it finds the folder.
# Safe to run twice.
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/caizongxun/crypto_system"
IN_COLAB = "google.colab" in sys.modules

root = next(
    (p for p in (Path.cwd(), *Path.cwd().parents) if (p / "train_v2_production.py").is_file()), None
)
if IN_COLAB:
    root = root or Path("/content/crypto_system")
    if not root.is_dir():
        subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, str(root)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "-r", str(root / "requirements.txt")],
        check=True,
    )
if root is not None:
    os.chdir(root)
    sys.path[:0] = [str(root)] if str(root) not in sys.path else []

has_driver = shutil.which("nvidia-smi") is not None
asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True) if has_driver else None
gpus = asked.stdout.split(" (UUID")[0] if asked is not None and asked.returncode == 0 else ""
print(
    gpus
    or "No GPU: a CPU works too, slower. In Colab: Runtime > Change runtime type > T4 GPU, then "
    "start again."
)

# %% tags=["parameters"]
# @title Settings
# @markdown The run of train_v2.ipynb is taken if it is there. Else a new one is made with these.
symbols = "BTC/USDT ETH/USDT"  # @param {type:"string"}
candles = 8000  # @param {type:"integer"}
# @markdown The run lies on Google Drive, where train_v2.ipynb keeps it if asked to.
from_drive = False  # @param {type:"boolean"}
# @markdown Further settings of ConfigV2, such as {"fee_bps": 2.0}; config.py lists them all.
more = {}  # @param {type:"raw"}

# %%
# The run: its numbers, and a row a forecast of the test part.
import json
import textwrap
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.dates import ConciseDateFormatter

import train_v2_production
from config import ConfigV2, default_output_dir
from pipeline import terminal
from pipeline.report import pictures, reading, run_text, sentences, tables

folder = default_output_dir("v2")
if from_drive:
    from google.colab import drive

    drive.mount("/content/drive")
    folder = Path("/content/drive/MyDrive/crypto_system/v2")
config = ConfigV2(symbols=tuple(symbols.split()), candles=candles, output_dir=folder)
config = replace(config, **more)
if not (config.output_dir / "metadata_v2.json").is_file():
    train_v2_production.main(config)
metrics = json.loads((config.output_dir / "metrics_v2.json").read_text())
predictions = pd.read_parquet(config.output_dir / "predictions_v2.parquet")
test, money = metrics["test"], metrics["backtest"]
actual = predictions["actual_return"].to_numpy()
print(run_text.verdict_banner(test))

# %% [markdown]
# ## 1. "An error below 1 %" is worse than doing nothing
# An hour moves a price by a fraction of a percent. So "the price stays where it is" (**naive**) is
# hard to beat, and costs nothing. Drawn as a price, even naive looks like a brilliant forecast: its
# curve is the actual one, an hour late.
#
# **Skill** is how much smaller the network's errors are than a baseline's, in percent of them.
# **Diebold-Mariano** asks whether the difference is more than luck: beyond about ±2 it is. **p** is
# the chance of so large a difference without any real one, and Holm's correction pays for asking
# several questions at once. BEATS or LOSES needs p below 0.05; anything else TIES.

# %%
symbol = predictions["symbol"].iloc[0]
one = predictions[predictions["symbol"] == symbol].sort_values("timestamp")


def mape_percent(forecast):
    return 100 * np.abs(np.expm1(forecast - one["actual_return"])).mean()


figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 3.2), layout="constrained", width_ratios=(1, 1.6)
)
errors = {
    "no change (naive)": mape_percent(0.0),
    "this network": mape_percent(one["lstm"]),
    '"below 1 %"': 1.0,
}
bars = left.barh(list(errors), list(errors.values()), color=["#6b7480", "#2b5c9e", "#b3423a"])
left.bar_label(bars, fmt="%.3f", padding=3)
left.set(title=f"{symbol}: price error (MAPE), %", xlim=(0, 1.25 * max(errors.values())))
left.invert_yaxis()
last = one.tail(72)
closes = last["base_price"] * np.exp(last["actual_return"])
right.plot(last["timestamp"], closes, color="#1d2327", label="what happened")
right.plot(
    last["timestamp"],
    last["base_price"],
    color="#b3423a",
    linestyle="--",
    label='"forecast" of naive',
)
right.set_title("It follows every turn, an hour late")
right.legend(frameon=False)
right.xaxis.set_major_formatter(ConciseDateFormatter(right.xaxis.get_major_locator()))
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
plt.show()
print(tables.text_table(tables.verdict_rows(test["verdicts"]), indent=""))

# %% [markdown]
# ## 2. Right directions: how far luck reaches, and what 72 % would be worth
# A forecaster who tosses a coin every hour is right in 50 %, more or less. The grey hill shows
# 2,000 of them on the very hours of this test part: the network has to stand clear of it. (One toss
# serves all pairs of an hour, which mostly move together.)

# %%
hour, hours = pd.factorize(predictions["timestamp"])
moved, rose = actual != 0, actual > 0
tosses = np.random.default_rng(0).random((2000, len(hours))) < 0.5
lucky = [100 * (toss[hour] == rose)[moved].mean() for toss in tosses]
network = test["models"]["lstm"]
right_percent = 100 * (network["direction_accuracy"] or 0.5)

figure, axes = plt.subplots(figsize=(9, 2.8), layout="constrained")
axes.hist(lucky, bins=40, color="#c3c9d1")
for value, colour, label in ((right_percent, "#2b5c9e", "this network"), (72, "#b3423a", "72 %")):
    axes.axvline(value, color=colour, linewidth=2)
    axes.text(value + 0.2, axes.get_ylim()[1] * 0.9, label, color=colour)
axes.set(
    title="2,000 coin tossers, and where the network stands among them",
    xlabel="right directions, %",
    yticks=[],
    xlim=(min(44, *lucky), 75),
)
axes.spines[["top", "right", "left"]].set_visible(False)
plt.show()
interval = reading.span(
    network["direction_accuracy_low"], network["direction_accuracy_high"], factor=100
)
print(
    f"this network {right_percent:.1f} % (95 % interval {interval}), best of 2,000 coin tossers "
    f"{max(lucky):.1f} %"
)

# If being right does not depend on the size of the move, an hour earns this on average.
gain = (2 * 0.72 - 1) * np.abs(actual).mean()
month = np.exp(720 * gain)
print(
    f"72 % right would earn {100 * gain:.3f} % an hour before fees: $1,000 become "
    f"${1000 * month:,.0f} in a month"
)

# %% [markdown]
# ## 3. Probabilities, intervals, money
# **Calibration**: of the forecasts with a confidence of 55 %, 55 % should be right; dots on the
# line. **Coverage**: an 80 % interval should hold four of five returns. **Money**: an edge in the
# statistician's sense may be far smaller than the fees; the curve starts at 1.

# %%
from IPython.display import display

for sentence in (
    sentences.interval_sentence(test),
    sentences.confidence_sentence(test),
    sentences.fee_sentence(money),
):
    print(textwrap.fill(sentence, 100))
held = test["interval"]
shares = [("all", held["coverage"], held["coverage_low"], held["coverage_high"])]
shares += [(name, share, None, None) for name, share in held["by_symbol"].items()]
rows = [
    (name, *(None if value is None else 100 * value for value in values))
    for name, *values in shares
]
figures = {}
if test["probability"]["confidence"]:
    bins = test["probability"]["confidence"]["bins"]
    figures["Right directions by tenth of the confidence"] = pictures.reliability_plot(bins)
figures["Capital after fees"] = pictures.equity_plot(money["equity"])
figures["Returns in the 80 % interval"] = pictures.forest_plot(
    rows, 100 * held["nominal"], "returns held, %", reach=5
)
for title, figure in figures.items():
    figure.set_size_inches(7, 1.3 * figure.get_figheight())
    figure.suptitle(title)
    display(figure)

# %% [markdown]
# ## 4. How to get 72 %: let the future in
# One innocent line: a smoothed price, centred on the candle. Half of it has not happened yet. The
# model below is a mere linear regression, and the test part is still "out of sample".
# `pipeline.samples.leakage.check` changes the candles after a row and looks whether the row
# changes; [docs/leakage.md](https://github.com/caizongxun/crypto_system/blob/main/docs/leakage.md)
# shows it on your own features.

# %%
from data_fetcher import fetch_candles
from feature_engineering import V2_CANDLE_FEATURES, V2_WARMUP, compute_features
from pipeline.forecasts.baselines import fit_baselines
from pipeline.samples import leakage
from pipeline.samples.scaling import scale_on_train
from pipeline.samples.splitting import split_samples
from pipeline.samples.windows import make_windows

with terminal.notices():
    wanted = config.candles and config.candles + V2_WARMUP
    market = fetch_candles(config.symbols, config.timeframe, wanted, config)


def honest(candles):
    return compute_features(candles, config.timeframe, V2_CANDLE_FEATURES)


def leaky(candles):
    # Five candles back, this one, and five ahead.
    smooth = candles["close"].rolling(11, center=True).mean()
    return honest(candles).assign(trend=smooth / candles["close"] - 1)


def right_directions(make_features):
    features = {name: make_features(candles) for name, candles in market.candles.items()}
    samples = make_windows(
        features, market.candles, config.timeframe, config.lookback, config.horizon, V2_WARMUP
    )
    parts = split_samples(samples, config)
    scaled, scalers = scale_on_train(samples, parts)
    forecast = fit_baselines(scaled, scalers.y, seed=config.seed).directions["ridge"]
    return np.mean((forecast > 0)[parts.test] == (samples.log_return > 0)[parts.test])


one_pair = next(iter(market.candles.values()))
for function in (honest, leaky):
    print(f"{function.__name__:7} {right_directions(function):.1%} right directions")
    try:
        leakage.check(function, one_pair)
        print("        nothing looks ahead")
    except leakage.LookAheadError as error:
        print(textwrap.indent(textwrap.fill(str(error), 92), 8 * " "))

# %% [markdown]
# ## What to ask of anybody's 72 %
# 1. Against what? Ask for the error of "no change" on the same hours.
# 2. On which candles? Later than all that was trained, scaled or chosen on; how many forecasts, and
#    which interval.
# 3. Can the features be computed when the candle closes? Run `leakage.check`.
# 4. What is left after fees, and at which fee does it break even?
#
# A run here warns by itself above 56 % right directions. NO EDGE is an answer, too: it saves the
# fees.

# %% [markdown]
# ## What to try next
# - **Check features of your own**: put them in place of `leaky` above and run the cell again.
# - **More coins show smaller edges**: run this notebook again after a run with `all_coins` in
#   [train_v2](https://colab.research.google.com/github/caizongxun/crypto_system/blob/main/notebooks/train_v2.ipynb).
# - **Read what a column means**:
#   [docs/numbers.md](https://github.com/caizongxun/crypto_system/blob/main/docs/numbers.md).
# - **See figures that were published beside measured ones**:
#   [docs/published_figures.md](https://github.com/caizongxun/crypto_system/blob/main/docs/published_figures.md).
