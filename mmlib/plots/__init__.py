"""Figures: numbers and raw samples in, a matplotlib Figure out."""

from mmlib.plots.alt_text import describe, speaking
from mmlib.plots.figures import bars, confusion, robustness, samples
from mmlib.plots.style import COLOURS, panels, save

__all__ = [
    "COLOURS",
    "bars",
    "confusion",
    "describe",
    "panels",
    "robustness",
    "samples",
    "save",
    "speaking",
]
