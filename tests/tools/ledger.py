"""The equality ledger: every hand-written operation beside its reference, with the largest error,
forward and gradient.

    python tests/tools/ledger.py          # writes the table into README.md

The operations of the package are measured here; those of the notebooks are read from the lines
"equal: ..." in their committed outputs, which mmlib.parity printed.
"""

import re
import sys
from pathlib import Path

import nbformat
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import layers
from mmlib.core import Features, from_pooled, masked_mean
from mmlib.course.parity import Parity, parity
from mmlib.encoders.audio import LogMel, mel_filters
from mmlib.fusion.products import LowRankFusion, TensorFusion
from mmlib.fusion.vectors import AttentionFusion, SumFusion
from mmlib.heads.classify import ClassifyHead
from mmlib.heads.ctc import CTCHead
from mmlib.heads.regress import RegressHead
from mmlib.train.config import TrainConfig
from mmlib.train.optimizer import adamw, divide_and_clip, lr_at

ROOT = Path(__file__).parents[2]
MARK = "<!-- table: ledger -->"
LINE = re.compile(r"^equal: (.+?) = (.+), forward (\S+), (?:gradient (\S+)|no gradient)$", re.M)
B, T, D = 4, 7, 8


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def ragged() -> Tensor:
    """(B, T) bool: rows of 7, 4, 2 and 1 real tokens."""
    return torch.arange(T) < torch.tensor([7, 4, 2, 1])[:, None]


def operations() -> list[Parity]:
    """Every hand-written operation of the package."""
    torch.manual_seed(0)
    return [*attention(), *recurrence(), *sound(), *losses(), *fusions(), *steps()]


def attention() -> list[Parity]:
    q, k, v, mask = (
        random(B, 2, 3, D),
        random(B, 2, T, D, seed=1),
        random(B, 2, T, D, seed=2),
        ragged()[:, None, None],
    )
    ours, theirs = layers.Attention(D, 2), nn.MultiheadAttention(D, 2, batch_first=True)
    names = ("q.weight", "kv.weight", "out.weight", "q.bias", "kv.bias", "out.bias")
    weights = [ours.get_parameter(name) for name in names]

    def multihead(x: Tensor, *weights: Tensor) -> Tensor:
        q, kv, out, q_bias, kv_bias, out_bias = weights
        state = {
            "in_proj_weight": torch.cat([q, kv]),
            "in_proj_bias": torch.cat([q_bias, kv_bias]),
            "out_proj.weight": out,
            "out_proj.bias": out_bias,
        }
        return torch.func.functional_call(
            theirs, state, (x, x, x), {"key_padding_mask": ~ragged()}
        )[0]

    def mine(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(ours, dict(zip(names, weights)), (x, mask))

    return [
        parity(
            "attention written out",
            "torch scaled_dot_product_attention",
            lambda q, k, v: layers.attend(q, k, v, mask)[0],
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask),
            q,
            k,
            v,
        ),
        parity(
            "multi-head attention",
            "torch.nn.MultiheadAttention",
            mine,
            multihead,
            random(B, T, D, seed=3),
            *weights,
        ),
        parity(
            "mean over what is real",
            "torch.Tensor.mean, row by row",
            lambda x: masked_mean(x, ragged()),
            lambda x: torch.stack([row[real].mean(dim=0) for row, real in zip(x, ragged())]),
            random(B, T, D),
        ),
    ]


