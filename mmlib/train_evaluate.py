"""A model over a whole loader: its scores, or its logits."""
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import distributed
from mmlib.core import Batch, Output, check_batch
from mmlib.memory import enough_for

Metric = Callable[[Tensor, Tensor], float]
Part = tuple[Tensor, Tensor, Tensor | None, Tensor | None]   # places in the whole set, logits, target, rows


def evaluate(model: nn.Module, loader: Iterable[Batch], metrics: Mapping[str, Metric] | None = None,
             device: str = "auto", precision: str = "auto") -> dict[str, float]:
    """{"loss": mean over all targets, and each metric's name: metric(logits, target) over the whole set, see ``collect``}.

    The loss is the head's, over all windows of a row. Under torchrun a loader with ``shard`` is shared out, and every process
    gets the same numbers; anything else is read whole by each. Raises ValueError when the loader is empty or has no target.
    """
    loss, parts = _pass_over(model, loader, device, precision, keep=bool(metrics))
    if loss is None:
        raise ValueError("the model gave no loss: the batches have no 'target'; to predict, use collect(model, loader)")
    if not metrics:
        return {"loss": loss}
    logits, target, _ = _whole(parts)
    if target is None:
        raise ValueError(f"the metrics {sorted(metrics)} need batch['target']")
    return {"loss": loss} | {name: float(metric(logits, target)) for name, metric in metrics.items()}


def collect(model: nn.Module, loader: Iterable[Batch], device: str = "auto",
            precision: str = "auto") -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Logits, target and rows of the whole set, on the CPU in float32: (N, K) or (N,), (N,), (N,). What is not there is None.

    With ``row`` in the batches there is one line per row, by row number: the windows of a row are averaged, class logits as the log
    of the mean probability, numbers as their mean. Sequences (B, S, K) come as one line per real target position, in order.
    """
    return _whole(_pass_over(model, loader, device, precision, keep=True)[1])


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """The batch on ``device``; pictures (B, C, H, W) stored pixel by pixel, as convolutions read them, when asked.

    Where the loader pins memory (``DataLoader(pin_memory=True)``) a GPU goes on computing while the batch is copied.
    """
    moved = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
    if channels_last:
        moved = {key: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value for key, value in moved.items()}
    return moved


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 where asked, or with "auto" on GPUs whose hardware has it; may be entered again and again. Weights stay float32."""
    auto = precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" or auto else nullcontext()


@torch.no_grad()
def _pass_over(model: nn.Module, loader: Iterable[Batch], device: str, precision: str, keep: bool) -> tuple[float | None, list[Part]]:
    """Mean loss, and with ``keep`` the parts of the answer. Leaves the model in the mode it was in."""
    chosen, training, sums, parts, last = distributed.join(device), model.training, [], [], None
    shared = distributed.world() > 1 and hasattr(loader, "shard")
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(0)
    casting = autocast(chosen, precision)
    model.to(chosen).eval()
    for number, batch in enumerate(loader.shard(distributed.rank(), distributed.world()) if shared else loader):
        if batch is None:          # no share of a short batch; fully_shard still needs this process in step
            if last is None and distributed.is_sharded(model):
                raise ValueError("fewer samples than processes: evaluate on more rows, or with fewer processes")
            if last is not None:
                model(last)
            continue
        if last is None:
            check_batch(batch, ())
        with enough_for(batch), casting:
            last = to_device(batch, chosen)
            output = model(last)
        if output.loss is not None:
            sums.append(torch.stack([output.loss.float() * output.count, output.count]))
        if keep:
            parts.append(_part(output, batch, number, shared))
    model.train(training)
    sums = torch.stack(sums).tolist() if sums else []
    if shared:
        sums, parts = (sum(distributed.gather(mine), []) for mine in (sums, parts))
    if last is None and not sums and not parts:
        raise ValueError("the loader is empty: no batch to evaluate")
    total = sum(count for _, count in sums)
    return (sum(loss for loss, _ in sums) / total if total else None), parts


def _part(output: Output, batch: Batch, number: int, shared: bool) -> Part:
    """One batch's share of the answer, with the place of each line in the whole set: batch number, then place in the batch."""
    logits, target, row = output.logits.float().cpu(), batch.get("target"), batch.get("row")
    step, first = (distributed.world(), distributed.rank()) if shared else (1, 0)
    place = torch.arange(len(logits)) * step + first + (number << 32)                                    # (B,)
    target, row = (None if x is None else x.cpu() for x in (target, row))
    if logits.ndim < 3:
        return place, logits, target, row
    if target is None:
        raise ValueError(f"logits are {tuple(logits.shape)}, a sequence: to tell its real positions, batch['target'] is needed")
    mask = batch["target_mask"].cpu()
    if logits.shape[1] == target.shape[1] - 1:      # each position predicts the next one
        target, mask = target[:, 1:], mask[:, 1:]
    if logits.shape[1] != target.shape[1]:
        raise ValueError(f"logits {tuple(logits.shape)} do not stand beside target {tuple(target.shape)} position by position; "
                         "decode them first, metrics of such a model need their own loop")
    place = place[:, None].expand(mask.shape)[mask]
    return place, logits[mask], target[mask], None


def _whole(parts: list[Part]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    place, logits, target, row = (None if column[0] is None else torch.cat(column) for column in zip(*parts))
    order = place.argsort(stable=True)
    logits, target, row = (None if x is None else x[order] for x in (logits, target, row))
    return (logits, target, None) if row is None else one_per_row(logits, target, row)


def one_per_row(logits: Tensor, target: Tensor | None, row: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """The windows (N, ...) of each row averaged -> one line per row, in the order of row numbers; see ``collect``.

    Raises ValueError where windows of one row have different targets: then they are not of one row.
    """
    rows, place, windows = row.unique(return_inverse=True, return_counts=True)
    classes = logits.ndim == 2 and not (target is not None and target.is_floating_point())
    values = F.softmax(logits.double(), dim=-1) if classes else logits.double()
    sums = values.new_zeros(len(rows), *values.shape[1:]).index_add(0, place, values)
    mean = sums / windows.reshape(-1, *[1] * (values.ndim - 1))
    mean = mean.clamp(min=1e-300).log() if classes else mean
    first = torch.empty_like(rows).index_copy(0, place.flip(0), torch.arange(len(row)).flip(0))   # the first window of each row
    if target is not None and not torch.equal(target, target[first[place]]):
        bad = int(row[target != target[first[place]]][0])
        raise ValueError(f"row {bad} has different targets, so it is not one row: number batch['row'] on from batch to batch, "
                         "or leave it out")
    alone = windows[place[first]] == 1                                                            # keep those as they are, to the bit
    mean = torch.where(alone.reshape(-1, *[1] * (values.ndim - 1)), logits[first], mean.float())
    return mean, None if target is None else target[first], rows
