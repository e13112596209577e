"""The other generations: a training script, a predictor and what they alone need, a folder each."""
