"""How much the price will move over the next day: a HAR model, and trees that correct it.

Variances are sums of squared log-returns over the horizon. The HAR model is linear in logarithms
and sees no hour, no ranges and no volume; gradient-boosted trees on the whole window forecast the
ratio of what comes to what it says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from config import ConfigV9
from pipeline.bundle.metadata import shown
from pipeline.bundle.snapshot import read_network
from pipeline.forecasts.fitted import FittedNumbers
from pipeline.samples.indicators import NamedColumns, by_segment, log_returns
from pipeline.samples.splitting import Split, cut_at
from pipeline.samples.windows import Samples, window_view

if TYPE_CHECKING:
    from typing_extensions import Self

HAR_WINDOWS = (1, 7, 30)
"""Horizons that the HAR model looks back: with 24 hourly candles the last day, week and month."""
MIN_VARIANCE = 1e-9
"""of a horizon; a price that stands still is taken to move so much (0.003 %)"""
MOST_WINDOWS = 40_000
"""windows the trees are fitted on, flattened 442 MB; of more a random sample"""
PREDICT_BATCH = 1024
"""windows flattened at a time when forecasting"""


@dataclass(frozen=True)
class HarModel(FittedNumbers):
    """ln variance = intercept + sum of coefficient x ln(mean square of the last k horizons)."""

    what: ClassVar[str] = "HAR model:"

    intercept: float
    coefficients: list[float]
    """one per `HAR_WINDOWS`"""

    @classmethod
    def from_dict(cls, numbers: Mapping[str, Any]) -> Self:
        """Read what `as_dict` wrote; a ValueError names what is missing or out of its range."""
        model = super().from_dict(numbers)
        if len(model.coefficients) != len(HAR_WINDOWS):
            raise ValueError(
                f"HAR model: {shown(numbers)} are not its numbers; train the model again"
            )
        return model

    def variance(self, inputs: np.ndarray) -> np.ndarray:
        """(n,) variance over the horizon from (n, 3) rows of `har_inputs`."""
        log_variance = np.full(len(inputs), self.intercept)
        # Column by column: BLAS would sum one row in another order than many.
        for column, coefficient in enumerate(self.coefficients):
            log_variance += coefficient * inputs[:, column]
        return np.exp(log_variance)


def realised_variance(candles: Mapping[str, pd.DataFrame], samples: Samples) -> np.ndarray:
    """(n_samples,) sum of the squared log-returns of the `horizon` candles after t.

    It is at least `MIN_VARIANCE`, so that every logarithm is finite. Andersen and Bollerslev
    (1998), Answering the Skeptics: Yes, Standard Volatility Models Do Provide Accurate Forecasts,
    International Economic Review 39(4): what a volatility forecast is measured by.

    Args:
        candles: Symbol -> the candles that the samples were made of.
        samples: Samples of them; each has `horizon` candles after t without a gap.
    """
    horizon = samples.horizon
    ahead = []
    for frame in candles.values():
        squares = np.square(log_returns(frame["close"].to_numpy(np.float64)))
        sums = np.full(len(squares), np.nan)
        if len(squares) > horizon:
            next_squares = np.lib.stride_tricks.sliding_window_view(squares[1:], horizon)
            sums[:-horizon] = next_squares.sum(axis=1)
        ahead.append(sums)
    return np.maximum(np.concatenate(ahead)[samples.end], MIN_VARIANCE)


def har_inputs(candles: pd.DataFrame, timeframe: str, horizon: int) -> np.ndarray:
    """What the HAR model sees of one symbol's candles; row t looks at candles up to t only.

    Args:
        candles: n candles in the schema of `pipeline.candles.schema`.
        timeframe: Length of a candle.
        horizon: Candles that the forecast spans.

    Returns:
        (n, 3) float64: ln of the mean squared log-return of the last `HAR_WINDOWS` horizons times
        the horizon. Means start afresh after every long gap and take what there is; NaN in a
        segment's first row.
    """

    names = [f"last_{window}" for window in HAR_WINDOWS]

    def log_variances(close: np.ndarray) -> NamedColumns:
        squares = pd.Series(np.square(log_returns(close)))
        for name, window in zip(names, HAR_WINDOWS):
            mean = squares.rolling(window * horizon, min_periods=1).mean().to_numpy()
            yield name, np.log(np.maximum(horizon * mean, MIN_VARIANCE))

    return by_segment(log_variances, candles, timeframe, ["close"], names).T


def sample_har_inputs(
    candles: Mapping[str, pd.DataFrame], samples: Samples, horizon: int
) -> np.ndarray:
    """(n_samples, 3) rows of `har_inputs` at each sample's candle t."""
    rows = [har_inputs(frame, samples.timeframe, horizon) for frame in candles.values()]
    return np.concatenate(rows)[samples.end]


def fit_har(inputs: np.ndarray, variance: np.ndarray, train: np.ndarray) -> HarModel:
    """Fit a HAR model in logarithms by least squares on the training part, all symbols pooled.

    Corsi (2009), A Simple Approximate Long-Memory Model of Realized Volatility, J. Financial
    Econometrics 7(2). The exponential of a mean logarithm is too small a variance; the mean of
    variance / forecast in the training part corrects it (Duan, 1983, Smearing Estimate, JASA
    78(383)), and is the factor that makes QLIKE smallest.

    Args:
        inputs: (n_samples, 3) rows of `har_inputs`.
        variance: (n_samples,) `realised_variance`.
        train: Indices of the training samples.
    """
    design = np.column_stack([np.ones(len(train)), inputs[train]])
    intercept, *coefficients = np.linalg.lstsq(design, np.log(variance[train]), rcond=None)[0]
    biased = HarModel(float(intercept), [float(value) for value in coefficients])
    smearing = np.mean(variance[train] / biased.variance(inputs[train]))
    return HarModel(biased.intercept + float(np.log(smearing)), biased.coefficients)


