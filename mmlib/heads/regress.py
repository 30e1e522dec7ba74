"""Features and batch -> one number per sample and a squared loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output
from mmlib.heads.classify import one_per_sample


class RegressHead(nn.Module):
    """Regression: logits (B,) from ``pooled`` (B, D), in the units of the target (B,) float32.

    The loss is the squared error in units of ``std``; ``mean`` and ``std`` are those of the
    training targets. A row with no modality gets ``mean``. The last product runs in float32, also
    under autocast. A target that is not finite makes the loss not finite: correct such a row, or
    leave it out.

    >>> import mmlib, torch
    >>> head = mmlib.RegressHead(dim=8, mean=20.0, std=5.0)
    >>> features = mmlib.from_pooled(torch.randn(2, 8), torch.tensor([True, False]))
    >>> output = head(features, {"target": torch.tensor([18.0, 25.0])})
    >>> output.logits.shape, output.logits[1].item()  # no modality is there: the mean
    (torch.Size([2]), 20.0)
    """

    kind = "number"
    mean: Tensor
    std: Tensor

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
            scaled = self.linear(features.pooled.float()).squeeze(-1)  # (B,)
        scaled = scaled.masked_fill(~features.present, 0)
        logits = self.mean + self.std * scaled
        if "target" not in batch:
            return Output(logits, None, None)
        target = one_per_sample(batch["target"], logits)
        loss = F.mse_loss(scaled, (target - self.mean) / self.std)
        return Output(logits, loss, self.mean.new_tensor(len(target)))
