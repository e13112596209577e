"""v1's network: an LSTM stream over 1h candles for the trend beside Conv + LSTM over 15m candles
for volatility."""

from __future__ import annotations

from typing import Any

import keras

START_WIDTH = 1.15
"""Distance of q10 and q90 from the median at the start of training, in standard deviations of the
target."""


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
    """Network of the v1 document; with the defaults, 60 x 50 windows and quantiles exactly 59,795
    parameters.

    Built-in layers only, without slices or raw operations in the graph, so a plain `load_model`
    opens the .h5 file. The quantiles are a median and two distances from it that a softplus keeps
    positive, so they cannot cross.

    Args:
        lookback: Candles of each timeframe a sample sees.
        n_features: Features a candle.
        lstm_units: Units of the 1h stream's two LSTM layers.
        conv_filters: Filters of the 15m stream's two convolutions, kernels of 3 candles.
        conv_lstm_units: Units of the two LSTM layers behind them.
        dense_units: Units of the two dense layers behind both streams.
        dropout: Share of activations dropped in training.
        quantiles: Whether to forecast q10, q50, q90, or a single value.

    Returns:
        Uncompiled model, inputs [1h, 15m], each (batch, lookback, n_features) float32 of
        standardised features; output (batch, 3) or (batch, 1): the standardised, volatility-scaled
        log-return.
    """
    hours = keras.Input((lookback, n_features), name="window_1h")
    trend = keras.layers.LSTM(lstm_units[0], return_sequences=True, name="trend_lstm_1")(hours)
    trend = keras.layers.Dropout(dropout)(trend)
    trend = keras.layers.LSTM(lstm_units[1], name="trend_lstm_2")(trend)
    trend = keras.layers.Dropout(dropout)(trend)

    quarters = keras.Input((lookback, n_features), name="window_15m")
    moves = quarters
    for number, filters in enumerate(conv_filters, start=1):
        convolution = keras.layers.Conv1D(
            filters, 3, padding="causal", activation="relu", name=f"conv_{number}"
        )
        moves = convolution(moves)
    moves = keras.layers.LSTM(conv_lstm_units[0], return_sequences=True, name="volatility_lstm_1")(
        moves
    )
    moves = keras.layers.Dropout(dropout)(moves)
    moves = keras.layers.LSTM(conv_lstm_units[1], name="volatility_lstm_2")(moves)
    moves = keras.layers.Dropout(dropout)(moves)

    hidden = keras.layers.Concatenate()([trend, moves])
    for units in dense_units:
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
        hidden = keras.layers.Dropout(dropout)(hidden)
    # zeros at the start: training sets out from the forecast that costs nothing, not from a random
    # one
    median = keras.layers.Dense(
        1, kernel_initializer="zeros", name="q50" if quantiles else "forecast"
    )(hidden)
    if not quantiles:
        return keras.Model([hours, quarters], median, name="dual_timeframe")
    below, above = (_distance(name)(hidden) for name in ("below", "above"))
    q10 = keras.layers.Subtract(name="q10")([median, below])
    q90 = keras.layers.Add(name="q90")([median, above])
    outputs = keras.layers.Concatenate(name="quantiles")([q10, median, q90])
    return keras.Model([hours, quarters], outputs, name="dual_timeframe")


def _distance(name: str) -> keras.layers.Layer:
    """A positive number that starts at `START_WIDTH` whatever the input."""
    start = keras.initializers.Constant(
        float(keras.ops.log(keras.ops.expm1(START_WIDTH)))
    )  # softplus of it
    return keras.layers.Dense(
        1, activation="softplus", kernel_initializer="zeros", bias_initializer=start, name=name
    )


class DualStreamLSTMModel:
    """The v1 document's name for `build_dual_timeframe`:
    `DualStreamLSTMModel(config).build(n_features=50)`."""

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
