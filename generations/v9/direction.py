"""v9's direction task: will the next candle close higher? And what answers it for nothing or
little."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.samples.scaling import ScaledSamples

DIRECTION_BASELINES = ("majority", "last_move", "logistic")

LOGISTIC_STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Candidates for the inverse of the penalty, chosen by validation."""


def direction_samples(scaled: ScaledSamples) -> ScaledSamples:
    """The same windows with the direction as target: 1 where the price rises, 0 where it falls.

    Where the price does not move there is no direction: such samples are in no part, so nothing is
    fitted on them, and scores leave them out too.
    """
    samples, split = scaled.samples, scaled.split
    moved = samples.log_return != 0
    parts = {
        name: part[moved[part]]
        for name, part in (("train", split.train), ("val", split.val), ("test", split.test))
    }
    for name, part in parts.items():
        if len(part) == 0:
            raise ValueError(f"the price never moves in the {name} part; are the candles real?")
    return replace(
        scaled, split=replace(split, **parts), target=(samples.log_return > 0).astype(np.float32)
    )


def log_odds(probability: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) in float64, within what float32 probabilities can tell apart.

    Example:
        >>> log_odds(np.array([0.5, 0.75])).round(6).tolist()
        [0.0, 1.098612]
    """
    clipped = np.clip(np.asarray(probability, dtype=np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped / (1 - clipped))


def fit_direction_baselines(standardised: ScaledSamples) -> dict[str, np.ndarray]:
    """Probabilities of a rise, (n_samples,) each: the training part's share, the last move's sign,
    logistic regression.

    Args:
        standardised: `direction_samples` of standardised features; the regression sees those of
            candle t, and validation chooses its penalty.
    """
    from sklearn.linear_model import LogisticRegression  # lazy: only training needs it

    samples, split, rose = standardised.samples, standardised.split, standardised.target
    inputs = standardised.rows[samples.end].astype(np.float64)
    best, best_loss = np.full(len(samples), 0.5), np.inf
    for strength in LOGISTIC_STRENGTHS if len(np.unique(rose[split.train])) == 2 else ():
        model = LogisticRegression(C=strength, max_iter=1000).fit(
            inputs[split.train], rose[split.train]
        )
        p_up = model.predict_proba(inputs)[:, 1]
        loss = -float(
            np.mean(np.log(np.where(rose[split.val] == 1, p_up[split.val], 1 - p_up[split.val])))
        )
        if loss < best_loss:
            best, best_loss = p_up, loss
    return {
        "majority": np.full(len(samples), float(rose[split.train].mean())),
        "last_move": 0.5 + 0.5 * np.sign(samples.current_return),
        "logistic": best,
    }
