"""batch -> Features or Output: encoders + fusion = a backbone; backbone + head = a model; two backbones = a matcher."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from mmlib.core import Batch, Features, Output


class Backbone(nn.Module):
    """One encoder per sense, then the fusion: batch -> Features. The keys of ``encoders`` are the senses' names.

    Forward raises ValueError when the batch lacks a sense or its mask. It reads no values: check those at the border
    (``core.check_batch``).
    """

    def __init__(self, encoders: dict[str, nn.Module], fusion: nn.Module):
        super().__init__()
        self.encoders, self.fusion = nn.ModuleDict(encoders), fusion

    def forward(self, batch: Batch) -> Features:
        missing = [key for name in self.encoders for key in (name, f"{name}_mask") if key not in batch]
        if missing:
            raise ValueError(f"the batch lacks {missing}; the model reads {list(self.encoders)}, each with its mask, and the batch has "
                             f"{sorted(batch)}; an absent sense is zeros with a mask of False")
        return self.fusion({name: encoder(batch[name], batch[f"{name}_mask"]) for name, encoder in self.encoders.items()})


class Model(nn.Module):
    """A backbone and a head: batch -> Output."""

    def __init__(self, backbone: Backbone, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, batch: Batch) -> Output:
        return self.head(self.backbone(batch), batch)


class TwoTower(nn.Module):
    """Which key belongs to which query? Logits (B, B): cosine similarity times a learned scale; pairs stand on the diagonal.

    The loss is the symmetric cross-entropy of CLIP (Radford et al., 2021, arXiv:2103.00020), the scale exp(log_scale), at
    most 100. Rows that are absent in a tower are left out, as query, as key and as one another's wrong answer; ``count`` is
    the number of pairs left. Where ``batch["item_id"]`` (B,) is there, another row with the same item is no wrong answer.
    The one loss that compares samples: it depends on who else is in the batch.
    """

    def __init__(self, query: Backbone, key: Backbone):
        super().__init__()
        self.query, self.key = query, key
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, batch: Batch) -> Output:
        query, key = self.query(batch), self.key(batch)
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        logits = scale * F.normalize(query.pooled, dim=-1) @ F.normalize(key.pooled, dim=-1).T          # (B, B)
        pair = query.present & key.present                                                # (B,)
        masked = ~(pair[:, None] & pair)                                                  # (B, B)
        if "item_id" in batch:
            masked = masked | (batch["item_id"][:, None] == batch["item_id"])
        target = torch.arange(len(pair), device=pair.device)
        masked = masked & (target[:, None] != target)                                     # the diagonal always stands
        scores = logits.masked_fill(masked, torch.finfo(logits.dtype).min)
        losses = F.cross_entropy(scores, target, reduction="none") + F.cross_entropy(scores.T, target, reduction="none")
        count = pair.sum().float()
        return Output(logits, losses.masked_fill(~pair, 0).sum() / (2 * count.clamp(min=1)), count)
