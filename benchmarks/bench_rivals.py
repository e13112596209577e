"""The pooled network beside its rivals, on one split: each is given the same candles and judged by
the verdict's loss.

    python -m benchmarks.bench_rivals --candles-dir DIR
    python -m benchmarks.bench_rivals --candles-dir DIR --only ridge xgboost_features --json
    rivals.json

Rivals: ridge and XGBoost on the network's windows, flattened; XGBoost (and LightGBM, where
installed) on hand-made features, sums of the returns of coin, Bitcoin and market over 3 to 168
candles among them; a temporal convolutional network; a Transformer encoder; and the means of the
network and the trees on hand-made features. Trees and networks stop or choose by the validation
part, and every forecast is shrunk by it (`fit_shrinkage`), as in a training run.

The default split is of the development candles: whoever chooses by this table must judge elsewhere.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from config import PRESETS_V2, SourceConfig
from data_fetcher import fetch_candles
from feature_engineering import V2_WARMUP
from generations.v9.volatility import flatten_windows
from pipeline.bundle.network import import_keras
from pipeline.evaluation.significance import diebold_mariano
from pipeline.forecasts.hand_made import hand_made
from pipeline.forecasts.shrinkage import fit_shrinkage
from pipeline.report.tables import text_table
from pipeline.samples.pooled_features import choose_pooled_features, compute_pooled_features
from pipeline.samples.scaling import ScaledSamples, scale_on_train
from pipeline.samples.splitting import split_by_dates
from pipeline.samples.windows import make_windows

CONFIG = PRESETS_V2["pooled"]
SEEDS = 3
"""networks whose mean is a network's forecast"""

Output = dict[str, np.ndarray]
"""part -> forecasts in standardised units"""


def flattened(scaled: ScaledSamples, part: np.ndarray) -> np.ndarray:
    """(n, lookback * n_features): the windows that the network sees."""
    return flatten_windows(scaled.rows, scaled.samples.end[part], scaled.samples.lookback)


def fit_ridge(inputs: Callable[..., np.ndarray], scaled: ScaledSamples) -> Output:
    """Least squares with the penalty that validation prefers."""
    from sklearn.linear_model import Ridge

    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    known = inputs(scaled, train).astype(np.float64)
    best: tuple[float, Output] = (np.inf, {})
    for alpha in (1e2, 1e4, 1e6):
        model = Ridge(alpha=alpha).fit(known, scaled.target[train])
        output = {
            name: model.predict(inputs(scaled, part))
            for name, part in (("val", val), ("test", test))
        }
        loss = float(np.mean(np.abs(scaled.target[val] - output["val"])))
        best = min(best, (loss, output), key=lambda pair: pair[0])
    return best[1]


def fit_xgboost(inputs: Callable[..., np.ndarray], scaled: ScaledSamples) -> Output:
    """Shallow trees by the pseudo-Huber loss, which sees the median; validation decides how
    many."""
    import xgboost

    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    model = xgboost.XGBRegressor(
        objective="reg:pseudohubererror",
        huber_slope=0.5,
        eval_metric="mae",
        base_score=0.0,
        n_estimators=600,
        max_depth=3,
        learning_rate=0.03,
        subsample=0.5,
        colsample_bytree=0.4,
        min_child_weight=300,
        reg_lambda=10,
        max_bin=64,
        early_stopping_rounds=50,
        random_state=CONFIG.seed,
    )
    known = inputs(scaled, val)
    model.fit(
        inputs(scaled, train),
        scaled.target[train],
        eval_set=[(known, scaled.target[val])],
        verbose=False,
    )
    return {"val": model.predict(known), "test": model.predict(inputs(scaled, test))}


def fit_lightgbm(inputs: Callable[..., np.ndarray], scaled: ScaledSamples) -> Output:
    """As `fit_xgboost`, by LightGBM's Huber loss."""
    import lightgbm

    train, val, test = scaled.split.train, scaled.split.val, scaled.split.test
    model = lightgbm.LGBMRegressor(
        objective="huber",
        alpha=0.5,
        metric="l1",
        n_estimators=600,
        num_leaves=8,
        learning_rate=0.03,
        subsample=0.5,
        subsample_freq=1,
        colsample_bytree=0.4,
        min_child_samples=3000,
        reg_lambda=10,
        max_bin=63,
        random_state=CONFIG.seed,
        verbose=-1,
    )
    known = inputs(scaled, val)
    stop: list[Any] = [lightgbm.early_stopping(50, verbose=False)]
    model.fit(
        inputs(scaled, train),
        scaled.target[train],
        eval_set=[(known, scaled.target[val])],
        callbacks=stop,
    )
    parts = {"val": known, "test": inputs(scaled, test)}
    return {name: np.asarray(model.predict(part)) for name, part in parts.items()}


