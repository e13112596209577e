"""Every setting of every generation, and the trading pairs.

A generation's settings are one frozen dataclass, made of small groups (`SourceConfig`,
`SplitConfig`, `FitConfig`, `CostConfig`). A part of the pipeline is given the group that it reads:
since a run's settings are each of their groups, `fit(model, samples, config)` passes them on.

The string under a field is its help on the command line and says its unit.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

_COINS = "BTC ETH SOL XRP ADA DOGE LINK MATIC AVAX DOT UNI LTC BCH ETC XLM ATOM BNB VET FIL THETA"
TRADING_PAIRS = tuple(f"{coin}/USDT" for coin in f"{_COINS} NEAR APE".split())
"""What `--symbols all` means."""
V7_PAIRS = tuple(pair for pair in TRADING_PAIRS if pair not in ("DOT/USDT", "ATOM/USDT"))
"""The 20 coins of the v7 document; what `--symbols all` means there."""


def default_output_dir(generation: str) -> Path:
    """`all_models/<generation>` below /content in Colab, else below the working directory."""
    return _below_content("all_models") / generation


def default_cache_dir() -> Path:
    """Where fetched candles are kept: `candles` below /content in Colab, else here."""
    return _below_content("candles")


def _below_content(folder: str) -> Path:
    content = Path("/content")  # what Colab calls its working directory
    return (content if content.is_dir() else Path()) / folder


@dataclass(frozen=True)
class SourceConfig:
    """Where candles come from."""

    source: Literal["auto", "exchange", "directory", "synthetic"] = "auto"
    """auto: --candles-dir if given, else an exchange, else what --cache-dir holds, else synthetic
    candles under a banner"""
    candles_dir: Path | None = None
    """directory of BTCUSDT_1h.parquet or of other files of candles, with BTCUSDT_funding.* and
    BTCUSDT_open_interest.* beside them"""
    timezone: str | None = None
    """zone of times in --candles-dir that name none, such as Europe/Berlin; default: UTC"""
    exchange: str | None = None
    """ccxt id of the exchange, binance-vision, yahoo or hub; default: binance, then the others that
    can be reached"""
    base_url: str | None = None
    """where to reach the exchange instead of its own address"""
    cache_dir: Path | None = field(default_factory=default_cache_dir)
    """folder that keeps fetched candles, so that the next run fetches only what is new"""
    cross_check: str | None = None
    """another exchange, yahoo or hub, whose closes of 20 candles a pair are compared; more than 1 %
    apart is an error"""
    require_real: bool = False
    """fail rather than train on synthetic candles"""
    seed: int = 42
    """seed of initial weights, dropout, batch order, XGBoost and synthetic candles"""


@dataclass(frozen=True)
class SplitConfig:
    """Where the training part ends and the test part begins: by shares of the time, or by dates."""

    train_ratio: float = 0.70
    """share of the time span used for training"""
    val_ratio: float = 0.15
    """share used for validation; what remains is the test part"""
    train_end: str | None = None
    """split by dates instead: last day of the training part, such as 2023-09-30"""
    val_end: str | None = None
    """last day of the validation part"""
    test_start: str | None = None
    """first day of the test part; default: right after --val-end"""
    test_end: str | None = None
    """last day of the test part; default: the end of the candles"""


@dataclass(frozen=True)
class CostConfig:
    """What the backtest assumes."""

    fee_bps: float = 5.0
    """of the backtest: fee of a trade, in basis points a side"""
    threshold: float = 0.0
    """of the backtest: trade where the forecast is larger than this, in volatilities"""


@dataclass(frozen=True)
class FitConfig:
    """How a network is fitted."""

    epochs: int = 50
    """at most so many passes over the training part"""
    batch_size: int = 32
    """samples a gradient step"""
    learning_rate: float = 3e-4
    """Adam's first step size"""
    clip_value: float = 1.0
    """bound on each gradient component"""
    early_stopping_patience: int = 10
    """epochs without a better validation loss before training stops"""
    reduce_lr_patience: int = 5
    """epochs without a better validation loss before the step size is halved"""
    seed: int = 42
    """seed of initial weights, dropout, batch order, XGBoost and synthetic candles"""
    one_cycle: bool = False
    """all the epochs, with a step size that rises and falls once, instead of stopping early"""
    weight_decay: float = 0.0
    """share of the weights, times the step size, taken off them each step"""


