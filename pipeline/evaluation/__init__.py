"""Evaluation of forecasts: metrics, significance of differences, and the verdict of a run."""
