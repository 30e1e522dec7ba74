"""The pets world: cats and dogs drawn from a few attributes -> a picture, a caption in English and
in Chinese, a voice.

    python -m mmlib.worlds.pets OUT --rows 1200 --seed 0

Which modality tells the species in which row is known, so the best possible accuracy is known too:
``best_accuracy(dials, modalities)`` over endless rows, ``ideal_accuracy(world, modalities)`` on the
rows drawn. Row i depends on the seed, the dials and i alone, not on how many are drawn.
"""

from mmlib.worlds.pets.dials import MODALITIES, STRUCTURES, Dials, best_accuracy
from mmlib.worlds.pets.drawing import SIZE
from mmlib.worlds.pets.voices import RATE
from mmlib.worlds.pets.world import CLASSES, World, build, chances, draw, ideal_accuracy, write

__all__ = [
    "CLASSES",
    "Dials",
    "RATE",
    "MODALITIES",
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
