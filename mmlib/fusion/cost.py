"""Every fusion on one and the same input: what it costs in parameters, FLOPs, memory and time,
and whether modalities can interact in it.
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

TOKENS = {
    "audio": 25,
    "image": 16,
    "text": 12,
}  # of the longest sample: 2 s of sound, an image of 64 x 64 pixels, a caption


class Row(NamedTuple):
    """What one fusion costs; ``flops``, ``kept`` and the times are those of a whole batch."""

    name: str
    tokens: int  # that come out per sample
    interact: (
        bool  # does the effect of one modality on the output depend on what another one holds?
    )
    parameters: int
    # of a forward pass: matrix products and attention, two per multiply-add, padding included
    flops: int
    kept: int  # bytes that a forward pass keeps for the backward pass, besides parameters and input
    forward: float  # median, in microseconds, without gradients
    both: float  # median, in microseconds, of forward and backward pass together


def table(dim: int = 64, batch: int = 32, repeats: int = 30) -> list[Row]:
    """A row per fusion of ``mmlib.fusion.vectors.__all__``, with its default options, for three
    modalities; in one thread, on the CPU.

    The times are medians over ``repeats`` rounds. In each round every fusion has its turn, in an
    order drawn anew: what else the machine does, and what the one before left in its caches,
    disturbs all alike.
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
    """Random Features of three modalities as encoders give them: ragged, but for images; every
    modality present.
    """
    g, made = torch.Generator().manual_seed(seed), {}
    for name, length in TOKENS.items():
        lengths = (
            torch.full((batch,), length)
            if name == "image"
            else torch.linspace(length // 3, length, batch).long()
        )
        mask = torch.arange(length) < lengths[:, None]  # (B, T)
        made[name] = from_tokens(torch.randn(batch, length, dim, generator=g, dtype=dtype), mask)
    return made


def interaction(module: nn.Module, dim: int, batch: int) -> float:
    """The largest second mixed difference of ``pooled`` in two modalities, as a share of the
    largest number in it.

    Change one modality, the other, both: f(both) - f(one) - f(other) + f(none). It is zero for all
    inputs where the output is a sum of one function per modality; then no linear head can see what
    lies only in the combination (an exclusive-or). In double precision.
    """
    module, old, new = (
        module.double(),
        make_features(dim, batch, 0, torch.float64),
        make_features(dim, batch, 1, torch.float64),
    )
    pooled = lambda *changed: module(old | {name: new[name] for name in changed}).pooled
    pairs = [(a, b) for a in old for b in old if a < b]
    with torch.no_grad():
        largest = (
            max((pooled(a, b) - pooled(a) - pooled(b) + pooled()).abs().max() for a, b in pairs)
            / pooled().abs().max()
        )
    module.float()
    return largest.item()


def count_flops(module: nn.Module, features: dict[str, Features]) -> int:
    """FLOPs of a forward pass as ``torch.utils.flop_counter`` counts them; attention is written
    out, fused it is overlooked on a CPU.
    """
    from torch.utils.flop_counter import FlopCounterMode  # 0.2 s to import

    with recording(module), FlopCounterMode(display=False) as counter:
        module(features)  # with gradients: without, the counter stumbles over a view of a parameter
    return counter.get_total_flops()


def count_kept(module: nn.Module, features: dict[str, Features]) -> int:
    """Bytes that a forward pass keeps for the backward pass: each piece of memory once,
    parameters and the input not at all.
    """
    inputs = {
        name: Features(
            part.tokens.detach().requires_grad_(), part.mask, part.pooled.detach().requires_grad_()
        )
        for name, part in features.items()
    }  # as under encoders that learn
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


def _times(
    modules: dict[str, nn.Module], features: dict[str, Features], repeats: int
) -> dict[str, tuple[float, float]]:
    """Median microseconds of a forward pass, and of forward and backward, per fusion."""
    inputs = {
        name: part._replace(
            tokens=part.tokens.clone().requires_grad_(), pooled=part.pooled.clone().requires_grad_()
        )
        for name, part in features.items()
    }

    def forward(module: nn.Module) -> None:
        with torch.no_grad():
            module(features)

    def both(module: nn.Module) -> None:
        out = module(inputs)
        (out.tokens.sum() + out.pooled.sum()).backward()

    found, draw = {name: ([], []) for name in modules}, random.Random(0)
    for _ in range(3 + repeats):  # three rounds warm up
        for name in draw.sample(list(modules), len(modules)):
            for times, act in zip(found[name], (forward, both)):
                times.append(_microseconds(act, modules[name]))
    return {
        name: (statistics.median(first[3:]), statistics.median(second[3:]))
        for name, (first, second) in found.items()
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
    """The rows as a Markdown table that is aligned as text, too."""
    cells = [
        [
            "fusion",
            "tokens out",
            "modalities interact",
            "parameters",
            "MFLOPs",
            "kept, KB",
            "forward, µs",
            "with backward, µs",
        ]
    ]
    for row in rows:
        cells.append(
            [
                row.name,
                str(row.tokens),
                "yes" if row.interact else "no",
                f"{row.parameters:,}",
                f"{row.flops / 1e6:,.1f}",
                f"{row.kept / 1e3:,.0f}",
                f"{row.forward:,.0f}",
                f"{row.both:,.0f}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells)]
    cells.insert(1, ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]])
    return "\n".join(
        "| " + " | ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) + " |"
        for line in cells
    )


def main_table() -> str:
    """What ``python -m mmlib fusions`` prints: the table, and under it on what it was measured."""
    lengths = ", ".join(f"{name} {length}" for name, length in TOKENS.items())
    return (
        f"{to_markdown(table())}\n\n"
        f"Of a whole batch: 32 samples, three modalities ({lengths} tokens at most), width 64, "
        "float32, one CPU thread.\n"
        "MFLOPs: matrix products and attention of a forward pass. Kept: for the backward pass, "
        "besides parameters and input.\n"
        "Modalities interact: whether the effect of one modality depends on another; where not, "
        "no linear head can learn an exclusive-or.\n"
        "Nor can one behind GatedFusion or AttentionFusion, which only weigh the modalities "
        "(notebook 07)."
    )
