"""v7's network: three bidirectional LSTM layers, and four heads that always make a candle."""

from __future__ import annotations

import keras
from keras import layers

WICK_BIAS = -4.0
"""Where the softplus of the wicks starts: at 0.018 of the training range, not at 0.69 as with 0."""


def build_bilstm_ohlc(
    lookback: int,
    n_features: int,
    *,
    lstm_units: tuple[int, int, int] = (128, 64, 32),
    dense_units: tuple[int, int] = (64, 32),
    dropout: float = 0.2,
) -> keras.Model:
    """Network of the v7 document; with the defaults and 60 x 13 windows 357,348 parameters.

    The document's four heads are Dense 1 each. Here those of high and low are softplus distances to
    the candle's body, so that low <= open, close <= high holds whatever the weights are.

    Args:
        lookback: Candles a sample sees.
        n_features: Features a candle, min-max scaled.
        lstm_units: Units of the three LSTM layers, per direction.
        dense_units: Units of the two dense layers behind them.
        dropout: Share of activations dropped in training, after each LSTM layer.

    Returns:
        Uncompiled model of one input; outputs open, close, high and low, in this order, (batch, 1)
        each: 0 and 1 are the lowest and highest price of the training part.
    """
    window = keras.Input((lookback, n_features), name="window")
    hidden = window
    for number, units in enumerate(lstm_units, start=1):
        # (batch, lookback, 2 units): both directions side by side; after the last one (batch, 64)
        lstm = layers.LSTM(units, return_sequences=number < len(lstm_units))
        hidden = layers.Bidirectional(lstm, name=f"bilstm_{number}")(hidden)
        hidden = layers.Dropout(dropout)(hidden)
    for units in dense_units:
        hidden = layers.Dense(units, activation="relu")(hidden)

    # high = max(open, close) + upper wick, low = min(open, close) - lower wick; all (batch, 1)
    open_ = layers.Dense(1, name="open")(hidden)
    close = layers.Dense(1, name="close")(hidden)
    top = layers.Maximum(name="body_top")([open_, close])
    bottom = layers.Minimum(name="body_bottom")([open_, close])
    high = layers.Add(name="high")([top, _wick(hidden, "upper_wick")])
    low = layers.Subtract(name="low")([bottom, _wick(hidden, "lower_wick")])
    return keras.Model(window, [open_, close, high, low], name="bilstm_ohlc")


def _wick(hidden: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """How far a candle reaches beyond its body, never below 0."""
    start = keras.initializers.Constant(WICK_BIAS)
    return layers.Dense(1, activation="softplus", bias_initializer=start, name=name)(hidden)
