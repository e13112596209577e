"""v2's network: an LSTM stream for the trend beside a convolutional stream for local patterns."""

from __future__ import annotations

import keras


def build_dual_stream(
    lookback: int,
    n_features: int,
    *,
    lstm_units: tuple[int, int] = (64, 32),
    conv_filters: int = 32,
    conv_lstm_units: int = 32,
    dense_units: tuple[int, int] = (32, 16),
    dropout: float = 0.2,
) -> keras.Model:
    """Dual-stream network of the v2 guide: LSTM 64-32 beside Conv1D 32 + LSTM 32, then Dense 32-16-1.

    Built-in layers only, without slices or raw operations in the graph, so a plain `load_model` opens the .h5 file.

    Args:
        lookback: Candles a sample sees.
        n_features: Features a candle.
        lstm_units: Units of the trend stream's two LSTM layers.
        conv_filters: Filters of the pattern stream's convolution, kernel of 3 candles.
        conv_lstm_units: Units of the LSTM behind it.
        dense_units: Units of the two dense layers behind both streams.
        dropout: Share of activations dropped in training.

    Returns:
        Uncompiled model, input (batch, lookback, n_features) float32 of standardised features, output (batch, 1): the
        standardised, volatility-scaled log-return.
    """
    window = keras.Input((lookback, n_features), name="window")

    trend = keras.layers.LSTM(lstm_units[0], return_sequences=True, name="trend_lstm_1")(window)
    trend = keras.layers.Dropout(dropout)(trend)
    trend = keras.layers.LSTM(lstm_units[1], name="trend_lstm_2")(trend)

    # "causal" padding keeps the 60 steps, so that the projected input can be added back: the residual connection
    pattern = keras.layers.Conv1D(conv_filters, 3, padding="causal", activation="relu", name="pattern_conv")(window)
    shortcut = keras.layers.Conv1D(conv_filters, 1, name="pattern_shortcut")(window)
    pattern = keras.layers.Add()([pattern, shortcut])
    pattern = keras.layers.BatchNormalization()(pattern)
    pattern = keras.layers.LSTM(conv_lstm_units, name="pattern_lstm")(pattern)

    merged = keras.layers.Concatenate()([trend, pattern])
    merged = keras.layers.Dropout(dropout)(merged)
    hidden = keras.layers.Dense(dense_units[0], activation="relu")(merged)
    hidden = keras.layers.Dropout(dropout)(hidden)
    hidden = keras.layers.Dense(dense_units[1], activation="relu")(hidden)
    # zeros at the start: training sets out from the forecast that costs nothing, not from a random one
    forecast = keras.layers.Dense(1, kernel_initializer="zeros", name="forecast")(hidden)
    return keras.Model(window, forecast, name="dual_stream")
