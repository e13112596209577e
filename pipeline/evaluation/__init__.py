"""Numbers about forecasts: metrics, significance, verdicts. Nothing is printed here."""
