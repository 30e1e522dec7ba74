"""Encoders: ``forward(x, mask) -> Features``, for a modality's raw tensor and its mask."""

from mmlib.encoders.audio import AudioConvEncoder, AudioRecurrentEncoder, LogMel
from mmlib.encoders.image import ConvEncoder, ResNetEncoder, ViTEncoder
from mmlib.encoders.pretrained.sound import Wav2Vec2Encoder
from mmlib.encoders.pretrained.timm import TimmEncoder
from mmlib.encoders.pretrained.torchvision import TorchvisionEncoder
from mmlib.encoders.pretrained.transformers import TransformersEncoder
from mmlib.encoders.table import TableEncoder
from mmlib.encoders.text import RecurrentEncoder, TransformerEncoder

__all__ = [
    "AudioConvEncoder",
    "AudioRecurrentEncoder",
    "ConvEncoder",
    "LogMel",
    "RecurrentEncoder",
    "ResNetEncoder",
    "TableEncoder",
    "TimmEncoder",
    "TorchvisionEncoder",
    "TransformerEncoder",
    "TransformersEncoder",
    "ViTEncoder",
    "Wav2Vec2Encoder",
]
