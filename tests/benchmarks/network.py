"""The network of a much-copied sketch (an image and twenty words, yes or no), written twice: as one
writes it, and as mmlib would run it.

Three convolutions (32, 64, 128) with ReLU and max-pool, the mean over all places; an embedding and
a bidirectional LSTM; both joined, one logit. ``Plain`` and ``Ours`` have the same weights and
compute the same function: tests/test_benchmarks.py holds them equal, forward and gradient. ``Tiny``
has almost no arithmetic, so that a step is nearly all the loop's own work.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import Output

WORDS, VOCABULARY, EMBEDDING, BATCH = 20, 1000, 64, 32


class Plain(nn.Module):
    """As in the textbook: convolution, ReLU, pool; torch's bidirectional LSTM, its last states."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 32), (32, 64), (64, 128))]
        )
        self.embed, self.lstm = (
            nn.Embedding(VOCABULARY, EMBEDDING),
            nn.LSTM(EMBEDDING, 128, batch_first=True, bidirectional=True),
        )
        self.head = nn.Linear(128 + 256, 1)

    def forward(self, batch: dict[str, Tensor]) -> Output:
        logits = self.head(torch.cat([self.see(batch["image"]), self.read(batch["text"])], dim=1))[
            :, 0
        ]  # (B,)
        return Output(
            logits,
            F.binary_cross_entropy_with_logits(logits, batch["target"]),
            torch.tensor(float(len(logits))),
        )

    def see(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return x.mean(dim=(2, 3))  # (B, 128)

    def read(self, ids: Tensor) -> Tensor:
        return self.lstm(self.embed(ids))[1][0].transpose(0, 1).flatten(1)  # (B, 256)


class Ours(Plain):
    """The same function: the pool before ReLU (both are monotone), and two one-directional
    LSTMs, as in ``mmlib.layers.recurrent.Recurrent``.
    """

    def __init__(self):
        super().__init__()
        both = self.lstm
        self.lstm = nn.ModuleList([nn.LSTM(EMBEDDING, 128, batch_first=True) for _ in range(2)])
        self.take(both)

    def take(self, both: nn.LSTM) -> None:
        """The weights of torch's bidirectional layer."""
        for one, end in zip(self.lstm, ("", "_reverse")):
            one.load_state_dict({name: both.state_dict()[name + end] for name in one.state_dict()})

    def see(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = F.relu(F.max_pool2d(conv(x), 2))
        return x.mean(dim=(2, 3))

    def read(self, ids: Tensor) -> Tensor:
        x, (ahead, back) = self.embed(ids), self.lstm
        return torch.cat([ahead(x)[1][0], back(x.flip(1))[1][0]], dim=2)[0]  # (B, 256)


class Tiny(nn.Module):
    """Two linear layers on the flat image of 4 x 4 pixels."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, batch: dict[str, Tensor]) -> Output:
        logits = self.net(batch["image"])[:, 0]
        return Output(
            logits,
            F.binary_cross_entropy_with_logits(logits, batch["target"]),
            torch.tensor(float(len(logits))),
        )


def batches(size: int, count: int) -> list[dict[str, Tensor]]:
    """Random images of size x size, words and answers, the same in every process."""
    make = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randn(BATCH, 3, size, size, generator=make),
            "text": torch.randint(1, VOCABULARY, (BATCH, WORDS), generator=make),
            "target": torch.randint(2, (BATCH,), generator=make).float(),
        }
        for _ in range(count)
    ]
