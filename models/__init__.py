"""Keras architectures, a module each; they import `keras` alone, so any backend runs them.

Each builder returns an uncompiled model of built-in layers, without slices or raw operations in the
graph, so that a plain `load_model` opens its .h5 file anywhere. LSTM layers keep their default
activations, so that cuDNN runs them on a GPU. An input is (batch, lookback, n_features) float32:
`lookback` candles that a sample sees, `n_features` numbers a candle.
"""

from models.dual_timeframe import DualStreamLSTMModel as DualStreamLSTMModel
