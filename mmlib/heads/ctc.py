"""Features and batch -> logits per token and the CTC loss of a line of text."""

import torch
import torch.nn.functional as F
from torch import nn

from mmlib.core import Batch, Features, Output


class CTCHead(nn.Module):
    """Reads a line: logits (B, T, K) per token, class 0 = the blank; target (B, S) ids without
    blanks, ``target_mask`` (B, S).

    Connectionist temporal classification (Graves et al., 2006). The loss of a sample is divided by
    its target length and the mean is over samples, as F.ctc_loss does by default; ``count`` is the
    number of samples. A row with no modality is left out. Only real tokens count, in their order,
    holes closed. Frames under the mask say "blank", so that decoding needs no mask. A target that
    needs more frames than there are (one per id, and one more between two equal ids) cannot be
    written: its loss is 0, without gradient; make the encoder's frames finer.
    """

    kind = "sequence"

    def __init__(self, dim: int, vocab_size: int):
        super().__init__()
        self.classes = vocab_size
        self.linear = nn.Linear(dim, vocab_size)
        self.register_buffer(
            "blank", F.one_hot(torch.tensor(0), vocab_size) * 1e4, persistent=False
        )  # (K,) certain, yet finite

    def forward(self, features: Features, batch: Batch) -> Output:
        mask, present = features.mask, features.present
        logits = torch.where(mask[..., None], self.linear(features.tokens), self.blank)  # (B, T, K)
        if "target" not in batch:
            return Output(logits, None, None)
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)  # (B, T) real frames first
        line = logits.gather(1, order[..., None].expand_as(logits)).log_softmax(dim=-1)
        lengths = batch["target_mask"].sum(dim=1)  # (B,)
        target = batch["target"].masked_fill(
            ~batch["target_mask"], 1
        )  # any id but the blank; it is not read
        losses = F.ctc_loss(
            line.transpose(0, 1),
            target,
            mask.sum(dim=1).clamp(min=1),
            lengths,
            reduction="none",
            zero_infinity=True,
        )
        count = present.sum().float()
        return Output(
            logits,
            (losses / lengths.clamp(min=1)).masked_fill(~present, 0).sum() / count.clamp(min=1),
            count,
        )
