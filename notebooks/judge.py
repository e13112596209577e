# %% [markdown]
# # Judge any forecast: three famous claims on real candles
#
# "My LSTM predicts Bitcoin, R² 0.99." "RSI below 30 means buy." "The next hour turns back, right in
# 54 %." Each is a few lines of Python. `judge` walks them forward over closed candles, proves that
# they look at no later candle, and compares them with forecasts that cost nothing.

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
# @markdown Pairs with spaces between them.
symbols = "BTC/USDT ETH/USDT"  # @param {type:"string"}
# @markdown Hours per pair; the last three tenths are judged.
candles = 20000  # @param {type:"integer"}
# @markdown Folder of candles such as BTCUSDT_1h.parquet; empty: from an exchange. With 5m and 15m
# @markdown files, a late entry is judged too.
candles_dir = ""  # @param {type:"string"}
# @markdown The folder lies on Google Drive.
from_drive = False  # @param {type:"boolean"}
# @markdown The LSTM of the first claim: passes over its training part.
epochs = 10  # @param {type:"integer"}

# %%
# Candles: a frame a pair, closed hours only.
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.dates import ConciseDateFormatter

from config import SourceConfig, default_cache_dir
from data_fetcher import fetch_candles
from judge import judge
from pipeline.bundle.network import import_keras
from pipeline.forecasts.user_model import ModelError
from pipeline.forecasts.walk import ForecastLooksAheadError

if from_drive:
    from google.colab import drive

    drive.mount("/content/drive")
    candles_dir = Path("/content/drive/MyDrive") / candles_dir
pairs = symbols.split()
source = (
    SourceConfig(candles_dir=Path(candles_dir))
    if candles_dir
    else SourceConfig(source="exchange", cache_dir=default_cache_dir())
)
market = fetch_candles(pairs, "1h", candles, source)
print(*market.describe(), sep="\n")
# A folder may hold finer candles too, so that is what the judge is given, where there is one.
options = {"candles": candles_dir or market, "symbols": pairs, "n_candles": candles}

# %% [markdown]
# ## 1. "My LSTM predicts the price, R² 0.99"
# The network of a hundred tutorials: 60 closes, scaled to 0..1, give the next close. Its R² is
# true: it compares with the *mean* price of the year. **No change** (naive), the price an hour ago,
# has a higher one, for nothing. The first two lines below put them side by side.
#
# A class with `fit` and `predict` is fitted on the candles before the first forecast alone.

# %%
keras = import_keras()


class TutorialLSTM:
    """60 closes in, the next close out."""

    def fit(self, candles):
        closes = candles["close"].to_numpy()
        self.low, self.span = closes.min(), np.ptp(closes)
        keras.utils.set_random_seed(0)
        layers = [keras.layers.LSTM(32), keras.layers.Dense(1)]
        self.network = keras.Sequential([keras.Input((60, 1)), *layers])
        self.network.compile("adam", "mse")
        inputs, target = self.windows(closes[:-1]), (closes[60:] - self.low) / self.span
        self.network.fit(inputs, target, epochs=epochs, batch_size=64, verbose=0)

    def windows(self, closes):
        scaled = (closes - self.low) / self.span
        return np.lib.stride_tricks.sliding_window_view(scaled, 60)[..., None]

    def predict(self, candles):
        closes = candles["close"].to_numpy()
        said = self.network.predict(self.windows(closes), batch_size=512, verbose=0)[:, 0]
        prices = np.r_[np.full(59, np.nan), said * self.span + self.low]
        return pd.DataFrame({"forecast_price": prices})


lstm = judge({"tutorial LSTM": TutorialLSTM}, **options)
rows = lstm.predictions["tutorial LSTM"]
one = rows[rows["symbol"] == pairs[0]].sort_values("timestamp")
close = one["base_price"] * np.exp(one["actual_return"])
said = {
    "tutorial LSTM": one["base_price"] * np.exp(one["tutorial LSTM"]),
    "no change": one["base_price"],
}
for name, price in said.items():
    error = price - close
    r2, mape = 1 - np.mean(error**2) / np.var(close), 100 * np.mean(np.abs(error / close))
    print(f"{name:14} R² of the price {r2:.4f}, error {mape:.2f} %")
figure, panels = plt.subplots(1, 2, figsize=(11, 3), layout="constrained")
spans = {"From afar it fits": slice(None), "The last three days": slice(-72, None)}
for axes, (title, span) in zip(panels, spans.items()):
    axes.plot(one["timestamp"][span], close[span], color="#1d2327", label="what happened")
    axes.plot(one["timestamp"][span], said["tutorial LSTM"][span], color="#b3423a", label="LSTM")
    axes.set_title(f"{title} ({pairs[0]})")
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.spines[["top", "right"]].set_visible(False)
panels[0].legend(frameon=False)
plt.show()
print(lstm.text)

# %% [markdown]
# ## 2. "RSI below 30 means buy"
# A signal says a direction where it says something, and nothing elsewhere. It is judged over the
# next 24 hours, as people mean it. Windows of 24 hours overlap: twenty signals in a row are hardly
# more than one, and the test knows that. "Buy" alone is right as often as the price rose: compare
# with *drift*.

# %%
import talib


def rsi_below_30(candles):
    rsi = talib.RSI(candles["close"].to_numpy(), 14)
    return pd.DataFrame({"direction": np.where(rsi < 30, 1.0, np.nan)})


rsi = judge({"RSI below 30": rsi_below_30}, horizon=24, **options)
print(rsi.text)

# %% [markdown]
# ## 3. "The next hour turns back: right in 54 %"
# This one is known to be true: an edge in directions. Part of it is the bounce between bid and ask.
# Look at the *entry* 15 minutes after the close (where the folder has such candles), and at the fee
# at which it breaks even: an exchange takes several times as much. The baseline *reversal* is the
# same idea.


# %%
def turns_back(candles):
    return pd.DataFrame({"direction": -np.sign(np.log(candles["close"]).diff())})


back = judge({"turns back": turns_back}, **options)
print(back.text)

# %% [markdown]
# ## 4. The one that looks ahead gets no verdict
# Scaled over *all* candles, as in most tutorials, or smoothed around each candle: the proof says
# which forecast needs which candle. Candles after an instant are changed, and the forecast at that
# instant moves.


# %%
def scaled_over_all(candles):
    returns = np.log(candles["close"]).diff()
    return (returns - returns.mean()) / returns.std() * -1e-4


def smoothed(candles):
    return candles["close"].rolling(5, center=True).mean() / candles["close"] - 1


def writes_into_its_candles(candles):
    candles["close"] = candles["close"].shift(-1).ffill()
    return 0.0


for claim in (scaled_over_all, smoothed, writes_into_its_candles):
    try:
        judge(claim, **options)
    except (ForecastLooksAheadError, ModelError) as error:
        print(error, "\n")

# %% [markdown]
# ## What to try next
# - **Judge your own**: write a function of candles in place of `turns_back`. It may return a
#   number, names and numbers, or a row per candle
#   ([docs/adapters.md](https://github.com/caizongxun/crypto_system/blob/main/docs/adapters.md)).
# - **Judge a file**: `judge("forecasts.csv", "candles/binance")`, of any model and any tool
#   ([docs/judge.md](https://github.com/caizongxun/crypto_system/blob/main/docs/judge.md)).
# - **Judge famous models**: AutoARIMA, Theta, LightGBM, N-HiTS, Chronos, TimesFM and Kronos have an
#   adapter each in `integrations/`.
# - **Say how many you tried**: `tried=20` corrects the test for the best of twenty.