@dataclass(frozen=True)
class RecipeConfig(FitConfig):
    """How often a network is trained, and on what (`pipeline.training.recipes`)."""

    ensemble: int = 1
    """networks that differ by their seed alone (--seed and those after it); their mean is the
    forecast"""
    refit: bool = False
    """once the validation part has calibrated the network, train it again on that part too (with
    --one-cycle)"""
    final_fit: bool = False
    """after the verdict, train what will be served once more, on everything up to the end of the
    test part; the judged network stays in the bundle beside it (with --one-cycle)"""
    horizons: tuple[int, ...] = ()
    """a run for each of these horizons, in folders such as h4 below the output folder, then their
    verdicts together"""
    walk_forward: bool = False
    """train again for every --refit-every days of the test part, and score all together; the bundle
    holds the last"""
    refit_every: int = 30
    """days that a network is used for before the next one is trained (with --walk-forward)"""
    rolling: bool = False
    """walk forward with a training part of constant length instead of one that grows"""
    workers: int = 1
    """members of the ensemble, or folds, trained at once; more than 1 needs Ray (pip install
    ray)"""


@dataclass(frozen=True)
class RunConfig(CostConfig, FitConfig, SplitConfig, SourceConfig):
    """What every training run is told; a generation adds its network and its own defaults."""

    symbols: tuple[str, ...] = ("BTC/USDT", "ETH/USDT")
    """pairs to pool, such as BTC/USDT ETH/USDT; `all` for the 22 of the house list"""
    candles: int = 2000
    """usable candles per symbol, counted after the indicators' warm-up; 0 takes all there are"""
    lookback: int = 60
    """candles a sample sees"""
    horizon: int = 1
    """candles ahead: the target is ln(close[t + horizon] / close[t])"""
    output_dir: Path | None = None
    """folder of the bundle; default: a folder a generation below /content/all_models in Colab, else
    below all_models"""
    resume: bool = False
    """go on with a training run that was cut off (same settings, same candles)"""
    force: bool = False
    """replace what was trained on real candles even where the candles are synthetic"""
    push_to_hub: str | None = None
    """user/repo: push the finished bundle to this repository of the Hugging Face Hub"""
    track: Literal["tensorboard", "trackio"] | None = field(
        default=None, metadata={"metavar": "{tensorboard,trackio}"}
    )
    """log the finished run there too: settings, loss by epoch, scores; needs that package"""
    json: bool = False
    """for programs: the command writes a line of JSON for each verdict to stdout, all else to
    stderr"""
    verbose: bool = False
    """also say why each source of candles was left"""

    def check(self) -> None:
        """Refuse settings that no run can use, by name.

        Candles, symbols and dates are checked where they are read.

        Raises:
            ValueError: A setting is out of its range; says which, its value and the range.
        """
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            if name in AT_LEAST_ONE:
                _require(value >= 1, name, value, "at least 1")
            elif name in POSITIVE:
                _require(0 < value < math.inf, name, value, "a positive number")
            elif name in NOT_NEGATIVE:
                _require(0 <= value < math.inf, name, value, "0 or a positive number")
            elif name in SHARES:
                _require(0 <= value < 1, name, value, "at least 0 and less than 1")
            elif name.endswith(("_units", "_filters")):
                layers = value if isinstance(value, tuple) else (value,)
                smallest = min(layers, default=0)
                _require(smallest >= 1, "a layer's number of units", smallest, "at least 1")
                largest = max(layers, default=0)
                wanted = f"at most {MAX_UNITS}"
                _require(largest <= MAX_UNITS, "a layer's number of units", largest, wanted)
                wanted = f"at most {MAX_LAYERS}"
                _require(len(layers) <= MAX_LAYERS, f"layers in {name}", len(layers), wanted)
            if name in AT_MOST:
                _require(value <= AT_MOST[name], name, value, f"at most {AT_MOST[name]}")
        for name in ("train_ratio", "val_ratio"):
            value = getattr(self, name)
            _require(0 < value < 1, name, value, "a share between 0 and 1")
        used = self.train_ratio + self.val_ratio
        _require(
            used < 1,
            "train_ratio + val_ratio",
            used,
            "less than 1, to leave a share for the test part",
        )
        _require(
            self.candles >= 0, "candles", self.candles, "a positive number, or 0 for all there are"
        )
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")


