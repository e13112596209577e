"""From a trained network to forecasts: baselines, shrinkage, intervals, the predictors, the
ledger."""
