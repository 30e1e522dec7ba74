"""The training loop and what it needs: settings, optimizer, evaluation, checkpoints, processes."""

from mmlib.train.checkpoint import load_weights
from mmlib.train.config import TrainConfig
from mmlib.train.evaluate import autocast, collect, evaluate
from mmlib.train.history import History
from mmlib.train.loop import fit
from mmlib.train.optimizer import lr_at

__all__ = [
    "History",
    "TrainConfig",
    "autocast",
    "collect",
    "evaluate",
    "fit",
    "load_weights",
    "lr_at",
]