# Ranges of settings, by their names; the settings that no range holds are checked in `check`.
AT_LEAST_ONE = {
    *("lookback", "horizon", "epochs", "batch_size", "early_stopping_patience"),
    *("reduce_lr_patience", "refit_every", "ensemble", "workers", "volatility_horizon"),
    *("attention_heads", "trees", "tree_depth", "direction_epochs"),
}
POSITIVE = {
    *("learning_rate", "clip_value", "huber_delta", "direction_learning_rate"),
    "tree_learning_rate",
}
NOT_NEGATIVE = {"fee_bps", "threshold", "weight_decay"}
SHARES = {"dropout", "hidden_share", "caution"}
AT_MOST = {
    **dict.fromkeys(("lookback", "horizon", "volatility_horizon"), 10_000),
    **dict.fromkeys(("epochs", "direction_epochs", "batch_size"), 1_000_000),
    **dict.fromkeys(("ensemble", "workers", "tree_depth", "attention_heads"), 1000),
    **{"candles": 100_000_000, "refit_every": 100_000, "trees": 100_000, "fee_bps": 9_999},
}
"""Far beyond any use: more would exhaust the memory, or fail after the training."""
MAX_UNITS, MAX_LAYERS = 4096, 32


@dataclass(frozen=True)
class ConfigV2(RecipeConfig, RunConfig):
    """Train the v2 network on candles, measure it against baselines, save a bundle."""

    preset: Literal["guide", "pooled"] = "guide"
    """guide: the v2 guide's; pooled: a small network for all coins (docs/pooled.md); what other
    options default to"""
    timeframe: str = "1h"
    """length of a candle: 1m 5m 15m 1h 4h 1d …"""
    batch_size: int = 128
    """samples a gradient step; as good on validation as 32, in two thirds of the time
    (docs/log.md)"""

    # --- evaluation ---
    baselines: tuple[Literal["lightgbm"], ...] = ()
    """further baselines, which the network must not lose to either; lightgbm needs that package"""
    caution: float = 0.0
    """0 shrinks forecasts for the least absolute error of the validation part, near 1 for the least
    squared one"""

    # --- network ---
    lstm_units: tuple[int, ...] = (64, 32)
    """units of each LSTM layer of the trend stream"""
    conv_filters: int = 32
    """filters of the convolution of the pattern stream"""
    conv_lstm_units: int = 32
    """units of the LSTM after the convolution"""
    dense_units: tuple[int, ...] = (32, 16)
    """units of each dense layer behind both streams"""
    skip_candles: int = 0
    """the forecast has a linear part besides, of so many last candles"""
    dropout: float = 0.2
    """share of activations dropped in training"""
    hidden_share: float = 0.0
    """share of the training windows whose features of Bitcoin and the market are hidden"""
    huber_delta: float = 0.5
    """errors beyond this count linearly, in standard deviations of the target; chosen on validation
    (docs/log.md)"""

    def check(self) -> None:
        """As `RunConfig.check`, and what v2's settings demand of each other."""
        super().check()
        shortest = min(self.horizons, default=1)
        _require(shortest >= 1, "horizons", shortest, "at least 1 each")
        longest, most = max(self.horizons, default=1), AT_MOST["horizon"]
        _require(longest <= most, "horizons", longest, f"at most {most} each")
        last_seed = self.seed + self.ensemble
        _require(last_seed <= 2**32, "seed + ensemble", last_seed, "at most 4294967296")
        for name in self.baselines:
            is_there = importlib.util.find_spec(name) is not None
            if not is_there:
                raise ValueError(
                    f"--baselines {name} needs the package {name}, which is not installed; "
                    f"pip install {name}"
                )
        is_within = 0 <= self.skip_candles <= self.lookback
        _require(is_within, "skip_candles", self.skip_candles, "0 to --lookback")
        for setting in ("refit", "final_fit"):
            is_counted = self.one_cycle or not getattr(self, setting)
            _require(is_counted, setting, True, "one_cycle too, or the epochs are not known")


PRESETS_V2 = {
    "guide": ConfigV2(),
    "pooled": ConfigV2(
        preset="pooled",
        symbols=("all",),
        candles=35_000,
        lookback=12,
        epochs=4,
        batch_size=1024,
        learning_rate=4e-3,
        one_cycle=True,
        weight_decay=1.0,
        refit=True,
        final_fit=True,
        ensemble=5,
        lstm_units=(16,),
        conv_filters=8,
        conv_lstm_units=8,
        dense_units=(16,),
        skip_candles=6,
        dropout=0.5,
        hidden_share=0.1,
        huber_delta=0.25,
        caution=0.5,
    ),
}
"""What `--preset` chooses between; every number of `pooled` was earned in docs/log.md."""


