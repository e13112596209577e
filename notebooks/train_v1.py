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
# Settings. Every field of ConfigV1 may stand here; config.py lists them with their units.
from dataclasses import replace

from config import ConfigV1, default_output_dir

config = ConfigV1(
    symbols=("BTC/USDT", "ETH/USDT"),
    candles=8000,  # hours per pair; four times as many 15m candles come along
    batch_size=128,
    epochs=30,  # at most
    early_stopping_patience=5,
    output_dir=default_output_dir("v1"),
    resume=False,  # True goes on with a run that was cut off
)
if SMALL:
    config = replace(
        config,
        source="synthetic",
        candles=500,
        epochs=1,
        lstm_units=(6, 4),
        conv_filters=(4, 4),
        conv_lstm_units=(4, 3),
    )

# %%
# Fetch both timeframes.
from generations.v1 import candles
from pipeline import terminal

with terminal.notices():
    market = candles.fetch(config)
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
# Keep it: Colab forgets its disk when the session ends, Google Drive does not.
if IN_COLAB:
    from google.colab import drive

    drive.mount("/content/drive")
    kept = Path("/content/drive/MyDrive/crypto_system/v1")
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