def build_dual(lookback: int, n_features: int) -> Any:
    """The pooled preset's network."""
    from models.dual_stream import build_dual_stream

    return build_dual_stream(
        lookback,
        n_features,
        lstm_units=CONFIG.lstm_units,
        conv_filters=CONFIG.conv_filters,
        conv_lstm_units=CONFIG.conv_lstm_units,
        dense_units=CONFIG.dense_units,
        dropout=CONFIG.dropout,
        skip_candles=CONFIG.skip_candles,
    )


def build_tcn(lookback: int, n_features: int) -> Any:
    """Three dilated causal convolutions of 16 filters with residuals (Bai, Kolter and Koltun,
    2018), a receptive field of 15 candles, and the network's linear part."""
    import keras

    window = keras.Input((lookback, n_features))
    hidden = keras.layers.Dense(16)(window)
    for dilation in (1, 2, 4):
        step = keras.layers.Conv1D(
            16, 3, padding="causal", dilation_rate=dilation, activation="relu"
        )(hidden)
        hidden = keras.layers.Add()([hidden, keras.layers.Dropout(0.2)(step)])
    return _with_linear_part(window, keras.layers.Cropping1D((lookback - 1, 0))(hidden))


def build_transformer(lookback: int, n_features: int) -> Any:
    """One encoder block of width 16 with two heads (Vaswani et al., 2017), and the network's linear
    part."""
    import keras

    window = keras.Input((lookback, n_features))
    hidden = keras.layers.Dense(16)(window)
    flat = keras.layers.LayerNormalization()(
        keras.layers.Flatten()(hidden)
    )  # its offsets tell the candles apart
    hidden = keras.layers.Reshape((lookback, 16))(flat)
    attended = keras.layers.MultiHeadAttention(2, 8, dropout=0.2)(hidden, hidden)
    hidden = keras.layers.LayerNormalization()(keras.layers.Add()([hidden, attended]))
    wide = keras.layers.Dense(16)(
        keras.layers.Dropout(0.2)(keras.layers.Dense(32, activation="relu")(hidden))
    )
    hidden = keras.layers.LayerNormalization()(keras.layers.Add()([hidden, wide]))
    return _with_linear_part(window, keras.layers.Cropping1D((lookback - 1, 0))(hidden))


def _with_linear_part(window: Any, last: Any) -> Any:
    import keras

    hidden = keras.layers.Dropout(CONFIG.dropout)(keras.layers.Flatten()(last))
    hidden = keras.layers.Dense(16, activation="relu")(hidden)
    forecast = keras.layers.Dense(1, kernel_initializer="zeros")(hidden)
    recent = keras.layers.Flatten()(
        keras.layers.Cropping1D((window.shape[1] - CONFIG.skip_candles, 0))(window)
    )
    linear = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(recent)
    return keras.Model(window, keras.layers.Add()([forecast, linear]))


def fit_network(build: Callable[[int, int], Any], scaled: ScaledSamples) -> Output:
    """Mean of `SEEDS` networks, trained as the pooled preset trains its own."""
    keras = import_keras()
    from pipeline.training.fit import Objective, WindowBatches, fit

    outputs = []
    for seed in range(CONFIG.seed, CONFIG.seed + SEEDS):
        keras.utils.set_random_seed(seed)
        model = build(scaled.samples.lookback, scaled.samples.n_features)
        with tempfile.TemporaryDirectory() as folder:
            fit(
                model,
                scaled,
                Objective(keras.losses.Huber(delta=CONFIG.huber_delta)),
                replace(CONFIG, seed=seed),
                Path(folder) / "best.h5",
            )
        parts = {"val": scaled.split.val, "test": scaled.split.test}
        outputs.append(
            {
                n: model.predict(WindowBatches(scaled, p, 4096), verbose=0)[:, 0]
                for n, p in parts.items()
            }
        )
    return {name: np.mean([output[name] for output in outputs], axis=0) for name in outputs[0]}


MODELS: dict[str, Callable[[ScaledSamples], Output]] = {
    "network": lambda scaled: fit_network(build_dual, scaled),
    "ridge_windows": lambda scaled: fit_ridge(flattened, scaled),
    "ridge_features": lambda scaled: fit_ridge(hand_made, scaled),
    "xgboost_windows": lambda scaled: fit_xgboost(flattened, scaled),
    "xgboost_features": lambda scaled: fit_xgboost(hand_made, scaled),
    "lightgbm_features": lambda scaled: fit_lightgbm(hand_made, scaled),
    "tcn": lambda scaled: fit_network(build_tcn, scaled),
    "transformer": lambda scaled: fit_network(build_transformer, scaled),
}
AVERAGED = ("xgboost_features", "lightgbm_features")
"""whose mean with the network is judged too"""


