"""Something to doubt about anyone's forecasts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suspicion:
    """Something to doubt."""

    name: str
    says: str
    """a sentence or two, without the full stop at the end"""
    is_grave: bool = True
