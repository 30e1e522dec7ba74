"""Encoders: raw modality and mask -> Features. Every one is ``forward(x, mask) -> Features``."""
from mmlib.encoders.audio import AudioConvEncoder, AudioRecurrentEncoder, LogMel
from mmlib.encoders.image import ConvEncoder, ResNetEncoder, ViTEncoder
from mmlib.encoders.text import RecurrentEncoder, TransformerEncoder

__all__ = ["AudioConvEncoder", "AudioRecurrentEncoder", "ConvEncoder", "LogMel", "RecurrentEncoder", "ResNetEncoder", "TransformerEncoder",
           "ViTEncoder"]
