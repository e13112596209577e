"""FreqAI's predictions of a backtest, as forecasts that judge.py reads.

    python -m integrations.freqai user_data/models/IDENTIFIER forecasts.csv
    python judge.py --candles-dir DIR --forecasts forecasts.csv

freqtrade keeps them in `backtesting_predictions/cb_<coin>_<time>_prediction.feather`, a row a
candle: `date` (its open), the labels, whose names begin with &, and `do_predict`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

PATTERN = "cb_*_prediction.feather"
STATISTICS = ("_mean", "_std")
"""ends of the names of columns that tell of a label's training part"""


def forecasts(folder: str | Path, label: str = "&-s_close", quote: str = "USDT") -> pd.DataFrame:
    """The predictions of all coins.

    Args:
        folder: `user_data/models/IDENTIFIER`.
        label: Which of the labels. Numbers are taken for simple returns, as in freqtrade's example
            (`close.shift(-n) / close - 1`); with the words up and down they are directions, beside
            which the column `up` is the probability.
        quote: The coins' other side, of which the files say nothing.

    Returns:
        A row a candle in time order: symbol, timestamp, and forecast_return, or direction and p_up.
        Where `do_predict` is not 1, FreqAI trusts no prediction, and there is none.

    Raises:
        ValueError: There are no such files, or no such label; names what there is.
    """
    paths = sorted(Path(folder, "backtesting_predictions").glob(PATTERN))
    if not paths:
        raise ValueError(
            f"{folder}: no backtesting_predictions/{PATTERN}; run freqtrade backtesting with "
            "--freqaimodel, and give the folder of its identifier"
        )
    parts = []
    for path in paths:
        rows = pd.read_feather(path)
        if label not in rows:
            labels = [name for name in rows if name[0] == "&" and not name.endswith(STATISTICS)]
            raise ValueError(f"{path.name} has no {label}; its labels are {', '.join(labels)}")
        coin = path.name.split("_")[1].upper()
        rows = rows[rows["do_predict"] == 1] if "do_predict" in rows else rows
        parts.append(_named(rows, label).assign(symbol=f"{coin}/{quote}"))
    together = pd.concat(parts).drop_duplicates(["symbol", "timestamp"], keep="last")
    front = ["symbol", "timestamp"]
    columns = [*front, *together.columns.difference(front, sort=False)]
    return together[columns].sort_values(["timestamp", "symbol"], ignore_index=True)


def _named(rows: pd.DataFrame, label: str) -> pd.DataFrame:
    """The predictions under the names that judge.py knows."""
    found = {"timestamp": pd.to_datetime(rows["date"], utc=True)}
    if pd.api.types.is_numeric_dtype(rows[label]):
        found["forecast_return"] = np.log1p(rows[label])
    else:
        found["direction"] = rows[label].map({"up": 1.0, "down": -1.0})
        if "up" in rows:
            found["p_up"] = rows["up"]
    return pd.DataFrame(found)


def main() -> None:
    """Write the predictions of a folder to a file."""
    parser = argparse.ArgumentParser(prog="python -m integrations.freqai", description=__doc__)
    parser.add_argument("folder", type=Path, help="user_data/models/IDENTIFIER")
    parser.add_argument("output", type=Path, help="the forecasts, a .csv file")
    parser.add_argument("--label", default="&-s_close", help="which of the labels")
    parser.add_argument("--quote", default="USDT", help="the coins' other side")
    given = parser.parse_args()
    forecasts(given.folder, given.label, given.quote).to_csv(given.output, index=False)


if __name__ == "__main__":
    main()
