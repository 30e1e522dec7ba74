"""Features and batch -> logits per token and the CTC loss of a line of text."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Features, Output


class CTCHead(nn.Module):
    """Reads a line of text: logits (B, T, K) per token from ``tokens`` (B, T, D); class 0 = blank.

    Connectionist temporal classification (Graves et al., 2006). The target (B, S) holds ids without
    blanks, with ``target_mask`` (B, S). The loss of a sample is divided by its target length, and
    the mean is over samples, as in F.ctc_loss by default; ``count`` is the number of samples. A row
    with no modality is left out. Only real tokens count, in their order, as if there were no masked
    ones between them. Frames under the mask say "blank", so that decoding needs no mask. A target
    that needs more frames than there are (one per id, and one more between two equal ids) cannot be
    written: its loss is 0, without a gradient. Then make the encoder's frames finer.

    >>> import mmlib, torch
    >>> head = mmlib.CTCHead(dim=8, vocab_size=30)
    >>> real = torch.ones(1, 12, dtype=torch.bool)
    >>> features = mmlib.from_tokens(torch.randn(1, 12, 8), real)  # twelve frames of a line
    >>> target = torch.tensor([[5, 9, 9]])
    >>> output = head(features, {"target": target, "target_mask": torch.ones_like(target).bool()})
    >>> output.logits.shape, output.count
    (torch.Size([1, 12, 30]), tensor(1.))
    """

    kind = "sequence"
    blank: Tensor

    def __init__(self, dim: int, vocab_size: int):
        super().__init__()
        self.classes = vocab_size
        self.linear = nn.Linear(dim, vocab_size)
        certain = F.one_hot(torch.tensor(0), vocab_size) * 1e4  # (K,) yet finite
        self.register_buffer("blank", certain, persistent=False)

    def forward(self, features: Features, batch: Batch) -> Output:
        mask, present = features.mask, features.present
        logits = torch.where(mask[..., None], self.linear(features.tokens), self.blank)  # (B, T, K)
        if "target" not in batch:
            return Output(logits, None, None)
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)  # (B, T) real frames first
        line = logits.gather(1, order[..., None].expand_as(logits)).log_softmax(dim=-1)
        lengths = batch["target_mask"].sum(dim=1)  # (B,)
        # padding becomes any id but the blank; it is not read
        target = batch["target"].masked_fill(~batch["target_mask"], 1)
        losses = F.ctc_loss(
            line.transpose(0, 1),
            target,
            mask.sum(dim=1).clamp(min=1),
            lengths,
            reduction="none",
            zero_infinity=True,
        )
        losses = (losses / lengths.clamp(min=1)).masked_fill(~present, 0)  # (B,)
        count = present.sum().float()
        return Output(logits, losses.sum() / count.clamp(min=1), count)
