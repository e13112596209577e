# %% [markdown]
# # Train v2 and see what it is worth
#
# From candles to a saved network and a verdict. The run measures the network, out of sample,
# against the baselines: no change, drift, the last move turned around, two linear models and
# XGBoost. **NO EDGE is a normal, useful result.** `verdict.ipynb` explains every number, and
# `predict_v2.ipynb` uses what is saved here. Run the cells from top to bottom.
# What stands below the cells is from a run on candles of Binance's futures to 2024-06-16.

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
timeframe = "1h"  # @param ["15m", "1h", "4h", "1d"]
# @markdown Per pair; 0 takes all that the exchange has.
candles = 8000  # @param {type:"integer"}
# @markdown At most: training stops when the validation part gets no better.
epochs = 50  # @param {type:"integer"}
# @markdown Instead of these four: the strongest network, of all coins (docs/pooled.md); 8 minutes
# @markdown of training on 2 cores.
all_coins = False  # @param {type:"boolean"}
# @markdown In Colab: keep all on Google Drive, so that it survives a disconnect.
keep_on_drive = False  # @param {type:"boolean"}
# @markdown Go on with a run that was cut off. The settings must be the same.
resume = False  # @param {type:"boolean"}
# @markdown Share the result on the Hugging Face Hub: the name of a repository, as user/repo.
hub_repo = ""  # @param {type:"string"}
# @markdown Further settings of ConfigV2, such as {"fee_bps": 2.0}; config.py lists them all.
more = {}  # @param {type:"raw"}

# %%
# The same as the scripts take it. What stands in `more` wins.
from dataclasses import replace

from config import PRESETS_V2, ConfigV2, default_output_dir

if all_coins:
    config = PRESETS_V2["pooled"]
else:
    pairs = tuple(symbols.split())
    config = ConfigV2(symbols=pairs, timeframe=timeframe, candles=candles, epochs=epochs)
folders = {"output_dir": default_output_dir("v2")}
if keep_on_drive:
    from google.colab import drive

    drive.mount("/content/drive")
    home = Path("/content/drive/MyDrive/crypto_system")
    folders = {"output_dir": home / "v2", "cache_dir": home / "candles"}
config = replace(config, resume=resume, **folders)
config = replace(config, **more)
print(f"the bundle goes to {config.output_dir}")

# %%
# Fetch: from the first exchange that answers (Binance refuses Colab's addresses, so there it is
# usually Binance US).
from data_fetcher import fetch_candles
from feature_engineering import V2_WARMUP
from pipeline import terminal

with terminal.notices():
    wanted = config.candles and config.candles + V2_WARMUP
    market = fetch_candles(config.symbols, config.timeframe, wanted, config)
terminal.tell(*market.describe())

# %%
# Train: the nine phases of train_v2_production.py. The last line is the verdict.
import train_v2_production

metrics = train_v2_production.main(config)

# %% [markdown]
# ## The report
# The same page lies beside the network as `report_v2.html`. Each section says in a sentence how to
# read it. This is how the top of one looks; the cell below shows this run's whole page.
#
# ![The report page of a run: verdict, numbers, pictures](https://raw.githubusercontent.com/caizongxun/crypto_system/main/docs/report.png)

# %%
from pipeline.report import page

page.in_notebook((config.output_dir / "report_v2.html").read_text(encoding="utf-8"))

# %%
# Forecast the next candle of a pair from the candles fetched above: what happened, the forecast,
# its 80 % band.
from inference_v2 import CryptoPricePredictorV2

symbol = next(iter(market.candles))
predictor = CryptoPricePredictorV2.from_directory(config.output_dir).with_context(market.candles)
predictor.plot(market.candles[symbol])

# %%
# Share it, if the settings name a repository. Asks for a token that may write, unless HF_TOKEN is
# set or you are logged in; it is not shown and not stored.
if hub_repo:
    from pipeline import hub

    hub.push(config.output_dir, hub_repo)

# %% [markdown]
# ## What to try next
# - **Forecast with it**: [predict_v2](https://colab.research.google.com/github/caizongxun/crypto_system/blob/main/notebooks/predict_v2.ipynb)
#   opens what was saved here, and asks an exchange for the newest candles.
# - **Ask what the numbers are worth**: [verdict](https://colab.research.google.com/github/caizongxun/crypto_system/blob/main/notebooks/verdict.ipynb)
#   takes this run apart.
# - **Change a setting**: `timeframe = "4h"`, or `more = {"horizon": 24}` for a day ahead, or
#   `more = {"ensemble": 5}` for the mean of five networks
#   ([docs/ensembles.md](https://github.com/caizongxun/crypto_system/blob/main/docs/ensembles.md)).
#   `python -m pipeline.report.compare` puts two runs side by side.
# - **The strongest network here**: tick `all_coins`
#   ([docs/pooled.md](https://github.com/caizongxun/crypto_system/blob/main/docs/pooled.md)).
# - **Candles of your own**: `more = {"candles_dir": "FOLDER"}`; which files can be read is
#   listed in [docs/data.md](https://github.com/caizongxun/crypto_system/blob/main/docs/data.md).