def recurrence() -> list[Parity]:
    found = []
    for cell, kind in layers.Recurrent.CELLS.items():
        ours = layers.Recurrent(D, cell)
        theirs = kind(D, D // 2, batch_first=True, bidirectional=True)
        names = [name for name, _ in ours.ahead[0].named_parameters()]
        weights = [
            stack[0].get_parameter(name) for stack in (ours.ahead, ours.back) for name in names
        ]

        def mine(x: Tensor, *weights: Tensor) -> Tensor:
            places = [f"{side}.0.{name}" for side in ("ahead", "back") for name in names]
            return torch.func.functional_call(ours, dict(zip(places, weights)), (x, ragged()))

        def packed(x: Tensor, *weights: Tensor) -> Tensor:
            state = dict(zip([name + end for end in ("", "_reverse") for name in names], weights))
            pack = nn.utils.rnn.pack_padded_sequence(x, ragged().sum(dim=1), batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(
                torch.func.functional_call(theirs, state, (pack,))[0], batch_first=True
            )[0]

        found.append(
            parity(
                f"bidirectional {cell.upper()} without packing",
                f"torch.nn.{kind.__name__}, packed",
                mine,
                packed,
                random(B, T, D),
                *weights,
            )
        )
    return found


def sound() -> list[Parity]:
    import torchaudio

    theirs = torchaudio.transforms.MelSpectrogram(
        16_000, 512, 400, 160, n_mels=64, center=True, pad_mode="constant"
    )
    return [
        parity(
            "mel filters",
            "torchaudio melscale_fbanks",
            lambda: mel_filters(16_000, 257, 64),
            lambda: torchaudio.functional.melscale_fbanks(257, 0, 8_000, 64, 16_000),
        ),
        parity(
            "mel spectrogram",
            "torchaudio MelSpectrogram",
            LogMel().spectrogram,
            theirs,
            random(2, 4_000),
            tolerance=1e-4,
        ),
    ]


def losses() -> list[Parity]:
    weight, target = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0, 2, 1, 1])
    classify, regress, ctc = (
        ClassifyHead(D, 3, weight=weight),
        RegressHead(D, 5.0, 2.0),
        CTCHead(D, 6),
    )
    numbers, line, mask = (
        torch.tensor([1.0, 4.0, 9.0, 5.5]),
        torch.tensor([[1, 2], [3, 3], [4, 5], [5, 1]]),
        torch.ones(B, 2, dtype=bool),
    )
    everyone = torch.ones(B, dtype=torch.bool)

    def whole(x: Tensor) -> Features:
        return Features(x, torch.ones(B, T, dtype=torch.bool), x.mean(dim=1))

    def torch_ctc(x: Tensor) -> Tensor:
        logits = ctc(whole(x), {}).logits.log_softmax(dim=-1).transpose(0, 1)  # (T, B, K)
        return F.ctc_loss(logits, line, torch.full((B,), T), torch.full((B,), 2))

    return [
        parity(
            "classification loss",
            "torch.nn.functional.cross_entropy",
            lambda x: classify(from_pooled(x, everyone), {"target": target}).loss,
            lambda x: F.cross_entropy(classify.linear(x), target, weight),
            random(B, D),
        ),
        parity(
            "regression loss",
            "torch.nn.functional.mse_loss",
            lambda x: regress(from_pooled(x, everyone), {"target": numbers}).loss,
            lambda x: F.mse_loss(regress(from_pooled(x, everyone), {}).logits / 2, numbers / 2),
            random(B, D),
        ),
        parity(
            "CTC loss",
            "torch.nn.functional.ctc_loss",
            lambda x: ctc(whole(x), {"target": line, "target_mask": mask}).loss,
            torch_ctc,
            random(B, T, D),
        ),
    ]


def fusions() -> list[Parity]:
    names, x, y = ["a", "b"], random(B, D), random(B, D, seed=1)

    def fused(fusion: nn.Module):
        return lambda x, y: (
            fusion(
                {
                    "a": from_pooled(x, torch.ones(B, dtype=bool)),
                    "b": from_pooled(y, torch.ones(B, dtype=bool)),
                }
            ).pooled
        )

    def projected(fusion: nn.Module, *modalities: Tensor) -> list[Tensor]:
        return [
            F.pad(fusion.project[name](modality), (0, 1), value=1.0)
            for name, modality in zip(names, modalities)
        ]

    total, tensor, low, asked = (
        SumFusion(D, names),
        TensorFusion(D, names, 3),
        LowRankFusion(D, names, 3, 2),
        AttentionFusion(D, names),
    )

    def side_by_side(x: Tensor, y: Tensor) -> Tensor:
        weight = torch.cat([total.project[name].weight for name in names], dim=1)
        return F.linear(
            torch.cat([x, y], dim=1), weight, sum(total.project[name].bias for name in names)
        )

    def full_tensor(x: Tensor, y: Tensor) -> Tensor:
        cube = torch.einsum("rad,rbd->abd", low.factors["a"], low.factors["b"])
        return torch.einsum("na,nb,abd->nd", *projected(low, x, y), cube) + low.bias

    def one_query(x: Tensor, y: Tensor) -> Tensor:
        modalities = torch.stack([x, y], dim=1)  # (B, 2, D)
        return F.scaled_dot_product_attention(
            asked.bilinear(asked.learned).expand(B, 1, D), modalities, modalities
        )[:, 0]

    return [
        parity(
            "sum fusion",
            "torch linear, the modalities side by side",
            fused(total),
            side_by_side,
            x,
            y,
        ),
        parity(
            "tensor fusion",
            "torch.einsum, outer product",
            fused(tensor),
            lambda x, y: tensor.out(
                torch.einsum("na,nb->nab", *projected(tensor, x, y)).flatten(1)
            ),
            x,
            y,
        ),
        parity("low-rank fusion", "torch.einsum, its full tensor", fused(low), full_tensor, x, y),
        parity(
            "attention fusion", "torch scaled_dot_product_attention", fused(asked), one_query, x, y
        ),
    ]


