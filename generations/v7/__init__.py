"""v7: a network per coin and timeframe for the next candle's four prices."""
