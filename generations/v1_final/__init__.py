"""v1-final: the training report's network of the next price."""
