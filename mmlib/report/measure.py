"""What a report measures: additive part, answers to exchanged modalities, average, reliability."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmlib.core import Features, from_pooled, inputs_of
from mmlib.data import Loader
from mmlib.models import Model
from mmlib.train.evaluate import to_device
from mmlib.train.windows import one_per_row

EVALUATIONS = 500_000  # of fusion and head for one projection; more change the third digit at most
SHUFFLES = 10  # times that a modality is exchanged
CHUNK = 1024  # samples that fusion and head get at once
BINS = 10  # of the reliability curves


class Projection(NamedTuple):
    """The additive part of a model."""

    logits: Tensor  # (rows, K)
    combinations: int  # of the other modalities, for each modality of each sample


class Encoded(NamedTuple):
    """A split after the encoders: N samples, where each window of a long clip is a sample."""

    features: dict[str, Features]
    row: Tensor  # (N,) place in the manifest


@torch.no_grad()
def encode(model: Model, loader: Loader) -> Encoded:
    """Each modality of every sample, encoded once; tokens padded to the longest.

    Where the fusion reads ``pooled`` only, each has one token.
    """
    backbone, device = model.backbone, next(model.parameters()).device
    parts: dict[str, list[Features]] = {name: [] for name in backbone.encoders}
    rows = []
    for batch in loader:
        rows.append(batch["row"])
        batch = to_device(batch, device)
        for name, encoder in backbone.encoders.items():
            parts[name].append(encoder(*inputs_of(batch, name)))
    first = {name: found[0] for name, found in parts.items()}
    short = {name: _one_token(part) for name, part in first.items()}
    if torch.equal(backbone.fusion(first).pooled, backbone.fusion(short).pooled):
        parts = {name: [_one_token(part) for part in found] for name, found in parts.items()}
    return Encoded({name: _concatenate(found) for name, found in parts.items()}, torch.cat(rows))


def _one_token(features: Features) -> Features:
    """The same ``pooled``, with that as the only token."""
    return from_pooled(features.pooled, features.present)


def _concatenate(parts: list[Features]) -> Features:
    """Batches of Features one after the other, their tokens padded on the right to the longest."""
    longest = max(part.mask.shape[1] for part in parts)
    tokens = [
        torch.nn.functional.pad(part.tokens, (0, 0, 0, longest - part.mask.shape[1]))
        for part in parts
    ]
    mask = [torch.nn.functional.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts]
    return Features(torch.cat(tokens), torch.cat(mask), torch.cat([part.pooled for part in parts]))


@torch.no_grad()
def fuse(model: Model, features: dict[str, Features]) -> Tensor:
    """Fusion and head alone: Features of N samples by modality -> logits (N, K)."""
    count, logits = len(next(iter(features.values())).mask), []
    for start in range(0, count, CHUNK):
        part = {
            name: Features(*(x[start : start + CHUNK] for x in found))
            for name, found in features.items()
        }
        logits.append(model.head(model.backbone.fusion(part), {}).logits.float())
    return torch.cat(logits)


def project(
    model: Model, encoded: Encoded, seed: int = 0, evaluations: int = EVALUATIONS
) -> Projection:
    """The best additive approximation of a model: EMAP.

    After Hessel & Lee (2020, "Does my multimodal model learn cross-modal interactions?"). With f
    the logits,

        f_additive(x) = sum over the M modalities of E[f(x_m, the others drawn independently)]
                        - (M - 1) E[f(all drawn independently)]

    so what the model gains over it comes from the interaction of the modalities. With two
    modalities and N * 2N ``evaluations`` or more, all combinations are used; else each other
    modality is drawn from the samples without repetition. A model that adds up is its own
    projection, whatever was drawn, except that a combination in which every modality is missing is
    answered by the head's prior. The model must be in eval mode.
    """
    features, names = encoded.features, sorted(encoded.features)
    size = len(encoded.row)
    count = max(1, min(size, evaluations // (len(names) * size)))
    random = np.random.default_rng(seed)
    drawn = {name: random.permutation(size)[:count] for name in names}  # (R,) each
    means: dict[str, Tensor] = {}
    for name in names:
        total = torch.zeros(())
        for r in range(count):
            others = {
                other: Features(*(x[drawn[other][r]].expand_as(x) for x in features[other]))
                for other in names
            }
            total = total + fuse(model, others | {name: features[name]}).double()  # (N, K)
        means[name] = total / count
    # The mean over the drawn samples, as above: then the constant terms of an additive model cancel
    # exactly.
    at_drawn = [means[name][torch.from_numpy(drawn[name])].mean(dim=0) for name in names]
    overall = torch.stack(at_drawn).mean(dim=0)  # (K,)
    logits = torch.stack(list(means.values())).sum(dim=0) - (len(names) - 1) * overall
    return Projection(one_per_row(logits.float().cpu(), None, encoded.row, model.kind)[0], count)


def shuffle(model: Model, encoded: Encoded, name: str, seed: int = 0) -> Tensor:
    """Logits (SHUFFLES, rows, K) where the modality ``name`` comes from another sample each time.

    The other modalities come from the sample itself.
    """
    random, answers = np.random.default_rng(seed), []
    for _ in range(SHUFFLES):
        order = torch.from_numpy(random.permutation(len(encoded.row)))
        # One cycle through all samples, so a permutation without fixed points: each sample gets the
        # modality of the one before it in ``order``.
        donor = torch.empty_like(order).index_copy(0, order, order.roll(1))
        mixed = encoded.features | {
            name: Features(*(x[donor.to(x.device)] for x in encoded.features[name]))
        }
        answers.append(one_per_row(fuse(model, mixed).cpu(), None, encoded.row, model.kind)[0])
    return torch.stack(answers)


def average(logits: Sequence[Tensor], there: Tensor, prior: Tensor) -> Tensor:
    """The average of the probabilities of M models, over the modalities that a row has.

    M logits (S, N, K), and ``there`` (M, N) bool -> logits (S, N, K). A row without any modality
    gets ``prior`` (K,), the log shares of the classes.
    """
    weight = (there / there.sum(dim=0).clamp(min=1))[:, None, :, None]  # (M, 1, N, 1)
    mean = (torch.stack(list(logits)).double().softmax(dim=-1) * weight).sum(dim=0)  # (S, N, K)
    empty = prior.double().log_softmax(dim=-1)
    return torch.where(there.any(dim=0)[:, None], mean.clamp(min=1e-300).log(), empty).float()


def reliability(logits: Tensor, target: Tensor, bins: int = BINS) -> list[tuple[float, float, int]]:
    """The reliability curve: mean confidence, accuracy and count of each bin that has answers.

    After Guo et al. (2017, arXiv:1706.04599). Logits (S, N, K); ``bins`` of equal width, of the
    probability of the answer given; the answers of all seeds count together.
    """
    confidence, given = logits.double().softmax(dim=-1).max(dim=-1)  # (S, N) both
    right = (given == target).double()
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    used = [place == i for i in place.unique().tolist()]
    return [
        (float(confidence[here].mean()), float(right[here].mean()), int(here.sum()))
        for here in used
    ]


def still_improving(history: Sequence[dict[str, Any]]) -> bool:
    """Whether a training stopped too soon; ``history`` has a row per epoch, with its ``val_loss``.

    True where the last epoch is the best and, over the last quarter of the epochs, the loss still
    fell at least half as fast as over all of them. Two epochs or fewer are too few to deny it.
    """
    losses = [row["val_loss"] for row in history]
    steps, late = len(losses) - 1, max(1, len(losses) // 4)
    if steps < 2:
        return True
    speed, late_speed = (losses[0] - losses[-1]) / steps, (losses[-1 - late] - losses[-1]) / late
    return losses[-1] == min(losses) and late_speed >= speed / 2
