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
# Settings. Every field of ConfigV9 may stand here; config.py lists them with their units.
from dataclasses import replace

from config import ConfigV9, default_output_dir

config = ConfigV9(
    symbols=("BTC/USDT",),
    candles=10_000,
    epochs=150,  # at most, as for the direction network's 100
    output_dir=default_output_dir("v9"),
    resume=False,  # True goes on with a run that was cut off
)
if SMALL:
    config = replace(
        config,
        source="synthetic",
        candles=700,
        epochs=1,
        direction_lstm_units=(4, 4),
        attention_heads=1,
        direction_dense_units=(4, 4),
        price_lstm_units=(4, 4),
        price_dense_units=(4, 4, 4),
        trees=5,
    )

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
# Keep it: Colab forgets its disk when the session ends, Google Drive does not.
if IN_COLAB:
    from google.colab import drive

    drive.mount("/content/drive")
    kept = Path("/content/drive/MyDrive/crypto_system/v9")
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
