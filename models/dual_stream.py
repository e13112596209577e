"""v2's network: an LSTM stream for the trend beside a convolutional stream for local patterns."""

from __future__ import annotations

from collections.abc import Sequence

import keras
from keras import layers


def build_dual_stream(
    lookback: int,
    n_features: int,
    *,
    lstm_units: Sequence[int] = (64, 32),
    conv_filters: int = 32,
    conv_lstm_units: int = 32,
    dense_units: Sequence[int] = (32, 16),
    dropout: float = 0.2,
    skip_candles: int = 0,
) -> keras.Model:
    """Network of the v2 guide: LSTM 64-32 beside Conv1D 32 + LSTM 32, then Dense 32-16-1.

    Args:
        lookback: Candles a sample sees.
        n_features: Features a candle, standardised.
        lstm_units: Units of each LSTM layer of the trend stream.
        conv_filters: Filters of the pattern stream's convolution, kernel of 3 candles.
        conv_lstm_units: Units of the LSTM behind it.
        dense_units: Units of each dense layer behind both streams.
        dropout: Share of activations dropped in training.
        skip_candles: The forecast has a linear part besides, of so many last candles; 0 for none.

    Returns:
        Uncompiled model of one input; output (batch, 1): the standardised, volatility-scaled
        log-return.
    """
    window = keras.Input((lookback, n_features), name="window")

    # Trend: (batch, lookback, 64), then the state after the last candle, (batch, 32).
    trend = window
    for number, units in enumerate(lstm_units, start=1):
        if number > 1:
            trend = layers.Dropout(dropout)(trend)
        is_last = number == len(lstm_units)
        lstm = layers.LSTM(units, return_sequences=not is_last, name=f"trend_lstm_{number}")
        trend = lstm(trend)

    # Patterns: (batch, lookback, 32). "causal" padding keeps all steps and never looks ahead, so
    # that the projected input can be added back: the residual connection.
    convolution = layers.Conv1D(
        conv_filters, 3, padding="causal", activation="relu", name="pattern_conv"
    )
    pattern = convolution(window)
    shortcut = layers.Conv1D(conv_filters, 1, name="pattern_shortcut")(window)
    pattern = layers.Add()([pattern, shortcut])
    pattern = layers.BatchNormalization()(pattern)
    pattern = layers.LSTM(conv_lstm_units, name="pattern_lstm")(pattern)  # (batch, 32)

    hidden = layers.Concatenate()([trend, pattern])  # (batch, 64)
    for units in dense_units:
        hidden = layers.Dropout(dropout)(hidden)
        hidden = layers.Dense(units, activation="relu")(hidden)

    # Zeros at the start: training sets out from the naive forecast, not from a random one.
    forecast = layers.Dense(1, kernel_initializer="zeros", name="forecast")(hidden)
    if skip_candles:
        recent = layers.Cropping1D((lookback - skip_candles, 0))(window)
        recent = layers.Flatten()(recent)  # (batch, skip_candles * n_features)
        linear = layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="linear")(recent)
        forecast = layers.Add()([forecast, linear])
    return keras.Model(window, forecast, name="dual_stream")
