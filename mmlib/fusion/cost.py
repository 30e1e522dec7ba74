"""Every fusion on the same input: parameters, FLOPs, memory, time, and what it can express.

``python -m mmlib fusions`` prints the table.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmlib import fusion
from mmlib.core import Features, from_tokens
from mmlib.layers.attention import recording
from mmlib.text_table import aligned

# of the longest sample: 2 s of audio, an image of 64 x 64 pixels, a caption
TOKENS = {"audio": 25, "image": 16, "text": 12}
WARM_UP = 3  # rounds that are not counted


class Row(NamedTuple):
    """What one fusion costs; ``flops``, ``kept`` and the times are those of a whole batch."""

    name: str
    tokens: int  # that come out per sample
    interact: bool  # does the effect of one modality depend on what another one holds?
    parameters: int
    flops: int  # of a forward pass: matrix products, attention; two per multiply-add, with padding
    kept: int  # bytes kept for the backward pass, besides parameters and input
    forward: float  # median, in microseconds, without gradients
    both: float  # median, in microseconds, of forward and backward pass together


def table(dim: int = 64, batch: int = 32, repeats: int = 30) -> list[Row]:
    """A row per fusion of ``mmlib.fusion.__all__`` with its default options, for three modalities.

    It is measured in one thread on the CPU. The times are medians over ``repeats`` rounds. In each
    round every fusion has its turn, in a new random order, so that all suffer alike from what else
    the machine does and from what the one before left in its caches.
    """
    features = make_features(dim, batch)
    with _own_seed_and_one_thread():
        modules = {name: getattr(fusion, name)(dim, features) for name in fusion.__all__}
        times = _times(modules, features, repeats)
        return [
            Row(
                name,
                module(features).mask.shape[1],
                interaction(module, dim, batch) > 1e-6,
                sum(p.numel() for p in module.parameters()),
                count_flops(module, features),
                count_kept(module, features),
                *times[name],
            )
            for name, module in modules.items()
        ]


def make_features(
    dim: int, batch: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Features]:
    """Random Features of three modalities as encoders give them; every modality is present.

    The lengths of audio and text differ from sample to sample, the images are all of one size.

    >>> features = make_features(dim=64, batch=2)
    >>> {name: tuple(part.tokens.shape) for name, part in features.items()}
    {'audio': (2, 25, 64), 'image': (2, 16, 64), 'text': (2, 12, 64)}
    """
    g, made = torch.Generator().manual_seed(seed), {}
    for name, length in TOKENS.items():
        shortest = length if name == "image" else length // 3
        lengths = torch.linspace(shortest, length, batch).long()
        mask = torch.arange(length) < lengths[:, None]  # (B, T)
        made[name] = from_tokens(torch.randn(batch, length, dim, generator=g, dtype=dtype), mask)
    return made


def interaction(module: nn.Module, dim: int, batch: int) -> float:
    """The largest second mixed difference of ``pooled`` in two modalities, relative to ``pooled``.

    Change one modality, the other, both: f(both) - f(one) - f(other) + f(none). It is zero for all
    inputs where the output is a sum of one function per modality; then no linear head can see what
    lies only in the combination (an exclusive-or). In double precision.
    """
    module = module.double()
    old, new = (make_features(dim, batch, seed, torch.float64) for seed in (0, 1))
    pooled = lambda *changed: module(old | {name: new[name] for name in changed}).pooled
    pairs = [(a, b) for a in old for b in old if a < b]
    with torch.no_grad():
        differences = [pooled(a, b) - pooled(a) - pooled(b) + pooled() for a, b in pairs]
        largest = torch.stack(differences).abs().max() / pooled().abs().max()
    module.float()
    return largest.item()


def count_flops(module: nn.Module, features: dict[str, Features]) -> int:
    """FLOPs of a forward pass as ``torch.utils.flop_counter`` counts them.

    Attention is written out for it: on a CPU the counter overlooks the fused kernel.
    """
    from torch.utils.flop_counter import FlopCounterMode  # 0.2 s to import

    with recording(module), FlopCounterMode(display=False) as counter:
        module(features)  # with gradients: without, the counter stumbles over a view of a parameter
    return counter.get_total_flops()


def count_kept(module: nn.Module, features: dict[str, Features]) -> int:
    """Bytes that a forward pass keeps for the backward pass, without parameters and input.

    Each piece of memory counts once.
    """
    inputs = _learning(features)
    known = {
        x.untyped_storage().data_ptr()
        for x in [*module.parameters(), *(x for part in inputs.values() for x in part)]
    }
    kept = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        out = module(inputs)  # held, so that nothing is freed and its address given away again
    del out
    return sum(size for address, size in kept.items() if address not in known)


def _learning(features: dict[str, Features]) -> dict[str, Features]:
    """The same Features as they are under encoders that learn: they take gradients."""
    return {
        name: Features(
            part.tokens.detach().requires_grad_(), part.mask, part.pooled.detach().requires_grad_()
        )
        for name, part in features.items()
    }


def _times(
    modules: dict[str, nn.Module], features: dict[str, Features], repeats: int
) -> dict[str, tuple[float, float]]:
    """Median microseconds of a forward pass, and of forward and backward, per fusion."""
    inputs = _learning(features)

    def forward(module: nn.Module) -> None:
        with torch.no_grad():
            module(features)

    def both(module: nn.Module) -> None:
        out = module(inputs)
        (out.tokens.sum() + out.pooled.sum()).backward()

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in modules}
    draw = random.Random(0)
    for _ in range(WARM_UP + repeats):
        for name in draw.sample(list(modules), len(modules)):
            module = modules[name]
            found[name].append((_microseconds(forward, module), _microseconds(both, module)))
    return {
        name: (
            statistics.median(first for first, _ in times[WARM_UP:]),
            statistics.median(second for _, second in times[WARM_UP:]),
        )
        for name, times in found.items()
    }


def _microseconds(act: Callable[[nn.Module], None], module: nn.Module) -> float:
    start = time.perf_counter()
    act(module)
    return 1e6 * (time.perf_counter() - start)


@contextmanager
def _own_seed_and_one_thread() -> Iterator[None]:
    """Inside this block torch computes in one thread, from seed 0; after it as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)


def to_markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table that is aligned as text, too.

    Times are multiples of the first row's, because microseconds vary tenfold between machines.
    """
    first = rows[0]
    header = ["fusion", "tokens out", "modalities interact", "parameters", "MFLOPs", "kept, KB"]
    cells = [[*header, "forward time", "with backward"]]
    for row in rows:
        cells.append(
            [
                row.name,
                str(row.tokens),
                "yes" if row.interact else "no",
                f"{row.parameters:,}",
                f"{row.flops / 1e6:,.1f}",
                f"{row.kept / 1e3:,.0f}",
                f"{row.forward / first.forward:.1f}",
                f"{row.both / first.both:.1f}",
            ]
        )
    head, *body = aligned(cells, left=1)
    rule = ["-" * len(head[0]), *("-" * (len(cell) - 1) + ":" for cell in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body])


def main_table() -> str:
    """What ``python -m mmlib fusions`` prints: the table, and on what it was measured."""
    lengths = ", ".join(f"{name} {length}" for name, length in TOKENS.items())
    return (
        f"{to_markdown(table())}\n\n"
        f"Measured on a batch of 32 samples of three modalities ({lengths} tokens at most), width "
        "64,\nfloat32, one CPU thread; times are multiples of the first row's. Where modalities "
        "do not interact,\nand behind GatedFusion and AttentionFusion, which only weigh them, no "
        "linear head can learn an\nexclusive-or of two."
    )
