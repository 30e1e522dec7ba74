"""Several windows of one row -> one answer for the row: probabilities are averaged, as the
head's kind says.
"""

import torch
from torch import Tensor


def first_windows(place: Tensor, rows: Tensor) -> Tensor:
    """The first window of each of the ``rows``; ``place`` says which row a window belongs to."""
    return torch.empty_like(rows).index_copy(0, place.flip(0), torch.arange(len(place)).flip(0))


def one_per_row(
    logits: Tensor, target: Tensor | None, row: Tensor, kind: str | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The windows (N, ...) of each row averaged as ``kind`` says -> one line per row, by row
    number.

    Raises ValueError where windows of one row have different targets: then they are not of one row.
    """
    rows, place, windows = row.unique(return_inverse=True, return_counts=True)
    values = _probabilities(logits.double(), kind)
    sums = values.new_zeros(len(rows), *values.shape[1:]).index_add(0, place, values)
    mean = _from_probabilities(sums / windows.reshape(-1, *[1] * (values.ndim - 1)), kind)
    first = first_windows(place, rows)
    if target is not None:
        theirs = target[first[place]]
        differ = (
            ((target != theirs) & ~(target.isnan() & theirs.isnan()))
            .reshape(len(row), -1)
            .any(dim=1)
        )  # NaN: unknown in both
        if differ.any():
            raise ValueError(
                f"row {int(row[differ][0])} has different targets, so it is not one row: number "
                "batch['row'] on from batch to batch, or leave it out"
            )
    alone = windows[place[first]] == 1  # keep those as they are, to the bit
    mean = torch.where(alone.reshape(-1, *[1] * (logits.ndim - 1)), logits[first], mean.float())
    return mean, None if target is None else target[first], rows


def _probabilities(logits: Tensor, kind: str | None) -> Tensor:
    """What is averaged; for labels and ordinal (N, K) -> (N, K, 2), the chance of yes and of no."""
    if kind == "classes":
        return logits.softmax(dim=-1)
    return (
        torch.stack([logits, -logits], dim=-1).sigmoid()
        if kind in ("labels", "ordinal")
        else logits
    )


def _from_probabilities(mean: Tensor, kind: str | None) -> Tensor:
    """Back to logits, finite also where a probability is 0."""
    if kind == "classes":
        return mean.clamp(min=1e-300).log()
    yes, no = (
        mean.clamp(min=1e-300).log().unbind(dim=-1) if kind in ("labels", "ordinal") else (mean, 0)
    )
    return yes - no
