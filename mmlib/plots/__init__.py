"""Figures: numbers and raw samples in, a matplotlib Figure out."""

from mmlib.plots.alt_text import describe, with_alt_text
from mmlib.plots.figures import bars, confusion, robustness, samples
from mmlib.plots.style import COLOURS, panels, save
from mmlib.renamed import old_names

__all__ = [
    "COLOURS",
    "bars",
    "confusion",
    "describe",
    "panels",
    "robustness",
    "samples",
    "save",
    "with_alt_text",
]

__getattr__ = old_names(__name__, {"speaking": "with_alt_text"}, globals())
