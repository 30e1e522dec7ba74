"""Does fusion help? Every modality alone, pairs, all together, and a verdict."""

from mmlib.report.make import make_report
from mmlib.report.result import Report

__all__ = ["Report", "make_report"]
