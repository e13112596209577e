"""v9: three models for direction, volatility and price."""
