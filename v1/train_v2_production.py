"""The v2 guide writes `python v1/train_v2_production.py`: the script at the root."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    sys.path[0] = str(root)  # this folder has modules of the same names
    sys.argv[0] = str(root / "train_v2_production.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
