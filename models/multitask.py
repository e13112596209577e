"""v9's networks: one for the direction of the next move, one for its size."""

from __future__ import annotations

import keras
from keras import layers

STRETCH = 8.0
"""Inputs of 0 to 1 become -4 to 4, of unit variance if they are bell-shaped; as they come, an
LSTM's first weights make next to nothing of them (docs/log.md)."""


def build_direction(
    lookback: int,
    n_features: int,
    *,
    lstm_units: tuple[int, int] = (128, 64),
    attention_heads: int = 4,
    dense_units: tuple[int, int] = (128, 64),
    dropout: float = 0.3,
) -> keras.Model:
    """Direction network of the v9 document: BiLSTM 128-64, attention with 4 heads, Dense 128-64-1.

    Where the document is silent: the state after the last candle asks, the 60 steps answer, a head
    is as wide as a step divided by the heads, and the answer is added to the question. (Attention
    of every step to every other and their mean, the usual reading, dilutes the newest candle by
    60.)

    Args:
        lookback: Candles a sample sees.
        n_features: Features a candle, min-max scaled.
        lstm_units: Units a direction of the two bidirectional LSTM layers.
        attention_heads: Heads of the attention over their steps.
        dense_units: Units of the dense layers behind it.
        dropout: Share of activations dropped in training.

    Returns:
        Uncompiled model of one input; output (batch, 1): the probability that the next close is
        above this one, in [0, 1], not calibrated.
    """
    window = keras.Input((lookback, n_features), name="window")
    steps = layers.Rescaling(STRETCH, -STRETCH / 2)(window)
    first = layers.LSTM(lstm_units[0], return_sequences=True)
    steps = layers.Bidirectional(first)(steps)  # (batch, lookback, 256)
    steps = layers.Dropout(dropout)(steps)
    second = layers.LSTM(lstm_units[1], return_sequences=True, return_state=True)
    # The steps (batch, lookback, 128), and of each direction the last output and the cell's state.
    steps, forward, _, backward, _ = layers.Bidirectional(second)(steps)

    width = 2 * lstm_units[1]
    last = layers.Concatenate()([forward, backward])
    question = layers.Reshape((1, width))(last)  # (batch, 1, 128)
    attention = layers.MultiHeadAttention(attention_heads, key_dim=max(width // attention_heads, 1))
    answered = layers.Add()([question, attention(question, steps)])
    hidden = layers.Flatten()(answered)  # (batch, 128)
    # What differs between samples is small beside what they share; this makes it the larger part.
    hidden = layers.BatchNormalization(momentum=0.9)(hidden)
    hidden = layers.Dropout(dropout)(hidden)
    for units in dense_units:
        hidden = layers.Dense(units, activation="relu")(hidden)
        hidden = layers.Dropout(dropout)(hidden)

    # Zeros at the start: training sets out from the probability one half.
    head = layers.Dense(1, activation="sigmoid", kernel_initializer="zeros", name="p_up")
    return keras.Model(window, head(hidden), name="direction")


def build_price(
    lookback: int,
    n_features: int,
    *,
    lstm_units: tuple[int, int] = (256, 128),
    dense_units: tuple[int, int, int] = (256, 128, 64),
    dropout: float = 0.3,
) -> keras.Model:
    """Price network of the v9 document: LSTM 256-128, Dense 256-128-64-1 with batch normalisation.

    It forecasts the price through the return. A network that outputs a price cannot follow one that
    leaves the range of its training, and has to reproduce the last price before it can say anything
    about the next.

    Args:
        lookback: Candles a sample sees.
        n_features: Features a candle, min-max scaled.
        lstm_units: Units of the two LSTM layers.
        dense_units: Units of the dense layers behind them, each batch-normalised.
        dropout: Share of activations dropped in training.

    Returns:
        Uncompiled model of one input; output (batch, 1): the standardised, volatility-scaled
        log-return.
    """
    window = keras.Input((lookback, n_features), name="window")
    steps = layers.Rescaling(STRETCH, -STRETCH / 2)(window)
    steps = layers.LSTM(lstm_units[0], return_sequences=True)(steps)  # (batch, lookback, 256)
    steps = layers.Dropout(dropout)(steps)
    hidden = layers.LSTM(lstm_units[1])(steps)  # (batch, 128)
    hidden = layers.Dropout(dropout)(hidden)
    for units in dense_units:
        hidden = layers.Dense(units, activation="relu")(hidden)
        hidden = layers.BatchNormalization()(hidden)
        hidden = layers.Dropout(dropout)(hidden)

    # Zeros at the start: training sets out from the naive forecast.
    forecast = layers.Dense(1, kernel_initializer="zeros", name="forecast")(hidden)
    return keras.Model(window, forecast, name="price")
