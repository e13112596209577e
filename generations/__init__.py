"""The other generations: a training script and a predictor each; `python -m generations.train_v1_final`."""
