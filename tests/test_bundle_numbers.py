"""Scaler files whose numbers are none or beyond all sense: refused, or their forecast is.

The networks are stubs: what a file says is judged whatever they would say, and so is a forecast.
"""

import copy
import hashlib
import math
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from feature_engineering import V2_FEATURES
from generations.v1.features import V1_FEATURES
from generations.v1.inference import CryptoPricePredictorV1
from generations.v1_final.features import V1_FINAL_FEATURES
from generations.v1_final.inference import CryptoPricePredictorV1Final
from generations.v7.features import V7_FEATURES
from generations.v7.inference import CryptoPricePredictorV7
from generations.v9.features import V9_FEATURES
from generations.v9.inference import DIRECTION_FILE, VOLATILITY_FILE, CryptoPricePredictorV9
from inference_v2 import CryptoPricePredictorV2
from pipeline.bundle.files import sha256_of
from pipeline.candles.synthetic import synthetic_candles
from pipeline.forecasts.intervals import QUANTILE_NAMES, input_names

LOOKBACK = 4
CUTS = {
    "train_end": "2024-01-01T00:00:00Z",
    "val_end": "2024-03-01T00:00:00Z",
    "test_start": "2024-03-01T00:00:00Z",
    "test_end": "2024-05-01T00:00:00Z",
}
QUANTILES = dict(zip(QUANTILE_NAMES, (-2.0, -1.5, -0.7, 0.0, 0.7, 1.5, 2.0)))
PREDICTORS = {
    "v1": CryptoPricePredictorV1,
    "v1_final": CryptoPricePredictorV1Final,
    "v2": CryptoPricePredictorV2,
    "v7": CryptoPricePredictorV7,
    "v9": CryptoPricePredictorV9,
}
OUTPUTS = {
    "v1": [-0.5, 0.1, 0.6],
    "v1_final": [0.5],
    "v2": [0.3],
    "v7": [0.5, 0.51, 0.55, 0.45],
    "v9": [0.3],
}
"""generation -> what its stub of a network says of every window"""


def standard(n: int) -> StandardScaler:
    return StandardScaler().fit(np.random.default_rng(0).normal(0.0, 2.0, size=(20, n)))


def min_max(n: int, low: float = -3.0, high: float = 3.0) -> MinMaxScaler:
    return MinMaxScaler().fit(np.array([[low] * n, [high] * n]))


def sound(generation: str) -> dict[str, Any]:
    """Content of a generation's scaler file as a training run writes it."""
    names = {
        "v1": V1_FEATURES,
        "v1_final": V1_FINAL_FEATURES,
        "v2": V2_FEATURES,
        "v7": V7_FEATURES,
        "v9": V9_FEATURES,
    }[generation]
    n = len(names)
    shared = {
        "feature_cols": list(names),
        "lookback": LOOKBACK,
        "horizon": 1,
        "timeframe": "1h",
        "symbols": ["BTC/USDT"],
        "synthetic": False,
        "calibration": {"shrinkage": 0.5, "direction_slope": 0.4},
        "intervals": {
            "kind": "scale",
            "intercept": -0.2,
            "coefficients": dict.fromkeys(input_names("1h"), 0.01),
            "quantiles": QUANTILES,
            "slopes": dict.fromkeys(QUANTILE_NAMES, 1.0),
        },
        "trained_until": CUTS["val_end"],
        "cuts": CUTS,
    }
    own: dict[str, Any] = {
        "v1": {
            "X": {
                timeframe: {"BTC/USDT": standard(n), "all": standard(n)}
                for timeframe in ("1h", "15m")
            },
            "y": standard(1),
            "quantile_regression": True,
            "intervals": {"kind": "quantiles", "below": 1.1, "above": 0.9},
        },
        "v1_final": {"X": {"BTC/USDT": standard(n)}, "y": {"BTC/USDT": min_max(1, 20_000, 80_000)}},
        "v2": {"X": standard(n), "y": standard(1), "preset": "guide"},
        "v7": {"X": min_max(n), "y": min_max(1, 20_000, 80_000), "fill": [0.5] * n, "record": {}},
        "v9": {
            "X": min_max(n),
            "y": standard(1),
            "volatility_horizon": 24,
            "har": {"intercept": -0.5, "coefficients": [0.3, 0.3, 0.3]},
            "ensemble": {
                "direction_shrinkage": 0.1,
                "direction_slope": 0.5,
                "price_weight": 0.6,
                "combined_slope": 0.4,
                "quantiles": QUANTILES,
            },
            "sha256": dict.fromkeys(V9_FILES, hashlib.sha256(NETWORK).hexdigest()),
        },
    }[generation]
    return copy.deepcopy({**shared, **own})


