"""v1's network: LSTMs over 1h candles for the trend, Conv + LSTM over 15m ones for volatility."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

START_WIDTH = 1.15
"""Distance of q10 and q90 from the median at first, in standard deviations of the target."""


def build_dual_timeframe(
    lookback: int,
    n_features: int,
    *,
    lstm_units: tuple[int, int] = (64, 32),
    conv_filters: tuple[int, int] = (32, 16),
    conv_lstm_units: tuple[int, int] = (32, 16),
    dense_units: tuple[int, int] = (32, 16),
    dropout: float = 0.2,
    quantiles: bool = True,
) -> keras.Model:
    """Network of the v1 document; with the defaults and 60 x 50 windows 59,795 parameters.

    The quantiles are a median and two distances from it that a softplus keeps positive, so they
    cannot cross.

    Args:
        lookback: Candles of each timeframe a sample sees.
        n_features: Features a candle, standardised.
        lstm_units: Units of the 1h stream's two LSTM layers.
        conv_filters: Filters of the 15m stream's two convolutions, kernels of 3 candles.
        conv_lstm_units: Units of the two LSTM layers behind them.
        dense_units: Units of the two dense layers behind both streams.
        dropout: Share of activations dropped in training.
        quantiles: Whether to forecast q10, q50, q90, or a single value.

    Returns:
        Uncompiled model, inputs [1h, 15m]; output (batch, 3) or (batch, 1): the standardised,
        volatility-scaled log-return.
    """
    # Trend of the last 60 hours: (batch, lookback, 64), then (batch, 32).
    hours = keras.Input((lookback, n_features), name="window_1h")
    trend = layers.LSTM(lstm_units[0], return_sequences=True, name="trend_lstm_1")(hours)
    trend = layers.Dropout(dropout)(trend)
    trend = layers.LSTM(lstm_units[1], name="trend_lstm_2")(trend)
    trend = layers.Dropout(dropout)(trend)

    # Moves of the last 60 quarters: (batch, lookback, 32), 16, 32, then (batch, 16).
    quarters = keras.Input((lookback, n_features), name="window_15m")
    moves = quarters
    for number, filters in enumerate(conv_filters, start=1):
        convolution = layers.Conv1D(
            filters, 3, padding="causal", activation="relu", name=f"conv_{number}"
        )
        moves = convolution(moves)
    first = layers.LSTM(conv_lstm_units[0], return_sequences=True, name="volatility_lstm_1")
    moves = layers.Dropout(dropout)(first(moves))
    moves = layers.LSTM(conv_lstm_units[1], name="volatility_lstm_2")(moves)
    moves = layers.Dropout(dropout)(moves)

    hidden = layers.Concatenate()([trend, moves])  # (batch, 48)
    for units in dense_units:
        hidden = layers.Dense(units, activation="relu")(hidden)
        hidden = layers.Dropout(dropout)(hidden)

    # Zeros at the start: training sets out from the naive forecast, not from a random one.
    name = "q50" if quantiles else "forecast"
    median = layers.Dense(1, kernel_initializer="zeros", name=name)(hidden)
    if not quantiles:
        return keras.Model([hours, quarters], median, name="dual_timeframe")
    below = _distance("below")(hidden)
    above = _distance("above")(hidden)
    q10 = layers.Subtract(name="q10")([median, below])
    q90 = layers.Add(name="q90")([median, above])
    outputs = layers.Concatenate(name="quantiles")([q10, median, q90])  # (batch, 3)
    return keras.Model([hours, quarters], outputs, name="dual_timeframe")


def _distance(name: str) -> layers.Layer:
    """A positive number that starts at `START_WIDTH` whatever the input."""
    # softplus(b) = ln(1 + e^b) is START_WIDTH for b = ln(e^START_WIDTH - 1)
    start = keras.initializers.Constant(float(keras.ops.log(keras.ops.expm1(START_WIDTH))))
    return layers.Dense(
        1, activation="softplus", kernel_initializer="zeros", bias_initializer=start, name=name
    )


class DualStreamLSTMModel:
    """The v1 document's name: `DualStreamLSTMModel(config).build(n_features=50)`."""

    def __init__(self, config: Any) -> None:
        """Take the network's settings from a ConfigV1."""
        self.config = config

    def build(self, n_features: int) -> keras.Model:
        """The untrained network for windows of so many features a candle."""
        config = self.config
        return build_dual_timeframe(
            config.lookback,
            n_features,
            lstm_units=config.lstm_units,
            conv_filters=config.conv_filters,
            conv_lstm_units=config.conv_lstm_units,
            dense_units=config.dense_units,
            dropout=config.dropout,
            quantiles=config.quantile_regression,
        )
