"""Building blocks: attention, the transformer, recurrence, convolution.

What lies under a mask never matters to any of them.
"""

from mmlib.layers.attention import Attention, attend, attend_fused, recording
from mmlib.layers.convolution import ConvStack, MaskedGroupNorm
from mmlib.layers.recurrent import Recurrent, VariationalDropout, reverse_within
from mmlib.layers.transformer import Block, Transformer, sine_positions

__all__ = [
    "Attention",
    "Block",
    "ConvStack",
    "MaskedGroupNorm",
    "Recurrent",
    "Transformer",
    "VariationalDropout",
    "attend",
    "attend_fused",
    "recording",
    "reverse_within",
    "sine_positions",
]
