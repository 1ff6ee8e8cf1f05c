"""Figures that read at a glance. Every function writes one PNG, without a display."""

from toxfusion.evaluation.figures.canvas import FigureError
from toxfusion.evaluation.figures.compared import comparison, differences
from toxfusion.evaluation.figures.embeddings import embedding_map, umap_points
from toxfusion.evaluation.figures.predicted import risks
from toxfusion.evaluation.figures.probes import few_shot, missing_modality
from toxfusion.evaluation.figures.slides import HEATMAP, scale_bar, slide_attention, tile_map
from toxfusion.evaluation.figures.tested import confusion, curve_headlines, held_out, run_curves

__all__ = [
    "HEATMAP", "FigureError", "comparison", "confusion", "curve_headlines", "differences", "embedding_map", "few_shot",
    "held_out", "missing_modality", "risks", "run_curves", "scale_bar", "slide_attention", "tile_map", "umap_points",
]  # fmt: skip
