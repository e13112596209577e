# %% [markdown]
# # Train v7: 20 coins, a network each
#
# 20 coins in two timeframes are 40 networks, which is more than a Colab session may last. Each is
# on Google Drive as soon as it is done. **After a disconnect: open this notebook again and run all
# cells**; finished networks are kept, the one in hand goes on at its last epoch. Each network
# forecasts the next candle's open, high, low and close.

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
# Settings. Every field of ConfigV7 may stand here; config.py lists them with their units.
from dataclasses import replace

from config import ConfigV7, SourceConfig, default_output_dir

folder = default_output_dir("v7")
if IN_COLAB:
    from google.colab import drive

    drive.mount("/content/drive")
    folder = Path("/content/drive/MyDrive/crypto_system/v7")

config = ConfigV7(
    symbols=("all",),  # the 20 coins; ("BTC/USDT", "ETH/USDT") is done much sooner
    timeframes=("15m", "1h"),
    candles=8000,  # per coin and timeframe
    epochs=100,  # at most: training stops when the validation part gets no better
    output_dir=folder,
    # Also on Drive, so that a resumed run finds the candles of the first one.
    cache_dir=folder.parent / "candles",
    resume=True,  # go on where a run was cut off; False begins again
)
if SMALL:
    config = replace(
        config,
        symbols=("BTC/USDT", "ETH/USDT"),
        timeframes=("1h",),
        source="synthetic",
        candles=400,
        epochs=1,
        lstm_units=(4, 4, 4),
        dense_units=(4, 4),
    )

# %%
# Train. "about … left" is an estimate from the networks that are done.
from generations.v7 import train_v7_main

if config.resume and (folder / "metrics_v7.json").is_file() and not (folder / ".partial").is_dir():
    print(f"complete already: {folder}; resume=False trains again")
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

symbol = "BTC/USDT"
predictor = inference.CryptoPricePredictorV7.from_directory(
    folder, symbol=symbol, timeframe=timeframe
)
source = SourceConfig(source="synthetic" if SMALL else "exchange", cache_dir=None)
with terminal.notices():
    market = fetch_candles([symbol], timeframe, predictor.required_candles, source)
candles = market.candles[symbol]
prediction = predictor.predict(candles)
print("  ".join(f"{name} {prediction[name]:,.6g}" for name in ("open", "high", "low", "close")))
predictor.plot(candles)

# %%
# Share it on the Hugging Face Hub: name a repository, as user/repo. Asks for a token that may
# write, unless HF_TOKEN is set or you are logged in; it is not shown and not stored.
REPO = ""

if REPO:
    from pipeline import hub

    hub.push(folder, REPO, dataset=True, path_in_repo="models_v7")
