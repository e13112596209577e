# %% [markdown]
# # Forecast with a trained v2
#
# Opens a bundle that `train_v2.ipynb` or `python train_v2_production.py` saved, or one on the
# Hugging Face Hub, and forecasts the next candle from the newest closed ones. A CPU is enough. A
# forecast describes probabilities; it is not trading advice.

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
# Settings.
from config import default_output_dir

# A run's output folder, or the name of a repository on the Hub: "user/repo".
MODEL = default_output_dir("v2")
SYMBOL = "BTC/USDT"
CANDLES = None  # a file of candles such as Path("BTCUSDT_1h.parquet"); None asks the exchanges
if SMALL:
    CANDLES = Path("BTCUSDT_1h.parquet")

# %%
# In Colab a new session has an empty disk: fetch the bundle that train_v2.ipynb put on Google
# Drive.
kept = Path("/content/drive/MyDrive/crypto_system/v2")
if IN_COLAB and isinstance(MODEL, Path) and not MODEL.is_dir():
    from google.colab import drive

    drive.mount("/content/drive")
    MODEL = kept

# %%
# Open it. What comes from the Hub is checked before anything in it is opened: names, sizes, hashes,
# layers.
from inference_v2 import CryptoPricePredictorV2

if isinstance(MODEL, Path):
    predictor = CryptoPricePredictorV2.from_directory(MODEL)
else:
    predictor = CryptoPricePredictorV2.from_pretrained(MODEL)
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
    if CANDLES is None:
        candles = predictor.fetch_live(SYMBOL)
    else:
        candles = formats.read_file(Path(CANDLES), predictor.timeframe)
candles.tail(3)

# %%
prediction = predictor.predict(candles)
for name, value in prediction.items():
    print(f"{name:15} {value:,.8g}" if isinstance(value, float) else f"{name:15} {value}")

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
pictures.week_plot(recent, "predicted_return")
