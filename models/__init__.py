"""Keras architectures, a module each; they import `keras` alone, so any backend runs them."""

from models.dual_timeframe import DualStreamLSTMModel as DualStreamLSTMModel
