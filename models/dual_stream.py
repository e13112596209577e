"""v2's network: an LSTM stream for the trend beside a convolutional stream for local patterns."""

from __future__ import annotations

from collections.abc import Sequence

import keras


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
    """Dual-stream network of the v2 guide: LSTM 64-32 beside Conv1D 32 + LSTM 32, then Dense
    32-16-1.

    Built-in layers only, without slices or raw operations in the graph, so a plain `load_model`
    opens the .h5 file.

    Args:
        lookback: Candles a sample sees.
        n_features: Features a candle.
        lstm_units: Units of each LSTM layer of the trend stream.
        conv_filters: Filters of the pattern stream's convolution, kernel of 3 candles.
        conv_lstm_units: Units of the LSTM behind it.
        dense_units: Units of each dense layer behind both streams.
        dropout: Share of activations dropped in training.
        skip_candles: The forecast has a linear part besides, of so many last candles; 0 for none.

    Returns:
        Uncompiled model, input (batch, lookback, n_features) float32 of standardised features,
        output (batch, 1): the standardised, volatility-scaled log-return.
    """
    window = keras.Input((lookback, n_features), name="window")

    trend = window
    for number, units in enumerate(lstm_units, start=1):
        if number > 1:
            trend = keras.layers.Dropout(dropout)(trend)
        is_last = number == len(lstm_units)
        trend = keras.layers.LSTM(units, return_sequences=not is_last, name=f"trend_lstm_{number}")(
            trend
        )

    # "causal" padding keeps the 60 steps, so that the projected input can be added back: the
    # residual connection
    pattern = keras.layers.Conv1D(
        conv_filters, 3, padding="causal", activation="relu", name="pattern_conv"
    )(window)
    shortcut = keras.layers.Conv1D(conv_filters, 1, name="pattern_shortcut")(window)
    pattern = keras.layers.Add()([pattern, shortcut])
    pattern = keras.layers.BatchNormalization()(pattern)
    pattern = keras.layers.LSTM(conv_lstm_units, name="pattern_lstm")(pattern)

    merged = keras.layers.Concatenate()([trend, pattern])
    merged = keras.layers.Dropout(dropout)(merged)
    hidden = keras.layers.Dense(dense_units[0], activation="relu")(merged)
    for units in dense_units[1:]:
        hidden = keras.layers.Dropout(dropout)(hidden)
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    # zeros at the start: training sets out from the forecast that costs nothing, not from a random
    # one
    forecast = keras.layers.Dense(1, kernel_initializer="zeros", name="forecast")(hidden)
    if skip_candles:
        recent = keras.layers.Flatten()(
            keras.layers.Cropping1D((lookback - skip_candles, 0))(window)
        )
        linear = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="linear")(
            recent
        )
        forecast = keras.layers.Add()([forecast, linear])
    return keras.Model(window, forecast, name="dual_stream")
