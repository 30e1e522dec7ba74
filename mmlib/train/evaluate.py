"""A model over a whole loader: its scores, or its logits."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib.core import Batch, Output, check_batch
from mmlib.machine import explaining_out_of_memory
from mmlib.train import distributed
from mmlib.train.windows import first_windows, one_per_row

Metric = Callable[[Tensor, Tensor], float]
Part = tuple[
    Tensor, Tensor, Tensor | None, Tensor | None
]  # places in the whole set, logits, target, rows
Whole = tuple[Tensor, Tensor | None, Tensor | None]  # logits, target, rows
LEFT_OUT = ("classes", "ordinal", "contrast")  # kinds in which a target of -100 is left out
CHUNK = 2048  # queries that are compared with all keys at a time


def evaluate(
    model: nn.Module,
    loader: Iterable[Batch],
    metrics: Mapping[str, Metric] | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, float]:
    """{"loss": mean over all targets, and each metric's name: metric(logits, target) over the whole
    set, see ``collect``}.

    The loss is the head's, over all windows of a row; that of a ``TwoTower`` compares the whole
    set, not batch by batch. Rows with the target -100 are left out of loss and metrics. Device
    "auto" is where the model is; another one moves the model there. Its parts end in the mode
    (train or eval) they were in, also after an error. Under torchrun a loader with ``shard`` is
    shared out, and every process gets the same numbers; anything else is read whole by each. Raises
    ValueError when the loader is empty or has no target.
    """
    loss, whole = _pass_over(model, loader, device, precision, keep=bool(metrics))
    if loss is None:
        raise ValueError(
            "the model gave no loss: the batches have no 'target'; to predict, use collect(model, "
            "loader)"
        )
    if not metrics:
        return {"loss": loss}
    logits, target, _ = whole
    if target is None:
        raise ValueError(f"the metrics {sorted(metrics)} need batch['target']")
    if _kind(model) in LEFT_OUT:
        logits, target = logits[target != -100], target[target != -100]
    return {"loss": loss} | {
        name: float(metric(logits, target)) for name, metric in metrics.items()
    }


def collect(
    model: nn.Module, loader: Iterable[Batch], device: str = "auto", precision: str = "auto"
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Logits, target and rows of the whole set, on the CPU in float32: (N, K) or (N,), (N,), (N,).

    What is not there is None.
    With ``row`` in the batches there is one line per row, by row number: the windows of a row are
    averaged, as the model's ``kind`` says (see ``mmlib.core``). Sequences (B, S, K) come as one
    line per real target position, in order. A ``TwoTower`` gives all queries by all keys, (N, N),
    and as target the place of each query's own key (-100 where one of the two is absent). For
    device and mode see ``evaluate``.
    """
    return _pass_over(model, loader, device, precision, keep=True)[1]


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """The batch on ``device``; images (B, C, H, W) stored pixel by pixel, as convolutions read
    them, when asked.

    Where the loader pins memory (``DataLoader(pin_memory=True)``) a GPU goes on computing while the
    batch is copied.
    """
    moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    if channels_last:
        moved = {
            key: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for key, value in moved.items()
        }
    return moved


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 where asked, or with "auto" on GPUs whose hardware has it; may be entered again and
    again. Weights stay float32.
    """
    auto = (
        precision == "auto"
        and device.type == "cuda"
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return (
        torch.autocast(device.type, torch.bfloat16)
        if precision == "bf16" or auto
        else nullcontext()
    )


def _kind(model: nn.Module) -> str | None:
    return getattr(model, "kind", None)


def _device(model: nn.Module, device: str) -> torch.device:
    """Joins the other processes, too."""
    chosen, first = distributed.join(device), next(model.parameters(), None)
    return first.device if device == "auto" and first is not None else chosen


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@torch.no_grad()
def _pass_over(
    model: nn.Module, loader: Iterable[Batch], device: str, precision: str, keep: bool
) -> tuple[float | None, Whole | None]:
    """Mean loss, and with ``keep`` the whole answer."""
    kind, chosen, sums, parts, seen = _kind(model), _device(model, device), [], [], False
    shared = distributed.world() > 1 and hasattr(loader, "shard")
    with _in_eval_mode(model.to(chosen)):
        for number, batch, output in _answers(model, loader, chosen, precision, shared):
            seen, place = True, _places(batch, number, shared)
            if kind == "contrast":
                columns = (*output, batch.get("row"))
                parts.append((place, *(None if x is None else x.cpu() for x in columns)))
                continue
            if output.loss is not None:
                sums.append(torch.stack([output.loss.float() * output.count, output.count]))
            if keep:
                parts.append(_part(kind, output, batch, place))
    sums = torch.stack(sums).tolist() if sums else []
    if shared:
        sums, parts = (sum(distributed.gather(mine), []) for mine in (sums, parts))
    if not seen and not sums and not parts:
        raise ValueError("the loader is empty: no batch to evaluate")
    if kind == "contrast":
        return _compared(model, _joined(parts), keep, chosen)
    total = sum(count for _, count in sums)
    if sums and not total:
        raise ValueError(
            "every target is left out (-100, or a target_mask of False): there is nothing to "
            "evaluate"
        )
    loss = sum(loss for loss, _ in sums) / total if sums else None
    return loss, _whole(parts, kind) if keep else None


def _answers(
    model: nn.Module, loader: Iterable[Batch], device: torch.device, precision: str, shared: bool
) -> Iterator[tuple[int, Batch, Any]]:
    """Number, batch and the model's Output, or its ``Pairs`` where it compares samples."""
    ask, last = model.embed if _kind(model) == "contrast" else model, None
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(0)
    casting = autocast(device, precision)
    batches = loader.shard(distributed.rank(), distributed.world()) if shared else loader
    for number, batch in enumerate(batches):
        if batch is not None:
            if last is None:
                check_batch(batch, ())
            with explaining_out_of_memory(batch), casting:
                last = to_device(batch, device)
                output = ask(last)
            yield number, batch, output
        elif distributed.is_sharded(model):  # no share of a short batch; the others still need it
            if last is None:
                raise ValueError(
                    "fewer samples than processes: evaluate on more rows, or use fewer processes"
                )
            ask(last)


