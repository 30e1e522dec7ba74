"""batch -> Features or Output: encoders + fusion = a backbone; backbone + head = a model.

Two backbones whose vectors are compared are a TwoTower.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output, inputs_of


class Backbone(nn.Module):
    """One encoder per modality, then the fusion: batch -> Features.

    The keys of ``encoders`` are the names of the modalities. Forward raises ValueError when the
    batch lacks a modality or its mask. It reads no values: check those at the border
    (``check_batch``).

    >>> import mmlib, torch
    >>> encoder = mmlib.TransformerEncoder(dim=16, vocab_size=100)
    >>> backbone = mmlib.Backbone({"text": encoder}, mmlib.SumFusion(16, ["text"]))
    >>> batch = {"text": torch.ones(2, 7, dtype=torch.int64),
    ...          "text_mask": torch.ones(2, 7, dtype=torch.bool)}
    >>> backbone(batch).pooled.shape
    torch.Size([2, 16])
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
                f"mask, and the batch has {sorted(batch)}; an absent modality is zeros with a "
                "mask of False"
            )
        return self.fusion(
            {name: encoder(*inputs_of(batch, name)) for name, encoder in self.encoders.items()}
        )


class Model(nn.Module):
    """A backbone and a head: batch -> Output. ``kind`` and ``classes`` are the head's, or None.

    >>> import mmlib, torch
    >>> encoder = mmlib.TransformerEncoder(dim=16, vocab_size=100)
    >>> backbone = mmlib.Backbone({"text": encoder}, mmlib.SumFusion(16, ["text"]))
    >>> model = mmlib.Model(backbone, mmlib.ClassifyHead(16, classes=3))
    >>> output = model({"text": torch.ones(2, 7, dtype=torch.int64),
    ...                 "text_mask": torch.ones(2, 7, dtype=torch.bool)})
    >>> output.logits.shape, output.loss, model.kind
    (torch.Size([2, 3]), None, 'classes')
    """

    def __init__(self, backbone: Backbone, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    @property
    def kind(self) -> str | None:
        """What the head takes, one of ``core.KINDS``; None when it does not say."""
        return getattr(self.head, "kind", None)

    @property
    def classes(self) -> int | None:
        """How many classes the head tells apart; None when it tells none apart."""
        return getattr(self.head, "classes", None)

    def forward(self, batch: Batch) -> Output:
        return self.head(self.backbone(batch), batch)


class Pairs(NamedTuple):
    """What ``TwoTower.embed`` returns and ``TwoTower.compare`` takes: query i belongs to key i."""

    query: Tensor  # (B, D) float32, of length 1; zero where the sample is absent
    key: Tensor  # (B, D) likewise
    present: Tensor  # (B,) bool: query and key are there
    item: Tensor | None  # (B,) batch["item_id"], if there is one


class TwoTower(nn.Module):
    """Which key belongs to which query? Two backbones, whose vectors are compared.

    Logits (B, B): cosine similarity times a learned scale; the pairs stand on the diagonal.
    ``loss`` "softmax" is the symmetric cross-entropy of CLIP (Radford et al., 2021,
    arXiv:2103.00020): which of these keys, which of these queries? "sigmoid" is that of SigLIP
    (Zhai et al., 2023, arXiv:2303.15343): for each of the B * B pairs, does this key belong to this
    query, yes or no? It is a sum over pairs, so blocks of the matrix can be computed one by one and
    added up. The scale is exp(log_scale), at most 100; "sigmoid" adds a learned ``bias``.

    Rows that are absent in one of the towers are left out: as query, as key and as a wrong answer
    for the others; ``count`` is the number of pairs left. Where ``batch["item_id"]`` (B,) is there,
    another row with the same item is not a wrong answer. Where a key is not an answer to choose
    from, the logit is the lowest number there is. All of it runs in float32, also under autocast.

    This model compares samples, so its loss depends on which others are in the batch. In training
    under torchrun each process compares its own rows with those of all processes, with gradients
    (logits (B, rows of all)). All processes must call forward together; their losses, weighted by
    ``count``, make that of one process. ``accumulate`` cannot do so: see ``fit``. ``evaluate`` and
    ``collect`` compare the whole set.

    >>> import mmlib, torch
    >>> def tower(name):
    ...     encoder = mmlib.TransformerEncoder(dim=16, vocab_size=100)
    ...     return mmlib.Backbone({name: encoder}, mmlib.SumFusion(16, [name]))
    >>> model = mmlib.TwoTower(query=tower("question"), key=tower("answer"))
    >>> ids, mask = torch.randint(1, 100, (4, 7)), torch.ones(4, 7, dtype=torch.bool)
    >>> output = model({"question": ids, "question_mask": mask, "answer": ids, "answer_mask": mask})
    >>> output.logits.shape, output.count
    (torch.Size([4, 4]), tensor(4.))
    """

    kind = "contrast"

    def __init__(self, query: Backbone, key: Backbone, loss: str = "softmax"):
        super().__init__()
        if loss not in ("softmax", "sigmoid"):
            raise ValueError(f"loss is {loss!r}, expected 'softmax' or 'sigmoid'")
        self.query, self.key, self.loss = query, key, loss
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07 if loss == "softmax" else 10)))
        # starts low, as most pairs are wrong
        self.bias = nn.Parameter(torch.tensor(-10.0)) if loss == "sigmoid" else None

    def forward(self, batch: Batch) -> Output:
        pairs = self.embed(batch)
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if self.training and together:
            return self.compare(*_of_all_processes(pairs))
        return self.compare(pairs)

    def embed(self, batch: Batch) -> Pairs:
        """The towers' vectors of each row, brought to length 1."""
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
        """The rows ``own`` (N of them) compared with all rows (B): logits (N, B) and their loss."""
        query, key, present, item = pairs
        place = torch.arange(len(present), device=present.device)
        masked = ~(present[own, None] & present)  # (N, B)
        if item is not None:
            masked = masked | (item[own, None] == item)
        pair = place[own, None] == place  # (N, B)
        masked = masked & ~pair  # the diagonal always stands
        with torch.autocast(query.device.type, enabled=False):  # bf16 has steps of 0.5 near 100
            logits = self._scores(query[own], key, masked)
            if self.loss == "sigmoid":
                losses = F.softplus(torch.where(pair, -logits, logits)).sum(dim=1)  # (N,)
            else:
                whole = len(logits) == len(place)
                of_keys = logits.T if whole else self._scores(key[own], query, masked)
                losses = (
                    F.cross_entropy(logits, place[own], reduction="none")
                    + F.cross_entropy(of_keys, place[own], reduction="none")
                ) / 2
        count = present[own].sum().float()
        loss = losses.masked_fill(~present[own], 0).sum() / count.clamp(min=1)
        return Output(logits, loss, count)

    def _scores(self, own: Tensor, others: Tensor, masked: Tensor) -> Tensor:
        """(N, D), (B, D) -> scaled similarities (N, B), the lowest number where ``masked``."""
        scores = self.log_scale.clamp(max=math.log(100)).exp() * own @ others.T
        if self.bias is not None:
            scores = scores + self.bias
        return scores.masked_fill(masked, torch.finfo(scores.dtype).min)


def _of_all_processes(pairs: Pairs) -> tuple[Pairs, slice]:
    """The rows of all processes, and which of them are this one's.

    Processes with fewer rows are filled up with absent ones.
    """
    own = len(pairs.present)
    longest = torch.tensor(own, device=pairs.present.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    length = int(longest)

    def gather(x: Tensor) -> Tensor:
        return _Gather.apply(F.pad(x, (0, 0) * (x.ndim - 1) + (0, length - own)))

    item = None if pairs.item is None else gather(pairs.item)
    first = dist.get_rank() * length
    whole = Pairs(gather(pairs.query), gather(pairs.key), gather(pairs.present), item)
    return whole, slice(first, first + own)


class _Gather(torch.autograd.Function):
    """(N, ...) of each of P processes -> (P * N, ...); all processes' gradients of a row add up."""

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
