"""Features and batch -> one number per sample and a squared loss."""

import torch
import torch.nn.functional as F
from torch import nn

from mmlib.core import Batch, Features, Output
from mmlib.heads.classify import one_per_sample


class RegressHead(nn.Module):
    """A number per sample, logits (B,) in the units of the target (B,); the loss is the squared
    error in units of ``std``.

    ``mean`` and ``std`` are those of the training targets. A row with no modality gets ``mean``.
    The last product runs in float32, also under autocast. A target that is not finite makes the
    loss so: correct such a row, or leave it out.
    """

    kind = "number"

    def __init__(self, dim: int, mean: float = 0.0, std: float = 1.0):
        super().__init__()
        if not std > 0:
            raise ValueError(
                f"std is {std}, expected a number above zero; when all targets are equal there is "
                "nothing to learn"
            )
        self.linear = nn.Linear(dim, 1)
        self.register_buffer("mean", torch.tensor([float(mean)]))
        self.register_buffer("std", torch.tensor([float(std)]))

    def forward(self, features: Features, batch: Batch) -> Output:
        # bf16 has 128 numbers from 1 to 2: too few for an answer
        with torch.autocast(features.pooled.device.type, enabled=False):
            scaled = (
                self.linear(features.pooled.float()).squeeze(-1).masked_fill(~features.present, 0)
            )  # (B,)
        logits = self.mean + self.std * scaled
        if "target" not in batch:
            return Output(logits, None, None)
        target = one_per_sample(batch["target"], logits)
        loss = F.mse_loss(scaled, (target - self.mean) / self.std)
        return Output(logits, loss, self.mean.new_tensor(len(target)))
