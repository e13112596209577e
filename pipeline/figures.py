"""Figures without pyplot: nothing global, so that they work in notebooks, bots and threads."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_AN_INCH = 100
"""on the screen; a notebook gets twice as many, for sharp displays"""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure that a notebook shows when it is the last line of a cell.

    Args:
        width: In inches, as is the height.
    """
    from matplotlib.figure import Figure  # lazy: takes its time, and forecasts draw nothing

    class NotebookFigure(Figure):
        """IPython knows how to show a plain Figure only where somebody has imported pyplot."""

        def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=2 * DOTS_AN_INCH)
            wide, high = (round(DOTS_AN_INCH * inches) for inches in self.get_size_inches())
            return buffer.getvalue(), {"width": wide, "height": high}

    return NotebookFigure(figsize=(width, height), layout="constrained")
