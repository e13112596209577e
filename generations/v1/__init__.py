"""v1: quantiles of the next hour from two timeframes."""
