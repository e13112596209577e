"""From candles to samples: indicators, windows, the split, the scale."""
