"""Canvas, colours and styles that all figures share.

Figures are PNGs of matplotlib's Agg canvas (no display) in the colours of Okabe and Ito.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, RED, SKY, PINK, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
GREY = "#8a8a8a"
DOSE_COLOURS = {"control": "#bdbdbd", "low": SKY, "middle": ORANGE, "high": RED}
INJURY_COLOURS = {"no label": "#d9d9d9", "not injured": BLUE, "injured": RED}
DILI_COLOURS = {"no label": "#d9d9d9", "no DILI": BLUE, "DILI": RED}
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.dpi": 150,
}


class FigureError(ValueError):
    """Nothing to draw, or arrays that do not fit together."""


def new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, facecolor="white")


def look_of(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th line of a figure."""
    return {
        "color": CYCLE[i % len(CYCLE)],
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 5,
        "linewidth": 1.5,
    }
