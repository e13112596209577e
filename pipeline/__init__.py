"""The parts that at least two generations use, in rooms that follow the data (docs/house.md)."""