def steps() -> list[Parity]:
    start, pull, config = (
        torch.randn(3, D),
        torch.randn(3, D),
        TrainConfig(lr=0.01, weight_decay=0.1),
    )

    def walk(make) -> Tensor:
        layer = nn.Linear(D, 3, bias=False)
        layer.weight = nn.Parameter(start.clone())
        optimizer = make(layer)
        for _ in range(20):
            optimizer.zero_grad()
            (layer.weight * pull).square().sum().backward()
            optimizer.step()
        return layer.weight.detach()

    def clipped(cut) -> Tensor:
        layer = nn.Linear(D, 3)
        layer.weight.grad, layer.bias.grad = start.clone(), pull[:, 0].clone()
        cut(layer)
        return layer.weight.grad

    def ours(layer: nn.Module) -> None:
        divide_and_clip(list(layer.parameters()), torch.tensor(1.0), 0.5)

    schedule = TrainConfig(lr=0.1, warmup=0.0)

    def torch_schedule() -> Tensor:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        falling, rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30), []
        for _ in range(30):
            rates.append(falling.get_last_lr()[0])
            optimizer.step()
            falling.step()
        return torch.tensor(rates)

    return [
        parity(
            "AdamW, 20 steps",
            "torch.optim.AdamW, not fused",
            lambda: walk(lambda layer: adamw(layer, config)),
            lambda: walk(
                lambda layer: torch.optim.AdamW(
                    layer.parameters(), 0.01, weight_decay=0.1, foreach=False
                )
            ),
        ),
        parity(
            "clipping",
            "torch clip_grad_norm_",
            lambda: clipped(ours),
            lambda: clipped(lambda layer: nn.utils.clip_grad_norm_(layer.parameters(), 0.5)),
        ),
        parity(
            "cosine schedule",
            "torch CosineAnnealingLR",
            lambda: torch.tensor([lr_at(step, 30, schedule) for step in range(30)]),
            torch_schedule,
        ),
    ]


def of_notebooks() -> list[tuple[str, str, str, str, str]]:
    """(where, operation, reference, forward, gradient) from the committed outputs."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            text = "\n".join(output.get("text", "") for output in cell.get("outputs", []))
            found += [
                (path.stem[:2], name, reference, forward, gradient or "")
                for name, reference, forward, gradient in LINE.findall(text)
            ]
    return found


def table() -> str:
    """The whole ledger as Markdown."""
    rows = [
        (
            "mmlib",
            p.name,
            p.reference,
            f"{p.forward:.0e}",
            "" if p.gradient is None else f"{p.gradient:.0e}",
        )
        for p in operations()
    ]
    lines = [f"| {' | '.join(row)} |" for row in [*rows, *of_notebooks()]]
    return "\n".join(
        ["| where | by hand | reference | forward | gradient |", "|---|---|---|---:|---:|", *lines]
    )


def main() -> None:
    path = ROOT / "README.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(MARK)
    if not rest:
        sys.exit(f"README.md has no line {MARK}")
    after = rest.lstrip("\n").split("\n\n", 1)[1]
    path.write_text(f"{before}{MARK}\n{table()}\n\n{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
