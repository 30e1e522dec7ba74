"""Several windows of one row -> one answer for the row, averaged as the head's kind says."""

import torch
from torch import Tensor


def first_windows(place: Tensor, rows: Tensor) -> Tensor:
    """(R,) the first window of each of the R ``rows``; ``place`` (N,) is the row of each window."""
    return torch.empty_like(rows).index_copy(0, place.flip(0), torch.arange(len(place)).flip(0))


def one_per_row(
    logits: Tensor, target: Tensor | None, row: Tensor, kind: str | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The windows (N, ...) of each row, averaged as ``kind`` says -> one answer per row.

    Returns logits, target and row numbers, sorted by row number. For classes and labels the mean is
    that of the probabilities, for numbers that of the numbers. A row of one window keeps its logits
    bit for bit. Raises ValueError if windows with one row number have different targets.
    """
    rows, place, windows = row.unique(return_inverse=True, return_counts=True)
    values = _probabilities(logits.double(), kind)
    sums = values.new_zeros(len(rows), *values.shape[1:]).index_add(0, place, values)
    mean = _from_probabilities(sums / windows.reshape(-1, *[1] * (values.ndim - 1)), kind)
    first = first_windows(place, rows)
    if target is not None:
        theirs = target[first[place]]
        unknown = target.isnan() & theirs.isnan()
        differ = ((target != theirs) & ~unknown).reshape(len(row), -1).any(dim=1)
        if differ.any():
            raise ValueError(
                f"row {int(row[differ][0])} has different targets, so it is not one row: number "
                "batch['row'] on from batch to batch, or leave it out"
            )
    alone = windows[place[first]] == 1  # these keep their logits, bit for bit
    mean = torch.where(alone.reshape(-1, *[1] * (logits.ndim - 1)), logits[first], mean.float())
    return mean, None if target is None else target[first], rows


def _probabilities(logits: Tensor, kind: str | None) -> Tensor:
    """What is averaged: for labels and ordinal (N, K) -> (N, K, 2), the chance of yes and of no."""
    if kind == "classes":
        return logits.softmax(dim=-1)
    if kind in ("labels", "ordinal"):
        return torch.stack([logits, -logits], dim=-1).sigmoid()
    return logits


def _from_probabilities(mean: Tensor, kind: str | None) -> Tensor:
    """The inverse: logits that stay finite where a probability is 0."""
    if kind == "classes":
        return mean.clamp(min=1e-300).log()
    if kind in ("labels", "ordinal"):
        yes, no = mean.clamp(min=1e-300).log().unbind(dim=-1)
        return yes - no
    return mean
