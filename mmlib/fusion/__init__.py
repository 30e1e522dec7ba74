"""dict of Features -> Features: sixteen ways to make one representation of several modalities.

Names are sorted inside, so the order of the dict never matters, and no fusion knows any name. What
an absent modality holds cannot change the output. The fusions of ``vectors`` and ``products`` read
``pooled`` and return one token per sample; those of ``tokens`` read all tokens and return many. A
row without any modality comes out absent: mask False, pooled zero.
"""

from mmlib.fusion.products import BilinearFusion, LowRankFusion, ProductFusion, TensorFusion
from mmlib.fusion.tokens import (
    BottleneckFusion,
    CrossFusion,
    CrossmodalFusion,
    FiLMFusion,
    JoinFusion,
    PerceiverFusion,
)
from mmlib.fusion.vectors import (
    AttentionFusion,
    ConcatFusion,
    DeepSetFusion,
    GatedFusion,
    LateFusion,
    SumFusion,
)

__all__ = [
    "ConcatFusion",
    "SumFusion",
    "GatedFusion",
    "AttentionFusion",
    "LowRankFusion",
    "TensorFusion",
    "LateFusion",
    "DeepSetFusion",
    "BilinearFusion",
    "ProductFusion",
    "CrossFusion",
    "JoinFusion",
    "BottleneckFusion",
    "FiLMFusion",
    "PerceiverFusion",
    "CrossmodalFusion",
]
