"""Keras architectures, one module each; they import `keras` alone, so any of its backends runs them."""

from models.dual_timeframe import DualStreamLSTMModel as DualStreamLSTMModel
