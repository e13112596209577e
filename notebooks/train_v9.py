# %% [markdown]
# # Train v9: direction, volatility and price
#
# Three models of one pair: a bidirectional LSTM with attention for the direction, XGBoost for the
# volatility of the next 24 hours, an LSTM for the price. Each is measured beside what costs little.
# The document behind it speaks of 72 to 75 % right directions; `verdict.ipynb` shows how such
# numbers come about.

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
symbols = "BTC/USDT"  # @param {type:"string"}
candles = 10000  # @param {type:"integer"}
# @markdown At most, as for the direction network's 100; 8 are enough for a first look.
epochs = 150  # @param {type:"integer"}
# @markdown In Colab: keep all on Google Drive, so that it survives a disconnect.
keep_on_drive = False  # @param {type:"boolean"}
# @markdown Go on with a run that was cut off. The settings must be the same.
resume = False  # @param {type:"boolean"}
# @markdown Share the result on the Hugging Face Hub: the name of a repository, as user/repo.
hub_repo = ""  # @param {type:"string"}
# @markdown Further settings of ConfigV9, such as {"fee_bps": 2.0}; config.py lists them all.
more = {}  # @param {type:"raw"}

# %%
# The same as the scripts take it. What stands in `more` wins.
from dataclasses import replace

from config import ConfigV9, default_output_dir

config = ConfigV9(symbols=tuple(symbols.split()), candles=candles, epochs=epochs)
folders = {"output_dir": default_output_dir("v9")}
if keep_on_drive:
    from google.colab import drive

    drive.mount("/content/drive")
    home = Path("/content/drive/MyDrive/crypto_system")
    folders = {"output_dir": home / "v9", "cache_dir": home / "candles"}
config = replace(config, resume=resume, **folders)
config = replace(config, **more)
print(f"the bundle goes to {config.output_dir}")

# %%
from generations.v9 import btc_1h_v9_training
from generations.v9.features import V9_WARMUP
from pipeline import terminal
from pipeline.candles.fetching import fetch_candles

source = btc_1h_v9_training.choose_source(config)
with terminal.notices():
    market = fetch_candles(config.symbols, config.timeframe, config.candles + V9_WARMUP, source)
terminal.tell(*market.describe())

# %%
# Train; the last line is the verdict on the price, the tables above it are those of the other two.
metrics = btc_1h_v9_training.main(config)

# %%
from pipeline.report import page

page.in_notebook((config.output_dir / "report_v9.html").read_text(encoding="utf-8"))

# %%
# Forecast the next candle from the candles fetched above.
from generations.v9.inference import CryptoPricePredictorV9

symbol = next(iter(market.candles))
predictor = CryptoPricePredictorV9.from_directory(config.output_dir)
prediction = predictor.predict(market.candles[symbol])
print(f"direction   {prediction['direction_p_up']:.1%} for a rise")
print(
    f"volatility  {prediction['volatility']:.2%} over the next {predictor.volatility_horizon} "
    "candles"
)
predictor.plot(market.candles[symbol])

# %%
# Share it, if the settings name a repository. Asks for a token that may write, unless HF_TOKEN is
# set or you are logged in; it is not shown and not stored.
if hub_repo:
    from pipeline import hub

    hub.push(config.output_dir, hub_repo)

# %% [markdown]
# ## What to try next
# - **Another pair**: `symbols = "ETH/USDT"`; or a longer past: `candles = 20000`.
# - **The part that works**, the volatility: [docs/v9.md](https://github.com/caizongxun/crypto_system/blob/main/docs/v9.md)
#   compares it with EWMA and HAR.
# - **A strategy on top of it**: [docs/v9_strategy.md](https://github.com/caizongxun/crypto_system/blob/main/docs/v9_strategy.md)
#   says what is left of it after fees.
# - **How 72 % come about**: [verdict](https://colab.research.google.com/github/caizongxun/crypto_system/blob/main/notebooks/verdict.ipynb).