V9_FILES = (DIRECTION_FILE, VOLATILITY_FILE)
NETWORK = b"a network"


class Stub:
    """A network that says the same of every window."""

    def __init__(self, outputs: list[float]) -> None:
        self.outputs = np.array(outputs, dtype=np.float32)

    def run(self, rows: np.ndarray, end: np.ndarray) -> np.ndarray:
        return np.full(len(end), self.outputs[0])

    def run_streams(self, streams: Any) -> np.ndarray:
        return np.tile(self.outputs, (len(streams[0].end), 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A folder with a file in the place of a network, which is never opened."""
    folder = tmp_path_factory.mktemp("numbers")
    for name in ("model.h5", *V9_FILES):
        (folder / name).write_bytes(NETWORK)
    with pytest.MonkeyPatch.context() as patched:
        module = "generations.v9.inference"
        patched.setattr(f"{module}.KerasNetwork", lambda *_, **__: Stub([0.55]))
        patched.setattr(f"{module}.TreeModel", lambda *_, **__: Stub([1.0]))
        yield folder


@pytest.fixture(scope="module")
def candles():
    """Those of the last five days, of both timeframes."""
    return [synthetic_candles(120, seed=3), synthetic_candles(480, timeframe="15m", seed=3)]


def open_bundle(folder: Path, generation: str, content: dict[str, Any], outputs=None) -> Any:
    whole = {**content, "model_sha256": sha256_of(folder / "model.h5")}
    (folder / "scalers.pkl").write_bytes(pickle.dumps(whole, protocol=4))
    with pytest.MonkeyPatch.context() as patched:
        stub = Stub(outputs or OUTPUTS[generation])
        patched.setattr("pipeline.forecasts.predictor.open_network", lambda *_: stub)
        return PREDICTORS[generation](folder / "model.h5", folder / "scalers.pkl")


def forecasts(predictor: Any, candles: list[Any]) -> tuple[dict[str, Any], Any]:
    """`predict` and `predict_history` of the same candles."""
    frames = candles[: predictor.n_streams]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # still warming up; outside of the interval
        return predictor.predict(*frames), predictor.predict_history(*frames)


def assert_sound(prediction: dict[str, Any], history: Any) -> None:
    for name, value in prediction.items():
        if isinstance(value, float):
            assert math.isfinite(value), name
    for name in ("price", "price_low", "price_high"):
        assert prediction[name] > 0
    assert prediction["price_low"] <= prediction["price_high"]
    assert 0 <= prediction["p_up"] <= 1
    numbers = history.select_dtypes("number").to_numpy()
    assert len(numbers) and np.isfinite(numbers).all()


@pytest.mark.parametrize("generation", PREDICTORS)
def test_a_sound_file_opens_and_forecasts(folder, candles, generation):
    predictor = open_bundle(folder, generation, sound(generation))
    assert_sound(*forecasts(predictor, candles))
    assert predictor.cuts["val_end"] == 1_709_251_200_000  # 2024-03-01


# Opening


def changed(content: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The content with another value at the end of a path of keys, indices and attributes."""
    content = copy.deepcopy(content)
    *above, last = path
    place = content
    for step in above:
        place = getattr(place, step) if isinstance(place, SCALERS) else place[step]
    place[last] = value
    return content


SCALERS = (StandardScaler, MinMaxScaler)
LONG = "\x1b[2J" + "x" * 10**5
BAD = {
    "no number": math.nan,
    "endless": math.inf,
    "a big integer": 10**400,
    "text": LONG,
    "truth": True,
    "nothing": None,
}
SHARED: list[Any] = [
    (("lookback",), (0, -1, 100_001, 10**30, 2.0, True, None, "60")),
    (("horizon",), (0, 100_001, 10**30, 1.0, math.nan)),
    (("timeframe",), ("7h", LONG, 1, None)),
    (("symbols",), ([], ["BTC/USDT"] * 2, [1], [""], [LONG], ["\x1b[2J"], "BTC/USDT", [[]])),
    (("feature_cols",), ([], ["rsi"], [1, 2], [LONG], None)),
    (("synthetic",), (0, None)),
    (("calibration", "shrinkage"), (-0.1, 1.5, *BAD.values())),
    (("calibration", "direction_slope"), (-0.1, 1e31, *BAD.values())),
    (("intervals",), ({}, {"kind": []}, {"kind": LONG}, [])),
    (("trained_until",), (3, LONG, "soon", "300000-01-01", "2024-03-02T00:00:00Z")),
    (
        ("cuts",),
        (
            [],
            {},
            {**CUTS, "val_end": 3},
            {**CUTS, "val_end": LONG},
            {**CUTS, "test_end": "300000-01-01"},
            {**CUTS, "train_end": "2024-04-01T00:00:00Z"},
            {**CUTS, "val_end": "2024-02-01T00:00:00Z"},
        ),
    ),
    (("preset",), ([], 3)),
    (("twin_sha256",), ([], 3)),
]
SCALE: list[Any] = [
    (("intervals", "intercept"), (1e31, *BAD.values())),
    (("intervals", "coefficients", "volume"), (-1e31, *BAD.values())),
    (("intervals", "coefficients"), ({}, {"volume": 0.1}, [0.1], None)),
    (("intervals", "quantiles", "q50"), (3.0, -3.0, *BAD.values())),
    (("intervals", "quantiles"), ({}, {"q50": 0.0}, None)),
    (("intervals", "slopes", "q10"), (-0.1, 1.1, *BAD.values())),
]
RECORD = (math.nan, math.inf, 1e31, 1e300)
SCALES = (*RECORD, 0.0, -1.0, 1e-31, 5e-324)
OWN: dict[str, list[Any]] = {
    "v1": [
        (("intervals", "below"), (0.0, -1.0, 1e31, *BAD.values())),
        (("intervals", "above"), (0.0, *BAD.values())),
        (("X",), ({}, {"1h": 3}, {"1h": standard(50), "15m": standard(50)}, standard(50))),
        (("X", "1h", "BTC/USDT"), (standard(3), None)),
        (("X", "15m", "BTC/USDT", "mean_", 0), RECORD),
        (("X", "15m", "all", "scale_", 0), SCALES),
        (("y", "scale_", 0), SCALES),
    ],
    "v1_final": [
        (("X",), ({}, standard(14), {"BTC/USDT": min_max(14)})),
        (("X", "BTC/USDT", "scale_", 0), SCALES),
        (("y", "BTC/USDT"), (min_max(2), standard(1), 3)),
        (("y", "BTC/USDT", "min_", 0), RECORD),
    ],
    "v2": [
        (("X",), (standard(17), standard(1), min_max(18), 3)),
        (("X", "mean_", 3), RECORD),
        (("X", "scale_", 3), SCALES),
        (("y",), (standard(2), 3)),
        (("y", "scale_", 0), SCALES),
        (("intervals",), ({"kind": "quantiles", "below": 0.0, "above": 1.0},)),
    ],
    "v7": [
        (("fill", 0), (math.nan, 1e31, 3, None)),
        (("fill",), ([], [0.5], None)),
        (("X", "min_", 0), RECORD),
        (("y", "scale_", 0), SCALES),
        (("y",), (min_max(2),)),
        (("symbols",), (["BTC/USDT", "ETH/USDT"],)),
        (("record",), ([],)),
    ],
    "v9": [
        (("volatility_horizon",), (0, 100_001, 1.5)),
        (("har", "intercept"), (1e31, *BAD.values())),
        (("har", "coefficients"), ([], [0.1, 0.2], [0.1, 0.2, math.nan], None)),
        (("ensemble", "direction_shrinkage"), (-0.1, 1.1, *BAD.values())),
        (("ensemble", "price_weight"), (-0.1, 1.1, *BAD.values())),
        (("ensemble", "direction_slope"), (-0.1, *BAD.values())),
        (("ensemble", "combined_slope"), (-0.1, *BAD.values())),
        (("ensemble", "quantiles"), ({}, None)),
        (("ensemble", "quantiles", "q90"), (-5.0, 5.0, *BAD.values())),
        (("sha256",), ([],)),
    ],
}
TABLE = [
    (generation, path, values)
    for generation in PREDICTORS
    for path, values in (*SHARED, *(SCALE if generation != "v1" else ()), *OWN[generation])
]


@pytest.mark.parametrize(
    ("generation", "path", "values"),
    TABLE,
    ids=[f"{generation} {'.'.join(map(str, path))}" for generation, path, _ in TABLE],
)
def test_a_value_out_of_its_range_is_refused_in_one_line(folder, generation, path, values):
    for value in values:
        with pytest.raises(ValueError, match=r"; \w|\w: ") as caught:
            open_bundle(folder, generation, changed(sound(generation), path, value))
        told = str(caught.value)
        assert told.isprintable() and len(told) < 600, told


def test_coefficients_of_the_interval_are_known_by_name(folder):
    content = sound("v2")
    names = list(content["intervals"]["coefficients"])
    swapped = dict.fromkeys([names[1], names[0], *names[2:]], 0.01)
    content["intervals"]["coefficients"] = swapped
    with pytest.raises(ValueError, match=f"coefficient is of '{names[1]}' in the place of"):
        open_bundle(folder, "v2", content)


def test_older_files_without_cuts_open(folder, candles):
    content = sound("v2")
    del content["cuts"]
    assert open_bundle(folder, "v2", content).cuts == {"val_end": 1_709_251_200_000}
    del content["trained_until"]
    predictor = open_bundle(folder, "v2", {**content, "twin_sha256": None})
    assert predictor.cuts == {} and predictor.trained_until is None
    assert_sound(*forecasts(predictor, candles))


def numbers_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every number that a scaler file's reader takes in."""
    if isinstance(value, SCALERS):
        shift = "mean_" if isinstance(value, StandardScaler) else "min_"
        for name in (shift, "scale_"):
            yield from ((*path, name, i) for i in range(len(getattr(value, name))))
    elif isinstance(value, (dict, list)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from numbers_in(part, (*path, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


@pytest.mark.long
@pytest.mark.parametrize("generation", PREDICTORS)
def test_any_float_in_the_place_of_any_number_is_refused_or_forecasts_numbers(
    folder, candles, generation
):
    content = sound(generation)

    @settings(max_examples=40)
    @given(st.sampled_from(list(numbers_in(content))), st.floats())
    def check(path, value):
        try:
            predictor = open_bundle(folder, generation, changed(content, path, value))
            prediction, history = forecasts(predictor, candles)
        except ValueError as error:
            assert str(error).isprintable()
        else:
            assert_sound(prediction, history)

    check()


# The forecast


@pytest.mark.parametrize("generation", PREDICTORS)
@pytest.mark.parametrize("output", [math.nan, math.inf, -math.inf])
def test_a_network_that_says_no_number_gives_no_forecast(folder, candles, generation, output):
    outputs = [output] * len(OUTPUTS[generation])
    predictor = open_bundle(folder, generation, sound(generation), outputs)
    told = r"no forecast from the candle of 2024-12-\d\dT\d\d:00Z: .*; the model's weights or scal"
    for verb in (predictor.predict, predictor.predict_history):
        with warnings.catch_warnings(), pytest.raises(ValueError, match=told):
            warnings.simplefilter("ignore", UserWarning)  # still warming up
            verb(*candles[: predictor.n_streams])


def test_one_forecast_of_many_that_is_none_is_named_by_its_candle(folder, candles):
    predictor = open_bundle(folder, "v2", sound("v2"))
    frames = [candles[0], candles[0].iloc[:100]]
    said = iter([np.array([0.1, math.nan], dtype=np.float32)])
    predictor._network.run = lambda rows, end: next(said)
    time = frames[1]["timestamp"].iloc[-1]
    with warnings.catch_warnings(), pytest.raises(ValueError, match=f"{time:%Y-%m-%dT%H:%MZ}"):
        warnings.simplefilter("ignore", UserWarning)
        predictor.predict_batch(frames)


def test_quantiles_that_cross_are_none(folder, candles):
    predictor = open_bundle(folder, "v1", sound("v1"), [0.6, 0.1, -0.5])
    with warnings.catch_warnings(), pytest.raises(ValueError, match="q10 is above q50"):
        warnings.simplefilter("ignore", UserWarning)
        predictor.predict(*candles)


def test_intervals_of_three_quantiles_take_a_network_of_three(folder, candles):
    content = sound("v2") | {"intervals": sound("v1")["intervals"]}
    predictor = open_bundle(folder, "v2", content)
    with warnings.catch_warnings(), pytest.raises(ValueError, match=r"forecasts 1 number\(s\)"):
        warnings.simplefilter("ignore", UserWarning)
        predictor.predict(candles[0])


def test_a_direction_that_is_no_probability_gives_no_forecast(folder, candles):
    predictor = open_bundle(folder, "v9", sound("v9"))
    predictor._direction = Stub([1.5])
    with warnings.catch_warnings(), pytest.raises(ValueError, match="direction is no probability"):
        warnings.simplefilter("ignore", UserWarning)
        predictor.predict(candles[0])


@pytest.mark.parametrize("factor", [1e300, 1e-300, 1e150])
@pytest.mark.parametrize("generation", PREDICTORS)
def test_candles_beyond_all_sense_give_numbers_or_one_line(folder, candles, generation, factor):
    predictor = open_bundle(folder, generation, sound(generation))
    prices = ["open", "high", "low", "close"]
    for n in (5, 100):  # from the fifth last candle on, and all that a forecast looks at
        extreme = [
            frame.assign(
                **{name: frame[name].mask(frame.index >= len(frame) - n, factor) for name in prices}
            )
            for frame in candles
        ]
        try:
            prediction, history = forecasts(predictor, extreme)
        except ValueError as error:
            assert str(error).isprintable()
        else:
            assert_sound(prediction, history)
