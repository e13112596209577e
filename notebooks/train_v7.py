# %% [markdown]
# # Train v7: 20 coins, a network each
#
# 20 coins in two timeframes are 40 networks, which is more than a Colab session may last.
# **Tick `keep_on_drive` in the settings, and the run survives a disconnect**: open this notebook
# again, tick it again and run all cells. Finished networks are kept, the one in hand goes on at its
# last epoch. Each network forecasts the next candle's open, high, low and close.

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
# @markdown Pairs with spaces between them; "all" takes the document's 20.
symbols = "all"  # @param {type:"string"}
timeframes = "15m 1h"  # @param {type:"string"}
# @markdown Per coin and timeframe; 0 takes all that the exchange has.
candles = 8000  # @param {type:"integer"}
# @markdown At most: training stops when the validation part gets no better.
epochs = 100  # @param {type:"integer"}
# @markdown In Colab: keep all on Google Drive, so that it survives a disconnect.
keep_on_drive = False  # @param {type:"boolean"}
# @markdown Go on with a run that was cut off. The settings must be the same.
resume = True  # @param {type:"boolean"}
# @markdown Share the result on the Hugging Face Hub: the name of a repository, as user/repo.
hub_repo = ""  # @param {type:"string"}
# @markdown Further settings of ConfigV7, such as {"fee_bps": 2.0}; config.py lists them all.
more = {}  # @param {type:"raw"}

# %%
# The same as the scripts take it. What stands in `more` wins.
from dataclasses import replace

from config import ConfigV7, default_output_dir

config = ConfigV7(
    symbols=tuple(symbols.split()),
    timeframes=tuple(timeframes.split()),
    candles=candles,
    epochs=epochs,
)
folders = {"output_dir": default_output_dir("v7")}
if keep_on_drive:
    from google.colab import drive

    drive.mount("/content/drive")
    home = Path("/content/drive/MyDrive/crypto_system")
    folders = {"output_dir": home / "v7", "cache_dir": home / "candles"}
config = replace(config, resume=resume, **folders)
config = replace(config, **more)
print(f"the bundle goes to {config.output_dir}")

# %%
# Train. "about … left" is an estimate from the networks that are done.
from generations.v7 import train_v7_main

folder = config.output_dir
if config.resume and (folder / "metrics_v7.json").is_file() and not (folder / ".partial").is_dir():
    print(f"complete already: {folder}; without `resume` it is trained again")
else:
    metrics = train_v7_main.main(config)

# %% [markdown]
# ## What they are worth
# All coins of a timeframe together: the forecast close beside the baselines, and each coin's four
# prices.

# %%
from pipeline.report import page

timeframe = config.timeframes[-1]
page.in_notebook((folder / f"report_v7_{timeframe}.html").read_text(encoding="utf-8"))

# %%
# Forecast the next candle of a coin.
from generations.v7 import inference
from pipeline import terminal
from pipeline.candles.fetching import fetch_candles

symbol = "BTC/USDT" if "all" in config.symbols else config.symbols[0]
predictor = inference.CryptoPricePredictorV7.from_directory(
    folder, symbol=symbol, timeframe=timeframe
)
with terminal.notices():
    source = replace(config, cache_dir=None)  # a resumed run must find the candles it began with
    market = fetch_candles([symbol], timeframe, predictor.required_candles, source)
recent = market.candles[symbol]
prediction = predictor.predict(recent)
print("  ".join(f"{name} {prediction[name]:,.6g}" for name in ("open", "high", "low", "close")))
predictor.plot(recent)

# %%
# Share it, if the settings name a repository. Asks for a token that may write, unless HF_TOKEN is
# set or you are logged in; it is not shown and not stored.
if hub_repo:
    from pipeline import hub

    hub.push(folder, hub_repo, dataset=True, path_in_repo="models_v7")

# %% [markdown]
# ## What to try next
# - **A coin alone**: `symbols = "ETH/USDT"` and `timeframes = "1h"` take a few minutes.
# - **Why it loses to "no change"**: [docs/v7.md](https://github.com/caizongxun/crypto_system/blob/main/docs/v7.md)
#   has the figures of all 20 coins beside the document's.
# - **One network for all coins** instead of one each: tick `all_coins` in
#   [train_v2](https://colab.research.google.com/github/caizongxun/crypto_system/blob/main/notebooks/train_v2.ipynb).
