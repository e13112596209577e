"""v1-final's network: the training report's LSTM stream beside a convolutional one, for a price."""

from __future__ import annotations

import keras
from keras import layers


def build_price_level(
    lookback: int,
    n_features: int,
    *,
    lstm_units: tuple[int, int, int, int] = (128, 96, 64, 32),
    conv_filters: tuple[int, int] = (64, 48),
    conv_lstm_units: tuple[int, int] = (48, 32),
    dense_units: tuple[int, int, int, int] = (96, 64, 32, 16),
) -> keras.Model:
    """Network of the training report; with the defaults and 60 x 14 windows 271,889 parameters.

    The report's diagram is followed layer by layer, with its shares of dropout. It holds 9 batch
    normalisations, where its text counts 7.

    Args:
        lookback: Candles a sample sees.
        n_features: Features a candle, standardised.
        lstm_units: Units of the price stream's LSTM layers.
        conv_filters: Filters of the pattern stream's convolutions, kernels of 3 candles.
        conv_lstm_units: Units of the LSTM layers behind them.
        dense_units: Units of the dense layers behind both streams.

    Returns:
        Uncompiled model of two inputs that are given the same windows: `model.predict([x, x])`.
        Output (batch, 1): the price, 0 and 1 being the lowest and highest of the symbol's training
        part. It can never leave that range.
    """
    # Price: (batch, lookback, 128), 96, 64, then (batch, 32).
    price_window = keras.Input((lookback, n_features), name="price_window")
    price = price_window
    for units in lstm_units[:-1]:
        price = _normalise(layers.LSTM(units, return_sequences=True)(price), dropout=0.3)
    price = layers.LSTM(lstm_units[-1])(price)
    price = layers.Dropout(0.2)(price)

    # Patterns: (batch, lookback, 64), 48, 48, then (batch, 32).
    pattern_window = keras.Input((lookback, n_features), name="pattern_window")
    pattern = pattern_window
    for filters in conv_filters:
        convolution = layers.Conv1D(filters, 3, padding="causal", activation="relu")
        pattern = _normalise(convolution(pattern), dropout=0.2)
    lstm = layers.LSTM(conv_lstm_units[0], return_sequences=True)
    pattern = _normalise(lstm(pattern), dropout=0.3)
    pattern = layers.LSTM(conv_lstm_units[1])(pattern)
    pattern = layers.Dropout(0.2)(pattern)

    hidden = layers.Concatenate()([price, pattern])  # (batch, 64)
    for units, dropout in zip(dense_units[:-1], (0.3, 0.2, 0.2)):
        hidden = _normalise(layers.Dense(units, activation="relu")(hidden), dropout=dropout)
    hidden = layers.Dense(dense_units[-1], activation="relu")(hidden)
    hidden = layers.Dropout(0.1)(hidden)
    scaled_price = layers.Dense(1, activation="sigmoid", name="scaled_price")(hidden)
    return keras.Model([price_window, pattern_window], scaled_price, name="price_level")


def _normalise(values: keras.KerasTensor, *, dropout: float) -> keras.KerasTensor:
    return layers.Dropout(dropout)(layers.BatchNormalization()(values))
