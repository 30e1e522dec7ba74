"""From the data to a model: ``plan`` decides on sizes, ``build`` makes the model.

A plan consists of plain numbers and words, so that a checkpoint can hold it.
"""

import math
from typing import Any

import torch
from torch import nn

from mmlib import fusion as fusions
from mmlib.data import Data
from mmlib.data.audio import RATE, WINDOW
from mmlib.data.store import Clips, Columns
from mmlib.encoders import AudioConvEncoder, ConvEncoder, RecurrentEncoder, TableEncoder
from mmlib.heads.classify import ClassifyHead
from mmlib.heads.labels import LabelsHead
from mmlib.heads.regress import RegressHead
from mmlib.models import Backbone, Model

FUSIONS = {name.removesuffix("Fusion").lower(): getattr(fusions, name) for name in fusions.__all__}
DIM, DROPOUT, LR = 64, 0.1, 2e-3
WIDTHS = {32: 32, 64: 16, 96: 12, 128: 8}  # channels of the first convolution, by image size
BUDGET = 7.5e11  # multiplications of all forward passes of a training
LEAST_EPOCHS, MOST_EPOCHS = 5, 60


def plan(
    data: Data,
    fusion: str = "sum",
    dim: int = DIM,
    lr: float = LR,
    dropout: float = DROPOUT,
    budget: float = 1.0,
) -> dict[str, Any]:
    """The size of the model and the number of epochs, from rows and modalities.

    ``build`` makes the model from it. Larger images get fewer channels and more stages. The epochs
    divide a fixed amount of arithmetic, ``BUDGET`` multiplications of forward passes times
    ``budget``: about three minutes of one core where it is 1, but 5 to 60 epochs.
    """
    fitted = data.preprocessing
    encoders = {name: _encoder(data, name) for name in fitted.modalities}
    epochs = affordable(work_of(data, dim), budget)
    spec = {
        "encoders": encoders,
        "fusion": fusion,
        "dim": dim,
        "dropout": dropout,
        "epochs": epochs,
        "lr": lr,
    }
    target = fitted.target
    if target.labels is not None:
        return spec | {"task": "labels", "prior": target.shares}
    if data.counts is None:
        return spec | {"task": "regression", "mean": target.mean - target.centre, "std": target.std}
    return spec | {"task": "classification", "prior": data.counts}


def _encoder(data: Data, name: str) -> dict[str, Any]:
    """The plan of the encoder of one modality."""
    fitted = data.preprocessing
    kind = fitted.modalities[name].kind
    if kind == "image":
        size = fitted.sizes[name]
        return {"kind": "image", "width": WIDTHS[size], "stages": int(math.log2(size / 4))}
    if kind == "audio":
        return {"kind": "audio", "width": 16, "stages": 3}
    if kind == "table":
        table = fitted.tables[name]
        sizes = [len(known) for known in table.categories.values()]
        return {"kind": "table", "numbers": len(table.numbers), "categories": sizes}
    return {"kind": "text", "vocab_size": len(fitted.vocabularies[name])}


def multiplications(data: Data, name: str, dim: int) -> float:
    """About how many multiplications the encoder of one modality needs for a training row."""
    train, fitted = data.loaders["train"], data.preprocessing
    if fitted.modalities[name].kind == "image":
        size = fitted.sizes[name]
        return 9 * size**2 * WIDTHS[size] * (3 + WIDTHS[size] * (int(math.log2(size / 4)) - 1) / 2)
    store = train.batches.stores[name]
    if isinstance(store, Columns):
        return store.mask.shape[1] * 24 * dim**2
    if isinstance(store, Clips):
        lengths = store.row_lengths(train.batches.rows)
        return 9 * 64 * 100 * float(lengths.clip(max=WINDOW).mean()) / RATE * 16 * (1 + 16)
    return 20 * 6 * dim**2


def work_of(data: Data, dim: int) -> float:
    """About how many multiplications the forward passes of one epoch need."""
    each = sum(multiplications(data, name, dim) for name in data.preprocessing.modalities)
    return each * max(1, data.loaders["train"].samples)


def affordable(work: float, budget: float) -> int:
    """The epochs of ``work`` multiplications each that ``budget`` pays for.

    At least ``LEAST_EPOCHS``, whatever they cost, and at most ``MOST_EPOCHS``.
    """
    return int(min(MOST_EPOCHS, max(LEAST_EPOCHS, budget * BUDGET / work)))


def minutes(work: float) -> float:
    """About how many minutes of one core a training of so many multiplications (forward) takes."""
    return 3 * work / BUDGET


def build(spec: dict[str, Any]) -> Model:
    """The model that a ``plan`` describes, with fresh weights.

    Rare classes get no weight in the loss: once the prior is put back, weights are no better than a
    head that starts from the prior. (Measured with a small MLP on synthetic data, 24 settings of
    3:1 to 33:1, 6 seeds each: with weights, AUROC was .040 +- .007 lower and log loss .011 +- .001
    higher.)
    """
    dim, dropout = spec["dim"], spec["dropout"]
    encoders: dict[str, nn.Module] = {}
    for name, part in spec["encoders"].items():
        if part["kind"] == "image":
            encoders[name] = ConvEncoder(
                dim, width=part["width"], stages=part["stages"], dropout=dropout
            )
        elif part["kind"] == "audio":
            encoders[name] = AudioConvEncoder(
                dim, width=part["width"], stages=part["stages"], dropout=dropout
            )
        elif part["kind"] == "table":
            encoders[name] = TableEncoder(dim, part["numbers"], part["categories"], dropout=dropout)
        else:
            encoders[name] = RecurrentEncoder(dim, part["vocab_size"], dropout=dropout)
    backbone = Backbone(encoders, FUSIONS[spec["fusion"]](dim, list(encoders)))
    if spec["task"] == "regression":
        return Model(backbone, RegressHead(dim, spec["mean"], spec["std"]))
    if spec["task"] == "labels":
        return Model(backbone, LabelsHead(dim, len(spec["prior"]), torch.tensor(spec["prior"])))
    return Model(backbone, ClassifyHead(dim, len(spec["prior"]), torch.tensor(spec["prior"])))


def decided(
    model: Model, data: Data, spec: dict[str, Any], epochs: int, device: torch.device
) -> str:
    """A plan in words, for ``epochs`` epochs on ``device``."""
    train = data.loaders["train"]
    parts = [f"{name} {type(one).__name__}" for name, one in model.backbone.encoders.items()]
    parameters = sum(p.numel() for p in model.parameters())
    length = f"{epochs} epoch{'s' * (epochs > 1)} over {train.samples:,} rows"
    time = minutes(epochs * work_of(data, spec["dim"]))
    return (
        f"{' + '.join(sorted(parts))}, fusion {spec['fusion']}, {type(model.head).__name__}: "
        f"{parameters:,} parameters on {device}; {length} in batches of "
        f"{train.batches.batch_size} (about {time:.2g} minutes of one core)"
    )
