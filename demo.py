"""A demonstration without a network: made-up candles, a small model of them, and its forecast.

    python demo.py

It takes about half a minute and leaves a bundle, its report, candle files and a picture, so that
every other command has something to open. All of it is SYNTHETIC and says so: a generator made the
candles up, and on them nothing can be forecast.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

import train_v2_production
from config import ConfigV2, default_output_dir
from feature_engineering import V2_WARMUP
from inference_v2 import FILES, CryptoPricePredictorV2
from pipeline import options, terminal
from pipeline.bundle.metadata import read_json
from pipeline.candles import store
from pipeline.candles.schema import timeframe_ms
from pipeline.candles.synthetic import synthetic_market
from pipeline.commands import Predict


@dataclass(frozen=True)
class Demo:
    """Where the demonstration goes."""

    output_dir: Path = field(default_factory=lambda: default_output_dir("demo"))
    """folder of the bundle; the candles go into `candles` below it"""


def main(demo: Demo = Demo()) -> dict[str, str]:
    """Make candles, train on them, forecast with a picture.

    Returns:
        What one may want next -> the command to paste, or the file to open.

    Raises:
        ValueError: The folder has a bundle trained on real candles.
    """
    folder = demo.output_dir
    config = ConfigV2(source="synthetic", candles=700, epochs=1, output_dir=folder)
    train_v2_production.main(config)

    # The same candles as files, even where an hour has ended since then. They name "synthetic" as
    # their venue, so that forecasts say so.
    learnt = read_json(folder / FILES.metadata)["data"]["symbols"]
    last = pd.Timestamp(learnt[config.symbols[0]]["last"])  # the open of the run's last candle
    end = last + pd.Timedelta(timeframe_ms(config.timeframe), "ms")
    n_candles = config.candles + V2_WARMUP
    market = synthetic_market(
        config.symbols, config.timeframe, n_candles, seed=config.seed, end=end
    )
    files = [
        store.write_candles(frame, folder / "candles", symbol, config.timeframe, "synthetic")
        for symbol, frame in market.items()
    ]

    picture = folder / "forecast.png"
    forecast = Predict(files[0], model_dir=folder, picture=picture)
    with terminal.plain_warnings(), terminal.notices():
        forecast.run(CryptoPricePredictorV2)
    report = options.from_here(folder / FILES.report)
    return {"report": str(report), "picture": str(picture), **forecast.next_steps()}


if __name__ == "__main__":
    with terminal.one_line_errors():
        terminal.tell_next(main(options.read_options(Demo, __doc__)))
