"""From a trained network to forecasts: baselines, shrinkage, intervals, predictors, ledger."""
