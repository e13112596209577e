"""v9's direction: will the next candle close higher? And what answers it for nothing or little."""

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
    split = scaled.split
    log_return = scaled.samples.log_return
    parts = {"train": split.train, "val": split.val, "test": split.test}
    moved = {name: part[log_return[part] != 0] for name, part in parts.items()}
    for name, part in moved.items():
        if len(part) == 0:
            raise ValueError(f"the price never moves in the {name} part; are the candles real?")
    rose = (log_return > 0).astype(np.float32)
    return replace(scaled, split=replace(split, **moved), target=rose)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """ln(p / (1 - p)) in float64, within what float32 probabilities can tell apart.

    Example:
        >>> log_odds(np.array([0.5, 0.75])).round(6).tolist()
        [0.0, 1.098612]
    """
    clipped = np.clip(np.asarray(probability, dtype=np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped / (1 - clipped))


def fit_direction_baselines(standardised: ScaledSamples) -> dict[str, np.ndarray]:
    """Fit what the direction network is measured against.

    Args:
        standardised: `direction_samples` of standardised features; the regression sees those of
            candle t, and validation chooses its penalty.

    Returns:
        (n_samples,) probabilities of a rise each: "majority" (share of rises in the training part),
        "last_move" (sign of the last return) and "logistic" (regression).
    """
    samples, rose = standardised.samples, standardised.target
    train, val = standardised.split.train, standardised.split.val
    return {
        "majority": np.full(len(samples), float(rose[train].mean())),
        "last_move": 0.5 + 0.5 * np.sign(samples.current_return),
        "logistic": _fit_logistic(standardised.rows[samples.end], rose, train, val),
    }


def _fit_logistic(
    rows: np.ndarray, rose: np.ndarray, train: np.ndarray, val: np.ndarray
) -> np.ndarray:
    """(n,) probabilities of the penalty with the least log loss in the validation part."""
    from sklearn.linear_model import LogisticRegression  # lazy: only training needs it

    inputs = rows.astype(np.float64)
    best, best_loss = np.full(len(rows), 0.5), np.inf
    if len(np.unique(rose[train])) < 2:
        return best
    for strength in LOGISTIC_STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(inputs[train], rose[train])
        p_up = model.predict_proba(inputs)[:, 1]
        p_true = np.where(rose[val] == 1, p_up[val], 1 - p_up[val])
        loss = -float(np.mean(np.log(p_true)))
        if loss < best_loss:
            best, best_loss = p_up, loss
    return best
