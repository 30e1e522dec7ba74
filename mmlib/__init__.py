"""mmlib: models that see, read and hear. The public names, written out; libraries that are slow to import load when first used."""
import os

# Threads that wait should sleep. torch's spin instead, and where another program holds a core, training is ten times slower for it.
# It counts only if torch is not loaded yet; whoever has set it keeps what they set (OMP_WAIT_POLICY=active: spin).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from mmlib.checkpoint import load_weights
from mmlib.core import Batch, Features, Output, check_batch, from_pooled, from_tokens, masked_mean
from mmlib.layers import Attention, Block, Recurrent, Transformer, attend, attend_fused, recording
from mmlib.encoders import (AudioConvEncoder, AudioRecurrentEncoder, ConvEncoder, LogMel, RecurrentEncoder, ResNetEncoder, TimmEncoder,
                            TorchvisionEncoder, TransformerEncoder, TransformersEncoder, ViTEncoder, Wav2Vec2Encoder)
from mmlib.fusion import (AttentionFusion, BilinearFusion, BottleneckFusion, ConcatFusion, CrossFusion, CrossmodalFusion, DeepSetFusion,
                          FiLMFusion, GatedFusion, JoinFusion, LateFusion, LowRankFusion, PerceiverFusion, ProductFusion, SumFusion,
                          TensorFusion)
from mmlib.heads import ClassifyHead, CTCHead, LanguageHead, RegressHead
from mmlib.memory import keep_freed_memory
from mmlib.models import Backbone, Model, TwoTower
from mmlib.data import (Augment, Data, Loader, Manifest, ManifestErrors, Preprocessing, Vocabulary, load_data, read_audio, read_image,
                        read_manifest, tokenize)
from mmlib.train import History, TrainConfig, collect, evaluate, fit
from mmlib.recipes import Predictor, Recipe, Run, classify, load, regress
from mmlib.trace import Trace, trace
from mmlib import leaks, report, robust, tune

__all__ = [
    "Batch", "Features", "Output", "check_batch", "from_pooled", "from_tokens", "masked_mean", "Attention", "Block", "Recurrent",
    "Transformer", "attend", "attend_fused", "recording", "AudioConvEncoder", "AudioRecurrentEncoder", "ConvEncoder", "LogMel",
    "RecurrentEncoder", "ResNetEncoder", "TimmEncoder", "TorchvisionEncoder", "TransformerEncoder", "TransformersEncoder",
    "ViTEncoder", "Wav2Vec2Encoder", "AttentionFusion", "BilinearFusion", "BottleneckFusion", "ConcatFusion", "CrossFusion",
    "CrossmodalFusion", "DeepSetFusion", "FiLMFusion", "GatedFusion", "JoinFusion", "LateFusion", "LowRankFusion",
    "PerceiverFusion", "ProductFusion", "SumFusion", "TensorFusion", "ClassifyHead", "CTCHead", "LanguageHead",
    "RegressHead", "Backbone", "Model", "TwoTower", "Augment", "Data", "Loader", "Manifest", "ManifestErrors", "Preprocessing",
    "Vocabulary", "load_data", "read_audio", "read_image", "read_manifest", "tokenize", "History", "TrainConfig", "collect",
    "evaluate", "fit", "keep_freed_memory", "Predictor", "Recipe", "Run", "classify", "load", "load_weights", "regress",
    "Trace", "trace", "leaks", "report", "robust", "tune",
]
