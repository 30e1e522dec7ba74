"""mmlib: models that see, read and hear. ``help(mmlib.NAME)`` tells all about one name.

The contract
    Batch               a flat dict of tensors, with a mask beside every modality
    Features            what encoders and fusions return: tokens, mask, pooled
    Output              what heads return: logits, loss, count
    check_batch         refuse a batch that breaks the contract, naming key and sample
    from_pooled         Features of one vector per sample
    from_tokens         Features of a sequence
    masked_mean         the mean over the real tokens

Layers
    Attention           multi-head attention, fused, or written out to see its weights
    Block               a pre-norm transformer block
    Recurrent           a bidirectional recurrent stack whose padding never matters
    Transformer         a stack of blocks
    attend              scaled dot-product attention, written out
    attend_fused        the same from PyTorch's fused kernel
    recording           inside this block attention keeps its weights

Encoders: forward(x, mask) -> Features
    ConvEncoder, ResNetEncoder, ViTEncoder                       images
    RecurrentEncoder, TransformerEncoder                         text
    TableEncoder                                                 numbers and categories
    LogMel, AudioConvEncoder, AudioRecurrentEncoder              audio
    TorchvisionEncoder, TimmEncoder, TransformersEncoder, Wav2Vec2Encoder    networks of others

Fusions: forward(dict of Features) -> Features; ``python -m mmlib fusions`` compares them
    ConcatFusion, SumFusion, GatedFusion, AttentionFusion, LateFusion, DeepSetFusion
    LowRankFusion, TensorFusion, BilinearFusion, ProductFusion
    CrossFusion, JoinFusion, BottleneckFusion, FiLMFusion, PerceiverFusion, CrossmodalFusion

Heads: forward(features, batch) -> Output
    ClassifyHead        one of K classes
    LabelsHead          any of K labels
    RegressHead         a number
    LanguageHead        the next word
    CTCHead             a line of text

Models
    Backbone            encoders and a fusion
    Model               a backbone and a head
    TwoTower            two backbones whose vectors are compared

Data
    Augment             random changes that keep the answer
    Data                what load_data returns
    Loader              batches in an order that depends only on seed and epoch
    Manifest            a checked table of samples
    ManifestErrors      all that is wrong with the files of a manifest, in one error
    Preprocessing       what was fitted on the training rows; raw samples -> batches
    Vocabulary          words and their ids
    load_data           a manifest -> loaders and preprocessing
    read_audio          any audio file -> waveform at 16 kHz
    read_image          any image file -> square uint8 tensor
    read_manifest       CSV or DataFrame -> Manifest
    tokenize            text -> words and characters

Training
    History             a row per epoch
    TrainConfig         how to train
    collect             a model's logits over a whole loader
    evaluate            a model's loss and metrics over a whole loader
    fit                 the training loop
    keep_freed_memory   faster training on Linux CPUs
    load_weights        the weights of a run into a model of your own

Recipes: from files to a trained model in one call
    Predictor           a trained model that answers
    Recipe              what to train on and how
    Run                 what training returns
    classify            train a classifier
    export              a model as an ONNX file, checked against torch
    load                a trained model from its folder
    regress             train a model that predicts a number

Judging
    Trace, trace        shapes, parameters, FLOPs of every stage
    leaks               is the answer in the question? ``leaks.find``
    metrics             scores over a whole set
    plots               figures of data and results
    report              does fusion help? ``report.make_report``
    robust              accuracy against noise and missing modalities: ``robust.curves``
    tune                which settings? ``tune.search``
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Public names load when they are first used (PEP 562): `import mmlib` and `mmlib --help` then
# need no torch. Type checkers read the imports below; a test holds the two lists together.
_HOMES = {
    "mmlib.core": "Batch Features Output check_batch from_pooled from_tokens masked_mean",
    "mmlib.layers": "Attention Block Recurrent Transformer attend attend_fused recording",
    "mmlib.encoders": "AudioConvEncoder AudioRecurrentEncoder ConvEncoder LogMel RecurrentEncoder "
    "ResNetEncoder TableEncoder TimmEncoder TorchvisionEncoder TransformerEncoder "
    "TransformersEncoder ViTEncoder Wav2Vec2Encoder",
    "mmlib.fusion": "AttentionFusion BilinearFusion BottleneckFusion ConcatFusion CrossFusion "
    "CrossmodalFusion DeepSetFusion FiLMFusion GatedFusion JoinFusion LateFusion LowRankFusion "
    "PerceiverFusion ProductFusion SumFusion TensorFusion",
    "mmlib.heads": "CTCHead ClassifyHead LabelsHead LanguageHead RegressHead",
    "mmlib.machine": "keep_freed_memory",
    "mmlib.models": "Backbone Model TwoTower",
    "mmlib.data": "Augment Data Loader Manifest ManifestErrors Preprocessing Vocabulary load_data "
    "read_audio read_image read_manifest tokenize",
    "mmlib.train": "History TrainConfig collect evaluate fit load_weights",
    "mmlib.recipes": "Predictor Recipe Run classify load regress",
    "mmlib.recipes.export": "export",
    "mmlib.tracing": "Trace trace",
}
_MODULES = {
    "leaks": "mmlib.leaks",
    "metrics": "mmlib.metrics",
    "plots": "mmlib.plots",
    "report": "mmlib.report",
    "robust": "mmlib.trust.robust",
    "tune": "mmlib.tune",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

if TYPE_CHECKING:
    from mmlib import leaks as leaks
    from mmlib import metrics as metrics
    from mmlib import plots as plots
    from mmlib import report as report
    from mmlib import tune as tune
    from mmlib.core import Batch as Batch
    from mmlib.core import Features as Features
    from mmlib.core import Output as Output
    from mmlib.core import check_batch as check_batch
    from mmlib.core import from_pooled as from_pooled
    from mmlib.core import from_tokens as from_tokens
    from mmlib.core import masked_mean as masked_mean
    from mmlib.data import Augment as Augment
    from mmlib.data import Data as Data
    from mmlib.data import Loader as Loader
    from mmlib.data import Manifest as Manifest
    from mmlib.data import ManifestErrors as ManifestErrors
    from mmlib.data import Preprocessing as Preprocessing
    from mmlib.data import Vocabulary as Vocabulary
    from mmlib.data import load_data as load_data
    from mmlib.data import read_audio as read_audio
    from mmlib.data import read_image as read_image
    from mmlib.data import read_manifest as read_manifest
    from mmlib.data import tokenize as tokenize
    from mmlib.encoders import AudioConvEncoder as AudioConvEncoder
    from mmlib.encoders import AudioRecurrentEncoder as AudioRecurrentEncoder
    from mmlib.encoders import ConvEncoder as ConvEncoder
    from mmlib.encoders import LogMel as LogMel
    from mmlib.encoders import RecurrentEncoder as RecurrentEncoder
    from mmlib.encoders import ResNetEncoder as ResNetEncoder
    from mmlib.encoders import TableEncoder as TableEncoder
    from mmlib.encoders import TimmEncoder as TimmEncoder
    from mmlib.encoders import TorchvisionEncoder as TorchvisionEncoder
    from mmlib.encoders import TransformerEncoder as TransformerEncoder
    from mmlib.encoders import TransformersEncoder as TransformersEncoder
    from mmlib.encoders import ViTEncoder as ViTEncoder
    from mmlib.encoders import Wav2Vec2Encoder as Wav2Vec2Encoder
    from mmlib.fusion import AttentionFusion as AttentionFusion
    from mmlib.fusion import BilinearFusion as BilinearFusion
    from mmlib.fusion import BottleneckFusion as BottleneckFusion
    from mmlib.fusion import ConcatFusion as ConcatFusion
    from mmlib.fusion import CrossFusion as CrossFusion
    from mmlib.fusion import CrossmodalFusion as CrossmodalFusion
    from mmlib.fusion import DeepSetFusion as DeepSetFusion
    from mmlib.fusion import FiLMFusion as FiLMFusion
    from mmlib.fusion import GatedFusion as GatedFusion
    from mmlib.fusion import JoinFusion as JoinFusion
    from mmlib.fusion import LateFusion as LateFusion
    from mmlib.fusion import LowRankFusion as LowRankFusion
    from mmlib.fusion import PerceiverFusion as PerceiverFusion
    from mmlib.fusion import ProductFusion as ProductFusion
    from mmlib.fusion import SumFusion as SumFusion
    from mmlib.fusion import TensorFusion as TensorFusion
    from mmlib.heads import ClassifyHead as ClassifyHead
    from mmlib.heads import CTCHead as CTCHead
    from mmlib.heads import LabelsHead as LabelsHead
    from mmlib.heads import LanguageHead as LanguageHead
    from mmlib.heads import RegressHead as RegressHead
    from mmlib.layers import Attention as Attention
    from mmlib.layers import Block as Block
    from mmlib.layers import Recurrent as Recurrent
    from mmlib.layers import Transformer as Transformer
    from mmlib.layers import attend as attend
    from mmlib.layers import attend_fused as attend_fused
    from mmlib.layers import recording as recording
    from mmlib.machine import keep_freed_memory as keep_freed_memory
    from mmlib.models import Backbone as Backbone
    from mmlib.models import Model as Model
    from mmlib.models import TwoTower as TwoTower
    from mmlib.recipes import Predictor as Predictor
    from mmlib.recipes import Recipe as Recipe
    from mmlib.recipes import Run as Run
    from mmlib.recipes import classify as classify
    from mmlib.recipes import load as load
    from mmlib.recipes import regress as regress
    from mmlib.recipes.export import export as export
    from mmlib.tracing import Trace as Trace
    from mmlib.tracing import trace as trace
    from mmlib.train import History as History
    from mmlib.train import TrainConfig as TrainConfig
    from mmlib.train import collect as collect
    from mmlib.train import evaluate as evaluate
    from mmlib.train import fit as fit
    from mmlib.train import load_weights as load_weights
    from mmlib.trust import robust as robust
else:

    def __getattr__(name: str) -> object:
        if name in _MODULES:
            found = import_module(_MODULES[name])
        elif name in _HOME:
            found = getattr(import_module(_HOME[name]), name)
        else:
            raise AttributeError(f"module 'mmlib' has no attribute {name!r}")
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted([*_HOME, *_MODULES, "__version__"])
