"""What forecasting needs of fitted scikit-learn scalers: their parameters and arithmetic, without
scikit-learn."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class ScalerRecord:
    """What forecasting needs of a fitted StandardScaler: its two parameters and scikit-learn's
    arithmetic.

    For float64 input both methods agree with scikit-learn bit for bit (but for the sign of a zero
    if the scaler does not centre). Other input is taken as float64, where scikit-learn would keep
    float32.

    Attributes:
        mean: (n_features,) float64, in the feature's unit; a single 0.0 if the scaler does not
            centre.
        scale: (n_features,) float64 > 0, in the feature's unit; a single 1.0 if the scaler does not
            scale.

    Raises:
        ValueError: A parameter is not such an array or not finite, or their lengths differ and
            neither is 1.

    Example:
        >>> scaler = ScalerRecord(mean=np.array([10.0, 0.0]), scale=np.array([2.0, 1.0]))
        >>> scaler.transform([[14.0, 3.0]])
        array([[2., 3.]])
        >>> scaler.inverse_transform([[2.0, 3.0]])
        array([[14.,  3.]])
    """

    mean: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        _check_parameters(mean=self.mean, scale=self.scale)
        if self.mean.size != self.scale.size and 1 not in (self.mean.size, self.scale.size):
            raise ValueError(
                f"scaler has {self.mean.size} means, {self.scale.size} scales; fit it again"
            )

    def transform(self, x: ArrayLike) -> np.ndarray:
        """Return (x - mean) / scale, a new array, for `x` (..., n_features); ValueError for another
        width."""
        return (self._check(x) - self.mean) / self.scale

    def inverse_transform(self, x: ArrayLike) -> np.ndarray:
        """Return x * scale + mean, a new array, for `x` (..., n_features); ValueError for another
        width."""
        return self._check(x) * self.scale + self.mean

    def _check(self, x: ArrayLike) -> np.ndarray:
        return _as_float64(x, max(self.mean.size, self.scale.size))


@dataclasses.dataclass(frozen=True, eq=False)
class MinMaxRecord:
    """What forecasting needs of a fitted MinMaxScaler that does not clip: its two parameters and
    arithmetic.

    For float64 input both methods agree with scikit-learn bit for bit; other input is taken as
    float64.

    Attributes:
        min: (n_features,) float64; what a feature of 0 is scaled to.
        scale: (n_features,) float64 > 0; width of the target range over the feature's range in
            training.

    Raises:
        ValueError: A parameter is not such an array or not finite, or their lengths differ.

    Example:
        >>> scaler = MinMaxRecord(min=np.array([-0.5]), scale=np.array([0.25]))  # fitted on 2 to 6
        >>> scaler.transform([[5.0]]), scaler.inverse_transform([[0.75]])
        (array([[0.75]]), array([[5.]]))
    """

    min: np.ndarray
    scale: np.ndarray

    def __post_init__(self) -> None:
        _check_parameters(min=self.min, scale=self.scale)
        if self.min.size != self.scale.size:
            raise ValueError(
                f"scaler has {self.min.size} minima, {self.scale.size} scales; fit it again"
            )

    def transform(self, x: ArrayLike) -> np.ndarray:
        """Return x * scale + min, a new array, for `x` (..., n_features); ValueError for another
        width."""
        return _as_float64(x, self.min.size) * self.scale + self.min

    def inverse_transform(self, x: ArrayLike) -> np.ndarray:
        """Return (x - min) / scale, a new array, for `x` (..., n_features); ValueError for another
        width."""
        return (_as_float64(x, self.min.size) - self.min) / self.scale


def _check_parameters(**arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        if type(array) is not np.ndarray or array.dtype != np.float64 or array.ndim != 1:
            raise ValueError(
                f"scaler's {name} is no one-dimensional float64 array; fit the scaler again"
            )
        if array.size == 0 or not np.isfinite(array).all():
            raise ValueError(
                f"scaler's {name} is empty or not finite; fit the scaler on finite features"
            )
    if (arrays["scale"] <= 0).any():
        raise ValueError(
            f"scaler's scale is {arrays['scale'].min()}, not positive; fit the scaler again"
        )


def _as_float64(x: ArrayLike, width: int) -> np.ndarray:
    array = np.asarray(x, dtype=np.float64)
    # NumPy would broadcast one column over all features without a word. One feature fits any shape.
    if width > 1 and array.shape[-1:] != (width,):
        remedy = "pass one whose last axis is the features it was fitted on"
        raise ValueError(
            f"scaler of {width} features got an array of shape {array.shape}; {remedy}"
        )
    return array
