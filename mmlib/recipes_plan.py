"""From the data to a model: ``plan`` decides on sizes, in plain numbers that a checkpoint can hold; ``build`` makes the model."""
import math
from collections.abc import Sequence
from typing import Any

import torch

from mmlib import fusion as fusions
from mmlib.data import Data
from mmlib.data.audio import RATE, WINDOW
from mmlib.encoders import AudioConvEncoder, ConvEncoder, RecurrentEncoder
from mmlib.heads import ClassifyHead, RegressHead
from mmlib.models import Backbone, Model

FUSIONS = {name.removesuffix("Fusion").lower(): getattr(fusions, name) for name in fusions.__all__}
DIM, DROPOUT, LR = 64, 0.1, 2e-3
WIDTHS = {32: 32, 64: 16, 96: 12, 128: 8}  # channels of the first convolution by picture size
BUDGET, MOST_EPOCHS = 7.5e11, 60            # multiplications of all forward passes of a training


def plan(data: Data, fusion: str = "sum", dim: int = DIM, lr: float = LR, dropout: float = DROPOUT, budget: float = 1.0) -> dict[str, Any]:
    """The size of the model and the number of epochs, from rows and senses: plain numbers from which ``build`` makes the model.

    Larger pictures get fewer channels and more stages. The epochs share out a fixed amount of arithmetic, ``BUDGET``
    multiplications of forward passes times ``budget``: about three minutes of one core where it is 1.
    """
    train, fitted = data.loaders["train"], data.preprocessing
    encoders, work = {}, 0.0
    for name, sense in fitted.senses.items():
        if sense.kind == "image":
            size = fitted.sizes[name]
            encoders[name] = {"kind": "image", "width": WIDTHS[size], "stages": int(math.log2(size / 4))}
            work += 9 * size**2 * WIDTHS[size] * (3 + WIDTHS[size] * (encoders[name]["stages"] - 1) / 2)
        elif sense.kind == "audio":
            seconds = float(train.batches.stores[name].row_lengths(train.batches.rows).clip(max=WINDOW).mean()) / RATE
            encoders[name] = {"kind": "audio", "width": 16, "stages": 3}
            work += 9 * 64 * 100 * seconds * 16 * (1 + 16)
        else:
            encoders[name] = {"kind": "text", "vocab_size": len(fitted.vocabularies[name])}
            work += 20 * 6 * dim**2
    epochs = int(min(MOST_EPOCHS, max(5, budget * BUDGET / work / max(1, train.samples))))
    why = (f"{epochs} epochs over {train.samples:,} rows of {work / 1e6:.0f} million multiplications each "
           f"(about {3 * budget:.2g} minutes of one core, but 5 to {MOST_EPOCHS} epochs)")
    spec = {"encoders": encoders, "fusion": fusion, "dim": dim, "dropout": dropout, "epochs": epochs, "lr": lr, "why": why}
    if data.counts is None:
        target = fitted.target
        return spec | {"task": "numbers", "mean": target.mean - target.centre, "std": target.std}
    return spec | {"task": "classes", "prior": data.counts, "weight": class_weights(data.counts)}


def class_weights(counts: Sequence[int]) -> list[float]:
    """A weight per class for the loss: 1 where no class has over 1.5 times the rows of another, else rows / (K * rows of the class)."""
    if max(counts) <= 1.5 * min(counts):
        return [1.0] * len(counts)
    return [sum(counts) / len(counts) / count for count in counts]


def build(spec: dict[str, Any]) -> Model:
    """The model that a ``plan`` describes, with fresh weights."""
    dim, dropout, encoders = spec["dim"], spec["dropout"], {}
    for name, part in spec["encoders"].items():
        if part["kind"] == "image":
            encoders[name] = ConvEncoder(dim, width=part["width"], stages=part["stages"], dropout=dropout)
        elif part["kind"] == "audio":
            encoders[name] = AudioConvEncoder(dim, width=part["width"], stages=part["stages"], dropout=dropout)
        else:
            encoders[name] = RecurrentEncoder(dim, part["vocab_size"], dropout=dropout)
    backbone = Backbone(encoders, FUSIONS[spec["fusion"]](dim, list(encoders)))
    if spec["task"] == "numbers":
        return Model(backbone, RegressHead(dim, spec["mean"], spec["std"]))
    return Model(backbone, ClassifyHead(dim, len(spec["prior"]), torch.tensor(spec["prior"]), torch.tensor(spec["weight"])))
