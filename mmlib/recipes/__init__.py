"""One plain function per task: a Recipe in; a trained model, its data and its scores out.

``load`` brings a saved model back.
"""

from mmlib.recipes.plan import DIM, DROPOUT, FUSIONS, LR, build, plan
from mmlib.recipes.predictor import Predictor
from mmlib.recipes.recipe import Recipe
from mmlib.recipes.saved import load
from mmlib.recipes.train import Run, classify, regress, settings, train

__all__ = [
    "DIM",
    "DROPOUT",
    "FUSIONS",
    "LR",
    "Predictor",
    "Recipe",
    "Run",
    "build",
    "classify",
    "load",
    "plan",
    "regress",
    "settings",
    "train",
]