def prepare(options: argparse.Namespace) -> ScaledSamples:
    """Samples of every coin of the house list that the directory has, split and scaled."""
    market = fetch_candles(
        CONFIG.symbols,
        options.timeframe,
        0,
        source=SourceConfig(candles_dir=options.candles_dir, cache_dir=None),
    )
    names = choose_pooled_features(market.candles, options.timeframe)
    features = compute_pooled_features(market.candles, options.timeframe, names)
    samples = make_windows(
        features, market.candles, options.timeframe, CONFIG.lookback, options.horizon, V2_WARMUP
    )
    dates = (options.train_end, options.val_end, options.test_start, options.test_end)
    split = split_by_dates(samples.target_time, *dates, purge=samples.target_span)
    return scale_on_train(samples, split)[0]


def score(output: Output, scaled: ScaledSamples) -> dict[str, Any]:
    """Shrunk as a training run shrinks, then judged on the test part: figures, and the losses
    themselves."""
    samples, val, test = scaled.samples, scaled.split.val, scaled.split.test
    factor = fit_shrinkage(output["val"].astype(np.float64), scaled.target[val].astype(np.float64))
    forecast, actual = factor * output["test"], scaled.target[test]
    loss, of_naive = np.abs(actual - forecast), np.abs(actual)
    moved = samples.log_return[test] != 0
    right = (np.sign(output["test"]) == np.sign(actual))[moved]
    far = np.abs(output["test"][moved])
    return {
        "skill": 1 - float(loss.mean() / of_naive.mean()),
        "direction": float(right.mean()),
        "top_tenth": float(right[far >= np.quantile(far, 0.9)].mean()),
        "r2": 1 - float(np.sum((actual - forecast) ** 2) / np.sum(actual**2)),
        "shrinkage": factor,
        "loss": loss,
    }


def main(arguments: list[str] | None = None) -> None:
    """Fit every rival, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_rivals", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--candles-dir", type=Path, required=True)
    parser.add_argument("--timeframe", default="1h")
    parser.add_argument("--horizon", type=int, default=1)
    for name, day in (
        ("train-end", "2022-12-31"),
        ("val-end", "2023-03-31"),
        ("test-start", "2023-04-01"),
        ("test-end", "2023-09-30"),
    ):
        parser.add_argument(f"--{name}", default=day)
    parser.add_argument(
        "--only", nargs="+", choices=MODELS, default=list(MODELS), help="default: all"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args(arguments)

    scaled = prepare(options)
    print(
        f"{len(scaled.split.train):,} samples to train, {len(scaled.split.test):,} to judge by",
        flush=True,
    )
    outputs, seconds = {}, {}
    for name in dict.fromkeys(("network", *options.only)):
        if name.startswith("lightgbm") and importlib.util.find_spec("lightgbm") is None:
            print("lightgbm is not installed and left out (pip install lightgbm)")
            continue
        started = time.perf_counter()
        outputs[name] = MODELS[name](scaled)
        seconds[name] = time.perf_counter() - started
        print(f"{name}: {seconds[name]:.0f} s", flush=True)
    for trees in [name for name in AVERAGED if name in outputs]:
        outputs[f"network + {trees}"] = {
            part: (outputs["network"][part] + outputs[trees][part]) / 2 for part in ("val", "test")
        }
    scores = {name: score(output, scaled) for name, output in outputs.items()}
    instants = scaled.samples.target_time[scaled.split.test]
    rows = [
        [
            "model",
            "skill %",
            "direction %",
            "top tenth %",
            "R² %",
            "network against it: DM",
            "p",
            "seconds",
        ]
    ]
    for name, figures in scores.items():
        loss = figures.pop("loss")
        against = ["", ""]
        if name == "network":
            of_network = loss
        else:
            test = diebold_mariano(of_network, loss, instants, options.horizon)
            figures |= {"statistic": test.statistic, "p_value": test.p_value}
            against = [f"{test.statistic:+.2f}", f"{test.p_value:.4f}"]
        figures["seconds"] = seconds.get(name)
        percent = [f"{100 * figures[key]:.2f}" for key in ("skill", "direction", "top_tenth", "r2")]
        rows.append([name, *percent, *against, f"{seconds[name]:.0f}" if name in seconds else ""])
    print(text_table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
