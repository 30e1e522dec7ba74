"""Words or items -> Features: ids (B, T) int64, mask (B, T) -> one token per word.

Also reads item histories.
"""

from torch import Tensor, nn

from mmlib.core import Features, from_tokens
from mmlib.layers.recurrent import Recurrent
from mmlib.layers.transformer import Transformer, sine_positions


class RecurrentEncoder(nn.Module):
    """A bidirectional recurrent network over ids (B, T): token t has read the words before it and
    those after it.

    ``cell`` is "rnn", "gru" or "lstm"; ``dim`` is even. ``dropout`` is variational: one mask for
    all words of a sample, drawn for the input of each layer. Ids are below ``vocab_size``; 0 is
    padding.
    """

    def __init__(
        self, dim: int, vocab_size: int, cell: str = "lstm", depth: int = 1, dropout: float = 0.0
    ):
        super().__init__()
        self.embed = nn.Embedding(vocab_size, dim)
        self.recurrent = Recurrent(dim, cell, depth, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x = self.embed(x.masked_fill(~mask, 0))  # (B, T, D)
        return from_tokens(self.norm(self.recurrent(x, mask)), mask)


class TransformerEncoder(nn.Module):
    """A transformer over ids (B, T) with sine positions, so a text may be of any length.

    Ids are below ``vocab_size``; 0 is padding.
    """

    def __init__(
        self, dim: int, vocab_size: int, depth: int = 2, heads: int = 4, dropout: float = 0.0
    ):
        super().__init__()
        self.embed, self.dropout = nn.Embedding(vocab_size, dim), nn.Dropout(dropout)
        self.transformer = Transformer(dim, depth, heads, dropout=dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Features:
        x = self.embed(x.masked_fill(~mask, 0))  # (B, T, D)
        x = self.dropout(x + sine_positions(x.shape[1], x.shape[2], x.device))
        return from_tokens(self.transformer(x, mask[:, None, None]), mask)
