# %% [markdown]
# # Train v2 and see what it is worth
#
# From candles to a saved network and a verdict. The run measures the network, out of sample,
# against the baselines: no change, drift, the last move turned around, two linear models and
# XGBoost. **NO EDGE is a normal, useful result.** `verdict.ipynb` explains every number, and
# `predict_v2.ipynb` uses what is saved here. Run the cells from top to bottom.

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
SMALL = os.environ.get("NOTEBOOK_SMALL") == "1"  # how the tests run it: tiny, and without a network

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

# %%
# Settings. Every field of ConfigV2 may stand here; config.py lists them with their units.
from dataclasses import replace

from config import PRESETS_V2, ConfigV2, default_output_dir

config = ConfigV2(
    symbols=("BTC/USDT", "ETH/USDT"),  # ("all",) takes the 22 pairs of the house list
    timeframe="1h",
    candles=8000,  # per pair; 0 takes all that the exchange has
    # at most: training stops when the validation part gets no better (ALL_COINS: always four)
    epochs=50,
    output_dir=default_output_dir("v2"),
    resume=False,  # True goes on with a run that was cut off
)
# True: the strongest network, of all coins (docs/pooled.md); 8 minutes of training on 2 cores
ALL_COINS = False
if ALL_COINS:
    config = replace(PRESETS_V2["pooled"], output_dir=config.output_dir, resume=config.resume)
if SMALL:
    config = replace(
        config,
        source="synthetic",
        candles=700,
        epochs=2,
        lstm_units=(6, 4),
        conv_filters=4,
        conv_lstm_units=4,
    )

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
# read it.

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
# Keep it: Colab forgets its disk when the session ends, Google Drive does not.
if IN_COLAB:
    from google.colab import drive

    drive.mount("/content/drive")
    kept = Path("/content/drive/MyDrive/crypto_system/v2")
    shutil.copytree(config.output_dir, kept, dirs_exist_ok=True)
    print(f"copied to {kept}")
else:
    print(f"the bundle is in {config.output_dir.resolve()}")

# %%
# Share it on the Hugging Face Hub: name a repository, as user/repo. Asks for a token that may
# write, unless HF_TOKEN is set or you are logged in; it is not shown and not stored.
REPO = ""

if REPO:
    from pipeline import hub

    hub.push(config.output_dir, REPO)
