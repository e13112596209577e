"""Keras architectures, one module each; they import `keras` alone, so any of its backends runs them."""
