"""Encoders: raw modality and mask -> Features. Every one is ``forward(x, mask) -> Features``."""
from mmlib.encoders.audio import AudioConvEncoder, AudioRecurrentEncoder, LogMel
from mmlib.encoders.image import ConvEncoder, ResNetEncoder, ViTEncoder
from mmlib.encoders.pretrained import TimmEncoder, TorchvisionEncoder, TransformersEncoder, Wav2Vec2Encoder
from mmlib.encoders.text import RecurrentEncoder, TransformerEncoder

__all__ = ["AudioConvEncoder", "AudioRecurrentEncoder", "ConvEncoder", "LogMel", "RecurrentEncoder", "ResNetEncoder", "TimmEncoder",
           "TorchvisionEncoder", "TransformerEncoder", "TransformersEncoder", "ViTEncoder", "Wav2Vec2Encoder"]
