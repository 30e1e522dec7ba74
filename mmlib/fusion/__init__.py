"""dict of Features -> Features: sixteen ways to make one representation of several modalities.

Names are sorted inside, so the order of the dict never matters; no fusion knows any name. What an
absent modality holds cannot change the output. The late ones see ``pooled`` and return one token
per sample; the early ones see ``tokens`` and return many. A row without any modality comes out
absent: mask False, pooled zero.
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
