# %% [markdown]
# # Train v1: two timeframes, three quantiles
#
# A sample sees 60 candles of 1h and the 60 of 15m that end at the same instant; the network
# forecasts the 10, 50 and 90 % quantiles of the next hour's move.
# [docs/v1.md](https://github.com/caizongxun/crypto_system/blob/main/docs/v1.md) tells what was
# measured.

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
# @markdown Pairs with spaces between them; "all" takes the 22 of the house list.
symbols = "BTC/USDT ETH/USDT"  # @param {type:"string"}
# @markdown Hours per pair; four times as many 15m candles come along.
candles = 8000  # @param {type:"integer"}
# @markdown At most: training stops when the validation part gets no better.
epochs = 30  # @param {type:"integer"}
# @markdown In Colab: keep all on Google Drive, so that it survives a disconnect.
keep_on_drive = False  # @param {type:"boolean"}
# @markdown Go on with a run that was cut off. The settings must be the same.
resume = False  # @param {type:"boolean"}
# @markdown Share the result on the Hugging Face Hub: the name of a repository, as user/repo.
hub_repo = ""  # @param {type:"string"}
# @markdown Further settings of ConfigV1, such as {"fee_bps": 2.0}; config.py lists them all.
more = {}  # @param {type:"raw"}

# %%
# The same as the scripts take it. What stands in `more` wins.
from dataclasses import replace

from config import ConfigV1, default_output_dir

config = ConfigV1(
    symbols=tuple(symbols.split()),
    candles=candles,
    epochs=epochs,
    batch_size=128,
    early_stopping_patience=5,
)
folders = {"output_dir": default_output_dir("v1")}
if keep_on_drive:
    from google.colab import drive

    drive.mount("/content/drive")
    home = Path("/content/drive/MyDrive/crypto_system")
    folders = {"output_dir": home / "v1", "cache_dir": home / "candles"}
config = replace(config, resume=resume, **folders)
config = replace(config, **more)
print(f"the bundle goes to {config.output_dir}")

# %%
# Fetch both timeframes.
from generations.v1.candles import fetch
from pipeline import terminal

with terminal.notices():
    market = fetch(config)
for part in market.values():
    terminal.tell(*part.describe())

# %%
# Train; the last line is the verdict on the median.
from generations.v1 import train_v1

metrics = train_v1.main(config)

# %%
from pipeline.report import page

page.in_notebook((config.output_dir / "report_v1.html").read_text(encoding="utf-8"))

# %%
# Forecast the next hour of a pair from the candles fetched above.
from generations.v1.inference import CryptoPricePredictorV1
from pipeline.forecasts.picture import plot_forecast

hours, quarters = (market[timeframe].candles for timeframe in ("1h", "15m"))
symbol = next(iter(hours))
predictor = CryptoPricePredictorV1.from_directory(config.output_dir, symbol=symbol)
prediction = predictor.predict(hours[symbol], quarters[symbol])
print(
    f"q10, q50, q90: {prediction['q10']:,.2f}, {prediction['q50']:,.2f}, {prediction['q90']:,.2f}"
)
print(f"uncertainty {100 * prediction['uncertainty']:.2f} %, hint: {prediction['hint']}")
plot_forecast(hours[symbol], prediction, title=f"{symbol}, the next hour: median and 80 % interval")

# %%
# Share it, if the settings name a repository. Asks for a token that may write, unless HF_TOKEN is
# set or you are logged in; it is not shown and not stored.
if hub_repo:
    from pipeline import hub

    hub.push(config.output_dir, hub_repo)

# %% [markdown]
# ## What to try next
# - **A single value instead of quantiles**: `more = {"quantile_regression": False}`.
# - **What the quantiles are worth**: [docs/v1.md](https://github.com/caizongxun/crypto_system/blob/main/docs/v1.md)
#   compares them with EWMA and GARCH on real candles.
# - **The generation to use**, with a calibrated interval and a live forecast:
#   [train_v2](https://colab.research.google.com/github/caizongxun/crypto_system/blob/main/notebooks/train_v2.ipynb).
