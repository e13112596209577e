"""v2's network in plain PyTorch, as its own users would write it: the peer of the training step."""

from __future__ import annotations

import torch
from torch import nn


class DualStream(nn.Module):
    """The layers of `models.dual_stream` at their default sizes; (batch, lookback, n_features) ->
    (batch, 1).

    PyTorch's LSTM has two bias vectors where Keras has one, so `n_parameters` leaves the second
    out.
    """

    def __init__(self, n_features: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.trend_1 = nn.LSTM(n_features, 64, batch_first=True)
        self.trend_2 = nn.LSTM(64, 32, batch_first=True)
        self.conv = nn.Conv1d(n_features, 32, 3)
        self.shortcut = nn.Conv1d(n_features, 32, 1)
        self.norm = nn.BatchNorm1d(32, eps=1e-3, momentum=0.01)  # Keras' defaults
        self.pattern = nn.LSTM(32, 32, batch_first=True)
        self.dense_1, self.dense_2, self.forecast = (
            nn.Linear(64, 32),
            nn.Linear(32, 16),
            nn.Linear(16, 1),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """The forecast of each window."""
        trend, _ = self.trend_1(window)
        _, (trend, _) = self.trend_2(self.dropout(trend))
        steps_last = window.transpose(1, 2)
        padded = nn.functional.pad(steps_last, (2, 0))  # two steps before the first: causal
        pattern = self.norm(torch.relu(self.conv(padded)) + self.shortcut(steps_last))
        _, (pattern, _) = self.pattern(pattern.transpose(1, 2))
        merged = self.dropout(torch.cat([trend[-1], pattern[-1]], dim=1))
        hidden = self.dropout(torch.relu(self.dense_1(merged)))
        return self.forecast(torch.relu(self.dense_2(hidden)))

    def n_parameters(self) -> int:
        """Trainable parameters, the LSTM layers' second bias vectors left out."""
        return sum(p.numel() for name, p in self.named_parameters() if "bias_hh" not in name)
