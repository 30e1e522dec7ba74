"""Files on disk -> batches.

A manifest is read, checked and split; images, texts and audio become tensors.
"""

from mmlib.data.audio import read_audio
from mmlib.data.augment import Augment
from mmlib.data.image import choose_size, read_image
from mmlib.data.load import Data, load_data
from mmlib.data.loaders import Loader
from mmlib.data.manifest import Manifest, read_manifest
from mmlib.data.preprocessing import Preprocessing
from mmlib.data.problems import ManifestErrors, Problem
from mmlib.data.sources import write_dataset
from mmlib.data.stream import ShardLoader, Shards, write_shards
from mmlib.data.targets import Target, read_target
from mmlib.data.text import Vocabulary, tokenize

__all__ = [
    "Augment",
    "Data",
    "Loader",
    "Manifest",
    "ManifestErrors",
    "Preprocessing",
    "Problem",
    "ShardLoader",
    "Shards",
    "Target",
    "Vocabulary",
    "choose_size",
    "load_data",
    "read_audio",
    "read_image",
    "read_manifest",
    "read_target",
    "tokenize",
    "write_dataset",
    "write_shards",
]
