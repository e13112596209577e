"""The house's networks in plain PyTorch, as its own users would write them: peers of the training
step.

PyTorch's LSTM has two bias vectors where Keras has one; `count_parameters` leaves the second out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

EPSILON, MOMENTUM = 1e-3, 0.01
"""Of a batch normalisation: Keras' defaults."""


def build_twin(name: str, lookback: int, n_features: int) -> nn.Module:
    """Twin of one of the networks that `benchmarks.bench_gpu` names, (batch, 1) of a window."""
    if name == "v2":
        return DualStream(n_features)
    if name == "pooled":
        return DualStream(
            n_features,
            0.5,
            lstm_units=(16,),
            conv_filters=8,
            conv_lstm_units=8,
            dense_units=(16,),
            skip_candles=6,
        )
    if name == "v1_final":
        return PriceLevel(n_features)
    return Direction(n_features) if name == "v9_direction" else Price(n_features)


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters, the LSTM layers' second bias vectors left out."""
    return sum(p.numel() for name, p in network.named_parameters() if "bias_hh" not in name)


class DualStream(nn.Module):
    """The layers of `models.dual_stream`; (batch, lookback, n_features) -> (batch, 1)."""

    def __init__(
        self,
        n_features: int,
        dropout: float = 0.2,
        *,
        lstm_units: Sequence[int] = (64, 32),
        conv_filters: int = 32,
        conv_lstm_units: int = 32,
        dense_units: Sequence[int] = (32, 16),
        skip_candles: int = 0,
    ) -> None:
        super().__init__()
        widths = (n_features, *lstm_units)
        self.trend = nn.ModuleList(
            nn.LSTM(*pair, batch_first=True) for pair in zip(widths, lstm_units)
        )
        self.conv = nn.Conv1d(n_features, conv_filters, 3)
        self.shortcut = nn.Conv1d(n_features, conv_filters, 1)
        self.norm = nn.BatchNorm1d(conv_filters, EPSILON, MOMENTUM)
        self.pattern = nn.LSTM(conv_filters, conv_lstm_units, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        widths = (lstm_units[-1] + conv_lstm_units, *dense_units)
        dense = (
            nn.Sequential(self.dropout, nn.Linear(*pair), nn.ReLU())
            for pair in zip(widths, dense_units)
        )
        self.dense = nn.Sequential(*dense, nn.Linear(widths[-1], 1))
        self.skip_candles = skip_candles
        self.linear = nn.Linear(skip_candles * n_features, 1, bias=False) if skip_candles else None

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """The forecast of each window."""
        trend = window
        for number, lstm in enumerate(self.trend):
            trend, _ = lstm(self.dropout(trend) if number else trend)
        pattern = _causal(self.conv, window) + _transposed(self.shortcut, window)
        pattern, _ = self.pattern(_transposed(self.norm, pattern))
        forecast = self.dense(torch.cat([trend[:, -1], pattern[:, -1]], dim=1))
        if self.linear is not None:
            forecast = forecast + self.linear(window[:, -self.skip_candles :].flatten(1))
        return forecast


class PriceLevel(nn.Module):
    """The layers of `models.price_level`; (batch, lookback, n_features) -> (batch, 1)."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        units, filters, later = (128, 96, 64, 32), (64, 48), (48, 32)
        widths = (n_features, *units)
        self.price = nn.ModuleList(nn.LSTM(*pair, batch_first=True) for pair in zip(widths, units))
        self.price_norms = nn.ModuleList(_normalised(width, 0.3) for width in units[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(*pair, 3) for pair in zip((n_features, *filters), filters)
        )
        self.conv_norms = nn.ModuleList(_normalised(width, 0.2) for width in filters)
        self.pattern_1 = nn.LSTM(filters[-1], later[0], batch_first=True)
        self.pattern_norm = _normalised(later[0], 0.3)
        self.pattern_2 = nn.LSTM(*later, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        dense, width = [], units[-1] + later[-1]
        for size, share in zip((96, 64, 32), (0.3, 0.2, 0.2)):
            dense += [nn.Linear(width, size), nn.ReLU(), _normalised(size, share)]
            width = size
        dense += [nn.Linear(width, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 1), nn.Sigmoid()]
        self.dense = nn.Sequential(*dense)

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """The scaled price of each window."""
        price, _ = self.price[0](window)
        for norm, lstm in zip(self.price_norms, self.price[1:]):
            price, _ = lstm(_transposed(norm, price))
        pattern = window
        for convolution, norm in zip(self.convolutions, self.conv_norms):
            pattern = _transposed(norm, _causal(convolution, pattern))
        pattern, _ = self.pattern_1(pattern)
        pattern, _ = self.pattern_2(_transposed(self.pattern_norm, pattern))
        last = torch.cat([price[:, -1], pattern[:, -1]], dim=1)
        return self.dense(self.dropout(last))


class Direction(nn.Module):
    """The layers of `models.multitask.build_direction`; (batch, lookback, n_features) -> (batch,
    1)."""

    def __init__(self, n_features: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.first = nn.LSTM(n_features, 128, batch_first=True, bidirectional=True)
        self.second = nn.LSTM(256, 64, batch_first=True, bidirectional=True)
        self.attention = nn.MultiheadAttention(128, 4, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Sequential(
            nn.BatchNorm1d(128, EPSILON, 0.1),
            self.dropout,
            *(nn.Linear(128, 128), nn.ReLU(), self.dropout),
            *(nn.Linear(128, 64), nn.ReLU(), self.dropout),
            *(nn.Linear(64, 1), nn.Sigmoid()),
        )

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """The probability of a rise."""
        steps, _ = self.first(8 * window - 4)
        steps, (last, _) = self.second(self.dropout(steps))
        question = torch.cat([last[0], last[1]], dim=1)[:, None]
        answer, _ = self.attention(question, steps, steps, need_weights=False)
        return self.dense((question + answer)[:, 0])


class Price(nn.Module):
    """The layers of `models.multitask.build_price`; (batch, lookback, n_features) -> (batch, 1)."""

    def __init__(self, n_features: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.first = nn.LSTM(n_features, 256, batch_first=True)
        self.second = nn.LSTM(256, 128, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        dense, width = [], 128
        for size in (256, 128, 64):
            dense += [nn.Linear(width, size), nn.ReLU(), _normalised(size, dropout)]
            width = size
        self.dense = nn.Sequential(*dense, nn.Linear(width, 1))

    def forward(self, window: torch.Tensor) -> torch.Tensor:
        """The forecast of each window."""
        steps, _ = self.first(8 * window - 4)
        steps, _ = self.second(self.dropout(steps))
        return self.dense(self.dropout(steps[:, -1]))


def _normalised(width: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(width, EPSILON, MOMENTUM), nn.Dropout(dropout))


def _transposed(layer: nn.Module, steps: torch.Tensor) -> torch.Tensor:
    """A layer that wants (batch, channels, steps), of (batch, steps, channels)."""
    return layer(steps.transpose(1, 2)).transpose(1, 2)


def _causal(convolution: nn.Conv1d, steps: torch.Tensor) -> torch.Tensor:
    """Rectified convolution of three steps that end with each, (batch, steps, filters)."""
    padded = nn.functional.pad(steps, (0, 0, 2, 0))  # two steps before the first
    return torch.relu(_transposed(convolution, padded))
