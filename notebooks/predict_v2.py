# %% [markdown]
# # Forecast with a trained v2
#
# Opens a bundle that `train_v2.ipynb` or `python train_v2_production.py` saved, or one on the
# Hugging Face Hub, and forecasts the next candle from the newest closed ones. A CPU is enough. A
# forecast describes probabilities; it is not trading advice. What stands below the cells is from a
# run on a file of candles to 2024-06-16, so it calls them old; yours come from an exchange.

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
symbol = "BTC/USDT"  # @param {type:"string"}
# @markdown Where the bundle is: the folder of a run; empty is where train_v2.ipynb saves it.
folder = ""  # @param {type:"string"}
# @markdown Or on Google Drive, where train_v2.ipynb keeps it if asked to.
from_drive = False  # @param {type:"boolean"}
# @markdown Or on the Hugging Face Hub: the name of a repository, as user/repo.
hub_repo = ""  # @param {type:"string"}
# @markdown A file of candles, such as BTCUSDT_1h.parquet or a .csv; empty asks the exchanges.
candles_file = ""  # @param {type:"string"}

# %%
# Open it. What comes from the Hub is checked before anything in it is opened: names, sizes, hashes,
# layers.
from config import default_output_dir
from inference_v2 import CryptoPricePredictorV2

if hub_repo:
    predictor = CryptoPricePredictorV2.from_pretrained(hub_repo)
elif from_drive:
    from google.colab import drive

    drive.mount("/content/drive")
    kept = "/content/drive/MyDrive/crypto_system/v2"
    predictor = CryptoPricePredictorV2.from_directory(kept)
else:
    predictor = CryptoPricePredictorV2.from_directory(folder or default_output_dir("v2"))
print(
    f"trained on {', '.join(predictor.symbols)}; forecasts {predictor.horizon} candle of "
    f"{predictor.timeframe} ahead"
)
print(
    f"sees {predictor.lookback} candles and wants {predictor.required_candles}, to warm up its "
    "indicators"
)

# %%
# The newest closed candles; one that is still forming is left out.
from pipeline import terminal
from pipeline.candles import formats

with terminal.notices():
    if candles_file:
        candles = formats.read_file(Path(candles_file), predictor.timeframe)
    else:
        candles = predictor.fetch_live(symbol)
candles.tail(3)

# %%
prediction = predictor.predict(candles)
for name, value in prediction.items():
    print(f"{name:16} {value:,.8g}" if isinstance(value, float) else f"{name:16} {value}")

# %% [markdown]
# `confidence` is the probability that the direction is right, fitted on candles that the network
# had not seen. On hourly candles it is near 50 %: a coin flip has 50. `price_low` and `price_high`
# should hold four of five closes.

# %%
predictor.plot(candles)

# %%
# The forecasts of the last three days beside what came true, each made from what was known then. A
# picture, not a test: the network may have been trained on these days. `python inference_v2.py
# evaluate` tests.
import numpy as np

from pipeline.report import pictures

ahead = predictor.horizon
log_close = np.log(candles.set_index("timestamp")["close"])
history = predictor.predict_history(candles)
history["actual_return"] = history["timestamp"].map(log_close.shift(-ahead) - log_close)
recent = history.iloc[-72 - ahead : -ahead]
inside = recent["actual_return"].between(recent["q10"], recent["q90"]).mean()
print(f"the 80 % band held {inside:.0%} of the last {len(recent)} returns")
figure = pictures.week_plot(recent, "predicted_return")
figure.set_size_inches(9, 3.4)
figure.suptitle("The last three days: each forecast, its 80 % band, and what came true")
figure

# %% [markdown]
# ## What to try next
# - **Test it on candles that it has never seen**: `!python inference_v2.py evaluate --candles-dir
#   FOLDER` prints the same tables and the verdict that its training run did.
# - **A forecast at every close, written down before it is due**: `!python inference_v2.py live
#   --symbol BTC/USDT --ledger forecasts.jsonl`
#   ([docs/ledger.md](https://github.com/caizongxun/crypto_system/blob/main/docs/ledger.md)).
# - **Another coin**: a bundle forecasts every pair that it was trained on; set `symbol`.
# - **A page in the browser** for the same forecasts: `python app.py`
#   ([docs/app.md](https://github.com/caizongxun/crypto_system/blob/main/docs/app.md)).
