"""batch -> Features or Output: encoders + fusion = a backbone; backbone + head = a model; two
backbones = a matcher.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output


class Backbone(nn.Module):
    """One encoder per modality, then the fusion: batch -> Features.

    The keys of ``encoders`` are the modalities' names. Forward raises ValueError when the batch
    lacks a modality or its mask. It reads no values: check those at the border
    (``core.check_batch``).
    """

    def __init__(self, encoders: dict[str, nn.Module], fusion: nn.Module):
        super().__init__()
        self.encoders, self.fusion = nn.ModuleDict(encoders), fusion

    def forward(self, batch: Batch) -> Features:
        missing = [
            key for name in self.encoders for key in (name, f"{name}_mask") if key not in batch
        ]
        if missing:
            raise ValueError(
                f"the batch lacks {missing}; the model reads {list(self.encoders)}, each with its "
                "mask, and the batch has "
                f"{sorted(batch)}; an absent modality is zeros with a mask of False"
            )
        return self.fusion(
            {
                name: encoder(batch[name], batch[f"{name}_mask"])
                for name, encoder in self.encoders.items()
            }
        )


class Model(nn.Module):
    """A backbone and a head: batch -> Output. ``kind`` and ``classes`` are the head's, or None."""

    def __init__(self, backbone: Backbone, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    @property
    def kind(self) -> str | None:
        return getattr(self.head, "kind", None)

    @property
    def classes(self) -> int | None:
        return getattr(self.head, "classes", None)

    def forward(self, batch: Batch) -> Output:
        return self.head(self.backbone(batch), batch)


class Pairs(NamedTuple):
    """What ``TwoTower.embed`` returns and ``TwoTower.compare`` takes: query i belongs to key i."""

    query: Tensor  # (B, D) float32, of length 1; zero where the sample is absent
    key: Tensor  # (B, D)
    present: Tensor  # (B,) bool: query and key are there
    item: Tensor | None  # (B,) batch["item_id"], if there is one


class TwoTower(nn.Module):
    """Which key belongs to which query?

    Logits (B, B): cosine similarity times a learned scale; pairs stand on the diagonal.
    ``loss`` "softmax" is the symmetric cross-entropy of CLIP (Radford et al., 2021,
    arXiv:2103.00020): which of these keys, which of these queries? "sigmoid" is that of SigLIP
    (Zhai et al., 2023, arXiv:2303.15343): does this key belong to this query, yes or no, for each
    of the B * B pairs. It is a sum over pairs, so any blocks of the matrix can be computed apart
    and added up. The scale is exp(log_scale), at most 100; "sigmoid" adds a learned ``bias``.

    Rows that are absent in a tower are left out, as query, as key and as one another's wrong
    answer; ``count`` is the number of pairs left. Where ``batch["item_id"]`` (B,) is there, another
    row with the same item is no wrong answer. Where a key is no answer to choose from, the logit is
    the lowest number there is. All of it runs in float32, also under autocast.

    This model compares samples, so its loss depends on who else is there. In training, under
    torchrun, each process compares its own rows with those of all processes, with gradients (logits
    (B, rows of all)): all of them call forward together, and their losses, weighed by ``count``,
    make that of one process. ``accumulate`` cannot do so: see ``fit``. ``evaluate`` and ``collect``
    compare the whole set.
    """

    kind = "contrast"

    def __init__(self, query: Backbone, key: Backbone, loss: str = "softmax"):
        super().__init__()
        if loss not in ("softmax", "sigmoid"):
            raise ValueError(f"loss is {loss!r}, expected 'softmax' or 'sigmoid'")
        self.query, self.key, self.loss = query, key, loss
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07 if loss == "softmax" else 10)))
        self.bias = (
            nn.Parameter(torch.tensor(-10.0)) if loss == "sigmoid" else None
        )  # most pairs are wrong

    def forward(self, batch: Batch) -> Output:
        pairs = self.embed(batch)
        if (
            self.training
            and dist.is_available()
            and dist.is_initialized()
            and dist.get_world_size() > 1
        ):
            return self.compare(*_of_all_processes(pairs))
        return self.compare(pairs)

    def embed(self, batch: Batch) -> Pairs:
        """The towers' vectors of each row."""
        query, key = self.query(batch), self.key(batch)
        return Pairs(
            F.normalize(query.pooled.float(), dim=-1),
            F.normalize(key.pooled.float(), dim=-1),
            query.present & key.present,
            batch.get("item_id"),
        )

    def compare(
        self, pairs: tuple[Tensor, Tensor, Tensor, Tensor | None], own: slice = slice(None)
    ) -> Output:
        """The rows ``own`` (N of them) compared with all rows (B): their loss, and logits (N,
        B)."""
        query, key, present, item = pairs
        place = torch.arange(len(present), device=present.device)
        masked = ~(present[own, None] & present)  # (N, B)
        if item is not None:
            masked = masked | (item[own, None] == item)
        pair = place[own, None] == place  # (N, B) the diagonal always stands
        masked = masked & ~pair
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        with torch.autocast(query.device.type, enabled=False):  # bf16 has steps of 0.5 near 100
            logits = scale * query[own] @ key.T + (0 if self.bias is None else self.bias)
            logits = logits.masked_fill(masked, torch.finfo(logits.dtype).min)
            if self.loss == "sigmoid":
                losses = F.softplus(torch.where(pair, -logits, logits)).sum(dim=1)  # (N,)
            else:
                asked = logits.T  # own keys by all queries
                if len(logits) < len(place):
                    asked = (scale * key[own] @ query.T).masked_fill(
                        masked, torch.finfo(logits.dtype).min
                    )
                losses = (
                    F.cross_entropy(logits, place[own], reduction="none")
                    + F.cross_entropy(asked, place[own], reduction="none")
                ) / 2
        count = present[own].sum().float()
        return Output(
            logits, losses.masked_fill(~present[own], 0).sum() / count.clamp(min=1), count
        )


def _of_all_processes(pairs: Pairs) -> tuple[Pairs, slice]:
    """The rows of all processes, and where the own ones are; shorter ones are filled up, as
    absent."""
    own = len(pairs.present)
    most = torch.tensor(own, device=pairs.present.device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    most = int(most)
    first = dist.get_rank() * most
    filled = [
        None if x is None else F.pad(x, (0, 0) * (x.ndim - 1) + (0, most - own)) for x in pairs
    ]
    return Pairs(*(None if x is None else _Gather.apply(x) for x in filled)), slice(
        first, first + own
    )


class _Gather(torch.autograd.Function):
    """(N, ...) of each of P processes -> (P * N, ...). All processes' gradients of a row are
    summed."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]
