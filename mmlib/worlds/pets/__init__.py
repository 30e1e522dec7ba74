"""The pets world: cats and dogs drawn from a few attributes.

Each has a picture, a caption in English and in Chinese, and a voice.

    python -m mmlib.worlds.pets OUT --rows 1200 --seed 0

It is known which modality tells the species in which row, so the best possible accuracy is known,
too: ``best_accuracy(dials, modalities)`` over endless rows, ``ideal_accuracy(world, modalities)``
on the rows drawn. Row i depends only on the seed, the dials and i, not on how many are drawn.
"""

from mmlib.renamed import old_names
from mmlib.worlds.pets.dials import MODALITIES, STRUCTURES, Dials, best_accuracy
from mmlib.worlds.pets.drawing import SIZE
from mmlib.worlds.pets.files import write
from mmlib.worlds.pets.voices import RATE
from mmlib.worlds.pets.world import CLASSES, World, build, chances, draw, ideal_accuracy

__all__ = [
    "CLASSES",
    "Dials",
    "MODALITIES",
    "RATE",
    "SIZE",
    "STRUCTURES",
    "World",
    "best_accuracy",
    "build",
    "chances",
    "draw",
    "ideal_accuracy",
    "write",
]

__getattr__ = old_names(__name__, {"SENSES": "MODALITIES"}, globals())