@dataclass(frozen=True)
class ConfigV1(RunConfig):
    """Train the v1 network on two timeframes of candles, measure it, save a bundle."""

    candles: int = 1000
    """usable 1h candles per symbol, counted after the indicators' warm-up; 0 takes all there are"""
    candles_dir: Path | None = None
    """directory of BTCUSDT_1h.parquet and BTCUSDT_15m.parquet, or .csv files"""
    horizon: int = 1
    """1h candles ahead: the target is ln(close[t + horizon] / close[t])"""
    epochs: int = 100
    """at most so many passes over the training part"""
    learning_rate: float = 1e-3
    """Adam's first step size"""

    # --- network ---
    quantile_regression: bool = True
    """forecast the quantiles q10, q50, q90; else a single value, whose loss weighs moves beyond 2 %
    five times"""
    lstm_units: tuple[int, int] = (64, 32)
    """units of the two LSTM layers of the 1h stream"""
    conv_filters: tuple[int, int] = (32, 16)
    """filters of the two convolutions of the 15m stream"""
    conv_lstm_units: tuple[int, int] = (32, 16)
    """units of the two LSTM layers after the convolutions"""
    dense_units: tuple[int, int] = (32, 16)
    """units of the dense layers behind both streams"""
    dropout: float = 0.2
    """share of activations dropped in training"""


@dataclass(frozen=True)
class ConfigV1Final(RunConfig):
    """Train the training report's network of the next price, measure it, save a bundle."""

    symbols: tuple[str, ...] = ("BTC/USDT", "ETH/USDT", "SOL/USDT")
    """pairs to pool, such as BTC/USDT ETH/USDT; `all` for the 22 of the house list"""
    timeframe: str = "1h"
    """length of a candle: 1m 5m 15m 1h 4h 1d …"""
    horizon: int = 1
    """candles ahead: the target is close[t + horizon]"""
    epochs: int = 60
    """at most so many passes over the training part"""

    # --- network: the report's 271,889 parameters ---
    lstm_units: tuple[int, int, int, int] = (128, 96, 64, 32)
    """units of the four LSTM layers of the price stream"""
    conv_filters: tuple[int, int] = (64, 48)
    """filters of the two convolutions of the pattern stream"""
    conv_lstm_units: tuple[int, int] = (48, 32)
    """units of the two LSTM layers after the convolutions"""
    dense_units: tuple[int, int, int, int] = (96, 64, 32, 16)
    """units of the dense layers behind both streams"""
    huber_delta: float = 1.0
    """errors beyond this count linearly, in training ranges of the price"""


@dataclass(frozen=True)
class ConfigV7(RunConfig):
    """Train a v7 network per coin and timeframe for the next candle's four prices."""

    symbols: tuple[str, ...] = ("all",)
    """pairs, a network each and timeframe; `all` for the document's 20"""
    timeframes: tuple[str, ...] = ("15m", "1h")
    """lengths of a candle: 1m 5m 15m 1h 4h 1d …"""
    candles: int = 8000
    """usable candles per symbol and timeframe, counted after the indicators' warm-up; 0 takes all
    there are"""
    horizon: int = 1
    """candles ahead: the targets are the four prices of candle t + horizon"""
    val_ratio: float = 0.10
    """share that decides when training stops; what remains, the document's 20 %, is the test
    part"""
    epochs: int = 100
    """at most so many passes over the training part"""
    learning_rate: float = 1e-3
    """Adam's first step size"""
    early_stopping_patience: int = 15
    """epochs without a better validation loss before training stops"""
    output_dir: Path | None = None
    """folder of the networks; default: /content/all_models/v7 in Colab, else all_models/v7"""
    own_process: bool = True
    """train each network in a process of its own, which gives all its memory back; costs some
    seconds each"""
    workers: int = 1
    """networks trained at once; more than 1 needs Ray (pip install ray)"""
    resume: bool = False
    """go on with a run that was cut off (same settings): finished networks are kept, the one in
    hand goes on"""
    push_to_hub: str | None = None
    """user/repo: push the finished folder to models_v7 of this dataset repository of the Hugging
    Face Hub"""

    # --- network: 357,348 parameters ---
    lstm_units: tuple[int, int, int] = (128, 64, 32)
    """units of the three bidirectional LSTM layers, per direction"""
    dense_units: tuple[int, int] = (64, 32)
    """units of the two dense layers behind them"""
    dropout: float = 0.2
    """share of activations dropped in training, after each LSTM layer"""

    def check(self) -> None:
        """As `RunConfig.check`; at least one timeframe."""
        super().check()
        n_timeframes = len(self.timeframes)
        _require(n_timeframes >= 1, "the number of timeframes", 0, "at least one, such as 1h")


