"""Heads: Features and a batch -> Output(logits, loss, count). Only heads read ``target``.

What each takes and gives, by its ``kind``, stands in ``mmlib.core``.
"""

from mmlib.heads.classify import ClassifyHead
from mmlib.heads.ctc import CTCHead
from mmlib.heads.labels import LabelsHead
from mmlib.heads.language import LanguageHead
from mmlib.heads.regress import RegressHead

__all__ = ["CTCHead", "ClassifyHead", "LabelsHead", "LanguageHead", "RegressHead"]
