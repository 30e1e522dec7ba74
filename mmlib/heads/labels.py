"""Features and batch -> one logit per label and a binary cross-entropy."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output


class LabelsHead(nn.Module):
    """Several labels a sample: logits (B, K) from ``pooled`` (B, D), their sigmoid the probability.

    The target (B, K) float32 is 0 to 1, NaN where a label is not known: that one is left out. The
    loss is the mean binary cross-entropy over all known labels, and ``count`` is their number; it
    runs in float32, also under autocast. ``prior`` (K,) says which share of the training rows has
    each label, between 0 and 1; None means one half. A row without any modality gets the log-odds
    of the prior as logits; it is in the loss, where it has no gradient. Training starts from the
    prior, too. Raises ValueError for a prior or a target of another shape.

    >>> import mmlib, torch
    >>> head = mmlib.LabelsHead(dim=8, labels=2, prior=torch.tensor([0.9, 0.1]))
    >>> features = mmlib.from_pooled(torch.randn(2, 8), torch.tensor([True, False]))
    >>> output = head(features, {"target": torch.tensor([[1.0, 0.0], [1.0, float("nan")]])})
    >>> output.logits.shape, output.count  # three labels are known
    (torch.Size([2, 2]), tensor(3.))
    >>> output.logits[1].sigmoid()  # no modality is there: the prior is the answer
    tensor([0.9000, 0.1000], ...)
    """

    kind = "labels"
    log_odds: Tensor

    def __init__(self, dim: int, labels: int, prior: Tensor | None = None):
        super().__init__()
        shares = torch.full((labels,), 0.5) if prior is None else torch.as_tensor(prior).float()
        if tuple(shares.shape) != (labels,) or not bool(((shares > 0) & (shares < 1)).all()):
            raise ValueError(
                f"prior is {shares.tolist()}, expected {labels} shares between 0 and 1, one per "
                "label"
            )
        self.classes, self.linear = labels, nn.Linear(dim, labels)
        self.register_buffer("log_odds", shares.logit())
        with torch.no_grad():
            self.linear.bias.add_(self.log_odds)

    def forward(self, features: Features, batch: Batch) -> Output:
        # bf16 has no number between 0.996 and 1: too coarse for a rare label
        with torch.autocast(features.pooled.device.type, enabled=False):
            scores = self.linear(features.pooled.float())
        logits = torch.where(features.present[:, None], scores, self.log_odds)  # (B, K)
        if "target" not in batch:
            return Output(logits, None, None)
        target = batch["target"]
        if target.shape != logits.shape:
            raise ValueError(
                f"batch['target'] is {tuple(target.shape)}, expected {tuple(logits.shape)}: a "
                "number from 0 to 1 for each label"
            )
        known = ~target.isnan()
        losses = F.binary_cross_entropy_with_logits(
            logits, target.masked_fill(~known, 0).float(), reduction="none"
        )
        count = known.sum().float()
        return Output(logits, losses.masked_fill(~known, 0).sum() / count.clamp(min=1), count)