@dataclass(frozen=True)
class ConfigV9(RunConfig):
    """Train v9's three models (direction, volatility, price), measure each, save a bundle."""

    symbols: tuple[str, ...] = ("BTC/USDT",)
    """pairs to pool, such as BTC/USDT ETH/USDT; `all` for the 22 of the house list"""
    timeframe: str = "1h"
    """length of a candle: 1m 5m 15m 1h 4h 1d …"""
    candles: int = 10_000
    """usable candles per symbol, counted after the indicators' warm-up; 0 takes all there are"""
    source: Literal["auto", "exchange", "directory", "synthetic"] = "auto"
    """auto: --candles-dir, else data/BTCUSDT_1h.csv if there is one, else an exchange, else what
    --cache-dir holds, else synthetic under a banner"""
    candles_dir: Path | None = None
    """directory of BTCUSDT_1h.parquet or .csv files"""
    horizon: int = 1
    """candles ahead, of direction and price: the target is ln(close[t + horizon] / close[t])"""
    volatility_horizon: int = 24
    """candles ahead, of the volatility: the target is the realised variance of the next so many
    log-returns"""
    epochs: int = 150
    """at most so many passes over the training part, of either network"""
    direction_epochs: int = 100
    """at most so many for the direction network"""
    learning_rate: float = 5e-4
    """Adam's first step size, of the price network"""
    direction_learning_rate: float = 1e-3
    """Adam's first step size, of the direction network"""

    # --- models ---
    direction_lstm_units: tuple[int, int] = (128, 64)
    """units a direction of the two bidirectional LSTM layers"""
    attention_heads: int = 4
    """heads of the self-attention behind them"""
    direction_dense_units: tuple[int, int] = (128, 64)
    """units of the dense layers behind that"""
    price_lstm_units: tuple[int, int] = (256, 128)
    """units of the price network's two LSTM layers"""
    price_dense_units: tuple[int, int, int] = (256, 128, 64)
    """units of the dense layers behind them"""
    dropout: float = 0.3
    """share of activations dropped in training, of both networks"""
    trees: int = 300
    """at most so many trees of the volatility model; validation decides how many"""
    tree_depth: int = 6
    """splits from the root of a tree to its leaves, at most"""
    tree_learning_rate: float = 0.05
    """share of each tree's correction that is taken"""
    huber_delta: float = 0.5
    """price errors beyond this count linearly, in standard deviations of the target; v2's"""


_GROUPS = {
    "data": (
        *("symbols", "timeframe", "timeframes", "candles", "horizon", "volatility_horizon"),
        *(entry.name for entry in fields(SourceConfig) if entry.name != "seed"),
    ),
    "split": tuple(entry.name for entry in fields(SplitConfig)),
    "training": (
        *(entry.name for entry in fields(RecipeConfig)),
        *("huber_delta", "hidden_share", "direction_epochs", "direction_learning_rate"),
        "own_process",
    ),
    "evaluation": (*(entry.name for entry in fields(CostConfig)), "baselines", "caution"),
    "output": ("output_dir", "resume", "force", "push_to_hub", "track", "json", "verbose"),
}
OPTION_GROUPS = ("data", "split", "network", "training", "evaluation", "output")
"""Headings under which --help lists the settings."""


def option_group(name: str) -> str:
    """Heading of `OPTION_GROUPS` that a setting stands under.

    Example:
        >>> option_group("fee_bps"), option_group("lstm_units")
        ('evaluation', 'network')
    """
    return next((title for title, names in _GROUPS.items() if name in names), "network")


def _require(is_met: bool, name: str, value: object, wanted: str) -> None:
    if not is_met:
        raise ValueError(f"{name} is {value}; pass {wanted}")