def _places(batch: Batch, number: int, shared: bool) -> Tensor:
    """(B,) the place of each sample in the whole set: batch number, then place in the batch."""
    step, first = (distributed.world(), distributed.rank()) if shared else (1, 0)
    return torch.arange(len(next(iter(batch.values())))) * step + first + (number << 32)


def _part(kind: str | None, output: Output, batch: Batch, place: Tensor) -> Part:
    """One batch's share of the answer."""
    logits, target, row = output.logits.float().cpu(), batch.get("target"), batch.get("row")
    target, row = (None if x is None else x.cpu() for x in (target, row))
    if kind != "sequence" and (kind is not None or "target_mask" not in batch):
        return place, logits, target, row
    if target is None:
        raise ValueError(
            f"logits are {tuple(logits.shape)}, a sequence: to tell its real positions, "
            "batch['target'] is needed"
        )
    mask = batch["target_mask"].cpu()
    if logits.shape[1] == target.shape[1] - 1:  # each position predicts the next one
        target, mask = target[:, 1:], mask[:, 1:]
    if logits.shape[1] != target.shape[1]:
        raise ValueError(
            f"logits {tuple(logits.shape)} do not stand beside target {tuple(target.shape)} "
            "position by position; "
            "decode them first, metrics of such a model need their own loop"
        )
    place = place[:, None].expand(mask.shape)[mask]
    return place, logits[mask], target[mask], None


def _whole(parts: list[Part], kind: str | None) -> Whole:
    shapes = sorted({tuple(logits.shape[1:]) for _, logits, _, _ in parts})
    if len(shapes) > 1:
        raise ValueError(
            f"the logits of a sample are {shapes[0]} in one batch and {shapes[1]} in another, so "
            "they "
            "cannot be put together; score such a model in a loop of your own"
        )
    logits, target, row = _joined(parts)
    return (logits, target, None) if row is None else one_per_row(logits, target, row, kind)


def _joined(parts: list[tuple]) -> list[Tensor | None]:
    """The parts' columns, put together, in the order of the first one (the places), which is left
    out."""
    place, *columns = (None if column[0] is None else torch.cat(column) for column in zip(*parts))
    order = place.argsort(stable=True)
    return [None if x is None else x[order] for x in columns]


def _compared(
    model: nn.Module, columns: list[Tensor | None], keep: bool, device: torch.device
) -> tuple[float, Whole | None]:
    """All queries by all keys, in chunks. A row's vector is the mean of its windows', of length 1
    again."""
    *pairs, row = columns
    if row is not None:
        row, place = row.unique(return_inverse=True)
        query, key, present, item = pairs
        query, key = (
            F.normalize(x.new_zeros(len(row), x.shape[1]).index_add(0, place, x), dim=-1)
            for x in (query, key)
        )
        present = torch.zeros_like(row).index_add(0, place, present.long()) > 0
        pairs = query, key, present, None if item is None else item[first_windows(place, row)]
    present = pairs[2]
    if not present.any():
        raise ValueError("no row has both query and key: there is nothing to evaluate")
    pairs, loss, logits = tuple(None if x is None else x.to(device) for x in pairs), 0.0, []
    for start in range(0, len(present), CHUNK):
        output = model.compare(pairs, slice(start, start + CHUNK))
        loss += float(output.loss * output.count)
        logits += [output.logits.cpu()] if keep else []
    target = torch.arange(len(present)).masked_fill(~present, -100)
    return loss / int(present.sum()), (torch.cat(logits), target, row) if keep else None