@dataclass(frozen=True, eq=False)
class VolatilitySamples:
    """Samples of the volatility model: the windows of the others, a target that reaches further."""

    samples: Samples
    split: Split
    """at the instants of the other models' split, purged of targets that reach across one"""
    variance: np.ndarray
    """(n_samples,) realised over the horizon"""
    har: HarModel
    ratio: np.ndarray
    """(n_samples,) realised variance over the HAR model's, the trees' target"""


def volatility_samples(
    candles: Mapping[str, pd.DataFrame], samples: Samples, split: Split
) -> VolatilitySamples:
    """Targets and the HAR model of the volatility, fitted on the training part.

    Args:
        candles: Symbol -> the candles that the samples were made of.
        samples: Samples with the volatility's horizon.
        split: Split of the other models, whose instants are kept.
    """
    cuts = (split.train_end, split.val_end, split.test_start, split.test_end)
    own = cut_at(samples.target_time, *cuts, samples.target_span)
    variance = realised_variance(candles, samples)
    inputs = sample_har_inputs(candles, samples, samples.horizon)
    har = fit_har(inputs, variance, own.train)
    return VolatilitySamples(samples, own, variance, har, variance / har.variance(inputs))


def fit_trees(rows: np.ndarray, volatility: VolatilitySamples, config: ConfigV9, path: Path) -> int:
    """Fit gradient-boosted trees on flattened windows and save them; returns how many are kept.

    The loss is the Gamma deviance with a logarithmic link, which is QLIKE. Every tree sees half of
    the samples and a tenth of the inputs, and a leaf weighs 200 samples, about eight days of hourly
    targets that do not overlap: targets of 24 hours share 23 of them with the next one, so smaller
    leaves learn single days by heart (docs/log.md).

    Args:
        rows: (n_candles, n_features) float32, scaled.
        volatility: Samples, and the target; validation decides how many trees are kept.
        config: Number, depth and step size of the trees; seed of what each of them sees.
        path: Where the model goes, in XGBoost's JSON: input (n, lookback x n_features), output (n,)
            ratios.
    """
    import xgboost

    samples = volatility.samples
    train, val = volatility.split.train, volatility.split.val
    if len(train) > MOST_WINDOWS:
        random = np.random.default_rng(config.seed)
        train = np.sort(random.choice(train, MOST_WINDOWS, replace=False))
    model = xgboost.XGBRegressor(
        objective="reg:gamma",
        eval_metric="gamma-deviance",
        n_estimators=config.trees,
        max_depth=config.tree_depth,
        learning_rate=config.tree_learning_rate,
        subsample=0.5,
        colsample_bytree=0.1,
        min_child_weight=200,
        max_bin=64,
        random_state=config.seed,
        callbacks=[xgboost.callback.EarlyStopping(rounds=40, save_best=True)],
    )
    known, unknown = (
        (flatten_windows(rows, samples.end[part], samples.lookback), volatility.ratio[part])
        for part in (train, val)
    )
    model.fit(*known, eval_set=[unknown], verbose=False)
    model.save_model(path)
    return int(model.get_booster().num_boosted_rounds())


def flatten_windows(rows: np.ndarray, end: np.ndarray, lookback: int) -> np.ndarray:
    """(n, lookback * n_features) float32: windows that end with given rows, candle after candle.

    Example:
        >>> flatten_windows(np.arange(6.0).reshape(3, 2), np.array([1, 2]), 2)
        array([[0., 1., 2., 3.],
               [2., 3., 4., 5.]])
    """
    return window_view(rows, lookback)[end - lookback + 1].reshape(len(end), -1)


class TreeModel:
    """The saved trees, opened without scikit-learn; XGBoost is imported when one is opened."""

    def __init__(
        self, path: Path, *, input_shape: tuple[int, int], content: bytes | None = None
    ) -> None:
        """Open the file.

        Args:
            path: JSON file of `fit_trees`.
            input_shape: (lookback, n_features) the scaler file promises.
            content: Its bytes, if they have been read.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is damaged, or takes another number of inputs.
        """
        if content is None:
            content = read_network(path)
        import xgboost

        try:
            if not content.startswith(b"{"):  # XGBoost would try its other formats
                raise xgboost.core.XGBoostError("not JSON")
            self._booster = xgboost.Booster(model_file=bytearray(content))
        except xgboost.core.XGBoostError as error:
            raise ValueError(
                f"{path}: no model of XGBoost that can be read; copy it again or train again"
            ) from error
        self._lookback, n_features = input_shape
        n_inputs = self._booster.num_features()
        promised = self._lookback * n_features
        if n_inputs != promised:
            raise ValueError(
                f"{path}: takes {n_inputs} inputs, the scaler file says {promised}; wrong file?"
            )

    def run(self, rows: np.ndarray, end: np.ndarray) -> np.ndarray:
        """(n,) float64 ratios for the windows that end with given rows.

        Args:
            rows: (n_candles, n_features) float32, scaled.
            end: (n,) the last row of each window.
        """
        outputs = []
        for first in range(0, len(end), PREDICT_BATCH):
            part = end[first : first + PREDICT_BATCH]
            windows = flatten_windows(rows, part, self._lookback)
            outputs.append(self._booster.inplace_predict(windows))
        return np.concatenate(outputs).astype(np.float64)
