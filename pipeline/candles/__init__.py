"""What a candle is, and where candles come from: files, a cache, exchanges, a generator."""
